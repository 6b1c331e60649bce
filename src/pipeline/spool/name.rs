//! Names of spooled files: they sort oldest first and never repeat.

use std::fmt;

use uuid::Uuid;

/// The name of one file in the spool, `{ms:013x}-{counter:08x}-{token}.batch`. Names order like
/// their text: the oldest is the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    ms: u64,
    counter: u32,
    token: Uuid,
}

/// What a valid name's time stays below; a clock beyond it (the year 6429) is taken for broken.
const MS_LIMIT: u64 = 1 << 47;
/// Counters from here on are those of batches that an operator put back.
const RESTORED: u32 = 1 << 31;
/// `{ms:013x}-{counter:08x}-{token}`
const STEM_BYTES: usize = 13 + 1 + 8 + 1 + 36;

impl Name {
    /// The name that follows `newest`, the greatest one in use: at `now_ms`, or at the time of
    /// `newest` where the clock has gone back.
    pub(super) fn following(newest: Option<Name>, now_ms: u64, token: Uuid) -> Name {
        let first = Name {
            // Half of the range stays free for what follows a broken clock.
            ms: now_ms.min(MS_LIMIT / 2),
            counter: 0,
            token,
        };
        match newest {
            Some(newest) if newest.ms >= first.ms => match newest.counter.saturating_add(1) {
                counter if counter < RESTORED => Name {
                    ms: newest.ms,
                    counter,
                    token,
                },
                _ => Name {
                    ms: newest.ms + 1,
                    ..first
                },
            },
            _ => first,
        }
    }

    /// The name of a batch that an operator puts back at `now_ms`, in the `attempt`-th attempt to
    /// find a free one.
    pub(super) fn restored(now_ms: u64, attempt: u32, token: Uuid) -> Name {
        Name {
            ms: now_ms.min(MS_LIMIT / 2),
            counter: RESTORED | attempt,
            token,
        }
    }

    /// The name of the rest of the batch of this name: as old, behind it, and unique by the new `token`.
    pub(super) fn of_rest(self, token: Uuid) -> Name {
        Name {
            // The service wrote this one and counts it.
            counter: ((self.counter & !RESTORED) + 1).min(RESTORED - 1),
            token,
            ..self
        }
    }

    /// Whether an operator put it back, so that the service may never have counted it.
    pub(super) fn is_restored(self) -> bool {
        self.counter >= RESTORED
    }

    /// The name in a file's name; `None` when the spool would never have written it.
    pub fn parse(file: &str) -> Option<Name> {
        Self::parse_stem(file.strip_suffix(".batch")?)
    }

    /// Whether a file's name is that of a half-written file of the spool.
    pub(super) fn is_temporary(file: &str) -> bool {
        file.strip_suffix(".tmp")
            .is_some_and(|stem| Self::parse_stem(stem).is_some())
    }

    fn parse_stem(stem: &str) -> Option<Name> {
        let plain = |b: u8| b == b'-' || b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if stem.len() != STEM_BYTES || !stem.bytes().all(plain) {
            return None;
        }
        let (ms, rest) = (&stem[..13], &stem[13..]);
        let (counter, token) = (&rest[1..9], &rest[10..]);
        if !rest.starts_with('-') || rest.as_bytes()[9] != b'-' {
            return None;
        }
        let name = Name {
            ms: u64::from_str_radix(ms, 16).ok()?,
            counter: u32::from_str_radix(counter, 16).ok()?,
            token: Uuid::try_parse(token).ok()?,
        };
        (name.ms < MS_LIMIT).then_some(name)
    }

    /// When it was spooled, in milliseconds since 1970; later than that where the clock has gone
    /// back.
    pub fn ms(self) -> u64 {
        self.ms
    }

    fn stem(self) -> String {
        format!("{:013x}-{:08x}-{}", self.ms, self.counter, self.token)
    }

    /// What the file is called while it is being written.
    pub(super) fn temporary(self) -> String {
        self.stem() + ".tmp"
    }

    /// What a file of refused rows is called.
    pub(super) fn refused_rows(self) -> String {
        self.stem() + ".jsonl"
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.batch", self.stem())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_rise_when_the_clock_does_not() {
        let mut newest = None;
        let mut texts = Vec::new();
        for now_ms in [5_000, 5_000, 4_000, 0, 5_001, u64::MAX, 7, 7] {
            let name = Name::following(newest, now_ms, Uuid::new_v4());
            assert!(Some(name) > newest);
            assert_eq!(Name::parse(&name.to_string()), Some(name));
            assert!(Name::is_temporary(&name.temporary()));
            texts.push(name.to_string());
            newest = Some(name);
        }
        assert!(texts.is_sorted());
    }

    #[test]
    fn a_used_up_counter_takes_the_next_millisecond() {
        for counter in [RESTORED - 1, RESTORED, u32::MAX] {
            let last = Name {
                ms: 9,
                counter,
                token: Uuid::max(),
            };
            let next = Name::following(Some(last), 1, Uuid::nil());
            assert!(next > last && next.ms() == 10 && !next.is_restored());
        }
    }

    #[test]
    fn only_the_spools_own_spelling_is_a_name() {
        let good = "0019a7c3f5e21-00000000-67e55044-10b1-426f-9247-bb680e5fe0c8.batch";
        assert!(Name::parse(good).is_some());
        for bad in [
            &good.to_uppercase(),
            &good.replace("0019", "+019"),
            &good.replace(".batch", ".tmp"),
            &good.replace("0019", "f019"),
            &good.replace("-0000000", "-00-0000"),
            &good[1..],
            "",
            ".batch",
            "é.batch",
        ] {
            assert_eq!(Name::parse(bad), None, "{bad}");
        }
    }
}
