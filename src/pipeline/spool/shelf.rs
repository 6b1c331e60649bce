//! The operator's side of the spool: looking through it and putting things back, without owning it.
//!
//! Purpose: a tool in another process, run while the service runs or while it does not.
//!
//! Invariants: nothing is ever overwritten; a name that an operator gives stays inside the
//! directory. The service notices what was changed when it counts anew, and replays what was put
//! back when it next lists its files.
//!
//! Refuses to know: how anything is printed.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Component, Path, PathBuf};

use super::directory::{self, Found, REJECTED};
use super::{Error, Index, Name, ReadError, Spooled, durable, format};
use crate::pipeline::Batch;

/// A spool's directory, seen from outside.
#[derive(Debug, Clone)]
pub struct Shelf {
    dir: PathBuf,
    rejected: PathBuf,
}

/// A batch that waits.
#[derive(Debug)]
pub struct Pending {
    /// The file.
    pub name: Name,
    /// The file's length in bytes.
    pub length: u64,
    /// What is in it, or why that can't be said. The rows themselves were not looked at.
    pub index: Result<Index, ReadError>,
}

/// What a rejected file is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A batch that was damaged, or that the store refused as a whole.
    Batch,
    /// Refused rows as JSON lines.
    Rows,
    /// A file that the spool did not write.
    Foreign,
}

/// A file that was moved aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Its name; one that is not UTF-8 is shown with replacement characters and can't be named.
    pub file: String,
    /// Its length in bytes.
    pub length: u64,
    /// What it is.
    pub kind: Kind,
}

impl Shelf {
    /// The spool in `dir`, which need not exist.
    pub fn at(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            rejected: dir.join(REJECTED),
        }
    }

    /// The `limit` oldest batches beyond `after`, oldest first. A batch that is replayed meanwhile
    /// is left out.
    ///
    /// # Errors
    /// Those of listing the directory; a file that can't be read is an entry, not an error.
    pub fn pending(&self, after: Option<&Name>, limit: usize) -> io::Result<Vec<Pending>> {
        let names = directory::oldest(&self.dir, after, limit)?;
        Ok(names
            .into_iter()
            .filter_map(|name| self.look(name))
            .collect())
    }

    fn look(&self, name: Name) -> Option<Pending> {
        let opened = File::open(self.dir.join(name.to_string()))
            .and_then(|file| Ok((file.metadata()?.len(), file)));
        let (length, index) = match opened {
            Ok((length, mut file)) => (length, format::read_index(&mut file, length)),
            Err(gone) if gone.kind() == ErrorKind::NotFound => return None,
            Err(error) => (0, Err(error.into())),
        };
        Some(Pending {
            name,
            length,
            index,
        })
    }

    /// What was moved aside, by name.
    ///
    /// # Errors
    /// Those of listing the directory.
    pub fn rejected(&self) -> io::Result<Vec<Rejected>> {
        let mut files = Vec::new();
        directory::walk(&self.rejected, |found, entry| {
            if let Found::Temporary = found {
                return Ok(());
            }
            if let Some(length) = directory::length(entry)? {
                let file = entry.file_name().to_string_lossy().into_owned();
                let kind = match Path::new(&file).extension() {
                    Some(ending) if ending == "batch" => Kind::Batch,
                    Some(ending) if ending == "jsonl" => Kind::Rows,
                    _ => Kind::Foreign,
                };
                files.push(Rejected { file, length, kind });
            }
            Ok(())
        })?;
        files.sort_by(|a, b| a.file.cmp(&b.file));
        Ok(files)
    }

    /// Opens a rejected file for reading it as it is.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is not one of a file in `rejected`, and those of opening it.
    pub fn open_rejected(&self, file: &str) -> io::Result<impl Read + use<>> {
        File::open(self.inside(file)?)
    }

    /// Reads a rejected batch.
    ///
    /// # Errors
    /// See [`ReadError`]; [`ReadError::Io`] also for a name that is not one of a file in `rejected`.
    pub fn read_rejected(&self, file: &str) -> Result<Spooled, ReadError> {
        let mut file = File::open(self.inside(file)?)?;
        let length = file.metadata()?.len();
        format::read(&mut file, length)
    }

    /// Puts a batch back among those that wait, as the newest at `now_ms`. The operator may use more
    /// room than the service grants itself.
    ///
    /// A service that starts in this moment may take the half-written file for a dead one's; then
    /// this fails, and can be tried again.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Unfit`]: nothing was put back.
    pub fn restore(&self, batch: &Batch, now_ms: u64) -> Result<Name, Error> {
        let encoded = format::encode(batch, now_ms).map_err(Error::Unfit)?;
        let free = |name: &Name| self.dir.join(name.to_string()).symlink_metadata().is_err();
        let name = (0..)
            .map(|attempt| Name::restored(now_ms, attempt, batch.token))
            .find(free)
            .unwrap_or_else(|| Name::restored(now_ms, 0, batch.token));
        durable::publish(
            &self.dir.join(name.temporary()),
            &self.dir.join(name.to_string()),
            &encoded.parts(),
        )
        .map(|()| name)
        .map_err(|unpublished| unpublished.error)
    }

    /// Removes a rejected file for good.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is not one of a file in `rejected`, and those of removing it.
    pub fn remove_rejected(&self, file: &str) -> io::Result<()> {
        fs::remove_file(self.inside(file)?)
    }

    /// The path of a file in `rejected`: one plain name, and not a link to elsewhere.
    fn inside(&self, file: &str) -> io::Result<PathBuf> {
        let mut components = Path::new(file).components();
        let plain = matches!(
            (components.next(), components.next()),
            (Some(Component::Normal(name)), None) if name == file
        );
        if !plain {
            return Err(io::Error::new(
                ErrorKind::InvalidInput,
                format!("not the name of a rejected file: {file:?}"),
            ));
        }
        let path = self.rejected.join(file);
        if !path.symlink_metadata()?.is_file() {
            return Err(io::Error::new(
                ErrorKind::InvalidInput,
                format!("not a file: {file:?}"),
            ));
        }
        Ok(path)
    }
}
