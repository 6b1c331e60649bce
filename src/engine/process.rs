//! One life of the engine: a child process from its start to its end.
//!
//! Invariants:
//! - The child is killed when its [`Process`] is dropped.
//! - [`Process::ready`] never reports a port that another process owns.
//!
//! Must be driven from one thread that outlives the child: the kernel ends the child when the
//! *thread* that created it ends.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::error::{Error, excerpt};
use super::{CHILD_SUBCOMMAND, Endpoint, Settings, config, socket};

/// Loading a large data directory takes a while; nothing sane takes this long.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// How often a starting child is looked at.
const READY_POLL: Duration = Duration::from_millis(5);

/// A clean stop takes some 30 ms plus what is being merged; after this, force.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// How much of the end of the child's output is kept.
const TAIL_BYTES: usize = 16 * 1024;

/// How long the rest of the output of a dead child is waited for.
const TAIL_DEADLINE: Duration = Duration::from_secs(1);

pub(super) struct Process {
    child: Child,
    /// The engine runs for as long as this is open.
    lifeline: Option<ChildStdin>,
    stderr: JoinHandle<Vec<u8>>,
    pid: u32,
    /// Once it is ready.
    port: Option<u16>,
    password: String,
    data_path: PathBuf,
}

impl Process {
    pub(super) fn spawn(settings: &Settings, library: &Path) -> Result<Self, Error> {
        let data_path = settings.data_path.clone();
        let password = config::random_password();
        config::write(&data_path, &password).map_err(|error| Error::data(&data_path, error))?;
        let spawn_error = |source| Error::Spawn {
            program: settings.program.clone(),
            source,
        };

        let mut command = Command::new(&settings.program);
        command
            .arg(CHILD_SUBCOMMAND)
            .arg(library)
            .arg(std::process::id().to_string())
            .args(config::arguments(&data_path))
            .current_dir(&data_path)
            // ClickHouse reads variables of its own, and finds configuration through HOME.
            .env_clear()
            .env("TZ", "UTC")
            // ClickHouse signals its whole group, and Ctrl-C is for us to handle.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if let Some(path) = std::env::var_os("LD_LIBRARY_PATH") {
            command.env("LD_LIBRARY_PATH", path);
        }
        let mut child = command.spawn().map_err(spawn_error)?;
        let lifeline = child.stdin.take();
        let stderr = tokio::spawn(tail(child.stderr.take()));
        let pid = child.id().unwrap_or_default();
        Ok(Self {
            child,
            lifeline,
            stderr,
            pid,
            port: None,
            password,
            data_path,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until the child answers. Any end before that is a failure, whatever its exit code.
    pub(super) async fn ready(&mut self) -> Result<Endpoint, Error> {
        let log = config::log_path(&self.data_path);
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            tokio::select! {
                biased;
                _ = self.child.wait() => {
                    let reason = self.ended().await;
                    return Err(start_error(reason, &self.data_path, log));
                }
                () = tokio::time::sleep(READY_POLL) => {}
            }
            // A child that is just ending can't be looked at; the next round sees its end.
            if let Ok(Some(port)) = socket::listening_port(self.pid)
                && self.is_ready(port).await
            {
                self.port = Some(port);
                return Ok(Endpoint {
                    url: format!("http://127.0.0.1:{port}"),
                    user: config::USER.to_owned(),
                    password: self.password.clone(),
                });
            }
            if Instant::now() >= deadline {
                return Err(Error::StartTimeout {
                    deadline: START_DEADLINE,
                    log,
                });
            }
        }
    }

    async fn is_ready(&self, port: u16) -> bool {
        let answer = socket::query(port, config::USER, &self.password, config::READY_QUERY).await;
        answer.is_some_and(|answer| answer == config::READY_ANSWER)
    }

    /// Whether a ready child still answers.
    pub(super) async fn answers(&self) -> bool {
        match self.port {
            Some(port) => self.is_ready(port).await,
            None => false,
        }
    }

    /// Asks the kernel to end the child, which [`Process::ended`] then sees.
    pub(super) fn end_by_force(&mut self) {
        if let Err(error) = self.child.start_kill() {
            tracing::warn!(pid = self.pid, %error, "engine could not be killed");
        }
    }

    /// Waits for the child's end and says how it ended, with the telling line of its output.
    pub(super) async fn ended(&mut self) -> String {
        let how = match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let output = match tokio::time::timeout(TAIL_DEADLINE, &mut self.stderr).await {
            Ok(Ok(output)) => output,
            _ => Vec::new(),
        };
        match telling_line(&String::from_utf8_lossy(&output)) {
            Some(line) => format!("{how}: {line}"),
            None => how,
        }
    }

    /// Lets go of the child, kills it if it does not end in time, and waits until it is gone.
    pub(super) async fn stop(mut self) {
        drop(self.lifeline.take());
        if tokio::time::timeout(STOP_DEADLINE, self.child.wait())
            .await
            .is_err()
        {
            let deadline_ms = STOP_DEADLINE.as_millis() as u64;
            tracing::warn!(
                pid = self.pid,
                deadline_ms,
                "engine did not stop in time, killing it"
            );
            self.kill().await;
        }
    }

    /// Ends the child by force and waits until it is gone.
    pub(super) async fn kill(mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::warn!(pid = self.pid, %error, "engine could not be killed");
        }
    }
}

/// The end of a stream, once it has ended.
async fn tail(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut stream) = stream else {
        return kept;
    };
    let mut chunk = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut chunk).await {
        kept.extend_from_slice(&chunk[..length]);
        let surplus = kept.len().saturating_sub(TAIL_BYTES);
        kept.drain(..surplus);
    }
    kept
}

/// The first exception, else the last line: what follows an exception is advice or a trace. That it
/// logs to a file is what every engine says first, and tells nothing.
fn telling_line(output: &str) -> Option<String> {
    let exception = output.lines().find(|line| line.contains("Exception"));
    let pointless = |line: &str| line.trim().is_empty() || line.starts_with("Logging ");
    let line = exception.or_else(|| output.lines().rev().find(|line| !pointless(line)))?;
    Some(excerpt(line))
}

fn start_error(reason: String, data_path: &Path, log: PathBuf) -> Error {
    if reason.contains("Another server instance in same directory")
        || reason.contains("Cannot lock file")
    {
        return Error::PathInUse {
            path: data_path.to_owned(),
        };
    }
    Error::Start { reason, log }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exception_tells_more_than_what_follows_it() {
        let output =
            "noise\nCode: 76. DB::Exception: no\n\nIf you use something else, do something else\n";
        assert_eq!(telling_line(output).unwrap(), "Code: 76. DB::Exception: no");
        assert_eq!(telling_line("first\nlast\n\n").unwrap(), "last");
        assert_eq!(telling_line("Logging information to x\n\n"), None);
    }

    #[tokio::test]
    async fn only_the_end_of_long_output_is_kept() {
        let mut text = vec![b'a'; 10 * TAIL_BYTES];
        text.extend_from_slice(b"the end");
        let kept = tail(Some(&text[..])).await;
        assert_eq!(kept.len(), TAIL_BYTES);
        assert!(kept.ends_with(b"the end"));
    }
}
