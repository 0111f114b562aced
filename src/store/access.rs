//! Organisations, people, sign-ins and API keys.

use crate::Store;
use crate::conn::Conn;
use crate::error::{Fail, Q, Result};
use crate::types::{Changed, Listing, Page, Where};
use crate::value::{Cells, Col, json, p};
use crate::write::{Write, finish};
use domain::access::{ApiKey, Org, User, UserSession};
use domain::project::Project;
use domain::{ApiKeyId, Digest, KeyScope, OrgId, Role, Scope, SessionId, Timestamp, UserId};

/// What the first start creates.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    pub org: Org,
    pub admin: User,
    pub key: Option<ApiKey>,
    pub project: Option<Project>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Membership {
    pub org: Org,
    pub role: Role,
    pub since: Timestamp,
}

/// A session with whom it belongs to.
#[derive(Clone, Debug, PartialEq)]
pub struct SignedIn {
    pub session: UserSession,
    pub user: User,
    pub memberships: Vec<Membership>,
}

const ORG: &str = "o.id, o.name, o.slug, o.inserted_at";
pub(crate) const USER: &str = "u.id, u.email, u.password_hash, u.instance_admin, u.disabled_at, u.inserted_at";
const KEY: &str = "k.id, k.org_id, k.project_id, k.name, k.prefix, k.key_hash, k.scopes, k.created_by, k.last_used_at, \
                   k.expires_at, k.revoked_at, k.inserted_at";

fn read_org(r: &mut Cells) -> Q<Org> {
    Ok(Org { id: r.get()?, name: r.get()?, slug: r.get()?, inserted_at: r.get()? })
}

pub(crate) fn read_user(r: &mut Cells) -> Q<User> {
    Ok(User {
        id: r.get()?,
        email: r.get()?,
        password_hash: r.get()?,
        instance_admin: r.get()?,
        disabled_at: r.get()?,
        inserted_at: r.get()?,
    })
}

fn read_membership(r: &mut Cells) -> Q<Membership> {
    Ok(Membership { org: read_org(r)?, role: r.get()?, since: r.get()? })
}

fn read_session(r: &mut Cells) -> Q<UserSession> {
    Ok(UserSession {
        id: r.get()?,
        user: r.get()?,
        token_hash: r.get()?,
        csrf_hash: r.get()?,
        created_at: r.get()?,
        last_used_at: r.get()?,
        expires_at: r.get()?,
    })
}

fn read_key(r: &mut Cells) -> Q<ApiKey> {
    Ok(ApiKey {
        id: r.get()?,
        org: r.get()?,
        project: r.get()?,
        name: r.get()?,
        prefix: r.get()?,
        key_hash: r.get()?,
        scopes: r.json::<Vec<KeyScope>>()?,
        created_by: r.get()?,
        last_used_at: r.get()?,
        expires_at: r.get()?,
        revoked_at: r.get()?,
        inserted_at: r.get()?,
    })
}

pub(crate) async fn put_org(c: &mut Conn, o: &Org) -> Q<()> {
    c.exec(
        "INSERT INTO orgs (id, name, slug, inserted_at, updated_at) VALUES (?, ?, ?, ?, ?)",
        p![o.id, &o.name, &o.slug, o.inserted_at, o.inserted_at],
    )
    .await
    .map(drop)
}

pub(crate) async fn put_user(c: &mut Conn, u: &User) -> Q<()> {
    c.exec(
        "INSERT INTO users (id, email, password_hash, instance_admin, disabled_at, inserted_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
        p![u.id, &u.email, &u.password_hash, u.instance_admin, u.disabled_at, u.inserted_at, u.inserted_at],
    )
    .await
    .map(drop)
}

pub(crate) async fn put_member(c: &mut Conn, user: UserId, org: OrgId, role: Role, at: Timestamp) -> Q<()> {
    c.exec(
        "INSERT INTO memberships (user_id, org_id, role, inserted_at) VALUES (?, ?, ?, ?) \
         ON CONFLICT (user_id, org_id) DO UPDATE SET role = excluded.role",
        p![user, org, role.as_str(), at],
    )
    .await
    .map(drop)
}

async fn put_key(c: &mut Conn, k: &ApiKey) -> Q<()> {
    c.exec(
        "INSERT INTO api_keys (id, org_id, project_id, name, prefix, key_hash, scopes, created_by, last_used_at, expires_at, \
         revoked_at, inserted_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        p![
            k.id, k.org, k.project, &k.name, &k.prefix, k.key_hash, json(&k.scopes), k.created_by, k.last_used_at, k.expires_at,
            k.revoked_at, k.inserted_at
        ],
    )
    .await
    .map(drop)
}

async fn memberships_of(c: &mut Conn, user: UserId) -> Q<Vec<Membership>> {
    let sql = format!(
        "SELECT {ORG}, m.role, m.inserted_at FROM memberships m JOIN orgs o ON o.id = m.org_id \
         WHERE m.user_id = ? AND o.deleted_at IS NULL ORDER BY o.name, o.id"
    );
    c.rows(sql, p![user], read_membership).await
}

async fn key_in(c: &mut Conn, scope: Scope, id: ApiKeyId) -> Q<ApiKey> {
    let mut w = Where::new("k.id = ?");
    w.params = p![id];
    w.scope("k", scope);
    c.one(format!("SELECT {KEY} FROM api_keys k WHERE {}", w.sql), w.params, read_key).await
}

impl Store {
    /// Everything a first start creates, or `false` when there are users already.
    pub async fn bootstrap(&self, b: Bootstrap, w: Write) -> Result<bool> {
        self.write("bootstrap", (b, w), |c, (b, w)| {
            Box::pin(async move {
                if c.is_pg() {
                    // Two instances started at once: the second waits here and then finds the users.
                    c.rows("SELECT pg_advisory_xact_lock(?)", p![0x626f_6f74_i64], |_| Ok(())).await?;
                }
                if c.one("SELECT count(*) FROM users", vec![], |r| r.get::<i64>()).await? > 0 {
                    return Ok(false);
                }
                put_org(c, &b.org).await?;
                put_user(c, &b.admin).await?;
                put_member(c, b.admin.id, b.org.id, Role::Admin, w.at).await?;
                if let Some(p) = &b.project {
                    crate::projects::put_project(c, p).await?;
                }
                if let Some(k) = &b.key {
                    put_key(c, k).await?;
                }
                finish(c, w).await?;
                Ok(true)
            })
        })
        .await
    }

    /// Errors: `Conflict("slug")`.
    pub async fn insert_org(&self, org: Org, w: Write) -> Result<()> {
        self.write("org.insert", (org, w), |c, (o, w)| {
            Box::pin(async move {
                put_org(c, o).await?;
                finish(c, w).await
            })
        })
        .await
    }

    pub async fn org(&self, id: OrgId) -> Result<Org> {
        self.read("org.get", id, |c, id| {
            let sql = format!("SELECT {ORG} FROM orgs o WHERE o.id = ? AND o.deleted_at IS NULL");
            Box::pin(async move { c.one(sql, p![*id], read_org).await })
        })
        .await
    }

    pub async fn org_by_slug(&self, slug: &str) -> Result<Org> {
        self.read("org.by_slug", slug.to_string(), |c, slug| {
            let sql = format!("SELECT {ORG} FROM orgs o WHERE o.slug = ? AND o.deleted_at IS NULL");
            Box::pin(async move { c.one(sql, p![slug], read_org).await })
        })
        .await
    }

    /// Ordered by id; with `member`, only those that this user belongs to.
    pub async fn orgs(&self, member: Option<UserId>, page: Page) -> Result<Listing<Org>> {
        self.read("org.list", (member, page), |c, (member, page)| {
            Box::pin(async move {
                let mut w = Where::new("o.deleted_at IS NULL");
                w.and_if("o.id IN (SELECT org_id FROM memberships WHERE user_id = ?)", *member);
                let total = c
                    .one(format!("SELECT count(*) FROM orgs o WHERE {}", w.sql), w.params.clone(), |r| r.get())
                    .await?;
                w.and_if("o.id > ?", page.after::<OrgId>()?);
                let sql = format!("SELECT {ORG} FROM orgs o WHERE {} ORDER BY o.id LIMIT {}", w.sql, page.limit() + 1);
                let rows = c.rows(sql, w.params, read_org).await?;
                Ok(Listing::cut(rows, total, page, |o| o.id.to_string()))
            })
        })
        .await
    }

    pub async fn update_org(&self, org: Org, w: Write) -> Result<()> {
        self.write("org.update", (org, w), |c, (o, w)| {
            Box::pin(async move {
                let sql = "UPDATE orgs SET name = ?, slug = ?, updated_at = ? WHERE id = ? AND deleted_at IS NULL";
                c.exec_one(sql, p![&o.name, &o.slug, w.at, o.id]).await?;
                finish(c, w).await
            })
        })
        .await
    }

    /// Errors: `Conflict("state")` while it has projects.
    pub async fn delete_org(&self, id: OrgId, w: Write) -> Result<()> {
        self.write("org.delete", (id, w), |c, (id, w)| {
            Box::pin(async move {
                let sql = "SELECT count(*) FROM projects WHERE org_id = ? AND deleted_at IS NULL";
                if c.one(sql, p![*id], |r| r.get::<i64>()).await? > 0 {
                    return Err(Fail::conflict("state"));
                }
                c.exec_one("UPDATE orgs SET deleted_at = ? WHERE id = ? AND deleted_at IS NULL", p![w.at, *id]).await?;
                c.exec("UPDATE api_keys SET revoked_at = ? WHERE org_id = ? AND revoked_at IS NULL", p![w.at, *id])
                    .await?;
                finish(c, w).await
            })
        })
        .await
    }

    /// Errors: `Conflict("email")`.
    pub async fn insert_user(&self, user: User, w: Write) -> Result<()> {
        self.write("user.insert", (user, w), |c, (u, w)| {
            Box::pin(async move {
                put_user(c, u).await?;
                finish(c, w).await
            })
        })
        .await
    }

    pub async fn user(&self, id: UserId) -> Result<User> {
        self.read("user.get", id, |c, id| {
            Box::pin(
                async move { c.one(format!("SELECT {USER} FROM users u WHERE u.id = ?"), p![*id], read_user).await },
            )
        })
        .await
    }

    pub async fn user_by_email(&self, email: &str) -> Result<User> {
        self.read("user.by_email", email.to_string(), |c, email| {
            Box::pin(async move {
                c.one(format!("SELECT {USER} FROM users u WHERE u.email = ?"), p![email], read_user).await
            })
        })
        .await
    }

    pub async fn users(&self, page: Page) -> Result<Listing<User>> {
        self.read("user.list", page, |c, page| {
            Box::pin(async move {
                let total = c.one("SELECT count(*) FROM users", vec![], |r| r.get()).await?;
                let mut w = Where::new("1 = 1");
                w.and_if("u.id > ?", page.after::<UserId>()?);
                let sql =
                    format!("SELECT {USER} FROM users u WHERE {} ORDER BY u.id LIMIT {}", w.sql, page.limit() + 1);
                let rows = c.rows(sql, w.params, read_user).await?;
                Ok(Listing::cut(rows, total, page, |u| u.id.to_string()))
            })
        })
        .await
    }

    /// With the time each joined: who was a member before a rollout existed may approve it.
    pub async fn members(&self, org: OrgId) -> Result<Vec<(User, Role, Timestamp)>> {
        self.read("member.list", org, |c, org| {
            Box::pin(async move {
                let sql = format!(
                    "SELECT {USER}, m.role, m.inserted_at FROM memberships m JOIN users u ON u.id = m.user_id WHERE m.org_id = ? ORDER BY u.email"
                );
                c.rows(sql, p![*org], |r| Ok((read_user(r)?, r.get()?, r.get()?))).await
            })
        })
        .await
    }

    pub async fn memberships(&self, user: UserId) -> Result<Vec<Membership>> {
        self.read("member.of_user", user, |c, user| Box::pin(memberships_of(c, *user))).await
    }

    pub async fn insert_session(&self, session: UserSession, w: Write) -> Result<()> {
        self.write("session.insert", (session, w), |c, (s, w)| {
            Box::pin(async move {
                c.exec(
                    "INSERT INTO user_sessions (id, user_id, token_hash, csrf_hash, created_at, last_used_at, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
                    p![s.id, s.user, s.token_hash, s.csrf_hash, s.created_at, s.last_used_at, s.expires_at],
                )
                .await?;
                finish(c, w).await
            })
        })
        .await
    }

    /// Expiry and `disabled_at` are the caller's to judge.
    pub async fn session_by_hash(&self, token_hash: Digest) -> Result<SignedIn> {
        self.snapshot("session.get", token_hash, |c, hash| {
            Box::pin(async move {
                let sql = format!(
                    "SELECT s.id, s.user_id, s.token_hash, s.csrf_hash, s.created_at, s.last_used_at, s.expires_at, {USER} \
                     FROM user_sessions s JOIN users u ON u.id = s.user_id WHERE s.token_hash = ?"
                );
                let (session, user) = c.one(sql, p![*hash], |r| Ok((read_session(r)?, read_user(r)?))).await?;
                let memberships = memberships_of(c, user.id).await?;
                Ok(SignedIn { session, user, memberships })
            })
        })
        .await
    }

    pub async fn touch_session(&self, id: SessionId, at: Timestamp) -> Result<()> {
        self.write("session.touch", (id, at), |c, (id, at)| {
            Box::pin(async move {
                let sql = "UPDATE user_sessions SET last_used_at = ? WHERE id = ? AND last_used_at < ?";
                c.exec(sql, p![*at, *id, *at]).await.map(drop)
            })
        })
        .await
    }

    pub async fn delete_session(&self, id: SessionId, w: Write) -> Result<()> {
        self.write("session.delete", (id, w), |c, (id, w)| {
            Box::pin(async move {
                c.exec_one("DELETE FROM user_sessions WHERE id = ?", p![*id]).await?;
                finish(c, w).await
            })
        })
        .await
    }

    pub async fn delete_sessions_of(&self, user: UserId, w: Write) -> Result<u64> {
        self.write("session.delete_of_user", (user, w), |c, (user, w)| {
            Box::pin(async move {
                let n = c.exec("DELETE FROM user_sessions WHERE user_id = ?", p![*user]).await?;
                finish(c, w).await?;
                Ok(n)
            })
        })
        .await
    }

    /// Sessions that expired before `before`.
    pub async fn prune_sessions(&self, before: Timestamp) -> Result<u64> {
        self.write("session.prune", before, |c, before| {
            Box::pin(async move { c.exec("DELETE FROM user_sessions WHERE expires_at < ?", p![*before]).await })
        })
        .await
    }

    pub async fn insert_api_key(&self, key: ApiKey, w: Write) -> Result<()> {
        self.write("api_key.insert", (key, w), |c, (k, w)| {
            Box::pin(async move {
                put_key(c, k).await?;
                finish(c, w).await
            })
        })
        .await
    }

    /// Revocation and expiry are the caller's to judge.
    pub async fn api_key_by_hash(&self, hash: Digest) -> Result<ApiKey> {
        self.read("api_key.by_hash", hash, |c, hash| {
            Box::pin(async move {
                c.one(format!("SELECT {KEY} FROM api_keys k WHERE k.key_hash = ?"), p![*hash], read_key).await
            })
        })
        .await
    }

    pub async fn api_key(&self, scope: Scope, id: ApiKeyId) -> Result<ApiKey> {
        self.read("api_key.get", (scope, id), |c, (scope, id)| Box::pin(key_in(c, *scope, *id))).await
    }

    pub async fn api_keys(&self, scope: Scope, page: Page) -> Result<Listing<ApiKey>> {
        self.read("api_key.list", (scope, page), |c, (scope, page)| {
            Box::pin(async move {
                let mut w = Where::new("1 = 1");
                w.scope("k", *scope);
                let total = c
                    .one(format!("SELECT count(*) FROM api_keys k WHERE {}", w.sql), w.params.clone(), |r| r.get())
                    .await?;
                w.and_if("k.id > ?", page.after::<ApiKeyId>()?);
                let sql =
                    format!("SELECT {KEY} FROM api_keys k WHERE {} ORDER BY k.id LIMIT {}", w.sql, page.limit() + 1);
                let rows = c.rows(sql, w.params, read_key).await?;
                Ok(Listing::cut(rows, total, page, |k| k.id.to_string()))
            })
        })
        .await
    }

    pub async fn revoke_api_key(&self, scope: Scope, id: ApiKeyId, w: Write) -> Result<Changed<ApiKey>> {
        self.write("api_key.revoke", (scope, id, w), |c, (scope, id, w)| {
            Box::pin(async move {
                let mut key = key_in(c, *scope, *id).await?;
                let n = c
                    .exec("UPDATE api_keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL", p![w.at, *id])
                    .await?;
                if n > 0 {
                    key.revoked_at = Some(w.at);
                    finish(c, w).await?;
                }
                Ok(Changed { row: key, changed: n > 0 })
            })
        })
        .await
    }

    pub async fn delete_api_key(&self, scope: Scope, id: ApiKeyId, w: Write) -> Result<()> {
        self.write("api_key.delete", (scope, id, w), |c, (scope, id, w)| {
            Box::pin(async move {
                key_in(c, *scope, *id).await?;
                c.exec_one("DELETE FROM api_keys WHERE id = ?", p![*id]).await?;
                finish(c, w).await
            })
        })
        .await
    }

    /// Writes only when the key was never used before: of several instances one does.
    pub async fn first_use_of_api_key(&self, id: ApiKeyId, w: Write) -> Result<()> {
        self.write("api_key.first_use", (id, w), |c, (id, w)| {
            Box::pin(async move {
                let sql = "UPDATE api_keys SET last_used_at = ? WHERE id = ? AND last_used_at IS NULL";
                if c.exec(sql, p![w.at, *id]).await? > 0 {
                    finish(c, w).await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// When keys were last used, gathered by the caller and written in one go.
    pub async fn touch_api_keys(&self, used: Vec<(ApiKeyId, Timestamp)>) -> Result<()> {
        self.write("api_key.touch", used, |c, used| {
            Box::pin(async move {
                let cols = vec![("id", Col::ids(used.iter().map(|u| u.0))), ("at", Col::times(used.iter().map(|u| u.1)))];
                let sql = "UPDATE api_keys SET last_used_at = v.at FROM {v} \
                           WHERE api_keys.id = v.id AND (api_keys.last_used_at IS NULL OR api_keys.last_used_at < v.at)";
                c.batch(sql, vec![], cols).await.map(drop)
            })
        })
        .await
    }
}
