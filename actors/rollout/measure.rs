//! A canary's comparison as far as it needs a clock and a database: whose traffic is counted, and what was counted since it began.
//!
//! Owns: the counts as of the beginning, in memory. Lost with the actor: then the data begins anew, and the alpha that was spent stays
//! spent, because the engine keeps it.

use crate::plane::ControlPlane;
use domain::rollout::analysis::{Analysis, Reading};
use domain::rollout::{Event, Rollout, compared};
use domain::*;
use std::collections::{BTreeSet, HashMap};
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// How often the counts are looked at.
pub(super) const LOOK_EVERY: Span = Span::secs(2);
/// Counts older than this are of nodes that have gone silent: a heartbeat of a counted node comes every few seconds.
const OLD: Span = Span::secs(120);

/// Projects whose nodes' traffic is counted, because some canary there runs.
#[derive(Default)]
pub(crate) struct Measured {
    /// None at all: the usual case costs one load.
    any: AtomicBool,
    projects: RwLock<BTreeSet<ProjectId>>,
}

impl Measured {
    pub fn contains(&self, project: ProjectId) -> bool {
        self.any.load(Ordering::Relaxed) && self.projects.read().is_ok_and(|p| p.contains(&project))
    }
    pub fn set(&self, projects: BTreeSet<ProjectId>) {
        self.any.store(!projects.is_empty(), Ordering::Relaxed);
        if let Ok(mut p) = self.projects.write() {
            *p = projects;
        }
    }
    fn add(&self, project: ProjectId) {
        if !self.contains(project) {
            if let Ok(mut p) = self.projects.write() {
                p.insert(project);
            }
            self.any.store(true, Ordering::Relaxed);
        }
    }
}

/// What the counts were when the analysis of a step began.
#[derive(Default)]
pub(super) struct Bases {
    of: Option<(u32, Span)>,
    nodes: HashMap<NodeId, Reading>,
}

impl Bases {
    /// What this node served since.
    fn since(&mut self, now: Reading) -> Reading {
        let base = self.nodes.entry(now.node).or_insert(now);
        if base.generation != now.generation {
            *base = now;
        }
        if now.requests < base.requests || now.errors < base.errors {
            // Its session began to count anew.
            *base = Reading { requests: 0, errors: 0, ..now };
        }
        Reading { requests: now.requests - base.requests, errors: now.errors - base.errors, ..now }
    }

    fn begin(&mut self, a: &Analysis) {
        if self.of != Some((a.step, a.since)) {
            *self = Bases { of: Some((a.step, a.since)), nodes: HashMap::new() };
        }
    }
}

impl ControlPlane {
    /// The readings that the engine must hear of, if anything is compared now.
    pub(super) async fn measure(&self, r: &Rollout, bases: &mut Bases) -> store::Result<Option<Event>> {
        let (nodes, Some(analysis)) = (compared(r), r.head.analysis) else { return Ok(None) };
        if nodes.is_empty() {
            return Ok(None);
        }
        self.inner.measured.add(r.project);
        bases.begin(&analysis);
        let counted = self.inner.store.readings(nodes, self.now() - OLD).await?;
        Ok(Some(Event::Readings { readings: counted.into_iter().map(|c| bases.since(c)).collect() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_served_before_and_what_a_new_session_forgot_does_not_count() {
        let mut bases = Bases::default();
        let reading =
            |generation, requests, errors| Reading { node: NodeId::NIL, generation, requests, errors, p99_us: None };
        let mut since = |r| {
            let served = bases.since(r);
            (served.requests, served.errors)
        };
        assert_eq!(since(reading(1, 500, 5)), (0, 0));
        assert_eq!(since(reading(1, 700, 6)), (200, 1));
        assert_eq!(since(reading(1, 30, 0)), (30, 0));
        assert_eq!(since(reading(2, 900, 9)), (0, 0));
    }

    #[test]
    fn projects_are_measured_while_one_of_their_canaries_runs() {
        let (m, p) = (Measured::default(), ProjectId::NIL);
        assert!(!m.contains(p));
        m.add(p);
        assert!(m.contains(p));
        m.set(BTreeSet::new());
        assert!(!m.contains(p));
    }
}
