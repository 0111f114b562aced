//! What was read from the database and is kept until it is forgotten.
//!
//! Invariant: what was read before something was forgotten is not kept after it. The change feed says once that a row changed; a
//! read that was under way at that moment may still have seen the row as it was.

use dashmap::DashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};

/// Keys whose latest forgetting is known. Beyond it all that was read until then counts as forgotten: 4,096 x about 40 bytes.
const MOST_FORGOTTEN: usize = 4_096;

/// What was forgotten and when, by a count of its own. Of one key only: where many are read and some change all the time, a count of
/// all of them would let nothing be kept.
pub(crate) struct Forgotten<K> {
    count: AtomicU64,
    latest: DashMap<K, u64>,
    /// Of every key.
    all: AtomicU64,
}

impl<K: Eq + Hash> Default for Forgotten<K> {
    fn default() -> Self {
        Forgotten { count: AtomicU64::new(0), latest: DashMap::new(), all: AtomicU64::new(0) }
    }
}

impl<K: Copy + Eq + Hash> Forgotten<K> {
    /// To be asked before something is read.
    pub(crate) fn now(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Was `key` forgotten after `seen`? Then what was read in between may be from before.
    pub(crate) fn is_newer(&self, key: K, seen: u64) -> bool {
        let latest = self.latest.get(&key).is_some_and(|n| *n > seen);
        latest || self.all.load(Ordering::Acquire) > seen
    }

    /// Before it is taken away: who put it there meanwhile looks here afterwards.
    pub(crate) fn note(&self, key: K) {
        let n = self.count.fetch_add(1, Ordering::AcqRel) + 1;
        if self.latest.len() >= MOST_FORGOTTEN {
            // In this order: a reader that finds its key gone finds this.
            self.all.fetch_max(n, Ordering::AcqRel);
            self.latest.retain(|_, at| *at > n);
        }
        // Somebody may have counted after us and be here before us.
        let mut latest = self.latest.entry(key).or_insert(n);
        *latest = (*latest).max(n);
    }

    pub(crate) fn note_all(&self) {
        let n = self.count.fetch_add(1, Ordering::AcqRel) + 1;
        self.all.fetch_max(n, Ordering::AcqRel);
    }
}

pub(crate) struct Kept<K, V> {
    known: DashMap<K, V>,
    most: usize,
    forgotten: Forgotten<K>,
}

impl<K: Copy + Eq + Hash, V: Clone> Kept<K, V> {
    /// Where there would be more than `most`, all are read again.
    pub(crate) fn at_most(most: usize) -> Kept<K, V> {
        Kept { known: DashMap::new(), most, forgotten: Forgotten::default() }
    }

    pub(crate) fn get(&self, key: K) -> Option<V> {
        self.known.get(&key).map(|known| known.value().clone())
    }

    /// What is kept, else what `read` finds.
    pub(crate) async fn or_read<E>(&self, key: K, read: impl Future<Output = Result<V, E>>) -> Result<V, E> {
        if let Some(known) = self.get(key) {
            return Ok(known);
        }
        // Before the first step of the read.
        let seen = self.forgotten.now();
        let value = read.await?;
        self.keep(key, value.clone(), seen);
        Ok(value)
    }

    fn keep(&self, key: K, value: V, seen: u64) {
        if self.known.len() >= self.most {
            self.known.clear();
        }
        // Compared while the place is locked: who forgets notes it first and then waits for the lock, and takes away what was put.
        let place = self.known.entry(key);
        if !self.forgotten.is_newer(key, seen) {
            place.insert(value);
        }
    }

    /// Read again when it is next needed.
    pub(crate) fn forget(&self, key: K) {
        self.forgotten.note(key);
        self.known.remove(&key);
    }

    pub(crate) fn forget_all(&self) {
        self.forgotten.note_all();
        self.known.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A read that finds `value`, during which something happens.
    async fn read(value: u32, meanwhile: impl FnOnce()) -> Result<u32, ()> {
        meanwhile();
        Ok(value)
    }

    #[tokio::test]
    async fn what_was_read_is_kept_until_it_is_forgotten() {
        let kept = Kept::at_most(9);
        assert_eq!(kept.or_read(1, read(10, || ())).await, Ok(10));
        assert_eq!(kept.or_read(1, read(11, || ())).await, Ok(10));
        kept.forget(1);
        assert_eq!(kept.or_read(1, read(12, || ())).await, Ok(12));
        kept.forget_all();
        assert_eq!(kept.get(1), None);
        assert_eq!(kept.or_read(1, async { Err::<u32, &str>("away") }).await, Err("away"));
        assert_eq!(kept.get(1), None, "what could not be read is asked for again");
    }

    #[tokio::test]
    async fn what_was_read_before_something_was_forgotten_is_not_kept_after_it() {
        let kept = Kept::at_most(9);
        assert_eq!(kept.or_read(1, read(10, || kept.forget(1))).await, Ok(10), "whoever asked before is answered");
        assert_eq!(kept.get(1), None);
        assert_eq!(kept.or_read(1, read(11, || kept.forget_all())).await, Ok(11));
        assert_eq!(kept.get(1), None);
        assert_eq!(kept.or_read(1, read(12, || kept.forget(2))).await, Ok(12));
        assert_eq!(kept.get(1), Some(12), "it was another one that was forgotten");
    }

    #[tokio::test]
    async fn no_more_are_kept_than_was_said() {
        let kept = Kept::at_most(2);
        for key in 1..=3 {
            assert_eq!(kept.or_read(key, read(key, || ())).await, Ok(key));
        }
        assert_eq!((kept.get(1), kept.get(2), kept.get(3)), (None, None, Some(3)));
    }
}
