//! Is the schema the one that this binary needs? Asked by a service that may not change it.
//!
//! Purpose: let the service run as a ClickHouse user without the right to create or alter anything.
//! Retention and fsync are looked at too: with a table that forgets earlier than the settings say,
//! views would be acknowledged and then expire.

use super::drifts::{Setting, drifts};
use super::migrate::{failed, read_ledger};
use super::{ClickHouse, DDL_DEADLINE, MIGRATIONS, MigrateError, Outcome, deadline};

/// Compares the schema with what [`migrate`](super::migrate()) would leave, and changes nothing; the
/// outcome tells only which migrations are unknown.
///
/// # Errors
/// [`MigrateError::Behind`] or [`MigrateError::Edited`] for what differs, or why it can't be told.
pub async fn verify(clickhouse: &ClickHouse) -> Result<Outcome, MigrateError> {
    let schema = &clickhouse.schema;
    let behind = |what: String| MigrateError::Behind {
        what,
        database: schema.database.clone(),
    };
    let server = clickhouse.server().map_err(failed("connecting"))?;
    let query = server
        .query("SELECT count() FROM system.tables WHERE database = ? AND name = ?")
        .bind(schema.database.as_str())
        .bind("schema_migrations");
    let visible = deadline(DDL_DEADLINE, query.fetch_one::<u64>())
        .await
        .map_err(failed("looking for the schema"))?;
    if visible == 0 {
        return Err(behind("there is no schema".to_owned()));
    }
    let client = clickhouse.database().map_err(failed("connecting"))?;
    let mut recorded = read_ledger(&client)
        .await
        .map_err(failed("reading schema_migrations"))?;
    for migration in MIGRATIONS {
        let own = migration.checksum();
        match recorded.remove(&migration.version) {
            Some(row) if row.checksum == own => {}
            Some(row) => {
                return Err(MigrateError::Edited {
                    name: migration.name,
                    database: schema.database.clone(),
                    recorded: row.checksum,
                    own,
                });
            }
            None => return Err(behind(format!("migration {} is missing", migration.name))),
        }
    }
    let drifts = drifts(schema, &client)
        .await
        .map_err(failed("looking at retention and fsync"))?;
    if let Some(drift) = drifts.first() {
        let table = &drift.table;
        return Err(behind(match drift.setting {
            Setting::Retention(Some(days)) => format!("{table} does not keep {days} days"),
            Setting::Retention(None) => format!("{table} does not keep its rows for ever"),
            Setting::Fsync => format!("{table} does not have fsync: {}", schema.fsync),
        }));
    }
    Ok(Outcome {
        unknown: recorded.into_values().map(|row| row.name).collect(),
        ..Outcome::default()
    })
}
