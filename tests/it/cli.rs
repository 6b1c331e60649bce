//! The program: how it starts, refuses to start, stops, and dies.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::service::{Service, is_gone, run};
use crate::support::{directory, shared_engine, view};

/// The one line that a failed start prints.
fn refusal(command: Command) -> (Option<i32>, String) {
    let (code, _, err) = run(command);
    let lines: Vec<&str> = err.lines().filter(|l| !l.contains(" INFO ")).collect();
    assert_eq!(lines.len(), 1, "{err}");
    assert!(!err.contains("panicked"), "{err}");
    assert!(lines[0].starts_with("traffic-api: "), "{err}");
    (code, lines[0].to_owned())
}

#[test]
fn a_start_that_cannot_succeed_says_why_in_one_line() {
    let data = directory("refused");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let file = data.join("file");
    std::fs::write(&file, "").unwrap();
    // Nothing listens on a port that was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let unreachable = format!("http://{free}");

    let cases: &[(&str, &str, &[&str], i32)] = &[
        (
            "LISTEN_ADDR",
            &address,
            &["LISTEN_ADDR", &address, "in use"],
            1,
        ),
        ("DATA_DIR", file.to_str().unwrap(), &["DATA_DIR", "file"], 1),
        (
            "CLICKHOUSE_URL",
            &unreachable,
            &["CLICKHOUSE_URL", "refused"],
            1,
        ),
        ("RETENTION_DAYS", "0", &["RETENTION_DAYS", "0"], 2),
        ("LISTEN_ADDR", "nowhere", &["LISTEN_ADDR", "nowhere"], 2),
    ];
    for (name, value, words, expected) in cases {
        let mut command = Service::command(&data);
        command.env(name, value);
        let (code, line) = refusal(command);
        assert_eq!(code, Some(*expected), "{line}");
        for word in *words {
            assert!(line.contains(word), "{name}: no {word:?} in {line:?}");
        }
    }

    // To a log that programs read, as its last line.
    let mut command = Service::command(&data);
    command
        .env("CLICKHOUSE_URL", &unreachable)
        .env("LOG_FORMAT", "json");
    let (code, _, err) = run(command);
    assert_eq!(code, Some(1), "{err}");
    let line: serde_json::Value = serde_json::from_str(err.lines().last().unwrap()).unwrap();
    assert_eq!(line["level"], "ERROR");
    assert!(line["message"].as_str().unwrap().contains("refused"));
}

#[test]
fn without_engine_and_npm_the_ways_out_are_named() {
    let data = directory("no-npm");
    let mut command = Service::command(&data);
    command
        .env("ENGINE_CACHE_DIR", data.join("empty-cache"))
        .env("PATH", data.join("no-programs"));
    let (code, line) = refusal(command);
    assert_eq!(code, Some(1));
    for word in ["npm", "CLICKHOUSE_URL", "docker compose --profile dev up"] {
        assert!(line.contains(word), "{line}");
    }
}

#[test]
fn a_wrong_password_is_named() {
    let mut command = Service::command(&directory("password"));
    let engine = shared_engine();
    assert!(!engine.password.is_empty());
    command
        .env("CLICKHOUSE_URL", &engine.url)
        .env("CLICKHOUSE_PASSWORD", "wrong");
    let (code, line) = refusal(command);
    assert_eq!(code, Some(1));
    assert!(
        line.contains("Authentication failed") && line.contains("CLICKHOUSE_URL"),
        "{line}"
    );
}

#[test]
fn a_data_dir_has_one_owner() {
    let data = directory("owned");
    let service = Service::start(&data);
    let (code, line) = refusal(Service::command(&data));
    assert_eq!(code, Some(1));
    assert!(line.contains("already") && line.contains("owned"), "{line}");
    drop(service);
}

#[test]
fn help_and_version_go_to_standard_output() {
    let data = directory("help");
    for (flag, word) in [
        ("--help", "RETENTION_DAYS"),
        ("--version", env!("CARGO_PKG_VERSION")),
    ] {
        let mut command = Service::command(&data);
        command.arg(flag);
        let (code, out, err) = run(command);
        assert_eq!((code, err.as_str()), (Some(0), ""));
        assert!(out.contains(word), "{out}");
        assert!(!out.contains("engine-child"), "{out}");
    }
}

#[test]
fn a_dot_env_file_is_read_and_a_broken_one_refused() {
    let data = directory("dotenv");
    std::fs::write(
        data.join(".env"),
        "RETENTION_DAYS=none\nCLICKHOUSE_READ_URL=\n",
    )
    .unwrap();
    let (code, line) = refusal(Service::command(&data));
    assert_eq!(code, Some(2));
    assert!(line.contains("RETENTION_DAYS"), "{line}");
    std::fs::write(data.join(".env"), "what is this").unwrap();
    let (_, line) = refusal(Service::command(&data));
    assert!(line.contains(".env"), "{line}");
}

async fn post(service: &Service, id: u64, body: &Value) -> u16 {
    let url = service.url(&format!("/api/traffic/{id}"));
    reqwest::Client::new()
        .post(url)
        .json(body)
        .send()
        .await
        .unwrap()
        .status()
        .as_u16()
}

async fn daily(service: &Service, user: u32) -> Value {
    let url = service.url(&format!("/api/traffic/daily/{user}"));
    reqwest::get(url).await.unwrap().json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn views_outlive_stops_and_kills_of_the_service() {
    let data = directory("restarts");
    let now = chrono::Utc::now().timestamp() - 10;
    let mut service = Service::start(&data);
    assert!(service.standard_output.contains("curl"), "says what to try");
    assert_eq!(post(&service, 1, &view(1, now, "/a")).await, 201);
    assert!(service.terminate().success());

    service = Service::start(&data);
    assert_eq!(daily(&service, 1).await, json!({"/a": 1}));
    assert_eq!(post(&service, 2, &view(1, now, "/b")).await, 201);
    let engine = service.children();
    assert_eq!(engine.len(), 1, "one engine process");
    service.kill();
    assert!(
        is_gone(engine[0], Duration::from_secs(10)),
        "the engine outlives the service"
    );

    service = Service::start(&data);
    assert_eq!(daily(&service, 1).await, json!({"/a": 1, "/b": 1}));
    let engine = service.children();
    assert!(service.terminate().success());
    assert!(
        is_gone(engine[0], Duration::from_secs(1)),
        "the engine outlives the service"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configured_clickhouse_needs_no_engine() {
    let data = directory("external");
    let engine = shared_engine();
    let mut command = Service::command(&data);
    command
        .env("CLICKHOUSE_URL", &engine.url)
        .env("CLICKHOUSE_USER", &engine.user)
        .env("CLICKHOUSE_PASSWORD", &engine.password)
        .env("CLICKHOUSE_DATABASE", crate::support::fresh_database())
        .env("PATH", "");
    let mut service = Service::spawn(command);
    let now = chrono::Utc::now().timestamp() - 10;
    assert_eq!(post(&service, 1, &view(1, now, "/a")).await, 201);
    assert_eq!(daily(&service, 1).await, json!({"/a": 1}));
    assert_eq!(service.children(), Vec::<u32>::new());
    assert!(service.terminate().success());
    assert!(!data.join("clickhouse").exists());
}

#[test]
fn migrate_says_what_it_did() {
    let data = directory("migrate");
    let migrate = || {
        let mut command = Service::command(&data);
        command.arg("migrate");
        let (code, out, err) = run(command);
        assert_eq!(code, Some(0), "{err}");
        out
    };
    let first = migrate();
    assert!(first.contains("applied 0001_traffic\n"), "{first}");
    assert_eq!(migrate(), "the schema is up to date\n");
}

#[test]
fn a_start_with_a_warm_cache_fetches_nothing() {
    let data = directory("warm");
    drop(Service::start(&data));
    let start = Instant::now();
    let service = Service::start(&data);
    // Printed for the reader: a bound on time would only measure the machine.
    println!("ready {} ms after the start", start.elapsed().as_millis());
    let mut offline = Service::command(&data);
    offline
        .env("PATH", "")
        .env("DATA_DIR", data.join("another"));
    drop(Service::spawn(offline));
    drop(service);
}

#[test]
fn the_data_are_for_nobody_else() {
    let data = directory("private");
    drop(Service::start(&data));
    for room in ["clickhouse", "spool"] {
        let permissions = std::fs::metadata(data.join(room)).unwrap().permissions();
        assert_eq!(permissions.mode() & 0o077, 0, "{room}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_harms_nothing() {
    let data = directory("deaf");
    let mut command = Service::command(&data);
    let (reader, writer) = std::io::pipe().unwrap();
    command.stderr(writer);
    let mut service = Service::spawn_with_stderr(command);
    drop(reader);
    let engine = service.children();
    crate::support::service::signal(engine[0], "KILL");
    let now = chrono::Utc::now().timestamp() - 10;
    assert_eq!(post(&service, 1, &view(1, now, "/a")).await, 202);
    let deadline = Instant::now() + Duration::from_secs(20);
    while service.children().is_empty() || post(&service, 2, &view(1, now, "/a")).await != 201 {
        assert!(Instant::now() < deadline, "the engine is not restarted");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(service.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_hangs_is_replaced() {
    let data = directory("hanging");
    let mut service = Service::start(&data);
    let engine = service.children()[0];
    crate::support::service::signal(engine, "STOP");
    let now = chrono::Utc::now().timestamp() - 10;
    // The first waits until it may believe that ClickHouse is down, the next is spooled at once.
    assert_eq!(post(&service, 1, &view(1, now, "/a")).await, 202);
    let begin = Instant::now();
    assert_eq!(post(&service, 2, &view(1, now, "/a")).await, 202);
    println!(
        "spooled within {} ms of a hang",
        begin.elapsed().as_millis()
    );
    assert!(
        is_gone(engine, Duration::from_secs(90)),
        "the hung engine lives on"
    );
    let deadline = Instant::now() + Duration::from_secs(30);
    let url = service.url("/api/traffic/daily/1");
    loop {
        let answer = reqwest::get(&url).await.unwrap();
        if answer.status() == 200 && answer.json::<Value>().await.unwrap() == json!({"/a": 2}) {
            break;
        }
        assert!(Instant::now() < deadline, "not replayed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(service.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_stops_at_once() {
    let data = directory("impatient");
    let mut service = Service::start(&data);
    let engine = service.children()[0];
    // A stop that has to wait: the engine does not answer, and a view is on its way to it.
    crate::support::service::signal(engine, "STOP");
    let url = service.url("/api/traffic/1");
    let now = chrono::Utc::now().timestamp() - 10;
    let waiting = tokio::spawn(
        reqwest::Client::new()
            .post(url)
            .json(&view(1, now, "/a"))
            .send(),
    );
    tokio::time::sleep(Duration::from_millis(300)).await;
    crate::support::service::signal(service.pid(), "TERM");
    tokio::time::sleep(Duration::from_millis(300)).await;
    crate::support::service::signal(service.pid(), "INT");
    let status = service.wait();
    assert_eq!(status.code(), Some(1));
    assert!(waiting.await.unwrap().is_err(), "no answer was given");
    assert!(is_gone(engine, Duration::from_secs(10)));
}

#[test]
fn the_spools_commands_bear_anything() {
    let data = directory("operator");
    let spool = |arguments: &[&str]| {
        let mut command = Service::command(&data);
        command.arg("spool").args(arguments);
        run(command)
    };
    assert_eq!(spool(&["list"]), (Some(0), String::new(), String::new()));
    let rejected = data.join("spool").join("rejected");
    std::fs::create_dir_all(&rejected).unwrap();
    std::fs::write(rejected.join("a.jsonl"), "not json").unwrap();
    std::fs::write(rejected.join("b\nwaiting\u{1b}[31m"), "forged").unwrap();
    std::fs::write(rejected.join("c.batch"), "cut").unwrap();
    let (code, out, _) = spool(&["list"]);
    assert_eq!((code, out.lines().count()), (Some(0), 3), "{out}");
    assert!(!out.contains('\u{1b}'), "{out}");
    for arguments in [
        ["show", "../lock"],
        ["show", "nothing"],
        ["drop", "../../x"],
        ["replay", "a.jsonl"],
        ["replay", "c.batch"],
        ["replay", "--all"],
    ] {
        let (code, _, err) = spool(&arguments);
        assert_eq!(
            (code, err.lines().count()),
            (Some(1), 1),
            "{arguments:?}: {err}"
        );
    }
    assert_eq!(spool(&["drop", "c.batch"]).0, Some(0));
    assert_eq!(spool(&["list"]).1.lines().count(), 2);
}
