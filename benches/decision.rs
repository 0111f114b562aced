//! What one word of a node costs the engine, by the size of the rollout: it must not grow.
//!
//! Three kinds of word: a report that moves its node, the gate window that verifies it, and the window that completes a step and
//! assigns the next one in the same decision. Deciding and applying, without the commit; events are as the shell makes them.

use crate::Failure;
use crate::table::{Bar, Table, median, quantile};
use domain::node::{GateVerdict, GateWindow, HealthClass};
use domain::project::Amount;
use domain::rollout::{Candidate, Event, Facts, NodeState, Report, Rollout, Said, Spec, apply_all, create, decide};
use domain::{BundleId, NodeId, ProjectId, RolloutId, Span, Timestamp};
use std::hint::black_box;
use std::time::Instant;
use uuid::Uuid;

const BATCH: u32 = 10;
const NOW: Timestamp = Timestamp(1_790_000_000_000_000);
/// The sizes of the curve.
const SIZES: [u32; 5] = [10, 100, 1_000, 10_000, 100_000];
/// Steps that are walked through for each size, so that each figure is of a few hundred words; small rollouts are begun anew.
const STEPS: u32 = 40;

/// What deciding one word took, microseconds, and what followed from it.
#[derive(Default)]
struct Costs {
    us: Vec<f64>,
    changes: usize,
}

impl Costs {
    fn changes(&self) -> f64 {
        self.changes as f64 / self.us.len().max(1) as f64
    }
}

#[derive(Default)]
struct Curve {
    moves: Costs,
    verifies: Costs,
    completes: Costs,
}

fn facts(i: u32) -> Facts {
    Facts {
        node: NodeId(Uuid::from_u128(u128::from(i) + 1)),
        generation: 1,
        online: true,
        health: HealthClass::Healthy,
        previous: vec![BundleId(Uuid::from_u128(7))],
        first_config: false,
        skip: None,
    }
}

/// A running rollout whose first batch is assigned.
fn running(members: u32) -> Result<Rollout, Failure> {
    let mut spec = Spec::new(BundleId(Uuid::from_u128(9)));
    spec.batch_size = Amount::Count(BATCH);
    let candidates: Vec<Candidate> = (0..members)
        .map(|i| Candidate { facts: facts(i), name: format!("n-{i:06}"), spread: None, first: false })
        .collect();
    let planned = create(RolloutId(Uuid::from_u128(1)), ProjectId(Uuid::from_u128(2)), spec, &candidates);
    let mut r = Rollout::load(planned);
    let start = Event::Start { facts: (0..members).map(facts).collect() };
    let decision = decide(&r, &start, NOW).map_err(|e| format!("{e:?}"))?;
    apply_all(&mut r, &decision);
    Ok(r)
}

fn feed(r: &mut Rollout, event: &Event, now: Timestamp, costs: &mut Costs) -> Result<(), Failure> {
    let begun = Instant::now();
    let decision = decide(r, event, now).map_err(|e| format!("{e:?}"))?;
    apply_all(r, &decision);
    costs.us.push(begun.elapsed().as_nanos() as f64 / 1e3);
    costs.changes += decision.changes.len();
    if black_box(decision.changes.is_empty()) {
        return Err(format!("{event:?} changed nothing: this measures the wrong thing").into());
    }
    Ok(())
}

/// Walks a step of the rollout: every node of it reports its way, then is judged well.
fn walk(r: &mut Rollout, now: Timestamp, curve: &mut Curve) -> Result<(), Failure> {
    let bundle = r.spec.bundle;
    let is_assigned = |n: &&NodeId| r.members.get(n).is_some_and(|m| m.state == NodeState::Assigned);
    let nodes: Vec<NodeId> = r.step_nodes(r.head.step).iter().filter(is_assigned).copied().collect();
    for node in &nodes {
        let generation = r.members.get(node).map(|m| m.generation);
        let (downloaded, staged) = (Said::Downloaded { bundle: Some(bundle) }, Said::Staged { bundle: Some(bundle) });
        for said in [downloaded, staged, Said::Activated { bundle: Some(bundle) }] {
            let reports = vec![Report { node: *node, generation, said }];
            feed(r, &Event::Reports { reports }, now, &mut curve.moves)?;
        }
    }
    for (i, node) in nodes.iter().enumerate() {
        let at = now + Span::secs(1);
        let window = GateWindow {
            node: *node,
            generation: r.members.get(node).map_or(0, |m| m.generation),
            verdict: GateVerdict::Pass,
            first_pass: Some(at),
            last_fresh: at,
            worst: String::new(),
            n: 1,
            soaked: Span::ZERO,
            no_traffic: false,
        };
        let last = i + 1 == nodes.len();
        let costs = if last { &mut curve.completes } else { &mut curve.verifies };
        feed(r, &Event::Gates { windows: vec![window] }, at, costs)?;
    }
    Ok(())
}

fn curve(members: u32) -> Result<Curve, Failure> {
    let fresh = running(members)?;
    let (mut curve, mut r) = (Curve::default(), fresh.clone());
    for step in 0..STEPS {
        if r.head.phase.is_end() {
            r = fresh.clone();
        }
        walk(&mut r, NOW + Span::secs(10 * i64::from(step)), &mut curve)?;
    }
    Ok(curve)
}

pub fn run(table: &mut Table) -> Result<(), Failure> {
    let b = "decision";
    // Caches and the allocator know the way afterwards.
    curve(1_000)?;
    let mut ends: [[f64; 2]; 3] = [[0.0; 2]; 3];
    for members in SIZES {
        let c = curve(members)?;
        let of = |name: &str| format!("{members} members: {name}");
        for (i, (name, costs)) in [
            ("a report that moves its node", &c.moves),
            ("the window that verifies it", &c.verifies),
            ("the window that ends a step, and begins the next", &c.completes),
        ]
        .into_iter()
        .enumerate()
        {
            let middle = median(&costs.us);
            table.add(b, of(name), middle, "us", Bar::None);
            table.add(b, "  p99", quantile(&costs.us, 0.99), "us", Bar::None);
            table.add(b, "  rows that it changes", costs.changes(), "", Bar::None);
            // With ten members there is no next step to begin.
            if members == SIZES[usize::from(i == 2)] {
                ends[i][0] = middle;
            }
            ends[i][1] = middle;
        }
    }
    let flat = Bar::AtMost { floor: 10.0, aim: 3.0 };
    for (name, [small, large]) in [
        ("a report: 100,000 members / 10 (1 would be flat, 10,000 linear)", ends[0]),
        ("a verification: the same", ends[1]),
        ("a step: 100,000 members / 100 (1,000 would be linear)", ends[2]),
    ] {
        table.add(b, name, large / small, "x", flat);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_words_that_are_measured_move_their_nodes_and_complete_steps() {
        let c = curve(30).unwrap();
        assert_eq!(c.completes.us.len(), STEPS as usize);
        assert_eq!(c.moves.us.len(), 3 * (STEPS * BATCH) as usize);
        assert!(c.completes.changes() > c.verifies.changes(), "it begins the next step too");
    }
}
