//! Which users a caller may deal with.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::UserId;

/// Everybody, or the users of some ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserSet(Option<Box<[RangeInclusive<u32>]>>);

impl UserSet {
    /// All users there are.
    pub const EVERYBODY: UserSet = UserSet(None);

    /// Whether a user belongs to it.
    pub fn contains(&self, user: UserId) -> bool {
        let within = |ranges: &[RangeInclusive<u32>]| {
            let mut ranges = ranges.iter();
            ranges.any(|range| range.contains(&user.get()))
        };
        self.0.as_deref().is_none_or(within)
    }

    /// Whether it leaves nobody out by its form; what is about the whole site is for everybody only.
    pub const fn is_everybody(&self) -> bool {
        self.0.is_none()
    }
}

/// A text that names no set of users.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be user ids and ranges of them, such as 7,100-199")]
pub struct NotUsers;

impl FromStr for UserSet {
    type Err = NotUsers;

    /// Ids and inclusive ranges with commas between them.
    fn from_str(text: &str) -> Result<Self, NotUsers> {
        let id = |text: &str| text.trim().parse::<UserId>().map_err(|_| NotUsers);
        let range = |text: &str| {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let (first, last) = (id(first)?.get(), id(last)?.get());
            (first <= last).then_some(first..=last).ok_or(NotUsers)
        };
        let ranges = text.split(',').map(range).collect::<Result<_, _>>()?;
        Ok(Self(Some(ranges)))
    }
}

impl fmt::Display for UserSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(ranges) = &self.0 else {
            return f.write_str("everybody");
        };
        for (place, range) in ranges.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            match (range.start(), range.end()) {
                (first, last) if first == last => write!(f, "{comma}{first}")?,
                (first, last) => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_contain_both_ends() {
        let set: UserSet = "7,100-199, 4294967295".parse().unwrap();
        for (user, is_in) in [
            (7, true),
            (8, false),
            (99, false),
            (100, true),
            (199, true),
            (200, false),
            (u32::MAX, true),
            (0, false),
        ] {
            assert_eq!(set.contains(UserId::new(user)), is_in, "{user}");
        }
        assert_eq!(set.to_string(), "7,100-199,4294967295");
        assert!(!set.is_everybody());
        // Not everybody by name: nobody else can come to be.
        assert!(
            !"0-4294967295"
                .parse::<UserSet>()
                .is_ok_and(|s| s.is_everybody())
        );
        assert!(UserSet::EVERYBODY.contains(UserId::new(0)));
    }

    #[test]
    fn nonsense_is_no_set() {
        for text in ["", ",", "1-", "-1", "2-1", "1-2-3", "4294967296", "all"] {
            assert_eq!(text.parse::<UserSet>(), Err(NotUsers), "{text:?}");
        }
    }
}
