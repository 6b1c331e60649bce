//! The pages of the whole site.

use clickhouse::Row;
use clickhouse::query::Query;
use serde::Deserialize;

use super::erasures::NOT_ERASED;
use super::measures::{Report, Source};
use super::sealed::{
    CleanHours, LastSeen, Split, clean_for_site, read_claims_only, read_steadily, within,
};
use super::snapshots::{self, MAX_SNAPSHOT_ROWS, Moment};
use super::{ClickHouse, Error, Plan, READ_DEADLINE, Reports, deadline};
use crate::domain::{
    CreatedAt, Cursor, Interval, PageTotal, PagesPage, PagesQuery, PagesRequest, ReportWindow,
};

/// By start, then most viewed first; each (start, page) is one row, so this is total.
pub(super) const ORDER: &str = "start, views DESC, page_url";

#[derive(Row, Deserialize)]
struct Total {
    start: u32,
    page_url: String,
    views: u64,
    users: u64,
    /// How many rows there are in all.
    rows: u64,
}

impl Reports {
    /// Views and users of the pages of the site. The window must not reach back beyond the retention.
    ///
    /// An answer that is longer than its limit is written down as a whole before its first part is
    /// given out, so that all parts are of one moment.
    ///
    /// # Errors
    /// When ClickHouse can't answer; [`Error::SnapshotGone`] for a cursor that is too old or not of
    /// this database; [`Error::AnswerTooLong`] for an answer that is not kept.
    pub async fn pages(&self, request: &PagesRequest, moment: Moment) -> Result<PagesPage, Error> {
        self.measured(Report::Pages, async |reports| {
            reports.read_pages(request, moment).await
        })
        .await
    }

    async fn read_pages(
        &self,
        request: &PagesRequest,
        moment: Moment,
    ) -> Result<(PagesPage, Source), Error> {
        let query = match request {
            PagesRequest::Next(cursor, limit) => {
                let page = snapshots::read(&self.writes, *cursor, *limit, moment).await?;
                return Ok((page, Source::Kept));
            }
            PagesRequest::First(query) => query,
        };
        let ((mut pages, rows), source) = self
            .steadily(&self.clickhouse, &self.seen, query.window, |split| {
                self.first_rows(query, split)
            })
            .await?;
        if rows <= query.limit || !query.continues {
            pages.truncate(usize::try_from(query.limit).unwrap_or(usize::MAX));
            let page = PagesPage {
                window: query.window,
                interval: query.interval,
                pages,
                next: None,
            };
            return Ok((page, source));
        }
        if rows > MAX_SNAPSHOT_ROWS {
            return Err(Error::AnswerTooLong {
                rows,
                max: MAX_SNAPSHOT_ROWS,
            });
        }
        // What was seen on a replica says nothing of the server that is written to.
        let nothing_seen = LastSeen::default();
        let ((snapshot, rows), source) = self
            .steadily(&self.writes, &nothing_seen, query.window, |split| {
                snapshots::take(&self.writes, query, split)
            })
            .await?;
        let beginning = Cursor {
            snapshot,
            rows,
            rank: 0,
            taken_at_ms: moment.now_ms,
            complete_through_ms: moment.complete_through_ms,
            window: query.window,
            interval: query.interval,
            prefix: Cursor::digest(&query.prefix),
        };
        let page = snapshots::read(&self.writes, beginning, query.limit, moment).await?;
        Ok((page, source))
    }

    /// By the plan, what the site's sealed hours and the claims have of a window.
    pub(super) async fn steadily<T, R: Future<Output = Result<T, Error>>>(
        &self,
        clickhouse: &ClickHouse,
        seen: &LastSeen,
        window: ReportWindow,
        read: impl Fn(Split) -> R,
    ) -> Result<(T, Source), Error> {
        if self.plan == Plan::Claims {
            return read_claims_only(window, read).await;
        }
        let look = |since| clean_for_site(clickhouse, window, since, seen);
        let split = |clean: &CleanHours| Split::new(window, clean);
        read_steadily(window, seen.within(window), look, split, read).await
    }

    /// As many rows as are asked for, and how many there are.
    async fn first_rows(
        &self,
        query: &PagesQuery,
        split: Split,
    ) -> Result<(Vec<PageTotal>, u64), Error> {
        let sql = format!(
            "SELECT start, page_url, views, users, count() OVER () AS rows FROM ({}) \
             ORDER BY {ORDER} LIMIT {}",
            totals(query, &split),
            query.limit
        );
        let rows = with_prefix(self.clickhouse.reader()?.query(&sql), query);
        let rows = deadline(READ_DEADLINE, rows.fetch_all::<Total>()).await?;
        let in_all = rows.first().map_or(0, |row| row.rows);
        let total = |row: Total| PageTotal {
            start: CreatedAt::from_unix(row.start),
            page_url: row.page_url,
            views: row.views,
            users: row.users,
        };
        Ok((rows.into_iter().map(total).collect(), in_all))
    }
}

/// All rows of the answer in no order, for a query that [`with_prefix`] has seen.
pub(super) fn totals(query: &PagesQuery, split: &Split) -> String {
    let start = |column| start_of(query.interval, query.window, column);
    let pages = match query.prefix.is_empty() {
        true => "",
        false => " AND startsWith(page_url, unhex({prefix:String}))",
    };
    format!(
        "SELECT start, page_url, sum(n) AS views, toUInt64(groupBitmapMerge(viewers)) AS users \
         FROM (\
         SELECT {} AS start, page_url, views AS n, users AS viewers FROM traffic_hourly_pages FINAL \
         PREWHERE {}{pages} WHERE views > 0 \
         UNION ALL SELECT {} AS start, page_url, count() AS n, groupBitmapState(user_id) AS viewers \
         FROM traffic FINAL PREWHERE {}{pages} AND {NOT_ERASED} GROUP BY start, page_url\
         ) GROUP BY start, page_url",
        start("hour"),
        within("hour", &split.sealed),
        start("created_at"),
        within("created_at", &split.claims),
    )
}

/// The start of the interval that the time in `column` is in.
pub(super) fn start_of(interval: Interval, window: ReportWindow, column: &str) -> String {
    match interval.seconds() {
        Some(length) => format!("toUInt32(intDiv(toUInt32({column}), {length}) * {length})"),
        None => format!("toUInt32({})", window.from.unix()),
    }
}

/// The prefix as a parameter beside the statement. In hexadecimal it is the same text under every
/// rule of escaping there is on the way.
pub(super) fn with_prefix(sql: Query, query: &PagesQuery) -> Query {
    let bytes = query.prefix.bytes();
    let hex: String = bytes.map(|byte| format!("{byte:02x}")).collect();
    sql.param("prefix", hex)
}
