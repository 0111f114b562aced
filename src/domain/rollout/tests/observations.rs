//! Reports and gate windows: late, doubled, foreign ones are harmless; evidence is checked again.

use super::db::{bundle, id};
use super::world::*;
use crate::node::{GateVerdict, GateWindow};
use crate::rollout::*;
use crate::time::Span;

fn report(n: u32, generation: Option<u64>, said: Said) -> Event {
    Event::Reports { reports: vec![Report { node: id(n), generation, said }] }
}

fn soaking() -> Spec {
    Spec { judge: GateSpec { soak: Span::secs(60), ..GateSpec::default() }, ..spec() }
}

#[test]
fn a_node_moves_forward_through_its_reports() {
    let mut w = World::started(spec(), 1);
    let b = Some(target());
    for (said, kind) in [
        (Said::Downloaded { bundle: b }, NodeStateKind::Downloaded),
        (Said::Staged { bundle: b }, NodeStateKind::Staged),
        (Said::Activated { bundle: b }, NodeStateKind::Activated),
    ] {
        w.feed(w.said(1, said));
        assert_eq!(w.kind(1), kind);
    }
    w.passes(1);
    assert_eq!(w.phase(), Phase::Completed);
}

#[test]
fn heartbeats_alone_are_enough() {
    let mut w = World::started(in_batches(1), 2);
    for n in [1, 2] {
        w.feed(report(n, None, Said::Active { bundle: Some(target()) }));
        assert_eq!(w.kind(n), NodeStateKind::Activated);
        w.passes(n);
    }
    assert_eq!(w.phase(), Phase::Completed);
}

#[test]
fn doubled_and_reordered_reports_change_nothing() {
    let mut w = World::started(in_batches(2), 2);
    let b = Some(target());
    w.activates(1);
    for said in [
        Said::Downloaded { bundle: b },
        Said::Staged { bundle: b },
        Said::Activated { bundle: b },
        Said::Verified { bundle: b },
        Said::Active { bundle: b },
    ] {
        w.ignored(w.said(1, said));
    }
    w.passes(1);
    w.ignored(w.said(1, Said::Activated { bundle: b }));
    w.ignored(w.said(1, Said::Verified { bundle: b }));
}

#[test]
fn late_reports_of_another_generation_change_nothing() {
    let mut w = World::started(spec(), 2);
    let b = Some(target());
    let late = w.said(1, Said::Failed { bundle: b, error: "late".into() });
    w.fails(1);
    w.retry();
    w.ignored(late);
    w.ignored(report(1, Some(999), Said::Activated { bundle: b }));
    w.ignored(report(1, Some(1), Said::Active { bundle: Some(old()) }));
}

#[test]
fn foreign_reports_change_nothing() {
    let mut w = World::started(in_batches(1), 2);
    let generation = Some(w.generation(1));
    w.ignored(report(77, generation, Said::Activated { bundle: Some(target()) }));
    w.ignored(report(1, generation, Said::Activated { bundle: Some(bundle(9)) }));
    w.ignored(report(1, None, Said::Failed { bundle: Some(bundle(9)), error: "other".into() }));
    w.ignored(report(2, None, Said::Activated { bundle: Some(target()) }));
    w.ignored(Event::Reports { reports: Vec::new() });
}

#[test]
fn a_report_without_generation_matches_the_current_assignment_of_the_same_bundle() {
    let mut w = World::started(spec(), 1);
    w.feed(report(1, None, Said::Activated { bundle: Some(target()) }));
    assert_eq!(w.kind(1), NodeStateKind::Activated);
}

#[test]
fn the_nodes_own_verified_is_one_observation_and_no_verdict() {
    let mut w = World::started(spec(), 1);
    w.feed(w.said(1, Said::Verified { bundle: Some(target()) }));
    assert_eq!(w.kind(1), NodeStateKind::Activated);
}

#[test]
fn an_overdue_timer_does_not_make_every_late_report_a_change() {
    let mut w = World::started(spec(), 2);
    w.tick(10_000);
    w.ignored(report(1, Some(999), Said::Activated { bundle: Some(target()) }));
    w.feed(Event::Timer);
    assert_eq!(w.failed(1), Some(FailReason::Deadline));
}

#[test]
fn reports_may_come_many_in_one_event() {
    let mut w = World::started(at_once(), 3);
    let reports = (1..=3)
        .map(|n| Report { node: id(n), generation: None, said: Said::Activated { bundle: Some(target()) } })
        .collect();
    w.feed(Event::Reports { reports });
    w.tick(1);
    let windows = (1..=3).map(|n| w.window(n, GateVerdict::Pass)).collect();
    w.feed(Event::Gates { windows });
    assert_eq!(w.phase(), Phase::Completed);
}

#[test]
fn evidence_must_be_measured_after_activation() {
    let mut w = World::started(spec(), 1);
    w.activates(1);
    let same_moment = w.window(1, GateVerdict::Pass);
    w.ignored(Event::Gates { windows: vec![same_moment.clone()] });
    w.tick(1);
    let begun_before = GateWindow { last_fresh: w.now, ..same_moment };
    w.ignored(Event::Gates { windows: vec![begun_before] });
    assert_eq!(w.kind(1), NodeStateKind::Activated);
}

#[test]
fn evidence_must_be_fresh_when_it_is_judged() {
    let mut w = World::started(spec(), 1);
    w.activates(1);
    w.tick(1);
    let window = w.window(1, GateVerdict::Pass);
    w.tick(61);
    w.ignored(Event::Gates { windows: vec![window] });
    w.passes(1);
    assert_eq!(w.kind(1), NodeStateKind::Verified);
}

#[test]
fn evidence_must_be_of_this_generation() {
    let mut w = World::started(spec(), 1);
    w.activates(1);
    w.tick(1);
    let other = GateWindow { generation: w.generation(1) - 1, ..w.window(1, GateVerdict::Pass) };
    w.ignored(Event::Gates { windows: vec![other.clone()] });
    let failing = GateWindow { verdict: GateVerdict::Fail, ..other };
    w.ignored(Event::Gates { windows: vec![failing] });
}

#[test]
fn unknown_never_advances_and_never_fails() {
    let mut w = World::started(spec(), 1);
    w.activates(1);
    w.gate(1, GateVerdict::Unknown);
    assert_eq!(w.kind(1), NodeStateKind::Activated);
}

/// It has just begun to pass.
fn begins_to_pass(w: &mut World) {
    w.tick(1);
    let first = GateWindow { soaked: Span::ZERO, ..w.window(1, GateVerdict::Pass) };
    w.feed(Event::Gates { windows: vec![first] });
}

#[test]
fn a_node_that_soaks_is_not_stuck_however_late_it_began() {
    // The deadline is 600 s, and the soak of 60 s more.
    let mut w = World::started(soaking(), 1);
    w.activates(1);
    w.pass_time(650);
    begins_to_pass(&mut w);
    w.pass_time(50);
    // Another session begins the soak again.
    begins_to_pass(&mut w);
    w.pass_time(70);
    assert_eq!(w.kind(1), NodeStateKind::Activated);
    w.passes(1);
    assert_eq!(w.kind(1), NodeStateKind::Verified);
}

#[test]
fn a_soak_of_which_nothing_more_is_heard_ends_at_the_deadline_too() {
    let mut w = World::started(soaking(), 1);
    w.activates(1);
    w.pass_time(650);
    begins_to_pass(&mut w);
    w.pass_time(119);
    assert_eq!(w.kind(1), NodeStateKind::Activated);
    w.pass_time(1);
    assert_eq!(w.failed(1), Some(FailReason::Deadline));
}

#[test]
fn passing_now_and_then_is_no_forward_move_and_reaches_the_deadline() {
    let mut w = World::started(soaking(), 1);
    w.activates(1);
    for _ in 0..10 {
        begins_to_pass(&mut w);
        w.pass_time(30);
        w.gate(1, GateVerdict::Unknown);
        w.pass_time(30);
    }
    assert_eq!(w.kind(1), NodeStateKind::Activated);
    begins_to_pass(&mut w);
    w.pass_time(58);
    w.gate(1, GateVerdict::Unknown);
    w.pass_time(0);
    assert_eq!(w.failed(1), Some(FailReason::Deadline));
}

#[test]
fn verified_without_traffic_is_shown_as_such() {
    let mut w = World::started(spec(), 1);
    w.activates(1);
    w.tick(1);
    let window = GateWindow { no_traffic: true, ..w.window(1, GateVerdict::Pass) };
    w.feed(Event::Gates { windows: vec![window] });
    assert!(matches!(w.member(1).state, NodeState::Verified { no_traffic: true, .. }));
    let told = |f: &Fact| matches!(f, Fact::NodeMoved { detail: Some(d), .. } if d == "without traffic");
    assert_eq!(w.count_facts(told), 1);
}

#[test]
fn a_node_fails_by_gate_with_the_gate_in_words() {
    let mut w = World::started(spec(), 1);
    w.activates(1);
    w.gate(1, GateVerdict::Fail);
    assert_eq!(w.failed(1), Some(FailReason::Gate));
    let told = |f: &Fact| matches!(f, Fact::NodeMoved { detail: Some(d), .. } if d.starts_with("gate: max_error_rate"));
    assert_eq!(w.count_facts(told), 1);
}

#[test]
fn gates_of_a_node_that_has_not_activated_say_nothing() {
    let mut w = World::started(spec(), 1);
    w.tick(1);
    for verdict in [GateVerdict::Pass, GateVerdict::Fail, GateVerdict::Flapping, GateVerdict::Unknown] {
        let window = w.window(1, verdict);
        w.ignored(Event::Gates { windows: vec![window] });
    }
}

#[test]
fn long_error_texts_are_kept_short() {
    let mut w = World::started(spec(), 1);
    w.feed(w.said(1, Said::Failed { bundle: Some(target()), error: "ä".repeat(2_000) }));
    let NodeState::Failed { error: Some(e), .. } = &w.member(1).state else { panic!() };
    assert_eq!(e.chars().count(), 500);
}

#[test]
fn two_decisions_that_differ_in_the_last_bit_of_a_generation_have_different_hashes() {
    let desire = |generation| Decision {
        changes: vec![Change::Desire { node: id(1), expect: 0, generation, bundle: None, weight: 100 }],
        ..Decision::default()
    };
    let restored = 7u64 << 56;
    assert_ne!(desire(restored).hash(), desire(restored + 1).hash());
}

#[test]
fn the_clock_of_the_machine_may_run_backwards() {
    let mut w = World::started(in_batches(1), 2);
    let before = w.now;
    w.now = w.now - Span::secs(3_600);
    w.activates(1);
    w.now = before;
    w.passes(1);
    assert_eq!(w.kind(1), NodeStateKind::Verified);
    w.replay().unwrap();
}
