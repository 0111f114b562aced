//! Which addresses may be reached: the public internet, what the operator allows besides, and never ourselves.

use crate::network::Network;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::LazyLock;

/// Not the public internet (IANA's special-purpose registries), by what they are for.
const NOT_PUBLIC: &[&str] = &[
    "0.0.0.0/8",       // this network
    "10.0.0.0/8",      // private
    "100.64.0.0/10",   // shared, of carriers and clouds
    "127.0.0.0/8",     // loopback
    "169.254.0.0/16",  // link-local, with the metadata services of clouds
    "172.16.0.0/12",   // private
    "192.0.0.0/24",    // protocol assignments
    "192.0.2.0/24",    // documentation
    "192.88.99.0/24",  // relays to IPv6
    "192.168.0.0/16",  // private
    "198.18.0.0/15",   // benchmarks
    "198.51.100.0/24", // documentation
    "203.0.113.0/24",  // documentation
    "224.0.0.0/4",     // multicast
    "240.0.0.0/4",     // reserved, broadcast
    "::/96",           // unspecified, loopback, IPv4 compatible
    "::ffff:0:0:0/96", // IPv4 translated, of old
    "64:ff9b:1::/48",  // local translation to IPv4
    "100::/64",        // discard
    "2001::/23",       // protocol assignments, Teredo among them
    "2001:db8::/32",   // documentation
    "2002::/16",       // 6to4: an IPv4 address inside
    "3fff::/20",       // documentation
    "5f00::/16",       // segment routing
    "fc00::/7",        // unique local
    "fe80::/10",       // link-local
    "fec0::/10",       // site-local, of old
    "ff00::/8",        // multicast
];

static FORBIDDEN: LazyLock<Vec<Network>> = LazyLock::new(|| NOT_PUBLIC.iter().filter_map(|n| n.parse().ok()).collect());

/// What may be reached from here.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// `PROBE_ALLOW`: may be reached although it is not the public internet.
    pub allow: Vec<Network>,
    /// Where this process listens. Never reached, whatever is allowed. An unspecified address stands for every one of this host.
    pub own: Vec<SocketAddr>,
}

impl Policy {
    /// May a connection be made there?
    pub fn permits(&self, to: SocketAddr) -> bool {
        let address = plain(to.ip());
        if self.is_own(SocketAddr::new(address, to.port())) {
            return false;
        }
        self.allow.iter().any(|n| n.contains(address)) || !FORBIDDEN.iter().any(|n| n.contains(address))
    }

    fn is_own(&self, to: SocketAddr) -> bool {
        self.own.iter().any(|own| {
            let everywhere = own.ip().is_unspecified() && is_of_this_host(to.ip());
            own.port() == to.port() && (plain(own.ip()) == to.ip() || everywhere || to.ip().is_unspecified())
        })
    }
}

/// The address behind its disguises: an IPv4 address mapped into IPv6, or translated to it (RFC 6052).
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address.to_canonical() else { return address.to_canonical() };
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => IpAddr::V4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low))),
        _ => IpAddr::V6(v6),
    }
}

/// An address of this host is one that can be bound here.
fn is_of_this_host(address: IpAddr) -> bool {
    address.is_loopback() || std::net::UdpSocket::bind((address, 0)).is_ok()
}

/// For a listener on every address, both families.
pub fn everywhere(port: u16) -> [SocketAddr; 2] {
    [SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn permits(policy: &Policy, address: &str) -> bool {
        policy.permits(SocketAddr::new(address.parse().unwrap(), 80))
    }

    #[test]
    fn every_range_of_the_list_is_one() {
        assert_eq!(FORBIDDEN.len(), NOT_PUBLIC.len());
    }

    #[test]
    fn only_the_public_internet_is_reached() {
        let policy = Policy::default();
        for good in ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"] {
            assert!(permits(&policy, good), "{good}");
        }
        for bad in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "192.0.0.8",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "::",
            "::1",
            "::7f00:1",
            "fe80::1",
            "fc00::1",
            "fdff::1",
            "fec0::1",
            "ff02::1",
            "2002:7f00:1::",
            "2001:0:1::",
            "100::1",
            "64:ff9b:1::7f00:1",
            "::ffff:0:127.0.0.1",
        ] {
            assert!(!permits(&policy, bad), "{bad}");
        }
    }

    #[test]
    fn a_disguised_address_is_judged_by_what_it_is() {
        let policy = Policy::default();
        for bad in
            ["::ffff:127.0.0.1", "::ffff:10.1.2.3", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"]
        {
            assert!(!permits(&policy, bad), "{bad}");
        }
        let inside = Policy { allow: vec!["10.0.0.0/8".parse().unwrap()], ..Policy::default() };
        assert!(permits(&inside, "10.1.2.3") && permits(&inside, "::ffff:10.1.2.3"));
        assert!(!permits(&inside, "192.168.0.1") && !permits(&inside, "127.0.0.1"));
    }

    #[test]
    fn ourselves_are_never_reached_whatever_is_allowed() {
        let all = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
        let policy = |own: &str| Policy { allow: all.clone(), own: vec![own.parse().unwrap()] };
        let reaches = |own: &str, to: &str| policy(own).permits(to.parse().unwrap());
        assert!(reaches("127.0.0.1:4000", "127.0.0.1:4001"));
        for to in ["127.0.0.1:4000", "[::ffff:127.0.0.1]:4000", "0.0.0.0:4000", "[64:ff9b::7f00:1]:4000"] {
            assert!(!reaches("127.0.0.1:4000", to), "{to}");
        }
        for to in ["127.0.0.1:4000", "127.9.9.9:4000", "[::1]:4000", "0.0.0.0:4000", "[::]:4000"] {
            assert!(!reaches("0.0.0.0:4000", to), "{to}");
        }
        assert!(reaches("0.0.0.0:4000", "192.0.2.1:4000"), "an address that is not of this host");
    }
}
