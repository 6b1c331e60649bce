//! `POST /api/traffic` with many views a request, against the same views posted straight to
//! ClickHouse as RowBinary and as JSONEachRow, encoded beforehand, into tables of the same schema with
//! the same materialized view.
//!
//! Straight to ClickHouse a request is one INSERT: once with the whole batch, and once in blocks of
//! as many rows as the service sends. Everybody sends the same views again in every round, each into
//! its own database.
//!
//! `cargo bench --bench batches`; `BENCH_VIEWS` (a request), `BENCH_DAYS` (that they are spread
//! over), `BENCH_CLIENTS=1,2`, `BENCH_BLOCK_ROWS`, and for the growth `BENCH_USERS`, `BENCH_PAGES`.

#[allow(dead_code, unused_imports, reason = "other benchmarks use the rest")]
mod harness;

use std::io::Write;
use std::net::SocketAddr;

use harness::load::Amount;
use harness::requests::{closed, post, prepared, query};
use harness::rounds::{Processes, Rounds, Turn, interleave, ratio, round};
use harness::stack::Stack;
use harness::support::service::Service;
use harness::views::{COLUMNS, Population, Views};
use harness::{numbers, place::Place, setting};

/// Different batches, so that a repeated one is not the last one again.
const BATCHES: usize = 4;

/// What is sent in one turn: where to, what, and the status of each answer.
struct Sending {
    name: &'static str,
    database: &'static str,
    address: SocketAddr,
    requests: Vec<(Vec<u8>, Vec<u8>)>,
    views_per_request: u64,
    status: u16,
    service: Option<Service>,
}

fn main() {
    let rounds: usize = setting("BENCH_ROUNDS", 4);
    let views: usize = setting("BENCH_VIEWS", 200_000);
    let block: usize = setting("BENCH_BLOCK_ROWS", 50_000);
    let population = Population {
        days: setting("BENCH_DAYS", 3),
        ..Population::usual()
    };
    let stack = Stack::start(Place::fast());
    let sendings = sendings(&stack, population, views, block);
    println!("{views} views a request, {population:?}");
    for clients in numbers("BENCH_CLIENTS", &[1, 2]) {
        let clients = usize::try_from(clients).expect("a number of clients");
        let contestants = sendings.iter().map(|sending| {
            let load = closed(
                sending.address,
                clients,
                sending.status,
                Amount::Requests(sending.requests.len() as u64),
            );
            let processes = Processes {
                service: sending.service.as_ref().map(Service::pid),
                engine: Some(stack.engine_pid()),
            };
            let stack = &stack;
            let turn = move || {
                let round = round(stack, processes, sending.views_per_request, || {
                    prepared(load, &sending.requests)
                });
                // What waits on disk would be written in somebody else's turn.
                if sending.service.is_some() {
                    stack.await_replay(sending.database);
                }
                round
            };
            (sending.name, Box::new(turn) as Turn<'_>)
        });
        let all = interleave(rounds, contestants.collect());
        println!(
            "\n{clients} clients, medians of {rounds} rounds of {} views",
            BATCHES * views
        );
        Rounds::heading();
        for one in &all {
            one.line();
        }
        for one in &all[3..] {
            println!(
                "{:<26}{:.3} of RowBinary in one, {:.3} of RowBinary in blocks, {:.3} of JSONEachRow",
                one.name(),
                ratio(one, &all[0]),
                ratio(one, &all[1]),
                ratio(one, &all[2])
            );
        }
    }
}

/// One batch in all its forms.
#[derive(Default)]
struct Forms {
    lines: Vec<u8>,
    array: Vec<u8>,
    rows: Vec<u8>,
    blocks: Vec<Vec<u8>>,
}

fn forms(views: &mut Views, count: usize, block: usize) -> Forms {
    let mut forms = Forms::default();
    for i in 0..count {
        let view = views.next();
        let begin = forms.lines.len();
        view.line(&mut forms.lines);
        forms.array.push(if i == 0 { b'[' } else { b',' });
        forms.array.extend_from_slice(&forms.lines[begin..]);
        forms.lines.push(b'\n');
        let begin = forms.rows.len();
        view.row(&mut forms.rows);
        if i % block == 0 {
            forms.blocks.push(Vec::new());
        }
        if let Some(last) = forms.blocks.last_mut() {
            last.extend_from_slice(&forms.rows[begin..]);
        }
    }
    forms.array.push(b']');
    forms
}

fn sendings(stack: &Stack, population: Population, count: usize, block: usize) -> Vec<Sending> {
    let mut views = Views::of(population);
    let all: Vec<Forms> = (0..BATCHES)
        .map(|_| forms(&mut views, count, block))
        .collect();
    let each = count as u64;
    let direct =
        |name, database: &'static str, format: &str, bodies: Vec<Vec<u8>>, views_per_request| {
            stack.schema(database);
            let sql = format!("INSERT INTO traffic ({COLUMNS}) FORMAT {format}");
            // So far as they bear on the work, the service's own settings.
            let settings = "&async_insert=0&max_partitions_per_insert_block=0\
                        &date_time_input_format=best_effort";
            let request = |body| query(stack, database, &sql, settings, body);
            Sending {
                name,
                database,
                address: stack.engine_address(),
                requests: bodies.into_iter().map(request).collect(),
                views_per_request,
                status: 200,
                service: None,
            }
        };
    let ours = |name, database, status, headers: &str, body: &dyn Fn(&Forms) -> Vec<u8>| {
        // Backfilled days would keep the sealer counting in everybody's turns.
        let service = stack.service(database, &[("SEALER", "false")]);
        Sending {
            name,
            database,
            address: service.address,
            requests: all
                .iter()
                .map(|forms| post("/api/traffic", headers, body(forms)))
                .collect(),
            views_per_request: each,
            status,
            service: Some(service),
        }
    };
    let lines = "content-type: application/x-ndjson\r\n";
    let gzipped = format!("{lines}content-encoding: gzip\r\n");
    let zstd = format!("{lines}content-encoding: zstd\r\n");
    let later = format!("{lines}prefer: respond-async\r\n");
    let array = "content-type: application/json\r\n";
    let rows = all.iter().map(|f| f.rows.clone()).collect();
    let blocks = all.iter().flat_map(|f| f.blocks.clone()).collect();
    let json = all.iter().map(|f| f.lines.clone()).collect();
    vec![
        direct("RowBinary in one", "rows", "RowBinary", rows, each),
        direct(
            "RowBinary in blocks",
            "blocks",
            "RowBinary",
            blocks,
            block.min(count) as u64,
        ),
        direct("JSONEachRow in one", "json", "JSONEachRow", json, each),
        ours("NDJSON", "lines", 200, lines, &|f| f.lines.clone()),
        ours("JSON array", "array", 200, array, &|f| f.array.clone()),
        ours("NDJSON, gzip", "gzip", 200, &gzipped, &|f| gzip(&f.lines)),
        ours("NDJSON, zstd", "zstd", 200, &zstd, &|f| zstd_of(&f.lines)),
        ours("NDJSON, respond-async", "later", 202, &later, &|f| {
            f.lines.clone()
        }),
    ]
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(plain).expect("memory");
    encoder.finish().expect("memory")
}

fn zstd_of(plain: &[u8]) -> Vec<u8> {
    zstd::encode_all(plain, zstd::DEFAULT_COMPRESSION_LEVEL).expect("memory")
}
