//! Draining hands rollouts over before the process ends, and a fleet of processes is exchanged one by one under a running rollout.

use super::drills::{NEXT_DECISION, Several, seeded, standing, within};
use super::process::Wire;
use crate::harness::*;
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

const NODES: u32 = 40;
const BATCH: u32 = 4;

async fn direct(_: u16) -> Wire {
    Wire::Direct
}

async fn under_way(w: &Several, id: &str) {
    eventually("the rollout is under way", async || {
        (rollout(&w.op, id).await["progress"]["verified"].as_u64() >= Some(1)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_drains_hands_its_rollouts_over_before_it_ends() {
    let mut dice = seeded(31);
    // So long a lease that nothing else can have moved the rollout.
    let mut w = Several::start(2, NODES, direct, |plan| plan.lease = 60, &mut dice).await;
    let id = w.roll_out("v1", BATCH).await;
    under_way(&w, &id).await;
    let before = standing(&w.sql, &id).await;
    let owner = w.owner(&before).unwrap();
    let other = 1 - owner;

    let op = Client::operator(&w.all[other].url);
    let all = op.get("/api/v1/instances").await.expect(200);
    let shown = |listen: &str| {
        let rows = all["instances"].as_array().unwrap();
        rows.iter()
            .find(|i| w.all[owner].url.ends_with(i["listen"].as_str().unwrap()) == (listen == "owner"))
            .unwrap()
            .clone()
    };
    assert_eq!((all["total"].as_u64(), &shown("owner")["rollout_ids"]), (Some(2), &json!([id])), "{all:#}");
    assert_eq!((&shown("other")["rollout_ids"], &shown("other")["this"]), (&json!([]), &json!(true)), "{all:#}");
    assert_eq!(Client::new(&w.all[other].url, None).get("/api/v1/instances").await.status, 401);

    let asked = Instant::now();
    super::process::signal(w.all[owner].pid(), libc::SIGTERM);
    let newer = format!("SELECT count(*) FROM rollout_events WHERE rollout_id = '{id}' AND fence > {}", before.fence);
    eventually("the other one decides", async || (w.sql.number(&newer).await > 0).then_some(())).await;
    let took = asked.elapsed();
    assert!(took < within(NEXT_DECISION), "handed over after {took:?}");
    let (status, _) = w.all[owner].ended().await;
    assert!(status.success(), "{status}");
    assert!(asked.elapsed() < within(Duration::from_secs(10)), "the drain took {:?}", asked.elapsed());
    assert!(w.all[owner].log().contains("handed over"), "{}", w.all[owner].log());
    w.all[owner].up().await;
    w.completed(&id).await;
    w.sound(&id, NODES).await;
    println!("drained: the other one decided {took:.1?} after SIGTERM");
    w.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_are_exchanged_one_by_one_under_a_running_rollout() {
    let mut dice = seeded(32);
    let mut w = Several::start(2, NODES, direct, |plan| plan.lease = 60, &mut dice).await;
    // One node after the other: it takes longer than to start two processes, also where that is slow.
    let id = w.roll_out("v1", 1).await;
    under_way(&w, &id).await;
    // As README says: one after the other, the next when the new one is ready.
    for i in 0..w.all.len() {
        let (status, seconds) = w.all[i].terminate().await;
        assert!(
            status.success() && seconds < within(Duration::from_secs(10)).as_secs_f64(),
            "{status} after {seconds} s"
        );
        w.all[i].up().await;
    }
    let during = standing(&w.sql, &id).await.state;
    assert_eq!(during, "running", "the rollout was over before all were exchanged: nothing is shown");
    w.completed(&id).await;
    w.sound(&id, NODES).await;

    // The next version adds to the schema: those that run go on, of this version none is started any more.
    w.sql.rows("ALTER TABLE nodes ADD COLUMN of_the_next_version BIGINT NOT NULL DEFAULT 0").await;
    w.sql.rows("INSERT INTO __diesel_schema_migrations (version) VALUES ('99990101000000')").await;
    for p in &mut w.all {
        p.ready().await;
    }
    let next = w.roll_out("v2", NODES).await;
    w.completed(&next).await;
    w.sound(&next, NODES).await;
    let (status, _) = w.all[1].terminate().await;
    assert!(status.success());
    w.all[1].spawn();
    let (status, _) = w.all[1].ended().await;
    assert_eq!(status.code(), Some(1));
    let log = w.all[1].log();
    assert!(log.contains("the database is newer than this sentinel-cp: its schema is at 99990101000000"), "{log}");
    w.sql.rows("DELETE FROM __diesel_schema_migrations WHERE version = '99990101000000'").await;
    w.all[1].up().await;
    w.end().await;
}
