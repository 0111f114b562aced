//! What a rollout over very many nodes would do: the answer over HTTP, from node rows in SQLite.

use crate::Failure;
use crate::host::{Host, PROJECT, memory_dir, sqlite};
use crate::table::{Bar, Table, median};
use serde_json::json;

pub async fn run(table: &mut Table, nodes: usize, bar: Bar) -> Result<(), Failure> {
    let dir = memory_dir()?;
    let host = Host::start(sqlite(dir.path()).await?, dir.path()).await?;
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
    table.add("plan", format!("plan over {nodes} nodes, 10 batches: median"), median(&took), "ms", bar);
    let each = seeding * 1e6 / nodes as f64;
    table.add("plan", format!("registering {nodes} nodes, one transaction each"), each, "us each", Bar::None);
    host.stop().await
}
