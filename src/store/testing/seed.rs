//! Rows with sensible values, for tests. Ids count up, so that rows sort in the order of their making.

use crate::{NewRollout, RolloutCommit, Store, Write};
use domain::access::{ApiKey, Org, User};
use domain::audit::NewEntry;
use domain::bundle::{Bundle, BundleStatus, RiskLevel, Source};
use domain::node::{HealthClass, Labels, Node, Presence, Standing};
use domain::project::{Project, Settings};
use domain::rollout::{Change, Clock, Counts, Head, Member, NodeState, Phase, Planned, Spec, Step, StepState, Told};
use domain::{
    Actor, ApiKeyId, AuditId, BundleId, Digest, KeyScope, NodeId, OrgId, ProjectId, RolloutId, Span, Timestamp, UserId,
};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use uuid::Uuid;

static COUNTER: AtomicU64 = AtomicU64::new(1);

/// The next id: a version 7 UUID in form, its time a counter.
pub fn id<T: From<Uuid>>() -> T {
    let n = COUNTER.fetch_add(1, Ordering::Relaxed);
    T::from(Uuid::from_u128((u128::from(n) << 80) | (7 << 76) | (2 << 62)))
}

/// Some time in 2026.
pub fn now() -> Timestamp {
    Timestamp(1_790_000_000_000_000)
}

pub fn write() -> Write {
    Write::at(now())
}

pub fn entry(project: Option<ProjectId>, action: &'static str) -> (AuditId, NewEntry) {
    let entry = NewEntry {
        actor: Actor::System,
        action,
        resource_type: "test",
        resource_id: Some(id()),
        project,
        changes: serde_json::json!({"n": 1, "ratio": 0.1, "text": "ä"}),
        request_id: None,
        ip: Some("192.0.2.1".into()),
    };
    (id(), entry)
}

pub fn org() -> Org {
    let id: OrgId = id();
    Org { id, name: format!("Org {id}"), slug: format!("org-{id}"), inserted_at: now() }
}

pub fn user(email: &str) -> User {
    User {
        id: id(),
        email: email.into(),
        password_hash: "$argon2id$x".into(),
        instance_admin: false,
        disabled_at: None,
        inserted_at: now(),
    }
}

pub fn api_key(org: OrgId, project: Option<ProjectId>) -> ApiKey {
    let id: ApiKeyId = id();
    ApiKey {
        id,
        org,
        project,
        name: "key".into(),
        prefix: "scp_ab".into(),
        key_hash: Digest::of(id.0.as_bytes()),
        scopes: vec![KeyScope::NodesRead, KeyScope::RolloutsWrite],
        created_by: None,
        last_used_at: None,
        expires_at: None,
        revoked_at: None,
        inserted_at: now(),
    }
}

pub fn project(org: OrgId) -> Project {
    let id: ProjectId = id();
    Project {
        id,
        org,
        name: "Edge".into(),
        slug: format!("p-{}", id.0.as_u128() >> 80),
        description: String::new(),
        settings: Settings::default(),
        inserted_at: now(),
        updated_at: now(),
    }
}

/// An adopted node that is online and has nothing.
pub fn node(p: &Project, name: &str) -> Node {
    let id: NodeId = id();
    Node {
        id,
        org: p.org,
        project: p.id,
        name: name.into(),
        standing: Standing::Adopted,
        key_hash: Digest::of(id.0.as_bytes()),
        credential_epoch: 1,
        labels: Labels::from([("env".to_string(), "prod".to_string())]),
        capabilities: vec!["reload".into()],
        version: Some("26.4.1".into()),
        ip: None,
        hostname: None,
        metadata: serde_json::json!({"zone": "a"}),
        presence: Presence::Online,
        health: HealthClass::Healthy,
        last_seen: Some(now()),
        instance: None,
        generation: 0,
        handed_over: 0,
        desired_bundle: None,
        desired_rollout: None,
        traffic_weight: 100,
        busy: None,
        clock_skew: None,
        active_bundle: None,
        staged_bundle: None,
        verified_bundle: None,
        pinned_bundle: None,
        last_error: None,
        inserted_at: now(),
        updated_at: now(),
    }
}

/// Being compiled.
pub fn bundle(project: ProjectId, version: Option<&str>) -> Bundle {
    Bundle {
        id: id(),
        project,
        version: version.map(String::from),
        status: BundleStatus::Compiling,
        desired_config: None,
        content_id: None,
        artifact_hash: None,
        size_bytes: None,
        manifest: None,
        config: None,
        signature: None,
        key_id: None,
        builder: "test".into(),
        source: Source::default(),
        resources: Default::default(),
        risk: RiskLevel::Low,
        risk_reasons: vec![],
        warnings: vec![],
        errors: vec![],
        created_at: now(),
        created_by: None,
        revoked_reason: None,
        updated_at: now(),
    }
}

pub fn compiled(id: BundleId) -> crate::Compiled {
    crate::Compiled {
        id,
        content_id: Digest::of(id.0.as_bytes()),
        artifact_hash: Some(Digest::of(b"archive")),
        size_bytes: Some(4_096),
        manifest: serde_json::json!({"schema_version": 1}),
        config: serde_json::json!({"routes": []}),
        signature: Some("c2ln".into()),
        key_id: Some("k1".into()),
        builder: "test".into(),
        risk: RiskLevel::Low,
        risk_reasons: vec!["no baseline".into()],
        warnings: vec![],
        status: BundleStatus::Compiled,
    }
}

pub fn head(phase: Phase) -> Head {
    Head {
        phase,
        causes: BTreeSet::new(),
        waits: BTreeSet::new(),
        step: 0,
        counts: Counts::default(),
        clock: Clock::default(),
        version: 0,
        planned: 0,
        online: 0,
        unavailable: 0,
        failures: 0,
        lane_open: 0,
        lane_halted: false,
        silent_window: None,
        note: None,
        started_at: None,
        ended_at: None,
        rollback_since: None,
        auto_rollback: false,
        restoring: 0,
        wake_at: None,
        revoked: false,
        analysis: None,
        shift: None,
        unweighed: 0,
        budget: Default::default(),
        asked: None,
    }
}

pub fn member(node: NodeId, position: u32) -> Member {
    Member {
        node,
        step: Some(0),
        position,
        attempt: 0,
        state: NodeState::Pending,
        generation: 0,
        told: Told::Nothing,
        previous: vec![],
        online: true,
        health: HealthClass::Healthy,
        handed_over: false,
        accepted: false,
        moved: Span::ZERO,
        silent_since: None,
        first_config: false,
        weight: 100,
        weighed: true,
    }
}

/// A pending rollout with one step of all these nodes.
pub fn planned(project: ProjectId, bundle: BundleId, nodes: &[NodeId]) -> Planned {
    let n = nodes.len() as u32;
    let step = Step {
        index: 0,
        state: StepState::Pending,
        size: n,
        cursor: 0,
        open: n,
        handed_over: false,
        started_at: None,
        completed_at: None,
        error: None,
    };
    let mut head = head(Phase::Pending);
    (head.planned, head.counts.total, head.counts.pending) = (n, n, n);
    Planned {
        id: id::<RolloutId>(),
        project,
        spec: Spec::new(bundle),
        head,
        steps: vec![step],
        members: nodes.iter().enumerate().map(|(i, node)| member(*node, i as u32)).collect(),
    }
}

/// An organisation with a project and `nodes` nodes, and a compiled bundle.
pub struct World {
    pub org: Org,
    pub project: Project,
    pub nodes: Vec<Node>,
    pub bundle: Bundle,
}

/// Fills an empty store. Panics when it refuses: only for tests.
pub async fn world(store: &Store, nodes: usize) -> World {
    fn must<T>(r: crate::Result<T>) -> T {
        r.unwrap_or_else(|e| panic!("seeding: {e}"))
    }
    let org = org();
    must(store.insert_org(org.clone(), write()).await);
    let project = project(org.id);
    must(store.insert_project(project.clone(), write()).await);
    let mut made = Vec::with_capacity(nodes);
    for i in 0..nodes {
        let n = node(&project, &format!("node-{i:05}"));
        must(store.register_node(None, n.clone(), write()).await);
        made.push(n);
    }
    let bundle = compiled_bundle(store, project.id, None).await;
    World { org, project, nodes: made, bundle }
}

/// A compiled bundle of its own content.
pub async fn compiled_bundle(store: &Store, project: ProjectId, version: Option<&str>) -> Bundle {
    let b = bundle(project, version);
    let input = Digest::of(b.id.0.as_bytes());
    let queued = store.enqueue_compile(b.clone(), input, write()).await.unwrap_or_else(|e| panic!("seeding: {e}"));
    assert!(queued.created);
    store.set_compiled(compiled(b.id), write()).await.unwrap_or_else(|e| panic!("seeding: {e}")).row
}

pub fn new_rollout(w: &World) -> NewRollout {
    let nodes: Vec<NodeId> = w.nodes.iter().map(|n| n.id).collect();
    NewRollout {
        origin: None,
        planned: planned(w.project.id, w.bundle.id, &nodes),
        org: w.org.id,
        created_by: Some(id::<UserId>()),
        created_by_key: None,
        options: serde_json::json!({}),
    }
}

/// A commit of `changes` and nothing else, on this version and fence.
pub fn commit(project: ProjectId, id: RolloutId, at: (u64, i64), changes: Vec<Change>) -> RolloutCommit {
    let (expect_version, fence) = at;
    RolloutCommit {
        id,
        project,
        expect_version,
        fence,
        events: vec![],
        changes,
        node_events: vec![],
        consumed_inbox: vec![],
        reports: vec![],
        budget: None,
    }
}
