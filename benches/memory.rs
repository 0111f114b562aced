//! Bytes of a node session and of a parked long poll, in a process of their own.

use crate::Failure;
use crate::host::{Helper, Host, anonymous_rss, key, memory_dir, sqlite};
use crate::table::{Bar, Table};
use actors::node_api::{Heartbeat, NodeAuth};
use domain::Digest;
use domain::node::HealthClass;
use serde_json::{Value, json};
use std::time::Duration;

const PARKED: usize = 4_000;
/// The floor of nodes in one process.
pub const FLEET: usize = 250_000;

pub async fn run(table: &mut Table, nodes: usize) -> Result<(), Failure> {
    let mut child = Helper::start(&["memory".into(), format!("--nodes={nodes}")])?;
    let said = child.hear().await?;
    child.finish().await?;
    let number = |name: &str| said.get(name).and_then(Value::as_f64).ok_or("a figure is missing");
    let n = nodes as f64;
    let b = "memory";
    let (rows, keys) = (number("rows")?, number("keys")?);
    table.add(b, "a known node key, no session", keys / n, "B", Bar::AtMost { floor: 2_048.0, aim: 1_024.0 });
    let what = format!("a node session, its actor included ({nodes} sessions)");
    table.add(b, what, number("sessions")? / n, "B", Bar::AtMost { floor: 12_288.0, aim: 9_216.0 });
    let what = format!("a parked long poll over HTTP, on top ({PARKED} connections)");
    table.add(b, what, number("parked")? / PARKED as f64, "B", Bar::AtMost { floor: 20_480.0, aim: 12_288.0 });
    let fleet = Bar::AtLeast { floor: FLEET as f64, aim: 1_000_000.0 };
    let bar = if nodes < FLEET { Bar::None } else { fleet };
    table.add(b, "nodes with a live session in one process, in-process transport", n, "", bar);
    table.add(b, "that process in all", number("all")? / 1e6, "MB", Bar::None);
    table.add(b, format!("process with {nodes} node rows, before any node speaks"), rows / 1e6, "MB", Bar::None);
    table.add(
        b,
        "starting a session, storing its first heartbeat, one more",
        number("start_us")? / n,
        "us each",
        Bar::None,
    );
    Ok(())
}

/// In the child: one JSON line, bytes of anonymous memory.
pub async fn child(nodes: usize) -> Result<(), Failure> {
    let dir = memory_dir()?;
    let host = Host::start(sqlite(dir.path()).await?, dir.path()).await?;
    let ids = host.seed_nodes(nodes).await?;
    let plane = host.tree.plane.clone();
    // Fill the caches of the database's readers first: they are not the sessions'.
    for _ in 0..3 {
        for id in &ids {
            plane.store().session_view(*id).await?;
        }
    }
    let rows = settled().await;
    let mut auths: Vec<NodeAuth> = Vec::with_capacity(nodes);
    for i in 0..nodes {
        let found = plane.node_auth(&Digest::of(key(i).as_bytes())).await.map_err(|e| format!("{e:?}"))?;
        auths.push(found.ok_or("a key is unknown")?);
    }
    let known = settled().await;
    let begun = std::time::Instant::now();
    for (round, auth) in auths.iter().cycle().take(nodes * 2).enumerate() {
        let beat = Heartbeat {
            health: Some(HealthClass::Healthy),
            instance: Some("0190b5a0-6bfa-7cc0-9d4c-1b2f3a4d5e6f".into()),
            version: Some("26.4.1".into()),
            seq: Some(1 + (round / nodes) as u64),
            ..Heartbeat::default()
        };
        plane.heartbeat(*auth, beat).await.map_err(|e| format!("{e:?}"))?;
    }
    let start_us = begun.elapsed().as_micros() as f64;
    let live = settled().await;
    let file = dir.path().join("ids");
    std::fs::write(&file, ids.iter().map(|id| format!("{id}\n")).collect::<String>())?;
    let mut load = Helper::start(&[
        "load".into(),
        format!("--full={}", host.address),
        format!("--ids={}", file.display()),
        "--connections=1".into(),
    ])?;
    load.ask(&format!("park {}", PARKED.min(nodes))).await?;
    let parked = settled().await;
    println!(
        "{}",
        json!({
            "rows": rows,
            "keys": known - rows,
            "sessions": live - known,
            "parked": parked - live,
            "all": live,
            "start_us": start_us,
        })
    );
    load.finish().await?;
    host.stop().await
}

/// The memory once it has stood still for a second (or after ten).
async fn settled() -> f64 {
    let mut last = anonymous_rss();
    let mut still = 0;
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = anonymous_rss();
        still = if (now - last).abs() < 65_536.0 { still + 1 } else { 0 };
        last = now;
        if still == 5 {
            break;
        }
    }
    last
}
