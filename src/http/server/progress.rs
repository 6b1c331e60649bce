//! What a connection is waiting for, and until when.
//!
//! One timer per connection looks here when it fires; requests only note what happened, so a busy
//! connection moves no timer. hyper's own `header_read_timeout` is not used: it begins with the end of
//! the last answer, so it would cut off kept-alive connections as early as slow heads.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::places::Closed;

/// Bytes in a second that a client must be able to send, and to take, on average. Slower than any
/// modem: whoever stays below does not want to get on.
pub(in crate::http) const MIN_BYTES_PER_SEC: u32 = 500;

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// For the TLS handshake, for the first request's head, and for each later head from its first
    /// byte on.
    pub head: Duration,
    /// For the body of a single view or change as a whole; for that of a batch beyond what 500 bytes a
    /// second take.
    pub body: Duration,
    /// Until the next request.
    pub idle: Duration,
    /// Without taking anything of an answer; slower than 500 bytes a second, in all.
    pub write: Duration,
}

/// How long heads may still take that arrive while the service stops.
const LAST_HEADS: Duration = Duration::from_secs(2);

/// What has happened on one connection.
pub(super) struct Progress {
    timeouts: Timeouts,
    state: Mutex<State>,
}

struct State {
    /// From the end of their heads to the end of their answers.
    requests: usize,
    /// Those of them whose answers are being sent.
    answers: usize,
    /// No request has come yet.
    is_new: bool,
    /// Several requests at once, between which there may be bytes that belong to none.
    is_multiplexed: bool,
    is_stopping: bool,
    quiet_since: Instant,
    /// When the first byte of the next head came.
    head_since: Option<Instant>,
    /// When the client last took a piece of an answer.
    taken_at: Instant,
    blocked_since: Option<Instant>,
    /// How long the socket may still be blocked.
    patience: Duration,
}

/// What to do when the timer fires.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Wait(Instant),
    Close(Closed),
}

impl Progress {
    pub(super) fn new(timeouts: Timeouts) -> Self {
        let now = Instant::now();
        Self {
            timeouts,
            state: Mutex::new(State {
                requests: 0,
                answers: 0,
                is_new: true,
                is_multiplexed: false,
                is_stopping: false,
                quiet_since: now,
                head_since: None,
                taken_at: now,
                blocked_since: None,
                patience: timeouts.write,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The handshake is over, from here on there are requests.
    pub(super) fn shook_hands(&self, now: Instant) {
        let mut state = self.state();
        (state.quiet_since, state.head_since) = (now, None);
    }

    /// Bytes came.
    pub(super) fn read(&self, now: Instant) {
        let mut state = self.state();
        if state.requests == 0 && !state.is_multiplexed {
            state.head_since.get_or_insert(now);
        }
    }

    /// Bytes can't be sent.
    pub(super) fn blocked(&self, now: Instant) {
        self.state().blocked_since.get_or_insert(now);
    }

    /// Bytes were sent after all.
    pub(super) fn unblocked(&self, now: Instant, bytes: usize) {
        let mut state = self.state();
        if let Some(since) = state.blocked_since.take() {
            let earned = bytes as f64 / f64::from(MIN_BYTES_PER_SEC);
            let left = state.patience.saturating_sub(now - since);
            state.patience = (left + Duration::from_secs_f64(earned)).min(self.timeouts.write);
            state.quiet_since = now;
        }
    }

    pub(super) fn request_begins(&self, is_multiplexed: bool) {
        let mut state = self.state();
        state.requests += 1;
        state.is_new = false;
        state.is_multiplexed = is_multiplexed;
        state.head_since = None;
    }

    pub(super) fn answer_begins(&self, now: Instant) {
        let mut state = self.state();
        state.answers += 1;
        state.taken_at = now;
    }

    pub(super) fn answer_taken(&self, now: Instant) {
        self.state().taken_at = now;
    }

    pub(super) fn request_ends(&self, now: Instant, was_answered: bool) {
        let mut state = self.state();
        state.requests -= 1;
        state.answers -= usize::from(was_answered);
        state.quiet_since = now;
        state.taken_at = now;
    }

    pub(super) fn stopping(&self, now: Instant) {
        let mut state = self.state();
        state.is_stopping = true;
        if state.requests == 0 {
            state.quiet_since = now;
        }
    }

    /// The judgement at `now`. A deadline that comes up later is never nearer than the look that this
    /// asks for.
    pub(super) fn judge(&self, now: Instant) -> Verdict {
        let (state, timeouts) = (self.state(), &self.timeouts);
        let shortest = timeouts.head.min(timeouts.idle).min(timeouts.write);
        let deadline = match state.blocked_since {
            Some(since) => Some((since + state.patience, Closed::Unread)),
            None if state.answers > 0 => Some((state.taken_at + timeouts.write, Closed::Unread)),
            // The service is at work, or reads a body, which has time-outs of its own.
            None if state.requests > 0 => None,
            None if state.is_stopping => Some((state.quiet_since + LAST_HEADS, Closed::Idle)),
            None => Some(match state.head_since {
                Some(since) => (since + timeouts.head, Closed::Head),
                None if state.is_new => (state.quiet_since + timeouts.head, Closed::Head),
                None => (state.quiet_since + timeouts.idle, Closed::Idle),
            }),
        };
        match deadline {
            Some((at, reason)) if at <= now => Verdict::Close(reason),
            Some((at, _)) => Verdict::Wait(at.min(now + shortest)),
            None => Verdict::Wait(now + shortest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn progress() -> (Progress, Instant) {
        let timeouts = Timeouts {
            head: 10 * SECOND,
            body: 30 * SECOND,
            idle: 75 * SECOND,
            write: 30 * SECOND,
        };
        let progress = Progress::new(timeouts);
        let now = progress.state().quiet_since;
        (progress, now)
    }

    /// When, from `now` on, whoever looks as often as asked for closes, and why.
    fn closes(progress: &Progress, now: Instant) -> (u64, Closed) {
        let mut at = now;
        for _ in 0..100 {
            match progress.judge(at) {
                Verdict::Wait(until) => at = until,
                Verdict::Close(reason) => return ((at - now).as_secs(), reason),
            }
        }
        panic!("never closes");
    }

    #[test]
    fn who_sends_nothing_or_never_ends_a_head_is_closed() {
        let (progress, start) = progress();
        assert_eq!(closes(&progress, start), (10, Closed::Head));
        // One byte after the other.
        for second in 4..9 {
            progress.read(start + second * SECOND);
        }
        assert_eq!(closes(&progress, start), (14, Closed::Head));
        progress.request_begins(false);
        progress.answer_begins(start);
        progress.request_ends(start + 20 * SECOND, true);
        assert_eq!(closes(&progress, start), (95, Closed::Idle));
        // The next head is slow again, in spite of all that was before.
        progress.read(start + 60 * SECOND);
        progress.read(start + 69 * SECOND);
        assert_eq!(closes(&progress, start), (70, Closed::Head));
    }

    #[test]
    fn a_request_that_is_worked_on_takes_its_time() {
        let (progress, start) = progress();
        progress.request_begins(false);
        for minute in 1..60 {
            let now = start + 60 * minute * SECOND;
            assert!(matches!(progress.judge(now), Verdict::Wait(until) if until > now));
        }
        // Its answer must be taken, however.
        progress.answer_begins(start + 100 * SECOND);
        progress.answer_taken(start + 120 * SECOND);
        let now = start + 120 * SECOND;
        assert_eq!(closes(&progress, now), (30, Closed::Unread));
    }

    #[test]
    fn who_does_not_read_is_closed_and_who_reads_slowly_is_not() {
        let (stuck, start) = progress();
        stuck.request_begins(false);
        stuck.request_ends(start, false);
        stuck.blocked(start);
        assert_eq!(closes(&stuck, start), (30, Closed::Unread));

        let (slow, start) = progress();
        for second in 0..1000 {
            let now = start + second * SECOND;
            slow.blocked(now);
            slow.unblocked(now + SECOND, 500);
        }
        assert_eq!(slow.state().patience, 30 * SECOND);

        // A byte now and then is not reading.
        let (dripping, start) = progress();
        let mut now = start;
        dripping.blocked(now);
        loop {
            match dripping.judge(now) {
                Verdict::Close(reason) => break assert_eq!(reason, Closed::Unread),
                Verdict::Wait(until) if until < now + SECOND => now = until,
                Verdict::Wait(_) => {
                    now += SECOND;
                    dripping.unblocked(now, 1);
                    dripping.blocked(now);
                }
            }
        }
        assert_eq!((now - start).as_secs(), 30);
    }

    #[test]
    fn between_streams_bytes_are_no_head() {
        let (progress, start) = progress();
        progress.request_begins(true);
        progress.answer_begins(start);
        progress.request_ends(start, true);
        progress.read(start + SECOND);
        assert_eq!(closes(&progress, start), (75, Closed::Idle));
    }

    #[test]
    fn the_stop_waits_for_requests_and_hardly_for_heads() {
        let (progress, start) = progress();
        progress.read(start);
        progress.stopping(start + SECOND);
        assert_eq!(closes(&progress, start), (3, Closed::Idle));
        progress.request_begins(false);
        let later = start + 8 * SECOND;
        assert!(matches!(progress.judge(later), Verdict::Wait(_)));
    }
}
