//! What clients never read: ClickHouse's words, its address, and secrets.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use traffic_api::domain::Clock;

use crate::auth::operations;
use crate::support::relay::Relay;
use crate::support::{
    ClickHouse, TestApp, fresh_database, private_engine, rfc3339, shared_engine, view,
};

fn now() -> i64 {
    chrono::Utc::now().timestamp() - 10
}

/// Words of ClickHouse and of our statements, none of which is a word of the interface.
const WORDS: &[&str] = &[
    "SELECT",
    "INSERT",
    "PREWHERE",
    "WHERE ",
    "FINAL",
    "ALTER",
    "DROP",
    "DB::",
    "Exception",
    "Code:",
    "code 60",
    "UNKNOWN_TABLE",
    "READONLY",
    "MEMORY_LIMIT",
    "CONSTRAINT",
    "no_bad",
    "traffic_by_request",
    "traffic_hourly_pages",
    "traffic_marks",
    "traffic_seals",
    "traffic_pages_snapshots",
    "events_seals",
    "is_deleted",
    "sealed_at",
    "argMax",
    "toDateTime",
    "MergeTree",
    "RowBinary",
    "official build",
    "os error",
    "refused (",
    "127.0.0.1",
    "localhost",
    "default.",
];

struct Asked {
    app: TestApp,
    hidden: Vec<String>,
    statuses: Vec<u16>,
}

impl Asked {
    async fn start(clickhouse: &ClickHouse, flags: &[&str]) -> Self {
        let database = fresh_database();
        let app = TestApp::start_with(clickhouse, &database, Clock::system(), flags).await;
        let address = clickhouse.url.trim_start_matches("http://").to_owned();
        let port = address.rsplit(':').next().unwrap().to_owned();
        Self {
            hidden: vec![database, address, format!(":{port}")],
            app,
            statuses: Vec::new(),
        }
    }

    /// Every operation of the document, and those that are asked for in a second way.
    async fn ask_everything(&mut self, when: &str) {
        let mut calls: Vec<(Method, String, Option<String>)> = Vec::new();
        let at = now();
        for (method, path, _) in operations() {
            let body = match (method.as_str(), path.as_str()) {
                ("POST" | "PUT", "/api/traffic/1") => Some(view(1, at, "/a").to_string()),
                ("PATCH", _) => Some(json!({"page_url": "/b"}).to_string()),
                ("POST", "/api/traffic") => Some(
                    json!([{"request_id": 2, "user_id": 1, "created_at": rfc3339(at), "page_url": "/c"}])
                        .to_string(),
                ),
                ("POST", "/v1/events") => Some(
                    json!({"site_id": "c88a618e-fed4-457d-bb02-6576f512c4c3", "type": "serve",
                        "correlation_id": "98ae4334-6c12-4ce8-ae34-0454cac5b68c", "time": rfc3339(at)})
                    .to_string(),
                ),
                ("GET" | "DELETE", _) => None,
                other => panic!("no body for {other:?}"),
            };
            // The others need the views of user 1.
            let path = path.replace("/api/users/1/", "/api/users/2/");
            calls.push((method, path, body));
        }
        for path in [
            "/api/traffic/users/1/days?by=page&tz=Europe/Berlin",
            "/api/traffic/pages?interval=hour&limit=1",
            "/api/traffic/pages?prefix=/a&next=false",
            "/api/traffic/site?interval=hour",
            "/v1/report?limit=1",
        ] {
            calls.push((Method::GET, path.to_owned(), None));
        }
        for (method, path, body) in calls {
            let mut request = self.app.request(method.clone(), &path);
            if let Some(body) = body {
                let of_json = request.header("content-type", "application/json");
                request = of_json.body(body);
            }
            let response = request.send().await.unwrap();
            let status = response.status();
            self.statuses.push(status.as_u16());
            let shown = format!("{when}: {method} {path}: {status}");
            assert!(status != StatusCode::INTERNAL_SERVER_ERROR, "{shown}");
            let headers = format!("{:?}", response.headers());
            let text = response.text().await.unwrap();
            // Where the numbers are those of this service, and so is the name.
            let text = match path.as_str() {
                "/metrics" => without_own_words(&text),
                // An operator is told what is gone from which table.
                _ if path.ends_with("/traffic") && status.is_success() => continue,
                _ => text,
            };
            let hidden = self.hidden.iter().map(String::as_str);
            for word in WORDS.iter().copied().chain(hidden) {
                assert!(!text.contains(word), "{shown}: {word}: {text}");
                assert!(!headers.contains(word), "{shown}: {word}: {headers}");
            }
        }
    }
}

/// The values and labels of metrics; their help texts are ours.
fn without_own_words(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_has_clickhouses_words() {
    let engine = shared_engine();
    let relay = Relay::start(&engine).await;
    let behind = ClickHouse {
        url: format!("http://{}", relay.address),
        ..engine.clone()
    };
    let mut asked = Asked::start(&behind, &[]).await;
    let engine_port = engine.url.rsplit(':').next().unwrap().to_owned();
    asked.hidden.push(format!(":{engine_port}"));
    asked.ask_everything("all is well").await;
    assert!(asked.statuses.iter().all(|status| *status < 500));
    for (when, settings) in [
        ("read-only", "readonly=1"),
        ("no memory", "max_memory_usage=1"),
        ("an unknown setting", "no_such_setting=1"),
        (
            "no time",
            "max_rows_to_read=1&max_bytes_to_read=1&read_overflow_mode=throw",
        ),
        ("a wrong database", "database=no_such_database"),
    ] {
        asked.statuses.clear();
        relay.set(settings);
        asked.ask_everything(when).await;
        assert!(
            asked.statuses.contains(&503),
            "{when}: {:?}",
            asked.statuses
        );
    }
    relay.set("");
    asked.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_when_tables_are_gone_or_rows_are_refused() {
    let engine = shared_engine();
    let mut asked = Asked::start(&engine, &[]).await;
    asked
        .app
        .sql("ALTER TABLE traffic ADD CONSTRAINT no_bad CHECK page_url NOT LIKE '/%'")
        .await;
    asked.ask_everything("refused").await;
    assert!(asked.statuses.contains(&422), "{:?}", asked.statuses);
    for table in ["traffic_hourly", "traffic_by_request", "traffic", "events"] {
        asked.statuses.clear();
        asked.app.sql(&format!("DROP TABLE {table} SYNC")).await;
        asked.ask_everything(table).await;
    }
    assert!(asked.statuses.contains(&503), "{:?}", asked.statuses);
    asked.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_when_clickhouse_is_gone() {
    let (engine, clickhouse) = private_engine("leaks").await;
    let mut asked = Asked::start(&clickhouse, &[]).await;
    engine.stop().await;
    asked.ask_everything("gone").await;
    assert!(asked.statuses.contains(&503), "{:?}", asked.statuses);
    let ready = asked.app.get("/health/ready").await;
    assert_eq!(ready.body["clickhouse"], Value::from("down"));
    asked.app.stop().await;
}
