//! Who is let in, and to what: every operation of the document, with every kind of key.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine as _;
use chrono::{TimeDelta, Utc};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use traffic_api::access::{Credential, Key, KeyFile, Restrictions, Scope};
use traffic_api::domain::Clock;

use crate::support::relay::Relay;
use crate::support::service::{Service, run, signal};
use crate::support::{
    Answer, TestApp, TestClock, directory, fresh_database, rfc3339, shared_engine, view,
};

/// What a client holds, and the line that the service keeps.
pub struct Made {
    pub secret: String,
    pub line: String,
}

pub fn made(scopes: &[Scope], change: impl FnOnce(&mut Key)) -> Made {
    let credential = Credential::generate();
    let scopes = scopes.iter().copied().collect();
    let mut key = Key::new(&credential, "a client".to_owned(), scopes, Utc::now());
    change(&mut key);
    Made {
        secret: credential.reveal(),
        line: key.to_line(),
    }
}

fn key(scopes: &[Scope]) -> Made {
    made(scopes, |_| {})
}

fn restricted(scopes: &[Scope], users: &str) -> Made {
    made(scopes, |key| {
        key.restrictions.users = users.parse().unwrap();
    })
}

pub async fn start(keys: &[&Made], flags: &[&str]) -> TestApp {
    start_at(keys, flags, Clock::system()).await
}

async fn start_at(keys: &[&Made], flags: &[&str], clock: Clock) -> TestApp {
    let lines: Vec<&str> = keys.iter().map(|key| key.line.as_str()).collect();
    let keys = format!("--api-keys={}", lines.join("\n"));
    let flags = [&[keys.as_str()], flags].concat();
    TestApp::start_with(&shared_engine(), &fresh_database(), clock, &flags).await
}

async fn call(app: &TestApp, key: &str, method: Method, path: &str, body: Option<Value>) -> Answer {
    let mut request = app.request(method, path);
    if !key.is_empty() {
        request = request.bearer_auth(key);
    }
    if let Some(body) = body {
        request = request.json(&body);
    }
    Answer::of(request.send().await.unwrap()).await
}

/// Method, path with numbers in it, and the scope, of every operation of the document.
pub fn operations() -> Vec<(Method, String, Option<String>)> {
    let document = serde_json::to_value(traffic_api::http::document()).unwrap();
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let Ok(method) = method.to_uppercase().parse::<Method>() else {
                continue;
            };
            let mut concrete = path.clone();
            while let Some((head, rest)) = concrete.clone().split_once('{') {
                let (_, tail) = rest.split_once('}').unwrap();
                concrete = format!("{head}1{tail}");
            }
            let security = operation["security"].as_array();
            let security = security.unwrap_or_else(|| panic!("{method} {path} has no security"));
            let scope = security[0]["bearer"][0].as_str().map(str::to_owned);
            if scope.is_some() {
                assert_eq!(security[1]["api_key"], security[0]["bearer"]);
                for status in ["401", "403", "429"] {
                    assert!(
                        operation["responses"][status].is_object(),
                        "{method} {path}"
                    );
                }
            }
            found.push((method, concrete, scope));
        }
    }
    found
}

/// A key of `text`, which is all of one but for the checksum.
fn with_checksum(text: &str) -> String {
    let (id, digits) = (&text[3..15], &text[16..]);
    let pairs = (0..digits.len()).step_by(2);
    let secret = pairs.map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap());
    let checked: Vec<u8> = id.bytes().chain(secret).collect();
    format!("{text}{:08x}", crc32fast::hash(&checked))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_needs_its_scope_and_a_key_that_is_good() {
    let all = [Scope::Write, Scope::Read, Scope::Admin];
    let only = all.map(|scope| (scope, key(&[scope])));
    let none = key(&[]);
    let expired = made(&all, |key| {
        key.expires_at = Some(Utc::now() - TimeDelta::seconds(1))
    });
    let elsewhere = made(&all, |key| {
        key.restrictions.paths = vec!["/api/other".to_owned()]
    });
    let stranger = key(&all);
    // The id of a key that is known, with another's secret.
    let wrong_secret = with_checksum(&format!(
        "{}{}",
        &only[0].1.secret[..16],
        &stranger.secret[16..80]
    ));
    let known: Vec<&Made> = only
        .iter()
        .map(|(_, key)| key)
        .chain([&none, &expired, &elsewhere])
        .collect();
    // There are more refusals than guesses are allowed.
    let app = start(&known, &["--auth-failures-per-minute=0"]).await;

    let mistyped = format!("{}x", &only[0].1.secret[..87]);
    let strangers: &[(&str, &str, &str)] = &[
        ("", "send a key", "Bearer realm=\"traffic-api\""),
        ("password", "mistyped", "invalid_token"),
        (&mistyped, "mistyped", "invalid_token"),
        (&stranger.secret, "not known", "invalid_token"),
        (&wrong_secret, "not known", "invalid_token"),
        (&expired.secret, "expired", "invalid_token"),
    ];
    let operations = operations();
    assert!(operations.len() >= 12, "{operations:?}");
    let mut guarded = 0;
    for (method, path, scope) in &operations {
        let Some(scope) = scope else {
            assert!(path.starts_with("/health"), "{method} {path} is open");
            let answer = call(&app, "", method.clone(), path, None).await;
            assert_eq!(answer.status, StatusCode::OK, "{path}");
            continue;
        };
        guarded += 1;
        let shown = format!("{method} {path}");
        for (secret, words, challenge) in strangers {
            let answer = call(&app, secret, method.clone(), path, None).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{shown} {words}");
            assert_eq!(answer.body["type"], "/problems#unauthenticated", "{shown}");
            assert!(
                answer.body["detail"].as_str().unwrap().contains(words),
                "{answer:?}"
            );
            assert!(
                answer.header("www-authenticate").contains(challenge),
                "{answer:?}"
            );
        }
        for (own, key) in &only {
            let answer = call(&app, &key.secret, method.clone(), path, None).await;
            if own.name() == scope {
                let status = answer.status;
                let is_in = status != StatusCode::UNAUTHORIZED && status != StatusCode::FORBIDDEN;
                assert!(is_in, "{shown} {own:?}: {answer:?}");
            } else {
                assert_eq!(answer.status, StatusCode::FORBIDDEN, "{shown} {own:?}");
                let challenge = answer.header("www-authenticate");
                assert!(
                    challenge.contains(&format!("scope=\"{scope}\"")),
                    "{challenge}"
                );
            }
        }
        for key in [&none, &elsewhere] {
            let answer = call(&app, &key.secret, method.clone(), path, None).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{shown}");
            assert_eq!(answer.body["type"], "/problems#forbidden", "{shown}");
        }
    }
    assert!(guarded >= 10, "{guarded}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_and_paths_are_no_way_round() {
    let (writer, reader) = (key(&[Scope::Write]), key(&[Scope::Read]));
    let app = start(&[&writer, &reader], &[]).await;
    let unknown = StatusCode::UNAUTHORIZED;
    for (key, method, path, status) in [
        ("", Method::HEAD, "/api/traffic/daily/1", unknown),
        (
            &*writer.secret,
            Method::HEAD,
            "/api/traffic/daily/1",
            StatusCode::FORBIDDEN,
        ),
        (
            &*reader.secret,
            Method::HEAD,
            "/api/traffic/daily/1",
            StatusCode::OK,
        ),
        (
            "",
            Method::OPTIONS,
            "/api/traffic/1",
            StatusCode::METHOD_NOT_ALLOWED,
        ),
        (
            "",
            Method::GET,
            "/api/traffic/daily/1/",
            StatusCode::NOT_FOUND,
        ),
        (
            "",
            Method::GET,
            "//api/traffic/daily/1",
            StatusCode::NOT_FOUND,
        ),
        (
            "",
            Method::GET,
            "/api/traffic/daily/../daily/1",
            StatusCode::NOT_FOUND,
        ),
        ("", Method::GET, "/api/traffic/%64aily", unknown),
        ("", Method::GET, "/nothing", StatusCode::NOT_FOUND),
    ] {
        // A client would tidy the path up.
        let answer = raw(&app, &method, path, key).await;
        assert_eq!(answer, status.as_u16(), "{method} {path}");
    }
    let answer = call(&app, "", Method::PUT, "/api/traffic", None).await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(answer.header("allow"), "POST");
    // The same key in both headers is one; two keys are none.
    for (first, second, status) in [
        (&reader, &reader, StatusCode::OK),
        (&reader, &writer, unknown),
    ] {
        let request = app.request(Method::GET, "/api/traffic/daily/1");
        let request = request
            .bearer_auth(&first.secret)
            .header("x-api-key", &second.secret);
        assert_eq!(request.send().await.unwrap().status(), status);
    }
    let request = app.request(Method::GET, "/api/traffic/daily/1");
    let request = request
        .basic_auth("proxy", Some("own"))
        .header("x-api-key", &reader.secret);
    assert_eq!(request.send().await.unwrap().status(), StatusCode::OK);
    app.stop().await;
}

async fn raw(app: &TestApp, method: &Method, path: &str, key: &str) -> u16 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = app.url("").trim_start_matches("http://").to_owned();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let key = if key.is_empty() {
        String::new()
    } else {
        format!("authorization: Bearer {key}\r\n")
    };
    let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{key}connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer[9..12].parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_open_unless_they_are_closed() {
    let reader = key(&[Scope::Read]);
    let documents = [
        "/",
        "/dashboard/api.js",
        "/docs/",
        "/openapi.json",
        "/problems",
    ];
    let app = start(&[&reader], &[]).await;
    for path in documents {
        assert_eq!(app.get(path).await.status, StatusCode::OK, "{path}");
    }
    app.stop().await;
    let app = start(&[&reader], &["--public-docs=false"]).await;
    for path in documents {
        assert_eq!(
            app.get(path).await.status,
            StatusCode::UNAUTHORIZED,
            "{path}"
        );
        let answer = call(&app, &reader.secret, Method::GET, path, None).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
    }
    assert_eq!(app.get("/health/ready").await.status, StatusCode::OK);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_for_some_users_learns_nothing_of_others() {
    let clock = TestClock::frozen();
    let now = clock.now();
    let all = [Scope::Write, Scope::Read];
    let (own, every) = (restricted(&all, "10-19,30"), key(&all));
    let app = start_at(&[&own, &every], &[], clock.behind(0)).await;
    let own = async |method: Method, path: &str, body: Option<Value>| {
        call(&app, &own.secret, method, path, body).await
    };
    let every = async |method: Method, path: &str, body: Option<Value>| {
        call(&app, &every.secret, method, path, body).await
    };
    // Ids 1 and 2 are of users within and without.
    for (id, user) in [(1, 10), (2, 20)] {
        let path = format!("/api/traffic/{id}");
        let answer = every(Method::POST, &path, Some(view(user, now, "/a"))).await;
        assert_eq!(answer.status, StatusCode::CREATED);
    }
    let (mine, others, nobodys) = ("/api/traffic/1", "/api/traffic/2", "/api/traffic/3");
    assert_eq!(own(Method::GET, mine, None).await.status, StatusCode::OK);

    // A view of others is answered as one that is not there, to the last byte.
    let patch = json!({"page_url": "/b"});
    for (method, body) in [
        (Method::GET, None),
        (Method::DELETE, None),
        (Method::PATCH, Some(patch.clone())),
        (Method::PUT, Some(view(10, now, "/b"))),
    ] {
        let hidden = own(method.clone(), others, body.clone()).await;
        let absent = own(method.clone(), nobodys, body).await;
        assert_eq!(hidden.status, StatusCode::NOT_FOUND, "{method} {hidden:?}");
        assert_eq!(
            (hidden.status, &hidden.body),
            (absent.status, &absent.body),
            "{method}"
        );
    }
    // To others nothing can be given, whether the view is there or not.
    let given = json!({"user_id": 20});
    for (method, body) in [
        (Method::PATCH, given),
        (Method::PUT, view(20, now, "/a")),
        (Method::POST, view(20, now, "/a")),
    ] {
        for path in [mine, others, nobodys] {
            let answer = own(method.clone(), path, Some(body.clone())).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{method} {path}");
        }
    }
    for path in [
        "/api/traffic/daily/20",
        "/api/traffic/users/20/days",
        "/api/traffic/pages",
        "/api/traffic/site",
        "/api/traffic/pages?prefix=/a",
    ] {
        let answer = own(Method::GET, path, None).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path}");
    }
    for path in ["/api/traffic/daily/10", "/api/traffic/users/30/days"] {
        assert_eq!(
            own(Method::GET, path, None).await.status,
            StatusCode::OK,
            "{path}"
        );
    }
    // Within its users the key may move a view; a batch loses the lines of others alone.
    let moved = own(Method::PATCH, mine, Some(json!({"user_id": 30}))).await;
    assert_eq!(
        (moved.status, &moved.body["user_id"]),
        (StatusCode::OK, &json!(30))
    );
    let line = |id: u64, user: u32| json!({"request_id": id, "user_id": user, "created_at": rfc3339(now), "page_url": "/c"});
    let batch = json!([line(4, 19), line(5, 20), line(6, 30), line(2, 29)]);
    let answer = own(Method::POST, "/api/traffic", Some(batch)).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(
        (&answer.body["accepted"], &answer.body["rejected_count"]),
        (&json!(2), &json!(2))
    );
    let rejected = answer.body["rejected"].as_array().unwrap();
    for (rejected, line) in rejected.iter().zip([2, 4]) {
        assert_eq!(rejected["line"], line);
        assert_eq!(rejected["errors"][0]["field"], "user_id");
        assert_eq!(rejected["errors"][0]["code"], "forbidden");
    }
    // And nothing of all this has touched what is not its own.
    let daily = async |user: u32| {
        let path = format!("/api/traffic/daily/{user}");
        every(Method::GET, &path, None).await.body
    };
    assert_eq!(daily(20).await, json!({"/a": 1}));
    assert_eq!(daily(10).await, json!({}));
    assert_eq!(daily(30).await, json!({"/a": 1, "/c": 1}));
    assert_eq!(daily(19).await, json!({"/c": 1}));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_for_one_path_goes_nowhere_else() {
    let scopes = [Scope::Read, Scope::Write];
    let key = made(&scopes, |key| {
        key.restrictions = Restrictions {
            paths: vec!["/api/traffic/daily/".to_owned()],
            ..Restrictions::default()
        };
    });
    let app = start(&[&key], &[]).await;
    for (path, status) in [
        ("/api/traffic/daily/1", StatusCode::OK),
        ("/api/traffic/site", StatusCode::FORBIDDEN),
        ("/api/traffic/1", StatusCode::FORBIDDEN),
    ] {
        let answer = call(&app, &key.secret, Method::GET, path, None).await;
        assert_eq!(answer.status, status, "{path}");
    }
    app.stop().await;
}

/// The service as a process of its own, and its log.
struct Logged {
    service: Service,
    log: PathBuf,
    keys: PathBuf,
    http: reqwest::Client,
}

fn key_command(keys: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Service::command(keys.parent().unwrap());
    command
        .env("API_KEYS_FILE", keys)
        .arg("key")
        .args(arguments);
    run(command)
}

fn new_key(keys: &Path, arguments: &[&str]) -> String {
    let (code, out, err) = key_command(keys, &[&["new", "--client=shop"], arguments].concat());
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(out.lines().count(), 1, "{out}");
    out.trim().to_owned()
}

impl Logged {
    fn start(name: &str, level: &str, prepare: impl FnOnce(&Path)) -> Self {
        Self::start_with(name, level, prepare, |_| {})
    }

    fn start_with(
        name: &str,
        level: &str,
        prepare: impl FnOnce(&Path),
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let data = directory(name);
        let (log, keys) = (data.join("log"), data.join("keys"));
        prepare(&keys);
        let engine = shared_engine();
        let mut command = Service::command(&data);
        command
            .env("CLICKHOUSE_URL", &engine.url)
            .env("CLICKHOUSE_USER", &engine.user)
            .env("CLICKHOUSE_PASSWORD", &engine.password)
            .env("CLICKHOUSE_DATABASE", fresh_database())
            .env("API_KEYS_FILE", &keys)
            .env("LOG_LEVEL", level)
            .stderr(std::fs::File::create(&log).unwrap());
        change(&mut command);
        Self {
            service: Service::spawn_with_stderr(command),
            log,
            keys,
            http: reqwest::Client::new(),
        }
    }

    async fn status(&self, key: &str) -> StatusCode {
        let url = self.service.url("/api/traffic/daily/1");
        self.http
            .get(url)
            .bearer_auth(key)
            .send()
            .await
            .unwrap()
            .status()
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Sends SIGHUP and waits until the log says so.
    async fn reload(&self, words: &str) {
        let before = self.said().matches(words).count();
        signal(self.service.pid(), "HUP");
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.said().matches(words).count() == before {
            assert!(Instant::now() < deadline, "no {words:?}: {}", self.said());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_come_and_go_without_a_restart() {
    let mut first = String::new();
    let app = Logged::start("keys-reloaded", "info", |keys| {
        first = new_key(keys, &["--scopes=read"]);
        let mode = std::fs::metadata(keys).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    });
    assert_eq!(app.status(&first).await, StatusCode::OK);

    // A second key of the same client, so that the first can go.
    let second = new_key(&app.keys, &["--scopes=read", "--users=1-5"]);
    assert_eq!(app.status(&second).await, StatusCode::UNAUTHORIZED);
    app.reload("keys read again").await;
    assert_eq!(app.status(&second).await, StatusCode::OK);
    assert_eq!(app.status(&first).await, StatusCode::OK);

    let (_, listed, _) = key_command(&app.keys, &["list"]);
    assert_eq!(listed.lines().count(), 2, "{listed}");
    assert!(
        listed.contains("shop") && listed.contains("users 1-5"),
        "{listed}"
    );
    let id = &first[3..15];
    assert_eq!(key_command(&app.keys, &["revoke", id]).0, Some(0));
    assert_eq!(app.status(&first).await, StatusCode::OK);
    app.reload("keys read again").await;
    assert_eq!(app.status(&first).await, StatusCode::UNAUTHORIZED);
    assert_eq!(app.status(&second).await, StatusCode::OK);

    // A file that can't be read changes nothing, and is complained of.
    let good = std::fs::read_to_string(&app.keys).unwrap();
    std::fs::write(&app.keys, format!("{good}{{\"id\": \"{first}\"}}\n")).unwrap();
    app.reload("keys not read again").await;
    assert!(app.said().contains("line 2"), "{}", app.said());
    assert_eq!(app.status(&second).await, StatusCode::OK);
    std::fs::remove_file(&app.keys).unwrap();
    app.reload("keys not read again").await;
    assert_eq!(app.status(&second).await, StatusCode::OK);

    // No key left: nobody is let in, rather than everybody.
    std::fs::write(&app.keys, "# none\n").unwrap();
    std::fs::set_permissions(&app.keys, std::fs::Permissions::from_mode(0o644)).unwrap();
    app.reload("keys read again").await;
    assert_eq!(app.status(&second).await, StatusCode::UNAUTHORIZED);
    assert_eq!(app.status("").await, StatusCode::UNAUTHORIZED);
    assert!(
        app.said().contains("can be read by everybody"),
        "{}",
        app.said()
    );
    assert!(
        app.said().contains("every call is refused"),
        "{}",
        app.said()
    );
    for secret in [&first, &second] {
        assert!(
            !app.said().contains(&secret[16..48]),
            "a secret is in the log"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_under_a_key_is_kept_when_it_is_revoked() {
    let mut secret = String::new();
    let app = Logged::start("keys-promise", "info", |keys| {
        secret = new_key(keys, &["--scopes=read,write"]);
    });
    let now = Utc::now().timestamp();
    let post = async |id: u64, key: &str| {
        let url = app.service.url(&format!("/api/traffic/{id}"));
        let request = app
            .http
            .post(url)
            .bearer_auth(key)
            .json(&view(1, now, "/a"));
        request.send().await.unwrap().status()
    };
    for id in 0..20 {
        assert_eq!(post(id, &secret).await, StatusCode::CREATED);
    }
    assert_eq!(
        key_command(&app.keys, &["revoke", &secret[3..15]]).0,
        Some(0)
    );
    app.reload("keys read again").await;
    assert_eq!(post(20, &secret).await, StatusCode::UNAUTHORIZED);
    let reader = new_key(&app.keys, &["--scopes=read"]);
    app.reload("keys read again").await;
    let url = app.service.url("/api/traffic/daily/1");
    let report: Value = app
        .http
        .get(url)
        .bearer_auth(&reader)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(report, json!({"/a": 20}));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_log_line_and_no_document_has_a_secret() {
    let mut secret = String::new();
    let from_env = made(&[Scope::Read, Scope::Write], |_| {});
    let password = "hunter2-of-clickhouse";
    // The engine has no passwords, so one is only sent, and kept from it.
    let relay = Relay::start(&shared_engine()).await;
    let prepare = |keys: &Path| secret = new_key(keys, &["--scopes=read"]);
    let app = Logged::start_with("keys-secret", "trace", prepare, |command| {
        command
            .env("CLICKHOUSE_URL", format!("http://{}", relay.address))
            .env("CLICKHOUSE_USER", "somebody-there")
            .env("CLICKHOUSE_PASSWORD", password)
            .env("API_KEYS", &from_env.line);
    });
    let wrong = Credential::generate().reveal();
    for key in [&secret, &wrong] {
        app.status(key).await;
        let url = app.service.url("/api/traffic/daily/1");
        let answer = app
            .http
            .get(url)
            .header("x-api-key", key)
            .send()
            .await
            .unwrap();
        let text = answer.text().await.unwrap();
        assert!(!text.contains(&key[16..48]), "{text}");
    }
    // Views are written and read; then ClickHouse refuses both.
    let now = Utc::now().timestamp() - 10;
    let mut document = String::new();
    for (id, settings) in [(1, ""), (2, "readonly=1"), (3, "max_memory_usage=1")] {
        relay.set(settings);
        let url = app.service.url(&format!("/api/traffic/{id}"));
        let post = app.http.post(url).bearer_auth(&from_env.secret);
        let post = post.json(&view(1, now, "/a")).send().await.unwrap();
        assert!(post.status().is_success(), "{post:?}");
        document += &post.text().await.unwrap();
        for path in [
            "/openapi.json",
            "/problems",
            "/docs/swagger-initializer.js",
            "/metrics",
            "/health/ready",
            "/nothing",
            "/api/traffic/1",
            "/api/traffic/daily/1",
            "/api/traffic/pages",
            "/v1/report",
        ] {
            let get = app.http.get(app.service.url(path));
            let answer = get.bearer_auth(&from_env.secret).send().await.unwrap();
            document += &format!("{:?}", answer.headers());
            document += &answer.text().await.unwrap();
        }
    }
    assert!(relay.credentials().contains(password), "it was never sent");
    let url = format!("{}", relay.address);
    assert!(!document.contains(&url) && !document.contains("somebody-there"));
    // The password also in the form that HTTP has for it.
    let basic = format!("somebody-there:{password}");
    let basic = base64::engine::general_purpose::STANDARD.encode(basic);
    let said = app.said();
    assert!(
        said.contains("TRACE") && said.contains("key refused"),
        "{said}"
    );
    let kept = std::fs::read_to_string(&app.keys).unwrap();
    let kept: Value = serde_json::from_str(&kept).unwrap();
    let (salt, hash) = (
        kept["salt"].as_str().unwrap(),
        kept["hash"].as_str().unwrap(),
    );
    let own: Value = serde_json::from_str(&from_env.line).unwrap();
    for hidden in [
        &secret[16..32],
        &secret[60..80],
        &wrong[16..32],
        &from_env.secret[16..32],
        salt,
        hash,
        own["salt"].as_str().unwrap(),
        own["hash"].as_str().unwrap(),
        password,
        &basic,
    ] {
        assert!(!said.contains(hidden), "in the log");
        assert!(!document.contains(hidden), "in the document");
    }
    // Nor the help, which shows what variables are set to.
    let mut help = Service::command(app.keys.parent().unwrap());
    help.arg("--help")
        .env("CLICKHOUSE_URL", "http://localhost:1")
        .env("CLICKHOUSE_PASSWORD", password)
        .env("API_KEYS", &from_env.line);
    let (code, out, err) = run(help);
    assert_eq!(code, Some(0), "{err}");
    assert!(
        out.contains("CLICKHOUSE_PASSWORD") && !out.contains(password),
        "{out}"
    );
    assert!(!out.contains(own["hash"].as_str().unwrap()), "{out}");
    // Nor a refusal to start.
    let mut start = Service::command(app.keys.parent().unwrap());
    start.env(
        "CLICKHOUSE_URL",
        format!("http://somebody:{password}@localhost:1"),
    );
    let (code, out, err) = run(start);
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("CLICKHOUSE_URL"), "{err}");
    assert!(!format!("{out}{err}").contains(password), "{err}");
    // Nor what the service says of itself when it is asked wrongly.
    for (key, expected) in [(&secret[..80], 1), (&wrong, 1), (&secret, 0)] {
        let (code, out, err) = key_command(&app.keys, &["revoke", key]);
        assert_eq!(code, Some(expected), "{err}");
        assert!(!format!("{out}{err}").contains(&key[16..32]), "{err}");
    }
}

#[test]
fn who_would_serve_strangers_must_say_so() {
    let data = directory("keys-start");
    let start = |settings: &[(&str, &str)]| {
        let mut command = Service::command(&data);
        command.envs(settings.iter().copied());
        let (code, _, err) = run(command);
        (code, err)
    };
    let strangers = ("LISTEN_ADDR", "0.0.0.0:0");
    let (code, err) = start(&[strangers]);
    assert_eq!(code, Some(2), "{err}");
    assert!(
        err.contains("AUTH=off") && err.contains("API_KEYS_FILE"),
        "{err}"
    );
    let (code, err) = start(&[("AUTH", "off"), ("API_KEYS", "{}")]);
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("contradicts"), "{err}");
    // With keys that can't be read, nothing is started. Their text is not shown.
    let secret = Credential::generate().reveal();
    let (code, err) = start(&[strangers, ("API_KEYS", &secret)]);
    assert_eq!(code, Some(1), "{err}");
    assert!(
        err.contains("API_KEYS, line 1") && !err.contains(&secret[16..32]),
        "{err}"
    );
    let (code, err) = start(&[strangers, ("API_KEYS_FILE", "/nowhere/keys")]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("/nowhere/keys"), "{err}");
}

#[test]
fn a_key_is_made_for_the_environment_too() {
    let mut command = Service::command(&directory("keys-env"));
    command.args([
        "key",
        "new",
        "--client=x",
        "--scopes=write,read",
        "--paths=/api",
    ]);
    let (code, out, err) = run(command);
    assert_eq!(code, Some(0), "{err}");
    let lines: Vec<&str> = out.lines().collect();
    let [secret, line] = lines[..] else {
        panic!("{out}");
    };
    let ring = traffic_api::access::Keyring::read(line).unwrap();
    let found = ring.find(secret.as_bytes(), Utc::now).unwrap();
    assert_eq!(found.scopes.to_string(), "write,read");
    for wrong in [
        &["--client=x", "--scopes=root"][..],
        &["--client=", "--scopes=read"],
        &["--client=x", "--scopes=read", "--users=a"],
        &["--client=x", "--scopes=read", "--paths=api"],
        &[
            "--client=x",
            "--scopes=read",
            "--expires=2020-01-01T00:00:00Z",
        ],
        &["--client=x"],
    ] {
        let keys = directory("keys-env").join("none");
        let (code, out, err) = key_command(&keys, &[&["new"], wrong].concat());
        assert!(code != Some(0) && out.is_empty(), "{wrong:?} {out}");
        assert_eq!(err.lines().count(), 1, "{err}");
        assert!(KeyFile::at(&keys).read().is_err());
    }
}

/// The largest distance between two distributions (Kolmogorov and Smirnov).
fn distance(a: &mut [u128], b: &mut [u128]) -> f64 {
    a.sort_unstable();
    b.sort_unstable();
    let share =
        |all: &[u128], at: u128| all.partition_point(|x| *x <= at) as f64 / all.len() as f64;
    let points = a.iter().chain(b.iter());
    points
        .map(|at| (share(a, *at) - share(b, *at)).abs())
        .fold(0.0, f64::max)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_is_refused_as_fast_as_an_unknown_one() {
    const ROUNDS: usize = 1500;
    let good = key(&[Scope::Read]);
    let app = start(&[&good], &["--auth-failures-per-minute=0"]).await;
    let other = Credential::generate().reveal();
    let wrong = with_checksum(&format!("{}{}", &good.secret[..16], &other[16..80]));
    // The order changes from round to round, so that what changes in between meets all alike.
    let mut times = [const { Vec::new() }; 3];
    for round in 0..ROUNDS {
        for turn in 0..3 {
            let which = (round + turn) % 3;
            let key = if which == 2 { &other } else { &wrong };
            let url = app.url("/api/traffic/daily/1");
            let request = reqwest_client().get(url).bearer_auth(key);
            let since = Instant::now();
            let status = request.send().await.unwrap().status();
            times[which].push(since.elapsed().as_nanos());
            assert_eq!(status, StatusCode::UNAUTHORIZED);
        }
    }
    let [mut wrong, mut again, mut unknown] = times;
    let same = distance(&mut wrong, &mut again);
    let differ = distance(&mut wrong, &mut unknown);
    // Once in a million times samples of this size of one distribution are further apart.
    let limit = 2.69 * (2.0 / ROUNDS as f64).sqrt();
    println!("wrong against wrong {same:.3}, wrong against unknown {differ:.3}, limit {limit:.3}");
    assert!(differ < limit, "{differ} of {limit}");
    app.stop().await;
}

fn reqwest_client() -> &'static reqwest::Client {
    static CLIENT: std::sync::OnceLock<reqwest::Client> = std::sync::OnceLock::new();
    CLIENT.get_or_init(reqwest::Client::new)
}

#[tokio::test(flavor = "multi_thread")]
async fn all_versions_of_a_path_are_guarded_alike() {
    let scopes = [Scope::Read, Scope::Write];
    let at = |path: &str| {
        made(&scopes, |key| {
            key.restrictions.paths = vec![path.to_owned()]
        })
    };
    let (daily, report, v1) = (at("/api/traffic/daily"), at("/v1/report"), at("/v1"));
    let (any, some_users) = (key(&scopes), restricted(&scopes, "1-9"));
    let app = start(&[&daily, &report, &v1, &any, &some_users], &[]).await;
    let (ok, forbidden) = (StatusCode::OK, StatusCode::FORBIDDEN);
    for (path, of_daily, of_report, of_v1, of_some) in [
        ("/api/traffic/daily/1", ok, forbidden, forbidden, ok),
        ("/v1/api/traffic/daily/1", ok, forbidden, ok, ok),
        ("/latest/api/traffic/daily/1", ok, forbidden, forbidden, ok),
        ("/v1/report", forbidden, ok, ok, forbidden),
        ("/latest/report", forbidden, ok, ok, forbidden),
        ("/v1/report/funnel", forbidden, ok, ok, forbidden),
    ] {
        for (key, expected) in [
            ("", StatusCode::UNAUTHORIZED),
            (&daily.secret, of_daily),
            (&report.secret, of_report),
            (&v1.secret, of_v1),
            (&any.secret, ok),
            (&some_users.secret, of_some),
        ] {
            let answer = call(&app, key, Method::GET, path, None).await;
            assert_eq!(answer.status, expected, "{path} {answer:?}");
        }
    }
    // A key for some users is for none of another version, and sees no events.
    let others = call(
        &app,
        &some_users.secret,
        Method::GET,
        "/latest/api/traffic/daily/10",
        None,
    );
    assert_eq!(others.await.status, forbidden);
    for path in ["/v1/events", "/latest/events"] {
        for (key, expected) in [
            ("", StatusCode::UNAUTHORIZED),
            (&some_users.secret, forbidden),
            (&any.secret, StatusCode::UNPROCESSABLE_ENTITY),
        ] {
            let answer = call(&app, key, Method::POST, path, Some(json!({}))).await;
            assert_eq!(answer.status, expected, "{path} {answer:?}");
        }
    }
    app.stop().await;
}
