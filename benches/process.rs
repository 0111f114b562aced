//! The product as its users get it: the size of the binary, from start to ready, memory when nothing happens.

use crate::Failure;
use crate::host::status_bytes;
use crate::table::{Bar, Table, median};
use crate::wire::{Wire, request};
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

/// Starts it on `data`; answers the process and the milliseconds until `/ready` said 200.
async fn start(product: &Path, data: &Path) -> Result<(Child, f64), Failure> {
    let address = free_port().await?;
    let begun = Instant::now();
    let mut child = Command::new(product)
        .arg("serve")
        .arg(format!("--listen={address}"))
        .arg(format!("--data-dir={}", data.display()))
        .arg("--log=error")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let ask = request("GET", "/ready", "", "");
    while begun.elapsed() < PATIENCE {
        if let Ok(mut wire) = Wire::open(address).await
            && wire.call(&ask).await.is_ok_and(|a| a.status == 200)
        {
            return Ok((child, begun.elapsed().as_secs_f64() * 1e3));
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
        let (mut child, ms) = start(product, dir.path()).await?;
        cold.push(ms);
        if memory.len() < 2 {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let pid = child.id().ok_or("the product ended")?.to_string();
            memory.push(status_bytes(&pid, "VmRSS:") / 1e6);
        }
        child.kill().await?;
        let (mut child, ms) = start(product, dir.path()).await?;
        again.push(ms);
        child.kill().await?;
    }
    let bar = Bar::AtMost { floor: 500.0, aim: 150.0 };
    table.add(b, "cold start on an empty directory to ready: median of 5", median(&cold), "ms", bar);
    table.add(b, "kill -9, then to ready on the same directory: median of 5", median(&again), "ms", Bar::None);
    table.add(b, "idle memory after two seconds", median(&memory), "MB", Bar::AtMost { floor: 80.0, aim: 40.0 });
    let size = std::fs::metadata(product)?.len() as f64 / 1e6;
    table.add(b, "size of the binary", size, "MB", Bar::AtMost { floor: 60.0, aim: 30.0 });
    Ok(())
}
