//! `POST /nodes/:id/events`: lines of a node's own log, one, a list, or a list under `events`.

use crate::body;
use crate::call::Call;
use crate::problem::{Outcome, Refusal};
use crate::reply;
use actors::node_api::LogLine;
use api::node::{EventKind, NodeEvent, NodeEventsAnswer, NodeEventsRequest, Severity};
use http::StatusCode;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use warp::reply::Response;

/// Most events of one call.
const MAX_EVENTS: usize = 100;
/// Longest message, in characters.
const MAX_MESSAGE: usize = 4_096;
/// Most metadata of one event, as JSON text.
const MAX_METADATA: usize = 16 << 10;

pub async fn events(call: Call) -> Outcome<Response> {
    let auth = call.node()?;
    let said = parse(&call.body)?;
    let lines = said.into_iter().enumerate().map(|(n, e)| line(n, e)).collect::<Outcome<Vec<_>>>()?;
    let count = lines.len();
    call.app.plane.log_of_node(auth, lines).await?;
    Ok(reply::json(StatusCode::CREATED, &NodeEventsAnswer { status: "ok".into(), count }))
}

#[derive(Deserialize)]
struct Shape {
    events: Option<IgnoredAny>,
}

fn parse(bytes: &[u8]) -> Outcome<Vec<NodeEvent>> {
    let bare = bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'[');
    let events = if bare || body::json::<Shape>(bytes)?.events.is_some() {
        body::json_or_list::<NodeEventsRequest>(bytes, "events")?.events
    } else {
        vec![body::json::<NodeEvent>(bytes)?]
    };
    if events.len() > MAX_EVENTS {
        return Err(Refusal::invalid("events", format!("has more than {MAX_EVENTS} events")));
    }
    Ok(events)
}

fn line(n: usize, e: NodeEvent) -> Outcome<LogLine> {
    let wrong = |field: &str, why: String| Err(Refusal::invalid(&format!("events[{n}].{field}"), why));
    if e.message.as_ref().is_some_and(|m| m.chars().count() > MAX_MESSAGE) {
        return wrong("message", format!("has more than {MAX_MESSAGE} characters"));
    }
    if e.metadata.as_ref().is_some_and(|m| serde_json::to_string(m).map_or(0, |t| t.len()) > MAX_METADATA) {
        return wrong("metadata", format!("has more than {MAX_METADATA} bytes"));
    }
    let severity = e.severity.unwrap_or(match e.event_type {
        EventKind::Error => Severity::Error,
        EventKind::Warning => Severity::Warning,
        EventKind::ConfigReload
        | EventKind::BundleSwitch
        | EventKind::Startup
        | EventKind::Shutdown
        | EventKind::Info => Severity::Info,
    });
    let mut detail = Map::new();
    let mut put = |k: &str, v: Option<Value>| {
        if let Some(v) = v {
            detail.insert(k.into(), v);
        }
    };
    put("severity", serde_json::to_value(severity).ok());
    put("message", e.message.map(Value::String));
    put("said_at", e.at.and_then(|at| serde_json::to_value(at).ok()));
    put("metadata", e.metadata.filter(|m| !m.is_empty()).map(Value::Object));
    Ok(LogLine { kind: e.event_type.as_str(), detail: Value::Object(detail) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_event_a_list_and_a_named_list_are_read_alike() {
        let one = r#"{"type":"warning","message":"x","newer":1}"#;
        for body in [one.to_string(), format!("[{one}]"), format!(r#"{{"events":[{one}]}}"#)] {
            let read = parse(body.as_bytes()).unwrap();
            let line = line(0, read.into_iter().next().unwrap()).unwrap();
            assert_eq!((line.kind, line.detail["severity"].as_str()), ("warning", Some("warning")), "{body}");
        }
        assert!(parse(b"[]").unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, field) in [
            (r#"{"event_type":"party"}"#.to_string(), "event_type"),
            ("{}".into(), "event_type"),
            (r#"{"events":[{"event_type":"info","severity":"loud"}]}"#.into(), "events[0].severity"),
            (r#"[{"event_type":"info","message":7}]"#.into(), "events[0].message"),
            (format!("[{}]", vec![r#"{"event_type":"info"}"#; MAX_EVENTS + 1].join(",")), "events"),
        ] {
            let refusal = parse(body.as_bytes()).unwrap_err();
            assert_eq!(refusal.problem.status, 422, "{body}");
            assert_eq!(refusal.problem.errors.keys().next().unwrap(), field, "{body}");
        }
        let long = NodeEvent {
            event_type: EventKind::Info,
            severity: None,
            message: Some("x".repeat(MAX_MESSAGE + 1)),
            at: None,
            metadata: None,
        };
        assert_eq!(line(3, long).unwrap_err().problem.errors.keys().next().unwrap(), "events[3].message");
    }
}
