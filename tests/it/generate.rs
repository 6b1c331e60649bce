//! `traffic-api generate`: the same again, and all of it counted.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use reqwest::StatusCode;
use serde_json::{Value, json};
use traffic_api::generate::{Shape, Times, Traffic};

use crate::event_reports::{by_interval, read};
use crate::events::counted;
use crate::support::service::{Service, run};
use crate::support::{ClickHouse, TestApp, directory, fresh_database, rfc3339, shared_engine};

const DAY: u32 = 86_400;
const USERS: u32 = 50;

/// A minute ago, so that it is the past for everybody.
fn recently() -> u32 {
    u32::try_from(Utc::now().timestamp()).unwrap() - 60
}

fn shape(views: u64, until: u32) -> Shape {
    Shape {
        seed: 7,
        views,
        users: USERS,
        pages: 40,
        duplicates: 0.1,
        updates: 0.05,
        times: Times::Daily(until - 2 * DAY, until),
    }
}

/// The command for a shape, without a target.
pub fn command(name: &str, shape: &Shape) -> Command {
    let Times::Daily(from, until) = shape.times else {
        panic!("not by days");
    };
    let mut command = Service::command(&directory(name));
    command.arg("generate").args([
        format!("--seed={}", shape.seed),
        format!("--views={}", shape.views),
        format!("--users={}", shape.users),
        format!("--pages={}", shape.pages),
        format!("--duplicates={}", shape.duplicates),
        format!("--days={}", (until - from) / DAY),
        format!("--until={}", rfc3339(i64::from(until))),
    ]);
    command
}

/// The lines that the program prints for a shape.
fn lines(shape: &Shape) -> String {
    let (code, out, err) = run_fully(command("lines", shape));
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains(" lines in "), "{err}");
    out
}

/// Unlike [`run`], for output of any length.
fn run_fully(mut command: Command) -> (Option<i32>, String, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// Views by user, day and page, counted from the lines and the updates.
pub fn expected(shape: &Shape) -> BTreeMap<(u64, String, String), u64> {
    let mut views: BTreeMap<u64, (u64, String, String)> = BTreeMap::new();
    for line in lines(shape).lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let text = |field: &str| line[field].as_str().unwrap().to_owned();
        let id = line["request_id"].as_u64().unwrap();
        let user = line["user_id"].as_u64().unwrap();
        let day = text("created_at")[..10].to_owned();
        let view = (user, day, text("page_url"));
        let known = views.insert(id, view.clone());
        assert!(known.is_none_or(|known| known == view), "{line}");
    }
    assert_eq!(views.len() as u64, shape.views);
    let traffic = Traffic::new(*shape).unwrap();
    let mut updates = 0;
    for update in (0..shape.views).filter_map(|number| traffic.update(number)) {
        updates += 1;
        let day = update.created_at.to_string()[..10].to_owned();
        let page = update.page_url.as_str().to_owned();
        let user = u64::from(update.user_id.get());
        let known = views.insert(update.request_id.get(), (user, day, page));
        assert!(known.is_some());
    }
    assert!(updates > shape.views / 100, "{updates}");
    let mut counts = BTreeMap::new();
    for view in views.into_values() {
        *counts.entry(view).or_default() += 1;
    }
    counts
}

/// What the service's reports say of the users of a shape.
pub async fn reported(address: SocketAddr, shape: &Shape) -> BTreeMap<(u64, String, String), u64> {
    let Times::Daily(from, until) = shape.times else {
        panic!("not by days");
    };
    let day = |at: u32| rfc3339(i64::from(at))[..10].to_owned();
    let (from, to) = (day(from), day(until + DAY));
    let mut counts = BTreeMap::new();
    for user in 1..=u64::from(shape.users) {
        let path = format!("/api/traffic/users/{user}/days?from={from}&to={to}&by=page");
        let report: Value = reqwest::get(format!("http://{address}{path}"))
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        for day in report["days"]
            .as_array()
            .unwrap_or_else(|| panic!("{report}"))
        {
            for (page, views) in day["pages"].as_object().unwrap() {
                let date = day["date"].as_str().unwrap().to_owned();
                counts.insert((user, date, page.clone()), views.as_u64().unwrap());
            }
        }
    }
    counts
}

/// The service as a process, on a given address (port 0: any).
pub fn serve(
    data: &str,
    engine: &ClickHouse,
    database: &str,
    address: SocketAddr,
    node: u16,
) -> Service {
    let mut command = Service::command(&directory(data));
    command
        .env("LISTEN_ADDR", address.to_string())
        .env("CLICKHOUSE_DATABASE", database)
        .args(engine.flags())
        .args([&format!("--node-id={node}"), "--log-level=warn"]);
    Service::spawn(command)
}

pub fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Runs a command beside this test's own tasks.
pub async fn beside(command: Command) -> (Option<i32>, String, String) {
    tokio::task::spawn_blocking(move || run(command))
        .await
        .unwrap()
}

#[tokio::test]
async fn the_same_command_prints_the_same_lines_and_the_service_takes_them_all() {
    let shape = shape(3000, recently());
    let first = lines(&shape);
    assert_eq!(first, lines(&shape));
    assert_ne!(first, lines(&Shape { seed: 8, ..shape }));
    let posts = first.lines().count();
    assert!((3250..3350).contains(&posts), "{posts}");

    let app = TestApp::start().await;
    let answer = app
        .request(reqwest::Method::POST, "/api/traffic")
        .header("content-type", "application/x-ndjson")
        .body(first)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let receipt: Value = answer.json().await.unwrap();
    assert_eq!(receipt["accepted"], posts, "{receipt}");
    let stored = app.sql("SELECT count() FROM traffic FINAL").await;
    assert_eq!(stored, "3000");
    app.stop().await;
}

#[test]
fn a_reader_that_has_seen_enough_ends_it_quietly() {
    let mut command = command("head", &shape(1_000_000_000, recently()));
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert!(line.starts_with('{') && line.ends_with("}\n"), "{line}");
    drop(output);
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{err}");
    assert_eq!(err, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_generated_is_what_reports_count() {
    let (engine, database) = (shared_engine(), fresh_database());
    let mut service = serve("generated", &engine, &database, any_port(), 1);
    let url = format!("http://{}", service.address);
    let shape = shape(1500, recently());
    let expected = expected(&shape);
    // The second time everything is known, and is done once more.
    for style in [&["--compress=gzip", "--batch-size=200"][..], &["--single"]] {
        let mut command = command("generated-client", &shape);
        command
            .args([&format!("--to={url}"), "--updates=0.05"])
            .args(style);
        let (code, out, err) = beside(command).await;
        assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
        assert!(out.starts_with("1500 of 1500 views in "), "{out}");
        assert!(out.contains(" 0 rejected, 0 errors, 0 retries"), "{out}");
        println!("{style:?}: {out}");
        assert_eq!(reported(service.address, &shape).await, expected);
    }
    assert!(tokio::task::block_in_place(|| service.terminate()).success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_killed_and_comes_back_loses_nothing() {
    let (engine, database) = (shared_engine(), fresh_database());
    let mut service = serve("killed", &engine, &database, any_port(), 1);
    let address = service.address;
    let shape = shape(4000, recently());
    let mut command = command("killed-client", &shape);
    command.args([
        &format!("--to=http://{address}"),
        "--updates=0.05",
        "--batch-size=100",
        "--rate=1500",
        "--compress=zstd",
    ]);
    let load = tokio::spawn(beside(command));
    tokio::time::sleep(Duration::from_millis(1200)).await;
    service.kill();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut service =
        tokio::task::block_in_place(|| serve("killed", &engine, &database, address, 1));
    let (code, out, err) = load.await.unwrap();
    println!("{out}{err}");
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(err.contains("trying again"), "{err}");
    assert!(out.contains(" 0 rejected, 0 errors, "), "{out}");
    assert!(!out.contains(" 0 retries"), "{out}");
    assert_eq!(reported(address, &shape).await, expected(&shape));
    assert!(tokio::task::block_in_place(|| service.terminate()).success());
}

#[tokio::test(flavor = "multi_thread")]
async fn live_views_happen_while_they_are_sent() {
    let (engine, database) = (shared_engine(), fresh_database());
    let mut service = serve("live", &engine, &database, any_port(), 1);
    let mut command = Service::command(&directory("live-client"));
    command.args(["generate", "--single", "--rate=50", "--duration=2"]);
    command.args([
        "--duplicates=0",
        &format!("--to=http://{}", service.address),
    ]);
    let begin = Instant::now();
    let (code, out, err) = beside(command).await;
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.starts_with("100 of 100 views in "), "{out}");
    assert!(
        begin.elapsed() > Duration::from_millis(1900),
        "too fast: {out}"
    );
    let times = engine.sql(
        &database,
        "SELECT toUnixTimestamp(created_at) FROM traffic FINAL",
    );
    let times: Vec<i64> = times.await.lines().map(|at| at.parse().unwrap()).collect();
    let now = Utc::now().timestamp();
    assert_eq!(times.len(), 100);
    assert!(
        times.iter().all(|at| (now - 600..now).contains(at)),
        "{times:?}"
    );
    assert!(tokio::task::block_in_place(|| service.terminate()).success());
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_events_are_what_reports_count() {
    let until = recently();
    let command = |name: &str, more: &[&str]| {
        let mut command = Service::command(&directory(name));
        let until = format!("--until={}", rfc3339(until.into()));
        command.args(["generate", "--stream=events", "--visits=800", "--sites=6"]);
        command
            .args(["--days=2", "--duplicates=0.1", &until])
            .args(more);
        command
    };
    let (code, lines, err) = run_fully(command("event-lines", &[]));
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(lines, run_fully(command("event-lines", &[])).1);
    assert_ne!(lines, run_fully(command("event-lines", &["--seed=2"])).1);
    let expected = read(&lines);
    let repeats = lines.lines().count() - expected.len();
    assert!((60..220).contains(&repeats), "{repeats}");

    let app = TestApp::start().await;
    let target = format!("--to={}", app.url(""));
    let range = format!(
        "from={}&to={}&interval=hour",
        rfc3339(i64::from(until - 2 * DAY)),
        rfc3339(i64::from(until + 1))
    );
    // The second time everything is known.
    for style in [&["--compress=gzip", "--batch-size=100"][..], &["--single"]] {
        let (code, out, err) = beside(command("event-client", &[style, &[&target]].concat())).await;
        assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
        assert!(out.starts_with("800 of 800 visits in "), "{out}");
        let accepted = format!(
            " {} accepted with repeats, 0 updated",
            lines.lines().count()
        );
        assert!(out.contains(&accepted), "{out}");
        assert!(out.contains(" 0 rejected, 0 errors, 0 retries"), "{out}");
        assert_eq!(counted(&app, &range).await, by_interval(&expected, 3600));
    }

    // Live: every event has happened when it is sent.
    let mut live = Service::command(&directory("event-live"));
    live.args([
        "generate",
        "--stream=events",
        "--single",
        "--rate=60",
        "--duration=1",
    ]);
    live.arg(&target);
    let (code, out, err) = beside(live).await;
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.starts_with("60 of 60 visits in "), "{out}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_or_refused_fails_the_command() {
    // Nothing listens on a port that was free a moment ago.
    let free = std::net::TcpListener::bind(any_port()).unwrap();
    let nobody = free.local_addr().unwrap();
    drop(free);
    let shape = shape(1000, recently());
    let mut absent = command("nobody", &shape);
    absent.args([&format!("--to=http://{nobody}"), "--retry-secs=0"]);
    let (code, out, err) = beside(absent).await;
    assert_eq!(code, Some(1));
    assert!(out.starts_with("0 of 1000 views"), "{out}");
    assert_eq!(err.lines().count(), 1, "{err}");
    assert!(
        err.contains("1000 views not sent") && err.contains("refused"),
        "{err}"
    );

    // Other views under the same ids.
    let app = TestApp::start().await;
    let target = format!("--to={}", app.url(""));
    let traffic = Traffic::new(shape).unwrap();
    let id = traffic.view(500).request_id.get();
    let other =
        json!({"user_id": 9, "created_at": rfc3339(i64::from(recently())), "page_url": "/x"});
    assert_eq!(app.post(id, &other).await.status, StatusCode::CREATED);
    let mut refused = command("refused", &shape);
    refused.arg(target);
    let (code, out, err) = beside(refused).await;
    assert_eq!(code, Some(1), "{out}");
    assert!(err.contains("rejected: \"request_id\""), "{err}");
    assert!(
        err.contains(" rows were rejected") || err.contains("1 rows"),
        "{err}"
    );
    app.stop().await;

    let mut late = Service::command(&directory("late"));
    let tomorrow: DateTime<Utc> = Utc::now() + chrono::TimeDelta::days(1);
    late.arg("generate")
        .arg(format!("--until={}", rfc3339(tomorrow.timestamp())));
    let (code, _, err) = beside(late).await;
    assert_eq!((code, err.lines().count()), (Some(1), 1), "{err}");
    assert!(err.contains("--until is in the future"), "{err}");
}
