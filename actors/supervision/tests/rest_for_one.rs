//! The root: order, restarts of the rest, and its own end.

use super::super::{Budget, ChildSpec, Restart, Root, RootSpec, Slot};
use super::{Act, Ask, BACKOFF, CHILD, Point, Probe, Script, WIDE, env, eventually, settle};
use crate::clock::ManualClock;
use domain::Span;
use ractor::ActorRef;
use std::sync::Arc;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

struct Tree {
    root: Root,
    slots: Vec<Slot<Ask>>,
    script: Arc<Script>,
    hand: ManualClock,
}

impl Tree {
    /// Children 0, 1, 2, ... in this order.
    async fn start(restarts: &[Restart], script: &Arc<Script>, child: Budget, all: Budget) -> Result<Tree, String> {
        let (env, hand, _) = env();
        let (mut children, mut slots) = (Vec::new(), Vec::new());
        for (key, restart) in (0..).zip(restarts) {
            let script = script.clone();
            let (spec, slot) = ChildSpec::new("probe", *restart, child, move || {
                if script.act(key, Point::Make) == Act::Panic {
                    panic!("on purpose");
                }
                (Probe { key, script: script.clone() }, ())
            });
            children.push(spec);
            slots.push(slot);
        }
        let root = Root::start(RootSpec { name: "root", children, budget: all, backoff: BACKOFF, env }).await?;
        Ok(Tree { root, slots, script: script.clone(), hand })
    }

    async fn of(restarts: &[Restart]) -> Tree {
        Tree::start(restarts, &Arc::default(), CHILD, WIDE).await.unwrap()
    }

    fn child(&self, key: usize) -> ActorRef<Ask> {
        self.slots[key].get().unwrap()
    }

    async fn back_off(&self) {
        eventually("the back-off", || self.hand.sleepers() == 1).await;
        let before = self.script.starts();
        self.hand.advance(BACKOFF.cap);
        eventually("a start", || self.script.starts() > before).await;
    }

    async fn all_run(&self) {
        eventually("all run", || self.slots.iter().all(|slot| slot.get().is_some())).await;
    }
}

const P: Restart = Restart::Permanent;

#[tokio::test]
async fn children_start_in_order_and_stop_in_the_reverse() {
    let tree = Tree::of(&[P, P, P]).await;
    assert_eq!(tree.script.take_log(), ["start 0", "start 1", "start 2"]);
    assert_eq!(tree.root.stop(SOON).await, Ok(()));
    assert_eq!(tree.script.take_log(), ["stop 2", "stop 1", "stop 0"]);
    assert!(tree.slots.iter().all(|slot| slot.get().is_none()));
}

#[tokio::test]
async fn a_failure_restarts_the_later_ones_in_order_and_leaves_the_earlier_ones_alone() {
    let tree = Tree::of(&[P, P, P, P]).await;
    let (zero, three) = (tree.child(0), tree.child(3));
    tree.script.take_log();
    tree.child(1).cast(Ask::Do(Act::Panic)).unwrap();
    tree.back_off().await;
    tree.all_run().await;
    assert_eq!(tree.script.take_log(), ["stop 3", "stop 2", "start 1", "start 2", "start 3"]);
    assert_eq!(tree.child(0), zero);
    assert_ne!(tree.child(3), three);
}

#[tokio::test]
async fn the_last_one_fails_alone_and_the_first_one_takes_all() {
    let tree = Tree::of(&[P, P, P]).await;
    tree.script.take_log();
    tree.child(2).kill();
    tree.back_off().await;
    tree.all_run().await;
    assert_eq!(tree.script.take_log(), ["start 2"]);
    tree.child(0).stop(None);
    tree.back_off().await;
    tree.all_run().await;
    assert_eq!(tree.script.take_log(), ["stop 0", "stop 2", "stop 1", "start 0", "start 1", "start 2"]);
}

#[tokio::test]
async fn an_earlier_failure_during_the_back_off_widens_the_restart() {
    let tree = Tree::of(&[P, P, P]).await;
    tree.script.take_log();
    tree.child(2).kill();
    eventually("the back-off", || tree.hand.sleepers() == 1).await;
    tree.child(0).kill();
    eventually("the later one stopped", || tree.slots[1].get().is_none()).await;
    tree.back_off().await;
    tree.all_run().await;
    settle().await;
    assert_eq!(tree.script.take_log(), ["stop 1", "start 0", "start 1", "start 2"]);
    assert_eq!(tree.hand.sleepers(), 0);
}

#[tokio::test]
async fn an_earlier_failure_at_the_very_end_of_a_back_off_begins_a_new_one() {
    let tree = Tree::of(&[P, P]).await;
    tree.child(1).kill();
    eventually("the back-off", || tree.hand.sleepers() == 1).await;
    tree.script.take_log();
    // In this order: the timer's message is sent, then the event, and the root hears of the event first.
    tree.hand.advance(BACKOFF.base);
    tree.child(0).kill();
    settle().await;
    assert_eq!((tree.script.take_log(), tree.hand.sleepers()), (vec![], 1), "the old timer starts nothing");
    tree.back_off().await;
    tree.all_run().await;
    assert_eq!(tree.script.take_log(), ["start 0", "start 1"]);
}

#[tokio::test]
async fn what_ended_for_good_is_not_taken_along_by_a_restart() {
    let tree = Tree::of(&[P, Restart::Transient, Restart::Temporary, Restart::Temporary, Restart::Transient]).await;
    tree.child(1).cast(Ask::End).unwrap();
    tree.child(2).kill();
    settle().await;
    assert_eq!(tree.hand.sleepers(), 0, "neither is a reason for a restart");
    tree.script.take_log();
    tree.child(0).kill();
    tree.back_off().await;
    eventually("the restart", || tree.slots[4].get().is_some()).await;
    assert_eq!(
        tree.script.take_log(),
        ["stop 4", "stop 3", "start 0", "start 4"],
        "1 ended normally, 2 was temporary, and so was 3, which is not started by us again"
    );
}

#[tokio::test]
async fn a_tree_that_cannot_start_says_why_and_leaves_nothing_running() {
    for (point, act) in [(Point::PreStart, Act::Err), (Point::PreStart, Act::Panic), (Point::Make, Act::Panic)] {
        let script = Arc::new(Script::default());
        script.set(2, point, act);
        let why = Tree::start(&[P, P, P, P], &script, CHILD, WIDE).await.err().unwrap();
        assert!(why.contains("probe failed to start") && why.contains("on purpose"), "{why}");
        assert_eq!(script.take_log(), ["start 0", "start 1", "stop 1", "stop 0"], "{point:?} {act:?}");
    }
}

#[tokio::test]
async fn a_restart_that_fails_is_tried_again_from_there() {
    let tree = Tree::of(&[P, P, P]).await;
    tree.script.take_log();
    tree.script.set(1, Point::PreStart, Act::Panic);
    tree.child(0).kill();
    tree.back_off().await;
    eventually("the failed restart", || tree.script.starts() == 3 + 2).await;
    settle().await;
    assert_eq!(tree.script.take_log(), ["stop 2", "stop 1", "start 0"]);
    tree.script.set(1, Point::PreStart, Act::Well);
    tree.back_off().await;
    tree.all_run().await;
    assert_eq!(tree.script.take_log(), ["start 1", "start 2"]);
}

#[tokio::test]
async fn over_the_childs_or_its_own_budget_the_root_ends_and_says_why() {
    let one = Budget { restarts: 1, within: Span::secs(60) };
    for (child, all, whose) in [(one, WIDE, "probe"), (WIDE, one, "root")] {
        let script = Arc::new(Script::default());
        let mut tree = Tree::start(&[P, P], &script, child, all).await.unwrap();
        tree.child(1).kill();
        tree.back_off().await;
        tree.all_run().await;
        tree.child(1).cast(Ask::Do(Act::Err)).unwrap();
        let why = tree.root.ended().await.unwrap_err();
        assert!(why.starts_with(&format!("{whose}: more than 1 restarts")) && why.contains("on purpose"), "{why}");
        eventually("nobody runs", || tree.slots.iter().all(|slot| slot.get().is_none())).await;
    }
}

#[tokio::test]
async fn failures_far_apart_are_no_reason_to_end() {
    let one = Budget { restarts: 1, within: Span::secs(60) };
    let tree = Tree::start(&[P], &Arc::default(), one, one).await.unwrap();
    for _ in 0..5 {
        tree.child(0).kill();
        tree.back_off().await;
        tree.all_run().await;
        tree.hand.advance(one.within);
    }
}

#[tokio::test]
async fn stopping_during_a_back_off_starts_nothing_any_more() {
    let tree = Tree::of(&[P, P]).await;
    tree.child(0).kill();
    eventually("the back-off", || tree.hand.sleepers() == 1).await;
    tree.script.take_log();
    assert_eq!(tree.root.stop(SOON).await, Ok(()));
    tree.hand.advance(BACKOFF.cap);
    settle().await;
    assert_eq!((tree.script.take_log(), tree.hand.sleepers()), (vec![], 0));
}

#[tokio::test(start_paused = true)]
async fn a_child_that_does_not_stop_is_killed_and_the_rest_still_stops_in_order() {
    let tree = Tree::of(&[P, P, P]).await;
    tree.script.set(1, Point::PostStop, Act::Hang);
    tree.script.take_log();
    assert_eq!(tree.root.stop(SOON).await, Ok(()));
    assert_eq!(tree.script.take_log(), ["stop 2", "stop 1", "stop 0"]);
    assert_eq!(tree.script.running.lock().unwrap().values().sum::<usize>(), 0);
}

#[tokio::test]
async fn a_killed_root_is_an_error_and_takes_its_children_along() {
    let mut tree = Tree::of(&[P, P]).await;
    tree.child(0).try_get_supervisor().unwrap().kill();
    assert_eq!(tree.root.ended().await, Err("killed".to_owned()));
    eventually("nobody runs", || tree.slots.iter().all(|slot| slot.get().is_none())).await;
}
