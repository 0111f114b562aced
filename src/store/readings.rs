//! What nodes served while some canary of their project is compared: counted by their sessions, read by the owner of the rollout.
//!
//! A memory, not a record: whoever loses it begins to count anew. What a verdict was based on is stored with the rollout's events.

use crate::Store;
use crate::error::Result;
use crate::value::{Col, p};
use domain::rollout::analysis::Reading;
use domain::{NodeId, ProjectId, Timestamp};

impl Store {
    /// The newest counts of these nodes, each over what it said before.
    pub async fn put_readings(&self, mut readings: Vec<Reading>, at: Timestamp) -> Result<()> {
        readings.sort_unstable_by_key(|r| r.node);
        readings.dedup_by_key(|r| r.node);
        for part in readings.chunks(crate::conn::MAX_BATCH) {
            self.write("node.readings", (part.to_vec(), at), |c, (part, at)| {
                Box::pin(async move {
                    let cols = vec![
                        ("node_id", Col::ids(part.iter().map(|r| r.node))),
                        ("generation", Col::ints(part.iter().map(|r| r.generation as i64))),
                        ("requests", Col::ints(part.iter().map(|r| r.requests as i64))),
                        ("errors", Col::ints(part.iter().map(|r| r.errors as i64))),
                        ("p99_us", Col::Int(part.iter().map(|r| r.p99_us.map(|p| p as i64)).collect())),
                    ];
                    let sql = "INSERT INTO node_readings (at, node_id, generation, requests, errors, p99_us) \
                               SELECT ?, v.node_id, v.generation, v.requests, v.errors, v.p99_us FROM {v} WHERE 1 = 1 \
                               ON CONFLICT (node_id) DO UPDATE SET at = excluded.at, generation = excluded.generation, \
                               requests = excluded.requests, errors = excluded.errors, p99_us = excluded.p99_us";
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

    /// Projects in which some canary runs: their nodes' traffic is counted.
    pub async fn measured_projects(&self) -> Result<Vec<ProjectId>> {
        self.read("rollout.measured", (), |c, ()| {
            Box::pin(async move {
                let sql = "SELECT DISTINCT project_id FROM rollouts WHERE state = 'running' AND strategy = 'canary'";
                c.rows(sql, p![], |r| r.get()).await
            })
        })
        .await
    }
}
