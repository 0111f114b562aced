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
