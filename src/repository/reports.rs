//! Reports, read from the claims, or from the pre-aggregate and the claims where it ends.
//!
//! Both ways give the same numbers at every moment; [`Plan`] only says what they cost.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clickhouse::Row;
use clickhouse::query::Query;
use lru::LruCache;
use serde::Deserialize;

use super::erasures::not_erased_of;
use super::measures::{Report, ReportMeasures, Source};
use super::sealed::{LastSeen, Split, clean_for_user, read_steadily, within};
use super::{ClickHouse, Error, READ_DEADLINE, deadline};
use crate::domain::{CreatedAt, DailyReport, ReportWindow, UserId};
use crate::telemetry::metrics::Metrics;

/// From so many views in its window on a report is cheaper from the pre-aggregate: from half a million
/// where parts are yet unmerged, from some three millions where they are merged (`docs/data-model.md`,
/// "What the pre-aggregate gives"). In between it saves more than it costs. It only decides what a
/// report costs.
const WORTH_THE_VIEW: u64 = 750_000;

/// A window of a user of whom nothing is known is read from the pre-aggregate if it is longer than
/// this, in seconds.
const LONG_WINDOW: u32 = 2 * 86_400;

/// Of so many users it is remembered how much they view: about 4 MB.
const KNOWN_USERS: NonZeroUsize = NonZeroUsize::new(50_000).unwrap();

/// Where reports are read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Where it is cheaper, by what the user's last report held.
    Auto,
    /// The pre-aggregate, and the claims where it ends.
    View,
    /// The claims.
    Claims,
}

/// Answers reports; cheap to clone.
#[derive(Clone)]
pub struct Reports {
    pub(super) clickhouse: ClickHouse,
    /// Where snapshots are written, and read.
    pub(super) writes: ClickHouse,
    pub(super) plan: Plan,
    /// What was sealed at the last look at `clickhouse`.
    pub(super) seen: Arc<LastSeen>,
    /// Views per day of the users who were last asked for.
    volumes: Arc<Mutex<LruCache<UserId, u64>>>,
    pub(super) measures: Arc<ReportMeasures>,
    /// A report that takes so long is logged.
    pub(super) slow: Duration,
}

/// `PREWHERE` filters before `FINAL` merges. That is exact only because both columns are in the sort
/// key: a claim and its tombstone share them, so the filter takes both or neither.
///
/// What is on record of the user's erasures comes with it, as pages without a name, which no view has:
/// cheaper than as a scalar in the condition (`docs/privacy.md`). The claims come first: whoever sees what
/// an erasure has begun to take away sees its record too.
const FROM_CLAIMS: &str = "\
SELECT page_url, count() AS views FROM traffic FINAL \
PREWHERE user_id = ? AND created_at >= toDateTime(?, 'UTC') AND created_at < toDateTime(?, 'UTC') \
GROUP BY page_url \
UNION ALL \
SELECT '' AS page_url, toUInt64(toUnixTimestamp(until)) AS views FROM traffic_erasures \
WHERE user_id = ?";

#[derive(Row, Deserialize)]
struct PageCount {
    page_url: String,
    views: u64,
}

impl Reports {
    /// Reads from `clickhouse`, and writes there what it must remember.
    pub fn new(clickhouse: ClickHouse, plan: Plan) -> Self {
        Self {
            writes: clickhouse.clone(),
            clickhouse,
            plan,
            seen: Arc::default(),
            volumes: Arc::new(Mutex::new(LruCache::new(KNOWN_USERS))),
            measures: Arc::default(),
            slow: Duration::MAX,
        }
    }

    /// Reads from a replica instead; it still writes where it did.
    #[must_use]
    pub fn reading_from(self, replica: ClickHouse) -> Self {
        Self {
            clickhouse: replica,
            seen: Arc::default(),
            ..self
        }
    }

    /// Logs reports that take as long as `slow`, or longer.
    #[must_use]
    pub fn logging_from(self, slow: Duration) -> Self {
        Self { slow, ..self }
    }

    /// Views of one user by page in `window`; empty for an unknown user. The window must not reach
    /// back beyond the retention.
    ///
    /// # Errors
    /// When ClickHouse can't answer.
    pub async fn daily(&self, user_id: UserId, window: ReportWindow) -> Result<DailyReport, Error> {
        self.measured(Report::Daily, async |reports| {
            reports.read_daily(user_id, window).await
        })
        .await
    }

    /// Runs a report and notes what it cost.
    pub(super) async fn measured<T>(
        &self,
        report: Report,
        answer: impl AsyncFnOnce(&Self) -> Result<(T, Source), Error>,
    ) -> Result<T, Error> {
        let run = self.measures.run(report, self.slow, async |statements| {
            let named = Self {
                clickhouse: self.clickhouse.named(statements),
                writes: self.writes.named(statements),
                ..self.clone()
            };
            answer(&named).await
        });
        run.await
    }

    /// Shows what reports cost among `metrics`.
    pub fn show(&self, metrics: &Metrics) {
        self.measures.show(metrics);
    }

    async fn read_daily(
        &self,
        user_id: UserId,
        window: ReportWindow,
    ) -> Result<(DailyReport, Source), Error> {
        let length = window.until.unix().saturating_sub(window.from.unix());
        let (report, source) = if self.reads_view(user_id, length) {
            self.read_view(user_id, window).await?
        } else {
            (self.read_claims(user_id, window).await?, Source::Claims)
        };
        self.remember(user_id, report.views(), length);
        Ok((report, source))
    }

    /// How much a user views, for choosing the plan next time.
    pub(super) fn remember(&self, user_id: UserId, views: u64, length: u32) {
        let per_day = views.saturating_mul(86_400) / u64::from(length.max(1));
        let mut volumes = self.volumes.lock().unwrap_or_else(PoisonError::into_inner);
        volumes.put(user_id, per_day);
    }

    pub(super) fn reads_view(&self, user_id: UserId, length: u32) -> bool {
        match self.plan {
            Plan::View => true,
            Plan::Claims => false,
            Plan::Auto => {
                let mut volumes = self.volumes.lock().unwrap_or_else(PoisonError::into_inner);
                match volumes.get(&user_id) {
                    Some(per_day) => {
                        per_day.saturating_mul(length.into()) / 86_400 >= WORTH_THE_VIEW
                    }
                    None => length > LONG_WINDOW,
                }
            }
        }
    }

    /// What no erasure covers of a window of one user.
    async fn not_erased(
        &self,
        user_id: UserId,
        window: ReportWindow,
    ) -> Result<Option<ReportWindow>, Error> {
        let Some(until) = self.clickhouse.erased_until(user_id).await? else {
            return Ok(Some(window));
        };
        let first = CreatedAt::from_unix(until.unix().saturating_add(1));
        let from = window.from.max(first);
        let left = ReportWindow { from, ..window };
        Ok((from < window.until).then_some(left))
    }

    /// Forgets how much a user views.
    pub(super) fn forget(&self, user_id: UserId) {
        let mut volumes = self.volumes.lock().unwrap_or_else(PoisonError::into_inner);
        volumes.pop(&user_id);
    }

    async fn read_claims(
        &self,
        user_id: UserId,
        window: ReportWindow,
    ) -> Result<DailyReport, Error> {
        let mut from = window.from;
        loop {
            let query = self
                .clickhouse
                .reader()?
                .query(FROM_CLAIMS)
                .bind(user_id.get())
                .bind(from.unix())
                .bind(window.until.unix())
                .bind(user_id.get());
            let read = daily_report(query).await?.pages;
            let (erasures, mut pages): (Vec<_>, Vec<_>) =
                read.into_iter().partition(|(page, _)| page.is_empty());
            let until = erasures.into_iter().map(|(_, until)| until).max();
            let first = until.map_or(0, |until| u32::try_from(until + 1).unwrap_or(u32::MAX));
            if first <= from.unix() {
                pages.sort_by(|(page, views), (other, others)| {
                    others.cmp(views).then_with(|| page.cmp(other))
                });
                return Ok(DailyReport { pages });
            }
            // Seldom: of who was erased within the window.
            from = CreatedAt::from_unix(first);
        }
    }

    async fn read_view(
        &self,
        user_id: UserId,
        window: ReportWindow,
    ) -> Result<(DailyReport, Source), Error> {
        // Counts of the user's hours up to an erasure may still be there, so they are not looked at.
        let Some(window) = self.not_erased(user_id, window).await? else {
            let nothing = DailyReport { pages: Vec::new() };
            return Ok((nothing, Source::Claims));
        };
        read_steadily(
            window,
            self.seen.within(window),
            |since| clean_for_user(&self.clickhouse, user_id, window, since, &self.seen),
            |clean| Split::new(window, clean),
            |split| async move {
                if split.sealed.is_empty() {
                    return self.read_claims(user_id, window).await;
                }
                let query = self.clickhouse.reader()?.query(&of_user(user_id, &split));
                daily_report(query).await
            },
        )
        .await
    }
}

async fn daily_report(query: Query) -> Result<DailyReport, Error> {
    let rows = deadline(READ_DEADLINE, query.fetch_all::<PageCount>()).await?;
    Ok(DailyReport {
        pages: rows.into_iter().map(|r| (r.page_url, r.views)).collect(),
    })
}

fn of_user(user_id: UserId, split: &Split) -> String {
    let user = user_id.get();
    let (hours, times) = (
        within("hour", &split.sealed),
        within("created_at", &split.claims),
    );
    let not_erased = not_erased_of(user_id);
    format!(
        "SELECT page_url, sum(n) AS views FROM (\
         SELECT page AS page_url, sum(viewed) AS n FROM traffic_hourly FINAL \
         ARRAY JOIN pages AS page, views AS viewed \
         PREWHERE user_id = {user} AND {hours} GROUP BY page \
         UNION ALL SELECT page_url, count() AS n FROM traffic FINAL \
         PREWHERE user_id = {user} AND {times} AND {not_erased} GROUP BY page_url\
         ) GROUP BY page_url ORDER BY views DESC, page_url"
    )
}
