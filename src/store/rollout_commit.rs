//! Writing a rollout: its creation, and the one commit that carries every decision.
//!
//! Invariant: the row of the rollout is written first, on its version and fence; whoever read an older state writes nothing.
//! Lock order: bundle, rollout, nodes sorted, budget, audit head.

use crate::Store;
use crate::conn::{Conn, lock_nodes};
use crate::error::{Error, Fail, Q, Result};
use crate::node_change::{NodeChange, NodeEvent, apply_node_changes, put_node_events};
use crate::pg;
use crate::rollouts::{Loaded, load};
use crate::types::ChangeKind;
use crate::value::{Cells, Col, json, p};
use crate::write::{NewChange, Write, finish, finish_with};
use domain::node::{Generation, HistoryOutcome};
use domain::rollout::{Change, ENGINE_VERSION, Head, LoggedEvent, Member, Origin, Planned, Step};
use domain::{ApiKeyId, BundleId, Digest, NodeId, OrgId, ProjectId, RolloutId, Timestamp, UserId};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// A planned rollout, with what the engine does not know of it.
#[derive(Clone, Debug)]
pub struct NewRollout {
    pub planned: Planned,
    /// The first entry of its log, with number 0; without it the rollout cannot be replayed.
    pub origin: Option<Origin>,
    pub org: OrgId,
    pub created_by: Option<UserId>,
    pub created_by_key: Option<ApiKeyId>,
    pub options: Value,
}

/// A reservation of updating nodes over all rollouts of a project; negative frees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetMove {
    pub delta: i64,
    /// `Conflict("budget")` beyond it.
    pub limit: Option<i64>,
}

#[derive(Clone, Debug)]
pub struct RolloutCommit {
    pub id: RolloutId,
    pub project: ProjectId,
    /// The version that was decided upon; the new one is in the `Head` among `changes`.
    pub expect_version: u64,
    pub fence: i64,
    pub events: Vec<LoggedEvent>,
    pub changes: Vec<Change>,
    pub node_events: Vec<NodeEvent>,
    /// Inbox rows whose reports are among `events`.
    pub consumed_inbox: Vec<Uuid>,
    /// Columns of the nodes whose reports these are.
    pub reports: Vec<NodeChange>,
    pub budget: Option<BudgetMove>,
}

/// Members that a decision looks at in less time than the server lets a transaction be idle.
const QUICKLY_DECIDED: usize = 10_000;

/// What is made of rollouts as they are stored: what there is to write, and what the asker is told.
pub type Decided<T> = (Vec<(RolloutCommit, Write)>, T);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Debts of other rollouts that this commit replaced: tell them.
    pub displaced_debts: Vec<(RolloutId, NodeId)>,
}

/// What a node is owed, at most one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Debt {
    pub node: NodeId,
    pub rollout: RolloutId,
    pub bundle: Option<BundleId>,
    pub restore: bool,
    pub at: Timestamp,
}

pub(crate) fn read_debt(r: &mut Cells) -> Q<Debt> {
    Ok(Debt { node: r.get()?, rollout: r.get()?, bundle: r.get()?, restore: r.get()?, at: r.get()? })
}

pub(crate) async fn put_members(c: &mut Conn, id: RolloutId, members: &[&Member], at: Timestamp) -> Q<()> {
    let cols = vec![
        ("node_id", Col::ids(members.iter().map(|m| m.node))),
        ("step_index", Col::Int(members.iter().map(|m| m.step.map(i64::from)).collect())),
        ("position", Col::ints(members.iter().map(|m| i64::from(m.position)))),
        ("attempt", Col::ints(members.iter().map(|m| i64::from(m.attempt)))),
        ("state", Col::texts(members.iter().map(|m| m.state.kind().as_str()))),
        ("state_data", Col::json(members.iter().map(|m| &m.state))),
        ("generation", Col::ints(members.iter().map(|m| m.generation as i64))),
        ("told", Col::json(members.iter().map(|m| &m.told))),
        ("previous", Col::json(members.iter().map(|m| &m.previous))),
        ("online", Col::bools(members.iter().map(|m| m.online))),
        ("health", Col::texts(members.iter().map(|m| m.health.as_str()))),
        ("handed_over", Col::bools(members.iter().map(|m| m.handed_over))),
        ("accepted", Col::bools(members.iter().map(|m| m.accepted))),
        ("moved", Col::ints(members.iter().map(|m| m.moved.0))),
        ("silent_since", Col::Int(members.iter().map(|m| m.silent_since.map(|t| t.0)).collect())),
        ("first_config", Col::bools(members.iter().map(|m| m.first_config))),
        ("weight", Col::ints(members.iter().map(|m| i64::from(m.weight)))),
        ("weighed", Col::bools(members.iter().map(|m| m.weighed))),
    ];
    upsert(c, "rollout_nodes", "node_id", &[("updated_at", at)], cols, id).await
}

pub(crate) async fn put_steps(c: &mut Conn, id: RolloutId, steps: &[&Step]) -> Q<()> {
    let time = |t: Option<Timestamp>| t.map(|t| t.0);
    let cols = vec![
        ("step_index", Col::ints(steps.iter().map(|s| i64::from(s.index)))),
        ("state", Col::texts(steps.iter().map(|s| s.state.as_str()))),
        ("size", Col::ints(steps.iter().map(|s| i64::from(s.size)))),
        ("next_node", Col::ints(steps.iter().map(|s| i64::from(s.cursor)))),
        ("open", Col::ints(steps.iter().map(|s| i64::from(s.open)))),
        ("handed_over", Col::bools(steps.iter().map(|s| s.handed_over))),
        ("started_at", Col::Int(steps.iter().map(|s| time(s.started_at)).collect())),
        ("completed_at", Col::Int(steps.iter().map(|s| time(s.completed_at)).collect())),
        ("error", Col::Text(steps.iter().map(|s| s.error.clone()).collect())),
    ];
    upsert(c, "rollout_steps", "step_index", &[], cols, id).await
}

/// Insert or overwrite rows of `table` keyed by (`rollout_id`, `key`).
async fn upsert(
    c: &mut Conn,
    table: &str,
    key: &str,
    extra: &[(&str, Timestamp)],
    cols: Vec<(&'static str, Col)>,
    id: RolloutId,
) -> Q<()> {
    let names: Vec<&str> = extra.iter().map(|e| e.0).chain(cols.iter().map(|x| x.0)).collect();
    let values: Vec<String> =
        extra.iter().map(|_| "?".to_string()).chain(cols.iter().map(|x| format!("v.{}", x.0))).collect();
    let set: Vec<String> = names.iter().filter(|n| **n != key).map(|n| format!("{n} = excluded.{n}")).collect();
    let sql = format!(
        "INSERT INTO {table} (rollout_id, {}) SELECT ?, {} FROM {{v}} WHERE 1 = 1 ON CONFLICT (rollout_id, {key}) DO UPDATE SET {}",
        names.join(", "),
        values.join(", "),
        set.join(", ")
    );
    let mut params = p![id];
    params.extend(extra.iter().map(|e| crate::value::Bind::v(e.1)));
    c.batch(&sql, params, cols).await.map(drop)
}

/// The changes of one commit, each row once: of several values of a row the last is the one that counts.
#[derive(Default)]
struct Sorted<'a> {
    head: Option<&'a Head>,
    steps: BTreeMap<u32, &'a Step>,
    members: BTreeMap<NodeId, &'a Member>,
    /// First expected generation, last generation, its bundle and weight.
    desires: BTreeMap<NodeId, (Generation, Generation, Option<BundleId>, u8)>,
    /// Everything held before is let go, but these.
    keep: Option<Vec<NodeId>>,
    /// Held afterwards?
    claims: BTreeMap<NodeId, bool>,
    history: Vec<Line<'a>>,
    verified: BTreeMap<NodeId, Option<BundleId>>,
    debts: BTreeMap<NodeId, Option<(bool, Option<BundleId>)>>,
}

/// A line of `node_history`.
struct Line<'a> {
    node: NodeId,
    bundle: Option<BundleId>,
    generation: Generation,
    outcome: HistoryOutcome,
    detail: Option<&'a str>,
}

impl<'a> Sorted<'a> {
    fn of(changes: &'a [Change]) -> Sorted<'a> {
        let mut s = Sorted::default();
        for change in changes {
            match change {
                Change::Head { head } => s.head = Some(head),
                Change::Step { step } => {
                    s.steps.insert(step.index, step);
                }
                Change::Member { member } => {
                    s.members.insert(member.node, member);
                }
                Change::Desire { node, expect, generation, bundle, weight } => {
                    let first = s.desires.get(node).map_or(*expect, |d| d.0);
                    s.desires.insert(*node, (first, *generation, *bundle, *weight));
                }
                Change::Claim { node } => {
                    s.claims.insert(*node, true);
                }
                Change::Release { node } => {
                    s.claims.insert(*node, false);
                }
                Change::ReleaseAll { keep } => {
                    s.claims.clear();
                    s.keep = Some(keep.clone());
                }
                Change::HistoryVerified { node, bundle, generation } => {
                    let (node, bundle, generation) = (*node, *bundle, *generation);
                    s.history.push(Line { node, bundle, generation, outcome: HistoryOutcome::Verified, detail: None });
                    s.verified.insert(node, bundle);
                }
                Change::HistoryEnded { node, bundle, generation, how, detail } => {
                    let detail = detail.as_deref();
                    s.history.push(Line {
                        node: *node,
                        bundle: Some(*bundle),
                        generation: *generation,
                        outcome: *how,
                        detail,
                    });
                }
                Change::DebtAdded { node, restore, bundle } => {
                    s.debts.insert(*node, Some((*restore, *bundle)));
                }
                Change::DebtEnded { node } => {
                    s.debts.insert(*node, None);
                }
            }
        }
        s
    }
}

async fn write_head(c: &mut Conn, r: &RolloutCommit, head: Option<&Head>, at: Timestamp) -> Q<()> {
    let last_seq = r.events.iter().map(|e| e.seq).max();
    let mut sql = String::from("UPDATE rollouts SET updated_at = ?");
    let mut params = p![at];
    if let Some(seq) = last_seq {
        sql.push_str(", last_seq = ?");
        params.extend(p![seq]);
    }
    if let Some(h) = head {
        sql.push_str(", state = ?, causes = ?, head = ?, version = ?, lane_open = ?, auto_rollback = ?, wake_at = ?, ended_at = ?, asked = ?");
        params.extend(p![
            h.phase.as_str(),
            json(&h.causes),
            json(h),
            h.version,
            h.lane_open,
            h.auto_rollback,
            h.wake_at,
            h.ended_at,
            h.asked.is_some()
        ]);
    }
    sql.push_str(" WHERE id = ? AND version = ? AND fence = ?");
    params.extend(p![r.id, r.expect_version, r.fence]);
    match c.exec(sql, params).await? {
        0 => Err(Fail::conflict("rollout")),
        _ => Ok(()),
    }
}

async fn claim_and_release(c: &mut Conn, id: RolloutId, s: &Sorted<'_>) -> Q<()> {
    let part = |held: bool| -> Vec<NodeId> { s.claims.iter().filter(|(_, h)| **h == held).map(|(n, _)| *n).collect() };
    let (mut claimed, released) = (part(true), part(false));
    if let Some(keep) = &s.keep {
        c.exec("DELETE FROM active_rollout_nodes WHERE rollout_id = ?", p![id]).await?;
        claimed.extend(keep.iter().filter(|n| !s.claims.contains_key(n)));
        claimed.sort_unstable();
        claimed.dedup();
    }
    if !released.is_empty() {
        let sql = "DELETE FROM active_rollout_nodes WHERE rollout_id = ? AND node_id IN (SELECT v.id FROM {v})";
        c.batch(sql, p![id], vec![("id", Col::ids(released))]).await?;
    }
    if claimed.is_empty() {
        return Ok(());
    }
    let n = claimed.len() as u64;
    let sql = "INSERT INTO active_rollout_nodes (rollout_id, node_id) SELECT ?, v.id FROM {v} WHERE 1 = 1 ON CONFLICT (node_id) DO NOTHING";
    if c.batch(sql, p![id], vec![("id", Col::ids(claimed.iter().copied()))]).await? == n {
        return Ok(());
    }
    let sql = "SELECT a.node_id, a.rollout_id FROM {v} JOIN active_rollout_nodes a ON a.node_id = v.id WHERE a.rollout_id <> ? ORDER BY a.node_id";
    let held = c.batch_rows(sql, p![id], vec![("id", Col::ids(claimed))], |r| Ok((r.get()?, r.get()?))).await?;
    match held.is_empty() {
        true => Ok(()),
        false => Err(Error::Claimed(held).into()),
    }
}

async fn desire(c: &mut Conn, r: &RolloutCommit, s: &Sorted<'_>, at: Timestamp) -> Q<()> {
    let cols = vec![
        ("id", Col::ids(s.desires.keys().copied())),
        ("expect", Col::ints(s.desires.values().map(|d| d.0 as i64))),
        ("generation", Col::ints(s.desires.values().map(|d| d.1 as i64))),
        ("bundle", Col::opt_ids(s.desires.values().map(|d| d.2))),
        ("weight", Col::ints(s.desires.values().map(|d| i64::from(d.3)))),
    ];
    let sql = "UPDATE nodes SET generation = v.generation, desired_bundle = v.bundle, traffic_weight = v.weight, desired_rollout = ?, updated_at = ? FROM {v} \
               WHERE nodes.id = v.id AND nodes.generation = v.expect AND nodes.deleted_at IS NULL";
    match c.batch(sql, p![r.id, at], cols).await? == s.desires.len() as u64 {
        true => Ok(()),
        false => Err(Fail::conflict("generation")),
    }
}

async fn history(c: &mut Conn, r: &RolloutCommit, s: &Sorted<'_>, at: Timestamp) -> Q<()> {
    let h = &s.history;
    let cols = vec![
        ("node_id", Col::ids(h.iter().map(|l| l.node))),
        ("bundle_id", Col::opt_ids(h.iter().map(|l| l.bundle))),
        ("generation", Col::ints(h.iter().map(|l| l.generation as i64))),
        ("outcome", Col::texts(h.iter().map(|l| l.outcome.as_str()))),
        ("detail", Col::Text(h.iter().map(|l| l.detail.map(String::from)).collect())),
    ];
    // In order of the changes: the newest line is the last.
    let sql = "INSERT INTO node_history (project_id, at, rollout_id, node_id, bundle_id, generation, outcome, detail) \
               SELECT ?, ?, ?, v.node_id, v.bundle_id, v.generation, v.outcome, v.detail FROM {v}";
    c.batch(sql, p![r.project, at, r.id], cols).await?;
    let cols =
        vec![("id", Col::ids(s.verified.keys().copied())), ("bundle", Col::opt_ids(s.verified.values().copied()))];
    c.batch("UPDATE nodes SET verified_bundle = v.bundle, updated_at = ? FROM {v} WHERE nodes.id = v.id", p![at], cols)
        .await?;
    Ok(())
}

/// A new assignment, or a new debt, ends what another rollout still owed the node.
async fn debts(c: &mut Conn, r: &RolloutCommit, s: &Sorted<'_>, at: Timestamp) -> Q<Vec<(RolloutId, NodeId)>> {
    let mut covered: Vec<NodeId> = s.desires.keys().copied().collect();
    covered.extend(s.debts.iter().filter(|(_, d)| d.is_some()).map(|(n, _)| *n));
    covered.sort_unstable();
    covered.dedup();
    let mut displaced = Vec::new();
    if !covered.is_empty() {
        let sql = "DELETE FROM debts WHERE rollout_id <> ? AND node_id IN (SELECT v.id FROM {v}) RETURNING rollout_id, node_id";
        displaced = c.batch_rows(sql, p![r.id], vec![("id", Col::ids(covered))], |r| Ok((r.get()?, r.get()?))).await?;
    }
    let ended: Vec<NodeId> = s.debts.iter().filter(|(_, d)| d.is_none()).map(|(n, _)| *n).collect();
    if !ended.is_empty() {
        let sql = "DELETE FROM debts WHERE rollout_id = ? AND node_id IN (SELECT v.id FROM {v})";
        c.batch(sql, p![r.id], vec![("id", Col::ids(ended))]).await?;
    }
    let added: Vec<(NodeId, bool, Option<BundleId>)> =
        s.debts.iter().filter_map(|(n, d)| d.map(|(restore, b)| (*n, restore, b))).collect();
    let cols = vec![
        ("node_id", Col::ids(added.iter().map(|d| d.0))),
        ("restore", Col::bools(added.iter().map(|d| d.1))),
        ("bundle_id", Col::opt_ids(added.iter().map(|d| d.2))),
    ];
    let sql = "INSERT INTO debts (rollout_id, at, node_id, restore, bundle_id) SELECT ?, ?, v.node_id, v.restore, v.bundle_id FROM {v} WHERE 1 = 1 \
               ON CONFLICT (node_id) DO UPDATE SET rollout_id = excluded.rollout_id, at = excluded.at, restore = excluded.restore, bundle_id = excluded.bundle_id";
    c.batch(sql, p![r.id, at], cols).await?;
    Ok(displaced)
}

async fn budget(c: &mut Conn, project: ProjectId, b: BudgetMove) -> Q<()> {
    let sql = "INSERT INTO project_budget (project_id, reserved) VALUES (?, 0) ON CONFLICT (project_id) DO NOTHING";
    c.exec(sql, p![project]).await?;
    // Freeing is always allowed and never goes below nothing.
    let sql = "UPDATE project_budget SET reserved = CASE WHEN reserved + ? < 0 THEN 0 ELSE reserved + ? END \
               WHERE project_id = ? AND (? <= 0 OR reserved + ? <= ?)";
    let params = p![b.delta, b.delta, project, b.delta, b.delta, b.limit.unwrap_or(i64::MAX / 2)];
    match c.exec(sql, params).await? {
        0 => Err(Fail::conflict("budget")),
        _ => Ok(()),
    }
}

/// Whoever is about to refer to a bundle keeps it until the transaction ends: retention locks a row before it looks who needs
/// it, so that either it waits and sees us, or we wait and find nothing. Before all other locks.
/// Errors: `Conflict("bundle")` when it is gone.
pub(crate) async fn hold_bundle(c: &mut Conn, id: BundleId) -> Q<()> {
    let sql = "SELECT b.id FROM bundles b WHERE b.id = ? {share}";
    c.maybe(sql, p![id], |_| Ok(())).await?.ok_or_else(|| Fail::conflict("bundle"))
}

async fn commit(c: &mut Conn, r: &RolloutCommit, w: &Write) -> Q<Committed> {
    let s = Sorted::of(&r.changes);
    write_head(c, r, s.head, w.at).await?;
    if !r.consumed_inbox.is_empty() {
        let sql = "DELETE FROM rollout_inbox WHERE id IN (SELECT v.id FROM {v})";
        c.batch(sql, vec![], vec![("id", Col::ids(r.consumed_inbox.iter().copied()))]).await?;
    }
    put_steps(c, r.id, &s.steps.values().copied().collect::<Vec<_>>()).await?;
    if !s.steps.is_empty() {
        let sql = "UPDATE rollouts SET steps = (SELECT count(*) FROM rollout_steps WHERE rollout_id = ?) WHERE id = ?";
        c.exec(sql, p![r.id, r.id]).await?;
    }
    put_members(c, r.id, &s.members.values().copied().collect::<Vec<_>>(), w.at).await?;
    let mut nodes: Vec<NodeId> = s.desires.keys().chain(s.verified.keys()).copied().collect();
    nodes.extend(r.reports.iter().map(|n| n.node));
    nodes.sort_unstable();
    nodes.dedup();
    lock_nodes(c, nodes).await?;
    apply_node_changes(c, &r.reports, w.at, false).await?;
    desire(c, r, &s, w.at).await?;
    claim_and_release(c, r.id, &s).await?;
    history(c, r, &s, w.at).await?;
    let displaced_debts = debts(c, r, &s, w.at).await?;
    put_node_events(c, &r.node_events).await?;
    let e = &r.events;
    let cols = vec![
        ("seq", Col::ints(e.iter().map(|e| e.seq as i64))),
        ("at", Col::times(e.iter().map(|e| e.at))),
        ("engine_version", Col::ints(e.iter().map(|e| i64::from(e.engine_version)))),
        ("event", Col::json(e.iter().map(|e| &e.event))),
        ("decision_hash", Col::Bytes(e.iter().map(|e| Some(e.decision_hash.0.to_vec())).collect())),
    ];
    let sql = "INSERT INTO rollout_events (rollout_id, fence, seq, at, engine_version, event, decision_hash) \
               SELECT ?, ?, v.seq, v.at, v.engine_version, v.event, v.decision_hash FROM {v}";
    c.batch(sql, p![r.id, r.fence], cols).await?;
    if let Some(b) = r.budget {
        budget(c, r.project, b).await?;
    }
    let project = Some(r.project);
    let version = s.head.map_or(r.expect_version, |h| h.version) as i64;
    let mut more = vec![NewChange { kind: ChangeKind::Rollout, id: r.id.0, project, version }];
    more.extend(r.reports.iter().filter_map(|n| n.change_row(w.at)));
    more.extend(s.desires.iter().map(|(n, d)| NewChange {
        kind: ChangeKind::Assignment,
        id: n.0,
        project,
        version: d.1 as i64,
    }));
    finish_with(c, w, &more).await?;
    Ok(Committed { displaced_debts })
}

/// The one lock order: rollouts by id, then nodes, then audit heads.
async fn lock_rollouts(c: &mut Conn, ids: impl Iterator<Item = RolloutId>) -> Q<()> {
    let sql = "SELECT n.id FROM {v} JOIN rollouts n ON n.id = v.id ORDER BY n.id {lock_n}";
    c.batch_rows(sql, vec![], vec![("id", Col::ids(ids.map(|r| r.0)))], |_| Ok(())).await.map(drop)
}

/// Several at once; the rollouts are locked.
async fn commit_all(c: &mut Conn, commits: &[(RolloutCommit, Write)]) -> Q<Committed> {
    let desired = |change: &Change| match change {
        Change::Desire { node, .. } | Change::HistoryVerified { node, .. } => Some(*node),
        _ => None,
    };
    let nodes: BTreeSet<NodeId> = commits.iter().flat_map(|(r, _)| r.changes.iter().filter_map(desired)).collect();
    lock_nodes(c, nodes).await?;
    // Before the audit heads, which the first of them locks.
    let budgets: BTreeSet<ProjectId> =
        commits.iter().filter(|(r, _)| r.budget.is_some()).map(|(r, _)| r.project).collect();
    for project in budgets {
        c.rows("SELECT reserved FROM project_budget WHERE project_id = ? {update}", p![project], |_| Ok(())).await?;
    }
    let mut all = Committed::default();
    for (r, w) in commits {
        all.displaced_debts.extend(commit(c, r, w).await?.displaced_debts);
    }
    Ok(all)
}

impl Store {
    /// Errors: `Conflict("bundle")` when its bundle was removed since it was planned.
    pub async fn insert_rollout(&self, new: NewRollout, w: Write) -> Result<()> {
        self.write("rollout.insert", (new, w), |c, (n, w)| {
            Box::pin(async move {
                let (r, h) = (&n.planned, &n.planned.head);
                hold_bundle(c, r.spec.bundle).await?;
                // `start_at`: when nobody needs to say so any more; a rollout that waits for its start command has none.
                let start_at = r.spec.start.then(|| r.spec.scheduled_at.unwrap_or(Timestamp::ZERO));
                c.exec(
                    "INSERT INTO rollouts (id, org_id, project_id, bundle_id, spec, options, state, causes, head, version, lane_open, auto_rollback, \
                     strategy, steps, start_at, wake_at, ended_at, fence, last_seq, created_by, created_by_key, inserted_at, updated_at) \
                     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, ?, ?, ?, ?)",
                    p![
                        r.id, n.org, r.project, r.spec.bundle, json(&r.spec), json(&n.options), h.phase.as_str(), json(&h.causes), json(h),
                        h.version, h.lane_open, h.auto_rollback, r.spec.strategy.as_str(), r.steps.len(), start_at, h.wake_at, h.ended_at, n.created_by,
                        n.created_by_key, w.at, w.at
                    ],
                )
                .await?;
                put_steps(c, r.id, &r.steps.iter().collect::<Vec<_>>()).await?;
                put_members(c, r.id, &r.members.iter().collect::<Vec<_>>(), w.at).await?;
                if let Some(origin) = &n.origin {
                    let hash = Digest::of(&serde_json::to_vec(origin).map_err(Fail::invalid)?);
                    let sql = "INSERT INTO rollout_events (rollout_id, seq, at, engine_version, event, decision_hash) VALUES (?, 0, ?, ?, ?, ?)";
                    c.exec(sql, p![r.id, w.at, i64::from(ENGINE_VERSION), json(origin), hash]).await?;
                }
                finish(c, w).await
            })
        })
        .await
    }

    /// Several rollouts in one transaction, in this order: what one lets go another may claim. Errors as for one; all or nothing.
    pub async fn commit_rollouts(&self, commits: Vec<(RolloutCommit, Write)>) -> Result<Committed> {
        self.write("rollout.take_over", commits, |c, commits| {
            Box::pin(async move {
                lock_rollouts(c, commits.iter().map(|(r, _)| r.id)).await?;
                commit_all(c, commits).await
            })
        })
        .await
    }

    /// Errors: `Conflict("rollout")` when version or fence moved on (reload), `Conflict("generation")` when an assignment is not
    /// what was expected, `Claimed`, `Conflict("budget")`. Nothing was written then.
    pub async fn commit_rollout(&self, commit_: RolloutCommit, w: Write) -> Result<Committed> {
        self.write("rollout.commit", (commit_, w), |c, (r, w)| Box::pin(commit(c, r, w))).await
    }

    /// Load, decide and store, while nobody else writes these rollouts: whoever owns one waits for its row and then finds a newer version.
    /// So an order reaches a rollout that commits without a pause. `decide` gets them in order of `ids`, and is called again when the
    /// transaction is tried again. Errors: those of [`Store::commit_rollout`], but never for a version; `NotFound`.
    pub async fn decide_rollouts<T: Send + 'static>(
        &self,
        ids: Vec<RolloutId>,
        decide: impl Fn(Vec<Loaded>) -> Decided<T> + Send + Sync + 'static,
    ) -> Result<(T, Committed)> {
        self.write("rollout.decide", (ids, decide), |c, (ids, decide)| {
            Box::pin(async move {
                lock_rollouts(c, ids.iter().copied()).await?;
                let mut loaded = Vec::with_capacity(ids.len());
                for id in ids {
                    loaded.push(load(c, *id).await?);
                }
                if c.is_pg() && loaded.iter().map(|l| l.planned.members.len()).sum::<usize>() > QUICKLY_DECIDED {
                    c.exec(pg::TIME_TO_DECIDE, vec![]).await?;
                }
                let (commits, said) = decide(loaded);
                Ok((said, commit_all(c, &commits).await?))
            })
        })
        .await
    }
}
