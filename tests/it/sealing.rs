//! Sealing, rule by rule: what holds with the rule, and what goes wrong without it.
//!
//! The times are ClickHouse's own, which the tests set; they are seconds after the end of one hour.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use traffic_api::app;
use traffic_api::config::Cli;
use traffic_api::domain::{
    Clock, CreatedAt, DaysQuery, Hour, MAX_LIMIT, PagesQuery, PagesRequest, ReportWindow, Stream,
    UserId,
};
use traffic_api::repository::{
    self, LEAST_SEAL_DELAY, Moment, Plan, Reports, SealerStats, Seals, ServerTime,
};

use crate::support::{
    ClickHouse, MarkClock, TestApp, fresh_database, repository, rfc3339, shared_engine,
    trust_marks_since,
};

/// When an hour may be sealed.
const CLOSED: i64 = 2400;
/// When its rows begin to be marked.
const MARKED: i64 = 1800;

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
        let flags = ["--sealer=false"];
        let app = TestApp::start_with(&engine, &database, Clock::system(), &flags).await;
        let ago = Utc::now().timestamp() - 10 * 86_400;
        let lab = Self {
            marks: MarkClock::new(&engine, &database, Stream::PageViews).await,
            seals: Seals::new(repository(&engine, &database), LEAST_SEAL_DELAY),
            hour: Hour::containing(u32::try_from(ago).unwrap()),
            app,
            engine,
        };
        lab.marks.stop().await;
        lab
    }

    fn at(&self, seconds: i64) -> ServerTime {
        ServerTime::from_millis((i64::from(self.hour.end()) + seconds) * 1000)
    }

    async fn mark_clock(&self, seconds: i64) {
        self.marks.set(self.at(seconds).millis()).await;
    }

    async fn seal(&self, seconds: i64) {
        self.seals.seal(self.hour, self.at(seconds)).await.unwrap();
    }

    async fn reseal(&self, seconds: i64) {
        let at = self.at(seconds);
        self.seals.reseal(self.hour, at, at).await.unwrap();
    }

    /// One view of user 7 in the hour, or its tombstone.
    fn row(&self, id: u64, deleted: bool) -> String {
        let at = self.hour.start() + 60;
        let deleted = u8::from(deleted);
        format!("({id}, 7, {at}, '/a', {deleted}, {deleted})")
    }

    async fn insert(&self, row: &str) {
        self.app
            .sql(&format!("INSERT INTO traffic VALUES {row}"))
            .await;
    }

    /// How many of the rows are marked, those included that do not count.
    async fn late_rows(&self) -> String {
        let sql = "SELECT count() FROM traffic WHERE late_at > 0";
        self.app.sql(sql).await
    }

    async fn merge(&self) {
        for sql in [
            "SYSTEM START MERGES traffic",
            "OPTIMIZE TABLE traffic FINAL",
        ] {
            self.app.sql(sql).await;
        }
    }

    async fn count(&self, plan: Plan) -> (u64, u64) {
        let reports = Reports::new(repository(&self.engine, &self.app.database), plan);
        let window = ReportWindow {
            from: CreatedAt::from_unix(self.hour.start()),
            until: CreatedAt::from_unix(self.hour.end()),
        };
        let user = reports.daily(UserId::new(7), window).await.unwrap();
        let all = PagesRequest::First(PagesQuery::top(window, MAX_LIMIT));
        let site = reports.pages(&all, Moment::default()).await.unwrap().pages;
        (
            user.pages.iter().map(|(_, views)| views).sum(),
            site.iter().map(|total| total.views).sum(),
        )
    }

    /// What the pre-aggregate says of the user and of the site, and that the claims agree.
    async fn expect(&self, views: u64) {
        assert_eq!(self.count(Plan::Claims).await, (views, views));
        assert_eq!(self.count(Plan::View).await, (views, views));
    }

    /// Without the rule, the pre-aggregate is wrong.
    async fn expect_wrong(&self, views: u64, wrong: u64) {
        assert_eq!(self.count(Plan::Claims).await, (views, views));
        assert_eq!(self.count(Plan::View).await, (wrong, wrong));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sealed_hours_are_read_from_their_counts() {
    let lab = Lab::start().await;
    lab.insert(&lab.row(1, false)).await;
    lab.expect(1).await;
    lab.seal(CLOSED).await;
    lab.expect(1).await;
    // A row that nothing tells of: only so can a test see where a report comes from.
    lab.insert(&lab.row(2, false)).await;
    lab.expect_wrong(2, 1).await;
    lab.seal(CLOSED + 1).await;
    lab.expect(2).await;
    lab.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hours_that_hold_the_edge_of_a_day_are_read_from_the_claims() {
    let lab = Lab::start().await;
    let last = Hour::containing(lab.hour.start() - lab.hour.start() % 86_400);
    let (days, zone) = (70_u32, chrono_tz::Asia::Kolkata);
    let first = last.start() - days * 86_400;
    // All hours are sealed, with nothing in them.
    let seals = format!(
        "INSERT INTO traffic_seals SELECT toDateTime({first} + number * 3600, 'UTC'), now64(3), \
         now64(3) FROM numbers({})",
        days * 24
    );
    lab.app.sql(&seals).await;
    // Rows that nothing tells of, on both sides of midnight in Kolkata, 18:30 of UTC, and at noon.
    let rows = (0..days).flat_map(|day| {
        let at = |seconds: u32| first + day * 86_400 + seconds;
        [at(18 * 3600 + 1799), at(18 * 3600 + 1800), at(12 * 3600)]
    });
    let row = |(id, at)| format!("({id}, 7, {at}, '/a', 0, 0)");
    let rows: Vec<String> = (0..).zip(rows).map(row).collect();
    lab.insert(&rows.join(", ")).await;

    let date = |at: u32| DateTime::from_timestamp(at.into(), 0).unwrap().date_naive();
    let count = async |zone, plan| {
        let reports = Reports::new(repository(&lab.engine, &lab.app.database), plan);
        let query = DaysQuery::new(zone, date(first), date(last.start()), true);
        let report = reports.days(UserId::new(7), &query).await.unwrap();
        let days: Vec<u64> = report.days.iter().map(|day| day.views).collect();
        days
    };
    let days = days as usize;
    let mut all = vec![3; days];
    assert_eq!(count(chrono_tz::UTC, Plan::Claims).await, all);
    // The evening before the first day has no row.
    all[0] = 2;
    assert_eq!(count(zone, Plan::Claims).await, all);
    // The row at noon is hidden by the count of its hour, those around midnight are not.
    let mut edges = vec![2; days];
    edges[0] = 1;
    assert_eq!(count(zone, Plan::View).await, edges);
    // Where midnight is that of UTC, all hours are whole.
    assert_eq!(count(chrono_tz::UTC, Plan::View).await, vec![0; days]);
    lab.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_slack_is_not_enough() {
    let lab = Lab::start().await;
    let too_early = lab.seals.seal(lab.hour, lab.at(MARKED)).await;
    assert!(matches!(too_early, Err(repository::Error::NotClosed(_))));
    let one_slack = Duration::from_secs(MARKED.unsigned_abs());
    let hasty = Seals::new(repository(&lab.engine, &lab.app.database), one_slack);
    hasty.seal(lab.hour, lab.at(MARKED)).await.unwrap();
    // The insert looked at the clock just before rows are marked, and ends only now.
    lab.mark_clock(MARKED - 1).await;
    lab.insert(&lab.row(1, false)).await;
    lab.marks.stop().await;
    assert_eq!(lab.late_rows().await, "0");
    lab.expect_wrong(1, 0).await;

    lab.seal(CLOSED).await;
    lab.expect(1).await;
    lab.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_outweighs_counts_made_while_its_insert_may_run() {
    let lab = Lab::start().await;
    lab.seal(CLOSED).await;
    // Counted after the row was marked and before it can be read.
    lab.reseal(5059).await;
    lab.seal(5060).await;
    lab.mark_clock(5000).await;
    lab.insert(&lab.row(1, false)).await;
    lab.expect(1).await;
    // Had the seal cleared the mark, the row would be missed.
    lab.marks.clear().await;
    lab.expect_wrong(1, 0).await;
    lab.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn late_users_are_counted_again_once_their_rows_must_be_in() {
    let lab = Lab::start().await;
    lab.insert(&lab.row(1, false)).await;
    lab.seal(CLOSED).await;
    lab.mark_clock(5000).await;
    lab.insert(&lab.row(2, false)).await;
    lab.expect(2).await;
    lab.reseal(5060).await;
    lab.expect(2).await;
    lab.reseal(5061).await;
    lab.expect(2).await;
    let counted = lab.app.sql("SELECT total FROM traffic_hourly FINAL").await;
    assert_eq!(counted, "2");
    lab.marks.stop().await;
    lab.insert(&lab.row(3, false)).await;
    lab.expect_wrong(3, 2).await;
    lab.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_goes_with_its_row() {
    let lab = Lab::start().await;
    lab.app.sql("SYSTEM STOP MERGES traffic").await;
    lab.insert(&lab.row(1, false)).await;
    lab.seal(CLOSED).await;
    lab.mark_clock(5000).await;
    lab.insert(&lab.row(1, true)).await;
    // A late copy of what is deleted by now.
    lab.mark_clock(6000).await;
    lab.insert(&lab.row(1, false)).await;
    lab.marks.stop().await;
    assert_eq!(lab.late_rows().await, "2");
    lab.expect(0).await;
    lab.merge().await;
    // What does not count is gone; the deletion is not, and still speaks against the old counts.
    assert_eq!(lab.late_rows().await, "1");
    lab.expect(0).await;
    lab.reseal(5061).await;
    lab.expect(0).await;
    lab.insert(&lab.row(2, false)).await;
    lab.expect_wrong(1, 0).await;
    lab.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_counted_for_an_older_mark_though_the_newest_is_not_covered() {
    let lab = Lab::start().await;
    lab.app.sql("SYSTEM STOP MERGES traffic").await;
    lab.insert(&lab.row(1, false)).await;
    lab.insert(&lab.row(2, true)).await;
    lab.seal(CLOSED).await;
    lab.mark_clock(5000).await;
    lab.insert(&lab.row(3, false)).await;
    lab.mark_clock(5050).await;
    lab.insert(&lab.row(2, false)).await;
    lab.marks.stop().await;
    lab.reseal(5080).await;
    // The late copy goes with its mark, and the hour is clean: the other row must have been counted.
    lab.merge().await;
    lab.expect(2).await;
    lab.insert(&lab.row(4, false)).await;
    lab.expect_wrong(3, 2).await;
    lab.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_survey_asks_for_new_marks_only_and_forgets_none() {
    let lab = Lab::start().await;
    lab.insert(&lab.row(1, false)).await;
    lab.seal(CLOSED).await;
    let marked_at = async |seals: &Seals| seals.survey().await.unwrap().hours[&lab.hour].marked_at;
    assert_eq!(marked_at(&lab.seals).await, None);

    let now = lab.seals.now().await.unwrap();
    lab.marks.set(now.millis()).await;
    lab.insert(&lab.row(2, false)).await;
    assert_eq!(marked_at(&lab.seals).await, Some(now));
    lab.marks.clear().await;
    assert_eq!(marked_at(&lab.seals).await, Some(now));

    // Nobody else has seen that one; and this one comes from before the last survey.
    let hour_ago = ServerTime::from_millis(now.millis() - 3_600_000);
    lab.marks.set(hour_ago.millis()).await;
    lab.insert(&lab.row(3, false)).await;
    let other = Seals::new(repository(&lab.engine, &lab.app.database), LEAST_SEAL_DELAY);
    assert_eq!(marked_at(&other).await, Some(hour_ago));
    assert_eq!(marked_at(&lab.seals).await, Some(now));
    lab.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_of_counts_is_read_before_they_are_made() {
    let lab = Lab::start().await;
    lab.seal(CLOSED).await;
    lab.mark_clock(5000).await;
    lab.insert(&lab.row(1, false)).await;
    lab.expect(1).await;
    // As if counted before the row came, under a time taken long after.
    let sql = |table: &str, columns: &str| {
        let (hour, at) = (lab.hour.start(), lab.at(5100).millis());
        format!(
            "INSERT INTO {table} SELECT {columns} toDateTime({hour}, 'UTC') AS hour, \
             fromUnixTimestamp64Milli(toInt64({at}), 'UTC') AS sealed_at"
        )
    };
    lab.app
        .sql(&sql(
            "traffic_hourly (user_id, hour, sealed_at)",
            "7 AS user_id,",
        ))
        .await;
    lab.app
        .sql(&sql("traffic_seals (hour, sealed_at)", ""))
        .await;
    lab.expect_wrong(1, 0).await;
    lab.seal(5101).await;
    lab.expect(1).await;
    lab.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hour_is_recorded_only_after_its_counts() {
    let lab = Lab::start().await;
    lab.insert(&lab.row(1, false)).await;
    let at = lab.at(CLOSED);
    lab.seals.count_whole(lab.hour, at).await.unwrap();
    lab.seals.count_rest(lab.hour, at).await.unwrap();
    lab.insert(&lab.row(2, false)).await;
    // Not recorded: the counts are not used.
    lab.expect(2).await;
    lab.seals.record(lab.hour, at, at).await.unwrap();
    lab.expect_wrong(2, 1).await;
    lab.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_pages_without_views_keep_an_empty_row() {
    let lab = Lab::start().await;
    lab.insert(&lab.row(1, false)).await;
    lab.seal(CLOSED).await;
    lab.mark_clock(5000).await;
    lab.insert(&lab.row(1, true)).await;
    lab.expect(0).await;
    for again in [false, true] {
        if again {
            lab.seal(5200).await;
        } else {
            lab.reseal(5100).await;
        }
        lab.expect(0).await;
    }
    for (table, empty) in [
        ("traffic_hourly", "total = 0"),
        ("traffic_hourly_pages", "views = 0"),
    ] {
        let sql = format!("ALTER TABLE {table} DELETE WHERE {empty} SETTINGS mutations_sync = 1");
        lab.app.sql(&sql).await;
    }
    assert_eq!(lab.app.sql("SELECT count() FROM traffic_hourly").await, "1");
    assert_eq!(lab.count(Plan::View).await, (1, 1));
    lab.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_from_before_the_marks_are_not_trusted() {
    let lab = Lab::start().await;
    lab.seal(CLOSED).await;
    // Rows are not marked for a while, and then they are.
    lab.insert(&lab.row(1, false)).await;
    lab.expect_wrong(1, 0).await;
    trust_marks_since(
        &lab.engine,
        &lab.app.database,
        Stream::PageViews,
        &rfc3339(lab.at(CLOSED).millis() / 1000),
    )
    .await;
    lab.expect(1).await;
    lab.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sealer_fills_an_existing_database_and_tells_how_far_it_is() {
    let lab = Lab::start().await;
    let (hours, first) = (30, lab.hour.start() + 8 * 86_400);
    let rows: Vec<String> = (0..hours)
        .map(|hour| {
            let at = first + hour * 3600 + 5;
            format!("({hour}, 7, {at}, '/a', 0, 0)")
        })
        .collect();
    lab.insert(&rows.join(", ")).await;
    let database = lab.app.database.clone();
    lab.app.stop().await;

    let flags = ["--report-plan=view"];
    let app = TestApp::start_with(&lab.engine, &database, Clock::system(), &flags).await;
    // Two days; the last hours are empty.
    let patience = Instant::now() + Duration::from_secs(120);
    let filled = |stats: SealerStats| stats.sealed.is_some() && stats.unsealed_hours == 0;
    while !filled(app.sealer_stats()) {
        assert!(Instant::now() < patience, "{:?}", app.sealer_stats());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let stats = app.sealer_stats();
    assert_eq!(
        (stats.failures, stats.failing, stats.late_hours),
        (0, false, 0)
    );
    assert_eq!(stats.sealed.map(|(from, _)| from), Some(first));
    assert!(stats.counted >= 46, "{stats:?}");
    assert_eq!(
        app.sql("SELECT sum(total) FROM traffic_hourly FINAL").await,
        hours.to_string()
    );
    let view = &app.get("/health/ready").await.body["view"];
    assert_eq!(view["failing"], false);
    assert!(
        view["looked_at"].is_string() && view["refresh_ms"].is_u64(),
        "{view}"
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hours_are_sealed_by_hand() {
    let lab = Lab::start().await;
    lab.insert(&lab.row(1, false)).await;
    let (from, to) = (lab.hour, Hour::from(lab.hour.end() + 3600));
    let time = |hour: Hour| DateTime::<Utc>::from_timestamp(hour.start().into(), 0).unwrap();
    let data_dir = crate::support::directory("sealed-by-hand");
    let flags = [
        "traffic-api".to_owned(),
        format!("--clickhouse-database={}", lab.app.database),
        format!("--data-dir={}", data_dir.display()),
    ];
    let flags = flags.into_iter().chain(lab.engine.flags()).map(Into::into);
    let settings = Cli::read(flags).ok().unwrap().settings;
    let said = std::sync::Mutex::new(Vec::new());
    let say = |line: &str| said.lock().unwrap().push(line.to_owned());
    app::seal(&settings, time(from), time(to), say)
        .await
        .unwrap();
    let said = said.into_inner().unwrap();
    assert_eq!(said.len(), 3, "{said:?}");
    assert_eq!(said[0], format!("sealed {from}"));
    assert_eq!(said[2], "2 hours sealed");
    lab.insert(&lab.row(2, false)).await;
    lab.expect_wrong(2, 1).await;
    lab.app.stop().await;
}
