//! `user`, `api-key` and `audit` on the command line, on the database of a server that is stopped.

use crate::harness::*;
use crate::people::{ADMIN, Person};
use crate::program::{Program, command, run};
use serde_json::{Value, json};
use std::path::Path;

fn good(args: &[&str], data: &Path, then: &[&str]) -> String {
    let out = run(args, data, then);
    assert!(out.status.success(), "{args:?} {then:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn bad(args: &[&str], data: &Path, then: &[&str]) -> String {
    let out = run(args, data, then);
    assert!(!out.status.success(), "{args:?} {then:?}: {}", String::from_utf8_lossy(&out.stdout));
    String::from_utf8(out.stderr).unwrap()
}

const SETTINGS: [(&str, &str); 2] = [("SENTINEL_CP_BOOTSTRAP_API_KEY", KEY), ("SENTINEL_CP_ADMIN_PASSWORD", ADMIN.1)];

#[tokio::test(flavor = "multi_thread")]
async fn people_and_keys_are_made_and_ended_on_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path();
    let program = Program::serve(data, &SETTINGS).await;
    let locked = bad(&["user"], data, &["list"]);
    assert!(locked.contains("another sentinel-cp"), "{locked}");
    program.stop();

    let made = good(&["user"], data, &["create", "U@example.org", "--org", "default", "--role", "operator"]);
    let password = made.split("password ").nth(1).unwrap().split(' ').next().unwrap().to_string();
    assert!(bad(&["user"], data, &["create", "u@example.org"]).contains("email"));
    let chosen = command(&["user"], data)
        .args(["create", "root@example.org", "--instance-admin"])
        .env("SENTINEL_CP_NEW_PASSWORD", "a password of mine")
        .output()
        .unwrap();
    assert!(chosen.status.success() && !String::from_utf8_lossy(&chosen.stdout).contains("password"));
    assert!(good(&["user"], data, &["list"]).contains("root@example.org enabled instance-admin"));
    assert_eq!(good(&["user"], data, &["disable", "admin@localhost"]), "done\n");
    assert_eq!(good(&["user"], data, &["disable", "admin@localhost"]), "nothing to do\n");
    assert!(bad(&["user"], data, &["disable", "root@example.org"]).contains("last_admin"));
    let made = good(&["api-key"], data, &["create", "ci", "--scopes", "nodes:read,bundles:read", "--days", "7"]);
    let (id, key) = (made.lines().next().unwrap(), made.lines().nth(1).unwrap().split(' ').next().unwrap());
    assert!(bad(&["api-key"], data, &["create", "x", "--scopes", "everything"]).contains("everything"));
    let second = good(&["api-key"], data, &["create", "gone", "--scopes", "all"]);
    assert_eq!(good(&["api-key"], data, &["revoke", second.lines().next().unwrap()]), "done\n");
    assert!(good(&["api-key"], data, &["list"]).lines().any(|l| l.starts_with(id) && l.contains("bundles:read")));

    let program = Program::serve(data, &[]).await;
    let user = Person::sign_in(&program.url, "u@example.org", &password).await;
    user.get("/api/v1/projects").await.expect(200);
    Person::sign_in(&program.url, "root@example.org", "a password of mine").await;
    assert_eq!(Person::try_sign_in(&program.url, "admin@localhost", ADMIN.1).await.err(), Some(401));
    let ci = Client::new(&program.url, Some(key));
    ci.get("/api/v1/session").await.expect(200);
    is_problem(&ci.post("/api/v1/projects", json!({"name": "x"})).await, 403, None);
    let gone = Client::new(&program.url, Some(second.lines().nth(1).unwrap().split(' ').next().unwrap()));
    is_problem(&gone.get("/api/v1/projects").await, 401, None);
    program.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_was_written_anew_is_found_with_a_witness() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path();
    let program = Program::serve(data, &SETTINGS).await;
    let op = Client::operator(&program.url);
    for name in ["a", "b", "c"] {
        op.post("/api/v1/projects", json!({"name": name})).await.expect(201);
    }
    program.stop();
    let heads = good(&["audit"], data, &["heads"]);
    let witness = data.join("witness");
    std::fs::write(&witness, &heads).unwrap();
    let witness = witness.to_str().unwrap();
    assert!(good(&["audit"], data, &["verify"]).lines().count() >= 4);
    good(&["audit"], data, &["verify", "--witness", witness]);
    let exported = good(&["audit"], data, &["export"]);
    let entries: Vec<Value> = exported.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(entries.iter().any(|e| e["action"] == "project.created"));

    // Later entries change nothing about what was seen.
    let program = Program::serve(data, &[]).await;
    Client::operator(&program.url).post("/api/v1/projects", json!({"name": "d"})).await.expect(201);
    program.stop();
    good(&["audit"], data, &["verify", "--witness", witness]);

    // As if the chain had been another when it was seen.
    let forged: Vec<String> = heads
        .lines()
        .map(|l| {
            let mut v: Value = serde_json::from_str(l).unwrap();
            if v["chain"].is_null() {
                v["hash"] = "0".repeat(64).into();
            }
            v.to_string()
        })
        .collect();
    std::fs::write(witness, forged.join("\n")).unwrap();
    let out = run(&["audit"], data, &["verify", "--witness", witness]);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(!out.status.success() && said.contains("witnessed"), "{said}");
    std::fs::write(witness, "nothing of use\n").unwrap();
    assert!(bad(&["audit"], data, &["verify", "--witness", witness]).contains("no line"));
}

/// The server gives its heads away by itself: to the log, and to nodes in what it signs for them. Either shows what was done to
/// the database since.
async fn a_chain_is_held_against_what_the_server_said(database: Option<String>) {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path();
    let url = database.unwrap_or_else(|| format!("sqlite://{}", data.join("sentinel.db").display()));
    let place = ("SENTINEL_CP_DATABASE_URL", url.as_str());
    let verify = |witness: &Path| {
        let mut command = command(&["audit"], data);
        command.env(place.0, place.1).args(["verify", "--witness"]).arg(witness).output().unwrap()
    };

    let program = Program::serve(data, &[SETTINGS[0], SETTINGS[1], place]).await;
    let op = Client::operator(&program.url);
    open_project(&op, "p").await;
    let project = op.get("/api/v1/projects/p").await.expect(200)["project"]["id"].as_str().unwrap().to_string();
    let node = Hand::register(&program.url, "p", "n-1").await;
    node.beat(json!({"health": {"status": "healthy"}})).await;
    let bundle = bundle_of(&op, "p", "v1").await;
    roll_out(&op, "p", json!({"bundle_id": bundle["bundle_id"]})).await;
    let told = node.told().await;
    program.stop();

    // What the node keeps: one line of the very answer, signed.
    let assignment = data.join("assignment.json");
    std::fs::write(&assignment, told.to_string()).unwrap();
    let envelope: bundle::trust::Envelope = serde_json::from_value(told["assignment"].clone()).unwrap();
    let signed: bundle::trust::Assignment = envelope.decode().unwrap();
    let head = signed.audit_head.unwrap();
    assert!(head.seq > 2, "{head:?}");
    let log = data.join("log");
    let logged: Vec<Value> = std::fs::read_to_string(&log)
        .unwrap()
        .lines()
        .filter_map(|l| serde_json::from_str::<Value>(l).ok())
        .filter(|l| l["fields"]["message"] == "audit head")
        .collect();
    assert!(logged.iter().any(|l| l["fields"]["chain"] == "system"), "{logged:?}");
    assert!(logged.iter().any(|l| l["fields"]["chain"] == project), "{logged:?}");
    for witness in [&assignment, &log] {
        let out = verify(witness);
        assert!(out.status.success(), "{witness:?}: {}", String::from_utf8_lossy(&out.stdout));
    }

    // Somebody who may write to the database changes the second entry and chains everything behind it anew.
    let store = store::StoreConfig::from_url(&url).unwrap();
    let store = store::Store::open(store, &prometheus::Registry::new()).await.unwrap();
    let chain = Some(project.parse().unwrap());
    store::testing::rewrite_audit(&store, chain, 2, json!({"nothing": "to see"})).await.unwrap();
    assert!(store.audit_verify(chain).await.unwrap().valid, "by itself the chain holds");
    store.close().await;
    let last = |l: &&Value| l["fields"]["chain"] == project.as_str();
    let told_log = logged.iter().rev().find(last).unwrap()["fields"]["seq"].as_u64().unwrap();
    for (witness, at) in [(&assignment, head.seq), (&log, told_log)] {
        let out = verify(witness);
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(!out.status.success() && said.contains("witnessed"), "{witness:?}: {said}");
        let verdicts: Vec<Value> = said.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let of = |v: &&Value| v["chain"] == project.as_str();
        let verdict = verdicts.iter().find(of).unwrap();
        assert_eq!(verdict["verdict"]["first_bad_seq"], at, "the first that was seen: {said}");
        let others = verdicts.iter().filter(|v| v["chain"] != project.as_str());
        assert!(others.clone().count() > 0 && others.clone().all(|v| v["verdict"]["valid"] == true), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_said_of_its_chains_shows_that_one_was_written_anew_on_sqlite() {
    a_chain_is_held_against_what_the_server_said(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_said_of_its_chains_shows_that_one_was_written_anew_on_postgresql() {
    a_chain_is_held_against_what_the_server_said(Some(store::testing::empty_postgres().await)).await;
}
