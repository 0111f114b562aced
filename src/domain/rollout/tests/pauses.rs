//! Pausing and going on: the set of causes, and the clocks.

use super::db::id;
use super::world::*;
use crate::rollout::*;
use crate::time::Span;

#[test]
fn a_paused_rollout_assigns_nothing() {
    let mut w = World::started(in_batches(1), 3);
    w.pause();
    w.verifies(1);
    assert_eq!(w.kind(1), NodeStateKind::Verified, "reports are still judged");
    assert_eq!(w.on_their_way(), Vec::<u32>::new());
    w.resume();
    assert_eq!(w.on_their_way(), vec![2]);
}

#[test]
fn it_runs_again_when_the_set_of_causes_is_empty() {
    let mut w = World::started(spec(), 2);
    w.feed(Event::FreezeBegan);
    w.pause();
    assert_eq!(w.causes(), vec![PauseCause::Person, PauseCause::Freeze]);
    w.resume();
    assert_eq!(w.causes(), vec![PauseCause::Freeze], "resume clears every cause but the freeze");
    assert_eq!(w.phase(), Phase::Paused);
    w.feed(Event::FreezeEnded);
    assert_eq!(w.phase(), Phase::Running);
}

#[test]
fn a_freeze_pause_ends_with_the_freeze_and_not_by_resume() {
    let mut w = World::started(spec(), 2);
    w.feed(Event::FreezeBegan);
    let Rejection::NotAllowed { phase, allowed, why, .. } =
        w.refused(Event::Resume { retry: false, accept_failed: false })
    else {
        panic!()
    };
    assert_eq!(phase, Phase::Paused);
    assert!(allowed.contains(&"cancel") && why.is_some());
    w.feed(Event::FreezeEnded);
    assert_eq!(w.phase(), Phase::Running);
    w.ignored(Event::FreezeEnded);
}

#[test]
fn a_person_who_paused_before_the_freeze_ended_is_still_heeded() {
    let mut w = World::started(spec(), 2);
    w.feed(Event::FreezeBegan);
    w.pause();
    w.feed(Event::FreezeEnded);
    assert_eq!((w.phase(), w.reason()), (Phase::Paused, "person"));
}

#[test]
fn pausing_twice_is_already_so() {
    let mut w = World::started(spec(), 1);
    w.pause();
    assert_eq!(w.refused(Event::Pause { note: None }), Rejection::AlreadySo);
    w.resume();
    assert_eq!(w.refused(Event::Resume { retry: false, accept_failed: false }), Rejection::AlreadySo);
    assert_eq!(w.refused(w.start_event()), Rejection::AlreadySo);
}

#[test]
fn after_a_gate_pause_resume_needs_an_answer() {
    let mut w = World::started(in_batches(2), 3);
    w.verifies(2);
    w.fails(1);
    assert!(matches!(
        w.refused(Event::Resume { retry: false, accept_failed: false }),
        Rejection::NotAllowed { why: Some(_), .. }
    ));
    w.feed(Event::Resume { retry: true, accept_failed: false });
    assert_eq!((w.phase(), w.kind(1)), (Phase::Running, NodeStateKind::Assigned));
    assert_eq!(w.r.steps[0].error, None);
}

#[test]
fn pause_and_resume_with_nothing_between_change_nothing_but_clocks() {
    let mut w = World::started(in_batches(2), 5);
    w.activates(1);
    let before = w.r.clone();
    w.pause();
    w.tick(5_000);
    w.resume();
    assert_eq!(w.r.steps, before.steps);
    assert_eq!(w.r.members, before.members);
    let same = Head {
        version: before.head.version,
        clock: before.head.clock,
        wake_at: before.head.wake_at,
        ..w.r.head.clone()
    };
    assert_eq!(same, before.head);
}

#[test]
fn the_deadline_is_counted_from_the_last_forward_move() {
    let mut w = World::started(spec(), 2);
    w.pass_time(500);
    w.feed(w.said(1, Said::Downloaded { bundle: Some(target()) }));
    w.pass_time(599);
    assert_eq!(w.kind(1), NodeStateKind::Downloaded);
    w.pass_time(1);
    assert_eq!(w.failed(1), Some(FailReason::Deadline));
    assert_eq!((w.phase(), w.reason()), (Phase::Paused, "gate"));
}

#[test]
fn the_deadline_stands_still_while_paused() {
    let mut w = World::started(spec(), 1);
    w.pass_time(500);
    w.pause();
    w.pass_time(10_000);
    assert_eq!(w.kind(1), NodeStateKind::Assigned);
    w.resume();
    w.pass_time(99);
    assert_eq!(w.kind(1), NodeStateKind::Assigned);
    w.pass_time(1);
    assert_eq!(w.failed(1), Some(FailReason::Deadline));
}

#[test]
fn the_deadline_stands_still_while_something_outside_holds_it_up() {
    let mut w = World::started(in_batches(1), 2);
    w.feed(Event::WaitBegan { wait: Wait::Artifact });
    assert_eq!((w.phase(), w.reason()), (Phase::Running, "artifact_unavailable"));
    w.feed(Event::WaitBegan { wait: Wait::Store });
    w.pass_time(10_000);
    w.verifies(1);
    assert_eq!(w.on_their_way(), Vec::<u32>::new(), "a wait assigns nothing");
    w.feed(Event::WaitEnded { wait: Wait::Artifact });
    assert_eq!(w.reason(), "store_unavailable");
    w.feed(Event::WaitEnded { wait: Wait::Store });
    assert_eq!(w.on_their_way(), vec![2]);
    w.pass_time(599);
    assert_eq!(w.kind(2), NodeStateKind::Assigned);
}

#[test]
fn soaking_is_not_stuck() {
    let soaking = GateSpec { soak: Span::secs(300), ..GateSpec::default() };
    let mut w = World::started(Spec { judge: soaking, ..spec() }, 1);
    w.activates(1);
    w.pass_time(600);
    assert_eq!(w.kind(1), NodeStateKind::Activated);
    w.pass_time(301);
    assert_eq!(w.failed(1), Some(FailReason::Deadline), "but not for ever");
}

#[test]
fn time_without_an_owner_does_not_count() {
    let mut w = World::started(spec(), 1);
    w.pass_time(500);
    w.tick(1_000);
    w.feed(Event::OwnerStarted { down: Span::secs(1_000) });
    w.pass_time(99);
    assert_eq!(w.kind(1), NodeStateKind::Assigned);
    w.pass_time(1);
    assert_eq!(w.failed(1), Some(FailReason::Deadline));
}

#[test]
fn the_rollback_deadline_does_not_count_time_without_an_owner_either() {
    let mut w = World::started(spec(), 1);
    w.rollback();
    w.pass_time(200);
    w.tick(1_000);
    w.feed(Event::OwnerStarted { down: Span::secs(1_000) });
    assert_eq!(w.phase(), Phase::RollingBack);
    w.pass_time(100);
    assert_eq!(w.phase(), Phase::RolledBack);
}

#[test]
fn a_step_that_ends_without_any_evidence_pauses() {
    let mut w = World::started(tolerating(in_batches(1), 5), 3);
    w.fails(1);
    assert_eq!((w.phase(), w.reason()), (Phase::Paused, "no_evidence"));
    assert_eq!(w.kind(2), NodeStateKind::Pending);
    w.resume();
    assert_eq!(
        (w.phase(), w.kind(2)),
        (Phase::Running, NodeStateKind::Assigned),
        "a person takes the evidence's place"
    );
    w.verifies(2);
    assert_eq!(w.on_their_way(), vec![3]);
}

#[test]
fn resuming_no_evidence_in_a_freeze_is_not_forgotten_when_the_freeze_ends() {
    let mut w = World::started(tolerating(in_batches(1), 5), 3);
    w.fails(1);
    w.feed(Event::FreezeBegan);
    w.resume();
    assert_eq!(w.causes(), vec![PauseCause::Freeze]);
    w.feed(Event::FreezeEnded);
    assert_eq!((w.phase(), w.kind(2)), (Phase::Running, NodeStateKind::Assigned));
}

#[test]
fn when_every_node_failed_nothing_is_left_to_wait_for() {
    let mut w = World::started(tolerating(in_batches(1), 2), 2);
    w.fails(1);
    w.resume();
    w.fails(2);
    w.resume();
    assert_eq!((w.phase(), w.reason()), (Phase::Paused, "no_evidence"));
    w.feed(Event::Retry { nodes: Some([id(2)].into()) });
    w.resume();
    w.verifies(2);
    assert_eq!(w.phase(), Phase::Completed);
}

#[test]
fn an_actor_that_was_given_up_fails_closed() {
    let mut w = World::started(spec(), 2);
    w.feed(Event::ControllerFailed { note: "panicked five times".into() });
    assert_eq!((w.phase(), w.reason()), (Phase::Paused, "controller"));
    w.resume();
    assert_eq!(w.phase(), Phase::Running);
}

#[test]
fn a_large_step_stops_between_its_portions_when_paused() {
    let mut w = World::pending(at_once(), 1_100);
    w.wakes = false;
    w.feed(w.start_event());
    w.pause();
    w.ignored(Event::Timer);
    assert_eq!(w.r.head.counts.pending, 100);
    w.resume();
    assert_eq!(w.r.head.counts.pending, 0);
}
