//! A ClickHouse cluster of two shards: two engines that know each other by their TCP ports.
//!
//! Queries and inserts go through the real `Distributed` tables. What this engine has not got is done
//! here instead, by a gate before each server through which the service talks to it:
//!
//! - the queue of distributed DDL: a statement with `ON CLUSTER` is run on every server, without it;
//! - replication: each shard is one server, and the `Replicated` engines are their plain relatives. A
//!   table that all servers keep whole is kept by the first one, and the other one reads and writes it
//!   there: what replicas with quorum inserts show of it.
//!
//! A gate also counts what goes through it, and can be shut.

use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use traffic_api::engine::CHILD_SUBCOMMAND;

use super::engine::{ClickHouse, cache_dir, directory, shared_engine};

pub const CLUSTER: &str = "main";
/// A cluster of the first server alone.
const FIRST: &str = "first";
const PASSWORD: &str = "of-the-tests";
const PATIENCE: Duration = Duration::from_secs(30);
/// Tables that all servers keep whole.
const SHARED: [&str; 5] = [
    "schema_migrations",
    "traffic_seals",
    "events_seals",
    "traffic_pages_snapshots",
    "traffic_erasures",
];

/// A server that listens on ports that are known before it starts.
pub struct Server {
    pub direct: ClickHouse,
    child: Mutex<Option<(Child, ChildStdin)>>,
    directory: PathBuf,
    http: u16,
    tcp: u16,
}

/// What is seen, and decided, of the statements that go to one server.
#[derive(Default)]
pub struct Traffic {
    pub inserts: Mutex<Vec<String>>,
    pub reads: Mutex<Vec<String>>,
    pub shut: AtomicBool,
}

pub struct Cluster {
    pub servers: Vec<Arc<Server>>,
    /// The same servers as the service sees them.
    pub gates: Vec<ClickHouse>,
}

impl Cluster {
    /// The one cluster of this test process.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| Self::start("cluster"))
    }

    /// Two shards of the test's own.
    pub fn start(name: &str) -> Self {
        let ports = [(); 2].map(|()| (free_port(), free_port()));
        let shard = |tcp: u16| {
            format!(
                "<shard><internal_replication>true</internal_replication><replica>\
                 <host>127.0.0.1</host><port>{tcp}</port><user>service</user>\
                 <password>{PASSWORD}</password></replica></shard>"
            )
        };
        let [one, two] = ports.map(|(_, tcp)| shard(tcp));
        let servers = ports.iter().enumerate().map(|(i, (http, tcp))| {
            let more = format!(
                "<macros><shard>{i}</shard><replica>only</replica></macros><remote_servers>\
                 <{CLUSTER}>{one}{two}</{CLUSTER}><{FIRST}>{one}</{FIRST}></remote_servers>"
            );
            Server::start(&directory(&format!("{name}-{i}")), *http, *tcp, &more)
        });
        let servers: Vec<Arc<Server>> = servers.map(Arc::new).collect();
        let all: Vec<ClickHouse> = servers.iter().map(|s| s.direct.clone()).collect();
        let gates = (0..2).map(|i| gate(i, &all).0).collect();
        Self { servers, gates }
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

impl Server {
    /// Starts on these ports, with `more` in its configuration.
    pub fn start(directory: &Path, http: u16, tcp: u16, more: &str) -> Self {
        // It fetches the library if that is missing.
        shared_engine();
        let data = directory.join("clickhouse");
        std::fs::create_dir_all(&data).unwrap();
        let config = format!(
            "<clickhouse><users_config>users.xml</users_config>\
             <shutdown_wait_unfinished>1</shutdown_wait_unfinished>{more}</clickhouse>"
        );
        let user = |name: &str, password: &str| {
            format!(
                "<{name}><password>{password}</password><networks><ip>127.0.0.1</ip></networks>\
                 <profile>default</profile><quota>default</quota></{name}>"
            )
        };
        let users = format!(
            "<clickhouse><profiles><default/></profiles><quotas><default/></quotas>\
             <users>{}{}</users></clickhouse>",
            user("default", ""),
            user("service", PASSWORD)
        );
        std::fs::write(data.join("config.xml"), config).unwrap();
        std::fs::write(data.join("users.xml"), users).unwrap();
        let server = Self {
            direct: ClickHouse {
                url: format!("http://127.0.0.1:{http}"),
                user: "service".to_owned(),
                password: PASSWORD.to_owned(),
                cluster: None,
            },
            child: Mutex::new(None),
            directory: directory.to_owned(),
            http,
            tcp,
        };
        server.run();
        server
    }

    /// Starts it, again after [`Server::kill`].
    pub fn run(&self) {
        let (send, started) = mpsc::channel();
        let mut command = self.command();
        // The kernel ends the child with the thread that made it.
        std::thread::spawn(move || {
            send.send(command.spawn()).unwrap();
            loop {
                std::thread::park();
            }
        });
        let mut child = started.recv().unwrap().unwrap();
        let stdin = child.stdin.take().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while !self.answers() {
            if child.try_wait().unwrap().is_some() || Instant::now() > deadline {
                let mut why = String::new();
                let _ = child.kill();
                let _ = child.stderr.take().unwrap().read_to_string(&mut why);
                panic!("the server did not start: {why}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        *self.child.lock().unwrap() = Some((child, stdin));
    }

    fn command(&self) -> Command {
        let library = std::fs::read_dir(cache_dir()).unwrap().flatten();
        let library = library.map(|entry| entry.path().join("libchdb.so"));
        let library = library.filter(|path| path.exists()).max().unwrap();
        let data = self.directory.join("clickhouse");
        let mut command = Command::new(env!("CARGO_BIN_EXE_traffic-api"));
        command
            .arg(CHILD_SUBCOMMAND)
            .arg(library)
            .arg(std::process::id().to_string())
            .arg("--config-file=config.xml")
            .arg(format!("--path={}", data.display()))
            .arg("--listen_host=127.0.0.1")
            .arg(format!("--http_port={}", self.http))
            .arg(format!("--tcp_port={}", self.tcp))
            .arg(format!(
                "--logger.log={}",
                self.directory.join("engine.log").display()
            ))
            .arg("--log-level=information")
            .arg(
                "--query=SYSTEM START LISTEN TCP; SYSTEM START LISTEN HTTP; \
                 SELECT count() FROM file('/dev/stdin', 'LineAsString') FORMAT Null",
            )
            .current_dir(&data)
            .env_clear()
            .env("TZ", "UTC")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command
    }

    fn answers(&self) -> bool {
        use std::io::Write;
        let Ok(mut socket) = std::net::TcpStream::connect(("127.0.0.1", self.http)) else {
            return false;
        };
        let _ = socket.set_read_timeout(Some(Duration::from_secs(2)));
        let _ = write!(
            socket,
            "GET /?query=SELECT%2041%2B1&user=service&password={PASSWORD} HTTP/1.0\r\n\r\n"
        );
        let mut answer = String::new();
        let _ = socket.read_to_string(&mut answer);
        answer.ends_with("42\n")
    }

    /// SIGKILL.
    pub fn kill(&self) {
        if let Some((mut child, _)) = self.child.lock().unwrap().take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where one server's statements go, and all servers' that have `ON CLUSTER`.
struct Gate {
    own: usize,
    servers: Vec<ClickHouse>,
    traffic: Arc<Traffic>,
    http: reqwest::Client,
}

/// A gate before the server `own`.
pub fn gate(own: usize, servers: &[ClickHouse]) -> (ClickHouse, Arc<Traffic>) {
    let traffic = Arc::<Traffic>::default();
    let gate = Gate {
        own,
        servers: servers.to_vec(),
        traffic: Arc::clone(&traffic),
        http: reqwest::Client::new(),
    };
    let router = Router::new()
        .fallback(pass)
        .layer(DefaultBodyLimit::disable())
        .with_state(Arc::new(gate));
    let (send, address) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            send.send(listener.local_addr().unwrap()).unwrap();
            axum::serve(listener, router).await.unwrap();
        });
    });
    let clickhouse = ClickHouse {
        url: format!("http://{}", address.recv().unwrap()),
        ..servers[own].clone()
    };
    (clickhouse, traffic)
}

async fn pass(State(gate): State<Arc<Gate>>, request: Request) -> Response {
    if gate.traffic.shut.load(Ordering::SeqCst) {
        return (StatusCode::BAD_GATEWAY, "shut").into_response();
    }
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let query = head.uri.query().unwrap_or_default().to_owned();
    let text = String::from_utf8_lossy(&body);
    let ddl = format!(" ON CLUSTER '{CLUSTER}'");
    let mut targets = vec![(gate.own, body.clone())];
    if text.contains(&ddl) {
        let local = text.replace(&ddl, "");
        let servers = 0..gate.servers.len();
        let statements = servers.filter_map(|i| Some((i, Bytes::from(for_server(i, &local)?))));
        targets = statements.collect();
    }
    let is_insert = query.contains("query=INSERT") || text.starts_with("INSERT");
    let seen = format!("{query} {}", &text[..text.len().min(2000)]);
    match is_insert {
        true => gate.traffic.inserts.lock().unwrap().push(seen),
        false => gate.traffic.reads.lock().unwrap().push(seen),
    }
    let mut last = StatusCode::OK.into_response();
    for (server, statement) in targets {
        let url = format!("{}/?{query}", gate.servers[server].url);
        let mut own = gate.http.request(head.method.clone(), url).body(statement);
        for (name, value) in &head.headers {
            if ![
                header::HOST,
                header::CONTENT_LENGTH,
                header::TRANSFER_ENCODING,
            ]
            .contains(name)
            {
                own = own.header(name, value);
            }
        }
        last = match own.send().await {
            Ok(answer) => {
                let mut response = Response::builder().status(answer.status());
                for (name, value) in answer.headers() {
                    if name.as_str().starts_with("x-clickhouse") {
                        response = response.header(name, value);
                    }
                }
                let body = Body::from(answer.bytes().await.unwrap_or_default());
                response.body(body).unwrap()
            }
            Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
        };
        if !last.status().is_success() {
            return last;
        }
    }
    last
}

/// What a statement comes to on one server; nothing where it is done on another one.
fn for_server(server: usize, sql: &str) -> Option<String> {
    if server == 0 {
        return Some(plain(sql));
    }
    let statement = sql.trim_start();
    let about = |verb: &str| {
        let table = statement.strip_prefix(verb)?.split_whitespace().next()?;
        SHARED.into_iter().find(|shared| *shared == table)
    };
    if let Some(table) = about("CREATE TABLE IF NOT EXISTS ") {
        let (columns, _) = statement.split_once("ENGINE = ").unwrap();
        return Some(format!(
            "{columns}ENGINE = Distributed('{FIRST}', currentDatabase(), '{table}')"
        ));
    }
    let changes = ["ALTER TABLE ", "OPTIMIZE TABLE ", "TRUNCATE TABLE "];
    match changes.into_iter().any(|verb| about(verb).is_some()) {
        true => None,
        false => Some(plain(sql)),
    }
}

/// `ReplicatedE('path', 'replica', ARGS)` as `E(ARGS)`.
fn plain(sql: &str) -> String {
    let Some((before, engine)) = sql.split_once("ENGINE = Replicated") else {
        return sql.to_owned();
    };
    let (family, rest) = engine.split_once("('").unwrap();
    let (replication, rest) = rest.split_once(')').unwrap();
    let arguments: Vec<&str> = replication.split(", ").skip(2).collect();
    format!("{before}ENGINE = {family}({}){rest}", arguments.join(", "))
}
