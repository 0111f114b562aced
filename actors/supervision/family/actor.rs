//! The supervisor of a family: the state of each child, and what follows from each event.

use super::super::budget::Window;
use super::super::child::{Alive, Leashed};
use super::super::directory::{Directory, Key, pid, takes_messages};
use super::super::task::panic_text;
use super::super::{
    AWAY_RETRY, Away, Budget, Env, Exit, Restart, START_DEADLINE, STOP_DEADLINE, TaskGuard, end, exit_of, spawn_task,
};
use super::{FamilySpec, GivenUp, StartError};
use domain::Timestamp;
use prometheus::IntCounter;
use ractor::{
    Actor, ActorProcessingErr, ActorRef, ActorRuntime, Message, RpcReplyPort, SpawnErr, State, SupervisionEvent,
};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

type StartPort<M> = RpcReplyPort<Result<ActorRef<M>, StartError>>;
type Done = Result<(), ActorProcessingErr>;

pub(in super::super) enum FamilyMsg<K, M> {
    Start {
        key: K,
        reply: StartPort<M>,
    },
    Stop {
        key: K,
        reply: RpcReplyPort<bool>,
    },
    Forgive {
        key: K,
        reply: RpcReplyPort<()>,
    },
    /// `pre_start` failed: ractor tells only the spawner, so the spawning task tells us.
    StartFailed {
        pid: u64,
        why: String,
        /// What it needs outside this process does not answer.
        away: bool,
    },
    /// The back-off is over.
    Retry {
        key: K,
    },
}

/// Where one child is. A key that is in no state costs nothing.
enum Child<M> {
    Starting { actor: ActorRef<M>, waiters: Vec<StartPort<M>> },
    Running { actor: ActorRef<M> },
    Ending { actor: ActorRef<M>, ending: Box<Ending<M>> },
    Waiting { at: Timestamp, _timer: TaskGuard },
}

struct Ending<M> {
    /// By `stop_child`: then no restart, whatever the exit.
    asked: bool,
    stoppers: Vec<RpcReplyPort<bool>>,
    /// Who wants the next incarnation.
    starters: Vec<StartPort<M>>,
}

// The promise of 200 bytes per child: both tables at the worst load of a hash table (7/16, just grown), with its
// byte of control per slot. The directory adds 24 bytes net, ractor's own tree 32.
const PER_CHILD: usize = (size_of::<([u8; 16], Child<()>)>() + size_of::<(u64, [u8; 16])>() + 2) * 16 / 7;
const _: () = assert!(PER_CHILD <= 200);

pub(in super::super) struct FamilyActor<K: Key, A: Actor> {
    spec: Arc<FamilySpec<K, A>>,
    family_budget: Budget,
    env: Env,
    directory: Directory<K, A::Msg>,
    alive: Arc<Alive>,
    restarted: IntCounter,
}

pub(in super::super) struct FamilyState<K: Key, M: Message> {
    children: HashMap<K, Child<M>>,
    by_pid: HashMap<u64, K>,
    troubles: Troubles<K>,
    restarts: Window,
    directory: Directory<K, M>,
}

impl<K: Key, M: Message> Drop for FamilyState<K, M> {
    /// However the family ends, its children end with it. Maybe a successor has entries already: those stay.
    fn drop(&mut self) {
        for (pid, key) in &self.by_pid {
            self.directory.remove(key, *pid);
        }
    }
}

impl<K: Key, A: Actor> FamilyActor<K, A> {
    pub fn new(spec: Arc<FamilySpec<K, A>>, env: Env, directory: Directory<K, A::Msg>, alive: Arc<Alive>) -> Self {
        let restarted = env.metrics.restarts(spec.name);
        let restarts = spec.family_budget.restarts.max(spec.child_budget.restarts + 1);
        let family_budget = Budget { restarts, ..spec.family_budget };
        FamilyActor { spec, family_budget, env, directory, alive, restarted }
    }

    /// Never waits: the child starts in its own task and reports back.
    fn start(
        &self,
        myself: &ActorRef<FamilyMsg<K, A::Msg>>,
        state: &mut FamilyState<K, A::Msg>,
        key: K,
        waiters: Vec<StartPort<A::Msg>>,
    ) -> Done {
        let made = match catch_unwind(AssertUnwindSafe(|| (self.spec.make)(&key))) {
            Ok(made) => made,
            Err(panic) => {
                let why = format!("making it panicked: {}", panic_text(&*panic));
                return self.failed(myself, state, key, why, waiters, Vec::new());
            }
        };
        let leashed = Leashed::new(made.0, &self.alive);
        let (actor, started) = match ActorRuntime::spawn_linked_instant(None, leashed, made.1, myself.get_cell()) {
            Ok(spawned) => spawned,
            Err(why) => return self.failed(myself, state, key, why.to_string(), waiters, Vec::new()),
        };
        let pid = pid(&actor);
        state.by_pid.insert(pid, key.clone());
        state.children.insert(key, Child::Starting { actor: actor.clone(), waiters });
        let family = myself.clone();
        spawn_task("child start", async move {
            let mut started = started;
            let started = match tokio::time::timeout(START_DEADLINE, &mut started).await {
                Ok(started) => started,
                Err(_) => {
                    actor.kill();
                    started.await
                }
            };
            let (why, away) = match started {
                Ok(Ok(_)) => return, // the rest comes as supervision events
                Ok(Err(SpawnErr::StartupFailed(why))) => (why.to_string(), why.is::<Away>()),
                Ok(Err(why)) => (why.to_string(), false),
                Err(why) => (why.to_string(), false),
            };
            // A family that is gone has no use for it.
            let _ = family.cast(FamilyMsg::StartFailed { pid, why, away });
        })
        .detach();
        Ok(())
    }

    fn asked_to_start(
        &self,
        myself: &ActorRef<FamilyMsg<K, A::Msg>>,
        state: &mut FamilyState<K, A::Msg>,
        key: K,
        reply: StartPort<A::Msg>,
    ) -> Done {
        let Some(child) = state.children.get_mut(&key) else {
            if let Some(until) = state.troubles.given_up_until(&key, self.env.clock.now()) {
                answer(reply, Err(StartError::GivenUp { until }));
                return Ok(());
            }
            return self.start(myself, state, key, vec![reply]);
        };
        match child {
            Child::Starting { waiters, .. } => waiters.push(reply),
            Child::Running { actor } if takes_messages(actor) => answer(reply, Ok(actor.clone())),
            // It is ending by itself and the event is on its way: the next one is meant.
            Child::Running { actor } => {
                let ending = Box::new(Ending { asked: false, stoppers: Vec::new(), starters: vec![reply] });
                *child = Child::Ending { actor: actor.clone(), ending };
            }
            Child::Ending { ending, .. } => ending.starters.push(reply),
            Child::Waiting { at, .. } => answer(reply, Err(StartError::Restarting { at: *at })),
        }
        Ok(())
    }

    fn asked_to_stop(&self, state: &mut FamilyState<K, A::Msg>, key: K, reply: RpcReplyPort<bool>) {
        let (actor, mut ending) = match state.children.remove(&key) {
            None => return answer(reply, false),
            Some(Child::Waiting { .. }) => return answer(reply, true),
            Some(Child::Starting { actor, waiters }) => {
                refuse(waiters, &StartError::Stopped);
                (actor, Box::new(Ending { asked: true, stoppers: Vec::new(), starters: Vec::new() }))
            }
            Some(Child::Running { actor }) => {
                (actor, Box::new(Ending { asked: true, stoppers: Vec::new(), starters: Vec::new() }))
            }
            Some(Child::Ending { actor, mut ending }) => {
                refuse(std::mem::take(&mut ending.starters), &StartError::Stopped);
                (actor, ending)
            }
        };
        ending.asked = true;
        ending.stoppers.push(reply);
        let cell = actor.get_cell();
        state.children.insert(key, Child::Ending { actor, ending });
        spawn_task("child stop", async move {
            end(&cell, STOP_DEADLINE).await;
        })
        .detach();
    }

    /// `post_start` is through: the child can be found.
    fn started(&self, state: &mut FamilyState<K, A::Msg>, pid: u64) {
        let Some(key) = state.by_pid.get(&pid) else { return };
        let Some(child) = state.children.get_mut(key) else { return };
        if let Child::Starting { actor, waiters } = child {
            let (actor, waiters) = (actor.clone(), std::mem::take(waiters));
            *child = Child::Running { actor: actor.clone() };
            self.directory.insert(key.clone(), actor.clone());
            for waiter in waiters {
                answer(waiter, Ok(actor.clone()));
            }
        }
    }

    /// A child is over, in whatever way and state. Errors: the family's budget is used up.
    fn over(
        &self,
        myself: &ActorRef<FamilyMsg<K, A::Msg>>,
        state: &mut FamilyState<K, A::Msg>,
        pid: u64,
        exit: Exit,
    ) -> Done {
        let Some(key) = state.by_pid.remove(&pid) else { return Ok(()) };
        self.directory.remove(&key, pid);
        let (asked, waiters, starters) = match state.children.remove(&key) {
            Some(Child::Starting { waiters, .. }) => (false, waiters, Vec::new()),
            Some(Child::Running { .. }) => (false, Vec::new(), Vec::new()),
            Some(Child::Ending { ending, .. }) => {
                let ending = *ending;
                ending.stoppers.into_iter().for_each(|stopper| answer(stopper, true));
                (ending.asked, Vec::new(), ending.starters)
            }
            Some(Child::Waiting { .. }) | None => return Ok(()), // no actor, so no pid: not reached
        };
        match (exit, self.spec.restart) {
            (Exit::Failure(why), _) if !asked => self.failed(myself, state, key, why, waiters, starters),
            (Exit::Normal, Restart::Permanent) if !asked => {
                self.failed(myself, state, key, "it ended, and must not".into(), waiters, starters)
            }
            (Exit::Normal | Exit::Failure(_), _) => {
                refuse(waiters, &StartError::Failed("it ended while it was starting".into()));
                if starters.is_empty() { Ok(()) } else { self.start(myself, state, key, starters) }
            }
        }
    }

    /// Counts the failure, and gives up, waits for the restart, or leaves it at that.
    fn failed(
        &self,
        myself: &ActorRef<FamilyMsg<K, A::Msg>>,
        state: &mut FamilyState<K, A::Msg>,
        key: K,
        why: String,
        waiters: Vec<StartPort<A::Msg>>,
        starters: Vec<StartPort<A::Msg>>,
    ) -> Done {
        let (now, budget) = (self.env.clock.now(), self.spec.child_budget);
        let failures = state.troubles.record(&key, now, budget);
        tracing::warn!(family = self.spec.name, child = ?key, failures, why, "child failed");
        if failures > budget.restarts {
            let until = now + budget.within;
            state.troubles.give_up(&key, until);
            refuse(waiters.into_iter().chain(starters), &StartError::GivenUp { until });
            tracing::error!(family = self.spec.name, child = ?key, failures, why, "child given up");
            let spec = self.spec.clone();
            let given_up = GivenUp { failures, last: why, until };
            spawn_task("child given up", async move { (spec.given_up)(key, given_up).await }).detach();
            return Ok(());
        }
        refuse(waiters, &StartError::Failed(why));
        if self.spec.restart == Restart::Temporary {
            return if starters.is_empty() { Ok(()) } else { self.start(myself, state, key, starters) };
        }
        if state.restarts.record(now, self.family_budget) > self.family_budget.restarts {
            let Budget { restarts, within } = self.family_budget;
            let name = self.spec.name;
            return Err(format!("{name}: more than {restarts} restarts within {} s", within.as_secs()).into());
        }
        let at = now + self.spec.backoff.delay(failures, self.env.fresh.chance());
        refuse(starters, &StartError::Restarting { at });
        self.again_at(myself, state, key, at);
        Ok(())
    }

    /// Its start found its surroundings away: not its failure.
    fn not_yet(
        &self,
        myself: &ActorRef<FamilyMsg<K, A::Msg>>,
        state: &mut FamilyState<K, A::Msg>,
        pid: u64,
        why: String,
    ) {
        let Some(key) = state.by_pid.remove(&pid) else { return };
        self.directory.remove(&key, pid);
        let waiters = match state.children.remove(&key) {
            Some(Child::Starting { waiters, .. }) => waiters,
            Some(Child::Ending { ending, .. }) => {
                ending.stoppers.into_iter().for_each(|stopper| answer(stopper, true));
                return refuse(ending.starters, &StartError::Failed(why));
            }
            Some(Child::Running { .. } | Child::Waiting { .. }) | None => return, // it never ran: not reached
        };
        tracing::debug!(family = self.spec.name, child = ?key, why, "not started yet");
        refuse(waiters, &StartError::Failed(why));
        if self.spec.restart != Restart::Temporary {
            self.again_at(myself, state, key, self.env.clock.now() + AWAY_RETRY);
        }
    }

    fn again_at(
        &self,
        myself: &ActorRef<FamilyMsg<K, A::Msg>>,
        state: &mut FamilyState<K, A::Msg>,
        key: K,
        at: Timestamp,
    ) {
        let (family, clock) = (myself.clone(), self.env.clock.clone());
        let timer = spawn_task("child restart", {
            let key = key.clone();
            async move {
                clock.sleep_until(at).await;
                let _ = family.cast(FamilyMsg::Retry { key });
            }
        });
        state.children.insert(key, Child::Waiting { at, _timer: timer });
    }
}

impl<K: Key, A: Actor> Actor for FamilyActor<K, A> {
    type Msg = FamilyMsg<K, A::Msg>;
    type State = FamilyState<K, A::Msg>;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Self::Msg>, (): ()) -> Result<Self::State, ActorProcessingErr> {
        // A former incarnation was killed with its children; one of them may still be on its way to an await.
        if tokio::time::timeout(STOP_DEADLINE, self.alive.none_left()).await.is_err() {
            return Err(format!("{}: {} former children do not end", self.spec.name, self.alive.count()).into());
        }
        let mut state = FamilyState {
            children: HashMap::new(),
            by_pid: HashMap::new(),
            troubles: Troubles::default(),
            restarts: Window::default(),
            directory: self.directory.clone(),
        };
        for key in (self.spec.initial)().await? {
            // The same key twice is one child.
            if !state.children.contains_key(&key) {
                self.start(&myself, &mut state, key, Vec::new())?;
            }
        }
        Ok(state)
    }

    async fn handle(&self, myself: ActorRef<Self::Msg>, msg: Self::Msg, state: &mut Self::State) -> Done {
        match msg {
            FamilyMsg::Start { key, reply } => self.asked_to_start(&myself, state, key, reply)?,
            FamilyMsg::Stop { key, reply } => self.asked_to_stop(state, key, reply),
            FamilyMsg::Forgive { key, reply } => {
                state.troubles.forgive(&key);
                answer(reply, ());
            }
            FamilyMsg::StartFailed { pid, why, away: true } => self.not_yet(&myself, state, pid, why),
            FamilyMsg::StartFailed { pid, why, away: false } => self.over(&myself, state, pid, Exit::Failure(why))?,
            FamilyMsg::Retry { key } => {
                // A restart that was called off may have fired already.
                if matches!(state.children.get(&key), Some(Child::Waiting { .. })) {
                    self.restarted.inc();
                    self.start(&myself, state, key, Vec::new())?;
                }
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut Self::State,
    ) -> Done {
        if let SupervisionEvent::ActorStarted(child) = &event {
            self.started(state, pid(child));
        }
        match exit_of(event) {
            Some((child, exit)) => self.over(&myself, state, pid(&child), exit),
            None => Ok(()),
        }
    }

    async fn post_stop(&self, _: ActorRef<Self::Msg>, state: &mut Self::State) -> Done {
        for child in state.children.values() {
            match child {
                Child::Starting { actor, .. } | Child::Running { actor } | Child::Ending { actor, .. } => {
                    actor.stop(None);
                }
                Child::Waiting { .. } => {}
            }
        }
        if tokio::time::timeout(STOP_DEADLINE, self.alive.none_left()).await.is_err() {
            // ractor kills them as soon as we return.
            tracing::warn!(family = self.spec.name, left = self.alive.count(), "children did not stop in time");
        }
        Ok(())
    }
}

/// The keys that failed lately. Old entries go when the table would grow.
struct Troubles<K> {
    by_key: HashMap<K, Trouble>,
    sweep_at: usize,
}

#[derive(Default)]
struct Trouble {
    failures: Window,
    given_up_until: Option<Timestamp>,
}

impl<K> Default for Troubles<K> {
    fn default() -> Self {
        Troubles { by_key: HashMap::new(), sweep_at: Self::SMALL }
    }
}

impl<K> Troubles<K> {
    /// Not worth sweeping below.
    const SMALL: usize = 64;
}

impl<K: Key> Troubles<K> {
    fn record(&mut self, key: &K, now: Timestamp, budget: Budget) -> usize {
        if self.by_key.len() >= self.sweep_at {
            self.by_key.retain(|_, trouble| {
                let quiet = trouble.failures.forget(now, budget);
                !quiet || trouble.given_up_until.is_some_and(|until| now < until)
            });
            self.sweep_at = (2 * self.by_key.len()).max(Self::SMALL);
        }
        self.by_key.entry(key.clone()).or_default().failures.record(now, budget)
    }

    fn give_up(&mut self, key: &K, until: Timestamp) {
        self.by_key.insert(key.clone(), Trouble { failures: Window::default(), given_up_until: Some(until) });
    }

    /// Afterwards it begins with a clean record.
    fn given_up_until(&mut self, key: &K, now: Timestamp) -> Option<Timestamp> {
        let until = self.by_key.get(key)?.given_up_until?;
        if now < until {
            return Some(until);
        }
        self.by_key.remove(key);
        None
    }

    fn forgive(&mut self, key: &K) {
        self.by_key.remove(key);
    }
}

/// Who asked may have gone meanwhile.
fn answer<T: State>(reply: RpcReplyPort<T>, value: T) {
    let _ = reply.send(value);
}

fn refuse<M: Message>(ports: impl IntoIterator<Item = StartPort<M>>, why: &StartError) {
    for port in ports {
        answer(port, Err(why.clone()));
    }
}
