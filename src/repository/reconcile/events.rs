//! The sealed counts of events, compared with their claims cell by cell.
//!
//! Nothing else of events can differ: there is one table of claims, and one table of counts. Events with
//! several times are no difference that lasts: a sweep settles them (`repository/events/rivals.rs`).

use std::collections::BTreeSet;
use std::ops::Range;

use clickhouse::Row;
use serde::Deserialize;

use super::chunks::Chunk;
use super::{Finding, Reconciler};
use crate::repository::Error;
use crate::repository::sealed::within;
use crate::repository::sealed_tables::EVENTS;

/// The hours of so many seconds are compared in one statement, whose answer has a row for each wrong
/// count: few types and hours of all sites.
const DAY: u32 = 86_400;

#[derive(Row, Deserialize)]
struct EventCell {
    site: String,
    hour: u32,
    name: String,
    counted: u64,
    claimed: u64,
}

impl Reconciler {
    /// The whole hours of events in `window` that reports read from counts, by their first seconds.
    pub(super) async fn sealed_events(&self, window: &Range<u32>) -> Result<BTreeSet<u32>, Error> {
        let mut hours = self.sealed(&EVENTS, window).await?.site;
        hours.retain(|hour| *hour >= window.start && *hour + 3600 <= window.end);
        Ok(hours)
    }

    /// The counts of these hours that differ from the claims.
    pub(super) async fn differing_events(
        &self,
        hours: &BTreeSet<u32>,
    ) -> Result<Vec<Finding>, Error> {
        let mut found = Vec::new();
        let mut hours = hours.iter().copied().peekable();
        while let Some(first) = hours.next() {
            let mut of_day = vec![first];
            while let Some(hour) = hours.next_if(|hour| hour / DAY == first / DAY) {
                of_day.push(hour);
            }
            let chunk = Chunk::whole(of_day);
            let (counted, claimed) = (chunk.hours(), within("time", &chunk.ranges));
            let sql = format!(
                "SELECT toString(site_id) AS site, toUnixTimestamp(hour) AS hour, name, \
                 sum(c) AS counted, sum(v) AS claimed FROM (\
                 SELECT site_id, hour, toString(type) AS name, events AS c, toUInt64(0) AS v \
                 FROM events_hourly FINAL PREWHERE {counted} \
                 UNION ALL SELECT site_id, toStartOfHour(time) AS hour, toString(type) AS name, \
                 toUInt64(0) AS c, count() AS v FROM events FINAL PREWHERE {claimed} \
                 GROUP BY site_id, hour, name\
                 ) GROUP BY site_id, hour, name HAVING counted != claimed"
            );
            self.each(&sql, |row: EventCell| {
                found.push(Finding::EventCell {
                    site_id: row.site,
                    hour: row.hour,
                    name: row.name,
                    counted: row.counted,
                    claimed: row.claimed,
                });
            })
            .await?;
        }
        Ok(found)
    }
}
