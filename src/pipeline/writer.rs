//! Admission by byte budget, and the receipt.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::{Ack, Error, Grouping, Lane, Record, Sink};

/// What one waiting record costs beside its own weight: its queue slot, its receipt, its permit.
const OVERHEAD_BYTES: usize = 256;

/// The limits of one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes of records between admission and answer.
    pub buffer_bytes: u32,
    /// How records are grouped.
    pub grouping: Grouping,
}

/// Admits records of one stream into its lane; cheap to clone.
pub struct Writer<R> {
    budget: Arc<Semaphore>,
    queue: mpsc::UnboundedSender<Admitted<R>>,
    stats: Arc<Counters>,
}

impl<R> Clone for Writer<R> {
    fn clone(&self) -> Self {
        Self {
            budget: Arc::clone(&self.budget),
            queue: self.queue.clone(),
            stats: Arc::clone(&self.stats),
        }
    }
}

/// A record on its way through the lane.
pub(super) struct Admitted<R> {
    pub(super) record: R,
    pub(super) waiter: Waiter,
}

/// The sender's end of one record: its answer, and the bytes it gives back once answered.
pub(super) struct Waiter {
    answer: oneshot::Sender<Result<Ack, Error>>,
    _budget: OwnedSemaphorePermit,
}

impl Waiter {
    pub(super) fn answer(self, outcome: Result<Ack, Error>) {
        // A sender that has gone away needs no answer.
        let _ = self.answer.send(outcome);
    }
}

/// What a lane has done since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Inserts that the sink confirmed.
    pub inserts: u64,
    /// Rows in them.
    pub rows: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) inserts: AtomicU64,
    pub(super) rows: AtomicU64,
}

/// Opens a lane for one stream: the writer that fills it, and the lane that must be run.
pub fn open<R: Record, S: Sink>(sink: Arc<S>, limits: Limits) -> (Writer<R>, Lane<R, S>) {
    let (queue, received) = mpsc::unbounded_channel();
    let stats = Arc::new(Counters::default());
    let writer = Writer {
        budget: Arc::new(Semaphore::new(limits.buffer_bytes as usize)),
        queue,
        stats: Arc::clone(&stats),
    };
    (writer, Lane::new(received, sink, limits.grouping, stats))
}

impl<R: Record> Writer<R> {
    /// Takes the record's bytes from the budget and queues it.
    ///
    /// # Errors
    /// [`Error::Full`] at once when the budget is used up, [`Error::Stopping`] when the lane takes
    /// no more records.
    pub fn admit(&self, record: R) -> Result<Receipt, Error> {
        let bytes = u32::try_from(record.weight() + OVERHEAD_BYTES).unwrap_or(u32::MAX);
        let budget = Arc::clone(&self.budget)
            .try_acquire_many_owned(bytes)
            .map_err(|_| Error::Full)?;
        let (answer, receipt) = oneshot::channel();
        let waiter = Waiter {
            answer,
            _budget: budget,
        };
        self.queue
            .send(Admitted { record, waiter })
            .map_err(|_| Error::Stopping)?;
        Ok(Receipt(receipt))
    }

    /// What the lane has done so far.
    pub fn stats(&self) -> Stats {
        Stats {
            inserts: self.stats.inserts.load(Ordering::Relaxed),
            rows: self.stats.rows.load(Ordering::Relaxed),
        }
    }
}

/// A promise of one answer; awaiting it gives where the record is, or why it is nowhere.
#[must_use]
#[derive(Debug)]
pub struct Receipt(oneshot::Receiver<Result<Ack, Error>>);

impl Future for Receipt {
    type Output = Result<Ack, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // A lane that died without an answer has promised nothing.
        Pin::new(&mut self.0)
            .poll(cx)
            .map(|answer| answer.unwrap_or(Err(Error::Unavailable)))
    }
}
