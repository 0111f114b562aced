//! What signatures and presigned URLs cost: once for each node and generation, and at every poll that names a bundle.

use crate::Failure;
use crate::host::{Host, PROJECT, key, memory_dir, sqlite};
use crate::table::{Bar, Table, median};
use crate::wire::{Wire, request};
use artifacts::{ArtifactStore, DirStore, S3Config, S3Store, UrlSigner};
use bundle::keys::{KeyPair, Role};
use bundle::trust::{ASSIGNMENT_TYPE, ASSIGNMENT_VALIDITY, Assignment, Envelope};
use domain::{Digest, NodeId, ProjectId, Span, Timestamp};
use serde_json::{Value, json};
use std::hint::black_box;
use std::time::{Duration, Instant};

const NOW: Timestamp = Timestamp(1_790_000_000_000_000);
const TIMES: u32 = 2_000;
/// For the rollout to hand its bundle over.
const PATIENCE: Duration = Duration::from_secs(20);

pub async fn run(table: &mut Table) -> Result<(), Failure> {
    let poll = poll().await?;
    table.add("sign", "a poll that names a bundle, over HTTP: median", poll, "us", Bar::None);
    table.add("sign", "sign an assignment (once for each node and generation): median", assignment()?, "us", Bar::None);
    let dir = memory_dir()?;
    let files = ArtifactStore::dir(DirStore::open(dir.path(), UrlSigner::new([7; 32], "http://127.0.0.1:4000"))?);
    let s3 = ArtifactStore::s3(S3Store::new(S3Config {
        endpoint: Some("http://127.0.0.1:9000".into()),
        region: "us-east-1".into(),
        access_key: "access".into(),
        secret_key: "secret".into(),
        force_path_style: true,
        bucket: "artifacts".into(),
        prefix: String::new(),
        allow_plain_http: false,
    })?);
    for (name, store) in [("directory", files), ("S3", s3)] {
        let cost = presign(&store).await?;
        table.add("sign", format!("presign a URL, {name}: median"), cost, "us", Bar::None);
        let share = cost / poll * 100.0;
        table.add("sign", format!("of such a poll, {name}"), share, "%", Bar::AtMost { floor: 25.0, aim: 5.0 });
    }
    Ok(())
}

fn micros(begun: Instant) -> f64 {
    begun.elapsed().as_nanos() as f64 / 1e3
}

fn assignment() -> Result<f64, Failure> {
    let signer = KeyPair::from_secret(Role::Metadata, &[3; 32]);
    let mut took = Vec::new();
    for generation in 1..=u64::from(TIMES) {
        let said = Assignment {
            kind: ASSIGNMENT_TYPE.into(),
            node_id: NodeId::NIL,
            project_id: ProjectId::NIL,
            bundle_id: Some(Digest::ZERO),
            artifact_hash: Some(Digest::ZERO),
            size_bytes: 1,
            rollout_id: None,
            generation,
            traffic_weight: 100,
            issued_at: NOW,
            expires_at: NOW + ASSIGNMENT_VALIDITY,
            audit_head: None,
        };
        let begun = Instant::now();
        black_box(Envelope::sign(&said, &[&signer])?);
        took.push(micros(begun));
    }
    Ok(median(&took))
}

async fn presign(store: &ArtifactStore) -> Result<f64, Failure> {
    let mut took = Vec::new();
    for i in 0..TIMES {
        let content = Digest::of(&i.to_le_bytes());
        let begun = Instant::now();
        let url = store.download_url(NodeId::NIL, ProjectId::NIL, content, NOW, Span::secs(600)).await?;
        took.push(micros(begun));
        black_box(url);
    }
    Ok(median(&took))
}

/// One node that was told of a bundle and asks again and again, over one connection.
async fn poll() -> Result<f64, Failure> {
    let dir = memory_dir()?;
    let host = Host::start(sqlite(dir.path()).await?, dir.path()).await?;
    let bundle = host.compile("1", &bundle::samples::generate(28)).await?;
    let node = host.seed_nodes(1).await?[0];
    let body = json!({"bundle_id": bundle, "start": true});
    host.operator("POST", &format!("/api/v1/projects/{PROJECT}/rollouts"), Some(body)).await?;
    let mut wire = Wire::open(host.address).await?;
    let header = format!("x-sentinel-node-key: {}", key(0));
    let ask = request("GET", &format!("/api/v1/nodes/{node}/bundles/latest?wait=0"), &header, "");
    let begun = Instant::now();
    loop {
        let answer: Value = wire.call(&ask).await?.json(200)?;
        if answer["artifact_url"].is_string() {
            break;
        }
        if begun.elapsed() > PATIENCE {
            return Err(format!("the node was not told: {answer}").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut took = Vec::new();
    for _ in 0..TIMES {
        let begun = Instant::now();
        let answer = wire.call(&ask).await?;
        took.push(micros(begun));
        black_box(answer.json(200)?);
    }
    host.stop().await?;
    Ok(median(&took))
}
