//! Going back: each node to its own previous bundle, owed restores, deadlines.

use super::db::{Row, bundle, id};
use super::world::*;
use crate::node::GateVerdict;
use crate::rollout::*;

fn rows() -> Vec<Row> {
    vec![Row::on(Some(bundle(5))), Row::on(Some(bundle(6))), Row::on(None)]
}

#[test]
fn every_touched_node_goes_back_to_its_own_previous_bundle() {
    let mut w = World::new(in_batches(3), rows()).start();
    w.all_verify([1, 2, 3]);
    assert_eq!(w.phase(), Phase::Completed);
    w.rollback();
    assert_eq!([1, 2, 3].map(|n| w.desired(n)), [Some(bundle(5)), Some(bundle(6)), None]);
    w.activates(1);
    assert_eq!(w.kind(1), NodeStateKind::RollingBack, "activated is not yet restored");
    w.passes(1);
    assert_eq!(w.kind(1), NodeStateKind::RolledBack);
    w.all_verify([2, 3]);
    assert_eq!(w.phase(), Phase::RolledBack);
    assert_eq!(w.db.row(id(3)).verified, None);
}

#[test]
fn untouched_nodes_stay_untouched() {
    let mut w = World::started(in_batches(1), 3);
    w.verifies(1);
    w.rollback();
    assert_eq!(w.skipped(3), Some(SkipReason::Cancelled));
    assert_eq!(w.generation(3), 1);
}

#[test]
fn revoked_bundles_are_skipped_on_the_way_back() {
    let row = Row { previous: vec![bundle(5), bundle(6)], ..Row::on(Some(bundle(5))) };
    let mut w = World::new(spec(), vec![row.clone(), row]).start();
    w.verifies(1);
    w.feed(Event::Rollback { note: None, nodes: None, revoked: [bundle(5)].into(), gone: Default::default() });
    assert_eq!(w.desired(1), Some(bundle(6)));
}

#[test]
fn a_revocation_is_remembered_for_whatever_goes_back_later() {
    let row = Row { previous: vec![bundle(5), bundle(6)], ..Row::on(Some(bundle(5))) };
    let mut w = World::new(tolerating(at_once(), 1), vec![row.clone(), row.clone(), row]).start();
    w.feed(Event::BundleRevoked { revoked: [bundle(5)].into() });
    assert_eq!(w.phase(), Phase::Running, "it is not the bundle that is rolled out");
    w.fails(1);
    assert_eq!(w.desired(1), Some(bundle(6)));
    w.cancel();
    assert_eq!(w.desired(2), Some(bundle(6)));
}

#[test]
fn a_restore_to_a_bundle_that_is_revoked_meanwhile_is_told_anew() {
    let row = Row { previous: vec![bundle(5), bundle(6)], ..Row::on(Some(bundle(5))) };
    let mut w = World::new(at_once(), vec![row.clone(), row]).start();
    w.rollback();
    w.activates(2);
    w.feed(Event::BundleRevoked { revoked: [bundle(5)].into() });
    assert_eq!(w.desired(1), Some(bundle(6)));
    assert_eq!(w.desired(2), Some(bundle(5)), "revocation moves nobody who is there already");
    w.verifies(1);
    w.passes(2);
    assert_eq!(w.phase(), Phase::RolledBack);
}

#[test]
fn a_node_offline_meanwhile_is_owed_the_restore() {
    let mut w = World::started(at_once(), 3);
    w.verifies(1);
    w.verifies(2);
    w.goes_silent(2);
    w.rollback();
    let debt = w.db.row(id(2)).debt.unwrap();
    assert_eq!((debt.restore, debt.bundle), (true, Some(old())));
    w.all_verify([1, 3]);
    assert_eq!(w.phase(), Phase::RolledBack, "it does not hold the rollback");
    w.returns(2);
    assert_eq!(w.db.row(id(2)).debt, None);
    w.verifies(2);
    assert_eq!(w.kind(2), NodeStateKind::RolledBack);
}

#[test]
fn a_node_that_goes_silent_while_going_back_is_owed_too() {
    let mut w = World::started(at_once(), 2);
    w.rollback();
    w.goes_silent(1);
    assert!(w.db.row(id(1)).debt.unwrap().restore);
    w.verifies(2);
    assert_eq!(w.phase(), Phase::RolledBack);
}

#[test]
fn rolling_back_ends_without_an_operator() {
    let mut w = World::started(at_once(), 2);
    w.verifies(1);
    w.rollback();
    w.verifies(1);
    w.pass_time(298);
    assert_eq!(w.phase(), Phase::RollingBack);
    w.pass_time(1);
    assert_eq!((w.phase(), w.kind(2)), (Phase::RolledBack, NodeStateKind::RollbackFailed));
    assert!(w.facts.contains(&Fact::RolledBack { unrestored: 1 }));
    assert_eq!(w.desired(2), Some(old()), "it is still told to go back");
}

#[test]
fn retry_works_where_a_rollback_left_nodes_unrestored() {
    let mut w = World::started(at_once(), 2);
    w.rollback();
    w.verifies(1);
    w.fails(2);
    assert_eq!((w.phase(), w.kind(2)), (Phase::RolledBack, NodeStateKind::RollbackFailed));
    let before = w.generation(2);
    w.retry();
    assert_eq!((w.phase(), w.generation(2)), (Phase::RollingBack, before + 1));
    w.verifies(2);
    assert_eq!((w.phase(), w.kind(2)), (Phase::RolledBack, NodeStateKind::RolledBack));
}

#[test]
fn retry_of_a_restore_for_a_node_that_is_away_is_owed() {
    let mut w = World::started(at_once(), 2);
    w.rollback();
    w.verifies(1);
    w.fails(2);
    w.goes_silent(2);
    w.retry();
    assert_eq!(w.phase(), Phase::RolledBack);
    assert!(w.db.row(id(2)).debt.unwrap().restore);
    w.returns(2);
    w.tick(10_000);
    // Back, but stuck: nothing but a retry would look at it again.
    w.retry();
    w.verifies(2);
    assert_eq!((w.phase(), w.kind(2)), (Phase::RolledBack, NodeStateKind::RolledBack));
}

#[test]
fn retry_of_restores_lets_go_of_nodes_that_others_moved_on() {
    let mut w = World::started(at_once(), 2);
    w.rollback();
    w.fails(1);
    w.fails(2);
    w.moved_elsewhere(1);
    let facts = [1, 2].map(|n| w.db.facts(id(n))).to_vec();
    w.feed(Event::LaneReady { facts });
    w.retry();
    assert_eq!(w.skipped(1), Some(SkipReason::Superseded));
    assert_eq!(w.desired(1), Some(bundle(9)));
    w.verifies(2);
    assert_eq!(w.phase(), Phase::RolledBack);
}

#[test]
fn rolling_back_a_completed_rollout_touches_only_what_still_came_from_it() {
    let mut w = World::started(at_once(), 2);
    w.all_verify([1, 2]);
    w.moved_elsewhere(1);
    w.rollback();
    assert_eq!((w.kind(1), w.desired(1)), (NodeStateKind::Verified, Some(bundle(9))));
    w.verifies(2);
    assert_eq!(w.phase(), Phase::RolledBack);
}

#[test]
fn rolling_back_some_nodes_leaves_nothing_unverified_behind() {
    let mut w = World::pending(in_batches(3), 5);
    w.db.row_mut(id(5)).online = false;
    w = w.start();
    w.all_verify([1, 2]);
    w.activates(3);
    w.feed(Event::Rollback {
        note: None,
        nodes: Some([id(1)].into()),
        revoked: Default::default(),
        gone: Default::default(),
    });
    assert_eq!(w.kind(2), NodeStateKind::Verified, "verified and not named: it stays");
    assert_eq!(w.kind(3), NodeStateKind::RollingBack, "on its way: it cannot stay");
    w.all_verify([1, 3]);
    assert_eq!(w.phase(), Phase::RolledBack);
    assert_eq!(w.db.row(id(5)).debt, None, "no debt outlives it");
}

#[test]
fn rollback_is_accepted_from_running_paused_failed_and_completed() {
    let world = |on_failure| World::started(Spec { on_failure, ..in_batches(2) }, 2);
    let mut running = world(OnFailure::Pause);
    running.rollback();
    let mut paused = world(OnFailure::Pause);
    paused.fails(1);
    paused.rollback();
    let mut failed = world(OnFailure::Fail);
    failed.verifies(1);
    failed.fails(2);
    failed.rollback();
    let mut completed = world(OnFailure::Pause);
    completed.all_verify([1, 2]);
    completed.rollback();
    for mut w in [running, paused, failed, completed] {
        assert_eq!(w.phase(), Phase::RollingBack);
        assert_eq!(w.refused(rollback_event(&[])), Rejection::AlreadySo);
        w.pass_time(300);
        assert_eq!(w.phase(), Phase::RolledBack);
    }
}

#[test]
fn a_restore_is_judged_on_data_after_its_activation() {
    let mut w = World::started(spec(), 1);
    w.verifies(1);
    w.rollback();
    w.activates(1);
    let window = w.window(1, GateVerdict::Pass);
    w.ignored(Event::Gates { windows: vec![window] });
    w.gate(1, GateVerdict::Unknown);
    assert_eq!(w.kind(1), NodeStateKind::RollingBack);
    w.passes(1);
    assert_eq!(w.kind(1), NodeStateKind::RolledBack);
}

#[test]
fn a_node_retried_while_paused_is_taken_back_all_the_same() {
    let mut w = World::started(in_batches(1), 2);
    w.fails(1);
    w.pause();
    w.retry();
    assert_eq!(w.kind(1), NodeStateKind::Pending);
    w.rollback();
    assert_eq!((w.kind(1), w.desired(1)), (NodeStateKind::RollingBack, Some(old())));
}

#[test]
fn a_restore_that_a_newer_commit_covers_is_owed_no_more() {
    let mut w = World::started(at_once(), 2);
    w.all_verify([1, 2]);
    w.rollback();
    w.goes_silent(1);
    w.feed(Event::DebtsDropped { nodes: vec![id(1)] });
    assert_eq!(w.kind(1), NodeStateKind::RollingBack, "while it rolls back it holds the node: the word is an old one");
    w.verifies(2);
    assert_eq!((w.phase(), w.kind(1)), (Phase::RolledBack, NodeStateKind::RollingBack));
    w.moved_elsewhere(1);
    w.feed(Event::DebtsDropped { nodes: vec![id(1), id(2)] });
    assert_eq!((w.skipped(1), w.kind(2)), (Some(SkipReason::Superseded), NodeStateKind::RolledBack));
    assert_eq!(w.phase(), Phase::RolledBack);
}
