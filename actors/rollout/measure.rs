//! A canary's comparison, and the question whether untouched nodes fail too, as far as they need a clock and a database: whose traffic
//! is counted, and what was counted.
//!
//! Owns: the counts as of the beginning, in memory. Lost with the actor: then the data begins anew, and the alpha that was spent stays
//! spent, because the engine keeps it.

use crate::plane::ControlPlane;
use domain::rollout::analysis::{Analysis, Reading};
use domain::rollout::{Event, Rollout, answer, asked, compared};
use domain::*;
use std::collections::{BTreeMap, HashMap};
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// How often the counts are looked at.
pub(super) const LOOK_EVERY: Span = Span::secs(2);
/// Counts older than this are of nodes that have gone silent: a heartbeat of a counted node comes every few seconds.
const OLD: Span = Span::secs(120);

/// Projects whose nodes' traffic is counted, because rollouts there are under way.
#[derive(Default)]
pub(crate) struct Measured {
    /// None at all: the usual case costs one load.
    any: AtomicBool,
    /// True: it is written too, because one is compared or asks.
    projects: RwLock<BTreeMap<ProjectId, bool>>,
}

impl Measured {
    /// `None`: nothing is counted. `Some(true)`: what is counted is written.
    pub fn of(&self, project: ProjectId) -> Option<bool> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        self.projects.read().ok()?.get(&project).copied()
    }
    pub fn set(&self, projects: BTreeMap<ProjectId, bool>) {
        self.any.store(!projects.is_empty(), Ordering::Relaxed);
        if let Ok(mut p) = self.projects.write() {
            *p = projects;
        }
    }
    /// What is counted there is wanted now.
    pub(super) fn add(&self, project: ProjectId) {
        if self.of(project) != Some(true) {
            if let Ok(mut p) = self.projects.write() {
                p.insert(project, true);
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

    /// Do untouched nodes fail too? What is known of it by now, if the engine asks: what they said since, and fresh.
    pub(super) async fn ask_untouched(&self, r: &Rollout) -> store::Result<Option<Event>> {
        let (Some(nodes), Some(began)) = (asked(r), r.head.asked) else { return Ok(None) };
        let (judge, now) = (&r.spec.judge, self.now());
        let since = began.max(now - judge.freshness);
        let recent = self.inner.store.recent_readings(nodes.clone(), since).await?;
        Ok(Some(answer(r, &nodes, &recent, self.probed(judge).as_ref(), now)))
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
    fn projects_are_measured_while_rollouts_are_under_way_and_written_while_one_wants_it() {
        let (m, p) = (Measured::default(), ProjectId::NIL);
        assert_eq!(m.of(p), None);
        m.set([(p, false)].into());
        assert_eq!(m.of(p), Some(false));
        m.add(p);
        assert_eq!(m.of(p), Some(true));
        m.set(BTreeMap::new());
        assert_eq!(m.of(p), None);
    }
}
