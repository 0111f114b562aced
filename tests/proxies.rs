//! Real Zentinel proxies with real agents beside them, upstreams that can be told apart, and traffic: what the agent's tests stand on.

use crate::harness::*;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// `None`, and said loudly, when the real proxy is not on this machine. `ZENTINEL_BIN` comes first, then the cache of `.ci/zentinel`.
pub fn zentinel(test: &str) -> Option<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let cached = home.join(".cache/sentinel-cp/zentinel-0.6.45/bin/zentinel");
    let named = std::env::var_os("ZENTINEL_BIN").map(PathBuf::from).unwrap_or(cached);
    if named.is_file() {
        return Some(named);
    }
    eprintln!(
        "SKIPPED {test}: no real proxy at {}.\n  `.ci/zentinel` builds one into that cache (10 minutes on two quiet cores), or set ZENTINEL_BIN; then run again.",
        named.display()
    );
    None
}

/// An upstream that answers `text` to everything.
pub async fn upstream(text: &str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer: Arc<str> = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len()).into();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(n) = socket.read(&mut buffer).await {
                    if n == 0 || socket.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

/// A port that was free a moment ago: the proxy must be told a number.
pub async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

/// Passes everything to the upstream. What differs per host is replaced by the agent (`--rebind`).
pub fn config(upstream: u16) -> String {
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

/// One host: an agent, and the proxy that it runs.
pub struct Beside {
    pub name: String,
    agent: Option<tokio::process::Child>,
    command: Vec<String>,
    pub state: PathBuf,
    log: PathBuf,
    pub port: u16,
}

impl Beside {
    pub async fn start(bin: &Path, url: &str, dir: &Path, name: &str, more: &[&str]) -> Beside {
        let (port, metrics) = (free_port().await, free_port().await);
        let state = dir.join(name);
        let words = |s: &str| s.split(' ').map(str::to_string).collect::<Vec<_>>();
        let mut command = words(&format!("agent --url {url} --project p --name {name}"));
        command.extend(words(&format!(
            "--rebind 0.0.0.0:8080=127.0.0.1:{port} --rebind 127.0.0.1:9090=127.0.0.1:{metrics}"
        )));
        for (flag, value) in [("--state-dir", &state), ("--proxy-bin", &bin.to_path_buf())] {
            command.extend([flag.to_string(), value.display().to_string()]);
        }
        command.extend(more.iter().map(|s| s.to_string()));
        let log = dir.join(format!("{name}.log"));
        let mut b = Beside { name: name.into(), agent: None, command, state, log, port };
        b.run();
        b
    }

    /// Starts the agent (again), as a service manager would.
    pub fn run(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let agent = tokio::process::Command::new(env!("CARGO_BIN_EXE_sentinel-cp"))
            .args(&self.command)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        self.agent = Some(agent);
    }

    pub async fn kill_agent(&mut self) {
        self.agent.take().unwrap().kill().await.unwrap();
    }

    /// What an operator on the host says beside the running agent.
    pub fn says(&self, words: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sentinel-cp"));
        let out = command.arg("agent").args(words).arg("--state-dir").arg(&self.state).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Resident memory of the agent, kB.
    pub fn rss(&self) -> u64 {
        rss(self.agent.as_ref().unwrap().id().unwrap())
    }

    pub fn state(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.state.join("state.json")).unwrap_or_default()).unwrap_or_default()
    }

    pub fn proxy(&self) -> Option<i64> {
        let bytes = std::fs::read(self.state.join("proxy.json")).ok()?;
        serde_json::from_slice::<Value>(&bytes).ok()?["pid"].as_i64()
    }

    /// What the proxy answers, `""` without an answer.
    pub async fn serves(&self) -> String {
        ask(self.port).await.1
    }

    pub async fn end(mut self) {
        let mut agent = self.agent.take().unwrap();
        kill(i64::from(agent.id().unwrap()), "-TERM");
        agent.wait().await.unwrap();
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // Also when a test fails: the proxy outlives its agent by design.
        if let Some(pid) = self.proxy() {
            kill(pid, "-9");
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(25).collect();
            eprintln!("--- the end of the log of {}:", self.name);
            tail.iter().rev().for_each(|l| eprintln!("{l}"));
        }
    }
}

pub fn kill(pid: i64, signal: &str) {
    let _ = Command::new("kill").args([signal, &pid.to_string()]).output();
}

/// Resident memory of a process, kB.
pub fn rss(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// (status, body) of one request on a connection of its own; status 0 without an answer.
pub async fn ask(port: u16) -> (u16, String) {
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

pub async fn all_serve(fleet: &[Beside], text: &str) {
    for b in fleet {
        eventually(&format!("{} serves {text:?}", b.name), async || (b.serves().await == text).then_some(())).await;
    }
}

/// One answered (or failed) request.
#[derive(Clone, Debug)]
pub struct Shot {
    pub at: Instant,
    pub took: Duration,
    /// 0: no answer.
    pub status: u16,
    pub body: String,
}

/// Requests on one proxy, each on a connection of its own, 5 ms after the one before.
pub struct Load {
    shots: Arc<Mutex<Vec<Shot>>>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Load {
    pub fn on(port: u16) -> Load {
        let (shots, stop) = (Arc::<Mutex<Vec<Shot>>>::default(), Arc::new(AtomicBool::new(false)));
        let (s, ended) = (shots.clone(), stop.clone());
        let task = tokio::spawn(async move {
            while !ended.load(Ordering::Relaxed) {
                let at = Instant::now();
                let (status, body) = ask(port).await;
                s.lock().unwrap().push(Shot { at, took: at.elapsed(), status, body });
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        Load { shots, stop, task }
    }

    pub async fn end(self) -> Shots {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.task.await;
        Shots(std::mem::take(&mut *self.shots.lock().unwrap()))
    }
}

#[derive(Default)]
pub struct Shots(pub Vec<Shot>);

impl Shots {
    pub fn failed(&self) -> usize {
        self.0.iter().filter(|s| s.status != 200).count()
    }

    pub fn first(&self, body: &str) -> Option<Instant> {
        self.0.iter().find(|s| s.body == body).map(|s| s.at)
    }

    pub fn last(&self, body: &str) -> Option<Instant> {
        self.0.iter().rev().find(|s| s.body == body).map(|s| s.at + s.took)
    }

    /// Between the first failure and the last.
    pub fn dark(&self) -> Duration {
        let mut bad = self.0.iter().filter(|s| s.status != 200);
        let Some(first) = bad.next() else { return Duration::ZERO };
        bad.next_back().map_or(first.took, |last| last.at + last.took - first.at)
    }
}

/// `412 requests, 0 failed, p50 1.2 ms, p99 3.4 ms, worst 9.1 ms`
impl std::fmt::Display for Shots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut took: Vec<f64> = self.0.iter().map(|s| s.took.as_secs_f64() * 1e3).collect();
        took.sort_by(f64::total_cmp);
        let at = |q: f64| took.get(((took.len().max(1) - 1) as f64 * q) as usize).copied().unwrap_or(0.0);
        let (n, bad) = (self.0.len(), self.failed());
        write!(f, "{n} requests, {bad} failed, p50 {:.1} ms, p99 {:.1} ms, worst {:.1} ms", at(0.5), at(0.99), at(1.0))
    }
}
