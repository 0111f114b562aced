//! Signing in, API keys, organisations, users.

use domain::{ApiKeyId, KeyScope, OrgId, ProjectId, Role, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /session`
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignInRequest {
    pub email: String,
    pub password: String,
}

// The password must not get into a log by way of `{:?}`.
impl std::fmt::Debug for SignInRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignInRequest").field("email", &self.email).finish_non_exhaustive()
    }
}

/// The cookie `sentinel_session` goes along.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SignInAnswer {
    /// To be sent as `X-CSRF-Token` with every write.
    pub csrf_token: String,
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    pub user: User,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct User {
    #[schema(value_type = uuid::Uuid)]
    pub id: UserId,
    pub email: String,
    pub instance_admin: bool,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub disabled_at: Option<Timestamp>,
    #[schema(value_type = String, format = DateTime)]
    pub inserted_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Org {
    #[schema(value_type = uuid::Uuid)]
    pub id: OrgId,
    pub name: String,
    pub slug: String,
    /// The caller's role in it; absent for keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub role: Option<Role>,
    #[schema(value_type = String, format = DateTime)]
    pub inserted_at: Timestamp,
}

/// `POST /api-keys`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiKeyRequest {
    pub name: String,
    /// An empty list grants nothing.
    #[schema(value_type = Vec<String>)]
    pub scopes: Vec<KeyScope>,
    /// A slug or an id: binds the key to this project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_id: Option<String>,
    /// Unset: the organisation of the project, else the caller's first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<uuid::Uuid>)]
    pub org_id: Option<OrgId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiKey {
    #[schema(value_type = uuid::Uuid)]
    pub id: ApiKeyId,
    #[schema(value_type = uuid::Uuid)]
    pub org_id: OrgId,
    #[schema(value_type = Option<uuid::Uuid>)]
    pub project_id: Option<ProjectId>,
    pub name: String,
    /// The first characters, to recognise it by.
    pub prefix: String,
    #[schema(value_type = Vec<String>)]
    pub scopes: Vec<KeyScope>,
    #[schema(value_type = Option<uuid::Uuid>)]
    pub created_by_id: Option<UserId>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_used_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub revoked_at: Option<Timestamp>,
    #[schema(value_type = String, format = DateTime)]
    pub inserted_at: Timestamp,
}
