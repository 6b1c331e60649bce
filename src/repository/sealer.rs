//! The sealer: decides which hour to count next, and does it in the background.
//!
//! Any number of instances may run it on one database; what two do at once is done twice and does no
//! harm. It stops anywhere and goes on from what is recorded. Hours that were never counted come
//! first, among them the newest, so that an existing database is filled from the present backwards;
//! then hours with late rows; then, once a week, every hour is counted again from the claims, which
//! heals what no mark tells of.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::seq::IndexedRandom;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use super::{Error, Seals, ServerTime, Survey};
use crate::domain::Hour;
use crate::pipeline::Seldom;

/// How long it rests when nothing is to be done; about, so that instances do not keep step.
const REST: Duration = Duration::from_secs(30);
/// How long it works on one survey before it looks again.
const SHIFT: Duration = Duration::from_secs(30);
/// After each count it leaves ClickHouse alone for so many times as long as the count took.
const PAUSE_FACTOR: u32 = 3;
const LEAST_PAUSE: Duration = Duration::from_millis(50);
/// How long it waits after a failure, at first and at most.
const FIRST_BACKOFF: Duration = Duration::from_secs(2);
const LAST_BACKOFF: Duration = Duration::from_secs(60);
/// An hour that keeps getting late rows is counted again no more often than this.
const LATE_PAUSE: Duration = Duration::from_secs(5 * 60);
/// So long it waits for a calm in the late rows.
const LATE_PATIENCE: Duration = Duration::from_secs(10 * 60);
/// Every hour is counted in full again after this.
const REFRESH: Duration = Duration::from_secs(7 * 86_400);
/// Instances choose at random among so many hours, and so rarely the same.
const CHOICE: usize = 8;

/// One thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Count the whole hour.
    Count,
    /// Count what late rows are about; all of the hour was counted at this time.
    Late(ServerTime),
}

/// The latest count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastRefresh {
    /// Which hour.
    pub hour: Hour,
    /// Its counts are as of this time.
    pub as_of: ServerTime,
    /// How long it took.
    pub took: Duration,
}

/// What has been done since the start, and how things stood at the latest look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SealerStats {
    /// Hours counted in full.
    pub counted: u64,
    /// Hours counted again for late rows.
    pub recounted: u64,
    /// Looks or counts that failed.
    pub failures: u64,
    /// Whether the latest one did.
    pub failing: bool,
    /// The latest count of this instance.
    pub last: Option<LastRefresh>,
    /// When the latest look was.
    pub surveyed_at: Option<ServerTime>,
    /// The newest run of hours that are sealed without a gap: the first second in it, and the first
    /// behind it.
    pub sealed: Option<(u32, u32)>,
    /// Closed hours that are not sealed.
    pub unsealed_hours: u64,
    /// Sealed hours with rows that came later.
    pub late_hours: u64,
}

/// Keeps the pre-aggregate up to date.
pub struct Sealer {
    seals: Seals,
    stats: Mutex<SealerStats>,
    failed: Seldom,
}

impl Sealer {
    /// Of these hours; does nothing until [`Sealer::run`].
    pub fn new(seals: Seals) -> Arc<Self> {
        Arc::new(Self {
            seals,
            stats: Mutex::default(),
            failed: Seldom::new(),
        })
    }

    /// What has been done so far.
    pub fn stats(&self) -> SealerStats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works until it is dropped, which may be at any time.
    pub async fn run(self: Arc<Self>) {
        let mut backoff = FIRST_BACKOFF;
        loop {
            match self.shift().await {
                Ok(true) => backoff = FIRST_BACKOFF,
                Ok(false) => {
                    backoff = FIRST_BACKOFF;
                    sleep(REST.mul_f64(rand::random_range(0.7..1.3))).await;
                }
                Err(error) => {
                    self.note(|stats| {
                        stats.failures += 1;
                        stats.failing = true;
                    });
                    self.failed.say(|left_out| {
                        let stream = self.seals.stream();
                        warn!(stream, %error, left_out, retry_s = backoff.as_secs(), "sealing failed");
                    });
                    sleep(backoff).await;
                    backoff = (backoff * 2).min(LAST_BACKOFF);
                }
            }
        }
    }

    /// One look, and some of the work that it shows; whether there was any.
    async fn shift(&self) -> Result<bool, Error> {
        let survey = self.seals.survey().await?;
        self.note(|stats| summarize(&survey, stats));
        let mut due = due(&survey);
        let (any, end) = (!due.is_empty(), Instant::now() + SHIFT);
        while !due.is_empty() && Instant::now() < end {
            let candidates: Vec<usize> = (0..due.len().min(CHOICE)).collect();
            let chosen = candidates.choose(&mut rand::rng()).copied();
            let (hour, work) = due.remove(chosen.unwrap_or_default());
            let took = self.work(hour, work).await?;
            sleep((took * PAUSE_FACTOR).max(LEAST_PAUSE)).await;
        }
        Ok(any)
    }

    async fn work(&self, hour: Hour, work: Work) -> Result<Duration, Error> {
        let began = Instant::now();
        let as_of = self.seals.now().await?;
        match work {
            Work::Count => self.seals.seal(hour, as_of).await?,
            Work::Late(counted_at) => self.seals.reseal(hour, as_of, counted_at).await?,
        }
        let took = began.elapsed();
        let stream = self.seals.stream();
        debug!(stream, %hour, took_ms = took.as_millis(), ?work, "hour sealed");
        self.note(|stats| {
            match work {
                Work::Count => stats.counted += 1,
                Work::Late(_) => stats.recounted += 1,
            }
            stats.failing = false;
            stats.last = Some(LastRefresh { hour, as_of, took });
        });
        Ok(took)
    }

    fn note(&self, note: impl FnOnce(&mut SealerStats)) {
        note(&mut self.stats.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn summarize(survey: &Survey, stats: &mut SealerStats) {
    stats.failing = false;
    stats.surveyed_at = Some(survey.now);
    let sealed = survey
        .hours
        .values()
        .filter(|state| state.sealed_at.is_some());
    stats.unsealed_hours = (survey.hours.len() - sealed.count()) as u64;
    stats.late_hours = survey
        .hours
        .values()
        .filter(|state| state.is_late())
        .count() as u64;
    let run = survey
        .hours
        .iter()
        .rev()
        .skip_while(|(_, state)| state.sealed_at.is_none())
        .take_while(|(_, state)| state.sealed_at.is_some());
    stats.sealed = run.fold(None, |run: Option<(u32, u32)>, (hour, _)| {
        Some((hour.start(), run.map_or(hour.end(), |(_, until)| until)))
    });
}

/// What to do, the most urgent first.
fn due(survey: &Survey) -> Vec<(Hour, Work)> {
    if survey.now <= survey.trusted_since {
        return Vec::new();
    }
    let (mut uncounted, mut late, mut old) = (Vec::new(), Vec::new(), Vec::new());
    for (hour, state) in survey.hours.iter().rev() {
        let (Some(sealed_at), Some(counted_at)) = (state.sealed_at, state.counted_at) else {
            uncounted.push((*hour, Work::Count));
            continue;
        };
        let age = survey.now.since(sealed_at);
        let calm = state.marked_at.is_none_or(|mark| survey.now.covers(mark));
        if state.is_late() && (age >= LATE_PATIENCE || (calm && age >= LATE_PAUSE)) {
            late.push((*hour, Work::Late(counted_at)));
        } else if survey.now.since(counted_at) >= REFRESH {
            old.push((*hour, Work::Count));
        }
    }
    uncounted.append(&mut late);
    uncounted.append(&mut old);
    uncounted
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::repository::HourState;

    const NOW: i64 = 1_800_000_000_000;

    fn at(seconds_ago: i64) -> Option<ServerTime> {
        Some(ServerTime::from_millis(NOW - seconds_ago * 1000))
    }

    fn survey(states: &[HourState]) -> Survey {
        let hours = states.iter().enumerate();
        Survey {
            now: ServerTime::from_millis(NOW),
            trusted_since: ServerTime::from_millis(NOW - 1_000_000_000),
            hours: hours
                .map(|(i, state)| (Hour::containing(i as u32 * 3600), *state))
                .collect::<BTreeMap<_, _>>(),
        }
    }

    fn sealed(ago: i64, marked: Option<ServerTime>) -> HourState {
        HourState {
            sealed_at: at(ago),
            counted_at: at(ago),
            marked_at: marked,
        }
    }

    #[test]
    fn uncounted_hours_come_first_the_newest_before_the_older() {
        let unsealed = HourState::default();
        let states = [
            unsealed,
            sealed(3600, at(100)),
            unsealed,
            sealed(8 * 86_400, None),
        ];
        let due = due(&survey(&states));
        let order: Vec<u32> = due.iter().map(|(hour, _)| hour.start() / 3600).collect();
        assert_eq!(order, [2, 0, 1, 3]);
        assert_eq!(due[2].1, Work::Late(at(3600).unwrap()));
        assert_eq!(due[3].1, Work::Count);
    }

    #[test]
    fn late_rows_are_waited_for_but_not_for_ever() {
        let busy = |sealed_ago| due(&survey(&[sealed(sealed_ago, at(1))])).len();
        assert_eq!((busy(100), busy(400), busy(700)), (0, 0, 1));
        let calm = |sealed_ago| due(&survey(&[sealed(sealed_ago, at(90))])).len();
        assert_eq!((calm(100), calm(400)), (0, 1));
        assert!(due(&survey(&[sealed(400, at(500))])).is_empty());
    }

    #[test]
    fn nothing_is_counted_before_its_marks_can_be_trusted() {
        let mut young = survey(&[HourState::default()]);
        young.trusted_since = young.now;
        assert!(due(&young).is_empty());
    }

    #[test]
    fn the_newest_run_of_sealed_hours_is_told() {
        let unsealed = HourState::default();
        let done = sealed(100, None);
        let mut stats = SealerStats::default();
        summarize(&survey(&[done, unsealed, done, done, unsealed]), &mut stats);
        assert_eq!(stats.sealed, Some((2 * 3600, 4 * 3600)));
        assert_eq!((stats.unsealed_hours, stats.late_hours), (2, 0));
    }
}
