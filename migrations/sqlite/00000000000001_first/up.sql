-- The first schema: every table the design names, also those that later commits fill.
-- Times are microseconds since the epoch (BIGINT), UUIDs 16-byte BLOBs, JSON text. The PostgreSQL twin of this file differs in types only;
-- tests/contract compares the two, column by column.

CREATE TABLE orgs (
    id BLOB PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    slug TEXT NOT NULL,
    inserted_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    deleted_at BIGINT
);
CREATE UNIQUE INDEX orgs_slug ON orgs (slug) WHERE deleted_at IS NULL;

CREATE TABLE users (
    id BLOB PRIMARY KEY NOT NULL,
    email TEXT NOT NULL,
    password_hash TEXT NOT NULL,
    instance_admin BOOLEAN NOT NULL,
    disabled_at BIGINT,
    inserted_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX users_email ON users (email);

CREATE TABLE memberships (
    user_id BLOB NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    org_id BLOB NOT NULL REFERENCES orgs (id) ON DELETE CASCADE,
    role TEXT NOT NULL,
    inserted_at BIGINT NOT NULL,
    PRIMARY KEY (user_id, org_id)
) WITHOUT ROWID;
CREATE INDEX memberships_org ON memberships (org_id);

CREATE TABLE user_sessions (
    id BLOB PRIMARY KEY NOT NULL,
    user_id BLOB NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    token_hash BLOB NOT NULL,
    csrf_hash BLOB NOT NULL,
    created_at BIGINT NOT NULL,
    last_used_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX user_sessions_token ON user_sessions (token_hash);
CREATE INDEX user_sessions_user ON user_sessions (user_id);

CREATE TABLE projects (
    id BLOB PRIMARY KEY NOT NULL,
    org_id BLOB NOT NULL REFERENCES orgs (id),
    name TEXT NOT NULL,
    slug TEXT NOT NULL,
    description TEXT NOT NULL,
    settings TEXT NOT NULL,
    inserted_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    deleted_at BIGINT
);
CREATE UNIQUE INDEX projects_slug ON projects (slug) WHERE deleted_at IS NULL;
CREATE INDEX projects_org ON projects (org_id);

CREATE TABLE api_keys (
    id BLOB PRIMARY KEY NOT NULL,
    org_id BLOB NOT NULL REFERENCES orgs (id),
    project_id BLOB,
    name TEXT NOT NULL,
    prefix TEXT NOT NULL,
    key_hash BLOB NOT NULL,
    scopes TEXT NOT NULL,
    created_by BLOB,
    last_used_at BIGINT,
    expires_at BIGINT,
    revoked_at BIGINT,
    inserted_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX api_keys_hash ON api_keys (key_hash);
CREATE INDEX api_keys_org ON api_keys (org_id);

CREATE TABLE enrolment_tokens (
    id BLOB PRIMARY KEY NOT NULL,
    project_id BLOB NOT NULL REFERENCES projects (id),
    name TEXT NOT NULL,
    token_hash BLOB NOT NULL,
    max_uses BIGINT,
    uses BIGINT NOT NULL,
    labels TEXT NOT NULL,
    allowed_label_keys TEXT NOT NULL,
    allow_replace BOOLEAN NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT,
    created_by BLOB,
    inserted_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX enrolment_tokens_hash ON enrolment_tokens (token_hash);
CREATE INDEX enrolment_tokens_project ON enrolment_tokens (project_id);

CREATE TABLE nodes (
    id BLOB PRIMARY KEY NOT NULL,
    org_id BLOB NOT NULL,
    project_id BLOB NOT NULL,
    name TEXT NOT NULL,
    standing TEXT NOT NULL,
    key_hash BLOB NOT NULL,
    credential_epoch BIGINT NOT NULL,
    labels TEXT NOT NULL,
    capabilities TEXT NOT NULL,
    version TEXT,
    ip TEXT,
    hostname TEXT,
    metadata TEXT NOT NULL,
    presence TEXT NOT NULL,
    health TEXT NOT NULL,
    last_seen BIGINT,
    instance TEXT,
    generation BIGINT NOT NULL,
    handed_over BIGINT NOT NULL,
    desired_bundle BLOB,
    desired_rollout BLOB,
    traffic_weight BIGINT NOT NULL,
    active_bundle BLOB,
    staged_bundle BLOB,
    verified_bundle BLOB,
    pinned_bundle BLOB,
    last_error TEXT,
    inserted_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    deleted_at BIGINT
);
CREATE UNIQUE INDEX nodes_name ON nodes (project_id, name) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX nodes_key ON nodes (key_hash) WHERE deleted_at IS NULL;
CREATE INDEX nodes_active_bundle ON nodes (active_bundle) WHERE active_bundle IS NOT NULL;

CREATE TABLE node_history (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    node_id BLOB NOT NULL,
    project_id BLOB NOT NULL,
    at BIGINT NOT NULL,
    bundle_id BLOB,
    rollout_id BLOB,
    generation BIGINT NOT NULL,
    outcome TEXT NOT NULL,
    detail TEXT
);
CREATE INDEX node_history_node ON node_history (node_id, seq);
CREATE INDEX node_history_bad ON node_history (project_id, bundle_id) WHERE outcome <> 'verified';

CREATE TABLE node_events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    node_id BLOB NOT NULL,
    project_id BLOB NOT NULL,
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    detail TEXT NOT NULL,
    rollout_id BLOB
);
CREATE INDEX node_events_node ON node_events (node_id, seq);

CREATE TABLE node_groups (
    id BLOB PRIMARY KEY NOT NULL,
    project_id BLOB NOT NULL REFERENCES projects (id),
    name TEXT NOT NULL,
    selector TEXT,
    node_ids TEXT NOT NULL,
    inserted_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX node_groups_name ON node_groups (project_id, name);

CREATE TABLE desired_configs (
    id BLOB PRIMARY KEY NOT NULL,
    project_id BLOB NOT NULL REFERENCES projects (id),
    source TEXT NOT NULL,
    files TEXT NOT NULL,
    input_hash BLOB NOT NULL,
    inserted_at BIGINT NOT NULL
);
CREATE INDEX desired_configs_project ON desired_configs (project_id, id);

-- The compile queue is the rows with status 'compiling'. A row that found its content in another became an alias of it.
CREATE TABLE bundles (
    id BLOB PRIMARY KEY NOT NULL,
    org_id BLOB NOT NULL,
    project_id BLOB NOT NULL REFERENCES projects (id),
    version TEXT,
    status TEXT NOT NULL,
    desired_config BLOB,
    input_hash BLOB,
    content_id BLOB,
    artifact_hash BLOB,
    size_bytes BIGINT,
    manifest TEXT,
    config TEXT,
    signature TEXT,
    key_id TEXT,
    builder TEXT NOT NULL,
    source TEXT NOT NULL,
    risk TEXT NOT NULL,
    risk_reasons TEXT NOT NULL,
    warnings TEXT NOT NULL,
    errors TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by BLOB,
    revoked_reason TEXT,
    alias_of BLOB,
    updated_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX bundles_content ON bundles (project_id, content_id) WHERE content_id IS NOT NULL;
CREATE UNIQUE INDEX bundles_version ON bundles (project_id, version) WHERE version IS NOT NULL AND status <> 'failed' AND alias_of IS NULL;
CREATE UNIQUE INDEX bundles_input ON bundles (project_id, input_hash) WHERE input_hash IS NOT NULL AND status <> 'failed' AND alias_of IS NULL;
CREATE INDEX bundles_queue ON bundles (id) WHERE status = 'compiling';
CREATE INDEX bundles_project ON bundles (project_id, id);

CREATE TABLE rollouts (
    id BLOB PRIMARY KEY NOT NULL,
    org_id BLOB NOT NULL,
    project_id BLOB NOT NULL REFERENCES projects (id),
    bundle_id BLOB NOT NULL,
    spec TEXT NOT NULL,
    options TEXT NOT NULL,
    state TEXT NOT NULL,
    causes TEXT NOT NULL,
    head TEXT NOT NULL,
    version BIGINT NOT NULL,
    lane_open BIGINT NOT NULL,
    auto_rollback BOOLEAN NOT NULL,
    steps BIGINT NOT NULL,
    start_at BIGINT,
    wake_at BIGINT,
    ended_at BIGINT,
    owner BLOB,
    fence BIGINT NOT NULL,
    last_seq BIGINT NOT NULL,
    created_by BLOB,
    created_by_key BLOB,
    inserted_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX rollouts_project ON rollouts (project_id, id);
CREATE INDEX rollouts_living ON rollouts (state) WHERE state IN ('pending', 'running', 'paused', 'rolling_back');
CREATE INDEX rollouts_wake ON rollouts (wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX rollouts_bundle ON rollouts (bundle_id);
CREATE INDEX rollouts_owner ON rollouts (owner) WHERE owner IS NOT NULL;

CREATE TABLE rollout_steps (
    rollout_id BLOB NOT NULL,
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
) WITHOUT ROWID;

CREATE TABLE rollout_nodes (
    rollout_id BLOB NOT NULL,
    node_id BLOB NOT NULL,
    step_index BIGINT,
    position BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    state TEXT NOT NULL,
    state_data TEXT NOT NULL,
    generation BIGINT NOT NULL,
    told TEXT NOT NULL,
    previous TEXT NOT NULL,
    online BOOLEAN NOT NULL,
    health TEXT NOT NULL,
    handed_over BOOLEAN NOT NULL,
    accepted BOOLEAN NOT NULL,
    moved BIGINT NOT NULL,
    silent_since BIGINT,
    first_config BOOLEAN NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (rollout_id, node_id)
) WITHOUT ROWID;
CREATE INDEX rollout_nodes_node ON rollout_nodes (node_id);

CREATE TABLE active_rollout_nodes (
    node_id BLOB PRIMARY KEY NOT NULL,
    rollout_id BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX active_rollout_nodes_rollout ON active_rollout_nodes (rollout_id);

CREATE TABLE rollout_events (
    rollout_id BLOB NOT NULL,
    seq BIGINT NOT NULL,
    at BIGINT NOT NULL,
    engine_version BIGINT NOT NULL,
    event TEXT NOT NULL,
    decision_hash BLOB NOT NULL,
    PRIMARY KEY (rollout_id, seq)
);

CREATE TABLE rollout_inbox (
    id BLOB PRIMARY KEY NOT NULL,
    rollout_id BLOB NOT NULL,
    at BIGINT NOT NULL,
    payload TEXT NOT NULL
);
CREATE INDEX rollout_inbox_rollout ON rollout_inbox (rollout_id, id);

CREATE TABLE debts (
    node_id BLOB PRIMARY KEY NOT NULL,
    rollout_id BLOB NOT NULL,
    bundle_id BLOB,
    restore BOOLEAN NOT NULL,
    at BIGINT NOT NULL
) WITHOUT ROWID;
CREATE INDEX debts_rollout ON debts (rollout_id);

CREATE TABLE project_budget (
    project_id BLOB PRIMARY KEY NOT NULL,
    reserved BIGINT NOT NULL
) WITHOUT ROWID;

CREATE TABLE approvals (
    rollout_id BLOB NOT NULL,
    user_id BLOB NOT NULL,
    decision TEXT NOT NULL,
    comment TEXT,
    spec_hash BLOB NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (rollout_id, user_id)
) WITHOUT ROWID;

CREATE TABLE freeze_windows (
    id BLOB PRIMARY KEY NOT NULL,
    org_id BLOB NOT NULL,
    project_id BLOB,
    environment_id BLOB,
    name TEXT NOT NULL,
    reason TEXT NOT NULL,
    starts_at BIGINT NOT NULL,
    ends_at BIGINT,
    created_by BLOB,
    inserted_at BIGINT NOT NULL
);
CREATE INDEX freeze_windows_project ON freeze_windows (project_id);

CREATE TABLE environments (
    id BLOB PRIMARY KEY NOT NULL,
    project_id BLOB NOT NULL REFERENCES projects (id),
    name TEXT NOT NULL,
    ordinal BIGINT NOT NULL,
    body TEXT NOT NULL,
    inserted_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX environments_name ON environments (project_id, name);

CREATE TABLE rollout_templates (
    id BLOB PRIMARY KEY NOT NULL,
    project_id BLOB NOT NULL REFERENCES projects (id),
    name TEXT NOT NULL,
    ordinal BIGINT NOT NULL,
    body TEXT NOT NULL,
    inserted_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX rollout_templates_name ON rollout_templates (project_id, name);

CREATE TABLE drift (
    id BLOB PRIMARY KEY NOT NULL,
    project_id BLOB NOT NULL,
    node_id BLOB NOT NULL,
    expected BLOB,
    found BLOB,
    kind TEXT NOT NULL,
    detail TEXT NOT NULL,
    detected_at BIGINT NOT NULL,
    resolved_at BIGINT,
    resolved_by BLOB,
    resolution TEXT
);
CREATE UNIQUE INDEX drift_open ON drift (node_id) WHERE resolved_at IS NULL;
CREATE INDEX drift_project ON drift (project_id, id);

CREATE TABLE instances (
    id BLOB PRIMARY KEY NOT NULL,
    epoch BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    listen TEXT NOT NULL,
    draining BOOLEAN NOT NULL
);

-- Read in order of (xid, seq) and only below the oldest running transaction: sequence numbers commit out of order.
CREATE TABLE changes (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    xid BIGINT NOT NULL DEFAULT 0,
    kind TEXT NOT NULL,
    id BLOB NOT NULL,
    project_id BLOB,
    version BIGINT NOT NULL,
    at BIGINT NOT NULL
);
CREATE INDEX changes_order ON changes (xid, seq);

CREATE TABLE audit_entries (
    chain BLOB NOT NULL,
    seq BIGINT NOT NULL,
    id BLOB NOT NULL,
    at BIGINT NOT NULL,
    actor_type TEXT NOT NULL,
    actor_id BLOB,
    action TEXT NOT NULL,
    resource_type TEXT NOT NULL,
    resource_id BLOB,
    project_id BLOB,
    changes TEXT NOT NULL,
    request_id BLOB,
    ip TEXT,
    prev_hash BLOB NOT NULL,
    hash BLOB NOT NULL,
    PRIMARY KEY (chain, seq)
);
CREATE UNIQUE INDEX audit_entries_id ON audit_entries (id);
CREATE INDEX audit_entries_time ON audit_entries (at, id);
CREATE INDEX audit_entries_resource ON audit_entries (resource_id) WHERE resource_id IS NOT NULL;

CREATE TABLE audit_heads (
    chain BLOB PRIMARY KEY NOT NULL,
    seq BIGINT NOT NULL,
    hash BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE outbox (
    id BLOB PRIMARY KEY NOT NULL,
    channel TEXT NOT NULL,
    project_id BLOB,
    payload TEXT NOT NULL,
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
    body_hash BLOB NOT NULL,
    status BIGINT NOT NULL,
    response TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (credential, route, idem_key)
) WITHOUT ROWID;
CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_at);

CREATE TABLE signing_keys (
    id BLOB PRIMARY KEY NOT NULL,
    org_id BLOB,
    role TEXT NOT NULL,
    key_id TEXT NOT NULL,
    public BLOB NOT NULL,
    private BLOB,
    status TEXT NOT NULL,
    inserted_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX signing_keys_key ON signing_keys (role, key_id);

-- org_id is the nil UUID for the installation itself.
CREATE TABLE trust_versions (
    org_id BLOB NOT NULL,
    version BIGINT NOT NULL,
    body TEXT NOT NULL,
    inserted_at BIGINT NOT NULL,
    PRIMARY KEY (org_id, version)
) WITHOUT ROWID;

CREATE TABLE releases (
    id BLOB PRIMARY KEY NOT NULL,
    project_id BLOB NOT NULL,
    environment_id BLOB,
    bundle_id BLOB NOT NULL,
    sequence BIGINT NOT NULL,
    body TEXT NOT NULL,
    inserted_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX releases_sequence ON releases (project_id, sequence);

CREATE TABLE settings (
    key TEXT PRIMARY KEY NOT NULL,
    value TEXT NOT NULL,
    updated_at BIGINT NOT NULL
) WITHOUT ROWID;
