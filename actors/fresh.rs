//! The one source of chance: new ids, keys, jitter.
//!
//! Invariant: nothing else in this crate draws random bytes, so a run with a seed can be repeated.

use domain::Timestamp;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use uuid::Uuid;

/// Makes what must not repeat. Cheap to clone; clones draw from the same source.
#[derive(Clone, Debug)]
pub struct Fresh(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    /// SplitMix64. Predictable: never outside of tests and simulations.
    Seeded(Arc<AtomicU64>),
}

impl Fresh {
    /// The operating system's generator: fit for keys.
    pub fn system() -> Fresh {
        Fresh(Source::System)
    }

    /// The same seed gives the same draws in the same order.
    pub fn seeded(seed: u64) -> Fresh {
        Fresh(Source::Seeded(Arc::new(AtomicU64::new(seed))))
    }

    /// `N` random bytes. Panics when the operating system has none: going on would make keys that can be guessed.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut out = [0u8; N];
        match &self.0 {
            Source::System => {
                if let Err(why) = getrandom::fill(&mut out) {
                    panic!("no random bytes to be had: {why}");
                }
            }
            Source::Seeded(state) => {
                for piece in out.chunks_mut(8) {
                    piece.copy_from_slice(&splitmix(state).to_le_bytes()[..piece.len()]);
                }
            }
        }
        out
    }

    /// 64 random bits, for jitter and choices.
    pub fn chance(&self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    /// A UUIDv7 of the time `now`. The 12 bits after the milliseconds are their fraction (RFC 9562, 6.2 method 3), so
    /// ids of different microseconds sort by time; within one microsecond (strictly: 250 ns) chance decides.
    pub fn uuid(&self, now: Timestamp) -> Uuid {
        let micros = now.0.max(0) as u64;
        let (millis, fraction) = (micros / 1_000, (micros % 1_000) * 4_096 / 1_000);
        let mut bytes = [0u8; 16];
        bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
        bytes[6..8].copy_from_slice(&(0x7000 | fraction as u16).to_be_bytes());
        bytes[8..].copy_from_slice(&self.bytes::<8>());
        bytes[8] = 0x80 | (bytes[8] & 0x3f);
        Uuid::from_bytes(bytes)
    }

    /// [`uuid`](Self::uuid) as one of the domain's ids: `let id: RolloutId = fresh.id(now)`.
    pub fn id<T: From<Uuid>>(&self, now: Timestamp) -> T {
        self.uuid(now).into()
    }
}

fn splitmix(state: &AtomicU64) -> u64 {
    const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut z = state.fetch_add(GAMMA, Ordering::Relaxed).wrapping_add(GAMMA);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ids_are_uuid_v7_and_sort_by_their_microsecond() {
        let fresh = Fresh::system();
        let start = 1_795_296_900_123_456;
        let ids: Vec<Uuid> = (0..3_000).map(|n| fresh.uuid(Timestamp(start + n))).collect();
        assert!(ids.is_sorted());
        for (n, id) in ids.iter().enumerate() {
            assert_eq!((id.get_version_num(), id.get_variant()), (7, uuid::Variant::RFC4122));
            let (secs, nanos) = id.get_timestamp().unwrap().to_unix();
            let millis = secs * 1_000 + u64::from(nanos) / 1_000_000;
            assert_eq!(millis, (start as u64 + n as u64) / 1_000);
        }
    }

    #[test]
    fn nothing_repeats() {
        for fresh in [Fresh::system(), Fresh::seeded(1)] {
            let mut ids: Vec<Uuid> = (0..10_000).map(|_| fresh.uuid(Timestamp::ZERO)).collect();
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), 10_000);
            assert_ne!(fresh.bytes::<32>(), fresh.bytes::<32>());
        }
    }

    #[test]
    fn a_seed_repeats_the_whole_run_and_clones_share_it() {
        let draw = |seed| {
            let fresh = Fresh::seeded(seed);
            let clone = fresh.clone();
            (fresh.bytes::<13>(), clone.chance(), fresh.uuid(Timestamp(7)))
        };
        assert_eq!(draw(5), draw(5));
        assert_ne!(draw(5), draw(6));
    }
}
