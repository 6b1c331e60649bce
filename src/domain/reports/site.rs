//! The traffic of the whole site over time.

use std::collections::BTreeMap;

use super::pages::{INTERVALS, instant, window};
use super::parameters::{Parameters, Reader, one_of};
use super::{Interval, ReportWindow};
use crate::domain::{AcceptanceWindow, CreatedAt, Invalid};

/// The most intervals in one answer: the hours of a hundred days.
pub const MAX_INTERVALS: u32 = 2400;

const PARAMETERS: &[&str] = &["from", "to", "interval"];

/// When, and what is counted together; as read from parameters at most [`MAX_INTERVALS`] intervals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SiteQuery {
    window: ReportWindow,
    interval: Interval,
}

/// Views and users of the site in one interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SiteTotal {
    /// Where the interval begins, which may be before the window; for the total, the window's start.
    pub start: CreatedAt,
    /// How often pages were viewed.
    pub views: u64,
    /// By how many users.
    pub users: u64,
}

impl SiteQuery {
    /// A window that is not empty, in parts.
    pub fn new(window: ReportWindow, interval: Interval) -> Self {
        Self { window, interval }
    }

    /// Reads `from`, `to` and `interval`.
    ///
    /// # Errors
    /// Everything that is wrong with the parameters.
    pub fn read(parameters: &Parameters, accepted: &AcceptanceWindow) -> Result<Self, Invalid> {
        let mut reader = Reader::new(parameters, PARAMETERS);
        let from = reader.read("from", instant);
        let to = reader.read("to", instant);
        let interval = reader.read("interval", |text| one_of(INTERVALS, text));
        let window = window(&mut reader, from, to, accepted);
        let query = Self::new(window, interval.unwrap_or(Interval::Total));
        let dates_are_good = !reader.is_bad("from") && !reader.is_bad("to");
        if dates_are_good && query.intervals() > MAX_INTERVALS {
            let detail = format!(
                "makes {} intervals of the range; at most {MAX_INTERVALS} may be",
                query.intervals()
            );
            reader.refuse("interval", ("too_many_intervals", detail));
        }
        reader.finish()?;
        Ok(query)
    }

    /// The seconds that count.
    pub fn window(&self) -> ReportWindow {
        self.window
    }

    /// What is counted together.
    pub fn interval(&self) -> Interval {
        self.interval
    }

    fn first_start(&self) -> u32 {
        let from = self.window.from.unix();
        self.interval.seconds().map_or(from, |n| from / n * n)
    }

    fn intervals(&self) -> u32 {
        let length = self.window.until.unix().saturating_sub(self.first_start());
        self.interval.seconds().map_or(1, |n| length.div_ceil(n))
    }

    /// Every interval in order, those without views with zeros. What begins at none is not counted.
    pub fn report(&self, found: impl IntoIterator<Item = SiteTotal>) -> Vec<SiteTotal> {
        let found: BTreeMap<u32, SiteTotal> = found
            .into_iter()
            .map(|row| (row.start.unix(), row))
            .collect();
        let length = self.interval.seconds().unwrap_or(0);
        let starts = (0..self.intervals()).map(|i| self.first_start() + i * length);
        let row = |start| {
            let none = SiteTotal {
                start: CreatedAt::from_unix(start),
                views: 0,
                users: 0,
            };
            found.get(&start).copied().unwrap_or(none)
        };
        starts.map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H: u32 = 3600;

    fn query(from: u32, until: u32, interval: Interval) -> SiteQuery {
        let window = ReportWindow {
            from: CreatedAt::from_unix(from),
            until: CreatedAt::from_unix(until),
        };
        SiteQuery::new(window, interval)
    }

    fn total(start: u32, views: u64, users: u64) -> SiteTotal {
        SiteTotal {
            start: CreatedAt::from_unix(start),
            views,
            users,
        }
    }

    #[test]
    fn every_interval_that_the_window_touches_is_listed() {
        let hours = query(2 * H + 1, 5 * H + 1, Interval::Hour);
        let report = hours.report([total(3 * H, 7, 2), total(9 * H, 1, 1)]);
        let expected = [(2, 0, 0), (3, 7, 2), (4, 0, 0), (5, 0, 0)];
        assert_eq!(report, expected.map(|(h, n, u)| total(h * H, n, u)));
        let exact = query(2 * H, 5 * H, Interval::Hour);
        assert_eq!(exact.report([]).len(), 3);
        let all = query(2 * H + 1, 5 * H, Interval::Total);
        assert_eq!(all.report([]), [total(2 * H + 1, 0, 0)]);
    }

    #[test]
    fn the_whole_of_time_does_not_overflow() {
        let all = |interval| query(0, u32::MAX, interval).intervals();
        assert_eq!(all(Interval::Total), 1);
        assert_eq!(all(Interval::Day), 49_711);
        assert_eq!(all(Interval::Hour), 1_193_047);
        let last = query(u32::MAX - 1, u32::MAX, Interval::Hour).report([]);
        assert_eq!(last.len(), 1);
    }
}
