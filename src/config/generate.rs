//! What to generate, and where to.

use chrono::{DateTime, Utc};
use clap::ValueEnum;

use super::Settings;
use super::refusal::Refusal;
use super::values::{service_url, share, time};

/// Made-up page views or events.
#[derive(clap::Args, Clone)]
pub struct Generate {
    /// What is made: page views, or events of captchas and ads
    #[arg(long, value_name = "STREAM", default_value = "page-views")]
    pub stream: GeneratedStream,
    /// A running service (http://127.0.0.1:8000); unset: lines of JSON to standard output
    #[arg(long, value_name = "URL", value_parser = service_url)]
    pub to: Option<String>,
    /// The key for it, with the scope write
    #[arg(long, env, value_name = "KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// How many views, or with --stream events visits, most of which have two events: 1 to 1000000000000
    #[arg(
        long,
        visible_alias = "visits",
        value_name = "NUMBER",
        default_value_t = 100_000
    )]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000))]
    pub views: u64,
    /// Of page views: how many users at most, ids from 1, the busiest first: 1 to 4294967295; unset: 10000
    #[arg(long, value_name = "NUMBER")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub users: Option<u32>,
    /// Of page views: how many pages at most: 1 to 10000000; unset: 500
    #[arg(long, value_name = "NUMBER")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub pages: Option<u32>,
    /// Of events: how many sites, every other one with captchas, the rest with ads: 1 to 1000000; unset: 20
    #[arg(long, value_name = "NUMBER")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub sites: Option<u32>,
    /// Over how many days up to --until: 1 to 3649
    #[arg(long, value_name = "DAYS", default_value_t = 7)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=3649))]
    pub days: u32,
    /// When the last view or event happens, such as 2026-11-21T09:00:00Z; unset: now. Given, the same command
    /// gives the same ones
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub until: Option<DateTime<Utc>>,
    /// Another one gives other views, other events on other sites
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
    /// The share of views, or of visits, that are sent once more: 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.01, value_parser = share)]
    pub duplicates: f64,
    /// Of page views: the share that is corrected by PUT once they are stored: 0 to 1; unset: none
    #[arg(long, value_name = "SHARE", value_parser = share)]
    #[arg(requires = "to")]
    pub updates: Option<f64>,
    /// Views, or the events of so many visits, in one request: 1 to 1000000
    #[arg(long, value_name = "VIEWS", default_value_t = 10_000, requires = "to")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub batch_size: u32,
    /// The content coding of a batch
    #[arg(long, value_name = "CODING", default_value = "none", requires = "to")]
    pub compress: Coding,
    /// Each view or event in its own request
    #[arg(long, requires = "to", conflicts_with_all = ["batch_size", "compress"])]
    pub single: bool,
    /// Posts at once: 1 to 4096; unset: 2 of batches, 16 of single ones
    #[arg(long, value_name = "NUMBER", requires = "to")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub connections: Option<u16>,
    /// Views or visits a second at most: 1 to 10000000; unset: as fast as they are taken
    #[arg(long, value_name = "NUMBER", requires = "to")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub rate: Option<u32>,
    /// Live: they happen while they are sent, at --rate for so many seconds: 1 to 2592000
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
    pub(super) fn checked(&self, settings: &Settings) -> Result<(), Refusal> {
        let of_the_other_stream = match self.stream {
            GeneratedStream::PageViews => [("--sites", self.sites.is_some())].to_vec(),
            GeneratedStream::Events => [
                ("--users", self.users.is_some()),
                ("--pages", self.pages.is_some()),
                ("--updates", self.updates.is_some()),
            ]
            .to_vec(),
        };
        let given = |(_, given): &&(&str, bool)| *given;
        if let Some((flag, _)) = of_the_other_stream.iter().find(given) {
            return Err(Refusal::Wrong(format!("{flag} is not for this --stream")));
        }
        if let Some((name, days)) = self.kept(settings)
            && self.duration.is_none()
            && self.days >= days
        {
            return Err(Refusal::Wrong(format!(
                "--days must be less than {name}, which is {days}"
            )));
        }
        Ok(())
    }

    /// How many days what is made is kept, and which setting says so; nothing where it is for ever.
    pub fn kept(&self, settings: &Settings) -> Option<(&'static str, u32)> {
        let kept = match self.stream {
            GeneratedStream::PageViews => ("RETENTION_DAYS", settings.retention_days),
            GeneratedStream::Events => ("EVENTS_RETENTION_DAYS", settings.events_retention_days),
        };
        Some(kept).filter(|(_, days)| *days > 0)
    }
}

/// What is made up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GeneratedStream {
    /// Page views.
    PageViews,
    /// Events by site.
    Events,
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
