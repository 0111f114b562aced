-- Entries of one transaction have one time: within it, the list goes by their place in the chain.
CREATE INDEX audit_entries_order ON audit_entries (at, seq, id);
DROP INDEX audit_entries_time;
