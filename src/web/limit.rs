//! How often: token buckets by credential, by address for calls without one, and for sign-in attempts.
//!
//! Invariant: memory is bounded; when there are too many buckets the full ones go first, which loses nothing.

pub use actors::commands::networks::network_of;
use actors::commands::networks::site_of;
use dashmap::DashMap;
use domain::{Digest, Timestamp};
use std::hash::Hash;
use std::net::IpAddr;

/// Buckets kept at once. 65,536 x about 64 bytes = 4 MB.
const MAX_BUCKETS: usize = 65_536;
/// The same for nodes, of which an installation has more than keys: 262,144 x about 64 bytes = 16 MB.
pub const MAX_NODE_BUCKETS: usize = 262_144;
/// Sign-in attempts of one network in a minute; people mistype, offices share an address.
pub const SIGN_INS_PER_ADDRESS: u32 = 20;
/// The same of one site of IPv6, which has 65,536 networks to come from.
pub const SIGN_INS_PER_SITE: u32 = 100;
/// Failed sign-ins to one account in a minute, from one network.
pub const FAILURES_PER_ACCOUNT: u32 = 10;

/// What a credential has left, for the `X-RateLimit-*` headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    pub limit: u32,
    pub remaining: u32,
    /// Seconds until everything may be used again.
    pub reset_s: u32,
}

/// Refused; may be tried again after so many seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait(pub u32);

/// Microseconds of a minute.
const CALL: i64 = 60_000_000;

#[derive(Clone, Copy)]
struct Bucket {
    /// A call is [`CALL`] of these and a microsecond brings `per_minute`, so that refilling loses nothing to rounding.
    level: i64,
    at: Timestamp,
}

/// Token buckets of one size: `per_minute` calls at once, refilled evenly.
pub struct Buckets<K: Eq + Hash> {
    per_minute: u32,
    most: usize,
    buckets: DashMap<K, Bucket>,
}

impl<K: Eq + Hash + Copy> Buckets<K> {
    /// 0 is no limit.
    pub fn new(per_minute: u32) -> Buckets<K> {
        Buckets::keeping(per_minute, MAX_BUCKETS)
    }

    /// At most so many buckets.
    pub fn keeping(per_minute: u32, most: usize) -> Buckets<K> {
        Buckets { per_minute, most, buckets: DashMap::new() }
    }

    fn full(&self) -> i64 {
        i64::from(self.per_minute) * CALL
    }

    fn filled(&self, bucket: Bucket, now: Timestamp) -> i64 {
        let passed = now.since(bucket.at).0.min(CALL);
        (bucket.level + passed * i64::from(self.per_minute)).min(self.full())
    }

    /// Takes one call.
    pub fn take(&self, key: K, now: Timestamp) -> Result<Left, Wait> {
        if self.per_minute == 0 {
            return Ok(Left { limit: 0, remaining: u32::MAX, reset_s: 0 });
        }
        if self.buckets.len() >= self.most && !self.buckets.contains_key(&key) {
            self.make_room(now);
        }
        let mut bucket = self.buckets.entry(key).or_insert(Bucket { level: self.full(), at: now });
        let level = self.filled(*bucket, now);
        if level < CALL {
            *bucket = Bucket { level, at: now };
            return Err(Wait(self.seconds(CALL - level)));
        }
        *bucket = Bucket { level: level - CALL, at: now };
        Ok(self.left(level - CALL))
    }

    /// Gives one call back.
    pub fn give_back(&self, key: K) {
        if let Some(mut bucket) = self.buckets.get_mut(&key) {
            bucket.level = (bucket.level + CALL).min(self.full());
        }
    }

    fn left(&self, level: i64) -> Left {
        let reset_s = self.seconds(self.full() - level);
        Left { limit: self.per_minute, remaining: (level / CALL) as u32, reset_s }
    }

    /// How long it takes to bring so much, rounded up.
    fn seconds(&self, missing: i64) -> u32 {
        (missing.max(0) as u64).div_ceil(u64::from(self.per_minute.max(1)) * 1_000_000) as u32
    }

    /// A scan costs as many steps as there are buckets, so each leaves a quarter of the room free for as many newcomers. Those
    /// that are empty, whose owners are being held off, go last.
    #[cold]
    fn make_room(&self, now: Timestamp) {
        let enough = self.most - self.most.div_ceil(4);
        self.buckets.retain(|_, b| self.filled(*b, now) < self.full());
        if self.buckets.len() > enough {
            self.buckets.retain(|_, b| self.filled(*b, now) < CALL);
        }
        // Still full: very many are held off at once. Starting anew is better than growing.
        if self.buckets.len() > enough {
            self.buckets.clear();
        }
    }
}

/// Sign-in attempts, counted by where they come from only: what others try on an account never holds off its owner. How fast a
/// password can be guessed from many networks at once is bounded by the pool that checks them.
pub struct SignIns {
    by_address: Buckets<IpAddr>,
    by_site: Buckets<IpAddr>,
    by_account: Buckets<(Digest, IpAddr)>,
}

impl Default for SignIns {
    fn default() -> Self {
        SignIns {
            by_address: Buckets::new(SIGN_INS_PER_ADDRESS),
            by_site: Buckets::new(SIGN_INS_PER_SITE),
            by_account: Buckets::new(FAILURES_PER_ACCOUNT),
        }
    }
}

/// An attempt that was let through; says what became of it.
pub struct Attempt(Digest, IpAddr);

impl SignIns {
    /// Before the password is looked at. All counts are taken at once, so parallel attempts cannot slip by.
    pub fn begin(&self, email: &str, address: IpAddr, now: Timestamp) -> Result<Attempt, Wait> {
        let account = Digest::of(email.trim().to_lowercase().as_bytes());
        let network = network_of(address);
        self.by_address.take(network, now)?;
        if network.is_ipv6() {
            self.by_site.take(site_of(address), now)?;
        }
        self.by_account.take((account, network), now)?;
        Ok(Attempt(account, network))
    }

    pub fn succeeded(&self, attempt: Attempt) {
        self.by_account.give_back((attempt.0, attempt.1));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::Ipv4Addr;

    fn at(seconds: i64) -> Timestamp {
        Timestamp(1_000_000_000 + seconds * 1_000_000)
    }

    #[test]
    fn a_bucket_empties_tells_when_and_fills_again() {
        let b = Buckets::new(60);
        for n in (0..60).rev() {
            assert_eq!(b.take(1, at(0)).unwrap().remaining, n);
        }
        assert_eq!(b.take(1, at(0)), Err(Wait(1)));
        assert!(b.take(2, at(0)).is_ok(), "another key is not touched");
        assert_eq!(b.take(1, at(1)).unwrap(), Left { limit: 60, remaining: 0, reset_s: 60 });
        assert_eq!(b.take(1, at(61)).unwrap().remaining, 59);
    }

    #[test]
    fn slow_limits_lose_nothing_to_rounding() {
        let b = Buckets::new(1);
        assert!(b.take((), at(0)).is_ok());
        assert_eq!(b.take((), at(0)), Err(Wait(60)));
        for s in 1..60 {
            assert!(b.take((), at(s)).is_err());
        }
        assert!(b.take((), at(60)).is_ok());
    }

    #[test]
    fn zero_is_no_limit() {
        let b = Buckets::new(0);
        for _ in 0..1_000 {
            assert!(b.take(1, at(0)).is_ok());
        }
    }

    #[test]
    fn memory_is_bounded_and_used_buckets_are_kept_when_possible() {
        let mut b = Buckets::new(10);
        b.most = 100;
        for _ in 0..10 {
            let _ = b.take(0, at(0));
        }
        for k in 1..100 {
            b.take(k, at(0)).unwrap();
        }
        // A minute later all but nothing are full again; a new key makes room.
        b.take(1_000, at(60)).unwrap();
        assert!(b.buckets.len() <= 2, "{}", b.buckets.len());
        for k in 0..10_000 {
            let _ = b.take(k, at(60));
            assert!(b.buckets.len() <= 100);
        }
    }

    #[test]
    fn who_is_held_off_stays_held_off_when_room_is_made() {
        let mut b = Buckets::new(2);
        b.most = 100;
        for _ in 0..3 {
            let _ = b.take(0, at(0));
        }
        for k in 1..1_000 {
            b.take(k, at(0)).unwrap();
        }
        assert!(b.take(0, at(0)).is_err() && b.buckets.len() <= 100);
    }

    #[test]
    fn the_wait_that_is_told_is_long_enough_and_not_longer() {
        for per_minute in [1, 7, 60, 600, 1_000] {
            let b = Buckets::new(per_minute);
            while b.take((), at(0)).is_ok() {}
            let Err(Wait(seconds)) = b.take((), at(0)) else { panic!() };
            assert!(b.take((), at(i64::from(seconds) - 1)).is_err() || seconds == 1, "{per_minute}: {seconds}");
            assert!(b.take((), at(i64::from(seconds))).is_ok(), "{per_minute}: {seconds}");
        }
    }

    #[test]
    fn attempts_on_an_account_do_not_lock_out_its_owner() {
        // A new process, which knows nobody's networks.
        let s = SignIns::default();
        for n in 0..100u8 {
            let stranger = IpAddr::V4(Ipv4Addr::new(198, 51, 100, n));
            let let_through = (0..50).filter(|_| s.begin("ann@example.com", stranger, at(1)).is_ok()).count();
            assert_eq!(let_through as u32, FAILURES_PER_ACCOUNT, "each network is held off by itself");
        }
        let anywhere = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
        for _ in 0..SIGN_INS_PER_ADDRESS {
            // Who knows the password is not counted among the failures.
            s.succeeded(s.begin("Ann@example.com ", anywhere, at(1)).map_err(|w| w.0).unwrap());
        }
        assert!(s.begin("bob@example.com", IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9)), at(1)).is_ok());
    }

    #[test]
    fn one_site_of_ipv6_cannot_come_from_ever_new_networks() {
        let s = SignIns::default();
        let network = |n: u128| IpAddr::V6(((0x2001_0db8_0001u128 << 80) | (n << 64) | 1).into());
        let tried = (0..10_000).filter(|n| s.begin(&format!("u{n}@example.com"), network(*n), at(0)).is_ok()).count();
        assert_eq!(tried as u32, SIGN_INS_PER_SITE);
        let elsewhere: IpAddr = "2001:db8:2::1".parse().unwrap();
        assert!(s.begin("u0@example.com", elsewhere, at(0)).is_ok());
    }

    #[test]
    fn one_address_cannot_try_many_accounts() {
        let s = SignIns::default();
        let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
        let tried = (0..100).filter(|n| s.begin(&format!("u{n}@example.com"), address, at(0)).is_ok()).count();
        assert_eq!(tried as u32, SIGN_INS_PER_ADDRESS);
    }

    #[test]
    fn ipv6_is_counted_by_its_network() {
        let a: IpAddr = "2001:db8:1:2:3:4:5:6".parse().unwrap();
        let b: IpAddr = "2001:db8:1:2:ffff::1".parse().unwrap();
        assert_eq!(network_of(a), network_of(b));
        assert_eq!(network_of("::ffff:192.0.2.1".parse().unwrap()), IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
    }
}
