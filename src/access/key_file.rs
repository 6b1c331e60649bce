//! The file that keys are kept in: one JSON object a line, for this service's user alone.
//!
//! It is replaced as a whole, so that whoever reads it sees all of it or all of what it was; a lock
//! beside it keeps two commands from undoing each other.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use super::{Key, KeyError, Keyring};

/// Others may neither read nor write it.
const MODE: u32 = 0o600;

/// A key file, which need not be there yet.
#[derive(Debug, Clone)]
pub struct KeyFile(PathBuf);

/// Why keys can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file can't be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A line of the file is wrong.
    #[error("{path}, line {line}: {error}")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line's number from 1.
        line: usize,
        /// What is wrong.
        error: KeyError,
    },
    /// A line of the keys that were given beside the file is wrong.
    #[error("API_KEYS, line {line}: {error}")]
    Given {
        /// The line's number from 1.
        line: usize,
        /// What is wrong.
        error: KeyError,
    },
    /// A key is both in the file and beside it.
    #[error("API_KEYS and the file have the same key: {0}")]
    Both(KeyError),
}

impl KeyFile {
    /// The file at `path`.
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    fn io(&self, source: io::Error) -> FileError {
        FileError::Io {
            path: self.0.clone(),
            source,
        }
    }

    /// All keys in it.
    ///
    /// # Errors
    /// That it is not there, or the first line that is wrong.
    pub fn read(&self) -> Result<Keyring, FileError> {
        let text = fs::read_to_string(&self.0).map_err(|error| self.io(error))?;
        Keyring::read(&text).map_err(|(line, error)| FileError::Line {
            path: self.0.clone(),
            line,
            error,
        })
    }

    /// What is wrong with who may read or write it.
    pub fn warning(&self) -> Option<String> {
        let mode = fs::metadata(&self.0).ok()?.permissions().mode() & 0o777;
        let path = self.0.display();
        if mode & 0o022 != 0 {
            return Some(format!(
                "{path} can be changed by others (mode {mode:o}): chmod 600"
            ));
        }
        (mode & 0o004 != 0)
            .then(|| format!("{path} can be read by everybody (mode {mode:o}): chmod 600"))
    }

    /// Adds a key; makes the file where there is none.
    ///
    /// # Errors
    /// Why it was not added; the file is as it was.
    pub fn add(&self, key: &Key) -> Result<(), FileError> {
        let _lock = self.lock()?;
        let mut text = match fs::read_to_string(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read.map_err(|error| self.io(error))?,
        };
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&key.to_line());
        text.push('\n');
        self.replace(&text)
    }

    /// Takes a key out; false where it is not in.
    ///
    /// # Errors
    /// Why it was not taken out; the file is as it was.
    pub fn remove(&self, id: &str) -> Result<bool, FileError> {
        let _lock = self.lock()?;
        let all = self.read()?.all();
        let Some(doomed) = all.iter().find(|key| key.id == id) else {
            return Ok(false);
        };
        let text = fs::read_to_string(&self.0).map_err(|error| self.io(error))?;
        let mut kept = String::new();
        for line in text.lines() {
            let is_comment = line.trim_start().starts_with('#');
            if is_comment || !line.contains(&doomed.id) {
                kept.push_str(line);
                kept.push('\n');
                continue;
            }
            // Another key may share the line.
            for key in Key::from_lines(line).flatten().filter(|key| key.id != id) {
                kept.push_str(&key.to_line());
                kept.push('\n');
            }
        }
        self.replace(&kept)?;
        Ok(true)
    }

    /// Held until dropped.
    fn lock(&self) -> Result<File, FileError> {
        let mut path = self.0.clone().into_os_string();
        path.push(".lock");
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(MODE);
        let file = options.open(&path).and_then(|file| {
            file.lock()?;
            Ok(file)
        });
        file.map_err(|source| FileError::Io {
            path: path.into(),
            source,
        })
    }

    /// Keeps the owner, so that the service can still read what another user has changed, and the
    /// group's right to read.
    fn replace(&self, text: &str) -> Result<(), FileError> {
        let written = || {
            // Where the path is a link, what it leads to is replaced.
            let path = fs::canonicalize(&self.0).unwrap_or_else(|_| self.0.clone());
            let directory = match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            // Made with mode 600.
            let mut file = tempfile::NamedTempFile::new_in(directory)?;
            file.write_all(text.as_bytes())?;
            if let Ok(old) = fs::metadata(&path) {
                let new = file.as_file().metadata()?;
                if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
                    fchown(file.as_file(), Some(old.uid()), Some(old.gid()))?;
                }
                let mode = MODE | (old.mode() & 0o040);
                file.as_file()
                    .set_permissions(Permissions::from_mode(mode))?;
            }
            file.as_file().sync_all()?;
            file.persist(&path)?;
            File::open(directory)?.sync_all()
        };
        written().map_err(|error| self.io(error))
    }
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;
    use crate::access::{Credential, Denied, Scope};

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn key(client: &str) -> (Credential, Key) {
        let credential = Credential::generate();
        let scopes = [Scope::Write].into_iter().collect();
        let key = Key::new(&credential, client.to_owned(), scopes, Utc::now());
        (credential, key)
    }

    #[test]
    fn keys_are_added_found_and_taken_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        let file = KeyFile::at(&path);
        assert!(file.read().is_err());
        let ((first, one), (second, two)) = (key("a"), key("b"));
        file.add(&one).unwrap();
        assert_eq!(mode(&path), 0o600);
        file.add(&two).unwrap();
        fs::write(
            &path,
            format!("# kept\n{}", fs::read_to_string(&path).unwrap()),
        )
        .unwrap();
        let ring = file.read().unwrap();
        let found = |ring: &Keyring, who: &Credential| {
            let found = ring.find(who.reveal().as_bytes(), Utc::now);
            found.map(|key| key.client.clone())
        };
        assert_eq!(found(&ring, &first), Ok("a".to_owned()));
        assert_eq!(found(&ring, &second), Ok("b".to_owned()));

        assert!(file.remove(first.id()).unwrap());
        assert!(!file.remove(first.id()).unwrap());
        let ring = file.read().unwrap();
        assert_eq!(found(&ring, &first), Err(Denied::Unknown));
        assert_eq!(found(&ring, &second), Ok("b".to_owned()));
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# kept\n"), "{text}");
        // No secret is in it, in any form that is not a hash.
        assert!(!text.contains(&second.reveal()[16..60]), "{text}");
    }

    #[test]
    fn who_else_may_read_it_is_said_and_then_mended() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        let file = KeyFile::at(&path);
        for (others, warned, after) in [
            (0o600, false, 0o600),
            (0o640, false, 0o640),
            (0o644, true, 0o640),
            (0o660, true, 0o640),
        ] {
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(others)).unwrap();
            assert_eq!(file.warning().is_some(), warned, "{others:o}");
            file.add(&key("a").1).unwrap();
            assert_eq!(mode(&path), after, "{others:o}");
            assert_eq!(file.warning(), None);
        }
    }

    #[test]
    fn many_at_once_lose_no_key() {
        let directory = tempfile::tempdir().unwrap();
        let file = KeyFile::at(&directory.path().join("keys"));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..5).for_each(|_| file.add(&key("a").1).unwrap()));
            }
        });
        assert_eq!(file.read().unwrap().len(), 40);
    }
}
