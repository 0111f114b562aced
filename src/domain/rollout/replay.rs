//! Deciding again: from what a rollout began with and its stored events to every decision it made, byte for byte.

use super::event::{ENGINE_VERSION, Fact, LoggedEvent};
use super::plan::Origin;
use super::{Rollout, apply_all, decide};
use crate::id::Digest;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Names the form of an exported log; the first word of its first line.
pub const FORMAT: &str = "sentinel-cp/rollout-log/v1";

/// The first line of an exported log. Each further line is a [`LoggedEvent`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Opening {
    pub format: String,
    pub origin: Origin,
}

/// Where a replay came to.
#[derive(Clone, Debug)]
pub struct Replayed {
    pub rollout: Rollout,
    pub decisions: u64,
    /// What happened, when, and by which event. Moves of single nodes are left out.
    pub timeline: Vec<Moment>,
}

/// A line of a rollout's timeline.
#[derive(Clone, Debug, PartialEq)]
pub struct Moment {
    pub seq: u64,
    pub at: Timestamp,
    /// The event that brought it about.
    pub event: &'static str,
    pub fact: Fact,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Differs {
    #[error("event {seq}: decided by engine {stored}, this is engine {ENGINE_VERSION}")]
    Engine { seq: u64, stored: u32 },
    #[error("event {seq} follows event {before}: the log has a gap")]
    Gap { before: u64, seq: u64 },
    #[error("event {seq} ({event}) is refused here")]
    Refused { seq: u64, event: &'static str },
    #[error("event {seq} ({event}) is decided differently: {stored} is stored, {here} is what follows here")]
    Decision { seq: u64, event: &'static str, stored: Digest, here: Digest },
}

/// Decide every event again. The first difference ends it.
pub fn replay(origin: Origin, events: impl IntoIterator<Item = LoggedEvent>) -> Result<Replayed, Differs> {
    let mut done = Replayed { rollout: Rollout::load(origin.planned()), decisions: 0, timeline: Vec::new() };
    let mut before = 0;
    for e in events {
        let (seq, event) = (e.seq, e.event.name());
        if e.engine_version != ENGINE_VERSION {
            return Err(Differs::Engine { seq, stored: e.engine_version });
        }
        if seq != before + 1 {
            return Err(Differs::Gap { before, seq });
        }
        before = seq;
        let decision = decide(&done.rollout, &e.event, e.at).map_err(|_| Differs::Refused { seq, event })?;
        let here = decision.hash();
        if here != e.decision_hash {
            return Err(Differs::Decision { seq, event, stored: e.decision_hash, here });
        }
        apply_all(&mut done.rollout, &decision);
        done.decisions += 1;
        let told = decision.facts.into_iter().filter(|f| f.action().is_some());
        done.timeline.extend(told.map(|fact| Moment { seq, at: e.at, event, fact }));
    }
    Ok(done)
}
