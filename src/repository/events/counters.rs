//! Events by interval, site and type.

use clickhouse::Row;
use serde::Deserialize;

use super::{EventReports, of_sites};
use crate::domain::{Counter, CountersPage, CountersQuery, CreatedAt, ReportWindow};
use crate::repository::measures::Report;
use crate::repository::pages::start_of;
use crate::repository::sealed::{Split, within};
use crate::repository::{Error, READ_DEADLINE, deadline};

#[derive(Row, Deserialize)]
struct CounterRow {
    start: u32,
    site: String,
    types: Vec<String>,
    counts: Vec<u64>,
}

impl EventReports {
    /// Events by interval, site and type. The window must not reach back beyond the retention.
    ///
    /// An answer in parts is read by keys, not by places: rows are ordered by (start, site), which never
    /// changes for a row, so none that is there all the time is repeated or left out, whatever is
    /// written between the parts. Each part is as current as its own reading.
    ///
    /// # Errors
    /// When ClickHouse can't answer.
    pub async fn counters(&self, query: &CountersQuery) -> Result<CountersPage, Error> {
        // What lies before the last row that was read need not be read again.
        let reached = query.after.map_or(query.window.from, |(start, _)| start);
        let window = ReportWindow {
            from: query.window.from.max(reached),
            until: query.window.until,
        };
        let rows = self.measured(Report::Counters, async |reports| {
            let read = |split| async move {
                let sql = counters(query, &split);
                let read = reports.clickhouse.reader()?.query(&sql);
                deadline(READ_DEADLINE, read.fetch_all::<CounterRow>()).await
            };
            reports.steadily(window, read).await
        });
        let rows = rows.await?;
        let counter = |row: CounterRow| {
            let site_id = row.site.parse();
            Ok(Counter {
                start: CreatedAt::from_unix(row.start),
                site_id: site_id.map_err(|_| Error::Unexpected(format!("site {}", row.site)))?,
                counts: row.types.into_iter().zip(row.counts).collect(),
            })
        };
        let rows: Result<_, Error> = rows.into_iter().map(counter).collect();
        Ok(query.page(rows?))
    }
}

fn counters(query: &CountersQuery, split: &Split) -> String {
    let sites = of_sites(&query.sites);
    let types: Vec<String> = query
        .types
        .iter()
        .map(|of| format!("'{}'", of.as_str()))
        .collect();
    let types = match types.is_empty() {
        true => String::new(),
        false => format!("type IN ({}) AND ", types.join(",")),
    };
    let start = |column| start_of(query.interval, query.window, column);
    let (hour, time) = (start("hour"), start("time"));
    let (hours, times) = (within("hour", &split.sealed), within("time", &split.claims));
    let behind = query.after.map_or(String::new(), |(start, site)| {
        format!(" HAVING (start, site) > ({}, '{site}')", start.unix())
    });
    format!(
        "SELECT start, toString(site_id) AS site, groupArray(type) AS types, groupArray(n) AS counts \
         FROM (SELECT start, site_id, toString(type) AS type, sum(n) AS n FROM (\
         SELECT {hour} AS start, site_id, type, sum(events) AS n FROM events_hourly FINAL \
         PREWHERE {sites}{types}{hours} WHERE events > 0 GROUP BY start, site_id, type \
         UNION ALL SELECT {time} AS start, site_id, type, count() AS n FROM events FINAL \
         PREWHERE {sites}{types}{times} GROUP BY start, site_id, type\
         ) GROUP BY start, site_id, type ORDER BY type) \
         GROUP BY start, site_id{behind} ORDER BY start, site LIMIT {}",
        query.limit + 1
    )
}
