//! `POST /nodes/:id/bundles/:bundle_id/{downloaded,staged,activated,verified,failed}`

use super::convert;
use crate::call::Call;
use crate::problem::{Outcome, Refusal};
use crate::reply;
use actors::node_api::{BundleRef, ReportBody, ReportKind};
use api::node::{ReportAnswer, ReportRequest};
use serde_json::Value;
use warp::reply::Response;

/// Kept of the logs of a failure.
const MAX_LOGS: usize = 64 << 10;
/// Kept of its error text.
const MAX_ERROR: usize = 4 << 10;

pub async fn downloaded(call: Call) -> Outcome<Response> {
    report(call, |_| ReportKind::Downloaded).await
}

pub async fn staged(call: Call) -> Outcome<Response> {
    report(call, |_| ReportKind::Staged).await
}

pub async fn activated(call: Call) -> Outcome<Response> {
    report(call, |_| ReportKind::Activated).await
}

pub async fn verified(call: Call) -> Outcome<Response> {
    report(call, |_| ReportKind::Verified).await
}

pub async fn failed(call: Call) -> Outcome<Response> {
    report(call, |said| ReportKind::Failed {
        error: said.error.take().map_or_else(|| "no reason given".into(), |e| cut(text(e), MAX_ERROR)),
        logs: said.logs.take().map(|l| tail(text(l), MAX_LOGS)),
    })
    .await
}

async fn report(call: Call, kind: impl FnOnce(&mut ReportRequest) -> ReportKind) -> Outcome<Response> {
    let auth = call.node()?;
    let bundle = BundleRef::parse(call.param("bundle_id")).ok_or_else(|| Refusal::not_found("bundle"))?;
    let mut said: ReportRequest = call.json_or_empty()?;
    let kind = kind(&mut said);
    let body = ReportBody {
        generation: said.generation,
        rollout: said.rollout_id,
        sent_at: said.sent_at,
        measured_at: said.measured_at,
        health: convert::health(said.health),
        metrics: convert::metrics(said.metrics)?,
    };
    let answer = call.app.plane.report(auth, bundle, kind, body).await?;
    Ok(reply::ok(&ReportAnswer {
        state: answer.state,
        proceed: answer.proceed,
        heartbeat_now: answer.heartbeat_now,
        stale: answer.stale,
    }))
}

/// Older agents send objects and lists of lines.
fn text(said: Value) -> String {
    match said {
        Value::String(s) => s,
        Value::Array(lines) if lines.iter().all(Value::is_string) => {
            lines.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n")
        }
        other => other.to_string(),
    }
}

/// The beginning, whole characters only.
fn cut(mut s: String, limit: usize) -> String {
    if s.len() > limit {
        let end = (0..=limit).rev().find(|i| s.is_char_boundary(*i)).unwrap_or(0);
        s.truncate(end);
    }
    s
}

/// The end, where logs say what happened; whole characters only.
fn tail(s: String, limit: usize) -> String {
    if s.len() <= limit {
        return s;
    }
    let start = (s.len() - limit..s.len()).find(|i| s.is_char_boundary(*i)).unwrap_or(s.len());
    s[start..].to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn errors_and_logs_come_in_several_shapes() {
        assert_eq!(text(json!("x")), "x");
        assert_eq!(text(json!(["a", "b"])), "a\nb");
        assert_eq!(text(json!({"code": 1})), "{\"code\":1}");
    }

    #[test]
    fn long_texts_are_cut_at_characters() {
        let s = "ä".repeat(100);
        assert_eq!(cut(s.clone(), 51).len(), 50);
        assert_eq!(tail(s, 51).len(), 50);
        assert_eq!(tail("abc".into(), 2), "bc");
        assert_eq!(cut("abc".into(), 2), "ab");
    }
}
