//! `max_unavailable`: how many may be out of service at once.

use super::db::{Row, id};
use super::world::*;
use crate::node::HealthClass;
use crate::project::Amount;
use crate::rollout::*;

fn limited(n: u32) -> Spec {
    Spec { max_unavailable: Some(Amount::Count(n)), ..at_once() }
}

fn sick() -> Row {
    Row { health: HealthClass::Unhealthy, ..Row::on(Some(old())) }
}

#[test]
fn at_most_max_unavailable_are_on_their_way_at_once() {
    let mut w = World::started(limited(2), 5);
    assert_eq!(w.on_their_way(), vec![1, 2]);
    w.verifies(2);
    assert_eq!(w.on_their_way(), vec![1, 3]);
    w.all_verify([1, 3, 4, 5]);
    assert_eq!(w.phase(), Phase::Completed);
}

#[test]
fn a_percentage_is_of_online_targets_rounded_down_but_at_least_one() {
    let percent = |p| Spec { max_unavailable: Some(Amount::Percent(p)), ..at_once() };
    assert_eq!(World::started(percent(50), 5).on_their_way(), vec![1, 2]);
    assert_eq!(World::started(percent(10), 5).on_their_way(), vec![1]);
}

#[test]
fn unset_and_the_older_zero_leave_the_batch_as_the_limit() {
    for unset in [None, Some(Amount::Count(0))] {
        let w = World::started(Spec { max_unavailable: unset, ..at_once() }, 4);
        assert_eq!(w.on_their_way().len(), 4);
    }
}

#[test]
fn unhealthy_targets_count_against_the_limit() {
    let mut w = World::started(limited(1), 3);
    w.verifies(1);
    assert_eq!(w.on_their_way(), vec![2]);
    w.health(1, HealthClass::Degraded);
    w.verifies(2);
    assert_eq!(w.on_their_way(), Vec::<u32>::new());
    assert_eq!(w.reason(), "max_unavailable");
    w.health(1, HealthClass::Healthy);
    assert_eq!(w.on_their_way(), vec![3], "in the same decision as the report");
}

#[test]
fn assigning_to_one_that_does_not_serve_takes_no_slot() {
    let mut w = World::new(limited(1), vec![Row::on(Some(old())), sick(), sick(), Row::on(Some(old()))]).start();
    assert_eq!(w.on_their_way(), vec![2, 3], "the rollout that mends must be able to start");
    for n in [2, 3] {
        w.activates(n);
        w.health(n, HealthClass::Healthy);
        w.passes(n);
    }
    assert_eq!(w.on_their_way(), vec![1]);
}

#[test]
fn a_node_that_falls_ill_while_it_waits_is_mended_at_once() {
    let mut w = World::started(limited(1), 4);
    assert_eq!(w.on_their_way(), vec![1]);
    w.health(4, HealthClass::Unhealthy);
    assert_eq!(w.on_their_way(), vec![1, 4]);
}

#[test]
fn an_offline_target_does_not_count_and_does_not_block() {
    let mut w = World::started(limited(1), 3);
    w.goes_silent(1);
    assert_eq!(w.kind(1), NodeStateKind::Owed);
    assert_eq!(w.on_their_way(), vec![2]);
}

#[test]
fn a_failed_node_counts_until_it_is_returned() {
    let mut w = World::started(tolerating(limited(1), 0), 3);
    w.fails(1);
    assert_eq!(w.r.head.unavailable, 1, "beyond the threshold it stays on the bundle, for a person to look at");
    w.accept();
    assert_eq!(w.on_their_way(), vec![2], "accepted: returned, and the next goes on");
}

#[test]
fn the_first_configuration_is_exempt() {
    let mut w = World::new(limited(1), vec![Row::on(Some(old())), Row::on(None), Row::on(Some(old()))]).start();
    assert_eq!(w.on_their_way(), vec![1, 2]);
    w.all_verify([1, 2, 3]);
    assert_eq!(w.phase(), Phase::Completed);
}

#[test]
fn nodes_that_do_not_serve_are_planned_first_under_a_limit() {
    let w = World::new(
        Spec { max_unavailable: Some(Amount::Count(1)), ..in_batches(1) },
        vec![Row::on(Some(old())), sick()],
    );
    assert_eq!(w.r.step_nodes(0), [id(2)]);
}

#[test]
fn no_more_members_are_updating_than_the_budget_grants_and_each_that_is_done_makes_room() {
    let mut w = World::pending(at_once(), 5);
    w.feed(Event::CapacityGranted { k: Some(2) });
    let mut w = w.start();
    assert_eq!((w.r.head.budget.updating, w.r.head.counts.assigned), (2, 2));
    w.verifies(1);
    assert_eq!((w.r.head.budget.updating, w.r.head.counts.verified), (2, 1), "the next one takes its place");
    w.feed(Event::CapacityGranted { k: Some(0) });
    assert_eq!(w.r.head.budget.updating, 2, "what is under way is not taken back");
    w.verifies(2);
    w.verifies(3);
    assert_eq!((w.r.head.budget.updating, explain(&w.r).code), (0, "budget"));
    w.feed(Event::CapacityGranted { k: None });
    assert_eq!(w.r.head.counts.assigned, 2);
    // A rollback holds what it sends back, whatever was granted.
    w.feed(Event::CapacityGranted { k: Some(1) });
    w.rollback();
    assert_eq!(w.r.head.budget.updating, 5);
}

#[test]
fn a_limit_that_is_lowered_is_heeded_by_a_rollout_that_is_at_its_limit() {
    let at = |updating, capacity| Ledger { updating, capacity };
    assert_eq!(at(0, None).share(5, 3), 2, "what the others leave");
    assert_eq!(at(5, Some(5)).share(5, 5), 5);
    assert_eq!(at(5, Some(5)).share(2, 5), 2, "less than it holds");
    assert_eq!(at(5, Some(5)).share(2, 9), 0, "others hold more than there is");
    assert!(at(3, Some(5)).suffices(5) && !at(5, Some(5)).suffices(5), "more is asked for when it is used up");
    assert!(!at(3, Some(5)).suffices(4) && !at(3, None).suffices(9), "or when it is too much, or was never told");
    let mut w = World::pending(at_once(), 8);
    w.feed(Event::CapacityGranted { k: Some(5) });
    let mut w = w.start();
    let ledger = w.r.head.budget;
    w.feed(Event::CapacityGranted { k: Some(ledger.share(2, ledger.updating)) });
    w.all_verify([1, 2, 3]);
    assert_eq!(w.on_their_way(), [4, 5], "none takes the place of those");
    w.verifies(4);
    assert_eq!(w.on_their_way(), [5, 6]);
}
