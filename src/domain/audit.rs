//! The audit log: a hash chain per project and one for the system.
//!
//! `hash = SHA-256(canonical JSON of the entry without `hash`)`, where `prev_hash` is inside, so an entry that is changed,
//! missing or moved breaks the chain at its own place. Canonical JSON is RFC 8785.

use crate::access::Actor;
use crate::id::*;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What is to be recorded; the store gives it `seq`, `at` and its place in the chain.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEntry {
    pub actor: Actor,
    /// `noun.verb`, e.g. `rollout.paused`.
    pub action: &'static str,
    pub resource_type: &'static str,
    pub resource_id: Option<uuid::Uuid>,
    /// `None` is the system chain.
    pub project: Option<ProjectId>,
    /// What changed, secrets masked. `caused_by` inside names the command of a consequence.
    pub changes: Value,
    pub request_id: Option<RequestId>,
    pub ip: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub id: AuditId,
    pub seq: i64,
    pub at: Timestamp,
    pub actor_type: String,
    pub actor_id: Option<uuid::Uuid>,
    pub action: String,
    pub resource_type: String,
    pub resource_id: Option<uuid::Uuid>,
    pub project_id: Option<ProjectId>,
    pub changes: Value,
    pub request_id: Option<RequestId>,
    pub ip: Option<String>,
    pub prev_hash: Digest,
    pub hash: Digest,
}

/// The end of a chain: the last entry's number and hash. An empty chain is `(0, ZERO)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub seq: i64,
    pub hash: Digest,
}

impl Head {
    pub const EMPTY: Head = Head { seq: 0, hash: Digest::ZERO };
}

impl Entry {
    /// Put `new` behind `head`.
    pub fn chain(new: NewEntry, head: Head, id: AuditId, at: Timestamp) -> Entry {
        let mut e = Entry {
            id,
            seq: head.seq + 1,
            at,
            actor_type: new.actor.kind().to_string(),
            actor_id: new.actor.id(),
            action: new.action.to_string(),
            resource_type: new.resource_type.to_string(),
            resource_id: new.resource_id,
            project_id: new.project,
            changes: new.changes,
            request_id: new.request_id,
            ip: new.ip,
            prev_hash: head.hash,
            hash: Digest::ZERO,
        };
        e.hash = e.compute_hash();
        e
    }

    /// The hash this entry must have.
    pub fn compute_hash(&self) -> Digest {
        let mut v = serde_json::to_value(self).unwrap_or(Value::Null);
        if let Value::Object(m) = &mut v {
            m.remove("hash");
        }
        Digest::of(&serde_json_canonicalizer::to_vec(&v).unwrap_or_default())
    }
}

/// What `audit verify` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    pub valid: bool,
    pub entries: i64,
    pub first_bad_seq: Option<i64>,
    pub reason: Option<String>,
}

/// Follows a chain entry by entry, in order of `seq`.
#[derive(Clone, Debug)]
pub struct Verifier {
    head: Head,
    bad: Option<(i64, String)>,
}

impl Default for Verifier {
    fn default() -> Self {
        Verifier { head: Head::EMPTY, bad: None }
    }
}

impl Verifier {
    pub fn feed(&mut self, e: &Entry) {
        if self.bad.is_some() {
            return;
        }
        if e.seq != self.head.seq + 1 {
            self.bad = Some((self.head.seq + 1, format!("entry {} is missing or out of order", self.head.seq + 1)));
        } else if e.prev_hash != self.head.hash {
            self.bad = Some((e.seq, "prev_hash does not match the entry before".into()));
        } else if e.compute_hash() != e.hash {
            self.bad = Some((e.seq, "the content does not match its hash".into()));
        } else {
            self.head = Head { seq: e.seq, hash: e.hash };
        }
    }

    /// `stored` is the head kept beside the chain: it shows a cut tail.
    pub fn finish(self, stored: Option<Head>) -> Verdict {
        let bad = self.bad.or_else(|| match stored {
            Some(h) if h != self.head => Some((self.head.seq + 1, "the chain ends before its stored head".into())),
            _ => None,
        });
        Verdict {
            valid: bad.is_none(),
            entries: self.head.seq,
            first_bad_seq: bad.as_ref().map(|b| b.0),
            reason: bad.map(|b| b.1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(n: i64) -> (Vec<Entry>, Head) {
        let mut head = Head::EMPTY;
        let entries = (1..=n)
            .map(|i| {
                let new = NewEntry {
                    actor: Actor::System,
                    action: "rollout.paused",
                    resource_type: "rollout",
                    resource_id: None,
                    project: None,
                    changes: serde_json::json!({"n": i}),
                    request_id: None,
                    ip: None,
                };
                let e = Entry::chain(new, head, AuditId::NIL, Timestamp(i));
                head = Head { seq: e.seq, hash: e.hash };
                e
            })
            .collect();
        (entries, head)
    }

    fn verify(entries: &[Entry], head: Head) -> Verdict {
        let mut v = Verifier::default();
        entries.iter().for_each(|e| v.feed(e));
        v.finish(Some(head))
    }

    #[test]
    fn an_untouched_chain_verifies() {
        let (e, h) = chain(5);
        assert_eq!(verify(&e, h), Verdict { valid: true, entries: 5, first_bad_seq: None, reason: None });
    }

    #[test]
    fn a_changed_missing_moved_or_cut_entry_is_located() {
        let (mut e, h) = chain(5);
        e[2].changes = serde_json::json!({"n": 99});
        assert_eq!(verify(&e, h).first_bad_seq, Some(3));
        let (mut e, h) = chain(5);
        e.remove(1);
        assert_eq!(verify(&e, h).first_bad_seq, Some(2));
        let (mut e, h) = chain(5);
        e.swap(2, 3);
        assert_eq!(verify(&e, h).first_bad_seq, Some(3));
        let (mut e, h) = chain(5);
        e.pop();
        assert_eq!(verify(&e, h).first_bad_seq, Some(5));
    }
}
