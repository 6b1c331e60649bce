//! Keeps one engine alive: starts it, watches it, starts it again.
//!
//! Invariants:
//! - The endpoint is `None` whenever no child is known to be ready.
//! - The lock on the data path is held from before the first start until after the last child.
//! - All children are created by one thread of our own, which lives until the last of them has
//!   ended: the kernel kills a child when the thread that created it ends, so a worker of a runtime
//!   must not create it. For the same reason a panic here ends the child.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::process::Process;
use super::{Endpoint, Error, Settings};

/// The pause before a restart doubles from the first to the last of these.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(10);

/// A child that lived this long was healthy: the next pause is the first one again.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// The kernel may need a moment to clear away the engine of a service that was just killed.
const PREDECESSOR_DEADLINE: Duration = Duration::from_secs(5);
const PREDECESSOR_POLL: Duration = Duration::from_millis(100);

/// A living child is asked for a sign of life this often, and ended when it owes this many answers.
/// Each may take some seconds: a busy engine is not a hung one.
const PULSE: Duration = Duration::from_secs(5);
const MISSED_PULSES: u32 = 4;

const LOCK_FILE: &str = "engine.lock";

/// A supervised engine. Dropping it ends the child in the background.
#[derive(Debug)]
pub struct Embedded {
    endpoint: watch::Receiver<Option<Endpoint>>,
    figures: Arc<Figures>,
    /// Closing it is the order to stop.
    stop: oneshot::Sender<()>,
    /// Closed when the thread has ended, and with it the last child.
    gone: oneshot::Receiver<()>,
}

#[derive(Debug, Default)]
struct Figures {
    /// 0: no child is ready.
    pid: AtomicU32,
    restarts: AtomicU64,
}

/// A look at a supervised engine; it does not keep it alive.
#[derive(Debug, Clone)]
pub struct Vitals(Arc<Figures>);

impl Vitals {
    /// Whether a child is ready.
    pub fn is_up(&self) -> bool {
        self.0.pid.load(Ordering::Acquire) != 0
    }

    /// How often the child was started again after it had died.
    pub fn restarts(&self) -> u64 {
        self.0.restarts.load(Ordering::Acquire)
    }
}

impl Embedded {
    pub(super) fn vitals(&self) -> Vitals {
        Vitals(Arc::clone(&self.figures))
    }

    /// Starts the engine and waits until it answers.
    pub(super) async fn start(settings: Settings, library: PathBuf) -> Result<Self, Error> {
        let data_error = |error| Error::data(&settings.data_path, error);
        std::fs::create_dir_all(&settings.data_path).map_err(data_error)?;
        // The child works in the data directory, where a relative path would mean another one.
        let absolute = Settings {
            data_path: settings.data_path.canonicalize().map_err(data_error)?,
            ..settings
        };
        let library = std::path::absolute(&library).unwrap_or(library);
        let lock = lock(&absolute.data_path)?;

        let program = absolute.program.clone();
        let (publish, endpoint) = watch::channel(None);
        let (stop, stopping) = oneshot::channel();
        let (started, first) = oneshot::channel();
        let (alive, gone) = oneshot::channel();
        let figures = Arc::new(Figures::default());
        let supervisor = Supervisor {
            settings: absolute,
            library,
            publish,
            figures: figures.clone(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(|source| Error::Spawn {
                program: program.clone(),
                source,
            })?;
        std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || {
                runtime.block_on(supervisor.run(started, stopping));
                drop(lock);
                drop::<oneshot::Sender<()>>(alive);
            })
            .map_err(|source| Error::Spawn { program, source })?;
        let embedded = Self {
            endpoint,
            figures,
            stop,
            gone,
        };
        match first.await {
            Ok(Ok(())) => Ok(embedded),
            Ok(Err(error)) => {
                // Whoever tries again at once shall find the lock free.
                embedded.stop().await;
                Err(error)
            }
            Err(_) => Err(Error::Stopped),
        }
    }

    pub(super) fn endpoint(&self) -> watch::Receiver<Option<Endpoint>> {
        self.endpoint.clone()
    }

    pub(super) fn restarts(&self) -> u64 {
        self.vitals().restarts()
    }

    pub(super) fn pid(&self) -> Option<u32> {
        Some(self.figures.pid.load(Ordering::Acquire)).filter(|pid| *pid != 0)
    }

    pub(super) async fn stop(self) {
        drop(self.stop);
        // An error is the end of the thread, which is what we wait for.
        let _ = self.gone.await;
    }
}

fn lock(data_path: &Path) -> Result<File, Error> {
    let data_error = |error| Error::data(data_path, error);
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(data_path.join(LOCK_FILE))
        .map_err(data_error)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(Error::PathInUse {
            path: data_path.to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(data_error(error)),
    }
}

struct Supervisor {
    settings: Settings,
    library: PathBuf,
    publish: watch::Sender<Option<Endpoint>>,
    figures: Arc<Figures>,
}

impl Supervisor {
    async fn run(
        self,
        started: oneshot::Sender<Result<(), Error>>,
        mut stop: oneshot::Receiver<()>,
    ) {
        let mut process = match self.first_start(&mut stop).await {
            Ok(process) => process,
            Err(error) => {
                let _ = started.send(Err(error));
                return;
            }
        };
        let _ = started.send(Ok(()));
        let mut backoff = FIRST_BACKOFF;
        loop {
            let ready_since = Instant::now();
            let reason = tokio::select! {
                reason = watched(&mut process) => reason,
                _ = &mut stop => {
                    self.withdraw();
                    return process.stop().await;
                }
            };
            self.withdraw();
            let uptime = ready_since.elapsed();
            if uptime >= HEALTHY_AFTER {
                backoff = FIRST_BACKOFF;
            }
            let uptime_ms = uptime.as_millis() as u64;
            let mut pause = jittered(backoff);
            tracing::warn!(
                reason,
                uptime_ms,
                pause_ms = pause.as_millis() as u64,
                "engine ended, restarting it"
            );
            process = loop {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    _ = &mut stop => return,
                }
                backoff = (backoff * 2).min(LAST_BACKOFF);
                match self
                    .start(&mut stop, || {
                        self.figures.restarts.fetch_add(1, Ordering::AcqRel);
                    })
                    .await
                {
                    Ok(process) => break process,
                    Err(Error::Stopped) => return,
                    Err(error) => {
                        pause = jittered(backoff);
                        tracing::warn!(%error, pause_ms = pause.as_millis() as u64, "engine did not restart");
                    }
                }
            };
        }
    }

    async fn first_start(&self, stop: &mut oneshot::Receiver<()>) -> Result<Process, Error> {
        let deadline = Instant::now() + PREDECESSOR_DEADLINE;
        loop {
            match self.start(stop, || {}).await {
                Err(Error::PathInUse { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(PREDECESSOR_POLL).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn start(
        &self,
        stop: &mut oneshot::Receiver<()>,
        count: impl FnOnce(),
    ) -> Result<Process, Error> {
        let begun = Instant::now();
        let mut process = Process::spawn(&self.settings, &self.library)?;
        let outcome = tokio::select! {
            outcome = process.ready() => outcome,
            _ = stop => Err(Error::Stopped),
        };
        match outcome {
            Ok(endpoint) => {
                let elapsed_ms = begun.elapsed().as_millis() as u64;
                tracing::info!(
                    pid = process.pid(),
                    url = endpoint.url,
                    elapsed_ms,
                    "engine ready"
                );
                count();
                self.figures.pid.store(process.pid(), Ordering::Release);
                self.publish.send_replace(Some(endpoint));
                Ok(process)
            }
            Err(error) => {
                process.kill().await;
                Err(error)
            }
        }
    }

    fn withdraw(&self) {
        self.figures.pid.store(0, Ordering::Release);
        self.publish.send_replace(None);
    }
}

/// Waits for the child's end, and brings it about where the child lives but has not answered for
/// too long.
async fn watched(process: &mut Process) -> String {
    let mut silent = 0;
    loop {
        tokio::select! {
            reason = process.ended() => return reason,
            () = tokio::time::sleep(PULSE) => {}
        }
        silent = if process.answers().await {
            0
        } else {
            silent + 1
        };
        if silent == MISSED_PULSES {
            process.end_by_force();
            return format!(
                "no answer to {MISSED_PULSES} questions: {}",
                process.ended().await
            );
        }
    }
}

/// Half to all of the pause, so that several services on one machine don't restart in step.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..=1.0))
}
