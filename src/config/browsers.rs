//! Settings of what pages in browsers may do.

use std::net::IpAddr;

use axum::http::uri::{Authority, Uri};

/// Which pages may call, and by which names the service may be called.
#[derive(clap::Args, Clone)]
pub struct BrowserSettings {
    /// Origins whose pages may call, such as https://app.example.org; * for all, where callers need keys
    #[arg(
        long,
        env,
        global = true,
        value_name = "ORIGINS",
        value_delimiter = ','
    )]
    #[arg(value_parser = origin)]
    pub cors_origins: Vec<String>,

    /// Names that the service may be called by, such as api.example.org; unset: any where callers need
    /// keys or AUTH is off, else only those of this machine
    #[arg(long, env, global = true, value_name = "NAMES", value_delimiter = ',')]
    #[arg(value_parser = host)]
    pub allowed_hosts: Vec<String>,
}

/// Stands for every origin.
pub const ANY_ORIGIN: &str = "*";

/// An origin as browsers write it, since it is compared as text.
fn origin(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text == ANY_ORIGIN {
        return Ok(text.to_owned());
    }
    let wrong = || {
        "must be origins with commas between them, such as https://app.example.org: scheme and host, \
         and a port that is not the scheme's own; or * alone"
            .to_owned()
    };
    let text = text.to_ascii_lowercase();
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let own_port = match uri.scheme_str() {
        Some("http") => 80,
        Some("https") => 443,
        _ => return Err(wrong()),
    };
    let authority = uri.authority().ok_or_else(wrong)?;
    let is_plain = !authority.as_str().contains('@')
        && !authority.host().is_empty()
        && !authority.host().contains('*')
        && uri.port_u16() != Some(own_port)
        && uri.port().is_some() == authority.as_str()[authority.host().len()..].contains(':');
    let serialized = format!("{}://{authority}", uri.scheme_str().unwrap_or_default());
    (is_plain && serialized == text)
        .then_some(text)
        .ok_or_else(wrong)
}

/// The name alone: a port can be forwarded from any other.
fn host(text: &str) -> Result<String, String> {
    let text = text.trim().to_ascii_lowercase();
    let authority = text.parse::<Authority>().ok();
    let is_name = authority.is_some_and(|authority| authority.host() == text)
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        || text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    is_name.then_some(text).ok_or_else(|| {
        "must be names with commas between them, without ports, such as api.example.org".to_owned()
    })
}

impl BrowserSettings {
    /// What these settings contradict, where callers need keys or not.
    pub(super) fn contradiction(&self, has_keys: bool) -> Option<String> {
        let any = self.cors_origins.iter().any(|origin| origin == ANY_ORIGIN);
        if any && self.cors_origins.len() > 1 {
            return Some("CORS_ORIGINS (--cors-origins): * stands alone".to_owned());
        }
        (any && !has_keys).then(|| {
            "CORS_ORIGINS (--cors-origins): * would let every page of the web read and write, since \
             there are no keys; name the origins"
                .to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_as_browsers_write_them() {
        for good in [
            "*",
            "https://app.example.org",
            "http://localhost:3000",
            "http://[::1]:3000",
            "https://a.b:80",
        ] {
            assert_eq!(origin(good).as_deref(), Ok(good));
        }
        assert_eq!(
            origin(" HTTPS://App.example.org").as_deref(),
            Ok("https://app.example.org")
        );
        for bad in [
            "",
            "null",
            "example.org",
            "https://",
            "https://a/",
            "https://a/b",
            "https://a?b",
            "https://u@a",
            "https://a:443",
            "http://a:80",
            "https://a:",
            "ftp://a",
            "https://*.a",
            "https://a\u{e9}",
        ] {
            assert!(origin(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hosts_are_names_without_ports() {
        for good in ["api.example.org", "localhost", "10.0.0.1", "[::1]", "a_b"] {
            assert_eq!(host(good).as_deref(), Ok(good));
        }
        assert_eq!(host("API.example.org ").as_deref(), Ok("api.example.org"));
        for bad in ["", "a:80", "http://a", "a/b", "u@a", "*.a", "a b", "\u{e9}"] {
            assert!(host(bad).is_err(), "{bad:?}");
        }
    }
}
