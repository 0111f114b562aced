//! Who is there: the stored presence, moved only where it still holds what was judged.

use crate::Store;
use crate::conn::lock_nodes;
use crate::error::{Q, Result};
use crate::types::ChangeKind;
use crate::value::{Cells, Col, p};
use crate::write::{NewChange, Write, finish_with};
use domain::node::Generation;
use domain::{NodeId, ProjectId, RolloutId, Timestamp};

/// A node whose stored presence changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PresenceMoved {
    pub node: NodeId,
    pub project: ProjectId,
    pub desired_rollout: Option<RolloutId>,
    pub generation: Generation,
    pub handed_over: Generation,
    pub last_seen: Option<Timestamp>,
}

const MOVED: &str =
    "nodes.id, nodes.project_id, nodes.desired_rollout, nodes.generation, nodes.handed_over, nodes.last_seen";

fn read_moved(r: &mut Cells) -> Q<PresenceMoved> {
    Ok(PresenceMoved {
        node: r.get()?,
        project: r.get()?,
        desired_rollout: r.get()?,
        generation: r.get()?,
        handed_over: r.get()?,
        last_seen: r.get()?,
    })
}

fn changes(moved: &[PresenceMoved], at: Timestamp) -> Vec<NewChange> {
    let change =
        |m: &PresenceMoved| NewChange { kind: ChangeKind::Node, id: m.node.0, project: Some(m.project), version: at.0 };
    moved.iter().map(change).collect()
}

impl Store {
    /// Of these, the online ones whose stored last-seen is not newer than `not_heard_since` are offline from now.
    pub async fn set_presence_offline(
        &self,
        mut ids: Vec<NodeId>,
        not_heard_since: Timestamp,
        w: Write,
    ) -> Result<Vec<PresenceMoved>> {
        ids.sort_unstable();
        ids.dedup();
        self.write("node.offline", (ids, not_heard_since, w), |c, (ids, since, w)| {
            Box::pin(async move {
                let sql = format!(
                    "UPDATE nodes SET presence = 'offline', updated_at = ? FROM {{v}} WHERE nodes.id = v.id AND nodes.deleted_at IS NULL \
                     AND nodes.presence = 'online' AND (nodes.last_seen IS NULL OR nodes.last_seen <= ?) RETURNING {MOVED}"
                );
                lock_nodes(c, ids.iter().copied()).await?;
                let cols = vec![("id", Col::ids(ids.iter().copied()))];
                let moved = c.batch_rows(&sql, p![w.at, *since], cols, read_moved).await?;
                finish_with(c, w, &changes(&moved, w.at)).await?;
                Ok(moved)
            })
        })
        .await
    }

    /// Heard at these times: those not online are online from now; every last-seen goes up.
    pub async fn set_online(&self, mut heard: Vec<(NodeId, Timestamp)>, w: Write) -> Result<Vec<PresenceMoved>> {
        heard.sort_unstable_by_key(|(n, at)| (*n, std::cmp::Reverse(*at)));
        heard.dedup_by_key(|(n, _)| *n);
        self.write("node.online", (heard, w), |c, (heard, w)| {
            Box::pin(async move {
                let sql = format!(
                    "UPDATE nodes SET presence = 'online', updated_at = ?, \
                     last_seen = CASE WHEN nodes.last_seen IS NULL OR nodes.last_seen < v.at THEN v.at ELSE nodes.last_seen END \
                     FROM {{v}} WHERE nodes.id = v.id AND nodes.deleted_at IS NULL AND nodes.presence <> 'online' RETURNING {MOVED}"
                );
                lock_nodes(c, heard.iter().map(|h| h.0)).await?;
                let cols = vec![("id", Col::ids(heard.iter().map(|h| h.0))), ("at", Col::times(heard.iter().map(|h| h.1)))];
                let moved = c.batch_rows(&sql, p![w.at], cols, read_moved).await?;
                finish_with(c, w, &changes(&moved, w.at)).await?;
                Ok(moved)
            })
        })
        .await
    }

    /// Stored online, stored last-seen before `before`. Longest silent first.
    pub async fn stale_candidates(&self, before: Timestamp, limit: u32) -> Result<Vec<NodeId>> {
        self.read("node.stale", (before, limit), |c, (before, limit)| {
            Box::pin(async move {
                let sql = "SELECT id FROM nodes WHERE presence = 'online' AND deleted_at IS NULL AND (last_seen IS NULL OR last_seen < ?) \
                           ORDER BY last_seen LIMIT ?";
                c.rows(sql, p![*before, *limit], |r| r.get()).await
            })
        })
        .await
    }
}
