//! Reports by plan: from the claims, from the pre-aggregate, and as the service chooses, through the
//! service's own HTTP interface, on unmerged and on merged parts; what sealing costs, and what each
//! table takes on disk.
//!
//! `cargo bench --bench sealed_reports`; `BENCH_VIEWS` (all views), `BENCH_USERS`, `BENCH_PAGES`,
//! `BENCH_DAYS`, `BENCH_HEAVY` (views a day of one user, part of all views), `BENCH_BLOCK` (views an
//! insert). Everything is back-filled, which is the worst case: every row has a mark.

#[allow(dead_code, unused_imports, reason = "other benchmarks use the rest")]
mod harness;

use std::time::{Duration, Instant};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use harness::load::Amount;
use harness::requests::{closed, prepared};
use harness::rounds::{Processes, Rounds, Turn, interleave, round};
use harness::stack::Stack;
use harness::support::service::{self, Service};
use harness::{meter, place::Place, setting};

const DATABASE: &str = "service";
const HEAVY_USER: u32 = 4_000_000_000;
/// Counts hold a marked row only when they are made this long after it; see `src/repository/seals.rs`.
const MARKS_SETTLE: Duration = Duration::from_secs(62);

type Requests = Vec<(Vec<u8>, Vec<u8>)>;

struct Size {
    views: u64,
    users: u64,
    pages: u64,
    days: u64,
    heavy: u64,
    block: u64,
}

fn main() {
    let size = Size {
        views: setting("BENCH_VIEWS", 20_000_000),
        users: setting("BENCH_USERS", 200_000),
        pages: setting("BENCH_PAGES", 1_000),
        days: setting("BENCH_DAYS", 7),
        heavy: setting("BENCH_HEAVY", 1_000_000),
        block: setting("BENCH_BLOCK", 100_000),
    };
    let stack = Stack::start(Place::fast());
    let plans = ["claims", "view", "auto"];
    let services = plans.map(|plan| {
        let settings = [("REPORT_PLAN", plan), ("SEALER", "false")];
        let data_dir = stack.place.path().join(plan);
        let service = stack.service_in(&data_dir, DATABASE, &settings);
        (plan, service)
    });
    stack.sql(DATABASE, "SYSTEM STOP MERGES traffic");
    let now = fill(&stack, &size);
    std::thread::sleep(MARKS_SETTLE);
    seal(&stack, &size, now);
    let questions = questions(&size, now);
    compare(&stack, &services, &questions, "unmerged");

    stack.sql(DATABASE, "SYSTEM START MERGES traffic");
    for table in tables(&stack) {
        stack.sql(DATABASE, &format!("OPTIMIZE TABLE {table} FINAL"));
    }
    compare(&stack, &services, &questions, "merged");
    sizes(&stack, size.views);
}

fn tables(stack: &Stack) -> Vec<String> {
    let sql = "SELECT name FROM system.tables WHERE database = currentDatabase() \
               AND engine LIKE '%MergeTree' AND name LIKE 'traffic%' ORDER BY name FORMAT TSV";
    let names = stack.sql(DATABASE, sql);
    names.lines().map(str::to_owned).collect()
}

/// Writes the views in the order of their times; the last one's time.
fn fill(stack: &Stack, size: &Size) -> DateTime<Utc> {
    let now = Utc::now().trunc_subsecs(0);
    let span = size.days * 86_400;
    let first = now.timestamp() as u64 - span;
    let began = Instant::now();
    let (views, users, pages) = (size.views, size.users, size.pages);
    // Of so many views so many are the heavy user's.
    let heavy = size.heavy * size.days;
    let mut written = 0;
    while written < views {
        let rows = size.block.min(views - written);
        let sql = format!(
            "INSERT INTO traffic (request_id, user_id, created_at, page_url) \
             SELECT cityHash64(number), \
             if(cityHash64(number, 1) % {views} < {heavy}, {HEAVY_USER}, \
             cityHash64(number, 2) % {users}), \
             toDateTime({first} + intDiv(number * {span}, {views}), 'UTC'), \
             concat('/products/page-', toString(cityHash64(number, 3) % {pages})) \
             FROM numbers({written}, {rows}) SETTINGS max_partitions_per_insert_block = 0"
        );
        stack.sql(DATABASE, &sql);
        written += rows;
    }
    let parts = stack.number(&format!(
        "SELECT count() FROM system.parts WHERE active AND database = '{DATABASE}' \
         AND table = 'traffic'"
    ));
    println!(
        "{views} views of {users} users on {pages} pages over {} days, {} a day of one user, in \
         {parts} parts; written in {:.0} s",
        size.days,
        size.heavy,
        began.elapsed().as_secs_f64()
    );
    now
}

/// Counts every closed hour by the command.
fn seal(stack: &Stack, size: &Size, now: DateTime<Utc>) {
    let day = |at: DateTime<Utc>| at.format("%Y-%m-%dT%H:00:00Z").to_string();
    let hours = size.days * 24 - 2;
    let to = now - TimeDelta::hours(1);
    let from = to - TimeDelta::hours(hours as i64);
    let mut command = Service::command(stack.place.path());
    command
        .env("CLICKHOUSE_URL", &stack.clickhouse.url)
        .env("CLICKHOUSE_USER", &stack.clickhouse.user)
        .env("CLICKHOUSE_PASSWORD", &stack.clickhouse.password)
        .env("CLICKHOUSE_DATABASE", DATABASE)
        .args(["seal", "--from", &day(from), "--to", &day(to)]);
    let (cpu, began) = (meter::cpu(stack.engine_pid()), Instant::now());
    let (code, output, error) = service::run(command);
    assert_eq!(code, Some(0), "{output}{error}");
    let cpu = meter::cpu(stack.engine_pid()).saturating_sub(cpu);
    let each = |time: Duration| time.as_secs_f64() * 1000.0 / hours as f64;
    println!(
        "sealing: {:.0} ms an hour of {:.0} views, {:.0} ms CPU of ClickHouse",
        each(began.elapsed()),
        size.views as f64 / (size.days * 24) as f64,
        each(cpu)
    );
}

fn get(path: &str) -> (Vec<u8>, Vec<u8>) {
    let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    (head.into_bytes(), Vec::new())
}

fn questions(size: &Size, now: DateTime<Utc>) -> Vec<(&'static str, Requests)> {
    let daily = |user: u64| get(&format!("/api/traffic/daily/{user}"));
    let date = |days: i64| (now - TimeDelta::days(days)).format("%Y-%m-%d");
    let days = i64::try_from(size.days).expect("few");
    let week = format!(
        "/api/traffic/users/{HEAVY_USER}/days?from={}&to={}",
        date(days - 1),
        date(-1)
    );
    let top = format!(
        "/api/traffic/pages?from={}&to={}&limit=10&next=false",
        date(1),
        date(0)
    );
    vec![
        (
            "daily, median users",
            (0..397).map(|i| daily(i * 7919 % size.users)).collect(),
        ),
        ("daily, the heavy user", vec![daily(HEAVY_USER.into())]),
        ("all days, the heavy user", vec![get(&week)]),
        ("top ten pages of a day", vec![get(&top)]),
    ]
}

fn compare(
    stack: &Stack,
    services: &[(&str, Service)],
    questions: &[(&str, Requests)],
    parts: &str,
) {
    let rounds: usize = setting("BENCH_ROUNDS", 5);
    let time = Duration::from_secs_f64(setting("BENCH_SECS", 1.0));
    for (question, requests) in questions {
        let turns = services.iter().map(|(plan, service)| {
            let load = closed(service.address, 1, 200, Amount::For(time));
            let processes = Processes {
                service: Some(service.pid()),
                engine: Some(stack.engine_pid()),
            };
            let turn = move || round(stack, processes, 1, || prepared(load, requests));
            (*plan, Box::new(turn) as Turn<'_>)
        });
        // The last one's way is settled by what the first round tells the service.
        let all = interleave(rounds, turns.collect());
        println!("\n{question}, {parts} parts (read \"views\" as \"reports\")");
        Rounds::heading();
        for one in &all {
            one.line();
        }
        let p50 = |i: usize| all[i].latency_ms(0.5);
        println!(
            "time of the median report as a ratio to the claims: view {:.2}, auto {:.2}",
            p50(1) / p50(0),
            p50(2) / p50(0)
        );
    }
}

fn sizes(stack: &Stack, views: u64) {
    println!("\nbytes a view on disk, merged");
    for table in tables(stack) {
        let bytes = stack.number(&format!(
            "SELECT sum(bytes_on_disk) FROM system.parts WHERE active \
             AND database = '{DATABASE}' AND table = '{table}'"
        ));
        println!("{table:<26}{:>8.2}", bytes as f64 / views as f64);
    }
}
