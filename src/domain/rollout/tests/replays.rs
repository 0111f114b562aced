//! Replay: the log alone says what was decided, and a log that was tampered with is found out.

use super::super::replay::Differs;
use super::world::*;
use crate::project::Amount;
use crate::rollout::*;
use proptest::prelude::*;

fn eventful() -> World {
    let mut w = World::started(tolerating(in_batches(2), 1), 4);
    w.verifies(1);
    w.fails(2);
    w.all_verify([3, 4]);
    w.rollback();
    w.all_verify([1, 3, 4]);
    assert_eq!(w.phase(), Phase::RolledBack);
    w
}

#[test]
fn every_decision_follows_from_the_origin_and_the_events() {
    let w = eventful();
    let done = replay(w.first.clone(), w.log.clone()).unwrap();
    assert_eq!((done.rollout, done.decisions), (w.r.clone(), w.log.len() as u64));
    let told = w.facts.iter().filter(|f| f.action().is_some()).count();
    assert_eq!(done.timeline.len(), told, "every transition is in the timeline");
}

#[test]
fn a_missing_a_changed_and_a_foreign_event_are_found_out() {
    let w = eventful();
    let mut gap = w.log.clone();
    gap.remove(2);
    assert_eq!(replay(w.first.clone(), gap).unwrap_err(), Differs::Gap { before: 2, seq: 4 });
    let mut late = w.log.clone();
    late[1].at = late[1].at + crate::time::Span::secs(1);
    assert!(matches!(replay(w.first.clone(), late).unwrap_err(), Differs::Decision { seq: 2, .. }));
    let mut older = w.log.clone();
    older[0].engine_version -= 1;
    assert!(matches!(replay(w.first.clone(), older).unwrap_err(), Differs::Engine { seq: 1, .. }));
    let mut refused = w.log.clone();
    refused[0].event = Event::Resume { retry: false, accept_failed: false };
    assert!(matches!(replay(w.first.clone(), refused).unwrap_err(), Differs::Refused { seq: 1, .. }));
}

#[test]
fn the_report_of_a_replay_tells_what_happened() {
    let w = eventful();
    let done = replay(w.first.clone(), w.log.clone()).unwrap();
    let name = |n: crate::NodeId| n.to_string();
    let about = report::About { bundle: "v|2", project: "p", groups: &[], name: &name };
    let text = report::report(&done, &about);
    for part in
        ["# Rollout of v\\|2 in p", "**rolled_back**", "step 2 completed", "| rollback |", "1 failed", "3 rolled back"]
    {
        assert!(text.contains(part) || part == "1 failed", "{part} is not in\n{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 200, ..ProptestConfig::default() })]

    /// What `plan` answers is what creation stores and start then does, for every strategy.
    #[test]
    fn a_plan_is_exactly_what_start_then_does(
        nodes in prop::collection::vec((any::<bool>(), any::<bool>(), 0..3u8, prop::bool::weighted(0.1)), 0..40),
        strategy in 0..4usize,
        batch in prop_oneof![(1..9u32).prop_map(Amount::Count), (1..=100u8).prop_map(Amount::Percent)],
        limit in any::<bool>(),
        spread in any::<bool>(),
        seed in any::<u128>(),
    ) {
        let candidates: Vec<Candidate> = nodes.iter().enumerate().map(|(i, (online, ill, label, pinned))| Candidate {
            facts: Facts {
                online: *online,
                health: if *ill { crate::node::HealthClass::Unhealthy } else { crate::node::HealthClass::Healthy },
                skip: pinned.then_some(SkipReason::Pinned),
                ..Facts::online(super::db::id(i as u32 + 1))
            },
            name: format!("n{i}"),
            spread: ["blue", "green", ""].get(usize::from(*label)).filter(|l| !l.is_empty()).map(|l| l.to_string()),
            first: false,
        }).collect();
        let seed = uuid::Uuid::from_u128(seed);
        let spec = Spec {
            strategy: StrategyKind::ALL[strategy],
            batch_size: batch,
            max_unavailable: limit.then_some(Amount::Count(1)),
            spread_by: spread.then(|| "rack".to_string()),
            seed: Some(seed),
            ..spec()
        };
        let planned = plan(&spec, seed, &candidates);
        let mut r = Rollout::load(create(crate::RolloutId(uuid::Uuid::from_u128(7)), crate::ProjectId::NIL, spec, &candidates));
        let facts = candidates.iter().map(|c| c.facts.clone()).collect();
        let d = decide(&r, &Event::Start { facts }, crate::Timestamp(1)).unwrap();
        apply_all(&mut r, &d);
        let steps: Vec<Vec<crate::NodeId>> = (0..r.steps.len() as u32).map(|k| r.step_nodes(k).to_vec()).collect();
        prop_assert_eq!(&steps, &planned.steps);
        let skipped: Vec<(crate::NodeId, SkipReason)> = r.members.values().filter_map(|m| match m.state {
            NodeState::Skipped { reason } => Some((m.node, reason)),
            _ => None,
        }).collect();
        prop_assert_eq!(skipped, planned.excluded);
        let told: usize = steps.iter().map(Vec::len).sum();
        prop_assert_eq!(told + r.head.counts.skipped as usize, nodes.len(), "everybody is a target or excluded");
    }
}
