//! What nodes push beside heartbeats: what they run, counts by period, single requests, events of their firewall.
//!
//! Whose it is comes from the credential: `node_id`, `project_id` and `service_id` in a body are ignored like any unknown field.

use domain::{Digest, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// `POST /nodes/:id/config`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigPush {
    /// At most 1 MiB.
    pub config_kdl: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigAnswer {
    pub status: String,
    /// SHA-256 of the text.
    #[schema(value_type = String)]
    pub config_hash: Digest,
    /// It is another one than the node pushed before.
    pub changed: bool,
}

/// The configuration that a node says it runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunningConfig {
    #[schema(value_type = String)]
    pub config_hash: Digest,
    pub config_kdl: String,
    /// When it was first received as it is.
    #[schema(value_type = String, format = DateTime)]
    pub received_at: Timestamp,
}

/// `POST /nodes/:id/metrics`: at most 100 periods and 500 requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct MetricsPush {
    pub metrics: Vec<MetricsPeriod>,
    pub request_logs: Vec<RequestLog>,
}

/// What a node counted from `period_start` on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct MetricsPeriod {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub period_start: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub period_seconds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_count: Option<u64>,
    /// Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_p50_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_p95_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_p99_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth_in_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth_out_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_2xx: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_3xx: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_4xx: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_5xx: Option<u64>,
}

/// One request that a node served.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct RequestLog {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub timestamp: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Kept without its query, which may carry credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ip: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MetricsAnswer {
    pub status: String,
    pub metrics_ingested: usize,
    pub logs_ingested: usize,
}

/// What a node's firewall saw.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct WafEvent {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub timestamp: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub severity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Shown as it was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matched_data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
}

/// `POST /nodes/:id/waf-events`: at most 100.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WafEventsPush {
    pub events: Vec<WafEvent>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WafEventsAnswer {
    pub status: String,
    pub events_ingested: usize,
}

/// One of what a node pushed, newest first in lists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeSample {
    pub seq: i64,
    /// When it was received; what the node said of its own time is beside it.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    #[serde(flatten)]
    #[schema(value_type = Object)]
    pub said: Map<String, Value>,
}
