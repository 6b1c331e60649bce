//! Events by site: how they are encoded, what reports count, and how rivals are settled.

mod counters;
mod funnel;
mod record;
mod rivals;

use std::sync::Arc;
use std::time::Duration;

use super::measures::{Report, ReportMeasures, Source};
use super::sealed::{
    CleanHours, LastSeen, Split, clean_for_events, read_claims_only, read_steadily,
};
use super::{ClickHouse, Error, Plan, Reports};
use crate::domain::{ReportWindow, SiteId};

pub(super) use record::{is_events, native, readable};
pub use rivals::RivalEvents;

/// Answers reports on events; cheap to clone.
#[derive(Clone)]
pub struct EventReports {
    clickhouse: ClickHouse,
    plan: Plan,
    seen: Arc<LastSeen>,
    measures: Arc<ReportMeasures>,
    /// A report that takes so long is logged.
    slow: Duration,
}

impl EventReports {
    /// Reads from `clickhouse`. Counts of closed hours are always cheaper than claims, so
    /// [`Plan::Auto`] is [`Plan::View`].
    pub fn new(clickhouse: ClickHouse, plan: Plan) -> Self {
        Self {
            clickhouse,
            plan,
            seen: Arc::default(),
            measures: Arc::default(),
            slow: Duration::MAX,
        }
    }

    /// Counts what reports cost, and logs slow ones, together with those of `reports`.
    #[must_use]
    pub fn measured_with(self, reports: &Reports) -> Self {
        Self {
            measures: Arc::clone(&reports.measures),
            slow: reports.slow,
            ..self
        }
    }

    /// Runs a report and notes what it cost.
    async fn measured<T>(
        &self,
        report: Report,
        answer: impl AsyncFnOnce(&Self) -> Result<(T, Source), Error>,
    ) -> Result<T, Error> {
        let run = self.measures.run(report, self.slow, async |statements| {
            let named = Self {
                clickhouse: self.clickhouse.named(statements),
                ..self.clone()
            };
            answer(&named).await
        });
        run.await
    }

    /// By the plan, what sealed hours and claims have of a window.
    async fn steadily<T, R: Future<Output = Result<T, Error>>>(
        &self,
        window: ReportWindow,
        read: impl Fn(Split) -> R,
    ) -> Result<(T, Source), Error> {
        if self.plan == Plan::Claims {
            return read_claims_only(window, read).await;
        }
        let look = |since| clean_for_events(&self.clickhouse, window, since, &self.seen);
        let split = |clean: &CleanHours| Split::new(window, clean);
        let seen = self.seen.within(window);
        read_steadily(window, seen, look, split, read).await
    }
}

/// A condition, with what joins it to the next: the sites, or nothing for all.
fn of_sites(sites: &[SiteId]) -> String {
    if sites.is_empty() {
        return String::new();
    }
    let sites: Vec<String> = sites.iter().map(|site| format!("'{site}'")).collect();
    format!("site_id IN ({}) AND ", sites.join(","))
}
