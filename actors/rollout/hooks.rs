//! What other commands mean for rollouts: a node came, changed or went; a bundle was revoked.

use super::Attempt;
use crate::command::{Caller, CommandResult, Grant, Idempotency};
use crate::node_session::SessionMsg;
use crate::plane::ControlPlane;
use domain::node::{Selector, Standing};
use domain::rollout::{Event, Facts, Phase, Rollout, RolloutKind, SkipReason};
use domain::*;
use std::collections::BTreeSet;

/// Active rollouts of one project that a newcomer is compared with.
const MAX_RUNNING: u32 = 500;

impl ControlPlane {
    /// A node that has no bundle at all gets the bundle of the newest completed rollout that matches it; if there is none, it
    /// joins the one that runs.
    pub(crate) async fn node_registered(&self, project: ProjectId, node: NodeId) {
        if let Err(e) = self.place_newcomer(project, node).await {
            // The sweep of nodes without a bundle comes by again.
            tracing::warn!(%node, error = ?e, "a new node was not given its first bundle yet");
        }
    }

    /// Nodes that came while nobody could place them. Answers how many were placed.
    pub(crate) async fn sweep_newcomers(&self, limit: u32) -> CommandResult<u64> {
        let mut placed = 0;
        for (node, project) in self.inner.store.newcomers(limit).await? {
            placed += u64::from(Box::pin(self.place_newcomer(project, node)).await?);
        }
        Ok(placed)
    }

    /// A pin is a rollout of its kind; the rollout that holds the node now loses it in the same commit. Where that is refused, the pin
    /// holds all the same (nothing else is given to the node), and the sweep comes by again. Answers whether it was made.
    pub(crate) async fn follow_pin(&self, caller: &Caller, project: ProjectId, node: NodeId, bundle: BundleId) -> bool {
        let only = Selector::NodeIds { node_ids: [node].into() };
        let made = Box::pin(self.assign_bundle(caller, project, bundle, only, RolloutKind::Pin)).await;
        if let Err(e) = &made {
            tracing::warn!(%node, error = ?e, "the pinned bundle was not rolled out to the node yet");
        }
        made.is_ok()
    }

    /// Is a rollout of the pin on its way to the node, or waiting to begin?
    pub(crate) async fn pin_is_followed(
        &self,
        project: ProjectId,
        node: NodeId,
        bundle: BundleId,
    ) -> CommandResult<bool> {
        let phases = Phase::ALL.iter().copied().filter(|p| !p.is_end()).collect();
        let filter = store::RolloutFilter { phases, bundle: Some(bundle) };
        let living = self.all_rollouts(Scope::Project(project), filter).await?;
        let names = |s: &Selector| matches!(s, Selector::NodeIds { node_ids } if node_ids.contains(&node));
        Ok(living.iter().any(|r| r.spec.kind == RolloutKind::Pin && names(&r.spec.selector)))
    }

    /// Pins whose rollout was never made: whoever pinned died in between, or it was refused at the time. Answers how many are followed
    /// now. Of several instances that see the same one follows it, and none of them twice.
    pub(crate) async fn sweep_pins(&self, limit: u32) -> CommandResult<u64> {
        let mut followed = 0;
        for p in self.inner.store.unfollowed_pins(limit).await? {
            let key = format!("{}/{}/{}", p.node, p.bundle, p.generation);
            let once = Idempotency {
                credential: "system".into(),
                route: "pin".into(),
                body_hash: Digest::of(key.as_bytes()),
                key,
            };
            let system = Caller {
                ctx: Ctx::system(),
                user: None,
                instance_admin: false,
                grant: Grant::Roles(vec![(p.org, Role::Operator)]),
                idempotency: Some(once),
            };
            followed += u64::from(self.follow_pin(&system, p.project, p.node, p.bundle).await);
        }
        Ok(followed)
    }

    async fn place_newcomer(&self, project: ProjectId, node: NodeId) -> CommandResult<bool> {
        let row = self.inner.store.node(Scope::Project(project), node).await?;
        if row.standing != Standing::Adopted || row.generation > 0 {
            return Ok(false);
        }
        for done in self.inner.store.newest_completed_for(project).await? {
            if self.selects(project, &done.selector, &row).await? {
                return self.join(done.id, project, vec![node]).await;
            }
        }
        let filter = store::RolloutFilter { phases: vec![Phase::Running, Phase::Paused], bundle: None };
        let running =
            self.inner.store.rollouts(Scope::Project(project), filter, store::Page::first(MAX_RUNNING)).await?;
        for r in running.rows {
            if self.selects(project, &r.spec.selector, &row).await? {
                return self.join(r.id, project, vec![node]).await;
            }
        }
        Ok(false)
    }

    async fn selects(&self, project: ProjectId, selector: &Selector, row: &domain::node::Node) -> CommandResult<bool> {
        let mut groups = BTreeSet::new();
        if let Selector::Groups { .. } = selector {
            for g in self.inner.store.groups(project).await? {
                let by_selector = g.selector.as_ref().is_some_and(|s| s.matches(row.id, &row.labels, &BTreeSet::new()));
                if by_selector || g.node_ids.contains(&row.id) {
                    groups.insert(g.name);
                }
            }
        }
        Ok(selector.matches(row.id, &row.labels, &groups))
    }

    async fn join(&self, rollout: RolloutId, project: ProjectId, nodes: Vec<NodeId>) -> CommandResult<bool> {
        // One mailbox for all who join: many at once would only get into each other's way at the database.
        self.ensure_rollout(rollout).await;
        let system = Scope::System("a newcomer is compared with the rollout it joins");
        let joined = self.inner.store.rollout(system, rollout).await?;
        let facts = self.facts_of(project, &joined.spec, nodes).await?;
        let free = facts.into_iter().filter(|(_, held)| held.is_none()).map(|(f, _)| f).collect();
        let facts = self.agreed_to(rollout, project, free).await?;
        if facts.is_empty() {
            return Ok(false);
        }
        let again: Vec<NodeId> = facts.iter().map(|f| f.node).collect();
        self.decide_on(rollout, Event::Joined { facts }, Attempt::system()).await?;
        if joined.head.phase == Phase::Completed {
            // Claimed and assigned in the lane, with facts read after the join.
            let ready = self.facts_of(project, &joined.spec, again).await?.into_iter().map(|(f, _)| f).collect();
            self.decide_on(rollout, Event::LaneReady { facts: ready }, Attempt::system()).await?;
        }
        Ok(true)
    }

    /// Those of the newcomers that may join: who serves nothing yet, and who is in no environment that asks for more people than the
    /// rollout's own targets did. Nobody was asked about the others.
    async fn agreed_to(&self, rollout: RolloutId, project: ProjectId, new: Vec<Facts>) -> CommandResult<Vec<Facts>> {
        let serving: Vec<NodeId> = new.iter().filter(|f| !f.first_config).map(|f| f.node).collect();
        if serving.is_empty() || self.people_needed(project, serving).await? == 0 {
            return Ok(new);
        }
        let targets = self.inner.store.rollout_step_nodes(rollout, None).await?.into_iter().map(|(_, n)| n).collect();
        let agreed = self.people_needed(project, targets).await?;
        let mut may = Vec::with_capacity(new.len());
        for f in new {
            if f.first_config || self.people_needed(project, vec![f.node]).await? <= agreed {
                may.push(f);
            }
        }
        Ok(may)
    }

    /// A rollout has just completed: nodes that match and were never told of it join now.
    pub(crate) async fn join_missing(&self, rollout: &Rollout) {
        let plane = self.clone();
        let (id, project, spec) = (rollout.id, rollout.project, rollout.spec.clone());
        let members: BTreeSet<NodeId> = rollout.members.keys().copied().collect();
        // Beside the actor: the join is a command to that same actor.
        crate::supervision::spawn_task("join missing nodes", async move {
            let found = async {
                let resolved = plane.resolve(project, &spec).await?;
                let new: Vec<NodeId> = resolved
                    .candidates
                    .iter()
                    .filter(|c| c.facts.skip.is_none() && !members.contains(&c.facts.node))
                    .map(|c| c.facts.node)
                    .collect();
                if new.is_empty() { Ok(false) } else { plane.join(id, project, new).await }
            };
            if let Err(e) = found.await {
                tracing::warn!(rollout = %id, error = ?e, "late joiners were not found yet");
            }
        })
        .detach();
    }

    /// Labels, pin, standing or key changed, or the node was deleted.
    pub(crate) async fn node_changed(&self, project: ProjectId, node: NodeId) {
        self.inner.sessions.forget_credentials(node);
        self.inner.sessions.tell(node, SessionMsg::Reload);
        let reason = match self.inner.store.node(Scope::Project(project), node).await {
            Ok(n) if n.standing == Standing::Revoked => Some(SkipReason::Revoked),
            Ok(n) if n.standing == Standing::Conflicted => Some(SkipReason::IdentityConflict),
            Ok(n) => {
                self.node_registered(project, node).await;
                self.pinned_away(&n).await
            }
            Err(store::Error::NotFound) => Some(SkipReason::Deleted),
            Err(_) => None,
        };
        let Some(reason) = reason else { return };
        let holder = match self.inner.store.holder_of(node).await {
            Ok(Some(rollout)) => Some(rollout),
            Ok(None) => self.inner.store.debt_of_node(node).await.ok().flatten().map(|d| d.rollout),
            Err(_) => None,
        };
        if let Some(rollout) = holder {
            let event = Event::Removed { nodes: vec![node], reason };
            if let Err(e) = self.decide_on(rollout, event, Attempt::system()).await {
                tracing::warn!(%rollout, %node, error = ?e, "the node was not taken out of its rollout yet");
            }
        }
    }

    /// A pin that takes the node out of the rollout that holds it, without another that takes it over.
    async fn pinned_away(&self, node: &domain::node::Node) -> Option<SkipReason> {
        let pin = node.pinned_bundle?;
        let facts = self.inner.store.bundle_facts(vec![pin]).await.ok()?;
        if facts.iter().any(|(f, _)| f.status == domain::bundle::BundleStatus::Revoked) {
            return None;
        }
        let holder = self.inner.store.holder_of(node.id).await.ok()??;
        let member = self.inner.store.rollout_member(holder, node.id).await.ok()?;
        let summary =
            self.inner.store.rollout(Scope::System("a pin is compared with its rollout"), holder).await.ok()?;
        summary.spec.lets_go(&member, pin).then_some(SkipReason::Pinned)
    }

    /// Every one of them, however many.
    pub(crate) async fn all_rollouts(
        &self,
        scope: Scope,
        filter: store::RolloutFilter,
    ) -> store::Result<Vec<store::RolloutSummary>> {
        let mut all = Vec::new();
        let mut page = store::Page::first(MAX_RUNNING);
        loop {
            let found = self.inner.store.rollouts(scope, filter.clone(), page).await?;
            all.extend(found.rows);
            match found.next_cursor {
                Some(cursor) => page = store::Page { limit: MAX_RUNNING, cursor: Some(cursor) },
                None => return Ok(all),
            }
        }
    }

    /// Distribution has stopped with the revocation; rollouts of the bundle end or go back.
    pub(crate) async fn bundle_revoked(&self, project: ProjectId, bundle: BundleId) {
        self.forget_bundle(project, bundle);
        // Of its own those that go on or have gone to an end; and all that may send nodes back to it. Those that ended without going
        // on have nothing left to stop.
        let phases = Phase::ALL.iter().copied();
        let phases = phases.filter(|p| !matches!(p, Phase::Cancelled | Phase::Failed | Phase::RolledBack)).collect();
        let active = Phase::ALL.iter().copied().filter(Phase::is_active).collect();
        let mut found = Vec::new();
        for filter in [
            store::RolloutFilter { phases, bundle: Some(bundle) },
            store::RolloutFilter { phases: active, bundle: None },
        ] {
            match self.all_rollouts(Scope::Project(project), filter).await {
                Ok(more) => found.extend(more),
                Err(e) => {
                    tracing::error!(%bundle, error = %e, "rollouts of a revoked bundle could not be read");
                    return;
                }
            }
        }
        let revoked: BTreeSet<BundleId> = [bundle].into();
        for id in found.iter().map(|r| r.id) {
            let event = Event::BundleRevoked { revoked: revoked.clone() };
            if let Err(e) = self.decide_on(id, event, Attempt::system()).await {
                tracing::error!(rollout = %id, error = ?e, "a rollout of a revoked bundle was not ended yet");
            }
        }
    }
}
