//! The whole product on a real S3 server: compile, roll out, download by presigned URL; and the server away, slow, or with a
//! damaged object.

use crate::harness::*;
use crate::peer::Peer;
use bytes::Bytes;
use domain::Digest;
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(data: &std::path::Path, peer: &Peer) -> (Server, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sentinel-cp"))
        .args(["serve", "--listen", "127.0.0.1:0", "--log", "error", "--rate-limit-per-key", "1000000", "--data-dir"])
        .arg(data)
        .args(["--storage", "s3://artifacts/cp", "--s3-region", "us-east-1", "--s3-force-path-style", "true"])
        .args(["--s3-endpoint", &format!("http://{}", peer.addr)])
        .env("SENTINEL_CP_S3_ACCESS_KEY_ID", "access")
        .env("SENTINEL_CP_S3_SECRET_ACCESS_KEY", "secret")
        .env("SENTINEL_CP_BOOTSTRAP_API_KEY", KEY)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.trim().rsplit(' ').next().unwrap().to_string();
    (Server(child), url)
}

#[tokio::test(flavor = "multi_thread")]
async fn bundles_go_through_s3_and_everything_waits_while_it_is_away() {
    let peer = Peer::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (_server, url) = serve(&dir.path().join("data"), &peer);
    let op = Client::operator(&url);
    let ready = async |wanted: u16| {
        eventually(&format!("/ready answers {wanted}"), async || {
            let answer = op.try_raw("GET", "/ready", &[], Bytes::new()).await;
            answer.is_ok_and(|a| a.status == wanted).then_some(())
        })
        .await;
    };
    ready(200).await;
    open_project(&op, "p").await;
    let first = bundle_of(&op, "p", "1").await;
    let id = first["bundle_id"].as_str().unwrap();
    let object = peer.path(&format!("bundles/{}/{id}.tar.zst", first["project_id"].as_str().unwrap()));
    let stored = std::fs::read(&object).unwrap();
    assert_eq!(Digest::of(&stored).prefixed(), first["artifact_hash"].as_str().unwrap());

    // A node fetches it from S3 itself, with nothing but the URL.
    let node = Hand::register(&url, "p", "n-1").await;
    // By its id: one of all nodes would take newcomers in.
    let only = json!({"type": "node_ids", "node_ids": [node.id]});
    let run = roll_out(&op, "p", json!({"bundle_id": id, "target_selector": only, "min_healthy_seconds": 0})).await;
    let update = node.told().await;
    let from = update["artifact_url"].as_str().unwrap();
    assert!(from.starts_with(&format!("http://{}/", peer.addr)), "{from}");
    let got = Client::new("", None).raw("GET", from, &[], Bytes::new()).await;
    assert_eq!((got.status, &got.bytes[..]), (200, &stored[..]));
    let altered = from.replace("X-Amz-Expires=", "X-Amz-Expires=1");
    assert_eq!(Client::new("", None).raw("GET", &altered, &[], Bytes::new()).await.status, 403);
    node.run(&update).await;
    node.beat(json!({"active_bundle_id": id, "health": {"status": "healthy"}})).await;
    reaches(&op, &run, "completed").await;

    // Away: not ready, a compile waits and loses nothing.
    peer.faults.fail_first.store(usize::MAX, Ordering::SeqCst);
    ready(503).await;
    let body = json!({"version": "2", "config_source": format!("{}\n// 2\n", bundle::samples::DEMO_V1)});
    let waiting = op.post("/api/v1/projects/p/bundles?wait=3", body).await.expect(201)["bundle"].clone();
    assert_eq!(waiting["status"], "compiling", "{waiting:#}");
    peer.faults.fail_first.store(0, Ordering::SeqCst);
    ready(200).await;
    let row = format!("/api/v1/projects/p/bundles/{}", waiting["id"].as_str().unwrap());
    let second = eventually("the compile goes on", async || {
        let b = op.get(&row).await.expect(200)["bundle"].clone();
        (b["status"] == "compiled").then_some(b)
    })
    .await;

    // Damaged: nobody is sent to it. Put right: the rollout goes on.
    let id = second["bundle_id"].as_str().unwrap();
    let object = peer.path(&format!("bundles/{}/{id}.tar.zst", second["project_id"].as_str().unwrap()));
    let good = std::fs::read(&object).unwrap();
    let mut bad = good.clone();
    bad[40] ^= 1;
    std::fs::write(&object, bad).unwrap();
    let other = Hand::register(&url, "p", "n-2").await;
    let selector = json!({"type": "node_ids", "node_ids": [other.id]});
    let run = roll_out(&op, "p", json!({"bundle_id": id, "target_selector": selector, "min_healthy_seconds": 0})).await;
    eventually("its step runs", async || (rollout(&op, &run).await["state"] == "running").then_some(())).await;
    for _ in 0..3 {
        assert_eq!(other.poll(0).await["no_update"], true);
    }
    std::fs::write(&object, good).unwrap();
    let update = other.told().await;
    assert_eq!(update["bundle_id"], *id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_waits_while_the_store_is_away_or_silent_says_so_and_goes_on_by_itself() {
    let peer = Peer::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (_server, url) = serve(&dir.path().join("data"), &peer);
    let op = Client::operator(&url);
    eventually("it is ready", async || {
        op.try_raw("GET", "/ready", &[], Bytes::new()).await.is_ok_and(|a| a.status == 200).then_some(())
    })
    .await;
    open_project(&op, "p").await;
    let faults = &peer.faults;
    type Switch<'a> = &'a dyn Fn(bool);
    let away: Switch<'_> = &|on| faults.fail_first.store(if on { usize::MAX } else { 0 }, Ordering::SeqCst);
    let silent: Switch<'_> = &|on| faults.hang.store(on, Ordering::SeqCst);
    for (what, fault) in [("away", away), ("silent", silent)] {
        let made = bundle_of(&op, "p", what).await;
        let id = made["bundle_id"].as_str().unwrap();
        let node = Hand::register(&url, "p", what).await;
        let selector = json!({"type": "node_ids", "node_ids": [node.id]});
        fault(true);
        let seen = faults.seen.load(Ordering::SeqCst);
        let body = json!({"bundle_id": id, "target_selector": selector, "min_healthy_seconds": 0});
        let run = roll_out(&op, "p", body).await;
        eventually("its step runs", async || (rollout(&op, &run).await["state"] == "running").then_some(())).await;
        eventually("the rollout waits and says so", async || {
            assert_eq!(node.poll(0).await["no_update"], true, "{what}");
            let why = op.get(&format!("/api/v1/rollouts/{run}/explain")).await.expect(200);
            (why["primary"]["code"] == "artifact_unavailable").then_some(())
        })
        .await;
        assert!(faults.seen.load(Ordering::SeqCst) > seen, "{what}: nobody looked");
        fault(false);
        let update = node.told().await;
        assert_eq!(update["bundle_id"], *id, "{what}");
        node.run(&update).await;
        node.beat(json!({"active_bundle_id": id, "health": {"status": "healthy"}})).await;
        reaches(&op, &run, "completed").await;
    }

    // A way back is never held: what the node goes back to lies on its disk.
    let node = Hand::register(&url, "p", "back").await;
    let selector = json!({"type": "node_ids", "node_ids": [node.id]});
    let mut last = String::new();
    let mut made = Vec::new();
    for version in ["before", "after"] {
        let id = bundle_of(&op, "p", version).await["bundle_id"].as_str().unwrap().to_string();
        last =
            roll_out(&op, "p", json!({"bundle_id": id, "target_selector": selector, "min_healthy_seconds": 0})).await;
        node.run(&node.told().await).await;
        node.beat(json!({"active_bundle_id": id, "health": {"status": "healthy"}})).await;
        reaches(&op, &last, "completed").await;
        made.push(id);
    }
    // Its row has changed, so that no look that was good before helps: nobody could be sent to it now.
    op.post(&format!("/api/v1/projects/p/bundles/{}/deprecate", made[0]), json!({})).await.expect(200);
    away(true);
    op.post(&format!("/api/v1/rollouts/{last}/rollback"), json!({"reason": "on second thoughts"})).await.expect(200);
    let update = node.told().await;
    assert_eq!(update["bundle_id"], *made[0]);
    node.run(&update).await;
    reaches(&op, &last, "rolled_back").await;
}
