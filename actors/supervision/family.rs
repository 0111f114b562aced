//! One-for-one: children by key, that come and go.
//!
//! Owns: which keys run, start, end or wait for their restart, and the recent failures of each.
//! Rebuilt from: what [`FamilySpec::starting_with`] lists; else nothing, whoever needs a child starts it.
//!
//! Invariants: at most one actor per key, also across restarts of the family itself; the family never waits for a
//! child inside a handler, so a child that hangs hangs alone. A running child costs the family about 160 bytes.

mod actor;

use super::child::Alive;
use super::directory::{Directory, Key, Slot};
use super::ordered::{ChildSpec, Starter};
use super::{Backoff, Budget, CallError, Env, FAMILY_START_DEADLINE, FAMILY_STOP_DEADLINE, Restart, START_DEADLINE};
use super::{STOP_DEADLINE, call_with_deadline};
use actor::{FamilyActor, FamilyMsg};
use domain::{Span, Timestamp};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use ractor::{Actor, ActorRef, Message};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// Five restarts with the default back-off take 0.2 + 0.4 + 0.8 + 1.6 + 3.2 s, about six seconds: enough for a fault
/// that passes, and a poisoned child is found out soon.
const CHILD_BUDGET: Budget = Budget { restarts: 5, within: Span::secs(60) };
/// Twenty children at the end of their budgets within a minute: then it is not the children.
const FAMILY_BUDGET: Budget = Budget { restarts: 100, within: Span::secs(60) };
const BACKOFF: Backoff = Backoff { base: Span::millis(200), cap: Span::secs(30), jitter_percent: 25 };
/// Beyond the longest the family lets a child take.
const START_CALL: Duration = Duration::from_secs(START_DEADLINE.as_secs() + 5);
const STOP_CALL: Duration = Duration::from_secs(STOP_DEADLINE.as_secs() + 10);

type Make<K, A> = Box<dyn Fn(&K) -> (A, <A as Actor>::Arguments) + Send + Sync>;
type Initial<K> = Box<dyn Fn() -> BoxFuture<'static, Result<Vec<K>, String>> + Send + Sync>;
type WhenGivenUp<K> = Box<dyn Fn(K, GivenUp) -> BoxFuture<'static, ()> + Send + Sync>;

/// What a family is. Budgets and back-off may be set after [`new`](Self::new); they have defaults.
pub struct FamilySpec<K: Key, A: Actor> {
    /// Label of the metrics, and in logs.
    pub name: &'static str,
    pub restart: Restart,
    /// Failures of one child (and restarts of a permanent one) before it is given up.
    pub child_budget: Budget,
    /// Restarts of all children together before the family itself ends with an error. Counted at least one above the
    /// child's, so that no single child can stop its siblings.
    pub family_budget: Budget,
    pub backoff: Backoff,
    make: Make<K, A>,
    initial: Initial<K>,
    given_up: WhenGivenUp<K>,
}

/// Why a child was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenUp {
    pub failures: usize,
    /// The last failure, as text.
    pub last: String,
    /// Until then it is not started again, unless forgiven.
    pub until: Timestamp,
}

/// Why there is no child to talk to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// This start failed (a supervised restart follows unless the family is temporary).
    #[error("it failed to start: {0}")]
    Failed(String),
    /// It failed lately and is being restarted; asking does not make it faster.
    #[error("it failed and is started again at {at}")]
    Restarting { at: Timestamp },
    /// It failed too often.
    #[error("it failed too often and was given up until {until}")]
    GivenUp { until: Timestamp },
    /// Someone stopped it while it was starting.
    #[error("it was stopped")]
    Stopped,
    /// The family itself is being restarted, or did not answer in time.
    #[error("its family is not available")]
    Unavailable,
}

impl<K: Key, A: Actor> FamilySpec<K, A> {
    /// `make` makes the actor and its arguments, at each start anew; it runs inside the supervisor, so it only makes.
    /// `given_up` is run once each time a child is given up, beside the family; it must fail closed and may be
    /// repeated by a later giving-up of the same child.
    pub fn new<F>(
        name: &'static str,
        restart: Restart,
        make: impl Fn(&K) -> (A, A::Arguments) + Send + Sync + 'static,
        given_up: impl Fn(K, GivenUp) -> F + Send + Sync + 'static,
    ) -> FamilySpec<K, A>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        FamilySpec {
            name,
            restart,
            child_budget: CHILD_BUDGET,
            family_budget: FAMILY_BUDGET,
            backoff: BACKOFF,
            make: Box::new(make),
            initial: Box::new(|| std::future::ready(Ok(Vec::new())).boxed()),
            given_up: Box::new(move |key, why| given_up(key, why).boxed()),
        }
    }

    /// The keys to start whenever the family starts: start-up is restart. An error is a failed start of the family.
    pub fn starting_with<F>(mut self, keys: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Vec<K>, String>> + Send + 'static,
    {
        self.initial = Box::new(move || keys().boxed());
        self
    }
}

/// The handle of a family; stays good over restarts of the family. Cheap to clone.
pub struct Family<K: Key, M: Message> {
    shared: Arc<Shared<K, M>>,
}

struct Shared<K: Key, M: Message> {
    name: &'static str,
    directory: Directory<K, M>,
    supervisor: Slot<FamilyMsg<K, M>>,
    alive: Arc<Alive>,
    start: Starter,
}

impl<K: Key, M: Message> Family<K, M> {
    /// Runs nothing yet: give [`child_spec`](Self::child_spec) to the root.
    pub fn new<A: Actor<Msg = M>>(spec: FamilySpec<K, A>, env: &Env) -> Family<K, M> {
        let (directory, supervisor, alive) = (Directory::new(), Slot::new(), Arc::new(Alive::default()));
        let (name, spec) = (spec.name, Arc::new(spec));
        let start: Starter = {
            let (directory, supervisor, alive, env) =
                (directory.clone(), supervisor.clone(), alive.clone(), env.clone());
            Arc::new(move |parent| {
                let actor = FamilyActor::new(spec.clone(), env.clone(), directory.clone(), alive.clone());
                let supervisor = supervisor.clone();
                Box::pin(async move {
                    let (family, _) = Actor::spawn_linked(None, actor, (), parent).await?;
                    supervisor.set(family.clone());
                    Ok(family.get_cell())
                })
            })
        };
        Family { shared: Arc::new(Shared { name, directory, supervisor, alive, start }) }
    }

    /// The family as a permanent child of the root; `budget` is for restarts of the family as a whole.
    pub fn child_spec(&self, budget: Budget) -> ChildSpec {
        let shared = &self.shared;
        ChildSpec::custom(shared.name, Restart::Permanent, budget, shared.start.clone())
            .deadlines(FAMILY_START_DEADLINE, FAMILY_STOP_DEADLINE)
    }

    pub fn directory(&self) -> &Directory<K, M> {
        &self.shared.directory
    }

    /// The child, if it runs. Does not start it.
    pub fn lookup(&self, key: &K) -> Option<ActorRef<M>> {
        self.shared.directory.get(key)
    }

    /// The running child, started if it was not. Returns when `post_start` is through.
    pub async fn start_child(&self, key: K) -> Result<ActorRef<M>, StartError> {
        if let Some(running) = self.lookup(&key) {
            return Ok(running);
        }
        match self.ask(START_CALL, |reply| FamilyMsg::Start { key, reply }).await {
            Ok(started) => started,
            Err(_) => Err(StartError::Unavailable),
        }
    }

    /// Stops the child (kills it after 10 s) or calls off its restart; returns when it is gone. `false`: there was
    /// none. A queued message of the child is lost. Errors: `Unavailable`, then it may have been stopped or not.
    pub async fn stop_child(&self, key: &K) -> Result<bool, StartError> {
        let key = key.clone();
        self.ask(STOP_CALL, |reply| FamilyMsg::Stop { key, reply }).await.map_err(|_| StartError::Unavailable)
    }

    /// Forgets the failures of a child, so that one that was given up can be started: a person said so.
    pub async fn forgive(&self, key: &K) -> Result<(), StartError> {
        let key = key.clone();
        self.ask(STOP_CALL, |reply| FamilyMsg::Forgive { key, reply }).await.map_err(|_| StartError::Unavailable)
    }

    /// Actors that exist, also those still starting or ending, of this and former incarnations of the family.
    pub fn alive(&self) -> usize {
        self.shared.alive.count()
    }

    async fn ask<R: Send + 'static>(
        &self,
        deadline: Duration,
        question: impl FnOnce(ractor::RpcReplyPort<R>) -> FamilyMsg<K, M>,
    ) -> Result<R, CallError> {
        let supervisor = self.shared.supervisor.get().ok_or(CallError::NotSent)?;
        call_with_deadline(&supervisor, deadline, question).await
    }
}

impl<K: Key, M: Message> Clone for Family<K, M> {
    fn clone(&self) -> Self {
        Family { shared: self.shared.clone() }
    }
}
