//! Drift: a node runs something else than what was assigned to it, and nothing is under way that would explain it.

use crate::access::text_enum;
use crate::bundle::BundleStatus;
use crate::id::*;
use crate::time::{Span, Timestamp};
use serde::{Deserialize, Serialize};

text_enum! {
    /// How much it matters.
    Severity {
        /// It runs nothing of ours: its baseline.
        Low = "low",
        /// Another bundle of the project.
        Medium = "medium",
        /// A revoked bundle, or one that failed on this node.
        High = "high",
    }
}

text_enum! {
    /// How a drift ended.
    Resolution { Converged = "converged", Reassigned = "reassigned", Acknowledged = "acknowledged", Gone = "gone" }
}

/// A node that has been told for this long, and runs something else, has drifted: the way from hand-over to activation is shorter.
pub const GRACE: Span = Span::secs(60);

/// What a node shall run and runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    pub node: NodeId,
    pub expected: Option<BundleId>,
    pub found: Option<BundleId>,
    pub found_status: Option<BundleStatus>,
    /// `found` failed on this node, or it was rolled back from it.
    pub found_failed: bool,
}

impl Compared {
    pub fn severity(&self) -> Severity {
        match (self.found, self.found_status) {
            (None, _) => Severity::Low,
            (Some(_), Some(BundleStatus::Revoked)) => Severity::High,
            (Some(_), _) if self.found_failed => Severity::High,
            (Some(_), _) => Severity::Medium,
        }
    }
}

/// One drift, open until `resolved_at`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    pub id: uuid::Uuid,
    pub project: ProjectId,
    pub node: NodeId,
    pub expected: Option<BundleId>,
    pub found: Option<BundleId>,
    pub severity: Severity,
    pub detected_at: Timestamp,
    pub resolved_at: Option<Timestamp>,
    pub resolved_by: Option<UserId>,
    pub resolution: Option<Resolution>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_revoked_or_failed_here_matters_most() {
        let other = Compared {
            node: NodeId::NIL,
            expected: None,
            found: Some(BundleId::NIL),
            found_status: Some(BundleStatus::Compiled),
            found_failed: false,
        };
        assert_eq!(other.severity(), Severity::Medium);
        assert_eq!(Compared { found_failed: true, ..other.clone() }.severity(), Severity::High);
        assert_eq!(Compared { found_status: Some(BundleStatus::Revoked), ..other.clone() }.severity(), Severity::High);
        assert_eq!(Compared { found: None, ..other }.severity(), Severity::Low);
    }
}
