//! The write path: admission, then a receipt, then group commit, with a spool behind it.
//!
//! ```text
//! ingress ── admit(record) ─► Writer ─► queue ─► lane ── Batch ─► delivery ─┬─► Sink
//!    ▲      (byte budget)                          │      (breaker)  │      ▲
//!    └──────────── Receipt ◄── Ack or Error ───────┘                 └─► Spool ── replay
//! ```
//!
//! Purpose: turn many small records into few large inserts, keep on this node's disk what the sink
//! can't take now, and tell each sender honestly what became of its record.
//!
//! Invariants: a record is either admitted (its bytes are taken from the budget) or refused at
//! once; every admitted record gets exactly one answer; [`Ack::Stored`] is given only after the sink
//! has confirmed the batch, [`Ack::Spooled`] only after the batch is fsynced here; what is in the
//! spool leaves it only when the sink has confirmed it, or, refused for good, as readable lines in
//! quarantine; the bytes of all records between admission and answer never exceed the budget.
//!
//! Refuses to know: what a record means, how it arrived, which database stands behind the sink and
//! what it is called there.

mod batch;
mod block;
mod breaker;
mod delivery;
mod freshness;
mod lane;
mod receipt;
mod replay;
mod seldom;
pub mod spool;
mod writer;

use std::future::Future;
use std::time::Duration;

use serde_json::Value;

use crate::domain::Stream;

pub use batch::{Batch, Mark};
pub use block::{Block, BlockLane};
pub use breaker::{Breaker, BreakerState};
pub use delivery::{Delivery, Stats};
pub use freshness::Freshness;
pub use lane::Lane;
pub use receipt::Receipt;
pub use replay::Replay;
pub use seldom::Seldom;
pub use spool::Spool;
pub use writer::{Buffer, Lanes, Writer, open};

/// What the pipeline must know of a record: its stream and its encoded form.
pub trait Record: Send + 'static {
    /// Which stream it belongs to.
    const STREAM: Stream;
    /// The columns of its encoded rows, in order.
    const COLUMNS: &'static [&'static str];

    /// Which thing it is about, for finding it again while it waits: records about the same thing
    /// have the same number.
    fn identity(&self) -> u64;

    /// Whether it may wait on disk and be written later. Not so a record whose sender must look at
    /// the store again before it answers.
    fn may_wait(&self) -> bool;

    /// How many rows it encodes to, at least one.
    fn rows(&self) -> usize;

    /// About how many bytes it takes while it waits, heap included.
    fn weight(&self) -> usize;

    /// Appends its rows to `buffer`; all rows of one record always share a batch.
    fn encode(&self, buffer: &mut Vec<u8>);
}

/// Where batches go. The pipeline defines it, a store implements it.
pub trait Sink: Send + Sync + 'static {
    /// Writes the batch. `Ok` means committed: a read that starts now sees the rows.
    ///
    /// # Errors
    /// A [`Failure`]; unless it is [`Failure::Refused`], the batch may or may not have been
    /// written.
    fn write(&self, batch: &Batch) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Asks for a sign of life.
    ///
    /// # Errors
    /// Why there is none.
    fn ping(&self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// The rows of a batch for a person to read, one value each.
    fn readable(&self, batch: &Batch) -> Vec<Value>;
}

/// Why a sink did not confirm a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The store can't be reached or gave no answer: nobody knows whether it would take the batch.
    #[error("{0}")]
    Unreachable(String),
    /// The store is in trouble and says so: the same batch may succeed later.
    #[error("{0}")]
    Transient(String),
    /// The store understood the batch and will never take it as it is.
    #[error("{0}")]
    Refused(String),
    /// The store complains of something that is not known to be the batch's own fault (a missing
    /// table, a missing right): an operator can mend it, so the batch must be kept.
    #[error("{0}")]
    Unknown(String),
}

impl Failure {
    /// Whether the sink is to blame rather than the batch.
    pub(crate) fn is_outage(&self) -> bool {
        matches!(self, Failure::Unreachable(_) | Failure::Transient(_))
    }
}

/// Where an acknowledged record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// Committed by the sink; visible to readers.
    Stored,
    /// Fsynced in this node's spool; on its way to the sink.
    Spooled,
}

/// Why a record was not acknowledged. The record is not kept; sending it again is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The byte budget is used up.
    #[error("the ingest buffer is full")]
    Full,
    /// Neither the sink nor the spool has it.
    #[error("the store is unavailable")]
    Unavailable,
    /// The sink refuses this very record for good.
    #[error("the store refused the record")]
    Refused,
    /// The service is stopping.
    #[error("the service is stopping")]
    Stopping,
}

/// The limits of one stream's lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes of records between admission and answer.
    pub buffer_bytes: u32,
    /// How records are grouped.
    pub grouping: Grouping,
}

/// How a lane groups records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grouping {
    /// The most records in one batch.
    pub max_batch_records: usize,
    /// The least time between the starts of two inserts; zero starts the next as soon as a slot is
    /// free.
    pub min_interval: Duration,
    /// How many inserts may be under way at once.
    pub inserts_in_flight: usize,
}
