//! A rollout over 1,000 nodes on real HTTP in batches of 100: how long it takes, and how soon the next batch is told.

use crate::Failure;
use crate::fleet::{Times, timed_fleet, times_of};
use crate::host::{Helper, Host, PROJECT};
use crate::order::roll_out;
use crate::table::{Bar, Table, quantile};
use domain::NodeId;
use serde_json::json;
use std::path::Path;
use store::Store;

const NODES: usize = 1_000;
const BATCH: usize = 100;

/// By the simulated fleet, which downloads and verifies what it runs as real nodes do.
async fn by_the_fleet(table: &mut Table, name: &'static str, store: Store, dir: &Path) -> Result<(), Failure> {
    let host = Host::start(store, dir).await?;
    let mut fleet = Helper::start(&[
        "sim-fleet".into(),
        format!("--url=http://{}", host.address),
        format!("--nodes={NODES}"),
        format!("--token={}", host.enrolment_token().await?),
    ])?;
    let first = host.compile("v1", bundle::samples::DEMO_V1).await?;
    fleet.hear().await?;
    let (_, took) = roll_out(&host, &first, BATCH).await?;
    let bar = Bar::AtMost { floor: 10.0, aim: 1.5 };
    table.add(name, "1,000 nodes, 10 batches, first configuration, verified by every node", took, "s", bar);
    let second = host.compile("v2", bundle::samples::DEMO_V2).await?;
    let (_, took) = roll_out(&host, &second, BATCH).await?;
    table.add(name, "the same fleet, second configuration", took, "s", bar);
    fleet.finish().await?;
    host.stop().await
}

/// By the fleet that keeps time.
async fn by_the_clock(table: &mut Table, name: &'static str, store: Store, dir: &Path) -> Result<(), Failure> {
    let host = Host::start(store, dir).await?;
    let mut fleet = timed_fleet(&host, NODES).await?;
    let bundle = host.compile("v1", bundle::samples::DEMO_V1).await?;
    let cpu = crate::host::cpu_us();
    let statements = host.tree.plane.store().statements();
    let (id, took) = roll_out(&host, &bundle, BATCH).await?;
    let cpu = (crate::host::cpu_us() - cpu) / 1e6;
    let statements = host.tree.plane.store().statements() - statements;
    let by_node = times_of(&mut fleet, NODES).await?;
    fleet.finish().await?;
    let mut steps: Vec<Vec<NodeId>> = Vec::new();
    for (step, node) in host.tree.plane.store().rollout_step_nodes(id, None).await? {
        let step = step as usize;
        steps.resize(steps.len().max(step + 1), Vec::new());
        steps[step].push(node);
    }
    let (mut from_sent, mut from_answered, mut last_told) = (Vec::new(), Vec::new(), Vec::new());
    for pair in steps.windows(2) {
        let of = |nodes: &[NodeId]| -> Vec<Times> { nodes.iter().filter_map(|n| by_node.get(n).copied()).collect() };
        let (before, after) = (of(&pair[0]), of(&pair[1]));
        let sent = before.iter().map(|t| t.sent).max().unwrap_or(0);
        let answered = before.iter().map(|t| t.answered).max().unwrap_or(0);
        let ms = |us: i64| us as f64 / 1e3;
        from_sent.extend(after.iter().map(|t| ms(t.told - sent)));
        from_answered.extend(after.iter().map(|t| ms((t.told - answered).max(0))));
        last_told.push(after.iter().map(|t| ms(t.told - sent)).fold(0.0, f64::max));
    }
    let early = from_sent.iter().filter(|ms| **ms < 0.0).count();
    if early > 0 {
        table.note(format!("{early} nodes were told of a batch before the last report of the one before was sent"));
    }
    let time = "1,000 nodes, 10 batches, by nodes that only keep time";
    table.add(name, time, took, "s", Bar::AtMost { floor: 10.0, aim: 1.5 });
    let p50 = quantile(&from_sent, 0.5);
    let p99 = quantile(&from_sent, 0.99);
    table.add(
        name,
        "last report sent -> next batch's node told: p50",
        p50,
        "ms",
        Bar::AtMost { floor: 100.0, aim: 5.0 },
    );
    table.add(
        name,
        "last report sent -> next batch's node told: p99",
        p99,
        "ms",
        Bar::AtMost { floor: 100.0, aim: 50.0 },
    );
    table.add(
        name,
        "last report answered -> next batch's node told: p99",
        quantile(&from_answered, 0.99),
        "ms",
        Bar::None,
    );
    table.add(
        name,
        "last report sent -> whole next batch told: worst of 9",
        quantile(&last_told, 1.0),
        "ms",
        Bar::None,
    );
    table.add(name, "server CPU of that rollout, a node", cpu * 1e6 / NODES as f64, "us", Bar::None);
    table.add(name, "statements of that rollout, a node", statements as f64 / NODES as f64, "", Bar::None);
    host.stop().await
}

pub async fn sqlite(table: &mut Table) -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    by_the_fleet(table, "rollout", crate::host::sqlite(dir.path()).await?, dir.path()).await?;
    let dir = tempfile::tempdir()?;
    by_the_clock(table, "rollout", crate::host::sqlite(dir.path()).await?, dir.path()).await
}

#[cfg(not(feature = "postgres"))]
pub async fn postgres(_: &mut Table) -> Result<(), Failure> {
    Err("--postgres needs: cargo run --release -p benches --features postgres".into())
}

#[cfg(feature = "postgres")]
pub async fn postgres(table: &mut Table) -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let db = store::testing::open(store::testing::Backend::Postgres).await;
    by_the_fleet(table, "rollout-pg", db.store.clone(), dir.path()).await?;
    let db = store::testing::open(store::testing::Backend::Postgres).await;
    by_the_clock(table, "rollout-pg", db.store.clone(), dir.path()).await
}

/// In the child: the simulated fleet until standard input ends.
pub async fn sim_fleet(url: String, nodes: u32, token: String, name_prefix: String) -> Result<(), Failure> {
    use sim::transport::{Http, HttpOptions};
    let http = Http::new(&url, HttpOptions { max_connections: 4_000, http2: false })?;
    let (project, token) = (PROJECT.into(), Some(token));
    let config = sim::FleetConfig { project, token, nodes, name_prefix, ..sim::FleetConfig::default() };
    let fleet = sim::Fleet::start(config, sim::Transport::Http(http)).await?;
    fleet.until_all(|n| n.state == sim::NodeState::Idle).await?;
    println!("{}", json!({"ready": nodes}));
    // Nothing is said; its end is the signal.
    let _ = crate::host::commands().recv().await;
    fleet.stop().await?;
    Ok(())
}
