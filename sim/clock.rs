//! The one clock of the simulator: wall time at the start, carried on by tokio's (pausable) monotonic clock.

use domain::{Span, Timestamp};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// Cheap to copy; two copies always agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
    epoch: Timestamp,
}

impl Clock {
    /// Starts at the system's wall time. Later steps of the system clock are not followed.
    #[allow(clippy::disallowed_methods)] // the one clock of the fleet
    pub fn system() -> Clock {
        let us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64);
        Clock::starting_at(Timestamp(us))
    }

    /// For tests: wall time is `epoch` now, and goes as tokio's clock goes.
    pub fn starting_at(epoch: Timestamp) -> Clock {
        Clock { origin: Instant::now(), epoch }
    }

    pub fn now(&self) -> Timestamp {
        self.epoch + Span(self.origin.elapsed().as_micros() as i64)
    }

    /// The instant at which [`Clock::now`] reads at least `at`.
    pub fn instant(&self, at: Timestamp) -> Instant {
        self.origin + at.since(self.epoch).to_std()
    }
}
