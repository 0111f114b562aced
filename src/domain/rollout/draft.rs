//! A decision in the making: reads through to the committed rollout, collects what changes, keeps every counter right.

use super::event::*;
use super::state::*;
use super::*;

pub(super) struct Draft<'a> {
    pub base: &'a Rollout,
    pub now: Timestamp,
    pub head: Head,
    steps: BTreeMap<u32, Step>,
    members: BTreeMap<NodeId, Member>,
    changes: Vec<Change>,
    facts: Vec<Fact>,
    notify: Vec<NodeId>,
    fetch: BTreeSet<NodeId>,
    more: bool,
    pub assigned: u32,
    /// A timer fired: what only time brings about may happen now. A late report must not bring it about in passing.
    pub time_passed: bool,
}

impl<'a> Draft<'a> {
    pub fn new(base: &'a Rollout, now: Timestamp) -> Draft<'a> {
        Draft {
            base,
            now,
            head: base.head.clone(),
            steps: BTreeMap::new(),
            members: BTreeMap::new(),
            changes: Vec::new(),
            facts: Vec::new(),
            notify: Vec::new(),
            fetch: BTreeSet::new(),
            more: false,
            assigned: 0,
            time_passed: false,
        }
    }

    pub fn spec(&self) -> &'a Spec {
        &self.base.spec
    }

    pub fn clock(&self) -> Span {
        self.head.clock.read(self.now)
    }

    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.get(&node).or_else(|| self.base.members.get(&node))
    }

    pub fn step(&self, k: u32) -> Option<&Step> {
        self.steps.get(&k).or_else(|| self.base.steps.get(k as usize))
    }

    pub fn step_count(&self) -> u32 {
        self.base.steps.len() as u32
    }

    pub fn edit_step(&mut self, k: u32, f: impl FnOnce(&mut Step)) {
        if let Some(mut s) = self.step(k).cloned() {
            f(&mut s);
            self.steps.insert(k, s);
        }
    }

    pub fn fact(&mut self, f: Fact) {
        self.facts.push(f);
    }
    pub fn change(&mut self, c: Change) {
        self.changes.push(c);
    }
    pub fn fetch(&mut self, node: NodeId) {
        self.fetch.insert(node);
    }
    pub fn more(&mut self) {
        self.more = true;
    }

    /// Ids of members that satisfy `f`, in order of id. Walks the fleet: for commands and ends, never for reports.
    pub fn all_members(&self, f: impl Fn(&Member) -> bool) -> Vec<NodeId> {
        let mut ids: Vec<NodeId> =
            self.base.members.keys().copied().filter(|id| self.member(*id).is_some_and(&f)).collect();
        ids.extend(self.members.values().filter(|m| !self.base.members.contains_key(&m.node) && f(m)).map(|m| m.node));
        ids
    }

    /// Is there a member that satisfies `f`? Walks the fleet until it finds one.
    pub fn any_member(&self, f: impl Fn(&Member) -> bool) -> bool {
        let mut known = self.base.members.keys().filter_map(|id| self.member(*id));
        known.any(&f) || self.members.values().any(&f)
    }

    /// Members touched by this decision that satisfy `f`.
    pub fn touched(&self, f: impl Fn(&Member) -> bool) -> Vec<NodeId> {
        self.members.values().filter(|m| f(m)).map(|m| m.node).collect()
    }

    pub fn is_touched(&self, node: NodeId) -> bool {
        self.members.contains_key(&node)
    }

    /// Change a member. Every counter that depends on it moves with it.
    pub fn edit(&mut self, node: NodeId, detail: Option<String>, f: impl FnOnce(&mut Member)) {
        if let Some(mut m) = self.member(node).cloned() {
            f(&mut m);
            self.put(m, detail);
        }
    }

    pub fn put(&mut self, new: Member, detail: Option<String>) {
        let old = self.member(new.node).cloned();
        let h = &mut self.head;
        let kind = new.state.kind();
        match &old {
            Some(o) => *h.counts.bucket(o.state.kind()) -= 1,
            None => h.counts.total += 1,
        }
        *h.counts.bucket(kind) += 1;
        let mut move_by = |field: fn(&mut Head) -> &mut u32, was: bool, is: bool| match (was, is) {
            (false, true) => *field(h) += 1,
            (true, false) => *field(h) -= 1,
            (true, true) | (false, false) => {}
        };
        let was = |p: fn(&Member) -> bool| old.as_ref().is_some_and(p);
        move_by(|h| &mut h.online, was(counts_online), counts_online(&new));
        move_by(|h| &mut h.unavailable, was(is_unavailable), is_unavailable(&new));
        move_by(|h| &mut h.failures, was(counts_failed), counts_failed(&new));
        move_by(|h| &mut h.restoring, was(is_restoring), is_restoring(&new));
        move_by(|h| &mut h.unweighed, was(shift::is_unweighed), shift::is_unweighed(&new));
        move_by(|h| &mut h.budget.updating, was(is_updating), is_updating(&new));
        let lane = |m: &Member| m.step.is_none() && m.state.in_flight();
        move_by(|h| &mut h.lane_open, was(lane), lane(&new));
        if let Some(o) = &old {
            let open_before = o.step.filter(|_| !o.state.settled());
            let open_after = new.step.filter(|_| !new.state.settled());
            if open_before != open_after {
                if let Some(k) = open_before {
                    self.edit_step(k, |s| s.open -= 1);
                }
                if let Some(k) = open_after {
                    self.edit_step(k, |s| s.open += 1);
                }
            }
            if o.state.kind() != kind {
                self.facts.push(Fact::NodeMoved { node: new.node, from: o.state.kind(), to: kind, detail });
            }
        }
        self.members.insert(new.node, new);
    }

    /// Tell `node` to run the rollout's bundle: a new generation, a new attempt.
    pub fn assign(&mut self, node: NodeId) {
        let Some(m) = self.member(node) else { return };
        let (expect, weight) = (m.generation, self.weight_of(m));
        let bundle = Some(self.spec().bundle);
        self.changes.push(Change::Desire { node, expect, generation: expect + 1, bundle, weight });
        self.notify.push(node);
        self.assigned += 1;
        let moved = self.clock();
        self.edit(node, None, |m| {
            m.weight = weight;
            m.weighed = true;
            m.generation = expect + 1;
            m.attempt += 1;
            m.state = NodeState::Assigned;
            m.told = Told::Target;
            m.handed_over = false;
            m.accepted = false;
            m.moved = moved;
        });
    }

    /// Tell a node that runs the bundle to serve another share: a new generation of the same bundle. `waits`: for its answer.
    pub fn reweigh(&mut self, node: NodeId, weight: u8, waits: bool) {
        let Some(m) = self.member(node) else { return };
        let (expect, bundle) = (m.generation, Some(self.spec().bundle));
        self.changes.push(Change::Desire { node, expect, generation: expect + 1, bundle, weight });
        self.notify.push(node);
        self.assigned += 1;
        let moved = self.clock();
        self.edit(node, None, |m| {
            m.generation = expect + 1;
            m.weight = weight;
            m.weighed = !waits;
            m.moved = moved;
        });
    }

    /// Tell `node` to go back to `to` (or its baseline). The caller decides what state it is in then.
    pub fn send_back(
        &mut self,
        node: NodeId,
        to: Option<BundleId>,
        detail: Option<String>,
        f: impl FnOnce(&mut Member),
    ) {
        let Some(m) = self.member(node) else { return };
        let expect = m.generation;
        let weight = FULL_WEIGHT;
        self.changes.push(Change::Desire { node, expect, generation: expect + 1, bundle: to, weight });
        self.notify.push(node);
        self.edit(node, detail, |m| {
            m.weight = weight;
            m.weighed = true;
            m.generation = expect + 1;
            m.told = Told::Back(to);
            m.handed_over = false;
            f(m);
        });
    }

    /// The bundle the node goes back to: its newest previous one that is not revoked.
    pub fn back_target(&self, node: NodeId, revoked: &BTreeSet<BundleId>) -> Option<BundleId> {
        self.member(node).and_then(|m| m.previous.iter().copied().find(|b| !revoked.contains(b)))
    }

    pub fn pause(&mut self, cause: PauseCause, note: Option<String>) {
        if self.head.causes.insert(cause) {
            self.head.note = note.clone();
            self.facts.push(Fact::Paused { cause, note });
        }
        self.head.phase = Phase::Paused;
        self.tick();
    }

    /// May new assignments be made?
    pub fn is_free(&self) -> bool {
        let goes_on = self.head.phase == Phase::Running && self.head.asked.is_none();
        goes_on && self.head.causes.is_empty() && self.head.waits.is_empty()
    }

    /// May the lane of a completed rollout go on? Freezes hold only who serves already.
    pub fn lane_works_after(&self) -> bool {
        let h = &self.head;
        h.phase == Phase::Completed && !h.lane_halted && !h.revoked && h.waits.is_empty()
    }

    /// The clock of deadlines runs only while the rollout does, and nothing outside holds it up.
    pub fn tick(&mut self) {
        let on = self.is_free() || (self.head.phase == Phase::Completed && self.head.waits.is_empty());
        self.head.clock.set_ticking(on, self.now);
    }

    /// How long a silence waits for company before it is judged: the presence rule needs to see how many went silent together.
    /// A fleet too small for the rule need not wait.
    pub fn silence_grace(&self) -> Span {
        let base = &self.base.index.dark;
        let mut dark = base.len();
        for m in self.members.values() {
            let before = self.base.members.get(&m.node).is_some_and(|o| dark_since(o).is_some());
            dark += usize::from(dark_since(m).is_some());
            dark -= usize::from(before);
        }
        let ever_online = self.head.online as usize + dark;
        if ever_online <= PRESENCE_LEAST as usize { Span::ZERO } else { Span(self.spec().stale_after.0 / 3) }
    }

    pub fn finish(mut self) -> Decision {
        self.tick();
        self.head.wake_at = self.wake_at();
        let mut changes = self.changes;
        let rows_changed = !self.members.is_empty() || !self.steps.is_empty();
        let head_changed = self.head != self.base.head;
        if rows_changed || head_changed || !changes.is_empty() || !self.facts.is_empty() {
            self.head.version = self.base.head.version + 1;
            let mut all = vec![Change::Head { head: self.head }];
            all.extend(self.steps.into_values().map(|step| Change::Step { step }));
            all.extend(self.members.into_values().map(|member| Change::Member { member }));
            all.append(&mut changes);
            changes = all;
        }
        let mut effects = Vec::new();
        if !self.notify.is_empty() {
            effects.push(Effect::Notify { nodes: self.notify });
        }
        if self.more {
            effects.push(Effect::Continue);
        }
        if !self.fetch.is_empty() {
            effects.push(Effect::FetchFacts { nodes: self.fetch.into_iter().collect() });
        }
        Decision { changes, facts: self.facts, effects }
    }

    /// The earliest moment at which time alone changes something.
    fn wake_at(&self) -> Option<Timestamp> {
        let mut at: Option<Timestamp> = None;
        let mut offer = |t: Timestamp| at = Some(at.map_or(t, |a| a.min(t)));
        if self.head.phase.is_active() || self.head.phase == Phase::Completed {
            if let Some(since) = self.head.clock.ticking_since {
                let elapsed = self.head.clock.elapsed;
                let first = self.base.index.deadlines.iter().find(|(_, n)| !self.is_touched(*n)).map(|(d, _)| *d);
                let touched = self.members.values().filter_map(|m| deadline_of(self.spec(), m)).min();
                let analysis = self.analysis_deadline().filter(|_| self.head.phase == Phase::Running);
                let shift = self.shift_deadline().filter(|_| self.head.phase == Phase::Running);
                if let Some(d) = [first, touched, analysis, shift].into_iter().flatten().min() {
                    // Says the same at any `now`: an overdue timer must not make every late report a change.
                    offer(since + (d - elapsed));
                }
            }
            if !self.head.causes.contains(&PauseCause::Presence) && self.head.phase != Phase::RollingBack {
                let grace = self.silence_grace();
                let first = self.base.index.silent.iter().find(|(_, n)| !self.is_touched(*n)).map(|(t, _)| *t);
                let touched = self.members.values().filter_map(silent_since).min();
                if let Some(t) = [first, touched].into_iter().flatten().min() {
                    offer(t + grace);
                }
            }
        }
        if let Some(t) = self.asked_until() {
            offer(t);
        }
        if self.head.phase == Phase::RollingBack
            && let Some(since) = self.head.rollback_since
        {
            offer(since + self.spec().rollback_deadline);
        }
        if self.head.phase == Phase::Pending
            && let Some(t) = self.spec().scheduled_at
        {
            offer(t);
        }
        at
    }
}

/// The presence rule looks at more than this many silent nodes, or this share of the online targets, whichever is more.
pub(super) const PRESENCE_LEAST: u32 = 5;
pub(super) const PRESENCE_PERCENT: u32 = 20;
