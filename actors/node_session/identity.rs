//! Two processes with one credential: noticed here, stored, and told to the rollout that holds the node.

use super::actor::Session;
use crate::command::CommandResult;
use crate::commands::write::Said;
use crate::plane::ControlPlane;
use domain::node::{Instances, Standing};
use domain::*;
use serde_json::json;
use store::ChangeKind;

impl Session {
    /// The node is heard, here or elsewhere, as `instance`. Answers whether two take turns.
    pub fn is_instance(&mut self, instance: Option<&String>, now: Timestamp) -> bool {
        let (Some(before), Some(instance)) = (&self.slow.instance, instance) else { return false };
        if before == instance {
            return false;
        }
        self.instances.get_or_insert_with(Box::<Instances>::default).heard(before, instance, now)
    }

    pub async fn conflicts(&mut self) -> CommandResult<()> {
        self.instances = None;
        if self.adopted {
            self.adopted = false;
            self.plane.identity_conflict(self.node, self.project).await?;
        }
        Ok(())
    }
}

impl ControlPlane {
    async fn identity_conflict(&self, node: NodeId, project: ProjectId) -> CommandResult<()> {
        tracing::error!(%node, "two processes use the credential of this node: it gets nothing until it is adopted again");
        let changes = json!({"standing": {"from": Standing::Adopted, "to": Standing::Conflicted}});
        let said = Said {
            action: "node.identity_conflict",
            kind: ChangeKind::Node,
            id: node.0,
            project: Some(project),
            changes,
        };
        let write = self.write(&Ctx::system(), said);
        if self.inner.store.node_conflicted(node, write).await? {
            Box::pin(self.node_changed(project, node)).await;
        }
        Ok(())
    }
}
