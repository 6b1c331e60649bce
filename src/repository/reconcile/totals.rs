//! A day in five numbers that must be equal.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use chrono::DateTime;
use clickhouse::Row;
use serde::{Deserialize, Serialize, Serializer};
use tokio::time::sleep;

use super::Reconciler;
use super::cells::{Sealed, late_users};
use super::chunks::Chunk;
use crate::repository::erasures::NOT_ERASED;
use crate::repository::sealed::within;
use crate::repository::sealed_tables::PAGE_VIEWS;
use crate::repository::{Error, Seals};

pub(super) const DAY: u32 = 86_400;
/// How often a day whose numbers differ is read again before its views count as moving.
const LOOKS: usize = 4;
const PAUSE: Duration = Duration::from_millis(500);

/// One day of UTC, or the part of it that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct DayTotals {
    /// Its first second, since the Unix epoch; as text the date.
    #[serde(serialize_with = "date")]
    pub day: u32,
    /// Request ids with a live claim in `traffic_by_request`.
    pub accepted: u64,
    /// Live claims in `traffic`.
    pub stored: u64,
    /// Distinct request ids of those.
    pub stored_ids: u64,
    /// Views that all users' reports count together.
    pub users: u64,
    /// Views that the site's report counts.
    pub site: u64,
    /// The numbers did not stand still while they were read: views arrived or were updated.
    pub moving: bool,
}

fn date<S: Serializer>(day: &u32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&date_of(*day))
}

pub(super) fn date_of(second: u32) -> String {
    let at = DateTime::from_timestamp(second.into(), 0).unwrap_or_default();
    at.format("%Y-%m-%d").to_string()
}

impl DayTotals {
    /// The day as a date.
    pub fn date(&self) -> String {
        date_of(self.day)
    }

    /// Whether all five numbers are the same.
    pub fn agree(&self) -> bool {
        [self.stored, self.stored_ids, self.users, self.site]
            .iter()
            .all(|number| *number == self.accepted)
    }
}

impl fmt::Display for DayTotals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "accepted {}, stored {}, request ids {}, users' reports {}, site's report {}",
            self.accepted, self.stored, self.stored_ids, self.users, self.site
        )
    }
}

#[derive(Row, Deserialize)]
struct DayCount {
    day: u32,
    ids: u64,
}

#[derive(Row, Deserialize)]
struct Stored {
    claims: u64,
    ids: u64,
}

/// The days of a window, each cut to it.
pub(super) fn days(window: &Range<u32>) -> Vec<Range<u32>> {
    let mut days = Vec::new();
    let mut from = window.start;
    while from < window.end {
        let until = (from - from % DAY).saturating_add(DAY).min(window.end);
        days.push(from..until);
        from = until;
    }
    days
}

impl Reconciler {
    /// The totals of all days with views. A day that does not agree is read again until it does, or
    /// until it stands still.
    pub(super) async fn totals(&self, window: &Range<u32>) -> Result<Vec<DayTotals>, Error> {
        let accepted = self.accepted(window).await?;
        let occupied = self.occupied(window).await?;
        let sealed = self.sealed(&PAGE_VIEWS, window).await?;
        let mut all = Vec::new();
        for day in days(window) {
            let first = day.start - day.start % DAY;
            if !occupied.contains(&first) && !accepted.contains_key(&first) {
                continue;
            }
            let accepted = accepted.get(&first).copied().unwrap_or(0);
            let mut totals = self.day(&day, accepted, &sealed).await?;
            for _ in 0..LOOKS {
                if totals.agree() {
                    break;
                }
                sleep(PAUSE.min(self.patience)).await;
                let accepted = self.accepted(&day).await?;
                let accepted = accepted.get(&first).copied().unwrap_or(0);
                let sealed = self.sealed(&PAGE_VIEWS, &day).await?;
                let again = self.day(&day, accepted, &sealed).await?;
                let still = again
                    == DayTotals {
                        moving: false,
                        ..totals
                    };
                totals = DayTotals {
                    moving: !again.agree() && !still,
                    ..again
                };
                if still {
                    break;
                }
            }
            if totals.accepted + totals.stored + totals.users + totals.site > 0 {
                all.push(totals);
            }
        }
        Ok(all)
    }

    /// Ids with a live claim, by the first second of each day. Read in the order of the table, so
    /// that memory does not grow with it.
    async fn accepted(&self, window: &Range<u32>) -> Result<BTreeMap<u32, u64>, Error> {
        let times = within("created_at", std::slice::from_ref(window));
        let sql = format!(
            "SELECT day, count() AS ids FROM (SELECT request_id, \
             arrayJoin(groupUniqArray(toUnixTimestamp(toStartOfDay(created_at)))) AS day \
             FROM traffic_by_request FINAL PREWHERE {times} AND {NOT_ERASED} GROUP BY request_id) GROUP BY day \
             SETTINGS optimize_aggregation_in_order = 1"
        );
        let mut days = BTreeMap::new();
        self.each(&sql, |row: DayCount| {
            days.insert(row.day, row.ids);
        })
        .await?;
        Ok(days)
    }

    /// The days with claims or counts, whatever they say, by their first seconds.
    async fn occupied(&self, window: &Range<u32>) -> Result<BTreeSet<u32>, Error> {
        let window = std::slice::from_ref(window);
        let (times, hours) = (within("created_at", window), within("hour", window));
        let day = |column: &str| format!("toUnixTimestamp(toStartOfDay({column})) AS day");
        let sql = format!(
            "SELECT DISTINCT day FROM (SELECT {} FROM traffic PREWHERE {times} GROUP BY day \
             UNION ALL SELECT {} FROM traffic_hourly PREWHERE {hours} GROUP BY day \
             UNION ALL SELECT {} FROM traffic_hourly_pages PREWHERE {hours} GROUP BY day)",
            day("created_at"),
            day("hour"),
            day("hour"),
        );
        let mut days = BTreeSet::new();
        self.each(&sql, |day: u32| {
            days.insert(day);
        })
        .await?;
        Ok(days)
    }

    async fn day(
        &self,
        day: &Range<u32>,
        accepted: u64,
        sealed: &Sealed,
    ) -> Result<DayTotals, Error> {
        let times = within("created_at", std::slice::from_ref(day));
        let sql = format!(
            "SELECT sum(n) AS claims, count() AS ids FROM (SELECT request_id, count() AS n \
             FROM traffic FINAL PREWHERE {times} AND {NOT_ERASED} GROUP BY request_id)"
        );
        let mut stored = Stored { claims: 0, ids: 0 };
        self.each(&sql, |row: Stored| stored = row).await?;
        Ok(DayTotals {
            day: day.start - day.start % DAY,
            accepted,
            stored: stored.claims,
            stored_ids: stored.ids,
            users: self.counted_for_users(day, &sealed.users).await?,
            site: self.counted_for_site(day, &sealed.site).await?,
            moving: false,
        })
    }

    async fn counted_for_users(
        &self,
        day: &Range<u32>,
        sealed: &BTreeSet<u32>,
    ) -> Result<u64, Error> {
        let (sealed, rest) = split(day, sealed);
        let (hours, times, late) = (sealed.hours(), sealed.times(), late_users(&sealed));
        let rest = within("created_at", &rest);
        let sql = format!(
            "SELECT sum(n) FROM (\
             SELECT toUInt64(arraySum(views)) AS n FROM traffic_hourly FINAL PREWHERE {hours} \
             WHERE (user_id, hour) GLOBAL NOT IN ({late}) \
             UNION ALL SELECT count() AS n FROM traffic FINAL PREWHERE {times} AND {NOT_ERASED} \
             WHERE (user_id, toStartOfHour(created_at)) GLOBAL IN ({late}) \
             UNION ALL SELECT count() AS n FROM traffic FINAL PREWHERE {rest} AND {NOT_ERASED})"
        );
        self.number(&sql).await
    }

    async fn counted_for_site(
        &self,
        day: &Range<u32>,
        clean: &BTreeSet<u32>,
    ) -> Result<u64, Error> {
        let (clean, rest) = split(day, clean);
        let (hours, rest) = (clean.hours(), within("created_at", &rest));
        let sql = format!(
            "SELECT sum(n) FROM (\
             SELECT sum(views) AS n FROM traffic_hourly_pages FINAL PREWHERE {hours} \
             UNION ALL SELECT count() AS n FROM traffic FINAL PREWHERE {rest} AND {NOT_ERASED})"
        );
        self.number(&sql).await
    }

    async fn number(&self, sql: &str) -> Result<u64, Error> {
        let mut found = 0;
        self.each(sql, |number: u64| found = number).await?;
        Ok(found)
    }

    pub(super) fn seals(&self) -> Seals {
        Seals::new(self.clickhouse.clone(), crate::repository::LEAST_SEAL_DELAY)
    }
}

/// The whole hours of `day` that are read from counts, and the seconds that are not.
fn split(day: &Range<u32>, counted: &BTreeSet<u32>) -> (Chunk, Vec<Range<u32>>) {
    let within = |hour: &&u32| **hour >= day.start && **hour + 3600 <= day.end;
    let counted = Chunk::whole(counted.iter().filter(within).copied());
    let mut rest = Vec::new();
    let mut reached = day.start;
    for run in &counted.ranges {
        rest.push(reached..run.start);
        reached = run.end;
    }
    rest.push(reached..day.end);
    rest.retain(|range| !range.is_empty());
    (counted, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_second_of_a_window_is_in_one_day_and_one_part() {
        assert_eq!(
            days(&(5..2 * DAY + 7)),
            [5..DAY, DAY..2 * DAY, 2 * DAY..2 * DAY + 7]
        );
        assert!(days(&(7..7)).is_empty());
        let (counted, rest) = split(&(5..DAY), &BTreeSet::from([0, 3600, 7200, 18_000]));
        assert_eq!(counted.ranges, [3600..10_800, 18_000..21_600]);
        assert_eq!(rest, [5..3600, 10_800..18_000, 21_600..DAY]);
    }
}
