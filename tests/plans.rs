//! Freeze windows, environments, templates and approvals, as clients meet them.

use crate::harness::*;
use bytes::Bytes;
use serde_json::json;

everywhere!(
    freeze_windows_are_made_shown_ended_and_hold_rollouts,
    a_template_says_what_a_rollout_leaves_out_and_an_environment_whom_it_means,
    a_key_never_approves,
);

async fn freeze_windows_are_made_shown_ended_and_hold_rollouts(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let path = "/api/v1/projects/p/freeze-windows";
    is_problem(&w.op.post(path, json!({"name": "x"})).await, 422, Some("reason"));
    let past =
        json!({"name": "x", "reason": "y", "starts_at": "2030-01-02T00:00:00Z", "ends_at": "2030-01-01T00:00:00Z"});
    is_problem(&w.op.post(path, past).await, 422, Some("ends_at"));
    let nowhere = json!({"name": "x", "reason": "y", "environment_id": uuid::Uuid::nil()});
    is_problem(&w.op.post(path, nowhere).await, 422, Some("environment_id"));
    let made = w.op.post(path, json!({"name": "hold", "reason": "incident"})).await.expect(201);
    let window = &made["freeze_window"];
    assert_eq!((&window["active"], &window["ends_at"]), (&json!(true), &json!(null)));
    let one = format!("{path}/{}", window["id"].as_str().unwrap());
    let _fleet = w.fleet(1, "").await;
    w.bundle("v1").await;
    let plan = w.op.post("/api/v1/projects/p/rollouts/plan", json!({"bundle_id": "v1"})).await.expect(200);
    assert_eq!(plan["windows"][0]["type"], "freeze", "{plan:#}");
    if ground == Ground::TwoInstances {
        // Heeded at once where it was made, by another instance when the change feed tells it: in a second at the latest.
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    let id = w.roll_out(json!({"bundle_id": "v1"})).await;
    let r = rollout(&w.op, &id).await;
    assert_eq!((&r["state"], &r["primary"]["code"]), (&json!("pending"), &json!("freeze")), "{r:#}");
    is_problem(&w.op.post(&format!("/api/v1/rollouts/{id}/start"), json!({})).await, 409, None);
    let bare = w.op.post(&format!("/api/v1/rollouts/{id}/start"), json!({"override_freeze": true})).await;
    is_problem(&bare, 422, Some("reason"));
    // What the rollout's state refuses lifts no freeze, and neither does what was refused before anything was made.
    let told = json!({"override_freeze": true, "reason": "the fix"});
    for command in ["resume", "retry"] {
        is_problem(&w.op.post(&format!("/api/v1/rollouts/{id}/{command}"), told.clone()).await, 409, None);
    }
    let rollouts = "/api/v1/projects/p/rollouts";
    for reason in ["x".repeat(2_001), "\u{7}".to_string()] {
        let said = json!({"bundle_id": "v1", "override_freeze": true, "reason": reason});
        is_problem(&w.op.post(rollouts, said).await, 422, Some("reason"));
    }
    assert_eq!(w.op.get(rollouts).await.expect(200)["total"], 1);
    let r = rollout(&w.op, &id).await;
    assert_eq!((&r["state"], &r["primary"]["code"]), (&json!("pending"), &json!("freeze")), "{r:#}");
    // Replaced by one that is over.
    let over = json!({"name": "hold", "reason": "incident", "starts_at": "2020-01-01T00:00:00Z", "ends_at": "2020-01-02T00:00:00Z"});
    assert_eq!(w.op.send("PUT", &one, over).await.expect(200)["freeze_window"]["active"], false);
    reaches(&w.op, &id, "completed").await;
    w.op.send("DELETE", &one, json!({})).await.expect(204);
    is_problem(&w.op.get(&one).await, 404, None);
    // A request that is repeated sets nothing aside that began since.
    let said = json!({"bundle_id": "v1", "start": false, "override_freeze": true, "reason": "the fix"}).to_string();
    let headers = [("idempotency-key", "once"), ("content-type", "application/json")];
    let send = async || w.op.raw("POST", rollouts, &headers, Bytes::from(said.clone())).await.expect(201);
    let id = send().await["rollout"]["id"].as_str().unwrap().to_string();
    let approvals = format!("/api/v1/rollouts/{id}/approvals");
    let before = w.op.get(&approvals).await.expect(200)["approvals"]["content_hash"].clone();
    w.op.post(path, json!({"name": "again", "reason": "incident"})).await.expect(201);
    assert_eq!(send().await["rollout"]["id"], id.as_str());
    assert_eq!(w.op.get(&approvals).await.expect(200)["approvals"]["content_hash"], before);
    w.end().await;
}

async fn a_template_says_what_a_rollout_leaves_out_and_an_environment_whom_it_means(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let _fleet = w.fleet(2, "").await;
    w.bundle("v1").await;
    let templates = "/api/v1/projects/p/rollout-templates";
    let bad = json!({"name": "careful", "settings": {"batch_size": 0}});
    is_problem(&w.op.post(templates, bad).await, 422, Some("batch_size"));
    let bundle = json!({"name": "careful", "settings": {"bundle_id": "v1"}});
    is_problem(&w.op.post(templates, bundle).await, 422, Some("settings.bundle_id"));
    let made = json!({"name": "careful", "settings": {"batch_size": 2, "failure_threshold": 1, "start": false}});
    let template = w.op.post(templates, made).await.expect(201)["rollout_template"]["id"].clone();
    let id = w.roll_out(json!({"bundle_id": "v1", "template_id": template, "failure_threshold": 0})).await;
    let r = rollout(&w.op, &id).await;
    assert_eq!((&r["batch_size"], &r["failure_threshold"], &r["start"]), (&json!(2), &json!(0), &json!(false)));
    let environments = "/api/v1/projects/p/environments";
    let said =
        json!({"name": "Nobody", "selector": {"labels": {"env": "prod"}}, "settings": {"approval_required": true}});
    let environment = w.op.post(environments, said.clone()).await.expect(201)["environment"].clone();
    assert_eq!(environment["slug"], "nobody");
    is_problem(&w.op.post(environments, said).await, 409, None);
    let id = w.roll_out(json!({"bundle_id": "v1", "environment_id": environment["id"], "start": false})).await;
    assert_eq!(rollout(&w.op, &id).await["progress"]["total"], 0, "no node is in it");
    let both = json!({"bundle_id": "v1", "environment_id": environment["id"], "target_selector": {"type": "all"}});
    is_problem(&w.op.post("/api/v1/projects/p/rollouts", both).await, 422, Some("environment_id"));
    let unknown = json!({"bundle_id": "v1", "template_id": uuid::Uuid::nil()});
    is_problem(&w.op.post("/api/v1/projects/p/rollouts", unknown).await, 422, Some("template_id"));
    w.end().await;
}

async fn a_key_never_approves(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let settings = json!({"settings": {"approval_required": true}});
    w.op.send("PATCH", "/api/v1/projects/p", settings).await.expect(200);
    let _fleet = w.fleet(1, "").await;
    w.bundle("v1").await;
    let id = w.roll_out(json!({"bundle_id": "v1"})).await;
    let r = rollout(&w.op, &id).await;
    assert_eq!((&r["state"], &r["primary"]["code"]), (&json!("pending"), &json!("awaiting_approval")));
    is_problem(&w.op.post(&format!("/api/v1/rollouts/{id}/approve"), json!({})).await, 403, None);
    is_problem(&w.op.post(&format!("/api/v1/rollouts/{id}/reject"), json!({})).await, 422, Some("comment"));
    is_problem(&w.op.post(&format!("/api/v1/rollouts/{id}/start"), json!({})).await, 409, None);
    let a = w.op.get(&format!("/api/v1/rollouts/{id}/approvals")).await.expect(200);
    assert_eq!((&a["approvals"]["needed"], &a["approvals"]["standing"]), (&json!(1), &json!("waiting")));
    w.end().await;
}
