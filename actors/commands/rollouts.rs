//! Rollouts: plan, create, command, explain.

use crate::command::*;
use crate::commands::write::idem;
use crate::plane::ControlPlane;
use crate::rollout::Attempt;
use crate::rollout::facts::Resolved;
use crate::rollout::permit::Approvals;
use domain::approval::Standing;
use domain::audit::NewEntry;
use domain::bundle::BundleStatus;
use domain::node::{HistoryEntry, Presence, Selector, previous_bundles};
use domain::rollout::estimate::{Estimate, estimate, pace};
use domain::rollout::{
    Candidate, Decision, Event, Head, Phase, Plan, RolloutKind, SkipReason, Spec, Step, StrategyKind, Wait,
    explain_head, originate, plan,
};
use domain::*;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Beyond this many steps `plan` warns.
const MANY_STEPS: usize = 100;
/// A revoked bundle is replaced quickly, but not everywhere at once.
const REPLACE_BATCH: domain::project::Amount = domain::project::Amount::Percent(25);
/// So many earlier rollouts tell how long the next one will take.
const MEASURED_ROLLOUTS: u32 = 5;
/// Bundles of the fleet that a change is compared with: one that runs more is far from any plan.
const MAX_COMPARED: usize = 20;
/// A batch above this share of the targets, without `max_unavailable`, is warned of.
const LARGE_BATCH_PERCENT: u32 = 50;

/// The commands of an operator on a rollout.
#[derive(Clone, Debug, PartialEq)]
pub enum RolloutCommand {
    Start,
    Pause { note: Option<String> },
    Resume { retry: bool, accept_failed: bool },
    Cancel { note: Option<String> },
    Rollback { note: Option<String>, nodes: Option<BTreeSet<NodeId>> },
    Retry { nodes: Option<BTreeSet<NodeId>> },
    AdvanceTraffic,
    SwapSlot,
}

/// What takes the place of a revoked bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replacement {
    /// Each node's own.
    Previous,
    Bundle(BundleId),
}

/// What came of a replacement: a rollout for each bundle that could be given, and whom nothing was given to.
#[derive(Clone, Debug, Default)]
pub struct Replaced {
    pub rollouts: Vec<RolloutView>,
    pub left: Vec<NotReplaced>,
}

/// Nodes that stay on the revoked bundle until somebody decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotReplaced {
    pub nodes: BTreeSet<NodeId>,
    /// What they would have got. `None`: they never ran anything else that may still be named.
    pub bundle: Option<BundleId>,
    pub why: String,
}

/// A rollout as it is shown: summary, steps, counts.
#[derive(Clone, Debug)]
pub struct RolloutView {
    pub id: RolloutId,
    pub project: ProjectId,
    pub spec: Spec,
    pub head: Head,
    pub steps: Vec<Step>,
    pub primary: Reason,
    pub created_by: Option<UserId>,
    pub inserted_at: Timestamp,
    pub updated_at: Timestamp,
    pub owner: Option<InstanceId>,
}

/// Exactly one in every state: what happens next, or what is awaited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    pub code: String,
    pub text: String,
}

#[derive(Clone, Debug)]
pub struct PlanView {
    /// Exactly the steps that start would make.
    pub steps: Vec<Vec<NodeId>>,
    pub excluded: Vec<(NodeId, SkipReason)>,
    pub warnings: Vec<String>,
    /// Nodes that already run the bundle.
    pub already: u32,
    pub offline: u32,
    pub online: u32,
    pub plan_hash: Digest,
    pub estimate: Estimate,
    /// What the lot of a canary was drawn with.
    pub seed: uuid::Uuid,
}

impl ControlPlane {
    /// `spec.bundle` names the bundle. Writes nothing.
    pub async fn plan_rollout(&self, project: ProjectId, spec: &Spec) -> CommandResult<PlanView> {
        check(spec)?;
        self.usable_bundle(project, spec).await?;
        self.groups_exist(project, &spec.selector).await?;
        let resolved = self.resolve(project, spec).await?;
        refuse_unknown(&resolved.unknown)?;
        // Without one of the caller's the lot is drawn here: naming this seed at creation gives these very steps.
        let seed = spec.seed.unwrap_or_else(|| self.fresh().uuid(self.now()));
        let planned = plan(spec, seed, &resolved.candidates);
        let targets: Vec<_> = resolved.candidates.iter().filter(|c| c.facts.skip.is_none()).collect();
        let online = targets.iter().filter(|c| c.facts.online).count() as u32;
        let n = targets.len() as u32;
        let mut warnings = Vec::new();
        if n == 0 {
            warnings.push("no node matches; the first to come will be the first target".into());
        }
        if planned.steps.len() > MANY_STEPS {
            warnings.push(format!("{} steps", planned.steps.len()));
        }
        let largest = planned.steps.iter().map(Vec::len).max().unwrap_or(0) as u32;
        match spec.max_unavailable {
            None | Some(domain::project::Amount::Count(0)) => {
                warnings.push(format!("no limit of unavailability: a batch of up to {largest} nodes is the limit"));
                if n > 1 && largest * 100 > n * LARGE_BATCH_PERCENT {
                    warnings.push(format!("one batch holds {largest} of {n} targets"));
                }
            }
            Some(_) => {}
        }
        let restarts = self.restarts(project, spec, &resolved).await?;
        if !restarts.is_empty() {
            let why = restarts.iter().cloned().collect::<Vec<_>>().join(", ");
            let sizes: Vec<usize> = planned.steps.iter().map(Vec::len).collect();
            let refused = if spec.restarts_too_many(&sizes) { "; refused without allow_restart" } else { "" };
            warnings.push(format!("the proxies must restart: {why}{refused}"));
        }
        if !resolved.held.is_empty() && spec.supersede {
            warnings.push(format!("{} nodes are taken over from another active rollout", resolved.held.len()));
        } else if !resolved.held.is_empty() {
            warnings.push(format!(
                "{} nodes are held by another active rollout: start would be refused",
                resolved.held.len()
            ));
        }
        let estimate = self.estimate(project, spec, &planned, &targets).await?;
        let hash_input = json!({"spec": spec, "steps": planned.steps});
        let plan_hash = Digest::of(&serde_json::to_vec(&hash_input).unwrap_or_default());
        Ok(PlanView {
            steps: planned.steps,
            excluded: planned.excluded,
            warnings,
            already: resolved.already,
            offline: n - online,
            online,
            estimate,
            plan_hash,
            seed,
        })
    }

    async fn estimate(
        &self,
        project: ProjectId,
        spec: &Spec,
        planned: &Plan,
        targets: &[&Candidate],
    ) -> CommandResult<Estimate> {
        let online: HashSet<NodeId> = targets.iter().filter(|c| c.facts.online).map(|c| c.facts.node).collect();
        let of_step = |nodes: &Vec<NodeId>| nodes.iter().filter(|n| online.contains(n)).count() as u32;
        let reachable: Vec<u32> = planned.steps.iter().map(of_step).collect();
        let measured = pace(&self.inner.store.recent_steps(project, MEASURED_ROLLOUTS).await?);
        Ok(estimate(spec, &reachable, self.budget_limit(project).await?, measured))
    }

    pub async fn create_rollout(&self, caller: &Caller, project: ProjectId, spec: Spec) -> CommandResult<RolloutView> {
        let again = |id| async move { self.rollout_view(RolloutId(id)).await };
        self.once(caller, again, Box::pin(self.create_once(caller, project, spec))).await
    }

    async fn create_once(&self, caller: &Caller, project: ProjectId, mut spec: Spec) -> CommandResult<RolloutView> {
        let now = self.now();
        spec.stale_after = self.config().stale_after;
        check(&spec)?;
        self.usable_bundle(project, &spec).await?;
        self.groups_exist(project, &spec.selector).await?;
        if spec.scheduled_at.is_some_and(|t| t < now - Span::secs(60)) {
            return Err(CommandError::invalid("scheduled_at", "lies in the past"));
        }
        self.refuse_rolled_back(project, &spec).await?;
        let resolved = self.resolve(project, &spec).await?;
        refuse_unknown(&resolved.unknown)?;
        let at_once = spec.start && spec.scheduled_at.is_none_or(|t| t <= now);
        let nodes = resolved.candidates.iter().filter(|c| c.facts.skip.is_none()).map(|c| c.facts.node).collect();
        let must_be_approved = self.people_needed(project, nodes).await? > 0;
        if at_once && !must_be_approved && !resolved.held.is_empty() {
            if !spec.supersede {
                return Err(store::Error::Claimed(resolved.held).into());
            }
            self.refuse_rolling_back(&resolved).await?;
        }
        let restarts = self.restarts(project, &spec, &resolved).await?;
        // Known from here on: its way back restarts them too.
        spec.restarts = !restarts.is_empty();
        let row = self.inner.store.project(Scope::Project(project), &project.to_string()).await?;
        let id: RolloutId = self.fresh().id(now);
        let origin = originate(id, project, spec, &resolved.members());
        let planned = origin.clone().planned();
        let sizes: Vec<usize> = planned.steps.iter().map(|s| s.size as usize).collect();
        if !restarts.is_empty() && planned.spec.restarts_too_many(&sizes) {
            let why = restarts.iter().cloned().collect::<Vec<_>>().join(", ");
            let text = format!(
                "the proxies must restart ({why}): batches of at most a tenth of the targets, max_unavailable, or allow_restart: true"
            );
            return Err(CommandError::invalid("allow_restart", text));
        }
        let write = store::Write::at(now)
            .audit(
                self.fresh().id(now),
                NewEntry {
                    actor: caller.ctx.actor,
                    action: "rollout.created",
                    resource_type: "rollout",
                    resource_id: Some(id.0),
                    project: Some(project),
                    changes: json!({"spec": planned.spec, "targets": planned.head.planned, "steps": planned.steps.len()}),
                    request_id: caller.ctx.request_id,
                    ip: caller.ctx.address.map(|a| a.to_string()),
                },
            )
            .change(store::NewChange { kind: store::ChangeKind::Rollout, id: id.0, project: Some(project), version: 0 })
            .idem(idem(caller, now, 201, store::ChangeKind::Rollout, id.0));
        let created_by_key = match caller.ctx.actor {
            Actor::ApiKey(k) => Some(k),
            Actor::User(_) | Actor::Node(_) | Actor::System => None,
        };
        let new = store::NewRollout {
            planned,
            origin: Some(origin),
            org: row.org,
            created_by: caller.user,
            created_by_key,
            options: json!({}),
        };
        self.inner.store.insert_rollout(new, write).await?;
        self.inner.bus.publish(crate::bus::Notice {
            seq: 0,
            kind: "rollout",
            id: id.0,
            version: 0,
            project: Some(project),
        });
        if at_once {
            // Its actor starts it; whatever prevents that is found and shown as the rollout's reason.
            self.ensure_rollout(id).await;
        }
        self.rollout_view(id).await
    }

    /// Give `nodes` a bundle, now: a rollout of its kind. Nodes that another rollout holds are taken over.
    pub async fn assign_bundle(
        &self,
        caller: &Caller,
        project: ProjectId,
        bundle: BundleId,
        selector: Selector,
        kind: RolloutKind,
    ) -> CommandResult<RolloutView> {
        let spec = Spec {
            kind,
            selector,
            strategy: StrategyKind::AllAtOnce,
            supersede: true,
            allow_restart: true,
            // A person named both the bundle and the node.
            allow_failed: matches!(kind, RolloutKind::Assign | RolloutKind::Pin),
            // A pin to it was accepted when it was made, and its nodes are brought back to it.
            allow_deprecated: kind != RolloutKind::Assign,
            ..Spec::new(bundle)
        };
        self.create_rollout(caller, project, spec).await
    }

    /// Before a revocation: can `bundle` take the place of what is revoked? Errors: those of creating a rollout of it.
    pub async fn check_replacement(&self, project: ProjectId, bundle: BundleId) -> CommandResult<()> {
        let spec = Spec::new(bundle);
        self.usable_bundle(project, &spec).await?;
        self.refuse_rolled_back(project, &spec).await
    }

    /// After a revocation: what the nodes that are told to run `revoked`, or run it, get instead. One rollout for each bundle; where one
    /// is refused the others are made all the same.
    pub async fn replace_bundle(
        &self,
        caller: &Caller,
        project: ProjectId,
        revoked: BundleId,
        with: Replacement,
    ) -> CommandResult<Replaced> {
        let replaces = |spec: &Spec| spec.kind == RolloutKind::Replace && spec.bundle != revoked;
        // Asked again, perhaps because the first answer was lost: what is replaced already is left to it. Whatever has not claimed its
        // nodes yet is looked for before them: else it might do so in between.
        let pending = store::RolloutFilter { phases: vec![Phase::Pending], bundle: None };
        let mut meant = BTreeSet::new();
        for r in self.all_rollouts(Scope::Project(project), pending).await?.into_iter().filter(|r| replaces(&r.spec)) {
            if let Selector::NodeIds { node_ids } = r.spec.selector {
                meant.extend(node_ids);
            }
        }
        let mut rows = self.inner.store.candidates(project).await?;
        rows.retain(|r| r.active_bundle == Some(revoked) || r.desired_bundle == Some(revoked));
        let holders: BTreeSet<RolloutId> = rows.iter().filter_map(|r| r.claimed_by).collect();
        let mut replacing = BTreeSet::new();
        for id in holders {
            let held = self.inner.store.rollout(Scope::Project(project), id).await?;
            if replaces(&held.spec) {
                replacing.insert(id);
            }
        }
        rows.retain(|r| !meant.contains(&r.id) && r.claimed_by.is_none_or(|id| !replacing.contains(&id)));
        let on_it: Vec<NodeId> = rows.iter().map(|r| r.id).collect();
        let mut by_bundle: BTreeMap<Option<BundleId>, BTreeSet<NodeId>> = BTreeMap::new();
        match with {
            Replacement::Bundle(b) => {
                by_bundle.entry(Some(b)).or_default().extend(on_it);
            }
            Replacement::Previous => {
                let histories = self.inner.store.histories(on_it.clone()).await?;
                let usable = self.usable_among(&histories, revoked).await?;
                for node in on_it {
                    let before = histories.get(&node).map(|h| previous_bundles(h, None, revoked)).unwrap_or_default();
                    by_bundle.entry(before.into_iter().find(|b| usable.contains(b))).or_default().insert(node);
                }
            }
        }
        let mut out = Replaced::default();
        for (bundle, nodes) in by_bundle.into_iter().filter(|(_, n)| !n.is_empty()) {
            let Some(named) = bundle else {
                let why = "no earlier bundle of theirs may still be named".to_string();
                out.left.push(NotReplaced { nodes, bundle, why });
                continue;
            };
            let spec = Spec {
                kind: RolloutKind::Replace,
                selector: Selector::NodeIds { node_ids: nodes.clone() },
                batch_size: REPLACE_BATCH,
                supersede: true,
                allow_restart: true,
                // As in a rollback: a node's own earlier bundle is not a new choice.
                allow_deprecated: with == Replacement::Previous,
                ..Spec::new(named)
            };
            let caller = Caller { idempotency: None, ..caller.clone() };
            let why = match self.create_rollout(&caller, project, spec).await {
                Ok(begun) => {
                    out.rollouts.push(begun);
                    continue;
                }
                Err(CommandError::Conflict { detail, .. }) => detail,
                Err(CommandError::Invalid(faults)) => {
                    faults.into_iter().map(|(_, why)| why).collect::<Vec<_>>().join("; ")
                }
                Err(e) => return Err(e),
            };
            out.left.push(NotReplaced { nodes, bundle, why });
        }
        Ok(out)
    }

    /// Bundles that may still be named: what a rollback would go back to.
    async fn usable_among(
        &self,
        histories: &HashMap<NodeId, Vec<HistoryEntry>>,
        revoked: BundleId,
    ) -> CommandResult<BTreeSet<BundleId>> {
        let all: BTreeSet<BundleId> =
            histories.values().flatten().filter_map(|h| h.bundle).filter(|b| *b != revoked).collect();
        let facts = self.inner.store.bundle_facts(all.into_iter().collect()).await?;
        let usable = |s: BundleStatus| matches!(s, BundleStatus::Compiled | BundleStatus::Deprecated);
        Ok(facts.into_iter().filter(|(f, _)| usable(f.status)).map(|(f, _)| f.id).collect())
    }

    pub async fn command_rollout(
        &self,
        caller: &Caller,
        id: RolloutId,
        command: RolloutCommand,
    ) -> CommandResult<(RolloutView, Done)> {
        let again = |id| async move { Ok((self.rollout_view(RolloutId(id)).await?, Done::Changed)) };
        let first = async {
            // A person decided: failures of its actor are forgotten, or nobody could carry the decision on.
            if let Err(e) = self.inner.rollouts.family.forgive(&id).await {
                tracing::debug!(rollout = %id, error = %e, "the failures of the rollout's actor were not forgotten");
            }
            if goes_forward(&command) {
                self.refuse_revoked(id).await?;
            }
            if matches!(command, RolloutCommand::Retry { .. }) {
                self.refresh_for_retry(id).await?;
            }
            let (event, takes) = self.event_of(id, command).await?;
            let attempt = Attempt { takes, ..Attempt::of(caller) };
            let decision: Decision = self.decide_on(id, event, attempt).await?;
            let nothing = decision.changes.is_empty();
            // Its commit may have been made and its answer lost, and then it was decided once more.
            let made_before = nothing && self.answered(caller).await?.is_some();
            let done = if nothing && !made_before { Done::Already } else { Done::Changed };
            Ok((self.rollout_view(id).await?, done))
        };
        self.once(caller, again, Box::pin(first)).await
    }

    /// Nothing goes forward with a revoked bundle. Whoever revoked it may have died before this rollout heard of it.
    async fn refuse_revoked(&self, id: RolloutId) -> CommandResult<()> {
        let system = Scope::System("a command on a rollout whose tenant was checked at the door");
        let r = self.inner.store.rollout(system, id).await?;
        let revoked = r.bundle.as_ref().is_some_and(|b| b.status == BundleStatus::Revoked);
        // `retry` of a rolled back one restores what was there before.
        if !revoked || r.head.phase == Phase::RolledBack {
            return Ok(());
        }
        if !r.head.phase.is_end() {
            let event = Event::BundleRevoked { revoked: [r.spec.bundle].into() };
            self.decide_on(id, event, Attempt::system()).await?;
        }
        let detail = format!("the bundle is revoked: the rollout, which was {}, cannot go on with it", r.head.phase);
        Err(CommandError::Conflict { code: "bundle_revoked", detail })
    }

    /// Freezes and people who have not agreed hold a start; the first can be overridden, the second not.
    async fn refuse_start(&self, r: &store::RolloutSummary, resolved: &Resolved) -> CommandResult<()> {
        let refuse = |code, detail| Err(CommandError::Conflict { code, detail });
        let approvals = self.approvals(r.id, r.project, &r.spec, resolved).await?;
        if let Some((_, detail)) = unapproved(&approvals) {
            return refuse("approval_needed", detail);
        }
        let nodes = || resolved.candidates.iter().map(|c| c.facts.node).collect();
        match self.frozen(r.org, r.project, r.id, nodes).await? {
            Some(f) => refuse("frozen", frozen_text(&f)),
            None => Ok(()),
        }
    }

    /// What a pending rollout waits for, besides its time.
    async fn awaited(&self, r: &store::RolloutSummary) -> CommandResult<Option<Reason>> {
        let resolved = self.resolve(r.project, &r.spec).await?;
        let reason = |code: &str, text| Some(Reason { code: code.to_string(), text });
        let approvals = self.approvals(r.id, r.project, &r.spec, &resolved).await?;
        if let Some((code, text)) = unapproved(&approvals) {
            return Ok(reason(code, text));
        }
        if !r.spec.start || r.spec.scheduled_at.is_some_and(|t| t > self.now()) {
            return Ok(None);
        }
        let nodes = || resolved.candidates.iter().map(|c| c.facts.node).collect();
        if let Some(f) = self.frozen(r.org, r.project, r.id, nodes).await? {
            return Ok(reason("freeze", frozen_text(&f)));
        }
        let held = resolved.held.len();
        Ok(if held > 0 {
            reason("overlap", format!("waits for {held} nodes that another active rollout holds"))
        } else {
            None
        })
    }

    /// An ended rollout that is retried must know what has become of its nodes since: others may have moved them on.
    async fn refresh_for_retry(&self, id: RolloutId) -> CommandResult<()> {
        let loaded = self.inner.store.load_rollout(id).await?;
        if !matches!(loaded.planned.head.phase, Phase::Failed | Phase::RolledBack) {
            return Ok(());
        }
        let members: Vec<NodeId> = loaded.planned.members.iter().map(|m| m.node).collect();
        // It runs again at once; what it takes back again is not held by freezes.
        if loaded.planned.head.phase == Phase::Failed
            && let Some(f) = self.frozen(loaded.org, loaded.planned.project, id, || members.clone()).await?
        {
            return Err(CommandError::Conflict { code: "frozen", detail: frozen_text(&f) });
        }
        // Retrying is the one thing that may repeat a failed node.
        let spec = Spec { allow_failed: true, ..loaded.planned.spec };
        let facts = self.facts_of(loaded.planned.project, &spec, members).await?;
        let facts = facts.into_iter().map(|(f, _)| f).collect();
        self.decide_on(id, Event::LaneReady { facts }, Attempt::system()).await.map(drop)
    }

    /// The event a command means, with what the engine must know for it.
    async fn event_of(&self, id: RolloutId, command: RolloutCommand) -> CommandResult<(Event, Vec<RolloutId>)> {
        let system = Scope::System("a command on a rollout whose tenant was checked at the door");
        let event = match command {
            RolloutCommand::Start => {
                let r = self.inner.store.rollout(system, id).await?;
                let resolved = self.resolve(r.project, &r.spec).await?;
                let others = resolved.others(id);
                if r.head.phase == Phase::Pending && !others.is_empty() && !r.spec.supersede {
                    return Err(store::Error::Claimed(resolved.held).into());
                }
                if r.head.phase == Phase::Pending {
                    self.refuse_start(&r, &resolved).await?;
                }
                let facts = resolved.members().into_iter().map(|c| c.facts).collect();
                return Ok((Event::Start { facts }, others));
            }
            RolloutCommand::Pause { note } => Event::Pause { note },
            RolloutCommand::Resume { retry, accept_failed } => Event::Resume { retry, accept_failed },
            RolloutCommand::Cancel { note } => Event::Cancel { note },
            RolloutCommand::Retry { nodes } => Event::Retry { nodes },
            RolloutCommand::AdvanceTraffic => Event::AdvanceTraffic,
            RolloutCommand::SwapSlot => Event::SwapSlot,
            RolloutCommand::Rollback { note, nodes } => {
                let loaded = self.inner.store.load_rollout(id).await?;
                let members: Vec<NodeId> = loaded.planned.members.iter().map(|m| m.node).collect();
                let previous: BTreeSet<BundleId> =
                    loaded.planned.members.iter().flat_map(|m| m.previous.iter().copied()).collect();
                let facts = self.inner.store.bundle_facts(previous.into_iter().collect()).await?;
                let revoked: BTreeSet<BundleId> = facts
                    .iter()
                    .filter(|(f, _)| !matches!(f.status, BundleStatus::Compiled | BundleStatus::Deprecated))
                    .map(|(f, _)| f.id)
                    .collect();
                let rows = self.inner.store.fleet_nodes(members.clone()).await?;
                let pins: BTreeSet<BundleId> = rows.iter().filter_map(|n| n.pinned_bundle).collect();
                let facts = self.inner.store.bundle_facts(pins.into_iter().collect()).await?;
                let is_pinned = |n: &store::FleetNode| {
                    n.pinned_bundle
                        .is_some_and(|p| facts.iter().any(|(f, _)| f.id == p && f.status != BundleStatus::Revoked))
                };
                let still: BTreeSet<NodeId> =
                    rows.iter().filter(|n| n.desired_rollout == Some(id) && !is_pinned(n)).map(|n| n.id).collect();
                let ended = loaded.planned.head.phase.is_end();
                let gone = members.into_iter().filter(|n| ended && !still.contains(n)).collect();
                Event::Rollback { note, nodes, revoked, gone }
            }
        };
        Ok((event, Vec::new()))
    }

    /// Nodes that are on their way back are not taken: 409.
    async fn refuse_rolling_back(&self, resolved: &Resolved) -> CommandResult<()> {
        let system = Scope::System("rollouts of the same project, named by the nodes they hold");
        for other in resolved.others(RolloutId::NIL) {
            if self.inner.store.rollout(system, other).await?.head.phase == Phase::RollingBack {
                let detail = format!("rollout {other} is rolling back: its nodes cannot be taken over");
                return Err(CommandError::Conflict { code: "overlap", detail });
            }
        }
        Ok(())
    }

    /// Why proxies must restart to take the bundle up, if any target must.
    async fn restarts(&self, project: ProjectId, spec: &Spec, resolved: &Resolved) -> CommandResult<BTreeSet<String>> {
        let scope = Scope::Project(project);
        let new = self.inner.store.bundle_by_id(scope, spec.bundle).await?;
        let mut why = BTreeSet::new();
        let Some(new) = new.config else { return Ok(why) };
        for running in resolved.running.iter().take(MAX_COMPARED) {
            let old = match self.inner.store.bundle_by_id(scope, *running).await {
                Ok(b) => b.config,
                // Deleted since: nothing to compare with.
                Err(store::Error::NotFound) => None,
                Err(e) => return Err(e.into()),
            };
            if let Some(old) = old {
                why.extend(::bundle::risk::assess(Some(&old), &new, 0).restart_reasons);
            }
        }
        Ok(why)
    }

    pub async fn rollout_view(&self, id: RolloutId) -> CommandResult<RolloutView> {
        let system = Scope::System("a rollout whose tenant was checked at the door");
        let mut r = self.inner.store.rollout(system, id).await?;
        if r.head.phase.is_active() && self.inner.rollouts.unstored.contains(&id) {
            // Read, but not written: it waits for that, and cannot store that it does.
            r.head.waits.insert(Wait::Store);
        }
        let steps = self.inner.store.rollout_steps(id).await?;
        let open = steps.get(r.head.step as usize).map_or(0, |s| s.open);
        let primary = explain_head(&r.spec, &r.head, steps.len() as u32, open);
        let mut primary = Reason { code: primary.code.to_string(), text: primary.text };
        if r.head.phase == Phase::Pending && domain::rollout::plan::missed(&r.spec, self.now()) {
            let text = "could not start within its window; start it, or cancel it".to_string();
            primary = Reason { code: "schedule_missed".to_string(), text };
        } else if r.head.phase == Phase::Pending
            && let Some(awaited) = self.awaited(&r).await?
        {
            primary = awaited;
        }
        Ok(RolloutView {
            id: r.id,
            project: r.project,
            spec: r.spec,
            head: r.head,
            steps,
            primary,
            created_by: r.created_by,
            inserted_at: r.inserted_at,
            updated_at: r.updated_at,
            owner: r.owner,
        })
    }

    /// How many nodes of a project are online.
    pub async fn online_nodes(&self, project: ProjectId) -> CommandResult<usize> {
        let rows = self.inner.store.candidates(project).await?;
        Ok(rows.iter().filter(|r| r.presence == Presence::Online).count())
    }

    async fn refuse_rolled_back(&self, project: ProjectId, spec: &Spec) -> CommandResult<()> {
        if spec.allow_failed || !self.inner.store.was_rolled_back(project, spec.bundle).await? {
            return Ok(());
        }
        let detail = "this bundle was rolled back automatically; allow_failed: true rolls it out all the same".into();
        Err(CommandError::Conflict { code: "bundle_rolled_back", detail })
    }

    async fn usable_bundle(&self, project: ProjectId, spec: &Spec) -> CommandResult<()> {
        let found = self.inner.store.bundle(Scope::Project(project), project, store::BundleRef::Row(spec.bundle)).await;
        let bundle = match found {
            Ok(b) => b,
            Err(store::Error::NotFound) => {
                return Err(CommandError::invalid("bundle_id", "no such bundle in this project"));
            }
            Err(e) => return Err(e.into()),
        };
        let refuse = |code, detail: &str| Err(CommandError::Conflict { code, detail: detail.to_string() });
        match bundle.status {
            BundleStatus::Compiled => Ok(()),
            BundleStatus::Revoked => refuse("bundle_revoked", "the bundle is revoked"),
            BundleStatus::Deprecated if spec.allow_deprecated => Ok(()),
            BundleStatus::Deprecated => {
                refuse("bundle_deprecated", "the bundle is deprecated; allow_deprecated: true overrides it")
            }
            BundleStatus::Compiling | BundleStatus::AwaitingSignature | BundleStatus::Failed => {
                refuse("bundle_not_compiled", &format!("the bundle is {}", bundle.status))
            }
        }
    }
}

/// Does it mean that nodes may be told the rollout's bundle?
fn goes_forward(command: &RolloutCommand) -> bool {
    match command {
        RolloutCommand::Start | RolloutCommand::Resume { .. } | RolloutCommand::Retry { .. } => true,
        RolloutCommand::AdvanceTraffic | RolloutCommand::SwapSlot => true,
        RolloutCommand::Pause { .. } | RolloutCommand::Cancel { .. } | RolloutCommand::Rollback { .. } => false,
    }
}

/// Code and text of what is still missing.
fn unapproved(a: &Approvals) -> Option<(&'static str, String)> {
    match &a.standing {
        Standing::NotNeeded | Standing::Approved => None,
        Standing::Waiting { have, need } => {
            Some(("awaiting_approval", format!("{have} of {need} people have approved what would start now")))
        }
        Standing::Rejected { comment, .. } => {
            Some(("rejected", format!("rejected: {}", comment.as_deref().unwrap_or_default())))
        }
    }
}

fn frozen_text(f: &domain::freeze::Freeze) -> String {
    let until = f.ends_at.map_or_else(|| "until somebody ends it".to_string(), |t| format!("until {t}"));
    format!("the freeze window {} holds {until}: {}", f.name, f.reason)
}

fn check(spec: &Spec) -> CommandResult<()> {
    let errors = spec.check();
    if errors.is_empty() {
        return Ok(());
    }
    Err(CommandError::Invalid(errors.into_iter().map(|(f, m)| (f.to_string(), m)).collect()))
}

fn refuse_unknown(unknown: &[NodeId]) -> CommandResult<()> {
    match unknown.first() {
        None => Ok(()),
        Some(first) => Err(CommandError::invalid(
            "target_selector.node_ids",
            format!("{} ids are not nodes of this project, the first {first}", unknown.len()),
        )),
    }
}
