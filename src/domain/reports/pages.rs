//! The pages of the whole site: the question, in parts if its answer is long.

use chrono::{DateTime, NaiveTime, Utc};

use super::parameters::{Parameters, Reader, Refusal, one_of};
use super::{Cursor, ReportWindow, days};
use crate::domain::values::parse_time;
use crate::domain::{AcceptanceWindow, CreatedAt, Invalid, MAX_PAGE_URL_BYTES};

/// The most rows in one answer.
pub const MAX_LIMIT: u64 = 1000;
/// How many rows are in an answer to a question that does not say.
pub(super) const DEFAULT_LIMIT: u64 = 100;
/// How long the window is of a question that does not say, in seconds.
const DEFAULT_LENGTH: u32 = 86_400;

const PARAMETERS: &[&str] = &["from", "to", "interval", "prefix", "limit", "after", "next"];

/// What is counted together, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interval {
    /// Each hour.
    Hour,
    /// Each day.
    Day,
    /// The whole window.
    Total,
}

pub(super) const INTERVALS: &[(&str, Interval)] = &[
    ("hour", Interval::Hour),
    ("day", Interval::Day),
    ("total", Interval::Total),
];

impl Interval {
    /// Its word in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Interval::Hour => "hour",
            Interval::Day => "day",
            Interval::Total => "total",
        }
    }

    /// The interval of a word.
    pub fn from_name(name: &str) -> Option<Self> {
        one_of(INTERVALS, name).ok()
    }

    /// How long one is, in seconds; the total has no length of its own.
    pub const fn seconds(self) -> Option<u32> {
        match self {
            Interval::Hour => Some(3600),
            Interval::Day => Some(86_400),
            Interval::Total => None,
        }
    }
}

/// Which pages, when, and how many of them at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PagesQuery {
    /// The seconds that count.
    pub window: ReportWindow,
    /// What is counted together.
    pub interval: Interval,
    /// Pages that begin with this text, byte for byte.
    pub prefix: String,
    /// The most rows in the answer.
    pub limit: u64,
    /// Whether the rest can be asked for afterwards.
    pub continues: bool,
}

/// A question, or how to go on with an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PagesRequest {
    /// From the first row on.
    First(PagesQuery),
    /// The rows behind a cursor, so many at most.
    Next(Cursor, u64),
}

/// Views and users of one page in one interval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageTotal {
    /// Where the interval begins, which may be before the window; for the total, the window's start.
    pub start: CreatedAt,
    /// The page.
    pub page_url: String,
    /// How often it was viewed.
    pub views: u64,
    /// By how many users.
    pub users: u64,
}

/// Rows of an answer, by start, then most viewed first, then by page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PagesPage {
    /// The question's window.
    pub window: ReportWindow,
    /// The question's interval.
    pub interval: Interval,
    /// The rows.
    pub pages: Vec<PageTotal>,
    /// Where there are more.
    pub next: Option<Cursor>,
}

impl PagesQuery {
    /// All pages of a window, most viewed first; not to be continued.
    pub fn top(window: ReportWindow, limit: u64) -> Self {
        Self {
            window,
            interval: Interval::Total,
            prefix: String::new(),
            limit,
            continues: false,
        }
    }
}

impl PagesRequest {
    /// The most rows in the answer.
    pub fn limit(&self) -> u64 {
        match self {
            PagesRequest::First(query) => query.limit,
            PagesRequest::Next(_, limit) => *limit,
        }
    }

    /// Reads the parameters. A cursor stands for a whole question: beside it the question's own
    /// parameters may be left out or be what they were.
    ///
    /// # Errors
    /// Everything that is wrong with the parameters.
    pub fn read(parameters: &Parameters, accepted: &AcceptanceWindow) -> Result<Self, Invalid> {
        let mut reader = Reader::new(parameters, PARAMETERS);
        let from = reader.read("from", instant);
        let to = reader.read("to", instant);
        let interval = reader.read("interval", |text| one_of(INTERVALS, text));
        let prefix = reader.read("prefix", prefix);
        let limit = reader.read("limit", limit).unwrap_or(DEFAULT_LIMIT);
        let continues = reader.read("next", |text| {
            one_of(&[("true", true), ("false", false)], text)
        });
        let after = reader.read("after", |text| {
            let cursor = text.parse::<Cursor>();
            cursor.map_err(|reason| ("not_a_cursor", reason.to_string()))
        });
        if let Some(cursor) = after {
            let differs = [
                ("from", from.is_some_and(|from| from != cursor.window.from)),
                ("to", to.is_some_and(|to| to != cursor.window.until)),
                ("interval", interval.is_some_and(|i| i != cursor.interval)),
                (
                    "prefix",
                    prefix.is_some_and(|prefix| Cursor::digest(prefix) != cursor.prefix),
                ),
            ];
            for (name, _) in differs.into_iter().filter(|(_, differs)| *differs) {
                let detail = "is not what it was when `after` was given out; leave it out";
                reader.refuse(name, ("differs_from_cursor", detail.to_owned()));
            }
            reader.finish()?;
            return Ok(PagesRequest::Next(cursor, limit));
        }

        let window = window(&mut reader, from, to, accepted);
        reader.finish()?;
        Ok(PagesRequest::First(PagesQuery {
            window,
            interval: interval.unwrap_or(Interval::Total),
            prefix: prefix.unwrap_or_default().to_owned(),
            limit,
            continues: continues.unwrap_or(true),
        }))
    }
}

pub(super) fn window(
    reader: &mut Reader<'_>,
    from: Option<CreatedAt>,
    to: Option<CreatedAt>,
    accepted: &AcceptanceWindow,
) -> ReportWindow {
    let first = accepted.first();
    let until = to.unwrap_or_else(|| ReportWindow::ending_at(accepted.now()).until);
    let default = CreatedAt::from_unix(until.unix().saturating_sub(DEFAULT_LENGTH));
    let from = from.unwrap_or_else(|| default.max(first));
    if !reader.is_bad("from") && !reader.is_bad("to") {
        if from < first {
            let detail =
                format!("is beyond the retention; the first second that is not is {first}");
            reader.refuse("from", ("before_retention", detail));
        }
        if from >= until {
            let (name, detail) = match reader.is_given("to") {
                true => (
                    "to",
                    format!("must be after {from}; it is the first second left out"),
                ),
                false => ("from", format!("must be before {until}")),
            };
            if !reader.is_bad(name) {
                reader.refuse(name, ("empty_range", detail));
            }
        }
    }
    ReportWindow { from, until }
}

/// A date, which is its midnight in UTC, or an RFC 3339 time. Views have whole seconds, so a bound
/// within a second is as good as the next whole one.
pub(super) fn instant(text: &str) -> Result<CreatedAt, Refusal> {
    let midnight = |date: chrono::NaiveDate| date.and_time(NaiveTime::MIN).and_utc();
    let at: Option<DateTime<Utc>> = days::date(text)
        .ok()
        .map(midnight)
        .or_else(|| parse_time(text));
    let Some(at) = at else {
        let detail = "must be a date as 2026-01-31 or an RFC 3339 time as 2026-01-31T12:00:00Z, \
                      with + written as %2B";
        return Err(("not_a_time", detail.to_owned()));
    };
    let seconds = at.timestamp() + i64::from(at.timestamp_subsec_nanos() > 0);
    let seconds = u32::try_from(seconds).map_err(|_| {
        let detail = "must be from 1970-01-01 to 2106-02-07".to_owned();
        ("out_of_range", detail)
    });
    seconds.map(CreatedAt::from_unix)
}

fn prefix(text: &str) -> Result<&str, Refusal> {
    if text.len() > MAX_PAGE_URL_BYTES {
        let detail = format!("must be at most {MAX_PAGE_URL_BYTES} bytes, as pages are");
        return Err(("too_long", detail));
    }
    Ok(text)
}

pub(super) fn limit(text: &str) -> Result<u64, Refusal> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = text
        .parse()
        .ok()
        .filter(|n| digits && (1..=MAX_LIMIT).contains(n));
    number.ok_or_else(|| {
        let detail = format!("must be a whole number from 1 to {MAX_LIMIT}");
        ("out_of_range", detail)
    })
}
