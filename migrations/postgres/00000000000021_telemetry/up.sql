-- What nodes push beside heartbeats: counts by period, single requests, firewall events. Of each node and kind the newest stay.
CREATE TABLE node_samples (
    seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    node_id UUID NOT NULL,
    project_id UUID NOT NULL,
    kind TEXT NOT NULL,
    at BIGINT NOT NULL,
    detail JSON NOT NULL
);
CREATE INDEX node_samples_node ON node_samples (node_id, kind, seq);

-- The configuration that a node says it runs.
CREATE TABLE node_configs (
    node_id UUID PRIMARY KEY,
    project_id UUID NOT NULL,
    hash BYTEA NOT NULL,
    config TEXT NOT NULL,
    at BIGINT NOT NULL
);
