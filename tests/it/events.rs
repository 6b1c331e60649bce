//! Events as clients send them: one by one, in batches, again, in contradiction, in an outage.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use traffic_api::domain::Clock;
use traffic_api::repository::RivalEvents;
use uuid::Uuid;

use crate::support::{
    Answer, TestApp, TestClock, directory, fresh_database, private_engine, repository, rfc3339,
    shared_engine,
};

/// An event as a body.
pub fn event(site: Uuid, of: &str, correlation_id: Uuid, time: i64) -> Value {
    let (site, id) = (site.to_string(), correlation_id.to_string());
    json!({"site_id": site, "type": of, "correlation_id": id, "time": rfc3339(time)})
}

/// So many sites, the same in every run.
pub fn sites(count: u128) -> Vec<Uuid> {
    let site = |n: u128| Uuid::from_u128(n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
    (1..=count).map(site).collect()
}

pub async fn post(app: &TestApp, event: &Value) -> Answer {
    app.call(Method::POST, "/v1/events", event).await
}

/// A batch of lines.
pub async fn post_lines(app: &TestApp, lines: String) -> Answer {
    let request = app.request(Method::POST, "/v1/events");
    let request = request.header("content-type", "application/x-ndjson");
    Answer::of(request.body(lines).send().await.unwrap()).await
}

/// Everything that was ever counted: (date, site, type) and how many.
pub async fn counted(app: &TestApp, query: &str) -> Vec<(String, String, String, u64)> {
    let mut counted = Vec::new();
    let mut next = String::new();
    loop {
        let answer = app
            .get(&format!("/v1/report?limit=1000&{query}{next}"))
            .await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        for counter in answer.body["counters"].as_array().unwrap() {
            let text = |name: &str| counter[name].as_str().unwrap().to_owned();
            for (of, n) in counter["counts"].as_object().unwrap() {
                let n = n.as_u64().unwrap();
                counted.push((text("date"), text("site_id"), of.clone(), n));
            }
        }
        match answer.body["next"].as_str() {
            Some(cursor) => next = format!("&after={cursor}"),
            None => return counted,
        }
    }
}

async fn total(app: &TestApp, query: &str) -> u64 {
    counted(app, query).await.iter().map(|row| row.3).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_counts_once_however_it_is_sent() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    let (site, now) = (sites(1)[0], clock.now());
    let served = event(site, "serve", Uuid::from_u128(1), now);
    let posted = post(&app, &served).await;
    assert_eq!(posted.status, StatusCode::CREATED, "{posted:?}");
    let mut stored = served.clone();
    stored["state"] = json!("stored");
    assert_eq!(posted.body, stored);
    assert_eq!(post(&app, &served).await.status, StatusCode::CREATED);

    // The same again: in an array, as lines, in capitals, with another offset.
    let array = json!([served, event(site, "solve", Uuid::from_u128(1), now)]);
    let receipt = app.call(Method::POST, "/latest/events", &array).await;
    assert_eq!(
        (receipt.status, &receipt.body["stored"]),
        (StatusCode::OK, &json!(2))
    );
    let mut spelled = served.clone();
    spelled["site_id"] = json!(site.to_string().to_uppercase());
    let lines = format!("{spelled}\n\n{{\"type\": 5}}\n{served}\n");
    let receipt = post_lines(&app, lines).await;
    assert_eq!(receipt.body["accepted"], 2, "{receipt:?}");
    let rejected = receipt.body["rejected"].as_array().unwrap();
    assert_eq!((rejected.len(), &rejected[0]["line"]), (1, &json!(3)));
    let named: Vec<&Value> = rejected[0]["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["field"])
        .collect();
    assert_eq!(named, ["site_id", "type", "correlation_id", "time"]);

    let report = app.get("/v1/report").await;
    let today = rfc3339(now - now % 86_400);
    assert_eq!(
        report.body["counters"],
        json!([{"date": today, "site_id": site.to_string(), "served": 1, "solved": 1,
            "counts": {"serve": 1, "solve": 1}}])
    );
    assert_eq!(report.body["next"], Value::Null);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_field_is_named() {
    let app = TestApp::start().await;
    let bad = post(
        &app,
        &json!({"site_id": "x", "type": "No", "time": 5, "extra": 1}),
    )
    .await;
    assert_eq!(bad.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(bad.body["type"], "/problems#invalid-event");
    assert_eq!(
        bad.bad_fields(),
        ["site_id", "type", "correlation_id", "time", "extra"]
    );
    let send = async |content_type: &str, body: Vec<u8>| {
        let request = app.request(Method::POST, "/v1/events");
        let request = request.header("content-type", content_type).body(body);
        Answer::of(request.send().await.unwrap()).await.status
    };
    assert_eq!(send("text/plain", b"{}".to_vec()).await, 415);
    assert_eq!(send("application/json", b"".to_vec()).await, 400);
    assert_eq!(send("application/json", b"{".to_vec()).await, 400);
    assert_eq!(send("application/json", b"5".to_vec()).await, 400);
    assert_eq!(send("application/json", b"  []".to_vec()).await, 200);
    let large = format!("{{\"site_id\": \"{}\"}}", "x".repeat(70_000));
    assert_eq!(send("application/json", large.into_bytes()).await, 413);
    assert_eq!(send("application/json", vec![b' '; 140_000]).await, 413);
    let missing = app.get("/v1/events").await;
    assert_eq!(missing.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(app.get("/v2/events").await.status, StatusCode::NOT_FOUND);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_event_may_be_compressed_and_may_begin_with_blanks() {
    use std::io::Write;
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    let event = event(sites(1)[0], "click", Uuid::from_u128(1), clock.now());
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    write!(gzip, "{}{event}", "\n".repeat(60_000)).unwrap();
    let zipped = gzip.finish().unwrap();
    let request = app.request(Method::POST, "/v1/events").body(zipped);
    let request = request
        .header("content-type", "application/json")
        .header("content-encoding", "gzip");
    let answer = Answer::of(request.send().await.unwrap()).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    assert_eq!(total(&app, "").await, 1);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_the_contract_is_storable_where_nothing_expires() {
    let flags = ["--events-retention-days=0"];
    let app =
        TestApp::start_with(&shared_engine(), &fresh_database(), Clock::system(), &flags).await;
    let mut example = event(sites(1)[0], "serve", Uuid::from_u128(7), 0);
    example["time"] = json!("2001-01-01T05:55:07");
    assert_eq!(post(&app, &example).await.status, StatusCode::CREATED);
    app.sql("OPTIMIZE TABLE events FINAL").await;
    assert_eq!(total(&app, "from=2001-01-01&to=2001-01-02").await, 1);
    assert_eq!(
        total(&app, "from=2001-01-01&to=2001-01-01T05:55:07Z").await,
        0
    );
    assert_eq!(
        total(&app, "from=2001-01-01T05:55:07Z&to=2001-01-01T05:55:08Z").await,
        1
    );
    assert_eq!(total(&app, "from=1970-01-01&to=2100-01-01").await, 1);
    app.stop().await;

    let app = TestApp::start().await;
    let refused = post(&app, &example).await;
    assert_eq!(refused.body["errors"][0]["code"], "before_retention");
    let refused = app.get("/v1/report?from=2001-01-01&to=2001-01-02").await;
    assert_eq!(refused.body["errors"][0]["code"], "before_retention");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn types_may_be_a_closed_set() {
    let flags = ["--event-types=serve,solve"];
    let app =
        TestApp::start_with(&shared_engine(), &fresh_database(), Clock::system(), &flags).await;
    let now = chrono::Utc::now().timestamp();
    let of = |of: &str| event(sites(1)[0], of, Uuid::from_u128(7), now);
    assert_eq!(post(&app, &of("solve")).await.status, StatusCode::CREATED);
    let refused = post(&app, &of("click")).await;
    assert_eq!(refused.body["errors"][0]["code"], "unknown_type");
    assert_eq!(
        refused.body["errors"][0]["detail"],
        "must be one of serve, solve"
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_times_known_to_one_instance_the_earliest_counts_at_once() {
    let clock = TestClock::frozen();
    let app = TestApp::start_with(
        &shared_engine(),
        &fresh_database(),
        clock.behind(0),
        &["--sealer=false"],
    )
    .await;
    let (site, id, now) = (sites(1)[0], Uuid::from_u128(1), clock.now());
    let day = |time: i64| rfc3339(time - time % 86_400);
    let since = format!("from={}", rfc3339(now - 20 * 86_400));
    let only = async |time: i64| {
        let left = counted(&app, &since).await;
        assert_eq!(
            (left.len(), &left[0].0, left[0].3),
            (1, &day(time), 1),
            "{left:?}"
        );
    };
    let at = |days: i64| event(site, "serve", id, now - days * 86_400);
    for days in [5, 3, 7, 6, 7, 3, 5] {
        assert_eq!(post(&app, &at(days)).await.status, StatusCode::CREATED);
    }
    only(now - 7 * 86_400).await;
    // In one batch, twice, and merged.
    let lines: Vec<String> = [4, 9, 8, 9, 4].map(|days| at(days).to_string()).into();
    for _ in 0..2 {
        let receipt = post_lines(&app, lines.join("\n")).await;
        assert_eq!(
            (receipt.status, &receipt.body["stored"]),
            (StatusCode::OK, &json!(5))
        );
        only(now - 9 * 86_400).await;
        app.sql("OPTIMIZE TABLE events FINAL").await;
    }
    only(now - 9 * 86_400).await;
    // Another site, or another type, is another event.
    let elsewhere = event(Uuid::from_u128(5), "serve", id, now - 1);
    assert_eq!(post(&app, &elsewhere).await.status, StatusCode::CREATED);
    let solved = event(site, "solve", id, now - 1);
    assert_eq!(post(&app, &solved).await.status, StatusCode::CREATED);
    assert_eq!(total(&app, &since).await, 3);
    app.stop().await;
}

/// Whoever sends a second time and goes away before the answer sends it again, and is answered when the
/// event counts once.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_second_time_that_nobody_waited_for_the_retry_settles() {
    use tokio::io::AsyncWriteExt;
    let clock = TestClock::frozen();
    let app = TestApp::start_with(
        &shared_engine(),
        &fresh_database(),
        clock.behind(0),
        &["--sealer=false"],
    )
    .await;
    let (site, now) = (sites(1)[0], clock.now());
    let address = app.url("").replace("http://", "");
    let since = format!("from={}", rfc3339(now - 20 * 86_400));
    let mut left = Vec::new();
    for id in 0..6 {
        let (id, days) = (Uuid::from_u128(id), if id % 2 == 0 { 5 } else { 3 });
        let first = event(site, "serve", id, now - 4 * 86_400);
        assert_eq!(post(&app, &first).await.status, StatusCode::CREATED);
        let second = event(site, "serve", id, now - days * 86_400);
        let body = second.to_string();
        let request = format!(
            "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        // Long enough to be read, and mostly not to be answered.
        tokio::time::sleep(std::time::Duration::from_millis(3)).await;
        drop(stream);
        let rows = format!("SELECT uniqExact(time) FROM events WHERE correlation_id = '{id}'");
        for _ in 0..40 {
            if app.sql(&rows).await == "2" {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
        left.push(total(&app, &since).await);
        assert_eq!(post(&app, &second).await.status, StatusCode::CREATED);
        let counted = total(&app, &since).await;
        assert_eq!(counted, left.len() as u64, "before the retry: {left:?}");
    }
    app.stop().await;
}

/// Two instances that don't know of each other take in two times of one event.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_times_the_earliest_stays_in_the_end() {
    let clock = TestClock::frozen();
    let (engine, database) = (shared_engine(), fresh_database());
    let flags = ["--sealer=false"];
    let one = TestApp::start_with(&engine, &database, clock.behind(0), &flags).await;
    let two = TestApp::start_with(&engine, &database, clock.behind(0), &flags).await;
    let (site, id, now) = (sites(1)[0], Uuid::from_u128(1), clock.now());
    let at = |time| event(site, "serve", id, time);
    assert_eq!(post(&one, &at(now - 100)).await.status, 201);
    assert_eq!(post(&two, &at(now - 200_000)).await.status, 201);
    let since = format!("from={}", rfc3339(now - 10 * 86_400));
    assert_eq!(total(&one, &since).await, 2, "until it is settled");
    let rivals = || RivalEvents::new(repository(&engine, &database));
    assert_eq!(rivals().settle().await.unwrap(), 1);
    let left = counted(&two, &since).await;
    let day = |time: i64| rfc3339(time - time % 86_400);
    assert_eq!((left.len(), &left[0].0), (1, &day(now - 200_000)));

    // Late copies of the loser change nothing, merged or not; a still earlier time wins.
    assert_eq!(post(&one, &at(now - 100)).await.status, 201);
    one.sql("OPTIMIZE TABLE events FINAL").await;
    assert_eq!(post(&one, &at(now - 100)).await.status, 201);
    assert_eq!(counted(&one, &since).await, left);
    assert_eq!(rivals().settle().await.unwrap(), 0);
    let third = TestApp::start_with(&engine, &database, clock.behind(0), &flags).await;
    assert_eq!(post(&third, &at(now - 400_000)).await.status, 201);
    // Two sweeps at once do no harm.
    let (a, b) = (rivals(), rivals());
    let (a, b) = tokio::join!(a.settle(), b.settle());
    assert!(a.unwrap() + b.unwrap() >= 1);
    let left = counted(&one, &since).await;
    assert_eq!((left.len(), &left[0].0), (1, &day(now - 400_000)));
    for app in [one, two, third] {
        app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_streams_share_the_spool_and_reach_their_own_tables() {
    let (engine, clickhouse) = private_engine("events-outage").await;
    let flag = format!("--data-dir={}", directory("events-spool").display());
    let app = TestApp::start_with(&clickhouse, &fresh_database(), Clock::system(), &[&flag]).await;
    let now = chrono::Utc::now().timestamp() - 5;
    let site = sites(1)[0];
    engine.stop().await;
    for id in 0..20_u32 {
        let answer = post(&app, &event(site, "serve", Uuid::from_u128(id.into()), now)).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
        assert_eq!(answer.body["state"], "spooled");
        let view = crate::support::view(1, now, &format!("/{id}"));
        assert_eq!(
            app.post(id.into(), &view).await.status,
            StatusCode::ACCEPTED
        );
    }
    assert_eq!(app.get("/health/ready").await.body["status"], "degraded");
    app.stop().await;
    // Another server: what is to be written where is in the files.
    let app = TestApp::start_with(
        &shared_engine(),
        &fresh_database(),
        Clock::system(),
        &[&flag],
    )
    .await;
    for _ in 0..200 {
        if app.get("/health/ready").await.body["spool"]["files"] == 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(total(&app, "").await, 20);
    assert_eq!(app.daily(1).await.as_object().unwrap().len(), 20);
    let ready = app.get("/health/ready").await.body;
    assert_eq!(ready["spool"]["rejected_files"], 0, "{ready}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_be_content_with_the_disk() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    let body = event(sites(1)[0], "serve", Uuid::from_u128(9), clock.now());
    let request = app.request(Method::POST, "/v1/events").json(&body);
    let answer = request
        .header("prefer", "respond-async")
        .send()
        .await
        .unwrap();
    let answer = Answer::of(answer).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!(answer.header("preference-applied"), "respond-async");
    for _ in 0..200 {
        if total(&app, "").await == 1 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(total(&app, "").await, 1);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_version_serves_the_same() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    let view = crate::support::view(3, clock.now(), "/a");
    for (id, root) in ["", "/v1", "/latest"].iter().enumerate() {
        let path = format!("{root}/api/traffic/{id}");
        assert_eq!(app.call(Method::POST, &path, &view).await.status, 201);
        let report = app.get(&format!("{root}/api/traffic/daily/3")).await;
        assert_eq!(report.body, json!({"/a": id + 1}));
        assert_eq!(app.get(&path).await.status, 200);
        let wrong = app
            .call(Method::POST, &format!("{root}/api/traffic/daily/3"), &view)
            .await;
        assert_eq!(wrong.status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(wrong.header("content-type"), "application/problem+json");
        let nowhere = app.get(&format!("{root}/nowhere")).await;
        assert_eq!(nowhere.body["type"], "/problems#no-such-route");
    }
    for root in ["/v1", "/latest"] {
        assert_eq!(app.get(&format!("{root}/report")).await.status, 200);
        assert_eq!(app.get(&format!("{root}/report/funnel")).await.status, 200);
    }
    assert_eq!(app.get("/report").await.status, 404);
    let document = app.get("/openapi.json").await.body;
    let paths: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    assert!(paths.iter().any(|path| *path == "/v1/events"));
    assert!(
        paths.iter().all(|path| !path.starts_with("/latest")),
        "{paths:?}"
    );
    app.stop().await;
}
