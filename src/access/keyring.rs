//! All keys, and who is known by them.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use chrono::{DateTime, Utc};

use super::key_file::{FileError, KeyFile};
use super::{Credential, Key};

/// The keys of one moment.
#[derive(Debug)]
pub struct Keyring {
    keys: HashMap<String, Arc<Key>>,
    /// Compared with where no key has the id.
    nobodys: Key,
}

/// Why a key opens nothing. A client learns no more than that; but one whose secret was right may know
/// that its time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It does not look like a key.
    #[error("is not a key, or is mistyped")]
    Malformed,
    /// No key has its id, or the key with that id has another secret.
    #[error("is not known")]
    Unknown,
    /// It was good once.
    #[error("has expired")]
    Expired,
}

/// What is wrong with a key's line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not the JSON that is meant.
    #[error("is not a key as `traffic-api key new` writes it (column {column})")]
    NotALine {
        /// Where it stops to be.
        column: usize,
    },
    /// A field has a value that it can't have.
    #[error("{field} {reason}")]
    Wrong {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Two keys have one id.
    #[error("the id {0} is there already")]
    Twice(String),
}

impl Keyring {
    /// The keys in `text`: JSON objects, and lines that begin with `#`.
    ///
    /// # Errors
    /// The number of the first line that is wrong, and why; none of the keys is taken then.
    pub fn read(text: &str) -> Result<Self, (usize, KeyError)> {
        let mut ring = Self {
            keys: HashMap::new(),
            nobodys: Key::nobodys(),
        };
        for (number, line) in (1..).zip(text.lines()) {
            if line.trim_start().starts_with('#') {
                continue;
            }
            for key in Key::from_lines(line) {
                ring.add(key.map_err(|error| (number, error))?)
                    .map_err(|error| (number, error))?;
            }
        }
        Ok(ring)
    }

    fn add(&mut self, key: Key) -> Result<(), KeyError> {
        let id = key.id.clone();
        match self.keys.insert(id.clone(), Arc::new(key)) {
            None => Ok(()),
            Some(_) => Err(KeyError::Twice(id)),
        }
    }

    /// The key that `text` is. What it does is the same, and takes as long, for a wrong secret and for
    /// an unknown id. `now` is asked only for keys that expire.
    ///
    /// # Errors
    /// Why there is none.
    pub fn find(
        &self,
        text: &[u8],
        now: impl FnOnce() -> DateTime<Utc>,
    ) -> Result<&Arc<Key>, Denied> {
        let credential = Credential::read(text).ok_or(Denied::Malformed)?;
        let known = self.keys.get(credential.id());
        let compared = known.map_or(&self.nobodys, |key| key);
        let is_right = compared.is_of(&credential);
        match known {
            Some(key) if is_right => {
                if key.expires_at.is_some() && key.has_expired(now()) {
                    return Err(Denied::Expired);
                }
                Ok(key)
            }
            _ => Err(Denied::Unknown),
        }
    }

    /// All of them, by client and age.
    pub fn all(&self) -> Vec<Arc<Key>> {
        let mut all: Vec<_> = self.keys.values().cloned().collect();
        all.sort_by(|a, b| (&a.client, a.created_at, &a.id).cmp(&(&b.client, b.created_at, &b.id)));
        all
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none, so that nobody is let in.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

/// The keys of a running service, which may change.
#[derive(Debug)]
pub struct Keys {
    file: Option<KeyFile>,
    given: String,
    ring: RwLock<Arc<Keyring>>,
}

/// What was found when keys were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// How many keys there are now.
    pub keys: usize,
    /// What an operator should mend, though it works.
    pub warnings: Vec<String>,
}

impl Keys {
    /// The keys of `file` and those in `given`, which is text of the same form.
    ///
    /// # Errors
    /// What can't be read.
    pub fn open(file: Option<KeyFile>, given: String) -> Result<(Self, Loaded), FileError> {
        let (ring, loaded) = read(file.as_ref(), &given)?;
        let keys = Self {
            file,
            given,
            ring: RwLock::new(Arc::new(ring)),
        };
        Ok((keys, loaded))
    }

    /// Reads them again. Requests that are under way keep the key that they came with.
    ///
    /// # Errors
    /// What can't be read; the keys stay as they were.
    pub fn reload(&self) -> Result<Loaded, FileError> {
        let (ring, loaded) = read(self.file.as_ref(), &self.given)?;
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ring);
        Ok(loaded)
    }

    /// The keys of this moment.
    pub fn ring(&self) -> Arc<Keyring> {
        Arc::clone(&self.ring.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn read(file: Option<&KeyFile>, given: &str) -> Result<(Keyring, Loaded), FileError> {
    let mut ring =
        Keyring::read(given).map_err(|(line, error)| FileError::Given { line, error })?;
    let mut warnings = Vec::new();
    if let Some(file) = file {
        warnings.extend(file.warning());
        for key in file.read()?.all() {
            ring.add(Key::clone(&key)).map_err(FileError::Both)?;
        }
    }
    let keys = ring.len();
    Ok((ring, Loaded { keys, warnings }))
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::time::Instant;

    use super::*;
    use crate::access::Scope;

    fn made(client: &str) -> (Credential, Key) {
        let credential = Credential::generate();
        let scopes = [Scope::Read].into_iter().collect();
        let key = Key::new(&credential, client.to_owned(), scopes, Utc::now());
        (credential, key)
    }

    #[test]
    fn keys_are_found_by_their_secret() {
        let (credential, mut key) = made("a");
        let end = Utc::now();
        key.expires_at = Some(end);
        let ring = Keyring::read(&format!("# keys\n\n{}", key.to_line())).unwrap();
        let text = credential.reveal();
        let before = end - chrono::TimeDelta::nanoseconds(1);
        assert_eq!(
            ring.find(text.as_bytes(), || before).map(Arc::as_ref),
            Ok(&key)
        );
        assert_eq!(ring.find(text.as_bytes(), || end), Err(Denied::Expired));
        let stranger = Credential::generate().reveal();
        assert_eq!(
            ring.find(stranger.as_bytes(), || before),
            Err(Denied::Unknown)
        );
        assert_eq!(ring.find(b"", || before), Err(Denied::Malformed));
        assert!(!format!("{ring:?}").contains(&text[16..40]));
    }

    #[test]
    fn a_line_that_is_wrong_is_named_and_not_shown() {
        let good = made("a").1.to_line();
        let twice = format!("{good}\n{good}");
        for (text, line) in [
            ("secret-text", 1),
            (&*format!("{good}\nsecret-text"), 2),
            (&good.replace("read", "secret-text"), 1),
            (&good.replace("\"client\"", "\"secret-text\""), 1),
            (&good.replace("\"hash\":\"", "\"hash\":\"0"), 1),
            (&good.replace("\"a\"", "7"), 1),
            (&twice, 2),
        ] {
            let (at, error) = Keyring::read(text).unwrap_err();
            assert_eq!(at, line, "{text}");
            assert!(!error.to_string().contains("secret-text"), "{error}");
        }
        assert!(Keyring::read(&format!("{good} {}", made("b").1.to_line())).is_ok());
    }

    /// The middle of `calls` that take turns, in nanoseconds each.
    fn medians<const N: usize>(calls: [&dyn Fn(); N]) -> [f64; N] {
        let mut times = [const { Vec::new() }; N];
        for round in 0..2000 {
            for turn in 0..N {
                let which = (round + turn) % N;
                let since = Instant::now();
                for _ in 0..10 {
                    calls[which]();
                }
                times[which].push(since.elapsed().as_nanos() as f64 / 10.0);
            }
        }
        times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        })
    }

    #[test]
    fn a_wrong_secret_takes_as_long_as_an_unknown_id() {
        let keys: Vec<_> = (0..100).map(|n| made(&n.to_string())).collect();
        let lines: Vec<_> = keys.iter().map(|(_, key)| key.to_line()).collect();
        let ring = Keyring::read(&lines.join("\n")).unwrap();
        let good = keys[50].0.reveal();
        let unknown = Credential::generate();
        let wrong = unknown.under_id_of(&keys[50].0).reveal();
        let unknown = unknown.reveal();
        let find = |text: &str| {
            let _ = black_box(ring.find(black_box(text.as_bytes()), Utc::now));
        };
        let [right, wrong, again, unknown, malformed] = medians([
            &|| find(&good),
            &|| find(&wrong),
            &|| find(&wrong),
            &|| find(&unknown),
            &|| find("ta_"),
        ]);
        println!(
            "ns a call: right {right:.0}, wrong {wrong:.0} and {again:.0}, unknown {unknown:.0}, \
             malformed {malformed:.0}"
        );
        // What would be left out without the comparison with nobody's key is most of the time, as text
        // that is no key shows.
        assert!((wrong - unknown).abs() < 0.1 * wrong, "{wrong} {unknown}");
        assert!((wrong - again).abs() < 0.1 * wrong, "{wrong} {again}");
        assert!(malformed < 0.5 * wrong, "{malformed} {wrong}");
    }
}
