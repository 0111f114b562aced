//! Cancelling, revoking, removing: how a rollout stops early.

use super::db::{Holder, id};
use super::world::*;
use crate::rollout::*;

#[test]
fn cancel_reverts_what_is_not_verified() {
    let mut w = World::started(in_batches(3), 5);
    w.verifies(1);
    w.activates(2);
    w.cancel();
    assert_eq!(w.phase(), Phase::Cancelled);
    assert_eq!([1, 2, 3, 4].map(|n| w.desired(n)), [Some(target()), Some(old()), Some(old()), Some(old())]);
    assert_eq!([2, 3, 4].map(|n| w.skipped(n)), [Some(SkipReason::Cancelled); 3]);
    assert!(w.db.rows.values().all(|r| r.holder == Holder::Nobody));
    assert_eq!(w.r.steps[0].state, StepState::Failed, "no step of an ended rollout still runs");
    assert_eq!(w.refused(Event::Cancel { note: None }), Rejection::AlreadySo);
}

#[test]
fn cancel_before_the_start_touches_nothing() {
    let mut w = World::pending(spec(), 2);
    w.cancel();
    assert_eq!(w.phase(), Phase::Cancelled);
    assert_eq!(w.generation(1), 1);
}

#[test]
fn a_node_retried_while_paused_is_reverted_by_cancel_too() {
    let mut w = World::started(in_batches(1), 2);
    w.fails(1);
    w.pause();
    w.retry();
    w.cancel();
    assert_eq!((w.desired(1), w.skipped(1)), (Some(old()), Some(SkipReason::Cancelled)));
}

#[test]
fn an_ended_rollout_answers_what_it_still_allows() {
    let mut w = World::started(spec(), 1);
    w.cancel();
    for command in [
        Event::Pause { note: None },
        Event::Resume { retry: true, accept_failed: false },
        Event::Retry { nodes: None },
        rollback_event(&[]),
        w.start_event(),
    ] {
        assert!(matches!(w.refused(command), Rejection::NotAllowed { phase: Phase::Cancelled, .. }));
    }
    let mut w = World::started(spec(), 1);
    w.verifies(1);
    let Rejection::NotAllowed { allowed, command, .. } = w.refused(Event::Cancel { note: None }) else { panic!() };
    assert_eq!((command, allowed), ("cancel", vec!["rollback"]));
}

#[test]
fn a_revoked_bundle_fails_the_rollout() {
    let mut w = World::started(in_batches(2), 3);
    w.verifies(1);
    w.feed(Event::BundleRevoked { revoked: [target()].into() });
    assert_eq!(w.phase(), Phase::Failed);
    assert_eq!([1, 2].map(|n| w.desired(n)), [Some(target()), Some(old())], "revocation moves nobody by itself");
    assert_eq!(explain(&w.r).text, "the bundle was revoked");
}

#[test]
fn a_revoked_bundle_rolls_back_when_failures_would() {
    let mut w = World::started(Spec { on_failure: OnFailure::Rollback, ..in_batches(2) }, 3);
    w.verifies(1);
    w.feed(Event::BundleRevoked { revoked: [target()].into() });
    assert_eq!((w.phase(), w.desired(1)), (Phase::RollingBack, Some(old())));
}

#[test]
fn a_revoked_bundle_cancels_what_has_not_started() {
    let mut w = World::pending(spec(), 1);
    w.feed(Event::BundleRevoked { revoked: [target()].into() });
    assert_eq!(w.phase(), Phase::Cancelled);
}

#[test]
fn a_pinned_node_is_skipped_and_left_to_its_pin() {
    let mut w = World::started(in_batches(2), 3);
    let before = w.generation(1);
    w.feed(Event::Removed { nodes: vec![id(1), id(3), id(77)], reason: SkipReason::Pinned });
    assert_eq!([1, 3].map(|n| w.skipped(n)), [Some(SkipReason::Pinned); 2]);
    assert_eq!(w.generation(1), before, "the pin says what it runs");
    assert_eq!(w.db.row(id(1)).holder, Holder::Nobody);
    w.verifies(2);
    assert_eq!(w.phase(), Phase::Completed);
    w.rollback();
    assert_eq!(w.generation(1), before, "a rollback never touches it");
}

#[test]
fn a_node_that_is_taken_out_goes_back_to_what_it_had() {
    for reason in [SkipReason::Excluded, SkipReason::Quarantined, SkipReason::IdentityConflict] {
        let mut w = World::started(in_batches(2), 2);
        w.activates(1);
        w.feed(Event::Removed { nodes: vec![id(1)], reason });
        assert_eq!((w.skipped(1), w.desired(1)), (Some(reason), Some(old())));
    }
}

#[test]
fn a_node_that_is_taken_out_completes_its_step() {
    let mut w = World::started(in_batches(2), 3);
    w.verifies(1);
    w.feed(Event::Removed { nodes: vec![id(2)], reason: SkipReason::Deleted });
    assert_eq!(w.on_their_way(), vec![3]);
}

#[test]
fn a_rollout_whose_nodes_were_all_taken_over_ends_cancelled() {
    let mut w = World::started(in_batches(2), 3);
    w.feed(Event::Removed { nodes: vec![id(1), id(2)], reason: SkipReason::Superseded });
    assert_eq!(w.on_their_way(), vec![3]);
    w.feed(Event::Removed { nodes: vec![id(3)], reason: SkipReason::Superseded });
    assert_eq!(w.phase(), Phase::Cancelled);
    assert_eq!([1, 2, 3].map(|n| w.skipped(n)), [Some(SkipReason::Superseded); 3]);
}

#[test]
fn removing_a_node_that_is_owed_ends_its_debt() {
    let mut w = World::pending(in_batches(1), 2);
    w.db.row_mut(id(1)).online = false;
    w = w.start();
    w.feed(Event::Removed { nodes: vec![id(1)], reason: SkipReason::Deleted });
    assert_eq!(w.db.row(id(1)).debt, None);
}

#[test]
fn a_node_pinned_to_the_very_bundle_is_left_there_when_the_others_go_back() {
    let kinds = |spec: &Spec, is: fn(RolloutKind) -> bool| {
        let of = |kind| Spec { kind, ..spec.clone() };
        RolloutKind::ALL.iter().copied().filter(|k| is(*k)).map(of).collect::<Vec<_>>()
    };
    for to_pins in kinds(&spec(), |k| matches!(k, RolloutKind::Pin | RolloutKind::DriftRepair)) {
        assert!(!to_pins.leaves_pinned(target()) && to_pins.leaves_pinned(old()));
    }
    for other in kinds(&spec(), |k| !matches!(k, RolloutKind::Pin | RolloutKind::DriftRepair)) {
        assert!(other.leaves_pinned(target()) && other.leaves_pinned(old()), "{}", other.kind);
    }
    let mut w = World::started(Spec { on_failure: OnFailure::Rollback, ..in_batches(3) }, 5);
    w.verifies(1);
    w.activates(2);
    let lets_go = |w: &World, n: u32, pin| w.r.spec.lets_go(w.member(n), pin);
    assert!(lets_go(&w, 1, target()), "it runs what it is pinned to");
    assert!(!lets_go(&w, 1, old()), "the rollout made for the pin takes it over");
    assert!(!lets_go(&w, 2, target()), "not verified yet: taken over too");
    assert!(lets_go(&w, 4, target()) && lets_go(&w, 4, old()), "nothing was assigned to it");
    w.feed(Event::Removed { nodes: vec![id(1)], reason: SkipReason::Pinned });
    w.fails(3);
    assert_eq!(w.phase(), Phase::RollingBack);
    assert_eq!([1, 2, 3].map(|n| w.desired(n)), [Some(target()), Some(old()), Some(old())]);
}
