//! `POST /nodes/:id/heartbeat`: the most frequent call of all. One parse, one call, an answer written by hand.

use super::convert;
use crate::app::App;
use crate::auth::{self, NodeCredential};
use crate::body;
use crate::call::Call;
use crate::problem::Outcome;
use crate::reply::{Meta, for_node, raw_json};
use crate::routes::{HEARTBEAT, table};
use crate::stamp;
use actors::node_api::{Heartbeat, HeartbeatAnswer, NodeAuth};
use api::node::HeartbeatRequest;
use bytes::Buf;
use domain::NodeId;
use futures_util::Stream;
use http::StatusCode;
use warp::reply::Response;

/// Straight from the filters.
pub async fn hot<B: Buf>(
    app: &App,
    meta: Meta,
    named: NodeId,
    credential: Option<NodeCredential>,
    body: impl Stream<Item = Result<B, warp::Error>>,
) -> Response {
    let outcome = async {
        let auth = auth::node(app, meta, credential).await?;
        auth::same_node(app, meta, &auth, named, &table()[HEARTBEAT]).await?;
        let body = body::read(body, app.settings.max_body_bytes).await?;
        answer(app, auth, &body).await
    }
    .await;
    let response = outcome.unwrap_or_else(|refusal| refusal.into_response(meta.request_id));
    app.metrics.observe(Some(HEARTBEAT), response.status(), meta.started.elapsed());
    for_node(response, meta.request_id)
}

/// By way of the table.
pub async fn call(call: Call) -> Outcome<Response> {
    answer(&call.app, call.node()?, &call.body).await
}

async fn answer(app: &App, auth: NodeAuth, body: &[u8]) -> Outcome<Response> {
    let beat = parse(body)?;
    let node = auth.node;
    let answer = app.plane.heartbeat(auth, beat).await?;
    Ok(raw_json(StatusCode::OK, write(node, &answer)))
}

fn parse(body: &[u8]) -> Outcome<Heartbeat> {
    let said: HeartbeatRequest = body::json_or_empty(body)?;
    Ok(Heartbeat {
        active: convert::bundle("active_bundle_id", said.active_bundle_id)?,
        staged: convert::bundle("staged_bundle_id", said.staged_bundle_id)?,
        health: convert::health(said.health),
        metrics: convert::metrics(said.metrics)?,
        measured_at: said.measured_at,
        sent_at: said.sent_at,
        seq: said.seq,
        instance: convert::text("instance", said.instance)?,
        generation: said.generation,
        busy_until: said.busy_until,
        version: convert::text("version", said.version)?,
        ip: convert::text("ip", said.ip)?,
        hostname: convert::text("hostname", said.hostname)?,
        metadata: convert::metadata(said.metadata)?,
    })
}

/// [`api::node::HeartbeatAnswer`] as text, without a serialiser: 160 bytes hold it.
fn write(node: NodeId, answer: &HeartbeatAnswer) -> Vec<u8> {
    let mut out = Vec::with_capacity(160);
    out.extend_from_slice(b"{\"status\":\"ok\",\"node_id\":\"");
    let mut id = [0u8; uuid::fmt::Hyphenated::LENGTH];
    out.extend_from_slice(node.as_uuid().hyphenated().encode_lower(&mut id).as_bytes());
    out.extend_from_slice(b"\",\"last_seen_at\":\"");
    stamp::write(&mut out, answer.last_seen);
    out.extend_from_slice(b"\",\"heartbeat_after_s\":");
    stamp::number(&mut out, answer.heartbeat_after_s);
    out.extend_from_slice(if answer.poll_now { b",\"poll_now\":true}" } else { b",\"poll_now\":false}" });
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use actors::node_api::BundleRef;
    use domain::Timestamp;
    use domain::node::HealthClass;

    #[test]
    fn the_answer_is_what_the_wire_type_reads() {
        let node: NodeId = "0190b5a0-6bfa-7cc0-9d4c-1b2f3a4d5e6f".parse().unwrap();
        let answer =
            HeartbeatAnswer { last_seen: Timestamp(1_795_296_900_123_456), heartbeat_after_s: 17, poll_now: true };
        let read: api::node::HeartbeatAnswer = serde_json::from_slice(&write(node, &answer)).unwrap();
        assert_eq!(
            read,
            api::node::HeartbeatAnswer {
                status: "ok".into(),
                node_id: node,
                last_seen_at: answer.last_seen,
                heartbeat_after_s: 17,
                poll_now: true,
            }
        );
    }

    #[test]
    fn everything_is_optional_and_unknown_fields_are_ignored() {
        let empty = parse(b"").unwrap();
        assert!(empty.active.is_none() && empty.health.is_none());
        let beat = parse(
            br#"{"active_bundle_id":null,"health":{"status":"degraded","x":1},"invented":{"a":[1]},"seq":4,
            "metrics":{"error_rate":1.5,"also_new":true},"sent_at":"2026-11-21T21:30:00Z"}"#,
        )
        .unwrap();
        assert_eq!(beat.active, Some(BundleRef::Baseline));
        assert_eq!(beat.health, Some(HealthClass::Degraded));
        assert_eq!(beat.metrics.unwrap().error_rate, Some(1.5));
        assert_eq!(beat.seq, Some(4));
    }

    #[test]
    fn a_wrong_type_is_named() {
        for (body, field) in [
            (r#"{"seq":"four"}"#, "seq"),
            (r#"{"metrics":{"error_rate":"high"}}"#, "metrics.error_rate"),
            (r#"{"active_bundle_id":7}"#, "active_bundle_id"),
            (r#"{"active_bundle_id":"v7"}"#, "active_bundle_id"),
            (r#"{"measured_at":"noon"}"#, "measured_at"),
            (r#"{"metadata":"x"}"#, "metadata"),
        ] {
            let refusal = parse(body.as_bytes()).unwrap_err();
            assert_eq!(refusal.problem.status, 422, "{body}");
            assert_eq!(refusal.problem.errors.keys().next().unwrap(), field, "{body}");
        }
        assert_eq!(parse(b"{").unwrap_err().problem.status, 400);
    }
}
