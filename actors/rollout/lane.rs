//! The catch-up lane after completion: what the database knows of members that are back is read before they are claimed.

use super::actor::{Brain, Done};
use super::commit::{Attempt, Extra, Failure, NO_ROOM};
use domain::rollout::*;
use domain::*;

impl Brain {
    /// Members of the lane are back: what does the database know of them now?
    pub(super) async fn fetch(&mut self, nodes: Vec<NodeId>) -> Result<(), Failure> {
        let id = self.rollout.id;
        let facts = self
            .plane
            .facts_of(self.rollout.project, &self.rollout.spec, nodes.clone())
            .await
            .map_err(Failure::Refused)?;
        let debts = self.plane.inner.store.debts_of_rollout(id).await.map_err(|e| Failure::Refused(e.into()))?;
        let mut ready = Vec::new();
        let mut dropped = Vec::new();
        for (f, held) in facts {
            let owed = self.rollout.members.get(&f.node).is_some_and(|m| m.state == NodeState::Owed);
            if owed && !debts.iter().any(|d| d.node == f.node) {
                // A newer commit covers the node.
                dropped.push(f.node);
            } else if held.is_none_or(|h| h == id) {
                ready.push(f);
            }
        }
        // Who joined just now may be in an environment that none of the others is in.
        let began = self.freeze_news().await?.filter(|e| *e == Event::FreezeBegan);
        for event in [
            began,
            (!dropped.is_empty()).then_some(Event::DebtsDropped { nodes: dropped }),
            (!ready.is_empty()).then_some(Event::LaneReady { facts: ready }),
        ]
        .into_iter()
        .flatten()
        {
            let d = self.settle(&event, &Attempt::system(), Extra::default()).await?;
            self.plane.act(&self.rollout, &d).await;
        }
        Ok(())
    }

    /// After completion: owed members that are online and found no room before.
    pub(super) async fn refill_lane(&mut self) -> Done {
        let waiting: Vec<NodeId> = self
            .rollout
            .members
            .values()
            .filter(|m| m.online && (m.state == NodeState::Owed || (m.step.is_none() && m.state == NodeState::Pending)))
            .map(|m| m.node)
            .take(MAX_ASSIGN_PER_COMMIT as usize)
            .collect();
        if waiting.is_empty() {
            return Ok(());
        }
        match self.fetch(waiting).await {
            Ok(()) => Ok(()),
            Err(Failure::Refused(e)) => {
                self.not_taken(&e);
                Ok(())
            }
            Err(Failure::Moved(why) | Failure::Reload(why)) => Err(why.into()),
            Err(Failure::Budget) => Err(NO_ROOM.into()),
        }
    }
}
