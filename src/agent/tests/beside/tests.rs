//! What the agent must do, one world (proxy, agent, control plane) each.

use crate::plane::{Lie, Made, Plane, config, make};
use serde_json::Value;
use std::fmt::Debug;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

/// Generous: the machine is shared, and only failures wait for it.
const PATIENCE: Duration = Duration::from_secs(60);

macro_rules! sentences {
    ($($name:ident),+ $(,)?) => {
        const NAMES: &[&str] = &[$(stringify!($name)),+];
        async fn run(name: &str) {
            match name { $(stringify!($name) => $name().await,)+ _ => unreachable!() }
        }
    };
}

sentences!(
    a_good_bundle_is_proved_and_the_next_one_needs_no_new_process,
    a_bundle_that_the_proxy_refuses_or_dies_of_is_taken_back,
    a_bundle_whose_requests_fail_is_taken_back,
    what_is_not_valid_or_too_deep_never_reaches_the_proxy,
    a_hostile_control_plane_changes_nothing,
    a_broken_download_goes_on_where_it_stopped,
    an_agent_killed_at_any_moment_ends_on_what_serves,
    a_killed_proxy_is_started_again_and_found_by_the_next_agent,
    without_the_control_plane_the_last_configuration_serves,
    a_new_generation_of_what_runs_is_confirmed_without_a_switch,
    a_withdrawn_assignment_is_not_switched_to,
    a_release_that_does_not_stay_up_is_left_without_the_control_plane,
    another_root_is_not_enrolled_with,
    an_agent_started_with_other_addresses_moves_the_proxy,
);

pub fn main(args: &[String]) -> ExitCode {
    if args.iter().any(|a| a == "--list") {
        // What `cargo nextest` asks.
        if !args.iter().any(|a| a == "--ignored") {
            NAMES.iter().for_each(|n| println!("{n}: test"));
        }
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<&String> = args.iter().skip(1).filter(|a| !a.starts_with('-')).collect();
    let chosen = NAMES.iter().filter(|n| wanted.is_empty() || wanted.iter().any(|w| n.contains(w.as_str())));
    for name in chosen {
        let begun = Instant::now();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(run(name));
        println!("test {name} ... ok ({:.1} s)", begun.elapsed().as_secs_f64());
    }
    ExitCode::SUCCESS
}

async fn eventually<T, F: AsyncFnMut() -> Option<T>>(what: &str, mut look: F) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "did not happen within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

struct World {
    plane: Plane,
    dir: tempfile::TempDir,
    address: String,
    agent: Option<Child>,
}

impl World {
    /// A node with a baseline that answers `old`.
    async fn new() -> World {
        // Free a moment ago; nobody else on this host takes it within the test's life but by chance.
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("baseline.kdl"), config(&address, "// answer old")).unwrap();
        let mut w = World { plane: Plane::start().await, dir, address, agent: None };
        w.start(&[]);
        w
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn command(&self, more: &[&str]) -> Command {
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
        c.args(more).env("BESIDE_FAKE", "1").stdout(log.try_clone().unwrap()).stderr(log).kill_on_drop(true);
        c
    }

    fn start(&mut self, more: &[&str]) {
        self.agent = Some(self.command(more).spawn().unwrap());
    }

    async fn kill_agent(&mut self) {
        if let Some(mut a) = self.agent.take() {
            a.kill().await.unwrap();
        }
    }

    fn bundle(&self, lines: &str) -> Made {
        make(&self.address, lines)
    }

    /// What the proxy answers, `None` without an answer.
    async fn ask(&self) -> Option<String> {
        let mut socket = TcpStream::connect(&self.address).await.ok()?;
        socket.write_all(b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n").await.ok()?;
        let mut text = String::new();
        socket.read_to_string(&mut text).await.ok()?;
        text.split("\r\n\r\n").nth(1).map(str::to_string).filter(|t| !t.is_empty())
    }

    async fn serves(&self, answer: &str) {
        let what = format!("the proxy answers {answer:?}\n{}", self.log());
        eventually(&what, async || self.ask().await.filter(|a| a == answer)).await;
    }

    async fn said(&self, generation: u64, last: &str) -> Vec<String> {
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

    fn read(&self, file: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.state().join(file)).unwrap_or_default()).unwrap_or_default()
    }

    fn proxy_pid(&self) -> i64 {
        self.read("proxy.json")["pid"].as_i64().unwrap_or(0)
    }

    fn signal(&self, pid: i64, signal: &str) {
        let done = std::process::Command::new("kill").args([signal, &pid.to_string()]).status().unwrap();
        assert!(done.success());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("agent.log")).unwrap_or_default()
    }

    async fn is_active(&self, made: &Made) {
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

fn eq<T: PartialEq + Debug>(a: T, b: T, w: &World) {
    assert_eq!(a, b, "\n{}", w.log());
}

const GOOD: [&str; 4] = ["downloaded", "staged", "activated", "verified"];

async fn a_good_bundle_is_proved_and_the_next_one_needs_no_new_process() {
    let w = World::new().await;
    w.serves("old").await;
    let (one, two) = (w.bundle("// answer one"), w.bundle("// answer two"));
    w.plane.order(&one, 1);
    eq(w.said(1, "verified").await, GOOD.map(String::from).into(), &w);
    w.serves("one").await;
    w.is_active(&one).await;
    let pid = w.proxy_pid();
    w.plane.order(&two, 2);
    eq(w.said(2, "verified").await, GOOD.map(String::from).into(), &w);
    w.serves("two").await;
    eq(w.proxy_pid(), pid, &w);
    w.is_active(&two).await;
    let beat = eventually("a heartbeat with measured requests", async || {
        Some(w.plane.last_beat()).filter(|b| b["metrics"]["requests_total"].as_u64() > Some(0))
    })
    .await;
    eq(beat["health"]["status"].as_str(), Some("healthy"), &w);
    eq(beat["version"].as_str(), Some("0.6.45"), &w);
    // The verified files are there as they were signed, the previous release is pinned, and nothing else is left.
    let kept = std::fs::read_dir(w.state().join("releases")).unwrap().count();
    eq(kept, 3, &w);
    let text = std::fs::read_to_string(w.state().join("current/bundle/config.kdl")).unwrap();
    eq(text, config(&w.address, "// answer two"), &w);
}

async fn a_bundle_that_the_proxy_refuses_or_dies_of_is_taken_back() {
    let w = World::new().await;
    let good = w.bundle("// answer one");
    w.plane.order(&good, 1);
    w.said(1, "verified").await;
    for (generation, lines, reason) in [
        (2, "// answer bad\n// refused", "Configuration reload failed: because"),
        (3, "// answer bad\n// dies", "died"),
    ] {
        w.plane.order(&w.bundle(lines), generation);
        w.said(generation, "failed").await;
        let why = w.plane.failure(generation).unwrap();
        assert!(why.contains(reason), "{why}\n{}", w.log());
        assert!(!w.plane.said(generation).contains(&"activated".to_string()));
        w.serves("one").await;
        w.is_active(&good).await;
    }
}

async fn a_bundle_whose_requests_fail_is_taken_back() {
    let mut w = World::new().await;
    w.plane.order(&w.bundle("// answer one"), 1);
    w.said(1, "verified").await;
    w.kill_agent().await;
    w.start(&["--soak", "2", "--smoke", "/x"]);
    w.plane.order(&w.bundle("// answer bad\n// status 500"), 2);
    w.said(2, "failed").await;
    let why = w.plane.failure(2).unwrap();
    assert!(why.contains("smoke request /x: HTTP 500"), "{why}");
    w.serves("one").await;
    // The same by traffic alone.
    w.kill_agent().await;
    w.start(&["--soak", "2"]);
    w.plane.order(&w.bundle("// answer worse\n// status 500"), 3);
    eventually("it is taken back under traffic", async || {
        w.ask().await;
        w.plane.failure(3)
    })
    .await;
    let why = w.plane.failure(3).unwrap();
    assert!(why.contains("requests failed after the switch"), "{why}");
    w.serves("one").await;
}

async fn what_is_not_valid_or_too_deep_never_reaches_the_proxy() {
    let w = World::new().await;
    w.serves("old").await;
    let deep = format!("/- {}{}", "a { ".repeat(600), "}".repeat(600));
    let depth = w.bundle(&format!("// answer deep\n{deep}"));
    for (generation, made, reason) in [
        (1, w.bundle("// answer x\n// invalid"), "no such upstream"),
        (2, depth, "guard: "),
        (3, w.bundle("include \"/etc/*\""), "guard: "),
    ] {
        w.plane.order(&made, generation);
        w.said(generation, "failed").await;
        let why = w.plane.failure(generation).unwrap();
        assert!(why.contains(reason), "{why}");
        assert!(!w.plane.said(generation).contains(&"staged".to_string()));
        w.serves("old").await;
        assert!(std::fs::read_link(w.state().join("current")).unwrap().ends_with("baseline"));
    }
}

async fn a_hostile_control_plane_changes_nothing() {
    let w = World::new().await;
    let good = w.bundle("// answer one");
    w.plane.order(&good, 4);
    w.said(4, "verified").await;
    let bad = w.bundle("// answer evil");
    let lies = [
        (Lie::Signature, "bad_signature"),
        (Lie::OtherNode, "wrong_node"),
        (Lie::OtherProject, "wrong_project"),
        (Lie::Expired, "expired"),
        (Lie::Unsigned, "malformed"),
        (Lie::OtherBytes, "artifact_hash"),
        (Lie::MoreBytes, "too_large"),
        (Lie::Redirect, "redirected"),
        (Lie::Origin, "origin"),
        (Lie::OtherBundle, "bundle_id"),
    ];
    for (n, (lie, code)) in (5..).zip(lies) {
        w.plane.desk.lock().unwrap().lie = Some(lie);
        w.plane.order(&bad, n);
        w.said(n, "failed").await;
        let why = w.plane.failure(n).unwrap();
        assert!(why.contains(code), "{lie:?}: {why}");
        eq(w.ask().await.as_deref(), Some("one"), &w);
    }
    w.plane.desk.lock().unwrap().lie = Some(Lie::OldGeneration);
    w.plane.order(&bad, 50);
    w.said(1, "failed").await;
    assert!(w.plane.failure(1).unwrap().contains("stale_generation"));
    w.is_active(&good).await;
    // And what is true is believed again.
    w.plane.desk.lock().unwrap().lie = None;
    w.plane.order(&w.bundle("// answer two"), 51);
    w.said(51, "verified").await;
    w.serves("two").await;
    assert!(!w.log().contains("sig=secret"), "the query of a download address is a credential");
}

async fn a_broken_download_goes_on_where_it_stopped() {
    let mut w = World::new().await;
    w.plane.desk.lock().unwrap().cut = 2;
    w.plane.order(&w.bundle("// answer one"), 1);
    w.said(1, "verified").await;
    {
        let desk = w.plane.desk.lock().unwrap();
        assert!(desk.ranges >= 2 && desk.downloads >= 3, "{} of {}", desk.ranges, desk.downloads);
    }
    // Also when the agent died in between.
    w.plane.desk.lock().unwrap().cut = 100;
    w.plane.order(&w.bundle("// answer two"), 2);
    let begun = w.plane.desk.lock().unwrap().downloads;
    eventually("a download was begun", async || (w.plane.desk.lock().unwrap().downloads > begun).then_some(())).await;
    w.kill_agent().await;
    w.plane.desk.lock().unwrap().cut = 0;
    w.start(&[]);
    w.said(2, "verified").await;
    w.serves("two").await;
}

async fn an_agent_killed_at_any_moment_ends_on_what_serves() {
    let mut w = World::new().await;
    w.plane.order(&w.bundle("// answer 0"), 1);
    w.said(1, "verified").await;
    for n in 1..=12u64 {
        let made = w.bundle(&format!("// answer {n}"));
        w.plane.order(&made, n + 1);
        eventually("it has begun", async || (!w.plane.said(n + 1).is_empty()).then_some(())).await;
        // From the first report to past the soak.
        tokio::time::sleep(Duration::from_millis(n * 70)).await;
        w.kill_agent().await;
        assert!(w.ask().await.is_some(), "the proxy serves on without its agent\n{}", w.log());
        w.start(&[]);
        w.said(n + 1, "verified").await;
        w.serves(&n.to_string()).await;
        w.is_active(&made).await;
        eq(w.read("state.json")["intent"].is_null(), true, &w);
    }
}

async fn a_killed_proxy_is_started_again_and_found_by_the_next_agent() {
    let mut w = World::new().await;
    w.plane.order(&w.bundle("// answer one"), 1);
    w.said(1, "verified").await;
    let first = w.proxy_pid();
    w.signal(first, "-9");
    eventually("another process runs", async || (w.proxy_pid() != first).then_some(())).await;
    w.serves("one").await;
    let second = w.proxy_pid();
    w.kill_agent().await;
    w.serves("one").await;
    w.start(&[]);
    let beats = w.plane.desk.lock().unwrap().beats.len();
    eventually("the next agent beats", async || (w.plane.desk.lock().unwrap().beats.len() > beats).then_some(())).await;
    eq(w.proxy_pid(), second, &w);
    eq(w.plane.desk.lock().unwrap().registered, 1, &w);
    // An orderly end takes the proxy along.
    let agent = w.agent.as_ref().unwrap().id().unwrap();
    w.signal(i64::from(agent), "-TERM");
    eventually("nobody answers", async || w.ask().await.is_none().then_some(())).await;
}

async fn without_the_control_plane_the_last_configuration_serves() {
    let mut w = World::new().await;
    let one = w.bundle("// answer one");
    w.plane.order(&one, 1);
    w.said(1, "verified").await;
    w.plane.desk.lock().unwrap().down = true;
    w.kill_agent().await;
    w.signal(w.proxy_pid(), "-9");
    eventually("nobody answers", async || w.ask().await.is_none().then_some(())).await;
    w.start(&[]);
    w.serves("one").await;
    w.plane.desk.lock().unwrap().down = false;
    w.plane.order(&w.bundle("// answer two"), 2);
    w.said(2, "verified").await;
    w.serves("two").await;
}

async fn a_new_generation_of_what_runs_is_confirmed_without_a_switch() {
    let w = World::new().await;
    let one = w.bundle("// answer one");
    w.plane.order(&one, 1);
    w.said(1, "verified").await;
    let (pid, downloads) = (w.proxy_pid(), w.plane.desk.lock().unwrap().downloads);
    w.plane.order(&one, 2);
    eq(w.said(2, "verified").await, ["activated", "verified"].map(String::from).into(), &w);
    eq((w.proxy_pid(), w.plane.desk.lock().unwrap().downloads), (pid, downloads), &w);
}

async fn a_withdrawn_assignment_is_not_switched_to() {
    let w = World::new().await;
    w.serves("old").await;
    w.plane.desk.lock().unwrap().withdraw = true;
    w.plane.order(&w.bundle("// answer one"), 1);
    w.said(1, "staged").await;
    w.plane.desk.lock().unwrap().order = None;
    let beats = w.plane.desk.lock().unwrap().beats.len();
    eventually("two more heartbeats", async || (w.plane.desk.lock().unwrap().beats.len() > beats + 1).then_some(()))
        .await;
    eq(w.ask().await.as_deref(), Some("old"), &w);
    eq(w.plane.last_beat()["active_bundle_id"].is_null(), true, &w);
}

async fn a_release_that_does_not_stay_up_is_left_without_the_control_plane() {
    let w = World::new().await;
    w.plane.order(&w.bundle("// answer one"), 1);
    w.said(1, "verified").await;
    let bomb = w.bundle("// answer bomb\n// dies-later");
    w.plane.order(&bomb, 2);
    w.said(2, "verified").await;
    w.plane.desk.lock().unwrap().down = true;
    w.serves("one").await;
    w.plane.desk.lock().unwrap().down = false;
    w.said(2, "failed").await;
    assert!(w.plane.failure(2).unwrap().contains("ended 3 times"), "{:?}", w.plane.failure(2));
    w.serves("one").await;
}

async fn another_root_is_not_enrolled_with() {
    let mut w = World::new().await;
    w.kill_agent().await;
    std::fs::remove_file(w.state().join("identity.json")).ok();
    let mut other = w.command(&["--root", &format!("sha256:{}", "0".repeat(64))]);
    let status = other.status().await.unwrap();
    assert!(!status.success());
    assert!(w.log().contains("wrong_root"), "{}", w.log());
    assert!(!w.state().join("identity.json").exists());
}

async fn an_agent_started_with_other_addresses_moves_the_proxy() {
    let mut w = World::new().await;
    w.plane.order(&w.bundle("// answer one"), 1);
    w.said(1, "verified").await;
    w.kill_agent().await;
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let rebind = format!("{}={other}", w.address);
    w.start(&["--rebind", &rebind, "--metrics-url", &format!("http://{other}/metrics")]);
    w.address = other;
    w.serves("one").await;
    w.plane.order(&w.bundle("// answer two"), 2);
    w.said(2, "verified").await;
    w.serves("two").await;
}
