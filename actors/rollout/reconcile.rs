//! What a rollout believes against what is stored: of its nodes, its debts and its bundle. A word may have been lost between two
//! processes.

use super::actor::{Brain, Me};
use domain::rollout::*;
use domain::*;
use ractor::ActorProcessingErr;
use std::collections::HashMap;

impl Brain {
    /// What the database says of our nodes, our debts and our bundle, against what we believe. Answers how much differed.
    pub(super) async fn reconcile(&mut self, me: &Me) -> Result<u64, ActorProcessingErr> {
        let phase = self.rollout.head.phase;
        let mut found = 0;
        if phase.is_active() || phase == Phase::Completed {
            let bundle = self.rollout.spec.bundle;
            let facts = self.plane.inner.store.bundle_facts(vec![bundle]).await?;
            let revoked = facts.iter().any(|(f, _)| f.status == domain::bundle::BundleStatus::Revoked);
            // A rollback has heard of it already; a completed rollout has only its lane left to stop.
            let lane = self.rollout.members.values().any(|m| m.state == NodeState::Owed || m.state.in_flight());
            if revoked && (matches!(phase, Phase::Running | Phase::Paused) || (phase == Phase::Completed && lane)) {
                self.event(me, Event::BundleRevoked { revoked: [bundle].into() }).await?;
                found += 1;
            }
            found += self.reconcile_nodes(me).await?;
        }
        let is_owed = |m: &&Member| match m.state {
            NodeState::Owed => true,
            // While it rolls back it holds its nodes: nobody else takes their debts over.
            NodeState::RollingBack { owed, .. } => owed && phase == Phase::RolledBack,
            _ => false,
        };
        let owed: Vec<NodeId> = self.rollout.members.values().filter(is_owed).map(|m| m.node).collect();
        if !owed.is_empty() {
            let debts = self.plane.inner.store.debts_of_rollout(self.rollout.id).await?;
            let nodes: Vec<NodeId> = owed.into_iter().filter(|n| !debts.iter().any(|d| d.node == *n)).collect();
            if !nodes.is_empty() {
                found += nodes.len() as u64;
                self.event(me, Event::DebtsDropped { nodes }).await?;
            }
        }
        Ok(found)
    }

    pub(super) async fn reconcile_nodes(&mut self, me: &Me) -> Result<u64, ActorProcessingErr> {
        let ids: Vec<NodeId> = self
            .rollout
            .members
            .values()
            .filter(|m| !matches!(m.state, NodeState::Skipped { .. }))
            .map(|m| m.node)
            .collect();
        if ids.is_empty() {
            return Ok(0);
        }
        let rows: HashMap<NodeId, store::FleetNode> =
            self.plane.inner.store.fleet_nodes(ids.clone()).await?.into_iter().map(|n| (n.id, n)).collect();
        let now = self.plane.now();
        let (mut deleted, mut revoked, mut conflicted) = (Vec::new(), Vec::new(), Vec::new());
        let (mut presence, mut health) = (Vec::new(), Vec::new());
        for id in ids {
            let (Some(m), row) = (self.rollout.members.get(&id), rows.get(&id)) else { continue };
            match row {
                None => deleted.push(id),
                Some(n) if n.standing == domain::node::Standing::Revoked => revoked.push(id),
                Some(n) if n.standing == domain::node::Standing::Conflicted => conflicted.push(id),
                Some(n) => {
                    let change = PresenceChange {
                        node: id,
                        online: n.presence == domain::node::Presence::Online,
                        handed_over: n.handed_over,
                        busy: n.busy_until.is_some_and(|t| now < t),
                    };
                    if counts_as_online(m, &change) != m.online {
                        presence.push(change);
                    }
                    if n.health != m.health {
                        health.push(Report { node: id, generation: None, said: Said::Health { class: n.health } });
                    }
                }
            }
        }
        let found = deleted.len() + revoked.len() + conflicted.len() + presence.len() + health.len();
        for event in [
            (!deleted.is_empty()).then_some(Event::Removed { nodes: deleted, reason: SkipReason::Deleted }),
            (!revoked.is_empty()).then_some(Event::Removed { nodes: revoked, reason: SkipReason::Revoked }),
            (!conflicted.is_empty())
                .then_some(Event::Removed { nodes: conflicted, reason: SkipReason::IdentityConflict }),
            (!health.is_empty()).then_some(Event::Reports { reports: health }),
            (!presence.is_empty()).then_some(Event::Presence { changes: presence }),
        ]
        .into_iter()
        .flatten()
        {
            self.event(me, event).await?;
        }
        Ok(found as u64)
    }
}
