//! The owner of a rollout is killed, frozen and cut off, again and again, seeded: another one goes on within 5 s, nothing is decided
//! twice, nothing acknowledged is lost, and what the old one still wanted to commit fails when it wakes.
//!
//! One of each kind over two processes; with `SENTINEL_LONG=1` 30 of each kind, half over two and half over three processes, with 1,000
//! nodes; `SENTINEL_DRILLS=N` runs N of each kind over both with few nodes. The seed is printed and may be given as `SENTINEL_SEED`.

use super::nodes::{Witness, asked, fleet, promises_hold};
use super::postgres::{Postgres, Sql};
use super::process::{Namespace, Plan, Process, Wire};
use super::proxy::Proxy;
use crate::harness::*;
use crate::history::replayed;
use crate::kill9::below;
use bytes::Bytes;
use serde_json::{Value, json};
use sim::Fleet;
use sim::dice::Dice;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// From the fault to the next decision (issue 7), with the default lease of 3 s: looked after every quarter of it, and a lock that the
/// old owner may hold is freed after 2 s. Asserted where the machine is ours, in the long form.
pub const NEXT_DECISION: Duration = Duration::from_secs(5);
const SCRIPT: &str = "[default]\napply_delay = \"300ms\"\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Killed,
    Frozen,
    CutOff,
}

pub fn long() -> bool {
    std::env::var("SENTINEL_LONG").is_ok_and(|v| v == "1")
}

/// A limit on time: as given where the machine is ours, in the long form; otherwise only that it ends.
pub fn within(limit: Duration) -> Duration {
    if long() { limit } else { PATIENCE }
}

pub fn seeded(stream: u64) -> Dice {
    let seed = std::env::var("SENTINEL_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20_261_122);
    println!("seed {seed}");
    Dice::new(seed, stream)
}

/// What stands in `rollouts`, past the product.
pub struct Standing {
    pub state: String,
    pub owner: String,
    pub fence: i64,
    pub last_seq: i64,
}

pub async fn standing(sql: &Sql, rollout: &str) -> Standing {
    let row = sql
        .rows(&format!(
            "SELECT r.state, i.listen, r.fence, r.last_seq FROM rollouts r LEFT JOIN instances i ON i.id = r.owner WHERE r.id = '{rollout}'"
        ))
        .await
        .remove(0);
    let number = |i: usize| row[i].parse().unwrap();
    Standing { state: row[0].clone(), owner: row[1].clone(), fence: number(2), last_seq: number(3) }
}

/// Several processes on one server, nodes on all of them, a project `p`.
pub struct Several {
    // In the order in which they go: processes before their database.
    pub all: Vec<Process>,
    pub op: Client,
    pub fleet: Fleet,
    pub witness: Arc<Witness>,
    pub sql: Sql,
    pub pg: Postgres,
    _dir: tempfile::TempDir,
    watcher: JoinHandle<()>,
    looks: Arc<AtomicUsize>,
}

impl Several {
    pub async fn start(
        instances: usize,
        nodes: u32,
        wire: impl AsyncFn(u16) -> Wire,
        change: impl FnOnce(&mut Plan),
        dice: &mut Dice,
    ) -> Several {
        Several::start_with(Postgres::start(dice).await, instances, nodes, wire, change, dice).await
    }

    pub async fn start_with(
        pg: Postgres,
        instances: usize,
        nodes: u32,
        wire: impl AsyncFn(u16) -> Wire,
        change: impl FnOnce(&mut Plan),
        dice: &mut Dice,
    ) -> Several {
        let dir = tempfile::tempdir().unwrap();
        let mut plan = Plan::new(pg.port, dir.path());
        change(&mut plan);
        let mut all = Vec::new();
        for i in 0..instances {
            all.push(Process::start(&format!("cp-{}", i + 1), &plan, wire(pg.port).await, dice).await);
        }
        // From a bucket each node fetches by its own link.
        let share = plan.storage.starts_with("file:");
        Several::with(dir, pg, all, nodes, share).await
    }

    /// All on one database URL.
    pub async fn start_on(
        pg: Postgres,
        database: &str,
        instances: usize,
        nodes: u32,
        change: impl FnOnce(&mut Plan),
        dice: &mut Dice,
    ) -> Several {
        let dir = tempfile::tempdir().unwrap();
        let mut plan = Plan::new(pg.port, dir.path());
        change(&mut plan);
        let mut all = Vec::new();
        for i in 0..instances {
            all.push(Process::start_on(&format!("cp-{}", i + 1), &plan, database, dice).await);
        }
        Several::with(dir, pg, all, nodes, true).await
    }

    async fn with(dir: tempfile::TempDir, pg: Postgres, all: Vec<Process>, nodes: u32, share: bool) -> Several {
        let urls: Vec<String> = all.iter().map(|p| p.url.clone()).collect();
        let op = Client::operator(Addresses::of(urls.clone()));
        open_project(&op, "p").await;
        let (witness, sql) = (Arc::new(Witness::default()), pg.sql("postgres").await);
        let fleet = fleet(&op, &urls, nodes, SCRIPT, share, &witness).await;
        let looks = Arc::new(AtomicUsize::new(0));
        let watcher = tokio::spawn(watch(pg.url("postgres"), looks.clone()));
        Several { all, op, fleet, witness, sql, pg, _dir: dir, watcher, looks }
    }

    /// A rollout of a bundle of its own to all nodes.
    pub async fn roll_out(&self, version: &str, batch: u32) -> String {
        let b = bundle_of(&self.op, "p", version).await;
        roll_out(&self.op, "p", json!({"bundle_id": b["bundle_id"], "batch_size": batch})).await
    }

    /// The place of the process that owns the rollout.
    pub fn owner(&self, s: &Standing) -> Option<usize> {
        self.all.iter().position(|p| !s.owner.is_empty() && p.url.ends_with(&s.owner))
    }

    /// The number of the last event of a rollout.
    pub async fn last_seq(&self, rollout: &str) -> i64 {
        self.sql.number(&format!("SELECT last_seq FROM rollouts WHERE id = '{rollout}'")).await
    }

    /// How long after `since` the rollout decided something beyond event `seen`.
    ///
    /// Panics: if it took longer than `limit` (in the long form) or never did.
    pub async fn goes_on(&self, rollout: &str, seen: i64, since: Instant, limit: Duration) -> Duration {
        eventually("the rollout goes on", async || (self.last_seq(rollout).await > seen).then_some(())).await;
        let took = since.elapsed();
        assert!(took < within(limit), "the next decision came after {took:?}");
        took
    }

    pub async fn completed(&self, rollout: &str) -> Value {
        let begun = Instant::now();
        loop {
            let r = asked(&self.op, &format!("/api/v1/rollouts/{rollout}")).await["rollout"].clone();
            check_sum(&r);
            if r["state"] == "completed" {
                return r;
            }
            if begun.elapsed() >= PATIENCE * 3 {
                panic!(
                    "the rollout does not complete: {r:#}\nsent away: {:#?}",
                    self.witness.dismissed.lock().unwrap()
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The log has every number once, fences never go down, every decision comes out the same again, every node was verified once.
    pub async fn sound(&self, rollout: &str, nodes: u32) {
        let log = format!("FROM rollout_events WHERE rollout_id = '{rollout}'");
        let row = self.sql.rows(&format!("SELECT count(*), min(seq), max(seq) {log}")).await.remove(0);
        let (count, first, last): (i64, i64, i64) =
            (row[0].parse().unwrap(), row[1].parse().unwrap(), row[2].parse().unwrap());
        assert_eq!((first, count), (0, last + 1), "the log of {rollout} has gaps");
        let back = format!(
            "SELECT count(*) FROM (SELECT fence, lag(fence) OVER (ORDER BY seq) AS before {log}) e WHERE fence < before"
        );
        assert_eq!(
            self.sql.number(&back).await,
            0,
            "a decision was committed under an older fence than the one before it"
        );
        let twice = format!(
            "SELECT count(*) FROM (SELECT 1 FROM node_history WHERE rollout_id = '{rollout}' AND outcome = 'verified' \
             GROUP BY node_id HAVING count(*) <> 1) t"
        );
        assert_eq!(self.sql.number(&twice).await, 0, "a node was verified twice");
        let verified =
            format!("SELECT count(*) FROM rollout_nodes WHERE rollout_id = '{rollout}' AND state = 'verified'");
        assert_eq!(self.sql.number(&verified).await, i64::from(nodes));
        let export = self.op.get(&format!("/api/v1/rollouts/{rollout}/export")).await;
        let said = replayed(&export.bytes).unwrap();
        assert!(said.contains("byte for byte"), "{said}");
    }

    /// Everything holds; answers how often generations were looked at.
    pub async fn end(self) -> usize {
        assert!(!self.watcher.is_finished(), "{:?}", self.watcher.await);
        self.watcher.abort();
        let report = self.fleet.stop().await.unwrap();
        // Bad signatures, generations that went down or named something else; answers that made no sense.
        assert_eq!((report.count("refused"), report.count("misread")), (0, 0), "{report}");
        let dismissed = self.witness.dismissed.lock().unwrap().clone();
        assert!(dismissed.is_empty(), "{dismissed:#?}");
        // Losing a rollout to another process is no failure of its actor, however often.
        for p in &self.all {
            assert!(!p.log().contains("rollout given up"), "{}", p.log());
        }
        chains_hold(&self.op).await;
        self.looks.load(Ordering::Relaxed)
    }
}

/// Looks at all generations, over and over: each only grows.
async fn watch(url: String, looks: Arc<AtomicUsize>) {
    let mut highest: BTreeMap<String, u64> = BTreeMap::new();
    let mut pace = tokio::time::interval(Duration::from_millis(200));
    loop {
        let Ok(sql) = Sql::connect(&url).await else {
            pace.tick().await;
            continue;
        };
        while let Ok(rows) = sql.try_rows("SELECT id, generation FROM nodes").await {
            for row in rows {
                let now: u64 = row[1].parse().unwrap();
                let before = highest.insert(row[0].clone(), now).unwrap_or(0);
                assert!(now >= before, "the generation of {} went down from {before} to {now}", row[0]);
            }
            looks.fetch_add(1, Ordering::Relaxed);
            pace.tick().await;
        }
    }
}

/// A network of its own for the process; where that cannot be had, a proxy before its database.
async fn own_network(database: u16) -> Wire {
    match Namespace::new() {
        Ok(n) => Wire::Namespace(n),
        Err(why) => {
            println!("NO NETWORK NAMESPACES HERE ({why}): the cut is made by a TCP proxy before the database");
            Wire::Proxy(Proxy::to(database).await)
        }
    }
}

#[derive(Clone, Copy)]
struct Drill {
    each: u32,
    nodes: u32,
    batch: u32,
    /// The most from a fault to the next decision.
    within: Duration,
}

/// Faults of each kind, nodes and batch. `None`: what the short form leaves out.
fn asked_for(instances: usize) -> Option<Drill> {
    // Of ten on their way one always has something to say: after several faults in a row a node may hold off for ten seconds.
    let few = |each, within| Drill { each, nodes: 60, batch: 10, within };
    match std::env::var("SENTINEL_DRILLS").ok().and_then(|n| n.parse().ok()) {
        Some(each) => Some(few(each, NEXT_DECISION)),
        None if long() => Some(Drill { each: 15, nodes: 1_000, batch: 20, within: NEXT_DECISION }),
        None if instances == 2 => Some(few(1, PATIENCE)),
        None => {
            println!(
                "{instances} PROCESSES: ONLY IN THE LONG FORM (SENTINEL_LONG=1, or SENTINEL_DRILLS=1 for one fault of each kind)"
            );
            None
        }
    }
}

async fn drill(instances: usize, dice: &mut Dice) {
    let Some(Drill { each, nodes, batch, within }) = asked_for(instances) else { return };
    let begun = Instant::now();
    let mut w = Several::start(instances, nodes, own_network, |_| {}, dice).await;
    let first = w.roll_out("v0", nodes).await;
    w.completed(&first).await;
    let mut left: Vec<Fault> = [Fault::Killed, Fault::Frozen, Fault::CutOff].repeat(each as usize);
    let (mut rollouts, mut took) = (1, BTreeMap::<Fault, Vec<f64>>::new());
    let mut current: Option<String> = None;
    while !left.is_empty() {
        let id = match current.take() {
            Some(id) => id,
            None => {
                rollouts += 1;
                w.roll_out(&format!("v{rollouts}"), batch).await
            }
        };
        tokio::time::sleep(Duration::from_millis(300 + below(1_500, dice))).await;
        let before = standing(&w.sql, &id).await;
        if before.state != "running" {
            let r = w.completed(&id).await;
            assert_eq!(r["progress"]["verified"].as_u64(), Some(nodes.into()), "{r:#}");
            w.sound(&id, nodes).await;
            continue;
        }
        let Some(owner) = w.owner(&before) else {
            // Between two owners: not a fault of this drill's making.
            current = Some(id);
            continue;
        };
        let fault = left.swap_remove(below(left.len() as u64, dice) as usize);
        let decided = befall(&mut w, owner, fault, &id, &before).await;
        assert!(decided < within, "{fault:?}: the next decision came after {decided:?}");
        took.entry(fault).or_default().push(decided.as_secs_f64());
        tokio::time::sleep(Duration::from_millis(below(800, dice))).await;
        restore(&mut w, owner, fault).await;
        current = Some(id);
    }
    if let Some(id) = current {
        w.completed(&id).await;
        w.sound(&id, nodes).await;
    }
    let (answered, moved) = (w.witness.answered.load(Ordering::Relaxed), w.witness.moved.load(Ordering::Relaxed));
    let mut shown = String::new();
    for (fault, mut seconds) in took {
        seconds.sort_by(f64::total_cmp);
        let (middle, worst) = (seconds[seconds.len() / 2], seconds[seconds.len() - 1]);
        shown
            .push_str(&format!(" {} x {fault:?} (next decision {middle:.1} s, at worst {worst:.1} s),", seconds.len()));
    }
    let looks = w.end().await;
    println!(
        "failover, {instances} processes, {nodes} nodes:{shown} {rollouts} rollouts completed and decided again byte for byte, \
         {answered} acknowledged reports kept, {moved} moves of nodes, {looks} looks at generations, {:.0} s in all",
        begun.elapsed().as_secs_f64()
    );
}

/// For a failure: who owns the rollout, how far its nodes are, who holds what in the database.
async fn whereabouts(sql: &Sql, id: &str) -> String {
    let mut text = String::new();
    for question in [
        format!("SELECT state, owner, fence, last_seq, wake_at, head FROM rollouts WHERE id = '{id}'"),
        "SELECT id, listen, expires_at - (extract(epoch FROM now()) * 1000000)::bigint, draining FROM instances"
            .to_string(),
        format!(
            "SELECT state, count(*), min(node_id::text) FROM rollout_nodes WHERE rollout_id = '{id}' GROUP BY state"
        ),
        format!("SELECT count(*) FROM rollout_inbox WHERE rollout_id = '{id}'"),
        "SELECT pid, client_addr, state, wait_event, now() - state_change, left(query, 80) FROM pg_stat_activity \
         WHERE backend_type = 'client backend' AND state <> 'idle'"
            .to_string(),
    ] {
        for row in sql.rows(&question).await {
            text.push_str(&format!("  {}\n", row.join(" | ")));
        }
    }
    text
}

/// The fault, and the time until somebody else has decided something.
async fn befall(w: &mut Several, owner: usize, fault: Fault, id: &str, before: &Standing) -> Duration {
    let when = format!("{fault:?} {} at event {}", w.all[owner].name, before.last_seq);
    let promised = w.witness.promised();
    match fault {
        Fault::Killed => w.all[owner].kill(),
        Fault::Frozen => w.all[owner].freeze(),
        Fault::CutOff => w.all[owner].cut(),
    }
    let at = Instant::now();
    // There is always something to decide then, whatever the nodes are at: those of the frozen one may have nothing to say for ten seconds.
    let word = long().then(|| {
        let op = Client::operator(&w.all[(owner + 1) % w.all.len()].url);
        let path = format!("/api/v1/rollouts/{id}");
        (op.clone(), path.clone(), tokio::spawn(interrupt(op, path)))
    });
    promises_hold(&w.sql, id, &promised, &when).await;
    let newer = format!("SELECT count(*) FROM rollout_events WHERE rollout_id = '{id}' AND fence > {}", before.fence);
    while w.sql.number(&newer).await == 0 {
        if at.elapsed() >= PATIENCE {
            let mut text = format!("  dismissed: {:?}\n", w.witness.dismissed.lock().unwrap());
            text.push_str(&whereabouts(&w.sql, id).await);
            let open = format!(
                "SELECT n.name, m.state, m.generation, n.generation, n.handed_over, n.presence, n.last_seen, n.active_bundle = n.desired_bundle \
                 FROM rollout_nodes m JOIN nodes n ON n.id = m.node_id WHERE m.rollout_id = '{id}' AND m.state NOT IN ('pending', 'verified')"
            );
            let fleet = w.fleet.status().await.unwrap();
            for row in w.sql.rows(&open).await {
                text.push_str(&format!("  {}: {:?}\n", row.join(" | "), fleet[&row[0]]));
            }
            panic!("{when}: nobody goes on\n{text}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = at.elapsed();
    let after = standing(&w.sql, id).await;
    assert_ne!(w.owner(&after), Some(owner), "{when}: it owns the rollout all the same");
    if let Some((op, path, words)) = word {
        words.abort();
        eventually("the rollout is resumed", async || {
            say(&op, &format!("{path}/resume")).await;
            (asked(&op, &path).await["rollout"]["state"] != "paused").then_some(())
        })
        .await;
    }
    took
}

/// Pauses and resumes, over and over.
async fn interrupt(op: Client, path: String) {
    loop {
        for word in ["pause", "resume"] {
            say(&op, &format!("{path}/{word}")).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// An operator's word; whether it was answered is not what is looked at.
async fn say(op: &Client, path: &str) {
    let _ = op.try_raw("POST", path, &[("content-type", "application/json")], Bytes::from_static(b"{}")).await;
}

/// Who was frozen or cut off learns that the rollout, and mostly its lease, is lost; what it still wanted to commit has failed by then,
/// or fails after. The lease it keeps if it renews the row before anybody has removed it.
async fn restore(w: &mut Several, owner: usize, fault: Fault) {
    let process = &w.all[owner];
    let losses = |p: &Process| {
        let log = p.log();
        log.matches("the lease was lost").count() + log.matches("it is not ours any more").count()
    };
    let before = losses(process);
    match fault {
        Fault::Killed => w.all[owner].up().await,
        Fault::Frozen => w.all[owner].thaw(),
        Fault::CutOff => w.all[owner].mend(),
    }
    w.all[owner].ready().await;
    if fault != Fault::Killed {
        eventually("it learns what it has lost", async || (losses(&w.all[owner]) > before).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_the_other_goes_on_whatever_befalls_the_owner() {
    drill(2, &mut seeded(11)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_three_processes_one_goes_on_whatever_befalls_the_owner() {
    drill(3, &mut seeded(12)).await;
}
