//! Who is let in when more calls are under way than can be answered soon: nodes of an active step first.
//!
//! Owns: which nodes were told of an update, or reported on one, lately. Rebuilt from: the next polls and reports; until then such
//! a node is treated like any other.

use crate::supervision::{Admission, Overloaded, Ticket};
use dashmap::DashMap;
use domain::{NodeId, Span, Timestamp};

/// Calls under way beyond which only nodes of an active step are let in. At 20 us each these are worked off in 0.2 s on one
/// core, and in 10 s when each of them waits for the database; then whoever asked would have gone.
const ROUTINE: usize = 10_000;
/// A step of a rollout takes minutes; a node that was quiet for so long is not in the middle of one.
const ACTIVE_FOR: Span = Span::secs(600);
/// Nodes remembered: 40 bytes each. A step has fewer.
const MAX_ACTIVE: usize = 100_000;

pub(crate) struct Doors {
    all: Admission,
    routine: usize,
    active: DashMap<NodeId, Timestamp>,
}

impl Doors {
    pub fn new(all: Admission) -> Doors {
        Doors { all, routine: ROUTINE, active: DashMap::new() }
    }

    /// A place for a call of this node, or not. The time is only asked for under load.
    pub fn admit(&self, node: NodeId, now: impl FnOnce() -> Timestamp) -> Result<Ticket, Overloaded> {
        if self.all.under_way() >= self.routine && !self.is_active(node, now()) {
            return Err(Overloaded { actor: "node_session", limit: self.routine });
        }
        self.all.admit()
    }

    fn is_active(&self, node: NodeId, now: Timestamp) -> bool {
        self.active.get(&node).is_some_and(|since| now.since(*since) < ACTIVE_FOR)
    }

    /// The node was told of an update, or reports on one.
    pub fn works(&self, node: NodeId, now: Timestamp) {
        if self.active.len() >= MAX_ACTIVE {
            self.active.retain(|_, since| now.since(*since) < ACTIVE_FOR);
        }
        if self.active.len() < MAX_ACTIVE {
            self.active.insert(node, now);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::supervision::Metrics;

    fn node(n: u128) -> NodeId {
        NodeId(uuid::Uuid::from_u128(n))
    }

    #[test]
    fn under_load_nodes_of_an_active_step_are_let_in_and_others_are_told_to_come_again() {
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        let mut doors = Doors::new(Admission::new("node_session", 4, &metrics));
        doors.routine = 2;
        let at = |s: i64| Timestamp(s * 1_000_000);
        doors.works(node(1), at(0));
        let (one, _two) = (doors.admit(node(7), || at(1)).unwrap(), doors.admit(node(8), || at(1)).unwrap());
        assert_eq!(doors.admit(node(9), || at(1)).unwrap_err().limit, 2);
        let _three = doors.admit(node(1), || at(1)).unwrap();
        assert!(doors.admit(node(1), || at(601)).is_err(), "it was quiet for too long");
        let _four = doors.admit(node(1), || at(2)).unwrap();
        assert_eq!(doors.admit(node(1), || at(2)).unwrap_err().limit, 4, "there is an end for everybody");
        drop(one);
        assert!(doors.admit(node(1), || at(2)).is_ok() && doors.admit(node(9), || at(2)).is_err());
    }
}
