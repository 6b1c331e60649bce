//! The report on events from the counts of closed hours, as a ratio to the same question asked of the
//! raw table, through the service's own HTTP interface; and the funnel.
//!
//! `cargo bench --bench event_reports`; `BENCH_EVENTS` (10 million), `BENCH_SITES` (20), `BENCH_DAYS`
//! (30), `BENCH_BLOCK` (events an insert). Everything is back-filled: every row has a mark.

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
/// Counts hold a marked row only when they are made this long after it; see `src/repository/seals.rs`.
const MARKS_SETTLE: Duration = Duration::from_secs(62);

fn main() {
    let events: u64 = setting("BENCH_EVENTS", 10_000_000);
    let days: u64 = setting("BENCH_DAYS", 30);
    let stack = Stack::start(Place::fast());
    let days_kept = (days + 2).to_string();
    let services = ["claims", "view"].map(|plan| {
        let settings = [
            ("REPORT_PLAN", plan),
            ("SEALER", "false"),
            ("EVENTS_RETENTION_DAYS", days_kept.as_str()),
        ];
        let data_dir = stack.place.path().join(plan);
        (plan, stack.service_in(&data_dir, DATABASE, &settings))
    });
    let now = Utc::now().trunc_subsecs(0);
    fill(&stack, events, days, now);
    std::thread::sleep(MARKS_SETTLE);
    seal(&stack, days, &days_kept, now);
    let date = |days: i64| (now - TimeDelta::days(days)).format("%Y-%m-%d");
    let days = i64::try_from(days).expect("few");
    let range = format!("from={}&to={}&limit=1000", date(days - 1), date(-1));
    let site = stack.sql(DATABASE, "SELECT toString(min(site_id)) FROM events");
    let questions = [
        (
            "all sites, all days, by day",
            format!("/v1/report?{range}&interval=day"),
        ),
        (
            "all sites, all days, by hour, first 1,000",
            format!("/v1/report?{range}&interval=hour"),
        ),
        (
            "one site, all days, by day",
            format!("/v1/report?{range}&interval=day&site_id={site}"),
        ),
        (
            "all sites, the last day, by hour",
            format!(
                "/v1/report?from={}&to={}&limit=1000&interval=hour",
                date(1),
                date(0)
            ),
        ),
        (
            "the funnel of a day",
            format!("/v1/report/funnel?from={}&to={}", date(1), date(0)),
        ),
    ];
    for (question, path) in questions {
        compare(&stack, &services, question, &path);
    }
    for table in ["events", "events_hourly"] {
        let bytes = stack.number(&format!(
            "SELECT sum(bytes_on_disk) FROM system.parts WHERE active \
             AND database = '{DATABASE}' AND table = '{table}'"
        ));
        println!(
            "{table:<16}{:>8.2} bytes an event",
            bytes as f64 / events as f64
        );
    }
}

/// Half of the visits are solved; each has a correlation id of its own.
fn fill(stack: &Stack, events: u64, days: u64, now: DateTime<Utc>) {
    let (sites, block): (u64, u64) = (setting("BENCH_SITES", 20), setting("BENCH_BLOCK", 200_000));
    let span = days * 86_400;
    let first = now.timestamp() as u64 - span;
    let (mut written, began) = (0, Instant::now());
    while written < events {
        let rows = block.min(events - written);
        // Two rows for each visit, one after the other.
        let sql = format!(
            "INSERT INTO events (site_id, type, time, correlation_id) \
             SELECT reinterpretAsUUID(MD5(toString(visit % {sites}))), \
             if(number % 2 = 0, 'serve', if(visit % 4 = 0, 'click', 'solve')), \
             toDateTime({first} + intDiv(visit * 2 * {span}, {events}) \
             + if(number % 2 = 0, 0, 1 + visit % 60), 'UTC'), \
             reinterpretAsUUID(MD5(toString(visit))) \
             FROM (SELECT number, intDiv(number, 2) AS visit FROM numbers({written}, {rows})) \
             SETTINGS max_partitions_per_insert_block = 0"
        );
        stack.sql(DATABASE, &sql);
        written += rows;
    }
    println!(
        "{events} events of {sites} sites over {days} days, written in {:.0} s",
        began.elapsed().as_secs_f64()
    );
}

/// Counts every closed hour by the command.
fn seal(stack: &Stack, days: u64, days_kept: &str, now: DateTime<Utc>) {
    let hour = |at: DateTime<Utc>| at.format("%Y-%m-%dT%H:00:00Z").to_string();
    let mut command = Service::command(stack.place.path());
    let from = now - TimeDelta::days(days as i64);
    command
        .env("CLICKHOUSE_URL", &stack.clickhouse.url)
        .env("CLICKHOUSE_USER", &stack.clickhouse.user)
        .env("CLICKHOUSE_PASSWORD", &stack.clickhouse.password)
        .env("CLICKHOUSE_DATABASE", DATABASE)
        .env("EVENTS_RETENTION_DAYS", days_kept)
        .args(["seal", "--from", &hour(from), "--to", &hour(now)]);
    let (cpu, began) = (meter::cpu(stack.engine_pid()), Instant::now());
    let (code, output, error) = service::run(command);
    assert_eq!(code, Some(0), "{output}{error}");
    let cpu = meter::cpu(stack.engine_pid()).saturating_sub(cpu);
    let each = |time: Duration| time.as_secs_f64() * 1000.0 / (days * 24) as f64;
    println!(
        "sealing: {:.0} ms an hour, {:.0} ms CPU of ClickHouse",
        each(began.elapsed()),
        each(cpu)
    );
}

fn compare(stack: &Stack, services: &[(&str, Service)], question: &str, path: &str) {
    let rounds: usize = setting("BENCH_ROUNDS", 5);
    let time = Duration::from_secs_f64(setting("BENCH_SECS", 1.0));
    let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let requests = [(head.into_bytes(), Vec::new())];
    let requests = &requests;
    let turns = services.iter().map(|(plan, service)| {
        let load = closed(service.address, 1, 200, Amount::For(time));
        let processes = Processes {
            service: Some(service.pid()),
            engine: Some(stack.engine_pid()),
        };
        let turn = move || round(stack, processes, 1, || prepared(load, requests));
        (*plan, Box::new(turn) as Turn<'_>)
    });
    let all = interleave(rounds, turns.collect());
    println!("\n{question} (read \"views\" as \"reports\")");
    Rounds::heading();
    for one in &all {
        one.line();
    }
    let p50 = |i: usize| all[i].latency_ms(0.5);
    println!(
        "time of the median report as a ratio to the raw table: {:.3}",
        p50(1) / p50(0)
    );
}
