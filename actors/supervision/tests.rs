//! Killing at every point, and what must follow.
//!
//! Nothing here waits for real time: back-off runs on the manual clock, deadlines on tokio's paused time, and a
//! condition is awaited by letting the (single-threaded) runtime work until it holds.
#![allow(clippy::unwrap_used)]

mod endings;
mod family;
mod rest_for_one;
mod tools;

use super::{Backoff, Budget, Env, Family, FamilySpec, GivenUp, Metrics, Restart, Root, RootSpec};
use crate::clock::{Clock, ManualClock};
use crate::fresh::Fresh;
use domain::{Span, Timestamp};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

/// Without jitter, so that times can be stated.
const BACKOFF: Backoff = Backoff { base: Span::secs(1), cap: Span::secs(5), jitter_percent: 0 };
const CHILD: Budget = Budget { restarts: 3, within: Span::secs(60) };
const WIDE: Budget = Budget { restarts: 1_000, within: Span::secs(60) };

/// What a probe does at some point of its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Well,
    Err,
    Panic,
    Hang,
}

impl Act {
    async fn out(self) -> Result<(), ActorProcessingErr> {
        match self {
            Act::Well => Ok(()),
            Act::Err => Err("on purpose".into()),
            Act::Panic => panic!("on purpose"),
            Act::Hang => std::future::pending().await,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Point {
    Make,
    PreStart,
    PostStart,
    PostStop,
}

/// What probes are told to do, and what they did.
#[derive(Default)]
struct Script {
    acts: Mutex<HashMap<(u32, Point), Act>>,
    log: Mutex<Vec<String>>,
    given_up: Mutex<Vec<(u32, GivenUp)>>,
    starts: AtomicUsize,
    running: Mutex<HashMap<u32, usize>>,
    most_at_once: AtomicUsize,
}

impl Script {
    /// From now on, and in every incarnation.
    fn set(&self, key: u32, point: Point, act: Act) {
        self.acts.lock().unwrap().insert((key, point), act);
    }
    fn act(&self, key: u32, point: Point) -> Act {
        self.acts.lock().unwrap().get(&(key, point)).copied().unwrap_or(Act::Well)
    }
    fn note(&self, what: &str, key: u32) {
        self.log.lock().unwrap().push(format!("{what} {key}"));
    }
    fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock().unwrap())
    }
    fn starts(&self) -> usize {
        self.starts.load(Ordering::SeqCst)
    }
    fn given_up(&self) -> Vec<u32> {
        self.given_up.lock().unwrap().iter().map(|(key, _)| *key).collect()
    }
}

struct Probe {
    key: u32,
    script: Arc<Script>,
}

/// The state of a probe: it exists while the probe runs.
struct Running {
    key: u32,
    script: Arc<Script>,
}

impl Drop for Running {
    fn drop(&mut self) {
        *self.script.running.lock().unwrap().get_mut(&self.key).unwrap() -= 1;
    }
}

enum Ask {
    Echo(u32, RpcReplyPort<u32>),
    /// Never answered.
    Ignore(RpcReplyPort<u32>),
    Do(Act),
    /// Holds its thread until the other side is dropped: nothing can end it.
    Block(mpsc::Receiver<()>),
    /// A normal end, by itself.
    End,
}

impl Actor for Probe {
    type Msg = Ask;
    type State = Running;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Ask>, (): ()) -> Result<Running, ActorProcessingErr> {
        self.script.starts.fetch_add(1, Ordering::SeqCst);
        let most = {
            let mut running = self.script.running.lock().unwrap();
            let count = running.entry(self.key).or_default();
            *count += 1;
            *count
        };
        let state = Running { key: self.key, script: self.script.clone() };
        self.script.most_at_once.fetch_max(most, Ordering::SeqCst);
        self.script.act(self.key, Point::PreStart).out().await?;
        self.script.note("start", self.key);
        Ok(state)
    }
    async fn post_start(&self, _: ActorRef<Ask>, _: &mut Running) -> Result<(), ActorProcessingErr> {
        self.script.act(self.key, Point::PostStart).out().await
    }
    async fn handle(&self, myself: ActorRef<Ask>, ask: Ask, _: &mut Running) -> Result<(), ActorProcessingErr> {
        match ask {
            Ask::Echo(n, reply) => drop(reply.send(n)),
            Ask::Ignore(reply) => drop(reply),
            Ask::Do(act) => act.out().await?,
            Ask::Block(until) => {
                self.script.note("block", self.key);
                let _ = until.recv();
            }
            Ask::End => myself.stop(None),
        }
        Ok(())
    }
    async fn post_stop(&self, _: ActorRef<Ask>, _: &mut Running) -> Result<(), ActorProcessingErr> {
        self.script.note("stop", self.key);
        self.script.act(self.key, Point::PostStop).out().await
    }
}

/// A family of probes below a root, and all that moves it.
struct Bench {
    family: Family<u32, Ask>,
    script: Arc<Script>,
    hand: ManualClock,
    clock: Clock,
    registry: prometheus::Registry,
    root: Root,
}

fn env() -> (Env, ManualClock, prometheus::Registry) {
    let (clock, hand) = Clock::manual(Timestamp(1_000_000_000));
    let registry = prometheus::Registry::new();
    let metrics = Metrics::register(&registry).unwrap();
    (Env { clock, fresh: Fresh::seeded(1), metrics }, hand, registry)
}

impl Bench {
    async fn new(restart: Restart) -> Bench {
        Bench::with(restart, WIDE, &[], WIDE).await
    }

    async fn with(restart: Restart, family_budget: Budget, initial: &'static [u32], root_budget: Budget) -> Bench {
        let (env, hand, registry) = env();
        let script = Arc::new(Script::default());
        let (make, given_up) = (script.clone(), script.clone());
        let mut spec = FamilySpec::new(
            "probe",
            restart,
            move |key: &u32| {
                if make.act(*key, Point::Make) == Act::Panic {
                    panic!("on purpose");
                }
                (Probe { key: *key, script: make.clone() }, ())
            },
            move |key, why| {
                let script = given_up.clone();
                async move { script.given_up.lock().unwrap().push((key, why)) }
            },
        )
        .starting_with(move || async move { Ok(initial.to_vec()) });
        (spec.child_budget, spec.family_budget, spec.backoff) = (CHILD, family_budget, BACKOFF);
        let family = Family::new(spec, &env);
        let children = vec![family.child_spec(root_budget)];
        let clock = env.clock.clone();
        let root = RootSpec { name: "root", children, budget: root_budget, backoff: BACKOFF, env };
        let root = Root::start(root).await.unwrap();
        Bench { family, script, hand, clock, registry, root }
    }

    /// Lets back-off pass until the child runs in a new incarnation.
    async fn restarted(&self, key: u32, old: &ActorRef<Ask>) -> ActorRef<Ask> {
        eventually("the end of the old one", || self.family.lookup(&key).is_none_or(|a| a != *old)).await;
        eventually("a sleeper or a new one", || self.hand.sleepers() > 0 || self.family.lookup(&key).is_some()).await;
        self.hand.advance(BACKOFF.cap);
        eventually("a new incarnation", || self.family.lookup(&key).is_some_and(|a| a != *old)).await;
        self.family.lookup(&key).unwrap()
    }

    fn metric(&self, line: &str) -> bool {
        prometheus::TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap().lines().any(|l| l == line)
    }
}

/// Lets everything else run until the condition holds; ten seconds if that takes another thread.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    for turn in 0..20_000 {
        if condition() {
            return;
        }
        if turn < 10_000 {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    panic!("never came: {what}");
}

/// Lets everything run that can run without time passing.
async fn settle() {
    for _ in 0..500 {
        tokio::task::yield_now().await;
    }
}
