-- A node that says "not now": until when that is granted, and since when it has said so without a break.
ALTER TABLE nodes ADD COLUMN busy_since BIGINT;
ALTER TABLE nodes ADD COLUMN busy_until BIGINT;
