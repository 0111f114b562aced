//! What operators do to nodes. What nodes do themselves is in `node_session`.

use crate::command::*;
use crate::node_api::{Registered, Registration};
use crate::plane::ControlPlane;
use domain::node::Node;
use domain::*;
use std::collections::BTreeMap;

#[derive(Clone, Debug, Default)]
pub struct NodePatch {
    /// Merged; `None` deletes.
    pub labels: Option<BTreeMap<String, Option<String>>>,
    pub pinned_bundle: Option<Option<BundleId>>,
}

impl ControlPlane {
    /// `token`: the enrolment token's text; without one only where the project allows open registration.
    pub async fn register_node(
        &self,
        _project: ProjectId,
        _token: Option<&str>,
        _registration: Registration,
        _ctx: &Ctx,
    ) -> CommandResult<Registered> {
        todo!()
    }
    pub async fn patch_node(&self, _caller: &Caller, _project: ProjectId, _node: NodeId, _patch: NodePatch) -> CommandResult<Node> {
        todo!()
    }
    /// The new key is answered once; the old one is void at once.
    pub async fn rotate_node_key(&self, _caller: &Caller, _project: ProjectId, _node: NodeId) -> CommandResult<String> {
        todo!()
    }
    pub async fn revoke_node(&self, _caller: &Caller, _project: ProjectId, _node: NodeId) -> CommandResult<Done> {
        todo!()
    }
    pub async fn adopt_node(&self, _caller: &Caller, _project: ProjectId, _node: NodeId) -> CommandResult<Done> {
        todo!()
    }
    pub async fn delete_node(&self, _caller: &Caller, _project: ProjectId, _node: NodeId) -> CommandResult<()> {
        todo!()
    }
}
