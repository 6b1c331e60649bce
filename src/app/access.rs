//! Who is let in, as configured.

use std::sync::Arc;

use anyhow::{Context, Result};
use axum::http::HeaderValue;
use tracing::{error, info, warn};

use crate::access::{KeyFile, Keys, LimitSettings, Limits, Loaded, Proxies};
use crate::config::{ANY_ORIGIN, AccessSettings, Auth, BrowserSettings, Settings};
use crate::http::{Access, Browsers, Hosts, Origins};

/// What the settings say of who may call.
///
/// # Errors
/// What is wrong with the keys.
pub(super) fn access(settings: &Settings) -> Result<Access> {
    let chosen = &settings.access;
    let keys = match (chosen.auth, chosen.has_keys()) {
        (Auth::On, true) => Some(Arc::new(keys(chosen)?)),
        (Auth::On, false) => {
            info!(address = %settings.listen_addr, "no keys: only this machine is served, and may do all");
            None
        }
        (Auth::Off, _) => {
            warn!(address = %settings.listen_addr, "AUTH=off: whoever reaches it may do everything");
            None
        }
    };
    Ok(Access {
        keys,
        limits: Arc::new(Limits::new(limits(chosen))),
        proxies: Arc::new(Proxies::within(chosen.trusted_proxies.clone())),
        docs_are_public: chosen.public_docs,
        metrics_are_public: chosen.public_metrics,
        browsers: Arc::new(browsers(chosen, &settings.browsers)?),
    })
}

/// Keys keep pages out by themselves. Where there are none, a page that is open on this machine could do
/// what this machine may. Behind `AUTH=off` is a network whose names only the operator knows.
fn browsers(access: &AccessSettings, chosen: &BrowserSettings) -> Result<Browsers> {
    let names = chosen.allowed_hosts.clone();
    let hosts = match (access.auth, access.has_keys()) {
        (Auth::On, false) => Hosts::ThisMachineAnd(names),
        _ if names.is_empty() => Hosts::Any,
        _ => Hosts::AddressesAnd(names),
    };
    let origins = match &chosen.cors_origins[..] {
        [] => Origins::None,
        [any] if any == ANY_ORIGIN => Origins::Any,
        these => {
            let these: Result<_, _> = these.iter().map(HeaderValue::try_from).collect();
            Origins::These(these.context("CORS_ORIGINS can't be sent")?)
        }
    };
    Ok(Browsers {
        hosts,
        origins,
        foreign_pages_are_refused: !access.has_keys(),
    })
}

fn keys(chosen: &AccessSettings) -> Result<Keys> {
    let file = chosen.api_keys_file.as_deref().map(KeyFile::at);
    let given = chosen.api_keys.clone().unwrap_or_default();
    let (keys, loaded) = Keys::open(file, given).context("the keys can't be read")?;
    report(&loaded, "keys read");
    Ok(keys)
}

/// Reads the keys of a running service again.
pub(super) fn reload(keys: Option<&Keys>) {
    match keys.map(Keys::reload) {
        None => {}
        Some(Ok(loaded)) => report(&loaded, "keys read again"),
        Some(Err(error)) => {
            error!(%error, "keys not read again: those of before stay, revoked ones too")
        }
    }
}

fn report(loaded: &Loaded, event: &str) {
    for warning in &loaded.warnings {
        warn!(warning, "the keys are not safe where they are");
    }
    if loaded.keys == 0 {
        warn!("there is no key: every call is refused; make one with `traffic-api key new`");
    }
    info!(keys = loaded.keys, "{event}");
}

fn limits(chosen: &AccessSettings) -> LimitSettings {
    let limit = |number: u32| (number > 0).then_some(number);
    LimitSettings {
        key_writes_per_sec: limit(chosen.rate_limit_key_writes),
        key_reads_per_sec: limit(chosen.rate_limit_key_reads),
        address_writes_per_sec: limit(chosen.rate_limit_address_writes),
        address_reads_per_sec: limit(chosen.rate_limit_address_reads),
        burst_secs: chosen.rate_limit_burst_secs,
        failures_per_minute: limit(chosen.auth_failures_per_minute),
    }
}
