//! One history: a small fleet, a rollout, an operator, and whatever goes wrong; then everything that must hold.

use super::plant::{Chaos, Plant, STALE};
use super::template::{FIRST, Template};
use super::witness::Acknowledged;
use crate::harness::check_sum;
use crate::kill9::rank;
use domain::{Span, Timestamp};
use serde_json::{Value, json};
use sim::agent::Profile;
use sim::transport::Http;
use sim::{Fleet, FleetConfig, Scenario, Transport};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Deadlines of every rollout of a history, seconds.
pub const DEADLINE: i64 = 60;
/// A history in which nothing ends is given up: longer than any chain of deadlines in it.
const LONGEST: Span = Span::secs(1_800);
/// What a takeover, a restart and the retry after it may add.
const GRACE: Span = Span::secs(30);

/// What an operator does, and when after the rollout was asked for.
#[derive(Clone, Debug)]
pub struct Command {
    pub after: Duration,
    pub name: &'static str,
    pub body: Value,
}

#[derive(Clone, Debug)]
pub struct History {
    pub seed: u64,
    pub postgres: bool,
    pub nodes: u32,
    /// Of the simulated nodes, as `sim` reads it.
    pub script: String,
    pub version: &'static str,
    /// Besides bundle and deadlines.
    pub rollout: Value,
    pub commands: Vec<Command>,
    pub chaos: Chaos,
    /// Nothing more goes wrong after this.
    pub calm_after: Duration,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ending {
    pub state: String,
    /// Member states and what the nodes run, by name.
    pub nodes: BTreeMap<String, (String, Option<String>)>,
}

#[derive(Debug)]
pub struct Told {
    pub ending: Ending,
    pub commits: Vec<&'static str>,
    pub deaths: u32,
    pub acknowledged: usize,
}

impl History {
    /// Runs it on a runtime of its own, in virtual time on SQLite. Panics when something does not hold.
    pub fn run(&self) -> Told {
        // Before there is a runtime: it is made in one of its own.
        Template::get();
        let mut builder = if self.postgres {
            tokio::runtime::Builder::new_multi_thread()
        } else {
            tokio::runtime::Builder::new_current_thread()
        };
        let runtime = builder.worker_threads(2).enable_all().start_paused(!self.postgres).build().unwrap();
        let told = runtime.block_on(self.play());
        runtime.shutdown_background();
        told
    }

    async fn play(&self) -> Told {
        let plant = match self.postgres {
            true => Plant::on_postgres(self.seed, self.chaos.clone()).await,
            false => Plant::on_sqlite(self.seed, self.chaos.clone()).await,
        };
        let fleet = self.fleet(&plant).await;
        let first = json!({"bundle_id": plant.bundles[FIRST], "batch_size": self.nodes});
        let first = create(&plant, &first, "first").await;
        until(&plant, "the first rollout is completed", async || {
            (state(&plant, &first).await == "completed").then_some(())
        })
        .await;

        plant.arm(true);
        plant.witness.disturbed(plant.now());
        let begun = plant.now();
        let id = self.begin(&plant).await;
        let operator = Operator { plant: plant.clone(), id: id.clone(), made: BTreeMap::new() };
        let mut operator = tokio::spawn(operator.work(self.commands.clone(), begun));
        let mut made = None;
        let mut watch = Watch::new(&plant);
        let ended = loop {
            let r = watch.look(&id, &self.rollout).await;
            let quiet = plant.now().since(begun) > Span(self.calm_after.as_micros() as i64);
            if quiet {
                plant.arm(false);
            }
            if made.is_none() && operator.is_finished() {
                made = Some((&mut operator).await.unwrap());
            }
            let state = r["state"].as_str().unwrap();
            let ended = matches!(state, "completed" | "failed" | "cancelled" | "rolled_back");
            if let Some(made) = made.as_mut().filter(|_| ended) {
                // Whoever was not back in time stays so until somebody asks again.
                if r["progress"]["rollback_failed"] == 0 {
                    break r;
                }
                *made.entry("restored").or_default() += 1;
                plant.witness.disturbed(plant.now());
                let n = made["restored"];
                decide(&plant, &id, &format!("restore {n}"), "retry", &json!({}), made).await;
            }
            if let Some(made) = made.as_mut().filter(|_| state == "paused" && (quiet || self.chaos.deaths == 0)) {
                // Somebody has to decide: whatever holds it up is accepted, and if that does not help it goes back.
                let command = match made.entry("accepted").or_default() {
                    0 => ("resume", json!({"accept_failed": true})),
                    1 => ("resume", json!({})),
                    _ => ("rollback", json!({})),
                };
                *made.entry("accepted").or_default() += 1;
                plant.witness.disturbed(plant.now());
                let n = made["accepted"];
                decide(&plant, &id, &format!("accept {n}"), command.0, &command.1, made).await;
            }
            assert!(plant.now().since(begun) < LONGEST, "the rollout does not end: {r:#}");
            tokio::time::sleep(Duration::from_millis(if self.postgres { 200 } else { 1_000 })).await;
        };
        // The end is the end, whatever dies now; and nodes are brought where they belong.
        plant.arm(false);
        let nodes = until(&plant, "every node runs what it is desired on, and has verified it", async || {
            let nodes = watch.nodes().await;
            nodes.values().all(settled).then_some(nodes)
        })
        .await;
        let made = made.unwrap();
        self.check(&plant, &id, &made, &mut watch).await;
        let report = fleet.stop().await.unwrap();
        assert_eq!(report.count("refused"), 0, "a node was told something that it must refuse: {report}");
        let members = members(&plant, &id).await;
        let versions: BTreeMap<&str, &str> = plant.bundles.iter().map(|(v, id)| (id.as_str(), *v)).collect();
        let content = rows(&plant.get("/api/v1/projects/p/bundles?limit=50").await, "bundles");
        let version = |n: &Value| {
            let row = content.iter().find(|b| [&b["id"], &b["bundle_id"]].contains(&&n["active_bundle_id"]))?;
            versions.get(row["bundle_id"].as_str()?).map(|v| v.to_string())
        };
        let nodes = members.iter().map(|(name, m)| (name.clone(), (text(m, "state"), version(&nodes[name])))).collect();
        let told = Told {
            ending: Ending { state: text(&ended, "state"), nodes },
            commits: plant.commits(),
            deaths: plant.deaths(),
            acknowledged: plant.witness.acknowledged().len(),
        };
        plant.abandon();
        told
    }

    async fn fleet(&self, plant: &Arc<Plant>) -> Fleet {
        let calls = plant.clone();
        let calls = Http::inside(move |request| calls.clone().node_call(request));
        let config = FleetConfig {
            project: "p".into(),
            nodes: self.nodes,
            name_prefix: "n-".into(),
            scenario: Scenario::parse(&self.script).unwrap(),
            profile: Profile { long_poll_s: 20, ..Profile::default() },
            seed: self.seed,
            clock: plant.is_virtual().then(|| sim::clock::Clock::starting_at(plant.now())),
            ..FleetConfig::default()
        };
        let fleet = Fleet::start(config, Transport::Http(calls)).await.unwrap();
        until(plant, "all nodes are online", async || {
            let all = rows(&plant.get("/api/v1/projects/p/nodes?limit=100").await, "nodes");
            (all.iter().filter(|n| n["status"] == "online").count() == self.nodes as usize).then_some(())
        })
        .await;
        fleet
    }

    async fn begin(&self, plant: &Plant) -> String {
        let mut body = json!({
            "bundle_id": plant.bundles[self.version],
            "progress_deadline_seconds": DEADLINE,
            "rollback_deadline_seconds": DEADLINE,
            "gate_freshness_seconds": 10,
        });
        for (k, v) in self.rollout.as_object().unwrap() {
            body[k] = v.clone();
        }
        create(plant, &body, "the rollout").await
    }

    /// What must hold whatever happened (ENGINE.md section 9).
    async fn check(&self, plant: &Plant, id: &str, made: &BTreeMap<&'static str, u64>, watch: &mut Watch<'_>) {
        watch.reports_survive(id).await;
        assert_eq!(plant.witness.wrong(), Vec::<String>::new());
        let verdict = plant.get("/api/v1/audit/verify").await;
        assert_eq!(verdict["valid"], true, "{verdict:#}");
        // Every command that changed something has exactly one entry, and none exists without it.
        for (command, action) in [
            ("pause", "rollout.paused"),
            ("resume", "rollout.resumed"),
            ("cancel", "rollout.cancelled"),
            ("rollback", "rollout.rollback_started"),
        ] {
            let path = format!("/api/v1/projects/p/audit_logs?limit=500&action={action}&resource={id}&actor=api_key");
            let entries = plant.get(&path).await["total"].as_u64().unwrap();
            assert_eq!(entries, made.get(command).copied().unwrap_or(0), "audit entries {action}; answered: {made:?}");
        }
        let created = "/api/v1/projects/p/audit_logs?limit=500&action=rollout.created";
        assert_eq!(plant.get(created).await["total"], 2, "a rollout was made twice, or without its entry");
    }
}

/// Nothing is desired that was not verified, and that is what runs.
fn settled(n: &Value) -> bool {
    n["desired_bundle_id"] == n["verified_bundle_id"] && n["active_bundle_id"] == n["desired_bundle_id"]
}

struct Operator {
    plant: Arc<Plant>,
    id: String,
    /// Commands that were answered `changed: true`.
    made: BTreeMap<&'static str, u64>,
}

impl Operator {
    async fn work(mut self, commands: Vec<Command>, begun: Timestamp) -> BTreeMap<&'static str, u64> {
        for (i, c) in commands.into_iter().enumerate() {
            let at = begun + Span(c.after.as_micros() as i64);
            tokio::time::sleep(at.since(self.plant.now()).to_std()).await;
            decide(&self.plant, &self.id, &format!("command {i}"), c.name, &c.body, &mut self.made).await;
            self.plant.witness.disturbed(self.plant.now());
        }
        self.made
    }
}

/// A command, asked until it is answered, once however often it is asked.
async fn decide(
    plant: &Plant,
    id: &str,
    key: &str,
    command: &'static str,
    body: &Value,
    made: &mut BTreeMap<&'static str, u64>,
) {
    let (status, answer) = plant.insist("POST", &format!("/api/v1/rollouts/{id}/{command}"), Some(key), body).await;
    assert!(matches!(status, 200 | 409), "{command}: {status} {answer:#}");
    if status == 200 && answer["changed"] == true {
        *made.entry(command).or_default() += 1;
    }
}

async fn create(plant: &Plant, body: &Value, key: &str) -> String {
    let (status, made) = plant.insist("POST", "/api/v1/projects/p/rollouts", Some(key), body).await;
    assert_eq!(status, 201, "{made:#}");
    text(&made["rollout"], "id")
}

async fn state(plant: &Plant, id: &str) -> String {
    text(&plant.get(&format!("/api/v1/rollouts/{id}")).await["rollout"], "state")
}

async fn members(plant: &Plant, id: &str) -> BTreeMap<String, Value> {
    let all = rows(&plant.get(&format!("/api/v1/rollouts/{id}/nodes?limit=100")).await, "nodes");
    all.into_iter().map(|m| (text(&m, "name"), m)).collect()
}

fn rows(listing: &Value, name: &str) -> Vec<Value> {
    listing[name].as_array().unwrap().clone()
}

fn text(v: &Value, name: &str) -> String {
    v[name].as_str().unwrap_or_else(|| panic!("no {name} in {v:#}")).to_string()
}

async fn until<T>(plant: &Plant, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = plant.now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        if plant.now().since(begun) > Span::secs(if plant.is_virtual() { 600 } else { 90 }) {
            let nodes = plant.get("/api/v1/projects/p/nodes?limit=100").await;
            let all = plant.get("/api/v1/projects/p/rollouts?limit=20").await;
            let mut seen = format!("{nodes:#}");
            for r in rows(&all, "rollouts") {
                let of = format!("/api/v1/rollouts/{}", text(&r, "id"));
                let members = plant.get(&format!("{of}/nodes?limit=100")).await;
                let events = plant.get(&format!("{of}/events?limit=500")).await;
                seen += &format!("\nrollout {r:#}\nits nodes {members:#}\nits events {events:#}");
            }
            panic!("did not happen: {what}\n{seen}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Looks at everything again and again: what may never be otherwise, at no instant.
struct Watch<'a> {
    plant: &'a Plant,
    version: u64,
    moved: Timestamp,
}

impl<'a> Watch<'a> {
    fn new(plant: &'a Plant) -> Watch<'a> {
        Watch { plant, version: 0, moved: plant.now() }
    }

    async fn nodes(&self) -> BTreeMap<String, Value> {
        let all = rows(&self.plant.get("/api/v1/projects/p/nodes?limit=100").await, "nodes");
        self.plant.witness.looked(&all);
        all.into_iter().map(|n| (text(&n, "name"), n)).collect()
    }

    async fn look(&mut self, id: &str, spec: &Value) -> Value {
        let r = self.plant.get(&format!("/api/v1/rollouts/{id}")).await["rollout"].clone();
        check_sum(&r);
        self.nodes().await;
        if self.plant.is_virtual() {
            // With two instances what was acknowledged may still lie in the other's inbox.
            self.reports_survive(id).await;
        }
        let version = r["version"].as_u64().unwrap();
        if version != self.version {
            (self.version, self.moved) = (version, self.plant.now());
        }
        self.ends_or_names_its_blocker(&r, spec);
        r
    }

    /// Every acknowledged report is at least as far as it said, or about an older generation.
    async fn reports_survive(&self, id: &str) {
        let before: Vec<Acknowledged> = self.plant.witness.acknowledged();
        let members = members(self.plant, id).await;
        for a in before.iter().filter(|a| a.rollout == id) {
            let m = members.values().find(|m| m["node_id"] == a.node.as_str()).unwrap();
            let newer = m["generation"].as_u64() > Some(a.generation);
            // The node's own verdict is one observation: the engine says when it is verified.
            let kind = if a.kind == "verified" { "activated" } else { &a.kind };
            // A retry takes a failed member out of the generation that it was sent back to: it waits for its next one.
            let retried = matches!(text(m, "state").as_str(), "pending" | "owed") && m["attempt"].as_u64() > Some(0);
            let kept = newer || retried || rank(&text(m, "state")) >= rank(kind);
            assert!(kept, "{a:?} was acknowledged, and the node is {m:#}");
        }
    }

    /// Liveness: within one deadline plus the stale time of the last change or disturbance a rollout has ended, or says what it
    /// waits for.
    fn ends_or_names_its_blocker(&self, r: &Value, spec: &Value) {
        let (state, primary) = (text(r, "state"), text(&r["primary"], "code"));
        assert!(!primary.is_empty(), "no reason: {r:#}");
        let on_its_way: BTreeSet<&str> = ["step_in_progress", "starting", "restoring", "catch_up"].into();
        let active = matches!(state.as_str(), "pending" | "running" | "paused" | "rolling_back");
        if !active || !on_its_way.contains(primary.as_str()) {
            return;
        }
        let soak = Span::secs(spec["min_healthy_seconds"].as_i64().unwrap_or(0));
        let since = self.plant.witness.last_disturbed().map_or(self.moved, |d| d.max(self.moved));
        let still = self.plant.now().since(since);
        let most = Span::secs(DEADLINE) + soak + STALE + GRACE;
        assert!(still <= most, "nothing has happened for {still:?}, and it says only {primary}: {r:#}");
    }
}
