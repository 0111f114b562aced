//! Drift: found by comparing rows, kept as rows of its own. One open drift for each node at most.

use crate::Store;
use crate::error::{Fail, Result};
use crate::types::{ChangeKind, Listing, Page, Where};
use crate::value::{Cells, Col, p};
use crate::write::{NewChange, Write, finish_with};
use domain::node::drift::{Compared, Drift, Resolution};
use domain::{NodeId, ProjectId, Timestamp, UserId};
use std::collections::HashSet;
use uuid::Uuid;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DriftFilter {
    /// `Some(true)`: only what is not resolved.
    pub open: Option<bool>,
    pub node: Option<NodeId>,
}

const DRIFT: &str = "d.id, d.project_id, d.node_id, d.expected, d.found, d.kind, d.detected_at, d.resolved_at, d.resolved_by, d.resolution";

fn read_drift(r: &mut Cells) -> crate::error::Q<Drift> {
    Ok(Drift {
        id: r.get()?,
        project: r.get()?,
        node: r.get()?,
        expected: r.get()?,
        found: r.get()?,
        severity: r.get()?,
        detected_at: r.get()?,
        resolved_at: r.get()?,
        resolved_by: r.get()?,
        resolution: r.get()?,
    })
}

/// Adopted and online, told what to run, held by no rollout, owed nothing.
const IDLE: &str = "n.deleted_at IS NULL AND n.standing = 'adopted' AND n.presence = 'online' AND n.generation > 0 \
                    AND n.handed_over = n.generation \
                    AND NOT EXISTS (SELECT 1 FROM active_rollout_nodes a WHERE a.node_id = n.id) \
                    AND NOT EXISTS (SELECT 1 FROM debts b WHERE b.node_id = n.id)";
const DIFFERS: &str = "(n.active_bundle <> n.desired_bundle OR (n.active_bundle IS NULL AND n.desired_bundle IS NOT NULL) \
                       OR (n.active_bundle IS NOT NULL AND n.desired_bundle IS NULL))";

impl Store {
    /// Idle nodes that run something else than they shall, have not changed since `since`, and have no open drift yet.
    pub async fn drifting(&self, since: Timestamp, limit: u32) -> Result<Vec<(ProjectId, Compared)>> {
        self.read("drift.find", (since, limit), |c, (since, limit)| {
            Box::pin(async move {
                let sql = format!(
                    "SELECT n.project_id, n.id, n.desired_bundle, n.active_bundle, b.status, \
                     CAST(CASE WHEN EXISTS (SELECT 1 FROM node_history h WHERE h.node_id = n.id AND h.bundle_id = n.active_bundle AND h.outcome <> 'verified' \
                     AND NOT EXISTS (SELECT 1 FROM node_history v WHERE v.node_id = h.node_id AND v.bundle_id = h.bundle_id AND v.outcome = 'verified' AND v.seq > h.seq)) \
                     THEN 1 ELSE 0 END AS BIGINT) \
                     FROM nodes n LEFT JOIN bundles b ON b.id = n.active_bundle \
                     WHERE {IDLE} AND {DIFFERS} AND n.updated_at <= ? \
                     AND NOT EXISTS (SELECT 1 FROM drift d WHERE d.node_id = n.id AND d.resolved_at IS NULL) ORDER BY n.id LIMIT ?"
                );
                c.rows(sql, p![*since, *limit], |r| {
                    let project = r.get()?;
                    let (node, expected, found, found_status) = (r.get()?, r.get()?, r.get()?, r.get()?);
                    let failed: i64 = r.get()?;
                    Ok((project, Compared { node, expected, found, found_status, found_failed: failed != 0 }))
                })
                .await
            })
        })
        .await
    }

    /// Open drifts whose node runs what it shall again, or is gone.
    pub async fn drift_ended(&self, limit: u32) -> Result<Vec<(Drift, Resolution)>> {
        self.read("drift.ended", limit, |c, limit| {
            Box::pin(async move {
                let sql = format!(
                    "SELECT {DRIFT}, n.id FROM drift d LEFT JOIN nodes n ON n.id = d.node_id AND n.deleted_at IS NULL AND n.standing = 'adopted' \
                     WHERE d.resolved_at IS NULL AND (n.id IS NULL OR NOT {DIFFERS}) ORDER BY d.id LIMIT ?"
                );
                c.rows(sql, p![*limit], |r| {
                    let drift = read_drift(r)?;
                    let there: Option<NodeId> = r.get()?;
                    Ok((drift, if there.is_some() { Resolution::Converged } else { Resolution::Gone }))
                })
                .await
            })
        })
        .await
    }

    /// Projects in which a drift is open.
    pub async fn drifting_projects(&self) -> Result<Vec<ProjectId>> {
        self.read("drift.projects", (), |c, ()| {
            Box::pin(async move {
                let sql = "SELECT DISTINCT project_id FROM drift WHERE resolved_at IS NULL ORDER BY project_id";
                c.rows(sql, p![], |r| r.get()).await
            })
        })
        .await
    }

    /// Open drifts of nodes that shall run a bundle which was never given to them again without a person asking. Oldest first.
    pub async fn repairable_drifts(&self, project: ProjectId, limit: u32) -> Result<Vec<Drift>> {
        self.read("drift.repairable", (project, limit), |c, (project, limit)| {
            Box::pin(async move {
                let sql = format!(
                    "SELECT {DRIFT} FROM drift d WHERE d.project_id = ? AND d.resolved_at IS NULL AND d.expected IS NOT NULL \
                     AND NOT EXISTS (SELECT 1 FROM drift o WHERE o.node_id = d.node_id AND o.project_id = d.project_id \
                     AND o.expected = d.expected AND o.resolution = 'reassigned' AND o.resolved_by IS NULL) ORDER BY d.id LIMIT ?"
                );
                c.rows(sql, p![*project, *limit], read_drift).await
            })
        })
        .await
    }

    /// New drifts; those of nodes that have an open one are left out, and so are the entries of `w` whose resource is one of these:
    /// of two sweeps that find the same at once, one tells of it. Answers how many were stored.
    pub async fn put_drifts(&self, drifts: Vec<Drift>, w: Write) -> Result<u64> {
        self.write("drift.put", (drifts, w), |c, (drifts, w)| {
            Box::pin(async move {
                let cols = vec![
                    ("id", Col::ids(drifts.iter().map(|d| d.id))),
                    ("project_id", Col::ids(drifts.iter().map(|d| d.project))),
                    ("node_id", Col::ids(drifts.iter().map(|d| d.node))),
                    ("expected", Col::opt_ids(drifts.iter().map(|d| d.expected))),
                    ("found", Col::opt_ids(drifts.iter().map(|d| d.found))),
                    ("kind", Col::texts(drifts.iter().map(|d| d.severity.as_str()))),
                    ("at", Col::times(drifts.iter().map(|d| d.detected_at))),
                    ("detail", Col::json(drifts.iter())),
                ];
                let sql = "INSERT INTO drift (id, project_id, node_id, expected, found, kind, detected_at, detail) \
                           SELECT v.id, v.project_id, v.node_id, v.expected, v.found, v.kind, v.at, v.detail FROM {v} WHERE 1 = 1 \
                           ON CONFLICT DO NOTHING RETURNING id";
                let stored = c.batch_rows(sql, p![], cols, |r| r.get::<Uuid>()).await?;
                let (stored, at) = (stored.into_iter().collect::<HashSet<_>>(), w.at);
                let (new, known): (Vec<&Drift>, Vec<&Drift>) = drifts.iter().partition(|d| stored.contains(&d.id));
                let left_out: HashSet<Uuid> = known.iter().map(|d| d.id).collect();
                let mut w = w.clone();
                w.audit.retain(|(_, entry)| entry.resource_id.is_none_or(|id| !left_out.contains(&id)));
                let change = |d: &&Drift| NewChange { kind: ChangeKind::Drift, id: d.id, project: Some(d.project), version: at.0 };
                finish_with(c, &w, &new.iter().map(change).collect::<Vec<_>>()).await?;
                Ok(new.len() as u64)
            })
        })
        .await
    }

    /// Resolve one. `NotFound`, or false when it was resolved before.
    pub async fn resolve_drift(
        &self,
        project: ProjectId,
        id: Uuid,
        how: Resolution,
        by: Option<UserId>,
        w: Write,
    ) -> Result<bool> {
        self.write("drift.resolve", (project, id, how, by, w), |c, (project, id, how, by, w)| {
            Box::pin(async move {
                let sql = "UPDATE drift SET resolved_at = ?, resolved_by = ?, resolution = ? WHERE id = ? AND project_id = ? AND resolved_at IS NULL";
                if c.exec(sql, p![w.at, *by, how.as_str(), *id, *project]).await? == 0 {
                    let known = c.maybe("SELECT id FROM drift WHERE id = ? AND project_id = ?", p![*id, *project], |r| r.get::<Uuid>()).await?;
                    return if known.is_some() { Ok(false) } else { Err(Fail::from(crate::error::Error::NotFound)) };
                }
                let change = NewChange { kind: ChangeKind::Drift, id: *id, project: Some(*project), version: w.at.0 };
                finish_with(c, w, &[change]).await?;
                Ok(true)
            })
        })
        .await
    }

    pub async fn drift(&self, project: ProjectId, id: Uuid) -> Result<Drift> {
        self.read("drift.one", (project, id), |c, (project, id)| {
            Box::pin(async move {
                let sql = format!("SELECT {DRIFT} FROM drift d WHERE d.id = ? AND d.project_id = ?");
                c.one(sql, p![*id, *project], read_drift).await
            })
        })
        .await
    }

    /// Newest first.
    pub async fn drifts(&self, project: ProjectId, filter: DriftFilter, page: Page) -> Result<Listing<Drift>> {
        self.read("drift.list", (project, filter, page), |c, (project, filter, page)| {
            Box::pin(async move {
                let mut w = Where::new("d.project_id = ?");
                w.params = p![*project];
                match filter.open {
                    Some(true) => w.and("d.resolved_at IS NULL", p![]),
                    Some(false) => w.and("d.resolved_at IS NOT NULL", p![]),
                    None => {}
                }
                w.and_if("d.node_id = ?", filter.node);
                let total: i64 = c
                    .one(format!("SELECT count(*) FROM drift d WHERE {}", w.sql), w.params.clone(), |r| r.get())
                    .await?;
                w.and_if("d.id < ?", page.after::<Uuid>()?);
                let limit = page.limit();
                let mut params = w.params;
                params.extend(p![limit + 1]);
                let sql = format!("SELECT {DRIFT} FROM drift d WHERE {} ORDER BY d.id DESC LIMIT ?", w.sql);
                let mut rows = c.rows(sql, params, read_drift).await?;
                let more = rows.len() > limit;
                rows.truncate(limit);
                let next_cursor = if more { rows.last().map(|d| d.id.to_string()) } else { None };
                Ok(Listing { rows, total, next_cursor })
            })
        })
        .await
    }

    /// Of open drifts, how many of each severity; and how many were resolved in all.
    pub async fn drift_stats(&self, project: ProjectId) -> Result<(Vec<(domain::node::drift::Severity, i64)>, i64)> {
        self.read("drift.stats", project, |c, project| {
            Box::pin(async move {
                let sql = "SELECT kind, count(*) FROM drift WHERE project_id = ? AND resolved_at IS NULL GROUP BY kind ORDER BY kind";
                let open = c.rows(sql, p![*project], |r| Ok((r.get()?, r.get()?))).await?;
                let sql = "SELECT count(*) FROM drift WHERE project_id = ? AND resolved_at IS NOT NULL";
                let resolved = c.one(sql, p![*project], |r| r.get()).await?;
                Ok((open, resolved))
            })
        })
        .await
    }
}
