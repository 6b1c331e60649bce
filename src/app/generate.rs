//! `traffic-api generate`: views that nobody made, for demonstrations and for load.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use tokio_util::sync::CancellationToken;

use crate::config::{Coding, Generate, Settings};
use crate::domain::Clock;
use crate::generate::{Compression, Load, Shape, Style, Tally, Times, Traffic, write_lines};

const DAY: u32 = 86_400;
/// Live views are dated so many seconds back: the service's clock may be a little behind ours.
const LIVE_AGE: u32 = 2;

/// Does what was asked; the closing line goes to `say`, or to standard error where the views
/// themselves go to standard output.
///
/// # Errors
/// Views were lost or refused, or could not be written.
pub async fn generate(settings: &Settings, task: &Generate, say: impl Fn(&str)) -> Result<()> {
    let now = Clock::system().now();
    let traffic = Traffic::new(shape(task, now)?)?;
    if let Some(url) = &task.to {
        let (Times::Daily(from, _) | Times::Even(from, _)) = shape(task, now)?.times;
        let oldest = now.timestamp() - i64::from(settings.retention_days) * i64::from(DAY);
        if i64::from(from) <= oldest {
            bail!(
                "--days, --until: the first views would be older than RETENTION_DAYS ({} days)",
                settings.retention_days
            );
        }
        return send(task, url.clone(), traffic, say).await;
    }
    let bar = bar(&traffic);
    let begun = Instant::now();
    let lines = write_lines(&traffic, &mut std::io::stdout().lock(), &bar)
        .context("standard output can't be written to")?;
    bar.finish_and_clear();
    if let Some(lines) = lines {
        let (seconds, rate) = pace(begun, lines);
        eprintln!("{lines} lines in {seconds} s, {rate}/s");
    }
    Ok(())
}

fn shape(task: &Generate, now: DateTime<Utc>) -> Result<Shape> {
    let seconds = |at: DateTime<Utc>| u32::try_from(at.timestamp());
    let (views, times) = match (task.duration, task.rate) {
        (Some(duration), Some(rate)) => {
            let from = seconds(now)? - LIVE_AGE;
            (
                u64::from(rate) * u64::from(duration),
                Times::Even(from, from + duration),
            )
        }
        _ => {
            let until = task.until.unwrap_or(now);
            if until > now {
                bail!("--until is in the future");
            }
            let until = seconds(until).context("--until")?;
            let from = until.checked_sub(task.days * DAY);
            let from = from.context("--until is too early for --days")?;
            (task.views, Times::Daily(from, until))
        }
    };
    Ok(Shape {
        seed: task.seed,
        views,
        users: task.users,
        pages: task.pages,
        duplicates: task.duplicates,
        // Lines can say what was posted, not what was changed.
        updates: match task.to {
            Some(_) => task.updates,
            None => 0.0,
        },
        times,
    })
}

async fn send(task: &Generate, url: String, traffic: Traffic, say: impl Fn(&str)) -> Result<()> {
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
        bar(&traffic),
    );
    let views = traffic.views();
    let begun = Instant::now();
    let run = load.run(traffic, Arc::clone(&tally), stop.clone(), bar.clone());
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
        "{} of {views} views in {seconds} s, {rate} rows/s: {} accepted with repeats, {} updated, \
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
            "given up, {} views not sent: {reason}",
            views - tally.done()
        );
    }
    if tally.done() < views {
        bail!("interrupted, {} views not sent", views - tally.done());
    }
    if tally.rejected() > 0 {
        bail!("{} rows were rejected", tally.rejected());
    }
    Ok(())
}

/// Draws nothing where standard error is no terminal.
fn bar(traffic: &Traffic) -> ProgressBar {
    let template = "views [{wide_bar}] {human_pos}/{human_len}, {rate}, {eta} left";
    let style = ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("rate", |state: &ProgressState, line: &mut dyn Write| {
            let _ = write!(line, "{:.0}/s", state.per_sec());
        });
    ProgressBar::new(traffic.views()).with_style(style)
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
