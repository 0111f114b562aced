//! What an operator asked for. Fixed at creation; everything that changes is in [`super::Head`], [`super::Step`] and [`super::Member`].

use super::state::{Member, NodeState};
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
text_enum! {
    /// What asked for it. All are rollouts: the same approvals, freezes, gates and limits, one code path.
    RolloutKind {
        Rollout = "rollout", Assign = "assign", Pin = "pin", DriftRepair = "drift_repair", Replace = "replace",
    }
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

impl HealthGates {
    /// Is anything judged that a node measures?
    pub fn has_metrics(&self) -> bool {
        [self.max_error_rate, self.max_latency_ms, self.max_cpu_percent, self.max_memory_percent]
            .iter()
            .any(Option::is_some)
    }
}

text_enum! { ProbeMethod { Get = "GET", Head = "HEAD" } }

/// A question to an HTTP server whose answer is a gate, the same for every node of the rollout.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpProbe {
    pub url: String,
    pub method: ProbeMethod,
    pub expected_status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_contains: Option<String>,
    pub timeout_ms: u32,
}

impl Default for HttpProbe {
    fn default() -> Self {
        HttpProbe {
            url: String::new(),
            method: ProbeMethod::Get,
            expected_status: 200,
            body_contains: None,
            timeout_ms: 2_000,
        }
    }
}

impl HttpProbe {
    /// Probes of one rollout.
    pub const MOST: usize = 8;

    /// The address itself is read by whoever sends the probe.
    fn check(&self) -> Option<&'static str> {
        let body = self.body_contains.as_ref();
        match () {
            () if !(100..=599).contains(&self.expected_status) => Some("expected_status must be between 100 and 599"),
            () if !(100..=10_000).contains(&self.timeout_ms) => Some("timeout_ms must be between 100 and 10000"),
            () if body.is_some_and(|t| t.is_empty() || t.len() > 1_024) => {
                Some("body_contains must have 1 to 1024 bytes")
            }
            () if body.is_some() && self.method == ProbeMethod::Head => Some("body_contains: HEAD answers no body"),
            () => None,
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
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<HttpProbe>,
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
            probes: Vec::new(),
        }
    }
}

/// How a canary grows, and how sure it must be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Canary {
    /// Cumulative percentages of the targets; the last step is always all of them.
    pub steps: Vec<u8>,
    /// 1 - the chance that an equal bundle is called worse anywhere in the rollout.
    pub confidence_level: f64,
    /// Requests that each side must have served before a step is promoted.
    pub min_samples: u64,
}

impl Default for Canary {
    fn default() -> Self {
        Canary { steps: vec![5, 25, 50, 100], confidence_level: 0.95, min_samples: 1_000 }
    }
}

impl Canary {
    fn check(&self) -> Option<&'static str> {
        let rising = self.steps.windows(2).all(|w| w[0] < w[1]);
        let steps = !self.steps.is_empty() && rising && self.steps.iter().all(|p| (1..=100).contains(p));
        match (steps, (0.5..1.0).contains(&self.confidence_level), (1..=1_000_000_000).contains(&self.min_samples)) {
            (false, _, _) => Some("steps must be rising percentages from 1 to 100"),
            (_, false, _) => Some("confidence_level must be at least 0.5 and below 1"),
            (_, _, false) => Some("min_samples must be between 1 and 1000000000"),
            (true, true, true) => None,
        }
    }
}

/// How traffic is shifted to the standby half once it has verified.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BlueGreen {
    /// Rising weights, percent of a node's full share; the last is always 100.
    pub traffic_steps: Vec<u8>,
    /// Go on by itself, else by `advance-traffic`.
    pub auto_advance: bool,
    /// `advance_delay_seconds`: how long a weight is held when everybody has taken it.
    pub advance_delay: Span,
}

impl Default for BlueGreen {
    fn default() -> Self {
        BlueGreen { traffic_steps: vec![10, 50, 100], auto_advance: false, advance_delay: Span::ZERO }
    }
}

impl BlueGreen {
    /// The weight of a stage; beyond the last it is all.
    pub fn weight(&self, stage: u32) -> u8 {
        self.traffic_steps.get(stage as usize).copied().unwrap_or(super::FULL_WEIGHT)
    }

    fn check(&self) -> Option<&'static str> {
        let rising = self.traffic_steps.windows(2).all(|w| w[0] < w[1]);
        let steps = rising && self.traffic_steps.iter().all(|p| (1..=100).contains(p));
        match (steps, self.advance_delay >= Span::ZERO && self.advance_delay <= Span::secs(7 * 86_400)) {
            (false, _) => Some("traffic_steps must be rising percentages from 1 to 100"),
            (true, false) => Some("advance_delay_seconds must be between 0 and 604800"),
            (true, true) => None,
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
    #[serde(default = "plain")]
    pub kind: RolloutKind,
    /// Nodes that another active rollout holds are taken over at the start; else the start is refused, or waits.
    #[serde(default)]
    pub supersede: bool,
    /// Large batches are allowed although the proxies must restart.
    #[serde(default)]
    pub allow_restart: bool,
    /// The change makes proxies restart, as found at creation. Not known of older rollouts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restarts: bool,
    /// The bundle may be deprecated.
    #[serde(default)]
    pub allow_deprecated: bool,
    #[serde(default)]
    pub canary: Canary,
    #[serde(default)]
    pub blue_green: BlueGreen,
    /// What the lot of the canary is drawn with; unset: the rollout's id. Given, a plan can be repeated exactly.
    #[serde(default)]
    pub seed: Option<uuid::Uuid>,
    /// How long a node may be silent before presence is judged; what the fleet's `stale_after` was at creation.
    pub stale_after: Span,
}

fn plain() -> RolloutKind {
    RolloutKind::Rollout
}

/// A change that restarts proxies goes out in batches of at most this share of the targets, unless a limit of unavailability is set.
const RESTART_BATCH_PERCENT: u64 = 10;

impl Spec {
    /// Would steps of these sizes restart too many proxies at once?
    pub fn restarts_too_many(&self, steps: &[usize]) -> bool {
        let limited = !matches!(self.max_unavailable, None | Some(Amount::Count(0)));
        let (largest, all) = (steps.iter().max().copied().unwrap_or(0) as u64, steps.iter().sum::<usize>() as u64);
        // One node at a time is the least there is.
        !limited && !self.allow_restart && largest > 1 && largest * 100 > all * RESTART_BATCH_PERCENT
    }

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
            kind: RolloutKind::Rollout,
            supersede: false,
            allow_restart: false,
            restarts: false,
            allow_deprecated: false,
            canary: Canary::default(),
            blue_green: BlueGreen::default(),
            seed: None,
            stale_after: Span::secs(120),
        }
    }

    /// Does a node pinned to `pin` stay out? Also one that is pinned to this very bundle: a rollback would take it off its pin. Only
    /// what brings nodes to their pins takes it.
    pub fn leaves_pinned(&self, pin: BundleId) -> bool {
        match self.kind {
            RolloutKind::Pin | RolloutKind::DriftRepair => pin != self.bundle,
            RolloutKind::Rollout | RolloutKind::Assign | RolloutKind::Replace => true,
        }
    }

    /// Its node was pinned to `pin` while this rollout holds it: is it let go, with what it is told to run now? Others that are on their
    /// way are taken over by the rollout that is made for the pin.
    pub fn lets_go(&self, m: &Member, pin: BundleId) -> bool {
        // At its full weight: whoever is let go is told nothing more by this rollout.
        let serves = m.weight == super::FULL_WEIGHT && m.weighed;
        let runs_pin =
            pin == self.bundle && serves && (matches!(m.state, NodeState::Verified { .. }) || super::waits_back(m));
        self.leaves_pinned(pin) && (m.state == NodeState::Pending || runs_pin)
    }

    /// The label whose values planning looks at.
    pub fn grouping_label(&self) -> Option<&str> {
        match self.strategy {
            StrategyKind::BlueGreen => Some("slot"),
            StrategyKind::Rolling | StrategyKind::Canary | StrategyKind::AllAtOnce => self.spread_by.as_deref(),
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
        if let Some(why) = self.canary.check() {
            e.push(("canary", why.into()));
        }
        if let Some(why) = self.blue_green.check() {
            e.push(("blue_green", why.into()));
        }
        if j.probes.len() > HttpProbe::MOST {
            e.push(("probes", format!("must be at most {}", HttpProbe::MOST)));
        }
        e.extend(j.probes.iter().filter_map(HttpProbe::check).take(1).map(|why| ("probes", why.to_string())));
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
        // Without a soak the first look that passes is enough: a short deadline is an impatient one, not a contradiction.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_checked_before_anything_is_asked() {
        let wrong = |probes: Vec<HttpProbe>| {
            let judge = GateSpec { probes, ..GateSpec::default() };
            Spec { judge, ..Spec::new(BundleId::NIL) }.check().into_iter().map(|(f, _)| f).collect::<Vec<_>>()
        };
        let good = HttpProbe::default();
        assert_eq!(wrong(vec![good.clone(); HttpProbe::MOST]), Vec::<&str>::new());
        assert_eq!(wrong(vec![good.clone(); HttpProbe::MOST + 1]), ["probes"]);
        for bad in [
            HttpProbe { expected_status: 99, ..good.clone() },
            HttpProbe { timeout_ms: 99, ..good.clone() },
            HttpProbe { timeout_ms: 10_001, ..good.clone() },
            HttpProbe { body_contains: Some(String::new()), ..good.clone() },
            HttpProbe { body_contains: Some("ok".into()), method: ProbeMethod::Head, ..good },
        ] {
            assert_eq!(wrong(vec![bad.clone()]), ["probes"], "{bad:?}");
        }
    }

    #[test]
    fn the_deadline_leaves_time_for_the_soak_and_for_two_fresh_observations() {
        let wrong = |deadline, soak| {
            let judge = GateSpec { soak: Span::secs(soak), freshness: Span::secs(60), ..GateSpec::default() };
            let spec = Spec { judge, progress_deadline: Span::secs(deadline), ..Spec::new(BundleId::NIL) };
            spec.check().into_iter().map(|(f, _)| f).collect::<Vec<_>>()
        };
        assert_eq!(wrong(150, 30), Vec::<&str>::new());
        assert_eq!(wrong(149, 30), ["progress_deadline_seconds"]);
        assert_eq!(wrong(1, 0), Vec::<&str>::new(), "one look is enough");
    }

    #[test]
    fn proxies_restart_a_tenth_at_a_time_or_within_a_limit() {
        let spec = Spec::new(BundleId::NIL);
        assert!(!spec.restarts_too_many(&[10; 10]));
        assert!(spec.restarts_too_many(&[11, 89]));
        assert!(!spec.restarts_too_many(&[1, 1]), "one at a time is the least there is");
        assert!(!Spec { allow_restart: true, ..spec.clone() }.restarts_too_many(&[100]));
        assert!(!Spec { max_unavailable: Some(Amount::Count(5)), ..spec.clone() }.restarts_too_many(&[100]));
        assert!(Spec { max_unavailable: Some(Amount::Count(0)), ..spec }.restarts_too_many(&[100]));
    }
}
