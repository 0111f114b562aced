//! Every way to end, against permanent, transient and temporary.

use super::super::StartError;
use super::{Act, Ask, Bench, Point, Restart, eventually, settle};
use ractor::ActorRef;
use std::sync::atomic::Ordering;

/// How a running child is brought to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Panic,
    Error,
    Kill,
    KillInHandler,
    PanicInPostStop,
    ErrorInPostStop,
    StopFromOutside,
    StopByItself,
    Drain,
}

const FAILURES: [Way; 6] =
    [Way::Panic, Way::Error, Way::Kill, Way::KillInHandler, Way::PanicInPostStop, Way::ErrorInPostStop];
const NORMAL: [Way; 3] = [Way::StopFromOutside, Way::StopByItself, Way::Drain];

async fn bring_down(bench: &Bench, key: u32, child: &ActorRef<Ask>, way: Way) {
    match way {
        Way::Panic => child.cast(Ask::Do(Act::Panic)).unwrap(),
        Way::Error => child.cast(Ask::Do(Act::Err)).unwrap(),
        Way::Kill => child.kill(),
        Way::KillInHandler => {
            child.cast(Ask::Do(Act::Hang)).unwrap();
            settle().await;
            child.kill();
        }
        Way::PanicInPostStop | Way::ErrorInPostStop => {
            let act = if way == Way::PanicInPostStop { Act::Panic } else { Act::Err };
            bench.script.set(key, Point::PostStop, act);
            child.stop(None);
        }
        Way::StopFromOutside => child.stop(Some("enough".into())),
        Way::StopByItself => child.cast(Ask::End).unwrap(),
        Way::Drain => child.drain().unwrap(),
    }
    child.wait(None).await.unwrap();
    bench.script.set(key, Point::PostStop, Act::Well);
}

#[tokio::test(start_paused = true)]
async fn a_transient_child_comes_back_after_every_failure_and_after_nothing_else() {
    let bench = Bench::new(Restart::Transient).await;
    for (key, way) in (0..).zip(FAILURES) {
        let child = bench.family.start_child(key).await.unwrap();
        bring_down(&bench, key, &child, way).await;
        bench.restarted(key, &child).await;
    }
    for (key, way) in (100..).zip(NORMAL) {
        let child = bench.family.start_child(key).await.unwrap();
        bring_down(&bench, key, &child, way).await;
        settle().await;
        assert_eq!(bench.hand.sleepers(), 0, "{way:?}: no restart is planned");
        assert_eq!(bench.family.lookup(&key), None, "{way:?}");
        assert_ne!(bench.family.start_child(key).await.unwrap(), child, "{way:?}: it can be started again");
    }
    assert_eq!(bench.script.given_up(), [0; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_permanent_child_comes_back_after_every_end() {
    let bench = Bench::new(Restart::Permanent).await;
    for (key, way) in (0..).zip(FAILURES.into_iter().chain(NORMAL)) {
        let child = bench.family.start_child(key).await.unwrap();
        bring_down(&bench, key, &child, way).await;
        bench.restarted(key, &child).await;
    }
    let child = bench.family.lookup(&0).unwrap();
    assert_eq!(bench.family.stop_child(&0).await, Ok(true));
    settle().await;
    assert_eq!((bench.family.lookup(&0), bench.hand.sleepers()), (None, 0), "unless it was stopped on purpose");
    assert_ne!(bench.family.start_child(0).await.unwrap(), child);
}

#[tokio::test(start_paused = true)]
async fn a_temporary_child_never_comes_back_by_itself() {
    let bench = Bench::new(Restart::Temporary).await;
    for (key, way) in (0..).zip(FAILURES.into_iter().chain(NORMAL)) {
        let child = bench.family.start_child(key).await.unwrap();
        bring_down(&bench, key, &child, way).await;
        settle().await;
        assert_eq!((bench.family.lookup(&key), bench.hand.sleepers()), (None, 0), "{way:?}");
        assert_ne!(bench.family.start_child(key).await.unwrap(), child, "{way:?}: the next message starts it");
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_is_told_to_the_caller_and_tried_again_by_the_family() {
    for (point, act) in [
        (Point::Make, Act::Panic),
        (Point::PreStart, Act::Err),
        (Point::PreStart, Act::Panic),
        (Point::PreStart, Act::Hang),
        (Point::PostStart, Act::Err),
        (Point::PostStart, Act::Panic),
    ] {
        let bench = Bench::new(Restart::Transient).await;
        bench.script.set(1, point, act);
        let failed = bench.family.start_child(1).await;
        assert!(matches!(failed, Err(StartError::Failed(_))), "{point:?} {act:?}: {failed:?}");
        let again = bench.family.start_child(1).await;
        assert!(matches!(again, Err(StartError::Restarting { .. })), "{point:?} {act:?}: {again:?}");
        bench.script.set(1, point, Act::Well);
        bench.hand.advance(super::BACKOFF.base);
        eventually("the restart", || bench.family.lookup(&1).is_some()).await;
        assert_eq!(bench.family.alive(), 1, "{point:?} {act:?}: what failed is gone");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_start_of_a_temporary_child_is_only_told() {
    let bench = Bench::new(Restart::Temporary).await;
    bench.script.set(1, Point::PreStart, Act::Err);
    assert_eq!(bench.family.start_child(1).await, Err(StartError::Failed("on purpose".into())));
    assert_eq!(bench.hand.sleepers(), 0);
    bench.script.set(1, Point::PreStart, Act::Well);
    assert!(bench.family.start_child(1).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_child_that_hangs_while_starting_hangs_alone() {
    let bench = Bench::new(Restart::Temporary).await;
    bench.script.set(1, Point::PreStart, Act::Hang);
    let hangs = bench.family.start_child(1);
    let others = async {
        for key in 2..50 {
            bench.family.start_child(key).await.unwrap();
        }
        assert_eq!(bench.script.starts.load(Ordering::SeqCst), 49, "while the first one still hangs");
    };
    let (hung, ()) = tokio::join!(hangs, others);
    assert!(matches!(hung, Err(StartError::Failed(_))), "{hung:?}");
}

#[tokio::test(start_paused = true)]
async fn a_child_that_does_not_stop_is_killed_and_gone_when_stop_returns() {
    let bench = Bench::new(Restart::Permanent).await;
    for (key, hang_in) in [(1, None), (2, Some(Point::PostStop)), (3, Some(Point::PreStart))] {
        if let Some(point) = hang_in {
            bench.script.set(key, point, Act::Hang);
        }
        let start = bench.family.start_child(key);
        let stop = async {
            settle().await;
            if let Some(child) = bench.family.lookup(&key) {
                child.cast(Ask::Do(if hang_in.is_none() { Act::Hang } else { Act::Well })).unwrap();
                settle().await;
            }
            assert_eq!(bench.family.stop_child(&key).await, Ok(true), "{key}");
        };
        let (started, ()) = tokio::join!(start, stop);
        assert_eq!(started.err(), (key == 3).then_some(StartError::Stopped));
        settle().await;
        assert_eq!((bench.family.alive(), bench.hand.sleepers()), (0, 0), "{key}");
    }
}
