DROP INDEX audit_entries_org;
