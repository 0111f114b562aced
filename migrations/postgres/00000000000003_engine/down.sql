ALTER TABLE rollouts DROP COLUMN strategy;
DROP TABLE node_readings;
ALTER TABLE rollout_nodes DROP COLUMN weighed;
ALTER TABLE rollout_nodes DROP COLUMN weight;
