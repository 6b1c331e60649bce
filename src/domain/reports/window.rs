//! Which seconds a report is about, and the daily report of one user.

use chrono::{DateTime, Utc};
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::domain::CreatedAt;

/// The seconds of one report: `from <= created_at < until`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportWindow {
    /// The first second that counts.
    pub from: CreatedAt,
    /// The first second that does not count any more.
    pub until: CreatedAt,
}

impl ReportWindow {
    /// The 24 hours that end with `now`: `now - 24 h < created_at <= now`, at whole seconds.
    pub fn ending_at(now: DateTime<Utc>) -> Self {
        let until = u32::try_from(now.timestamp() + 1).unwrap_or(u32::MAX);
        Self {
            from: CreatedAt::from_unix(until.saturating_sub(86_400)),
            until: CreatedAt::from_unix(until),
        }
    }
}

/// Views by page, most viewed first, pages of equal count in order of their URL; as JSON one object
/// in that order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DailyReport {
    /// (page, views), each page once.
    pub pages: Vec<(String, u64)>,
}

impl DailyReport {
    /// All views.
    pub fn views(&self) -> u64 {
        self.pages.iter().map(|(_, views)| views).sum()
    }
}

impl Serialize for DailyReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.pages.len()))?;
        for (page, views) in &self.pages {
            map.serialize_entry(page, views)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_open_at_its_old_end_and_closed_at_now() {
        let now = DateTime::from_timestamp(1_800_000_000, 999_000_000).unwrap();
        let window = ReportWindow::ending_at(now);
        let counts = |at: u32| (window.from.unix()..window.until.unix()).contains(&at);
        assert!(counts(1_800_000_000));
        assert!(!counts(1_800_000_001));
        assert!(counts(1_800_000_000 - 86_399));
        assert!(!counts(1_800_000_000 - 86_400));
    }
}
