//! Strategy `blue_green`: the standby half verifies at weight 0, traffic is shifted to it, and only then is the other half touched.

use super::db::id;
use super::world::*;
use crate::node::HealthClass;
use crate::rollout::*;
use crate::time::Span;

/// Four nodes: 3 and 4 are the standby half and have verified.
fn verified() -> World {
    let mut w = World::started(blue_green(), 4);
    assert_eq!(w.on_their_way(), vec![3, 4]);
    assert!([3, 4].iter().all(|n| w.member(*n).weight == 0));
    w.all_verify([3, 4]);
    w
}

fn weights(w: &World) -> Vec<u8> {
    (1..=4).map(|n| w.db.row(id(n)).weight).collect()
}

#[test]
fn the_standby_half_verifies_at_weight_zero_and_then_gets_the_first_weight() {
    let mut w = World::started(blue_green(), 4);
    w.verifies(3);
    assert_eq!(weights(&w), [100, 100, 0, 0]);
    let before = w.generation(3);
    w.verifies(4);
    assert_eq!(weights(&w), [100, 100, 50, 50], "in the same decision as the last verdict");
    assert_eq!(w.generation(3), before + 1, "a generation names one bundle and weight");
    assert_eq!((w.desired(3), w.kind(3)), (Some(target()), NodeStateKind::Verified));
}

#[test]
fn traffic_moves_on_only_when_every_node_has_taken_its_weight_and_a_person_says_so() {
    let mut w = verified();
    w.weighs(3);
    assert_eq!((w.reason(), w.r.head.unweighed), ("traffic", 1));
    w.weighs(4);
    assert_eq!(explain(&w.r).text, "50 % of its traffic on the standby half: waits for advance-traffic");
    w.pass_time(100_000);
    assert_eq!((w.phase(), w.on_their_way()), (Phase::Running, vec![]));
    w.feed(Event::AdvanceTraffic);
    assert_eq!(weights(&w), [100, 100, 100, 100]);
    w.weighs(3);
    assert_eq!(w.on_their_way(), Vec::<u32>::new());
    w.weighs(4);
    assert_eq!(w.on_their_way(), vec![1, 2], "the other half, once all traffic has left it");
    w.all_verify([1, 2]);
    assert_eq!(w.phase(), Phase::Completed);
}

#[test]
fn swap_is_immediate() {
    let mut w = verified();
    w.feed(Event::SwapSlot);
    assert_eq!(weights(&w), [100, 100, 100, 100], "whether or not the last weight was taken");
    assert_eq!(w.refused(Event::SwapSlot), Rejection::AlreadySo);
    w.weighs(3);
    w.weighs(4);
    assert_eq!(w.on_their_way(), vec![1, 2]);
}

#[test]
fn with_auto_advance_each_weight_is_held_and_then_the_next_follows() {
    let shift = BlueGreen { auto_advance: true, advance_delay: Span::secs(60), traffic_steps: vec![10, 50] };
    let mut w = World::started(Spec { blue_green: shift, ..blue_green() }, 2);
    w.verifies(2);
    for weight in [10, 50] {
        assert_eq!(w.member(2).weight, weight);
        w.weighs(2);
        w.pass_time(59);
        assert_eq!(w.member(2).weight, weight);
        w.pass_time(1);
    }
    assert_eq!(w.member(2).weight, 100, "the last is always all");
    w.weighs(2);
    assert_eq!(w.on_their_way(), vec![1]);
}

#[test]
fn a_word_that_comes_after_the_time_moves_nothing_on_before_the_timer_itself() {
    let shift = BlueGreen { auto_advance: true, advance_delay: Span::secs(60), traffic_steps: vec![10, 50] };
    let mut w = World::started(Spec { blue_green: shift, ..blue_green() }, 2);
    w.verifies(2);
    w.weighs(2);
    // The timer is late; something that has nothing to do with it comes first.
    w.now = w.now + Span::secs(61);
    let said = Said::Health { class: HealthClass::Degraded };
    w.feed(Event::Reports { reports: vec![Report { node: id(1), generation: None, said }] });
    assert_eq!(w.member(2).weight, 10);
    w.feed(Event::Timer);
    assert_eq!(w.member(2).weight, 50);
}

#[test]
fn a_node_that_does_not_take_its_weight_has_failed_at_the_deadline() {
    let mut w = verified();
    w.weighs(3);
    w.pass_time(601);
    assert_eq!((w.failed(4), w.causes()), (Some(FailReason::Deadline), vec![PauseCause::Gate]));
}

#[test]
fn a_node_that_is_away_is_not_waited_for() {
    let mut w = verified();
    w.weighs(3);
    w.goes_silent(4);
    w.feed(Event::AdvanceTraffic);
    w.weighs(3);
    assert_eq!(w.on_their_way(), vec![1, 2]);
}

#[test]
fn a_node_that_falls_ill_under_traffic_stops_the_shift() {
    let mut w = verified();
    w.weighs(3);
    w.gate(4, crate::node::GateVerdict::Fail);
    assert_eq!((w.failed(4), w.causes()), (Some(FailReason::Regressed), vec![PauseCause::Gate]));
    w.refused(Event::AdvanceTraffic);
}

#[test]
fn rollback_takes_the_half_back_at_once_and_nothing_else() {
    let mut w = verified();
    w.rollback();
    assert_eq!((w.desired(3), w.desired(4), w.desired(1)), (Some(old()), Some(old()), Some(old())));
    assert_eq!(weights(&w), [100; 4]);
    w.all_verify([3, 4]);
    assert_eq!(w.phase(), Phase::RolledBack);
}

#[test]
fn a_cancelled_shift_leaves_nobody_at_half_its_traffic() {
    let mut w = verified();
    w.cancel();
    assert_eq!((w.phase(), weights(&w)), (Phase::Cancelled, vec![100; 4]));
    assert_eq!(w.desired(3), Some(target()), "what has verified stays");
}

#[test]
fn the_shift_is_a_command_of_verified_halves_only() {
    let mut w = World::started(blue_green(), 4);
    w.refused(Event::AdvanceTraffic);
    w.refused(Event::SwapSlot);
    let mut w = World::started(in_batches(1), 2);
    w.refused(Event::SwapSlot);
}

#[test]
fn labels_say_which_half_stands_by() {
    let slots = ["green", "blue", "green", "blue", "blue"];
    let all: Vec<Candidate> = (1..=5u32)
        .map(|n| Candidate {
            facts: Facts::online(id(n)),
            name: format!("n{n}"),
            spread: Some(slots[n as usize - 1].into()),
            first: false,
        })
        .collect();
    let p = plan(&blue_green(), uuid::Uuid::nil(), &all);
    assert_eq!(p.steps, vec![vec![id(1), id(3)], vec![id(2), id(4), id(5)]]);
}

#[test]
fn a_weight_that_was_not_told_is_not_taken() {
    let mut w = verified();
    w.poll(3);
    let wrong = w.said(3, Said::Weight { weight: 10 });
    w.ignored(wrong);
    let late = Report { node: id(3), generation: Some(w.generation(3) - 1), said: Said::Weight { weight: 50 } };
    w.ignored(Event::Reports { reports: vec![late] });
}
