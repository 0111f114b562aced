//! Nodes as operators see them.

use domain::node::drift::{Resolution, Severity};
use domain::node::{Generation, HealthClass, Labels, Presence, Standing};
use domain::{NodeId, OrgId, ProjectId, RolloutId, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Bundles are named by content id; by row id while they have none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    #[schema(value_type = uuid::Uuid)]
    pub id: NodeId,
    #[schema(value_type = uuid::Uuid)]
    pub project_id: ProjectId,
    #[schema(value_type = uuid::Uuid)]
    pub org_id: OrgId,
    pub name: String,
    /// `online`, `offline` or `unknown`.
    #[schema(value_type = String)]
    pub status: Presence,
    /// `adopted`, `quarantined` or `revoked`.
    #[schema(value_type = String)]
    pub standing: Standing,
    #[schema(value_type = String)]
    pub health: HealthClass,
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub labels: Labels,
    pub capabilities: Vec<String>,
    pub version: Option<String>,
    pub ip: Option<String>,
    pub hostname: Option<String>,
    #[schema(value_type = Object)]
    pub metadata: Value,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_seen_at: Option<Timestamp>,
    pub active_bundle_id: Option<String>,
    pub staged_bundle_id: Option<String>,
    pub desired_bundle_id: Option<String>,
    pub verified_bundle_id: Option<String>,
    pub pinned_bundle_id: Option<String>,
    #[schema(value_type = Option<uuid::Uuid>)]
    pub desired_rollout_id: Option<RolloutId>,
    #[schema(value_type = u64)]
    pub generation: Generation,
    pub traffic_weight: u8,
    /// It says "not now", and is granted it until then: owed what it was not named yet.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub busy_until: Option<Timestamp>,
    /// How far its clock is ahead of ours, milliseconds, negative when it is behind; as estimated from when it says that it sent
    /// what we receive. Nothing is decided by it.
    #[serde(default)]
    pub clock_skew_ms: Option<i64>,
    pub last_error: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    pub inserted_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// `PATCH /projects/:project/nodes/:id`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NodePatch {
    /// Merged; `null` deletes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, Option<String>>>,
    /// Content id, row id; `null` unpins.
    #[serde(deserialize_with = "crate::wire::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub pinned_bundle_id: Option<Option<String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeStats {
    pub total: u64,
    pub online: u64,
    pub offline: u64,
    pub unknown: u64,
    pub adopted: u64,
    pub quarantined: u64,
    pub revoked: u64,
    pub by_bundle: Vec<BundleCount>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BundleCount {
    /// `null`: the baseline, or nothing known.
    pub bundle_id: Option<String>,
    pub version: Option<String>,
    pub nodes: u64,
}

/// A node that runs something else than it shall.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DriftItem {
    pub id: uuid::Uuid,
    #[schema(value_type = uuid::Uuid)]
    pub node_id: NodeId,
    pub node_name: Option<String>,
    /// Content id; `null` is what the node had at enrolment.
    pub expected_bundle_id: Option<String>,
    pub found_bundle_id: Option<String>,
    /// `low`: nothing of ours runs; `medium`: another bundle; `high`: a revoked one, or one that failed there.
    #[schema(value_type = String)]
    pub severity: Severity,
    #[schema(value_type = String, format = DateTime)]
    pub detected_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub resolved_at: Option<Timestamp>,
    #[schema(value_type = Option<uuid::Uuid>)]
    pub resolved_by_id: Option<UserId>,
    /// `converged`, `reassigned`, `acknowledged` or `gone`.
    #[schema(value_type = Option<String>)]
    pub resolution: Option<Resolution>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ResolveRequest {
    /// Roll out what was expected: a rollout of kind `drift_repair`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remediate: Option<bool>,
}

/// A line of a node's log: what the control plane saw of it, or what it sent to `/nodes/:id/events`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeLogLine {
    pub seq: i64,
    /// When it was received.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    pub kind: String,
    #[schema(value_type = Object)]
    pub detail: serde_json::Value,
    #[schema(value_type = Option<uuid::Uuid>)]
    pub rollout_id: Option<RolloutId>,
}
