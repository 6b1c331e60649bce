//! What lies in the spool's directory, told apart by name; nothing is remembered between two calls.

use std::collections::BinaryHeap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirEntry};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::Name;
use super::glance::glance;
use super::ledger::{Count, Tally, on_disk};

/// Held by the process that owns the spool.
pub(super) const LOCK: &str = "lock";
/// Of so many files the rows are read when all are counted anew; puts wait meanwhile.
const ROWS_READ: u64 = 10_000;
/// Where everything goes that can't be replayed.
pub(super) const REJECTED: &str = "rejected";

pub(super) enum Found {
    Batch(Name),
    /// Half-written by a process that has died, or being written by one that has not.
    Temporary,
    /// A file that the spool did not write.
    Foreign,
}

/// Calls `visit` for each file; directories, links, sockets and the lock are nobody's business.
pub(super) fn walk(
    dir: &Path,
    mut visit: impl FnMut(Found, &DirEntry) -> io::Result<()>,
) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_type().is_ok_and(|kind| kind.is_file()) || entry.file_name() == LOCK {
            continue;
        }
        let found = match entry.file_name().to_str() {
            Some(file) if Name::is_temporary(file) => Found::Temporary,
            Some(file) => Name::parse(file).map_or(Found::Foreign, Found::Batch),
            None => Found::Foreign,
        };
        visit(found, &entry)?;
    }
    Ok(())
}

/// The `limit` oldest names beyond `after`, oldest first. Takes memory for `limit` names and time
/// for all.
pub(super) fn oldest(dir: &Path, after: Option<&Name>, limit: usize) -> io::Result<Vec<Name>> {
    let mut kept: BinaryHeap<Name> = BinaryHeap::new();
    walk(dir, |found, _| {
        if let Found::Batch(name) = found
            && after.is_none_or(|after| name > *after)
        {
            if kept.len() < limit {
                kept.push(name);
            } else if let Some(mut newest) = kept.peek_mut()
                && name < *newest
            {
                *newest = name;
            }
        }
        Ok(())
    })?;
    Ok(kept.into_sorted_vec())
}

/// Counts the batches; their sizes and rows only if asked, because that takes a look at each file.
/// Of a great many, the rows are not read.
pub(super) fn tally(dir: &Path, with_sizes: bool) -> io::Result<Tally> {
    let mut tally = Tally::default();
    walk(dir, |found, entry| {
        if let Found::Batch(name) = found {
            if !with_sizes {
                tally.add(name, 0, 0);
            } else if let Some(length) = length(entry)? {
                let readable = tally.batches.files < ROWS_READ;
                let glance = readable.then(|| glance(&entry.path()).ok().flatten());
                let rows = glance.flatten().map_or(1, |glance| glance.rows());
                tally.add(name, on_disk(length), rows);
            }
        }
        Ok(())
    })?;
    Ok(tally)
}

/// Counts what was rejected.
pub(super) fn count_rejected(rejected: &Path) -> io::Result<Count> {
    let mut count = Count::default();
    walk(rejected, |found, entry| {
        if !matches!(found, Found::Temporary)
            && let Some(length) = length(entry)?
        {
            count.add(on_disk(length));
        }
        Ok(())
    })?;
    Ok(count)
}

/// The length of a file; `None` if it has gone meanwhile.
pub(super) fn length(entry: &DirEntry) -> io::Result<Option<u64>> {
    match entry.metadata() {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(gone) if gone.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Moves a file into `rejected` under its own name, or one with `~1`, `~2` and so on where that is
/// taken. Only the owner of the spool moves files in, one at a time, so a free name stays free.
pub(super) fn move_aside(file: &Path, rejected: &Path) -> io::Result<PathBuf> {
    let name = file.file_name().unwrap_or_default();
    let mut target = rejected.join(name);
    let mut attempt = 0_u32;
    while target.symlink_metadata().is_ok() {
        attempt += 1;
        target = rejected.join(numbered(name, attempt));
    }
    fs::rename(file, &target)?;
    Ok(target)
}

/// `a.batch` and 1 make `a~1.batch`: the ending says what kind of file it is.
fn numbered(name: &OsStr, number: u32) -> OsString {
    let path = Path::new(name);
    let mut numbered = path.file_stem().unwrap_or_default().to_owned();
    numbered.push(format!("~{number}"));
    if let Some(extension) = path.extension() {
        numbered.push(".");
        numbered.push(extension);
    }
    numbered
}
