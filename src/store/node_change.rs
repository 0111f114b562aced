//! What nodes themselves change: columns of an observation, events, the batched last-seen times.

use crate::Store;
use crate::conn::Conn;
use crate::error::{Fail, Q, Result};
use crate::types::{ChangeKind, Listing, Page, Where};
use crate::value::{Bind, Cells, Col, V, json, p};
use crate::write::{NewChange, Write, finish, finish_with};
use domain::node::{Busy, HealthClass, Presence};
use domain::{BundleId, NodeId, ProjectId, RolloutId, Scope, Span, Timestamp};
use serde_json::Value;

/// A line of a node's own log.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeEvent {
    pub node: NodeId,
    pub project: ProjectId,
    pub at: Timestamp,
    pub kind: String,
    pub detail: Value,
    pub rollout: Option<RolloutId>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct StoredNodeEvent {
    pub seq: i64,
    pub event: NodeEvent,
}

/// A node was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub node: NodeId,
    pub at: Timestamp,
    /// How far its clock is ahead of ours; `None` leaves what is stored.
    pub clock_skew: Option<Span>,
}

/// The columns of one node that changed; `None` leaves a column alone.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeChange {
    pub node: NodeId,
    pub project: ProjectId,
    /// What was believed of the credential; another epoch refuses the whole write with `Conflict("epoch")`.
    pub expect_epoch: Option<u32>,
    pub last_seen: Option<Timestamp>,
    pub presence: Option<Presence>,
    pub health: Option<HealthClass>,
    pub active_bundle: Option<Option<BundleId>>,
    pub staged_bundle: Option<Option<BundleId>>,
    pub version: Option<Option<String>>,
    pub ip: Option<Option<String>>,
    pub hostname: Option<Option<String>>,
    pub instance: Option<Option<String>>,
    pub metadata: Option<Value>,
    pub last_error: Option<Option<String>>,
    pub busy: Option<Option<Busy>>,
    pub events: Vec<NodeEvent>,
    /// Version of the change row, by which whoever wrote this knows it again in the feed; by default the time of the write.
    pub stamp: Option<i64>,
}

impl NodeChange {
    /// Nothing yet.
    pub fn of(node: NodeId, project: ProjectId) -> NodeChange {
        NodeChange {
            node,
            project,
            expect_epoch: None,
            last_seen: None,
            presence: None,
            health: None,
            active_bundle: None,
            staged_bundle: None,
            version: None,
            ip: None,
            hostname: None,
            instance: None,
            metadata: None,
            last_error: None,
            busy: None,
            events: Vec::new(),
            stamp: None,
        }
    }

    /// Is there a column besides the time it was last seen?
    pub fn moves_columns(&self) -> bool {
        self.presence.is_some()
            || self.health.is_some()
            || self.active_bundle.is_some()
            || self.staged_bundle.is_some()
            || self.last_error.is_some()
            || self.version.is_some()
            || self.ip.is_some()
            || self.hostname.is_some()
            || self.instance.is_some()
            || self.metadata.is_some()
            || self.busy.is_some()
    }

    /// What the sessions of this node on other instances are told by.
    pub(crate) fn change_row(&self, at: Timestamp) -> Option<NewChange> {
        let (id, project, version) = (self.node.0, Some(self.project), self.stamp.unwrap_or(at.0));
        self.moves_columns().then_some(NewChange { kind: ChangeKind::NodeState, id, project, version })
    }

    fn is_plain(&self) -> bool {
        self.expect_epoch.is_none()
            && self.version.is_none()
            && self.ip.is_none()
            && self.hostname.is_none()
            && self.instance.is_none()
            && self.metadata.is_none()
            && self.busy.is_none()
    }
}

/// The changes of many nodes. What most reports change goes in batches, the rest node by node. `all`: a node that is deleted
/// refuses the whole call; otherwise it is passed over, because the others of its batch have nothing to do with it.
pub(crate) async fn apply_node_changes(c: &mut Conn, changes: &[NodeChange], at: Timestamp, all: bool) -> Q<()> {
    crate::conn::lock_nodes(c, changes.iter().map(|n| n.node).collect::<std::collections::BTreeSet<_>>()).await?;
    let mut seen = std::collections::BTreeSet::new();
    // A node twice in one call keeps its order: the second goes by itself, afterwards.
    let (plain, rest): (Vec<&NodeChange>, Vec<&NodeChange>) =
        changes.iter().partition(|n| n.is_plain() && seen.insert(n.node));
    let opt = |t: Option<&'static str>| t.map(String::from);
    let cols = vec![
        ("id", Col::ids(plain.iter().map(|n| n.node))),
        ("presence", Col::Text(plain.iter().map(|n| opt(n.presence.map(|p| p.as_str()))).collect())),
        ("health", Col::Text(plain.iter().map(|n| opt(n.health.map(|h| h.as_str()))).collect())),
        ("has_active", Col::bools(plain.iter().map(|n| n.active_bundle.is_some()))),
        ("active", Col::opt_ids(plain.iter().map(|n| n.active_bundle.flatten()))),
        ("has_staged", Col::bools(plain.iter().map(|n| n.staged_bundle.is_some()))),
        ("staged", Col::opt_ids(plain.iter().map(|n| n.staged_bundle.flatten()))),
        ("has_error", Col::bools(plain.iter().map(|n| n.last_error.is_some()))),
        ("error", Col::Text(plain.iter().map(|n| n.last_error.clone().flatten()).collect())),
        ("seen", Col::Int(plain.iter().map(|n| n.last_seen.map(|t| t.0)).collect())),
    ];
    let sql = "UPDATE nodes SET presence = coalesce(v.presence, nodes.presence), health = coalesce(v.health, nodes.health), \
               active_bundle = CASE WHEN v.has_active THEN v.active ELSE nodes.active_bundle END, \
               staged_bundle = CASE WHEN v.has_staged THEN v.staged ELSE nodes.staged_bundle END, \
               last_error = CASE WHEN v.has_error THEN v.error ELSE nodes.last_error END, \
               last_seen = CASE WHEN v.seen IS NOT NULL AND (nodes.last_seen IS NULL OR nodes.last_seen < v.seen) THEN v.seen ELSE nodes.last_seen END, \
               updated_at = ? FROM {v} WHERE nodes.id = v.id AND nodes.deleted_at IS NULL";
    let touched = if plain.is_empty() { 0 } else { c.batch(sql, p![at], cols).await? };
    if all && touched != plain.len() as u64 {
        return Err(Fail::not_found());
    }
    for n in &rest {
        match apply_node_change(c, n, at).await {
            Err(e) if !all && e.is_not_found() => {}
            done => done?,
        }
    }
    let events: Vec<NodeEvent> = changes.iter().flat_map(|n| n.events.iter().cloned()).collect();
    put_node_events(c, &events).await
}

/// One statement, of the changed columns only.
async fn apply_node_change(c: &mut Conn, n: &NodeChange, at: Timestamp) -> Q<()> {
    let mut set: Vec<&str> = Vec::new();
    let mut params: Vec<V> = Vec::new();
    let mut put = |sql: &'static str, v: Option<V>| {
        if let Some(v) = v {
            set.push(sql);
            params.push(v);
        }
    };
    put("presence = ?", n.presence.map(|x| x.as_str().v()));
    put("health = ?", n.health.map(|x| x.as_str().v()));
    put("active_bundle = ?", n.active_bundle.map(Bind::v));
    put("staged_bundle = ?", n.staged_bundle.map(Bind::v));
    put("version = ?", n.version.clone().map(Bind::v));
    put("ip = ?", n.ip.clone().map(Bind::v));
    put("hostname = ?", n.hostname.clone().map(Bind::v));
    put("instance = ?", n.instance.clone().map(Bind::v));
    put("metadata = ?", n.metadata.as_ref().map(json));
    put("last_error = ?", n.last_error.clone().map(Bind::v));
    put("busy_since = ?", n.busy.map(|b| b.map(|b| b.since).v()));
    put("busy_until = ?", n.busy.map(|b| b.map(|b| b.until).v()));
    if let Some(seen) = n.last_seen {
        set.push("last_seen = CASE WHEN last_seen IS NULL OR last_seen < ? THEN ? ELSE last_seen END");
        params.extend(p![seen, seen]);
    }
    if !set.is_empty() {
        set.push("updated_at = ?");
        params.extend(p![at, n.node]);
        let mut sql = format!("UPDATE nodes SET {} WHERE id = ? AND deleted_at IS NULL", set.join(", "));
        if let Some(epoch) = n.expect_epoch {
            sql.push_str(" AND credential_epoch = ?");
            params.push(epoch.v());
        }
        if c.exec(sql, params).await? == 0 {
            return Err(if n.expect_epoch.is_some() { Fail::conflict("epoch") } else { Fail::not_found() });
        }
    }
    Ok(())
}

pub(crate) async fn put_node_events(c: &mut Conn, events: &[NodeEvent]) -> Q<()> {
    if events.is_empty() {
        return Ok(());
    }
    let cols = vec![
        ("node_id", Col::ids(events.iter().map(|e| e.node))),
        ("project_id", Col::ids(events.iter().map(|e| e.project))),
        ("at", Col::times(events.iter().map(|e| e.at))),
        ("kind", Col::texts(events.iter().map(|e| e.kind.as_str()))),
        ("detail", Col::json(events.iter().map(|e| &e.detail))),
        ("rollout_id", Col::opt_ids(events.iter().map(|e| e.rollout))),
    ];
    let sql = "INSERT INTO node_events (node_id, project_id, at, kind, detail, rollout_id) \
               SELECT v.node_id, v.project_id, v.at, v.kind, v.detail, v.rollout_id FROM {v}";
    c.batch(sql, vec![], cols).await.map(drop)
}

fn read_event(r: &mut Cells) -> Q<StoredNodeEvent> {
    Ok(StoredNodeEvent {
        seq: r.get()?,
        event: NodeEvent {
            node: r.get()?,
            project: r.get()?,
            at: r.get()?,
            kind: r.get()?,
            detail: r.json()?,
            rollout: r.get()?,
        },
    })
}

impl Store {
    /// What sessions saw change. Sorted by node before it is written (lock order).
    /// Errors: `Conflict("epoch")`, `NotFound` for a deleted node; then nothing of the call is written.
    pub async fn observe(&self, mut changes: Vec<NodeChange>, w: Write) -> Result<()> {
        changes.sort_by_key(|n| n.node);
        self.write("node.observe", (changes, w), |c, (changes, w)| {
            Box::pin(async move {
                apply_node_changes(c, changes, w.at, true).await?;
                let rows: Vec<NewChange> = changes.iter().filter_map(|n| n.change_row(w.at)).collect();
                finish_with(c, w, &rows).await
            })
        })
        .await
    }

    /// What a node says of itself. Of its whole log the newest `keep` lines stay, so that no node fills the disk.
    pub async fn log_of_node(&self, node: NodeId, events: Vec<NodeEvent>, keep: u32, w: Write) -> Result<()> {
        self.write("node.log", (node, events, keep, w), |c, (node, events, keep, w)| {
            Box::pin(async move {
                put_node_events(c, events).await?;
                let sql = "DELETE FROM node_events WHERE node_id = ? AND seq <= (SELECT seq FROM node_events WHERE node_id = ? \
                           ORDER BY seq DESC LIMIT 1 OFFSET ?)";
                c.exec(sql, p![*node, *node, i64::from(*keep)]).await?;
                finish(c, w).await
            })
        })
        .await
    }

    /// Newest first.
    pub async fn node_events(&self, scope: Scope, id: NodeId, page: Page) -> Result<Listing<StoredNodeEvent>> {
        self.read("node.events", (scope, id, page), |c, (scope, id, page)| {
            Box::pin(async move {
                crate::nodes::node_in(c, *scope, *id).await?;
                let total = c.one("SELECT count(*) FROM node_events WHERE node_id = ?", p![*id], |r| r.get()).await?;
                let mut w = Where::new("node_id = ?");
                w.params = p![*id];
                w.and_if("seq < ?", page.after::<i64>()?);
                let sql = format!(
                    "SELECT seq, node_id, project_id, at, kind, detail, rollout_id FROM node_events WHERE {} ORDER BY seq DESC LIMIT {}",
                    w.sql,
                    page.limit() + 1
                );
                let rows = c.rows(sql, w.params, read_event).await?;
                Ok(Listing::cut(rows, total, page, |e| e.seq.to_string()))
            })
        })
        .await
    }

    /// Times only ever go up. Answers how many rows were written. Sorted by node (lock order).
    pub async fn flush_last_seen(&self, mut seen: Vec<Seen>) -> Result<u64> {
        // One row twice in a batch would be updated once, with either value: keep the newest.
        seen.sort_unstable_by_key(|s| (s.node, std::cmp::Reverse(s.at)));
        seen.dedup_by_key(|s| s.node);
        let mut written = 0;
        // A transaction per 1,000 rows, so that a large flush holds no lock for long.
        for part in seen.chunks(crate::conn::MAX_BATCH) {
            written += self
                .write("node.last_seen", part.to_vec(), |c, part| {
                    Box::pin(async move {
                        // Locked in order first: an UPDATE by itself locks in whatever order its plan has.
                        let sql = "WITH l AS (SELECT n.id, v.at, v.skew FROM {v} JOIN nodes n ON n.id = v.id \
                                   WHERE n.last_seen IS NULL OR n.last_seen < v.at ORDER BY n.id {lock_n}) \
                                   UPDATE nodes SET last_seen = l.at, clock_skew = coalesce(l.skew, nodes.clock_skew) FROM l \
                                   WHERE nodes.id = l.id";
                        let cols = vec![
                            ("id", Col::ids(part.iter().map(|s| s.node))),
                            ("at", Col::times(part.iter().map(|s| s.at))),
                            ("skew", Col::Int(part.iter().map(|s| s.clock_skew.map(|k| k.0)).collect())),
                        ];
                        c.batch(sql, vec![], cols).await
                    })
                })
                .await?;
        }
        Ok(written)
    }
}
