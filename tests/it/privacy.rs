//! Erasing a person: nothing of them is left, nobody else's counts change, and nothing brings them
//! back.

use std::path::Path;
use std::time::{Duration, Instant};

use chrono::DateTime;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use traffic_api::access::Scope;
use traffic_api::domain::{Clock, Hour, Stream};
use traffic_api::repository::{LEAST_SEAL_DELAY, Seals};

use crate::support::{
    Answer, TestApp, TestClock, directory, fresh_database, private_engine, repository,
    shared_engine, trust_marks_since, view,
};

const DAY: i64 = 86_400;

pub async fn erase(app: &TestApp, user: u32) -> Answer {
    let path = format!("/api/users/{user}/traffic");
    let request = app.request(Method::DELETE, &path);
    Answer::of(request.send().await.unwrap()).await
}

/// The rows before and after of each table.
fn rows(answer: &Answer) -> Vec<(String, u64, u64)> {
    let tables = answer.body["tables"].as_array().unwrap().iter();
    let row = |table: &Value| {
        let count = |name: &str| table[name].as_u64().unwrap();
        let name = table["table"].as_str().unwrap().to_owned();
        (name, count("before"), count("after"))
    };
    tables.map(row).collect()
}

/// How many rows there are about a user, in all tables that have users.
pub async fn left(app: &TestApp, user: u32) -> String {
    app.sql(&format!(
        "SELECT (SELECT count() FROM traffic WHERE user_id = {user}), \
         (SELECT count() FROM traffic_by_request WHERE user_id = {user}), \
         (SELECT count() FROM traffic_hourly WHERE user_id = {user}), \
         (SELECT count() FROM traffic_hourly_pages WHERE bitmapContains(users, toUInt32({user}))) \
         FORMAT TSV"
    ))
    .await
}

pub const NOTHING: &str = "0\t0\t0\t0";

pub async fn until(what: &str, mut ask: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !ask().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Counts the hours around `at`, as of now.
async fn seal(app: &TestApp, at: i64) -> Seals {
    trust_marks_since(
        &app.clickhouse,
        &app.database,
        Stream::PageViews,
        "2020-01-01",
    )
    .await;
    let seals = Seals::new(repository(&app.clickhouse, &app.database), LEAST_SEAL_DELAY);
    let hour = Hour::containing(u32::try_from(at).unwrap());
    seals.seal(hour, seals.now().await.unwrap()).await.unwrap();
    seals
}

pub async fn created(app: &TestApp, id: u64, body: &Value) {
    let answer = app.post(id, body).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_person_and_nothing_changes_for_others() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    let (now, past) = (clock.now() - 1, clock.now() - 5 * 3600);
    created(&app, 1, &view(7, now, "/a")).await;
    created(&app, 2, &view(7, past, "/only-mine")).await;
    created(&app, 3, &view(8, past, "/a")).await;
    // Moved to the person, from the person, and deleted.
    created(&app, 4, &view(8, past, "/a")).await;
    assert_eq!(
        app.put(4, &view(7, past, "/b")).await.status,
        StatusCode::OK
    );
    created(&app, 5, &view(7, past, "/a")).await;
    assert_eq!(
        app.put(5, &view(8, past, "/b")).await.status,
        StatusCode::OK
    );
    created(&app, 6, &view(7, past, "/a")).await;
    assert_eq!(app.delete(6).await.status, StatusCode::NO_CONTENT);
    seal(&app, past).await;
    assert_ne!(left(&app, 7).await, NOTHING);
    let others = (left(&app, 8).await, app.daily(8).await);
    assert_eq!(others.1, json!({"/a": 1, "/b": 1}));

    let answer = erase(&app, 7).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(answer.body["user_id"], 7);
    let found = rows(&answer);
    assert!(found.iter().all(|(_, _, after)| *after == 0), "{found:?}");
    for table in [
        "traffic",
        "traffic_by_request",
        "traffic_hourly",
        "traffic_hourly_pages",
    ] {
        assert!(
            found
                .iter()
                .any(|(name, before, _)| name == table && *before > 0),
            "{table}: {found:?}"
        );
    }
    assert_eq!(left(&app, 7).await, NOTHING);
    assert_eq!(app.daily(7).await, json!({}));
    assert_eq!(app.daily(8).await, others.1);
    for id in [1, 2, 4, 6] {
        let answer = app.get(&format!("/api/traffic/{id}")).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{id} {answer:?}");
    }

    // Again: there is nothing, and nothing happens to others.
    let again = erase(&app, 7).await;
    assert_eq!(again.status, StatusCode::OK);
    assert!(
        rows(&again)
            .iter()
            .all(|(_, before, after)| (before, after) == (&0, &0)),
        "{again:?}"
    );
    assert_eq!(
        (again.body["spool"]["before"].clone(), app.daily(8).await),
        (json!(0), others.1)
    );

    // Retries of what was erased stay erased; what is new is new.
    for id in [1, 2, 5, 6] {
        let at = if id == 1 { now } else { past };
        let page = if id == 2 { "/only-mine" } else { "/a" };
        let retry = app.post(id, &view(7, at, page)).await;
        assert_eq!(retry.status, StatusCode::GONE, "{retry:?}");
        assert_eq!(retry.body["type"], "/problems#erased");
    }
    assert_eq!(
        app.put(3, &view(7, past, "/a")).await.status,
        StatusCode::GONE
    );
    let change = json!({"user_id": 7});
    assert_eq!(app.patch(3, &change).await.status, StatusCode::GONE);
    let lines = [(1, 7, past), (20, 8, past)].map(|(id, user, at)| {
        let mut line = view(user, at, "/a");
        line["request_id"] = json!(id);
        line
    });
    let batch = app.call(Method::POST, "/api/traffic", &json!(lines)).await;
    assert_eq!(batch.body["accepted"], 1, "{batch:?}");
    assert_eq!(batch.body["rejected"][0]["errors"][0]["code"], "erased");
    clock.set(clock.now() + 10);
    created(&app, 21, &view(7, clock.now(), "/new")).await;
    assert_eq!(app.daily(7).await, json!({"/new": 1}));
    assert_eq!(app.daily(8).await, json!({"/a": 2, "/b": 1}));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_that_broke_off_counts_at_once_and_is_finished_by_whoever_is_there() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    let past = clock.now() - 5 * 3600;
    created(&app, 1, &view(7, past, "/a")).await;
    created(&app, 2, &view(8, past, "/a")).await;
    seal(&app, past).await;
    // As far as an instance came that was killed behind the record.
    let until = clock.now();
    app.sql(&format!(
        "INSERT INTO traffic_erasures (user_id, until) VALUES (7, {until})"
    ))
    .await;
    assert_eq!(app.daily(7).await, json!({}));
    assert_eq!(
        app.get("/api/traffic/1").await.status,
        StatusCode::NOT_FOUND
    );
    until_nothing_is_left(&app, 7).await;
    assert_eq!(app.daily(8).await, json!({"/a": 1}));
    app.stop().await;
}

pub async fn until_nothing_is_left(app: &TestApp, user: u32) {
    until("all gone", async || left(app, user).await == NOTHING).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_was_under_way_elsewhere_is_neither_counted_nor_kept() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    let past = clock.now() - 5 * 3600;
    created(&app, 1, &view(8, past, "/a")).await;
    assert_eq!(erase(&app, 7).await.status, StatusCode::OK);
    // Of an instance that had not heard of it.
    app.sql(&format!(
        "INSERT INTO traffic VALUES (2, 7, {past}, '/late', 0, 0)"
    ))
    .await;
    assert_eq!(app.daily(7).await, json!({}));
    assert_eq!(
        app.get("/api/traffic/2").await.status,
        StatusCode::NOT_FOUND
    );
    // A sealer that comes across it does not count it.
    let seals = seal(&app, past).await;
    assert_eq!(
        app.sql("SELECT sum(total) FROM traffic_hourly FINAL").await,
        "1"
    );
    assert_eq!(
        app.sql("SELECT sum(views) FROM traffic_hourly_pages FINAL")
            .await,
        "1"
    );
    drop(seals);
    let (database, clickhouse) = (app.database.clone(), app.clickhouse.clone());
    app.stop().await;
    // Every start looks for such rows.
    let app = TestApp::start_with(&clickhouse, &database, clock.behind(0), &[]).await;
    until_nothing_is_left(&app, 7).await;
    assert_eq!(app.daily(8).await, json!({"/a": 1}));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_in_another_instances_spool_does_not_come_back() {
    let (engine, clickhouse) = private_engine("erase-spool").await;
    let (database, data) = (fresh_database(), directory("erase-spool-data"));
    let flag = format!("--data-dir={}", data.display());
    let at = chrono::Utc::now().timestamp() - 10;
    let app = TestApp::start_with(&clickhouse, &database, Clock::system(), &[&flag]).await;
    engine.stop().await;
    for (id, user) in [(1, 7), (2, 8), (3, 7)] {
        let answer = app.post(id, &view(user, at, "/waits")).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    }
    let down = erase(&app, 7).await;
    assert_eq!(down.status, StatusCode::SERVICE_UNAVAILABLE, "{down:?}");
    assert_ne!(down.header("retry-after"), "");
    app.stop().await;

    let (engine, clickhouse) = private_engine("erase-spool").await;
    let other = TestApp::start_with(&clickhouse, &database, Clock::system(), &[]).await;
    assert_eq!(erase(&other, 7).await.status, StatusCode::OK);
    let app = TestApp::start_with(&clickhouse, &database, Clock::system(), &[&flag]).await;
    until("the others' views are replayed", async || {
        app.daily(8).await == json!({"/waits": 1})
    })
    .await;
    until("the spool is empty", async || {
        let ready = app.get("/health/ready").await;
        ready.body["spool"]["files"] == 0
    })
    .await;
    assert_eq!(app.daily(7).await, json!({}));
    assert_eq!(left(&app, 7).await, NOTHING, "never sent at all");
    app.stop().await;
    other.stop().await;
    engine.stop().await;
}

/// Whether any file below `directory` has these bytes in it.
pub fn is_on_disk(directory: &Path, bytes: &[u8]) -> bool {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths = entries.map(|entry| entry.path());
    paths.any(|path| match path.is_dir() {
        true => is_on_disk(&path, bytes),
        false => {
            let content = std::fs::read(&path).unwrap_or_default();
            content.windows(bytes.len()).any(|window| window == bytes)
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_of_a_page_that_only_one_person_saw_leave_the_disk() {
    let (engine, clickhouse) = private_engine("erase-disk").await;
    let app = TestApp::start_with(&clickhouse, &fresh_database(), Clock::system(), &[]).await;
    let past = chrono::Utc::now().timestamp() - 5 * 3600;
    // In pages that compression leaves readable: each is alone in its part's dictionary.
    created(&app, 1, &view(7, past, "/QZXJKVWPYH-of-the-person")).await;
    created(&app, 2, &view(8, past - DAY, "/NOBODYELSES-of-another")).await;
    let store = directory("erase-disk");
    let (person, other) = (b"QZXJKVWPYH", b"NOBODYELSES");
    assert!(is_on_disk(&store, person) && is_on_disk(&store, other));
    assert_eq!(erase(&app, 7).await.status, StatusCode::OK);
    // ClickHouse keeps replaced parts for a while.
    until("the bytes are gone", async || !is_on_disk(&store, person)).await;
    assert!(is_on_disk(&store, other));
    assert_eq!(app.daily(7).await, json!({}));
    app.stop().await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn erasing_takes_the_scope_admin_and_a_key_for_that_person() {
    let admin = crate::auth::made(&[Scope::Admin], |_| {});
    let writer = crate::auth::made(&[Scope::Write, Scope::Read], |_| {});
    let some = crate::auth::made(&[Scope::Admin], |key| {
        key.restrictions.users = "7".parse().unwrap();
    });
    let app = crate::auth::start(&[&admin, &writer, &some], &[]).await;
    for (key, user, expected) in [
        (&admin, 1, StatusCode::OK),
        (&writer, 7, StatusCode::FORBIDDEN),
        (&some, 7, StatusCode::OK),
        (&some, 8, StatusCode::FORBIDDEN),
    ] {
        let request = app.request(Method::DELETE, &format!("/api/users/{user}/traffic"));
        let answer = Answer::of(request.bearer_auth(&key.secret).send().await.unwrap()).await;
        assert_eq!(answer.status, expected, "{user} {answer:?}");
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn views_that_arrive_amid_an_erasure_are_erased_or_new_and_never_in_between() {
    let clickhouse = shared_engine();
    let (database, clock) = (fresh_database(), TestClock::frozen());
    let one = TestApp::start_with(&clickhouse, &database, clock.behind(0), &[]).await;
    let two = TestApp::start_with(&clickhouse, &database, clock.behind(0), &[]).await;
    let now = clock.now();
    for round in 0..5_u64 {
        let at = now - 3600 + i64::try_from(round).unwrap();
        let posts = (0..40_u64).map(|i| {
            let (app, id) = ([&one, &two][i as usize % 2], round * 1000 + i);
            async move {
                let user = 7 + u32::try_from(i % 4 / 2).unwrap();
                let body = view(user, at, "/amid");
                app.post(id, &body).await.status
            }
        });
        let (answers, erased) = tokio::join!(futures_util::future::join_all(posts), erase(&one, 7));
        assert_eq!(erased.status, StatusCode::OK, "{erased:?}");
        for (i, status) in answers.into_iter().enumerate() {
            let is_person = i % 4 / 2 == 0;
            assert!(
                status == StatusCode::CREATED || (is_person && status == StatusCode::GONE),
                "{i} {status}"
            );
        }
        let until = erased.body["erased_until"].as_str().unwrap();
        assert!(DateTime::parse_from_rfc3339(until).unwrap().timestamp() >= now);
        for app in [&one, &two] {
            assert_eq!(app.daily(7).await, json!({}), "round {round}");
            assert_eq!(app.daily(8).await, json!({"/amid": 20 * (round + 1)}));
        }
    }
    until_nothing_is_left(&one, 7).await;
    one.stop().await;
    two.stop().await;
}
