//! "Not now": put off is what was not named yet, and nothing else.

use super::db::id;
use super::world::*;
use crate::rollout::*;

#[test]
fn a_node_that_says_not_now_is_owed_and_holds_up_nobody() {
    let mut w = World::pending(in_batches(2), 4);
    w.says_busy(2, true);
    let mut w = w.start();
    assert_eq!((w.kind(2), w.on_their_way()), (NodeStateKind::Owed, vec![1]));
    w.all_verify([1, 3, 4]);
    assert_eq!((w.phase(), w.r.head.counts.owed), (Phase::Completed, 1));
    w.says_busy(2, false);
    assert_eq!(w.kind(2), NodeStateKind::Assigned, "it gets the bundle when it is free");
    w.verifies(2);
    assert_eq!(w.r.head.counts.verified, 4);
}

#[test]
fn an_assignment_that_was_named_to_nobody_is_withdrawn() {
    let mut w = World::started(spec(), 3);
    w.says_busy(1, true);
    assert_eq!((w.kind(1), w.desired(1), w.member(1).told), (NodeStateKind::Owed, Some(old()), Told::Nothing));
    assert_eq!(w.on_their_way(), vec![2], "it does not block");
}

#[test]
fn what_was_named_goes_on() {
    let mut w = World::started(spec(), 3);
    w.poll(1);
    w.says_busy(1, true);
    assert_eq!(w.kind(1), NodeStateKind::Assigned);
    w.verifies(1);
    assert_eq!(w.kind(1), NodeStateKind::Verified);
    // Known by its report alone.
    w.feed(w.said(2, Said::Downloaded { bundle: Some(target()) }));
    w.says_busy(2, true);
    assert_eq!(w.kind(2), NodeStateKind::Downloaded);
}

#[test]
fn nobody_puts_off_the_way_back() {
    let mut w = World::started(in_batches(2), 3);
    w.all_verify([1, 2]);
    w.says_busy(1, true);
    w.rollback();
    assert!(matches!(w.member(1).state, NodeState::RollingBack { owed: false, .. }));
    assert_eq!(w.desired(1), Some(old()));
}

#[test]
fn being_busy_is_no_silence() {
    let mut w = World::started(in_batches(1), 12);
    (2..=12).for_each(|n| drop(w.says_busy(n, true)));
    assert_eq!((w.phase(), w.causes()), (Phase::Running, Vec::new()), "eleven of twelve are away, and none is silent");
    w.verifies(1);
    assert_eq!((w.phase(), w.r.head.counts.owed), (Phase::Completed, 11));
    // Silent while it is busy, and busy when it is back: owed all the same.
    w.goes_silent(2);
    w.returns(2);
    assert_eq!(w.kind(2), NodeStateKind::Owed);
    w.says_busy(2, false);
    assert_eq!(w.kind(2), NodeStateKind::Assigned);
}

#[test]
fn one_that_comes_back_busy_was_silent_no_longer() {
    let mut w = World::started(at_once(), 8);
    w.goes_silent(1);
    assert_eq!(w.kind(1), NodeStateKind::Assigned, "it waits to see whether others go silent too");
    w.says_busy(1, true);
    assert_eq!((w.kind(1), w.member(1).silent_since), (NodeStateKind::Owed, None));
}

#[test]
fn all_of_them_busy_is_a_rollout_that_waits() {
    let mut w = World::pending(spec(), 2);
    w.says_busy(1, true);
    w.says_busy(2, true);
    let mut w = w.start();
    assert_eq!((w.phase(), w.reason()), (Phase::Running, "no_reachable_target"));
    w.says_busy(2, false);
    assert_eq!(w.on_their_way(), vec![2], "the first that is free is the next step");
    w.ignored(Event::Presence {
        changes: vec![PresenceChange { node: id(2), online: true, handed_over: 0, busy: false }],
    });
}
