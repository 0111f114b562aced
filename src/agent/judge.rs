//! From a poll answer to an order that may be followed: everything signed is checked, and nothing unsigned is believed.
//!
//! Invariant: what is answered here must be on disk before anything is staged.

use crate::client::Polled;
use crate::layout::Release;
use crate::state::Identity;
use api::node::PollAnswer;
use bundle::Refusal;
use bundle::trust::{Assignment, Envelope};
use bundle::verify::NodeTrust;
use domain::{Digest, ProjectId, RolloutId, Timestamp};
use serde_json::Value;

/// What to run, as signed. Only where to fetch it from is not: the hash says what it must be.
#[derive(Clone, Debug)]
pub struct Order {
    pub release: Release,
    pub generation: u64,
    pub rollout: Option<RolloutId>,
    pub artifact: Option<Digest>,
    pub assignment: Assignment,
    pub url: Option<String>,
    pub version: Option<String>,
}

/// Why an answer is not followed: a stable code and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub String);

impl From<Refusal> for Refused {
    fn from(r: Refusal) -> Refused {
        // The contract's word for trouble with clocks.
        let skipped = if matches!(r, Refusal::ClockSkew { .. }) { "skipped: " } else { "" };
        Refused(format!("{skipped}{}: {r}", r.code()))
    }
}

fn malformed(what: impl std::fmt::Display) -> Refused {
    Refused(format!("malformed: {what}"))
}

/// An envelope, or a list of them.
pub fn envelopes(value: &Value) -> Result<Vec<Envelope>, String> {
    let many = match value {
        Value::Array(_) => serde_json::from_value(value.clone()),
        one => serde_json::from_value(one.clone()).map(|e| vec![e]),
    };
    many.map_err(|e| e.to_string())
}

/// The trust at enrolment, before the project is known: is the root the pinned one?
pub fn pin(root: Digest, chain: &[Envelope], node: domain::NodeId, now: Timestamp) -> Result<NodeTrust, Refusal> {
    NodeTrust::pin(root, chain, node, ProjectId::NIL, now)
}

/// Judges `polled` by what this node trusts. `None`: nothing to do. The trust in the answer is to be kept.
pub fn judge(
    known: Option<&NodeTrust>,
    who: &Identity,
    polled: &Polled,
    now: Timestamp,
) -> Result<(Option<Order>, NodeTrust), Refused> {
    let mut trust = match known {
        Some(t) => t.clone(),
        None => pin(who.root, &who.chain, who.node_id, now)?,
    };
    for next in polled.trust.iter().map(envelopes) {
        for envelope in next.map_err(malformed)? {
            match trust.rotate(&envelope) {
                Ok(doc) => trust.trust = doc,
                // What we have already.
                Err(Refusal::TrustVersion { got, want }) if got < want => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    // Newer trust counts whatever else is in the answer; without a known project there is nothing to add it to yet.
    let rotated = known.map(|_| trust.clone());
    let answer = &polled.answer;
    let Some(value) = answer.assignment.clone() else {
        return if answer.no_update { Ok((None, trust)) } else { Err(malformed("the update carries no assignment")) };
    };
    let envelope: Envelope = serde_json::from_value(value).map_err(malformed)?;
    if known.is_none() {
        // The first assignment names the project: its signature is checked below, and it stays that project for ever.
        trust.project_id = envelope.decode::<Assignment>().map_err(malformed)?.project_id;
    }
    let accepted = match trust.accept_assignment(&envelope, now) {
        Ok(a) => a,
        // A reminder that says nothing new changes nothing, whatever is wrong with it.
        Err(_) if answer.no_update => return Ok((None, rotated.unwrap_or(trust))),
        Err(e) => return Err(e.into()),
    };
    let a = accepted.assignment.clone();
    if answer.no_update {
        // Of what runs here: a floor that rises or a revocation bars what there is to fall back to.
        if let Some(said) = polled.release.as_ref().and_then(|s| serde_json::from_value::<Envelope>(s.clone()).ok()) {
            match trust.accept_release(&said, &a, now) {
                Ok(state) => trust.release = Some(state),
                Err(why) => tracing::warn!("release statement: {why}"),
            }
        }
        trust.commit(&accepted);
        return Ok((None, trust));
    }
    if answer.generation.is_some_and(|g| g != a.generation) {
        return Err(malformed("the answer and its assignment name different generations"));
    }
    if let Some(statement) = &polled.release {
        let envelope: Envelope = serde_json::from_value(statement.clone()).map_err(malformed)?;
        trust.release = Some(trust.accept_release(&envelope, &a, now)?);
    } else {
        trust.released(&a)?;
    }
    trust.commit(&accepted);
    let order = Order {
        release: Release::of(a.bundle_id),
        generation: a.generation,
        rollout: a.rollout_id,
        artifact: a.artifact_hash,
        url: answer.artifact_url.clone().or_else(|| answer.download_url.clone()),
        version: answer.version.clone(),
        assignment: a,
    };
    Ok((Some(order), trust))
}

/// The weight that an accepted reminder names for what runs here: the answer that told it first may have been lost.
pub fn reminded_weight(answer: &PollAnswer, trust: &NodeTrust, active: Release) -> Option<u8> {
    let last = trust.last.as_ref().filter(|_| answer.no_update)?;
    (Release::of(last.bundle_id) == active).then_some(last.traffic_weight)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bundle::keys::{KeyPair, Role};
    use bundle::trust::{ASSIGNMENT_TYPE, RoleKeys, Roles, TrustDoc};
    use domain::{NodeId, Span};

    const NOW: Timestamp = Timestamp(1_800_000_000_000_000);
    const DAY: Span = Span::secs(24 * 3600);

    fn key(role: Role, n: u8) -> KeyPair {
        KeyPair::from_secret(role, &[n; 32])
    }

    fn doc(version: u64, root: u8, metadata: u8) -> TrustDoc {
        let one = |k: KeyPair| RoleKeys::one(k.public());
        let roles = Roles {
            root: one(key(Role::Root, root)),
            bundle: one(key(Role::Bundle, 2)),
            metadata: one(key(Role::Metadata, metadata)),
        };
        TrustDoc::new(version, NOW + DAY, roles, Vec::new())
    }

    fn who() -> Identity {
        let root = key(Role::Root, 1);
        Identity {
            node_id: "01900000-0000-7000-8000-000000000002".parse().unwrap(),
            node_key: "k".into(),
            name: "n".into(),
            project: "p".into(),
            root: Digest::parse(&root.key_id()).unwrap(),
            chain: vec![Envelope::sign(&doc(1, 1, 3), &[&root]).unwrap()],
            enrolled_at: NOW,
        }
    }

    fn assignment(generation: u64, bundle: u8) -> Assignment {
        Assignment {
            kind: ASSIGNMENT_TYPE.into(),
            node_id: who().node_id,
            project_id: "01900000-0000-7000-8000-000000000001".parse().unwrap(),
            bundle_id: Some(Digest([bundle; 32])),
            artifact_hash: Some(Digest([9; 32])),
            size_bytes: 10,
            rollout_id: None,
            generation,
            traffic_weight: 100,
            issued_at: NOW,
            expires_at: NOW + DAY,
            audit_head: None,
        }
    }

    fn polled(a: &Assignment, by: &KeyPair) -> Polled {
        let answer = PollAnswer {
            generation: Some(a.generation),
            assignment: Some(serde_json::to_value(a.sign(by).unwrap()).unwrap()),
            ..PollAnswer::default()
        };
        Polled { answer, trust: None, release: None }
    }

    fn code(r: Result<(Option<Order>, NodeTrust), Refused>) -> String {
        r.unwrap_err().0.split(": ").next().unwrap().to_string()
    }

    #[test]
    fn the_first_assignment_names_the_project_and_binds_the_node_to_it() {
        let metadata = key(Role::Metadata, 3);
        let (order, trust) = judge(None, &who(), &polled(&assignment(4, 1), &metadata), NOW).unwrap();
        assert_eq!((order.unwrap().generation, trust.project_id), (4, assignment(4, 1).project_id));
        let other = Assignment { project_id: ProjectId::NIL, ..assignment(5, 1) };
        assert_eq!(code(judge(Some(&trust), &who(), &polled(&other, &metadata), NOW)), "wrong_project");
        let stranger = Assignment { node_id: NodeId::NIL, ..assignment(5, 1) };
        assert_eq!(code(judge(Some(&trust), &who(), &polled(&stranger, &metadata), NOW)), "wrong_node");
    }

    #[test]
    fn only_the_metadata_key_assigns_and_generations_never_go_back() {
        let metadata = key(Role::Metadata, 3);
        let (_, trust) = judge(None, &who(), &polled(&assignment(4, 1), &metadata), NOW).unwrap();
        let check = |a: Assignment, k: &KeyPair| code(judge(Some(&trust), &who(), &polled(&a, k), NOW));
        assert_eq!(check(assignment(5, 1), &key(Role::Bundle, 2)), "bad_signature");
        assert_eq!(check(assignment(3, 1), &metadata), "stale_generation");
        assert_eq!(check(assignment(4, 2), &metadata), "generation_reused");
        assert_eq!(check(Assignment { expires_at: NOW - DAY, ..assignment(5, 1) }, &metadata), "expired");
        let future = Assignment { issued_at: NOW + DAY, ..assignment(5, 1) };
        assert_eq!(check(future, &metadata), "skipped", "clock trouble");
        let mut unsigned = polled(&assignment(5, 1), &metadata);
        unsigned.answer.assignment = None;
        assert_eq!(code(judge(Some(&trust), &who(), &unsigned, NOW)), "malformed");
    }

    #[test]
    fn another_root_is_refused_and_a_rotation_signed_by_both_is_taken() {
        let mut other = who();
        other.root = Digest([7; 32]);
        assert_eq!(code(judge(None, &other, &Polled::default(), NOW)), "wrong_root");

        let (old, new) = (key(Role::Root, 1), key(Role::Root, 11));
        let (_, trust) = judge(None, &who(), &polled(&assignment(4, 1), &key(Role::Metadata, 3)), NOW).unwrap();
        let mut p = polled(&assignment(5, 1), &key(Role::Metadata, 33));
        p.trust = Some(serde_json::to_value(Envelope::sign(&doc(2, 11, 33), &[&new]).unwrap()).unwrap());
        assert_eq!(code(judge(Some(&trust), &who(), &p, NOW)), "bad_signature", "not by the old root");
        p.trust = Some(serde_json::to_value([Envelope::sign(&doc(2, 11, 33), &[&new, &old]).unwrap()]).unwrap());
        let (order, rotated) = judge(Some(&trust), &who(), &p, NOW).unwrap();
        assert_eq!((order.unwrap().generation, rotated.trust.version), (5, 2));
    }

    #[test]
    fn a_reminder_tells_the_weight_of_what_runs_and_of_nothing_else() {
        let metadata = key(Role::Metadata, 3);
        let (_, trust) = judge(None, &who(), &polled(&assignment(4, 1), &metadata), NOW).unwrap();
        let shifted = Assignment { traffic_weight: 20, ..assignment(5, 1) };
        let mut p = polled(&shifted, &metadata);
        p.answer.no_update = true;
        let (_, kept) = judge(Some(&trust), &who(), &p, NOW).unwrap();
        assert_eq!(reminded_weight(&p.answer, &kept, Release::of(shifted.bundle_id)), Some(20));
        assert_eq!(reminded_weight(&p.answer, &kept, Release::Baseline), None, "it has failed here, or was left");
        p.answer.no_update = false;
        assert_eq!(reminded_weight(&p.answer, &kept, Release::of(shifted.bundle_id)), None, "it is followed");
    }

    #[test]
    fn a_reminder_moves_the_time_and_nothing_else() {
        let metadata = key(Role::Metadata, 3);
        let (_, trust) = judge(None, &who(), &polled(&assignment(4, 1), &metadata), NOW).unwrap();
        let later = Assignment { issued_at: NOW + Span::secs(60), ..assignment(4, 1) };
        let mut p = polled(&later, &metadata);
        p.answer.no_update = true;
        let (order, kept) = judge(Some(&trust), &who(), &p, NOW + Span::secs(60)).unwrap();
        assert!(order.is_none());
        assert_eq!(kept.highest_seen, later.issued_at);
        // A clock that was set back does not revive what has expired since.
        let expired = Assignment { expires_at: NOW - Span::secs(3600), ..assignment(5, 1) };
        assert_eq!(code(judge(Some(&kept), &who(), &polled(&expired, &metadata), NOW - DAY)), "skipped");
    }
}
