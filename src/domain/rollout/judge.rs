//! What nodes did: reports, gate windows, presence, deadlines.

use super::draft::{Draft, PRESENCE_LEAST, PRESENCE_PERCENT};
use super::event::*;
use super::state::*;
use super::*;
use crate::node::{GateVerdict, GateWindow, HistoryOutcome};

/// Error texts of nodes are kept up to this many characters in the rollout's rows.
const MAX_ERROR_CHARS: usize = 500;

impl Draft<'_> {
    pub fn report(&mut self, r: &Report) {
        let Some(m) = self.member(r.node) else { return };
        if let Said::Health { class } = r.said {
            if m.health != class && !matches!(m.state, NodeState::Skipped { .. }) {
                self.edit(r.node, None, |m| m.health = class);
            }
            return;
        }
        if !self.is_judged(m) {
            return;
        }
        if let Said::Weight { weight } = r.said {
            self.weighed(r.node, r.generation, weight);
            return;
        }
        let wanted = match m.told {
            Told::Nothing => return,
            Told::Target => Some(self.spec().bundle),
            Told::Back(to) => to,
        };
        let named = match &r.said {
            Said::Downloaded { bundle }
            | Said::Staged { bundle }
            | Said::Activated { bundle }
            | Said::Verified { bundle }
            | Said::Failed { bundle, .. }
            | Said::Active { bundle } => *bundle,
            Said::Health { .. } | Said::Weight { .. } => return,
        };
        // A heartbeat speaks of now, whatever generation it has accepted; a report call speaks of one assignment.
        let is_heartbeat = matches!(r.said, Said::Active { .. });
        let current = match r.generation {
            Some(g) => g == m.generation && (is_heartbeat || named == wanted),
            None => named == wanted || is_heartbeat,
        };
        if !current {
            return;
        }
        match m.told {
            Told::Nothing => {}
            Told::Target => self.report_on_target(r, named == wanted),
            Told::Back(_) => self.report_on_restore(r, named == wanted),
        }
    }

    /// What a node does matters while the rollout holds it: verified ones as long as it is active, after completion those that
    /// the lane has under way, and restores until they are done, even when they are only owed.
    fn is_judged(&self, m: &Member) -> bool {
        match self.head.phase {
            Phase::Running | Phase::Paused => true,
            Phase::Completed => m.state.in_flight(),
            Phase::RollingBack | Phase::RolledBack => matches!(m.state, NodeState::RollingBack { .. }),
            Phase::Pending | Phase::Failed | Phase::Cancelled => false,
        }
    }

    fn report_on_target(&mut self, r: &Report, same: bool) {
        let Some(m) = self.member(r.node) else { return };
        let state = m.state.clone();
        match (&r.said, &state) {
            (Said::Downloaded { .. }, NodeState::Assigned) => self.forward(r.node, NodeState::Downloaded),
            (Said::Staged { .. }, NodeState::Assigned | NodeState::Downloaded) => {
                self.forward(r.node, NodeState::Staged)
            }
            (
                Said::Activated { .. } | Said::Verified { .. } | Said::Active { .. },
                NodeState::Assigned | NodeState::Downloaded | NodeState::Staged,
            ) if same => self.forward(r.node, NodeState::Activated { at: self.now, soaks_until: None }),
            // A lost node that comes back running the bundle may still verify.
            (
                Said::Activated { .. } | Said::Verified { .. } | Said::Active { .. },
                NodeState::Failed { reason: FailReason::Lost, .. },
            ) if same => self.forward(r.node, NodeState::Activated { at: self.now, soaks_until: None }),
            (Said::Active { .. }, NodeState::Activated { .. }) if !same => {
                self.fail_member(r.node, FailReason::FellBack, Some("runs another bundle again".into()));
            }
            (Said::Active { .. }, NodeState::Verified { .. }) if !same => {
                self.fail_member(r.node, FailReason::Regressed, Some("runs another bundle again".into()));
            }
            (Said::Failed { error, .. }, s) if s.in_flight() => {
                self.fail_member(r.node, FailReason::Reported, Some(first_line(error)));
            }
            (Said::Failed { error, .. }, NodeState::Verified { .. }) => {
                self.fail_member(r.node, FailReason::Regressed, Some(first_line(error)));
            }
            // It waited for its turn to go back, and does not serve any more.
            (Said::Failed { error, .. }, NodeState::RollingBack { .. }) => {
                self.fail_waiting(r.node, HistoryOutcome::Failed, first_line(error));
            }
            (Said::Active { .. }, NodeState::RollingBack { .. }) if !same => {
                self.fail_waiting(r.node, HistoryOutcome::FellBack, "runs another bundle again".into());
            }
            // Late, doubled or reordered: harmless.
            (
                Said::Downloaded { .. }
                | Said::Staged { .. }
                | Said::Activated { .. }
                | Said::Verified { .. }
                | Said::Active { .. }
                | Said::Failed { .. }
                | Said::Weight { .. }
                | Said::Health { .. },
                _,
            ) => {}
        }
    }

    fn report_on_restore(&mut self, r: &Report, same: bool) {
        let Some(m) = self.member(r.node) else { return };
        let NodeState::RollingBack { to, activated, owed } = m.state.clone() else { return };
        match &r.said {
            Said::Activated { .. } | Said::Verified { .. } | Said::Active { .. } if same && activated.is_none() => {
                let now = self.now;
                self.edit(r.node, None, |m| {
                    m.state = NodeState::RollingBack { to, activated: Some(now), owed };
                });
            }
            Said::Failed { error, .. } => {
                let (at, error) = (self.now, Some(first_line(error)));
                if owed {
                    self.change(Change::DebtEnded { node: r.node });
                }
                self.edit(r.node, error.clone(), |m| m.state = NodeState::RollbackFailed { at, error });
            }
            Said::Downloaded { .. }
            | Said::Staged { .. }
            | Said::Activated { .. }
            | Said::Verified { .. }
            | Said::Active { .. }
            | Said::Weight { .. }
            | Said::Health { .. } => {}
        }
    }

    fn forward(&mut self, node: NodeId, state: NodeState) {
        let moved = self.clock();
        self.edit(node, None, |m| {
            m.state = state;
            m.moved = moved;
            // Whatever it reports, it has been told, and it is not silent.
            m.handed_over = true;
            m.silent_since = None;
        });
        self.mark_handed_over(node);
    }

    fn mark_handed_over(&mut self, node: NodeId) {
        if let Some(k) = self.member(node).and_then(|m| m.step)
            && self.step(k).is_some_and(|s| !s.handed_over)
        {
            self.edit_step(k, |s| s.handed_over = true);
        }
    }

    /// The node failed: counted, remembered, and - while that is tolerated - sent back to what it had.
    pub fn fail_member(&mut self, node: NodeId, reason: FailReason, error: Option<String>) {
        let Some(m) = self.member(node) else { return };
        let (generation, bundle, at) = (m.generation, self.spec().bundle, self.now);
        self.mark_handed_over(node);
        self.change(Change::HistoryEnded {
            node,
            bundle,
            generation,
            how: if reason == FailReason::FellBack { HistoryOutcome::FellBack } else { HistoryOutcome::Failed },
            detail: error.clone(),
        });
        let detail = Some(match &error {
            Some(e) => format!("{reason}: {e}"),
            None => reason.to_string(),
        });
        self.edit(node, detail, |m| {
            m.state = NodeState::Failed { reason, at, error };
        });
        if self.head.failures <= self.threshold() || self.head.phase == Phase::Completed {
            self.send_failed_back(node);
        }
        self.release_if_after(node);
    }

    /// Fewer failures may turn those beyond the threshold into tolerated ones.
    pub fn return_tolerated(&mut self) {
        if self.head.failures > self.threshold() {
            return;
        }
        for node in self.all_members(|m| m.told == Told::Target && matches!(m.state, NodeState::Failed { .. })) {
            self.send_failed_back(node);
        }
    }

    /// A failed node that is tolerated or accepted is returned to its last verified bundle at once.
    pub fn send_failed_back(&mut self, node: NodeId) {
        if self.member(node).is_some_and(|m| m.told == Told::Target) {
            let to = self.back_target(node, &BTreeSet::new());
            self.send_back(node, to, None, |_| {});
        }
    }

    /// After completion a lane member is held only while it is on its way.
    fn release_if_after(&mut self, node: NodeId) {
        if self.head.phase == Phase::Completed {
            self.change(Change::Release { node });
        }
    }

    pub fn gate(&mut self, w: &GateWindow) {
        let Some(m) = self.member(w.node) else { return };
        if m.generation != w.generation || !self.is_judged(m) {
            return;
        }
        let state = m.state.clone();
        match (m.told, &state) {
            (Told::Target, NodeState::Activated { at, .. }) => self.gate_activated(w, *at),
            (Told::Target, NodeState::Verified { .. }) => match w.verdict {
                GateVerdict::Fail | GateVerdict::Flapping => {
                    self.fail_member(w.node, FailReason::Regressed, Some(w.worst.clone()));
                }
                GateVerdict::Pass | GateVerdict::Unknown => {}
            },
            (Told::Target, NodeState::RollingBack { .. }) => match w.verdict {
                GateVerdict::Fail | GateVerdict::Flapping => {
                    self.fail_waiting(w.node, HistoryOutcome::Failed, w.worst.clone());
                }
                GateVerdict::Pass | GateVerdict::Unknown => {}
            },
            (Told::Back(_), NodeState::RollingBack { to, activated: Some(since), .. })
                if w.verdict == GateVerdict::Pass && w.last_fresh > *since =>
            {
                self.restored(w.node, *to);
            }
            _ => {}
        }
    }

    fn gate_activated(&mut self, w: &GateWindow, activated: Timestamp) {
        let judge = &self.spec().judge;
        match w.verdict {
            GateVerdict::Fail => self.fail_member(w.node, FailReason::Gate, Some(w.worst.clone())),
            GateVerdict::Flapping => self.fail_member(w.node, FailReason::Flapping, Some(w.worst.clone())),
            GateVerdict::Unknown => self.soaks_until(w.node, activated, None),
            GateVerdict::Pass => {
                // The evidence is checked again here: after activation, fresh, of this generation, long enough.
                let after = w.first_pass.is_some_and(|t| t > activated) && w.last_fresh > activated;
                let fresh = self.now.since(w.last_fresh) <= judge.freshness;
                if !after || !fresh {
                    return;
                }
                if w.soaked < judge.soak {
                    // No forward move yet: passing now and then would put the deadline off for ever. The next word of it comes at the
                    // end of the soak, an observation later.
                    let until = self.clock() + (judge.soak - w.soaked) + judge.freshness;
                    self.soaks_until(w.node, activated, Some(until));
                    return;
                }
                let (at, no_traffic, node) = (self.now, w.no_traffic, w.node);
                let detail = no_traffic.then(|| "without traffic".to_string());
                self.edit(node, detail, |m| {
                    m.state = NodeState::Verified { at, no_traffic };
                    m.first_config = false;
                });
                let (bundle, generation) = (Some(self.spec().bundle), w.generation);
                self.change(Change::HistoryVerified { node, bundle, generation });
                self.release_if_after(node);
            }
        }
    }

    fn soaks_until(&mut self, node: NodeId, at: Timestamp, soaks_until: Option<Span>) {
        let state = NodeState::Activated { at, soaks_until };
        if self.member(node).is_some_and(|m| m.state != state) {
            self.edit(node, None, |m| m.state = state);
        }
    }

    fn restored(&mut self, node: NodeId, to: Option<BundleId>) {
        let Some(m) = self.member(node) else { return };
        let (at, generation) = (self.now, m.generation);
        if matches!(m.state, NodeState::RollingBack { owed: true, .. }) {
            self.change(Change::DebtEnded { node });
        }
        self.edit(node, None, |m| m.state = NodeState::RolledBack { at });
        self.change(Change::HistoryVerified { node, bundle: to, generation });
    }

    pub fn presence(&mut self, c: &PresenceChange) {
        let Some(m) = self.member(c.node) else { return };
        let (online, is_put_off) = (counts_as_online(m, c), c.online && !counts_as_online(m, c));
        let known = m.online == online && !(is_put_off && m.silent_since.is_some());
        if matches!(m.state, NodeState::Skipped { .. }) || known {
            return;
        }
        if is_put_off {
            self.put_off(c.node);
            return;
        }
        let told = m.told != Told::Nothing && c.handed_over >= m.generation;
        if c.online {
            self.edit(c.node, None, |m| {
                m.online = true;
                m.handed_over |= told;
                m.silent_since = None;
                if let NodeState::RollingBack { owed, .. } = &mut m.state {
                    *owed = false;
                }
            });
            if matches!(self.member(c.node).map(|m| &m.state), Some(NodeState::RollingBack { .. })) {
                self.change(Change::DebtEnded { node: c.node });
            }
            return;
        }
        let now = self.now;
        let bundle = m.told;
        let waits = waits_back(m);
        self.edit(c.node, None, |m| {
            m.online = false;
            m.handed_over |= told;
            m.silent_since = Some(now);
            // One that waits for its turn is told, and owed, behind all of this event.
            if let NodeState::RollingBack { owed, .. } = &mut m.state {
                *owed = !waits;
            }
        });
        if told {
            self.mark_handed_over(c.node);
        }
        if let (Some(NodeState::RollingBack { to, .. }), Told::Back(_)) =
            (self.member(c.node).map(|m| m.state.clone()), bundle)
        {
            self.change(Change::DebtAdded { node: c.node, restore: true, bundle: to });
        }
    }

    /// It says "not now" and was named nothing yet: owed like one that is away, but nothing is wrong with it.
    fn put_off(&mut self, node: NodeId) {
        self.edit(node, None, |m| {
            m.online = false;
            m.silent_since = None;
        });
        if self.member(node).is_some_and(|m| m.state == NodeState::Assigned) {
            self.owe(node);
            self.release_if_after(node);
        }
    }

    /// Too many online targets silent within one stale time: it is not the bundle, or it is all of it; either way a person looks.
    pub fn count_silence(&mut self) {
        if !matches!(self.head.phase, Phase::Running | Phase::Paused) {
            return;
        }
        let looked_at = self.head.silent_window.map(|w| w.0);
        let stale = self.now - self.spec().stale_after;
        let counts = |t: Timestamp| t >= stale && looked_at.is_none_or(|l| t > l);
        let known = self.base.index.dark.range((stale, NodeId::NIL)..);
        let known = known.filter(|(t, n)| counts(*t) && !self.is_touched(*n)).count();
        let n = (known + self.touched(|m| dark_since(m).is_some_and(counts)).len()) as u32;
        let online_before = self.head.online + n;
        let limit = PRESENCE_LEAST.max(online_before * PRESENCE_PERCENT / 100);
        if n > limit && !self.head.causes.contains(&PauseCause::Presence) {
            self.pause(
                PauseCause::Presence,
                Some(format!("{n} of {online_before} online targets went silent together")),
            );
        }
    }

    /// Timers: silences to be judged, deadlines that passed, the end of the time for a rollback.
    pub fn timer(&mut self) {
        self.time_passed = true;
        self.judge_silence();
        self.judge_deadlines();
        self.judge_analysis();
        let over = self.head.rollback_since.is_some_and(|t| self.now >= t + self.spec().rollback_deadline);
        if self.head.phase == Phase::RollingBack && over {
            let at = self.now;
            for node in self.all_members(|m| is_restoring(m) && !waits_back(m)) {
                let error = Some("not restored within the rollback deadline".to_string());
                self.edit(node, error.clone(), |m| m.state = NodeState::RollbackFailed { at, error });
            }
        }
    }

    fn judge_silence(&mut self) {
        let judged = match self.head.phase {
            Phase::Running | Phase::Paused => !self.head.causes.contains(&PauseCause::Presence),
            Phase::Completed => true,
            Phase::Pending | Phase::RollingBack | Phase::Failed | Phase::Cancelled | Phase::RolledBack => false,
        };
        if !judged {
            return;
        }
        let grace = self.silence_grace();
        let base = self.base;
        let due: Vec<NodeId> =
            base.index.silent.iter().take_while(|(t, _)| *t + grace <= self.now).map(|(_, n)| *n).collect();
        let touched = self.touched(|m| silent_since(m).is_some_and(|t| t + grace <= self.now));
        for node in due.into_iter().chain(touched).collect::<BTreeSet<_>>() {
            let Some(m) = self.member(node) else { continue };
            if silent_since(m).is_none() {
                continue;
            }
            if m.handed_over {
                self.fail_member(node, FailReason::Lost, Some("silent since the bundle was handed over".into()));
            } else {
                // Nobody named the assignment to it.
                self.owe(node);
                self.release_if_after(node);
            }
        }
    }

    fn judge_deadlines(&mut self) {
        if self.head.clock.ticking_since.is_none() {
            return;
        }
        let clock = self.clock();
        let base = self.base;
        let due: Vec<NodeId> = base.index.deadlines.iter().take_while(|(d, _)| *d <= clock).map(|(_, n)| *n).collect();
        for node in due {
            if self.member(node).and_then(|m| deadline_of(self.spec(), m)).is_some_and(|d| d <= clock) {
                let state = self.member(node).map(|m| m.state.kind().as_str()).unwrap_or_default();
                self.fail_member(node, FailReason::Deadline, Some(format!("no progress since {state}")));
            }
        }
    }

    pub fn remove(&mut self, node: NodeId, reason: SkipReason) {
        let Some(m) = self.member(node) else { return };
        // Of a cancelled rollout nothing can come any more: what it was stays as it was.
        if matches!(m.state, NodeState::Skipped { .. }) || self.head.phase == Phase::Cancelled {
            return;
        }
        let held = self.head.phase.is_active() || m.state.in_flight();
        let verified = matches!(m.state, NodeState::Verified { .. });
        // Where nobody else says what the node shall run instead, it goes back to what it had.
        let withdraw = held && m.told == Told::Target && !verified && !reason.names_another();
        let waits = waits_back(m);
        if matches!(m.state, NodeState::Owed | NodeState::RollingBack { owed: true, .. }) {
            self.change(Change::DebtEnded { node });
        }
        let skipped = |m: &mut Member| {
            m.state = NodeState::Skipped { reason };
        };
        let detail = Some(reason.to_string());
        if withdraw {
            let to = self.back_target(node, &BTreeSet::new());
            if waits {
                self.end_history(node, HistoryOutcome::RolledBack, None);
            }
            self.send_back(node, to, detail, skipped);
        } else {
            self.edit(node, detail, skipped);
        }
        if held {
            self.change(Change::Release { node });
        }
    }
}

/// The first line of an error text, shortened: what failures are grouped by.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().chars().take(MAX_ERROR_CHARS).collect()
}
