//! Text that means something to somebody on the way (SQL, parameters, formats, terminals, people) goes
//! in everywhere and comes out byte for byte, or is refused by name. Nothing of it is ever a 5xx.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use traffic_api::access::Scope;
use traffic_api::domain::Clock;

use crate::auth::{made, start};
use crate::support::{
    Answer, TestApp, directory, fresh_database, private_engine, rfc3339, shared_engine, view,
};

const LINES: &str = "application/x-ndjson";
const JSON: &str = "application/json";
const USER: u32 = 4_294_967_295;

fn now() -> i64 {
    chrono::Utc::now().timestamp() - 10
}

/// What somebody might take for more than text, without control characters.
const TEXTS: &[&str] = &[
    "'",
    "''",
    "\"",
    "`",
    "\\",
    "\\'",
    "\\\\'",
    "\\0",
    "\\N",
    "\\x00",
    "\\u0000",
    "';",
    "'; DROP TABLE traffic; --",
    "' OR 1=1 --",
    "' UNION ALL SELECT * FROM system.tables --",
    "/*",
    "*/",
    "--",
    "#",
    ";",
    "{x:String}",
    "{prefix:String}",
    "{{",
    "}}",
    "{}",
    "${retention}",
    "$1",
    "$$",
    "$x$",
    "?",
    "??",
    "?fields",
    "%",
    "%%",
    "%s",
    "%00",
    "%27",
    "%FF",
    "_",
    "*",
    ",",
    "a,b",
    "a, 'b'), (1, 2",
    "=cmd|' /C calc'!A0",
    "<script>alert(1)</script>",
    "&lt;&amp;",
    "[1,2]",
    "{\"a\": 1}",
    "null",
    "NaN",
    "()",
    " ",
    "  leading and trailing  ",
    "\u{a0}",
    "\u{feff}",
    "\u{200b}\u{200d}\u{2060}",
    "\u{202e}gpj.exe",
    "\u{2066}x\u{2069}",
    "\u{2028}\u{2029}",
    "e\u{301}",
    "\u{e9}",
    "a\u{300}\u{301}\u{302}\u{303}\u{304}\u{305}",
    "\u{1f600}",
    "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}",
    "\u{10ffff}",
    "\u{fffd}",
    "\u{fffe}\u{ffff}",
    "\u{e000}",
    "\u{130}\u{131}\u{df}",
    "\u{5e9}\u{5dc}\u{5d5}\u{5dd}",
    "FORMAT JSON SETTINGS readonly=0",
];

/// The texts as pages, and 2048 bytes of each of some.
fn pages() -> Vec<String> {
    let mut pages: Vec<String> = TEXTS.iter().map(|text| format!("/{text}")).collect();
    pages.extend(TEXTS.iter().map(|text| format!("x+y://{text}.")));
    for unit in [
        "'",
        "\\",
        "`",
        "{",
        "?",
        "%",
        "\u{202e}",
        "\u{1f600}",
        "\u{301}",
        "a",
    ] {
        let filled = unit.repeat(2047 / unit.len());
        pages.push(format!("/{filled}{}", "x".repeat(2047 - filled.len())));
    }
    pages
}

/// JSON of a text in which every unit of UTF-16 is escaped.
fn escaped(text: &str) -> String {
    let units = text.encode_utf16().map(|unit| format!("\\u{unit:04x}"));
    format!("\"{}\"", units.collect::<String>())
}

fn line(id: u64, at: i64, page: &str) -> Value {
    json!({"request_id": id, "user_id": USER, "created_at": rfc3339(at), "page_url": page})
}

async fn send(
    app: &TestApp,
    method: Method,
    path: &str,
    kind: &str,
    body: impl Into<Vec<u8>>,
) -> Answer {
    let request = app.request(method, path).header("content-type", kind);
    Answer::of(request.body(body.into()).send().await.unwrap()).await
}

fn counts(pages: &[String], each: u64) -> BTreeMap<String, u64> {
    pages.iter().map(|page| (page.clone(), each)).collect()
}

fn counted(report: &Value) -> BTreeMap<String, u64> {
    let rows = report.as_object().unwrap().iter();
    rows.map(|(page, views)| (page.clone(), views.as_u64().unwrap()))
        .collect()
}

/// The first column and the views of a report as CSV.
async fn from_csv(app: &TestApp, path: &str) -> BTreeMap<String, u64> {
    let request = app.request(Method::GET, path).header("accept", "text/csv");
    let text = request.send().await.unwrap().bytes().await.unwrap();
    let mut rows = csv::Reader::from_reader(&text[..]);
    let headers = rows.headers().unwrap().clone();
    let place = |name: &str| headers.iter().position(|header| header == name).unwrap();
    let (page, views) = (place("page_url"), place("views"));
    rows.records()
        .map(|row| row.unwrap())
        .map(|row| (row[page].to_owned(), row[views].parse().unwrap()))
        .collect()
}

/// That all pages were viewed so often, in whatever way one asks.
async fn all_reports_have(app: &TestApp, pages: &[String], each: u64, first_id: u64) {
    let expected = counts(pages, each);
    assert_eq!(expected.len(), pages.len(), "all differ");
    for (id, page) in (first_id..).zip(pages) {
        let stored = app.get(&format!("/api/traffic/{id}")).await;
        assert_eq!(stored.status, StatusCode::OK, "{page}");
        assert_eq!(stored.body["page_url"], page.as_str());
    }
    let daily = format!("/api/traffic/daily/{USER}");
    assert_eq!(counted(&app.get(&daily).await.body), expected);
    assert_eq!(from_csv(app, &daily).await, expected);

    let days = format!("/api/traffic/users/{USER}/days?by=page");
    let mut found = BTreeMap::new();
    for day in app.get(&days).await.body["days"].as_array().unwrap() {
        for (page, views) in counted(&day["pages"]) {
            *found.entry(page).or_default() += views;
        }
    }
    assert_eq!(found, expected);

    // In parts, each of which is asked for by the cursor of the one before.
    let mut path = "/api/traffic/pages?limit=50".to_owned();
    let mut found = BTreeMap::new();
    loop {
        let answer = app.get(&path).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        for row in answer.body["pages"].as_array().unwrap() {
            let page = row["page_url"].as_str().unwrap().to_owned();
            found.insert(page, row["views"].as_u64().unwrap());
        }
        match answer.body["next"].as_str() {
            Some(next) => path = format!("/api/traffic/pages?limit=50&after={next}"),
            None => break,
        }
    }
    assert_eq!(found, expected);
    let site = app.get("/api/traffic/site").await;
    assert_eq!(site.body["views"], each * pages.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_text_comes_out_as_it_went_in() {
    let app = TestApp::start().await;
    let (at, pages) = (now(), pages());
    let ids = pages.len() as u64;
    for (id, page) in (0..).zip(&pages) {
        let path = format!("/api/traffic/{id}");
        // One way or the other in turn: as UTF-8, or with everything escaped.
        let body = match id % 2 {
            0 => view(USER, at, page).to_string(),
            _ => format!(
                "{{\"user_id\": {USER}, \"created_at\": {}, \"page_url\": {}}}",
                escaped(&rfc3339(at)),
                escaped(page)
            ),
        };
        let answer = send(&app, Method::POST, &path, JSON, body).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{page}: {answer:?}");
        assert_eq!(answer.body["page_url"], page.as_str());
    }
    all_reports_have(&app, &pages, 1, 0).await;

    let lines: Vec<String> = (ids..)
        .zip(&pages)
        .map(|(id, page)| line(id, at, page).to_string())
        .collect();
    let answer = send(&app, Method::POST, "/api/traffic", LINES, lines.join("\n")).await;
    assert_eq!(answer.body["stored"], ids, "{answer:?}");
    all_reports_have(&app, &pages, 2, ids).await;
    let elements: Vec<Value> = (2 * ids..)
        .zip(&pages)
        .map(|(id, page)| line(id, at, page))
        .collect();
    let answer = app
        .call(Method::POST, "/api/traffic", &json!(elements))
        .await;
    assert_eq!(answer.body["stored"], ids, "{answer:?}");
    all_reports_have(&app, &pages, 3, 2 * ids).await;

    // Each view is moved to the page of the next, and then of the one after it.
    for (method, step) in [(Method::PUT, 1), (Method::PATCH, 2)] {
        for id in 0..ids {
            let page = &pages[((id + step) % ids) as usize];
            let body = match method {
                Method::PUT => view(USER, at, page),
                _ => json!({"page_url": page}),
            };
            let answer = app
                .call(method.clone(), &format!("/api/traffic/{id}"), &body)
                .await;
            assert_eq!(answer.status, StatusCode::OK, "{page}: {answer:?}");
            assert_eq!(answer.body["page_url"], page.as_str());
        }
        let mut moved = pages.clone();
        moved.rotate_left(step as usize);
        all_reports_have(&app, &moved, 3, 0).await;
    }

    // As a prefix each finds itself, and what begins with it.
    for page in &pages {
        let prefix: String = page.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let path = format!("/api/traffic/pages?limit=1000&prefix={prefix}");
        let answer = app.get(&path).await;
        assert_eq!(answer.status, StatusCode::OK, "{page}: {answer:?}");
        let rows = answer.body["pages"].as_array().unwrap().iter();
        let found: BTreeMap<String, u64> = rows
            .map(|row| {
                (
                    row["page_url"].as_str().unwrap().to_owned(),
                    row["views"].as_u64().unwrap(),
                )
            })
            .collect();
        let expected = pages
            .iter()
            .filter(|other| other.starts_with(page.as_str()));
        let expected: Vec<String> = expected.cloned().collect();
        assert_eq!(found, counts(&expected, 3), "{page}");
    }
    // The tables are still there, and nothing else is.
    let tables =
        "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'traffic'";
    assert_eq!(app.sql(tables).await, "1");
    assert_eq!(
        app.sql("SELECT count() FROM traffic FINAL").await,
        (3 * ids).to_string()
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_text_is_refused_by_name() {
    let app = TestApp::start().await;
    let at = now();
    let controls = (0..0x20).chain(0x7f..0xa0).filter_map(char::from_u32);
    let bad = controls
        .flat_map(|control| {
            [
                format!("/{control}"),
                format!("/a{control}'b"),
                control.to_string(),
            ]
        })
        .chain(
            TEXTS
                .iter()
                .map(|text| (*text).to_owned())
                .filter(|text| !text.starts_with('/')),
        )
        .chain([
            String::new(),
            "/\r\nset-cookie: a=b".to_owned(),
            format!("/{}", "\u{1f600}".repeat(512)),
        ]);
    for page in bad {
        for (method, path) in [
            (Method::POST, "/api/traffic/1"),
            (Method::PUT, "/api/traffic/1"),
            (Method::PATCH, "/api/traffic/1"),
        ] {
            let answer = app.call(method.clone(), path, &view(USER, at, &page)).await;
            assert_eq!(
                answer.status,
                StatusCode::UNPROCESSABLE_ENTITY,
                "{method} {page:?}"
            );
            assert_eq!(answer.bad_fields(), ["page_url"], "{page:?}");
        }
        let batch = json!([line(1, at, &page), line(2, at, &page)]);
        for answer in [
            app.call(Method::POST, "/api/traffic", &batch).await,
            send(
                &app,
                Method::POST,
                "/api/traffic",
                LINES,
                line(1, at, &page).to_string(),
            )
            .await,
        ] {
            assert_eq!(answer.body["accepted"], 0, "{page:?} {answer:?}");
            assert_eq!(answer.body["rejected"][0]["errors"][0]["field"], "page_url");
        }
    }
    // In the fields that are no text, text is refused by their names.
    for text in TEXTS.iter().copied().chain(["\0", "\r\n", "\u{1f600}"]) {
        for field in ["user_id", "created_at"] {
            let mut body = view(USER, at, "/a");
            body[field] = json!(text);
            let answer = app.post(1, &body).await;
            assert_eq!(
                answer.status,
                StatusCode::UNPROCESSABLE_ENTITY,
                "{field} {text:?}"
            );
            assert_eq!(answer.bad_fields(), [field], "{text:?}");
        }
        let mut element = line(1, at, "/a");
        element["request_id"] = json!(text);
        let answer = app
            .call(Method::POST, "/api/traffic", &json!([element]))
            .await;
        assert_eq!(
            answer.body["rejected"][0]["errors"][0]["field"],
            "request_id"
        );
        let mut body = view(USER, at, "/a");
        body[text] = json!(1);
        let answer = app.post(1, &body).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(answer.bad_fields(), [text]);

        let event = json!({"site_id": "c88a618e-fed4-457d-bb02-6576f512c4c3", "type": "serve",
            "correlation_id": "98ae4334-6c12-4ce8-ae34-0454cac5b68c", "time": rfc3339(at)});
        for field in ["site_id", "type", "correlation_id", "time"] {
            // A good name of a type.
            if field == "type" && text == "null" {
                continue;
            }
            let mut event = event.clone();
            event[field] = json!(text);
            let single = app.call(Method::POST, "/v1/events", &event).await;
            assert_eq!(
                single.status,
                StatusCode::UNPROCESSABLE_ENTITY,
                "{field} {text:?}"
            );
            assert_eq!(single.bad_fields(), [field], "{text:?}");
            let many = app.call(Method::POST, "/v1/events", &json!([event])).await;
            assert_eq!(
                many.body["rejected"][0]["errors"][0]["field"], field,
                "{text:?}"
            );
        }
    }
    // What is not even Unicode.
    let broken: &[&[u8]] = &[
        b"\xff",
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\\ud83d",
        b"\\udc00",
        b"\\ud83d\\u0041",
    ];
    for bytes in broken {
        let prefix = format!(
            "{{\"user_id\": 1, \"created_at\": \"{}\", \"page_url\": \"/",
            rfc3339(at)
        );
        let body = [prefix.as_bytes(), bytes, b"\"}"].concat();
        for method in [Method::POST, Method::PUT, Method::PATCH] {
            let answer = send(&app, method, "/api/traffic/1", JSON, body.clone()).await;
            assert_eq!(
                answer.status,
                StatusCode::BAD_REQUEST,
                "{bytes:?} {answer:?}"
            );
        }
        let answer = send(&app, Method::POST, "/api/traffic", LINES, body.clone()).await;
        assert_eq!(
            answer.body["rejected"][0]["errors"][0]["code"],
            "malformed_json"
        );
    }
    assert_eq!(app.sql("SELECT count() FROM traffic").await, "0");
    assert_eq!(app.sql("SELECT count() FROM events").await, "0");
    app.stop().await;
}

/// One request as these bytes, and the status of its answer.
async fn raw(app: &TestApp, request: &[u8]) -> u16 {
    let mut stream = tokio::net::TcpStream::connect(app.address()).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    // A connection that is reset has said what it had to say.
    let _ = stream.read_to_end(&mut answer).await;
    let text = String::from_utf8_lossy(&answer);
    assert!(
        !text.contains("\r\nevil:"),
        "a header of ours was split: {text}"
    );
    text[9..12].parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_parameters_and_headers_take_anything() {
    let key = made(&[Scope::Read, Scope::Write], |_| {});
    let app = start(&[&key], &["--auth-failures-per-minute=0"]).await;
    let bearer = format!("authorization: Bearer {}\r\n", key.secret);
    let raw_texts: &[&[u8]] = &[b"\xff\xfe", b"\x00", b"\r\nevil: 1", b"\n", b"\t", b"\x7f"];
    let texts = TEXTS
        .iter()
        .map(|text| text.as_bytes())
        .chain(raw_texts.iter().copied());
    let texts: Vec<Vec<u8>> = texts
        .map(<[u8]>::to_vec)
        .chain([b"'".repeat(2048), b"\xff".repeat(2048)])
        .collect();
    for text in &texts {
        let encoded: String = text.iter().map(|byte| format!("%{byte:02x}")).collect();
        let shown = String::from_utf8_lossy(text).into_owned();
        let get = async |path: String, headers: &[u8]| {
            let start = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
            let request = [start.as_bytes(), headers, b"\r\n"];
            raw(&app, &request.concat()).await
        };
        for path in [
            "/api/traffic/",
            "/api/traffic/daily/",
            "/api/traffic/users/",
        ] {
            let status = get(format!("{path}{encoded}"), bearer.as_bytes()).await;
            assert!(status == 400 || status == 404, "{path}{shown}: {status}");
        }
        for (path, names) in [
            (
                "/api/traffic/pages",
                &["from", "to", "interval", "prefix", "limit", "after", "next"][..],
            ),
            ("/api/traffic/site", &["from", "to", "interval"]),
            ("/api/traffic/users/1/days", &["from", "to", "tz", "by"]),
            (
                "/v1/report",
                &[
                    "site_id", "type", "from", "to", "interval", "limit", "after",
                ],
            ),
            ("/v1/report/funnel", &["site_id", "from", "to"]),
        ] {
            for name in names.iter().copied().chain([&*encoded]) {
                let status = get(format!("{path}?{name}={encoded}"), bearer.as_bytes()).await;
                // Any text may begin a page, and one of these is a good name of a type.
                let is_good = name == "prefix" || name == "type" && shown == "null";
                assert!(
                    status == 422 || is_good && status == 200,
                    "{path} {name} {shown}: {status}"
                );
            }
        }
        // In headers as they are: what HTTP itself does not allow is refused by HTTP itself.
        for name in [
            "x-request-id",
            "prefer",
            "if-none-match",
            "accept",
            "x-forwarded-for",
            "origin",
            "sec-fetch-site",
        ] {
            let header = [bearer.as_bytes(), name.as_bytes(), b": ", text, b"\r\n"].concat();
            let status = get("/api/traffic/daily/1".to_owned(), &header).await;
            assert!(
                [200, 304, 400, 406].contains(&status),
                "{name} {shown}: {status}"
            );
        }
        for name in ["x-api-key: ", "authorization: Bearer ", "authorization: "] {
            let header = [name.as_bytes(), text, b"\r\n"].concat();
            let status = get("/api/traffic/daily/1".to_owned(), &header).await;
            assert!(status == 401 || status == 400, "{name} {shown}: {status}");
        }
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_through_the_spool_changes_nothing() {
    let data = directory("injection-spool");
    let flag = format!("--data-dir={}", data.display());
    let (at, pages) = (now(), pages());
    let ids = pages.len() as u64;
    let (engine, clickhouse) = private_engine("injection-engine").await;
    let app = TestApp::start_with(&clickhouse, &fresh_database(), Clock::system(), &[&flag]).await;
    // By choice, and where there is no other way; one by one, and many at once.
    engine.stop().await;
    for (id, page) in (0..).zip(&pages) {
        let mut request = app.request(Method::POST, &format!("/api/traffic/{id}"));
        if id % 2 == 0 {
            request = request.header("prefer", "respond-async");
        }
        let answer = Answer::of(request.json(&view(USER, at, page)).send().await.unwrap()).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{page}: {answer:?}");
        let waiting = app.get(&format!("/api/traffic/{id}")).await;
        assert_eq!(waiting.body["page_url"], page.as_str());
    }
    let lines: Vec<String> = (ids..)
        .zip(&pages)
        .map(|(id, page)| line(id, at, page).to_string())
        .collect();
    let answer = send(&app, Method::POST, "/api/traffic", LINES, lines.join("\n")).await;
    assert_eq!(answer.body["spooled"], ids, "{answer:?}");
    app.stop().await;

    let app = TestApp::start_with(
        &shared_engine(),
        &fresh_database(),
        Clock::system(),
        &[&flag],
    )
    .await;
    let deadline = Instant::now() + Duration::from_secs(30);
    while app.stats().replayed < 2 * ids {
        assert!(Instant::now() < deadline, "{:?}", app.stats().replayed);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    all_reports_have(&app, &pages, 2, 0).await;
    app.stop().await;
}
