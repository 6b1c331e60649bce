//! The values that a page view is made of, and the rules that each satisfies.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, SecondsFormat, Utc};
use validator::ValidationError;

use super::FieldError;

/// The longest accepted page URL, in bytes of UTF-8.
pub const MAX_PAGE_URL_BYTES: usize = 2048;

/// The identity of a page view, chosen by the client: 0 to 2^64-1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u64);

impl RequestId {
    /// Wraps any 64-bit number; all are valid.
    pub const fn new(id: u64) -> Self {
        Self(id)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// The person whose views are counted: 0 to 2^32-1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(u32);

impl UserId {
    /// Wraps any 32-bit number; all are valid.
    pub const fn new(id: u32) -> Self {
        Self(id)
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// A text that is not a plain decimal number of the expected width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a decimal number from 0 to {max}")]
pub struct NotAnId {
    /// The largest accepted number.
    pub max: u64,
}

/// `from_str` of the standard integers also takes a leading `+`, which is not in the contract.
fn parse_digits<T: FromStr>(text: &str, max: u64) -> Result<T, NotAnId> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(NotAnId { max });
    }
    text.parse().map_err(|_| NotAnId { max })
}

impl FromStr for RequestId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        parse_digits(text, u64::MAX).map(Self)
    }
}

impl FromStr for UserId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        parse_digits(text, u64::from(u32::MAX)).map(Self)
    }
}

/// When something happened, in whole seconds of UTC, as ClickHouse's `DateTime` keeps it
/// (1970-01-01 to 2106-02-07).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CreatedAt(u32);

impl CreatedAt {
    /// Wraps seconds since the Unix epoch; all are valid.
    pub const fn from_unix(seconds: u32) -> Self {
        Self(seconds)
    }

    /// Seconds since the Unix epoch.
    pub const fn unix(self) -> u32 {
        self.0
    }

    /// Truncates to whole seconds; `None` outside the range of `DateTime`.
    pub(super) fn truncate(at: DateTime<Utc>) -> Option<Self> {
        u32::try_from(at.timestamp()).ok().map(Self)
    }
}

/// RFC 3339 in UTC, whole seconds.
impl fmt::Display for CreatedAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = DateTime::<Utc>::from_timestamp(i64::from(self.0), 0).unwrap_or_default();
        f.write_str(&at.to_rfc3339_opts(SecondsFormat::Secs, true))
    }
}

/// Parses RFC 3339 (<https://www.rfc-editor.org/rfc/rfc3339#section-5.6>); a time without an offset
/// is taken as UTC.
pub(super) fn parse_time(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text)
        .or_else(|_| DateTime::parse_from_rfc3339(&format!("{text}Z")))
        .ok()
        .map(|at| at.to_utc())
}

/// What [`parse_time`] could not read.
pub(super) fn not_a_time(field: &'static str) -> FieldError {
    let detail = "must be an RFC 3339 time such as 2026-01-31T12:00:00Z";
    FieldError::new(field, "not_a_time", detail)
}

/// The times that are acceptable at one moment: not in the future, not so old that ClickHouse's
/// TTL would drop the view at once.
#[derive(Debug, Clone, Copy)]
pub struct AcceptanceWindow {
    now: DateTime<Utc>,
    retention_days: Option<u32>,
    max_clock_skew_secs: u32,
}

impl AcceptanceWindow {
    /// The window at `now`: from `retention_days` back to `max_clock_skew_secs` ahead.
    pub fn new(now: DateTime<Utc>, retention_days: u32, max_clock_skew_secs: u32) -> Self {
        Self {
            retention_days: Some(retention_days),
            ..Self::unlimited(now, max_clock_skew_secs)
        }
    }

    /// The same where nothing is ever too old: from the first second that can be stored.
    pub fn unlimited(now: DateTime<Utc>, max_clock_skew_secs: u32) -> Self {
        Self {
            now,
            retention_days: None,
            max_clock_skew_secs,
        }
    }

    /// The moment that it is the window of.
    pub fn now(&self) -> DateTime<Utc> {
        self.now
    }

    /// The last second that is beyond the retention; the first one of all where nothing is.
    pub fn expired_until(&self) -> CreatedAt {
        CreatedAt(self.first().unix().saturating_sub(1))
    }

    /// The first second that is acceptable.
    pub fn first(&self) -> CreatedAt {
        CreatedAt(u32::try_from(self.first_unix()).unwrap_or(u32::MAX))
    }

    fn first_unix(&self) -> i64 {
        let since = |days: u32| self.now.timestamp() - i64::from(days) * 86_400 + 1;
        self.retention_days.map_or(0, since).max(0)
    }

    /// Compares at whole seconds, because that is what is stored.
    pub(super) fn check(&self, at: DateTime<Utc>) -> Result<(), ValidationError> {
        let (at, now) = (at.timestamp(), self.now.timestamp());
        let newest = now + i64::from(self.max_clock_skew_secs);
        if at > newest {
            let detail = format!(
                "is {} s in the future; the server's time is {}",
                at - now,
                self.now.to_rfc3339_opts(SecondsFormat::Secs, true)
            );
            return Err(ValidationError::new("in_future").with_message(detail.into()));
        }
        if at < self.first_unix() {
            let detail = match self.retention_days {
                Some(days) => format!("is older than the retention of {days} days"),
                None => "is before 1970, the first year that is stored".to_owned(),
            };
            return Err(ValidationError::new("before_retention").with_message(detail.into()));
        }
        Ok(())
    }
}

/// The page that was viewed: an absolute URL or a path, 1 to 2048 bytes of UTF-8, no control
/// characters; kept byte for byte as the client sent it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageUrl(Box<str>);

impl PageUrl {
    /// Takes a text that has passed [`check_page_url`], or that came back from the database, which
    /// holds only such texts.
    pub(crate) fn trusted(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The rule of [`PageUrl`].
pub(super) fn check_page_url(text: &str) -> Result<(), ValidationError> {
    let refuse = |code: &'static str, detail: &'static str| {
        Err(ValidationError::new(code).with_message(detail.into()))
    };
    if text.is_empty() {
        return refuse("empty", "must not be empty");
    }
    if text.len() > MAX_PAGE_URL_BYTES {
        return refuse("too_long", "must be at most 2048 bytes of UTF-8");
    }
    if text.chars().any(char::is_control) {
        return refuse(
            "control_character",
            "must not contain control characters; percent-encode them",
        );
    }
    if !text.starts_with('/') && !is_absolute_url(text) {
        return refuse(
            "not_a_url",
            "must be an absolute URL (https://example.org/a) or a path that begins with /",
        );
    }
    Ok(())
}

/// A scheme as of RFC 3986 section 3.1, then `://` and something.
fn is_absolute_url(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else {
        return false;
    };
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
        && !rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_plain_decimal_numbers() {
        assert_eq!("18446744073709551615".parse(), Ok(RequestId(u64::MAX)));
        assert_eq!("0".parse(), Ok(RequestId(0)));
        for bad in [
            "",
            "+1",
            "-1",
            " 1",
            "1e3",
            "0x1",
            "1.0",
            "18446744073709551616",
            "٣",
        ] {
            assert!(bad.parse::<RequestId>().is_err(), "{bad:?}");
        }
        assert!("4294967296".parse::<UserId>().is_err());
    }

    #[test]
    fn times_are_rfc_3339_and_utc_by_default() {
        let noon = parse_time("2026-11-21T12:00:00Z");
        assert!(noon.is_some());
        assert_eq!(parse_time("2026-11-21T14:00:00+02:00"), noon);
        assert_eq!(parse_time("2026-11-21T12:00:00"), noon);
        assert_eq!(
            parse_time("2026-11-21T12:00:00.999").map(|t| t.timestamp()),
            noon.map(|t| t.timestamp())
        );
        for bad in [
            "",
            "2026-11-21",
            "12:00:00",
            "2026-13-01T00:00:00Z",
            "1700000000",
            "now",
        ] {
            assert_eq!(parse_time(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_window_is_compared_at_whole_seconds() {
        let now = parse_time("2026-11-21T12:00:00.100Z").unwrap();
        let at = |text| parse_time(text).unwrap();
        let window = AcceptanceWindow::new(now, 90, 0);
        assert!(window.check(at("2026-11-21T12:00:00.900Z")).is_ok());
        assert!(window.check(at("2026-11-21T12:00:01Z")).is_err());
        let skewed = AcceptanceWindow::new(now, 90, 5);
        assert!(skewed.check(at("2026-11-21T12:00:05Z")).is_ok());
        assert!(skewed.check(at("2026-11-21T12:00:06Z")).is_err());
        assert!(window.check(at("2026-08-23T12:00:01Z")).is_ok());
        assert!(window.check(at("2026-08-23T12:00:00Z")).is_err());
        assert!(window.check(at("1969-12-31T23:59:59Z")).is_err());
    }

    #[test]
    fn page_urls_are_urls_or_paths() {
        let longest = format!("/{}", "a".repeat(MAX_PAGE_URL_BYTES - 1));
        for good in [
            "/",
            "/a b",
            "https://example.org",
            "app-1+x://y",
            "/ü\u{202e}'\\{x:String}",
            &longest,
        ] {
            assert!(check_page_url(good).is_ok(), "{good:?}");
        }
        let too_long = format!("{longest}a");
        for bad in [
            "", "a", "://x", "1a://x", "https://", "/a\0", "/a\n", "/\u{85}", " /a", &too_long,
        ] {
            assert!(check_page_url(bad).is_err(), "{bad:?}");
        }
    }
}
