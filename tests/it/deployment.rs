//! The files under `deploy/`, as far as they can run without containers: the configuration of
//! ClickHouse on a real engine, and the whole life of the service with the grants that we ship.

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use chrono::Utc;
use reqwest::Method;
use serde_json::{Value, json};
use traffic_api::engine;

use crate::support::service::{Service, run};
use crate::support::{
    ClickHouse, cache_dir, directory, fresh_database, rfc3339, shared_engine, view,
};

/// What the files take from the environment, as docker-compose.yml gives it.
const ENVIRONMENT: [(&str, &str); 8] = [
    ("CLICKHOUSE_MIGRATOR_PASSWORD", "m"),
    ("CLICKHOUSE_WRITER_PASSWORD", "w"),
    ("CLICKHOUSE_READER_PASSWORD", "r"),
    ("CLICKHOUSE_INTERSERVER_PASSWORD", "i"),
    ("CLICKHOUSE_CLUSTER_SECRET", "c"),
    ("CLICKHOUSE_HOST", "clickhouse-1-2"),
    ("CLICKHOUSE_SHARD", "1"),
    ("CLICKHOUSE_REPLICA", "2"),
];

/// The console's user, without which the embedded engine can't run, and one that may do everything.
const OWN_USERS: &str = "<clickhouse>
  <profiles>
    <default/>
    <console><max_sessions_for_user>1</max_sessions_for_user></console>
  </profiles>
  <quotas><default/></quotas>
  <users>
    <default>
      <password></password>
      <networks><ip>127.0.0.1</ip></networks>
      <profile>console</profile>
      <quota>default</quota>
      <grants>
        <query>GRANT SYSTEM LISTEN ON *.*</query>
        <query>GRANT CREATE TEMPORARY TABLE ON *.*</query>
        <query>GRANT READ ON FILE</query>
      </grants>
    </default>
    <admin>
      <password>a</password>
      <networks><ip>127.0.0.1</ip></networks>
      <profile>default</profile>
      <quota>default</quota>
    </admin>
  </users>
</clickhouse>";

fn shipped(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// An engine that is configured by the files of `deploy/clickhouse`.
struct Configured {
    child: Child,
    url: String,
}

impl Configured {
    /// `own` is added to the configuration.
    async fn start(name: &str, own: &str) -> Self {
        Self::start_with(name, own, &[]).await
    }

    /// With more of the files, which go to `config.d`.
    async fn start_with(name: &str, own: &str, more: &[&str]) -> Self {
        let home = directory(name);
        for folder in ["config.d", "users.d", "data"] {
            std::fs::create_dir_all(home.join(folder)).unwrap();
        }
        for file in [
            "config.d/server.xml",
            "config.d/system-logs.xml",
            "users.d/traffic-users.xml",
        ] {
            let from = shipped("deploy/clickhouse").join(file);
            std::fs::copy(from, home.join(file)).unwrap();
        }
        for file in more {
            let name = Path::new(file).file_name().unwrap();
            let from = shipped("deploy/clickhouse").join(file);
            std::fs::copy(from, home.join("config.d").join(name)).unwrap();
        }
        let config =
            format!("<clickhouse><users_config>users.xml</users_config>{own}</clickhouse>");
        std::fs::write(home.join("config.xml"), config).unwrap();
        std::fs::write(home.join("users.xml"), OWN_USERS).unwrap();

        let port = free_port();
        let library = engine::library(&cache_dir()).await.unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_traffic-api"))
            .args([engine::CHILD_SUBCOMMAND.as_ref(), library.as_os_str()])
            .arg(std::process::id().to_string())
            .args(["--config-file=config.xml", "--listen_host=127.0.0.1"])
            .arg(format!("--http_port={port}"))
            .arg(format!("--path={}", home.join("data").display()))
            .arg(format!("--logger.log={}", home.join("log").display()))
            .arg("--log-level=information")
            .arg(
                "--query=SYSTEM START LISTEN HTTP; \
                 SELECT count() FROM file('/dev/stdin', 'LineAsString') FORMAT Null",
            )
            .envs(ENVIRONMENT)
            .current_dir(&home)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let server = Self {
            child,
            url: format!("http://127.0.0.1:{port}"),
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        while reqwest::get(format!("{}/ping", server.url)).await.is_err() {
            assert!(Instant::now() < deadline, "no engine: {}", home.display());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        server
    }

    /// What one of the users is answered.
    async fn ask(&self, user: &str, sql: &str) -> Result<String, String> {
        let passwords = [
            ("traffic_migrator", "m"),
            ("traffic_writer", "w"),
            ("traffic_reader", "r"),
            ("admin", "a"),
        ];
        let (_, password) = passwords.iter().find(|(name, _)| *name == user).unwrap();
        let response = reqwest::Client::new()
            .post(&self.url)
            .basic_auth(user, Some(password))
            .body(sql.to_owned())
            .send()
            .await
            .unwrap();
        let good = response.status().is_success();
        let text = response.text().await.unwrap().trim_end().to_owned();
        if good { Ok(text) } else { Err(text) }
    }

    /// The program as it is configured in a container: the user from the environment.
    fn program(&self, user: &str, password: &str, data: &Path) -> Command {
        let mut command = Service::command(data);
        command
            .env("CLICKHOUSE_URL", &self.url)
            .env("CLICKHOUSE_USER", user)
            .env("CLICKHOUSE_PASSWORD", password)
            .env("SEAL_DELAY_SECS", "3600");
        command
    }

    fn writer(&self, data: &Path) -> Command {
        let mut command = self.program("traffic_writer", "w", data);
        command.env("MIGRATE_ON_START", "false");
        command
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

async fn call(service: &Service, method: Method, path: &str, body: Option<&Value>) -> (u16, Value) {
    let mut request = reqwest::Client::new().request(method, service.url(path));
    if let Some(body) = body {
        request = request.json(body);
    }
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::Null))
}

/// In both ways in which a server may run our materialized views.
#[tokio::test(flavor = "multi_thread")]
async fn the_service_lives_with_the_grants_that_we_ship() {
    live("grants-none", "1").await;
    live("grants-definer", "0").await;
}

async fn live(name: &str, ignore_empty_sql_security: &str) {
    let option = format!(
        "<ignore_empty_sql_security_in_create_view_query>{ignore_empty_sql_security}\
         </ignore_empty_sql_security_in_create_view_query>"
    );
    let server = Configured::start(name, &option).await;
    let data = directory(&format!("{name}-data"));

    let (code, _, err) = run(server.writer(&data));
    assert_eq!(code, Some(1));
    assert!(err.contains("traffic-api migrate"), "{err}");
    // Without the switch the writer would try to migrate, and may not.
    let (code, _, err) = run(server.program("traffic_writer", "w", &data));
    assert_eq!(code, Some(1));
    assert!(err.contains("Not enough privileges"), "{err}");
    let mut migrate = server.program("traffic_migrator", "m", &data);
    migrate.arg("migrate");
    let (code, out, err) = run(migrate);
    assert_eq!(code, Some(0), "{out}{err}");

    let mut service = Service::spawn(server.writer(&data));
    let now = Utc::now().timestamp();
    let earlier = now - 3 * 3600;
    for (id, time, page) in [(1, earlier, "/a"), (2, now - 1, "/b"), (3, now - 1, "/c")] {
        let body = view(42, time, page);
        let (status, answer) = call(
            &service,
            Method::POST,
            &format!("/api/traffic/{id}"),
            Some(&body),
        )
        .await;
        assert_eq!(status, 201, "{answer}");
    }
    let body = view(42, earlier, "/moved");
    let (status, answer) = call(&service, Method::PUT, "/api/traffic/1", Some(&body)).await;
    assert_eq!(status, 200, "{answer}");
    let (status, _) = call(&service, Method::DELETE, "/api/traffic/3", None).await;
    assert_eq!(status, 204);

    let expected = json!({"/b": 1, "/moved": 1});
    let daily = "/api/traffic/daily/42";
    assert_eq!(
        call(&service, Method::GET, daily, None).await,
        (200, expected.clone())
    );
    let (status, days) = call(&service, Method::GET, "/api/traffic/users/42/days", None).await;
    assert_eq!((status, &days["views"]), (200, &json!(2)));
    let (status, site) = call(&service, Method::GET, "/api/traffic/site", None).await;
    assert_eq!((status, &site["views"]), (200, &json!(2)));
    // A first part with a rest is written down as a snapshot.
    let (status, first) = call(&service, Method::GET, "/api/traffic/pages?limit=1", None).await;
    assert_eq!(status, 200, "{first}");
    let next = format!(
        "/api/traffic/pages?after={}",
        first["next"].as_str().unwrap()
    );
    let (status, rest) = call(&service, Method::GET, &next, None).await;
    assert_eq!(
        (status, rest["pages"].as_array().unwrap().len()),
        (200, 1),
        "{rest}"
    );

    let site = "c1a7e5d0-3b52-4f86-9d41-5e0f7a2b6c93";
    for (of, time) in [("serve", earlier), ("solve", earlier + 7)] {
        let body = json!({
            "site_id": site,
            "type": of,
            "correlation_id": "e2b40c71-8d6f-4a15-b3c9-70f4a1d85e26",
            "time": rfc3339(time),
        });
        let (status, answer) = call(&service, Method::POST, "/v1/events", Some(&body)).await;
        assert_eq!(status, 201, "{answer}");
    }
    let (status, report) = call(&service, Method::GET, "/v1/report", None).await;
    let events: Option<u64> = report["counters"].as_array().map(|counters| {
        let solved = counters.iter().map(|counter| counter["solved"].as_u64());
        solved.flatten().sum()
    });
    assert_eq!((status, events), (200, Some(1)), "{report}");
    let (status, funnel) = call(&service, Method::GET, "/v1/report/funnel", None).await;
    assert_eq!((status, &funnel["solved"]), (200, &json!(1)), "{funnel}");

    let body = view(43, earlier, "/gone");
    let (status, answer) = call(&service, Method::POST, "/api/traffic/4", Some(&body)).await;
    assert_eq!(status, 201, "{answer}");
    let (status, erased) = call(&service, Method::DELETE, "/api/users/43/traffic", None).await;
    assert_eq!(status, 200, "{erased}");
    let of_43 = "SELECT count() FROM traffic.traffic WHERE user_id = 43";
    assert_eq!(server.ask("traffic_reader", of_43).await.unwrap(), "0");

    let mut seal = server.writer(&data);
    seal.args([
        "seal",
        "--from",
        &rfc3339(now - 5 * 3600),
        "--to",
        &rfc3339(now),
    ]);
    let (code, out, err) = run(seal);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(!out.contains("\n0 hours"), "{out}");
    // The sealer's statement for late rows, which come too late for this test.
    let hour = earlier / 3600 * 3600;
    let late = format!(
        "INSERT INTO traffic.traffic_seal_late_users \
         SELECT toDateTime({hour}, 'UTC'), now64(3, 'UTC'), 60000"
    );
    server.ask("traffic_writer", &late).await.unwrap();
    let counted = "SELECT sum(total) FROM traffic.traffic_hourly FINAL";
    assert_eq!(server.ask("traffic_reader", counted).await.unwrap(), "1");
    let counted = "SELECT sum(events) FROM traffic.events_hourly FINAL";
    assert_eq!(server.ask("traffic_reader", counted).await.unwrap(), "2");

    for (user, password, options) in [
        ("traffic_writer", "w", &["reconcile", "--patience=0"][..]),
        (
            "traffic_migrator",
            "m",
            &["reconcile", "--patience=0", "--repair"],
        ),
    ] {
        let mut reconcile = server.program(user, password, &data);
        reconcile.env("MIGRATE_ON_START", "false").args(options);
        let (code, out, err) = run(reconcile);
        assert_eq!(code, Some(0), "{user}: {out}{err}");
    }
    assert!(service.terminate().success());

    // Else the log would not exist yet, which is another refusal.
    server.ask("admin", "SYSTEM FLUSH LOGS").await.unwrap();
    for (user, sql) in [
        (
            "traffic_writer",
            "INSERT INTO traffic.traffic_by_request SELECT * FROM traffic.traffic_by_request",
        ),
        (
            "traffic_writer",
            "INSERT INTO traffic.traffic_hourly SELECT * FROM traffic.traffic_hourly",
        ),
        (
            "traffic_writer",
            "INSERT INTO traffic.schema_migrations (version) VALUES (99)",
        ),
        // It deletes rows of those who are erased.
        (
            "traffic_writer",
            "ALTER TABLE traffic.events DELETE WHERE 1",
        ),
        (
            "traffic_writer",
            "ALTER TABLE traffic.traffic UPDATE version = 1 WHERE 1",
        ),
        (
            "traffic_writer",
            "ALTER TABLE traffic.events DROP PARTITION '2026-01-01'",
        ),
        ("traffic_writer", "TRUNCATE TABLE traffic.traffic"),
        ("traffic_writer", "OPTIMIZE TABLE traffic.traffic FINAL"),
        ("traffic_writer", "DROP TABLE traffic.traffic"),
        (
            "traffic_writer",
            "CREATE TABLE traffic.mine (n UInt8) ENGINE = Null",
        ),
        ("traffic_writer", "SELECT count() FROM system.query_log"),
        (
            "traffic_writer",
            "SELECT * FROM file('/etc/passwd', 'LineAsString')",
        ),
        (
            "traffic_writer",
            "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')",
        ),
        (
            "traffic_reader",
            "INSERT INTO traffic.traffic SELECT * FROM traffic.traffic",
        ),
        ("traffic_reader", "DROP TABLE traffic.traffic"),
        ("traffic_reader", "SELECT count() FROM system.query_log"),
        ("traffic_migrator", "DROP DATABASE traffic"),
        (
            "traffic_migrator",
            "CREATE TABLE default.mine (n UInt8) ENGINE = Null",
        ),
    ] {
        let refused = server.ask(user, sql).await.expect_err(sql);
        assert!(
            refused.contains("ACCESS_DENIED") || refused.contains("READONLY"),
            "{user}: {sql}: {refused}"
        );
    }

    // Nothing more than is used: each right to insert on one server has been.
    let used = "SELECT DISTINCT arrayJoin(used_privileges) FROM system.query_log \
         WHERE user = 'traffic_writer' FORMAT TSVRaw";
    let used = server.ask("admin", used).await.unwrap();
    let users = std::fs::read_to_string(shipped("deploy/clickhouse/users.d/traffic-users.xml"));
    for grant in users
        .unwrap()
        .lines()
        .filter_map(|line| line.split("GRANT INSERT ON ").nth(1))
    {
        let table = grant.split('<').next().unwrap();
        if !table.ends_with("_local") {
            let line = format!(" ON {table}");
            assert!(
                used.lines().any(|l| l.ends_with(&line)),
                "{table} not in {used}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn system_logs_forget() {
    let server = Configured::start("logs", "").await;
    for _ in 0..2 {
        server.ask("admin", "SELECT 1").await.unwrap();
        server.ask("admin", "SYSTEM FLUSH LOGS").await.unwrap();
    }
    let logs = "SELECT name FROM system.tables WHERE database = 'system' AND name LIKE '%\\_log' \
         AND engine = 'MergeTree' ORDER BY name";
    let logs = server.ask("admin", logs).await.unwrap();
    for expected in ["query_log", "part_log", "error_log", "metric_log"] {
        assert!(
            logs.lines().any(|log| log == expected),
            "{expected}: {logs}"
        );
    }
    for log in logs.lines() {
        let ddl = server
            .ask(
                "admin",
                &format!("SHOW CREATE TABLE system.{log} FORMAT TSVRaw"),
            )
            .await
            .unwrap();
        assert!(ddl.contains("\nTTL event_date + toIntervalDay("), "{ddl}");
        assert!(ddl.contains("\nPARTITION BY event_date"), "{ddl}");
    }
}

/// What the migrations ask of a cluster (`src/repository/render.rs`): its name, and macros for the paths.
/// That is all that one engine alone can tell.
#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_has_the_name_and_the_macros_of_the_migrations() {
    let server = Configured::start_with("cluster", "", &["cluster.d/cluster.xml"]).await;
    let macros = "SELECT macro || '=' || substitution FROM system.macros ORDER BY macro";
    assert_eq!(
        server.ask("admin", macros).await.unwrap(),
        "cluster=traffic\nreplica=2\nshard=1"
    );
    let hosts = "SELECT shard_num || '/' || replica_num || ' ' || host_name || ':' || port \
         FROM system.clusters WHERE cluster = 'traffic' ORDER BY shard_num, replica_num";
    assert_eq!(
        server.ask("admin", hosts).await.unwrap(),
        "1/1 clickhouse-1-1:9000\n1/2 clickhouse-1-2:9000\n\
         2/1 clickhouse-2-1:9000\n2/2 clickhouse-2-2:9000"
    );
}

#[test]
fn a_probe_tells_whether_the_service_is_well() {
    let data = directory("probe");
    let probe = |address: &str, flags: &[&str]| {
        let mut command = Service::command(&data);
        command.env("LISTEN_ADDR", address).arg("probe").args(flags);
        run(command)
    };
    let nobody = format!("127.0.0.1:{}", free_port());
    let (code, _, err) = probe(&nobody, &[]);
    assert_eq!(code, Some(1));
    assert!(err.contains(&nobody), "{err}");

    let mut service = Service::start(&data);
    // As it is set where all addresses are served.
    let all = format!("0.0.0.0:{}", service.address.port());
    for flags in [&[][..], &["--ready"]] {
        let (code, out, err) = probe(&all, flags);
        assert_eq!((code, out.as_str(), err.as_str()), (Some(0), "", ""));
    }
    assert!(service.terminate().success());
    assert_eq!(probe(&all, &[]).0, Some(1));

    // Something else that listens there is not a healthy service.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let answers = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = other.accept().unwrap();
        let _ = stream.read(&mut [0; 512]);
        stream
            .write_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
            .unwrap();
    });
    let (code, _, err) = probe(&address, &[]);
    assert_eq!(code, Some(1));
    assert!(err.contains("503"), "{err}");
    answers.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_behind_by_a_drain() {
    let (clickhouse, database, data) = (shared_engine(), fresh_database(), directory("drain"));
    let program = |arguments: &[&str]| {
        let mut command = on(&clickhouse, &database, &data);
        command.args(arguments);
        command
    };
    let spool = data.join("spool");
    let waiting = || {
        let files = std::fs::read_dir(&spool).unwrap().flatten();
        files
            .filter(|file| file.path().extension().is_some_and(|e| e == "batch"))
            .count()
    };
    let (code, out, _) = run(program(&["drain"]));
    assert_eq!((code, out.trim_end()), (Some(0), "the spool is empty"));

    let mut service = Service::spawn(program(&[]));
    clickhouse
        .sql(&database, "RENAME TABLE traffic TO gone")
        .await;
    let body = view(7, Utc::now().timestamp(), "/kept");
    let (status, answer) = call(&service, Method::POST, "/api/traffic/1", Some(&body)).await;
    assert_eq!(status, 202, "{answer}");
    let (code, _, err) = run(program(&["drain", "--within=1"]));
    assert_eq!(code, Some(1));
    assert!(err.contains("1 batches still wait"), "{err}");
    assert!(service.terminate().success());
    assert_eq!(waiting(), 1);
    // Nobody serves: now the command itself sends, and fails as honestly.
    let (code, _, err) = run(program(&["drain", "--within=1"]));
    assert_eq!((code, waiting()), (Some(1), 1), "{err}");
    assert!(err.contains("1 batches still wait"), "{err}");

    clickhouse
        .sql(&database, "RENAME TABLE gone TO traffic")
        .await;
    let (code, out, err) = run(program(&["drain"]));
    assert_eq!(
        (code, out.trim_end(), waiting()),
        (Some(0), "the spool is empty", 0),
        "{err}"
    );
    let stored = clickhouse
        .sql(&database, "SELECT page_url FROM traffic FINAL")
        .await;
    assert_eq!(stored, "/kept");

    // Beside a running service it waits until that one has.
    let mut service = Service::spawn(program(&[]));
    clickhouse
        .sql(&database, "RENAME TABLE traffic TO gone")
        .await;
    let body = view(7, Utc::now().timestamp(), "/later");
    let (status, _) = call(&service, Method::POST, "/api/traffic/2", Some(&body)).await;
    assert_eq!(status, 202);
    let drain = std::thread::spawn({
        let command = program(&["drain", "--within=50", "--empty-for=1"]);
        move || run(command)
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!drain.is_finished());
    clickhouse
        .sql(&database, "RENAME TABLE gone TO traffic")
        .await;
    let (code, out, err) = drain.join().unwrap();
    assert_eq!((code, waiting()), (Some(0), 0), "{out}{err}");
    let stored = clickhouse
        .sql(&database, "SELECT count() FROM traffic FINAL")
        .await;
    assert_eq!(stored, "2");
    assert!(service.terminate().success());
}

#[test]
fn a_service_that_may_not_migrate_refuses_another_schema() {
    let (clickhouse, database, data) = (shared_engine(), fresh_database(), directory("verify"));
    let program = |migrate: &str, days: &str| {
        let mut command = on(&clickhouse, &database, &data);
        command
            .env("MIGRATE_ON_START", migrate)
            .env("RETENTION_DAYS", days);
        command
    };
    let (code, _, err) = run(program("false", "90"));
    assert_eq!(code, Some(1));
    assert!(
        err.contains("there is no schema") && err.contains("traffic-api migrate"),
        "{err}"
    );
    // The command migrates whatever the switch says: that is what it is for.
    let mut migrate = program("false", "90");
    migrate.arg("migrate");
    assert_eq!(run(migrate).0, Some(0));
    assert!(Service::spawn(program("false", "90")).terminate().success());
    // Views would be acknowledged that the table then forgets.
    let (code, _, err) = run(program("false", "91"));
    assert_eq!(code, Some(1));
    assert!(err.contains("does not keep 91 days"), "{err}");
}

fn on(clickhouse: &ClickHouse, database: &str, data: &Path) -> Command {
    let mut command = Service::command(data);
    command
        .env("CLICKHOUSE_URL", &clickhouse.url)
        .env("CLICKHOUSE_USER", &clickhouse.user)
        .env("CLICKHOUSE_PASSWORD", &clickhouse.password)
        .env("CLICKHOUSE_DATABASE", database);
    command
}
