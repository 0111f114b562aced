//! What a run of the fleet has to say: latencies, counts, errors; as JSON and as a table for people.

use crate::agent::NodeState;
use domain::Timestamp;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;

/// A distribution in milliseconds. Calls count from when they were due, not from when they were sent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Latency {
    pub count: u64,
    pub mean_ms: f64,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
}

impl Latency {
    /// From a histogram of microseconds.
    pub(crate) fn of(h: &Histogram<u64>) -> Latency {
        let ms = |us: u64| us as f64 / 1e3;
        Latency {
            count: h.len(),
            mean_ms: (h.mean() / 1e3 * 1e3).round() / 1e3,
            p50_ms: ms(h.value_at_quantile(0.5)),
            p90_ms: ms(h.value_at_quantile(0.9)),
            p99_ms: ms(h.value_at_quantile(0.99)),
            p999_ms: ms(h.value_at_quantile(0.999)),
            max_ms: ms(h.max()),
        }
    }
}

/// How one bundle fared. Times are the simulator's own clock.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct BundleLine {
    /// Content id, or `baseline`.
    pub bundle: String,
    pub version: Option<String>,
    pub ordered: u64,
    pub activated: u64,
    pub first_ordered_at: Option<Timestamp>,
    pub last_activated_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FleetReport {
    pub nodes: u64,
    pub started_at: Timestamp,
    pub elapsed_s: f64,
    /// Of `--until-bundle` or `--until-version`; absent when neither was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goal_reached: Option<bool>,
    pub states: BTreeMap<NodeState, u64>,
    /// Nodes by what they run.
    pub active: BTreeMap<String, u64>,
    /// `register, heartbeat, poll` (not held ones)`, report, download` (over the wire)`, heartbeat_send_lag,
    /// wake_up` (from the mark, or from the first node told)`, time_to_activate` (from the order).
    pub latencies: BTreeMap<&'static str, Latency>,
    pub counts: BTreeMap<&'static str, u64>,
    /// By call, then by status or kind.
    pub errors: BTreeMap<&'static str, BTreeMap<String, u64>>,
    /// Why nodes failed, refused or gave up.
    pub reasons: BTreeMap<String, u64>,
    pub bundles: Vec<BundleLine>,
}

impl FleetReport {
    pub fn count(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }

    /// All calls that brought no usable answer.
    pub fn error_count(&self) -> u64 {
        self.errors.values().flat_map(BTreeMap::values).sum()
    }

    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    pub fn to_table(&self) -> String {
        self.to_string()
    }
}

/// The table.
impl std::fmt::Display for FleetReport {
    fn fmt(&self, t: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(t, "{} nodes, {:.1} s, {} errors", self.nodes, self.elapsed_s, self.error_count())?;
        if let Some(reached) = self.goal_reached {
            writeln!(t, "goal {}", if reached { "reached" } else { "NOT reached" })?;
        }
        writeln!(
            t,
            "\n{:<20}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "milliseconds", "count", "mean", "p50", "p90", "p99", "p99.9", "max"
        )?;
        for (name, l) in &self.latencies {
            writeln!(
                t,
                "{name:<20}{:>10}{:>10.2}{:>10.2}{:>10.2}{:>10.2}{:>10.2}{:>10.2}",
                l.count, l.mean_ms, l.p50_ms, l.p90_ms, l.p99_ms, l.p999_ms, l.max_ms
            )?;
        }
        writeln!(t, "\n{:<44}{:>10}{:>10}  version", "bundle", "ordered", "active")?;
        for b in &self.bundles {
            let now = self.active.get(&b.bundle).copied().unwrap_or(0);
            let id: String = b.bundle.chars().take(40).collect();
            writeln!(t, "{id:<44}{:>10}{now:>10}  {}", b.ordered, b.version.as_deref().unwrap_or("-"))?;
        }
        let states: Vec<String> = self.states.iter().map(|(s, n)| format!("{s:?} {n}").to_lowercase()).collect();
        writeln!(t, "\nstates: {}", states.join(", "))?;
        let counts: Vec<String> = self.counts.iter().map(|(c, n)| format!("{c} {n}")).collect();
        writeln!(t, "counts: {}", counts.join(", "))?;
        for (call, kinds) in &self.errors {
            let kinds: Vec<String> = kinds.iter().map(|(k, n)| format!("{k} x{n}")).collect();
            writeln!(t, "errors of {call}: {}", kinds.join(", "))?;
        }
        for (why, n) in &self.reasons {
            writeln!(t, "{n:>6} x {why}")?;
        }
        Ok(())
    }
}
