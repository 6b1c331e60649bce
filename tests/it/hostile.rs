//! Bodies meant to break the reader: deep, endless, packed.

use std::time::{Duration, Instant};

use async_compression::tokio::write::{GzipEncoder, ZstdEncoder};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use traffic_api::access::Scope;
use traffic_api::domain::Clock;

use crate::auth::{made, start};
use crate::support::service::Service;
use crate::support::{Answer, TestApp, directory, fresh_database, rfc3339, shared_engine, view};

const LINES: &str = "application/x-ndjson";
const JSON: &str = "application/json";

fn now() -> i64 {
    chrono::Utc::now().timestamp() - 10
}

async fn send(app: &TestApp, method: Method, path: &str, kind: &str, body: Vec<u8>) -> Answer {
    let request = app.request(method, path).header("content-type", kind);
    let began = Instant::now();
    let answer = Answer::of(request.body(body).send().await.unwrap()).await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(20), "{path}: {took:?}");
    // However long the body is, what is said of it is short.
    let length = answer.body.to_string().len();
    assert!(length < 8192, "{path}: {length} bytes");
    answer
}

const DEEP: usize = 100_000;

/// Bodies that are no view and no event, and whether they are JSON.
fn hostile() -> Vec<(&'static str, Vec<u8>, bool)> {
    let nested = |open: &[u8], close: &[u8]| [open.repeat(DEEP), close.repeat(DEEP)].concat();
    let field =
        |name: &str, value: &[u8]| [format!("{{\"{name}\": ").as_bytes(), value, b"}"].concat();
    let digits = b"1".repeat(DEEP);
    let mut bodies = vec![
        ("open arrays", b"[".repeat(DEEP), false),
        ("arrays", nested(b"[", b"]"), true),
        ("open objects", b"{\"a\":".repeat(DEEP), false),
        (
            "objects",
            [b"{\"a\":".repeat(DEEP), b"1".to_vec(), b"}".repeat(DEEP)].concat(),
            true,
        ),
        (
            "a string that goes on",
            [b"\"".to_vec(), b"a".repeat(DEEP), b"\"x".to_vec()].concat(),
            false,
        ),
        (
            "a string",
            [b"\"".to_vec(), b"a".repeat(DEEP), b"\"".to_vec()].concat(),
            true,
        ),
        ("many keys", many_keys(), true),
        ("a long key", field(&"k".repeat(DEEP), b"1"), true),
        ("a mark of byte order", b"\xef\xbb\xbf{}".to_vec(), false),
        ("two values", b"{}{}".to_vec(), false),
        ("not a number", b"{\"user_id\": NaN}".to_vec(), false),
        ("infinity", b"{\"user_id\": -Infinity}".to_vec(), false),
        (
            "half a pair",
            b"{\"page_url\": \"\\ud800\"}".to_vec(),
            false,
        ),
        ("half a pair in a name", b"{\"\\udfff\": 1}".to_vec(), false),
        ("no UTF-8", b"{\"page_url\": \"/\xff\"}".to_vec(), false),
        ("a NUL", b"{\"page_url\": \"/\x00\"}".to_vec(), false),
        ("comments", b"{/**/}".to_vec(), false),
    ];
    for name in [
        "user_id",
        "created_at",
        "page_url",
        "request_id",
        "site_id",
        "time",
        "unknown",
    ] {
        bodies.push(("nested in a field", field(name, &nested(b"[", b"]")), true));
        bodies.push((
            "deep and open in a field",
            field(name, &b"[".repeat(DEEP)),
            false,
        ));
        bodies.push((
            "a fraction",
            field(name, &[b"0.".to_vec(), digits.clone()].concat()),
            true,
        ));
        bodies.push(("a small number", field(name, b"1e-99999999999999"), true));
        bodies.push((
            "twice",
            format!("{{\"{name}\": 1, \"{name}\": 1}}").into_bytes(),
            true,
        ));
    }
    for name in ["user_id", "page_url"] {
        bodies.push(("a long number", field(name, &digits), false));
        bodies.push(("a large exponent", field(name, b"1e99999999999999"), false));
    }
    bodies
}

fn many_keys() -> Vec<u8> {
    let keys: Vec<String> = (0..DEEP / 5)
        .map(|number| format!("\"k{number}\": 1"))
        .collect();
    format!("{{{}}}", keys.join(",")).into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_meant_to_break_the_reader_are_refused_in_time() {
    let flags = ["--max-body-bytes=2000000"];
    let database = fresh_database();
    let app = TestApp::start_with(&shared_engine(), &database, Clock::system(), &flags).await;
    let good =
        json!({"request_id": 1, "user_id": 1, "created_at": rfc3339(now()), "page_url": "/a"});
    let event = json!({"site_id": "c88a618e-fed4-457d-bb02-6576f512c4c3", "type": "serve",
        "correlation_id": "98ae4334-6c12-4ce8-ae34-0454cac5b68c", "time": rfc3339(now())});
    for (name, body, is_json) in hostile() {
        let expected = match is_json {
            true => StatusCode::UNPROCESSABLE_ENTITY,
            false => StatusCode::BAD_REQUEST,
        };
        for (method, path) in [
            (Method::POST, "/api/traffic/1"),
            (Method::PUT, "/api/traffic/1"),
            (Method::PATCH, "/api/traffic/1"),
        ] {
            let answer = send(&app, method.clone(), path, JSON, body.clone()).await;
            assert_eq!(answer.status, expected, "{method} {name}: {answer:?}");
        }
        // An event and an array of events are told apart by the first byte.
        let single = send(&app, Method::POST, "/v1/events", JSON, body.clone()).await;
        let is_batch = !body.starts_with(b"{");
        assert!(
            single.status == expected
                || is_batch && single.status.as_u16() <= 422
                // What is in an unknown field is not unescaped.
                || single.status == StatusCode::UNPROCESSABLE_ENTITY,
            "{name}: {single:?}"
        );

        // Of many, one bad line is one bad line.
        for (path, good) in [("/api/traffic", &good), ("/v1/events", &event)] {
            let good = good.to_string().into_bytes();
            let line = [&good[..], b"\n", &body, b"\n", &good].concat();
            let answer = send(&app, Method::POST, path, LINES, line).await;
            assert_eq!(answer.status, StatusCode::OK, "{path} {name}: {answer:?}");
            assert_eq!(answer.body["stored"], 2, "{path} {name}: {answer:?}");
            assert_eq!(answer.body["rejected"][0]["line"], 2, "{path} {name}");
            if is_json {
                let array = [b"[", &good[..], b",", &body, b",", &good, b"]"].concat();
                let answer = send(&app, Method::POST, path, JSON, array).await;
                assert_eq!(answer.body["stored"], 2, "{path} {name}: {answer:?}");
                assert_eq!(answer.body["rejected"][0]["line"], 2, "{path} {name}");
            } else {
                let array = [b"[", &good[..], b",", &body].concat();
                let answer = send(&app, Method::POST, path, JSON, array).await;
                assert_eq!(answer.status, StatusCode::OK, "{path} {name}: {answer:?}");
                assert_eq!(answer.body["stored"], 1, "{path} {name}: {answer:?}");
            }
        }
    }
    assert_eq!(app.daily(1).await, json!({"/a": 1}));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_parameters_is_refused_in_time() {
    let app = TestApp::start().await;
    let names: Vec<String> = (0..12_000).map(|number| format!("{number:x}")).collect();
    for path in [
        "/api/traffic/pages",
        "/api/traffic/users/1/days",
        "/v1/report",
        "/v1/report/funnel",
    ] {
        let began = Instant::now();
        let answer = app.get(&format!("{path}?{}", names.join("&"))).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{path}");
        assert!(answer.body.to_string().len() < 8192);
        assert!(began.elapsed() < Duration::from_secs(5));
    }
    app.stop().await;
}

async fn packed(coding: &str, pieces: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    match coding {
        "gzip" => {
            let mut encoder = GzipEncoder::new(Vec::new());
            for piece in pieces {
                encoder.write_all(&piece).await.unwrap();
            }
            encoder.shutdown().await.unwrap();
            encoder.into_inner()
        }
        _ => {
            let mut encoder = ZstdEncoder::new(Vec::new());
            for piece in pieces {
                encoder.write_all(&piece).await.unwrap();
            }
            encoder.shutdown().await.unwrap();
            encoder.into_inner()
        }
    }
}

/// A line that has no end, blank lines, an array of blanks: each of `mebibytes`, after a good line.
fn bombs(mebibytes: usize, good: &str) -> [(&'static str, Vec<Vec<u8>>); 3] {
    let filled = |start: String, byte: u8| {
        let pieces = std::iter::repeat_n(vec![byte; 1 << 20], mebibytes);
        std::iter::once(start.into_bytes()).chain(pieces).collect()
    };
    [
        (LINES, filled(format!("{good}\n"), b'a')),
        (LINES, filled(format!("{good}\n"), b'\n')),
        (JSON, filled(format!("[{good},"), b' ')),
    ]
}

/// The most memory that a process has held, in MiB.
fn peak_mebibytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap();
    let kibibytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kibibytes / 1024
}

/// The real process: what it holds does not grow with what comes out of the bombs.
#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_ends_early_and_takes_no_memory() {
    let engine = shared_engine();
    let mut command = Service::command(&directory("bombs"));
    command
        .env("CLICKHOUSE_URL", &engine.url)
        .env("CLICKHOUSE_USER", &engine.user)
        .env("CLICKHOUSE_PASSWORD", &engine.password)
        .env("CLICKHOUSE_DATABASE", fresh_database());
    let service = Service::spawn(command);
    let http = reqwest::Client::new();
    let good =
        json!({"request_id": 1, "user_id": 1, "created_at": rfc3339(now()), "page_url": "/a"});
    let event = json!({"site_id": "c88a618e-fed4-457d-bb02-6576f512c4c3", "type": "serve",
        "correlation_id": "98ae4334-6c12-4ce8-ae34-0454cac5b68c", "time": rfc3339(now())});
    let before = peak_mebibytes(service.pid());
    for coding in ["gzip", "zstd"] {
        for (path, good) in [("/api/traffic", &good), ("/v1/events", &event)] {
            for (kind, pieces) in bombs(100, &good.to_string()) {
                let body = packed(coding, pieces).await;
                assert!(body.len() < 1 << 20, "{} bytes", body.len());
                let posted = (0..8).map(|_| {
                    let request = http.post(service.url(path)).header("content-type", kind);
                    let request = request.header("content-encoding", coding);
                    request.body(body.clone()).send()
                });
                for answer in futures_util::future::join_all(posted).await {
                    let answer = Answer::of(answer.unwrap()).await;
                    // What came before is kept and said, and so is the end.
                    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
                    assert_eq!(answer.body["stored"], 1, "{answer:?}");
                    let rejected = answer.body["rejected"].as_array().unwrap();
                    let said = rejected.last().unwrap()["errors"][0]["detail"].to_string();
                    assert!(said.contains("200 times"), "{coding} {kind}: {answer:?}");
                }
            }
        }
    }
    let grown = peak_mebibytes(service.pid()).saturating_sub(before);
    println!("peak memory grew by {grown} MiB under 96 bombs of 100 MiB, 8 at once");
    assert!(grown < 150, "{grown} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_ask_for_too_much_are_refused() {
    let app = TestApp::start().await;
    let good =
        json!({"request_id": 1, "user_id": 1, "created_at": rfc3339(now()), "page_url": "/a"})
            .to_string();
    let zstd = |window_log: u32| {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(window_log).unwrap();
        encoder.include_contentsize(false).unwrap();
        std::io::Write::write_all(&mut encoder, good.as_bytes()).unwrap();
        // Flushed, so that the frame does not shrink to what is in it.
        std::io::Write::flush(&mut encoder).unwrap();
        encoder.finish().unwrap()
    };
    // The frame's own header: the magic, a descriptor without a size, a window of 2 GiB
    // (https://www.rfc-editor.org/rfc/rfc8878#section-3.1.1.1.2).
    let mut huge = zstd(23);
    huge[4] &= !0x20;
    huge[5] = (31 - 10) << 3;
    let post = async |coding: &str, body: Vec<u8>| {
        let request = app
            .request(Method::POST, "/api/traffic")
            .header("content-type", LINES);
        let request = request.header("content-encoding", coding).body(body);
        Answer::of(request.send().await.unwrap()).await
    };
    assert_eq!(post("zstd", zstd(23)).await.body["stored"], 1);
    for body in [zstd(24), zstd(27), huge] {
        let answer = post("zstd", body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer:?}");
    }
    // Ten thousand members of nothing, and one of a line.
    let nothing = packed("gzip", []).await;
    let line = packed("gzip", [good.into_bytes()]).await;
    let answer = post("gzip", [nothing.repeat(10_000), line].concat()).await;
    assert_eq!(answer.body["stored"], 1, "{answer:?}");
    // Single views are not packed at all.
    let single = view(1, now(), "/a").to_string().into_bytes();
    let single = packed("gzip", [single]).await;
    for method in [Method::POST, Method::PUT, Method::PATCH] {
        let request = app
            .request(method, "/api/traffic/2")
            .header("content-type", JSON);
        let request = request
            .header("content-encoding", "gzip")
            .body(single.clone());
        let status = request.send().await.unwrap().status();
        assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_is_paid_for() {
    let key = made(&[Scope::Write], |_| {});
    let flags = ["--rate-limit-key-writes=10", "--rate-limit-burst-secs=10"];
    let app = start(&[&key], &flags).await;
    // 15 MiB are free of the limit on what is packed; by the row of 16 KiB they are 960 of 100.
    let bomb = packed("zstd", std::iter::repeat_n(vec![b'a'; 1 << 20], 15)).await;
    assert!(bomb.len() < 16 << 10);
    let request = app
        .request(Method::POST, "/api/traffic")
        .bearer_auth(&key.secret);
    let request = request
        .header("content-type", LINES)
        .header("content-encoding", "zstd");
    let answer = Answer::of(request.body(bomb).send().await.unwrap()).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "{answer:?}");
    assert_eq!(answer.body["type"], Value::from("/problems#rate-limited"));
    app.stop().await;
}
