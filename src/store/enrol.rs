//! How nodes come in: enrolment tokens, registration, replacement.

use crate::Store;
use crate::conn::Conn;
use crate::error::{Fail, Q, Result};
use crate::nodes::{NODE, read_node};
use crate::types::{Listing, Page};
use crate::value::{Cells, json, p};
use crate::write::{Write, finish};
use domain::node::{Labels, Node};
use domain::{Digest, EnrolmentTokenId, NodeId, ProjectId, Timestamp};
use serde_json::Value;
use uuid::Uuid;

#[derive(Clone, Debug, PartialEq)]
pub struct EnrolmentToken {
    pub id: EnrolmentTokenId,
    pub project: ProjectId,
    pub name: String,
    pub token_hash: Digest,
    pub max_uses: Option<u32>,
    pub uses: u32,
    /// Given to every node that enrols with it.
    pub labels: Labels,
    /// Which of its own labels a node may bring; `"*"` is any.
    pub allowed_label_keys: Vec<String>,
    pub allow_replace: bool,
    pub expires_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
    pub created_by: Option<Uuid>,
    pub inserted_at: Timestamp,
}

/// A node that takes the place of an offline one of the same name.
#[derive(Clone, Debug)]
pub struct ReplaceNode {
    pub project: ProjectId,
    pub name: String,
    pub key_hash: Digest,
    pub labels: Labels,
    pub capabilities: Vec<String>,
    pub version: Option<String>,
    pub ip: Option<String>,
    pub hostname: Option<String>,
    pub metadata: Value,
}

const TOKEN: &str = "id, project_id, name, token_hash, max_uses, uses, labels, allowed_label_keys, allow_replace, expires_at, \
                     revoked_at, created_by, inserted_at";

fn read_token(r: &mut Cells) -> Q<EnrolmentToken> {
    Ok(EnrolmentToken {
        id: r.get()?,
        project: r.get()?,
        name: r.get()?,
        token_hash: r.get()?,
        max_uses: r.get()?,
        uses: r.get()?,
        labels: r.json()?,
        allowed_label_keys: r.json()?,
        allow_replace: r.get()?,
        expires_at: r.get()?,
        revoked_at: r.get()?,
        created_by: r.get()?,
        inserted_at: r.get()?,
    })
}

/// One use, or `Conflict("token")`: the condition and the count are one statement, so two registrations cannot share the last use.
async fn consume(c: &mut Conn, id: EnrolmentTokenId, project: ProjectId, at: Timestamp) -> Q<()> {
    let sql = "UPDATE enrolment_tokens SET uses = uses + 1 WHERE id = ? AND project_id = ? AND revoked_at IS NULL \
               AND (expires_at IS NULL OR expires_at > ?) AND (max_uses IS NULL OR uses < max_uses)";
    match c.exec(sql, p![id, project, at]).await? {
        0 => Err(Fail::conflict("token")),
        _ => Ok(()),
    }
}

async fn put_node(c: &mut Conn, n: &Node) -> Q<()> {
    c.exec(
        "INSERT INTO nodes (id, org_id, project_id, name, standing, key_hash, credential_epoch, labels, capabilities, version, ip, \
         hostname, metadata, presence, health, last_seen, instance, generation, handed_over, desired_bundle, desired_rollout, \
         traffic_weight, active_bundle, staged_bundle, verified_bundle, pinned_bundle, last_error, inserted_at, updated_at) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        p![
            n.id, n.org, n.project, &n.name, n.standing.as_str(), n.key_hash, n.credential_epoch, json(&n.labels),
            json(&n.capabilities), n.version.clone(), n.ip.clone(), n.hostname.clone(), json(&n.metadata), n.presence.as_str(),
            n.health.as_str(), n.last_seen, n.instance.clone(), n.generation, n.handed_over, n.desired_bundle, n.desired_rollout,
            n.traffic_weight, n.active_bundle, n.staged_bundle, n.verified_bundle, n.pinned_bundle, n.last_error.clone(),
            n.inserted_at, n.updated_at
        ],
    )
    .await
    .map(drop)
}

impl Store {
    pub async fn insert_enrolment_token(&self, token: EnrolmentToken, w: Write) -> Result<()> {
        self.write("enrolment_token.insert", (token, w), |c, (t, w)| {
            Box::pin(async move {
                let sql =
                    format!("INSERT INTO enrolment_tokens ({TOKEN}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
                c.exec(
                    sql,
                    p![
                        t.id,
                        t.project,
                        &t.name,
                        t.token_hash,
                        t.max_uses,
                        t.uses,
                        json(&t.labels),
                        json(&t.allowed_label_keys),
                        t.allow_replace,
                        t.expires_at,
                        t.revoked_at,
                        t.created_by,
                        t.inserted_at
                    ],
                )
                .await?;
                finish(c, w).await
            })
        })
        .await
    }

    pub async fn enrolment_tokens(&self, project: ProjectId, page: Page) -> Result<Listing<EnrolmentToken>> {
        self.read("enrolment_token.list", (project, page), |c, (project, page)| {
            Box::pin(async move {
                let total = c
                    .one("SELECT count(*) FROM enrolment_tokens WHERE project_id = ?", p![*project], |r| r.get())
                    .await?;
                let mut params = p![*project];
                let mut more = "";
                if let Some(after) = page.after::<EnrolmentTokenId>()? {
                    more = "AND id > ?";
                    params.extend(p![after]);
                }
                let sql = format!(
                    "SELECT {TOKEN} FROM enrolment_tokens WHERE project_id = ? {more} ORDER BY id LIMIT {}",
                    page.limit() + 1
                );
                let rows = c.rows(sql, params, read_token).await?;
                Ok(Listing::cut(rows, total, page, |t| t.id.to_string()))
            })
        })
        .await
    }

    /// Expiry, revocation and uses are judged again when a use is consumed.
    pub async fn enrolment_token_by_hash(&self, hash: Digest) -> Result<EnrolmentToken> {
        self.read("enrolment_token.by_hash", hash, |c, hash| {
            Box::pin(async move {
                c.one(format!("SELECT {TOKEN} FROM enrolment_tokens WHERE token_hash = ?"), p![*hash], read_token).await
            })
        })
        .await
    }

    pub async fn delete_enrolment_token(&self, project: ProjectId, id: EnrolmentTokenId, w: Write) -> Result<()> {
        self.write("enrolment_token.delete", (project, id, w), |c, (project, id, w)| {
            Box::pin(async move {
                c.exec_one("DELETE FROM enrolment_tokens WHERE id = ? AND project_id = ?", p![*id, *project]).await?;
                finish(c, w).await
            })
        })
        .await
    }

    /// Errors: `Conflict("token")` when it is used up, expired or revoked; `Conflict("name")`.
    pub async fn register_node(&self, token: Option<EnrolmentTokenId>, node: Node, w: Write) -> Result<()> {
        self.write("node.register", (token, node, w), |c, (token, n, w)| {
            Box::pin(async move {
                if let Some(t) = token {
                    consume(c, *t, n.project, w.at).await?;
                }
                put_node(c, n).await?;
                finish(c, w).await
            })
        })
        .await
    }

    /// The offline node of this name gets a new key and epoch; its id and generation go on, so that its history does.
    /// Errors: `NotFound` without such a node, `Conflict("name")` while it is online or was revoked, `Conflict("token")`.
    pub async fn replace_node(&self, token: EnrolmentTokenId, new: ReplaceNode, w: Write) -> Result<Node> {
        self.write("node.replace", (token, new, w), |c, (token, n, w)| {
            Box::pin(async move {
                consume(c, *token, n.project, w.at).await?;
                let find = "SELECT id FROM nodes WHERE project_id = ? AND name = ? AND deleted_at IS NULL {update}";
                let id: NodeId = c.one(find, p![n.project, &n.name], |r| r.get()).await?;
                let sql = "UPDATE nodes SET key_hash = ?, previous_key_hash = NULL, credential_epoch = credential_epoch + 1, labels = ?, capabilities = ?, version = ?, \
                           ip = ?, hostname = ?, metadata = ?, presence = 'online', last_seen = ?, instance = NULL, active_bundle = NULL, \
                           staged_bundle = NULL, verified_bundle = NULL, handed_over = 0, last_error = NULL, clock_skew = NULL, updated_at = ? \
                           WHERE id = ? AND presence <> 'online' AND standing <> 'revoked'";
                let params = p![
                    n.key_hash, json(&n.labels), json(&n.capabilities), n.version.clone(), n.ip.clone(), n.hostname.clone(),
                    json(&n.metadata), w.at, w.at, id
                ];
                if c.exec(sql, params).await? == 0 {
                    return Err(Fail::conflict("name"));
                }
                finish(c, w).await?;
                c.one(format!("SELECT {NODE} FROM nodes n WHERE n.id = ?"), p![id], read_node).await
            })
        })
        .await
    }
}
