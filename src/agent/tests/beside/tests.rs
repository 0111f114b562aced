//! The way of a bundle: what the agent must do beside a proxy and a control plane that behave, fail, die or are away.

use crate::plane::config;
use crate::world::{World, eq, eventually};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use tokio::net::TcpListener;

const GOOD: [&str; 4] = ["downloaded", "staged", "activated", "verified"];

pub async fn a_good_bundle_is_proved_and_the_next_one_needs_no_new_process() {
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
    eq(beat["metadata"]["proxy_alive"].as_bool(), Some(true), &w);
    assert!(beat["measured_at"].is_string() && beat["sent_at"].is_string(), "{beat:#}");
    eventually("a heartbeat with what the proxy's process uses", async || {
        let m = w.plane.last_beat()["metrics"].clone();
        (m["memory_percent"].as_f64() > Some(0.0) && m["cpu_percent"].is_number()).then_some(())
    })
    .await;
    eq(beat["version"].as_str(), Some("0.6.45"), &w);
    // The verified files are there as they were signed, the previous release is pinned, and nothing else is left.
    let kept = std::fs::read_dir(w.state().join("releases")).unwrap().count();
    eq(kept, 3, &w);
    let text = std::fs::read_to_string(w.state().join("current/bundle/config.kdl")).unwrap();
    eq(text, config(&w.address, "// answer two"), &w);
    // What came with it may be read by nobody else, and only programs may be run.
    let mode = |f: &str| std::fs::metadata(w.state().join(f)).unwrap().permissions().mode() & 0o7777;
    eq([mode(""), mode("current/bundle"), mode("current/bundle/plugins")], [0o700; 3], &w);
    for f in [
        "identity.json",
        "state.json",
        "current/proxy.kdl",
        "current/bundle/certs/site.pem",
        "current/bundle/trust/ca.pem",
    ] {
        eq(mode(f), 0o600, &w);
    }
    eq(mode("current/bundle/plugins/padding.bin"), 0o700, &w);
}

pub async fn the_agent_keeps_a_log_at_the_control_plane() {
    let mut w = World::new().await;
    w.serves("old").await;
    w.plane.order(&w.bundle("// answer one"), 1);
    w.said(1, "verified").await;
    w.plane.order(&w.bundle("// answer bad\n// refused"), 2);
    w.said(2, "failed").await;
    w.signal(w.proxy_pid(), "-9");
    w.serves("one").await;
    w.signal(i64::from(w.agent.as_ref().unwrap().id().unwrap()), "-TERM");
    w.agent.take().unwrap().wait().await.unwrap();
    let events = w.plane.desk.lock().unwrap().events.clone();
    let has = |kind: &str, text: &str| {
        events.iter().any(|e| e["event_type"] == kind && e["message"].as_str().is_some_and(|m| m.contains(text)))
    };
    for (kind, text) in [
        ("startup", "baseline is active"),
        ("config_reload", "told to reload"),
        ("bundle_switch", "is active"),
        ("error", "Configuration reload failed: because"),
        ("error", "ended by itself"),
        ("shutdown", "the agent ends"),
    ] {
        assert!(has(kind, text), "{kind} {text}: {events:#?}");
    }
    assert!(events.iter().all(|e: &Value| e["at"].is_string()));
}

pub async fn a_bundle_that_the_proxy_refuses_or_dies_of_is_taken_back() {
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

pub async fn a_bundle_whose_requests_fail_is_taken_back() {
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

pub async fn what_is_not_valid_or_too_deep_never_reaches_the_proxy() {
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

pub async fn a_broken_download_goes_on_where_it_stopped() {
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

pub async fn an_agent_killed_at_any_moment_ends_on_what_serves() {
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

pub async fn a_host_that_dies_at_any_moment_comes_back_on_what_was_begun_or_before() {
    let mut w = World::new().await;
    let mut good = w.bundle("// answer 0");
    let mut serves = "0".to_string();
    w.plane.order(&good, 1);
    w.said(1, "verified").await;
    let mut forward = 0;
    for n in 1..=8u64 {
        let made = w.bundle(&format!("// answer {n}"));
        w.plane.order(&made, n + 1);
        eventually("it has begun", async || (!w.plane.said(n + 1).is_empty()).then_some(())).await;
        tokio::time::sleep(Duration::from_millis(n * 90)).await;
        w.kill_agent().await;
        let _ = std::process::Command::new("kill").args(["-9", &w.proxy_pid().to_string()]).output();
        // The control plane is away at first: what the disk says must do.
        w.plane.desk.lock().unwrap().down = true;
        w.start(&[]);
        eventually("it serves the old or the new", async || {
            w.ask().await.filter(|a| *a == serves || *a == n.to_string())
        })
        .await;
        w.plane.desk.lock().unwrap().down = false;
        let end = eventually("the control plane is told how it ended", async || {
            w.plane.said(n + 1).into_iter().find(|s| matches!(s.as_str(), "failed" | "verified"))
        })
        .await;
        if end == "verified" {
            (good, serves) = (made, n.to_string());
            forward += 1;
        }
        w.serves(&serves).await;
        w.is_active(&good).await;
        eq(w.read("state.json")["intent"].is_null(), true, &w);
    }
    println!("    {forward} of 8 went forward, the others back");
    assert!(forward > 0);
}

pub async fn a_killed_proxy_is_started_again_and_found_by_the_next_agent() {
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

pub async fn without_the_control_plane_the_last_configuration_serves() {
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

pub async fn a_new_generation_of_what_runs_is_confirmed_without_a_switch() {
    let w = World::new().await;
    let one = w.bundle("// answer one");
    w.plane.order(&one, 1);
    w.said(1, "verified").await;
    let (pid, downloads) = (w.proxy_pid(), w.plane.desk.lock().unwrap().downloads);
    w.plane.order(&one, 2);
    eq(w.said(2, "verified").await, ["activated", "verified"].map(String::from).into(), &w);
    eq((w.proxy_pid(), w.plane.desk.lock().unwrap().downloads), (pid, downloads), &w);
}

pub async fn a_withdrawn_assignment_is_not_switched_to() {
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

pub async fn a_release_that_does_not_stay_up_is_left_without_the_control_plane() {
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

pub async fn an_agent_started_with_other_addresses_moves_the_proxy() {
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
