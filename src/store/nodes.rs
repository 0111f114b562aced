//! Nodes: reading them one by one, in lists, and by the hundred thousand; and what an operator changes of one.

use crate::Store;
use crate::conn::Conn;
use crate::error::{Q, Result};
use crate::rollout_commit::hold_bundle;
use crate::rollouts::{MEMBER, read_member};
use crate::types::{BundleFacts, Changed, FACTS, Listing, Page, Where, read_facts};
use crate::value::{Bind, Cells, Col, json, p};
use crate::write::{Write, finish};
use domain::node::{Busy, Generation, HealthClass, HistoryEntry, Labels, Node, Presence, Standing};
use domain::rollout::{Member, Phase, Spec};
use domain::{BundleId, Digest, InstanceId, NodeId, OrgId, ProjectId, RolloutId, Scope, Timestamp};
use std::collections::HashMap;

pub(crate) const NODE: &str = "n.id, n.org_id, n.project_id, n.name, n.standing, n.key_hash, n.credential_epoch, n.labels, n.capabilities, \
    n.version, n.ip, n.hostname, n.metadata, n.presence, n.health, n.last_seen, n.instance, n.generation, n.handed_over, n.desired_bundle, \
    n.desired_rollout, n.traffic_weight, n.active_bundle, n.staged_bundle, n.verified_bundle, n.pinned_bundle, n.last_error, \
    n.inserted_at, n.updated_at, n.clock_skew, n.busy_since, n.busy_until";

pub(crate) fn read_node(r: &mut Cells) -> Q<Node> {
    let node = Node {
        id: r.get()?,
        org: r.get()?,
        project: r.get()?,
        name: r.get()?,
        standing: r.get()?,
        key_hash: r.get()?,
        credential_epoch: r.get()?,
        labels: r.json()?,
        capabilities: r.json()?,
        version: r.get()?,
        ip: r.get()?,
        hostname: r.get()?,
        metadata: r.json()?,
        presence: r.get()?,
        health: r.get()?,
        last_seen: r.get()?,
        instance: r.get()?,
        generation: r.get()?,
        handed_over: r.get()?,
        desired_bundle: r.get()?,
        desired_rollout: r.get()?,
        traffic_weight: r.get()?,
        active_bundle: r.get()?,
        staged_bundle: r.get()?,
        verified_bundle: r.get()?,
        pinned_bundle: r.get()?,
        last_error: r.get()?,
        inserted_at: r.get()?,
        updated_at: r.get()?,
        clock_skew: r.get()?,
        busy: None,
    };
    let (since, until): (Option<Timestamp>, Option<Timestamp>) = (r.get()?, r.get()?);
    Ok(Node { busy: since.zip(until).map(|(since, until)| Busy { since, until }), ..node })
}

/// What the fleet's read model keeps of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct FleetNode {
    pub id: NodeId,
    pub org: OrgId,
    pub project: ProjectId,
    pub name: String,
    pub labels: Labels,
    pub standing: Standing,
    pub presence: Presence,
    pub health: HealthClass,
    pub last_seen: Option<Timestamp>,
    pub generation: Generation,
    pub handed_over: Generation,
    pub desired_bundle: Option<BundleId>,
    pub desired_rollout: Option<RolloutId>,
    pub active_bundle: Option<BundleId>,
    pub verified_bundle: Option<BundleId>,
    pub pinned_bundle: Option<BundleId>,
    pub version: Option<String>,
    pub credential_epoch: u32,
    /// It says "not now", and is granted it.
    pub busy_until: Option<Timestamp>,
}

const FLEET: &str = "n.id, n.org_id, n.project_id, n.name, n.labels, n.standing, n.presence, n.health, n.last_seen, n.generation, \
    n.handed_over, n.desired_bundle, n.desired_rollout, n.active_bundle, n.verified_bundle, n.pinned_bundle, n.version, n.credential_epoch, n.busy_until";

fn read_fleet(r: &mut Cells) -> Q<FleetNode> {
    Ok(FleetNode {
        id: r.get()?,
        org: r.get()?,
        project: r.get()?,
        name: r.get()?,
        labels: r.json()?,
        standing: r.get()?,
        presence: r.get()?,
        health: r.get()?,
        last_seen: r.get()?,
        generation: r.get()?,
        handed_over: r.get()?,
        desired_bundle: r.get()?,
        desired_rollout: r.get()?,
        active_bundle: r.get()?,
        verified_bundle: r.get()?,
        pinned_bundle: r.get()?,
        version: r.get()?,
        credential_epoch: r.get()?,
        busy_until: r.get()?,
    })
}

/// What planning a rollout needs of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    pub id: NodeId,
    pub name: String,
    pub labels: Labels,
    pub standing: Standing,
    pub presence: Presence,
    pub health: HealthClass,
    pub pinned_bundle: Option<BundleId>,
    pub generation: Generation,
    pub handed_over: Generation,
    pub version: Option<String>,
    pub active_bundle: Option<BundleId>,
    pub verified_bundle: Option<BundleId>,
    pub desired_bundle: Option<BundleId>,
    pub desired_rollout: Option<RolloutId>,
    /// The active rollout that holds it.
    pub claimed_by: Option<RolloutId>,
    /// It says "not now", and is granted it.
    pub busy_until: Option<Timestamp>,
}

const CANDIDATE: &str = "n.id, n.name, n.labels, n.standing, n.presence, n.health, n.pinned_bundle, n.generation, n.handed_over, n.version, \
    n.active_bundle, n.verified_bundle, n.desired_bundle, n.desired_rollout, a.rollout_id, n.busy_until";

fn read_candidate(r: &mut Cells) -> Q<Candidate> {
    Ok(Candidate {
        id: r.get()?,
        name: r.get()?,
        labels: r.json()?,
        standing: r.get()?,
        presence: r.get()?,
        health: r.get()?,
        pinned_bundle: r.get()?,
        generation: r.get()?,
        handed_over: r.get()?,
        version: r.get()?,
        active_bundle: r.get()?,
        verified_bundle: r.get()?,
        desired_bundle: r.get()?,
        desired_rollout: r.get()?,
        claimed_by: r.get()?,
        busy_until: r.get()?,
    })
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFilter {
    pub presence: Option<Presence>,
    pub standing: Option<Standing>,
    /// All must hold.
    pub labels: Vec<(String, String)>,
    /// What the node last said it runs.
    pub bundle: Option<BundleId>,
    /// Part of the name, without regard to case.
    pub q: Option<String>,
}

/// Node counts of one project.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeStats {
    pub total: i64,
    pub online: i64,
    pub offline: i64,
    pub unknown: i64,
    pub adopted: i64,
    pub quarantined: i64,
    pub revoked: i64,
    /// By active bundle; `None` is the baseline, or never said.
    pub by_bundle: Vec<(Option<BundleId>, i64)>,
}

/// Whom a node key or token names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credential {
    pub node: NodeId,
    pub project: ProjectId,
    pub org: OrgId,
    pub epoch: u32,
    pub standing: Standing,
    /// The node's present key.
    pub key_hash: Digest,
    /// The key before it.
    pub previous: Option<PreviousKey>,
}

/// A key that was replaced, and works until its successor is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreviousKey {
    pub hash: Digest,
    /// At most until then.
    pub until: Timestamp,
    /// The node replaced it itself, not an operator.
    pub own: bool,
}

const CREDENTIAL: &str = "id, project_id, org_id, credential_epoch, standing, key_hash, previous_key_hash, previous_key_until, previous_key_own";

fn read_credential(r: &mut Cells) -> Q<Credential> {
    Ok(Credential {
        node: r.get()?,
        project: r.get()?,
        org: r.get()?,
        epoch: r.get()?,
        standing: r.get()?,
        key_hash: r.get()?,
        previous: {
            let (kept, own) = (r.get::<Option<Digest>>()?.zip(r.get::<Option<Timestamp>>()?), r.get()?);
            kept.map(|(hash, until)| PreviousKey { hash, until, own })
        },
    })
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodePatch {
    /// The whole new set.
    pub labels: Option<Labels>,
    pub pinned_bundle: Option<Option<BundleId>>,
}

/// The rollout that a node's assignment came from, as far as its session needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionRollout {
    pub id: RolloutId,
    pub phase: Phase,
    /// With the gates that the session folds its heartbeats by.
    pub spec: Spec,
    pub member: Option<Member>,
    /// Its live owner.
    pub owner: Option<InstanceId>,
}

/// Everything a node session starts from.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionView {
    /// Its generation is 0 while nothing is assigned to it, also when that is so because the database was restored.
    pub node: Node,
    /// The desired one.
    pub bundle: Option<BundleFacts>,
    pub rollout: Option<SessionRollout>,
}

pub(crate) async fn node_in(c: &mut Conn, scope: Scope, id: NodeId) -> Q<Node> {
    let mut w = Where::new("n.id = ? AND n.deleted_at IS NULL");
    w.params = p![id];
    w.scope("n", scope);
    c.one(format!("SELECT {NODE} FROM nodes n WHERE {}", w.sql), w.params, read_node).await
}

const HISTORY: &str = "h.node_id, h.at, h.bundle_id, h.rollout_id, h.generation, h.outcome, h.detail";

fn read_history(r: &mut Cells) -> Q<HistoryEntry> {
    Ok(HistoryEntry {
        node: r.get()?,
        at: r.get()?,
        bundle: r.get()?,
        rollout: r.get()?,
        generation: r.get()?,
        outcome: r.get()?,
        detail: r.get()?,
    })
}

impl Store {
    pub async fn node(&self, scope: Scope, id: NodeId) -> Result<Node> {
        self.read("node.get", (scope, id), |c, (scope, id)| Box::pin(node_in(c, *scope, *id))).await
    }

    pub async fn node_by_name(&self, project: ProjectId, name: &str) -> Result<Node> {
        self.read("node.by_name", (project, name.to_string()), |c, (project, name)| {
            Box::pin(async move {
                let sql = format!(
                    "SELECT {NODE} FROM nodes n WHERE n.project_id = ? AND n.name = ? AND n.deleted_at IS NULL"
                );
                c.one(sql, p![*project, name], read_node).await
            })
        })
        .await
    }

    /// Ordered by id, which is the order of their making.
    pub async fn nodes(&self, scope: Scope, filter: NodeFilter, page: Page) -> Result<Listing<Node>> {
        self.read("node.list", (scope, filter, page), |c, (scope, f, page)| {
            Box::pin(async move {
                let mut w = Where::new("n.deleted_at IS NULL");
                w.scope("n", *scope);
                w.and_if("n.presence = ?", f.presence.map(|x| x.as_str()));
                w.and_if("n.standing = ?", f.standing.map(|x| x.as_str()));
                w.and_if("n.active_bundle = ?", f.bundle);
                for (k, v) in &f.labels {
                    w.and("n.labels ->> ? = ?", [k.v(), v.v()]);
                }
                if let Some(q) = f.q.as_deref().filter(|q| !q.is_empty()) {
                    let literal = q.to_lowercase().replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
                    w.and_if("lower(n.name) LIKE ? ESCAPE '\\'", Some(format!("%{literal}%")));
                }
                let total = c
                    .one(format!("SELECT count(*) FROM nodes n WHERE {}", w.sql), w.params.clone(), |r| r.get())
                    .await?;
                w.and_if("n.id > ?", page.after::<NodeId>()?);
                let sql =
                    format!("SELECT {NODE} FROM nodes n WHERE {} ORDER BY n.id LIMIT {}", w.sql, page.limit() + 1);
                let rows = c.rows(sql, w.params, read_node).await?;
                Ok(Listing::cut(rows, total, page, |n| n.id.to_string()))
            })
        })
        .await
    }

    /// The whole fleet of a project, for its read model. Ordered by id.
    pub async fn project_nodes(&self, project: ProjectId) -> Result<Vec<FleetNode>> {
        self.read("node.fleet", project, |c, project| {
            Box::pin(async move {
                let sql = format!(
                    "SELECT {FLEET} FROM nodes n WHERE n.project_id = ? AND n.deleted_at IS NULL ORDER BY n.id"
                );
                c.rows(sql, p![*project], read_fleet).await
            })
        })
        .await
    }

    /// These nodes as they are now; deleted ones are absent.
    pub async fn fleet_nodes(&self, ids: Vec<NodeId>) -> Result<Vec<FleetNode>> {
        self.read("node.fleet_some", ids, |c, ids| {
            Box::pin(async move {
                let sql = format!("SELECT {FLEET} FROM {{v}} JOIN nodes n ON n.id = v.id WHERE n.deleted_at IS NULL");
                c.batch_rows(&sql, vec![], vec![("id", Col::ids(ids.iter().copied()))], read_fleet).await
            })
        })
        .await
    }

    pub async fn node_stats(&self, project: ProjectId) -> Result<NodeStats> {
        self.snapshot("node.stats", project, |c, project| {
            Box::pin(async move {
                let sql = "SELECT presence, standing, count(*) FROM nodes WHERE project_id = ? AND deleted_at IS NULL GROUP BY presence, standing";
                let groups: Vec<(Presence, Standing, i64)> =
                    c.rows(sql, p![*project], |r| Ok((r.get()?, r.get()?, r.get()?))).await?;
                let mut s = NodeStats::default();
                for (presence, standing, n) in groups {
                    s.total += n;
                    *match presence {
                        Presence::Online => &mut s.online,
                        Presence::Offline => &mut s.offline,
                        Presence::Unknown => &mut s.unknown,
                    } += n;
                    *match standing {
                        Standing::Adopted => &mut s.adopted,
                        Standing::Quarantined | Standing::Conflicted => &mut s.quarantined,
                        Standing::Revoked => &mut s.revoked,
                    } += n;
                }
                let sql = "SELECT active_bundle, count(*) FROM nodes WHERE project_id = ? AND deleted_at IS NULL GROUP BY active_bundle";
                s.by_bundle = c.rows(sql, p![*project], |r| Ok((r.get()?, r.get()?))).await?;
                s.by_bundle.sort_by_key(|(b, n)| (-n, *b));
                Ok(s)
            })
        })
        .await
    }

    /// By its present or previous key. `NotFound` also for deleted nodes; standing and time are the caller's to judge.
    pub async fn node_credential(&self, key_hash: Digest) -> Result<Credential> {
        self.read("node.credential", key_hash, |c, hash| {
            Box::pin(async move {
                let sql = format!(
                    "SELECT {CREDENTIAL} FROM nodes WHERE (key_hash = ? OR previous_key_hash = ?) AND deleted_at IS NULL"
                );
                c.one(sql, p![*hash, *hash], read_credential).await
            })
        })
        .await
    }

    pub async fn node_credential_of(&self, id: NodeId) -> Result<Credential> {
        self.read("node.credential_of", id, |c, id| {
            Box::pin(async move {
                let sql = format!("SELECT {CREDENTIAL} FROM nodes WHERE id = ? AND deleted_at IS NULL");
                c.one(sql, p![*id], read_credential).await
            })
        })
        .await
    }

    /// Errors: `NotFound`, `Conflict("bundle")` when the bundle to pin was removed.
    pub async fn patch_node(&self, scope: Scope, id: NodeId, patch: NodePatch, w: Write) -> Result<Node> {
        self.write("node.patch", (scope, id, patch, w), |c, (scope, id, patch, w)| {
            Box::pin(async move {
                node_in(c, *scope, *id).await?;
                if let Some(Some(pin)) = patch.pinned_bundle {
                    hold_bundle(c, pin).await?;
                }
                if let Some(labels) = &patch.labels {
                    c.exec("UPDATE nodes SET labels = ?, updated_at = ? WHERE id = ?", p![json(labels), w.at, *id])
                        .await?;
                }
                if let Some(pin) = patch.pinned_bundle {
                    c.exec("UPDATE nodes SET pinned_bundle = ?, updated_at = ? WHERE id = ?", p![pin, w.at, *id])
                        .await?;
                }
                let node = node_in(c, *scope, *id).await?;
                finish(c, w).await?;
                Ok(node)
            })
        })
        .await
    }

    /// Answers the new credential epoch. `keep` is a key that stays good for a while, until the new one is used first.
    pub async fn rotate_node_key(
        &self,
        scope: Scope,
        id: NodeId,
        key_hash: Digest,
        keep: Option<PreviousKey>,
        w: Write,
    ) -> Result<u32> {
        self.write("node.rotate_key", (scope, id, key_hash, keep, w), |c, (scope, id, hash, keep, w)| {
            Box::pin(async move {
                node_in(c, *scope, *id).await?;
                let sql = "UPDATE nodes SET key_hash = ?, previous_key_hash = ?, previous_key_until = ?, \
                           previous_key_own = ?, credential_epoch = credential_epoch + 1, updated_at = ? WHERE id = ?";
                let own = keep.is_some_and(|k| k.own);
                c.exec(sql, p![*hash, keep.map(|k| k.hash), keep.map(|k| k.until), own, w.at, *id]).await?;
                let epoch = node_in(c, *scope, *id).await?.credential_epoch;
                finish(c, w).await?;
                Ok(epoch)
            })
        })
        .await
    }

    /// No credential issued so far works any more.
    pub async fn revoke_node(&self, scope: Scope, id: NodeId, w: Write) -> Result<Changed<Node>> {
        self.write("node.revoke", (scope, id, w), |c, (scope, id, w)| {
            Box::pin(async move {
                let node = node_in(c, *scope, *id).await?;
                if node.standing == Standing::Revoked {
                    return Ok(Changed { row: node, changed: false });
                }
                let sql = "UPDATE nodes SET standing = 'revoked', credential_epoch = credential_epoch + 1, updated_at = ? WHERE id = ?";
                c.exec(sql, p![w.at, *id]).await?;
                let row = node_in(c, *scope, *id).await?;
                finish(c, w).await?;
                Ok(Changed { row, changed: true })
            })
        })
        .await
    }

    /// Errors: `Conflict("state")` for a revoked node.
    pub async fn adopt_node(&self, scope: Scope, id: NodeId, w: Write) -> Result<Changed<Node>> {
        self.write("node.adopt", (scope, id, w), |c, (scope, id, w)| {
            Box::pin(async move {
                let mut node = node_in(c, *scope, *id).await?;
                match node.standing {
                    Standing::Adopted => return Ok(Changed { row: node, changed: false }),
                    Standing::Revoked => return Err(crate::error::Fail::conflict("state")),
                    Standing::Quarantined | Standing::Conflicted => {}
                }
                c.exec("UPDATE nodes SET standing = 'adopted', updated_at = ? WHERE id = ?", p![w.at, *id]).await?;
                (node.standing, node.updated_at) = (Standing::Adopted, w.at);
                finish(c, w).await?;
                Ok(Changed { row: node, changed: true })
            })
        })
        .await
    }

    /// Two processes say that they are this node: it gets nothing more until somebody adopts it. Only of an adopted one.
    pub async fn node_conflicted(&self, id: NodeId, w: Write) -> Result<bool> {
        self.write("node.conflicted", (id, w), |c, (id, w)| {
            Box::pin(async move {
                let sql = "UPDATE nodes SET standing = 'conflicted', updated_at = ? \
                           WHERE id = ? AND standing = 'adopted' AND deleted_at IS NULL";
                if c.exec(sql, p![w.at, *id]).await? == 0 {
                    return Ok(false);
                }
                finish(c, w).await?;
                Ok(true)
            })
        })
        .await
    }

    /// Soft; its credentials are void, its debt is forgotten, its name is free.
    pub async fn delete_node(&self, scope: Scope, id: NodeId, w: Write) -> Result<()> {
        self.write("node.delete", (scope, id, w), |c, (scope, id, w)| {
            Box::pin(async move {
                node_in(c, *scope, *id).await?;
                let sql = "UPDATE nodes SET deleted_at = ?, standing = 'revoked', credential_epoch = credential_epoch + 1, updated_at = ? \
                           WHERE id = ? AND deleted_at IS NULL";
                c.exec_one(sql, p![w.at, w.at, *id]).await?;
                for table in ["debts", "node_samples", "node_configs"] {
                    c.exec(format!("DELETE FROM {table} WHERE node_id = ?"), p![*id]).await?;
                }
                finish(c, w).await
            })
        })
        .await
    }

    /// Newest first.
    pub async fn node_history(&self, id: NodeId, limit: u32) -> Result<Vec<HistoryEntry>> {
        self.read("node.history", (id, limit), |c, (id, limit)| {
            Box::pin(async move {
                let sql =
                    format!("SELECT {HISTORY} FROM node_history h WHERE h.node_id = ? ORDER BY h.seq DESC LIMIT ?");
                c.rows(sql, p![*id, *limit], read_history).await
            })
        })
        .await
    }

    /// Where a rollout's bundle failed, newest first, with the names of the nodes.
    pub async fn rollout_failures(
        &self,
        project: ProjectId,
        rollout: RolloutId,
        bundle: BundleId,
        limit: u32,
    ) -> Result<Vec<(String, HistoryEntry)>> {
        self.read("node.rollout_failures", (project, rollout, bundle, limit), |c, (project, rollout, bundle, limit)| {
            Box::pin(async move {
                // Both conditions on the outcome: the first is what the partial index was made with.
                let sql = format!(
                    "SELECT {HISTORY}, n.name FROM node_history h JOIN nodes n ON n.id = h.node_id \
                     WHERE h.project_id = ? AND h.bundle_id = ? AND h.outcome <> 'verified' AND h.outcome = 'failed' \
                     AND h.rollout_id = ? ORDER BY h.seq DESC LIMIT ?"
                );
                c.rows(sql, p![*project, *bundle, *rollout, *limit], |r| {
                    let entry = read_history(r)?;
                    Ok((r.get()?, entry))
                })
                .await
            })
        })
        .await
    }

    /// The whole history of many nodes, each newest first. Nodes without any are absent.
    pub async fn histories(&self, ids: Vec<NodeId>) -> Result<HashMap<NodeId, Vec<HistoryEntry>>> {
        self.read("node.histories", ids, |c, ids| {
            Box::pin(async move {
                let sql = format!(
                    "SELECT {HISTORY} FROM {{v}} JOIN node_history h ON h.node_id = v.id ORDER BY h.node_id, h.seq DESC"
                );
                let rows =
                    c.batch_rows(&sql, vec![], vec![("id", Col::ids(ids.iter().copied()))], read_history).await?;
                let mut out: HashMap<NodeId, Vec<HistoryEntry>> = HashMap::new();
                for h in rows {
                    out.entry(h.node).or_default().push(h);
                }
                Ok(out)
            })
        })
        .await
    }

    /// Every node of the project, as planning needs it. Ordered by name.
    pub async fn candidates(&self, project: ProjectId) -> Result<Vec<Candidate>> {
        self.read("node.candidates", project, |c, project| {
            Box::pin(async move {
                let sql = format!(
                    "SELECT {CANDIDATE} FROM nodes n LEFT JOIN active_rollout_nodes a ON a.node_id = n.id \
                     WHERE n.project_id = ? AND n.deleted_at IS NULL"
                );
                let mut all = c.rows(sql, p![*project], read_candidate).await?;
                // Here and not in SQL: the two databases collate differently.
                all.sort_unstable_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
                Ok(all)
            })
        })
        .await
    }

    pub async fn candidates_of(&self, ids: Vec<NodeId>) -> Result<Vec<Candidate>> {
        self.read("node.candidates_of", ids, |c, ids| {
            Box::pin(async move {
                let sql = format!(
                    "SELECT {CANDIDATE} FROM {{v}} JOIN nodes n ON n.id = v.id LEFT JOIN active_rollout_nodes a ON a.node_id = n.id WHERE n.deleted_at IS NULL"
                );
                let mut all = c.batch_rows(&sql, vec![], vec![("id", Col::ids(ids.iter().copied()))], read_candidate).await?;
                all.sort_unstable_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
                Ok(all)
            })
        })
        .await
    }

    /// Nodes that failed this bundle, fell back or were rolled back from it, and have not verified it since.
    pub async fn failed_on(&self, project: ProjectId, bundle: BundleId) -> Result<Vec<NodeId>> {
        self.read("node.failed_on", (project, bundle), |c, (project, bundle)| {
            Box::pin(async move {
                let sql = "SELECT DISTINCT h.node_id FROM node_history h WHERE h.project_id = ? AND h.bundle_id = ? AND h.outcome <> 'verified' \
                           AND NOT EXISTS (SELECT 1 FROM node_history v WHERE v.node_id = h.node_id AND v.bundle_id = h.bundle_id \
                           AND v.outcome = 'verified' AND v.seq > h.seq)";
                c.rows(sql, p![*project, *bundle], |r| r.get()).await
            })
        })
        .await
    }

    pub async fn session_view(&self, id: NodeId) -> Result<SessionView> {
        self.snapshot("node.session_view", id, |c, id| {
            Box::pin(async move {
                let node = node_in(c, Scope::System("a session reads its own node"), *id).await?;
                let mut view = SessionView { node, bundle: None, rollout: None };
                if view.node.desired_bundle.is_none() && view.node.generation > 0 {
                    // Back to the baseline; or nothing, when a restore has lifted it.
                    let sql = "SELECT lost_generation FROM nodes WHERE id = ?";
                    if c.one(sql, p![*id], |r| r.get::<i64>()).await? as u64 == view.node.generation {
                        view.node.generation = 0;
                    }
                }
                if let Some(b) = view.node.desired_bundle {
                    view.bundle =
                        c.one(format!("SELECT {FACTS} FROM bundles b WHERE b.id = ?"), p![b], read_facts).await?;
                }
                if let Some(r) = view.node.desired_rollout {
                    let sql = "SELECT r.id, r.state, r.spec, i.id FROM rollouts r \
                               LEFT JOIN instances i ON i.id = r.owner AND i.expires_at > {now} WHERE r.id = ?";
                    let found = c
                        .maybe(sql, p![r], |r| {
                            Ok(SessionRollout {
                                id: r.get()?,
                                phase: r.get()?,
                                spec: r.json()?,
                                owner: r.get()?,
                                member: None,
                            })
                        })
                        .await?;
                    if let Some(mut rollout) = found {
                        let sql =
                            format!("SELECT {MEMBER} FROM rollout_nodes m WHERE m.rollout_id = ? AND m.node_id = ?");
                        rollout.member = c.maybe(sql, p![r, *id], read_member).await?;
                        view.rollout = Some(rollout);
                    }
                }
                Ok(view)
            })
        })
        .await
    }
}
