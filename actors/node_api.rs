//! What nodes say and are answered, between the front door and the node sessions. Plain values; wire shapes are `api`'s.

use domain::node::{Generation, HealthClass, Labels, Metrics};
use domain::*;

/// A node whose key (or token) was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeAuth {
    pub node: NodeId,
    pub project: ProjectId,
    pub org: OrgId,
    pub epoch: u32,
    pub key: KeyAge,
}

/// Which of a node's keys it came with; a token stands for the present one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyAge {
    Present,
    /// Replaced, and not over yet. `own`: by the node itself.
    Previous {
        until: Timestamp,
        own: bool,
    },
}

/// A bundle as a node names it: content id, row id, or `baseline`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BundleRef {
    Baseline,
    Content(ContentId),
    Row(BundleId),
}

impl BundleRef {
    /// 64 hex digits, a UUID, or `baseline`.
    pub fn parse(s: &str) -> Option<BundleRef> {
        if s == "baseline" {
            return Some(BundleRef::Baseline);
        }
        if let Some(d) = ContentId::parse(s) {
            return Some(BundleRef::Content(d));
        }
        s.parse::<BundleId>().ok().map(BundleRef::Row)
    }
}

#[derive(Clone, Debug, Default)]
pub struct Heartbeat {
    /// Outer `None`: not said. `Baseline` covers an explicit null.
    pub active: Option<BundleRef>,
    pub staged: Option<BundleRef>,
    pub health: Option<HealthClass>,
    pub metrics: Option<Metrics>,
    pub measured_at: Option<Timestamp>,
    pub sent_at: Option<Timestamp>,
    pub seq: Option<u64>,
    pub instance: Option<String>,
    pub generation: Option<Generation>,
    pub busy_until: Option<Timestamp>,
    pub version: Option<String>,
    pub ip: Option<String>,
    pub hostname: Option<String>,
    pub metadata: Option<serde_json::Value>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct HeartbeatAnswer {
    pub last_seen: Timestamp,
    pub heartbeat_after_s: u32,
    pub poll_now: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum PollAnswer {
    /// Nothing new. `assignment` is the signed envelope when there is a desired generation.
    NoUpdate {
        assignment: Option<serde_json::Value>,
        poll_after_s: u32,
    },
    Update(Box<Update>),
}

/// A poll answer with the signed documents that go along.
#[derive(Clone, Debug, PartialEq)]
pub struct Polled {
    pub answer: PollAnswer,
    /// Trust documents that the node has not got, oldest first: to be taken before the rest is judged.
    pub trust: Vec<serde_json::Value>,
    /// What the bundle key, where it is kept offline, says about the bundle.
    pub release: Option<serde_json::Value>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// `None`: back to the baseline; then there is no artifact.
    pub bundle: Option<UpdateBundle>,
    pub rollout: Option<RolloutId>,
    pub generation: Generation,
    pub traffic_weight: u8,
    pub assignment: serde_json::Value,
    pub poll_after_s: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct UpdateBundle {
    pub content_id: ContentId,
    pub version: Option<String>,
    pub artifact_url: String,
    pub artifact_hash: Digest,
    pub size_bytes: u64,
    pub signature: String,
    pub key_id: String,
}

/// The five report calls.
#[derive(Clone, Debug, PartialEq)]
pub enum ReportKind {
    Downloaded,
    Staged,
    Activated,
    Verified,
    Failed { error: String, logs: Option<String> },
}

#[derive(Clone, Debug, Default)]
pub struct ReportBody {
    pub generation: Option<Generation>,
    pub rollout: Option<RolloutId>,
    pub sent_at: Option<Timestamp>,
    pub measured_at: Option<Timestamp>,
    pub health: Option<HealthClass>,
    pub metrics: Option<Metrics>,
}

/// A line of a node's own log, as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct LogLine {
    pub kind: &'static str,
    pub detail: serde_json::Value,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ReportAnswer {
    pub state: String,
    /// `false` after `staged`: the assignment was withdrawn, do not switch.
    pub proceed: bool,
    pub heartbeat_now: bool,
    pub stale: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Registration {
    pub name: String,
    pub labels: Labels,
    pub capabilities: Vec<String>,
    pub version: Option<String>,
    pub ip: Option<String>,
    pub hostname: Option<String>,
    pub metadata: serde_json::Value,
}

#[derive(Clone, Debug)]
pub struct Registered {
    pub node: NodeId,
    /// Shown once; only its hash is kept.
    pub key: String,
    pub replaced: bool,
    pub poll_interval_s: u32,
    pub heartbeat_interval_s: u32,
    /// The signed trust document.
    pub trust: serde_json::Value,
    /// All its versions, oldest first: for whoever pinned an older root.
    pub trust_chain: Vec<serde_json::Value>,
}
