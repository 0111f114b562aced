//! Looking back: the exported log is decided again by the binary, and the report says what happened.

use crate::harness::*;
use bytes::Bytes;
use serde_json::json;
use std::io::Write;
use std::process::{Command, Stdio};

everywhere!(
    an_exported_log_is_decided_again_byte_for_byte,
    a_report_tells_the_timeline_and_groups_the_failures,
    what_changed_lists_rollouts_and_counts_actions,
);

/// Runs the binary over a log; its output, or what it complains of.
pub fn replayed(log: &[u8]) -> Result<String, String> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sentinel-cp"))
        .args(["rollout", "replay", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may refuse before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(log);
    let out = child.wait_with_output().unwrap();
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    if out.status.success() { Ok(text(&out.stdout)) } else { Err(text(&out.stderr)) }
}

const BAD_THREE: &str =
    "[[rule]]\nmatch = [\"n-3\", \"n-4\"]\nfail_on_version = \"bad*\"\nfail_error = \"port 80 in use\"\n";

/// A rollout that pauses over its failures, is accepted, and one that is rolled back.
async fn eventful(w: &World) -> Vec<String> {
    let (good, bad) = (w.bundle("good").await, w.bundle("bad").await);
    let first = w.roll_out(json!({"bundle_id": good["bundle_id"], "batch_size": 4, "ramp": 2.0})).await;
    reaches(&w.op, &first, "completed").await;
    // Both have failed when it pauses: after the first, whoever was not told yet would never be.
    let second = json!({"bundle_id": bad["bundle_id"], "batch_size": 8, "failure_threshold": 1});
    let second = w.roll_out(second).await;
    assert_eq!(reaches(&w.op, &second, "paused").await["progress"]["failed"], 2);
    w.op.post(&format!("/api/v1/rollouts/{second}/resume"), json!({"accept_failed": true})).await.expect(200);
    reaches(&w.op, &second, "completed").await;
    w.op.post(&format!("/api/v1/rollouts/{second}/rollback"), json!({"reason": "on second thoughts"}))
        .await
        .expect(200);
    reaches(&w.op, &second, "rolled_back").await;
    vec![first, second]
}

async fn export(op: &Client, id: &str) -> Bytes {
    let answer = op.get(&format!("/api/v1/rollouts/{id}/export")).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/x-ndjson"));
    answer.bytes
}

async fn an_exported_log_is_decided_again_byte_for_byte(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let fleet = w.fleet(8, BAD_THREE).await;
    for id in eventful(&w).await {
        let log = export(&w.op, &id).await;
        let said = replayed(&log).unwrap();
        let r = rollout(&w.op, &id).await;
        assert!(said.contains("byte for byte") && said.contains(r["state"].as_str().unwrap()), "{said}");
        let decisions = r["version"].as_u64().unwrap();
        assert!(said.contains(&format!("{decisions} decisions")), "{said}");
        // One report less, and what follows is another decision.
        let mut lines: Vec<&[u8]> = log.split_inclusive(|b| *b == b'\n').collect();
        let gone = lines.remove(3);
        let refused = replayed(&lines.concat()).unwrap_err();
        assert!(refused.contains("gap"), "{refused}");
        let changed = String::from_utf8_lossy(gone).replace("\"at\":", "\"at\":1");
        lines.insert(3, changed.as_bytes());
        assert!(replayed(&lines.concat()).is_err());
    }
    fleet.stop().await.unwrap();
    w.end().await;
}

async fn a_report_tells_the_timeline_and_groups_the_failures(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let fleet = w.fleet(8, BAD_THREE).await;
    let (good, bad) = (w.bundle("good").await, w.bundle("bad").await);
    let first = w.roll_out(json!({"bundle_id": good["bundle_id"], "batch_size": 8})).await;
    reaches(&w.op, &first, "completed").await;
    let id = w.roll_out(json!({"bundle_id": bad["bundle_id"], "batch_size": 8, "failure_threshold": 1})).await;
    reaches(&w.op, &id, "paused").await;
    let failures = w.op.get(&format!("/api/v1/rollouts/{id}/failures")).await.expect(200);
    assert_eq!((&failures["total"], &failures["failures"][0]["count"]), (&json!(1), &json!(2)), "{failures:#}");
    assert!(failures["failures"][0]["error"].as_str().unwrap().contains("port 80 in use"), "{failures:#}");
    let report = w.op.get(&format!("/api/v1/rollouts/{id}/report")).await;
    assert_eq!((report.status, report.header("content-type")), (200, "text/markdown; charset=utf-8"));
    let text = String::from_utf8_lossy(&report.bytes).into_owned();
    for part in [
        "# Rollout of bad in p",
        "**paused**",
        "| strategy | rolling in 1 steps |",
        "step 1 started: 8 nodes",
        "paused (gate)",
        "n-3, n-4",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    fleet.stop().await.unwrap();
    w.end().await;
}

async fn what_changed_lists_rollouts_and_counts_actions(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let fleet = w.fleet(2, "").await;
    let good = w.bundle("good").await;
    let id = w.roll_out(json!({"bundle_id": good["bundle_id"], "batch_size": 8})).await;
    reaches(&w.op, &id, "completed").await;
    let path = "/api/v1/projects/p/what-changed?since=";
    let all = w.op.get(&format!("{path}2020-01-01T00:00:00Z")).await.expect(200);
    assert_eq!((&all["rollouts"][0]["id"], &all["rollouts"][0]["state"]), (&json!(id), &json!("completed")), "{all:#}");
    assert_eq!((&all["actions"]["rollout.completed"], &all["complete"]), (&json!(1), &json!(true)), "{all:#}");
    let none = w.op.get(&format!("{path}2100-01-01T00:00:00Z")).await.expect(200);
    assert_eq!((&none["rollouts"], &none["actions"]), (&json!([]), &json!({})), "{none:#}");
    is_problem(&w.op.get("/api/v1/projects/p/what-changed").await, 422, Some("since"));
    is_problem(&w.op.get(&format!("{path}yesterday")).await, 422, Some("since"));
    fleet.stop().await.unwrap();
    w.end().await;
}
