//! The small parts of the hot path, each alone: parse and validate a view, encode a claim, encode a
//! batch, render a problem. `cargo bench --bench parts`.
//!
//! Nanoseconds here are microseconds of CPU per 1,000 views: compare them with the whole, which
//! `single_posts` prints.

use std::hint::black_box;

use axum::response::IntoResponse;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use traffic_api::domain::{
    AcceptanceWindow, Claim, ClaimSet, Clock, PageView, RequestId, read_identified_view, read_view,
};
use traffic_api::http::{Kind, Problem};
use traffic_api::pipeline::{Batch, Record};

const ROWS: u64 = 1000;

fn body() -> String {
    let now = Clock::system().now().format("%Y-%m-%dT%H:%M:%SZ");
    format!(r#"{{"user_id":4711,"created_at":"{now}","page_url":"/products/7/page-42"}}"#)
}

fn view(body: &str, id: u64, window: &AcceptanceWindow) -> PageView {
    read_view(body.as_bytes(), RequestId::new(id), window).expect("a valid view")
}

fn parts(c: &mut Criterion) {
    let body = body();
    let window = AcceptanceWindow::new(Clock::system().now(), 90, 60);
    let line = body.replacen('{', r#"{"request_id":18446744073709551615,"#, 1);
    c.bench_function("parse and validate a line of a batch", |b| {
        b.iter(|| read_identified_view(black_box(line.as_bytes()), &window).expect("a valid view"));
    });
    c.bench_function("parse and validate a view", |b| {
        b.iter(|| view(black_box(&body), 1, &window));
    });
    c.bench_function("refuse a view with three bad fields", |b| {
        let bad = r#"{"user_id":-1,"created_at":"soon","page_url":""}"#;
        b.iter(|| {
            let refused = read_view(black_box(bad.as_bytes()), RequestId::new(1), &window);
            Problem::from(refused.expect_err("not valid")).into_response()
        });
    });
    c.bench_function("render a problem", |b| {
        b.iter(|| Problem::new(black_box(Kind::BufferFull)).into_response());
    });

    let claims: Vec<ClaimSet> = (0..ROWS)
        .map(|id| ClaimSet::One(Claim::first(view(&body, id, &window))))
        .collect();
    c.bench_function("encode a claim", |b| {
        let mut buffer = Vec::with_capacity(4096);
        b.iter(|| {
            buffer.clear();
            black_box(&claims[0]).encode(&mut buffer);
        });
    });
    let mut group = c.benchmark_group("batch");
    group.throughput(Throughput::Elements(ROWS));
    group.bench_function("encode a batch of 1,000", |b| {
        b.iter(|| Batch::encode(black_box(&claims)));
    });
    group.finish();
}

criterion_group!(benches, parts);
criterion_main!(benches);
