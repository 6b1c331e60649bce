//! `X-Forwarded-For`: whatever is in it, the caller is whom trusted proxies name, and nothing that the
//! caller wrote itself changes that.
//!
//! The first byte chooses the peer, the second how many values the header has; the rest are the values,
//! parted by zeros.

use std::net::IpAddr;

use traffic_api::access::Proxies;

const TRUSTED: &[&str] = &["10.0.0.0/8", "fd00::/8", "127.0.0.1/32"];
const PEERS: &[&str] = &[
    "10.0.0.1",
    "fd00::1",
    "127.0.0.1",
    "203.0.113.9",
    "::ffff:10.1.2.3",
    "2001:db8::1",
];

fn trusted(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[0] == 10 || v4.octets() == [127, 0, 0, 1],
        IpAddr::V6(v6) => v6.octets()[0] == 0xfd,
    }
}

pub fn check(input: &[u8]) {
    let [peer, rest @ ..] = input else { return };
    let peer: IpAddr = PEERS[usize::from(*peer) % PEERS.len()]
        .parse()
        .expect("an address");
    let values: Vec<&[u8]> = rest.split(|byte| *byte == 0).collect();
    let networks = TRUSTED
        .iter()
        .map(|network| network.parse().expect("a network"));
    let proxies = Proxies::within(networks.collect());
    let caller = proxies.caller(peer, values.iter().copied());
    let canonical = peer.to_canonical();

    // Without trusted proxies, and from anybody who is none, the header says nothing.
    assert_eq!(
        Proxies::default().caller(peer, values.iter().copied()),
        canonical
    );
    if !trusted(canonical) {
        assert_eq!(caller, canonical);
    }
    assert_eq!(caller, caller.to_canonical());

    // One header of several values is as good as several headers.
    let joined = values.join(&b","[..]);
    assert_eq!(proxies.caller(peer, [&joined[..]].into_iter()), caller);

    // A further trusted proxy in between changes nothing.
    let proxy: IpAddr = "10.255.0.1".parse().expect("an address");
    let named = canonical.to_string();
    let longer = values.iter().copied().chain([named.as_bytes()]);
    let longer: Vec<&[u8]> = longer.collect();
    assert_eq!(proxies.caller(proxy, longer.into_iter()), caller);

    // Whoever is not trusted can write in front what they like.
    if !trusted(caller) {
        for forged in [
            "198.51.100.1",
            "10.0.0.2",
            "unknown",
            "[::1]:80, 1.2.3.4",
            ",,",
        ] {
            let forged = [forged.as_bytes()]
                .into_iter()
                .chain(values.iter().copied());
            let forged: Vec<&[u8]> = forged.collect();
            assert_eq!(proxies.caller(peer, forged.into_iter()), caller);
        }
    }
}
