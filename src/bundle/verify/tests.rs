#![allow(clippy::unwrap_used)]
use super::*;
use crate::archive::{BuildInputs, Rendered, assemble, render};
use crate::keys::KeyPair;
use crate::samples;
use crate::source::Sources;
use crate::trust::{AuditHead, Roles, sign_manifest};
use crate::validate_in_process;
use domain::bundle::Source;
use std::io::Write;

const NOW: Timestamp = Timestamp(1_800_000_000_000_000);
const DAY: Span = Span::secs(24 * 3600);

fn key(role: Role, n: u8) -> KeyPair {
    KeyPair::from_secret(role, &[n; 32])
}
fn root() -> KeyPair {
    key(Role::Root, 1)
}
fn bundle_key() -> KeyPair {
    key(Role::Bundle, 2)
}
fn metadata_key() -> KeyPair {
    key(Role::Metadata, 3)
}
fn project() -> ProjectId {
    "01900000-0000-7000-8000-000000000001".parse().unwrap()
}
fn node() -> NodeId {
    "01900000-0000-7000-8000-000000000002".parse().unwrap()
}

fn trust_doc(version: u64) -> TrustDoc {
    let one = |k: KeyPair| RoleKeys::one(k.public());
    let roles = Roles { root: one(root()), bundle: one(bundle_key()), metadata: one(metadata_key()) };
    TrustDoc::new(version, NOW + Span::secs(90 * 24 * 3600), roles, vec!["https://s3.example.com".into()])
}

fn node_trust() -> NodeTrust {
    let envelope = Envelope::sign(&trust_doc(1), &[&root()]).unwrap();
    let pinned = Digest::parse(&root().key_id()).unwrap();
    NodeTrust::pin(pinned, &[envelope], node(), project(), NOW).unwrap()
}

fn rendered(sources: &Sources) -> Rendered {
    let verdict = validate_in_process(sources);
    let extra = BTreeMap::from([("plugins/a.wasm".to_string(), vec![0u8, 1, 2])]);
    let source = Source { kind: "git".into(), reference: Some("main@abc".into()) };
    let inputs =
        BuildInputs { project: project(), created_at: NOW, source: &source, sources, verdict: &verdict, extra: &extra };
    render(inputs).unwrap()
}

fn signed(r: &Rendered) -> Vec<u8> {
    assemble(r, Some(&sign_manifest(&r.manifest_bytes, &bundle_key()))).unwrap().bytes
}

fn assignment(bytes: &[u8], bundle: Option<ContentId>) -> Assignment {
    Assignment {
        kind: ASSIGNMENT_TYPE.into(),
        node_id: node(),
        project_id: project(),
        bundle_id: bundle,
        artifact_hash: bundle.map(|_| Digest::of(bytes)),
        size_bytes: bytes.len() as u64,
        rollout_id: None,
        generation: 7,
        traffic_weight: 100,
        issued_at: NOW,
        expires_at: NOW + DAY,
        audit_head: Some(AuditHead { seq: 3, hash: "ab".into() }),
    }
}

fn check(bytes: &[u8], bundle: ContentId) -> Result<VerifiedBundle, Refusal> {
    verify_archive(bytes, &assignment(bytes, Some(bundle)), &node_trust())
}

/// Every order of `items`.
fn permutations<T: Clone>(items: &[T]) -> Vec<Vec<T>> {
    if items.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for i in 0..items.len() {
        let mut rest = items.to_vec();
        let first = rest.remove(i);
        for mut tail in permutations(&rest) {
            tail.insert(0, first.clone());
            all.push(tail);
        }
    }
    all
}

#[test]
fn the_same_input_in_any_order_gives_the_same_id_and_bytes_and_a_difference_does_not() {
    let files: Vec<(String, String)> = samples::with_includes().0.into_iter().collect();
    let first = rendered(&Sources::from_files(files.clone()));
    let bytes = signed(&first);
    let orders = permutations(&files);
    assert_eq!(orders.len(), (1..=files.len()).product::<usize>());
    for order in orders {
        let again = rendered(&Sources::from_files(order));
        assert_eq!(again.content_id, first.content_id);
        assert_eq!(signed(&again), bytes);
    }
    assert_ne!(
        rendered(&Sources::single(samples::DEMO_V1)).content_id,
        rendered(&Sources::single(samples::DEMO_V2)).content_id
    );
}

/// Bytes pinned: the archive must be the same on any machine. Changes only with a sample, a format
/// version, the validator or the zstd library, and then on purpose.
#[test]
fn the_archive_of_the_demo_has_known_bytes() {
    let r = rendered(&Sources::single(samples::DEMO_V1));
    assert_eq!(
        (r.content_id.to_string().as_str(), Digest::of(&signed(&r)).to_string().as_str()),
        (GOLDEN_ID, GOLDEN_ARTIFACT)
    );
}
const GOLDEN_ID: &str = "07ab2bcf66ca04cbef9c8f460187527dc530a23f4af132bd26f8ff53eea566c2";
const GOLDEN_ARTIFACT: &str = "dc1a5920642f1a31dda31f1b2672b22f265c1ba047baf24fb674f82d83b2c117";

#[test]
fn the_id_does_not_depend_on_when_and_from_where_but_on_the_project() {
    let sources = Sources::single(samples::DEMO_V1);
    let verdict = validate_in_process(&sources);
    let make = |project, created_at, kind: &str| {
        let source = Source { kind: kind.into(), reference: None };
        let extra = BTreeMap::new();
        render(BuildInputs {
            project,
            created_at,
            source: &source,
            sources: &sources,
            verdict: &verdict,
            extra: &extra,
        })
        .unwrap()
        .content_id
    };
    let id = make(project(), NOW, "api");
    assert_eq!(id, make(project(), NOW + DAY, "git"));
    assert_ne!(id, make(ProjectId::NIL, NOW, "api"));
}

#[test]
fn a_bundle_verifies_and_unpacks_to_what_was_submitted() {
    let sources = samples::with_includes();
    let r = rendered(&sources);
    let v = check(&signed(&r), r.content_id).unwrap();
    assert_eq!(v.manifest, r.manifest);
    let dir = tempfile::tempdir().unwrap();
    v.unpack_to(dir.path()).unwrap();
    let read = |p: &str| std::fs::read_to_string(dir.path().join(p)).unwrap();
    assert_eq!(read("conf.d/routes/shop.kdl"), sources.0["routes/shop.kdl"]);
    assert!(!read("config.kdl").contains("include"));
    assert_eq!(serde_json::from_str::<Value>(&read("config.json")).unwrap()["routes"].as_array().unwrap().len(), 2);
    for line in read("checksums.txt").lines() {
        let (sum, path) = line.split_once("  ").unwrap();
        assert_eq!(Digest::of(read_bytes(dir.path(), path)).to_string(), sum, "{path}");
    }
    assert_eq!(read("checksums.txt").lines().count(), v.files.len() - 2);
    let sbom: Value = serde_json::from_str(&read("SBOM.json")).unwrap();
    assert_eq!(sbom["specVersion"], "1.5");
    assert!(sbom["components"].as_array().unwrap().iter().any(|c| c["name"] == "route shop"));
    assert!(v.unpack_to(dir.path()).is_err(), "it unpacked into a folder that was not empty");
}

fn read_bytes(dir: &Path, path: &str) -> &'static [u8] {
    Vec::leak(std::fs::read(dir.join(path)).unwrap())
}

/// A config as small as they come, so that every byte of its bundle can be tried.
const SMALL: &str = "system {\n    worker-threads 1\n}\nlisteners {\n    listener \"h\" {\n        address \"127.0.0.1:8080\"\n        protocol \"http\"\n    }\n}\n";

#[test]
fn any_flipped_byte_of_the_archive_is_found_by_verify_and_by_a_node() {
    let r = rendered(&Sources::single(SMALL));
    let good = signed(&r);
    let keys = RoleKeys::one(bundle_key().public());
    let (trust, honest) = (node_trust(), assignment(&good, Some(r.content_id)));
    assert!(verify_whole(&good, project(), &keys).is_ok());
    let mut bad = good.clone();
    for i in 0..good.len() {
        for bit in [1 << (i % 8), 0xff] {
            bad[i] ^= bit;
            assert!(verify_whole(&bad, project(), &keys).is_err(), "byte {i} ^ {bit:#x} went unnoticed");
            assert_eq!(verify_archive(&bad, &honest, &trust).unwrap_err(), Refusal::ArtifactHash);
            bad[i] = good[i];
        }
    }
}

#[test]
fn any_flipped_byte_of_manifest_payload_and_signature_is_found_whatever_the_container_says() {
    let r = rendered(&Sources::single(SMALL));
    let keys = RoleKeys::one(bundle_key().public());
    let mut files = unpack::unpack(&signed(&r)).unwrap();
    assert!(verify_files(&files, project(), &keys).is_ok());
    let covered: Vec<String> =
        files.keys().filter(|p| !["SBOM.json", "checksums.txt"].contains(&p.as_str())).cloned().collect();
    assert!(covered.len() >= 5, "{covered:?}");
    let mut tried = 0;
    for path in covered {
        for i in 0..files[&path].len() {
            let bit = 1 << (i % 7);
            files.get_mut(&path).unwrap()[i] ^= bit;
            assert!(verify_files(&files, project(), &keys).is_err(), "byte {i} of {path} went unnoticed");
            files.get_mut(&path).unwrap()[i] ^= bit;
            tried += 1;
        }
    }
    println!("{tried} bytes tried");
}

#[test]
fn any_flipped_byte_is_refused_even_when_the_hash_is_made_to_fit() {
    let r = rendered(&Sources::single(samples::DEMO_V1));
    let good = signed(&r);
    let honest = assignment(&good, Some(r.content_id));
    let trust = node_trust();
    for i in (0..good.len()).step_by(7).chain([good.len() - 1]) {
        let mut bad = good.clone();
        bad[i] ^= 1 << (i % 8);
        assert_eq!(verify_archive(&bad, &honest, &trust).unwrap_err(), Refusal::ArtifactHash);
        // The same with a metadata key gone bad, which assigns the damaged archive.
        if let Ok(v) = check(&bad, r.content_id) {
            assert_eq!(v.files, check(&good, r.content_id).unwrap().files, "byte {i} changed something unseen");
        }
    }
    for cut in [0, 1, good.len() / 2, good.len() - 1] {
        assert!(check(&good[..cut], r.content_id).is_err());
    }
    let mut longer = good.clone();
    longer.push(0);
    assert_eq!(verify_archive(&longer, &honest, &trust).unwrap_err().code(), "too_large");
    assert_eq!(check(&longer, r.content_id).unwrap_err().code(), "archive_damaged");
}

/// Packs arbitrary entries.
fn pack(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, kind, bytes) in entries {
        let mut h = tar::Header::new_ustar();
        // The library refuses to write hostile names itself.
        h.as_ustar_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
        h.set_entry_type(*kind);
        h.set_size(bytes.len() as u64);
        h.set_mode(0o644);
        h.set_cksum();
        tar.append(&h, *bytes).unwrap();
    }
    zstd::encode_all(&tar.into_inner().unwrap()[..], 1).unwrap()
}

#[test]
fn archives_with_hostile_entries_are_refused() {
    use tar::EntryType as T;
    let r = rendered(&Sources::single(samples::DEMO_V1));
    let signature = crate::canon::to_vec(&sign_manifest(&r.manifest_bytes, &bundle_key())).unwrap();
    let mut good: Vec<(&str, T, &[u8])> = r.files.iter().map(|(p, b)| (p.as_str(), T::Regular, b.as_slice())).collect();
    good.push((SIGNATURE, T::Regular, &signature));
    assert!(check(&pack(&good), r.content_id).is_ok());
    let code = |entries: &[(&str, T, &[u8])]| check(&pack(entries), r.content_id).unwrap_err().code();
    let plus = |path: &'static str, kind: T| {
        let mut all = good.clone();
        all.push((path, kind, b""));
        code(&all)
    };
    for path in ["../evil", "/etc/evil", "a/../../evil", "./evil", "a//b", ".hidden", "a\\b"] {
        assert_eq!(plus(path, T::Regular), "entry_path", "{path}");
    }
    for kind in
        [T::Symlink, T::Link, T::Char, T::Block, T::Fifo, T::Directory, T::GNULongName, T::XHeader, T::GNUSparse]
    {
        assert_eq!(plus("evil", kind), "entry_type", "{kind:?}");
    }
    assert_eq!(plus("evil", T::Regular), "entry_not_listed");
    assert_eq!(plus("config.kdl", T::Regular), "entry_duplicate");
    assert_eq!(plus("CONFIG.kdl", T::Regular), "entry_duplicate");
    assert_eq!(plus("config.kdl/x", T::Regular), "entry_duplicate");
    let without = |path: &str| code(&good.iter().filter(|e| e.0 != path).copied().collect::<Vec<_>>());
    for path in ["manifest.json", "signature.sig", "config.kdl", "config.json", "plugins/a.wasm"] {
        assert_eq!(without(path), "entry_missing", "{path}");
    }
    let changed = |path: &str, bytes: &[u8]| {
        code(&good.iter().map(|e| if e.0 == path { (e.0, e.1, bytes) } else { *e }).collect::<Vec<_>>())
    };
    assert_eq!(changed("config.kdl", b"other"), "payload_hash");
    assert_eq!(changed("manifest.json", b"{}"), "bad_signature");
    assert_eq!(changed("signature.sig", b"{}"), "malformed");
    let many: Vec<String> = (0..=crate::archive::MAX_ENTRIES).map(|i| format!("f{i}")).collect();
    assert_eq!(code(&many.iter().map(|p| (p.as_str(), T::Regular, &b""[..])).collect::<Vec<_>>()), "too_large");
}

#[test]
fn a_decompression_bomb_is_cut_off() {
    let mut z = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    let zeros = vec![0u8; 1 << 20];
    for _ in 0..=(crate::archive::MAX_UNPACKED_BYTES >> 20) {
        z.write_all(&zeros).unwrap();
    }
    let bomb = z.finish().unwrap();
    assert!(bomb.len() < 100_000);
    assert_eq!(check(&bomb, Digest::ZERO).unwrap_err().code(), "too_large");
}

#[test]
fn only_listed_bundle_keys_sign_and_a_threshold_counts_different_ones() {
    let r = rendered(&Sources::single(samples::DEMO_V1));
    let other = key(Role::Bundle, 9);
    let sign = |keys: &[&KeyPair]| {
        let mut s = sign_manifest(&r.manifest_bytes, keys[0]);
        s.more = keys[1..]
            .iter()
            .map(|k| DetachedSignature { key_id: k.key_id(), signature: k.sign_base64(&r.manifest_bytes) })
            .collect();
        assemble(&r, Some(&s)).unwrap().bytes
    };
    let by_stranger = sign(&[&other]);
    assert_eq!(check(&by_stranger, r.content_id).unwrap_err().code(), "bad_signature");
    assert_eq!(check(&sign(&[&metadata_key()]), r.content_id).unwrap_err().code(), "bad_signature");
    assert_eq!(check(&assemble(&r, None).unwrap().bytes, r.content_id).unwrap_err().code(), "entry_missing");

    let mut trust = node_trust();
    trust.trust.roles.bundle = RoleKeys { keys: vec![bundle_key().public(), other.public()], threshold: 2 };
    let verify = |bytes: &[u8]| verify_archive(bytes, &assignment(bytes, Some(r.content_id)), &trust);
    assert!(verify(&sign(&[&other, &bundle_key()])).is_ok());
    assert_eq!(verify(&sign(&[&other, &other])).unwrap_err().code(), "bad_signature");
}

#[test]
fn another_project_and_another_bundle_are_refused() {
    let r = rendered(&Sources::single(samples::DEMO_V1));
    let bytes = signed(&r);
    assert_eq!(check(&bytes, Digest::ZERO).unwrap_err(), Refusal::BundleId);
    let mut trust = node_trust();
    trust.project_id = ProjectId::NIL;
    let a = assignment(&bytes, Some(r.content_id));
    assert_eq!(verify_archive(&bytes, &a, &trust).unwrap_err(), Refusal::WrongProject);
    assert_eq!(verify_archive(&bytes, &assignment(&bytes, None), &trust).unwrap_err(), Refusal::NoBundle);
    assert!(verify_offline(&bytes, project(), &RoleKeys::one(bundle_key().public())).is_ok());
}

/// Signs the base assignment after `edit` and offers it to `trust` at `now`.
fn offer(trust: &NodeTrust, now: Timestamp, edit: impl FnOnce(&mut Assignment)) -> Result<Accepted, &'static str> {
    let mut a = assignment(b"x", Some(Digest::of(b"b")));
    edit(&mut a);
    trust.accept_assignment(&a.sign(&metadata_key()).unwrap(), now).map_err(|r| r.code())
}

#[test]
fn an_assignment_is_for_this_node_this_project_and_this_time() {
    let t = node_trust();
    let accepted = offer(&t, NOW, |_| ()).unwrap();
    assert!(!accepted.repeated);
    assert_eq!(accepted.highest_seen, NOW);
    assert_eq!(offer(&t, NOW, |a| a.node_id = NodeId::NIL), Err("wrong_node"));
    assert_eq!(offer(&t, NOW, |a| a.project_id = ProjectId::NIL), Err("wrong_project"));
    assert_eq!(offer(&t, NOW, |a| a.kind = "trust/v1".into()), Err("malformed"));
    assert_eq!(offer(&t, NOW, |a| a.artifact_hash = None), Err("malformed"));
    assert!(offer(&t, NOW + DAY + LEEWAY, |_| ()).is_ok());
    assert_eq!(offer(&t, NOW + DAY + LEEWAY + Span::secs(1), |_| ()), Err("expired"));
    assert!(offer(&t, NOW - LEEWAY, |_| ()).is_ok());
    assert_eq!(offer(&t, NOW - LEEWAY - Span::secs(1), |_| ()), Err("clock_skew"));
    // A clock that was set back does not revive what expired before a time already vouched for.
    let mut later = t.clone();
    later.highest_seen = NOW + DAY + DAY;
    assert_eq!(offer(&later, NOW, |_| ()), Err("expired"));
    let mut old = t.clone();
    old.trust.expires_at = NOW - DAY;
    assert_eq!(offer(&old, NOW, |_| ()), Err("trust_expired"));
}

#[test]
fn only_the_metadata_role_assigns_and_the_signature_covers_every_byte() {
    let t = node_trust();
    let a = assignment(b"x", Some(Digest::of(b"b")));
    for k in [root(), bundle_key(), key(Role::Metadata, 8)] {
        assert_eq!(t.accept_assignment(&a.sign(&k).unwrap(), NOW).unwrap_err().code(), "bad_signature");
    }
    let good = a.sign(&metadata_key()).unwrap();
    for i in (0..good.payload.len()).step_by(11) {
        let mut bad = good.clone();
        let c = if bad.payload.as_bytes()[i] == b'A' { "B" } else { "A" };
        bad.payload.replace_range(i..=i, c);
        assert!(t.accept_assignment(&bad, NOW).is_err(), "byte {i}");
    }
}

#[test]
fn generations_only_rise_and_an_equal_one_must_say_the_same() {
    let mut t = node_trust();
    let first = offer(&t, NOW, |_| ()).unwrap();
    t.commit(&first);
    assert_eq!(offer(&t, NOW, |a| a.generation = 6), Err("stale_generation"));
    assert_eq!(offer(&t, NOW, |a| a.traffic_weight = 50), Err("generation_reused"));
    assert_eq!(offer(&t, NOW, |a| a.bundle_id = Some(Digest::of(b"c"))), Err("generation_reused"));
    let anew = |a: &mut Assignment| {
        a.issued_at = NOW + Span::secs(3600);
        a.expires_at = NOW + DAY + DAY;
        a.audit_head = None;
    };
    let again = offer(&t, NOW + Span::secs(3600), anew).unwrap();
    assert!(again.repeated);
    t.commit(&again);
    assert_eq!(t.highest_seen, NOW + Span::secs(3600));
    let next = offer(&t, NOW, |a| a.generation = 8).unwrap();
    assert!(!next.repeated);
    // It survives being written to disk.
    let json = serde_json::to_string(&t).unwrap();
    assert_eq!(serde_json::from_str::<NodeTrust>(&json).unwrap(), t);
}

#[test]
fn trust_starts_at_the_pinned_root_and_rotates_in_order() {
    let pinned = Digest::parse(&root().key_id()).unwrap();
    let pin = |root: Digest, chain: &[Envelope]| {
        NodeTrust::pin(root, chain, node(), project(), NOW).map(|t| t.trust.version).map_err(|r| r.code())
    };
    let v = |n: u64, root: &KeyPair, signers: &[&KeyPair]| {
        let mut doc = trust_doc(n);
        doc.roles.root = RoleKeys::one(root.public());
        Envelope::sign(&doc, signers).unwrap()
    };
    let (r1, r2) = (root(), key(Role::Root, 21));
    let first = v(1, &r1, &[&r1]);
    assert_eq!(pin(pinned, &[]), Err("malformed"));
    assert_eq!(pin(Digest::ZERO, std::slice::from_ref(&first)), Err("wrong_root"));
    assert_eq!(pin(pinned, &[v(1, &r2, &[&r2])]), Err("wrong_root"));
    assert_eq!(pin(pinned, &[v(1, &r1, &[&r2])]), Err("bad_signature"));
    // A key listed as a root beside the attacker's does not vouch by being listed.
    let mut doc = trust_doc(1);
    doc.roles.root.keys.push(r2.public());
    assert_eq!(pin(pinned, &[Envelope::sign(&doc, &[&r2]).unwrap()]), Err("wrong_root"));
    // To a new root: signed by both.
    assert_eq!(pin(pinned, &[first.clone(), v(2, &r2, &[&r1, &r2])]), Ok(2));
    assert_eq!(pin(pinned, &[first.clone(), v(2, &r2, &[&r2])]), Err("bad_signature"));
    assert_eq!(pin(pinned, &[first.clone(), v(2, &r2, &[&r1])]), Err("bad_signature"));
    assert_eq!(pin(pinned, &[first.clone(), v(3, &r1, &[&r1])]), Err("trust_version"));
    assert_eq!(pin(pinned, &[first.clone(), first.clone()]), Err("trust_version"));
    let chain = [first.clone(), v(2, &r2, &[&r1, &r2]), v(3, &r2, &[&r2])];
    assert_eq!(pin(pinned, &chain), Ok(3));
    // Unusable documents.
    let bad = |edit: &dyn Fn(&mut TrustDoc)| {
        let mut doc = trust_doc(1);
        edit(&mut doc);
        pin(pinned, &[Envelope::sign(&doc, &[&r1]).unwrap()])
    };
    assert_eq!(bad(&|d| d.roles.bundle.threshold = 2), Err("trust_unusable"));
    assert_eq!(bad(&|d| d.roles.bundle.threshold = 0), Err("trust_unusable"));
    assert_eq!(bad(&|d| d.roles.bundle = d.roles.metadata.clone()), Err("trust_unusable"));
    assert_eq!(bad(&|d| d.kind = ASSIGNMENT_TYPE.into()), Err("trust_unusable"));
    assert_eq!(bad(&|d| d.expires_at = NOW - DAY), Err("trust_expired"));
}

#[test]
fn a_revoked_bundle_key_no_longer_counts_after_rotation() {
    let r = rendered(&Sources::single(samples::DEMO_V1));
    let bytes = signed(&r);
    let mut t = node_trust();
    let a = assignment(&bytes, Some(r.content_id));
    assert!(verify_archive(&bytes, &a, &t).is_ok());
    let mut doc = trust_doc(2);
    doc.roles.bundle = RoleKeys::one(key(Role::Bundle, 22).public());
    t.trust = t.rotate(&Envelope::sign(&doc, &[&root()]).unwrap()).unwrap();
    assert_eq!(verify_archive(&bytes, &a, &t).unwrap_err().code(), "bad_signature");
}

#[test]
fn after_a_key_compromise_and_its_rotation_nothing_by_the_old_keys_is_taken() {
    let mut t = node_trust();
    let (stolen, thief) = (metadata_key(), offer(&node_trust(), NOW, |_| ()).unwrap());
    t.commit(&thief);
    let mut doc = trust_doc(2);
    doc.roles.metadata = RoleKeys::one(key(Role::Metadata, 33).public());
    doc.roles.bundle =
        RoleKeys { keys: vec![key(Role::Bundle, 34).public(), key(Role::Bundle, 35).public()], threshold: 2 };
    // Whoever has the bundle and metadata keys cannot make the next version.
    for forger in [&stolen, &bundle_key()] {
        let forged = Envelope::sign(&doc, &[forger]).unwrap();
        assert_eq!(t.rotate(&forged).unwrap_err().code(), "bad_signature");
    }
    t.trust = t.rotate(&Envelope::sign(&doc, &[&root()]).unwrap()).unwrap();
    let next = |a: &mut Assignment| a.generation = 9;
    assert_eq!(offer(&t, NOW, next), Err("bad_signature"));
    let mut a = assignment(b"x", Some(Digest::of(b"b")));
    a.generation = 9;
    assert!(t.accept_assignment(&a.sign(&key(Role::Metadata, 33)).unwrap(), NOW).is_ok());
    // And the version before cannot come back.
    let old = Envelope::sign(&trust_doc(1), &[&root()]).unwrap();
    assert_eq!(t.rotate(&old).unwrap_err().code(), "trust_version");
    // One of two bundle keys is not enough.
    let r = rendered(&Sources::single(samples::DEMO_V1));
    let one = assemble(&r, Some(&sign_manifest(&r.manifest_bytes, &key(Role::Bundle, 34)))).unwrap().bytes;
    assert_eq!(verify_archive(&one, &assignment(&one, Some(r.content_id)), &t).unwrap_err().code(), "bad_signature");
}

#[test]
fn a_later_root_is_pinned_by_passing_over_what_came_before_it() {
    let (r1, r2) = (root(), key(Role::Root, 21));
    let v = |n: u64, root: &KeyPair, signers: &[&KeyPair]| {
        let mut doc = trust_doc(n);
        doc.roles.root = RoleKeys::one(root.public());
        Envelope::sign(&doc, signers).unwrap()
    };
    let chain = [v(1, &r1, &[&r1]), v(2, &r2, &[&r1, &r2]), v(3, &r2, &[&r2])];
    let pin = |root: &KeyPair, chain: &[Envelope]| {
        NodeTrust::pin(Digest::parse(&root.key_id()).unwrap(), chain, node(), project(), NOW)
            .map(|t| t.trust.version)
            .map_err(|r| r.code())
    };
    assert_eq!((pin(&r1, &chain), pin(&r2, &chain)), (Ok(3), Ok(3)));
    // What comes after the pinned one is checked as ever.
    assert_eq!(pin(&r2, &[chain[1].clone(), v(3, &r1, &[&r1])]), Err("bad_signature"));
}

#[test]
fn a_release_floor_keeps_old_bundles_out_also_as_a_fall_back() {
    let mut t = node_trust();
    let release = |bundle: ContentId, sequence, floor, revoked: Vec<ContentId>| Release {
        kind: RELEASE_TYPE.into(),
        project: project(),
        environment: None,
        bundle_id: bundle,
        sequence,
        floor,
        revoked,
        expires_at: NOW + DAY,
    };
    let (old, new) = (Digest::of(b"old"), Digest::of(b"new"));
    let accept = |t: &NodeTrust, r: Release, k: &KeyPair| {
        let a = assignment(b"x", Some(r.bundle_id));
        t.accept_release(&Envelope::sign(&r, &[k]).unwrap(), &a, NOW).map_err(|r| r.code())
    };
    let of_staging = Release { environment: Some("staging".into()), ..release(old, 1, 0, vec![]) };
    assert_eq!(accept(&t, of_staging, &bundle_key()), Err("malformed"), "no node knows its environment");
    t.release = Some(accept(&t, release(old, 1, 0, vec![]), &bundle_key()).unwrap());
    assert_eq!(accept(&t, release(new, 2, 2, vec![]), &metadata_key()), Err("bad_signature"));
    t.release = Some(accept(&t, release(new, 2, 2, vec![]), &bundle_key()).unwrap());
    assert_eq!(accept(&t, release(old, 1, 0, vec![]), &bundle_key()), Err("below_floor"));
    let state = t.release.clone().unwrap();
    assert_eq!(state.allows(&old).unwrap_err().code(), "below_floor");
    assert!(state.allows(&new).is_ok());
    let state = accept(&t, release(Digest::of(b"3"), 3, 2, vec![new]), &bundle_key()).unwrap();
    assert_eq!(state.allows(&new).unwrap_err(), Refusal::Revoked);
}

#[test]
fn where_statements_are_required_a_node_that_never_saw_one_needs_one_too() {
    let release = |bundle: ContentId, sequence| Release {
        kind: RELEASE_TYPE.into(),
        project: project(),
        environment: None,
        bundle_id: bundle,
        sequence,
        floor: 0,
        revoked: Vec::new(),
        expires_at: NOW + DAY,
    };
    let (old, new) = (Digest::of(b"old"), Digest::of(b"new"));
    let mut fresh = node_trust();
    let of = |bundle| assignment(b"x", bundle);
    assert_eq!(fresh.released(&of(Some(old))), Ok(()), "not asked for, none was ever seen");
    let before = Envelope::sign(&fresh.trust, &[&root()]).unwrap();
    assert!(
        !String::from_utf8(before.payload_bytes().unwrap()).unwrap().contains("releases_required"),
        "as it ever was"
    );
    let next = TrustDoc { releases_required: true, ..trust_doc(2) };
    fresh.trust = fresh.rotate(&Envelope::sign(&next, &[&root()]).unwrap()).unwrap();
    assert_eq!(fresh.released(&of(Some(old))), Err(Refusal::ReleaseMissing));
    assert_eq!(fresh.released(&of(None)), Ok(()), "what the node had at enrolment is no bundle");

    let stated = |t: &NodeTrust, r: &Release, now| {
        t.accept_release(&Envelope::sign(r, &[&bundle_key()]).unwrap(), &of(Some(r.bundle_id)), now)
            .map_err(|r| r.code())
    };
    fresh.release = Some(stated(&fresh, &release(old, 1), NOW).unwrap());
    fresh.last = Some(of(Some(old)));
    assert_eq!(fresh.released(&of(Some(old))), Ok(()), "another weight of what it runs");
    fresh.release = Some(stated(&fresh, &release(new, 2), NOW).unwrap());
    fresh.last = Some(of(Some(new)));
    // Back to the old one: its statement has expired, and leaving it out does not help.
    assert_eq!(stated(&fresh, &release(old, 1), NOW + DAY + DAY), Err("expired"));
    assert_eq!(fresh.released(&of(Some(old))), Err(Refusal::ReleaseMissing));
    fresh.trust = trust_doc(3);
    assert_eq!(fresh.released(&of(Some(old))), Ok(()), "where they are not required a statement counts for good");
}

#[test]
fn an_invalid_config_and_a_private_key_do_not_become_bundles() {
    let sources = Sources::single("nonsense");
    let verdict = validate_in_process(&sources);
    let good = Sources::single(samples::DEMO_V1);
    let ok = validate_in_process(&good);
    let source = Source::default();
    let build = |sources: &Sources, verdict: &crate::Verdict, path: &str, bytes: &[u8]| {
        let extra = BTreeMap::from([(path.to_string(), bytes.to_vec())]);
        render(BuildInputs { project: project(), created_at: NOW, source: &source, sources, verdict, extra: &extra })
            .map(|_| ())
            .map_err(|e| e.to_string())
    };
    assert!(build(&sources, &verdict, "certs/a.pem", b"").unwrap_err().contains("invalid config"));
    assert!(build(&good, &ok, "certs/a.pem", b"-----BEGIN CERTIFICATE-----").is_ok());
    assert!(build(&good, &ok, "certs/a.pem", b"-----BEGIN PRIVATE KEY-----").unwrap_err().contains("private key"));
    assert!(build(&good, &ok, "other/a", b"").is_err());
    assert!(build(&good, &ok, "certs/../../a", b"").is_err());
}
