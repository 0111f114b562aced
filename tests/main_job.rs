//! The main job: enrol, submit, compile, roll out in batches, download, verify, activate, report, complete; and what a bad node does to it.

use crate::harness::*;
use serde_json::json;
use sim::FleetConfig;
use sim::transport::HttpOptions;

everywhere!(
    a_fleet_enrolled_by_token_is_brought_to_a_bundle_in_batches,
    a_failing_node_pauses_a_rollout_until_someone_decides,
    a_failing_node_fails_a_rollout_that_shall_fail,
    a_rollback_takes_every_node_to_its_own_previous_bundle,
    all_at_once_is_one_step,
);

async fn a_fleet_enrolled_by_token_is_brought_to_a_bundle_in_batches(ground: Ground) {
    let w = World::empty(ground, Options::default()).await;
    let op = w.op.clone();
    op.post("/api/v1/projects", json!({"name": "Closed", "slug": "p"})).await.expect(201);
    let stranger = Client::new(&w.at, None);
    stranger.post("/api/v1/projects/p/nodes/register", json!({"name": "x"})).await.expect(401);
    let body = json!({"name": "edge", "max_uses": 20, "expires_in_seconds": 600, "labels": {"env": "prod"}});
    let made = op.post("/api/v1/projects/p/enrolment-tokens", body).await.expect(201);

    let config = FleetConfig {
        project: "p".into(),
        token: Some(made["token"].as_str().unwrap().into()),
        nodes: 20,
        name_prefix: "n-".into(),
        ..FleetConfig::default()
    };
    assert!(config.profile.verify, "the nodes of this test check what they are given");
    let calls = transport(&w.at, HttpOptions::default());
    let fleet = sim::Fleet::start(config, calls).await.unwrap();
    online(&op, "p", 20).await;
    assert!(nodes(&op, "p").await.values().all(|n| n["labels"]["env"] == "prod" && n["standing"] == "adopted"));

    let path = "/api/v1/projects/p/desired_config";
    let config = op.post(path, json!({"config_kdl": bundle::samples::DEMO_V1})).await.expect(201);
    let body = json!({"desired_config_id": config["desired_config_id"], "version": "v1"});
    let b = op.post("/api/v1/projects/p/compile?wait=30", body).await.expect(200)["bundle"].clone();
    assert_eq!(b["status"], "compiled", "{b:#}");
    let checked = op.get("/api/v1/projects/p/bundles/v1/verify").await.expect(200);
    assert_eq!(checked["valid"], true, "{checked:#}");

    let id = roll_out(&op, "p", json!({"bundle_id": b["bundle_id"], "batch_size": 5})).await;
    let r = reaches(&op, &id, "completed").await;
    assert_eq!((r["progress"]["verified"].as_u64(), r["step_count"].as_u64()), (Some(20), Some(4)), "{r:#}");
    let steps = r["steps"].as_array().unwrap();
    for pair in steps.windows(2) {
        let (ended, began) = (pair[0]["completed_at"].as_str().unwrap(), pair[1]["started_at"].as_str().unwrap());
        assert!(ended <= began, "a step began at {began}, the one before it ended at {ended}");
    }
    assert!(nodes(&op, "p").await.values().all(|n| n["verified_bundle_id"] == b["bundle_id"]));
    let report = fleet.stop().await.unwrap();
    assert_eq!(
        (report.count("activated"), report.count("refused"), report.count("downloads")),
        (20, 0, 20),
        "{report}"
    );

    let audit = op.get("/api/v1/projects/p/audit_logs?limit=500").await.expect(200);
    let count = |action: &str| audit["audit_logs"].as_array().unwrap().iter().filter(|e| e["action"] == action).count();
    assert_eq!(
        (count("rollout.started"), count("rollout_step.started"), count("rollout.completed")),
        (1, 4, 1),
        "{audit:#}"
    );
    assert_eq!(count("bundle.compiled"), 1);
    w.end().await;
}

const BAD_SEVEN: &str = "[[rule]]\nmatch = \"n-7\"\nfail_on_version = \"bad*\"\n";

async fn a_failing_node_pauses_a_rollout_until_someone_decides(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let fleet = w.fleet(8, BAD_SEVEN).await;
    let (good, bad) = (w.bundle("good").await, w.bundle("bad").await);
    let first = w.roll_out(json!({"bundle_id": good["bundle_id"], "batch_size": 4})).await;
    reaches(&w.op, &first, "completed").await;

    let id = w.roll_out(json!({"bundle_id": bad["bundle_id"], "batch_size": 4})).await;
    let r = reaches(&w.op, &id, "paused").await;
    assert_eq!((&r["causes"], &r["progress"]["failed"]), (&json!(["gate"]), &json!(1)), "{r:#}");
    let path = format!("/api/v1/rollouts/{id}/resume");
    let refused = w.op.post(&path, json!({})).await.expect(409);
    assert!(refused["detail"].as_str().unwrap().contains("retry"), "{refused:#}");
    w.op.post(&path, json!({"retry": true, "accept_failed": true})).await.expect(422);
    w.op.post(&path, json!({"retry": true})).await.expect(200);
    // It fails again, as a second attempt.
    eventually("the second attempt failed", async || {
        let m = members(&w.op, &id).await["n-7"].clone();
        (m["attempt"] == 2 && m["state"] == "failed").then_some(())
    })
    .await;
    reaches(&w.op, &id, "paused").await;
    let done = w.op.post(&path, json!({"accept_failed": true})).await.expect(200);
    assert_eq!(done["changed"], true);
    let r = reaches(&w.op, &id, "completed").await;
    assert_eq!((r["progress"]["verified"].as_u64(), r["progress"]["failed"].as_u64()), (Some(7), Some(1)), "{r:#}");
    // A tolerated failed node is returned to what it last verified.
    all_run(&w.op, "p", &["n-7"], &good["bundle_id"]).await;
    fleet.stop().await.unwrap();
    w.end().await;
}

async fn a_failing_node_fails_a_rollout_that_shall_fail(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let fleet = w.fleet(8, BAD_SEVEN).await;
    let (good, bad) = (w.bundle("good").await, w.bundle("bad").await);
    let first = w.roll_out(json!({"bundle_id": good["bundle_id"], "batch_size": 8})).await;
    reaches(&w.op, &first, "completed").await;
    let body = json!({"bundle_id": bad["bundle_id"], "batch_size": 4, "on_failure": "fail"});
    let id = w.roll_out(body).await;
    reaches(&w.op, &id, "failed").await;
    let member = members(&w.op, &id).await["n-7"].clone();
    assert_eq!((&member["state"], &member["reason"]), (&json!("failed"), &json!("reported")), "{member:#}");
    // Nobody is left desired on a bundle that it has not verified.
    eventually("every node is desired on what it verified", async || {
        nodes(&w.op, "p").await.values().all(|n| n["desired_bundle_id"] == n["verified_bundle_id"]).then_some(())
    })
    .await;
    all_run(&w.op, "p", &["n-7"], &good["bundle_id"]).await;
    fleet.stop().await.unwrap();
    w.end().await;
}

async fn a_rollback_takes_every_node_to_its_own_previous_bundle(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let fleet = w.fleet(8, BAD_SEVEN).await;
    let (a, b, bad) = (w.bundle("a").await, w.bundle("b").await, w.bundle("bad").await);
    let ids = nodes(&w.op, "p").await;
    let (left, right): (Vec<_>, Vec<_>) =
        ids.iter().partition(|(name, _)| ["n-1", "n-3", "n-7"].contains(&name.as_str()));
    for (bundle, side) in [(&a, &left), (&b, &right)] {
        let chosen: Vec<_> = side.iter().map(|(_, n)| n["id"].clone()).collect();
        let selector = json!({"type": "node_ids", "node_ids": chosen});
        let body = json!({"bundle_id": bundle["bundle_id"], "batch_size": 8, "target_selector": selector});
        let id = w.roll_out(body).await;
        let r = reaches(&w.op, &id, "completed").await;
        assert_eq!(r["progress"]["total"].as_u64(), Some(side.len() as u64), "{r:#}");
    }
    let id = w.roll_out(json!({"bundle_id": bad["bundle_id"], "batch_size": 2, "on_failure": "rollback"})).await;
    let r = reaches(&w.op, &id, "rolled_back").await;
    assert_eq!(r["progress"]["rollback_failed"], 0, "{r:#}");
    for (bundle, side) in [(&a, &left), (&b, &right)] {
        let names: Vec<&str> = side.iter().map(|(name, _)| name.as_str()).collect();
        all_run(&w.op, "p", &names, &bundle["bundle_id"]).await;
    }
    // What was taken back by itself is not rolled out again just like that.
    let again = w.op.post("/api/v1/projects/p/rollouts", json!({"bundle_id": bad["bundle_id"]})).await.expect(409);
    assert_eq!(again["code"], "bundle_rolled_back", "{again:#}");
    fleet.stop().await.unwrap();
    w.end().await;
}

async fn all_at_once_is_one_step(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let fleet = w.fleet(10, "").await;
    let b = w.bundle("v1").await;
    let body = json!({"bundle_id": b["id"], "strategy": "all_at_once"});
    let plan = w.op.post("/api/v1/projects/p/rollouts/plan", body.clone()).await.expect(200);
    let id = w.roll_out(body).await;
    let r = reaches(&w.op, &id, "completed").await;
    assert_eq!((r["step_count"].as_u64(), r["progress"]["verified"].as_u64()), (Some(1), Some(10)), "{r:#}");
    assert_eq!(plan["steps"].as_array().unwrap().len(), 1, "{plan:#}");
    assert_eq!(plan["estimated_duration_seconds"], 10, "one wave, at an assumed pace: {plan:#}");
    let soaking = json!({"bundle_id": b["id"], "batch_size": 5, "min_healthy_seconds": 60});
    let plan = w.op.post("/api/v1/projects/p/rollouts/plan", soaking).await.expect(200);
    assert!(plan["estimate_basis"].as_str().unwrap().starts_with("1 earlier steps took"), "{plan:#}");
    let took = plan["estimated_duration_seconds"].as_i64().unwrap();
    assert!((120..180).contains(&took), "two waves of the soak and what the first one took: {plan:#}");
    fleet.stop().await.unwrap();
    w.end().await;
}
