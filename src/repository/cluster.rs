//! On a cluster, which servers must have a row before it is confirmed: every one that keeps it.
//!
//! Invariant: what was confirmed is on every replica of its shard, so it does not matter which one is
//! read, and a read asks nobody's consent. The price: while a replica is away, inserts into its shard
//! fail, and views wait in the spool. Quorums of a part of the replicas would need reads that are
//! sequentially consistent, and those need quorum inserts that run one at a time and refuse each other
//! (<https://clickhouse.com/docs/operations/settings/settings#insert_quorum_parallel>): too few for
//! several instances.

use clickhouse::{Client, Row};
use serde::Deserialize;
use uuid::Uuid;

use super::{ClickHouse, Error, READ_DEADLINE, deadline};
use crate::domain::Claim;
use crate::pipeline::Batch;

/// What every call to a cluster needs.
pub(super) const SETTINGS: &[(&str, &str)] = &[
    ("insert_quorum_parallel", "1"),
    // Milliseconds; below the time after which ClickHouse gives an insert up.
    ("insert_quorum_timeout", "8000"),
    // An answer only when every shard has its rows, also those that a view sends on.
    ("async_insert", "0"),
    ("distributed_foreground_insert", "1"),
    // A report without a shard's rows is no report.
    ("skip_unavailable_shards", "0"),
];

/// The servers of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Topology {
    shards: u64,
    /// Of each shard.
    replicas: u64,
}

#[derive(Row, Deserialize)]
struct Shard {
    replicas: u64,
}

impl Topology {
    fn of(cluster: &str, shards: &[Shard]) -> Result<Self, Error> {
        let [first, ..] = shards else {
            let why = format!("{cluster} is not among the server's remote_servers");
            return Err(Error::Cluster(why));
        };
        // One statement has one quorum for all shards.
        if shards.iter().any(|shard| shard.replicas != first.replicas) {
            let why = format!("the shards of {cluster} have different numbers of replicas");
            return Err(Error::Cluster(why));
        }
        Ok(Self {
            shards: shards.len() as u64,
            replicas: first.replicas,
        })
    }
}

impl ClickHouse {
    /// The servers, asked for once; nothing for a single server.
    pub(super) async fn topology(&self) -> Result<Option<Topology>, Error> {
        let Some(cluster) = &self.schema.cluster else {
            return Ok(None);
        };
        let ask = || async {
            let server = self.server()?;
            let query = server
                .query(
                    "SELECT count() AS replicas FROM system.clusters WHERE cluster = ? \
                     GROUP BY shard_num",
                )
                .bind(cluster.as_str());
            let shards = deadline(READ_DEADLINE, query.fetch_all::<Shard>()).await?;
            Topology::of(cluster, &shards)
        };
        self.topology.get_or_try_init(ask).await.copied().map(Some)
    }

    /// For inserts into tables whose rows are spread over the shards.
    pub(super) async fn writer(&self) -> Result<Client, Error> {
        self.writer_with(|topology| topology.replicas).await
    }

    /// For inserts into tables that every server keeps whole.
    pub(super) async fn writer_to_all(&self) -> Result<Client, Error> {
        self.writer_with(|topology| topology.shards * topology.replicas)
            .await
    }

    async fn writer_with(&self, quorum: impl Fn(Topology) -> u64) -> Result<Client, Error> {
        let client = self.database()?;
        Ok(match self.topology().await? {
            Some(topology) => client.with_setting("insert_quorum", quorum(topology).to_string()),
            None => client,
        })
    }

    /// By what ClickHouse knows a batch that it has already. On a cluster never: rows that are sent
    /// again must say anew when they came, for the first time they may have waited for a replica, with
    /// marks that counts cover by now. Rows that say the same are merged anyway.
    pub(super) fn deduplication_token(&self, batch: &Batch) -> String {
        match self.schema.cluster {
            Some(_) => Uuid::new_v4().to_string(),
            None => batch.token.to_string(),
        }
    }

    /// The rows of an update in the inserts that they must be written in, one after the other. Rows of
    /// one day, and on a cluster of one user, become readable together or not at all. Others may be
    /// committed in part when a server fails, so claims come before tombstones: what ends in between
    /// leaves two claims, which can be settled. Tombstones alone would have lost the view.
    pub(super) fn inserts(&self, rows: Vec<Claim>) -> Vec<Vec<Claim>> {
        let is_cluster = self.schema.cluster.is_some();
        let part = |row: &Claim| {
            let day = row.view.created_at.unix() / 86_400;
            (day, is_cluster.then_some(row.view.user_id))
        };
        if rows.windows(2).all(|pair| part(&pair[0]) == part(&pair[1])) {
            return vec![rows];
        }
        let (tombstones, claims) = rows.into_iter().partition(|row| row.is_deleted);
        let both: [Vec<Claim>; 2] = [claims, tombstones];
        both.into_iter().filter(|rows| !rows.is_empty()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::{CreatedAt, PageUrl, PageView, RequestId, UserId, Version};
    use crate::repository::Schema;

    #[test]
    fn claims_come_before_tombstones_where_those_are_not_one_commit() {
        let inserts = |cluster: Option<&str>, rows: &[(u32, u32, bool)]| {
            let schema = Schema {
                database: "traffic".to_owned(),
                cluster: cluster.map(str::to_owned),
                retention_days: 90,
                event_retention_days: Some(30),
                fsync: false,
            };
            let row = |(user, day, is_deleted): &(u32, u32, bool)| Claim {
                view: PageView {
                    request_id: RequestId::new(1),
                    user_id: UserId::new(*user),
                    created_at: CreatedAt::from_unix(day * 86_400),
                    page_url: PageUrl::trusted("/"),
                },
                version: Version::new(7),
                is_deleted: *is_deleted,
            };
            let rows = rows.iter().map(row).collect();
            let inserts = ClickHouse::new(Arc::new(|| None), schema).inserts(rows);
            let deleted = |rows: &Vec<Claim>| rows.iter().map(|row| row.is_deleted).collect();
            inserts.iter().map(deleted).collect::<Vec<Vec<bool>>>()
        };
        let (page, user, day) = (
            [(1, 1, true), (1, 1, false)],
            [(1, 1, true), (2, 1, false)],
            [(1, 1, true), (1, 2, false)],
        );
        for (cluster, rows, groups) in [
            (None, page, vec![vec![true, false]]),
            (None, user, vec![vec![true, false]]),
            (None, day, vec![vec![false], vec![true]]),
            (Some("main"), page, vec![vec![true, false]]),
            (Some("main"), user, vec![vec![false], vec![true]]),
            (Some("main"), day, vec![vec![false], vec![true]]),
        ] {
            assert_eq!(inserts(cluster, &rows), groups, "{cluster:?} {rows:?}");
        }
        let tombstones = [(1, 1, true), (2, 2, true)];
        assert_eq!(inserts(Some("main"), &tombstones), [[true, true]]);
    }

    #[test]
    fn a_quorum_is_all_replicas_and_shards_are_alike() {
        let shards = |replicas: &[u64]| -> Vec<Shard> {
            let shard = |replicas: &u64| Shard {
                replicas: *replicas,
            };
            replicas.iter().map(shard).collect()
        };
        let topology = Topology::of("main", &shards(&[2, 2, 2])).unwrap();
        assert_eq!((topology.shards, topology.replicas), (3, 2));
        for (wrong, why) in [(&[][..], "remote_servers"), (&[2, 3], "different")] {
            let error = Topology::of("main", &shards(wrong)).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}
