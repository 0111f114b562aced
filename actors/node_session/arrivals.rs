//! Sessions that have begun to read their node and cannot be found yet.
//!
//! Owns: whether something was said to one of them meanwhile. Invariant: a word to a session is in what it reads, or reaches it, or
//! is noted here: it is noted before the session is looked for, and the note is taken once the session can be found.

use dashmap::DashMap;
use domain::NodeId;

#[derive(Default)]
pub(super) struct Arrivals(DashMap<NodeId, bool>);

impl Arrivals {
    /// Before the node's row is read.
    pub fn begin(&self, node: NodeId) {
        self.0.insert(node, false);
    }

    /// Before the session is looked for.
    pub fn note(&self, node: &NodeId) {
        if let Some(mut said) = self.0.get_mut(node) {
            *said = true;
        }
    }

    /// The session can be found, or has ended. Was something said to it that it did not hear?
    pub fn end(&self, node: &NodeId) -> bool {
        self.0.remove(node).is_some_and(|(_, said)| said)
    }
}
