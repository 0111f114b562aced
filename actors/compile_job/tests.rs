//! What jobs do when something around them fails.
#![allow(clippy::unwrap_used)]

mod queue;

use super::*;
use crate::commands::tests::{WAIT, World, on_both};
use ::bundle::samples;
use artifacts::Key;
use domain::audit::Entry;
use store::{AuditFilter, Page, Write};

#[test]
fn a_job_is_the_same_when_files_validator_and_strictness_are() {
    let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
    let (lax, none) = (Settings::default(), BTreeMap::new());
    let first = input_hash(a, &lax, &none);
    assert_eq!(first, input_hash(a, &lax, &none));
    assert_ne!(first, input_hash(b, &lax, &none));
    assert_ne!(first, input_hash(a, &Settings { strict_config: true, ..lax.clone() }, &none));
    let rules = domain::rules::Rules { forbidden: vec!["/waf".into()], ..Default::default() };
    assert_ne!(first, input_hash(a, &Settings { rules, ..lax.clone() }, &none));
    assert_ne!(first, input_hash(a, &lax, &BTreeMap::from([("certs/a.pem".to_string(), b)])));
}

#[test]
fn a_diagnostic_begins_with_its_place_as_far_as_it_is_known() {
    let mut d = Diagnostic { text: "no".into(), file: Some("config.kdl".into()), line: Some(3), column: Some(7) };
    assert_eq!(diagnostic_text(&d), "config.kdl:3:7: no");
    d.column = None;
    assert_eq!(diagnostic_text(&d), "config.kdl:3: no");
    d.file = None;
    assert_eq!(diagnostic_text(&d), "no");
}

/// A queued row without a job: it lies in the queue.
async fn queued(w: &World) -> BundleId {
    let store = w.plane.store();
    let config = w.submit(samples::DEMO_V1).await;
    let config = store.desired_config(w.project.id, config).await.unwrap();
    let row =
        queued_row(w.plane.inner.fresh.id(w.plane.now()), &config, Some("1".into()), BTreeMap::new(), w.plane.now());
    let hash = input_hash(config.input_hash, &Settings::default(), &BTreeMap::new());
    store.enqueue_compile(row, hash, Write::at(w.plane.now())).await.unwrap().bundle.id
}

async fn failures(w: &World) -> Vec<Entry> {
    let filter = AuditFilter { action: Some("bundle.failed".into()), ..AuditFilter::default() };
    w.plane.store().audit_entries(Scope::System("test"), filter, Page::first(10)).await.unwrap().rows
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_given_up_leaves_a_failed_bundle_that_says_why() {
    on_both(|w| async move {
        let id = queued(&w).await;
        let works = &w.plane.inner.compiles.works;
        let why = GivenUp { failures: 6, last: "no such program".into(), until: w.plane.now() };
        works.given_up(id, why.clone()).await;
        works.given_up(id, why).await;
        let row = w.plane.store().bundle_by_id(SYSTEM, id).await.unwrap();
        assert_eq!(row.status, BundleStatus::Failed);
        assert!(row.errors[0].text.contains("no such program"), "{:?}", row.errors);
        assert_eq!(failures(&w).await.len(), 1, "once");
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_waits_for_the_artifact_store_and_is_never_lost() {
    on_both(|w| async move {
        // A file where the directory of bundles should be: nothing can be put.
        let in_the_way = w.dir().join("bundles");
        std::fs::write(&in_the_way, b"").unwrap();
        let config = w.submit(samples::DEMO_V1).await;
        let asked = w.plane.compile(&w.caller, w.project.id, Some(config), None, Duration::ZERO).await.unwrap();
        let works = &w.plane.inner.compiles.works;
        let tried = async {
            while works.seconds.get_sample_count() == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(WAIT, tried).await.unwrap();
        let id = asked.bundle.id;
        let row = w.plane.store().bundle_by_id(SYSTEM, id).await.unwrap();
        assert_eq!(row.status, BundleStatus::Compiling, "tried, not failed");
        std::fs::remove_file(&in_the_way).unwrap();
        let compiled = async {
            while w.plane.store().bundle_by_id(SYSTEM, id).await.unwrap().status == BundleStatus::Compiling {
                w.hand.advance(Span::secs(1));
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(WAIT, compiled).await.unwrap();
        assert_eq!(w.plane.store().bundle_by_id(SYSTEM, id).await.unwrap().status, BundleStatus::Compiled);
        assert!(failures(&w).await.is_empty());
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_nobody_works_on_is_found_in_the_queue() {
    on_both(|w| async move {
        let id = queued(&w).await;
        let compiles = w.plane.inner.compiles.clone();
        compiles.rescan(&w.plane.inner).await.unwrap();
        assert_eq!(compiles.family.alive(), 0, "its instance may be at it");
        w.hand.advance(LEFT_ALONE);
        compiles.rescan(&w.plane.inner).await.unwrap();
        let row = compiles.wait_for(w.plane.store(), id, WAIT).await.unwrap();
        assert_eq!(row.status, BundleStatus::Compiled);
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_left_over_from_a_collected_bundle_is_replaced() {
    on_both(|w| async move {
        let config = w.submit(samples::DEMO_V1).await;
        let old = w.compile(config, "1").await.unwrap().bundle;
        let at = w.plane.now();
        w.plane.store().delete_bundle(old.id, Write::at(at)).await.unwrap();
        // Another time of creation: the same content, other bytes.
        w.hand.advance(Span::secs(1));
        let new = w.compile(config, "1").await.unwrap().bundle;
        assert_eq!((new.content_id, new.status), (old.content_id, BundleStatus::Compiled));
        assert_ne!(new.artifact_hash, old.artifact_hash);
        let key = Key::bundle(new.project, new.content_id.unwrap());
        let (size, hash) = (new.size_bytes.unwrap(), new.artifact_hash.unwrap());
        w.plane.artifacts().get_verified(&key, size, hash).await.unwrap();
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_keys_are_warnings_and_errors_where_the_project_is_strict() {
    on_both(|w| async move {
        let text = samples::DEMO_V1.replace("system {", "system {\n    colour \"red\"");
        let config = w.submit(&text).await;
        let lax = w.compile(config, "1").await.unwrap().bundle;
        assert!(lax.warnings.iter().any(|m| m.text.contains("colour")), "{:?}", lax.warnings);
        assert!(lax.risk >= bundle::RiskLevel::Medium);
        w.settings(serde_json::json!({"strict_config": true})).await;
        let strict = w.compile(config, "2").await;
        let Err(crate::command::CommandError::Invalid(errors)) = strict else { panic!("it is strict: {strict:?}") };
        assert!(errors.iter().any(|(_, text)| text.contains("colour")), "{errors:?}");
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_that_cannot_be_asked_is_no_verdict() {
    let why = job::no_verdict(::bundle::child::ValidatorError::Answer("?".into()));
    assert!(matches!(why, Trouble::Broken(_)));
    let why = job::no_verdict(::bundle::child::ValidatorError::Cancelled);
    assert!(matches!(why, Trouble::Away(_)));
}
