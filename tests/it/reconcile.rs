//! Reconciliation: each fault is planted by SQL, must be found and named exactly, must be mended, and
//! must be gone at the next run. And where nothing is wrong, nothing may be said.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::Utc;
use serde_json::{Value, json};
use traffic_api::app;
use traffic_api::config::{Cli, Command as Task};
use traffic_api::domain::{Clock, Hour, Stream, VersionSource};
use traffic_api::repository::{
    Comparison, DayTotals, Finding, LEAST_SEAL_DELAY, LastWord, LiveClaim, Mended, PeriodicCheck,
    ReconcileStats, Reconciler, Seals, ServerTime,
};

use crate::support::service::{Service, run};
use crate::support::{
    ClickHouse, MarkClock, TestApp, directory, fresh_database, private_engine, repository,
    shared_engine, view,
};

const DAY: u32 = 86_400;
const ALL: Range<u32> = 0..u32::MAX;
/// Nothing is under way in most tests, so a difference need not last long.
const SHORT: Duration = Duration::from_millis(50);

struct Lab {
    app: TestApp,
    engine: ClickHouse,
    marks: MarkClock,
    seals: Seals,
    hour: Hour,
}

impl Lab {
    async fn start() -> Self {
        let (engine, database) = (shared_engine(), fresh_database());
        let flags = ["--sealer=false", "--reconcile-interval-secs=0"];
        let app = TestApp::start_with(&engine, &database, Clock::system(), &flags).await;
        Self {
            marks: MarkClock::new(&engine, &database, Stream::PageViews).await,
            seals: Seals::new(repository(&engine, &database), LEAST_SEAL_DELAY),
            hour: lab_hour(),
            app,
            engine,
        }
    }

    /// With rows that came in time, and their hour sealed long ago.
    async fn sealed(rows: &[String]) -> Self {
        let lab = Self::start().await;
        lab.marks.stop().await;
        lab.insert("traffic", &rows.join(", ")).await;
        let at = ServerTime::from_millis((i64::from(lab.hour.end()) + 2400) * 1000);
        lab.seals.seal(lab.hour, at).await.unwrap();
        lab.marks.set(Utc::now().timestamp_millis()).await;
        lab.expect_nothing().await;
        lab
    }

    async fn insert(&self, table: &str, rows: &str) {
        self.app
            .sql(&format!("INSERT INTO {table} VALUES {rows}"))
            .await;
    }

    async fn delete(&self, table: &str, condition: &str) {
        let sql =
            format!("ALTER TABLE {table} DELETE WHERE {condition} SETTINGS mutations_sync = 1");
        self.app.sql(&sql).await;
    }

    fn reconciler(&self, patience: Duration, limit: usize) -> Reconciler {
        let clickhouse = repository(&self.engine, &self.app.database);
        Reconciler::new(clickhouse, Clock::system(), patience, limit)
    }

    async fn compare(&self, window: Range<u32>) -> Comparison {
        let reconciler = self.reconciler(SHORT, 100);
        reconciler.compare(window).await.unwrap()
    }

    async fn expect_nothing(&self) {
        let comparison = self.compare(ALL).await;
        assert_eq!(comparison.findings.total(), 0, "{comparison:#?}");
        assert!(
            comparison.days.iter().all(DayTotals::agree),
            "{comparison:#?}"
        );
    }

    /// That exactly these faults are found in `window`, then mended, then gone.
    async fn expect(&self, window: Range<u32>, mut faults: Vec<Finding>, expected: Mended) {
        faults.sort();
        let mut found = self.compare(window.clone()).await.findings;
        found.named.sort();
        assert_eq!(found.named, faults);
        assert_eq!(found.total(), faults.len() as u64);

        let reconciler = self.reconciler(SHORT, 100);
        let versions = VersionSource::new(77);
        let (before, repaired) = reconciler.repair(window.clone(), &versions).await.unwrap();
        let mut named = before.findings.named;
        named.sort();
        assert_eq!(named, faults);
        let (mended, after) = repaired.unwrap();
        assert_eq!(mended, expected);
        assert_eq!(after.findings.total(), 0, "{after:#?}");
        let (again, repaired) = reconciler.repair(window, &versions).await.unwrap();
        assert_eq!((again.findings.total(), repaired), (0, None));
        self.expect_nothing().await;
    }

    fn at(&self, seconds: u32) -> u32 {
        self.hour.start() + seconds
    }

    fn row(&self, id: u64, user: u32, at: u32, page: &str) -> String {
        format!("({id}, {user}, {at}, '{page}', 0, 0)")
    }

    /// Three views of user 7, one of user 8, one of somebody in the next hour.
    fn rows(&self) -> [String; 5] {
        rows(self.hour)
    }
}

fn rows(hour: Hour) -> [String; 5] {
    [
        (1, 7, 60, "/a"),
        (2, 7, 61, "/a"),
        (3, 7, 62, "/b"),
        (4, 8, 63, "/a"),
        (5, 7, 3660, "/a"),
    ]
    .map(|(id, user, second, page)| {
        format!("({id}, {user}, {}, '{page}', 0, 0)", hour.start() + second)
    })
}

/// Noon, so that the hours around it are of the same day.
fn lab_hour() -> Hour {
    let today = u32::try_from(Utc::now().timestamp()).unwrap() / DAY * DAY;
    Hour::containing(today - 10 * DAY + DAY / 2)
}

fn claim(user_id: u32, created_at: u32, page: &str) -> LiveClaim {
    LiveClaim {
        user_id,
        created_at,
        page_url: page.to_owned(),
        version: 0,
    }
}

fn rivals(request_id: u64, mut claims: Vec<LiveClaim>) -> Finding {
    claims.sort();
    Finding::RivalClaims { request_id, claims }
}

fn word(version: u64, is_deleted: bool) -> Option<LastWord> {
    Some(LastWord {
        version,
        is_deleted,
    })
}

fn mended(claims: u64, settled: u64, hours: u64) -> Mended {
    Mended {
        claims,
        settled,
        hours,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_live_claims_of_one_id_are_named_and_settled() {
    for (user, later, page) in [
        (7, 5, "/b"),
        (7, 2 * DAY, "/a"),
        (8, 5, "/a"),
        (8, 2 * DAY, "/b"),
    ] {
        let lab = Lab::start().await;
        let (one, two) = (lab.at(60), lab.at(60 + later));
        let both = [lab.row(1, 7, one, "/a"), lab.row(1, user, two, page)];
        lab.insert("traffic", &lab.rows()[1..].join(", ")).await;
        for row in &both {
            lab.insert("traffic", row).await;
        }
        let fault = rivals(1, vec![claim(7, one, "/a"), claim(user, two, page)]);
        // The second claim may lie outside of what is compared.
        let day = one - one % DAY;
        lab.expect(day..day + DAY, vec![fault], mended(0, 1, 0))
            .await;
        // The one that an update would have chosen, above all rivals, so that a late copy is harmless.
        let live = "SELECT user_id, page_url, version > 0 FROM traffic FINAL WHERE request_id = 1";
        let winner = if (user, two, page) > (7, one, "/a") {
            (user, page)
        } else {
            (7, "/a")
        };
        let expected = format!("{}\t{}\t1", winner.0, winner.1);
        assert_eq!(lab.app.sql(live).await, expected);
        lab.insert("traffic", &both.join(", ")).await;
        assert_eq!(lab.app.sql(live).await, expected);
        lab.app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_one_table_lacks_is_named_and_written_there() {
    for table in ["traffic", "traffic_by_request"] {
        let lab = Lab::start().await;
        lab.insert("traffic", &lab.rows().join(", ")).await;
        lab.expect_nothing().await;
        lab.delete(table, "request_id = 3").await;
        let here = |name| (table != name).then_some(word(0, false)).flatten();
        let fault = Finding::ClaimDiffers {
            request_id: 3,
            user_id: 7,
            created_at: lab.at(62),
            page_url: "/b".to_owned(),
            traffic: here("traffic"),
            traffic_by_request: here("traffic_by_request"),
        };
        lab.expect(ALL, vec![fault], mended(1, 0, 0)).await;
        assert_eq!(lab.app.sql("SELECT count() FROM traffic FINAL").await, "5");
        lab.app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tombstone_that_one_table_lacks_is_named_and_written_there() {
    // (of a claim that is live in the other table, or of one that is nowhere else)
    for (table, version, orphan) in [
        ("traffic", 9, false),
        ("traffic_by_request", 9, false),
        ("traffic_by_request", 0, false),
        ("traffic", 9, true),
        ("traffic_by_request", 9, true),
    ] {
        let lab = Lab::start().await;
        lab.insert("traffic", &lab.rows().join(", ")).await;
        let id = if orphan { 99 } else { 3 };
        let tombstone = format!("({id}, 7, {}, '/b', {version}, 1)", lab.at(62));
        lab.insert(table, &tombstone).await;
        if table == "traffic" {
            lab.delete("traffic_by_request", "is_deleted").await;
        }
        let other = if orphan { None } else { word(0, false) };
        let here = |name| {
            if table == name {
                word(version, true)
            } else {
                other
            }
        };
        let fault = Finding::ClaimDiffers {
            request_id: id,
            user_id: 7,
            created_at: lab.at(62),
            page_url: "/b".to_owned(),
            traffic: here("traffic"),
            traffic_by_request: here("traffic_by_request"),
        };
        lab.expect(ALL, vec![fault], mended(1, 0, 0)).await;
        let left = if orphan { "5" } else { "4" };
        assert_eq!(lab.app.sql("SELECT count() FROM traffic FINAL").await, left);
        lab.app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rivals_of_which_each_table_has_one_are_settled_too() {
    let lab = Lab::start().await;
    lab.insert("traffic", &lab.rows().join(", ")).await;
    lab.insert("traffic", &lab.row(1, 9, lab.at(70), "/z"))
        .await;
    lab.delete("traffic", "request_id = 1 AND user_id = 7")
        .await;
    lab.delete("traffic_by_request", "request_id = 1 AND user_id = 9")
        .await;
    let differs = |user_id, second, page: &str, in_traffic: bool| Finding::ClaimDiffers {
        request_id: 1,
        user_id,
        created_at: lab.at(second),
        page_url: page.to_owned(),
        traffic: word(0, false).filter(|_| in_traffic),
        traffic_by_request: word(0, false).filter(|_| !in_traffic),
    };
    let faults = vec![
        differs(7, 60, "/a", false),
        differs(9, 70, "/z", true),
        rivals(
            1,
            vec![claim(7, lab.at(60), "/a"), claim(9, lab.at(70), "/z")],
        ),
    ];
    lab.expect(ALL, faults, mended(2, 1, 0)).await;
    lab.app.stop().await;
}

fn user_cell(lab: &Lab, user_id: u32, page: &str, counted: u64, claimed: u64) -> Finding {
    Finding::UserCell {
        user_id,
        hour: lab.hour.start(),
        page_url: page.to_owned(),
        counted,
        claimed,
    }
}

/// Another row of counts for a user's hour, younger than the sealed one.
async fn plant_user(lab: &Lab, user: u32, total: u64, pages: &str, views: &str, later_ms: i64) {
    let at = (i64::from(lab.hour.end()) + 2400) * 1000 + later_ms;
    lab.app
        .sql(&format!(
            "INSERT INTO traffic_hourly SELECT {user}, toDateTime({}, 'UTC'), {total}, {pages}, \
             {views}, fromUnixTimestamp64Milli(toInt64({at}), 'UTC')",
            lab.hour.start()
        ))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_counts_of_users_are_named_and_counted_anew() {
    let lab = Lab::sealed(&rows(lab_hour())).await;
    // One wrong, one missing, one too many, in a user's row.
    plant_user(&lab, 7, 5, "['/a', '/c']", "[4, 1]", 1).await;
    let faults = vec![
        user_cell(&lab, 7, "/a", 4, 2),
        user_cell(&lab, 7, "/b", 0, 1),
        user_cell(&lab, 7, "/c", 1, 0),
    ];
    lab.expect(ALL, faults, mended(0, 0, 1)).await;

    // A user's whole row is missing, and there is one of a user without views.
    lab.delete("traffic_hourly", "user_id = 8").await;
    plant_user(&lab, 9, 2, "['/a']", "[2]", 1).await;
    let faults = vec![
        user_cell(&lab, 8, "/a", 0, 1),
        user_cell(&lab, 9, "/a", 2, 0),
    ];
    lab.expect(ALL, faults, mended(0, 0, 1)).await;
    lab.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_from_before_the_first_claim_are_compared_too() {
    let lab = Lab::sealed(&rows(lab_hour())).await;
    for table in ["traffic", "traffic_by_request"] {
        lab.delete(
            table,
            &format!("created_at < toDateTime({}, 'UTC')", lab.hour.end()),
        )
        .await;
    }
    let site = |page: &str, views, users| Finding::SiteCell {
        hour: lab.hour.start(),
        page_url: page.to_owned(),
        counted_views: views,
        claimed_views: 0,
        counted_users: users,
        claimed_users: 0,
        differing_users: users,
    };
    let faults = vec![
        user_cell(&lab, 7, "/a", 2, 0),
        user_cell(&lab, 7, "/b", 1, 0),
        user_cell(&lab, 8, "/a", 1, 0),
        site("/a", 3, 2),
        site("/b", 1, 1),
    ];
    lab.expect(ALL, faults, mended(0, 0, 1)).await;
    lab.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_counts_that_are_younger_than_now_do_not_win() {
    let lab = Lab::sealed(&rows(lab_hour())).await;
    let years = 3 * 365 * 86_400_000;
    plant_user(&lab, 8, 7, "['/a']", "[1]", years).await;
    let total = Finding::UserTotal {
        user_id: 8,
        hour: lab.hour.start(),
        total: 7,
        counted: 1,
    };
    lab.expect(ALL, vec![total], mended(0, 0, 1)).await;
    plant_user(&lab, 8, 6, "['/a']", "[6]", years).await;
    lab.expect(ALL, vec![user_cell(&lab, 8, "/a", 6, 1)], mended(0, 0, 1))
        .await;
    let left = "SELECT count() FROM traffic_hourly WHERE sealed_at > now() + INTERVAL 1 DAY";
    assert_eq!(lab.app.sql(left).await, "0");
    lab.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_counts_of_the_site_are_named_and_counted_anew() {
    let lab = Lab::sealed(&rows(lab_hour())).await;
    let plant = async |page: &str, views: u64, users: &str| {
        let at = Utc::now().timestamp_millis();
        let sql = format!(
            "INSERT INTO traffic_hourly_pages SELECT toDateTime({}, 'UTC'), '{page}', {views}, \
             bitmapBuild({users}::Array(UInt32)), fromUnixTimestamp64Milli(toInt64({at}), 'UTC')",
            lab.hour.start()
        );
        lab.app.sql(&sql).await;
    };
    let cell =
        |page: &str, counted: (u64, u64), claimed: (u64, u64), differing_users| Finding::SiteCell {
            hour: lab.hour.start(),
            page_url: page.to_owned(),
            counted_views: counted.0,
            claimed_views: claimed.0,
            counted_users: counted.1,
            claimed_users: claimed.1,
            differing_users,
        };
    plant("/a", 5, "[7, 8]").await;
    plant("/b", 1, "[7, 8]").await;
    let faults = vec![cell("/a", (5, 2), (3, 2), 0), cell("/b", (1, 2), (1, 1), 1)];
    lab.expect(ALL, faults, mended(0, 0, 1)).await;
    // The number of users is right, the users are not.
    plant("/b", 1, "[8]").await;
    plant("/c", 1, "[8]").await;
    lab.delete("traffic_hourly_pages", "page_url = '/a'").await;
    let faults = vec![
        cell("/a", (0, 0), (3, 2), 2),
        cell("/b", (1, 1), (1, 1), 2),
        cell("/c", (1, 1), (0, 0), 1),
    ];
    lab.expect(ALL, faults, mended(0, 0, 1)).await;
    lab.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_of_late_users_are_not_used_and_so_not_named() {
    let lab = Lab::sealed(&rows(lab_hour())).await;
    plant_user(&lab, 7, 9, "['/a']", "[9]", 1).await;
    lab.insert("traffic", &lab.row(6, 7, lab.at(64), "/a"))
        .await;
    lab.expect_nothing().await;
    lab.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_lost_from_a_sealed_hour_is_found_in_three_ways() {
    let lab = Lab::sealed(&rows(lab_hour())).await;
    lab.delete("traffic", "request_id = 4").await;
    let site = Finding::SiteCell {
        hour: lab.hour.start(),
        page_url: "/a".to_owned(),
        counted_views: 3,
        claimed_views: 2,
        counted_users: 2,
        claimed_users: 1,
        differing_users: 1,
    };
    let claim = Finding::ClaimDiffers {
        request_id: 4,
        user_id: 8,
        created_at: lab.at(63),
        page_url: "/a".to_owned(),
        traffic: None,
        traffic_by_request: word(0, false),
    };
    let faults = vec![site, claim, user_cell(&lab, 8, "/a", 1, 0)];
    lab.expect(ALL, faults, mended(1, 0, 1)).await;
    lab.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_named_is_bounded_and_all_is_counted_and_mended() {
    let lab = Lab::start().await;
    let many = 250_000;
    let sql = format!(
        "INSERT INTO traffic SELECT number, number % 100, toDateTime({}, 'UTC') + number % 7000, \
         '/a', 0, 0 FROM numbers({many})",
        lab.hour.start()
    );
    lab.app.sql(&sql).await;
    lab.expect_nothing().await;
    lab.delete("traffic_by_request", "request_id % 10 = 3")
        .await;
    let found = lab.reconciler(SHORT, 3).compare(ALL).await.unwrap();
    assert_eq!(
        (found.findings.named.len(), found.findings.total()),
        (3, 25_000)
    );
    assert_eq!(found.findings.passing, 0);
    let day = &found.days[0];
    assert_eq!((day.accepted, day.stored, day.users), (225_000, many, many));
    let versions = VersionSource::new(77);
    let repaired = lab
        .reconciler(SHORT, 3)
        .repair(ALL, &versions)
        .await
        .unwrap()
        .1;
    assert_eq!(repaired.unwrap().0, mended(25_000, 0, 0));
    lab.expect_nothing().await;
    lab.app.stop().await;
}

/// The command as a user runs it; its exit code and what it printed.
async fn command(engine: &ClickHouse, database: &str, flags: &[&str]) -> (Option<i32>, String) {
    let data_dir = directory(&format!("reconcile-{database}"));
    let mut command = Service::command(&data_dir);
    command
        .env("CLICKHOUSE_DATABASE", database)
        .arg("reconcile")
        .args(flags)
        .args(engine.flags());
    let (code, out, _) = tokio::task::spawn_blocking(move || run(command))
        .await
        .unwrap();
    (code, out)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_says_what_it_found_and_its_exit_code_whether_all_is_well() {
    let lab = Lab::start().await;
    lab.insert("traffic", &lab.rows().join(", ")).await;
    let database = &lab.app.database;
    let (code, out) = command(&lab.engine, database, &["--patience=0"]).await;
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("no differences"), "{out}");
    lab.delete("traffic", "request_id = 3").await;
    let (code, out) = command(&lab.engine, database, &["--patience=0"]).await;
    assert_eq!(code, Some(3), "{out}");
    assert!(out.contains("claim of request 3 (user 7"), "{out}");
    assert!(out.contains("DIFFERS"), "{out}");
    let json = ["--format=json", "--patience=0", "--repair"];
    let (code, out) = command(&lab.engine, database, &json).await;
    assert_eq!(code, Some(0), "{out}");
    let document: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(document["counts"], json!({"claim_differs": 1}));
    assert_eq!(document["findings"][0]["request_id"], 3);
    assert_eq!(document["mended"]["claims"], 1);
    assert_eq!(document["after"]["counts"], json!({}));
    assert_eq!(document["agree"], true);
    let day = &document["after"]["days"][0];
    assert_eq!((&day["accepted"], &day["site"]), (&json!(5), &json!(5)));
    lab.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_in_the_spool_is_named_as_spooled() {
    let data_dir = directory("reconcile-spooled");
    let data = format!("--data-dir={}", data_dir.display());
    let (engine, down) = private_engine("reconcile-engine").await;
    let database = fresh_database();
    let app = TestApp::start_with(&down, &database, Clock::system(), &[&data]).await;
    engine.stop().await;
    let now = Utc::now().timestamp() - 10;
    for id in 0..3 {
        let answer = app.post(id, &view(7, now, "/a")).await;
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    let reconcile = async |engine: &ClickHouse, database: &str, format: &str| {
        let arguments =
            ["traffic-api", "reconcile", "--patience=0", format, &data].map(str::to_owned);
        let database = [format!("--clickhouse-database={database}")];
        let all = arguments.into_iter().chain(database).chain(engine.flags());
        let cli = Cli::read(all.map(Into::into)).ok().unwrap();
        let Some(Task::Reconcile(task)) = cli.command else {
            panic!("another command")
        };
        let said = Mutex::new(Vec::new());
        let say = |line: &str| said.lock().unwrap().push(line.to_owned());
        let outcome = app::reconcile(&cli.settings, &task, say).await;
        (outcome, said.into_inner().unwrap())
    };
    let (outcome, said) = reconcile(&down, &database, "--format=text").await;
    assert!(outcome.is_err());
    assert_eq!(said[0], "spooled here, not stored yet: 3 views in 3 files");
    let (_, said) = reconcile(&down, &database, "--format=json").await;
    let document: Value = serde_json::from_str(&said[0]).unwrap();
    assert_eq!(document["spooled"]["views"], 3);
    assert!(document["error"].is_string(), "{document}");
    // Beside a ClickHouse that has not got them: no difference, but not hidden either.
    let (outcome, said) = reconcile(&shared_engine(), &fresh_database(), "--format=json").await;
    assert!(outcome.unwrap());
    let document: Value = serde_json::from_str(&said[0]).unwrap();
    assert_eq!(document["spooled"]["views"], 3);
    assert_eq!(document["counts"], json!({}));
    app.stop().await;
}

/// Posts, updates, deletes, late rows and sealing, all at once. What arrives between two reads is no
/// difference: without later looks it would be named.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_named_beside_live_traffic() {
    let lab = Lab::sealed(&rows(lab_hour())).await;
    // With a clock that stands still, seals would soon be newer than marks of rows that come after them.
    lab.marks.follow_the_server().await;
    let done = AtomicBool::new(false);
    let now = Utc::now().timestamp() - 60;
    let old = i64::from(lab.hour.start());
    let client = async |client: u64| {
        let mut turn = 0;
        while !done.load(Ordering::Relaxed) {
            turn += 1;
            let id = 1000 + client * 1_000_000 + turn;
            let at = if turn % 5 == 0 { old + 100 } else { now };
            let user = u32::try_from(turn % 4).unwrap();
            assert_eq!(lab.app.post(id, &view(user, at, "/a")).await.status, 201);
            if turn % 3 == 0 {
                let moved = view(user + 1, at - 3600, "/b");
                assert_eq!(lab.app.put(id, &moved).await.status, 200);
            }
            if turn % 7 == 0 {
                assert_eq!(lab.app.delete(id).await.status, 204);
            }
        }
    };
    let sealing = async {
        while !done.load(Ordering::Relaxed) {
            let as_of = lab.seals.now().await.unwrap();
            lab.seals.seal(lab.hour, as_of).await.unwrap();
            let now = u32::try_from(now).unwrap();
            let hour = Hour::containing(now - 7200);
            lab.seals.seal(hour, as_of).await.unwrap();
        }
    };
    let looking = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let window = u32::try_from(now).unwrap() - 12 * DAY..u32::MAX;
        let patient = lab.reconciler(Duration::from_secs(10), 100);
        let mut passing = 0;
        for _ in 0..3 {
            let comparison = patient.compare(window.clone()).await.unwrap();
            assert_eq!(comparison.findings.total(), 0, "{comparison:#?}");
            passing += comparison.findings.passing;
        }
        // The control: the first look alone names what is on its way.
        let hasty = lab.reconciler(Duration::ZERO, 100);
        let (mut named, patience) = (0, Instant::now() + Duration::from_secs(60));
        while named == 0 && Instant::now() < patience {
            named += hasty
                .compare(window.clone())
                .await
                .unwrap()
                .findings
                .total();
        }
        println!("{passing} differences passed; {named} named by a single look");
        assert!(named > 0, "the traffic is too thin to prove anything");
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(client(1), client(2), client(3), client(4), sealing, looking);
    lab.expect_nothing().await;
    lab.app.stop().await;
}

/// Two views of yesterday.
async fn yesterday(lab: &Lab) -> i64 {
    let yesterday = i64::from(lab.hour.start()) + 9 * 86_400 - 43_200 - 3600;
    let rows = [1, 2].map(|id| format!("({id}, 7, {yesterday}, '/a', 0, 0)"));
    lab.insert("traffic", &rows.join(", ")).await;
    yesterday
}

async fn first_run(stats: impl Fn() -> ReconcileStats) -> ReconcileStats {
    let patience = Instant::now() + Duration::from_secs(60);
    while stats().runs == 0 {
        assert!(Instant::now() < patience, "{:?}", stats());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stats()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_looks_now_and_then_and_tells() {
    let lab = Lab::start().await;
    yesterday(&lab).await;
    let off = lab.app.get("/health/ready").await;
    assert_eq!(off.body["reconciliation"]["checked_at"], Value::Null);
    let database = lab.app.database.clone();
    lab.app.stop().await;
    let flags = ["--sealer=false", "--reconcile-interval-secs=1"];
    let app = TestApp::start_with(&lab.engine, &database, Clock::system(), &flags).await;
    let stats = first_run(|| app.reconcile_stats()).await;
    assert_eq!(
        (stats.stored, stats.differing_days, stats.rival_ids),
        (2, 0, 0)
    );
    let health = app.get("/health/ready").await.body;
    let state = &health["reconciliation"];
    assert_eq!(
        (&health["status"], &state["failing"]),
        (&json!("ok"), &json!(false))
    );
    assert_eq!(
        (&state["differing_days"], &state["rival_ids"]),
        (&json!(0), &json!(0))
    );
    assert!(state["checked_at"].is_string() && state["took_ms"].is_u64());
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_periodic_check_counts_what_differs() {
    let lab = Lab::start().await;
    let yesterday = yesterday(&lab).await;
    lab.delete("traffic", "request_id = 2").await;
    let rival = format!("(1, 8, {yesterday}, '/b', 0, 0)");
    lab.insert("traffic", &rival).await;
    let check = PeriodicCheck::new(lab.reconciler(SHORT, 0));
    let running = tokio::spawn(Arc::clone(&check).run(Duration::from_millis(100)));
    let stats = first_run(|| check.stats()).await;
    assert_eq!((stats.differing_days, stats.rival_ids), (1, 1));
    assert_eq!((stats.failures, stats.failing), (0, false));
    running.abort();
    lab.app.stop().await;
}
