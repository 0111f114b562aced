//! Failures: how many are tolerated, and what happens beyond.

use super::db::{Row, bundle, id};
use super::world::*;
use crate::node::{GateVerdict, HealthClass, HistoryOutcome};
use crate::project::Amount;
use crate::rollout::*;

#[test]
fn nothing_is_tolerated_by_default() {
    let mut w = World::started(in_batches(1), 3);
    w.fails(1);
    assert_eq!((w.phase(), w.reason()), (Phase::Paused, "gate"));
    assert_eq!(w.failed(1), Some(FailReason::Reported));
    assert_eq!(w.desired(1), Some(target()), "it stays as it is until a person decides");
    assert!(w.r.steps[0].error.as_deref().unwrap().contains("1 failed, 0 tolerated"));
    let NodeState::Failed { error, .. } = &w.member(1).state else { panic!() };
    assert_eq!(error.as_deref(), Some("it broke"), "the first line is what failures are grouped by");
}

#[test]
fn the_history_of_a_node_says_that_the_bundle_failed_on_it() {
    let mut w = World::started(in_batches(1), 2);
    let told = w.generation(1);
    let d = w.fails(1);
    let says = |c: &&Change| {
        matches!(c, Change::HistoryEnded { node, bundle, generation, how: HistoryOutcome::Failed, .. }
            if (*node, *bundle, *generation) == (id(1), target(), told))
    };
    assert_eq!(d.changes.iter().filter(says).count(), 1, "or something automatic would give it the bundle again");
}

#[test]
fn a_tolerated_failure_is_returned_to_its_last_verified_bundle_at_once() {
    let mut w = World::started(tolerating(in_batches(2), 1), 4);
    w.verifies(2);
    let d = w.fails(1);
    assert_eq!(w.desired(1), Some(old()));
    assert_eq!(w.member(1).told, Told::Back(Some(old())));
    assert_eq!(w.kind(1), NodeStateKind::Failed, "and listed");
    assert!(d.effects.iter().any(|e| matches!(e, Effect::Notify { nodes } if nodes.contains(&id(1)))));
    assert_eq!(w.on_their_way(), vec![3, 4], "the rollout goes on");
    w.all_verify([3, 4]);
    assert_eq!(w.phase(), Phase::Completed);
}

#[test]
fn the_threshold_counts_distinct_nodes_over_the_whole_rollout() {
    let mut w = World::started(tolerating(in_batches(2), 1), 6);
    w.verifies(1);
    w.fails(2);
    w.verifies(3);
    assert_eq!(w.phase(), Phase::Running);
    w.fails(4);
    assert_eq!(w.phase(), Phase::Paused);
    assert_eq!(w.desired(4), Some(target()));
}

#[test]
fn a_percentage_of_failures_is_of_planned_targets_rounded_down() {
    let spec = Spec { failure_threshold: Amount::Percent(40), ..at_once() };
    let mut w = World::started(spec, 4);
    w.fails(1);
    assert_eq!(w.phase(), Phase::Running);
    w.fails(2);
    assert_eq!(w.phase(), Phase::Paused);
}

#[test]
fn on_failure_fail_ends_it_and_takes_back_what_is_not_verified() {
    let mut w = World::started(Spec { on_failure: OnFailure::Fail, ..in_batches(3) }, 5);
    w.verifies(1);
    w.activates(2);
    w.fails(3);
    assert_eq!(w.phase(), Phase::Failed);
    assert_eq!(w.desired(1), Some(target()), "what verified stays");
    assert_eq!((w.desired(2), w.desired(3)), (Some(old()), Some(old())), "also nodes already activated");
    assert_eq!(w.skipped(4), Some(SkipReason::Cancelled));
    assert_eq!(w.r.steps[0].state, StepState::Failed);
    assert_eq!(w.count_facts(|f| matches!(f, Fact::StepFailed { .. })), 1);
}

#[test]
fn on_failure_rollback_takes_every_touched_node_back() {
    let mut w = World::started(Spec { on_failure: OnFailure::Rollback, ..in_batches(2) }, 4);
    w.all_verify([1, 2]);
    w.fails(3);
    assert_eq!(w.phase(), Phase::RollingBack);
    assert!(w.r.head.auto_rollback);
    for n in [1, 2, 3, 4] {
        assert_eq!(w.desired(n), Some(old()));
    }
    w.all_verify([1, 2, 3, 4]);
    assert_eq!(w.phase(), Phase::RolledBack);
}

#[test]
fn an_automatic_rollback_acts_while_paused() {
    let mut w = World::started(Spec { on_failure: OnFailure::Rollback, ..in_batches(2) }, 2);
    w.pause();
    w.fails(1);
    assert_eq!(w.phase(), Phase::RollingBack);
}

#[test]
fn an_outage_of_all_nodes_does_not_take_back_an_innocent_change() {
    let mut w = World::started(Spec { on_failure: OnFailure::Rollback, ..in_batches(2) }, 6);
    w.verifies(1);
    for n in [4, 5, 6] {
        w.health(n, HealthClass::Unhealthy);
    }
    w.activates(2);
    w.gate(2, GateVerdict::Fail);
    assert_eq!((w.phase(), w.reason()), (Phase::Paused, "fleet_wide"));
    // The outage ends: what failed in it is still no reason to take the change back without a person.
    for n in [4, 5, 6] {
        w.health(n, HealthClass::Healthy);
    }
    assert_eq!(w.phase(), Phase::Paused);
    w.feed(Event::Resume { retry: true, accept_failed: false });
    assert_eq!(w.phase(), Phase::Running);
    assert_eq!(w.on_their_way(), vec![2]);
}

#[test]
fn resuming_a_fleet_wide_pause_without_an_answer_judges_again() {
    let mut w = World::started(Spec { on_failure: OnFailure::Rollback, ..in_batches(2) }, 6);
    for n in [4, 5, 6] {
        w.health(n, HealthClass::Unhealthy);
    }
    w.fails(1);
    w.resume();
    assert_eq!(w.causes(), vec![PauseCause::FleetWide]);
    for n in [4, 5, 6] {
        w.health(n, HealthClass::Healthy);
    }
    w.resume();
    assert_eq!(w.phase(), Phase::RollingBack);
}

#[test]
fn failures_that_become_tolerated_are_returned() {
    let mut w = World::started(tolerating(in_batches(3), 1), 3);
    w.verifies(3);
    w.fails(1);
    w.fails(2);
    assert_eq!(w.desired(2), Some(target()), "the one beyond the threshold waits for a person");
    w.feed(Event::Retry { nodes: Some([id(1)].into()) });
    assert_eq!(w.desired(2), Some(old()), "now it is the tolerated one");
    w.verifies(1);
    assert_eq!(w.phase(), Phase::Completed);
}

#[test]
fn a_regressed_node_counts_as_failed_while_the_rollout_is_active() {
    let mut w = World::started(in_batches(1), 3);
    w.verifies(1);
    w.activates(2);
    w.gate(1, GateVerdict::Fail);
    assert_eq!(w.failed(1), Some(FailReason::Regressed));
    assert_eq!(w.phase(), Phase::Paused);
    assert_eq!(w.r.steps[0].state, StepState::Completed, "earlier steps do not reopen");
}

#[test]
fn a_verified_node_is_judged_no_more_once_the_rollout_has_ended() {
    let mut w = World::started(at_once(), 2);
    w.all_verify([1, 2]);
    assert_eq!(w.phase(), Phase::Completed);
    let window = w.window(1, GateVerdict::Fail);
    w.ignored(Event::Gates { windows: vec![window] });
    w.ignored(w.said(1, Said::Failed { bundle: Some(target()), error: "late".into() }));
    w.ignored(w.said(1, Said::Active { bundle: Some(old()) }));
    let mut w = World::started(in_batches(1), 2);
    w.verifies(1);
    w.cancel();
    w.ignored(w.said(1, Said::Active { bundle: Some(old()) }));
}

#[test]
fn a_node_that_runs_its_old_bundle_again_fell_back() {
    let mut w = World::started(in_batches(2), 2);
    w.all_verify([1]);
    w.activates(2);
    w.feed(w.said(2, Said::Active { bundle: Some(old()) }));
    assert_eq!(w.failed(2), Some(FailReason::FellBack));
    w.feed(w.said(1, Said::Active { bundle: Some(old()) }));
    assert_eq!(w.failed(1), Some(FailReason::Regressed));
}

#[test]
fn flapping_is_a_failure_of_its_own() {
    let mut w = World::started(spec(), 1);
    w.activates(1);
    w.gate(1, GateVerdict::Flapping);
    assert_eq!(w.failed(1), Some(FailReason::Flapping));
}

#[test]
fn retry_is_a_new_attempt_with_a_new_generation() {
    let mut w = World::started(in_batches(2), 3);
    w.verifies(2);
    w.fails(1);
    let before = w.generation(1);
    w.retry();
    assert_eq!((w.phase(), w.kind(1)), (Phase::Running, NodeStateKind::Assigned));
    assert_eq!((w.generation(1), w.member(1).attempt), (before + 1, 2));
    assert_eq!(w.r.head.failures, 0);
    w.verifies(1);
    assert_eq!(w.on_their_way(), vec![3]);
}

#[test]
fn retry_without_a_failed_node_is_refused() {
    let mut w = World::started(spec(), 1);
    let Rejection::NotAllowed { why, .. } = w.refused(Event::Retry { nodes: None }) else { panic!() };
    assert_eq!(why.as_deref(), Some("no failed node to retry"));
}

#[test]
fn retry_of_an_earlier_step_goes_through_the_lane() {
    let mut w = World::started(tolerating(in_batches(2), 1), 4);
    w.verifies(1);
    w.fails(2);
    assert_eq!(w.on_their_way(), vec![3, 4]);
    w.retry();
    assert_eq!(w.on_their_way(), vec![2, 3, 4]);
    assert_eq!(w.member(2).step, None);
    w.all_verify([3, 4]);
    assert_eq!(w.phase(), Phase::Completed);
    w.verifies(2);
    assert_eq!(w.r.head.counts.verified, 4);
}

#[test]
fn a_node_that_moved_to_the_lane_leaves_its_step_also_after_a_restart() {
    let mut w = World::pending(tolerating(in_batches(3), 1), 6);
    w.db.row_mut(id(4)).online = false;
    w = w.start();
    w.all_verify([1, 2, 3]);
    assert_eq!(w.r.step_nodes(1), [4, 5, 6].map(id));
    assert_eq!(w.kind(4), NodeStateKind::Owed);
    w.returns(4);
    assert_eq!(w.member(4).step, None);
    assert_eq!(w.r.step_nodes(1), [id(5), id(6)]);
    w.fails(6);
    w.r = Rollout::load(w.r.rows());
    w.retry();
    assert_eq!(w.kind(6), NodeStateKind::Assigned, "positions do not shift when a neighbour leaves");
}

#[test]
fn retry_of_a_failed_rollout_goes_on_where_it_stopped() {
    let mut w = World::started(Spec { on_failure: OnFailure::Fail, ..in_batches(2) }, 5);
    w.all_verify([1, 2]);
    w.verifies(3);
    w.fails(4);
    assert_eq!(w.phase(), Phase::Failed);
    w.retry();
    assert_eq!(w.phase(), Phase::Running);
    assert_eq!(w.on_their_way(), vec![4]);
    w.all_verify([4, 5]);
    assert_eq!(w.phase(), Phase::Completed);
}

#[test]
fn retry_of_a_failed_rollout_reads_where_its_nodes_are_now() {
    let mut w = World::started(Spec { on_failure: OnFailure::Fail, ..in_batches(2) }, 3);
    w.verifies(1);
    w.fails(2);
    // Others had the nodes since: their generations moved on.
    for n in [1, 2, 3] {
        w.moved_elsewhere(n);
    }
    let facts = [1, 2, 3].map(|n| w.db.facts(id(n))).to_vec();
    w.feed(Event::LaneReady { facts });
    assert_eq!(w.skipped(1), Some(SkipReason::Superseded), "it does not run what it verified here");
    w.retry();
    assert_eq!(w.on_their_way(), vec![2]);
    w.verifies(2);
    w.verifies(3);
    assert_eq!(w.phase(), Phase::Completed);
}

#[test]
fn accepting_failures_returns_them_and_counts_them_no_longer() {
    let mut w = World::started(in_batches(2), 3);
    w.verifies(2);
    w.fails(1);
    w.accept();
    assert_eq!((w.phase(), w.desired(1)), (Phase::Running, Some(old())));
    assert_eq!(w.r.head.failures, 0);
    w.verifies(3);
    assert_eq!(w.phase(), Phase::Completed);
    assert_eq!(w.r.head.counts.failed, 1, "still listed");
}

#[test]
fn a_failed_baseline_node_goes_back_to_its_baseline() {
    let mut w = World::new(tolerating(at_once(), 1), vec![Row::on(None), Row::on(Some(bundle(7)))]).start();
    w.fails(1);
    assert_eq!(w.desired(1), None);
    assert_eq!(w.member(1).told, Told::Back(None));
}
