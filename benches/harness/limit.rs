//! Servers that store nothing, as processes of their own: what the rest is measured against.
//!
//! [`Limit::Service`] has the service's own routes, served as the service serves them, over a sink
//! that says "stored" at once: what HTTP, parsing, validation, admission and group commit cost
//! without a database. [`Limit::Axum`] has the same routes served by `axum::serve`, which guards
//! nothing. [`Limit::Bare`] is the smallest axum server that answers a POST.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::StatusCode;
use axum::serve::ListenerExt;
use serde_json::Value;
use tokio::net::TcpListener;
use traffic_api::access::{self, Keys, LimitSettings};
use traffic_api::config::LogFormat;
use traffic_api::domain::{Clock, EventTypes, VersionSource};
use traffic_api::http::{
    self, Acceptance, Access, AppState, BatchPlaces, Connections, EventRules, Ingest, PerAddress,
    Rejected, Server, Timeouts,
};
use traffic_api::pipeline::{self, Batch, Delivery, Failure, Grouping, Limits, Sink, Spool};
use traffic_api::repository::{
    ClickHouse, Eraser, EventReports, LEAST_SEAL_DELAY, PATIENCE, PageViews, PeriodicCheck, Plan,
    Reconciler, Reports, RivalEvents, Schema, Sealer, Seals,
};
use traffic_api::telemetry::{self, metrics::Metrics};

use super::support::service::Service;

/// Says which limit the process is, if any.
const ROLE: &str = "TRAFFIC_API_BENCH_ROLE";
const DATA_DIR: &str = "DATA_DIR";
const KEYS: &str = "API_KEYS";

/// A server that stores nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    Service,
    /// The same for those who have a key, within limits.
    Guarded,
    /// The same as the first, without what guards its connections.
    Axum,
    Bare,
}

impl Limit {
    const fn name(self) -> &'static str {
        match self {
            Limit::Service => "service",
            Limit::Guarded => "guarded",
            Limit::Axum => "axum",
            Limit::Bare => "bare",
        }
    }

    /// Starts it with its empty spool in `data_dir`.
    pub fn start(self, data_dir: &Path) -> Service {
        self.start_with(data_dir, "")
    }

    /// The same with these keys.
    pub fn start_with(self, data_dir: &Path, keys: &str) -> Service {
        std::fs::create_dir_all(data_dir).expect("a directory");
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command
            .env(ROLE, self.name())
            .env(DATA_DIR, data_dir)
            .env(KEYS, keys)
            // Ends with this process, whatever ends it.
            .stdin(Stdio::piped());
        Service::spawn(command)
    }
}

/// In a process that [`Limit::start`] has started: serves, and never returns.
pub fn serve_if_asked() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    telemetry::init("info", LogFormat::Text);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("an address");
        let address = listener.local_addr().expect("an address");
        let router = if role == Limit::Bare.name() {
            let post = async |_body: Bytes| StatusCode::CREATED;
            let paths = ["/api/traffic/{request_id}", "/v1/events"];
            paths.into_iter().fold(axum::Router::new(), |router, path| {
                router.route(path, axum::routing::post(post))
            })
        } else {
            let directory = std::env::var_os(DATA_DIR).expect("a directory");
            let access = if role == Limit::Guarded.name() {
                guarded(std::env::var(KEYS).expect("keys"))
            } else {
                Access::everybody()
            };
            router(Path::new(&directory), access)
        };
        println!("the limit is ready at http://{address} and not meant for a look in a browser");
        if role == Limit::Axum.name() || role == Limit::Bare.name() {
            let listener = listener.tap_io(|socket| {
                let _ = socket.set_nodelay(true);
            });
            axum::serve(listener, router).await.expect("serving");
        } else {
            let per_address = PerAddress {
                limit: 8192,
                includes_loopback: true,
                proxies: Arc::default(),
            };
            let connections = Connections::new(8192, Some(per_address), &Metrics::default());
            let server = Server::new(router, connections, timeouts(), None);
            server.serve(listener, std::future::pending()).await;
        }
    });
    std::process::exit(0);
}

/// As the service has them.
fn timeouts() -> Timeouts {
    Timeouts {
        head: Duration::from_secs(10),
        body: Duration::from_secs(20),
        idle: Duration::from_secs(75),
        write: Duration::from_secs(30),
    }
}

/// Limits that nobody reaches, on everything that can be limited.
fn guarded(keys: String) -> Access {
    let (keys, _) = Keys::open(None, keys).expect("keys");
    let much = Some(10_000_000);
    let limits = LimitSettings {
        key_writes_per_sec: much,
        key_reads_per_sec: much,
        address_writes_per_sec: much,
        address_reads_per_sec: much,
        burst_secs: 10,
        failures_per_minute: Some(60),
    };
    Access {
        keys: Some(Arc::new(keys)),
        limits: Arc::new(access::Limits::new(limits)),
        ..Access::everybody()
    }
}

/// Confirms everything, keeps nothing.
struct Nothing;

impl Sink for Nothing {
    async fn write(&self, _batch: &Batch) -> Result<(), Failure> {
        Ok(())
    }

    async fn ping(&self) -> Result<(), Failure> {
        Ok(())
    }

    fn readable(&self, _batch: &Batch) -> Vec<Value> {
        Vec::new()
    }
}

/// The service's routes over [`Nothing`]. Whatever a POST does not use leads nowhere.
fn router(data_dir: &Path, access: Access) -> axum::Router {
    let schema = Schema {
        database: "nowhere".to_owned(),
        cluster: None,
        retention_days: 90,
        event_retention_days: Some(30),
        fsync: false,
    };
    let clickhouse = ClickHouse::new(Arc::new(|| None), schema);
    let (spool, _) = Spool::open(&data_dir.join("spool"), 1 << 30, 1_000_000).expect("a spool");
    let spool = Arc::new(spool);
    let limits = Limits {
        buffer_bytes: 64 << 20,
        grouping: Grouping {
            max_batch_records: 200_000,
            min_interval: Duration::ZERO,
            inserts_in_flight: 1,
        },
    };
    let delivery = Arc::new(Delivery::new(Arc::new(Nothing), Arc::clone(&spool)));
    let (writer, lanes) = pipeline::open(&delivery, limits);
    for lane in [lanes.to_sink, lanes.to_spool] {
        tokio::spawn(async move {
            let (_running, stop) = tokio::sync::oneshot::channel();
            lane.run(stop).await;
        });
    }
    let clock = Clock::system();
    let (page_views, _) = PageViews::new(
        clickhouse.clone(),
        writer.clone(),
        Arc::clone(&spool),
        VersionSource::new(0),
        clock.clone(),
    );
    let metrics = Metrics::default();
    let acceptance = Acceptance {
        retention_days: Some(90),
        max_clock_skew_secs: 0,
    };
    let remembered = std::num::NonZeroUsize::new(200_000).expect("not zero");
    let rules = EventRules {
        types: EventTypes::Open,
        rivals: RivalEvents::new(clickhouse.clone()),
    };
    let (events, event_lanes) = pipeline::open(&delivery, limits);
    for lane in [event_lanes.to_sink, event_lanes.to_spool] {
        tokio::spawn(async move {
            let (_running, stop) = tokio::sync::oneshot::channel();
            lane.run(stop).await;
        });
    }
    let reports = Reports::new(clickhouse.clone(), Plan::Claims);
    let eraser = Eraser::new(
        clickhouse.clone(),
        reports.clone(),
        Arc::clone(&spool),
        clock.clone(),
        Duration::ZERO,
    );
    let of_views = Rejected::views(&metrics);
    let of_events = Rejected::events(&metrics);
    let state = AppState {
        views: Ingest::new(
            writer,
            remembered,
            acceptance,
            clickhouse.erasures(),
            clock.clone(),
            of_views,
        ),
        events: Ingest::new(
            events,
            remembered,
            acceptance,
            rules,
            clock.clone(),
            of_events,
        ),
        event_reports: EventReports::new(clickhouse.clone(), Plan::Claims),
        event_sealer: Sealer::new(Seals::of_events(clickhouse.clone(), LEAST_SEAL_DELAY)),
        page_views,
        reports,
        eraser,
        check: PeriodicCheck::new(Reconciler::new(
            clickhouse.clone(),
            clock.clone(),
            PATIENCE,
            0,
        )),
        sealer: Sealer::new(Seals::new(clickhouse.clone(), Duration::from_secs(3600))),
        delivery: Arc::new(Delivery::new(Arc::new(clickhouse.clone()), spool)),
        clickhouse,
        clock,
        max_body_bytes: 65_536,
        body_timeout: timeouts().body,
        batches: BatchPlaces::new(2),
        metrics,
        stopping: Arc::new(AtomicBool::new(false)),
    };
    http::router(state, access)
}
