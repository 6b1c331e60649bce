//! The real binary as a process of its own.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long anything that a process does may take before the test gives up on it.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Service {
    child: Child,
    pub address: SocketAddr,
    pub standard_output: String,
}

impl Service {
    /// The binary with nothing of this process's own settings.
    pub fn command(data_dir: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_traffic-api"));
        for (name, _) in std::env::vars() {
            if name.starts_with("CLICKHOUSE_") || name.starts_with("INGEST_") {
                command.env_remove(name);
            }
        }
        command
            .current_dir(data_dir)
            .env("DATA_DIR", data_dir)
            .env("LISTEN_ADDR", "127.0.0.1:0")
            .stdin(Stdio::null());
        command
    }

    /// Starts with an embedded engine in `data_dir` and waits until it serves.
    pub fn start(data_dir: &Path) -> Self {
        Self::spawn(Self::command(data_dir))
    }

    pub fn spawn(mut command: Command) -> Self {
        command.stderr(Stdio::inherit());
        Self::spawn_with_stderr(command)
    }

    /// With the standard error that the command says.
    pub fn spawn_with_stderr(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let (send, lines) = mpsc::channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        let mut standard_output = String::new();
        let mut address = None;
        while let Ok(line) = lines.recv_timeout(PATIENCE) {
            standard_output.push_str(&line);
            standard_output.push('\n');
            if let Some((_, rest)) = line.split_once("ready at http://") {
                address = rest.split(' ').next().and_then(|a| a.parse().ok());
            }
            if line.contains("in a browser") {
                break;
            }
        }
        let address = address.unwrap_or_else(|| panic!("not ready: {standard_output:?}"));
        Self {
            child,
            address,
            standard_output,
        }
    }

    /// With its log in a file, in JSON: then nothing is said on standard output.
    pub fn spawn_with_json_log(mut command: Command, log: &Path) -> Self {
        command
            .env("LOG_FORMAT", "json")
            .stdout(Stdio::null())
            .stderr(File::create(log).unwrap());
        // Whatever happens from here on, the child is ended with it.
        let mut service = Self {
            child: command.spawn().unwrap(),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            standard_output: String::new(),
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = std::fs::read_to_string(log).unwrap();
            let ready = text
                .lines()
                .find(|line| line.contains("\"message\":\"ready\""));
            // Else it is half written.
            let ready = ready.and_then(|line| serde_json::from_str::<serde_json::Value>(line).ok());
            if let Some(line) = ready {
                service.address = line["address"].as_str().unwrap().parse().unwrap();
                return service;
            }
            assert!(Instant::now() < deadline, "not ready: {text:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and waits for the end.
    pub fn terminate(&mut self) -> ExitStatus {
        signal(self.pid(), "TERM");
        self.wait()
    }

    /// Waits for the end, however it comes.
    pub fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }

    /// The processes that this one started, from `/proc`.
    pub fn children(&self) -> Vec<u32> {
        children(self.pid())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill")
        .args([&format!("-{name}"), &pid.to_string()])
        .status();
    assert!(status.unwrap().success());
}

pub fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|text| {
            text.split_whitespace()
                .filter_map(|p| p.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Waits until a process is gone; false when it outlives our patience.
pub fn is_gone(pid: u32, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // A zombie has ended; only its parent has not looked yet.
        if stat.is_empty() || stat.rsplit(')').next().is_some_and(|s| s.starts_with(" Z")) {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn wait(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < deadline, "still running");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a command that should end by itself; its exit code, standard output and error.
pub fn run(mut command: Command) -> (Option<i32>, String, String) {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let status = wait(&mut child);
    let (mut out, mut err) = (String::new(), String::new());
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut out)
        .unwrap();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut err)
        .unwrap();
    (status.code(), out, err)
}
