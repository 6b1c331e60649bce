//! For log lines that a fault would otherwise repeat for every request.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// At most one line in this time.
const PAUSE: Duration = Duration::from_secs(1);

/// Lets one line through at a time, and counts those that were left out.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    left_out: u64,
}

impl Seldom {
    /// Nothing said yet.
    pub const fn new() -> Self {
        Self(Mutex::new(State {
            last: None,
            left_out: 0,
        }))
    }

    /// Calls `say` with how many calls were left out since the last one, or leaves this one out too.
    pub fn say(&self, say: impl FnOnce(u64)) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.is_some_and(|last| last.elapsed() < PAUSE) {
            state.left_out += 1;
            return;
        }
        state.last = Some(Instant::now());
        let left_out = std::mem::take(&mut state.left_out);
        drop(state);
        say(left_out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_many_is_said() {
        let (seldom, mut said) = (Seldom::new(), Vec::new());
        for _ in 0..100 {
            seldom.say(|left_out| said.push(left_out));
        }
        assert_eq!(said, [0]);
        seldom.0.lock().unwrap().last = None;
        seldom.say(|left_out| said.push(left_out));
        assert_eq!(said, [0, 99]);
    }
}
