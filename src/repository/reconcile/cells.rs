//! The sealed counts that reports use, compared with the claims cell by cell.
//!
//! Only what a report would read is compared: of a sealed hour the users whose newest mark its
//! seal covers, and of the site the hours whose seal covers everybody's.

use std::collections::BTreeSet;
use std::ops::Range;

use clickhouse::Row;
use serde::Deserialize;

use super::chunks::Chunk;
use super::{Finding, Reconciler};
use crate::repository::Error;
use crate::repository::erasures::NOT_ERASED;
use crate::repository::sealed::within;
use crate::repository::sealed_tables::SealedTables;
use crate::repository::seals::trusted_since;
use crate::repository::server_time::{INSERT_LIMIT, ServerTime, millis};

#[derive(Row, Deserialize)]
struct SealedHour {
    hour: u32,
    sealed: i64,
    marked: i64,
}

#[derive(Row, Deserialize)]
struct UserCell {
    user_id: u32,
    hour: u32,
    page_url: String,
    counted: u64,
    claimed: u64,
}

#[derive(Row, Deserialize)]
struct UserTotal {
    user_id: u32,
    hour: u32,
    total: u64,
    counted: u64,
}

#[derive(Row, Deserialize)]
struct SiteCell {
    hour: u32,
    page_url: String,
    counted_views: u64,
    claimed_views: u64,
    counted_users: u64,
    claimed_users: u64,
    differing_users: u64,
}

/// The hours that reports read from counts, by their first seconds.
#[derive(Default)]
pub(super) struct Sealed {
    /// Of users without late rows.
    pub(super) users: BTreeSet<u32>,
    /// Of the site, or of all sites.
    pub(super) site: BTreeSet<u32>,
}

/// The (user, hour) of a chunk whose counts are not used, as a subquery.
pub(super) fn late_users(chunk: &Chunk) -> String {
    let (hours, times, limit) = (chunk.hours(), chunk.times(), millis(INSERT_LIMIT));
    format!(
        "SELECT user_id, hour FROM (\
         SELECT user_id, toStartOfHour(created_at) AS hour, \
         toUnixTimestamp64Milli(max(late_at)) AS marked FROM traffic \
         PREWHERE {times} AND late_at > toDateTime64(0, 3, 'UTC') GROUP BY user_id, hour\
         ) AS late GLOBAL LEFT JOIN (\
         SELECT hour, toUnixTimestamp64Milli(max(sealed_at)) AS sealed \
         FROM traffic_seals WHERE {hours} GROUP BY hour\
         ) AS seals USING (hour) WHERE sealed <= marked + {limit}"
    )
}

impl Reconciler {
    /// By the same rules as the reports'.
    pub(super) async fn sealed(
        &self,
        tables: &SealedTables,
        window: &Range<u32>,
    ) -> Result<Sealed, Error> {
        let SealedTables {
            claims,
            time,
            seals,
            ..
        } = tables;
        let window = std::slice::from_ref(window);
        let (hours, times) = (within("hour", window), within(time, window));
        let since = trusted_since(tables);
        let sql = format!(
            "SELECT toUnixTimestamp(hour) AS hour, max(sealed) AS sealed, max(marked) AS marked FROM (\
             SELECT hour, toUnixTimestamp64Milli(sealed_at) AS sealed, toInt64(0) AS marked \
             FROM {seals} WHERE {hours} AND sealed > {since} \
             UNION ALL SELECT toStartOfHour({time}) AS hour, toInt64(0), \
             toUnixTimestamp64Milli(max(late_at)) FROM {claims} \
             PREWHERE {times} AND late_at > toDateTime64(0, 3, 'UTC') GROUP BY hour\
             ) GROUP BY hour HAVING sealed > 0"
        );
        let mut found = Sealed::default();
        self.each(&sql, |row: SealedHour| {
            let (seal, mark) = (
                ServerTime::from_millis(row.sealed),
                ServerTime::from_millis(row.marked),
            );
            found.users.insert(row.hour);
            if row.marked == 0 || seal.covers(mark) {
                found.site.insert(row.hour);
            }
        })
        .await?;
        Ok(found)
    }

    /// The users' counts in `chunk`, of sealed hours only, that differ from the claims.
    pub(super) async fn differing_users(&self, chunk: &Chunk) -> Result<Vec<Finding>, Error> {
        let (hours, times, late) = (chunk.hours(), chunk.times(), late_users(chunk));
        let slice = chunk.slice("user_id");
        let mut found = Vec::new();
        let sql = format!(
            "SELECT user_id, toUnixTimestamp(hour) AS hour, page_url, sum(c) AS counted, \
             sum(v) AS claimed FROM (\
             SELECT user_id, hour, toString(page) AS page_url, toUInt64(viewed) AS c, \
             toUInt64(0) AS v FROM traffic_hourly FINAL ARRAY JOIN pages AS page, views AS viewed \
             PREWHERE {hours} WHERE {slice} \
             UNION ALL SELECT user_id, toStartOfHour(created_at) AS hour, \
             toString(page_url) AS page_url, toUInt64(0) AS c, count() AS v \
             FROM traffic FINAL PREWHERE {times} AND {NOT_ERASED} WHERE {slice} GROUP BY user_id, hour, page_url\
             ) WHERE (user_id, hour) GLOBAL NOT IN ({late}) \
             GROUP BY user_id, hour, page_url HAVING counted != claimed"
        );
        self.each(&sql, |row: UserCell| {
            found.push(Finding::UserCell {
                user_id: row.user_id,
                hour: row.hour,
                page_url: row.page_url,
                counted: row.counted,
                claimed: row.claimed,
            });
        })
        .await?;
        let sql = format!(
            "SELECT user_id, toUnixTimestamp(hour) AS hour, total, \
             toUInt64(arraySum(views)) AS counted FROM traffic_hourly FINAL PREWHERE {hours} \
             WHERE {slice} AND total != arraySum(views) \
             AND (user_id, hour) GLOBAL NOT IN ({late})"
        );
        self.each(&sql, |row: UserTotal| {
            found.push(Finding::UserTotal {
                user_id: row.user_id,
                hour: row.hour,
                total: row.total,
                counted: row.counted,
            });
        })
        .await?;
        Ok(found)
    }

    /// The site's counts in `chunk`, of clean hours only, that differ from the claims.
    pub(super) async fn differing_pages(&self, chunk: &Chunk) -> Result<Vec<Finding>, Error> {
        let (hours, times) = (chunk.hours(), chunk.times());
        let slice = chunk.slice("page_url");
        let nobody = "groupBitmapStateIf(toUInt32(0), 0)";
        let sql = format!(
            "SELECT toUnixTimestamp(hour) AS hour, page_url, sum(cv) AS counted_views, \
             sum(vv) AS claimed_views, toUInt64(groupBitmapMerge(cu)) AS counted_users, \
             toUInt64(groupBitmapMerge(vu)) AS claimed_users, \
             toUInt64(bitmapXorCardinality(groupBitmapMergeState(cu), groupBitmapMergeState(vu))) \
             AS differing_users FROM (\
             SELECT hour, toString(page_url) AS page_url, sum(views) AS cv, toUInt64(0) AS vv, \
             groupBitmapMergeState(users) AS cu, {nobody} AS vu \
             FROM traffic_hourly_pages FINAL PREWHERE {hours} WHERE {slice} GROUP BY hour, page_url \
             UNION ALL SELECT toStartOfHour(created_at) AS hour, toString(page_url) AS page_url, \
             toUInt64(0) AS cv, count() AS vv, {nobody} AS cu, groupBitmapState(user_id) AS vu \
             FROM traffic FINAL PREWHERE {times} AND {NOT_ERASED} WHERE {slice} GROUP BY hour, page_url\
             ) GROUP BY hour, page_url HAVING counted_views != claimed_views OR differing_users > 0"
        );
        let mut found = Vec::new();
        self.each(&sql, |row: SiteCell| {
            found.push(Finding::SiteCell {
                hour: row.hour,
                page_url: row.page_url,
                counted_views: row.counted_views,
                claimed_views: row.claimed_views,
                counted_users: row.counted_users,
                claimed_users: row.claimed_users,
                differing_users: row.differing_users,
            });
        })
        .await?;
        Ok(found)
    }
}
