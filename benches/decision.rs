//! What one report costs the engine, by the size of the rollout: it must not grow.

use crate::Failure;
use crate::table::{Bar, Table, median};
use domain::node::HealthClass;
use domain::project::Amount;
use domain::rollout::{Candidate, Event, Facts, Report, Rollout, Said, Spec, apply_all, create, decide};
use domain::{BundleId, NodeId, ProjectId, RolloutId, Timestamp};
use std::hint::black_box;
use std::time::Instant;
use uuid::Uuid;

const BATCH: u32 = 10;
const NOW: Timestamp = Timestamp(1_790_000_000_000_000);

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
fn running(members: u32) -> Result<(Rollout, BundleId), Failure> {
    let bundle = BundleId(Uuid::from_u128(9));
    let mut spec = Spec::new(bundle);
    spec.batch_size = Amount::Count(BATCH);
    let candidates: Vec<Candidate> = (0..members)
        .map(|i| Candidate { facts: facts(i), name: format!("n-{i:06}"), spread: None, first: false })
        .collect();
    let planned = create(RolloutId(Uuid::from_u128(1)), ProjectId(Uuid::from_u128(2)), spec, &candidates);
    let mut r = Rollout::load(planned);
    let start = Event::Start { facts: (0..members).map(facts).collect() };
    let decision = decide(&r, &start, NOW).map_err(|e| format!("{e:?}"))?;
    apply_all(&mut r, &decision);
    Ok((r, bundle))
}

/// Microseconds of deciding and applying one report, median of many.
fn cost(members: u32) -> Result<f64, Failure> {
    let (r, bundle) = running(members)?;
    let mut took = Vec::new();
    for round in 0..40 {
        let mut r = if members > 10_000 && round > 2 { continue } else { r.clone() };
        for i in 0..BATCH {
            for said in [Said::Downloaded { bundle: Some(bundle) }, Said::Staged { bundle: Some(bundle) }] {
                let report = Report { node: facts(i).node, generation: None, said };
                let event = Event::Reports { reports: vec![report] };
                let begun = Instant::now();
                let decision = decide(&r, &event, NOW).map_err(|e| format!("{e:?}"))?;
                apply_all(&mut r, &decision);
                took.push(begun.elapsed().as_nanos() as f64 / 1e3);
                if black_box(decision.changes.is_empty()) {
                    return Err("the report changed nothing: this measures the wrong thing".into());
                }
            }
        }
    }
    Ok(median(&took))
}

pub fn run(table: &mut Table) -> Result<(), Failure> {
    let b = "decision";
    cost(1_000)?;
    let small = cost(10)?;
    let middle = cost(1_000)?;
    let large = cost(100_000)?;
    table.add(b, "decide and apply one report, 10 members", small, "us", Bar::None);
    table.add(b, "decide and apply one report, 1,000 members", middle, "us", Bar::None);
    table.add(b, "decide and apply one report, 100,000 members", large, "us", Bar::None);
    let bar = Bar::AtMost { floor: 10.0, aim: 3.0 };
    table.add(b, "100,000 members / 10 members (1 would be flat, 10,000 linear)", large / small, "x", bar);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_reports_that_are_measured_move_their_nodes() {
        assert!(cost(20).unwrap() > 0.0);
    }
}
