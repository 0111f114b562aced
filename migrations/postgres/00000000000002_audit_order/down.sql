CREATE INDEX audit_entries_time ON audit_entries (at, id);
DROP INDEX audit_entries_order;
