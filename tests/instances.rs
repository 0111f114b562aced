//! Several instances on one PostgreSQL: nodes spread over them, commands anywhere, an owner that dies.

use crate::ha::drills::within;
use crate::harness::*;
use serde_json::{Value, json};
use sim::Behaviour;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use store::testing::{Backend, Opened, open};
use tokio::runtime::{Builder, Runtime};

/// An instance on a runtime of its own, so that it can be torn away at once, mid-sentence, as a process dies.
struct Apart {
    url: String,
    id: String,
    op: Client,
    instance: Option<Instance>,
    runtime: Option<Runtime>,
}

impl Apart {
    async fn start(db: &Arc<Opened>, dir: &Path, options: Options) -> Apart {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (db, dir) = (db.clone(), dir.to_path_buf());
        let started = runtime.spawn(async move {
            let store = db.again().await.unwrap();
            Instance::start(store, &dir, options).await
        });
        let instance = started.await.unwrap();
        let id = instance.tree.plane.instance().to_string();
        Apart {
            url: instance.url.clone(),
            id,
            op: instance.operator(),
            instance: Some(instance),
            runtime: Some(runtime),
        }
    }

    /// No goodbye: every task is dropped where it stands, every connection breaks.
    fn kill(mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }

    async fn stop(mut self) {
        let runtime = self.runtime.take().unwrap();
        runtime.spawn(self.instance.take().unwrap().stop()).await.unwrap();
        runtime.shutdown_background();
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        // A runtime must not be dropped inside another: also when a test fails.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn pair(options: Options) -> (Arc<Opened>, tempfile::TempDir, Apart, Apart) {
    let db = Arc::new(open(Backend::Postgres).await);
    let dir = tempfile::tempdir().unwrap();
    let one = Apart::start(&db, dir.path(), options.clone()).await;
    let two = Apart::start(&db, dir.path(), options).await;
    open_project(&one.op, "p").await;
    (db, dir, one, two)
}

/// A rollout that `a` owns. One that the other finds between its making and its start is the other's: called off, and made again.
async fn owned_by(a: &Apart, body: Value) -> String {
    loop {
        let id = roll_out(&a.op, "p", body.clone()).await;
        if rollout(&a.op, &id).await["owner_instance_id"] == a.id {
            return id;
        }
        a.op.post(&format!("/api/v1/rollouts/{id}/cancel"), json!({})).await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_spread_over_two_instances_complete_one_rollout() {
    let (_db, _dir, one, two) = pair(Options::default()).await;
    let mut fleets = Vec::new();
    for (n, url) in [(0, &one.url), (1, &two.url)] {
        fleets.push(fleet_from(url, "p", 1 + 10 * n, 10, Behaviour::default(), "").await);
    }
    online(&two.op, "p", 20).await;
    let b = bundle_of(&one.op, "p", "v1").await;
    // Made here, seen and commanded there.
    let id = roll_out(&one.op, "p", json!({"bundle_id": b["bundle_id"], "batch_size": 4})).await;
    let r = reaches(&two.op, &id, "completed").await;
    assert_eq!(r["progress"]["verified"], 20, "{r:#}");
    assert!(nodes(&two.op, "p").await.values().all(|n| n["active_bundle_id"] == b["bundle_id"]));
    for f in fleets {
        let report = f.stop().await.unwrap();
        assert_eq!(report.count("activated"), 10, "{report}");
    }
    chains_hold(&two.op).await;
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_work_on_the_instance_that_does_not_own_the_rollout() {
    // So long a lease that the other does not look for work before the first has begun its own.
    let (_db, _dir, one, two) = pair(Options { lease: 60, ..Options::default() }).await;
    let (a, b) = (Hand::register(&one.url, "p", "a").await, Hand::register(&two.url, "p", "b").await);
    let v1 = bundle_of(&two.op, "p", "v1").await;
    let id = roll_out(&one.op, "p", json!({"bundle_id": v1["bundle_id"], "batch_size": 1})).await;
    assert_eq!(rollout(&one.op, &id).await["owner_instance_id"], one.id);
    let told = a.told().await;
    let done = two.op.post(&format!("/api/v1/rollouts/{id}/pause"), json!({})).await.expect(200);
    assert_eq!((&done["changed"], &done["rollout"]["state"]), (&json!(true), &json!("paused")), "{done:#}");
    assert_eq!(rollout(&one.op, &id).await["state"], "paused");
    a.run(&told).await;
    assert_eq!(b.poll(0).await["no_update"], true);
    two.op.post(&format!("/api/v1/rollouts/{id}/resume"), json!({})).await.expect(200);
    b.run(&b.told().await).await;
    reaches(&two.op, &id, "completed").await;
    chains_hold(&one.op).await;
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_parked_on_one_instance_wakes_by_a_rollout_of_the_other() {
    let (_db, _dir, one, two) = pair(Options { lease: 60, ..Options::default() }).await;
    let node = Hand::register(&two.url, "p", "a").await;
    let poll = tokio::spawn(async move { (node.poll(60).await, tokio::time::Instant::now()) });
    let v1 = bundle_of(&one.op, "p", "v1").await;
    let id = roll_out(&one.op, "p", json!({"bundle_id": v1["bundle_id"]})).await;
    let made = tokio::time::Instant::now();
    assert_eq!(rollout(&one.op, &id).await["owner_instance_id"], one.id);
    let (told, woken) = poll.await.unwrap();
    assert_eq!(told["bundle_id"], v1["bundle_id"], "{told:#}");
    let took = woken.saturating_duration_since(made);
    assert!(took < Duration::from_secs(30), "woken {took:?} after the assignment: by its own end, not by it");
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_owner_dies_the_other_takes_over_within_the_lease_and_the_rollout_completes() {
    let options = Options { lease: 2, ..Options::default() };
    let (_db, _dir, one, two) = pair(options).await;
    let script = "[default]\napply_delay = \"100ms\"\n";
    let nodes_of_two = fleet_from(&two.url, "p", 1, 12, Behaviour::default(), script).await;
    online(&two.op, "p", 12).await;
    let b = bundle_of(&one.op, "p", "v1").await;
    let id = owned_by(&one, json!({"bundle_id": b["bundle_id"], "batch_size": 1})).await;
    eventually("the first nodes are verified", async || {
        (rollout(&two.op, &id).await["progress"]["verified"].as_u64() >= Some(2)).then_some(())
    })
    .await;
    let before = rollout(&two.op, &id).await;
    assert_eq!((&before["owner_instance_id"], &before["state"]), (&json!(one.id), &json!("running")), "{before:#}");
    one.kill();
    let died = tokio::time::Instant::now();
    eventually("the other owns it", async || {
        (rollout(&two.op, &id).await["owner_instance_id"] == two.id).then_some(())
    })
    .await;
    let took = died.elapsed();
    // The lease, and the quarter of it that may pass before the other looks.
    assert!(took < within(Duration::from_secs(4)), "the takeover took {took:?}");
    let r = reaches(&two.op, &id, "completed").await;
    assert_eq!(r["progress"]["verified"], 12, "{r:#}");
    chains_hold(&two.op).await;
    nodes_of_two.stop().await.unwrap();
    two.stop().await;
}
