//! What every test stands on.

pub mod browser;
pub mod cluster;
mod engine;
pub mod nginx;
pub mod relay;
mod server_time;
pub mod service;
pub mod zookeeper;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::Parser;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use traffic_api::app::{self, App};
use traffic_api::config::Cli;
use traffic_api::domain::Clock;

pub use engine::{ClickHouse, cache_dir, directory, private_engine, shared_engine};
pub use server_time::{MarkClock, repository, trust_marks_since};

/// A clock that the test moves, in seconds since the epoch.
#[derive(Clone)]
pub struct TestClock(Arc<AtomicI64>);

impl TestClock {
    pub fn at(seconds: i64) -> Self {
        Self(Arc::new(AtomicI64::new(seconds)))
    }

    /// The real time, standing still.
    pub fn frozen() -> Self {
        Self::at(Utc::now().timestamp())
    }

    pub fn now(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }

    pub fn set(&self, seconds: i64) {
        self.0.store(seconds, Ordering::SeqCst);
    }

    /// This clock as seen by a node whose own runs `behind` seconds late.
    pub fn behind(&self, behind: i64) -> Clock {
        let clock = self.clone();
        Clock::from_fn(move || DateTime::from_timestamp(clock.now() - behind, 0).unwrap())
    }
}

/// RFC 3339 of seconds since the epoch.
pub fn rfc3339(seconds: i64) -> String {
    DateTime::from_timestamp(seconds, 0)
        .unwrap()
        .format("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}

/// A database name that no other test of this run has.
pub fn fresh_database() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "it_{}_{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// The service, started inside the test.
pub struct TestApp {
    app: App,
    pub database: String,
    pub clickhouse: ClickHouse,
    /// Where requests are sent instead.
    pub proxy: Option<SocketAddr>,
    http: reqwest::Client,
}

impl TestApp {
    /// On the shared engine, in a database of its own, at the real time.
    pub async fn start() -> Self {
        Self::start_with(&shared_engine(), &fresh_database(), Clock::system(), &[]).await
    }

    /// On the shared engine at a chosen time.
    pub async fn start_at(clock: &TestClock) -> Self {
        Self::start_with(&shared_engine(), &fresh_database(), clock.behind(0), &[]).await
    }

    /// The data directory is new unless `flags` name one.
    pub async fn start_with(
        clickhouse: &ClickHouse,
        database: &str,
        clock: Clock,
        flags: &[&str],
    ) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let connection = clickhouse.flags();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let data_dir = directory(&format!("app-{number}"));
        let data_dir = format!("--data-dir={}", data_dir.display());
        let fixed = [
            "traffic-api",
            "--listen-addr=127.0.0.1:0",
            &format!("--clickhouse-database={database}"),
            if flags.iter().any(|f| f.starts_with("--data-dir")) {
                ""
            } else {
                &data_dir
            },
        ];
        let arguments = fixed
            .into_iter()
            .filter(|flag| !flag.is_empty())
            .chain(connection.iter().map(String::as_str))
            .chain(flags.iter().copied());
        let settings = Cli::try_parse_from(arguments)
            .unwrap_or_else(|e| panic!("{e}"))
            .settings;
        // The spool of an app that has just stopped may still be in the hands of a thread that writes
        // to the disk.
        let mut started = app::start(&settings, clock.clone()).await;
        for _ in 0..100 {
            match &started {
                Err(error) if format!("{error:#}").contains("already uses") => {}
                _ => break,
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            started = app::start(&settings, clock.clone()).await;
        }
        let app = started.unwrap_or_else(|e| panic!("{e:#}"));
        Self {
            app,
            database: database.to_owned(),
            clickhouse: clickhouse.clone(),
            proxy: None,
            http: reqwest::Client::new(),
        }
    }

    pub fn stats(&self) -> traffic_api::pipeline::Stats {
        self.app.stats()
    }

    pub fn sealer_stats(&self) -> traffic_api::repository::SealerStats {
        self.app.sealer_stats()
    }

    pub fn reconcile_stats(&self) -> traffic_api::repository::ReconcileStats {
        self.app.reconcile_stats()
    }

    pub async fn stop(self) {
        drop(self.http);
        self.app.stop().await;
    }

    /// The service's own.
    pub fn address(&self) -> SocketAddr {
        self.app.address()
    }

    pub fn url(&self, path: &str) -> String {
        let address = self.proxy.unwrap_or_else(|| self.address());
        format!("http://{address}{path}")
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, self.url(path))
    }

    pub async fn call(&self, method: Method, path: &str, body: &Value) -> Answer {
        let response = self.request(method, path).json(body).send().await.unwrap();
        Answer::of(response).await
    }

    pub async fn post(&self, id: u64, view: &Value) -> Answer {
        self.call(Method::POST, &format!("/api/traffic/{id}"), view)
            .await
    }

    pub async fn put(&self, id: u64, view: &Value) -> Answer {
        self.call(Method::PUT, &format!("/api/traffic/{id}"), view)
            .await
    }

    pub async fn patch(&self, id: u64, change: &Value) -> Answer {
        self.call(Method::PATCH, &format!("/api/traffic/{id}"), change)
            .await
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path).send().await.unwrap()).await
    }

    pub async fn delete(&self, id: u64) -> Answer {
        let path = format!("/api/traffic/{id}");
        Answer::of(self.request(Method::DELETE, &path).send().await.unwrap()).await
    }

    /// The daily report of a user.
    pub async fn daily(&self, user_id: u32) -> Value {
        let answer = self.get(&format!("/api/traffic/daily/{user_id}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        answer.body
    }

    /// Runs SQL in this test's database and returns its output.
    pub async fn sql(&self, sql: &str) -> String {
        self.clickhouse.sql(&self.database, sql).await
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    pub async fn of(response: Response) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.bytes().await.unwrap();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Self {
            status,
            headers,
            body,
        }
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// The names of the bad fields.
    pub fn bad_fields(&self) -> Vec<&str> {
        let errors = self.body["errors"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        errors.iter().filter_map(|e| e["field"].as_str()).collect()
    }
}

/// A body of a page view.
pub fn view(user_id: u32, created_at: i64, page_url: &str) -> Value {
    json!({"user_id": user_id, "created_at": rfc3339(created_at), "page_url": page_url})
}
