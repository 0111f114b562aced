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
    /// What changed, secrets masked. `caused_by` inside names the command of a consequence; `org_id` the organisation that an entry
    /// of the system chain is about, where that is not the resource: its administrators may read it.
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

/// A head of a chain that was seen and kept elsewhere: in a log, on a node, in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Witness {
    /// `None` is the system's chain.
    pub chain: Option<ProjectId>,
    pub head: Head,
}

impl Witness {
    /// From a line of `audit heads`, a line of the server's log (its values are under `fields`), or an assignment (its head is
    /// under `audit_head`, its chain is the project's).
    pub fn read(v: &Value) -> Option<Witness> {
        let v = v.get("fields").unwrap_or(v);
        let (chain, head) = match v.get("audit_head") {
            Some(head) => (v.get("project_id")?, head),
            None => (v.get("chain")?, v),
        };
        let chain = match chain {
            Value::Null => None,
            Value::String(s) if s == "system" => None,
            Value::String(s) => Some(s.parse().ok()?),
            _ => return None,
        };
        let seq = head.get("seq")?.as_i64()?;
        let hash = Digest::parse(head.get("hash")?.as_str()?)?;
        Some(Witness { chain, head: Head { seq, hash } })
    }
}

/// What `audit verify` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    pub valid: bool,
    pub entries: i64,
    pub first_bad_seq: Option<i64>,
    pub reason: Option<String>,
    /// Witnessed heads that retention removed: they could not be compared.
    #[serde(default, skip_serializing_if = "is_none_left")]
    pub uncompared: usize,
}

fn is_none_left(n: &usize) -> bool {
    *n == 0
}

/// Follows a chain entry by entry, in order of `seq`.
///
/// A chain whose old entries were removed by retention begins at its base: the number and hash of the last one removed. An entry
/// of the action [`PRUNED`] that is still there must say the same, so a base cannot be moved without writing into the chain.
#[derive(Clone, Debug)]
pub struct Verifier {
    base: Head,
    head: Head,
    /// The newest base that the chain itself tells of.
    told: Option<Head>,
    witnesses: Vec<Head>,
    uncompared: usize,
    bad: Option<(i64, String)>,
}

const REWRITTEN: &str = "the entry is not the one that was witnessed: the chain was written anew";

/// The action of the entry that retention leaves in place of what it removed: `{through_seq, through_hash, entries}`.
pub const PRUNED: &str = "audit.pruned";

impl Default for Verifier {
    fn default() -> Self {
        Verifier::new(Head::EMPTY, Vec::new())
    }
}

impl Verifier {
    /// `witnesses`: heads that were seen, in any order. One at the base is compared with it; those before it are gone. When all
    /// are gone nothing shows that this is the chain that was witnessed: it may have been deleted whole, written anew and called
    /// pruned, so it does not hold.
    pub fn new(base: Head, witnesses: Vec<Head>) -> Verifier {
        let (witnesses, removed): (Vec<_>, Vec<_>) =
            witnesses.into_iter().filter(|w| w.seq > 0).partition(|w| w.seq >= base.seq);
        let other = witnesses.iter().any(|w| w.seq == base.seq && w.hash != base.hash);
        let bad = match (other, witnesses.is_empty(), removed.iter().map(|w| w.seq).max()) {
            (true, ..) => Some((base.seq, REWRITTEN.to_string())),
            (false, true, Some(last)) => {
                Some((last, "everything that was witnessed was removed: nothing shows what the chain was".to_string()))
            }
            (false, ..) => None,
        };
        Verifier { base, head: base, told: None, witnesses, uncompared: removed.len(), bad }
    }

    fn check_witnesses(&mut self, e: &Entry) {
        if let Some(w) = self.witnesses.iter().find(|w| w.seq == e.seq && w.hash != e.hash) {
            self.bad = Some((w.seq, REWRITTEN.into()));
        }
    }

    pub fn feed(&mut self, e: &Entry) {
        if self.bad.is_some() {
            return;
        }
        self.check_witnesses(e);
        if self.bad.is_some() {
            return;
        }
        if e.action == PRUNED {
            let (seq, hash) = (e.changes.get("through_seq"), e.changes.get("through_hash"));
            let told = seq.and_then(Value::as_i64).zip(hash.and_then(Value::as_str).and_then(Digest::parse));
            self.told = told.map(|(seq, hash)| Head { seq, hash });
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
        let behind = self.witnesses.iter().filter(|w| w.seq > self.head.seq).map(|w| w.seq).min();
        let bad = self.bad.or_else(|| match (stored, behind) {
            (Some(h), _) if h != self.head => Some((self.head.seq + 1, "the chain ends before its stored head".into())),
            (_, Some(_)) => Some((self.head.seq + 1, "the chain ends before a head that was witnessed".into())),
            _ if self.base.seq > 0 && self.told != Some(self.base) => {
                Some((self.base.seq, "entries were removed without an entry that says so".into()))
            }
            _ => None,
        });
        Verdict {
            valid: bad.is_none(),
            entries: self.head.seq - self.base.seq,
            first_bad_seq: bad.as_ref().map(|b| b.0),
            reason: bad.map(|b| b.1),
            uncompared: self.uncompared,
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

    fn against(entries: &[Entry], base: Head, witnesses: Vec<Head>, head: Head) -> Verdict {
        let mut v = Verifier::new(base, witnesses);
        entries.iter().for_each(|e| v.feed(e));
        v.finish(Some(head))
    }

    fn head_of(e: &Entry) -> Head {
        Head { seq: e.seq, hash: e.hash }
    }

    #[test]
    fn a_witness_finds_a_chain_that_was_written_anew() {
        let ((honest, h), mut forged) = (chain(5), Vec::new());
        let seen = vec![head_of(&honest[1]), head_of(&honest[3])];
        assert!(against(&honest, Head::EMPTY, seen.clone(), h).valid);
        // Entry 3 is changed and everything after it is chained again: nothing inside the chain shows it.
        let mut head = Head::EMPTY;
        for e in &honest {
            let mut e = Entry { prev_hash: head.hash, ..e.clone() };
            if e.seq == 3 {
                e.changes = serde_json::json!({"n": "forged"});
            }
            e.hash = e.compute_hash();
            head = head_of(&e);
            forged.push(e);
        }
        assert!(verify(&forged, head).valid);
        assert_eq!(against(&forged, Head::EMPTY, seen.clone(), head).first_bad_seq, Some(4));
        // A whole tail that is gone, with the stored head moved back.
        let cut = against(&honest[..3], Head::EMPTY, seen, head_of(&honest[2]));
        assert_eq!((cut.valid, cut.first_bad_seq), (false, Some(4)));
    }

    #[test]
    fn a_pruned_chain_holds_from_its_base_and_only_from_there() {
        let (mut entries, head) = chain(5);
        let base = head_of(&entries[2]);
        let new = NewEntry {
            actor: Actor::System,
            action: PRUNED,
            resource_type: "audit",
            resource_id: None,
            project: None,
            changes: serde_json::json!({"through_seq": base.seq, "through_hash": base.hash.to_string(), "entries": 3}),
            request_id: None,
            ip: None,
        };
        let pruned = Entry::chain(new, head, AuditId::NIL, Timestamp(9));
        let head = head_of(&pruned);
        entries.push(pruned);
        let rest = &entries[3..];
        assert_eq!(
            against(rest, base, Vec::new(), head),
            Verdict { valid: true, entries: 3, first_bad_seq: None, reason: None, uncompared: 0 }
        );
        // A witness at the base is compared with it; of older ones it is said that they were not.
        let (at, before) = (head_of(&entries[2]), head_of(&entries[0]));
        let seen = against(rest, base, vec![before, at], head);
        assert_eq!((seen.valid, seen.uncompared), (true, 1));
        let other = Head { hash: Digest::of(b"other"), ..at };
        assert_eq!(against(rest, base, vec![before, other], head).first_bad_seq, Some(3));
        // Deleted whole, written anew and called pruned: no witness is left to say otherwise, which is bad enough.
        let gone = against(rest, base, vec![before], head);
        assert_eq!((gone.valid, gone.first_bad_seq, gone.uncompared), (false, Some(1), 1));
        // More was removed than the chain says, and the base was moved to hide it.
        let moved = against(&entries[4..], head_of(&entries[3]), Vec::new(), head);
        assert_eq!((moved.valid, moved.first_bad_seq), (false, Some(4)));
    }

    #[test]
    fn a_witness_is_read_from_heads_logs_and_assignments() {
        let (hash, project) = (Digest::of(b"x"), "0190b5a0-6bfa-7cc0-9d4c-1b2f3a4d5e6f");
        let head = Head { seq: 7, hash };
        let text = hash.to_string();
        for (v, chain) in [
            (serde_json::json!({"chain": null, "seq": 7, "hash": text}), None),
            (serde_json::json!({"chain": project, "seq": 7, "hash": text}), Some(project)),
            (
                serde_json::json!({"level": "INFO", "fields": {"message": "audit head", "chain": "system", "seq": 7, "hash": text}}),
                None,
            ),
            (serde_json::json!({"project_id": project, "audit_head": {"seq": 7, "hash": text}}), Some(project)),
        ] {
            let chain = chain.map(|c| c.parse().unwrap_or(ProjectId::NIL));
            assert_eq!(Witness::read(&v), Some(Witness { chain, head }), "{v}");
        }
        assert_eq!(Witness::read(&serde_json::json!({"seq": 7})), None);
    }

    #[test]
    fn an_untouched_chain_verifies() {
        let (e, h) = chain(5);
        assert_eq!(
            verify(&e, h),
            Verdict { valid: true, entries: 5, first_bad_seq: None, reason: None, uncompared: 0 }
        );
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
