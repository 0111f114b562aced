//! What the engine must be told of nodes: read from the database, resolved by pure code.

use crate::command::CommandResult;
use crate::plane::ControlPlane;
use domain::node::{Presence, Selector, Standing, previous_bundles};
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
    /// `node_ids` of the selector that are not nodes of the project.
    pub unknown: Vec<NodeId>,
}

impl Resolved {
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
        let candidates = self.candidates_from(project, spec, meant).await?;
        Ok(Resolved { candidates, held, already, unknown })
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
        let failed: HashSet<NodeId> = match spec.allow_failed {
            true => HashSet::new(),
            false => self.inner.store.failed_on(project, spec.bundle).await?.into_iter().collect(),
        };
        Ok(rows
            .into_iter()
            .map(|r| {
                let mut previous = histories.get(&r.id).map(|h| previous_bundles(h, spec.bundle)).unwrap_or_default();
                // What it runs verified now comes first, whatever the history says of older times.
                if let Some(v) = r.verified_bundle.filter(|v| *v != spec.bundle) {
                    previous.retain(|b| *b != v);
                    previous.insert(0, v);
                }
                let skip = match r.standing {
                    Standing::Quarantined => Some(SkipReason::Quarantined),
                    Standing::Revoked => Some(SkipReason::Revoked),
                    Standing::Adopted if r.pinned_bundle.is_some_and(|p| p != spec.bundle) => Some(SkipReason::Pinned),
                    Standing::Adopted if failed.contains(&r.id) => Some(SkipReason::FailedBefore),
                    Standing::Adopted => None,
                };
                let facts = Facts {
                    node: r.id,
                    generation: r.generation,
                    online: r.presence == Presence::Online,
                    health: r.health,
                    previous,
                    first_config: r.verified_bundle.is_none()
                        && r.active_bundle.is_none()
                        && r.desired_bundle.is_none(),
                    skip,
                };
                let spread = spec.spread_by.as_ref().and_then(|k| r.labels.get(k).cloned());
                Candidate { facts, name: r.name, spread }
            })
            .collect())
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
