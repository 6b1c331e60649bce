//! The days of one user, whose edges may lie anywhere.
//!
//! ClickHouse is given the first second of each day and asked which of them a row comes after; it is
//! never asked about time zones, of which it has a list of its own.

use clickhouse::Row;
use serde::Deserialize;

use super::erasures::not_erased_of;
use super::measures::{Report, Source};
use super::sealed::{CleanHours, Split, clean_for_user, read_claims_only, read_steadily, within};
use super::{Error, READ_DEADLINE, Reports, deadline};
use crate::domain::{CreatedAt, DaysQuery, DaysReport, Hour, UserId};

/// Hours that hold the edge of a day are read from the claims, each in a range of its own. A
/// statement has room for this many besides those of other gaps: a year of a zone of half hours.
const MAX_EDGES: usize = 400;
/// For gaps of other kinds.
const OTHER_RANGES: usize = 16;

#[derive(Row, Deserialize)]
struct DayCount {
    day: u32,
    page_url: String,
    views: u64,
}

impl Reports {
    /// Views of one user by day; zeros for an unknown user. The days must not reach back beyond the
    /// retention.
    ///
    /// # Errors
    /// When ClickHouse can't answer.
    pub async fn days(&self, user_id: UserId, query: &DaysQuery) -> Result<DaysReport, Error> {
        self.measured(Report::Days, async |reports| {
            reports.read_all_days(user_id, query).await
        })
        .await
    }

    async fn read_all_days(
        &self,
        user_id: UserId,
        query: &DaysQuery,
    ) -> Result<(DaysReport, Source), Error> {
        let window = query.window();
        let length = window.until.unix().saturating_sub(window.from.unix());
        let read = |split: Split| self.read_days(user_id, query, split);
        let (report, source) = if self.reads_view(user_id, length) {
            let edges = edges(query);
            let max_ranges = OTHER_RANGES + edges.len().min(MAX_EDGES);
            let edges = &edges;
            // Counts of the user's hours up to an erasure may still be there.
            let erased = self.clickhouse.erased_until(user_id).await?;
            let whole = |mut clean: CleanHours| {
                clean.retain(|hour, _| edges.binary_search(hour).is_err());
                clean.retain(|hour, _| erased.is_none_or(|until| hour.start() > until.unix()));
                clean
            };
            let seen = whole(self.seen.within(window));
            let look = |since| async move {
                let (clickhouse, seen) = (&self.clickhouse, &self.seen);
                let clean = clean_for_user(clickhouse, user_id, window, since, seen).await?;
                Ok(whole(clean))
            };
            let split = |clean: &CleanHours| Split::within_ranges(window, clean, max_ranges);
            read_steadily(window, seen, look, split, read).await?
        } else {
            read_claims_only(window, read).await?
        };
        self.remember(user_id, report.views(), length);
        Ok((report, source))
    }

    async fn read_days(
        &self,
        user_id: UserId,
        query: &DaysQuery,
        split: Split,
    ) -> Result<DaysReport, Error> {
        let sql = by_day(user_id, query, &split);
        let rows = self.clickhouse.reader()?.query(&sql);
        let rows = deadline(READ_DEADLINE, rows.fetch_all::<DayCount>()).await?;
        let count = |row: DayCount| (CreatedAt::from_unix(row.day), row.page_url, row.views);
        Ok(query.report(rows.into_iter().map(count)))
    }
}

/// The hours within which a day begins, rising.
fn edges(query: &DaysQuery) -> Vec<Hour> {
    let starts = query.starts().map(CreatedAt::unix);
    let inside = starts.filter(|start| Hour::containing(*start).start() != *start);
    let mut hours: Vec<Hour> = inside.map(Hour::containing).collect();
    hours.dedup();
    hours
}

fn by_day(user_id: UserId, query: &DaysQuery, split: &Split) -> String {
    let user = user_id.get();
    let starts: Vec<String> = query.starts().map(|at| at.unix().to_string()).collect();
    let starts = starts.join(",");
    let not_erased = not_erased_of(user_id);
    let (hours, times) = (
        within("hour", &split.sealed),
        within("created_at", &split.claims),
    );
    let (page, from_hours) = match query.is_by_page() {
        true => (
            "page_url",
            "page AS page_url, sum(viewed) AS n FROM traffic_hourly FINAL \
             ARRAY JOIN pages AS page, views AS viewed",
        ),
        false => (
            "'' AS page_url",
            "'' AS page_url, sum(total) AS n FROM traffic_hourly FINAL",
        ),
    };
    format!(
        "WITH [{starts}]::Array(UInt32) AS starts \
         SELECT day, page_url, sum(n) AS views FROM (\
         SELECT roundDown(toUInt32(hour), starts) AS day, {from_hours} \
         PREWHERE user_id = {user} AND {hours} GROUP BY day, page_url \
         UNION ALL SELECT roundDown(toUInt32(created_at), starts) AS day, {page}, count() AS n \
         FROM traffic FINAL PREWHERE user_id = {user} AND {times} AND {not_erased} \
         GROUP BY day, page_url\
         ) GROUP BY day, page_url"
    )
}
