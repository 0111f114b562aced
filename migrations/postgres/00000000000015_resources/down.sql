DROP TABLE collected;
ALTER TABLE bundles DROP COLUMN resources;
DROP TABLE resource_blobs;
DROP TABLE resources;
