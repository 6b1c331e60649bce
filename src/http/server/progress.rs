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
    /// Of those whose answers are being sent: which, and when the client last took a piece.
    answers: Vec<(u64, Instant)>,
    answers_begun: u64,
    /// The client was asked to leave, because it leaves an answer lying.
    is_to_leave: bool,
    /// No request has come yet.
    is_new: bool,
    /// Several requests at once, between which there may be bytes that belong to none.
    is_multiplexed: bool,
    is_stopping: bool,
    quiet_since: Instant,
    /// When the first byte of the next head came.
    head_since: Option<Instant>,
    blocked_since: Option<Instant>,
    /// How long the socket may still be blocked.
    patience: Duration,
}

/// What to do when the timer fires.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Wait(Instant),
    /// No more requests over this connection; those under way may end.
    AskToLeave,
    Close(Closed),
}

impl Progress {
    pub(super) fn new(timeouts: Timeouts) -> Self {
        let now = Instant::now();
        Self {
            timeouts,
            state: Mutex::new(State {
                requests: 0,
                answers: Vec::new(),
                answers_begun: 0,
                is_to_leave: false,
                is_new: true,
                is_multiplexed: false,
                is_stopping: false,
                quiet_since: now,
                head_since: None,
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

    /// The number of the answer.
    pub(super) fn answer_begins(&self, now: Instant) -> u64 {
        let mut state = self.state();
        let number = state.answers_begun;
        state.answers_begun += 1;
        state.answers.push((number, now));
        number
    }

    pub(super) fn answer_taken(&self, number: u64, now: Instant) {
        let mut state = self.state();
        let mut answers = state.answers.iter_mut();
        if let Some((_, taken_at)) = answers.find(|(other, _)| *other == number) {
            *taken_at = now;
        }
    }

    /// `answer` is that of the request, if it had begun.
    pub(super) fn request_ends(&self, now: Instant, answer: Option<u64>) {
        let mut state = self.state();
        state.requests -= 1;
        state.answers.retain(|(number, _)| Some(*number) != answer);
        state.quiet_since = now;
    }

    pub(super) fn stopping(&self, now: Instant) {
        let mut state = self.state();
        state.is_stopping = true;
        if state.requests == 0 {
            state.quiet_since = now;
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.state().is_stopping
    }

    /// The judgement at `now`. A deadline that comes up later is never nearer than the look that this
    /// asks for.
    pub(super) fn judge(&self, now: Instant) -> Verdict {
        let (mut state, timeouts) = (self.state(), &self.timeouts);
        let shortest = timeouts.head.min(timeouts.idle).min(timeouts.write);
        let lying_longest = state.answers.iter().map(|(_, taken_at)| *taken_at).min();
        let deadline = match (state.blocked_since, lying_longest) {
            (Some(since), _) => Some((since + state.patience, Closed::Unread)),
            (None, Some(taken_at)) => {
                let mut until = taken_at + timeouts.write;
                if until <= now && state.is_multiplexed {
                    if !state.is_to_leave {
                        state.is_to_leave = true;
                        return Verdict::AskToLeave;
                    }
                    // Behind a proxy they may be those of others: they get as long again.
                    if state.others_move(now, timeouts.write) {
                        until += timeouts.write;
                    }
                }
                Some((until, Closed::Unread))
            }
            // The service is at work, or reads a body, which has time-outs of its own.
            (None, None) if state.requests > 0 => None,
            (None, None) if state.is_stopping => {
                Some((state.quiet_since + LAST_HEADS, Closed::Idle))
            }
            (None, None) => Some(match state.head_since {
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

impl State {
    /// Whether there are requests whose answers have not been lying for as long as `patience`.
    fn others_move(&self, now: Instant, patience: Duration) -> bool {
        let answers = self.answers.iter();
        let lying = answers.filter(|(_, taken_at)| *taken_at + patience <= now);
        lying.count() < self.requests
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
                Verdict::AskToLeave => {}
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
        let answer = progress.answer_begins(start);
        progress.request_ends(start + 20 * SECOND, Some(answer));
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
        let answer = progress.answer_begins(start + 100 * SECOND);
        progress.answer_taken(answer, start + 120 * SECOND);
        let now = start + 120 * SECOND;
        assert_eq!(closes(&progress, now), (30, Closed::Unread));
    }

    #[test]
    fn who_does_not_read_is_closed_and_who_reads_slowly_is_not() {
        let (stuck, start) = progress();
        stuck.request_begins(false);
        stuck.request_ends(start, None);
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
                Verdict::AskToLeave => unreachable!("there are no others"),
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
    fn an_answer_that_is_left_lying_is_not_kept_by_others_that_move() {
        let (progress, start) = progress();
        progress.request_begins(true);
        progress.answer_begins(start);
        let mut asked = None;
        for second in 1.. {
            let now = start + second * SECOND;
            progress.request_begins(true);
            let other = progress.answer_begins(now);
            progress.answer_taken(other, now);
            match progress.judge(now) {
                Verdict::Wait(_) => {}
                Verdict::AskToLeave => assert_eq!(asked.replace(second), None),
                Verdict::Close(reason) => {
                    assert_eq!((second, reason), (60, Closed::Unread));
                    break;
                }
            }
            progress.request_ends(now, Some(other));
        }
        assert_eq!(asked, Some(30));

        // Those who were asked have gone.
        let (progress, start) = super::tests::progress();
        progress.request_begins(true);
        progress.answer_begins(start);
        progress.request_begins(true);
        assert_eq!(progress.judge(start + 31 * SECOND), Verdict::AskToLeave);
        progress.request_ends(start + 32 * SECOND, None);
        let now = start + 33 * SECOND;
        assert_eq!(progress.judge(now), Verdict::Close(Closed::Unread));
    }

    #[test]
    fn between_streams_bytes_are_no_head() {
        let (progress, start) = progress();
        progress.request_begins(true);
        let answer = progress.answer_begins(start);
        progress.request_ends(start, Some(answer));
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
