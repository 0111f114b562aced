//! Keys, trust documents, signatures and release statements.

use domain::{BundleId, SigningKeyId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// A signing key of an organisation. Its private half is never shown but by `export`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TrustKey {
    #[schema(value_type = uuid::Uuid)]
    pub id: SigningKeyId,
    /// `root`, `bundle` or `metadata`.
    pub role: String,
    /// Hex SHA-256 of the raw public key.
    pub key_id: String,
    /// base64 of 32 bytes.
    pub public_key: String,
    /// The newest trust document lists it: its signatures count.
    pub listed: bool,
    /// The private half is on the server.
    pub on_server: bool,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub exported_at: Option<Timestamp>,
    #[schema(value_type = String, format = DateTime)]
    pub inserted_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TrustRole {
    /// How many of the keys must sign.
    pub threshold: u32,
    /// Key ids.
    pub keys: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TrustRoles {
    pub root: TrustRole,
    pub bundle: TrustRole,
    pub metadata: TrustRole,
}

/// The newest trust document of an organisation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Trust {
    pub version: u64,
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// `sha256:<hex>`: what an enrolment command pins.
    pub root: String,
    pub roles: TrustRoles,
    pub artifact_origins: Vec<String>,
    /// Nodes take no bundle without a release statement, those that never saw one either.
    pub releases_required: bool,
    /// As nodes get it: `{payload, key_id, signature, more}`.
    #[schema(value_type = Object)]
    pub document: Value,
}

/// `POST /orgs/:id/keys`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrustKeyRequest {
    /// `root`, `bundle` or `metadata`.
    pub role: String,
    /// base64 of 32 bytes, for a key whose private half stays where it is. Absent: the server makes a pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrustRoleRequest {
    /// Key ids, all that shall count from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<u32>,
}

/// `POST /orgs/:id/trust/draft`, and `POST /orgs/:id/trust` with the changes or with the signed `document`, never both.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrustRequest {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<TrustRoleRequest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle: Option<TrustRoleRequest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<TrustRoleRequest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_origins: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// Whether nodes need a release statement with every change of the bundle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub releases_required: Option<bool>,
    /// A draft, signed where the root keys are.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub document: Option<Value>,
}

/// `POST /projects/:project/bundles/:id/signature`: what `sentinel-cp bundle sign` prints. Empty: the server's keys sign.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SignatureRequest {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<String>,
    /// base64, over the bytes of manifest.json.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// Further ones, where more than one has to sign: `[{key_id, signature}]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    pub more: Option<Value>,
}

/// `POST /projects/:project/releases`: what `sentinel-cp trust release` prints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRequest {
    pub payload: String,
    pub key_id: String,
    pub signature: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    pub more: Option<Value>,
}

/// A statement of the bundle keys about one bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Release {
    #[schema(value_type = uuid::Uuid)]
    pub id: uuid::Uuid,
    /// The row of the bundle.
    #[schema(value_type = uuid::Uuid)]
    pub bundle_row_id: BundleId,
    pub bundle_id: String,
    pub sequence: u64,
    /// Nothing with a lower sequence may run any more.
    pub floor: u64,
    /// Content ids that may not run any more.
    pub revoked: Vec<String>,
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// As nodes get it.
    #[schema(value_type = Object)]
    pub document: Value,
    #[schema(value_type = String, format = DateTime)]
    pub inserted_at: Timestamp,
}
