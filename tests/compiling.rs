//! Compilation: the same input gives the same bundle, real configurations compile, bad and hostile ones are refused with a reason.

use crate::harness::*;
use bundle::{BuildInputs, SignatureFile, Sources};
use domain::{ProjectId, Timestamp};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

everywhere!(
    the_same_input_gives_the_same_bundle,
    every_real_configuration_compiles_and_every_invalid_one_is_refused_with_its_place,
    hostile_input_is_refused_and_the_process_lives,
    whoever_listens_to_the_event_stream_is_told_how_a_compile_goes_on_and_of_its_cancellation,
);

async fn the_same_input_gives_the_same_bundle(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let path = "/api/v1/projects/p/bundles?wait=30";
    let body = json!({"version": "v1", "config_source": bundle::samples::DEMO_V1});
    let first = w.op.post(path, body.clone()).await.expect(201)["bundle"].clone();
    let second = w.op.post(path, body).await.expect(200)["bundle"].clone();
    assert_eq!((&first["bundle_id"], &first["id"]), (&second["bundle_id"], &second["id"]), "{second:#}");
    // The two calls, instead of the one, and without a version.
    let desired =
        w.op.post("/api/v1/projects/p/desired_config", json!({"config": bundle::samples::DEMO_V1})).await.expect(201);
    let body = json!({"desired_config_id": desired["desired_config_id"]});
    let third = w.op.post("/api/v1/projects/p/compile?wait=30", body).await.expect(200)["bundle"].clone();
    assert_eq!(first["bundle_id"], third["bundle_id"], "{third:#}");
    // The version names other content already.
    let body = json!({"version": "v1", "config_source": bundle::samples::DEMO_V2});
    assert_eq!(w.op.post(path, body).await.status, 409);
    let files: BTreeMap<String, String> = bundle::samples::with_includes().0;
    let many = w.op.post(path, json!({"version": "many", "files": files})).await.expect(201)["bundle"].clone();

    // Built again elsewhere: from what is recorded, in another directory, by the library alone, the same bytes.
    for (bundle, sources) in
        [(&first, Sources::single(bundle::samples::DEMO_V1)), (&many, bundle::samples::with_includes())]
    {
        let id = bundle["bundle_id"].as_str().unwrap();
        let archive = w.op.get(&format!("/api/v1/projects/p/bundles/{id}/download")).await;
        assert_eq!(archive.status, 200);
        let manifest = w.op.get(&format!("/api/v1/projects/p/bundles/{id}/manifest")).await.expect(200);
        let elsewhere = tempfile::tempdir().unwrap();
        assert_eq!(rebuilt(elsewhere.path(), &sources, &manifest, bundle), archive.bytes, "{id}: other bytes");
        let sbom = w.op.get(&format!("/api/v1/projects/p/bundles/{id}/sbom")).await.expect(200);
        assert_eq!(sbom["bomFormat"], "CycloneDX");
    }
    w.end().await;
}

/// The archive made from the recorded inputs by a validator that runs in `dir`.
fn rebuilt(dir: &Path, sources: &Sources, manifest: &Value, row: &Value) -> Vec<u8> {
    let mut validator = bundle::child::ChildValidator::new("/usr/bin/env", ["-C"]);
    validator.args.extend([
        dir.display().to_string(),
        env!("CARGO_BIN_EXE_sentinel-cp").into(),
        "validate-child".into(),
    ]);
    let verdict = validator.validate(sources).unwrap();
    assert!(verdict.ok, "{:?}", verdict.errors);
    let source = serde_json::from_value(manifest["source"].clone()).unwrap();
    let inputs = BuildInputs {
        project: manifest["project_id"].as_str().unwrap().parse::<ProjectId>().unwrap(),
        created_at: Timestamp::parse_rfc3339(manifest["created_at"].as_str().unwrap()).unwrap(),
        source: &source,
        sources,
        verdict: &verdict,
        extra: &BTreeMap::new(),
    };
    let rendered = bundle::render(inputs).unwrap();
    assert_eq!(json!(rendered.content_id), row["bundle_id"]);
    let signature: SignatureFile =
        serde_json::from_value(json!({"key_id": row["key_id"], "algorithm": "ed25519", "signature": row["signature"]}))
            .unwrap();
    bundle::assemble(&rendered, Some(&signature)).unwrap().bytes
}

/// The files of `tests/corpus/{kind}`.
fn corpus(kind: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(kind);
    let entries = std::fs::read_dir(&dir).unwrap();
    let mut files: Vec<PathBuf> =
        entries.map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|x| x == "kdl")).collect();
    files.sort();
    assert!(!files.is_empty(), "{} has no configuration", dir.display());
    files
}

async fn every_real_configuration_compiles_and_every_invalid_one_is_refused_with_its_place(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let path = "/api/v1/projects/p/bundles?wait=30";
    for file in corpus("valid") {
        let name = file.file_stem().unwrap().to_str().unwrap().to_string();
        let text = std::fs::read_to_string(&file).unwrap();
        let answer = w.op.post(path, json!({"version": name, "config_source": text})).await;
        assert_eq!(
            (answer.status, &answer.body["bundle"]["status"]),
            (201, &json!("compiled")),
            "{name}: {:#}",
            answer.body
        );
    }
    let mut placed = 0;
    let bad = corpus("invalid");
    for file in &bad {
        let name = file.file_stem().unwrap().to_str().unwrap().to_string();
        let text = std::fs::read_to_string(file).unwrap();
        let answer = w.op.post(path, json!({"version": name, "config_source": text})).await;
        is_problem(&answer, 422, Some("config"));
        let said = answer.body["errors"]["config"][0].as_str().unwrap();
        assert!(said.len() > 10, "{name}: {said:?} says nothing");
        // `config.kdl:LINE:COLUMN: text` where the parser knows the place.
        let mut parts = said.split(':').skip(1);
        placed += u32::from(
            parts.next().is_some_and(|l| l.parse::<u32>().is_ok())
                && parts.next().is_some_and(|c| c.parse::<u32>().is_ok()),
        );
        println!("{name}: {said}");
    }
    assert!(placed >= 1, "no message has a line and a column");
    w.end().await;
}

async fn hostile_input_is_refused_and_the_process_lives(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let demo = bundle::samples::DEMO_V1;
    let with_include = |path: &str| format!("include \"{path}\"\n{demo}");
    let huge = format!("{demo}\n//{}", "x".repeat(2 * 1024 * 1024));
    let texts: Vec<(&str, String)> = vec![
        ("deep nesting", format!("{}{}", "a {".repeat(100_000), "}".repeat(100_000))),
        ("a flood of closing braces", "}".repeat(500_000)),
        ("a flood of opening braces", "{".repeat(500_000)),
        ("nested comments", "/*".repeat(200_000)),
        ("slashdash comments", "/-".repeat(200_000)),
        ("deep quotes", format!("a {}\"x\"{}", "#".repeat(100_000), "#".repeat(100_000))),
        ("an unterminated string", format!("a \"{}", "\\".repeat(99_999))),
        ("an include outside", with_include("../../../../etc/passwd")),
        ("an absolute include", with_include("/etc/passwd")),
        ("an include that is not there", with_include("nowhere.kdl")),
        ("a huge configuration", huge),
        ("a bad regular expression", demo.replace("path-prefix \"/\"", "path-regex \"(((\"")),
        ("not KDL", "\u{1}\u{2}{{{".into()),
        ("nothing", String::new()),
        (
            "a private key",
            format!(
                "{demo}\n// -----BEGIN PRIVATE KEY-----\n// MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQ==\n// -----END PRIVATE KEY-----\n"
            ),
        ),
    ];
    for (i, (what, text)) in texts.into_iter().enumerate() {
        let answer =
            w.op.post("/api/v1/projects/p/bundles?wait=60", json!({"version": format!("h{i}"), "config_source": text}))
                .await;
        assert_eq!(answer.status, 422, "{what}: {} {:.300}", answer.status, answer.body.to_string());
        is_problem(&answer, 422, None);
        assert_eq!(w.op.get("/health").await.status, 200, "after {what}");
    }
    let looped: BTreeMap<&str, String> = BTreeMap::from([
        ("config.kdl", with_include("a.kdl")),
        ("a.kdl", "include \"b.kdl\"\n".into()),
        ("b.kdl", "include \"a.kdl\"\n".into()),
    ]);
    let answer = w.op.post("/api/v1/projects/p/bundles?wait=60", json!({"version": "loop", "files": looped})).await;
    is_problem(&answer, 422, None);
    let climbing = json!({"version": "climb", "files": {"config.kdl": demo, "../x.kdl": "a"}});
    is_problem(&w.op.post("/api/v1/projects/p/bundles?wait=60", climbing).await, 422, None);
    let bundles = w.op.get("/api/v1/projects/p/bundles?status=compiled").await.expect(200);
    assert_eq!(bundles["total"], 0, "{bundles:#}");
    // And it still works.
    w.bundle("fine").await;
    w.end().await;
}

async fn whoever_listens_to_the_event_stream_is_told_how_a_compile_goes_on_and_of_its_cancellation(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let mut events = w.op.events("/api/v1/events/stream?project=p").await;
    let good = w.op.post("/api/v1/projects/p/bundles", json!({"config_source": bundle::samples::DEMO_V1})).await;
    assert!(matches!(good.status, 201 | 202), "{:#}", good.body);
    let id = good.body["bundle"]["id"].clone();
    let row = format!("/api/v1/projects/p/bundles/{}", id.as_str().unwrap());
    // Nothing but events makes this client look.
    let mut versions = Vec::new();
    let followed = async {
        loop {
            let event = events.next().await;
            if (&event["kind"], &event["id"]) != (&json!("bundle"), &id) {
                continue;
            }
            versions.push(event["version"].as_u64().unwrap());
            let now = w.op.get(&row).await.expect(200)["bundle"].clone();
            if now["status"] == "compiled" {
                return now;
            }
        }
    };
    let done = tokio::time::timeout(PATIENCE, followed).await.expect("the end was not told");
    assert!(done["bundle_id"].is_string());
    assert!(versions.is_sorted(), "{versions:?}");

    // A large one is cancelled as soon as it is there; one that is compiled by then was not large enough for this machine.
    let mut routes = 500;
    let (id, row, cancelled) = eventually("a compile is cancelled under way", async || {
        routes += 500;
        let large = bundle::samples::generate(routes);
        let slow = w.op.post("/api/v1/projects/p/bundles", json!({"config_source": large})).await;
        let id = slow.body["bundle"]["id"].as_str().unwrap_or_else(|| panic!("{:#}", slow.body)).to_string();
        let row = format!("/api/v1/projects/p/bundles/{id}");
        let cancelled = w.op.post(&format!("{row}/cancel"), json!({})).await;
        (cancelled.status != 409).then(|| (id, row, cancelled.expect(200)))
    })
    .await;
    assert_eq!((&cancelled["changed"], &cancelled["bundle"]["status"]), (&json!(true), &json!("failed")));
    let told = async {
        loop {
            let event = events.next().await;
            if event["id"] == id && w.op.get(&row).await.expect(200)["bundle"]["status"] == "failed" {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("the cancellation was not told");
    let again = w.op.post(&format!("{row}/cancel"), json!({})).await;
    assert_eq!((again.status, &again.body["code"]), (409, &json!("bundle_state")));
    let errors = w.op.get(&row).await.expect(200)["bundle"]["errors"].to_string();
    assert!(errors.contains("cancelled by an API key"), "{errors}");
    assert_eq!(w.op.post("/api/v1/projects/p/bundles/nothing/cancel", json!({})).await.status, 404);
    w.end().await;
}
