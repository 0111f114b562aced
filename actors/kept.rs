//! What was read from the database and is kept until it is forgotten.
//!
//! Invariant: what was read before something was forgotten is not kept after it. The change feed says once that a row changed; a
//! read that was under way at that moment may still have seen the row as it was.

use dashmap::DashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) struct Kept<K, V> {
    known: DashMap<K, V>,
    most: usize,
    /// Counts what was forgotten, of any key: a read that it moved under is answered and not kept.
    forgotten: AtomicU64,
}

impl<K: Copy + Eq + Hash, V: Clone> Kept<K, V> {
    /// Where there would be more than `most`, all are read again.
    pub(crate) fn at_most(most: usize) -> Kept<K, V> {
        Kept { known: DashMap::new(), most, forgotten: AtomicU64::new(0) }
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
        let seen = self.forgotten.load(Ordering::Acquire);
        let value = read.await?;
        self.keep(key, value.clone(), seen);
        Ok(value)
    }

    fn keep(&self, key: K, value: V, seen: u64) {
        if self.known.len() >= self.most {
            self.known.clear();
        }
        // Compared while the place is locked: who forgets counts first and then waits for the lock, and takes away what was put.
        let place = self.known.entry(key);
        if self.forgotten.load(Ordering::Acquire) == seen {
            place.insert(value);
        }
    }

    /// Read again when it is next needed.
    pub(crate) fn forget(&self, key: K) {
        self.forgotten.fetch_add(1, Ordering::AcqRel);
        self.known.remove(&key);
    }

    pub(crate) fn forget_all(&self) {
        self.forgotten.fetch_add(1, Ordering::AcqRel);
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
        assert_eq!(kept.or_read(1, read(12, || ())).await, Ok(12));
        assert_eq!(kept.get(1), Some(12));
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
