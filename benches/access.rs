//! What keys and limits cost: single POSTs with a key, within limits by key and by address, against the
//! same without either. Once over a sink that stores nothing, where all that is measured is the
//! service's own work, and once with ClickHouse's commit behind it.
//!
//! `cargo bench --bench access`; `BENCH_CONNECTIONS=64,256` for other numbers of connections.

#[allow(dead_code, unused_imports, reason = "other benchmarks use the rest")]
mod harness;

use std::time::Duration;

use harness::limit::{self, Limit};
use harness::load::Amount;
use harness::requests::{closed, posts};
use harness::rounds::{Processes, Rounds, Turn, interleave, ratio, round};
use harness::stack::Stack;
use harness::support::service::Service;
use harness::views::Population;
use harness::{numbers, place::Place, setting};
use traffic_api::access::{Credential, Key, Scope};

/// Reached by nobody, so that everything is counted and nothing is refused.
const LIMIT: &str = "10000000";

fn main() {
    limit::serve_if_asked();
    let rounds: usize = setting("BENCH_ROUNDS", 7);
    let time = Duration::from_secs_f64(setting("BENCH_SECS", 1.0));
    let stack = Stack::start(Place::fast());
    let credential = Credential::generate();
    let scopes = [Scope::Write].into_iter().collect();
    let key = Key::new(&credential, "bench".to_owned(), scopes, chrono::Utc::now()).to_line();
    let open = stack.service("open", &[]);
    let guarded = stack.service(
        "guarded",
        &[
            ("API_KEYS", &key),
            ("RATE_LIMIT_KEY_WRITES", LIMIT),
            ("RATE_LIMIT_ADDRESS_WRITES", LIMIT),
        ],
    );
    let place = stack.place.path();
    let limit = Limit::Service.start(&place.join("limit"));
    let guarded_limit = Limit::Guarded.start_with(&place.join("guarded-limit"), &key);
    let with_key = format!("authorization: Bearer {}\r\n", credential.reveal());
    let engine = Some(stack.engine_pid());

    for connections in numbers("BENCH_CONNECTIONS", &[64, 256]) {
        let connections = usize::try_from(connections).expect("a number of connections");
        let (stack, with_key) = (&stack, &with_key);
        let turn = |service: &Service, engine, has_key: bool| -> Turn<'_> {
            let load = closed(service.address, connections, 201, Amount::For(time));
            let service = Some(service.pid());
            Box::new(move || {
                let processes = Processes { service, engine };
                round(stack, processes, 1, || {
                    let headers = if has_key { with_key.as_str() } else { "" };
                    posts(load, Population::usual(), headers)
                })
            })
        };
        let contestants = vec![
            ("no store, open", turn(&limit, None, false)),
            ("no store, guarded", turn(&guarded_limit, None, true)),
            ("stored, open", turn(&open, engine, false)),
            ("stored, guarded", turn(&guarded, engine, true)),
        ];
        let all = interleave(rounds, contestants);
        println!("\n{connections} connections, medians of {rounds} rounds of {time:?}");
        Rounds::heading();
        for one in &all {
            one.line();
        }
        println!(
            "guarded: {:.3} of open without a store, {:.3} of it with ClickHouse",
            ratio(&all[1], &all[0]),
            ratio(&all[3], &all[2])
        );
    }
}
