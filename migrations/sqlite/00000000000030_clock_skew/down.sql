ALTER TABLE nodes DROP COLUMN clock_skew;
