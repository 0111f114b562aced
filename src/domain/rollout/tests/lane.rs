//! The catch-up lane: owed nodes that return, and late joiners.

use super::db::{Holder, Row, id};
use super::world::*;
use crate::node::{GateVerdict, HealthClass};
use crate::project::Amount;
use crate::rollout::*;

fn offline(w: &mut World, nodes: impl IntoIterator<Item = u32>) {
    nodes.into_iter().for_each(|n| w.db.row_mut(id(n)).online = false);
}

/// Nodes 1 and 2 verify in steps of their own; the rest is offline from the start.
fn completed_with_owed(spec: Spec, n: u32) -> World {
    let mut w = World::pending(spec, n);
    offline(&mut w, 3..=n);
    w = w.start();
    w.all_verify([1, 2]);
    w
}

#[test]
fn an_offline_target_is_owed_and_does_not_block() {
    let w = completed_with_owed(spec(), 4);
    assert_eq!(w.phase(), Phase::Completed);
    assert!(w.facts.contains(&Fact::Completed { owed: 2 }));
    assert_eq!([3, 4].map(|n| w.kind(n)), [NodeStateKind::Owed; 2]);
    assert_eq!(w.db.row(id(3)).debt.unwrap().bundle, Some(target()));
    assert_eq!(w.desired(3), Some(old()), "nothing was assigned");
}

#[test]
fn an_owed_node_that_returns_is_served_by_the_lane() {
    let mut w = World::pending(in_batches(1), 4);
    offline(&mut w, [2]);
    w = w.start();
    w.verifies(1);
    assert_eq!(w.on_their_way(), vec![3]);
    w.returns(2);
    assert_eq!(w.on_their_way(), vec![2, 3], "beside the step that runs");
    assert_eq!(w.db.row(id(2)).debt, None, "the debt is paid");
    w.all_verify([3, 4]);
    assert_eq!(w.phase(), Phase::Completed, "the lane never holds completion");
    assert_eq!(w.db.row(id(2)).holder, Holder::Us, "and keeps what it has under way");
    w.verifies(2);
    assert_eq!(w.r.head.counts.verified, 4);
    assert_eq!(w.db.row(id(2)).holder, Holder::Nobody);
}

#[test]
fn nothing_is_caught_up_before_the_first_step_has_ended() {
    let mut w = World::pending(in_batches(2), 3);
    offline(&mut w, [2]);
    w = w.start();
    w.returns(2);
    assert_eq!(w.kind(2), NodeStateKind::Owed, "there is no evidence yet");
    w.verifies(1);
    assert_eq!(w.on_their_way(), vec![2, 3]);
}

#[test]
fn the_lane_serves_a_batch_at_once_or_max_unavailable() {
    let mut w = completed_with_owed(in_batches(2), 7);
    for n in 3..=6 {
        w.returns(n);
    }
    assert_eq!(w.on_their_way(), vec![3, 4]);
    w.verifies(3);
    assert_eq!(w.on_their_way(), vec![4, 5]);
    let limited = Spec { max_unavailable: Some(Amount::Count(1)), ..in_batches(2) };
    let mut w = completed_with_owed(limited, 5);
    for n in 3..=5 {
        w.returns(n);
    }
    assert_eq!(w.on_their_way(), vec![3]);
}

#[test]
fn the_lane_works_after_completion_on_facts_read_anew() {
    let mut w = completed_with_owed(spec(), 3);
    w.wakes = false;
    // Somebody else moved its generation on and let it go again.
    w.db.row_mut(id(3)).generation += 1;
    let d = w.returns(3);
    assert_eq!(d.effects, vec![Effect::FetchFacts { nodes: vec![id(3)] }]);
    assert_eq!(w.kind(3), NodeStateKind::Owed);
    let facts = vec![w.db.facts(id(3))];
    w.feed(Event::LaneReady { facts });
    assert_eq!((w.kind(3), w.generation(3)), (NodeStateKind::Assigned, 3));
    w.verifies(3);
    assert_eq!(w.r.head.counts.verified, 3);
}

#[test]
fn a_lost_wake_up_of_the_lane_is_found_by_the_next_event() {
    let mut w = completed_with_owed(spec(), 3);
    w.wakes = false;
    w.returns(3);
    let d = w.feed(Event::OwnerStarted { down: crate::time::Span::ZERO });
    assert_eq!(d.effects, vec![Effect::FetchFacts { nodes: vec![id(3)] }]);
}

#[test]
fn facts_of_nodes_that_do_not_wait_change_nothing() {
    let mut w = completed_with_owed(spec(), 3);
    w.goes_silent(1);
    w.moved_elsewhere(1);
    let facts = vec![Facts { online: true, skip: Some(SkipReason::Pinned), ..w.db.facts(id(1)) }];
    w.ignored(Event::LaneReady { facts });
    assert_eq!(w.kind(1), NodeStateKind::Verified);
}

#[test]
fn after_completion_the_lane_keeps_within_max_unavailable() {
    let mut w = completed_with_owed(Spec { max_unavailable: Some(Amount::Count(1)), ..spec() }, 3);
    w.wakes = false;
    w.health(1, HealthClass::Unhealthy);
    w.returns(3);
    let facts = vec![w.db.facts(id(3))];
    w.feed(Event::LaneReady { facts: facts.clone() });
    assert_eq!(w.kind(3), NodeStateKind::Owed, "one is out of service already");
    w.health(1, HealthClass::Healthy);
    w.feed(Event::LaneReady { facts });
    assert_eq!(w.kind(3), NodeStateKind::Assigned);
}

#[test]
fn a_node_that_must_wait_for_its_slot_does_not_hold_up_one_that_takes_none() {
    let mut w = completed_with_owed(Spec { max_unavailable: Some(Amount::Count(1)), ..spec() }, 4);
    w.health(1, HealthClass::Unhealthy);
    w.returns(3);
    w.db.row_mut(id(4)).health = HealthClass::Unhealthy;
    let change = w.presence(4, true);
    let ill = Report { node: id(4), generation: None, said: Said::Health { class: HealthClass::Unhealthy } };
    w.feed(Event::Presence { changes: vec![change] });
    w.feed(Event::Reports { reports: vec![ill] });
    assert_eq!(w.on_their_way(), vec![4], "the rollout that mends must be able to start");
}

#[test]
fn failures_of_the_lane_count_and_beyond_the_threshold_it_halts() {
    let mut w = completed_with_owed(tolerating(spec(), 1), 6);
    w.returns(3);
    w.fails(3);
    assert!(!w.r.head.lane_halted);
    w.returns(4);
    w.fails(4);
    assert!(w.r.head.lane_halted);
    assert_eq!(w.count_facts(|f| *f == Fact::LaneHalted), 1);
    assert_eq!([3, 4].map(|n| w.desired(n)), [Some(old()); 2], "a completed rollout leaves nobody on what failed");
    w.returns(5);
    assert_eq!(w.kind(5), NodeStateKind::Owed);
    assert_eq!(w.phase(), Phase::Completed);
}

#[test]
fn a_freeze_holds_the_lane_after_completion_too() {
    let mut w = completed_with_owed(spec(), 4);
    w.feed(Event::FreezeBegan);
    w.returns(3);
    assert_eq!((w.phase(), w.kind(3)), (Phase::Completed, NodeStateKind::Owed));
    w.feed(Event::FreezeEnded);
    assert_eq!(w.kind(3), NodeStateKind::Assigned);
}

#[test]
fn a_node_without_any_configuration_gets_the_bundle_even_in_a_freeze() {
    let mut w = completed_with_owed(spec(), 2);
    w.feed(Event::FreezeBegan);
    w.db.rows.insert(id(9), Row::on(None));
    w.feed(Event::Joined { facts: vec![w.db.facts(id(9))] });
    assert_eq!(w.r.members[&id(9)].state.kind(), NodeStateKind::Assigned);
}

#[test]
fn nodes_that_join_later_go_through_the_lane() {
    let mut w = World::started(in_batches(1), 3);
    for (n, online) in [(4, true), (5, false)] {
        w.db.rows.insert(id(n), Row { online, ..Row::on(Some(old())) });
    }
    let facts = [4, 5, 1].map(|n| w.db.facts(id(n))).to_vec();
    w.feed(Event::Joined { facts });
    assert_eq!([w.kind(4), w.kind(5)], [NodeStateKind::Pending, NodeStateKind::Owed]);
    assert_eq!(w.r.head.counts.total, 5, "who is a member already does not join again");
    w.verifies(1);
    assert_eq!(w.on_their_way(), vec![2, 4]);
    w.all_verify([2, 3]);
    assert_eq!(w.phase(), Phase::Completed);
}

#[test]
fn nobody_joins_a_rollout_that_does_not_run() {
    let mut w = World::pending(spec(), 1);
    w.db.rows.insert(id(2), Row::on(Some(old())));
    let joined = Event::Joined { facts: vec![w.db.facts(id(2))] };
    w.ignored(joined.clone());
    w.cancel();
    w.ignored(joined);
}

#[test]
fn with_no_reachable_target_the_first_to_return_is_the_next_step() {
    let mut w = World::pending(in_batches(2), 3);
    offline(&mut w, 1..=3);
    w = w.start();
    assert_eq!((w.phase(), w.reason()), (Phase::Running, "no_reachable_target"));
    assert_eq!(w.r.head.counts.owed, 3);
    w.returns(2);
    assert_eq!((w.on_their_way(), w.reason()), (vec![2], "catch_up"));
    w.verifies(2);
    assert_eq!(w.phase(), Phase::Completed);
}

#[test]
fn cancel_and_rollback_delete_the_debts() {
    for end in [Event::Cancel { note: None }, rollback_event(&[])] {
        let mut w = World::pending(in_batches(1), 3);
        offline(&mut w, [1]);
        w = w.start();
        w.feed(end);
        assert_eq!(w.skipped(1), Some(SkipReason::Cancelled));
        assert_eq!(w.db.row(id(1)).debt, None);
    }
}

#[test]
fn a_debt_that_a_newer_commit_covers_is_dropped() {
    let mut w = completed_with_owed(spec(), 3);
    w.moved_elsewhere(3);
    w.feed(Event::DebtsDropped { nodes: vec![id(3), id(1)] });
    assert_eq!(w.skipped(3), Some(SkipReason::Superseded));
    assert_eq!(w.kind(1), NodeStateKind::Verified);
}

#[test]
fn debts_of_a_revoked_bundle_are_deleted() {
    let mut w = completed_with_owed(spec(), 4);
    w.feed(Event::BundleRevoked { revoked: [target()].into() });
    assert_eq!(w.skipped(3), Some(SkipReason::Revoked));
    w.returns(4);
    assert_eq!(w.desired(4), Some(old()));
    assert_eq!(w.phase(), Phase::Completed);
}

#[test]
fn a_lane_node_that_goes_silent_is_owed_again_or_lost() {
    let mut w = completed_with_owed(tolerating(in_batches(2), 1), 4);
    w.returns(3);
    w.returns(4);
    w.poll(4);
    w.goes_silent(3);
    w.goes_silent(4);
    assert_eq!(w.kind(3), NodeStateKind::Owed);
    assert_eq!((w.failed(4), w.desired(4)), (Some(FailReason::Lost), Some(old())));
    assert_eq!([3, 4].map(|n| w.db.row(id(n)).holder), [Holder::Nobody; 2]);
    w.returns(3);
    w.verifies(3);
    assert_eq!(w.kind(3), NodeStateKind::Verified);
}

#[test]
fn the_lane_has_the_same_gates() {
    let mut w = completed_with_owed(spec(), 3);
    w.returns(3);
    w.activates(3);
    w.gate(3, GateVerdict::Fail);
    assert_eq!(w.failed(3), Some(FailReason::Gate));
}

#[test]
fn a_rollback_of_a_completed_rollout_takes_the_lane_with_it() {
    let mut w = completed_with_owed(spec(), 4);
    w.returns(3);
    w.activates(3);
    w.rollback();
    assert_eq!(w.kind(3), NodeStateKind::RollingBack);
    assert_eq!(w.skipped(4), Some(SkipReason::Cancelled));
    w.all_verify([1, 2, 3]);
    assert_eq!(w.phase(), Phase::RolledBack);
}

#[test]
fn while_nobody_can_fetch_the_bundle_the_lane_of_a_completed_rollout_waits_and_no_deadline_runs() {
    let mut w = completed_with_owed(in_batches(2), 4);
    w.returns(3);
    assert_eq!(w.kind(3), NodeStateKind::Assigned);
    w.pass_time(500);
    w.feed(Event::WaitBegan { wait: Wait::Artifact });
    w.pass_time(100_000);
    assert_eq!(w.kind(3), NodeStateKind::Assigned, "it was told, and cannot do it");
    assert!(explain(&w.r).text.contains("the bundle's archive cannot be read"), "{}", explain(&w.r).text);
    // Neither the node that returns, nor one that comes, nor facts that were read before.
    w.returns(4);
    w.db.rows.insert(id(9), Row::on(None));
    w.feed(Event::Joined { facts: vec![w.db.facts(id(9))] });
    let facts = [4, 9].map(|n| w.db.facts(id(n))).to_vec();
    w.feed(Event::LaneReady { facts });
    assert_eq!((w.kind(4), w.r.members[&id(9)].state.kind()), (NodeStateKind::Owed, NodeStateKind::Pending));
    w.feed(Event::WaitEnded { wait: Wait::Artifact });
    assert_eq!([id(4), id(9)].map(|n| w.r.members[&n].state.kind()), [NodeStateKind::Assigned; 2]);
    w.pass_time(99);
    assert_eq!(w.kind(3), NodeStateKind::Assigned);
    assert_eq!(explain(&w.r).text, "every target verified");
    w.pass_time(1);
    assert_eq!(w.failed(3), Some(FailReason::Deadline));
    assert!(w.r.head.lane_halted);
}

#[test]
fn a_rollback_of_a_completed_rollout_does_not_wait_for_the_bundle_it_leaves() {
    let mut w = completed_with_owed(spec(), 3);
    w.feed(Event::WaitBegan { wait: Wait::Artifact });
    w.rollback();
    assert_eq!([1, 2].map(|n| w.desired(n)), [Some(old()); 2]);
}

#[test]
fn who_was_no_target_at_creation_and_is_one_at_the_start_is_a_newcomer() {
    let out = |online| Row { skip: Some(SkipReason::Pinned), online, ..Row::on(Some(old())) };
    let mut w = World::new(in_batches(1), vec![Row::on(Some(old())), out(true), out(false), out(true)]);
    assert_eq!([2, 3, 4].map(|n| w.skipped(n)), [Some(SkipReason::Pinned); 3]);
    [2, 3].iter().for_each(|n| w.db.row_mut(id(*n)).skip = None);
    w = w.start();
    assert_eq!([2, 3].map(|n| w.kind(n)), [NodeStateKind::Pending, NodeStateKind::Owed]);
    assert_eq!(w.skipped(4), Some(SkipReason::Pinned));
    assert_eq!((w.r.head.planned, w.db.row(id(3)).debt.is_some()), (1, true));
    w.verifies(1);
    assert_eq!((w.phase(), w.on_their_way()), (Phase::Completed, vec![2]), "in the lane, and nobody waits for it");
}

#[test]
fn who_was_taken_out_before_the_start_and_is_a_target_again_has_its_place() {
    let mut w = World::pending(in_batches(2), 3);
    w.feed(Event::Removed { nodes: vec![id(2)], reason: SkipReason::Quarantined });
    assert_eq!(w.skipped(2), Some(SkipReason::Quarantined));
    w = w.start();
    assert_eq!((w.on_their_way(), w.r.head.planned), (vec![1, 2], 3));
}
