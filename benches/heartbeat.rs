//! Heartbeats through the whole path beside a bare warp route, in turns under the same load; what one costs.

use crate::Failure;
use crate::host::{Helper, Host, cpu_us, memory_dir, sqlite};
use crate::operations::{Operations, Seen};
use crate::table::{Bar, Table, median, quantile};
use api::node::{HeartbeatAnswer, HeartbeatRequest};
use domain::{NodeId, Timestamp};
use serde_json::Value;
use std::net::SocketAddr;
use tokio::net::TcpListener;
use warp::Filter;

const NODES: usize = 1_000;
const CONNECTIONS: usize = 64;

#[derive(Default)]
struct Side {
    rates: Vec<f64>,
    cpu: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Side {
    async fn round(&mut self, load: &mut Helper, which: &str, ms: u32) -> Result<u64, Failure> {
        let before = cpu_us();
        let said = load.ask(&format!("beat {which} {ms}")).await?;
        let used = cpu_us() - before;
        let number = |name: &str| said.get(name).and_then(Value::as_f64).ok_or("a figure is missing");
        let n = number("n")?.max(1.0);
        self.rates.push(n / number("seconds")?);
        self.cpu.push(used / n);
        self.p50.push(number("p50_us")?);
        self.p99.push(number("p99_us")?);
        Ok(n as u64)
    }
}

/// The same path and the same JSON, an answer of the same size, nothing behind it.
async fn bare() -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let route = warp::path("api")
        .and(warp::path("v1"))
        .and(warp::path("nodes"))
        .and(warp::path::param::<NodeId>())
        .and(warp::path("heartbeat"))
        .and(warp::path::end())
        .and(warp::post())
        .and(warp::body::json())
        .map(|node: NodeId, beat: HeartbeatRequest| {
            warp::reply::json(&HeartbeatAnswer {
                status: "ok".into(),
                node_id: node,
                last_seen_at: beat.measured_at.unwrap_or(Timestamp::ZERO),
                heartbeat_after_s: 10,
                poll_now: false,
            })
        });
    // It ends with the process.
    tokio::spawn(warp::serve(route).incoming(listener).run());
    Ok(address)
}

pub async fn run(table: &mut Table, rounds: usize, ms: u32) -> Result<(), Failure> {
    let dir = memory_dir()?;
    let host = Host::start(sqlite(dir.path()).await?, dir.path()).await?;
    let ids = host.seed_nodes(NODES).await?;
    let active = host.compile("v1", bundle::samples::DEMO_V1).await?;
    let file = dir.path().join("ids");
    std::fs::write(&file, ids.iter().map(|id| format!("{id}\n")).collect::<String>())?;
    let bare = bare().await?;
    let mut load = Helper::start(&[
        "load".into(),
        format!("--full={}", host.address),
        format!("--bare={bare}"),
        format!("--ids={}", file.display()),
        format!("--active={active}"),
        format!("--connections={CONNECTIONS}"),
    ])?;
    // The first heartbeats start the sessions and store what changed.
    let mut warm = Side::default();
    warm.round(&mut load, "full", 2_000).await?;
    warm.round(&mut load, "bare", 500).await?;
    // That the operator's key was used, by this bench, is written before the windows in which statements are counted.
    host.tree.plane.flush_api_key_uses().await;

    let store = host.tree.plane.store().clone();
    let (mut whole, mut alone) = (Side::default(), Side::default());
    let (mut ratios, mut beats, mut asked) = (Vec::new(), 0, Seen::default());
    for round in 0..rounds {
        // In turns, and each first in turn: what else runs on the machine hits both.
        let order = if round % 2 == 0 { ["full", "bare"] } else { ["bare", "full"] };
        for which in order {
            if which == "full" {
                let before = Operations::now(&store);
                beats += whole.round(&mut load, which, ms).await?;
                asked.add(&before, &Operations::now(&store));
            } else {
                alone.round(&mut load, which, ms).await?;
            }
        }
        if let (Some(w), Some(a)) = (whole.rates.last(), alone.rates.last()) {
            ratios.push(w / a);
        }
    }
    let b = "heartbeat";
    table.add(b, "whole path, heartbeats a second", median(&whole.rates), "/s", Bar::None);
    table.add(b, "bare warp route, same JSON, same load", median(&alone.rates), "/s", Bar::None);
    table.add(
        b,
        "ratio whole path / bare, median of rounds",
        median(&ratios),
        "x",
        Bar::AtLeast { floor: 0.6, aim: 0.85 },
    );
    table.add(b, "ratio, worst and best round: worst", quantile(&ratios, 0.0), "x", Bar::None);
    table.add(b, "ratio, worst and best round: best", quantile(&ratios, 1.0), "x", Bar::None);
    table.add(b, "CPU a heartbeat, server process", median(&whole.cpu), "us", Bar::AtMost { floor: 40.0, aim: 20.0 });
    table.add(b, "CPU a request, bare route", median(&alone.cpu), "us", Bar::None);
    table.add(b, "latency p50, 64 connections, closed loop", median(&whole.p50), "us", Bar::None);
    table.add(b, "latency p99, 64 connections, closed loop", median(&whole.p99), "us", Bar::None);
    table.add(b, "latency p99 of the bare route", median(&alone.p99), "us", Bar::None);
    asked.print(table, b, beats);
    load.finish().await?;
    host.stop().await
}
