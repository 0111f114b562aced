//! What nodes prove themselves with.

use domain::{NodeId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /projects/:project/nodes/:id/rotate-key`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RotateKeyRequest {
    /// How long the old key works on, unless the new one is used before. Default 0: not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 604800)]
    pub grace_seconds: Option<u32>,
}

/// `POST /nodes/:node_id/token`
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeTokenAnswer {
    /// To be sent as `Authorization: Bearer`.
    pub token: String,
    pub token_type: String,
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// Seconds.
    pub expires_in: i64,
}

/// `POST /nodes/:node_id/rotate-key`
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeKeyAnswer {
    #[schema(value_type = uuid::Uuid)]
    pub node_id: NodeId,
    /// Shown once.
    pub node_key: String,
    /// The old key works until the new one is used, and at most until then.
    #[schema(value_type = String, format = DateTime)]
    pub previous_valid_until: Timestamp,
}
