//! What an idle agent costs the host: resident memory and processor time, while it holds its polls and beats.
//!
//! Ten idle seconds; sixty with `SENTINEL_LONG=1`. The bar (15 MB, no measurable processor time) is for the program as it is shipped:
//! name an optimised one as `SENTINEL_CP_BIN`, or test with `--release`. The debug build is measured and printed, and held to four
//! times the memory: its code, which is mapped from the file, counts as resident too.

use crate::harness::*;
use crate::proxies::rss;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const BAR_KB: u64 = 15_000;
/// Share of one processor that counts as not measurable: 1 in 200.
const BAR_CPU: f64 = 0.005;

/// (user + system) processor seconds that the process has used; a tick is 10 ms.
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// Private (heap, stacks, relocations) and shared (code) parts, kB.
fn parts(pid: u32) -> (u64, u64) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let of = |key: &str| -> u64 {
        let line = text.lines().find_map(|l| l.strip_prefix(key));
        line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    (of("Private_Dirty:"), of("Shared_Clean:") + of("Private_Clean:"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_agent_costs_next_to_nothing() {
    let long = std::env::var("SENTINEL_LONG").is_ok_and(|v| v == "1");
    let idle = Duration::from_secs(if long { 60 } else { 10 });
    let named = std::env::var_os("SENTINEL_CP_BIN").map(PathBuf::from);
    let optimised = named.is_some() || !cfg!(debug_assertions);
    let bin = named.unwrap_or_else(|| env!("CARGO_BIN_EXE_sentinel-cp").into());
    let w = World::on(Ground::Sqlite, Options::default()).await;
    let dir = tempfile::tempdir().unwrap();
    // A proxy that does nothing and answers for nothing: only the agent is measured. It tests every bundle as valid.
    let fake = dir.path().join("zentinel");
    std::fs::write(&fake, "#!/bin/sh\n[ \"$1\" = --version ] && echo zentinel 0.6.45\nexit 0\n").unwrap();
    assert!(Command::new("chmod").arg("+x").arg(&fake).status().unwrap().success());
    let mut agent = Command::new(&bin)
        .args(["agent", "--project", "p", "--name", "n-1", "--url", &w.one.url, "--soak", "0"])
        .arg("--state-dir")
        .arg(dir.path().join("state"))
        .arg("--proxy-bin")
        .arg(&fake)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    online(&w.op, "p", 1).await;
    // It downloads, verifies, unpacks and stages a bundle (which then does not come up): memory that idleness must give back.
    let b = compile(&w.op, "p", "one", &bundle::samples::generate(300)).await;
    let id = w.roll_out(serde_json::json!({"bundle_id": b["bundle_id"], "on_failure": "fail"})).await;
    reaches(&w.op, &id, "failed").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let pid = agent.id();
    let before = cpu(pid);
    tokio::time::sleep(idle).await;
    let share = (cpu(pid) - before) / idle.as_secs_f64();
    let (resident, (private, code)) = (rss(pid), parts(pid));
    eprintln!(
        "idle agent ({}): {resident} kB resident ({private} kB its own, {code} kB code from the file), {:.2} % of a processor over {} s",
        if optimised { "optimised" } else { "debug" },
        share * 100.0,
        idle.as_secs()
    );
    agent.kill().unwrap();
    agent.wait().unwrap();
    let times = if optimised { 1 } else { 4 };
    assert!(resident < BAR_KB * times, "{resident} kB");
    assert!(share <= BAR_CPU * times as f64 + 0.01 / idle.as_secs_f64(), "{share}");
    w.end().await;
}
