//! A real ClickHouse for the tests: the embedded engine, started once per run.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use traffic_api::engine::{self, Engine};

/// A server that tests may use.
#[derive(Clone)]
pub struct ClickHouse {
    pub url: String,
    pub user: String,
    pub password: String,
    /// The cluster that its tables are spread over.
    pub cluster: Option<&'static str>,
}

/// The one engine of this test process; it ends with the process.
pub fn shared_engine() -> ClickHouse {
    static SHARED: OnceLock<ClickHouse> = OnceLock::new();
    SHARED
        .get_or_init(|| {
            let (answer, started) = std::sync::mpsc::channel();
            // Its own thread and runtime: those of a test end with the test.
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Runtime::new().unwrap();
                runtime.block_on(async {
                    let engine = start(&directory("shared")).await;
                    answer.send(ClickHouse::of(&engine)).unwrap();
                    std::future::pending::<()>().await;
                });
            });
            started.recv().expect("the engine starts")
        })
        .clone()
}

/// An engine of the test's own, to be killed or measured.
pub async fn private_engine(name: &str) -> (Engine, ClickHouse) {
    let engine = start(&directory(name)).await;
    let clickhouse = ClickHouse::of(&engine);
    (engine, clickhouse)
}

async fn start(directory: &Path) -> Engine {
    let settings = engine::Settings {
        program: env!("CARGO_BIN_EXE_traffic-api").into(),
        data_path: directory.join("clickhouse"),
        cache_dir: cache_dir(),
    };
    Engine::embedded(settings)
        .await
        .unwrap_or_else(|e| panic!("{e}"))
}

/// Where the engine's library is kept, as the service would have it.
pub fn cache_dir() -> PathBuf {
    std::env::var_os("ENGINE_CACHE_DIR")
        .map_or_else(|| engine::default_cache_dir().unwrap(), PathBuf::from)
}

/// A directory for this run; those of runs that have ended are swept first.
pub fn directory(name: &str) -> PathBuf {
    static SWEPT: OnceLock<()> = OnceLock::new();
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("it");
    SWEPT.get_or_init(|| {
        for entry in std::fs::read_dir(&root).into_iter().flatten().flatten() {
            let process = Path::new("/proc").join(entry.file_name());
            if !process.exists() {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    });
    let directory = root.join(std::process::id().to_string()).join(name);
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

impl ClickHouse {
    pub fn of(engine: &Engine) -> Self {
        let endpoint = engine.endpoint().borrow().clone().expect("the engine runs");
        Self {
            url: endpoint.url,
            user: endpoint.user,
            password: endpoint.password,
            cluster: None,
        }
    }

    /// The service's flags for this server.
    pub fn flags(&self) -> Vec<String> {
        let mut flags = vec![
            format!("--clickhouse-url={}", self.url),
            format!("--clickhouse-user={}", self.user),
            format!("--clickhouse-password={}", self.password),
        ];
        let cluster = self
            .cluster
            .map(|name| format!("--clickhouse-cluster={name}"));
        flags.extend(cluster);
        flags
    }

    /// As one of the servers of a cluster.
    pub fn in_cluster(&self, name: &'static str) -> Self {
        Self {
            cluster: Some(name),
            ..self.clone()
        }
    }

    /// The table that holds the rows of `name`, as it must be called in a statement that changes it.
    pub fn rows_of(&self, name: &str) -> String {
        let shared = ["traffic_seals", "events_seals", "schema_migrations"].contains(&name);
        match self.cluster {
            Some(cluster) if shared => format!("{name} ON CLUSTER '{cluster}'"),
            Some(cluster) => format!("{name}_local ON CLUSTER '{cluster}'"),
            None => name.to_owned(),
        }
    }

    /// Runs SQL over plain HTTP, independent of the service's own client.
    pub async fn sql(&self, database: &str, sql: &str) -> String {
        let settings = match self.cluster {
            Some(_) => "&distributed_foreground_insert=1",
            None => "",
        };
        let response = reqwest::Client::new()
            .post(format!("{}/?database={database}{}", self.url, settings))
            .header("X-ClickHouse-User", &self.user)
            .header("X-ClickHouse-Key", &self.password)
            .body(sql.to_owned())
            .send()
            .await
            .unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        assert!(status.is_success(), "{sql}: {text}");
        text.trim_end().to_owned()
    }
}
