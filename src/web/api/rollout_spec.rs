//! From the body of `POST rollouts` to [`Spec`]: defaults, older spellings, and what is not supported yet, by name.

use crate::problem::{Outcome, Refusal};
use api::rollout::RolloutRequest;
use domain::project::Amount;
use domain::rollout::{BlueGreen, OnFailure, Spec, StrategyKind};
use domain::{BundleId, Span, Timestamp};

/// A time that is past by up to this much is now.
const SCHEDULE_LEEWAY: Span = Span::secs(60);
/// Longest label key of `spread_by`.
const MAX_LABEL_KEY: usize = 63;

/// The bundle as the body names it. Errors: 422.
pub fn bundle_name(said: &RolloutRequest) -> Outcome<&str> {
    said.bundle_id.as_deref().ok_or_else(|| Refusal::invalid("bundle_id", "is required"))
}

/// All errors at once: 422.
pub fn spec(said: &RolloutRequest, bundle: BundleId, stale_after: Span, now: Timestamp) -> Outcome<Spec> {
    let mut errors: Vec<(String, String)> = Vec::new();
    for (field, wanted) in [
        ("environment_id", given(&said.environment_id)),
        ("template_id", given(&said.template_id)),
        ("offline", given(&said.offline)),
        ("offline_grace_seconds", given(&said.offline_grace_seconds)),
    ] {
        if wanted {
            errors.push((field.into(), "is not supported yet".into()));
        }
    }
    let mut spec = Spec::new(bundle);
    spec.stale_after = stale_after;
    let seconds = |s: Option<u32>, default: Span| s.map_or(default, |s| Span::secs(i64::from(s)));
    spec.strategy = said.strategy.unwrap_or(spec.strategy);
    spec.seed = said.seed;
    spec.supersede = said.supersede.unwrap_or(false);
    spec.allow_restart = said.allow_restart.unwrap_or(false);
    spec.allow_deprecated = said.allow_deprecated.unwrap_or(false);
    if let Some(canary) = &said.canary {
        spec.canary = canary.clone();
    }
    if let Some(b) = &said.blue_green {
        let default = BlueGreen::default();
        spec.blue_green = BlueGreen {
            traffic_steps: b.traffic_steps.clone().unwrap_or(default.traffic_steps),
            auto_advance: b.auto_advance.unwrap_or(default.auto_advance),
            advance_delay: seconds(b.advance_delay_seconds, default.advance_delay),
        };
    }
    for (field, given, kind) in [
        ("canary", said.canary.is_some(), StrategyKind::Canary),
        ("blue_green", said.blue_green.is_some(), StrategyKind::BlueGreen),
    ] {
        if given && spec.strategy != kind {
            errors.push((field.into(), format!("belongs to strategy {kind}")));
        }
    }
    if let Some(selector) = &said.target_selector {
        spec.selector = selector.clone();
    }
    spec.batch_size = said.batch_size.unwrap_or(spec.batch_size);
    spec.ramp = said.ramp;
    spec.spread_by.clone_from(&said.spread_by);
    if said.spread_by.as_ref().is_some_and(|k| k.is_empty() || k.len() > MAX_LABEL_KEY) {
        errors.push(("spread_by".into(), "must be the key of a label".into()));
    }
    // The older literal 0 means that the batch is the limit.
    spec.max_unavailable = said.max_unavailable.filter(|a| *a != Amount::Count(0));
    spec.failure_threshold = said.failure_threshold.unwrap_or(spec.failure_threshold);
    spec.progress_deadline = seconds(said.progress_deadline_seconds, spec.progress_deadline);
    spec.rollback_deadline = seconds(said.rollback_deadline_seconds, spec.rollback_deadline);
    spec.start_window = seconds(said.start_window_seconds, spec.start_window);
    let judge = &mut spec.judge;
    judge.soak = seconds(said.min_healthy_seconds, judge.soak);
    judge.freshness = seconds(said.gate_freshness_seconds, judge.freshness);
    judge.fail_after = seconds(said.fail_after_seconds, judge.fail_after);
    judge.min_requests = said.min_requests.unwrap_or(judge.min_requests);
    judge.on_no_traffic = said.on_no_traffic.unwrap_or(judge.on_no_traffic);
    if let Some(gates) = &said.health_gates {
        judge.gates = gates.clone();
    }
    judge.probes = said.probes.clone().unwrap_or_default();
    for (i, probe) in judge.probes.iter().enumerate() {
        if let Err(why) = egress::Egress::check_url(&probe.url) {
            errors.push((format!("probes[{i}].url"), why.to_string()));
        }
    }
    spec.on_failure = match (said.on_failure, said.auto_rollback) {
        (Some(on_failure), Some(true)) if on_failure != OnFailure::Rollback => {
            errors.push(("auto_rollback".into(), format!("contradicts on_failure: {on_failure}")));
            on_failure
        }
        (Some(on_failure), _) => on_failure,
        (None, Some(true)) => OnFailure::Rollback,
        (None, _) => spec.on_failure,
    };
    spec.allow_failed = said.allow_failed.unwrap_or(false);
    spec.start = said.start.unwrap_or(true);
    if said.scheduled_at.is_some_and(|at| at + SCHEDULE_LEEWAY < now) {
        errors.push(("scheduled_at".into(), "is in the past".into()));
    }
    spec.scheduled_at = said.scheduled_at;
    errors.extend(spec.check().into_iter().map(|(field, why)| (field.to_string(), why)));
    if errors.is_empty() { Ok(spec) } else { Err(Refusal::all_invalid(errors)) }
}

/// `null` is not given, and an empty object asks for nothing.
fn given(value: &Option<serde_json::Value>) -> bool {
    match value {
        None | Some(serde_json::Value::Null) => false,
        Some(serde_json::Value::Object(m)) => !m.is_empty(),
        Some(_) => true,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use domain::node::Selector;
    use domain::rollout::{OnNoTraffic, ProbeMethod};
    use serde_json::json;

    const NOW: Timestamp = Timestamp(1_795_296_900_000_000);

    fn read(body: serde_json::Value) -> Outcome<Spec> {
        let said: RolloutRequest = crate::body::json(body.to_string().as_bytes())?;
        spec(&said, BundleId::NIL, Span::secs(90), NOW)
    }

    fn fields(body: serde_json::Value) -> Vec<String> {
        let refusal = read(body).unwrap_err();
        assert_eq!(refusal.problem.status, 422);
        refusal.problem.errors.into_keys().collect()
    }

    #[test]
    fn an_empty_body_has_the_defaults_of_the_contract() {
        let mut expect = Spec::new(BundleId::NIL);
        expect.stale_after = Span::secs(90);
        assert_eq!(read(json!({})).unwrap(), expect);
    }

    #[test]
    fn every_field_that_the_engine_knows_arrives() {
        let spec = read(json!({
            "bundle_id": "x", "target_selector": {"labels": {"env": "prod"}}, "strategy": "all_at_once", "batch_size": "25%",
            "ramp": 2.0, "spread_by": "rack", "max_unavailable": 3, "failure_threshold": "10%", "progress_deadline_seconds": 900,
            "rollback_deadline_seconds": 60, "min_healthy_seconds": 30, "gate_freshness_seconds": 20, "fail_after_seconds": 5,
            "min_requests": 7, "on_no_traffic": "hold", "health_gates": {"max_error_rate": 1.5}, "on_failure": "fail",
            "allow_failed": true, "scheduled_at": "2030-01-01T00:00:00Z", "start_window_seconds": 600, "start": false
        }))
        .unwrap();
        assert!(matches!(spec.selector, Selector::Labels { .. }));
        assert_eq!(spec.strategy, StrategyKind::AllAtOnce);
        assert_eq!((spec.batch_size, spec.max_unavailable), (Amount::Percent(25), Some(Amount::Count(3))));
        assert_eq!(
            (spec.ramp, spec.spread_by.as_deref(), spec.failure_threshold),
            (Some(2.0), Some("rack"), Amount::Percent(10))
        );
        assert_eq!((spec.progress_deadline, spec.rollback_deadline), (Span::secs(900), Span::secs(60)));
        assert_eq!(
            (spec.judge.soak, spec.judge.freshness, spec.judge.fail_after),
            (Span::secs(30), Span::secs(20), Span::secs(5))
        );
        assert_eq!((spec.judge.min_requests, spec.judge.on_no_traffic), (7, OnNoTraffic::Hold));
        assert_eq!((spec.judge.gates.max_error_rate, spec.judge.gates.heartbeat_healthy), (Some(1.5), true));
        assert_eq!((spec.on_failure, spec.allow_failed, spec.start), (OnFailure::Fail, true, false));
        assert_eq!((spec.start_window, spec.scheduled_at.is_some()), (Span::secs(600), true));
    }

    #[test]
    fn older_spellings_mean_what_they_meant() {
        assert_eq!(read(json!({"auto_rollback": true})).unwrap().on_failure, OnFailure::Rollback);
        assert_eq!(read(json!({"auto_rollback": false})).unwrap().on_failure, OnFailure::Pause);
        assert_eq!(read(json!({"max_unavailable": 0})).unwrap().max_unavailable, None);
        assert_eq!(fields(json!({"auto_rollback": true, "on_failure": "fail"})), ["auto_rollback"]);
    }

    #[test]
    fn what_is_not_supported_yet_is_refused_by_name() {
        assert_eq!(fields(json!({"offline": {"mode": "skip"}, "template_id": "t"})), ["offline", "template_id"]);
        assert!(read(json!({"supersede": false, "probes": [], "canary": null, "environment_id": null})).is_ok());
    }

    #[test]
    fn probes_are_read_and_checked() {
        let one = json!({"url": "https://a.example/health", "expected_status": 204, "timeout_ms": 500});
        let spec = read(json!({"probes": [one, {"url": "http://b.example"}]})).unwrap();
        let probes = spec.judge.probes;
        assert_eq!((probes[0].expected_status, probes[0].timeout_ms), (204, 500));
        assert_eq!((probes[1].expected_status, probes[1].timeout_ms, probes[1].method), (200, 2_000, ProbeMethod::Get));
        assert_eq!(fields(json!({"probes": [{"url": "http://x"}, {"url": "file:///etc/passwd"}]})), ["probes[1].url"]);
        assert_eq!(fields(json!({"probes": [{"url": "http://x", "timeout_ms": 1}]})), ["probes"]);
        for bad in [json!([{"url": "http://x", "more": 1}]), json!([{"url": "http://x", "method": "POST"}]), json!("x")]
        {
            let named = fields(json!({"probes": bad}));
            assert!(named[0].starts_with("probes"), "{named:?}");
        }
    }

    #[test]
    fn strategies_have_their_settings_and_no_others() {
        let spec = read(json!({"strategy": "canary", "canary": {"steps": [10, 50], "min_samples": 200}})).unwrap();
        assert_eq!(
            (spec.canary.steps, spec.canary.min_samples, spec.canary.confidence_level),
            (vec![10, 50], 200, 0.95)
        );
        let body = json!({"strategy": "blue_green", "blue_green": {"traffic_steps": [20], "auto_advance": true, "advance_delay_seconds": 9}});
        let spec = read(body).unwrap();
        assert_eq!(
            spec.blue_green,
            BlueGreen { traffic_steps: vec![20], auto_advance: true, advance_delay: Span::secs(9) }
        );
        assert_eq!(fields(json!({"canary": {"steps": [5]}})), ["canary"]);
        assert_eq!(fields(json!({"strategy": "canary", "canary": {"steps": [50, 5]}})), ["canary"]);
        assert_eq!(fields(json!({"strategy": "canary", "canary": {"confidence_level": 1.0}})), ["canary"]);
        assert_eq!(fields(json!({"strategy": "blue_green", "blue_green": {"traffic_steps": [0]}})), ["blue_green"]);
    }

    #[test]
    fn values_out_of_range_are_listed_together() {
        assert_eq!(
            fields(json!({"batch_size": 0, "ramp": 0.5, "scheduled_at": "2001-01-01T00:00:00Z"})),
            ["batch_size", "ramp", "scheduled_at"]
        );
        assert_eq!(fields(json!({"min_healthy_seconds": 900})), ["progress_deadline_seconds"]);
    }

    #[test]
    fn up_to_a_minute_ago_is_now() {
        let at = |span: Span| json!({"scheduled_at": (NOW - span).to_rfc3339()});
        assert!(read(at(Span::secs(59))).is_ok());
        assert_eq!(fields(at(Span::secs(61))), ["scheduled_at"]);
    }
}
