//! What of a table is configuration and not history, and where it is not as configured: how long rows
//! are kept, and whether they are fsynced.

use clickhouse::Client;

use super::render::ttl;
use super::{DDL_DEADLINE, Error, Schema, deadline};

/// A table that forgets.
struct Retained {
    table: &'static str,
    /// The column that says of which day a row is.
    time: &'static str,
    /// How long a stream's rows are kept, in days; `None` for ever.
    days: fn(&Schema) -> Option<u32>,
    /// How long a day's rows are kept, in days beyond the configured retention; as in the migrations.
    beyond: u32,
    /// Whether a cluster keeps it whole on every server, under its plain name.
    shared: bool,
}

const fn retained(table: &'static str, time: &'static str, beyond: u32) -> Retained {
    Retained {
        table,
        time,
        days: |schema| Some(schema.retention_days),
        beyond,
        shared: false,
    }
}

const fn retained_event(table: &'static str, time: &'static str, beyond: u32) -> Retained {
    Retained {
        days: |schema| schema.event_retention_days,
        ..retained(table, time, beyond)
    }
}

const RETAINED: &[Retained] = &[
    retained("traffic", "created_at", 1),
    retained("traffic_by_request", "created_at", 2),
    retained("traffic_hourly", "hour", 1),
    retained("traffic_hourly_pages", "hour", 1),
    Retained {
        shared: true,
        ..retained("traffic_seals", "hour", 2)
    },
    Retained {
        shared: true,
        ..retained("traffic_erasures", "until", 2)
    },
    retained_event("events", "time", 1),
    retained_event("events_hourly", "hour", 1),
    Retained {
        shared: true,
        ..retained_event("events_seals", "hour", 2)
    },
];

/// A table's setting that is not as configured.
pub(super) struct Drift {
    pub(super) table: String,
    pub(super) setting: Setting,
    /// What puts it right.
    pub(super) alter: String,
}

/// What of a table is configuration, not history.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Setting {
    /// In days; `None` for ever.
    Retention(Option<u32>),
    Fsync,
}

/// What makes a row outlive a power loss, also when its part was merged into another
/// (<https://clickhouse.com/docs/operations/settings/merge-tree-settings#fsync_after_insert>).
const FSYNC: [&str; 3] = [
    "fsync_after_insert",
    "fsync_part_directory",
    "min_rows_to_fsync_after_merge",
];

/// What is not as configured.
pub(super) async fn drifts(schema: &Schema, client: &Client) -> Result<Vec<Drift>, Error> {
    let on_cluster = schema.on_cluster();
    let mut drifts = Vec::new();
    for retained in RETAINED {
        let table = match retained.shared {
            true => retained.table.to_owned(),
            false => schema.local_table(retained.table),
        };
        let query = client
            .query("SELECT create_table_query FROM system.tables WHERE database = ? AND name = ?")
            .bind(schema.database.as_str())
            .bind(table.as_str());
        let Some(ddl) = deadline(DDL_DEADLINE, query.fetch_optional::<String>()).await? else {
            continue;
        };
        let days = (retained.days)(schema);
        let change = match days {
            Some(days) => {
                let ttl = ttl(retained.time, days + retained.beyond);
                (!ddl.contains(&ttl)).then(|| format!("MODIFY TTL {ttl}"))
            }
            None => ddl.contains("TTL ").then(|| "REMOVE TTL".to_owned()),
        };
        if let Some(change) = change {
            drifts.push(Drift {
                alter: format!("ALTER TABLE {table}{on_cluster} {change}"),
                setting: Setting::Retention(days),
                table: table.clone(),
            });
        }
        let synced = |setting: &&&str| ddl.contains(&format!("{setting} = 1"));
        let expected = if schema.fsync { FSYNC.len() } else { 0 };
        if FSYNC.iter().filter(synced).count() != expected {
            let on = u8::from(schema.fsync);
            let settings = FSYNC.map(|setting| format!("{setting} = {on}")).join(", ");
            drifts.push(Drift {
                alter: format!("ALTER TABLE {table}{on_cluster} MODIFY SETTING {settings}"),
                setting: Setting::Fsync,
                table,
            });
        }
    }
    Ok(drifts)
}
