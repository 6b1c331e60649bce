//! What the log says, and what it must not say.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::support::service::{Service, run};
use crate::support::{directory, fresh_database, shared_engine};

const USER: u32 = 4_011_223_344;
const PAGE: &str = "/page-of-the-test-zqxw";

const JSON: (&str, &str) = ("LOG_FORMAT", "json");

/// The real binary on the shared engine, its log in a file.
struct Logged {
    service: Service,
    log: PathBuf,
    database: String,
    http: reqwest::Client,
}

impl Logged {
    async fn start(name: &str, settings: &[(&str, &str)]) -> Self {
        let data = directory(name);
        let (log, database) = (data.join("log"), fresh_database());
        let engine = shared_engine();
        let mut command = Service::command(&data);
        command
            .env("CLICKHOUSE_URL", &engine.url)
            .env("CLICKHOUSE_USER", &engine.user)
            .env("CLICKHOUSE_PASSWORD", &engine.password)
            .env("CLICKHOUSE_DATABASE", &database)
            .envs(settings.iter().copied());
        let is_json = settings.contains(&JSON);
        let file = log.clone();
        let start = move || {
            if is_json {
                return Service::spawn_with_json_log(command, &file);
            }
            command.stderr(File::create(&file).unwrap());
            Service::spawn_with_stderr(command)
        };
        Self {
            service: tokio::task::spawn_blocking(start).await.unwrap(),
            log,
            database,
            // An address that nothing else has.
            http: reqwest::Client::builder()
                .local_address(std::net::IpAddr::from([127, 0, 0, 77]))
                .build()
                .unwrap(),
        }
    }

    async fn send(&self, request: RequestBuilder) -> (StatusCode, String, String) {
        let response = request.send().await.unwrap();
        let id = response.headers().get("x-request-id").unwrap();
        let id = id.to_str().unwrap().to_owned();
        (response.status(), id, response.text().await.unwrap())
    }

    async fn get(&self, path: &str) -> (StatusCode, String, String) {
        self.send(self.http.get(self.service.url(path))).await
    }

    async fn post(&self, id: u64, body: &Value) -> StatusCode {
        let url = self.service.url(&format!("/api/traffic/{id}"));
        self.send(self.http.post(url).json(body)).await.0
    }

    async fn sql(&self, sql: &str) {
        shared_engine().sql(&self.database, sql).await;
    }

    fn text(&self) -> String {
        read(&self.log)
    }

    /// The lines of a log in JSON with this message.
    fn lines(&self, message: &str) -> Vec<Value> {
        let text = self.text();
        let lines = text.lines().map(|line| {
            serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e}: {line}"))
        });
        lines.filter(|line| line["message"] == message).collect()
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

fn view(page: &str) -> Value {
    let at = chrono::Utc::now() - chrono::Duration::seconds(10);
    json!({"user_id": USER, "created_at": at.to_rfc3339(), "page_url": page})
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_is_one_line_under_its_id() {
    let settings = [JSON, ("SLOW_REPORT_MS", "0")];
    let logged = Logged::start("log-lines", &settings).await;
    assert_eq!(logged.post(1, &view(PAGE)).await, StatusCode::CREATED);
    let url = logged.service.url(&format!("/api/traffic/daily/{USER}"));
    let asked = logged
        .http
        .get(&url)
        .header("x-request-id", "from-a-proxy/17");
    let (status, id, body) = logged.send(asked).await;
    assert_eq!((status, id.as_str()), (StatusCode::OK, "from-a-proxy/17"));
    let bad = logged.http.get(&url).header("x-request-id", "two words");
    let (_, fresh, _) = logged.send(bad).await;
    assert_eq!(fresh.len(), 36);
    let (status, lost, _) = logged.get("/nothing/here").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    logged.get("/health").await;

    let lines = logged.lines("request");
    let of = |id: &str| {
        let mut found = lines.iter().filter(|line| line["x_request_id"] == id);
        let line = found.next().unwrap_or_else(|| panic!("{id}: {lines:?}"));
        assert!(found.next().is_none(), "more than one line for {id}");
        line
    };
    assert_eq!(lines.len(), 4, "all but the probe: {lines:?}");
    let report = of("from-a-proxy/17");
    assert_eq!(report["level"], "INFO");
    assert_eq!(report["target"], "traffic_api::request");
    assert_eq!(report["method"], "GET");
    assert_eq!(report["route"], "/api/traffic/daily/{user_id}");
    assert_eq!(report["status"], 200);
    assert_eq!(report["response_bytes"], body.len());
    assert!(report["latency_ms"].as_f64().unwrap() > 0.0);
    let lost = of(&lost);
    assert_eq!(
        (&lost["status"], &lost["route"]),
        (&json!(404), &json!("unmatched"))
    );
    assert_eq!(lost["problem"], "no-such-route");
    let posted = lines.iter().find(|line| line["method"] == "POST").unwrap();
    assert_eq!(posted["status"], 201);

    // With a threshold of nothing every report is slow.
    let slow = logged.lines("slow report");
    assert_eq!(slow.len(), 2);
    assert_eq!(slow[0]["level"], "WARN");
    assert_eq!(
        (&slow[0]["report"], &slow[0]["source"]),
        (&json!("daily"), &json!("claims"))
    );
    assert!(slow[0]["query_id"].as_str().unwrap().starts_with("daily-"));
    assert_eq!(slow[0]["statements"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_level_decides_and_text_is_the_default() {
    let quiet = [("LOG_LEVEL", "info,traffic_api::request=warn")];
    let logged = Logged::start("log-quiet", &quiet).await;
    logged.post(1, &view(PAGE)).await;
    let text = logged.text();
    assert!(text.contains(" INFO ") && text.contains("ready"), "{text}");
    assert!(!text.contains("x_request_id"), "{text}");

    let logged = Logged::start("log-error", &[("LOG_LEVEL", "error")]).await;
    logged.post(1, &view(PAGE)).await;
    assert_eq!(logged.text(), "");

    let logged = Logged::start("log-debug", &[("LOG_LEVEL", "debug")]).await;
    logged.get("/health").await;
    assert!(logged.text().contains("route=\"/health\""));
}

/// `queryID()` is what ClickHouse itself calls the statement.
#[tokio::test(flavor = "multi_thread")]
async fn clickhouse_knows_statements_by_the_names_that_are_logged() {
    let logged = Logged::start("log-query-id", &[JSON]).await;
    logged
        .sql("ALTER TABLE traffic ADD COLUMN stated String MATERIALIZED queryID()")
        .await;
    assert_eq!(logged.post(1, &view(PAGE)).await, StatusCode::CREATED);
    let stated = shared_engine();
    let stated = stated
        .sql(&logged.database, "SELECT stated FROM traffic")
        .await;
    let (kind, id) = stated.trim().split_once('-').unwrap();
    assert!(kind == "insert" && id.len() == 36, "{stated}");

    // The same name in the log and in ClickHouse's own complaint.
    let constraint = "ADD CONSTRAINT named CHECK page_url != '/bad' OR stated = ''";
    logged
        .sql(&format!("ALTER TABLE traffic {constraint}"))
        .await;
    let refused = logged.post(2, &view("/bad")).await;
    assert_eq!(refused, StatusCode::UNPROCESSABLE_ENTITY);
    let failed = logged.lines("insert failed");
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(failed[0]["level"], "WARN");
    assert_eq!(failed[0]["rows"], 1);
    let named = failed[0]["query_id"].as_str().unwrap();
    let rejected = logged.log.with_file_name("spool").join("rejected");
    let file = std::fs::read_dir(rejected)
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    let kept = read(&file.path());
    assert!(kept.contains(named), "{named}: {kept}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_client_is_in_the_log() {
    let logged = Logged::start("log-privacy", &[("SLOW_REPORT_MS", "0")]).await;
    let (user, secret) = (USER.to_string(), "secret-zqxw");
    assert_eq!(logged.post(1, &view(PAGE)).await, StatusCode::CREATED);
    assert_eq!(
        logged.post(1, &view("/zqxw-conflict")).await,
        StatusCode::CONFLICT
    );
    let mut bad = view(PAGE);
    bad["created_at"] = json!("secret-zqxw");
    assert_eq!(logged.post(2, &bad).await, StatusCode::UNPROCESSABLE_ENTITY);
    let url = logged.service.url("/api/traffic");
    let batch = logged
        .http
        .post(&url)
        .header("content-type", "application/x-ndjson");
    logged
        .send(batch.body(format!("{bad}\n{{{secret}\n")))
        .await;
    for path in [
        format!("/api/traffic/daily/{user}"),
        format!("/api/traffic/daily/{secret}"),
        format!("/api/traffic/users/{user}/days?from={secret}"),
        format!("/api/traffic/users/{user}/days?by=page"),
        format!("/api/traffic/pages?prefix={PAGE}&limit=1"),
        format!("/{secret}?{secret}={user}"),
    ] {
        logged.get(&path).await;
    }
    // What ClickHouse refuses, and quotes.
    logged
        .sql("ALTER TABLE traffic ADD CONSTRAINT c CHECK NOT startsWith(page_url, '/bad')")
        .await;
    let refused = logged.post(10, &view("/bad-zqxw")).await;
    assert_eq!(refused, StatusCode::UNPROCESSABLE_ENTITY);
    // What it can't do, and quotes too.
    logged.sql("RENAME TABLE traffic TO away").await;
    assert_eq!(logged.post(11, &view(PAGE)).await, StatusCode::ACCEPTED);
    let (status, ..) = logged.get(&format!("/api/traffic/daily/{user}")).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    logged.sql("RENAME TABLE away TO traffic").await;
    let deadline = Instant::now() + Duration::from_secs(30);
    while logged.get("/api/traffic/11").await.0 != StatusCode::OK {
        assert!(Instant::now() < deadline, "not replayed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let text = logged.text();
    for word in [
        "insert failed",
        "VIOLATED_CONSTRAINT",
        "UNKNOWN_TABLE",
        "slow report",
    ] {
        assert!(text.contains(word), "no {word} in {text}");
    }
    for word in [&user, "zqxw", "127.0.0.77", "prefix="] {
        assert!(!text.contains(word), "{word} in {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_not_in_the_log() {
    let data = directory("log-password");
    let engine = shared_engine();
    let mut command = Service::command(&data);
    command
        .env("CLICKHOUSE_URL", &engine.url)
        .env("CLICKHOUSE_USER", "nobody-here")
        .env("CLICKHOUSE_PASSWORD", "secret-zqxw")
        .env("LOG_LEVEL", "trace,hyper=info,h2=info");
    let (code, out, err) = tokio::task::spawn_blocking(|| run(command)).await.unwrap();
    assert_eq!(code, Some(1));
    assert!(err.contains("CLICKHOUSE_URL"), "{err}");
    assert!(!out.contains("zqxw") && !err.contains("zqxw"), "{out}{err}");
}
