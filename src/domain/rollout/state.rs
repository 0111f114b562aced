//! The states of a rollout, its steps and its nodes: sums with their data.

use super::analysis::Analysis;
use crate::access::text_enum;
use crate::id::*;
use crate::node::{Generation, HealthClass};
use crate::time::{Span, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

text_enum! {
    Phase {
        Pending = "pending", Running = "running", Paused = "paused", RollingBack = "rolling_back",
        Completed = "completed", Failed = "failed", Cancelled = "cancelled", RolledBack = "rolled_back",
    }
}

impl Phase {
    /// Holds its nodes: no other rollout may touch them.
    pub fn is_active(&self) -> bool {
        matches!(self, Phase::Running | Phase::Paused | Phase::RollingBack)
    }
    pub fn is_end(&self) -> bool {
        matches!(self, Phase::Completed | Phase::Failed | Phase::Cancelled | Phase::RolledBack)
    }
}

text_enum! {
    /// Why a rollout is paused. It runs again when the set is empty.
    PauseCause {
        Person = "person", Gate = "gate", Freeze = "freeze", Presence = "presence", Inconclusive = "inconclusive",
        NoEvidence = "no_evidence", FleetWide = "fleet_wide", Controller = "controller",
    }
}

text_enum! {
    /// What a running rollout waits for, from outside; the clock of its deadlines stands still meanwhile.
    Wait { Store = "store_unavailable", Artifact = "artifact_unavailable" }
}

text_enum! {
    /// Why a node counts as failed.
    FailReason {
        Reported = "reported", Gate = "gate", Deadline = "deadline", Lost = "lost", Regressed = "regressed",
        Flapping = "flapping", FellBack = "fell_back",
    }
}

text_enum! {
    /// Why a node is not a target after all.
    SkipReason {
        Pinned = "pinned", Excluded = "excluded", Superseded = "superseded", Deleted = "deleted", Revoked = "revoked",
        Quarantined = "quarantined", IdentityConflict = "identity_conflict", Incompatible = "incompatible",
        FailedBefore = "failed_before", Vanished = "vanished", Cancelled = "cancelled",
    }
}

impl SkipReason {
    /// Whoever took the node out also says what it shall run, or it is gone: this rollout assigns it nothing more.
    pub fn names_another(&self) -> bool {
        match self {
            SkipReason::Pinned | SkipReason::Superseded | SkipReason::Deleted | SkipReason::Vanished => true,
            SkipReason::Excluded
            | SkipReason::Revoked
            | SkipReason::Quarantined
            | SkipReason::IdentityConflict
            | SkipReason::Incompatible
            | SkipReason::FailedBefore
            | SkipReason::Cancelled => false,
        }
    }
}

/// Where one node stands in one rollout.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum NodeState {
    Pending,
    Assigned,
    Downloaded,
    Staged,
    /// Runs the bundle since our receipt of the first report of it; the gates are being judged.
    Activated {
        at: Timestamp,
        /// On the rollout's clock: its soak goes on, and is over then unless something interrupts it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        soaks_until: Option<Span>,
    },
    Verified {
        at: Timestamp,
        no_traffic: bool,
    },
    Failed {
        reason: FailReason,
        at: Timestamp,
        error: Option<String>,
    },
    /// Offline and never handed over: paid on return, in the catch-up lane.
    Owed,
    Skipped {
        reason: SkipReason,
    },
    /// Told to run `to` again (`None`: its baseline), or waiting for its turn to be ([`super::waits_back`]). `owed`: it is offline, the
    /// restore waits for its return.
    RollingBack {
        to: Option<BundleId>,
        activated: Option<Timestamp>,
        owed: bool,
    },
    RolledBack {
        at: Timestamp,
    },
    RollbackFailed {
        at: Timestamp,
        error: Option<String>,
    },
}

text_enum! {
    /// The kinds of [`NodeState`] without their data: names in the API, columns in the database.
    NodeStateKind {
        Pending = "pending", Assigned = "assigned", Downloaded = "downloaded", Staged = "staged", Activated = "activated",
        Verified = "verified", Failed = "failed", Owed = "owed", Skipped = "skipped", RollingBack = "rolling_back",
        RolledBack = "rolled_back", RollbackFailed = "rollback_failed",
    }
}

impl NodeState {
    pub fn kind(&self) -> NodeStateKind {
        match self {
            NodeState::Pending => NodeStateKind::Pending,
            NodeState::Assigned => NodeStateKind::Assigned,
            NodeState::Downloaded => NodeStateKind::Downloaded,
            NodeState::Staged => NodeStateKind::Staged,
            NodeState::Activated { .. } => NodeStateKind::Activated,
            NodeState::Verified { .. } => NodeStateKind::Verified,
            NodeState::Failed { .. } => NodeStateKind::Failed,
            NodeState::Owed => NodeStateKind::Owed,
            NodeState::Skipped { .. } => NodeStateKind::Skipped,
            NodeState::RollingBack { .. } => NodeStateKind::RollingBack,
            NodeState::RolledBack { .. } => NodeStateKind::RolledBack,
            NodeState::RollbackFailed { .. } => NodeStateKind::RollbackFailed,
        }
    }
    /// Assigned in this rollout and on its way: handed over or not, up to activated.
    pub fn in_flight(&self) -> bool {
        matches!(self, NodeState::Assigned | NodeState::Downloaded | NodeState::Staged | NodeState::Activated { .. })
    }
    /// Nothing more is expected of it for its step to end.
    pub fn settled(&self) -> bool {
        !matches!(self, NodeState::Pending) && !self.in_flight()
    }
}

/// One node in one rollout: one row.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Member {
    pub node: NodeId,
    /// `None`: the catch-up lane.
    pub step: Option<u32>,
    /// Place in the stable order of the step.
    pub position: u32,
    /// 1 for the first assignment; each retry is one more. 0: never assigned here.
    pub attempt: u32,
    pub state: NodeState,
    /// The newest generation this rollout knows of the node.
    pub generation: Generation,
    /// The bundle that generation `generation` names, if it was this rollout that made it.
    pub told: Told,
    /// What it can go back to, best first; empty: its baseline.
    pub previous: Vec<BundleId>,
    pub online: bool,
    pub health: HealthClass,
    /// A poll answer has named the assignment to the node, as far as we know.
    pub handed_over: bool,
    /// Its failure was accepted by a person (resume with `accept_failed`): counted no longer.
    pub accepted: bool,
    /// On the rollout's own clock: the last forward move.
    pub moved: Span,
    /// Went silent then, and has not been heard since; what that means for one on its way is judged a while later.
    pub silent_since: Option<Timestamp>,
    /// Serves no configuration at all: gets its first at once.
    pub first_config: bool,
    /// The share of traffic, percent, that generation `generation` names.
    #[serde(default = "full_weight")]
    pub weight: u8,
    /// It said that it serves that share, or was never told another than it began with.
    #[serde(default = "yes")]
    pub weighed: bool,
}

fn full_weight() -> u8 {
    super::FULL_WEIGHT
}
fn yes() -> bool {
    true
}

/// How far traffic has been shifted to the standby half.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shift {
    /// Which of `traffic_steps`.
    pub stage: u32,
    pub weight: u8,
    /// On the rollout's clock: since when everybody has taken it, or it was told.
    pub since: Span,
    /// From which position on nodes are still to be told.
    pub cursor: Option<u32>,
}

/// What this rollout last told the node to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// Nothing yet: it runs what it ran before.
    Nothing,
    /// The rollout's bundle.
    Target,
    /// To go back: to this bundle, or (`None`) to its baseline.
    Back(Option<BundleId>),
}

text_enum! { StepState { Pending = "pending", Running = "running", Completed = "completed", Failed = "failed" } }

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Step {
    pub index: u32,
    pub state: StepState,
    /// How many members; which ones and in which order is told by [`Member::step`] and [`Member::position`].
    pub size: u32,
    /// The first position that may still wait for its assignment.
    pub cursor: u32,
    /// Members that are not settled.
    pub open: u32,
    /// Something was handed over in this step.
    pub handed_over: bool,
    pub started_at: Option<Timestamp>,
    pub completed_at: Option<Timestamp>,
    pub error: Option<String>,
}

/// How many members are in each bucket. `total` is always the sum of the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Counts {
    pub total: u32,
    pub pending: u32,
    pub assigned: u32,
    pub verified: u32,
    pub failed: u32,
    pub owed: u32,
    pub skipped: u32,
    pub rolling_back: u32,
    pub rolled_back: u32,
    pub rollback_failed: u32,
}

impl Counts {
    pub fn bucket(&mut self, kind: NodeStateKind) -> &mut u32 {
        match kind {
            NodeStateKind::Pending => &mut self.pending,
            NodeStateKind::Assigned | NodeStateKind::Downloaded | NodeStateKind::Staged | NodeStateKind::Activated => {
                &mut self.assigned
            }
            NodeStateKind::Verified => &mut self.verified,
            NodeStateKind::Failed => &mut self.failed,
            NodeStateKind::Owed => &mut self.owed,
            NodeStateKind::Skipped => &mut self.skipped,
            NodeStateKind::RollingBack => &mut self.rolling_back,
            NodeStateKind::RolledBack => &mut self.rolled_back,
            NodeStateKind::RollbackFailed => &mut self.rollback_failed,
        }
    }
    pub fn sum(&self) -> u32 {
        self.pending
            + self.assigned
            + self.verified
            + self.failed
            + self.owed
            + self.skipped
            + self.rolling_back
            + self.rolled_back
            + self.rollback_failed
    }
}

/// Counts only time in which the rollout runs and nothing outside holds it up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Clock {
    pub elapsed: Span,
    pub ticking_since: Option<Timestamp>,
}

impl Clock {
    pub fn read(&self, now: Timestamp) -> Span {
        self.elapsed + self.ticking_since.map_or(Span::ZERO, |t| now.since(t))
    }
    pub fn set_ticking(&mut self, on: bool, now: Timestamp) {
        match (on, self.ticking_since) {
            (true, None) => self.ticking_since = Some(now),
            (false, Some(_)) => {
                self.elapsed = self.read(now);
                self.ticking_since = None;
            }
            (true, Some(_)) | (false, None) => {}
        }
    }
}

/// What a rollout holds of its project's budget of updating nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ledger {
    /// Reserved: members on their way, and those that go back.
    pub updating: u32,
    /// How many it may reserve, as last granted; `None`: the project has no budget.
    pub capacity: Option<u32>,
}

impl Ledger {
    pub fn is_full(&self) -> bool {
        self.capacity.is_some_and(|k| self.updating >= k)
    }

    /// Is there nothing to ask for: some of what was granted is left, and the project's limit has not been lowered below it?
    pub fn suffices(&self, limit: u32) -> bool {
        self.capacity.is_some_and(|k| k <= limit) && !self.is_full()
    }

    /// What it may reserve while all rollouts of the project together hold `reserved` of `limit`: what the others leave. Less than it
    /// holds when the limit was lowered: then nothing is assigned until enough of it is done.
    pub fn share(&self, limit: u32, reserved: u32) -> u32 {
        (self.updating + limit).saturating_sub(reserved)
    }
}

/// The small, often written part of a rollout: one row.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Head {
    pub phase: Phase,
    pub causes: BTreeSet<PauseCause>,
    pub waits: BTreeSet<Wait>,
    /// The step that runs, or the number of steps when all have ended.
    pub step: u32,
    pub counts: Counts,
    pub clock: Clock,
    /// Number of the last decided event; the optimistic lock of every commit.
    pub version: u64,
    /// Planned targets: what percentages of targets mean.
    pub planned: u32,
    /// Members online and not skipped.
    pub online: u32,
    /// Members online and assigned-not-verified or unhealthy.
    pub unavailable: u32,
    /// Distinct nodes that ever failed here, less the accepted.
    pub failures: u32,
    /// Members rolling back that are not owed the restore: the rollback ends when none is left.
    pub restoring: u32,
    /// Lane members on their way.
    pub lane_open: u32,
    /// The lane was stopped by its failures.
    pub lane_halted: bool,
    /// Silences up to this moment were looked at, by a resume or a new owner, and no longer count for the presence rule; how many
    /// were silent then.
    pub silent_window: Option<(Timestamp, u32)>,
    /// What ended or stopped it, in words.
    pub note: Option<String>,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// When `rolling_back` began, or the newest of those that waited for their turn was told: the deadline counts from here.
    pub rollback_since: Option<Timestamp>,
    /// It was the engine, not a person, that began the rollback.
    pub auto_rollback: bool,
    /// The earliest time at which a timer must be heard.
    pub wake_at: Option<Timestamp>,
    /// The bundle is revoked: nothing of this rollout goes forward any more.
    #[serde(default)]
    pub revoked: bool,
    /// The comparison that the step which runs must pass before it ends (strategy `canary`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub analysis: Option<Analysis>,
    /// Traffic on its way to the standby half (strategy `blue_green`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shift: Option<Shift>,
    /// Online members that were told another weight and have not said that they serve it.
    #[serde(default)]
    pub unweighed: u32,
    #[serde(default)]
    pub budget: Ledger,
    /// Since when it is asked whether untouched nodes fail the gates too; then nothing goes forward or back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Timestamp>,
}
