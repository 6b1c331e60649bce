//! Erasures amid kills, and of what is on this node's disk.

use std::time::{Duration, Instant};

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use traffic_api::domain::Clock;

use crate::privacy::{erase, is_on_disk, until};
use crate::support::service::{Service, signal};
use crate::support::{Answer, TestApp, directory, fresh_database, shared_engine, view};

const DAY: i64 = 86_400;
const VIEWS: u32 = 60;
const PATIENCE: Duration = Duration::from_secs(180);

/// A page in letters that compression leaves as they are.
fn page_of(round: u32) -> String {
    format!("/QZXJKVWPYH{}", char::from(b'A' + round as u8))
}

fn line(id: u64, user: u32, at: i64, page: &str) -> String {
    let mut line = view(user, at, page);
    line["request_id"] = json!(id);
    line.to_string() + "\n"
}

async fn days(http: &Client, service: &Service, user: u32) -> Value {
    let path = format!("/api/traffic/users/{user}/days?by=page");
    let began = Instant::now();
    loop {
        let answer = Answer::of(http.get(service.url(&path)).send().await.unwrap()).await;
        if answer.status == StatusCode::OK {
            return answer.body["days"].clone();
        }
        assert!(began.elapsed() < PATIENCE, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn views(days: &Value) -> u64 {
    let days = days.as_array().unwrap().iter();
    days.map(|day| day["views"].as_u64().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_amid_an_erasure_leaves_all_of_a_person_or_nothing_and_others_as_they_were() {
    let data = directory("erase-kill");
    let http = Client::builder().timeout(PATIENCE).build().unwrap();
    let mut service = Service::start(&data);
    let now = chrono::Utc::now().timestamp() - 60;
    let (mut id, mut others) = (0, Value::Null);
    for round in 0..8_u32 {
        let (person, page) = (1000 + round, page_of(round));
        let mut lines = String::new();
        for n in 0..VIEWS {
            let at = now - i64::from(n % 5) * DAY;
            lines += &line(id, person, at, &page);
            if round == 0 {
                lines += &line(id + 1, 8, at, "/other");
            }
            id += 2;
        }
        let batch = http.post(service.url("/api/traffic"));
        let batch = batch.header("content-type", "application/x-ndjson");
        let answer = batch.body(lines).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        if round == 0 {
            others = days(&http, &service, 8).await;
            assert_eq!(views(&others), u64::from(VIEWS));
        }
        assert!(is_on_disk(&data, &page.as_bytes()[1..]), "control");

        let url = service.url(&format!("/api/users/{person}/traffic"));
        let asked = tokio::spawn(http.delete(&url).send());
        // From before the record until long after it.
        tokio::time::sleep(Duration::from_millis(10 + u64::from(round / 2) * 90)).await;
        if round % 2 == 0 {
            service.kill();
            asked.await.unwrap().unwrap_err();
            service = Service::start(&data);
        } else {
            service
                .children()
                .into_iter()
                .for_each(|pid| signal(pid, "KILL"));
            let status = asked.await.unwrap().unwrap().status();
            assert!(
                [StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE].contains(&status),
                "{status}"
            );
        }
        let counted = views(&days(&http, &service, person).await);
        assert!(
            counted == 0 || counted == u64::from(VIEWS),
            "round {round}: {counted}"
        );
        assert_eq!(days(&http, &service, 8).await, others, "round {round}");
        if counted > 0 {
            let url = service.url(&format!("/api/users/{person}/traffic"));
            let began = Instant::now();
            while http.delete(&url).send().await.unwrap().status() != StatusCode::OK {
                assert!(began.elapsed() < PATIENCE);
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            assert_eq!(views(&days(&http, &service, person).await), 0);
        }
    }
    // What was recorded goes by itself, from every table.
    let began = Instant::now();
    for person in 1000..1008 {
        let url = service.url(&format!("/api/users/{person}/traffic"));
        loop {
            let answer = Answer::of(http.delete(&url).send().await.unwrap()).await;
            let tables = answer.body["tables"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            if !tables.is_empty() && tables.iter().all(|table| table["before"] == 0) {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "{person}: {answer:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    assert_eq!(days(&http, &service, 8).await, others);
    assert!(is_on_disk(&data, b"other"));
    service.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_and_what_was_moved_aside_here_goes_and_the_rest_seems_no_fresher() {
    let data = directory("erase-own-spool");
    let flags = [
        &format!("--data-dir={}", data.display()),
        "--ingest-min-interval-ms=300",
        // Room for one file: what is left of it must not need more.
        "--spool-max-bytes=1048576",
    ];
    let app = TestApp::start_with(
        &shared_engine(),
        &fresh_database(),
        Clock::system(),
        &flags.map(|flag| flag as &str),
    )
    .await;
    let at = chrono::Utc::now().timestamp() - 60;
    app.sql("ALTER TABLE traffic ADD CONSTRAINT no_bad CHECK page_url NOT LIKE '/bad%'")
        .await;
    // They share an interval, so that one file has both.
    let (seven, eight) = (view(7, at, "/bad-of-7"), view(8, at, "/bad-of-8"));
    let (one, two) = tokio::join!(app.post(1, &seven), app.post(2, &eight));
    for answer in [one, two] {
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    }
    // Inserts fail from here on, reads do not.
    for sql in [
        "CREATE TABLE hole (user_id UInt32) ENGINE = Memory",
        "CREATE MATERIALIZED VIEW broken TO hole AS SELECT user_id FROM traffic",
        "RENAME TABLE hole TO filled",
    ] {
        app.sql(sql).await;
    }
    let long = format!("/waits-of-8{}", "x".repeat(1900));
    let mut lines = line(3, 7, at, "/waits-of-7");
    (4..404).for_each(|id| lines += &line(id, 8, at, &long));
    let batch = app.request(Method::POST, "/api/traffic");
    let batch = batch.header("content-type", "application/x-ndjson");
    let answer = Answer::of(batch.body(lines).send().await.unwrap()).await;
    assert_eq!(answer.body["spooled"], 401, "{answer:?}");
    let spool = data.join("spool");
    let has = |page: &str| is_on_disk(&spool, page.as_bytes());
    assert!(["/bad-of-7", "/bad-of-8", "/waits-of-7", "/waits-of-8"].map(has) == [true; 4]);
    let before = app.get("/api/traffic/daily/8").await;
    assert_eq!(before.header("rows-spooled"), "401");

    let answer = erase(&app, 7).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(
        answer.body["spool"],
        json!({"before": 2, "after": 0, "unreadable_files": 0})
    );
    assert!(!has("/bad-of-7") && !has("/waits-of-7"));
    assert!(has("/bad-of-8") && has("/waits-of-8"));
    let after = app.get("/api/traffic/daily/8").await;
    assert_eq!(after.header("rows-spooled"), "400");
    let through = "data-complete-through";
    assert!(
        after.header(through) <= before.header(through),
        "{} {}",
        before.header(through),
        after.header(through)
    );
    assert_eq!(
        app.get("/api/traffic/3").await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(app.get("/api/traffic/4").await.status, StatusCode::ACCEPTED);

    app.sql("DROP TABLE broken").await;
    until("the rest is replayed", async || {
        app.daily(8).await == json!({&long: 400})
    })
    .await;
    assert_eq!(app.daily(7).await, json!({}));
    app.stop().await;
}
