//! Trust end to end: keys rotate and nodes follow, roots and bundle keys stay offline, the master key is replaced. What the
//! nodes here believe is decided by the very library that the agent uses.

use crate::harness::*;
use bundle::trust::{Envelope, RoleKeys, TrustDoc};
use bundle::verify::{NodeTrust, Refusal, VerifiedBundle, verify_archive};
use bytes::Bytes;
use domain::{Digest, ProjectId, Timestamp};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

both!(
    keys_are_rotated_after_a_compromise_and_every_node_follows,
    an_offline_root_signs_what_the_server_cannot,
    a_bundle_waits_for_its_offline_key_and_an_old_one_is_kept_out,
    a_rollout_waits_for_the_statement_that_nodes_need_and_for_keys_that_count,
    two_signers_at_once_and_a_crash_leave_the_archive_that_the_row_names,
);

/// The binary beside the test, where the offline keys are.
fn cli(args: &[&str]) -> Result<Value, String> {
    let out = Command::new(env!("CARGO_BIN_EXE_sentinel-cp")).args(args).output().unwrap();
    match out.status.success() {
        true => Ok(serde_json::from_slice(&out.stdout).unwrap()),
        false => Err(String::from_utf8_lossy(&out.stderr).into_owned()),
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn save(dir: &Path, name: &str, value: &Value) -> String {
    let path = dir.join(name);
    std::fs::write(&path, serde_json::to_vec_pretty(value).unwrap()).unwrap();
    text(&path).to_string()
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp(since.as_micros() as i64)
}

async fn org(op: &Client) -> String {
    op.get("/api/v1/orgs").await.expect(200)["orgs"][0]["id"].as_str().unwrap().to_string()
}

async fn trust(op: &Client, org: &str) -> Value {
    op.get(&format!("/api/v1/orgs/{org}/trust")).await.expect(200)["trust"].clone()
}

/// A node that judges what it is told, as the agent does, and remembers it.
struct Judge {
    hand: Hand,
    trust: NodeTrust,
}

impl Judge {
    async fn enrol(w: &World, root: &str, name: &str) -> Result<Judge, Refusal> {
        let answer = Client::new(&w.one.url, None)
            .post("/api/v1/projects/p/nodes/register", json!({"name": name}))
            .await
            .expect(201);
        let chain = match answer["trust_chain"].as_array() {
            Some(all) => all.iter().map(envelope).collect(),
            None => vec![envelope(&answer["trust"])],
        };
        let hand = Hand::of(&w.one.url, answer);
        let project = w.op.get("/api/v1/projects/p").await.expect(200)["project"]["id"].as_str().unwrap().to_string();
        let project: ProjectId = project.parse().unwrap();
        let trust = NodeTrust::pin(Digest::parse(root).unwrap(), &chain, hand.id.parse().unwrap(), project, now())?;
        Ok(Judge { hand, trust })
    }

    async fn poll(&self, wait: u32) -> Value {
        let version = self.trust.trust.version;
        let path = format!("/api/v1/nodes/{}/bundles/latest?wait={wait}&trust={version}", self.hand.id);
        self.hand.http.get(&path).await.expect(200)
    }

    async fn told(&self) -> Value {
        eventually("the node is told what to run", async || {
            let answer = self.poll(5).await;
            answer.get("no_update").is_none().then_some(answer)
        })
        .await
    }

    /// Takes newer trust first, then the assignment and what the bundle key says. What is refused changes nothing.
    fn judge(&mut self, answer: &Value) -> Result<bundle::trust::Assignment, Refusal> {
        let mut trust = self.trust.clone();
        for next in answer["trust"].as_array().into_iter().flatten() {
            trust.trust = trust.rotate(&envelope(next))?;
        }
        self.trust = trust.clone();
        if answer["assignment"].is_null() {
            return Err(Refusal::NoBundle);
        }
        let accepted = trust.accept_assignment(&envelope(&answer["assignment"]), now())?;
        if answer["release"].is_object() {
            trust.release = Some(trust.accept_release(&envelope(&answer["release"]), &accepted.assignment, now())?);
        } else {
            trust.released(&accepted.assignment)?;
        }
        trust.commit(&accepted);
        self.trust = trust;
        Ok(accepted.assignment)
    }

    async fn fetch(&self, answer: &Value) -> Bytes {
        let got = Client::new("", None).raw("GET", answer["artifact_url"].as_str().unwrap(), &[], Bytes::new()).await;
        assert_eq!(got.status, 200);
        got.bytes
    }

    /// The whole way of an update.
    async fn take(&mut self, answer: &Value) -> Result<VerifiedBundle, Refusal> {
        let assignment = self.judge(answer)?;
        let verified = verify_archive(&self.fetch(answer).await, &assignment, &self.trust)?;
        self.hand.run(answer).await;
        Ok(verified)
    }
}

fn envelope(value: &Value) -> Envelope {
    serde_json::from_value(value.clone()).unwrap_or_else(|e| panic!("{e}: {value:#}"))
}

fn pair(file: &Path) -> bundle::KeyPair {
    use base64::Engine as _;
    let text = std::fs::read_to_string(file).unwrap();
    let secret = base64::engine::general_purpose::STANDARD.decode(text.trim()).unwrap();
    bundle::KeyPair::from_secret(bundle::Role::Root, &secret.try_into().unwrap())
}

async fn new_key(op: &Client, org: &str, body: Value) -> String {
    let made = op.post(&format!("/api/v1/orgs/{org}/keys"), body).await.expect(201);
    made["key"]["key_id"].as_str().unwrap().to_string()
}

async fn keys_are_rotated_after_a_compromise_and_every_node_follows(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let org = org(&w.op).await;
    let first = trust(&w.op, &org).await;
    assert_eq!(first["version"], 1);
    let root = first["root"].as_str().unwrap().to_string();
    let mut node = Judge::enrol(&w, &root, "n-1").await.unwrap();
    let old = w.bundle("old").await;
    let roll_out = json!({"bundle_id": old["bundle_id"], "min_healthy_seconds": 0});
    let rollout = w.roll_out(roll_out).await;
    let update = node.told().await;
    let old_archive = node.fetch(&update).await;
    assert!(update.get("trust").is_none(), "nothing newer than what it has");
    node.take(&update).await.unwrap();
    node.hand.beat(json!({"active_bundle_id": update["bundle_id"], "health": {"status": "healthy"}})).await;
    reaches(&w.op, &rollout, "completed").await;

    // Somebody has got the bundle key and the metadata key: two new ones take their places.
    let keys = format!("/api/v1/orgs/{org}/keys");
    let bundle_key = new_key(&w.op, &org, json!({"role": "bundle"})).await;
    let metadata_key = new_key(&w.op, &org, json!({"role": "metadata"})).await;
    let path = format!("/api/v1/orgs/{org}/trust");
    let held = tokio::spawn({
        let (http, path) =
            (node.hand.http.clone(), format!("/api/v1/nodes/{}/bundles/latest?wait=60&trust=1", node.hand.id));
        async move {
            let begun = Instant::now();
            (http.get(&path).await.expect(200), begun.elapsed())
        }
    });
    let changed = json!({"bundle": {"keys": [bundle_key]}, "metadata": {"keys": [metadata_key]}});
    let second = w.op.post(&path, changed).await.expect(201)["trust"].clone();
    assert_eq!((&second["version"], &second["roles"]["bundle"]["keys"]), (&json!(2), &json!([bundle_key])));
    let (told, after) = held.await.unwrap();
    assert!(after < Duration::from_secs(50), "a held poll is answered when the keys change, not after {after:?}");
    assert_eq!(told["no_update"], true, "{told:#}");
    node.judge(&told).unwrap();
    assert_eq!(node.trust.trust.version, 2);
    assert!(node.poll(0).await.get("trust").is_none());
    // What the old keys signed is refused: the assignment replayed, and the bundle.
    assert_eq!(node.judge(&json!({"assignment": update["assignment"]})).unwrap_err().code(), "bad_signature");
    let last = node.trust.last.clone().unwrap();
    assert_eq!(verify_archive(&old_archive, &last, &node.trust).unwrap_err().code(), "bad_signature");

    // The server knows, and signs the old bundle anew when it is told to; a new one it signs with the new key.
    let id = old["bundle_id"].as_str().unwrap();
    let verify = format!("/api/v1/projects/p/bundles/{id}/verify");
    let checks = w.op.get(&verify).await.expect(200);
    assert_eq!(checks["valid"], false, "{checks:#}");
    assert!(checks["checks"].as_array().unwrap().iter().any(|c| c["name"] == "trust" && c["ok"] == false));
    let sign = format!("/api/v1/projects/p/bundles/{id}/signature");
    // Not while a node is assigned it: its generation named the archive before, and no reminder may say another thing.
    assert_eq!(w.op.post(&sign, json!({})).await.status, 409);
    node.judge(&node.poll(0).await).unwrap();
    let new = w.bundle("new").await;
    assert_eq!(new["key_id"], bundle_key);
    w.roll_out(json!({"bundle_id": new["bundle_id"]})).await;
    let update = node.told().await;
    node.take(&update).await.unwrap();
    let again = w.op.post(&sign, json!({})).await.expect(200);
    assert_eq!((&again["changed"], &again["bundle"]["key_id"]), (&json!(true), &json!(bundle_key)));
    assert_eq!(w.op.get(&verify).await.expect(200)["valid"], true);
    assert_eq!(w.op.post(&sign, json!({})).await.expect(200)["changed"], false);

    // A node that slept through it takes every version in order, from whatever instance.
    let mut late = Judge::enrol(&w, &root, "n-2").await.unwrap();
    assert_eq!(late.trust.trust.version, 2, "the chain goes along with the registration");
    late.trust.trust.version = 1;
    let two_more = [json!({"bundle": {"threshold": 1}}), json!({"artifact_origins": ["https://cdn.example.com"]})];
    for change in two_more {
        w.op.post(&path, change).await.expect(201);
    }
    let told = late.poll(0).await;
    assert_eq!(told["trust"].as_array().unwrap().len(), 3);
    late.judge(&told).unwrap();
    assert_eq!(late.trust.trust.version, 4);
    assert!(late.trust.trust.artifact_origins.iter().any(|o| o == "https://cdn.example.com"));

    // What cannot be: unknown keys, keys of another role, thresholds nobody can reach, no metadata key on the server.
    let refused = |change: Value, field: &'static str| {
        let (op, path) = (w.op.clone(), path.clone());
        async move { is_problem(&op.post(&path, change).await, 422, Some(field)) }
    };
    refused(json!({"bundle": {"keys": ["ab"]}}), "bundle.keys").await;
    refused(json!({"bundle": {"keys": [metadata_key]}}), "bundle.keys").await;
    refused(json!({"bundle": {"threshold": 2}}), "bundle.threshold").await;
    refused(json!({"root": {"keys": []}}), "root.threshold").await;
    refused(json!({"artifact_origins": ["ftp://x"]}), "artifact_origins").await;
    refused(json!({"expires_at": "2020-01-01T00:00:00Z"}), "expires_at").await;
    refused(json!({}), "body").await;
    refused(json!({"colour": 1}), "colour").await;
    let foreign = bundle::KeyPair::from_secret(bundle::Role::Metadata, &[3; 32]).public().to_base64();
    let foreign = new_key(&w.op, &org, json!({"role": "metadata", "public_key": foreign})).await;
    refused(json!({"metadata": {"keys": [foreign]}}), "metadata").await;
    is_problem(&w.op.post(&keys, json!({"role": "jwt"})).await, 422, Some("role"));
    is_problem(&w.op.post(&keys, json!({"role": "root", "public_key": "AA=="})).await, 422, Some("public_key"));
    for (id, status) in [(metadata_key.as_str(), 409), ("00", 404)] {
        assert_eq!(w.op.post(&format!("{keys}/{id}/export"), json!({})).await.status, status, "{id}");
    }
    w.end().await;
}

async fn an_offline_root_signs_what_the_server_cannot(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let org = org(&w.op).await;
    let (keys, path) = (format!("/api/v1/orgs/{org}/keys"), format!("/api/v1/orgs/{org}/trust"));
    let root = trust(&w.op, &org).await["root"].as_str().unwrap().to_string();
    let root_id = root.trim_start_matches("sha256:").to_string();
    let remove = format!("{keys}/{root_id}/remove");
    assert_eq!(w.op.post(&remove, json!({})).await.status, 409, "nobody has a copy");
    let exported = w.op.post(&format!("{keys}/{root_id}/export"), json!({})).await.expect(200);
    let file = w.dir.path().join("root.key");
    std::fs::write(&file, exported["private_key"].as_str().unwrap()).unwrap();
    assert_eq!(w.op.post(&remove, json!({})).await.expect(200)["changed"], true);
    assert_eq!(w.op.post(&remove, json!({})).await.expect(200)["changed"], false);
    let listed = w.op.get(&keys).await.expect(200);
    let shown = listed["keys"].as_array().unwrap().iter().find(|k| k["key_id"] == root_id).unwrap().clone();
    assert_eq!((&shown["on_server"], &shown["listed"]), (&json!(false), &json!(true)));
    let text_of = listed.to_string();
    assert!(!text_of.contains(exported["private_key"].as_str().unwrap()), "a list shows no secret");

    // The server alone can no longer change whom nodes believe.
    let change = json!({"bundle": {"keys": [new_key(&w.op, &org, json!({"role": "bundle"})).await]}});
    let refused = w.op.post(&path, change.clone()).await;
    assert_eq!((refused.status, refused.body["code"].as_str()), (409, Some("root_offline")), "{:#}", refused.body);
    let mut node = Judge::enrol(&w, &root, "n-1").await.unwrap();

    // To a new root that never was here: signed by both, where they are.
    let new_file = w.dir.path().join("new-root.key");
    let new_root = cli(&["trust", "new-key", "--role", "root", "-o", text(&new_file)]).unwrap();
    assert!(cli(&["trust", "new-key", "--role", "root", "-o", text(&new_file)]).is_err(), "never over another key");
    let new_id = new_key(&w.op, &org, json!({"role": "root", "public_key": new_root["public_key"]})).await;
    assert_eq!(new_root["key_id"], new_id);
    let same = w.op.post(&keys, json!({"role": "root", "public_key": new_root["public_key"]})).await;
    assert_eq!(same.status, 409, "known already");
    let mut change = change;
    change["root"] = json!({"keys": [new_id]});
    let draft = w.op.post(&format!("{path}/draft"), change).await.expect(200);
    assert_eq!(trust(&w.op, &org).await["version"], 1, "a draft writes nothing");
    let draft = save(w.dir.path(), "draft.json", &draft);
    let publish = async |document: Value| w.op.post(&path, json!({"document": document})).await.status;
    let half = cli(&["trust", "sign", &draft, "--key-file", text(&new_file)]).unwrap();
    assert_eq!(publish(half.clone()).await, 409, "the old root has not signed");
    let half = save(w.dir.path(), "half.json", &half);
    let whole = cli(&["trust", "sign", &half, "--key-file", text(&file)]).unwrap();
    let mut damaged = whole.clone();
    damaged["payload"] = json!(format!("{}AAAA", whole["payload"].as_str().unwrap()));
    assert_eq!(publish(damaged).await, 422);
    // Signed by everybody who must, and still nothing that the server could live with: judged as a draft is.
    let pairs: Vec<bundle::KeyPair> = [&file, &new_file].map(|f| pair(f)).into();
    let pairs: Vec<&bundle::KeyPair> = pairs.iter().collect();
    let doc: TrustDoc = envelope(&whole).decode().unwrap();
    let foreign = bundle::KeyPair::from_secret(bundle::Role::Metadata, &[3; 32]).public();
    type Spoil = fn(&mut TrustDoc, bundle::PublicKey);
    let spoilt: [(&str, Spoil); 4] = [
        ("metadata: ", |d, foreign| d.roles.metadata = RoleKeys::one(foreign)),
        ("expires_at: ", |d, _| d.expires_at = now()),
        ("artifact_origins: must list ", |d, _| d.artifact_origins.clear()),
        ("artifact_origins: ", |d, _| d.artifact_origins.push("https://cdn.example.com/path".into())),
    ];
    for (why, spoil) in spoilt {
        let mut doc = doc.clone();
        spoil(&mut doc, foreign);
        let signed = serde_json::to_value(Envelope::sign(&doc, &pairs).unwrap()).unwrap();
        let refused = w.op.post(&path, json!({"document": signed})).await;
        is_problem(&refused, 422, Some("document"));
        assert!(refused.body.to_string().contains(why), "{why}: {:#}", refused.body);
    }
    assert_eq!(trust(&w.op, &org).await["version"], 1);
    assert_eq!(publish(whole.clone()).await, 201);
    assert_eq!(publish(whole.clone()).await, 409, "that version is there");
    let shown = cli(&["trust", "show", &save(w.dir.path(), "v2.json", &trust(&w.op, &org).await)]).unwrap();
    assert_eq!((&shown["version"], &shown["signed_by_its_roots"]), (&json!(2), &json!([new_id])));

    // Who is there follows; who comes may have pinned the old root or the new one, but no other.
    let told = node.poll(0).await;
    assert_eq!(node.judge(&told).unwrap_err(), Refusal::NoBundle, "nothing is assigned yet");
    assert_eq!(node.trust.trust.version, 2);
    for (pin, name) in [(root.clone(), "n-2"), (new_id.clone(), "n-3")] {
        assert_eq!(Judge::enrol(&w, &pin, name).await.unwrap().trust.trust.version, 2, "{name}");
    }
    assert_eq!(Judge::enrol(&w, &"0".repeat(64), "n-4").await.err().unwrap().code(), "wrong_root");
    let versions = w.op.get(&format!("{path}/versions?after=1")).await.expect(200);
    assert_eq!(versions["versions"], json!([whole]));
    // Everything was said in the audit log, once, without a secret.
    let entries = w.db.store.audit_after(None, 0, 1_000).await.unwrap();
    let of = |action: &str| entries.iter().filter(|e| e.action == action).collect::<Vec<_>>();
    for (action, count) in [("key.created", 2), ("key.exported", 1), ("key.removed", 1), ("trust.updated", 1)] {
        assert_eq!(of(action).len(), count, "{action}: {entries:#?}");
    }
    for action in ["key.exported", "key.removed"] {
        assert_eq!(of(action)[0].changes["key_id"], root_id, "{action}");
    }
    let to = &of("trust.updated")[0].changes["roles"];
    assert_eq!((&to["from"]["root"]["keys"], &to["to"]["root"]["keys"]), (&json!([root_id]), &json!([new_id])));
    let told = serde_json::to_string(&entries.iter().map(|e| &e.changes).collect::<Vec<_>>()).unwrap();
    let secrets = [exported["private_key"].as_str().unwrap().to_string(), std::fs::read_to_string(&new_file).unwrap()];
    assert!(secrets.iter().all(|s| s.trim().len() == 44 && !told.contains(s.trim())), "a secret in the audit log");
    w.end().await;
}

async fn a_bundle_waits_for_its_offline_key_and_an_old_one_is_kept_out(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let org = org(&w.op).await;
    let file = w.dir.path().join("bundle.key");
    let offline = cli(&["trust", "new-key", "--role", "bundle", "-o", text(&file)]).unwrap();
    let id = new_key(&w.op, &org, json!({"role": "bundle", "public_key": offline["public_key"]})).await;
    w.op.post(&format!("/api/v1/orgs/{org}/trust"), json!({"bundle": {"keys": [id]}})).await.expect(201);
    let root = trust(&w.op, &org).await["root"].as_str().unwrap().to_string();
    let mut node = Judge::enrol(&w, &root, "n-1").await.unwrap();

    let mut ids = Vec::new();
    for version in ["v1", "v2"] {
        let body =
            json!({"version": version, "config_source": format!("{}\n// {version}\n", bundle::samples::DEMO_V1)});
        let made = w.op.post("/api/v1/projects/p/bundles?wait=30", body).await.expect(201)["bundle"].clone();
        assert_eq!((&made["status"], &made["artifact_hash"]), (&json!("awaiting_signature"), &Value::Null), "{made:#}");
        let content = made["bundle_id"].as_str().unwrap().to_string();
        let at = format!("/api/v1/projects/p/bundles/{content}");
        let early = w.op.post("/api/v1/projects/p/rollouts", json!({"bundle_id": content})).await;
        assert!(matches!(early.status, 409 | 422), "it cannot be rolled out yet: {}", early.status);
        // What is signed is what was fetched and built again, not what the server says of itself.
        let unsigned = w.op.get(&format!("{at}/download")).await;
        assert_eq!(unsigned.status, 200);
        let archive = w.dir.path().join("unsigned.tar.zst");
        std::fs::write(&archive, &unsigned.bytes).unwrap();
        let signed = w.dir.path().join("signed.tar.zst");
        let args = ["bundle", "sign", text(&archive), "--key-file", text(&file), "--attach", text(&signed)];
        let signature = cli(&args).unwrap();
        let manifest = w.op.get(&format!("{at}/manifest")).await.expect(200);
        let manifest = save(w.dir.path(), "manifest.json", &manifest);
        assert_eq!(cli(&["bundle", "sign", &manifest, "--key-file", text(&file)]).unwrap(), signature);
        let path = format!("{at}/signature");
        let mut wrong = signature.clone();
        wrong["signature"] = json!(format!("AAAA{}", &signature["signature"].as_str().unwrap()[4..]));
        is_problem(&w.op.post(&path, wrong).await, 422, Some("signature"));
        is_problem(&w.op.post(&path, json!({})).await, 422, Some("signature"));
        is_problem(&w.op.post(&path, json!({"key_id": id})).await, 422, Some("signature"));
        let done = w.op.post(&path, signature.clone()).await.expect(200);
        assert_eq!((&done["changed"], &done["bundle"]["status"]), (&json!(true), &json!("compiled")));
        assert_eq!(w.op.post(&path, signature).await.expect(200)["changed"], false);
        let archive = w.op.get(&format!("{at}/download")).await.bytes;
        assert_eq!(archive, std::fs::read(&signed).unwrap(), "attached there and here: the same bytes");
        ids.push(content);
    }

    let (old, new) = (&ids[0], &ids[1]);
    let project = w.op.get("/api/v1/projects/p").await.expect(200)["project"]["id"].as_str().unwrap().to_string();
    let release = |bundle: &str, sequence: &str, floor: &str| {
        let key = text(&file).to_string();
        let args =
            ["trust", "release", "--project", &project, "--bundle", bundle, "--sequence", sequence, "--floor", floor];
        cli(&[&args[..], &["--expires-at", "2036-01-01T00:00:00Z", "--key-file", &key]].concat()).unwrap()
    };
    let releases = "/api/v1/projects/p/releases";
    w.op.post(releases, release(old, "1", "0")).await.expect(201);
    w.op.post(releases, release(new, "2", "2")).await.expect(201);
    let entries = w.op.get("/api/v1/projects/p/audit_logs?action=release.published").await.expect(200);
    assert_eq!(entries["total"], 2, "one entry for each: {entries:#}");
    is_problem(&w.op.post(releases, release(old, "3", "4")).await, 422, Some("release"));
    is_problem(&w.op.post(releases, release(&"0".repeat(64), "3", "0")).await, 422, Some("release"));
    assert_eq!(w.op.post(releases, release(old, "2", "0")).await.status, 409, "its place is taken");
    let mut forged = release(new, "9", "0");
    forged["payload"] = release(new, "8", "0")["payload"].clone();
    is_problem(&w.op.post(releases, forged).await, 422, Some("release"));
    for (action, count) in [("bundle.signed", 2), ("release.published", 2)] {
        let audit = w.op.get(&format!("/api/v1/projects/p/audit_logs?action={action}")).await.expect(200);
        assert_eq!(audit["total"], count, "{action}: {audit:#}");
    }
    let listed = w.op.get(releases).await.expect(200);
    assert_eq!((&listed["total"], &listed["releases"][0]["floor"]), (&json!(2), &json!(2)));

    w.roll_out(json!({"bundle_id": new, "min_healthy_seconds": 0})).await;
    let update = node.told().await;
    assert!(update["release"].is_object(), "{update:#}");
    node.take(&update).await.unwrap();
    assert_eq!(node.trust.release.as_ref().unwrap().floor, 2);

    // Whoever has the server has the metadata key, and may name any genuine bundle: the node refuses the old one, with and
    // without what was once said about it.
    let rollouts = w.op.get("/api/v1/projects/p/rollouts").await.expect(200);
    let running = rollouts["rollouts"][0]["id"].as_str().unwrap().to_string();
    node.hand.beat(json!({"active_bundle_id": new, "health": {"status": "healthy"}})).await;
    reaches(&w.op, &running, "completed").await;
    w.roll_out(json!({"bundle_id": old})).await;
    let mut update = node.told().await;
    assert_eq!(update["bundle_id"], *old);
    assert_eq!(node.judge(&update).unwrap_err().code(), "below_floor");
    update["release"] = Value::Null;
    assert_eq!(node.judge(&update).unwrap_err().code(), "below_floor");
    w.end().await;
}

/// Where statements are required the rollout of a bundle without one waits and says why, instead of failing on every node.
async fn a_rollout_waits_for_the_statement_that_nodes_need_and_for_keys_that_count(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let org = org(&w.op).await;
    let file = w.dir.path().join("bundle.key");
    let offline = cli(&["trust", "new-key", "--role", "bundle", "-o", text(&file)]).unwrap();
    let id = new_key(&w.op, &org, json!({"role": "bundle", "public_key": offline["public_key"]})).await;
    let before = trust(&w.op, &org).await;
    let root = before["root"].as_str().unwrap().to_string();
    assert_eq!(before["releases_required"], false);
    let mut both = before["roles"]["bundle"]["keys"].as_array().unwrap().clone();
    both.push(json!(id));
    let path = format!("/api/v1/orgs/{org}/trust");
    let change = json!({"bundle": {"keys": both}, "releases_required": true});
    assert_eq!(w.op.post(&path, change).await.expect(201)["trust"]["releases_required"], true);
    let mut node = Judge::enrol(&w, &root, "n-1").await.unwrap();
    node.hand.beat(json!({"health": {"status": "healthy"}})).await;

    let first = w.bundle("v1").await;
    let rollout_id = w.roll_out(json!({"bundle_id": first["bundle_id"], "min_healthy_seconds": 0})).await;
    waits_for_the_bundle(&w, &node, &rollout_id).await;
    // With the offline key, which is not the one that signed the bundle.
    let project = w.op.get("/api/v1/projects/p").await.expect(200)["project"]["id"].as_str().unwrap().to_string();
    let content = first["bundle_id"].as_str().unwrap();
    let args = ["trust", "release", "--project", &project, "--bundle", content, "--sequence", "1", "--floor", "0"];
    let more = ["--expires-at", "2036-01-01T00:00:00Z", "--key-file", text(&file)];
    let statement = cli(&[&args[..], &more[..]].concat()).unwrap();
    w.op.post("/api/v1/projects/p/releases", statement).await.expect(201);
    let update = node.told().await;
    node.take(&update).await.unwrap();
    node.hand.beat(json!({"active_bundle_id": content, "health": {"status": "healthy"}})).await;
    reaches(&w.op, &rollout_id, "completed").await;

    // The key on the server counts no more: what it signed is not sent to nodes, which would refuse it, until it is signed anew.
    let second = w.bundle("v2").await;
    w.op.post(&path, json!({"bundle": {"keys": [id]}, "releases_required": false})).await.expect(201);
    let content = second["bundle_id"].as_str().unwrap();
    let rollout_id = w.roll_out(json!({"bundle_id": content, "min_healthy_seconds": 0})).await;
    waits_for_the_bundle(&w, &node, &rollout_id).await;
    w.op.post(&format!("/api/v1/rollouts/{rollout_id}/cancel"), json!({})).await.expect(200);
    let audit = w.db.store.audit_after(None, 0, 1_000).await.unwrap();
    let said: Vec<&Value> = audit.iter().filter(|e| e.action == "trust.updated").map(|e| &e.changes).collect();
    assert_eq!(said[0]["releases_required"], json!({"from": false, "to": true}));
    w.end().await;
}

/// However often the node asks it is told nothing, fails nothing, and the rollout says what it waits for.
async fn waits_for_the_bundle(w: &World, node: &Judge, id: &str) {
    eventually("the rollout says that it waits", async || {
        let answer = node.poll(0).await;
        assert_eq!(answer["no_update"], true, "{answer:#}");
        let r = rollout(&w.op, id).await;
        assert_eq!(r["progress"]["failed"], 0, "{r:#}");
        r.to_string().contains("nodes would refuse it").then_some(())
    })
    .await;
}

async fn two_signers_at_once_and_a_crash_leave_the_archive_that_the_row_names(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let org = org(&w.op).await;
    let files = ["a.key", "b.key"].map(|name| w.dir.path().join(name));
    let mut ids = Vec::new();
    for file in &files {
        let made = cli(&["trust", "new-key", "--role", "bundle", "-o", text(file)]).unwrap();
        ids.push(new_key(&w.op, &org, json!({"role": "bundle", "public_key": made["public_key"]})).await);
    }
    let change = json!({"bundle": {"keys": ids, "threshold": 1}});
    w.op.post(&format!("/api/v1/orgs/{org}/trust"), change).await.expect(201);
    for round in 0..5 {
        let body = json!({"config_source": format!("{}\n// {round}\n", bundle::samples::DEMO_V1)});
        let made = w.op.post("/api/v1/projects/p/bundles?wait=30", body).await.expect(201)["bundle"].clone();
        let at = format!("/api/v1/projects/p/bundles/{}", made["bundle_id"].as_str().unwrap());
        let unsigned = w.op.get(&format!("{at}/download")).await.bytes;
        let archive = w.dir.path().join("unsigned.tar.zst");
        std::fs::write(&archive, &unsigned).unwrap();
        let lies = walk(&w.dir.path().join("artifacts"));
        let lies = lies.into_iter().find(|f| std::fs::read(f).unwrap() == unsigned).unwrap();
        let [a, b] =
            files.each_ref().map(|key| cli(&["bundle", "sign", text(&archive), "--key-file", text(key)]).unwrap());
        let path = format!("{at}/signature");
        let (first, second) = tokio::join!(w.op.post(&path, a.clone()), w.op.post(&path, b.clone()));
        let done = [&first, &second].iter().filter(|x| x.status == 200 && x.body["changed"] == true).count();
        assert_eq!(done, 1, "{} {} {:#} {:#}", first.status, second.status, first.body, second.body);
        let verify = async || w.op.get(&format!("{at}/verify")).await.expect(200);
        let said = verify().await;
        assert_eq!(said["valid"], true, "round {round}: {said:#}");
        // Killed between the row and the archive: the same again puts it there, and no other signature does.
        let signed = w.op.get(&format!("{at}/download")).await.bytes;
        let (same, other) = if first.body["changed"] == true { (a, b) } else { (b, a) };
        let stored = walk(&w.dir.path().join("artifacts"));
        std::fs::remove_file(stored.iter().find(|f| std::fs::read(f).unwrap() == signed).unwrap()).unwrap();
        std::fs::write(&lies, &unsigned).unwrap();
        assert_eq!(verify().await["valid"], false);
        let node = Hand::register(&w.one.url, "p", &format!("n-{round}")).await;
        let selector = json!({"type": "node_ids", "node_ids": [node.id]});
        w.roll_out(json!({"bundle_id": made["bundle_id"], "target_selector": selector})).await;
        assert_eq!(w.op.post(&path, other).await.status, 409);
        assert_eq!(w.op.post(&path, same).await.expect(200)["changed"], true);
        assert_eq!(verify().await["valid"], true);
        assert_eq!(node.told().await["bundle_id"], made["bundle_id"]);
    }
    w.end().await;
}

fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => out.extend(walk(&entry.path())),
            false => out.push(entry.path()),
        }
    }
    out
}

fn serve(data: &Path) -> (Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sentinel-cp"))
        .args(["serve", "--listen", "127.0.0.1:0", "--log", "warn", "--data-dir", text(data)])
        .env("SENTINEL_CP_BOOTSTRAP_API_KEY", KEY)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.trim().rsplit(' ').next().unwrap().to_string();
    (child, url)
}

fn base64_of(secret: &[u8; 32]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(secret)
}

fn stop(mut child: Child) {
    Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(child.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_master_key_is_replaced_and_the_same_keys_sign_on() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let ready = async |url: &str| {
        let http = Client::operator(url);
        eventually("it serves", async || {
            let answer = http.try_raw("GET", "/ready", &[], Bytes::new()).await;
            answer.is_ok_and(|a| a.status == 200).then_some(())
        })
        .await;
        http
    };
    let (child, url) = serve(&data);
    let op = ready(&url).await;
    let org = org(&op).await;
    let before = trust(&op, &org).await;
    let rotate = || {
        Command::new(env!("CARGO_BIN_EXE_sentinel-cp"))
            .args(["trust", "rotate-master-key", "--data-dir", text(&data)])
            .output()
            .unwrap()
    };
    let refused = rotate();
    assert!(!refused.status.success(), "the server is running: {refused:?}");
    stop(child);
    let old = std::fs::read_to_string(data.join("master.key")).unwrap();
    // What was refused has left nothing behind, least of all what keeps the server from starting.
    assert!(!data.join("master.key.next").exists());
    let (child, url) = serve(&data);
    ready(&url).await;
    stop(child);
    // As after a crash in the middle: the new key is there, nothing is sealed yet, and nobody serves with it.
    let begun = format!("{}\n", base64_of(&[5; 32]));
    std::fs::write(data.join("master.key.next"), &begun).unwrap();
    let half = Command::new(env!("CARGO_BIN_EXE_sentinel-cp"))
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir", text(&data)])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&half.stderr).contains("interrupted"), "{half:?}");
    // And nothing is sealed under a third one, which would then be lost.
    let third = dir.path().join("third.key");
    std::fs::write(&third, base64_of(&[6; 32])).unwrap();
    let other = Command::new(env!("CARGO_BIN_EXE_sentinel-cp"))
        .args(["trust", "rotate-master-key", "--data-dir", text(&data), "--new-key-file", text(&third)])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&other.stderr).contains("interrupted"), "{other:?}");
    assert_eq!(std::fs::read_to_string(data.join("master.key")).unwrap(), old);
    let done = rotate();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(String::from_utf8_lossy(&done.stdout).starts_with("3 keys"), "{done:?}");
    let new = std::fs::read_to_string(data.join("master.key")).unwrap();
    assert_eq!(new, begun);
    let log =
        Command::new(env!("CARGO_BIN_EXE_sentinel-cp")).args(["audit", "--data-dir", text(&data), "export"]).output();
    let log = String::from_utf8(log.unwrap().stdout).unwrap();
    let said = |l: &&str| serde_json::from_str::<Value>(l).unwrap()["action"] == "master_key.rotated";
    assert_eq!(log.lines().filter(said).count(), 1, "those that were refused left none: {log}");
    assert!(!data.join("master.key.next").exists());
    let (child, url) = serve(&data);
    let op = ready(&url).await;
    let after = trust(&op, &org).await;
    assert_eq!(after["root"], before["root"]);
    // It still signs: another root of trust is published.
    let made = op.post(&format!("/api/v1/orgs/{org}/keys"), json!({"role": "bundle"})).await.expect(201);
    let change = json!({"bundle": {"keys": [made["key"]["key_id"]]}});
    op.post(&format!("/api/v1/orgs/{org}/trust"), change).await.expect(201);
    stop(child);
    // The old key opens nothing any more, and says so.
    let wrong = Command::new(env!("CARGO_BIN_EXE_sentinel-cp"))
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir", text(&data)])
        .env("SENTINEL_CP_MASTER_KEY", old.trim())
        .output()
        .unwrap();
    assert!(!wrong.status.success() && String::from_utf8_lossy(&wrong.stderr).contains("MASTER_KEY"), "{wrong:?}");
}
