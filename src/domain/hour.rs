//! Whole hours of UTC, the grain of the pre-aggregate.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};

/// The length of an hour, in seconds.
const SECONDS: u32 = 3600;

/// One hour of UTC, known by its first second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hour(u32);

impl Hour {
    /// The hour that holds a second, in seconds since the Unix epoch.
    pub fn containing(unix: u32) -> Self {
        Self(unix - unix % SECONDS)
    }

    /// The first hour that begins at this second or later; the last one there is at the end of time.
    pub fn from(unix: u32) -> Self {
        Self::containing(unix.saturating_add(SECONDS - 1))
    }

    /// Its first second, since the Unix epoch.
    pub fn start(self) -> u32 {
        self.0
    }

    /// The first second behind it.
    pub fn end(self) -> u32 {
        self.0.saturating_add(SECONDS)
    }
}

impl fmt::Display for Hour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = DateTime::<Utc>::from_timestamp(self.0.into(), 0).unwrap_or_default();
        f.write_str(&start.to_rfc3339_opts(SecondsFormat::Secs, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_begin_at_whole_hours() {
        assert_eq!(Hour::containing(7199).start(), 3600);
        assert_eq!(Hour::containing(7200), Hour::from(3601));
        assert_eq!(Hour::from(7200).end(), 10_800);
        assert_eq!(Hour::containing(3600).to_string(), "1970-01-01T01:00:00Z");
    }
}
