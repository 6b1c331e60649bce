//! A real engine, and the real service on it, each a process of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use traffic_api::engine::{self, Engine};
use traffic_api::pipeline::spool::Name;

use super::place::Place;
use super::support::service::{self, Service};
use super::support::{ClickHouse, cache_dir};

/// How long merges that a round has left behind may take before the next one starts.
const SETTLE: Duration = Duration::from_secs(3);

/// An engine on a fresh data directory.
pub struct Stack {
    engine: Option<Engine>,
    pub clickhouse: ClickHouse,
    runtime: tokio::runtime::Runtime,
    pub place: Place,
}

impl Stack {
    pub fn start(place: Place) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let settings = engine::Settings {
            program: env!("CARGO_BIN_EXE_traffic-api").into(),
            data_path: place.path().join("engine").join("clickhouse"),
            cache_dir: cache_dir(),
        };
        std::fs::create_dir_all(&settings.data_path).expect("a directory");
        let engine = runtime
            .block_on(Engine::embedded(settings))
            .unwrap_or_else(|e| panic!("{e}"));
        let stack = Self {
            clickhouse: ClickHouse::of(&engine),
            engine: Some(engine),
            runtime,
            place,
        };
        println!(
            "data directory on {}; clickhouse {}",
            stack.place.kind(),
            stack.sql("default", "SELECT version()")
        );
        stack
    }

    pub fn engine_pid(&self) -> u32 {
        let engine = self.engine.as_ref().expect("runs until dropped");
        engine.pid().expect("the engine has died")
    }

    /// ClickHouse's own HTTP interface.
    pub fn engine_address(&self) -> SocketAddr {
        let host = self.clickhouse.url.trim_start_matches("http://");
        host.parse().expect("an address")
    }

    pub fn sql(&self, database: &str, sql: &str) -> String {
        self.runtime.block_on(self.clickhouse.sql(database, sql))
    }

    pub fn number(&self, sql: &str) -> u64 {
        let text = self.sql("default", sql);
        text.parse().unwrap_or_else(|_| panic!("{sql}: {text}"))
    }

    /// Inserts since the engine's start.
    pub fn inserts(&self) -> u64 {
        self.number("SELECT sum(value) FROM system.events WHERE event = 'InsertQuery'")
    }

    pub fn active_parts(&self) -> u64 {
        self.number("SELECT count() FROM system.parts WHERE active")
    }

    /// Waits, not for ever, until no merge is under way.
    pub fn settle(&self) {
        let end = Instant::now() + SETTLE;
        while Instant::now() < end && self.number("SELECT count() FROM system.merges") > 0 {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the service with its spool in `name` has brought all of it to ClickHouse.
    pub fn await_replay(&self, name: &str) {
        let spool = self.place.path().join(name).join("spool");
        let waits = || {
            let files = std::fs::read_dir(&spool).into_iter().flatten().flatten();
            let mut names = files.map(|file| file.file_name());
            names.any(|name| name.to_str().and_then(Name::parse).is_some())
        };
        while waits() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn command(&self, data_dir: &Path, database: &str) -> std::process::Command {
        std::fs::create_dir_all(data_dir).expect("a directory");
        let mut command = Service::command(data_dir);
        command
            .env("CLICKHOUSE_URL", &self.clickhouse.url)
            .env("CLICKHOUSE_USER", &self.clickhouse.user)
            .env("CLICKHOUSE_PASSWORD", &self.clickhouse.password)
            .env("CLICKHOUSE_DATABASE", database);
        command
    }

    /// The real binary on this engine, in `database`, its spool in `data_dir`.
    pub fn service_in(
        &self,
        data_dir: &Path,
        database: &str,
        settings: &[(&str, &str)],
    ) -> Service {
        let mut command = self.command(data_dir, database);
        command.envs(settings.iter().copied());
        Service::spawn(command)
    }

    /// The same with its spool beside the engine's data.
    pub fn service(&self, database: &str, settings: &[(&str, &str)]) -> Service {
        self.service_in(&self.place.path().join(database), database, settings)
    }

    /// An empty `database` with the service's own schema, for writing to it without the service.
    pub fn schema(&self, database: &str) {
        let mut command = self.command(&self.place.path().join(database), database);
        command.arg("migrate");
        let (code, output, error) = service::run(command);
        assert_eq!(code, Some(0), "{output}{error}");
    }

    /// The head of a request to ClickHouse itself that runs `sql`, up to the length of its body.
    pub fn head(&self, database: &str, sql: &str, settings: &str) -> String {
        let mut query = String::new();
        for byte in sql.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => query.push(char::from(byte)),
                _ => query.push_str(&format!("%{byte:02X}")),
            }
        }
        format!(
            "POST /?database={database}&query={query}{settings} HTTP/1.1\r\nhost: bench\r\n\
             x-clickhouse-user: {}\r\nx-clickhouse-key: {}\r\ncontent-length: ",
            self.clickhouse.user, self.clickhouse.password
        )
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if let Some(engine) = self.engine.take() {
            self.runtime.block_on(engine.stop());
        }
    }
}
