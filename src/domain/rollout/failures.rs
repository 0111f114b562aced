//! Failures of a rollout, grouped so that a person sees what they have in common: the first line of the error, then proxy version and
//! labels.

use super::state::{FailReason, Member, NodeState};
use crate::id::NodeId;
use crate::node::Labels;
use std::collections::{BTreeMap, BTreeSet};

/// Values of one label beyond this are not told apart: what has so many values explains nothing.
const MAX_VALUES: usize = 20;

/// A failed member, and what is known of its node.
#[derive(Clone, Debug)]
pub struct Failed<'a> {
    pub member: &'a Member,
    pub version: Option<&'a str>,
    pub labels: &'a Labels,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// How the nodes failed; one of them when the error does not tell them apart.
    pub reason: String,
    /// The first line of what they said, without what differs from node to node.
    pub error: String,
    pub nodes: BTreeSet<NodeId>,
    /// How many by proxy version; unknown is the empty text.
    pub versions: BTreeMap<String, u32>,
    /// How many by label and value.
    pub labels: BTreeMap<String, BTreeMap<String, u32>>,
}

/// Largest group first.
pub fn group<'a>(failed: impl IntoIterator<Item = Failed<'a>>) -> Vec<Group> {
    let mut groups: BTreeMap<(String, String), Group> = BTreeMap::new();
    for f in failed {
        let Some((reason, error)) = said(&f.member.state) else { continue };
        let key = (reason.clone(), shape(&error));
        let g = groups.entry(key).or_insert_with(|| Group {
            reason,
            error,
            nodes: BTreeSet::new(),
            versions: BTreeMap::new(),
            labels: BTreeMap::new(),
        });
        g.nodes.insert(f.member.node);
        *g.versions.entry(f.version.unwrap_or_default().to_string()).or_default() += 1;
        for (k, v) in f.labels {
            let values = g.labels.entry(k.clone()).or_default();
            if values.len() < MAX_VALUES || values.contains_key(v) {
                *values.entry(v.clone()).or_default() += 1;
            }
        }
    }
    let mut out: Vec<Group> = groups.into_values().collect();
    out.sort_by(|a, b| b.nodes.len().cmp(&a.nodes.len()).then_with(|| a.error.cmp(&b.error)));
    out
}

fn said(state: &NodeState) -> Option<(String, String)> {
    match state {
        NodeState::Failed { reason, error, .. } => {
            Some((reason.to_string(), error.clone().unwrap_or_else(|| FailReason::as_str(reason).to_string())))
        }
        NodeState::RollbackFailed { error, .. } => {
            Some(("rollback_failed".to_string(), error.clone().unwrap_or_default()))
        }
        NodeState::Pending
        | NodeState::Assigned
        | NodeState::Downloaded
        | NodeState::Staged
        | NodeState::Activated { .. }
        | NodeState::Verified { .. }
        | NodeState::Owed
        | NodeState::Skipped { .. }
        | NodeState::RollingBack { .. }
        | NodeState::RolledBack { .. } => None,
    }
}

/// An error text with every number as `#`: addresses, times and counts differ where the error does not.
fn shape(error: &str) -> String {
    let mut out = String::with_capacity(error.len());
    for c in error.lines().next().unwrap_or_default().trim().chars() {
        match (c.is_ascii_digit(), out.ends_with('#')) {
            (true, true) => {}
            (true, false) => out.push('#'),
            (false, _) => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::plan::member;
    use super::*;
    use crate::rollout::Facts;
    use crate::time::Timestamp;

    #[test]
    fn errors_that_differ_only_in_numbers_are_one() {
        let failed = |n: u128, error: &str| {
            let state = NodeState::Failed { reason: FailReason::Reported, at: Timestamp(0), error: Some(error.into()) };
            member(&Facts::online(NodeId(uuid::Uuid::from_u128(n))), None, 0, state)
        };
        let members = [
            failed(1, "port 8080 in use\nmore"),
            failed(2, "port 80 in use"),
            failed(3, "no such file"),
            member(&Facts::online(NodeId::NIL), None, 0, NodeState::Owed),
        ];
        let labels: Labels = [("rack".to_string(), "a".to_string())].into();
        let groups = group(members.iter().map(|member| Failed { member, version: Some("0.6.45"), labels: &labels }));
        assert_eq!(groups.iter().map(|g| g.nodes.len()).collect::<Vec<_>>(), [2, 1]);
        assert_eq!((groups[0].versions["0.6.45"], groups[0].labels["rack"]["a"]), (2, 2));
        assert_eq!(groups[1].error, "no such file");
    }
}
