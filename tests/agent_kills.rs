//! `kill -9` of agents, proxies and the control plane at random moments of rollouts over real proxies, under traffic: each time all
//! come back to a state that the control plane knows truly: what it says a node runs is what the node's proxy answers.
//!
//! Six kills; fifty with `SENTINEL_LONG=1`. The seed is printed and may be given as `SENTINEL_SEED`.

use crate::harness::*;
use crate::kill9::{Server, below, free_port as server_port, insist, seen};
use crate::proxies::*;
use serde_json::{Value, json};
use sim::dice::Dice;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

const NAMES: [&str; 3] = ["n-1", "n-2", "n-3"];
/// When a kill comes, after the rollout was asked for: from before the first download to past the last soak.
const WITHIN_MS: u64 = 6_000;

/// Asks everybody until it fits: the control plane about each node, each proxy for its answer, each agent's own state.
async fn truth(op: &Client, fleet: &[Beside], texts: &BTreeMap<String, String>) -> Vec<String> {
    let begun = Instant::now();
    loop {
        let now = seen(op, "/api/v1/projects/p/nodes?limit=10").await;
        let mut told = Vec::new();
        for b in fleet {
            let node = now["nodes"].as_array().unwrap().iter().find(|n| n["name"] == b.name).unwrap();
            let says = node["active_bundle_id"].as_str().unwrap_or("baseline").to_string();
            let (serves, state) = (b.serves().await, b.state());
            let fits = texts.get(&says) == Some(&serves)
                && state["active"] == says.as_str()
                && state["intent"].is_null()
                && node["active_bundle_id"] == node["desired_bundle_id"];
            told.push((fits, serves, says, node["desired_bundle_id"].clone()));
        }
        if told.iter().all(|t| t.0) {
            return told.into_iter().map(|t| t.1).collect();
        }
        assert!(begun.elapsed() < PATIENCE, "never came to the truth (fits, served, said, desired): {told:#?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_proxies_and_the_control_plane_are_killed_and_the_control_plane_knows_what_serves() {
    let Some(bin) = zentinel("kills of agents, proxies and the control plane") else { return };
    let long = std::env::var("SENTINEL_LONG").is_ok_and(|v| v == "1");
    let kills: u32 = if long { 50 } else { 6 };
    let seed = std::env::var("SENTINEL_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20_261_122);
    println!("seed {seed}");
    let mut dice = Dice::new(seed, 1);
    let begun = Instant::now();
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), server_port(&mut dice)).await;
    let op = Client::operator(&server.url);
    open_project(&op, "p").await;
    let mut fleet = Vec::new();
    for name in NAMES {
        fleet.push(Beside::start(&bin, &server.url, dir.path(), name, &["--soak", "0.7"]).await);
    }
    online(&op, "p", 3).await;
    // Every bundle answers with its own name, so that what serves can be asked.
    let mut texts = BTreeMap::new();
    let up = upstream("v0").await;
    let first = compile(&op, "p", "v0", &config(up)).await["bundle_id"].as_str().unwrap().to_string();
    texts.insert(first.clone(), "v0".to_string());
    let id = roll_out(&op, "p", json!({"bundle_id": first, "batch_size": 3})).await;
    reaches(&op, &id, "completed").await;
    truth(&op, &fleet, &texts).await;
    let loads: Vec<Load> = fleet.iter().map(|b| Load::on(b.port)).collect();

    let (mut killed, mut ends) = (BTreeMap::<&str, u32>::new(), BTreeMap::<String, u32>::new());
    let mut round = 0;
    while killed.values().sum::<u32>() < kills {
        round += 1;
        let version = format!("v{round}");
        let up = upstream(&version).await;
        let b = compile(&op, "p", &version, &config(up)).await["bundle_id"].as_str().unwrap().to_string();
        texts.insert(b.clone(), version.clone());
        let body = json!({"bundle_id": b, "batch_size": 1 + below(3, &mut dice), "on_failure": "rollback"});
        let asked = tokio::spawn(insist(op.clone(), format!("round {round}"), body));
        // One, and now and then two.
        for _ in 0..1 + u32::from(below(3, &mut dice) == 0) {
            tokio::time::sleep(Duration::from_millis(below(WITHIN_MS, &mut dice))).await;
            let who = below(3, &mut dice) as usize;
            let what = match below(3, &mut dice) {
                0 => {
                    fleet[who].kill_agent().await;
                    // What systemd does a second later.
                    tokio::time::sleep(Duration::from_millis(below(1_500, &mut dice))).await;
                    fleet[who].run();
                    "agent"
                }
                1 => {
                    if let Some(pid) = fleet[who].proxy() {
                        kill(pid, "-9");
                    }
                    "proxy"
                }
                _ => {
                    server.kill_and_restart().await;
                    "control plane"
                }
            };
            *killed.entry(what).or_default() += 1;
        }
        let made = asked.await.unwrap();
        let id = made["rollout"]["id"].as_str().unwrap().to_string();
        let begun = Instant::now();
        let end = loop {
            let r = seen(&op, &format!("/api/v1/rollouts/{id}")).await["rollout"].clone();
            check_sum(&r);
            match r["state"].as_str().unwrap() {
                end @ ("completed" | "rolled_back") => break end.to_string(),
                _ => assert!(begun.elapsed() < PATIENCE * 3, "round {round} does not end: {r:#}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let serve = truth(&op, &fleet, &texts).await;
        println!("round {round}: killed so far {killed:?}; {end}; all serve {serve:?}");
        if end == "completed" {
            assert!(serve.contains(&version), "{serve:?}");
        } else {
            assert!(!serve.contains(&version), "{serve:?}");
        }
        *ends.entry(end).or_default() += 1;
        chains_hold(&op).await;
    }
    for (b, load) in fleet.iter().zip(loads) {
        let s = load.end().await;
        println!("{}: {s} (a killed proxy answers nobody until it is back)", b.name);
    }
    println!(
        "{} kills {killed:?} in {round} rollouts, ends {ends:?}: each time the control plane knew what serves; {:.0} s, seed {seed}",
        killed.values().sum::<u32>(),
        begun.elapsed().as_secs_f64()
    );
    let nodes: Value = seen(&op, "/api/v1/projects/p/nodes/stats").await;
    assert_eq!(nodes["stats"]["online"], 3, "{nodes}");
    for b in fleet {
        b.end().await;
    }
}
