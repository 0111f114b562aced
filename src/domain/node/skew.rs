//! How far a node's clock is from ours: estimated and shown. Nothing is decided by it.
//!
//! What a node says was sent at `sent` by its clock and received at `received` by ours, after it was under way for a time that
//! nobody knows but that is never negative: `sent - received` is at most the skew. So the largest of a while is the best of it.

use crate::time::{Span, Timestamp};

/// From here on people are told: certificates, signed urls and the times in the node's logs are judged by its clock. Well above
/// what a message may be under way on a slow network.
pub const WORTH_A_WARNING: Span = Span::secs(5);
/// No clock is further off than this, about 3,000 years: sums of it stay far from the end of an `i64`.
const MOST: i64 = i64::MAX / 100;

/// What one session has heard of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SkewEstimate {
    /// The best of the messages since the last answer.
    heard: Option<Span>,
    shown: Option<Span>,
}

impl SkewEstimate {
    /// Goes on where another session, or another instance, has stopped.
    pub fn resumed(shown: Option<Span>) -> SkewEstimate {
        SkewEstimate { heard: None, shown }
    }

    /// A message by the node's clock and by ours.
    pub fn hear(&mut self, sent: Timestamp, received: Timestamp) {
        let lead = Span(sent.0.saturating_sub(received.0).clamp(-MOST, MOST));
        self.heard = Some(self.heard.map_or(lead, |h| h.max(lead)));
    }

    /// The skew as far as it is known, positive where the node's clock is ahead; what was heard is used up. It rises at once, as it
    /// cannot be too large, and falls by half: one message that was late for a long time says little.
    pub fn settle(&mut self) -> Option<Span> {
        if let Some(heard) = self.heard.take() {
            self.shown = Some(match self.shown {
                Some(shown) if heard < shown => Span(shown.0 - (shown.0 - heard.0) / 2),
                Some(_) | None => heard,
            });
        }
        self.shown
    }
}

/// Is it far enough to tell people?
pub fn is_worth_a_warning(skew: Span) -> bool {
    skew.0.abs() >= WORTH_A_WARNING.0
}

/// For people, as in `12.3 s ahead`.
pub fn in_words(skew: Span) -> String {
    let side = if skew < Span::ZERO { "behind" } else { "ahead" };
    format!("{:.1} s {side}", Span(skew.0.abs()).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000_000);

    /// A message of a clock that is `ahead`, under way for `delay`, both milliseconds.
    fn message(e: &mut SkewEstimate, ahead: i64, delay: i64) {
        e.hear(NOW + Span::millis(ahead), NOW + Span::millis(delay));
    }

    #[test]
    fn the_message_that_was_under_way_the_shortest_time_says_most() {
        let mut e = SkewEstimate::default();
        assert_eq!(e.settle(), None, "nothing was heard");
        for delay in [900, 20, 4_000] {
            message(&mut e, 7_000, delay);
        }
        assert_eq!(e.settle(), Some(Span::millis(6_980)));
        assert_eq!(e.settle(), Some(Span::millis(6_980)), "and stands while nothing is heard");
    }

    #[test]
    fn one_late_message_is_no_skew() {
        let mut e = SkewEstimate::default();
        message(&mut e, 0, 10);
        e.settle();
        message(&mut e, 0, 9_000);
        assert!(e.settle().is_some_and(|s| !is_worth_a_warning(s)));
        message(&mut e, 0, 10);
        assert_eq!(e.settle(), Some(Span::millis(-10)));
    }

    #[test]
    fn a_clock_that_was_set_is_followed_in_both_directions() {
        let mut e = SkewEstimate::resumed(Some(Span::ZERO));
        message(&mut e, 3_600_000, 0);
        assert_eq!(e.settle(), Some(Span::secs(3_600)));
        for _ in 0..12 {
            message(&mut e, -30_000, 0);
            e.settle();
        }
        assert!(e.settle().is_some_and(|s| (s.0 - Span::secs(-30).0).abs() < Span::secs(1).0), "{e:?}");
    }

    #[test]
    fn the_most_absurd_clocks_do_no_harm() {
        for (sent, received) in [(i64::MAX, i64::MIN), (i64::MIN, i64::MAX)] {
            let mut e = SkewEstimate::resumed(Some(Span::ZERO));
            e.hear(Timestamp(sent), Timestamp(received));
            assert!(e.settle().is_some_and(is_worth_a_warning));
        }
    }

    #[test]
    fn it_is_told_in_seconds_and_by_side() {
        assert_eq!(in_words(Span::millis(-5_040)), "5.0 s behind");
        assert_eq!(in_words(Span::millis(61_250)), "61.2 s ahead");
        assert!(is_worth_a_warning(Span::secs(-5)) && !is_worth_a_warning(Span::millis(4_999)));
    }
}
