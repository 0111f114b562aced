//! HTTP probes as gates of a rollout: a real server beside the fleet, asked by a real instance.

use crate::harness::*;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

everywhere!(a_probe_holds_a_rollout_until_it_matches, a_probe_never_reaches_what_it_must_not);

/// Answers with a status that the test changes.
struct Shop {
    at: SocketAddr,
    status: Arc<AtomicU16>,
    asked: Arc<AtomicU32>,
}

impl Shop {
    async fn open() -> Shop {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shop = Shop {
            at: listener.local_addr().unwrap(),
            status: Arc::new(AtomicU16::new(200)),
            asked: Arc::new(AtomicU32::new(0)),
        };
        let (status, asked) = (shop.status.clone(), shop.asked.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                asked.fetch_add(1, Ordering::SeqCst);
                let _ = stream.read(&mut [0; 2048]).await;
                let status = status.load(Ordering::SeqCst);
                let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 4\r\nconnection: close\r\n\r\nopen");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        shop
    }
}

fn watching(bundle: &serde_json::Value, url: &str) -> serde_json::Value {
    json!({
        "bundle_id": bundle["bundle_id"], "batch_size": 4, "fail_after_seconds": 1,
        "probes": [{"url": url, "body_contains": "open", "timeout_ms": 5000}],
    })
}

async fn a_probe_holds_a_rollout_until_it_matches(ground: Ground) {
    let w = World::on(ground, Options { probe_loopback: true, ..Options::default() }).await;
    // One node: of several some may fail after the first has stopped the rollout.
    let fleet = w.fleet(1, "").await;
    let (shop, url) = (Shop::open().await, |shop: &Shop| format!("http://{}/health", shop.at));
    let (v1, v2) = (w.bundle("v1").await, w.bundle("v2").await);

    let good = w.roll_out(watching(&v1, &url(&shop))).await;
    let done = reaches(&w.op, &good, "completed").await;
    assert_eq!(done["probes"][0]["expected_status"], 200, "{done:#}");
    assert!(shop.asked.load(Ordering::SeqCst) > 0, "it passed without being asked");

    shop.status.store(503, Ordering::SeqCst);
    let held = w.roll_out(watching(&v2, &url(&shop))).await;
    reaches(&w.op, &held, "paused").await;
    let failed = members(&w.op, &held).await;
    let why: Vec<String> = failed.values().filter(|m| m["state"] == "failed").map(|m| m.to_string()).collect();
    assert!(!why.is_empty() && why.iter().all(|w| w.contains("probe 1 did not match")), "{failed:#?}");

    shop.status.store(200, Ordering::SeqCst);
    w.op.post(&format!("/api/v1/rollouts/{held}/resume"), json!({"retry": true})).await.expect(200);
    reaches(&w.op, &held, "completed").await;
    fleet.stop().await.unwrap();
    w.end().await;
}

async fn a_probe_never_reaches_what_it_must_not(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let fleet = w.fleet(1, "").await;
    let (shop, bundle) = (Shop::open().await, w.bundle("v1").await);
    let id = w.roll_out(watching(&bundle, &format!("http://[::ffff:127.0.0.1]:{}/", shop.at.port()))).await;
    reaches(&w.op, &id, "paused").await;
    let nodes = members(&w.op, &id).await;
    assert!(nodes.values().all(|m| m.to_string().contains("PROBE_ALLOW")), "{nodes:#?}");
    assert_eq!(shop.asked.load(Ordering::SeqCst), 0);
    for bad in ["file:///etc/passwd", "http://user:password@example.org/", "//example.org", ""] {
        let refused = w.op.post("/api/v1/projects/p/rollouts", watching(&bundle, bad)).await;
        is_problem(&refused, 422, Some("probes[0].url"));
    }
    fleet.stop().await.unwrap();
    w.end().await;
}
