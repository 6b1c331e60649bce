//! Group commit: one task per queue that turns what is waiting into one batch.
//!
//! An insert costs the database nearly the same whatever its rows, and so does an fsync the disk:
//! fewer and larger batches are the whole game. While a batch is under way the next one gathers by
//! itself. Its senders would miss that next one, because they hear of their answer only when it is
//! about to leave; so it waits for them a little, but never for longer than [`GATHER`], and not at
//! all once as many records are here as were answered and were queued at that moment. A lone sender
//! never waits.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::delivery::Outcomes;
use super::receipt::{Admitted, Waiter};
use super::{Batch, Delivery, Grouping, Record, Sink};

/// The longest that a batch waits for senders that were answered a moment ago.
const GATHER: Duration = Duration::from_millis(5);

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

/// A batch that has its outcomes, and who waits for them.
struct Delivered {
    waiters: Vec<Waiter>,
    outcomes: Outcomes,
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
        let Grouping {
            max_batch_records: limit,
            min_interval,
            inserts_in_flight,
        } = self.grouping;
        let mut deliveries = JoinSet::new();
        let mut gathered: Vec<Admitted<R>> = Vec::new();
        // With so many records it is pointless to wait for more.
        let mut enough = 1;
        let mut not_before = Instant::now();
        let timer = sleep_until(not_before);
        tokio::pin!(timer);
        let (mut waited, mut stopping, mut ended) = (false, false, false);
        while !(ended && gathered.is_empty() && deliveries.is_empty()) {
            let has_slot = deliveries.len() < inserts_in_flight;
            let room = limit - gathered.len();
            tokio::select! {
                biased;
                _ = &mut stop, if !stopping => {
                    stopping = true;
                    self.queue.close();
                }
                Some(delivered) = deliveries.join_next() => {
                    enough = self.answer(delivered, gathered.len());
                }
                () = &mut timer, if has_slot && !gathered.is_empty() && !waited => waited = true,
                // Only with a slot: what arrives while all are taken stays in the queue.
                received = self.queue.recv_many(&mut gathered, room),
                    if has_slot && !ended && room > 0 =>
                {
                    ended = received == 0;
                    if received == gathered.len() {
                        timer.as_mut().reset(not_before.max(Instant::now() + GATHER));
                        waited = false;
                    }
                }
            }
            let has_slot = deliveries.len() < inserts_in_flight;
            let is_complete = gathered.len() >= enough.min(limit) && Instant::now() >= not_before;
            let is_due = is_complete || waited || stopping || ended;
            if has_slot && is_due && !gathered.is_empty() {
                not_before = Instant::now() + min_interval;
                let (delivery, route) = (Arc::clone(&self.delivery), self.route);
                let admitted = std::mem::take(&mut gathered);
                deliveries.spawn(async move { deliver(delivery.as_ref(), route, admitted).await });
            }
        }
    }

    /// Answers the senders; how many records the next batch may hope for.
    fn answer(&self, delivered: Result<Delivered, JoinError>, gathered: usize) -> usize {
        // The waiters of a delivery that panicked are gone, which is an answer too.
        let Ok(Delivered { waiters, outcomes }) = delivered else {
            return 1;
        };
        let hoped_for = waiters.len() + gathered + self.queue.len();
        for (waiter, outcome) in waiters.into_iter().zip(outcomes) {
            waiter.answer(outcome);
        }
        hoped_for
    }
}

async fn deliver<R: Record, S: Sink>(
    delivery: &Delivery<S>,
    route: Route,
    admitted: Vec<Admitted<R>>,
) -> Delivered {
    let batch = Batch::encode(admitted.iter().map(|a| &a.record));
    let (may_wait, waiters): (Vec<bool>, Vec<_>) = admitted
        .into_iter()
        .map(|a| (a.record.may_wait(), a.waiter))
        .unzip();
    let outcomes = match route {
        Route::Sink => delivery.deliver(batch, &may_wait).await,
        Route::Spool => delivery.set_down(batch).await,
    };
    Delivered { waiters, outcomes }
}
