//! The rollout engine: what a rollout means.
//!
//! ```text
//! decide(&Rollout, &Event, now) -> Result<Decision { changes, facts, effects }, Rejection>
//! apply(&mut Rollout, &Change)
//! ```
//!
//! No clock, no randomness, no IO. `apply` runs only after the commit, so a failed commit leaves no dirty memory.
//! A decision costs what it touches, never the size of the fleet: counters are kept incrementally, only changed rows are
//! written. The same functions run in production, in the property tests, in the model check, in replay and in plan.

mod advance;
pub mod analysis;
mod back;
mod compare;
mod decide;
mod draft;
pub mod estimate;
pub mod event;
mod explain;
pub mod failures;
mod judge;
pub mod plan;
pub mod replay;
pub mod report;
mod shift;
pub mod spec;
pub mod state;
#[cfg(test)]
mod tests;
mod untouched;

pub use back::waits_back;
pub use compare::compared;
pub use decide::{allowed_commands, decide};
pub use event::*;
pub use explain::{Reason, explain, explain_head};
pub use plan::{Candidate, Origin, Plan, create, originate, plan};
pub use replay::{Replayed, replay};
pub use shift::FULL_WEIGHT;
pub use spec::*;
pub use state::*;
pub use untouched::{answer, asked};

use crate::id::*;
use crate::time::{Span, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// A rollout in memory: its rows as last committed, and indexes over them.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollout {
    pub id: RolloutId,
    pub project: ProjectId,
    pub spec: Spec,
    pub head: Head,
    pub steps: Vec<Step>,
    pub members: BTreeMap<NodeId, Member>,
    /// Per step, its members in their stable order.
    order: Vec<StepOrder>,
    index: Index,
}

/// The members of one step by their positions. One that moved to the lane leaves a gap: positions never shift.
#[derive(Clone, Debug, Default, PartialEq)]
struct StepOrder {
    positions: Vec<u32>,
    nodes: Vec<NodeId>,
}

/// What would otherwise need a walk over all members. Derived, never stored.
#[derive(Clone, Debug, Default, PartialEq)]
struct Index {
    /// On the rollout's clock: when each member on its way has not moved for too long.
    deadlines: BTreeSet<(Span, NodeId)>,
    /// Members on their way that went silent: judged a while later.
    silent: BTreeSet<(Timestamp, NodeId)>,
    /// All members that went silent, for the presence rule.
    dark: BTreeSet<(Timestamp, NodeId)>,
    /// Waiting for a place in the catch-up lane, and online, by class.
    lane_ready: BTreeSet<(LaneClass, NodeId)>,
    /// Pending members of steps that are not serving: assigning to them takes no slot.
    mendable: BTreeSet<(u32, u32, NodeId)>,
    /// Waiting for their turn to go back, in their order.
    going_back: BTreeSet<(u32, u32, NodeId)>,
}

impl Rollout {
    /// From its rows. `planned.members` in any order.
    pub fn load(planned: Planned) -> Rollout {
        let mut order: Vec<Vec<(u32, NodeId)>> =
            planned.steps.iter().map(|s| Vec::with_capacity(s.size as usize)).collect();
        let mut index = Index::default();
        for m in &planned.members {
            if let Some(slot) = m.step.and_then(|k| order.get_mut(k as usize)) {
                slot.push((m.position, m.node));
            }
            index.add(&planned.spec, m);
        }
        let order = order
            .into_iter()
            .map(|mut slots| {
                slots.sort_unstable();
                let (positions, nodes) = slots.into_iter().unzip();
                StepOrder { positions, nodes }
            })
            .collect();
        // Rows of before the budget was kept say nothing of it.
        let mut head = planned.head;
        head.budget.updating = planned.members.iter().filter(|m| is_updating(m)).count() as u32;
        Rollout {
            id: planned.id,
            project: planned.project,
            spec: planned.spec,
            head,
            steps: planned.steps,
            members: planned.members.into_iter().map(|m| (m.node, m)).collect(),
            order,
            index,
        }
    }

    /// The rows again, members in order of their ids.
    pub fn rows(&self) -> Planned {
        Planned {
            id: self.id,
            project: self.project,
            spec: self.spec.clone(),
            head: self.head.clone(),
            steps: self.steps.clone(),
            members: self.members.values().cloned().collect(),
        }
    }

    /// The members of a step in their stable order.
    pub fn step_nodes(&self, step: u32) -> &[NodeId] {
        self.order.get(step as usize).map_or(&[], |o| o.nodes.as_slice())
    }

    /// Position and node of the members of a step from `position` on.
    fn step_from(&self, step: u32, position: u32) -> impl Iterator<Item = (u32, NodeId)> {
        self.order.get(step as usize).into_iter().flat_map(move |o| {
            let from = o.positions.partition_point(|p| *p < position);
            o.positions[from..].iter().copied().zip(o.nodes[from..].iter().copied())
        })
    }
}

impl StepOrder {
    fn remove(&mut self, position: u32) {
        if let Ok(i) = self.positions.binary_search(&position) {
            self.positions.remove(i);
            self.nodes.remove(i);
        }
    }
    fn insert(&mut self, position: u32, node: NodeId) {
        if let Err(i) = self.positions.binary_search(&position) {
            self.positions.insert(i, position);
            self.nodes.insert(i, node);
        }
    }
}

/// Take a committed change into memory. Changes of other tables than the rollout's own are nothing to it.
pub fn apply(r: &mut Rollout, change: &Change) {
    match change {
        Change::Head { head } => {
            r.head = head.clone();
        }
        Change::Step { step } => {
            if let Some(slot) = r.steps.get_mut(step.index as usize) {
                *slot = step.clone();
            }
        }
        Change::Member { member } => {
            let before = r.members.get(&member.node).and_then(|m| m.step);
            if let Some(old) = r.members.get(&member.node) {
                r.index.remove(&r.spec, old);
            }
            if before != member.step {
                if let Some(o) = before.and_then(|k| r.order.get_mut(k as usize)) {
                    o.remove(member.position);
                }
                if let Some(o) = member.step.and_then(|k| r.order.get_mut(k as usize)) {
                    o.insert(member.position, member.node);
                }
            }
            r.index.add(&r.spec, member);
            r.members.insert(member.node, member.clone());
        }
        Change::Desire { .. }
        | Change::Claim { .. }
        | Change::Release { .. }
        | Change::ReleaseAll { .. }
        | Change::HistoryVerified { .. }
        | Change::HistoryEnded { .. }
        | Change::DebtAdded { .. }
        | Change::DebtEnded { .. } => {}
    }
}

/// Apply a whole decision.
pub fn apply_all(r: &mut Rollout, decision: &Decision) {
    for c in &decision.changes {
        apply(r, c);
    }
}

impl Index {
    fn add(&mut self, spec: &Spec, m: &Member) {
        if let Some(d) = deadline_of(spec, m) {
            self.deadlines.insert((d, m.node));
        }
        if let Some(t) = silent_since(m) {
            self.silent.insert((t, m.node));
        }
        if let Some(t) = dark_since(m) {
            self.dark.insert((t, m.node));
        }
        if is_lane_ready(m) {
            self.lane_ready.insert((lane_class(m), m.node));
        }
        if let Some(key) = mendable_key(m) {
            self.mendable.insert(key);
        }
        self.going_back.extend(back::back_key(m));
    }
    fn remove(&mut self, spec: &Spec, m: &Member) {
        if let Some(d) = deadline_of(spec, m) {
            self.deadlines.remove(&(d, m.node));
        }
        if let Some(t) = silent_since(m) {
            self.silent.remove(&(t, m.node));
        }
        if let Some(t) = dark_since(m) {
            self.dark.remove(&(t, m.node));
        }
        self.lane_ready.remove(&(lane_class(m), m.node));
        if let Some(key) = mendable_key(m) {
            self.mendable.remove(&key);
        }
        if let Some(key) = back::back_key(m) {
            self.going_back.remove(&key);
        }
    }
}

/// On the rollout's clock: when `m` has been without a forward move for too long. Soaking is not stuck, and a silent
/// member is judged by its silence: only that knows whether it is lost or owed.
fn deadline_of(spec: &Spec, m: &Member) -> Option<Span> {
    if m.silent_since.is_some() {
        return None;
    }
    match m.state {
        NodeState::Assigned | NodeState::Downloaded | NodeState::Staged => Some(m.moved + spec.progress_deadline),
        NodeState::Activated { soaks_until, .. } => {
            let latest = m.moved + spec.progress_deadline + spec.judge.soak;
            Some(soaks_until.map_or(latest, |until| latest.max(until)))
        }
        // Told another weight, and not heard of it yet.
        NodeState::Verified { .. } if !m.weighed => Some(m.moved + spec.progress_deadline),
        NodeState::Pending
        | NodeState::Verified { .. }
        | NodeState::Failed { .. }
        | NodeState::Owed
        | NodeState::Skipped { .. }
        | NodeState::RollingBack { .. }
        | NodeState::RolledBack { .. }
        | NodeState::RollbackFailed { .. } => None,
    }
}

/// Since when `m` has been silent, if that is still to be judged.
fn silent_since(m: &Member) -> Option<Timestamp> {
    m.silent_since.filter(|_| m.state.in_flight())
}

/// Since when `m` has been silent, as far as the presence rule is concerned.
fn dark_since(m: &Member) -> Option<Timestamp> {
    m.silent_since.filter(|_| !matches!(m.state, NodeState::Skipped { .. }))
}

fn is_lane_ready(m: &Member) -> bool {
    m.online && (m.state == NodeState::Owed || (m.step.is_none() && m.state == NodeState::Pending))
}

/// In which order the lane serves. What is limited comes last, so that a node which must wait holds up nobody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum LaneClass {
    /// Serves nothing at all yet: exempt from every limit.
    FirstConfig,
    /// Is out of service already: takes no slot of `max_unavailable`.
    NotServing,
    Serving,
}

const LANE_CLASSES: [LaneClass; 3] = [LaneClass::FirstConfig, LaneClass::NotServing, LaneClass::Serving];

fn lane_class(m: &Member) -> LaneClass {
    match (m.first_config, m.health.is_bad()) {
        (true, _) => LaneClass::FirstConfig,
        (false, true) => LaneClass::NotServing,
        (false, false) => LaneClass::Serving,
    }
}

fn mendable_key(m: &Member) -> Option<(u32, u32, NodeId)> {
    match m.step {
        Some(step) if m.state == NodeState::Pending && m.online && m.health.is_bad() => {
            Some((step, m.position, m.node))
        }
        _ => None,
    }
}

/// Does the member count against `max_unavailable`: online, and assigned-not-verified or unhealthy?
pub fn is_unavailable(m: &Member) -> bool {
    if !m.online {
        return false;
    }
    match &m.state {
        NodeState::Assigned | NodeState::Downloaded | NodeState::Staged | NodeState::Activated { .. } => true,
        // It runs what it ran, until its turn comes.
        NodeState::RollingBack { .. } if waits_back(m) => m.health.is_bad(),
        NodeState::RollingBack { .. } | NodeState::RollbackFailed { .. } => true,
        NodeState::Failed { .. } => m.told == Told::Target || m.health.is_bad(),
        NodeState::Skipped { .. } => false,
        NodeState::Pending | NodeState::Verified { .. } | NodeState::Owed | NodeState::RolledBack { .. } => {
            m.health.is_bad()
        }
    }
}

/// Is the node there, for this member? One that says "not now" is away for what it was not named yet. What it was named goes on,
/// and what it runs is judged: nobody puts off a way back.
pub fn counts_as_online(m: &Member, c: &PresenceChange) -> bool {
    let untouched = match m.state {
        NodeState::Pending | NodeState::Owed => true,
        NodeState::Assigned => !m.handed_over && c.handed_over < m.generation,
        NodeState::Downloaded
        | NodeState::Staged
        | NodeState::Activated { .. }
        | NodeState::Verified { .. }
        | NodeState::Failed { .. }
        | NodeState::Skipped { .. }
        | NodeState::RollingBack { .. }
        | NodeState::RolledBack { .. }
        | NodeState::RollbackFailed { .. } => false,
    };
    c.online && !(c.busy && untouched)
}

fn counts_online(m: &Member) -> bool {
    m.online && !matches!(m.state, NodeState::Skipped { .. })
}

fn counts_failed(m: &Member) -> bool {
    matches!(m.state, NodeState::Failed { .. }) && !m.accepted
}

/// Does the member hold a reservation of the project's budget? Who gets its first configuration serves nothing yet and needs none, and
/// nobody waits for its turn while holding one.
fn is_updating(m: &Member) -> bool {
    (m.state.in_flight() && !m.first_config) || (is_restoring(m) && !waits_back(m))
}

fn is_restoring(m: &Member) -> bool {
    matches!(m.state, NodeState::RollingBack { owed: false, .. })
}
