-- Files of a project that go into its bundles beside the configuration: certs/, trust/, plugins/.
CREATE TABLE resources (
    id UUID PRIMARY KEY NOT NULL,
    project_id UUID NOT NULL REFERENCES projects (id),
    path TEXT NOT NULL,
    hash BYTEA NOT NULL,
    size_bytes BIGINT NOT NULL,
    inserted_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX resources_path ON resources (project_id, path);

-- By content, so that a compile that was asked for gets the files it was asked with.
CREATE TABLE resource_blobs (
    project_id UUID NOT NULL,
    hash BYTEA NOT NULL,
    content BYTEA NOT NULL,
    inserted_at BIGINT NOT NULL,
    PRIMARY KEY (project_id, hash)
);

-- Path to hash, as they were when the compile was asked for.
ALTER TABLE bundles ADD COLUMN resources JSON NOT NULL DEFAULT '{}';

-- Content whose row is gone and whose archive may be there still. Nobody may claim it before the archive is gone too.
CREATE TABLE collected (
    project_id UUID NOT NULL,
    content_id BYTEA NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (project_id, content_id)
);
