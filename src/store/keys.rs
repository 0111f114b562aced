//! Small tables: idempotency, outbox, settings.

use crate::Store;
use crate::error::{Q, Result};
use crate::value::{Cells, json, p};
use crate::write::{IdemRecord, OutboxItem, Write, finish};
use domain::Timestamp;
use serde_json::Value;
use uuid::Uuid;

#[derive(Clone, Debug, PartialEq)]
pub struct OutboxRow {
    pub item: OutboxItem,
    pub attempts: u32,
    /// When it was put in.
    pub at: Timestamp,
}

fn read_idem(r: &mut Cells) -> Q<IdemRecord> {
    Ok(IdemRecord {
        credential: r.get()?,
        route: r.get()?,
        key: r.get()?,
        body_hash: r.get()?,
        status: r.get()?,
        response: r.json()?,
        expires_at: r.get()?,
    })
}

impl Store {
    /// The answer given before, unless it expired.
    pub async fn idempotent(
        &self,
        credential: &str,
        route: &str,
        key: &str,
        now: Timestamp,
    ) -> Result<Option<IdemRecord>> {
        self.read("idempotency.get", (credential.to_string(), route.to_string(), key.to_string(), now), |c, (credential, route, key, now)| {
            Box::pin(async move {
                let sql = "SELECT credential, route, idem_key, body_hash, status, response, expires_at FROM idempotency_keys \
                           WHERE credential = ? AND route = ? AND idem_key = ? AND expires_at > ?";
                c.maybe(sql, p![credential, route, key, *now], read_idem).await
            })
        })
        .await
    }

    pub async fn prune_idempotency(&self, now: Timestamp) -> Result<u64> {
        self.write("idempotency.prune", now, |c, now| {
            Box::pin(async move { c.exec("DELETE FROM idempotency_keys WHERE expires_at <= ?", p![*now]).await })
        })
        .await
    }

    pub async fn outbox_due(&self, now: Timestamp, limit: u32) -> Result<Vec<OutboxRow>> {
        self.read("outbox.due", (now, limit), |c, (now, limit)| {
            Box::pin(async move {
                let sql = "SELECT id, channel, payload, project_id, attempts, inserted_at FROM outbox WHERE next_at <= ? ORDER BY next_at, id LIMIT ?";
                c.rows(sql, p![*now, *limit], |r| {
                    let item = OutboxItem { id: r.get()?, channel: r.get()?, payload: r.json()?, project: r.get()? };
                    Ok(OutboxRow { item, attempts: r.get()?, at: r.get()? })
                })
                .await
            })
        })
        .await
    }

    pub async fn outbox_done(&self, id: Uuid) -> Result<()> {
        self.write("outbox.done", id, |c, id| {
            Box::pin(async move { c.exec("DELETE FROM outbox WHERE id = ?", p![*id]).await.map(drop) })
        })
        .await
    }

    /// It failed: one attempt more, the next at `next_at`.
    pub async fn outbox_later(&self, id: Uuid, next_at: Timestamp, error: String) -> Result<()> {
        self.write("outbox.later", (id, next_at, error), |c, (id, next_at, error)| {
            Box::pin(async move {
                let sql = "UPDATE outbox SET attempts = attempts + 1, next_at = ?, error = ? WHERE id = ?";
                c.exec_one(sql, p![*next_at, error, *id]).await
            })
        })
        .await
    }

    pub async fn setting(&self, key: &str) -> Result<Option<Value>> {
        self.read("setting.get", key.to_string(), |c, key| {
            Box::pin(async move { c.maybe("SELECT value FROM settings WHERE key = ?", p![key], |r| r.json()).await })
        })
        .await
    }

    pub async fn put_setting(&self, key: &str, value: Value, w: Write) -> Result<()> {
        self.write("setting.put", (key.to_string(), value, w), |c, (key, value, w)| {
            Box::pin(async move {
                let sql = "INSERT INTO settings (key, value, updated_at) VALUES (?, ?, ?) \
                           ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at";
                c.exec(sql, p![key, json(value), w.at]).await?;
                finish(c, w).await
            })
        })
        .await
    }

    /// The first writer wins, and everyone gets the winner's value.
    pub async fn setting_or_put(&self, key: &str, value: Value) -> Result<Value> {
        self.write("setting.or_put", (key.to_string(), value), |c, (key, value)| {
            Box::pin(async move {
                let sql =
                    "INSERT INTO settings (key, value, updated_at) VALUES (?, ?, {now}) ON CONFLICT (key) DO NOTHING";
                c.exec(sql, p![key, json(value)]).await?;
                c.one("SELECT value FROM settings WHERE key = ?", p![key], |r| r.json()).await
            })
        })
        .await
    }
}
