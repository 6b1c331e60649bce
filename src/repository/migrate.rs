//! The schema's history: which migrations there are, which ran, and that none was edited since.
//!
//! Safe to run from any number of processes at once: every statement may be
//! repeated, and a migration is recorded only after all its statements have succeeded, so one that died half-way is
//! run again from its start.

use std::collections::BTreeMap;

use clickhouse::{Client, Row};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::drifts::{Setting, drifts};
use super::{ClickHouse, DDL_DEADLINE, Error, deadline, render};

/// One file of `migrations/`; a landed file is never edited.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// Its number, rising.
    pub version: u32,
    /// Its file name without the ending.
    pub name: &'static str,
    /// The file, with placeholders.
    pub template: &'static str,
}

/// All migrations, in order.
pub const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "0001_traffic",
        template: include_str!("../../migrations/0001_traffic.sql"),
    },
    Migration {
        version: 2,
        name: "0002_traffic_by_request",
        template: include_str!("../../migrations/0002_traffic_by_request.sql"),
    },
    Migration {
        version: 3,
        name: "0003_traffic_merges",
        template: include_str!("../../migrations/0003_traffic_merges.sql"),
    },
    Migration {
        version: 4,
        name: "0004_traffic_marks",
        template: include_str!("../../migrations/0004_traffic_marks.sql"),
    },
    Migration {
        version: 5,
        name: "0005_traffic_hourly",
        template: include_str!("../../migrations/0005_traffic_hourly.sql"),
    },
    Migration {
        version: 6,
        name: "0006_traffic_hourly_pages",
        template: include_str!("../../migrations/0006_traffic_hourly_pages.sql"),
    },
    Migration {
        version: 7,
        name: "0007_traffic_seals",
        template: include_str!("../../migrations/0007_traffic_seals.sql"),
    },
    Migration {
        version: 8,
        name: MARKS,
        template: include_str!("../../migrations/0008_traffic_late.sql"),
    },
    Migration {
        version: 9,
        name: "0009_traffic_pages_snapshots",
        template: include_str!("../../migrations/0009_traffic_pages_snapshots.sql"),
    },
    Migration {
        version: 10,
        name: EVENTS,
        template: include_str!("../../migrations/0010_events.sql"),
    },
    Migration {
        version: 11,
        name: "0011_traffic_erasures",
        template: include_str!("../../migrations/0011_traffic_erasures.sql"),
    },
    Migration {
        version: 12,
        name: "0012_part_removal",
        template: include_str!("../../migrations/0012_part_removal.sql"),
    },
];

/// The migration since which late rows are marked: what was sealed before it ran is not to be trusted.
pub(super) const MARKS: &str = "0008_traffic_late";
/// The same for events, whose rows are marked from the first on.
pub(super) const EVENTS: &str = "0010_events";

const LEDGER_TABLE: &str = "schema_migrations";
const LEDGER: &str = "\
CREATE TABLE IF NOT EXISTS schema_migrations${on_cluster}
(
    version UInt32,
    name String,
    checksum String,
    applied_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
)
ENGINE = ${shared_engine:ReplacingMergeTree(applied_at)}
ORDER BY version;
";

impl Migration {
    /// SHA-256 of the template, in hex; the same for every rendering.
    pub fn checksum(&self) -> String {
        let digest = Sha256::digest(self.template.as_bytes());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Why the schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// A migration that already ran here has another text now.
    #[error(
        "migration {name} was edited after it ran in database {database}: recorded checksum \
         {recorded}, this binary has {own}; restore the file and put the change into a new migration"
    )]
    Edited {
        /// Which one.
        name: &'static str,
        /// Where it ran.
        database: String,
        /// The checksum of what ran.
        recorded: String,
        /// The checksum of what this binary carries.
        own: String,
    },
    /// A statement failed.
    #[error("{step}: {}", source.in_full())]
    Statement {
        /// What was being done.
        step: String,
        /// Why it failed.
        source: Error,
    },
    /// The schema is not the one that this binary and these settings need, and is not to be changed.
    #[error("{what} in database {database}; run `traffic-api migrate` with the same settings")]
    Behind {
        /// What is missing or different.
        what: String,
        /// Where.
        database: String,
    },
    /// A file can't be rendered.
    #[error("migration {name}: {reason}")]
    Template {
        /// Which one.
        name: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// The migrations that ran now, in order.
    pub applied: Vec<&'static str>,
    /// Migrations that the database has and this binary does not know: a newer binary ran there.
    pub unknown: Vec<String>,
    /// The tables whose retention was changed to the configured one.
    pub retention_changed: Vec<String>,
    /// The tables whose fsync was switched to what is configured.
    pub fsync_changed: Vec<String>,
}

#[derive(Row, Serialize, Deserialize)]
pub(super) struct LedgerRow {
    version: u32,
    pub(super) name: String,
    pub(super) checksum: String,
}

/// Creates the database if it is missing, runs the migrations that have not run, and sets the
/// configured retention.
///
/// # Errors
/// [`MigrateError`]; what had run by then is recorded.
pub async fn migrate(clickhouse: &ClickHouse) -> Result<Outcome, MigrateError> {
    let schema = &clickhouse.schema;
    let topology = clickhouse.topology().await;
    topology.map_err(failed("looking at the cluster"))?;
    let client = clickhouse.database().map_err(failed("connecting"))?;
    let is_new = !has_ledger(clickhouse).await.map_err(failed("connecting"))?;
    // Not otherwise: statements for a whole cluster wait for servers that are away, and an instance
    // must be able to start meanwhile.
    if is_new {
        create_database(clickhouse).await?;
        for statement in rendered(LEDGER_TABLE, LEDGER, clickhouse)? {
            execute(&client, &statement)
                .await
                .map_err(failed("creating schema_migrations"))?;
        }
    }
    let mut recorded = read_ledger(&client)
        .await
        .map_err(failed("reading schema_migrations"))?;

    let mut outcome = Outcome::default();
    for migration in MIGRATIONS {
        let own = migration.checksum();
        match recorded.remove(&migration.version) {
            Some(row) if row.checksum == own => continue,
            Some(row) => {
                return Err(MigrateError::Edited {
                    name: migration.name,
                    database: schema.database.clone(),
                    recorded: row.checksum,
                    own,
                });
            }
            None => {}
        }
        for statement in rendered(migration.name, migration.template, clickhouse)? {
            execute(&client, &statement)
                .await
                .map_err(failed(migration.name))?;
        }
        record(clickhouse, migration, &own)
            .await
            .map_err(failed(migration.name))?;
        outcome.applied.push(migration.name);
    }
    outcome.unknown = recorded.into_values().map(|row| row.name).collect();
    configure(clickhouse, &client, &mut outcome)
        .await
        .map_err(failed("setting retention and fsync"))?;
    Ok(outcome)
}

async fn has_ledger(clickhouse: &ClickHouse) -> Result<bool, Error> {
    let server = clickhouse.server()?;
    let query = server
        .query("SELECT count() FROM system.tables WHERE database = ? AND name = ?")
        .bind(clickhouse.schema.database.as_str())
        .bind(LEDGER_TABLE);
    Ok(deadline(DDL_DEADLINE, query.fetch_one::<u64>()).await? > 0)
}

async fn create_database(clickhouse: &ClickHouse) -> Result<(), MigrateError> {
    let (database, on_cluster) = (&clickhouse.schema.database, clickhouse.schema.on_cluster());
    let server = clickhouse.server().map_err(failed("connecting"))?;
    // Asked first, because an account for running the service may not be allowed to create one.
    let query = server
        .query("SELECT count() FROM system.databases WHERE name = ?")
        .bind(database.as_str());
    let existing = deadline(DDL_DEADLINE, query.fetch_one::<u64>())
        .await
        .map_err(failed("connecting"))?;
    if existing == 0 || clickhouse.schema.cluster.is_some() {
        // The engine is named because an embedded server's default is another one.
        let sql = format!("CREATE DATABASE IF NOT EXISTS {database}{on_cluster} ENGINE = Atomic");
        execute(&server, &sql)
            .await
            .map_err(failed("creating the database"))?;
    }
    Ok(())
}

fn rendered(
    name: &'static str,
    template: &str,
    clickhouse: &ClickHouse,
) -> Result<Vec<String>, MigrateError> {
    render(template, &clickhouse.schema).map_err(|reason| MigrateError::Template { name, reason })
}

pub(super) fn failed(step: &'static str) -> impl Fn(Error) -> MigrateError {
    move |source| MigrateError::Statement {
        step: step.to_owned(),
        source,
    }
}

async fn execute(client: &Client, statement: &str) -> Result<(), Error> {
    deadline(DDL_DEADLINE, client.query_raw(statement).execute()).await
}

/// What has run, by version.
pub(super) async fn read_ledger(client: &Client) -> Result<BTreeMap<u32, LedgerRow>, Error> {
    let query = client
        .query("SELECT version, name, checksum FROM schema_migrations FINAL ORDER BY version");
    let rows = deadline(DDL_DEADLINE, query.fetch_all::<LedgerRow>()).await?;
    Ok(rows.into_iter().map(|row| (row.version, row)).collect())
}

async fn record(
    clickhouse: &ClickHouse,
    migration: &Migration,
    checksum: &str,
) -> Result<(), Error> {
    let client = clickhouse.writer_to_all().await?;
    let row = LedgerRow {
        version: migration.version,
        name: migration.name.to_owned(),
        checksum: checksum.to_owned(),
    };
    deadline(DDL_DEADLINE, async {
        let mut insert = client.insert::<LedgerRow>("schema_migrations").await?;
        insert.write(&row).await?;
        insert.end().await
    })
    .await
}

/// Sets retention and fsync to what is configured now.
async fn configure(
    clickhouse: &ClickHouse,
    client: &Client,
    outcome: &mut Outcome,
) -> Result<(), Error> {
    for drift in drifts(&clickhouse.schema, client).await? {
        execute(client, &drift.alter).await?;
        match drift.setting {
            Setting::Retention(_) => outcome.retention_changed.push(drift.table),
            Setting::Fsync => outcome.fsync_changed.push(drift.table),
        }
    }
    Ok(())
}
