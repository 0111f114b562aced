//! Drift: a node that goes back by itself is found, listed, and repaired by a rollout when somebody asks for it.

use crate::harness::*;
use serde_json::{Value, json};

everywhere!(
    a_node_that_runs_something_else_is_found_and_repaired,
    where_a_project_repairs_drift_by_itself_a_node_gets_its_bundle_back_once,
    of_all_that_drifted_what_can_be_repaired_is_and_the_rest_is_left,
);

async fn open(op: &Client) -> Vec<Value> {
    let all = op.get("/api/v1/projects/p/drift?status=open").await.expect(200);
    all["drift"].as_array().unwrap().clone()
}

/// The node runs what it is told, and the rollout completes.
async fn takes(w: &World, node: &Hand, rollout_id: &str, bundle: &Value) {
    let update = node.told().await;
    assert_eq!(update["bundle_id"], bundle["bundle_id"]);
    node.run(&update).await;
    eventually("it verifies", async || {
        let healthy = json!({"status": "healthy"});
        node.beat(
            json!({"active_bundle_id": bundle["bundle_id"], "health": healthy, "sent_at": "2026-01-01T00:00:00Z"}),
        )
        .await;
        (rollout(&w.op, rollout_id).await["state"] == "completed").then_some(())
    })
    .await;
}

/// A node that ran v1, and now v2.
pub async fn wanderer(w: &World) -> (Hand, Value, Value) {
    let node = Hand::register(&w.at, "p", "wanders").await;
    node.beat(json!({"health": {"status": "healthy"}})).await;
    let (v1, v2) = (w.bundle("v1").await, w.bundle("v2").await);
    for b in [&v1, &v2] {
        let id = w.roll_out(json!({"bundle_id": b["bundle_id"]})).await;
        takes(w, &node, &id, b).await;
    }
    (node, v1, v2)
}

/// It runs `bundle` without having been told, and that is stored.
pub async fn wanders(w: &World, node: &Hand, bundle: &Value) {
    eventually("the drift is there to be found", async || {
        node.beat(json!({"active_bundle_id": bundle["bundle_id"], "health": {"status": "healthy"}})).await;
        let drifts = w.one.tree.plane.store().drifting(domain::Timestamp(i64::MAX), 10).await.unwrap();
        (!drifts.is_empty()).then_some(())
    })
    .await;
}

async fn repairs(op: &Client) -> Vec<Value> {
    let all = op.get("/api/v1/projects/p/rollouts?limit=100").await.expect(200);
    all["rollouts"].as_array().unwrap().iter().filter(|r| r["kind"] == "drift_repair").cloned().collect()
}

async fn where_a_project_repairs_drift_by_itself_a_node_gets_its_bundle_back_once(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let (node, v1, v2) = wanderer(&w).await;
    let plane = &w.one.tree.plane;
    wanders(&w, &node, &v1).await;
    plane.find_drift(domain::Span::ZERO).await.unwrap();
    assert_eq!(plane.remediate_drift().await.unwrap(), 0, "only where it is wanted");
    let settings = json!({"settings": {"drift_remediation": true}});
    w.op.send("PATCH", "/api/v1/projects/p", settings).await.expect(200);
    // The sweep of an instance may be faster than we are.
    plane.remediate_drift().await.unwrap();
    let repair = eventually("a repair is begun", async || repairs(&w.op).await.pop()).await;
    assert!(open(&w.op).await.is_empty());
    takes(&w, &node, repair["id"].as_str().unwrap(), &v2).await;
    // Somebody there sets it back again: once more by itself would be for ever.
    wanders(&w, &node, &v1).await;
    plane.find_drift(domain::Span::ZERO).await.unwrap();
    assert_eq!(plane.remediate_drift().await.unwrap(), 0);
    assert_eq!((repairs(&w.op).await.len(), open(&w.op).await.len()), (1, 1), "it is left to people");
    let audit = w.op.get("/api/v1/projects/p/audit_logs?limit=500&action=drift.resolved").await.expect(200);
    assert_eq!((&audit["total"], &audit["audit_logs"][0]["actor_type"]), (&json!(1), &json!("system")), "{audit:#}");
    w.end().await;
}

async fn a_node_that_runs_something_else_is_found_and_repaired(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let (node, v1, v2) = wanderer(&w).await;
    // By itself it goes back; a minute later it counts as drift, so the row is made older.
    wanders(&w, &node, &v1).await;
    let found = w.one.tree.plane.store().drifting(domain::Timestamp(i64::MAX), 10).await.unwrap();
    assert_eq!(found[0].1.severity().as_str(), "medium");
    assert!(open(&w.op).await.is_empty(), "for a minute it may be on its way");
    w.one.tree.plane.find_drift(domain::Span::ZERO).await.unwrap();
    let all = open(&w.op).await;
    assert_eq!((all.len(), &all[0]["node_name"], &all[0]["severity"]), (1, &json!("wanders"), &json!("medium")));
    assert_eq!((&all[0]["expected_bundle_id"], &all[0]["found_bundle_id"]), (&v2["bundle_id"], &v1["bundle_id"]));
    let stats = w.op.get("/api/v1/projects/p/drift/stats").await.expect(200);
    assert_eq!((&stats["stats"]["open"], &stats["stats"]["by_severity"]["medium"]), (&json!(1), &json!(1)));
    w.one.tree.plane.find_drift(domain::Span::ZERO).await.unwrap();
    assert_eq!(open(&w.op).await.len(), 1, "found once");

    let path = format!("/api/v1/projects/p/drift/{}/resolve", all[0]["id"].as_str().unwrap());
    let done = w.op.post(&path, json!({"remediate": true})).await;
    // One for what was asked for, and one for the rollout that it began.
    assert_eq!(entries_of(&w.db.store, &done).await, ["rollout.created", "drift.resolved"]);
    let done = done.expect(200);
    assert_eq!((&done["changed"], &done["rollout"]["kind"]), (&json!(true), &json!("drift_repair")), "{done:#}");
    let again = w.op.post(&path, json!({})).await;
    assert_eq!(entries_of(&w.db.store, &again).await, [""; 0]);
    assert_eq!(again.expect(200)["changed"], false);
    takes(&w, &node, done["rollout"]["id"].as_str().unwrap(), &v2).await;
    w.one.tree.plane.find_drift(domain::Span::ZERO).await.unwrap();
    assert!(open(&w.op).await.is_empty());
    let csv = w.op.get("/api/v1/projects/p/drift/export").await;
    let text = String::from_utf8_lossy(&csv.bytes).into_owned();
    assert!(text.lines().count() == 2 && text.contains("reassigned"), "{text}");
    let all = w.op.post("/api/v1/projects/p/drift/resolve-all", json!({})).await;
    assert_eq!(entries_of(&w.db.store, &all).await, [""; 0], "nothing was open");
    assert_eq!(all.expect(200)["resolved"], 0);
    let audit = w.op.get("/api/v1/projects/p/audit_logs?limit=500&action=drift.").await.expect(200);
    assert_eq!(audit["total"], 2, "one found, one resolved: {audit:#}");
    wanders(&w, &node, &v1).await;
    w.one.tree.plane.find_drift(domain::Span::ZERO).await.unwrap();
    let all = w.op.post("/api/v1/projects/p/drift/resolve-all", json!({})).await;
    assert_eq!(entries_of(&w.db.store, &all).await, ["drift.resolved"], "one for each that it resolves");
    assert_eq!(all.expect(200)["resolved"], 1);
    w.end().await;
}

async fn of_all_that_drifted_what_can_be_repaired_is_and_the_rest_is_left(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let (node, v1, v2) = wanderer(&w).await;
    let other = Hand::register(&w.at, "p", "other").await;
    other.beat(json!({"health": {"status": "healthy"}})).await;
    other.run(&other.told().await).await;
    let v3 = w.bundle("v3").await;
    let only = json!({"type": "node_ids", "node_ids": [other.id]});
    let id = w.roll_out(json!({"bundle_id": v3["bundle_id"], "target_selector": only, "supersede": true})).await;
    takes(&w, &other, &id, &v3).await;
    let plane = &w.one.tree.plane;
    eventually("both have drifted", async || {
        for n in [&node, &other] {
            n.beat(json!({"active_bundle_id": v1["bundle_id"], "health": {"status": "healthy"}})).await;
        }
        let drifts = plane.store().drifting(domain::Timestamp(i64::MAX), 10).await.unwrap();
        (drifts.len() == 2).then_some(())
    })
    .await;
    plane.find_drift(domain::Span::ZERO).await.unwrap();
    let revoke = format!("/api/v1/projects/p/bundles/{}/revoke", v3["id"].as_str().unwrap());
    w.op.post(&revoke, json!({"reason": "bad"})).await.expect(200);
    let path = "/api/v1/projects/p/drift/resolve-all";
    let done = w.op.post(path, json!({"remediate": true})).await.expect(200);
    let rollouts = done["rollouts"].as_array().unwrap();
    assert_eq!((&done["resolved"], &done["left"], rollouts.len()), (&json!(1), &json!(1), 1), "{done:#}");
    let left = open(&w.op).await;
    assert_eq!((left.len(), &left[0]["node_name"]), (1, &json!("other")), "its bundle is revoked: {left:#?}");
    takes(&w, &node, rollouts[0]["id"].as_str().unwrap(), &v2).await;
    w.end().await;
}
