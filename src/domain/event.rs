//! The event: something of one type that happened once on a site, to one correlation id.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use super::CreatedAt;

/// The longest name of an event type, in bytes.
pub const MAX_EVENT_TYPE_BYTES: usize = 32;

/// Where events happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteId(Uuid);

impl SiteId {
    /// Wraps a UUID; all are valid.
    pub const fn new(id: Uuid) -> Self {
        Self(id)
    }

    /// The UUID.
    pub const fn get(self) -> Uuid {
        self.0
    }
}

/// What ties the events of one visit together, such as a captcha's `serve` and `solve`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CorrelationId(Uuid);

impl CorrelationId {
    /// Wraps a UUID; all are valid.
    pub const fn new(id: Uuid) -> Self {
        Self(id)
    }

    /// The UUID.
    pub const fn get(self) -> Uuid {
        self.0
    }
}

/// A text that is not a UUID in its usual form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a UUID such as c1a7e5d0-3b52-4f86-9d41-5e0f7a2b6c93")]
pub struct NotAUuid;

/// The usual form only: eight, four, four, four and twelve hexadecimal digits, of either case.
fn parse_uuid(text: &str) -> Result<Uuid, NotAUuid> {
    let usual = text.len() == uuid::fmt::Hyphenated::LENGTH;
    let uuid = Uuid::try_parse(text).ok().filter(|_| usual);
    uuid.ok_or(NotAUuid)
}

impl FromStr for SiteId {
    type Err = NotAUuid;

    fn from_str(text: &str) -> Result<Self, NotAUuid> {
        parse_uuid(text).map(Self)
    }
}

impl FromStr for CorrelationId {
    type Err = NotAUuid;

    fn from_str(text: &str) -> Result<Self, NotAUuid> {
        parse_uuid(text).map(Self)
    }
}

impl fmt::Display for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Display for CorrelationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// What happened: a short name such as `serve`, `solve`, `impression` or `click`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventType {
    /// Zeros behind the name, which holds none.
    bytes: [u8; MAX_EVENT_TYPE_BYTES],
}

impl EventType {
    /// A captcha was shown.
    pub const SERVE: EventType = EventType::known("serve");
    /// A captcha was solved.
    pub const SOLVE: EventType = EventType::known("solve");

    /// The type of a name that satisfies the rule, which is not checked here.
    pub(crate) const fn known(name: &str) -> Self {
        let mut bytes = [0; MAX_EVENT_TYPE_BYTES];
        let mut i = 0;
        while i < name.len() {
            bytes[i] = name.as_bytes()[i];
            i += 1;
        }
        Self { bytes }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        let end = self.bytes.iter().position(|byte| *byte == 0);
        let name = &self.bytes[..end.unwrap_or(MAX_EVENT_TYPE_BYTES)];
        // Only ASCII gets in.
        std::str::from_utf8(name).unwrap_or_default()
    }
}

impl fmt::Debug for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

/// A text that can't be the name of an event type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 32 of a-z, 0-9, '_', '-' and '.', and begin with a letter")]
pub struct NotAnEventType;

impl FromStr for EventType {
    type Err = NotAnEventType;

    fn from_str(text: &str) -> Result<Self, NotAnEventType> {
        let may = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-.".contains(&b);
        let good = text.len() <= MAX_EVENT_TYPE_BYTES
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.bytes().all(may);
        good.then(|| Self::known(text)).ok_or(NotAnEventType)
    }
}

/// Which types are taken in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum EventTypes {
    /// Any.
    #[default]
    Open,
    /// These.
    Closed(Vec<EventType>),
}

impl EventTypes {
    /// Whether an event of this type is taken in.
    pub fn accept(&self, of: EventType) -> bool {
        match self {
            EventTypes::Open => true,
            EventTypes::Closed(types) => types.contains(&of),
        }
    }
}

/// What makes two events one: sent again, it is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EventIdentity {
    /// Where it happened.
    pub site_id: SiteId,
    /// To what it belongs.
    pub correlation_id: CorrelationId,
    /// What happened.
    pub of: EventType,
}

/// One event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Event {
    /// Which one.
    pub identity: EventIdentity,
    /// When it happened.
    pub time: CreatedAt,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_short_plain_names() {
        let longest = "a".repeat(MAX_EVENT_TYPE_BYTES);
        for good in ["serve", "a", "ad.click-2_x", &longest] {
            assert_eq!(good.parse::<EventType>().unwrap().as_str(), good);
        }
        assert_eq!("serve".parse(), Ok(EventType::SERVE));
        let too_long = format!("{longest}a");
        for bad in ["", "Serve", "1a", "-a", "a b", "a\0", "é", "a,b", &too_long] {
            assert_eq!(bad.parse::<EventType>(), Err(NotAnEventType), "{bad:?}");
        }
    }

    #[test]
    fn ids_are_uuids_in_their_usual_form() {
        let text = "c1a7e5d0-3b52-4f86-9d41-5e0f7a2b6c93";
        let site: SiteId = text.parse().unwrap();
        assert_eq!(site.to_string(), text);
        assert_eq!(text.to_uppercase().parse(), Ok(site));
        for bad in [
            "",
            "c1a7e5d03b524f869d415e0f7a2b6c93",
            "{c1a7e5d0-3b52-4f86-9d41-5e0f7a2b6c93}",
            "urn:uuid:c1a7e5d0-3b52-4f86-9d41-5e0f7a2b6c93",
            "c1a7e5d0-3b52-4f86-9d41-5e0f7a2b6c9g",
        ] {
            assert_eq!(bad.parse::<SiteId>(), Err(NotAUuid), "{bad:?}");
        }
    }
}
