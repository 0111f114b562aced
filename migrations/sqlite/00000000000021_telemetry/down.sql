DROP TABLE node_configs;
DROP TABLE node_samples;
