//! Reports on events, against the same counts made here.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use chrono::DateTime;
use reqwest::StatusCode;
use serde_json::{Value, json};
use traffic_api::domain::{
    Clock, CountersQuery, CreatedAt, Event, EventType, Hour, Interval, ReportWindow, Stream,
    VersionSource,
};
use traffic_api::generate::{EventShape, LONGEST_VISIT, Times, Visits, line};
use traffic_api::repository::{
    EventReports, Finding, LEAST_SEAL_DELAY, Plan, Reconciler, Seals, ServerTime,
};

use crate::events::{counted, event, post, post_lines, sites};
use crate::support::{
    TestApp, TestClock, fresh_database, repository, rfc3339, shared_engine, trust_marks_since,
};
use uuid::Uuid;

const DAY: i64 = 86_400;
/// One event as the test reads it: (site, correlation id, type) and its time.
pub type Read = BTreeMap<(String, String, String), i64>;

/// What the service must say, from the lines alone and by code of its own.
pub fn read(lines: &str) -> Read {
    let mut events = Read::new();
    for line in lines.lines().filter(|line| !line.is_empty()) {
        let event: Value = serde_json::from_str(line).unwrap();
        let text = |name: &str| event[name].as_str().unwrap().to_owned();
        let time = text("time");
        let time = DateTime::parse_from_rfc3339(&format!("{}Z", time.trim_end_matches('Z')));
        let key = (text("site_id"), text("correlation_id"), text("type"));
        let time = time.unwrap().timestamp();
        // Sent with several times, an event counts at the earliest.
        let earliest = events.entry(key).or_insert(time);
        *earliest = time.min(*earliest);
    }
    events
}

/// (date, site, type) and how many, by date and site.
pub fn by_interval(events: &Read, seconds: i64) -> Vec<(String, String, String, u64)> {
    let mut counts: BTreeMap<(String, String, String), u64> = BTreeMap::new();
    for ((site, _, of), time) in events {
        let start = rfc3339(time - time.rem_euclid(seconds));
        *counts.entry((start, site.clone(), of.clone())).or_default() += 1;
    }
    let row = |((start, site, of), n)| (start, site, of, n);
    counts.into_iter().map(row).collect()
}

/// Sends lines twice and compares every report with what the lines say.
async fn lines_are_counted(lines: String) {
    let expected = read(&lines);
    let (oldest, newest) = (
        expected.values().min().unwrap(),
        expected.values().max().unwrap(),
    );
    let range = format!("from={}&to={}", rfc3339(*oldest), rfc3339(newest + 1));
    let flags = ["--events-retention-days=0"];
    let app =
        TestApp::start_with(&shared_engine(), &fresh_database(), Clock::system(), &flags).await;
    for _ in 0..2 {
        let receipt = post_lines(&app, lines.clone()).await;
        assert_eq!(receipt.status, StatusCode::OK, "{receipt:?}");
        assert_eq!(receipt.body["rejected_count"], 0, "{receipt:?}");
        assert_eq!(receipt.body["stored"], lines.lines().count());
    }
    for (interval, seconds) in [("day", DAY), ("hour", 3600)] {
        let found = counted(&app, &format!("{range}&interval={interval}")).await;
        assert_eq!(found, by_interval(&expected, seconds), "by {interval}");
    }
    let funnel = app.get(&format!("/v1/report/funnel?{range}")).await.body;
    assert_eq!(
        figures(&funnel),
        figures_of(&expected, |_| true),
        "{funnel}"
    );
    app.stop().await;
}

/// The hundred events of another system, where they are at hand.
#[tokio::test(flavor = "multi_thread")]
async fn real_events_are_counted() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../shared/data/captcha-events.ndjson"
    );
    match std::fs::read_to_string(Path::new(path)) {
        Ok(lines) => lines_are_counted(lines).await,
        Err(_) => println!("SKIPPED: captcha-events.ndjson is not here; generated events stand in"),
    }
}

/// The same for events that nobody made, in a file of the same shape.
#[tokio::test(flavor = "multi_thread")]
async fn generated_events_are_counted() {
    let shape = EventShape {
        seed: 4,
        sites: 9,
        visits: 2_000,
        duplicates: 0.02,
        times: Times::Daily(1_650_000_000, 1_650_000_000 + 12 * 86_400),
    };
    let events: Vec<Event> = Visits::new(shape).posts(0..shape.visits).collect();
    // As in the real ones, some come again with another time.
    let again = |(n, event): (usize, &Event)| {
        let moved = if n % 3 == 0 { 40_000 } else { -40_000 };
        let time = event.time.unix().saturating_add_signed(moved);
        let time = CreatedAt::from_unix(time);
        (n % 16 == 0).then_some(Event { time, ..*event })
    };
    let more: Vec<Event> = events.iter().enumerate().filter_map(again).collect();
    let lines: Vec<String> = events.iter().chain(&more).map(line).collect();
    lines_are_counted(lines.join("\n")).await;
}

/// Served, solved, median and 95th percentile, as text with few digits.
fn figures(funnel: &Value) -> (u64, u64, String, String) {
    let took = |name: &str| {
        let took = &funnel["time_to_solve"];
        took[name]
            .as_f64()
            .map_or("-".to_owned(), |s| format!("{s:.6}"))
    };
    let count = |name: &str| funnel[name].as_u64().unwrap();
    let (served, solved) = (count("served"), count("solved"));
    let rate = funnel["solve_rate"].as_f64();
    match served {
        0 => assert_eq!(rate, None),
        _ => assert!((rate.unwrap() - solved as f64 / served as f64).abs() < 1e-9),
    }
    (served, solved, took("median"), took("p95"))
}

fn figures_of(events: &Read, serve_counts: impl Fn(i64) -> bool) -> (u64, u64, String, String) {
    let (mut served, mut took) = (0, Vec::new());
    for ((site, id, of), at) in events {
        if of != "serve" || !serve_counts(*at) {
            continue;
        }
        served += 1;
        let solve = events.get(&(site.clone(), id.clone(), "solve".to_owned()));
        took.extend(
            solve
                .map(|solve| solve - at)
                .filter(|took| (0..=DAY).contains(took)),
        );
    }
    took.sort_unstable();
    let at = |share: f64| {
        let place = share * (took.len().max(1) - 1) as f64;
        let below = took.get(place.floor() as usize)?;
        let above = took.get(place.ceil() as usize)?;
        Some(*below as f64 + (above - below) as f64 * place.fract())
    };
    let text = |share| at(share).map_or("-".to_owned(), |s| format!("{s:.6}"));
    (served, took.len() as u64, text(0.5), text(0.95))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_funnel_follows_each_serve_to_its_own_solve() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    let (site, other) = (sites(2)[0], sites(2)[1]);
    let day = clock.now() - clock.now() % DAY - 2 * DAY;
    // (site, id, serve, solve), in seconds from the day's beginning.
    let visits = [
        (site, 1, Some(0), Some(7)),
        (site, 2, Some(10), None),
        (site, 3, Some(20), Some(20)),
        // Solved behind the range, but within its time.
        (site, 4, Some(DAY - 1), Some(DAY + 60)),
        // Too late, too early, and never served.
        (site, 5, Some(30), Some(30 + DAY + 1)),
        (site, 6, Some(40), Some(39)),
        (site, 7, None, Some(50)),
        // Served outside of the range.
        (site, 8, Some(-1), Some(5)),
        (site, 9, Some(DAY), Some(DAY + 1)),
        // The same id on another site is another visit.
        (other, 1, Some(0), Some(3)),
        (other, 3, Some(0), None),
    ];
    let mut lines = String::new();
    for (site, id, serve, solve) in visits {
        for (of, at) in [("serve", serve), ("solve", solve)] {
            if let Some(at) = at {
                let event = event(site, of, Uuid::from_u128(id), day + at);
                lines.push_str(&format!("{event}\n{event}\n"));
            }
        }
    }
    assert_eq!(post_lines(&app, lines).await.status, StatusCode::OK);
    let range = format!("from={}&to={}", rfc3339(day), rfc3339(day + DAY));
    let funnel = app.get(&format!("/v1/report/funnel?{range}")).await;
    let seconds = |s: f64| format!("{s:.6}");
    let all = (8, 4, seconds(5.0), seconds(61.0 - 0.15 * 54.0));
    assert_eq!(figures(&funnel.body), all, "{funnel:?}");
    assert_eq!(funnel.body["sites"], json!([]));
    assert!(!funnel.header("data-complete-through").is_empty());

    let named = format!("/v1/report/funnel?{range}&site_id={site}&site_id={other}");
    let funnel = app.get(&named).await.body;
    assert_eq!(figures(&funnel), all);
    let by_site: Vec<_> = funnel["sites"].as_array().unwrap().iter().collect();
    let listed: Vec<&str> = by_site
        .iter()
        .map(|s| s["site_id"].as_str().unwrap())
        .collect();
    let mut expected = [site.to_string(), other.to_string()];
    expected.sort();
    assert_eq!(listed, expected);
    let one = by_site
        .iter()
        .find(|s| s["site_id"] == site.to_string())
        .unwrap();
    assert_eq!(
        figures(one),
        (6, 3, seconds(7.0), seconds(61.0 - 0.1 * 54.0))
    );
    let short = app.get(&format!("{named}&solve_within=6")).await.body;
    assert_eq!(figures(&short), (8, 2, seconds(1.5), seconds(2.85)));

    let nobody = app
        .get(&format!(
            "/v1/report/funnel?{range}&site_id={}",
            Uuid::nil()
        ))
        .await
        .body;
    assert_eq!(figures(&nobody), (0, 0, "-".to_owned(), "-".to_owned()));
    let csv = app
        .request(reqwest::Method::GET, &named)
        .header("accept", "text/csv");
    let csv = csv.send().await.unwrap().text().await.unwrap();
    assert!(
        csv.starts_with("site_id,served,solved,solve_rate,median,p95\r\n,8,4,0.5,5,"),
        "{csv}"
    );
    assert_eq!(csv.lines().count(), 4);
    let bad = app
        .get("/v1/report/funnel?solve_within=0&interval=day&site_id=1")
        .await;
    let mut named = bad.bad_fields();
    named.sort_unstable();
    assert_eq!(named, ["interval", "site_id", "solve_within"]);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_are_chosen_by_site_type_and_time() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    let sites = sites(3);
    let hour = clock.now() - clock.now() % 3600 - 2 * DAY;
    let mut lines = String::new();
    let mut all: Read = Read::new();
    for (id, (site, of)) in
        (0..240).map(|id| (id, (id % 3, ["serve", "solve", "click"][id / 3 % 3])))
    {
        let at = hour + id as i64 * 60;
        let id = Uuid::from_u128(id as u128);
        lines.push_str(&format!("{}\n", event(sites[site], of, id, at)));
        all.insert((sites[site].to_string(), id.to_string(), of.to_owned()), at);
    }
    assert_eq!(post_lines(&app, lines).await.body["stored"], 240);
    let chosen = |keep: &dyn Fn(&str, &str, i64) -> bool| -> Read {
        let kept = all
            .iter()
            .filter(|((site, _, of), at)| keep(site, of, **at));
        kept.map(|(key, at)| (key.clone(), *at)).collect()
    };
    let range = |from: i64, to: i64| format!("from={}&to={}", rfc3339(from), rfc3339(to));
    let everything = range(hour, hour + DAY);
    let expected = by_interval(&all, 3600);
    assert_eq!(
        counted(&app, &format!("{everything}&interval=hour")).await,
        expected
    );
    let (a, b) = (sites[0].to_string(), sites[1].to_string());
    let query = format!("{everything}&interval=hour&site_id={a}&site_id={b}&type=click&type=serve");
    let some = chosen(&|site, of, _| site != sites[2].to_string() && of != "solve");
    assert_eq!(counted(&app, &query).await, by_interval(&some, 3600));
    // Half-open, to the second, within an hour.
    let (from, to) = (hour + 600, hour + 7260);
    let query = format!("{}&interval=hour", range(from, to));
    let inside = chosen(&|_, _, at| (from..to).contains(&at));
    assert_eq!(counted(&app, &query).await, by_interval(&inside, 3600));
    let unknown = format!("/v1/report?{everything}&site_id={}", Uuid::nil());
    assert_eq!(app.get(&unknown).await.body["counters"], json!([]));

    // Types that are left out are not counted as served.
    let clicks = app
        .get(&format!("/v1/report?{everything}&type=click"))
        .await
        .body;
    for counter in clicks["counters"].as_array().unwrap() {
        assert_eq!(
            (&counter["served"], &counter["solved"]),
            (&json!(0), &json!(0))
        );
        assert_eq!(counter["counts"].as_object().unwrap().len(), 1);
    }
    let csv = app.request(
        reqwest::Method::GET,
        &format!("/v1/report?{everything}&limit=1"),
    );
    let csv = csv.header("accept", "text/csv").send().await.unwrap();
    assert!(
        csv.headers()["link"]
            .to_str()
            .unwrap()
            .contains("/v1/report?limit=1&after=")
    );
    let csv = csv.text().await.unwrap();
    assert!(csv.starts_with("date,site_id,type,events\r\n"), "{csv}");

    let bad = app
        .get("/v1/report?site_id=1&type=A&from=x&to=y&interval=total&limit=0&after=1&x=1")
        .await;
    assert_eq!(bad.status, StatusCode::UNPROCESSABLE_ENTITY);
    let named: BTreeSet<&str> = bad.bad_fields().into_iter().collect();
    let every = [
        "after", "from", "interval", "limit", "site_id", "to", "type", "x",
    ];
    assert_eq!(named, every.into_iter().collect());
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_sites_as_a_url_holds() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    let sites = sites(1_440);
    let events = sites.iter().enumerate();
    let events = events.map(|(id, site)| {
        event(*site, "serve", Uuid::from_u128(id as u128), clock.now()).to_string()
    });
    let lines: Vec<String> = events.collect();
    assert_eq!(
        post_lines(&app, lines.join("\n")).await.body["stored"],
        1_440
    );
    let question = |count: usize| -> String {
        let named = sites[..count].iter().map(|site| format!("&site_id={site}"));
        named.collect()
    };
    let found = counted(&app, &question(1_400)[1..]).await;
    assert_eq!(found.len(), 1_400);
    // The way to the next part is short enough for any balancer, in either form of the report.
    let part = async |count: usize, after: &str| {
        let path = format!("/v1/report?limit=1{after}{}", question(count));
        let part = app.request(reqwest::Method::GET, &path);
        part.header("accept", "text/csv").send().await.unwrap()
    };
    for (count, is_linked) in [(30, true), (1_400, false)] {
        let first = part(count, "").await;
        let headers = first.headers().clone();
        let length: usize = headers
            .iter()
            .map(|(n, v)| n.as_str().len() + v.len())
            .sum();
        assert!(length < 3_500, "{count}: {headers:?}");
        assert_eq!(headers.contains_key("link"), is_linked, "{headers:?}");
        let after = format!("&after={}", headers["next-after"].to_str().unwrap());
        let second = part(count, &after).await.text().await.unwrap();
        assert_eq!(second.lines().count(), 2, "{second}");
        assert_ne!(second, first.text().await.unwrap());
    }
    let whole = app.get(&format!("/v1/report?{}", question(1))).await;
    assert!(!whole.headers.contains_key("next-after"));
    // A client of our own, because others refuse to send as much.
    let (address, query) = (
        app.url("").replace("http://", ""),
        question(1_440) + &question(100),
    );
    let status = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        let request = format!(
            "GET /v1/report?{query} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line
    });
    let status = status.await.unwrap();
    assert!(status.starts_with("HTTP/1.1 414 "), "{status}");
    app.stop().await;
}

/// Parts that are read while events come in: what was there all the time is there once.
#[tokio::test(flavor = "multi_thread")]
async fn parts_neither_repeat_nor_skip_while_events_come_in() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    let sites = sites(12);
    let first = clock.now() - clock.now() % DAY - 6 * DAY;
    let post_one = async |id: u32, site: usize, day: i64| {
        let event = event(
            sites[site],
            "click",
            Uuid::from_u128(id.into()),
            first + day * DAY,
        );
        assert_eq!(post(&app, &event).await.status, StatusCode::CREATED);
    };
    let mut id = 0;
    for day in 0..5 {
        for site in (0..12).step_by(2) {
            post_one(id, site, day).await;
            id += 1;
        }
    }
    let range = format!("from={}&to={}", rfc3339(first), rfc3339(first + 6 * DAY));
    let before = counted(&app, &range).await;
    assert_eq!(before.len(), 30);
    let mut keys = Vec::new();
    let mut next = String::new();
    let mut round = 0;
    loop {
        let path = format!("/v1/report?limit=4&{range}{next}");
        let page = app.get(&path).await.body;
        for counter in page["counters"].as_array().unwrap() {
            let text = |name: &str| counter[name].as_str().unwrap().to_owned();
            keys.push((text("date"), text("site_id")));
        }
        // Before and behind where the reader is.
        for (site, day) in [(1, 0), (3, 4), (5, round % 5), (0, 1)] {
            post_one(1000 + id, site, day).await;
            id += 1;
        }
        round += 1;
        match page["next"].as_str() {
            Some(cursor) => next = format!("&after={cursor}"),
            None => break,
        }
    }
    assert!(
        keys.is_sorted_by(|a, b| a < b),
        "in order and none twice: {keys:?}"
    );
    let keys: BTreeSet<_> = keys.into_iter().collect();
    for (date, site, ..) in before {
        assert!(
            keys.contains(&(date.clone(), site.clone())),
            "{date} {site}"
        );
    }
    app.stop().await;
}

/// What no rule of sealing covers: somebody wrote to the counts, or took some away.
#[tokio::test(flavor = "multi_thread")]
async fn counts_that_were_damaged_are_named_and_counted_anew() {
    let (engine, database) = (shared_engine(), fresh_database());
    let flags = [
        "--sealer=false",
        "--events-retention-days=0",
        "--report-plan=view",
    ];
    let app = TestApp::start_with(&engine, &database, Clock::system(), &flags).await;
    trust_marks_since(&engine, &database, Stream::Events, "2020-01-01").await;
    let hour = Hour::containing(u32::try_from(chrono::Utc::now().timestamp()).unwrap() - 9000);
    let site = sites(1)[0];
    let lines: Vec<String> = (0..7)
        .map(|id| event(site, "serve", Uuid::from_u128(id), hour.start().into()).to_string())
        .collect();
    post_lines(&app, lines.join("\n")).await;
    let range = format!(
        "interval=hour&from={}&to={}",
        rfc3339(hour.start().into()),
        rfc3339(hour.end().into())
    );
    let row = |of: &str, n| {
        (
            rfc3339(hour.start().into()),
            site.to_string(),
            of.to_owned(),
            n,
        )
    };
    let seals = Seals::of_events(repository(&engine, &database), LEAST_SEAL_DELAY);
    // Counts hold a row only if they are made a minute after it: the server's clock is given.
    let mut later = seals.now().await.unwrap().millis() + 61_000;
    let mut seal = async || {
        later += 10;
        let as_of = ServerTime::from_millis(later);
        seals.seal(hour, as_of).await.unwrap();
    };
    seal().await;
    let reconciler = Reconciler::new(
        repository(&engine, &database),
        Clock::system(),
        Duration::ZERO,
        10,
    );
    let compare = async || {
        let found = reconciler.compare(0..u32::MAX).await.unwrap();
        let cell = |finding: Finding| match finding {
            Finding::EventCell {
                name,
                counted,
                claimed,
                ..
            } => (name, counted, claimed),
            other => panic!("{other}"),
        };
        let cells = found.findings.named.into_iter().map(cell);
        cells.collect::<Vec<_>>()
    };
    let right = [row("serve", 7)];
    for (damage, of, is, should_be) in [
        (
            "INSERT INTO events_hourly SELECT site_id, hour, 'serve', 3, \
             sealed_at + INTERVAL 1 MILLISECOND FROM events_hourly LIMIT 1",
            "serve",
            3,
            7,
        ),
        (
            "INSERT INTO events_hourly SELECT site_id, hour, 'click', 5, sealed_at \
             FROM events_hourly LIMIT 1",
            "click",
            5,
            0,
        ),
        (
            "ALTER TABLE events_hourly DELETE WHERE 1 SETTINGS mutations_sync = 2",
            "serve",
            0,
            7,
        ),
    ] {
        assert_eq!(counted(&app, &range).await, right);
        assert_eq!(compare().await, []);
        app.sql(damage).await;
        assert_ne!(counted(&app, &range).await, right, "{damage}");
        assert_eq!(compare().await, [(of.to_owned(), is, should_be)]);
        seal().await;
        assert_eq!(counted(&app, &range).await, right, "{damage}");
    }
    // Reconciliation mends as well, also what is younger than now and would outlive a new count.
    app.sql(
        "INSERT INTO events_hourly SELECT site_id, hour, 'serve', 9, sealed_at + INTERVAL 1 HOUR \
         FROM events_hourly LIMIT 1",
    )
    .await;
    assert_eq!(compare().await, [("serve".to_owned(), 9, 7)]);
    let versions = VersionSource::new(77);
    let (_, repaired) = reconciler.repair(0..u32::MAX, &versions).await.unwrap();
    let (mended, after) = repaired.unwrap();
    assert_eq!((mended.hours, after.findings.total()), (1, 0));
    assert_eq!(counted(&app, &range).await, right);
    assert_eq!(
        app.sql("SELECT max(events) FROM events_hourly FINAL").await,
        "7"
    );
    app.stop().await;
}

/// Hours that are sealed, some of them with rows that came later, and hours that are not.
#[tokio::test(flavor = "multi_thread")]
async fn counts_and_claims_say_the_same() {
    let (engine, database) = (shared_engine(), fresh_database());
    let flags = ["--sealer=false", "--events-retention-days=0"];
    let app = TestApp::start_with(&engine, &database, Clock::system(), &flags).await;
    trust_marks_since(&engine, &database, Stream::Events, "2020-01-01").await;
    let until = u32::try_from(chrono::Utc::now().timestamp()).unwrap() - 4000;
    let until = Hour::containing(until).start();
    let shape = |seed, visits| EventShape {
        seed,
        sites: 5,
        visits,
        duplicates: 0.0,
        times: Times::Even(until - 3 * 86_400, until - LONGEST_VISIT),
    };
    let made =
        |shape: EventShape| -> Vec<Event> { Visits::new(shape).posts(0..shape.visits).collect() };
    let send = async |events: Vec<Event>| {
        let lines: Vec<String> = events.iter().map(line).collect();
        assert_eq!(
            post_lines(&app, lines.join("\n")).await.status,
            StatusCode::OK
        );
    };
    let events = made(shape(1, 3_000));
    send(events.clone()).await;
    let seals = Seals::of_events(repository(&engine, &database), LEAST_SEAL_DELAY);
    // Counts hold a row only if they are made a minute after it: the server's clock is given.
    let later = ServerTime::from_millis(seals.now().await.unwrap().millis() + 61_000);
    let survey = seals.survey().await.unwrap();
    assert!(survey.hours.len() >= 71, "{}", survey.hours.len());
    for hour in survey.hours.keys() {
        seals.seal(*hour, later).await.unwrap();
    }
    let [view, claims] = [Plan::View, Plan::Claims]
        .map(|plan| EventReports::new(repository(&engine, &database), plan));
    let window = |from: u32, until: u32| ReportWindow {
        from: CreatedAt::from_unix(from),
        until: CreatedAt::from_unix(until),
    };
    let compare = async |all: &[Event]| {
        for interval in [Interval::Hour, Interval::Day] {
            for (from, until) in [
                (until - 3 * 86_400, until),
                (until - 86_400 - 77, until - 99),
            ] {
                let query = CountersQuery {
                    window: window(from, until),
                    interval,
                    sites: Vec::new(),
                    types: vec![EventType::SERVE, "click".parse().unwrap()],
                    limit: 1000,
                    after: None,
                };
                let found = view.counters(&query).await.unwrap();
                assert_eq!(found, claims.counters(&query).await.unwrap());
                let counts = found.counters.iter().flat_map(|c| &c.counts);
                let counted: u64 = counts.map(|(_, n)| n).sum();
                let inside = all.iter().filter(|e| {
                    query.types.contains(&e.identity.of) && (from..until).contains(&e.time.unix())
                });
                assert_eq!(counted, inside.count() as u64);
            }
        }
    };
    compare(&events).await;
    // It is the counts that were read: without their rows, nothing.
    app.sql("ALTER TABLE events DELETE WHERE 1 SETTINGS mutations_sync = 2")
        .await;
    let query = CountersQuery {
        window: window(until - 3 * 86_400, until),
        interval: Interval::Day,
        sites: Vec::new(),
        types: Vec::new(),
        limit: 1000,
        after: None,
    };
    let counts = view.counters(&query).await.unwrap().counters;
    let of_rows: u64 = counts.iter().flat_map(|c| &c.counts).map(|(_, n)| n).sum();
    assert_eq!(of_rows, events.len() as u64);
    assert!(claims.counters(&query).await.unwrap().counters.is_empty());

    // Late rows bring their hours back to the claims.
    let late = made(shape(2, 40));
    send(events.clone()).await;
    send(late.clone()).await;
    compare(&[events, late].concat()).await;
    app.stop().await;
}
