//! Finding a running actor: by key within a family, or the one actor of a static child.
//!
//! Invariants: there are no global names; an actor that is ending is not handed out; an entry goes only with the actor
//! it was made for, never with its successor.

use dashmap::DashMap;
use ractor::{ActorCell, ActorRef, ActorStatus, Message};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, PoisonError, RwLock};

/// What names a child within its family.
pub trait Key: Clone + Eq + Hash + Debug + Send + Sync + 'static {}
impl<T: Clone + Eq + Hash + Debug + Send + Sync + 'static> Key for T {}

/// Key to running actor. Cheap to clone; a look-up takes about 200 ns and never waits for an actor.
pub struct Directory<K: Key, M> {
    entries: Arc<DashMap<K, ActorRef<M>>>,
}

impl<K: Key, M: Message> Directory<K, M> {
    pub(super) fn new() -> Directory<K, M> {
        Directory { entries: Arc::new(DashMap::new()) }
    }

    /// The actor, if it runs. It may end the next moment: every message to it may be lost.
    pub fn get(&self, key: &K) -> Option<ActorRef<M>> {
        let actor = self.entries.get(key)?.value().clone();
        if takes_messages(&actor) {
            return Some(actor);
        }
        // Its supervisor would do it soon; the next look-up need not find the same corpse.
        self.remove(key, pid(&actor));
        None
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Who runs now, in no order. Not one moment's truth: entries come and go while it is collected.
    pub fn snapshot(&self) -> Vec<(K, ActorRef<M>)> {
        let live = self.entries.iter().filter(|e| takes_messages(e.value()));
        live.map(|e| (e.key().clone(), e.value().clone())).collect()
    }

    pub(super) fn insert(&self, key: K, actor: ActorRef<M>) {
        self.entries.insert(key, actor);
    }

    pub(super) fn remove(&self, key: &K, pid: u64) {
        self.entries.remove_if(key, |_, actor| self::pid(actor) == pid);
    }
}

impl<K: Key, M> Clone for Directory<K, M> {
    fn clone(&self) -> Self {
        Directory { entries: self.entries.clone() }
    }
}

/// Where the current incarnation of one actor is found. Empty before it started and while it is being restarted.
pub struct Slot<M> {
    current: Arc<RwLock<Option<ActorRef<M>>>>,
}

impl<M: Message> Slot<M> {
    pub(super) fn new() -> Slot<M> {
        Slot { current: Arc::default() }
    }

    pub fn get(&self) -> Option<ActorRef<M>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().filter(|actor| takes_messages(actor)).cloned()
    }

    pub(super) fn set(&self, actor: ActorRef<M>) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(actor);
    }
}

impl<M> Clone for Slot<M> {
    fn clone(&self) -> Self {
        Slot { current: self.current.clone() }
    }
}

pub(super) fn takes_messages(actor: &ActorCell) -> bool {
    actor.get_status() < ActorStatus::Draining
}

/// The number of a local actor; all of ours are. Half the size of `ActorId`.
pub(super) fn pid(actor: &ActorCell) -> u64 {
    actor.get_id().pid()
}
