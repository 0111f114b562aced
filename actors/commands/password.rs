//! Passwords: argon2id in PHC form, on a pool that leaves the processor to others.
//!
//! Invariant: at most [`AT_ONCE`] run at once, with rests between, and [`WAITING`] wait; whoever comes beyond that is told to come back.
//! [`KEPT`] more places are no stranger's: a flood of them does not keep others out.

use crate::command::{CommandError, CommandResult};
use crate::fresh::Fresh;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Argon2, PasswordHash};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

/// 19 MiB and some 30 ms of one core each.
const AT_ONCE: usize = 1;
/// After each, its place rests so many times as long as it worked: a flood of sign-ins gets 40 % of one core, a fifth of the two
/// that there may be, and heartbeats the rest. One sign-in does not wait for the rest after it.
const REST: f64 = 1.5;
/// 32 x 30 ms x 2.5: 2.4 s at the end of the queue.
const WAITING: usize = 32;
/// Places beyond those, for whoever comes from where they signed in before: 16 x 80 ms more.
const KEPT: usize = 16;
/// On a machine so busy that a hash takes seconds, resting for more would only keep people out.
const MAX_REST: Duration = Duration::from_millis(200);
/// The least characters of a password that a person chooses.
pub const MIN_PASSWORD: usize = 8;
/// The most bytes: argon2 takes more, but nobody needs to send them.
pub const MAX_PASSWORD_BYTES: usize = 1_024;

/// Of a password that nobody has: verified against for unknown users, so that both answers take the same time.
const DUMMY: &str = "$argon2id$v=19$m=19456,t=2,p=1$c2VudGluZWwtZHVtbXktcw$Hq0+0fB8AcEzYy2Kf3Ij7mC2dGQ5oU4oNf4o2eXr5bM";

#[derive(Clone, Debug)]
pub(crate) struct Pool {
    running: Arc<Semaphore>,
    admitted: Arc<Semaphore>,
    kept: Arc<Semaphore>,
}

/// A place in the queue.
pub(crate) struct Place(OwnedSemaphorePermit);

pub(crate) fn busy() -> CommandError {
    CommandError::Unavailable("too many sign-ins at once".into())
}

impl Default for Pool {
    fn default() -> Pool {
        Pool {
            running: Arc::new(Semaphore::new(AT_ONCE)),
            admitted: Arc::new(Semaphore::new(AT_ONCE + WAITING)),
            kept: Arc::new(Semaphore::new(KEPT)),
        }
    }
}

/// Length only: composition rules make passwords worse.
pub(crate) fn check_password(password: &str) -> Result<(), String> {
    if password.chars().count() < MIN_PASSWORD {
        return Err(format!("must have at least {MIN_PASSWORD} characters"));
    }
    if password.len() > MAX_PASSWORD_BYTES {
        return Err(format!("must have at most {MAX_PASSWORD_BYTES} bytes"));
    }
    Ok(())
}

impl Pool {
    /// One of the places that are anybody's.
    pub(crate) fn place(&self) -> Option<Place> {
        self.admitted.clone().try_acquire_owned().ok().map(Place)
    }

    /// One of those that are kept for people who come from where they came before.
    pub(crate) fn kept_place(&self) -> Option<Place> {
        self.kept.clone().try_acquire_owned().ok().map(Place)
    }

    /// The PHC string of a new hash with its own salt.
    pub(crate) async fn hash(&self, fresh: &Fresh, password: &str) -> CommandResult<String> {
        let (password, salt): (String, [u8; 16]) = (password.to_string(), fresh.bytes());
        self.run(self.place(), move || {
            let hash: Result<PasswordHash, _> = Argon2::default().hash_password_with_salt(password.as_bytes(), &salt);
            hash.map(|h| h.to_string()).map_err(|e| CommandError::Unavailable(format!("hashing the password: {e}")))
        })
        .await?
    }

    /// Is `password` the one of `hash`? Without a hash it takes as long and is false.
    pub(crate) async fn verify(&self, hash: Option<String>, password: &str) -> CommandResult<bool> {
        self.verify_at(self.place(), hash, password).await
    }

    /// As [`Pool::verify`], at a place that was found before.
    pub(crate) async fn verify_at(
        &self,
        place: Option<Place>,
        hash: Option<String>,
        password: &str,
    ) -> CommandResult<bool> {
        if password.len() > MAX_PASSWORD_BYTES {
            return Ok(false);
        }
        let password = password.to_string();
        self.run(place, move || {
            // An account whose password is void has a hash that is none.
            let hash = hash.filter(|h| PasswordHash::new(h).is_ok());
            let known = hash.is_some();
            let right =
                Argon2::default().verify_password(password.as_bytes(), hash.as_deref().unwrap_or(DUMMY)).is_ok();
            known && right
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        place: Option<Place>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> CommandResult<T> {
        let admitted = place.ok_or_else(busy)?.0;
        let running = self.running.clone().acquire_owned().await.map_err(|_| busy())?;
        let (answer, done) = oneshot::channel();
        // The permits go along: a caller that hangs up does not free a place that is still in use.
        tokio::task::spawn_blocking(move || {
            let _places = (admitted, running);
            let begun = Instant::now();
            let _ = answer.send(work());
            let rest = begun.elapsed().mul_f64(REST).min(MAX_REST);
            #[allow(clippy::disallowed_methods)] // a thread that is for blocking work
            std::thread::sleep(rest);
        });
        done.await.map_err(|_| CommandError::Unavailable("the password thread ended".into()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn only_the_right_password_verifies_and_nobody_has_the_dummy_one() {
        let pool = Pool::default();
        let hash = pool.hash(&Fresh::seeded(1), "correct horse").await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$"));
        assert!(pool.verify(Some(hash.clone()), "correct horse").await.unwrap());
        assert!(!pool.verify(Some(hash), "correct horsf").await.unwrap());
        assert!(!pool.verify(None, "correct horse").await.unwrap());
        // A dummy that does not parse would be told by its speed.
        assert!(PasswordHash::new(DUMMY).is_ok());
    }

    #[tokio::test]
    async fn beyond_its_queue_the_pool_says_come_back() {
        let pool = Pool::default();
        let all = pool.admitted.clone().try_acquire_many_owned((AT_ONCE + WAITING) as u32).unwrap();
        assert!(matches!(pool.verify(None, "x").await, Err(CommandError::Unavailable(_))));
        drop(all);
        assert!(!pool.verify(None, "x").await.unwrap());
    }
}
