//! What goes into bundles beside the configuration, the project's own rules, comparisons, retention, and a store that fails.

use crate::harness::*;
use serde_json::{Value, json};
use std::process::Command;

both!(
    resources_are_shipped_and_references_to_them_are_checked,
    the_rules_of_a_project_are_enforced_at_compile,
    bundles_are_compared_by_meaning_with_the_fleet_the_parent_and_any_other,
    retention_takes_what_nobody_needs_row_and_archive_together,
    a_damaged_archive_is_found_before_a_node_is_sent_to_it,
);

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
const BUNDLES: &str = "/api/v1/projects/p/bundles?wait=30";

/// The demo's configuration with TLS on its listener.
fn with_tls(cert: &str, key: &str) -> String {
    let demo = bundle::samples::DEMO_V1;
    let at = demo.find("protocol \"http\"").expect("the demo has a plain listener");
    let tls = format!(
        "protocol \"https\"\n        tls {{\n            cert-file \"{cert}\"\n            key-file \"{key}\"\n        }}"
    );
    format!("{}{tls}{}", &demo[..at], &demo[at + "protocol \"http\"".len()..])
}

async fn resources_are_shipped_and_references_to_them_are_checked(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let path = "/api/v1/projects/p/resources";
    let tls = with_tls("certs/site.pem", "secrets/site-key");
    let refused = w.op.post(BUNDLES, json!({"version": "0", "config_source": tls})).await;
    is_problem(&refused, 422, Some("config"));
    let said = refused.body["errors"]["config"].to_string();
    assert!(said.contains("certs/site.pem") && said.contains("site-key"), "{said}");

    let put = w.op.post(path, json!({"path": "certs/site.pem", "text": CERTIFICATE})).await.expect(201);
    assert_eq!(put["changed"], true);
    let same = w.op.post(path, json!({"path": "certs/site.pem", "text": CERTIFICATE})).await.expect(200);
    assert_eq!(same["changed"], false);
    // `AGFzbQ==` is the beginning of a WebAssembly module.
    w.op.post(path, json!({"path": "plugins/a.wasm", "content": "AGFzbQ=="})).await.expect(201);
    w.op.send("PATCH", "/api/v1/projects/p", json!({"settings": {"secrets": ["site-key"]}})).await.expect(200);
    for (body, field) in [
        (json!({"path": "certs/k.pem", "text": "-----BEGIN PRIVATE KEY-----"}), "content"),
        (json!({"path": "etc/passwd", "text": "x"}), "path"),
        (json!({"path": "certs/../x", "text": CERTIFICATE}), "path"),
        (json!({"path": "certs/a.pem", "content": "%"}), "content"),
        (json!({"path": "certs/a.pem"}), "content"),
        (json!({"path": "certs/a.pem", "text": "a", "colour": 1}), "colour"),
    ] {
        is_problem(&w.op.post(path, body).await, 422, Some(field));
    }

    let made = w.op.post(BUNDLES, json!({"version": "1", "config_source": tls})).await.expect(201)["bundle"].clone();
    let id = made["bundle_id"].as_str().unwrap();
    let manifest = w.op.get(&format!("/api/v1/projects/p/bundles/{id}/manifest")).await.expect(200);
    for file in ["certs/site.pem", "plugins/a.wasm"] {
        assert!(manifest["payload_hashes"][file].is_string(), "{manifest:#}");
    }
    let sbom = w.op.get(&format!("/api/v1/projects/p/bundles/{id}/sbom")).await.expect(200);
    let components = sbom["components"].as_array().unwrap();
    assert!(components.iter().any(|c| c["name"] == "plugins/a.wasm" && c["type"] == "library"));
    // The same inputs offline give the same content.
    let (dir, config) = (w.dir.path().join("resources"), w.dir.path().join("tls.kdl"));
    for (file, bytes) in [("certs/site.pem", CERTIFICATE.as_bytes()), ("plugins/a.wasm", b"\0asm")] {
        std::fs::create_dir_all(dir.join(file).parent().unwrap()).unwrap();
        std::fs::write(dir.join(file), bytes).unwrap();
    }
    std::fs::write(&config, &tls).unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_sentinel-cp"))
        .args(["bundle", "build", "--project", made["project_id"].as_str().unwrap()])
        .args(["--created-at", "2026-11-21T00:00:00Z", "--resources"])
        .arg(&dir)
        .arg("-o")
        .arg(w.dir.path().join("offline.tar.zst"))
        .arg(&config)
        .output()
        .unwrap();
    let built: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{out:?}"));
    assert_eq!(built["bundle_id"], made["bundle_id"]);

    // Another certificate is another bundle; a private key that is looked for in the bundle is no config at all.
    let other = CERTIFICATE.replace("MIIB", "MIIC");
    w.op.post(path, json!({"path": "certs/site.pem", "text": other})).await.expect(201);
    let next = w.op.post(BUNDLES, json!({"version": "2", "config_source": tls})).await.expect(201)["bundle"].clone();
    assert_ne!(next["bundle_id"], made["bundle_id"]);
    let inside = with_tls("certs/site.pem", "certs/site.key");
    is_problem(&w.op.post(BUNDLES, json!({"version": "3", "config_source": inside})).await, 422, Some("config"));

    let listed = w.op.get(path).await.expect(200);
    assert_eq!(listed["total"], 2);
    let id = listed["resources"][0]["id"].as_str().unwrap();
    let one = format!("{path}/{id}");
    assert_eq!(w.op.get(&one).await.expect(200)["resource"]["path"], "certs/site.pem");
    assert_eq!(w.op.get(&format!("{one}/content")).await.bytes, other.as_bytes());
    assert_eq!(w.op.send("DELETE", &one, json!({})).await.status, 204);
    assert_eq!(w.op.get(&one).await.status, 404);
    w.end().await;
}

async fn the_rules_of_a_project_are_enforced_at_compile(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let rules =
        async |rules: Value| w.op.send("PATCH", "/api/v1/projects/p", json!({"settings": {"rules": rules}})).await;
    for (bad, field) in [
        (json!({"required": ["listeners"]}), "settings.rules.required"),
        (json!({"schema": {"$ref": "#/a"}}), "settings.rules.schema"),
        (json!({"colour": 1}), "settings.rules"),
    ] {
        is_problem(&rules(bad).await, 422, Some(field));
    }
    let compile = async |version: &str| {
        w.op.post(BUNDLES, json!({"version": version, "config_source": bundle::samples::DEMO_V1})).await
    };
    for (i, (rule, words)) in [
        (json!({"required": ["/listeners/*/tls"]}), "the project requires /listeners/"),
        (json!({"forbidden": ["/routes/*/upstream"]}), "the project forbids /routes/"),
        (json!({"schema": {"properties": {"routes": {"maxItems": 0}}}}), "/routes must have at most 0 items"),
    ]
    .into_iter()
    .enumerate()
    {
        rules(rule).await.expect(200);
        let answer = compile(&format!("bad-{i}")).await;
        is_problem(&answer, 422, Some("config"));
        assert!(answer.body["errors"]["config"].to_string().contains(words), "{:#}", answer.body);
    }
    // Without them the same files are a bundle: the rules are part of what makes a job the same.
    rules(json!({})).await.expect(200);
    compile("good").await.expect(201);
    w.end().await;
}

async fn bundles_are_compared_by_meaning_with_the_fleet_the_parent_and_any_other(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let first = compile(&w.op, "p", "1", bundle::samples::DEMO_V1).await;
    let (a, path) = (first["bundle_id"].as_str().unwrap(), |id: &str, query: &str| {
        format!("/api/v1/projects/p/bundles/{id}/diff{query}")
    });
    assert_eq!(w.op.get(&path(a, "")).await.status, 409, "no node runs anything");
    assert_eq!(w.op.get(&path(a, "?against=parent")).await.status, 409, "it has no parent");
    let second = compile(&w.op, "p", "2", bundle::samples::DEMO_V2).await;
    let b = second["bundle_id"].as_str().unwrap();
    let hand = Hand::register(&w.one.url, "p", "n-1").await;
    hand.beat(json!({"active_bundle_id": a, "health": {"status": "healthy"}})).await;
    let by_fleet = eventually("the heartbeat is stored", async || {
        let answer = w.op.get(&path(b, "")).await;
        (answer.status == 200).then_some(answer.body)
    })
    .await;
    assert_eq!(by_fleet["against"]["version"], "1");
    let changes = by_fleet["changes"].as_array().unwrap();
    assert!(!changes.is_empty() && changes.iter().all(|c| c["thing"].is_string()), "{by_fleet:#}");
    let changed = changes.iter().filter(|c| c["change"] == "changed");
    assert!(
        changed.flat_map(|c| c["fields"].as_array().unwrap()).all(|f| f["path"].as_str().unwrap().starts_with('/'))
    );
    let by_parent = w.op.get(&path(b, "?against=parent")).await.expect(200);
    assert_eq!(by_parent["changes"], by_fleet["changes"]);
    let back = w.op.get(&path(a, "?against=2")).await.expect(200);
    assert_eq!(back["changes"].as_array().unwrap().len(), changes.len());
    assert_eq!(w.op.get(&path(a, "?against=1")).await.expect(200)["changes"], json!([]));
    let text = w.op.get(&path(b, "?format=text")).await;
    let text = String::from_utf8(text.bytes.to_vec()).unwrap();
    assert_eq!(text, by_fleet["text"].as_str().unwrap());
    assert!(text.contains("risk: "), "{text}");
    is_problem(&w.op.get(&path(b, "?format=pdf")).await, 422, Some("format"));
    assert_eq!(w.op.get(&path(b, "?against=nowhere")).await.status, 404);
    w.end().await;
}

async fn retention_takes_what_nobody_needs_row_and_archive_together(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let mut made = Vec::new();
    for version in ["1", "2", "3", "4", "5"] {
        made.push(w.bundle(version).await["bundle_id"].as_str().unwrap().to_string());
    }
    // A node runs the first and is told of the third by a rollout that goes on: both stay, and the newest.
    let hand = Hand::register(&w.one.url, "p", "n-1").await;
    let rollout = w.roll_out(json!({"bundle_id": made[0], "min_healthy_seconds": 0})).await;
    hand.run(&hand.told().await).await;
    hand.beat(json!({"active_bundle_id": made[0], "health": {"status": "healthy"}})).await;
    reaches(&w.op, &rollout, "completed").await;
    w.roll_out(json!({"bundle_id": made[2]})).await;
    hand.told().await;
    w.op.send("PATCH", "/api/v1/projects/p", json!({"settings": {"retention_keep": 1}})).await.expect(200);
    let path = "/api/v1/projects/p/retention";
    let ids = |answer: &Value| {
        let all = answer["retention"]["collected"].as_array().unwrap().iter();
        all.map(|b| b["bundle_id"].as_str().unwrap().to_string()).collect::<Vec<_>>()
    };
    w.op.post(&format!("/api/v1/projects/p/bundles/{}/revoke", made[3]), json!({})).await.expect(200);
    let would = w.op.post(path, json!({"dry_run": true})).await.expect(200);
    assert_eq!(ids(&would), [made[1].clone(), made[3].clone()]);
    assert_eq!(w.op.get(&format!("/api/v1/projects/p/bundles/{}", made[1])).await.status, 200, "nothing was done");
    let did = w.op.post(path, json!({})).await.expect(200);
    assert_eq!(ids(&did), ids(&would));
    assert_eq!(ids(&w.op.post(path, json!({})).await.expect(200)), Vec::<String>::new());
    for (i, id) in made.iter().enumerate() {
        let row = w.op.get(&format!("/api/v1/projects/p/bundles/{id}")).await.status;
        let archive = w.op.get(&format!("/api/v1/projects/p/bundles/{id}/download")).await.status;
        // Of what is revoked the row stays.
        let there = match i {
            1 => (404, 404),
            3 => (200, 404),
            _ => (200, 200),
        };
        assert_eq!((row, archive), there, "{i}");
    }
    let files = walk(&w.dir.path().join("artifacts"));
    assert!(
        made.iter().enumerate().all(|(i, id)| files.iter().any(|f| f.contains(id)) != [1, 3].contains(&i)),
        "{files:?}"
    );
    let audit = w.op.get("/api/v1/projects/p/audit_logs?action=bundle.collected").await.expect(200);
    assert_eq!(audit["total"], 2);
    // The same content can be made again, but not what was revoked, in whatever words it is asked for.
    assert_eq!(w.bundle("2").await["bundle_id"], json!(made[1]));
    let source = format!("{}\n// 4\n", bundle::samples::DEMO_V1);
    let revoked = w.op.post("/api/v1/projects/p/bundles?wait=30", json!({"config_source": source})).await;
    assert_eq!((revoked.status, revoked.body["code"].as_str()), (409, Some("bundle_revoked")), "{:#}", revoked.body);
    w.end().await;
}

fn walk(dir: &std::path::Path) -> Vec<String> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => out.extend(walk(&entry.path())),
            false => out.push(entry.path().display().to_string()),
        }
    }
    out
}

async fn a_damaged_archive_is_found_before_a_node_is_sent_to_it(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    for (n, what) in ["missing", "cut off", "flipped"].into_iter().enumerate() {
        // A new bundle each time: what was found good is not read again for a while.
        let made = w.bundle(&format!("b-{n}")).await;
        let id = made["bundle_id"].as_str().unwrap();
        let file = walk(&w.dir.path().join("artifacts")).into_iter().find(|f| f.contains(id)).unwrap();
        let good = std::fs::read(&file).unwrap();
        let hand = Hand::register(&w.one.url, "p", &format!("n-{n}")).await;
        match what {
            "missing" => std::fs::remove_file(&file).unwrap(),
            "cut off" => std::fs::write(&file, &good[..good.len() / 2]).unwrap(),
            _ => {
                let mut bad = good.clone();
                bad[50] ^= 1;
                std::fs::write(&file, bad).unwrap();
            }
        }
        let selector = json!({"type": "node_ids", "node_ids": [hand.id]});
        let run = w.roll_out(json!({"bundle_id": id, "target_selector": selector, "min_healthy_seconds": 0})).await;
        eventually("the node is in a running step", async || {
            (rollout(&w.op, &run).await["state"] == "running").then_some(())
        })
        .await;
        for _ in 0..3 {
            let answer = hand.poll(0).await;
            assert_eq!(answer["no_update"], true, "{what}: sent to a broken archive: {answer:#}");
        }
        eventually("the rollout waits and says so", async || {
            let why = w.op.get(&format!("/api/v1/rollouts/{run}/explain")).await.expect(200);
            (why["primary"]["code"] == "artifact_unavailable").then_some(())
        })
        .await;
        let verify = w.op.get(&format!("/api/v1/projects/p/bundles/{id}/verify")).await.expect(200);
        assert_eq!(verify["valid"], false, "{what}");
        std::fs::write(&file, &good).unwrap();
        let update = hand.told().await;
        assert_eq!(update["bundle_id"], *id, "{what}");
        hand.run(&update).await;
        hand.beat(json!({"active_bundle_id": id, "health": {"status": "healthy"}})).await;
        reaches(&w.op, &run, "completed").await;
    }
    w.end().await;
}
