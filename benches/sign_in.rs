//! Heartbeats while 10,000 tries to sign in come in a minute, each from another network and for another account, so that no limit
//! but the pool of password hashes holds them off.

use crate::Failure;
use crate::host::{Helper, Host, memory_dir, sqlite};
use crate::table::{Bar, Table, median};
use crate::wire::{Wire, request};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const NODES: usize = 500;
const CONNECTIONS: usize = 32;
const TRIES_A_MINUTE: u64 = 10_000;
/// Connections of the attacker.
const LANES: u64 = 16;

struct Attack {
    stop: Arc<AtomicBool>,
    tries: Arc<AtomicU64>,
    lanes: Vec<tokio::task::JoinHandle<Result<(), String>>>,
}

impl Attack {
    fn begin(host: &Host, first: u64) -> Attack {
        let (stop, tries) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(first)));
        let pause = Duration::from_micros(60_000_000 * LANES / TRIES_A_MINUTE);
        let lanes = (0..LANES)
            .map(|_| {
                let (stop, tries, address) = (stop.clone(), tries.clone(), host.address);
                tokio::spawn(async move { lane(address, &stop, &tries, pause).await.map_err(|e| e.to_string()) })
            })
            .collect();
        Attack { stop, tries, lanes }
    }

    async fn end(self) -> Result<u64, Failure> {
        self.stop.store(true, Ordering::Relaxed);
        for lane in self.lanes {
            lane.await??;
        }
        Ok(self.tries.load(Ordering::Relaxed))
    }
}

async fn lane(
    address: std::net::SocketAddr,
    stop: &AtomicBool,
    tries: &AtomicU64,
    pause: Duration,
) -> Result<(), Failure> {
    let mut wire = Wire::open(address).await?;
    let mut tick = tokio::time::interval(pause);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    while !stop.load(Ordering::Relaxed) {
        tick.tick().await;
        let n = tries.fetch_add(1, Ordering::Relaxed);
        let from = format!("x-forwarded-for: 100.{}.{}.{}", (n >> 16) & 255, (n >> 8) & 255, n & 255);
        let body = format!("{{\"email\":\"u{n}@example.org\",\"password\":\"guess number {n}\"}}");
        wire.call(&request("POST", "/api/v1/session", &from, &body)).await?;
    }
    Ok(())
}

pub async fn run(table: &mut Table, rounds: usize, ms: u32) -> Result<(), Failure> {
    let dir = memory_dir()?;
    let host = Host::start_behind(sqlite(dir.path()).await?, dir.path(), vec!["127.0.0.0/8".parse()?]).await?;
    let ids = host.seed_nodes(NODES).await?;
    let file = dir.path().join("ids");
    std::fs::write(&file, ids.iter().map(|id| format!("{id}\n")).collect::<String>())?;
    let mut load = Helper::start(&[
        "load".into(),
        format!("--full={}", host.address),
        format!("--ids={}", file.display()),
        format!("--connections={CONNECTIONS}"),
    ])?;
    let mut round = async |ms: u32| -> Result<(f64, f64), Failure> {
        let said = load.ask(&format!("beat full {ms}")).await?;
        let number = |name: &str| said.get(name).and_then(Value::as_f64).ok_or("a figure is missing");
        Ok((number("n")? / number("seconds")?, number("p99_us")?))
    };
    round(2_000).await?;
    let (mut ratios, mut quiet_p99, mut loud_p99, mut tried, mut seconds) = (vec![], vec![], vec![], 0, 0.0);
    for _ in 0..rounds {
        // In turns, so that what else runs on the machine hits both.
        let (quiet, p99) = round(ms).await?;
        quiet_p99.push(p99);
        let attack = Attack::begin(&host, tried);
        let (loud, p99) = round(ms).await?;
        loud_p99.push(p99);
        tried = attack.end().await?;
        seconds += f64::from(ms) / 1e3;
        ratios.push(loud / quiet);
    }
    let b = "sign_in";
    table.add(b, "tries to sign in a minute meanwhile", tried as f64 / seconds * 60.0, "/min", Bar::None);
    table.add(
        b,
        "heartbeats a second, under attack / quiet",
        median(&ratios),
        "x",
        Bar::AtLeast { floor: 0.8, aim: 0.9 },
    );
    table.add(b, "p99 of a heartbeat, quiet", median(&quiet_p99) / 1e3, "ms", Bar::None);
    table.add(b, "p99 of a heartbeat, under attack", median(&loud_p99) / 1e3, "ms", Bar::None);
    load.finish().await?;
    host.stop().await
}
