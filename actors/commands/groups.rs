//! Groups of nodes: a name for a selector or for a list, to be named by selectors of rollouts.

use super::write::*;
use crate::command::*;
use crate::plane::ControlPlane;
use domain::node::Selector;
use domain::*;
use serde_json::{Value, json};
use store::{ChangeKind, NodeGroup};
use uuid::Uuid;

/// Nodes that a group may list; more are better told by a selector.
const MAX_LISTED: usize = 10_000;
/// Groups of a project: each selector by group reads all of them.
const MAX_GROUPS: usize = 1_000;

/// Exactly one of the two says who is in.
#[derive(Clone, Debug)]
pub struct NewGroup {
    pub name: String,
    pub selector: Option<Selector>,
    pub node_ids: Option<Vec<NodeId>>,
}

impl ControlPlane {
    pub async fn create_group(&self, caller: &Caller, project: ProjectId, new: NewGroup) -> CommandResult<NodeGroup> {
        let first = Box::pin(self.create_group_first(caller, project, new));
        self.once(caller, |id| self.group(project, id), first).await
    }

    async fn create_group_first(&self, caller: &Caller, project: ProjectId, new: NewGroup) -> CommandResult<NodeGroup> {
        let mut faults = Faults::default();
        let (selector, node_ids) = self.checked_group(project, &new, &mut faults).await?;
        if self.inner.store.groups(project).await?.len() >= MAX_GROUPS {
            faults.add("name", format!("the project has {MAX_GROUPS} groups, the most there may be"));
        }
        faults.done()?;
        let now = self.now();
        let group = NodeGroup {
            id: self.fresh().id(now),
            project,
            name: new.name,
            selector,
            node_ids,
            inserted_at: now,
            updated_at: now,
        };
        let write = self.write_at(now, &caller.ctx, said("node_group.created", &group, shape(&group)));
        let write = write.idem(idem(caller, now, 201, ChangeKind::Group, group.id));
        self.inner.store.insert_group(group.clone(), write).await?;
        Ok(group)
    }

    /// Replaces it. Rollouts that were planned by it keep the nodes they were planned with.
    pub async fn update_group(
        &self,
        caller: &Caller,
        project: ProjectId,
        id: Uuid,
        new: NewGroup,
    ) -> CommandResult<NodeGroup> {
        let first = Box::pin(self.update_group_first(caller, project, id, new));
        self.once(caller, |id| self.group(project, id), first).await
    }

    async fn update_group_first(
        &self,
        caller: &Caller,
        project: ProjectId,
        id: Uuid,
        new: NewGroup,
    ) -> CommandResult<NodeGroup> {
        let old = self.group(project, id).await?;
        let mut faults = Faults::default();
        let (selector, node_ids) = self.checked_group(project, &new, &mut faults).await?;
        faults.done()?;
        let now = self.now();
        let group = NodeGroup { name: new.name, selector, node_ids, updated_at: now, ..old.clone() };
        if shape(&group) == shape(&old) {
            return Ok(old);
        }
        let changes = json!({"from": shape(&old), "to": shape(&group)});
        let write = self.write_at(now, &caller.ctx, said("node_group.updated", &group, changes));
        let write = write.idem(idem(caller, now, 200, ChangeKind::Group, id));
        self.inner.store.update_group(group.clone(), write).await.map_err(missing("node group"))?;
        Ok(group)
    }

    pub async fn delete_group(&self, caller: &Caller, project: ProjectId, id: Uuid) -> CommandResult<()> {
        let first = Box::pin(self.delete_group_first(caller, project, id));
        self.once(caller, |_| std::future::ready(Ok(())), first).await
    }

    async fn delete_group_first(&self, caller: &Caller, project: ProjectId, id: Uuid) -> CommandResult<()> {
        let group = self.group(project, id).await?;
        let now = self.now();
        let write = self.write_at(now, &caller.ctx, said("node_group.deleted", &group, shape(&group)));
        let write = write.idem(idem(caller, now, 204, ChangeKind::Group, id));
        self.inner.store.delete_group(project, id, write).await.map_err(missing("node group"))
    }

    /// Errors: 422 when a selector names a group that there is not.
    pub(super) async fn groups_exist(&self, project: ProjectId, selector: &Selector) -> CommandResult<()> {
        let Selector::Groups { groups: wanted } = selector else { return Ok(()) };
        let groups = self.inner.store.groups(project).await?;
        match wanted.iter().find(|w| !groups.iter().any(|g| g.name == **w)) {
            None => Ok(()),
            Some(unknown) => Err(CommandError::invalid("target_selector", format!("there is no group {unknown:?}"))),
        }
    }

    async fn group(&self, project: ProjectId, id: Uuid) -> CommandResult<NodeGroup> {
        self.inner.store.group(project, id).await.map_err(missing("node group"))
    }

    async fn checked_group(
        &self,
        project: ProjectId,
        new: &NewGroup,
        faults: &mut Faults,
    ) -> CommandResult<(Option<Selector>, Vec<NodeId>)> {
        faults.name("name", &new.name);
        match (&new.selector, &new.node_ids) {
            (Some(_), Some(_)) => faults.add("node_ids", "give a selector or node_ids, not both"),
            (None, None) => faults.add("selector", "is required, unless there are node_ids"),
            // Groups of groups could go in circles.
            (Some(Selector::Groups { .. }), None) => faults.add("selector", "a group cannot be made of groups"),
            (Some(_), None) => {}
            (None, Some(ids)) if ids.len() > MAX_LISTED => {
                faults.add("node_ids", format!("at most {MAX_LISTED}; use a selector"));
            }
            (None, Some(ids)) => {
                let found = self.inner.store.fleet_nodes(ids.clone()).await?;
                let ours: std::collections::BTreeSet<NodeId> =
                    found.iter().filter(|n| n.project == project).map(|n| n.id).collect();
                if let Some(foreign) = ids.iter().find(|id| !ours.contains(id)) {
                    faults.add("node_ids", format!("{foreign} is not a node of this project"));
                }
            }
        }
        let mut ids = new.node_ids.clone().unwrap_or_default();
        ids.sort_unstable();
        ids.dedup();
        Ok((new.selector.clone(), ids))
    }
}

fn shape(g: &NodeGroup) -> Value {
    json!({"name": g.name, "selector": g.selector, "node_ids": g.node_ids})
}

fn said(action: &'static str, group: &NodeGroup, changes: Value) -> Said {
    Said { action, kind: ChangeKind::Group, id: group.id, project: Some(group.project), changes }
}
