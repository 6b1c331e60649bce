//! The composition root: the only place that knows everyone.
//!
//! Start: bind the address -> start the engine -> migrate -> open the lane -> serve.
//! Stop: not ready -> stop accepting, finish the requests in flight -> drain the lane -> stop the
//! engine. Each step has a deadline; together they stay within 25 seconds.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::serve::ListenerExt;
use tokio::net::TcpSocket;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{error, info, warn};

use crate::config::Settings;
use crate::domain::{ClaimSet, Clock, RecentWrites, VersionSource};
use crate::engine::{self, Engine};
use crate::http::{self, Acceptance, AppState};
use crate::pipeline::{self, Grouping, Limits, Stats, Writer};
use crate::repository::{self, ClickHouse, Connection, Locate, PageViews, Reports, Schema};

/// How long requests in flight may take once the service stops. Longer than an insert normally
/// takes by far; one that hangs is cut off.
const FINISH_REQUESTS: Duration = Duration::from_secs(10);
/// How long the lane may take for what was admitted.
const DRAIN_LANE: Duration = Duration::from_secs(8);
/// How long the engine may take; its own deadline is shorter.
const STOP_ENGINE: Duration = Duration::from_secs(6);

/// How many posted ids are remembered to find conflicts: about 20 MB.
const RECENT_IDS: NonZeroUsize = NonZeroUsize::new(200_000).unwrap();
/// Connections that wait to be accepted.
const BACKLOG: u32 = 4096;

/// A running service.
pub struct App {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    writer: Writer<ClaimSet>,
    stop_http: oneshot::Sender<()>,
    http: JoinHandle<std::io::Result<()>>,
    stop_lane: oneshot::Sender<()>,
    lane: JoinHandle<()>,
    engine: Engine,
}

/// Starts the service; `clock` is the system's, but for tests.
///
/// # Errors
/// The first step that failed, in words for an operator; everything started before is stopped.
pub async fn start(settings: &Settings, clock: Clock) -> Result<App> {
    let socket = bind(settings.listen_addr)?;
    let engine = start_engine(settings).await?;
    match serve(settings, clock, socket, &engine).await {
        Ok(running) => Ok(running.with(engine)),
        Err(error) => {
            engine.stop().await;
            Err(error)
        }
    }
}

/// Brings the schema up to date and says what was done.
///
/// # Errors
/// Why it could not be.
pub async fn migrate(settings: &Settings) -> Result<repository::Outcome> {
    let engine = start_engine(settings).await?;
    let outcome = prepare(&clickhouse(settings, &engine), settings).await;
    engine.stop().await;
    outcome
}

/// Everything but the engine, which outlives it.
struct Serving {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    writer: Writer<ClaimSet>,
    stop_http: oneshot::Sender<()>,
    http: JoinHandle<std::io::Result<()>>,
    stop_lane: oneshot::Sender<()>,
    lane: JoinHandle<()>,
}

impl Serving {
    fn with(self, engine: Engine) -> App {
        App {
            address: self.address,
            stopping: self.stopping,
            writer: self.writer,
            stop_http: self.stop_http,
            http: self.http,
            stop_lane: self.stop_lane,
            lane: self.lane,
            engine,
        }
    }
}

async fn serve(
    settings: &Settings,
    clock: Clock,
    socket: TcpSocket,
    engine: &Engine,
) -> Result<Serving> {
    let clickhouse = clickhouse(settings, engine);
    prepare(&clickhouse, settings).await?;

    let limits = Limits {
        buffer_bytes: settings.ingest_buffer_bytes,
        grouping: Grouping {
            max_batch_records: settings.ingest_max_batch_rows as usize,
            min_interval: Duration::from_millis(settings.ingest_min_interval_ms.into()),
            inserts_in_flight: settings.ingest_inserts_in_flight as usize,
        },
    };
    let (writer, lane) = pipeline::open::<ClaimSet, _>(Arc::new(clickhouse.clone()), limits);
    let (stop_lane, lane_stopped) = oneshot::channel();

    let node = settings
        .node_id
        .unwrap_or_else(|| rand::random_range(0..=VersionSource::MAX_NODE));
    info!(node, "writing updates under this node number");
    let stopping = Arc::new(AtomicBool::new(false));
    let state = AppState {
        writer: writer.clone(),
        page_views: Arc::new(PageViews::new(
            clickhouse.clone(),
            writer.clone(),
            VersionSource::new(node),
            clock.clone(),
        )),
        reports: Reports::new(reports_from(settings, &clickhouse)),
        clickhouse,
        recent: RecentWrites::new(RECENT_IDS),
        clock,
        acceptance: Acceptance {
            retention_days: settings.retention_days,
            max_clock_skew_secs: settings.max_clock_skew_secs,
        },
        stopping: Arc::clone(&stopping),
    };
    let router = http::router(state, settings.max_body_bytes as usize);

    let address = settings.listen_addr;
    let listener = socket
        .listen(BACKLOG)
        .and_then(|listener| Ok((listener.local_addr()?, listener)))
        .with_context(|| format!("LISTEN_ADDR {address} can't be used"));
    let (address, listener) = listener?;
    let (stop_http, http_stopped) = oneshot::channel::<()>();
    let http = axum::serve(
        listener.tap_io(|stream| {
            // Answers are small: waiting to fill a packet would only add latency.
            let _ = stream.set_nodelay(true);
        }),
        router,
    )
    .with_graceful_shutdown(async {
        let _ = http_stopped.await;
    });
    Ok(Serving {
        address,
        stopping,
        writer,
        stop_http,
        http: tokio::spawn(http.into_future()),
        stop_lane,
        lane: tokio::spawn(lane.run(lane_stopped)),
    })
}

impl App {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the lane has inserted so far.
    pub fn ingest(&self) -> Stats {
        self.writer.stats()
    }

    /// The embedded engine's process, if there is one and it runs.
    pub fn engine_pid(&self) -> Option<u32> {
        self.engine.pid()
    }

    /// Stops in the order that this module's documentation gives.
    pub async fn stop(mut self) {
        self.stopping.store(true, Ordering::Relaxed);

        let _ = self.stop_http.send(());
        match timeout(FINISH_REQUESTS, &mut self.http).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => error!(%error, "serving failed"),
            Ok(Err(error)) => error!(%error, "serving panicked"),
            Err(_) => {
                warn!(seconds = FINISH_REQUESTS.as_secs(), "requests cut off");
                self.http.abort();
            }
        }

        let _ = self.stop_lane.send(());
        if timeout(DRAIN_LANE, &mut self.lane).await.is_err() {
            warn!(
                seconds = DRAIN_LANE.as_secs(),
                "lane not drained; its senders have no answer"
            );
            self.lane.abort();
        }

        if timeout(STOP_ENGINE, self.engine.stop()).await.is_err() {
            warn!(
                seconds = STOP_ENGINE.as_secs(),
                "engine not stopped in time"
            );
        }
        info!("stopped");
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

async fn start_engine(settings: &Settings) -> Result<Engine> {
    if let Some(url) = &settings.clickhouse_url {
        return Ok(Engine::external(engine::Endpoint {
            url: url.clone(),
            user: settings.clickhouse_user.clone(),
            password: settings.clickhouse_password.clone(),
        }));
    }
    let cache_dir = match &settings.engine_cache_dir {
        Some(directory) => directory.clone(),
        None => engine::default_cache_dir()?,
    };
    let data_path = settings.data_dir.join("clickhouse");
    std::fs::create_dir_all(&data_path)
        .with_context(|| format!("DATA_DIR {} can't be written", settings.data_dir.display()))?;
    let program = std::env::current_exe().context("the path of this program is unknown")?;
    let engine = Engine::embedded(engine::Settings {
        program,
        data_path,
        cache_dir,
    });
    Ok(engine.await?)
}

fn clickhouse(settings: &Settings, engine: &Engine) -> ClickHouse {
    let endpoint = engine.endpoint();
    let locate: Locate = Arc::new(move || {
        endpoint.borrow().as_ref().map(|endpoint| Connection {
            url: endpoint.url.clone(),
            user: endpoint.user.clone(),
            password: endpoint.password.clone(),
        })
    });
    let schema = Schema {
        database: settings.clickhouse_database.clone(),
        cluster: settings.clickhouse_cluster.clone(),
        retention_days: settings.retention_days,
    };
    ClickHouse::new(locate, schema)
}

/// Reports may come from a replica; single views never do, because an update must see all claims.
fn reports_from(settings: &Settings, clickhouse: &ClickHouse) -> ClickHouse {
    let Some(url) = settings.clickhouse_read_url.clone() else {
        return clickhouse.clone();
    };
    let connection = Connection {
        url,
        user: settings.clickhouse_user.clone(),
        password: settings.clickhouse_password.clone(),
    };
    clickhouse.at(Arc::new(move || Some(connection.clone())))
}

async fn prepare(clickhouse: &ClickHouse, settings: &Settings) -> Result<repository::Outcome> {
    let server = match &settings.clickhouse_url {
        Some(url) => format!("CLICKHOUSE_URL {url}"),
        None => "the embedded clickhouse".to_owned(),
    };
    clickhouse.ping().await.with_context(|| server)?;
    let outcome = repository::migrate(clickhouse)
        .await
        .context("schema not up to date")?;
    for name in &outcome.applied {
        info!(name, "migration applied");
    }
    for table in &outcome.retention_changed {
        info!(table, days = settings.retention_days, "retention changed");
    }
    if !outcome.unknown.is_empty() {
        warn!(migrations = ?outcome.unknown, "the schema is newer than this binary");
    }
    Ok(outcome)
}
