//! Drift: found by a sweep, ended by the nodes themselves, by a person, or by a rollout that repairs it.
//!
//! A repair is a rollout like any other (`kind: drift_repair`): its gates, limits, approvals and freezes hold. There is no loop: what
//! failed on a node is not given to it again, and where a project repairs by itself (`drift_remediation`), a node gets each bundle back
//! once. Whatever drifts from it again is left to people.

use crate::command::*;
use crate::commands::rollouts::RolloutView;
use crate::commands::write::Said;
use crate::plane::ControlPlane;
use domain::node::Selector;
use domain::node::drift::{Drift, GRACE, Resolution};
use domain::project::Amount;
use domain::rollout::{RolloutKind, Spec};
use domain::*;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use store::{ChangeKind, DriftFilter, Page};
use uuid::Uuid;

/// Nodes that one sweep looks at.
const BATCH: u32 = 1_000;
/// Drifts that one `resolve-all` takes; the rest is answered as left over.
const MAX_RESOLVED: u32 = 500;
/// A repair touches at most this share of its nodes at once.
const REPAIR_BATCH: Amount = Amount::Percent(25);

/// What `resolve-all` did.
#[derive(Clone, Debug, Default)]
pub struct Resolved {
    pub resolved: u32,
    pub left: u32,
    /// The repairs that were begun.
    pub rollouts: Vec<RolloutView>,
}

impl ControlPlane {
    /// As the sweep does it: what has differed for [`GRACE`].
    pub(crate) async fn sweep_drift(&self) -> CommandResult<(u64, u64)> {
        self.find_drift(GRACE).await
    }

    /// Where the project wants it, what was expected is rolled out to the nodes again, one rollout for each bundle. Answers how many
    /// were begun. A drift is closed before its rollout is made: of several instances one does it, and a crash in between leaves it
    /// to people rather than twice to the node.
    pub async fn remediate_drift(&self) -> CommandResult<u64> {
        let mut begun = 0;
        for project in self.inner.store.drifting_projects().await? {
            let row = self.inner.store.project(Scope::Project(project), &project.to_string()).await?;
            if !row.settings.drift_remediation {
                continue;
            }
            let mut by_bundle: BTreeMap<Option<BundleId>, BTreeSet<NodeId>> = BTreeMap::new();
            for d in self.inner.store.repairable_drifts(project, MAX_RESOLVED).await? {
                if self.end_drift(&d, Resolution::Reassigned, None, &Ctx::system()).await? {
                    by_bundle.entry(d.expected).or_default().insert(d.node);
                }
            }
            for (expected, nodes) in by_bundle {
                let system = Caller {
                    ctx: Ctx::system(),
                    user: None,
                    instance_admin: false,
                    grant: Grant::Roles(vec![(row.org, Role::Operator)]),
                    idempotency: None,
                };
                match self.repair(&system, project, &expected, nodes).await {
                    Ok(_) => begun += 1,
                    // It is found again a minute later, and then stays open until somebody decides.
                    Err(e) => tracing::warn!(%project, error = ?e, "drifted nodes were not repaired"),
                }
            }
        }
        Ok(begun)
    }

    /// New drifts are stored, ended ones are closed. Answers how many of each.
    pub async fn find_drift(&self, grace: Span) -> CommandResult<(u64, u64)> {
        let (store, now) = (&self.inner.store, self.now());
        let found = store.drifting(now - grace, BATCH).await?;
        let drifts: Vec<Drift> = found
            .into_iter()
            .map(|(project, c)| Drift {
                id: self.fresh().uuid(now),
                project,
                node: c.node,
                expected: c.expected,
                found: c.found,
                severity: c.severity(),
                detected_at: now,
                resolved_at: None,
                resolved_by: None,
                resolution: None,
            })
            .collect();
        let mut opened = 0;
        if !drifts.is_empty() {
            let mut write = store::Write::at(now);
            for d in &drifts {
                write = write.audit(self.fresh().id(now), drift_said(d, "drift.detected").entry(&Ctx::system()));
            }
            opened = store.put_drifts(drifts, write).await?;
        }
        let mut closed = 0;
        for (d, how) in store.drift_ended(BATCH).await? {
            closed += u64::from(self.end_drift(&d, how, None, &Ctx::system()).await?);
        }
        Ok((opened, closed))
    }

    async fn end_drift(&self, d: &Drift, how: Resolution, by: Option<UserId>, ctx: &Ctx) -> CommandResult<bool> {
        let mut said = drift_said(d, "drift.resolved");
        said.changes["resolution"] = json!(how);
        let now = self.now();
        let write = store::Write::at(now).audit(self.fresh().id(now), said.entry(ctx));
        Ok(self.inner.store.resolve_drift(d.project, d.id, how, by, write).await?)
    }

    /// A person has seen it; with `repair`, what was expected is rolled out to the node again.
    pub async fn resolve_drift(
        &self,
        caller: &Caller,
        project: ProjectId,
        id: Uuid,
        repair: bool,
    ) -> CommandResult<(Drift, Done, Option<RolloutView>)> {
        let drift = self.inner.store.drift(project, id).await?;
        if drift.resolved_at.is_some() {
            return Ok((drift, Done::Already, None));
        }
        let rollout = match repair {
            true => Some(self.repair(caller, project, &drift.expected, [drift.node].into()).await?),
            false => None,
        };
        let how = if repair { Resolution::Reassigned } else { Resolution::Acknowledged };
        let changed = self.end_drift(&drift, how, caller.user, &caller.ctx).await?;
        let now = self.inner.store.drift(project, id).await?;
        Ok((now, if changed { Done::Changed } else { Done::Already }, rollout))
    }

    /// All that are open, at most 500 at once; repairs are one rollout for each expected bundle, and what cannot be repaired is left.
    pub async fn resolve_all_drift(
        &self,
        caller: &Caller,
        project: ProjectId,
        repair: bool,
    ) -> CommandResult<Resolved> {
        let open = DriftFilter { open: Some(true), node: None };
        let found = self.inner.store.drifts(project, open, Page::first(MAX_RESOLVED)).await?;
        let mut out = Resolved {
            left: (found.total.max(0) as u32).saturating_sub(found.rows.len() as u32),
            ..Resolved::default()
        };
        let how = if repair { Resolution::Reassigned } else { Resolution::Acknowledged };
        let mut by_bundle: BTreeMap<Option<BundleId>, Vec<Drift>> = BTreeMap::new();
        for d in found.rows {
            by_bundle.entry(d.expected).or_default().push(d);
        }
        for (expected, drifts) in by_bundle {
            if repair {
                let nodes = drifts.iter().map(|d| d.node).collect();
                match self.repair(caller, project, &expected, nodes).await {
                    Ok(rollout) => out.rollouts.push(rollout),
                    // These stay open: nothing of ours was expected, its bundle is revoked, another rollout holds them.
                    Err(CommandError::Conflict { .. } | CommandError::Invalid(_)) => {
                        out.left += drifts.len() as u32;
                        continue;
                    }
                    Err(e) => return Err(e),
                }
            }
            for d in &drifts {
                out.resolved += u32::from(self.end_drift(d, how, caller.user, &caller.ctx).await?);
            }
        }
        Ok(out)
    }

    async fn repair(
        &self,
        caller: &Caller,
        project: ProjectId,
        expected: &Option<BundleId>,
        nodes: BTreeSet<NodeId>,
    ) -> CommandResult<RolloutView> {
        let Some(bundle) = *expected else {
            let detail = "the node shall run what it had at enrolment: nothing of ours can be rolled out to it".into();
            return Err(CommandError::Conflict { code: "no_bundle_expected", detail });
        };
        let spec = Spec {
            kind: RolloutKind::DriftRepair,
            selector: Selector::NodeIds { node_ids: nodes },
            batch_size: REPAIR_BATCH,
            ..Spec::new(bundle)
        };
        // Each repair is a rollout of its own: the key of the request belongs to the resolution.
        let caller = Caller { idempotency: None, ..caller.clone() };
        self.create_rollout(&caller, project, spec).await
    }
}

fn drift_said(d: &Drift, action: &'static str) -> Said {
    Said {
        action,
        kind: ChangeKind::Drift,
        id: d.id,
        project: Some(d.project),
        changes: json!({"node_id": d.node, "expected": d.expected, "found": d.found, "severity": d.severity}),
    }
}
