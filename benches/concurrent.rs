//! Many rollouts of twenty nodes each, under way at the same time in one process, by long-polling nodes on real HTTP.
//!
//! The nodes are those of `fleet`: they do what they are told at once. They and the server share the machine, so the figures are
//! of both.

use crate::Failure;
use crate::fleet::{GO, HOLD, Times, timed_fleet, times_of, wall_us};
use crate::host::{Helper, Host, PROJECT, cpu_us, memory_dir};
use crate::order::{ended, order};
use crate::table::{Bar, Table, quantile};
use domain::rollout::Phase;
use domain::{NodeId, RolloutId, Scope};
use serde_json::json;
use std::collections::HashMap;
use std::path::Path;
use store::Store;

/// Sizes of one run.
#[derive(Clone, Copy)]
pub struct Size {
    pub rollouts: usize,
    /// The floors and aims are for the long form; a short one is context.
    pub judged: bool,
}

pub const SHORT: Size = Size { rollouts: 50, judged: false };
pub const LONG: Size = Size { rollouts: 500, judged: true };
const EACH: usize = 20;
const BATCH: usize = 5;
const STEPS: usize = EACH / BATCH;
const LOOKS: Scope = Scope::System("a bench looks");

impl Size {
    fn bar(self, bar: Bar) -> Bar {
        if self.judged { bar } else { Bar::None }
    }
}

pub async fn sqlite(table: &mut Table, size: Size) -> Result<(), Failure> {
    let dir = memory_dir()?;
    run(table, "concurrent", size, crate::host::sqlite(dir.path()).await?, dir.path()).await
}

#[cfg(not(feature = "postgres"))]
pub async fn postgres(_: &mut Table, _: Size) -> Result<(), Failure> {
    Err("--postgres needs: cargo run --release -p benches --features postgres".into())
}

#[cfg(feature = "postgres")]
pub async fn postgres(table: &mut Table, size: Size) -> Result<(), Failure> {
    let dir = memory_dir()?;
    // As many connections as a process has by default.
    let db = store::testing::open_with(store::testing::Backend::Postgres, |c| c.pool_size = 16).await;
    run(table, "concur.-pg", size, db.store.clone(), dir.path()).await
}

async fn run(table: &mut Table, name: &'static str, size: Size, store: Store, dir: &Path) -> Result<(), Failure> {
    let host = Host::start(store.clone(), dir).await?;
    let mut fleet = timed_fleet(&host, size.rollouts * EACH).await?;
    let project = store.project(LOOKS, PROJECT).await?.id;
    let nodes: Vec<NodeId> = store.candidates(project).await?.into_iter().map(|c| c.id).collect();

    one_after_another(table, name, size, &host, &mut fleet, &nodes).await?;
    all_at_once(table, name, size, &host, &mut fleet, &nodes).await?;
    fleet.finish().await?;
    host.stop().await
}

/// Orders a rollout over each twenty nodes; answers them, and milliseconds of a call.
async fn order_all(host: &Host, bundle: &str, nodes: &[NodeId]) -> Result<(Vec<RolloutId>, f64), Failure> {
    let (begun, mut ids) = (wall_us(), Vec::new());
    for part in nodes.chunks(EACH) {
        let spec = json!({"target_selector": {"type": "node_ids", "node_ids": part}, "batch_size": BATCH});
        ids.push(order(host, bundle, spec).await?.id);
    }
    let each = (wall_us() - begun) as f64 / 1e3 / ids.len() as f64;
    Ok((ids, each))
}

/// When the last of them was completed, microseconds of the wall clock.
async fn all_ended(host: &Host, ids: &[RolloutId]) -> Result<i64, Failure> {
    let mut last = 0;
    for id in ids {
        last = last.max(ended(host, *id, Phase::Completed).await?);
    }
    Ok(last)
}

/// As soon as each is ordered it goes: the machine is busy, not choked.
async fn one_after_another(
    table: &mut Table,
    name: &'static str,
    size: Size,
    host: &Host,
    fleet: &mut Helper,
    nodes: &[NodeId],
) -> Result<(), Failure> {
    let bundle = host.compile("v1", bundle::samples::DEMO_V1).await?;
    let begun = wall_us();
    let (ids, each) = order_all(host, &bundle, nodes).await?;
    let seconds = (all_ended(host, &ids).await? - begun) as f64 / 1e6;
    let told = told_after(host, &ids, &times_of(fleet, nodes.len()).await?).await?;
    let what = format!("{} rollouts of {EACH} nodes, batches of {BATCH}, ordered one after another", ids.len());
    table.add(name, what, seconds, "s", Bar::None);
    table.add(name, "  a call that orders one", each, "ms", Bar::None);
    for (q, said, aim) in [(0.5, "p50", 5.0), (0.99, "p99", 50.0)] {
        let what = format!("  last report sent -> next batch's node told: {said}");
        table.add(name, what, quantile(&told, q), "ms", size.bar(Bar::AtMost { floor: 100.0, aim }));
    }
    Ok(())
}

/// All are under way before any can go on; then all go.
async fn all_at_once(
    table: &mut Table,
    name: &'static str,
    size: Size,
    host: &Host,
    fleet: &mut Helper,
    nodes: &[NodeId],
) -> Result<(), Failure> {
    let store = host.tree.plane.store();
    let bundle = host.compile("v2", bundle::samples::DEMO_V2).await?;
    fleet.ask(HOLD).await?;
    let (ids, _) = order_all(host, &bundle, nodes).await?;
    let running = store::RolloutFilter { phases: vec![Phase::Running], bundle: None };
    let active = store.rollouts(LOOKS, running, store::Page::first(1)).await?.total;

    let before = versions(host, &ids).await?;
    let (went, cpu, asked) = (wall_us(), cpu_us(), store.statements());
    fleet.ask(GO).await?;
    let seconds = (all_ended(host, &ids).await? - went) as f64 / 1e6;
    let (cpu, asked) = (cpu_us() - cpu, store.statements() - asked);
    let decisions = versions(host, &ids).await? - before;
    let told = told_after(host, &ids, &times_of(fleet, nodes.len()).await?).await?;

    let steps = (ids.len() * STEPS) as f64;
    let bar = size.bar(Bar::AtLeast { floor: 500.0, aim: 5_000.0 });
    table.add(name, "rollouts of it active at the same time, all let go at once", active as f64, "", bar);
    table.add(name, "  until all were completed", seconds, "s", Bar::None);
    table.add(name, "  decisions committed", decisions as f64 / seconds, "/s", Bar::None);
    table.add(name, "  decisions a step", decisions as f64 / steps, "", Bar::None);
    table.add(name, "  statements a step, of everything that went on", asked as f64 / steps, "", Bar::None);
    table.add(name, "  server CPU a step", cpu / steps, "us", Bar::None);
    for (q, said) in [(0.5, "p50"), (0.99, "p99")] {
        let what = format!("  last report sent -> next batch's node told: {said}");
        table.add(name, what, quantile(&told, q), "ms", Bar::None);
    }
    Ok(())
}

/// How many events were decided in all of them.
async fn versions(host: &Host, ids: &[RolloutId]) -> Result<u64, Failure> {
    let mut sum = 0;
    for id in ids {
        sum += host.tree.plane.store().rollout(LOOKS, *id).await?.head.version;
    }
    Ok(sum)
}

/// Milliseconds from a step's last word to each node of the next step that was told of it, of all rollouts.
async fn told_after(host: &Host, ids: &[RolloutId], times: &HashMap<NodeId, Times>) -> Result<Vec<f64>, Failure> {
    let mut told = Vec::new();
    for id in ids {
        let mut steps: Vec<Vec<Times>> = vec![Vec::new(); STEPS];
        for (step, node) in host.tree.plane.store().rollout_step_nodes(*id, None).await? {
            let of = steps.get_mut(step as usize).ok_or("more steps than planned")?;
            of.extend(times.get(&node).copied());
        }
        for pair in steps.windows(2) {
            let sent = pair[0].iter().map(|t| t.sent).max().unwrap_or(0);
            told.extend(pair[1].iter().map(|t| (t.told - sent) as f64 / 1e3));
        }
    }
    Ok(told)
}
