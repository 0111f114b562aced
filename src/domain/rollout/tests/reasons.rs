//! `explain`: exactly one primary reason, in every state. That it always fits the phase is checked behind every event of every test.

use super::db::id;
use super::world::*;
use crate::node::HealthClass;
use crate::project::Amount;
use crate::rollout::*;
use crate::time::Timestamp;

fn code(w: &World) -> &'static str {
    explain(&w.r).code
}

#[test]
fn before_the_start_it_says_what_it_waits_for() {
    assert_eq!(code(&World::pending(spec(), 1)), "starting");
    assert_eq!(code(&World::pending(Spec { start: false, ..spec() }, 1)), "awaiting_start");
    assert_eq!(code(&World::pending(Spec { scheduled_at: Some(Timestamp(9)), ..spec() }, 1)), "scheduled");
}

#[test]
fn while_it_runs_it_names_the_step_the_limit_or_the_blocker() {
    let mut w = World::started(Spec { max_unavailable: Some(Amount::Count(1)), ..in_batches(1) }, 3);
    assert_eq!(explain(&w.r).text, "step 1 of 3: 1 nodes to go");
    w.health(3, HealthClass::Unhealthy);
    w.verifies(1);
    assert_eq!(code(&w), "max_unavailable");
    w.feed(Event::WaitBegan { wait: Wait::Store });
    assert_eq!(code(&w), "store_unavailable");
}

#[test]
fn of_several_causes_the_gravest_is_named() {
    let mut w = World::started(in_batches(2), 2);
    w.feed(Event::FreezeBegan);
    assert_eq!(code(&w), "freeze");
    w.pause();
    w.fails(1);
    assert_eq!(code(&w), "gate");
    w.feed(Event::ControllerFailed { note: "gave up".into() });
    assert_eq!(code(&w), "controller");
}

#[test]
fn the_lane_and_the_wait_for_a_target_have_reasons_of_their_own() {
    let mut w = World::pending(spec(), 1);
    w.db.row_mut(id(1)).online = false;
    w = w.start();
    assert_eq!(code(&w), "no_reachable_target");
    w.returns(1);
    assert_eq!(code(&w), "catch_up");
}

#[test]
fn every_end_says_what_it_came_to() {
    let mut w = World::started(in_batches(2), 2);
    w.verifies(1);
    w.verifies(2);
    assert_eq!(explain(&w.r).text, "every target verified");
    w.rollback();
    assert_eq!(explain(&w.r).text, "2 nodes are going back");
    w.verifies(1);
    w.pass_time(300);
    assert_eq!(explain(&w.r).text, "rolled back; 1 nodes could not be restored");
    let mut w = World::started(tolerating(in_batches(2), 1), 2);
    w.verifies(1);
    w.fails(2);
    assert_eq!((w.phase(), explain(&w.r).text.as_str()), (Phase::Completed, "completed; 1 nodes failed"));
    let mut w = World::pending(in_batches(4), 4);
    [2, 3, 4].iter().for_each(|n| w.db.row_mut(id(*n)).online = false);
    let mut w = w.start();
    w.verifies(1);
    assert_eq!(explain(&w.r).text, "completed; 3 nodes are owed the bundle");
    w.returns(2);
    w.fails(2);
    let halted = "completed; 2 nodes are owed the bundle, 1 failed; catching up was stopped by its failures";
    assert_eq!((code(&w), explain(&w.r).text.as_str()), ("completed", halted));
    let mut w = World::started(Spec { on_failure: OnFailure::Fail, ..spec() }, 1);
    w.fails(1);
    assert_eq!((code(&w), explain(&w.r).text.as_str()), ("failed", "1 failed, 0 tolerated"));
    let mut w = World::pending(spec(), 1);
    w.feed(Event::Cancel { note: Some("wrong bundle".into()) });
    assert_eq!((code(&w), explain(&w.r).text.as_str()), ("cancelled", "wrong bundle"));
}
