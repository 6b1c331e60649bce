//! Admission by byte budget.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};

use super::lane::Route;
use super::receipt::{self, Admitted, Receipt};
use super::{Delivery, Error, Grouping, Lane, Limits, Record, Sink};

/// What one waiting record costs beside its own weight: its queue slot, its receipt, its permit, its
/// encoded form.
const OVERHEAD_BYTES: usize = 256;

/// Admits records of one stream into its lanes; cheap to clone.
pub struct Writer<R> {
    budget: Arc<Semaphore>,
    to_sink: mpsc::UnboundedSender<Admitted<R>>,
    to_spool: mpsc::UnboundedSender<Admitted<R>>,
}

impl<R> Clone for Writer<R> {
    fn clone(&self) -> Self {
        Self {
            budget: Arc::clone(&self.budget),
            to_sink: self.to_sink.clone(),
            to_spool: self.to_spool.clone(),
        }
    }
}

/// The lanes of one stream; each must be run.
pub struct Lanes<R, S> {
    /// For records whose senders want them in the sink.
    pub to_sink: Lane<R, S>,
    /// For records whose senders are content with the spool.
    pub to_spool: Lane<R, S>,
}

/// Opens the lanes of one stream: the writer that fills them, and the lanes themselves.
pub fn open<R: Record, S: Sink>(
    delivery: &Arc<Delivery<S>>,
    limits: Limits,
) -> (Writer<R>, Lanes<R, S>) {
    let (to_sink, for_sink) = mpsc::unbounded_channel();
    let (to_spool, for_spool) = mpsc::unbounded_channel();
    let writer = Writer {
        budget: Arc::new(Semaphore::new(limits.buffer_bytes as usize)),
        to_sink,
        to_spool,
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
    };
    (writer, lanes)
}

impl<R: Record> Writer<R> {
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
        let bytes = u32::try_from(record.weight() + OVERHEAD_BYTES).unwrap_or(u32::MAX);
        let budget = Arc::clone(&self.budget)
            .try_acquire_many_owned(bytes)
            .map_err(|_| Error::Full)?;
        let (waiter, receipt) = receipt::issue(budget);
        queue
            .send(Admitted { record, waiter })
            .map_err(|_| Error::Stopping)?;
        Ok(receipt)
    }
}
