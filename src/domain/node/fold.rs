//! Folding raw heartbeats of one node into the few facts the engine may see: [`GateWindow`]s, on edges and at the end of the soak.
//!
//! A gate answers pass, fail, unknown or no-traffic; unknown never advances. Only data measured after activation counts.
//! Invariant: a steady heartbeat (same verdict, soak not ended) yields nothing to store.

use super::{HealthClass, Metrics, Observation, Probed};
use crate::access::text_enum;
use crate::id::NodeId;
use crate::node::Generation;
use crate::rollout::spec::{GateSpec, OnNoTraffic};
use crate::time::{Span, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

#[cfg(test)]
mod tests;

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

/// What is known of the requests since activation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Counted {
    NotSaid,
    /// The first reading: it spans the activation and is only what the next ones are counted from.
    Base,
    Requests(u64),
}

/// At most this many values of one bare metric are remembered; then neighbours are merged, the worse one lasting longer.
/// 64 falling values at one heartbeat in five seconds are more than five minutes.
const MAX_KEPT: usize = 64;

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
    /// The proxy process, as its counters name it.
    process: Option<u64>,
    /// The last heartbeat was after activation, so counts since then are of this bundle.
    counts_clean: bool,
    requests: u64,
    errors: u64,
    worst_rate: VecDeque<(Timestamp, f64)>,
    worst_p99: VecDeque<(Timestamp, f64)>,
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
            process: None,
            counts_clean: by_heartbeat,
            requests: 0,
            errors: 0,
            worst_rate: VecDeque::new(),
            worst_p99: VecDeque::new(),
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

    /// The engine could not use what it was told last (it came too late, say): tell it again when it still holds.
    pub fn retell(&mut self) {
        self.soak_told = false;
    }

    /// Judge one observation. `Some` when the engine must hear of it.
    pub fn observe(&mut self, o: &Observation, spec: &GateSpec) -> Option<GateWindow> {
        let measured = match o.measured() {
            Some(m) => m,
            None if o.verified_report => o.received,
            None if self.skip_next_bare => {
                self.skip_next_bare = false;
                self.counts_clean = true;
                self.ever_health |= says_health(o);
                return None;
            }
            None => o.received,
        };
        let fresh = measured > self.activated && o.received.since(measured) <= spec.freshness;
        self.ever_health |= says_health(o);
        if !fresh {
            // Old data says nothing: neither an edge nor a reset; the next fresh one measures the gap itself.
            return None;
        }
        self.n += 1;
        self.heed_process(o);
        let (answer, worst) = self.judge(o, measured, spec);
        self.step(answer, worst, measured, spec)
    }

    /// Another proxy process than before: what the old one was like proves nothing for it, so the soak begins with the new one.
    fn heed_process(&mut self, o: &Observation) {
        let Some(process) = o.metrics.and_then(|m| m.counter_epoch) else { return };
        if self.process.replace(process).is_some_and(|before| before != process) {
            self.last_pass = None;
            self.soaked = Span::ZERO;
            self.soak_told = false;
        }
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
                        self.soak_told = false;
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
        if !spec.probes.is_empty() {
            // Asked since the activation, and lately: what was so before says nothing about this bundle.
            let fresh = |p: &&Probed| p.at > self.activated && o.received.since(p.at) <= spec.freshness;
            match o.probed.as_ref().filter(fresh) {
                None => take(Answer::Unknown, &|| "probes: no answer yet".into()),
                Some(Probed { failed: Some(which), .. }) => take(Answer::Fail, &|| format!("probes: {which}")),
                Some(Probed { failed: None, .. }) => {}
            }
        }
        if !g.has_metrics() {
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
            // Kept up even where it is not judged: the worst of the window must know all of it.
            let bare = worst_of(&mut self.worst_rate, m.error_rate, measured, spec.freshness);
            let p99 = worst_of(&mut self.worst_p99, m.latency_p99_ms, measured, spec.freshness);
            let rate = match self.count(&m) {
                Counted::Base => {
                    take(Answer::Unknown, &|| "traffic: the first reading is what the next are counted from".into());
                    return (all, worst);
                }
                Counted::Requests(n) if n < spec.min_requests => {
                    let answer = match spec.on_no_traffic {
                        OnNoTraffic::Pass => Answer::NoTraffic,
                        OnNoTraffic::Hold => Answer::Unknown,
                    };
                    take(answer, &|| format!("no traffic: {n} of {} requests", spec.min_requests));
                    return (all, worst);
                }
                Counted::Requests(n) if n > 0 => Some(100.0 * self.errors as f64 / n as f64),
                Counted::Requests(_) | Counted::NotSaid => bare,
            };
            if let Some(limit) = g.max_error_rate {
                take(compare(rate, limit), &|| describe("max_error_rate", rate, limit));
            }
            if let Some(limit) = g.max_latency_ms {
                take(compare(p99, limit), &|| describe("max_latency_ms", p99, limit));
            }
        }
        (all, worst)
    }

    /// Requests since activation, by the best evidence: cumulative counters, else counts since the last heartbeat.
    fn count(&mut self, m: &Metrics) -> Counted {
        let clean = std::mem::replace(&mut self.counts_clean, true);
        if let (Some(total), Some(errors)) = (m.requests_total, m.errors_total) {
            let epoch = m.counter_epoch.unwrap_or(0);
            let before = self.base.replace((epoch, total, errors));
            let (more, more_errors) = match before {
                Some((e, base_total, base_errors)) if e == epoch && total >= base_total && errors >= base_errors => {
                    (total - base_total, errors - base_errors)
                }
                // A new epoch started from zero after activation: all of it counts.
                Some(_) => (total, errors),
                None => return Counted::Base,
            };
            self.requests = self.requests.saturating_add(more);
            self.errors = self.errors.saturating_add(more_errors);
            return Counted::Requests(self.requests);
        }
        match (m.request_count, m.error_count) {
            (Some(_), _) if !clean => Counted::Base,
            (Some(n), errors) => {
                self.requests = self.requests.saturating_add(n);
                self.errors = self.errors.saturating_add(errors.unwrap_or(0));
                Counted::Requests(self.requests)
            }
            (None, _) => Counted::NotSaid,
        }
    }
}

/// One look at one observation, without a history: does it fail the gates? `None`: it does not say.
pub fn fails(o: &Observation, spec: &GateSpec) -> Option<bool> {
    let mut once = Fold::new(NodeId::NIL, 0, o.received - spec.freshness, true, false);
    match once.judge(o, o.received, spec).0 {
        Answer::Fail => Some(true),
        Answer::Pass | Answer::NoTraffic => Some(false),
        Answer::Unknown => None,
    }
}

fn says_health(o: &Observation) -> bool {
    o.health.is_some_and(|h| h != HealthClass::Absent)
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

/// The worst value seen within the freshness; percentiles and bare rates are never averaged. `kept` falls from its front.
fn worst_of(kept: &mut VecDeque<(Timestamp, f64)>, value: Option<f64>, at: Timestamp, freshness: Span) -> Option<f64> {
    let v = value?;
    while kept.front().is_some_and(|(when, _)| at.since(*when) > freshness) {
        kept.pop_front();
    }
    while kept.back().is_some_and(|(_, old)| *old <= v) {
        kept.pop_back();
    }
    let full = kept.len() >= MAX_KEPT;
    match kept.back_mut().filter(|_| full) {
        Some(last) => last.0 = at,
        None => kept.push_back((at, v)),
    }
    kept.front().map(|(_, worst)| *worst)
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
