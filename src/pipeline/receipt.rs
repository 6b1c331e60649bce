//! The two ends of an admitted record: the lane's, which must answer, and the sender's, which waits.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{Ack, Error};

/// A record on its way through a lane.
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

/// Both ends of one record whose bytes are taken from the budget.
pub(super) fn issue(budget: OwnedSemaphorePermit) -> (Waiter, Receipt) {
    let (answer, receipt) = oneshot::channel();
    let waiter = Waiter {
        answer,
        _budget: budget,
    };
    (waiter, Receipt(receipt))
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
