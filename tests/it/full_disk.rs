//! No room for the spool: an honest refusal, nothing lost, and recovery without a restart.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::json;
use traffic_api::domain::Clock;

use crate::support::{
    ClickHouse, TestApp, directory, fresh_database, private_engine, shared_engine, view,
};

const PATIENCE: Duration = Duration::from_secs(30);

fn now() -> i64 {
    chrono::Utc::now().timestamp() - 10
}

/// A file system of 1 MiB; unmounted when dropped.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    /// Nothing where this user may not mount.
    fn mount(directory: &'a Path) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
            .arg(directory)
            .status();
        mounted
            .is_ok_and(|status| status.success())
            .then_some(Self(directory))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

/// Many clients post until they are refused; returns how many views were acknowledged.
async fn fill(app: &TestApp, at: i64, first_id: u64, clients: u64) -> u64 {
    let page = format!("/{}", "a".repeat(2000));
    let posting = (0..clients).map(|client| {
        let page = &page;
        async move {
            for n in 0..1000 {
                let id = first_id + n * clients + client;
                let answer = app.post(id, &view(1, at, page)).await;
                if answer.status == StatusCode::SERVICE_UNAVAILABLE {
                    assert_eq!(answer.header("retry-after"), "2");
                    assert_eq!(answer.body["type"], "/problems#store-unavailable");
                    return n;
                }
                assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
            }
            panic!("never full");
        }
    });
    futures_util::future::join_all(posting).await.iter().sum()
}

async fn counted(app: &TestApp) -> u64 {
    let report = app.daily(1).await;
    report
        .as_object()
        .unwrap()
        .values()
        .map(|n| n.as_u64().unwrap())
        .sum()
}

async fn until_counted(app: &TestApp, views: u64) {
    let deadline = Instant::now() + PATIENCE;
    while counted(app).await != views {
        assert!(
            Instant::now() < deadline,
            "{} of {views}",
            counted(app).await
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn on(engine: &ClickHouse, data: &Path, flags: &[&str]) -> TestApp {
    let data = format!("--data-dir={}", data.display());
    let flags: Vec<&str> = flags.iter().copied().chain([data.as_str()]).collect();
    TestApp::start_with(engine, &fresh_database(), Clock::system(), &flags).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_and_recovers() {
    let data = directory("full-disk");
    let Some(disk) = SmallDisk::mount(&data) else {
        println!("SKIPPED: mounting a small disk needs root; a_full_spool still ran");
        return;
    };
    let app = on(&shared_engine(), &data, &[]).await;
    let at = now();
    app.sql("RENAME TABLE traffic TO away").await;
    let mut acknowledged = fill(&app, at, 0, 16).await;
    assert!(acknowledged > 0);
    // Not one more, so that the answer is known.
    acknowledged += fill(&app, at, 2_000_000, 1).await;
    let ready = app.get("/health/ready").await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE, "{ready:?}");
    assert_eq!(ready.body["status"], "unavailable");
    assert_eq!(
        ready.body["clickhouse"], "refusing",
        "it answers, but takes nothing"
    );

    // Full is full, also on a second try.
    let ballast = data.join("ballast");
    let more = fill(&app, at, 1_000_000, 16).await;
    assert!(more < acknowledged, "still nearly full, yet {more} went in");
    acknowledged += more;
    app.sql("RENAME TABLE away TO traffic").await;
    until_counted(&app, acknowledged).await;
    // A file is deleted only after its views are counted.
    let deadline = Instant::now() + PATIENCE;
    while app.get("/health/ready").await.body["spool"]["files"] != 0 {
        assert!(Instant::now() < deadline, "the spool is not emptied");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // The disk is full, ClickHouse is well: nobody notices.
    std::fs::write(&ballast, vec![0; 2 << 20]).unwrap_err();
    let stored = app.post(900_000, &view(1, at, "/b")).await;
    assert_eq!(stored.status, StatusCode::CREATED);
    let request = app.request(Method::POST, "/api/traffic/900002");
    let asynchronous = request
        .header("prefer", "respond-async")
        .json(&view(1, at, "/b"));
    let answer = asynchronous.send().await.unwrap();
    assert_eq!(
        answer.status(),
        StatusCode::CREATED,
        "no room on disk, so it is stored"
    );
    assert!(answer.headers().get("preference-applied").is_none());
    std::fs::remove_file(&ballast).unwrap();
    app.sql("RENAME TABLE traffic TO away").await;
    assert_eq!(
        app.post(900_001, &view(1, at, "/b")).await.status,
        StatusCode::ACCEPTED
    );
    app.sql("RENAME TABLE away TO traffic").await;
    until_counted(&app, acknowledged + 3).await;
    app.stop().await;
    drop(disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_refuses_and_recovers() {
    let small = ["--spool-max-bytes=1048576"];
    let app = on(&shared_engine(), &directory("full-spool"), &small).await;
    let at = now();
    app.sql("RENAME TABLE traffic TO away").await;
    let acknowledged = fill(&app, at, 0, 16).await;
    assert!(acknowledged > 0);
    assert!(
        app.get("/health/ready").await.body["spool"]["bytes"]
            .as_u64()
            .unwrap()
            <= 1 << 20
    );
    app.sql("RENAME TABLE away TO traffic").await;
    until_counted(&app, acknowledged).await;
    assert_eq!(
        app.post(900_000, &view(1, at, "/b")).await.status,
        StatusCode::CREATED
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_store_nor_spool_is_not_ready() {
    let (engine, clickhouse) = private_engine("neither").await;
    let small = ["--spool-max-bytes=1048576"];
    let app = on(&clickhouse, &directory("neither-data"), &small).await;
    engine.stop().await;
    assert_eq!(app.get("/health/ready").await.body["status"], "degraded");
    fill(&app, now(), 0, 16).await;
    // What is too little for a batch of many may do for one.
    fill(&app, now(), 1_000_000, 1).await;
    let ready = app.get("/health/ready").await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ready.body["status"], "unavailable");
    assert_eq!(app.get("/health").await.body, json!({"status": "ok"}));
    app.stop().await;
}
