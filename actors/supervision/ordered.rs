//! Rest-for-one: static children in order; when one fails, it and all after it are started again.
//!
//! Later children may rely on earlier ones, so they are stopped last to first before the one that failed returns.

use super::budget::Window;
use super::directory::{Slot, pid};
use super::task::panic_text;
use super::{Backoff, Budget, Env, Exit, Restart, START_DEADLINE, STOP_DEADLINE, TaskGuard, end, exit_of, spawn_task};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use prometheus::IntCounter;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

type Done = Result<(), ActorProcessingErr>;

/// Starts a child linked to its parent. Called again for each restart.
pub(super) type Starter = Arc<dyn Fn(ActorCell) -> BoxFuture<'static, Result<ActorCell, SpawnErr>> + Send + Sync>;

/// A static child: how to start it, and how often again.
pub struct ChildSpec {
    name: &'static str,
    restart: Restart,
    budget: Budget,
    start: Starter,
    start_deadline: Duration,
    stop_deadline: Duration,
}

impl ChildSpec {
    /// `make` makes the actor and its arguments, at each start anew. The slot is where the running one is found.
    pub fn new<A: Actor>(
        name: &'static str,
        restart: Restart,
        budget: Budget,
        make: impl Fn() -> (A, A::Arguments) + Send + Sync + 'static,
    ) -> (ChildSpec, Slot<A::Msg>) {
        let slot = Slot::new();
        let start: Starter = {
            let (slot, make) = (slot.clone(), Arc::new(make));
            Arc::new(move |parent| {
                let (slot, make) = (slot.clone(), make.clone());
                Box::pin(async move {
                    let (actor, args) = make();
                    let (child, _) = Actor::spawn_linked(None, actor, args, parent).await?;
                    slot.set(child.clone());
                    Ok(child.get_cell())
                })
            })
        };
        (ChildSpec::custom(name, restart, budget, start), slot)
    }

    pub(super) fn custom(name: &'static str, restart: Restart, budget: Budget, start: Starter) -> ChildSpec {
        ChildSpec { name, restart, budget, start, start_deadline: START_DEADLINE, stop_deadline: STOP_DEADLINE }
    }

    /// `start` is for `pre_start`; after `stop` the child is killed.
    pub(super) fn deadlines(mut self, start: Duration, stop: Duration) -> ChildSpec {
        (self.start_deadline, self.stop_deadline) = (start, stop);
        self
    }
}

pub(super) enum OrderedMsg {
    /// The back-off is over; `round` tells a timer that was called off but had fired already.
    Retry { round: u64 },
}

pub(super) struct Ordered {
    pub name: &'static str,
    pub budget: Budget,
    pub backoff: Backoff,
    pub env: Env,
}

pub(super) struct OrderedState {
    members: Vec<Member>,
    restarts: Window,
    /// Everything from this member on is down and waits for its restart.
    down: Option<Down>,
    round: u64,
}

struct Member {
    spec: ChildSpec,
    running: Option<ActorCell>,
    /// Not once a transient one ended normally, or a temporary one at all.
    wanted: bool,
    failures: Window,
    restarted: IntCounter,
}

struct Down {
    from: usize,
    round: u64,
    _timer: TaskGuard,
}

impl Ordered {
    /// Starts what is wanted and down, from `from` on, in order; stops at the first that fails to start.
    async fn start_from(
        &self,
        myself: &ActorRef<OrderedMsg>,
        members: &mut [Member],
        from: usize,
        again: bool,
    ) -> Result<(), (usize, String)> {
        for (index, member) in members.iter_mut().enumerate().skip(from) {
            if !member.wanted || member.running.is_some() {
                continue;
            }
            // The maker of the child runs in here and may panic; ractor catches only what is in the actor.
            let start = AssertUnwindSafe(async { (member.spec.start)(myself.get_cell()).await }).catch_unwind();
            let why = match tokio::time::timeout(member.spec.start_deadline, start).await {
                Ok(Ok(Ok(child))) => {
                    member.running = Some(child);
                    if again {
                        member.restarted.inc();
                    }
                    continue;
                }
                Ok(Ok(Err(SpawnErr::StartupFailed(why)))) => why.to_string(),
                Ok(Ok(Err(why))) => why.to_string(),
                Ok(Err(panic)) => format!("making it panicked: {}", panic_text(&*panic)),
                Err(_) => "it did not start in time".to_owned(),
            };
            return Err((index, why));
        }
        Ok(())
    }

    /// Stops everything after the one that failed, counts, and arms the restart. Errors: a budget is used up.
    async fn failed(&self, myself: &ActorRef<OrderedMsg>, state: &mut OrderedState, index: usize, why: String) -> Done {
        stop_from(&mut state.members, index + 1).await?;
        let (now, member) = (self.env.clock.now(), &mut state.members[index]);
        let (child, budget) = (member.spec.name, member.spec.budget);
        let failures = member.failures.record(now, budget);
        tracing::warn!(supervisor = self.name, child, failures, why, "child failed");
        for (whose, count, budget) in
            [(child, failures, budget), (self.name, state.restarts.record(now, self.budget), self.budget)]
        {
            if count > budget.restarts {
                let (restarts, within) = (budget.restarts, budget.within.as_secs());
                return Err(format!("{whose}: more than {restarts} restarts within {within} s, last: {why}").into());
            }
        }
        state.round += 1;
        let at = now + self.backoff.delay(failures, self.env.fresh.chance());
        let (round, myself, clock) = (state.round, myself.clone(), self.env.clock.clone());
        let timer = spawn_task("restart", async move {
            clock.sleep_until(at).await;
            let _ = myself.cast(OrderedMsg::Retry { round });
        });
        // What was down before came later: nothing after a member that is down runs, so nothing there can fail.
        state.down = Some(Down { from: index, round, _timer: timer });
        Ok(())
    }
}

/// Last to first. Errors: one that cannot even be killed; a second one beside it would be worse than the end of all.
async fn stop_from(members: &mut [Member], from: usize) -> Done {
    for member in members.iter_mut().skip(from).rev() {
        // Taken first: its end is no event any more.
        if let Some(child) = member.running.take() {
            if member.spec.restart == Restart::Temporary {
                member.wanted = false;
            }
            if !end(&child, member.spec.stop_deadline).await {
                return Err(format!("{} cannot be stopped", member.spec.name).into());
            }
        }
    }
    Ok(())
}

impl Actor for Ordered {
    type Msg = OrderedMsg;
    type State = OrderedState;
    type Arguments = Vec<ChildSpec>;

    /// As in OTP, the first start has no second try: what cannot start now is a matter for whoever started us.
    async fn pre_start(
        &self,
        myself: ActorRef<OrderedMsg>,
        children: Vec<ChildSpec>,
    ) -> Result<OrderedState, ActorProcessingErr> {
        let member = |spec: ChildSpec| Member {
            restarted: self.env.metrics.restarts(spec.name),
            spec,
            running: None,
            wanted: true,
            failures: Window::default(),
        };
        let mut members: Vec<Member> = children.into_iter().map(member).collect();
        if let Err((index, why)) = self.start_from(&myself, &mut members, 0, false).await {
            stop_from(&mut members, 0).await?;
            return Err(format!("{} failed to start: {why}", members[index].spec.name).into());
        }
        Ok(OrderedState { members, restarts: Window::default(), down: None, round: 0 })
    }

    async fn handle(&self, myself: ActorRef<OrderedMsg>, msg: OrderedMsg, state: &mut OrderedState) -> Done {
        let OrderedMsg::Retry { round } = msg;
        let Some(down) = state.down.take_if(|down| down.round == round) else { return Ok(()) };
        match self.start_from(&myself, &mut state.members, down.from, true).await {
            Ok(()) => Ok(()),
            Err((index, why)) => self.failed(&myself, state, index, why).await,
        }
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<OrderedMsg>,
        event: SupervisionEvent,
        state: &mut OrderedState,
    ) -> Done {
        let Some((child, exit)) = exit_of(event) else { return Ok(()) };
        let is_it = |member: &Member| member.running.as_ref().is_some_and(|r| pid(r) == pid(&child));
        let Some(index) = state.members.iter().position(is_it) else { return Ok(()) };
        let member = &mut state.members[index];
        member.running = None;
        let why = match (exit, member.spec.restart) {
            (_, Restart::Temporary) | (Exit::Normal, Restart::Transient) => {
                member.wanted = false;
                return Ok(());
            }
            (Exit::Normal, Restart::Permanent) => "it ended, and must not".to_owned(),
            (Exit::Failure(why), Restart::Permanent | Restart::Transient) => why,
        };
        self.failed(&myself, state, index, why).await
    }

    async fn post_stop(&self, _: ActorRef<OrderedMsg>, state: &mut OrderedState) -> Done {
        stop_from(&mut state.members, 0).await
    }
}
