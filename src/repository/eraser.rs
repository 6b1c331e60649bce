//! Erasing a person: nothing about one user up to now is counted, and then nothing of it is there.
//!
//! What counts is decided by the record of the erasure (`traffic_erasures`) together with each claim's
//! user and time, whatever arrives when. Taking the rows away comes after it and may be done by
//! anybody, any number of times:
//!
//! 1. The hours in which the user has rows are marked as if a late row had come into them: with a
//!    tombstone of nobody's view that has no page. So their counts are not used until they are counted
//!    again.
//! 2. The erasure is recorded. A row is readable within [`INSERT_LIMIT`](super::server_time) of its
//!    mark, and so must this be; else 1 is repeated. A sealer that counts an hour behind its mark
//!    therefore sees the erasure.
//! 3. This process stops sending such rows, and waits for those under way.
//! 4. The rows go, from the spool and from every table; then it is looked at what is left.
//!
//! Other instances learn of it within seconds and do 3 and 4 for what they had under way themselves.
//!
//! Refuses to know: who may ask for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::erasable::{Found, SNAPSHOTS, TABLES, covered};
use super::erasures::Recorded;
use super::{ClickHouse, Error, Reports, SEAL_DEADLINE, ServerTime, deadline, rows};
use crate::domain::{
    Claim, ClaimSet, Clock, CreatedAt, Hour, PageUrl, PageView, RequestId, UserId, Version,
};
use crate::pipeline::spool::{Purged, purge};
use crate::pipeline::{Batch, Seldom, Spool};

/// How long whoever asks is kept waiting. The erasure goes on.
const PATIENCE: Duration = Duration::from_secs(45);
/// From the look at the user's hours until the erasure is recorded; below `INSERT_LIMIT`.
const RECORDED_WITHIN: Duration = Duration::from_secs(40);
/// How often rows that came in between are looked for.
const ATTEMPTS: usize = 3;
/// How often others' erasures are asked for.
const LOOK: Duration = Duration::from_secs(5);
/// After this a sealer that had read the rows has written its counts or given up.
const AGAIN: Duration = Duration::from_secs(180);
/// Users whose rows are taken away together, whatever their number in one statement a table. What it
/// says of them must stay below ClickHouse's `max_query_size`, 256 KiB.
const SWEPT_AT_ONCE: usize = 200;

/// How many rows about the user a table had, and has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableRows {
    /// Which table.
    pub table: &'static str,
    /// Before the erasure.
    pub before: u64,
    /// After it.
    pub after: u64,
}

/// What an erasure did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erased {
    /// The last second that is erased.
    pub until: CreatedAt,
    /// What ClickHouse had.
    pub tables: Vec<TableRows>,
    /// What this node's spool had.
    pub spool: Purged,
    /// What it has.
    pub spool_after: u64,
}

impl Erased {
    /// How many rows are gone.
    pub fn rows(&self) -> u64 {
        rows_gone(&self.tables) + self.spool.rows
    }
}

fn rows_gone(tables: &[TableRows]) -> u64 {
    let gone = |rows: &TableRows| rows.before.saturating_sub(rows.after);
    tables.iter().map(gone).sum()
}

/// Erases users.
pub struct Eraser {
    clickhouse: ClickHouse,
    reports: Reports,
    spool: Arc<Spool>,
    clock: Clock,
    max_clock_skew: Duration,
    /// One at a time: each may rewrite much of a table.
    alone: Mutex<()>,
    /// What is to be looked at, and when.
    due: std::sync::Mutex<Vec<(Instant, Recorded)>>,
    failed: Seldom,
}

impl Eraser {
    /// Of what is in `clickhouse`, in `spool`, and in the memory of `reports`. Views may be dated up to
    /// `max_clock_skew` after `clock`.
    pub fn new(
        clickhouse: ClickHouse,
        reports: Reports,
        spool: Arc<Spool>,
        clock: Clock,
        max_clock_skew: Duration,
    ) -> Arc<Self> {
        Arc::new(Self {
            clickhouse,
            reports,
            spool,
            clock,
            max_clock_skew,
            alone: Mutex::default(),
            due: std::sync::Mutex::default(),
            failed: Seldom::new(),
        })
    }

    /// Erases all of a user up to now. Goes on when the caller does not wait for the end; asked for
    /// again, it does what is left.
    ///
    /// # Errors
    /// When ClickHouse can't be read or written; [`Error::Erasing`] when it takes long, or when rows
    /// are left.
    pub async fn erase(self: &Arc<Self>, user: UserId) -> Result<Erased, Error> {
        let own = Arc::clone(self);
        let steps = tokio::spawn(async move {
            let outcome = own.steps(user).await;
            if let Err(error) = &outcome {
                warn!(%error, "erasure not done");
            }
            outcome
        });
        match timeout(PATIENCE, steps).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(panic)) => Err(Error::Unexpected(panic.to_string())),
            Err(_) => Err(Error::Erasing),
        }
    }

    async fn steps(&self, user: UserId) -> Result<Erased, Error> {
        let _alone = self.alone.lock().await;
        let until = self.until(user).await?;
        let mut attempt = 0;
        let (recorded, found) = loop {
            attempt += 1;
            let began = Instant::now();
            let at = self.clickhouse.server_now().await?;
            let erasure = Recorded {
                user_id: user,
                until,
                at,
            };
            let found = self.clickhouse.survey(&[erasure]).await?;
            self.mark(&found.hours, at).await?;
            self.record(&erasure).await?;
            if began.elapsed() < RECORDED_WITHIN {
                break (erasure, found);
            }
            if attempt == ATTEMPTS {
                return Err(Error::Erasing);
            }
        };
        self.clickhouse.learn(user, until).await;
        self.due().push((Instant::now() + AGAIN, recorded));
        let (tables, spool) = self.clear(&[recorded], found).await?;
        Ok(Erased {
            until,
            tables,
            spool,
            spool_after: 0,
        })
    }

    /// The last second to erase: now, and later where a view of the user is dated later, because the
    /// clock of the instance that took it in is ahead.
    async fn until(&self, user: UserId) -> Result<CreatedAt, Error> {
        let skew = chrono::Duration::from_std(self.max_clock_skew).unwrap_or_default();
        let now: DateTime<Utc> = self.clock.now() + skew;
        let now = u32::try_from(now.timestamp()).unwrap_or(0);
        let user = user.get();
        let newest = |table| {
            format!(
                "SELECT toUnixTimestamp(max(created_at)) AS newest FROM {table} \
                 WHERE user_id = {user} AND page_url != ''"
            )
        };
        let sql = format!(
            "SELECT max(newest) FROM ({} UNION ALL {})",
            newest("traffic"),
            newest("traffic_by_request")
        );
        let query = self.clickhouse.long_reader()?.query(&sql);
        let newest = deadline(SEAL_DEADLINE, query.fetch_one::<u32>()).await?;
        Ok(CreatedAt::from_unix(now.max(newest)))
    }

    /// Makes the counts of these hours old.
    async fn mark(&self, hours: &BTreeSet<Hour>, at: ServerTime) -> Result<(), Error> {
        if hours.is_empty() {
            return Ok(());
        }
        // By the server's clock, like marks: so of several the newest one is kept.
        let version = Version::new(u64::try_from(at.millis()).unwrap_or(0));
        let mark = |hour: &Hour| Claim {
            view: PageView {
                request_id: RequestId::new(u64::MAX),
                user_id: UserId::new(u32::MAX),
                created_at: CreatedAt::from_unix(hour.start()),
                page_url: PageUrl::trusted(""),
            },
            version,
            is_deleted: true,
        };
        let marks = ClaimSet::Many(hours.iter().map(mark).collect());
        self.clickhouse.insert(&Batch::encode([&marks])).await
    }

    async fn record(&self, erasure: &Recorded) -> Result<(), Error> {
        let sql = format!(
            "INSERT INTO traffic_erasures (user_id, until) SELECT {}, toDateTime({}, 'UTC')",
            erasure.user_id.get(),
            erasure.until.unix()
        );
        let writer = self.clickhouse.writer_to_all().await?;
        let insert = writer.query(&sql).with_setting("async_insert", "0");
        deadline(SEAL_DEADLINE, insert.execute()).await
    }

    /// Takes away what `found` has, here and in ClickHouse.
    async fn clear(
        &self,
        erasures: &[Recorded],
        found: Found,
    ) -> Result<(Vec<TableRows>, Purged), Error> {
        for erasure in erasures {
            self.reports.forget(erasure.user_id);
        }
        let newest = erasures.iter().map(|erasure| erasure.at).max();
        let spool = self.purge().await?;
        let (before, mut found) = (found.rows, found);
        let snapshots = match newest {
            Some(at) if before.iter().any(|rows| *rows > 0) => self.clear_snapshots(at).await?,
            _ => (0, 0),
        };
        let mut attempts = ATTEMPTS;
        while found.rows.iter().any(|rows| *rows > 0) && attempts > 0 {
            attempts -= 1;
            for (place, table) in TABLES.iter().enumerate() {
                if found.rows[place] > 0 {
                    let local = self.clickhouse.schema.local_table(table);
                    self.clickhouse
                        .delete(&local, &covered(table, erasures))
                        .await?;
                }
            }
            found = self.clickhouse.survey(erasures).await?;
            // What came in between leaves its mark with it.
            self.mark(&found.hours, self.clickhouse.server_now().await?)
                .await?;
        }
        let left = self.purge().await?.rows;
        if found.rows.iter().any(|rows| *rows > 0) || left > 0 {
            return Err(Error::Erasing);
        }
        let table = |(place, table): (usize, &&'static str)| TableRows {
            table,
            before: before[place],
            after: found.rows[place],
        };
        let snapshots = TableRows {
            table: SNAPSHOTS,
            before: snapshots.0,
            after: snapshots.1,
        };
        let tables = TABLES.iter().enumerate().rev().map(table);
        Ok((tables.chain([snapshots]).collect(), spool))
    }

    async fn clear_snapshots(&self, at: ServerTime) -> Result<(u64, u64), Error> {
        let taken = format!("taken_at <= toDateTime({}, 'UTC')", at.millis() / 1000);
        let count = || async {
            let sql = format!("SELECT count() FROM {SNAPSHOTS} WHERE {taken}");
            let query = self.clickhouse.long_reader()?.query(&sql);
            deadline(SEAL_DEADLINE, query.fetch_one::<u64>()).await
        };
        let before = count().await?;
        if before == 0 {
            return Ok((0, 0));
        }
        self.clickhouse.delete(SNAPSHOTS, &taken).await?;
        Ok((before, count().await?))
    }

    /// What waits on this disk, and what was moved aside there.
    async fn purge(&self) -> Result<Purged, Error> {
        let (spool, clickhouse) = (Arc::clone(&self.spool), self.clickhouse.clone());
        let purged =
            tokio::task::spawn_blocking(move || purge(&spool, &|batch| kept(&clickhouse, batch)));
        match purged.await {
            Ok(Ok(purged)) => Ok(purged),
            Ok(Err(error)) => Err(Error::Unexpected(error.to_string())),
            Err(panic) => Err(Error::Unexpected(panic.to_string())),
        }
    }

    /// Takes away what is there against the record.
    async fn sweep(&self, erasures: &[Recorded]) -> Result<(), Error> {
        let _alone = self.alone.lock().await;
        let found = self.clickhouse.survey(erasures).await?;
        self.mark(&found.hours, self.clickhouse.server_now().await?)
            .await?;
        let (tables, spool) = self.clear(erasures, found).await?;
        let rows = rows_gone(&tables) + spool.rows;
        if rows > 0 {
            let users = erasures.len();
            info!(users, rows, "rows of erased users removed");
        }
        Ok(())
    }

    /// Learns of others' erasures and does this process's part of them, until it is dropped.
    pub async fn run(self: Arc<Self>) {
        tokio::join!(self.keep_learning(), self.keep_sweeping());
    }

    async fn keep_learning(&self) {
        let mut all = true;
        loop {
            let asked = match all {
                // What an earlier life had under way is found by looking for all.
                true => self.clickhouse.recorded_erasures().await,
                false => self.clickhouse.learn_erasures().await,
            };
            match asked {
                Ok(erasures) => {
                    let now = Instant::now();
                    let mut due = self.due();
                    if !all {
                        due.extend(erasures.iter().map(|erasure| (now + AGAIN, *erasure)));
                    }
                    due.extend(erasures.into_iter().map(|erasure| (now, erasure)));
                    all = false;
                }
                Err(error) => self.failed.say(|left_out| {
                    warn!(%error, left_out, "erasures not asked for");
                }),
            }
            sleep(LOOK).await;
        }
    }

    async fn keep_sweeping(&self) {
        loop {
            let now = Instant::now();
            let due: Vec<_> = self.due().extract_if(.., |(at, _)| *at <= now).collect();
            // One user may be due twice; the later erasure has all of the earlier one.
            let mut due: Vec<_> = due.into_iter().map(|(_, erasure)| erasure).collect();
            due.sort_by_key(|erasure| erasure.until);
            let due: BTreeMap<_, _> = due.into_iter().map(|e| (e.user_id, e)).collect();
            let due: Vec<_> = due.into_values().collect();
            for erasures in due.chunks(SWEPT_AT_ONCE) {
                if let Err(error) = self.sweep(erasures).await {
                    self.failed.say(|left_out| {
                        warn!(%error, left_out, "rows of erased users not removed");
                    });
                    let later = Instant::now() + LOOK;
                    self.due().extend(erasures.iter().map(|e| (later, *e)));
                }
            }
            sleep(LOOK / 5).await;
        }
    }

    fn due(&self) -> MutexGuard<'_, Vec<(Instant, Recorded)>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of each record in a batch, whether anything in it is not erased. What another version of the service
/// has written is kept: nobody here knows whom it is about.
fn kept(clickhouse: &ClickHouse, batch: &Batch) -> Vec<bool> {
    let claims = rows::decode_claims(batch);
    if !rows::is_page_views(batch) || claims.len() != batch.rows {
        return vec![true; batch.records.len()];
    }
    let mut rest = &claims[..];
    let is_kept = |index: usize| {
        let (record, others) = rest.split_at(batch.records[index].rows as usize);
        rest = others;
        let erased =
            |claim: &Claim| clickhouse.is_erased(claim.view.user_id, claim.view.created_at);
        !record.iter().all(erased)
    };
    (0..batch.records.len()).map(is_kept).collect()
}
