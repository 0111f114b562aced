//! Budgets, back-off, the directory, and the family's own end.

use super::super::{Budget, StartError, call_with_deadline};
use super::{Act, Ask, BACKOFF, Bench, CHILD, Point, Restart, WIDE, eventually, settle};
use domain::Span;
use futures_util::future::join_all;
use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

const NARROW: Budget = Budget { restarts: 6, within: Span::secs(60) };
/// Only failures wait for it.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn starting_is_idempotent_also_for_many_callers_at_once() {
    let bench = Bench::new(Restart::Transient).await;
    let callers = join_all((0..100).map(|_| bench.family.start_child(7))).await;
    let actors: HashSet<_> = callers.into_iter().map(|child| child.unwrap().get_id()).collect();
    assert_eq!((actors.len(), bench.script.starts()), (1, 1));
    let child = bench.family.start_child(7).await.unwrap();
    assert_eq!(bench.family.lookup(&7).as_ref(), Some(&child));
    let echo = call_with_deadline(&child, PATIENCE, |reply| Ask::Echo(5, reply)).await;
    assert_eq!(echo, Ok(5));
    assert_eq!((bench.family.stop_child(&7).await, bench.family.stop_child(&7).await), (Ok(true), Ok(false)));
    assert_eq!((bench.family.lookup(&7), bench.family.directory().len()), (None, 0));
}

#[tokio::test]
async fn one_poisoned_child_is_given_up_once_and_its_siblings_never_notice() {
    let bench = Bench::with(Restart::Transient, Budget { restarts: 0, ..CHILD }, &[], WIDE).await;
    let sibling = bench.family.start_child(1).await.unwrap();
    bench.script.set(666, Point::PreStart, Act::Panic);
    assert!(bench.family.start_child(666).await.is_err());
    for _ in 0..CHILD.restarts {
        eventually("the back-off", || bench.hand.sleepers() == 1).await;
        assert_eq!(bench.script.given_up(), [0; 0]);
        let starts = bench.script.starts();
        bench.hand.advance(BACKOFF.cap);
        eventually("the restart", || bench.script.starts() == starts + 1).await;
    }
    eventually("the giving up", || bench.script.given_up() == [666]).await;
    for _ in 0..10 {
        bench.hand.advance(BACKOFF.cap);
        settle().await;
        assert!(matches!(bench.family.start_child(666).await, Err(StartError::GivenUp { .. })));
    }
    assert_eq!(bench.script.given_up(), [666], "exactly once");
    assert_eq!(bench.script.starts(), 1 + 1 + CHILD.restarts, "and refused without being tried");
    let why = bench.script.given_up.lock().unwrap()[0].1.clone();
    assert_eq!((why.failures, why.last.as_str()), (CHILD.restarts + 1, "on purpose"));
    assert_eq!(bench.family.lookup(&1), Some(sibling), "the very same actor");
}

#[tokio::test]
async fn a_child_that_was_given_up_may_start_when_forgiven_or_after_a_while() {
    let bench = Bench::new(Restart::Temporary).await;
    bench.script.set(1, Point::PreStart, Act::Err);
    for _ in 0..CHILD.restarts {
        assert!(matches!(bench.family.start_child(1).await, Err(StartError::Failed(_))));
    }
    let given_up = bench.family.start_child(1).await;
    assert!(matches!(given_up, Err(StartError::GivenUp { .. })), "temporary children have a budget too: {given_up:?}");
    bench.script.set(1, Point::PreStart, Act::Well);
    assert_eq!(bench.family.start_child(1).await, given_up);
    bench.family.forgive(&1).await.unwrap();
    let child = bench.family.start_child(1).await.unwrap();

    bench.script.set(1, Point::PreStart, Act::Err);
    child.kill();
    child.wait(None).await.unwrap();
    for _ in 0..CHILD.restarts {
        assert!(bench.family.start_child(1).await.is_err());
    }
    bench.script.set(1, Point::PreStart, Act::Well);
    assert!(matches!(bench.family.start_child(1).await, Err(StartError::GivenUp { .. })));
    bench.hand.advance(CHILD.within);
    assert!(bench.family.start_child(1).await.is_ok());
    eventually("both were told", || bench.script.given_up() == [1, 1]).await;
}

#[tokio::test]
async fn failures_far_apart_never_add_up() {
    let bench = Bench::new(Restart::Transient).await;
    let mut child = bench.family.start_child(1).await.unwrap();
    for _ in 0..3 * CHILD.restarts {
        child.kill();
        child = bench.restarted(1, &child).await;
        bench.hand.advance(CHILD.within);
    }
    assert_eq!(bench.script.given_up(), [0; 0]);
}

#[tokio::test]
async fn back_off_grows_with_each_failure_and_is_capped() {
    // A budget that the cap is reached within.
    let bench = Bench::with(Restart::Transient, WIDE, &[], WIDE).await;
    bench.script.set(1, Point::PreStart, Act::Err);
    let _ = bench.family.start_child(1).await;
    let mut waits = Vec::new();
    for _ in 0..CHILD.restarts {
        eventually("the back-off", || bench.hand.sleepers() == 1).await;
        let Err(StartError::Restarting { at }) = bench.family.start_child(1).await else { panic!("it waits") };
        let wait = at.since(bench.clock.now());
        waits.push(wait.as_secs());
        bench.hand.advance(wait - Span(1));
        settle().await;
        let starts = bench.script.starts();
        assert_eq!(starts, waits.len(), "not a microsecond early");
        bench.hand.advance(Span(1));
        eventually("the restart", || bench.script.starts() == starts + 1).await;
        settle().await;
    }
    assert_eq!(waits, [1, 2, 4], "the cap of 5 s itself is proved in `budget`");
}

#[tokio::test]
async fn stopping_calls_off_a_planned_restart() {
    let bench = Bench::new(Restart::Permanent).await;
    let child = bench.family.start_child(1).await.unwrap();
    child.kill();
    eventually("the back-off", || bench.hand.sleepers() == 1).await;
    // Due, but its message is behind ours in the mailbox or not sent yet.
    bench.hand.advance(BACKOFF.cap);
    assert_eq!(bench.family.stop_child(&1).await, Ok(true));
    settle().await;
    assert_eq!((bench.script.starts(), bench.family.lookup(&1), bench.hand.sleepers()), (1, None, 0));
}

#[tokio::test]
async fn a_dead_actor_is_never_handed_out() {
    let bench = Bench::new(Restart::Temporary).await;
    for key in 0..200 {
        let child = bench.family.start_child(key).await.unwrap();
        if key % 2 == 0 {
            child.kill()
        } else {
            child.stop(None)
        }
        child.wait(None).await.unwrap();
        assert_eq!(bench.family.lookup(&key), None);
        let next = bench.family.start_child(key).await.unwrap();
        assert_ne!(next, child);
        assert_eq!(call_with_deadline(&next, PATIENCE, |r| Ask::Echo(1, r)).await, Ok(1));
    }
    let dead =
        bench.family.directory().snapshot().into_iter().filter(|(_, a)| !super::super::directory::takes_messages(a));
    assert_eq!(dead.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_while_a_child_ends_gets_the_next_one() {
    let bench = Bench::new(Restart::Transient).await;
    let child = bench.family.start_child(1).await.unwrap();
    bench.script.set(1, Point::PostStop, Act::Hang);
    child.cast(Ask::End).unwrap();
    eventually("its end began", || bench.family.lookup(&1).is_none()).await;
    let (next, ()) = tokio::join!(bench.family.start_child(1), async {
        settle().await;
        assert_eq!(bench.script.starts(), 1, "not beside the old one");
        bench.script.set(1, Point::PostStop, Act::Well);
        child.kill();
    });
    // The kill made a failure of it, so the caller is told to wait for the restart.
    assert!(matches!(next, Err(StartError::Restarting { .. })), "{next:?}");
    let child = bench.restarted(1, &child).await;

    child.cast(Ask::End).unwrap();
    eventually("its end began", || bench.family.lookup(&1).is_none()).await;
    assert_ne!(bench.family.start_child(1).await.unwrap(), child);
    assert_eq!(bench.script.most_at_once.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_family_over_its_budget_ends_and_its_parent_starts_it_again() {
    let bench = Bench::with(Restart::Transient, NARROW, &[1, 2, 3], WIDE).await;
    eventually("the initial children", || bench.family.directory().len() == 3).await;
    let old = bench.family.lookup(&3).unwrap();
    // Seven restarts of many children, none over its own budget.
    for key in 10..=10 + NARROW.restarts as u32 {
        bench.family.start_child(key).await.unwrap().kill();
    }
    eventually("the end of all", || bench.family.alive() == 0).await;
    assert_eq!(bench.family.directory().len(), 0);
    assert_eq!(bench.family.start_child(99).await, Err(StartError::Unavailable));
    eventually("the root's back-off", || bench.hand.sleepers() == 1).await;
    bench.hand.advance(BACKOFF.base);
    eventually("the initial children again", || bench.family.directory().len() == 3).await;
    assert_ne!(bench.family.lookup(&3), Some(old));
    assert!(bench.family.start_child(99).await.is_ok(), "the handle is still good");
    assert!(bench.metric("sentinel_cp_actor_restarts_total{actor=\"probe\"} 1"), "of the family itself");
    assert_eq!(bench.script.given_up(), [0; 0]);
}

#[tokio::test]
async fn a_family_that_fails_again_and_again_takes_the_root_with_it() {
    let none = Budget { restarts: 0, within: Span::secs(60) };
    let mut bench = Bench::with(Restart::Transient, NARROW, &[], none).await;
    for key in 0..=NARROW.restarts as u32 {
        bench.family.start_child(key).await.unwrap().kill();
    }
    let why = bench.root.ended().await.unwrap_err();
    assert!(why.contains("probe: more than 0 restarts") && why.contains("more than 6 restarts"), "{why}");
    eventually("nobody left", || bench.family.alive() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_killed_family_never_runs_a_key_twice() {
    let bench = Bench::with(Restart::Transient, WIDE, &[1, 2], WIDE).await;
    eventually("the initial children", || bench.family.directory().len() == 2).await;
    for _ in 0..20 {
        let child = bench.family.start_child(1).await.unwrap();
        child.cast(Ask::Do(Act::Hang)).unwrap();
        child.try_get_supervisor().unwrap().kill();
        eventually("the root's back-off", || bench.hand.sleepers() == 1).await;
        bench.hand.advance(BACKOFF.cap);
        eventually("a new child", || bench.family.lookup(&1).is_some_and(|a| a != child)).await;
    }
    assert_eq!(bench.script.most_at_once.load(Ordering::SeqCst), 1);
    eventually("the second child", || bench.family.directory().len() == 2).await;
    assert_eq!(bench.family.alive(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_family_waits_for_a_former_child_that_cannot_be_killed_yet() {
    let bench = Bench::with(Restart::Transient, WIDE, &[1], WIDE).await;
    eventually("the initial child", || bench.family.lookup(&1).is_some()).await;
    let child = bench.family.lookup(&1).unwrap();
    let (release, until) = std::sync::mpsc::channel();
    bench.script.take_log();
    child.cast(Ask::Block(until)).unwrap();
    eventually("it blocks", || !bench.script.log.lock().unwrap().is_empty()).await;
    child.try_get_supervisor().unwrap().kill();
    eventually("the root's back-off", || bench.hand.sleepers() == 1).await;
    bench.hand.advance(BACKOFF.cap);
    settle().await;
    assert_eq!((bench.script.starts(), bench.family.alive()), (1, 1), "the old one still runs, so no new one does");
    drop(release);
    eventually("a new child", || bench.family.lookup(&1).is_some_and(|a| a != child)).await;
    assert_eq!(bench.script.most_at_once.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_after_the_root_stopped() {
    let bench = Bench::with(Restart::Permanent, WIDE, &[1, 2, 3], WIDE).await;
    for key in 0..500 {
        let child = bench.family.start_child(key).await.unwrap();
        match key % 5 {
            0 => child.kill(),
            1 => child.cast(Ask::Do(Act::Panic)).unwrap(),
            2 => child.cast(Ask::Do(Act::Hang)).unwrap(),
            3 => child.cast(Ask::End).unwrap(),
            _ => {}
        }
    }
    settle().await;
    let (family, hand) = (bench.family.clone(), bench.hand.clone());
    assert_eq!(bench.root.stop(Duration::from_secs(60)).await, Ok(()));
    eventually("no actor", || family.alive() == 0).await;
    eventually("no timer", || hand.sleepers() == 0).await;
    assert_eq!(family.directory().len(), 0);
    assert_eq!(bench.script.running.lock().unwrap().values().sum::<usize>(), 0, "no state");
    assert_eq!(family.start_child(1).await, Err(StartError::Unavailable));
}

/// Not a benchmark: it is here so that a cost that grows with the number of children shows.
#[tokio::test]
async fn ten_thousand_children_start_and_end() {
    let bench = Bench::new(Restart::Temporary).await;
    let started = join_all((0..10_000).map(|key| bench.family.start_child(key))).await;
    assert!(started.iter().all(Result::is_ok));
    assert_eq!((bench.family.directory().len(), bench.family.alive()), (10_000, 10_000));
    assert_eq!(bench.root.stop(Duration::from_secs(60)).await, Ok(()));
    eventually("all gone", || bench.family.alive() == 0).await;
}
