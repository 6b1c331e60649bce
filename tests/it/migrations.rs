//! The schema and its history.

use std::fmt::Write;

use chrono::Utc;
use traffic_api::app;
use traffic_api::config::Cli;
use traffic_api::domain::Clock;
use traffic_api::repository::{MIGRATIONS, Migration, Schema, render};

use crate::support::{TestApp, TestClock, fresh_database, shared_engine, view};

fn rendered(cluster: Option<&str>) -> String {
    let schema = Schema {
        database: "traffic".to_owned(),
        cluster: cluster.map(str::to_owned),
        retention_days: 90,
        event_retention_days: Some(30),
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
const KEPT: [&str; 9] = [
    "traffic",
    "traffic_by_request",
    "traffic_hourly",
    "traffic_hourly_pages",
    "traffic_seals",
    "traffic_erasures",
    "events",
    "events_hourly",
    "events_seals",
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
async fn rows_are_marked_from_the_migration_on_wherever_it_was_stopped() {
    let place = MIGRATIONS
        .iter()
        .position(|m| m.name == "0008_traffic_late");
    let (before, rest) = MIGRATIONS.split_at(place.unwrap());
    let late = &rest[0];
    let engine = shared_engine();
    let statements = |migration: &Migration, database: &str| {
        let schema = Schema {
            database: database.to_owned(),
            cluster: None,
            retention_days: 90,
            event_retention_days: Some(30),
            fsync: false,
        };
        render(migration.template, &schema).unwrap()
    };
    for done in 0..=statements(late, "any").len() {
        let database = fresh_database();
        let sql = async |sql: &str| engine.sql(&database, sql).await;
        let create = format!("CREATE DATABASE {database} ENGINE = Atomic");
        engine.sql("default", &create).await;
        for migration in before {
            for statement in statements(migration, &database) {
                sql(&statement).await;
            }
        }
        let insert = async |id: u32, hours_ago: u32| {
            let row = format!("({id}, 7, now() - {hours_ago} * 3600, '/a', 0, 0)");
            sql(&format!("INSERT INTO traffic VALUES {row}")).await;
        };
        insert(1, 30).await;
        for statement in &statements(late, &database)[..done] {
            sql(statement).await;
        }
        app::migrate(&settings(&database, &[])).await.unwrap();
        let ended = "SELECT toUnixTimestamp64Milli(max(applied_at)) FROM schema_migrations \
                     WHERE name = '0008_traffic_late'";
        let ended: i64 = sql(ended).await.parse().unwrap();
        insert(2, 30).await;
        insert(3, 0).await;

        // Those from before are zero, or from the statements that ran again: then no seal that is
        // trusted can be older.
        let marks = "SELECT toUnixTimestamp64Milli(late_at) FROM traffic ORDER BY request_id";
        let marks = sql(marks).await;
        let marks: Vec<i64> = marks.lines().map(|mark| mark.parse().unwrap()).collect();
        let [from_before, late, in_time] = marks[..] else {
            panic!("{marks:?}")
        };
        assert!(from_before < ended && late >= ended, "{done}: {marks:?}");
        assert_eq!(in_time, 0);
        let stored = "SELECT DISTINCT toUnixTimestamp64Milli(late_at) FROM traffic \
                      WHERE request_id = 1";
        assert_eq!(sql(stored).await, from_before.to_string(), "{done}");
        let left = "SELECT count() FROM system.tables WHERE database = currentDatabase() \
                    AND name LIKE 'traffic_marks%'";
        assert_eq!(sql(left).await, "0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_retention_is_applied() {
    let database = fresh_database();
    app::migrate(&settings(&database, &[])).await.unwrap();
    let changed = app::migrate(&settings(&database, &["--retention-days=7"]))
        .await
        .unwrap();
    assert_eq!(changed.retention_changed, KEPT[..6]);
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
async fn events_have_a_retention_of_their_own_or_none() {
    let database = fresh_database();
    let first = app::migrate(&settings(&database, &[])).await.unwrap();
    assert_eq!(first.retention_changed, [""; 0], "created as configured");
    let ddl = async || {
        let engine = shared_engine();
        engine.sql(&database, "SHOW CREATE TABLE events").await
    };
    assert!(ddl().await.contains("toIntervalDay(31)"));
    for (days, expected) in [("0", ""), ("7", "toIntervalDay(8)")] {
        let flag = format!("--events-retention-days={days}");
        let changed = app::migrate(&settings(&database, &[&flag])).await.unwrap();
        assert_eq!(changed.retention_changed, KEPT[6..], "{days}");
        let ddl = ddl().await;
        assert_eq!(ddl.contains("TTL"), days != "0", "{ddl}");
        assert!(ddl.contains(expected), "{ddl}");
        let again = app::migrate(&settings(&database, &[&flag])).await.unwrap();
        assert_eq!(again, Default::default());
    }
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
        for setting in ["fsync_after_insert", "min_rows_to_fsync_after_merge"] {
            assert!(ddl.contains(&format!("{setting} = {expected}")), "{ddl}");
        }
        let again = app::migrate(&settings(&database, &[&flag])).await.unwrap();
        assert_eq!(again, Default::default());
        // As an older version left it.
        let alter = "ALTER TABLE traffic MODIFY SETTING min_rows_to_fsync_after_merge = 0";
        shared_engine().sql(&database, alter).await;
        let mended = app::migrate(&settings(&database, &[&flag])).await.unwrap();
        let expected: &[&str] = if expected == "1" { &["traffic"] } else { &[] };
        assert_eq!(mended.fsync_changed, expected);
    }
}
