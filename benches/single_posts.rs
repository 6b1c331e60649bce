//! Single POSTs, each answered after ClickHouse's commit, against three others under the same load:
//! the service's own routes over a sink that stores nothing (the limit), the same served by
//! `axum::serve`, one INSERT per request straight to ClickHouse's HTTP interface, and the smallest axum
//! server.
//!
//! `cargo bench --bench single_posts`; `BENCH_CONNECTIONS=64,256` for other numbers of connections,
//! `BENCH_STREAM=events` for events instead of page views.

#[allow(dead_code, unused_imports, reason = "other benchmarks use the rest")]
mod harness;

use std::net::SocketAddr;
use std::time::Duration;

use harness::limit::{self, Limit};
use harness::load::Amount;
use harness::requests::{closed, event_inserts, events, inserts, posts};
use harness::rounds::{Processes, Rounds, Turn, interleave, ratio, round};
use harness::stack::Stack;
use harness::views::Population;
use harness::{numbers, place::Place, setting};

/// Beyond this, ClickHouse refuses queries instead of queueing them.
const MOST_DIRECT_CONNECTIONS: usize = 512;

fn main() {
    limit::serve_if_asked();
    let rounds: usize = setting("BENCH_ROUNDS", 5);
    let time = Duration::from_secs_f64(setting("BENCH_SECS", 1.0));
    let of_events = setting("BENCH_STREAM", "page_views".to_owned()) == "events";
    let stack = Stack::start(Place::fast());
    let service = stack.service("service", &[]);
    stack.schema("direct");
    let limit = Limit::Service.start(&stack.place.path().join("limit"));
    let axum = Limit::Axum.start(&stack.place.path().join("axum"));
    let bare = Limit::Bare.start(&stack.place.path().join("bare"));
    let engine = Some(stack.engine_pid());

    for connections in numbers("BENCH_CONNECTIONS", &[1, 64, 256, 1024]) {
        let connections = usize::try_from(connections).expect("a number of connections");
        let amount = Amount::For(time);
        let usual = Population::usual();
        let post = |address: SocketAddr| {
            let load = closed(address, connections, 201, amount);
            match of_events {
                true => events(load),
                false => posts(load, usual, ""),
            }
        };
        let direct = || {
            let load = closed(stack.engine_address(), connections, 200, amount);
            match of_events {
                true => event_inserts(load, &stack, "direct"),
                false => inserts(load, usual, &stack, "direct"),
            }
        };
        let of = |service, engine| Processes { service, engine };
        let stack = &stack;
        let limit_of = of(Some(limit.pid()), None);
        let service_of = of(Some(service.pid()), engine);
        let axum_of = of(Some(axum.pid()), None);
        let bare_of = of(Some(bare.pid()), None);
        let mut contestants: Vec<(&str, Turn<'_>)> = vec![
            (
                "the limit",
                Box::new(|| round(stack, limit_of, 1, || post(limit.address))),
            ),
            (
                "the service",
                Box::new(|| round(stack, service_of, 1, || post(service.address))),
            ),
            (
                "bare axum",
                Box::new(|| round(stack, bare_of, 1, || post(bare.address))),
            ),
            (
                "the limit on axum::serve",
                Box::new(|| round(stack, axum_of, 1, || post(axum.address))),
            ),
        ];
        if connections <= MOST_DIRECT_CONNECTIONS {
            let turn = || round(stack, of(None, engine), 1, direct);
            contestants.push(("one INSERT each", Box::new(turn)));
        }
        let all = interleave(rounds, contestants);
        println!("\n{connections} connections, medians of {rounds} rounds of {time:?}");
        Rounds::heading();
        for one in &all {
            one.line();
        }
        print!("ratio: {:.3} of the limit", ratio(&all[1], &all[0]));
        print!(
            ", the limit is {:.3} of axum::serve",
            ratio(&all[0], &all[3])
        );
        if let Some(direct) = all.get(4) {
            print!(", {:.1} times one INSERT each", ratio(&all[1], direct));
        }
        println!();
    }
}
