//! Where a reader of the counters is: behind which row, and which question it answers.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use super::super::cursor::NotACursor;
use super::super::parameters::one_of;
use super::super::{Interval, ReportWindow};
use super::counters::INTERVALS;
use crate::domain::{CreatedAt, EventType, SiteId};

/// The form that this version writes and reads.
const FORM: &str = "e1";

/// How to go on with an answer. As text it is opaque to clients, made of digits, letters and dots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CountersCursor {
    /// The question's window.
    pub window: ReportWindow,
    /// The question's interval.
    pub interval: Interval,
    /// Stands for the question's sites and types ([`CountersCursor::question`]).
    pub question: u32,
    /// The last row that was read: its interval,
    pub start: CreatedAt,
    /// and its site.
    pub site_id: SiteId,
}

impl CountersCursor {
    /// What stands for sites and types, to notice that a client has changed them.
    pub fn question(sites: &[SiteId], types: &[EventType]) -> u32 {
        let mut digest = crc32fast::Hasher::new();
        for site in sites {
            digest.update(site.get().as_bytes());
        }
        for of in types {
            digest.update(b"/");
            digest.update(of.as_str().as_bytes());
        }
        digest.finalize()
    }
}

impl fmt::Display for CountersCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!(
            "{FORM}.{:x}.{:x}.{}.{:x}.{:x}.{}",
            self.window.from.unix(),
            self.window.until.unix(),
            self.interval.name(),
            self.question,
            self.start.unix(),
            self.site_id.get().simple(),
        );
        write!(f, "{text}.{:x}", crc32fast::hash(text.as_bytes()))
    }
}

impl FromStr for CountersCursor {
    type Err = NotACursor;

    fn from_str(text: &str) -> Result<Self, NotACursor> {
        read(text).ok_or(NotACursor)
    }
}

fn read(text: &str) -> Option<CountersCursor> {
    let parts: Vec<&str> = text.split('.').collect();
    let [FORM, from, until, interval, question, start, site, _] = parts[..] else {
        return None;
    };
    let number = |text| u32::from_str_radix(text, 16).ok();
    let second = |text| number(text).map(CreatedAt::from_unix);
    let cursor = CountersCursor {
        window: ReportWindow {
            from: second(from)?,
            until: second(until)?,
        },
        interval: one_of(INTERVALS, interval).ok()?,
        question: number(question)?,
        start: second(start)?,
        site_id: SiteId::new(Uuid::try_parse(site).ok()?),
    };
    // Its checksum, and that there is one spelling only.
    (cursor.to_string() == text).then_some(cursor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_back_and_a_damaged_one_is_refused() {
        let cursor = CountersCursor {
            window: ReportWindow {
                from: CreatedAt::from_unix(0),
                until: CreatedAt::from_unix(u32::MAX),
            },
            interval: Interval::Hour,
            question: 7,
            start: CreatedAt::from_unix(3600),
            site_id: SiteId::new(Uuid::from_u128(u128::MAX)),
        };
        let text = cursor.to_string();
        assert_eq!(text.parse(), Ok(cursor));
        assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.'));
        for i in 0..text.len() {
            let mut damaged = text.clone().into_bytes();
            damaged[i] = if damaged[i] == b'0' { b'1' } else { b'0' };
            let damaged = String::from_utf8(damaged).unwrap();
            assert_eq!(
                damaged.parse::<CountersCursor>(),
                Err(NotACursor),
                "{damaged}"
            );
            assert_eq!(text[..i].parse::<CountersCursor>(), Err(NotACursor));
        }
        let no_question = CountersCursor {
            interval: Interval::Total,
            ..cursor
        };
        let text = no_question.to_string();
        assert_eq!(text.parse::<CountersCursor>(), Err(NotACursor));
    }
}
