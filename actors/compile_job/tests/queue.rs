//! The queue: how many at once, the same once, taken out of it, and still there after a restart. The validator here is a shell
//! that says when it begins, and goes on only when it may.

use super::*;
use crate::command::CommandError;
use crate::commands::tests::validator_after;
use ::bundle::child::ChildValidator;
use std::path::Path;
use store::testing::for_each_backend;

/// As in the configuration of [`World`].
const AT_ONCE: usize = 2;

/// A directory that validators write to: a file named after the process of each while it is at it, and a line in `log` for
/// each that began, with how many were at it then.
struct Gate(tempfile::TempDir);

impl Gate {
    fn new() -> Gate {
        let gate = Gate(tempfile::tempdir().unwrap());
        std::fs::create_dir(gate.0.path().join("at")).unwrap();
        gate
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    /// A validator that waits for [`open`](Self::open) and then stays for a moment longer.
    fn validator(&self) -> ChildValidator {
        let dir = self.0.path().display();
        validator_after(&format!(
            ": > {dir}/at/$$\nls {dir}/at | wc -l >> {dir}/log\nwhile [ ! -e {dir}/open ]; do sleep 0.02; done\nsleep 0.3\nrm {dir}/at/$$"
        ))
    }

    fn open(&self) {
        std::fs::write(self.path("open"), "").unwrap();
    }

    /// Process ids of validators that are at it.
    fn at_it(&self) -> Vec<String> {
        let all = std::fs::read_dir(self.path("at")).unwrap();
        all.map(|f| f.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// How many were at it whenever one began.
    fn log(&self) -> Vec<usize> {
        let text = std::fs::read_to_string(self.path("log")).unwrap_or_default();
        text.lines().map(|l| l.trim().parse().unwrap()).collect()
    }
}

fn lives(process: &str) -> bool {
    Path::new("/proc").join(process).exists()
}

async fn asked(w: &World, name: &str) -> BundleId {
    let config = w.submit(&format!("{}\n// {name}\n", samples::DEMO_V1)).await;
    let queued = w.plane.compile(&w.caller, w.project.id, Some(config), Some(name.into()), Duration::ZERO).await;
    queued.unwrap().bundle.id
}

async fn status(w: &World, id: BundleId) -> BundleStatus {
    w.plane.store().bundle_by_id(SYSTEM, id).await.unwrap().status
}

async fn settled(w: &World, id: BundleId) -> BundleStatus {
    w.plane.inner.compiles.wait_for(w.plane.store(), id, WAIT).await.unwrap().status
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_jobs_work_at_once_than_are_allowed_and_all_get_their_turn() {
    for_each_backend(|opened| async {
        let gate = Gate::new();
        let w = World::with(opened, gate.validator()).await;
        let mut ids = Vec::new();
        for n in 0..5 {
            ids.push(asked(&w, &n.to_string()).await);
        }
        w.eventually("as many as are allowed", async || (gate.at_it().len() == AT_ONCE).then_some(())).await;
        assert_eq!(w.plane.inner.compiles.family.alive(), 5, "the others wait with an actor each");
        gate.open();
        for id in ids {
            assert_eq!(settled(&w, id).await, BundleStatus::Compiled);
        }
        let log = gate.log();
        assert_eq!((log.len(), log.iter().max()), (5, Some(&AT_ONCE)), "{log:?}");
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_input_is_validated_once_however_many_ask() {
    for_each_backend(|opened| async {
        let gate = Gate::new();
        let w = World::with(opened, gate.validator()).await;
        let first = asked(&w, "1").await;
        w.eventually("it began", async || (gate.at_it().len() == 1).then_some(())).await;
        // The same files again, as another submission, while it is at it; and once it is done.
        assert_eq!(asked(&w, "1").await, first);
        gate.open();
        assert_eq!(settled(&w, first).await, BundleStatus::Compiled);
        assert_eq!(asked(&w, "1").await, first);
        assert_eq!(gate.log().len(), 1);
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compile_is_cancelled_in_the_queue_and_at_work_and_its_validator_ends() {
    for_each_backend(|opened| async {
        let gate = Gate::new();
        let w = World::with(opened, gate.validator()).await;
        let (a, b) = (asked(&w, "a").await, asked(&w, "b").await);
        let at_it = w.eventually("both began", async || Some(gate.at_it()).filter(|p| p.len() == AT_ONCE)).await;
        let waiting = asked(&w, "waiting").await;
        let cancel = |id| w.plane.cancel_compile(&w.caller, w.project.id, id);
        let told = w.plane.inner.compiles.wait_for(w.plane.store(), a, WAIT);
        let (told, _) = tokio::join!(told, async {
            assert_eq!(cancel(a).await.unwrap().status, BundleStatus::Failed);
        });
        assert!(told.unwrap().errors[0].text.starts_with("cancelled by"), "who waits is told at once");
        cancel(waiting).await.unwrap();
        w.eventually("one validator is gone", async || at_it.iter().any(|p| !lives(p)).then_some(())).await;
        w.eventually("no actor of theirs", async || {
            let compiles = &w.plane.inner.compiles.family;
            [a, waiting].iter().all(|id| compiles.lookup(id).is_none()).then_some(())
        })
        .await;
        // Its place is free for another; the one beside it was left alone.
        let next = asked(&w, "next").await;
        // The one that waited may have begun between the two cancellations.
        w.eventually("the next began", async || (gate.log().len() >= 3).then_some(())).await;
        gate.open();
        for id in [b, next] {
            assert_eq!(settled(&w, id).await, BundleStatus::Compiled);
        }
        for id in [a, waiting] {
            assert_eq!(status(&w, id).await, BundleStatus::Failed, "it stays cancelled");
        }
        let too_late = [cancel(a).await, cancel(b).await];
        for refused in too_late {
            assert!(matches!(refused, Err(CommandError::Conflict { code: "bundle_state", .. })), "{refused:?}");
        }
        let filter = AuditFilter { action: Some("bundle.cancelled".into()), ..AuditFilter::default() };
        let audited = w.plane.store().audit_entries(Scope::System("test"), filter, Page::first(10)).await.unwrap();
        assert_eq!((audited.total, failures(&w).await.len()), (2, 0));
        // The same can be asked for again.
        assert_ne!(asked(&w, "a").await, a);
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_outlives_its_process_in_the_middle_of_a_validation() {
    for_each_backend(|opened| async {
        let gate = Gate::new();
        let w = World::with(opened, gate.validator()).await;
        let mut ids = Vec::new();
        for n in 0..4 {
            ids.push(asked(&w, &n.to_string()).await);
        }
        let at_it = w.eventually("two are at it", async || Some(gate.at_it()).filter(|p| p.len() == AT_ONCE)).await;
        let w = w.restarted(validator_after("")).await;
        w.eventually("nobody validates for the process before", async || at_it.iter().all(|p| !lives(p)).then_some(()))
            .await;
        for id in ids {
            assert_eq!(settled(&w, id).await, BundleStatus::Compiled);
        }
        w.end().await;
    })
    .await;
}
