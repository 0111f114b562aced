//! Who is at the other end: the socket's address, or what a trusted proxy in front says.

use http::HeaderMap;
use std::net::IpAddr;
use std::str::FromStr;

/// An address range: `10.0.0.0/8`, `::1`, ...
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    base: u128,
    prefix: u8,
    v4: bool,
}

impl FromStr for Network {
    type Err = String;
    fn from_str(s: &str) -> Result<Network, String> {
        let (address, prefix) = match s.trim().split_once('/') {
            Some((a, p)) => (a, Some(p.parse::<u8>().map_err(|_| format!("{s:?}: the prefix is not a number"))?)),
            None => (s.trim(), None),
        };
        let address: IpAddr = address.parse().map_err(|_| format!("{s:?} is not an address or address range"))?;
        let (bits, width, v4) = bits(address);
        let prefix = prefix.unwrap_or(width);
        if prefix > width {
            return Err(format!("{s:?}: the prefix is longer than the address"));
        }
        Ok(Network { base: bits & mask(prefix, width), prefix, v4 })
    }
}

impl Network {
    pub fn contains(&self, address: IpAddr) -> bool {
        let (bits, width, v4) = bits(address.to_canonical());
        v4 == self.v4 && bits & mask(self.prefix, width) == self.base
    }
}

fn bits(address: IpAddr) -> (u128, u8, bool) {
    match address {
        IpAddr::V4(a) => (u128::from(u32::from(a)), 32, true),
        IpAddr::V6(a) => (u128::from(a), 128, false),
    }
}

fn mask(prefix: u8, width: u8) -> u128 {
    let ones = if width == 32 { u128::from(u32::MAX) } else { u128::MAX };
    if prefix == 0 { 0 } else { ones & (ones << (width - prefix)) }
}

/// The client's address. `X-Forwarded-For` is read from its end, as far as trusted proxies wrote it: what stands before that
/// anyone could have written.
pub fn client(socket: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let socket = socket.to_canonical();
    let trusts = |a: IpAddr| trusted.iter().any(|n| n.contains(a));
    if !trusts(socket) {
        return socket;
    }
    let mut client = socket;
    let all: Vec<&str> = headers.get_all("x-forwarded-for").iter().filter_map(|v| v.to_str().ok()).collect();
    for hop in all.iter().flat_map(|v| v.split(',')).rev() {
        let hop = hop.trim();
        let parsed = hop.parse::<IpAddr>().or_else(|_| hop.parse::<std::net::SocketAddr>().map(|s| s.ip()));
        let Ok(address) = parsed else { break };
        client = address.to_canonical();
        if !trusts(client) {
            break;
        }
    }
    client
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(socket: &str, forwarded: &[&str], expect: &str) {
        let mut headers = HeaderMap::new();
        for f in forwarded {
            headers.append("x-forwarded-for", f.parse().unwrap());
        }
        let trusted = ["10.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()];
        assert_eq!(client(socket.parse().unwrap(), &headers, &trusted).to_string(), expect, "{socket} {forwarded:?}");
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        check("192.0.2.1", &["203.0.113.7"], "192.0.2.1");
        check("10.1.2.3", &["203.0.113.7"], "203.0.113.7");
        check("10.1.2.3", &["1.1.1.1, 203.0.113.7, 10.9.9.9"], "203.0.113.7");
        check("10.1.2.3", &["1.1.1.1", "203.0.113.7"], "203.0.113.7");
        check("10.1.2.3", &["nonsense"], "10.1.2.3");
        check("10.1.2.3", &[], "10.1.2.3");
        check("::1", &["[2001:db8::1]:443"], "2001:db8::1");
        check("::ffff:10.1.2.3", &["203.0.113.7:80"], "203.0.113.7");
    }

    #[test]
    fn ranges_are_checked() {
        for bad in ["10.0.0.0/33", "x", "10.0.0.0/x", ""] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
        let all: Network = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("8.8.8.8".parse().unwrap()) && !all.contains("::1".parse().unwrap()));
    }
}
