//! What single settings accept. The error texts are read behind the setting's name and value.

use std::net::SocketAddr;

use axum::http::Uri;
use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "must be an IP address and a port, such as 127.0.0.1:8000".to_owned())
}

pub(super) fn time(text: &str) -> Result<DateTime<Utc>, String> {
    let time = DateTime::parse_from_rfc3339(text);
    Ok(time
        .map_err(|_| "must be a time, such as 2026-11-21T09:00:00Z".to_owned())?
        .to_utc())
}

/// The first second of a day of UTC.
pub(super) fn day(text: &str) -> Result<DateTime<Utc>, String> {
    let day: Result<NaiveDate, _> = text.parse();
    Ok(day
        .map_err(|_| "must be a day, such as 2026-11-21".to_owned())?
        .and_time(NaiveTime::MIN)
        .and_utc())
}

pub(super) fn http_url(text: &str) -> Result<String, String> {
    let uri: Uri = text.parse().map_err(|_| "is not a URL".to_owned())?;
    match uri.scheme_str() {
        Some("http" | "https") => {}
        _ => return Err("must begin with http:// or https://".to_owned()),
    }
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let host = uri.host().unwrap_or_default();
    if host.is_empty()
        || (authority != host && uri.port_u16().is_none_or(|port| port == 0))
            && !authority.contains('@')
    {
        return Err("must have a host, and a port from 1 to 65535 if any".to_owned());
    }
    if authority.contains('@') {
        return Err(
            "must not contain a user; set CLICKHOUSE_USER and CLICKHOUSE_PASSWORD".to_owned(),
        );
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() || text.contains('#') {
        return Err("must end after host and port".to_owned());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// A running service of ours.
pub(super) fn service_url(text: &str) -> Result<String, String> {
    if text.starts_with("https://") {
        return Err("https is not supported: name an instance by http".to_owned());
    }
    if text.contains('@') {
        return Err("must not contain a user".to_owned());
    }
    http_url(text)
}

/// A part of a whole.
pub(super) fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("must be from 0 to 1".to_owned()),
    }
}

/// Names that are pasted into SQL must be plain.
pub(super) fn identifier(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if text.len() > 64
        || !text.chars().all(plain)
        || !text.starts_with(|c: char| !c.is_ascii_digit())
    {
        return Err("must be letters, digits and _, not begin with a digit, at most 64".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) fn database(text: &str) -> Result<String, String> {
    if matches!(
        text.to_ascii_lowercase().as_str(),
        "system" | "information_schema"
    ) {
        return Err("belongs to ClickHouse itself".to_owned());
    }
    identifier(text)
}

pub(super) fn log_level(text: &str) -> Result<String, String> {
    // A bare word that is no level would be taken for a target, and silence everything else.
    if !text.contains('=')
        && text
            .split(',')
            .any(|word| word.parse::<LevelFilter>().is_err())
    {
        return Err(
            "must be error, warn, info, debug, trace, off, or tracing directives".to_owned(),
        );
    }
    EnvFilter::try_new(text).map_err(|e| e.to_string())?;
    Ok(text.to_owned())
}
