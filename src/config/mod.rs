//! Settings: from flags, from the environment, from `.env`, in this order of precedence.
//!
//! Purpose: every setting with its default and its range in one place; a wrong one stops the start
//! with one line that names it. Refuses to know: what the settings are used for.

mod access;
mod browsers;
mod choices;
mod commands;
mod connections;
mod generate;
mod refusal;
mod values;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::Resettable;
use clap::{CommandFactory, FromArgMatches, Parser};

pub use access::AccessSettings;
pub use browsers::{ANY_ORIGIN, BrowserSettings};
pub use choices::{Auth, LogFormat, ReportPlan};
pub use commands::{Command, Drain, KeyCommand, NewKey, Reconcile, ReportFormat, SpoolCommand};
pub use connections::ConnectionSettings;
pub use generate::{Coding, Generate, GeneratedStream};
pub use refusal::Refusal;
use values::{address, database, http_url, identifier, log_level};

/// Takes in page views and events over HTTP, stores them in ClickHouse, answers exact reports.
#[derive(Parser)]
#[command(name = "traffic-api", version)]
pub struct Cli {
    /// What to do; without one, serve.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The settings that all commands share.
    #[command(flatten)]
    pub settings: Settings,
}

/// Everything that can be configured. Each flag `--some-name` is also the variable `SOME_NAME`.
#[derive(clap::Args, Clone)]
pub struct Settings {
    /// The address to serve on
    #[arg(
        long,
        env,
        global = true,
        value_name = "ADDR",
        default_value = "127.0.0.1:8000"
    )]
    #[arg(value_parser = address)]
    pub listen_addr: SocketAddr,

    /// Where the spool and the embedded ClickHouse keep their data
    #[arg(long, env, global = true, value_name = "DIR", default_value = "./data")]
    pub data_dir: PathBuf,

    /// A ClickHouse of your own (http://host:8123, https://host:8443); unset: an embedded one is fetched and started
    #[arg(long, env, global = true, value_name = "URL", value_parser = http_url)]
    pub clickhouse_url: Option<String>,

    /// A replica to read reports from; unset: CLICKHOUSE_URL
    #[arg(long, env, global = true, value_name = "URL", value_parser = http_url)]
    #[arg(requires = "clickhouse_url")]
    pub clickhouse_read_url: Option<String>,

    /// The user there; unset: default
    #[arg(
        long,
        env,
        global = true,
        value_name = "NAME",
        requires = "clickhouse_url"
    )]
    pub clickhouse_user: Option<String>,

    /// The user's password; unset: none
    #[arg(
        long,
        env,
        global = true,
        value_name = "TEXT",
        requires = "clickhouse_url"
    )]
    #[arg(hide_env_values = true)]
    pub clickhouse_password: Option<String>,

    /// The file with the certificates of the authorities that a ClickHouse behind https is believed by;
    /// unset: those that this machine trusts
    #[arg(
        long,
        env,
        global = true,
        value_name = "FILE",
        requires = "clickhouse_url"
    )]
    pub clickhouse_ca_file: Option<PathBuf>,

    /// The database; created if it is missing
    #[arg(
        long,
        env,
        global = true,
        value_name = "NAME",
        default_value = "traffic"
    )]
    #[arg(value_parser = database)]
    pub clickhouse_database: String,

    /// The cluster to create replicated and distributed tables on; unset: a single server
    #[arg(long, env, global = true, value_name = "NAME", value_parser = identifier)]
    #[arg(requires = "clickhouse_url")]
    pub clickhouse_cluster: Option<String>,

    /// Whether the schema is brought up to date at the start: true or false; if not, it must be
    #[arg(long, env, global = true, value_name = "BOOL", default_value_t = true)]
    #[arg(action = clap::ArgAction::Set)]
    pub migrate_on_start: bool,

    /// How long views are kept, in days: 1 to 3650
    #[arg(long, env, global = true, value_name = "DAYS", default_value_t = 90)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub retention_days: u32,

    /// How long events are kept, in days: 1 to 3650; 0 for ever
    #[arg(long, env, global = true, value_name = "DAYS", default_value_t = 30)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=3650))]
    pub events_retention_days: u32,

    /// The types of events that are taken in, separated by commas; unset: any
    #[arg(long, env, global = true, value_name = "NAMES", value_delimiter = ',')]
    pub event_types: Vec<String>,

    /// How far ahead of ours a client's clock may be, in seconds: 0 to 86400
    #[arg(long, env, global = true, value_name = "SECONDS", default_value_t = 0)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub max_clock_skew_secs: u32,

    /// The number of this instance among those on one database, 0 to 1023; unset: drawn at random
    #[arg(long, env, global = true, value_name = "NUMBER")]
    #[arg(value_parser = clap::value_parser!(u16).range(0..=1023))]
    pub node_id: Option<u16>,

    /// Views between admission and answer, in bytes: 65536 to 4294967295; beyond that 429
    #[arg(long, env, global = true, value_name = "BYTES", default_value_t = 64 << 20)]
    #[arg(value_parser = clap::value_parser!(u32).range(65_536..))]
    pub ingest_buffer_bytes: u32,

    /// The most views in one insert: 1 to 1000000
    #[arg(
        long,
        env,
        global = true,
        value_name = "ROWS",
        default_value_t = 200_000
    )]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub ingest_max_batch_rows: u32,

    /// The least time between the starts of two inserts, in milliseconds: 0 to 10000; unset: 0, with
    /// CLICKHOUSE_CLUSTER 100
    #[arg(long, env, global = true, value_name = "MS")]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub ingest_min_interval_ms: Option<u32>,

    /// Inserts under way at once: 1 to 64
    #[arg(long, env, global = true, value_name = "NUMBER", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=64))]
    pub ingest_inserts_in_flight: u32,

    /// The most bytes on disk of views that wait for ClickHouse: 1048576 or more; beyond that 503
    #[arg(long, env, global = true, value_name = "BYTES", default_value_t = 8 << 30)]
    #[arg(value_parser = clap::value_parser!(u64).range(1 << 20..))]
    pub spool_max_bytes: u64,

    /// Let ClickHouse fsync every insert before it confirms it
    #[arg(long, env, global = true, value_name = "BOOL", default_value_t = false)]
    #[arg(action = clap::ArgAction::Set)]
    pub clickhouse_fsync: bool,

    /// Where reports are read from: the counts are the same, the costs differ
    #[arg(long, env, global = true, value_name = "PLAN", default_value = "auto")]
    pub report_plan: ReportPlan,

    /// Keep the pre-aggregate up to date from this instance; one of several is enough
    #[arg(long, env, global = true, value_name = "BOOL", default_value_t = true)]
    #[arg(action = clap::ArgAction::Set)]
    pub sealer: bool,

    /// How long after its end an hour is counted into the pre-aggregate, in seconds: 2400 to 604800
    #[arg(
        long,
        env,
        global = true,
        value_name = "SECONDS",
        default_value_t = 3600
    )]
    #[arg(value_parser = clap::value_parser!(u32).range(2400..=604_800))]
    pub seal_delay_secs: u32,

    /// How often this instance compares the totals of the last closed days, in seconds: 0 to 604800;
    /// 0 never
    #[arg(
        long,
        env,
        global = true,
        value_name = "SECONDS",
        default_value_t = 3600
    )]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=604_800))]
    pub reconcile_interval_secs: u32,

    /// The largest body of a single view and line of a batch, in bytes: 16384 to 1073741824; beyond that 413
    #[arg(
        long,
        env,
        global = true,
        value_name = "BYTES",
        default_value_t = 65_536
    )]
    #[arg(value_parser = clap::value_parser!(u32).range(16_384..=1 << 30))]
    pub max_body_bytes: u32,

    /// What is logged: error, warn, info, debug, trace, or tracing directives (info,tower_http=debug)
    #[arg(long, env, global = true, value_name = "LEVEL", default_value = "info")]
    #[arg(value_parser = log_level)]
    pub log_level: String,

    /// Reports that take so long or longer are logged with their query id, in milliseconds: 0 to 600000
    #[arg(long, env, global = true, value_name = "MS", default_value_t = 500)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=600_000))]
    pub slow_report_ms: u32,

    /// How log lines look on standard error
    #[arg(
        long,
        env,
        global = true,
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub log_format: LogFormat,

    /// Where the embedded ClickHouse's library is kept once fetched; unset: the user's cache
    #[arg(long, env, global = true, value_name = "DIR")]
    pub engine_cache_dir: Option<PathBuf>,

    /// Who may connect, how, and for how long
    #[command(flatten)]
    pub connections: ConnectionSettings,

    /// Who may call, and how often
    #[command(flatten)]
    pub access: AccessSettings,

    /// What pages in browsers may do
    #[command(flatten)]
    pub browsers: BrowserSettings,
}

impl Settings {
    /// Whether any ClickHouse is behind https.
    pub fn reaches_clickhouse_by_tls(&self) -> bool {
        let urls = [&self.clickhouse_url, &self.clickhouse_read_url];
        urls.into_iter()
            .flatten()
            .any(|url| url.starts_with("https://"))
    }
}

impl Cli {
    /// Reads `arguments` (the program's name first) and the environment.
    ///
    /// # Errors
    /// A [`Refusal`] to print.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, Refusal> {
        // An empty variable means "not set": compose files and shells pass those on.
        let command = Self::command().mut_args(|argument| {
            let empty = argument
                .get_env()
                .and_then(std::env::var_os)
                .is_some_and(|value| value.is_empty());
            if empty {
                argument.env(Resettable::Reset)
            } else {
                argument
            }
        });
        command
            .try_get_matches_from(arguments)
            .and_then(|matches| Self::from_arg_matches(&matches))
            .map_err(Refusal::from)?
            .checked()
    }

    /// What no single value tells.
    fn checked(self) -> Result<Self, Refusal> {
        let settings = &self.settings;
        // Seals may reach a replica of another kind before the counts that they stand for.
        if settings.report_plan == ReportPlan::View
            && settings.clickhouse_read_url.is_some()
            && settings.clickhouse_cluster.is_none()
        {
            return Err(Refusal::Wrong(
                "REPORT_PLAN (--report-plan): view can't be read from CLICKHOUSE_READ_URL without \
                 CLICKHOUSE_CLUSTER"
                    .to_owned(),
            ));
        }
        if settings.clickhouse_ca_file.is_some() && !settings.reaches_clickhouse_by_tls() {
            return Err(Refusal::Wrong(
                "CLICKHOUSE_CA_FILE (--clickhouse-ca-file): CLICKHOUSE_URL is not https, so nobody's \
                 certificate is looked at"
                    .to_owned(),
            ));
        }
        if let Some(line) = settings.connections.contradiction() {
            return Err(Refusal::Wrong(line));
        }
        if let Some(Command::Generate(task)) = &self.command {
            task.checked(settings)?;
        }
        if let None | Some(Command::Serve) = self.command
            && let Some(line) = settings
                .access
                .contradiction(settings.listen_addr)
                .or_else(|| settings.browsers.contradiction(settings.access.has_keys()))
        {
            return Err(Refusal::Wrong(line));
        }
        match &self.command {
            Some(command) if command.is_backwards() => {
                Err(Refusal::Wrong("--from must be before --to".to_owned()))
            }
            _ => Ok(self),
        }
    }
}

#[cfg(test)]
mod tests;
