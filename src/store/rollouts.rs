//! Reading rollouts: whole, for their actor; and in parts, for people.

use crate::Store;
use crate::conn::Conn;
use crate::error::{Q, Result};
use crate::rollout_commit::{Debt, read_debt};
use crate::types::{BundleFacts, FACTS, Listing, Page, Where, read_facts};
use crate::value::{Bind, Cells, Col, p};
use domain::node::Selector;
use domain::rollout::{Head, LoggedEvent, Member, NodeStateKind, Origin, Phase, Planned, Spec, Step};
use domain::{ApiKeyId, BundleId, InstanceId, NodeId, OrgId, ProjectId, RolloutId, Scope, Timestamp, UserId};
use serde_json::Value;

/// A rollout as it now is, with everything its actor starts from.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    pub planned: Planned,
    pub org: OrgId,
    pub created_by: Option<UserId>,
    pub created_by_key: Option<ApiKeyId>,
    pub options: Value,
    /// Of the head; what the next commit expects.
    pub version: u64,
    pub owner: Option<InstanceId>,
    pub fence: i64,
    pub last_seq: u64,
    /// Nodes it holds.
    pub claims: Vec<NodeId>,
    pub debts: Vec<Debt>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RolloutSummary {
    pub id: RolloutId,
    pub org: OrgId,
    pub project: ProjectId,
    pub spec: Spec,
    pub head: Head,
    pub bundle: Option<BundleFacts>,
    pub options: Value,
    pub created_by: Option<UserId>,
    pub created_by_key: Option<ApiKeyId>,
    pub owner: Option<InstanceId>,
    /// How many.
    pub steps: u32,
    pub inserted_at: Timestamp,
    pub updated_at: Timestamp,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct RolloutFilter {
    /// Any of these; empty is all.
    pub phases: Vec<Phase>,
    pub bundle: Option<BundleId>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemberFilter {
    pub state: Option<NodeStateKind>,
    pub step: Option<u32>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct MemberRow {
    pub member: Member,
    /// The node's; empty when it is gone.
    pub name: String,
    pub updated_at: Timestamp,
}

/// What late joiners may take their first bundle from.
#[derive(Clone, Debug, PartialEq)]
pub struct CompletedRollout {
    pub id: RolloutId,
    pub selector: Selector,
    pub bundle: BundleId,
    pub completed_at: Timestamp,
}

const SUMMARY: &str = "r.id, r.org_id, r.project_id, r.spec, r.head, r.options, r.created_by, r.created_by_key, r.owner, r.steps, \
                       r.inserted_at, r.updated_at";

fn read_summary(r: &mut Cells) -> Q<RolloutSummary> {
    Ok(RolloutSummary {
        id: r.get()?,
        org: r.get()?,
        project: r.get()?,
        spec: r.json()?,
        head: r.json()?,
        options: r.json()?,
        created_by: r.get()?,
        created_by_key: r.get()?,
        owner: r.get()?,
        steps: r.get()?,
        inserted_at: r.get()?,
        updated_at: r.get()?,
        bundle: read_facts(r)?,
    })
}

pub(crate) const MEMBER: &str = "m.node_id, m.step_index, m.position, m.attempt, m.state_data, m.generation, m.told, m.previous, m.online, \
                                 m.health, m.handed_over, m.accepted, m.moved, m.silent_since, m.first_config, m.weight, m.weighed";

pub(crate) fn read_member(r: &mut Cells) -> Q<Member> {
    Ok(Member {
        node: r.get()?,
        step: r.get()?,
        position: r.get()?,
        attempt: r.get()?,
        state: r.json()?,
        generation: r.get()?,
        told: r.json()?,
        previous: r.json()?,
        online: r.get()?,
        health: r.get()?,
        handed_over: r.get()?,
        accepted: r.get()?,
        moved: r.get()?,
        silent_since: r.get()?,
        first_config: r.get()?,
        weight: r.get()?,
        weighed: r.get()?,
    })
}

pub(crate) const STEP: &str =
    "s.step_index, s.state, s.size, s.next_node, s.open, s.handed_over, s.started_at, s.completed_at, s.error";

pub(crate) fn read_step(r: &mut Cells) -> Q<Step> {
    Ok(Step {
        index: r.get()?,
        state: r.get()?,
        size: r.get()?,
        cursor: r.get()?,
        open: r.get()?,
        handed_over: r.get()?,
        started_at: r.get()?,
        completed_at: r.get()?,
        error: r.get()?,
    })
}

fn read_logged(r: &mut Cells) -> Q<LoggedEvent> {
    Ok(LoggedEvent { seq: r.get()?, at: r.get()?, engine_version: r.get()?, event: r.json()?, decision_hash: r.get()? })
}

async fn steps_of(c: &mut Conn, id: RolloutId) -> Q<Vec<Step>> {
    c.rows(
        format!("SELECT {STEP} FROM rollout_steps s WHERE s.rollout_id = ? ORDER BY s.step_index"),
        p![id],
        read_step,
    )
    .await
}

async fn debts_of(c: &mut Conn, id: RolloutId) -> Q<Vec<Debt>> {
    c.rows(
        "SELECT node_id, rollout_id, bundle_id, restore, at FROM debts WHERE rollout_id = ? ORDER BY node_id",
        p![id],
        read_debt,
    )
    .await
}

async fn exists_in(c: &mut Conn, scope: Scope, id: RolloutId) -> Q<()> {
    let mut w = Where::new("r.id = ?");
    w.params = p![id];
    w.scope("r", scope);
    c.one(format!("SELECT r.id FROM rollouts r WHERE {}", w.sql), w.params, |_| Ok(())).await
}

pub(crate) async fn load(c: &mut Conn, id: RolloutId) -> Q<Loaded> {
    let sql = "SELECT project_id, spec, head, org_id, created_by, created_by_key, options, version, owner, fence, last_seq \
               FROM rollouts WHERE id = ?";
    let mut loaded = c
        .one(sql, p![id], |r| {
            let planned = Planned {
                id: RolloutId::NIL,
                project: r.get()?,
                spec: r.json()?,
                head: r.json()?,
                steps: Vec::new(),
                members: Vec::new(),
            };
            Ok(Loaded {
                planned,
                org: r.get()?,
                created_by: r.get()?,
                created_by_key: r.get()?,
                options: r.json()?,
                version: r.get()?,
                owner: r.get()?,
                fence: r.get()?,
                last_seq: r.get()?,
                claims: Vec::new(),
                debts: Vec::new(),
            })
        })
        .await?;
    loaded.planned.id = id;
    loaded.planned.steps = steps_of(c, id).await?;
    // Steps in order, the lane last: as a plan lists them.
    let sql = format!(
        "SELECT {MEMBER} FROM rollout_nodes m WHERE m.rollout_id = ? \
         ORDER BY CASE WHEN m.step_index IS NULL THEN 1 ELSE 0 END, m.step_index, m.position, m.node_id"
    );
    loaded.planned.members = c.rows(sql, p![id], read_member).await?;
    let sql = "SELECT node_id FROM active_rollout_nodes WHERE rollout_id = ? ORDER BY node_id";
    loaded.claims = c.rows(sql, p![id], |r| r.get()).await?;
    loaded.debts = debts_of(c, id).await?;
    Ok(loaded)
}

impl Store {
    /// Everything at one state of the database.
    pub async fn load_rollout(&self, id: RolloutId) -> Result<Loaded> {
        self.snapshot("rollout.load", id, |c, id| Box::pin(load(c, *id))).await
    }

    pub async fn rollout(&self, scope: Scope, id: RolloutId) -> Result<RolloutSummary> {
        self.read("rollout.get", (scope, id), |c, (scope, id)| {
            Box::pin(async move {
                let mut w = Where::new("r.id = ?");
                w.params = p![*id];
                w.scope("r", *scope);
                let sql = format!(
                    "SELECT {SUMMARY}, {FACTS} FROM rollouts r LEFT JOIN bundles b ON b.id = r.bundle_id WHERE {}",
                    w.sql
                );
                c.one(sql, w.params, read_summary).await
            })
        })
        .await
    }

    /// Newest first.
    pub async fn rollouts(&self, scope: Scope, filter: RolloutFilter, page: Page) -> Result<Listing<RolloutSummary>> {
        self.read("rollout.list", (scope, filter, page), |c, (scope, filter, page)| {
            Box::pin(async move {
                let mut w = Where::new("1 = 1");
                w.scope("r", *scope);
                if !filter.phases.is_empty() {
                    let marks = vec!["?"; filter.phases.len()].join(", ");
                    w.and(&format!("r.state IN ({marks})"), filter.phases.iter().map(|p| p.as_str().v()));
                }
                w.and_if("r.bundle_id = ?", filter.bundle);
                let total = c.one(format!("SELECT count(*) FROM rollouts r WHERE {}", w.sql), w.params.clone(), |r| r.get()).await?;
                w.and_if("r.id < ?", page.after::<RolloutId>()?);
                let sql = format!(
                    "SELECT {SUMMARY}, {FACTS} FROM rollouts r LEFT JOIN bundles b ON b.id = r.bundle_id WHERE {} ORDER BY r.id DESC LIMIT {}",
                    w.sql,
                    page.limit() + 1
                );
                let rows = c.rows(sql, w.params, read_summary).await?;
                Ok(Listing::cut(rows, total, page, |r| r.id.to_string()))
            })
        })
        .await
    }

    pub async fn rollout_steps(&self, id: RolloutId) -> Result<Vec<Step>> {
        self.read("rollout.steps", id, |c, id| Box::pin(steps_of(c, *id))).await
    }

    /// (step, node) of every member that is in a step, in order; with `step`, of that one.
    pub async fn rollout_step_nodes(&self, id: RolloutId, step: Option<u32>) -> Result<Vec<(u32, NodeId)>> {
        self.read("rollout.step_nodes", (id, step), |c, (id, step)| {
            Box::pin(async move {
                let mut w = Where::new("rollout_id = ? AND step_index IS NOT NULL");
                w.params = p![*id];
                w.and_if("step_index = ?", *step);
                let sql = format!(
                    "SELECT step_index, node_id FROM rollout_nodes WHERE {} ORDER BY step_index, position",
                    w.sql
                );
                c.rows(sql, w.params, |r| Ok((r.get()?, r.get()?))).await
            })
        })
        .await
    }

    /// Ordered by node id.
    pub async fn rollout_members(
        &self,
        scope: Scope,
        id: RolloutId,
        filter: MemberFilter,
        page: Page,
    ) -> Result<Listing<MemberRow>> {
        self.read("rollout.members", (scope, id, filter, page), |c, (scope, id, filter, page)| {
            Box::pin(async move {
                exists_in(c, *scope, *id).await?;
                let mut w = Where::new("m.rollout_id = ?");
                w.params = p![*id];
                w.and_if("m.state = ?", filter.state.map(|s| s.as_str()));
                w.and_if("m.step_index = ?", filter.step);
                let total = c.one(format!("SELECT count(*) FROM rollout_nodes m WHERE {}", w.sql), w.params.clone(), |r| r.get()).await?;
                w.and_if("m.node_id > ?", page.after::<NodeId>()?);
                let sql = format!(
                    "SELECT {MEMBER}, n.name, m.updated_at FROM rollout_nodes m LEFT JOIN nodes n ON n.id = m.node_id WHERE {} \
                     ORDER BY m.node_id LIMIT {}",
                    w.sql,
                    page.limit() + 1
                );
                let read = |r: &mut Cells| {
                    let member = read_member(r)?;
                    Ok(MemberRow { member, name: r.get::<Option<String>>()?.unwrap_or_default(), updated_at: r.get()? })
                };
                let rows = c.rows(sql, w.params, read).await?;
                Ok(Listing::cut(rows, total, page, |m| m.member.node.to_string()))
            })
        })
        .await
    }

    pub async fn rollout_member(&self, id: RolloutId, node: NodeId) -> Result<Member> {
        self.read("rollout.member", (id, node), |c, (id, node)| {
            Box::pin(async move {
                let sql = format!("SELECT {MEMBER} FROM rollout_nodes m WHERE m.rollout_id = ? AND m.node_id = ?");
                c.one(sql, p![*id, *node], read_member).await
            })
        })
        .await
    }

    /// In order; an export reads on from the last `seq`.
    pub async fn rollout_events(&self, id: RolloutId, after_seq: u64, limit: u32) -> Result<Vec<LoggedEvent>> {
        self.read("rollout.events", (id, after_seq, limit), |c, (id, after, limit)| {
            Box::pin(async move {
                let sql = "SELECT seq, at, engine_version, event, decision_hash FROM rollout_events WHERE rollout_id = ? AND seq > ? ORDER BY seq LIMIT ?";
                c.rows(sql, p![*id, *after, *limit], read_logged).await
            })
        })
        .await
    }

    /// What it began with: the entry before the first event. `NotFound` for rollouts of older versions.
    pub async fn rollout_origin(&self, id: RolloutId) -> Result<Origin> {
        self.read("rollout.origin", id, |c, id| {
            Box::pin(async move {
                let sql = "SELECT event FROM rollout_events WHERE rollout_id = ? AND seq = 0";
                c.one(sql, p![*id], |r| r.json()).await
            })
        })
        .await
    }

    pub async fn active_rollouts(&self) -> Result<Vec<RolloutId>> {
        self.read("rollout.active", (), |c, ()| {
            Box::pin(async move {
                c.rows(
                    "SELECT id FROM rollouts WHERE state IN ('running', 'paused', 'rolling_back') ORDER BY id",
                    vec![],
                    |r| r.get(),
                )
                .await
            })
        })
        .await
    }

    /// Whose timer is due. Earliest first.
    pub async fn due_rollouts(&self, now: Timestamp, limit: u32) -> Result<Vec<RolloutId>> {
        self.read("rollout.due", (now, limit), |c, (now, limit)| {
            Box::pin(async move {
                c.rows("SELECT id FROM rollouts WHERE wake_at <= ? ORDER BY wake_at LIMIT ?", p![*now, *limit], |r| {
                    r.get()
                })
                .await
            })
        })
        .await
    }

    /// Newest first.
    pub async fn rollouts_of_node(&self, node: NodeId, limit: u32) -> Result<Vec<(RolloutSummary, Member)>> {
        self.read("rollout.of_node", (node, limit), |c, (node, limit)| {
            Box::pin(async move {
                let sql = format!(
                    "SELECT {SUMMARY}, {FACTS}, {MEMBER} FROM rollout_nodes m JOIN rollouts r ON r.id = m.rollout_id \
                     LEFT JOIN bundles b ON b.id = r.bundle_id WHERE m.node_id = ? ORDER BY r.id DESC LIMIT ?"
                );
                c.rows(sql, p![*node, *limit], |r| Ok((read_summary(r)?, read_member(r)?))).await
            })
        })
        .await
    }

    /// The active rollout that holds the node.
    /// Updating nodes over all rollouts of the project.
    pub async fn budget_reserved(&self, project: ProjectId) -> Result<u32> {
        self.read("budget.get", project, |c, project| {
            Box::pin(async move {
                let sql = "SELECT reserved FROM project_budget WHERE project_id = ?";
                let found: Option<i64> = c.maybe(sql, p![*project], |r| r.get()).await?;
                Ok(found.unwrap_or(0).clamp(0, i64::from(u32::MAX)) as u32)
            })
        })
        .await
    }

    pub async fn holder_of(&self, node: NodeId) -> Result<Option<RolloutId>> {
        self.read("rollout.holder", node, |c, node| {
            Box::pin(async move {
                let sql = "SELECT a.rollout_id FROM active_rollout_nodes a WHERE a.node_id = ?";
                c.maybe(sql, p![*node], |r| r.get()).await
            })
        })
        .await
    }

    /// Of these nodes, those that an active rollout holds.
    pub async fn holders(&self, nodes: Vec<NodeId>) -> Result<Vec<(NodeId, RolloutId)>> {
        self.read("rollout.holders", nodes, |c, nodes| {
            Box::pin(async move {
                let sql = "SELECT a.node_id, a.rollout_id FROM {v} JOIN active_rollout_nodes a ON a.node_id = v.id";
                c.batch_rows(sql, vec![], vec![("id", Col::ids(nodes.iter().copied()))], |r| Ok((r.get()?, r.get()?)))
                    .await
            })
        })
        .await
    }

    pub async fn debt_of_node(&self, node: NodeId) -> Result<Option<Debt>> {
        self.read("debt.of_node", node, |c, node| {
            Box::pin(async move {
                c.maybe(
                    "SELECT node_id, rollout_id, bundle_id, restore, at FROM debts WHERE node_id = ?",
                    p![*node],
                    read_debt,
                )
                .await
            })
        })
        .await
    }

    pub async fn debts_of_rollout(&self, id: RolloutId) -> Result<Vec<Debt>> {
        self.read("debt.of_rollout", id, |c, id| Box::pin(debts_of(c, *id))).await
    }

    /// Online, adopted nodes that were never assigned anything, that no rollout holds, in projects that have something for them.
    pub async fn newcomers(&self, limit: u32) -> Result<Vec<(NodeId, ProjectId)>> {
        self.read("node.newcomers", limit, |c, limit| {
            Box::pin(async move {
                let sql = "SELECT n.id, n.project_id FROM nodes n WHERE n.standing = 'adopted' AND n.presence = 'online' \
                           AND n.generation = 0 AND n.deleted_at IS NULL \
                           AND NOT EXISTS (SELECT 1 FROM active_rollout_nodes a WHERE a.node_id = n.id) \
                           AND EXISTS (SELECT 1 FROM rollouts r WHERE r.project_id = n.project_id \
                                       AND r.state IN ('completed', 'running', 'paused')) ORDER BY n.id LIMIT ?";
                c.rows(sql, p![*limit], |r| Ok((r.get()?, r.get()?))).await
            })
        })
        .await
    }

    /// Completed and not rolled back since, their bundle neither revoked nor gone. Newest first.
    pub async fn newest_completed_for(&self, project: ProjectId) -> Result<Vec<CompletedRollout>> {
        self.read("rollout.completed", project, |c, project| Box::pin(newest_completed(c, *project))).await
    }

    /// Was some rollout of it taken back by the engine itself?
    pub async fn was_rolled_back(&self, project: ProjectId, bundle: BundleId) -> Result<bool> {
        self.read("rollout.was_rolled_back", (project, bundle), |c, (project, bundle)| {
            Box::pin(async move {
                let sql = "SELECT count(*) FROM rollouts WHERE project_id = ? AND bundle_id = ? AND auto_rollback = ? \
                           AND state IN ('rolling_back', 'rolled_back')";
                Ok(c.one(sql, p![*project, *bundle, true], |r| r.get::<i64>()).await? > 0)
            })
        })
        .await
    }
}

pub(crate) async fn newest_completed(c: &mut Conn, project: ProjectId) -> Q<Vec<CompletedRollout>> {
    let sql = "SELECT r.id, r.spec, r.bundle_id, r.ended_at FROM rollouts r JOIN bundles b ON b.id = r.bundle_id \
               WHERE r.project_id = ? AND r.state = 'completed' AND r.ended_at IS NOT NULL AND b.status IN ('compiled', 'deprecated') \
               ORDER BY r.ended_at DESC, r.id DESC";
    c.rows(sql, p![project], |r| {
        let (id, spec): (RolloutId, Spec) = (r.get()?, r.json()?);
        Ok(CompletedRollout { id, selector: spec.selector, bundle: r.get()?, completed_at: r.get()? })
    })
    .await
}
