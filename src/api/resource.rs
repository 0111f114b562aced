//! Resources of a project, comparisons of bundles, retention.

use domain::{ProjectId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// `POST /projects/:project/resources`: exactly one of `text` and `content`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResourceRequest {
    /// `certs/...`, `trust/...` or `plugins/...`
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// base64
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

/// A file that goes into every bundle that is compiled from now on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Resource {
    pub id: uuid::Uuid,
    #[schema(value_type = uuid::Uuid)]
    pub project_id: ProjectId,
    pub path: String,
    /// `sha256:<hex>`
    pub hash: String,
    pub size_bytes: u64,
    #[schema(value_type = String, format = DateTime)]
    pub inserted_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// `GET /projects/:project/bundles/:id/diff`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BundleDiff {
    pub bundle: crate::bundle::BundleBrief,
    pub against: crate::bundle::BundleBrief,
    /// Routes, upstreams, listeners, filters, agents and settings that differ, each with its fields.
    #[schema(value_type = Vec<Object>)]
    pub changes: Value,
    /// There are more fields than are named.
    pub truncated: bool,
    /// `{level, reasons, restart_class, restart_reasons}` of going from `against` to `bundle`.
    #[schema(value_type = Object)]
    pub risk: Value,
    /// The same as lines for people.
    pub text: String,
}

/// `POST /projects/:project/retention`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionRequest {
    /// Only say what would be collected.
    pub dry_run: bool,
}

/// What was collected, or would be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Retention {
    pub dry_run: bool,
    /// The newest compiled bundles that are kept in any case.
    pub keep: u32,
    pub collected: Vec<crate::bundle::BundleBrief>,
}
