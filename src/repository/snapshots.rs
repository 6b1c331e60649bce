//! Long answers, written down once and read in parts.
//!
//! Invariants: a snapshot is whole before its name is known to anybody, and never changes; it is
//! written to and read from the server that writes go to, so every instance finds it, and no replica
//! lags behind it.

use std::time::Duration;

use clickhouse::Row;
use serde::Deserialize;
use uuid::Uuid;

use super::pages::{ORDER, totals, with_prefix};
use super::sealed::Split;
use super::{ClickHouse, Error, READ_DEADLINE, READ_EXECUTION_SECS, deadline};
use crate::domain::{CreatedAt, Cursor, PageTotal, PagesPage, PagesQuery};

/// How long a cursor is good; the rows are kept longer (`migrations/0009`).
pub const SNAPSHOT_LIFE: Duration = Duration::from_secs(3600);
/// The longest answer that is written down, in rows.
pub const MAX_SNAPSHOT_ROWS: u64 = 1_000_000;

/// When a question is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moment {
    /// The time, in milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// What was acknowledged before this time is in every answer.
    pub complete_through_ms: u64,
}

#[derive(Row, Deserialize)]
struct Kept {
    start: u32,
    page_url: String,
    views: u64,
    users: u64,
}

/// Writes down the whole answer to `query`; its name, and how many rows it has.
pub(super) async fn take(
    clickhouse: &ClickHouse,
    query: &PagesQuery,
    split: Split,
) -> Result<(Uuid, u64), Error> {
    let snapshot = Uuid::new_v4();
    let sql = format!(
        "INSERT INTO traffic_pages_snapshots (snapshot, rank, start, page_url, views, users) \
         SELECT {{snapshot:UUID}}, row_number() OVER (ORDER BY {ORDER}), \
         toDateTime(start, 'UTC'), page_url, views, users FROM ({})",
        totals(query, &split)
    );
    let limit = READ_EXECUTION_SECS.to_string();
    let writer = clickhouse.writer_to_all().await?;
    let writer = writer.with_setting("max_execution_time", limit);
    let insert = with_prefix(writer.query(&sql), query)
        .param("snapshot", snapshot.to_string())
        .with_setting("async_insert", "0");
    deadline(READ_DEADLINE, insert.execute()).await?;
    let count = clickhouse
        .reader()?
        .query("SELECT count() FROM traffic_pages_snapshots WHERE snapshot = {snapshot:UUID}")
        .param("snapshot", snapshot.to_string());
    let rows = deadline(READ_DEADLINE, count.fetch_one::<u64>()).await?;
    Ok((snapshot, rows))
}

/// At most `limit` rows behind `cursor`.
pub(super) async fn read(
    clickhouse: &ClickHouse,
    cursor: Cursor,
    limit: u64,
    moment: Moment,
) -> Result<PagesPage, Error> {
    let life = u64::try_from(SNAPSHOT_LIFE.as_millis()).unwrap_or(u64::MAX);
    if moment.now_ms > cursor.taken_at_ms.saturating_add(life) {
        return Err(Error::SnapshotGone);
    }
    let sql = format!(
        "SELECT toUnixTimestamp(start) AS start, page_url, views, users \
         FROM traffic_pages_snapshots WHERE snapshot = {{snapshot:UUID}} AND rank > {} \
         ORDER BY rank LIMIT {limit}",
        cursor.rank
    );
    let query = clickhouse
        .reader()?
        .query(&sql)
        .param("snapshot", cursor.snapshot.to_string());
    let rows = deadline(READ_DEADLINE, query.fetch_all::<Kept>()).await?;
    let rank = cursor.rank + rows.len() as u64;
    // Fewer than there must be: they have expired, or never were in this database.
    if rank < cursor.rows.min(cursor.rank.saturating_add(limit)) {
        return Err(Error::SnapshotGone);
    }
    let total = |row: Kept| PageTotal {
        start: CreatedAt::from_unix(row.start),
        page_url: row.page_url,
        views: row.views,
        users: row.users,
    };
    Ok(PagesPage {
        window: cursor.window,
        interval: cursor.interval,
        pages: rows.into_iter().map(total).collect(),
        next: (rank < cursor.rows).then_some(Cursor { rank, ..cursor }),
    })
}
