-- What nodes push beside heartbeats: counts by period, single requests, firewall events. Of each node and kind the newest stay.
CREATE TABLE node_samples (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    node_id BLOB NOT NULL,
    project_id BLOB NOT NULL,
    kind TEXT NOT NULL,
    at BIGINT NOT NULL,
    detail TEXT NOT NULL
);
CREATE INDEX node_samples_node ON node_samples (node_id, kind, seq);

-- The configuration that a node says it runs.
CREATE TABLE node_configs (
    node_id BLOB PRIMARY KEY NOT NULL,
    project_id BLOB NOT NULL,
    hash BLOB NOT NULL,
    config TEXT NOT NULL,
    at BIGINT NOT NULL
);
