//! Contestants that take turns, and the medians of their rounds.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::load::{Outcome, histogram};
use super::meter;
use super::stack::Stack;

/// Which processes answer for a contestant's work, beside this one, the load generator.
#[derive(Debug, Clone, Copy, Default)]
pub struct Processes {
    pub service: Option<u32>,
    pub engine: Option<u32>,
}

/// One round of one contestant.
pub struct Round {
    pub outcome: Outcome,
    /// What was asked for by each answer: one view, or a batch of them.
    pub views_per_answer: u64,
    pub inserts: u64,
    /// Load generator, service, engine.
    pub cpu: [Duration; 3],
}

impl Round {
    pub fn views(&self) -> f64 {
        (self.outcome.answers * self.views_per_answer) as f64
    }

    pub fn views_per_second(&self) -> f64 {
        self.views() / self.outcome.elapsed.as_secs_f64()
    }
}

/// Runs `load`, once ClickHouse is at rest, and notes what it costs.
pub fn round(
    stack: &Stack,
    processes: Processes,
    views_per_answer: u64,
    load: impl FnOnce() -> Outcome,
) -> Round {
    if processes.engine.is_some() {
        stack.settle();
    }
    measure(stack, processes, views_per_answer, load)
}

/// Runs `load` and notes what it costs.
pub fn measure(
    stack: &Stack,
    processes: Processes,
    views_per_answer: u64,
    load: impl FnOnce() -> Outcome,
) -> Round {
    let pids = [
        Some(std::process::id()),
        processes.service,
        processes.engine,
    ];
    let cpu = || pids.map(|pid| pid.map_or(Duration::ZERO, meter::cpu));
    let (inserts, before) = (stack.inserts(), cpu());
    let outcome = load();
    let after = cpu();
    Round {
        outcome,
        views_per_answer,
        inserts: stack.inserts() - inserts,
        cpu: std::array::from_fn(|i| after[i].saturating_sub(before[i])),
    }
}

pub fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_unstable_by(f64::total_cmp);
    match figures.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => figures[n / 2],
        n => f64::midpoint(figures[n / 2 - 1], figures[n / 2]),
    }
}

/// All rounds of one contestant.
pub struct Rounds {
    name: String,
    rounds: Vec<Round>,
}

/// One round of a contestant, whenever it is called.
pub type Turn<'a> = Box<dyn FnMut() -> Round + 'a>;

/// Lets the contestants take turns for `count` rounds, after one that does not count.
pub fn interleave(count: usize, contestants: Vec<(&str, Turn<'_>)>) -> Vec<Rounds> {
    let (names, mut turns): (Vec<&str>, Vec<Turn<'_>>) = contestants.into_iter().unzip();
    let mut all: Vec<Rounds> = names
        .into_iter()
        .map(|name| Rounds {
            name: name.to_owned(),
            rounds: Vec::new(),
        })
        .collect();
    for number in 0..=count {
        for (turn, rounds) in turns.iter_mut().zip(&mut all) {
            let round = turn();
            if number > 0 {
                rounds.rounds.push(round);
            }
        }
    }
    all
}

impl Rounds {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Median of the rounds.
    pub fn views_per_second(&self) -> f64 {
        median(self.rounds.iter().map(Round::views_per_second))
    }

    /// The latency below which this share of all answers of all rounds stayed, in milliseconds.
    pub fn latency_ms(&self, share: f64) -> f64 {
        let mut all: Histogram<u64> = histogram();
        for round in &self.rounds {
            all.add(&round.outcome.latencies).expect("like bounds");
        }
        all.value_at_quantile(share) as f64 / 1000.0
    }

    /// What is printed above [`Rounds::line`].
    pub fn heading() {
        println!(
            "{:<26}{:>10} {:>9} {:>9} {:>9} {:>10} {:>8}   CPU us a view: load + service + engine",
            "", "views/s", "p50 ms", "p99 ms", "inserts/s", "rows/ins.", "spread"
        );
    }

    /// The figures, for orientation: only ratios within one run mean something.
    pub fn line(&self) {
        let per_second = |round: &Round| round.inserts as f64 / round.outcome.elapsed.as_secs_f64();
        let rows = |round: &Round| round.views() / round.inserts as f64;
        let stores = self.rounds.iter().any(|round| round.inserts > 1);
        let cell = |figure: f64| {
            if stores {
                format!("{figure:.0}")
            } else {
                "-".to_owned()
            }
        };
        let cpu: Vec<f64> = (0..3)
            .map(|i| {
                let each = |round: &Round| round.cpu[i].as_secs_f64() * 1e6 / round.views();
                median(self.rounds.iter().map(each))
            })
            .collect();
        let speeds: Vec<f64> = self.rounds.iter().map(Round::views_per_second).collect();
        let most = speeds.iter().copied().fold(0.0, f64::max);
        let least = speeds.iter().copied().fold(f64::INFINITY, f64::min);
        println!(
            "{:<26}{:>10.0} {:>9.2} {:>9.2} {:>9} {:>10} {:>7.0}%   {:.1} + {:.1} + {:.1}",
            self.name,
            self.views_per_second(),
            self.latency_ms(0.5),
            self.latency_ms(0.99),
            cell(median(self.rounds.iter().map(per_second))),
            cell(median(self.rounds.iter().map(rows))),
            (most - least) / self.views_per_second() * 100.0,
            cpu[0],
            cpu[1],
            cpu[2],
        );
    }
}

/// One contestant's views per second as a ratio to another's.
pub fn ratio(of: &Rounds, to: &Rounds) -> f64 {
    of.views_per_second() / to.views_per_second()
}
