//! A look at a batch's file without reading its rows: how large it is and what it is about.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

use super::ledger::on_disk;
use super::{Error, format};
use crate::pipeline::Mark;

/// What must be known of a batch before it goes.
pub(super) struct Glance {
    /// On disk.
    pub(super) size: u64,
    /// `None` where the table can't be read.
    records: Option<Vec<Mark>>,
}

impl Glance {
    /// How many rows it has; one where the table can't be read.
    pub(super) fn rows(&self) -> u64 {
        let records = self.records.as_deref();
        records.map_or(1, |records| {
            records.iter().map(|mark| u64::from(mark.rows)).sum()
        })
    }

    pub(super) fn identities(&self) -> Option<impl Iterator<Item = u64> + '_> {
        let records = self.records.as_ref()?;
        Some(records.iter().map(|mark| mark.identity))
    }
}

/// `None` if the file is gone.
pub(super) fn glance(path: &Path) -> Result<Option<Glance>, Error> {
    let length = match path.symlink_metadata() {
        Ok(metadata) => metadata.len(),
        Err(gone) if gone.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("look at", path)(error)),
    };
    // A file that can't even be opened can still be moved aside.
    let index = File::open(path)
        .ok()
        .and_then(|mut file| format::read_index(&mut file, length).ok());
    Ok(Some(Glance {
        size: on_disk(length),
        records: index.map(|index| index.records),
    }))
}
