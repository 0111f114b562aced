//! The product as its users get it: the size of the binary, from start to ready, memory when nothing happens; killed and started
//! again on a large database.

use crate::Failure;
use crate::host::{KEY, PROJECT, compile, memory_dir, operator, seed_nodes, sqlite, status_bytes};
use crate::table::{Bar, Table, median};
use crate::wire::{Wire, request};
use domain::rollout::Phase;
use domain::{RolloutId, Scope};
use serde_json::json;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

const PATIENCE: Duration = Duration::from_secs(30);

/// Beside this program, where cargo puts both.
pub fn product() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok()?.with_file_name("sentinel-cp");
    beside.is_file().then_some(beside)
}

async fn free_port() -> Result<SocketAddr, Failure> {
    // Taken and given back: the product takes no port 0 that others could learn.
    Ok(tokio::net::TcpListener::bind("127.0.0.1:0").await?.local_addr()?)
}

/// A running product.
pub struct Running {
    pub child: Child,
    pub address: SocketAddr,
    /// From its start until `/ready` said 200, milliseconds.
    pub ready_ms: f64,
}

/// Starts it on `data`.
async fn start(product: &Path, data: &Path) -> Result<Running, Failure> {
    start_with(product, data, &[]).await
}

/// With more settings, by the names of their variables.
pub async fn start_with(product: &Path, data: &Path, settings: &[(&str, &str)]) -> Result<Running, Failure> {
    let address = free_port().await?;
    let begun = Instant::now();
    let mut child = Command::new(product)
        .arg("serve")
        .arg(format!("--listen={address}"))
        .arg(format!("--data-dir={}", data.display()))
        .arg("--log=error")
        .env("SENTINEL_CP_BOOTSTRAP_API_KEY", KEY)
        .envs(settings.iter().copied())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let ask = request("GET", "/ready", "", "");
    while begun.elapsed() < PATIENCE {
        if let Ok(mut wire) = Wire::open(address).await
            && wire.call(&ask).await.is_ok_and(|a| a.status == 200)
        {
            return Ok(Running { child, address, ready_ms: begun.elapsed().as_secs_f64() * 1e3 });
        }
        if let Some(status) = child.try_wait()? {
            return Err(format!("the product ended: {status}").into());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Err("the product did not become ready".into())
}

pub async fn run(table: &mut Table, product: &Path) -> Result<(), Failure> {
    let b = "process";
    let (mut cold, mut again, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..5 {
        let dir = tempfile::tempdir()?;
        let mut first = start(product, dir.path()).await?;
        cold.push(first.ready_ms);
        if memory.len() < 2 {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let pid = first.child.id().ok_or("the product ended")?.to_string();
            memory.push(status_bytes(&pid, "VmRSS:") / 1e6);
        }
        first.child.kill().await?;
        let mut second = start(product, dir.path()).await?;
        again.push(second.ready_ms);
        second.child.kill().await?;
    }
    let bar = Bar::AtMost { floor: 500.0, aim: 150.0 };
    table.add(b, "cold start on an empty directory to ready: median of 5", median(&cold), "ms", bar);
    table.add(b, "kill -9, then to ready on the same directory: median of 5", median(&again), "ms", Bar::None);
    table.add(b, "idle memory after two seconds", median(&memory), "MB", Bar::AtMost { floor: 80.0, aim: 40.0 });
    let size = std::fs::metadata(product)?.len() as f64 / 1e6;
    table.add(b, "size of the binary", size, "MB", Bar::AtMost { floor: 60.0, aim: 30.0 });
    Ok(())
}

/// `kill -9` and back, with `nodes` nodes and a rollout over all of them under way.
pub async fn restart(table: &mut Table, product: &Path, nodes: usize) -> Result<(), Failure> {
    let dir = memory_dir()?;
    let mut first = start(product, dir.path()).await?;
    operator(first.address, "POST", "/api/v1/projects", Some(json!({"name": PROJECT, "slug": PROJECT}))).await?;
    let bundle = compile(first.address, "v1", bundle::samples::DEMO_V1).await?;
    first.child.kill().await?;
    // One process per data directory: the nodes are put in while none runs.
    let store = sqlite(dir.path()).await?;
    seed_nodes(&store, nodes).await?;
    store.close().await;

    let mut second = start(product, dir.path()).await?;
    let spec = json!({"bundle_id": bundle, "batch_size": "10%"});
    let path = format!("/api/v1/projects/{PROJECT}/rollouts");
    let made = operator(second.address, "POST", &path, Some(spec)).await?;
    let id: RolloutId = made["rollout"]["id"].as_str().ok_or("no rollout")?.parse()?;
    second.child.kill().await?;

    let mut ready = Vec::new();
    for _ in 0..3 {
        let mut again = start(product, dir.path()).await?;
        ready.push(again.ready_ms);
        again.child.kill().await?;
    }
    let what = format!("kill -9 -> ready, {nodes} nodes and a running rollout: median of 3");
    table.add("restart", what, median(&ready), "ms", Bar::AtMost { floor: 3_000.0, aim: 1_000.0 });
    // Nothing acknowledged was lost: the rollout is there, and goes on.
    let store = sqlite(dir.path()).await?;
    let head = store.rollout(Scope::System("a bench looks"), id).await?.head;
    store.close().await;
    match head.phase {
        Phase::Running => Ok(()),
        other => Err(format!("after the kills the rollout is {other:?}").into()),
    }
}
