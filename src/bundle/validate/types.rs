//! Values of the wrong type, which the parser silently replaces by a default (`worker-threads "two"`).
//!
//! Owns: a table of the keys that 0.6.45 reads with a fixed type, taken from its source. A key that is
//! read with different types in different blocks is only listed where the block decides.

use super::merge::Parsed;
use crate::guard::line_column;
use crate::verdict::{Message, MessageKind};
use kdl::{KdlNode, KdlValue};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Not negative, at most this: the parser casts and wraps around.
    Int(i128),
    Float,
    Bool,
    Text,
}

/// Bytes, seconds and the like: JSON keeps integers exact up to here (2^53).
const BIG: i128 = 1 << 53;

/// Blocks with keys of the user's own; nothing beneath them is checked.
const FREE: &[&str] = &[
    "config",
    "request-schema",
    "response-schema",
    "schema-content",
    "set",
    "add",
    "rename",
    "remove",
    "mime-types",
    "metadata",
    "headers",
    "labels",
    "tags",
    "model",
    "fields",
];

const INTS: &[&str] = &[
    "timeout-ms",
    "burst",
    "buffer-size",
    "timeout-secs",
    "request-timeout-secs",
    "max-rps",
    "max-connections",
    "max-body-bytes",
    "worker-threads",
    "upstream-timeout-secs",
    "unhealthy-threshold",
    "healthy-threshold",
    "tokens-per-minute",
    "stale-while-revalidate-secs",
    "stale-if-error-secs",
    "route-cache-size",
    "requests-per-second",
    "requests-per-minute",
    "renew-before-days",
    "redis-timeout-ms",
    "redis-pool-size",
    "paranoia-level",
    "on-latency-threshold-ms",
    "min-size",
    "memcached-timeout-ms",
    "memcached-pool-size",
    "max-total-connections",
    "max-tenants",
    "max-size-bytes",
    "max-lifetime-secs",
    "max-keys",
    "max-inspection-bytes",
    "max-in-flight-requests",
    "max-idle",
    "max-header-size",
    "max-header-count",
    "max-delay-ms",
    "max-connections-per-client",
    "max-concurrent-streams",
    "max-body-log-size",
    "keepalive-timeout-secs",
    "keepalive-max-requests",
    "interval-secs",
    "initial-delay-secs",
    "idle-timeout-secs",
    "graceful-shutdown-timeout-secs",
    "disk-shards",
    "default-ttl-secs",
    "default-rps",
    "default-burst",
    "connect-timeout-secs",
    "check-interval-secs",
    "cache-ttl-secs",
    "burst-tokens",
    "api-timeout-secs",
    "anomaly-threshold",
    "max-request-body-bytes",
    "max-response-body-bytes",
    "chunk-timeout-ms",
    "max-concurrent-calls",
    "weight",
];

/// Read as 16 bits: ports and status codes.
const SHORTS: &[&str] = &["port", "status-code", "block-status", "expected-status"];

const FLOATS: &[&str] = &[
    "sampling-rate",
    "default-output-cost",
    "default-input-cost",
    "burst-allowance",
    "output-cost-per-million",
    "input-cost-per-million",
];

const BOOLS: &[&str] = &[
    "enabled",
    "validate-responses",
    "validate-requests",
    "validate-param-headers",
    "timestamps",
    "strict-mode",
    "status-header",
    "staging",
    "session-resumption",
    "rollover",
    "require-validated-version",
    "redis-fallback-local",
    "redis-fallback",
    "only-passing",
    "on-health-failure",
    "on-connection-error",
    "on-budget-exhausted",
    "ocsp-stapling",
    "memcached-fallback-local",
    "memcached-fallback",
    "log-waf-events",
    "log-response",
    "log-request",
    "log-body",
    "log-blocked",
    "log-agent-decisions",
    "inspect-response-body",
    "inspect-request-body",
    "inspect-body",
    "include-trace-id",
    "high-cardinality",
    "filter-tool-list",
    "enforce",
    "directory-listing",
    "deny-uninspectable-body",
    "decompress",
    "daemon",
    "client-auth",
    "cache-private",
    "buffer-body",
    "auto-reload",
    "allow-sni-overlaps",
    "add-country-header",
    "websocket-inspection",
    "websocket",
    "waf-enabled",
    "skip-if-unhealthy",
    "cookie-secure",
    "insecure-skip-verify",
    "retry-non-idempotent",
];

/// Texts whose silent default would change who may do what, or where something listens.
const TEXTS: &[&str] = &[
    "protocol",
    "failure-mode",
    "default-route",
    "ca-file",
    "cert-file",
    "key-file",
    "on-limit",
    "on-failure",
    "load-balancing",
    "user",
    "group",
    "pid-file",
    "working-directory",
    "trace-id-format",
    "address",
    "builtin-handler",
    "upstream",
    "path-prefix",
    "path-regex",
    "challenge-type",
    "server-url",
];

fn kind(key: &str, parent: Option<&str>) -> Option<Kind> {
    match (key, parent) {
        ("schema-version" | "version", None) => return Some(Kind::Text),
        ("min-version" | "max-version", Some("tls")) => return Some(Kind::Text),
        ("min-version" | "max-version", Some("http-version")) => return Some(Kind::Int(255)),
        ("namespace", Some("listener")) => return Some(Kind::Text),
        // `compress` and `audit-log` are flags in some blocks and blocks or lists in others.
        _ => {}
    }
    if INTS.contains(&key) {
        Some(Kind::Int(BIG))
    } else if SHORTS.contains(&key) {
        Some(Kind::Int(u16::MAX.into()))
    } else if BOOLS.contains(&key) {
        Some(Kind::Bool)
    } else if FLOATS.contains(&key) {
        Some(Kind::Float)
    } else if TEXTS.contains(&key) {
        Some(Kind::Text)
    } else {
        None
    }
}

/// Every wrong type in every file, in the order of the text.
pub fn check(files: &[Parsed<'_>]) -> Vec<Message> {
    let mut out = Vec::new();
    for file in files {
        for node in file.doc.nodes() {
            walk(file, node, None, &mut out);
        }
    }
    out
}

/// Recursion is bounded by the depth cap of the guard.
fn walk(file: &Parsed<'_>, node: &KdlNode, parent: Option<&str>, out: &mut Vec<Message>) {
    let name = node.name().value();
    if let Some(kind) = kind(name, parent)
        && let Some(why) = problem(node, kind)
    {
        let (line, column) = line_column(file.text, node.span().offset());
        let text = format!("'{name}' {why}; the proxy would ignore it and use its default");
        out.push(Message::new(MessageKind::Guard, text).at(file.name, line, column));
    }
    if FREE.contains(&name) {
        return;
    }
    if let Some(children) = node.children() {
        for child in children.nodes() {
            walk(file, child, Some(name), out);
        }
    }
}

fn problem(node: &KdlNode, kind: Kind) -> Option<String> {
    let Some(entry) = node.entries().first() else {
        // A block of the same name, or an empty node.
        return node.children().is_none().then(|| "needs a value".to_string());
    };
    if entry.name().is_some() {
        return None;
    }
    let value = entry.value();
    let wanted = match (kind, value) {
        (Kind::Int(max), KdlValue::Integer(i)) if *i < 0 || *i > max => {
            return Some(format!("must be from 0 to {max}, not {i}"));
        }
        (Kind::Int(_), KdlValue::Integer(_))
        | (Kind::Float, KdlValue::Integer(_) | KdlValue::Float(_))
        | (Kind::Bool, KdlValue::Bool(_))
        | (Kind::Text, KdlValue::String(_)) => return None,
        (Kind::Int(_), _) => "a whole number",
        (Kind::Float, _) => "a number",
        (Kind::Bool, _) => "#true or #false",
        (Kind::Text, _) => "a text in quotes",
    };
    Some(format!("must be {wanted}, not {value}"))
}
