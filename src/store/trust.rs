//! Signing keys, trust documents and release statements.

use crate::Store;
use crate::error::{Fail, Q, Result};
use crate::types::{Listing, Page, Where};
use crate::value::{Cells, json, p};
use crate::write::{Write, finish};
use domain::{BundleId, OrgId, ProjectId, SigningKeyId, Timestamp};
use serde_json::Value;
use uuid::Uuid;

const KEY: &str = "id, org_id, role, key_id, public, private, status, exported_at, inserted_at";
const RELEASE: &str = "id, project_id, bundle_id, sequence, body, inserted_at";

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
    /// When the private half was shown to somebody.
    pub exported_at: Option<Timestamp>,
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
        exported_at: r.get()?,
        inserted_at: r.get()?,
    })
}

/// A statement of the bundle key about one bundle; see `bundle::trust::Release`.
#[derive(Clone, Debug, PartialEq)]
pub struct ReleaseRow {
    pub id: Uuid,
    pub project: ProjectId,
    pub bundle: BundleId,
    pub sequence: u64,
    /// The envelope.
    pub body: Value,
    pub inserted_at: Timestamp,
}

fn read_release(r: &mut Cells) -> Q<ReleaseRow> {
    Ok(ReleaseRow {
        id: r.get()?,
        project: r.get()?,
        bundle: r.get()?,
        sequence: r.get()?,
        body: r.json()?,
        inserted_at: r.get()?,
    })
}

fn of_org(org: Option<OrgId>) -> Uuid {
    org.map_or(Uuid::nil(), |o| o.0)
}

impl Store {
    pub async fn insert_signing_key(&self, key: SigningKey, w: Write) -> Result<()> {
        self.write("signing_key.insert", (key, w), |c, (k, w)| {
            Box::pin(async move {
                c.exec(
                    "INSERT INTO signing_keys (id, org_id, role, key_id, public, private, status, exported_at, inserted_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    p![k.id, k.org, &k.role, &k.key_id, k.public.clone(), k.private.clone(), &k.status, k.exported_at, k.inserted_at],
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
                let mut w = Where::new("1 = 1");
                match org {
                    Some(o) => w.and_if("org_id = ?", Some(*o)),
                    None => w.and("org_id IS NULL", []),
                }
                w.and_if("role = ?", role.as_ref());
                let sql = format!("SELECT {KEY} FROM signing_keys WHERE {} ORDER BY inserted_at DESC, id DESC", w.sql);
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

    /// The versions after `after`, in order, at most `limit`.
    pub async fn trust_after(&self, org: Option<OrgId>, after: i64, limit: u32) -> Result<Vec<(i64, Value)>> {
        self.read("trust.after", (org, after, limit), |c, (org, after, limit)| {
            Box::pin(async move {
                let sql =
                    "SELECT version, body FROM trust_versions WHERE org_id = ? AND version > ? ORDER BY version LIMIT ?";
                c.rows(sql, p![of_org(*org), *after, *limit], |r| Ok((r.get()?, r.json()?))).await
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

    /// The private half was shown. Errors: `NotFound` when it is not here.
    pub async fn set_key_exported(&self, id: SigningKeyId, w: Write) -> Result<()> {
        self.write("signing_key.exported", (id, w), |c, (id, w)| {
            Box::pin(async move {
                let sql = "UPDATE signing_keys SET exported_at = ? WHERE id = ? AND private IS NOT NULL";
                c.exec_one(sql, p![w.at, *id]).await?;
                finish(c, w).await
            })
        })
        .await
    }

    /// Forgets the private half; the public one stays. `false` when it was not here. Errors: `Conflict("state")` when nobody
    /// has a copy.
    pub async fn remove_private_key(&self, id: SigningKeyId, w: Write) -> Result<bool> {
        self.write("signing_key.remove", (id, w), |c, (id, w)| {
            Box::pin(async move {
                let sql = "SELECT private IS NOT NULL, exported_at FROM signing_keys WHERE id = ? {update}";
                let read = |r: &mut Cells| Ok((r.get::<bool>()?, r.get::<Option<Timestamp>>()?));
                match c.one(sql, p![*id], read).await? {
                    (false, _) => return Ok(false),
                    (true, None) => return Err(Fail::conflict("state")),
                    (true, Some(_)) => {}
                }
                c.exec_one("UPDATE signing_keys SET private = NULL WHERE id = ?", p![*id]).await?;
                finish(c, w).await?;
                Ok(true)
            })
        })
        .await
    }

    /// Every key whose private half is here, of all organisations.
    pub async fn sealed_keys(&self) -> Result<Vec<SigningKey>> {
        self.read("signing_key.sealed", (), |c, ()| {
            Box::pin(async move {
                let sql = format!("SELECT {KEY} FROM signing_keys WHERE private IS NOT NULL ORDER BY id");
                c.rows(sql, vec![], read_key).await
            })
        })
        .await
    }

    /// Replaces the sealed halves, all or none: under another master key.
    pub async fn reseal_keys(&self, keys: Vec<(SigningKeyId, Vec<u8>)>, w: Write) -> Result<()> {
        self.write("signing_key.reseal", (keys, w), |c, (keys, w)| {
            Box::pin(async move {
                for (id, sealed) in keys.iter() {
                    let sql = "UPDATE signing_keys SET private = ? WHERE id = ? AND private IS NOT NULL";
                    c.exec_one(sql, p![sealed.clone(), *id]).await?;
                }
                finish(c, w).await
            })
        })
        .await
    }

    /// Errors: `Conflict("sequence")` when the project has it or a higher one.
    pub async fn insert_release(&self, release: ReleaseRow, w: Write) -> Result<()> {
        self.write("release.insert", (release, w), |c, (r, w)| {
            Box::pin(async move {
                // One after the other: two at once would else both be the highest.
                c.rows("SELECT id FROM projects WHERE id = ? {update}", p![r.project], |_| Ok(())).await?;
                let sql = "SELECT count(*) FROM releases WHERE project_id = ? AND sequence >= ? AND bundle_id <> ?";
                if c.one(sql, p![r.project, r.sequence, r.bundle], |x| x.get::<i64>()).await? > 0 {
                    return Err(Fail::conflict("sequence"));
                }
                let sql = "DELETE FROM releases WHERE project_id = ? AND sequence = ? AND bundle_id = ?";
                c.exec(sql, p![r.project, r.sequence, r.bundle]).await?;
                c.exec(
                    "INSERT INTO releases (id, project_id, bundle_id, sequence, body, inserted_at) VALUES (?, ?, ?, ?, ?, ?)",
                    p![r.id, r.project, r.bundle, r.sequence, json(&r.body), r.inserted_at],
                )
                .await?;
                finish(c, w).await
            })
        })
        .await
    }

    /// Newest first.
    pub async fn releases(&self, project: ProjectId, page: Page) -> Result<Listing<ReleaseRow>> {
        self.read("release.list", (project, page), |c, (project, page)| {
            Box::pin(async move {
                let mut w = Where::new("project_id = ?");
                w.params = p![*project];
                let total = c
                    .one(format!("SELECT count(*) FROM releases WHERE {}", w.sql), w.params.clone(), |r| r.get())
                    .await?;
                w.and_if("sequence < ?", page.after::<u64>()?);
                let sql = format!(
                    "SELECT {RELEASE} FROM releases WHERE {} ORDER BY sequence DESC LIMIT {}",
                    w.sql,
                    page.limit() + 1
                );
                let rows = c.rows(sql, w.params, read_release).await?;
                Ok(Listing::cut(rows, total, page, |r| r.sequence.to_string()))
            })
        })
        .await
    }

    /// The newest statement about each bundle of the project.
    pub async fn newest_releases(&self, project: ProjectId) -> Result<Vec<ReleaseRow>> {
        self.read("release.newest", project, |c, project| {
            Box::pin(async move {
                let sql = format!(
                    "SELECT {RELEASE} FROM releases r WHERE project_id = ? AND NOT EXISTS (SELECT 1 FROM releases n \
                     WHERE n.project_id = r.project_id AND n.bundle_id = r.bundle_id AND n.sequence > r.sequence)"
                );
                c.rows(sql, p![*project], read_release).await
            })
        })
        .await
    }
}
