//! The database is killed, restarted, failed over and held up while a rollout is under way: the rollout goes on by itself,
//! what needs no decision is answered from memory, what does is answered 503 with Retry-After, and no process ends or storms.

use super::drills::{NEXT_DECISION, Several, long, seeded, within};
use super::nodes::promises_hold;
use super::postgres::Sql;
use super::process::{Process, Wire};
use crate::harness::*;
use bytes::Bytes;
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// An answer from memory takes a hundredth of this; waiting for a database takes longer.
const AT_ONCE: Duration = Duration::from_secs(3);
pub(super) const NODES: u32 = 40;
pub(super) const BATCH: u32 = 4;

pub(super) async fn direct(_: u16) -> Wire {
    Wire::Direct
}

/// A quiet node that both processes know, in a project of its own.
pub(super) async fn quiet_node(w: &Several) -> Hand {
    open_project(&w.op, "q").await;
    let hand = Hand::register(&w.all[0].url, "q", "quiet").await;
    for p in &w.all {
        let at = Hand { http: Client::node(&p.url, &hand.key), id: hand.id.clone(), key: hand.key.clone() };
        at.beat(json!({"health": {"status": "healthy"}})).await;
        at.poll(0).await;
    }
    hand
}

/// What a quiet node hears from every process, and what an operator does, while there is no database to ask.
pub(super) async fn served_from_memory(w: &Several, quiet: &Hand) {
    for p in &w.all {
        let http = Client::node(&p.url, &quiet.key);
        let headers = [("content-type", "application/json")];
        let begun = Instant::now();
        let body = Bytes::from(json!({"health": {"status": "healthy"}}).to_string());
        let beat = http.raw("POST", &format!("/api/v1/nodes/{}/heartbeat", quiet.id), &headers, body).await;
        assert_eq!(beat.status, 200, "{}: a heartbeat without a database: {:#}", p.name, beat.body);
        let poll = http.get(&format!("/api/v1/nodes/{}/bundles/latest?wait=0", quiet.id)).await;
        assert_eq!((poll.status, &poll.body["no_update"]), (200, &json!(true)), "{}: {:#}", p.name, poll.body);
        assert!(begun.elapsed() < within(AT_ONCE), "{}: a heartbeat and a poll took {:?}", p.name, begun.elapsed());
        assert_eq!(Client::new(&p.url, None).get("/health").await.status, 200);
    }
}

/// Told to come again, and when.
fn put_off(answer: &Answer) {
    is_problem(answer, 503, None);
    let after: u64 = answer.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&after), "{after}");
}

/// What needs a decision: a command, and a node's report, of an assignment that only the database could know.
pub(super) async fn refused_with_retry_after(w: &Several, quiet: &Hand) {
    for p in &w.all {
        let op = Client::operator(&p.url);
        put_off(&op.post("/api/v1/projects", json!({"name": "late", "slug": "late"})).await);
        let report = quiet.report_path("0190b5a0-6bfa-7cc0-9d4c-1b2f3a4d5e6f", "staged");
        put_off(&Client::node(&p.url, &quiet.key).post(&report, json!({"generation": 1})).await);
        let ready = op.get("/ready").await;
        assert_eq!((ready.status, &ready.body["checks"]["database"]), (503, &json!("failed")), "{:#}", ready.body);
    }
}

/// Actors that supervisors started again, over all processes.
async fn restarts(all: &[Process]) -> f64 {
    let mut sum = 0.0;
    for p in all {
        let text = Client::new(&p.url, None).get("/metrics").await;
        let text = String::from_utf8_lossy(&text.bytes).into_owned();
        let lines = text.lines().filter(|l| l.starts_with("sentinel_cp_actor_restarts_total"));
        sum += lines.filter_map(|l| l.rsplit_once(' ')?.1.parse::<f64>().ok()).sum::<f64>();
    }
    sum
}

/// Nobody ended; whoever was started again can be counted on two hands.
pub(super) async fn no_storm(w: &mut Several) -> f64 {
    for p in &mut w.all {
        assert!(p.is_running(), "{} has ended", p.name);
    }
    let restarted = restarts(&w.all).await;
    assert!(restarted <= 20.0, "{restarted} actors were started again");
    restarted
}

pub(super) async fn under_way(w: &Several, id: &str) {
    eventually("the rollout is under way", async || {
        (rollout(&w.op, id).await["progress"]["verified"].as_u64() >= Some(u64::from(BATCH))).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_killed_or_shut_down_and_comes_back_and_the_rollout_goes_on_by_itself() {
    let mut dice = seeded(21);
    let mut w = Several::start(2, NODES, direct, |_| {}, &mut dice).await;
    let quiet = quiet_node(&w).await;
    for round in 0..(if long() { 10 } else { 2 }) {
        let id = w.roll_out(&format!("v{round}"), BATCH).await;
        under_way(&w, &id).await;
        // The round before may have taken longer than the stale time.
        served_from_memory(&w, &quiet).await;
        let promised = w.witness.promised();
        if round % 2 == 0 {
            w.pg.kill()
        } else {
            w.pg.shut_down()
        }
        let away = Instant::now();
        served_from_memory(&w, &quiet).await;
        refused_with_retry_after(&w, &quiet).await;
        // Longer than a lease.
        tokio::time::sleep(Duration::from_secs(4).saturating_sub(away.elapsed())).await;
        served_from_memory(&w, &quiet).await;
        w.pg.up().await;
        w.sql = w.pg.sql("postgres").await;
        let back = Instant::now();
        promises_hold(&w.sql, &id, &promised, "after PostgreSQL came back").await;
        let seen = w.last_seq(&id).await;
        let took = w.goes_on(&id, seen, back, NEXT_DECISION).await;
        w.completed(&id).await;
        w.sound(&id, NODES).await;
        let restarted = no_storm(&mut w).await;
        println!(
            "PostgreSQL away for {:.1} s: next decision {took:.1?} after it was back, {restarted} actors started again",
            (back - away).as_secs_f64()
        );
    }
    w.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_fails_over_to_its_replica_and_nothing_acknowledged_is_lost() {
    let mut dice = seeded(22);
    // Both servers are named; connections are made to the one that can be written to.
    let pg = super::postgres::Postgres::start(&mut dice).await;
    let replica = pg.replica(&mut dice).await;
    let url = format!(
        "postgres://postgres@127.0.0.1:{},127.0.0.1:{}/postgres?target_session_attrs=read-write&connect_timeout=2",
        pg.port, replica.port
    );
    let mut w = Several::start_on(pg, &url, 2, NODES, |_| {}, &mut dice).await;
    let quiet = quiet_node(&w).await;
    let id = w.roll_out("v1", BATCH).await;
    under_way(&w, &id).await;
    let promised = w.witness.promised();
    w.pg.kill();
    let away = Instant::now();
    served_from_memory(&w, &quiet).await;
    replica.promote().await;
    let back = Instant::now();
    w.sql = replica.sql("postgres").await;
    promises_hold(&w.sql, &id, &promised, "on the replica").await;
    let seen = w.last_seq(&id).await;
    let took = w.goes_on(&id, seen, back, NEXT_DECISION).await;
    w.completed(&id).await;
    w.sound(&id, NODES).await;
    let restarted = no_storm(&mut w).await;
    println!(
        "failed over in {:.1} s: next decision {took:.1?} after the promotion, {restarted} actors started again",
        (back - away).as_secs_f64()
    );
    w.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_held_up_stops_decisions_and_nothing_else() {
    let mut dice = seeded(23);
    let short = |plan: &mut super::process::Plan| {
        plan.more = ["--database-timeout-seconds", "2", "--database-pool-size", "6"].map(String::from).to_vec();
    };
    let mut w = Several::start(2, NODES, direct, short, &mut dice).await;
    let quiet = quiet_node(&w).await;
    let id = w.roll_out("v1", BATCH).await;
    under_way(&w, &id).await;
    let locker = Sql::connect(&w.pg.url("postgres")).await.unwrap();
    locker.rows("BEGIN; LOCK TABLE rollouts, projects, audit_heads IN ACCESS EXCLUSIVE MODE").await;
    let held = Instant::now();
    let stood = locker.number(&format!("SELECT last_seq FROM rollouts WHERE id = '{id}'")).await;
    let answer = w.op.post("/api/v1/projects", json!({"name": "late", "slug": "late"})).await;
    is_problem(&answer, 503, None);
    assert!(!answer.header("retry-after").is_empty());
    assert!(held.elapsed() < within(Duration::from_secs(4)), "a lock was waited for {:?}", held.elapsed());
    served_from_memory(&w, &quiet).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    served_from_memory(&w, &quiet).await;
    assert_eq!(locker.number(&format!("SELECT last_seq FROM rollouts WHERE id = '{id}'")).await, stood);
    locker.rows("ROLLBACK").await;
    w.completed(&id).await;
    w.sound(&id, NODES).await;
    no_storm(&mut w).await;
    w.end().await;
}
