//! Heartbeats in, windows out: what a node's own numbers mean for its gates.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::rollout::spec::{HealthGates, HttpProbe};

/// The node runs the bundle since this second; its report call said so.
const ACTIVATED: i64 = 1_000;

fn at(s: i64) -> Timestamp {
    Timestamp(s * 1_000_000)
}

fn fold() -> Fold {
    Fold::new(NodeId::NIL, 7, at(ACTIVATED), false, false)
}

/// A healthy heartbeat, measured and received `s` seconds after activation.
fn beat(s: i64) -> Observation {
    Observation {
        received: at(ACTIVATED + s),
        sent_at: Some(at(s)),
        measured_at: Some(at(s)),
        active: None,
        health: Some(HealthClass::Healthy),
        metrics: None,
        verified_report: false,
        probed: None,
    }
}
/// With an answer of the probes, asked `s` seconds after activation.
fn probed(beat: Observation, s: i64, failed: Option<&str>) -> Observation {
    Observation { probed: Some(Probed { at: at(ACTIVATED + s), failed: failed.map(str::to_string) }), ..beat }
}
fn probing() -> GateSpec {
    GateSpec { probes: vec![HttpProbe::default()], ..spec() }
}
fn sick(s: i64) -> Observation {
    Observation { health: Some(HealthClass::Unhealthy), ..beat(s) }
}
fn silent_on_health(s: i64) -> Observation {
    Observation { health: None, ..beat(s) }
}
fn with(s: i64, metrics: Metrics) -> Observation {
    Observation { metrics: Some(metrics), ..beat(s) }
}
fn bare(s: i64) -> Observation {
    Observation { sent_at: None, measured_at: None, ..beat(s) }
}

/// Freshness 60 s, a failure after 30 s, 20 requests are traffic.
fn spec() -> GateSpec {
    GateSpec::default()
}
fn soaking(s: i64) -> GateSpec {
    GateSpec { soak: Span::secs(s), ..spec() }
}
fn judging_errors(limit: f64) -> GateSpec {
    let mut s = spec();
    s.gates.max_error_rate = Some(limit);
    s
}
fn judging_latency(limit: f64) -> GateSpec {
    let mut s = spec();
    s.gates.max_latency_ms = Some(limit);
    s
}

fn total(requests: u64, errors: u64) -> Metrics {
    Metrics { requests_total: Some(requests), errors_total: Some(errors), ..Metrics::default() }
}
fn count(requests: u64, errors: u64) -> Metrics {
    Metrics { request_count: Some(requests), error_count: Some(errors), ..Metrics::default() }
}
fn rate(percent: f64) -> Metrics {
    Metrics { error_rate: Some(percent), ..Metrics::default() }
}
fn p99(ms: f64) -> Metrics {
    Metrics { latency_p99_ms: Some(ms), ..Metrics::default() }
}

/// The verdicts told over `observations`; `None` where nothing was told.
fn told(f: &mut Fold, s: &GateSpec, observations: &[Observation]) -> Vec<Option<GateVerdict>> {
    observations.iter().map(|o| f.observe(o, s).map(|w| w.verdict)).collect()
}

const PASS: Option<GateVerdict> = Some(GateVerdict::Pass);
const FAIL: Option<GateVerdict> = Some(GateVerdict::Fail);
const UNKNOWN: Option<GateVerdict> = Some(GateVerdict::Unknown);

#[test]
fn a_steady_heartbeat_tells_nothing_after_its_edges() {
    let mut f = fold();
    let beats: Vec<Observation> = (1..100).map(|i| beat(i * 10)).collect();
    let heard = told(&mut f, &soaking(60), &beats);
    let edges: Vec<usize> = (0..heard.len()).filter(|i| heard[*i].is_some()).collect();
    assert_eq!(edges, vec![0, 6], "the first pass, and the end of the soak");
}

#[test]
fn the_soak_begins_anew_with_a_new_proxy_process() {
    let mut f = fold();
    let of = |s: i64, epoch: u64| with(s, Metrics { counter_epoch: Some(epoch), ..Metrics::default() });
    let soaking = soaking(60);
    assert_eq!(told(&mut f, &soaking, &[of(1, 1), of(31, 1)]), [PASS, None]);
    // A word without numbers in between changes nothing.
    assert_eq!(told(&mut f, &soaking, &[of(41, 2), beat(71)]), [None, None], "70 s, of which the new one ran 30");
    let w = f.observe(&of(101, 2), &soaking).unwrap();
    assert_eq!((w.verdict, w.soaked, w.first_pass), (GateVerdict::Pass, Span::secs(60), Some(at(ACTIVATED + 41))));
    assert_eq!(
        told(&mut f, &soaking, &[of(111, 3), of(170, 3)]),
        [None, None],
        "and once more, for one that is told again"
    );
    assert_eq!(told(&mut f, &soaking, &[of(171, 3)]), [PASS]);
}

#[test]
fn only_data_measured_after_activation_counts() {
    let mut f = fold();
    let before = Observation { measured_at: Some(at(-1)), sent_at: Some(at(1)), ..beat(1) };
    assert_eq!(f.observe(&before, &spec()), None);
    let w = f.observe(&beat(2), &spec()).unwrap();
    assert_eq!((w.verdict, w.first_pass, w.last_fresh), (GateVerdict::Pass, Some(at(1_002)), at(1_002)));
    assert_eq!(w.generation, 7);
}

#[test]
fn old_data_says_nothing_whatever_the_clock_of_the_node_is() {
    let mut f = fold();
    // Its clock is years off; only the difference of its two times is used.
    let skewed = |measured: i64, sent: i64| Observation {
        sent_at: Some(at(90_000_000 + sent)),
        measured_at: Some(at(90_000_000 + measured)),
        ..beat(100)
    };
    assert_eq!(f.observe(&skewed(0, 61), &spec()), None, "61 seconds old");
    let w = f.observe(&skewed(0, 60), &spec()).unwrap();
    assert_eq!(w.last_fresh, at(ACTIVATED + 40));
    // A measurement "from the future" is as old as the message.
    assert_eq!(skewed(10, 0).measured(), Some(at(ACTIVATED + 100)));
}

#[test]
fn without_sent_at_the_first_heartbeat_after_activation_does_not_count() {
    let mut f = fold();
    assert_eq!(told(&mut f, &spec(), &[bare(1), bare(2)]), vec![None, PASS]);
}

#[test]
fn activation_by_heartbeat_is_itself_the_one_that_does_not_count() {
    let mut f = Fold::new(NodeId::NIL, 7, at(ACTIVATED), true, false);
    assert_eq!(told(&mut f, &spec(), &[bare(0), bare(1)]), vec![None, PASS]);
}

#[test]
fn the_soak_is_the_sum_of_intervals_between_passing_observations() {
    let mut f = fold();
    let s = soaking(50);
    assert_eq!(told(&mut f, &s, &[beat(10), beat(30)]), vec![PASS, None]);
    assert_eq!(f.observe(&beat(59), &s), None, "49 seconds");
    let w = f.observe(&beat(60), &s).unwrap();
    assert_eq!((w.soaked, w.n, w.first_pass), (Span::secs(50), 4, Some(at(1_010))));
}

#[test]
fn a_silence_longer_than_the_freshness_starts_the_soak_again() {
    let mut f = fold();
    let s = soaking(100);
    assert_eq!(told(&mut f, &s, &[beat(10), beat(60), beat(121)]), vec![PASS, None, None]);
    assert_eq!(told(&mut f, &s, &[beat(180), beat(220)]), vec![None, None], "99 seconds since the gap");
    let w = f.observe(&beat(221), &s).unwrap();
    assert_eq!((w.soaked, w.first_pass), (Span::secs(100), Some(at(1_121))));
}

#[test]
fn after_a_silence_the_end_of_the_soak_is_told_again() {
    let mut f = fold();
    let s = soaking(30);
    assert_eq!(told(&mut f, &s, &[beat(10), beat(40)]), vec![PASS, PASS]);
    assert_eq!(told(&mut f, &s, &[beat(200), beat(230)]), vec![None, PASS]);
}

#[test]
fn what_the_engine_could_not_use_is_told_again_on_demand() {
    let mut f = fold();
    assert_eq!(told(&mut f, &spec(), &[beat(1), beat(2)]), vec![PASS, None]);
    f.retell();
    assert_eq!(told(&mut f, &spec(), &[beat(3), beat(4)]), vec![PASS, None]);
}

#[test]
fn a_fail_or_an_unknown_resets_the_soak() {
    for interruption in [sick(40), silent_on_health(40)] {
        let mut f = fold();
        let s = soaking(30);
        assert_eq!(told(&mut f, &s, &[beat(10), beat(30), interruption]), vec![PASS, None, UNKNOWN]);
        assert_eq!(told(&mut f, &s, &[beat(50), beat(79)]), vec![PASS, None]);
        assert_eq!(f.observe(&beat(80), &s).unwrap().soaked, Span::secs(30));
    }
}

#[test]
fn a_node_fails_after_fail_after_and_two_observations() {
    let mut f = fold();
    assert_eq!(told(&mut f, &spec(), &[sick(10), sick(20), sick(39)]), vec![UNKNOWN, None, None]);
    let w = f.observe(&sick(40), &spec()).unwrap();
    assert_eq!(w.verdict, GateVerdict::Fail);
    assert_eq!(w.worst, "heartbeat_healthy: health unhealthy");
    assert_eq!(told(&mut f, &spec(), &[sick(50)]), vec![None], "told once");
}

#[test]
fn one_failing_observation_is_never_a_failure() {
    let s = GateSpec { fail_after: Span::ZERO, ..spec() };
    let mut f = fold();
    assert_eq!(told(&mut f, &s, &[sick(10), sick(11)]), vec![UNKNOWN, FAIL]);
    let mut f = fold();
    assert_eq!(told(&mut f, &s, &[sick(10), silent_on_health(20), sick(60)]), vec![UNKNOWN, None, None]);
}

#[test]
fn three_changes_from_pass_to_fail_are_flapping() {
    let mut f = fold();
    let mut heard = Vec::new();
    for i in 0..3 {
        heard.extend(told(&mut f, &spec(), &[beat(i * 10 + 1), sick(i * 10 + 2)]));
    }
    assert_eq!(heard, vec![PASS, UNKNOWN, PASS, UNKNOWN, PASS, Some(GateVerdict::Flapping)]);
}

#[test]
fn degraded_is_not_healthy() {
    let s = GateSpec { fail_after: Span::ZERO, ..spec() };
    let mut f = fold();
    let degraded = |s| Observation { health: Some(HealthClass::Degraded), ..beat(s) };
    assert_eq!(told(&mut f, &s, &[degraded(1), degraded(2)]), vec![UNKNOWN, FAIL]);
}

#[test]
fn absent_health_passes_until_the_node_has_ever_sent_it() {
    let mut f = fold();
    let never = Observation { health: Some(HealthClass::Absent), ..beat(2) };
    assert_eq!(told(&mut f, &spec(), &[silent_on_health(1), never]), vec![PASS, None]);
    assert_eq!(told(&mut f, &spec(), &[beat(3), silent_on_health(4)]), vec![None, UNKNOWN]);
    let mut f = Fold::new(NodeId::NIL, 7, at(ACTIVATED), false, true);
    assert_eq!(told(&mut f, &spec(), &[silent_on_health(1)]), vec![UNKNOWN], "also before this bundle");
}

#[test]
fn a_verified_report_is_a_healthy_observation_and_no_measurement() {
    let report = |s| Observation { verified_report: true, health: None, ..bare(s) };
    let mut f = Fold::new(NodeId::NIL, 7, at(ACTIVATED), false, true);
    assert_eq!(told(&mut f, &spec(), &[report(1)]), vec![PASS]);
    let mut f = fold();
    assert_eq!(told(&mut f, &judging_errors(1.0), &[report(1)]), vec![UNKNOWN]);
    let mut f = fold();
    let sick = Observation { health: Some(HealthClass::Unhealthy), ..report(1) };
    assert_eq!(told(&mut f, &spec(), &[sick]), vec![UNKNOWN], "what it says of its health counts more");
}

#[test]
fn probes_count_when_they_were_asked_after_the_activation_and_lately() {
    let mut f = fold();
    assert_eq!(told(&mut f, &probing(), &[beat(1)]), vec![UNKNOWN], "nobody was asked yet");
    assert_eq!(told(&mut f, &probing(), &[probed(beat(2), 0, None)]), vec![None], "asked before the switch");
    assert_eq!(told(&mut f, &probing(), &[probed(beat(3), 2, None)]), vec![PASS]);
    assert_eq!(told(&mut f, &probing(), &[probed(beat(90), 20, None)]), vec![UNKNOWN], "asked 70 s ago");
    assert_eq!(told(&mut f, &probing(), &[probed(sick(91), 90, None)]), vec![None], "the other gates hold as well");
    assert_eq!(
        told(&mut f, &spec(), &[probed(beat(92), 91, Some("x"))]),
        vec![PASS],
        "not one of this rollout's gates"
    );
}

#[test]
fn a_probe_fails_the_node_after_a_while_and_says_which() {
    let mut f = fold();
    let failing = |s| probed(beat(s), s - 1, Some("probe 1 did not match"));
    assert_eq!(told(&mut f, &probing(), &[failing(2), failing(20)]), vec![UNKNOWN, None]);
    let w = f.observe(&failing(40), &probing()).unwrap();
    assert_eq!((w.verdict, w.worst.as_str()), (GateVerdict::Fail, "probes: probe 1 did not match"));
}

#[test]
fn a_missing_field_is_unknown() {
    let mut f = fold();
    let w = f.observe(&beat(1), &judging_errors(1.0)).unwrap();
    assert_eq!((w.verdict, w.worst.as_str()), (GateVerdict::Unknown, "max_error_rate: no data"));
    for gates in [
        HealthGates { max_cpu_percent: Some(90.0), ..HealthGates::default() },
        HealthGates { max_memory_percent: Some(90.0), ..HealthGates::default() },
        HealthGates { max_latency_ms: Some(90.0), ..HealthGates::default() },
    ] {
        let s = GateSpec { gates, ..spec() };
        assert_eq!(told(&mut fold(), &s, &[beat(1)]), vec![UNKNOWN]);
    }
}

#[test]
fn processor_and_memory_are_compared_with_their_limits() {
    let gates = HealthGates { max_cpu_percent: Some(80.0), max_memory_percent: Some(70.0), ..HealthGates::default() };
    let s = GateSpec { gates, fail_after: Span::ZERO, ..spec() };
    let load = |cpu, memory| Metrics { cpu_percent: Some(cpu), memory_percent: Some(memory), ..Metrics::default() };
    assert_eq!(told(&mut fold(), &s, &[with(1, load(80.0, 70.0))]), vec![PASS]);
    let mut f = fold();
    assert_eq!(told(&mut f, &s, &[with(1, load(80.1, 1.0)), with(2, load(1.0, 70.1))]), vec![UNKNOWN, FAIL]);
}

#[test]
fn error_rates_are_judged_over_all_requests_since_activation() {
    let s = GateSpec { fail_after: Span::ZERO, ..judging_errors(10.0) };
    let mut f = fold();
    // 1 of 100, then 20 of 100: 10.5 percent altogether.
    let beats = [with(1, count(50, 50)), with(2, count(100, 1)), with(3, count(100, 20)), with(4, count(100, 0))];
    assert_eq!(told(&mut f, &s, &beats), vec![UNKNOWN, PASS, UNKNOWN, PASS], "the first count spans the activation");
}

#[test]
fn the_first_reading_of_a_counter_is_only_what_the_next_are_counted_from() {
    let mut f = fold();
    let s = judging_errors(1.0);
    // A million errors of the bundle before are none of this one; and a busy node is not one without traffic.
    let heard = told(&mut f, &s, &[with(1, total(2_000_000, 1_000_000)), with(2, total(2_000_100, 1_000_001))]);
    assert_eq!(heard, vec![UNKNOWN, PASS]);
}

#[test]
fn a_new_epoch_of_the_counters_counts_from_zero() {
    let s = GateSpec { fail_after: Span::ZERO, ..judging_errors(10.0) };
    let epoch = |e, m: Metrics| Metrics { counter_epoch: Some(e), ..m };
    let mut f = fold();
    let heard = told(
        &mut f,
        &s,
        &[
            with(1, epoch(1, total(1_000, 0))),
            with(2, epoch(1, total(1_100, 0))),
            // 50 of 150 altogether.
            with(3, epoch(2, total(50, 50))),
            // Counters that fall without saying so are a new epoch too: 50 of 450.
            with(4, epoch(2, total(300, 100))),
            with(5, epoch(2, total(10, 0))),
        ],
    );
    assert_eq!(heard, vec![UNKNOWN, PASS, UNKNOWN, FAIL, None]);
}

#[test]
fn counters_win_over_counts_and_counts_over_a_bare_rate() {
    let s = judging_errors(10.0);
    let all = |m: Metrics| Metrics { error_rate: Some(99.0), request_count: Some(100), error_count: Some(100), ..m };
    let mut f = fold();
    assert_eq!(told(&mut f, &s, &[with(1, all(total(0, 0))), with(2, all(total(100, 0)))]), vec![UNKNOWN, PASS]);
    let counts = |n, e| Metrics { error_rate: Some(99.0), ..count(n, e) };
    let mut f = fold();
    assert_eq!(told(&mut f, &s, &[with(1, counts(1, 1)), with(2, counts(100, 0))]), vec![UNKNOWN, PASS]);
    assert_eq!(told(&mut fold(), &s, &[with(1, rate(99.0))]), vec![UNKNOWN]);
    assert_eq!(told(&mut fold(), &s, &[with(1, rate(10.0))]), vec![PASS]);
}

#[test]
fn too_few_requests_are_no_traffic_and_pass_or_hold() {
    let s = judging_errors(1.0);
    let mut f = fold();
    f.observe(&with(1, count(0, 0)), &s);
    let w = f.observe(&with(2, count(19, 19)), &s).unwrap();
    assert_eq!((w.verdict, w.no_traffic), (GateVerdict::Pass, true));
    assert_eq!(w.worst, "no traffic: 19 of 20 requests");
    let hold = GateSpec { on_no_traffic: OnNoTraffic::Hold, ..s.clone() };
    let mut f = fold();
    assert_eq!(told(&mut f, &hold, &[with(1, count(0, 0)), with(2, count(19, 19))]), vec![UNKNOWN, None]);
    assert_eq!(told(&mut f, &hold, &[with(3, count(1, 0)), with(4, count(4_000, 0))]), vec![None, PASS]);
}

#[test]
fn no_traffic_passes_only_while_the_node_is_healthy() {
    let s = GateSpec { fail_after: Span::ZERO, ..judging_errors(1.0) };
    let mut f = fold();
    let quiet_and_sick = |s| Observation { metrics: Some(count(0, 0)), ..sick(s) };
    assert_eq!(told(&mut f, &s, &[quiet_and_sick(1), quiet_and_sick(2)]), vec![UNKNOWN, FAIL]);
}

#[test]
fn of_percentiles_the_worst_of_the_window_counts() {
    let s = GateSpec { fail_after: Span::ZERO, ..judging_latency(100.0) };
    let mut f = fold();
    assert_eq!(told(&mut f, &s, &[with(1, p99(500.0)), with(31, p99(50.0))]), vec![UNKNOWN, FAIL]);
    assert_eq!(told(&mut f, &s, &[with(61, p99(50.0)), with(62, p99(50.0))]), vec![None, PASS]);
}

#[test]
fn the_second_worst_counts_when_the_worst_is_no_longer_fresh() {
    let s = GateSpec { fail_after: Span::ZERO, ..judging_latency(100.0) };
    let mut f = fold();
    f.observe(&with(1, p99(500.0)), &s);
    f.observe(&with(31, p99(300.0)), &s);
    assert_eq!(told(&mut f, &s, &[with(62, p99(50.0)), with(91, p99(50.0))]), vec![None, None]);
    assert_eq!(told(&mut f, &s, &[with(92, p99(50.0))]), vec![PASS]);
}

#[test]
fn the_memory_of_the_window_is_bounded_and_errs_towards_the_worse() {
    let mut kept = VecDeque::new();
    for i in 0..1_000 {
        let worst = worst_of(&mut kept, Some(2_000.0 - f64::from(i)), at(i64::from(i)), Span::secs(10_000));
        assert_eq!(worst, Some(2_000.0));
    }
    assert_eq!(kept.len(), MAX_KEPT);
}

#[test]
fn a_number_that_is_none_fails() {
    let s = GateSpec { fail_after: Span::ZERO, ..judging_latency(100.0) };
    assert_eq!(told(&mut fold(), &s, &[with(1, p99(f64::NAN)), with(2, p99(f64::INFINITY))]), vec![UNKNOWN, FAIL]);
}
