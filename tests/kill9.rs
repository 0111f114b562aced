//! `kill -9` at random instants during rollouts of 40 nodes, and a start on the same data: every rollout reaches its right end,
//! generations never go down, no acknowledged report is lost, the audit chains verify.
//!
//! Four kills; fifty with `SENTINEL_LONG=1`. The seed is printed and may be given as `SENTINEL_SEED`.

use crate::harness::*;
use bytes::Bytes;
use serde_json::{Value, json};
use sim::Behaviour;
use sim::dice::Dice;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

const NODES: u32 = 40;
/// Each of five batches takes about half a second.
const BATCH: u32 = 8;
const SCRIPT: &str = "[default]\napply_delay = \"350ms\"\n[[rule]]\nmatch = \"n-17\"\nfail_on_version = \"bad*\"\n";
/// When a kill comes, after the rollout was asked for; longer than a rollout takes, so that some come at its very end.
const WITHIN_MS: u64 = 3_500;

pub fn below(n: u64, dice: &mut Dice) -> u64 {
    dice.throw() % n
}

/// A port that nobody listens on, below those the system gives to outgoing connections: nobody takes it while we are dead.
pub fn free_port(dice: &mut Dice) -> u16 {
    for _ in 0..200 {
        let port = 18_000 + (below(10_000, dice) as u16);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between 18000 and 28000");
}

/// The real program on one data directory and one port.
pub struct Server {
    child: Child,
    pub url: String,
    port: u16,
    data: std::path::PathBuf,
}

impl Server {
    fn spawn(data: &Path, port: u16) -> Child {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(data.join("log")).unwrap();
        Command::new(env!("CARGO_BIN_EXE_sentinel-cp"))
            .args([
                "serve",
                "--lease-seconds",
                "1",
                "--rate-limit-per-key",
                "1000000",
                "--log",
                "warn",
                "--log-format",
                "text",
            ])
            .args(["--listen", &format!("127.0.0.1:{port}"), "--data-dir"])
            .arg(data)
            .env("SENTINEL_CP_BOOTSTRAP_API_KEY", KEY)
            .env("SENTINEL_CP_ADMIN_PASSWORD", "correct horse battery staple")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    pub async fn start(data: &Path, port: u16) -> Server {
        let server = Server {
            child: Server::spawn(data, port),
            url: format!("http://127.0.0.1:{port}"),
            port,
            data: data.into(),
        };
        server.ready().await;
        server
    }

    pub async fn ready(&self) {
        let http = Client::new(&self.url, None);
        eventually("the server is ready", async || {
            let answer = http.try_raw("GET", "/ready", &[], Bytes::new()).await;
            answer.is_ok_and(|a| a.status == 200).then_some(())
        })
        .await;
    }

    /// SIGKILL, and a new process on the same data. Answers how long nobody was there.
    pub async fn kill_and_restart(&mut self) -> Duration {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let dead = Instant::now();
        self.child = Server::spawn(&self.data, self.port);
        self.ready().await;
        dead.elapsed()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.data.join("log")).unwrap_or_default();
            let from = log.len().saturating_sub(4_000);
            println!("the end of the server's log:\n{}", String::from_utf8_lossy(&log.as_bytes()[from..]));
        }
    }
}

/// Makes the rollout, asking until the server answers; with the same idempotency key, so that it is done once.
pub async fn insist(op: Client, key: String, body: Value) -> Value {
    let path = "/api/v1/projects/p/rollouts";
    let headers = [("content-type", "application/json"), ("idempotency-key", key.as_str())];
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        pace.tick().await;
        let Ok(answer) = op.try_raw("POST", path, &headers, Bytes::from(body.to_string())).await else { continue };
        if answer.status != 503 {
            return answer.expect(201);
        }
    }
    panic!("the rollout could not be asked for within {PATIENCE:?}");
}

pub async fn seen(op: &Client, path: &str) -> Value {
    eventually(&format!("GET {path} is answered"), async || {
        let answer = op.try_raw("GET", path, &[], Bytes::new()).await.ok()?;
        (answer.status == 200).then_some(answer.body)
    })
    .await
}

/// How far a node of a rollout is. What comes after a failure or a withdrawal is at least as far as any report.
pub fn rank(state: &str) -> u8 {
    match state {
        "pending" | "owed" => 0,
        "assigned" => 1,
        "downloaded" => 2,
        "staged" => 3,
        "activated" => 4,
        _ => 5,
    }
}

/// The last report of the hand-driven node that was answered with 2xx: rollout and kind.
type Acknowledged = Arc<Mutex<BTreeMap<String, (u64, String)>>>;

/// A node that does as it is told, call by call, for ever, and writes down what was acknowledged.
async fn drive(node: Hand, acknowledged: Acknowledged, count: Arc<Mutex<u64>>) {
    let mut active = Value::Null;
    let mut beat = tokio::time::interval(Duration::from_millis(250));
    loop {
        beat.tick().await;
        let post = async |path: String, body: Value| {
            let headers = [("content-type", "application/json")];
            node.http.try_raw("POST", &path, &headers, Bytes::from(body.to_string())).await
        };
        let _ = post(format!("/api/v1/nodes/{}/heartbeat", node.id), json!({"active_bundle_id": active})).await;
        let path = format!("/api/v1/nodes/{}/bundles/latest?wait=1", node.id);
        let Ok(told) = node.http.try_raw("GET", &path, &[], Bytes::new()).await else { continue };
        if told.status != 200 || told.body["no_update"] == true {
            continue;
        }
        let told = told.body;
        let name = told["bundle_id"].as_str().unwrap_or("baseline").to_string();
        let generation = told["generation"].as_u64().unwrap();
        for what in ["downloaded", "staged", "activated", "verified"] {
            let body = json!({"generation": generation, "rollout_id": told["rollout_id"]});
            // Repeated until it is acknowledged or refused, as an agent does.
            let answer = loop {
                match post(node.report_path(&name, what), body.clone()).await {
                    Ok(a) if a.status < 500 => break a,
                    _ => beat.tick().await,
                };
            };
            if answer.status != 200
                || answer.body["stale"] == true
                || (what == "staged" && answer.body["proceed"] == false)
            {
                break;
            }
            if what == "activated" {
                active = told["bundle_id"].clone();
            }
            *count.lock().unwrap() += 1;
            if let Some(rollout) = told["rollout_id"].as_str() {
                acknowledged.lock().unwrap().insert(rollout.to_string(), (generation, what.to_string()));
            }
        }
    }
}

/// Looks at all generations, over and over: each only grows, whoever answers.
async fn watch(op: Client, looks: Arc<Mutex<u64>>) {
    let mut highest: BTreeMap<String, u64> = BTreeMap::new();
    let mut pace = tokio::time::interval(Duration::from_millis(60));
    loop {
        pace.tick().await;
        let Ok(answer) = op.try_raw("GET", "/api/v1/projects/p/nodes?limit=100", &[], Bytes::new()).await else {
            continue;
        };
        if answer.status != 200 {
            continue;
        }
        *looks.lock().unwrap() += 1;
        for node in answer.body["nodes"].as_array().unwrap() {
            let (name, now) = (node["name"].as_str().unwrap().to_string(), node["generation"].as_u64().unwrap());
            let before = highest.insert(name.clone(), now).unwrap_or(0);
            assert!(now >= before, "the generation of {name} went down from {before} to {now}");
        }
    }
}

/// A task of ours that must not have ended: it only ends by a failed assertion.
async fn still_runs(task: &mut JoinHandle<()>) {
    if task.is_finished() {
        task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_instants_every_rollout_reaches_its_right_end() {
    let long = std::env::var("SENTINEL_LONG").is_ok_and(|v| v == "1");
    let kills: u32 = if long { 50 } else { 4 };
    let seed = std::env::var("SENTINEL_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20_261_121);
    println!("seed {seed}");
    let mut dice = Dice::new(seed, 0);
    let begun = Instant::now();
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), free_port(&mut dice)).await;
    let op = Client::operator(&server.url);
    open_project(&op, "p").await;
    let fleet = fleet(&server.url, "p", NODES, Behaviour::default(), SCRIPT).await;
    let hand = Hand::register(&server.url, "p", "hand").await;
    let hand_id = hand.id.clone();
    online(&op, "p", u64::from(NODES) + 1).await;
    let (acknowledged, reports, looks) = (Acknowledged::default(), Arc::new(Mutex::new(0)), Arc::new(Mutex::new(0)));
    let mut driver = tokio::spawn(drive(hand, acknowledged.clone(), reports.clone()));
    let mut watcher = tokio::spawn(watch(op.clone(), looks.clone()));

    let good = bundle_of(&op, "p", "good-0").await;
    let first = roll_out(&op, "p", json!({"bundle_id": good["bundle_id"], "batch_size": NODES + 1})).await;
    reaches(&op, &first, "completed").await;
    let mut current = good["bundle_id"].clone();
    let (mut killed, mut during, mut round, mut away, mut ends) =
        (0, 0, 0, Duration::ZERO, BTreeMap::<&str, u32>::new());
    while killed < kills {
        round += 1;
        let (version, on_failure, end) = match round % 3 {
            1 => (format!("good-{round}"), "pause", "completed"),
            2 => (format!("bad-{round}"), "rollback", "rolled_back"),
            _ => (format!("bad-{round}"), "fail", "failed"),
        };
        let b = bundle_of(&op, "p", &version).await;
        // Two kills for a rollout now and then: also a process that has hardly come up dies.
        let times = (1 + u32::from(below(3, &mut dice) == 0)).min(kills - killed);
        let mut at = below(WITHIN_MS, &mut dice);
        let asked = {
            let (op, id) = (op.clone(), b["bundle_id"].clone());
            let body = json!({"bundle_id": id, "batch_size": BATCH, "on_failure": on_failure});
            tokio::spawn(insist(op, format!("round {round}"), body))
        };
        for _ in 0..times {
            tokio::time::sleep(Duration::from_millis(at)).await;
            let before = acknowledged.lock().unwrap().clone();
            away += server.kill_and_restart().await;
            killed += 1;
            let active = seen(&op, "/api/v1/projects/p/rollouts?state=active").await;
            during += u32::from(active["total"] == 1);
            for (rollout, (generation, what)) in before.iter().rev().take(2) {
                let all = seen(&op, &format!("/api/v1/rollouts/{rollout}/nodes?limit=500")).await;
                let mine = all["nodes"].as_array().unwrap().iter().find(|n| n["node_id"] == hand_id).unwrap().clone();
                let state = mine["state"].as_str().unwrap();
                assert!(
                    mine["generation"].as_u64() > Some(*generation) || rank(state) >= rank(what),
                    "round {round}: {what} of generation {generation} was acknowledged, and after the kill the node is {mine:#}"
                );
            }
            at = below(WITHIN_MS, &mut dice);
        }
        let made = asked.await.unwrap();
        let id = made["rollout"]["id"].as_str().unwrap().to_string();
        let r = eventually(&format!("round {round}: rollout {id} is {end}"), async || {
            let r = seen(&op, &format!("/api/v1/rollouts/{id}")).await["rollout"].clone();
            check_sum(&r);
            (r["state"] == end).then_some(r)
        })
        .await;
        *ends.entry(end).or_default() += 1;
        match end {
            "completed" => {
                assert_eq!(r["progress"]["verified"].as_u64(), Some(u64::from(NODES) + 1), "{r:#}");
                current = b["bundle_id"].clone();
            }
            "rolled_back" => assert_eq!(r["progress"]["rollback_failed"], 0, "{r:#}"),
            // Those verified before the failure keep it; all others are told their last verified bundle again.
            _ => assert!(r["progress"]["failed"].as_u64() >= Some(1), "{r:#}"),
        }
        eventually("every node is desired on, and runs, what it verified", async || {
            let now = seen(&op, "/api/v1/projects/p/nodes?limit=100").await;
            let settled = |n: &Value| {
                let kept = end == "failed" && n["active_bundle_id"] == b["bundle_id"];
                let right = n["active_bundle_id"] == current || kept;
                right
                    && n["desired_bundle_id"] == n["verified_bundle_id"]
                    && n["active_bundle_id"] == n["desired_bundle_id"]
            };
            now["nodes"].as_array().unwrap().iter().all(settled).then_some(())
        })
        .await;
        if end == "failed" {
            // All on one bundle again before the next round.
            let fixed = bundle_of(&op, "p", &format!("good-{round}-after")).await;
            let id = roll_out(&op, "p", json!({"bundle_id": fixed["bundle_id"], "batch_size": NODES + 1})).await;
            reaches(&op, &id, "completed").await;
            current = fixed["bundle_id"].clone();
        }
        chains_hold(&op).await;
        still_runs(&mut driver).await;
        still_runs(&mut watcher).await;
    }
    driver.abort();
    watcher.abort();
    fleet.stop().await.unwrap();
    let entries = op.get("/api/v1/audit/verify").await.expect(200)["entries"].clone();
    println!(
        "kill9: {killed} kills ({during} with the rollout under way) in {round} rollouts of {} nodes, ends {ends:?}, {} acknowledged reports of the node driven by hand all kept, \
         {} looks at generations, {entries} audit entries verify, {:.1} s down at a time, {:.0} s in all, seed {seed}",
        NODES + 1,
        reports.lock().unwrap(),
        looks.lock().unwrap(),
        away.as_secs_f64() / f64::from(killed),
        begun.elapsed().as_secs_f64()
    );
    let rounds: u32 = ends.values().sum();
    assert_eq!((killed, rounds), (kills, round));
    assert!(during * 3 >= kills, "only {during} of {kills} kills came during a rollout: it is over too soon");
}
