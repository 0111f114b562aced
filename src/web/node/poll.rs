//! `GET /nodes/:id/bundles/latest?wait=`: what the node is to run, at once or when it changes.

use crate::app::App;
use crate::auth::{self, NodeCredential};
use crate::call::Call;
use crate::problem::Outcome;
use crate::query::Query;
use crate::reply::{self, Meta};
use crate::routes::{POLL, table};
use actors::node_api::{NodeAuth, PollAnswer, Polled};
use api::node::PollAnswer as Wire;
use domain::NodeId;
use std::time::Duration;
use warp::reply::Response;

/// A node whose poll was cut short by a shutdown asks again after so many seconds, of another instance or of the next process.
const POLL_AFTER_DRAIN_S: u32 = 2;

/// Straight from the filters. A poll that may be held leaves them at once: what waits is this answer and nothing else.
pub async fn hot(app: App, meta: Meta, named: NodeId, credential: Option<NodeCredential>, query: String) -> Response {
    match admit(&app, meta, named, credential, &query).await {
        Ok((auth, asked)) if asked.wait.is_zero() => finish(&app, meta, answer(&app, auth, asked).await),
        Ok((auth, asked)) => reply::held(async move { finish(&app, meta, answer(&app, auth, asked).await) }),
        Err(refusal) => finish(&app, meta, Err(refusal)),
    }
}

async fn admit(
    app: &App,
    meta: Meta,
    named: NodeId,
    credential: Option<NodeCredential>,
    query: &str,
) -> Outcome<(NodeAuth, Asked)> {
    let auth = auth::node(app, meta, credential).await?;
    auth::same_node(app, meta, &auth, named, &table()[POLL]).await?;
    let query = if query.is_empty() { Query::default() } else { Query::parse(query)? };
    Ok((auth, Asked::of(&query)?))
}

fn finish(app: &App, meta: Meta, outcome: Outcome<Response>) -> Response {
    let response = outcome.unwrap_or_else(|refusal| refusal.into_response(meta.request_id));
    app.metrics.observe(Some(POLL), response.status(), meta.started.elapsed());
    reply::for_node(response, meta.request_id)
}

/// By way of the table.
pub async fn call(call: Call) -> Outcome<Response> {
    answer(&call.app, call.node()?, Asked::of(&call.query)?).await
}

/// What a poll asks for.
#[derive(Clone, Copy)]
struct Asked {
    wait: Duration,
    /// The version of the trust document that the node says it has.
    have: Option<u64>,
}

impl Asked {
    fn of(query: &Query) -> Outcome<Asked> {
        let have = query.parsed::<u64>("trust", "the version of the trust document that the node has")?;
        Ok(Asked { wait: query.wait()?, have })
    }
}

async fn answer(app: &App, auth: NodeAuth, Asked { wait, have }: Asked) -> Outcome<Response> {
    if wait.is_zero() {
        return Ok(reply::ok(&told(app.plane.poll(auth, wait, have).await?)));
    }
    tokio::select! {
        biased;
        answer = app.plane.poll(auth, wait, have) => Ok(reply::ok(&told(answer?))),
        () = app.drained() => Ok(reply::ok(&Wire { no_update: true, poll_after_s: POLL_AFTER_DRAIN_S, ..Wire::default() })),
    }
}

fn told(polled: Polled) -> Wire {
    let trust = (!polled.trust.is_empty()).then_some(serde_json::Value::Array(polled.trust));
    Wire { trust, release: polled.release, ..wire(polled.answer) }
}

fn wire(answer: PollAnswer) -> Wire {
    let update = match answer {
        PollAnswer::NoUpdate { assignment, poll_after_s } => {
            return Wire { no_update: true, assignment, poll_after_s, ..Wire::default() };
        }
        PollAnswer::Update(update) => *update,
    };
    let mut out = Wire {
        bundle_id: Some(None),
        rollout_id: update.rollout,
        generation: Some(update.generation),
        traffic_weight: Some(update.traffic_weight),
        assignment: Some(update.assignment),
        poll_after_s: update.poll_after_s,
        ..Wire::default()
    };
    if let Some(b) = update.bundle {
        out.bundle_id = Some(Some(b.content_id.to_string()));
        out.version = b.version;
        out.download_url = Some(b.artifact_url.clone());
        out.artifact_url = Some(b.artifact_url);
        out.artifact_hash = Some(b.artifact_hash.prefixed());
        out.checksum = Some(b.artifact_hash.to_string());
        out.size_bytes = Some(b.size_bytes);
        out.signature = Some(b.signature);
        out.key_id = Some(b.key_id);
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use actors::node_api::{Update, UpdateBundle};

    const MOST_PARKED: usize = 1_536;

    use domain::Digest;
    use serde_json::json;

    fn update(bundle: Option<UpdateBundle>) -> serde_json::Value {
        let update = Update {
            bundle,
            rollout: None,
            generation: 7,
            traffic_weight: 100,
            assignment: json!({"payload": "x"}),
            poll_after_s: 5,
        };
        serde_json::to_value(wire(PollAnswer::Update(Box::new(update)))).unwrap()
    }

    /// Bytes of what an async function answers with; it is not called.
    fn size<F>(_: impl FnOnce(&'static App, NodeAuth, Asked) -> F) -> usize {
        std::mem::size_of::<F>()
    }

    /// It is kept for a minute, 19,000 at a time: what is asked on the side is boxed, and gone while the poll is parked.
    #[test]
    fn a_parked_poll_keeps_little() {
        let bytes = size(answer);
        assert!(bytes <= MOST_PARKED, "{bytes} bytes");
    }

    #[test]
    fn an_update_carries_the_older_names_too() {
        let answer = update(Some(UpdateBundle {
            content_id: Digest::of(b"c"),
            version: Some("v2".into()),
            artifact_url: "https://cp/artifacts/x".into(),
            artifact_hash: Digest::of(b"a"),
            size_bytes: 10,
            signature: "s".into(),
            key_id: "k".into(),
        }));
        assert_eq!(answer["bundle_id"], Digest::of(b"c").to_string());
        assert_eq!(answer["download_url"], answer["artifact_url"]);
        assert_eq!(answer["artifact_hash"], format!("sha256:{}", answer["checksum"].as_str().unwrap()));
        assert!(answer.get("no_update").is_none());
    }

    #[test]
    fn back_to_the_baseline_is_a_null_bundle_without_an_artifact() {
        let answer = update(None);
        assert!(answer["bundle_id"].is_null() && answer.as_object().unwrap().contains_key("bundle_id"));
        assert!(answer.get("artifact_url").is_none());
    }

    #[test]
    fn nothing_new_is_said_shortly() {
        let answer = wire(PollAnswer::NoUpdate { assignment: None, poll_after_s: 9 });
        assert_eq!(serde_json::to_value(answer).unwrap(), json!({"no_update": true, "poll_after_s": 9}));
    }
}
