//! What breaks at the door, commit by commit: a process that dies just before or just after one, or an answer that is lost.
//!
//! A dead handle never answers again: what worked through it hangs where it stands, reaches nothing and changes nothing, as
//! the threads of a killed process do. Another handle on the same database is the next process.

use crate::Store;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// What happens at one commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// It is made and answered.
    Go,
    /// The process dies before it: nothing of it is stored.
    DieBefore,
    /// The process dies after it: stored, and nobody was told.
    DieAfter,
    /// The database is away: certainly not done.
    Refused,
    /// Done, and the answer is lost.
    AnswerLost,
}

type Plan = Box<dyn FnMut(u64, &'static str) -> At + Send>;

/// The fate of one process. Cheap to clone.
#[derive(Clone)]
pub struct Faults(Arc<Shared>);

struct Shared {
    plan: Mutex<Plan>,
    seen: Mutex<Vec<&'static str>>,
    dead: watch::Sender<bool>,
    gate: watch::Sender<Gate>,
}

#[derive(Clone, Copy, Default)]
struct Gate {
    /// Whose answers are held back.
    ops: &'static [&'static str],
    waiting: usize,
    /// How often they were let go: who waits sees that, however soon the next are held.
    opened: u64,
}

impl Faults {
    /// `plan` is asked at each commit: its number, from 1, and the name of the operation.
    pub fn planned(plan: impl FnMut(u64, &'static str) -> At + Send + 'static) -> Faults {
        let dead = watch::Sender::new(false);
        let gate = watch::Sender::new(Gate::default());
        Faults(Arc::new(Shared { plan: Mutex::new(Box::new(plan)), seen: Mutex::default(), dead, gate }))
    }

    /// Nothing breaks; commits are counted.
    pub fn none() -> Faults {
        Faults::planned(|_, _| At::Go)
    }

    /// Something happens at the `n`th commit.
    pub fn at(n: u64, what: At) -> Faults {
        Faults::planned(move |i, _| if i == n { what } else { At::Go })
    }

    /// The operations that came to their commit, in order.
    pub fn commits(&self) -> Vec<&'static str> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// As if killed from outside, between two commits.
    pub fn kill(&self) {
        self.0.dead.send_replace(true);
    }

    pub fn is_dead(&self) -> bool {
        *self.0.dead.borrow()
    }

    /// Returns when the process is dead.
    pub async fn died(&self) {
        let _ = self.0.dead.subscribe().wait_for(|d| *d).await;
    }

    /// From now on what the database answered to `ops` is held back, until [`Faults::let_go`].
    pub fn hold(&self, ops: &'static [&'static str]) {
        self.0.gate.send_modify(|g| (g.ops, g.waiting) = (ops, 0));
    }

    /// Returns when somebody waits for an answer that is held back.
    pub async fn until_held(&self) {
        let _ = self.0.gate.subscribe().wait_for(|g| g.waiting > 0).await;
    }

    pub fn let_go(&self) {
        self.0.gate.send_modify(|g| *g = Gate { opened: g.opened + 1, ..Gate::default() });
    }

    pub(crate) async fn answered(&self, op: &'static str) {
        let mut gate = self.0.gate.subscribe();
        let mut opened = 0;
        let is_held = self.0.gate.send_if_modified(|g| {
            let held = g.ops.contains(&op);
            (g.waiting, opened) = (g.waiting + usize::from(held), g.opened);
            held
        });
        if is_held {
            let _ = gate.wait_for(|g| g.opened != opened).await;
        }
    }

    pub(crate) fn next(&self, op: &'static str) -> At {
        if self.is_dead() {
            return At::DieBefore;
        }
        let n = {
            let mut seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.push(op);
            seen.len() as u64
        };
        let what = (self.0.plan.lock().unwrap_or_else(PoisonError::into_inner))(n, op);
        if matches!(what, At::DieBefore | At::DieAfter) {
            self.kill();
        }
        what
    }

    /// Never returns once the process is dead.
    pub(crate) async fn live(&self) {
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
    }
}

impl Store {
    /// Another handle on the same database, for a process with this fate.
    pub fn with_faults(&self, faults: Faults) -> Store {
        Store { inner: self.inner.clone(), faults: Some(faults) }
    }
}
