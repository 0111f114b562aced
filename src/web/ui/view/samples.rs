//! Every page, filled with hostile text wherever text can come from outside: what the tests look at.

use super::parts::*;
use super::*;
use domain::access::{ApiKey, KeyScope, Role};
use domain::audit::{Entry, Head as AuditHead, NewEntry, Verdict};
use domain::bundle::{Bundle, BundleStatus, Diagnostic, RiskLevel, Source};
use domain::node::{HealthClass, HistoryEntry, HistoryOutcome, Labels, Node, Presence, Standing};
use domain::rollout::{Clock, Counts, Head, NodeStateKind, PauseCause, Phase, Spec, Step, StepState, Wait};
use domain::{
    Actor, ApiKeyId, AuditId, BundleId, Digest, NodeId, OrgId, ProjectId, RolloutId, Span, Timestamp, UserId,
};
use serde_json::json;
use std::collections::BTreeSet;
use uuid::Uuid;

/// Closes an attribute, opens a tag, is an entity, ends a script.
pub const EVIL: &str = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>&amp;</textarea></title>";
pub const NOW: Timestamp = Timestamp(1_795_296_900_000_000);
pub const TOKEN: &str = "csrf-token-of-this-session";

pub fn uuid(n: u128) -> Uuid {
    Uuid::from_u128(0x0190_b5a0_6bfa_7cc0_9d4c_0000_0000_0000 + n)
}

pub fn frame() -> Frame {
    let yes = May {
        instances: true,
        nodes_write: true,
        bundles_write: true,
        rollouts_write: true,
        projects_write: true,
        audit_read: true,
        keys_read: true,
        keys_admin: true,
    };
    Frame {
        now: NOW,
        user: Some(EVIL.into()),
        csrf: TOKEN.into(),
        project: Some(ProjectName { slug: EVIL.into(), name: EVIL.into() }),
        flash: Some(Flash::RolloutPaused),
        may: yes,
        assets: "v",
        ..Frame::default()
    }
}

fn labels() -> Labels {
    Labels::from([
        (EVIL.into(), EVIL.into()),
        ("a".into(), EVIL.into()),
        ("b".into(), "x".into()),
        ("c".into(), EVIL.into()),
    ])
}

pub fn node_row() -> Node {
    Node {
        id: NodeId(uuid(1)),
        org: OrgId(uuid(2)),
        project: ProjectId(uuid(3)),
        name: EVIL.into(),
        standing: Standing::Quarantined,
        key_hash: Digest::ZERO,
        credential_epoch: 1,
        labels: labels(),
        capabilities: vec![EVIL.into()],
        version: Some(EVIL.into()),
        ip: Some(EVIL.into()),
        hostname: Some(EVIL.into()),
        metadata: json!({EVIL: EVIL}),
        presence: Presence::Offline,
        health: HealthClass::Unhealthy,
        last_seen: Some(NOW - Span::secs(90)),
        instance: Some(EVIL.into()),
        generation: 7,
        handed_over: 6,
        desired_bundle: Some(BundleId(uuid(4))),
        desired_rollout: Some(RolloutId(uuid(5))),
        traffic_weight: 100,
        busy: None,
        clock_skew: Some(Span::secs(-90)),
        active_bundle: Some(BundleId(uuid(6))),
        staged_bundle: Some(BundleId(uuid(4))),
        verified_bundle: Some(BundleId(uuid(6))),
        pinned_bundle: Some(BundleId(uuid(6))),
        last_error: Some(EVIL.into()),
        inserted_at: NOW - Span::secs(86_400 * 5),
        updated_at: NOW,
    }
}

pub fn bundle_row(status: BundleStatus) -> Bundle {
    let diagnostic = Diagnostic { text: EVIL.into(), file: Some(EVIL.into()), line: Some(2), column: Some(5) };
    Bundle {
        id: BundleId(uuid(4)),
        project: ProjectId(uuid(3)),
        version: Some(EVIL.into()),
        status,
        desired_config: None,
        content_id: Some(Digest::of(b"x")),
        artifact_hash: Some(Digest::of(b"y")),
        size_bytes: Some(12_345),
        manifest: Some(json!({EVIL: EVIL})),
        config: Some(json!({EVIL: EVIL})),
        signature: Some("c2ln".into()),
        key_id: Some(EVIL.into()),
        builder: EVIL.into(),
        source: Source { kind: EVIL.into(), reference: Some(EVIL.into()) },
        resources: Default::default(),
        risk: RiskLevel::High,
        risk_reasons: vec![EVIL.into()],
        warnings: vec![diagnostic.clone()],
        errors: vec![diagnostic],
        created_at: NOW - Span::secs(5_000),
        created_by: None,
        revoked_reason: Some(EVIL.into()),
        updated_at: NOW,
    }
}

pub fn names() -> BundleNames {
    let evil = BundleName { version: Some(EVIL.into()), content: Some(EVIL.into()) };
    BundleNames([(BundleId(uuid(4)), evil), (BundleId(uuid(6)), BundleName::default())].into())
}

pub fn counts() -> Counts {
    Counts { total: 30, pending: 10, assigned: 4, verified: 9, failed: 2, owed: 3, skipped: 2, ..Counts::default() }
}

fn head(phase: Phase) -> Head {
    Head {
        revoked: false,
        analysis: None,
        shift: None,
        unweighed: 0,
        phase,
        causes: BTreeSet::from([PauseCause::Gate]),
        waits: BTreeSet::from([Wait::Artifact]),
        step: 1,
        counts: counts(),
        clock: Clock::default(),
        version: 41,
        planned: 30,
        online: 26,
        unavailable: 4,
        failures: 2,
        restoring: 0,
        lane_open: 0,
        budget: Default::default(),
        asked: None,
        lane_halted: false,
        silent_window: None,
        note: Some(EVIL.into()),
        started_at: Some(NOW - Span::secs(300)),
        ended_at: None,
        rollback_since: None,
        auto_rollback: false,
        wake_at: None,
    }
}

pub fn rollout_view(phase: Phase) -> rollout::RolloutView {
    let step = |index, state| Step {
        index,
        state,
        size: 10,
        cursor: 4,
        open: 3,
        handed_over: true,
        started_at: Some(NOW - Span::secs(200)),
        completed_at: None,
        error: Some(EVIL.into()),
    };
    let mut spec = Spec::new(BundleId(uuid(4)));
    spec.selector = domain::node::Selector::Labels { labels: labels() };
    rollout::RolloutView {
        slug: EVIL.into(),
        id: RolloutId(uuid(5)),
        spec,
        head: head(phase),
        steps: vec![step(0, StepState::Completed), step(1, StepState::Running), step(2, StepState::Pending)],
        reason_code: EVIL.into(),
        reason: EVIL.into(),
        names: names(),
        created_by: EVIL.into(),
        inserted_at: NOW,
        path: format!("/projects/p/rollouts/{}", uuid(5)),
        approvals: None,
        all_steps: false,
        failures: vec![outcome::Failure { node: NodeId(uuid(6)), name: EVIL.into(), at: NOW, why: EVIL.into() }],
    }
}

pub fn rollout_row() -> rollouts::RolloutRow {
    rollouts::RolloutRow {
        id: uuid(5).to_string(),
        phase: Phase::Paused,
        counts: counts(),
        bundle: EVIL.into(),
        strategy: "rolling",
        reason: EVIL.into(),
        inserted_at: NOW,
    }
}

pub fn members() -> rollout::MembersView {
    rollout::MembersView {
        slug: EVIL.into(),
        rows: vec![rollout::MemberRow {
            node: NodeId(uuid(1)),
            name: EVIL.into(),
            step: Some(1),
            state: NodeStateKind::Failed,
            detail: EVIL.into(),
            attempt: 2,
            online: true,
            health: "healthy",
            updated_at: NOW,
        }],
        total: 1,
        state: EVIL.into(),
        step: EVIL.into(),
        src: "/x?state=a".into(),
        path: "/x".into(),
        ..Default::default()
    }
}

pub fn timeline() -> rollout::TimelineView {
    let line = rollout::TimelineLine { at: NOW, action: EVIL.into(), actor: EVIL.into(), detail: EVIL.into() };
    rollout::TimelineView {
        slug: EVIL.into(),
        lines: vec![line],
        more: 3,
        path: "/x".into(),
        id: "i".into(),
        version: 1,
    }
}

fn entry() -> Entry {
    let new = NewEntry {
        actor: Actor::User(UserId(uuid(9))),
        action: "rollout.paused",
        resource_type: "rollout",
        resource_id: Some(uuid(5)),
        project: Some(ProjectId(uuid(3))),
        changes: json!({"note": EVIL, EVIL: EVIL}),
        request_id: None,
        ip: Some(EVIL.into()),
    };
    Entry::chain(new, AuditHead::EMPTY, AuditId::NIL, NOW)
}

pub fn organisation(may: bool) -> people::OrgView {
    let member = |role| people::MemberLine { id: EVIL.into(), email: EVIL.into(), role, disabled: true, since: NOW };
    people::OrgView {
        id: EVIL.into(),
        name: EVIL.into(),
        may,
        members: vec![member(Role::Admin), member(Role::Reader)],
        invitations: vec![people::InvitationLine {
            id: EVIL.into(),
            email: EVIL.into(),
            role: Role::Operator,
            expires_at: NOW,
        }],
    }
}

fn compared() -> crate::compare::Compared {
    use ::bundle::diff::{Change, Field, Kind};
    let change = |change| Change {
        thing: EVIL.into(),
        name: EVIL.into(),
        change,
        fields: vec![Field { path: EVIL.into(), from: Some(json!(EVIL)), to: None }],
    };
    crate::compare::Compared {
        changes: vec![change(Kind::Added), change(Kind::Removed), change(Kind::Changed)],
        truncated: true,
        risk: ::bundle::risk::Risk {
            level: RiskLevel::High,
            reasons: vec![EVIL.into()],
            restart_class: true,
            restart_reasons: vec![EVIL.into()],
        },
        text: EVIL.into(),
    }
}

pub fn resources_view() -> resources::ResourcesView {
    resources::ResourcesView {
        slug: EVIL.into(),
        resources: vec![store::Resource {
            id: uuid(11),
            project: ProjectId(uuid(3)),
            path: EVIL.into(),
            hash: Digest::ZERO,
            size_bytes: 5_000,
            inserted_at: NOW,
            updated_at: NOW,
        }],
        path: EVIL.into(),
        text: EVIL.into(),
        errors: vec![(EVIL.into(), vec![EVIL.into()])],
        error: None,
    }
}

pub fn rules_view() -> resources::RulesView {
    resources::RulesView {
        slug: EVIL.into(),
        required: EVIL.into(),
        forbidden: EVIL.into(),
        schema: EVIL.into(),
        secrets: EVIL.into(),
        strict: true,
        errors: vec![],
        error: Some(EVIL.into()),
    }
}

pub fn retention_view() -> retention::RetentionView {
    retention::RetentionView {
        slug: EVIL.into(),
        keep: EVIL.into(),
        bundles: vec![bundle_row(BundleStatus::Compiled), bundle_row(BundleStatus::Failed)],
    }
}

pub fn trust_view(may_admin: bool) -> trust::TrustView {
    use ::bundle::keys::{KeyPair, Role};
    let role = |role: Role| {
        let public = KeyPair::from_secret(role, &[1; 32]).public();
        let key = actors::commands::trust::KeyInfo {
            id: domain::SigningKeyId(uuid(12)),
            role,
            key_id: EVIL.into(),
            public,
            listed: true,
            on_server: true,
            exported_at: Some(NOW),
            inserted_at: NOW,
        };
        trust::RoleView { role, threshold: 1, keys: vec![key] }
    };
    trust::TrustView {
        slug: EVIL.into(),
        org: EVIL.into(),
        version: 3,
        expires_at: NOW,
        roles: vec![role(Role::Root), role(Role::Bundle), role(Role::Metadata)],
        origins: vec![EVIL.into()],
        releases_required: true,
        releases: vec![trust::ReleaseLine {
            bundle: BundleId(uuid(4)),
            content: EVIL.into(),
            sequence: 2,
            floor: 1,
            revoked: 0,
            expires_at: NOW,
        }],
        may_admin,
        exported: Some(trust::Exported { key_id: EVIL.into(), private_key: EVIL.into() }),
        error: Some(EVIL.into()),
        errors: vec![(EVIL.into(), vec![EVIL.into()])],
    }
}

/// Every page, filled with hostile text wherever text can come from outside.
pub fn pages() -> Vec<(&'static str, String)> {
    let f = frame();
    let s = |m: Markup| m.into_string();
    let verdict =
        Verdict { valid: false, entries: 3, first_bad_seq: Some(4), reason: Some(EVIL.into()), uncompared: 0 };
    let filter = audit::AuditFilter {
        action: EVIL.into(),
        actor: EVIL.into(),
        since: EVIL.into(),
        until: EVIL.into(),
        resource: EVIL.into(),
    };
    let made = access::Made { name: EVIL.into(), text: EVIL.into() };
    let link = people::Link { email: EVIL.into(), url: EVIL.into() };
    let messages = vec![Diagnostic { text: EVIL.into(), file: None, line: Some(1), column: None }];
    vec![
        (
            "sign_in",
            s(entry::sign_in(
                &f,
                &entry::SignInView { next: EVIL.into(), error: Some(EVIL.into()), email: EVIL.into() },
            )),
        ),
        (
            "error",
            s(entry::error(
                &f,
                &entry::ErrorView {
                    status: 422,
                    title: EVIL.into(),
                    detail: EVIL.into(),
                    errors: vec![(EVIL.into(), vec![EVIL.into(), EVIL.into()])],
                    request_id: Some(EVIL.into()),
                    back: Some(EVIL.into()),
                },
            )),
        ),
        (
            "overview",
            s(overview::page(
                &f,
                &overview::OverviewView {
                    projects: vec![overview::ProjectCard {
                        name: EVIL.into(),
                        slug: EVIL.into(),
                        description: EVIL.into(),
                        nodes: 3,
                        online: 1,
                        offline: 2,
                        quarantined: 1,
                        rollouts: vec![overview::RolloutLine {
                            id: EVIL.into(),
                            phase: Phase::Paused,
                            counts: counts(),
                            bundle: EVIL.into(),
                            reason: EVIL.into(),
                        }],
                        more_rollouts: 1,
                        bundles: vec![overview::BundleLine {
                            id: EVIL.into(),
                            name: EVIL.into(),
                            status: BundleStatus::Failed,
                            risk: RiskLevel::High,
                            created_at: NOW,
                        }],
                    }],
                    total: 1,
                    next: Some(EVIL.into()),
                    first: Some(EVIL.into()),
                    src: EVIL.into(),
                },
            )),
        ),
        (
            "nodes",
            s(nodes::page(
                &f,
                &nodes::NodesView {
                    slug: EVIL.into(),
                    nodes: vec![node_row()],
                    names: names(),
                    total: 1,
                    next: Some(EVIL.into()),
                    first: Some(EVIL.into()),
                    src: EVIL.into(),
                    filter: nodes::Filter {
                        status: EVIL.into(),
                        standing: EVIL.into(),
                        label: EVIL.into(),
                        q: EVIL.into(),
                    },
                    error: Some(EVIL.into()),
                    ..Default::default()
                },
            )),
        ),
        (
            "node",
            s(node::page(
                &f,
                &node::NodeView {
                    slug: EVIL.into(),
                    node: node_row(),
                    names: names(),
                    history: vec![HistoryEntry {
                        node: NodeId(uuid(1)),
                        at: NOW,
                        bundle: Some(BundleId(uuid(4))),
                        rollout: Some(RolloutId(uuid(5))),
                        generation: 3,
                        outcome: HistoryOutcome::Failed,
                        detail: Some(EVIL.into()),
                    }],
                    events: vec![node::EventLine {
                        at: NOW,
                        kind: EVIL.into(),
                        text: EVIL.into(),
                        logs: Some(EVIL.into()),
                        rollout: Some(EVIL.into()),
                    }],
                    explain: vec![EVIL.into()],
                    src: EVIL.into(),
                },
            )),
        ),
        (
            "bundles",
            s(bundles::page(
                &f,
                &bundles::BundlesView {
                    slug: EVIL.into(),
                    bundles: vec![bundle_row(BundleStatus::Compiled)],
                    total: 1,
                    status: EVIL.into(),
                    next: Some(EVIL.into()),
                    first: Some(EVIL.into()),
                    src: EVIL.into(),
                },
            )),
        ),
        (
            "bundle",
            s(bundle::page(
                &f,
                &bundle::BundleView {
                    slug: EVIL.into(),
                    bundle: bundle_row(BundleStatus::Compiled),
                    files: vec![(EVIL.into(), format!("a\n{EVIL}\n"))],
                    running_on: 3,
                    desired_on: 4,
                    rollouts: vec![rollout_row()],
                    src: EVIL.into(),
                },
            )),
        ),
        (
            "new bundle",
            s(bundles::new_page(
                &f,
                &bundles::NewBundleView {
                    slug: EVIL.into(),
                    version: EVIL.into(),
                    config: format!("{EVIL}\n{EVIL}"),
                    error: Some(EVIL.into()),
                    messages,
                    max_bytes: 1_000,
                },
            )),
        ),
        (
            "rollouts",
            s(rollouts::page(
                &f,
                &rollouts::RolloutsView {
                    slug: EVIL.into(),
                    rollouts: vec![rollout_row()],
                    total: 1,
                    state: EVIL.into(),
                    next: Some(EVIL.into()),
                    first: Some(EVIL.into()),
                    src: EVIL.into(),
                },
            )),
        ),
        ("rollout", s(rollout::page(&f, &rollout_view(Phase::Paused), &members(), &timeline()))),
        (
            "new rollout",
            s(rollout_new::page(
                &f,
                &rollout_new::NewRolloutView {
                    slug: EVIL.into(),
                    form: rollout_new::Form { labels: EVIL.into(), batch_size: EVIL.into(), ..Default::default() },
                    bundles: vec![(EVIL.into(), EVIL.into())],
                    errors: vec![(EVIL.into(), vec![EVIL.into()])],
                    error: Some(EVIL.into()),
                    plan: Some(rollout_new::PlanView {
                        steps: vec![rollout_new::PlanStep { size: 9, nodes: vec![EVIL.into()] }],
                        excluded: vec![(EVIL.into(), EVIL.into())],
                        warnings: vec![EVIL.into()],
                        ..Default::default()
                    }),
                },
            )),
        ),
        (
            "audit",
            s(audit::page(
                &f,
                &audit::AuditView {
                    path: "/audit".into(),
                    entries: vec![entry()],
                    total: 1,
                    filter,
                    error: Some(EVIL.into()),
                    next: Some(EVIL.into()),
                    first: Some(EVIL.into()),
                    verdict: Some(verdict),
                    actors: [(uuid(9).to_string(), EVIL.into())].into(),
                    projects: [(uuid(3).to_string(), EVIL.into())].into(),
                    exports: vec![("JSON", EVIL.into())],
                },
            )),
        ),
        (
            "changes",
            s(diff::page(
                &f,
                &diff::DiffView {
                    slug: EVIL.into(),
                    to: bundle_row(BundleStatus::Compiled),
                    from: Some(bundle_row(BundleStatus::Compiled)),
                    others: vec![(EVIL.into(), EVIL.into())],
                    against: EVIL.into(),
                    compared: Some(compared()),
                    as_text: false,
                    files: vec![diff::FileDiff {
                        path: EVIL.into(),
                        lines: Some(vec![diff::Line::Added(EVIL.into()), diff::Line::Removed(EVIL.into())]),
                    }],
                },
            )),
        ),
        (
            "people",
            s(people::people(&f, &people::PeopleView { orgs: vec![organisation(true)], made: Some(link.clone()) })),
        ),
        (
            "users",
            s(people::users(
                &f,
                &people::UsersView {
                    users: vec![people::UserLine {
                        id: EVIL.into(),
                        email: EVIL.into(),
                        instance_admin: true,
                        disabled: true,
                        inserted_at: NOW,
                    }],
                    total: 1,
                    next: Some(EVIL.into()),
                    first: Some(EVIL.into()),
                    made: Some(link),
                },
            )),
        ),
        ("account", s(people::account(&f, Some(EVIL)))),
        (
            "policy",
            s(policy::page(
                &f,
                &policy::PolicyView {
                    slug: EVIL.into(),
                    freezes: vec![policy::FreezeLine {
                        id: EVIL.into(),
                        name: EVIL.into(),
                        reason: EVIL.into(),
                        environment: Some(EVIL.into()),
                        starts_at: NOW,
                        ends_at: None,
                        holds: true,
                        own: true,
                    }],
                    environments: vec![policy::EnvironmentLine {
                        id: EVIL.into(),
                        name: EVIL.into(),
                        slug: EVIL.into(),
                        selector: EVIL.into(),
                        people: 2,
                    }],
                    templates: vec![policy::TemplateLine {
                        id: EVIL.into(),
                        name: EVIL.into(),
                        settings: json!({EVIL: EVIL}),
                    }],
                    errors: vec![(EVIL.into(), vec![EVIL.into()])],
                    error: Some(EVIL.into()),
                },
            )),
        ),
        (
            "drift",
            s(drift::page(
                &f,
                &drift::DriftView {
                    slug: EVIL.into(),
                    rows: vec![drift::DriftLine {
                        id: EVIL.into(),
                        node: NodeId(uuid(1)),
                        name: EVIL.into(),
                        expected: Some(BundleId(uuid(4))),
                        found: None,
                        severity: domain::node::drift::Severity::High,
                        detected_at: NOW,
                        ended: None,
                    }],
                    total: 1,
                    status: "open".into(),
                    names: names(),
                    by_itself: true,
                    next: Some(EVIL.into()),
                    first: Some(EVIL.into()),
                    src: "/x".into(),
                },
            )),
        ),
        ("approvals", {
            let approvals = approvals::ApprovalsView {
                needed: 2,
                standing: EVIL.into(),
                votes: vec![approvals::VoteLine {
                    who: EVIL.into(),
                    approves: false,
                    comment: EVIL.into(),
                    at: NOW,
                    stale: true,
                }],
                refused: None,
            };
            let view = rollout::RolloutView { approvals: Some(approvals), ..rollout_view(Phase::Pending) };
            s(rollout::page(&f, &view, &members(), &timeline()))
        }),
        (
            "changes_as_text",
            s(diff::page(
                &f,
                &diff::DiffView {
                    slug: EVIL.into(),
                    to: bundle_row(BundleStatus::Compiled),
                    from: Some(bundle_row(BundleStatus::Compiled)),
                    others: vec![],
                    against: "fleet".into(),
                    compared: Some(compared()),
                    as_text: true,
                    files: vec![],
                },
            )),
        ),
        ("resources", s(resources::resources(&f, &resources_view()))),
        ("rules", s(resources::rules(&f, &rules_view()))),
        ("retention", s(retention::page(&f, &retention_view(), Some(EVIL), &[(EVIL.into(), vec![EVIL.into()])]))),
        ("trust", s(trust::page(&f, &trust_view(true)))),
        (
            "settings",
            s(settings::page(
                &f,
                &settings::SettingsView {
                    slug: EVIL.into(),
                    name: EVIL.into(),
                    description: EVIL.into(),
                    errors: vec![(EVIL.into(), vec![EVIL.into()])],
                    error: Some(EVIL.into()),
                    ..Default::default()
                },
            )),
        ),
        (
            "instances",
            s(instances::page(
                &f,
                &[instances::InstanceLine {
                    id: uuid(7).to_string(),
                    listen: EVIL.into(),
                    epoch: 3,
                    started_at: NOW,
                    expires_at: NOW,
                    draining: true,
                    this: true,
                    rollouts: 2,
                    shown: vec![instances::OwnedRollout { slug: EVIL.into(), id: uuid(5).to_string() }],
                }],
            )),
        ),
        (
            "events",
            s(events::page(
                &f,
                &events::EventsView {
                    slug: EVIL.into(),
                    rollout: "/x".into(),
                    bundle: EVIL.into(),
                    rows: vec![events::EventRow { seq: 1, at: NOW, name: EVIL.into(), event: json!({EVIL: EVIL}) }],
                    total: 1,
                    next: Some(EVIL.into()),
                    first: Some(EVIL.into()),
                },
            )),
        ),
        (
            "tokens",
            s(access::tokens(
                &f,
                &access::TokensView {
                    slug: EVIL.into(),
                    tokens: vec![access::TokenLine {
                        id: EVIL.into(),
                        name: EVIL.into(),
                        uses: 1,
                        max_uses: Some(2),
                        labels: labels(),
                        allow_replace: true,
                        expires_at: Some(NOW),
                        inserted_at: NOW,
                    }],
                    made: Some(made.clone()),
                    public_url: EVIL.into(),
                },
            )),
        ),
        (
            "keys",
            s(access::keys(
                &f,
                &access::KeysView {
                    slug: EVIL.into(),
                    keys: vec![ApiKey {
                        id: ApiKeyId(uuid(8)),
                        org: OrgId(uuid(2)),
                        project: None,
                        name: EVIL.into(),
                        prefix: EVIL.into(),
                        key_hash: Digest::ZERO,
                        scopes: vec![KeyScope::NodesRead],
                        created_by: None,
                        last_used_at: None,
                        expires_at: None,
                        revoked_at: None,
                        inserted_at: NOW,
                    }],
                    made: Some(made),
                },
            )),
        ),
    ]
}
