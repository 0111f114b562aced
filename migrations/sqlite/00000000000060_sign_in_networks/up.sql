-- Networks from which somebody signed in: their next attempt from there does not wait behind a flood of strangers.
CREATE TABLE sign_in_networks (
    user_id BLOB NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    network TEXT NOT NULL,
    last_at BIGINT NOT NULL,
    PRIMARY KEY (user_id, network)
);
CREATE INDEX sign_in_networks_age ON sign_in_networks (last_at);

-- Whether the node itself changed the key before the present one. Then that key may ask again, should the answer have been lost;
-- a key that an operator replaced may not.
ALTER TABLE nodes ADD COLUMN previous_key_own BOOLEAN NOT NULL DEFAULT FALSE;
