//! What the tables hold about one user, and how it is taken away.

use std::collections::BTreeSet;

use clickhouse::{Client, Row};
use serde::Deserialize;

use super::erasures::Recorded;
use super::{ClickHouse, DDL_DEADLINE, Error, SEAL_DEADLINE, deadline};
use crate::domain::Hour;

/// How long one look for rows may take, in seconds.
const SURVEY_SECS: &str = "120";

/// The tables that hold rows about users, in the order in which they are cleared.
pub(super) const TABLES: [&str; 4] = [
    "traffic_hourly",
    "traffic_hourly_pages",
    "traffic_by_request",
    "traffic",
];
/// Answers about the site's pages that are kept for reading them in parts: they name no users, but may
/// name a page that only one has seen.
pub(super) const SNAPSHOTS: &str = "traffic_pages_snapshots";

/// Rows about one user, by place in [`TABLES`], and the hours that they are in.
#[derive(Default)]
pub(super) struct Found {
    pub(super) rows: [u64; TABLES.len()],
    pub(super) hours: BTreeSet<Hour>,
}

#[derive(Row, Deserialize)]
struct FoundRow {
    place: u8,
    start: u32,
    rows: u64,
}

impl ClickHouse {
    /// What is there that the erasures cover, of which there is at least one.
    pub(super) async fn survey(&self, erasures: &[Recorded]) -> Result<Found, Error> {
        let tables = TABLES.iter().enumerate().map(|(place, table)| {
            let hour = match table.starts_with("traffic_hourly") {
                true => "hour",
                false => "toStartOfHour(created_at)",
            };
            format!(
                "SELECT toUInt8({place}) AS place, toUnixTimestamp({hour}) AS start, count() AS rows \
                 FROM {table} WHERE {} GROUP BY start",
                covered(table, erasures)
            )
        });
        let sql = tables.collect::<Vec<_>>().join(" UNION ALL ");
        let query = self.long_reader()?.query(&sql);
        let mut found = Found::default();
        for row in deadline(SEAL_DEADLINE, query.fetch_all::<FoundRow>()).await? {
            found.rows[usize::from(row.place)] += row.rows;
            found.hours.insert(Hour::containing(row.start));
        }
        Ok(found)
    }

    /// Rewrites the parts that have such rows, and waits for it on all replicas.
    pub(super) async fn delete(&self, table: &str, condition: &str) -> Result<(), Error> {
        let on_cluster = self.schema.on_cluster();
        let sql = format!("ALTER TABLE {table}{on_cluster} DELETE WHERE {condition}");
        let client = self.database()?;
        let client = client.with_setting("mutations_sync", "2");
        deadline(DDL_DEADLINE, client.query(&sql).execute()).await
    }

    pub(super) fn long_reader(&self) -> Result<Client, Error> {
        let client = self.database()?;
        Ok(client.with_setting("max_execution_time", SURVEY_SECS))
    }
}

/// What is about the users up to their erasures, as a condition on a table. Counts of the hour of an
/// erasure itself may have been made after it, and then hold what came later.
pub(super) fn covered(table: &str, erasures: &[Recorded]) -> String {
    let list = |number: &dyn Fn(&Recorded) -> i64| {
        let numbers = erasures.iter().map(|erasure| number(erasure).to_string());
        numbers.collect::<Vec<_>>().join(",")
    };
    let users = list(&|erasure| erasure.user_id.get().into());
    let by_user = |number: &dyn Fn(&Recorded) -> i64| {
        format!(
            "transform(user_id, CAST([{users}], 'Array(UInt32)'), \
             CAST([{}], 'Array(Int64)'), toInt64(0))",
            list(number)
        )
    };
    let hours = || {
        let hour = by_user(&|erasure| Hour::containing(erasure.until.unix()).start().into());
        let at = by_user(&|erasure| erasure.at.millis());
        format!(
            "(toUnixTimestamp(hour) < {hour} OR (toUnixTimestamp(hour) = {hour} \
             AND toUnixTimestamp64Milli(sealed_at) <= {at}))"
        )
    };
    match table {
        "traffic_hourly" => format!("user_id IN ({users}) AND {}", hours()),
        "traffic_hourly_pages" => format!(
            "arrayExists(user_id -> {}, bitmapToArray(bitmapAnd(users, \
             bitmapBuild(CAST([{users}], 'Array(UInt32)')))))",
            hours()
        ),
        // A mark is of nobody.
        _ => format!(
            "user_id IN ({users}) AND toUnixTimestamp(created_at) <= {} AND page_url != ''",
            by_user(&|erasure| erasure.until.unix().into())
        ),
    }
}
