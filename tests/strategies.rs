//! Strategies end to end: a canary compared on the traffic its nodes report, a blue-green rollout whose weights reach the nodes.

use crate::harness::*;
use serde_json::{Value, json};

everywhere!(
    a_canary_is_promoted_by_its_traffic,
    a_canary_that_serves_errors_is_rolled_back,
    traffic_is_shifted_to_the_standby_half_and_then_the_other_follows,
    a_swap_is_immediate_and_a_cancelled_shift_leaves_full_weights,
    an_outage_that_only_error_rates_show_does_not_take_an_innocent_change_back,
    a_change_whose_nodes_alone_serve_errors_is_taken_back,
);

/// Enough traffic for an analysis within seconds, and a version that serves errors while its nodes call themselves healthy.
const BUSY: &str = "[[rule]]\nmatch = \"*\"\nrequests_per_second = 200.0\nerror_rate = 1.0\n\
                    with_bundle = [{ version = \"worse\", error_rate = 40.0 }]\n";

/// The looks of an analysis, from the audit log, oldest first.
async fn outcomes(op: &Client) -> Vec<String> {
    let audit = op.get("/api/v1/projects/p/audit_logs?limit=500&action=rollout_step.analysed").await.expect(200);
    let entries = audit["audit_logs"].as_array().unwrap().iter().rev();
    entries.map(|e| e["changes"]["look"]["outcome"].as_str().unwrap().to_string()).collect()
}

fn canary(bundle: &Value, on_failure: &str) -> Value {
    json!({
        "bundle_id": bundle["bundle_id"], "strategy": "canary", "on_failure": on_failure, "health_gates": {"heartbeat_healthy": true},
        "canary": {"steps": [25], "min_samples": 400, "confidence_level": 0.99}
    })
}

async fn a_canary_is_promoted_by_its_traffic(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let fleet = w.fleet(8, BUSY).await;
    let (v1, v2) = (w.bundle("v1").await, w.bundle("v2").await);
    let first = w.roll_out(canary(&v1, "pause")).await;
    reaches(&w.op, &first, "completed").await;
    assert_eq!(outcomes(&w.op).await, ["no_baseline"], "nobody ran anything before");

    // Equal bundles are called worse once in a hundred rollouts at 0.99: here nobody is to be called so by chance.
    let mut equal = canary(&v2, "pause");
    equal["canary"]["confidence_level"] = json!(0.999_999);
    let id = w.roll_out(equal).await;
    let r = reaches(&w.op, &id, "completed").await;
    assert_eq!((r["step_count"].as_u64(), r["progress"]["verified"].as_u64()), (Some(2), Some(8)), "{r:#}");
    let said = outcomes(&w.op).await;
    assert_eq!(said.last().map(String::as_str), Some("promote"), "{said:?}");
    let look = &r["analysis"]["last"];
    assert!(look["canary"]["requests"].as_u64() >= Some(400), "{look:#}");
    // Whoever has counted by then: the last look comes with the requests, whichever of the old ones served them.
    assert!((1..=6).contains(&look["baseline"]["nodes"].as_u64().unwrap()), "{look:#}");
    assert!(look["baseline"]["requests"].as_u64() >= Some(400), "{look:#}");
    fleet.stop().await.unwrap();
    w.end().await;
}

async fn a_canary_that_serves_errors_is_rolled_back(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let fleet = w.fleet(8, BUSY).await;
    let (good, worse) = (w.bundle("good").await, w.bundle("worse").await);
    let first = w.roll_out(json!({"bundle_id": good["bundle_id"], "strategy": "all_at_once"})).await;
    reaches(&w.op, &first, "completed").await;
    let id = w.roll_out(canary(&worse, "rollback")).await;
    let r = reaches(&w.op, &id, "rolled_back").await;
    assert_eq!(r["progress"]["rolled_back"], 2, "{r:#}");
    let said = outcomes(&w.op).await;
    assert_eq!(said.last().map(String::as_str), Some("worse"), "{said:?}");
    let names: Vec<String> = (1..=8).map(|i| format!("n-{i}")).collect();
    all_run(&w.op, "p", &names.iter().map(String::as_str).collect::<Vec<_>>(), &good["bundle_id"]).await;
    fleet.stop().await.unwrap();
    w.end().await;
}

/// Names of the nodes of a step, and the weights they are told.
async fn weights(op: &Client, id: &str, step: u64) -> Vec<u64> {
    let all = members(op, id).await;
    let of = all.values().filter(|m| m["step_index"] == step);
    of.map(|m| m["traffic_weight"].as_u64().unwrap()).collect()
}

async fn traffic_at(op: &Client, id: &str, weight: u64) {
    eventually(&format!("the standby half serves {weight} %"), async || {
        let r = rollout(op, id).await;
        let taken = r["traffic"]["weight"] == weight && r["traffic"]["waiting"] == 0;
        (taken || r["current_step"].as_u64() > Some(0)).then_some(())
    })
    .await;
}

fn blue_green(bundle: &Value) -> Value {
    json!({"bundle_id": bundle["bundle_id"], "strategy": "blue_green", "blue_green": {"traffic_steps": [20, 100]}})
}

async fn traffic_is_shifted_to_the_standby_half_and_then_the_other_follows(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let fleet = w.fleet(4, "").await;
    let (v1, v2) = (w.bundle("v1").await, w.bundle("v2").await);
    let first = w.roll_out(json!({"bundle_id": v1["bundle_id"], "strategy": "all_at_once"})).await;
    reaches(&w.op, &first, "completed").await;

    let id = w.roll_out(blue_green(&v2)).await;
    traffic_at(&w.op, &id, 20).await;
    let r = rollout(&w.op, &id).await;
    assert_eq!((&r["primary"]["code"], &r["traffic"]["weight"]), (&json!("traffic"), &json!(20)), "{r:#}");
    assert_eq!((weights(&w.op, &id, 0).await, weights(&w.op, &id, 1).await), (vec![20, 20], vec![100, 100]));
    let shown = nodes(&w.op, "p").await;
    assert_eq!(shown.values().filter(|n| n["traffic_weight"] == 20).count(), 2);
    let path = format!("/api/v1/rollouts/{id}/advance-traffic");
    let shifted = w.op.post(&path, json!({})).await;
    assert_eq!(entries_of(&w.db.store, &shifted).await, ["rollout.traffic_shifted"]);
    assert_eq!(shifted.expect(200)["changed"], true);
    let r = reaches(&w.op, &id, "completed").await;
    assert_eq!(r["progress"]["verified"], 4, "{r:#}");
    assert!(nodes(&w.op, "p").await.values().all(|n| n["traffic_weight"] == 100));
    w.op.post(&path, json!({})).await.expect(409);
    fleet.stop().await.unwrap();
    w.end().await;
}

async fn a_swap_is_immediate_and_a_cancelled_shift_leaves_full_weights(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let fleet = w.fleet(4, "").await;
    let (v1, v2) = (w.bundle("v1").await, w.bundle("v2").await);
    let first = w.roll_out(json!({"bundle_id": v1["bundle_id"], "strategy": "all_at_once"})).await;
    reaches(&w.op, &first, "completed").await;
    let id = w.roll_out(blue_green(&v2)).await;
    traffic_at(&w.op, &id, 20).await;
    w.op.post(&format!("/api/v1/rollouts/{id}/cancel"), json!({})).await.expect(200);
    assert!(nodes(&w.op, "p").await.values().all(|n| n["traffic_weight"] == 100));

    let back = w.roll_out(json!({"bundle_id": v1["bundle_id"], "strategy": "all_at_once", "allow_failed": true})).await;
    reaches(&w.op, &back, "completed").await;
    let id = w.roll_out(blue_green(&v2)).await;
    traffic_at(&w.op, &id, 20).await;
    let swapped = w.op.post(&format!("/api/v1/rollouts/{id}/swap-slot"), json!({})).await;
    assert_eq!(entries_of(&w.db.store, &swapped).await, ["rollout.traffic_shifted"]);
    let swapped = swapped.expect(200);
    assert_eq!(swapped["rollout"]["traffic"]["weight"], 100, "{swapped:#}");
    reaches(&w.op, &id, "completed").await;
    fleet.stop().await.unwrap();
    w.end().await;
}

/// Every node serves errors, whatever it runs, and calls itself healthy: something that they share is down.
const OUTAGE: &str = "[[rule]]\nmatch = \"*\"\nrequests_per_second = 200.0\nerror_rate = 60.0\n";

/// Judged by its error rate, and taken back by itself.
fn gated(bundle: &Value) -> Value {
    json!({
        "bundle_id": bundle["bundle_id"], "batch_size": 2, "on_failure": "rollback", "fail_after_seconds": 1, "on_no_traffic": "hold",
        "health_gates": {"heartbeat_healthy": true, "max_error_rate": 5.0}
    })
}

async fn an_outage_that_only_error_rates_show_does_not_take_an_innocent_change_back(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let fleet = w.fleet(6, OUTAGE).await;
    let v1 = w.bundle("v1").await;
    let first = w.roll_out(json!({"bundle_id": v1["bundle_id"], "strategy": "all_at_once"})).await;
    reaches(&w.op, &first, "completed").await;
    // The answer is waited for 15 s: a machine that is held up for longer takes the change back, and is asked again.
    let mut tries = 0;
    let (id, r) = loop {
        tries += 1;
        let innocent = w.bundle(&format!("innocent-{tries}")).await;
        let id = w.roll_out(gated(&innocent)).await;
        let r = eventually("it is paused or taken back", async || {
            let r = rollout(&w.op, &id).await;
            matches!(r["state"].as_str(), Some("paused" | "rolled_back")).then_some(r)
        })
        .await;
        if r["state"] == "paused" || tries == 3 {
            break (id, r);
        }
    };
    assert_eq!(r["primary"]["code"], "fleet_wide", "{r:#}");
    assert!(r["primary"]["text"].as_str().unwrap().contains("untouched nodes fail the gates too"), "{r:#}");
    let states: Vec<String> = members(&w.op, &id).await.values().map(|m| m["state"].to_string()).collect();
    assert_eq!(states.iter().filter(|s| s.contains("roll")).count(), 0, "nobody was taken back: {states:?}");
    fleet.stop().await.unwrap();
    w.end().await;
}

async fn a_change_whose_nodes_alone_serve_errors_is_taken_back(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let fleet = w.fleet(6, BUSY).await;
    let (good, worse) = (w.bundle("good").await, w.bundle("worse").await);
    let first = w.roll_out(json!({"bundle_id": good["bundle_id"], "strategy": "all_at_once"})).await;
    reaches(&w.op, &first, "completed").await;
    let id = w.roll_out(gated(&worse)).await;
    let r = reaches(&w.op, &id, "rolled_back").await;
    assert_eq!(r["progress"]["rolled_back"], 2, "{r:#}");
    let names: Vec<String> = (1..=6).map(|i| format!("n-{i}")).collect();
    all_run(&w.op, "p", &names.iter().map(String::as_str).collect::<Vec<_>>(), &good["bundle_id"]).await;
    fleet.stop().await.unwrap();
    w.end().await;
}
