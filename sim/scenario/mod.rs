//! Failure scripts: which nodes of the fleet misbehave, and how. TOML or JSON, the same keys.
//!
//! ```toml
//! [default]                          # every node
//! apply_delay = "200ms"
//!
//! [[rule]]                           # in order; a later rule overrides an earlier one
//! match = "sim-node-7"               # or name: glob, one or a list; default "*"
//! fail_on_version = "v2"             # version label or content id, globs, one or a list
//!
//! [[rule]]
//! percent = 10                       # of the nodes that match, chosen by name and seed
//! offline = [{ at = "10s", until = "40s" }]
//! with_bundle = [{ version = "v3", health = "unhealthy", error_rate = 25.0 }]
//! ```

mod behaviour;
mod length;

pub use behaviour::{Altered, Behaviour, Death, Moment, Reports, Vitals, Window, means};
pub use length::{Length, Patterns, glob, parse_span};

use crate::dice::percentile;
use domain::Span;
use domain::node::HealthClass;
use serde::Deserialize;
use std::collections::BTreeMap;

/// At most this many rules: each is tried for each node once at start, so 1,000 x 1,000,000 nodes stays under minutes.
pub const MAX_RULES: usize = 1_000;

/// A parsed failure script.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scenario {
    pub default: Change,
    #[serde(rename = "rule")]
    pub rules: Vec<Rule>,
}

/// Who, and what.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    #[serde(rename = "match", alias = "name")]
    pub name: Option<Patterns>,
    /// All of these labels must be equal.
    pub labels: BTreeMap<String, String>,
    /// 0-100, of those that match.
    pub percent: Option<f64>,
    #[serde(flatten)]
    pub change: Change,
}

/// What is different from the ordinary node. Absent keys leave what was.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Change {
    pub apply_delay: Option<Length>,
    pub check_delay: Option<Length>,
    pub download_delay: Option<Length>,
    pub failure_rate: Option<f64>,
    pub fail_on_version: Option<Patterns>,
    pub fail_error: Option<String>,
    pub fall_back_on_version: Option<Patterns>,
    /// `true` (for ever), `false`, or how long it is silent.
    pub die_after_handover: Option<Switch>,
    pub die_on_activation: Option<Switch>,
    /// Only for these bundles.
    pub die_on_version: Option<Patterns>,
    pub offline: Option<Vec<RawWindow>>,
    pub busy: Option<Vec<RawWindow>>,
    /// `all`, `brief` or `none`.
    pub reports: Option<Reports>,
    pub heartbeat_only: Option<bool>,
    pub duplicate_reports: Option<bool>,
    pub late_reports: Option<Length>,
    pub sends_health: Option<bool>,
    pub sends_metrics: Option<bool>,
    pub health: Option<HealthClass>,
    pub error_rate: Option<f64>,
    pub latency_p99_ms: Option<f64>,
    pub cpu_percent: Option<f64>,
    pub memory_percent: Option<f64>,
    pub requests_per_second: Option<f64>,
    pub with_bundle: Option<Vec<RawAltered>>,
    /// Seconds, may be negative.
    pub clock_skew: Option<f64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Switch {
    OnOff(bool),
    For(Length),
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawWindow {
    pub at: Length,
    pub until: Option<Length>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawAltered {
    pub version: Patterns,
    pub health: Option<HealthClass>,
    pub error_rate: Option<f64>,
    pub latency_p99_ms: Option<f64>,
    pub cpu_percent: Option<f64>,
    pub memory_percent: Option<f64>,
    pub requests_per_second: Option<f64>,
}

impl Scenario {
    /// JSON when the first character is `{`, else TOML. Errors say what and where.
    pub fn parse(text: &str) -> Result<Scenario, String> {
        let s: Scenario = if text.trim_start().starts_with('{') {
            serde_json::from_str(text).map_err(|e| e.to_string())?
        } else {
            toml::from_str(text).map_err(|e| e.to_string())?
        };
        s.check()?;
        Ok(s)
    }

    fn check(&self) -> Result<(), String> {
        if self.rules.len() > MAX_RULES {
            return Err(format!("{} rules; at most {MAX_RULES}", self.rules.len()));
        }
        self.default.check().map_err(|e| format!("default: {e}"))?;
        for (i, r) in self.rules.iter().enumerate() {
            r.change.check().map_err(|e| format!("rule {}: {e}", i + 1))?;
            if r.percent.is_some_and(|p| !(0.0..=100.0).contains(&p)) {
                return Err(format!("rule {}: percent must be 0 to 100", i + 1));
            }
        }
        Ok(())
    }

    /// The behaviour of one node: `base`, then the defaults, then every rule that means it, in order.
    pub fn behaviour(&self, base: &Behaviour, seed: u64, name: &str, labels: &BTreeMap<String, String>) -> Behaviour {
        let mut b = base.clone();
        self.default.apply(&mut b);
        for (i, r) in self.rules.iter().enumerate() {
            if r.means(seed.wrapping_add(i as u64), name, labels) {
                r.change.apply(&mut b);
            }
        }
        b
    }
}

impl Rule {
    fn means(&self, seed: u64, name: &str, labels: &BTreeMap<String, String>) -> bool {
        self.name.as_ref().is_none_or(|p| p.hit(&[name]))
            && self.labels.iter().all(|(k, v)| labels.get(k) == Some(v))
            && self.percent.is_none_or(|p| percentile(seed, name) < p)
    }
}

impl Change {
    fn check(&self) -> Result<(), String> {
        let percents = [
            ("error_rate", self.error_rate),
            ("cpu_percent", self.cpu_percent),
            ("memory_percent", self.memory_percent),
            ("failure_rate", self.failure_rate.map(|f| f * 100.0)),
        ];
        for (what, value) in percents {
            if value.is_some_and(|v| !(0.0..=100.0).contains(&v)) {
                let range = if what == "failure_rate" { "0.0 to 1.0" } else { "0 to 100" };
                return Err(format!("{what} must be {range}"));
            }
        }
        let spans = self.offline.iter().chain(&self.busy).flatten();
        for w in spans {
            if w.until.is_some_and(|u| u.0 <= w.at.0) {
                return Err("a window must end after it begins".into());
            }
        }
        Ok(())
    }

    /// Writes what is said here over `b`.
    pub fn apply(&self, b: &mut Behaviour) {
        set_span(&mut b.apply_delay, self.apply_delay);
        set_span(&mut b.check_delay, self.check_delay);
        set_span(&mut b.download_delay, self.download_delay);
        set_span(&mut b.late_reports, self.late_reports);
        set(&mut b.failure_rate, self.failure_rate);
        set(&mut b.fail_on, self.fail_on_version.clone());
        set(&mut b.fail_error, self.fail_error.clone());
        set(&mut b.fall_back_on, self.fall_back_on_version.clone());
        for (at, switch) in
            [(Moment::Handover, &self.die_after_handover), (Moment::Activation, &self.die_on_activation)]
        {
            let when = self.die_on_version.clone().unwrap_or_default();
            match switch {
                None => {}
                Some(Switch::OnOff(false)) => b.dies = None,
                Some(Switch::OnOff(true)) => b.dies = Some(Death { at, silent_for: None, when }),
                Some(Switch::For(l)) => b.dies = Some(Death { at, silent_for: Some(l.0), when }),
            }
        }
        let windows = |v: &Vec<RawWindow>| {
            v.iter().map(|w| Window { from: w.at.0, until: w.until.map(|u| u.0) }).collect::<Vec<_>>()
        };
        set(&mut b.offline, self.offline.as_ref().map(windows));
        set(&mut b.busy, self.busy.as_ref().map(windows));
        set(&mut b.reports, self.reports);
        if let Some(only) = self.heartbeat_only {
            b.reports = if only { Reports::None } else { Reports::All };
        }
        set(&mut b.duplicate_reports, self.duplicate_reports);
        set(&mut b.sends_health, self.sends_health);
        set(&mut b.sends_metrics, self.sends_metrics);
        set(&mut b.vitals.health, self.health);
        set(&mut b.vitals.error_rate, self.error_rate);
        set(&mut b.vitals.latency_p99_ms, self.latency_p99_ms);
        set(&mut b.vitals.cpu_percent, self.cpu_percent);
        set(&mut b.vitals.memory_percent, self.memory_percent);
        set(&mut b.vitals.requests_per_second, self.requests_per_second);
        set(&mut b.with_bundle, self.with_bundle.as_ref().map(|v| v.iter().map(RawAltered::read).collect()));
        set(&mut b.clock_skew, self.clock_skew.map(|s| Span((s * 1e6) as i64)));
    }
}

impl RawAltered {
    fn read(&self) -> Altered {
        Altered {
            when: self.version.clone(),
            health: self.health,
            error_rate: self.error_rate,
            latency_p99_ms: self.latency_p99_ms,
            cpu_percent: self.cpu_percent,
            memory_percent: self.memory_percent,
            requests_per_second: self.requests_per_second,
        }
    }
}

fn set<T>(slot: &mut T, value: Option<T>) {
    if let Some(v) = value {
        *slot = v;
    }
}

fn set_span(slot: &mut Span, value: Option<Length>) {
    set(slot, value.map(|l| l.0));
}

#[cfg(test)]
mod tests;
