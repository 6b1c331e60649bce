//! Files that are there whole or not at all, also after a crash.
//!
//! A new file is written under a temporary name, synced, renamed, and its directory synced: before
//! the last step nobody has been promised anything, after it the file survives.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use tracing::warn;

use super::Error;

/// A file that was not published.
#[derive(Debug)]
pub(super) struct Unpublished {
    pub(super) error: Error,
    pub(super) remains: Remains,
}

/// What is left of a file that was not published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remains {
    /// Nothing.
    Nothing,
    /// Nothing: somebody else took it in the moment it was visible.
    Taken,
    /// The file; it could not be removed again.
    File,
}

/// Puts a file with the content of `parts` at `target`, by way of `temp` on the same file system.
pub(super) fn publish(temp: &Path, target: &Path, parts: &[&[u8]]) -> Result<(), Unpublished> {
    let nothing = |error| Unpublished {
        error,
        remains: Remains::Nothing,
    };
    write(temp, parts).map_err(nothing)?;
    if let Err(source) = fs::rename(temp, target) {
        discard(temp);
        return Err(nothing(Error::io("rename", temp)(source)));
    }
    let Err(error) = sync_directory(parent(target)) else {
        return Ok(());
    };
    let remains = match fs::remove_file(target) {
        Ok(()) => Remains::Nothing,
        Err(gone) if gone.kind() == ErrorKind::NotFound => Remains::Taken,
        Err(reason) => {
            warn!(file = %target.display(), %reason, "a file that was not acknowledged stays in the spool");
            Remains::File
        }
    };
    Err(Unpublished { error, remains })
}

/// Writes a new file and syncs it; on an error it is removed.
pub(super) fn write(path: &Path, parts: &[&[u8]]) -> Result<(), Error> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(Error::io("create", path))?;
    let written = parts
        .iter()
        .try_for_each(|part| file.write_all(part))
        .map_err(Error::io("write", path))
        .and_then(|()| file.sync_all().map_err(Error::io("sync", path)));
    if written.is_err() {
        discard(path);
    }
    written
}

/// Removes a temporary file; what can't be removed now is removed at the next start.
fn discard(path: &Path) {
    if let Err(reason) = fs::remove_file(path)
        && reason.kind() != ErrorKind::NotFound
    {
        warn!(file = %path.display(), %reason, "a temporary file stays until the next start");
    }
}

/// Makes names that were added to or taken from a directory survive a crash.
pub(super) fn sync_directory(path: &Path) -> Result<(), Error> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(Error::io("sync", path))
}

/// Creates a directory and whatever is missing above it, durably.
pub(super) fn create_directories(path: &Path) -> Result<(), Error> {
    let missing: Vec<PathBuf> = path
        .ancestors()
        .take_while(|ancestor| !ancestor.as_os_str().is_empty() && !ancestor.exists())
        .map(Path::to_owned)
        .collect();
    // What is spooled is personal data: not for other users of the machine.
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(Error::io("create", path))?;
    missing
        .iter()
        .try_for_each(|created| sync_directory(parent(created)))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
