//! How often something may fail, and how long to wait after it did. Pure: time and chance are arguments.

use domain::{Span, Timestamp};
use std::collections::VecDeque;

/// What to do when a child ends; as in OTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Always start again, also after a normal end.
    Permanent,
    /// Start again after a failure; a normal end is an end.
    Transient,
    /// Never start again; whoever needs it starts it.
    Temporary,
}

/// At most `restarts` within `within`; one more is too many. As OTP's intensity and period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    pub restarts: usize,
    pub within: Span,
}

/// Waits `base`, `2 * base`, `4 * base`, ... but at most `cap`, each shortened by chance by up to `jitter_percent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub base: Span,
    pub cap: Span,
    pub jitter_percent: u8,
}

impl Backoff {
    /// The wait after the `failures`-th failure in a row (1 is the first). `chance` is any 64 random bits.
    pub fn delay(&self, failures: usize, chance: u64) -> Span {
        let doublings = failures.saturating_sub(1).min(62) as u32;
        let whole = self.base.0.saturating_mul(1 << doublings).clamp(0, self.cap.0.max(0));
        let most_off = (i128::from(whole) * i128::from(self.jitter_percent.min(100))) / 100;
        let off = (most_off * i128::from(chance)) >> 64;
        Span(whole - off as i64)
    }
}

/// The failures of the last while. Holds at most one more time than its budget allows.
#[derive(Debug, Default)]
pub(super) struct Window(VecDeque<Timestamp>);

impl Window {
    /// Notes a failure; how many there were within the budget's time, this one included.
    pub fn record(&mut self, now: Timestamp, budget: Budget) -> usize {
        self.forget(now, budget);
        self.0.push_back(now);
        if self.0.len() > budget.restarts + 1 {
            self.0.pop_front();
        }
        self.0.len()
    }

    /// Drops what is too old to count; nothing left?
    pub fn forget(&mut self, now: Timestamp, budget: Budget) -> bool {
        // `since` is never negative: after a clock was set back, old failures count a while longer.
        self.0.retain(|at| now.since(*at) < budget.within);
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_doubles_up_to_its_cap_and_jitter_only_shortens() {
        let backoff = Backoff { base: Span(100), cap: Span(1_000), jitter_percent: 20 };
        let without: Vec<i64> = (0..=6).map(|n| backoff.delay(n, 0).0).collect();
        assert_eq!(without, [100, 100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(backoff.delay(4, u64::MAX).0, 641, "800 less 20 percent, but never quite");
        assert_eq!(backoff.delay(4, u64::MAX / 2).0, 721);
        assert_eq!(backoff.delay(usize::MAX, 0), Span(1_000));
        let huge = Backoff { base: Span(i64::MAX), cap: Span(i64::MAX), jitter_percent: 255 };
        assert!(huge.delay(usize::MAX, u64::MAX).0 >= 0);
    }

    #[test]
    fn a_window_counts_what_lies_within_it_and_stays_small() {
        let budget = Budget { restarts: 2, within: Span(10) };
        let mut window = Window::default();
        let counts: Vec<usize> = [0, 1, 2, 3, 11, 30].map(|at| window.record(Timestamp(at), budget)).to_vec();
        assert_eq!(counts, [1, 2, 3, 3, 3, 1]);
        assert!(!window.forget(Timestamp(39), budget));
        assert!(window.forget(Timestamp(40), budget));
    }
}
