//! From rows to wire types, in one place per noun.

use crate::names::Named;
use actors::commands::projects::EnrolmentToken;
use actors::commands::rollouts::RolloutView;
use api::bundle::BundleBrief;
use api::rollout::{BlueGreenRequest, Cause, RolloutNode, TrafficShift};
use domain::access::{ApiKey, Invitation, Org, Purpose, User};
use domain::bundle::{Bundle, BundleStatus, Diagnostic};
use domain::node::Node;
use domain::project::Project;
use domain::rollout::{Head, NodeState, OnFailure, Spec, Step, StrategyKind};
use domain::{BundleId, NodeId, Role};
use std::collections::HashMap;
use store::{MemberRow, NodeGroup, RolloutSummary};

/// Nodes of a step are listed up to this many, unless they are asked for.
const MAX_LISTED_NODES: usize = 100;

pub fn user(u: User) -> api::access::User {
    api::access::User {
        id: u.id,
        email: u.email,
        instance_admin: u.instance_admin,
        disabled_at: u.disabled_at,
        inserted_at: u.inserted_at,
    }
}

pub fn org(o: Org, role: Option<Role>) -> api::access::Org {
    api::access::Org { id: o.id, name: o.name, slug: o.slug, role, inserted_at: o.inserted_at }
}

/// Without its link, which is shown once.
pub fn invitation(i: Invitation) -> api::people::Invitation {
    let (org_id, role) = match i.purpose {
        Purpose::Join { org, role } => (Some(org), Some(role)),
        Purpose::Password { .. } => (None, None),
    };
    api::people::Invitation {
        id: i.id,
        email: i.email,
        org_id,
        role,
        expires_at: i.expires_at,
        inserted_at: i.inserted_at,
        link: None,
    }
}

pub fn node_group(g: NodeGroup) -> api::group::NodeGroup {
    api::group::NodeGroup {
        id: g.id,
        project_id: g.project,
        name: g.name,
        selector: g.selector,
        node_ids: g.node_ids,
        inserted_at: g.inserted_at,
        updated_at: g.updated_at,
    }
}

pub fn api_key(k: ApiKey) -> api::access::ApiKey {
    api::access::ApiKey {
        id: k.id,
        org_id: k.org,
        project_id: k.project,
        name: k.name,
        prefix: k.prefix,
        scopes: k.scopes,
        created_by_id: k.created_by,
        last_used_at: k.last_used_at,
        expires_at: k.expires_at,
        revoked_at: k.revoked_at,
        inserted_at: k.inserted_at,
    }
}

pub fn project(p: Project) -> api::project::Project {
    api::project::Project {
        id: p.id,
        org_id: p.org,
        name: p.name,
        slug: p.slug,
        description: p.description,
        settings: p.settings,
        inserted_at: p.inserted_at,
        updated_at: p.updated_at,
    }
}

pub fn enrolment_token(t: EnrolmentToken) -> api::project::EnrolmentToken {
    api::project::EnrolmentToken {
        id: t.id,
        project_id: t.project,
        name: t.name,
        max_uses: t.max_uses,
        uses: t.uses,
        expires_at: t.expires_at,
        labels: t.labels,
        allowed_label_keys: t.allowed_label_keys,
        allow_replace: t.allow_replace,
        inserted_at: t.inserted_at,
    }
}

/// The bundles that a node's answer names.
pub fn bundles_of(n: &Node) -> impl Iterator<Item = BundleId> + use<> {
    [n.active_bundle, n.staged_bundle, n.desired_bundle, n.verified_bundle, n.pinned_bundle].into_iter().flatten()
}

pub fn node(n: Node, names: &Named) -> api::fleet::Node {
    api::fleet::Node {
        id: n.id,
        project_id: n.project,
        org_id: n.org,
        name: n.name,
        status: n.presence,
        standing: n.standing,
        health: n.health,
        labels: n.labels,
        capabilities: n.capabilities,
        version: n.version,
        ip: n.ip,
        hostname: n.hostname,
        metadata: n.metadata,
        last_seen_at: n.last_seen,
        active_bundle_id: names.text(n.active_bundle),
        staged_bundle_id: names.text(n.staged_bundle),
        desired_bundle_id: names.text(n.desired_bundle),
        verified_bundle_id: names.text(n.verified_bundle),
        pinned_bundle_id: names.text(n.pinned_bundle),
        desired_rollout_id: n.desired_rollout,
        generation: n.generation,
        traffic_weight: n.traffic_weight,
        busy_until: n.busy.map(|b| b.until),
        clock_skew_ms: n.clock_skew.map(|s| s.as_millis()),
        last_error: n.last_error,
        inserted_at: n.inserted_at,
        updated_at: n.updated_at,
    }
}

/// `whole`: with manifest and configuration.
pub fn bundle(b: Bundle, whole: bool) -> api::bundle::Bundle {
    let failed = b.status == BundleStatus::Failed;
    api::bundle::Bundle {
        id: b.id,
        bundle_id: b.content_id.map(|c| c.to_string()),
        project_id: b.project,
        version: b.version,
        status: b.status,
        desired_config_id: b.desired_config,
        artifact_hash: b.artifact_hash.map(|h| h.prefixed()),
        size_bytes: b.size_bytes,
        signature: b.signature,
        key_id: b.key_id,
        source: b.source,
        risk: b.risk,
        risk_reasons: b.risk_reasons,
        warnings: b.warnings,
        compiler_output: failed.then(|| b.errors.iter().map(line).collect::<Vec<_>>().join("\n")),
        errors: b.errors,
        builder: b.builder,
        manifest: b.manifest.filter(|_| whole),
        config: b.config.filter(|_| whole),
        revoked_reason: b.revoked_reason,
        created_by_id: b.created_by,
        created_at: b.created_at,
        inserted_at: b.created_at,
        updated_at: b.updated_at,
    }
}

/// `file:line:column: text`, as compilers write it.
pub fn line(d: &Diagnostic) -> String {
    let mut place = d.file.clone().unwrap_or_default();
    for n in [d.line, d.column].into_iter().flatten() {
        place.push_str(&format!(":{n}"));
    }
    if place.is_empty() { d.text.clone() } else { format!("{}: {}", place.trim_start_matches(':'), d.text) }
}

/// `nodes`: those of steps that are shown with them.
pub fn step(s: Step, nodes: &mut HashMap<u32, Vec<NodeId>>) -> api::rollout::Step {
    api::rollout::Step {
        step_index: s.index,
        state: s.state,
        node_count: s.size,
        node_ids: nodes.remove(&s.index),
        started_at: s.started_at,
        completed_at: s.completed_at,
        error: s.error,
    }
}

/// Are the nodes of a step of this size listed?
pub fn lists_nodes(size: u32, all: bool) -> bool {
    all || size as usize <= MAX_LISTED_NODES
}

pub fn plan_step(index: usize, nodes: Vec<NodeId>, all: bool) -> api::rollout::PlanStep {
    api::rollout::PlanStep {
        step_index: index as u32,
        node_count: nodes.len() as u32,
        node_ids: (all || nodes.len() <= MAX_LISTED_NODES).then_some(nodes),
    }
}

/// What of a rollout does not come from its specification or head.
struct Frame {
    id: domain::RolloutId,
    project: domain::ProjectId,
    org: Option<domain::OrgId>,
    bundle: Option<BundleBrief>,
    primary: Option<Cause>,
    step_count: u32,
    created_by: Option<domain::UserId>,
    owner: Option<domain::InstanceId>,
    steps: Option<Vec<api::rollout::Step>>,
    inserted_at: domain::Timestamp,
    updated_at: domain::Timestamp,
}

pub fn rollout(
    v: RolloutView,
    bundle: Option<BundleBrief>,
    mut nodes: HashMap<u32, Vec<NodeId>>,
) -> api::rollout::Rollout {
    let steps: Vec<_> = v.steps.into_iter().map(|s| step(s, &mut nodes)).collect();
    let frame = Frame {
        id: v.id,
        project: v.project,
        org: None,
        bundle,
        primary: Some(Cause { code: v.primary.code, text: v.primary.text, event_id: None, at: None }),
        step_count: steps.len() as u32,
        created_by: v.created_by,
        owner: v.owner,
        steps: Some(steps),
        inserted_at: v.inserted_at,
        updated_at: v.updated_at,
    };
    rollout_of(v.spec, v.head, frame)
}

pub fn rollout_summary(r: RolloutSummary) -> api::rollout::Rollout {
    let frame = Frame {
        id: r.id,
        project: r.project,
        org: Some(r.org),
        bundle: r.bundle.as_ref().map(crate::names::brief),
        primary: None,
        step_count: r.steps,
        created_by: r.created_by,
        owner: r.owner,
        steps: None,
        inserted_at: r.inserted_at,
        updated_at: r.updated_at,
    };
    rollout_of(r.spec, r.head, frame)
}

fn rollout_of(spec: Spec, head: Head, frame: Frame) -> api::rollout::Rollout {
    let strategy = spec.strategy;
    let b = spec.blue_green;
    let blue_green = BlueGreenRequest {
        traffic_steps: Some(b.traffic_steps),
        auto_advance: Some(b.auto_advance),
        advance_delay_seconds: u32::try_from(b.advance_delay.as_secs()).ok(),
    };
    api::rollout::Rollout {
        kind: spec.kind,
        supersede: spec.supersede,
        allow_restart: spec.allow_restart,
        allow_deprecated: spec.allow_deprecated,
        canary: (strategy == StrategyKind::Canary).then_some(spec.canary),
        analysis: head.analysis.and_then(|a| serde_json::to_value(a).ok()),
        blue_green: (strategy == StrategyKind::BlueGreen).then_some(blue_green),
        traffic: head.shift.map(|s| TrafficShift { weight: s.weight, waiting: head.unweighed }),
        id: frame.id,
        project_id: frame.project,
        org_id: frame.org,
        bundle_id: spec.bundle,
        bundle: frame.bundle,
        state: head.phase,
        causes: head.causes,
        waits: head.waits,
        primary: frame.primary,
        current_step: head.step,
        step_count: frame.step_count,
        progress: head.counts.into(),
        target_selector: spec.selector,
        strategy: spec.strategy,
        batch_size: spec.batch_size,
        ramp: spec.ramp,
        spread_by: spec.spread_by,
        max_unavailable: spec.max_unavailable,
        failure_threshold: spec.failure_threshold,
        progress_deadline_seconds: spec.progress_deadline.as_secs(),
        rollback_deadline_seconds: spec.rollback_deadline.as_secs(),
        min_healthy_seconds: spec.judge.soak.as_secs(),
        gate_freshness_seconds: spec.judge.freshness.as_secs(),
        fail_after_seconds: spec.judge.fail_after.as_secs(),
        min_requests: spec.judge.min_requests,
        on_no_traffic: spec.judge.on_no_traffic,
        health_gates: spec.judge.gates,
        probes: spec.judge.probes,
        auto_rollback: spec.on_failure == OnFailure::Rollback,
        on_failure: spec.on_failure,
        allow_failed: spec.allow_failed,
        scheduled_at: spec.scheduled_at,
        start_window_seconds: spec.start_window.as_secs(),
        start: spec.start,
        version: head.version,
        note: head.note,
        created_by_id: frame.created_by,
        owner_instance_id: frame.owner,
        steps: frame.steps,
        started_at: head.started_at,
        completed_at: head.ended_at,
        inserted_at: frame.inserted_at,
        updated_at: frame.updated_at,
    }
}

pub fn rollout_node(row: MemberRow) -> RolloutNode {
    let m = row.member;
    let (mut reason, mut error, mut no_traffic) = (None, None, None);
    match &m.state {
        NodeState::Failed { reason: r, error: e, .. } => {
            reason = Some(r.as_str().to_string());
            error.clone_from(e);
        }
        NodeState::Skipped { reason: r } => reason = Some(r.as_str().to_string()),
        NodeState::RollbackFailed { error: e, .. } => error.clone_from(e),
        NodeState::Verified { no_traffic: n, .. } => no_traffic = Some(*n),
        NodeState::RollingBack { owed: true, .. } => reason = Some("owed".into()),
        NodeState::Pending
        | NodeState::Assigned
        | NodeState::Downloaded
        | NodeState::Staged
        | NodeState::Activated { .. }
        | NodeState::Owed
        | NodeState::RollingBack { owed: false, .. }
        | NodeState::RolledBack { .. } => {}
    }
    RolloutNode {
        node_id: m.node,
        name: row.name,
        step_index: m.step,
        state: m.state.kind(),
        reason,
        error,
        no_traffic,
        attempt: m.attempt,
        generation: m.generation,
        handed_over: m.handed_over,
        online: m.online,
        health: m.health,
        traffic_weight: m.weight,
        updated_at: row.updated_at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diagnostics_read_like_those_of_a_compiler() {
        let d = |file: Option<&str>, line_no, column| Diagnostic {
            text: "unknown key".into(),
            file: file.map(str::to_string),
            line: line_no,
            column,
        };
        assert_eq!(line(&d(Some("config.kdl"), Some(3), Some(7))), "config.kdl:3:7: unknown key");
        assert_eq!(line(&d(None, Some(3), None)), "3: unknown key");
        assert_eq!(line(&d(None, None, None)), "unknown key");
    }
}
