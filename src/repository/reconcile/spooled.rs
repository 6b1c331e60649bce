//! What waits on this node's disk and is in no table yet.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::Path;

use serde::Serialize;

use super::totals::{DAY, date_of};
use crate::pipeline::spool::{Name, Shelf, format};
use crate::repository::rows;

/// How many files are listed at a time.
const LISTED: usize = 1000;

/// What is in one spool.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Spooled {
    /// Files.
    pub files: u64,
    /// Views in them; copies of one view count each.
    pub views: u64,
    /// Those within the window, by date.
    pub days: BTreeMap<String, u64>,
    /// Files that could not be read.
    pub unreadable: u64,
}

/// Reads the spool in `directory`, which need not exist, file by file; what is replayed meanwhile is
/// left out. Blocks on the disk. Of `window`, in seconds since the Unix epoch, views are counted by
/// day.
///
/// # Errors
/// When the directory can't be listed.
pub fn spooled(directory: &Path, window: &std::ops::Range<u32>) -> io::Result<Spooled> {
    let shelf = Shelf::at(directory);
    let (mut spooled, mut after) = (Spooled::default(), None::<Name>);
    loop {
        let pending = match shelf.pending(after.as_ref(), LISTED) {
            Err(missing) if missing.kind() == ErrorKind::NotFound => return Ok(spooled),
            listed => listed?,
        };
        let Some(last) = pending.last() else {
            return Ok(spooled);
        };
        after = Some(last.name);
        for batch in &pending {
            let bytes = match std::fs::read(directory.join(batch.name.to_string())) {
                Err(gone) if gone.kind() == ErrorKind::NotFound => continue,
                read => read,
            };
            spooled.files += 1;
            let Some(content) = bytes.ok().and_then(|bytes| format::decode(&bytes).ok()) else {
                spooled.unreadable += 1;
                continue;
            };
            for claim in rows::decode_claims(&content.batch) {
                spooled.views += 1;
                let at = claim.view.created_at.unix();
                if window.contains(&at) {
                    *spooled.days.entry(date_of(at - at % DAY)).or_default() += 1;
                }
            }
        }
    }
}
