//! What stands around a rollout and may hold it: freezes, and people who have not agreed yet.
//!
//! Owns: the freezes as last read, for a moment. Rebuilt from: `freeze_windows`, environments, approvals.

use super::facts::Resolved;
use crate::command::CommandResult;
use crate::plane::ControlPlane;
use domain::approval::{self, Policy, Standing, Targets, Vote};
use domain::environment::{self, Environment, EnvironmentSettings};
use domain::freeze::{Freeze, holding};
use domain::node::Selector;
use domain::rollout::{Phase, Spec};
use domain::*;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use uuid::Uuid;

/// A freeze that another instance stored is heeded after this at the latest; the feed is usually faster.
const FREEZES_KEPT: Span = Span::secs(1);

/// Freezes not over when they were read, of every project.
#[derive(Default)]
pub(crate) struct Freezes {
    kept: Mutex<Kept>,
    /// Those that held when the sweep last looked.
    holding: Mutex<BTreeSet<FreezeId>>,
}

#[derive(Default)]
struct Kept {
    read: Option<(Timestamp, Arc<Vec<Freeze>>)>,
    /// Counts what was forgotten: what was read from the database before that is not kept after it.
    forgotten: u64,
}

impl Freezes {
    pub(crate) fn forget(&self) {
        let mut kept = self.kept();
        kept.read = None;
        kept.forgotten += 1;
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Did one begin or end since the last look?
    pub(crate) fn moved(&self, now_holding: BTreeSet<FreezeId>) -> bool {
        let mut before = self.holding.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *before, now_holding.clone()) != now_holding
    }
}

/// What a person set aside for one rollout; kept in its options.
#[derive(Default, Deserialize)]
struct Options {
    #[serde(default)]
    overridden_freezes: BTreeSet<FreezeId>,
}

fn overridden(options: serde_json::Value) -> BTreeSet<FreezeId> {
    serde_json::from_value::<Options>(options).unwrap_or_default().overridden_freezes
}

/// Whose agreement a rollout needs and has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approvals {
    /// How many people.
    pub needed: u32,
    pub standing: Standing,
    /// Of what would start now.
    pub content: Digest,
    pub votes: Vec<Vote>,
}

impl ControlPlane {
    pub(crate) async fn freezes(&self) -> store::Result<Arc<Vec<Freeze>>> {
        let now = self.now();
        let (read, forgotten) = {
            let kept = self.inner.freezes.kept();
            (kept.read.clone(), kept.forgotten)
        };
        if let Some((_, all)) = read.filter(|(at, _)| now >= *at && now.since(*at) < FREEZES_KEPT) {
            return Ok(all);
        }
        let all = Arc::new(self.inner.store.freezes_around(now).await?);
        let mut kept = self.inner.freezes.kept();
        if kept.forgotten == forgotten {
            kept.read = Some((now, all.clone()));
        }
        Ok(all)
    }

    /// The freeze that holds now for this rollout. From memory while no freeze holds in its project.
    pub(crate) async fn frozen(
        &self,
        org: OrgId,
        project: ProjectId,
        id: RolloutId,
        nodes: impl FnOnce() -> Vec<NodeId>,
    ) -> CommandResult<Option<Freeze>> {
        let now = self.now();
        let all = self.freezes().await?;
        let mine: Vec<&Freeze> = all.iter().filter(|f| f.binds_project(org, project) && f.holds(now)).collect();
        if mine.is_empty() {
            return Ok(None);
        }
        let system = Scope::System("a freeze is compared with the rollouts it binds");
        let options = self.inner.store.rollout(system, id).await?.options;
        let overridden = overridden(options);
        let reached = match mine.iter().any(|f| f.environment.is_some()) {
            true => self.environments_of(project, &self.environments(project).await?, nodes()).await?,
            false => BTreeSet::new(),
        };
        Ok(holding(mine, &reached, &overridden, now).cloned())
    }

    pub async fn environments(&self, project: ProjectId) -> CommandResult<Vec<Environment>> {
        let rows = self.inner.store.documents(store::Documents::Environments, project).await?;
        Ok(rows.into_iter().map(environment_of).collect())
    }

    /// Which of these the nodes are in, by their labels and groups now.
    async fn environments_of(
        &self,
        project: ProjectId,
        all: &[Environment],
        nodes: Vec<NodeId>,
    ) -> CommandResult<BTreeSet<Uuid>> {
        if all.is_empty() {
            return Ok(BTreeSet::new());
        }
        let rows = self.inner.store.candidates_of(nodes).await?;
        let none = BTreeSet::new();
        let mut groups: BTreeMap<NodeId, BTreeSet<String>> = BTreeMap::new();
        for e in all.iter().filter(|e| matches!(e.selector, Selector::Groups { .. })) {
            for (node, of) in self.groups_of(project, &e.selector, &rows).await? {
                groups.entry(node).or_default().extend(of);
            }
        }
        let targets = rows.iter().map(|r| (r.id, &r.labels, groups.get(&r.id).unwrap_or(&none)));
        Ok(environment::reached(all, targets))
    }

    /// How many people must agree, for targets that are these nodes.
    pub(crate) async fn people_needed(&self, project: ProjectId, nodes: Vec<NodeId>) -> CommandResult<u32> {
        let row = self.inner.store.project(Scope::Project(project), &project.to_string()).await?;
        let policy = Policy { required: row.settings.approval_required, needed: row.settings.approvals_needed };
        let all = self.environments(project).await?;
        let reached = self.environments_of(project, &all, nodes).await?;
        Ok(environment::people_needed(policy, &all, &reached))
    }

    /// Where a pending rollout stands with its approvers. `resolved`: its targets as they are found now.
    pub(crate) async fn approvals(
        &self,
        id: RolloutId,
        project: ProjectId,
        spec: &Spec,
        resolved: &Resolved,
    ) -> CommandResult<Approvals> {
        let targets = resolved.candidates.iter().filter(|c| c.facts.skip.is_none());
        let now: BTreeSet<NodeId> = targets.map(|c| c.facts.node).collect();
        let needed = self.people_needed(project, now.iter().copied().collect()).await?;
        let planned = self.inner.store.rollout_step_nodes(id, None).await?.into_iter().map(|(_, n)| n).collect();
        let system = Scope::System("what was set aside for a rollout is part of what people agree to");
        let options = self.inner.store.rollout(system, id).await?.options;
        let content = approval::content_hash(spec, &overridden(options), Targets { planned, now }.asked());
        let votes: Vec<Vote> = self.inner.store.approvals(id).await?.into_iter().map(vote_of).collect();
        let standing = approval::standing(needed, &votes, content, self.now());
        Ok(Approvals { needed, standing, content, votes })
    }

    /// The same for whoever only has its name.
    pub async fn approvals_of(&self, id: RolloutId) -> CommandResult<Approvals> {
        let system = Scope::System("a rollout whose tenant was checked at the door");
        let r = self.inner.store.rollout(system, id).await?;
        if r.head.phase != Phase::Pending {
            let votes = self.inner.store.approvals(id).await?.into_iter().map(vote_of).collect();
            return Ok(Approvals { needed: 0, standing: Standing::NotNeeded, content: Digest::ZERO, votes });
        }
        let resolved = self.resolve(r.project, &r.spec).await?;
        self.approvals(id, r.project, &r.spec, &resolved).await
    }

    /// Whoever waits for a freeze or an approval looks again.
    pub(crate) fn wake_rollouts(&self) {
        for (_, actor) in self.inner.rollouts.family.directory().snapshot() {
            let _ = actor.cast(super::RolloutMsg::Wake);
        }
    }
}

fn vote_of(a: store::Approval) -> Vote {
    Vote { user: a.user, approves: a.decision == APPROVED, comment: a.comment, content: a.spec_hash, at: a.at }
}

pub(crate) const APPROVED: &str = "approved";
pub(crate) const REJECTED: &str = "rejected";

/// An environment as its document says; one that cannot be read binds nobody, and was never written by us.
pub(crate) fn environment_of(d: store::Document) -> Environment {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Body {
        slug: String,
        selector: Option<Selector>,
        settings: EnvironmentSettings,
    }
    let body: Body = serde_json::from_value(d.body).unwrap_or_default();
    let nobody = Selector::NodeIds { node_ids: BTreeSet::new() };
    Environment {
        id: d.id,
        name: d.name,
        slug: body.slug,
        selector: body.selector.unwrap_or(nobody),
        settings: body.settings,
    }
}
