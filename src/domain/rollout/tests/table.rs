//! What every event does in every phase, found by trying: the table in `src/docs/engine-table.md` is written by this test
//! (`UPDATE_DOCS=1`) and must be up to date.

use super::db::{Debt, Row, id};
use super::world::*;
use crate::node::{GateVerdict, HealthClass};
use crate::rollout::*;
use crate::time::Span;
use std::collections::BTreeSet;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    Acts,
    Notes,
    Nothing,
    AlreadySo,
    Refused,
}

impl Answer {
    fn text(self) -> &'static str {
        match self {
            Answer::Acts => "**acts**",
            Answer::Notes => "notes",
            Answer::Nothing => "-",
            Answer::AlreadySo => "already so",
            Answer::Refused => "refused",
        }
    }
}

/// Worlds in `phase`: between them everything that an event may find there.
fn worlds(phase: Phase) -> Vec<World> {
    let soaking = |s: Spec| Spec { judge: GateSpec { soak: Span::secs(60), ..GateSpec::default() }, ..s };
    let busy = |s: Spec| {
        // 1 verified, 2 activated, 3 on its way, 4 owed, 5 waiting.
        let mut w = World::pending(s, 5);
        w.db.row_mut(id(4)).online = false;
        let mut w = w.start();
        w.verifies(1);
        w.activates(2);
        w.tick(1);
        w
    };
    match phase {
        Phase::Pending => vec![World::pending(spec(), 2)],
        Phase::Running => {
            let mut tolerated = busy(soaking(tolerating(in_batches(4), 1)));
            tolerated.fails(2);
            let mut silent = World::started(at_once(), 8);
            silent.goes_silent(1);
            let mut nobody = World::pending(spec(), 1);
            nobody.db.row_mut(id(1)).online = false;
            let mut waits = busy(in_batches(4));
            waits.feed(Event::WaitBegan { wait: Wait::Store });
            let mut canary = World::started(canary(), 4);
            canary.verifies(canary.on_their_way()[0]);
            let mut standby = World::started(blue_green(), 2);
            standby.verifies(2);
            standby.weighs(2);
            let mut swapped = standby.clone();
            swapped.feed(Event::SwapSlot);
            let mut asks = World::started(gated(in_batches(1)), 3);
            asks.activates(1);
            asks.gate(1, GateVerdict::Fail);
            vec![busy(in_batches(4)), tolerated, silent, nobody.start(), waits, canary, standby, swapped, asks]
        }
        Phase::Paused => {
            let causes: [fn(&mut World); 3] =
                [|w| drop(w.pause()), |w| drop(w.feed(Event::FreezeBegan)), |w| drop(w.fails(3))];
            let paused = causes.map(|cause| {
                let mut w = busy(in_batches(4));
                cause(&mut w);
                w
            });
            let mut asks = World::started(gated(in_batches(1)), 3);
            asks.activates(1);
            asks.gate(1, GateVerdict::Fail);
            asks.pause();
            paused.into_iter().chain([asks]).collect()
        }
        Phase::RollingBack => {
            let mut w = busy(in_batches(4));
            w.rollback();
            w.activates(1);
            w.tick(1);
            w.goes_silent(3);
            let limit = crate::project::Amount::Count(1);
            let mut turns = World::started(Spec { restarts: true, max_unavailable: Some(limit), ..at_once() }, 3);
            turns.all_verify([1, 2, 3]);
            turns.rollback();
            vec![w, turns]
        }
        Phase::Completed => {
            let mut owed = World::pending(tolerating(in_batches(2), 1), 5);
            owed.db.row_mut(id(5)).online = false;
            owed.db.row_mut(id(4)).online = false;
            let mut owed = owed.start();
            owed.all_verify([1, 2, 3]);
            let mut lane = owed.clone();
            lane.returns(4);
            lane.activates(4);
            lane.tick(1);
            let mut frozen = owed.clone();
            frozen.feed(Event::FreezeBegan);
            frozen.returns(4);
            vec![owed, lane, frozen]
        }
        Phase::Failed => {
            let mut w = busy(Spec { on_failure: OnFailure::Fail, ..in_batches(4) });
            w.fails(2);
            vec![w]
        }
        Phase::Cancelled => {
            let mut w = busy(in_batches(4));
            w.cancel();
            vec![w]
        }
        Phase::RolledBack => {
            let mut w = busy(in_batches(4));
            w.rollback();
            w.goes_silent(1);
            w.fails(2);
            w.verifies(3);
            let mut back = w.clone();
            back.returns(1);
            back.activates(1);
            back.tick(1);
            vec![w, back]
        }
    }
}

/// Every kind of event, each in all its forms. The match makes a new kind fail to compile until it is here.
fn events(w: &World, kind: &Event) -> Vec<Event> {
    let nodes: Vec<u32> = (1..=w.r.members.len() as u32).collect();
    match kind {
        Event::Start { .. } => vec![w.start_event()],
        Event::AdvanceTraffic | Event::SwapSlot => vec![kind.clone()],
        Event::Pause { .. } | Event::Cancel { .. } | Event::Retry { .. } | Event::FreezeBegan | Event::FreezeEnded => {
            vec![kind.clone()]
        }
        Event::Resume { .. } => [(false, false), (true, false), (false, true)]
            .map(|(retry, accept_failed)| Event::Resume { retry, accept_failed })
            .into(),
        Event::Rollback { .. } => vec![rollback_event(&[])],
        Event::Reports { .. } => {
            let mut out = Vec::new();
            for n in nodes {
                for b in [Some(target()), Some(old())] {
                    let said = [
                        Said::Downloaded { bundle: b },
                        Said::Staged { bundle: b },
                        Said::Activated { bundle: b },
                        Said::Verified { bundle: b },
                        Said::Failed { bundle: b, error: "broke".into() },
                        Said::Active { bundle: b },
                    ];
                    out.extend(said.map(|said| w.said(n, said)));
                }
            }
            out
        }
        Event::Gates { .. } => nodes
            .iter()
            .flat_map(|n| GateVerdict::ALL.iter().map(|v| Event::Gates { windows: vec![w.window(*n, *v)] }))
            .collect(),
        Event::Readings { .. } => vec![w.readings(2_000, 0), w.readings(2_000, 500)],
        Event::Untouched { .. } => {
            vec![kind.clone(), Event::Untouched { of: 9, failing: 9, unknown: 0 }]
        }
        Event::Presence { .. } => nodes
            .iter()
            .flat_map(|n| {
                let row = w.db.row(id(*n));
                let is = |online: bool, busy: bool| PresenceChange {
                    node: id(*n),
                    online,
                    handed_over: row.handed_over,
                    busy,
                };
                [is(!row.online, false), is(true, true)].map(|change| Event::Presence { changes: vec![change] })
            })
            .collect(),
        Event::Joined { .. } => vec![Event::Joined { facts: vec![Facts::online(id(70))] }],
        Event::LaneReady { .. } => nodes
            .iter()
            .map(|n| {
                // It has moved on, it is here, and it is ill.
                let health = HealthClass::Unhealthy;
                let facts = Facts { online: true, health, ..w.db.facts(id(*n)) };
                Event::LaneReady { facts: vec![facts] }
            })
            .collect(),
        Event::DebtsDropped { .. } => vec![Event::DebtsDropped { nodes: nodes.into_iter().map(id).collect() }],
        Event::Removed { .. } => {
            nodes.iter().map(|n| Event::Removed { nodes: vec![id(*n)], reason: SkipReason::Pinned }).collect()
        }
        Event::BundleRevoked { .. } => vec![Event::BundleRevoked { revoked: [target()].into() }],
        Event::CapacityGranted { .. } => {
            vec![Event::CapacityGranted { k: Some(0) }, Event::CapacityGranted { k: Some(9) }]
        }
        Event::WaitBegan { .. } => vec![Event::WaitBegan { wait: Wait::Store }],
        Event::WaitEnded { .. } => vec![Event::WaitEnded { wait: Wait::Store }],
        Event::ControllerFailed { .. } => vec![kind.clone()],
        Event::OwnerStarted { .. } => vec![kind.clone()],
        Event::Timer => vec![Event::Timer],
    }
}

/// One of each kind.
fn kinds() -> Vec<Event> {
    vec![
        Event::Start { facts: Default::default() },
        Event::Pause { note: None },
        Event::Resume { retry: false, accept_failed: false },
        Event::Cancel { note: None },
        Event::Rollback { note: None, nodes: None, revoked: Default::default(), gone: Default::default() },
        Event::Retry { nodes: None },
        Event::AdvanceTraffic,
        Event::SwapSlot,
        Event::Reports { reports: Default::default() },
        Event::Gates { windows: Default::default() },
        Event::Readings { readings: Default::default() },
        Event::Untouched { of: 9, failing: 0, unknown: 0 },
        Event::Presence { changes: Default::default() },
        Event::Joined { facts: Default::default() },
        Event::LaneReady { facts: Default::default() },
        Event::DebtsDropped { nodes: Default::default() },
        Event::Removed { nodes: Default::default(), reason: SkipReason::Pinned },
        Event::FreezeBegan,
        Event::FreezeEnded,
        Event::BundleRevoked { revoked: Default::default() },
        Event::CapacityGranted { k: None },
        Event::WaitBegan { wait: Wait::Store },
        Event::WaitEnded { wait: Wait::Store },
        Event::ControllerFailed { note: "gave up".into() },
        Event::OwnerStarted { down: Span::secs(1) },
        Event::Timer,
    ]
}

fn is_command(e: &Event) -> bool {
    matches!(
        e,
        Event::Start { .. }
            | Event::Pause { .. }
            | Event::Resume { .. }
            | Event::Cancel { .. }
            | Event::Rollback { .. }
            | Event::Retry { .. }
            | Event::AdvanceTraffic
            | Event::SwapSlot
    )
}

fn answer(w: &World, event: Event) -> Answer {
    let mut w = w.clone();
    // Somebody who may join.
    w.db.rows.entry(id(70)).or_insert_with(|| Row { generation: 0, ..Row::on(Some(old())) });
    w.wakes = false;
    if let Event::Presence { changes } = &event {
        changes.iter().for_each(|c| w.db.row_mut(c.node).online = c.online);
    }
    if let Event::DebtsDropped { .. } = &event {
        // It tells of what has happened: another commit covers them.
        w.db.rows.values_mut().for_each(|r| r.debt = r.debt.map(|d| Debt { ours: false, ..d }));
    }
    if let (Event::Timer, Some(due)) = (&event, w.r.head.wake_at) {
        w.now = w.now.max(due);
    }
    match w.try_feed(event).unwrap() {
        Err(Rejection::AlreadySo) => Answer::AlreadySo,
        Err(Rejection::NotAllowed { .. }) => Answer::Refused,
        Ok(d) if d.changes.is_empty() => Answer::Nothing,
        Ok(d) => {
            let rows = |c: &Change| matches!(c, Change::Head { .. } | Change::Step { .. } | Change::Member { .. });
            if d.facts.is_empty() && d.changes.iter().all(rows) { Answer::Notes } else { Answer::Acts }
        }
    }
}

fn cell(phase: Phase, kind: &Event) -> BTreeSet<Answer> {
    let mut out = BTreeSet::new();
    for w in worlds(phase) {
        assert_eq!(w.phase(), phase);
        out.extend(events(&w, kind).into_iter().map(|e| answer(&w, e)));
    }
    if out.len() > 1 {
        // That some of many observations say nothing goes without saying.
        out.remove(&Answer::Nothing);
    }
    out
}

fn document() -> String {
    let phases: Vec<Phase> = Phase::ALL.to_vec();
    let row = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut out = String::from(
        "# What every event does in every phase\n\n\
         Written by a test that tries each pair (`UPDATE_DOCS=1 cargo test -p domain table`); do not edit.\n\n\
         - **acts**: something happens: nodes, steps or the rollout move, and each move is a fact in the log\n\
         - notes: only remembered (a clock, presence, health); nobody is told anything\n\
         - `-`: nothing is written\n\
         - already so: the goal of the command holds; 200 `{changed: false}`\n\
         - refused: 409, naming the state and what it allows\n\n\
         Where a cell names several, it depends on the state of the nodes or on the causes of a pause.\n\n\
         ## Commands\n\n",
    );
    let head = |first: &str| {
        let names = std::iter::once(first.to_string()).chain(phases.iter().map(|p| p.to_string()));
        let rule = "|---".repeat(phases.len() + 1);
        format!("{}{rule}|\n", row(names.collect()))
    };
    let line = |kind: &Event| {
        let cells = phases.iter().map(|p| {
            let answers: Vec<&str> = cell(*p, kind).into_iter().map(Answer::text).collect();
            answers.join(", ")
        });
        row(std::iter::once(format!("`{}`", kind.name())).chain(cells).collect())
    };
    out += &head("command");
    kinds().iter().filter(|k| is_command(k)).for_each(|k| out += &line(k));
    out += "\n## Observations, time and the world outside\n\nThese are never refused.\n\n";
    out += &head("event");
    kinds().iter().filter(|k| !is_command(k)).for_each(|k| out += &line(k));
    out
}

#[test]
fn the_table_in_the_documentation_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/engine-table.md");
    let table = document();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &table).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(kept == table, "{path} is out of date: UPDATE_DOCS=1 cargo test -p domain table");
}

#[test]
fn a_refusal_names_exactly_what_the_phase_allows() {
    for phase in Phase::ALL {
        for kind in kinds().iter().filter(|k| is_command(k)) {
            let answers = cell(*phase, kind);
            let allowed = allowed_commands(*phase).contains(&kind.name());
            let works = answers.contains(&Answer::Acts);
            assert_eq!(allowed, works, "{} while {phase}: {answers:?}", kind.name());
        }
    }
}

#[test]
fn observations_are_never_refused() {
    for phase in Phase::ALL {
        for kind in kinds().iter().filter(|k| !is_command(k)) {
            let refused = [Answer::Refused, Answer::AlreadySo];
            assert!(cell(*phase, kind).iter().all(|a| !refused.contains(a)), "{} while {phase}", kind.name());
        }
    }
}
