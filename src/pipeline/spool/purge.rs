//! Takes records out of the spool that are not to be kept any more, batches and quarantine alike.
//!
//! Invariants: a batch is written anew, without them, before the old file goes; so whatever stops it
//! half-way has lost nothing, and it may be run again. Files that can't be read stay as they are, and
//! are counted.
//!
//! Refuses to know: why a record goes.

use std::io::Read;

use serde_json::Value;

use super::{Error, Kind, Name, ReadError, Spool};
use crate::pipeline::Batch;
use crate::pipeline::delivery::now_ms;

/// Names that are listed at a time.
const LISTED: usize = 1024;

/// What a purge found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Purged {
    /// Rows that were taken out.
    pub rows: u64,
    /// Files whose content is not known, and which were left.
    pub unreadable: u64,
}

/// Takes out the records that `kept` does not say of, one answer for each record of a batch.
///
/// # Errors
/// Those of writing the rest of a batch; then its old file is still there.
pub fn purge(spool: &Spool, kept: &dyn Fn(&Batch) -> Vec<bool>) -> Result<Purged, Error> {
    let mut purged = Purged::default();
    let mut after: Option<Name> = None;
    loop {
        let names = spool.oldest(after.as_ref(), LISTED);
        let names = names.map_err(Error::io("list", spool.directory()))?;
        let Some(last) = names.last() else { break };
        after = Some(*last);
        for name in names {
            match spool.read(&name) {
                Ok(read) => {
                    let Some((rest, rows)) = without(&read.batch, kept) else {
                        continue;
                    };
                    match rest {
                        Some(rest) => spool.put_instead(&name, &rest)?,
                        None => spool.remove(&name)?,
                    }
                    purged.rows += rows;
                }
                Err(ReadError::Gone) => {}
                Err(_) => purged.unreadable += 1,
            }
        }
    }
    rejected(spool, kept, &mut purged)?;
    Ok(purged)
}

/// The rest of a batch and how many rows are not in it; nothing if all of it is kept.
fn without(batch: &Batch, kept: &dyn Fn(&Batch) -> Vec<bool>) -> Option<(Option<Batch>, u64)> {
    let kept = kept(batch);
    if kept.iter().all(|kept| *kept) {
        return None;
    }
    let rest = batch.select(|i| kept[i]);
    let rows = batch.rows - rest.as_ref().map_or(0, |rest| rest.rows);
    Some((rest, rows as u64))
}

fn rejected(
    spool: &Spool,
    kept: &dyn Fn(&Batch) -> Vec<bool>,
    purged: &mut Purged,
) -> Result<(), Error> {
    let shelf = spool.shelf();
    let unlisted = || Error::io("list", spool.directory());
    for found in shelf.rejected().map_err(unlisted())? {
        let gone = |file: &str| shelf.remove_rejected(file).map_err(unlisted());
        match found.kind {
            Kind::Foreign => purged.unreadable += 1,
            Kind::Batch => match shelf.read_rejected(&found.file) {
                Ok(read) => {
                    let Some((rest, rows)) = without(&read.batch, kept) else {
                        continue;
                    };
                    if let Some(rest) = rest {
                        let name = match Name::parse(&found.file) {
                            Some(whole) => spool.put_beside(&whole, &rest)?,
                            None => spool.put(&rest, now_ms())?,
                        };
                        spool.reject(&name, "the rest of a rejected batch")?;
                    }
                    gone(&found.file)?;
                    purged.rows += rows;
                }
                Err(_) => purged.unreadable += 1,
            },
            Kind::Rows => {
                let mut text = String::new();
                let read = shelf.open_rejected(&found.file);
                let read = read.and_then(|mut file| file.read_to_string(&mut text));
                if read.is_err() {
                    purged.unreadable += 1;
                    continue;
                }
                let (mut lines, mut rows, mut unknown) = (Vec::new(), 0, 0);
                for line in text.lines() {
                    let batch = serde_json::from_str::<Value>(line).ok();
                    let batch = batch.and_then(|line| Batch::from_json(&line["batch"]));
                    let Some(batch) = batch else {
                        unknown = 1;
                        lines.push(line.to_owned());
                        continue;
                    };
                    // A line is one record.
                    match without(&batch, kept) {
                        Some((_, gone)) => rows += gone,
                        None => lines.push(line.to_owned()),
                    }
                }
                purged.unreadable += unknown;
                if rows > 0 {
                    if !lines.is_empty() {
                        spool.set_aside(&lines, now_ms(), true)?;
                    }
                    gone(&found.file)?;
                    purged.rows += rows;
                }
            }
        }
    }
    Ok(())
}
