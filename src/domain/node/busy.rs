//! "Not now": a node puts off what it is to run. For a while, not for ever.

use crate::time::{Span, Timestamp};

/// Longest time that a node may put off updates without a break. Beyond it they come, whatever it says.
pub const MAX_BUSY: Span = Span::secs(4 * 3_600);

/// What a node is granted, on our clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy {
    /// Since when it has said so without a break.
    pub since: Timestamp,
    /// At most [`MAX_BUSY`] after `since`.
    pub until: Timestamp,
}

impl Busy {
    /// After a heartbeat at `now` that asks for `left` more time. Who says for once that it is free may ask anew afterwards;
    /// who has used its time up and goes on asking gets nothing.
    pub fn after(before: Option<Busy>, left: Option<Span>, now: Timestamp) -> Option<Busy> {
        let left = left.filter(|l| *l > Span::ZERO)?;
        let goes_on = before.filter(|b| b.holds(now) || b.is_spent());
        let since = goes_on.map_or(now, |b| b.since);
        Some(Busy { since, until: (now + left).min(since + MAX_BUSY) })
    }

    pub fn holds(&self, now: Timestamp) -> bool {
        now < self.until
    }

    fn is_spent(&self) -> bool {
        self.until == self.since + MAX_BUSY
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000_000);
    fn minutes(n: i64) -> Option<Span> {
        Some(Span::secs(60 * n))
    }

    #[test]
    fn it_holds_until_the_time_that_was_asked_for() {
        let b = Busy::after(None, minutes(10), NOW).unwrap();
        assert!(b.holds(NOW + Span::secs(599)) && !b.holds(NOW + Span::secs(600)));
        assert_eq!(Busy::after(Some(b), None, NOW + Span::secs(1)), None, "it is free");
        assert_eq!(Busy::after(Some(b), Some(Span::ZERO), NOW), None);
    }

    #[test]
    fn asking_again_and_again_does_not_go_beyond_the_maximum() {
        let (mut busy, mut now) = (None, NOW);
        while now < NOW + MAX_BUSY {
            busy = Busy::after(busy, minutes(60), now);
            assert!(busy.is_some_and(|b| b.holds(now)), "{now}");
            now = now + Span::secs(600);
        }
        for _ in 0..100 {
            busy = Busy::after(busy, minutes(60), now);
            assert!(busy.is_some_and(|b| !b.holds(now)), "its time is used up");
            now = now + Span::secs(600);
        }
        busy = Busy::after(busy, None, now);
        assert!(Busy::after(busy, minutes(60), now).is_some_and(|b| b.holds(now)), "it was free in between");
    }

    #[test]
    fn a_wish_that_had_run_out_is_followed_by_a_new_one() {
        let first = Busy::after(None, minutes(10), NOW);
        let later = NOW + Span::secs(3_600);
        assert_eq!(Busy::after(first, minutes(10), later).map(|b| b.since), Some(later));
        let long = Busy::after(None, minutes(10_000), NOW).map(|b| b.until);
        assert_eq!(long, Some(NOW + MAX_BUSY));
    }
}
