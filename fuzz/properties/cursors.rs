//! Cursors of long reports: what is accepted has one spelling, what is written is read back, and a slip
//! is noticed.
//!
//! The first byte says what is done with the rest: take it for a cursor of either report; take it for
//! one with its checksum made right, which is the way past it; take it for the parts of a sound one.

use traffic_api::domain::{CountersCursor, CreatedAt, Cursor, Interval, ReportWindow, SiteId};
use uuid::Uuid;

pub fn check(input: &[u8]) {
    let Some((choice, rest)) = input.split_first() else {
        return;
    };
    if choice % 3 == 2 {
        return is_read_back(rest);
    }
    let Ok(text) = std::str::from_utf8(rest) else {
        return;
    };
    let text = match choice % 3 {
        0 => text.to_owned(),
        _ => format!("{text}.{:x}", crc32fast::hash(text.as_bytes())),
    };
    if let Ok(cursor) = text.parse::<Cursor>() {
        assert_eq!(cursor.to_string(), text);
    }
    if let Ok(cursor) = text.parse::<CountersCursor>() {
        assert_eq!(cursor.to_string(), text);
    }
}

fn is_read_back(parts: &[u8]) {
    let mut parts = parts.iter();
    let mut number = |bytes: usize| {
        let taken = parts.by_ref().take(bytes);
        taken.fold(0_u128, |number, byte| number << 8 | u128::from(*byte))
    };
    let mut u32 = || number(4) as u32;
    let window = ReportWindow {
        from: CreatedAt::from_unix(u32()),
        until: CreatedAt::from_unix(u32()),
    };
    let interval = [Interval::Hour, Interval::Day, Interval::Total][u32() as usize % 3];
    let (start, digest) = (CreatedAt::from_unix(u32()), u32());
    let id = Uuid::from_u128(number(16));
    let mut u64 = || number(8) as u64;
    let pages = Cursor {
        snapshot: id,
        rows: u64(),
        rank: u64(),
        taken_at_ms: u64(),
        complete_through_ms: u64(),
        window,
        interval,
        prefix: digest,
    };
    let counters = CountersCursor {
        window,
        interval,
        question: digest,
        start,
        site_id: SiteId::new(id),
    };
    let (place, other) = (number(1) as usize, number(1) as u8);
    let text = pages.to_string();
    assert_eq!(text.parse(), Ok(pages));
    assert!(text.parse::<CountersCursor>().is_err());
    assert!(slipped(&text, place, other).is_none_or(|text| text.parse::<Cursor>().is_err()));
    let text = counters.to_string();
    // Counters are never of the whole window, so no cursor of theirs is.
    let is_possible = interval != Interval::Total;
    assert_eq!(text.parse().ok(), is_possible.then_some(counters));
    assert!(text.parse::<Cursor>().is_err());
    assert!(
        slipped(&text, place, other).is_none_or(|text| text.parse::<CountersCursor>().is_err())
    );
}

/// The text with another character in one place; nothing where that changes nothing.
fn slipped(text: &str, place: usize, other: u8) -> Option<String> {
    let mut bytes = text.as_bytes().to_vec();
    let place = place % bytes.len();
    bytes[place] = other % 128;
    let slipped = String::from_utf8(bytes).ok()?;
    (slipped != text).then_some(slipped)
}
