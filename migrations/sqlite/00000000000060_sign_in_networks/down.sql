ALTER TABLE nodes DROP COLUMN previous_key_own;
DROP TABLE sign_in_networks;
