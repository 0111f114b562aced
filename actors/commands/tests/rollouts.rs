//! Rollouts whose bundle, artifact store or project says no.

use super::*;
use crate::commands::rollouts::RolloutCommand;
use crate::rollout::Attempt;
use domain::rollout::{Change, Event, Phase, Spec, Wait};
use store::testing::{Faults, seed};

pub const RESUME: RolloutCommand = RolloutCommand::Resume { retry: false, accept_failed: false };

impl World {
    pub async fn roll_out(&self, spec: Spec) -> RolloutId {
        self.plane.create_rollout(&self.caller, self.project.id, spec).await.unwrap().id
    }

    pub async fn command(&self, id: RolloutId, command: RolloutCommand) -> CommandResult<Done> {
        self.plane.command_rollout(&self.caller, id, command).await.map(|(_, done)| done)
    }

    pub async fn phase(&self, id: RolloutId) -> Phase {
        self.plane.rollout_view(id).await.unwrap().head.phase
    }

    pub async fn reaches(&self, id: RolloutId, phase: Phase) {
        self.eventually(phase.as_str(), async || (self.phase(id).await == phase).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_forward_with_a_revoked_bundle() {
    on_both(|w| async move {
        w.node("n1").await;
        let bundle = w.bundle("1").await;
        let id = w.roll_out(Spec::new(bundle)).await;
        w.reaches(id, Phase::Running).await;
        w.command(id, RolloutCommand::Pause { note: None }).await.unwrap();
        // Whoever revoked it died before the rollout heard of it.
        w.plane.store().revoke_bundle(SYSTEM, bundle, None, Write::at(START)).await.unwrap();
        assert_eq!(code(w.command(id, RESUME).await), "bundle_revoked");
        assert_eq!(w.phase(id).await, Phase::Failed, "it has heard now");
        assert_eq!(code(w.command(id, RolloutCommand::Retry { nodes: None }).await), "bundle_revoked");
        assert_eq!(w.phase(id).await, Phase::Failed);
        let mut later = Spec::new(bundle);
        later.start = false;
        let refused = w.plane.create_rollout(&w.caller, w.project.id, later).await;
        assert_eq!(code(refused), "bundle_revoked");
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_waits_while_the_artifact_store_is_away() {
    on_both(|w| async move {
        w.node("n1").await;
        let id = w.roll_out(Spec::new(w.bundle("1").await)).await;
        w.reaches(id, Phase::Running).await;
        let (here, away) = (w.dir().join(".tmp"), w.dir().join("away"));
        std::fs::rename(&here, &away).unwrap();
        let waits = async |expected: bool| {
            w.eventually("its waits", async || {
                w.hand.advance(Span::secs(1));
                let view = w.plane.rollout_view(id).await.unwrap();
                (view.head.waits.contains(&Wait::Artifact) == expected).then_some(view)
            })
            .await
        };
        let view = waits(true).await;
        assert_eq!((view.head.phase, view.primary.code.as_str()), (Phase::Running, "artifact_unavailable"));
        assert_eq!(view.head.clock.ticking_since, None, "no deadline runs");
        std::fs::rename(&away, &here).unwrap();
        assert_eq!(waits(false).await.primary.code, "step_in_progress");
        w.end().await;
    })
    .await;
}

impl World {
    /// They run something, so that none of them gets its first configuration; the project lets so many be updated at once.
    async fn serving(&self, nodes: &[NodeId], max_updating: u32) {
        let first = self.bundle("0").await;
        for n in nodes {
            let mut change = store::NodeChange::of(*n, self.project.id);
            change.active_bundle = Some(Some(first));
            self.plane.store().observe(vec![change], Write::at(START)).await.unwrap();
        }
        self.settings(json!({"max_updating": max_updating})).await;
    }

    async fn assigned(&self, id: RolloutId) -> u32 {
        self.plane.rollout_view(id).await.unwrap().head.counts.assigned
    }
}

fn of_nodes(bundle: BundleId, nodes: &[NodeId]) -> Spec {
    Spec {
        selector: domain::node::Selector::NodeIds { node_ids: nodes.iter().copied().collect() },
        batch_size: domain::project::Amount::Count(2),
        ..Spec::new(bundle)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_rollouts_of_a_project_together_update_no_more_nodes_than_its_budget() {
    on_both(|w| async move {
        let mut nodes = Vec::new();
        for n in 0..4 {
            nodes.push(w.node(&format!("n{n}")).await.node);
        }
        w.serving(&nodes, 3).await;
        let bundle = w.bundle("1").await;
        let assigned = async |id| w.assigned(id).await;
        let a = w.roll_out(of_nodes(bundle, &nodes[..2])).await;
        w.eventually("both of a", async || (assigned(a).await == 2).then_some(())).await;
        let b = w.roll_out(of_nodes(bundle, &nodes[2..])).await;
        w.eventually("one of b", async || (assigned(b).await == 1).then_some(())).await;
        assert_eq!(w.plane.store().budget_reserved(w.project.id).await.unwrap(), 3);
        w.plane.delete_node(&w.caller, w.project.id, nodes[0]).await.unwrap();
        w.eventually("a made room for b", async || {
            w.hand.advance(Span::millis(250));
            (assigned(b).await == 2).then_some(())
        })
        .await;
        w.command(b, RolloutCommand::Cancel { note: None }).await.unwrap();
        assert_eq!(w.plane.store().budget_reserved(w.project.id).await.unwrap(), 1);
        w.end().await;
    })
    .await;
}

/// The owner of a busy rollout commits several times while another instance only reads it: there an order would never be first.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_reaches_a_rollout_that_commits_without_a_pause() {
    for_each_backend(|mut opened| async move {
        let (faults, owner) = (Faults::none(), opened.store.clone());
        opened.store = opened.store.with_faults(faults.clone());
        let w = World::new(opened).await;
        w.node("n1").await;
        let id = w.roll_out(Spec { start: false, ..Spec::new(w.bundle("1").await) }).await;
        assert!(w.plane.inner.rollouts.family.lookup(&id).is_none(), "nobody here has it");
        let commits_without_a_pause = async {
            loop {
                faults.hold(&["rollout.get", "rollout.load"]);
                faults.until_held().await;
                let r = owner.load_rollout(id).await.unwrap();
                let mut head = r.planned.head;
                head.version += 1;
                let changes = vec![Change::Head { head }];
                let commit = seed::commit(w.project.id, id, (r.version, r.fence), changes);
                owner.commit_rollout(commit, Write::at(START)).await.unwrap();
                faults.let_go();
            }
        };
        tokio::select! {
            () = commits_without_a_pause => {}
            done = w.command(id, RolloutCommand::Cancel { note: None }) => drop(done.unwrap()),
        }
        faults.let_go();
        assert_eq!(w.phase(id).await, Phase::Cancelled);
        w.end().await;
    })
    .await;
}

/// As after a restore, which ends what was under way whatever became of its project.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_deleted_project_can_end() {
    on_both(|w| async move {
        w.node("n1").await;
        let id = w.roll_out(Spec { start: false, ..Spec::new(w.bundle("1").await) }).await;
        w.plane.store().delete_project(SYSTEM, w.project.id, Write::at(START)).await.unwrap();
        w.plane.decide_detached(id, &Event::Cancel { note: None }, &Attempt::system()).await.unwrap();
        assert_eq!(w.phase(id).await, Phase::Cancelled);
        w.end().await;
    })
    .await;
}

/// There what waits for room would be assigned from generations that the restore has lifted: nothing that ends waits for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_database_starts_though_a_rollout_waits_for_room() {
    on_both(|w| async move {
        let nodes = [w.node("n0").await.node, w.node("n1").await.node];
        w.serving(&nodes, 1).await;
        let bundle = w.bundle("1").await;
        let a = w.roll_out(of_nodes(bundle, &nodes[..1])).await;
        w.eventually("that of a", async || (w.assigned(a).await == 1).then_some(())).await;
        let b = w.roll_out(of_nodes(bundle, &nodes[1..])).await;
        w.reaches(b, Phase::Running).await;
        assert_eq!(w.assigned(b).await, 0, "it waits for room");
        let w = w.restored().await;
        for id in [a, b] {
            assert_eq!(w.phase(id).await, Phase::Cancelled);
        }
        w.end().await;
    })
    .await;
}
