//! WHO STARTS WHOM AGAIN: supervision as in OTP, on ractor.
//!
//! Owns: restarts, budgets, back-off; the directories in which running actors are found; tasks that are not actors.
//!
//! - [`Family`]: one-for-one, keyed children that come and go. A child over its own budget is *given up*: the family's
//!   action says what that means (always failing closed), its siblings go on. Over the family's budget the family ends
//!   with an error, and its parent sees it.
//! - [`Root`]: rest-for-one over static children in order. Over its budget it ends, and so should the process.
//!
//! Traps of ractor that are closed here and nowhere else: the default supervision handler stops the parent at any end
//! of a child (ours decide by [`Restart`]); an error or panic in `pre_start` goes to the spawner (ours counts it and
//! backs off); names are global to the process (ours are not used, see [`Directory`]); mailboxes have no bound (see
//! [`Admission`]); `kill` drops a handler at its await and counts as a failure; panics become events only with
//! `panic = "unwind"` (nothing else compiles).
//!
//! A handler's rule follows: whatever must survive a kill or a panic is in the store before the handler acts on it.

mod budget;
mod call;
mod child;
mod directory;
mod family;
mod metrics;
mod ordered;
mod root;
mod task;

#[cfg(test)]
mod tests;

pub use budget::{Backoff, Budget, Restart};
pub use call::{CallError, call_with_deadline};
pub use directory::{Directory, Key, Slot};
pub use family::{Family, FamilySpec, GivenUp, StartError};
pub use metrics::{Admission, Metrics, Overloaded, Ticket};
pub use ordered::ChildSpec;
pub use root::{Root, RootSpec};
pub use task::{TaskGuard, spawn_task};

use crate::clock::Clock;
use crate::fresh::Fresh;
use domain::Span;
use ractor::{ActorCell, SupervisionEvent};
use std::time::Duration;

const _: () = assert!(cfg!(panic = "unwind"), "a panic in a handler must be an event, not the end of the process");

/// A child that is asked to stop is killed after this.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// A family stops all its children at once; this for them, and a little for itself.
const FAMILY_STOP_DEADLINE: Duration = Duration::from_secs(STOP_DEADLINE.as_secs() + 5);
/// A `pre_start` that takes longer is killed and counts as a failure. It loads one thing from the store.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// A family waits for its former children and lists the keys to start: `STOP_DEADLINE` + two loads.
const FAMILY_START_DEADLINE: Duration = Duration::from_secs(STOP_DEADLINE.as_secs() + 2 * START_DEADLINE.as_secs());
/// How soon a child whose start found its surroundings [`Away`] is started again.
const AWAY_RETRY: Span = Span::secs(1);
/// After a kill an actor is gone at its next await; who does not await for so long is stuck for good.
const KILL_DEADLINE: Duration = Duration::from_secs(5);

/// What supervision needs from its surroundings.
#[derive(Clone, Debug)]
pub struct Env {
    pub clock: Clock,
    /// For jitter.
    pub fresh: Fresh,
    pub metrics: Metrics,
}

/// What a `pre_start` answers when something outside this process that it needs does not answer. Nobody's fault: it counts
/// against no budget, and the child is started again every second until it is back (a temporary one when it is asked for again).
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Away(pub String);

/// How a child ended.
#[derive(Debug)]
enum Exit {
    /// It stopped, or was stopped, and `post_stop` went well.
    Normal,
    /// An error, a panic, a kill, a cancelled task.
    Failure(String),
}

/// The end of a child, if `event` is one.
fn exit_of(event: SupervisionEvent) -> Option<(ActorCell, Exit)> {
    match event {
        SupervisionEvent::ActorFailed(who, why) => Some((who, Exit::Failure(why.to_string()))),
        SupervisionEvent::ActorTerminated(who, _, reason) => {
            let exit = match reason.as_deref() {
                // ractor's own words, in `ActorRuntime::start` and `Signal`; nobody else stops with these.
                Some(violent @ ("killed" | "actor_task_cancelled")) => Exit::Failure(violent.to_owned()),
                Some(_) | None => Exit::Normal,
            };
            Some((who, exit))
        }
        SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => None,
    }
}

/// Asks the actor to stop, and kills it when it does not within `deadline`. Gone at the end?
async fn end(actor: &ActorCell, deadline: Duration) -> bool {
    actor.stop(None);
    if actor.wait(Some(deadline)).await.is_ok() {
        return true;
    }
    tracing::warn!(actor = %actor.get_id(), "did not stop in time, killing it");
    actor.kill();
    actor.wait(Some(KILL_DEADLINE)).await.is_ok()
}
