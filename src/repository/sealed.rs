//! Which part of a report comes from sealed hours and which from the claims.
//!
//! Invariants: every second of the window is in exactly one part; an hour is read from its counts only
//! while they cover every mark of it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use clickhouse::Row;
use serde::Deserialize;

use super::measures::Source;
use super::sealed_tables::{EVENTS, PAGE_VIEWS, SealedTables};
use super::seals::{late_since, trusted_since};
use super::server_time::ServerTime;
use super::{ClickHouse, Error, READ_DEADLINE, deadline};
use crate::domain::{Hour, ReportWindow, UserId};

/// A statement names at most this many ranges of claims. Beyond that, sealed hours between two of
/// them are read from the claims as well.
const MAX_RANGES: usize = 16;

/// How often late rows may come in between before a report is read from the claims alone.
const MAX_LOOKS: usize = 3;

/// Sealed hours whose counts are good, each with the time that they are as of.
pub(super) type CleanHours = BTreeMap<Hour, ServerTime>;

/// A window in two parts, in ranges of seconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Split {
    /// Whole sealed hours.
    pub(super) sealed: Vec<Range<u32>>,
    /// The rest.
    pub(super) claims: Vec<Range<u32>>,
}

impl Split {
    pub(super) fn new(window: ReportWindow, clean: &CleanHours) -> Self {
        Self::within_ranges(window, clean, MAX_RANGES)
    }

    /// All of the window from the claims.
    pub(super) fn claims_only(window: ReportWindow) -> Self {
        Self::new(window, &CleanHours::new())
    }

    /// In at most so many ranges of claims.
    pub(super) fn within_ranges(
        window: ReportWindow,
        clean: &CleanHours,
        max_ranges: usize,
    ) -> Self {
        let (from, until) = (window.from.unix(), window.until.unix());
        let mut sealed: Vec<Range<u32>> = Vec::new();
        for hour in clean.keys() {
            if hour.start() < from || hour.end() > until {
                continue;
            }
            match sealed.last_mut() {
                Some(run) if run.end == hour.start() => run.end = hour.end(),
                _ => sealed.push(hour.start()..hour.end()),
            }
        }
        while sealed.len() >= max_ranges {
            let shortest = (0..sealed.len()).min_by_key(|i| sealed[*i].len());
            sealed.remove(shortest.unwrap_or_default());
        }
        let mut claims = Vec::new();
        let mut reached = from;
        for run in &sealed {
            claims.push(reached..run.start);
            reached = run.end;
        }
        claims.push(reached..until);
        claims.retain(|range| !range.is_empty());
        Self { sealed, claims }
    }

    /// Whether an hour is read from its counts.
    pub(super) fn holds(&self, hour: Hour) -> bool {
        self.sealed.iter().any(|run| run.contains(&hour.start()))
    }
}

/// A condition on `column`, true within the ranges.
pub(super) fn within(column: &str, ranges: &[Range<u32>]) -> String {
    let mut sql = String::from("(0");
    for Range { start, end } in ranges {
        // Writing to a string can't fail.
        let _ = write!(
            sql,
            " OR ({column} >= toDateTime({start}, 'UTC') AND {column} < toDateTime({end}, 'UTC'))"
        );
    }
    sql.push(')');
    sql
}

#[derive(Row, Deserialize)]
struct HourRow {
    /// An hour, or [`TRUSTED`].
    start: u32,
    sealed: i64,
    marked: i64,
}

/// In the place of an hour, which it is not: since when seals are good.
const TRUSTED: u32 = u32::MAX;

/// What was sealed when reports last looked, each hour with its seal.
///
/// It only saves a report its first look: whoever begins with it looks again before he answers, and
/// answers only if nothing has changed since.
#[derive(Default)]
pub(super) struct LastSeen(Mutex<CleanHours>);

impl LastSeen {
    /// The hours that lie in `window`.
    pub(super) fn within(&self, window: ReportWindow) -> CleanHours {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let hours = seen.range(whole_hours(window));
        hours.map(|(hour, sealed)| (*hour, *sealed)).collect()
    }

    fn note(&self, window: ReportWindow, sealed: &CleanHours) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let hours = whole_hours(window);
        seen.retain(|hour, _| !hours.contains(hour));
        seen.extend(sealed);
    }
}

fn whole_hours(window: ReportWindow) -> Range<Hour> {
    let from = Hour::from(window.from.unix());
    from..Hour::containing(window.until.unix()).max(from)
}

/// The hours of `window` that can be read from the counts of one user. Of hours whose seals are older
/// than `since`, none: so a second look asks only for what came after the first.
///
/// Seals are read before the counts that they stand for, never after: this must be a statement of its
/// own.
pub(super) async fn clean_for_user(
    clickhouse: &ClickHouse,
    user_id: UserId,
    window: ReportWindow,
    since: Option<ServerTime>,
    seen: &LastSeen,
) -> Result<CleanHours, Error> {
    let whose = format!("user_id = {} AND ", user_id.get());
    clean_hours(clickhouse, &PAGE_VIEWS, window, &whose, since, seen).await
}

/// The hours of `window` that can be read from the counts of the whole site, as for one user.
pub(super) async fn clean_for_site(
    clickhouse: &ClickHouse,
    window: ReportWindow,
    since: Option<ServerTime>,
    seen: &LastSeen,
) -> Result<CleanHours, Error> {
    clean_hours(clickhouse, &PAGE_VIEWS, window, "", since, seen).await
}

/// The hours of `window` that can be read from the counts of events, as for one user.
pub(super) async fn clean_for_events(
    clickhouse: &ClickHouse,
    window: ReportWindow,
    since: Option<ServerTime>,
    seen: &LastSeen,
) -> Result<CleanHours, Error> {
    clean_hours(clickhouse, &EVENTS, window, "", since, seen).await
}

/// The sealed hours, less those in which a row of `whose` may have come after the seal. Marks that every
/// seal covers are not asked for: the index on `late_at` spares their rows.
async fn clean_hours(
    clickhouse: &ClickHouse,
    tables: &SealedTables,
    window: ReportWindow,
    whose: &str,
    since: Option<ServerTime>,
    seen: &LastSeen,
) -> Result<CleanHours, Error> {
    let (seals, marks) = (seals(tables, window), |since| {
        marks(tables, window, whose, since)
    });
    let mut rows;
    let oldest = if let Some(since) = since {
        rows = look(clickhouse, &format!("{seals} UNION ALL {}", marks(since))).await?;
        since
    } else {
        rows = look(clickhouse, &seals).await?;
        let Some(oldest) = sealed_hours(&rows).into_values().min() else {
            return Ok(CleanHours::new());
        };
        rows.extend(look(clickhouse, &marks(oldest)).await?);
        oldest
    };
    let mut clean = sealed_hours(&rows);
    seen.note(window, &clean);
    clean.retain(|_, sealed| *sealed >= oldest);
    for row in rows.iter().filter(|row| row.marked > 0) {
        let (hour, mark) = (
            Hour::containing(row.start),
            ServerTime::from_millis(row.marked),
        );
        if clean.get(&hour).is_some_and(|sealed| !sealed.covers(mark)) {
            clean.remove(&hour);
        }
    }
    Ok(clean)
}

/// The hours that are sealed, by seals that are good.
fn sealed_hours(rows: &[HourRow]) -> CleanHours {
    let trusted = rows.iter().find(|row| row.start == TRUSTED);
    let trusted = trusted.map_or(i64::MAX, |row| row.sealed);
    let good = rows
        .iter()
        .filter(|row| row.start != TRUSTED && row.sealed > trusted);
    good.map(|row| {
        let sealed = ServerTime::from_millis(row.sealed);
        (Hour::containing(row.start), sealed)
    })
    .collect()
}

async fn look(clickhouse: &ClickHouse, sql: &str) -> Result<Vec<HourRow>, Error> {
    // There is little to read: more threads only cost.
    let query = clickhouse
        .reader()?
        .with_setting("max_threads", "1")
        .query(sql);
    deadline(READ_DEADLINE, query.fetch_all::<HourRow>()).await
}

fn in_whole_hours(column: &str, window: ReportWindow) -> String {
    let Range { start, end } = whole_hours(window);
    let (from, until) = (start.start(), end.start());
    format!("{column} >= toDateTime({from}, 'UTC') AND {column} < toDateTime({until}, 'UTC')")
}

fn seals(tables: &SealedTables, window: ReportWindow) -> String {
    let seals = tables.seals;
    format!(
        "SELECT toUnixTimestamp(hour) AS start, toUnixTimestamp64Milli(max(sealed_at)) AS sealed, \
         toInt64(0) AS marked FROM {seals} WHERE {} GROUP BY hour \
         UNION ALL SELECT toUInt32({TRUSTED}), {}, toInt64(0)",
        in_whole_hours("hour", window),
        trusted_since(tables),
    )
}

/// The newest mark of each hour that counts as of `since`, or of any later time, may not cover.
fn marks(tables: &SealedTables, window: ReportWindow, whose: &str, since: ServerTime) -> String {
    let SealedTables { claims, time, .. } = tables;
    format!(
        "SELECT toUnixTimestamp(toStartOfHour({time})) AS start, toInt64(0) AS sealed, \
         toUnixTimestamp64Milli(max(late_at)) AS marked FROM {claims} \
         PREWHERE {whose}{} AND {} GROUP BY start",
        in_whole_hours(time, window),
        late_since(since),
    )
}

/// Whether nothing came, between two looks, into the hours that are read from their counts: what came
/// keeps the hour from being clean until it is sealed again.
fn is_unchanged(split: &Split, before: &CleanHours, after: &CleanHours) -> bool {
    let used = before.iter().filter(|(hour, _)| split.holds(**hour));
    used.into_iter()
        .all(|(hour, sealed)| after.get(hour) == Some(sealed))
}

/// Looks at what is sealed, reads, and looks again: a row that moved from a sealed hour into another
/// one meanwhile would be counted twice or not at all. `seen`, unless empty, is an earlier look at the
/// same server. After some looks in vain it reads the claims alone. It says which it was.
pub(super) async fn read_steadily<T, L, R>(
    window: ReportWindow,
    seen: CleanHours,
    look: impl Fn(Option<ServerTime>) -> L,
    split: impl Fn(&CleanHours) -> Split,
    read: impl Fn(Split) -> R,
) -> Result<(T, Source), Error>
where
    L: Future<Output = Result<CleanHours, Error>>,
    R: Future<Output = Result<T, Error>>,
{
    let mut clean = if seen.is_empty() {
        look(None).await?
    } else {
        seen
    };
    for _ in 0..MAX_LOOKS {
        let split = split(&clean);
        let answer = read(split.clone()).await?;
        if split.sealed.is_empty() {
            return Ok((answer, Source::Claims));
        }
        let after = look(clean.values().min().copied()).await?;
        if is_unchanged(&split, &clean, &after) {
            return Ok((answer, Source::View));
        }
        clean = after;
    }
    read_claims_only(window, read).await
}

/// All of the window from the claims.
pub(super) async fn read_claims_only<T, R: Future<Output = Result<T, Error>>>(
    window: ReportWindow,
    read: impl Fn(Split) -> R,
) -> Result<(T, Source), Error> {
    let answer = read(Split::claims_only(window)).await?;
    Ok((answer, Source::Claims))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::CreatedAt;

    const H: u32 = 3600;

    fn window(from: u32, until: u32) -> ReportWindow {
        ReportWindow {
            from: CreatedAt::from_unix(from),
            until: CreatedAt::from_unix(until),
        }
    }

    fn hours(hours: impl IntoIterator<Item = u32>) -> CleanHours {
        let hour = |h: u32| (Hour::containing(h * H), ServerTime::from_millis(0));
        hours.into_iter().map(hour).collect()
    }

    #[test]
    fn edges_and_gaps_come_from_the_claims() {
        let split = Split::new(window(H + 1, 9 * H + 5), &hours([1, 2, 3, 5, 8, 9]));
        assert_eq!(split.sealed, [2 * H..4 * H, 5 * H..6 * H, 8 * H..9 * H]);
        assert_eq!(
            split.claims,
            [H + 1..2 * H, 4 * H..5 * H, 6 * H..8 * H, 9 * H..9 * H + 5]
        );
    }

    #[test]
    fn nothing_sealed_is_all_claims_and_all_sealed_is_none() {
        let edge = Split::new(window(5, 7), &hours([0]));
        assert_eq!((edge.claims.len(), edge.claims[0].clone()), (1, 5..7));
        let all = Split::new(window(0, 2 * H), &hours([0, 1]));
        assert_eq!((all.sealed.len(), all.claims.len()), (1, 0));
    }

    #[test]
    fn many_gaps_are_bounded_and_lose_no_second() {
        let clean = hours((0..500).filter(|h| h % 3 != 0));
        let split = Split::new(window(7, 499 * H + 9), &clean);
        assert!(split.claims.len() <= MAX_RANGES);
        let mut all: Vec<_> = split.sealed.iter().chain(&split.claims).collect();
        all.sort_by_key(|range| range.start);
        assert_eq!(all.first().map(|r| r.start), Some(7));
        assert_eq!(all.last().map(|r| r.end), Some(499 * H + 9));
        assert!(all.windows(2).all(|pair| pair[0].end == pair[1].start));
    }

    #[test]
    fn a_late_row_is_noticed_only_where_it_matters() {
        let before = hours([1, 2]);
        let split = Split::new(window(H, 3 * H), &before);
        let mut after = hours([0, 1, 2]);
        assert!(is_unchanged(&split, &before, &after));
        after.insert(Hour::containing(2 * H), ServerTime::from_millis(1));
        assert!(!is_unchanged(&split, &before, &after));
        assert!(!is_unchanged(&split, &before, &hours([1])));
    }
}
