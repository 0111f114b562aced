//! What holds the data is full or away while a rollout is under way: the database's disk, and the S3 server under two processes.

use super::drills::{NEXT_DECISION, Several, seeded};
use super::nodes::promises_hold;
use super::outages::*;
use super::postgres::Postgres;
use crate::harness::*;
use crate::peer::Peer;
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// For the tables of a new installation with 40 nodes, three times over.
const SMALL_DISK_MB: u32 = 64;
/// A fault lasts at least so long: longer than a lease.
const AWAY: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread")]
async fn a_database_whose_disk_is_full_decides_nothing_and_goes_on_when_there_is_room() {
    let mut dice = seeded(24);
    let pg = Postgres::start(&mut dice).await;
    let disk = match pg.on_small_disk(SMALL_DISK_MB).await {
        Ok(disk) => disk,
        Err(why) => {
            return println!("NO FILE SYSTEMS CAN BE MOUNTED HERE ({why}): the test on a full disk skips itself");
        }
    };
    let mut w = Several::start_with(pg, 2, NODES, direct, |_| {}, &mut dice).await;
    let quiet = quiet_node(&w).await;
    let id = w.roll_out("v1", BATCH).await;
    under_way(&w, &id).await;
    let promised = w.witness.promised();
    disk.fill();
    let full = Instant::now();
    // Pages have room for some more rows: it is full when the first of them needs another page.
    let refused = eventually("a decision is refused", async || {
        let slug = format!("late-{}", full.elapsed().as_micros());
        let answer = w.op.post("/api/v1/projects", json!({"name": slug, "slug": slug})).await;
        (answer.status != 201).then_some(answer)
    })
    .await;
    is_problem(&refused, 503, None);
    let after: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&after), "{after}");
    served_from_memory(&w, &quiet).await;
    tokio::time::sleep(AWAY.saturating_sub(full.elapsed())).await;
    served_from_memory(&w, &quiet).await;
    promises_hold(&w.sql, &id, &promised, "while the disk is full").await;
    disk.clear();
    let room = Instant::now();
    let seen = w.last_seq(&id).await;
    let took = w.goes_on(&id, seen, room, NEXT_DECISION).await;
    w.completed(&id).await;
    w.sound(&id, NODES).await;
    let restarted = no_storm(&mut w).await;
    println!(
        "disk full for {:.1} s: next decision {took:.1?} after there was room, {restarted} actors started again",
        (room - full).as_secs_f64()
    );
    w.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_s3_server_is_restarted_under_two_processes_and_the_rollout_goes_on_by_itself() {
    let mut dice = seeded(25);
    let mut peer = Peer::start().await;
    let endpoint = format!("http://{}", peer.addr);
    let bucket = |plan: &mut super::process::Plan| {
        plan.storage = "s3://artifacts/cp".into();
        let more = ["--s3-region", "us-east-1", "--s3-force-path-style", "true", "--s3-endpoint", &endpoint];
        plan.more = more.map(String::from).to_vec();
        plan.secrets = vec![
            ("SENTINEL_CP_S3_ACCESS_KEY_ID", "access".into()),
            ("SENTINEL_CP_S3_SECRET_ACCESS_KEY", "secret".into()),
        ];
    };
    let mut w = Several::start(2, NODES, direct, bucket, &mut dice).await;
    let quiet = quiet_node(&w).await;
    let id = w.roll_out("v1", BATCH).await;
    under_way(&w, &id).await;
    peer.stop().await;
    let away = Instant::now();
    served_from_memory(&w, &quiet).await;
    for p in &w.all {
        let http = Client::operator(&p.url);
        eventually(&format!("{} says that it is not ready", p.name), async || {
            let ready = http.get("/ready").await;
            (ready.status == 503 && ready.body["checks"]["storage"] == "failed").then_some(())
        })
        .await;
    }
    eventually("the rollout says what it waits for", async || {
        let why = w.op.get(&format!("/api/v1/rollouts/{id}/explain")).await.expect(200);
        (why["primary"]["code"] == "artifact_unavailable").then_some(())
    })
    .await;
    let body = json!({"version": "v2", "config_source": format!("{}\n// v2\n", bundle::samples::DEMO_V1)});
    let waiting = w.op.post("/api/v1/projects/p/bundles?wait=1", body).await.expect(201)["bundle"].clone();
    assert_eq!(waiting["status"], "compiling", "{waiting:#}");
    tokio::time::sleep(AWAY.saturating_sub(away.elapsed())).await;
    served_from_memory(&w, &quiet).await;
    let seen = w.last_seq(&id).await;
    peer.up().await;
    let back = Instant::now();
    let took = w.goes_on(&id, seen, back, Duration::from_secs(10)).await;
    w.completed(&id).await;
    w.sound(&id, NODES).await;
    let row = format!("/api/v1/projects/p/bundles/{}", waiting["id"].as_str().unwrap());
    eventually("the compile goes on", async || {
        (w.op.get(&row).await.expect(200)["bundle"]["status"] == "compiled").then_some(())
    })
    .await;
    let restarted = no_storm(&mut w).await;
    println!(
        "S3 away for {:.1} s: next decision {took:.1?} after it was back, {restarted} actors started again",
        (back - away).as_secs_f64()
    );
    w.end().await;
}
