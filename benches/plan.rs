//! What a rollout over very many nodes would do: the answer over HTTP, from node rows.

use crate::Failure;
use crate::host::{Host, PROJECT, memory_dir, sqlite};
use crate::table::{Bar, Table, median};
use serde_json::json;
use std::path::Path;
use store::Store;

pub async fn run(table: &mut Table, nodes: usize, bar: Bar) -> Result<(), Failure> {
    let dir = memory_dir()?;
    on(table, "plan", sqlite(dir.path()).await?, dir.path(), nodes, bar).await
}

/// On any migrated database.
pub async fn on(
    table: &mut Table,
    name: &'static str,
    store: Store,
    dir: &Path,
    nodes: usize,
    bar: Bar,
) -> Result<(), Failure> {
    let host = Host::start(store, dir).await?;
    let begun = std::time::Instant::now();
    host.seed_nodes(nodes).await?;
    let seeding = begun.elapsed().as_secs_f64();
    let bundle = host.compile("v1", bundle::samples::DEMO_V1).await?;
    let path = format!("/api/v1/projects/{PROJECT}/rollouts/plan");
    let body = json!({"bundle_id": bundle, "batch_size": "10%"});
    let mut took = Vec::new();
    for i in 0..6 {
        let begun = std::time::Instant::now();
        host.operator("POST", &path, Some(body.clone())).await?;
        if i > 0 {
            took.push(begun.elapsed().as_secs_f64() * 1e3);
        }
    }
    table.add(name, format!("plan over {nodes} nodes, 10 batches: median"), median(&took), "ms", bar);
    let each = seeding * 1e6 / nodes as f64;
    table.add(name, format!("registering {nodes} nodes, one transaction each"), each, "us each", Bar::None);
    host.stop().await
}
