//! Takes what waits in the spool to the sink, oldest first, until the spool is empty.
//!
//! An insert costs the sink nearly the same whatever its rows, and a spool is full of small batches:
//! so neighbours are joined into one write, the same bytes in the same order. Where the sink refuses
//! that, each goes alone.
//!
//! It may be stopped at any instant and started again: a batch is removed only after the sink has
//! confirmed it, and writing it twice changes nothing. It is also what notices that the sink is back:
//! while the breaker is open, its next write (or a ping, where nothing waits) is the half-open probe.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tracing::{info, warn};

use super::spool::{Name, ReadError};
use super::{Batch, Delivery, Failure, Seldom, Sink};

/// How many names are listed at a time; what keeps memory flat however many files wait.
const LISTED: usize = 1024;
/// Batches are joined up to so many rows and bytes.
const JOINED_ROWS: usize = 20_000;
const JOINED_BYTES: usize = 4 << 20;
/// The pause after a failure doubles from the first to the last of these.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(5);
/// How often the replay looks for files that an operator's tool has put back.
const LOOK: Duration = Duration::from_secs(2);

/// So many batches in a row may be set aside before the sink is left alone for a while: it may well
/// take none of them, a missing table for one.
const MAX_SET_ASIDE: usize = 16;

/// The replay of one spool; does nothing until [`Replay::run`].
pub struct Replay<S> {
    delivery: Arc<Delivery<S>>,
    /// Where the next pass begins: behind what the last one set aside, so that no batch blocks those
    /// behind it for ever. Nothing: with the oldest.
    begin_after: Option<Name>,
    unread: Seldom,
    counted: Instant,
}

/// How one batch fared.
enum Step {
    /// It is out of the spool.
    Done,
    /// The sink is in trouble: the others would fail too.
    SinkDown(Failure),
    /// The sink takes others, perhaps, but not this one now; why.
    SetAside(String),
}

impl<S: Sink> Replay<S> {
    /// A replay of the delivery's spool.
    pub fn new(delivery: Arc<Delivery<S>>) -> Self {
        Self {
            delivery,
            begin_after: None,
            unread: Seldom::new(),
            counted: Instant::now(),
        }
    }

    /// Runs for ever; ended by dropping the future.
    pub async fn run(mut self) {
        let mut backoff = FIRST_BACKOFF;
        loop {
            self.count().await;
            let progress = self.pass().await;
            let pause = match progress {
                Pass::Emptied => {
                    backoff = FIRST_BACKOFF;
                    self.idle().await;
                    continue;
                }
                Pass::Again => {
                    backoff = FIRST_BACKOFF;
                    continue;
                }
                Pass::Stuck => jittered(backoff),
            };
            backoff = (backoff * 2).min(LAST_BACKOFF);
            sleep(pause).await;
        }
    }

    /// Waits until there may be something to do.
    async fn idle(&self) {
        let delivery = &self.delivery;
        tokio::select! {
            () = delivery.breaker.opened() => {}
            () = delivery.filled.notified() => {}
            () = sleep(LOOK) => {}
        }
    }

    /// Counts the spool's files, now and then: an operator's tool may have changed them.
    async fn count(&mut self) {
        if self.counted.elapsed() < LOOK {
            return;
        }
        let spool = Arc::clone(&self.delivery.spool);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || spool.rescan()).await {
            self.unread
                .say(|left_out| warn!(%error, left_out, "spool not counted"));
        }
        self.counted = Instant::now();
    }

    /// Through the spool, to its end or until the sink is to be left alone.
    async fn pass(&mut self) -> Pass {
        let delivery = Arc::clone(&self.delivery);
        let from_the_oldest = self.begin_after.is_none();
        let mut set_aside = 0;
        let mut in_a_row = 0;
        loop {
            let names = match self.listed(self.begin_after).await {
                Ok(names) => names,
                Err(reason) => {
                    warn!(reason, "spool not listed");
                    return Pass::Stuck;
                }
            };
            let Some(last) = names.last().copied() else {
                self.begin_after = None;
                break;
            };
            let mut names = names.into_iter();
            let mut next = None;
            while let Some(group) = self.gather(&mut names, &mut next, &mut set_aside).await {
                let mut alone = match self.write_joined(&group).await {
                    Step::SinkDown(failure) => {
                        delivery.breaker.open(&failure);
                        return Pass::Stuck;
                    }
                    Step::Done => {
                        in_a_row = 0;
                        self.begin_after = group.last().map(|(name, _)| *name);
                        Vec::new()
                    }
                    Step::SetAside(_) => group,
                }
                .into_iter();
                for (name, batch) in alone.by_ref() {
                    match self.step(&name, &batch).await {
                        Step::Done => in_a_row = 0,
                        Step::SetAside(reason) => {
                            if set_aside == 0 {
                                warn!(reason, %name, "spooled batch not taken, set aside for now");
                            }
                            set_aside += 1;
                            in_a_row += 1;
                        }
                        Step::SinkDown(failure) => {
                            delivery.breaker.open(&failure);
                            return Pass::Stuck;
                        }
                    }
                    self.begin_after = Some(name);
                    if in_a_row == MAX_SET_ASIDE {
                        return Pass::Stuck;
                    }
                }
            }
            self.begin_after = self.begin_after.max(Some(last));
        }
        if delivery.breaker.is_open() {
            if delivery.sink.ping().await.is_err() {
                return Pass::Stuck;
            }
            delivery.breaker.alive();
        }
        match (set_aside, from_the_oldest) {
            (0, true) => Pass::Emptied,
            (0, false) => Pass::Again,
            _ => Pass::Stuck,
        }
    }

    async fn listed(&self, after: Option<Name>) -> Result<Vec<Name>, String> {
        let spool = Arc::clone(&self.delivery.spool);
        let listed =
            tokio::task::spawn_blocking(move || spool.oldest(after.as_ref(), LISTED)).await;
        match listed {
            Ok(Ok(names)) => Ok(names),
            Ok(Err(error)) => Err(error.to_string()),
            Err(panic) => Err(panic.to_string()),
        }
    }

    /// The next batches that can be written as one, at least one; nothing when there are no more.
    /// What was read and does not fit is kept in `next`.
    async fn gather(
        &self,
        names: &mut impl Iterator<Item = Name>,
        next: &mut Option<(Name, Batch)>,
        unread: &mut usize,
    ) -> Option<Vec<(Name, Batch)>> {
        let mut group: Vec<(Name, Batch)> = Vec::new();
        let (mut rows, mut bytes) = (0, 0);
        loop {
            let (name, batch) = match next.take() {
                Some(read) => read,
                None => {
                    let Some(name) = names.next() else { break };
                    match self.read(&name).await {
                        Ok(Some(batch)) => (name, batch),
                        Ok(None) => continue,
                        Err(reason) => {
                            self.unread.say(|left_out| {
                                warn!(reason, %name, left_out, "spooled batch not read");
                            });
                            *unread += 1;
                            continue;
                        }
                    }
                }
            };
            rows += batch.rows;
            bytes += batch.bytes.len();
            let fits = rows <= JOINED_ROWS && bytes <= JOINED_BYTES;
            if group
                .first()
                .is_some_and(|(_, first)| !fits || !first.is_like(&batch))
            {
                *next = Some((name, batch));
                break;
            }
            group.push((name, batch));
        }
        (!group.is_empty()).then_some(group)
    }

    /// Writes the whole group at once. Set aside means: each on its own.
    async fn write_joined(&self, group: &[(Name, Batch)]) -> Step {
        let Some(joined) = Batch::join(group.iter().map(|(_, batch)| batch)) else {
            return Step::Done;
        };
        let names: Vec<Name> = group.iter().map(|(name, _)| *name).collect();
        match self.write(&joined, &names).await {
            Ok(()) => Step::Done,
            Err(failure) if failure.is_outage() => Step::SinkDown(failure),
            Err(failure) => Step::SetAside(failure.to_string()),
        }
    }

    /// Writes one batch, or what the sink takes of it.
    async fn step(&self, name: &Name, batch: &Batch) -> Step {
        match self.write(batch, &[*name]).await {
            Ok(()) => Step::Done,
            Err(Failure::Refused(reason)) => self.isolate(name, batch, &reason).await,
            Err(failure) if failure.is_outage() => Step::SinkDown(failure),
            Err(failure) => Step::SetAside(failure.to_string()),
        }
    }

    /// Writes the batch that these files hold, and removes them.
    async fn write(&self, batch: &Batch, files: &[Name]) -> Result<(), Failure> {
        let delivery = &self.delivery;
        let (before, began) = (delivery.stats().inserts, Instant::now());
        delivery.write_once(batch).await?;
        let took = began.elapsed();
        delivery.breaker.close();
        let rows = batch.rows as u64;
        delivery
            .counters
            .replayed
            .fetch_add(rows, Ordering::Relaxed);
        for name in files {
            self.remove(name).await;
        }
        if delivery.stats().inserts != before {
            // Live traffic is under way: leave it half of the sink's time.
            sleep(took).await;
        }
        Ok(())
    }

    /// The batch; nothing when there is no such file any more, or when it was moved aside because its
    /// content is not to be trusted.
    async fn read(&self, name: &Name) -> Result<Option<Batch>, String> {
        let (spool, name) = (Arc::clone(&self.delivery.spool), *name);
        let read = tokio::task::spawn_blocking(move || match spool.read(&name) {
            Ok(spooled) => Ok(Some(spooled.batch)),
            Err(ReadError::Gone) => Ok(None),
            Err(ReadError::Format(error)) => {
                let moved = spool.reject(&name, &error.to_string());
                moved.map(|()| None).map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        });
        read.await.unwrap_or_else(|panic| Err(panic.to_string()))
    }

    /// Writes the records that the sink takes, and puts the others into quarantine.
    async fn isolate(&self, name: &Name, batch: &Batch, reason: &str) -> Step {
        let isolated = self.delivery.isolate(batch, reason).await;
        match isolated.interrupted {
            // The file stays: the next pass finds the same again.
            Some(failure) if failure.is_outage() => return Step::SinkDown(failure),
            Some(failure) => return Step::SetAside(failure.to_string()),
            None => {}
        }
        if let Err(reason) = self.delivery.quarantine(batch, &isolated.records).await {
            return Step::SetAside(format!(
                "refused records not written to quarantine: {reason}"
            ));
        }
        self.remove(name).await;
        info!(%name, "spooled batch replayed but for its refused records");
        Step::Done
    }

    async fn remove(&self, name: &Name) {
        let (spool, done) = (Arc::clone(&self.delivery.spool), *name);
        match tokio::task::spawn_blocking(move || spool.remove(&done)).await {
            Ok(Ok(())) => {}
            // It is replayed once more, which changes nothing.
            Ok(Err(error)) => warn!(%error, %name, "replayed batch not removed"),
            Err(panic) => warn!(%panic, %name, "replayed batch not removed"),
        }
    }
}

enum Pass {
    /// Nothing waits.
    Emptied,
    /// Something may wait before where this pass began.
    Again,
    /// Not now.
    Stuck,
}

/// Half to all of the pause, so that several instances do not ask in step.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..=1.0))
}
