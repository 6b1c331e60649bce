//! The two tables of claims, compared; and the request ids with more than one live claim.
//!
//! First every hour's claims are reduced to one number in each table, in one pass over either. Only
//! hours whose numbers differ are read claim by claim. A merge keeps, of a claim's rows, the one with
//! the highest version, so the tables are compared by that row, whatever has been merged.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use clickhouse::Row;
use serde::Deserialize;

use super::chunks::{Chunk, Rows};
use super::{Finding, LastWord, LiveClaim, Reconciler, list};
use crate::repository::Error;
use crate::repository::erasures::NOT_ERASED;
use crate::repository::sealed::within;

/// Request ids in one statement.
pub(super) const IDS: usize = 1000;
/// At most so many ids with several claims are looked at in one run: 8 MB.
const MOST_RIVALS: usize = 1_000_000;

#[derive(Row, Deserialize)]
struct Fingerprint {
    hour: u32,
    live: u64,
    hash: u64,
}

#[derive(Row, Deserialize)]
struct Difference {
    request_id: u64,
    user_id: u32,
    created_at_unix: u32,
    page_url: String,
    in_traffic: u8,
    traffic_version: u64,
    traffic_deleted: u8,
    in_requests: u8,
    requests_version: u64,
    requests_deleted: u8,
}

#[derive(Row, Deserialize)]
struct ClaimRow {
    request_id: u64,
    user_id: u32,
    created_at_unix: u32,
    page_url: String,
    top: u64,
    deleted: u8,
}

/// (request id, user, second, page).
pub(super) type Tuple = (u64, u32, u32, String);

fn word(known: u8, version: u64, deleted: u8) -> Option<LastWord> {
    (known != 0).then_some(LastWord {
        version,
        is_deleted: deleted != 0,
    })
}

impl From<Difference> for Finding {
    fn from(row: Difference) -> Self {
        Finding::ClaimDiffers {
            request_id: row.request_id,
            user_id: row.user_id,
            created_at: row.created_at_unix,
            page_url: row.page_url,
            traffic: word(row.in_traffic, row.traffic_version, row.traffic_deleted),
            traffic_by_request: word(row.in_requests, row.requests_version, row.requests_deleted),
        }
    }
}

impl Reconciler {
    /// How many live claims each hour has, and which hours differ between the tables.
    pub(super) async fn survey_claims(
        &self,
        window: &Range<u32>,
    ) -> Result<(Rows, BTreeSet<u32>), Error> {
        let mut hours = BTreeMap::<u32, [(u64, u64); 2]>::new();
        for (i, table) in ["traffic", "traffic_by_request"].into_iter().enumerate() {
            let times = within("created_at", std::slice::from_ref(window));
            let sql = format!(
                "SELECT toUnixTimestamp(hour) AS hour, sum(n) AS live, sum(h) AS hash FROM (\
                 SELECT toStartOfHour(created_at) AS hour, count() AS n, \
                 sum(cityHash64(request_id, user_id, created_at, page_url, version)) AS h \
                 FROM {table} FINAL PREWHERE {times} AND {NOT_ERASED} GROUP BY hour \
                 UNION ALL SELECT hour, toUInt64(0) AS n, sum(hash) AS h FROM (\
                 SELECT toStartOfHour(created_at) AS hour, \
                 cityHash64(request_id, user_id, created_at, page_url, max(version), 'deleted') AS hash \
                 FROM {table} PREWHERE {times} AND {NOT_ERASED} WHERE is_deleted = 1 \
                 GROUP BY request_id, user_id, created_at, page_url) GROUP BY hour\
                 ) GROUP BY hour"
            );
            self.each(&sql, |row: Fingerprint| {
                hours.entry(row.hour).or_default()[i] = (row.live, row.hash);
            })
            .await?;
        }
        let differ = hours.iter().filter(|(_, [a, b])| a != b);
        let differ = differ.map(|(hour, _)| *hour).collect();
        let rows = hours
            .into_iter()
            .map(|(hour, [a, b])| (hour, a.0.max(b.0)))
            .collect();
        Ok((rows, differ))
    }

    /// The claims in `chunk` on which the tables differ; of these ids alone, if any are given.
    pub(super) async fn differing_claims(
        &self,
        chunk: &Chunk,
        only: Option<(&[u64], &[u32])>,
    ) -> Result<Vec<Finding>, Error> {
        let times = within("created_at", &chunk.ranges);
        let slice = chunk.slice("request_id");
        let (ids, users) = match only {
            Some((ids, users)) => (
                format!(" AND request_id IN ({})", list(ids)),
                format!(" AND user_id IN ({})", list(users)),
            ),
            None => (String::new(), String::new()),
        };
        let columns = "request_id, user_id, created_at, page_url, version, is_deleted";
        let sql = format!(
            "SELECT request_id, user_id, toUnixTimestamp(created_at) AS created_at_unix, page_url, \
             toUInt8(countIf(source = 0) > 0) AS in_traffic, \
             tupleElement(maxIf((version, is_deleted), source = 0) AS a, 1) AS traffic_version, \
             tupleElement(a, 2) AS traffic_deleted, \
             toUInt8(countIf(source = 1) > 0) AS in_requests, \
             tupleElement(maxIf((version, is_deleted), source = 1) AS b, 1) AS requests_version, \
             tupleElement(b, 2) AS requests_deleted FROM (\
             SELECT 0 AS source, {columns} FROM traffic PREWHERE {times} AND {NOT_ERASED}{users} \
             WHERE {slice}{ids} \
             UNION ALL SELECT 1 AS source, {columns} FROM traffic_by_request PREWHERE {times} AND {NOT_ERASED}{ids} \
             WHERE {slice}\
             ) GROUP BY request_id, user_id, created_at, page_url \
             HAVING in_traffic != in_requests OR a != b"
        );
        let mut found = Vec::new();
        self.each(&sql, |row: Difference| found.push(row.into()))
            .await?;
        Ok(found)
    }

    /// The ids that have more than one live claim by `traffic_by_request`, at least one of them in
    /// the window. Read in the order of the table, so that memory does not grow with it.
    pub(super) async fn rival_ids(&self, window: &Range<u32>) -> Result<Vec<u64>, Error> {
        let Range { start, end } = window;
        let sql = format!(
            "SELECT request_id FROM traffic_by_request FINAL \
             WHERE created_at > toDateTime({}, 'UTC') AND {NOT_ERASED} GROUP BY request_id \
             HAVING count() > 1 AND countIf(created_at >= toDateTime({start}, 'UTC') \
             AND created_at < toDateTime({end}, 'UTC')) > 0 LIMIT {MOST_RIVALS} \
             SETTINGS optimize_aggregation_in_order = 1",
            self.expired()
        );
        let mut ids = Vec::new();
        self.each(&sql, |id: u64| ids.push(id)).await?;
        Ok(ids)
    }

    /// Those of `ids` (at most [`IDS`]) with more than one live claim by the last word of both tables.
    /// `more` are claims that only `traffic` may have.
    pub(super) async fn rivals(&self, ids: &[u64], more: &[Tuple]) -> Result<Vec<Finding>, Error> {
        let mut claims = BTreeMap::<Tuple, (u64, u8)>::new();
        let select = "SELECT request_id, user_id, toUnixTimestamp(created_at) AS created_at_unix, \
                      page_url, tupleElement(max((version, is_deleted)) AS word, 1) AS top, \
                      tupleElement(word, 2) AS deleted";
        let group = "GROUP BY request_id, user_id, created_at, page_url";
        let (ids, expired) = (list(ids), self.expired());
        let sql = format!(
            "{select} FROM traffic_by_request WHERE request_id IN ({ids}) \
             AND created_at > toDateTime({expired}, 'UTC') AND {NOT_ERASED} {group}"
        );
        self.each(&sql, |row: ClaimRow| {
            let tuple = (
                row.request_id,
                row.user_id,
                row.created_at_unix,
                row.page_url,
            );
            claims.insert(tuple, (row.top, row.deleted));
        })
        .await?;
        let places: BTreeSet<(u32, u32)> = claims
            .keys()
            .chain(more)
            .map(|(_, user, at, _)| (*user, *at))
            .collect();
        let places: Vec<String> = places
            .iter()
            .map(|(user, at)| format!("({user}, toDateTime({at}, 'UTC'))"))
            .collect();
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let sql = format!(
            "{select} FROM traffic PREWHERE (user_id, created_at) IN ({}) \
             WHERE request_id IN ({ids}) AND {NOT_ERASED} {group}",
            places.join(", ")
        );
        self.each(&sql, |row: ClaimRow| {
            let tuple = (
                row.request_id,
                row.user_id,
                row.created_at_unix,
                row.page_url,
            );
            let known = claims.entry(tuple).or_default();
            *known = (*known).max((row.top, row.deleted));
        })
        .await?;
        let mut live = BTreeMap::<u64, Vec<LiveClaim>>::new();
        for ((request_id, user_id, created_at, page_url), (version, deleted)) in claims {
            if deleted == 0 {
                live.entry(request_id).or_default().push(LiveClaim {
                    user_id,
                    created_at,
                    page_url,
                    version,
                });
            }
        }
        let rivals = live.into_iter().filter(|(_, claims)| claims.len() > 1);
        Ok(rivals
            .map(|(request_id, claims)| Finding::RivalClaims { request_id, claims })
            .collect())
    }
}
