//! Settings of connections: who may connect, how, and for how long.

use std::path::PathBuf;

/// Who may connect, how, and for how long.
#[derive(clap::Args, Clone)]
pub struct ConnectionSettings {
    /// Connections at once: 1 to 1000000; more wait until one is closed
    #[arg(
        long,
        env,
        global = true,
        value_name = "NUMBER",
        default_value_t = 8192
    )]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: u32,

    /// Connections at once of one client address: 1 to 1000000; more are closed; 0 any number; unset: a
    /// quarter of MAX_CONNECTIONS, for loopback any number. Those of TRUSTED_PROXIES are not counted
    #[arg(long, env, global = true, value_name = "NUMBER")]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub max_connections_per_address: Option<u32>,

    /// How long the head of a request may take to arrive, and a TLS handshake, in seconds: 1 to 600
    #[arg(long, env, global = true, value_name = "SECONDS", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=600))]
    pub header_timeout_secs: u32,

    /// How long the body of a single view may take to arrive, and how long that of a batch may pause, in
    /// seconds: 1 to 3600
    #[arg(long, env, global = true, value_name = "SECONDS", default_value_t = 20)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub body_timeout_secs: u32,

    /// How long a connection may stay open without a request, in seconds: 1 to 3600
    #[arg(long, env, global = true, value_name = "SECONDS", default_value_t = 75)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub idle_timeout_secs: u32,

    /// How long a client may not take anything of its answer, in seconds: 1 to 3600
    #[arg(long, env, global = true, value_name = "SECONDS", default_value_t = 30)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub write_timeout_secs: u32,

    /// The file with the certificate to serve TLS with, and those that it hangs on, in PEM; read again on
    /// SIGHUP; unset: no TLS
    #[arg(long, env, global = true, value_name = "FILE")]
    pub tls_cert_file: Option<PathBuf>,

    /// The file with the certificate's private key, in PEM
    #[arg(long, env, global = true, value_name = "FILE")]
    pub tls_key_file: Option<PathBuf>,
}

impl ConnectionSettings {
    /// Whether the service itself speaks TLS.
    pub const fn serves_tls(&self) -> bool {
        self.tls_cert_file.is_some()
    }

    /// What these settings contradict each other in.
    pub(super) fn contradiction(&self) -> Option<String> {
        (self.tls_cert_file.is_some() != self.tls_key_file.is_some()).then(|| {
            "TLS_CERT_FILE (--tls-cert-file) and TLS_KEY_FILE (--tls-key-file): name both or neither"
                .to_owned()
        })
    }
}
