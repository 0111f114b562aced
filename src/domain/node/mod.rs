//! Nodes: what they are, what they say, whether they are there, and which of them a selector means.

pub mod busy;
pub mod drift;
pub mod fold;
pub mod identity;
pub mod observation;
pub mod recent;
pub mod selector;
pub mod skew;
pub mod traffic;

pub use busy::Busy;
pub use fold::{Fold, GateVerdict, GateWindow, fails};
pub use identity::Instances;
pub use observation::{HealthClass, Metrics, Observation, Probed};
pub use recent::Recent;
pub use selector::{Match, Op, Selector};
pub use skew::SkewEstimate;
pub use traffic::Traffic;

use crate::access::text_enum;
use crate::id::*;
use crate::time::{Span, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub type Labels = BTreeMap<String, String>;

text_enum! {
    /// Heard within the stale time, or not; `unknown` is imported or restored and never heard.
    Presence { Online = "online", Offline = "offline", Unknown = "unknown" }
}

text_enum! {
    /// May it get bundles at all? Quarantined nodes came by open registration, conflicted ones are two processes with one credential:
    /// both wait to be adopted.
    Standing { Adopted = "adopted", Quarantined = "quarantined", Conflicted = "conflicted", Revoked = "revoked" }
}

text_enum! {
    /// What a node pushes beside its heartbeats: counts by period, single requests, events of its firewall.
    SampleKind { Metrics = "metrics", Request = "request", Waf = "waf" }
}

/// Counts up for each node and never goes down; a generation names one (bundle, weight) for ever. 0: nothing was ever assigned.
pub type Generation = u64;

#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub id: NodeId,
    pub org: OrgId,
    pub project: ProjectId,
    pub name: String,
    pub standing: Standing,
    /// SHA-256 of the node key (256 random bits, so a plain hash is enough).
    pub key_hash: Digest,
    /// Raised by rotation, revocation and replacement: what was issued before is void.
    pub credential_epoch: u32,
    pub labels: Labels,
    pub capabilities: Vec<String>,
    pub version: Option<String>,
    pub ip: Option<String>,
    pub hostname: Option<String>,
    pub metadata: serde_json::Value,
    pub presence: Presence,
    pub health: HealthClass,
    pub last_seen: Option<Timestamp>,
    /// How far its clock is ahead of ours, as estimated; `None` while it has not said when it sent anything.
    pub clock_skew: Option<Span>,
    /// It says "not now".
    pub busy: Option<Busy>,
    pub instance: Option<String>,
    pub generation: Generation,
    /// The newest generation that a poll answer has named to the node.
    pub handed_over: Generation,
    /// `None` with a generation above 0 is the baseline.
    pub desired_bundle: Option<BundleId>,
    pub desired_rollout: Option<RolloutId>,
    pub traffic_weight: u8,
    /// What the node last said it runs; `None` is its baseline, or never said.
    pub active_bundle: Option<BundleId>,
    pub staged_bundle: Option<BundleId>,
    /// The newest bundle that the engine has verified on it.
    pub verified_bundle: Option<BundleId>,
    pub pinned_bundle: Option<BundleId>,
    /// The first line of the last failure it reported, cleared by the next success.
    pub last_error: Option<String>,
    pub inserted_at: Timestamp,
    pub updated_at: Timestamp,
}

text_enum! {
    /// How a node's time with a bundle ended; the node's history, newest first, is where rollback looks.
    HistoryOutcome { Verified = "verified", Failed = "failed", RolledBack = "rolled_back", FellBack = "fell_back" }
}

/// One line of a node's history with bundles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    pub node: NodeId,
    pub at: Timestamp,
    pub bundle: Option<BundleId>,
    pub rollout: Option<RolloutId>,
    pub generation: Generation,
    pub outcome: HistoryOutcome,
    pub detail: Option<String>,
}

/// How many earlier bundles a rollout remembers for each node to go back to.
pub const MAX_PREVIOUS: usize = 4;

/// What a node can go back to, best first: its verified bundles from newest to oldest, without `leaving`,
/// without any that it failed on or was rolled back from afterwards. `history` is newest first, and may have lost its oldest entries;
/// `verified` is what was verified last and comes first, unless it was left for one of these reasons since.
pub fn previous_bundles(history: &[HistoryEntry], verified: Option<BundleId>, leaving: BundleId) -> Vec<BundleId> {
    let mut bad: Vec<BundleId> = Vec::new();
    let was_left = |b: BundleId| {
        let last = history.iter().find(|h| h.bundle == Some(b));
        last.is_some_and(|h| h.outcome != HistoryOutcome::Verified)
    };
    let mut out: Vec<BundleId> = verified.filter(|b| *b != leaving && !was_left(*b)).into_iter().collect();
    for h in history {
        let Some(b) = h.bundle else { continue };
        match h.outcome {
            HistoryOutcome::Verified => {
                if b != leaving && !bad.contains(&b) && !out.contains(&b) {
                    out.push(b);
                }
            }
            HistoryOutcome::Failed | HistoryOutcome::RolledBack | HistoryOutcome::FellBack => bad.push(b),
        }
        if out.len() == MAX_PREVIOUS {
            break;
        }
    }
    out
}

/// Names of nodes: 1-100 of `[A-Za-z0-9_.-]`, the first alphanumeric.
pub fn check_node_name(s: &str) -> Result<(), &'static str> {
    let b = s.as_bytes();
    if b.is_empty() || b.len() > 100 {
        return Err("must have 1 to 100 characters");
    }
    if !b[0].is_ascii_alphanumeric() || b.iter().any(|c| !(c.is_ascii_alphanumeric() || b"_.-".contains(c))) {
        return Err("must start with a letter or digit and have only letters, digits, '_', '.' and '-'");
    }
    Ok(())
}

/// At most this many labels on a node.
pub const MAX_LABELS: usize = 64;

/// Labels: keys 1-63 of `[A-Za-z0-9_./-]`, values up to 255 characters without control characters.
pub fn check_labels(labels: &Labels) -> Result<(), String> {
    if labels.len() > MAX_LABELS {
        return Err(format!("at most {MAX_LABELS} labels"));
    }
    for (k, v) in labels {
        if k.is_empty() || k.len() > 63 || k.bytes().any(|c| !(c.is_ascii_alphanumeric() || b"_./-".contains(&c))) {
            return Err(format!("label key {k:?}: 1 to 63 of letters, digits, '_', '.', '/' and '-'"));
        }
        if v.chars().count() > 255 || v.chars().any(char::is_control) {
            return Err(format!("label {k:?}: the value has more than 255 characters or control characters"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn b(n: u128) -> BundleId {
        BundleId(Uuid::from_u128(n))
    }
    fn h(bundle: u128, outcome: HistoryOutcome) -> HistoryEntry {
        HistoryEntry {
            node: NodeId::NIL,
            at: Timestamp(0),
            bundle: Some(b(bundle)),
            rollout: None,
            generation: 1,
            outcome,
            detail: None,
        }
    }

    #[test]
    fn what_was_verified_last_comes_first_unless_it_was_left_since() {
        use HistoryOutcome::*;
        let previous = |hist: &[HistoryEntry]| previous_bundles(hist, Some(b(2)), b(9));
        assert_eq!(previous(&[]), vec![b(2)], "its history was pruned");
        assert_eq!(previous(&[h(2, Verified), h(1, Verified)]), vec![b(2), b(1)]);
        assert_eq!(previous(&[h(2, Verified), h(2, RolledBack), h(2, Verified)]), vec![b(2)], "verified again");
        // It was taken back, and that it runs the older one again was heard too late to count.
        assert_eq!(previous(&[h(2, RolledBack), h(2, Verified), h(1, Verified)]), vec![b(1)]);
        assert_eq!(previous(&[h(2, Failed), h(2, Verified), h(1, Verified)]), vec![b(1)]);
        assert_eq!(previous_bundles(&[], Some(b(2)), b(2)), vec![]);
    }

    #[test]
    fn rollback_skips_what_failed_or_was_rolled_back_since() {
        use HistoryOutcome::*;
        // newest first: 3 verified (leaving), 2 rolled back, 2 verified, 1 verified
        let hist = [h(3, Verified), h(2, RolledBack), h(2, Verified), h(1, Verified)];
        assert_eq!(previous_bundles(&hist, None, b(3)), vec![b(1)]);
        assert_eq!(previous_bundles(&hist, None, b(9)), vec![b(3), b(1)]);
        assert_eq!(previous_bundles(&[], None, b(9)), vec![]);
    }

    #[test]
    fn node_names_follow_the_contract() {
        assert!(check_node_name("edge-1.eu_west").is_ok());
        for bad in ["", "-a", ".a", "a b", "a/b", "ä"] {
            assert!(check_node_name(bad).is_err(), "{bad}");
        }
        assert!(check_node_name(&"a".repeat(101)).is_err());
    }
}
