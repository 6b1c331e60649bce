//! A key as the service keeps it: what it is good for, and a hash by which to know its secret.
//!
//! The hash is SHA-256 over 16 bytes of salt and the secret, in one block. A slow hash is for secrets
//! that people choose, of which there are few enough to be tried; NIST asks for one below 112 bits of
//! entropy and for an approved hash above (SP 800-63B, section 5.1.2.2,
//! <https://pages.nist.gov/800-63-3/sp800-63b.html>). These have 256, and are verified in every
//! request.

use std::fmt;

use chrono::{DateTime, Utc};
use rand::RngExt;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::keyring::KeyError;
use super::secret::{hex, is_id, unhex};
use super::{Credential, Scopes};
use crate::domain::UserSet;

const SALT_BYTES: usize = 16;
const HASH_BYTES: usize = 32;

/// What a key may not do though its scopes allow it; nothing is restricted by default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restrictions {
    /// Whose views it deals with.
    pub users: UserSet,
    /// Where requests go: to one of these paths or below it. Empty: anywhere.
    pub paths: Vec<String>,
    /// Rows that it may write in a second, instead of what all keys may.
    pub writes_per_sec: Option<u32>,
    /// Reports that it may read in a second, instead of what all keys may.
    pub reads_per_sec: Option<u32>,
}

impl Default for Restrictions {
    fn default() -> Self {
        Self {
            users: UserSet::EVERYBODY,
            paths: Vec::new(),
            writes_per_sec: None,
            reads_per_sec: None,
        }
    }
}

/// One key of one client. Its `Debug` shows neither salt nor hash.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    /// Its public name.
    pub id: String,
    /// Whose it is; a client may have several, so that one can take another's place.
    pub client: String,
    /// What it is good for.
    pub scopes: Scopes,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// From when on it is good for nothing.
    pub expires_at: Option<DateTime<Utc>>,
    /// What it may not do all the same.
    pub restrictions: Restrictions,
    salt: [u8; SALT_BYTES],
    hash: [u8; HASH_BYTES],
}

/// A line of a key file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    id: String,
    client: String,
    scopes: Vec<String>,
    created_at: DateTime<Utc>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    users: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    paths: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    writes_per_sec: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reads_per_sec: Option<u32>,
    salt: String,
    hash: String,
}

impl Key {
    /// What is to be kept of a new `credential`, under a salt of its own.
    pub fn new(
        credential: &Credential,
        client: String,
        scopes: Scopes,
        created_at: DateTime<Utc>,
    ) -> Self {
        let mut salt = [0; SALT_BYTES];
        rand::rng().fill(&mut salt);
        Self {
            id: credential.id().to_owned(),
            client,
            scopes,
            created_at,
            expires_at: None,
            restrictions: Restrictions::default(),
            salt,
            hash: digest(&salt, credential),
        }
    }

    /// A key that nobody has, to take the time of one that somebody has.
    pub(super) fn nobodys() -> Self {
        let credential = Credential::generate();
        Self::new(
            &credential,
            String::new(),
            Scopes::default(),
            DateTime::UNIX_EPOCH,
        )
    }

    /// Whether the secret is this key's; in constant time.
    pub(super) fn is_of(&self, credential: &Credential) -> bool {
        digest(&self.salt, credential).ct_eq(&self.hash).into()
    }

    /// Whether it is good for nothing any more.
    pub fn has_expired(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }

    /// Whether it may be used on a request's path. Whole segments count.
    pub fn may_go_to(&self, path: &str) -> bool {
        let is_below = |prefix: &String| {
            let prefix = prefix.trim_end_matches('/');
            let rest = path.strip_prefix(prefix);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let paths = &self.restrictions.paths;
        paths.is_empty() || paths.iter().any(is_below)
    }

    /// The line that stands for it in a key file.
    pub fn to_line(&self) -> String {
        let users = &self.restrictions.users;
        let line = Line {
            id: self.id.clone(),
            client: self.client.clone(),
            scopes: self.scopes.names().map(str::to_owned).collect(),
            created_at: self.created_at,
            expires_at: self.expires_at,
            users: (!users.is_everybody()).then(|| users.to_string()),
            paths: self.restrictions.paths.clone(),
            writes_per_sec: self.restrictions.writes_per_sec,
            reads_per_sec: self.restrictions.reads_per_sec,
            salt: hex(&self.salt),
            hash: hex(&self.hash),
        };
        // Strings and numbers can't fail.
        serde_json::to_string(&line).unwrap_or_default()
    }

    /// Reads such lines, one or several in `text`.
    ///
    /// # Errors
    /// What is wrong; never the text itself, which may be a secret in the wrong place.
    pub(super) fn from_lines(text: &str) -> impl Iterator<Item = Result<Self, KeyError>> {
        let lines = serde_json::Deserializer::from_str(text).into_iter::<Line>();
        lines.map(|line| {
            let line = line.map_err(|error| KeyError::NotALine {
                column: error.column(),
            })?;
            Self::from_line(line)
        })
    }

    fn from_line(line: Line) -> Result<Self, KeyError> {
        let wrong = |field, reason| KeyError::Wrong { field, reason };
        if !is_id(&line.id) {
            return Err(wrong("id", "must be 12 hexadecimal digits"));
        }
        check_client(&line.client).map_err(|reason| wrong("client", reason))?;
        let scopes: Result<Scopes, _> = line.scopes.iter().map(|scope| scope.parse()).collect();
        let scopes = scopes.map_err(|_| wrong("scopes", "must be of write, read and admin"))?;
        let users = match &line.users {
            Some(users) => users.parse(),
            None => Ok(UserSet::EVERYBODY),
        };
        let users = users.map_err(|_| wrong("users", "must be as 7,100-199"))?;
        for path in &line.paths {
            check_path(path).map_err(|reason| wrong("paths", reason))?;
        }
        if line.writes_per_sec == Some(0) || line.reads_per_sec == Some(0) {
            return Err(wrong("writes_per_sec, reads_per_sec", "must be 1 or more"));
        }
        let (mut salt, mut hash) = ([0; SALT_BYTES], [0; HASH_BYTES]);
        unhex(line.salt.as_bytes(), &mut salt)
            .ok_or(wrong("salt", "must be 32 hexadecimal digits"))?;
        unhex(line.hash.as_bytes(), &mut hash)
            .ok_or(wrong("hash", "must be 64 hexadecimal digits"))?;
        Ok(Self {
            id: line.id,
            client: line.client,
            scopes,
            created_at: line.created_at,
            expires_at: line.expires_at,
            restrictions: Restrictions {
                users,
                paths: line.paths,
                writes_per_sec: line.writes_per_sec,
                reads_per_sec: line.reads_per_sec,
            },
            salt,
            hash,
        })
    }
}

/// Whether a client's name can stand in logs and lists.
///
/// # Errors
/// Why not.
pub fn check_client(name: &str) -> Result<(), &'static str> {
    let is_plain = |c: char| c.is_alphanumeric() || " ._-@".contains(c);
    let is_fine = !name.is_empty() && name.len() <= 64 && name.chars().all(is_plain);
    is_fine
        .then_some(())
        .ok_or("must be 1 to 64 letters, digits, spaces and any of . _ - @")
}

/// Whether requests can go below such a path.
///
/// # Errors
/// Why not.
pub fn check_path(path: &str) -> Result<(), &'static str> {
    let is_fine = path.starts_with('/') && path.len() > 1 && !path.contains(['?', '#', '%']);
    is_fine
        .then_some(())
        .ok_or("must begin with / and be more than that, without ? # %")
}

fn digest(salt: &[u8; SALT_BYTES], credential: &Credential) -> [u8; HASH_BYTES] {
    let mut hash = Sha256::new();
    hash.update(salt);
    hash.update(credential.secret());
    hash.finalize().into()
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .field("client", &self.client)
            .field("scopes", &self.scopes)
            .finish_non_exhaustive()
    }
}
