//! Going back where the proxies must restart: those that serve take turns, all others go at once.

use super::db::{Row, bundle, id};
use super::world::*;
use crate::node::{GateVerdict, HealthClass, HistoryOutcome};
use crate::project::Amount;
use crate::rollout::*;
use crate::time::Span;

fn restarting(spec: Spec) -> Spec {
    Spec { restarts: true, ..spec }
}
fn limited(n: u32) -> Spec {
    Spec { max_unavailable: Some(Amount::Count(n)), ..restarting(at_once()) }
}

/// All of `n` nodes verified, and the rollback begun.
fn back(spec: Spec, n: u32) -> World {
    let mut w = World::started(spec, n);
    w.all_verify(1..=n);
    assert_eq!(w.phase(), Phase::Completed);
    w.rollback();
    w
}

impl World {
    fn waiting(&self) -> Vec<u32> {
        self.going_back(waits_back)
    }
    fn told_back(&self) -> Vec<u32> {
        self.going_back(|m| !waits_back(m))
    }
    fn going_back(&self, is: fn(&Member) -> bool) -> Vec<u32> {
        let back = |n: &u32| self.kind(*n) == NodeStateKind::RollingBack && is(self.member(*n));
        (1..=self.r.members.len() as u32).filter(back).collect()
    }
}

fn ended(d: &Decision, n: u32) -> Option<HistoryOutcome> {
    d.changes.iter().find_map(|c| match c {
        Change::HistoryEnded { node, how, .. } if *node == id(n) => Some(*how),
        _ => None,
    })
}

#[test]
fn healthy_nodes_go_back_within_max_unavailable_and_each_that_is_restored_makes_room() {
    let mut w = back(limited(2), 5);
    assert_eq!((w.told_back(), w.waiting()), (vec![1, 2], vec![3, 4, 5]));
    assert_eq!(w.desired(3), Some(target()), "it runs what it ran until its turn comes");
    assert_eq!((w.r.head.restoring, w.r.head.unavailable, w.r.head.budget.updating), (5, 2, 2));
    let d = w.verifies(2);
    assert_eq!((w.told_back(), w.waiting()), (vec![1, 3], vec![4, 5]), "in the same decision as the report");
    assert_eq!(ended(&d, 3), Some(HistoryOutcome::RolledBack));
    w.all_verify([1, 3, 4, 5]);
    assert_eq!((w.phase(), w.r.head.counts.rolled_back), (Phase::RolledBack, 5));
}

#[test]
fn where_nothing_restarts_everybody_goes_back_at_once() {
    let w = back(Spec { restarts: false, ..limited(1) }, 5);
    assert_eq!(w.told_back(), vec![1, 2, 3, 4, 5]);
}

#[test]
fn without_a_limit_it_is_the_larger_of_the_batch_and_a_tenth() {
    assert_eq!(back(restarting(at_once()), 9).told_back(), vec![1], "one is the least there is");
    assert_eq!(back(restarting(at_once()), 39).told_back().len(), 3);
    let batch = Spec { batch_size: Amount::Count(4), ..restarting(at_once()) };
    assert_eq!(back(batch.clone(), 9).told_back().len(), 4);
    assert_eq!(back(Spec { max_unavailable: Some(Amount::Count(0)), ..batch }, 9).told_back().len(), 4);
    let fifth = Spec { max_unavailable: Some(Amount::Percent(20)), ..restarting(at_once()) };
    assert_eq!(back(fifth, 14).told_back().len(), 2);
}

#[test]
fn who_does_not_serve_or_does_not_run_it_yet_goes_back_at_once() {
    let mut w = World::started(
        Spec { judge: GateSpec { soak: Span::secs(60), ..GateSpec::default() }, ..restarting(at_once()) },
        8,
    );
    w.all_verify([1, 2, 3, 4]);
    w.health(2, HealthClass::Unhealthy);
    w.goes_silent(3);
    w.activates(5);
    w.poll(6);
    w.fails(7);
    assert_eq!((w.phase(), w.failed(7)), (Phase::Paused, Some(FailReason::Reported)));
    w.rollback();
    assert_eq!(w.told_back(), vec![2, 3, 6, 7, 8], "ill, away, not there yet, failed, never told");
    assert_eq!(w.waiting(), vec![1, 4, 5], "four are out of service, and one may be");
    assert!(w.db.row(id(3)).debt.unwrap().restore);
    w.all_verify([2, 6, 7]);
    assert_eq!(w.waiting(), vec![1, 4, 5], "the last one is still out of service");
    w.verifies(8);
    w.health(2, HealthClass::Healthy);
    assert_eq!(w.waiting(), vec![4, 5]);
}

#[test]
fn one_that_falls_ill_while_it_waits_goes_back_now() {
    let mut w = back(limited(1), 4);
    w.health(3, HealthClass::Degraded);
    assert_eq!((w.told_back(), w.waiting()), (vec![1, 3], vec![2, 4]));
    let mut fails = back(limited(1), 4);
    let d = fails.feed(fails.said(4, Said::Failed { bundle: Some(target()), error: "it broke".into() }));
    assert_eq!((fails.told_back(), ended(&d, 4)), (vec![1, 4], Some(HistoryOutcome::Failed)));
    assert_eq!(fails.r.head.failures, 0, "it is on its way back, and is no failure of the rollout any more");
    let mut judged = back(limited(1), 4);
    let d = judged.gate(4, GateVerdict::Fail);
    assert_eq!((judged.told_back(), ended(&d, 4)), (vec![1, 4], Some(HistoryOutcome::Failed)));
    let mut fell = back(limited(1), 4);
    let d = fell.feed(fell.said(4, Said::Active { bundle: Some(old()) }));
    assert_eq!((fell.told_back(), ended(&d, 4)), (vec![1, 4], Some(HistoryOutcome::FellBack)));
}

#[test]
fn what_one_that_waits_says_of_the_target_changes_nothing() {
    let mut w = back(limited(1), 2);
    let bundle = Some(target());
    for said in [
        Said::Downloaded { bundle },
        Said::Staged { bundle },
        Said::Activated { bundle },
        Said::Verified { bundle },
        Said::Active { bundle },
    ] {
        w.ignored(w.said(2, said));
    }
    for verdict in [GateVerdict::Pass, GateVerdict::Unknown] {
        w.tick(1);
        let window = w.window(2, verdict);
        w.ignored(Event::Gates { windows: vec![window] });
    }
}

#[test]
fn one_that_goes_silent_while_it_waits_is_owed_its_way_back() {
    let mut w = back(limited(1), 3);
    let d = w.goes_silent(2);
    assert_eq!((w.desired(2), ended(&d, 2)), (Some(old()), Some(HistoryOutcome::RolledBack)));
    let debt = w.db.row(id(2)).debt.unwrap();
    assert_eq!((debt.restore, debt.bundle), (true, Some(old())));
    assert_eq!(w.waiting(), vec![3], "one that is away is out of service without being restarted");
    w.all_verify([1, 3]);
    assert_eq!(w.phase(), Phase::RolledBack, "it does not hold the rollback");
    w.returns(2);
    w.verifies(2);
    assert_eq!(w.kind(2), NodeStateKind::RolledBack);
}

#[test]
fn one_that_only_flickered_keeps_its_turn() {
    let mut w = back(limited(1), 3);
    let changes = vec![w.presence(2, false), w.presence(2, true)];
    w.feed(Event::Presence { changes });
    assert_eq!((w.told_back(), w.waiting()), (vec![1], vec![2, 3]));
    assert_eq!(w.db.row(id(2)).debt, None);
}

#[test]
fn the_deadline_counts_from_the_newest_that_was_told_and_fails_nobody_that_waits() {
    let mut w = back(limited(1), 3);
    w.pass_time(200);
    w.verifies(1);
    w.pass_time(298);
    assert_eq!((w.kind(2), w.waiting()), (NodeStateKind::RollingBack, vec![3]));
    w.pass_time(2);
    assert_eq!((w.kind(2), w.waiting()), (NodeStateKind::RollbackFailed, vec![]));
    assert_eq!(w.told_back(), vec![3], "one that was not restored does not keep the others on the target");
    w.verifies(3);
    assert_eq!(w.phase(), Phase::RolledBack);
    assert!(w.facts.contains(&Fact::RolledBack { unrestored: 1 }));
}

#[test]
fn without_any_report_it_ends_by_itself_one_after_the_other() {
    let mut w = back(limited(1), 3);
    w.pass_time(899);
    assert_eq!(w.phase(), Phase::RollingBack);
    w.pass_time(1);
    assert_eq!((w.phase(), w.r.head.counts.rollback_failed), (Phase::RolledBack, 3));
}

#[test]
fn what_does_not_get_well_makes_it_slower_and_never_stops_it() {
    let mut w = World::started(limited(2), 5);
    w.all_verify([1, 2, 3, 4, 5]);
    w.rollback();
    for n in [1, 2] {
        w.verifies(n);
        w.health(n, HealthClass::Unhealthy);
    }
    assert_eq!((w.told_back(), w.waiting()), (vec![3], vec![4, 5]), "told before the second fell ill");
    w.verifies(3);
    assert_eq!((w.told_back(), w.waiting()), (vec![4], vec![5]), "one at a time");
    w.verifies(4);
    assert_eq!((w.told_back(), w.waiting()), (vec![5], vec![]));
}

#[test]
fn time_in_which_nobody_listened_does_not_count() {
    let mut w = back(limited(1), 2);
    w.r = Rollout::load(w.r.rows());
    w.tick(1_000);
    w.feed(Event::OwnerStarted { down: Span::secs(1_000) });
    assert_eq!((w.told_back(), w.waiting()), (vec![1], vec![2]));
    w.all_verify([1, 2]);
    assert_eq!((w.phase(), w.r.head.counts.rolled_back), (Phase::RolledBack, 2));
}

#[test]
fn a_bundle_that_is_revoked_meanwhile_is_not_what_anybody_goes_back_to() {
    let row = Row { previous: vec![bundle(5), bundle(6)], ..Row::on(Some(bundle(5))) };
    let mut w = World::new(limited(1), vec![row.clone(), row.clone(), row]).start();
    w.all_verify([1, 2, 3]);
    w.rollback();
    w.verifies(1);
    w.activates(2);
    let generation = w.generation(3);
    w.feed(Event::BundleRevoked { revoked: [bundle(5)].into() });
    assert_eq!((w.desired(3), w.generation(3)), (Some(target()), generation), "revocation moves nobody");
    w.passes(2);
    assert_eq!(w.desired(3), Some(bundle(6)));
    // Also when the command that began it was what told of the revocation.
    let row = Row { previous: vec![bundle(5), bundle(6), bundle(7)], ..Row::on(Some(bundle(5))) };
    let mut w = World::new(limited(1), vec![row.clone(), row]).start();
    w.all_verify([1, 2]);
    w.feed(Event::Rollback { note: None, nodes: None, revoked: [bundle(5)].into(), gone: Default::default() });
    w.feed(Event::BundleRevoked { revoked: [bundle(6)].into() });
    w.verifies(1);
    assert_eq!(w.desired(2), Some(bundle(7)));
}

#[test]
fn the_revoked_target_is_left_in_turns_too() {
    let mut w = World::started(Spec { on_failure: OnFailure::Rollback, ..limited(1) }, 3);
    w.all_verify([1, 2]);
    w.feed(Event::BundleRevoked { revoked: [target()].into() });
    assert_eq!((w.told_back(), w.waiting()), (vec![3], vec![1, 2]), "on its way, and it must not get there");
    w.verifies(3);
    assert_eq!((w.told_back(), w.waiting()), (vec![1], vec![2]));
}

#[test]
fn one_that_is_taken_away_waits_no_longer() {
    let mut w = back(limited(1), 5);
    assert!(w.r.spec.lets_go(w.member(2), target()), "it waits for its turn");
    w.feed(Event::Removed { nodes: vec![id(2)], reason: SkipReason::Pinned });
    assert_eq!((w.skipped(2), w.desired(2)), (Some(SkipReason::Pinned), Some(target())), "the pin says what it runs");
    w.feed(Event::Removed { nodes: vec![id(3)], reason: SkipReason::Deleted });
    let d = w.feed(Event::Removed { nodes: vec![id(4)], reason: SkipReason::Excluded });
    assert_eq!(
        (w.desired(4), ended(&d, 4)),
        (Some(old()), Some(HistoryOutcome::RolledBack)),
        "nobody else says what it runs"
    );
    assert_eq!((w.told_back(), w.waiting()), (vec![1], vec![5]));
    w.feed(Event::Removed { nodes: vec![id(1)], reason: SkipReason::Deleted });
    assert_eq!(w.told_back(), vec![5], "whoever leaves makes room");
    w.verifies(5);
    assert_eq!(w.phase(), Phase::RolledBack);
}

#[test]
fn restores_are_retried_at_once() {
    let mut w = back(limited(1), 3);
    w.pass_time(900);
    assert_eq!(w.r.head.counts.rollback_failed, 3);
    w.retry();
    assert_eq!((w.told_back(), w.waiting()), (vec![1, 2, 3], vec![]), "nobody waits for what failed");
    w.all_verify([1, 2, 3]);
    assert_eq!((w.phase(), w.r.head.counts.rolled_back), (Phase::RolledBack, 3));
}

#[test]
fn the_lane_comes_last_and_its_turn_comes_too() {
    let mut w = World::pending(limited(1), 3);
    w.db.row_mut(id(1)).online = false;
    let mut w = w.start();
    w.all_verify([2, 3]);
    w.returns(1);
    w.verifies(1);
    w.rollback();
    assert_eq!((w.told_back(), w.waiting()), (vec![2], vec![1, 3]));
    w.verifies(2);
    assert_eq!(w.waiting(), vec![1]);
    w.all_verify([3, 1]);
    assert_eq!(w.phase(), Phase::RolledBack);
}

#[test]
fn a_first_configuration_that_is_on_its_way_goes_back_at_once() {
    let mut w = World::new(limited(1), vec![Row::on(Some(old())), Row::on(None)]).start();
    w.verifies(1);
    w.activates(2);
    w.rollback();
    assert_eq!(w.told_back(), vec![2]);
    assert_eq!(w.waiting(), vec![1]);
}

#[test]
fn a_standby_half_goes_back_at_once_and_both_halves_in_turns() {
    let spec = Spec { max_unavailable: Some(Amount::Count(1)), ..restarting(blue_green()) };
    let mut w = World::started(spec.clone(), 4);
    w.all_verify([3, 4]);
    w.feed(Event::SwapSlot);
    w.weighs(3);
    let mut early = w.clone();
    early.rollback();
    assert_eq!((early.told_back(), early.waiting()), (vec![3, 4], vec![]), "the live half serves");
    w.weighs(4);
    w.all_verify([1, 2]);
    assert_eq!(w.phase(), Phase::Completed);
    w.rollback();
    assert_eq!((w.told_back().len(), w.waiting().len()), (1, 3));
}

#[test]
fn nobody_who_waits_holds_a_reservation() {
    let w = back(limited(2), 6);
    assert_eq!(w.r.head.budget.updating, 2);
    assert_eq!(w.r.head.restoring, 6);
    assert_eq!(w.reason(), "restoring");
    assert!(explain(&w.r).text.contains("4 wait for their turn"), "{}", explain(&w.r).text);
}

#[test]
fn at_most_a_thousand_are_told_in_one_commit() {
    let spec = Spec { max_unavailable: Some(Amount::Percent(100)), ..restarting(at_once()) };
    let n = MAX_ASSIGN_PER_COMMIT + 200;
    let mut w = World::started(spec, n);
    for node in 1..=n {
        w.poll(node);
    }
    let reports = (1..=n).map(|k| Report {
        node: id(k),
        generation: Some(w.generation(k)),
        said: Said::Activated { bundle: Some(target()) },
    });
    let event = Event::Reports { reports: reports.collect() };
    w.feed(event);
    w.tick(1);
    let windows = (1..=n).map(|k| w.window(k, GateVerdict::Pass)).collect();
    w.feed(Event::Gates { windows });
    assert_eq!(w.phase(), Phase::Completed);
    w.wakes = false;
    let d = w.rollback();
    assert_eq!((w.told_back().len(), w.waiting().len()), (MAX_ASSIGN_PER_COMMIT as usize, 200));
    assert!(d.effects.contains(&Effect::Continue));
    w.feed(Event::Timer);
    assert_eq!(w.waiting().len(), 0);
}

#[test]
fn a_rollout_of_before_says_nothing_of_restarts_and_reads_the_same() {
    let text = serde_json::to_string(&spec()).unwrap();
    assert!(!text.contains("restarts"));
    assert!(!serde_json::from_str::<Spec>(&text).unwrap().restarts);
    let text = serde_json::to_string(&restarting(spec())).unwrap();
    assert!(serde_json::from_str::<Spec>(&text).unwrap().restarts);
}
