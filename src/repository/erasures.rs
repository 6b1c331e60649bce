//! The erasures that ClickHouse knows of, and what they mean for whoever reads or writes claims.
//!
//! Invariants: a claim that an erasure covers is not counted from the moment on at which the erasure can
//! be read, whether or not its rows are gone; this process sends no such row any more once it has
//! learned of the erasure, and by then none that it sent earlier is under way.

use std::borrow::Cow;

use clickhouse::Row;
use serde::Deserialize;
use tokio::sync::{RwLock, RwLockReadGuard};

use super::rows::{is_page_views, read_row};
use super::{ClickHouse, Error, READ_DEADLINE, ServerTime, deadline};
use crate::domain::{CreatedAt, Erasures, UserId};
use crate::pipeline::Batch;

/// A condition, in SQL, on the columns `user_id` and `created_at` of claims: no erasure covers the row.
/// Both are in the sort keys, so it may stand before `FINAL` merges.
///
/// Scalars, not a join: they are computed once, by the server that was asked, also on a cluster. Where
/// nobody was erased, nothing of it is left when rows are read.
pub(super) const NOT_ERASED: &str = "\
((SELECT count() FROM traffic_erasures) = 0 OR toUInt32(created_at) > transform(user_id, \
(SELECT groupArray(user_id) FROM (SELECT user_id FROM traffic_erasures \
GROUP BY user_id ORDER BY user_id)), \
(SELECT groupArray(until) FROM (SELECT toUInt32(max(until)) AS until FROM traffic_erasures \
GROUP BY user_id ORDER BY user_id)), toUInt32(0)))";

/// The claims of one user that no erasure covers: a condition, in SQL, on `created_at`.
pub(super) fn not_erased_of(user_id: UserId) -> String {
    format!(
        "created_at > (SELECT max(until) FROM traffic_erasures WHERE user_id = {})",
        user_id.get()
    )
}

/// What this process knows of erasures.
#[derive(Default)]
pub(super) struct Known {
    users: Erasures,
    /// Shared by writes that are under way, exclusive for learning.
    writing: RwLock<()>,
}

/// An erasure as it is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Recorded {
    pub(super) user_id: UserId,
    /// The last second that is erased.
    pub(super) until: CreatedAt,
    /// When it was recorded.
    pub(super) at: ServerTime,
}

#[derive(Row, Deserialize)]
struct RecordedRow {
    user_id: u32,
    until_unix: u32,
    at: i64,
}

impl Known {
    /// Held while rows that were filtered are under way.
    pub(super) async fn writing(&self) -> RwLockReadGuard<'_, ()> {
        self.writing.read().await
    }

    /// The batch without the rows that are erased; nothing if none is left.
    pub(super) fn filter<'a>(&self, batch: &'a Batch) -> Option<Cow<'a, Batch>> {
        if self.users.is_empty() || !is_page_views(batch) {
            return Some(Cow::Borrowed(batch));
        }
        let mut kept = Vec::with_capacity(batch.bytes.len());
        let (mut rows, mut rest) = (0, &batch.bytes[..]);
        loop {
            let before = rest;
            let Some(row) = read_row(&mut rest) else {
                // What can't be read is for ClickHouse to judge.
                kept.extend_from_slice(before);
                break;
            };
            // A mark is of nobody.
            let is_mark = row.page_url.is_empty();
            let user = UserId::new(row.user_id);
            if is_mark || !self.users.cover(user, CreatedAt::from_unix(row.created_at)) {
                kept.extend_from_slice(&before[..before.len() - rest.len()]);
                rows += 1;
            }
        }
        if kept.len() == batch.bytes.len() {
            return Some(Cow::Borrowed(batch));
        }
        (!kept.is_empty()).then(|| {
            Cow::Owned(Batch {
                rows,
                token: uuid::Uuid::new_v4(),
                bytes: kept.into(),
                ..batch.clone()
            })
        })
    }
}

impl ClickHouse {
    /// What this process knows of them.
    pub fn erasures(&self) -> Erasures {
        self.erased.users.clone()
    }

    /// Whether this process knows that a view of `user` at `created_at` is erased.
    pub fn is_erased(&self, user: UserId, created_at: CreatedAt) -> bool {
        self.erased.users.cover(user, created_at)
    }

    /// From now on no row that the erasure covers is sent, and none is under way from here. Whether
    /// there was anything to learn.
    pub(super) async fn learn(&self, user: UserId, until: CreatedAt) -> bool {
        let _alone = self.erased.writing.write().await;
        self.erased.users.note(user, until)
    }

    /// Asks for all erasures and learns them; those that were new.
    ///
    /// # Errors
    /// When ClickHouse can't answer.
    pub(super) async fn learn_erasures(&self) -> Result<Vec<Recorded>, Error> {
        let mut new = Vec::new();
        for erasure in self.recorded_erasures().await? {
            if !self.knows(&erasure) {
                self.learn(erasure.user_id, erasure.until).await;
                new.push(erasure);
            }
        }
        Ok(new)
    }

    /// All erasures on record.
    ///
    /// # Errors
    /// When ClickHouse can't answer.
    pub(super) async fn recorded_erasures(&self) -> Result<Vec<Recorded>, Error> {
        let query = self.reader()?.query(
            "SELECT user_id, toUnixTimestamp(max(until)) AS until_unix, \
             toUnixTimestamp64Milli(max(erased_at)) AS at FROM traffic_erasures GROUP BY user_id",
        );
        let rows = deadline(READ_DEADLINE, query.fetch_all::<RecordedRow>()).await?;
        let recorded = |row: RecordedRow| Recorded {
            user_id: UserId::new(row.user_id),
            until: CreatedAt::from_unix(row.until_unix),
            at: ServerTime::from_millis(row.at),
        };
        Ok(rows.into_iter().map(recorded).collect())
    }

    /// The server's clock.
    pub(super) async fn server_now(&self) -> Result<ServerTime, Error> {
        let query = self
            .reader()?
            .query("SELECT toUnixTimestamp64Milli(now64(3))");
        let now = deadline(READ_DEADLINE, query.fetch_one::<i64>()).await?;
        Ok(ServerTime::from_millis(now))
    }

    /// Learns all erasures before anything is written.
    ///
    /// # Errors
    /// When ClickHouse can't answer.
    pub async fn prepare_erasures(&self) -> Result<(), Error> {
        self.learn_erasures().await.map(|_| ())
    }

    fn knows(&self, erasure: &Recorded) -> bool {
        self.is_erased(erasure.user_id, erasure.until)
    }

    /// Up to when a user is erased; nothing for who is not.
    pub(super) async fn erased_until(&self, user_id: UserId) -> Result<Option<CreatedAt>, Error> {
        let query = self
            .reader()?
            .query("SELECT toUnixTimestamp(max(until)) FROM traffic_erasures WHERE user_id = ?")
            .bind(user_id.get());
        let until = deadline(READ_DEADLINE, query.fetch_one::<u32>()).await?;
        Ok((until > 0).then(|| CreatedAt::from_unix(until)))
    }
}
