//! A model check of the very functions that run in production: every order of events over small fleets, breadth first, with
//! every invariant of `check` behind every transition and the way there when one breaks.
//!
//! Two states are the same when they differ only in absolute times, versions and generations: the engine compares those, it never
//! looks at their values. A crash is a reload from the rows, which is checked to be the identity in every state, with all wake-ups
//! lost. `MODEL_STATES` is how many distinct states each fleet may take at most.

pub mod fleets;
mod key;

use super::check;
use super::db::{Db, Holder, Row, bundle, id};
use super::world::{World, forgive, old, readings, rollback_event, target};
use crate::node::{GateVerdict, GateWindow, HealthClass};
use crate::rollout::*;
use crate::time::{Span, Timestamp};
use std::collections::{HashSet, VecDeque};

/// The step of time: what a tick of the clock takes.
const UNIT: Span = Span::secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// A unit of time; timers that are due fire.
    Tick,
    /// A unit of time; the timers are late.
    LateTick,
    Timer,
    Start,
    Pause,
    Resume,
    ResumeRetry,
    Accept,
    Retry,
    Cancel,
    Rollback,
    FreezeBegins,
    FreezeEnds,
    Blocked,
    Unblocked,
    Revoke,
    /// What they ran before is revoked.
    RevokeOld,
    GivenUp,
    /// The process died, all wake-ups are lost, another one takes over a unit later.
    Crash,
    LaneReady,
    Poll(u32),
    Activate(u32),
    Fail(u32),
    /// The same report as `Fail`, of the assignment before.
    LateFail(u32),
    FallBack(u32),
    Pass(u32),
    GateFails(u32),
    Silent(u32),
    Return(u32),
    /// Nodes from this one on, at once.
    AllSilent(u32),
    AllReturn(u32),
    Sick(u32),
    Well(u32),
    Pinned(u32),
    TakenOver(u32),
    Excluded(u32),
    /// It takes the weight that it was told.
    Weigh(u32),
    Advance,
    Swap,
    /// Half of what the analysis waits for was served, without errors, or with.
    ServedWell,
    ServedBadly,
    /// Of those that are asked before a rollback so many fail, and one less is known.
    Untouched(u32),
    /// Another rollout had it, when this one did not hold it.
    Elsewhere(u32),
    DebtDropped(u32),
    /// The project's budget: so many at once, or as many as it likes.
    Granted(Option<u32>),
}

#[derive(Clone)]
struct State {
    r: Rollout,
    db: Db,
    now: Timestamp,
    /// Where it stands in the list of all states: the way there is told by that.
    at: u32,
}

/// What became of an act: nothing, another state, or a broken rule.
type Outcome = Result<Option<State>, String>;

impl State {
    fn row(&self, n: u32) -> &Row {
        self.db.row(id(n))
    }

    fn take(&self, act: Act) -> Outcome {
        let paused = self.r.head.phase == Phase::Paused;
        match act {
            Act::Tick => {
                let later = self.after(UNIT);
                let due = later.r.head.wake_at.is_some_and(|t| t <= later.now) && self.r.head.phase != Phase::Pending;
                if !due {
                    return Ok(Some(later));
                }
                Ok(Some(later.feed(Event::Timer)?.unwrap_or(later)))
            }
            Act::LateTick => Ok(Some(self.after(UNIT))),
            Act::Timer => {
                let next = self.feed(Event::Timer)?;
                let due = self.r.head.wake_at.is_some_and(|t| t <= self.now);
                match next {
                    Some(_) if !due => {
                        Err("invariant 5: time alone changes something, and no timer was asked for".into())
                    }
                    next => Ok(next),
                }
            }
            Act::Start => self.feed(Event::Start { facts: self.db.rows.keys().map(|n| self.db.facts(*n)).collect() }),
            Act::Pause => self.feed(Event::Pause { note: None }),
            Act::Resume => self.feed(Event::Resume { retry: false, accept_failed: false }),
            Act::ResumeRetry => self.feed(Event::Resume { retry: true, accept_failed: false }),
            Act::Accept => self.feed(Event::Resume { retry: false, accept_failed: true }),
            Act::Retry if self.r.head.phase.is_end() => {
                let facts = self.r.members.keys().map(|n| self.db.facts(*n)).collect();
                let read = self.feed(Event::LaneReady { facts })?;
                read.as_ref().unwrap_or(self).feed(Event::Retry { nodes: None })
            }
            Act::Retry => self.feed(Event::Retry { nodes: None }),
            Act::Cancel => self.feed(Event::Cancel { note: None }),
            Act::Rollback => {
                let moved = |m: &&Member| m.told == Told::Target && self.db.row(m.node).generation != m.generation;
                let gone: Vec<_> = self.r.members.values().filter(moved).map(|m| m.node).collect();
                self.feed(rollback_event(&gone))
            }
            Act::FreezeBegins => self.feed(Event::FreezeBegan),
            Act::FreezeEnds => self.feed(Event::FreezeEnded),
            Act::Blocked => self.feed(Event::WaitBegan { wait: Wait::Store }),
            Act::Unblocked => self.feed(Event::WaitEnded { wait: Wait::Store }),
            Act::Revoke => self.feed(Event::BundleRevoked { revoked: [target()].into() }),
            Act::RevokeOld => self.feed(Event::BundleRevoked { revoked: [old()].into() }),
            Act::GivenUp => self.feed(Event::ControllerFailed { note: String::new() }),
            Act::Crash => {
                let later = self.after(UNIT);
                Ok(Some(later.feed(Event::OwnerStarted { down: UNIT })?.unwrap_or(later)))
            }
            Act::LaneReady => {
                let waits = |m: &&Member| m.online && (m.state == NodeState::Owed || m.state == NodeState::Pending);
                let facts: Vec<Facts> = self.r.members.values().filter(waits).map(|m| self.db.facts(m.node)).collect();
                if facts.is_empty() { Ok(None) } else { self.feed(Event::LaneReady { facts }) }
            }
            Act::Poll(n) => {
                let row = self.row(n);
                let told = row.handed_over == row.generation;
                self.change(row.online && !told && !paused, n, |row| row.handed_over = row.generation)
            }
            Act::Activate(n) => self.hears(n, |row| {
                row.running = row.desired;
                Said::Activated { bundle: row.desired }
            }),
            Act::Fail(n) => self.hears(n, |row| Said::Failed { bundle: row.desired, error: String::new() }),
            Act::LateFail(n) => {
                let (row, m) = (self.row(n), self.r.members.get(&id(n)));
                let Some(before) =
                    m.filter(|m| m.generation == row.generation).and_then(|m| m.generation.checked_sub(1))
                else {
                    return Ok(None);
                };
                for bundle in [Some(target()), row.previous.first().copied()] {
                    let said = Said::Failed { bundle, error: String::new() };
                    let late = Report { node: id(n), generation: Some(before), said };
                    if self.feed(Event::Reports { reports: vec![late] })?.is_some() {
                        return Err("invariant 4: a late report changed something".into());
                    }
                }
                Ok(None)
            }
            Act::FallBack(n) => {
                let row = self.row(n);
                if !row.online || row.running != Some(target()) {
                    return Ok(None);
                }
                let bundle = row.previous.first().copied();
                let event = Event::Reports {
                    reports: vec![Report { node: id(n), generation: None, said: Said::Active { bundle } }],
                };
                self.with(n, |row| row.running = bundle).then_feed(event)
            }
            Act::Pass(n) => self.judged(n, GateVerdict::Pass),
            Act::GateFails(n) => self.judged(n, GateVerdict::Fail),
            Act::Silent(n) => self.presence(&[n], false),
            Act::Return(n) => self.presence(&[n], true),
            Act::AllSilent(from) => self.presence(&(from..=self.db.rows.len() as u32).collect::<Vec<_>>(), false),
            Act::AllReturn(from) => self.presence(&(from..=self.db.rows.len() as u32).collect::<Vec<_>>(), true),
            Act::Sick(n) => self.health(n, HealthClass::Unhealthy),
            Act::Well(n) => self.health(n, HealthClass::Healthy),
            Act::Pinned(n) => self.removed(n, SkipReason::Pinned),
            Act::TakenOver(n) => self.removed(n, SkipReason::Superseded),
            Act::Excluded(n) => self.removed(n, SkipReason::Excluded),
            Act::Weigh(n) => {
                let waits = self.r.members.get(&id(n)).is_some_and(|m| !m.weighed);
                if waits { self.hears(n, |row| Said::Weight { weight: row.weight }) } else { Ok(None) }
            }
            Act::Advance => self.feed(Event::AdvanceTraffic),
            Act::Swap => self.feed(Event::SwapSlot),
            Act::Untouched(failing) => {
                let of = asked(&self.r).map_or(0, |nodes| nodes.len() as u32);
                let failing = failing.min(of);
                self.feed(Event::Untouched { of, failing, unknown: u32::from(failing == 1 && of > 1) })
            }
            Act::ServedWell => self.feed(self.served(0)),
            Act::ServedBadly => self.feed(self.served(40)),
            Act::Elsewhere(n) => {
                let row = self.row(n);
                let other = Some(bundle(9));
                let free = row.holder == Holder::Nobody && row.desired != other;
                self.change(free && self.r.head.phase != Phase::Pending, n, |row| {
                    row.generation += 1;
                    row.desired = other;
                    row.desired_by_us = false;
                    row.debt = row.debt.map(|d| super::db::Debt { ours: false, ..d });
                })
            }
            Act::Granted(k) => self.feed(Event::CapacityGranted { k }),
            Act::DebtDropped(n) => match self.row(n).debt {
                Some(d) if !d.ours => self.feed(Event::DebtsDropped { nodes: vec![id(n)] }),
                _ => Ok(None),
            },
        }
    }

    /// So far half of what is waited for, or after the first looks all of it.
    fn served(&self, errors: u64) -> Event {
        let more = self.r.head.analysis.is_some_and(|a| a.looks >= 2);
        readings(&self.r, if more { 100 } else { 50 }, errors)
    }

    fn after(&self, span: Span) -> State {
        State { now: self.now + span, ..self.clone() }
    }
    fn with(&self, n: u32, f: impl FnOnce(&mut Row)) -> State {
        let mut s = self.clone();
        f(s.db.row_mut(id(n)));
        s
    }
    fn change(&self, may: bool, n: u32, f: impl FnOnce(&mut Row)) -> Outcome {
        Ok(may.then(|| self.with(n, f)))
    }
    /// The world has changed already; what the engine makes of it comes on top.
    fn then_feed(self, event: Event) -> Outcome {
        Ok(Some(self.feed(event)?.unwrap_or(self)))
    }

    /// A report of a node that has been told.
    fn hears(&self, n: u32, f: impl FnOnce(&mut Row) -> Said) -> Outcome {
        let row = self.row(n);
        if !row.online || row.handed_over != row.generation || !row.desired_by_us {
            return Ok(None);
        }
        let mut s = self.clone();
        let said = f(s.db.row_mut(id(n)));
        let reports = vec![Report { node: id(n), generation: Some(s.row(n).generation), said }];
        s.then_feed(Event::Reports { reports })
    }

    fn judged(&self, n: u32, verdict: GateVerdict) -> Outcome {
        let row = self.row(n);
        if !row.online || row.running != row.desired || row.handed_over != row.generation {
            return Ok(None);
        }
        let window = GateWindow {
            node: id(n),
            generation: row.generation,
            verdict,
            first_pass: (verdict == GateVerdict::Pass).then_some(self.now),
            last_fresh: self.now,
            worst: String::new(),
            n: 2,
            soaked: self.r.spec.judge.soak,
            no_traffic: false,
        };
        self.feed(Event::Gates { windows: vec![window] })
    }

    fn presence(&self, nodes: &[u32], online: bool) -> Outcome {
        if nodes.iter().any(|n| self.row(*n).online == online) {
            return Ok(None);
        }
        let mut s = self.clone();
        let changes = nodes.iter().map(|n| {
            let row = s.db.row_mut(id(*n));
            row.online = online;
            PresenceChange { node: id(*n), online, handed_over: row.handed_over, busy: row.busy }
        });
        let changes = changes.collect();
        s.then_feed(Event::Presence { changes })
    }

    fn health(&self, n: u32, class: HealthClass) -> Outcome {
        let row = self.row(n);
        if !row.online || row.health == class {
            return Ok(None);
        }
        let reports = vec![Report { node: id(n), generation: None, said: Said::Health { class } }];
        self.with(n, |row| row.health = class).then_feed(Event::Reports { reports })
    }

    fn removed(&self, n: u32, reason: SkipReason) -> Outcome {
        self.feed(Event::Removed { nodes: vec![id(n)], reason })
    }

    /// Decide, store, apply, check. `None`: refused, or nothing changed.
    fn feed(&self, event: Event) -> Outcome {
        let Ok(d) = decide(&self.r, &event, self.now) else { return Ok(None) };
        if d.changes.is_empty() {
            return Ok(None);
        }
        let mut next = self.clone();
        if let Event::BundleRevoked { revoked } = &event {
            next.db.revoked.extend(revoked.iter().copied());
        }
        next.db.commit(&d).map_err(|c| format!("invariant 4: {c:?}"))?;
        apply_all(&mut next.r, &d);
        if matches!(event, Event::Retry { .. } | Event::Resume { retry: true, .. }) {
            forgive(&self.r, &next.r, &mut next.db);
        }
        check::step(&self.r, &event, self.now, &d, &next.r, &next.db)?;
        check::state(&next.r, &next.db)?;
        Ok(Some(next))
    }

    /// 5. Nothing is reported any more: time alone brings it to rest.
    fn comes_to_rest(&self) -> Result<(), String> {
        let s = &self.r.spec;
        let one = (s.progress_deadline + s.judge.soak + s.stale_after).0 / UNIT.0 + 2;
        let turns = if s.restarts { self.r.members.len() as i64 } else { 1 };
        let ticks = one * (self.r.members.len() as i64 + 1) + turns * (s.rollback_deadline.0 / UNIT.0) + 1;
        let mut state = self.clone();
        for _ in 0..ticks {
            if let Some(next) = state.take(Act::Tick)? {
                state = next;
            }
            if let Some(next) = state.take(Act::LaneReady)? {
                state = next;
            }
        }
        let code = explain(&state.r).code;
        match state.r.head.phase {
            Phase::RollingBack => Err("invariant 5: still rolling back".into()),
            Phase::Running if code == "traffic" && state.r.head.unweighed > 0 => {
                Err("invariant 5: still unweighed".into())
            }
            Phase::Running if matches!(code, "step_in_progress" | "catch_up" | "analysis") => {
                Err(format!("invariant 5: still {code}"))
            }
            _ => Ok(()),
        }
    }
}

struct Search {
    acts: Vec<Act>,
    /// For each state: the one before, and the act between.
    came: Vec<(u32, Act)>,
    seen: HashSet<u128>,
    frontier: VecDeque<State>,
}

struct Found {
    states: usize,
    transitions: u64,
    /// No act leads anywhere new: all of it was seen.
    closed: bool,
}

impl Search {
    fn run(world: World, acts: Vec<Act>, most: usize) -> Result<Found, String> {
        let root = State { r: world.r, db: world.db, now: world.now, at: 0 };
        let mut search = Search { acts, came: vec![(0, Act::Start)], seen: HashSet::new(), frontier: VecDeque::new() };
        search.seen.insert(key::of(&root));
        search.frontier.push_back(root);
        let mut transitions = 0;
        while let Some(state) = search.frontier.pop_front() {
            for i in 0..search.acts.len() {
                let act = search.acts[i];
                let next = state.take(act).map_err(|e| search.way(state.at, act, &e))?;
                let Some(mut next) = next else { continue };
                transitions += 1;
                let key = key::of(&next);
                if !search.seen.insert(key) {
                    continue;
                }
                // Every eighth state: as many ticks again as it takes to rest would dominate the search.
                if key.is_multiple_of(8) {
                    next.comes_to_rest().map_err(|e| search.way(state.at, act, &e))?;
                }
                next.at = search.came.len() as u32;
                search.came.push((state.at, act));
                search.frontier.push_back(next);
            }
            if search.seen.len() >= most {
                return Ok(Found { states: search.seen.len(), transitions, closed: false });
            }
        }
        Ok(Found { states: search.seen.len(), transitions, closed: true })
    }

    fn way(&self, mut at: u32, last: Act, why: &str) -> String {
        let mut acts = vec![last];
        while at != 0 {
            let (before, act) = self.came[at as usize];
            acts.push(act);
            at = before;
        }
        acts.reverse();
        format!("{why}\nafter {acts:?}")
    }
}
