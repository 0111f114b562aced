//! Rollouts that meet: one takes another's nodes over, a pin, an assignment, a revocation with its replacement.

use crate::harness::*;
use serde_json::json;

everywhere!(
    a_rollout_takes_over_what_an_older_one_holds,
    a_pin_and_an_assignment_are_rollouts_of_their_kind,
    a_revoked_bundle_is_replaced_where_it_runs,
    a_deprecated_bundle_is_rolled_out_only_by_its_name,
    too_old_proxies_are_left_out_and_restarts_need_a_limit,
);

/// `n-3` never finishes anything called `slow`.
const SLOW: &str = "[[rule]]\nmatch = \"n-3\"\nfail_on_version = \"slow\"\n";

async fn a_rollout_takes_over_what_an_older_one_holds(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let fleet = w.fleet(4, SLOW).await;
    let (v1, slow, v2) = (w.bundle("v1").await, w.bundle("slow").await, w.bundle("v2").await);
    let first = w.roll_out(json!({"bundle_id": v1["bundle_id"], "batch_size": 4})).await;
    reaches(&w.op, &first, "completed").await;
    let older = w.roll_out(json!({"bundle_id": slow["bundle_id"], "batch_size": 4})).await;
    reaches(&w.op, &older, "paused").await;
    let path = "/api/v1/projects/p/rollouts";
    let body = json!({"bundle_id": v2["bundle_id"], "batch_size": 4});
    let refused = w.op.post(path, body).await.expect(409);
    assert!(refused["detail"].as_str().unwrap().contains(&older), "{refused:#}");
    let newer = w.roll_out(json!({"bundle_id": v2["bundle_id"], "batch_size": 4, "supersede": true})).await;
    let r = reaches(&w.op, &newer, "completed").await;
    assert_eq!(r["progress"]["verified"], 4, "{r:#}");
    let r = reaches(&w.op, &older, "cancelled").await;
    assert_eq!(r["progress"]["skipped"], 4, "{r:#}");
    assert!(members(&w.op, &older).await.values().all(|m| m["reason"] == "superseded"));
    all_run(&w.op, "p", &["n-1", "n-2", "n-3", "n-4"], &v2["bundle_id"]).await;
    fleet.stop().await.unwrap();
    w.end().await;
}

async fn a_pin_and_an_assignment_are_rollouts_of_their_kind(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let fleet = w.fleet(3, "").await;
    let (v1, v2) = (w.bundle("v1").await, w.bundle("v2").await);
    let first = w.roll_out(json!({"bundle_id": v1["bundle_id"], "batch_size": 3})).await;
    reaches(&w.op, &first, "completed").await;
    let known = nodes(&w.op, "p").await;
    let id = |n: &str| known[n]["id"].as_str().unwrap().to_string();

    let path = format!("/api/v1/projects/p/bundles/{}/assign", v2["bundle_id"].as_str().unwrap());
    let made = w.op.post(&path, json!({"node_ids": [id("n-1")]})).await.expect(201);
    assert_eq!(made["rollout"]["kind"], "assign", "{made:#}");
    all_run(&w.op, "p", &["n-1"], &v2["bundle_id"]).await;
    is_problem(&w.op.post(&path, json!({})).await, 422, Some("node_ids"));

    let pin = json!({"pinned_bundle_id": v2["bundle_id"]});
    w.op.send("PATCH", &format!("/api/v1/projects/p/nodes/{}", id("n-2")), pin).await.expect(200);
    all_run(&w.op, "p", &["n-2"], &v2["bundle_id"]).await;
    let all = w.op.get("/api/v1/projects/p/rollouts").await.expect(200);
    assert_eq!(all["rollouts"][0]["kind"], "pin", "{all:#}");
    eventually("the pin's rollout has ended", async || {
        let all = w.op.get("/api/v1/projects/p/rollouts?state=active").await.expect(200);
        (all["total"] == 0).then_some(())
    })
    .await;

    let again = w.roll_out(json!({"bundle_id": v1["bundle_id"], "batch_size": 3, "allow_failed": true})).await;
    reaches(&w.op, &again, "completed").await;
    assert_eq!(members(&w.op, &again).await["n-2"]["reason"], "pinned");
    all_run(&w.op, "p", &["n-1", "n-3"], &v1["bundle_id"]).await;
    assert_eq!(nodes(&w.op, "p").await["n-2"]["active_bundle_id"], v2["bundle_id"]);
    fleet.stop().await.unwrap();
    w.end().await;
}

async fn a_revoked_bundle_is_replaced_where_it_runs(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let fleet = w.fleet(4, "").await;
    let (v1, v2) = (w.bundle("v1").await, w.bundle("v2").await);
    for b in [&v1, &v2] {
        let id = w.roll_out(json!({"bundle_id": b["bundle_id"], "batch_size": 4})).await;
        reaches(&w.op, &id, "completed").await;
    }
    let path = format!("/api/v1/projects/p/bundles/{}/revoke", v2["bundle_id"].as_str().unwrap());
    is_problem(&w.op.post(&path, json!({"replace": "nothing of ours"})).await, 422, Some("replace"));
    // Refused with its replacement, it is not revoked. Deprecated is no bundle to choose, but one's own to go back to.
    let v3 = w.bundle("v3").await;
    let bundles = "/api/v1/projects/p/bundles";
    for b in [&v1, &v3] {
        let path = format!("{bundles}/{}/deprecate", b["bundle_id"].as_str().unwrap());
        w.op.post(&path, json!({})).await.expect(200);
    }
    is_problem(&w.op.post(&path, json!({"replace": v3["bundle_id"]})).await, 409, None);
    let shown = w.op.get(&format!("{bundles}/{}", v2["bundle_id"].as_str().unwrap())).await.expect(200);
    assert_eq!(shown["bundle"]["status"], "compiled", "{shown:#}");
    let done = w.op.post(&path, json!({"reason": "it leaks", "replace": "previous"})).await.expect(200);
    assert_eq!((&done["running_on"], &done["not_replaced"]), (&json!(4), &json!([])), "{done:#}");
    // Asked once more, nothing is begun twice.
    let again = w.op.post(&path, json!({"reason": "it leaks", "replace": "previous"})).await.expect(200);
    assert_eq!((&again["changed"], &again["rollout_ids"]), (&json!(false), &json!([])), "{again:#}");
    let id = done["rollout_ids"][0].as_str().unwrap().to_string();
    let r = reaches(&w.op, &id, "completed").await;
    assert_eq!((&r["kind"], &r["progress"]["verified"]), (&json!("replace"), &json!(4)), "{r:#}");
    all_run(&w.op, "p", &["n-1", "n-2", "n-3", "n-4"], &v1["bundle_id"]).await;
    let node = nodes(&w.op, "p").await["n-1"]["id"].as_str().unwrap().to_string();
    let pin = json!({"pinned_bundle_id": v2["bundle_id"]});
    is_problem(&w.op.send("PATCH", &format!("/api/v1/projects/p/nodes/{node}"), pin).await, 409, None);
    fleet.stop().await.unwrap();
    w.end().await;
}

async fn a_deprecated_bundle_is_rolled_out_only_by_its_name(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let fleet = w.fleet(1, "").await;
    let v1 = w.bundle("v1").await;
    w.op.post(&format!("/api/v1/projects/p/bundles/{}/deprecate", v1["bundle_id"].as_str().unwrap()), json!({}))
        .await
        .expect(200);
    let path = "/api/v1/projects/p/rollouts";
    is_problem(&w.op.post(path, json!({"bundle_id": v1["bundle_id"]})).await, 409, None);
    let id = w.roll_out(json!({"bundle_id": v1["bundle_id"], "allow_deprecated": true})).await;
    reaches(&w.op, &id, "completed").await;
    fleet.stop().await.unwrap();
    w.end().await;
}

async fn too_old_proxies_are_left_out_and_restarts_need_a_limit(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let fleet = w.fleet(3, "").await;
    let old = Hand::register(&w.at, "p", "old").await;
    old.beat(json!({"version": "0.1.0", "health": {"status": "healthy"}})).await;
    let v1 = w.bundle("v1").await;
    let first = w.roll_out(json!({"bundle_id": v1["bundle_id"], "batch_size": 4})).await;
    reaches(&w.op, &first, "completed").await;
    assert_eq!(members(&w.op, &first).await["old"]["reason"], "incompatible");

    // A listener on another port: the proxy reads that only when it starts.
    let moved = bundle::samples::DEMO_V1.replace("8080", "8099");
    assert_ne!(moved, bundle::samples::DEMO_V1);
    let v2 = compile(&w.op, "p", "v2", &moved).await;
    let path = "/api/v1/projects/p/rollouts";
    let large = json!({"bundle_id": v2["bundle_id"], "batch_size": 3});
    is_problem(&w.op.post(path, large.clone()).await, 422, Some("allow_restart"));
    let plan = w.op.post(&format!("{path}/plan"), large).await.expect(200);
    assert!(plan["warnings"].to_string().contains("must restart"), "{plan:#}");
    let id = w.roll_out(json!({"bundle_id": v2["bundle_id"], "batch_size": 3, "allow_restart": true})).await;
    reaches(&w.op, &id, "completed").await;
    // Written down for the way back, which restarts them again: in turns.
    let opened = w.op.get(&format!("/api/v1/rollouts/{id}/export")).await;
    assert!(String::from_utf8_lossy(&opened.bytes).contains(r#""restarts":true"#), "{:#}", opened.body);
    w.op.post(&format!("/api/v1/rollouts/{id}/rollback"), json!({"reason": "the port is taken"})).await.expect(200);
    reaches(&w.op, &id, "rolled_back").await;
    all_run(&w.op, "p", &["n-1", "n-2", "n-3"], &v1["bundle_id"]).await;
    fleet.stop().await.unwrap();
    w.end().await;
}
