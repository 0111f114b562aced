//! The first start on a restored database: what was under way in it ends, before anybody works on it.
//!
//! It may have been completed, taken back or replaced since; the nodes know, the database does not. Whatever people still want they
//! start anew, and that goes above everything nodes have accepted ([`store::backup::LIFT`]).

use crate::command::{CommandError, CommandResult};
use crate::plane::ControlPlane;
use crate::rollout::Attempt;
use domain::rollout::{Event, NodeState, Phase, SkipReason};
use domain::*;

const NOTE: &str = "the database was restored from a backup";

impl ControlPlane {
    /// Repeated after a crash in the middle: what has ended stays ended.
    pub(crate) async fn end_what_was_restored(&self) -> CommandResult<()> {
        let store = self.store();
        let Some(at) = store.restored_at().await? else { return Ok(()) };
        let unfinished = store.unfinished_rollouts().await?;
        tracing::warn!(restored_at = %at, rollouts = unfinished.len(), "{NOTE}: what was under way in it ends");
        for id in unfinished {
            self.end_restored(id).await?;
        }
        store.put_setting(store::backup::RESTORED, serde_json::Value::Null, store::Write::at(self.now())).await?;
        Ok(())
    }

    async fn end_restored(&self, id: RolloutId) -> CommandResult<()> {
        let planned = self.store().load_rollout(id).await?.planned;
        // Of all of them, or what is left would count as a completed rollout, and newcomers would be given its bundle. Its log keeps
        // who was verified.
        let nodes: Vec<NodeId> =
            planned.members.iter().filter(|m| !matches!(m.state, NodeState::Skipped { .. })).map(|m| m.node).collect();
        if planned.head.phase != Phase::Pending && !nodes.is_empty() {
            let event = Event::Removed { nodes, reason: SkipReason::Superseded };
            self.decide_detached(id, &event, &Attempt::system()).await?;
        }
        match self.decide_detached(id, &Event::Cancel { note: Some(NOTE.into()) }, &Attempt::system()).await {
            // It has ended by losing its nodes, or had only debts.
            Ok(_) | Err(CommandError::Conflict { code: "invalid_state", .. }) => Ok(()),
            Err(e) => Err(e),
        }
    }
}
