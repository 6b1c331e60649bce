//! How often one may call.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use traffic_api::access::{Credential, Scope};

use crate::auth::{Made, made, start};
use crate::support::{Answer, TestApp, TestClock, fresh_database, rfc3339, shared_engine, view};

const BOTH: [Scope; 2] = [Scope::Write, Scope::Read];

fn key() -> Made {
    made(&BOTH, |_| {})
}

async fn get(app: &TestApp, key: &str, path: &str, forwarded: &str) -> Answer {
    let mut request = app.request(Method::GET, path);
    if !key.is_empty() {
        request = request.bearer_auth(key);
    }
    if !forwarded.is_empty() {
        request = request.header("x-forwarded-for", forwarded);
    }
    Answer::of(request.send().await.unwrap()).await
}

/// How many of `calls` were let through; the others say when to come again.
async fn let_through(app: &TestApp, key: &str, path: &str, forwarded: &str, calls: usize) -> usize {
    let mut through = 0;
    for _ in 0..calls {
        let answer = get(app, key, path, forwarded).await;
        if answer.status == StatusCode::OK {
            through += 1;
        } else {
            assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "{answer:?}");
            assert_eq!(answer.body["type"], "/problems#rate-limited");
            let wait: u32 = answer.header("retry-after").parse().unwrap();
            assert!((1..=60).contains(&wait), "{wait}");
            assert!(answer.header("ratelimit").contains(";r=0;"), "{answer:?}");
        }
    }
    through
}

const DAILY: &str = "/api/traffic/daily/1";

#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_its_own_allowance_for_reads_and_for_writes() {
    let (one, two) = (key(), key());
    let more = made(&BOTH, |key| key.restrictions.reads_per_sec = Some(1000));
    let flags = [
        "--rate-limit-key-reads=1",
        "--rate-limit-key-writes=1",
        "--rate-limit-burst-secs=60",
    ];
    let app = start(&[&one, &two, &more], &flags).await;
    let first = get(&app, &one.secret, DAILY, "").await;
    assert_eq!(first.header("ratelimit-policy"), "\"key-reads\";q=60;w=60");
    assert!(
        first
            .header("ratelimit")
            .starts_with("\"key-reads\";r=59;t="),
        "{first:?}"
    );
    let through = let_through(&app, &one.secret, DAILY, "", 100).await;
    assert!((59..75).contains(&through), "{through}");
    // Another key is another allowance, and so are writes; a key may have more.
    assert_eq!(let_through(&app, &two.secret, DAILY, "", 10).await, 10);
    assert_eq!(let_through(&app, &more.secret, DAILY, "", 100).await, 100);
    let now = chrono::Utc::now().timestamp();
    let request = app
        .request(Method::POST, "/api/traffic/1")
        .bearer_auth(&one.secret);
    let answer = request.json(&view(1, now, "/a")).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED);
    // What is open is not limited.
    assert_eq!(let_through(&app, "", "/health", "", 100).await, 100);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_on_the_site_costs_more() {
    let key = key();
    let flags = ["--rate-limit-key-reads=1", "--rate-limit-burst-secs=50"];
    let app = start(&[&key], &flags).await;
    let through = let_through(&app, &key.secret, "/api/traffic/site", "", 10).await;
    assert!((5..=7).contains(&through), "{through}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_costs_its_rows() {
    let key = key();
    let flags = ["--rate-limit-key-writes=100", "--rate-limit-burst-secs=30"];
    let app = start(&[&key], &flags).await;
    let now = chrono::Utc::now().timestamp();
    let post = async |from: u64, rows: u64| {
        let lines = (from..from + rows).map(|id| {
            json!({"request_id": id, "user_id": 1, "created_at": rfc3339(now), "page_url": "/a"}).to_string()
        });
        let request = app
            .request(Method::POST, "/api/traffic")
            .bearer_auth(&key.secret);
        let request = request.header("content-type", "application/x-ndjson");
        let body = lines.collect::<Vec<_>>().join("\n");
        Answer::of(request.body(body).send().await.unwrap()).await
    };
    let first = post(0, 2000).await;
    assert_eq!(
        (first.status, &first.body["stored"]),
        (StatusCode::OK, &json!(2000))
    );
    // Far more than is left: broken off in the middle, having overdrawn by no more than was read at once.
    let large = post(2000, 20_000).await;
    assert_eq!(large.status, StatusCode::TOO_MANY_REQUESTS, "{large:?}");
    assert!(
        large.body["detail"].as_str().unwrap().contains("3000 rows"),
        "{large:?}"
    );
    assert!(!large.header("retry-after").is_empty());
    assert_eq!(post(0, 1).await.status, StatusCode::TOO_MANY_REQUESTS);
    // What was acknowledged is counted; of the rest any part may be, and no more than that.
    let report = get(&app, &key.secret, DAILY, "").await;
    let views = report.body["/a"].as_u64().unwrap();
    assert!((2000..=6000).contains(&views), "{views}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_whom_trusted_proxies_name() {
    let clock = TestClock::frozen();
    let start = async |flags: &[&str]| {
        TestApp::start_with(&shared_engine(), &fresh_database(), clock.behind(0), flags).await
    };
    let limit = ["--rate-limit-address-reads=1", "--rate-limit-burst-secs=20"];
    // Without keys too. Nobody is believed who is not trusted.
    let app = start(&limit).await;
    let mut through = 0;
    for call in 0..60 {
        through += let_through(&app, "", DAILY, &format!("203.0.113.{call}"), 1).await;
    }
    assert!((20..30).contains(&through), "{through}");
    app.stop().await;

    let trusted = [&limit[..], &["--trusted-proxies=127.0.0.0/8,::1"]].concat();
    let app = start(&trusted).await;
    for call in 0..60 {
        let forwarded = format!("203.0.113.{call}");
        assert_eq!(let_through(&app, "", DAILY, &forwarded, 1).await, 1);
    }
    // What the caller itself has written does not count, and the addresses of one network of IPv6 are one.
    let mut through = [0; 2];
    for call in 0..60 {
        let forged = format!("198.51.100.{call}, 192.0.2.1");
        through[0] += let_through(&app, "", DAILY, &forged, 1).await;
        let network = format!("2001:db8::{call:x}");
        through[1] += let_through(&app, "", DAILY, &network, 1).await;
    }
    assert!(
        through.iter().all(|through| (20..35).contains(through)),
        "{through:?}"
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_is_slowed_down_and_shuts_nobody_out() {
    let key = key();
    let flags = [
        "--auth-failures-per-minute=10",
        "--trusted-proxies=127.0.0.1",
    ];
    let app = start(&[&key], &flags).await;
    let mut answers = Vec::new();
    for _ in 0..30 {
        let guess = Credential::generate().reveal();
        answers.push(get(&app, &guess, DAILY, "203.0.113.1").await);
    }
    let refused = |status| {
        answers
            .iter()
            .filter(|answer| answer.status == status)
            .count()
    };
    let as_such = refused(StatusCode::UNAUTHORIZED);
    assert!((10..=13).contains(&as_such), "{as_such}");
    assert_eq!(as_such + refused(StatusCode::TOO_MANY_REQUESTS), 30);
    let last: &Value = &answers.last().unwrap().body;
    assert!(
        last["detail"].as_str().unwrap().starts_with("wrong-keys"),
        "{last}"
    );
    // Somebody else behind the same address has a key; others may still be wrong.
    assert_eq!(
        get(&app, &key.secret, DAILY, "203.0.113.1").await.status,
        StatusCode::OK
    );
    let other = Credential::generate().reveal();
    assert_eq!(
        get(&app, &other, DAILY, "203.0.113.2").await.status,
        StatusCode::UNAUTHORIZED
    );
    // No key at all is no guess.
    assert_eq!(
        get(&app, "", DAILY, "203.0.113.1").await.status,
        StatusCode::UNAUTHORIZED
    );
    app.stop().await;
}
