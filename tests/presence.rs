//! Nodes that are away, silent, late, or say little.

use crate::harness::*;
use serde_json::json;

everywhere!(
    a_node_that_only_heartbeats_completes_a_rollout,
    an_offline_node_is_owed_and_gets_the_bundle_when_it_returns,
    a_node_that_dies_after_hand_over_is_lost_and_counts_as_failed,
    a_node_that_registers_later_gets_its_bundle_at_its_first_poll,
    many_nodes_that_enrol_at_once_after_a_rollout_all_get_its_bundle,
    a_gate_without_data_never_advances,
    what_a_node_measures_on_a_foreign_configuration_is_no_evidence,
    a_parked_poll_wakes_when_an_assignment_is_made,
    a_node_that_says_not_now_is_owed_and_gets_the_bundle_when_it_is_free,
    a_clock_that_is_wrong_is_shown_and_explained_and_decides_nothing,
);

/// Its nodes beat once a second, and may be heard by two instances in turn: a late one is not away yet.
const BRISK: i64 = 4;

fn brisk() -> Options {
    Options { stale_after: BRISK, ..Options::default() }
}

async fn a_node_that_only_heartbeats_completes_a_rollout(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let node = Hand::register(&w.at, "p", "quiet").await;
    let b = w.bundle("v1").await;
    let id = w.roll_out(json!({"bundle_id": b["bundle_id"]})).await;
    assert_eq!(node.told().await["bundle_id"], b["bundle_id"]);
    eventually("the rollout of a node that only heartbeats is completed", async || {
        node.beat(json!({"active_bundle_id": b["bundle_id"]})).await;
        (rollout(&w.op, &id).await["state"] == "completed").then_some(())
    })
    .await;
    assert_eq!(members(&w.op, &id).await["quiet"]["state"], "verified");
    w.end().await;
}

async fn what_a_node_measures_on_a_foreign_configuration_is_no_evidence(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let node = Hand::register(&w.at, "p", "swapped").await;
    let b = w.bundle("v1").await;
    let id = w.roll_out(json!({"bundle_id": b["bundle_id"], "min_healthy_seconds": 1})).await;
    assert_eq!(node.told().await["bundle_id"], b["bundle_id"]);
    let healthy = |bundle: &str| json!({"active_bundle_id": bundle, "health": {"status": "healthy"}});
    let (ours, foreign) = (b["bundle_id"].as_str().unwrap(), "ab".repeat(32));
    node.beat(healthy(ours)).await;
    // Somebody put another configuration in place: twice the soak, well and counted for nothing.
    let begun = std::time::Instant::now();
    while begun.elapsed() < std::time::Duration::from_secs(2) {
        node.beat(healthy(&foreign)).await;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_ne!(members(&w.op, &id).await["swapped"]["state"], "verified");
    eventually("it is verified by what it was sent", async || {
        node.beat(healthy(ours)).await;
        (members(&w.op, &id).await["swapped"]["state"] == "verified").then_some(())
    })
    .await;
    w.end().await;
}

async fn an_offline_node_is_owed_and_gets_the_bundle_when_it_returns(ground: Ground) {
    let w = World::on(ground, brisk()).await;
    let fleet = w.fleet(4, "").await;
    let b = w.bundle("v1").await;
    fleet.go_offline("n-2").unwrap();
    eventually("n-2 is offline", async || (nodes(&w.op, "p").await["n-2"]["status"] == "offline").then_some(())).await;
    let id = w.roll_out(json!({"bundle_id": b["bundle_id"], "batch_size": 1})).await;
    let r = reaches(&w.op, &id, "completed").await;
    assert_eq!((r["progress"]["verified"].as_u64(), r["progress"]["owed"].as_u64()), (Some(3), Some(1)), "{r:#}");
    fleet.come_back("n-2").unwrap();
    all_run(&w.op, "p", &["n-2"], &b["bundle_id"]).await;
    eventually("the debt is paid", async || {
        let r = rollout(&w.op, &id).await;
        (r["progress"]["verified"] == 4 && r["progress"]["owed"] == 0).then_some(())
    })
    .await;
    assert_eq!(rollout(&w.op, &id).await["state"], "completed");
    fleet.stop().await.unwrap();
    w.end().await;
}

async fn a_node_that_dies_after_hand_over_is_lost_and_counts_as_failed(ground: Ground) {
    let w = World::on(ground, brisk()).await;
    let script = "[[rule]]\nmatch = \"n-2\"\ndie_after_handover = true\n";
    let fleet = w.fleet(3, script).await;
    let b = w.bundle("v1").await;
    let id = w.roll_out(json!({"bundle_id": b["bundle_id"], "batch_size": 1})).await;
    let r = reaches(&w.op, &id, "paused").await;
    let who = members(&w.op, &id).await;
    assert_eq!((&who["n-2"]["state"], &who["n-2"]["reason"]), (&json!("failed"), &json!("lost")), "{who:#?}");
    assert_eq!((&r["progress"]["owed"], &who["n-3"]["state"]), (&json!(0), &json!("pending")), "{r:#}");
    assert_eq!(who["n-1"]["state"], "verified");
    fleet.stop().await.unwrap();
    w.end().await;
}

async fn a_node_that_registers_later_gets_its_bundle_at_its_first_poll(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let first = Hand::register(&w.at, "p", "first").await;
    let b = w.bundle("v1").await;
    let id = w.roll_out(json!({"bundle_id": b["bundle_id"]})).await;
    first.run(&first.told().await).await;
    reaches(&w.op, &id, "completed").await;
    let late = Hand::register(&w.at, "p", "late").await;
    let told = late.poll(0).await;
    assert_eq!(told["bundle_id"], b["bundle_id"], "{told:#}");
    late.run(&told).await;
    eventually("the late node is verified", async || {
        (nodes(&w.op, "p").await["late"]["verified_bundle_id"] == b["bundle_id"]).then_some(())
    })
    .await;
    w.end().await;
}

async fn many_nodes_that_enrol_at_once_after_a_rollout_all_get_its_bundle(ground: Ground) {
    const NEWCOMERS: u32 = 60;
    let w = World::on(ground, Options::default()).await;
    let first = w.fleet(2, "").await;
    let b = w.bundle("v1").await;
    let id = w.roll_out(json!({"bundle_id": b["bundle_id"], "batch_size": 2})).await;
    reaches(&w.op, &id, "completed").await;
    let more = fleet_from(&w.at, "p", 3, NEWCOMERS, sim::Behaviour::default(), "").await;
    eventually("every newcomer is verified on the bundle of the completed rollout", async || {
        let all = nodes(&w.op, "p").await;
        let done = all.values().filter(|n| n["verified_bundle_id"] == b["bundle_id"]).count();
        (done == NEWCOMERS as usize + 2).then_some(())
    })
    .await;
    first.stop().await.unwrap();
    more.stop().await.unwrap();
    w.end().await;
}

async fn a_gate_without_data_never_advances(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let fleet = w.fleet(3, "[default]\nsends_metrics = false\n").await;
    let b = w.bundle("v1").await;
    let id = w
        .roll_out(json!({
            "bundle_id": b["bundle_id"], "batch_size": 1, "health_gates": {"max_error_rate": 5.0},
            "progress_deadline_seconds": 3, "on_failure": "fail",
        }))
        .await;
    let r = reaches(&w.op, &id, "failed").await;
    let who = members(&w.op, &id).await;
    assert_eq!((&who["n-1"]["state"], &who["n-1"]["reason"]), (&json!("failed"), &json!("deadline")), "{who:#?}");
    assert_eq!((&r["progress"]["verified"], &r["progress"]["failed"]), (&json!(0), &json!(1)), "{r:#}");
    fleet.stop().await.unwrap();
    w.end().await;
}

async fn a_parked_poll_wakes_when_an_assignment_is_made(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let node = Hand::register(&w.at, "p", "waiting").await;
    let poll = tokio::spawn(async move { (node.poll(60).await, tokio::time::Instant::now()) });
    let b = w.bundle("v1").await;
    w.roll_out(json!({"bundle_id": b["bundle_id"]})).await;
    let made = tokio::time::Instant::now();
    let (told, woken) = poll.await.unwrap();
    assert_eq!(told["bundle_id"], b["bundle_id"], "{told:#}");
    let took = woken.saturating_duration_since(made);
    assert!(took < std::time::Duration::from_secs(5), "woken {took:?} after the assignment: by its own end, not by it");
    w.end().await;
}

async fn a_node_that_says_not_now_is_owed_and_gets_the_bundle_when_it_is_free(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let fleet = w.fleet(2, "").await;
    let busy = Hand::register(&w.at, "p", "busy").await;
    let told = busy.beat(json!({"busy_until": "2999-01-01T00:00:00Z"})).await;
    assert_eq!(told["status"], "ok", "{told:#}");
    let shown = nodes(&w.op, "p").await["busy"].clone();
    assert!(shown["busy_until"].as_str().is_some_and(|t| t < "2900"), "a maximum, not what it asked for: {shown:#}");
    let b = w.bundle("v1").await;
    let id = w.roll_out(json!({"bundle_id": b["bundle_id"], "batch_size": 3})).await;
    let r = reaches(&w.op, &id, "completed").await;
    assert_eq!((&r["progress"]["verified"], &r["progress"]["owed"]), (&json!(2), &json!(1)), "{r:#}");
    let path = format!("/api/v1/projects/p/nodes/{}/explain", shown["id"].as_str().unwrap());
    let why = w.op.get(&path).await.expect(200);
    let codes: Vec<&str> = why["causes"].as_array().unwrap().iter().filter_map(|c| c["code"].as_str()).collect();
    assert!(why["primary"]["code"] == "owed" && codes.contains(&"busy"), "{why:#}");
    assert_eq!(busy.poll(0).await["no_update"], true);
    busy.beat(json!({})).await;
    busy.run(&busy.told().await).await;
    eventually("the debt is paid", async || {
        let r = rollout(&w.op, &id).await;
        (r["progress"]["verified"] == 3 && r["progress"]["owed"] == 0).then_some(())
    })
    .await;
    fleet.stop().await.unwrap();
    w.end().await;
}

async fn a_clock_that_is_wrong_is_shown_and_explained_and_decides_nothing(ground: Ground) {
    // Written with the last-seen time: every quarter of this.
    let w = World::on(ground, Options { stale_after: 8, ..Options::default() }).await;
    let fleet = w.fleet(2, "[[rule]]\nmatch = \"n-1\"\nclock_skew = -600.0\n").await;
    let b = w.bundle("v1").await;
    let id = w.roll_out(json!({"bundle_id": b["bundle_id"], "min_healthy_seconds": 1})).await;
    let r = reaches(&w.op, &id, "completed").await;
    assert_eq!(r["progress"]["verified"], 2, "{r:#}");
    let about = |n: &serde_json::Value| format!("/api/v1/projects/p/nodes/{}", n["id"].as_str().unwrap());
    for (name, least, most, is_warned) in [("n-1", -605_000, -599_000, true), ("n-2", -4_000, 0, false)] {
        let n = eventually("the skew is known", async || {
            let n = nodes(&w.op, "p").await[name].clone();
            n["clock_skew_ms"].as_i64().is_some_and(|ms| (least..=most).contains(&ms)).then_some(n)
        })
        .await;
        let why = w.op.get(&format!("{}/explain", about(&n))).await.expect(200);
        assert_eq!(why["primary"]["code"], "desired", "{why:#}");
        let warned = why["causes"].as_array().unwrap().iter().any(|c| c["code"] == "clock_skew");
        assert_eq!(warned, is_warned, "{why:#}");
    }
    fleet.stop().await.unwrap();
    w.end().await;
}
