-- Blue-green: the share of traffic that a member's generation names, and whether the node has said that it serves it.
ALTER TABLE rollout_nodes ADD COLUMN weight BIGINT NOT NULL DEFAULT 100;
ALTER TABLE rollout_nodes ADD COLUMN weighed BOOLEAN NOT NULL DEFAULT TRUE;

-- What nodes served, as counted by their sessions, while some canary of their project is compared. A memory, not a record.
CREATE UNLOGGED TABLE node_readings (
    node_id UUID PRIMARY KEY,
    generation BIGINT NOT NULL,
    requests BIGINT NOT NULL,
    errors BIGINT NOT NULL,
    p99_us BIGINT,
    at BIGINT NOT NULL
);

-- Which projects have a canary under way is asked every few seconds.
ALTER TABLE rollouts ADD COLUMN strategy TEXT NOT NULL DEFAULT 'rolling';
