//! Freeze windows, environments, rollout templates and approvals.

use crate::rollout::RolloutRequest;
use domain::environment::EnvironmentSettings;
use domain::node::Selector;
use domain::{FreezeId, ProjectId, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

/// Without `starts_at` it holds from now, without `ends_at` until somebody ends it: the red button.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FreezeRequest {
    pub name: String,
    pub reason: String,
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub starts_at: Option<Timestamp>,
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ends_at: Option<Timestamp>,
    /// Binds only rollouts with a target in it.
    #[serde(default)]
    pub environment_id: Option<Uuid>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FreezeWindow {
    #[schema(value_type = Uuid)]
    pub id: FreezeId,
    /// `null`: every project of the organisation.
    #[schema(value_type = Option<Uuid>)]
    pub project_id: Option<ProjectId>,
    pub environment_id: Option<Uuid>,
    pub name: String,
    pub reason: String,
    #[schema(value_type = String, format = DateTime)]
    pub starts_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ends_at: Option<Timestamp>,
    /// It holds now.
    pub active: bool,
    pub created_by_id: Option<Uuid>,
    #[schema(value_type = String, format = DateTime)]
    pub inserted_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EnvironmentRequest {
    pub name: String,
    /// Default: made from the name.
    #[serde(default)]
    pub slug: Option<String>,
    /// Their order, lowest first.
    #[serde(default)]
    pub ordinal: Option<i64>,
    #[schema(schema_with = crate::schema::selector)]
    pub selector: Selector,
    #[serde(default, deserialize_with = "crate::wire::object")]
    #[schema(schema_with = crate::schema::environment_settings)]
    pub settings: Option<EnvironmentSettings>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Environment {
    pub id: Uuid,
    #[schema(value_type = Uuid)]
    pub project_id: ProjectId,
    pub name: String,
    pub slug: String,
    pub ordinal: i64,
    #[schema(schema_with = crate::schema::selector)]
    pub selector: Selector,
    #[schema(schema_with = crate::schema::environment_settings)]
    pub settings: EnvironmentSettings,
    #[schema(value_type = String, format = DateTime)]
    pub inserted_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TemplateRequest {
    pub name: String,
    /// Everything a rollout may say but its bundle.
    #[serde(default)]
    pub settings: RolloutRequest,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RolloutTemplate {
    pub id: Uuid,
    #[schema(value_type = Uuid)]
    pub project_id: ProjectId,
    pub name: String,
    #[schema(value_type = Object)]
    pub settings: Value,
    #[schema(value_type = String, format = DateTime)]
    pub inserted_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// What one person said of a rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Vote {
    #[schema(value_type = Uuid)]
    pub user_id: UserId,
    /// `approved` or `rejected`.
    pub decision: String,
    pub comment: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// It speaks of what would start now.
    pub current: bool,
}

/// `GET /rollouts/:id/approvals`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Approvals {
    /// Different people; 0: none is needed.
    pub needed: u32,
    /// `not_needed`, `approved`, `waiting` or `rejected`.
    pub standing: String,
    /// Of the specification and the nodes that would be touched.
    pub content_hash: String,
    pub votes: Vec<Vote>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StartRequest {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub override_freeze: Option<bool>,
    /// Required to override a freeze.
    #[serde(alias = "note", skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
