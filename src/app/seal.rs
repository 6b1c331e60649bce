//! `traffic-api seal`: counts hours again by hand.

use anyhow::Result;
use chrono::{DateTime, Utc};

use super::store::{clickhouse, event_seals, seals};
use super::{prepare, start_engine};
use crate::config::Settings;
use crate::domain::Hour;
use crate::repository::{ClickHouse, Seals};

/// Counts every closed hour that touches `from` to `to`, and says what was done.
///
/// # Errors
/// Why it could not be; the hours before are counted.
pub async fn seal(
    settings: &Settings,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    say: impl Fn(&str),
) -> Result<()> {
    let engine = start_engine(settings).await?;
    let clickhouse = clickhouse(settings, &engine)?;
    let outcome = match prepare(&clickhouse, settings).await {
        Ok(_) => both(settings, &clickhouse, from, to, say).await,
        Err(error) => Err(error),
    };
    // With the last client goes its pool: the engine would wait for open connections.
    drop(clickhouse);
    engine.stop().await;
    outcome
}

async fn both(
    settings: &Settings,
    clickhouse: &ClickHouse,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    say: impl Fn(&str),
) -> Result<()> {
    hours(&seals(settings, clickhouse), "", from, to, &say).await?;
    hours(
        &event_seals(settings, clickhouse),
        " of events",
        from,
        to,
        &say,
    )
    .await
}

async fn hours(
    seals: &Seals,
    of: &str,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    say: &impl Fn(&str),
) -> Result<()> {
    let survey = seals.survey().await?;
    let until = u32::try_from(to.timestamp()).unwrap_or(u32::MAX);
    let first = Hour::containing(u32::try_from(from.timestamp()).unwrap_or(0));
    let within = |hour: &&Hour| **hour >= first && hour.start() < until;
    let mut sealed = 0;
    for hour in survey.hours.keys().filter(within) {
        let as_of = seals.now().await?;
        seals.seal(*hour, as_of).await?;
        say(&format!("sealed {hour}{of}"));
        sealed += 1;
    }
    // Most databases have page views; not all have events.
    if sealed > 0 || of.is_empty() {
        say(&format!("{sealed} hours{of} sealed"));
    }
    if sealed > 0 && survey.now <= survey.trusted_since {
        say("the schema is too young: reports will use what is sealed a minute from now or later");
    }
    Ok(())
}
