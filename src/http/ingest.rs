//! What differs between streams where records are taken in: how a record is read, and what makes two of
//! them one.

use std::hash::Hash;
use std::num::NonZeroUsize;
use std::sync::Arc;

use tracing::warn;

use super::problem::{Kind, Problem};
use super::rejected::Rejected;
use crate::domain::{
    AcceptanceWindow, Claim, ClaimSet, Clock, Erasures, Event, EventIdentity, EventTypes,
    Fingerprint, OnConflict, RecentWrites, Rejection, RequestId, UserId, read_event,
    read_identified_view,
};
use crate::pipeline::{self, Ack, Record, Seldom, Writer};
use crate::repository::RivalEvents;

/// A record that clients post, one by one or in batches.
pub trait Posted: Record + Sized {
    /// What makes two records one.
    type Identity: Hash + Eq + Copy + Send + Sync + 'static;
    /// What a record must satisfy besides its time.
    type Rules: Send + Sync;
    /// What becomes of a record whose identity is known with other content: it is refused, or written
    /// and settled ([`Posted::settle`]).
    const ON_CONFLICT: OnConflict;

    /// The record in one line of a batch.
    ///
    /// # Errors
    /// A [`Rejection`] that names everything bad.
    fn read(line: &[u8], window: &AcceptanceWindow, rules: &Self::Rules)
    -> Result<Self, Rejection>;

    /// Whose it is, where keys may be for some users only.
    fn user(&self) -> Option<UserId>;

    /// Whether it is of a user who was erased, and from before that.
    fn is_erased(&self, rules: &Self::Rules) -> bool;

    /// What it is about, and what it says of it.
    fn content(&self, recent: &RecentWrites<Self::Identity>) -> (Self::Identity, Fingerprint);

    /// Settles records whose identities were known with other content, once they are written.
    fn settle(
        rules: &Self::Rules,
        identities: Vec<Self::Identity>,
    ) -> impl Future<Output = ()> + Send;
}

impl Posted for ClaimSet {
    type Identity = RequestId;
    type Rules = Erasures;
    const ON_CONFLICT: OnConflict = OnConflict::Refuse;

    fn read(line: &[u8], window: &AcceptanceWindow, _: &Erasures) -> Result<Self, Rejection> {
        let view = read_identified_view(line, window)?;
        Ok(ClaimSet::One(Claim::first(view)))
    }

    fn user(&self) -> Option<UserId> {
        self.claims().first().map(|claim| claim.view.user_id)
    }

    fn is_erased(&self, erasures: &Erasures) -> bool {
        let erased = |claim: &Claim| erasures.cover(claim.view.user_id, claim.view.created_at);
        self.claims().iter().any(erased)
    }

    fn content(&self, recent: &RecentWrites<RequestId>) -> (RequestId, Fingerprint) {
        let [claim, ..] = self.claims() else {
            unreachable!("what is posted has a claim");
        };
        let content = recent.fingerprint(&claim.view);
        (claim.view.request_id, content)
    }

    /// There is none: they were refused.
    async fn settle(_: &Erasures, _: Vec<RequestId>) {}
}

impl Posted for Event {
    type Identity = EventIdentity;
    type Rules = EventRules;
    const ON_CONFLICT: OnConflict = OnConflict::Note;

    fn read(line: &[u8], window: &AcceptanceWindow, rules: &EventRules) -> Result<Self, Rejection> {
        read_event(line, window, &rules.types)
    }

    /// Events have no users: a key for some users is stopped at the door.
    fn user(&self) -> Option<UserId> {
        None
    }

    fn is_erased(&self, _: &EventRules) -> bool {
        false
    }

    fn content(&self, recent: &RecentWrites<EventIdentity>) -> (EventIdentity, Fingerprint) {
        (self.identity, recent.fingerprint(&self.time))
    }

    /// The earliest time stays. What can't be settled now, the next sweep settles.
    async fn settle(rules: &EventRules, identities: Vec<EventIdentity>) {
        if let Err(error) = rules.rivals.settle_some(&identities).await {
            NOT_SETTLED.say(|left_out| warn!(%error, left_out, "rival events left to the sweep"));
        }
    }
}

/// In an outage every conflict fails alike.
static NOT_SETTLED: Seldom = Seldom::new();

/// What an event must satisfy, and who settles two times of one.
pub struct EventRules {
    /// The types that are taken in.
    pub types: EventTypes,
    /// Settles rivals.
    pub rivals: Arc<RivalEvents>,
}

/// Which times of a record are acceptable.
#[derive(Debug, Clone, Copy)]
pub struct Acceptance {
    /// How long records are kept, in days; `None` for ever.
    pub retention_days: Option<u32>,
    /// How far a client's clock may run ahead, in seconds.
    pub max_clock_skew_secs: u32,
}

/// Where records of one stream come in.
pub struct Ingest<R: Posted> {
    /// Where they go.
    pub writer: Writer<R>,
    /// What was posted lately, to find conflicts.
    pub recent: RecentWrites<R::Identity>,
    /// Which times are acceptable.
    pub acceptance: Acceptance,
    /// What else they must satisfy.
    pub rules: R::Rules,
    /// The time.
    pub clock: Clock,
    /// Those that are not kept.
    pub rejected: Rejected,
}

impl<R: Posted> Ingest<R> {
    /// A way in that remembers so many records.
    pub fn new(
        writer: Writer<R>,
        remembered: NonZeroUsize,
        acceptance: Acceptance,
        rules: R::Rules,
        clock: Clock,
        rejected: Rejected,
    ) -> Self {
        Self {
            writer,
            recent: RecentWrites::new(remembered),
            acceptance,
            rules,
            clock,
            rejected,
        }
    }

    /// Which times are acceptable now.
    pub(super) fn window(&self) -> AcceptanceWindow {
        let (now, skew) = (self.clock.now(), self.acceptance.max_clock_skew_secs);
        match self.acceptance.retention_days {
            Some(days) => AcceptanceWindow::new(now, days, skew),
            None => AcceptanceWindow::unlimited(now, skew),
        }
    }

    /// Takes one record in and waits until it is safe; only in the spool where the client is content
    /// with that.
    ///
    /// # Errors
    /// [`Kind::RequestIdConflict`] where another record is known under its identity and it is refused
    /// for that; nothing was kept then, nor on any other problem.
    pub(super) async fn post(&self, record: R, prefers_async: bool) -> Result<Ack, Problem> {
        if record.is_erased(&self.rules) {
            return Err(Problem::new(Kind::Erased));
        }
        let (identity, content) = record.content(&self.recent);
        let (pending, conflicts) = self.recent.hold_all(&[(identity, content)], R::ON_CONFLICT);
        let is_rival = !conflicts.is_empty();
        if is_rival && R::ON_CONFLICT == OnConflict::Refuse {
            return Err(Problem::new(Kind::RequestIdConflict));
        }
        let acknowledged = async {
            let receipt = if prefers_async {
                self.writer.admit_to_spool(record)?
            } else {
                self.writer.admit(record)?
            };
            receipt.await
        };
        let outcome: Result<Ack, pipeline::Error> = acknowledged.await;
        pending.settle(|_| outcome.is_ok());
        if is_rival && outcome == Ok(Ack::Stored) {
            R::settle(&self.rules, vec![identity]).await;
        }
        Ok(outcome?)
    }
}
