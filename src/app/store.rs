//! Which ClickHouse, and how it is read, by the settings.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tracing::warn;

use crate::config::{ReportPlan, Settings};
use crate::engine::Engine;
use crate::repository::{ClickHouse, Connection, Locate, Plan, Reports, Schema, Seals};
use crate::tls;

pub(super) fn user(settings: &Settings) -> String {
    let named = settings.clickhouse_user.clone();
    named.unwrap_or_else(|| "default".to_owned())
}

/// # Errors
/// What is wrong with the certificates that are to be believed.
pub(super) fn clickhouse(settings: &Settings, engine: &Engine) -> Result<ClickHouse> {
    let endpoint = engine.endpoint();
    let locate: Locate = Arc::new(move || {
        endpoint.borrow().as_ref().map(|endpoint| Connection {
            url: endpoint.url.clone(),
            user: endpoint.user.clone(),
            password: endpoint.password.clone(),
        })
    });
    let schema = Schema {
        database: settings.clickhouse_database.clone(),
        cluster: settings.clickhouse_cluster.clone(),
        retention_days: settings.retention_days,
        event_retention_days: event_retention_days(settings),
        fsync: settings.clickhouse_fsync,
    };
    if !settings.reaches_clickhouse_by_tls() {
        return Ok(ClickHouse::new(locate, schema));
    }
    let trust = tls::client(settings.clickhouse_ca_file.as_deref());
    Ok(ClickHouse::over_tls(
        locate,
        schema,
        trust.context("CLICKHOUSE_CA_FILE")?,
    ))
}

pub(super) fn reports(
    settings: &Settings,
    clickhouse: &ClickHouse,
    read_from: ClickHouse,
) -> Reports {
    Reports::new(clickhouse.clone(), plan(settings))
        .reading_from(read_from)
        .logging_from(Duration::from_millis(settings.slow_report_ms.into()))
}

/// Reports may come from a replica; single views never do, because an update must see all claims.
pub(super) fn reports_from(settings: &Settings, clickhouse: &ClickHouse) -> ClickHouse {
    let Some(url) = settings.clickhouse_read_url.clone() else {
        return clickhouse.clone();
    };
    if settings.clickhouse_cluster.is_none() {
        warn!(
            "CLICKHOUSE_READ_URL without CLICKHOUSE_CLUSTER: reports are complete only if that server \
             has every row as soon as CLICKHOUSE_URL confirms it"
        );
    }
    let connection = Connection {
        url,
        user: user(settings),
        password: settings.clickhouse_password.clone().unwrap_or_default(),
    };
    clickhouse.at(Arc::new(move || Some(connection.clone())))
}

/// Zero is for ever.
pub(super) fn event_retention_days(settings: &Settings) -> Option<u32> {
    Some(settings.events_retention_days).filter(|days| *days > 0)
}

pub(super) fn seals(settings: &Settings, clickhouse: &ClickHouse) -> Seals {
    let delay = Duration::from_secs(settings.seal_delay_secs.into());
    Seals::new(clickhouse.clone(), delay)
}

/// How many days a table keeps; `None` for ever.
pub fn days_kept(table: &str, settings: &Settings) -> Option<u32> {
    match table.starts_with("events") {
        true => event_retention_days(settings),
        false => Some(settings.retention_days),
    }
}

pub(super) fn event_seals(settings: &Settings, clickhouse: &ClickHouse) -> Seals {
    let delay = Duration::from_secs(settings.seal_delay_secs.into());
    Seals::of_events(clickhouse.clone(), delay)
}

/// A replica of another kind than a cluster's may get a seal before its counts.
pub(super) fn plan(settings: &Settings) -> Plan {
    match settings.report_plan {
        ReportPlan::View => Plan::View,
        ReportPlan::Claims => Plan::Claims,
        ReportPlan::Auto
            if settings.clickhouse_read_url.is_some() && settings.clickhouse_cluster.is_none() =>
        {
            Plan::Claims
        }
        ReportPlan::Auto => Plan::Auto,
    }
}

/// Each replicated insert costs Keeper several writes; about ten inserts a second are well within
/// what it takes.
pub(super) fn min_interval(settings: &Settings) -> Duration {
    let default = match settings.clickhouse_cluster {
        Some(_) => Duration::from_millis(100),
        None => Duration::ZERO,
    };
    let chosen = settings.ingest_min_interval_ms;
    chosen.map_or(default, |ms| Duration::from_millis(ms.into()))
}
