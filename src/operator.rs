//! What an operator can do with the spool and with keys, beside a running service or without one.
//!
//! Purpose: see what waits for ClickHouse and what was rejected, and send the latter again; make and
//! revoke keys. Refuses to know: the service itself; it only works on the spool's directory and on the
//! key file.

mod keys;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use chrono::{DateTime, SecondsFormat};
use serde_json::Value;

use crate::config::SpoolCommand;
use crate::pipeline::Batch;
use crate::pipeline::spool::{Kind, Name, Rejected, Shelf};
use crate::repository::readable;

pub use keys::keys;

/// How many waiting batches are listed at a time.
const LISTED: usize = 1000;

/// Runs one command on the spool in `directory`; `say` prints a line.
///
/// # Errors
/// What could not be done, in words for an operator.
pub fn spool(directory: &Path, command: SpoolCommand, say: impl Fn(&str)) -> Result<()> {
    let shelf = Shelf::at(directory);
    match command {
        SpoolCommand::List => list(&shelf, &say),
        SpoolCommand::Show { name } => show(directory, &shelf, &name, &say),
        SpoolCommand::Replay {
            name: Some(name), ..
        } => put_back(&shelf, &name, &say),
        SpoolCommand::Replay { name: None, .. } => put_all_back(&shelf, &say),
        SpoolCommand::Drop { name } => {
            shelf.remove_rejected(&name).with_context(|| name.clone())?;
            say(&format!("dropped {name}"));
            Ok(())
        }
    }
}

fn list(shelf: &Shelf, say: &impl Fn(&str)) -> Result<()> {
    let mut after: Option<Name> = None;
    loop {
        let pending = shelf
            .pending(after.as_ref(), LISTED)
            .or_else(none_if_missing)
            .context("the spool can't be listed")?;
        let Some(last) = pending.last() else { break };
        after = Some(last.name);
        for batch in &pending {
            let content = match &batch.index {
                Ok(index) => format!(
                    "{} rows of {}, spooled {}",
                    index.rows,
                    index.stream.name(),
                    time(index.spooled_at_ms)
                ),
                Err(error) => format!("not readable: {error}"),
            };
            say(&format!(
                "waiting   {}  {} bytes, {content}",
                batch.name, batch.length
            ));
        }
    }
    for rejected in rejected(shelf)? {
        let content = match rejected.kind {
            Kind::Batch => match shelf.read_rejected(&rejected.file) {
                Ok(spooled) => format!("{} rows, readable", spooled.batch.rows),
                Err(error) => error.to_string(),
            },
            Kind::Rows => match json_lines(shelf, &rejected.file) {
                Ok(lines) => {
                    let first = lines.first().and_then(|l| l["reason"].as_str());
                    let reason = first.unwrap_or("no reason").escape_debug();
                    format!("{} refused records, the first: {reason}", lines.len())
                }
                Err(error) => format!("not readable: {error:#}"),
            },
            Kind::Foreign => "not a file of the spool".to_owned(),
        };
        say(&format!(
            "rejected  {}  {} bytes, {content}",
            rejected.file.escape_debug(),
            rejected.length
        ));
    }
    Ok(())
}

fn show(directory: &Path, shelf: &Shelf, name: &str, say: &impl Fn(&str)) -> Result<()> {
    if let Some(waiting) = Name::parse(name)
        && let Ok(bytes) = std::fs::read(directory.join(waiting.to_string()))
    {
        let spooled = crate::pipeline::spool::format::decode(&bytes).context(name.to_owned())?;
        return print(&spooled.batch, say);
    }
    match kind(shelf, name)? {
        Kind::Batch => print(
            &shelf.read_rejected(name).context(name.to_owned())?.batch,
            say,
        ),
        Kind::Rows => {
            let file = shelf.open_rejected(name).context(name.to_owned())?;
            for line in BufReader::new(file).lines() {
                say(&line.context(name.to_owned())?);
            }
            Ok(())
        }
        Kind::Foreign => bail!("{name} is not a file of the spool"),
    }
}

fn print(batch: &Batch, say: &impl Fn(&str)) -> Result<()> {
    for row in readable(batch) {
        say(&row.to_string());
    }
    Ok(())
}

fn put_all_back(shelf: &Shelf, say: &impl Fn(&str)) -> Result<()> {
    let mut left = 0;
    for rejected in rejected(shelf)? {
        if let Err(error) = put_back(shelf, &rejected.file, say) {
            say(&format!("left {}: {error:#}", rejected.file));
            left += 1;
        }
    }
    if left > 0 {
        bail!("{left} rejected files could not be put back");
    }
    Ok(())
}

/// The batch is put back before the rejected file goes: a crash in between leaves both, and a view
/// that is written twice counts once.
fn put_back(shelf: &Shelf, name: &str, say: &impl Fn(&str)) -> Result<()> {
    let batches = match kind(shelf, name)? {
        Kind::Batch => vec![shelf.read_rejected(name).context(name.to_owned())?.batch],
        Kind::Rows => {
            let lines = json_lines(shelf, name)?;
            let batch = |line: &Value| Batch::from_json(&line["batch"]);
            let batches: Option<Vec<Batch>> = lines.iter().map(batch).collect();
            batches.with_context(|| format!("{name} has a damaged line"))?
        }
        Kind::Foreign => bail!("{name} is not a file of the spool"),
    };
    for batch in &batches {
        shelf.restore(batch, now_ms()).context(name.to_owned())?;
    }
    shelf.remove_rejected(name).context(name.to_owned())?;
    say(&format!("put back {name}: {} batches", batches.len()));
    Ok(())
}

fn rejected(shelf: &Shelf) -> Result<Vec<Rejected>> {
    shelf
        .rejected()
        .or_else(none_if_missing)
        .context("the rejected files can't be listed")
}

/// A spool that was never opened is an empty one.
fn none_if_missing<T>(error: std::io::Error) -> std::io::Result<Vec<T>> {
    match error.kind() {
        std::io::ErrorKind::NotFound => Ok(Vec::new()),
        _ => Err(error),
    }
}

fn kind(shelf: &Shelf, name: &str) -> Result<Kind> {
    let found = rejected(shelf)?.into_iter().find(|r| r.file == name);
    Ok(found
        .with_context(|| format!("no file {name} in the spool"))?
        .kind)
}

fn json_lines(shelf: &Shelf, name: &str) -> Result<Vec<Value>> {
    let mut text = String::new();
    let read = shelf
        .open_rejected(name)
        .and_then(|mut file| file.read_to_string(&mut text));
    read.with_context(|| name.to_owned())?;
    let parsed = text.lines().map(serde_json::from_str);
    parsed
        .collect::<Result<_, _>>()
        .with_context(|| format!("{name} has a line that is not JSON"))
}

fn time(ms: u64) -> String {
    let at = i64::try_from(ms)
        .ok()
        .and_then(DateTime::from_timestamp_millis);
    at.unwrap_or_default()
        .to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
