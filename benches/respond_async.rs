//! POSTs with `Prefer: respond-async`, each answered after an fsync of the spool, against the same
//! routes over a sink that stores nothing, and against waiting for ClickHouse's commit. The spool lies
//! on memory, where an fsync is free, and on the disk, where it is not. The engine's data lie on
//! memory in both cases, and the replay into it runs beside the load.
//!
//! `cargo bench --bench respond_async`; `BENCH_CONNECTIONS=64,256` for other numbers of connections.

#[allow(dead_code, unused_imports, reason = "other benchmarks use the rest")]
mod harness;

use std::path::Path;
use std::time::{Duration, Instant};

use harness::load::Amount;
use harness::requests::{closed, posts};
use harness::rounds::{Processes, Rounds, Turn, interleave, ratio, round};
use harness::stack::Stack;
use harness::support::service::Service;
use harness::views::Population;
use harness::{limit, limit::Limit, numbers, place::Place, setting};

const ASYNC: &str = "prefer: respond-async\r\n";
/// How long the replay may take for what a round has left in the spool.
const REPLAY: Duration = Duration::from_secs(30);

fn main() {
    limit::serve_if_asked();
    let rounds: usize = setting("BENCH_ROUNDS", 5);
    let time = Duration::from_secs_f64(setting("BENCH_SECS", 1.5));
    let stack = Stack::start(Place::fast());
    let disk = Place::disk();
    let limit = Limit::Service.start(&stack.place.path().join("limit"));
    let committed = stack.service("committed", &[]);
    let on_memory = stack.service("on_memory", &[]);
    let on_disk = stack.service_in(disk.path(), "on_disk", &[]);
    println!(
        "spools on {} and on {} ({})",
        stack.place.kind(),
        disk.kind(),
        disk.path().display()
    );
    for connections in numbers("BENCH_CONNECTIONS", &[64, 256]) {
        let connections = usize::try_from(connections).expect("a number of connections");
        let turn = |service: &Service, engine, status, headers: &'static str, spool: &Path| {
            let load = closed(service.address, connections, status, Amount::For(time));
            let service = Some(service.pid());
            let (stack, spool) = (&stack, spool.to_owned());
            Box::new(move || {
                let processes = Processes { service, engine };
                let round = round(stack, processes, 1, || {
                    posts(load, Population::usual(), headers)
                });
                wait_until_empty(&spool);
                round
            }) as Turn<'_>
        };
        let engine = Some(stack.engine_pid());
        let (memory, disk) = (stack.place.path(), disk.path());
        let contestants = vec![
            ("the limit", turn(&limit, None, 201, "", memory)),
            ("201, committed", turn(&committed, engine, 201, "", memory)),
            (
                "202, spool on memory",
                turn(&on_memory, engine, 202, ASYNC, &memory.join("on_memory")),
            ),
            (
                "202, spool on disk",
                turn(&on_disk, engine, 202, ASYNC, disk),
            ),
        ];
        let all = interleave(rounds, contestants);
        println!("\n{connections} connections, medians of {rounds} rounds of {time:?}");
        Rounds::heading();
        for one in &all {
            one.line();
        }
        println!(
            "ratio to the limit: committed {:.3}, spooled on memory {:.3}, on disk {:.3}",
            ratio(&all[1], &all[0]),
            ratio(&all[2], &all[0]),
            ratio(&all[3], &all[0])
        );
    }
}

/// Waits until the replay has emptied the spool in `data_dir`.
fn wait_until_empty(data_dir: &Path) {
    let end = Instant::now() + REPLAY;
    let spool = data_dir.join("spool");
    let waits = || {
        let entries = std::fs::read_dir(&spool).into_iter().flatten().flatten();
        let mut names = entries.map(|entry| entry.file_name());
        names.any(|name| name.to_string_lossy().ends_with(".batch"))
    };
    while waits() {
        assert!(Instant::now() < end, "{} does not empty", spool.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}
