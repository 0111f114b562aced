//! Who must have agreed before a rollout starts, to what, and how long that holds.
//!
//! Invariant: an approval speaks of one content: the specification and the set of planned nodes. Whatever is changed afterwards
//! was not approved.

use crate::id::*;
use crate::rollout::Spec;
use crate::time::{Span, Timestamp};
use serde::Serialize;
use std::collections::BTreeSet;

/// After this an approval says nothing any more.
pub const APPROVAL_LASTS: Span = Span::secs(7 * 86_400);
/// The set of nodes may change by this much, and is asked about anew only beyond both.
pub const CHANGED_PERCENT: usize = 10;
pub const CHANGED_NODES: usize = 5;

/// What one person said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vote {
    pub user: UserId,
    pub approves: bool,
    pub comment: Option<String>,
    /// Of what was approved: [`content_hash`].
    pub content: Digest,
    pub at: Timestamp,
}

/// How many people a project or an environment asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    pub required: bool,
    pub needed: u32,
}

impl Policy {
    pub fn people(&self) -> u32 {
        if self.required { self.needed.max(1) } else { 0 }
    }

    /// Does `new` let through what this one would have stopped?
    pub fn is_loosened_by(&self, new: &Policy) -> bool {
        new.people() < self.people()
    }
}

/// Where a rollout stands with its approvers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "standing", rename_all = "snake_case")]
pub enum Standing {
    NotNeeded,
    /// Enough people agreed to what would start now.
    Approved,
    Waiting {
        have: u32,
        need: u32,
    },
    Rejected {
        by: UserId,
        comment: Option<String>,
    },
}

impl Standing {
    pub fn allows_start(&self) -> bool {
        match self {
            Standing::NotNeeded | Standing::Approved => true,
            Standing::Waiting { .. } | Standing::Rejected { .. } => false,
        }
    }
}

/// The nodes as they were planned, and as they are found now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    pub planned: BTreeSet<NodeId>,
    pub now: BTreeSet<NodeId>,
}

impl Targets {
    /// More than 10 % and more than 5 nodes came or went.
    pub fn changed_too_much(&self) -> bool {
        let changed = self.planned.symmetric_difference(&self.now).count();
        changed > CHANGED_NODES && changed * 100 > self.planned.len() * CHANGED_PERCENT
    }

    /// What people are asked about now.
    pub fn asked(&self) -> &BTreeSet<NodeId> {
        if self.changed_too_much() { &self.now } else { &self.planned }
    }
}

/// What an approval speaks of: everything that was asked for, the freezes that are set aside for it, and which nodes it means.
pub fn content_hash(spec: &Spec, overridden: &BTreeSet<FreezeId>, nodes: &BTreeSet<NodeId>) -> Digest {
    let mut bytes = serde_json::to_vec(spec).unwrap_or_default();
    for f in overridden {
        bytes.extend_from_slice(b"without the freeze ");
        bytes.extend_from_slice(f.0.as_bytes());
    }
    for n in nodes {
        bytes.extend_from_slice(n.0.as_bytes());
    }
    Digest::of(&bytes)
}

/// `content`: the hash of what would start now. One rejection stands until that person approves.
pub fn standing(need: u32, votes: &[Vote], content: Digest, now: Timestamp) -> Standing {
    if need == 0 {
        return Standing::NotNeeded;
    }
    let holds = |v: &&Vote| v.content == content && now.since(v.at) < APPROVAL_LASTS;
    if let Some(v) = votes.iter().filter(|v| !v.approves).find(holds) {
        return Standing::Rejected { by: v.user, comment: v.comment.clone() };
    }
    let people: BTreeSet<UserId> = votes.iter().filter(|v| v.approves).filter(holds).map(|v| v.user).collect();
    let have = people.len() as u32;
    if have >= need { Standing::Approved } else { Standing::Waiting { have, need } }
}

/// Who would vote.
#[derive(Clone, Copy, Debug)]
pub struct Voter {
    /// `None`: a key.
    pub person: Option<UserId>,
    /// Role of operator or higher, since then.
    pub operator_since: Option<Timestamp>,
}

/// Why this one's vote does not count. `created_by`: the person behind the rollout, also behind its key.
pub fn refuse(voter: &Voter, created_by: Option<UserId>, created_at: Timestamp) -> Result<UserId, &'static str> {
    let Some(person) = voter.person else { return Err("approvals are given by people, not by keys") };
    if created_by == Some(person) {
        return Err("whoever made the rollout cannot approve it");
    }
    match voter.operator_since {
        None => Err("approving needs the role operator"),
        Some(since) if since > created_at => Err("approving needs a member from before the rollout was made"),
        Some(_) => Ok(person),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const DAY: Span = Span::secs(86_400);

    fn user(n: u128) -> UserId {
        UserId(Uuid::from_u128(n))
    }

    fn nodes(range: std::ops::Range<u128>) -> BTreeSet<NodeId> {
        range.map(|n| NodeId(Uuid::from_u128(n))).collect()
    }

    fn vote(who: u128, approves: bool, content: Digest, at: Timestamp) -> Vote {
        Vote { user: user(who), approves, comment: None, content, at }
    }

    #[test]
    fn so_many_different_people_must_agree_to_the_same_content() {
        let (mine, other, now) = (Digest::of(b"a"), Digest::of(b"b"), Timestamp(1_000_000));
        assert_eq!(standing(0, &[], mine, now), Standing::NotNeeded);
        let waiting = |have| Standing::Waiting { have, need: 2 };
        assert_eq!(standing(2, &[vote(1, true, mine, now)], mine, now), waiting(1));
        assert_eq!(
            standing(2, &[vote(1, true, mine, now), vote(1, true, mine, now)], mine, now),
            waiting(1),
            "one person"
        );
        assert_eq!(
            standing(2, &[vote(1, true, mine, now), vote(2, true, other, now)], mine, now),
            waiting(1),
            "of another content"
        );
        assert_eq!(standing(2, &[vote(1, true, mine, now), vote(2, true, mine, now)], mine, now), Standing::Approved);
        let rejected =
            standing(2, &[vote(1, true, mine, now), vote(2, true, mine, now), vote(3, false, mine, now)], mine, now);
        assert_eq!(rejected, Standing::Rejected { by: user(3), comment: None });
    }

    #[test]
    fn an_approval_lapses_after_a_week() {
        let (content, given) = (Digest::of(b"a"), Timestamp(0));
        let at = |t: Timestamp| standing(1, &[vote(1, true, content, given)], content, t);
        assert_eq!(at(given + APPROVAL_LASTS - Span(1)), Standing::Approved);
        assert_eq!(at(given + APPROVAL_LASTS), Standing::Waiting { have: 0, need: 1 });
    }

    #[test]
    fn the_set_is_asked_about_anew_only_beyond_ten_percent_and_five_nodes() {
        let of = |planned, now| Targets { planned: nodes(planned), now: nodes(now) };
        assert!(!of(0..10, 5..10).changed_too_much(), "five nodes of ten");
        assert!(of(0..10, 6..10).changed_too_much(), "six of ten");
        assert!(!of(0..100, 0..110).changed_too_much(), "ten percent");
        assert!(of(0..100, 0..111).changed_too_much());
        let t = of(0..10, 6..10);
        assert_eq!(t.asked(), &nodes(6..10));
        let spec = Spec::new(BundleId::NIL);
        let of = |set| content_hash(&spec, &BTreeSet::new(), set);
        assert_ne!(of(&t.planned), of(&t.now));
    }

    #[test]
    fn whatever_is_asked_for_is_part_of_what_is_approved() {
        let (spec, set) = (Spec::new(BundleId::NIL), nodes(0..3));
        let mut faster = spec.clone();
        faster.batch_size = crate::project::Amount::Count(2);
        let mut later = spec.clone();
        later.scheduled_at = Some(Timestamp(5));
        let none = BTreeSet::new();
        let mut hashes: BTreeSet<Digest> = [&spec, &faster, &later].map(|s| content_hash(s, &none, &set)).into();
        hashes.insert(content_hash(&spec, &[FreezeId(Uuid::from_u128(1))].into(), &set));
        assert_eq!(hashes.len(), 4);
    }

    #[test]
    fn only_people_who_were_operators_before_and_did_not_make_it_may_vote() {
        let made = Timestamp(0) + DAY;
        let voter = |person, since| Voter { person, operator_since: since };
        assert_eq!(refuse(&voter(Some(user(1)), Some(Timestamp(0))), Some(user(2)), made), Ok(user(1)));
        for (v, by) in [
            (voter(None, Some(Timestamp(0))), user(2)),
            (voter(Some(user(1)), Some(Timestamp(0))), user(1)),
            (voter(Some(user(1)), None), user(2)),
            (voter(Some(user(1)), Some(made + Span(1))), user(2)),
        ] {
            assert!(refuse(&v, Some(by), made).is_err(), "{v:?}");
        }
    }

    #[test]
    fn fewer_people_is_looser() {
        let policy = |required, needed| Policy { required, needed };
        assert!(policy(true, 2).is_loosened_by(&policy(true, 1)));
        assert!(policy(true, 1).is_loosened_by(&policy(false, 1)));
        assert!(!policy(false, 5).is_loosened_by(&policy(true, 1)));
        assert!(!policy(true, 1).is_loosened_by(&policy(true, 2)));
        assert_eq!(policy(true, 0).people(), 1);
    }
}
