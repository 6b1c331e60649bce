//! `traffic-api reconcile`: do accepted, stored and counted agree, and what to do if not.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;

use super::store::clickhouse;
use super::{prepare, spool_dir, start_engine};
use crate::config::{Reconcile, ReportFormat, Settings};
use crate::domain::{Clock, VersionSource};
use crate::repository::{ClickHouse, Comparison, Mended, Reconciler, Spooled, spooled};

/// What one run has to tell.
#[derive(Serialize)]
struct Report {
    spooled: Spooled,
    #[serde(flatten)]
    first: serde_json::Value,
    mended: Option<Mended>,
    after: Option<serde_json::Value>,
    /// Nothing differs, or not any more.
    agree: bool,
}

/// Compares, mends if `task` says so, and says what was found; whether nothing differs any more.
///
/// # Errors
/// Why it could not be compared. What waits in this node's spool is told even then.
pub async fn reconcile(settings: &Settings, task: &Reconcile, say: impl Fn(&str)) -> Result<bool> {
    let window = window(task);
    let directory = spool_dir(settings);
    let days = window.clone();
    let waiting = tokio::task::spawn_blocking(move || spooled(&directory, &days))
        .await?
        .context("the spool can't be read")?;
    let text = task.format == ReportFormat::Text;
    if text {
        say_spooled(&waiting, &say);
    }
    let compared = match start_engine(settings).await {
        Ok(engine) => {
            let clickhouse = clickhouse(settings, &engine)?;
            let outcome = match prepare(&clickhouse, settings).await {
                Ok(_) => run(&clickhouse, settings, task, window).await,
                Err(error) => Err(error),
            };
            // With the last client goes its pool: the engine would wait for open connections.
            drop(clickhouse);
            engine.stop().await;
            outcome
        }
        Err(error) => Err(error),
    };
    let (first, repaired) = match compared {
        Ok(compared) => compared,
        Err(error) => {
            if !text {
                let document = json!({"spooled": waiting, "error": format!("{error:#}")});
                say(&document.to_string());
            }
            return Err(error);
        }
    };
    let last = repaired.as_ref().map_or(&first, |(_, after)| after);
    let agree = last.findings.total() == 0;
    if text {
        say_comparison(&first, &say);
        if let Some((mended, after)) = &repaired {
            say(&format!(
                "\nmended: {} claims written where they were missing, {} request ids settled, {} \
                 hours counted anew; after that:\n",
                mended.claims, mended.settled, mended.hours
            ));
            say_comparison(after, &say);
        }
    } else {
        let (mended, after) = repaired
            .map(|(mended, after)| (mended, document(&after)))
            .unzip();
        let report = Report {
            spooled: waiting,
            first: document(&first),
            mended,
            after,
            agree,
        };
        say(&serde_json::to_string(&report)?);
    }
    Ok(agree)
}

async fn run(
    clickhouse: &ClickHouse,
    settings: &Settings,
    task: &Reconcile,
    window: Range<u32>,
) -> Result<(Comparison, Option<(Mended, Comparison)>)> {
    let reconciler = Reconciler::new(
        clickhouse.clone(),
        Clock::system(),
        Duration::from_secs(task.patience.into()),
        task.limit as usize,
    );
    if task.repair {
        let versions = VersionSource::new(another_node(settings.node_id));
        return Ok(reconciler.repair(window, &versions).await?);
    }
    Ok((reconciler.compare(window).await?, None))
}

/// An instance with the same settings may be running, and versions must not be given twice.
fn another_node(taken: Option<u16>) -> u16 {
    loop {
        let node = rand::random_range(0..=VersionSource::MAX_NODE);
        if Some(node) != taken {
            return node;
        }
    }
}

fn window(task: &Reconcile) -> Range<u32> {
    let second = |at: DateTime<Utc>| u32::try_from(at.timestamp().max(0)).unwrap_or(u32::MAX);
    let from = task.from.map_or(0, second);
    // Clients' clocks may run ahead.
    from..task.to.map_or(u32::MAX, second)
}

fn say_spooled(spooled: &Spooled, say: &impl Fn(&str)) {
    if spooled.files == 0 {
        return;
    }
    say(&format!(
        "spooled here, not stored yet: {} views in {} files",
        spooled.views, spooled.files
    ));
    for (day, views) in &spooled.days {
        say(&format!("  {day}  {views}"));
    }
    if spooled.unreadable > 0 {
        say(&format!("  {} files can't be read", spooled.unreadable));
    }
}

fn say_comparison(comparison: &Comparison, say: &impl Fn(&str)) {
    let findings = &comparison.findings;
    say(&format!(
        "{:<10} {:>12} {:>12} {:>12} {:>12} {:>12}",
        "day", "accepted", "stored", "request ids", "by user", "by site"
    ));
    for day in &comparison.days {
        let verdict = match (day.agree(), day.moving) {
            (true, _) => "",
            (false, true) => "  moving",
            (false, false) => "  DIFFERS",
        };
        say(&format!(
            "{} {:>12} {:>12} {:>12} {:>12} {:>12}{verdict}",
            day.date(),
            day.accepted,
            day.stored,
            day.stored_ids,
            day.users,
            day.site
        ));
    }
    for finding in &findings.named {
        say(&finding.to_string());
    }
    let unnamed = findings.total() - findings.named.len() as u64;
    if unnamed > 0 {
        say(&format!("and {unnamed} more; --limit names more of them"));
    }
    let counts: Vec<String> = findings
        .counts
        .iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    say(&match counts.is_empty() {
        true => "no differences".to_owned(),
        false => format!("differences: {}", counts.join(", ")),
    });
    if findings.passing > 0 {
        say(&format!(
            "{} differences were gone or had changed at a later look: views on their way",
            findings.passing
        ));
    }
}

fn document(comparison: &Comparison) -> serde_json::Value {
    let findings = &comparison.findings;
    json!({
        "days": comparison.days,
        "findings": findings.named,
        "counts": findings.counts,
        "passing": findings.passing,
    })
}
