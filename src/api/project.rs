//! Projects and enrolment tokens.

use domain::node::Labels;
use domain::project::Settings;
use domain::{EnrolmentTokenId, OrgId, ProjectId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /projects`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProjectRequest {
    pub name: String,
    /// Unset: made from the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slug: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::wire::object")]
    #[schema(schema_with = crate::schema::settings)]
    pub settings: Option<Settings>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<uuid::Uuid>)]
    pub org_id: Option<OrgId>,
}

/// `PATCH /projects/:project`; settings are merged over the present ones.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProjectPatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schema::settings)]
    pub settings: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Project {
    #[schema(value_type = uuid::Uuid)]
    pub id: ProjectId,
    #[schema(value_type = uuid::Uuid)]
    pub org_id: OrgId,
    pub name: String,
    pub slug: String,
    pub description: String,
    #[schema(schema_with = crate::schema::settings)]
    pub settings: Settings,
    #[schema(value_type = String, format = DateTime)]
    pub inserted_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// `POST /projects/:project/enrolment-tokens`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EnrolmentTokenRequest {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_uses: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// Instead of `expires_at`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_seconds: Option<u32>,
    /// Win over what the node says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<std::collections::BTreeMap<String, String>>)]
    pub labels: Option<Labels>,
    /// Default `["*"]`: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_label_keys: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_replace: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EnrolmentToken {
    #[schema(value_type = uuid::Uuid)]
    pub id: EnrolmentTokenId,
    #[schema(value_type = uuid::Uuid)]
    pub project_id: ProjectId,
    pub name: String,
    pub max_uses: Option<u32>,
    pub uses: u32,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub labels: Labels,
    pub allowed_label_keys: Vec<String>,
    pub allow_replace: bool,
    #[schema(value_type = String, format = DateTime)]
    pub inserted_at: Timestamp,
}
