//! Going forward: steps, the catch-up lane, and how a rollout ends.

use super::draft::Draft;
use super::event::*;
use super::state::*;
use super::*;

impl Draft<'_> {
    /// After every event: judge the failures, then assign what may be assigned.
    pub fn advance(&mut self) {
        self.check_failures();
        while self.is_free() {
            let k = self.head.step;
            if k >= self.step_count() {
                // Who is ready for the lane is still held; after completion its facts would have to be read first.
                self.run_lane();
                self.try_complete();
                break;
            }
            if self.step(k).is_some_and(|s| s.state != StepState::Running) {
                let now = self.now;
                self.edit_step(k, |s| {
                    s.state = StepState::Running;
                    s.started_at = s.started_at.or(Some(now));
                    s.completed_at = None;
                });
                let nodes = self.step(k).map_or(0, |s| s.size);
                self.fact(Fact::StepStarted { step: k, nodes });
            }
            self.assign_step(k);
            let Some(step) = self.step(k) else { break };
            if step.open > 0 {
                break;
            }
            if step.handed_over && self.head.counts.verified == 0 {
                self.pause(
                    PauseCause::NoEvidence,
                    Some(format!("step {k} ended and no node of the rollout has verified yet")),
                );
                break;
            }
            if !self.is_compared(k) || !self.is_shifted(k) {
                break;
            }
            self.complete_step(k);
        }
        self.run_lane();
        if self.head.phase == Phase::RollingBack {
            self.go_on_back();
        }
    }

    /// The step that runs will not be finished.
    pub fn fail_step(&mut self, error: &str) {
        let k = self.head.step;
        if self.step(k).is_some_and(|s| s.state == StepState::Running) {
            self.edit_step(k, |s| {
                s.state = StepState::Failed;
                s.error = Some(error.to_string());
            });
            self.fact(Fact::StepFailed { step: k, error: error.to_string() });
        }
    }

    pub fn complete_step(&mut self, k: u32) {
        let now = self.now;
        self.edit_step(k, |s| {
            s.state = StepState::Completed;
            s.completed_at = Some(now);
            s.error = None;
        });
        self.fact(Fact::StepCompleted { step: k });
        self.head.step = k + 1;
    }

    pub fn threshold(&self) -> u32 {
        self.spec().failure_threshold.down(self.head.planned, 0)
    }

    pub fn failures_note(&self) -> String {
        format!("{} failed, {} tolerated", self.head.failures, self.threshold())
    }

    /// More failures than tolerated: what `on_failure` says, also while paused.
    fn check_failures(&mut self) {
        let over = self.head.failures > self.threshold();
        if !over || !matches!(self.head.phase, Phase::Running | Phase::Paused) {
            self.head.asked = None;
        }
        match self.head.phase {
            Phase::Running | Phase::Paused if over => {}
            Phase::Completed if over && !self.head.lane_halted => {
                self.head.lane_halted = true;
                self.fact(Fact::LaneHalted);
                return;
            }
            Phase::Running
            | Phase::Paused
            | Phase::Pending
            | Phase::RollingBack
            | Phase::Completed
            | Phase::Failed
            | Phase::Cancelled
            | Phase::RolledBack => return,
        }
        let note = self.failures_note();
        match self.spec().on_failure {
            OnFailure::Pause => {
                if !self.head.causes.contains(&PauseCause::Gate) {
                    let k = self.head.step;
                    self.edit_step(k, |s| s.error = Some(note.clone()));
                    self.pause(PauseCause::Gate, Some(note));
                }
            }
            OnFailure::Fail => self.fail(note, &BTreeSet::new()),
            // Judged once: when the outage of all is over, taking the change back would still be wrong. A person looks.
            OnFailure::Rollback if self.head.causes.contains(&PauseCause::FleetWide) => {}
            OnFailure::Rollback => self.roll_back_unless_fleet_wide(note),
        }
    }

    /// The limit of unavailable nodes, or `None`: the batch is the limit.
    pub fn unavailable_limit(&self) -> Option<u32> {
        match self.spec().max_unavailable {
            None | Some(crate::project::Amount::Count(0)) => None,
            Some(a) => Some(a.down(self.head.online, 1)),
        }
    }

    /// May this pending, online member be assigned now? One that does not serve takes no new slot.
    pub fn has_slot(&self, m: &Member) -> bool {
        if m.first_config {
            return true;
        }
        // Everybody who is updated counts against the project's budget, also who does not serve.
        if self.head.budget.is_full() {
            return false;
        }
        if is_unavailable(m) {
            return true;
        }
        self.unavailable_limit().is_none_or(|limit| self.head.unavailable < limit)
    }

    fn assign_step(&mut self, k: u32) {
        // Mending takes no slot, so those that do not serve need not wait for their place in the order.
        let mut mend: Vec<NodeId> =
            self.base.index.mendable.range((k, 0, NodeId::NIL)..(k + 1, 0, NodeId::NIL)).map(|(_, _, n)| *n).collect();
        mend.extend(self.touched(|m| m.step == Some(k)));
        for node in mend {
            if self.assigned >= MAX_ASSIGN_PER_COMMIT {
                self.more();
                return;
            }
            if self.member(node).is_some_and(|m| mendable_key(m).is_some() && self.has_slot(m)) {
                self.assign(node);
            }
        }
        let base = self.base;
        let mut cursor = self.step(k).map_or(0, |s| s.cursor);
        let mut settled = 0u32;
        for (position, node) in base.step_from(k, cursor) {
            cursor = position;
            if self.assigned + settled >= MAX_ASSIGN_PER_COMMIT {
                self.more();
                break;
            }
            match self.member(node) {
                Some(m) if m.state == NodeState::Pending && m.step == Some(k) => {
                    if !m.online {
                        self.owe(node);
                        settled += 1;
                    } else if self.has_slot(m) {
                        self.assign(node);
                    } else {
                        break;
                    }
                }
                Some(_) | None => {}
            }
            cursor = position + 1;
        }
        if self.step(k).is_some_and(|s| s.cursor != cursor) {
            self.edit_step(k, |s| s.cursor = cursor);
        }
    }

    /// Offline and never handed over: a debt, paid on return in the catch-up lane. An assignment that it was never told of,
    /// or that a retry replaces, is withdrawn.
    pub fn owe(&mut self, node: NodeId) {
        let bundle = self.spec().bundle;
        self.change(Change::DebtAdded { node, restore: false, bundle: Some(bundle) });
        let owed = |m: &mut Member| {
            m.state = NodeState::Owed;
            m.told = Told::Nothing;
            m.handed_over = false;
        };
        if self.member(node).is_some_and(|m| m.told == Told::Target) {
            let to = self.back_target(node, &BTreeSet::new());
            self.send_back(node, to, None, owed);
        } else {
            self.edit(node, None, owed);
        }
    }

    /// Every step has ended: done, once at least one node has verified. Until then the first to return is the next step.
    fn try_complete(&mut self) {
        let c = self.head.counts;
        if c.verified == 0 {
            if c.failed > 0 && c.owed + c.pending + c.assigned == 0 {
                // Nobody is left who could verify: only a person can go on from here.
                self.pause(PauseCause::NoEvidence, Some("every step ended and no node has verified".into()));
            }
            return;
        }
        self.head.phase = Phase::Completed;
        self.head.ended_at = Some(self.now);
        self.head.note = None;
        for node in self.all_members(|m| m.state == NodeState::Pending && m.told == Told::Target) {
            // Retried, and the lane is full: until its turn comes it runs what it had.
            let to = self.back_target(node, &BTreeSet::new());
            self.send_back(node, to, None, |m| m.told = Told::Nothing);
        }
        self.restore_weights();
        let keep = self.all_members(|m| m.state.in_flight());
        self.change(Change::ReleaseAll { keep });
        self.fact(Fact::Completed { owed: c.owed });
        self.tick();
    }

    pub fn lane_limit(&self) -> u32 {
        self.unavailable_limit().unwrap_or_else(|| self.spec().batch_size.up(self.head.planned.max(1)))
    }

    fn run_lane(&mut self) {
        // While the first step is out there is no evidence yet that anything else should get the bundle.
        let running = self.is_free() && (self.head.step > 0 || self.step_count() == 0);
        let after = self.lane_works_after();
        if !running && !after {
            return;
        }
        let base = self.base;
        let touched: BTreeSet<(LaneClass, NodeId)> = self
            .touched(is_lane_ready)
            .into_iter()
            .filter_map(|n| self.member(n))
            .map(|m| (lane_class(m), m.node))
            .collect();
        let frozen = self.head.causes.contains(&PauseCause::Freeze);
        let mut room = self.lane_limit().saturating_sub(self.head.lane_open);
        let mut asked = 0u32;
        for class in LANE_CLASSES {
            let known = base.index.lane_ready.range((class, NodeId::NIL)..).take_while(|(c, _)| *c == class);
            let ready: Vec<NodeId> = touched.iter().filter(|(c, _)| *c == class).map(|(_, n)| *n).collect();
            for node in ready.into_iter().chain(known.map(|(_, n)| *n).filter(|n| !touched.contains(&(class, *n)))) {
                let Some(m) = self.member(node).filter(|m| is_lane_ready(m) && lane_class(m) == class) else {
                    continue;
                };
                if asked >= MAX_ASSIGN_PER_COMMIT {
                    return;
                }
                if self.assigned >= MAX_ASSIGN_PER_COMMIT {
                    self.more();
                    return;
                }
                let limited = class != LaneClass::FirstConfig;
                if limited && (frozen || room == 0 || !self.has_slot(m)) {
                    return;
                }
                if limited {
                    room -= 1;
                }
                if after {
                    // The node may have moved on since: its facts are read anew before it is claimed again.
                    self.fetch(node);
                    asked += 1;
                } else {
                    self.assign_in_lane(node);
                }
            }
        }
    }

    pub fn assign_in_lane(&mut self, node: NodeId) {
        if self.member(node).is_some_and(|m| m.state == NodeState::Owed) {
            self.change(Change::DebtEnded { node });
        }
        self.edit(node, None, |m| m.step = None);
        self.assign(node);
    }

    /// Ends as failed: nothing that is not verified stays desired on the bundle.
    pub fn fail(&mut self, note: String, revoked: &BTreeSet<BundleId>) {
        self.end_forward(revoked);
        self.fail_step(&note);
        self.head.phase = Phase::Failed;
        self.head.note = Some(note.clone());
        self.fact(Fact::Failed { note });
    }

    pub fn cancel(&mut self, note: Option<String>) {
        self.end_forward(&BTreeSet::new());
        self.fail_step("cancelled");
        self.head.phase = Phase::Cancelled;
        self.head.note = note;
        self.fact(Fact::Cancelled);
    }

    /// Take back every assignment that is not verified, drop every debt, let every node go.
    fn end_forward(&mut self, revoked: &BTreeSet<BundleId>) {
        self.head.causes.clear();
        self.head.waits.clear();
        self.head.ended_at = Some(self.now);
        for node in self.all_members(|m| !matches!(m.state, NodeState::Verified { .. } | NodeState::Skipped { .. })) {
            let Some(m) = self.member(node) else { continue };
            let (state, told) = (m.state.clone(), m.told);
            if state == NodeState::Owed {
                self.change(Change::DebtEnded { node });
            }
            let end = if state.settled() && state != NodeState::Owed {
                state
            } else {
                NodeState::Skipped { reason: SkipReason::Cancelled }
            };
            if told == Told::Target {
                let to = self.back_target(node, revoked);
                self.send_back(node, to, None, |m| m.state = end);
            } else {
                self.edit(node, None, |m| m.state = end);
            }
        }
        self.restore_weights();
        self.change(Change::ReleaseAll { keep: Vec::new() });
    }
}
