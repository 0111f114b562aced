//! How one simulated node behaves: what it is slow at, what it fails at, when it is away, what it says of itself.

use super::length::Patterns;
use domain::node::HealthClass;
use domain::{ContentId, Span};
use serde::Deserialize;

/// Which of the report calls a node makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reports {
    /// All five; after `staged` it waits for `proceed`.
    All,
    /// `activated`, `verified` and `failed` only: it never asks whether it may switch.
    Brief,
    /// None: only the heartbeat says what runs.
    None,
}

/// A time away, from the start of the node's life. `until: None` is for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub from: Span,
    pub until: Option<Span>,
}

impl Window {
    pub fn holds(&self, age: Span) -> bool {
        age >= self.from && self.until.is_none_or(|u| age < u)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// As soon as a poll answer named the bundle.
    Handover,
    /// While switching: the bundle that kills its host.
    Activation,
}

/// The node's process ends, once per generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Death {
    pub at: Moment,
    /// `None`: it never comes back.
    pub silent_for: Option<Span>,
    /// Only for these bundles; empty is any.
    pub when: Patterns,
}

/// What a node says of itself. Percentages are 0-100.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Vitals {
    pub health: HealthClass,
    pub error_rate: f64,
    pub latency_p99_ms: f64,
    pub cpu_percent: f64,
    pub memory_percent: f64,
    /// At full traffic weight.
    pub requests_per_second: f64,
}

impl Default for Vitals {
    fn default() -> Self {
        Vitals {
            health: HealthClass::Healthy,
            error_rate: 0.1,
            latency_p99_ms: 20.0,
            cpu_percent: 15.0,
            memory_percent: 30.0,
            requests_per_second: 100.0,
        }
    }
}

/// Vitals while a bundle of `when` is active; `None` leaves the ordinary value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Altered {
    pub when: Patterns,
    pub health: Option<HealthClass>,
    pub error_rate: Option<f64>,
    pub latency_p99_ms: Option<f64>,
    pub cpu_percent: Option<f64>,
    pub memory_percent: Option<f64>,
    pub requests_per_second: Option<f64>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Behaviour {
    /// From staged (and allowed) to active.
    pub apply_delay: Span,
    /// From active to the node's own verdict.
    pub check_delay: Span,
    /// A download takes at least this long.
    pub download_delay: Span,
    /// Share of activations that fail, 0.0-1.0.
    pub failure_rate: f64,
    /// Activation of these bundles fails.
    pub fail_on: Patterns,
    pub fail_error: String,
    /// These bundles activate, then fail the node's own check: it goes back by itself.
    pub fall_back_on: Patterns,
    pub dies: Option<Death>,
    pub offline: Vec<Window>,
    /// Heartbeats say `busy_until` inside these.
    pub busy: Vec<Window>,
    pub reports: Reports,
    /// Every report is sent twice.
    pub duplicate_reports: bool,
    /// Every report waits this long before it is sent.
    pub late_reports: Span,
    pub sends_health: bool,
    pub sends_metrics: bool,
    pub vitals: Vitals,
    pub with_bundle: Vec<Altered>,
    /// The node's wall clock is ahead (or behind, negative) by this.
    pub clock_skew: Span,
}

impl Default for Behaviour {
    fn default() -> Self {
        Behaviour {
            apply_delay: Span::ZERO,
            check_delay: Span::ZERO,
            download_delay: Span::ZERO,
            failure_rate: 0.0,
            fail_on: Patterns::default(),
            fail_error: "simulated activation failure".into(),
            fall_back_on: Patterns::default(),
            dies: None,
            offline: Vec::new(),
            busy: Vec::new(),
            reports: Reports::All,
            duplicate_reports: false,
            late_reports: Span::ZERO,
            sends_health: true,
            sends_metrics: true,
            vitals: Vitals::default(),
            with_bundle: Vec::new(),
            clock_skew: Span::ZERO,
        }
    }
}

/// Does the pattern mean this bundle: its version label, its content id, or `baseline`?
pub fn means(patterns: &Patterns, bundle: Option<ContentId>, version: Option<&str>) -> bool {
    if patterns.0.is_empty() {
        return false;
    }
    let id = crate::wire::bundle_name(bundle);
    patterns.hit(&[&id, version.unwrap_or("")])
}

impl Behaviour {
    /// Vitals with `bundle` active.
    pub fn vitals_with(&self, bundle: Option<ContentId>, version: Option<&str>) -> Vitals {
        let mut v = self.vitals;
        for a in self.with_bundle.iter().filter(|a| means(&a.when, bundle, version)) {
            v.health = a.health.unwrap_or(v.health);
            v.error_rate = a.error_rate.unwrap_or(v.error_rate);
            v.latency_p99_ms = a.latency_p99_ms.unwrap_or(v.latency_p99_ms);
            v.cpu_percent = a.cpu_percent.unwrap_or(v.cpu_percent);
            v.memory_percent = a.memory_percent.unwrap_or(v.memory_percent);
            v.requests_per_second = a.requests_per_second.unwrap_or(v.requests_per_second);
        }
        v
    }

    /// Is the node off the net at this age by its script, and when does that change next?
    pub fn away(&self, age: Span) -> bool {
        self.offline.iter().any(|w| w.holds(age))
    }

    /// The next edge of an offline window after `age`.
    pub fn next_edge(&self, age: Span) -> Option<Span> {
        self.offline.iter().flat_map(|w| [Some(w.from), w.until]).flatten().filter(|&e| e > age).min()
    }

    /// The end of the busy window that holds at `age`; open-ended windows count as a day.
    pub fn busy_for(&self, age: Span) -> Option<Span> {
        let w = self.busy.iter().find(|w| w.holds(age))?;
        Some(w.until.map_or(Span::secs(86_400), |u| u - age))
    }
}
