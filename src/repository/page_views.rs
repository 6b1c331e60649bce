//! The claims of single views, and the protocol by which updates stay exact.
//!
//! An update (1) reads all claims of the request id, (2) writes in one insert the new claim and a
//! tombstone for every live claim that differs, at a version above all that were read, and (3) reads
//! again and settles any rival that came in between. Only then does it answer. Whoever reads last
//! sees all rivals, so exactly one claim stays live however many writers there are.

use clickhouse::Row;
use serde::Deserialize;

use super::{ClickHouse, Error, READ_DEADLINE, deadline};
use crate::domain::{
    AcceptanceWindow, Claim, ClaimSet, Clock, CreatedAt, PageUrl, PageView, RequestId, UserId,
    Version, VersionSource, erase, highest_version, live, settle, supersede,
};
use crate::pipeline::Writer;

/// Looks up, updates and deletes single views.
pub struct PageViews {
    clickhouse: ClickHouse,
    writer: Writer<ClaimSet>,
    versions: VersionSource,
    clock: Clock,
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
/// where the server may have dropped a tombstone and not yet the claim that it hides.
const CLAIMS: &str = "\
SELECT user_id, toUnixTimestamp(created_at) AS created_at_unix, page_url, max(version) AS top, \
argMax(is_deleted, (version, is_deleted)) AS deleted \
FROM traffic_by_request WHERE request_id = ? AND created_at > toDateTime(?, 'UTC') \
GROUP BY user_id, created_at, page_url";

#[derive(Row, Deserialize)]
struct ClaimRow {
    user_id: u32,
    created_at_unix: u32,
    page_url: String,
    top: u64,
    deleted: u8,
}

impl PageViews {
    /// Reads claims from `clickhouse` and writes updates through `writer`, with versions from
    /// `versions`.
    pub fn new(
        clickhouse: ClickHouse,
        writer: Writer<ClaimSet>,
        versions: VersionSource,
        clock: Clock,
    ) -> Self {
        Self {
            clickhouse,
            writer,
            versions,
            clock,
        }
    }

    /// The view with this id, `None` where there is none.
    ///
    /// # Errors
    /// When ClickHouse can't answer.
    pub async fn get(&self, request_id: RequestId) -> Result<Option<Claim>, Error> {
        Ok(settle(live(&self.claims(request_id).await?)).winner)
    }

    /// Makes the view what `change` makes of it.
    ///
    /// # Errors
    /// When ClickHouse can't be read or written. The update may then have had its effect or not;
    /// sending it again settles it.
    pub async fn update(
        &self,
        request_id: RequestId,
        change: impl Fn(&PageView) -> PageView,
    ) -> Result<Update, Error> {
        let before = self.claims(request_id).await?;
        let rivals = live(&before);
        let Some(current) = settle(rivals.clone()).winner else {
            return Ok(Update::Unknown);
        };
        let view = change(&current.view);
        if view == current.view && rivals.len() == 1 {
            return Ok(Update::Stored(current));
        }
        let version = self
            .versions
            .above(highest_version(&before), self.clock.now());
        self.write(supersede(&rivals, view, version)).await?;

        let settled = settle(live(&self.claims(request_id).await?));
        self.write(settled.tombstones).await?;
        // A delete that came in between leaves no winner: the view is gone.
        Ok(settled.winner.map_or(Update::Unknown, Update::Stored))
    }

    /// Removes the view.
    ///
    /// # Errors
    /// As for [`PageViews::update`].
    pub async fn delete(&self, request_id: RequestId) -> Result<Removal, Error> {
        let before = self.claims(request_id).await?;
        let doomed = live(&before);
        if doomed.is_empty() {
            return Ok(Removal::Unknown);
        }
        let version = self
            .versions
            .above(highest_version(&before), self.clock.now());
        self.write(erase(&doomed, version)).await?;

        // An update that began earlier and was written meanwhile; later ones outlive the delete.
        let after = live(&self.claims(request_id).await?);
        let earlier = after.iter().filter(|claim| claim.version < version);
        self.write(erase(earlier, version)).await?;
        Ok(Removal::Removed)
    }

    async fn claims(&self, request_id: RequestId) -> Result<Vec<Claim>, Error> {
        let retention_days = self.clickhouse.schema.retention_days;
        let window = AcceptanceWindow::new(self.clock.now(), retention_days, 0);
        let query = self
            .clickhouse
            .reader()?
            .query(CLAIMS)
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

    async fn write(&self, rows: Vec<Claim>) -> Result<(), Error> {
        if rows.is_empty() {
            return Ok(());
        }
        self.writer.admit(ClaimSet::Many(rows))?.await?;
        Ok(())
    }
}
