//! A fleet that only keeps time: nodes over real HTTP that do what they are told at once and write down when.
//!
//! Lines out: `{"ready": n}` when every node is online; to each line in, the times of what was carried out since the last. After the
//! line [`HOLD`] nodes keep what they are told to themselves, until the line [`GO`].

use crate::Failure;
use crate::host::{Helper, Host, PROJECT, commands};
use crate::wire::{Wire, node_key, request};
use clap::Args;
use domain::NodeId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Semaphore, mpsc, watch};

#[derive(Args, Clone, Debug)]
pub struct FleetArgs {
    #[arg(long)]
    url: SocketAddr,
    #[arg(long)]
    nodes: usize,
    /// Enrolment token
    #[arg(long)]
    token: String,
}

/// Microseconds of the wall clock; all processes here share it.
pub fn wall_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as i64
}

/// What one node did with one order, microseconds of the wall clock.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Times {
    /// The poll's answer was read.
    pub told: i64,
    /// Its activation was acknowledged.
    pub activated: i64,
    /// The last call that said something of the new bundle: sent, and answered.
    pub sent: i64,
    pub answered: i64,
}

/// Of the last order of each node, once `nodes` of them have carried theirs out: a rollout ends a moment before its last
/// node knows.
pub async fn times_of(fleet: &mut Helper, nodes: usize) -> Result<HashMap<NodeId, Times>, Failure> {
    let mut by_node = HashMap::with_capacity(nodes);
    for _ in 0..ASKED_FOR_TIMES {
        let more: Vec<(NodeId, Times)> = serde_json::from_value(fleet.ask("times").await?)?;
        by_node.extend(more);
        if by_node.len() >= nodes {
            return Ok(by_node);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(format!("{} of {nodes} nodes carried their order out", by_node.len()).into())
}

pub const HOLD: &str = "hold";
pub const GO: &str = "go";
/// Who is held says that it is there: a fraction of the stale time.
const HELD_BEAT: Duration = Duration::from_secs(20);

/// In a process of its own, registered and online.
pub async fn timed_fleet(host: &Host, nodes: usize) -> Result<Helper, Failure> {
    let mut fleet = Helper::start(&[
        "timed-fleet".into(),
        format!("--url={}", host.address),
        format!("--nodes={nodes}"),
        format!("--token={}", host.enrolment_token().await?),
    ])?;
    fleet.hear().await?;
    Ok(fleet)
}

/// With the pause between them: ten seconds.
const ASKED_FOR_TIMES: u32 = 100;

/// Registrations under way at once: all at once would only be refused by the listener's queue.
const JOINING: usize = 256;

/// Calls that were answered 503 and made again.
static PUT_OFF: AtomicUsize = AtomicUsize::new(0);
/// With the pause between them: ten seconds.
const TIMES_PUT_OFF: u32 = 50;

/// As a real node does it: told to come again, it does. How often is said at the end; it is no good sign.
async fn patiently(wire: &mut Wire, bytes: &[u8], wanted: u16) -> Result<Value, Failure> {
    for _ in 0..TIMES_PUT_OFF {
        let answer = wire.call(bytes).await?;
        if answer.status != 503 {
            return answer.json(wanted);
        }
        PUT_OFF.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Err("the control plane answers 503 again and again".into())
}

struct Node {
    wire: Wire,
    key: String,
    id: String,
}

impl Node {
    async fn post(&mut self, path: &str, body: &Value) -> Result<Value, Failure> {
        let bytes = request("POST", path, &node_key(&self.key), &body.to_string());
        patiently(&mut self.wire, &bytes, 200).await
    }

    async fn heartbeat(&mut self, active: &str) -> Result<(), Failure> {
        let path = format!("/api/v1/nodes/{}/heartbeat", self.id);
        let body = json!({"active_bundle_id": active, "health": {"status": "healthy"}, "measured_at": now()});
        self.post(&path, &body).await.map(drop)
    }

    /// Reports, then heartbeats until the node is not waited for any more.
    async fn carry_out(&mut self, told: i64, order: &Value) -> Result<Times, Failure> {
        let bundle = order["bundle_id"].as_str().ok_or("an order without a bundle")?.to_string();
        let mut times = Times { told, ..Times::default() };
        for report in ["downloaded", "staged", "activated", "verified"] {
            let path = format!("/api/v1/nodes/{}/bundles/{bundle}/{report}", self.id);
            let health = json!({"status": "healthy"});
            let body = json!({"generation": order["generation"], "health": health, "measured_at": now()});
            times.sent = wall_us();
            let answer = self.post(&path, &body).await?;
            times.answered = wall_us();
            if report == "activated" {
                times.activated = times.answered;
            }
            if report == "staged" && answer["proceed"] != json!(true) {
                return Err(format!("may not go on: {answer}").into());
            }
            if answer["state"] == json!("verified") {
                break;
            }
            if report == "verified" {
                times.sent = wall_us();
                self.heartbeat(&bundle).await?;
                times.answered = wall_us();
            }
        }
        Ok(times)
    }
}

/// RFC 3339, by the same type that the server reads.
fn now() -> String {
    domain::Timestamp(wall_us()).to_rfc3339()
}

async fn live(
    args: FleetArgs,
    i: usize,
    joining: Arc<Semaphore>,
    ready: Arc<AtomicUsize>,
    mut held: watch::Receiver<bool>,
    out: mpsc::UnboundedSender<(String, Times)>,
) -> Result<(), Failure> {
    let turn = joining.acquire().await?;
    let mut wire = Wire::open(args.url).await?;
    let body = json!({"name": format!("timed-{i:05}")}).to_string();
    let path = format!("/api/v1/projects/{PROJECT}/nodes/register");
    let join = request("POST", &path, &format!("authorization: Bearer {}", args.token), &body);
    let made = patiently(&mut wire, &join, 201).await?;
    let text = |name: &str| made[name].as_str().map(str::to_string).ok_or("not a registration");
    let mut node = Node { wire, key: text("node_key")?, id: text("node_id")? };
    let mut runs = "baseline".to_string();
    node.heartbeat(&runs).await?;
    ready.fetch_add(1, Ordering::Relaxed);
    drop(turn);
    let path = format!("/api/v1/nodes/{}/bundles/latest?wait=60", node.id);
    let poll = request("GET", &path, &node_key(&node.key), "");
    loop {
        let answer = patiently(&mut node.wire, &poll, 200).await?;
        if answer["no_update"] == json!(true) {
            continue;
        }
        let told = wall_us();
        while tokio::time::timeout(HELD_BEAT, held.wait_for(|held| !held)).await.is_err() {
            node.heartbeat(&runs).await?;
        }
        let times = node.carry_out(told, &answer).await?;
        runs = answer["bundle_id"].as_str().unwrap_or_default().to_string();
        let _ = out.send((node.id.clone(), times));
    }
}

pub async fn run(args: FleetArgs) -> Result<(), Failure> {
    let ready = Arc::new(AtomicUsize::new(0));
    let joining = Arc::new(Semaphore::new(JOINING));
    let (out, mut times) = mpsc::unbounded_channel();
    let (failed, mut failure) = watch::channel(String::new());
    let failed = Arc::new(failed);
    let (hold, held) = watch::channel(false);
    for i in 0..args.nodes {
        let (args, joining, held) = (args.clone(), joining.clone(), held.clone());
        let (ready, out, failed) = (ready.clone(), out.clone(), failed.clone());
        tokio::task::spawn_local(async move {
            if let Err(e) = live(args, i, joining, ready, held, out).await {
                failed.send_replace(e.to_string());
            }
        });
    }
    while ready.load(Ordering::Relaxed) < args.nodes {
        if let Ok(Ok(())) = tokio::time::timeout(Duration::from_millis(20), failure.changed()).await {
            return Err(format!("a node failed: {}", *failure.borrow()).into());
        }
    }
    println!("{}", json!({"ready": args.nodes}));
    let mut lines = commands();
    loop {
        tokio::select! {
            line = lines.recv() => match line.as_deref() {
                None => {
                    match PUT_OFF.load(Ordering::Relaxed) {
                        0 => {}
                        n => eprintln!("  {n} calls of the timed fleet were answered 503, and made again"),
                    }
                    return Ok(());
                }
                Some(HOLD) => { hold.send_replace(true); }
                Some(GO) => { hold.send_replace(false); }
                Some(_) => {}
            },
            _ = failure.changed() => return Err(format!("a node failed: {}", *failure.borrow()).into()),
        }
        let mut all: Vec<(String, Times)> = Vec::new();
        while let Ok(t) = times.try_recv() {
            all.push(t);
        }
        println!("{}", serde_json::to_value(all)?);
    }
}
