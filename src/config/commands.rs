//! What the program can be asked to do.

use chrono::{DateTime, Utc};
use clap::{Subcommand, ValueEnum};

use super::generate::Generate;
use super::values::{day, time};

/// The subcommands.
#[derive(Subcommand)]
pub enum Command {
    /// Serve the HTTP API (the default)
    Serve,
    /// Bring the database's schema up to date, then exit
    Migrate,
    /// Count hours into the pre-aggregate again; the service does so by itself
    Seal {
        /// The first hour, such as 2026-11-21T09:00:00Z
        #[arg(long, value_name = "TIME", value_parser = time)]
        from: DateTime<Utc>,
        /// The end, itself not counted
        #[arg(long, value_name = "TIME", value_parser = time)]
        to: DateTime<Utc>,
    },
    /// Compare what was accepted, what is stored and what reports count; name and mend what differs
    Reconcile(Reconcile),
    /// Write made-up page views to a running service, or as lines of JSON to standard output
    Generate(Generate),
    /// Wait until nothing waits on this disk any more; without a running service, send it
    Drain(Drain),
    /// Ask the service that runs with these settings for its health: exits with 0 if it is well
    Probe {
        /// Also ask whether it can take views in
        #[arg(long)]
        ready: bool,
    },
    /// Print the API as a Postman collection (docs/postman.json)
    Postman,
    /// Look at what waits for ClickHouse, and at what was rejected
    #[command(subcommand)]
    Spool(SpoolCommand),
    /// Make, list and revoke the keys in API_KEYS_FILE
    #[command(subcommand)]
    Key(KeyCommand),
}

impl Command {
    /// Whether it is to end before it begins.
    pub(super) fn is_backwards(&self) -> bool {
        match self {
            Command::Seal { from, to } => from >= to,
            Command::Reconcile(Reconcile {
                from: Some(from),
                to: Some(to),
                ..
            }) => from >= to,
            _ => false,
        }
    }
}

/// What to reconcile, and how.
#[derive(clap::Args, Clone, Debug)]
pub struct Reconcile {
    /// The first day of UTC, such as 2026-11-21; unset: as far back as views are kept
    #[arg(long, value_name = "DATE", value_parser = day)]
    pub from: Option<DateTime<Utc>>,
    /// The day behind the last, itself not compared; unset: up to now
    #[arg(long, value_name = "DATE", value_parser = day)]
    pub to: Option<DateTime<Utc>>,
    /// Mend what differs, and compare again
    #[arg(long)]
    pub repair: bool,
    /// How the result is printed
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: ReportFormat,
    /// How many differences are named in full; the others are counted: 0 to 1000000
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub limit: u32,
    /// How long a difference must last to be named, in seconds: 0 to 3600. Below 60 beside running
    /// instances, views on their way may be named
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=3600))]
    pub patience: u32,
}

/// How long to drain.
#[derive(clap::Args, Clone, Debug)]
pub struct Drain {
    /// How long it may take, in seconds: 1 to 86400
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub within: u32,
    /// How long nothing must have waited, in seconds: 0 to 3600
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=3600))]
    pub empty_for: u32,
}

/// How a command prints its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// A table for a person.
    Text,
    /// One JSON document.
    Json,
}

/// What an operator can do with the spool, whether the service runs or not.
#[derive(Subcommand)]
pub enum SpoolCommand {
    /// List what waits, and what was rejected
    List,
    /// Print the rows of one file as JSON lines
    Show {
        /// The file's name, as listed
        name: String,
    },
    /// Put a rejected file back among those that wait
    Replay {
        /// The file's name, as listed
        #[arg(required_unless_present = "all")]
        name: Option<String>,
        /// All rejected files
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
    /// Delete a rejected file for good
    Drop {
        /// The file's name, as listed
        name: String,
    },
}

/// What an operator can do with keys. A running service takes the change over on SIGHUP.
#[derive(Subcommand)]
pub enum KeyCommand {
    /// Make a key and print it, this once; without API_KEYS_FILE also the line for API_KEYS
    New(NewKey),
    /// List the keys that there are
    List,
    /// Take a key out
    Revoke {
        /// The key's id, as listed, or all of the key
        id: String,
    },
}

/// What a new key is to be good for.
#[derive(clap::Args, Clone, Debug)]
pub struct NewKey {
    /// Whose it is, for lists and logs
    #[arg(long, value_name = "NAME")]
    pub client: String,
    /// Of write, read and admin, with commas between them; none implies another
    #[arg(long, value_name = "SCOPES", value_delimiter = ',', required = true)]
    pub scopes: Vec<String>,
    /// From when on it is good for nothing, such as 2027-01-31T00:00:00Z; unset: never
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub expires: Option<DateTime<Utc>>,
    /// Only views of these users, such as 7,100-199; reports on the whole site are then not for it
    #[arg(long, value_name = "USERS")]
    pub users: Option<String>,
    /// Only requests to these paths and below, such as /api/traffic/daily
    #[arg(long, value_name = "PATHS", value_delimiter = ',')]
    pub paths: Vec<String>,
    /// Rows that it may write in a second, instead of RATE_LIMIT_KEY_WRITES
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub writes_per_sec: Option<u32>,
    /// Reports that it may read in a second, instead of RATE_LIMIT_KEY_READS
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub reads_per_sec: Option<u32>,
}
