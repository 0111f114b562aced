//! After the commit: sessions are woken, facts go on the bus. All of it may be repeated.

use crate::bus::Notice;
use crate::node_session::{Assigned, SessionMsg};
use crate::plane::ControlPlane;
use domain::rollout::{Decision, Effect, Fact, NodeState, Phase, Rollout, Told};
use domain::*;
use std::collections::HashMap;
use std::sync::Arc;

impl ControlPlane {
    /// The effects of a committed decision that need nothing but telling.
    pub(crate) async fn act(&self, rollout: &Rollout, decision: &Decision) {
        for effect in &decision.effects {
            if let Effect::Notify { nodes } = effect {
                self.notify_assigned(rollout, nodes).await;
            }
        }
        let goes_on = decision.facts.iter().any(|f| matches!(f, Fact::Resumed | Fact::CauseCleared { .. }));
        if goes_on && rollout.head.phase == Phase::Running {
            // Assigned before the pause and withheld by it: their polls are parked here.
            let waiting = rollout.members.values().filter(|m| m.state == NodeState::Assigned && !m.handed_over);
            let waiting: Vec<NodeId> = waiting.map(|m| m.node).collect();
            self.notify_assigned(rollout, &waiting).await;
        }
        let ended = decision.facts.iter().any(|f| {
            matches!(f, Fact::Completed { .. } | Fact::Failed { .. } | Fact::Cancelled | Fact::RolledBack { .. })
        });
        if ended {
            for m in rollout.members.values().filter(|m| !m.state.in_flight()) {
                self.inner.sessions.tell(m.node, SessionMsg::Settled(m.generation));
            }
        }
        if !decision.changes.is_empty() {
            self.inner.bus.publish(Notice {
                seq: 0,
                kind: "rollout",
                id: rollout.id.0,
                version: rollout.head.version,
                project: Some(rollout.project),
            });
        }
    }

    /// Push new assignments into the sessions that live here; the change feed tells the other instances.
    pub(crate) async fn notify_assigned(&self, rollout: &Rollout, nodes: &[NodeId]) {
        let judge = Arc::new(rollout.spec.judge.clone());
        let mut contents: HashMap<BundleId, Option<ContentId>> = HashMap::new();
        for node in nodes {
            let Some(m) = rollout.members.get(node) else { continue };
            let bundle = match m.told {
                Told::Nothing => {
                    // Withdrawn before anybody heard of it: what it runs is for the database to say.
                    self.inner.sessions.tell(*node, SessionMsg::Reload);
                    continue;
                }
                Told::Target => Some(rollout.spec.bundle),
                Told::Back(to) => to,
            };
            let content = match bundle {
                None => None,
                Some(b) => match contents.get(&b) {
                    Some(c) => *c,
                    None => {
                        let c = self.content_of(b).await;
                        contents.insert(b, c);
                        c
                    }
                },
            };
            if bundle.is_some() && content.is_none() {
                self.inner.sessions.tell(*node, SessionMsg::Reload);
                continue;
            }
            let assigned = Assigned {
                generation: m.generation,
                bundle,
                content,
                rollout: Some(rollout.id),
                judge: Some(judge.clone()),
                weight: m.weight,
                weighed: m.weighed,
            };
            self.inner.sessions.tell(*node, SessionMsg::Assigned(Box::new(assigned)));
        }
    }
}
