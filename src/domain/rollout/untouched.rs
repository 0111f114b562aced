//! Before an automatic rollback: do nodes that were never touched fail the gates too?
//!
//! An outage of what all nodes share must not take back an innocent change. Who is ill the engine knows; error rates, latencies, load and
//! the answers of probes it does not. So it asks ([`Head::asked`]), goes nowhere meanwhile, and decides by the stored answer
//! ([`Event::Untouched`]). Invariant: it never asks for longer than [`Draft::asked_until`] says; without an answer that settles it by
//! then, the change is taken back.

use super::draft::Draft;
use super::*;
use crate::node::{Metrics, Observation, Probed, fails};

/// Untouched members that are asked, at most: one row of readings each.
pub const MAX_ASKED: usize = 500;
/// How long an answer is waited for. Sessions remember the last half minute: where the rollout's owner hears the nodes it is there within
/// a few seconds. Other instances learn of the question, and write at the next heartbeat.
const ANSWERED_WITHIN: Span = Span::secs(15);

/// Online, and never told anything by this rollout: what goes wrong there is not its doing.
fn is_untouched(m: &Member) -> bool {
    m.online && m.told == Told::Nothing && matches!(m.state, NodeState::Pending | NodeState::Owed)
}

/// Whose gates the engine asks for, by id. `None`: it does not ask.
pub fn asked(r: &Rollout) -> Option<Vec<NodeId>> {
    r.head.asked?;
    Some(r.members.values().filter(|m| is_untouched(m)).take(MAX_ASKED).map(|m| m.node).collect())
}

/// The answer, as far as it is known: `nodes` judged once by the gates of the updated ones, on what they measured lately.
pub fn answer(
    r: &Rollout,
    nodes: &[NodeId],
    recent: &BTreeMap<NodeId, Metrics>,
    probed: Option<&Probed>,
    now: Timestamp,
) -> Event {
    let (mut failing, mut unknown) = (0, 0);
    for node in nodes {
        let observation = Observation {
            received: now,
            sent_at: None,
            measured_at: None,
            active: None,
            health: r.members.get(node).map(|m| m.health),
            metrics: recent.get(node).copied(),
            verified_report: false,
            probed: probed.cloned(),
        };
        match fails(&observation, &r.spec.judge) {
            Some(true) => failing += 1,
            Some(false) => {}
            None => unknown += 1,
        }
    }
    Event::Untouched { of: nodes.len() as u32, failing, unknown }
}

/// How often updated members fail, online ones only, and what is known of the untouched.
#[derive(Default)]
struct Tally {
    untouched: u64,
    ill: u64,
    updated: u64,
    failed: u64,
    /// Somebody failed by a gate that untouched nodes have not been judged by.
    by_gate: bool,
}

impl Tally {
    /// Do `n` of `of` untouched nodes fail at least half as often as updated ones? In whole numbers.
    fn is_as_often(&self, n: u64, of: u64) -> bool {
        n > 0 && 2 * n * self.updated >= self.failed * of
    }

    fn fleet_wide(&self) -> Option<String> {
        let Tally { ill, untouched, .. } = *self;
        self.is_as_often(ill, untouched).then(|| format!("{ill} of {untouched} untouched nodes are unhealthy too"))
    }
}

impl Draft<'_> {
    /// More nodes failed than tolerated, and `on_failure` says to take the change back.
    pub fn roll_back_unless_fleet_wide(&mut self, note: String) {
        let over = self.time_passed && self.asked_until().is_some_and(|t| t <= self.now);
        if self.head.asked.is_some() && !over {
            return;
        }
        let (tally, asked) = (self.tally(), self.head.asked.take().is_some());
        if let Some(why) = tally.fleet_wide() {
            self.pause(PauseCause::FleetWide, Some(why));
        } else if tally.by_gate && tally.untouched > 0 && !asked {
            self.head.asked = Some(self.now);
        } else {
            self.begin_rollback(true, Some(note), None, &BTreeSet::new(), &BTreeSet::new());
        }
    }

    /// The answer, or a part of it: taken when the rest cannot change what follows.
    pub fn untouched(&mut self, of: u32, failing: u32, unknown: u32) {
        if self.head.asked.is_none() {
            return;
        }
        let (tally, n) = (self.tally(), u64::from(failing));
        if tally.is_as_often(n, u64::from(of)) {
            self.head.asked = None;
            self.pause(PauseCause::FleetWide, Some(format!("{failing} of {of} untouched nodes fail the gates too")));
        } else if !tally.is_as_often(n + u64::from(unknown), u64::from(of)) {
            self.head.asked = None;
            let note = format!("{}; {failing} of {of} untouched nodes fail the gates", self.failures_note());
            self.begin_rollback(true, Some(note), None, &BTreeSet::new(), &BTreeSet::new());
        }
    }

    /// When the answer is waited for no longer.
    pub fn asked_until(&self) -> Option<Timestamp> {
        self.head.asked.map(|t| t + ANSWERED_WITHIN)
    }

    fn tally(&self) -> Tally {
        let judge = &self.spec().judge;
        let mut t = Tally::default();
        for m in self.base.members.keys().filter_map(|id| self.member(*id)).filter(|m| m.online) {
            match (&m.state, m.told) {
                _ if is_untouched(m) => {
                    t.untouched += 1;
                    t.ill += u64::from(m.health.is_bad());
                }
                (NodeState::Failed { reason, .. }, _) => {
                    t.updated += 1;
                    t.failed += 1;
                    let by_gate = matches!(reason, FailReason::Gate | FailReason::Flapping | FailReason::Regressed);
                    t.by_gate |= by_gate && (judge.gates.has_metrics() || !judge.probes.is_empty());
                }
                (_, Told::Target) => t.updated += 1,
                _ => {}
            }
        }
        t
    }
}
