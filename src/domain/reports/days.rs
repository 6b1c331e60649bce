//! The days of one user: which instants they begin at in a time zone, and their views.
//!
//! A day begins at the first instant at which the zone's clocks show its date: midnight, but for
//! zones that skip it when summer time begins (then an hour later) or whole days when they cross the
//! date line (then the day has no second). So days have no gaps and no overlap, and 23, 24 or 25 hours.

use chrono::{DateTime, Days, NaiveDate, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;

use super::parameters::{Parameters, Reader, Refusal, one_of};
use super::{DailyReport, ReportWindow};
use crate::domain::{AcceptanceWindow, CreatedAt, Invalid};

/// How many days a question has that says nothing else.
const DEFAULT_DAYS: Days = Days::new(7);
/// How many days beyond today may be asked for, so that a whole month can.
const DAYS_AHEAD: Days = Days::new(31);
/// No zone's clock is further from UTC than this.
const FURTHEST_OFFSET: TimeDelta = TimeDelta::hours(26);

const PARAMETERS: &[&str] = &["from", "to", "tz", "by"];

/// Some days in a row, at least one, in a time zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaysQuery {
    zone: Tz,
    /// Each day and its first second.
    days: Vec<(NaiveDate, CreatedAt)>,
    /// The first date and second behind them.
    end: (NaiveDate, CreatedAt),
    by_page: bool,
}

/// Views by day, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaysReport {
    /// Every day of the question, also those without views.
    pub days: Vec<DayViews>,
}

/// One day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DayViews {
    /// Its date.
    pub date: NaiveDate,
    /// All views.
    pub views: u64,
    /// By page, where that was asked for.
    pub pages: Option<DailyReport>,
}

impl DaysReport {
    /// All views.
    pub fn views(&self) -> u64 {
        self.days.iter().map(|day| day.views).sum()
    }
}

impl DaysQuery {
    /// Reads `from`, `to`, `tz` and `by`; dates must lie within the retention.
    ///
    /// # Errors
    /// Everything that is wrong with the parameters.
    pub fn read(parameters: &Parameters, accepted: &AcceptanceWindow) -> Result<Self, Invalid> {
        let mut reader = Reader::new(parameters, PARAMETERS);
        let from = reader.read("from", date);
        let to = reader.read("to", date);
        let zone = reader.read("tz", zone).unwrap_or(Tz::UTC);
        let by_page = reader.read("by", |text| one_of(&[("page", ())], text));
        let dates_are_good = !["from", "to", "tz"].iter().any(|name| reader.is_bad(name));

        let expired = DateTime::from_timestamp(accepted.expired_until().unix().into(), 0);
        let earliest = next(date_in(zone, expired.unwrap_or_default()));
        let today = date_in(zone, accepted.now());
        let last_end = next(today) + DAYS_AHEAD;
        let end = to.unwrap_or_else(|| next(today));
        let first = from.unwrap_or_else(|| (end - DEFAULT_DAYS).max(earliest));
        if dates_are_good {
            if first < earliest {
                let detail = format!("is beyond the retention; the first whole day is {earliest}");
                reader.refuse("from", ("before_retention", detail));
            }
            if end > last_end {
                let detail =
                    format!("is too far in the future; the last that may be is {last_end}");
                reader.refuse("to", ("in_future", detail));
            }
            if first >= end {
                // What was not given can't be wrong.
                let (name, detail) = match reader.is_given("to") {
                    true => (
                        "to",
                        format!("must be after {first}; it is the first day left out"),
                    ),
                    false => ("from", format!("must be before {end}")),
                };
                if !reader.is_bad(name) {
                    reader.refuse(name, ("empty_range", detail));
                }
            }
        }
        reader.finish()?;
        Ok(Self::new(zone, first, end, by_page.is_some()))
    }

    /// The days from `first` up to and without `end`.
    pub fn new(zone: Tz, first: NaiveDate, end: NaiveDate, by_page: bool) -> Self {
        let dates = first.iter_days().take_while(|date| *date < end);
        Self {
            zone,
            days: dates.map(|date| (date, start(zone, date))).collect(),
            end: (end, start(zone, end)),
            by_page,
        }
    }

    /// The zone's name.
    pub fn zone(&self) -> &'static str {
        self.zone.name()
    }

    /// The first day.
    pub fn from(&self) -> NaiveDate {
        self.days.first().map_or(self.end.0, |(date, _)| *date)
    }

    /// The first day behind the last.
    pub fn to(&self) -> NaiveDate {
        self.end.0
    }

    /// Whether pages are to be told apart.
    pub fn is_by_page(&self) -> bool {
        self.by_page
    }

    /// All seconds of all days.
    pub fn window(&self) -> ReportWindow {
        ReportWindow {
            from: self.days.first().map_or(self.end.1, |(_, start)| *start),
            until: self.end.1,
        }
    }

    /// The first second of each day, rising.
    pub fn starts(&self) -> impl Iterator<Item = CreatedAt> + '_ {
        self.days.iter().map(|(_, start)| *start)
    }

    /// The report from counts: the first second of a day, and the views of one page in it. Pages are
    /// put in order; what begins on no day is not counted.
    pub fn report(&self, counts: impl IntoIterator<Item = (CreatedAt, String, u64)>) -> DaysReport {
        let empty = |(date, _): &(NaiveDate, CreatedAt)| DayViews {
            date: *date,
            views: 0,
            pages: self.by_page.then(DailyReport::default),
        };
        let mut days: Vec<DayViews> = self.days.iter().map(empty).collect();
        for (start, page, views) in counts {
            // Of several days of one start, all but the last have no second.
            let index = self.days.partition_point(|(_, other)| *other <= start);
            let Some(day) = index.checked_sub(1).and_then(|index| days.get_mut(index)) else {
                continue;
            };
            day.views += views;
            if let Some(report) = &mut day.pages {
                report.pages.push((page, views));
            }
        }
        for report in days.iter_mut().filter_map(|day| day.pages.as_mut()) {
            report
                .pages
                .sort_by(|(a, m), (b, n)| n.cmp(m).then_with(|| a.cmp(b)));
        }
        DaysReport { days }
    }
}

/// The first second at which the clocks of `zone` show `date`.
fn start(zone: Tz, date: NaiveDate) -> CreatedAt {
    let midnight = date.and_time(chrono::NaiveTime::MIN);
    let at = match zone.from_local_datetime(&midnight).earliest() {
        Some(at) => at.to_utc(),
        None => first_shown(zone, date),
    };
    CreatedAt::from_unix(u32::try_from(at.timestamp()).unwrap_or(u32::MAX))
}

/// Where midnight is skipped: by halves, since within a day or two of a skip dates only rise.
fn first_shown(zone: Tz, date: NaiveDate) -> DateTime<Utc> {
    let midnight = date.and_time(chrono::NaiveTime::MIN).and_utc();
    let (mut before, mut shown) = (midnight - FURTHEST_OFFSET, midnight + FURTHEST_OFFSET);
    while shown - before > TimeDelta::seconds(1) {
        let middle = before + TimeDelta::seconds((shown - before).num_seconds() / 2);
        if date_in(zone, middle) >= date {
            shown = middle;
        } else {
            before = middle;
        }
    }
    shown
}

fn date_in(zone: Tz, at: DateTime<Utc>) -> NaiveDate {
    let offset = zone.offset_from_utc_datetime(&at.naive_utc()).fix();
    at.with_timezone(&offset).date_naive()
}

fn next(date: NaiveDate) -> NaiveDate {
    date.succ_opt().unwrap_or(date)
}

/// `2026-01-31`; four digits, two and two.
pub(super) fn date(text: &str) -> Result<NaiveDate, Refusal> {
    let plain = text.len() == 10 && text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok();
    date.filter(|_| plain).ok_or_else(|| {
        let detail = "must be a date as 2026-01-31".to_owned();
        ("not_a_date", detail)
    })
}

fn zone(text: &str) -> Result<Tz, Refusal> {
    text.parse().map_err(|_| {
        let detail = "must be the name of a time zone as Europe/Berlin".to_owned();
        ("not_a_time_zone", detail)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> NaiveDate {
        date(text).unwrap()
    }

    fn zone_of(name: &str) -> Tz {
        zone(name).unwrap()
    }

    fn hours(zone: &str, date: &str) -> f64 {
        let (zone, date) = (zone_of(zone), day(date));
        let seconds = start(zone, next(date)).unix() - start(zone, date).unix();
        f64::from(seconds) / 3600.0
    }

    fn starts_at(zone: &str, date: &str) -> String {
        start(zone_of(zone), day(date)).to_string()
    }

    #[test]
    fn days_have_the_hours_that_clocks_show() {
        for (zone, date, expected) in [
            ("UTC", "2026-03-29", 24.0),
            ("Europe/Berlin", "2026-03-29", 23.0),
            ("Europe/Berlin", "2026-10-25", 25.0),
            ("America/New_York", "2026-03-08", 23.0),
            ("America/New_York", "2026-11-01", 25.0),
            // Half an hour of summer time.
            ("Australia/Lord_Howe", "2026-04-05", 24.5),
            ("Australia/Lord_Howe", "2026-10-04", 23.5),
            // Midnight is skipped, or comes back to the day before.
            ("America/Sao_Paulo", "2018-11-04", 23.0),
            ("America/Sao_Paulo", "2018-02-17", 25.0),
            ("America/Sao_Paulo", "2018-02-18", 24.0),
            ("Africa/Cairo", "2026-04-24", 23.0),
            ("Africa/Cairo", "2026-10-29", 25.0),
            ("Asia/Beirut", "2026-03-29", 23.0),
            ("Asia/Beirut", "2026-10-24", 25.0),
            // Midnight comes twice.
            ("America/Havana", "2026-11-01", 25.0),
            ("Asia/Kolkata", "2026-03-29", 24.0),
            // Samoa went over the date line: this day never was.
            ("Pacific/Apia", "2011-12-29", 24.0),
            ("Pacific/Apia", "2011-12-30", 0.0),
            ("Pacific/Apia", "2011-12-31", 24.0),
        ] {
            assert!((hours(zone, date) - expected).abs() < 1e-9, "{zone} {date}");
        }
    }

    #[test]
    fn days_begin_where_clocks_first_show_their_date() {
        for (zone, date, expected) in [
            ("UTC", "2026-01-31", "2026-01-31T00:00:00Z"),
            ("Europe/Berlin", "2026-01-31", "2026-01-30T23:00:00Z"),
            ("Europe/Berlin", "2026-07-01", "2026-06-30T22:00:00Z"),
            ("Asia/Kolkata", "2026-01-31", "2026-01-30T18:30:00Z"),
            ("Asia/Kathmandu", "2026-01-31", "2026-01-30T18:15:00Z"),
            ("America/Sao_Paulo", "2018-11-04", "2018-11-04T03:00:00Z"),
            ("Africa/Cairo", "2026-04-24", "2026-04-23T22:00:00Z"),
            ("Asia/Beirut", "2026-03-29", "2026-03-28T22:00:00Z"),
            ("America/Havana", "2026-11-01", "2026-11-01T04:00:00Z"),
            ("Pacific/Apia", "2011-12-30", "2011-12-30T10:00:00Z"),
            ("Pacific/Kiritimati", "2026-01-31", "2026-01-30T10:00:00Z"),
            ("Pacific/Niue", "2026-01-31", "2026-01-31T11:00:00Z"),
        ] {
            assert_eq!(starts_at(zone, date), expected, "{zone} {date}");
        }
    }

    /// Against the clocks themselves: every second of a day, seen at its ends, shows its date.
    #[test]
    fn in_every_zone_days_follow_each_other_without_gap() {
        let first = day("2024-12-30");
        for zone in chrono_tz::TZ_VARIANTS {
            let query = DaysQuery::new(zone, first, first + Days::new(800), false);
            let shown = |at: u32| date_in(zone, DateTime::from_timestamp(at.into(), 0).unwrap());
            for (date, start) in &query.days {
                assert_eq!(shown(start.unix()), *date, "{zone}");
                assert!(shown(start.unix() - 1) < *date, "{zone} {date}");
            }
            assert!(query.days.is_sorted_by(|a, b| a.1 < b.1), "{zone}");
        }
    }

    #[test]
    fn counts_find_their_day() {
        let query = DaysQuery::new(
            zone_of("Pacific/Apia"),
            day("2011-12-29"),
            day("2012-01-01"),
            true,
        );
        let starts: Vec<CreatedAt> = query.starts().collect();
        assert_eq!(starts[1], starts[2]);
        let count = |start, page: &str, views| (start, page.to_owned(), views);
        let report = query.report([
            count(starts[0], "/b", 2),
            count(starts[0], "/c", 7),
            count(starts[0], "/a", 2),
            count(starts[1], "/b", 1),
            count(CreatedAt::from_unix(0), "/never", 1),
        ]);
        assert_eq!(report.views(), 12);
        let views: Vec<u64> = report.days.iter().map(|day| day.views).collect();
        assert_eq!(views, [11, 0, 1]);
        let pages = report.days[0].pages.as_ref().unwrap();
        let expected = [("/c", 7), ("/a", 2), ("/b", 2)];
        assert_eq!(pages.pages, expected.map(|(page, n)| (page.to_owned(), n)));
    }
}
