//! One event, one decision.

use super::draft::Draft;
use super::event::*;
use super::state::*;
use super::*;

/// What `event` means for `r` at `now`. Pure: the same arguments give the same answer on any machine.
///
/// Commands that the state does not allow are a [`Rejection`]; observations never are: what does not matter changes nothing.
pub fn decide(r: &Rollout, event: &Event, now: Timestamp) -> Result<Decision, Rejection> {
    // Time never runs backwards inside a rollout, whatever the wall clock does.
    let now = now.max(r.head.clock.ticking_since.unwrap_or(Timestamp::ZERO));
    let mut d = Draft::new(r, now);
    match event {
        Event::Start { facts } => {
            if r.head.phase == Phase::Running {
                return Err(Rejection::AlreadySo);
            }
            allow(r, "start", &[Phase::Pending])?;
            d.start(facts);
        }
        Event::Pause { note } => {
            if r.head.phase == Phase::Paused && r.head.causes.contains(&PauseCause::Person) {
                return Err(Rejection::AlreadySo);
            }
            allow(r, "pause", &[Phase::Running, Phase::Paused])?;
            d.pause(PauseCause::Person, note.clone());
        }
        Event::Resume { retry, accept_failed } => d.resume(*retry, *accept_failed)?,
        Event::Cancel { note } => {
            if r.head.phase == Phase::Cancelled {
                return Err(Rejection::AlreadySo);
            }
            allow(r, "cancel", &[Phase::Pending, Phase::Running, Phase::Paused])?;
            d.cancel(note.clone());
        }
        Event::Rollback { note, nodes, revoked, gone } => {
            if matches!(r.head.phase, Phase::RollingBack | Phase::RolledBack) {
                return Err(Rejection::AlreadySo);
            }
            allow(r, "rollback", &[Phase::Running, Phase::Paused, Phase::Failed, Phase::Completed])?;
            d.begin_rollback(false, note.clone(), nodes.as_ref(), revoked, gone);
        }
        Event::Retry { nodes } => d.retry(nodes.as_ref())?,
        Event::AdvanceTraffic | Event::SwapSlot => {
            allow(r, event.name(), &[Phase::Running])?;
            if r.head.shift.is_some_and(|s| s.weight == FULL_WEIGHT) {
                return Err(Rejection::AlreadySo);
            }
            let all = matches!(event, Event::SwapSlot);
            d.advance_traffic(all).map_err(|why| not_allowed(r, event.name(), Some(why.into())))?;
        }
        Event::Reports { reports } => reports.iter().for_each(|x| d.report(x)),
        Event::Gates { windows } => windows.iter().for_each(|w| d.gate(w)),
        Event::Readings { readings } => d.readings(readings),
        Event::Untouched { of, failing, unknown } => d.untouched(*of, *failing, *unknown),
        Event::Presence { changes } => {
            changes.iter().for_each(|c| d.presence(c));
            if changes.iter().any(|c| !c.online) {
                d.count_silence();
            }
            d.timer();
        }
        Event::Joined { facts } => d.join(facts),
        Event::LaneReady { facts } => d.lane_ready(facts),
        Event::DebtsDropped { nodes } => nodes.iter().for_each(|n| {
            // While it rolls back it holds its nodes: nobody else can have taken their debts over.
            let ended = r.head.phase.is_end();
            if d.member(*n).is_some_and(|m| match m.state {
                NodeState::Owed => true,
                NodeState::RollingBack { owed, .. } => owed && ended,
                _ => false,
            }) {
                d.edit(*n, None, |m| m.state = NodeState::Skipped { reason: SkipReason::Superseded });
            }
        }),
        Event::Removed { nodes, reason } => {
            nodes.iter().for_each(|n| d.remove(*n, *reason));
            let none_left = d.head.counts.total == d.head.counts.skipped;
            if *reason == SkipReason::Superseded && none_left && matches!(r.head.phase, Phase::Running | Phase::Paused)
            {
                d.cancel(Some("a newer rollout took over every node".into()));
            }
        }
        Event::FreezeBegan => match r.head.phase {
            Phase::Running | Phase::Paused => d.pause(PauseCause::Freeze, None),
            // Nothing to pause, but the lane stands still.
            Phase::Completed => {
                d.head.causes.insert(PauseCause::Freeze);
            }
            Phase::Pending | Phase::RollingBack | Phase::Failed | Phase::Cancelled | Phase::RolledBack => {}
        },
        Event::FreezeEnded => d.clear_cause(PauseCause::Freeze),
        Event::BundleRevoked { revoked } => d.bundle_revoked(revoked),
        Event::CapacityGranted { k } => {
            let ended = matches!(r.head.phase, Phase::Failed | Phase::Cancelled | Phase::RolledBack);
            if !ended {
                d.head.budget.capacity = *k;
            }
        }
        Event::WaitBegan { wait } => {
            // The lane of a completed rollout waits like its steps did.
            if r.head.phase.is_active() || r.head.phase == Phase::Completed {
                d.head.waits.insert(*wait);
                d.tick();
            }
        }
        Event::WaitEnded { wait } => {
            d.head.waits.remove(wait);
            d.tick();
        }
        Event::ControllerFailed { note } => {
            if matches!(r.head.phase, Phase::Running | Phase::Paused) {
                d.pause(PauseCause::Controller, Some(note.clone()));
            }
        }
        Event::OwnerStarted { down } => d.owner_started(*down),
        Event::Timer => d.timer(),
    }
    d.advance();
    Ok(d.finish())
}

/// The commands that `phase` allows, for the error text.
pub fn allowed_commands(phase: Phase) -> Vec<&'static str> {
    match phase {
        Phase::Pending => vec!["start", "cancel"],
        Phase::Running => vec!["pause", "cancel", "rollback", "retry", "advance_traffic", "swap_slot"],
        Phase::Paused => vec!["pause", "resume", "cancel", "rollback", "retry"],
        Phase::RollingBack => vec![],
        Phase::Completed => vec!["rollback"],
        Phase::Failed => vec!["rollback", "retry"],
        Phase::RolledBack => vec!["retry"],
        Phase::Cancelled => vec![],
    }
}

fn not_allowed(r: &Rollout, command: &'static str, why: Option<String>) -> Rejection {
    Rejection::NotAllowed { phase: r.head.phase, command, allowed: allowed_commands(r.head.phase), why }
}

fn allow(r: &Rollout, command: &'static str, phases: &[Phase]) -> Result<(), Rejection> {
    if phases.contains(&r.head.phase) { Ok(()) } else { Err(not_allowed(r, command, None)) }
}

impl Draft<'_> {
    /// Targets are resolved again: those that vanished are skipped, new ones join through the lane.
    fn start(&mut self, facts: &[Facts]) {
        self.head.phase = Phase::Running;
        self.head.started_at = Some(self.now);
        self.tick();
        let now: BTreeMap<NodeId, &Facts> = facts.iter().map(|f| (f.node, f)).collect();
        for node in self.base.members.keys().copied() {
            match now.get(&node) {
                Some(f) => match f.skip {
                    Some(reason) => self.edit(node, None, |m| {
                        m.state = NodeState::Skipped { reason };
                        m.online = f.online;
                    }),
                    None => self.take_in(f),
                },
                None => {
                    self.edit(node, None, |m| m.state = NodeState::Skipped { reason: SkipReason::Vanished });
                }
            }
        }
        for f in facts.iter().filter(|f| !self.base.members.contains_key(&f.node)) {
            self.add_to_lane(f);
        }
        for node in self.all_members(|m| !matches!(m.state, NodeState::Skipped { .. })) {
            self.change(Change::Claim { node });
        }
        let skipped_in_steps = self.all_members(|m| m.step.is_some() && matches!(m.state, NodeState::Skipped { .. }));
        self.head.planned -= skipped_in_steps.len() as u32;
        let (targets, steps) = (self.head.planned, self.step_count());
        self.fact(Fact::Started { targets, steps });
    }

    /// A target, as it is found now. One that was none at creation is a newcomer; one that was taken out since has its place again.
    fn take_in(&mut self, f: &Facts) {
        let Some(m) = self.member(f.node) else { return };
        let was_out = matches!(m.state, NodeState::Skipped { .. });
        let owed = was_out && m.step.is_none() && !f.online;
        if owed {
            let bundle = self.spec().bundle;
            self.change(Change::DebtAdded { node: f.node, restore: false, bundle: Some(bundle) });
        }
        self.edit(f.node, None, |m| {
            take_facts(m, f);
            if was_out {
                m.state = if owed { NodeState::Owed } else { NodeState::Pending };
            }
        });
    }

    fn add_to_lane(&mut self, f: &Facts) {
        let state = match f.skip {
            Some(reason) => NodeState::Skipped { reason },
            None if f.online => NodeState::Pending,
            None => NodeState::Owed,
        };
        if state == NodeState::Owed {
            let bundle = self.spec().bundle;
            self.change(Change::DebtAdded { node: f.node, restore: false, bundle: Some(bundle) });
        }
        self.put(plan::member(f, None, 0, state), None);
    }

    fn join(&mut self, facts: &[Facts]) {
        let open = matches!(self.head.phase, Phase::Running | Phase::Paused | Phase::Completed) && !self.head.revoked;
        for f in facts {
            if !open || self.member(f.node).is_some() {
                continue;
            }
            self.add_to_lane(f);
            if self.head.phase != Phase::Completed && f.skip.is_none() {
                self.change(Change::Claim { node: f.node });
            }
        }
    }

    /// What the database knows of members now: after completion they may be assigned; after another end it is what `retry` needs.
    fn lane_ready(&mut self, facts: &[Facts]) {
        match self.head.phase {
            Phase::Completed if self.lane_works_after() => self.assign_waiting(facts),
            Phase::Failed | Phase::RolledBack => facts.iter().for_each(|f| self.refresh(f)),
            Phase::Completed
            | Phase::Pending
            | Phase::Running
            | Phase::Paused
            | Phase::RollingBack
            | Phase::Cancelled => {}
        }
    }

    /// Who has been moved on by others is verified or restored here no more; who has not, or failed, can be tried again.
    fn refresh(&mut self, f: &Facts) {
        let Some(m) = self.member(f.node) else { return };
        let moved = m.generation != f.generation;
        let skip = match &m.state {
            NodeState::Verified { .. } | NodeState::RollingBack { .. } | NodeState::RollbackFailed { .. } => {
                f.skip.or(moved.then_some(SkipReason::Superseded))
            }
            NodeState::Failed { .. } | NodeState::Skipped { reason: SkipReason::Cancelled } => f.skip,
            NodeState::Skipped { .. }
            | NodeState::Pending
            | NodeState::Assigned
            | NodeState::Downloaded
            | NodeState::Staged
            | NodeState::Activated { .. }
            | NodeState::Owed
            | NodeState::RolledBack { .. } => return,
        };
        let owed = matches!(m.state, NodeState::RollingBack { owed: true, .. });
        if moved || skip.is_some() || m.online != f.online || m.health != f.health {
            if owed && skip.is_some() {
                self.change(Change::DebtEnded { node: f.node });
            }
            self.edit(f.node, None, |m| {
                take_facts(m, f);
                if let Some(reason) = skip {
                    m.state = NodeState::Skipped { reason };
                }
            });
        }
    }

    fn assign_waiting(&mut self, facts: &[Facts]) {
        let frozen = self.head.causes.contains(&PauseCause::Freeze);
        for f in facts {
            let Some(m) = self.member(f.node) else { continue };
            let waits = m.state == NodeState::Owed || (m.step.is_none() && m.state == NodeState::Pending);
            if !waits {
                continue;
            }
            match f.skip {
                Some(reason) => {
                    if m.state == NodeState::Owed {
                        self.change(Change::DebtEnded { node: f.node });
                    }
                    self.edit(f.node, None, |m| m.state = NodeState::Skipped { reason });
                }
                None => {
                    self.edit(f.node, None, |m| take_facts(m, f));
                    let room = !frozen && self.head.lane_open < self.lane_limit();
                    let may = self
                        .member(f.node)
                        .is_some_and(|m| is_lane_ready(m) && (m.first_config || (room && self.has_slot(m))));
                    if may {
                        self.change(Change::Claim { node: f.node });
                        self.assign_in_lane(f.node);
                    }
                }
            }
        }
    }

    fn clear_cause(&mut self, cause: PauseCause) {
        if self.head.causes.remove(&cause) && self.head.phase == Phase::Paused {
            self.fact(Fact::CauseCleared { cause });
            self.run_again();
        }
    }

    fn run_again(&mut self) {
        if self.head.causes.is_empty() && self.head.phase == Phase::Paused {
            self.head.phase = Phase::Running;
            self.head.note = None;
            let k = self.head.step;
            if self.step(k).is_some_and(|s| s.error.is_some()) {
                self.edit_step(k, |s| s.error = None);
            }
            self.tick();
        }
    }

    fn resume(&mut self, retry: bool, accept_failed: bool) -> Result<(), Rejection> {
        let r = self.base;
        if r.head.phase == Phase::Running {
            return Err(Rejection::AlreadySo);
        }
        allow(r, "resume", &[Phase::Paused])?;
        let causes = &r.head.causes;
        if causes.iter().all(|c| *c == PauseCause::Freeze) {
            return Err(not_allowed(r, "resume", Some("a freeze ends by itself or is overridden".into())));
        }
        let failed = matches!((retry, accept_failed), (false, false));
        if causes.contains(&PauseCause::Gate) && failed {
            return Err(not_allowed(r, "resume", Some("after failures resume needs retry or accept_failed".into())));
        }
        self.fact(Fact::Resumed);
        let had_no_evidence = causes.contains(&PauseCause::NoEvidence);
        if causes.contains(&PauseCause::Presence) {
            self.look_at_silences();
        }
        let inconclusive = causes.contains(&PauseCause::Inconclusive);
        self.head.causes.retain(|c| *c == PauseCause::Freeze);
        if retry {
            self.compare_again();
        } else if accept_failed || inconclusive {
            self.overrule();
        }
        if accept_failed {
            for node in self.all_members(counts_failed) {
                self.edit(node, None, |m| m.accepted = true);
                self.send_failed_back(node);
            }
        }
        if retry {
            self.retry_members(None);
        }
        self.return_tolerated();
        self.run_again();
        let k = self.head.step;
        if had_no_evidence && self.step(k).is_some_and(|s| s.open == 0) {
            // A person takes the place of the evidence for this one step.
            self.conclude_by_hand(k);
            self.complete_step(k);
        }
        self.timer();
        Ok(())
    }

    /// Silences up to now count towards the presence rule no more.
    fn look_at_silences(&mut self) {
        let n = self.base.index.dark.len() as u32;
        if n > 0 {
            self.head.silent_window = Some((self.now, n));
        }
    }

    fn retry(&mut self, nodes: Option<&BTreeSet<NodeId>>) -> Result<(), Rejection> {
        let r = self.base;
        allow(r, "retry", &[Phase::Running, Phase::Paused, Phase::Failed, Phase::RolledBack])?;
        if r.head.revoked && r.head.phase != Phase::RolledBack {
            return Err(not_allowed(r, "retry", Some("the bundle is revoked".into())));
        }
        let retried = match r.head.phase {
            Phase::RolledBack => self.retry_restores(nodes),
            Phase::Failed => self.reopen(nodes),
            _ => self.retry_members(nodes),
        };
        if retried == 0 && !self.is_refused() {
            return Err(not_allowed(r, "retry", Some("no failed node to retry".into())));
        }
        self.compare_again();
        self.fact(Fact::Retried { nodes: retried });
        if self.head.causes.remove(&PauseCause::Gate) {
            self.fact(Fact::CauseCleared { cause: PauseCause::Gate });
        }
        if self.head.phase.is_active() {
            self.return_tolerated();
        }
        self.run_again();
        Ok(())
    }

    /// Failed members get a new attempt: in the step that runs, or else in the lane.
    fn retry_members(&mut self, nodes: Option<&BTreeSet<NodeId>>) -> u32 {
        let chosen = self
            .all_members(|m| matches!(m.state, NodeState::Failed { .. }) && nodes.is_none_or(|n| n.contains(&m.node)));
        let current = self.head.step;
        for node in &chosen {
            let position = self.member(*node).map_or(0, |m| m.position);
            let in_step = self.member(*node).and_then(|m| m.step).filter(|k| *k == current);
            self.edit(*node, Some("retry".into()), |m| {
                m.state = NodeState::Pending;
                m.step = in_step;
                m.accepted = false;
            });
            if let Some(k) = in_step {
                self.edit_step(k, |s| s.cursor = s.cursor.min(position));
            } else if self.member(*node).is_some_and(|m| !m.online) {
                self.owe(*node);
            }
        }
        chosen.len() as u32
    }

    /// A failed rollout runs again: its nodes are claimed anew, what was taken back waits for its turn again.
    fn reopen(&mut self, nodes: Option<&BTreeSet<NodeId>>) -> u32 {
        let chosen = self.all_members(|m| {
            let failed = matches!(m.state, NodeState::Failed { .. }) && nodes.is_none_or(|n| n.contains(&m.node));
            failed || m.state == (NodeState::Skipped { reason: SkipReason::Cancelled })
        });
        let failed = chosen
            .iter()
            .filter(|n| self.member(**n).is_some_and(|m| matches!(m.state, NodeState::Failed { .. })))
            .count();
        if failed == 0 {
            return 0;
        }
        let mut first = self.step_count();
        for node in &chosen {
            self.edit(*node, Some("retry".into()), |m| {
                m.state = NodeState::Pending;
                m.accepted = false;
            });
            let Some(m) = self.member(*node) else { continue };
            let (step, position, online) = (m.step, m.position, m.online);
            match step {
                Some(k) => {
                    first = first.min(k);
                    self.edit_step(k, |s| {
                        s.cursor = s.cursor.min(position);
                        s.state = StepState::Pending;
                        s.completed_at = None;
                        s.error = None;
                    });
                }
                None if !online => self.owe(*node),
                None => {}
            }
        }
        for node in self.all_members(|m| !matches!(m.state, NodeState::Skipped { .. })) {
            self.change(Change::Claim { node });
        }
        self.head.phase = Phase::Running;
        self.head.analysis = None;
        self.head.shift = None;
        self.head.step = first;
        self.head.ended_at = None;
        self.head.note = None;
        self.tick();
        failed as u32
    }

    fn retry_restores(&mut self, nodes: Option<&BTreeSet<NodeId>>) -> u32 {
        // Also those that returned after the end and then got stuck: nothing else would ever look at them again.
        let chosen = self.all_members(|m| {
            let stuck = is_restoring(m) || matches!(m.state, NodeState::RollbackFailed { .. });
            stuck && nodes.is_none_or(|n| n.contains(&m.node))
        });
        if chosen.is_empty() {
            return 0;
        }
        for node in self.all_members(|m| matches!(m.state, NodeState::RollingBack { .. })) {
            self.change(Change::Claim { node });
        }
        for node in &chosen {
            self.change(Change::Claim { node: *node });
            // Where it was told to go, unless that has been revoked since.
            let to = match self.member(*node).map(|m| (m.told, &m.previous)) {
                Some((Told::Back(Some(b)), previous)) if previous.contains(&b) => Some(b),
                _ => self.back_target(*node, &BTreeSet::new()),
            };
            let owed = self.member(*node).is_some_and(|m| !m.online);
            if owed {
                self.change(Change::DebtAdded { node: *node, restore: true, bundle: to });
            }
            self.send_back(*node, to, None, |m| m.state = NodeState::RollingBack { to, activated: None, owed });
        }
        self.head.phase = Phase::RollingBack;
        self.head.rollback_since = Some(self.now);
        self.head.ended_at = None;
        chosen.len() as u32
    }

    fn bundle_revoked(&mut self, revoked: &BTreeSet<BundleId>) {
        if !matches!(self.head.phase, Phase::Pending | Phase::Cancelled) {
            self.forget(revoked);
        }
        if !revoked.contains(&self.spec().bundle) {
            return;
        }
        self.head.revoked = true;
        match self.head.phase {
            Phase::Pending => self.cancel(Some("the bundle was revoked".into())),
            Phase::Running | Phase::Paused => match self.spec().on_failure {
                OnFailure::Rollback => {
                    self.begin_rollback(true, Some("the bundle was revoked".into()), None, revoked, &BTreeSet::new());
                }
                OnFailure::Pause | OnFailure::Fail => self.fail("the bundle was revoked".into(), revoked),
            },
            Phase::Completed | Phase::Failed | Phase::Cancelled | Phase::RollingBack | Phase::RolledBack => {
                for node in self.all_members(|m| m.state == NodeState::Owed || m.state.in_flight() || is_lane_ready(m))
                {
                    self.remove(node, SkipReason::Revoked);
                }
            }
        }
    }

    /// Nobody may go back to these any more; who was told to, and is not there yet, is told anew.
    fn forget(&mut self, revoked: &BTreeSet<BundleId>) {
        for node in self.all_members(|m| m.previous.iter().any(|b| revoked.contains(b))) {
            self.edit(node, None, |m| m.previous.retain(|b| !revoked.contains(b)));
            let Some(m) = self.member(node) else { continue };
            let NodeState::RollingBack { to: Some(b), activated: None, owed } = m.state.clone() else { continue };
            if self.head.phase == Phase::RollingBack && revoked.contains(&b) {
                let waits = waits_back(m);
                let to = self.back_target(node, revoked);
                if waits {
                    self.edit(node, None, |m| m.state = NodeState::RollingBack { to, activated: None, owed });
                    continue;
                }
                if owed {
                    self.change(Change::DebtAdded { node, restore: true, bundle: to });
                }
                self.send_back(node, to, None, |m| m.state = NodeState::RollingBack { to, activated: None, owed });
            }
        }
    }

    /// For `down` nobody could have received reports: no clock of ours counts that time.
    fn owner_started(&mut self, down: Span) {
        if let Some(t) = self.head.clock.ticking_since {
            self.head.clock.ticking_since = Some((t + down).min(self.now));
        }
        if let Some(t) = self.head.rollback_since {
            self.head.rollback_since = Some((t + down).min(self.now));
        }
        if let Some(t) = self.head.asked {
            self.head.asked = Some((t + down).min(self.now));
        }
        self.look_at_silences();
        let base = self.base;
        let silent: Vec<NodeId> = base.index.silent.iter().map(|(_, n)| *n).collect();
        for node in silent {
            let now = self.now;
            self.edit(node, None, |m| m.silent_since = m.silent_since.map(|t| (t + down).min(now)));
        }
    }
}

fn take_facts(m: &mut Member, f: &Facts) {
    m.generation = f.generation;
    m.online = f.online;
    if f.online {
        m.silent_since = None;
    }
    m.health = f.health;
    m.previous = f.previous.clone();
    m.first_config = f.first_config;
}
