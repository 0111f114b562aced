//! The load generator, in a process of its own: closed loop over keep-alive connections, all requests made beforehand.
//!
//! Lines in: `beat full|bare MILLISECONDS`, `park CONNECTIONS`. Lines out: one JSON object each.

use crate::Failure;
use crate::host::{commands, key};
use crate::wire::{Wire, node_key, request};
use clap::Args;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

#[derive(Args, Clone, Debug)]
pub struct LoadArgs {
    #[arg(long)]
    full: SocketAddr,
    /// The bare route that `full` is compared with
    #[arg(long)]
    bare: Option<SocketAddr>,
    /// Ids of the nodes, one a line; the key of each follows from its line
    #[arg(long)]
    ids: PathBuf,
    /// The bundle that all nodes say they run
    #[arg(long, default_value = "baseline")]
    active: String,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// The first of the nodes, by line, and how many
    #[arg(long, default_value_t = 0)]
    first: usize,
    #[arg(long, default_value_t = usize::MAX)]
    count: usize,
}

/// Longest latency that is told apart, microseconds: a minute.
const MOST_US: u64 = 60_000_000;
/// Ten digits, so that counting up never changes the length of a body.
const FIRST_SEQ: u64 = 1_000_000_000;

/// What a node of the field says: 380 bytes of JSON.
fn body(active: &str) -> (String, usize) {
    let before = format!(
        r#"{{"active_bundle_id":"{active}","generation":1,"health":{{"status":"healthy"}},"metrics":{{"error_rate":0.12,"latency_p99_ms":20.5,"cpu_percent":15.25,"memory_percent":30.5,"requests_per_second":100.75}},"measured_at":"2026-11-21T21:30:00.123456Z","instance":"0190b5a0-6bfa-7cc0-9d4c-1b2f3a4d5e6f","version":"26.4.1","seq":"#
    );
    let at = before.len();
    (format!("{before}{FIRST_SEQ}}}"), at)
}

struct Prepared {
    bytes: Vec<u8>,
    /// Where the ten digits of `seq` are.
    seq_at: usize,
}

impl Prepared {
    fn number(&mut self, mut seq: u64) {
        for place in (self.seq_at..self.seq_at + 10).rev() {
            self.bytes[place] = b'0' + (seq % 10) as u8;
            seq /= 10;
        }
    }
}

struct Lane {
    wire: Wire,
    requests: Vec<Prepared>,
    next: usize,
    seq: u64,
}

#[derive(Default)]
struct Round {
    n: u64,
    latencies: Option<Histogram<u64>>,
}

impl Lane {
    /// Until `end`. Errors: an answer other than 200.
    async fn run(&mut self, end: Instant) -> Result<Round, Failure> {
        let mut latencies = Histogram::<u64>::new_with_bounds(1, MOST_US, 3)?;
        let mut n = 0;
        let mut begun = Instant::now();
        while begun < end {
            if self.next == self.requests.len() {
                (self.next, self.seq) = (0, self.seq + 1);
            }
            let request = &mut self.requests[self.next];
            request.number(self.seq);
            self.next += 1;
            let answer = self.wire.call(&request.bytes).await?;
            if answer.status != 200 {
                return Err(format!("HTTP {}: {}", answer.status, String::from_utf8_lossy(answer.body)).into());
            }
            let now = Instant::now();
            latencies.saturating_record((now - begun).as_micros() as u64);
            begun = now;
            n += 1;
        }
        Ok(Round { n, latencies: Some(latencies) })
    }
}

async fn open(address: SocketAddr, args: &LoadArgs, ids: &[String]) -> Result<Vec<Lane>, Failure> {
    let (body, at) = body(&args.active);
    let end = ids.len().min(args.first.saturating_add(args.count));
    let mut lanes = Vec::with_capacity(args.connections);
    for lane in 0..args.connections {
        let requests = (args.first + lane..end)
            .step_by(args.connections)
            .map(|i| {
                let path = format!("/api/v1/nodes/{}/heartbeat", ids[i]);
                let bytes = request("POST", &path, &node_key(&key(i)), &body);
                let seq_at = bytes.len() - body.len() + at;
                Prepared { bytes, seq_at }
            })
            .collect();
        lanes.push(Lane { wire: Wire::open(address).await?, requests, next: 0, seq: FIRST_SEQ });
    }
    Ok(lanes)
}

async fn round(lanes: &mut Vec<Lane>, length: Duration) -> Result<Value, Failure> {
    let begun = Instant::now();
    let end = begun + length;
    let tasks: Vec<_> = std::mem::take(lanes)
        .into_iter()
        .map(|mut lane| {
            tokio::task::spawn_local(async move {
                let done = lane.run(end).await;
                (lane, done)
            })
        })
        .collect();
    let mut all = Histogram::<u64>::new_with_bounds(1, MOST_US, 3)?;
    let mut n = 0;
    for task in tasks {
        let (lane, done) = task.await?;
        let done = done?;
        n += done.n;
        if let Some(h) = done.latencies {
            all.add(h)?;
        }
        lanes.push(lane);
    }
    let seconds = begun.elapsed().as_secs_f64();
    Ok(json!({"n": n, "seconds": seconds, "p50_us": all.value_at_quantile(0.5), "p99_us": all.value_at_quantile(0.99)}))
}

/// Long polls that are held, one a connection; each had an answer on it before, as in the field.
async fn park(args: &LoadArgs, ids: &[String], n: usize) -> Result<Vec<Wire>, Failure> {
    let mut held = Vec::with_capacity(n);
    for (i, id) in ids.iter().enumerate().take(n) {
        let mut wire = Wire::open(args.full).await?;
        let path = format!("/api/v1/nodes/{id}/bundles/latest");
        let answer = wire.call(&request("GET", &path, &node_key(&key(i)), "")).await?;
        if answer.status != 200 {
            return Err(format!("HTTP {}: {}", answer.status, String::from_utf8_lossy(answer.body)).into());
        }
        wire.send(&request("GET", &format!("{path}?wait=60"), &node_key(&key(i)), "")).await?;
        held.push(wire);
    }
    Ok(held)
}

/// Lines from standard input until it ends.
pub async fn run(args: LoadArgs) -> Result<(), Failure> {
    let text = std::fs::read_to_string(&args.ids)?;
    let ids: Vec<String> = text.lines().map(str::to_string).collect();
    let mut full = open(args.full, &args, &ids).await?;
    let mut bare = match args.bare {
        Some(address) => open(address, &args, &ids).await?,
        None => Vec::new(),
    };
    let mut parked = Vec::new();
    let mut lines = commands();
    while let Some(line) = lines.recv().await {
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words.as_slice() {
            ["beat", "full", ms] => round(&mut full, Duration::from_millis(ms.parse()?)).await?,
            ["beat", "bare", ms] => round(&mut bare, Duration::from_millis(ms.parse()?)).await?,
            ["park", n] => {
                parked = park(&args, &ids, n.parse()?).await?;
                json!({"parked": parked.len()})
            }
            _ => return Err(format!("not understood: {line}").into()),
        };
        println!("{answer}");
    }
    drop(parked);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_body_is_what_the_wire_type_reads_and_its_number_counts_up() {
        let (body, at) = body("baseline");
        let mut p = Prepared { bytes: body.into_bytes(), seq_at: at };
        p.number(FIRST_SEQ + 41);
        let said: api::node::HeartbeatRequest = serde_json::from_slice(&p.bytes).unwrap();
        assert_eq!(said.seq, Some(FIRST_SEQ + 41));
        assert!(said.metrics.is_some() && said.measured_at.is_some());
    }
}
