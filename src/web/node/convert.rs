//! From wire values of nodes to those of the plane. What a node says wrongly is 422 with the field.

use crate::problem::{Outcome, Refusal};
use actors::node_api::BundleRef;
use api::node::Health;
use domain::node::{HealthClass, Metrics};

/// Longest texts a node may say of itself.
const MAX_TEXT: usize = 255;
/// Most metadata, as JSON text.
const MAX_METADATA: usize = 16 << 10;

/// An unknown word is not healthy.
pub fn health(said: Option<Health>) -> Option<HealthClass> {
    said.map(|h| match h.status.as_str() {
        "healthy" | "ok" => HealthClass::Healthy,
        "degraded" => HealthClass::Degraded,
        _ => HealthClass::Unhealthy,
    })
}

/// Not said, the baseline (`null`), or a bundle.
pub fn bundle(field: &str, said: Option<Option<String>>) -> Outcome<Option<BundleRef>> {
    match said {
        None => Ok(None),
        Some(None) => Ok(Some(BundleRef::Baseline)),
        Some(Some(name)) => BundleRef::parse(&name).map(Some).ok_or_else(|| {
            Refusal::invalid(field, "must be a content id (64 hex digits), the id of a bundle, or \"baseline\"")
        }),
    }
}

pub fn metrics(said: Option<Metrics>) -> Outcome<Option<Metrics>> {
    if let Some(m) = &said {
        for (field, value) in [
            ("metrics.error_rate", m.error_rate),
            ("metrics.latency_p99_ms", m.latency_p99_ms),
            ("metrics.cpu_percent", m.cpu_percent),
            ("metrics.memory_percent", m.memory_percent),
        ] {
            if value.is_some_and(|v| !v.is_finite() || v < 0.0) {
                return Err(Refusal::invalid(field, "must be 0 or more"));
            }
        }
    }
    Ok(said)
}

pub fn text(field: &str, said: Option<String>) -> Outcome<Option<String>> {
    if said.as_ref().is_some_and(|t| t.chars().count() > MAX_TEXT) {
        return Err(Refusal::invalid(field, format!("has more than {MAX_TEXT} characters")));
    }
    Ok(said)
}

pub fn metadata(said: Option<serde_json::Map<String, serde_json::Value>>) -> Outcome<Option<serde_json::Value>> {
    let said = said.map(serde_json::Value::Object);
    if said.as_ref().is_some_and(|v| v.to_string().len() > MAX_METADATA) {
        return Err(Refusal::invalid("metadata", format!("has more than {MAX_METADATA} bytes")));
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_unknown_health_word_is_not_healthy() {
        let class = |s: &str| health(Some(Health { status: s.into() })).unwrap();
        assert_eq!(class("healthy"), HealthClass::Healthy);
        assert_eq!(class("degraded"), HealthClass::Degraded);
        assert_eq!(class("on fire"), HealthClass::Unhealthy);
        assert_eq!(health(None), None);
    }

    #[test]
    fn bundles_are_named_in_every_way_the_contract_allows() {
        assert_eq!(bundle("b", None).unwrap(), None);
        assert_eq!(bundle("b", Some(None)).unwrap(), Some(BundleRef::Baseline));
        assert_eq!(bundle("b", Some(Some("baseline".into()))).unwrap(), Some(BundleRef::Baseline));
        let content = domain::ContentId::of(b"x");
        assert_eq!(bundle("b", Some(Some(content.to_string()))).unwrap(), Some(BundleRef::Content(content)));
        let row = "0190b5a0-6bfa-7cc0-9d4c-1b2f3a4d5e6f";
        assert_eq!(bundle("b", Some(Some(row.into()))).unwrap(), Some(BundleRef::Row(row.parse().unwrap())));
        assert_eq!(bundle("b", Some(Some("v1".into()))).unwrap_err().problem.errors.keys().next().unwrap(), "b");
    }

    #[test]
    fn negative_metrics_and_endless_texts_are_refused() {
        let m = Metrics { error_rate: Some(-1.0), ..Metrics::default() };
        assert!(metrics(Some(m)).is_err());
        assert!(text("version", Some("x".repeat(256))).is_err());
    }
}
