//! Group commit: one task per stream that turns what is waiting into one insert.
//!
//! While an insert is under way the next batch gathers by itself, so the busier the senders are the
//! larger the batches get. An insert costs the database nearly the same whatever its rows.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::{error, warn};

use super::writer::{Admitted, Counters, Waiter};
use super::{Ack, Batch, Error, Failure, Grouping, Record, Sink};

/// The receiving end of one stream; does nothing until [`Lane::run`].
pub struct Lane<R, S> {
    queue: mpsc::UnboundedReceiver<Admitted<R>>,
    sink: Arc<S>,
    grouping: Grouping,
    stats: Arc<Counters>,
}

impl<R: Record, S: Sink> Lane<R, S> {
    pub(super) fn new(
        queue: mpsc::UnboundedReceiver<Admitted<R>>,
        sink: Arc<S>,
        grouping: Grouping,
        stats: Arc<Counters>,
    ) -> Self {
        Self {
            queue,
            sink,
            grouping,
            stats,
        }
    }

    /// Commits batches until `stop` fires or every writer is gone, then finishes what was admitted.
    /// Returns once the last record has its answer.
    pub async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        let slots = Arc::new(Semaphore::new(self.grouping.inserts_in_flight));
        let mut inserts = JoinSet::new();
        let mut waiting = Vec::new();
        let mut not_before = Instant::now();
        let mut stopping = false;
        loop {
            // The slot first: whatever arrives while the inserts are under way joins the next batch.
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                break;
            };
            if !stopping {
                tokio::select! {
                    () = sleep_until(not_before) => {}
                    _ = &mut stop => { stopping = true; self.queue.close(); }
                }
            }
            let received = if stopping {
                self.queue
                    .recv_many(&mut waiting, self.grouping.max_batch_records)
                    .await
            } else {
                tokio::select! {
                    received = self.queue.recv_many(&mut waiting, self.grouping.max_batch_records) => received,
                    _ = &mut stop => { stopping = true; self.queue.close(); continue; }
                }
            };
            if received == 0 {
                break;
            }
            not_before = Instant::now() + self.grouping.min_interval;
            let (batch, waiters) = encode(std::mem::take(&mut waiting));
            let (sink, stats) = (Arc::clone(&self.sink), Arc::clone(&self.stats));
            while inserts.try_join_next().is_some() {}
            inserts.spawn(async move {
                let outcome = commit(sink.as_ref(), &batch, &stats).await;
                for waiter in waiters {
                    waiter.answer(outcome);
                }
                // After the answers: senders that follow up at once still join the next batch.
                drop(slot);
            });
        }
        while inserts.join_next().await.is_some() {}
    }
}

fn encode<R: Record>(admitted: Vec<Admitted<R>>) -> (Batch, Vec<Waiter>) {
    let batch = Batch::encode(admitted.iter().map(|a| &a.record));
    (batch, admitted.into_iter().map(|a| a.waiter).collect())
}

async fn commit<S: Sink>(sink: &S, batch: &Batch, stats: &Counters) -> Result<Ack, Error> {
    let stream = batch.stream.name();
    match sink.write(batch).await {
        Ok(()) => {
            stats.inserts.fetch_add(1, Ordering::Relaxed);
            stats.rows.fetch_add(batch.rows as u64, Ordering::Relaxed);
            Ok(Ack::Stored)
        }
        Err(Failure::Transient(reason)) => {
            warn!(stream, rows = batch.rows, token = %batch.token, reason, "insert failed");
            Err(Error::Unavailable)
        }
        Err(Failure::Refused(reason)) => {
            error!(stream, rows = batch.rows, token = %batch.token, reason, "insert refused");
            Err(Error::Refused)
        }
    }
}
