//! Random fleets, random specifications, random events in any order: what must always hold is checked behind every decision
//! (see `check`), and at the end the replay, and that time alone brings every rollout to rest.

use super::db::{Holder, Row, bundle, id};
use super::world::*;
use crate::node::{GateVerdict, GateWindow, HealthClass};
use crate::project::Amount;
use crate::rollout::*;
use crate::time::Span;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRng, TestRunner};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// One more than there may be nodes, so that some events are of foreigners.
const NODES: u32 = 13;

#[derive(Clone, Debug)]
enum Op {
    Activate(u32),
    Pass(u32),
    /// Everyone who is on the way and here goes all the way.
    AllVerify,
    Downloaded(u32, bool),
    Fail(u32),
    /// It says that it runs what it ran before.
    FallsBack(u32),
    Judged(u32, u8),
    /// Any report, of any generation, about any bundle.
    Odd {
        n: u32,
        said: u8,
        generation: u8,
        bundle: u32,
    },
    /// Any window, on any evidence.
    OddGate {
        n: u32,
        verdict: u8,
        generation: u8,
        evidence: u8,
    },
    Silent(Vec<u32>),
    Return(Vec<u32>),
    /// Those that are here say "not now", or say so no more.
    Busy(Vec<u32>, bool),
    Health(u32, u8),
    /// Requests served by everyone who is compared, and errors of the new bundle.
    Served(u64, u64),
    /// Of those that are asked before a rollback so many fail, and of so many it is not known.
    Untouched(u32, u32),
    /// Timers fire when they are due.
    Wait(i64),
    /// Timers are late.
    Late(i64),
    Timer,
    Start,
    Pause,
    PauseAndResume,
    Resume {
        retry: bool,
        accept: bool,
    },
    Retry(Option<u32>),
    /// By one weight, or all at once.
    Shift(bool),
    /// One that was told another weight takes it.
    Weigh(u32),
    Cancel,
    Rollback(Option<u32>),
    Freeze(bool),
    Blocked(bool),
    /// The project's budget.
    Granted(Option<u32>),
    Revoke(u32),
    Removed(u32, u8),
    Joined(bool, bool),
    DebtsDropped(u32),
    Elsewhere(u32),
    HeldByAnother(u32, bool),
    ControllerFailed,
    Restart(i64),
    WakesAreLost(bool),
}

fn node() -> impl Strategy<Value = u32> {
    1..=NODES
}
fn nodes() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(node(), 1..9)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => node().prop_map(Op::Activate),
        14 => node().prop_map(Op::Pass),
        3 => node().prop_map(Op::Fail),
        6 => (node(), 0..4u8).prop_map(|(n, v)| Op::Judged(n, v)),
        2 => node().prop_map(Op::FallsBack),
        3 => Just(Op::AllVerify),
        3 => (node(), any::<bool>()).prop_map(|(n, staged)| Op::Downloaded(n, staged)),
        6 => (node(), 0..7u8, 0..4u8, 1..5u32)
            .prop_map(|(n, said, generation, bundle)| Op::Odd { n, said, generation, bundle }),
        4 => (node(), 0..4u8, 0..3u8, 0..5u8)
            .prop_map(|(n, verdict, generation, evidence)| Op::OddGate { n, verdict, generation, evidence }),
        4 => nodes().prop_map(Op::Silent),
        5 => nodes().prop_map(Op::Return),
        4 => (nodes(), any::<bool>()).prop_map(|(nodes, busy)| Op::Busy(nodes, busy)),
        6 => (node(), 0..4u8).prop_map(|(n, c)| Op::Health(n, c)),
        6 => (0..130u64, prop_oneof![2 => Just(0u64), 1 => 1..60u64]).prop_map(|(n, x)| Op::Served(n, x)),
        4 => (0..6u32, 0..4u32).prop_map(|(failing, unknown)| Op::Untouched(failing, unknown)),
        4 => (1..200i64).prop_map(Op::Wait),
        2 => (1..400i64).prop_map(Op::Late),
        2 => Just(Op::Timer),
        1 => Just(Op::Start),
        2 => Just(Op::Pause),
        2 => Just(Op::PauseAndResume),
        6 => (any::<bool>(), any::<bool>()).prop_map(|(retry, accept)| Op::Resume { retry, accept }),
        3 => prop::option::of(node()).prop_map(Op::Retry),
        3 => any::<bool>().prop_map(Op::Shift),
        6 => node().prop_map(Op::Weigh),
        1 => Just(Op::Cancel),
        2 => prop::option::weighted(0.2, node()).prop_map(Op::Rollback),
        2 => any::<bool>().prop_map(Op::Freeze),
        2 => any::<bool>().prop_map(Op::Blocked),
        2 => prop::option::weighted(0.5, 0..4u32).prop_map(Op::Granted),
        1 => (1..4u32).prop_map(Op::Revoke),
        2 => (node(), 0..6u8).prop_map(|(n, r)| Op::Removed(n, r)),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(online, first)| Op::Joined(online, first)),
        1 => node().prop_map(Op::DebtsDropped),
        2 => node().prop_map(Op::Elsewhere),
        2 => (node(), any::<bool>()).prop_map(|(n, held)| Op::HeldByAnother(n, held)),
        1 => Just(Op::ControllerFailed),
        2 => (0..500i64).prop_map(Op::Restart),
        1 => any::<bool>().prop_map(Op::WakesAreLost),
    ]
}

fn amount(max: u32) -> impl Strategy<Value = Amount> {
    prop_oneof![(1..=max).prop_map(Amount::Count), (1..=100u8).prop_map(Amount::Percent)]
}

fn any_spec() -> impl Strategy<Value = Spec> {
    let strategy = prop_oneof![
        3 => Just(StrategyKind::Rolling),
        2 => Just(StrategyKind::Canary),
        1 => Just(StrategyKind::AllAtOnce),
        2 => Just(StrategyKind::BlueGreen),
    ];
    let on_failure = prop_oneof![Just(OnFailure::Pause), Just(OnFailure::Fail), Just(OnFailure::Rollback)];
    let tolerated = prop_oneof![3 => Just(Amount::Count(0)), 2 => amount(4)];
    let soak = prop_oneof![Just(0), Just(30)];
    let traffic = (any::<bool>(), prop_oneof![Just(0), Just(40)], any::<bool>(), any::<bool>());
    (strategy, amount(4), prop::option::of(amount(3)), tolerated, on_failure, soak, traffic).prop_map(
        |(
            strategy,
            batch_size,
            max_unavailable,
            failure_threshold,
            on_failure,
            soak,
            (auto_advance, delay, restarts, measures),
        )| Spec {
            strategy,
            batch_size,
            max_unavailable,
            failure_threshold,
            on_failure,
            restarts,
            judge: GateSpec {
                soak: Span::secs(soak),
                gates: HealthGates { max_error_rate: measures.then_some(5.0), ..HealthGates::default() },
                ..GateSpec::default()
            },
            canary: canary().canary,
            blue_green: BlueGreen { auto_advance, advance_delay: Span::secs(delay), ..BlueGreen::default() },
            ..spec()
        },
    )
}

fn any_row() -> impl Strategy<Value = Row> {
    let running = prop_oneof![
        1 => Just(None),
        4 => Just(Some(bundle(OLD))),
        2 => Just(Some(bundle(OLDER))),
    ];
    (running, prop::bool::weighted(0.8), 0..8u8, prop::bool::weighted(0.05)).prop_map(
        |(running, online, ill, pinned)| {
            let row = Row::on(running);
            let more = running.filter(|b| *b == bundle(OLD)).map(|_| bundle(OLDER));
            Row {
                online,
                health: if ill == 0 { HealthClass::Unhealthy } else { HealthClass::Healthy },
                skip: pinned.then_some(SkipReason::Pinned),
                previous: row.previous.iter().copied().chain(more).collect(),
                ..row
            }
        },
    )
}

impl World {
    fn apply_op(&mut self, op: &Op) -> Result<(), String> {
        self.tick(1);
        match op {
            Op::Activate(n) => {
                if let Some(said) = self.told(*n) {
                    let bundle = self.db.row(id(*n)).desired;
                    self.db.row_mut(id(*n)).running = bundle;
                    self.try_feed(said.report(Said::Activated { bundle }))?.ok();
                }
            }
            Op::Fail(n) => {
                if let Some(said) = self.told(*n) {
                    let bundle = self.db.row(id(*n)).desired;
                    self.try_feed(said.report(Said::Failed { bundle, error: "broke".into() }))?.ok();
                }
            }
            Op::Pass(n) => self.judged(self.soaking(*n), GateVerdict::Pass)?,
            Op::Judged(n, verdict) => self.judged(self.soaking(*n), GateVerdict::ALL[usize::from(*verdict)])?,
            Op::FallsBack(n) => {
                let n = self.soaking(*n);
                if let Some(said) = self.told(n) {
                    let row = self.db.row_mut(id(n));
                    row.running = row.previous.first().copied();
                    let bundle = row.running;
                    self.try_feed(said.report(Said::Active { bundle }))?.ok();
                }
            }
            Op::AllVerify => {
                let on_their_way = self
                    .r
                    .members
                    .values()
                    .filter(|m| !m.state.settled() || m.state.kind() == NodeStateKind::RollingBack);
                let nodes: Vec<u32> = on_their_way.map(|m| m.node.0.as_u128() as u32).collect();
                for n in nodes {
                    self.apply_op(&Op::Activate(n))?;
                    self.apply_op(&Op::Pass(n))?;
                }
            }
            Op::Downloaded(n, staged) => {
                if let Some(said) = self.told(*n) {
                    let bundle = self.db.row(id(*n)).desired;
                    let what = if *staged { Said::Staged { bundle } } else { Said::Downloaded { bundle } };
                    self.try_feed(said.report(what))?.ok();
                }
            }
            Op::Odd { n, said, generation, bundle: b } => self.odd(*n, *said, *generation, *b)?,
            Op::OddGate { n, verdict, generation, evidence } => self.odd_gate(*n, *verdict, *generation, *evidence)?,
            Op::Silent(nodes) => self.presences(nodes, false)?,
            Op::Return(nodes) => self.presences(nodes, true)?,
            Op::Busy(nodes, busy) => {
                let here = |n: &&u32| self.db.rows.get(&id(**n)).is_some_and(|r| r.online);
                let here: Vec<u32> = nodes.iter().filter(here).copied().collect();
                here.iter().for_each(|n| self.db.row_mut(id(*n)).busy = *busy);
                self.presences(&here, true)?;
            }
            Op::Health(n, class) => {
                let class = HealthClass::ALL[usize::from(*class)];
                if let Some(row) = self.db.rows.get_mut(&id(*n)).filter(|r| r.online) {
                    row.health = class;
                    self.try_feed(self.said(*n, Said::Health { class }))?.ok();
                }
            }
            Op::Served(n, errors) => drop(self.try_feed(self.readings(*n, *errors))?),
            Op::Untouched(failing, unknown) => {
                let of = asked(&self.r).map_or(0, |nodes| nodes.len() as u32);
                let failing = (*failing).min(of);
                let unknown = (*unknown).min(of - failing);
                drop(self.try_feed(Event::Untouched { of, failing, unknown })?)
            }
            Op::Wait(s) => self.let_time_pass(Span::secs(*s))?,
            Op::Late(s) => self.tick(*s),
            Op::Timer => drop(self.try_feed(Event::Timer)?),
            Op::Start => drop(self.try_feed(self.start_event())?),
            Op::Pause => drop(self.try_feed(Event::Pause { note: Some("wait".into()) })?),
            Op::PauseAndResume => self.pause_and_resume()?,
            Op::Resume { retry, accept } => {
                drop(self.try_feed(Event::Resume { retry: *retry, accept_failed: *accept })?)
            }
            Op::Retry(n) => {
                if self.phase().is_end() {
                    let held = |n: &crate::NodeId| self.db.row(*n).holder == Holder::Another;
                    let skip =
                        |f: Facts| if held(&f.node) { Facts { skip: Some(SkipReason::Superseded), ..f } } else { f };
                    let facts = self.r.members.keys().map(|n| skip(self.db.facts(*n))).collect();
                    self.try_feed(Event::LaneReady { facts })?.ok();
                }
                let nodes = n.map(|n| [id(n)].into());
                self.try_feed(Event::Retry { nodes })?.ok();
            }
            Op::Shift(all) => {
                drop(self.try_feed(if *all { Event::SwapSlot } else { Event::AdvanceTraffic })?);
            }
            Op::Weigh(n) => {
                let waiting: Vec<u32> = self.waiting_for_weight();
                let n = if waiting.is_empty() { *n } else { waiting[*n as usize % waiting.len()] };
                if let Some(said) = self.told(n) {
                    let weight = self.db.row(id(n)).weight;
                    self.try_feed(said.report(Said::Weight { weight }))?.ok();
                }
            }
            Op::Cancel => drop(self.try_feed(Event::Cancel { note: None })?),
            Op::Rollback(n) => {
                let (nodes, gone) = (n.map(|n| [id(n)].into()), self.gone().into_iter().collect());
                let revoked = self.db.revoked.clone();
                self.try_feed(Event::Rollback { note: None, nodes, revoked, gone })?.ok();
            }
            Op::Freeze(true) => drop(self.try_feed(Event::FreezeBegan)?),
            Op::Freeze(false) => drop(self.try_feed(Event::FreezeEnded)?),
            Op::Blocked(true) => drop(self.try_feed(Event::WaitBegan { wait: Wait::Artifact })?),
            Op::Blocked(false) => drop(self.try_feed(Event::WaitEnded { wait: Wait::Artifact })?),
            Op::Granted(k) => drop(self.try_feed(Event::CapacityGranted { k: *k })?),
            Op::Revoke(b) => drop(self.try_feed(Event::BundleRevoked { revoked: [bundle(*b)].into() })?),
            Op::Removed(n, reason) => {
                const REASONS: [SkipReason; 6] = [
                    SkipReason::Pinned,
                    SkipReason::Deleted,
                    SkipReason::Superseded,
                    SkipReason::Excluded,
                    SkipReason::IdentityConflict,
                    SkipReason::Quarantined,
                ];
                let reason = REASONS[usize::from(*reason)];
                self.try_feed(Event::Removed { nodes: vec![id(*n)], reason })?.ok();
            }
            Op::Joined(online, first) => {
                let n = self.db.rows.len() as u32 + 1;
                let row = Row { online: *online, ..Row::on((!first).then(old)) };
                self.db.rows.insert(id(n), row);
                self.try_feed(Event::Joined { facts: vec![self.db.facts(id(n))] })?.ok();
            }
            Op::DebtsDropped(n) => {
                // Only true when another commit took the debt.
                if self.db.rows.get(&id(*n)).is_some_and(|r| r.debt.is_some_and(|d| !d.ours)) {
                    self.try_feed(Event::DebtsDropped { nodes: vec![id(*n)] })?.ok();
                }
            }
            Op::Elsewhere(n) => {
                if self.db.rows.get(&id(*n)).is_some_and(|r| r.holder == Holder::Nobody) {
                    self.moved_elsewhere(*n);
                }
            }
            Op::HeldByAnother(n, held) => {
                if let Some(row) = self.db.rows.get_mut(&id(*n)).filter(|r| r.holder != Holder::Us) {
                    row.holder = if *held { Holder::Another } else { Holder::Nobody };
                }
            }
            Op::ControllerFailed => drop(self.try_feed(Event::ControllerFailed { note: "gave up".into() })?),
            Op::Restart(down) => {
                self.r = Rollout::load(self.r.rows());
                self.tick(*down);
                self.try_feed(Event::OwnerStarted { down: Span::secs(*down) })?.ok();
            }
            Op::WakesAreLost(lost) => self.wakes = !lost,
        }
        Ok(())
    }

    /// One that waits for its verdict, if there is any: else most verdicts would be about nothing.
    fn soaking(&self, n: u32) -> u32 {
        let waits = |m: &&Member| match &m.state {
            NodeState::Activated { .. } => m.online,
            NodeState::RollingBack { activated, .. } => activated.is_some() || waits_back(m),
            _ => false,
        };
        let waiting: Vec<u32> = self.r.members.values().filter(waits).map(|m| m.node.0.as_u128() as u32).collect();
        if waiting.is_empty() { n } else { waiting[n as usize % waiting.len()] }
    }

    fn waiting_for_weight(&self) -> Vec<u32> {
        self.r.members.values().filter(|m| !m.weighed && m.online).map(|m| m.node.0.as_u128() as u32).collect()
    }

    /// The node polls and is told, unless it is away or the assignment is withheld.
    fn told(&mut self, n: u32) -> Option<Speaker> {
        let paused = self.phase() == Phase::Paused;
        let row = self.db.rows.get_mut(&id(n)).filter(|r| r.online)?;
        if paused && row.handed_over < row.generation {
            return None;
        }
        row.handed_over = row.generation;
        Some(Speaker { node: id(n), generation: Some(row.generation) })
    }

    fn judged(&mut self, n: u32, verdict: GateVerdict) -> Result<(), String> {
        if self.db.rows.get(&id(n)).is_some_and(|r| r.online && r.running == r.desired) {
            let window = self.window(n, verdict);
            self.try_feed(Event::Gates { windows: vec![window] })?.ok();
        }
        Ok(())
    }

    fn odd(&mut self, n: u32, said: u8, generation: u8, b: u32) -> Result<(), String> {
        let b = Some(bundle(b)).filter(|_| b < 4);
        let Some(row) = self.db.rows.get(&id(n)) else {
            let stranger = Report { node: id(n), generation: Some(1), said: Said::Activated { bundle: b } };
            return self.changes_nothing(Event::Reports { reports: vec![stranger] });
        };
        let (current, online) = (row.generation, row.online);
        let generation = match generation {
            0 => None,
            1 => Some(current),
            2 => Some(current.saturating_sub(1)),
            _ => Some(current + 5),
        };
        let said = match said {
            0 => Said::Downloaded { bundle: b },
            1 => Said::Staged { bundle: b },
            2 => Said::Activated { bundle: b },
            3 => Said::Verified { bundle: b },
            4 => Said::Failed { bundle: b, error: "odd".into() },
            _ => Said::Active { bundle: b },
        };
        let event = Event::Reports { reports: vec![Report { node: id(n), generation, said }] };
        // Of what is held here the memory is exact; others' generations it cannot know.
        let held = self.db.row(id(n)).holder == Holder::Us;
        if held && generation.is_some_and(|g| g != current) {
            return self.changes_nothing(event);
        }
        if online && (generation.is_none() || self.told(n).is_some()) {
            // A report without a generation is still proof that it was told.
            let row = self.db.row_mut(id(n));
            row.handed_over = row.generation;
            self.try_feed(event)?.ok();
        }
        Ok(())
    }

    fn odd_gate(&mut self, n: u32, verdict: u8, generation: u8, evidence: u8) -> Result<(), String> {
        if !self.db.rows.contains_key(&id(n)) {
            return Ok(());
        }
        let good = self.window(n, GateVerdict::ALL[usize::from(verdict)]);
        let window = match evidence {
            0 => good,
            1 => GateWindow { first_pass: None, ..good },
            2 => GateWindow { soaked: Span::ZERO, ..good },
            3 => GateWindow { last_fresh: self.now - Span::secs(61), ..good },
            _ => GateWindow { first_pass: Some(self.now - Span::secs(500)), ..good },
        };
        let window = GateWindow { generation: window.generation.saturating_sub(u64::from(generation / 2)), ..window };
        let late = window.generation != self.db.row(id(n)).generation;
        let event = Event::Gates { windows: vec![window] };
        if late && self.db.row(id(n)).holder == Holder::Us {
            return self.changes_nothing(event);
        }
        self.try_feed(event)?.ok();
        Ok(())
    }

    /// Late, foreign: nothing is written and nothing happened. (A wake-up that was lost may be sent again.)
    fn changes_nothing(&mut self, event: Event) -> Result<(), String> {
        let wakes = std::mem::replace(&mut self.wakes, false);
        let answer = self.try_feed(event.clone())?;
        self.wakes = wakes;
        match answer {
            Ok(d) if d.changes.is_empty() && d.facts.is_empty() => Ok(()),
            other => Err(format!("invariant 4: {event:?} should change nothing: {other:#?}")),
        }
    }

    fn presences(&mut self, nodes: &[u32], online: bool) -> Result<(), String> {
        let known: Vec<u32> = nodes.iter().copied().filter(|n| self.db.rows.contains_key(&id(*n))).collect();
        let changes = known.iter().map(|n| self.presence(*n, online)).collect();
        self.try_feed(Event::Presence { changes })?.ok();
        Ok(())
    }

    /// 6. Nothing but clocks differs.
    fn pause_and_resume(&mut self) -> Result<(), String> {
        let due = self.r.head.wake_at.is_some_and(|t| t <= self.now);
        if self.phase() != Phase::Running || due {
            return Ok(());
        }
        let before = self.r.clone();
        for event in [Event::Pause { note: None }, Event::Resume { retry: false, accept_failed: false }] {
            self.try_feed(event)?.map_err(|e| format!("{e:?}"))?;
        }
        let mut after = self.r.clone();
        after.head.clock = before.head.clock;
        after.head.version = before.head.version;
        after.head.wake_at = before.head.wake_at;
        if after == before {
            return Ok(());
        }
        let (before, after) = (format!("{before:#?}"), format!("{after:#?}"));
        let differs = |(b, a): (&str, &str)| (b != a).then(|| format!("{b} -> {a}"));
        Err(format!(
            "invariant 6: pause and resume: {:?}",
            before.lines().zip(after.lines()).filter_map(differs).collect::<Vec<_>>()
        ))
    }

    fn let_time_pass(&mut self, span: Span) -> Result<(), String> {
        let end = self.now + span;
        while let Some(due) = self.next_timer().filter(|t| *t <= end) {
            self.fire(due)?;
        }
        self.now = end;
        Ok(())
    }

    fn next_timer(&self) -> Option<crate::Timestamp> {
        self.r.head.wake_at.filter(|_| self.phase() != Phase::Pending)
    }

    fn fire(&mut self, due: crate::Timestamp) -> Result<(), String> {
        self.now = self.now.max(due);
        self.try_feed(Event::Timer)?.map_err(|e| format!("{e:?}"))?;
        if self.r.head.wake_at == Some(due) {
            Err(format!("invariant 5: the timer of {due:?} fires for ever"))
        } else {
            Ok(())
        }
    }

    /// 5. Reports have stopped; only timers fire.
    fn comes_to_rest(&mut self) -> Result<(), String> {
        self.wakes = true;
        self.let_time_pass(Span::ZERO)?;
        let s = self.r.spec.clone();
        let from = self.now;
        let mut rested = None;
        for _ in 0..1_000 {
            if rested.is_none() && self.rests() {
                rested = Some(self.now);
            }
            let Some(due) = self.next_timer() else { break };
            self.fire(due)?;
        }
        if self.next_timer().is_some() || !self.rests() {
            return Err(format!(
                "invariant 5: it never rests: {} {:?} {:#?}",
                self.phase(),
                explain(&self.r),
                self.r.head
            ));
        }
        let took = rested.unwrap_or(self.now).since(from);
        let one = s.progress_deadline + s.judge.soak + s.stale_after;
        let deadlines = 1 + if s.failure_threshold == Amount::Count(0) { 0 } else { self.r.members.len() };
        let stages = if s.strategy == StrategyKind::BlueGreen { 4 } else { 1 };
        // Where proxies restart, at worst each goes back alone and never gets there.
        let turns = if s.restarts { self.r.members.len().max(1) } else { 1 };
        let limit = Span(one.0 * deadlines as i64 * stages + s.rollback_deadline.0 * turns as i64);
        if took > limit { Err(format!("invariant 5: it came to rest after {took:?}, limit {limit:?}")) } else { Ok(()) }
    }

    /// Ended, paused, or waiting for something that has a name.
    fn rests(&self) -> bool {
        match self.phase() {
            Phase::Pending
            | Phase::Paused
            | Phase::Completed
            | Phase::Failed
            | Phase::Cancelled
            | Phase::RolledBack => true,
            Phase::Running => match self.reason() {
                "step_in_progress" | "catch_up" | "analysis" => false,
                "traffic" => self.r.head.unweighed == 0 && !self.r.spec.blue_green.auto_advance,
                _ => true,
            },
            Phase::RollingBack => false,
        }
    }
}

struct Speaker {
    node: crate::NodeId,
    generation: Option<u64>,
}

impl Speaker {
    fn report(&self, said: Said) -> Event {
        Event::Reports { reports: vec![Report { node: self.node, generation: self.generation, said }] }
    }
}

/// What was ever reached, by name.
type Seen = RefCell<BTreeSet<String>>;

fn run(spec: Spec, rows: Vec<Row>, before: usize, ops: &[Op], seen: &Seen) -> Result<(), String> {
    let mut w = World::new(spec, rows);
    for (i, op) in ops.iter().enumerate() {
        if i == before {
            w.try_feed(w.start_event())?.ok();
        }
        w.apply_op(op).map_err(|e| format!("operation {i}, {op:?}: {e}"))?;
        note(&w, &mut seen.borrow_mut());
    }
    w.replay().map_err(|e| format!("invariant 7: {e}"))?;
    w.comes_to_rest()?;
    note(&w, &mut seen.borrow_mut());
    w.replay().map_err(|e| format!("invariant 7: {e}"))
}

fn note(w: &World, seen: &mut BTreeSet<String>) {
    seen.insert(format!("phase {}", w.phase()));
    seen.insert(format!("reason {}", w.reason()));
    for m in w.r.members.values() {
        seen.insert(match &m.state {
            NodeState::Failed { reason, .. } => format!("failed {reason}"),
            other => format!("node {}", other.kind()),
        });
    }
    if w.phase() == Phase::Completed && w.r.head.lane_open > 0 {
        seen.insert("lane after completion".into());
    }
    if w.r.head.lane_halted {
        seen.insert("lane halted".into());
    }
    if w.r.members.values().any(waits_back) {
        seen.insert("waits to go back".into());
    }
}

/// A search that never gets anywhere proves nothing.
fn expected() -> Vec<String> {
    let phases = Phase::ALL.iter().map(|p| format!("phase {p}"));
    let kinds = NodeStateKind::ALL.iter().filter(|k| **k != NodeStateKind::Failed).map(|k| format!("node {k}"));
    let failures = FailReason::ALL.iter().map(|r| format!("failed {r}"));
    let reasons = [
        "artifact_unavailable",
        "catch_up",
        "no_reachable_target",
        "max_unavailable",
        "step_in_progress",
        "person",
        "gate",
        "freeze",
        "presence_lost",
        "no_evidence",
        "fleet_wide",
        "untouched_nodes",
        "controller",
        "analysis",
        "inconclusive",
        "traffic",
    ];
    let reasons = reasons.iter().map(|r| format!("reason {r}"));
    let lane = ["lane after completion", "lane halted", "waits to go back"].map(String::from);
    phases.chain(kinds).chain(failures).chain(reasons).chain(lane).collect()
}

/// Looks for a history in which invariant `number` breaks; each number looks at histories of its own.
pub fn histories(number: u8, cases: u32) -> Result<(), String> {
    let config =
        ProptestConfig { failure_persistence: None, cases, max_shrink_iters: 2_000, ..ProptestConfig::default() };
    let rng = TestRng::from_seed(config.rng_algorithm, &[number; 32]);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let seen = Seen::default();
    let fleets = prop::collection::vec(any_row(), 1..=12);
    let all = (any_spec(), fleets, 0..3usize, prop::collection::vec(op(), 3..90));
    let broken = format!("invariant {number}:");
    let found = runner.run(&all, |(spec, rows, before, ops)| match run(spec, rows, before, &ops, &seen) {
        Err(e) if e.contains(&broken) => Err(TestCaseError::fail(format!("{e}\nin {ops:?}"))),
        Err(_) | Ok(()) => Ok(()),
    });
    found.map_err(|e| e.to_string())
}

#[test]
fn what_must_always_hold_holds_over_random_fleets_and_events() {
    // PROPTEST_CASES raises the number, and takes new ones each time.
    let more = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok());
    let config = ProptestConfig { failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() };
    let config = ProptestConfig { cases: more.unwrap_or(1_000), ..config };
    let mut runner = match more {
        Some(_) => TestRunner::new(config),
        None => TestRunner::new_with_rng(config.clone(), TestRng::deterministic_rng(config.rng_algorithm)),
    };
    let seen = Seen::default();
    let fleets = prop::collection::vec(any_row(), 1..=12);
    let cases = (any_spec(), fleets, 0..3usize, prop::collection::vec(op(), 3..90));
    let result = runner.run(&cases, |(spec, rows, before, ops)| {
        run(spec, rows, before, &ops, &seen).map_err(|e| TestCaseError::fail(format!("{e}\nin {ops:?}")))
    });
    if let Err(e) = result {
        panic!("{e}");
    }
    let missed: Vec<String> = expected().into_iter().filter(|s| !seen.borrow().contains(s)).collect();
    assert!(missed.is_empty(), "never reached: {missed:?}");
}
