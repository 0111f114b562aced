-- The generation a node was lifted to when the database was restored: while it is the node's own, nothing is assigned to it.
ALTER TABLE nodes ADD COLUMN lost_generation BIGINT NOT NULL DEFAULT 0;
