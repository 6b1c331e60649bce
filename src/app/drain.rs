//! `traffic-api drain`: waits until nothing waits on this disk any more.
//!
//! What is in the spool was acknowledged and is counted only once it is in ClickHouse, so an instance
//! that is taken away for good must not leave any of it behind. Beside a running service the command
//! only watches, since the service replays by itself; without one it replays.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::time::sleep;

use super::schema::prepare;
use super::store::clickhouse;
use super::{spool_dir, start_engine};
use crate::config::{Drain, Settings};
use crate::pipeline::spool::{Error, Shelf};
use crate::pipeline::{Delivery, Replay, Spool};
use crate::repository::ClickHouse;

/// How often it looks.
const LOOK: Duration = Duration::from_millis(200);
/// How often it tries to reach ClickHouse.
const RETRY: Duration = Duration::from_secs(1);
/// The views that wait are not looked up by anybody here.
const NO_INDEX: usize = 0;

/// Returns once the spool has been empty for as long as `task` says.
///
/// # Errors
/// What still waits at the end of the time given, or why it can't be sent.
pub async fn drain(settings: &Settings, task: &Drain, say: impl Fn(&str)) -> Result<()> {
    let directory = spool_dir(settings);
    let until = Instant::now() + Duration::from_secs(task.within.into());
    let calm = Duration::from_secs(task.empty_for.into());
    if !directory.exists() {
        sleep(calm).await;
        say("the spool is empty");
        return Ok(());
    }
    let owned = Spool::open(&directory, settings.spool_max_bytes, NO_INDEX);
    match owned {
        Ok((spool, _)) => replay(settings, Arc::new(spool), until, calm).await?,
        Err(Error::InUse(_)) => watch(&directory, until, calm).await?,
        Err(error) => return Err(error).context("the spool can't be opened"),
    }
    let rejected = Shelf::at(&directory).rejected().map_or(0, |r| r.len());
    say(&match rejected {
        0 => "the spool is empty".to_owned(),
        rejected => format!(
            "the spool is empty but for {rejected} rejected files: see `traffic-api spool list`"
        ),
    });
    Ok(())
}

/// Sends what waits: nobody else does.
async fn replay(
    settings: &Settings,
    spool: Arc<Spool>,
    until: Instant,
    calm: Duration,
) -> Result<()> {
    let directory = spool_dir(settings);
    if spool.state().files == 0 {
        return watch(&directory, until, calm).await;
    }
    let engine = start_engine(settings).await?;
    let clickhouse = clickhouse(settings, &engine)?;
    let outcome = match prepared(&clickhouse, settings, until).await {
        Ok(()) => {
            let delivery = Arc::new(Delivery::new(Arc::new(clickhouse.clone()), spool));
            tokio::select! {
                outcome = watch(&directory, until, calm) => outcome,
                () = Replay::new(delivery).run() => Ok(()),
            }
        }
        Err(error) => Err(error),
    };
    // With the last client goes its pool: the engine would wait for open connections.
    drop(clickhouse);
    engine.stop().await;
    outcome
}

/// Tries for as long as ClickHouse can't be asked: it may be away, which is why something waits.
async fn prepared(clickhouse: &ClickHouse, settings: &Settings, until: Instant) -> Result<()> {
    loop {
        let outcome = prepare(clickhouse, settings).await;
        let is_away = outcome.is_err() && clickhouse.ping().await.is_err();
        if !is_away || Instant::now() + RETRY >= until {
            return outcome;
        }
        sleep(RETRY).await;
    }
}

async fn watch(directory: &Path, until: Instant, calm: Duration) -> Result<()> {
    let shelf = Shelf::at(directory);
    let mut empty_since = None;
    loop {
        // One is enough to know; which is there is not of interest.
        let shelf = shelf.clone();
        let oldest = tokio::task::spawn_blocking(move || shelf.pending(None, 1)).await?;
        if oldest.context("the spool can't be listed")?.is_empty() {
            let since = *empty_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= calm {
                return Ok(());
            }
        } else {
            empty_since = None;
        }
        if Instant::now() >= until {
            let waiting = Shelf::at(directory).pending(None, usize::MAX);
            match waiting.map_or(0, |waiting| waiting.len()) {
                0 => bail!("the spool has not been empty for long enough"),
                waiting => bail!("{waiting} batches still wait in {}", directory.display()),
            }
        }
        sleep(LOOK).await;
    }
}
