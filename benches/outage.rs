//! How long a POST takes while ClickHouse is down, and what an fsync of every insert costs.
//!
//! `cargo bench --bench outage`. Everything is started here; figures are medians over interleaved
//! rounds, and each comparison is a ratio within this one run.

#[path = "../tests/it/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the tests use the rest")]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::{TestApp, private_engine, view};
use traffic_api::domain::Clock;

const CONNECTIONS: usize = 64;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);

/// Latencies of one round, sorted, in microseconds.
struct Round(Vec<u64>);

impl Round {
    fn at(&self, share: f64) -> u64 {
        self.0[((self.0.len() - 1) as f64 * share) as usize]
    }

    fn per_second(&self) -> u64 {
        self.0.len() as u64 / ROUND.as_secs()
    }
}

async fn load(app: &Arc<TestApp>, ids: &Arc<AtomicU64>, expected: u16) -> Round {
    let end = Instant::now() + ROUND;
    let now = chrono::Utc::now().timestamp() - 10;
    let senders: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let (app, ids) = (Arc::clone(app), Arc::clone(ids));
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while Instant::now() < end {
                    let id = ids.fetch_add(1, Ordering::Relaxed);
                    let begin = Instant::now();
                    let answer = app.post(id, &view(1, now, "/a")).await;
                    assert_eq!(answer.status, expected);
                    latencies.push(begin.elapsed().as_micros() as u64);
                }
                latencies
            })
        })
        .collect();
    let mut all = Vec::new();
    for sender in senders {
        all.extend(sender.await.expect("a sender"));
    }
    all.sort_unstable();
    Round(all)
}

fn median(mut figures: Vec<u64>) -> u64 {
    figures.sort_unstable();
    figures[figures.len() / 2]
}

fn line(name: &str, rounds: &[Round]) -> u64 {
    let of = |share| median(rounds.iter().map(|r| r.at(share)).collect());
    let worst = rounds.iter().map(|r| r.at(1.0)).max().unwrap_or_default();
    let rate = median(rounds.iter().map(Round::per_second).collect());
    println!(
        "{name:<28} p50 {:>6} us  p99 {:>6} us  worst {worst:>7} us  {rate:>6} views/s",
        of(0.5),
        of(0.99)
    );
    of(0.5)
}

async fn app(name: &str, flags: &[&str]) -> (Arc<TestApp>, traffic_api::engine::Engine) {
    let (engine, clickhouse) = private_engine(name).await;
    let app = TestApp::start_with(&clickhouse, "bench", Clock::system(), flags).await;
    (Arc::new(app), engine)
}

#[tokio::main]
async fn main() {
    let ids = Arc::new(AtomicU64::new(0));
    println!(
        "{CONNECTIONS} connections, {ROUNDS} interleaved rounds of {} s",
        ROUND.as_secs()
    );

    let (well, well_engine) = app("bench-well", &[]).await;
    let data_dir = support::directory("bench-backlog");
    let data_flag = format!("--data-dir={}", data_dir.display());
    let (down, engine) = app("bench-down", &[&data_flag]).await;
    engine.stop().await;
    // The one that finds out waits; the others must not.
    let begin = Instant::now();
    let first = down
        .post(
            u64::MAX,
            &view(1, chrono::Utc::now().timestamp() - 10, "/a"),
        )
        .await;
    assert_eq!(first.status, 202);
    println!(
        "first POST of the outage     {} us",
        begin.elapsed().as_micros()
    );
    let (mut stored, mut spooled) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        stored.push(load(&well, &ids, 201).await);
        spooled.push(load(&down, &ids, 202).await);
    }
    let well_p50 = line("ClickHouse well (201)", &stored);
    let down_p50 = line("ClickHouse down (202)", &spooled);
    println!("down / well, p50: {:.2}", down_p50 as f64 / well_p50 as f64);

    let backlog = down.stats().spooled;
    Arc::into_inner(down)
        .expect("no sender is left")
        .stop()
        .await;
    let (back, back_engine) = app("bench-back", &[&data_flag]).await;
    let (mut at_rest, mut replaying) = (Vec::new(), Vec::new());
    let begin = Instant::now();
    while back.stats().replayed < backlog && replaying.len() < 10 * ROUNDS {
        replaying.push(load(&back, &ids, 201).await);
    }
    let (replayed, seconds) = (back.stats().replayed, begin.elapsed().as_secs_f64());
    for _ in 0..ROUNDS {
        at_rest.push(load(&back, &ids, 201).await);
    }
    let replay_p50 = line("while a backlog is replayed", &replaying);
    let rest_p50 = line("the same after it", &at_rest);
    println!(
        "replaying / after it, p50: {:.2}",
        replay_p50 as f64 / rest_p50 as f64
    );
    println!("{replayed} of {backlog} spooled views replayed beside that load in {seconds:.1} s");
    Arc::into_inner(back)
        .expect("no sender is left")
        .stop()
        .await;
    back_engine.stop().await;

    let (fsync, fsync_engine) = app("bench-fsync", &["--clickhouse-fsync=true"]).await;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        without.push(load(&well, &ids, 201).await);
        with.push(load(&fsync, &ids, 201).await);
    }
    let without = line("CLICKHOUSE_FSYNC=false", &without);
    let with = line("CLICKHOUSE_FSYNC=true", &with);
    println!(
        "with / without fsync, p50: {:.2}",
        with as f64 / without as f64
    );
    well_engine.stop().await;
    fsync_engine.stop().await;
}
