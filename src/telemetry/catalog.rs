//! Every metric of the service: its name, its labels and what it means. `docs/metrics.md` is the same
//! list for operators; a test compares both with a scrape.

/// What a metric is called and means.
#[derive(Debug, Clone, Copy)]
pub struct Definition {
    /// The name, with its unit.
    pub name: &'static str,
    /// The meaning, in one line.
    pub help: &'static str,
    /// The names of its labels; each has few values.
    pub labels: &'static [&'static str],
}

const fn define(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Definition {
    Definition { name, help, labels }
}

/// Everything that was asked over HTTP.
pub const HTTP_REQUESTS: Definition = define(
    "traffic_http_requests_total",
    &["route", "method", "status"],
    "Requests that have ended; status 499 is a client that went away before its answer",
);
/// How long that took.
pub const HTTP_DURATION: Definition = define(
    "traffic_http_request_duration_seconds",
    &["route", "method"],
    "Time from a request's head to the head of its answer",
);
/// Requests that wait for their answer.
pub const HTTP_IN_FLIGHT: Definition = define(
    "traffic_http_requests_in_flight",
    &[],
    "Requests without an answer yet",
);
/// Open connections.
pub const HTTP_CONNECTIONS: Definition =
    define("traffic_http_connections", &[], "Open connections");
/// How many there may be.
pub const HTTP_CONNECTIONS_LIMIT: Definition = define(
    "traffic_http_connections_limit",
    &[],
    "Connections that may be open at once",
);
/// Connections that the service gave up.
pub const HTTP_CONNECTIONS_CLOSED: Definition = define(
    "traffic_http_connections_closed_total",
    &["reason"],
    "Connections that the service closed of its own accord, because the client got nowhere",
);

/// Rows that found their place.
pub const ROWS: Definition = define(
    "traffic_rows_total",
    &["outcome"],
    "Rows stored in ClickHouse directly, written to the spool, and replayed from it into ClickHouse",
);
/// Views that clients sent and that are not kept.
pub const VIEWS_REJECTED: Definition = define(
    "traffic_views_rejected_total",
    &["reason"],
    "Page views that were sent and are not kept, singly or as lines of batches",
);
/// Events that were sent and are not kept.
pub const EVENTS_REJECTED: Definition = define(
    "traffic_events_rejected_total",
    &["reason"],
    "Events that were sent and are not kept, singly or as lines of batches",
);
/// Records that ClickHouse refuses for good.
pub const QUARANTINED: Definition = define(
    "traffic_quarantined_records_total",
    &[],
    "Records that ClickHouse refused for good and that were written to quarantine",
);

/// How long inserts take.
pub const INSERT_DURATION: Definition = define(
    "traffic_insert_duration_seconds",
    &["result"],
    "Time of one insert into ClickHouse, replays included",
);
/// How many rows an insert has.
pub const INSERT_ROWS: Definition = define(
    "traffic_insert_batch_rows",
    &["stream"],
    "Rows in one insert, replays included",
);
/// How many bytes an insert has.
pub const INSERT_BYTES: Definition = define(
    "traffic_insert_batch_bytes",
    &["stream"],
    "Encoded bytes in one insert, replays included",
);
/// Why inserts fail.
pub const INSERT_FAILURES: Definition = define(
    "traffic_insert_failures_total",
    &["class"],
    "Inserts that ClickHouse did not confirm, by what that says about trying again",
);

/// What is between admission and answer.
pub const BUFFER: Definition = define(
    "traffic_ingest_buffer_bytes",
    &["buffer"],
    "Bytes of views between admission and answer",
);
/// What may be.
pub const BUFFER_LIMIT: Definition = define(
    "traffic_ingest_buffer_limit_bytes",
    &["buffer"],
    "Bytes of views that may be between admission and answer",
);

/// What waits on disk.
pub const SPOOL_BYTES: Definition = define(
    "traffic_spool_bytes",
    &[],
    "Disk space of the batches that wait for ClickHouse",
);
/// What may wait on disk.
pub const SPOOL_LIMIT: Definition = define(
    "traffic_spool_limit_bytes",
    &[],
    "Disk space that waiting batches may take",
);
/// How many batches wait.
pub const SPOOL_FILES: Definition = define(
    "traffic_spool_files",
    &[],
    "Batches that wait for ClickHouse, one file each",
);
/// How many rows wait.
pub const SPOOL_ROWS: Definition =
    define("traffic_spool_rows", &[], "Rows that wait for ClickHouse");
/// How long they have waited.
pub const SPOOL_OLDEST: Definition = define(
    "traffic_spool_oldest_age_seconds",
    &[],
    "Age of the oldest batch that waits, 0 when none does",
);
/// Whether the disk takes writes.
pub const SPOOL_WRITE_FAILED: Definition = define(
    "traffic_spool_last_write_failed",
    &[],
    "1 when the operating system refused the last write to the spool",
);
/// What an operator should look at.
pub const QUARANTINE_FILES: Definition = define(
    "traffic_quarantine_files",
    &[],
    "Files in quarantine, see traffic-api spool list",
);
/// What those take.
pub const QUARANTINE_BYTES: Definition = define(
    "traffic_quarantine_bytes",
    &[],
    "Disk space of the files in quarantine",
);

/// Whether batches go to ClickHouse.
pub const BREAKER: Definition = define(
    "traffic_breaker_state",
    &["state"],
    "1 for the breaker's state: closed (to ClickHouse), open (to the spool), half_open (one batch may try)",
);
/// How often they stopped to.
pub const OUTAGES: Definition = define(
    "traffic_store_outages_total",
    &[],
    "How often the breaker opened because ClickHouse failed",
);
/// The embedded ClickHouse.
pub const ENGINE_UP: Definition = define(
    "traffic_engine_up",
    &[],
    "1 while the embedded ClickHouse answers; absent with CLICKHOUSE_URL",
);
/// How often it died.
pub const ENGINE_RESTARTS: Definition = define(
    "traffic_engine_restarts_total",
    &[],
    "How often the embedded ClickHouse was started again; absent with CLICKHOUSE_URL",
);

/// How long reports take.
pub const REPORT_DURATION: Definition = define(
    "traffic_report_duration_seconds",
    &["report", "source"],
    "Time until ClickHouse had answered a report, from the claims, with the pre-aggregated view, or from a kept answer",
);
/// Reports that failed.
pub const REPORT_FAILURES: Definition = define(
    "traffic_report_failures_total",
    &["report"],
    "Reports that ClickHouse did not answer",
);
/// How old what reports show is.
pub const REPORT_LAG: Definition = define(
    "traffic_report_lag_seconds",
    &[],
    "Time since which an acknowledged view may be missing in reports, 0 when none is",
);

/// What the sealer has done.
pub const SEALER_HOURS: Definition = define(
    "traffic_sealer_counts_total",
    &["kind", "stream"],
    "Hours counted into the pre-aggregate: in full, or again for late rows",
);
/// How often it failed.
pub const SEALER_FAILURES: Definition = define(
    "traffic_sealer_failures_total",
    &["stream"],
    "Looks and counts of the sealer that failed",
);
/// Whether it fails.
pub const SEALER_FAILING: Definition = define(
    "traffic_sealer_failing",
    &["stream"],
    "1 when the sealer's latest look or count failed",
);
/// What it has to do.
pub const SEALER_UNSEALED: Definition = define(
    "traffic_sealer_missing_counts",
    &["stream"],
    "Closed hours that are not counted yet",
);
/// What it has to do again.
pub const SEALER_LATE: Definition = define(
    "traffic_sealer_late_counts",
    &["stream"],
    "Counted hours with rows that came later",
);
/// When it last looked.
pub const SEALER_LOOKED: Definition = define(
    "traffic_sealer_looked_timestamp_seconds",
    &["stream"],
    "When the sealer last looked, by ClickHouse's clock; absent before the first look",
);
/// How far counts reach.
pub const SEALER_THROUGH: Definition = define(
    "traffic_sealer_sealed_through_timestamp_seconds",
    &["stream"],
    "End of the newest run of counted hours; absent while there is none",
);
/// How long a count takes.
pub const SEALER_DURATION: Definition = define(
    "traffic_sealer_last_count_duration_seconds",
    &["stream"],
    "How long the latest count of an hour took, 0 before the first",
);

/// Checks that came to an end.
pub const RECONCILE_RUNS: Definition = define(
    "traffic_reconcile_runs_total",
    &["result"],
    "Light reconciliations that ended, and that failed",
);
/// When the last one did.
pub const RECONCILE_CHECKED: Definition = define(
    "traffic_reconcile_checked_timestamp_seconds",
    &[],
    "When the latest light reconciliation ended; absent before the first",
);
/// Whether it failed.
pub const RECONCILE_FAILING: Definition = define(
    "traffic_reconcile_failing",
    &[],
    "1 when the latest light reconciliation failed",
);
/// How long it took.
pub const RECONCILE_DURATION: Definition = define(
    "traffic_reconcile_last_duration_seconds",
    &[],
    "How long the latest light reconciliation took, without waiting",
);
/// What it found.
pub const RECONCILE_DAYS: Definition = define(
    "traffic_reconcile_differing_dates",
    &[],
    "Days on which accepted, stored and counted views differ, as of the latest light reconciliation",
);
/// What else it found.
pub const RECONCILE_RIVALS: Definition = define(
    "traffic_reconcile_rival_ids",
    &[],
    "Request ids with two live claims, as of the latest light reconciliation",
);

/// Which build this is.
pub const BUILD_INFO: Definition = define(
    "traffic_build_info",
    &["version"],
    "Always 1; the version is a label",
);
/// Whether the service stops.
pub const STOPPING: Definition = define(
    "traffic_stopping",
    &[],
    "1 from the moment at which the service was told to stop",
);
