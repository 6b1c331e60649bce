//! The composition root: the only place that knows everyone.
//!
//! Start: bind the address -> open the spool -> start the engine -> migrate -> open the lanes, the
//! replay and the sealer -> serve.
//!
//! Stop: not ready, and no more waiting for ClickHouse beyond a limit -> stop accepting, finish the
//! requests in flight -> drain the lanes, into the spool what ClickHouse does not take -> stop the
//! engine. Each step has a deadline; together they stay within 25 seconds.

mod access;
mod connections;
mod drain;
mod generate;
mod ingest;
mod metrics;
mod reconcile;
mod schema;
mod seal;
mod store;
mod task;

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{error, info, warn};

use crate::access::Keys;
use crate::config::Settings;
use crate::domain::{ClaimSet, Clock, Event, VersionSource};
use crate::engine::{self, Engine};
use crate::http::{self, AppState, BatchPlaces, Server};
use crate::pipeline::{self, Delivery, Grouping, Limits, Replay, Spool, Stats};
use crate::repository::{
    self, ClickHouse, Eraser, EventReports, PageViews, PeriodicCheck, ReconcileStats, Reconciler,
    RivalEvents, Sealer, SealerStats,
};
use crate::telemetry::metrics::Metrics;
use crate::tls::Certificate;

pub use drain::drain;
pub use generate::generate;
use ingest::{event_ingest, view_ingest};
pub use reconcile::reconcile;
pub use schema::migrate;
use schema::prepare;
pub use seal::seal;
pub use store::days_kept;
use store::{clickhouse, event_seals, min_interval, plan, reports, reports_from, seals, user};
use task::{Task, run_lanes};

/// How long ClickHouse may still take for what was sent to it; after that it goes to the spool.
const LAST_INSERTS: Duration = Duration::from_secs(4);
/// How long requests in flight may take; longer than [`LAST_INSERTS`] and a write to the spool.
const FINISH_REQUESTS: Duration = Duration::from_secs(9);
/// How long the lanes may take for what was admitted and has lost its sender.
const DRAIN_LANES: Duration = Duration::from_secs(6);
/// How long the engine may take; its own deadline is shorter.
const STOP_ENGINE: Duration = Duration::from_secs(6);

/// How many spooled ids are remembered to find their views: about 50 MB.
const SPOOLED_IDS: usize = 1_000_000;
/// Batches that are read at once: each may take 8 MiB to decode zstd, beside a line and the blocks
/// that have their own budget.
const MAX_BATCHES: usize = 64;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 4096;

/// A running service.
pub struct App {
    serving: Serving,
    engine: Engine,
}

/// Everything but the engine, which outlives it.
struct Serving {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    delivery: Arc<Delivery<ClickHouse>>,
    http: Task<()>,
    lanes: Vec<Task<()>>,
    /// Replay, settlement, the sealer and the check: they may end at any instant.
    background: Vec<JoinHandle<()>>,
    sealer: Arc<Sealer>,
    check: Arc<PeriodicCheck>,
    keys: Option<Arc<Keys>>,
    certificate: Option<Arc<Certificate>>,
}

/// Starts the service; `clock` is the system's, but for tests.
///
/// # Errors
/// The first step that failed, in words for an operator; everything started before is stopped.
pub async fn start(settings: &Settings, clock: Clock) -> Result<App> {
    // First: what is wrong with the keys is known before anything is started.
    let access = access::access(settings)?;
    let certificate = connections::certificate(settings)?;
    let socket = bind(settings.listen_addr)?;
    let spool = open_spool(settings)?;
    let engine = start_engine(settings).await?;
    let door = (socket, access, certificate);
    match serve(settings, clock, door, spool, &engine).await {
        Ok(serving) => Ok(App { serving, engine }),
        Err(error) => {
            engine.stop().await;
            Err(error)
        }
    }
}

async fn serve(
    settings: &Settings,
    clock: Clock,
    (socket, access, certificate): (TcpSocket, http::Access, Option<Arc<Certificate>>),
    spool: Arc<Spool>,
    engine: &Engine,
) -> Result<Serving> {
    let clickhouse = clickhouse(settings, engine)?;
    prepare(&clickhouse, settings).await?;

    let limits = Limits {
        buffer_bytes: settings.ingest_buffer_bytes,
        grouping: Grouping {
            max_batch_records: settings.ingest_max_batch_rows as usize,
            min_interval: min_interval(settings),
            inserts_in_flight: settings.ingest_inserts_in_flight as usize,
        },
    };
    let sink = Arc::new(clickhouse.clone());
    let delivery = Arc::new(Delivery::new(sink, Arc::clone(&spool)));
    let (writer, lanes) = pipeline::open::<ClaimSet, _>(&delivery, limits);
    let (event_writer, event_lanes) = pipeline::open::<Event, _>(&delivery, limits);

    let node = settings
        .node_id
        .unwrap_or_else(|| rand::random_range(0..=VersionSource::MAX_NODE));
    info!(node, "writing updates under this node number");
    let (page_views, unfinished) = PageViews::new(
        clickhouse.clone(),
        writer.clone(),
        Arc::clone(&spool),
        VersionSource::new(node),
        clock.clone(),
    );
    let sealer = Sealer::new(seals(settings, &clickhouse));
    let event_sealer = Sealer::new(event_seals(settings, &clickhouse));
    let rivals = RivalEvents::new(clickhouse.clone());
    let check = Reconciler::new(clickhouse.clone(), clock.clone(), repository::PATIENCE, 0);
    let check = PeriodicCheck::new(check);
    let stopping = Arc::new(AtomicBool::new(false));
    let metrics = Metrics::default();
    let read_from = reports_from(settings, &clickhouse);
    let reports = reports(settings, &clickhouse, read_from.clone());
    let eraser = Eraser::new(
        clickhouse.clone(),
        reports.clone(),
        spool,
        clock.clone(),
        Duration::from_secs(settings.max_clock_skew_secs.into()),
    );
    let state = AppState {
        eraser: Arc::clone(&eraser),
        views: view_ingest(
            settings,
            writer,
            clickhouse.erasures(),
            clock.clone(),
            &metrics,
        ),
        events: event_ingest(
            settings,
            event_writer,
            rivals.clone(),
            clock.clone(),
            &metrics,
        )?,
        page_views,
        event_reports: EventReports::new(read_from, plan(settings)).measured_with(&reports),
        reports,
        delivery: Arc::clone(&delivery),
        sealer: Arc::clone(&sealer),
        event_sealer: Arc::clone(&event_sealer),
        check: Arc::clone(&check),
        clickhouse,
        clock,
        max_body_bytes: settings.max_body_bytes as usize,
        body_timeout: connections::timeouts(settings).body,
        batches: BatchPlaces::new(MAX_BATCHES),
        metrics,
        stopping: Arc::clone(&stopping),
    };
    let connections = connections::connections(settings, &access, &state.metrics);
    metrics::show(&state, engine.vitals(), &connections);
    let keys = access.keys.clone();
    let router = http::router(state, access);

    let address = settings.listen_addr;
    let listener = socket
        .listen(BACKLOG)
        .and_then(|listener| Ok((listener.local_addr()?, listener)))
        .with_context(|| format!("LISTEN_ADDR {address} can't be used"));
    let (address, listener) = listener?;
    let server = Server::new(
        router,
        connections,
        connections::timeouts(settings),
        certificate.clone(),
    );
    let http = Task::spawn(|stop| {
        let stopped = async {
            let _ = stop.await;
        };
        server.serve(listener, stopped)
    });
    let mut background = vec![
        tokio::spawn(Replay::new(Arc::clone(&delivery)).run()),
        tokio::spawn(unfinished.run()),
        tokio::spawn(eraser.run()),
    ];
    if settings.sealer {
        background.push(tokio::spawn(Arc::clone(&sealer).run()));
        background.push(tokio::spawn(event_sealer.run()));
        background.push(tokio::spawn(rivals.run()));
    }
    if settings.reconcile_interval_secs > 0 {
        let interval = Duration::from_secs(settings.reconcile_interval_secs.into());
        background.push(tokio::spawn(Arc::clone(&check).run(interval)));
    }
    Ok(Serving {
        address,
        stopping,
        http,
        lanes: run_lanes(lanes)
            .into_iter()
            .chain(run_lanes(event_lanes))
            .collect(),
        background,
        sealer,
        check,
        delivery,
        keys,
        certificate,
    })
}

impl App {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.serving.address
    }

    /// What has been written so far.
    pub fn stats(&self) -> Stats {
        self.serving.delivery.stats()
    }

    /// What has been sealed so far.
    pub fn sealer_stats(&self) -> SealerStats {
        self.serving.sealer.stats()
    }

    /// What the latest light reconciliation said.
    pub fn reconcile_stats(&self) -> ReconcileStats {
        self.serving.check.stats()
    }

    /// Reads the keys and the certificate again; where they can't be read, those that are known stay.
    pub fn reload(&self) {
        access::reload(self.serving.keys.as_deref());
        connections::reload(self.serving.certificate.as_deref());
    }

    /// Waits until nobody supervises the engine any more, which only a defect can bring about.
    pub async fn engine_lost(&self) {
        let mut endpoint = self.engine.endpoint();
        while endpoint.changed().await.is_ok() {}
    }

    /// Stops in the order that this module's documentation gives.
    pub async fn stop(self) {
        let Serving {
            stopping,
            delivery,
            mut http,
            lanes,
            background,
            sealer,
            check,
            ..
        } = self.serving;
        drop((sealer, check));
        stopping.store(true, Ordering::Relaxed);
        delivery.hurry(LAST_INSERTS);

        let _ = http.stop.send(());
        match timeout(FINISH_REQUESTS, &mut http.handle).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => error!(%error, "serving panicked"),
            Err(_) => {
                warn!(
                    seconds = FINISH_REQUESTS.as_secs(),
                    "requests still under way, not waited for"
                );
                http.handle.abort();
            }
        }

        let drained: Vec<_> = lanes
            .into_iter()
            .map(|lane| {
                let _ = lane.stop.send(());
                lane.handle
            })
            .collect();
        let drained = async {
            for lane in drained {
                let _ = lane.await;
            }
        };
        if timeout(DRAIN_LANES, drained).await.is_err() {
            warn!(
                seconds = DRAIN_LANES.as_secs(),
                "lanes not drained; the senders of the rest have no answer"
            );
        }
        for task in background {
            task.abort();
            let _ = task.await;
        }

        let waiting = delivery.spool().state();
        // With the last client goes its pool: the engine would wait for open connections.
        drop(delivery);
        if timeout(STOP_ENGINE, self.engine.stop()).await.is_err() {
            warn!(
                seconds = STOP_ENGINE.as_secs(),
                "engine not stopped in time"
            );
        }
        info!(spooled_files = waiting.files, "stopped");
    }
}

/// Takes the address before anything is started, without listening yet: a port in use is known at
/// once, and nobody connects to a service that is not ready.
fn bind(address: SocketAddr) -> Result<TcpSocket> {
    let taken = || format!("LISTEN_ADDR {address} can't be used");
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    };
    let socket = socket.with_context(taken)?;
    socket.set_reuseaddr(true).with_context(taken)?;
    socket.bind(address).with_context(taken)?;
    Ok(socket)
}

fn open_spool(settings: &Settings) -> Result<Arc<Spool>> {
    let directory = spool_dir(settings);
    let (spool, found) = Spool::open(&directory, settings.spool_max_bytes, SPOOLED_IDS)
        .with_context(|| format!("DATA_DIR {}", settings.data_dir.display()))?;
    if found.files > 0 {
        info!(
            files = found.files,
            bytes = found.bytes,
            "batches wait in the spool"
        );
    }
    Ok(Arc::new(spool))
}

/// Where batches wait, also for the operator's commands.
pub fn spool_dir(settings: &Settings) -> PathBuf {
    settings.data_dir.join("spool")
}

async fn start_engine(settings: &Settings) -> Result<Engine> {
    if let Some(url) = &settings.clickhouse_url {
        return Ok(Engine::external(engine::Endpoint {
            url: url.clone(),
            user: user(settings),
            password: settings.clickhouse_password.clone().unwrap_or_default(),
        }));
    }
    let cache_dir = match &settings.engine_cache_dir {
        Some(directory) => directory.clone(),
        None => engine::default_cache_dir()?,
    };
    let data_path = settings.data_dir.join("clickhouse");
    // Views are personal data: not for other users of this machine.
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&data_path)
        .with_context(|| format!("DATA_DIR {} can't be written", settings.data_dir.display()))?;
    let program = std::env::current_exe().context("the path of this program is unknown")?;
    let engine = Engine::embedded(engine::Settings {
        program,
        data_path,
        cache_dir,
    });
    Ok(engine.await?)
}
