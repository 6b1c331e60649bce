//! ClickHouse goes away, refuses, and comes back.

use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use traffic_api::domain::Clock;
use traffic_api::engine::Engine;

use crate::support::service::{Service, signal};
use crate::support::{
    Answer, ClickHouse, TestApp, directory, fresh_database, private_engine, shared_engine, view,
};

const PATIENCE: Duration = Duration::from_secs(30);

fn now() -> i64 {
    chrono::Utc::now().timestamp() - 10
}

/// Asks again until the answer is as wanted.
async fn until(what: &str, mut ask: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !ask().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// An app on an engine of its own, and that engine.
async fn on_private_engine(name: &str, flags: &[&str]) -> (TestApp, Engine, ClickHouse) {
    let (engine, clickhouse) = private_engine(name).await;
    let app = TestApp::start_with(&clickhouse, &fresh_database(), Clock::system(), flags).await;
    (app, engine, clickhouse)
}

fn files(directory: &Path, ending: &str) -> usize {
    let entries = std::fs::read_dir(directory).unwrap().flatten();
    entries
        .filter(|e| e.file_name().to_string_lossy().ends_with(ending))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_clickhouse_every_answer_is_honest() {
    let (app, engine, _) = on_private_engine("outage", &[]).await;
    let at = now();
    assert_eq!(
        app.post(1, &view(1, at, "/a")).await.status,
        StatusCode::CREATED
    );

    // For good: this app knows a fixed address, and a restarted engine takes another.
    engine.stop().await;
    for _ in 0..2 {
        let spooled = app.post(2, &view(1, at, "/b")).await;
        assert_eq!(spooled.status, StatusCode::ACCEPTED, "{spooled:?}");
        assert_eq!(spooled.header("location"), "/api/traffic/2");
        assert_eq!(spooled.body["state"], "spooled");
        assert_eq!(spooled.header("preference-applied"), "");
        let receipt = app.get("/api/traffic/2").await;
        assert_eq!(
            (receipt.status, &receipt.body),
            (StatusCode::ACCEPTED, &spooled.body)
        );
    }
    assert_eq!(
        app.post(2, &view(1, at, "/c")).await.status,
        StatusCode::CONFLICT
    );

    let body = view(1, at, "/b");
    for answer in [
        app.put(1, &body).await,
        app.patch(1, &json!({"page_url": "/b"})).await,
        app.delete(1).await,
        app.get("/api/traffic/1").await,
        app.get("/api/traffic/daily/1").await,
    ] {
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
        assert_eq!(answer.header("content-type"), "application/problem+json");
        assert_eq!(answer.header("retry-after"), "2");
        assert_eq!(answer.body["type"], "/problems#store-unavailable");
        assert!(
            !answer.body.to_string().contains("127.0.0.1"),
            "leaks: {answer:?}"
        );
    }
    assert_eq!(app.get("/health").await.status, StatusCode::OK);
    let ready = app.get("/health/ready").await;
    assert_eq!(ready.status, StatusCode::OK);
    assert_eq!(
        (&ready.body["status"], &ready.body["clickhouse"]),
        (&json!("degraded"), &json!("down"))
    );
    assert_eq!(ready.body["spool"]["files"], 2);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_spooled_reaches_clickhouse_after_a_restart() {
    let data = directory("spool-restart");
    let flag = format!("--data-dir={}", data.display());
    let (app, engine, _) = on_private_engine("spool-restart-engine", &[&flag]).await;
    engine.stop().await;
    let at = now();
    for id in 0..50 {
        assert_eq!(
            app.post(id, &view(1, at, "/a")).await.status,
            StatusCode::ACCEPTED
        );
    }
    app.stop().await;
    assert!(files(&data.join("spool"), ".batch") >= 1);

    let engine = shared_engine();
    let app = TestApp::start_with(&engine, &fresh_database(), Clock::system(), &[&flag]).await;
    until("replayed", async || app.daily(1).await == json!({"/a": 50})).await;
    until("spool empty", async || {
        files(&data.join("spool"), ".batch") == 0
    })
    .await;
    assert_eq!(app.get("/api/traffic/7").await.status, StatusCode::OK);
    assert_eq!(app.stats().replayed, 50);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_prefer_the_disk() {
    let app = TestApp::start().await;
    let at = now();
    for (id, preference) in [
        (1, "respond-async"),
        (2, "return=minimal, Respond-Async; wait=10"),
    ] {
        let path = format!("/api/traffic/{id}");
        let request = app
            .request(Method::POST, &path)
            .header("prefer", preference);
        let answer = Answer::of(request.json(&view(1, at, "/a")).send().await.unwrap()).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
        assert_eq!(answer.header("preference-applied"), "respond-async");
        assert_eq!(answer.body["state"], "spooled");
        let receipt = app.get(&path).await.status;
        assert!(
            receipt == StatusCode::ACCEPTED || receipt == StatusCode::OK,
            "{receipt}"
        );
    }
    until("stored", async || app.daily(1).await == json!({"/a": 2})).await;
    until("receipt 200", async || {
        app.get("/api/traffic/1").await.status == StatusCode::OK
    })
    .await;
    let plain = app
        .request(Method::POST, "/api/traffic/3")
        .header("prefer", "return=minimal");
    let plain = plain.json(&view(1, at, "/a")).send().await.unwrap();
    assert_eq!(plain.status(), StatusCode::CREATED);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_view_may_still_be_on_its_way() {
    let app = TestApp::start().await;
    let at = now();
    // The table that is written is gone, the one that answers look-ups is not.
    app.sql("RENAME TABLE traffic TO traffic_away").await;
    assert_eq!(
        app.post(1, &view(1, at, "/a")).await.status,
        StatusCode::ACCEPTED
    );
    let update = app.put(1, &view(1, at, "/b")).await;
    assert_eq!(update.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(update.body["type"], "/problems#not-yet-known");
    assert_eq!(app.delete(1).await.body["type"], "/problems#not-yet-known");
    assert_eq!(
        app.put(2, &view(1, at, "/b")).await.status,
        StatusCode::NOT_FOUND
    );
    app.sql("RENAME TABLE traffic_away TO traffic").await;
    until("stored", async || {
        app.get("/api/traffic/1").await.status == StatusCode::OK
    })
    .await;
    assert_eq!(app.put(1, &view(1, at, "/b")).await.status, StatusCode::OK);
    assert_eq!(app.daily(1).await, json!({"/b": 1}));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_views_stand_alone_and_can_be_sent_again() {
    let data = directory("refused-views");
    let flag = format!("--data-dir={}", data.display());
    let (engine, database) = (shared_engine(), fresh_database());
    let slow = ["--ingest-min-interval-ms=300", &flag];
    let app = TestApp::start_with(&engine, &database, Clock::system(), &slow).await;
    let at = now();
    app.sql("ALTER TABLE traffic ADD CONSTRAINT no_bad CHECK page_url NOT LIKE '/bad%'")
        .await;
    app.post(0, &view(1, at, "/good")).await;
    // They wait for the interval and share a batch.
    let posts = (1..=40).map(|id| {
        let page = if id % 10 == 0 { "/bad" } else { "/good" };
        let (body, app) = (view(1, at, page), &app);
        async move { (id, app.post(id, &body).await) }
    });
    for (id, answer) in futures_util::future::join_all(posts).await {
        if id % 10 == 0 {
            assert_eq!(
                answer.status,
                StatusCode::UNPROCESSABLE_ENTITY,
                "{answer:?}"
            );
            assert_eq!(answer.body["type"], "/problems#refused-by-store");
            assert!(
                !answer.body.to_string().contains("no_bad"),
                "leaks: {answer:?}"
            );
        } else {
            assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        }
    }
    assert_eq!(app.daily(1).await, json!({"/good": 37}));
    assert_eq!(app.stats().refused, 4);

    let rejected = data.join("spool").join("rejected");
    let lines: Vec<Value> = std::fs::read_dir(&rejected)
        .unwrap()
        .flatten()
        .flat_map(|entry| {
            let text = std::fs::read_to_string(entry.path()).unwrap();
            text.lines()
                .map(|l| serde_json::from_str(l).unwrap())
                .collect::<Vec<Value>>()
        })
        .collect();
    assert_eq!(lines.len(), 4);
    for line in &lines {
        assert_eq!(line["rows"][0]["page_url"], "/bad");
        assert!(line["reason"].as_str().unwrap().contains("no_bad"));
        assert!(line["rejected_at"].as_str().unwrap().starts_with("20"));
    }
    // The operator mends the table and sends them again.
    app.sql("ALTER TABLE traffic DROP CONSTRAINT no_bad").await;
    let mut command = Service::command(&data);
    command.args(["spool", "replay", "--all"]);
    let (code, out, err) = crate::support::service::run(command);
    assert_eq!(code, Some(0), "{out}{err}");
    until("replayed", async || {
        app.daily(1).await == json!({"/good": 37, "/bad": 4})
    })
    .await;
    assert_eq!(std::fs::read_dir(&rejected).unwrap().count(), 0);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spooled_view_that_is_refused_goes_to_quarantine() {
    let data = directory("refused-replay");
    let flag = format!("--data-dir={}", data.display());
    let (engine, database) = (shared_engine(), fresh_database());
    let app = TestApp::start_with(&engine, &database, Clock::system(), &[&flag]).await;
    let at = now();
    app.sql("RENAME TABLE traffic TO away").await;
    for id in 0..10 {
        let page = if id == 3 { "/bad" } else { "/good" };
        assert_eq!(
            app.post(id, &view(1, at, page)).await.status,
            StatusCode::ACCEPTED
        );
    }
    app.sql("ALTER TABLE away ADD CONSTRAINT no_bad CHECK page_url != '/bad'")
        .await;
    app.sql("RENAME TABLE away TO traffic").await;
    until("replayed", async || {
        app.daily(1).await == json!({"/good": 9})
    })
    .await;
    until("spool empty", async || {
        files(&data.join("spool"), ".batch") == 0
    })
    .await;
    assert_eq!(files(&data.join("spool").join("rejected"), ".jsonl"), 1);
    assert_eq!(
        app.get("/health/ready").await.body["spool"]["rejected_files"],
        1
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_is_never_spooled() {
    let (app, engine, _) = on_private_engine("update-outage", &[]).await;
    let at = now();
    app.post(1, &view(1, at, "/a")).await;
    app.sql("RENAME TABLE traffic TO away").await;
    let update = app.put(1, &view(1, at, "/b")).await;
    assert_eq!(
        update.body["type"], "/problems#store-unavailable",
        "{update:?}"
    );
    assert_eq!(app.stats().spooled, 0);
    app.sql("RENAME TABLE away TO traffic").await;
    until("back", async || {
        app.put(1, &view(1, at, "/c")).await.status == StatusCode::OK
    })
    .await;
    assert_eq!(app.daily(1).await, json!({"/c": 1}));
    app.stop().await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_and_foreign_files_never_stop_a_start() {
    let data = directory("damaged");
    let flag = format!("--data-dir={}", data.display());
    let (app, engine, _) = on_private_engine("damaged-engine", &[&flag]).await;
    engine.stop().await;
    let at = now();
    for id in 0..4 {
        assert_eq!(
            app.post(id, &view(1, at, "/a")).await.status,
            StatusCode::ACCEPTED
        );
    }
    app.stop().await;
    let spool = data.join("spool");
    let mut batches: Vec<_> = std::fs::read_dir(&spool)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "batch"))
        .collect();
    batches.sort();
    assert_eq!(batches.len(), 4);
    let mut bytes = std::fs::read(&batches[0]).unwrap();
    let middle = bytes.len() - 20;
    bytes[middle] ^= 1;
    std::fs::write(&batches[0], bytes).unwrap();
    let bytes = std::fs::read(&batches[1]).unwrap();
    std::fs::write(&batches[1], &bytes[..bytes.len() / 2]).unwrap();
    std::fs::write(spool.join("notes.txt"), "what is this").unwrap();

    let engine = shared_engine();
    let app = TestApp::start_with(&engine, &fresh_database(), Clock::system(), &[&flag]).await;
    until("replayed", async || app.daily(1).await == json!({"/a": 2})).await;
    until("spool empty", async || files(&spool, ".batch") == 0).await;
    assert_eq!(
        std::fs::read_dir(spool.join("rejected")).unwrap().count(),
        3
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_engine_comes_back_and_nobody_is_refused() {
    let data = directory("killed-engine");
    let service = tokio::task::spawn_blocking(move || Service::start(&data));
    let mut service = service.await.unwrap();
    let http = reqwest::Client::new();
    let at = now();
    let mut spooled = 0;
    let mut posted = 0;
    for _ in 0..3 {
        let engine = service.children();
        assert_eq!(engine.len(), 1);
        signal(engine[0], "KILL");
        loop {
            let request = http.post(service.url(&format!("/api/traffic/{posted}")));
            let status = request
                .json(&view(1, at, "/a"))
                .send()
                .await
                .unwrap()
                .status();
            posted += 1;
            match status {
                StatusCode::ACCEPTED => spooled += 1,
                StatusCode::CREATED if !service.children().is_empty() => break,
                StatusCode::CREATED => {}
                other => panic!("{other}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert!(spooled > 0, "nothing was posted while the engine was down");
    until("all counted", async || {
        let report = http
            .get(service.url("/api/traffic/daily/1"))
            .send()
            .await
            .unwrap();
        report.status() == 200 && report.json::<Value>().await.unwrap() == json!({"/a": posted})
    })
    .await;
    assert!(service.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_are_not_taken_hold_up_no_others() {
    let data = directory("set-aside");
    let flag = format!("--data-dir={}", data.display());
    let app = TestApp::start_with(
        &shared_engine(),
        &fresh_database(),
        Clock::system(),
        &[&flag],
    )
    .await;
    let at = now();
    app.sql("RENAME TABLE traffic TO away").await;
    for id in 0..40 {
        assert_eq!(
            app.post(id, &view(1, at, "/a")).await.status,
            StatusCode::ACCEPTED
        );
    }
    // An error that is not known to be the batch's own fault, for every batch but the last.
    app.sql("ALTER TABLE away ADD COLUMN guard UInt8 MATERIALIZED intDiv(1, request_id >= 39)")
        .await;
    app.sql("RENAME TABLE away TO traffic").await;
    until("the last one", async || {
        app.daily(1).await == json!({"/a": 1})
    })
    .await;
    until("39 wait", async || {
        files(&data.join("spool"), ".batch") == 39
    })
    .await;
    // Live traffic is not held up either.
    until("live", async || {
        app.post(100, &view(1, at, "/b")).await.status == StatusCode::CREATED
    })
    .await;
    app.sql("ALTER TABLE traffic DROP COLUMN guard").await;
    until("all", async || {
        app.daily(1).await == json!({"/a": 40, "/b": 1})
    })
    .await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_spool_directory_is_made_again() {
    let data = directory("removed-spool");
    let flag = format!("--data-dir={}", data.display());
    let (engine, database) = (shared_engine(), fresh_database());
    let app = TestApp::start_with(&engine, &database, Clock::system(), &[&flag]).await;
    std::fs::remove_dir_all(data.join("spool")).unwrap();
    let at = now();
    app.sql("RENAME TABLE traffic TO away").await;
    assert_eq!(
        app.post(1, &view(1, at, "/a")).await.status,
        StatusCode::ACCEPTED
    );
    app.sql("RENAME TABLE away TO traffic").await;
    until("replayed", async || app.daily(1).await == json!({"/a": 1})).await;
    app.stop().await;
}
