//! Desired configurations and bundles.

use domain::bundle::{BundleStatus, Diagnostic, RiskLevel, Source};
use domain::{BundleId, DesiredConfigId, ProjectId, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// `POST /projects/:project/desired_config`: exactly one of `config`, `config_kdl`, `files`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DesiredConfigRequest {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_kdl: Option<String>,
    /// Path to text; `config.kdl` is the entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "crate::wire::object")]
    #[schema(schema_with = crate::schema::source)]
    pub source: Option<Source>,
}

/// `POST /projects/:project/compile`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CompileRequest {
    /// Unset: the newest.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<uuid::Uuid>)]
    pub desired_config_id: Option<DesiredConfigId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// `POST /projects/:project/bundles`: submit and compile in one call.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BundleRequest {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The KDL text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_kdl: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "crate::wire::object")]
    #[schema(schema_with = crate::schema::source)]
    pub source: Option<Source>,
}

/// `POST /projects/:project/bundles/:id/revoke`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RevokeRequest {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the nodes that run it get instead: `previous`, each its own, or a bundle. Unset: nobody is moved. The answer names the
    /// rollouts (`rollout_ids`) and the nodes that stay as they are, with the reason (`not_replaced`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replace: Option<String>,
}

/// Give nodes this bundle, now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AssignRequest {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<uuid::Uuid>>)]
    pub node_ids: Option<std::collections::BTreeSet<domain::NodeId>>,
    #[serde(alias = "selector", skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schema::selector)]
    pub target_selector: Option<domain::node::Selector>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Bundle {
    #[schema(value_type = uuid::Uuid)]
    pub id: BundleId,
    /// The content id, once compiled.
    pub bundle_id: Option<String>,
    #[schema(value_type = uuid::Uuid)]
    pub project_id: ProjectId,
    pub version: Option<String>,
    #[schema(value_type = String)]
    pub status: BundleStatus,
    #[schema(value_type = Option<uuid::Uuid>)]
    pub desired_config_id: Option<DesiredConfigId>,
    /// `sha256:<hex>` of the archive.
    pub artifact_hash: Option<String>,
    pub size_bytes: Option<u64>,
    /// base64, over the bytes of manifest.json.
    pub signature: Option<String>,
    pub key_id: Option<String>,
    #[schema(schema_with = crate::schema::source)]
    pub source: Source,
    #[schema(value_type = String)]
    pub risk: RiskLevel,
    pub risk_reasons: Vec<String>,
    #[schema(schema_with = crate::schema::diagnostics)]
    pub warnings: Vec<Diagnostic>,
    #[schema(schema_with = crate::schema::diagnostics)]
    pub errors: Vec<Diagnostic>,
    /// The errors as text, one a line; only when `status` is `failed`.
    pub compiler_output: Option<String>,
    pub builder: String,
    /// Only when a single bundle is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub manifest: Option<Value>,
    /// The normalised configuration; only when a single bundle is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub config: Option<Value>,
    pub revoked_reason: Option<String>,
    #[schema(value_type = Option<uuid::Uuid>)]
    pub created_by_id: Option<UserId>,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub inserted_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// Enough of a bundle to name it inside another object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BundleBrief {
    #[schema(value_type = uuid::Uuid)]
    pub id: BundleId,
    pub bundle_id: Option<String>,
    pub version: Option<String>,
    #[schema(value_type = String)]
    pub status: BundleStatus,
}

/// `GET /projects/:project/bundles/:id/verify`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Verification {
    pub valid: bool,
    pub bundle_id: Option<String>,
    /// Each check with its outcome, in order.
    pub checks: Vec<Check>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Check {
    pub name: String,
    pub ok: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}
