ALTER TABLE audit_heads DROP COLUMN base_hash;
ALTER TABLE audit_heads DROP COLUMN base_seq;
DROP INDEX nodes_previous_key;
ALTER TABLE nodes DROP COLUMN previous_key_until;
ALTER TABLE nodes DROP COLUMN previous_key_hash;
DROP TABLE token_keys;
DROP TABLE invitations;
