//! What an operator asked for. Fixed at creation; everything that changes is in [`super::Head`], [`super::Step`] and [`super::Member`].

use crate::access::text_enum;
use crate::id::*;
use crate::node::Selector;
use crate::project::Amount;
use crate::time::{Span, Timestamp};
use serde::{Deserialize, Serialize};

text_enum! { StrategyKind { Rolling = "rolling", Canary = "canary", BlueGreen = "blue_green", AllAtOnce = "all_at_once" } }
text_enum! {
    /// What happens when more nodes failed than `failure_threshold` allows.
    OnFailure { Pause = "pause", Fail = "fail", Rollback = "rollback" }
}
text_enum! { OnNoTraffic { Pass = "pass", Hold = "hold" } }

/// Limits of health; unset is not judged. Percent 0-100, milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HealthGates {
    pub heartbeat_healthy: bool,
    pub max_error_rate: Option<f64>,
    pub max_latency_ms: Option<f64>,
    pub max_cpu_percent: Option<f64>,
    pub max_memory_percent: Option<f64>,
}

impl Default for HealthGates {
    fn default() -> Self {
        HealthGates {
            heartbeat_healthy: true,
            max_error_rate: None,
            max_latency_ms: None,
            max_cpu_percent: None,
            max_memory_percent: None,
        }
    }
}

/// Everything a node is judged by. Carried to whichever session the node talks to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GateSpec {
    pub gates: HealthGates,
    /// `min_healthy_seconds`: how long every gate must hold.
    pub soak: Span,
    /// An observation older than this says nothing.
    pub freshness: Span,
    /// A node fails by gate after this long failing, and two fresh failing observations.
    pub fail_after: Span,
    /// Error rate and latency are judged from this many requests up.
    pub min_requests: u64,
    pub on_no_traffic: OnNoTraffic,
}

impl Default for GateSpec {
    fn default() -> Self {
        GateSpec {
            gates: HealthGates::default(),
            soak: Span::ZERO,
            freshness: Span::secs(60),
            fail_after: Span::secs(30),
            min_requests: 20,
            on_no_traffic: OnNoTraffic::Pass,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    pub bundle: BundleId,
    pub selector: Selector,
    pub strategy: StrategyKind,
    /// Count, or percent of targets rounded up, at least 1.
    pub batch_size: Amount,
    /// The next batch is max(previous, floor(previous x ramp)); at least 1.
    pub ramp: Option<f64>,
    /// A label whose values are spread over the batches.
    pub spread_by: Option<String>,
    /// Count, or percent of online targets rounded down, at least 1; unset (or the older literal 0): the batch is the limit.
    pub max_unavailable: Option<Amount>,
    /// Distinct failed nodes that are tolerated: count, or percent of planned targets rounded down.
    pub failure_threshold: Amount,
    /// Per node, from its last forward move while running.
    pub progress_deadline: Span,
    pub rollback_deadline: Span,
    pub judge: GateSpec,
    pub on_failure: OnFailure,
    pub allow_failed: bool,
    pub scheduled_at: Option<Timestamp>,
    pub start_window: Span,
    /// Start as soon as approval, schedule and freezes allow.
    pub start: bool,
    /// How long a node may be silent before presence is judged; what the fleet's `stale_after` was at creation.
    pub stale_after: Span,
}

impl Spec {
    /// The defaults of the contract for rolling out `bundle`.
    pub fn new(bundle: BundleId) -> Spec {
        Spec {
            bundle,
            selector: Selector::All,
            strategy: StrategyKind::Rolling,
            batch_size: Amount::Count(1),
            ramp: None,
            spread_by: None,
            max_unavailable: None,
            failure_threshold: Amount::Count(0),
            progress_deadline: Span::secs(600),
            rollback_deadline: Span::secs(300),
            judge: GateSpec::default(),
            on_failure: OnFailure::Pause,
            allow_failed: false,
            scheduled_at: None,
            start_window: Span::secs(3600),
            start: true,
            stale_after: Span::secs(120),
        }
    }

    /// The errors of a specification, as (field, message).
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut e: Vec<(&'static str, String)> = Vec::new();
        let j = &self.judge;
        if self.batch_size == Amount::Count(0) || self.batch_size == Amount::Percent(0) {
            e.push(("batch_size", "must be at least 1".into()));
        }
        if self.ramp.is_some_and(|r| !(1.0..=100.0).contains(&r)) {
            e.push(("ramp", "must be between 1 and 100".into()));
        }
        let week = Span::secs(7 * 86_400);
        for (field, span, least) in [
            ("progress_deadline_seconds", self.progress_deadline, Span::secs(1)),
            ("rollback_deadline_seconds", self.rollback_deadline, Span::secs(1)),
            ("min_healthy_seconds", j.soak, Span::ZERO),
            ("gate_freshness_seconds", j.freshness, Span::secs(1)),
            ("fail_after_seconds", j.fail_after, Span::ZERO),
            ("start_window_seconds", self.start_window, Span::secs(1)),
        ] {
            if span < least || span > week {
                e.push((field, format!("must be between {} and {} seconds", least.as_secs(), week.as_secs())));
            }
        }
        let need = j.soak + j.freshness + j.freshness;
        if j.soak > Span::ZERO && self.progress_deadline < need {
            e.push((
                "progress_deadline_seconds",
                format!("must be at least the soak plus two freshness times ({} seconds)", need.as_secs()),
            ));
        }
        for (field, value, most) in [
            ("max_error_rate", j.gates.max_error_rate, 100.0),
            ("max_latency_ms", j.gates.max_latency_ms, 3_600_000.0),
            ("max_cpu_percent", j.gates.max_cpu_percent, 100.0),
            ("max_memory_percent", j.gates.max_memory_percent, 100.0),
        ] {
            if value.is_some_and(|v| !(0.0..=most).contains(&v)) {
                e.push((field, format!("must be between 0 and {most}")));
            }
        }
        e
    }
}
