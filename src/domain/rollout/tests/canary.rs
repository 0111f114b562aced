//! Strategy `canary`: a step ends when its nodes have verified and the comparison with the old bundle says so, or a person does.

use super::super::analysis::{LOOKS, Outcome};
use super::db::Row;
use super::world::*;
use crate::rollout::*;

/// Four nodes in steps of one, one and two; who comes first is drawn by lot.
fn waiting() -> World {
    let mut w = World::started(canary(), 4);
    let first = w.on_their_way();
    assert_eq!(first.len(), 1);
    w.verifies(first[0]);
    w
}

fn outcomes(w: &World) -> Vec<Outcome> {
    let looks = w.facts.iter().filter_map(|f| match f {
        Fact::Analysed { look } => Some(look.outcome),
        _ => None,
    });
    looks.collect()
}

#[test]
fn a_step_waits_for_its_comparison_and_then_the_next_begins_in_the_same_decision() {
    let mut w = waiting();
    assert_eq!((w.reason(), w.on_their_way()), ("analysis", vec![]));
    w.serve(10, 0);
    assert_eq!(outcomes(&w), [], "not enough for a look: nothing is stored");
    w.serve(60, 0);
    assert_eq!(outcomes(&w), [Outcome::Hold]);
    w.serve(100, 0);
    assert_eq!(outcomes(&w), [Outcome::Hold, Outcome::Promote]);
    assert_eq!(w.on_their_way().len(), 1, "the next step is out");
    let look = w.r.head.analysis.unwrap().last.unwrap();
    assert_eq!((look.look, look.canary.requests, look.baseline.requests), (LOOKS, 100, 300));
}

#[test]
fn readings_that_say_nothing_new_write_nothing() {
    let mut w = waiting();
    w.serve(60, 0);
    let same = w.readings(60, 0);
    w.ignored(same);
    let fewer = w.readings(0, 0);
    w.ignored(fewer);
}

#[test]
fn the_last_step_is_judged_by_its_gates_alone() {
    let mut w = waiting();
    w.serve(100, 0);
    w.verifies(w.on_their_way()[0]);
    w.serve(100, 0);
    assert_eq!(w.on_their_way().len(), 2);
    w.all_verify(w.on_their_way());
    assert_eq!((w.phase(), outcomes(&w)), (Phase::Completed, vec![Outcome::Promote; 2]));
}

#[test]
fn a_worse_bundle_does_what_on_failure_says() {
    for (on_failure, phase) in
        [(OnFailure::Pause, Phase::Paused), (OnFailure::Fail, Phase::Failed), (OnFailure::Rollback, Phase::RollingBack)]
    {
        let mut w = World::started(Spec { on_failure, ..canary() }, 4);
        w.verifies(w.on_their_way()[0]);
        w.serve(50, 25);
        assert_eq!((w.phase(), outcomes(&w)), (phase, vec![Outcome::Worse]));
        assert_eq!(w.on_their_way(), Vec::<u32>::new());
    }
}

#[test]
fn after_a_worse_look_resume_needs_a_decision() {
    let mut w = waiting();
    w.serve(50, 25);
    assert_eq!(w.causes(), [PauseCause::Gate]);
    w.refused(Event::Resume { retry: false, accept_failed: false });
    let mut again = w.clone();
    again.retry();
    assert_eq!((again.phase(), again.reason()), (Phase::Running, "analysis"));
    again.serve(100, 0);
    assert_eq!(outcomes(&again), [Outcome::Worse, Outcome::Promote]);
    w.accept();
    assert_eq!(outcomes(&w), [Outcome::Worse, Outcome::Overruled]);
    assert_eq!(w.on_their_way().len(), 1);
}

#[test]
fn too_little_data_at_the_deadline_is_inconclusive_and_never_a_failure() {
    let mut w = waiting();
    w.serve(30, 0);
    w.pass_time(599);
    assert_eq!(w.phase(), Phase::Running);
    w.pass_time(2);
    assert_eq!((w.causes(), w.reason()), (vec![PauseCause::Inconclusive], "inconclusive"));
    assert_eq!((w.r.head.failures, outcomes(&w)), (0, vec![Outcome::Hold, Outcome::Inconclusive]));
    w.resume();
    assert_eq!(outcomes(&w)[2], Outcome::Overruled);
    assert_eq!(w.on_their_way().len(), 1, "a person took the place of the answer, for this one step");
}

#[test]
fn the_deadline_of_the_comparison_stands_still_while_the_rollout_does() {
    let mut w = waiting();
    w.pass_time(300);
    w.pause();
    w.pass_time(10_000);
    w.resume();
    w.pass_time(299);
    assert_eq!(w.phase(), Phase::Running);
    w.pass_time(2);
    assert_eq!(w.causes(), [PauseCause::Inconclusive]);
}

#[test]
fn without_a_baseline_the_gates_alone_decide_and_that_is_recorded() {
    let mut w = World::new(canary(), vec![Row::on(None); 4]).start();
    w.all_verify(w.on_their_way());
    assert_eq!(outcomes(&w)[0], Outcome::NoBaseline);
}

#[test]
fn readings_of_another_generation_or_of_strangers_do_not_count() {
    let mut w = waiting();
    let Event::Readings { mut readings } = w.readings(100, 0) else { unreachable!() };
    readings.iter_mut().for_each(|r| r.generation += 1);
    w.ignored(Event::Readings { readings });
    let stranger = analysis::Reading { node: super::db::id(99), generation: 1, requests: 999, errors: 9, p99_us: None };
    w.ignored(Event::Readings { readings: vec![stranger] });
}

#[test]
fn while_paused_nothing_is_looked_at() {
    let mut w = waiting();
    let all = w.readings(100, 50);
    w.pause();
    w.ignored(all);
    assert_eq!(compared(&w.r), []);
}
