//! Hours, grouped so that what one statement may find fits into memory.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::repository::sealed::within;

/// Live claims of each hour, by its first second.
pub(super) type Rows = BTreeMap<u32, u64>;

/// About so many claims are compared in one statement.
const CLAIMS: u64 = 100_000;
/// A statement names at most this many ranges of hours.
const RANGES: usize = 24;
const HOUR: u32 = 3600;
const DAY: u32 = 86_400;

/// Some hours of one day, or a part of one hour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chunk {
    /// Whole hours, in seconds since the Unix epoch.
    pub(super) ranges: Vec<Range<u32>>,
    part: u64,
    parts: u64,
}

impl Chunk {
    /// These hours, undivided.
    pub(super) fn whole(hours: impl IntoIterator<Item = u32>) -> Self {
        let mut ranges: Vec<Range<u32>> = Vec::new();
        for hour in hours {
            match ranges.last_mut() {
                Some(run) if run.end == hour => run.end = hour + HOUR,
                _ => ranges.push(hour..hour + HOUR),
            }
        }
        Self {
            ranges,
            part: 0,
            parts: 1,
        }
    }

    /// The same without what is outside the window.
    pub(super) fn cut(mut self, window: &Range<u32>) -> Self {
        for range in &mut self.ranges {
            *range = range.start.max(window.start)..range.end.min(window.end);
        }
        self
    }

    /// A condition that is true for this part; `column` must be the same for all that is compared
    /// with each other.
    pub(super) fn slice(&self, column: &str) -> String {
        match self.parts {
            1 => "1".to_owned(),
            parts => format!("cityHash64({column}) % {parts} = {}", self.part),
        }
    }

    pub(super) fn hours(&self) -> String {
        within("hour", &self.ranges)
    }

    pub(super) fn times(&self) -> String {
        within("created_at", &self.ranges)
    }
}

/// `hours`, in order, in chunks.
pub(super) fn chunks(hours: impl IntoIterator<Item = u32>, rows: &Rows) -> Vec<Chunk> {
    let (mut chunks, mut open, mut claims) = (Vec::new(), Vec::<u32>::new(), 0);
    for hour in hours {
        let own = rows.get(&hour).copied().unwrap_or(0);
        let apart = open.first().is_some_and(|first| first / DAY != hour / DAY);
        if !open.is_empty() && (apart || claims + own > CLAIMS || open.len() == RANGES) {
            chunks.push(Chunk::whole(std::mem::take(&mut open)));
            claims = 0;
        }
        if own > CLAIMS {
            let parts = own.div_ceil(CLAIMS);
            chunks.extend((0..parts).map(|part| Chunk {
                part,
                parts,
                ..Chunk::whole([hour])
            }));
        } else {
            open.push(hour);
            claims += own;
        }
    }
    if !open.is_empty() {
        chunks.push(Chunk::whole(open));
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_hold_whole_hours_of_one_day_or_parts_of_one() {
        let hours = [0, 1, 3, 23, 24, 25, 26].map(|h| h * HOUR);
        let rows = [(HOUR, 60_000), (3 * HOUR, 60_000), (25 * HOUR, 250_000)];
        let chunks = chunks(hours, &rows.into_iter().collect());
        let shape: Vec<_> = chunks
            .iter()
            .map(|c| (c.ranges.clone(), c.part, c.parts))
            .collect();
        let h = |from: u32, to: u32| from * HOUR..to * HOUR;
        assert_eq!(
            shape,
            [
                (vec![h(0, 2)], 0, 1),
                (vec![h(3, 4), h(23, 24)], 0, 1),
                (vec![h(24, 25)], 0, 1),
                (vec![h(25, 26)], 0, 3),
                (vec![h(25, 26)], 1, 3),
                (vec![h(25, 26)], 2, 3),
                (vec![h(26, 27)], 0, 1),
            ]
        );
        assert_eq!(chunks[0].slice("x"), "1");
        assert_eq!(chunks[4].slice("x"), "cityHash64(x) % 3 = 1");
    }
}
