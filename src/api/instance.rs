//! The processes that share one database.

use domain::{InstanceId, RolloutId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Instance {
    #[schema(value_type = uuid::Uuid)]
    pub id: InstanceId,
    /// Where it listens.
    pub listen: String,
    /// Counts every start of any process on this database.
    pub epoch: i64,
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// When its lease ends unless it is renewed, by the database's clock.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// It takes no rollouts any more and is about to end.
    pub draining: bool,
    /// It answered this very request.
    pub this: bool,
    /// What it decides for now.
    #[schema(value_type = Vec<uuid::Uuid>)]
    pub rollout_ids: Vec<RolloutId>,
}
