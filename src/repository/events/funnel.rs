//! From serve to solve.

use clickhouse::Row;
use serde::Deserialize;

use super::{EventReports, of_sites};
use crate::domain::{EventType, Funnel, FunnelQuery, FunnelReport};
use crate::repository::measures::{Report, Source};
use crate::repository::sealed::within;
use crate::repository::{Error, READ_DEADLINE, deadline};

#[derive(Row, Deserialize)]
struct FunnelRow {
    /// Empty for all sites together.
    of_site: String,
    served: u64,
    solved: u64,
    median: f64,
    p95: f64,
}

impl EventReports {
    /// The funnel, from the claims: times to solve can't be had from counts. The window must not reach
    /// back beyond the retention.
    ///
    /// # Errors
    /// When ClickHouse can't answer.
    pub async fn funnel(&self, query: &FunnelQuery) -> Result<FunnelReport, Error> {
        let rows = self.measured(Report::Funnel, async |reports| {
            let read = reports.clickhouse.reader()?.query(&funnel(query));
            let rows = deadline(READ_DEADLINE, read.fetch_all::<FunnelRow>()).await?;
            Ok((rows, Source::Claims))
        });
        let rows = rows.await?;
        let mut report = FunnelReport::default();
        for row in rows {
            let funnel = Funnel {
                served: row.served,
                solved: row.solved,
                time_to_solve: (row.solved > 0).then_some((row.median, row.p95)),
            };
            if row.of_site.is_empty() {
                report.total = funnel;
                continue;
            }
            let site = row.of_site.parse();
            let site = site.map_err(|_| Error::Unexpected(format!("site {}", row.of_site)))?;
            report.sites.push((site, funnel));
        }
        Ok(report)
    }
}

/// The earliest serve and the earliest solve of each correlation id: an event has one time, and the
/// earliest of two is the one that stays.
fn funnel(query: &FunnelQuery) -> String {
    let (from, until) = (query.window.from.unix(), query.window.until.unix());
    let sites = of_sites(&query.sites);
    let (serve, solve) = (EventType::SERVE, EventType::SOLVE);
    let (serve, solve) = (serve.as_str(), solve.as_str());
    let serves = within("time", std::slice::from_ref(&(from..until)));
    let solves = within(
        "time",
        std::slice::from_ref(&(from..query.solves_until().unix())),
    );
    // All together are the group of no site; where sites were named, each is one besides.
    let (site, groups) = match query.sites.is_empty() {
        true => ("''", ""),
        false => ("site", " GROUP BY ROLLUP(site) ORDER BY of_site"),
    };
    format!(
        "SELECT {site} AS of_site, count() AS served, countIf(went_on) AS solved, \
         quantileExactInclusiveIf(0.5)(took, went_on) AS median, \
         quantileExactInclusiveIf(0.95)(took, went_on) AS p95 FROM (\
         SELECT toString(site_id) AS site, toInt64(minIf(time, type = '{serve}')) AS served_at, \
         toInt64(minIf(time, type = '{solve}')) AS solved_at, solved_at - served_at AS took, \
         countIf(type = '{solve}') > 0 AND took >= 0 AND took <= {within} AS went_on \
         FROM events FINAL PREWHERE {sites}((type = '{serve}' AND {serves}) \
         OR (type = '{solve}' AND {solves})) \
         GROUP BY site_id, correlation_id HAVING countIf(type = '{serve}') > 0\
         ) AS visits{groups}",
        within = query.solve_within
    )
}
