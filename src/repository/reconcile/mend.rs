//! Mending: what an update or the sealer would have written, written once more.
//!
//! - A claim that one table lacks, or has an older word on, gets the newer word there: the union of
//!   both tables is the truth, and a row that is written twice is one.
//! - An id with several live claims is updated to the one that a settlement would choose, by the same
//!   steps as any update: a version above all, tombstones for the others in the same insert, and a
//!   second look.
//! - An hour with a wrong count is counted anew, as of now. Where a count or a seal is younger than
//!   the server's clock, it would win over the new one, and outweigh marks that it does not cover;
//!   so it is deleted first.

use std::ops::Range;

use serde::Serialize;
use tracing::info;

use super::{Comparison, Finding, LastWord, Reconciler};
use crate::domain::{
    Claim, ClaimSet, CreatedAt, Hour, PageUrl, PageView, RequestId, UserId, Version, VersionSource,
    highest_version, live, settle, supersede,
};
use crate::pipeline::Batch;
use crate::repository::{DDL_DEADLINE, Error, LEAST_SEAL_DELAY, Seals, deadline};

/// How often an id is settled before it is left to whoever updates it at the same time.
const ATTEMPTS: usize = 3;

/// What a repair did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Mended {
    /// Claims written to the table that lacked them.
    pub claims: u64,
    /// Request ids of which one live claim is left.
    pub settled: u64,
    /// Hours counted anew.
    pub hours: u64,
}

impl Reconciler {
    /// Compares, mends what differs, and compares once more: what was found, and if that was
    /// anything, what was done about it and how things stand then. `versions` must be of a node number
    /// that no running instance has.
    ///
    /// # Errors
    /// When ClickHouse can't answer; what was mended before stays so.
    pub async fn repair(
        &self,
        window: Range<u32>,
        versions: &VersionSource,
    ) -> Result<(Comparison, Option<(Mended, Comparison)>), Error> {
        let (views, events) = (self.retained(&window), self.retained_events(&window));
        let days = self.totals(&views).await?;
        let mut mended = Mended::default();
        let (findings, faults) = self.walk(&views, &events, Some(&mut mended)).await?;
        let before = Comparison::new(days, findings);
        if before.findings.total() == 0 {
            return Ok((before, None));
        }
        for id in faults.ids {
            if self.settle(RequestId::new(id), versions).await? {
                mended.settled += 1;
            }
        }
        let of_views = ["traffic_hourly", "traffic_hourly_pages"];
        for hour in faults.hours {
            self.recount(
                Hour::containing(hour),
                &of_views,
                "traffic_seals",
                self.seals(),
            )
            .await?;
            mended.hours += 1;
        }
        for hour in faults.event_hours {
            let seals = Seals::of_events(self.clickhouse.clone(), LEAST_SEAL_DELAY);
            self.recount(
                Hour::containing(hour),
                &["events_hourly"],
                "events_seals",
                seals,
            )
            .await?;
            mended.hours += 1;
        }
        let after = self.compare(window).await?;
        Ok((before, Some((mended, after))))
    }

    /// Writes to each table the words on these claims that it lacks; how many.
    pub(super) async fn unite(&self, findings: &[Finding]) -> Result<u64, Error> {
        let (mut to_traffic, mut to_requests) = (Vec::new(), Vec::new());
        for finding in findings {
            if let Finding::ClaimDiffers {
                request_id,
                user_id,
                created_at,
                page_url,
                traffic,
                traffic_by_request,
            } = finding
            {
                let rank = |word: &LastWord| (word.version, word.is_deleted);
                let newest = traffic.iter().chain(traffic_by_request);
                let Some(word) = newest.max_by_key(|word| rank(word)) else {
                    continue;
                };
                let claim = Claim {
                    view: PageView {
                        request_id: RequestId::new(*request_id),
                        user_id: UserId::new(*user_id),
                        created_at: CreatedAt::from_unix(*created_at),
                        page_url: PageUrl::trusted(page_url.as_str()),
                    },
                    version: Version::new(word.version),
                    is_deleted: word.is_deleted,
                };
                // What goes to `traffic` is copied to the other table by its view.
                match traffic.as_ref() == Some(word) {
                    true => to_requests.push(claim),
                    false => to_traffic.push(claim),
                }
            }
        }
        let written = (to_traffic.len() + to_requests.len()) as u64;
        for (table, claims) in [("traffic", to_traffic), ("traffic_by_request", to_requests)] {
            if !claims.is_empty() {
                let batch = Batch::encode([&ClaimSet::Many(claims)]);
                self.clickhouse.insert_into(table, &batch).await?;
            }
        }
        Ok(written)
    }

    /// Leaves one live claim, or none where a delete outranks them; whether there was anything to do.
    async fn settle(&self, id: RequestId, versions: &VersionSource) -> Result<bool, Error> {
        let mut changed = false;
        for _ in 0..ATTEMPTS {
            let claims = self.clickhouse.claims(id, self.clock.now()).await?;
            let rivals = live(&claims);
            let settled = settle(&claims);
            let rows = match settled.winner {
                Some(winner) if rivals.len() > 1 => {
                    let version = versions.above(highest_version(&claims), self.clock.now());
                    supersede(&rivals, winner.view, version)
                }
                _ => settled.tombstones,
            };
            if rows.is_empty() {
                break;
            }
            for rows in self.clickhouse.inserts(rows) {
                let batch = Batch::encode([&ClaimSet::Many(rows)]);
                self.clickhouse.insert(&batch).await?;
            }
            changed = true;
        }
        Ok(changed)
    }

    /// Counts an hour anew into `counts`.
    async fn recount(
        &self,
        hour: Hour,
        counts: &[&str],
        sealed: &str,
        seals: Seals,
    ) -> Result<(), Error> {
        let as_of = seals.now().await?;
        let (start, at) = (hour.start(), as_of.millis());
        let schema = &self.clickhouse.schema;
        let future = format!(
            "hour = toDateTime({start}, 'UTC') AND toUnixTimestamp64Milli(sealed_at) >= {at}"
        );
        let counts = counts.iter().map(|name| (*name, schema.local_table(name)));
        for (name, table) in counts.chain([(sealed, sealed.to_owned())]) {
            let mut younger = 0;
            let sql = format!("SELECT count() FROM {name} WHERE {future}");
            self.each(&sql, |count: u64| younger = count).await?;
            if younger > 0 {
                let on_cluster = schema.on_cluster();
                info!(name, %hour, younger, "deleting counts from the future");
                let sql = format!("ALTER TABLE {table}{on_cluster} DELETE WHERE {future}");
                let client = self
                    .clickhouse
                    .database()?
                    .with_setting("mutations_sync", "2");
                deadline(DDL_DEADLINE, client.query(&sql).execute()).await?;
            }
        }
        seals.seal(hour, seals.now().await?).await
    }
}
