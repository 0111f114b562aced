//! Calls, admission, tasks, directory, metrics.

use super::super::directory::{Directory, pid};
use super::super::{Admission, CallError, Overloaded, call_with_deadline, spawn_task};
use super::{Act, Ask, Bench, Probe, Restart, Script, env, eventually, settle};
use ractor::Actor;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_call_tells_what_certainly_was_not_done_from_what_may_have_been() {
    let script = Arc::new(Script::default());
    let (actor, _) = Actor::spawn(None, Probe { key: 1, script }, ()).await.unwrap();
    assert_eq!(call_with_deadline(&actor, SOON, |reply| Ask::Echo(7, reply)).await, Ok(7));
    assert_eq!(call_with_deadline(&actor, SOON, Ask::Ignore).await, Err(CallError::Dropped));
    actor.cast(Ask::Do(Act::Hang)).unwrap();
    let late = call_with_deadline(&actor, SOON, |reply| Ask::Echo(7, reply)).await;
    assert_eq!(late, Err(CallError::Deadline));
    actor.kill();
    actor.wait(None).await.unwrap();
    let gone = call_with_deadline(&actor, SOON, |reply| Ask::Echo(7, reply)).await;
    assert_eq!(gone, Err(CallError::NotSent));
    assert!(gone.unwrap_err().certainly_not_done() && !late.unwrap_err().certainly_not_done());
}

#[tokio::test]
async fn a_call_waiting_in_the_mailbox_of_a_killed_actor_is_told_at_once() {
    let script = Arc::new(Script::default());
    let (actor, _) = Actor::spawn(None, Probe { key: 1, script }, ()).await.unwrap();
    actor.cast(Ask::Do(Act::Hang)).unwrap();
    let call = call_with_deadline(&actor, Duration::from_secs(3600), |reply| Ask::Echo(7, reply));
    let (answer, ()) = tokio::join!(call, async {
        settle().await;
        actor.kill();
    });
    assert_eq!(answer, Err(CallError::Dropped));
}

#[test]
fn admission_refuses_above_its_limit_and_counts_down_when_tickets_drop() {
    let (env, _, registry) = env();
    let admission = Admission::new("session", 2, &env.metrics);
    let depth = || prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    let first = admission.admit().unwrap();
    let _second = admission.clone().admit().unwrap();
    assert_eq!(admission.admit().unwrap_err(), Overloaded { actor: "session", limit: 2 });
    assert_eq!(admission.under_way(), 2, "a refusal counts nothing");
    assert!(depth().contains("sentinel_cp_actor_mailbox_depth{actor=\"session\"} 2"), "{}", depth());
    drop(first);
    assert!(depth().contains("sentinel_cp_actor_mailbox_depth{actor=\"session\"} 1"), "{}", depth());
    assert!(admission.admit().is_ok());
}

#[tokio::test]
async fn a_task_that_panics_ends_alone() {
    let task = spawn_task("test", async { panic!("on purpose") });
    task.finished().await;
}

#[tokio::test]
async fn a_task_ends_with_its_guard_unless_detached() {
    struct Gone(Arc<AtomicBool>);
    impl Drop for Gone {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let (kept, dropped) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    for (flag, detach) in [(&kept, true), (&dropped, false)] {
        let gone = Gone(flag.clone());
        let guard = spawn_task("test", async move {
            let _gone = gone;
            std::future::pending::<()>().await;
        });
        settle().await;
        assert!(!guard.is_finished());
        if detach { guard.detach() } else { drop(guard) }
    }
    eventually("the abort", || dropped.load(Ordering::SeqCst)).await;
    settle().await;
    assert!(!kept.load(Ordering::SeqCst));
}

#[tokio::test]
async fn an_entry_goes_with_its_own_actor_and_not_with_its_predecessor() {
    let script = Arc::new(Script::default());
    let spawn = || Actor::spawn(None, Probe { key: 1, script: script.clone() }, ());
    let (old, new) = (spawn().await.unwrap().0, spawn().await.unwrap().0);
    let directory = Directory::new();
    directory.insert(1, old.clone());
    directory.insert(1, new.clone());
    directory.remove(&1, pid(&old));
    assert_eq!(directory.get(&1), Some(new.clone()));
    new.kill();
    new.wait(None).await.unwrap();
    assert_eq!((directory.get(&1), directory.len()), (None, 0), "the first look-up takes the corpse away");
}

#[tokio::test]
async fn restarts_are_counted_by_family() {
    let bench = Bench::new(Restart::Transient).await;
    assert!(bench.metric("sentinel_cp_actor_restarts_total{actor=\"probe\"} 0"), "shows before anything happened");
    let child = bench.family.start_child(1).await.unwrap();
    child.kill();
    bench.restarted(1, &child).await;
    assert!(bench.metric("sentinel_cp_actor_restarts_total{actor=\"probe\"} 1"));
}
