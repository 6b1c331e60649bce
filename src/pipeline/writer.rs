//! Admission by byte budget.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::block::{AdmittedBlock, BlockLimits, Content, PORTION_BYTES};
use super::delivery::Outcomes;
use super::lane::Route;
use super::receipt::{self, Admitted, Receipt};
use super::{Ack, Batch, Block, BlockLane, Delivery, Error, Grouping, Lane, Limits, Record, Sink};

/// What one waiting record costs beside its own weight: its queue slot, its receipt, its permit, its
/// encoded form.
const OVERHEAD_BYTES: usize = 256;

/// The largest block, in bytes of the budget: what is lost to a client that breaks off, and what a
/// store that refuses a row has to look through.
const MAX_BLOCK_BYTES: usize = 20 << 20;

/// Admits records of one stream into its lanes; cheap to clone.
pub struct Writer<R> {
    budget: Arc<Semaphore>,
    budget_bytes: usize,
    to_sink: mpsc::UnboundedSender<Admitted<R>>,
    to_spool: mpsc::UnboundedSender<Admitted<R>>,
    block_budget: Arc<Semaphore>,
    block_limits: BlockLimits,
    blocks: mpsc::UnboundedSender<AdmittedBlock>,
}

/// What is admitted and not yet answered, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    /// How much there is.
    pub used_bytes: usize,
    /// How much there may be.
    pub limit_bytes: usize,
}

impl Buffer {
    fn of(budget: &Semaphore, limit_bytes: usize) -> Self {
        Self {
            used_bytes: limit_bytes.saturating_sub(budget.available_permits()),
            limit_bytes,
        }
    }
}

impl<R> Clone for Writer<R> {
    fn clone(&self) -> Self {
        Self {
            budget: Arc::clone(&self.budget),
            budget_bytes: self.budget_bytes,
            to_sink: self.to_sink.clone(),
            to_spool: self.to_spool.clone(),
            block_budget: Arc::clone(&self.block_budget),
            block_limits: self.block_limits,
            blocks: self.blocks.clone(),
        }
    }
}

/// The lanes of one stream; each must be run.
pub struct Lanes<R, S> {
    /// For records whose senders want them in the sink.
    pub to_sink: Lane<R, S>,
    /// For records whose senders are content with the spool.
    pub to_spool: Lane<R, S>,
    /// For many records of one sender.
    pub blocks: BlockLane<S>,
}

/// Opens the lanes of one stream: the writer that fills them, and the lanes themselves.
pub fn open<R: Record, S: Sink>(
    delivery: &Arc<Delivery<S>>,
    limits: Limits,
) -> (Writer<R>, Lanes<R, S>) {
    let (to_sink, for_sink) = mpsc::unbounded_channel();
    let (to_spool, for_spool) = mpsc::unbounded_channel();
    let (blocks, for_blocks) = mpsc::unbounded_channel();
    let budget_bytes = limits.buffer_bytes as usize;
    let writer = Writer {
        budget: Arc::new(Semaphore::new(budget_bytes)),
        budget_bytes,
        to_sink,
        to_spool,
        block_budget: Arc::new(Semaphore::new(budget_bytes.max(PORTION_BYTES))),
        block_limits: BlockLimits {
            records: limits.grouping.max_batch_records,
            bytes: MAX_BLOCK_BYTES,
        },
        blocks,
    };
    // The interval and the slots spare the sink; the disk needs neither.
    let for_disk = Grouping {
        min_interval: Duration::ZERO,
        inserts_in_flight: 1,
        ..limits.grouping
    };
    let lanes = Lanes {
        to_sink: Lane::new(for_sink, Arc::clone(delivery), limits.grouping, Route::Sink),
        to_spool: Lane::new(for_spool, Arc::clone(delivery), for_disk, Route::Spool),
        blocks: BlockLane::new(for_blocks, Arc::clone(delivery)),
    };
    (writer, lanes)
}

impl<R: Record> Writer<R> {
    /// The buffer of single records.
    pub fn records(&self) -> Buffer {
        Buffer::of(&self.budget, self.budget_bytes)
    }

    /// The buffer of blocks.
    pub fn blocks(&self) -> Buffer {
        Buffer::of(&self.block_budget, self.budget_bytes.max(PORTION_BYTES))
    }

    /// Takes the record's bytes from the budget and queues it for the sink.
    ///
    /// # Errors
    /// [`Error::Full`] at once when the budget is used up, [`Error::Stopping`] when the lane takes
    /// no more records.
    pub fn admit(&self, record: R) -> Result<Receipt, Error> {
        self.queue(&self.to_sink, record)
    }

    /// The same for a sender that is content to have it in the spool.
    ///
    /// # Errors
    /// As for [`Writer::admit`].
    pub fn admit_to_spool(&self, record: R) -> Result<Receipt, Error> {
        self.queue(&self.to_spool, record)
    }

    fn queue(
        &self,
        queue: &mpsc::UnboundedSender<Admitted<R>>,
        record: R,
    ) -> Result<Receipt, Error> {
        let budget = self.reserve(&record)?;
        send(queue, record, budget)
    }

    fn reserve(&self, record: &R) -> Result<OwnedSemaphorePermit, Error> {
        let bytes = u32::try_from(record.weight() + OVERHEAD_BYTES).unwrap_or(u32::MAX);
        Arc::clone(&self.budget)
            .try_acquire_many_owned(bytes)
            .map_err(|_| Error::Full)
    }

    /// An empty block, as soon as the blocks' own budget, which is as large as that of single
    /// records, has something left.
    pub async fn open_block(&self) -> Block<R> {
        let budget = Arc::clone(&self.block_budget);
        let portion = Arc::clone(&budget)
            .acquire_many_owned(PORTION_BYTES as u32)
            .await;
        // Nobody closes the semaphore.
        let portion = portion.unwrap_or_else(|_| unreachable!("the budget is never closed"));
        Block::new(self.block_limits, budget, portion)
    }

    /// Brings a block to the sink, with the same fallback as for single records; where each of its
    /// records is, in order.
    pub async fn write_block(&self, block: Block<R>) -> Vec<Result<Ack, Error>> {
        self.write_content(block, &self.to_sink, Route::Sink).await
    }

    /// The same for a sender that is content to have it in the spool.
    pub async fn write_block_to_spool(&self, block: Block<R>) -> Vec<Result<Ack, Error>> {
        self.write_content(block, &self.to_spool, Route::Spool)
            .await
    }

    async fn write_content(
        &self,
        block: Block<R>,
        lane: &mpsc::UnboundedSender<Admitted<R>>,
        route: Route,
    ) -> Outcomes {
        let few = match block.into_content() {
            Content::Few(few) => few,
            Content::Whole(batch, may_wait, permit) => {
                return self.send_block(batch, may_wait, route, Some(permit)).await;
            }
        };
        let mut receipts = Vec::with_capacity(few.len());
        let mut few = few.into_iter();
        let mut left: Vec<R> = Vec::new();
        for record in few.by_ref() {
            match self.reserve(&record) {
                Ok(budget) => receipts.push(send(lane, record, budget)),
                Err(_) => {
                    left.push(record);
                    break;
                }
            }
        }
        left.extend(few);
        let mut outcomes = Vec::with_capacity(receipts.len() + left.len());
        for receipt in receipts {
            outcomes.push(match receipt {
                Ok(receipt) => receipt.await,
                Err(error) => Err(error),
            });
        }
        // A busy lane is no reason to refuse what is already here.
        if !left.is_empty() {
            let may_wait = left.iter().map(Record::may_wait).collect();
            let batch = Batch::encode(&left);
            outcomes.extend(self.send_block(batch, may_wait, route, None).await);
        }
        outcomes
    }

    async fn send_block(
        &self,
        batch: Batch,
        may_wait: Vec<bool>,
        route: Route,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Outcomes {
        let (answer, outcomes) = oneshot::channel();
        let records = batch.records.len();
        let block = AdmittedBlock {
            batch,
            may_wait,
            route,
            answer,
            _permit: permit,
        };
        if self.blocks.send(block).is_err() {
            return vec![Err(Error::Stopping); records];
        }
        // A lane that died without an answer has promised nothing.
        let nothing = |_| vec![Err(Error::Unavailable); records];
        outcomes.await.unwrap_or_else(nothing)
    }
}

fn send<R>(
    lane: &mpsc::UnboundedSender<Admitted<R>>,
    record: R,
    budget: OwnedSemaphorePermit,
) -> Result<Receipt, Error> {
    let (waiter, receipt) = receipt::issue(budget);
    lane.send(Admitted { record, waiter })
        .map_err(|_| Error::Stopping)?;
    Ok(receipt)
}
