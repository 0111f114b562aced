-- The first schema: every table the design names, also those that later commits fill.
-- Times are microseconds since the epoch (BIGINT). The SQLite twin of this file differs in types only;
-- tests/contract compares the two, column by column.

CREATE TABLE orgs (
    id UUID PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    slug TEXT NOT NULL,
    inserted_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    deleted_at BIGINT
);
CREATE UNIQUE INDEX orgs_slug ON orgs (slug) WHERE deleted_at IS NULL;

CREATE TABLE users (
    id UUID PRIMARY KEY NOT NULL,
    email TEXT NOT NULL,
    password_hash TEXT NOT NULL,
    instance_admin BOOLEAN NOT NULL,
    disabled_at BIGINT,
    inserted_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX users_email ON users (email);

CREATE TABLE memberships (
    user_id UUID NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    org_id UUID NOT NULL REFERENCES orgs (id) ON DELETE CASCADE,
    role TEXT NOT NULL,
    inserted_at BIGINT NOT NULL,
    PRIMARY KEY (user_id, org_id)
);
CREATE INDEX memberships_org ON memberships (org_id);

CREATE TABLE user_sessions (
    id UUID PRIMARY KEY NOT NULL,
    user_id UUID NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    token_hash BYTEA NOT NULL,
    csrf_hash BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    last_used_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX user_sessions_token ON user_sessions (token_hash);
CREATE INDEX user_sessions_user ON user_sessions (user_id);

CREATE TABLE projects (
    id UUID PRIMARY KEY NOT NULL,
    org_id UUID NOT NULL REFERENCES orgs (id),
    name TEXT NOT NULL,
    slug TEXT NOT NULL,
    description TEXT NOT NULL,
    settings JSON NOT NULL,
    inserted_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    deleted_at BIGINT
);
CREATE UNIQUE INDEX projects_slug ON projects (slug) WHERE deleted_at IS NULL;
CREATE INDEX projects_org ON projects (org_id);

CREATE TABLE api_keys (
    id UUID PRIMARY KEY NOT NULL,
    org_id UUID NOT NULL REFERENCES orgs (id),
    project_id UUID,
    name TEXT NOT NULL,
    prefix TEXT NOT NULL,
    key_hash BYTEA NOT NULL,
    scopes JSON NOT NULL,
    created_by UUID,
    last_used_at BIGINT,
    expires_at BIGINT,
    revoked_at BIGINT,
    inserted_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX api_keys_hash ON api_keys (key_hash);
CREATE INDEX api_keys_org ON api_keys (org_id);

CREATE TABLE enrolment_tokens (
    id UUID PRIMARY KEY NOT NULL,
    project_id UUID NOT NULL REFERENCES projects (id),
    name TEXT NOT NULL,
    token_hash BYTEA NOT NULL,
    max_uses BIGINT,
    uses BIGINT NOT NULL,
    labels JSON NOT NULL,
    allowed_label_keys JSON NOT NULL,
    allow_replace BOOLEAN NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT,
    created_by UUID,
    inserted_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX enrolment_tokens_hash ON enrolment_tokens (token_hash);
CREATE INDEX enrolment_tokens_project ON enrolment_tokens (project_id);

-- fillfactor: last-seen is rewritten every minute, and none of those columns is indexed, so the row stays on its page (HOT).
CREATE TABLE nodes (
    id UUID PRIMARY KEY NOT NULL,
    org_id UUID NOT NULL,
    project_id UUID NOT NULL,
    name TEXT NOT NULL,
    standing TEXT NOT NULL,
    key_hash BYTEA NOT NULL,
    credential_epoch BIGINT NOT NULL,
    labels JSON NOT NULL,
    capabilities JSON NOT NULL,
    version TEXT,
    ip TEXT,
    hostname TEXT,
    metadata JSON NOT NULL,
    presence TEXT NOT NULL,
    health TEXT NOT NULL,
    last_seen BIGINT,
    instance TEXT,
    generation BIGINT NOT NULL,
    handed_over BIGINT NOT NULL,
    desired_bundle UUID,
    desired_rollout UUID,
    traffic_weight BIGINT NOT NULL,
    active_bundle UUID,
    staged_bundle UUID,
    verified_bundle UUID,
    pinned_bundle UUID,
    last_error TEXT,
    inserted_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    deleted_at BIGINT
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX nodes_name ON nodes (project_id, name) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX nodes_key ON nodes (key_hash) WHERE deleted_at IS NULL;
CREATE INDEX nodes_active_bundle ON nodes (active_bundle) WHERE active_bundle IS NOT NULL;

CREATE TABLE node_history (
    seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    node_id UUID NOT NULL,
    project_id UUID NOT NULL,
    at BIGINT NOT NULL,
    bundle_id UUID,
    rollout_id UUID,
    generation BIGINT NOT NULL,
    outcome TEXT NOT NULL,
    detail TEXT
);
CREATE INDEX node_history_node ON node_history (node_id, seq);
CREATE INDEX node_history_bad ON node_history (project_id, bundle_id) WHERE outcome <> 'verified';

CREATE TABLE node_events (
    seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    node_id UUID NOT NULL,
    project_id UUID NOT NULL,
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    detail JSON NOT NULL,
    rollout_id UUID
);
CREATE INDEX node_events_node ON node_events (node_id, seq);

CREATE TABLE node_groups (
    id UUID PRIMARY KEY NOT NULL,
    project_id UUID NOT NULL REFERENCES projects (id),
    name TEXT NOT NULL,
    selector JSON,
    node_ids JSON NOT NULL,
    inserted_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX node_groups_name ON node_groups (project_id, name);

CREATE TABLE desired_configs (
    id UUID PRIMARY KEY NOT NULL,
    project_id UUID NOT NULL REFERENCES projects (id),
    source JSON NOT NULL,
    files JSON NOT NULL,
    input_hash BYTEA NOT NULL,
    inserted_at BIGINT NOT NULL
);
CREATE INDEX desired_configs_project ON desired_configs (project_id, id);

-- The compile queue is the rows with status 'compiling'. A row that found its content in another became an alias of it.
CREATE TABLE bundles (
    id UUID PRIMARY KEY NOT NULL,
    org_id UUID NOT NULL,
    project_id UUID NOT NULL REFERENCES projects (id),
    version TEXT,
    status TEXT NOT NULL,
    desired_config UUID,
    input_hash BYTEA,
    content_id BYTEA,
    artifact_hash BYTEA,
    size_bytes BIGINT,
    manifest JSON,
    config JSON,
    signature TEXT,
    key_id TEXT,
    builder TEXT NOT NULL,
    source JSON NOT NULL,
    risk TEXT NOT NULL,
    risk_reasons JSON NOT NULL,
    warnings JSON NOT NULL,
    errors JSON NOT NULL,
    created_at BIGINT NOT NULL,
    created_by UUID,
    revoked_reason TEXT,
    alias_of UUID,
    updated_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX bundles_content ON bundles (project_id, content_id) WHERE content_id IS NOT NULL;
CREATE UNIQUE INDEX bundles_version ON bundles (project_id, version) WHERE version IS NOT NULL AND status <> 'failed' AND alias_of IS NULL;
CREATE UNIQUE INDEX bundles_input ON bundles (project_id, input_hash) WHERE input_hash IS NOT NULL AND status <> 'failed' AND alias_of IS NULL;
CREATE INDEX bundles_queue ON bundles (id) WHERE status = 'compiling';
CREATE INDEX bundles_project ON bundles (project_id, id);

CREATE TABLE rollouts (
    id UUID PRIMARY KEY NOT NULL,
    org_id UUID NOT NULL,
    project_id UUID NOT NULL REFERENCES projects (id),
    bundle_id UUID NOT NULL,
    spec JSON NOT NULL,
    options JSON NOT NULL,
    state TEXT NOT NULL,
    causes JSON NOT NULL,
    head JSON NOT NULL,
    version BIGINT NOT NULL,
    lane_open BIGINT NOT NULL,
    auto_rollback BOOLEAN NOT NULL,
    steps BIGINT NOT NULL,
    start_at BIGINT,
    wake_at BIGINT,
    ended_at BIGINT,
    owner UUID,
    fence BIGINT NOT NULL,
    last_seq BIGINT NOT NULL,
    created_by UUID,
    created_by_key UUID,
    inserted_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX rollouts_project ON rollouts (project_id, id);
CREATE INDEX rollouts_living ON rollouts (state) WHERE state IN ('pending', 'running', 'paused', 'rolling_back');
CREATE INDEX rollouts_wake ON rollouts (wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX rollouts_bundle ON rollouts (bundle_id);
CREATE INDEX rollouts_owner ON rollouts (owner) WHERE owner IS NOT NULL;

CREATE TABLE rollout_steps (
    rollout_id UUID NOT NULL,
    step_index BIGINT NOT NULL,
    state TEXT NOT NULL,
    size BIGINT NOT NULL,
    next_node BIGINT NOT NULL,
    open BIGINT NOT NULL,
    handed_over BOOLEAN NOT NULL,
    started_at BIGINT,
    completed_at BIGINT,
    error TEXT,
    PRIMARY KEY (rollout_id, step_index)
);

CREATE TABLE rollout_nodes (
    rollout_id UUID NOT NULL,
    node_id UUID NOT NULL,
    step_index BIGINT,
    position BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    state TEXT NOT NULL,
    state_data JSON NOT NULL,
    generation BIGINT NOT NULL,
    told JSON NOT NULL,
    previous JSON NOT NULL,
    online BOOLEAN NOT NULL,
    health TEXT NOT NULL,
    handed_over BOOLEAN NOT NULL,
    accepted BOOLEAN NOT NULL,
    moved BIGINT NOT NULL,
    silent_since BIGINT,
    first_config BOOLEAN NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (rollout_id, node_id)
) WITH (fillfactor = 80);
CREATE INDEX rollout_nodes_node ON rollout_nodes (node_id);

CREATE TABLE active_rollout_nodes (
    node_id UUID PRIMARY KEY NOT NULL,
    rollout_id UUID NOT NULL
);
CREATE INDEX active_rollout_nodes_rollout ON active_rollout_nodes (rollout_id);

CREATE TABLE rollout_events (
    rollout_id UUID NOT NULL,
    seq BIGINT NOT NULL,
    at BIGINT NOT NULL,
    engine_version BIGINT NOT NULL,
    event JSON NOT NULL,
    decision_hash BYTEA NOT NULL,
    PRIMARY KEY (rollout_id, seq)
);

CREATE TABLE rollout_inbox (
    id UUID PRIMARY KEY NOT NULL,
    rollout_id UUID NOT NULL,
    at BIGINT NOT NULL,
    payload JSON NOT NULL
);
CREATE INDEX rollout_inbox_rollout ON rollout_inbox (rollout_id, id);

CREATE TABLE debts (
    node_id UUID PRIMARY KEY NOT NULL,
    rollout_id UUID NOT NULL,
    bundle_id UUID,
    restore BOOLEAN NOT NULL,
    at BIGINT NOT NULL
);
CREATE INDEX debts_rollout ON debts (rollout_id);

CREATE TABLE project_budget (
    project_id UUID PRIMARY KEY NOT NULL,
    reserved BIGINT NOT NULL
);

CREATE TABLE approvals (
    rollout_id UUID NOT NULL,
    user_id UUID NOT NULL,
    decision TEXT NOT NULL,
    comment TEXT,
    spec_hash BYTEA NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (rollout_id, user_id)
);

CREATE TABLE freeze_windows (
    id UUID PRIMARY KEY NOT NULL,
    org_id UUID NOT NULL,
    project_id UUID,
    environment_id UUID,
    name TEXT NOT NULL,
    reason TEXT NOT NULL,
    starts_at BIGINT NOT NULL,
    ends_at BIGINT,
    created_by UUID,
    inserted_at BIGINT NOT NULL
);
CREATE INDEX freeze_windows_project ON freeze_windows (project_id);

CREATE TABLE environments (
    id UUID PRIMARY KEY NOT NULL,
    project_id UUID NOT NULL REFERENCES projects (id),
    name TEXT NOT NULL,
    ordinal BIGINT NOT NULL,
    body JSON NOT NULL,
    inserted_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX environments_name ON environments (project_id, name);

CREATE TABLE rollout_templates (
    id UUID PRIMARY KEY NOT NULL,
    project_id UUID NOT NULL REFERENCES projects (id),
    name TEXT NOT NULL,
    ordinal BIGINT NOT NULL,
    body JSON NOT NULL,
    inserted_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX rollout_templates_name ON rollout_templates (project_id, name);

CREATE TABLE drift (
    id UUID PRIMARY KEY NOT NULL,
    project_id UUID NOT NULL,
    node_id UUID NOT NULL,
    expected UUID,
    found UUID,
    kind TEXT NOT NULL,
    detail JSON NOT NULL,
    detected_at BIGINT NOT NULL,
    resolved_at BIGINT,
    resolved_by UUID,
    resolution TEXT
);
CREATE UNIQUE INDEX drift_open ON drift (node_id) WHERE resolved_at IS NULL;
CREATE INDEX drift_project ON drift (project_id, id);

CREATE TABLE instances (
    id UUID PRIMARY KEY NOT NULL,
    epoch BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    listen TEXT NOT NULL,
    draining BOOLEAN NOT NULL
);

-- Read in order of (xid, seq) and only below the oldest running transaction: sequence numbers commit out of order.
CREATE TABLE changes (
    seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    xid BIGINT NOT NULL DEFAULT (pg_current_xact_id()::text::bigint),
    kind TEXT NOT NULL,
    id UUID NOT NULL,
    project_id UUID,
    version BIGINT NOT NULL,
    at BIGINT NOT NULL
);
CREATE INDEX changes_order ON changes (xid, seq);

CREATE TABLE audit_entries (
    chain UUID NOT NULL,
    seq BIGINT NOT NULL,
    id UUID NOT NULL,
    at BIGINT NOT NULL,
    actor_type TEXT NOT NULL,
    actor_id UUID,
    action TEXT NOT NULL,
    resource_type TEXT NOT NULL,
    resource_id UUID,
    project_id UUID,
    changes JSON NOT NULL,
    request_id UUID,
    ip TEXT,
    prev_hash BYTEA NOT NULL,
    hash BYTEA NOT NULL,
    PRIMARY KEY (chain, seq)
);
CREATE UNIQUE INDEX audit_entries_id ON audit_entries (id);
CREATE INDEX audit_entries_time ON audit_entries (at, id);
CREATE INDEX audit_entries_resource ON audit_entries (resource_id) WHERE resource_id IS NOT NULL;

CREATE TABLE audit_heads (
    chain UUID PRIMARY KEY NOT NULL,
    seq BIGINT NOT NULL,
    hash BYTEA NOT NULL
);

CREATE TABLE outbox (
    id UUID PRIMARY KEY NOT NULL,
    channel TEXT NOT NULL,
    project_id UUID,
    payload JSON NOT NULL,
    attempts BIGINT NOT NULL,
    next_at BIGINT NOT NULL,
    error TEXT,
    inserted_at BIGINT NOT NULL
);
CREATE INDEX outbox_next ON outbox (next_at);

CREATE TABLE idempotency_keys (
    credential TEXT NOT NULL,
    route TEXT NOT NULL,
    idem_key TEXT NOT NULL,
    body_hash BYTEA NOT NULL,
    status BIGINT NOT NULL,
    response JSON NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (credential, route, idem_key)
);
CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_at);

CREATE TABLE signing_keys (
    id UUID PRIMARY KEY NOT NULL,
    org_id UUID,
    role TEXT NOT NULL,
    key_id TEXT NOT NULL,
    public BYTEA NOT NULL,
    private BYTEA,
    status TEXT NOT NULL,
    inserted_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX signing_keys_key ON signing_keys (role, key_id);

-- org_id is the nil UUID for the installation itself.
CREATE TABLE trust_versions (
    org_id UUID NOT NULL,
    version BIGINT NOT NULL,
    body JSON NOT NULL,
    inserted_at BIGINT NOT NULL,
    PRIMARY KEY (org_id, version)
);

CREATE TABLE releases (
    id UUID PRIMARY KEY NOT NULL,
    project_id UUID NOT NULL,
    environment_id UUID,
    bundle_id UUID NOT NULL,
    sequence BIGINT NOT NULL,
    body JSON NOT NULL,
    inserted_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX releases_sequence ON releases (project_id, sequence);

CREATE TABLE settings (
    key TEXT PRIMARY KEY NOT NULL,
    value JSON NOT NULL,
    updated_at BIGINT NOT NULL
);
