ALTER TABLE nodes DROP COLUMN busy_until;
ALTER TABLE nodes DROP COLUMN busy_since;
