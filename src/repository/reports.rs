//! Reports, read from the claims.

use clickhouse::Row;
use serde::Deserialize;

use super::{ClickHouse, Error, READ_DEADLINE, deadline};
use crate::domain::{DailyReport, DailyWindow, UserId};

/// Answers reports; cheap to clone.
#[derive(Clone)]
pub struct Reports {
    clickhouse: ClickHouse,
}

/// `PREWHERE` filters before `FINAL` merges. That is exact only because both columns are in the sort
/// key: a claim and its tombstone share them, so the filter takes both or neither.
const DAILY: &str = "\
SELECT page_url, count() AS views FROM traffic FINAL \
PREWHERE user_id = ? AND created_at >= toDateTime(?, 'UTC') AND created_at < toDateTime(?, 'UTC') \
GROUP BY page_url ORDER BY views DESC, page_url";

#[derive(Row, Deserialize)]
struct PageCount {
    page_url: String,
    views: u64,
}

impl Reports {
    /// Reads from `clickhouse`, which may be a replica of the one that is written to.
    pub fn new(clickhouse: ClickHouse) -> Self {
        Self { clickhouse }
    }

    /// Views of one user by page in `window`; empty for an unknown user.
    ///
    /// # Errors
    /// When ClickHouse can't answer.
    pub async fn daily(&self, user_id: UserId, window: DailyWindow) -> Result<DailyReport, Error> {
        let query = self
            .clickhouse
            .reader()?
            .query(DAILY)
            .bind(user_id.get())
            .bind(window.from.unix())
            .bind(window.until.unix());
        let rows = deadline(READ_DEADLINE, query.fetch_all::<PageCount>()).await?;
        Ok(DailyReport {
            pages: rows.into_iter().map(|r| (r.page_url, r.views)).collect(),
        })
    }
}
