//! Pins that nobody carried out: the node is pinned to a bundle, and no rollout was made that gives it.

use crate::Store;
use crate::error::Result;
use crate::value::p;
use domain::node::Generation;
use domain::{BundleId, NodeId, OrgId, ProjectId};

/// A node that shall run its pinned bundle and was never told so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnfollowedPin {
    pub node: NodeId,
    pub project: ProjectId,
    pub org: OrgId,
    pub bundle: BundleId,
    /// What it was last told: a pin is followed once from here.
    pub generation: Generation,
}

impl Store {
    /// Adopted nodes whose pin may be handed out and is not what they were told, that no rollout holds. A rollout that was made for
    /// the pin since they were last told something counts whatever became of it: what failed or was cancelled is left to people.
    pub async fn unfollowed_pins(&self, limit: u32) -> Result<Vec<UnfollowedPin>> {
        self.read("node.unfollowed_pins", limit, |c, limit| {
            Box::pin(async move {
                let sql = "SELECT n.id, n.project_id, n.org_id, n.pinned_bundle, n.generation FROM nodes n \
                           JOIN bundles b ON b.id = n.pinned_bundle LEFT JOIN rollouts d ON d.id = n.desired_rollout \
                           WHERE n.standing = 'adopted' AND n.deleted_at IS NULL AND b.status IN ('compiled', 'deprecated') \
                           AND (n.desired_bundle IS NULL OR n.desired_bundle <> n.pinned_bundle) \
                           AND NOT EXISTS (SELECT 1 FROM active_rollout_nodes a WHERE a.node_id = n.id) \
                           AND NOT EXISTS (SELECT 1 FROM rollout_nodes m JOIN rollouts r ON r.id = m.rollout_id \
                               WHERE m.node_id = n.id AND r.bundle_id = n.pinned_bundle AND r.spec ->> 'kind' = 'pin' \
                               AND r.inserted_at >= COALESCE(d.inserted_at, 0)) ORDER BY n.id LIMIT ?";
                c.rows(sql, p![*limit], |r| {
                    Ok(UnfollowedPin {
                        node: r.get()?,
                        project: r.get()?,
                        org: r.get()?,
                        bundle: r.get()?,
                        generation: r.get()?,
                    })
                })
                .await
            })
        })
        .await
    }
}
