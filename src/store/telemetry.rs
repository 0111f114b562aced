//! What nodes push beside heartbeats. Bounded: of each node and kind the newest stay, of its configuration the last.

use crate::Store;
use crate::error::Result;
use crate::types::{Listing, Page, Where};
use crate::value::{Cells, Col, p};
use crate::write::{Write, finish};
use domain::node::SampleKind;
use domain::{Digest, NodeId, ProjectId, Scope, Timestamp};
use serde_json::Value;

/// One thing that a node counted or saw.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub kind: SampleKind,
    pub detail: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub struct StoredSample {
    pub seq: i64,
    /// When it was received.
    pub at: Timestamp,
    pub detail: Value,
}

/// The configuration that a node says it runs.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeConfig {
    pub hash: Digest,
    pub config: String,
    /// When it was first received as it is.
    pub at: Timestamp,
}

impl Store {
    /// All in one transaction. Of each kind the newest `keep` of the node stay.
    pub async fn put_samples(
        &self,
        node: NodeId,
        project: ProjectId,
        samples: Vec<Sample>,
        keep: u32,
        w: Write,
    ) -> Result<()> {
        self.write("node.samples", (node, project, samples, keep, w), |c, (node, project, samples, keep, w)| {
            Box::pin(async move {
                for part in samples.chunks(crate::conn::MAX_BATCH) {
                    let cols = vec![
                        ("kind", Col::texts(part.iter().map(|s| s.kind.as_str()))),
                        ("detail", Col::json(part.iter().map(|s| &s.detail))),
                    ];
                    let sql = "INSERT INTO node_samples (node_id, project_id, at, kind, detail) \
                               SELECT ?, ?, ?, v.kind, v.detail FROM {v}";
                    c.batch(sql, p![*node, *project, w.at], cols).await?;
                }
                for kind in SampleKind::ALL.iter().filter(|k| samples.iter().any(|s| s.kind == **k)) {
                    let sql = "DELETE FROM node_samples WHERE node_id = ? AND kind = ? AND seq <= (SELECT seq FROM node_samples \
                               WHERE node_id = ? AND kind = ? ORDER BY seq DESC LIMIT 1 OFFSET ?)";
                    let (node, kind) = (*node, kind.as_str());
                    c.exec(sql, p![node, kind, node, kind, i64::from(*keep)]).await?;
                }
                finish(c, w).await
            })
        })
        .await
    }

    /// Newest first.
    pub async fn samples(
        &self,
        scope: Scope,
        id: NodeId,
        kind: SampleKind,
        page: Page,
    ) -> Result<Listing<StoredSample>> {
        self.read("node.samples_of", (scope, id, kind, page), |c, (scope, id, kind, page)| {
            Box::pin(async move {
                crate::nodes::node_in(c, *scope, *id).await?;
                let mut w = Where::new("node_id = ? AND kind = ?");
                w.params = p![*id, kind.as_str()];
                let count = format!("SELECT count(*) FROM node_samples WHERE {}", w.sql);
                let total = c.one(count, w.params.clone(), |r| r.get()).await?;
                w.and_if("seq < ?", page.after::<i64>()?);
                let sql = format!(
                    "SELECT seq, at, detail FROM node_samples WHERE {} ORDER BY seq DESC LIMIT {}",
                    w.sql,
                    page.limit() + 1
                );
                let read = |r: &mut Cells| Ok(StoredSample { seq: r.get()?, at: r.get()?, detail: r.json()? });
                let rows = c.rows(sql, w.params, read).await?;
                Ok(Listing::cut(rows, total, page, |s| s.seq.to_string()))
            })
        })
        .await
    }

    /// Replaces what was known. Answers whether it is another one.
    pub async fn put_node_config(
        &self,
        node: NodeId,
        project: ProjectId,
        hash: Digest,
        config: String,
        w: Write,
    ) -> Result<bool> {
        self.write("node.put_config", (node, project, hash, config, w), |c, (node, project, hash, config, w)| {
            Box::pin(async move {
                let sql = "INSERT INTO node_configs (node_id, project_id, hash, config, at) VALUES (?, ?, ?, ?, ?) \
                           ON CONFLICT (node_id) DO UPDATE SET hash = excluded.hash, config = excluded.config, at = excluded.at \
                           WHERE node_configs.hash <> excluded.hash";
                let changed = c.exec(sql, p![*node, *project, *hash, config.clone(), w.at]).await? > 0;
                finish(c, w).await?;
                Ok(changed)
            })
        })
        .await
    }

    /// `NotFound` also for a node that never said.
    pub async fn node_config(&self, scope: Scope, id: NodeId) -> Result<NodeConfig> {
        self.read("node.config", (scope, id), |c, (scope, id)| {
            Box::pin(async move {
                crate::nodes::node_in(c, *scope, *id).await?;
                let sql = "SELECT hash, config, at FROM node_configs WHERE node_id = ?";
                let read = |r: &mut Cells| Ok(NodeConfig { hash: r.get()?, config: r.get()?, at: r.get()? });
                c.one(sql, p![*id], read).await
            })
        })
        .await
    }
}
