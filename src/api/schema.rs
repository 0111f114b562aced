//! JSON schemas: those of our types by derive, those of `domain`'s types by hand, all under one list of names.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use utoipa::PartialSchema;
use utoipa::openapi::{RefOr, Schema};

fn by_hand(v: Value) -> RefOr<Schema> {
    // A literal of this file; the test below builds every one of them.
    serde_json::from_value(v).unwrap_or_else(|_| <String as PartialSchema>::schema())
}

fn object(properties: Value) -> RefOr<Schema> {
    by_hand(json!({"type": "object", "properties": properties}))
}

pub(crate) fn amount() -> RefOr<Schema> {
    by_hand(json!({"oneOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[0-9]+%?$"}],
        "description": "A count, or a percentage such as \"25%\"."}))
}

pub(crate) fn amount_or_null() -> RefOr<Schema> {
    by_hand(
        json!({"oneOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[0-9]+%?$"}, {"type": "null"}]}),
    )
}

pub(crate) fn role() -> RefOr<Schema> {
    by_hand(json!({"type": "string", "enum": ["admin", "operator", "reader"]}))
}

pub(crate) fn metrics() -> RefOr<Schema> {
    let number = json!({"type": ["number", "null"]});
    let count = json!({"type": ["integer", "null"], "minimum": 0});
    object(json!({
        "error_rate": number, "latency_p99_ms": number, "cpu_percent": number, "memory_percent": number,
        "request_count": count, "error_count": count, "requests_total": count, "errors_total": count,
        "counter_epoch": count, "traffic_weight": count,
    }))
}

pub(crate) fn settings() -> RefOr<Schema> {
    object(json!({
        "open_registration": {"type": "boolean"}, "adopt_on_registration": {"type": "boolean"},
        "approval_required": {"type": "boolean"}, "approvals_needed": {"type": "integer", "minimum": 0},
        "max_updating": {"type": ["integer", "string", "null"]},
        "drift_remediation": {"type": "boolean"},
        "retention_keep": {"type": "integer", "minimum": 0}, "strict_config": {"type": "boolean"},
        "rules": {"type": "object", "additionalProperties": false, "properties": {
            "required": {"type": "array", "items": {"type": "string"}},
            "forbidden": {"type": "array", "items": {"type": "string"}}, "schema": {"type": ["object", "boolean", "null"]}}},
        "secrets": {"type": "array", "items": {"type": "string"}},
    }))
}

pub(crate) fn environment_settings() -> RefOr<Schema> {
    object(json!({
        "approval_required": {"type": "boolean"}, "approvals_needed": {"type": "integer", "minimum": 0},
    }))
}

pub(crate) fn source() -> RefOr<Schema> {
    by_hand(json!({"type": "object", "required": ["type"],
        "properties": {"type": {"type": "string"}, "ref": {"type": ["string", "null"]}}}))
}

pub(crate) fn diagnostics() -> RefOr<Schema> {
    by_hand(json!({"type": "array", "items": {"type": "object", "required": ["text"], "properties": {
        "text": {"type": "string"}, "file": {"type": "string"}, "line": {"type": "integer"}, "column": {"type": "integer"}}}}))
}

pub(crate) fn selector() -> RefOr<Schema> {
    by_hand(json!({"type": "object", "properties": {
        "type": {"type": "string", "enum": ["all", "labels", "expr", "groups", "node_ids"]},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "match": {"type": "array", "items": {"type": "object", "required": ["key", "op"], "properties": {
            "key": {"type": "string"}, "op": {"type": "string", "enum": ["in", "not_in", "exists", "not_exists"]},
            "values": {"type": "array", "items": {"type": "string"}}}}},
        "groups": {"type": "array", "items": {"type": "string"}},
        "node_ids": {"type": "array", "items": {"type": "string", "format": "uuid"}}}}))
}

pub(crate) fn health_gates() -> RefOr<Schema> {
    let number = json!({"type": ["number", "null"], "minimum": 0});
    object(json!({"heartbeat_healthy": {"type": "boolean"}, "max_error_rate": number, "max_latency_ms": number,
        "max_cpu_percent": number, "max_memory_percent": number}))
}

pub(crate) fn probes() -> RefOr<Schema> {
    by_hand(json!({"type": "array", "maxItems": domain::rollout::HttpProbe::MOST, "items": {"type": "object",
        "required": ["url"], "additionalProperties": false, "properties": {
            "url": {"type": "string", "maxLength": 2048}, "method": {"type": "string", "enum": ["GET", "HEAD"]},
            "expected_status": {"type": "integer", "minimum": 100, "maximum": 599},
            "body_contains": {"type": ["string", "null"], "minLength": 1, "maxLength": 1024},
            "timeout_ms": {"type": "integer", "minimum": 100, "maximum": 10000}}}}))
}

pub(crate) fn canary() -> RefOr<Schema> {
    object(json!({"steps": {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 100}},
        "confidence_level": {"type": "number", "minimum": 0.5, "exclusiveMaximum": 1}, "min_samples": {"type": "integer", "minimum": 1}}))
}

fn audit_entry() -> Value {
    let id = json!({"type": "string", "format": "uuid"});
    let maybe_id = json!({"type": ["string", "null"], "format": "uuid"});
    json!({"type": "object",
        "required": ["id", "seq", "at", "actor_type", "action", "resource_type", "changes", "prev_hash", "hash"],
        "properties": {
            "id": id, "seq": {"type": "integer"}, "at": {"type": "string", "format": "date-time"},
            "actor_type": {"type": "string"}, "actor_id": maybe_id, "action": {"type": "string"},
            "resource_type": {"type": "string"}, "resource_id": maybe_id, "project_id": maybe_id, "changes": {},
            "request_id": maybe_id, "ip": {"type": ["string", "null"]}, "prev_hash": {"type": "string"}, "hash": {"type": "string"}}})
}

fn verdict() -> Value {
    json!({"type": "object", "required": ["valid", "entries"], "properties": {"valid": {"type": "boolean"},
        "entries": {"type": "integer"}, "first_bad_seq": {"type": ["integer", "null"]}, "reason": {"type": ["string", "null"]}}})
}

/// Every named schema of the document.
pub fn schemas() -> BTreeMap<String, Value> {
    let mut out = BTreeMap::new();
    macro_rules! derived {
        ($($t:ty),+ $(,)?) => {$({
            let value = serde_json::to_value(<$t as PartialSchema>::schema()).unwrap_or(Value::Null);
            out.insert(<$t as utoipa::ToSchema>::name().into_owned(), value);
        })+};
    }
    use crate::{
        access, bundle, credential, fleet, group, instance, node, people, plans, problem, project, resource, rollout,
        stream, telemetry, trust,
    };
    derived!(
        problem::Problem,
        access::SignInRequest,
        access::SignInAnswer,
        access::User,
        access::Org,
        access::ApiKeyRequest,
        access::ApiKey,
        people::OrgRequest,
        people::OrgPatch,
        people::MemberRequest,
        people::MemberPatch,
        people::Member,
        people::MemberAnswer,
        people::Invitation,
        people::UserRequest,
        people::UserAnswer,
        people::PasswordRequest,
        people::AcceptRequest,
        group::NodeGroupRequest,
        group::NodeGroup,
        credential::RotateKeyRequest,
        credential::NodeTokenAnswer,
        credential::NodeKeyAnswer,
        project::ProjectRequest,
        project::ProjectPatch,
        project::Project,
        project::EnrolmentTokenRequest,
        project::EnrolmentToken,
        instance::Instance,
        fleet::Node,
        fleet::NodePatch,
        fleet::NodeStats,
        fleet::NodeLogLine,
        fleet::BundleCount,
        fleet::DriftItem,
        fleet::ResolveRequest,
        bundle::DesiredConfigRequest,
        bundle::CompileRequest,
        bundle::BundleRequest,
        bundle::RevokeRequest,
        bundle::AssignRequest,
        bundle::Bundle,
        bundle::BundleBrief,
        bundle::Verification,
        bundle::Check,
        rollout::RolloutRequest,
        rollout::BlueGreenRequest,
        rollout::TrafficShift,
        rollout::NoteRequest,
        rollout::ResumeRequest,
        rollout::RollbackRequest,
        rollout::RetryRequest,
        rollout::Rollout,
        rollout::Progress,
        rollout::Step,
        rollout::RolloutNode,
        rollout::RolloutEvent,
        rollout::Plan,
        rollout::PlanStep,
        rollout::Excluded,
        rollout::DiffSummary,
        rollout::Explanation,
        rollout::FailureGroup,
        rollout::WhatChanged,
        rollout::ChangedRollout,
        rollout::Cause,
        plans::FreezeRequest,
        plans::FreezeWindow,
        plans::EnvironmentRequest,
        plans::Environment,
        plans::TemplateRequest,
        plans::RolloutTemplate,
        plans::StartRequest,
        plans::Vote,
        plans::Approvals,
        stream::StreamEvent,
        resource::Resource,
        resource::ResourceRequest,
        resource::BundleDiff,
        resource::Retention,
        resource::RetentionRequest,
        trust::Trust,
        trust::TrustRole,
        trust::TrustRoles,
        trust::TrustKey,
        trust::TrustKeyRequest,
        trust::TrustRoleRequest,
        trust::TrustRequest,
        trust::SignatureRequest,
        trust::ReleaseRequest,
        trust::Release,
        node::RegisterRequest,
        node::RegisterAnswer,
        node::Health,
        node::HeartbeatRequest,
        node::HeartbeatAnswer,
        node::PollAnswer,
        node::ReportRequest,
        node::ReportAnswer,
        node::EventKind,
        node::Severity,
        node::NodeEvent,
        node::NodeEventsRequest,
        node::NodeEventsAnswer,
        telemetry::ConfigPush,
        telemetry::ConfigAnswer,
        telemetry::RunningConfig,
        telemetry::MetricsPush,
        telemetry::MetricsPeriod,
        telemetry::RequestLog,
        telemetry::MetricsAnswer,
        telemetry::WafEvent,
        telemetry::WafEventsPush,
        telemetry::WafEventsAnswer,
        telemetry::NodeSample,
    );
    out.insert("AuditEntry".into(), audit_entry());
    out.insert("AuditVerdict".into(), verdict());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references<'a>(v: &'a Value, found: &mut Vec<&'a str>) {
        match v {
            Value::Object(m) => {
                if let Some(Value::String(r)) = m.get("$ref") {
                    found.push(r);
                }
                m.values().for_each(|v| references(v, found));
            }
            Value::Array(a) => a.iter().for_each(|v| references(v, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn every_reference_between_schemas_is_known() {
        let all = schemas();
        for (name, schema) in &all {
            let mut found = Vec::new();
            references(schema, &mut found);
            for r in found {
                let target = r.trim_start_matches("#/components/schemas/");
                assert!(all.contains_key(target), "{name} refers to {target}");
            }
        }
    }

    #[test]
    fn the_schemas_written_by_hand_are_kept_as_written() {
        for (name, schema) in
            [("metrics", metrics()), ("settings", settings()), ("selector", selector()), ("gates", health_gates())]
        {
            let v = serde_json::to_value(schema).unwrap_or_default();
            assert_eq!(v["type"], "object", "{name}: {v}");
            assert!(v["properties"].as_object().is_some_and(|p| p.len() > 4), "{name}: {v}");
        }
        assert!(serde_json::to_value(amount()).unwrap_or_default()["oneOf"].is_array());
        for list in [diagnostics(), probes()] {
            assert_eq!(serde_json::to_value(list).unwrap_or_default()["type"], "array");
        }
    }

    #[test]
    fn operator_writes_are_closed_and_node_writes_are_open() {
        let all = schemas();
        assert_eq!(all["RolloutRequest"]["additionalProperties"], false);
        assert!(all["HeartbeatRequest"].get("additionalProperties").is_none());
    }
}
