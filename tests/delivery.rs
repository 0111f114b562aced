//! What nodes are told, and what they are kept from: pause, cancel, revocation, limits, late words.

use crate::harness::*;
use serde_json::json;
use std::collections::BTreeSet;

everywhere!(
    a_pause_withholds_what_was_not_handed_over_and_resume_delivers_it,
    a_cancel_tells_a_staged_node_not_to_switch,
    a_revoked_bundle_is_named_no_more_and_cannot_be_downloaded,
    no_more_nodes_than_max_unavailable_are_on_their_way,
    late_and_doubled_reports_are_harmless,
    a_stream_that_cannot_go_on_where_it_was_says_so,
);

async fn a_stream_that_cannot_go_on_where_it_was_says_so(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let stream = "/api/v1/events/stream?project=p";
    let first = async |last: &str| {
        let mut events = w.op.events_after(stream, Some(last)).await;
        tokio::time::timeout(PATIENCE, events.next()).await.unwrap()["kind"].clone()
    };
    // Before all that is kept, and where a restored database has not come yet.
    for lost in ["0-0", "9000000000000-9000000000000", "not a place"] {
        assert_eq!(first(lost).await, "resync", "{lost}");
    }
    let (_, newest) = w.db.store.changes_kept().await.unwrap().unwrap();
    w.op.post("/api/v1/projects/p/enrolment-tokens", json!({"name": "t"})).await.expect(201);
    assert_ne!(first(&newest.to_string()).await, "resync");
    w.end().await;
}

async fn a_pause_withholds_what_was_not_handed_over_and_resume_delivers_it(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let (a, b) = (Hand::register(&w.at, "p", "a").await, Hand::register(&w.at, "p", "b").await);
    let v1 = w.bundle("v1").await;
    let id = w.roll_out(json!({"bundle_id": v1["bundle_id"], "strategy": "all_at_once"})).await;
    let told = a.told().await;
    let paused = w.op.post(&format!("/api/v1/rollouts/{id}/pause"), json!({"reason": "lunch"})).await.expect(200);
    assert_eq!((&paused["changed"], &paused["rollout"]["state"]), (&json!(true), &json!("paused")), "{paused:#}");
    let again = w.op.post(&format!("/api/v1/rollouts/{id}/pause"), json!({})).await.expect(200);
    assert_eq!(again["changed"], false, "{again:#}");
    // `b` was assigned, but never told: it is not told now. `a` may finish.
    for wait in [0, 1] {
        assert_eq!(b.poll(wait).await["no_update"], true);
    }
    a.run(&told).await;
    eventually("a is verified while paused", async || {
        (members(&w.op, &id).await["a"]["state"] == "verified").then_some(())
    })
    .await;
    assert_eq!(members(&w.op, &id).await["b"]["handed_over"], false);
    let parked = tokio::spawn(async move { (b.poll(60).await, b) });
    w.op.post(&format!("/api/v1/rollouts/{id}/resume"), json!({})).await.expect(200);
    let (told, b) = parked.await.unwrap();
    assert_eq!(told["bundle_id"], v1["bundle_id"], "{told:#}");
    b.run(&told).await;
    reaches(&w.op, &id, "completed").await;
    w.end().await;
}

async fn a_cancel_tells_a_staged_node_not_to_switch(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let node = Hand::register(&w.at, "p", "a").await;
    let v1 = w.bundle("v1").await;
    let id = w.roll_out(json!({"bundle_id": v1["bundle_id"]})).await;
    let told = node.told().await;
    let (bundle, body) = (told["bundle_id"].as_str().unwrap(), json!({"generation": told["generation"]}));
    node.report(bundle, "downloaded", body.clone()).await;
    w.op.post(&format!("/api/v1/rollouts/{id}/cancel"), json!({})).await.expect(200);
    let answer = node.report(bundle, "staged", body).await;
    assert_eq!(answer["proceed"], false, "{answer}");
    reaches(&w.op, &id, "cancelled").await;
    assert_eq!(nodes(&w.op, "p").await["a"]["active_bundle_id"], json!(null));
    let refused = w.op.post(&format!("/api/v1/rollouts/{id}/resume"), json!({})).await.expect(409);
    assert!(refused["detail"].as_str().unwrap().contains("cancelled"), "a 409 names the state: {refused:#}");
    w.end().await;
}

async fn a_revoked_bundle_is_named_no_more_and_cannot_be_downloaded(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let (a, b) = (Hand::register(&w.at, "p", "a").await, Hand::register(&w.at, "p", "b").await);
    let v1 = w.bundle("v1").await;
    let id = w.roll_out(json!({"bundle_id": v1["bundle_id"], "batch_size": 2})).await;
    let told = a.told().await;
    let url = told["artifact_url"].as_str().unwrap();
    let stranger = Client::new(&w.at, None);
    let archive = stranger.get(url).await;
    assert_eq!(archive.status, 200);
    assert_eq!(domain::Digest::of(&archive.bytes).prefixed(), told["artifact_hash"].as_str().unwrap());
    assert_eq!(archive.bytes.len() as u64, told["size_bytes"].as_u64().unwrap());
    let part = stranger.raw("GET", url, &[("range", "bytes=10-19")], "".into()).await;
    assert_eq!((part.status, &part.bytes[..]), (206, &archive.bytes[10..20]));
    let same = stranger.raw("GET", url, &[("if-none-match", archive.header("etag"))], "".into()).await;
    assert_eq!(same.status, 304);
    let forged = stranger.get(&url.replace("sig=", "sig=0")).await;
    assert_eq!(forged.status, 403, "{:#}", forged.body);

    let path = format!("/api/v1/projects/p/bundles/{}/revoke", v1["bundle_id"].as_str().unwrap());
    let done = w.op.post(&path, json!({"reason": "leaks"})).await.expect(200);
    assert_eq!((&done["changed"], &done["running_on"]), (&json!(true), &json!(0)), "{done:#}");
    assert_eq!(w.op.post(&path, json!({})).await.expect(200)["changed"], false);
    for node in [&a, &b] {
        let answer = node.poll(0).await;
        assert_eq!(answer["no_update"], true, "{answer:#}");
    }
    assert_eq!(stranger.get(url).await.status, 403, "the URL worked on");
    reaches(&w.op, &id, "failed").await;
    let refused = w.op.post("/api/v1/projects/p/rollouts", json!({"bundle_id": v1["bundle_id"]})).await;
    assert_eq!(refused.status, 409, "{:#}", refused.body);
    // The same content is not compiled again either.
    let body = json!({"version": "v1-again", "config_source": format!("{}\n// v1\n", bundle::samples::DEMO_V1)});
    let refused = w.op.post("/api/v1/projects/p/bundles?wait=30", body).await;
    assert_eq!(refused.status, 409, "{:#}", refused.body);
    w.end().await;
}

async fn no_more_nodes_than_max_unavailable_are_on_their_way(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let fleet = w.fleet(10, "[default]\napply_delay = \"60ms\"\n").await;
    let (v1, v2) = (w.bundle("v1").await, w.bundle("v2").await);
    // The first configuration is exempt: nothing is served yet that could become unavailable.
    let first = w.roll_out(json!({"bundle_id": v1["bundle_id"], "batch_size": 10})).await;
    reaches(&w.op, &first, "completed").await;
    let body = json!({"bundle_id": v2["bundle_id"], "batch_size": 5, "max_unavailable": 2});
    let id = w.roll_out(body).await;
    let (mut most, mut looks) = (0, 0);
    eventually("the rollout is completed", async || {
        let r = rollout(&w.op, &id).await;
        most = most.max(r["progress"]["assigned"].as_u64().unwrap());
        looks += 1;
        (r["state"] == "completed").then_some(())
    })
    .await;
    assert!((1..=2).contains(&most), "up to {most} nodes were on their way in {looks} looks");
    // The stored events tell what no look may have caught: how many were on their way after each commit.
    let generations: BTreeSet<u64> =
        members(&w.op, &id).await.values().map(|m| m["generation"].as_u64().unwrap()).collect();
    assert_eq!(generations, BTreeSet::from([2]), "each node was assigned once");
    fleet.stop().await.unwrap();
    w.end().await;
}

async fn late_and_doubled_reports_are_harmless(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let fleet = w.fleet(5, "[default]\nduplicate_reports = true\nlate_reports = \"30ms\"\n").await;
    let (v1, v2) = (w.bundle("v1").await, w.bundle("v2").await);
    let node = Hand::register(&w.at, "p", "hand").await;
    let first = w.roll_out(json!({"bundle_id": v1["bundle_id"], "batch_size": 6})).await;
    let told = node.told().await;
    node.run(&told).await;
    reaches(&w.op, &first, "completed").await;
    let (bundle, old) = (told["bundle_id"].as_str().unwrap(), json!({"generation": told["generation"]}));
    for what in ["downloaded", "activated", "staged", "verified"] {
        node.report(bundle, what, old.clone()).await;
        assert_eq!(members(&w.op, &first).await["hand"]["state"], "verified", "after another {what}");
    }
    let second = w.roll_out(json!({"bundle_id": v2["bundle_id"], "batch_size": 6})).await;
    let next = node.told().await;
    // Told by each instance: each knows then that the generation before is over.
    for url in w.at.all() {
        let here = Hand { http: Client::node(url, &node.key), id: node.id.clone(), key: node.key.clone() };
        assert_eq!(here.told().await["bundle_id"], v2["bundle_id"]);
    }
    // Words about the generation before change nothing, and are told so.
    for what in ["activated", "failed"] {
        let answer = node.report(bundle, what, old.clone()).await;
        assert_eq!(answer["stale"], true, "{what}: {answer}");
    }
    assert_eq!(members(&w.op, &second).await["hand"]["state"], "assigned");
    // A bundle that does not exist.
    let unknown = node.http.post(&node.report_path(&"ab".repeat(32), "activated"), json!({})).await;
    assert_eq!(unknown.status, 404, "{:#}", unknown.body);
    node.run(&next).await;
    let r = reaches(&w.op, &second, "completed").await;
    assert_eq!(r["progress"]["verified"], 6, "{r:#}");
    fleet.stop().await.unwrap();
    w.end().await;
}
