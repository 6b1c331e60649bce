//! `traffic-api generate`: views and events that nobody made, for demonstrations and for load.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use tokio_util::sync::CancellationToken;

use crate::config::{Coding, Generate, GeneratedStream, Settings};
use crate::domain::Clock;
use crate::generate::{
    Compression, EventShape, LONGEST_VISIT, Load, Shape, Source, Style, Tally, Times, Traffic,
    Visits, write_lines,
};

const DAY: u32 = 86_400;
/// Live views are dated so many seconds back: the service's clock may be a little behind ours.
const LIVE_AGE: u32 = 2;

/// What is made where the command does not say how much.
const USERS: u32 = 10_000;
const PAGES: u32 = 500;
const SITES: u32 = 20;

/// Does what was asked; the closing line goes to `say`, or to standard error where the lines
/// themselves go to standard output.
///
/// # Errors
/// Something was lost or refused, or could not be written.
pub async fn generate(settings: &Settings, task: &Generate, say: impl Fn(&str)) -> Result<()> {
    let now = Clock::system().now();
    let (count, times) = times(task, now)?;
    let source = source(task, count, times)?;
    if let Some(url) = &task.to {
        let (Times::Daily(from, _) | Times::Even(from, _)) = times;
        if let Some((name, days)) = task.kept(settings)
            && i64::from(from) <= now.timestamp() - i64::from(days) * i64::from(DAY)
        {
            bail!("--days, --until: the first ones would be older than {name} ({days} days)");
        }
        return send(task, url.clone(), source, say).await;
    }
    let bar = bar(&source);
    let begun = Instant::now();
    let lines = write_lines(&source, &mut std::io::stdout().lock(), &bar)
        .context("standard output can't be written to")?;
    bar.finish_and_clear();
    if let Some(lines) = lines {
        let (seconds, rate) = pace(begun, lines);
        eprintln!("{lines} lines in {seconds} s, {rate}/s");
    }
    Ok(())
}

/// How many views or visits, and when they are or begin.
fn times(task: &Generate, now: DateTime<Utc>) -> Result<(u64, Times)> {
    // A visit goes on after it has begun, and all of it has happened when it is sent.
    let lasts = match task.stream {
        GeneratedStream::PageViews => 0,
        GeneratedStream::Events => LONGEST_VISIT,
    };
    let seconds = |at: DateTime<Utc>| u32::try_from(at.timestamp());
    if let (Some(duration), Some(rate)) = (task.duration, task.rate) {
        let from = seconds(now)? - LIVE_AGE - lasts;
        let count = u64::from(rate) * u64::from(duration);
        return Ok((count, Times::Even(from, from + duration)));
    }
    let until = task.until.unwrap_or(now);
    if until > now {
        bail!("--until is in the future");
    }
    let until = seconds(until).context("--until")?;
    let from = until.checked_sub(task.days * DAY);
    let from = from.context("--until is too early for --days")?;
    Ok((task.views, Times::Daily(from, until - lasts)))
}

fn source(task: &Generate, count: u64, times: Times) -> Result<Source> {
    let (seed, duplicates) = (task.seed, task.duplicates);
    Ok(match task.stream {
        GeneratedStream::PageViews => Source::Views(Traffic::new(Shape {
            seed,
            views: count,
            users: task.users.unwrap_or(USERS),
            pages: task.pages.unwrap_or(PAGES),
            duplicates,
            // Lines can say what was posted, not what was changed.
            updates: task.updates.unwrap_or(0.0),
            times,
        })?),
        GeneratedStream::Events => Source::Visits(Visits::new(EventShape {
            seed,
            sites: task.sites.unwrap_or(SITES),
            visits: count,
            duplicates,
            times,
        })),
    })
}

async fn send(task: &Generate, url: String, source: Source, say: impl Fn(&str)) -> Result<()> {
    let style = match task.single {
        true => Style::Singles,
        false => Style::Batches(u64::from(task.batch_size), task.compress.into()),
    };
    let connections = task.connections.unwrap_or(match style {
        Style::Singles => 16,
        Style::Batches(..) => 2,
    });
    let load = Load {
        url,
        api_key: task.api_key.clone(),
        style,
        connections: usize::from(connections),
        rate: task.rate.map(f64::from),
        patience: Duration::from_secs(u64::from(task.retry_secs)),
    };
    let (tally, stop, bar) = (
        Arc::new(Tally::default()),
        CancellationToken::new(),
        bar(&source),
    );
    let (count, noun) = (source.count(), source.noun());
    let begun = Instant::now();
    let run = load.run(source, Arc::clone(&tally), stop.clone(), bar.clone());
    tokio::pin!(run);
    let outcome = tokio::select! {
        outcome = &mut run => outcome,
        _ = tokio::signal::ctrl_c() => {
            stop.cancel();
            run.await
        }
    };
    bar.finish_and_clear();
    let (seconds, rate) = pace(begun, tally.accepted() + tally.updated());
    say(&format!(
        "{} of {count} {noun} in {seconds} s, {rate} rows/s: {} accepted with repeats, {} updated, \
         {} rejected, {} errors, {} retries",
        tally.done(),
        tally.accepted(),
        tally.updated(),
        tally.rejected(),
        tally.lost(),
        tally.retries(),
    ));
    if let Err(reason) = outcome {
        bail!(
            "given up, {} {noun} not sent: {reason}",
            count - tally.done()
        );
    }
    if tally.done() < count {
        bail!("interrupted, {} {noun} not sent", count - tally.done());
    }
    if tally.rejected() > 0 {
        bail!("{} rows were rejected", tally.rejected());
    }
    Ok(())
}

/// Draws nothing where standard error is no terminal.
fn bar(source: &Source) -> ProgressBar {
    let noun = source.noun();
    let template =
        format!("{noun} [{{wide_bar}}] {{human_pos}}/{{human_len}}, {{rate}}, {{eta}} left");
    let style = ProgressStyle::with_template(&template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("rate", |state: &ProgressState, line: &mut dyn Write| {
            let _ = write!(line, "{:.0}/s", state.per_sec());
        });
    ProgressBar::new(source.count()).with_style(style)
}

/// The seconds since `begun`, and how many rows that is in each.
fn pace(begun: Instant, rows: u64) -> (String, u64) {
    let elapsed = begun.elapsed();
    let micros = elapsed.as_micros().max(1);
    let rate = u64::try_from(u128::from(rows) * 1_000_000 / micros).unwrap_or(u64::MAX);
    (format!("{:.2}", elapsed.as_secs_f64()), rate)
}

impl From<Coding> for Compression {
    fn from(coding: Coding) -> Self {
        match coding {
            Coding::None => Compression::Identity,
            Coding::Gzip => Compression::Gzip,
            Coding::Zstd => Compression::Zstd,
        }
    }
}
