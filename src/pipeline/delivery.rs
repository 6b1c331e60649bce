//! Brings a batch to the sink or into the spool, and says where each of its records is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, error, warn};

use super::{Ack, Batch, Breaker, Error, Failure, Seldom, Sink, Spool};

/// A transient failure is tried once more after this pause, unless the sink is known to be down; a
/// dropped connection is over by then, and an outage is not.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// A failure that took longer than this is not tried again: its senders have waited enough.
const QUICK_FAILURE: Duration = Duration::from_secs(1);

/// So many records of one batch may be refused one by one. Beyond that it is not the records: a
/// changed table, say. Then the rest is kept for an operator instead of being condemned.
const MAX_REFUSED: usize = 128;

/// The way of batches to the sink, with the spool beside it; shared by lanes and replay.
pub struct Delivery<S> {
    pub(super) sink: Arc<S>,
    pub(super) spool: Arc<Spool>,
    pub(super) breaker: Breaker,
    pub(super) counters: Counters,
    /// Tells the replay that something waits.
    pub(super) filled: Notify,
    not_spooled: Seldom,
    /// When the service stops: no write to the sink may last beyond this.
    hurry: watch::Sender<Option<Instant>>,
}

/// What has been done since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Inserts that the sink confirmed, without replays.
    pub inserts: u64,
    /// Rows in them.
    pub rows: u64,
    /// Rows written to the spool.
    pub spooled: u64,
    /// Rows that went from the spool to the sink.
    pub replayed: u64,
    /// Records that the sink refused for good.
    pub refused: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) inserts: AtomicU64,
    pub(super) rows: AtomicU64,
    pub(super) spooled: AtomicU64,
    pub(super) replayed: AtomicU64,
    pub(super) refused: AtomicU64,
}

/// What became of each record of a batch, in order.
pub(super) type Outcomes = Vec<Result<Ack, Error>>;

/// What the sink said to each record of a batch that it refused as a whole.
pub(super) struct Isolated {
    /// For each record: written, refused with a reason, or neither.
    pub(super) records: Vec<Option<Result<(), String>>>,
    /// Why some are neither.
    pub(super) interrupted: Option<Failure>,
}

impl<S: Sink> Delivery<S> {
    /// A way to `sink` with `spool` beside it.
    pub fn new(sink: Arc<S>, spool: Arc<Spool>) -> Self {
        Self {
            sink,
            spool,
            breaker: Breaker::default(),
            counters: Counters::default(),
            filled: Notify::new(),
            not_spooled: Seldom::new(),
            hurry: watch::Sender::new(None),
        }
    }

    /// Whether the sink is known to be down.
    pub fn is_down(&self) -> bool {
        self.breaker.is_open()
    }

    /// What is known of the sink's health.
    pub fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// The spool.
    pub fn spool(&self) -> &Arc<Spool> {
        &self.spool
    }

    /// What has been done so far.
    pub fn stats(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            inserts: read(&self.counters.inserts),
            rows: read(&self.counters.rows),
            spooled: read(&self.counters.spooled),
            replayed: read(&self.counters.replayed),
            refused: read(&self.counters.refused),
        }
    }

    /// The service stops: what the sink has not confirmed within `limit` goes to the spool.
    pub fn hurry(&self, limit: Duration) {
        self.hurry.send_replace(Some(Instant::now() + limit));
    }

    /// To the sink; where that fails, the records that may wait go to the spool.
    pub(super) async fn deliver(&self, batch: Batch, may_wait: &[bool]) -> Outcomes {
        if !self.breaker.lets_through() {
            return self
                .keep(&batch, may_wait, vec![None; batch.records.len()])
                .await;
        }
        match self.write(&batch).await {
            Ok(()) => {
                self.breaker.close();
                self.counters.inserts.fetch_add(1, Ordering::Relaxed);
                self.counters
                    .rows
                    .fetch_add(batch.rows as u64, Ordering::Relaxed);
                vec![Ok(Ack::Stored); batch.records.len()]
            }
            Err(Failure::Refused(reason)) => self.isolate_live(batch, may_wait, &reason).await,
            Err(failure) => {
                self.breaker.open(&failure);
                self.keep(&batch, may_wait, vec![None; batch.records.len()])
                    .await
            }
        }
    }

    /// To the spool, without asking the sink; only where the disk fails to the sink after all.
    pub(super) async fn set_down(&self, batch: Batch) -> Outcomes {
        let rows = batch.rows as u64;
        match self.put(batch.clone()).await {
            Ok(()) => {
                self.counters.spooled.fetch_add(rows, Ordering::Relaxed);
                vec![Ok(Ack::Spooled); batch.records.len()]
            }
            Err(reason) if self.breaker.is_open() => {
                self.say_not_spooled(&reason, rows);
                vec![Err(Error::Unavailable); batch.records.len()]
            }
            Err(_) => {
                let none_waits = vec![false; batch.records.len()];
                self.deliver(batch, &none_waits).await
            }
        }
    }

    fn say_not_spooled(&self, reason: &str, rows: u64) {
        self.not_spooled.say(|left_out| {
            error!(reason, rows, left_out, "not spooled, senders refused");
        });
    }

    async fn isolate_live(&self, batch: Batch, may_wait: &[bool], reason: &str) -> Outcomes {
        let isolated = self.isolate(&batch, reason).await;
        if let Err(error) = self.quarantine(&batch, &isolated.records).await {
            // Their senders hear of the refusal all the same: nothing was promised to them.
            error!(%error, "refused records not written to quarantine");
        }
        match &isolated.interrupted {
            Some(failure) => self.breaker.open(failure),
            // It refuses some records, so it takes batches.
            None => self.breaker.close(),
        }
        let outcomes = isolated.records.iter().map(|said| match said {
            Some(Ok(())) => Some(Ok(Ack::Stored)),
            Some(Err(_)) => Some(Err(Error::Refused)),
            None => None,
        });
        self.keep(&batch, may_wait, outcomes.collect()).await
    }

    /// Spools those records that have no outcome yet and may wait.
    async fn keep(
        &self,
        batch: &Batch,
        may_wait: &[bool],
        mut outcomes: Vec<Option<Result<Ack, Error>>>,
    ) -> Outcomes {
        let waits = |i: usize| outcomes[i].is_none() && may_wait[i];
        if let Some(rest) = batch.select(waits) {
            let rows = rest.rows as u64;
            let outcome = match self.put(rest).await {
                Ok(()) => {
                    self.counters.spooled.fetch_add(rows, Ordering::Relaxed);
                    Ok(Ack::Spooled)
                }
                Err(reason) => {
                    self.say_not_spooled(&reason, rows);
                    Err(Error::Unavailable)
                }
            };
            for (i, wait) in may_wait.iter().enumerate() {
                if outcomes[i].is_none() && *wait {
                    outcomes[i] = Some(outcome);
                }
            }
        }
        let unknown = |outcome: Option<_>| outcome.unwrap_or(Err(Error::Unavailable));
        outcomes.into_iter().map(unknown).collect()
    }

    async fn put(&self, batch: Batch) -> Result<(), String> {
        let spool = Arc::clone(&self.spool);
        let written = tokio::task::spawn_blocking(move || spool.put(&batch, now_ms())).await;
        match written {
            Ok(Ok(_)) => {
                self.filled.notify_one();
                Ok(())
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(panic) => Err(panic.to_string()),
        }
    }

    /// Writes to the sink, with a second try where that makes sense.
    async fn write(&self, batch: &Batch) -> Result<(), Failure> {
        let began = Instant::now();
        match self.write_once(batch).await {
            Err(Failure::Unreachable(reason) | Failure::Transient(reason))
                if began.elapsed() < QUICK_FAILURE && !self.is_hurried() =>
            {
                // Who failed has said so.
                debug!(reason, rows = batch.rows, token = %batch.token, "insert tried again");
                sleep(RETRY_PAUSE).await;
                self.write_once(batch).await
            }
            outcome => outcome,
        }
    }

    /// Writes to the sink, for no longer than the stop allows.
    pub(super) async fn write_once(&self, batch: &Batch) -> Result<(), Failure> {
        let mut hurry = self.hurry.subscribe();
        let too_late = async {
            // The sender lives as long as we do.
            let limit = hurry
                .wait_for(Option::is_some)
                .await
                .ok()
                .and_then(|limit| *limit);
            sleep_until(limit.unwrap_or_else(Instant::now)).await;
        };
        tokio::select! {
            outcome = self.sink.write(batch) => outcome,
            () = too_late => Err(Failure::Unreachable("no answer before the stop".to_owned())),
        }
    }

    fn is_hurried(&self) -> bool {
        self.hurry.borrow().is_some()
    }

    /// Finds the records that the sink refuses, by halves, and writes the others.
    pub(super) async fn isolate(&self, batch: &Batch, reason: &str) -> Isolated {
        let mut records = vec![None; batch.records.len()];
        let mut refused = 0;
        let mut suspects = vec![(0..batch.records.len(), reason.to_owned())];
        while let Some((range, reason)) = suspects.pop() {
            if range.len() == 1 {
                refused += 1;
                records[range.start] = Some(Err(reason));
                continue;
            }
            if refused >= MAX_REFUSED {
                return Isolated {
                    records,
                    interrupted: Some(Failure::Unknown(format!("{refused} records refused"))),
                };
            }
            let middle = range.start + range.len() / 2;
            for half in [range.start..middle, middle..range.end] {
                let Some(part) = batch.select(|i| half.contains(&i)) else {
                    continue;
                };
                match self.write_once(&part).await {
                    Ok(()) => records[half].fill(Some(Ok(()))),
                    Err(Failure::Refused(reason)) => suspects.push((half, reason)),
                    Err(failure) => {
                        return Isolated {
                            records,
                            interrupted: Some(failure),
                        };
                    }
                }
            }
        }
        Isolated {
            records,
            interrupted: None,
        }
    }

    /// Puts the refused records where an operator can read them and send them again.
    pub(super) async fn quarantine(
        &self,
        batch: &Batch,
        records: &[Option<Result<(), String>>],
    ) -> Result<(), String> {
        let mut lines = Vec::new();
        for (index, said) in records.iter().enumerate() {
            let (Some(Err(reason)), Some(alone)) = (said, batch.select(|i| i == index)) else {
                continue;
            };
            let line = json!({
                "rejected_at": chrono::Utc::now().to_rfc3339(),
                "reason": reason,
                "stream": batch.stream.name(),
                "rows": self.sink.readable(&alone),
                "batch": alone.to_json(),
            });
            lines.push(line.to_string());
        }
        if lines.is_empty() {
            return Ok(());
        }
        let (spool, refused) = (Arc::clone(&self.spool), lines.len());
        match tokio::task::spawn_blocking(move || spool.quarantine(&lines, now_ms())).await {
            Ok(Ok(file)) => {
                self.counters
                    .refused
                    .fetch_add(refused as u64, Ordering::Relaxed);
                warn!(
                    file,
                    refused, "records refused for good, see traffic-api spool list"
                );
                Ok(())
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(panic) => Err(panic.to_string()),
        }
    }
}

/// Milliseconds since the Unix epoch by the machine's clock, which only orders files.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
