use domain::bundle::{Bundle, BundleStatus, DesiredConfig, Diagnostic};
use domain::rollout::Phase;
use domain::{Digest, Scope, Timestamp};
use store::testing::{self, seed};
use store::{BundleFilter, BundleRef, ContentClaim, Error, Page};

const SYSTEM: Scope = Scope::System("test");
/// Whatever its age.
const EVER: Timestamp = Timestamp(i64::MAX);

#[tokio::test]
async fn the_same_input_is_compiled_once() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 0).await;
        let input = Digest::of(b"input");
        let made = futures_util::future::join_all((0..8).map(|_| {
            let (s, p) = (s.store.clone(), w.project.id);
            async move { s.enqueue_compile(seed::bundle(p, None), input, seed::write()).await.unwrap() }
        }))
        .await;
        assert_eq!(made.iter().filter(|e| e.created).count(), 1);
        let id = made.iter().find(|e| e.created).unwrap().bundle.id;
        assert!(made.iter().all(|e| e.bundle.id == id));
        assert_eq!(s.compile_queue(10).await.unwrap().iter().map(|b| b.id).collect::<Vec<_>>(), vec![id]);
        // A name comes later: the row had none.
        let named = s.enqueue_compile(seed::bundle(w.project.id, Some("1.0")), input, seed::write()).await.unwrap();
        assert_eq!((named.created, named.bundle.version.as_deref()), (false, Some("1.0")));
        s.set_failed(id, vec![], seed::write()).await.unwrap();
        assert!(
            s.enqueue_compile(seed::bundle(w.project.id, Some("1.0")), input, seed::write()).await.unwrap().created
        );
    })
    .await;
}

/// Rivals that agree on everything must not meet at the index of versions before they meet at that of inputs.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_input_under_one_name_at_once_is_compiled_once() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 0).await;
        for round in 0..20 {
            let (version, input) = (format!("{round}.0"), Digest::of(&[round]));
            let rivals: Vec<_> = (0..8)
                .map(|_| {
                    let (s, bundle) = (s.store.clone(), seed::bundle(w.project.id, Some(&version)));
                    tokio::spawn(async move { s.enqueue_compile(bundle, input, seed::write()).await })
                })
                .collect();
            let made: Vec<_> =
                futures_util::future::join_all(rivals).await.into_iter().map(|e| e.unwrap().unwrap()).collect();
            assert_eq!(made.iter().filter(|e| e.created).count(), 1);
            assert!(made.iter().all(|e| e.bundle.id == made[0].bundle.id));
        }
    })
    .await;
}

#[tokio::test]
async fn a_version_names_one_input() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 0).await;
        seed::compiled_bundle(&s, w.project.id, Some("1.0")).await;
        let other =
            s.enqueue_compile(seed::bundle(w.project.id, Some("1.0")), Digest::of(b"other"), seed::write()).await;
        assert_eq!(other, Err(Error::Conflict("version")));
        let elsewhere = seed::world(&s, 0).await;
        seed::compiled_bundle(&s, elsewhere.project.id, Some("1.0")).await;
    })
    .await;
}

#[tokio::test]
async fn a_racing_loser_becomes_an_alias_of_the_winner() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 0).await;
        let (a, b) = (seed::bundle(w.project.id, None), seed::bundle(w.project.id, Some("2.0")));
        let content = Digest::of(b"content");
        for (bundle, input) in [(&a, b"a"), (&b, b"b")] {
            s.enqueue_compile(bundle.clone(), Digest::of(input), seed::write()).await.unwrap();
        }
        let claims = futures_util::future::join_all([a.id, b.id].map(|id| {
            let s = s.store.clone();
            async move { s.claim_content(id, content, seed::write()).await.unwrap() }
        }))
        .await;
        let mine = claims.iter().filter(|c| matches!(c, ContentClaim::Mine(_))).count();
        assert_eq!(mine, 1);
        let winner = match &claims[0] {
            ContentClaim::Mine(x) | ContentClaim::Existing(x) => x.id,
        };
        let mut done = seed::compiled(winner);
        done.content_id = content;
        assert!(s.set_compiled(done.clone(), seed::write()).await.unwrap().changed);
        assert!(!s.set_compiled(done, seed::write()).await.unwrap().changed);
        for name in
            [BundleRef::Row(a.id), BundleRef::Row(b.id), BundleRef::Content(content), BundleRef::Version("2.0".into())]
        {
            let found = s.bundle(SYSTEM, w.project.id, name).await.unwrap();
            assert_eq!((found.id, found.status), (winner, BundleStatus::Compiled));
            assert_eq!(found.config, Some(serde_json::json!({"routes": []})));
        }
        let list = s
            .bundles(
                Scope::Project(w.project.id),
                BundleFilter { status: Some(BundleStatus::Compiled) },
                Page::first(10),
            )
            .await;
        let list = list.unwrap();
        assert_eq!(list.total, 2);
        assert!(list.rows.iter().all(|b| b.config.is_none()));
        assert_eq!(s.compile_queue(10).await.unwrap(), vec![]);
    })
    .await;
}

#[tokio::test]
async fn a_revoked_bundle_stays_revoked_and_its_input_answers_it() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 0).await;
        let revoked = s.revoke_bundle(SYSTEM, w.bundle.id, Some("leak".into()), seed::write()).await.unwrap();
        assert!(revoked.changed);
        assert_eq!((revoked.row.status, revoked.row.revoked_reason.as_deref()), (BundleStatus::Revoked, Some("leak")));
        assert!(!s.revoke_bundle(SYSTEM, w.bundle.id, None, seed::write()).await.unwrap().changed);
        let input = Digest::of(w.bundle.id.0.as_bytes());
        let again = s.enqueue_compile(seed::bundle(w.project.id, None), input, seed::write()).await.unwrap();
        assert_eq!((again.created, again.bundle.status), (false, BundleStatus::Revoked));
        assert_eq!(s.deprecate_bundle(SYSTEM, w.bundle.id, seed::write()).await, Err(Error::Conflict("state")));
        let other = seed::compiled_bundle(&s, w.project.id, None).await;
        assert!(s.deprecate_bundle(SYSTEM, other.id, seed::write()).await.unwrap().changed);
        assert!(!s.deprecate_bundle(SYSTEM, other.id, seed::write()).await.unwrap().changed);
    })
    .await;
}

#[tokio::test]
async fn an_offline_signature_is_added_once() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 0).await;
        let b = seed::bundle(w.project.id, None);
        s.enqueue_compile(b.clone(), Digest::of(b"in"), seed::write()).await.unwrap();
        let mut done = seed::compiled(b.id);
        (done.status, done.signature, done.artifact_hash) = (BundleStatus::AwaitingSignature, None, None);
        s.set_compiled(done, seed::write()).await.unwrap();
        let signed =
            store::Signed { signature: "s".into(), key_id: "k".into(), artifact_hash: Digest::of(b"a"), size_bytes: 9 };
        let row = s.set_signature(SYSTEM, b.id, signed.clone(), seed::write()).await.unwrap();
        assert_eq!((row.status, row.size_bytes, row.key_id.as_deref()), (BundleStatus::Compiled, Some(9), Some("k")));
        assert_eq!(s.set_signature(SYSTEM, b.id, signed.clone(), seed::write()).await, Err(Error::Conflict("state")));
        // Signed anew by another key, until a rollout is at it.
        let anew = store::Signed { key_id: "k2".into(), artifact_hash: Digest::of(b"a2"), ..signed };
        let row = s.replace_signature(SYSTEM, b.id, anew.clone(), seed::write()).await.unwrap();
        assert_eq!((row.key_id.as_deref(), row.artifact_hash), (Some("k2"), Some(Digest::of(b"a2"))));
        let planned = seed::planned(w.project.id, b.id, &[]);
        let new = store::NewRollout { planned, ..seed::new_rollout(&w) };
        s.insert_rollout(new, seed::write()).await.unwrap();
        let refused = s.replace_signature(SYSTEM, b.id, anew, seed::write()).await;
        assert_eq!(refused, Err(Error::Conflict("state")));
    })
    .await;
}

#[tokio::test]
async fn plans_and_people_around_rollouts_come_back_as_stored() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 1).await;
        let mut g = store::NodeGroup {
            id: seed::id(),
            project: w.project.id,
            name: "g".into(),
            selector: Some(domain::node::Selector::All),
            node_ids: vec![w.nodes[0].id],
            inserted_at: seed::now(),
            updated_at: seed::now(),
        };
        s.insert_group(g.clone(), seed::write()).await.unwrap();
        let twin = store::NodeGroup { id: seed::id(), ..g.clone() };
        assert_eq!(s.insert_group(twin, seed::write()).await, Err(Error::Conflict("name")));
        g.selector = None;
        s.update_group(g.clone(), seed::write()).await.unwrap();
        assert_eq!(s.groups(w.project.id).await.unwrap(), vec![g.clone()]);
        s.delete_group(w.project.id, g.id, seed::write()).await.unwrap();
        assert_eq!(s.group(w.project.id, g.id).await, Err(Error::NotFound));
        let mut f = store::Freeze {
            id: seed::id(),
            org: w.org.id,
            project: Some(w.project.id),
            environment: None,
            name: "f".into(),
            reason: "r".into(),
            starts_at: Timestamp(10),
            ends_at: Some(Timestamp(20)),
            created_by: None,
            inserted_at: seed::now(),
        };
        s.insert_freeze(f.clone(), seed::write()).await.unwrap();
        let whole =
            store::Freeze { id: seed::id(), project: None, starts_at: Timestamp(5), ends_at: None, ..f.clone() };
        s.insert_freeze(whole.clone(), seed::write()).await.unwrap();
        assert_eq!(s.freezes(w.project.id).await.unwrap(), vec![f.clone(), whole.clone()]);
        assert_eq!(s.freezes_around(Timestamp(20)).await.unwrap(), vec![whole]);
        f.ends_at = Some(Timestamp(30));
        s.update_freeze(f.clone(), seed::write()).await.unwrap();
        assert_eq!(s.freezes_around(Timestamp(20)).await.unwrap().len(), 2);
        s.delete_freeze(w.project.id, f.id, seed::write()).await.unwrap();
        for kind in [store::Documents::Environments, store::Documents::Templates] {
            let mut d = store::Document {
                id: seed::id(),
                project: w.project.id,
                name: "d".into(),
                ordinal: 1,
                body: serde_json::json!({"x": [1, 2.5]}),
                inserted_at: seed::now(),
                updated_at: seed::now(),
            };
            s.insert_document(kind, d.clone(), seed::write()).await.unwrap();
            d.ordinal = 2;
            s.update_document(kind, d.clone(), seed::write()).await.unwrap();
            assert_eq!(s.documents(kind, w.project.id).await.unwrap(), vec![d.clone()]);
            s.delete_document(kind, w.project.id, d.id, seed::write()).await.unwrap();
            assert_eq!(s.document(kind, w.project.id, d.id).await, Err(Error::NotFound));
        }
        let a = store::Approval {
            rollout: seed::id(),
            user: seed::id(),
            decision: "approved".into(),
            comment: None,
            spec_hash: Digest::of(b"s"),
            at: seed::now(),
        };
        assert!(s.put_approval(a.clone(), seed::write()).await.unwrap());
        assert!(!s.put_approval(a.clone(), seed::write()).await.unwrap());
        assert_eq!(s.approvals(a.rollout).await.unwrap(), vec![a.clone()]);
        let lapsed = store::Approval { at: a.at + domain::approval::APPROVAL_LASTS, ..a };
        assert!(s.put_approval(lapsed.clone(), seed::write()).await.unwrap(), "given again once it lapsed");
        assert_eq!(s.approvals(lapsed.rollout).await.unwrap(), vec![lapsed]);
        let mut r = seed::new_rollout(&w);
        r.options = serde_json::json!({"a": 1});
        let id = r.planned.id;
        s.insert_rollout(r, seed::write()).await.unwrap();
        let options = serde_json::json!({"overridden_freezes": []});
        s.set_rollout_options(id, options.clone(), seed::write()).await.unwrap();
        assert_eq!(s.rollout(domain::Scope::System("test"), id).await.unwrap().options, options);
        let nobody = s.set_rollout_options(seed::id(), options, seed::write()).await;
        assert_eq!(nobody, Err(Error::NotFound));
    })
    .await;
}

#[tokio::test]
async fn keys_trust_and_the_outbox_come_back_as_stored() {
    testing::for_each_backend(|s| async move {
        let mut k = store::SigningKey {
            id: seed::id(),
            org: None,
            role: "jwt".into(),
            key_id: "ab".into(),
            public: vec![1; 32],
            private: Some(vec![0, 255]),
            status: "active".into(),
            exported_at: None,
            inserted_at: seed::now(),
        };
        s.insert_signing_key(k.clone(), seed::write()).await.unwrap();
        s.set_signing_key_status(k.id, "retired", seed::write()).await.unwrap();
        k.status = "retired".into();
        assert_eq!(s.signing_keys(None, Some("jwt")).await.unwrap(), vec![k]);
        assert_eq!(s.signing_keys(Some(seed::id()), None).await.unwrap(), vec![]);
        let body = serde_json::json!({"v": 1});
        s.insert_trust(None, 1, body.clone(), seed::write()).await.unwrap();
        assert_eq!(s.insert_trust(None, 1, body.clone(), seed::write()).await, Err(Error::Conflict("version")));
        assert_eq!(s.newest_trust(None).await.unwrap(), Some((1, body.clone())));
        assert_eq!(s.trust(None, 1).await.unwrap(), body);
        let item = store::OutboxItem { id: seed::id(), channel: "c".into(), payload: body, project: None };
        s.append_audit(seed::write().outbox(item.clone())).await.unwrap();
        let due = s.outbox_due(seed::now(), 5).await.unwrap();
        assert_eq!((due.len(), &due[0].item, due[0].attempts), (1, &item, 0));
        s.outbox_later(item.id, Timestamp(seed::now().0 + 5), "refused".into()).await.unwrap();
        assert_eq!(s.outbox_due(seed::now(), 5).await.unwrap(), vec![]);
        assert_eq!(s.outbox_due(Timestamp(seed::now().0 + 5), 5).await.unwrap()[0].attempts, 1);
        s.outbox_done(item.id).await.unwrap();
        assert_eq!(s.outbox_due(Timestamp(i64::MAX), 5).await.unwrap(), vec![]);
    })
    .await;
}

#[tokio::test]
async fn what_was_submitted_and_why_it_failed_come_back() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 0).await;
        let config = DesiredConfig {
            id: seed::id(),
            project: w.project.id,
            source: Default::default(),
            files: [("config.kdl".to_string(), "listener \"ä\" {}\n".to_string())].into(),
            input_hash: Digest::of(b"x"),
            inserted_at: Timestamp(5),
        };
        s.insert_desired_config(config.clone(), seed::write()).await.unwrap();
        assert_eq!(s.desired_config(w.project.id, config.id).await.unwrap(), config);
        assert_eq!(s.newest_desired_config(w.project.id).await.unwrap(), config);
        assert_eq!(s.desired_config(seed::id(), config.id).await, Err(Error::NotFound));
        let b = seed::bundle(w.project.id, Some("9"));
        s.enqueue_compile(b.clone(), config.input_hash, seed::write()).await.unwrap();
        let errors =
            vec![Diagnostic { text: "no".into(), file: Some("config.kdl".into()), line: Some(3), column: None }];
        s.set_failed(b.id, errors.clone(), seed::write()).await.unwrap();
        assert_eq!(s.set_failed(b.id, vec![], seed::write()).await, Err(Error::Conflict("state")));
        let found = s.bundle(SYSTEM, w.project.id, BundleRef::parse("9")).await.unwrap();
        assert_eq!((found.status, found.errors), (BundleStatus::Failed, errors));
    })
    .await;
}

#[tokio::test]
async fn retention_takes_only_what_nobody_needs() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 1).await;
        let mut all = vec![w.bundle.id];
        for _ in 0..4 {
            all.push(seed::compiled_bundle(&s, w.project.id, None).await.id);
        }
        let mut change = store::NodeChange::of(w.nodes[0].id, w.project.id);
        change.active_bundle = Some(Some(all[0]));
        s.observe(vec![change], seed::write()).await.unwrap();
        let ids = |free: Vec<Bundle>| free.iter().map(|b| b.id).collect::<Vec<_>>();
        let free = ids(s.collectable_bundles(w.project.id, 2, EVER).await.unwrap());
        assert_eq!(free, vec![all[1], all[2]]);
        assert_eq!(
            s.collectable_bundles(w.project.id, 2, Timestamp(seed::now().0 - 1)).await.unwrap(),
            vec![],
            "young"
        );
        // A node of a rollout that lives may go back to the third.
        let mut planned = seed::planned(w.project.id, all[4], &[w.nodes[0].id]);
        planned.members[0].previous = vec![all[2]];
        s.insert_rollout(store::NewRollout { planned, ..seed::new_rollout(&w) }, seed::write()).await.unwrap();
        let free = ids(s.collectable_bundles(w.project.id, 2, EVER).await.unwrap());
        assert_eq!(free, vec![all[1]]);
        for needed in [all[0], all[2], all[4]] {
            assert_eq!(s.collect_bundle(needed, seed::write()).await, Err(Error::Conflict("state")));
        }
        // Collected: the row is gone, and nobody claims the content before its archive is.
        let gone = seed::compiled_bundle(&s, w.project.id, None).await;
        let content = gone.content_id.unwrap();
        s.collect_bundle(gone.id, seed::write()).await.unwrap();
        assert_eq!(s.bundle_by_id(SYSTEM, gone.id).await, Err(Error::NotFound));
        assert_eq!(s.collected(10).await.unwrap(), vec![(w.project.id, content)]);
        let again = seed::bundle(w.project.id, None);
        s.enqueue_compile(again.clone(), Digest::of(b"again"), seed::write()).await.unwrap();
        assert!(matches!(s.claim_content(again.id, content, seed::write()).await, Err(Error::Unavailable(_))));
        // One removes it; who was slower than the lease ends nothing.
        let at = |n: i64| Timestamp(seed::now().0 + n);
        let lease = async |now, before| s.lease_collected(w.project.id, content, at(now), at(before)).await.unwrap();
        assert!(lease(100, 0).await);
        assert!(!lease(105, 5).await, "somebody is at it");
        assert!(lease(300, 200).await, "whoever was at it has died");
        s.collected_done(w.project.id, content, at(100)).await.unwrap();
        assert!(matches!(s.claim_content(again.id, content, seed::write()).await, Err(Error::Unavailable(_))));
        s.collected_done(w.project.id, content, at(300)).await.unwrap();
        assert_eq!(s.collected(10).await.unwrap(), vec![]);
        assert!(!lease(900, 800).await, "done by another");
        assert!(matches!(s.claim_content(again.id, content, seed::write()).await, Ok(ContentClaim::Mine(_))));
        assert_eq!(s.delete_bundle(all[0], seed::write()).await, Err(Error::Conflict("state")));
        s.delete_bundle(all[1], seed::write()).await.unwrap();
        assert_eq!(s.bundle_by_id(SYSTEM, all[1]).await, Err(Error::NotFound));
        assert_eq!(s.running_on(all[0]).await.unwrap(), 1);
        assert_eq!(s.bundle_use(all[0]).await.unwrap().running_on, 1);
        assert_eq!(s.bundle_facts(vec![all[0], all[1]]).await.unwrap().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_revocation_outlives_the_archive_and_what_the_engine_took_back_stays() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 0).await;
        let content = w.bundle.content_id.unwrap();
        s.revoke_bundle(SYSTEM, w.bundle.id, Some("leak".into()), seed::write()).await.unwrap();
        let ids = |free: Vec<Bundle>| free.iter().map(|b| b.id).collect::<Vec<_>>();
        let free = async || ids(s.collectable_bundles(w.project.id, 0, EVER).await.unwrap());
        assert_eq!(free().await, vec![w.bundle.id]);
        s.collect_bundle(w.bundle.id, seed::write()).await.unwrap();
        assert_eq!(s.collected(10).await.unwrap(), vec![(w.project.id, content)], "its archive goes");
        let row = s.bundle_by_id(SYSTEM, w.bundle.id).await.unwrap();
        assert_eq!((row.status, row.artifact_hash, row.manifest), (BundleStatus::Revoked, None, None));
        assert_eq!(free().await, vec![], "once");
        // From other input, also while the archive is being removed: the same content is still the revoked one.
        for removed in [false, true] {
            let again = seed::bundle(w.project.id, None);
            s.enqueue_compile(again.clone(), Digest::of(&[removed as u8]), seed::write()).await.unwrap();
            match s.claim_content(again.id, content, seed::write()).await.unwrap() {
                ContentClaim::Existing(old) => assert_eq!((old.id, old.status), (w.bundle.id, BundleStatus::Revoked)),
                ContentClaim::Mine(_) => panic!("revoked content was compiled again"),
            }
            assert!(s.lease_collected(w.project.id, content, seed::now(), Timestamp::ZERO).await.unwrap() != removed);
            s.collected_done(w.project.id, content, seed::now()).await.unwrap();
        }
        let (bad, done) =
            (seed::compiled_bundle(&s, w.project.id, None).await, seed::compiled_bundle(&s, w.project.id, None).await);
        let other = seed::compiled_bundle(&s, w.project.id, None).await;
        for (bundle, phase) in [(&bad, Phase::RolledBack), (&done, Phase::Completed)] {
            let mut planned = seed::planned(w.project.id, bundle.id, &[]);
            planned.head = seed::head(phase);
            (planned.head.auto_rollback, planned.head.ended_at) = (phase == Phase::RolledBack, Some(seed::now()));
            s.insert_rollout(store::NewRollout { planned, ..seed::new_rollout(&w) }, seed::write()).await.unwrap();
        }
        // A newcomer would be given what was completed last, though nobody runs it now.
        assert_eq!(free().await, vec![other.id]);
        assert_eq!(s.collect_bundle(done.id, seed::write()).await, Err(Error::Conflict("state")));
        assert_eq!(s.collect_bundle(bad.id, seed::write()).await, Err(Error::Conflict("state")));
    })
    .await;
}

#[tokio::test]
async fn a_claim_at_once_with_the_removal_finds_the_row_or_the_note() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 0).await;
        for round in 0..40u8 {
            let old = seed::compiled_bundle(&s, w.project.id, None).await;
            let content = old.content_id.unwrap();
            let new = seed::bundle(w.project.id, None);
            s.enqueue_compile(new.clone(), Digest::of(&[round]), seed::write()).await.unwrap();
            let claim = s.claim_content(new.id, content, seed::write());
            let (claim, collected) = tokio::join!(claim, s.collect_bundle(old.id, seed::write()));
            collected.unwrap();
            match claim {
                // It came first: what it stands for went with what it stood for.
                Ok(ContentClaim::Existing(found)) => {
                    assert_eq!(found.id, old.id);
                    assert_eq!(s.bundle_by_id(SYSTEM, new.id).await, Err(Error::NotFound), "round {round}");
                }
                Err(Error::Unavailable(_)) => {}
                other => panic!("round {round}: claimed while its archive is removed: {other:?}"),
            }
        }
    })
    .await;
}

#[tokio::test]
async fn what_begins_to_need_a_bundle_while_retention_removes_it_is_never_left_without() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 1).await;
        let mut removed = 0;
        for round in 0..40 {
            let bundle = seed::compiled_bundle(&s, w.project.id, None).await.id;
            let planned = seed::planned(w.project.id, bundle, &[]);
            let new = store::NewRollout { planned, ..seed::new_rollout(&w) };
            let rollout = new.planned.id;
            let pin = store::NodePatch { pinned_bundle: Some(Some(bundle)), ..Default::default() };
            // A rollout and a pin in turns: each of them at once with the removal.
            let needs = async {
                match round % 2 {
                    0 => s.insert_rollout(new, seed::write()).await,
                    _ => s.patch_node(SYSTEM, w.nodes[0].id, pin, seed::write()).await.map(drop),
                }
            };
            let (needs, collected) = tokio::join!(needs, s.collect_bundle(bundle, seed::write()));
            let there = s.bundle_by_id(SYSTEM, bundle).await.is_ok();
            match (needs, collected) {
                (Ok(()), Err(Error::Conflict("state"))) => assert!(there, "round {round}"),
                (Err(Error::Conflict("bundle")), Ok(())) => {
                    removed += 1;
                    assert!(!there, "round {round}");
                    assert_eq!(s.rollout(SYSTEM, rollout).await.err(), Some(Error::NotFound));
                }
                other => panic!("round {round}: {other:?}, the bundle is there: {there}"),
            }
        }
        // And one after the other.
        let gone = seed::compiled_bundle(&s, w.project.id, None).await.id;
        s.collect_bundle(gone, seed::write()).await.unwrap();
        let planned = seed::planned(w.project.id, gone, &[]);
        let late = s.insert_rollout(store::NewRollout { planned, ..seed::new_rollout(&w) }, seed::write()).await;
        assert_eq!(late, Err(Error::Conflict("bundle")));
        println!("removed before it was needed: {removed} of 40");
    })
    .await;
}
