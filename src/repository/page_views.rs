//! The claims of single views, and the protocol by which updates stay exact.
//!
//! An update (1) reads all claims of the request id, (2) writes the new claim and a
//! tombstone for every live claim that differs, at a version above all that were read, in one insert
//! where that is one commit and else the claim first, and (3) reads again and settles any rival that came in between. Only then does it answer. Whoever reads last
//! sees all rivals, so exactly one claim stays live however many writers there are.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use clickhouse::Row;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::warn;

use super::erasures::NOT_ERASED;
use super::{ClickHouse, Error, READ_DEADLINE, Unfinished, deadline, rows, settlement};
use crate::domain::{
    AcceptanceWindow, Claim, ClaimSet, Clock, CreatedAt, PageUrl, PageView, RequestId, UserId,
    UserSet, Version, VersionSource, erase, highest_version, live, settle, supersede,
};
use crate::pipeline::spool::{Held, Name};
use crate::pipeline::{self, Spool, Writer};

/// How many updates of unknown outcome wait to be settled; more are only logged.
const MAX_UNFINISHED: usize = 10_000;

/// Looks up, updates and deletes single views.
pub struct PageViews {
    clickhouse: ClickHouse,
    writer: Writer<ClaimSet>,
    spool: Arc<Spool>,
    versions: VersionSource,
    clock: Clock,
    unfinished: mpsc::Sender<(RequestId, Instant)>,
}

/// What is known of one view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// ClickHouse has it.
    Stored(Claim),
    /// This node's spool has it; ClickHouse has not got it yet.
    Spooled(Claim),
    /// No live view has this request id.
    Unknown,
}

/// How an update ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// The view as it now stands. Where another update won a race with this one, that is the
    /// other's.
    Stored(Claim),
    /// No live view has this request id.
    Unknown,
}

/// How a delete ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Nothing that was known before the delete is counted any more.
    Removed,
    /// No live view has this request id.
    Unknown,
}

/// All tuples that were ever claimed under one id, with the last word on each. Not `FINAL`, which
/// would hide the tombstones whose versions an update must rise above. Not beyond the retention,
/// where the server may have dropped a tombstone and not yet the claim that it hides. Nor are marks
/// claims (a tombstone without a page, see `eraser.rs`), nor what is erased.
const CLAIMS: &str = "\
SELECT user_id, toUnixTimestamp(created_at) AS created_at_unix, page_url, max(version) AS top, \
argMax(is_deleted, (version, is_deleted)) AS deleted \
FROM traffic_by_request WHERE request_id = ? AND created_at > toDateTime(?, 'UTC') \
AND page_url != '' AND ";

const BY_TUPLE: &str = " GROUP BY user_id, created_at, page_url";

#[derive(Row, Deserialize)]
struct ClaimRow {
    user_id: u32,
    created_at_unix: u32,
    page_url: String,
    top: u64,
    deleted: u8,
}

/// Runs `steps` to their end, whether or not anybody waits for it.
async fn to_the_end<T: Send + 'static>(
    steps: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    let ended = tokio::spawn(steps).await;
    ended.unwrap_or_else(|panic| Err(Error::Unexpected(panic.to_string())))
}

impl PageViews {
    /// Reads claims from `clickhouse` and from what waits in `spool`, and writes updates through
    /// `writer`, with versions from `versions`. The other half settles updates whose end is not
    /// known; it must be run.
    pub fn new(
        clickhouse: ClickHouse,
        writer: Writer<ClaimSet>,
        spool: Arc<Spool>,
        versions: VersionSource,
        clock: Clock,
    ) -> (Arc<Self>, Unfinished) {
        let (unfinished, received) = mpsc::channel(MAX_UNFINISHED);
        let page_views = Arc::new(Self {
            clickhouse,
            writer,
            spool,
            versions,
            clock,
            unfinished,
        });
        let rest = Unfinished::new(Arc::downgrade(&page_views), received);
        (page_views, rest)
    }

    /// The view with this id, wherever it is, if it is of one of `whose`. Of all others nothing is told,
    /// not even that they exist.
    ///
    /// # Errors
    /// When ClickHouse can't answer and the spool has not got it; [`Error::Waiting`] when neither
    /// has it but the spool holds more than it can look up.
    pub async fn get(&self, request_id: RequestId, whose: &UserSet) -> Result<Lookup, Error> {
        // The spool before ClickHouse: what moves from the one to the other in between is seen.
        let held = self.spool.holds(request_id.get());
        let claims = self.claims(request_id).await;
        if let Ok(claims) = &claims
            && let Some(winner) = settle(claims).winner
            && whose.contains(winner.view.user_id)
        {
            return Ok(Lookup::Stored(winner));
        }
        match held {
            Held::No => claims.map(|_| Lookup::Unknown),
            Held::Unknown => claims.and(Err(Error::Waiting)),
            Held::Yes(name) => match self.spooled(name, request_id).await {
                // A copy of a view that was deleted since.
                Some(waiting)
                    if claims
                        .as_ref()
                        .is_ok_and(|all| all.iter().any(|c| c.view == waiting.view)) =>
                {
                    Ok(Lookup::Unknown)
                }
                Some(waiting) if !whose.contains(waiting.view.user_id) => Ok(Lookup::Unknown),
                Some(waiting) => Ok(Lookup::Spooled(waiting)),
                // Replayed just now.
                None => {
                    let winner = settle(&self.claims(request_id).await?).winner;
                    let winner = winner.filter(|claim| whose.contains(claim.view.user_id));
                    Ok(winner.map_or(Lookup::Unknown, Lookup::Stored))
                }
            },
        }
    }

    async fn spooled(&self, name: Name, request_id: RequestId) -> Option<Claim> {
        let spool = Arc::clone(&self.spool);
        let read = tokio::task::spawn_blocking(move || spool.read(&name)).await;
        let batch = read.ok()?.ok()?.batch;
        let mut claims = rows::decode_claims(&batch).into_iter();
        claims.find(|claim| {
            let PageView {
                user_id,
                created_at,
                ..
            } = claim.view;
            claim.view.request_id == request_id && !self.clickhouse.is_erased(user_id, created_at)
        })
    }

    /// Makes the view what `change` makes of it, if it is of one of `whose`; others are as unknown.
    /// Goes on when the caller does not wait for the end:
    /// an update that stops between its steps would leave rivals.
    ///
    /// # Errors
    /// When ClickHouse can't be read or written. The update may then have had its effect or not;
    /// sending it again settles it.
    pub async fn update(
        self: &Arc<Self>,
        request_id: RequestId,
        whose: UserSet,
        change: impl Fn(&PageView) -> PageView + Send + Sync + 'static,
    ) -> Result<Update, Error> {
        let own = Arc::clone(self);
        to_the_end(async move { own.update_steps(request_id, &whose, change).await }).await
    }

    /// Removes the view, if it is of one of `whose`; others are as unknown. Goes on when the caller does not wait for the end.
    ///
    /// # Errors
    /// As for [`PageViews::update`].
    pub async fn delete(
        self: &Arc<Self>,
        request_id: RequestId,
        whose: UserSet,
    ) -> Result<Removal, Error> {
        let own = Arc::clone(self);
        to_the_end(async move { own.delete_steps(request_id, &whose).await }).await
    }

    async fn update_steps(
        &self,
        request_id: RequestId,
        whose: &UserSet,
        change: impl Fn(&PageView) -> PageView,
    ) -> Result<Update, Error> {
        // The spool before ClickHouse: what moves from the one to the other in between is seen.
        let held = self.spool.holds(request_id.get());
        let before = self.claims(request_id).await?;
        let rivals = live(&before);
        let settled = settle(&before);
        let Some(current) = settled.winner else {
            self.write(settled.tombstones).await?;
            return absent(&held, Update::Unknown);
        };
        if !whose.contains(current.view.user_id) {
            return absent(&held, Update::Unknown);
        }
        let view = change(&current.view);
        if (view.user_id, view.created_at) != (current.view.user_id, current.view.created_at) {
            // Asked for, not remembered: every instance answers alike, as soon as it is recorded.
            let until = self.clickhouse.erased_until(view.user_id).await?;
            if until.is_some_and(|until| view.created_at <= until) {
                return Err(Error::Erased(view.user_id));
            }
        }
        if view == current.view && rivals.len() == 1 {
            return Ok(Update::Stored(current));
        }
        let version = self
            .versions
            .above(highest_version(&before), self.clock.now());
        let written = async {
            let rows = supersede(&rivals, view, version);
            for rows in self.clickhouse.inserts(rows) {
                self.write(rows).await?;
            }
            self.settle(request_id).await
        };
        match written.await {
            // A delete that came in between leaves no winner: the view is gone. So it is for this caller
            // where a rival has given it to a user of others.
            Ok(winner) => Ok(winner
                .filter(|claim| whose.contains(claim.view.user_id))
                .map_or(Update::Unknown, Update::Stored)),
            Err(error) => Err(self.unfinished(request_id, error)),
        }
    }

    /// Makes sure that at most one claim is live, and returns it.
    pub(super) async fn settle(&self, request_id: RequestId) -> Result<Option<Claim>, Error> {
        let settled = settle(&self.claims(request_id).await?);
        self.write(settled.tombstones).await?;
        Ok(settled.winner)
    }

    /// The rows of an update may have arrived, or may yet: somebody must settle them.
    fn unfinished(&self, request_id: RequestId, error: Error) -> Error {
        let nothing_sent = matches!(
            error,
            Error::Write(pipeline::Error::Full | pipeline::Error::Stopping)
        );
        if !nothing_sent
            && self
                .unfinished
                .try_send((request_id, settlement::due()))
                .is_err()
        {
            warn!(
                request_id = request_id.get(),
                "update of unknown outcome left unsettled"
            );
        }
        error
    }

    async fn delete_steps(&self, request_id: RequestId, whose: &UserSet) -> Result<Removal, Error> {
        let held = self.spool.holds(request_id.get());
        let before = self.claims(request_id).await?;
        let doomed = live(&before);
        let is_of_others = |claim: &Claim| !whose.contains(claim.view.user_id);
        if doomed.is_empty() || doomed.iter().any(is_of_others) {
            return absent(&held, Removal::Unknown);
        }
        let version = self
            .versions
            .above(highest_version(&before), self.clock.now());
        let written = async {
            self.write(erase(&doomed, version)).await?;
            // An update that began earlier and was written meanwhile; later ones outlive the delete.
            let after = live(&self.claims(request_id).await?);
            let earlier = after.iter().filter(|claim| claim.version < version);
            self.write(erase(earlier, version)).await
        };
        match written.await {
            Ok(()) => Ok(Removal::Removed),
            Err(error) => Err(self.unfinished(request_id, error)),
        }
    }

    async fn claims(&self, request_id: RequestId) -> Result<Vec<Claim>, Error> {
        self.clickhouse.claims(request_id, self.clock.now()).await
    }

    async fn write(&self, rows: Vec<Claim>) -> Result<(), Error> {
        if rows.is_empty() {
            return Ok(());
        }
        self.writer.admit(ClaimSet::Many(rows))?.await?;
        Ok(())
    }
}

/// The answer for an id of which ClickHouse knows no live view, by what the spool held just before.
fn absent<T>(held: &Held, unknown: T) -> Result<T, Error> {
    match held {
        Held::No => Ok(unknown),
        Held::Yes(_) | Held::Unknown => Err(Error::Waiting),
    }
}

impl ClickHouse {
    /// All claims of one id that are within the retention at `now`, tombstones included.
    pub(super) async fn claims(
        &self,
        request_id: RequestId,
        now: DateTime<Utc>,
    ) -> Result<Vec<Claim>, Error> {
        let window = AcceptanceWindow::new(now, self.schema.retention_days, 0);
        let query = self
            .reader()?
            .query(&format!("{CLAIMS}{NOT_ERASED}{BY_TUPLE}"))
            .bind(request_id.get())
            .bind(window.expired_until().unix());
        let rows = deadline(READ_DEADLINE, query.fetch_all::<ClaimRow>()).await?;
        let claim = |row: ClaimRow| Claim {
            view: PageView {
                request_id,
                user_id: UserId::new(row.user_id),
                created_at: CreatedAt::from_unix(row.created_at_unix),
                page_url: PageUrl::trusted(row.page_url),
            },
            version: Version::new(row.top),
            is_deleted: row.deleted != 0,
        };
        Ok(rows.into_iter().map(claim).collect())
    }
}
