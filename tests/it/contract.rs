//! The API as a client uses it.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{TestApp, TestClock, rfc3339, view};

#[tokio::test(flavor = "multi_thread")]
async fn a_view_is_posted_moved_read_and_deleted() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    let now = clock.now();

    let posted = app.post(1, &view(42, now, "/pricing")).await;
    assert_eq!(posted.status, StatusCode::CREATED);
    assert_eq!(posted.header("location"), "/api/traffic/1");
    let stored = json!({
        "request_id": 1, "user_id": 42, "created_at": rfc3339(now), "page_url": "/pricing",
        "version": "0", "state": "stored"
    });
    assert_eq!(posted.body, stored);
    assert_eq!(app.get("/api/traffic/1").await.body, stored);
    assert_eq!(app.daily(42).await, json!({"/pricing": 1}));

    let again = app.post(1, &view(42, now, "/pricing")).await;
    assert_eq!((again.status, again.body), (StatusCode::CREATED, stored));
    assert_eq!(app.daily(42).await, json!({"/pricing": 1}));

    let moved = app.put(1, &view(42, now - 3600, "/about")).await;
    assert_eq!(moved.status, StatusCode::OK);
    assert_eq!(moved.body["page_url"], "/about");
    assert_eq!(app.daily(42).await, json!({"/about": 1}));

    let given = app.patch(1, &json!({"user_id": 43})).await;
    assert_eq!(given.status, StatusCode::OK);
    assert_eq!(given.body["created_at"], rfc3339(now - 3600));
    assert_eq!(app.daily(42).await, json!({}));
    assert_eq!(app.daily(43).await, json!({"/about": 1}));

    assert_eq!(app.delete(1).await.status, StatusCode::NO_CONTENT);
    assert_eq!(app.daily(43).await, json!({}));
    assert_eq!(
        app.get("/api/traffic/1").await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(app.delete(1).await.status, StatusCode::NOT_FOUND);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_retry_changes_nothing() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    let original = view(1, clock.now(), "/a");
    app.post(1, &original).await;
    app.put(1, &view(1, clock.now(), "/b")).await;
    assert_eq!(app.post(1, &original).await.status, StatusCode::CREATED);
    assert_eq!(app.daily(1).await, json!({"/b": 1}));
    assert_eq!(app.get("/api/traffic/1").await.body["page_url"], "/b");
    app.delete(1).await;
    app.post(1, &original).await;
    assert_eq!(app.daily(1).await, json!({}));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_view_under_a_known_id_is_a_conflict() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    app.post(1, &view(1, clock.now(), "/a")).await;
    let conflict = app.post(1, &view(1, clock.now(), "/b")).await;
    assert_eq!(conflict.status, StatusCode::CONFLICT);
    assert_eq!(app.daily(1).await, json!({"/a": 1}));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_needs_a_view() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    let body = view(1, clock.now(), "/a");
    assert_eq!(app.put(9, &body).await.status, StatusCode::NOT_FOUND);
    assert_eq!(
        app.patch(9, &json!({"page_url": "/a"})).await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(app.daily(1).await, json!({}));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_changes_nothing_keeps_the_version() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    let body = view(1, clock.now(), "/a");
    app.post(1, &body).await;
    let same = app.put(1, &body).await;
    assert_eq!(
        (same.status, &same.body["version"]),
        (StatusCode::OK, &json!("0"))
    );
    let nothing = app.patch(1, &json!({})).await;
    assert_eq!(
        (nothing.status, &nothing.body["version"]),
        (StatusCode::OK, &json!("0"))
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_report_covers_exactly_the_last_24_hours_most_viewed_first() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    let now = clock.now();
    let day = 86_400;
    for (id, at, page) in [
        (1, now, "/b"),
        (2, now - day + 1, "/b"),
        (3, now - day, "/too-old"),
        (4, now - 5, "/c"),
        (5, now - 5, "/a"),
        (6, now - 5, "/z"),
        (7, now - 5, "/z"),
        (8, now - 5, "/z"),
    ] {
        assert_eq!(
            app.post(id, &view(7, at, page)).await.status,
            StatusCode::CREATED
        );
    }
    let response = app
        .request(Method::GET, "/api/traffic/daily/7")
        .send()
        .await
        .unwrap();
    assert_eq!(
        response.text().await.unwrap(),
        r#"{"/z":3,"/b":2,"/a":1,"/c":1}"#
    );

    clock.set(now + 1);
    assert_eq!(
        app.daily(7).await,
        json!({"/z": 3, "/b": 1, "/a": 1, "/c": 1})
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_edges_of_every_range_are_accepted_and_kept_byte_for_byte() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    let pages = [
        format!("/{}", "é".repeat(1023)),
        "https://example.org/a?b=c&d='e'#\"f\"".to_owned(),
        "/{x:String}\\ \u{202e}\u{1f600} $1 %00 --; DROP TABLE traffic".to_owned(),
    ];
    for (id, page) in (u64::MAX - 2..=u64::MAX).zip(&pages) {
        let answer = app.post(id, &view(u32::MAX, clock.now(), page)).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        assert_eq!(answer.body["request_id"].as_u64(), Some(id));
        let stored = app.get(&format!("/api/traffic/{id}")).await;
        assert_eq!(stored.body["page_url"], page.as_str());
    }
    let report = app.daily(u32::MAX).await;
    for page in &pages {
        assert_eq!(report[page], 1, "{page}");
    }
    let oldest = clock.now() - 90 * 86_400 + 1;
    assert_eq!(
        app.post(0, &view(0, oldest, "/")).await.status,
        StatusCode::CREATED
    );
    assert_eq!(
        app.get("/api/traffic/0").await.body["created_at"],
        rfc3339(oldest)
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_describes_itself() {
    let app = TestApp::start().await;
    assert_eq!(app.get("/health").await.body, json!({"status": "ok"}));
    let mut ready = app.get("/health/ready").await;
    assert_eq!(ready.status, StatusCode::OK);
    for name in ["view", "event_view"] {
        let view = ready.body.as_object_mut().unwrap().remove(name).unwrap();
        let state = (&view["failing"], &view["late_hours"]);
        assert_eq!(state, (&json!(false), &json!(0)), "{name}");
    }
    let reconciled = ready.body.as_object_mut().unwrap().remove("reconciliation");
    assert_eq!(reconciled.unwrap()["differing_days"], 0);
    let spool = json!({"files": 0, "bytes": 0, "max_bytes": 8_u64 << 30, "rejected_files": 0});
    assert_eq!(
        ready.body,
        json!({"status": "ok", "clickhouse": "up", "spool": spool, "stopping": false})
    );
    assert_eq!(app.get("/openapi.json").await.body["openapi"], "3.1.0");

    let docs = app.request(Method::GET, "/docs/").send().await.unwrap();
    assert_eq!(docs.status(), StatusCode::OK);
    let page = docs.text().await.unwrap();
    assert!(page.contains("swagger-ui"));
    for (_, rest) in page
        .match_indices("src=\"")
        .map(|(i, m)| page.split_at(i + m.len()))
    {
        let script = rest.split('"').next().unwrap();
        assert!(script.starts_with("./"), "from elsewhere: {script}");
        let path = format!("/docs/{}", script.trim_start_matches("./"));
        let served = app.request(Method::GET, &path).send().await.unwrap();
        assert_eq!(served.status(), StatusCode::OK, "{path}");
    }
    app.stop().await;
}

#[test]
fn the_openapi_document_is_as_agreed() {
    let document = serde_json::to_value(traffic_api::http::document()).unwrap();
    let mut open = vec![&document];
    while let Some(value) = open.pop() {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            let path = reference.trim_start_matches('#');
            assert!(
                document.pointer(path).is_some(),
                "{reference} leads nowhere"
            );
        }
        match value {
            Value::Object(fields) => open.extend(fields.values()),
            Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
    insta::assert_json_snapshot!("openapi", document);
}

/// `traffic-api postman > docs/postman.json`.
#[test]
fn the_postman_collection_is_current() {
    let checked_in = include_str!("../../docs/postman.json");
    let current = traffic_api::http::postman_collection();
    assert!(
        checked_in == current,
        "run: traffic-api postman > docs/postman.json"
    );
}
