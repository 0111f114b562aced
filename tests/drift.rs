//! Drift: a node that goes back by itself is found, listed, and repaired by a rollout when somebody asks for it.

use crate::harness::*;
use serde_json::{Value, json};

everywhere!(a_node_that_runs_something_else_is_found_and_repaired,);

async fn open(op: &Client) -> Vec<Value> {
    let all = op.get("/api/v1/projects/p/drift?status=open").await.expect(200);
    all["drift"].as_array().unwrap().clone()
}

async fn a_node_that_runs_something_else_is_found_and_repaired(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let node = Hand::register(&w.at, "p", "wanders").await;
    let healthy = json!({"status": "healthy"});
    node.beat(json!({"health": healthy})).await;
    let (v1, v2) = (w.bundle("v1").await, w.bundle("v2").await);
    for b in [&v1, &v2] {
        let id = w.roll_out(json!({"bundle_id": b["bundle_id"]})).await;
        let update = node.told().await;
        node.run(&update).await;
        eventually("it verifies", async || {
            node.beat(
                json!({"active_bundle_id": b["bundle_id"], "health": healthy, "sent_at": "2026-01-01T00:00:00Z"}),
            )
            .await;
            (rollout(&w.op, &id).await["state"] == "completed").then_some(())
        })
        .await;
    }
    // By itself it goes back; a minute later it counts as drift, so the row is made older.
    node.beat(json!({"active_bundle_id": v1["bundle_id"], "health": healthy})).await;
    let found = eventually("the drift is found", async || {
        let drifts = w.one.tree.plane.store().drifting(domain::Timestamp(i64::MAX), 10).await.unwrap();
        (!drifts.is_empty()).then_some(drifts)
    })
    .await;
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
    let done = w.op.post(&path, json!({"remediate": true})).await.expect(200);
    assert_eq!((&done["changed"], &done["rollout"]["kind"]), (&json!(true), &json!("drift_repair")), "{done:#}");
    assert_eq!(w.op.post(&path, json!({})).await.expect(200)["changed"], false);
    let update = node.told().await;
    assert_eq!(update["bundle_id"], v2["bundle_id"]);
    node.run(&update).await;
    let id = done["rollout"]["id"].as_str().unwrap().to_string();
    eventually("it is repaired", async || {
        node.beat(json!({"active_bundle_id": v2["bundle_id"], "health": healthy, "sent_at": "2026-01-01T00:00:00Z"}))
            .await;
        (rollout(&w.op, &id).await["state"] == "completed").then_some(())
    })
    .await;
    w.one.tree.plane.find_drift(domain::Span::ZERO).await.unwrap();
    assert!(open(&w.op).await.is_empty());
    let csv = w.op.get("/api/v1/projects/p/drift/export").await;
    let text = String::from_utf8_lossy(&csv.bytes).into_owned();
    assert!(text.lines().count() == 2 && text.contains("reassigned"), "{text}");
    assert_eq!(w.op.post("/api/v1/projects/p/drift/resolve-all", json!({})).await.expect(200)["resolved"], 0);
    let audit = w.op.get("/api/v1/projects/p/audit_logs?limit=500&action=drift.").await.expect(200);
    assert_eq!(audit["total"], 2, "one found, one resolved: {audit:#}");
    w.end().await;
}
