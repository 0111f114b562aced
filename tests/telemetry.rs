//! What nodes push beside heartbeats: kept for the node that the credential names, shown to its operators, bounded.

use crate::harness::*;
use serde_json::{Value, json};

everywhere!(what_a_node_pushes_is_its_own_and_shown_to_its_operators, what_is_wrong_is_named_and_nothing_of_it_is_kept);

/// What an operator sees of a node, by the part of its path.
async fn shown(w: &World, node: &Hand, what: &str) -> Value {
    w.op.get(&format!("/api/v1/projects/p/nodes/{}/{what}", node.id)).await.expect(200)
}

async fn what_a_node_pushes_is_its_own_and_shown_to_its_operators(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let (node, other) = (Hand::register(&w.at, "p", "a").await, Hand::register(&w.at, "p", "b").await);
    let path = |node: &Hand, what: &str| format!("/api/v1/nodes/{}/{what}", node.id);

    let config = "// what it runs\n";
    w.op.get(&format!("/api/v1/projects/p/nodes/{}/config", node.id)).await.expect(404);
    for changed in [true, false] {
        let answer = node.http.post(&path(&node, "config"), json!({"config_kdl": config})).await.expect(200);
        assert_eq!((&answer["status"], &answer["changed"]), (&json!("ok"), &json!(changed)), "{answer:#}");
        assert_eq!(answer["config_hash"].as_str().unwrap().len(), 64);
    }
    assert_eq!(shown(&w, &node, "config").await["config"]["config_kdl"], config);

    let push = json!({
        "metrics": [{"service_id": other.id, "period_start": "2026-02-16T12:00:00Z", "request_count": 1500, "latency_p99_ms": 85.5}],
        "request_logs": [{"method": "GET", "path": "/api/users?token=secret", "status": 200, "latency_ms": 45}],
    });
    let answer = node.http.post(&path(&node, "metrics"), push).await.expect(200);
    assert_eq!(answer, json!({"status": "ok", "metrics_ingested": 1, "logs_ingested": 1}));
    let metrics = shown(&w, &node, "metrics").await;
    let (first, total) = (&metrics["metrics"][0], &metrics["total"]);
    assert_eq!((&first["request_count"], &first["latency_p99_ms"], total), (&json!(1500), &json!(85.5), &json!(1)));
    assert!(first["at"].is_string() && first.get("service_id").is_none(), "{metrics:#}");
    assert_eq!(shown(&w, &node, "request-logs").await["request_logs"][0]["path"], "/api/users");

    // Another node's and another project's are not its to name.
    let waf = json!({"events": [{"project_id": "q", "node_id": other.id, "rule_id": "CRS-942100", "action": "blocked",
        "client_ip": "192.168.1.100", "path": "/api/login?x=1", "matched_data": "' OR 1=1 --"}]});
    let answer = node.http.post(&path(&node, "waf-events"), waf).await.expect(200);
    assert_eq!(answer, json!({"status": "ok", "events_ingested": 1}));
    let seen = shown(&w, &node, "waf-events").await;
    assert_eq!(seen["waf_events"][0]["matched_data"], "' OR 1=1 --", "{seen:#}");
    assert_eq!(shown(&w, &other, "waf-events").await["total"], 0);
    for what in ["config", "metrics", "waf-events"] {
        node.http.post(&path(&other, what), json!({})).await.expect(403);
        w.op.post(&path(&node, what), json!({})).await.expect(401);
    }

    // Of what it goes on pushing the newest stay.
    for _ in 0..6 {
        let events: Vec<Value> = (0..100).map(|n| json!({"rule_id": format!("r{n}")})).collect();
        node.http.post(&path(&node, "waf-events"), json!(events)).await.expect(200);
    }
    let seen = shown(&w, &node, "waf-events?limit=1").await;
    assert_eq!((&seen["total"], &seen["waf_events"][0]["rule_id"]), (&json!(500), &json!("r99")));
    let cursor = seen["next_cursor"].as_str().unwrap();
    let next = shown(&w, &node, &format!("waf-events?limit=1&cursor={cursor}")).await;
    assert_eq!(next["waf_events"][0]["rule_id"], "r98");
    w.end().await;
}

async fn what_is_wrong_is_named_and_nothing_of_it_is_kept(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let node = Hand::register(&w.at, "p", "a").await;
    let good = json!({"request_count": 1});
    for (what, body, field) in [
        ("config", json!({}), "config_kdl"),
        ("config", json!({"config_kdl": "x".repeat((1 << 20) + 1)}), "config_kdl"),
        ("metrics", json!({"metrics": [good, {"request_count": "many"}]}), "metrics[1].request_count"),
        ("metrics", json!({"metrics": vec![good.clone(); 101]}), "metrics"),
        ("metrics", json!({"metrics": [good], "request_logs": [{"status": 7}]}), "request_logs[0].status"),
        ("waf-events", json!({"events": [{}, {"client_ip": "x"}]}), "events[1].client_ip"),
        ("waf-events", json!({"event": []}), "events"),
    ] {
        let answer = node.http.post(&format!("/api/v1/nodes/{}/{what}", node.id), body).await;
        let problem = answer.expect(422);
        assert!(problem["errors"].get(field).is_some(), "{what}: {problem:#}");
    }
    node.http.raw("POST", &format!("/api/v1/nodes/{}/metrics", node.id), &[], "{".into()).await.expect(400);
    for what in ["metrics", "request-logs", "waf-events"] {
        assert_eq!(shown(&w, &node, what).await["total"], 0, "{what}");
    }
    w.end().await;
}
