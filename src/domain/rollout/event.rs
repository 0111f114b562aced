//! What goes into a decision and what comes out of it.
//!
//! An [`Event`] is stored before it has any effect, so that replaying the stored events gives the same decisions byte for byte.

use super::analysis::{Look, Reading};
use super::spec::Spec;
use super::state::*;
use crate::id::*;
use crate::node::{GateWindow, Generation, HealthClass};
use crate::time::{Span, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The engine's version, stored with every event. Raised when the same event would be decided differently.
pub const ENGINE_VERSION: u32 = 3;

/// At most this many nodes are assigned in one commit; a larger step goes on in the next.
pub const MAX_ASSIGN_PER_COMMIT: u32 = 1_000;

/// What the engine must know of a node when it becomes a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub node: NodeId,
    pub generation: Generation,
    pub online: bool,
    pub health: HealthClass,
    /// What it can go back to, best first.
    pub previous: Vec<BundleId>,
    /// Has no configuration of ours at all.
    pub first_config: bool,
    /// Not a target after all.
    pub skip: Option<SkipReason>,
}

/// One thing a node did, as accepted by its session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub node: NodeId,
    /// Without one, the report matches only the current assignment of the same bundle.
    pub generation: Option<Generation>,
    pub said: Said,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "said", rename_all = "snake_case")]
pub enum Said {
    /// The report calls. `bundle` is what the call named (`None`: the baseline).
    Downloaded {
        bundle: Option<BundleId>,
    },
    Staged {
        bundle: Option<BundleId>,
    },
    Activated {
        bundle: Option<BundleId>,
    },
    Verified {
        bundle: Option<BundleId>,
    },
    Failed {
        bundle: Option<BundleId>,
        error: String,
    },
    /// A heartbeat named what it runs, and this was new (another bundle, or a new generation).
    Active {
        bundle: Option<BundleId>,
    },
    /// A heartbeat named the share of traffic that it serves, and this was new.
    Weight {
        weight: u8,
    },
    /// The health class changed.
    Health {
        class: HealthClass,
    },
}

/// A change of presence, as stored by whoever saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceChange {
    pub node: NodeId,
    pub online: bool,
    /// The newest generation a poll answer has named to the node.
    pub handed_over: Generation,
    /// It says "not now", and is granted it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub busy: bool,
}

/// The input of a decision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Approval, schedule and freezes allow: the targets, resolved again, in no particular order.
    Start {
        facts: Vec<Facts>,
    },
    Pause {
        note: Option<String>,
    },
    Resume {
        retry: bool,
        accept_failed: bool,
    },
    Cancel {
        note: Option<String>,
    },
    /// `revoked`: bundles that nobody may go back to.
    /// `gone`: members whose desired generation no longer comes from this rollout; they are left alone.
    Rollback {
        note: Option<String>,
        nodes: Option<BTreeSet<NodeId>>,
        revoked: BTreeSet<BundleId>,
        gone: BTreeSet<NodeId>,
    },
    Retry {
        nodes: Option<BTreeSet<NodeId>>,
    },
    /// Blue-green: the next weight.
    AdvanceTraffic,
    /// Blue-green: all traffic to the standby half, now.
    SwapSlot,
    /// Reports, in the order received; one event may carry many.
    Reports {
        reports: Vec<Report>,
    },
    Gates {
        windows: Vec<GateWindow>,
    },
    /// What nodes served since the analysis of the step began: members of both sides, in order of their ids.
    Readings {
        readings: Vec<Reading>,
    },
    /// What was asked before an automatic rollback: of so many untouched online members so many fail the gates, and of so many it is
    /// not known.
    Untouched {
        of: u32,
        failing: u32,
        unknown: u32,
    },
    Presence {
        changes: Vec<PresenceChange>,
    },
    /// Nodes that match and were not there before: they join through the catch-up lane.
    Joined {
        facts: Vec<Facts>,
    },
    /// What the database knows of members now: before the lane of a completed rollout assigns them, and before `Retry` of a
    /// failed or rolled back one (others may have moved their generation on since).
    LaneReady {
        facts: Vec<Facts>,
    },
    /// Debts that ended elsewhere: a newer commit covers the node.
    DebtsDropped {
        nodes: Vec<NodeId>,
    },
    Removed {
        nodes: Vec<NodeId>,
        reason: SkipReason,
    },
    FreezeBegan,
    FreezeEnded,
    BundleRevoked {
        revoked: BTreeSet<BundleId>,
    },
    /// The project's budget, as read under its lock: so many members may be updating at once (`None`: it has no budget).
    CapacityGranted {
        k: Option<u32>,
    },
    WaitBegan {
        wait: Wait,
    },
    WaitEnded {
        wait: Wait,
    },
    /// The shell gave its actor up: fails closed.
    ControllerFailed {
        note: String,
    },
    /// A live owner took over; for `down` nobody could have received reports.
    OwnerStarted {
        down: Span,
    },
    /// A timer, or the next portion of a large step.
    Timer,
}

impl Event {
    pub fn name(&self) -> &'static str {
        match self {
            Event::Start { .. } => "start",
            Event::Pause { .. } => "pause",
            Event::Resume { .. } => "resume",
            Event::Cancel { .. } => "cancel",
            Event::Rollback { .. } => "rollback",
            Event::Retry { .. } => "retry",
            Event::AdvanceTraffic => "advance_traffic",
            Event::SwapSlot => "swap_slot",
            Event::Reports { .. } => "reports",
            Event::Gates { .. } => "gates",
            Event::Readings { .. } => "readings",
            Event::Untouched { .. } => "untouched",
            Event::Presence { .. } => "presence",
            Event::Joined { .. } => "joined",
            Event::LaneReady { .. } => "lane_ready",
            Event::DebtsDropped { .. } => "debts_dropped",
            Event::Removed { .. } => "removed",
            Event::FreezeBegan => "freeze_began",
            Event::FreezeEnded => "freeze_ended",
            Event::BundleRevoked { .. } => "bundle_revoked",
            Event::CapacityGranted { .. } => "capacity_granted",
            Event::WaitBegan { .. } => "wait_began",
            Event::WaitEnded { .. } => "wait_ended",
            Event::ControllerFailed { .. } => "controller_failed",
            Event::OwnerStarted { .. } => "owner_started",
            Event::Timer => "timer",
        }
    }
}

/// What must be stored, and then applied to memory. Each carries the whole new value of one row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
#[allow(clippy::large_enum_variant)] // a decision has one head, and its thousand members are as large as half of it
pub enum Change {
    Head {
        head: Head,
    },
    Step {
        step: Step,
    },
    Member {
        member: Member,
    },
    /// `nodes.generation` must still be `expect`; it becomes `generation`, which names `bundle` and `weight`.
    Desire {
        node: NodeId,
        expect: Generation,
        generation: Generation,
        bundle: Option<BundleId>,
        weight: u8,
    },
    /// The rollout holds this node now; nobody else may.
    Claim {
        node: NodeId,
    },
    Release {
        node: NodeId,
    },
    /// The rollout holds no node any more but these.
    ReleaseAll {
        keep: Vec<NodeId>,
    },
    /// The node's bundle is verified: its history and `verified_bundle` (`None`: back on its baseline).
    HistoryVerified {
        node: NodeId,
        bundle: Option<BundleId>,
        generation: Generation,
    },
    HistoryEnded {
        node: NodeId,
        bundle: BundleId,
        generation: Generation,
        how: crate::node::HistoryOutcome,
        detail: Option<String>,
    },
    /// The node is owed the rollout's bundle (`restore` false) or its restore (true). Replaces an older debt.
    DebtAdded {
        node: NodeId,
        restore: bool,
        bundle: Option<BundleId>,
    },
    DebtEnded {
        node: NodeId,
    },
}

/// What happened, for the audit log (exactly one entry each), the timeline and the bus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum Fact {
    Started {
        targets: u32,
        steps: u32,
    },
    StepStarted {
        step: u32,
        nodes: u32,
    },
    StepCompleted {
        step: u32,
    },
    StepFailed {
        step: u32,
        error: String,
    },
    /// The standby half is told to serve this share of its traffic.
    TrafficShifted {
        weight: u8,
    },
    /// A look at the canary, or the end of its analysis.
    Analysed {
        look: Look,
    },
    Paused {
        cause: PauseCause,
        note: Option<String>,
    },
    Resumed,
    CauseCleared {
        cause: PauseCause,
    },
    RollbackBegan {
        automatic: bool,
        note: Option<String>,
    },
    Retried {
        nodes: u32,
    },
    Completed {
        owed: u32,
    },
    Failed {
        note: String,
    },
    Cancelled,
    RolledBack {
        unrestored: u32,
    },
    LaneHalted,
    /// One node moved: an event of the node, not an audit entry.
    NodeMoved {
        node: NodeId,
        from: NodeStateKind,
        to: NodeStateKind,
        detail: Option<String>,
    },
}

impl Fact {
    /// The audit action, or `None` for what is only a node event.
    pub fn action(&self) -> Option<&'static str> {
        match self {
            Fact::Started { .. } => Some("rollout.started"),
            Fact::StepStarted { .. } => Some("rollout_step.started"),
            Fact::StepCompleted { .. } => Some("rollout_step.completed"),
            Fact::StepFailed { .. } => Some("rollout_step.failed"),
            Fact::TrafficShifted { .. } => Some("rollout.traffic_shifted"),
            Fact::Analysed { .. } => Some("rollout_step.analysed"),
            Fact::Paused { .. } => Some("rollout.paused"),
            Fact::Resumed => Some("rollout.resumed"),
            Fact::CauseCleared { .. } => Some("rollout.cause_cleared"),
            Fact::RollbackBegan { .. } => Some("rollout.rollback_started"),
            Fact::Retried { .. } => Some("rollout.retried"),
            Fact::Completed { .. } => Some("rollout.completed"),
            Fact::Failed { .. } => Some("rollout.failed"),
            Fact::Cancelled => Some("rollout.cancelled"),
            Fact::RolledBack { .. } => Some("rollout.rolled_back"),
            Fact::LaneHalted => Some("rollout.lane_halted"),
            Fact::NodeMoved { .. } => None,
        }
    }
}

/// What the shell must do after the commit. Every effect may be repeated; a lost one is found by the periodic scan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "effect", rename_all = "snake_case")]
pub enum Effect {
    /// These nodes have a new assignment: wake their sessions.
    Notify { nodes: Vec<NodeId> },
    /// More of this step can be assigned at once: send [`Event::Timer`] again.
    Continue,
    /// Owed members are back and the lane has room: read their facts and send [`Event::LaneReady`].
    FetchFacts { nodes: Vec<NodeId> },
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    pub changes: Vec<Change>,
    pub facts: Vec<Fact>,
    pub effects: Vec<Effect>,
}

impl Decision {
    /// SHA-256 over the JSON of the decision: what a replay must reproduce. Fields are written in their order here and sets are
    /// sorted, so this is canonical; RFC 8785 is not, as it rounds whole numbers above 2^53 and generations use the high bits.
    pub fn hash(&self) -> Digest {
        Digest::of(&serde_json::to_vec(self).unwrap_or_default())
    }
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.facts.is_empty() && self.effects.is_empty()
    }
}

/// Why a command is not carried out. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The state does not allow it; `allowed` names the commands that it does.
    NotAllowed { phase: Phase, command: &'static str, allowed: Vec<&'static str>, why: Option<String> },
    /// The goal already holds: answered `changed: false`.
    AlreadySo,
}

/// One line of the stored log: enough to decide again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoggedEvent {
    pub seq: u64,
    pub at: Timestamp,
    pub engine_version: u32,
    pub event: Event,
    pub decision_hash: Digest,
}

/// What a creation stores: the planned rollout, before its first event.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    pub id: RolloutId,
    pub project: ProjectId,
    pub spec: Spec,
    pub head: Head,
    pub steps: Vec<Step>,
    pub members: Vec<Member>,
}
