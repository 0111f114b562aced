//! Silence: lost or owed by hand-over, and many at once.

use super::db::id;
use super::world::*;
use crate::rollout::*;
use crate::time::Span;

#[test]
fn silent_after_the_hand_over_is_lost_and_counts_as_failed() {
    let mut w = World::started(spec(), 3);
    w.poll(1);
    w.goes_silent(1);
    assert_eq!(w.failed(1), Some(FailReason::Lost));
    assert_eq!((w.phase(), w.r.head.counts.owed), (Phase::Paused, 0));
}

#[test]
fn silent_before_the_hand_over_is_owed_and_withdrawn() {
    let mut w = World::started(spec(), 3);
    w.goes_silent(1);
    assert_eq!(w.kind(1), NodeStateKind::Owed);
    assert_eq!((w.desired(1), w.member(1).told), (Some(old()), Told::Nothing));
    assert_eq!(w.on_their_way(), vec![2], "it does not block");
}

#[test]
fn a_hand_over_is_learned_from_presence_and_from_reports() {
    let mut w = World::started(at_once(), 2);
    w.feed(w.said(1, Said::Downloaded { bundle: Some(target()) }));
    assert!(w.member(1).handed_over && w.r.steps[0].handed_over);
    w.db.row_mut(id(1)).handed_over = w.generation(1);
    w.goes_silent(1);
    assert_eq!(w.failed(1), Some(FailReason::Lost));
}

#[test]
fn a_hand_over_of_an_earlier_generation_is_none_of_this_one() {
    let mut w = World::started(tolerating(at_once(), 1), 2);
    w.fails(1);
    w.retry();
    w.goes_silent(1);
    assert_eq!(w.kind(1), NodeStateKind::Owed, "the second attempt was never handed over");
}

#[test]
fn a_lost_node_that_comes_back_with_the_bundle_may_still_verify() {
    let mut w = World::started(spec(), 2);
    w.poll(1);
    w.goes_silent(1);
    w.returns(1);
    w.activates(1);
    assert_eq!(w.kind(1), NodeStateKind::Activated);
    w.passes(1);
    assert_eq!((w.kind(1), w.r.head.failures), (NodeStateKind::Verified, 0));
    assert_eq!(w.phase(), Phase::Paused, "a person decides whether to go on");
}

#[test]
fn a_lost_node_that_is_retried_while_away_begins_anew() {
    let mut w = World::started(in_batches(2), 3);
    w.verifies(2);
    w.poll(1);
    w.goes_silent(1);
    w.retry();
    assert_eq!((w.kind(1), w.desired(1)), (NodeStateKind::Owed, Some(old())), "the lost assignment is withdrawn");
    w.returns(1);
    assert_eq!(w.member(1).attempt, 2);
    w.all_verify([1, 3]);
    assert_eq!(w.phase(), Phase::Completed);
}

#[test]
fn a_short_silence_of_a_node_is_nothing() {
    let mut w = World::started(at_once(), 8);
    w.poll(1);
    w.goes_silent(1);
    assert_eq!(w.kind(1), NodeStateKind::Assigned, "it waits to see whether others go silent too");
    w.pass_time(10);
    w.returns(1);
    w.pass_time(200);
    assert_eq!(w.kind(1), NodeStateKind::Assigned);
    w.verifies(1);
}

#[test]
fn in_a_larger_fleet_a_silence_is_judged_after_a_while() {
    let mut w = World::started(tolerating(at_once(), 8), 8);
    w.poll(1);
    w.goes_silent(1);
    w.goes_silent(2);
    w.pass_time(120);
    assert_eq!(w.failed(1), Some(FailReason::Lost));
    assert_eq!(w.kind(2), NodeStateKind::Owed);
}

#[test]
fn a_silent_node_is_judged_by_its_silence_and_not_by_the_deadline() {
    let mut w = World::started(at_once(), 8);
    w.pass_time(590);
    w.goes_silent(1);
    for n in 2..=8 {
        w.feed(w.said(n, Said::Staged { bundle: Some(target()) }));
    }
    w.pass_time(15);
    assert_eq!(w.kind(1), NodeStateKind::Assigned);
    w.pass_time(100);
    assert_eq!(w.kind(1), NodeStateKind::Owed);
}

/// Ten nodes at once; more than five of them go silent together.
fn dark() -> World {
    let mut w = World::started(at_once(), 10);
    w.verifies(10);
    for n in 1..=3 {
        w.poll(n);
    }
    let changes = (1..=6).map(|n| w.presence(n, false)).collect();
    w.feed(Event::Presence { changes });
    w
}

#[test]
fn many_going_silent_together_pause_the_rollout() {
    let w = dark();
    assert_eq!((w.phase(), w.reason()), (Phase::Paused, "presence_lost"));
}

#[test]
fn nobody_is_judged_lost_or_owed_until_it_is_resumed() {
    let mut w = dark();
    w.pass_time(100_000);
    assert_eq!(w.on_their_way().len(), 9);
    w.resume();
    w.pass_time(40);
    for n in 1..=3 {
        assert_eq!(w.failed(n), Some(FailReason::Lost));
    }
    for n in 4..=6 {
        assert_eq!(w.kind(n), NodeStateKind::Owed);
    }
}

#[test]
fn those_that_returned_before_the_resume_are_not_judged() {
    let mut w = dark();
    w.pass_time(1_000);
    let changes = (1..=6).map(|n| w.presence(n, true)).collect();
    w.feed(Event::Presence { changes });
    w.resume();
    w.pass_time(400);
    assert_eq!((w.phase(), w.on_their_way().len()), (Phase::Running, 9));
}

#[test]
fn the_limit_is_five_or_a_fifth_of_the_online_targets() {
    let dark = |n: u32, silent: u32| {
        let mut w = World::started(at_once(), n);
        let changes = (1..=silent).map(|n| w.presence(n, false)).collect();
        w.feed(Event::Presence { changes });
        w.phase()
    };
    assert_eq!(dark(10, 5), Phase::Running);
    assert_eq!(dark(10, 6), Phase::Paused);
    assert_eq!(dark(50, 10), Phase::Running);
    assert_eq!(dark(50, 11), Phase::Paused);
}

#[test]
fn silences_far_apart_are_not_one_event() {
    let patient = Spec { progress_deadline: Span::secs(86_400), ..at_once() };
    let mut w = World::started(patient, 20);
    for n in 1..=8 {
        w.goes_silent(n);
        w.pass_time(121);
    }
    assert_eq!(w.phase(), Phase::Running);
    assert_eq!(w.r.head.counts.owed, 8);
}

#[test]
fn any_stale_time_counts_wherever_it_begins() {
    let patient = Spec { progress_deadline: Span::secs(86_400), ..at_once() };
    let mut w = World::started(patient, 20);
    w.goes_silent(1);
    w.pass_time(100);
    (2..=4).for_each(|n| drop(w.goes_silent(n)));
    w.pass_time(50);
    (5..=6).for_each(|n| drop(w.goes_silent(n)));
    assert_eq!(w.phase(), Phase::Running, "five within the last 120 seconds");
    w.goes_silent(7);
    assert_eq!((w.phase(), w.reason()), (Phase::Paused, "presence_lost"));
}

#[test]
fn one_node_that_comes_and_goes_is_one_node() {
    let mut w = World::started(in_batches(1), 10);
    for _ in 0..20 {
        w.goes_silent(9);
        w.returns(9);
    }
    w.goes_silent(9);
    assert_eq!(w.phase(), Phase::Running);
}

#[test]
fn silences_that_were_looked_at_count_no_more() {
    let mut w = dark();
    w.resume();
    w.goes_silent(7);
    assert_eq!(w.causes(), Vec::new());
}

#[test]
fn nodes_that_are_not_on_their_way_count_too() {
    let mut w = World::started(in_batches(1), 10);
    let changes = (4..=9).map(|n| w.presence(n, false)).collect();
    w.feed(Event::Presence { changes });
    assert_eq!(w.phase(), Phase::Paused);
    w.resume();
    assert_eq!(w.phase(), Phase::Running);
    assert_eq!(w.kind(1), NodeStateKind::Assigned);
}

#[test]
fn presence_that_is_known_already_changes_nothing() {
    let mut w = World::started(spec(), 2);
    let change = w.presence(1, true);
    w.ignored(Event::Presence { changes: vec![change, PresenceChange { node: id(77), ..change }] });
}
