//! What browsers are told, and what pages of other sites may do.

use std::collections::HashSet;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use traffic_api::access::Scope;
use traffic_api::domain::Clock;

use crate::auth::{made, operations, start};
use crate::support::browser::Browser;
use crate::support::{Answer, TestApp, fresh_database, shared_engine, view};

fn now() -> i64 {
    chrono::Utc::now().timestamp() - 10
}

async fn with_flags(flags: &[&str]) -> TestApp {
    TestApp::start_with(&shared_engine(), &fresh_database(), Clock::system(), flags).await
}

async fn call(app: &TestApp, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = app.request(method, path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Answer::of(request.send().await.unwrap()).await
}

/// What every answer has, whatever it is.
fn is_protected(answer: &Answer, shown: &str) {
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("x-frame-options", "DENY"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        assert_eq!(answer.header(name), value, "{shown}: {name}");
        assert_eq!(answer.headers.get_all(name).iter().count(), 1, "{shown}");
    }
    let policy = answer.header("content-security-policy");
    assert!(policy.contains("default-src 'none'"), "{shown}: {policy}");
    assert!(policy.contains("frame-ancestors 'none'"), "{shown}");
    assert!(!answer.header("cache-control").is_empty(), "{shown}");
    assert!(!policy.contains("unsafe-eval"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_tells_browsers_what_it_is() {
    let key = made(&[Scope::Read, Scope::Write], |_| {});
    let open = TestApp::start().await;
    let closed = start(&[&key], &[]).await;
    assert_eq!(open.post(1, &view(1, now(), "/a")).await.status, 201);
    let others = ["/nothing", "/api/traffic/abc", "/api/traffic/pages?x=1"];
    let others = others.map(|path| (Method::GET, path.to_owned(), None));
    let data = operations().into_iter().chain(others);
    let mut statuses = HashSet::new();
    for (method, path, _) in data {
        for app in [&open, &closed] {
            let answer = call(app, method.clone(), &path, &[]).await;
            let shown = format!("{method} {path} {}", answer.status);
            statuses.insert(answer.status.as_u16());
            is_protected(&answer, &shown);
            let policy = answer.header("content-security-policy");
            assert_eq!(
                policy, "default-src 'none'; frame-ancestors 'none'",
                "{shown}"
            );
            // A report is the client's to keep as long as it asks; all else is nobody's.
            let expected = match answer.header("etag") {
                "" => "no-store",
                _ => "private, no-cache",
            };
            assert_eq!(answer.header("cache-control"), expected, "{shown}");
        }
    }
    for status in [200, 204, 400, 401, 404, 415, 422] {
        assert!(statuses.contains(&status), "{status} of {statuses:?}");
    }
    let report = open.get("/api/traffic/daily/1").await;
    let known = [("if-none-match", report.header("etag"))];
    let same = call(&open, Method::GET, "/api/traffic/daily/1", &known).await;
    assert_eq!(same.status, StatusCode::NOT_MODIFIED);
    is_protected(&same, "304");
    assert_eq!(same.header("cache-control"), "private, no-cache");

    for (path, is_page) in [
        ("/", true),
        ("/dashboard/api.js", true),
        ("/docs/", true),
        ("/docs/swagger-ui-bundle.js", true),
        ("/openapi.json", false),
        ("/problems", false),
    ] {
        let answer = open.get(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        is_protected(&answer, path);
        assert_eq!(answer.header("cache-control"), "no-cache", "{path}");
        let opener = answer.header("cross-origin-opener-policy");
        assert_eq!(opener == "same-origin", is_page, "{path}");
        let permissions = answer.header("permissions-policy");
        assert_eq!(permissions.contains("camera=()"), is_page, "{path}");
    }
    open.stop().await;
    closed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_browser_for_the_api_works_under_its_policy() {
    let Some(browser) = Browser::start("docs-policy").await else {
        println!("SKIPPED: no chromium or chromedriver");
        return;
    };
    let app = TestApp::start().await;
    browser.open(&app.url("/docs/")).await;
    browser.until("document.querySelector('.opblock')").await;
    // An operation is tried out: it is called, and its answer is shown.
    browser
        .click("#operations-health-live .opblock-summary-control")
        .await;
    browser
        .until("document.querySelector('.try-out__btn')")
        .await;
    browser.click(".try-out__btn").await;
    browser
        .until("document.querySelector('.btn.execute')")
        .await;
    browser.click(".btn.execute").await;
    browser
        .until("document.querySelector('.live-responses-table')?.textContent.includes('ok')")
        .await;
    let console = browser.console().await;
    assert!(
        console
            .iter()
            .all(|line| !line.contains("Content Security Policy")),
        "{console:?}"
    );
    app.stop().await;
}

const APP: &str = "https://app.example.org";
const EVIL: &str = "https://evil.example";

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_origins_read_nothing_unless_they_are_named() {
    let key = made(&[Scope::Read, Scope::Write], |_| {});
    let ask = [
        ("origin", APP),
        ("access-control-request-method", "POST"),
        (
            "access-control-request-headers",
            "authorization,content-type",
        ),
    ];
    let allow = "access-control-allow-origin";
    let path = "/api/traffic/daily/1";

    let silent = start(&[&key], &[]).await;
    let answer = call(&silent, Method::OPTIONS, "/api/traffic/1", &ask).await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    for answer in [answer, call(&silent, Method::GET, path, &ask[..1]).await] {
        let names = answer.headers.keys();
        assert!(
            names
                .into_iter()
                .all(|name| !name.as_str().starts_with("access-control"))
        );
    }
    silent.stop().await;

    let second = "http://localhost:3000";
    let app = start(&[&key], &[&format!("--cors-origins={APP},{second}")]).await;
    for (method, path, _) in operations() {
        // Beforehand nobody has a key.
        let method = method.to_string();
        let ask = [
            ("origin", APP),
            ("access-control-request-method", &*method),
            ask[2],
        ];
        let answer = call(&app, Method::OPTIONS, &path, &ask).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        assert_eq!(answer.header(allow), APP, "{path}");
        let methods = answer.header("access-control-allow-methods").to_owned();
        assert!(
            methods.split(',').any(|it| it == method),
            "{path}: {methods}"
        );
        let headers = answer.header("access-control-allow-headers");
        for needed in [
            "authorization",
            "x-api-key",
            "content-type",
            "content-encoding",
            "if-none-match",
            "prefer",
            "x-request-id",
        ] {
            assert!(headers.split(',').any(|it| it == needed), "{headers}");
        }
        assert_eq!(answer.header("access-control-max-age"), "600");
        assert_eq!(answer.header("access-control-allow-credentials"), "");
        is_protected(&answer, &path);
    }
    // The real call needs the key as ever, and its refusal can be read too.
    let stranger = call(&app, Method::GET, path, &ask[..1]).await;
    assert_eq!(
        (stranger.status, stranger.header(allow)),
        (StatusCode::UNAUTHORIZED, APP)
    );
    let bearer = format!("Bearer {}", key.secret);
    for (origin, expected) in [(APP, APP), (second, second), (EVIL, ""), ("null", "")] {
        let headers = [("origin", origin), ("authorization", &*bearer)];
        let answer = call(&app, Method::GET, path, &headers).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.header(allow), expected, "{origin}");
        let vary: Vec<_> = answer.headers.get_all("vary").iter().collect();
        let vary = format!("{vary:?}");
        assert!(vary.contains("origin") && vary.contains("accept"), "{vary}");
        let exposed = answer.header("access-control-expose-headers");
        for needed in [
            "etag",
            "ratelimit",
            "ratelimit-policy",
            "retry-after",
            "location",
            "link",
            "next-after",
            "x-request-id",
        ] {
            assert!(exposed.split(',').any(|it| it == needed), "{exposed}");
        }
        let ask = [("origin", origin), ask[1], ask[2]];
        let asked = call(&app, Method::OPTIONS, "/api/traffic/1", &ask).await;
        assert_eq!(asked.header(allow), expected, "{origin}");
    }
    app.stop().await;

    // Every origin: the key is all that a page needs, and it is never sent by itself.
    let app = start(&[&key], &["--cors-origins=*"]).await;
    let answer = call(&app, Method::OPTIONS, "/api/traffic/1", &ask).await;
    assert_eq!((answer.status, answer.header(allow)), (StatusCode::OK, "*"));
    assert!(
        answer
            .header("access-control-allow-headers")
            .contains("authorization")
    );
    assert_eq!(answer.header("access-control-allow-credentials"), "");
    let answer = call(&app, Method::GET, path, &[("origin", EVIL)]).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebound_name_reaches_nothing() {
    let key = made(&[Scope::Read, Scope::Write], |_| {});
    let bearer = format!("Bearer {}", key.secret);
    let open = TestApp::start().await;
    let named = with_flags(&["--allowed-hosts=traffic.localdomain"]).await;
    let keys = start(&[&key], &[]).await;
    let named_keys = start(&[&key], &["--allowed-hosts=api.example.org"]).await;
    let off = with_flags(&["--auth=off"]).await;
    let named_off = with_flags(&["--auth=off", "--allowed-hosts=api.example.org"]).await;
    for (app, shown, good, bad) in [
        (
            &open,
            "no keys",
            &[
                "localhost",
                "LOCALHOST:1",
                "127.0.0.1",
                "127.0.0.2:80",
                "[::1]",
            ][..],
            &[
                "evil.example",
                "api.example.org",
                "10.0.0.1",
                "0.0.0.0",
                "localhost.evil.example",
            ][..],
        ),
        (
            &named,
            "no keys, a name",
            &["localhost", "traffic.localdomain:8000"],
            &["evil.example", "10.0.0.1"],
        ),
        (&keys, "keys", &["evil.example", "10.0.0.1"], &[]),
        (&off, "off", &["evil.example", "10.0.0.1"], &[]),
        // Probes and scrapes have an address and no name.
        (
            &named_keys,
            "keys, a name",
            &["api.example.org", "api.example.org:443", "10.0.0.1:8000"],
            &["evil.example", "localhost"],
        ),
        (
            &named_off,
            "off, a name",
            &["api.example.org", "10.0.0.1:8000"],
            &["evil.example", "localhost"],
        ),
    ] {
        for (hosts, is_good) in [(good, true), (bad, false)] {
            for host in hosts {
                for (method, path) in [
                    (Method::GET, "/api/traffic/daily/1"),
                    (Method::GET, "/"),
                    (Method::GET, "/health/ready"),
                    (Method::GET, "/metrics"),
                    (Method::GET, "/nothing"),
                    (Method::DELETE, "/api/traffic/1"),
                ] {
                    let headers = [("host", *host), ("authorization", &bearer)];
                    let answer = call(app, method.clone(), path, &headers).await;
                    let shown = format!("{shown}: {method} {path} of {host}: {answer:?}");
                    let refused = answer.status == StatusCode::MISDIRECTED_REQUEST;
                    assert_eq!(refused, !is_good, "{shown}");
                    if refused {
                        assert_eq!(answer.body["type"], "/problems#unknown-host", "{shown}");
                        is_protected(&answer, &shown);
                    }
                }
            }
        }
    }
    for app in [open, named, keys, named_keys, off, named_off] {
        app.stop().await;
    }
}

/// What a page can have its browser send without asking beforehand, and what it can't.
#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_sites_write_nothing_where_there_are_no_keys() {
    let open = TestApp::start().await;
    let off = with_flags(&["--auth=off"]).await;
    let named = with_flags(&[&format!("--cors-origins={APP}")]).await;
    let key = made(&[Scope::Read, Scope::Write], |_| {});
    let keys = start(&[&key], &[]).await;
    let at = now();
    let post = async |app: &TestApp, id: u64, kind: &str, headers: &[(&str, &str)]| {
        let mut request = app.request(Method::POST, &format!("/api/traffic/{id}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = view(1, at, "/a").to_string();
        let request = request.header("content-type", kind).body(body);
        Answer::of(request.send().await.unwrap()).await
    };
    let foreign: &[&[(&str, &str)]] = &[
        &[("origin", EVIL)],
        &[("origin", "null")],
        &[("origin", EVIL), ("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "cross-site")],
        &[
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
        ],
        // Another port of this machine: somebody else's page.
        &[
            ("origin", "http://localhost:3000"),
            ("sec-fetch-site", "same-site"),
        ],
    ];
    for app in [&open, &off, &named] {
        for headers in foreign {
            for kind in [
                "text/plain",
                "application/json",
                "application/x-www-form-urlencoded",
            ] {
                let answer = post(app, 7, kind, headers).await;
                assert_eq!(answer.status, StatusCode::FORBIDDEN, "{kind} {headers:?}");
                assert_eq!(answer.body["type"], "/problems#foreign-page");
            }
            for path in ["/api/traffic", "/v1/events", "/latest/events"] {
                let answer = call(app, Method::POST, path, headers).await;
                assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path} {headers:?}");
            }
        }
        assert_eq!(
            app.get("/api/traffic/7").await.status,
            StatusCode::NOT_FOUND
        );
        let reading = [
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "no-cors"),
        ];
        let answer = call(app, Method::GET, "/api/traffic/pages", &reading).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
        let link = [
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
        ];
        assert_eq!(
            call(app, Method::GET, "/", &link).await.status,
            StatusCode::OK
        );
        let own = format!("http://{}", app.address());
        let own = [("origin", &*own), ("sec-fetch-site", "same-origin")];
        for headers in [&own[..], &own[..1], &[]] {
            let answer = post(app, 1, "application/json", headers).await;
            assert_eq!(answer.status, StatusCode::CREATED, "{headers:?}");
        }
    }
    // What needs no question beforehand is no type that is read, wherever it comes from.
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "",
    ] {
        assert_eq!(
            post(&open, 8, kind, &[]).await.status,
            StatusCode::UNSUPPORTED_MEDIA_TYPE
        );
        for path in ["/api/traffic", "/v1/events"] {
            let request = open
                .request(Method::POST, path)
                .header("content-type", kind);
            let answer = request.body("[]").send().await.unwrap();
            assert_eq!(
                answer.status(),
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "{path} {kind}"
            );
        }
    }
    // A page that is named may, and is told so.
    let headers = [("origin", APP), ("sec-fetch-site", "cross-site")];
    let answer = post(&named, 9, "application/json", &headers).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    assert_eq!(answer.header("access-control-allow-origin"), APP);
    // With keys a page needs one, and with one it may.
    let bearer = format!("Bearer {}", key.secret);
    let headers = [
        ("origin", EVIL),
        ("sec-fetch-site", "cross-site"),
        ("authorization", &*bearer),
    ];
    assert_eq!(
        post(&keys, 9, "application/json", &headers).await.status,
        StatusCode::CREATED
    );
    assert_eq!(
        post(&keys, 9, "application/json", &headers[..2])
            .await
            .status,
        StatusCode::UNAUTHORIZED
    );
    for app in [open, off, named, keys] {
        app.stop().await;
    }
}

/// The same with a real browser: a page of another origin, and a form in it.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_browser_is_stopped() {
    let Some(browser) = Browser::start("foreign-page").await else {
        println!("SKIPPED: no chromium or chromedriver");
        return;
    };
    let app = TestApp::start().await;
    // Another port is another origin, whose page has no policy of its own.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = format!("http://{}/", listener.local_addr().unwrap());
    let page = axum::Router::new().fallback(async || axum::response::Html("<p>evil"));
    let other_site = tokio::spawn(async { axum::serve(listener, page).await.unwrap() });
    let url = app.url("/api/traffic/5");
    let body: Value = view(1, now(), "/stolen");
    browser.open(&other).await;
    let sent = browser
        .script(&format!(
            "const say = text => window.said = text; window.said = null; \
             fetch({url:?}, {{method: 'POST', mode: 'no-cors', body: {:?}, \
             headers: {{'content-type': 'text/plain'}}}}).then(() => say('sent'), () => say('failed')); \
             return true",
            body.to_string()
        ))
        .await;
    assert_eq!(sent, json!(true));
    browser.until("window.said").await;
    let metrics = app.request(Method::GET, "/metrics").send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let counted = "traffic_http_requests_total{method=\"POST\",route=\"/api/traffic/{request_id}\",status=\"403\"} 1";
    assert!(metrics.contains(counted), "{metrics}");
    assert_eq!(
        app.get("/api/traffic/5").await.status,
        StatusCode::NOT_FOUND
    );
    other_site.abort();
    app.stop().await;
}
