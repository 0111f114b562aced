-- What tenancy needs beside the first schema.

-- Links by which people join an organisation or set a password. Only the hash of a link's token is kept.
-- An entry has either an organisation with a role, or a user whose password it sets.
CREATE TABLE invitations (
    id BLOB PRIMARY KEY NOT NULL,
    token_hash BLOB NOT NULL,
    email TEXT NOT NULL,
    org_id BLOB REFERENCES orgs (id),
    role TEXT,
    user_id BLOB REFERENCES users (id) ON DELETE CASCADE,
    created_by BLOB,
    expires_at BIGINT NOT NULL,
    used_at BIGINT,
    inserted_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX invitations_token ON invitations (token_hash);
CREATE INDEX invitations_org ON invitations (org_id) WHERE org_id IS NOT NULL;
CREATE INDEX invitations_user ON invitations (user_id) WHERE user_id IS NOT NULL;

-- The keys that sign nodes' tokens: one organisation's each, and none that signs anything else. The private half is sealed.
CREATE TABLE token_keys (
    id BLOB PRIMARY KEY NOT NULL,
    org_id BLOB NOT NULL REFERENCES orgs (id),
    kid TEXT NOT NULL,
    public BLOB NOT NULL,
    private BLOB NOT NULL,
    inserted_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX token_keys_kid ON token_keys (kid);
CREATE INDEX token_keys_org ON token_keys (org_id);

-- A key that was rotated works on until its successor is used for the first time, and not after the stated time.
ALTER TABLE nodes ADD COLUMN previous_key_hash BLOB;
ALTER TABLE nodes ADD COLUMN previous_key_until BIGINT;
CREATE UNIQUE INDEX nodes_previous_key ON nodes (previous_key_hash) WHERE previous_key_hash IS NOT NULL;

-- Where a chain begins after retention removed its oldest entries: the number and hash of the last one removed.
ALTER TABLE audit_heads ADD COLUMN base_seq BIGINT NOT NULL DEFAULT 0;
ALTER TABLE audit_heads ADD COLUMN base_hash BLOB;
