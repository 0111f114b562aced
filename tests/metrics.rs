//! What `/metrics` says of a server that did something: the names of INTERFACE.md section 7.

use crate::harness::*;
use crate::program::Program;
use serde_json::json;

const NAMES: [&str; 17] = [
    "sentinel_cp_http_request_duration_seconds",
    "sentinel_cp_nodes",
    "sentinel_cp_node_sessions",
    "sentinel_cp_heartbeats_total",
    "sentinel_cp_polls_total",
    "sentinel_cp_rollouts",
    "sentinel_cp_rollout_decision_seconds",
    "sentinel_cp_rollout_propagation_seconds",
    "sentinel_cp_sweep_corrections_total",
    "sentinel_cp_bundles_total",
    "sentinel_cp_compile_duration_seconds",
    "sentinel_cp_actor_restarts_total",
    "sentinel_cp_actor_mailbox_depth",
    "sentinel_cp_db_op_seconds",
    "sentinel_cp_db_retries_total",
    "sentinel_cp_storage_op_seconds",
    "sentinel_cp_audit_entries_total",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_finished_a_rollout_has_every_metric_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::serve(dir.path(), &[("SENTINEL_CP_BOOTSTRAP_API_KEY", KEY)]).await;
    let op = Client::new(&program.url, Some(KEY));
    let settings = json!({"open_registration": true, "adopt_on_registration": true});
    op.post("/api/v1/projects", json!({"name": "p", "slug": "p", "settings": settings})).await.expect(201);
    let node = Hand::register(&program.url, "p", "n").await;
    let b = compile(&op, "p", "v1", bundle::samples::DEMO_V1).await;
    let order = json!({"bundle_id": b["bundle_id"]});
    let id = op.post("/api/v1/projects/p/rollouts", order).await.expect(201)["id"].as_str().unwrap().to_string();
    let told = node.told().await;
    node.run(&told).await;
    eventually("the rollout is completed", async || {
        node.beat(json!({"active_bundle_id": b["bundle_id"], "health": {"status": "healthy"}})).await;
        (rollout(&op, &id).await["state"] == "completed").then_some(())
    })
    .await;
    // The gauges of nodes and rollouts are taken by the clock.
    let text = eventually("every metric is there", async || {
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
        let answer = op.get("/metrics").await;
        let text = String::from_utf8(answer.bytes.to_vec()).unwrap();
        let there = |name: &str| {
            let lines = text.lines().filter(|l| !l.starts_with('#'));
            lines.filter_map(|l| l.strip_prefix(name)).any(|rest| rest.starts_with(['{', ' ', '_']))
        };
        let missing: Vec<&str> = NAMES.into_iter().filter(|n| !there(n)).collect();
        println!("missing: {missing:?}");
        missing.is_empty().then_some(text)
    })
    .await;
    let value = |line: &str| text.lines().find_map(|l| l.strip_prefix(line)?.trim().parse::<f64>().ok());
    assert!(value("sentinel_cp_heartbeats_total").is_some_and(|n| n > 0.0), "{text}");
    program.stop();
}

/// Whatever the system does by default: huge pages are for few large things, and a server keeps many small ones.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_server_keeps_to_small_pages() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::serve(dir.path(), &[]).await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.pid())).unwrap();
    // Kernels without huge pages do not have the line.
    assert!(!status.contains("THP_enabled:\t1"), "{status}");
    program.stop();
}
