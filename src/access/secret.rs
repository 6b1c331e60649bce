//! What a client holds: `ta_<id>_<secret><checksum>`, all of it in lower-case hexadecimal digits.
//!
//! The prefix and the shape (`ta_[0-9a-f]{12}_[0-9a-f]{72}`) are for scanners that look for leaked
//! keys; the checksum tells a mistyped or cut-off key from a wrong one, and a real key from text that
//! looks like one, without asking anybody. The id is public: it names the key in logs and lists.

use std::fmt;

use rand::rngs::SysRng;
use rand::{TryRng, rand_core::UnwrapErr};

const PREFIX: &[u8] = b"ta_";
const ID_DIGITS: usize = 12;
/// 256 random bits.
const SECRET_BYTES: usize = 32;
const SECRET_DIGITS: usize = 2 * SECRET_BYTES;
const CHECKSUM_DIGITS: usize = 8;

/// A key in full. Its `Debug` shows the id alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    id: [u8; ID_DIGITS],
    secret: [u8; SECRET_BYTES],
}

impl Credential {
    /// A new one, from the operating system's random numbers.
    ///
    /// # Panics
    /// When the operating system has none to give.
    pub fn generate() -> Self {
        let mut random = [0; ID_DIGITS / 2];
        let mut secret = [0; SECRET_BYTES];
        let mut source = UnwrapErr(SysRng);
        let _ = source.try_fill_bytes(&mut random);
        let _ = source.try_fill_bytes(&mut secret);
        let mut id = [0; ID_DIGITS];
        id.copy_from_slice(hex(&random).as_bytes());
        Self { id, secret }
    }

    /// Reads what a client presented; nothing where its shape or its checksum is wrong.
    pub fn read(text: &[u8]) -> Option<Self> {
        let rest = text.strip_prefix(PREFIX)?;
        let (id, rest) = rest.split_first_chunk::<ID_DIGITS>()?;
        let (digits, checksum) = rest
            .strip_prefix(b"_")?
            .split_first_chunk::<SECRET_DIGITS>()?;
        if !id.iter().all(|digit| value(*digit).is_some()) {
            return None;
        }
        let mut secret = [0; SECRET_BYTES];
        unhex(digits, &mut secret)?;
        let mut sum = [0; CHECKSUM_DIGITS / 2];
        unhex(checksum, &mut sum)?;
        let credential = Self { id: *id, secret };
        (u32::from_be_bytes(sum) == credential.checksum()).then_some(credential)
    }

    fn checksum(&self) -> u32 {
        let mut sum = crc32fast::Hasher::new();
        sum.update(&self.id);
        sum.update(&self.secret);
        sum.finalize()
    }

    /// The public part.
    pub fn id(&self) -> &str {
        // Read from digits alone.
        std::str::from_utf8(&self.id).unwrap_or_default()
    }

    /// The secret of this one under the id of another.
    #[cfg(test)]
    pub(super) fn under_id_of(&self, other: &Self) -> Self {
        Self {
            id: other.id,
            secret: self.secret,
        }
    }

    pub(super) const fn secret(&self) -> &[u8; SECRET_BYTES] {
        &self.secret
    }

    /// All of it, to be shown once to whom it is given.
    pub fn reveal(&self) -> String {
        format!(
            "ta_{}_{}{:08x}",
            self.id(),
            hex(&self.secret),
            self.checksum()
        )
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({})", self.id())
    }
}

/// Whether a text can be the id of a key.
pub(super) fn is_id(text: &str) -> bool {
    text.len() == ID_DIGITS && text.bytes().all(|digit| value(digit).is_some())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Fills `bytes` from exactly as many digits.
pub(super) fn unhex(digits: &[u8], bytes: &mut [u8]) -> Option<()> {
    if digits.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(())
}

const fn value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_revealed_is_read_again() {
        let credential = Credential::generate();
        let text = credential.reveal();
        assert_eq!(text.len(), 3 + 12 + 1 + 64 + 8);
        assert_eq!(Credential::read(text.as_bytes()), Some(credential.clone()));
        assert_ne!(Credential::generate(), credential);
        let shown = format!("{credential:?}");
        assert!(
            shown.contains(credential.id()) && shown.len() < 30,
            "{shown}"
        );
    }

    #[test]
    fn a_slip_in_any_place_is_seen() {
        let text = Credential::generate().reveal().into_bytes();
        for place in 0..text.len() {
            for other in [b'0', b'1', b'f', b'_', b'G', b' ', 0xff] {
                let mut slip = text.clone();
                slip[place] = other;
                assert_eq!(Credential::read(&slip).is_some(), slip == text);
            }
            assert!(Credential::read(&text[..place]).is_none());
        }
        assert!(Credential::read(&[&text[..], b"0"].concat()).is_none());
    }
}
