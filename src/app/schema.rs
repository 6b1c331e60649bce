//! The schema as the service needs it: made so, or only looked at where it may not be changed.

use anyhow::{Context, Result};
use tracing::{info, warn};

use super::start_engine;
use super::store::{clickhouse, days_kept};
use crate::config::Settings;
use crate::repository::{self, ClickHouse, Outcome};

/// Brings the schema up to date, whatever `MIGRATE_ON_START` says, and says what was done.
///
/// # Errors
/// Why it could not be.
pub async fn migrate(settings: &Settings) -> Result<Outcome> {
    let engine = start_engine(settings).await?;
    let outcome = bring_up_to_date(&clickhouse(settings, &engine)?, settings).await;
    engine.stop().await;
    outcome
}

/// What every start begins with.
pub(super) async fn prepare(clickhouse: &ClickHouse, settings: &Settings) -> Result<()> {
    if settings.migrate_on_start {
        bring_up_to_date(clickhouse, settings).await?;
    } else {
        reach(clickhouse, settings).await?;
        let outcome = repository::verify(clickhouse)
            .await
            .context("schema not as needed")?;
        warn_of_unknown(&outcome);
    }
    let learned = clickhouse.prepare_erasures().await;
    learned.context("erasures can't be read")
}

async fn bring_up_to_date(clickhouse: &ClickHouse, settings: &Settings) -> Result<Outcome> {
    reach(clickhouse, settings).await?;
    let outcome = repository::migrate(clickhouse)
        .await
        .context("schema not up to date")?;
    for name in &outcome.applied {
        info!(name, "migration applied");
    }
    for table in &outcome.retention_changed {
        let days = days_kept(table, settings);
        info!(table, days, "retention changed");
    }
    for table in &outcome.fsync_changed {
        info!(table, fsync = settings.clickhouse_fsync, "fsync changed");
    }
    warn_of_unknown(&outcome);
    Ok(outcome)
}

async fn reach(clickhouse: &ClickHouse, settings: &Settings) -> Result<()> {
    let server = match &settings.clickhouse_url {
        Some(url) => format!("CLICKHOUSE_URL {url}"),
        None => "the embedded clickhouse".to_owned(),
    };
    let alive = clickhouse.ping().await;
    // At the start there is nothing of a client that the text could quote.
    alive.map_err(|error| anyhow::anyhow!(error.in_full()).context(server))
}

fn warn_of_unknown(outcome: &Outcome) {
    if !outcome.unknown.is_empty() {
        warn!(migrations = ?outcome.unknown, "the schema is newer than this binary");
    }
}
