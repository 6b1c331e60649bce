//! By which name the service was called.
//!
//! A page of `evil.example` whose name is made to lead to this machine (DNS rebinding) is of the same
//! origin as this service for its browser. Only the name that it calls gives it away.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::header;
use axum::http::uri::Authority;

/// The names that the service may be called by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hosts {
    /// Any.
    Any,
    /// Those of this machine for itself, and these, in lower case.
    ThisMachineAnd(Vec<String>),
    /// These, in lower case, and any address: no page's name is one, and probes have nothing else.
    AddressesAnd(Vec<String>),
}

impl Hosts {
    /// Whether every name in the request is good, and there is one: `Host`, and where the target has
    /// it (`:authority` of HTTP/2 too), the target's.
    pub(super) fn accept(&self, request: &Request) -> bool {
        if *self == Hosts::Any {
            return true;
        }
        let target = request.uri().authority().map(|it| self.has(it.as_str()));
        let hosts = request.headers().get_all(header::HOST).iter();
        let hosts = hosts.map(|value| value.to_str().is_ok_and(|host| self.has(host)));
        let mut judged = target.into_iter().chain(hosts).peekable();
        judged.peek().is_some() && judged.all(|is_good| is_good)
    }

    /// The port is not looked at: another may lead to ours.
    fn has(&self, authority: &str) -> bool {
        let Ok(authority) = authority.parse::<Authority>() else {
            return false;
        };
        if authority.as_str().contains('@') {
            return false;
        }
        let host = authority.host();
        let host = host.strip_suffix('.').unwrap_or(host);
        let address = host.trim_start_matches('[').trim_end_matches(']');
        let address = address.parse::<IpAddr>().ok();
        let (is_ours, names) = match self {
            Hosts::Any => return true,
            Hosts::ThisMachineAnd(names) => {
                let is_loopback = address.is_some_and(|it| it.to_canonical().is_loopback());
                (is_loopback || host.eq_ignore_ascii_case("localhost"), names)
            }
            Hosts::AddressesAnd(names) => (address.is_some(), names),
        };
        is_ours || names.iter().any(|name| host.eq_ignore_ascii_case(name))
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn accepts(hosts: &Hosts, target: &str, names: &[&[u8]]) -> bool {
        let mut request = Request::get(target);
        for name in names {
            request = request.header(header::HOST, *name);
        }
        hosts.accept(&request.body(Body::empty()).unwrap())
    }

    #[test]
    fn only_good_names_are_accepted() {
        let names = || vec!["api.example.org".to_owned()];
        let (own, any) = (Hosts::ThisMachineAnd(names()), Hosts::AddressesAnd(names()));
        for (name, by_own, by_any) in [
            ("localhost", true, false),
            ("LocalHost:9", true, false),
            ("localhost.", true, false),
            ("127.0.0.1:8000", true, true),
            ("127.9.9.9", true, true),
            ("[::1]:8000", true, true),
            ("[::ffff:127.0.0.1]", true, true),
            ("api.example.org", true, true),
            ("API.example.ORG:443", true, true),
            ("10.1.2.3:8000", false, true),
            // A listening socket of all addresses is reached by it.
            ("0.0.0.0:8000", false, true),
            ("evil.example", false, false),
            ("evil.example:8000", false, false),
            ("localhost.evil.example", false, false),
            ("127.0.0.1.evil.example", false, false),
            ("localhost@evil.example", false, false),
            ("evil.example@localhost", false, false),
            ("xapi.example.org", false, false),
            ("api.example.org/..", false, false),
            ("", false, false),
            ("localhost localhost", false, false),
        ] {
            let names: &[&[u8]] = &[name.as_bytes()];
            assert_eq!(accepts(&own, "/", names), by_own, "{name:?}");
            assert_eq!(accepts(&any, "/", names), by_any, "{name:?}");
            assert!(accepts(&Hosts::Any, "/", names), "{name:?}");
        }
        // All that are said must be good, and one must be.
        for (target, names, good) in [
            ("/", &[][..], false),
            ("/", &[&b"localhost"[..], b"evil.example"], false),
            ("/", &[b"localhost", b"127.0.0.1"], true),
            ("/", &[b"localh\xffst"], false),
            ("http://localhost/", &[], true),
            ("http://evil.example/", &[b"localhost"], false),
            ("http://localhost/", &[b"evil.example"], false),
        ] {
            assert_eq!(accepts(&own, target, names), good, "{target} {names:?}");
        }
        assert!(accepts(&Hosts::Any, "/", &[]));
    }
}
