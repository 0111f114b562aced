//! What a URL asks for, read strictly.

use crate::EgressError;
use http::Uri;

/// Longest URL.
const MAX_URL: usize = 2_048;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub https: bool,
    /// Without the brackets of an IPv6 address.
    pub host: String,
    pub port: u16,
    /// For the `Host` header: as written, the port only when it is not the scheme's own.
    pub authority: String,
    /// Path and query.
    pub path: String,
}

impl Target {
    pub fn parse(url: &str) -> Result<Target, EgressError> {
        let bad = |why| EgressError::Url(why);
        if url.len() > MAX_URL {
            return Err(bad("is too long"));
        }
        if url.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\') {
            return Err(bad("has characters that no URL has"));
        }
        let url = url.split('#').next().unwrap_or_default();
        let uri: Uri = url.parse().map_err(|_| bad("cannot be read"))?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(bad("must start with http:// or https://")),
        };
        let authority = uri.authority().ok_or(bad("has no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("must not carry credentials"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || host.contains('%') {
            return Err(bad("has no host that can be looked up"));
        }
        let standard = if https { 443 } else { 80 };
        // `Authority::port` is none for one that is out of range, as if there were no port at all.
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => standard,
            rest => rest
                .and_then(|r| r.strip_prefix(':'))
                .and_then(|p| p.parse().ok())
                .filter(|p| *p > 0)
                .ok_or(bad("has a port that there is not"))?,
        };
        let written = authority.host();
        let authority = if port == standard { written.to_string() } else { format!("{written}:{port}") };
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        let path = if path.starts_with('/') { path.to_string() } else { format!("/{path}") };
        Ok(Target { https, host: host.to_string(), port, authority, path })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_url_is_read_into_its_parts() {
        let t = Target::parse("https://probe.example.com/health?x=1#part").unwrap();
        assert_eq!(
            (t.https, t.host.as_str(), t.port, t.path.as_str()),
            (true, "probe.example.com", 443, "/health?x=1")
        );
        assert_eq!(t.authority, "probe.example.com");
        let t = Target::parse("http://[2001:db8::1]:8080").unwrap();
        assert_eq!(
            (t.host.as_str(), t.authority.as_str(), t.path.as_str()),
            ("2001:db8::1", "[2001:db8::1]:8080", "/")
        );
        assert_eq!(Target::parse("http://h:80/").unwrap().authority, "h");
    }

    #[test]
    fn what_is_not_plainly_a_web_address_is_refused() {
        for url in [
            "",
            "/health",
            "probe.example.com",
            "ftp://h/",
            "file:///etc/passwd",
            "gopher://h:70/_x",
            "http://",
            "http:///x",
            "http://user@h/",
            "http://user:pw@h/",
            "http://h:0/",
            "http://h:99999/",
            "http://h:x/",
            "http://h/a b",
            "http://h\\@evil/",
            "http://h\r\nhost: evil/",
            "http://[fe80::1%25eth0]/",
            "javascript:alert(1)",
        ] {
            assert!(Target::parse(url).is_err(), "{url:?}");
        }
        assert!(Target::parse(&format!("http://h/{}", "a".repeat(MAX_URL))).is_err());
    }
}
