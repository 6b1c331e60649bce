//! Sealing: counting closed hours into the pre-aggregate, and knowing which are.
//!
//! The counting itself is done by materialized views (`migrations/0005`, `0006`, `0008` and `0010`) that
//! fire when a row asks for an hour. Here is the protocol around them, which makes the counts exact:
//!
//! 1. The server's time is read first, and is what the counts are said to be as of.
//! 2. The views count the hour. Every row that could be read at that time is in.
//! 3. Only when they have confirmed is the hour recorded as sealed.
//!
//! Every step may be repeated, by anybody, at any time, and may be the last one before a crash: of
//! several counts the youngest is used, and one without its record is not used at all.
//!
//! Refuses to know: when to seal what.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clickhouse::{Client, Row};
use serde::Deserialize;

use super::sealed_tables::{EVENTS, PAGE_VIEWS, SealedTables};
use super::server_time::{INSERT_LIMIT, ServerTime, millis};
use super::{ClickHouse, Error, READ_DEADLINE, SEAL_DEADLINE, SEAL_EXECUTION_SECS, deadline};
use crate::domain::Hour;

/// Rows that come within this time after their hour are not marked; as in `migrations/0008`.
const MARK_SLACK: Duration = Duration::from_secs(1800);

/// How far the clocks of a cluster's servers may differ where an hour is sealed for the first time.
const CLOCK_SKEW: Duration = Duration::from_secs(540);

/// An hour may be sealed this long after its end and not earlier: by then every row that came without
/// a mark can be read.
pub const LEAST_SEAL_DELAY: Duration =
    Duration::from_secs(MARK_SLACK.as_secs() + INSERT_LIMIT.as_secs() + CLOCK_SKEW.as_secs());

/// All marks are looked at again after this; in between, those that have come.
const LOOK_AT_ALL: Duration = Duration::from_secs(3600);

/// How much memory one count may use before it goes to disk, in bytes.
const MEMORY_BEFORE_DISK: &str = "1073741824";
/// Sealing leaves the other cores to the reports.
const THREADS: &str = "2";

/// A condition, in SQL, on the claims that came late and may be missing from counts as of
/// this time.
pub(super) fn late_since(as_of: ServerTime) -> String {
    let since = as_of.millis() - millis(INSERT_LIMIT);
    format!("late_at >= fromUnixTimestamp64Milli(toInt64({since}), 'UTC')")
}

/// Since when seals are good, in SQL: rows that came before there were marks have none.
pub(super) fn trusted_since(tables: &SealedTables) -> String {
    let (limit, migration) = (millis(INSERT_LIMIT), tables.marked_since);
    format!(
        "assumeNotNull((SELECT toUnixTimestamp64Milli(max(applied_at)) + {limit} \
         FROM schema_migrations WHERE name = '{migration}'))"
    )
}

/// What is known of one hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HourState {
    /// Its counts are in, as of this time.
    pub sealed_at: Option<ServerTime>,
    /// When all of it was last counted, not only what late rows are about.
    pub counted_at: Option<ServerTime>,
    /// When its newest late row came.
    pub marked_at: Option<ServerTime>,
}

impl HourState {
    /// Whether rows came that its counts may not hold.
    pub fn is_late(&self) -> bool {
        match (self.sealed_at, self.marked_at) {
            (Some(sealed), Some(marked)) => !sealed.covers(marked),
            _ => false,
        }
    }
}

/// What is sealed and what is not, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// The moment.
    pub now: ServerTime,
    /// Seals as of this time or before are not trusted.
    pub trusted_since: ServerTime,
    /// Every closed hour that is counted at all and not older than the oldest claim.
    pub hours: BTreeMap<Hour, HourState>,
}

/// The newest mark of each hour, as far as surveys have seen them.
///
/// A merge may drop a row and its mark; here it stays, and at worst an hour is counted once too often.
#[derive(Default)]
struct Marks {
    newest: BTreeMap<Hour, ServerTime>,
    /// Marks older than this have been seen.
    seen: Option<ServerTime>,
    /// When all of them were looked at.
    all_seen: Option<ServerTime>,
}

/// Counts hours and says which are counted; cheap to clone.
#[derive(Clone)]
pub struct Seals {
    clickhouse: ClickHouse,
    tables: &'static SealedTables,
    delay: Duration,
    marks: Arc<Mutex<Marks>>,
}

#[derive(Row, Deserialize)]
struct Bounds {
    now: i64,
    trusted_since: i64,
    oldest: u32,
}

#[derive(Row, Deserialize)]
struct SealRow {
    start: u32,
    sealed: i64,
    counted: i64,
}

#[derive(Row, Deserialize)]
struct MarkRow {
    start: u32,
    marked: i64,
}

impl Seals {
    /// Of the page views in `clickhouse`; hours are closed `delay` after their end, which must be
    /// [`LEAST_SEAL_DELAY`] at least for the counts to be exact.
    pub fn new(clickhouse: ClickHouse, delay: Duration) -> Self {
        Self::of(&PAGE_VIEWS, clickhouse, delay)
    }

    /// The same of the events.
    pub fn of_events(clickhouse: ClickHouse, delay: Duration) -> Self {
        Self::of(&EVENTS, clickhouse, delay)
    }

    fn of(tables: &'static SealedTables, clickhouse: ClickHouse, delay: Duration) -> Self {
        Self {
            clickhouse,
            tables,
            delay,
            marks: Arc::default(),
        }
    }

    /// Which stream this is about, for the log.
    pub(super) fn stream(&self) -> &'static str {
        self.tables.stream
    }

    /// The server's clock.
    ///
    /// # Errors
    /// When ClickHouse can't answer.
    pub async fn now(&self) -> Result<ServerTime, Error> {
        let query = self
            .clickhouse
            .reader()?
            .query("SELECT toUnixTimestamp64Milli(now64(3))");
        Ok(ServerTime::from_millis(
            deadline(READ_DEADLINE, query.fetch_one::<i64>()).await?,
        ))
    }

    /// Looks at all hours.
    ///
    /// # Errors
    /// When ClickHouse can't answer.
    pub async fn survey(&self) -> Result<Survey, Error> {
        let reader = self.clickhouse.reader()?;
        let trusted_since = trusted_since(self.tables);
        let SealedTables {
            claims,
            time,
            seals,
            ..
        } = self.tables;
        let query = reader.query(&format!(
            "SELECT toUnixTimestamp64Milli(now64(3)) AS now, {trusted_since} AS trusted_since, \
             assumeNotNull((SELECT toUnixTimestamp(min({time})) FROM {claims})) AS oldest"
        ));
        let bounds = deadline(READ_DEADLINE, query.fetch_one::<Bounds>()).await?;
        let retained = i64::from((self.tables.days)(&self.clickhouse.schema)) * 86_400;
        let expired = u32::try_from(bounds.now / 1000 - retained).unwrap_or(0);
        let first = Hour::containing(bounds.oldest.max(expired));
        let mut hours = BTreeMap::new();
        let mut hour = first;
        while bounds.oldest > 0 && self.is_closed(hour, ServerTime::from_millis(bounds.now)) {
            hours.insert(hour, HourState::default());
            hour = Hour::from(hour.end());
        }

        let query = self
            .clickhouse
            .reader()?
            .query(&format!(
                "SELECT toUnixTimestamp(hour) AS start, \
                 toUnixTimestamp64Milli(max(sealed_at)) AS sealed, \
                 toUnixTimestamp64Milli(max(counted_at)) AS counted FROM {seals} \
                 WHERE hour >= toDateTime(?, 'UTC') \
                 AND toUnixTimestamp64Milli(sealed_at) > {trusted_since} GROUP BY hour"
            ))
            .bind(first.start());
        let now = ServerTime::from_millis(bounds.now);
        let mut oldest_seal = now;
        for row in deadline(READ_DEADLINE, query.fetch_all::<SealRow>()).await? {
            if let Some(state) = hours.get_mut(&Hour::containing(row.start)) {
                state.sealed_at = Some(ServerTime::from_millis(row.sealed));
                state.counted_at = Some(ServerTime::from_millis(row.counted));
                oldest_seal = oldest_seal.min(ServerTime::from_millis(row.sealed));
            }
        }
        for (hour, mark) in self.marks(first, now, oldest_seal).await? {
            if let Some(state) = hours.get_mut(&hour) {
                state.marked_at = Some(mark);
            }
        }
        Ok(Survey {
            now,
            trusted_since: ServerTime::from_millis(bounds.trusted_since),
            hours,
        })
    }

    /// The newest mark of each hour from `first` on, but for marks that all seals cover.
    async fn marks(
        &self,
        first: Hour,
        now: ServerTime,
        oldest_seal: ServerTime,
    ) -> Result<BTreeMap<Hour, ServerTime>, Error> {
        let known = || self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = {
            let known = known();
            let recent = |then| now.since(then) < LOOK_AT_ALL;
            known.seen.filter(|_| known.all_seen.is_some_and(recent))
        };
        let SealedTables { claims, time, .. } = self.tables;
        let sql = format!(
            "SELECT toUnixTimestamp(toStartOfHour({time})) AS start, \
             toUnixTimestamp64Milli(max(late_at)) AS marked FROM {claims} \
             PREWHERE {} AND {time} >= toDateTime({}, 'UTC') GROUP BY start",
            late_since(seen.unwrap_or(oldest_seal)),
            first.start()
        );
        let query = sealer(self.clickhouse.database()?).query(&sql);
        let rows = deadline(SEAL_DEADLINE, query.fetch_all::<MarkRow>()).await?;
        let mut known = known();
        for row in rows {
            let (hour, mark) = (
                Hour::containing(row.start),
                ServerTime::from_millis(row.marked),
            );
            let newest = known.newest.entry(hour).or_insert(mark);
            *newest = mark.max(*newest);
        }
        known.newest.retain(|hour, _| *hour >= first);
        known.seen = known.seen.max(Some(now));
        if seen.is_none() {
            known.all_seen = Some(now);
        }
        Ok(known.newest.clone())
    }

    /// Whether no row can come into the hour any more without leaving a mark.
    pub fn is_closed(&self, hour: Hour, now: ServerTime) -> bool {
        i64::from(hour.end()) * 1000 + millis(self.delay) <= now.millis()
    }

    /// Counts the whole hour and records it. `as_of` is the server's time, read before.
    ///
    /// # Errors
    /// When a step failed; the hour is then not recorded. [`Error::NotClosed`] when it is too early.
    pub async fn seal(&self, hour: Hour, as_of: ServerTime) -> Result<(), Error> {
        self.count_whole(hour, as_of).await?;
        self.count_rest(hour, as_of).await?;
        self.record(hour, as_of, as_of).await
    }

    /// Counts again what late rows are about, and records the hour, which must be sealed;
    /// `counted_at` is when all of it was counted.
    ///
    /// # Errors
    /// As for [`Seals::seal`].
    pub async fn reseal(
        &self,
        hour: Hour,
        as_of: ServerTime,
        counted_at: ServerTime,
    ) -> Result<(), Error> {
        self.count_late(hour, as_of).await?;
        self.count_rest(hour, as_of).await?;
        self.record(hour, as_of, counted_at).await
    }

    /// The first step of [`Seals::seal`]: of page views, all users.
    ///
    /// # Errors
    /// As there.
    pub async fn count_whole(&self, hour: Hour, as_of: ServerTime) -> Result<(), Error> {
        self.ask(self.tables.count_whole, hour, as_of, "").await
    }

    /// The first step of [`Seals::reseal`]: of page views, the users with late rows; of events, which
    /// are few when counted, all.
    ///
    /// # Errors
    /// As there.
    pub async fn count_late(&self, hour: Hour, as_of: ServerTime) -> Result<(), Error> {
        let Some(table) = self.tables.count_late else {
            return self.count_whole(hour, as_of).await;
        };
        let limit = format!(", {} AS insert_limit_ms", millis(INSERT_LIMIT));
        self.ask(table, hour, as_of, &limit).await
    }

    /// The second step of both: of page views, the pages of the site.
    ///
    /// # Errors
    /// As there.
    pub async fn count_rest(&self, hour: Hour, as_of: ServerTime) -> Result<(), Error> {
        match self.tables.count_rest {
            Some(table) => self.ask(table, hour, as_of, "").await,
            None => Ok(()),
        }
    }

    /// The last step of both; only after the others have succeeded.
    ///
    /// # Errors
    /// As there.
    pub async fn record(
        &self,
        hour: Hour,
        as_of: ServerTime,
        counted_at: ServerTime,
    ) -> Result<(), Error> {
        let counted = counted_at.millis();
        let counted =
            format!(", fromUnixTimestamp64Milli(toInt64({counted}), 'UTC') AS counted_at");
        self.ask(self.tables.seals, hour, as_of, &counted).await
    }

    async fn ask(
        &self,
        table: &str,
        hour: Hour,
        as_of: ServerTime,
        more: &str,
    ) -> Result<(), Error> {
        if !self.is_closed(hour, as_of) {
            return Err(Error::NotClosed(hour));
        }
        let (start, at) = (hour.start(), as_of.millis());
        let sql = format!(
            "INSERT INTO {table} SELECT toDateTime({start}, 'UTC') AS hour, \
             fromUnixTimestamp64Milli(toInt64({at}), 'UTC') AS sealed_at{more}"
        );
        let client = match table == self.tables.seals {
            true => self.clickhouse.writer_to_all().await?,
            false => self.clickhouse.writer().await?,
        };
        deadline(SEAL_DEADLINE, sealer(client).query(&sql).execute()).await
    }
}

fn sealer(client: Client) -> Client {
    let limit = SEAL_EXECUTION_SECS.to_string();
    client
        .with_setting("max_execution_time", limit)
        .with_setting("max_threads", THREADS)
        .with_setting("max_bytes_before_external_group_by", MEMORY_BEFORE_DISK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::{INSERT_DEADLINE, MIGRATIONS};

    #[test]
    fn the_slacks_leave_room_for_the_slowest_insert() {
        assert!(INSERT_LIMIT >= 4 * INSERT_DEADLINE);
        assert!(LEAST_SEAL_DELAY >= MARK_SLACK + INSERT_LIMIT);
        for tables in [&PAGE_VIEWS, &EVENTS] {
            let marks = MIGRATIONS.iter().find(|m| m.name == tables.marked_since);
            let slack = format!("toIntervalSecond({})", MARK_SLACK.as_secs());
            assert!(marks.unwrap().template.contains(&slack));
        }
    }
}
