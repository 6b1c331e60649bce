//! Where a reader of a long answer is: which snapshot, which row, and which question it answers.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use super::{Interval, ReportWindow};
use crate::domain::CreatedAt;

/// The form that this version writes and reads.
const FORM: &str = "1";

/// How to go on with an answer. As text it is opaque to clients, made of digits, letters and dots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Which snapshot.
    pub snapshot: Uuid,
    /// How many rows it has.
    pub rows: u64,
    /// The last row that was read, counted from 1.
    pub rank: u64,
    /// When the snapshot was made, in milliseconds since the Unix epoch.
    pub taken_at_ms: u64,
    /// What was acknowledged before this moment is counted in it, in the same unit.
    pub complete_through_ms: u64,
    /// The question's window.
    pub window: ReportWindow,
    /// The question's interval.
    pub interval: Interval,
    /// Stands for the question's prefix ([`Cursor::digest`]).
    pub prefix: u32,
}

impl Cursor {
    /// What stands for a prefix, to notice that a client has changed it.
    pub fn digest(prefix: &str) -> u32 {
        crc32fast::hash(prefix.as_bytes())
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!(
            "{FORM}.{}.{:x}.{:x}.{:x}.{:x}.{:x}.{:x}.{}.{:x}",
            self.snapshot.simple(),
            self.rows,
            self.rank,
            self.taken_at_ms,
            self.complete_through_ms,
            self.window.from.unix(),
            self.window.until.unix(),
            self.interval.name(),
            self.prefix,
        );
        write!(f, "{text}.{:x}", crc32fast::hash(text.as_bytes()))
    }
}

/// A text that is not a cursor of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a cursor; take it from `next` of an answer, unchanged")]
pub struct NotACursor;

impl FromStr for Cursor {
    type Err = NotACursor;

    fn from_str(text: &str) -> Result<Self, NotACursor> {
        read(text).ok_or(NotACursor)
    }
}

fn read(text: &str) -> Option<Cursor> {
    let parts: Vec<&str> = text.split('.').collect();
    let [
        FORM,
        snapshot,
        rows,
        rank,
        taken,
        complete,
        from,
        until,
        interval,
        prefix,
        _,
    ] = parts[..]
    else {
        return None;
    };
    let number = |text| u64::from_str_radix(text, 16).ok();
    let second = |text| u32::from_str_radix(text, 16).ok().map(CreatedAt::from_unix);
    let cursor = Cursor {
        snapshot: Uuid::try_parse(snapshot).ok()?,
        rows: number(rows)?,
        rank: number(rank)?,
        taken_at_ms: number(taken)?,
        complete_through_ms: number(complete)?,
        window: ReportWindow {
            from: second(from)?,
            until: second(until)?,
        },
        interval: Interval::from_name(interval)?,
        prefix: u32::from_str_radix(prefix, 16).ok()?,
    };
    // Its checksum, and that there is one spelling only.
    (cursor.to_string() == text).then_some(cursor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_back_and_a_damaged_one_is_refused() {
        let cursor = Cursor {
            snapshot: Uuid::new_v4(),
            rows: 1_000_000,
            rank: 17,
            taken_at_ms: 1_800_000_000_000,
            complete_through_ms: 1_799_999_999_999,
            window: ReportWindow {
                from: CreatedAt::from_unix(0),
                until: CreatedAt::from_unix(u32::MAX),
            },
            interval: Interval::Hour,
            prefix: Cursor::digest("/a"),
        };
        let text = cursor.to_string();
        assert_eq!(text.parse(), Ok(cursor));
        assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.'));
        for i in 0..text.len() {
            let mut damaged = text.clone().into_bytes();
            damaged[i] = if damaged[i] == b'0' { b'1' } else { b'0' };
            let damaged = String::from_utf8(damaged).unwrap();
            assert_eq!(damaged.parse::<Cursor>(), Err(NotACursor), "{damaged}");
            assert_eq!(text[..i].parse::<Cursor>(), Err(NotACursor));
        }
        for bad in ["+1", "1.é", ".", &format!("{text}.0"), &text.to_uppercase()] {
            assert_eq!(bad.parse::<Cursor>(), Err(NotACursor), "{bad}");
        }
    }
}
