//! The fleets, the specifications and the events that are searched.

use super::super::db::{Row, id};
use super::super::world::{World, at_once, blue_green, canary, gated, in_batches, old, tolerating};
use super::{Act, Search, UNIT};
use crate::project::Amount;
use crate::rollout::*;
use crate::time::Span;

/// Deadlines of two units, silence of one, freshness longer than everything.
fn short(spec: Spec) -> Spec {
    Spec {
        progress_deadline: Span(2 * UNIT.0),
        rollback_deadline: Span(2 * UNIT.0),
        stale_after: UNIT,
        judge: GateSpec { freshness: Span(100 * UNIT.0), ..spec.judge.clone() },
        ..spec
    }
}

fn fleet(n: u32) -> Vec<Row> {
    (0..n).map(|_| Row::on(Some(old()))).collect()
}

/// What any node does, and what any operator does.
fn usual(n: u32) -> Vec<Act> {
    let mut acts = vec![
        Act::Tick,
        Act::Timer,
        Act::Start,
        Act::Pause,
        Act::Resume,
        Act::Accept,
        Act::Retry,
        Act::Cancel,
        Act::Rollback,
        Act::Crash,
        Act::LaneReady,
    ];
    for n in 1..=n {
        acts.extend([
            Act::Poll(n),
            Act::Activate(n),
            Act::Fail(n),
            Act::LateFail(n),
            Act::Pass(n),
            Act::Silent(n),
            Act::Return(n),
        ]);
    }
    acts
}

fn and(mut acts: Vec<Act>, more: impl IntoIterator<Item = Act>) -> Vec<Act> {
    acts.extend(more);
    acts
}

/// What a project may grant: nothing, one node at a time, two, or no budget at all.
const BUDGETS: [Option<u32>; 4] = [Some(0), Some(1), Some(2), None];

/// States per fleet unless `MODEL_STATES` says otherwise: sixteen fleets that do not close before it, more than a million states, one or
/// two minutes on two cores.
const USUALLY: usize = 80_000;

fn most() -> usize {
    std::env::var("MODEL_STATES").ok().and_then(|n| n.parse().ok()).unwrap_or(USUALLY)
}

/// Looks for a state in which invariant `number` breaks: three nodes with everything that bears on it, two strategies, and a way
/// back in turns.
pub fn explore(number: u8, most: usize) -> Result<(), String> {
    let mut rows = fleet(3);
    rows[2].online = number == 12;
    let limited = Spec { max_unavailable: Some(Amount::Count(1)), on_failure: OnFailure::Rollback, ..in_batches(2) };
    let rolling = World::new(short(tolerating(limited, u32::from(number % 2))), rows);
    let acts =
        and(usual(2), [Act::Sick(2), Act::Well(2), Act::Revoke, Act::FallBack(1), Act::GateFails(1), Act::Pinned(2)]);
    let acts = and(acts, [Act::Return(3), Act::Poll(3), Act::Blocked, Act::Unblocked, Act::Elsewhere(1)]);
    let acts = and(acts, BUDGETS.map(Act::Granted));
    let halves = World::new(short(blue_green()), fleet(2));
    let shifts = and(usual(2), [Act::Swap, Act::Advance, Act::Weigh(2), Act::Revoke]);
    let broken = format!("invariant {number}:");
    let turns = and(
        usual(3),
        [Act::Sick(2), Act::Well(2), Act::FallBack(3), Act::GateFails(2), Act::RevokeOld, Act::Excluded(3)],
    );
    for (world, acts) in [(rolling, acts), (halves, shifts), (restarted(3), turns)] {
        match Search::run(world, acts, most) {
            Err(e) if e.contains(&broken) => return Err(e),
            Err(_) => {}
            Ok(found) => assert!(found.closed || found.states >= most, "only {} states", found.states),
        }
    }
    Ok(())
}

fn search(name: &str, world: World, acts: Vec<Act>) {
    let most = most();
    match Search::run(world, acts, most) {
        Ok(found) => {
            let closed = if found.closed { "all of it" } else { "the limit" };
            println!("{name}: {} states, {} transitions, {closed}", found.states, found.transitions);
            assert!(found.closed || found.states >= most, "{name}: only {} states", found.states);
        }
        Err(broken) => panic!("{name}: {broken}"),
    }
}

#[test]
fn two_nodes_in_two_steps() {
    let world = World::new(short(in_batches(1)), fleet(2));
    let acts = and(usual(2), [Act::ResumeRetry, Act::LateTick, Act::FreezeBegins, Act::FreezeEnds]);
    search("two steps", world, acts);
}

#[test]
fn two_halves_and_the_traffic_between_them() {
    let acts = and(usual(2), [Act::Advance, Act::Swap, Act::Weigh(1), Act::Weigh(2), Act::GateFails(2)]);
    search("blue-green", World::new(short(blue_green()), fleet(2)), acts);
}

#[test]
fn traffic_that_is_shifted_by_itself() {
    let shift = BlueGreen { auto_advance: true, advance_delay: UNIT, ..blue_green().blue_green };
    let spec = Spec { blue_green: shift, failure_threshold: Amount::Count(1), ..blue_green() };
    let acts = and(usual(3), [Act::Swap, Act::Weigh(2), Act::Weigh(3), Act::FreezeBegins, Act::FreezeEnds]);
    search("blue-green by itself", World::new(short(spec), fleet(3)), acts);
}

#[test]
fn a_canary_that_is_compared() {
    let world = World::new(short(canary()), fleet(3));
    let acts = and(usual(3), [Act::ServedWell, Act::ServedBadly, Act::ResumeRetry]);
    search("canary", world, acts);
}

#[test]
fn a_canary_that_rolls_back_by_itself() {
    let spec = Spec { on_failure: OnFailure::Rollback, ..canary() };
    let acts = and(usual(2), [Act::ServedWell, Act::ServedBadly, Act::Sick(2), Act::Well(2), Act::Revoke]);
    search("canary that rolls back", World::new(short(spec), fleet(2)), acts);
}

#[test]
fn two_nodes_one_failure_tolerated() {
    let world = World::new(short(tolerating(in_batches(1), 1)), fleet(2));
    let acts = and(usual(2), [Act::GateFails(1), Act::FallBack(1), Act::FallBack(2)]);
    search("one tolerated", world, acts);
}

#[test]
fn three_nodes_that_roll_back_by_themselves() {
    let spec = Spec { on_failure: OnFailure::Rollback, max_unavailable: Some(Amount::Count(1)), ..at_once() };
    let world = World::new(short(spec), fleet(3));
    let acts = and(usual(3), [Act::Sick(2), Act::Well(2), Act::Sick(3), Act::Well(3), Act::Revoke]);
    search("automatic rollback", world, acts);
}

#[test]
fn three_nodes_that_ask_before_they_roll_back() {
    let world = World::new(short(gated(in_batches(1))), fleet(3));
    let acts = and(usual(2), [Act::GateFails(1), Act::GateFails(2), Act::Sick(3), Act::Well(3), Act::Silent(3)]);
    let acts = and(acts, [Act::Untouched(0), Act::Untouched(1), Act::Untouched(2), Act::ResumeRetry]);
    search("asks before it rolls back", world, acts);
}

/// All of `n` nodes run a change that restarted them, one at a time.
fn restarted(n: u32) -> World {
    let spec = Spec { restarts: true, max_unavailable: Some(Amount::Count(1)), ..at_once() };
    let mut world = World::new(short(spec), fleet(n)).start();
    world.all_verify(1..=n);
    world
}

#[test]
fn nodes_that_restart_to_go_back_take_turns() {
    let acts = and(usual(3), [Act::Sick(2), Act::Well(2), Act::Sick(3), Act::FallBack(2), Act::GateFails(3)]);
    let acts = and(acts, [Act::Revoke, Act::RevokeOld, Act::Pinned(2), Act::Excluded(3), Act::LateTick]);
    search("turns", restarted(3), acts);
}

#[test]
fn a_rollback_by_itself_in_turns() {
    let spec = Spec {
        restarts: true,
        on_failure: OnFailure::Rollback,
        max_unavailable: Some(Amount::Count(1)),
        ..in_batches(3)
    };
    let mut world = World::new(short(spec), fleet(4)).start();
    world.all_verify([1, 2]);
    let acts = and(usual(4), [Act::Sick(1), Act::Well(1), Act::GateFails(2), Act::GateFails(3), Act::Revoke]);
    search("turns by itself", world, acts);
}

#[test]
fn a_lane_that_works_after_completion() {
    let mut rows = fleet(3);
    rows[2].online = false;
    let world = World::new(short(tolerating(in_batches(1), 1)), rows);
    let elsewhere = [1, 2, 3].map(Act::Elsewhere);
    let acts = and(usual(3), elsewhere);
    let acts = and(acts, [Act::DebtDropped(3), Act::FreezeBegins, Act::FreezeEnds, Act::Revoke]);
    search("catch-up lane", world, acts);
}

#[test]
fn nodes_that_are_taken_away() {
    let mut rows = fleet(2);
    rows.push(Row::on(None));
    let world = World::new(short(Spec { on_failure: OnFailure::Fail, ..in_batches(2) }), rows);
    let acts = and(usual(3), [Act::Pinned(1), Act::TakenOver(1), Act::TakenOver(2), Act::TakenOver(3)]);
    let acts = and(acts, [Act::Excluded(2), Act::Blocked, Act::Unblocked, Act::GivenUp, Act::Elsewhere(1)]);
    search("taken away", world, acts);
}

#[test]
fn a_budget_that_is_granted_and_taken_back() {
    let mut rows = fleet(3);
    rows[2].online = false;
    let world = World::new(short(tolerating(in_batches(2), 1)), rows);
    let acts = and(usual(3), BUDGETS.map(Act::Granted));
    search("budget", world, and(acts, [Act::Sick(2), Act::Well(2), Act::Pinned(1)]));
}

#[test]
fn many_that_go_silent_together() {
    let spec = Spec { max_unavailable: Some(Amount::Count(2)), ..at_once() };
    let world = World::new(short(tolerating(spec, 1)), fleet(8));
    let acts = and(usual(2), [Act::AllSilent(3), Act::AllReturn(3), Act::LateTick]);
    search("presence", world, acts);
}

#[test]
fn the_start_itself_with_nodes_that_are_away_or_ill() {
    let mut world = World::new(short(in_batches(1)), fleet(2));
    world.db.row_mut(id(1)).online = false;
    let acts = and(usual(2), [Act::Sick(2), Act::Well(2), Act::Blocked, Act::Unblocked, Act::Elsewhere(2)]);
    search("away at the start", world, acts);
}

#[test]
fn one_node_and_nothing_unusual() {
    search("one node, usual", World::new(short(in_batches(1)), fleet(1)), usual(1));
}

/// With `MODEL_STATES` of three million this sees all there is: 2,620,486 states.
#[test]
fn one_node_and_everything_that_can_happen_to_it() {
    let world = World::new(short(in_batches(1)), fleet(1));
    let acts = and(usual(1), [Act::ResumeRetry, Act::LateTick, Act::FreezeBegins, Act::FreezeEnds, Act::Revoke]);
    let acts = and(acts, [Act::Blocked, Act::Unblocked, Act::GivenUp, Act::Pinned(1), Act::Excluded(1)]);
    let acts = and(acts, [Act::FallBack(1), Act::GateFails(1), Act::Sick(1), Act::Well(1), Act::TakenOver(1)]);
    let acts = and(acts, [Act::Elsewhere(1), Act::DebtDropped(1)]);
    search("one node", world, acts);
}

#[test]
fn two_nodes_and_nothing_unusual() {
    let world = World::new(short(in_batches(1)), fleet(2));
    search("two nodes", world, usual(2));
}
