//! What a heartbeat or a report says, as the session hands it on. Clocks of nodes are never compared with ours.

use crate::access::text_enum;
use crate::id::BundleId;
use crate::time::{Span, Timestamp};
use serde::{Deserialize, Serialize};

text_enum! {
    /// What the node says of itself; `absent` is a node that never sent health.
    HealthClass { Absent = "absent", Healthy = "healthy", Degraded = "degraded", Unhealthy = "unhealthy" }
}

impl HealthClass {
    /// Does this take the node out of service, as far as `max_unavailable` is concerned?
    pub fn is_bad(&self) -> bool {
        match self {
            HealthClass::Absent | HealthClass::Healthy => false,
            HealthClass::Degraded | HealthClass::Unhealthy => true,
        }
    }
}

/// Measured facts. Percentages are 0-100, latency milliseconds, `request_count` counts since the previous heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metrics {
    pub error_rate: Option<f64>,
    pub latency_p99_ms: Option<f64>,
    pub cpu_percent: Option<f64>,
    pub memory_percent: Option<f64>,
    pub request_count: Option<u64>,
    pub error_count: Option<u64>,
    pub requests_total: Option<u64>,
    pub errors_total: Option<u64>,
    pub counter_epoch: Option<u64>,
    pub traffic_weight: Option<u8>,
}

/// One observation, received by us at `received`.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    pub received: Timestamp,
    /// The node's own clock; only the difference of the two is used.
    pub sent_at: Option<Timestamp>,
    pub measured_at: Option<Timestamp>,
    /// `None`: the message did not say. `Some(None)`: the baseline.
    pub active: Option<Option<BundleId>>,
    pub health: Option<HealthClass>,
    pub metrics: Option<Metrics>,
    /// From the report call `verified`: counts as a healthy observation for `heartbeat_healthy` only.
    pub verified_report: bool,
    /// What the probes of the rollout said, where it has any.
    pub probed: Option<Probed>,
}

/// The answers of all probes of a rollout together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// When the oldest of them was asked, on our clock.
    pub at: Timestamp,
    /// Which one did not match, in words.
    pub failed: Option<String>,
}

impl Observation {
    /// `received - max(0, sent_at - measured_at)`: when the facts were true, on our clock. `None` without `sent_at`.
    pub fn measured(&self) -> Option<Timestamp> {
        self.sent_at.map(|sent| {
            let age = self.measured_at.map_or(Span::ZERO, |m| sent.since(m));
            self.received - age
        })
    }
}
