//! One set of migration files, two renderings: a single server, and a cluster.
//!
//! A migration is plain SQL with placeholders:
//!
//! | placeholder | single server | cluster |
//! |---|---|---|
//! | `${table:NAME}` | `NAME` | `NAME_local` |
//! | `${on_cluster}` | nothing | ` ON CLUSTER 'C'` |
//! | `${engine:E(ARGS)}` | `E(ARGS)` | `ReplicatedE(path by shard, replica, ARGS)` |
//! | `${shared_engine:E(ARGS)}` | `E(ARGS)` | the same, one path for all shards |
//! | `${cluster}` | nothing | `'C'` |
//! | `${database}` | the name | the name |
//! | `${retention_days+1}`, `${retention_days+2}` | the days | the days |
//! | `${events_ttl:COLUMN+1}` | the events' TTL and a space, nothing where they are kept for ever | the same |
//!
//! Statements end with `;` at the end of a line. One that begins with the comment
//! `-- only: cluster` is left out on a single server.

/// What a rendering depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// The database, a plain identifier.
    pub database: String,
    /// The cluster's name, a plain identifier; `None` for a single server.
    pub cluster: Option<String>,
    /// How long views are kept, in days.
    pub retention_days: u32,
    /// How long events are kept, in days; `None` for ever.
    pub event_retention_days: Option<u32>,
    /// Whether ClickHouse fsyncs every insert.
    pub fsync: bool,
}

const CLUSTER_ONLY: &str = "-- only: cluster";

impl Schema {
    /// ` ON CLUSTER 'C'` with its leading space, or nothing.
    pub(super) fn on_cluster(&self) -> String {
        match &self.cluster {
            Some(cluster) => format!(" ON CLUSTER '{cluster}'"),
            None => String::new(),
        }
    }

    /// The name of the table that holds rows on each server.
    pub(super) fn local_table(&self, name: &str) -> String {
        match self.cluster {
            Some(_) => format!("{name}_local"),
            None => name.to_owned(),
        }
    }

    fn engine(&self, engine: &str, path: &str, replica: &str) -> String {
        let (family, arguments) = match engine.split_once('(') {
            Some((family, rest)) => (family, rest.trim_end_matches(')')),
            None => (engine, ""),
        };
        match self.cluster {
            None => engine.to_owned(),
            Some(_) => {
                let comma = if arguments.is_empty() { "" } else { ", " };
                format!("Replicated{family}('{path}', '{replica}'{comma}{arguments})")
            }
        }
    }

    fn placeholder(&self, name: &str) -> Result<String, String> {
        let (name, argument) = name.split_once(':').unwrap_or((name, ""));
        Ok(match name {
            "table" => self.local_table(argument),
            "on_cluster" => self.on_cluster(),
            "engine" => self.engine(
                argument,
                "/clickhouse/tables/{shard}/{database}/{table}",
                "{replica}",
            ),
            "shared_engine" => self.engine(
                argument,
                "/clickhouse/tables/all/{database}/{table}",
                "{shard}-{replica}",
            ),
            "cluster" => self
                .cluster
                .as_ref()
                .map_or(String::new(), |c| format!("'{c}'")),
            "database" => self.database.clone(),
            "retention_days+1" => (self.retention_days + 1).to_string(),
            "retention_days+2" => (self.retention_days + 2).to_string(),
            "events_ttl" => {
                let (column, beyond) = argument.split_once('+').ok_or("an incomplete TTL")?;
                let beyond: u32 = beyond.parse().map_err(|_| "a TTL without days")?;
                self.event_retention_days.map_or(String::new(), |days| {
                    format!("TTL {} ", ttl(column, days + beyond))
                })
            }
            unknown => return Err(format!("unknown placeholder ${{{unknown}}}")),
        })
    }
}

/// When a row goes: all of a day at one instant.
pub(super) fn ttl(column: &str, days: u32) -> String {
    format!("toStartOfDay({column}) + toIntervalDay({days})")
}

/// The statements of one migration file for `schema`.
///
/// # Errors
/// A text that names the unknown or unclosed placeholder.
pub fn render(file: &str, schema: &Schema) -> Result<Vec<String>, String> {
    let mut statements = Vec::new();
    for statement in file.split(";\n") {
        let statement = statement.trim().trim_end_matches(';');
        let (directives, sql): (Vec<&str>, Vec<&str>) = statement
            .lines()
            .partition(|line| line.trim_start().starts_with("--"));
        if sql.iter().all(|line| line.trim().is_empty())
            || (directives.contains(&CLUSTER_ONLY) && schema.cluster.is_none())
        {
            continue;
        }
        statements.push(fill(&sql.join("\n"), schema)?);
    }
    Ok(statements)
}

fn fill(sql: &str, schema: &Schema) -> Result<String, String> {
    let mut filled = String::with_capacity(sql.len());
    let mut rest = sql;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, after) = after.split_once('}').ok_or("unclosed placeholder")?;
        filled.push_str(before);
        filled.push_str(&schema.placeholder(name)?);
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}
