//! What nodes send and are answered. Unknown fields are ignored.

use domain::node::{Generation, Labels, Metrics};
use domain::{NodeId, ProjectId, RolloutId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// `POST /projects/:project/nodes/register`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RegisterRequest {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<std::collections::BTreeMap<String, String>>)]
    pub labels: Option<Labels>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<serde_json::Map<String, Value>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RegisterAnswer {
    #[schema(value_type = uuid::Uuid)]
    pub node_id: NodeId,
    /// Whose assignments the node accepts. Not in the contract: another control plane may leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<uuid::Uuid>)]
    pub project_id: Option<ProjectId>,
    /// The node key, shown this once.
    pub node_token: String,
    /// The same.
    pub node_key: String,
    pub poll_interval_s: u32,
    pub heartbeat_interval_s: u32,
    /// The signed trust document.
    #[schema(value_type = Object)]
    pub trust: Value,
    /// All its versions, oldest first, when there is more than one: for an agent that pins an older root.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    pub trust_chain: Vec<Value>,
}

/// The health a node says it has: `{"status": "healthy", ...}`, or the bare word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Health {
    /// `healthy`, `degraded` or `unhealthy`; anything else counts as unhealthy.
    pub status: String,
}

impl<'de> Deserialize<'de> for Health {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Health, D::Error> {
        struct V;
        impl<'de> serde::de::Visitor<'de> for V {
            type Value = Health;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object with a status, or a word")
            }
            fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<Health, E> {
                Ok(Health { status: v.to_string() })
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Health, A::Error> {
                let mut status = None;
                while let Some(key) = map.next_key::<std::borrow::Cow<'_, str>>()? {
                    if key == "status" {
                        status = Some(map.next_value::<String>()?);
                    } else {
                        map.next_value::<serde::de::IgnoredAny>()?;
                    }
                }
                status.map(|status| Health { status }).ok_or_else(|| serde::de::Error::missing_field("status"))
            }
        }
        d.deserialize_any(V)
    }
}

/// `POST /nodes/:id/heartbeat`; every field may be left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct HeartbeatRequest {
    /// `null` is the baseline; absent says nothing.
    #[serde(deserialize_with = "crate::wire::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub active_bundle_id: Option<Option<String>>,
    #[serde(deserialize_with = "crate::wire::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub staged_bundle_id: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schema::metrics)]
    pub metrics: Option<Metrics>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub measured_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub sent_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub generation: Option<Generation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub busy_until: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<serde_json::Map<String, Value>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HeartbeatAnswer {
    pub status: String,
    #[schema(value_type = uuid::Uuid)]
    pub node_id: NodeId,
    #[schema(value_type = String, format = DateTime)]
    pub last_seen_at: Timestamp,
    pub heartbeat_after_s: u32,
    pub poll_now: bool,
}

/// `GET /nodes/:id/bundles/latest`: an update, or `no_update`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct PollAnswer {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_update: bool,
    /// The content id; `null` in an update is the baseline.
    #[serde(deserialize_with = "crate::wire::nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub bundle_id: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<uuid::Uuid>)]
    pub rollout_id: Option<RolloutId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub generation: Option<Generation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_url: Option<String>,
    /// `sha256:<hex>`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// The signed assignment.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub assignment: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic_weight: Option<u8>,
    /// Signed trust documents newer than the one that the node named in `?trust=`, oldest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    pub trust: Option<Value>,
    /// The signed release statement about the bundle, where the bundle key is kept offline.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub release: Option<Value>,
    /// The older name of `artifact_url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub download_url: Option<String>,
    /// `artifact_hash` as bare hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    pub poll_after_s: u32,
}

/// `POST /nodes/:id/bundles/:bundle_id/{downloaded,staged,activated,verified}`, and with `error` and `logs` `failed`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ReportRequest {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub generation: Option<Generation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<uuid::Uuid>)]
    pub rollout_id: Option<RolloutId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub sent_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub measured_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schema::metrics)]
    pub metrics: Option<Metrics>,
    /// `failed` only: what went wrong, text or an object.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub error: Option<Value>,
    /// `failed` only: kept up to 64 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub logs: Option<Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReportAnswer {
    pub state: String,
    /// `false` after `staged`: the assignment was withdrawn, do not switch.
    #[serde(default)]
    pub proceed: bool,
    #[serde(default)]
    pub heartbeat_now: bool,
    /// A late or foreign report, which changed nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    ConfigReload,
    BundleSwitch,
    Error,
    Startup,
    Shutdown,
    Warning,
    Info,
}

impl EventKind {
    pub fn as_str(self) -> &'static str {
        match self {
            EventKind::ConfigReload => "config_reload",
            EventKind::BundleSwitch => "bundle_switch",
            EventKind::Error => "error",
            EventKind::Startup => "startup",
            EventKind::Shutdown => "shutdown",
            EventKind::Warning => "warning",
            EventKind::Info => "info",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Debug,
    Info,
    Warning,
    Error,
    Critical,
}

/// One line of a node's own log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeEvent {
    /// `type` is read as well.
    #[serde(alias = "type")]
    pub event_type: EventKind,
    /// When left out: what its type says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When it happened by the node's clock; what is shown is when it was received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<serde_json::Map<String, Value>>,
}

/// `POST /nodes/:id/events`: these, a bare list of them, or one alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeEventsRequest {
    pub events: Vec<NodeEvent>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeEventsAnswer {
    pub status: String,
    pub count: usize,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn null_and_absent_bundles_are_different_things() {
        let said: HeartbeatRequest = serde_json::from_str(r#"{"active_bundle_id":null,"newer_field":[1]}"#).unwrap();
        assert_eq!((said.active_bundle_id, said.staged_bundle_id), (Some(None), None));
    }

    #[test]
    fn health_is_an_object_or_a_word_and_may_carry_more() {
        for text in [r#"{"health":{"checks":[],"status":"degraded"}}"#, r#"{"health":"degraded"}"#] {
            let said: HeartbeatRequest = serde_json::from_str(text).unwrap();
            assert_eq!(said.health.unwrap().status, "degraded");
        }
        assert!(serde_json::from_str::<HeartbeatRequest>(r#"{"health":{}}"#).is_err());
        assert!(serde_json::from_str::<HeartbeatRequest>(r#"{"health":7}"#).is_err());
    }

    #[test]
    fn a_no_update_answer_shows_only_what_it_has() {
        let answer = PollAnswer { no_update: true, poll_after_s: 5, ..PollAnswer::default() };
        assert_eq!(serde_json::to_string(&answer).unwrap(), r#"{"no_update":true,"poll_after_s":5}"#);
        let baseline =
            PollAnswer { bundle_id: Some(None), generation: Some(3), poll_after_s: 5, ..PollAnswer::default() };
        assert_eq!(serde_json::to_string(&baseline).unwrap(), r#"{"bundle_id":null,"generation":3,"poll_after_s":5}"#);
    }
}
