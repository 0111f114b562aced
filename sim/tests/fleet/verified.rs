//! With real archives, signatures and trust documents.

use super::*;
use bundle::trust::{Assignment, Envelope, RoleKeys, Roles, TrustDoc, sign_manifest};
use bundle::verdict::{Merged, Verdict};
use bundle::{BuildInputs, KeyPair, Role, Sources, assemble, render};
use domain::{ProjectId, Timestamp};
use sim::clock::Clock;

const NOW: Timestamp = Timestamp(1_800_000_000_000_000);
/// Changes an assignment before it is signed.
type Bend = fn(&mut Assignment);

const PROJECT: ProjectId = ProjectId::NIL;

fn key(role: Role, n: u8) -> KeyPair {
    KeyPair::from_secret(role, &[n; 32])
}

fn archive(text: &str, signer: &KeyPair) -> Ware {
    let merged = Merged { text: text.into(), files: vec!["config.kdl".into()], ..Merged::default() };
    let verdict = Verdict {
        ok: true,
        config_json: Some(serde_json::json!({})),
        merged: Some(merged),
        ..Verdict::refused(vec![])
    };
    let (sources, extra) = (Sources::single(text), Default::default());
    let inputs = BuildInputs {
        project: PROJECT,
        created_at: NOW,
        source: &Default::default(),
        sources: &sources,
        verdict: &verdict,
        extra: &extra,
    };
    let rendered = render(inputs).unwrap();
    let packed = assemble(&rendered, Some(&sign_manifest(&rendered.manifest_bytes, signer))).unwrap();
    Ware { content: rendered.content_id, version: text.into(), archive: packed.bytes.into() }
}

/// A control plane that signs with `metadata`, believed by nodes that were shown the trust of keys 1, 2, 3.
fn fake(metadata: KeyPair) -> Fake {
    fake_that(metadata, |_| {})
}

/// The same, and what it signs is bent first.
fn fake_that(metadata: KeyPair, bend: Bend) -> Fake {
    let (root, bundle, meta) = (key(Role::Root, 1), key(Role::Bundle, 2), key(Role::Metadata, 3));
    let roles = Roles {
        root: RoleKeys::one(root.public()),
        bundle: RoleKeys::one(bundle.public()),
        metadata: RoleKeys::one(meta.public()),
    };
    let doc = TrustDoc::new(1, NOW + Span::secs(86_400), roles, vec![]);
    let trust = serde_json::to_value(Envelope::sign(&doc, &[&root]).unwrap()).unwrap();
    let signer: fake::Signer = Box::new(move |node, ware, generation| {
        let mut a = Assignment {
            kind: bundle::trust::ASSIGNMENT_TYPE.into(),
            node_id: node,
            project_id: PROJECT,
            bundle_id: Some(ware.content),
            artifact_hash: Some(Digest::of(&ware.archive)),
            size_bytes: ware.archive.len() as u64,
            rollout_id: None,
            generation,
            traffic_weight: 100,
            issued_at: NOW,
            expires_at: NOW + Span::secs(86_400),
            audit_head: None,
        };
        bend(&mut a);
        serde_json::to_value(a.sign(&metadata).unwrap()).unwrap()
    });
    let mut fake = Fake::new();
    fake.trust = trust;
    fake.signer = Some(signer);
    fake
}

async fn fleet(fake: &Arc<Fake>, root: Option<Digest>) -> Fleet {
    let profile = Profile { verify: true, root, ..Profile::default() };
    let config = FleetConfig { profile, clock: Some(Clock::starting_at(NOW)), ..config(3) };
    let fleet = Fleet::start(config, in_process(fake)).await.unwrap();
    within(fleet.until_all(|n| n.id.is_some())).await.unwrap();
    fleet
}

/// Rolls `ware` out to nodes that must all refuse it, and answers with their reasons.
async fn refused(fake: Fake, ware: Ware, root: Option<Digest>) -> String {
    let fake = Arc::new(fake);
    let fleet = fleet(&fake, root).await;
    fake.roll_out(&ware, None);
    within(async {
        while !["n1", "n2", "n3"].iter().all(|n| fake.seen(n).reports.iter().any(|(_, r)| *r == Report::Failed)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(fleet.status().await.unwrap().values().all(|s| s.active.is_none()));
    let report = fleet.stop().await.unwrap();
    assert_eq!(report.count("activated"), 0);
    report.reasons.keys().cloned().collect::<Vec<_>>().join("; ")
}

#[tokio::test(start_paused = true)]
async fn genuine_bundles_are_accepted_one_after_the_other() {
    let fake = Arc::new(fake(key(Role::Metadata, 3)));
    let fleet = fleet(&fake, None).await;
    for text in ["one", "two"] {
        let ware = archive(text, &key(Role::Bundle, 2));
        fake.roll_out(&ware, None);
        within(fleet.until_all(move |s| s.active == Some(ware.content))).await.unwrap();
    }
    let report = fleet.stop().await.unwrap();
    assert_eq!((report.count("refused"), report.count("downloads")), (0, 6), "three nodes fetch for themselves");
}

#[tokio::test(start_paused = true)]
async fn an_assignment_by_a_foreign_key_is_refused() {
    let why = refused(fake(key(Role::Metadata, 9)), archive("x", &key(Role::Bundle, 2)), None).await;
    assert!(why.contains("bad_signature"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_bundle_by_a_foreign_key_is_refused() {
    let why = refused(fake(key(Role::Metadata, 3)), archive("x", &key(Role::Bundle, 9)), None).await;
    assert!(why.contains("bad_signature"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn an_archive_of_other_content_is_refused() {
    let other = archive("other", &key(Role::Bundle, 2));
    let ware = Ware { content: Digest([7; 32]), ..other };
    let why = refused(fake(key(Role::Metadata, 3)), ware, None).await;
    assert!(why.contains("bundle_id"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn another_root_than_the_pinned_one_is_refused() {
    let why = refused(fake(key(Role::Metadata, 3)), archive("x", &key(Role::Bundle, 2)), Some(Digest([1; 32]))).await;
    assert!(why.contains("wrong_root"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_says_something_else_than_its_assignment_is_refused() {
    let bends: [Bend; 3] = [|a| a.bundle_id = Some(Digest([8; 32])), |a| a.generation += 1, |a| a.traffic_weight = 5];
    for bend in bends {
        let why = refused(fake_that(key(Role::Metadata, 3), bend), archive("x", &key(Role::Bundle, 2)), None).await;
        assert!(why.contains("contradicts"), "{why}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_assignment_for_another_node_or_out_of_date_is_refused() {
    let bends: [(Bend, &str); 2] =
        [(|a| a.node_id = domain::NodeId::NIL, "wrong_node"), (|a| a.expires_at = NOW + Span::secs(-3_600), "expired")];
    for (bend, code) in bends {
        let why = refused(fake_that(key(Role::Metadata, 3), bend), archive("x", &key(Role::Bundle, 2)), None).await;
        assert!(why.contains(code), "{why}");
    }
}
