//! ClickHouse goes away and comes back.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::json;
use traffic_api::domain::Clock;

use crate::support::service::signal;
use crate::support::{TestApp, fresh_database, private_engine, view};

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn without_clickhouse_every_answer_is_honest() {
    let (engine, clickhouse) = private_engine("outage").await;
    let app = TestApp::start_with(&clickhouse, &fresh_database(), Clock::system(), &[]).await;
    let now = chrono::Utc::now().timestamp() - 10;
    assert_eq!(
        app.post(1, &view(1, now, "/a")).await.status,
        StatusCode::CREATED
    );

    // For good: this app knows a fixed address, and a restarted engine takes another.
    engine.stop().await;
    let body = view(1, now, "/b");
    for answer in [
        app.post(2, &body).await,
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
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ready.body["clickhouse"], "down");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_engine_comes_back_with_everything_acknowledged() {
    let directory = crate::support::directory("killed-engine");
    let service = tokio::task::spawn_blocking(move || crate::support::Service::start(&directory));
    let mut service = service.await.unwrap();
    let http = reqwest::Client::new();
    let now = chrono::Utc::now().timestamp() - 10;
    let post = async |id: u64| {
        let request = http.post(service.url(&format!("/api/traffic/{id}")));
        request
            .json(&view(1, now, "/a"))
            .send()
            .await
            .unwrap()
            .status()
    };
    let mut acknowledged = 0;
    for id in 0..20 {
        if post(id).await == StatusCode::CREATED {
            acknowledged += 1;
        }
    }
    assert_eq!(acknowledged, 20);
    for round in 0..3 {
        let engine = service.children();
        assert_eq!(engine.len(), 1);
        signal(engine[0], "KILL");
        // What fails now is refused honestly, and a client that retries gets through.
        let (id, deadline) = (100 + round, Instant::now() + PATIENCE);
        loop {
            let status = post(id).await;
            if status == StatusCode::CREATED {
                break;
            }
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
            assert!(Instant::now() < deadline, "the engine is not restarted");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        acknowledged += 1;
        let report = http
            .get(service.url("/api/traffic/daily/1"))
            .send()
            .await
            .unwrap();
        let report: serde_json::Value = report.json().await.unwrap();
        assert_eq!(report, json!({"/a": acknowledged}));
    }
    assert!(service.terminate().success());
}
