//! Events that were sent with several times.
//!
//! The identity of an event is (site, correlation id, type), and it counts once, at the earliest of its
//! times. Each time is a claim in the table; every claim but the earliest gets a tombstone:
//!
//! - at once, before the answer, where the instance that takes one in knows another: it has lately been
//!   told of it ([`RivalEvents::settle_some`]);
//! - else by a sweep over all events ([`RivalEvents::run`]). Until then both count.
//!
//! Any number of instances may do this at once, in any order and in part: a claim gets a tombstone only
//! if an earlier one of its event was seen live, and the earliest of all never does. So what is left in
//! the end is the earliest claim alone; a late copy of another loses to its tombstone.
//!
//! To count each event once at every moment, reports would have to look at all times of every event:
//! six times the cost of reading the claims of a window (`docs/data-model.md`, "Events").

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::domain::EventIdentity;
use crate::pipeline::Seldom;
use crate::repository::{ClickHouse, Error, READ_DEADLINE, READ_EXECUTION_SECS, deadline};

/// How long it rests between two sweeps at least; about, so that instances do not keep step.
const LEAST_REST: Duration = Duration::from_secs(300);
/// And so many times as long as the sweep took.
const REST_FACTOR: u32 = 50;
/// How long it waits after a failure.
const BACKOFF: Duration = Duration::from_secs(60);
/// About so many claims are looked at together, which bounds the memory.
const CHUNK_ROWS: u64 = 1_000_000;
/// So many events are named in one statement.
const MAX_NAMED: usize = 1000;
/// After each chunk it leaves ClickHouse alone for so many times as long as the chunk took.
const PAUSE_FACTOR: u32 = 3;

/// Settles rival claims about events.
pub struct RivalEvents {
    clickhouse: ClickHouse,
    failed: Seldom,
}

impl RivalEvents {
    /// Of this database; does nothing until it is told to.
    pub fn new(clickhouse: ClickHouse) -> Arc<Self> {
        Arc::new(Self {
            clickhouse,
            failed: Seldom::new(),
        })
    }

    /// Sweeps until it is dropped, which may be at any time.
    pub async fn run(self: Arc<Self>) {
        loop {
            let began = Instant::now();
            let rest = match self.settle().await {
                Ok(settled) => {
                    if settled > 0 {
                        info!(settled, "events with several times settled to the earliest");
                    }
                    (began.elapsed() * REST_FACTOR).max(LEAST_REST)
                }
                Err(error) => {
                    self.failed
                        .say(|left_out| warn!(%error, left_out, "rival events not settled"));
                    BACKOFF
                }
            };
            sleep(rest.mul_f64(rand::random_range(0.7..1.3))).await;
        }
    }

    /// Settles these events only; how many claims got a tombstone.
    ///
    /// # Errors
    /// As for [`RivalEvents::settle`].
    pub async fn settle_some(&self, events: &[EventIdentity]) -> Result<u64, Error> {
        let mut settled = 0;
        for named in named(events) {
            settled += self.bury(&named).await?;
        }
        Ok(settled)
    }

    /// One sweep over all events; how many claims got a tombstone.
    ///
    /// # Errors
    /// When ClickHouse can't answer or be written to; what was settled by then stays so.
    pub async fn settle(&self) -> Result<u64, Error> {
        let reader = self.clickhouse.reader()?;
        let rows = reader
            .query("SELECT count() FROM events")
            .fetch_one::<u64>();
        let chunks = deadline(READ_DEADLINE, rows).await? / CHUNK_ROWS + 1;
        let mut settled = 0;
        for chunk in 0..chunks {
            let began = Instant::now();
            settled += self.bury(&suspects(chunk, chunks)).await?;
            if chunk + 1 < chunks {
                sleep(began.elapsed() * PAUSE_FACTOR).await;
            }
        }
        Ok(settled)
    }

    /// Gives tombstones to all but the earliest claims of `events`, which are tuples or a subquery.
    async fn bury(&self, events: &str) -> Result<u64, Error> {
        let rivals = rivals(events);
        let count = self.clickhouse.reader()?;
        let count = count.query(&format!("SELECT count() FROM ({rivals})"));
        let found = deadline(READ_DEADLINE, count.fetch_one::<u64>()).await?;
        if found > 0 {
            let writer = self.clickhouse.writer().await?;
            let bury = writer.query(&format!(
                "INSERT INTO events (site_id, type, time, correlation_id, version, is_deleted) \
                 SELECT site_id, type, time, correlation_id, 1, 1 FROM ({rivals})"
            ));
            let bury = bury
                .with_setting("async_insert", "0")
                .with_setting("max_execution_time", READ_EXECUTION_SECS.to_string())
                // Rivals may be of any day.
                .with_setting("max_partitions_per_insert_block", "0");
            deadline(READ_DEADLINE, bury.execute()).await?;
        }
        Ok(found)
    }
}

/// Events as lists of tuples of SQL, each event once: a batch may tell many times of one.
fn named(events: &[EventIdentity]) -> Vec<String> {
    let each: HashSet<&EventIdentity> = events.iter().collect();
    let tuples: Vec<String> = each.into_iter().map(tuple).collect();
    let lists = tuples.chunks(MAX_NAMED);
    lists.map(|list| list.join(",")).collect()
}

/// An event as a tuple of SQL.
fn tuple(event: &EventIdentity) -> String {
    let EventIdentity {
        site_id,
        correlation_id,
        of,
    } = event;
    format!("('{site_id}', '{}', '{correlation_id}')", of.as_str())
}

/// Events with several claims, live or not, in one part of all events.
fn suspects(chunk: u64, chunks: u64) -> String {
    format!(
        "SELECT site_id, type, correlation_id FROM events \
         WHERE cityHash64(correlation_id) % {chunks} = {chunk} \
         GROUP BY site_id, type, correlation_id HAVING min(time) != max(time)"
    )
}

/// The live claims that are not the earliest of their event. `PREWHERE` filters before rows are merged,
/// which is safe, because its columns are in the sort key.
fn rivals(events: &str) -> String {
    format!(
        "SELECT site_id, type, arrayJoin(arrayFilter(t -> t > arrayMin(times), times)) AS time, \
         correlation_id FROM (SELECT site_id, type, correlation_id, groupUniqArray(time) AS times \
         FROM events FINAL PREWHERE (site_id, type, correlation_id) GLOBAL IN ({events}) \
         GROUP BY site_id, type, correlation_id)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{CorrelationId, EventType, SiteId};
    use uuid::Uuid;

    #[test]
    fn every_event_is_named_once() {
        let event = |id: u128| EventIdentity {
            site_id: SiteId::new(Uuid::nil()),
            correlation_id: CorrelationId::new(Uuid::from_u128(id)),
            of: EventType::SERVE,
        };
        let one = named(&[event(7); 3 * MAX_NAMED]);
        assert_eq!(one, [tuple(&event(7))]);
        let many: Vec<_> = (0..=MAX_NAMED as u128).map(event).collect();
        let lists = named(&many);
        assert_eq!(lists.len(), 2);
        let tuples: usize = lists.iter().map(|list| list.matches("serve").count()).sum();
        assert_eq!(tuples, many.len());
        assert!(named(&[]).is_empty());
    }
}
