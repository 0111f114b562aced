-- What the system's chain tells of one organisation, for its administrators: found without reading the whole chain.
CREATE INDEX audit_entries_org ON audit_entries ((changes ->> 'org_id')) WHERE project_id IS NULL;
