//! What stands around rollouts: groups of nodes, freezes, environments and templates, approvals.

use crate::Store;
use crate::error::{Q, Result};
use crate::value::{Cells, json, opt_json, p};
use crate::write::{Write, finish};
use domain::approval::APPROVAL_LASTS;
pub use domain::freeze::Freeze;
use domain::node::Selector;
use domain::{Digest, FreezeId, NodeId, ProjectId, RolloutId, Timestamp, UserId};
use serde_json::Value;
use uuid::Uuid;

#[derive(Clone, Debug, PartialEq)]
pub struct NodeGroup {
    pub id: Uuid,
    pub project: ProjectId,
    pub name: String,
    pub selector: Option<Selector>,
    pub node_ids: Vec<NodeId>,
    pub inserted_at: Timestamp,
    pub updated_at: Timestamp,
}

/// An environment or a template: a name and settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    pub id: Uuid,
    pub project: ProjectId,
    pub name: String,
    pub ordinal: i64,
    pub body: Value,
    pub inserted_at: Timestamp,
    pub updated_at: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Documents {
    Environments,
    Templates,
}

impl Documents {
    fn table(self) -> &'static str {
        match self {
            Documents::Environments => "environments",
            Documents::Templates => "rollout_templates",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    pub rollout: RolloutId,
    pub user: UserId,
    /// `approved` or `rejected`.
    pub decision: String,
    pub comment: Option<String>,
    /// Of what was approved.
    pub spec_hash: Digest,
    pub at: Timestamp,
}

const GROUP: &str = "id, project_id, name, selector, node_ids, inserted_at, updated_at";
const FREEZE: &str =
    "id, org_id, project_id, environment_id, name, reason, starts_at, ends_at, created_by, inserted_at";
const DOCUMENT: &str = "id, project_id, name, ordinal, body, inserted_at, updated_at";

fn read_group(r: &mut Cells) -> Q<NodeGroup> {
    Ok(NodeGroup {
        id: r.get()?,
        project: r.get()?,
        name: r.get()?,
        selector: r.opt_json()?,
        node_ids: r.json()?,
        inserted_at: r.get()?,
        updated_at: r.get()?,
    })
}

fn read_freeze(r: &mut Cells) -> Q<Freeze> {
    Ok(Freeze {
        id: r.get()?,
        org: r.get()?,
        project: r.get()?,
        environment: r.get()?,
        name: r.get()?,
        reason: r.get()?,
        starts_at: r.get()?,
        ends_at: r.get()?,
        created_by: r.get()?,
        inserted_at: r.get()?,
    })
}

fn read_document(r: &mut Cells) -> Q<Document> {
    Ok(Document {
        id: r.get()?,
        project: r.get()?,
        name: r.get()?,
        ordinal: r.get()?,
        body: r.json()?,
        inserted_at: r.get()?,
        updated_at: r.get()?,
    })
}

impl Store {
    /// Errors: `Conflict("name")`.
    pub async fn insert_group(&self, group: NodeGroup, w: Write) -> Result<()> {
        self.write("group.insert", (group, w), |c, (g, w)| {
            Box::pin(async move {
                let params = p![
                    g.id,
                    g.project,
                    &g.name,
                    opt_json(g.selector.as_ref()),
                    json(&g.node_ids),
                    g.inserted_at,
                    g.updated_at
                ];
                c.exec(format!("INSERT INTO node_groups ({GROUP}) VALUES (?, ?, ?, ?, ?, ?, ?)"), params).await?;
                finish(c, w).await
            })
        })
        .await
    }

    pub async fn update_group(&self, group: NodeGroup, w: Write) -> Result<()> {
        self.write("group.update", (group, w), |c, (g, w)| {
            Box::pin(async move {
                let sql = "UPDATE node_groups SET name = ?, selector = ?, node_ids = ?, updated_at = ? WHERE id = ? AND project_id = ?";
                let params = p![&g.name, opt_json(g.selector.as_ref()), json(&g.node_ids), w.at, g.id, g.project];
                c.exec_one(sql, params).await?;
                finish(c, w).await
            })
        })
        .await
    }

    pub async fn delete_group(&self, project: ProjectId, id: Uuid, w: Write) -> Result<()> {
        self.write("group.delete", (project, id, w), |c, (project, id, w)| {
            Box::pin(async move {
                c.exec_one("DELETE FROM node_groups WHERE id = ? AND project_id = ?", p![*id, *project]).await?;
                finish(c, w).await
            })
        })
        .await
    }

    pub async fn groups(&self, project: ProjectId) -> Result<Vec<NodeGroup>> {
        self.read("group.list", project, |c, project| {
            Box::pin(async move {
                c.rows(
                    format!("SELECT {GROUP} FROM node_groups WHERE project_id = ? ORDER BY id"),
                    p![*project],
                    read_group,
                )
                .await
            })
        })
        .await
    }

    pub async fn group(&self, project: ProjectId, id: Uuid) -> Result<NodeGroup> {
        self.read("group.get", (project, id), |c, (project, id)| {
            Box::pin(async move {
                let sql = format!("SELECT {GROUP} FROM node_groups WHERE id = ? AND project_id = ?");
                c.one(sql, p![*id, *project], read_group).await
            })
        })
        .await
    }

    pub async fn insert_freeze(&self, freeze: Freeze, w: Write) -> Result<()> {
        self.write("freeze.insert", (freeze, w), |c, (f, w)| {
            Box::pin(async move {
                let params = p![
                    f.id,
                    f.org,
                    f.project,
                    f.environment,
                    &f.name,
                    &f.reason,
                    f.starts_at,
                    f.ends_at,
                    f.created_by,
                    f.inserted_at
                ];
                c.exec(format!("INSERT INTO freeze_windows ({FREEZE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"), params)
                    .await?;
                finish(c, w).await
            })
        })
        .await
    }

    pub async fn update_freeze(&self, freeze: Freeze, w: Write) -> Result<()> {
        self.write("freeze.update", (freeze, w), |c, (f, w)| {
            Box::pin(async move {
                let sql = "UPDATE freeze_windows SET name = ?, reason = ?, starts_at = ?, ends_at = ?, environment_id = ? WHERE id = ? AND org_id = ?";
                c.exec_one(sql, p![&f.name, &f.reason, f.starts_at, f.ends_at, f.environment, f.id, f.org]).await?;
                finish(c, w).await
            })
        })
        .await
    }

    pub async fn delete_freeze(&self, project: ProjectId, id: FreezeId, w: Write) -> Result<()> {
        self.write("freeze.delete", (project, id, w), |c, (project, id, w)| {
            Box::pin(async move {
                c.exec_one("DELETE FROM freeze_windows WHERE id = ? AND project_id = ?", p![*id, *project]).await?;
                finish(c, w).await
            })
        })
        .await
    }

    /// Those that bind this project, past ones too. Newest first.
    pub async fn freezes(&self, project: ProjectId) -> Result<Vec<Freeze>> {
        self.read("freeze.list", project, |c, project| {
            Box::pin(async move {
                let sql = format!(
                    "SELECT {FREEZE} FROM freeze_windows WHERE project_id = ? OR (project_id IS NULL AND org_id = (SELECT org_id FROM projects WHERE id = ?)) \
                     ORDER BY starts_at DESC, id DESC"
                );
                c.rows(sql, p![*project, *project], read_freeze).await
            })
        })
        .await
    }

    /// Of every project: those not over at `now`, begun or still to begin. Earliest first.
    pub async fn freezes_around(&self, now: Timestamp) -> Result<Vec<Freeze>> {
        self.read("freeze.around", now, |c, now| {
            Box::pin(async move {
                let sql = format!(
                    "SELECT {FREEZE} FROM freeze_windows WHERE ends_at IS NULL OR ends_at > ? ORDER BY starts_at, id"
                );
                c.rows(sql, p![*now], read_freeze).await
            })
        })
        .await
    }

    /// Errors: `Conflict("name")`.
    pub async fn insert_document(&self, kind: Documents, document: Document, w: Write) -> Result<()> {
        self.write("document.insert", (kind, document, w), |c, (kind, d, w)| {
            Box::pin(async move {
                let params = p![d.id, d.project, &d.name, d.ordinal, json(&d.body), d.inserted_at, d.updated_at];
                c.exec(format!("INSERT INTO {} ({DOCUMENT}) VALUES (?, ?, ?, ?, ?, ?, ?)", kind.table()), params)
                    .await?;
                finish(c, w).await
            })
        })
        .await
    }

    pub async fn update_document(&self, kind: Documents, document: Document, w: Write) -> Result<()> {
        self.write("document.update", (kind, document, w), |c, (kind, d, w)| {
            Box::pin(async move {
                let sql = format!(
                    "UPDATE {} SET name = ?, ordinal = ?, body = ?, updated_at = ? WHERE id = ? AND project_id = ?",
                    kind.table()
                );
                c.exec_one(sql, p![&d.name, d.ordinal, json(&d.body), w.at, d.id, d.project]).await?;
                finish(c, w).await
            })
        })
        .await
    }

    pub async fn delete_document(&self, kind: Documents, project: ProjectId, id: Uuid, w: Write) -> Result<()> {
        self.write("document.delete", (kind, project, id, w), |c, (kind, project, id, w)| {
            Box::pin(async move {
                c.exec_one(format!("DELETE FROM {} WHERE id = ? AND project_id = ?", kind.table()), p![*id, *project])
                    .await?;
                finish(c, w).await
            })
        })
        .await
    }

    pub async fn documents(&self, kind: Documents, project: ProjectId) -> Result<Vec<Document>> {
        self.read("document.list", (kind, project), |c, (kind, project)| {
            Box::pin(async move {
                let sql = format!("SELECT {DOCUMENT} FROM {} WHERE project_id = ? ORDER BY ordinal, id", kind.table());
                c.rows(sql, p![*project], read_document).await
            })
        })
        .await
    }

    pub async fn document(&self, kind: Documents, project: ProjectId, id: Uuid) -> Result<Document> {
        self.read("document.get", (kind, project, id), |c, (kind, project, id)| {
            Box::pin(async move {
                let sql = format!("SELECT {DOCUMENT} FROM {} WHERE id = ? AND project_id = ?", kind.table());
                c.one(sql, p![*id, *project], read_document).await
            })
        })
        .await
    }

    /// `false`: this person had decided the same of the same already, it still holds, and nothing was written.
    pub async fn put_approval(&self, approval: Approval, w: Write) -> Result<bool> {
        self.write("approval.put", (approval, w), |c, (a, w)| {
            Box::pin(async move {
                let sql = "INSERT INTO approvals (rollout_id, user_id, decision, comment, spec_hash, at) VALUES (?, ?, ?, ?, ?, ?) \
                           ON CONFLICT (rollout_id, user_id) DO UPDATE SET decision = excluded.decision, comment = excluded.comment, \
                           spec_hash = excluded.spec_hash, at = excluded.at \
                           WHERE approvals.decision <> excluded.decision OR approvals.spec_hash <> excluded.spec_hash OR approvals.at <= ?";
                let lapsed = a.at - APPROVAL_LASTS;
                let params = p![a.rollout, a.user, &a.decision, a.comment.clone(), a.spec_hash, a.at, lapsed];
                let changed = c.exec(sql, params).await? > 0;
                if changed {
                    finish(c, w).await?;
                }
                Ok(changed)
            })
        })
        .await
    }

    /// What the engine does not know of a rollout, anew.
    pub async fn set_rollout_options(&self, rollout: RolloutId, options: Value, w: Write) -> Result<()> {
        self.write("rollout.options", (rollout, options, w), |c, (rollout, options, w)| {
            Box::pin(async move {
                let sql = "UPDATE rollouts SET options = ?, updated_at = ? WHERE id = ?";
                c.exec_one(sql, p![json(options), w.at, *rollout]).await?;
                finish(c, w).await
            })
        })
        .await
    }

    pub async fn approvals(&self, rollout: RolloutId) -> Result<Vec<Approval>> {
        self.read("approval.list", rollout, |c, rollout| {
            Box::pin(async move {
                let sql = "SELECT rollout_id, user_id, decision, comment, spec_hash, at FROM approvals WHERE rollout_id = ? ORDER BY at, user_id";
                c.rows(sql, p![*rollout], |r| {
                    Ok(Approval {
                        rollout: r.get()?,
                        user: r.get()?,
                        decision: r.get()?,
                        comment: r.get()?,
                        spec_hash: r.get()?,
                        at: r.get()?,
                    })
                })
                .await
            })
        })
        .await
    }
}
