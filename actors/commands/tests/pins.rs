//! A pin is a rollout, also when whoever pinned did not live to make it.

use super::*;
use domain::node::HistoryOutcome;
use domain::rollout::{Change, Phase, RolloutKind};
use store::{NewRollout, RolloutFilter};

impl World {
    /// The pin is stored, and its rollout is not: as a process leaves it that ends in between.
    async fn pinned_and_died(&self, node: NodeAuth, bundle: BundleId) {
        let pin = store::NodePatch { labels: None, pinned_bundle: Some(Some(bundle)) };
        self.plane.store().patch_node(SYSTEM, node.node, pin, Write::at(START)).await.unwrap();
    }

    async fn pin(&self, node: NodeAuth, bundle: BundleId) {
        let pin = NodePatch { labels: None, pinned_bundle: Some(Some(bundle)) };
        self.plane.patch_node(&self.caller, self.project.id, node.node, pin).await.unwrap();
    }

    async fn is_told(&self, node: NodeAuth, bundle: BundleId) {
        self.eventually("it is told its bundle", async || {
            (self.stored(node).await.desired_bundle == Some(bundle)).then_some(())
        })
        .await;
    }

    async fn rollouts_of_pins(&self) -> usize {
        let all = self.plane.store().rollouts(SYSTEM, RolloutFilter::default(), Page::first(100)).await.unwrap();
        all.rows.iter().filter(|r| r.spec.kind == RolloutKind::Pin).count()
    }

    /// A rollout of `bundle` that the engine took back, with these changes besides.
    pub async fn taken_back(&self, bundle: BundleId, mut changes: Vec<Change>) {
        let planned = seed::planned(self.project.id, bundle, &[]);
        let id = planned.id;
        let new = NewRollout {
            origin: None,
            planned,
            org: self.org,
            created_by: None,
            created_by_key: None,
            options: json!({}),
        };
        self.plane.store().insert_rollout(new, Write::at(START)).await.unwrap();
        let mut head = seed::head(Phase::RolledBack);
        (head.version, head.auto_rollback) = (1, true);
        changes.insert(0, Change::Head { head });
        let commit = seed::commit(self.project.id, id, (0, 0), changes);
        self.plane.store().commit_rollout(commit, Write::at(START)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_whose_process_died_is_followed_by_the_sweep_once() {
    on_both(|w| async move {
        let (node, bundle) = (w.node("n1").await, w.bundle("1").await);
        w.pinned_and_died(node, bundle).await;
        assert_eq!(w.plane.sweep_pins(10).await, Ok(0), "whoever pinned it may be about to");
        w.hand.advance(Span::secs(10));
        assert_eq!(w.plane.sweep_pins(10).await, Ok(1));
        w.is_told(node, bundle).await;
        assert_eq!(w.plane.sweep_pins(10).await, Ok(0));
        assert_eq!(w.rollouts_of_pins().await, 1);
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_is_rolled_out_when_it_is_said_again_and_not_twice() {
    on_both(|w| async move {
        let (node, bundle) = (w.node("n1").await, w.bundle("1").await);
        w.pinned_and_died(node, bundle).await;
        w.pin(node, bundle).await;
        w.is_told(node, bundle).await;
        w.pin(node, bundle).await;
        assert_eq!(w.rollouts_of_pins().await, 1);
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_pins_a_bundle_that_failed_there_means_it() {
    on_both(|w| async move {
        let (node, bundle) = (w.node("n1").await, w.bundle("1").await);
        let how = HistoryOutcome::Failed;
        let failed = Change::HistoryEnded { node: node.node, bundle, generation: 2, how, detail: None };
        w.taken_back(bundle, vec![failed]).await;
        assert!(w.plane.store().was_rolled_back(w.project.id, bundle).await.unwrap());
        assert_eq!(w.plane.store().failed_on(w.project.id, bundle).await.unwrap(), [node.node]);
        w.pin(node, bundle).await;
        w.is_told(node, bundle).await;
        w.end().await;
    })
    .await;
}
