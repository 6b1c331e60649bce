//! Blocks: many records of one sender, written as large inserts of their own beside the lanes.
//!
//! A lane would let single records wait behind them. A block takes its bytes from a budget of its own
//! while it grows; where that is used up it says so, and its owner sends it off as it is. So nobody
//! waits for memory while holding some that he could give back.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use super::batch::Encoded;
use super::delivery::Outcomes;
use super::lane::Route;
use super::{Batch, Delivery, Record, Sink};

/// The budget is taken in portions of this many bytes.
pub(super) const PORTION_BYTES: usize = 64 << 10;
/// Up to so many records are handed to a lane one by one, where they share an insert with others.
pub(super) const MAX_FEW: usize = 1000;
/// What one record costs beside its own weight: its mark, its outcome and what its owner notes of it,
/// less what its encoded form saves.
const OVERHEAD_BYTES: usize = 16;
/// How many blocks are on their way to the sink at once. A second keeps it busy while the first is
/// answered; more would only take its time from single records.
const IN_FLIGHT: usize = 2;

/// Records of one sender that gather for one insert.
pub struct Block<R> {
    /// The first ones, as they are; once there are too many for a lane, none.
    few: Vec<R>,
    encoded: Encoded,
    may_wait: Vec<bool>,
    limits: BlockLimits,
    used_bytes: usize,
    budget: Arc<Semaphore>,
    permit: OwnedSemaphorePermit,
}

/// How large a block may get.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockLimits {
    pub(super) records: usize,
    pub(super) bytes: usize,
}

/// What is in a block that is sent off.
pub(super) enum Content<R> {
    /// Few records, for a lane.
    Few(Vec<R>),
    /// An insert of its own; the budget is given back once it is done.
    Whole(Batch, Vec<bool>, OwnedSemaphorePermit),
}

impl<R: Record> Block<R> {
    /// `permit` holds the first portion of the budget.
    pub(super) fn new(
        limits: BlockLimits,
        budget: Arc<Semaphore>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            few: Vec::new(),
            encoded: Encoded::default(),
            may_wait: Vec::new(),
            limits,
            used_bytes: 0,
            budget,
            permit,
        }
    }

    /// How many records it has.
    pub fn len(&self) -> usize {
        self.may_wait.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.may_wait.is_empty()
    }

    /// Adds a record; an empty block has room for any that is below 64 KiB.
    ///
    /// # Errors
    /// Gives the record back when the block is full, or when the budget is used up: send the block
    /// off and open the next one.
    pub fn push(&mut self, record: R) -> Result<(), R> {
        let bytes = self.used_bytes + record.weight() + OVERHEAD_BYTES;
        if self.len() == self.limits.records || (bytes > self.limits.bytes && !self.is_empty()) {
            return Err(record);
        }
        while bytes > self.permit.num_permits() {
            let Ok(more) = Arc::clone(&self.budget).try_acquire_many_owned(PORTION_BYTES as u32)
            else {
                return Err(record);
            };
            self.permit.merge(more);
        }
        self.used_bytes = bytes;
        self.may_wait.push(record.may_wait());
        if self.len() <= MAX_FEW {
            self.few.push(record);
        } else {
            self.encode_few();
            self.encoded.push(&record);
        }
        Ok(())
    }

    /// Keeps those records whose place `keep` accepts, in order.
    pub fn retain(&mut self, keep: impl Fn(usize) -> bool) {
        let mut places = 0..;
        self.may_wait.retain(|_| places.next().is_some_and(&keep));
        let mut places = 0..;
        self.few.retain(|_| places.next().is_some_and(&keep));
        self.encoded.retain(keep);
    }

    fn encode_few(&mut self) {
        for record in self.few.drain(..) {
            self.encoded.push(&record);
        }
    }

    pub(super) fn into_content(self) -> Content<R> {
        if self.encoded.is_empty() {
            return Content::Few(self.few);
        }
        Content::Whole(self.encoded.into_batch::<R>(), self.may_wait, self.permit)
    }
}

/// A block on its way through the [`BlockLane`].
pub(super) struct AdmittedBlock {
    pub(super) batch: Batch,
    pub(super) may_wait: Vec<bool>,
    pub(super) route: Route,
    pub(super) answer: oneshot::Sender<Outcomes>,
    /// Nothing for what a lane had no room for: it is small, and its owner waits.
    pub(super) _permit: Option<OwnedSemaphorePermit>,
}

/// Delivers blocks; does nothing until [`BlockLane::run`].
pub struct BlockLane<S> {
    queue: mpsc::UnboundedReceiver<AdmittedBlock>,
    delivery: Arc<Delivery<S>>,
}

impl<S: Sink> BlockLane<S> {
    pub(super) fn new(
        queue: mpsc::UnboundedReceiver<AdmittedBlock>,
        delivery: Arc<Delivery<S>>,
    ) -> Self {
        Self { queue, delivery }
    }

    /// Delivers blocks until `stop` fires or every writer is gone, then finishes what was admitted.
    pub async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        let mut deliveries = JoinSet::new();
        let (mut stopping, mut ended) = (false, false);
        while !(ended && deliveries.is_empty()) {
            tokio::select! {
                _ = &mut stop, if !stopping => {
                    stopping = true;
                    self.queue.close();
                }
                Some(_) = deliveries.join_next() => {}
                block = self.queue.recv(), if !ended && deliveries.len() < IN_FLIGHT => {
                    let Some(block) = block else {
                        ended = true;
                        continue;
                    };
                    let delivery = Arc::clone(&self.delivery);
                    deliveries.spawn(async move { deliver(delivery.as_ref(), block).await });
                }
            }
        }
    }
}

async fn deliver<S: Sink>(delivery: &Delivery<S>, block: AdmittedBlock) {
    let outcomes = match block.route {
        Route::Sink => delivery.deliver(block.batch, &block.may_wait).await,
        Route::Spool => delivery.set_down(block.batch).await,
    };
    // A sender that has gone away needs no answer.
    let _ = block.answer.send(outcomes);
}
