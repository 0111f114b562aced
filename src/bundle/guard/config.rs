//! The rules after parsing: what neither the parser nor `validate()` catches and the proxy dies of later.
//!
//! Works on the normalised config (`config.json`), so that the node agent can run it without a parser.

use super::{Finding, has_private_key};
use regex::Regex;
use serde_json::Value;
use std::net::SocketAddr;

/// What a finding is about, e.g. `route` "api".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub kind: &'static str,
    pub id: String,
    /// A value beneath it that narrows the place, such as a pattern or an address.
    pub value: Option<String>,
}

struct Bind {
    kind: &'static str,
    id: String,
    text: String,
    addr: SocketAddr,
}

/// Judges a normalised config. An empty answer means no objection.
pub fn check_config(config: &Value) -> Vec<Finding> {
    let mut found = Vec::new();
    schema_version(config, &mut found);
    let mut binds = Vec::new();
    for scope in scopes(config) {
        for listener in list(scope, "listeners").chain(scope.get("listener")) {
            let id = text(listener, "id");
            address("listener", id, text(listener, "address"), &mut binds, &mut found);
        }
        for route in list(scope, "routes") {
            regexes(route, &mut found);
        }
        if let Some(upstreams) = scope.get("upstreams").and_then(Value::as_object) {
            for (id, upstream) in upstreams {
                for target in list(upstream, "targets") {
                    let a = text(target, "address");
                    if !is_host_port(a) {
                        let why =
                            format!("Upstream '{id}': the target {a:?} is not host:port with a port of 1 to 65535");
                        found.push(finding(why, "upstream", id, Some(a)));
                    }
                }
            }
        }
    }
    let metrics = config.pointer("/observability/metrics");
    if let Some(m) = metrics.filter(|m| m.get("enabled").and_then(Value::as_bool) == Some(true)) {
        address("metrics", "", text(m, "address"), &mut binds, &mut found);
    }
    clashes(&binds, &mut found);
    private_keys(config, &mut found);
    found
}

/// The config itself, every namespace and every service: all may hold listeners, routes and upstreams.
fn scopes(config: &Value) -> Vec<&Value> {
    let mut all = vec![config];
    for ns in list(config, "namespaces") {
        all.push(ns);
        all.extend(list(ns, "services"));
    }
    all
}

fn list<'a>(v: &'a Value, key: &str) -> std::slice::Iter<'a, Value> {
    v.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default().iter()
}

fn text<'a>(v: &'a Value, key: &str) -> &'a str {
    v.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn finding(text: String, kind: &'static str, id: &str, value: Option<&str>) -> Finding {
    let subject = Subject { kind, id: id.to_string(), value: value.map(String::from) };
    Finding { text, line: 0, column: 0, subject: Some(subject) }
}

fn schema_version(config: &Value, found: &mut Vec<Finding>) {
    let v = text(config, "schema_version");
    // The proxy takes 99.0 with a warning in its log and then ignores what it does not know.
    if v != "1.0" {
        let why = format!("schema-version {v:?} is not one that this release knows (\"1.0\")");
        found.push(finding(why, "schema-version", "", None));
    }
}

fn address(kind: &'static str, id: &str, a: &str, binds: &mut Vec<Bind>, found: &mut Vec<Finding>) {
    match a.parse::<SocketAddr>() {
        Ok(addr) if addr.port() != 0 => {
            binds.push(Bind { kind, id: id.to_string(), text: a.to_string(), addr });
        }
        Ok(_) => found.push(finding(format!("{}: port 0 in {a:?}", name(kind, id)), kind, id, Some(a))),
        Err(_) => {
            let why = format!(
                "{}: {a:?} is not an address to listen on: an IP address and a port of 1 to 65535, such as \"0.0.0.0:8080\"",
                name(kind, id)
            );
            found.push(finding(why, kind, id, Some(a)));
        }
    }
}

fn name(kind: &str, id: &str) -> String {
    if kind == "metrics" { "The metrics listener".to_string() } else { format!("Listener '{id}'") }
}

/// Two binds of one port, where one of them is on every interface or both are on the same.
fn clashes(binds: &[Bind], found: &mut Vec<Finding>) {
    let mut by_port: std::collections::BTreeMap<u16, Vec<&Bind>> = std::collections::BTreeMap::new();
    for b in binds {
        let others = by_port.entry(b.addr.port()).or_default();
        if let Some(other) = others
            .iter()
            .find(|o| o.addr.ip() == b.addr.ip() || o.addr.ip().is_unspecified() || b.addr.ip().is_unspecified())
        {
            let why = format!(
                "{} binds {}, which {} binds too ({})",
                name(b.kind, &b.id),
                b.text,
                name(other.kind, &other.id).replace("The", "the").replace("Listener", "listener"),
                other.text
            );
            found.push(finding(why, b.kind, &b.id, Some(&b.text)));
        }
        others.push(b);
    }
}

fn regexes(route: &Value, found: &mut Vec<Finding>) {
    let id = text(route, "id");
    for condition in list(route, "matches") {
        let Some(pattern) = condition.get("path_regex").and_then(Value::as_str) else { continue };
        // The proxy compiles it only when it builds the matcher: after it has logged the reload as a
        // success and switched the upstreams. The same file then keeps it from starting.
        if let Err(e) = Regex::new(pattern) {
            let why = format!("Route '{id}': the regular expression {pattern:?} is invalid: {e}");
            found.push(finding(why, "route", id, Some(pattern)));
        }
    }
}

/// `host:port`, `[v6]:port` or a socket address, with a usable port.
fn is_host_port(a: &str) -> bool {
    let Some((host, port)) = a.rsplit_once(':') else { return false };
    !host.is_empty() && !host.contains(char::is_whitespace) && port.parse::<u16>().is_ok_and(|p| p != 0)
}

/// Also in parsed strings: in the text a key may be hidden by escapes.
fn private_keys(v: &Value, found: &mut Vec<Finding>) {
    match v {
        Value::String(s) if has_private_key(s).is_some() => {
            let why = "a private key may not be in a config: name a file on the node, or a secret, instead";
            found.push(Finding { text: why.to_string(), line: 0, column: 0, subject: None });
        }
        Value::Array(a) => a.iter().for_each(|v| private_keys(v, found)),
        Value::Object(o) => o.values().for_each(|v| private_keys(v, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(config: Value) -> String {
        check_config(&config).into_iter().map(|f| f.text).collect::<Vec<_>>().join("\n")
    }

    fn base() -> Value {
        json!({
            "schema_version": "1.0",
            "listeners": [{"id": "http", "address": "0.0.0.0:8080"}],
            "routes": [{"id": "a", "matches": [{"path_regex": "^/v[0-9]+/"}, {"path": "/("}]}],
            "upstreams": {"u": {"targets": [{"address": "127.0.0.1:8081"}, {"address": "[::1]:80"}, {"address": "h:1"}]}},
            "observability": {"metrics": {"enabled": true, "address": "0.0.0.0:9090"}},
        })
    }

    #[test]
    fn a_sound_config_has_no_findings() {
        assert_eq!(texts(base()), "");
    }

    #[test]
    fn an_invalid_regular_expression_is_found_in_every_scope() {
        let mut c = base();
        c["namespaces"] = json!([{"id": "n", "routes": [{"id": "b", "matches": [{"path_regex": "("}]}],
            "services": [{"id": "s", "routes": [{"id": "c", "matches": [{"path_regex": "[z-a]"}]}]}]}]);
        let t = texts(c);
        assert!(t.contains("Route 'b'") && t.contains("Route 'c'"), "{t}");
    }

    #[test]
    fn addresses_that_do_not_parse_or_clash_are_found() {
        for (address, expect) in [
            ("0.0.0.0:99999", "is not an address"),
            ("localhost:80", "is not an address"),
            ("0.0.0.0:0", "port 0"),
            ("127.0.0.1:9090", "metrics listener binds"),
        ] {
            let mut c = base();
            c["listeners"][0]["address"] = json!(address);
            assert!(texts(c).contains(expect), "{address}");
        }
        let mut c = base();
        c["namespaces"] = json!([{"id": "n", "listeners": [{"id": "b", "address": "127.0.0.1:8080"}]}]);
        assert!(texts(c).contains("Listener 'b' binds 127.0.0.1:8080, which listener 'http' binds too"));
        for target in ["127.0.0.1:99999", "host", "h:0", ":80"] {
            let mut c = base();
            c["upstreams"]["u"]["targets"][0]["address"] = json!(target);
            assert!(texts(c).contains("is not host:port"), "{target}");
        }
    }

    #[test]
    fn a_nonsense_schema_version_and_an_escaped_private_key_are_found() {
        let mut c = base();
        c["schema_version"] = json!("banana");
        c["agents"] = json!([{"config": {"k": "-----BEGIN RSA PRIVATE KEY-----"}}]);
        let t = texts(c);
        assert!(t.contains("banana") && t.contains("private key"), "{t}");
    }
}
