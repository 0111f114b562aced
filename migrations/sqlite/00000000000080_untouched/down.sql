ALTER TABLE rollouts DROP COLUMN asked;
ALTER TABLE node_readings DROP COLUMN recent;
