//! What exact reports from the pre-aggregate cost: (a) the inserts. Every row says whether it came late;
//! the same tables without that column, its index and all that reads it are the measure.
//!
//! `cargo bench --bench view`; `BENCH_ROWS=128,1000,50000` (of one insert), `BENCH_INSERTS` (in a round,
//! for the smallest of them), `BENCH_DAYS` (0: all in time; more: nearly all late).

#[allow(dead_code, unused_imports, reason = "other benchmarks use the rest")]
mod harness;

use std::io::Write;

use harness::load::{Amount, Load, Pace};
use harness::rounds::{Processes, Round, Rounds, Turn, interleave, ratio, round};
use harness::stack::Stack;
use harness::views::{COLUMNS, Population, Views};
use harness::{numbers, place::Place, setting};

/// How fast inserts with marks must be, as a share of those without.
const LEAST: f64 = 0.8;

fn main() {
    let rounds: usize = setting("BENCH_ROUNDS", 7);
    let inserts: u64 = setting("BENCH_INSERTS", 150);
    let sizes = numbers("BENCH_ROWS", &[128, 1000, 50_000]);
    let smallest = sizes.iter().copied().min().unwrap_or(1);
    let stack = Stack::start(Place::fast());
    for rows in sizes {
        // Fewer of the larger ones, but not in proportion: each has a cost of its own.
        let inserts = (inserts * 16 * smallest / (rows + 15 * smallest)).max(4);
        let (with, without) = (format!("with_{rows}"), format!("without_{rows}"));
        stack.schema(&with);
        stack.schema(&without);
        for what in ["INDEX late_at_index", "COLUMN late_at"] {
            stack.sql(&without, &format!("ALTER TABLE traffic DROP {what}"));
        }
        let contestants: Vec<(&str, Turn<'_>)> = vec![
            ("without marks", turn(&stack, &without, rows, inserts)),
            ("with marks", turn(&stack, &with, rows, inserts)),
        ];
        let all = interleave(rounds, contestants);
        println!(
            "\n{rows} rows an insert, straight to ClickHouse, 1 connection; medians of {rounds} rounds \
             of {inserts} inserts, merges included in CPU"
        );
        Rounds::heading();
        for one in &all {
            one.line();
        }
        let ratio = ratio(&all[1], &all[0]);
        let verdict = if ratio >= LEAST { "met" } else { "missed" };
        println!("with / without: {ratio:.2} (>= {LEAST}: {verdict})");
    }
}

/// One round: inserts as the service sends them, and the merges that they lead to.
fn turn<'a>(stack: &'a Stack, database: &str, rows: u64, inserts: u64) -> Turn<'a> {
    let head = stack.head(
        database,
        &format!("INSERT INTO traffic ({COLUMNS}) FORMAT RowBinary"),
        "&async_insert=0&max_partitions_per_insert_block=0&materialize_skip_indexes_on_insert=0\
         &deduplicate_blocks_in_dependent_materialized_views=1",
    );
    let mut views = Views::of(Population::usual());
    let load = Load {
        address: stack.engine_address(),
        connections: 1,
        expected_status: 200,
        pace: Pace::Closed,
        amount: Amount::Requests(inserts),
    };
    let processes = Processes {
        service: None,
        engine: Some(stack.engine_pid()),
    };
    Box::new(move || -> Round {
        let mut body = Vec::new();
        round(stack, processes, rows, || {
            let outcome = load.run(|request| {
                body.clear();
                for _ in 0..rows {
                    views.next().row(&mut body);
                }
                request.extend_from_slice(head.as_bytes());
                write!(request, "{}\r\n\r\n", body.len()).expect("memory");
                request.extend_from_slice(&body);
                &[]
            });
            stack.settle();
            outcome
        })
    })
}
