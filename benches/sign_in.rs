//! Heartbeats while 10,000 tries to sign in come in a minute, each from another network and for another account, so that no limit
//! but the pool of password hashes holds them off.

use crate::Failure;
use crate::host::{Helper, Host, memory_dir, sqlite};
use crate::table::{Bar, Table, median};
use crate::wire::{Wire, request};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

const NODES: usize = 500;
const CONNECTIONS: usize = 32;
const TRIES_A_MINUTE: u64 = 10_000;
/// Connections of the attacker. The pool's queue holds up 49 at most, each for some seconds; the others are refused at once and keep
/// the pace, so that the tries come as often as they shall whatever the pool does.
const LANES: u32 = 512;
/// Between two tries of one lane.
const PAUSE: Duration = Duration::from_micros(60_000_000 * LANES as u64 / TRIES_A_MINUTE);

struct Attack {
    tries: Arc<AtomicU64>,
    /// Answered 503: the pool was full.
    refused: Arc<AtomicU64>,
    lanes: Vec<tokio::task::JoinHandle<Result<(), String>>>,
}

impl Attack {
    fn begin(host: &Host, first: u64) -> Attack {
        let (tries, refused) = (Arc::new(AtomicU64::new(first)), Arc::new(AtomicU64::new(0)));
        let (address, begun) = (host.address, Instant::now());
        let lanes = (0..LANES)
            .map(|i| {
                // One after the other, not all at the same moment.
                let at = begun + PAUSE * i / LANES;
                let (tries, refused) = (tries.clone(), refused.clone());
                tokio::spawn(async move { lane(address, at, &tries, &refused).await.map_err(|e| e.to_string()) })
            })
            .collect();
        Attack { tries, refused, lanes }
    }

    /// Tries so far, and how many of this attack's were refused at once. Errors: a lane ended by itself.
    async fn end(self) -> Result<(u64, u64), Failure> {
        for lane in self.lanes {
            lane.abort();
            if let Ok(ended) = lane.await {
                ended?;
            }
        }
        Ok((self.tries.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed)))
    }
}

/// Ends only by an error.
async fn lane(
    address: std::net::SocketAddr,
    at: Instant,
    tries: &AtomicU64,
    refused: &AtomicU64,
) -> Result<(), Failure> {
    let mut tick = tokio::time::interval_at(at, PAUSE);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let mut wire = Wire::open(address).await?;
    loop {
        tick.tick().await;
        let n = tries.fetch_add(1, Ordering::Relaxed);
        let from = format!("x-forwarded-for: 100.{}.{}.{}", (n >> 16) & 255, (n >> 8) & 255, n & 255);
        let body = format!("{{\"email\":\"u{n}@example.org\",\"password\":\"guess number {n}\"}}");
        let answer = wire.call(&request("POST", "/api/v1/session", &from, &body)).await?;
        if answer.status == 503 {
            refused.fetch_add(1, Ordering::Relaxed);
        }
    }
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
    let (mut ratios, mut quiet_p99, mut loud_p99, mut tried, mut refused, mut seconds) =
        (vec![], vec![], vec![], 0, 0, 0.0);
    for _ in 0..rounds {
        // In turns, so that what else runs on the machine hits both.
        let (quiet, p99) = round(ms).await?;
        quiet_p99.push(p99);
        let attack = Attack::begin(&host, tried);
        let (loud, p99) = round(ms).await?;
        loud_p99.push(p99);
        let (so_far, away) = attack.end().await?;
        tried = so_far;
        refused += away;
        seconds += f64::from(ms) / 1e3;
        ratios.push(loud / quiet);
    }
    let b = "sign_in";
    let a_minute = |n: u64| n as f64 / seconds * 60.0;
    // Short of the pace it would be another attack than the one that is meant.
    let pace = Bar::AtLeast { floor: 0.9 * TRIES_A_MINUTE as f64, aim: TRIES_A_MINUTE as f64 };
    table.add(b, "tries to sign in a minute meanwhile", a_minute(tried), "/min", pace);
    table.add(b, "  of them told at once to come back", a_minute(refused), "/min", Bar::None);
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
