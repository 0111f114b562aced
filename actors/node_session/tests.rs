//! What a fleet costs the database when nothing changes: by name of each operation.
#![allow(clippy::unwrap_used)]

use crate::commands::tests::{WAIT, World, on_both};
use crate::node_api::{BundleRef, Heartbeat, NodeAuth, Registration};
use domain::access::Ctx;
use domain::node::{HealthClass, Metrics};
use domain::{Digest, Scope, Span};
use serde_json::json;
use std::collections::BTreeMap;

const NODES: usize = 8;
const ROUNDS: u64 = 100;
/// The clocks of the nodes, and that is no news either.
const BEHIND: Span = Span::secs(600);
/// The one thing that goes on in a tree whose clock stands still: the change feed is looked at.
const FEED: &str = "change.after";

async fn register(w: &World) -> Vec<Digest> {
    w.settings(json!({"open_registration": true, "adopt_on_registration": true})).await;
    let mut keys = Vec::new();
    for i in 0..NODES {
        let registration = Registration { name: format!("n{i}"), ..Registration::default() };
        let done = w.plane.register_node(w.project.id, None, registration, &Ctx::system()).await.unwrap();
        keys.push(Digest::of(done.key.as_bytes()));
    }
    keys
}

/// As a node of the field does it: recognised by its key, then heard. The numbers differ each time.
async fn beat(w: &World, key: &Digest, seq: u64) -> NodeAuth {
    let auth = w.plane.node_auth(key).await.unwrap().unwrap();
    let beat = Heartbeat {
        active: Some(BundleRef::Baseline),
        health: Some(HealthClass::Healthy),
        metrics: Some(Metrics { cpu_percent: Some(seq as f64 % 100.0), ..Metrics::default() }),
        measured_at: Some(w.plane.now() - BEHIND),
        sent_at: Some(w.plane.now() - BEHIND),
        instance: Some("0190b5a0-6bfa-7cc0-9d4c-1b2f3a4d5e6f".into()),
        version: Some("26.4.1".into()),
        seq: Some(seq),
        ..Heartbeat::default()
    };
    w.plane.heartbeat(auth, beat).await.unwrap();
    auth
}

/// What was asked since `before`, without the feed.
fn since(w: &World, before: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let new = w.plane.store().operations().into_iter().map(|(op, n)| {
        let old = before.get(&op).copied().unwrap_or(0);
        (op, n - old)
    });
    new.filter(|(op, n)| *n > 0 && op != FEED).collect()
}

/// The first heartbeats start the sessions and store what is new, and the feed tells of it; until a round asks for nothing more.
async fn settle(w: &World, keys: &[Digest]) {
    let looks = || w.plane.store().operations().get(FEED).copied().unwrap_or(0);
    for seq in 1.. {
        let (before, looked) = (w.plane.store().operations(), looks());
        for key in keys {
            beat(w, key, seq).await;
        }
        // One look may be under way already; the second has seen everything.
        while looks() < looked + 2 {
            tokio::task::yield_now().await;
        }
        if since(w, &before).is_empty() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn steady_heartbeats_ask_the_database_nothing_but_the_batched_last_seen() {
    on_both(|w| async move {
        let keys = register(&w).await;
        tokio::time::timeout(WAIT, settle(&w, &keys)).await.unwrap();
        let before = w.plane.store().operations();
        for round in 0..ROUNDS {
            for key in &keys {
                beat(&w, key, 1_000 + round).await;
            }
        }
        assert_eq!(since(&w, &before), BTreeMap::new(), "{} steady heartbeats", NODES as u64 * ROUNDS);

        // Later, every node is due to be stored as seen: one batch, or two if the writer's second ends among them.
        w.hand.advance(Span::secs(45));
        let before = w.plane.store().operations();
        for round in 0..ROUNDS {
            for key in &keys {
                beat(&w, key, 2_000 + round).await;
            }
        }
        let stored = async {
            for key in &keys {
                let node = w.plane.node_auth(key).await.unwrap().unwrap().node;
                let stored = async || w.plane.store().node(Scope::System("a test looks"), node).await.unwrap();
                while stored().await.last_seen != Some(w.plane.now()) {
                    tokio::task::yield_now().await;
                }
                assert_eq!(stored().await.clock_skew, Some(Span(-BEHIND.0)), "written with it");
            }
        };
        tokio::time::timeout(WAIT, stored).await.unwrap();
        let asked = since(&w, &before);
        let batches = asked.get("node.last_seen").copied().unwrap_or(0);
        assert!((1..=2).contains(&batches), "one batch for {NODES} nodes and {ROUNDS} rounds: {asked:?}");
        // The sweeps ran too, because the clock moved: nothing of what only a node's news would ask for.
        for op in ["node.observe", "node.session_view", "node.credential", "node.online", "rollout.holder"] {
            assert!(!asked.contains_key(op), "{op}: {asked:?}");
        }
        w.end().await;
    })
    .await;
}
