//! The main job on both databases: register, submit, compile, roll out, download, verify, activate, report, complete.

use crate::harness::*;
use serde_json::json;
use sim::Behaviour;
use store::testing::{Backend, open};

async fn a_rollout_completes_on(backend: Backend) {
    let db = open(backend).await;
    let dir = tempfile::tempdir().unwrap();
    let one = Instance::start(db.store.clone(), dir.path(), Options::default()).await;
    let op = one.operator();
    open_project(&op, "p").await;
    let nodes = fleet(&one.url, "p", 20, Behaviour::default(), "").await;
    online(&op, "p", 20).await;
    let b = compile(&op, "p", "v1", bundle::samples::DEMO_V1).await;
    let id = roll_out(&op, "p", json!({"bundle_id": b["bundle_id"], "batch_size": 5})).await;
    let r = reaches(&op, &id, "completed").await;
    assert_eq!(r["progress"]["verified"], 20, "{r:#}");
    nodes.stop().await.unwrap();
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_completes_on_sqlite() {
    a_rollout_completes_on(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_completes_on_postgresql() {
    a_rollout_completes_on(Backend::Postgres).await;
}
