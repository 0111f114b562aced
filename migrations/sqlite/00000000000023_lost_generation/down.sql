ALTER TABLE nodes DROP COLUMN lost_generation;
