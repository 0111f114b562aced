//! Real proxies with real agents beside them, under traffic. Needs the program `zentinel` 0.6.45.

use crate::harness::*;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Where the program may be; `ZENTINEL_BIN` comes first.
const INSTALLED: &str = "/work/zentinel/bin/zentinel";

/// `None`, and said loudly, when the real proxy is not on this machine.
fn zentinel(test: &str) -> Option<PathBuf> {
    let named = std::env::var_os("ZENTINEL_BIN").map(PathBuf::from).unwrap_or_else(|| INSTALLED.into());
    if named.is_file() {
        return Some(named);
    }
    eprintln!(
        "SKIPPED {test}: no real proxy at {}.\n  cargo install zentinel-proxy --version 0.6.45 --locked --root /work/zentinel\n  \
         or set ZENTINEL_BIN, then run again.",
        named.display()
    );
    None
}

/// An upstream that answers `text` to everything.
async fn upstream(text: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(n) = socket.read(&mut buffer).await {
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
                    if n == 0 || socket.write_all(head.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

/// A port that was free a moment ago: the proxy must be told a number.
async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

fn config(upstream: u16) -> String {
    format!(
        r#"schema-version "1.0"
system {{
    worker-threads 1
    max-connections 1000
    graceful-shutdown-timeout-secs 1
}}
listeners {{
    listener "http" {{
        address "0.0.0.0:8080"
        protocol "http"
    }}
}}
routes {{
    route "web" {{
        matches {{
            path-prefix "/"
        }}
        upstream "web"
    }}
}}
upstreams {{
    upstream "web" {{
        target "127.0.0.1:{upstream}" weight=1
    }}
}}
observability {{
    metrics {{
        enabled #true
        address "127.0.0.1:9090"
        path "/metrics"
    }}
}}
"#
    )
}

struct Beside {
    agent: tokio::process::Child,
    state: PathBuf,
    port: u16,
}

impl Beside {
    async fn start(bin: &Path, url: &str, dir: &Path, name: &str) -> Beside {
        let (port, metrics) = (free_port().await, free_port().await);
        let state = dir.join(name);
        let log = std::fs::File::create(dir.join(format!("{name}.log"))).unwrap();
        let agent = tokio::process::Command::new(env!("CARGO_BIN_EXE_sentinel-cp"))
            .args(["agent", "--url", url, "--project", "p", "--name", name, "--soak", "1.5"])
            .args(["--rebind", &format!("0.0.0.0:8080=127.0.0.1:{port}")])
            .args(["--rebind", &format!("127.0.0.1:9090=127.0.0.1:{metrics}")])
            .arg("--state-dir")
            .arg(&state)
            .arg("--proxy-bin")
            .arg(bin)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Beside { agent, state, port }
    }

    /// Resident memory of the agent, kB.
    fn rss(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.agent.id().unwrap())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    fn proxy(&self) -> Option<i64> {
        let bytes = std::fs::read(self.state.join("proxy.json")).ok()?;
        serde_json::from_slice::<Value>(&bytes).ok()?["pid"].as_i64()
    }

    async fn end(mut self) {
        kill(i64::from(self.agent.id().unwrap()), "-TERM");
        self.agent.wait().await.unwrap();
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // Also when a test fails: the proxy outlives its agent by design.
        if let Some(pid) = self.proxy() {
            kill(pid, "-9");
        }
    }
}

fn kill(pid: i64, signal: &str) {
    let _ = Command::new("kill").args([signal, &pid.to_string()]).output();
}

/// (status, body) of one request on a connection of its own; status 0 without an answer.
async fn ask(port: u16) -> (u16, String) {
    let exchange = async {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        socket.write_all(b"GET /x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.ok()?;
        let mut text = String::new();
        socket.read_to_string(&mut text).await.ok()?;
        let status = text.split(' ').nth(1)?.parse().ok()?;
        Some((status, text.split("\r\n\r\n").nth(1).unwrap_or_default().to_string()))
    };
    let limit = Duration::from_secs(10);
    tokio::time::timeout(limit, exchange).await.ok().flatten().unwrap_or((0, String::new()))
}

async fn all_serve(fleet: &[Beside], text: &str) {
    for b in fleet {
        eventually(&format!("{} serves {text:?}", b.state.display()), async || {
            (ask(b.port).await.1 == text).then_some(())
        })
        .await;
    }
}

/// Requests without a pause on one proxy.
struct Load {
    good: AtomicU64,
    bad: AtomicU64,
    stop: AtomicBool,
}

impl Load {
    fn on(port: u16) -> (Arc<Load>, tokio::task::JoinHandle<()>) {
        let load = Arc::new(Load { good: AtomicU64::new(0), bad: AtomicU64::new(0), stop: AtomicBool::new(false) });
        let l = load.clone();
        let task = tokio::spawn(async move {
            while !l.stop.load(Ordering::Relaxed) {
                let to = if ask(port).await.0 == 200 { &l.good } else { &l.bad };
                to.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        (load, task)
    }

    fn counts(&self) -> (u64, u64) {
        (self.good.load(Ordering::Relaxed), self.bad.load(Ordering::Relaxed))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn real_proxies_follow_a_rollout_under_traffic_and_a_wrong_upstream_is_taken_back() {
    let Some(bin) = zentinel("the agent beside real proxies") else { return };
    let w = World::on(Ground::Sqlite, Options::default()).await;
    let dir = tempfile::tempdir().unwrap();
    let mut fleet = Vec::new();
    for name in ["n-1", "n-2", "n-3"] {
        fleet.push(Beside::start(&bin, &w.one.url, dir.path(), name).await);
    }
    online(&w.op, "p", 3).await;
    let (first, second, nobody) = (upstream("one").await, upstream("two").await, free_port().await);
    let one = compile(&w.op, "p", "one", &format!("// answer one\n{}", config(first))).await;
    let two = compile(&w.op, "p", "two", &format!("// answer two\n{}", config(second))).await;
    let wrong = compile(&w.op, "p", "wrong", &format!("// answer x\n// status 500\n{}", config(nobody))).await;

    let id = w.roll_out(json!({"bundle_id": one["bundle_id"], "batch_size": 3})).await;
    reaches(&w.op, &id, "completed").await;
    all_serve(&fleet, "one").await;
    let processes: Vec<_> = fleet.iter().map(Beside::proxy).collect();

    let loads: Vec<_> = fleet.iter().map(|b| Load::on(b.port)).collect();
    let id = w.roll_out(json!({"bundle_id": two["bundle_id"], "batch_size": 1})).await;
    let r = reaches(&w.op, &id, "completed").await;
    assert_eq!(r["progress"]["verified"], 3, "{r:#}");
    all_serve(&fleet, "two").await;
    for (load, _) in &loads {
        let (good, bad) = load.counts();
        eprintln!("a rollout under load: {good} requests answered, {bad} failed");
        assert!(good > 0 && bad == 0, "{good} good, {bad} bad: a reload loses nothing");
    }
    assert_eq!(fleet.iter().map(Beside::proxy).collect::<Vec<_>>(), processes, "no proxy was restarted");

    // It validates and reloads well; only requests show that it is wrong. The first node notices, and nobody else gets it.
    let body = json!({"bundle_id": wrong["bundle_id"], "batch_size": 1, "on_failure": "rollback"});
    let id = w.roll_out(body).await;
    let r = reaches(&w.op, &id, "rolled_back").await;
    all_serve(&fleet, "two").await;
    let touched: Vec<String> =
        members(&w.op, &id).await.iter().filter(|(_, m)| m["reason"] == "reported").map(|(n, _)| n.clone()).collect();
    eprintln!("failed by its own report: {touched:?}");
    let hurt = loads.iter().filter(|(l, _)| l.counts().1 > 0).count();
    assert!(hurt <= 1, "{hurt} nodes failed requests: {r:#}");
    for (load, task) in loads {
        load.stop.store(true, Ordering::Relaxed);
        task.await.unwrap();
        eprintln!("with the wrong upstream: {:?} (answered, failed)", load.counts());
    }
    all_run(&w.op, "p", &["n-1", "n-2", "n-3"], &two["bundle_id"]).await;

    // A proxy that is killed comes back by itself, and so does what the control plane knows.
    let before = fleet[0].proxy();
    kill(before.unwrap(), "-9");
    eventually("another process", async || (fleet[0].proxy() != before).then_some(())).await;
    all_serve(&fleet, "two").await;
    eprintln!(
        "resident memory of the agents, kB (this build): {:?}",
        fleet.iter().map(Beside::rss).collect::<Vec<_>>()
    );
    for b in fleet {
        b.end().await;
    }
    w.end().await;
}

/// A killer never becomes a bundle; that one which somehow did is refused by the agent as well is tested in `src/agent`.
#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_would_kill_the_proxies_does_not_become_a_bundle() {
    let w = World::on(Ground::Sqlite, Options::default()).await;
    let deep = format!("{}\n/- {}{}\n", config(1), "a { ".repeat(600), "} ".repeat(600));
    let answer =
        w.op.post("/api/v1/projects/p/bundles?wait=30", json!({"version": "deep", "config_source": deep})).await;
    assert!(answer.status == 422 || answer.body["bundle"]["status"] == "failed", "{} {:#}", answer.status, answer.body);
    w.end().await;
}
