//! From submitted files to bundles, and what becomes of them.

use super::*;
use crate::commands::rollouts::Replacement;
use crate::node_api::BundleRef;
use domain::node::Selector;
use domain::rollout::Change;

#[tokio::test(flavor = "multi_thread")]
async fn the_same_content_is_compiled_once_and_lies_in_the_store_as_the_row_says() {
    on_both(|w| async move {
        let config = w.submit(samples::DEMO_V1).await;
        let first = w.compile(config, "1.0").await.unwrap();
        let b = first.bundle;
        assert!(first.created && b.status == BundleStatus::Compiled, "{b:?}");
        let key = Key::bundle(b.project, b.content_id.unwrap());
        let (size, hash) = (b.size_bytes.unwrap(), b.artifact_hash.unwrap());
        assert_eq!(w.plane.artifacts().get_verified(&key, size, hash).await.unwrap().len() as u64, size);
        let metrics = prometheus::TextEncoder::new().encode_to_string(&w.plane.registry().gather()).unwrap();
        assert!(metrics.contains("sentinel_cp_storage_op_seconds_count{op=\"put\"} 1"), "every operation is timed");
        let again = w.compile(w.submit(samples::DEMO_V1).await, "1.0").await.unwrap();
        assert!(!again.created && again.bundle.id == b.id);
        let other = w.submit(samples::DEMO_V2).await;
        assert_eq!(code(w.compile(other, "1.0").await), "version_taken");
        let second = w.compile(other, "2.0").await.unwrap();
        assert_ne!(second.bundle.content_id, b.content_id);
        // Strict and lax are two jobs, but one content.
        w.settings(json!({"strict_config": true})).await;
        let strict = w.compile(config, "1.0-strict").await.unwrap();
        assert!(!strict.created && strict.bundle.id == b.id, "{strict:?}");
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_config_fails_with_its_place_and_never_becomes_a_bundle() {
    on_both(|w| async move {
        let config = w.submit("listeners {\n    listener \"http\" {\n").await;
        let Err(CommandError::Invalid(errors)) = w.compile(config, "1").await else { panic!("it is not valid") };
        assert!(errors.iter().all(|(field, _)| field == "config"));
        assert!(errors.iter().any(|(_, text)| text.starts_with("config.kdl:")), "{errors:?}");
        let rows = w.plane.store().bundles(SYSTEM, Default::default(), Page::first(5)).await.unwrap().rows;
        assert_eq!((rows.len(), rows[0].status), (1, BundleStatus::Failed));
        assert!(!rows[0].errors.is_empty() && rows[0].content_id.is_none());
        let answer = w.plane.compile(&w.caller, w.project.id, None, None, Duration::ZERO).await.unwrap();
        assert_eq!(answer.bundle.status, BundleStatus::Compiling, "nobody waited");
        let private = "-----BEGIN PRIVATE KEY-----\n";
        let files = BTreeMap::from([("config.kdl".to_string(), private.to_string())]);
        let refused = w.plane.submit_config(&w.caller, w.project.id, files, Source::default()).await;
        assert!(matches!(refused, Err(CommandError::Invalid(_))), "a key is not even stored");
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revoked_content_is_not_compiled_again() {
    on_both(|w| async move {
        let config = w.submit(samples::DEMO_V1).await;
        let id = w.compile(config, "1").await.unwrap().bundle.id;
        assert_eq!(
            w.audited("bundle.deprecated", w.plane.deprecate_bundle(&w.caller, w.project.id, id)).await,
            Done::Changed
        );
        let revoke = || w.plane.revoke_bundle(&w.caller, w.project.id, id, Some("bad".into()));
        assert_eq!(w.audited("bundle.revoked", revoke()).await, (Done::Changed, 0));
        assert_eq!(revoke().await, Ok((Done::Already, 0)));
        assert_eq!(code(w.compile(config, "1").await), "bundle_revoked");
        assert_eq!(code(w.compile(w.submit(samples::DEMO_V1).await, "2").await), "bundle_revoked");
        // Other input, the same content: found out by the job.
        w.settings(json!({"strict_config": true})).await;
        assert_eq!(code(w.compile(config, "3").await), "bundle_revoked");
        assert!(w.plane.deprecate_bundle(&w.caller, w.project.id, id).await.is_err());
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_to_a_revoked_bundle_holds_its_node_no_longer_and_is_listed() {
    on_both(|w| async move {
        let (held, new) = (w.bundle("1").await, w.bundle("2").await);
        let (pinned, other) = (w.node("a").await.node, w.node("b").await.node);
        let pin = store::NodePatch { labels: None, pinned_bundle: Some(Some(held)) };
        w.plane.store().patch_node(SYSTEM, pinned, pin, Write::at(START)).await.unwrap();
        let spec = domain::rollout::Spec::new(new);
        let targets = async || w.plane.plan_rollout(w.project.id, &spec).await.unwrap().steps.concat();
        assert_eq!(targets().await, [other]);
        let same = domain::rollout::Spec::new(held);
        let of_same = w.plane.plan_rollout(w.project.id, &same).await.unwrap().steps.concat();
        assert_eq!(of_same, [other], "a rollback of its own bundle would take it off its pin");
        let to_pins = domain::rollout::Spec { kind: domain::rollout::RolloutKind::Pin, ..same };
        let of_pins = w.plane.plan_rollout(w.project.id, &to_pins).await.unwrap().steps.concat();
        assert_eq!(of_pins, [pinned, other]);
        w.audited("bundle.revoked", w.plane.revoke_bundle(&w.caller, w.project.id, held, None)).await;
        assert_eq!(targets().await, [pinned, other], "held by nothing any more");
        assert_eq!(w.plane.store().pinned_to(held).await.unwrap(), [pinned], "but still to be seen");
        let filter = AuditFilter { action: Some("bundle.revoked".into()), ..AuditFilter::default() };
        let entries = w.plane.store().audit_entries(SYSTEM, filter, Page::first(5)).await.unwrap().rows;
        assert_eq!(entries[0].changes["suspended_pins"], json!([pinned]));
        let again = NodePatch { labels: None, pinned_bundle: Some(Some(held)) };
        let refused = w.plane.patch_node(&w.caller, w.project.id, other, again).await;
        assert_eq!(code(refused), "bundle_revoked", "nobody is pinned to it anew");
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_one_replacement_is_refused_the_others_are_made_and_it_is_said() {
    on_both(|w| async move {
        let (old, bad) = (w.bundle("old").await, w.bundle("taken-back").await);
        let (other, revoked) = (w.bundle("other").await, w.bundle("revoked").await);
        let nodes = [w.node("a").await.node, w.node("b").await.node, w.node("c").await.node];
        let before = |i: usize, bundle| Change::HistoryVerified { node: nodes[i], bundle: Some(bundle), generation: 1 };
        w.taken_back(old, vec![]).await;
        w.taken_back(bad, vec![before(0, old), before(1, other)]).await;
        w.plane.deprecate_bundle(&w.caller, w.project.id, other).await.unwrap();
        for n in nodes {
            let mut runs = store::NodeChange::of(n, w.project.id);
            runs.active_bundle = Some(Some(revoked));
            w.plane.store().observe(vec![runs], Write::at(START)).await.unwrap();
        }
        let check = |b| w.plane.check_replacement(w.project.id, b);
        assert_eq!(code(check(bad).await), "bundle_rolled_back");
        assert_eq!(code(check(other).await), "bundle_deprecated");
        w.plane.revoke_bundle(&w.caller, w.project.id, revoked, None).await.unwrap();
        let previous = Replacement::Previous;
        let done = w.plane.replace_bundle(&w.caller, w.project.id, revoked, previous).await.unwrap();
        let given: Vec<_> = done.rollouts.iter().map(|r| (r.spec.bundle, r.spec.selector.clone())).collect();
        assert_eq!(given, [(other, Selector::NodeIds { node_ids: [nodes[1]].into() })], "its own, though deprecated");
        let left: Vec<_> = done.left.iter().map(|l| (l.bundle, l.nodes.clone())).collect();
        assert_eq!(left, [(None, [nodes[2]].into()), (Some(old), [nodes[0]].into())]);
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_is_known_in_its_project_only_and_no_longer_than_its_row() {
    on_both(|w| async move {
        let bundle = w.bundle("1").await;
        let new = NewProject { name: "Other".into(), ..NewProject::default() };
        let other = w.plane.create_project(&w.caller, new).await.unwrap();
        let content = w.plane.store().bundle_by_id(SYSTEM, bundle).await.unwrap().content_id.unwrap();
        let named = async |project, named| w.plane.bundle_named(project, named).await.unwrap();
        let here = Some((bundle, Some(content)));
        for by in [BundleRef::Content(content), BundleRef::Row(bundle)] {
            assert_eq!(named(w.project.id, by).await, here);
            assert_eq!(named(w.project.id, by).await, here, "also from memory");
            assert_eq!(named(other.id, by).await, None, "another project's, however well it is known");
        }
        w.plane.store().collect_bundle(bundle, Write::at(w.plane.now())).await.unwrap();
        w.plane.forget_bundle(w.project.id, bundle);
        assert_eq!(named(w.project.id, BundleRef::Content(content)).await, None);
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_survives_the_end_of_its_process() {
    for_each_backend(|opened| async {
        let store = opened.store.clone();
        let w = World::new(opened).await;
        let config = w.submit(samples::DEMO_V1).await;
        let config = store.desired_config(w.project.id, config).await.unwrap();
        // A row whose process ended before its job began.
        let row = crate::compile_job::queued_row(
            w.plane.fresh().id(START),
            &config,
            Some("1".into()),
            BTreeMap::new(),
            START,
        );
        let id = row.id;
        let hash = crate::compile_job::input_hash(config.input_hash, &Settings::default(), &BTreeMap::new());
        assert!(store.enqueue_compile(row, hash, Write::at(START)).await.unwrap().created);
        let w = w.restarted(validator()).await;
        let done = w.plane.inner.compiles.wait_for(&store, id, WAIT).await.unwrap();
        assert_eq!(done.status, BundleStatus::Compiled);
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_a_crash_left_behind_goes_with_the_next_sweep_and_its_content_can_be_made_again() {
    on_both(|w| async move {
        let store = w.plane.store();
        let old = store.bundle_by_id(SYSTEM, w.bundle("1").await).await.unwrap();
        let key = Key::bundle(old.project, old.content_id.unwrap());
        // The process ends between the two: the row is gone, the archive is there.
        store.collect_bundle(old.id, Write::at(w.plane.now())).await.unwrap();
        assert!(w.plane.artifacts().head(&key).await.unwrap().is_some());
        // Meanwhile the same is asked for again, a second later: other bytes under the same name.
        w.hand.advance(Span::secs(1));
        let config = w.submit(&format!("{}\n// 1\n", samples::DEMO_V1)).await;
        let again =
            w.plane.compile(&w.caller, w.project.id, Some(config), Some("1".into()), Duration::ZERO).await.unwrap();
        assert_ne!(again.bundle.id, old.id);
        w.plane.sweep_retention().await.unwrap();
        assert_eq!(store.collected(10).await.unwrap(), vec![]);
        let new = w
            .eventually("it is compiled", async || {
                w.hand.advance(Span::secs(1));
                let row = store.bundle_by_id(SYSTEM, again.bundle.id).await.unwrap();
                (row.status == BundleStatus::Compiled).then_some(row)
            })
            .await;
        assert_eq!(new.content_id, old.content_id);
        let (size, hash) = (new.size_bytes.unwrap(), new.artifact_hash.unwrap());
        w.plane.artifacts().get_verified(&key, size, hash).await.unwrap();
        w.end().await;
    })
    .await;
}
