//! Rollouts: what is asked for, and how they look.

use crate::bundle::BundleBrief;
use domain::node::{HealthClass, Selector};
use domain::project::Amount;
use domain::rollout::{
    Canary, Counts, HealthGates, HttpProbe, NodeStateKind, OnFailure, OnNoTraffic, PauseCause, Phase, RolloutKind,
    StepState, StrategyKind, Wait,
};
use domain::{NodeId, OrgId, ProjectId, RolloutId, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use utoipa::ToSchema;

/// `POST /projects/:project/rollouts` and `/rollouts/plan`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RolloutRequest {
    /// Content id, row id or version. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle_id: Option<String>,
    /// Default: all.
    #[serde(alias = "selector", skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schema::selector)]
    pub target_selector: Option<Selector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub strategy: Option<StrategyKind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schema::amount)]
    pub batch_size: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ramp: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schema::amount)]
    pub max_unavailable: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schema::amount)]
    pub failure_threshold: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress_deadline_seconds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback_deadline_seconds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_healthy_seconds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "crate::wire::object")]
    #[schema(schema_with = crate::schema::health_gates)]
    pub health_gates: Option<HealthGates>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate_freshness_seconds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fail_after_seconds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_requests: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub on_no_traffic: Option<OnNoTraffic>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub on_failure: Option<OnFailure>,
    /// The older spelling of `on_failure: "rollback"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_rollback: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub scheduled_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_window_seconds: Option<u32>,
    /// Default true: starts as soon as approval, schedule and freezes allow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_failed: Option<bool>,

    #[serde(skip_serializing_if = "Option::is_none")]
    pub supersede: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_restart: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_deprecated: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub override_freeze: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "crate::wire::object")]
    #[schema(schema_with = crate::schema::canary)]
    pub canary: Option<Canary>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "crate::wire::object")]
    pub blue_green: Option<BlueGreenRequest>,
    /// What the lot of a canary is drawn with; that of a plan gives the plan's steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<uuid::Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment_id: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template_id: Option<Value>,
    /// Servers to ask: a gate like the others, the same for every node. Addresses outside of the public internet are reached
    /// only where `PROBE_ALLOW` says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schema::probes)]
    pub probes: Option<Vec<HttpProbe>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offline: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offline_grace_seconds: Option<Value>,
}

/// How traffic is shifted to the standby half.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BlueGreenRequest {
    /// Rising percentages; the last is always 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic_steps: Option<Vec<u8>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_advance: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advance_delay_seconds: Option<u32>,
}

/// Bodies of the commands; every field may be left out, and which ones a command reads is said with it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NoteRequest {
    #[serde(alias = "note", alias = "comment", skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ResumeRequest {
    /// After a gate pause: give the failed nodes a new attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<bool>,
    /// The freezes that hold now are set aside for this rollout; needs `reason`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub override_freeze: Option<bool>,
    /// After a gate pause: go on without the failed nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accept_failed: Option<bool>,
    #[serde(alias = "note", skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RollbackRequest {
    #[serde(alias = "note", skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<uuid::Uuid>>)]
    pub node_ids: Option<BTreeSet<NodeId>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetryRequest {
    /// The freezes that hold now are set aside for this rollout; needs `reason`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub override_freeze: Option<bool>,
    #[serde(alias = "note", skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<uuid::Uuid>>)]
    pub node_ids: Option<BTreeSet<NodeId>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Rollout {
    #[schema(value_type = uuid::Uuid)]
    pub id: RolloutId,
    #[schema(value_type = uuid::Uuid)]
    pub project_id: ProjectId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<uuid::Uuid>)]
    pub org_id: Option<OrgId>,
    /// The row id; `bundle` has the content id.
    #[schema(value_type = uuid::Uuid)]
    pub bundle_id: domain::BundleId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<BundleBrief>,
    #[schema(value_type = String)]
    pub state: Phase,
    /// Why it is paused.
    #[schema(value_type = Vec<String>)]
    pub causes: BTreeSet<PauseCause>,
    /// What a running one waits for.
    #[schema(value_type = Vec<String>)]
    pub waits: BTreeSet<Wait>,
    /// What happens next, or what is awaited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<Cause>,
    pub current_step: u32,
    pub step_count: u32,
    pub progress: Progress,
    #[schema(schema_with = crate::schema::selector)]
    pub target_selector: Selector,
    #[schema(value_type = String)]
    pub strategy: StrategyKind,
    #[schema(schema_with = crate::schema::amount)]
    pub batch_size: Amount,
    pub ramp: Option<f64>,
    pub spread_by: Option<String>,
    #[schema(schema_with = crate::schema::amount_or_null)]
    pub max_unavailable: Option<Amount>,
    #[schema(schema_with = crate::schema::amount)]
    pub failure_threshold: Amount,
    pub progress_deadline_seconds: i64,
    pub rollback_deadline_seconds: i64,
    pub min_healthy_seconds: i64,
    #[schema(schema_with = crate::schema::health_gates)]
    pub health_gates: HealthGates,
    #[serde(default)]
    #[schema(schema_with = crate::schema::probes)]
    pub probes: Vec<HttpProbe>,
    pub gate_freshness_seconds: i64,
    pub fail_after_seconds: i64,
    pub min_requests: u64,
    #[schema(value_type = String)]
    pub on_no_traffic: OnNoTraffic,
    #[schema(value_type = String)]
    pub on_failure: OnFailure,
    pub auto_rollback: bool,
    pub allow_failed: bool,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub scheduled_at: Option<Timestamp>,
    pub start_window_seconds: i64,
    pub start: bool,
    /// What asked for it: `rollout`, `assign`, `pin`, `drift_repair` or `replace`.
    #[schema(value_type = String)]
    pub kind: RolloutKind,
    pub supersede: bool,
    pub allow_restart: bool,
    pub allow_deprecated: bool,
    /// Of strategy `canary`: its settings, and the comparison of the step that runs with its last look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schema::canary)]
    pub canary: Option<Canary>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub analysis: Option<Value>,
    /// Of strategy `blue_green`: its settings, and where the traffic is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blue_green: Option<BlueGreenRequest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<TrafficShift>,
    /// Raised by every decision.
    pub version: u64,
    pub note: Option<String>,
    #[schema(value_type = Option<uuid::Uuid>)]
    pub created_by_id: Option<UserId>,
    #[schema(value_type = Option<uuid::Uuid>)]
    pub owner_instance_id: Option<domain::InstanceId>,
    /// Only when a single rollout is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<Vec<Step>>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub completed_at: Option<Timestamp>,
    #[schema(value_type = String, format = DateTime)]
    pub inserted_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// Traffic on its way to the standby half.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrafficShift {
    /// Percent of its full share that the half was told to serve.
    pub weight: u8,
    /// Nodes that have not said so yet.
    pub waiting: u32,
}

/// `total` is always the sum of the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    pub total: u32,
    pub pending: u32,
    /// Handed over or not, up to activated.
    pub assigned: u32,
    pub verified: u32,
    pub failed: u32,
    pub owed: u32,
    pub skipped: u32,
    pub rolling_back: u32,
    pub rolled_back: u32,
    pub rollback_failed: u32,
}

impl From<Counts> for Progress {
    fn from(c: Counts) -> Progress {
        let Counts {
            total,
            pending,
            assigned,
            verified,
            failed,
            owed,
            skipped,
            rolling_back,
            rolled_back,
            rollback_failed,
        } = c;
        Progress {
            total,
            pending,
            assigned,
            verified,
            failed,
            owed,
            skipped,
            rolling_back,
            rolled_back,
            rollback_failed,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Step {
    pub step_index: u32,
    #[schema(value_type = String)]
    pub state: StepState,
    pub node_count: u32,
    /// When at most 100, or with `?include=node_ids`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<uuid::Uuid>>)]
    pub node_ids: Option<Vec<NodeId>>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub completed_at: Option<Timestamp>,
    pub error: Option<String>,
}

/// One node of a rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RolloutNode {
    #[schema(value_type = uuid::Uuid)]
    pub node_id: NodeId,
    pub name: String,
    /// `null`: the catch-up lane.
    pub step_index: Option<u32>,
    #[schema(value_type = String)]
    pub state: NodeStateKind,
    /// Why it failed or was skipped.
    pub reason: Option<String>,
    pub error: Option<String>,
    pub no_traffic: Option<bool>,
    pub attempt: u32,
    pub generation: u64,
    pub handed_over: bool,
    pub online: bool,
    #[schema(value_type = String)]
    pub health: HealthClass,
    pub traffic_weight: u8,
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// One stored event of a rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RolloutEvent {
    pub seq: u64,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    pub kind: String,
    pub engine_version: u32,
    #[schema(value_type = Object)]
    pub event: Value,
    pub decision_hash: String,
}

/// `POST rollouts/plan`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// Exactly the steps that creation would make.
    pub steps: Vec<PlanStep>,
    pub excluded: Vec<Excluded>,
    /// Freezes and schedules ahead.
    #[schema(value_type = Vec<Object>)]
    pub windows: Vec<Value>,
    pub warnings: Vec<String>,
    pub diff_summary: DiffSummary,
    /// How long its nodes are likely to take, seconds, from its start; pauses and waits come on top.
    pub estimated_duration_seconds: i64,
    /// What the estimate rests on.
    pub estimate_basis: String,
    pub plan_hash: String,
    /// Named at creation, it gives exactly these steps.
    pub seed: uuid::Uuid,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlanStep {
    pub step_index: u32,
    pub node_count: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<uuid::Uuid>>)]
    pub node_ids: Option<Vec<NodeId>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Excluded {
    #[schema(value_type = uuid::Uuid)]
    pub node_id: NodeId,
    pub reason: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiffSummary {
    /// Nodes that the plan would change.
    pub changing: u32,
    /// Nodes that already run the bundle.
    pub already: u32,
    pub online: u32,
    pub offline: u32,
}

/// `explain`, for rollouts and nodes: the one reason that counts, and everything behind it, in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    pub primary: Cause,
    pub causes: Vec<Cause>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Cause {
    pub code: String,
    pub text: String,
    /// The number of the stored event that brought it about.
    #[serde(default)]
    pub event_id: Option<u64>,
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub at: Option<Timestamp>,
}

/// Nodes that failed in the same way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FailureGroup {
    pub reason: String,
    /// The first line of the error of one of them; others differ in numbers at most.
    pub error: String,
    pub count: u32,
    /// At most 100.
    #[schema(value_type = Vec<uuid::Uuid>)]
    pub node_ids: Vec<NodeId>,
    /// How many by proxy version.
    pub versions: BTreeMap<String, u32>,
    /// How many by label and value.
    pub labels: BTreeMap<String, BTreeMap<String, u32>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WhatChanged {
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// All actions since were counted.
    pub complete: bool,
    pub rollouts: Vec<ChangedRollout>,
    /// How often each action of the audit log was taken.
    pub actions: BTreeMap<String, u32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChangedRollout {
    #[schema(value_type = uuid::Uuid)]
    pub id: RolloutId,
    #[schema(value_type = String)]
    pub state: Phase,
    pub bundle: Option<BundleBrief>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
    pub progress: Progress,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn both_spellings_of_the_selector_are_read() {
        for text in
            [r#"{"selector":{"labels":{"a":"b"}}}"#, r#"{"target_selector":{"type":"labels","labels":{"a":"b"}}}"#]
        {
            let r: RolloutRequest = serde_json::from_str(text).unwrap();
            assert!(matches!(r.target_selector, Some(Selector::Labels { .. })));
        }
    }

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        let why = serde_json::from_str::<RolloutRequest>(r#"{"batchsize":3}"#).unwrap_err().to_string();
        assert!(why.contains("unknown field `batchsize`"), "{why}");
    }
}
