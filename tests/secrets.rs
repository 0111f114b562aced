//! After a run through everything that knows a secret, none of them is to be found in clear where it does not belong.

use crate::harness::*;
use crate::people::Person;
use crate::program::Program;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use domain::Digest;
use serde_json::json;
use std::path::Path;

const PASSWORD: &str = "the administrators own password";
const OTHER: &str = "the password of somebody else";
const WRONG: &str = "a password that was mistyped";

/// Secrets by what they are.
struct Secrets(Vec<(&'static str, Vec<u8>)>);

impl Secrets {
    fn add(&mut self, what: &'static str, secret: impl Into<Vec<u8>>) {
        let secret = secret.into();
        assert!(secret.len() >= 16, "{what} is too short to be looked for");
        self.0.push((what, secret));
    }

    fn look(&self, wherever: &str, bytes: &[u8]) {
        for (what, secret) in &self.0 {
            let at = bytes.windows(secret.len()).position(|w| w == secret.as_slice());
            if let Some(at) = at {
                let around = String::from_utf8_lossy(&bytes[at.saturating_sub(80)..at]).into_owned();
                panic!("{what} is in {wherever}, after {around:?}");
            }
        }
    }
}

/// Every file below, but for the master key's own.
fn files(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files(&path, found),
            false if path.file_name().is_some_and(|n| n == "master.key") => {}
            false => found.push(path),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_clear_in_logs_errors_metrics_or_the_database() {
    let dir = tempfile::tempdir().unwrap();
    let settings = [("SENTINEL_CP_BOOTSTRAP_API_KEY", KEY), ("SENTINEL_CP_ADMIN_PASSWORD", PASSWORD)];
    let program = Program::serve(dir.path(), &settings).await;
    let (url, op) = (program.url.clone(), Client::operator(&program.url));
    let mut secrets = Secrets(Vec::new());
    for (what, secret) in
        [("the bootstrap key", KEY), ("a password", PASSWORD), ("another password", OTHER), ("a wrong password", WRONG)]
    {
        secrets.add(what, secret);
    }
    let master = std::fs::read_to_string(dir.path().join("master.key")).unwrap();
    secrets.add("the master key", master.trim());
    secrets.add("the master key, raw", BASE64.decode(master.trim()).unwrap());

    // People.
    let orgs = op.get("/api/v1/orgs").await.expect(200);
    let members = format!("/api/v1/orgs/{}/members", orgs["orgs"][0]["id"].as_str().unwrap());
    let invited = op.post(&members, json!({"email": "u@example.org", "role": "operator"})).await.expect(201);
    let text = |v: &serde_json::Value| v.as_str().unwrap().to_string();
    secrets.add("an invitation", text(&invited["token"]));
    let anyone = Client::new(&url, None);
    anyone.get(invited["invitation"]["link"].as_str().unwrap()).await;
    anyone.post("/api/v1/invitations/accept", json!({"token": invited["token"], "password": OTHER})).await.expect(200);
    assert_eq!(Person::try_sign_in(&url, "u@example.org", WRONG).await.err(), Some(401));
    let person = Person::sign_in(&url, "u@example.org", OTHER).await;
    secrets.add("a session", person.token());
    secrets.add("a CSRF token", person.csrf_token());
    person.get("/api/v1/projects").await.expect(200);
    let bad = person
        .send("POST", "/api/v1/session/password", json!({"current_password": WRONG, "new_password": OTHER}))
        .await;
    secrets.look("an error", &bad.bytes);

    // A body with a password under an Idempotency-Key: a bare hash of it would be one of the password, fast to try guesses on.
    let body = json!({"email": "v@example.org", "password": OTHER}).to_string();
    secrets.add("the bare hash of a body with a password", Digest::of(body.as_bytes()).0);
    let headers = [("content-type", "application/json"), ("idempotency-key", "made-once")];
    let make = async || op.raw("POST", "/api/v1/users", &headers, Bytes::from(body.clone())).await.expect(201);
    assert_eq!(
        make().await["user"]["id"],
        make().await["user"]["id"],
        "the key is remembered, with a hash of the body"
    );

    // Keys and nodes.
    open_project(&op, "p").await;
    let key = op
        .post("/api/v1/api-keys", json!({"name": "k", "scopes": ["nodes:read"], "project_id": "p"}))
        .await
        .expect(201);
    secrets.add("an API key", text(&key["key"]));
    Client::new(&url, key["key"].as_str()).get("/api/v1/projects/p/nodes").await.expect(200);
    let token = op.post("/api/v1/projects/p/enrolment-tokens", json!({"name": "t"})).await.expect(201);
    secrets.add("an enrolment token", text(&token["token"]));
    let enrolling = Client::new(&url, token["token"].as_str());
    let node =
        Hand::of(&url, enrolling.post("/api/v1/projects/p/nodes/register", json!({"name": "a"})).await.expect(201));
    secrets.add("a node key", node.key.as_str());
    let jwt = node.http.post(&format!("/api/v1/nodes/{}/token", node.id), json!({})).await.expect(200);
    secrets.add("a node token", text(&jwt["token"]));
    Client::new(&url, jwt["token"].as_str())
        .post(&format!("/api/v1/nodes/{}/heartbeat", node.id), json!({}))
        .await
        .expect(200);
    let bundle = bundle_of(&op, "p", "v1").await;
    let rollout = roll_out(&op, "p", json!({"bundle_id": bundle["bundle_id"]})).await;
    let told = node.told().await;
    let link = told["artifact_url"].as_str().unwrap();
    secrets.add("the signature of a download link", link.split("sig=").nth(1).unwrap().split('&').next().unwrap());
    anyone.get(link).await;
    node.run(&told).await;
    reaches(&op, &rollout, "completed").await;
    let rotated = op.post(&format!("/api/v1/projects/p/nodes/{}/rotate-key", node.id), json!({})).await.expect(200);
    secrets.add("a new node key", text(&rotated["node_key"]));

    // Errors: wrong types, wrong credentials, wrong places.
    for (method, path, body) in [
        ("POST", "/api/v1/session".to_string(), json!({"email": 5, "password": PASSWORD})),
        ("POST", "/api/v1/session".into(), json!({"email": "x", "password": PASSWORD, PASSWORD: 1})),
        ("POST", format!("/api/v1/nodes/{}/heartbeat", node.id), json!({"seq": "x"})),
        ("GET", format!("/artifacts/x/y?sig={}", &link[link.len() - 20..]), json!({})),
    ] {
        let answer = node.http.send(method, &path, body).await;
        assert!(answer.status >= 400, "{path}");
        let told: Secrets = Secrets(secrets.0.iter().filter(|(what, _)| *what != "a password").cloned().collect());
        told.look("an error", &answer.bytes);
    }
    secrets.look("the metrics", &op.get("/metrics").await.bytes);
    let audit = op.get("/api/v1/projects/p/audit_logs/export?format=csv").await;
    assert!(String::from_utf8_lossy(&audit.bytes).contains("node.key_rotated"));
    secrets.look("the audit log", &audit.bytes);

    program.stop();
    let mut all = Vec::new();
    files(dir.path(), &mut all);
    assert!(all.iter().any(|p| p.ends_with("log")) && all.iter().any(|p| p.ends_with("sentinel.db")), "{all:?}");
    for path in all {
        secrets.look(&path.display().to_string(), &std::fs::read(&path).unwrap());
    }
}
