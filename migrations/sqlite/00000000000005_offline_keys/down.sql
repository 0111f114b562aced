DROP INDEX releases_bundle;
ALTER TABLE signing_keys DROP COLUMN exported_at;
