ALTER TABLE rollout_events DROP COLUMN fence;
