//! What a node says of itself: health, metrics, sequence numbers.

use super::{Agent, At};
use crate::wire::bundle_name;
use api::node::{Health, HeartbeatRequest, ReportRequest};
use domain::Timestamp;
use domain::node::{HealthClass, Metrics};

/// Traffic served since the process started. Fractions are kept so that counts add up.
#[derive(Clone, Debug)]
pub(super) struct Traffic {
    since: Timestamp,
    requests: f64,
    errors: f64,
    /// Totals as of the previous heartbeat.
    told: (u64, u64),
}

impl Traffic {
    pub(super) fn starting(now: Timestamp) -> Traffic {
        Traffic { since: now, requests: 0.0, errors: 0.0, told: (0, 0) }
    }

    fn totals(&self) -> (u64, u64) {
        (self.requests as u64, self.errors as u64)
    }
}

impl Agent {
    /// Counts the traffic up to now with the vitals of what is active now: call before switching.
    pub(super) fn serve_until(&mut self, now: Timestamp) {
        let v = self.behaviour.vitals_with(self.active, self.active_version.as_deref());
        let served =
            now.since(self.traffic.since).as_secs_f64() * v.requests_per_second * f64::from(self.weight) / 100.0;
        self.traffic.since = self.traffic.since.max(now);
        self.traffic.requests += served;
        self.traffic.errors += served * v.error_rate / 100.0;
    }

    fn health(&self) -> Option<Health> {
        let v = self.behaviour.vitals_with(self.active, self.active_version.as_deref());
        let says = self.behaviour.sends_health && v.health != HealthClass::Absent;
        says.then(|| Health { status: v.health.as_str().to_owned() })
    }

    /// `None` when the node sends none. Counts since the previous heartbeat are in heartbeats only.
    fn metrics(&mut self, now: Timestamp, heartbeat: bool) -> Option<Metrics> {
        self.serve_until(now);
        if !self.behaviour.sends_metrics {
            return None;
        }
        let v = self.behaviour.vitals_with(self.active, self.active_version.as_deref());
        let (requests, errors) = self.traffic.totals();
        let told = self.traffic.told;
        if heartbeat {
            self.traffic.told = (requests, errors);
        }
        Some(Metrics {
            error_rate: Some(v.error_rate),
            latency_p99_ms: Some(v.latency_p99_ms),
            cpu_percent: Some(v.cpu_percent),
            memory_percent: Some(v.memory_percent),
            request_count: heartbeat.then(|| requests - told.0),
            error_count: heartbeat.then(|| errors - told.1),
            requests_total: Some(requests),
            errors_total: Some(errors),
            counter_epoch: Some(u64::from(self.boot)),
            traffic_weight: Some(self.weight),
        })
    }

    /// Is the node well, as far as it can tell itself?
    pub(super) fn is_well(&self) -> bool {
        let v = self.behaviour.vitals_with(self.active, self.active_version.as_deref());
        !v.health.is_bad()
    }

    pub(super) fn heartbeat(&mut self, now: Timestamp) -> HeartbeatRequest {
        self.seq += 1;
        let metrics = self.metrics(now, true);
        let here = now + self.behaviour.clock_skew;
        let staged = self.work.as_ref().and_then(|w| match &w.at {
            At::Asking { .. } | At::Applying { .. } => Some(bundle_name(w.order.bundle)),
            At::Wanted { .. } | At::Fetched { .. } | At::Checking { .. } => None,
        });
        HeartbeatRequest {
            // A node that was never told anything says nothing: what it runs is its baseline by definition.
            active_bundle_id: (self.accepted > 0).then(|| Some(bundle_name(self.active))),
            staged_bundle_id: staged.map(Some),
            health: self.health(),
            metrics,
            measured_at: Some(here),
            sent_at: Some(here),
            seq: Some(self.seq),
            instance: Some(format!("{}#{}", self.name, self.boot)),
            generation: (self.accepted > 0).then_some(self.accepted),
            busy_until: self.behaviour.busy_for(now.since(self.born)).map(|left| here + left),
            version: Some(self.profile.version.clone()),
            ..HeartbeatRequest::default()
        }
    }

    pub(super) fn report_body(&mut self, now: Timestamp, of: &super::Outgoing) -> ReportRequest {
        let metrics = self.metrics(now, false);
        let here = now + self.behaviour.clock_skew;
        ReportRequest {
            generation: Some(of.generation),
            rollout_id: of.rollout,
            sent_at: Some(here),
            measured_at: Some(here),
            health: self.health(),
            metrics,
            error: of.error.as_deref().map(Into::into),
            logs: of.error.as_deref().map(|e| format!("{}: {e}", self.name).into()),
        }
    }
}
