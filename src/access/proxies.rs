//! Who is calling, where proxies stand in between.
//!
//! Each proxy writes down, at the end of `X-Forwarded-For`, whom it was called by. What a trusted one
//! has written is believed; what stands further left was written by whoever called it, who may have
//! written anything. So the caller is the last address in the list that is not a trusted proxy's.
//! Only this one header is read: a proxy that keeps one header clean lets others through.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

/// The proxies that are believed.
#[derive(Debug, Clone, Default)]
pub struct Proxies(Vec<IpNet>);

impl Proxies {
    /// Those within `networks`.
    pub fn within(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// Whether `address` is one of them.
    pub fn trust(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The caller behind a connection from `peer` whose request has these values of `X-Forwarded-For`,
    /// in order.
    pub fn caller<'a>(
        &self,
        peer: IpAddr,
        forwarded: impl DoubleEndedIterator<Item = &'a [u8]>,
    ) -> IpAddr {
        let mut caller = peer.to_canonical();
        if self.0.is_empty() {
            return caller;
        }
        let entries = forwarded
            .rev()
            .flat_map(|value| value.rsplit(|byte| *byte == b','));
        for entry in entries {
            if !self.trust(caller) {
                break;
            }
            match address(entry.trim_ascii()) {
                Some(before) => caller = before,
                // Written by nobody who is believed, or an honest "unknown": the last one known.
                None => break,
            }
        }
        caller
    }
}

/// An address, with or without a port.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    let address: Result<IpAddr, _> = bare.parse();
    let address = address.or_else(|_| text.parse::<SocketAddr>().map(|socket| socket.ip()));
    address.ok().map(|address| address.to_canonical())
}

/// What counts as one sender: an IPv4 address, or the network of 64 bits that an IPv6 host can choose
/// its addresses from.
pub fn sender(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(proxies: &[&str], peer: &str, forwarded: &[&str]) -> String {
        let networks = proxies.iter().map(|network| network.parse().unwrap());
        let proxies = Proxies::within(networks.collect());
        let forwarded = forwarded.iter().map(|value| value.as_bytes());
        proxies.caller(peer.parse().unwrap(), forwarded).to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let inner = ["10.0.0.0/8", "fd00::/8"];
        let cases: &[(&str, &[&str], &str)] = &[
            // Nobody stands in between, or nobody who is trusted.
            ("203.0.113.1", &[], "203.0.113.1"),
            ("203.0.113.1", &["198.51.100.1"], "203.0.113.1"),
            ("203.0.113.1", &["10.0.0.1"], "203.0.113.1"),
            // One proxy, whose caller claimed this and that.
            ("10.0.0.1", &["203.0.113.1"], "203.0.113.1"),
            ("10.0.0.1", &["1.2.3.4, 203.0.113.1"], "203.0.113.1"),
            ("10.0.0.1", &["10.9.9.9, 203.0.113.1"], "203.0.113.1"),
            ("10.0.0.1", &["1.2.3.4", "203.0.113.1"], "203.0.113.1"),
            // A chain of them.
            (
                "10.0.0.1",
                &["1.2.3.4, 203.0.113.1, 10.0.0.2"],
                "203.0.113.1",
            ),
            (
                "fd00::1",
                &["203.0.113.1,fd00::2 , 10.0.0.2"],
                "203.0.113.1",
            ),
            ("::ffff:10.0.0.1", &["::ffff:203.0.113.1"], "203.0.113.1"),
            // With ports.
            ("10.0.0.1", &["203.0.113.1:4711"], "203.0.113.1"),
            ("10.0.0.1", &["[2001:db8::1]:4711"], "2001:db8::1"),
            ("10.0.0.1", &["[2001:db8::1]"], "2001:db8::1"),
            // Nothing but proxies, and nothing that can be read.
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &[""], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.1, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.1, 10.0.0.2, \u{fffd}"], "10.0.0.1"),
            ("10.0.0.1", &[","], "10.0.0.1"),
        ];
        for (peer, forwarded, expected) in cases {
            assert_eq!(
                caller(&inner, peer, forwarded),
                *expected,
                "{peer} {forwarded:?}"
            );
        }
        assert_eq!(caller(&[], "10.0.0.1", &["203.0.113.1"]), "10.0.0.1");
    }

    #[test]
    fn a_network_of_ipv6_is_one_sender() {
        let sender = |text: &str| super::sender(text.parse().unwrap()).to_string();
        assert_eq!(sender("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(sender("2001:db8:1:2::1"), "2001:db8:1:2::");
        assert_eq!(sender("2001:db8:1:3::1"), "2001:db8:1:3::");
        assert_eq!(sender("192.0.2.1"), "192.0.2.1");
        assert_eq!(sender("::ffff:192.0.2.1"), "192.0.2.1");
    }
}
