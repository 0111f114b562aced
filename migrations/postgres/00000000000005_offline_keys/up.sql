-- When the private half was shown to somebody who keeps it elsewhere: only then may the server forget it.
ALTER TABLE signing_keys ADD COLUMN exported_at BIGINT;
CREATE INDEX releases_bundle ON releases (project_id, bundle_id, sequence);
