//! The schema and its history.

use std::fmt::Write;

use chrono::Utc;
use traffic_api::app;
use traffic_api::config::Cli;
use traffic_api::domain::Clock;
use traffic_api::repository::{MIGRATIONS, Schema, render};

use crate::support::{TestApp, TestClock, fresh_database, shared_engine, view};

fn rendered(cluster: Option<&str>) -> String {
    let schema = Schema {
        database: "traffic".to_owned(),
        cluster: cluster.map(str::to_owned),
        retention_days: 90,
        fsync: false,
    };
    let mut text = String::new();
    for migration in MIGRATIONS {
        writeln!(text, "-- {}", migration.name).unwrap();
        for statement in render(migration.template, &schema).unwrap() {
            writeln!(text, "{statement};\n").unwrap();
        }
    }
    text
}

#[test]
fn the_single_server_rendering() {
    insta::assert_snapshot!(rendered(None));
}

#[test]
fn the_cluster_rendering() {
    insta::assert_snapshot!(rendered(Some("main")));
}

#[test]
fn landed_migrations_are_never_edited() {
    let sums: Vec<_> = MIGRATIONS.iter().map(|m| (m.name, m.checksum())).collect();
    insta::assert_json_snapshot!(sums);
}

#[test]
fn every_file_is_in_the_list() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let listed: Vec<_> = MIGRATIONS
        .iter()
        .map(|m| format!("{}.sql", m.name))
        .collect();
    assert_eq!(files, listed);
    assert!(MIGRATIONS.is_sorted_by_key(|m| m.version));
}

/// All tables that forget and that fsync.
const KEPT: [&str; 6] = [
    "traffic",
    "traffic_by_request",
    "traffic_marks",
    "traffic_hourly",
    "traffic_hourly_pages",
    "traffic_seals",
];

fn settings(database: &str, flags: &[&str]) -> traffic_api::config::Settings {
    let engine = shared_engine().flags();
    let data_dir = crate::support::directory(database);
    let fixed = [
        "traffic-api".to_owned(),
        format!("--clickhouse-database={database}"),
        format!("--data-dir={}", data_dir.display()),
        "--listen-addr=127.0.0.1:0".to_owned(),
    ];
    let all = fixed
        .into_iter()
        .chain(engine)
        .chain(flags.iter().map(|f| (*f).to_owned()));
    Cli::read(all.map(Into::into))
        .ok()
        .expect("good flags")
        .settings
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_run_once_also_when_many_start_together() {
    let database = fresh_database();
    let settings = settings(&database, &[]);
    let (a, b, c) = tokio::join!(
        app::migrate(&settings),
        app::migrate(&settings),
        app::migrate(&settings)
    );
    for outcome in [a, b, c] {
        outcome.unwrap_or_else(|e| panic!("{e:#}"));
    }
    assert_eq!(app::migrate(&settings).await.unwrap(), Default::default());
    let recorded = shared_engine()
        .sql(&database, "SELECT count() FROM schema_migrations FINAL")
        .await;
    assert_eq!(recorded, MIGRATIONS.len().to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_migration_stops_the_start() {
    let database = fresh_database();
    let settings = settings(&database, &[]);
    app::migrate(&settings).await.unwrap();
    let forged = "INSERT INTO schema_migrations (version, name, checksum) \
                  VALUES (2, '0002_traffic_by_request', 'other')";
    // A later row of the same version is the current one.
    shared_engine().sql(&database, forged).await;
    let error = format!(
        "{:#}",
        app::start(&settings, Clock::system()).await.err().unwrap()
    );
    assert!(
        error.contains("0002_traffic_by_request was edited"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_applied_migration_is_completed() {
    let database = fresh_database();
    let settings = settings(&database, &[]);
    app::migrate(&settings).await.unwrap();
    let engine = shared_engine();
    engine
        .sql(&database, "DROP TABLE traffic_by_request_mv SYNC")
        .await;
    engine
        .sql(
            &database,
            "ALTER TABLE schema_migrations DELETE WHERE version = 2 SETTINGS mutations_sync = 1",
        )
        .await;
    let outcome = app::migrate(&settings).await.unwrap();
    assert_eq!(outcome.applied, ["0002_traffic_by_request"]);
    assert_eq!(
        engine.sql(&database, "EXISTS traffic_by_request_mv").await,
        "1"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_retention_is_applied() {
    let database = fresh_database();
    app::migrate(&settings(&database, &[])).await.unwrap();
    let changed = app::migrate(&settings(&database, &["--retention-days=7"]))
        .await
        .unwrap();
    assert_eq!(changed.retention_changed, KEPT);
    let ddl = shared_engine()
        .sql(&database, "SHOW CREATE TABLE traffic")
        .await;
    assert!(ddl.contains("toIntervalDay(8)"), "{ddl}");
    let again = app::migrate(&settings(&database, &["--retention-days=7"]))
        .await
        .unwrap();
    assert_eq!(again, Default::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acceptable_view_survives_the_ttl() {
    let engine = shared_engine();
    let short = ["--retention-days=1"];
    let app = TestApp::start_with(&engine, &fresh_database(), Clock::system(), &short).await;
    let oldest = Utc::now().timestamp() - 86_400 + 60;
    assert_eq!(app.post(1, &view(1, oldest, "/a")).await.status, 201);
    for table in ["traffic", "traffic_by_request"] {
        app.sql(&format!("OPTIMIZE TABLE {table} FINAL")).await;
        assert_eq!(
            app.sql(&format!("SELECT count() FROM {table}")).await,
            "1",
            "{table}"
        );
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_view_is_unknown() {
    let clock = TestClock::frozen();
    let (engine, week) = (shared_engine(), ["--retention-days=7"]);
    let app = TestApp::start_with(&engine, &fresh_database(), clock.behind(0), &week).await;
    let at = clock.now();
    assert_eq!(app.post(1, &view(1, at, "/a")).await.status, 201);
    clock.set(at + 7 * 86_400 - 1);
    assert_eq!(app.get("/api/traffic/1").await.status, 200);
    clock.set(at + 7 * 86_400);
    assert_eq!(app.get("/api/traffic/1").await.status, 404);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fsync_is_switched_as_configured() {
    let database = fresh_database();
    app::migrate(&settings(&database, &[])).await.unwrap();
    for (flag, expected) in [("true", "1"), ("false", "0")] {
        let flag = format!("--clickhouse-fsync={flag}");
        let outcome = app::migrate(&settings(&database, &[&flag])).await.unwrap();
        assert_eq!(outcome.fsync_changed, KEPT);
        let ddl = shared_engine()
            .sql(&database, "SHOW CREATE TABLE traffic")
            .await;
        assert!(
            ddl.contains(&format!("fsync_after_insert = {expected}")),
            "{ddl}"
        );
        let again = app::migrate(&settings(&database, &[&flag])).await.unwrap();
        assert_eq!(again, Default::default());
    }
}
