//! The real engine: fetched (once per user), started, killed, stopped.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use traffic_api::engine::{Endpoint, Engine, Error, Settings};

use crate::support::service::{Service, children, is_gone, signal};
use crate::support::{cache_dir, directory};

const PATIENCE: Duration = Duration::from_secs(15);

fn settings(dir: &Path) -> Settings {
    Settings {
        program: PathBuf::from(env!("CARGO_BIN_EXE_traffic-api")),
        data_path: dir.join("data").join("clickhouse"),
        cache_dir: cache_dir(),
    }
}

async fn started(dir: &Path) -> (Engine, Endpoint, u32) {
    let engine = Engine::embedded(settings(dir)).await.unwrap();
    let endpoint = engine.endpoint().borrow().clone().unwrap();
    let pid = engine.pid().unwrap();
    (engine, endpoint, pid)
}

fn query(endpoint: &Endpoint, sql: &str) -> String {
    query_with(endpoint, "", sql)
}

fn query_with(endpoint: &Endpoint, parameters: &str, sql: &str) -> String {
    let address = endpoint.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "POST /?{parameters} HTTP/1.0\r\nX-ClickHouse-User: {}\r\nX-ClickHouse-Key: {}\r\nContent-Length: {}\r\n\r\n{sql}",
        endpoint.user,
        endpoint.password,
        sql.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.trim().to_owned()
}

fn runs(pid: u32) -> bool {
    !is_gone(pid, Duration::ZERO)
}

fn assert_ends(pid: u32) {
    assert!(is_gone(pid, PATIENCE), "engine {pid} outlives its service");
}

#[tokio::test(flavor = "multi_thread")]
async fn data_outlive_a_clean_stop_and_a_new_start_has_a_new_password() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, endpoint, pid) = started(dir.path()).await;
    assert_eq!(
        query(&endpoint, "CREATE DATABASE traffic ENGINE = Atomic"),
        ""
    );
    assert_eq!(
        query(
            &endpoint,
            "CREATE TABLE traffic.t (n UInt64) ENGINE = MergeTree ORDER BY n"
        ),
        ""
    );
    assert_eq!(
        query(
            &endpoint,
            "INSERT INTO traffic.t SELECT number FROM numbers(1000)"
        ),
        ""
    );
    assert_eq!(query(&endpoint, "SELECT timezone()"), "UTC");
    engine.stop().await;
    assert!(!runs(pid));

    let (engine, again, _) = started(dir.path()).await;
    assert_ne!(again.password, endpoint.password);
    assert_eq!(query(&again, "SELECT count() FROM traffic.t"), "1000");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_can_do_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, endpoint, pid) = started(dir.path()).await;
    for (user, password) in [
        ("default", ""),
        (endpoint.user.as_str(), ""),
        (endpoint.user.as_str(), "guess"),
    ] {
        let stranger = Endpoint {
            url: endpoint.url.clone(),
            user: user.into(),
            password: password.into(),
        };
        for sql in [
            "SELECT 1",
            "SELECT file('/etc/hostname')",
            "SELECT * FROM file('/etc/hostname', 'LineAsString')",
            "SELECT 1 SETTINGS max_sessions_for_user = 0",
            "SYSTEM STOP LISTEN HTTP",
        ] {
            for parameters in [
                "",
                "max_sessions_for_user=0",
                "session_id=x",
                "profile=default",
            ] {
                let answer = query_with(&stranger, parameters, sql);
                let refused = answer.contains("USER_SESSION_LIMIT_EXCEEDED")
                    || answer.contains("AUTHENTICATION_FAILED");
                assert!(refused, "{user} {parameters} {sql}: {answer}");
            }
        }
    }
    assert_eq!(query(&endpoint, "SELECT 1"), "1");
    let command_line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(!command_line.contains(&endpoint.password));
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_engine_is_withdrawn_and_started_again() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, endpoint, pid) = started(dir.path()).await;
    query(&endpoint, "CREATE DATABASE traffic ENGINE = Atomic");
    query(
        &endpoint,
        "CREATE TABLE traffic.t (n UInt64) ENGINE = MergeTree ORDER BY n",
    );
    query(&endpoint, "INSERT INTO traffic.t VALUES (1)");
    let mut published = engine.endpoint();
    published.mark_unchanged();

    let begun = Instant::now();
    signal(pid, "KILL");
    tokio::time::timeout(PATIENCE, published.wait_for(Option::is_none))
        .await
        .unwrap()
        .unwrap();
    println!("withdrawn after {:?}", begun.elapsed());
    let again = tokio::time::timeout(PATIENCE, published.wait_for(Option::is_some))
        .await
        .unwrap()
        .unwrap()
        .clone();
    println!("ready again after {:?}", begun.elapsed());

    assert_eq!(query(&again.unwrap(), "SELECT count() FROM traffic.t"), "1");
    assert_eq!(engine.restarts(), 1);
    assert!(engine.pid().is_some_and(|new| new != pid));
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_engine_is_ended_by_force() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, _, pid) = started(dir.path()).await;
    signal(pid, "STOP");
    engine.stop().await;
    assert!(!runs(pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_engine_ends_the_child() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, _, pid) = started(dir.path()).await;
    drop(engine);
    assert_ends(pid);
}

#[tokio::test(flavor = "multi_thread")]
async fn giving_up_the_start_ends_the_child() {
    let dir = tempfile::tempdir().unwrap();
    let begun = tokio::time::timeout(
        Duration::from_millis(60),
        Engine::embedded(settings(dir.path())),
    )
    .await;
    assert!(begun.is_err(), "the start was faster than this test");
    let (engine, ..) = loop {
        match Engine::embedded(settings(dir.path())).await {
            Err(Error::PathInUse { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
            outcome => break (outcome.unwrap(),),
        }
    };
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_engine_on_one_path_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, endpoint, _) = started(dir.path()).await;
    let error = Engine::embedded(settings(dir.path())).await.unwrap_err();
    assert!(matches!(error, Error::PathInUse { .. }), "{error}");
    // The same where the other one is not a traffic-api.
    std::fs::remove_file(dir.path().join("data/clickhouse/engine.lock")).unwrap();
    let error = Engine::embedded(settings(dir.path())).await.unwrap_err();
    assert!(matches!(error, Error::PathInUse { .. }), "{error}");
    assert_eq!(query(&endpoint, "SELECT 1"), "1");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_the_start_are_told() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("data"), "a file").unwrap();
    let error = Engine::embedded(settings(dir.path())).await.unwrap_err();
    assert!(matches!(error, Error::DataPath { .. }), "{error}");

    let dir = tempfile::tempdir().unwrap();
    let missing = Settings {
        program: dir.path().join("missing"),
        ..settings(dir.path())
    };
    let error = Engine::embedded(missing).await.unwrap_err();
    assert!(matches!(error, Error::Spawn { .. }), "{error}");

    let silent = Settings {
        program: PathBuf::from("/bin/true"),
        ..settings(dir.path())
    };
    let error = Engine::embedded(silent).await.unwrap_err();
    assert!(matches!(error, Error::Start { .. }), "{error}");

    std::fs::create_dir(dir.path().join("data/clickhouse/status")).unwrap();
    let error = Engine::embedded(settings(dir.path())).await.unwrap_err();
    assert!(
        matches!(error, Error::Start { .. }) && !error.to_string().contains('\n'),
        "{error}"
    );
    println!("{error}");
}

#[test]
fn the_engine_does_not_outlive_a_killed_service() {
    let data = directory("killed-service");
    let below_a_shell = || {
        let direct = Service::command(&data);
        let mut shell = Command::new("sh");
        // The command after it keeps the shell from becoming the service itself.
        shell
            .args(["-c", r#""$0"; true"#])
            .arg(direct.get_program())
            .current_dir(&data);
        for (name, value) in direct.get_envs() {
            if let Some(value) = value {
                shell.env(name, value);
            }
        }
        shell
    };
    // Each start but the first finds the path of a service that was just killed.
    for shell in [false, true, false] {
        let command = if shell {
            below_a_shell()
        } else {
            Service::command(&data)
        };
        let mut service = Service::spawn(command);
        let parent = if shell {
            service.children()[0]
        } else {
            service.pid()
        };
        let engines = children(parent);
        assert_eq!(engines.len(), 1);
        signal(parent, "KILL");
        service.wait();
        assert_ends(engines[0]);
    }
}

#[test]
fn a_hung_engine_does_not_outlive_a_killed_service() {
    let mut service = Service::start(&directory("hung-engine"));
    let engine = service.children()[0];
    signal(engine, "STOP");
    service.kill();
    assert_ends(engine);
}
