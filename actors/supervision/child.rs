//! What every child of a family wears: a leash that tells when it is really gone.
//!
//! A killed actor is reported as ended while its handler may still run to its next await. A family that starts anew
//! must not run two actors of one key, so it waits until nobody of the old ones is on the leash.

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;

/// How many actors of a family exist, over all its incarnations.
#[derive(Debug, Default)]
pub(super) struct Alive {
    count: AtomicUsize,
    none: Notify,
}

impl Alive {
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    pub async fn none_left(&self) {
        loop {
            // Registered before the look: a change in between is not missed.
            let none = self.none.notified();
            if self.count() == 0 {
                return;
            }
            none.await;
        }
    }
}

struct Leash(Arc<Alive>);

impl Drop for Leash {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.none.notify_waiters();
        }
    }
}

/// The actor itself, on the leash. The futures are passed on as they are: no cost per message.
pub(super) struct Leashed<A> {
    actor: A,
    _leash: Leash,
}

impl<A: Actor> Leashed<A> {
    pub fn new(actor: A, alive: &Arc<Alive>) -> Leashed<A> {
        alive.count.fetch_add(1, Ordering::SeqCst);
        Leashed { actor, _leash: Leash(alive.clone()) }
    }
}

type Done = Result<(), ActorProcessingErr>;

impl<A: Actor> Actor for Leashed<A> {
    type Msg = A::Msg;
    type State = A::State;
    type Arguments = A::Arguments;

    fn pre_start(
        &self,
        myself: ActorRef<A::Msg>,
        args: A::Arguments,
    ) -> impl Future<Output = Result<A::State, ActorProcessingErr>> + Send {
        self.actor.pre_start(myself, args)
    }
    fn post_start(&self, myself: ActorRef<A::Msg>, state: &mut A::State) -> impl Future<Output = Done> + Send {
        self.actor.post_start(myself, state)
    }
    fn post_stop(&self, myself: ActorRef<A::Msg>, state: &mut A::State) -> impl Future<Output = Done> + Send {
        self.actor.post_stop(myself, state)
    }
    fn handle(&self, myself: ActorRef<A::Msg>, msg: A::Msg, state: &mut A::State) -> impl Future<Output = Done> + Send {
        self.actor.handle(myself, msg, state)
    }
    fn handle_supervisor_evt(
        &self,
        myself: ActorRef<A::Msg>,
        event: SupervisionEvent,
        state: &mut A::State,
    ) -> impl Future<Output = Done> + Send {
        self.actor.handle_supervisor_evt(myself, event, state)
    }
}
