//! What to generate, and where to.

use chrono::{DateTime, Utc};
use clap::ValueEnum;

use super::refusal::Refusal;
use super::values::{service_url, share, time};

/// Made-up page views.
#[derive(clap::Args, Clone)]
pub struct Generate {
    /// A running service (http://127.0.0.1:8000); unset: lines of JSON to standard output
    #[arg(long, value_name = "URL", value_parser = service_url)]
    pub to: Option<String>,
    /// The key for it, with the scope write
    #[arg(long, env, value_name = "KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// How many views: 1 to 1000000000000
    #[arg(long, value_name = "NUMBER", default_value_t = 100_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000))]
    pub views: u64,
    /// How many users at most, ids from 1, the busiest first: 1 to 4294967295
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub users: u32,
    /// How many pages at most: 1 to 10000000
    #[arg(long, value_name = "NUMBER", default_value_t = 500)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub pages: u32,
    /// Over how many days up to --until: 1 to 3649
    #[arg(long, value_name = "DAYS", default_value_t = 7)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=3649))]
    pub days: u32,
    /// When the last view happens, such as 2026-11-21T09:00:00Z; unset: now. Given, the same command
    /// gives the same views
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub until: Option<DateTime<Utc>>,
    /// Another one gives other views
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
    /// The share of views that are sent once more: 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.01, value_parser = share)]
    pub duplicates: f64,
    /// The share of views that are corrected by PUT once they are stored: 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    #[arg(requires = "to")]
    pub updates: f64,
    /// Views in one request: 1 to 1000000
    #[arg(long, value_name = "VIEWS", default_value_t = 10_000, requires = "to")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub batch_size: u32,
    /// The content coding of a batch
    #[arg(long, value_name = "CODING", default_value = "none", requires = "to")]
    pub compress: Coding,
    /// Each view in its own request
    #[arg(long, requires = "to", conflicts_with_all = ["batch_size", "compress"])]
    pub single: bool,
    /// Posts at once: 1 to 4096; unset: 2 of batches, 16 of single views
    #[arg(long, value_name = "NUMBER", requires = "to")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub connections: Option<u16>,
    /// Views a second at most: 1 to 10000000; unset: as fast as they are taken
    #[arg(long, value_name = "NUMBER", requires = "to")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub rate: Option<u32>,
    /// Live: views happen while they are sent, at --rate for so many seconds: 1 to 2592000
    #[arg(long, value_name = "SECONDS", requires = "rate")]
    #[arg(conflicts_with_all = ["views", "days", "until"])]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=2_592_000))]
    pub duration: Option<u32>,
    /// How long a request is repeated while the service does not answer or is busy, in seconds: 0 to
    /// 86400
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "to")]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub retry_secs: u32,
}

impl Generate {
    /// What no single value tells.
    pub(super) fn checked(&self, retention_days: u32) -> Result<(), Refusal> {
        if self.duration.is_none() && self.days >= retention_days {
            return Err(Refusal::Wrong(format!(
                "--days must be less than RETENTION_DAYS, which is {retention_days}"
            )));
        }
        Ok(())
    }
}

/// How a batch is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Coding {
    /// Not at all.
    None,
    /// `gzip`.
    Gzip,
    /// `zstd`.
    Zstd,
}
