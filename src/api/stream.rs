//! What `GET /events/stream` sends.

use domain::ProjectId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Something has a new version; fetch it if yours is older. The kind `resync` means: fetch everything again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StreamEvent {
    pub kind: String,
    #[schema(value_type = Option<uuid::Uuid>)]
    pub id: Option<uuid::Uuid>,
    pub version: u64,
    #[schema(value_type = Option<uuid::Uuid>)]
    pub project_id: Option<ProjectId>,
}
