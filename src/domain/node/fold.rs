//! Folding raw heartbeats of one node into the few facts the engine may see: [`GateWindow`]s, on edges and at the end of the soak.
//!
//! A gate answers pass, fail, unknown or no-traffic; unknown never advances. Only data measured after activation counts.
//! Invariant: a steady heartbeat (same verdict, soak not ended) yields nothing to store.

use super::{HealthClass, Metrics, Observation};
use crate::access::text_enum;
use crate::id::NodeId;
use crate::node::Generation;
use crate::rollout::spec::{GateSpec, OnNoTraffic};
use crate::time::{Span, Timestamp};
use serde::{Deserialize, Serialize};

text_enum! {
    /// What the engine is told of a node's gates.
    GateVerdict {
        /// Every gate holds on fresh data; `soaked` tells for how long.
        Pass = "pass",
        /// A gate failed for `fail_after` and on two fresh observations.
        Fail = "fail",
        /// Three changes from pass to fail.
        Flapping = "flapping",
        /// Data is missing, old or from before the activation.
        Unknown = "unknown",
    }
}

/// An edge, or the end of the soak, of one node on one generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GateWindow {
    pub node: NodeId,
    pub generation: Generation,
    pub verdict: GateVerdict,
    /// When the first passing data of this window was measured.
    pub first_pass: Option<Timestamp>,
    /// When the newest data was measured.
    pub last_fresh: Timestamp,
    /// The gate and value that came closest to failing, or failed, in words.
    pub worst: String,
    /// Observations in the window.
    pub n: u32,
    pub soaked: Span,
    /// Passed without enough traffic to judge error rate and latency.
    pub no_traffic: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    Pass,
    NoTraffic,
    Fail,
    Unknown,
}

/// How many times pass may turn to fail before the node counts as flapping.
const MAX_FLAPS: u8 = 3;

/// The running judgement of one node on one generation. Lost with the session: the soak then starts again.
#[derive(Clone, Debug, PartialEq)]
pub struct Fold {
    node: NodeId,
    generation: Generation,
    activated: Timestamp,
    /// Without `sent_at`, the first heartbeat after activation does not count.
    skip_next_bare: bool,
    ever_health: bool,
    base: Option<(u64, u64, u64)>,
    requests: u64,
    errors: u64,
    worst_rate: Option<(Timestamp, f64)>,
    worst_p99: Option<(Timestamp, f64)>,
    last: Option<Answer>,
    last_pass: Option<Timestamp>,
    first_pass: Option<Timestamp>,
    soaked: Span,
    fail_since: Option<(Timestamp, u32)>,
    flaps: u8,
    n: u32,
    told: Option<GateVerdict>,
    soak_told: bool,
}

impl Fold {
    /// `by_heartbeat`: activation became known by a heartbeat, which then is the one that does not count.
    /// `ever_health`: the node has sent health before, so its absence is unknown.
    pub fn new(
        node: NodeId,
        generation: Generation,
        activated: Timestamp,
        by_heartbeat: bool,
        ever_health: bool,
    ) -> Fold {
        Fold {
            node,
            generation,
            activated,
            skip_next_bare: !by_heartbeat,
            ever_health,
            base: None,
            requests: 0,
            errors: 0,
            worst_rate: None,
            worst_p99: None,
            last: None,
            last_pass: None,
            first_pass: None,
            soaked: Span::ZERO,
            fail_since: None,
            flaps: 0,
            n: 0,
            told: None,
            soak_told: false,
        }
    }

    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Judge one observation. `Some` when the engine must hear of it.
    pub fn observe(&mut self, o: &Observation, spec: &GateSpec) -> Option<GateWindow> {
        let measured = match o.measured() {
            Some(m) => m,
            None if o.verified_report => o.received,
            None if self.skip_next_bare => {
                self.skip_next_bare = false;
                self.ever_health |= o.health.is_some();
                return None;
            }
            None => o.received,
        };
        let fresh = measured > self.activated && o.received.since(measured) <= spec.freshness;
        self.ever_health |= o.health.is_some();
        if !fresh {
            // Old data says nothing: neither an edge nor a reset; the next fresh one measures the gap itself.
            return None;
        }
        self.n += 1;
        let (answer, worst) = self.judge(o, measured, spec);
        self.step(answer, worst, measured, spec)
    }

    fn step(&mut self, answer: Answer, worst: String, measured: Timestamp, spec: &GateSpec) -> Option<GateWindow> {
        let passing = matches!(answer, Answer::Pass | Answer::NoTraffic);
        let was_passing = matches!(self.last, Some(Answer::Pass | Answer::NoTraffic));
        if passing {
            match self.last_pass {
                Some(before) if was_passing => {
                    let gap = measured.since(before);
                    if gap <= spec.freshness {
                        self.soaked += gap;
                    } else {
                        // A silence longer than the freshness is unknown time: the soak starts again.
                        self.soaked = Span::ZERO;
                        self.first_pass = Some(measured);
                    }
                }
                _ => {
                    self.soaked = Span::ZERO;
                    self.first_pass = Some(measured);
                }
            }
            self.last_pass = Some(measured);
            self.fail_since = None;
        } else {
            self.soaked = Span::ZERO;
            self.first_pass = None;
            self.soak_told = false;
            if answer == Answer::Fail {
                if was_passing {
                    self.flaps = self.flaps.saturating_add(1);
                }
                let (since, n) = self.fail_since.unwrap_or((measured, 0));
                self.fail_since = Some((since, n + 1));
            } else {
                self.fail_since = None;
            }
        }
        self.last = Some(answer);

        let verdict = match answer {
            Answer::Pass | Answer::NoTraffic => GateVerdict::Pass,
            Answer::Unknown => GateVerdict::Unknown,
            Answer::Fail if self.flaps >= MAX_FLAPS => GateVerdict::Flapping,
            Answer::Fail => match self.fail_since {
                Some((since, n)) if n >= 2 && measured.since(since) >= spec.fail_after => GateVerdict::Fail,
                _ => GateVerdict::Unknown,
            },
        };
        let soak_over = verdict == GateVerdict::Pass && self.soaked >= spec.soak && !self.soak_told;
        if self.told == Some(verdict) && !soak_over {
            return None;
        }
        self.told = Some(verdict);
        self.soak_told |= soak_over;
        Some(GateWindow {
            node: self.node,
            generation: self.generation,
            verdict,
            first_pass: self.first_pass,
            last_fresh: measured,
            worst,
            n: self.n,
            soaked: self.soaked,
            no_traffic: answer == Answer::NoTraffic,
        })
    }

    fn judge(&mut self, o: &Observation, measured: Timestamp, spec: &GateSpec) -> (Answer, String) {
        let g = &spec.gates;
        let mut all = Answer::Pass;
        let mut worst = String::new();
        let mut take = |answer: Answer, text: &dyn Fn() -> String| {
            // Worst first: fail, unknown, no traffic, pass.
            let rank = |a: Answer| match a {
                Answer::Fail => 3,
                Answer::Unknown => 2,
                Answer::NoTraffic => 1,
                Answer::Pass => 0,
            };
            if rank(answer) > rank(all) || (worst.is_empty() && answer != Answer::Pass) {
                worst = text();
            }
            if rank(answer) > rank(all) {
                all = answer;
            }
        };
        if g.heartbeat_healthy {
            let answer = match o.health {
                Some(HealthClass::Healthy) => Answer::Pass,
                _ if o.verified_report && o.health.is_none() => Answer::Pass,
                Some(HealthClass::Degraded | HealthClass::Unhealthy) => Answer::Fail,
                Some(HealthClass::Absent) | None if self.ever_health => Answer::Unknown,
                Some(HealthClass::Absent) | None => Answer::Pass,
            };
            take(answer, &|| format!("heartbeat_healthy: health {}", o.health.map_or("absent", |h| h.as_str_static())));
        }
        let metric_gates =
            [g.max_error_rate, g.max_latency_ms, g.max_cpu_percent, g.max_memory_percent].iter().any(Option::is_some);
        if !metric_gates {
            return (all, worst);
        }
        if o.verified_report {
            // A report carries no metrics that are judged: with metric gates it proves nothing by itself.
            take(Answer::Unknown, &|| "metrics: a report is not a measurement".into());
            return (all, worst);
        }
        let m = o.metrics.unwrap_or_default();
        for (name, limit, value) in [
            ("max_cpu_percent", g.max_cpu_percent, m.cpu_percent),
            ("max_memory_percent", g.max_memory_percent, m.memory_percent),
        ] {
            if let Some(limit) = limit {
                take(compare(value, limit), &|| describe(name, value, limit));
            }
        }
        if g.max_error_rate.is_some() || g.max_latency_ms.is_some() {
            let counted = self.count(&m);
            if let Some(counted) = counted.filter(|c| *c < spec.min_requests) {
                let answer = match spec.on_no_traffic {
                    OnNoTraffic::Pass => Answer::NoTraffic,
                    OnNoTraffic::Hold => Answer::Unknown,
                };
                take(answer, &|| format!("no traffic: {counted} of {} requests", spec.min_requests));
                return (all, worst);
            }
            if let Some(limit) = g.max_error_rate {
                let rate = match counted {
                    Some(n) if n > 0 => Some(100.0 * self.errors as f64 / n as f64),
                    _ => worst_of(&mut self.worst_rate, m.error_rate, measured, spec.freshness),
                };
                take(compare(rate, limit), &|| describe("max_error_rate", rate, limit));
            }
            if let Some(limit) = g.max_latency_ms {
                let p99 = worst_of(&mut self.worst_p99, m.latency_p99_ms, measured, spec.freshness);
                take(compare(p99, limit), &|| describe("max_latency_ms", p99, limit));
            }
        }
        (all, worst)
    }

    /// Requests since activation, by the best evidence: cumulative counters, else counts since the last heartbeat. `None`: not said.
    fn count(&mut self, m: &Metrics) -> Option<u64> {
        if let (Some(total), Some(errors)) = (m.requests_total, m.errors_total) {
            let epoch = m.counter_epoch.unwrap_or(0);
            match self.base {
                Some((e, base_total, base_errors)) if e == epoch && total >= base_total && errors >= base_errors => {
                    self.requests += total - base_total;
                    self.errors += errors - base_errors;
                }
                // A new epoch started from zero after activation: all of it counts. The very first reading is only a base.
                Some(_) => {
                    self.requests += total;
                    self.errors += errors;
                }
                None => {}
            }
            self.base = Some((epoch, total, errors));
            return Some(self.requests);
        }
        match (m.request_count, m.error_count) {
            (Some(n), errors) => {
                self.requests += n;
                self.errors += errors.unwrap_or(0);
                Some(self.requests)
            }
            (None, _) => None,
        }
    }
}

fn compare(value: Option<f64>, limit: f64) -> Answer {
    match value {
        None => Answer::Unknown,
        Some(v) if v.is_finite() && v <= limit => Answer::Pass,
        Some(_) => Answer::Fail,
    }
}

fn describe(name: &str, value: Option<f64>, limit: f64) -> String {
    match value {
        Some(v) => format!("{name}: {v:.3} against {limit}"),
        None => format!("{name}: no data"),
    }
}

/// The worst value seen within the freshness; percentiles and bare rates are never averaged.
fn worst_of(kept: &mut Option<(Timestamp, f64)>, value: Option<f64>, at: Timestamp, freshness: Span) -> Option<f64> {
    let v = value?;
    let keep = match *kept {
        Some((when, old)) if at.since(when) <= freshness && old > v => (when, old),
        _ => (at, v),
    };
    *kept = Some(keep);
    Some(keep.1)
}

impl HealthClass {
    fn as_str_static(self) -> &'static str {
        match self {
            HealthClass::Absent => "absent",
            HealthClass::Healthy => "healthy",
            HealthClass::Degraded => "degraded",
            HealthClass::Unhealthy => "unhealthy",
        }
    }
}
