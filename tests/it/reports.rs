//! The reports as a client reads them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Answer, TestApp, TestClock, fresh_database, rfc3339, shared_engine, view};

const DAY: i64 = 86_400;

/// Midnight UTC of the day of a time.
fn midnight(at: i64) -> i64 {
    at - at % DAY
}

fn date(at: i64) -> NaiveDate {
    DateTime::from_timestamp(at, 0).unwrap().date_naive()
}

async fn post_all(app: &TestApp, views: &[(u32, i64, &str)]) {
    for (id, (user, at, page)) in (1..).zip(views) {
        let answer = app.post(id, &view(*user, *at, page)).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    }
}

async fn csv(app: &TestApp, path: &str) -> (String, reqwest::header::HeaderMap) {
    let request = app.request(Method::GET, path).header("accept", "text/csv");
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let headers = response.headers().clone();
    (response.text().await.unwrap(), headers)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_day_of_a_range_is_listed() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    let today = midnight(clock.now());
    post_all(
        &app,
        &[
            (42, today, "/pricing"),
            (42, today - 1, "/"),
            (42, today - 2, "/pricing"),
            (42, today - 3, "/pricing"),
            (42, today - 5 * DAY, "/a"),
            (42, today - 6 * DAY - 1, "/too-early"),
            (43, today, "/other"),
        ],
    )
    .await;
    let day = |ago: i64| date(today - ago * DAY).to_string();
    let answer = app.get("/api/traffic/users/42/days?by=page").await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let none = json!({});
    assert_eq!(
        answer.body,
        json!({
            "user_id": 42, "tz": "UTC", "from": day(6), "to": day(-1), "views": 5,
            "days": [
                {"date": day(6), "views": 0, "pages": none},
                {"date": day(5), "views": 1, "pages": {"/a": 1}},
                {"date": day(4), "views": 0, "pages": none},
                {"date": day(3), "views": 0, "pages": none},
                {"date": day(2), "views": 0, "pages": none},
                {"date": day(1), "views": 3, "pages": {"/pricing": 2, "/": 1}},
                {"date": day(0), "views": 1, "pages": {"/pricing": 1}},
            ]
        })
    );
    let path = format!("/api/traffic/users/42/days?from={}&to={}", day(1), day(0));
    let answer = app.get(&path).await;
    assert_eq!(answer.body["days"], json!([{"date": day(1), "views": 3}]));
    assert_eq!(app.get("/api/traffic/users/7/days").await.body["views"], 0);

    // Half past six in the evening of UTC is midnight in Kolkata.
    app.post(90, &view(5, today - DAY + 18 * 3600 + 1799, "/a"))
        .await;
    app.post(91, &view(5, today - DAY + 18 * 3600 + 1800, "/b"))
        .await;
    let path = format!(
        "/api/traffic/users/5/days?tz=Asia/Kolkata&by=page&from={}&to={}",
        day(1),
        date(today + DAY)
    );
    let answer = app.get(&path).await;
    assert_eq!(answer.body["tz"], "Asia/Kolkata");
    assert_eq!(
        answer.body["days"],
        json!([
            {"date": day(1), "views": 1, "pages": {"/a": 1}},
            {"date": day(0), "views": 1, "pages": {"/b": 1}}
        ])
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_parameter_is_named() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    let today = date(clock.now());
    let ago = |days: u64| today - Days::new(days);
    let days = "/api/traffic/users/1/days";
    let pages = "/api/traffic/pages";
    let site = "/api/traffic/site";
    let now = clock.now();
    for (path, query, bad) in [
        (
            days,
            "from=x&to=2026-02-30&tz=Mars&by=hour",
            "from to tz by",
        ),
        (days, "from=2026-1-05&zone=UTC", "zone from"),
        (days, "tz=UTC&tz=UTC&from=", "tz from"),
        (days, "tz=europe/berlin", "tz"),
        (days, "%ff=1&by=%ff", "\u{fffd} by"),
        (days, &format!("from={}", ago(90)), "from"),
        (days, &format!("from={}&by=x", ago(90)), "by from"),
        (days, &format!("from={today}&to={today}"), "to"),
        (days, &format!("to={}", ago(89)), "to"),
        (days, &format!("from={}", today + Days::new(1)), "from"),
        (days, "to=9999-12-31", "to"),
        (days, "to=0000-01-01", "to"),
        (
            pages,
            "from=x&to=y&interval=week&limit=0&after=z&next=no&by=page",
            "by from to interval limit next after",
        ),
        (pages, "limit=1001", "limit"),
        (pages, "limit=%2B1", "limit"),
        (pages, "limit=1e2&prefix=%ff", "prefix limit"),
        (pages, &format!("prefix=/{}", "a".repeat(2048)), "prefix"),
        (
            pages,
            &format!("from={}&to={}", rfc3339(now), rfc3339(now)),
            "to",
        ),
        (pages, &format!("from={}", rfc3339(now + 1)), "from"),
        (pages, &format!("from={}", rfc3339(now - 90 * DAY)), "from"),
        (pages, &format!("from={}&limit=", ago(91)), "limit from"),
        (pages, "to=2107-01-01", "to"),
        (pages, "to=1969-01-01", "to"),
        (pages, "to=1970-01-01", "to"),
        (
            site,
            "from=x&to=y&interval=week&limit=1",
            "limit from to interval",
        ),
        (site, &format!("from={}", ago(91)), "from"),
        (site, &format!("from={}", rfc3339(now + 1)), "from"),
        (
            site,
            &format!(
                "from={}&to={}&interval=hour",
                date(now - DAY),
                rfc3339(midnight(now) + 99 * DAY + 1)
            ),
            "interval",
        ),
    ] {
        let answer = app.get(&format!("{path}?{query}")).await;
        assert_eq!(
            answer.status,
            StatusCode::UNPROCESSABLE_ENTITY,
            "{query}: {answer:?}"
        );
        assert_eq!(answer.body["type"], "/problems#invalid-parameters");
        assert_eq!(answer.bad_fields().join(" "), bad, "{query}: {answer:?}");
    }
    // The edges of what is good.
    for (path, query) in [
        (site, String::new()),
        (
            site,
            format!(
                "from={}&interval=day&to={}",
                rfc3339(now - 60),
                date(now + 2398 * DAY)
            ),
        ),
        (
            site,
            format!(
                "from={}&to={}&interval=hour",
                date(now - DAY),
                date(now + 99 * DAY)
            ),
        ),
        (site, "to=2106-02-07&interval=total".to_owned()),
        (
            days,
            format!("from={}&to={}", ago(89), today + Days::new(32)),
        ),
        (days, String::new()),
        (days, format!("to={}", ago(88))),
        (pages, format!("from={}", rfc3339(now - 90 * DAY + 1))),
        (
            pages,
            format!("from={}&to={}&limit=1000", rfc3339(now), rfc3339(now + 1)),
        ),
        (pages, "limit=1&prefix=&next=true&".to_owned()),
        (
            pages,
            format!("from={}", rfc3339(now - 60).replace('Z', "%2B00:00")),
        ),
    ] {
        let answer = app.get(&format!("{path}?{query}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{query}: {answer:?}");
    }
    let answer = app.get("/api/traffic/users/-1/days?by=x").await;
    assert_eq!(answer.body["type"], "/problems#malformed-id");
    app.stop().await;
}

/// Sends the parameters encoded as a client library does.
async fn pages(app: &TestApp, query: &[(&str, &str)]) -> Answer {
    let encoded = |text| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let pairs = query
        .iter()
        .map(|(name, value)| format!("{}={}", encoded(name), encoded(value)));
    let query: Vec<String> = pairs.collect();
    app.get(&format!("/api/traffic/pages?{}", query.join("&")))
        .await
}

fn rows(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.body["pages"].as_array().unwrap().clone()
}

fn urls(answer: &Answer) -> Vec<String> {
    let url = |row: &Value| row["page_url"].as_str().unwrap().to_owned();
    rows(answer).iter().map(url).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_of_the_site_by_interval() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    // Noon of yesterday.
    let noon = midnight(clock.now()) - DAY + 12 * 3600;
    post_all(
        &app,
        &[
            (1, noon, "/a"),
            (2, noon, "/b"),
            (2, noon + 1, "/b"),
            (3, noon + 3599, "/a"),
            (1, noon + 3600, "/c"),
            (1, noon - 1, "/c"),
            (1, noon + 7200, "/left-out"),
        ],
    )
    .await;
    let (from, to) = (rfc3339(noon - 10), rfc3339(noon + 7200));
    let row = |start: i64, page: &str, views: u64, users: u64| json!({"start": rfc3339(start), "page_url": page, "views": views, "users": users});
    let hours = pages(&app, &[("from", &from), ("to", &to), ("interval", "hour")]).await;
    assert_eq!(
        hours.body,
        json!({
            "from": from, "to": to, "interval": "hour", "next": null,
            "pages": [
                row(noon - 3600, "/c", 1, 1),
                row(noon, "/a", 2, 2),
                row(noon, "/b", 2, 1),
                row(noon + 3600, "/c", 1, 1),
            ]
        })
    );
    let days = pages(&app, &[("from", &from), ("to", &to), ("interval", "day")]).await;
    let start = midnight(noon);
    let pages_of_day = |start| {
        [
            row(start, "/a", 2, 2),
            row(start, "/b", 2, 1),
            row(start, "/c", 2, 1),
        ]
    };
    assert_eq!(rows(&days), pages_of_day(start));
    let total = pages(&app, &[("from", &from), ("to", &to)]).await;
    assert_eq!(rows(&total), pages_of_day(noon - 10));
    assert_eq!(total.body["interval"], "total");
    let dates = (date(noon).to_string(), date(noon + DAY).to_string());
    let dates = pages(&app, &[("from", &dates.0), ("to", &dates.1)]).await;
    assert_eq!(dates.body["from"], rfc3339(start));
    assert_eq!(dates.body["to"], rfc3339(start + DAY));
    assert_eq!(rows(&dates).len(), 4);

    // The last 24 hours are those of the daily report.
    let now = clock.now();
    app.post(50, &view(1, now, "/now")).await;
    app.post(51, &view(1, now - DAY + 1, "/first")).await;
    app.post(52, &view(1, now - DAY, "/too-old")).await;
    let answer = pages(&app, &[]).await;
    assert_eq!(answer.body["to"], rfc3339(now + 1));
    let found = urls(&answer);
    assert!(found.contains(&"/now".into()) && found.contains(&"/first".into()));
    assert!(!found.contains(&"/too-old".into()));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_traffic_of_the_site_by_interval() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    // Noon of yesterday.
    let noon = midnight(clock.now()) - DAY + 12 * 3600;
    post_all(
        &app,
        &[
            (1, noon, "/a"),
            (2, noon, "/b"),
            (2, noon + 1, "/a"),
            (3, noon + 3599, "/a"),
            (1, noon + 2 * 3600, "/c"),
            (1, noon - 1, "/c"),
            (9, noon - 11, "/left-out"),
            (9, noon + 3 * 3600, "/left-out"),
        ],
    )
    .await;
    let (from, to) = (rfc3339(noon - 10), rfc3339(noon + 3 * 3600));
    let row = |start: i64, views: u64, users: u64| json!({"start": rfc3339(start), "views": views, "users": users});
    let by = async |interval: &str| {
        let path = format!("/api/traffic/site?from={from}&to={to}&interval={interval}");
        let answer = app.get(&path).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        answer.body
    };
    let hours = [
        row(noon - 3600, 1, 1),
        row(noon, 4, 3),
        row(noon + 3600, 0, 0),
        row(noon + 2 * 3600, 1, 1),
    ];
    assert_eq!(
        by("hour").await,
        json!({"from": from, "to": to, "interval": "hour", "views": 6, "intervals": hours})
    );
    assert_eq!(
        by("day").await["intervals"],
        json!([row(midnight(noon), 6, 3)])
    );
    assert_eq!(
        by("total").await["intervals"],
        json!([row(noon - 10, 6, 3)])
    );
    let (text, headers) = csv(
        &app,
        &format!("/api/traffic/site?from={from}&to={to}&interval=hour"),
    )
    .await;
    let line = |row: &Value| {
        format!(
            "{},{},{}\r\n",
            row["start"].as_str().unwrap(),
            row["views"],
            row["users"]
        )
    };
    let lines: String = hours.iter().map(line).collect();
    assert_eq!(text, format!("start,views,users\r\n{lines}"));
    assert_eq!(headers["rows-spooled"], "0");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_is_text_and_nothing_else() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    let stored = [
        "/%25'--",
        "/%",
        "/_",
        "/\\'a",
        "/\\",
        "/'); DROP TABLE traffic; --",
        "/{prefix:String}?x=?&y=?fields",
        "/\u{202e}\u{5d0}",
        "/\u{1f600}\u{1f3fd}",
        "/\u{1f600}",
        "/a+b c",
        "/A",
        "https://example.org/\"q\"",
    ];
    let all: Vec<(u32, i64, &str)> = stored.iter().map(|page| (1, clock.now(), *page)).collect();
    post_all(&app, &all).await;
    let hostile = [
        "",
        "/",
        "%",
        "/%",
        "/%25",
        "_",
        "/_",
        "/\\",
        "/\\'",
        "'",
        "/'",
        "/' OR 1=1 --",
        "/\0",
        "\0",
        "/\n",
        "\\0",
        "\\x2f",
        "/{prefix:String}",
        "/{",
        "?",
        "/\u{202e}",
        "/\u{1f600}",
        "/\u{1f600}\u{1f3fd}",
        "\u{feff}/",
        "/a+",
        "/a b",
        "/a",
        "2f",
        "https",
        "HTTPS",
        "\\N",
        "NULL",
        "/\t",
        "\u{fffd}",
    ];
    for prefix in hostile {
        let answer = pages(&app, &[("prefix", prefix)]).await;
        let mut expected: Vec<&str> = stored.to_vec();
        expected.retain(|page| page.starts_with(prefix));
        expected.sort_unstable();
        assert_eq!(urls(&answer), expected, "{prefix:?}");
    }
    // A character cut in half is not text.
    let answer = app.get("/api/traffic/pages?prefix=/%F0%9F").await;
    assert_eq!(answer.bad_fields(), ["prefix"]);
    assert_eq!(
        app.sql("SELECT count() FROM traffic").await,
        stored.len().to_string()
    );
    app.stop().await;
}

/// Two instances on one database, with pages of 1 to 40 views.
async fn two_nodes_and_forty_pages(clock: &TestClock) -> [TestApp; 2] {
    let (engine, database) = (shared_engine(), fresh_database());
    let nodes = [
        TestApp::start_with(&engine, &database, clock.behind(0), &["--node-id=1"]).await,
        TestApp::start_with(&engine, &database, clock.behind(0), &["--node-id=2"]).await,
    ];
    let at = clock.now() - 3 * 3600;
    let values: Vec<String> = (0..820_u32)
        .map(|id| {
            // 1 + 2 + ... + 40 = 820.
            let page = (1..=40).find(|n| id < n * (n + 1) / 2).unwrap();
            format!("({id}, {}, {at}, '/{page:02}', 0, 0)", id % 7)
        })
        .collect();
    let sql = format!("INSERT INTO traffic VALUES {}", values.join(", "));
    nodes[0].sql(&sql).await;
    nodes
}

/// What comes in while somebody reads: late rows, updates and deletions that change every order.
async fn disturb(app: &TestApp, clock: &TestClock, round: u64) {
    let at = clock.now() - 5 * 3600;
    let late: Vec<String> = (0..60)
        .map(|n| {
            format!(
                "({}, 9, {at}, '/{:02}', 0, 0)",
                10_000 + round * 100 + n,
                41 - round % 40
            )
        })
        .collect();
    app.sql(&format!("INSERT INTO traffic VALUES {}", late.join(", ")))
        .await;
    let moved = view(8, at, "/new");
    assert_eq!(app.put(round, &moved).await.status, StatusCode::OK);
    assert_eq!(app.delete(819 - round).await.status, StatusCode::NO_CONTENT);
    assert_eq!(
        app.post(20_000 + round, &view(1, at, "/99")).await.status,
        StatusCode::CREATED
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_answer_is_of_one_moment_whatever_comes_in() {
    let clock = TestClock::frozen();
    let nodes = two_nodes_and_forty_pages(&clock).await;
    let whole = rows(&pages(&nodes[0], &[("limit", "1000")]).await);
    assert_eq!(whole.len(), 40);

    let mut answer = pages(&nodes[0], &[("limit", "7")]).await;
    let complete = answer.header("data-complete-through").to_owned();
    let mut read = rows(&answer);
    let mut round = 0;
    while let Some(next) = answer.body["next"].as_str().map(str::to_owned) {
        disturb(&nodes[0], &clock, round).await;
        round += 1;
        let link = format!("</api/traffic/pages?limit=7&after={next}>; rel=\"next\"");
        assert_eq!(answer.header("link"), link);
        // On whichever instance, as often as one likes.
        let query = [("after", next.as_str()), ("limit", "7")];
        let node = &nodes[usize::try_from(round % 2).unwrap()];
        answer = pages(node, &query).await;
        assert_eq!(answer.body, pages(&nodes[0], &query).await.body);
        assert_eq!(answer.header("data-complete-through"), complete);
        read.extend(rows(&answer));
    }
    assert_eq!(answer.header("link"), "");
    assert_eq!((round, read.len()), (5, 40));
    assert_eq!(read, whole);
    for node in nodes {
        node.stop().await;
    }
}

/// The control of the test above: the same disturbances, read by position in the current answer.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_snapshot_pages_are_repeated_and_skipped() {
    let clock = TestClock::frozen();
    let nodes = two_nodes_and_forty_pages(&clock).await;
    let whole = urls(&pages(&nodes[0], &[("limit", "1000")]).await);
    let mut read = Vec::new();
    for round in 0..6 {
        let limit = (7 * (round + 1)).to_string();
        let answer = pages(&nodes[0], &[("limit", &limit), ("next", "false")]).await;
        assert_eq!(answer.body["next"], Value::Null);
        read.extend(
            urls(&answer)
                .into_iter()
                .skip(7 * usize::try_from(round).unwrap()),
        );
        disturb(&nodes[0], &clock, round).await;
    }
    let distinct: BTreeSet<&String> = read.iter().collect();
    assert!(distinct.len() < read.len(), "{read:?}");
    assert!(
        whole.iter().any(|page| !distinct.contains(page)),
        "{read:?}"
    );
    assert_eq!(
        nodes[0]
            .sql("SELECT count() FROM traffic_pages_snapshots")
            .await,
        "0"
    );
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_stands_for_its_question_for_an_hour() {
    let clock = TestClock::frozen();
    let [app, other] = two_nodes_and_forty_pages(&clock).await;
    let now = clock.now();
    let from = rfc3339(now - 20 * 3600);
    let question = [
        ("from", from.as_str()),
        ("interval", "day"),
        ("prefix", "/0"),
    ];
    let first = pages(&app, &[&question[..], &[("limit", "2")]].concat()).await;
    let after = first.body["next"].as_str().unwrap();
    let alone = pages(&app, &[("after", after), ("limit", "2")]).await;
    assert_eq!(urls(&alone), ["/07", "/06"]);
    assert_eq!(alone.body["from"], first.body["from"]);
    assert_eq!(alone.body["interval"], "day");
    let again = pages(
        &app,
        &[&question[..], &[("after", after), ("limit", "3")]].concat(),
    )
    .await;
    assert_eq!(urls(&again), ["/07", "/06", "/05"]);

    let query = [
        ("after", after),
        ("from", "2026-01-01"),
        ("interval", "hour"),
        ("prefix", "/1"),
        ("to", &from),
        ("limit", "x"),
    ];
    let differs = pages(&app, &query).await;
    assert_eq!(differs.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        differs.bad_fields(),
        ["limit", "from", "to", "interval", "prefix"]
    );
    let damaged = pages(&app, &[("after", &after[..after.len() - 1])]).await;
    assert_eq!(
        (damaged.status.as_u16(), damaged.bad_fields()),
        (422, vec!["after"])
    );

    let elsewhere = TestApp::start_at(&clock).await;
    let foreign = pages(&elsewhere, &[("after", after)]).await;
    assert_eq!(foreign.status, StatusCode::GONE, "{foreign:?}");
    elsewhere.stop().await;

    clock.set(now + 3600);
    assert_eq!(
        pages(&app, &[("after", after)]).await.status,
        StatusCode::OK
    );
    clock.set(now + 3601);
    let expired = pages(&app, &[("after", after)]).await;
    assert_eq!(expired.status, StatusCode::GONE);
    assert_eq!(expired.body["type"], "/problems#cursor-expired");
    clock.set(now);
    app.sql("TRUNCATE TABLE traffic_pages_snapshots").await;
    assert_eq!(
        pages(&app, &[("after", after)]).await.status,
        StatusCode::GONE
    );
    app.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_says_what_json_says() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    let at = clock.now() - 60;
    let odd = "/a,b \"c\" 'd';=1+1\u{202e}\u{1f600}";
    post_all(
        &app,
        &[
            (1, at, odd),
            (1, at, odd),
            (1, at, "/b"),
            (2, at, "/b"),
            (2, at, "/c"),
        ],
    )
    .await;

    let read = |text: &str| -> Vec<Vec<String>> {
        assert!(text.ends_with("\r\n"), "{text:?}");
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .from_reader(text.as_bytes());
        let records = reader
            .records()
            .map(|r| r.unwrap().iter().map(str::to_owned).collect());
        records.collect()
    };
    let (text, headers) = csv(&app, "/api/traffic/daily/1").await;
    assert_eq!(
        headers["content-type"],
        "text/csv; charset=utf-8; header=present"
    );
    assert_eq!(
        read(&text),
        [vec!["page_url", "views"], vec![odd, "2"], vec!["/b", "1"]]
    );
    assert_eq!(
        csv(&app, "/api/traffic/daily/9").await.0,
        "page_url,views\r\n"
    );

    let path = "/api/traffic/users/1/days";
    let days = app.get(path).await.body["days"].as_array().unwrap().clone();
    let mut expected = vec![vec!["date".to_owned(), "views".to_owned()]];
    let cell = |value: &Value| {
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    };
    expected.extend(
        days.iter()
            .map(|d| vec![cell(&d["date"]), cell(&d["views"])]),
    );
    assert_eq!(read(&csv(&app, path).await.0), expected);
    let day = date(at).to_string();
    let by_page = read(&csv(&app, &format!("{path}?by=page")).await.0);
    assert_eq!(by_page[0], ["date", "page_url", "views"]);
    assert_eq!(by_page[1..], [[day.as_str(), odd, "2"], [&day, "/b", "1"]]);

    let path = "/api/traffic/pages?interval=hour&limit=2";
    let (text, headers) = csv(&app, path).await;
    let json = rows(&app.get(path).await);
    let columns = ["start", "page_url", "views", "users"];
    let line = |row: &Value| columns.map(|column| cell(&row[column]));
    assert_eq!(read(&text)[0], columns);
    assert_eq!(read(&text)[1..], [line(&json[0]), line(&json[1])]);
    let link = headers["link"].to_str().unwrap();
    let next = link.trim_start_matches('<').split('>').next().unwrap();
    let (rest, _) = csv(&app, next).await;
    assert_eq!(read(&rest).len(), 2, "{rest}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_report_is_not_sent_again() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    app.post(1, &view(1, clock.now() - 60, "/a")).await;
    let conditional = async |path: &str, tag: &str, accept: &str| {
        let request = app.request(Method::GET, path).header("if-none-match", tag);
        request.header("accept", accept).send().await.unwrap()
    };
    let paths = [
        "/api/traffic/daily/1",
        "/api/traffic/users/1/days",
        "/api/traffic/pages",
        "/api/traffic/site",
    ];
    for (id, path) in (10..).step_by(10).zip(paths) {
        let first = app.get(path).await;
        let tag = first.header("etag").to_owned();
        assert!(tag.starts_with('"') && tag.len() == 34, "{tag}");
        for (name, value) in [
            ("cache-control", "private, no-cache"),
            ("vary", "accept"),
            ("rows-spooled", "0"),
        ] {
            assert_eq!(first.header(name), value);
        }
        let through = first.header("data-complete-through");
        let through = DateTime::parse_from_rfc3339(through).unwrap().timestamp();
        assert!((clock.now()..clock.now() + 120).contains(&through));

        let listed = format!("\"x\", W/{tag}");
        for known in [tag.as_str(), "*", &listed] {
            let again = conditional(path, known, "*/*").await;
            assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{known}");
            for name in [
                "etag",
                "cache-control",
                "vary",
                "rows-spooled",
                "data-complete-through",
            ] {
                assert!(again.headers().contains_key(name), "{name}");
            }
            assert_eq!(again.headers()["etag"], tag);
            assert_eq!(again.text().await.unwrap(), "");
        }
        for (known, accept) in [("\"x\"", "*/*"), (tag.as_str(), "text/csv")] {
            let answer = conditional(path, known, accept).await;
            assert_eq!(answer.status(), StatusCode::OK);
            assert_eq!(answer.headers()["etag"] != tag, accept == "text/csv");
        }
        // It goes with the report, and comes back with it.
        let extra = view(1, clock.now() - 60, "/a");
        app.post(id, &extra).await;
        assert_ne!(app.get(path).await.header("etag"), tag);
        app.delete(id).await;
        let back = app.get(path).await;
        assert_eq!(
            (back.header("etag"), &back.body),
            (tag.as_str(), &first.body)
        );
        // It stays when other things happen.
        app.post(id, &extra).await;
        app.post(1, &extra).await;
        let old = view(1, clock.now() - 40 * DAY, "/a");
        app.post(id + 1, &old).await;
        assert_eq!(app.get(path).await.header("etag"), tag);
    }
    for path in paths {
        let answer = conditional(path, "*", "text/html;q=0.9, application/xml").await;
        assert_eq!(answer.status(), StatusCode::NOT_ACCEPTABLE);
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_says_what_waits_in_the_spool() {
    let app = TestApp::start().await;
    let at = Utc::now().timestamp() - 60;
    app.post(1, &view(1, at, "/a")).await;
    let through = |answer: &Answer| {
        let text = answer.header("data-complete-through");
        DateTime::parse_from_rfc3339(text).unwrap().to_utc()
    };
    let spooled = |answer: &Answer| answer.header("rows-spooled").parse::<u64>().unwrap();

    // ClickHouse answers reports and takes no views.
    app.sql("RENAME TABLE traffic_by_request TO traffic_by_request_away")
        .await;
    let before = Utc::now();
    for id in 2..7 {
        let answer = app.post(id, &view(1, at, "/a")).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    }
    let acknowledged = Utc::now();
    tokio::time::sleep(Duration::from_millis(50)).await;
    for path in ["/api/traffic/daily/1", "/api/traffic/users/1/days?by=page"] {
        let answer = app.get(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        assert_eq!(spooled(&answer), 5);
        assert!(through(&answer) >= before - TimeDelta::milliseconds(1));
        assert!(through(&answer) <= acknowledged);
    }
    app.sql("RENAME TABLE traffic_by_request_away TO traffic_by_request")
        .await;
    let patience = Instant::now() + Duration::from_secs(30);
    loop {
        let answer = app.get("/api/traffic/daily/1").await;
        if spooled(&answer) == 0 {
            // Nothing waited when it was read, so everything is in.
            assert_eq!(answer.body, json!({"/a": 6}));
            assert!(through(&answer) > acknowledged);
            break;
        }
        assert!(through(&answer) <= acknowledged, "{answer:?}");
        assert!(Instant::now() < patience);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_too_long_is_refused_unless_its_top_is_enough() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    let at = clock.now() - 60;
    let sql = format!(
        "INSERT INTO traffic SELECT number, 1, toDateTime({at}, 'UTC'), \
         concat('/', toString(number)), 0, 0 FROM numbers(1000001)"
    );
    app.sql(&sql).await;
    let refused = pages(&app, &[("limit", "1")]).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(refused.body["type"], "/problems#answer-too-long");
    let top = pages(&app, &[("limit", "1"), ("next", "false")]).await;
    assert_eq!(
        (urls(&top), &top.body["next"]),
        (vec!["/0".to_owned()], &Value::Null)
    );
    let narrow = pages(&app, &[("limit", "1"), ("prefix", "/99999")]).await;
    assert_eq!(urls(&narrow), ["/99999"]);
    app.stop().await;
}
