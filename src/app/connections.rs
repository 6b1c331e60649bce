//! Who may connect, and how, as configured.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tracing::{error, info};

use crate::config::Settings;
use crate::http::{Access, Connections, PerAddress, Timeouts};
use crate::telemetry::metrics::Metrics;
use crate::tls::Certificate;

/// The certificate to serve with, if any.
///
/// # Errors
/// What is wrong with its files.
pub(super) fn certificate(settings: &Settings) -> Result<Option<Arc<Certificate>>> {
    let chosen = &settings.connections;
    let (Some(certificates), Some(key)) = (&chosen.tls_cert_file, &chosen.tls_key_file) else {
        return Ok(None);
    };
    let certificate = Certificate::open(certificates.clone(), key.clone())
        .context("TLS_CERT_FILE and TLS_KEY_FILE")?;
    Ok(Some(Arc::new(certificate)))
}

/// Reads the certificate of a running service again.
pub(super) fn reload(certificate: Option<&Certificate>) {
    match certificate.map(Certificate::reload) {
        None => {}
        Some(Ok(())) => info!("certificate read again"),
        Some(Err(error)) => error!(%error, "certificate not read again: that of before stays"),
    }
}

pub(super) fn connections(settings: &Settings, access: &Access, metrics: &Metrics) -> Connections {
    let chosen = &settings.connections;
    let limit = chosen.max_connections as usize;
    let per_address = match chosen.max_connections_per_address {
        Some(0) => None,
        Some(limit) => Some((limit as usize, true)),
        // One address can't take every place, and whoever tries things out on this machine may.
        None => Some((limit.div_ceil(4), false)),
    };
    let per_address = per_address.map(|(limit, includes_loopback)| PerAddress {
        limit,
        includes_loopback,
        proxies: Arc::clone(&access.proxies),
    });
    Connections::new(limit, per_address, metrics)
}

pub(super) fn timeouts(settings: &Settings) -> Timeouts {
    let chosen = &settings.connections;
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    Timeouts {
        head: seconds(chosen.header_timeout_secs),
        body: seconds(chosen.body_timeout_secs),
        idle: seconds(chosen.idle_timeout_secs),
        write: seconds(chosen.write_timeout_secs),
    }
}
