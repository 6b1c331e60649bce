//! `created_at`, and a report's `from`: what is a time, and which second it is, as another reader of
//! RFC 3339 has it, written from its grammar alone.

use chrono::DateTime;
use traffic_api::domain::{AcceptanceWindow, Parameters, RequestId, SiteQuery, read_view};

/// The last second that can be stored.
const LAST: i64 = u32::MAX as i64;

pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let now = DateTime::from_timestamp(LAST, 0).expect("a time");
    let window = AcceptanceWindow::unlimited(now, 0);
    let body = serde_json::json!({"user_id": 1, "created_at": text, "page_url": "/"}).to_string();
    let read = read_view(body.as_bytes(), RequestId::new(1), &window);
    let read = read.ok().map(|view| i64::from(view.created_at.unix()));
    let expected = time(text).or_else(|| time(&format!("{text}Z")));
    let storable = expected.map(|(seconds, _)| seconds);
    assert_eq!(
        read,
        storable.filter(|s| (0..=LAST).contains(s)),
        "{text:?}"
    );

    // In a report a bound within a second is the next whole one, and a date is its midnight.
    let parameters = Parameters(vec![("from".to_owned(), Some(text.to_owned()))]);
    let from = SiteQuery::read(&parameters, &window).ok();
    let from = from.map(|query| i64::from(query.window().from.unix()));
    let midnight = || time(&format!("{text}T00:00:00Z"));
    let instant = midnight().or(expected);
    let instant = instant.map(|(seconds, within)| seconds + i64::from(within));
    assert_eq!(from, instant.filter(|s| (0..LAST).contains(s)), "{text:?}");
}

/// The second, rounded down, and whether the time is within it.
fn time(text: &str) -> Option<(i64, bool)> {
    let bytes = text.as_bytes();
    let number = |from: usize, digits: usize| {
        let digits = bytes.get(from..from + digits)?;
        digits.iter().try_fold(0_i64, |n, digit| {
            digit
                .is_ascii_digit()
                .then(|| 10 * n + i64::from(digit - b'0'))
        })
    };
    let is = |place: usize, wanted: &[u8]| bytes.get(place).is_some_and(|b| wanted.contains(b));
    let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
    let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
    // A space for the T is allowed in section 5.6's note.
    if !(is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":")) {
        return None;
    }
    let mut at = 19;
    let mut within = false;
    if is(at, b".") {
        at += 1;
        let digits = bytes[at..].iter().take_while(|b| b.is_ascii_digit());
        let digits = digits.count();
        // Only billionths are looked at.
        within = bytes[at..at + digits.min(9)].iter().any(|b| *b != b'0');
        at += digits;
        if digits == 0 {
            return None;
        }
    }
    let offset = if is(at, b"Zz") && bytes.len() == at + 1 {
        0
    } else {
        let (hours, minutes) = (number(at + 1, 2)?, number(at + 4, 2)?);
        let good = is(at, b"+-") && is(at + 3, b":") && bytes.len() == at + 6;
        if !good || hours > 23 || minutes > 59 {
            return None;
        }
        let sign = if is(at, b"-") { -1 } else { 1 };
        sign * (hours * 3600 + minutes * 60)
    };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = [
        31,
        28 + i64::from(leap),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let in_month = *days.get(usize::try_from(month).ok()?.checked_sub(1)?)?;
    if !(1..=in_month).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // A leap second is the last one of its minute, and a long one.
    let (second, within) = if second == 60 {
        (59, true)
    } else {
        (second, within)
    };
    let days_before: i64 = days[..usize::try_from(month - 1).ok()?].iter().sum();
    // Whole years since the year 0, which had a leap day.
    let leaps = |y: i64| y / 4 - y / 100 + y / 400 + 1;
    let years = if year == 0 {
        0
    } else {
        365 * year + leaps(year - 1)
    };
    let since_1970 = years + days_before + day - 1 - 719_528;
    let local = since_1970 * 86_400 + hour * 3600 + minute * 60 + second;
    Some((local - offset, within))
}
