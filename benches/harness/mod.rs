//! What the benchmarks share: real processes on a fresh data directory, a load generator that costs
//! little, and interleaved rounds whose medians are compared.
//!
//! Every comparison is made within one run: the contestants take turns, round by round, so that
//! whatever disturbs the machine disturbs all of them. The generator's own cost is part of each
//! figure, because it shares the machine.
//!
//! Settings, all optional: `BENCH_ROUNDS` and `BENCH_SECS` (how many rounds, how long each),
//! `BENCH_DIR` (where the data directory is made; else `/dev/shm`, else the build's own directory),
//! `BENCH_USERS`, `BENCH_PAGES`, `BENCH_DAYS` (who views what, spread over so many days).

pub mod limit;
pub mod load;
pub mod meter;
pub mod place;
pub mod requests;
pub mod rounds;
pub mod stack;
#[path = "../../tests/it/support/mod.rs"]
pub mod support;
pub mod views;

/// A setting from the environment.
pub fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not understood")),
        Err(_) => default,
    }
}

/// A list of numbers, separated by commas, or `none`, from the environment.
pub fn numbers(name: &str, default: &[u64]) -> Vec<u64> {
    let Ok(text) = std::env::var(name) else {
        return default.to_vec();
    };
    if text == "none" {
        return Vec::new();
    }
    let number = |n: &str| n.trim().parse().ok();
    let list: Option<Vec<u64>> = text.split(',').map(number).collect();
    list.unwrap_or_else(|| panic!("{name}={text} is not a list of numbers"))
}
