//! Group commit: one task per queue that turns what is waiting into one batch.
//!
//! While a batch is under way the next one gathers by itself, so the busier the senders are the
//! larger the batches get. An insert costs the database nearly the same whatever its rows, and so
//! does an fsync the disk.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::receipt::Admitted;
use super::{Batch, Delivery, Grouping, Record, Sink};

/// Where a lane takes its batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// To the sink, or to the spool if need be.
    Sink,
    /// To the spool, from where the replay takes them on.
    Spool,
}

/// The receiving end of one queue; does nothing until [`Lane::run`].
pub struct Lane<R, S> {
    queue: mpsc::UnboundedReceiver<Admitted<R>>,
    delivery: Arc<Delivery<S>>,
    grouping: Grouping,
    route: Route,
}

impl<R: Record, S: Sink> Lane<R, S> {
    pub(super) fn new(
        queue: mpsc::UnboundedReceiver<Admitted<R>>,
        delivery: Arc<Delivery<S>>,
        grouping: Grouping,
        route: Route,
    ) -> Self {
        Self {
            queue,
            delivery,
            grouping,
            route,
        }
    }

    /// Delivers batches until `stop` fires or every writer is gone, then finishes what was admitted.
    /// Returns once the last record has its answer.
    pub async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        let slots = Arc::new(Semaphore::new(self.grouping.inserts_in_flight));
        let mut deliveries = JoinSet::new();
        let mut waiting = Vec::new();
        let mut not_before = Instant::now();
        let mut stopping = false;
        loop {
            // The slot first: what arrives while the batches are under way joins the next one.
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                break;
            };
            if !stopping {
                tokio::select! {
                    () = sleep_until(not_before) => {}
                    _ = &mut stop => { stopping = true; self.queue.close(); }
                }
            }
            let limit = self.grouping.max_batch_records;
            let received = if stopping {
                self.queue.recv_many(&mut waiting, limit).await
            } else {
                tokio::select! {
                    received = self.queue.recv_many(&mut waiting, limit) => received,
                    _ = &mut stop => { stopping = true; self.queue.close(); continue; }
                }
            };
            if received == 0 {
                break;
            }
            not_before = Instant::now() + self.grouping.min_interval;
            while deliveries.try_join_next().is_some() {}
            let (delivery, route) = (Arc::clone(&self.delivery), self.route);
            let admitted = std::mem::take(&mut waiting);
            deliveries.spawn(async move {
                deliver(delivery.as_ref(), route, admitted).await;
                // After the answers: senders that follow up at once still join the next batch.
                drop(slot);
            });
        }
        while deliveries.join_next().await.is_some() {}
    }
}

async fn deliver<R: Record, S: Sink>(
    delivery: &Delivery<S>,
    route: Route,
    admitted: Vec<Admitted<R>>,
) {
    let batch = Batch::encode(admitted.iter().map(|a| &a.record));
    let (may_wait, waiters): (Vec<bool>, Vec<_>) = admitted
        .into_iter()
        .map(|a| (a.record.may_wait(), a.waiter))
        .unzip();
    let outcomes = match route {
        Route::Sink => delivery.deliver(batch, &may_wait).await,
        Route::Spool => delivery.set_down(batch).await,
    };
    for (waiter, outcome) in waiters.into_iter().zip(outcomes) {
        waiter.answer(outcome);
    }
}
