//! ClickHouse: the only place, with `migrations/`, where SQL lives.
//!
//! Purpose: write batches, keep the claims of each view and event, answer reports, keep the schema.
//!
//! Invariants: a write is confirmed only after ClickHouse has committed it, materialized views
//! included; no value is pasted into SQL as text other than numbers, UUIDs, names of event types, which
//! have letters and digits only, and identifiers that the configuration has checked; every call has a deadline; a server's error text goes to the log,
//! never to a client.
//!
//! Refuses to know: HTTP answers, where the server came from.

mod cluster;
mod columns;
mod days;
mod drifts;
mod erasable;
mod eraser;
mod erasures;
mod errors;
mod events;
mod measures;
mod migrate;
mod page_views;
mod pages;
mod reconcile;
mod render;
mod reports;
mod rows;
mod sealed;
mod sealed_tables;
mod sealer;
mod seals;
mod server_time;
mod settlement;
mod site;
mod snapshots;
mod statements;
mod transport;
mod verify;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clickhouse::Client;
use tokio::sync::OnceCell;

use self::cluster::Topology;
use crate::domain::Stream;
use crate::pipeline::{Batch, Failure, Sink};
use crate::telemetry::metrics::Metrics;
use erasures::Known;
use measures::InsertMeasures;
use statements::{QUERY_ID, Statements};

pub use eraser::{Erased, Eraser, TableRows};
pub use errors::Error;
pub use events::{EventReports, RivalEvents};
pub use migrate::{MIGRATIONS, MigrateError, Migration, Outcome, migrate};
pub use page_views::{Lookup, PageViews, Removal, Update};
pub use reconcile::{
    Comparison, DayTotals, Finding, Findings, LastWord, LiveClaim, Mended, PATIENCE, PeriodicCheck,
    ReconcileStats, Reconciler, Spooled, spooled,
};
pub use render::{Schema, render};
pub use reports::{Plan, Reports};
pub use rows::readable;
pub use sealer::{LastRefresh, Sealer, SealerStats};
pub use seals::{HourState, LEAST_SEAL_DELAY, Seals, Survey};
pub use server_time::ServerTime;
pub use settlement::Unfinished;
pub use snapshots::{MAX_SNAPSHOT_ROWS, Moment, SNAPSHOT_LIFE};
pub use verify::verify;

/// How long one insert may take, views and quorum included, before it counts as failed. ClickHouse
/// itself gives up earlier ([`INSERT_EXECUTION_SECS`]), so that what failed here has ended there.
const INSERT_DEADLINE: Duration = Duration::from_secs(12);
const INSERT_EXECUTION_SECS: u32 = 10;
/// How long one chunk of an insert may wait for the socket.
const SEND_DEADLINE: Duration = Duration::from_secs(10);
/// How long one read may take; ClickHouse gives up a little earlier.
const READ_DEADLINE: Duration = Duration::from_secs(15);
const READ_EXECUTION_SECS: u32 = 10;
/// How long counting one hour may take; ClickHouse gives up a little earlier.
const SEAL_DEADLINE: Duration = Duration::from_secs(130);
const SEAL_EXECUTION_SECS: u32 = 120;
/// How long a statement of a migration may take.
const DDL_DEADLINE: Duration = Duration::from_secs(300);
/// How long a sign of life may take.
const PING_DEADLINE: Duration = Duration::from_secs(2);

/// Where a server is, and who we are there.
#[derive(Clone, PartialEq, Eq)]
pub struct Connection {
    /// `http://host:port` or `https://host:port`.
    pub url: String,
    /// The user.
    pub user: String,
    /// Its password; empty for none.
    pub password: String,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("url", &self.url)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// Where the server is right now; `None` while it is known to be down.
pub type Locate = Arc<dyn Fn() -> Option<Connection> + Send + Sync>;

/// One ClickHouse and one database in it; cheap to clone.
#[derive(Clone)]
pub struct ClickHouse {
    /// Holds the connection pool; address and user are set per call, because an embedded server
    /// comes back under another port after a restart.
    base: Client,
    locate: Locate,
    schema: Arc<Schema>,
    inserts: Arc<InsertMeasures>,
    /// What the statements of the report under way are called.
    statements: Option<Arc<Statements>>,
    /// Of the cluster, once it was asked for.
    topology: Arc<OnceCell<Topology>>,
    erased: Arc<Known>,
}

impl ClickHouse {
    /// A client for the server that `locate` gives. Connects on the first call.
    pub fn new(locate: Locate, schema: Schema) -> Self {
        Self::with_client(Client::default(), locate, schema)
    }

    /// The same for a server behind https, whose certificate `trust` judges.
    pub fn over_tls(locate: Locate, schema: Schema, trust: rustls::ClientConfig) -> Self {
        Self::with_client(transport::over_tls(trust), locate, schema)
    }

    fn with_client(base: Client, locate: Locate, schema: Schema) -> Self {
        let mut base = base.with_product_info("traffic-api", env!("CARGO_PKG_VERSION"));
        if schema.cluster.is_some() {
            for (name, value) in cluster::SETTINGS {
                base = base.with_setting(*name, *value);
            }
        }
        Self {
            base,
            locate,
            schema: Arc::new(schema),
            inserts: Arc::default(),
            statements: None,
            topology: Arc::default(),
            erased: Arc::default(),
        }
    }

    /// The same, its reads named after `statements`.
    fn named(&self, statements: &Arc<Statements>) -> Self {
        Self {
            statements: Some(Arc::clone(statements)),
            ..self.clone()
        }
    }

    /// Shows what inserts cost among `metrics`.
    pub fn show(&self, metrics: &Metrics) {
        self.inserts.show(metrics);
    }

    /// The same database, at another address.
    #[must_use]
    pub fn at(&self, locate: Locate) -> Self {
        Self {
            locate,
            ..self.clone()
        }
    }

    /// Asks for a sign of life and for the right to query.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn ping(&self) -> Result<(), Error> {
        let query = self.server()?.query("SELECT 1");
        deadline(PING_DEADLINE, query.execute()).await
    }

    fn server(&self) -> Result<Client, Error> {
        let connection = (self.locate)().ok_or(Error::Down)?;
        let mut client = self
            .base
            .clone()
            .with_url(connection.url)
            .with_user(connection.user);
        if !connection.password.is_empty() {
            client = client.with_password(connection.password);
        }
        Ok(client)
    }

    fn database(&self) -> Result<Client, Error> {
        Ok(self.server()?.with_database(&self.schema.database))
    }

    /// For one statement: it has a name of its own.
    fn reader(&self) -> Result<Client, Error> {
        let limit = READ_EXECUTION_SECS.to_string();
        let query_id = match &self.statements {
            Some(statements) => statements.next(),
            None => Statements::alone("read"),
        };
        let client = self.database()?.with_setting("max_execution_time", limit);
        Ok(client.with_setting(QUERY_ID, query_id))
    }
}

/// Runs one call to the server within `limit`.
async fn deadline<T>(
    limit: Duration,
    call: impl Future<Output = clickhouse::error::Result<T>>,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, call).await {
        Ok(outcome) => outcome.map_err(Error::from),
        Err(_) => Err(Error::TimedOut(limit)),
    }
}

impl Sink for ClickHouse {
    async fn write(&self, batch: &Batch) -> Result<(), Failure> {
        self.insert(batch).await.map_err(Failure::from)
    }

    async fn ping(&self) -> Result<(), Failure> {
        ClickHouse::ping(self).await.map_err(Failure::from)
    }

    fn readable(&self, batch: &Batch) -> Vec<serde_json::Value> {
        rows::readable(batch)
    }
}

impl ClickHouse {
    async fn insert(&self, batch: &Batch) -> Result<(), Error> {
        self.insert_into(rows::table(batch.stream), batch).await
    }

    async fn insert_into(&self, table: &str, batch: &Batch) -> Result<(), Error> {
        let _under_way = self.erased.writing().await;
        let Some(batch) = self.erased.filter(batch) else {
            return Ok(());
        };
        let (began, query_id) = (Instant::now(), Statements::alone("insert"));
        let outcome = self.send(table, &batch, &query_id).await;
        let error = outcome.as_ref().err();
        self.inserts.note(&batch, began.elapsed(), &query_id, error);
        outcome
    }

    async fn send(&self, table: &str, batch: &Batch, query_id: &str) -> Result<(), Error> {
        let columns = batch.columns.join(", ");
        let (format, bytes) = formatted(batch).await;
        // Both cores' work where there is work for both.
        let parallel_views = if format == "Native" { "1" } else { "0" };
        let mut insert = self
            .writer()
            .await?
            .insert_formatted_with(format!("INSERT INTO {table} ({columns}) FORMAT {format}"))
            .with_timeouts(Some(SEND_DEADLINE), Some(INSERT_DEADLINE))
            // 26.7 turns asynchronous inserts on by default; an answer would then come before the
            // commit (https://clickhouse.com/docs/operations/settings/settings#async_insert).
            .with_setting("async_insert", "0")
            // Late views may touch any number of day partitions.
            .with_setting("max_partitions_per_insert_block", "0")
            .with_setting("deduplicate_blocks_in_dependent_materialized_views", "1")
            .with_setting("parallel_view_processing", parallel_views)
            // Indexes are built by merges: the rows of a fresh part are few, and soon read anyway.
            .with_setting("materialize_skip_indexes_on_insert", "0")
            .with_setting(QUERY_ID, query_id)
            .with_setting(
                "insert_deduplication_token",
                self.deduplication_token(batch),
            )
            .with_setting("max_execution_time", INSERT_EXECUTION_SECS.to_string());
        insert.send(bytes).await?;
        Ok(insert.end().await?)
    }
}

/// A batch as it is sent: as it is, or turned into columns where that pays.
async fn formatted(batch: &Batch) -> (&'static str, Bytes) {
    let native = match batch.stream {
        Stream::PageViews if rows::is_page_views(batch) => columns::native,
        Stream::Events if events::is_events(batch) => events::native,
        // Written by another version of the service.
        _ => return ("RowBinary", batch.bytes.clone()),
    };
    if batch.rows >= columns::MIN_ROWS {
        let (bytes, rows) = (batch.bytes.clone(), batch.rows);
        // Some milliseconds of work, for which no other task should wait.
        let turned = tokio::task::spawn_blocking(move || native(&bytes, rows)).await;
        if let Ok(Some(block)) = turned {
            return ("Native", block.into());
        }
    }
    ("RowBinary", batch.bytes.clone())
}
