//! Why the data model is what it is: the obvious schemas, given the same history, miscount.
//!
//! One history of posts, retries and updates goes into each schema as its author would write it, and
//! into the service. The figures that this prints stand in `docs/data-model.md`.

use std::collections::BTreeMap;
use std::fmt::Write;

use futures_util::stream::{self, StreamExt};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::support::{TestApp, TestClock, view};

const VIEWS: u64 = 600;
const USERS: u32 = 10;
const PAGES: u32 = 6;
/// All views lie within so many seconds, so that some share a second, as views do.
const SPAN: i64 = 1800;

#[derive(Clone, Copy)]
struct Row {
    id: u64,
    user: u32,
    at: i64,
    page: u32,
    version: u64,
}

/// What is sent, in order: first posts, then retries of some and updates of some.
struct History {
    posts: Vec<Row>,
    retries: Vec<Row>,
    updates: Vec<Row>,
}

/// Cells (user, page) with their count, without zeros.
type Report = BTreeMap<(u32, u32), u64>;

impl History {
    fn new(now: i64) -> Self {
        let mut random = StdRng::seed_from_u64(7);
        let mut row = |id, version| Row {
            id,
            user: random.random_range(0..USERS),
            at: now - random.random_range(0..SPAN),
            page: random.random_range(0..PAGES),
            version,
        };
        let posts: Vec<Row> = (0..VIEWS).map(|id| row(id, 0)).collect();
        let updates = (0..VIEWS).step_by(5).map(|id| row(id, 1)).collect();
        let retries = posts.iter().copied().skip(1).step_by(5).collect();
        Self {
            posts,
            retries,
            updates,
        }
    }

    fn truth(&self, with_updates: bool) -> Report {
        let mut current: BTreeMap<u64, Row> = self.posts.iter().map(|r| (r.id, *r)).collect();
        if with_updates {
            current.extend(self.updates.iter().map(|r| (r.id, *r)));
        }
        let mut report = Report::new();
        for row in current.values() {
            *report.entry((row.user, row.page)).or_default() += 1;
        }
        report
    }
}

fn wrong(report: &Report, truth: &Report) -> usize {
    let cells = (0..USERS).flat_map(|u| (0..PAGES).map(move |p| (u, p)));
    cells
        .filter(|cell| report.get(cell) != truth.get(cell))
        .count()
}

/// A schema as tried by others: how it stores a row, and how it reads the report.
struct Schema {
    name: &'static str,
    create: &'static [&'static str],
    table: &'static str,
    report: &'static str,
}

const SCHEMAS: &[Schema] = &[
    Schema {
        name: "ReplacingMergeTree ORDER BY (user_id, created_at)",
        create: &[
            "CREATE TABLE a (id UInt64, user UInt32, at DateTime, page UInt32, version UInt64) \
             ENGINE = ReplacingMergeTree(version) ORDER BY (user, at)",
        ],
        table: "a",
        report: "SELECT user, page, count() FROM a FINAL GROUP BY user, page",
    },
    Schema {
        name: "SummingMergeTree view over the raw table",
        create: &[
            "CREATE TABLE b (id UInt64, user UInt32, at DateTime, page UInt32, version UInt64) \
             ENGINE = ReplacingMergeTree(version) ORDER BY id",
            "CREATE TABLE b_sum (user UInt32, hour DateTime, page UInt32, views UInt64) \
             ENGINE = SummingMergeTree ORDER BY (user, hour, page)",
            "CREATE MATERIALIZED VIEW b_mv TO b_sum AS SELECT user, toStartOfHour(at) AS hour, \
             page, count() AS views FROM b GROUP BY user, hour, page",
        ],
        table: "b",
        report: "SELECT user, page, sum(views) FROM b_sum GROUP BY user, page",
    },
    Schema {
        name: "uniq of request ids per hour and page",
        create: &[
            "CREATE TABLE c (id UInt64, user UInt32, at DateTime, page UInt32, version UInt64) \
             ENGINE = ReplacingMergeTree(version) ORDER BY id",
            "CREATE TABLE c_uniq (user UInt32, hour DateTime, page UInt32, \
             views AggregateFunction(uniqExact, UInt64)) \
             ENGINE = AggregatingMergeTree ORDER BY (user, hour, page)",
            "CREATE MATERIALIZED VIEW c_mv TO c_uniq AS SELECT user, toStartOfHour(at) AS hour, \
             page, uniqExactState(id) AS views FROM c GROUP BY user, hour, page",
        ],
        table: "c",
        report: "SELECT user, page, uniqExactMerge(views) FROM c_uniq GROUP BY user, page",
    },
];

async fn insert(app: &TestApp, table: &str, rows: &[Row]) {
    // Several inserts, as a service would make them.
    for chunk in rows.chunks(50) {
        let mut sql = format!("INSERT INTO {table} VALUES ");
        for row in chunk {
            let Row {
                id,
                user,
                at,
                page,
                version,
            } = row;
            write!(sql, "({id},{user},{at},{page},{version})").unwrap();
        }
        app.sql(&sql).await;
    }
}

async fn read(app: &TestApp, sql: &str) -> Report {
    let text = app.sql(sql).await;
    let number = |field: Option<&str>| field.unwrap().parse::<u64>().unwrap();
    text.lines()
        .map(|line| {
            let mut fields = line.split('\t');
            let (user, page) = (number(fields.next()), number(fields.next()));
            (
                (u32::try_from(user).unwrap(), u32::try_from(page).unwrap()),
                number(fields.next()),
            )
        })
        .collect()
}

async fn ours(app: &TestApp) -> Report {
    let mut report = Report::new();
    for user in 0..USERS {
        for (page, views) in app.daily(user).await.as_object().unwrap() {
            let page = page.trim_start_matches('/').parse().unwrap();
            report.insert((user, page), views.as_u64().unwrap());
        }
    }
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn the_obvious_schemas_miscount_and_the_claims_do_not() {
    let clock = TestClock::frozen();
    let app = TestApp::start_at(&clock).await;
    let history = History::new(clock.now());
    let (before, after) = (history.truth(false), history.truth(true));
    let cells = USERS * PAGES;
    println!("wrong cells of {cells}: after unique posts / with retries / with updates");

    for schema in SCHEMAS {
        for statement in schema.create {
            app.sql(statement).await;
        }
        let mut figures = Vec::new();
        for (rows, truth) in [
            (&history.posts, &before),
            (&history.retries, &before),
            (&history.updates, &after),
        ] {
            insert(&app, schema.table, rows).await;
            figures.push(wrong(&read(&app, schema.report).await, truth));
        }
        println!(
            "{}: {} / {} / {}",
            schema.name, figures[0], figures[1], figures[2]
        );
        assert!(figures[2] > 0, "{} is right after all", schema.name);
    }

    let body = |row: Row| (row.id, view(row.user, row.at, &format!("/{}", row.page)));
    let mut figures = Vec::new();
    for (rows, truth) in [
        (&history.posts, &before),
        (&history.retries, &before),
        (&history.updates, &after),
    ] {
        let calls = stream::iter(rows.iter().map(|row| {
            let ((id, body), app) = (body(*row), &app);
            async move {
                if row.version == 0 {
                    app.post(id, &body).await
                } else {
                    app.put(id, &body).await
                }
            }
        }));
        for answer in calls.buffer_unordered(16).collect::<Vec<_>>().await {
            assert!(answer.status.is_success(), "{answer:?}");
        }
        figures.push(wrong(&ours(&app).await, truth));
    }
    println!(
        "claims (this service): {} / {} / {}",
        figures[0], figures[1], figures[2]
    );
    assert_eq!(figures, [0, 0, 0]);
    app.stop().await;
}
