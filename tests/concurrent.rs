//! Many rollouts of twenty nodes each, all under way at the same time in one process, to their ends.
//!
//! Twenty rollouts; five hundred over ten thousand nodes with `SENTINEL_LONG=1`. What it costs is measured by
//! `bench --only concurrent`; here it has to come right.

use crate::harness::*;
use domain::rollout::Phase;
use domain::{RolloutId, Scope};
use serde_json::{Value, json};
use sim::agent::Control;
use sim::transport::HttpOptions;
use sim::{Fleet, FleetConfig};
use std::time::Duration;

both!(rollouts_of_twenty_nodes_run_to_their_ends_at_the_same_time);

const EACH: u32 = 20;
const BATCH: u32 = 5;
const STEPS: u32 = EACH / BATCH;
const HERE: Scope = Scope::System("a test looks");

/// How many at a time, and how long that may take.
fn size() -> (u32, Duration) {
    let long = std::env::var("SENTINEL_LONG").is_ok_and(|v| v == "1");
    if long { (500, Duration::from_secs(3_600)) } else { (20, 10 * PATIENCE) }
}

/// Node `i` has the label `group` = `i % groups`; registered with a token, because strangers are held off by their address.
async fn grouped_fleet(w: &World, groups: u32, patience: Duration) -> Fleet {
    let token = w.op.post("/api/v1/projects/p/enrolment-tokens", json!({"name": "all"})).await.expect(201);
    let config = FleetConfig {
        project: "p".into(),
        token: token["token"].as_str().map(str::to_string),
        nodes: groups * EACH,
        name_prefix: "n-".into(),
        labels: [("group".to_string(), format!("{{i%{groups}}}"))].into(),
        ..FleetConfig::default()
    };
    // Many nodes on each connection, because this process holds both ends of all of them: of each node a poll that waits and another call.
    let calls = transport(&w.at, HttpOptions { max_connections: 2 * (groups * EACH) as usize, http2: true });
    let fleet = Fleet::start(config, calls).await.unwrap();
    let all = fleet.until_all(|n| n.state == sim::NodeState::Idle);
    tokio::time::timeout(patience, all).await.expect("all nodes are registered").unwrap();
    fleet
}

async fn rollouts_of_twenty_nodes_run_to_their_ends_at_the_same_time(ground: Ground) {
    let (rollouts, patience) = size();
    // Nobody goes stale on a busy machine: the nodes are cut off from here until all rollouts are under way.
    let w = World::on(ground, Options { stale_after: 3_600, ..Options::default() }).await;
    let fleet = grouped_fleet(&w, rollouts, patience).await;
    let b = w.bundle("v1").await;
    fleet.control_all(&Control::GoOffline).unwrap();
    let mut ids: Vec<RolloutId> = Vec::new();
    for group in 0..rollouts {
        let selector = json!({"type": "labels", "labels": {"group": group.to_string()}});
        let spec = json!({"bundle_id": b["bundle_id"], "target_selector": selector, "batch_size": BATCH,
            "progress_deadline_seconds": 7_200});
        ids.push(w.roll_out(spec).await.parse().unwrap());
    }
    let store = w.one.tree.plane.store().clone();
    let running = store::RolloutFilter { phases: vec![Phase::Running], bundle: None };
    let running = store.rollouts(HERE, running, store::Page::first(1)).await.unwrap().total;
    assert_eq!(running, i64::from(rollouts), "all are under way, and none can go on");

    let (begun, before) = (tokio::time::Instant::now(), store.statements());
    fleet.control_all(&Control::ComeBack).unwrap();
    let mut decisions = 0;
    for id in &ids {
        let head = loop {
            let head = store.rollout(HERE, *id).await.unwrap().head;
            match head.phase {
                Phase::Completed => break head,
                Phase::Running if begun.elapsed() < patience => tokio::time::sleep(Duration::from_millis(50)).await,
                _ => panic!("{id} is not completed after {:?}: {head:#?}", begun.elapsed()),
            }
        };
        decisions += head.version;
        let c = head.counts;
        assert_eq!((c.verified, c.sum(), head.step), (EACH, EACH, STEPS), "{id}: {head:#?}");
    }
    let (took, asked) = (begun.elapsed().as_secs_f64(), store.statements() - before);
    for id in &ids {
        // One step after the other, whatever the others did. RFC 3339 in UTC sorts as text.
        let r = rollout(&w.op, &id.to_string()).await;
        let steps = r["steps"].as_array().unwrap();
        assert_eq!(steps.len(), STEPS as usize, "{r:#}");
        let time = |step: &Value, name: &str| step[name].as_str().map(str::to_string);
        assert!(
            steps
                .windows(2)
                .all(|p| time(&p[0], "completed_at").is_some_and(|ended| Some(ended) <= time(&p[1], "started_at"))),
            "{r:#}"
        );
    }
    println!(
        "{rollouts} rollouts of {EACH} nodes at a time on {ground:?}: {took:.1} s, {:.0} decisions/s, {:.1} statements a step",
        decisions as f64 / took,
        asked as f64 / f64::from(rollouts * STEPS),
    );
    fleet.stop().await.unwrap();
    w.end().await;
}
