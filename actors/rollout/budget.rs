//! The project's budget: how many nodes may be updating at once, over all its rollouts.
//!
//! The engine is granted a capacity, as a stored event; every commit that reserves more is checked under the lock of the project's
//! row, in its own transaction. Rollbacks and first configurations are exempt, so nothing waits for what it must mend.

use super::RolloutMsg;
use crate::plane::ControlPlane;
use domain::rollout::{Change, Decision, Event, NodeState, Phase, Rollout};
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
        let row = self.inner.store.project(Scope::Project(project), &project.to_string()).await?;
        let limit = match row.settings.max_updating {
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
    pub(super) async fn grant(&self, r: &Rollout) -> store::Result<Option<Event>> {
        let moves = match r.head.phase {
            Phase::Pending | Phase::Running | Phase::Paused | Phase::Completed => true,
            Phase::RollingBack | Phase::Failed | Phase::Cancelled | Phase::RolledBack => false,
        };
        if !moves {
            return Ok(None);
        }
        let (ledger, limit) = (r.head.budget, self.budget_limit(r.project).await?);
        let k = match limit {
            None => None,
            Some(limit) if ledger.suffices(limit) => return Ok(None),
            Some(limit) => Some(ledger.share(limit, self.inner.store.budget_reserved(r.project).await?)),
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

/// What the commit of a decision takes from the budget, of which the project allows `limit`, or gives back.
pub(super) fn budget_move(r: &Rollout, d: &Decision, limit: Option<u32>) -> Option<store::BudgetMove> {
    let after = d.changes.iter().find_map(|c| match c {
        Change::Head { head } => Some(head),
        _ => None,
    })?;
    let delta = i64::from(after.budget.updating) - i64::from(r.head.budget.updating);
    // A lost node that returns with the bundle is under way again, whatever the budget says: only assignments can wait for room.
    let assigns = d.changes.iter().any(|c| match c {
        Change::Member { member } => {
            member.state == NodeState::Assigned
                && r.members.get(&member.node).is_none_or(|m| m.generation < member.generation)
        }
        _ => false,
    });
    let limit = limit.filter(|_| delta > 0 && assigns && after.phase != Phase::RollingBack).map(i64::from);
    (delta != 0).then_some(store::BudgetMove { delta, limit })
}
