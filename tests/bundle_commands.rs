//! `sentinel-cp bundle`: the same bytes as the server, checked without it.

use crate::harness::*;
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use store::testing::{Backend, open};

fn run(args: &[&str]) -> (bool, Value, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_sentinel-cp")).arg("bundle").args(args).output().unwrap();
    let shown = serde_json::from_slice(&out.stdout).unwrap_or(Value::Null);
    (out.status.success(), shown, String::from_utf8_lossy(&out.stderr).into_owned())
}

/// The bundle key of the first organisation, from the trust document a node is given.
async fn bundle_key(op: &Client, project: &str) -> String {
    use base64::Engine as _;
    let made = op
        .post(&format!("/api/v1/projects/{project}/enrolment-tokens"), serde_json::json!({"name": "k"}))
        .await
        .expect(201);
    let node = Client::new(&op.at, made["token"].as_str());
    let path = format!("/api/v1/projects/{project}/nodes/register");
    let registered = node.post(&path, serde_json::json!({"name": "key-reader"})).await.expect(201);
    let payload = registered["trust"]["payload"].as_str().unwrap();
    let payload = base64::engine::general_purpose::STANDARD.decode(payload).unwrap();
    let trust: Value = serde_json::from_slice(&payload).unwrap();
    trust["roles"]["bundle"]["keys"][0].as_str().unwrap().to_string()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_of_the_server_is_verified_rebuilt_inspected_and_a_flipped_byte_is_found() {
    let db = open(Backend::Sqlite).await;
    let dir = tempfile::tempdir().unwrap();
    let one = Instance::start(db.store.clone(), dir.path(), Options::default()).await;
    let op = one.operator();
    open_project(&op, "p").await;
    let b = compile(&op, "p", "v1", bundle::samples::DEMO_V1).await;
    let id = b["bundle_id"].as_str().unwrap();
    let project = b["project_id"].as_str().unwrap();
    let download = op.get(&format!("/api/v1/projects/p/bundles/{id}/download")).await;
    assert_eq!(download.status, 200);
    let file = dir.path().join("b.tar.zst");
    std::fs::write(&file, &download.bytes).unwrap();
    let key = bundle_key(&op, "p").await;

    let (ok, said, errors) = run(&["verify", text(&file), "--project", project, "--key", &key, "--rebuild"]);
    assert!(ok, "{errors}");
    assert_eq!((said["bundle_id"].as_str(), said["rebuilt"].as_bool()), (Some(id), Some(true)));

    let (ok, said, errors) = run(&["inspect", text(&file)]);
    assert!(ok, "{errors}");
    assert_eq!(said["manifest"]["bundle_id"], id);

    // Built without the server from the same inputs: the same id; without the key, other bytes.
    let source = dir.path().join("config.kdl");
    std::fs::write(&source, bundle::samples::DEMO_V1).unwrap();
    let again = dir.path().join("again.tar.zst");
    let created = said["manifest"]["created_at"].as_str().unwrap();
    let (ok, built, errors) =
        run(&["build", text(&source), "--project", project, "--created-at", created, "-o", text(&again)]);
    assert!(ok, "{errors}");
    assert_eq!(built["bundle_id"], id);
    let (ok, diff, errors) = run(&["diff", text(&file), text(&again)]);
    assert!(ok, "{errors}");
    assert_eq!(diff["routes"]["changed"], serde_json::json!([]));

    let mut broken = download.bytes.to_vec();
    let middle = broken.len() / 2;
    broken[middle] ^= 1;
    std::fs::write(&file, &broken).unwrap();
    let (ok, _, errors) = run(&["verify", text(&file), "--project", project, "--key", &key]);
    assert!(!ok && !errors.is_empty(), "a flipped byte was not noticed");
    one.stop().await;
}

#[test]
fn a_manifest_is_signed_with_a_key_that_never_was_on_the_server() {
    use base64::Engine as _;
    let base64 = base64::engine::general_purpose::STANDARD;
    let dir = tempfile::tempdir().unwrap();
    let (source, key_file, archive) = (dir.path().join("c.kdl"), dir.path().join("key"), dir.path().join("b.tar.zst"));
    std::fs::write(&source, bundle::samples::DEMO_V1).unwrap();
    std::fs::write(&key_file, base64.encode([9u8; 32])).unwrap();
    let project = "0190b5a0-6bfa-7cc0-9d4c-1b2f3a4d5e6f";
    let build =
        ["build", text(&source), "--project", project, "--created-at", "2026-11-21T00:00:00Z", "-o", text(&archive)];
    let (ok, _, errors) = run(&[&build[..], &["--key-file", text(&key_file)]].concat());
    assert!(ok, "{errors}");
    let public = bundle::KeyPair::from_secret(bundle::Role::Bundle, &[9u8; 32]).public().to_base64();
    let (ok, _, errors) = run(&["verify", text(&archive), "--project", project, "--key", &public, "--rebuild"]);
    assert!(ok, "{errors}");
    let (ok, signed, errors) = run(&["sign", text(&archive), "--key-file", text(&key_file)]);
    assert!(ok, "{errors}");
    let (_, inspected, _) = run(&["inspect", text(&archive)]);
    assert_eq!(signed["signature"], inspected["signature"]["signature"]);
    // Unsigned, and not what its manifest says: nothing is signed that was not looked at, whole.
    let unsigned = dir.path().join("unsigned.tar.zst");
    let build = [&build[..build.len() - 1], &[text(&unsigned)]].concat();
    let (ok, _, errors) = run(&build);
    assert!(ok, "{errors}");
    let sign = ["sign", text(&unsigned), "--key-file", text(&key_file), "--rebuild", "--project"];
    let (ok, again, errors) = run(&[&sign[..], &[project]].concat());
    assert!(ok, "{errors}");
    assert_eq!(again, signed);
    let (ok, _, errors) = run(&[&sign[..], &["0190b5a0-6bfa-7cc0-9d4c-1b2f3a4d5e70"]].concat());
    assert!(!ok && errors.contains("wrong_project"), "{errors}");
    let files = bundle::read_archive(&std::fs::read(&unsigned).unwrap()).unwrap();
    let attached = dir.path().join("attached.tar.zst");
    for (path, code) in [("config.kdl", "payload_hash"), ("config.json", "payload_hash"), ("evil", "entry_not_listed")]
    {
        let mut files = files.clone();
        files.entry(path.into()).or_default().push(b' ');
        std::fs::write(&unsigned, bundle::archive::pack_as_is(&files).unwrap()).unwrap();
        let sign = ["sign", text(&unsigned), "--key-file", text(&key_file), "--attach", text(&attached)];
        let (ok, said, errors) = run(&sign);
        assert!(!ok && said.is_null() && errors.contains(code), "{path}: {errors}");
        assert!(!attached.exists(), "{path}");
    }
    let other = base64.encode([1u8; 32]);
    let (ok, _, _) = run(&["verify", text(&archive), "--project", project, "--key", &other]);
    assert!(!ok, "a key that did not sign was believed");
}
