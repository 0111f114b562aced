//! One actor per active rollout: feeds the pure engine and carries out what it says.
//!
//! Owns: the rollout as last committed. Rebuilt from: `rollouts`, steps, node rows, events; never raw heartbeats.
//! Invariants: decide, store, act, in that order; one commit is checked by version and fence or changes nothing; a failed
//! commit leaves no dirty memory, a doubtful one ends the actor, which is loaded again.

mod actor;
mod budget;
mod commit;
pub(crate) mod facts;
mod hooks;
mod lane;
mod measure;
mod news;
mod notify;
pub(crate) mod permit;
mod reconcile;
mod time;

pub(crate) use actor::RolloutMsg;
pub(crate) use commit::Attempt;
use commit::Room;
pub(crate) use measure::Measured;

use crate::command::{CommandError, CommandResult};
use crate::plane::{ControlPlane, Inner};
use crate::supervision::{Backoff, Budget, Env, Family, FamilySpec, GivenUp, Restart, call_with_deadline, spawn_task};
use actor::RolloutActor;
use dashmap::{DashMap, DashSet};
use domain::node::{GateWindow, Generation};
use domain::rollout::{Decision, Event, NodeStateKind, PresenceChange, Report};
use domain::*;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntGaugeVec, Opts};
use serde::{Deserialize, Serialize};
use std::sync::Weak;
use std::time::Duration;

/// A rollout's actor answers within this: a commit of 1,000 nodes takes 60 ms, and a few may be before us. Shorter than what a
/// session may take, which waits for it.
const ROLLOUT_DEADLINE: Duration = Duration::from_secs(8);
/// How often a command is tried again when another commit came first.
const MAX_ATTEMPTS: u32 = 8;
/// With the back-off below these take about eight minutes: a database that is away for less pauses no rollout.
const CHILD_BUDGET: Budget = Budget { restarts: 15, within: Span::secs(900) };
/// 5,000 rollouts (FIELD section 4) may each lose the answer to a commit when the database dies: once is no reason to end the family.
const FAMILY_BUDGET: Budget = Budget { restarts: 10_000, within: Span::secs(60) };
const BACKOFF: Backoff = Backoff { base: Span::millis(200), cap: Span::secs(60), jitter_percent: 25 };
/// Rollouts taken over in one transaction; as many of these as there is to take.
const ACQUIRE_BATCH: u32 = 500;

/// What a session hands on: columns of the node's row, and what its rollout must hear. Committed together.
pub struct Delivery {
    pub change: store::NodeChange,
    pub reports: Vec<Report>,
    pub windows: Vec<GateWindow>,
    /// The node came online with this, or says "not now", or says so no more.
    pub presence: Option<PresenceChange>,
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// The node's state in its rollout, after the commit; `None` when no rollout holds it here.
    pub state: Option<NodeStateKind>,
    /// No rollout waits for anything of this node.
    pub unengaged: bool,
}

/// The part of a delivery that goes through the inbox when another instance owns the rollout.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Mail {
    pub reports: Vec<Report>,
    pub windows: Vec<GateWindow>,
    pub presence: Vec<PresenceChange>,
}

impl Mail {
    fn is_empty(&self) -> bool {
        self.reports.is_empty() && self.windows.is_empty() && self.presence.is_empty()
    }
}

pub struct Rollouts {
    pub(crate) family: Family<RolloutId, RolloutMsg>,
    /// Those here whose decisions the database does not take: shown as their wait, which nobody can store.
    pub(crate) unstored: DashSet<RolloutId>,
    pub(crate) metrics: RolloutMetrics,
    /// `max_updating` of projects in nodes, as read a moment ago.
    pub(crate) limits: DashMap<ProjectId, (Timestamp, Option<u32>)>,
}

pub(crate) struct RolloutMetrics {
    pub decision_seconds: Histogram,
    pub propagation_seconds: Histogram,
    pub sweep_corrections: IntCounter,
    /// Counted anew every few seconds: by project and status, by state, and all audit entries.
    pub nodes: IntGaugeVec,
    pub rollouts: IntGaugeVec,
    pub audit_entries: IntCounter,
}

impl RolloutMetrics {
    fn register(registry: &prometheus::Registry) -> Result<RolloutMetrics, prometheus::Error> {
        let buckets = || vec![0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];
        let m = RolloutMetrics {
            decision_seconds: Histogram::with_opts(
                HistogramOpts::new("sentinel_cp_rollout_decision_seconds", "From an event to its committed decision.")
                    .buckets(buckets()),
            )?,
            propagation_seconds: Histogram::with_opts(
                HistogramOpts::new(
                    "sentinel_cp_rollout_propagation_seconds",
                    "From the report that allowed an assignment to the wake-up of the sessions it names.",
                )
                .buckets(buckets()),
            )?,
            sweep_corrections: IntCounter::new(
                "sentinel_cp_sweep_corrections_total",
                "Work that a periodic scan found and no wake-up had told.",
            )?,
            nodes: IntGaugeVec::new(Opts::new("sentinel_cp_nodes", "Nodes, by presence."), &["project", "status"])?,
            rollouts: IntGaugeVec::new(Opts::new("sentinel_cp_rollouts", "Rollouts, by state."), &["state"])?,
            audit_entries: IntCounter::new("sentinel_cp_audit_entries_total", "Entries of all audit chains.")?,
        };
        registry.register(Box::new(m.decision_seconds.clone()))?;
        registry.register(Box::new(m.propagation_seconds.clone()))?;
        registry.register(Box::new(m.sweep_corrections.clone()))?;
        registry.register(Box::new(m.nodes.clone()))?;
        registry.register(Box::new(m.rollouts.clone()))?;
        registry.register(Box::new(m.audit_entries.clone()))?;
        Ok(m)
    }
}

impl Rollouts {
    pub(crate) fn new(
        plane: Weak<Inner>,
        env: &Env,
        registry: &prometheus::Registry,
    ) -> Result<Rollouts, prometheus::Error> {
        let (for_start, for_list) = (plane.clone(), plane.clone());
        let spec = FamilySpec::new(
            "rollout",
            Restart::Transient,
            move |id: &RolloutId| (RolloutActor, (for_start.clone(), *id)),
            move |id, why| give_up(plane.clone(), id, why),
        )
        .starting_with(move || {
            let plane = for_list.clone();
            async move {
                let inner = plane.upgrade().ok_or("the control plane has ended")?;
                let plane = ControlPlane { inner };
                // Also those that are ours already: start-up is restart.
                plane.work_here().await.map_err(|e| e.to_string())
            }
        });
        let mut spec = spec;
        spec.child_budget = CHILD_BUDGET;
        spec.family_budget = FAMILY_BUDGET;
        spec.backoff = BACKOFF;
        let metrics = RolloutMetrics::register(registry)?;
        Ok(Rollouts { family: Family::new(spec, env), unstored: DashSet::new(), metrics, limits: DashMap::new() })
    }
}

/// A rollout whose actor failed too often is stored as paused: it fails closed, audited, and sends no assignment.
async fn give_up(plane: Weak<Inner>, id: RolloutId, why: GivenUp) {
    let Some(inner) = plane.upgrade() else { return };
    let plane = ControlPlane { inner };
    tracing::error!(rollout = %id, failures = why.failures, last = %why.last, "rollout given up");
    let event = Event::ControllerFailed { note: why.last };
    if let Err(e) = plane.decide_detached(id, &event, &Attempt::system()).await {
        tracing::error!(rollout = %id, error = ?e, "a given-up rollout could not be paused");
    }
}

impl ControlPlane {
    /// Take over whatever nobody owns, and start its actors. Answers how many.
    pub(crate) async fn acquire_rollouts(&self) -> CommandResult<usize> {
        let mut started = 0;
        for id in self.work_here().await? {
            if self.inner.rollouts.family.lookup(&id).is_none() {
                started += 1;
                let plane = self.clone();
                // Beside the sweep: one that loads slowly must not hold up the others, nor the lease.
                spawn_task("start rollout", async move { plane.ensure_rollout(id).await }).detach();
            }
        }
        Ok(started)
    }

    /// Each finishes the decision it is in.
    pub(crate) async fn stop_rollouts(&self) {
        let family = &self.inner.rollouts.family;
        let all = family.directory().snapshot();
        futures_util::future::join_all(all.iter().map(|(id, _)| family.stop_child(id))).await;
    }

    /// Rollouts with work that are, or now become, this instance's.
    async fn work_here(&self) -> store::Result<Vec<RolloutId>> {
        let (store, me) = (&self.inner.store, self.inner.instance);
        let taken = store.acquire_rollouts(me, self.now(), ACQUIRE_BATCH).await?;
        let mut ids: Vec<RolloutId> = store.owned_rollouts(me, self.now()).await?;
        ids.extend(taken.into_iter().map(|a| a.id));
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// Make sure somebody works on the rollout: here, unless another live instance does.
    pub(crate) async fn ensure_rollout(&self, id: RolloutId) {
        if self.inner.rollouts.family.lookup(&id).is_some() {
            return;
        }
        if let Err(e) = self.inner.rollouts.family.start_child(id).await {
            // The scan finds it again.
            tracing::warn!(rollout = %id, error = %e, "rollout not started yet");
        }
    }

    /// Hand a node's news to the rollout that holds it, or just store them. Acknowledged only once committed.
    pub(crate) async fn deliver(
        &self,
        node: NodeId,
        project: ProjectId,
        desired: Option<RolloutId>,
        delivery: Delivery,
    ) -> CommandResult<Delivered> {
        let mut delivery = delivery;
        if let Some(actor) = desired.and_then(|r| self.inner.rollouts.family.lookup(&r)) {
            match self.ask_rollout(&actor, node, delivery).await? {
                Taken::Yes(done) => return Ok(done),
                Taken::NotMine(back) => delivery = *back,
            }
        }
        let holder = match self.inner.store.holder_of(node).await? {
            Some(r) => Some(r),
            None => self.inner.store.debt_of_node(node).await?.map(|d| d.rollout),
        };
        let Some(rollout) = holder else { return self.only_store(delivery).await };
        if self.inner.rollouts.family.lookup(&rollout).is_none() {
            if let Some(owner) = self.inner.store.owner_of(rollout).await?
                && owner.instance != self.inner.instance
            {
                return self.post(rollout, delivery).await;
            }
            self.ensure_rollout(rollout).await;
        }
        match self.inner.rollouts.family.lookup(&rollout) {
            Some(actor) => match self.ask_rollout(&actor, node, delivery).await? {
                Taken::Yes(done) => Ok(done),
                Taken::NotMine(back) => self.only_store(*back).await,
            },
            None => match self.inner.store.owner_of(rollout).await? {
                Some(owner) if owner.instance != self.inner.instance => self.post(rollout, delivery).await,
                Some(_) | None => {
                    tracing::debug!(%project, %node, %rollout, "the rollout's actor is not there");
                    Err(CommandError::Unavailable("the rollout is being taken over".into()))
                }
            },
        }
    }

    async fn ask_rollout(
        &self,
        actor: &ractor::ActorRef<RolloutMsg>,
        node: NodeId,
        delivery: Delivery,
    ) -> CommandResult<Taken> {
        let begun = self.now();
        let delivery = Box::new(delivery);
        match call_with_deadline(actor, ROLLOUT_DEADLINE, |reply| RolloutMsg::Input { node, delivery, begun, reply })
            .await
        {
            Ok(answer) => answer,
            Err(e) if e.certainly_not_done() => Err(CommandError::Unavailable(e.to_string())),
            Err(e) => Err(CommandError::Unknown(e.to_string())),
        }
    }

    async fn only_store(&self, delivery: Delivery) -> CommandResult<Delivered> {
        if delivery.presence.is_some() || says_something(&delivery.change) {
            let write = store::Write::at(self.now());
            self.inner.store.observe(vec![delivery.change], write).await?;
        }
        Ok(Delivered { state: None, unengaged: true })
    }

    /// Another instance owns the rollout: committed to its inbox, then acknowledged.
    async fn post(&self, rollout: RolloutId, delivery: Delivery) -> CommandResult<Delivered> {
        let now = self.now();
        let presence: Vec<PresenceChange> = delivery.presence.into_iter().collect();
        let is_news = !presence.is_empty();
        let mail = Mail { reports: delivery.reports, windows: delivery.windows, presence };
        // The mail first: heard twice is harmless, stored as said and never heard is not.
        if !mail.is_empty() {
            self.put_mail(rollout, &mail).await?;
        }
        if is_news || says_something(&delivery.change) {
            self.inner.store.observe(vec![delivery.change], store::Write::at(now)).await?;
        }
        Ok(Delivered { state: None, unengaged: false })
    }

    async fn put_mail(&self, rollout: RolloutId, mail: &Mail) -> CommandResult<()> {
        let now = self.now();
        let payload = serde_json::to_value(mail).map_err(|e| CommandError::Unknown(e.to_string()))?;
        let item = store::InboxItem { id: self.fresh().uuid(now), at: now, payload };
        self.inner.store.put_inbox(rollout, vec![item]).await?;
        Ok(())
    }

    /// A change of presence that is stored already: tell whoever holds the node. A lost word is found when the rollout is loaded.
    pub(crate) async fn presence_changed(
        &self,
        node: NodeId,
        _project: ProjectId,
        _desired: Option<RolloutId>,
        online: bool,
        handed_over: Generation,
    ) {
        let change = PresenceChange { node, online, handed_over, busy: false };
        if let Err(e) = self.tell_holder(node, change).await {
            tracing::warn!(%node, error = ?e, "a change of presence did not reach its rollout");
        }
    }

    async fn tell_holder(&self, node: NodeId, change: PresenceChange) -> CommandResult<()> {
        let holder = match self.inner.store.holder_of(node).await? {
            Some(r) => r,
            None => match self.inner.store.debt_of_node(node).await? {
                Some(d) => d.rollout,
                None => return Ok(()),
            },
        };
        let elsewhere = self.inner.store.owner_of(holder).await?.is_some_and(|o| o.instance != self.inner.instance);
        if !elsewhere {
            self.ensure_rollout(holder).await;
        }
        match self.inner.rollouts.family.lookup(&holder).filter(|_| !elsewhere) {
            Some(actor) => {
                let _ = actor.cast(RolloutMsg::Presence(change));
                Ok(())
            }
            None => self.put_mail(holder, &Mail { presence: vec![change], ..Mail::default() }).await,
        }
    }

    /// Carry out a command: by the rollout's actor if it lives here, else directly in the database, where whoever owns it waits
    /// meanwhile and then finds a newer version.
    pub(crate) async fn decide_on(&self, id: RolloutId, event: Event, attempt: Attempt) -> CommandResult<Decision> {
        if let Some(actor) = self.inner.rollouts.family.lookup(&id) {
            let message = |reply| RolloutMsg::Command {
                event: Box::new(event.clone()),
                attempt: Box::new(attempt.clone()),
                reply,
            };
            match call_with_deadline(&actor, ROLLOUT_DEADLINE, message).await {
                Ok(Ok(answer)) => return answer,
                // The actor lost a race and is being loaded again: nothing was done.
                Ok(Err(commit::Lost)) => {}
                Err(e) if e.certainly_not_done() => {}
                Err(e) => return Err(CommandError::Unknown(e.to_string())),
            }
        }
        self.decide_detached(id, &event, &attempt).await
    }

    pub(crate) async fn decide_detached(
        &self,
        id: RolloutId,
        event: &Event,
        attempt: &Attempt,
    ) -> CommandResult<Decision> {
        let mut assigns = true;
        for _ in 0..MAX_ATTEMPTS {
            let seen = self.inner.store.rollout(Scope::System("an order finds its rollout"), id).await?;
            let room = match assigns {
                true => self.grant(seen.project, &seen.head).await?.map_or(Room::Known, Room::Granted),
                false => Room::Gone,
            };
            match self.commit_held((seen.project, id), room, event, attempt).await {
                Ok((rollout, mut decisions)) => {
                    for decision in &decisions {
                        self.act(&rollout, decision).await;
                    }
                    // Anything that goes on from here needs an owner.
                    if rollout.head.phase.is_active() || rollout.head.counts.owed > 0 || rollout.head.lane_open > 0 {
                        self.ensure_rollout(id).await;
                    }
                    return Ok(decisions.pop().unwrap_or_default());
                }
                Err(commit::Failure::Refused(e)) => return Err(e),
                Err(commit::Failure::Reload(_)) => {}
                // Others took the room, or moved a node on that would be assigned. No order waits for that: it is decided without, and
                // the owner assigns when it can.
                Err(commit::Failure::Budget | commit::Failure::Moved(_)) => assigns = false,
            }
        }
        Err(CommandError::Unavailable("the rollout is changing too fast; try again".into()))
    }
}

pub(crate) enum Taken {
    Yes(Delivered),
    /// This rollout holds the node no longer.
    NotMine(Box<Delivery>),
}

pub(crate) fn rollout_of(loaded: store::Loaded) -> domain::rollout::Rollout {
    domain::rollout::Rollout::load(loaded.planned)
}

/// Has the change a column that differs from what is stored, or an event?
fn says_something(c: &store::NodeChange) -> bool {
    c.moves_columns() || !c.events.is_empty()
}
