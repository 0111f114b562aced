-- How far a node's clock is ahead of ours, microseconds, as estimated; written with its last-seen time.
ALTER TABLE nodes ADD COLUMN clock_skew BIGINT;
