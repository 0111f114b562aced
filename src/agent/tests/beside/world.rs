//! One world of a test: a control plane, a directory, an agent as a process, a fake proxy.

use crate::plane::{Made, Plane, config, make};
use serde_json::Value;
use std::fmt::Debug;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

/// Generous: the machine is shared, and only failures wait for it.
pub const PATIENCE: Duration = Duration::from_secs(90);

pub async fn eventually<T, F: AsyncFnMut() -> Option<T>>(what: &str, mut look: F) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "did not happen within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub struct World {
    pub plane: Plane,
    pub dir: tempfile::TempDir,
    /// Where the proxy listens.
    pub address: String,
    pub agent: Option<Child>,
    /// Of the agent, beside the usual.
    pub env: Vec<(String, String)>,
}

impl World {
    /// A node with a baseline that answers `old`.
    pub async fn new() -> World {
        let mut w = World::idle().await;
        w.start(&[]);
        w
    }

    /// With no agent yet.
    pub async fn idle() -> World {
        // Free a moment ago; nobody else on this host takes it within the test's life but by chance.
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("baseline.kdl"), config(&address, "// answer old")).unwrap();
        World { plane: Plane::start().await, dir, address, agent: None, env: Vec::new() }
    }

    /// One that runs the bundle `one` as generation 4.
    pub async fn settled() -> (World, Made) {
        let w = World::new().await;
        let one = w.bundle("// answer one");
        w.plane.order(&one, 4);
        w.said(4, "verified").await;
        w.serves("one").await;
        (w, one)
    }

    /// What is wanted now fails for this reason before anything was switched: the proxy goes on with `answer`.
    pub async fn refuses(&self, made: &Made, generation: u64, code: &str, answer: &str) {
        self.plane.order(made, generation);
        self.fails(generation, code, answer).await;
    }

    pub async fn fails(&self, generation: u64, code: &str, answer: &str) {
        let activated = || self.plane.said(generation).iter().filter(|s| *s == "activated").count();
        let before = (self.proxy_pid(), activated());
        let what = format!("generation {generation} fails with {code}");
        eventually(&what, async || self.plane.failure(generation).filter(|why| why.contains(code))).await;
        assert_eq!(self.ask().await.as_deref(), Some(answer), "{}", self.log());
        assert_eq!((self.proxy_pid(), activated()), before, "{}", self.log());
    }

    /// Everything is as it should be again: what is signed is believed.
    pub async fn believes(&self, text: &str, generation: u64) -> Made {
        self.plane.honest();
        let made = self.bundle(&format!("// answer {text}"));
        self.plane.order(&made, generation);
        self.said(generation, "verified").await;
        self.serves(text).await;
        made
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn command(&self, more: &[&str]) -> Command {
        let me = std::env::current_exe().unwrap();
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("agent.log")).unwrap();
        let mut c = Command::new(&me);
        let root = self.plane.root();
        c.arg("agent").args(["--url", &self.plane.url, "--project", "p", "--name", "n-1"]);
        c.arg("--state-dir").arg(self.state()).arg("--proxy-bin").arg(&me);
        c.arg("--proxy-config").arg(self.dir.path().join("baseline.kdl"));
        let metrics = format!("http://{}/metrics", self.address);
        for (flag, usual) in
            [("--root", root.as_str()), ("--soak", "0.3"), ("--wait", "5"), ("--metrics-url", &metrics)]
        {
            if !more.contains(&flag) {
                c.args([flag, usual]);
            }
        }
        c.args(more)
            .envs(self.env.clone())
            .env("BESIDE_FAKE", "1")
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true);
        c
    }

    pub fn start(&mut self, more: &[&str]) {
        self.agent = Some(self.command(more).spawn().unwrap());
    }

    pub async fn kill_agent(&mut self) {
        if let Some(mut a) = self.agent.take() {
            a.kill().await.unwrap();
        }
    }

    pub fn bundle(&self, lines: &str) -> Made {
        make(&self.address, lines)
    }

    /// What the proxy answers, `None` without an answer.
    pub async fn ask(&self) -> Option<String> {
        let mut socket = TcpStream::connect(&self.address).await.ok()?;
        socket.write_all(b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n").await.ok()?;
        let mut text = String::new();
        socket.read_to_string(&mut text).await.ok()?;
        text.split("\r\n\r\n").nth(1).map(str::to_string).filter(|t| !t.is_empty())
    }

    pub async fn serves(&self, answer: &str) {
        let what = format!("the proxy answers {answer:?}\n{}", self.log());
        eventually(&what, async || self.ask().await.filter(|a| a == answer)).await;
    }

    pub async fn said(&self, generation: u64, last: &str) -> Vec<String> {
        let what = format!("{last} is reported of generation {generation}");
        let begun = Instant::now();
        loop {
            let said = self.plane.said(generation);
            if said.iter().any(|s| s == last) {
                return said;
            }
            assert!(begun.elapsed() < PATIENCE, "did not happen: {what}; said {said:?}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn read(&self, file: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.state().join(file)).unwrap_or_default()).unwrap_or_default()
    }

    pub fn proxy_pid(&self) -> i64 {
        self.read("proxy.json")["pid"].as_i64().unwrap_or(0)
    }

    pub fn signal(&self, pid: i64, signal: &str) {
        let done = std::process::Command::new("kill").args([signal, &pid.to_string()]).status().unwrap();
        assert!(done.success());
    }

    /// Resident memory of the agent that is its own, kB. Code from the file comes and goes.
    pub fn memory(&self) -> u64 {
        let pid = self.agent.as_ref().unwrap().id().unwrap();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("agent.log")).unwrap_or_default()
    }

    pub async fn is_active(&self, made: &Made) {
        let id = made.id.to_string();
        eventually("a heartbeat names the active bundle", async || {
            (self.plane.last_beat()["active_bundle_id"] == *id).then_some(())
        })
        .await;
        assert_eq!(self.read("state.json")["active"], *id);
        assert!(std::fs::read_link(self.state().join("current")).unwrap().ends_with(&id));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let pid = self.proxy_pid();
        if pid > 0 {
            let _ = std::process::Command::new("kill").args(["-9", &pid.to_string()]).output();
        }
    }
}

pub fn eq<T: PartialEq + Debug>(a: T, b: T, w: &World) {
    assert_eq!(a, b, "\n{}", w.log());
}
