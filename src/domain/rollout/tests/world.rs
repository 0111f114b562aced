//! One rollout, its tables and its nodes. Every event goes through the same door as in production - decide, commit, apply -
//! and every invariant is checked behind each.

use super::check;
use super::db::{Conflict, Db, Debt, Row, bundle, id};
use crate::id::*;
use crate::node::{GateVerdict, GateWindow, Generation, HealthClass};
use crate::project::Amount;
use crate::rollout::*;
use crate::time::{Span, Timestamp};

pub const TARGET: u32 = 1;
pub const OLD: u32 = 2;
pub const OLDER: u32 = 3;

pub fn target() -> BundleId {
    bundle(TARGET)
}
pub fn old() -> BundleId {
    bundle(OLD)
}

/// The defaults of the contract: rolling, one by one, nothing tolerated, no soak.
pub fn spec() -> Spec {
    Spec::new(target())
}
pub fn in_batches(n: u32) -> Spec {
    Spec { batch_size: Amount::Count(n), ..spec() }
}
pub fn at_once() -> Spec {
    Spec { strategy: StrategyKind::AllAtOnce, ..spec() }
}
/// Weights 50 and 100, moved on by a person.
pub fn blue_green() -> Spec {
    let blue_green = BlueGreen { traffic_steps: vec![50, 100], ..BlueGreen::default() };
    Spec { strategy: StrategyKind::BlueGreen, blue_green, ..spec() }
}
/// Half of them first, compared over 100 requests.
pub fn canary() -> Spec {
    let canary = Canary { steps: vec![25, 50], min_samples: 100, ..Canary::default() };
    Spec { strategy: StrategyKind::Canary, canary, ..spec() }
}
/// Judged by its error rate, and taken back by itself.
pub fn gated(spec: Spec) -> Spec {
    let gates = HealthGates { max_error_rate: Some(5.0), ..HealthGates::default() };
    Spec { on_failure: OnFailure::Rollback, judge: GateSpec { gates, ..spec.judge.clone() }, ..spec }
}
pub fn tolerating(spec: Spec, n: u32) -> Spec {
    Spec { failure_threshold: Amount::Count(n), ..spec }
}

#[derive(Clone, Debug)]
pub struct World {
    pub r: Rollout,
    pub db: Db,
    pub now: Timestamp,
    /// The rows before the first event, and every event since: what a replay needs.
    pub first: Origin,
    pub log: Vec<LoggedEvent>,
    /// Every fact so far.
    pub facts: Vec<Fact>,
    /// Answer `Continue` and `FetchFacts` as the shell does; off: the wake-ups are lost.
    pub wakes: bool,
}

impl World {
    /// `rows` are nodes 1, 2, 3 and so on.
    pub fn new(spec: Spec, rows: Vec<Row>) -> World {
        let db =
            Db { rows: rows.into_iter().enumerate().map(|(i, r)| (id(i as u32 + 1), r)).collect(), ..Db::default() };
        let candidates: Vec<Candidate> = db
            .rows
            .keys()
            .map(|n| Candidate { facts: db.facts(*n), name: n.to_string(), spread: None, first: false })
            .collect();
        let first = originate(RolloutId::NIL, ProjectId::NIL, spec, &candidates);
        let r = Rollout::load(first.clone().planned());
        World { r, db, now: Timestamp(1_000_000_000), first, log: Vec::new(), facts: Vec::new(), wakes: true }
    }

    /// `n` healthy nodes on the old bundle, and the rollout not yet started.
    pub fn pending(spec: Spec, n: u32) -> World {
        World::new(spec, (0..n).map(|_| Row::on(Some(old()))).collect())
    }
    /// The same, started.
    pub fn started(spec: Spec, n: u32) -> World {
        World::pending(spec, n).start()
    }
    pub fn start(mut self) -> World {
        self.feed(self.start_event());
        self
    }
    pub fn start_event(&self) -> Event {
        Event::Start { facts: self.db.rows.keys().map(|n| self.db.facts(*n)).collect() }
    }

    /// Decide, store, apply; then the wake-ups. Any broken rule is an error.
    pub fn try_feed(&mut self, event: Event) -> Result<Result<Decision, Rejection>, String> {
        // What a second owner would read from the log must be what the first one saw.
        let text = serde_json::to_string(&event).unwrap();
        let event: Event = serde_json::from_str(&text).unwrap();
        let d = match decide(&self.r, &event, self.now) {
            Ok(d) => d,
            Err(refused) => return Ok(Err(refused)),
        };
        let before = self.r.clone();
        if let Event::BundleRevoked { revoked } = &event {
            self.db.revoked.extend(revoked.iter().copied());
        }
        let mut db = self.db.clone();
        match db.commit(&d) {
            Ok(()) => self.db = db,
            // The one conflict that is an answer: somebody else holds a node that this command needs.
            Err(Conflict::HeldByAnother { .. }) => {
                let (phase, command) = (self.r.head.phase, event.name());
                return Ok(Err(Rejection::NotAllowed {
                    phase,
                    command,
                    allowed: Vec::new(),
                    why: Some("held".into()),
                }));
            }
            Err(conflict) => return Err(format!("invariant 4: {}: {conflict:?}", event.name())),
        }
        apply_all(&mut self.r, &d);
        self.log.push(LoggedEvent {
            seq: self.log.len() as u64 + 1,
            at: self.now,
            engine_version: ENGINE_VERSION,
            event: event.clone(),
            decision_hash: d.hash(),
        });
        if matches!(event, Event::Retry { .. } | Event::Resume { retry: true, .. }) {
            forgive(&before, &self.r, &mut self.db);
        }
        check::step(&before, &event, self.now, &d, &self.r, &self.db)
            .and_then(|()| check::state(&self.r, &self.db))
            .map_err(|e| format!("after {}: {e}", event.name()))?;
        self.facts.extend(d.facts.iter().cloned());
        if self.wakes {
            self.answer(&d)?;
        }
        Ok(Ok(d))
    }

    fn answer(&mut self, d: &Decision) -> Result<(), String> {
        for effect in &d.effects {
            match effect {
                Effect::Notify { .. } => {}
                Effect::Continue => {
                    let _ = self.try_feed(Event::Timer)?;
                }
                Effect::FetchFacts { nodes } => {
                    let facts: Vec<Facts> = nodes
                        .iter()
                        .filter(|n| self.db.row(**n).holder != super::db::Holder::Another)
                        .map(|n| self.db.facts(*n))
                        .collect();
                    if !facts.is_empty() {
                        let _ = self.try_feed(Event::LaneReady { facts })?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The event must be accepted.
    pub fn feed(&mut self, event: Event) -> Decision {
        match self.try_feed(event).unwrap() {
            Ok(d) => d,
            Err(refused) => panic!("refused: {refused:?}"),
        }
    }
    /// The event must be refused.
    pub fn refused(&mut self, event: Event) -> Rejection {
        let before = self.r.clone();
        let refusal = self.try_feed(event).unwrap().expect_err("a refusal");
        assert_eq!(before, self.r);
        refusal
    }
    /// The event must change nothing at all.
    pub fn ignored(&mut self, event: Event) {
        let d = self.feed(event);
        assert!(d.is_empty(), "{d:#?}");
    }

    // What nodes do.

    /// The node asks, and is told what it shall run.
    pub fn poll(&mut self, n: u32) {
        let row = self.db.row_mut(id(n));
        assert!(row.online);
        row.handed_over = row.generation;
    }
    pub fn said(&self, n: u32, said: Said) -> Event {
        let generation = Some(self.generation(n));
        Event::Reports { reports: vec![Report { node: id(n), generation, said }] }
    }
    /// It is told, runs it, and reports so.
    pub fn activates(&mut self, n: u32) -> Decision {
        self.poll(n);
        let row = self.db.row_mut(id(n));
        row.running = row.desired;
        let bundle = row.desired;
        self.feed(self.said(n, Said::Activated { bundle }))
    }
    pub fn fails(&mut self, n: u32) -> Decision {
        self.poll(n);
        let bundle = self.db.row(id(n)).desired;
        self.feed(self.said(n, Said::Failed { bundle, error: "it broke\nat line 3".into() }))
    }
    /// A window of gates over good evidence: after activation, fresh, for the whole soak.
    pub fn window(&self, n: u32, verdict: GateVerdict) -> GateWindow {
        GateWindow {
            node: id(n),
            generation: self.generation(n),
            verdict,
            first_pass: (verdict == GateVerdict::Pass).then_some(self.now),
            last_fresh: self.now,
            worst: "max_error_rate: 50 against 1".into(),
            n: 2,
            soaked: self.r.spec.judge.soak,
            no_traffic: false,
        }
    }
    pub fn gate(&mut self, n: u32, verdict: GateVerdict) -> Decision {
        self.tick(1);
        self.feed(Event::Gates { windows: vec![self.window(n, verdict)] })
    }
    pub fn passes(&mut self, n: u32) -> Decision {
        self.gate(n, GateVerdict::Pass)
    }
    /// All the way: told, activated, judged.
    pub fn verifies(&mut self, n: u32) -> Decision {
        self.activates(n);
        self.passes(n)
    }
    pub fn all_verify(&mut self, nodes: impl IntoIterator<Item = u32>) {
        nodes.into_iter().for_each(|n| drop(self.verifies(n)));
    }
    pub fn presence(&mut self, n: u32, online: bool) -> PresenceChange {
        let row = self.db.row_mut(id(n));
        row.online = online;
        PresenceChange { node: id(n), online, handed_over: row.handed_over, busy: row.busy }
    }
    /// Its heartbeats say so, or say so no more.
    pub fn says_busy(&mut self, n: u32, busy: bool) -> Decision {
        self.db.row_mut(id(n)).busy = busy;
        let change = self.presence(n, true);
        self.feed(Event::Presence { changes: vec![change] })
    }
    pub fn goes_silent(&mut self, n: u32) -> Decision {
        let change = self.presence(n, false);
        self.feed(Event::Presence { changes: vec![change] })
    }
    pub fn returns(&mut self, n: u32) -> Decision {
        let change = self.presence(n, true);
        self.feed(Event::Presence { changes: vec![change] })
    }
    pub fn health(&mut self, n: u32, class: HealthClass) -> Decision {
        self.db.row_mut(id(n)).health = class;
        self.feed(self.said(n, Said::Health { class }))
    }

    /// The node polls, and says which share it serves now.
    pub fn weighs(&mut self, n: u32) -> Decision {
        self.poll(n);
        let weight = self.db.row(id(n)).weight;
        self.feed(self.said(n, Said::Weight { weight }))
    }
    /// What everyone whose traffic is compared served: each so many requests, and so many errors of those on the new bundle.
    pub fn readings(&self, requests: u64, errors: u64) -> Event {
        readings(&self.r, requests, errors)
    }
    pub fn serve(&mut self, requests: u64, errors: u64) -> Decision {
        self.feed(self.readings(requests, errors))
    }

    // What time does.

    /// Time passes, and the timers are late.
    pub fn tick(&mut self, seconds: i64) {
        self.now = self.now + Span::secs(seconds);
    }
    /// Time passes, and every timer fires when it is due.
    pub fn pass_time(&mut self, seconds: i64) {
        let end = self.now + Span::secs(seconds);
        while let Some(due) = self.r.head.wake_at.filter(|t| *t <= end && self.r.head.phase != Phase::Pending) {
            self.now = self.now.max(due);
            let d = self.feed(Event::Timer);
            assert!(
                !d.changes.is_empty() || self.r.head.wake_at != Some(due),
                "a timer that says nothing fires for ever"
            );
        }
        self.now = end;
    }

    // What operators do.

    pub fn pause(&mut self) -> Decision {
        self.feed(Event::Pause { note: None })
    }
    pub fn resume(&mut self) -> Decision {
        self.feed(Event::Resume { retry: false, accept_failed: false })
    }
    pub fn accept(&mut self) -> Decision {
        self.feed(Event::Resume { retry: false, accept_failed: true })
    }
    pub fn retry(&mut self) -> Decision {
        self.feed(Event::Retry { nodes: None })
    }
    pub fn cancel(&mut self) -> Decision {
        self.feed(Event::Cancel { note: None })
    }
    pub fn rollback(&mut self) -> Decision {
        self.feed(rollback_event(&self.gone()))
    }
    /// Members whose desired generation no longer comes from this rollout, as the shell reads them.
    pub fn gone(&self) -> Vec<NodeId> {
        let moved = |m: &&Member| m.told == Told::Target && self.db.row(m.node).generation != m.generation;
        self.r.members.values().filter(moved).map(|m| m.node).collect()
    }
    /// Another rollout took the node, gave it a bundle of its own and is done.
    pub fn moved_elsewhere(&mut self, n: u32) {
        let row = self.db.row_mut(id(n));
        assert_eq!(row.holder, super::db::Holder::Nobody);
        row.generation += 1;
        row.desired = Some(bundle(9));
        row.desired_by_us = false;
        row.debt = row.debt.map(|d| Debt { ours: false, ..d });
    }

    // What is.

    pub fn generation(&self, n: u32) -> Generation {
        self.db.row(id(n)).generation
    }
    pub fn member(&self, n: u32) -> &Member {
        &self.r.members[&id(n)]
    }
    pub fn kind(&self, n: u32) -> NodeStateKind {
        self.member(n).state.kind()
    }
    pub fn phase(&self) -> Phase {
        self.r.head.phase
    }
    pub fn reason(&self) -> &'static str {
        explain(&self.r).code
    }
    pub fn causes(&self) -> Vec<PauseCause> {
        self.r.head.causes.iter().copied().collect()
    }
    pub fn desired(&self, n: u32) -> Option<BundleId> {
        self.db.row(id(n)).desired
    }
    /// The nodes that are on their way, in order.
    pub fn on_their_way(&self) -> Vec<u32> {
        (1..=self.r.members.len() as u32).filter(|n| self.member(*n).state.in_flight()).collect()
    }
    pub fn failed(&self, n: u32) -> Option<FailReason> {
        match self.member(n).state {
            NodeState::Failed { reason, .. } => Some(reason),
            _ => None,
        }
    }
    pub fn skipped(&self, n: u32) -> Option<SkipReason> {
        match self.member(n).state {
            NodeState::Skipped { reason } => Some(reason),
            _ => None,
        }
    }
    pub fn count_facts(&self, is: impl Fn(&Fact) -> bool) -> usize {
        self.facts.iter().filter(|f| is(f)).count()
    }

    /// Everything again from the first row, as another machine would.
    pub fn replay(&self) -> Result<(), String> {
        // Through the text of the export, as another machine would read it.
        let origin: Origin = serde_json::from_str(&serde_json::to_string(&self.first).unwrap()).unwrap();
        let again = |line: &LoggedEvent| serde_json::from_str(&serde_json::to_string(line).unwrap()).unwrap();
        let done = replay(origin, self.log.iter().map(again)).map_err(|e| e.to_string())?;
        if done.rollout == self.r { Ok(()) } else { Err("the replay ends elsewhere".into()) }
    }
}

pub fn readings(r: &Rollout, requests: u64, errors: u64) -> Event {
    let of = |node: &crate::NodeId| {
        let m = &r.members[node];
        let errors = if m.told == Told::Target { errors } else { 0 };
        analysis::Reading { node: *node, generation: m.generation, requests, errors, p99_us: Some(1_000) }
    };
    Event::Readings { readings: compared(r).iter().map(of).collect() }
}

/// Who failed and was asked for again may be assigned again.
pub fn forgive(before: &Rollout, after: &Rollout, db: &mut Db) {
    for (node, m) in &after.members {
        let failed = before.members.get(node).is_some_and(|o| matches!(o.state, NodeState::Failed { .. }));
        if failed && !matches!(m.state, NodeState::Failed { .. }) {
            db.row_mut(*node).failed = false;
        }
    }
}

pub fn rollback_event(gone: &[NodeId]) -> Event {
    Event::Rollback { note: None, nodes: None, revoked: Default::default(), gone: gone.iter().copied().collect() }
}
