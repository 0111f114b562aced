//! The one clock of the shell: what time it is, and waking at a time.
//!
//! Invariant: nothing else in this crate reads `SystemTime` or `Instant`, or sleeps for a reason that matters.
//! Deadlines of calls (`tokio::time::timeout`) are not logic and do not come from here.

use domain::{Span, Timestamp};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// Longest uninterrupted sleep: a wall clock that was set is noticed at the latest after this.
const NAP: Duration = Duration::from_secs(30);

/// Gives the time. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    /// Time `epoch` at the instant `origin`, and from there as tokio's clock goes.
    Carried {
        origin: tokio::time::Instant,
        epoch: Timestamp,
    },
    Manual(Arc<watch::Sender<Timestamp>>),
}

/// Moves a manual clock, in tests and simulations.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<watch::Sender<Timestamp>>);

/// Measures how long something took, for metrics.
#[derive(Clone, Debug)]
pub struct Stopwatch(Begun);

#[derive(Clone, Debug)]
enum Begun {
    System(std::time::Instant),
    Manual(Clock, Timestamp),
}

impl Clock {
    /// The machine's wall clock.
    pub fn system() -> Clock {
        Clock(Source::System)
    }

    /// It is `epoch` now; from here on time goes as tokio's clock goes, which a simulation may let jump to whatever is due next.
    pub fn carried(epoch: Timestamp) -> Clock {
        Clock(Source::Carried { origin: tokio::time::Instant::now(), epoch })
    }

    /// A clock that stands still until its handle moves it.
    pub fn manual(start: Timestamp) -> (Clock, ManualClock) {
        let time = Arc::new(watch::Sender::new(start));
        (Clock(Source::Manual(time.clone())), ManualClock(time))
    }

    #[allow(clippy::disallowed_methods)] // the one clock
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Timestamp(since.as_micros() as i64)
            }
            Source::Carried { origin, epoch } => *epoch + Span(origin.elapsed().as_micros() as i64),
            Source::Manual(time) => *time.borrow(),
        }
    }

    /// Returns once `now() >= at`, at once if it is. A wall clock that is set meanwhile is heeded.
    pub async fn sleep_until(&self, at: Timestamp) {
        match &self.0 {
            Source::System => loop {
                let left = at.since(self.now());
                if left == Span::ZERO {
                    return;
                }
                tokio::time::sleep(left.to_std().min(NAP)).await;
            },
            Source::Carried { origin, epoch } => {
                // tokio rounds up to its milliseconds: never early.
                tokio::time::sleep_until(*origin + at.since(*epoch).to_std()).await;
            }
            Source::Manual(time) => {
                // The sender lives in `self`: the channel cannot close while we wait.
                let _ = time.subscribe().wait_for(|now| *now >= at).await;
            }
        }
    }

    /// `sleep_until(now() + span)`.
    pub async fn sleep(&self, span: Span) {
        self.sleep_until(self.now() + span).await;
    }

    #[allow(clippy::disallowed_methods)] // the one clock
    pub fn stopwatch(&self) -> Stopwatch {
        match &self.0 {
            Source::System => Stopwatch(Begun::System(std::time::Instant::now())),
            Source::Carried { .. } | Source::Manual(_) => Stopwatch(Begun::Manual(self.clone(), self.now())),
        }
    }
}

impl ManualClock {
    /// Wakes whoever's time has come.
    pub fn advance(&self, span: Span) {
        self.0.send_modify(|now| *now = *now + span);
    }

    /// Also backwards, like a wall clock that is corrected.
    pub fn set(&self, at: Timestamp) {
        self.0.send_modify(|now| *now = at);
    }

    /// How many are asleep on this clock: what a test waits for before it moves the time.
    pub fn sleepers(&self) -> usize {
        self.0.receiver_count()
    }
}

impl Stopwatch {
    pub fn elapsed(&self) -> Duration {
        match &self.0 {
            Begun::System(at) => at.elapsed(),
            Begun::Manual(clock, at) => clock.now().since(*at).to_std(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)] // real time, to see that none passed
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn a_sleeper_on_a_manual_clock_wakes_when_its_time_has_come_and_not_before() {
        let (clock, hand) = Clock::manual(Timestamp(100));
        let mut sleep = Box::pin(clock.sleep(Span(50)));
        assert_eq!((&mut sleep).now_or_never(), None);
        assert_eq!(hand.sleepers(), 1);
        hand.advance(Span(49));
        assert_eq!((&mut sleep).now_or_never(), None);
        hand.advance(Span(1));
        assert_eq!((&mut sleep).now_or_never(), Some(()));
        assert_eq!(clock.now(), Timestamp(150));
        drop(sleep);
        assert_eq!(hand.sleepers(), 0);
        clock.sleep_until(Timestamp(3)).await;
    }

    #[tokio::test]
    async fn a_stopwatch_on_a_manual_clock_shows_what_the_hand_moved() {
        let (clock, hand) = Clock::manual(Timestamp::ZERO);
        let watch = clock.stopwatch();
        hand.advance(Span::secs(2));
        assert_eq!(watch.elapsed(), Duration::from_secs(2));
        hand.set(Timestamp::ZERO);
        assert_eq!(watch.elapsed(), Duration::ZERO, "never negative");
    }

    #[tokio::test(start_paused = true)]
    async fn a_carried_clock_jumps_with_the_clock_of_a_paused_runtime() {
        let clock = Clock::carried(Timestamp(7));
        let begun = std::time::Instant::now();
        clock.sleep(Span::secs(3_600)).await;
        let slept = clock.now().since(Timestamp(7));
        assert!(slept >= Span::secs(3_600) && slept < Span::secs(3_601), "{slept:?}");
        assert!(begun.elapsed() < Duration::from_secs(60), "an hour was waited for");
    }

    #[tokio::test]
    async fn the_system_clock_does_not_wake_anyone_early() {
        let clock = Clock::system();
        let at = clock.now() + Span::millis(5);
        clock.sleep_until(at).await;
        assert!(clock.now() >= at);
    }
}
