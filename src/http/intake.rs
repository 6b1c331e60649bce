//! What one batch has brought so far: records that gather in a block, a block that is on its way, and
//! the receipt.
//!
//! One block is on its way at most, while the next one gathers: parsing and ClickHouse work at the
//! same time, and a client that sends faster than ClickHouse takes is slowed down by its connection.

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::access::Caller;
use super::batches::{BatchReceipt, malformed};
use super::elements::Element;
use super::ingest::{Ingest, Posted};
use super::problem::{BadField, Problem};
use super::rejected::Reason;
use crate::domain::{AcceptanceWindow, Fingerprint, OnConflict, PendingBlock, Rejection};
use crate::pipeline::{self, Ack, Block};

/// Bytes that count as a row where there are fewer lines; a good line is shorter, even with every
/// character escaped.
const ROW_BYTES: u64 = 16 << 10;

/// The state of one batch.
pub(super) struct Intake<'a, R: Posted> {
    ingest: &'a Ingest<R>,
    caller: Caller,
    /// Rows that the caller's limit has been charged for.
    paid: u64,
    max_bytes: usize,
    to_spool: bool,
    window: AcceptanceWindow,
    gathering: Option<Gathering<R>>,
    on_its_way: Option<OnItsWay<R>>,
    receipt: BatchReceipt,
    is_broken: bool,
}

/// Records in a block, and of each the number of its line and what it says.
struct Gathering<R: Posted> {
    block: Block<R>,
    numbers: Vec<u64>,
    contents: Vec<(R::Identity, Fingerprint)>,
    since: Instant,
}

struct OnItsWay<R: Posted> {
    outcomes: JoinHandle<Vec<Result<Ack, pipeline::Error>>>,
    numbers: Vec<u64>,
    pending: PendingBlock<R::Identity>,
    /// What was known with other content.
    rivals: Vec<R::Identity>,
}

/// A block to be written, the numbers of its lines, the guard of its identities, and which of those
/// are to be settled.
type Held<R> = (
    Block<R>,
    Vec<u64>,
    PendingBlock<<R as Posted>::Identity>,
    Vec<<R as Posted>::Identity>,
);

/// A record for which the block has no room.
pub(super) struct Left<R: Posted> {
    record: R,
    content: (R::Identity, Fingerprint),
}

impl<'a, R: Posted> Intake<'a, R> {
    /// Of elements of at most `max_bytes` each.
    pub(super) fn new(
        ingest: &'a Ingest<R>,
        caller: Caller,
        max_bytes: usize,
        to_spool: bool,
    ) -> Self {
        Self {
            ingest,
            caller,
            // At the door.
            paid: 1,
            max_bytes,
            to_spool,
            window: ingest.window(),
            gathering: None,
            on_its_way: None,
            receipt: BatchReceipt::default(),
            is_broken: false,
        }
    }

    /// Charges the caller for what is not paid for yet of all lines up to `number`, and of so many
    /// bytes: reading what has no lines is work as well.
    ///
    /// # Errors
    /// When the limit is used up. What was sent off before is on its way all the same.
    pub(super) fn pay(&mut self, number: u64, bytes: u64) -> Result<(), Problem> {
        let due = number.max(bytes / ROW_BYTES);
        let rows = due.saturating_sub(self.paid);
        if rows > 0 {
            self.caller.charge_rows(rows)?;
            self.paid = due;
        }
        Ok(())
    }

    /// When the oldest record that is not yet sent off arrived.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.gathering.as_ref().map(|gathering| gathering.since)
    }

    /// Whether the rest of the body can't be cut into elements.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Judges one element; what is good and finds no room is given back.
    ///
    /// # Errors
    /// A body that is broken from its beginning.
    pub(super) fn take(
        &mut self,
        number: u64,
        element: Element<'_>,
    ) -> Result<Option<Left<R>>, Problem> {
        let line = match element {
            Element::Whole(line) => line,
            Element::TooLong => {
                let detail = format!("must be at most {} bytes", self.max_bytes);
                self.reject(Reason::TooLong, number, "too_long", detail);
                return Ok(None);
            }
            Element::Broken(reason) if number == 1 => return Err(malformed(reason)),
            Element::Broken(reason) => {
                self.is_broken = true;
                self.reject(Reason::Malformed, number, "malformed_json", reason);
                return Ok(None);
            }
        };
        let record = match R::read(line, &self.window, &self.ingest.rules) {
            Ok(record) => record,
            Err(Rejection::Malformed(reason)) => {
                self.reject(Reason::Malformed, number, "malformed_json", reason);
                return Ok(None);
            }
            Err(Rejection::Invalid(invalid)) => {
                self.ingest.rejected.add(Reason::Invalid);
                let errors = || invalid.errors().iter().map(BadField::from).collect();
                self.receipt.reject(number, errors);
                return Ok(None);
            }
        };
        if record
            .user()
            .is_some_and(|user| !self.caller.may_deal_with(user))
        {
            self.ingest.rejected.add(Reason::Forbidden);
            self.receipt.reject(number, || {
                vec![BadField {
                    field: "user_id".to_owned(),
                    code: "forbidden",
                    detail: "the key is not for this user".to_owned(),
                }]
            });
            return Ok(None);
        }
        if record.is_erased(&self.ingest.rules) {
            let detail = "the user was erased; views from before that are not taken in";
            self.reject(Reason::Erased, number, "erased", detail);
            return Ok(None);
        }
        let content = record.content(&self.ingest.recent);
        let Some(gathering) = &mut self.gathering else {
            return Ok(Some(Left { record, content }));
        };
        match gathering.block.push(record) {
            Ok(()) => {
                gathering.numbers.push(number);
                gathering.contents.push(content);
                Ok(None)
            }
            Err(record) => Ok(Some(Left { record, content })),
        }
    }

    fn reject(
        &mut self,
        reason: Reason,
        number: u64,
        code: &'static str,
        detail: impl Into<String>,
    ) {
        self.ingest.rejected.add(reason);
        self.receipt.reject(number, || {
            vec![BadField {
                field: String::new(),
                code,
                detail: detail.into(),
            }]
        });
    }

    /// Sends the gathered records off and opens a block for `left` and those to come.
    ///
    /// # Errors
    /// When records of an earlier block are neither in ClickHouse nor on disk.
    pub(super) async fn send_off_and_take(
        &mut self,
        number: u64,
        left: Left<R>,
    ) -> Result<(), Problem> {
        self.send_off().await?;
        let mut block = self.ingest.writer.open_block().await;
        // An empty block has room for any record.
        if block.push(left.record).is_err() {
            self.reject(
                Reason::TooLong,
                number,
                "too_long",
                "is larger than a block",
            );
            return Ok(());
        }
        self.gathering = Some(Gathering {
            block,
            numbers: vec![number],
            contents: vec![left.content],
            since: Instant::now(),
        });
        // Time passes while a long batch arrives.
        self.window = self.ingest.window();
        Ok(())
    }

    /// Sends the gathered records off, once the block before them has its outcome.
    ///
    /// # Errors
    /// As for [`Intake::send_off_and_take`].
    pub(super) async fn send_off(&mut self) -> Result<(), Problem> {
        let Some(gathering) = self.gathering.take() else {
            return Ok(());
        };
        self.settle().await?;
        let (block, numbers, pending, rivals) = self.hold(gathering);
        if block.is_empty() {
            return Ok(());
        }
        let (writer, to_spool) = (self.ingest.writer.clone(), self.to_spool);
        // Goes on when the client goes away.
        let outcomes = tokio::spawn(async move {
            if to_spool {
                writer.write_block_to_spool(block).await
            } else {
                writer.write_block(block).await
            }
        });
        self.on_its_way = Some(OnItsWay {
            outcomes,
            numbers,
            pending,
            rivals,
        });
        Ok(())
    }

    /// Holds the gathered records' identities; those that are known with other content are taken out,
    /// or named to be settled.
    fn hold(&mut self, gathering: Gathering<R>) -> Held<R> {
        let Gathering {
            mut block,
            mut numbers,
            contents,
            ..
        } = gathering;
        let (pending, conflicts) = self.ingest.recent.hold_all(&contents, R::ON_CONFLICT);
        if R::ON_CONFLICT == OnConflict::Note {
            let rivals = conflicts.iter().map(|place| contents[*place].0).collect();
            return (block, numbers, pending, rivals);
        }
        if !conflicts.is_empty() {
            for place in &conflicts {
                self.ingest.rejected.add(Reason::Conflict);
                self.receipt.reject(numbers[*place], || {
                    vec![BadField {
                        field: "request_id".to_owned(),
                        code: "conflict",
                        detail: "another page view is known under this request_id".to_owned(),
                    }]
                });
            }
            let keep = |place: usize| conflicts.binary_search(&place).is_err();
            block.retain(keep);
            let kept = (0..numbers.len()).filter(|place| keep(*place));
            numbers = kept.map(|place| numbers[place]).collect();
        }
        (block, numbers, pending, Vec::new())
    }

    async fn settle(&mut self) -> Result<(), Problem> {
        let Some(OnItsWay {
            outcomes,
            numbers,
            pending,
            rivals,
        }) = self.on_its_way.take()
        else {
            return Ok(());
        };
        // A delivery that panicked has promised nothing.
        let outcomes = outcomes
            .await
            .unwrap_or_else(|_| vec![Err(pipeline::Error::Unavailable); numbers.len()]);
        pending.settle(|place| outcomes[place].is_ok());
        if !rivals.is_empty() {
            R::settle(&self.ingest.rules, rivals).await;
        }
        let mut failed = None;
        for (number, outcome) in numbers.into_iter().zip(outcomes) {
            match outcome {
                Ok(Ack::Stored) => self.receipt.stored += 1,
                Ok(Ack::Spooled) => self.receipt.spooled += 1,
                Err(pipeline::Error::Refused) => {
                    let detail = "the store refuses this record";
                    self.reject(Reason::Quarantined, number, "refused_by_store", detail);
                }
                Err(error) => {
                    self.ingest.rejected.add(error.into());
                    failed = Some(error);
                }
            }
        }
        self.receipt.accepted = self.receipt.stored + self.receipt.spooled;
        match failed {
            None => Ok(()),
            Some(error) => Err(Problem::from(error).with_detail(format!(
                "{} lines were taken in before; sending the whole batch again is safe",
                self.receipt.accepted
            ))),
        }
    }

    /// Waits for what is on its way.
    ///
    /// # Errors
    /// As for [`Intake::send_off_and_take`].
    pub(super) async fn finish(mut self) -> Result<BatchReceipt, Problem> {
        self.send_off().await?;
        self.settle().await?;
        Ok(self.receipt)
    }
}
