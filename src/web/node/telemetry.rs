//! `POST /nodes/:id/{config,metrics,waf-events}`: what a node runs, counted and saw. Whose it is comes from the credential.

use super::convert;
use crate::body;
use crate::call::Call;
use crate::problem::{Outcome, Refusal};
use crate::reply;
use api::telemetry::*;
use domain::Digest;
use domain::node::SampleKind;
use serde::Serialize;
use serde_json::Value;
use std::net::IpAddr;
use store::Sample;
use warp::reply::Response;

/// Longest configuration, as for what operators submit.
const MAX_CONFIG: usize = 1 << 20;
const MAX_PERIODS: usize = 100;
const MAX_REQUESTS: usize = 500;
const MAX_WAF_EVENTS: usize = 100;
/// Longest path and matched data, in characters.
const MAX_LONG_TEXT: usize = 4_096;

pub async fn config(call: Call) -> Outcome<Response> {
    let auth = call.node()?;
    let said: ConfigPush = body::json(&call.body)?;
    if said.config_kdl.len() > MAX_CONFIG {
        return Err(Refusal::invalid("config_kdl", format!("has more than {MAX_CONFIG} bytes")));
    }
    let config_hash = Digest::of(said.config_kdl.as_bytes());
    let changed = call.app.plane.keep_config(auth, config_hash, said.config_kdl).await?;
    Ok(reply::ok(&ConfigAnswer { status: "ok".into(), config_hash, changed }))
}

pub async fn metrics(call: Call) -> Outcome<Response> {
    let auth = call.node()?;
    let said: MetricsPush = body::json(&call.body)?;
    let (metrics_ingested, logs_ingested) = (said.metrics.len(), said.request_logs.len());
    call.app.plane.keep_samples(auth, samples(said)?).await?;
    Ok(reply::ok(&MetricsAnswer { status: "ok".into(), metrics_ingested, logs_ingested }))
}

pub async fn waf_events(call: Call) -> Outcome<Response> {
    let auth = call.node()?;
    let said: WafEventsPush = body::json_or_list(&call.body, "events")?;
    let events = waf(said.events)?;
    let events_ingested = events.len();
    call.app.plane.keep_samples(auth, events).await?;
    Ok(reply::ok(&WafEventsAnswer { status: "ok".into(), events_ingested }))
}

fn samples(said: MetricsPush) -> Outcome<Vec<Sample>> {
    at_most("metrics", said.metrics.len(), MAX_PERIODS)?;
    at_most("request_logs", said.request_logs.len(), MAX_REQUESTS)?;
    let mut out = Vec::with_capacity(said.metrics.len() + said.request_logs.len());
    for (n, m) in said.metrics.into_iter().enumerate() {
        for (field, value) in [
            ("latency_p50_ms", m.latency_p50_ms),
            ("latency_p95_ms", m.latency_p95_ms),
            ("latency_p99_ms", m.latency_p99_ms),
        ] {
            positive(&format!("metrics[{n}].{field}"), value)?;
        }
        out.push(sample(SampleKind::Metrics, &m));
    }
    for (n, mut r) in said.request_logs.into_iter().enumerate() {
        let field = |name: &str| format!("request_logs[{n}].{name}");
        positive(&field("latency_ms"), r.latency_ms)?;
        if r.status.is_some_and(|s| !(100..=599).contains(&s)) {
            return Err(Refusal::invalid(&field("status"), "must be 100 to 599"));
        }
        r.method = convert::text(&field("method"), r.method)?;
        r.path = long_text(&field("path"), r.path)?.map(|p| p.split('?').next().unwrap_or_default().to_string());
        address(&field("client_ip"), r.client_ip.as_deref())?;
        out.push(sample(SampleKind::Request, &r));
    }
    Ok(out)
}

fn waf(events: Vec<WafEvent>) -> Outcome<Vec<Sample>> {
    at_most("events", events.len(), MAX_WAF_EVENTS)?;
    let one = |(n, mut e): (usize, WafEvent)| {
        let field = |name: &str| format!("events[{n}].{name}");
        for (name, text) in [
            ("rule_type", &mut e.rule_type),
            ("rule_id", &mut e.rule_id),
            ("action", &mut e.action),
            ("severity", &mut e.severity),
            ("method", &mut e.method),
            ("user_agent", &mut e.user_agent),
        ] {
            *text = convert::text(&field(name), text.take())?;
        }
        e.path = long_text(&field("path"), e.path)?;
        e.matched_data = long_text(&field("matched_data"), e.matched_data)?;
        address(&field("client_ip"), e.client_ip.as_deref())?;
        Ok(sample(SampleKind::Waf, &e))
    };
    events.into_iter().enumerate().map(one).collect()
}

fn sample(kind: SampleKind, said: &impl Serialize) -> Sample {
    // A struct of plain fields: it is always an object.
    Sample { kind, detail: serde_json::to_value(said).unwrap_or(Value::Null) }
}

fn at_most(field: &str, n: usize, most: usize) -> Outcome<()> {
    if n > most { Err(Refusal::invalid(field, format!("has more than {most} entries"))) } else { Ok(()) }
}

fn positive(field: &str, value: Option<f64>) -> Outcome<()> {
    match value {
        Some(v) if !v.is_finite() || v < 0.0 => Err(Refusal::invalid(field, "must be 0 or more")),
        Some(_) | None => Ok(()),
    }
}

fn long_text(field: &str, said: Option<String>) -> Outcome<Option<String>> {
    if said.as_ref().is_some_and(|t| t.chars().count() > MAX_LONG_TEXT) {
        return Err(Refusal::invalid(field, format!("has more than {MAX_LONG_TEXT} characters")));
    }
    Ok(said)
}

fn address(field: &str, said: Option<&str>) -> Outcome<()> {
    match said {
        Some(text) if text.parse::<IpAddr>().is_err() => Err(Refusal::invalid(field, "must be an IP address")),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn wrong<T: std::fmt::Debug>(outcome: Outcome<T>) -> String {
        let refusal = outcome.unwrap_err();
        assert_eq!(refusal.problem.status, 422);
        refusal.problem.errors.keys().next().unwrap().clone()
    }

    #[test]
    fn what_is_wrong_is_named() {
        let push = |v: Value| body::json::<MetricsPush>(v.to_string().as_bytes()).and_then(samples);
        for (said, field) in [
            (json!({"metrics": [{}, {"latency_p99_ms": -1}]}), "metrics[1].latency_p99_ms"),
            (json!({"metrics": [{"request_count": -1}]}), "metrics[0].request_count"),
            (json!({"metrics": [{"period_start": "noon"}]}), "metrics[0].period_start"),
            (json!({"metrics": 7}), "metrics"),
            (json!({"metrics": vec![json!({}); MAX_PERIODS + 1]}), "metrics"),
            (json!({"request_logs": vec![json!({}); MAX_REQUESTS + 1]}), "request_logs"),
            (json!({"request_logs": [{"status": 99}]}), "request_logs[0].status"),
            (json!({"request_logs": [{"client_ip": "here"}]}), "request_logs[0].client_ip"),
            (json!({"request_logs": [{"path": "x".repeat(MAX_LONG_TEXT + 1)}]}), "request_logs[0].path"),
        ] {
            assert_eq!(wrong(push(said.clone())), field, "{said}");
        }
        let events = |v: Value| body::json_or_list::<WafEventsPush>(v.to_string().as_bytes(), "events");
        let events = |v: Value| events(v).and_then(|p| waf(p.events));
        for (said, field) in [
            (json!({"events": vec![json!({}); MAX_WAF_EVENTS + 1]}), "events"),
            (json!([{"rule_id": "x".repeat(256)}]), "events[0].rule_id"),
            (json!({"events": [{"client_ip": "1.2.3"}]}), "events[0].client_ip"),
            (json!({}), "events"),
        ] {
            assert_eq!(wrong(events(said.clone())), field, "{said}");
        }
    }

    #[test]
    fn nobody_names_whose_it_is_and_queries_are_not_kept() {
        let said =
            json!({"request_logs": [{"service_id": "x", "node_id": "y", "path": "/a?token=secret", "status": 200}]});
        let kept = samples(serde_json::from_value(said).unwrap()).unwrap();
        assert_eq!(kept[0].detail, json!({"path": "/a", "status": 200}));
        let list =
            body::json_or_list::<WafEventsPush>(br#"[{"rule_id":"942100","project_id":"p"}]"#, "events").unwrap();
        assert_eq!(waf(list.events).unwrap()[0].detail, json!({"rule_id": "942100"}));
    }
}
