-- What the node measured lately, of its last minute at most: whether untouched nodes fail the gates too.
ALTER TABLE node_readings ADD COLUMN recent TEXT;
-- Whether it is asked for now; looked for every few seconds.
ALTER TABLE rollouts ADD COLUMN asked BOOLEAN NOT NULL DEFAULT FALSE;
