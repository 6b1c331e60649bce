//! Many clients at once.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::json;
use traffic_api::domain::Clock;

use crate::support::{TestApp, TestClock, fresh_database, shared_engine, view};

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_post_at_once_share_inserts() {
    const CONNECTIONS: u64 = 64;
    const EACH: u64 = 25;
    let clock = TestClock::frozen();
    let app = Arc::new(TestApp::start_at(&clock).await);
    let senders = (0..CONNECTIONS).map(|connection| {
        let (app, now) = (Arc::clone(&app), clock.now());
        tokio::spawn(async move {
            for n in 0..EACH {
                let id = connection * EACH + n;
                let answer = app.post(id, &view(1, now, "/a")).await;
                assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
            }
        })
    });
    for sender in senders.collect::<Vec<_>>() {
        sender.await.unwrap();
    }
    let views = CONNECTIONS * EACH;
    assert_eq!(app.daily(1).await, json!({"/a": views}));

    // The server's own count: every insert into one partition takes one block number.
    let blocks = "SELECT max(max_block_number) FROM system.parts \
                  WHERE database = currentDatabase() AND table = 'traffic'";
    let inserts: u64 = app.sql(blocks).await.parse().unwrap();
    println!("{CONNECTIONS} connections posted {views} views in {inserts} inserts");
    assert!(inserts <= views / 5, "{inserts} inserts for {views} views");
    assert_eq!(app.stats().rows, views);
    Arc::into_inner(app).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_buffer_is_said_at_once_and_nothing_is_kept() {
    let clock = TestClock::frozen();
    let small = [
        "--ingest-buffer-bytes=65536",
        "--ingest-min-interval-ms=2000",
    ];
    let engine = shared_engine();
    let app = TestApp::start_with(&engine, &fresh_database(), clock.behind(0), &small).await;
    let app = Arc::new(app);
    // The first insert starts the interval; what follows has to wait in the buffer.
    assert_eq!(
        app.post(0, &view(1, clock.now(), "/a")).await.status,
        StatusCode::CREATED
    );
    let senders = (1..=200).map(|id| {
        let (app, now) = (Arc::clone(&app), clock.now());
        tokio::spawn(async move {
            let answer = app
                .post(id, &view(1, now, &format!("/{}", "a".repeat(1000))))
                .await;
            if answer.status == StatusCode::TOO_MANY_REQUESTS {
                assert_eq!(answer.header("retry-after"), "1");
                assert_eq!(answer.body["type"], "/problems#buffer-full");
            }
            (id, answer.status)
        })
    });
    let mut stored = 1;
    let mut refused = None;
    for sender in senders.collect::<Vec<_>>() {
        match sender.await.unwrap() {
            (_, StatusCode::CREATED) => stored += 1,
            (id, StatusCode::TOO_MANY_REQUESTS) => refused = Some(id),
            other => panic!("{other:?}"),
        }
    }
    assert!(stored > 1, "the buffer holds something");
    let refused = refused.expect("64 KiB do not hold 200 views of 1 kB");
    assert_eq!(
        app.sql("SELECT count() FROM traffic").await,
        stored.to_string()
    );
    // A refused view has not taken its id.
    assert_eq!(
        app.post(refused, &view(1, clock.now(), "/b")).await.status,
        StatusCode::CREATED
    );
    Arc::into_inner(app).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_on_two_instances_leave_one_view() {
    let (engine, database) = (shared_engine(), fresh_database());
    let clock = TestClock::frozen();
    let one = TestApp::start_with(&engine, &database, clock.behind(0), &["--node-id=1"]).await;
    let two = TestApp::start_with(&engine, &database, clock.behind(0), &["--node-id=2"]).await;
    let now = clock.now();
    for round in 0..20_u64 {
        one.post(round, &view(1, now, "/start")).await;
        let (a, b) = (view(1, now, "/a"), view(1, now, "/b"));
        let (c, d) = (view(1, now - 7200, "/c"), view(1, now, "/d"));
        let answers = tokio::join!(
            one.put(round, &a),
            two.put(round, &b),
            one.put(round, &c),
            two.put(round, &d),
        );
        for answer in [answers.0, answers.1, answers.2, answers.3] {
            assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        }
        let report = one.daily(1).await;
        let total: u64 = report
            .as_object()
            .unwrap()
            .values()
            .map(|n| n.as_u64().unwrap())
            .sum();
        assert_eq!(total, round + 1, "{report}");
    }
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_admitted_before_the_stop_is_answered() {
    let engine = shared_engine();
    let slow = ["--ingest-min-interval-ms=500"];
    let database = fresh_database();
    let app = TestApp::start_with(&engine, &database, Clock::system(), &slow).await;
    let now = chrono::Utc::now().timestamp() - 10;
    app.post(0, &view(1, now, "/a")).await;
    let client = reqwest::Client::new();
    let senders = (1..=50).map(|id| {
        let request = client
            .post(app.url(&format!("/api/traffic/{id}")))
            .json(&view(1, now, "/a"))
            .send();
        tokio::spawn(async move { request.await.map(|r| r.status()) })
    });
    let senders: Vec<_> = senders.collect();
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    app.stop().await;
    let mut acknowledged = 1;
    for sender in senders {
        if let Ok(status) = sender.await.unwrap() {
            assert_eq!(status, StatusCode::CREATED);
            acknowledged += 1;
        }
    }
    assert!(acknowledged > 1, "nothing was in flight");
    let stored = engine
        .sql(&database, "SELECT count() FROM traffic FINAL")
        .await;
    assert_eq!(stored, acknowledged.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_leaves_no_rivals() {
    let clock = TestClock::frozen();
    let app = Arc::new(TestApp::start_at(&clock).await);
    let now = clock.now();
    let mut given_up = 0;
    for id in 0..150_u64 {
        app.post(id, &view(1, now, &format!("/{id}"))).await;
        let impatient = app.request(Method::PUT, &format!("/api/traffic/{id}"));
        let impatient = impatient
            .json(&view(1, now, &format!("/{id}/x")))
            .timeout(Duration::from_micros(id % 50 * 400))
            .send();
        let settled = view(1, now, &format!("/{id}/y"));
        let (impatient, patient) = tokio::join!(impatient, app.put(id, &settled));
        given_up += u32::from(impatient.is_err());
        assert_eq!(patient.status, StatusCode::OK);
    }
    assert!(given_up > 10, "nobody hung up");
    // The steps of those that nobody waits for take a moment.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let report = app.daily(1).await;
    let mut views = std::collections::BTreeMap::<&str, u64>::new();
    for (page, count) in report.as_object().unwrap() {
        *views.entry(page.split('/').nth(1).unwrap()).or_default() += count.as_u64().unwrap();
    }
    assert_eq!(views.len(), 150);
    let twice: Vec<_> = views.iter().filter(|(_, count)| **count != 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    Arc::into_inner(app).unwrap().stop().await;
}

/// Resident memory of this process, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_costs_little_memory() {
    const CONNECTIONS: u64 = 400;
    let app = TestApp::start().await;
    let address = app.url("").trim_start_matches("http://").to_owned();
    let open = |count: u64| -> Vec<_> {
        (0..count)
            .map(|_| std::net::TcpStream::connect(&address).unwrap())
            .collect()
    };
    let warm = open(50);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = resident();
    let idle = open(CONNECTIONS);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let each = resident().saturating_sub(before) / CONNECTIONS;
    println!("an idle connection takes {each} KiB");
    // Other tests share this process; what this guards against was 700 KiB.
    assert!(each < 300, "{each} KiB");
    drop((warm, idle));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_wait_for_a_place() {
    let engine = shared_engine();
    let two = ["--max-connections=2"];
    let app = TestApp::start_with(&engine, &fresh_database(), Clock::system(), &two).await;
    let address = app.url("").trim_start_matches("http://").to_owned();
    let taken: Vec<_> = (0..2)
        .map(|_| std::net::TcpStream::connect(&address).unwrap())
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let third = app
        .request(Method::GET, "/health")
        .timeout(Duration::from_millis(300));
    assert!(third.send().await.is_err(), "a third was served");
    drop(taken);
    assert_eq!(app.get("/health").await.status, StatusCode::OK);
    app.stop().await;
}
