-- Under which fence an event was committed: in the order of `seq` it never goes down. 0: before this was written down.
ALTER TABLE rollout_events ADD COLUMN fence BIGINT NOT NULL DEFAULT 0;
