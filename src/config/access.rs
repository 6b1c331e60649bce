//! Settings of who may call, and how often.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use super::choices::Auth;

/// Who may call, and how often.
#[derive(clap::Args, Clone)]
pub struct AccessSettings {
    /// Whether callers need a key; while there are none, on serves loopback only
    #[arg(long, env, global = true, value_name = "WORD", default_value = "on")]
    pub auth: Auth,

    /// The file with the keys, as `traffic-api key new` writes it; read again on SIGHUP
    #[arg(long, env, global = true, value_name = "FILE")]
    pub api_keys_file: Option<PathBuf>,

    /// Keys beside those in the file, in the same form
    #[arg(long, env, global = true, value_name = "LINES", hide_env_values = true)]
    pub api_keys: Option<String>,

    /// Serve the page at /, /docs, /openapi.json and /problems without a key
    #[arg(long, env, global = true, value_name = "BOOL", default_value_t = true)]
    #[arg(action = clap::ArgAction::Set)]
    pub public_docs: bool,

    /// Serve /metrics without a key; otherwise it needs one with the scope read
    #[arg(long, env, global = true, value_name = "BOOL", default_value_t = false)]
    #[arg(action = clap::ArgAction::Set)]
    pub public_metrics: bool,

    /// Networks of proxies whose X-Forwarded-For is believed, such as 10.0.0.0/8,fd00::/8
    #[arg(
        long,
        env,
        global = true,
        value_name = "NETWORKS",
        value_delimiter = ','
    )]
    #[arg(value_parser = network)]
    pub trusted_proxies: Vec<IpNet>,

    /// Rows that one key may write in a second: 1 to 10000000; 0 any number
    #[arg(long, env, global = true, value_name = "NUMBER", default_value_t = 0)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=10_000_000))]
    pub rate_limit_key_writes: u32,

    /// Reports that one key may read in a second: 1 to 10000000; 0 any number
    #[arg(long, env, global = true, value_name = "NUMBER", default_value_t = 0)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=10_000_000))]
    pub rate_limit_key_reads: u32,

    /// Rows that one client address may write in a second: 1 to 10000000; 0 any number
    #[arg(long, env, global = true, value_name = "NUMBER", default_value_t = 0)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=10_000_000))]
    pub rate_limit_address_writes: u32,

    /// Reports that one client address may read in a second: 1 to 10000000; 0 any number
    #[arg(long, env, global = true, value_name = "NUMBER", default_value_t = 0)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=10_000_000))]
    pub rate_limit_address_reads: u32,

    /// How many seconds' worth of it may come at once: 1 to 60
    #[arg(long, env, global = true, value_name = "SECONDS", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=60))]
    pub rate_limit_burst_secs: u32,

    /// Wrong keys of one client address in a minute that are answered as such: 1 to 1000000; 0 all
    #[arg(long, env, global = true, value_name = "NUMBER", default_value_t = 60)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub auth_failures_per_minute: u32,
}

fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let network = text.parse::<IpNet>();
    let network = network.or_else(|_| text.parse().map(|address: std::net::IpAddr| address.into()));
    network.map_err(|_: std::net::AddrParseError| {
        "must be networks with commas between them, such as 10.0.0.0/8,fd00::/8".to_owned()
    })
}

impl AccessSettings {
    /// Whether there is anything to know callers by.
    pub const fn has_keys(&self) -> bool {
        self.api_keys_file.is_some() || self.api_keys.is_some()
    }

    /// What these settings and the address that is served on contradict each other in.
    pub(super) fn contradiction(&self, listen_addr: SocketAddr) -> Option<String> {
        match (self.auth, self.has_keys()) {
            (Auth::Off, true) => Some(
                "AUTH (--auth): off contradicts API_KEYS_FILE and API_KEYS; leave out the one or \
                 the others"
                    .to_owned(),
            ),
            (Auth::On, false) if !listen_addr.ip().to_canonical().is_loopback() => Some(format!(
                "LISTEN_ADDR (--listen-addr): {listen_addr} can be reached by others, and there are \
                 no keys: set API_KEYS_FILE or API_KEYS, or AUTH=off to serve everybody"
            )),
            _ => None,
        }
    }
}
