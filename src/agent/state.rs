//! What the agent remembers: who it is, what it runs and why, what it still owes the control plane.

use crate::activation::Intent;
use crate::layout::{Layout, Release};
use bundle::trust::Envelope;
use bundle::verify::NodeTrust;
use domain::{Digest, NodeId, RolloutId, Timestamp};
use serde::{Deserialize, Serialize};
use std::io;

/// From the enrolment; `identity.json`, mode 0600.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Identity {
    pub node_id: NodeId,
    pub node_key: String,
    pub name: String,
    pub project: String,
    /// Key id of the pinned root.
    pub root: Digest,
    /// The trust documents shown at enrolment.
    pub chain: Vec<Envelope>,
    pub enrolled_at: Timestamp,
}

/// A generation that ended badly here. Not tried again: only a new generation is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    pub generation: u64,
    pub release: Release,
    pub why: String,
    pub at: Timestamp,
}

/// What the control plane has not yet acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owed {
    pub release: Release,
    pub generation: u64,
    pub rollout: Option<RolloutId>,
    /// `None`: activated and verified.
    pub failed: Option<String>,
    #[serde(default)]
    pub logs: Option<String>,
}

/// `state.json`: written whole, flushed, renamed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    pub active: Release,
    pub since: Option<Timestamp>,
    /// In words, for `status`.
    pub why: String,
    /// Pinned: kept on disk to go back to.
    pub previous: Option<Release>,
    /// The generation that `active` was last confirmed for.
    pub generation: u64,
    pub intent: Option<Intent>,
    /// `None` before the first assignment, which names the project.
    pub trust: Option<NodeTrust>,
    pub failed: Option<Failed>,
    pub owed: Option<Owed>,
    pub weight: Option<u8>,
    /// (generation, times) that an activation was cut off by a crash.
    #[serde(default)]
    pub interrupted: (u64, u32),
}

impl Default for State {
    fn default() -> Self {
        State {
            active: Release::Baseline,
            since: None,
            why: "nothing was assigned yet".into(),
            previous: None,
            generation: 0,
            intent: None,
            trust: None,
            failed: None,
            owed: None,
            weight: None,
            interrupted: (0, 0),
        }
    }
}

impl State {
    pub fn load(layout: &Layout) -> io::Result<State> {
        Ok(layout.read(&layout.state_file())?.unwrap_or_default())
    }

    pub fn save(&self, layout: &Layout) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        layout.write(&layout.state_file(), &bytes)
    }

    /// What must stay on disk.
    pub fn pinned(&self) -> Vec<Release> {
        let intent = self.intent.iter().flat_map(|i| [i.target, i.previous]);
        self.previous.into_iter().chain([self.active]).chain(intent).collect()
    }
}
