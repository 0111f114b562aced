//! What the engine must be told of nodes: read from the database, resolved by pure code.

use crate::command::CommandResult;
use crate::plane::ControlPlane;
use domain::bundle::{BundleStatus, is_older};
use domain::node::{HistoryEntry, Presence, Selector, Standing, previous_bundles};
use domain::rollout::{Candidate, Facts, SkipReason, Spec};
use domain::*;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// All nodes a selector means, as candidates of a plan, and who else holds them.
pub(crate) struct Resolved {
    pub candidates: Vec<Candidate>,
    /// Nodes that another active rollout holds.
    pub held: Vec<(NodeId, RolloutId)>,
    /// Nodes that run the bundle already.
    pub already: u32,
    /// What the others run: what a change is compared with.
    pub running: BTreeSet<BundleId>,
    /// `node_ids` of the selector that are not nodes of the project.
    pub unknown: Vec<NodeId>,
}

impl Resolved {
    /// The other active rollouts that hold some of the nodes.
    pub fn others(&self, than: RolloutId) -> Vec<RolloutId> {
        let all: BTreeSet<RolloutId> = self.held.iter().map(|(_, r)| *r).filter(|r| *r != than).collect();
        all.into_iter().collect()
    }

    /// Those that a rollout has as members. A quarantined node belongs to no fleet yet: adopted later, it is a newcomer, and
    /// joins as one.
    pub fn members(self) -> Vec<Candidate> {
        let mut all = self.candidates;
        all.retain(|c| c.facts.skip != Some(SkipReason::Quarantined));
        all
    }
}

impl ControlPlane {
    /// Resolve `spec.selector` in `project`, now.
    pub(crate) async fn resolve(&self, project: ProjectId, spec: &Spec) -> CommandResult<Resolved> {
        let rows = self.inner.store.candidates(project).await?;
        let groups = self.groups_of(project, &spec.selector, &rows).await?;
        let none = BTreeSet::new();
        let unknown = match &spec.selector {
            Selector::NodeIds { node_ids } => {
                let known: HashSet<NodeId> = rows.iter().map(|r| r.id).collect();
                node_ids.iter().filter(|n| !known.contains(n)).copied().collect()
            }
            Selector::All | Selector::Labels { .. } | Selector::Expr { .. } | Selector::Groups { .. } => Vec::new(),
        };
        let meant: Vec<store::Candidate> = rows
            .into_iter()
            .filter(|r| spec.selector.matches(r.id, &r.labels, groups.get(&r.id).unwrap_or(&none)))
            .collect();
        let held = meant.iter().filter_map(|r| r.claimed_by.map(|c| (r.id, c))).collect();
        let already = meant.iter().filter(|r| r.active_bundle == Some(spec.bundle)).count() as u32;
        let running = meant.iter().filter_map(|r| r.active_bundle).filter(|b| *b != spec.bundle).collect();
        let candidates = self.candidates_from(project, spec, meant).await?;
        Ok(Resolved { candidates, held, already, running, unknown })
    }

    /// The facts of these nodes now, whatever the selector says.
    pub(crate) async fn facts_of(
        &self,
        project: ProjectId,
        spec: &Spec,
        nodes: Vec<NodeId>,
    ) -> CommandResult<Vec<(Facts, Option<RolloutId>)>> {
        let rows = self.inner.store.candidates_of(nodes).await?;
        let held: HashMap<NodeId, RolloutId> = rows.iter().filter_map(|r| r.claimed_by.map(|c| (r.id, c))).collect();
        let candidates = self.candidates_from(project, spec, rows).await?;
        Ok(candidates.into_iter().map(|c| (c.facts.clone(), held.get(&c.facts.node).copied())).collect())
    }

    async fn candidates_from(
        &self,
        project: ProjectId,
        spec: &Spec,
        rows: Vec<store::Candidate>,
    ) -> CommandResult<Vec<Candidate>> {
        let ids: Vec<NodeId> = rows.iter().filter(|r| r.verified_bundle.is_some()).map(|r| r.id).collect();
        let histories = if ids.is_empty() { HashMap::new() } else { self.inner.store.histories(ids).await? };
        let usable = self.usable_bundles(&rows, &histories).await?;
        let failed: HashSet<NodeId> = match spec.allow_failed {
            true => HashSet::new(),
            false => self.inner.store.failed_on(project, spec.bundle).await?.into_iter().collect(),
        };
        let (now, least) = (self.now(), self.least_version(spec.bundle).await?);
        let is_old = |version: &Option<String>| match (version, &least) {
            (Some(have), Some(least)) => is_older(have, least),
            (Some(_) | None, _) => false,
        };
        Ok(rows
            .into_iter()
            .map(|r| {
                let history = histories.get(&r.id).map(Vec::as_slice).unwrap_or_default();
                let mut previous = previous_bundles(history, r.verified_bundle, spec.bundle);
                // Nobody goes back to what is revoked.
                previous.retain(|b| usable.contains(b));
                let skip = match r.standing {
                    Standing::Quarantined => Some(SkipReason::Quarantined),
                    Standing::Conflicted => Some(SkipReason::IdentityConflict),
                    Standing::Revoked => Some(SkipReason::Revoked),
                    // A pin to a revoked bundle holds nothing any more.
                    Standing::Adopted
                        if r.pinned_bundle.is_some_and(|p| spec.leaves_pinned(p) && usable.contains(&p)) =>
                    {
                        Some(SkipReason::Pinned)
                    }
                    Standing::Adopted if is_old(&r.version) => Some(SkipReason::Incompatible),
                    Standing::Adopted if failed.contains(&r.id) => Some(SkipReason::FailedBefore),
                    Standing::Adopted => None,
                };
                let facts = Facts {
                    node: r.id,
                    generation: r.generation,
                    // Who says "not now" is away for what it was not named yet.
                    online: r.presence == Presence::Online && r.busy_until.is_none_or(|t| t <= now),
                    health: r.health,
                    previous,
                    first_config: r.verified_bundle.is_none()
                        && r.active_bundle.is_none()
                        && r.desired_bundle.is_none(),
                    skip,
                };
                let spread = spec.grouping_label().and_then(|k| r.labels.get(k).cloned());
                let first = spec.supersede && r.claimed_by.is_some() && r.desired_bundle != r.verified_bundle;
                Candidate { facts, name: r.name, spread, first }
            })
            .collect())
    }

    /// Of all bundles that nodes ran or are pinned to, those that may still be handed out.
    async fn usable_bundles(
        &self,
        rows: &[store::Candidate],
        histories: &HashMap<NodeId, Vec<HistoryEntry>>,
    ) -> CommandResult<HashSet<BundleId>> {
        let mut all: BTreeSet<BundleId> = histories.values().flatten().filter_map(|h| h.bundle).collect();
        all.extend(rows.iter().flat_map(|r| [r.verified_bundle, r.pinned_bundle]).flatten());
        if all.is_empty() {
            return Ok(HashSet::new());
        }
        let facts = self.inner.store.bundle_facts(all.into_iter().collect()).await?;
        let handed_out = |s: BundleStatus| matches!(s, BundleStatus::Compiled | BundleStatus::Deprecated);
        Ok(facts.into_iter().filter(|(f, _)| handed_out(f.status)).map(|(f, _)| f.id).collect())
    }

    /// Which groups each node is in; read only for selectors by group.
    pub(super) async fn groups_of(
        &self,
        project: ProjectId,
        selector: &Selector,
        rows: &[store::Candidate],
    ) -> CommandResult<BTreeMap<NodeId, BTreeSet<String>>> {
        let Selector::Groups { groups: wanted } = selector else { return Ok(BTreeMap::new()) };
        let groups = self.inner.store.groups(project).await?;
        let mut of: BTreeMap<NodeId, BTreeSet<String>> = BTreeMap::new();
        for g in groups.iter().filter(|g| wanted.contains(&g.name)) {
            for r in rows {
                let by_selector = g.selector.as_ref().is_some_and(|s| s.matches(r.id, &r.labels, &BTreeSet::new()));
                if by_selector || g.node_ids.contains(&r.id) {
                    of.entry(r.id).or_default().insert(g.name.clone());
                }
            }
        }
        Ok(of)
    }
}
