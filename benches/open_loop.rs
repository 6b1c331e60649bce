//! Single POSTs at a fixed rate, whatever the answers do: latencies from the moment when a request
//! fell due, for several least intervals between inserts, and what a view costs in CPU and memory.
//! Then as fast as some connections go, each waiting for its answer: what an interval costs them.
//!
//! `cargo bench --bench open_loop`; `BENCH_RATES`, `BENCH_INTERVALS_MS`, `BENCH_CONNECTIONS` for other
//! rates, intervals and numbers of connections, `none` for none of them.
//! `STEADY_SECS=300 cargo bench --bench open_loop` instead keeps one rate up and prints a curve: does
//! everything level off? (`STEADY_RATE`, `STEADY_INTERVAL_MS`) The embedded ClickHouse removes merged parts
//! soon, a server keeps them for eight minutes; `STEADY_TABLE_SETTINGS='old_parts_lifetime = 480'` does so here,
//! and any other settings of the two tables can be tried so.

#[allow(dead_code, unused_imports, reason = "other benchmarks use the rest")]
mod harness;

use std::time::{Duration, Instant};

use harness::load::{Amount, Load, Pace};
use harness::requests::posts;
use harness::rounds::{Processes, Rounds, Turn, interleave, round};
use harness::stack::Stack;
use harness::support::service::Service;
use harness::views::Population;
use harness::{limit, limit::Limit, meter, numbers, place::Place, setting};

/// More than are ever under way at once, so that a request waits for the service and not for a
/// connection.
const CONNECTIONS: usize = 1024;
/// One point of the curve.
const STEP: Duration = Duration::from_secs(15);

fn main() {
    limit::serve_if_asked();
    let stack = Stack::start(Place::fast());
    match setting("STEADY_SECS", 0) {
        0 => rates(&stack),
        seconds => steady(&stack, Duration::from_secs(seconds)),
    }
}

fn open(service: &Service, rate: u64, time: Duration) -> Load {
    Load {
        address: service.address,
        connections: CONNECTIONS,
        expected_status: 201,
        pace: Pace::Open(rate as f64),
        amount: Amount::For(time),
    }
}

fn rates(stack: &Stack) {
    let rounds: usize = setting("BENCH_ROUNDS", 3);
    let time = Duration::from_secs_f64(setting("BENCH_SECS", 3.0));
    let limit = Limit::Service.start(&stack.place.path().join("limit"));
    let mut services = vec![("the limit".to_owned(), limit, None)];
    for interval in numbers("BENCH_INTERVALS_MS", &[0, 5, 20, 100]) {
        let text = interval.to_string();
        let settings = [("INGEST_MIN_INTERVAL_MS", text.as_str())];
        let service = stack.service(&format!("interval_{interval}"), &settings);
        let name = format!("interval {interval} ms");
        services.push((name, service, Some(stack.engine_pid())));
    }
    let rates = numbers("BENCH_RATES", &[5_000, 20_000]);
    let rates = rates.into_iter().map(|rate| {
        let title = format!("{rate} views/s due");
        (title, CONNECTIONS, Pace::Open(rate as f64))
    });
    let closed = numbers("BENCH_CONNECTIONS", &[64, 1024]);
    let closed = closed.into_iter().map(|connections| {
        let title = format!("as fast as {connections} connections go");
        let connections = usize::try_from(connections).expect("a number of connections");
        (title, connections, Pace::Closed)
    });
    for (title, connections, pace) in rates.chain(closed) {
        let contestants = services.iter().map(|(name, service, engine)| {
            let processes = Processes {
                service: Some(service.pid()),
                engine: *engine,
            };
            let load = Load {
                connections,
                pace,
                ..open(service, 1, time)
            };
            let turn = move || round(stack, processes, 1, || posts(load, Population::usual(), ""));
            (name.as_str(), Box::new(turn) as Turn<'_>)
        });
        let all = interleave(rounds, contestants.collect());
        println!("\n{title}, {rounds} rounds of {time:?}");
        Rounds::heading();
        for one in &all {
            one.line();
        }
        for one in &all {
            println!(
                "{:<26}p50 {:.1} ms, p99 {:.1} ms, p999 {:.1} ms from the intended time",
                one.name(),
                one.latency_ms(0.5),
                one.latency_ms(0.99),
                one.latency_ms(0.999)
            );
        }
    }
    println!("\nresident memory in MiB, now and at most");
    for (name, service, _) in &services {
        let (now, most) = meter::memory(service.pid());
        println!("{name:<26}{now:>6} {most:>6}");
    }
    let (now, most) = meter::memory(stack.engine_pid());
    println!("{:<26}{now:>6} {most:>6}", "the engine");
}

fn steady(stack: &Stack, whole: Duration) {
    let rate = setting("STEADY_RATE", 5_000);
    let interval: String = setting("STEADY_INTERVAL_MS", "0".to_owned());
    let service = stack.service("steady", &[("INGEST_MIN_INTERVAL_MS", &interval)]);
    if let Ok(settings) = std::env::var("STEADY_TABLE_SETTINGS") {
        for table in ["traffic", "traffic_by_request"] {
            let sql = format!("ALTER TABLE {table} MODIFY SETTING {settings}");
            stack.sql("steady", &sql);
        }
    }
    let processes = Processes {
        service: Some(service.pid()),
        engine: Some(stack.engine_pid()),
    };
    println!("\n{rate} views/s due for {whole:?}, least interval {interval} ms");
    println!(
        "{:>6} {:>8} {:>8} {:>8} {:>8} {:>10} {:>7} {:>7} {:>8} {:>9} {:>9}   CPU us a view: load + service + engine",
        "s",
        "p50 ms",
        "p99 ms",
        "p999 ms",
        "worst",
        "inserts/s",
        "active",
        "parts",
        "inodes",
        "service",
        "engine"
    );
    let begin = Instant::now();
    while begin.elapsed() < whole {
        let load = open(&service, rate, STEP.min(whole));
        let point = round_at_once(stack, processes, load);
        let of = |share| point.outcome.latencies.value_at_quantile(share) as f64 / 1000.0;
        let seconds = point.outcome.elapsed.as_secs_f64();
        let cpu = point.cpu.map(|cpu| cpu.as_secs_f64() * 1e6 / point.views());
        println!(
            "{:>6.0} {:>8.1} {:>8.1} {:>8.1} {:>8.1} {:>10.0} {:>7} {:>7} {:>8} {:>5} MiB {:>5} MiB   {:.1} + {:.1} + {:.1}",
            begin.elapsed().as_secs_f64(),
            of(0.5),
            of(0.99),
            of(0.999),
            point.outcome.latencies.max() as f64 / 1000.0,
            point.inserts as f64 / seconds,
            stack.active_parts(),
            stack.number("SELECT count() FROM system.parts"),
            stack.place.inodes(),
            meter::memory(service.pid()).0,
            meter::memory(stack.engine_pid()).0,
            cpu[0],
            cpu[1],
            cpu[2],
        );
    }
}

/// Without a pause before it: the load is meant to go on.
fn round_at_once(stack: &Stack, processes: Processes, load: Load) -> harness::rounds::Round {
    harness::rounds::measure(stack, processes, 1, || posts(load, Population::usual(), ""))
}
