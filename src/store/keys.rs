//! Small tables: idempotency, outbox, signing keys, trust, settings.

use crate::Store;
use crate::error::{Q, Result};
use crate::value::{Cells, json, p};
use crate::write::{IdemRecord, OutboxItem, Write, finish};
use domain::{OrgId, SigningKeyId, Timestamp};
use serde_json::Value;
use uuid::Uuid;

#[derive(Clone, Debug, PartialEq)]
pub struct OutboxRow {
    pub item: OutboxItem,
    pub attempts: u32,
    /// When it was put in.
    pub at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningKey {
    pub id: SigningKeyId,
    pub org: Option<OrgId>,
    /// `bundle`, `metadata`, `root`, `jwt`: each key has one role.
    pub role: String,
    /// hex SHA-256 of the public key.
    pub key_id: String,
    pub public: Vec<u8>,
    /// Encrypted under the master key; absent when it is kept elsewhere.
    pub private: Option<Vec<u8>>,
    pub status: String,
    pub inserted_at: Timestamp,
}

fn read_key(r: &mut Cells) -> Q<SigningKey> {
    Ok(SigningKey {
        id: r.get()?,
        org: r.get()?,
        role: r.get()?,
        key_id: r.get()?,
        public: r.get()?,
        private: r.get()?,
        status: r.get()?,
        inserted_at: r.get()?,
    })
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

fn of_org(org: Option<OrgId>) -> Uuid {
    org.map_or(Uuid::nil(), |o| o.0)
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

    pub async fn insert_signing_key(&self, key: SigningKey, w: Write) -> Result<()> {
        self.write("signing_key.insert", (key, w), |c, (k, w)| {
            Box::pin(async move {
                c.exec(
                    "INSERT INTO signing_keys (id, org_id, role, key_id, public, private, status, inserted_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    p![k.id, k.org, &k.role, &k.key_id, k.public.clone(), k.private.clone(), &k.status, k.inserted_at],
                )
                .await?;
                finish(c, w).await
            })
        })
        .await
    }

    /// Of this organisation, or of the installation itself; newest first.
    pub async fn signing_keys(&self, org: Option<OrgId>, role: Option<&str>) -> Result<Vec<SigningKey>> {
        self.read("signing_key.list", (org, role.map(String::from)), |c, (org, role)| {
            Box::pin(async move {
                let mut w = crate::types::Where::new("1 = 1");
                match org {
                    Some(o) => w.and_if("org_id = ?", Some(*o)),
                    None => w.and("org_id IS NULL", []),
                }
                w.and_if("role = ?", role.as_ref());
                let sql = format!(
                    "SELECT id, org_id, role, key_id, public, private, status, inserted_at FROM signing_keys WHERE {} ORDER BY inserted_at DESC, id DESC",
                    w.sql
                );
                c.rows(sql, w.params, read_key).await
            })
        })
        .await
    }

    pub async fn set_signing_key_status(&self, id: SigningKeyId, status: &str, w: Write) -> Result<()> {
        self.write("signing_key.status", (id, status.to_string(), w), |c, (id, status, w)| {
            Box::pin(async move {
                c.exec_one("UPDATE signing_keys SET status = ? WHERE id = ?", p![status, *id]).await?;
                finish(c, w).await
            })
        })
        .await
    }

    /// Errors: `Conflict("version")` when the version exists.
    pub async fn insert_trust(&self, org: Option<OrgId>, version: i64, body: Value, w: Write) -> Result<()> {
        self.write("trust.insert", (org, version, body, w), |c, (org, version, body, w)| {
            Box::pin(async move {
                let sql = "INSERT INTO trust_versions (org_id, version, body, inserted_at) VALUES (?, ?, ?, ?)";
                c.exec(sql, p![of_org(*org), *version, json(body), w.at]).await?;
                finish(c, w).await
            })
        })
        .await
    }

    pub async fn newest_trust(&self, org: Option<OrgId>) -> Result<Option<(i64, Value)>> {
        self.read("trust.newest", org, |c, org| {
            Box::pin(async move {
                let sql = "SELECT version, body FROM trust_versions WHERE org_id = ? ORDER BY version DESC LIMIT 1";
                c.maybe(sql, p![of_org(*org)], |r| Ok((r.get()?, r.json()?))).await
            })
        })
        .await
    }

    pub async fn trust(&self, org: Option<OrgId>, version: i64) -> Result<Value> {
        self.read("trust.get", (org, version), |c, (org, version)| {
            Box::pin(async move {
                let sql = "SELECT body FROM trust_versions WHERE org_id = ? AND version = ?";
                c.one(sql, p![of_org(*org), *version], |r| r.json()).await
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
