//! Groups of nodes.

use domain::node::Selector;
use domain::{NodeId, ProjectId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// `POST` and `PUT /projects/:project/node-groups`: a selector or a list, not both.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeGroupRequest {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schema::selector)]
    pub selector: Option<Selector>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Uuid>>)]
    pub node_ids: Option<Vec<NodeId>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeGroup {
    pub id: Uuid,
    #[schema(value_type = Uuid)]
    pub project_id: ProjectId,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schema::selector)]
    pub selector: Option<Selector>,
    /// Empty when there is a selector.
    #[schema(value_type = Vec<Uuid>)]
    pub node_ids: Vec<NodeId>,
    #[schema(value_type = String, format = DateTime)]
    pub inserted_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}
