//! `/metrics`: real traffic, and what a scrape says of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use traffic_api::domain::Clock;

use crate::support::service::{Service, signal};
use crate::support::{TestApp, directory, fresh_database, shared_engine, view};

const PATIENCE: Duration = Duration::from_secs(30);

fn now() -> i64 {
    chrono::Utc::now().timestamp() - 10
}

/// The values of a scrape by series, `name{label="value"}`.
struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let series = lines.map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.parse().unwrap())
        });
        Self(series.collect())
    }

    async fn of(app: &TestApp) -> Self {
        let response = app.request(Method::GET, "/metrics").send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let content_type = response.headers()["content-type"].to_str().unwrap();
        assert!(content_type.starts_with("text/plain; version=0.0.4"));
        Self::parse(&response.text().await.unwrap())
    }

    /// Zero for a series that is not there.
    fn get(&self, series: &str) -> f64 {
        self.0.get(series).copied().unwrap_or_default()
    }

    fn requests(&self, route: &str, method: &str, status: u16) -> f64 {
        self.get(&format!(
            "traffic_http_requests_total{{method=\"{method}\",route=\"{route}\",status=\"{status}\"}}"
        ))
    }

    fn rejected(&self, reason: &str) -> f64 {
        self.get(&format!(
            "traffic_views_rejected_total{{reason=\"{reason}\"}}"
        ))
    }
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

const ONE: &str = "/api/traffic/{request_id}";

#[tokio::test(flavor = "multi_thread")]
async fn every_request_is_counted_once_however_it_ends() {
    let app = TestApp::start_with(
        &shared_engine(),
        &fresh_database(),
        Clock::system(),
        // So long that a client can go away meanwhile.
        &["--ingest-min-interval-ms=1500"],
    )
    .await;
    let at = now();
    let before = Scrape::of(&app).await;
    assert_eq!(before.requests(ONE, "POST", 201), 0.0);

    let same = view(1, at, "/a");
    let posts = (0..7).map(|id| app.post(id, &same));
    for answer in futures_util::future::join_all(posts).await {
        assert_eq!(answer.status, StatusCode::CREATED);
    }
    app.get("/api/traffic/daily/1").await;
    app.get("/no/such/path/4711").await;
    app.delete(u64::MAX).await;
    app.call(Method::PUT, "/api/traffic/daily/1", &json!({}))
        .await;
    let odd = Method::from_bytes(b"PROPFIND").unwrap();
    app.call(odd, "/api/traffic/1", &json!({})).await;
    app.post(1, &view(1, at, "/other")).await;
    app.post(2, &json!({"user_id": 1})).await;
    let long = view(1, at, &"x".repeat(70_000));
    assert_eq!(
        app.post(3, &long).await.status,
        StatusCode::PAYLOAD_TOO_LARGE
    );
    app.get("/health").await;
    app.get("/docs/no-such-file.js").await;

    // A client that does not wait for its answer.
    let address = app.url("").replace("http://", "");
    let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    let body = view(1, at, "/a").to_string();
    let request = format!(
        "POST /api/traffic/99 HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    // The one before it starts the interval for which it waits.
    app.post(98, &view(1, at, "/a")).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    until("under way", async || {
        Scrape::of(&app)
            .await
            .get("traffic_http_requests_in_flight")
            == 2.0
    })
    .await;
    drop(stream);
    until("counted", async || {
        Scrape::of(&app).await.requests(ONE, "POST", 499) == 1.0
    })
    .await;

    let after = Scrape::of(&app).await;
    assert_eq!(after.requests(ONE, "POST", 201), 8.0);
    assert_eq!(
        after.requests("/api/traffic/daily/{user_id}", "GET", 200),
        1.0
    );
    assert_eq!(after.requests("unmatched", "GET", 404), 1.0);
    assert_eq!(after.requests(ONE, "DELETE", 404), 1.0);
    assert_eq!(
        after.requests("/api/traffic/daily/{user_id}", "PUT", 405),
        1.0
    );
    assert_eq!(after.requests(ONE, "other", 405), 1.0);
    assert_eq!(after.requests(ONE, "POST", 409), 1.0);
    assert_eq!(after.requests(ONE, "POST", 422), 1.0);
    assert_eq!(after.requests(ONE, "POST", 413), 1.0);
    assert_eq!(after.requests("/health", "GET", 200), 1.0);
    assert_eq!(after.requests("/docs", "GET", 404), 1.0);
    assert!(after.requests("/metrics", "GET", 200) > 0.0);
    let posts = "traffic_http_request_duration_seconds_count{method=\"POST\",route=\"/api/traffic/{request_id}\"}";
    assert_eq!(after.get(posts), 12.0);
    assert_eq!(after.get("traffic_http_requests_in_flight"), 1.0, "itself");
    for (reason, count) in [("conflict", 1.0), ("invalid", 1.0), ("too_long", 1.0)] {
        assert_eq!(after.rejected(reason), count, "{reason}");
    }
    // Neither a path nor a method as the client sent it.
    for series in after.0.keys() {
        assert!(
            !series.contains("4711") && !series.contains("PROPFIND"),
            "{series}"
        );
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_inserts_and_rejected_lines_are_counted() {
    let app = TestApp::start().await;
    let at = now();
    for id in 0..5 {
        assert_eq!(
            app.post(id, &view(1, at, "/a")).await.status,
            StatusCode::CREATED
        );
    }
    let one = Scrape::of(&app).await;
    assert_eq!(one.get("traffic_rows_total{outcome=\"stored\"}"), 5.0);
    assert_eq!(
        one.get("traffic_insert_duration_seconds_count{result=\"confirmed\"}"),
        5.0
    );
    assert_eq!(
        one.get("traffic_insert_batch_rows_sum{stream=\"page_views\"}"),
        5.0
    );
    assert!(one.get("traffic_insert_batch_bytes_sum{stream=\"page_views\"}") > 5.0 * 20.0);

    let line = |id: u64, page: &str| {
        let mut line = view(1, at, page);
        line["request_id"] = json!(id);
        line.to_string()
    };
    let lines = [
        line(10, "/b"),
        line(11, "/b"),
        "{".to_owned(),
        json!({"request_id": 12}).to_string(),
        line(0, "/conflict"),
        line(13, &"x".repeat(70_000)),
    ];
    let batch = app.request(Method::POST, "/api/traffic");
    let batch = batch.header("content-type", "application/x-ndjson");
    let answer = batch.body(lines.join("\n")).send().await.unwrap();
    let receipt: Value = answer.json().await.unwrap();
    assert_eq!(
        (&receipt["accepted"], &receipt["rejected_count"]),
        (&json!(2), &json!(4))
    );
    app.daily(1).await;
    app.get("/api/traffic/users/1/days").await;
    app.get("/api/traffic/pages").await;
    app.get("/api/traffic/site").await;

    let two = Scrape::of(&app).await;
    assert_eq!(two.get("traffic_rows_total{outcome=\"stored\"}"), 7.0);
    for reason in ["malformed", "invalid", "conflict", "too_long"] {
        assert_eq!(two.rejected(reason), 1.0, "{reason}");
    }
    for report in ["daily", "days", "pages", "site"] {
        let answered = ["claims", "view"].map(|source| {
            two.get(&format!(
                "traffic_report_duration_seconds_count{{report=\"{report}\",source=\"{source}\"}}"
            ))
        });
        assert_eq!(answered, [1.0, 0.0], "{report}: nothing is sealed yet");
    }
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        two.get(&format!("traffic_build_info{{version=\"{version}\"}}")),
        1.0
    );
    assert!(two.get("process_resident_memory_bytes") > 1e6);
    assert!(two.get("traffic_http_connections") >= 1.0);
    assert_eq!(
        two.get("traffic_ingest_buffer_bytes{buffer=\"single\"}"),
        0.0
    );
    let limit = two.get("traffic_ingest_buffer_limit_bytes{buffer=\"single\"}");
    assert_eq!(limit, f64::from(64 << 20));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_shows_and_passes() {
    let app = TestApp::start().await;
    let at = now();
    app.post(0, &view(1, at, "/a")).await;
    let calm = Scrape::of(&app).await;
    assert_eq!(calm.get("traffic_breaker_state{state=\"closed\"}"), 1.0);
    assert_eq!(calm.get("traffic_spool_files"), 0.0);
    assert_eq!(calm.get("traffic_report_lag_seconds").round(), 0.0);

    app.sql("RENAME TABLE traffic TO away").await;
    for id in 1..=3 {
        let answer = app.post(id, &view(1, at, "/a")).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED);
    }
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let out = Scrape::of(&app).await;
    assert_eq!(out.get("traffic_breaker_state{state=\"closed\"}"), 0.0);
    assert!(out.get("traffic_store_outages_total") >= 1.0);
    assert_eq!(out.get("traffic_spool_files"), 3.0);
    assert_eq!(out.get("traffic_spool_rows"), 3.0);
    assert!(out.get("traffic_spool_bytes") >= 3.0 * 4096.0);
    assert!(out.get("traffic_spool_oldest_age_seconds") >= 1.0);
    assert!(out.get("traffic_report_lag_seconds") >= 1.0);
    assert_eq!(out.get("traffic_rows_total{outcome=\"spooled\"}"), 3.0);
    assert!(out.get("traffic_insert_failures_total{class=\"unknown\"}") >= 1.0);
    assert!(out.get("traffic_insert_duration_seconds_count{result=\"failed\"}") >= 1.0);

    app.sql("RENAME TABLE away TO traffic").await;
    until("all replayed", async || {
        app.daily(1).await == json!({"/a": 4})
    })
    .await;
    until("all shown", async || {
        let calm = Scrape::of(&app).await;
        calm.get("traffic_spool_files") == 0.0
            && calm.get("traffic_spool_bytes") == 0.0
            && calm.get("traffic_spool_oldest_age_seconds") == 0.0
            && calm.get("traffic_rows_total{outcome=\"replayed\"}") == 3.0
            && calm.get("traffic_breaker_state{state=\"closed\"}") == 1.0
    })
    .await;

    app.sql("ALTER TABLE traffic ADD CONSTRAINT no_bad CHECK page_url != '/bad'")
        .await;
    let refused = app.post(10, &view(1, at, "/bad")).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    let after = Scrape::of(&app).await;
    assert_eq!(after.get("traffic_quarantined_records_total"), 1.0);
    assert_eq!(after.get("traffic_quarantine_files"), 1.0);
    assert_eq!(after.rejected("quarantined"), 1.0);
    assert_eq!(
        after.get("traffic_insert_failures_total{class=\"refused\"}"),
        1.0
    );
    app.stop().await;
}

/// The first column of the tables of `docs/metrics.md`, and which of them may be absent.
fn documented() -> BTreeSet<String> {
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md"));
    let document = document.unwrap();
    let names = document.lines().filter_map(|line| line.strip_prefix("| `"));
    names
        .map(|rest| rest.split('`').next().unwrap().to_owned())
        .collect()
}

/// The service as it is run: with an engine of its own, through an outage.
#[tokio::test(flavor = "multi_thread")]
async fn the_document_and_a_scrape_name_the_same_metrics() {
    let data = directory("metrics-document");
    let service = tokio::task::spawn_blocking(move || {
        let mut command = Service::command(&data);
        command.env("RECONCILE_INTERVAL_SECS", "1");
        Service::spawn(command)
    });
    let mut service = service.await.unwrap();
    let http = reqwest::Client::new();
    let get = async |path: &str| {
        let response = http.get(service.url(path)).send().await.unwrap();
        (response.status(), response.text().await.unwrap())
    };
    let post = async |id: u64| {
        let request = http.post(service.url(&format!("/api/traffic/{id}")));
        let response = request.json(&view(1, now(), "/a")).send().await;
        response.unwrap().status()
    };
    assert_eq!(post(1).await, StatusCode::CREATED);
    assert_eq!(get("/api/traffic/daily/1").await.0, StatusCode::OK);
    for engine in service.children() {
        signal(engine, "KILL");
    }
    let mut posted = 1;
    until("a view is spooled", async || {
        posted += 1;
        post(posted).await == StatusCode::ACCEPTED
    })
    .await;
    until("replayed", async || {
        get("/api/traffic/daily/1").await.1 == format!("{{\"/a\":{posted}}}")
    })
    .await;
    let mut text = String::new();
    until("looked and checked", async || {
        text = get("/metrics").await.1;
        text.contains("\ntraffic_sealer_looked") && text.contains("\ntraffic_reconcile_checked")
    })
    .await;
    let scrape = Scrape::parse(&text);
    assert_eq!(scrape.get("traffic_engine_restarts_total"), 1.0);
    assert_eq!(scrape.get("traffic_engine_up"), 1.0);

    let shown: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|rest| rest.split(' ').next().unwrap().to_owned())
        .collect();
    let mut documented = documented();
    // Only once an hour is sealed, which takes one.
    assert!(documented.remove("traffic_sealer_sealed_through_timestamp_seconds"));
    assert_eq!(shown, documented);
    check(&text);
    assert!(service.terminate().success());
}

/// Prometheus' own judgement of names, units and texts.
fn check(scrape: &str) {
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else {
        println!("SKIPPED: promtool is not installed; .ci/run installs it");
        return;
    };
    let mut input = promtool.stdin.take().unwrap();
    input.write_all(scrape.as_bytes()).unwrap();
    drop(input);
    let judged = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&judged.stderr).into_owned()
        + &String::from_utf8_lossy(&judged.stdout);
    assert!(judged.status.success() && said.trim().is_empty(), "{said}");
}
