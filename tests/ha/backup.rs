//! A backup taken beside a running server and a running rollout is put back after the fleet has gone on: nodes that know more are
//! recognised and left alone, what was under way ends, and the next rollout goes above everything they have accepted.

use super::drills::seeded;
use super::postgres::Postgres;
use super::process::{Plan, Process, Wire};
use crate::harness::*;
use serde_json::{Value, json};
use sim::Fleet;
use sim::dice::Dice;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;
use store::testing::programs;

/// One after the other: a program that copies the rollout under way has time to start before the last of them.
const NODES: u32 = 12;
const SCRIPT: &str = "[default]\napply_delay = \"300ms\"\n";

fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

/// A command of the program, with the settings of `p`.
fn ctl(p: &Process, command: &str, data: &Path, args: &[&str]) -> Output {
    let mut c = Command::new(env!("CARGO_BIN_EXE_sentinel-cp"));
    c.arg(command).args(args).arg("--data-dir").arg(data);
    for (name, value) in p.command().get_envs() {
        if matches!(name.to_str(), Some("SENTINEL_CP_DATABASE_URL" | "SENTINEL_CP_MASTER_KEY")) {
            c.env(name, value.unwrap());
        }
    }
    c.output().unwrap()
}

fn succeeds(out: &Output, says: &str) {
    let said = text(out);
    assert!(out.status.success() && said.contains(says), "{}: {said}", out.status);
}

fn fails(out: &Output, says: &str) {
    let said = text(out);
    assert!(!out.status.success() && said.contains(says), "{}: {said}", out.status);
}

/// The whole file layout of one control plane, in which SQLite's database may be put back elsewhere.
struct Old {
    p: Process,
    op: Client,
    fleet: Fleet,
}

/// A fleet on v1, with a rollout of v2 that is under way.
async fn half_way(p: Process) -> (Old, String) {
    let op = Client::operator(&p.url);
    open_project(&op, "p").await;
    let fleet = fleet(&p.url, "p", NODES, sim::Behaviour::default(), SCRIPT).await;
    online(&op, "p", NODES.into()).await;
    let v1 = bundle_of(&op, "p", "v1").await;
    let id = roll_out(&op, "p", json!({"bundle_id": v1["bundle_id"], "batch_size": NODES})).await;
    reaches(&op, &id, "completed").await;
    let v2 = bundle_of(&op, "p", "v2").await;
    let half = roll_out(&op, "p", json!({"bundle_id": v2["bundle_id"], "batch_size": 1})).await;
    eventually("some nodes are verified", async || {
        (rollout(&op, &half).await["progress"]["verified"].as_u64() >= Some(3)).then_some(())
    })
    .await;
    (Old { p, op, fleet }, half)
}

/// What the fleet does after the backup was taken: it goes to v2, and then to a v3 that the backup has never heard of.
async fn go_on(old: &Old, half: &str) -> Value {
    reaches(&old.op, half, "completed").await;
    let v3 = bundle_of(&old.op, "p", "v3").await;
    let id = roll_out(&old.op, "p", json!({"bundle_id": v3["bundle_id"], "batch_size": NODES})).await;
    reaches(&old.op, &id, "completed").await;
    v3["bundle_id"].clone()
}

/// The restored control plane meets the fleet.
async fn meets(op: &Client, fleet: Fleet, half: &str, v3: &Value) {
    online(op, "p", NODES.into()).await;
    let ended = rollout(op, half).await;
    assert_eq!(ended["state"], "cancelled", "what was under way in the backup has ended: {ended:#}");
    let known = nodes(op, "p").await;
    eventually("every node is known to run what is not known here", async || {
        for n in known.values() {
            let log = op.get(&format!("/api/v1/projects/p/nodes/{}/events", n["id"].as_str().unwrap())).await;
            if !log.body.to_string().contains(v3.as_str().unwrap()) {
                return None;
            }
        }
        Some(())
    })
    .await;
    // Left alone: nobody is told anything, for longer than any poll and any heartbeat takes.
    let runs = |s: &sim::NodeStatus| s.active.map(|a| a.to_string());
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        for (name, status) in fleet.status().await.unwrap() {
            assert_eq!(runs(&status).as_deref(), v3.as_str(), "{name} was fought");
        }
    }
    let before: u64 = fleet.status().await.unwrap().values().map(|s| s.generation).max().unwrap();
    let v4 = bundle_of(op, "p", "v4").await;
    let id = roll_out(op, "p", json!({"bundle_id": v4["bundle_id"], "batch_size": NODES})).await;
    let r = reaches(op, &id, "completed").await;
    assert_eq!(r["progress"]["verified"], NODES, "{r:#}");
    for n in nodes(op, "p").await.values() {
        assert!(n["generation"].as_u64() > Some(before), "{n:#}");
        assert_eq!(n["active_bundle_id"], v4["bundle_id"], "{n:#}");
    }
    chains_hold(op).await;
    let report = fleet.stop().await.unwrap();
    assert_eq!((report.count("refused"), report.count("misread")), (0, 0), "{report}");
}

fn plan(dir: &Path, database: &str) -> Plan {
    let mut plan = Plan::new(0, dir);
    plan.more = vec!["--database-url".into(), database.into()];
    plan
}

/// The same address and settings on what was put back.
async fn start_again(old: Process, database: &str, dir: &Path, dice: &mut Dice) -> Process {
    let mut p = Process::start_on("none", &plan(dir, database), database, dice).await;
    p.kill();
    p.take_address_of(old);
    p.up().await;
    p
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_state_of_sqlite_is_restored_and_nodes_that_know_more_are_left_alone() {
    let mut dice = seeded(41);
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    for d in [&one, &two] {
        std::fs::create_dir(d).unwrap();
    }
    let url = |d: &Path| format!("sqlite://{}", d.join("cp/sentinel.db").display());
    let (old, half) = half_way(Process::start_on("cp", &plan(&one, &url(&one)), &url(&one), &mut dice).await).await;

    let backup = dir.path().join("backup");
    let to = ["--to", backup.to_str().unwrap()];
    let storage = format!("file://{}", one.join("artifacts").display());
    let with = |more: &[&str]| -> Vec<String> {
        more.iter().map(|s| s.to_string()).chain(["--storage".to_string(), storage.clone()]).collect()
    };
    let run = |command: &str, data: &Path, args: Vec<String>| {
        ctl(&old.p, command, data, &args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    succeeds(&run("backup", &one.join("cp"), with(&to)), "without the master key");
    assert!(!backup.join("master.key").exists());
    fails(&run("backup", &one.join("cp"), with(&to)), "not empty");
    let v3 = go_on(&old, &half).await;

    // Into a place of its own; what was altered is not put back.
    let target = url(&two);
    let put_back = |from: &Path| {
        let mut c = Command::new(env!("CARGO_BIN_EXE_sentinel-cp"));
        c.args(["restore", "--from"]).arg(from).arg("--data-dir").arg(two.join("cp"));
        c.args(["--storage", &format!("file://{}", two.join("artifacts").display()), "--database-url", &target]);
        for (name, value) in old.p.command().get_envs().filter(|(n, _)| *n == "SENTINEL_CP_MASTER_KEY") {
            c.env(name, value.unwrap());
        }
        c.output().unwrap()
    };
    let database = backup.join("sentinel.db");
    let good = std::fs::read(&database).unwrap();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    std::fs::write(&database, &bad).unwrap();
    fails(&put_back(&backup), "not what was backed up");
    std::fs::write(&database, &good).unwrap();
    succeeds(&put_back(&backup), &format!("{NODES} nodes are lifted"));
    fails(&put_back(&backup), "there is a database already");

    let Old { p, fleet, .. } = old;
    let p = start_again(p, &target, &two, &mut dice).await;
    let op = Client::operator(&p.url);
    meets(&op, fleet, &half, &v3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_dump_of_postgres_is_restored_and_a_missing_archive_is_found() {
    let mut dice = seeded(42);
    let pg = Postgres::start(&mut dice).await;
    let dir = tempfile::tempdir().unwrap();
    let (old, half) =
        half_way(Process::start("cp", &Plan::new(pg.port, dir.path()), Wire::Direct, &mut dice).await).await;
    let dump = pg.dump("postgres").await;
    let v3 = go_on(&old, &half).await;
    let Old { mut p, op, fleet } = old;
    let v1 = op.get("/api/v1/projects/p/bundles?limit=50").await.expect(200);
    p.kill();
    pg.put_back("postgres", &dump).await;

    let storage = dir.path().join("artifacts");
    let args = ["--storage", &format!("file://{}", storage.display())];
    let restore = |more: &[&str]| ctl(&p, "restore", &dir.path().join("cp"), &[&args[..], more].concat());
    succeeds(&restore(&["--check"]), "looked at: the schema, 3 sealed keys");
    // An archive that the database names, and that is not where it should be.
    let lost = v1["bundles"].as_array().unwrap().iter().find(|b| b["version"] == "v1").unwrap()["bundle_id"].clone();
    let file = find(&storage, lost.as_str().unwrap());
    let kept = file.with_extension("away");
    std::fs::rename(&file, &kept).unwrap();
    fails(&restore(&[]), "FAULT: archive");
    std::fs::rename(&kept, &file).unwrap();
    succeeds(&restore(&[]), &format!("{NODES} nodes are lifted"));
    p.up().await;
    meets(&Client::operator(&p.url), fleet, &half, &v3).await;
}

fn find(below: &Path, name: &str) -> std::path::PathBuf {
    for entry in std::fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            let found = find(&path, name);
            if found.exists() {
                return found;
            }
        } else if path.to_string_lossy().contains(name) {
            return path;
        }
    }
    below.join(name)
}

#[test]
fn the_programs_that_dump_and_restore_are_those_of_the_server() {
    for name in ["pg_dump", "pg_restore"] {
        assert!(programs::command(name).arg("--version").output().unwrap().status.success(), "{name}");
    }
}
