//! Strategies, and when a step ends.

use super::db::{Row, id};
use super::world::*;
use crate::project::Amount;
use crate::rollout::*;

#[test]
fn a_rolling_rollout_gives_one_batch_at_a_time_the_bundle() {
    let mut w = World::started(in_batches(2), 5);
    assert_eq!(w.on_their_way(), vec![1, 2]);
    w.verifies(1);
    assert_eq!(w.on_their_way(), vec![2], "half a batch is not a batch");
    w.verifies(2);
    assert_eq!(w.on_their_way(), vec![3, 4]);
    w.all_verify([3, 4, 5]);
    assert_eq!(w.phase(), Phase::Completed);
    assert_eq!(w.r.head.counts.verified, 5);
}

#[test]
fn the_report_that_completes_a_step_starts_the_next_in_the_same_decision() {
    let mut w = World::started(in_batches(1), 2);
    let d = w.verifies(1);
    assert_eq!(w.kind(1), NodeStateKind::Verified);
    assert_eq!(w.kind(2), NodeStateKind::Assigned);
    let position = |f: &Fact| d.facts.iter().position(|x| x == f).unwrap();
    assert!(position(&Fact::StepCompleted { step: 0 }) < position(&Fact::StepStarted { step: 1, nodes: 1 }));
    assert!(d.effects.contains(&Effect::Notify { nodes: vec![id(2)] }));
}

#[test]
fn start_assigns_the_first_step_in_the_same_decision() {
    let mut w = World::pending(in_batches(2), 3);
    let d = w.feed(w.start_event());
    assert_eq!(d.effects, vec![Effect::Notify { nodes: vec![id(1), id(2)] }]);
    assert_eq!(w.generation(1), 2);
    assert_eq!(w.desired(1), Some(target()));
    assert_eq!(w.desired(3), Some(old()));
}

#[test]
fn all_at_once_is_one_step() {
    let mut w = World::started(at_once(), 4);
    assert_eq!(w.on_their_way(), vec![1, 2, 3, 4]);
    w.all_verify([4, 3, 2, 1]);
    assert_eq!(w.phase(), Phase::Completed);
    assert_eq!(w.count_facts(|f| matches!(f, Fact::StepStarted { .. })), 1);
}

#[test]
fn a_canary_grows_from_few_to_all() {
    let mut w = World::started(Spec { strategy: StrategyKind::Canary, canary: Canary::default(), ..canary() }, 8);
    for size in [1, 1, 2, 4] {
        let out = w.on_their_way();
        assert_eq!(out.len(), size);
        w.all_verify(out);
        w.serve(1_000, 0);
    }
    assert_eq!(w.phase(), Phase::Completed);
}

#[test]
fn a_step_ends_with_every_node_verified_owed_skipped_or_tolerated() {
    let mut w = World::pending(tolerating(in_batches(4), 1), 5);
    w.db.row_mut(id(2)).online = false;
    w = w.start();
    assert_eq!(w.kind(2), NodeStateKind::Owed);
    w.verifies(1);
    w.feed(Event::Removed { nodes: vec![id(3)], reason: SkipReason::Pinned });
    assert_eq!(w.kind(5), NodeStateKind::Pending);
    w.fails(4);
    assert_eq!(w.kind(5), NodeStateKind::Assigned);
}

#[test]
fn targets_are_resolved_again_at_start() {
    let mut w = World::pending(in_batches(2), 4);
    let mut facts: Vec<Facts> = [1, 2, 3].map(|n| w.db.facts(id(n))).into();
    facts[0].skip = Some(SkipReason::Pinned);
    w.db.rows.insert(id(5), Row::on(Some(old())));
    facts.push(w.db.facts(id(5)));
    w.feed(Event::Start { facts });
    assert_eq!(w.skipped(1), Some(SkipReason::Pinned));
    assert_eq!(w.skipped(4), Some(SkipReason::Vanished));
    assert_eq!(w.on_their_way(), vec![2]);
    assert_eq!(w.member(5).step, None, "new ones join through the lane");
    assert_eq!(w.r.head.planned, 2, "percentages are of the targets that are left");
    w.verifies(2);
    assert_eq!(w.on_their_way(), vec![3, 5]);
    w.verifies(3);
    assert_eq!(w.phase(), Phase::Completed, "the lane never holds completion");
}

#[test]
fn a_large_step_is_assigned_a_thousand_per_commit_and_goes_on() {
    let mut w = World::pending(at_once(), 2_500);
    w.wakes = false;
    let d = w.feed(w.start_event());
    assert_eq!(w.r.head.counts.assigned, MAX_ASSIGN_PER_COMMIT);
    assert!(d.effects.contains(&Effect::Continue));
    assert_eq!(w.r.steps[0].cursor, MAX_ASSIGN_PER_COMMIT);
    // The wake-up is lost with the process; the next owner goes on where the first one stopped.
    w.r = Rollout::load(w.r.rows());
    let d = w.feed(Event::OwnerStarted { down: crate::time::Span::ZERO });
    assert_eq!(w.r.head.counts.assigned, 2 * MAX_ASSIGN_PER_COMMIT);
    assert!(d.effects.contains(&Effect::Continue));
    let d = w.feed(Event::Timer);
    assert_eq!(w.r.head.counts.assigned, 2_500);
    assert!(!d.effects.contains(&Effect::Continue));
    w.ignored(Event::Timer);
}

#[test]
fn a_report_costs_the_rows_that_it_touches() {
    let mut w = World::started(at_once(), 900);
    w.poll(7);
    let d = w.feed(w.said(7, Said::Staged { bundle: Some(target()) }));
    let rows = d.changes.iter().filter(|c| matches!(c, Change::Member { .. })).count();
    assert_eq!((rows, d.changes.len()), (1, 3), "the head, the step that now handed something over, one node");
}

#[test]
fn a_ramp_makes_later_batches_larger() {
    let mut w = World::started(Spec { ramp: Some(2.0), ..in_batches(1) }, 7);
    w.verifies(1);
    assert_eq!(w.on_their_way(), vec![2, 3]);
    w.all_verify([2, 3]);
    assert_eq!(w.on_their_way(), vec![4, 5, 6, 7]);
}

#[test]
fn percentages_of_a_batch_are_rounded_up() {
    let w = World::started(Spec { batch_size: Amount::Percent(30), ..spec() }, 5);
    assert_eq!(w.on_their_way(), vec![1, 2]);
}

#[test]
fn with_no_target_left_it_waits_for_one() {
    let mut w = World::pending(spec(), 2);
    for n in [1, 2] {
        w.db.row_mut(id(n)).skip = Some(SkipReason::Pinned);
    }
    w = w.start();
    assert_eq!((w.phase(), w.reason()), (Phase::Running, "no_reachable_target"));
}
