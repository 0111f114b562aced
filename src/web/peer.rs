//! Who is at the other end: the socket's address, or what a trusted proxy in front says.

pub use egress::Network;
use http::HeaderMap;
use std::net::IpAddr;

/// The client's address. `X-Forwarded-For` is read from its end, as far as trusted proxies wrote it: what stands before that
/// anyone could have written.
pub fn client(socket: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let socket = socket.to_canonical();
    let trusts = |a: IpAddr| trusted.iter().any(|n| n.contains(a));
    if !trusts(socket) {
        return socket;
    }
    let mut client = socket;
    // A line that cannot be read ends it, like a hop that cannot.
    let all: Vec<&str> = headers.get_all("x-forwarded-for").iter().map(|v| v.to_str().unwrap_or("?")).collect();
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
    fn a_line_that_cannot_be_read_hides_what_is_before_it() {
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", "203.0.113.7".parse().unwrap());
        headers.append("x-forwarded-for", http::HeaderValue::from_bytes(b"\xff").unwrap());
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        assert_eq!(client("10.1.2.3".parse().unwrap(), &headers, &trusted).to_string(), "10.1.2.3");
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
