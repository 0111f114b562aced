//! What nodes served and measured while a rollout of their project compares or asks: counted by their sessions, read by its owner.
//!
//! A memory, not a record: whoever loses it begins to count anew. What a verdict was based on is stored with the rollout's events.

use crate::Store;
use crate::error::Result;
use crate::value::{Col, p};
use domain::node::Metrics;
use domain::rollout::analysis::Reading;
use domain::{NodeId, ProjectId, Timestamp};
use std::collections::BTreeMap;

/// What a session counted of its node.
#[derive(Clone, Debug, PartialEq)]
pub struct Served {
    /// All of it, for a canary's comparison.
    pub reading: Reading,
    /// What the node measured lately.
    pub recent: Metrics,
}

impl Store {
    /// The newest counts of these nodes, each over what it said before.
    pub async fn put_readings(&self, mut served: Vec<Served>, at: Timestamp) -> Result<()> {
        served.sort_unstable_by_key(|s| s.reading.node);
        served.dedup_by_key(|s| s.reading.node);
        for part in served.chunks(crate::conn::MAX_BATCH) {
            self.write("node.readings", (part.to_vec(), at), |c, (part, at)| {
                Box::pin(async move {
                    let cols = vec![
                        ("node_id", Col::ids(part.iter().map(|s| s.reading.node))),
                        ("generation", Col::ints(part.iter().map(|s| s.reading.generation as i64))),
                        ("requests", Col::ints(part.iter().map(|s| s.reading.requests as i64))),
                        ("errors", Col::ints(part.iter().map(|s| s.reading.errors as i64))),
                        ("p99_us", Col::Int(part.iter().map(|s| s.reading.p99_us.map(|p| p as i64)).collect())),
                        ("recent", Col::json(part.iter().map(|s| &s.recent))),
                    ];
                    let sql = "INSERT INTO node_readings (at, node_id, generation, requests, errors, p99_us, recent) \
                               SELECT ?, v.node_id, v.generation, v.requests, v.errors, v.p99_us, v.recent FROM {v} WHERE 1 = 1 \
                               ON CONFLICT (node_id) DO UPDATE SET at = excluded.at, generation = excluded.generation, \
                               requests = excluded.requests, errors = excluded.errors, p99_us = excluded.p99_us, \
                               recent = excluded.recent";
                    c.batch(sql, p![*at], cols).await.map(drop)
                })
            })
            .await?;
        }
        Ok(())
    }

    /// What is known of these nodes, counted at `since` or later. By node.
    pub async fn readings(&self, nodes: Vec<NodeId>, since: Timestamp) -> Result<Vec<Reading>> {
        self.read("node.readings_of", (nodes, since), |c, (nodes, since)| {
            Box::pin(async move {
                let sql = "SELECT r.node_id, r.generation, r.requests, r.errors, r.p99_us \
                           FROM {v} JOIN node_readings r ON r.node_id = v.id WHERE r.at >= ? ORDER BY r.node_id";
                let cols = vec![("id", Col::ids(nodes.iter().copied()))];
                c.batch_rows(sql, p![*since], cols, |r| {
                    Ok(Reading {
                        node: r.get()?,
                        generation: r.get()?,
                        requests: r.get()?,
                        errors: r.get()?,
                        p99_us: r.get()?,
                    })
                })
                .await
            })
        })
        .await
    }

    /// What these nodes measured lately, as said at `since` or later.
    pub async fn recent_readings(&self, nodes: Vec<NodeId>, since: Timestamp) -> Result<BTreeMap<NodeId, Metrics>> {
        self.read("node.recent_readings_of", (nodes, since), |c, (nodes, since)| {
            Box::pin(async move {
                let sql = "SELECT r.node_id, r.recent FROM {v} JOIN node_readings r ON r.node_id = v.id \
                           WHERE r.at >= ? AND r.recent IS NOT NULL";
                let cols = vec![("id", Col::ids(nodes.iter().copied()))];
                let found = c.batch_rows(sql, p![*since], cols, |r| Ok((r.get()?, r.json()?))).await?;
                Ok(found.into_iter().collect())
            })
        })
        .await
    }

    /// Projects in which rollouts are under way: their nodes' traffic is counted. True: and written, because some canary is compared, or
    /// some rollout asks whether untouched nodes fail too.
    pub async fn measured_projects(&self) -> Result<Vec<(ProjectId, bool)>> {
        self.read("rollout.measured", (), |c, ()| {
            Box::pin(async move {
                let sql = "SELECT project_id, CAST(MAX(CASE WHEN asked OR (state = 'running' AND strategy = 'canary') THEN 1 ELSE 0 END) \
                           AS BIGINT) FROM rollouts WHERE state IN ('running', 'paused') GROUP BY project_id ORDER BY project_id";
                c.rows(sql, p![], |r| Ok((r.get()?, r.get::<i64>()? > 0))).await
            })
        })
        .await
    }
}
