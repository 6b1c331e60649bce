//! Tasks that end when they are told to.

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::pipeline::{Lanes, Record};
use crate::repository::ClickHouse;

/// A task that is told to stop and then waited for.
pub(super) struct Task<T> {
    pub(super) stop: oneshot::Sender<()>,
    pub(super) handle: JoinHandle<T>,
}

impl<T: Send + 'static> Task<T> {
    pub(super) fn spawn<F: Future<Output = T> + Send + 'static>(
        run: impl FnOnce(oneshot::Receiver<()>) -> F,
    ) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self {
            stop,
            handle: tokio::spawn(run(stopped)),
        }
    }
}

/// Runs all lanes of one stream.
pub(super) fn run_lanes<R: Record>(lanes: Lanes<R, ClickHouse>) -> [Task<()>; 3] {
    [
        Task::spawn(|stop| lanes.to_sink.run(stop)),
        Task::spawn(|stop| lanes.to_spool.run(stop)),
        Task::spawn(|stop| lanes.blocks.run(stop)),
    ]
}
