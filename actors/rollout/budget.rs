//! The project's budget: how many nodes may be updating at once, over all its rollouts.
//!
//! The engine is granted a capacity, as a stored event; every commit that reserves more is checked under the lock of the project's
//! row, in its own transaction. Rollbacks and first configurations are exempt, so nothing waits for what it must mend.

use super::RolloutMsg;
use crate::plane::ControlPlane;
use domain::rollout::{Change, Decision, Event, Head, NodeState, Phase, Rollout};
use domain::*;

/// How long a limit is believed: a change of the settings is heeded after this.
const LIMIT_KEPT: Span = Span::secs(1);

impl ControlPlane {
    /// `max_updating` of the project in nodes; percent are of all its nodes, rounded down, at least 1.
    pub(crate) async fn budget_limit(&self, project: ProjectId) -> store::Result<Option<u32>> {
        let now = self.now();
        if let Some(kept) =
            self.inner.rollouts.limits.get(&project).filter(|k| now >= k.0 && now.since(k.0) < LIMIT_KEPT)
        {
            return Ok(kept.1);
        }
        let max_updating = match self.inner.store.project(Scope::Project(project), &project.to_string()).await {
            Ok(row) => row.settings.max_updating,
            // Deleted: what is left of its rollouts only ends.
            Err(store::Error::NotFound) => None,
            Err(e) => return Err(e),
        };
        let limit = match max_updating {
            None => None,
            Some(amount) => {
                let nodes = self.inner.store.node_stats(project).await?.total;
                Some(amount.down(nodes.clamp(0, i64::from(u32::MAX)) as u32, 1))
            }
        };
        self.inner.rollouts.limits.insert(project, (now, limit));
        Ok(limit)
    }

    /// What the rollout must be told before it decides anything: its first capacity, more when it has used it up, less when the
    /// project's limit was lowered, or that the budget is gone.
    pub(super) async fn grant(&self, project: ProjectId, head: &Head) -> store::Result<Option<Event>> {
        let moves = match head.phase {
            Phase::Pending | Phase::Running | Phase::Paused | Phase::Completed => true,
            Phase::RollingBack | Phase::Failed | Phase::Cancelled | Phase::RolledBack => false,
        };
        if !moves {
            return Ok(None);
        }
        let (ledger, limit) = (head.budget, self.budget_limit(project).await?);
        let k = match limit {
            None => None,
            Some(limit) if ledger.suffices(limit) => return Ok(None),
            Some(limit) => Some(ledger.share(limit, self.inner.store.budget_reserved(project).await?)),
        };
        Ok((k != ledger.capacity).then_some(Event::CapacityGranted { k }))
    }

    /// Room was made: whoever waits for it here looks now; others look every second.
    pub(super) fn budget_freed(&self, project: ProjectId) {
        if self.inner.rollouts.limits.get(&project).is_none_or(|k| k.1.is_none()) {
            return;
        }
        for (_, actor) in self.inner.rollouts.family.directory().snapshot() {
            let _ = actor.cast(RolloutMsg::Starved);
        }
    }
}

/// What the commit of a decision takes from the budget, or gives back. Without a limit; [`needs_room`] says whether there is one.
pub(super) fn budget_move(r: &Rollout, d: &Decision) -> Option<store::BudgetMove> {
    let delta = i64::from(after(d)?.budget.updating) - i64::from(r.head.budget.updating);
    (delta != 0).then_some(store::BudgetMove { delta, limit: None })
}

/// Does it assign, within what the project allows? Nothing waits for room that mends something.
pub(super) fn needs_room(r: &Rollout, d: &Decision) -> bool {
    let Some(after) = after(d).filter(|h| h.phase != Phase::RollingBack) else { return false };
    // A lost node that returns with the bundle is under way again, whatever the budget says: only assignments can wait for room.
    let assigns = || {
        d.changes.iter().any(|c| match c {
            Change::Member { member } => {
                member.state == NodeState::Assigned
                    && r.members.get(&member.node).is_none_or(|m| m.generation < member.generation)
            }
            _ => false,
        })
    };
    after.budget.updating > r.head.budget.updating && assigns()
}

fn after(d: &Decision) -> Option<&Head> {
    d.changes.iter().find_map(|c| match c {
        Change::Head { head } => Some(head),
        _ => None,
    })
}
