//! Rollouts over three real proxies with their agents, under traffic the whole time. Needs the program `zentinel` 0.6.45.

use crate::harness::*;
use crate::proxies::*;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const NAMES: [&str; 3] = ["n-1", "n-2", "n-3"];

/// Three hosts that serve `one`, and what the control plane calls that.
async fn fleet_on_one(w: &World, bin: &Path, dir: &Path, more: &[&str]) -> (Vec<Beside>, Value) {
    let mut fleet = Vec::new();
    for name in NAMES {
        fleet.push(Beside::start(bin, &w.one.url, dir, name, more).await);
    }
    online(&w.op, "p", 3).await;
    let one = compile(&w.op, "p", "one", &config(upstream("one").await)).await;
    let id = w.roll_out(json!({"bundle_id": one["bundle_id"], "batch_size": 3})).await;
    reaches(&w.op, &id, "completed").await;
    all_serve(&fleet, "one").await;
    (fleet, one)
}

/// The proxy alone: what a reload costs without us. Twenty of them, under the same load.
async fn own_cost_of_a_reload(bin: &Path, dir: &Path) -> Shots {
    let (port, metrics) = (free_port().await, free_port().await);
    let (a, b) = (upstream("a").await, upstream("b").await);
    let here = |up: u16| {
        config(up)
            .replace("0.0.0.0:8080", &format!("127.0.0.1:{port}"))
            .replace("127.0.0.1:9090", &format!("127.0.0.1:{metrics}"))
    };
    let file = dir.join("alone.kdl");
    std::fs::write(&file, here(a)).unwrap();
    let log = std::fs::File::create(dir.join("alone.log")).unwrap();
    let mut proxy = tokio::process::Command::new(bin)
        .args(["run", "-c"])
        .arg(&file)
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let pid = i64::from(proxy.id().unwrap());
    eventually("the proxy alone serves", async || (ask(port).await.1 == "a").then_some(())).await;
    // It dies of a signal that comes too soon after its start.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let load = Load::on(port);
    for n in 0..20 {
        let (up, text) = if n % 2 == 0 { (b, "b") } else { (a, "a") };
        std::fs::write(&file, here(up)).unwrap();
        kill(pid, "-HUP");
        eventually("the reload is done", async || (ask(port).await.1 == text).then_some(())).await;
    }
    let shots = load.end().await;
    proxy.kill().await.unwrap();
    shots
}

/// Nobody's answer changes before the one before has changed altogether.
fn batch_by_batch(shots: &[Shots], old: &str, new: &str) {
    let mut turns: Vec<_> = shots.iter().map(|s| (s.first(new).unwrap(), s.last(old).unwrap())).collect();
    turns.sort();
    for pair in turns.windows(2) {
        let ((first, _), (second, _)) = (pair[0], pair[1]);
        assert!(second > first, "two at once");
        assert!(second > pair[0].1, "the second began to answer {new:?} while the first still answered {old:?}");
    }
    let gaps: Vec<String> = turns.windows(2).map(|p| format!("{:.1} s", (p[1].0 - p[0].0).as_secs_f64())).collect();
    eprintln!("the answer changed batch by batch, {gaps:?} apart");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_rollout_changes_the_answer_batch_by_batch_and_costs_no_request() {
    let Some(bin) = zentinel("a good rollout over real proxies") else { return };
    let w = World::on(Ground::Sqlite, Options::default()).await;
    let dir = tempfile::tempdir().unwrap();
    let alone = own_cost_of_a_reload(&bin, dir.path()).await;
    eprintln!("20 reloads of the proxy alone: {alone}");
    let (fleet, _) = fleet_on_one(&w, &bin, dir.path(), &["--soak", "1"]).await;
    let processes: Vec<_> = fleet.iter().map(Beside::proxy).collect();
    let two = compile(&w.op, "p", "two", &config(upstream("two").await)).await;

    let loads: Vec<Load> = fleet.iter().map(|b| Load::on(b.port)).collect();
    let id = w.roll_out(json!({"bundle_id": two["bundle_id"], "batch_size": 1})).await;
    let r = reaches(&w.op, &id, "completed").await;
    assert_eq!(r["progress"]["verified"], 3, "{r:#}");
    all_serve(&fleet, "two").await;
    let mut shots = Vec::new();
    for (b, load) in fleet.iter().zip(loads) {
        let s = load.end().await;
        let window = s.first("two").unwrap().saturating_duration_since(s.last("one").unwrap());
        eprintln!(
            "{} during the rollout: {s}; {:.0} ms between the last old answer and the first new one",
            b.name,
            window.as_secs_f64() * 1e3
        );
        shots.push(s);
    }
    batch_by_batch(&shots, "one", "two");
    let failed: usize = shots.iter().map(Shots::failed).sum();
    let of: usize = shots.iter().map(|s| s.0.len()).sum();
    eprintln!(
        "in all {failed} of {of} requests failed; the proxy's own reloads cost {} of {}",
        alone.failed(),
        alone.0.len()
    );
    assert!(of > 100);
    assert!(
        failed <= alone.failed(),
        "{failed} requests failed, and 20 reloads of the proxy alone cost {}",
        alone.failed()
    );
    assert_eq!(fleet.iter().map(Beside::proxy).collect::<Vec<_>>(), processes, "no proxy was restarted");
    all_run(&w.op, "p", &NAMES, &two["bundle_id"]).await;

    // What nobody may load never reaches a proxy: it does not become a bundle.
    let killer = format!("{}\n/- {}{}\n", config(1), "a { ".repeat(600), "} ".repeat(600));
    let answer =
        w.op.post("/api/v1/projects/p/bundles?wait=30", json!({"version": "deep", "config_source": killer})).await;
    assert!(answer.status == 422 || answer.body["bundle"]["status"] == "failed", "{} {:#}", answer.status, answer.body);
    all_serve(&fleet, "two").await;
    assert_eq!(fleet.iter().map(Beside::proxy).collect::<Vec<_>>(), processes);

    // A proxy that is killed comes back by itself.
    let before = fleet[0].proxy();
    kill(before.unwrap(), "-9");
    eventually("another process", async || (fleet[0].proxy() != before).then_some(())).await;
    all_serve(&fleet, "two").await;
    // What the agents did is in the nodes' logs.
    let node = nodes(&w.op, "p").await["n-2"]["id"].as_str().unwrap().to_string();
    let log = w.op.get(&format!("/api/v1/projects/p/nodes/{node}/events?limit=100")).await.expect(200);
    let kinds: Vec<&str> = log["events"].as_array().unwrap().iter().map(|e| e["kind"].as_str().unwrap()).collect();
    for kind in ["startup", "config_reload", "bundle_switch"] {
        assert!(kinds.contains(&kind), "{log:#}");
    }
    eprintln!(
        "resident memory of the agents, kB (this build): {:?}",
        fleet.iter().map(Beside::rss).collect::<Vec<_>>()
    );
    for b in fleet {
        b.end().await;
    }
    w.end().await;
}

/// The bundle validates and reloads well; only requests show that it is wrong. `soak`: how long the agents look at them.
async fn a_wrong_upstream(soak: &str, body: Value, caught_by: &[&str]) {
    let Some(bin) = zentinel("a wrong upstream") else { return };
    let w = World::on(Ground::Sqlite, Options::default()).await;
    let dir = tempfile::tempdir().unwrap();
    let (fleet, one) = fleet_on_one(&w, &bin, dir.path(), &["--soak", soak]).await;
    let loads: Vec<Load> = fleet.iter().map(|b| Load::on(b.port)).collect();
    let wrong = compile(&w.op, "p", "wrong", &config(free_port().await)).await;
    let mut ask = json!({"bundle_id": wrong["bundle_id"], "batch_size": 1, "on_failure": "rollback"});
    ask.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
    let id = w.roll_out(ask).await;
    let r = reaches(&w.op, &id, "rolled_back").await;
    all_serve(&fleet, "one").await;
    // Who said so? It is in the node's log.
    let mut reasons = Vec::new();
    for node in nodes(&w.op, "p").await.values() {
        let path = format!("/api/v1/projects/p/nodes/{}/events?limit=100", node["id"].as_str().unwrap());
        let log = w.op.get(&path).await.expect(200);
        let failed = |e: &&Value| e["kind"] == "rollout.failed" && e["rollout_id"] == id.as_str();
        reasons.extend(log["events"].as_array().unwrap().iter().filter(failed).map(|e| e["detail"].to_string()));
    }
    let [reason] = &reasons[..] else { panic!("one node fails: {reasons:#?}") };
    let mut hurt = 0;
    for (b, load) in fleet.iter().zip(loads) {
        let s = load.end().await;
        hurt += u32::from(s.failed() > 0);
        eprintln!("{}: {s}; dark for {:.1} s", b.name, s.dark().as_secs_f64());
    }
    eprintln!("soak of {soak} s: the wrong upstream was caught as {reason:?}");
    assert_eq!(hurt, 1, "only the first batch failed requests: {r:#}");
    assert!(caught_by.iter().any(|r| reason.contains(r)), "{reason}");
    let own = fleet.iter().any(|b| b.log().contains("requests failed after the switch"));
    assert_eq!(own, reason.contains("reported"), "the agent's soak says so itself");
    all_run(&w.op, "p", &NAMES, &one["bundle_id"]).await;
    for b in fleet {
        b.end().await;
    }
    w.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_upstream_is_taken_back_by_the_first_agent_before_it_is_called_active() {
    a_wrong_upstream("1.5", json!({}), &["reported"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_upstream_that_an_agent_lets_pass_is_stopped_by_the_servers_gate() {
    let gates = json!({"health_gates": {"heartbeat_healthy": true, "max_error_rate": 5.0}, "fail_after_seconds": 3, "min_healthy_seconds": 5});
    a_wrong_upstream("0", gates, &["gate", "regressed"]).await;
}

/// A bundle without any plain listener is proved through a loopback listener that the agent adds.
#[tokio::test(flavor = "multi_thread")]
async fn a_tls_only_configuration_is_proved_through_the_agents_own_listener() {
    let Some(bin) = zentinel("a TLS-only configuration") else { return };
    let w = World::on(Ground::Sqlite, Options::default()).await;
    let dir = tempfile::tempdir().unwrap();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=site.test"])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(made.status.success());
    let tls = |up: u16| {
        let d = dir.path().display();
        let lines = format!(
            "protocol \"https\"\n        tls {{\n            cert-file \"{d}/cert.pem\"\n            key-file \"{d}/key.pem\"\n        }}"
        );
        config(up).replacen("protocol \"http\"", &lines, 1)
    };
    let probe = format!("127.0.0.1:{}", free_port().await);
    let with = Beside::start(&bin, &w.one.url, dir.path(), "with", &["--soak", "0.5", "--probe-listen", &probe]).await;
    let without = Beside::start(&bin, &w.one.url, dir.path(), "without", &["--soak", "0.5"]).await;
    online(&w.op, "p", 2).await;
    let get = |b: &Beside| {
        let out =
            Command::new("curl").args(["-sk", "--max-time", "5", &format!("https://127.0.0.1:{}/x", b.port)]).output();
        String::from_utf8(out.unwrap().stdout).unwrap()
    };
    let mut before = None;
    for text in ["one", "two"] {
        let b = compile(&w.op, "p", text, &tls(upstream(text).await)).await;
        let body = json!({"bundle_id": b["bundle_id"], "batch_size": 2, "failure_threshold": 1});
        let id = w.roll_out(body).await;
        let r = reaches(&w.op, &id, "completed").await;
        eventually("https serves the new answer", async || (get(&with) == text).then_some(())).await;
        if text == "two" {
            assert_eq!(with.proxy(), before, "by a reload");
            break;
        }
        before = with.proxy();
        let all = members(&w.op, &id).await;
        assert_eq!(
            (r["progress"]["verified"].as_u64(), all["without"]["reason"].as_str()),
            (Some(1), Some("reported")),
            "{all:#?}"
        );
        assert!(without.log().contains("give the agent --probe-listen"), "{}", without.log());
    }
    with.end().await;
    without.end().await;
    w.end().await;
}

/// The proxy is a unit of its own, here a script: the agent has a pid file, a signal, and a command that restarts it.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_proxy_that_a_service_manager_runs_is_reloaded_by_signal_and_restarted_by_command() {
    let Some(bin) = zentinel("pid-file mode") else { return };
    let w = World::on(Ground::Sqlite, Options::default()).await;
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path().display().to_string();
    let script = format!(
        "#!/bin/sh\ncd /\nif [ -f {d}/pid ]; then kill -9 $(cat {d}/pid) 2>/dev/null; fi\n\
         RUST_MIN_STACK=33554432 setsid {} run -c {d}/n-1/current/proxy.kdl >>{d}/proxy.log 2>&1 </dev/null &\necho $! >{d}/pid\n",
        bin.display()
    );
    std::fs::write(dir.path().join("restart"), script).unwrap();
    let (pid, log, restart) = (format!("{d}/pid"), format!("{d}/proxy.log"), format!("sh {d}/restart"));
    let flags = ["--soak", "0.5", "--pid-file", &pid, "--proxy-log", &log, "--restart-command", &restart];
    let host = Beside::start(&bin, &w.one.url, dir.path(), "n-1", &flags).await;
    online(&w.op, "p", 1).await;
    let unit = || std::fs::read_to_string(&pid).unwrap_or_default().trim().parse::<i64>().unwrap_or(0);
    let mut seen = Vec::new();
    for (text, threads) in [("one", 1), ("two", 1), ("three", 2)] {
        let kdl = config(upstream(text).await).replace("worker-threads 1", &format!("worker-threads {threads}"));
        let b = compile(&w.op, "p", text, &kdl).await;
        let id = w.roll_out(json!({"bundle_id": b["bundle_id"]})).await;
        reaches(&w.op, &id, "completed").await;
        all_serve(std::slice::from_ref(&host), text).await;
        seen.push(unit());
    }
    kill(unit(), "-9");
    assert_eq!(seen[0], seen[1], "a signal was enough");
    assert_ne!(seen[1], seen[2], "worker threads need a restart");
    host.end().await;
    w.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_says_not_now_is_passed_over_and_gets_the_bundle_when_it_is_free() {
    let Some(bin) = zentinel("a host that says not now") else { return };
    let w = World::on(Ground::Sqlite, Options::default()).await;
    let dir = tempfile::tempdir().unwrap();
    let (fleet, _) = fleet_on_one(&w, &bin, dir.path(), &["--soak", "0.5"]).await;
    fleet[1].says(&["busy", "60"]);
    eventually("the control plane has heard it", async || {
        nodes(&w.op, "p").await["n-2"]["busy_until"].as_str().map(str::to_string)
    })
    .await;
    let two = compile(&w.op, "p", "two", &config(upstream("two").await)).await;
    let id = w.roll_out(json!({"bundle_id": two["bundle_id"], "batch_size": 3})).await;
    let r = reaches(&w.op, &id, "completed").await;
    assert_eq!((&r["progress"]["verified"], &r["progress"]["owed"]), (&json!(2), &json!(1)), "{r:#}");
    assert_eq!(fleet[1].serves().await, "one");
    assert!(fleet[1].says(&["status"]).contains("busy until:"));
    fleet[1].says(&["busy", "--off"]);
    all_serve(&fleet, "two").await;
    eventually("the debt is paid", async || (rollout(&w.op, &id).await["progress"]["verified"] == 3).then_some(()))
        .await;
    for b in fleet {
        b.end().await;
    }
    w.end().await;
}

/// The certificate travels in the bundle, its key never leaves the host: the configuration only names it.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_only_the_host_has_is_found_there_and_its_absence_is_said() {
    let Some(bin) = zentinel("secrets of the host") else { return };
    let w = World::on(Ground::Sqlite, Options::default()).await;
    let dir = tempfile::tempdir().unwrap();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=site.test"])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(made.status.success());
    let read = |f: &str| std::fs::read_to_string(dir.path().join(f)).unwrap();
    let certificate = json!({"path": "certs/site.pem", "text": read("cert.pem")});
    w.op.post("/api/v1/projects/p/resources", certificate).await.expect(201);
    w.op.send("PATCH", "/api/v1/projects/p", json!({"settings": {"secrets": ["site-key"]}})).await.expect(200);
    let tls = "protocol \"https\"\n        tls {\n            cert-file \"certs/site.pem\"\n            key-file \"secrets/site-key\"\n        }";
    let text = config(upstream("one").await).replacen("protocol \"http\"", tls, 1);

    let secret = format!("site-key=file:{}/key.pem", dir.path().display());
    let probes = [free_port().await, free_port().await].map(|p| format!("127.0.0.1:{p}"));
    let more = ["--soak", "0.5", "--probe-listen", &probes[0], "--secret", &secret];
    let with = Beside::start(&bin, &w.one.url, dir.path(), "with", &more).await;
    let without = Beside::start(&bin, &w.one.url, dir.path(), "without", &["--probe-listen", &probes[1]]).await;
    online(&w.op, "p", 2).await;
    let b = compile(&w.op, "p", "one", &text).await;
    let body = json!({"bundle_id": b["bundle_id"], "batch_size": 2, "failure_threshold": 1});
    let id = w.roll_out(body).await;
    let r = reaches(&w.op, &id, "completed").await;
    let all = members(&w.op, &id).await;
    assert_eq!((&all["with"]["state"], &all["without"]["reason"]), (&json!("verified"), &json!("reported")), "{r:#}");
    assert!(without.log().contains("--secret site-key="), "{}", without.log());
    eventually("https is served with the host's key", async || {
        let address = format!("https://127.0.0.1:{}/x", with.port);
        let out = Command::new("curl").args(["-sk", "--max-time", "5", &address]).output().unwrap();
        (out.stdout == b"one").then_some(())
    })
    .await;
    let key = read("key.pem");
    let line = key.lines().nth(1).unwrap();
    let found = Command::new("grep").args(["-rlF", line]).arg(&with.state).output().unwrap();
    assert!(found.stdout.is_empty(), "the key was copied: {}", String::from_utf8_lossy(&found.stdout));
    with.end().await;
    without.end().await;
    w.end().await;
}
