//! Copies of the database, and what must be said to one that was put back.
//!
//! A restored database is older than the fleet: nodes have accepted generations it does not know, and run what it did not assign.
//! So every node is lifted above whatever it can have accepted, and nothing counts as assigned until somebody says so anew: what
//! nodes run is heard, and not fought.

use crate::Store;
use crate::error::{Error, Result};
use crate::value::p;
use crate::write::{NewChange, Write, finish_with};
use crate::{ChangeKind, Database, StoreConfig};
use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, SqliteConnection};
use domain::{RolloutId, Timestamp};
use serde_json::json;
use std::path::Path;

/// How far a restore lifts generations: more assignments than one node receives between a backup and its restore, by far (one a
/// second for 30 years), and so little of 2^63 that it may be done nine billion times.
pub const LIFT: i64 = 1_000_000_000;
/// Key of the time at which this database was restored, until its first start has ended what was under way in it.
pub const RESTORED: &str = "restored";

/// One state of the database of `config`, while a server works on it, into a new file. Blocks.
/// Errors: `Invalid` unless it is SQLite; `Unavailable` when the file cannot be read or written.
pub fn copy_sqlite(config: &StoreConfig, to: &Path) -> Result<()> {
    let Database::Sqlite { path } = &config.database else {
        return Err(Error::Invalid("not a database of SQLite".into()));
    };
    let fail = |e: &dyn std::fmt::Display| Error::Unavailable(format!("{}: {e}", path.display()));
    if !path.is_file() {
        return Err(fail(&"there is no database"));
    }
    let mut c = SqliteConnection::establish(&path.to_string_lossy()).map_err(|e| fail(&e))?;
    let quoted = to.to_string_lossy().replace('\'', "''");
    c.batch_execute(&format!("PRAGMA busy_timeout = 5000; VACUUM INTO '{quoted}'")).map_err(|e| fail(&e))
}

impl Store {
    /// To be called once on a restored database, before any process works on it. Answers the number of nodes.
    pub async fn mark_restored(&self, w: Write) -> Result<u64> {
        self.write("backup.mark_restored", w, |c, w| {
            Box::pin(async move {
                let lifted = "UPDATE nodes SET lost_generation = generation + ?, handed_over = generation + ?, generation = generation + ?, \
                              desired_bundle = NULL, desired_rollout = NULL, updated_at = ? WHERE deleted_at IS NULL";
                let nodes = c.exec(lifted, p![LIFT, LIFT, LIFT, w.at]).await?;
                // Mail and leases are of processes and nodes that have gone on without this database.
                for sql in ["DELETE FROM rollout_inbox", "DELETE FROM instances", "UPDATE rollouts SET owner = NULL, fence = fence + 1"] {
                    c.exec(sql, vec![]).await?;
                }
                let note = "INSERT INTO settings (key, value, updated_at) VALUES (?, ?, ?) \
                            ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at";
                c.exec(note, p![RESTORED, crate::value::json(&json!(w.at.0)), w.at]).await?;
                let ring = NewChange { kind: ChangeKind::Setting, id: uuid::Uuid::nil(), project: None, version: w.at.0 };
                finish_with(c, w, &[ring]).await?;
                Ok(nodes)
            })
        })
        .await
    }

    /// Rollouts that could still tell a node something: active or waiting, or with debts or a lane.
    pub async fn unfinished_rollouts(&self) -> Result<Vec<RolloutId>> {
        self.read("backup.unfinished", (), |c, ()| {
            Box::pin(async move {
                let sql = "SELECT id FROM rollouts WHERE state IN ('pending', 'running', 'paused', 'rolling_back') OR lane_open > 0 \
                           OR id IN (SELECT rollout_id FROM debts) ORDER BY id";
                c.rows(sql, vec![], |r| r.get()).await
            })
        })
        .await
    }

    /// Rollouts whose log is not every number from its first to the last that was committed.
    pub async fn broken_logs(&self) -> Result<Vec<RolloutId>> {
        self.read("backup.broken_logs", (), |c, ()| {
            Box::pin(async move {
                let sql = "SELECT r.id FROM rollouts r LEFT JOIN (SELECT rollout_id, count(*) AS n, min(seq) AS low, max(seq) AS high FROM rollout_events \
                           GROUP BY rollout_id) e ON e.rollout_id = r.id \
                           WHERE coalesce(e.high, 0) <> r.last_seq OR (e.n IS NOT NULL AND e.n <> e.high - e.low + 1) ORDER BY r.id";
                c.rows(sql, vec![], |r| r.get()).await
            })
        })
        .await
    }

    /// When this database was restored, if nobody has started on it since.
    pub async fn restored_at(&self) -> Result<Option<Timestamp>> {
        Ok(self.setting(RESTORED).await?.and_then(|v| v.as_i64()).map(Timestamp))
    }
}
