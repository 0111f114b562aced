//! Before an automatic rollback: an outage that only error rates, latencies or probes show does not take an innocent change back.

use super::db::id;
use super::world::*;
use crate::node::{GateVerdict, HealthClass, Metrics, Probed};
use crate::rollout::*;
use crate::time::Span;
use std::collections::BTreeMap;

const BAD: f64 = 60.0;
const GOOD: f64 = 0.0;

fn probing() -> Spec {
    let mut spec = gated(in_batches(2));
    spec.judge.gates.max_error_rate = None;
    spec.judge.probes = vec![HttpProbe { url: "http://shop/health".into(), ..HttpProbe::default() }];
    spec
}

/// Six nodes in batches of two: the first two run the change, the second of them fails by its gates.
fn failing(spec: Spec) -> World {
    let mut w = World::started(spec, 6);
    w.verifies(1);
    w.activates(2);
    w.gate(2, GateVerdict::Fail);
    w
}

/// What these nodes measured lately, as the shell would put it; the others it has not heard.
fn heard(w: &World, rates: &[(u32, f64)], probed: Option<&Probed>) -> Event {
    let metrics = |rate: f64| Metrics {
        request_count: Some(1_000),
        error_count: Some((rate * 10.0) as u64),
        error_rate: Some(rate),
        ..Metrics::default()
    };
    let recent: BTreeMap<_, _> = rates.iter().map(|(n, rate)| (id(*n), metrics(*rate))).collect();
    answer(&w.r, &asked(&w.r).unwrap(), &recent, probed, w.now)
}

/// It asks, and neither goes on nor back.
fn asks(w: &World) {
    assert_eq!((w.phase(), w.reason()), (Phase::Running, "untouched_nodes"));
    assert_eq!(w.on_their_way(), Vec::<u32>::new());
}

#[test]
fn an_outage_that_only_error_rates_show_does_not_take_back_an_innocent_change() {
    let mut w = failing(gated(in_batches(2)));
    asks(&w);
    assert_eq!(asked(&w.r), Some([3, 4, 5, 6].map(id).to_vec()));
    w.feed(heard(&w, &[(3, BAD), (4, BAD), (5, BAD), (6, BAD)], None));
    assert_eq!((w.phase(), w.reason()), (Phase::Paused, "fleet_wide"));
    assert!(explain(&w.r).text.contains("4 of 4 untouched nodes fail the gates too"), "{:?}", explain(&w.r));
    assert_eq!(asked(&w.r), None);
    w.pass_time(1_000);
    assert_eq!(w.phase(), Phase::Paused, "a person looks");
    w.replay().unwrap();
}

#[test]
fn when_only_the_updated_nodes_fail_the_change_is_taken_back() {
    let mut w = failing(gated(in_batches(2)));
    w.feed(heard(&w, &[(3, GOOD), (4, GOOD), (5, GOOD), (6, GOOD)], None));
    assert_eq!((w.phase(), w.r.head.auto_rollback), (Phase::RollingBack, true));
    w.all_verify([1, 2]);
    assert_eq!(w.phase(), Phase::RolledBack);
    w.replay().unwrap();
}

#[test]
fn half_as_often_is_an_outage_and_less_is_not() {
    // One of two updated nodes failed: of four untouched ones, one is half as often.
    let mut w = failing(gated(in_batches(2)));
    let mut less = w.clone();
    w.feed(heard(&w, &[(3, BAD), (4, GOOD), (5, GOOD), (6, GOOD)], None));
    assert_eq!(w.reason(), "fleet_wide");
    less.gate(1, GateVerdict::Fail);
    asks(&less);
    less.feed(heard(&less, &[(3, BAD), (4, GOOD), (5, GOOD), (6, GOOD)], None));
    assert_eq!(less.phase(), Phase::RollingBack, "both of two against one of four");
}

#[test]
fn a_part_of_the_answer_decides_only_when_the_rest_cannot_change_it() {
    let mut w = failing(gated(in_batches(2)));
    w.gate(1, GateVerdict::Fail);
    w.ignored(heard(&w, &[], None));
    w.ignored(heard(&w, &[(3, BAD), (4, GOOD)], None));
    let mut back = w.clone();
    w.feed(heard(&w, &[(3, BAD), (4, GOOD), (6, BAD)], None));
    assert_eq!(w.reason(), "fleet_wide");
    back.feed(heard(&back, &[(3, GOOD), (4, GOOD), (6, GOOD)], None));
    assert_eq!(back.phase(), Phase::RollingBack);
}

#[test]
fn without_an_answer_the_change_is_taken_back_in_time() {
    let mut w = failing(gated(in_batches(2)));
    let until = w.r.head.asked.unwrap() + Span::secs(15);
    assert_eq!(w.r.head.wake_at, Some(until));
    w.pass_time(until.since(w.now).as_secs() - 1);
    asks(&w);
    w.pass_time(1);
    assert_eq!((w.phase(), w.r.head.asked), (Phase::RollingBack, None));
    w.replay().unwrap();
}

#[test]
fn a_restart_between_the_question_and_the_answer_keeps_the_question() {
    let mut w = failing(gated(in_batches(2)));
    // Another owner reads the rows and what they say of the head.
    let mut rows = w.r.rows();
    rows.head = serde_json::from_str(&serde_json::to_string(&rows.head).unwrap()).unwrap();
    w.r = Rollout::load(rows);
    asks(&w);
    let before = w.r.head.wake_at;
    w.tick(300);
    w.feed(Event::OwnerStarted { down: Span::secs(300) });
    assert_eq!(w.r.head.wake_at.map(|t| t - Span::secs(300)), before, "nobody could answer meanwhile");
    w.feed(Event::Timer);
    asks(&w);
    w.feed(heard(&w, &[(3, BAD), (4, BAD), (5, BAD), (6, BAD)], None));
    assert_eq!(w.reason(), "fleet_wide");
    w.replay().unwrap();
}

#[test]
fn a_probe_that_does_not_match_fails_untouched_nodes_too() {
    let mut w = failing(probing());
    w.ignored(heard(&w, &[(3, GOOD)], None));
    let said = |failed: Option<&str>| Probed { at: w.now, failed: failed.map(str::to_string) };
    let (down, up) = (said(Some("probe 1 did not match")), said(None));
    let mut back = w.clone();
    w.feed(heard(&w, &[], Some(&down)));
    assert_eq!(w.reason(), "fleet_wide");
    back.feed(heard(&back, &[], Some(&up)));
    assert_eq!(back.phase(), Phase::RollingBack);
}

#[test]
fn who_cannot_have_failed_by_what_others_share_or_has_nobody_to_ask_goes_back_at_once() {
    let mut reported = World::started(gated(in_batches(2)), 6);
    reported.fails(1);
    assert_eq!(reported.phase(), Phase::RollingBack, "the node itself said that the bundle failed");
    assert_eq!(failing(Spec { on_failure: OnFailure::Rollback, ..in_batches(2) }).phase(), Phase::RollingBack);
    let mut alone = World::started(gated(at_once()), 2);
    alone.activates(1);
    alone.gate(1, GateVerdict::Fail);
    assert_eq!(alone.phase(), Phase::RollingBack, "nobody is untouched");
    // Those that were asked go silent, one by one.
    let mut left = failing(gated(in_batches(2)));
    for n in [3, 4, 5, 6] {
        left.goes_silent(n);
    }
    left.feed(heard(&left, &[], None));
    assert_eq!(left.phase(), Phase::RollingBack);
}

#[test]
fn who_is_ill_needs_not_be_asked() {
    let mut w = World::started(gated(in_batches(2)), 6);
    for n in [4, 5, 6] {
        w.health(n, HealthClass::Unhealthy);
    }
    w.activates(1);
    w.gate(1, GateVerdict::Fail);
    assert_eq!(w.reason(), "fleet_wide");
}

#[test]
fn a_person_is_heard_while_it_asks_and_a_question_without_reason_is_dropped() {
    let w = failing(gated(in_batches(2)));
    for (command, phase) in [
        (Event::Retry { nodes: None }, Phase::Running),
        (Event::Cancel { note: None }, Phase::Cancelled),
        (rollback_event(&[]), Phase::RollingBack),
    ] {
        let mut w = w.clone();
        w.feed(command);
        assert_eq!((w.phase(), w.r.head.asked), (phase, None));
        w.ignored(Event::Untouched { of: 4, failing: 4, unknown: 0 });
    }
    let mut paused = w.clone();
    paused.pause();
    assert_eq!((paused.phase(), paused.reason()), (Phase::Paused, "person"));
    paused.feed(heard(&paused, &[(3, GOOD), (4, GOOD), (5, GOOD), (6, GOOD)], None));
    assert_eq!(paused.phase(), Phase::RollingBack, "an automatic rollback acts while paused");
}

#[test]
fn after_a_fleet_wide_pause_it_asks_again_when_a_person_resumes_without_an_answer() {
    let mut w = failing(gated(in_batches(2)));
    w.feed(heard(&w, &[(3, BAD), (4, BAD), (5, BAD), (6, BAD)], None));
    w.resume();
    asks(&w);
    w.feed(heard(&w, &[(3, GOOD), (4, GOOD), (5, GOOD), (6, GOOD)], None));
    assert_eq!(w.phase(), Phase::RollingBack);
}

#[test]
fn traffic_is_not_shifted_while_it_asks() {
    let mut w = World::started(gated(blue_green()), 4);
    let standby: Vec<u32> = w.on_their_way();
    w.all_verify(standby.iter().copied());
    standby.iter().for_each(|n| drop(w.weighs(*n)));
    w.gate(standby[0], GateVerdict::Fail);
    asks(&w);
    assert!(matches!(w.refused(Event::AdvanceTraffic), Rejection::NotAllowed { why: Some(_), .. }));
}
