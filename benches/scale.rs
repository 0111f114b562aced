//! Rollouts at size, by long-polling nodes on real HTTP: everybody at once, in ten batches, back again, and many rollouts at a time.
//!
//! The nodes are those of `fleet`: they do what they are told at once and need no time for it. Fleet and server share the
//! machine, so the figures are of both.

use crate::Failure;
use crate::fleet::{Times, times_of};
use crate::host::{Helper, Host, memory_dir, sqlite};
use crate::order::{ended, order, roll_out};
use crate::table::{Bar, Table, quantile};
use domain::rollout::Phase;
use domain::{NodeId, Scope};
use serde_json::json;
use std::collections::HashMap;

/// Sizes of one run.
#[derive(Clone, Copy)]
pub struct Size {
    pub nodes: usize,
    /// Rollouts at a time, of [`EACH`] nodes.
    pub rollouts: usize,
    /// The floors and aims are for the long form; a short one is context.
    pub judged: bool,
}

pub const SHORT: Size = Size { nodes: 2_000, rollouts: 50, judged: false };
pub const LONG: Size = Size { nodes: 10_000, rollouts: 500, judged: true };
/// Nodes of each of the many rollouts, and their batches.
const EACH: usize = 20;
const EACH_BATCH: usize = 5;

impl Size {
    fn bar(self, floor: f64, aim: f64) -> Bar {
        if self.judged { Bar::AtMost { floor, aim } } else { Bar::None }
    }
}

async fn fleet(host: &Host, nodes: usize) -> Result<Helper, Failure> {
    let mut fleet = Helper::start(&[
        "timed-fleet".into(),
        format!("--url={}", host.address),
        format!("--nodes={nodes}"),
        format!("--token={}", host.enrolment_token().await?),
    ])?;
    fleet.hear().await?;
    Ok(fleet)
}

pub async fn run(table: &mut Table, size: Size) -> Result<(), Failure> {
    one_at_a_time(table, size).await?;
    many_at_a_time(table, size).await
}

async fn one_at_a_time(table: &mut Table, size: Size) -> Result<(), Failure> {
    let b = "scale";
    let n = size.nodes;
    let dir = memory_dir()?;
    let host = Host::start(sqlite(dir.path()).await?, dir.path()).await?;
    let mut fleet = fleet(&host, n).await?;

    let v1 = host.compile("v1", bundle::samples::DEMO_V1).await?;
    let all = order(&host, &v1, json!({"strategy": "all_at_once"})).await?;
    ended(&host, all.id, Phase::Completed).await?;
    let times = times_of(&mut fleet, n).await?;
    let since =
        |of: fn(&Times) -> i64| -> Vec<f64> { times.values().map(|t| (of(t) - all.called) as f64 / 1e6).collect() };
    let (told, activated) = (since(|t| t.told), since(|t| t.activated));
    let what = format!("all at once: start -> last of {n} long-polling nodes activated");
    table.add(b, what, quantile(&activated, 1.0), "s", size.bar(3.0, 1.0));
    table.add(b, "all at once: start -> half of them told", quantile(&told, 0.5), "s", Bar::None);
    table.add(b, "all at once: start -> last of them told", quantile(&told, 1.0), "s", Bar::None);

    let v2 = host.compile("v2", bundle::samples::DEMO_V2).await?;
    let (id, took) = roll_out(&host, &v2, n / 10).await?;
    table.add(b, format!("10 batches x {} instant nodes", n / 10), took, "s", size.bar(5.0, 1.5));
    times_of(&mut fleet, n).await?;

    let begun = crate::fleet::wall_us();
    host.operator("POST", &format!("/api/v1/rollouts/{id}/rollback"), Some(json!({}))).await?;
    let at = ended(&host, id, Phase::RolledBack).await?;
    table.add(b, format!("rollback of {n} connected nodes"), (at - begun) as f64 / 1e6, "s", size.bar(5.0, 2.0));
    fleet.finish().await?;
    host.stop().await
}

/// Each over nodes of its own; all under way at once.
async fn many_at_a_time(table: &mut Table, size: Size) -> Result<(), Failure> {
    let b = "scale";
    let dir = memory_dir()?;
    let host = Host::start(sqlite(dir.path()).await?, dir.path()).await?;
    let mut fleet = fleet(&host, size.rollouts * EACH).await?;
    let bundle = host.compile("v1", bundle::samples::DEMO_V1).await?;
    let store = host.tree.plane.store().clone();
    let project = store.project(Scope::System("a bench looks"), crate::host::PROJECT).await?.id;
    let nodes: Vec<NodeId> = store.candidates(project).await?.into_iter().map(|c| c.id).collect();
    let begun = crate::fleet::wall_us();
    let mut ordered = Vec::new();
    for part in nodes.chunks(EACH) {
        let spec = json!({"target_selector": {"type": "node_ids", "node_ids": part}, "batch_size": EACH_BATCH});
        ordered.push(order(&host, &bundle, spec).await?);
    }
    let all_ordered = crate::fleet::wall_us();
    let (mut last, mut steps, mut active) = (0, HashMap::new(), 0usize);
    for o in &ordered {
        let at = ended(&host, o.id, Phase::Completed).await?;
        last = last.max(at);
        active += usize::from(at > all_ordered);
        for (step, node) in store.rollout_step_nodes(o.id, None).await? {
            steps.entry((o.id, step)).or_insert_with(Vec::new).push(node);
        }
    }
    let times = times_of(&mut fleet, nodes.len()).await?;
    let ms = |us: i64| us as f64 / 1e3;
    let mut told = Vec::new();
    for ((rollout, step), before) in &steps {
        let Some(after) = steps.get(&(*rollout, step + 1)) else { continue };
        let of = |nodes: &[NodeId]| -> Vec<Times> { nodes.iter().filter_map(|n| times.get(n).copied()).collect() };
        let sent = of(before).iter().map(|t| t.sent).max().unwrap_or(0);
        told.extend(of(after).iter().map(|t| ms(t.told - sent)));
    }
    let n = ordered.len();
    table.add(
        b,
        format!("{n} rollouts of {EACH} nodes, batches of {EACH_BATCH}: all completed"),
        ms(last - begun) / 1e3,
        "s",
        Bar::None,
    );
    table.add(
        b,
        "  of it until all were ordered, one call after another",
        ms(all_ordered - begun) / 1e3,
        "s",
        Bar::None,
    );
    table.add(b, "  still active when the last was ordered", active as f64, "", Bar::None);
    table.add(b, "  last report sent -> next batch's node told: p50", quantile(&told, 0.5), "ms", size.bar(100.0, 5.0));
    table.add(
        b,
        "  last report sent -> next batch's node told: p99",
        quantile(&told, 0.99),
        "ms",
        size.bar(100.0, 50.0),
    );
    fleet.finish().await?;
    host.stop().await
}
