//! `GET /api/traffic/daily/{user_id}` against the same SQL straight to ClickHouse's HTTP interface
//! (`RowBinaryWithNamesAndTypes`, as the service's client asks for it): for users with few and with
//! many views, at rest and while views are written. The data lie on disk, or rather in its cache: on tmpfs
//! ClickHouse hands every read to another thread, which makes a report take half as long again.
//!
//! `cargo bench --bench reports`; `BENCH_VIEWS` (in the tables), `BENCH_CONNECTIONS=1,8`,
//! `BENCH_WRITES` (a second while reports are read), and for the growth `BENCH_USERS`, `BENCH_PAGES`,
//! `BENCH_DAYS`.

#[allow(dead_code, unused_imports, reason = "other benchmarks use the rest")]
mod harness;

use std::io::Write;
use std::time::Duration;

use harness::load::{Amount, Load, Outcome, Pace};
use harness::requests::{closed, posts, reports};
use harness::rounds::{Processes, Rounds, Turn, interleave, round};
use harness::stack::Stack;
use harness::support::service::Service;
use harness::views::Population;
use harness::{numbers, place::Place, setting};

const DATABASE: &str = "service";
/// The one with many views.
const HEAVY_USER: u32 = 4_000_000_000;

fn main() {
    let rounds: usize = setting("BENCH_ROUNDS", 4);
    let time = Duration::from_secs_f64(setting("BENCH_SECS", 1.0));
    let views: u64 = setting("BENCH_VIEWS", 5_000_000);
    let users: u32 = setting("BENCH_USERS", 50_000);
    let pages: u32 = setting("BENCH_PAGES", 200);
    let days: u32 = setting("BENCH_DAYS", 3);
    let writes: u64 = setting("BENCH_WRITES", 2_000);
    let stack = Stack::start(Place::disk());
    let service = stack.service(DATABASE, &[]);
    fill(&stack, views, users, pages, days);

    let usual: Vec<u32> = (0..997_u32).map(|i| i * 7919 % users).collect();
    let heavy = vec![HEAVY_USER];
    for connections in numbers("BENCH_CONNECTIONS", &[1, 8]) {
        let connections = usize::try_from(connections).expect("a number of connections");
        for (who, list) in [("median users", &usual), ("a heavy user", &heavy)] {
            for writes in [0, writes] {
                let amount = Amount::For(time);
                let processes = |service| Processes {
                    service,
                    engine: Some(stack.engine_pid()),
                };
                let (stack, service) = (&stack, &service);
                let ours = closed(service.address, connections, 200, amount);
                let theirs = closed(stack.engine_address(), connections, 200, amount);
                let pid = Some(service.pid());
                let contestants: Vec<(&str, Turn<'_>)> = vec![
                    (
                        "the same SQL, straight",
                        Box::new(move || {
                            round(stack, processes(pid), 1, || {
                                beside(service, writes, time, || queries(theirs, stack, list))
                            })
                        }),
                    ),
                    (
                        "the service",
                        Box::new(move || {
                            round(stack, processes(pid), 1, || {
                                beside(service, writes, time, || reports(ours, list))
                            })
                        }),
                    ),
                ];
                let all = interleave(rounds, contestants);
                println!(
                    "\n{who}, {connections} connections, {writes} views/s written beside; \
                     medians of {rounds} rounds of {time:?} (read \"views\" as \"reports\")"
                );
                Rounds::heading();
                for one in &all {
                    one.line();
                }
                println!(
                    "ratio: {:.3} of the same SQL's reports/s; p50 {:.3}",
                    harness::rounds::ratio(&all[1], &all[0]),
                    all[0].latency_ms(0.5) / all[1].latency_ms(0.5)
                );
            }
        }
    }
}

/// Runs `load` while so many views a second are written.
fn beside(
    service: &Service,
    writes: u64,
    time: Duration,
    load: impl FnOnce() -> Outcome,
) -> Outcome {
    if writes == 0 {
        return load();
    }
    let writing = Load {
        address: service.address,
        connections: 64,
        expected_status: 201,
        pace: Pace::Open(writes as f64),
        amount: Amount::For(time + Duration::from_millis(300)),
    };
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| posts(writing, Population::usual(), ""));
        std::thread::sleep(Duration::from_millis(200));
        let outcome = load();
        assert!(writer.join().expect("the writer").answers > 0);
        outcome
    })
}

/// The query of `src/repository/reports.rs`, with the settings that the service's client sends.
fn queries(load: Load, stack: &Stack, users: &[u32]) -> Outcome {
    let until = chrono::Utc::now().timestamp() + 1;
    let from = until - 86_400;
    let settings = "&default_format=RowBinaryWithNamesAndTypes&max_execution_time=10";
    let heads: Vec<String> = users
        .iter()
        .map(|user| {
            let sql = format!(
                "SELECT page_url, count() AS views FROM traffic FINAL \
                 PREWHERE user_id = {user} AND created_at >= toDateTime({from}, 'UTC') \
                 AND created_at < toDateTime({until}, 'UTC') \
                 GROUP BY page_url \
                 UNION ALL \
                 SELECT '' AS page_url, toUInt64(toUnixTimestamp(until)) AS views \
                 FROM traffic_erasures WHERE user_id = {user}"
            );
            stack.head(DATABASE, &sql, settings)
        })
        .collect();
    let mut turn = heads.iter().cycle();
    load.run(|request| {
        let head = turn.next().map(String::as_str).unwrap_or_default();
        write!(request, "{head}0\r\n\r\n").expect("memory");
        &[]
    })
}

/// `views` of `users` over `days`, a fiftieth of them the heavy user's, in blocks as a busy service
/// leaves them.
fn fill(stack: &Stack, views: u64, users: u32, pages: u32, days: u32) {
    let span = u64::from(days) * 86_400 - 60;
    const BLOCK: u64 = 250_000;
    for block in 0..views.div_ceil(BLOCK) {
        let rows = BLOCK.min(views - block * BLOCK);
        let sql = format!(
            "INSERT INTO traffic (request_id, user_id, created_at, page_url) \
             SELECT cityHash64(number, {block}), \
             if(number % 50 = 0, {HEAVY_USER}, cityHash64(number, {block}, 1) % {users}), \
             now('UTC') - toIntervalSecond(cityHash64(number, {block}, 2) % {span}), \
             concat('/products/page-', toString(cityHash64(number, {block}, 3) % {pages})) \
             FROM numbers({rows}) \
             SETTINGS max_partitions_per_insert_block = 0"
        );
        stack.sql(DATABASE, &sql);
    }
    let parts = stack.number(&format!(
        "SELECT count() FROM system.parts WHERE active AND database = '{DATABASE}' AND table = 'traffic'"
    ));
    println!(
        "{views} views of {users} users on {pages} pages over {days} days in {parts} active parts; \
         the heavy user has {} a day",
        views / 50 / u64::from(days)
    );
}
