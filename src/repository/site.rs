//! The traffic of the whole site.

use clickhouse::Row;
use serde::Deserialize;

use super::erasures::NOT_ERASED;
use super::measures::Report;
use super::pages::start_of;
use super::sealed::{Split, within};
use super::{Error, READ_DEADLINE, Reports, deadline};
use crate::domain::{CreatedAt, SiteQuery, SiteTotal};

#[derive(Row, Deserialize)]
struct Total {
    start: u32,
    views: u64,
    users: u64,
}

impl Reports {
    /// Views and users of the site in each interval. The window must not reach back beyond the
    /// retention.
    ///
    /// # Errors
    /// When ClickHouse can't answer.
    pub async fn site(&self, query: &SiteQuery) -> Result<Vec<SiteTotal>, Error> {
        let answer = async |reports: &Reports| {
            let read = |split| async move {
                let read = reports.clickhouse.reader()?.query(&totals(query, &split));
                deadline(READ_DEADLINE, read.fetch_all::<Total>()).await
            };
            reports
                .steadily(&reports.clickhouse, &reports.seen, query.window(), read)
                .await
        };
        let rows = self.measured(Report::Site, answer).await?;
        let total = |row: Total| SiteTotal {
            start: CreatedAt::from_unix(row.start),
            views: row.views,
            users: row.users,
        };
        Ok(query.report(rows.into_iter().map(total)))
    }
}

/// Bitmaps are merged before the parts meet, so that a user of many pages is one user.
fn totals(query: &SiteQuery, split: &Split) -> String {
    let start = |column| start_of(query.interval(), query.window(), column);
    format!(
        "SELECT start, sum(n) AS views, toUInt64(groupBitmapMerge(viewers)) AS users FROM (\
         SELECT {} AS start, sum(views) AS n, groupBitmapMergeState(users) AS viewers \
         FROM traffic_hourly_pages FINAL PREWHERE {} WHERE views > 0 GROUP BY start \
         UNION ALL SELECT {} AS start, count() AS n, groupBitmapState(user_id) AS viewers \
         FROM traffic FINAL PREWHERE {} AND {NOT_ERASED} GROUP BY start\
         ) GROUP BY start HAVING views > 0",
        start("hour"),
        within("hour", &split.sealed),
        start("created_at"),
        within("created_at", &split.claims),
    )
}
