//! Several processes of the product on one PostgreSQL: heartbeats by 1, 2 and 3 of them, the statements that reach the server for a
//! heartbeat and for a step of a rollout, the start after a kill, how soon another one goes on, and a plan over very many nodes.
//!
//! Statements are counted by the server itself (`pg_stat_statements`), so nothing is left out.

use crate::Failure;
use crate::host::{Helper, PROJECT, compile, operator, seed_nodes};
use crate::plan;
use crate::process::{Running, start_with};
use crate::table::{Bar, Table, median};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};
use store::testing::{empty_postgres, rows};
use store::{Store, StoreConfig};

const NAME: &str = "several";
const NODES: usize = 1_000;
/// To show that nothing grows with the fleet.
const SMALL: usize = 250;
const CONNECTIONS: usize = 60;
/// Processes at most.
const MOST: usize = 3;
const STEPS: usize = 10;
/// The nodes whose rollout loses its owner, and of each of its steps.
const ORPHANS: usize = 200;
const ORPHANS_AT_ONCE: usize = 10;
/// Events after which it is well under way.
const UNDER_WAY: i64 = 5;
/// 32 bytes, base64.
const MASTER_KEY: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
/// A rollout here ends within this.
const PATIENCE: Duration = Duration::from_secs(180);

/// Calls by the server's id of the statement, with its text: that differs from one count to the next, in whether its constants
/// were already replaced when it was noted.
type Calls = BTreeMap<String, (String, u64)>;

fn total(calls: &Calls) -> u64 {
    calls.values().map(|(_, n)| n).sum()
}

struct Ground {
    url: String,
    dir: tempfile::TempDir,
    all: Vec<Running>,
}

impl Ground {
    async fn new() -> Result<Ground, Failure> {
        Ok(Ground { url: empty_postgres().await, dir: tempfile::tempdir()?, all: Vec::new() })
    }

    async fn one_more(&mut self, product: &Path) -> Result<(), Failure> {
        let storage = format!("file://{}", self.dir.path().join("artifacts").display());
        let data = self.dir.path().join(format!("data-{}", self.all.len()));
        let settings = [
            ("SENTINEL_CP_DATABASE_URL", self.url.as_str()),
            ("SENTINEL_CP_STORAGE", &storage),
            ("SENTINEL_CP_MASTER_KEY", MASTER_KEY),
            ("SENTINEL_CP_RATE_LIMIT_PER_KEY", "1000000"),
            // A closed loop asks far more of a node than any node does.
            ("SENTINEL_CP_RATE_LIMIT_PER_NODE", "10000000"),
        ];
        self.all.push(start_with(product, &data, &settings).await?);
        Ok(())
    }

    fn first(&self) -> SocketAddr {
        self.all[0].address
    }

    async fn open_project(&self) -> Result<(), Failure> {
        let settings = json!({"open_registration": true, "adopt_on_registration": true});
        let project = json!({"name": PROJECT, "slug": PROJECT, "settings": settings});
        operator(self.first(), "POST", "/api/v1/projects", Some(project)).await.map(drop)
    }

    async fn store(&self) -> Result<Store, Failure> {
        Ok(Store::open(StoreConfig::postgres(&self.url), &prometheus::Registry::new()).await?)
    }

    async fn forget_calls(&self) {
        rows(&self.url, "SELECT pg_stat_statements_reset()").await;
    }

    async fn calls(&self) -> Calls {
        let sql = "SELECT s.queryid, s.query, s.calls FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid \
                   WHERE d.datname = current_database() AND s.query NOT LIKE '%pg_stat_statements%'";
        let mut calls = Calls::new();
        for row in rows(&self.url, sql).await {
            calls.entry(row[0].clone()).or_insert((row[1].clone(), 0)).1 += row[2].parse().unwrap_or(0);
        }
        calls
    }
}

/// The same load, spread evenly over the first `n` processes. Answers heartbeats a second, and how many there were.
async fn beats(g: &Ground, n: usize, nodes: usize, ids: &Path, active: &str, ms: u32) -> Result<(f64, u64), Failure> {
    let mut helpers = Vec::new();
    for (i, p) in g.all.iter().take(n).enumerate() {
        helpers.push(Helper::start(&[
            "load".into(),
            format!("--full={}", p.address),
            format!("--ids={}", ids.display()),
            format!("--active={active}"),
            format!("--connections={}", CONNECTIONS / n),
            format!("--first={}", i * nodes / n),
            format!("--count={}", nodes / n),
        ])?);
    }
    let mut said = [(0.0, 0); 3];
    // The first rounds start sessions and store what changed; the last-seen times of the second are part of the steady state.
    for (round, ms) in [2_000, 2_000, ms].into_iter().enumerate() {
        if round == 2 {
            g.forget_calls().await;
        }
        let line = format!("beat full {ms}");
        let answers = all_at_once(&mut helpers, &line).await?;
        let number = |a: &Value, name: &str| a.get(name).and_then(Value::as_f64).unwrap_or(0.0);
        let rate = answers.iter().map(|a| number(a, "n") / number(a, "seconds").max(0.001)).sum();
        said[round] = (rate, answers.iter().map(|a| number(a, "n") as u64).sum());
    }
    for h in helpers {
        h.finish().await?;
    }
    Ok(said[2])
}

async fn all_at_once(helpers: &mut [Helper], line: &str) -> Result<Vec<Value>, Failure> {
    // Told at once, heard in turn: all rounds have the same length.
    for h in helpers.iter_mut() {
        h.tell(line).await?;
    }
    let mut answers = Vec::with_capacity(helpers.len());
    for h in helpers {
        answers.push(h.hear().await?);
    }
    Ok(answers)
}

fn listed(calls: &Calls, most: usize) -> String {
    let mut by_count: Vec<&(String, u64)> = calls.values().collect();
    by_count.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    let line = |(q, n): &(String, u64)| {
        let one: String = q.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(110).collect();
        format!("  {n:>7}  {one}")
    };
    by_count.into_iter().take(most).map(line).collect::<Vec<_>>().join("\n")
}

async fn heartbeats(table: &mut Table, product: &Path, ms: u32) -> Result<(), Failure> {
    let mut g = Ground::new().await?;
    rows(&g.url, "CREATE EXTENSION IF NOT EXISTS pg_stat_statements").await;
    g.one_more(product).await?;
    g.open_project().await?;
    let store = g.store().await?;
    let ids = seed_nodes(&store, NODES).await?;
    let file = g.dir.path().join("ids");
    std::fs::write(&file, ids.iter().map(|id| format!("{id}\n")).collect::<String>())?;
    let active = compile(g.first(), "v1", bundle::samples::DEMO_V1).await?;

    for n in 1..=MOST {
        if n > 1 {
            g.one_more(product).await?;
        }
        // The same processes with fewer nodes: of one, and of the most.
        let few = match n == 1 || n == MOST {
            true => {
                beats(&g, n, SMALL, &file, &active, ms).await?;
                Some(g.calls().await)
            }
            false => None,
        };
        let (rate, done) = beats(&g, n, NODES, &file, &active, ms).await?;
        let calls = g.calls().await;
        let all = total(&calls);
        let what = format!("{NODES} nodes, {CONNECTIONS} connections, over {n} processes: heartbeats");
        table.add(NAME, what, rate, "/s", Bar::None);
        let each = format!("  statements of all {n} in those {done} heartbeats, for a heartbeat");
        table.add(NAME, each, all as f64 / done.max(1) as f64, "", Bar::None);
        if let Some(few) = few {
            growth(table, n, &few, &calls);
            table.note(format!(
                "several: all statements of {n} processes in {ms} ms of {done} heartbeats of {NODES} nodes:\n{}",
                listed(&calls, 40)
            ));
        }
    }
    store.close().await;
    Ok(())
}

/// Each statement is by the clock, or a batch: with four times the nodes none comes more often. Twice, and four more for each process,
/// are the ticks that a window may hold more than another.
fn growth(table: &mut Table, processes: usize, few: &Calls, many: &Calls) {
    let slack = 4 * processes as u64;
    let is_grown = |id: &String, n: u64| n > 2 * few.get(id).map_or(0, |(_, n)| *n) + slack;
    let grown: Calls =
        many.iter().filter(|(id, (_, n))| is_grown(id, *n)).map(|(id, call)| (id.clone(), call.clone())).collect();
    let what = format!("  statements of {processes} that come more often for {NODES} nodes than for {SMALL}");
    table.add(NAME, what, grown.len() as f64, "", Bar::AtMost { floor: 0.0, aim: 0.0 });
    if !grown.is_empty() {
        table.note(format!("several: GROWN with the fleet, of {processes}:\n{}", listed(&grown, 20)));
    }
}

async fn token(at: SocketAddr) -> Result<String, Failure> {
    let made =
        operator(at, "POST", &format!("/api/v1/projects/{PROJECT}/enrolment-tokens"), Some(json!({"name": "b"})))
            .await?;
    Ok(made["token"].as_str().ok_or("no token")?.to_string())
}

async fn completed(at: SocketAddr, spec: Value) -> Result<(), Failure> {
    let made = operator(at, "POST", &format!("/api/v1/projects/{PROJECT}/rollouts"), Some(spec)).await?;
    let path = format!("/api/v1/rollouts/{}", made["rollout"]["id"].as_str().ok_or("no rollout")?);
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let now = operator(at, "GET", &path, None).await?;
        if now["rollout"]["state"] == "completed" {
            return Ok(());
        }
        // Rarely: the question is counted too.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Err("the rollout does not complete".into())
}

/// What a step costs, and that it costs the same for more nodes.
async fn steps(table: &mut Table, product: &Path) -> Result<(), Failure> {
    for (nodes, processes) in [(200, 1), (NODES, 1), (NODES, MOST)] {
        let mut g = Ground::new().await?;
        rows(&g.url, "CREATE EXTENSION IF NOT EXISTS pg_stat_statements").await;
        for _ in 0..processes {
            g.one_more(product).await?;
        }
        g.open_project().await?;
        let bundle = compile(g.first(), "v1", bundle::samples::DEMO_V1).await?;
        let mut fleets = Vec::new();
        for i in 0..processes {
            fleets.push(fleet(&g, i, nodes / processes).await?);
        }
        g.forget_calls().await;
        completed(g.first(), json!({"bundle_id": bundle, "batch_size": nodes / STEPS})).await?;
        let calls = g.calls().await;
        for fleet in fleets {
            fleet.finish().await?;
        }
        let all = total(&calls);
        let on = if processes == 1 { "on one process".to_string() } else { format!("over {processes} processes") };
        let what = format!("statements a step, {STEPS} steps of {} nodes {on}", nodes / STEPS);
        table.add(NAME, what, all as f64 / STEPS as f64, "", Bar::None);
        let what = format!("  a step and node, of {}", nodes / STEPS);
        table.add(NAME, what, all as f64 / nodes as f64, "", Bar::None);
        table.note(format!(
            "several: statements of a rollout over {nodes} nodes in {STEPS} steps {on}:\n{}",
            listed(&calls, 25)
        ));
    }
    Ok(())
}

/// Nodes that talk to the `i`th process; there, and registered.
async fn fleet(g: &Ground, i: usize, nodes: usize) -> Result<Helper, Failure> {
    let mut fleet = Helper::start(&[
        "sim-fleet".into(),
        format!("--url=http://{}", g.all[i].address),
        format!("--nodes={nodes}"),
        format!("--token={}", token(g.first()).await?),
        format!("--prefix=fleet-{i}-"),
    ])?;
    fleet.hear().await?;
    Ok(fleet)
}

/// `kill -9` of the owner: until another one has stored a decision. The nodes talk to the other one, so there is something to decide.
async fn orphaned(product: &Path) -> Result<Option<f64>, Failure> {
    let mut g = Ground::new().await?;
    g.one_more(product).await?;
    g.one_more(product).await?;
    g.open_project().await?;
    let bundle = compile(g.first(), "v1", bundle::samples::DEMO_V1).await?;
    let fleet = fleet(&g, 1, ORPHANS).await?;
    let path = format!("/api/v1/projects/{PROJECT}/rollouts");
    let spec = json!({"bundle_id": bundle, "batch_size": ORPHANS_AT_ONCE});
    let made = operator(g.first(), "POST", &path, Some(spec)).await?;
    let id = made["rollout"]["id"].as_str().ok_or("no rollout")?.to_string();
    let under_way = format!(
        "SELECT i.listen, r.fence FROM rollouts r JOIN instances i ON i.id = r.owner WHERE r.id = '{id}' AND r.last_seq > {UNDER_WAY}"
    );
    let before = some_row(&g.url, &under_way).await?;
    if before[0] != g.first().to_string() {
        // The other one was faster to take it up.
        fleet.finish().await?;
        return Ok(None);
    }
    let begun = Instant::now();
    g.all[0].child.kill().await?;
    let newer = format!("SELECT seq FROM rollout_events WHERE rollout_id = '{id}' AND fence > {} LIMIT 1", before[1]);
    some_row(&g.url, &newer).await?;
    let took = begun.elapsed().as_secs_f64() * 1e3;
    fleet.finish().await?;
    Ok(Some(took))
}

/// Asks until there is one.
async fn some_row(url: &str, sql: &str) -> Result<Vec<String>, Failure> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if let Some(row) = rows(url, sql).await.into_iter().next() {
            return Ok(row);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(format!("nothing came of {sql}").into())
}

async fn failover(table: &mut Table, product: &Path) -> Result<(), Failure> {
    let mut took = Vec::new();
    while took.len() < 5 {
        took.extend(orphaned(product).await?);
    }
    let bar = Bar::AtMost { floor: 10_000.0, aim: 5_000.0 };
    table.add(
        NAME,
        "kill -9 of a rollout's owner -> the next decision, by another: median of 5",
        median(&took),
        "ms",
        bar,
    );
    let worst = took.iter().copied().fold(0.0, f64::max);
    table.add(NAME, "  worst of 5", worst, "ms", Bar::None);
    Ok(())
}

/// `kill -9` and back, with `nodes` nodes and a rollout over all of them under way.
async fn restart(table: &mut Table, product: &Path, nodes: usize) -> Result<(), Failure> {
    let mut g = Ground::new().await?;
    g.one_more(product).await?;
    g.open_project().await?;
    let store = g.store().await?;
    seed_nodes(&store, nodes).await?;
    let bundle = compile(g.first(), "v1", bundle::samples::DEMO_V1).await?;
    let path = format!("/api/v1/projects/{PROJECT}/rollouts");
    operator(g.first(), "POST", &path, Some(json!({"bundle_id": bundle, "batch_size": "10%"}))).await?;
    let mut ready = Vec::new();
    for _ in 0..3 {
        if let Some(mut p) = g.all.pop() {
            p.child.kill().await?;
        }
        g.one_more(product).await?;
        ready.push(g.all[0].ready_ms);
    }
    let what = format!("kill -9 -> ready, PostgreSQL, {nodes} nodes and a running rollout: median of 3");
    table.add(NAME, what, median(&ready), "ms", Bar::AtMost { floor: 3_000.0, aim: 1_000.0 });
    store.close().await;
    Ok(())
}

pub async fn run(table: &mut Table, product: &Path, long: bool) -> Result<(), Failure> {
    heartbeats(table, product, if long { 10_000 } else { 4_000 }).await?;
    steps(table, product).await?;
    failover(table, product).await?;
    let nodes = if long { 100_000 } else { 10_000 };
    restart(table, product, nodes).await?;
    let dir = tempfile::tempdir()?;
    let db = store::testing::open(store::testing::Backend::Postgres).await;
    let bar = Bar::AtMost { floor: 500.0, aim: 100.0 };
    plan::on(table, "plan-pg", db.store.clone(), dir.path(), nodes, bar).await
}
