//! Events by site: how they are encoded, what reports count, and how rivals are settled.

mod counters;
mod funnel;
mod record;
mod rivals;

use std::sync::Arc;

use super::sealed::{CleanHours, LastSeen, Split, clean_for_events, read_steadily};
use super::{ClickHouse, Error, Plan};
use crate::domain::{ReportWindow, SiteId};

pub(super) use record::readable;
pub use rivals::RivalEvents;

/// Answers reports on events; cheap to clone.
#[derive(Clone)]
pub struct EventReports {
    clickhouse: ClickHouse,
    plan: Plan,
    seen: Arc<LastSeen>,
}

impl EventReports {
    /// Reads from `clickhouse`. Counts of closed hours are always cheaper than claims, so
    /// [`Plan::Auto`] is [`Plan::View`].
    pub fn new(clickhouse: ClickHouse, plan: Plan) -> Self {
        Self {
            clickhouse,
            plan,
            seen: Arc::default(),
        }
    }

    /// By the plan, what sealed hours and claims have of a window.
    async fn steadily<T, R: Future<Output = Result<T, Error>>>(
        &self,
        window: ReportWindow,
        read: impl Fn(Split) -> R,
    ) -> Result<T, Error> {
        if self.plan == Plan::Claims {
            return read(Split::claims_only(window)).await;
        }
        let look = |since| clean_for_events(&self.clickhouse, window, since, &self.seen);
        let split = |clean: &CleanHours| Split::new(window, clean);
        let seen = self.seen.within(window);
        let (found, _) = read_steadily(window, seen, look, split, read).await?;
        Ok(found)
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
