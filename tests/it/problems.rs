//! Every way to be refused.

use std::io::{Read, Write};
use std::net::TcpStream;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use traffic_api::http::{Kind, Problem};

use crate::support::{Answer, TestApp, TestClock, rfc3339, view};

async fn refused(app: &TestApp, method: Method, path: &str, kind: &str, body: &str) -> Answer {
    let request = app
        .request(method, path)
        .header("content-type", kind)
        .body(body.to_owned());
    let answer = Answer::of(request.send().await.unwrap()).await;
    assert_eq!(
        answer.header("content-type"),
        "application/problem+json",
        "{answer:?}"
    );
    answer
}

/// A clock whose text is the same in every run, so that it can stand in a snapshot; nothing is
/// stored at it.
const NOON: i64 = 1_800_014_400;

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_problem_has_its_document() {
    let app = TestApp::start_at(&TestClock::at(NOON)).await;
    let good = view(1, NOON, "/a").to_string();
    let future = view(1, NOON + 1, "/a").to_string();
    let json_type = "application/json";
    let large = view(1, NOON, &format!("/{}", "a".repeat(70_000))).to_string();
    let cases: &[(&str, Method, &str, &str, &str)] = &[
        (
            "id_too_large",
            Method::POST,
            "/api/traffic/18446744073709551616",
            json_type,
            &good,
        ),
        (
            "id_not_a_number",
            Method::GET,
            "/api/traffic/abc",
            json_type,
            "",
        ),
        (
            "id_not_utf8",
            Method::GET,
            "/api/traffic/%FF",
            json_type,
            "",
        ),
        (
            "user_not_a_number",
            Method::GET,
            "/api/traffic/daily/-1",
            json_type,
            "",
        ),
        (
            "malformed_json",
            Method::POST,
            "/api/traffic/1",
            json_type,
            "{\"user_id\": 1,",
        ),
        (
            "no_json_object",
            Method::POST,
            "/api/traffic/1",
            json_type,
            "[]",
        ),
        (
            "wrong_content_type",
            Method::POST,
            "/api/traffic/1",
            "text/plain",
            &good,
        ),
        (
            "body_too_large",
            Method::POST,
            "/api/traffic/1",
            json_type,
            &large,
        ),
        (
            "in_future",
            Method::POST,
            "/api/traffic/1",
            json_type,
            &future,
        ),
        (
            "all_fields_missing",
            Method::PUT,
            "/api/traffic/1",
            json_type,
            "{}",
        ),
        (
            "unknown_field",
            Method::PATCH,
            "/api/traffic/1",
            json_type,
            "{\"user\": 1}",
        ),
        (
            "page_view_not_found",
            Method::PUT,
            "/api/traffic/1",
            json_type,
            &good,
        ),
        ("no_such_route", Method::GET, "/api/nothing", json_type, ""),
        ("method_not_allowed", Method::POST, "/health", json_type, ""),
    ];
    for (path, body) in [("/docs/nothing", ""), ("/docs/%ff", "")] {
        let answer = refused(&app, Method::GET, path, json_type, body).await;
        assert_eq!(answer.body["type"], "/problems#no-such-route");
    }
    for (name, method, path, kind, body) in cases {
        let answer = refused(&app, method.clone(), path, kind, body).await;
        assert_eq!(answer.body["status"], answer.status.as_u16());
        insta::assert_json_snapshot!(*name, answer.body);
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_says_what_is_wrong() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    let now = clock.now();
    let post = async |body: Value| app.post(1, &body).await;

    let future = post(view(1, now + 1, "/a")).await;
    assert_eq!(future.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(future.bad_fields(), ["created_at"]);

    let negative = post(json!({"user_id": -1, "created_at": rfc3339(now), "page_url": "/"})).await;
    assert_eq!(negative.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(negative.bad_fields(), ["user_id"]);

    let both = post(view(1, now + 1, "")).await;
    assert_eq!(both.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(both.bad_fields(), ["created_at", "page_url"]);

    let expired = post(view(1, now - 90 * 86_400, "/a")).await;
    assert_eq!(expired.bad_fields(), ["created_at"]);

    // Nothing of all this was kept.
    assert_eq!(
        app.get("/api/traffic/1").await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(app.sql("SELECT count() FROM traffic").await, "0");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_bodies_are_refused_by_the_right_name() {
    let app = TestApp::start().await;
    let malformed: &[&[u8]] = &[
        b"",
        b"{",
        b"\xff",
        b"{\"page_url\": \"\xff\"}",
        b"{\"page_url\": \"\\ud800\"}",
        b"{\"user_id\": 01}",
        b"{\"user_id\": 1e999}",
        b"{} {}",
        b"nul",
        b"{\"a\": NaN}",
        b"[1,",
        b"[[[[",
    ];
    let invalid: &[&[u8]] = &[
        b"null",
        b"1",
        b"\"text\"",
        b"{\"user_id\": {\"$ne\": 1}}",
        b"{\"user_id\": 18446744073709551616, \"page_url\": \"\\u0000\"}",
    ];
    let deep = [
        b"{\"x\": ".to_vec(),
        b"[".repeat(20_000),
        b"]".repeat(20_000),
        b"}".to_vec(),
    ]
    .concat();
    let cases = malformed
        .iter()
        .map(|b| (b.to_vec(), StatusCode::BAD_REQUEST));
    let cases = cases.chain(
        invalid
            .iter()
            .map(|b| (b.to_vec(), StatusCode::UNPROCESSABLE_ENTITY)),
    );
    for (body, status) in cases.chain([(deep, StatusCode::UNPROCESSABLE_ENTITY)]) {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let request = app
            .request(Method::POST, "/api/traffic/1")
            .header("content-type", "application/json")
            .body(body);
        let answer = Answer::of(request.send().await.unwrap()).await;
        assert_eq!(answer.status, status, "{shown}: {answer:?}");
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn content_types_are_read_as_http_means_them() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    let body = view(1, clock.now(), "/a").to_string();
    for (kind, status) in [
        ("application/json", StatusCode::CREATED),
        ("Application/JSON; charset=utf-8", StatusCode::CREATED),
        ("application/vnd.view+json", StatusCode::CREATED),
        (
            "application/x-www-form-urlencoded",
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ),
        ("application/jsonp", StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ("", StatusCode::UNSUPPORTED_MEDIA_TYPE),
    ] {
        let request = app
            .request(Method::POST, "/api/traffic/1")
            .body(body.clone());
        let answer = request.header("content-type", kind).send().await.unwrap();
        assert_eq!(answer.status(), status, "{kind}");
    }
    let request = app
        .request(Method::POST, "/api/traffic/1")
        .body(body.clone());
    let gzip = request
        .header("content-type", "application/json")
        .header("content-encoding", "gzip");
    assert_eq!(
        gzip.send().await.unwrap().status(),
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_breaks_off_disturbs_nobody() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    let address = app.url("").trim_start_matches("http://").to_owned();
    for request in [
        "POST /api/traffic/1 HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"user",
        "POST /api/traffic/1 HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        "\x16\x03\x01 not http\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(!answer.starts_with("HTTP/1.1 5"), "{answer}");
    }
    assert_eq!(
        app.post(1, &view(1, clock.now(), "/a")).await.status,
        StatusCode::CREATED
    );
    app.stop().await;
}

#[test]
fn every_kind_looks_as_agreed() {
    for kind in Kind::ALL {
        let document = serde_json::to_value(Problem::new(*kind)).unwrap();
        insta::assert_json_snapshot!(format!("kind_{}", kind.slug()), document);
    }
}

#[test]
fn every_kind_is_explained_in_the_docs() {
    let page = include_str!("../../docs/problems.md");
    for kind in Kind::ALL {
        assert!(
            page.contains(&format!("\n## {}\n", kind.slug())),
            "{}",
            kind.slug()
        );
        let status = format!("**{}**", kind.status().as_u16());
        let (_, section) = page.split_once(&format!("\n## {}\n", kind.slug())).unwrap();
        let section = section.split("\n## ").next().unwrap();
        assert!(section.contains(&status), "{} has no {status}", kind.slug());
    }
    assert_eq!(
        page.matches("\n## ").count(),
        Kind::ALL.len(),
        "a section for no problem"
    );
}
