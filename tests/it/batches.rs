//! Many views in one request.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use async_compression::tokio::write::{GzipEncoder, ZstdEncoder};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use traffic_api::domain::Clock;

use crate::support::service::Service;
use crate::support::{
    Answer, TestApp, TestClock, directory, fresh_database, private_engine, rfc3339, shared_engine,
    view,
};

const LINES: &str = "application/x-ndjson";
const PATIENCE: Duration = Duration::from_secs(30);

fn line(id: u64, user_id: u32, created_at: i64, page_url: &str) -> String {
    let mut line = view(user_id, created_at, page_url);
    line["request_id"] = id.into();
    line.to_string()
}

async fn send(app: &TestApp, headers: &[(&str, &str)], body: impl Into<reqwest::Body>) -> Answer {
    let mut request = app.request(Method::POST, "/api/traffic");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Answer::of(request.body(body).send().await.unwrap()).await
}

async fn send_lines(app: &TestApp, lines: &[String]) -> Answer {
    send(app, &[("content-type", LINES)], lines.join("\n")).await
}

/// Number and codes of the rejected lines.
fn rejected(answer: &Answer) -> Vec<(u64, Vec<String>)> {
    let lines = answer.body["rejected"].as_array().unwrap().iter();
    let codes = |line: &Value| {
        let errors = line["errors"].as_array().unwrap().iter();
        errors
            .map(|e| {
                format!(
                    "{} {}",
                    e["field"].as_str().unwrap(),
                    e["code"].as_str().unwrap()
                )
            })
            .collect()
    };
    lines
        .map(|line| (line["line"].as_u64().unwrap(), codes(line)))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn good_lines_are_stored_and_bad_ones_named() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    let now = clock.now();
    let lines = [
        line(1, 7, now, "/a"),
        String::new(),
        "{\"request_id\": 2".to_owned(),
        line(3, 7, now + 60, "no url"),
        line(4, 7, now - 5, "/a"),
        "[]".to_owned(),
        view(7, now, "/no-id").to_string(),
        line(u64::MAX, 7, now - 5, "/ü"),
        line(1, 7, now, "/a"),
        line(1, 7, now, "/another"),
        format!("{{\"page_url\": \"/{}\"}}", "a".repeat(70_000)),
    ];
    let answer = send_lines(&app, &lines).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let named = |line: u64, codes: &[&str]| (line, codes.iter().map(|c| (*c).to_owned()).collect());
    assert_eq!(
        rejected(&answer),
        [
            named(3, &[" malformed_json"]),
            named(4, &["created_at in_future", "page_url not_a_url"]),
            named(6, &[" wrong_type"]),
            named(7, &["request_id required"]),
            named(10, &["request_id conflict"]),
            named(11, &[" too_long"]),
        ]
    );
    let count = |name: &str| answer.body[name].as_u64().unwrap();
    assert_eq!(
        (
            count("accepted"),
            count("stored"),
            count("spooled"),
            count("rejected_count")
        ),
        (4, 4, 0, 6)
    );
    assert_eq!(app.daily(7).await, json!({"/a": 2, "/ü": 1}));

    // The rest of the interface knows them as it knows single posts.
    let again = app.post(4, &view(7, now - 5, "/a")).await;
    assert_eq!(again.status, StatusCode::CREATED);
    let other = app.post(4, &view(7, now - 5, "/b")).await;
    assert_eq!(other.status, StatusCode::CONFLICT);
    app.put(u64::MAX, &view(7, now, "/moved")).await;
    assert_eq!(send_lines(&app, &lines).await.body["accepted"], 4);
    assert_eq!(app.daily(7).await, json!({"/a": 2, "/moved": 1}));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn arrays_and_encodings_bring_the_same() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    let now = clock.now();
    let views: Vec<String> = (0..2500).map(|id| line(id, 1, now, "/a")).collect();
    let (lines, array) = (views.join("\n") + "\n", format!("[{}]", views.join(",")));

    let (mut gzip, mut zstd) = (GzipEncoder::new(Vec::new()), ZstdEncoder::new(Vec::new()));
    gzip.write_all(lines.as_bytes()).await.unwrap();
    gzip.shutdown().await.unwrap();
    zstd.write_all(array.as_bytes()).await.unwrap();
    zstd.shutdown().await.unwrap();
    let (gzip, zstd) = (gzip.into_inner(), zstd.into_inner());

    for (headers, body) in [
        (&[("content-type", LINES)][..], lines.clone().into_bytes()),
        (&[("content-type", "application/json")], array.into_bytes()),
        (
            &[("content-type", LINES), ("content-encoding", "gzip")],
            gzip.clone(),
        ),
        (
            &[("content-type", LINES), ("content-encoding", "gzip")],
            [&gzip[..], &gzip].concat(),
        ),
        (
            &[
                ("content-type", "application/json; charset=utf-8"),
                ("content-encoding", "ZSTD"),
            ],
            zstd.clone(),
        ),
    ] {
        let body_is_double = body.len() == 2 * gzip.len();
        let answer = send(&app, headers, body).await;
        assert_eq!(answer.status, StatusCode::OK, "{headers:?} {answer:?}");
        // Two members bring every view twice, which counts once all the same.
        let members = 1 + u64::from(body_is_double);
        assert_eq!(answer.body["accepted"], 2500 * members, "{answer:?}");
        assert_eq!(app.daily(1).await, json!({"/a": 2500}));
    }

    // Broken in the middle: what came before is kept and said.
    for body in [&gzip[..gzip.len() - 9], b"not gzip at all", &zstd] {
        let headers = [("content-type", LINES), ("content-encoding", "gzip")];
        let answer = send(&app, &headers, body.to_vec()).await;
        if answer.status == StatusCode::OK {
            assert_eq!(answer.body["rejected_count"], 1, "{answer:?}");
        } else {
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer:?}");
            assert_eq!(answer.body["type"], "/problems#malformed-json");
        }
    }
    for (content_type, encoding) in [
        ("text/plain", "identity"),
        ("", "identity"),
        (LINES, "br"),
        (LINES, "gzip, zstd"),
    ] {
        let headers = [
            ("content-type", content_type),
            ("content-encoding", encoding),
        ];
        let answer = send(&app, &headers, lines.clone()).await;
        assert_eq!(
            answer.status,
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "{headers:?}"
        );
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_batch_is_refused_and_an_empty_one_is_nothing() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    let json = [("content-type", "application/json")];
    let good = line(1, 1, clock.now(), "/a");
    for body in ["{}", "", "null", &good] {
        let answer = send(&app, &json, body.to_owned()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body} {answer:?}");
        assert_eq!(answer.body["type"], "/problems#malformed-json");
    }
    for (headers, body) in [(json, "[]"), ([("content-type", LINES)], "")] {
        let answer = send(&app, &headers, body).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.body["accepted"], 0);
    }
    assert_eq!(app.daily(1).await, json!({}));

    let cut = format!("[{good}, {{\"request_id\": 2");
    let answer = send(&app, &json, cut).await;
    assert_eq!(answer.body["accepted"], 1);
    assert_eq!(rejected(&answer), [(2, vec![" malformed_json".to_owned()])]);
    assert_eq!(app.daily(1).await, json!({"/a": 1}));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_bad_lines_give_a_short_answer() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    let lines: Vec<String> = (0..3000)
        .map(|id| match id % 3 {
            0 => line(id, 1, clock.now(), "/a"),
            _ => "{}".to_owned(),
        })
        .collect();
    let answer = send_lines(&app, &lines).await;
    assert_eq!(answer.body["accepted"], 1000);
    assert_eq!(answer.body["rejected_count"], 2000);
    assert_eq!(rejected(&answer).len(), 100);
    assert_eq!(rejected(&answer)[99].0, 150);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_takes_only_its_own_line_out_of_a_large_batch() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    for id in [5, 1700] {
        let alone = app.post(id, &view(2, clock.now(), "/alone")).await;
        assert_eq!(alone.status, StatusCode::CREATED);
    }
    let mut lines: Vec<String> = (0..2000).map(|id| line(id, 1, clock.now(), "/a")).collect();
    lines.extend((500..700).map(|id| line(id, 1, clock.now(), "/b")));
    lines[100] = "{}".to_owned();
    let answer = send_lines(&app, &lines).await;
    assert_eq!(answer.body["stored"], 1997, "{answer:?}");
    assert_eq!(answer.body["rejected_count"], 203);
    let named = rejected(&answer);
    let numbers: Vec<u64> = named.iter().map(|(number, _)| *number).collect();
    let first: Vec<u64> = [6, 101, 1701].into_iter().chain(2001..2098).collect();
    assert_eq!(numbers, first);
    assert_eq!(named[0].1, ["request_id conflict"]);
    assert_eq!(app.daily(1).await, json!({"/a": 1997}));
    assert_eq!(app.daily(2).await, json!({"/alone": 2}));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_over_many_days_is_fine() {
    let clock = TestClock::frozen();
    let flags = ["--retention-days=400"];
    let app =
        TestApp::start_with(&shared_engine(), &fresh_database(), clock.behind(0), &flags).await;
    let day = 86_400;
    let lines: Vec<String> = (0..1900)
        .map(|id| line(id, 1, clock.now() - (id % 380) as i64 * day, "/a"))
        .collect();
    let answer = send_lines(&app, &lines).await;
    assert_eq!(answer.body["accepted"], 1900);
    // A busy machine may need longer for so many parts than an insert may take; then the spool has it.
    let found = "SELECT count(), uniqExact(toDate(created_at)) FROM traffic FINAL FORMAT CSV";
    let deadline = Instant::now() + PATIENCE;
    while app.sql(found).await != "1900,380" {
        assert!(Instant::now() < deadline, "{}", app.sql(found).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(app.daily(1).await, json!({"/a": 5}));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_prefers_so_or_an_outage_leads_to_the_spool() {
    let (engine, clickhouse) = private_engine("batches-outage").await;
    let data_dir = directory("batches-outage-data");
    let flag = format!("--data-dir={}", data_dir.display());
    let database = fresh_database();
    let app = TestApp::start_with(&clickhouse, &database, Clock::system(), &[&flag]).await;
    let now = chrono::Utc::now().timestamp() - 10;
    let part = |from: u64| -> Vec<String> {
        (from..from + 1500)
            .map(|id| line(id, 1, now, "/a"))
            .collect()
    };
    let headers = [("content-type", LINES), ("prefer", "respond-async")];
    let answer = send(&app, &headers, part(0).join("\n")).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!(answer.header("preference-applied"), "respond-async");
    assert_eq!(answer.body["spooled"], 1500);
    until_counted(&app, 1500).await;

    // For good: this app knows a fixed address, and a restarted engine takes another.
    engine.stop().await;
    for size in [1500, 3] {
        let answer = send_lines(&app, &part(1500)[..size]).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
        assert_eq!(
            (&answer.body["spooled"], &answer.body["stored"]),
            (&json!(size), &json!(0))
        );
    }
    app.stop().await;
}

async fn until_counted(app: &TestApp, views: u64) {
    let deadline = Instant::now() + PATIENCE;
    while app.daily(1).await != json!({"/a": views}) {
        assert!(Instant::now() < deadline, "never {views}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_place_nothing_is_claimed() {
    let (engine, clickhouse) = private_engine("batches-nowhere").await;
    let flags = ["--spool-max-bytes=1048576"];
    let app = TestApp::start_with(&clickhouse, &fresh_database(), Clock::system(), &flags).await;
    engine.stop().await;
    let now = chrono::Utc::now().timestamp() - 10;
    let page = format!("/{}", "a".repeat(1500));
    let lines: Vec<String> = (0..2000).map(|id| line(id, 1, now, &page)).collect();
    let answer = send_lines(&app, &lines).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
    assert_eq!(answer.body["type"], "/problems#store-unavailable");
    assert_eq!(answer.header("retry-after"), "2");
    assert!(
        answer.body["detail"]
            .as_str()
            .unwrap()
            .starts_with("0 lines"),
        "{answer:?}"
    );
    // Nobody is blocked by what was not kept.
    let other = app.post(0, &view(1, now, "/other")).await;
    assert_eq!(other.status, StatusCode::ACCEPTED);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_breaks_off_leaves_whole_views() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    let lines: Vec<String> = (0..9000).map(|id| line(id, 1, clock.now(), "/a")).collect();
    let body = lines.join("\n");
    let address = app.url("").replace("http://", "");
    for share in [0.1, 0.5, 0.999] {
        let mut connection = tokio::net::TcpStream::connect(&address).await.unwrap();
        let head = format!(
            "POST /api/traffic HTTP/1.1\r\nhost: localhost\r\ncontent-type: {LINES}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let part = &body.as_bytes()[..(body.len() as f64 * share) as usize];
        connection.write_all(head.as_bytes()).await.unwrap();
        connection.write_all(part).await.unwrap();
        // Long enough that some is sent off because of its age.
        tokio::time::sleep(Duration::from_millis(1300)).await;
        drop(connection);
        tokio::time::sleep(Duration::from_millis(100)).await;
        let counts = app.daily(1).await;
        let whole = counts.as_object().unwrap();
        assert!(whole.keys().all(|page| page == "/a"), "{counts}");
    }
    assert_ne!(
        app.daily(1).await,
        json!({}),
        "blocks were sent off while the client paused"
    );
    let answer = send_lines(&app, &lines).await;
    assert_eq!(answer.body["stored"], 9000);
    assert_eq!(app.daily(1).await, json!({"/a": 9000}));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_first_is_told_to_continue() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    let address = app.url("").replace("http://", "");
    let body = line(1, 1, clock.now(), "/a");
    for (content_type, expected) in [(LINES, "HTTP/1.1 100"), ("text/plain", "HTTP/1.1 415")] {
        let mut connection = tokio::net::TcpStream::connect(&address).await.unwrap();
        let head = format!(
            "POST /api/traffic HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\nconnection: close\r\n\
             content-type: {content_type}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        connection.write_all(head.as_bytes()).await.unwrap();
        let mut first = [0; 12];
        connection.read_exact(&mut first).await.unwrap();
        assert_eq!(std::str::from_utf8(&first).unwrap(), expected);
        if content_type == LINES {
            connection.write_all(body.as_bytes()).await.unwrap();
            let mut rest = String::new();
            connection.read_to_string(&mut rest).await.unwrap();
            assert!(rest.contains("HTTP/1.1 200 OK"), "{rest}");
            assert!(rest.contains("\"accepted\":1"), "{rest}");
        }
    }
    app.stop().await;
}

/// Views of several clients at once, in batches and alone, each sent several times.
#[tokio::test(flavor = "multi_thread")]
async fn batches_and_single_posts_of_the_same_views_count_once() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    let page = |id: u64| format!("/{}", id % 5);
    let lines: Vec<String> = (0..4000)
        .map(|id| line(id, 1, clock.now(), &page(id)))
        .collect();
    let whole = send_lines(&app, &lines);
    let halves = async {
        let first = send_lines(&app, &lines[..2000]).await;
        (first, send_lines(&app, &lines[2000..]).await)
    };
    let small = futures_util::future::join_all(lines.chunks(80).map(|part| send_lines(&app, part)));
    let single = futures_util::future::join_all((0..4000).step_by(20).map(|id| {
        let view = view(1, clock.now(), &page(id));
        let app = &app;
        async move { app.post(id, &view).await }
    }));
    let (whole, halves, small, single) = tokio::join!(whole, halves, small, single);
    assert_eq!(whole.body["stored"], 4000);
    assert_eq!(
        (&halves.0.body["stored"], &halves.1.body["stored"]),
        (&json!(2000), &json!(2000))
    );
    assert!(small.iter().all(|a| a.body["stored"] == 80), "{small:?}");
    assert!(single.iter().all(|a| a.status == StatusCode::CREATED));
    let expected: BTreeMap<String, u64> = (0..5).map(|n| (format!("/{n}"), 800)).collect();
    assert_eq!(app.daily(1).await, json!(expected));
    app.stop().await;
}

/// Memory is bounded whatever the body's size.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_never_held_as_a_whole() {
    let data_dir = directory("batches-memory");
    let service = Service::start(&data_dir);
    let peak = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", service.pid())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM:"))
            .unwrap();
        let kilobytes = line.split_whitespace().nth(1).unwrap();
        kilobytes.parse::<u64>().unwrap() / 1024
    };
    let before = peak();
    let at = rfc3339(chrono::Utc::now().timestamp() - 10);
    let query = "q".repeat(1900);
    let pieces = (0..300).map(move |piece: u64| {
        let lines = (0..500).map(|n| {
            let id = piece * 500 + n;
            format!(
                "{{\"request_id\":{id},\"user_id\":1,\"created_at\":\"{at}\",\"page_url\":\"/{}?{query}\"}}\n",
                id % 10
            )
        });
        Ok::<_, std::io::Error>(lines.collect::<String>())
    });
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
    let request = reqwest::Client::new()
        .post(service.url("/api/traffic"))
        .header("content-type", LINES)
        .body(body);
    let answer = Answer::of(request.send().await.unwrap()).await;
    assert_eq!(answer.body["stored"], 150_000, "{answer:?}");
    let grown = peak() - before;
    // The body has 300 MB.
    assert!(grown < 120, "{grown} MiB more");
}
