//! Rollouts: plan, create, command, explain.

use crate::command::*;
use crate::plane::ControlPlane;
use domain::rollout::{Head, SkipReason, Spec, Step};
use domain::*;
use std::collections::BTreeSet;

/// The commands of an operator on a rollout.
#[derive(Clone, Debug, PartialEq)]
pub enum RolloutCommand {
    Start,
    Pause { note: Option<String> },
    Resume { retry: bool, accept_failed: bool },
    Cancel { note: Option<String> },
    Rollback { note: Option<String>, nodes: Option<BTreeSet<NodeId>> },
    Retry { nodes: Option<BTreeSet<NodeId>> },
}

/// A rollout as it is shown: summary, steps, counts.
#[derive(Clone, Debug)]
pub struct RolloutView {
    pub id: RolloutId,
    pub project: ProjectId,
    pub spec: Spec,
    pub head: Head,
    pub steps: Vec<Step>,
    pub primary: Reason,
    pub created_by: Option<UserId>,
    pub inserted_at: Timestamp,
    pub updated_at: Timestamp,
    pub owner: Option<InstanceId>,
}

/// Exactly one in every state: what happens next, or what is awaited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    pub code: String,
    pub text: String,
}

#[derive(Clone, Debug)]
pub struct PlanView {
    /// Exactly the steps that start would make.
    pub steps: Vec<Vec<NodeId>>,
    pub excluded: Vec<(NodeId, SkipReason)>,
    pub warnings: Vec<String>,
    /// Nodes that already run the bundle.
    pub already: u32,
    pub offline: u32,
    pub online: u32,
    pub plan_hash: Digest,
}

impl ControlPlane {
    /// `spec.bundle` names the bundle. Writes nothing.
    pub async fn plan_rollout(&self, _project: ProjectId, _spec: &Spec) -> CommandResult<PlanView> {
        todo!()
    }
    pub async fn create_rollout(&self, _caller: &Caller, _project: ProjectId, _spec: Spec) -> CommandResult<RolloutView> {
        todo!()
    }
    pub async fn command_rollout(&self, _caller: &Caller, _id: RolloutId, _command: RolloutCommand) -> CommandResult<(RolloutView, Done)> {
        todo!()
    }
    pub async fn rollout_view(&self, _id: RolloutId) -> CommandResult<RolloutView> {
        todo!()
    }
}
