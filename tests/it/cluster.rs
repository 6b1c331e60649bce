//! A cluster: what happens between shards, and where each statement goes. That every report is exact
//! on one is `history.rs`.

use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::json;
use traffic_api::app;
use traffic_api::config::Cli;
use traffic_api::domain::{Clock, Stream};
use traffic_api::repository::{MIGRATIONS, Schema, render};

use crate::support::cluster::{CLUSTER, Cluster, Server, free_port, gate};
use crate::support::zookeeper::ZooKeeper;
use crate::support::{ClickHouse, TestApp, directory, fresh_database, trust_marks_since, view};

const PATIENCE: Duration = Duration::from_secs(60);
/// Of one shard each: a user's number modulo two says which.
const FIRST_USER: u32 = 70;
const SECOND_USER: u32 = 71;

fn now() -> i64 {
    chrono::Utc::now().timestamp() - 10
}

async fn until(what: &str, mut ask: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !ask().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn start(server: &ClickHouse, database: &str, flags: &[&str]) -> TestApp {
    let flags = [&["--sealer=false", "--reconcile-interval-secs=0"], flags].concat();
    let server = server.in_cluster(CLUSTER);
    TestApp::start_with(&server, database, Clock::system(), &flags).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_to_a_shard_that_refuses_it_does_not_lose_the_view() {
    let cluster = Cluster::shared();
    let app = start(&cluster.gates[0], &fresh_database(), &[]).await;
    let second = &cluster.servers[1].direct;
    let at = now();
    for id in 1..=3 {
        let posted = app.post(id, &view(SECOND_USER, at, "/a")).await;
        assert_eq!(posted.status, StatusCode::CREATED, "{posted:?}");
    }
    let posted = app.post(9, &view(FIRST_USER, at, "/b")).await;
    assert_eq!(posted.status, StatusCode::CREATED, "{posted:?}");

    let settings = |change: &str| {
        let stop = "SYSTEM STOP MERGES traffic_local";
        let change = format!("ALTER TABLE traffic_local {change}");
        let database = app.database.clone();
        async move {
            second.sql(&database, stop).await;
            second.sql(&database, &change).await;
        }
    };
    settings("MODIFY SETTING parts_to_throw_insert = 1, parts_to_delay_insert = 1").await;
    let moved = app.put(9, &view(SECOND_USER, at, "/b")).await;
    assert_eq!(moved.status, StatusCode::SERVICE_UNAVAILABLE, "{moved:?}");
    let still = app.get("/api/traffic/9").await;
    assert_eq!(
        (still.status, &still.body["user_id"]),
        (StatusCode::OK, &json!(FIRST_USER))
    );
    assert_eq!(app.daily(FIRST_USER).await, json!({"/b": 1}));

    settings("RESET SETTING parts_to_throw_insert, parts_to_delay_insert").await;
    until("moved", async || {
        let moved = app.put(9, &view(SECOND_USER, at, "/b")).await;
        moved.status == StatusCode::OK
    })
    .await;
    assert_eq!(app.daily(FIRST_USER).await, json!({}));
    assert_eq!(app.daily(SECOND_USER).await, json!({"/a": 3, "/b": 1}));
    // Each row is on one shard, and the rows by request id beside it.
    for (server, rows) in cluster.servers.iter().zip(["0", "4"]) {
        for table in ["traffic_local", "traffic_by_request_local"] {
            let count = format!("SELECT count() FROM {table} FINAL");
            assert_eq!(
                server.direct.sql(&app.database, &count).await,
                rows,
                "{table}"
            );
        }
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_shard_views_wait_and_no_report_is_too_small() {
    let cluster = Cluster::start("shard-down");
    let database = fresh_database();
    let app = start(&cluster.gates[0], &database, &[]).await;
    let at = now();
    for (id, user) in [(1, FIRST_USER), (2, SECOND_USER)] {
        let posted = app.post(id, &view(user, at, "/a")).await;
        assert_eq!(posted.status, StatusCode::CREATED, "{posted:?}");
    }
    let reports = [
        format!("/api/traffic/daily/{FIRST_USER}"),
        format!("/api/traffic/daily/{SECOND_USER}"),
        "/api/traffic/pages".to_owned(),
        "/api/traffic/site".to_owned(),
        "/api/traffic/1".to_owned(),
    ];
    for path in &reports {
        assert_eq!(app.get(path).await.status, StatusCode::OK, "{path}");
    }

    cluster.servers[1].kill();
    let waits = app.post(3, &view(SECOND_USER, at, "/b")).await;
    assert_eq!(waits.status, StatusCode::ACCEPTED, "{waits:?}");
    for path in &reports {
        let answer = app.get(path).await;
        assert_eq!(
            answer.status,
            StatusCode::SERVICE_UNAVAILABLE,
            "{path} {answer:?}"
        );
        assert_ne!(answer.header("retry-after"), "", "{path}");
    }
    // An instance starts meanwhile, for it has nothing to change on all servers.
    start(&cluster.gates[0], &database, &[]).await.stop().await;
    // Nothing waits in a queue of the first server's own, where no quorum guards it.
    let queued = "SELECT sum(data_files) + sum(broken_data_files) FROM system.distribution_queue";
    let queued = cluster.servers[0].direct.sql(&app.database, queued).await;
    assert_eq!(queued, "0");

    cluster.servers[1].run();
    until("replayed", async || {
        app.get("/api/traffic/3").await.status == StatusCode::OK
    })
    .await;
    assert_eq!(app.daily(FIRST_USER).await, json!({"/a": 1}));
    assert_eq!(app.daily(SECOND_USER).await, json!({"/a": 1, "/b": 1}));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_go_to_the_read_url_and_all_else_to_the_other() {
    let all: Vec<ClickHouse> = Cluster::shared()
        .servers
        .iter()
        .map(|s| s.direct.clone())
        .collect();
    let ((write_gate, writes), (read_gate, reads)) = (gate(0, &all), gate(1, &all));
    let read_url = format!("--clickhouse-read-url={}", read_gate.url);
    let app = start(&write_gate, &fresh_database(), &[&read_url]).await;
    // Migrations need the first one alone.
    assert!(reads.reads.lock().unwrap().is_empty());
    let at = now();
    let posted = app.post(1, &view(FIRST_USER, at, "/a")).await;
    assert_eq!(posted.status, StatusCode::CREATED, "{posted:?}");
    let moved = app.put(1, &view(SECOND_USER, at, "/b")).await;
    assert_eq!(moved.status, StatusCode::OK, "{moved:?}");
    assert_eq!(app.get("/api/traffic/1").await.status, StatusCode::OK);
    assert!(reads.reads.lock().unwrap().is_empty());

    let asked = writes.reads.lock().unwrap().len();
    let posted = chrono::Utc::now();
    let daily = app.get(&format!("/api/traffic/daily/{SECOND_USER}")).await;
    assert_eq!(daily.body, json!({"/b": 1}));
    // What was acknowledged is on every replica, so this holds for any of them.
    let through = daily
        .header("data-complete-through")
        .parse::<chrono::DateTime<chrono::Utc>>();
    assert!(through.unwrap() >= posted - Duration::from_millis(1));
    assert_eq!(app.get("/api/traffic/pages").await.status, StatusCode::OK);
    assert_eq!(app.get("/api/traffic/site").await.status, StatusCode::OK);
    assert!(reads.reads.lock().unwrap().len() >= 3);
    assert!(reads.inserts.lock().unwrap().is_empty());
    assert_eq!(writes.reads.lock().unwrap().len(), asked);

    // Every call says what makes it good on a cluster.
    let inserts = writes.inserts.lock().unwrap().clone();
    let calls = [&inserts[..], &reads.reads.lock().unwrap()[..]].concat();
    for setting in [
        "distributed_foreground_insert=1",
        "skip_unavailable_shards=0",
    ] {
        assert!(
            calls.iter().all(|call| call.contains(setting)),
            "{calls:#?}"
        );
    }
    // As many as have the table: one replica of each shard, and both servers.
    for call in &inserts {
        let quorum = match call.contains("schema_migrations") {
            true => "insert_quorum=2",
            false => "insert_quorum=1",
        };
        assert!(call.contains(quorum), "{call}");
    }

    reads.shut.store(true, Ordering::SeqCst);
    let daily = app.get(&format!("/api/traffic/daily/{SECOND_USER}")).await;
    assert_eq!(daily.status, StatusCode::SERVICE_UNAVAILABLE);
    let posted = app.post(2, &view(SECOND_USER, at, "/b")).await;
    assert_eq!(posted.status, StatusCode::CREATED, "{posted:?}");
    assert_eq!(app.get("/api/traffic/2").await.status, StatusCode::OK);
    assert_eq!(app.delete(2).await.status, StatusCode::NO_CONTENT);
    reads.shut.store(false, Ordering::SeqCst);
    assert_eq!(app.daily(SECOND_USER).await, json!({"/b": 1}));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parts_of_a_long_answer_are_read_through_any_server() {
    let (gates, database) = (&Cluster::shared().gates, fresh_database());
    let first = start(&gates[0], &database, &[]).await;
    let second = start(&gates[1], &database, &[]).await;
    let at = now();
    for id in 0..6 {
        let page = format!("/{id}");
        let posted = first
            .post(id, &view(FIRST_USER + id as u32, at, &page))
            .await;
        assert_eq!(posted.status, StatusCode::CREATED, "{posted:?}");
    }
    // Rows by columns, as large batches are sent.
    let lines = (10..3010).fold(String::new(), |mut lines, id| {
        let mut line = view(FIRST_USER + id % 8, at, "/many");
        line["request_id"] = json!(id);
        writeln!(lines, "{line}").unwrap();
        lines
    });
    let batch = second.request(reqwest::Method::POST, "/api/traffic");
    let batch = batch
        .header("content-type", "application/x-ndjson")
        .body(lines);
    let batch = crate::support::Answer::of(batch.send().await.unwrap()).await;
    assert_eq!(batch.body["accepted"], 3000, "{batch:?}");

    let mut path = "/api/traffic/pages?limit=2".to_owned();
    let mut pages = Vec::new();
    for app in [&second, &first, &second, &first] {
        let answer = app.get(&path).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let rows = answer.body["pages"].as_array().unwrap();
        pages.extend(
            rows.iter()
                .map(|row| (row["page_url"].clone(), row["views"].clone())),
        );
        let link = answer.header("link");
        path = link
            .trim_start_matches('<')
            .split('>')
            .next()
            .unwrap()
            .to_owned();
    }
    let singles = (0..6).map(|id| (json!(format!("/{id}")), json!(1)));
    let expected: Vec<_> = [(json!("/many"), json!(3000))]
        .into_iter()
        .chain(singles)
        .collect();
    assert_eq!(pages, expected);
    assert_eq!(path, "");
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sealer_counts_the_rows_of_all_shards() {
    let cluster = Cluster::shared();
    let (gates, database) = (&cluster.gates, fresh_database());
    let posts = start(&gates[0], &database, &[]).await;
    // Their hour is closed.
    let at = now() - 5 * 3600;
    for (id, user) in [(1, FIRST_USER), (2, SECOND_USER), (3, SECOND_USER)] {
        let posted = posts.post(id, &view(user, at, "/a")).await;
        assert_eq!(posted.status, StatusCode::CREATED, "{posted:?}");
    }
    posts.stop().await;
    trust_marks_since(
        &gates[0].in_cluster(CLUSTER),
        &database,
        Stream::PageViews,
        "2020-01-01",
    )
    .await;

    let app = TestApp::start_with(
        &gates[1].in_cluster(CLUSTER),
        &database,
        Clock::system(),
        &["--report-plan=view", "--reconcile-interval-secs=0"],
    )
    .await;
    until("sealed", async || {
        let stats = app.sealer_stats();
        stats.sealed.is_some() && stats.unsealed_hours == 0
    })
    .await;
    let sums = "SELECT sum(total) FROM traffic_hourly_local FINAL";
    for (server, views) in cluster.servers.iter().zip(["1", "2"]) {
        assert_eq!(server.direct.sql(&database, sums).await, views);
    }
    let pages = "SELECT page_url, views, bitmapCardinality(users) \
                 FROM traffic_hourly_pages FINAL";
    assert_eq!(app.sql(pages).await, "/a\t3\t2");
    assert_eq!(app.daily(FIRST_USER).await, json!({"/a": 1}));
    assert_eq!(app.daily(SECOND_USER).await, json!({"/a": 2}));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_cluster_stops_the_start() {
    let server = &Cluster::shared().servers[0].direct;
    let flags = server.in_cluster("nowhere").flags();
    let fixed = [
        "traffic-api".to_owned(),
        "--listen-addr=127.0.0.1:0".to_owned(),
    ];
    let cli = Cli::read(fixed.into_iter().chain(flags).map(Into::into));
    let error = app::migrate(&cli.ok().unwrap().settings).await.unwrap_err();
    let error = format!("{error:#}");
    assert!(
        error.contains("nowhere is not among the server's remote_servers"),
        "{error}"
    );
}

/// The statements that create the tables of a cluster, without `ON CLUSTER`.
fn statements(database: &str) -> Vec<String> {
    let schema = Schema {
        event_retention_days: Some(30),
        database: database.to_owned(),
        cluster: Some(CLUSTER.to_owned()),
        retention_days: 90,
        fsync: false,
    };
    let on_cluster = format!(" ON CLUSTER '{CLUSTER}'");
    let all = MIGRATIONS
        .iter()
        .flat_map(|m| render(m.template, &schema).unwrap());
    all.map(|sql| sql.replace(&on_cluster, "")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn replicated_tables_are_made_with_a_real_zookeeper() {
    let Some(zookeeper) = ZooKeeper::start("zookeeper") else {
        println!(
            "SKIPPED: no ZooKeeper; install the packages libzookeeper-java and default-jre-headless"
        );
        return;
    };
    let (http, tcp) = (free_port(), free_port());
    let config = format!(
        "<macros><shard>03</shard><replica>b</replica></macros><remote_servers><{CLUSTER}><shard>\
         <replica><host>127.0.0.1</host><port>{tcp}</port></replica></shard></{CLUSTER}>\
         </remote_servers><zookeeper><node><host>127.0.0.1</host><port>{}</port></node></zookeeper>\
         <distributed_ddl><path>/clickhouse/task_queue/ddl</path></distributed_ddl>",
        zookeeper.port
    );
    let server = Server::start(&directory("replicated"), http, tcp, &config);
    let sql = async |sql: &str| server.direct.sql("traffic", sql).await;
    server
        .direct
        .sql("default", "CREATE DATABASE traffic ENGINE = Atomic")
        .await;
    // A table that has no interserver port is never more than readable in this engine: what changes a
    // table can't run.
    for statement in statements("traffic") {
        let changes = ["ALTER", "DROP"]
            .iter()
            .any(|verb| statement.trim_start().starts_with(verb));
        if !changes {
            sql(&statement).await;
        }
    }
    let engines = "SELECT name, engine_full FROM system.tables WHERE database = 'traffic' \
                   AND engine LIKE 'Replicated%' ORDER BY name FORMAT TSVRaw";
    insta::assert_snapshot!("replicated_engines", sql(engines).await);
    // As ZooKeeper knows them.
    let replicas = "SELECT table, zookeeper_path, replica_name FROM system.replicas \
                    WHERE database = 'traffic' ORDER BY table FORMAT TSVRaw";
    insta::assert_snapshot!("replicas", sql(replicas).await);
    let distributed = "SELECT name, engine_full FROM system.tables WHERE database = 'traffic' \
                       AND engine = 'Distributed' ORDER BY name FORMAT TSVRaw";
    insta::assert_snapshot!("distributed_engines", sql(distributed).await);
}
