//! Whether two processes share one node's credential: an earlier `instance` is heard again after a newer one.
//!
//! A restart names a new instance once, and the old one is never heard again but for a straggler on the network. Two that run side by
//! side take turns.

use crate::time::{Span, Timestamp};
use std::collections::VecDeque;

/// So many returns within [`WITHIN`] are no stragglers.
const RETURNS: usize = 3;
const WITHIN: Span = Span::secs(600);
/// Instances that are remembered: two that take turns are two, and a few restarts may lie between.
const REMEMBERED: usize = 8;

/// What one session remembers of a node's instances, once there was more than one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Instances {
    /// Heard before the present one, oldest first.
    earlier: VecDeque<String>,
    returns: VecDeque<Timestamp>,
}

impl Instances {
    /// `now` is heard after `before`, another one. Answers whether this is a conflict.
    pub fn heard(&mut self, before: &str, now: &str, at: Timestamp) -> bool {
        let is_back = self.earlier.iter().any(|e| e == now);
        self.earlier.retain(|e| e != now && e != before);
        self.earlier.push_back(before.to_string());
        if self.earlier.len() > REMEMBERED {
            self.earlier.pop_front();
        }
        self.returns.retain(|r| at.since(*r) < WITHIN);
        if is_back {
            self.returns.push_back(at);
        }
        self.returns.len() >= RETURNS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether it is a conflict after each of these words, (seconds, instance).
    fn conflicts(words: &[(i64, &str)]) -> Vec<bool> {
        let mut known = Instances::default();
        words.windows(2).map(|w| known.heard(w[0].1, w[1].1, Timestamp(w[1].0 * 1_000_000))).collect()
    }

    #[test]
    fn two_that_take_turns_are_a_conflict_at_the_third_return() {
        assert_eq!(conflicts(&[(0, "a"), (1, "b"), (2, "a"), (3, "b"), (4, "a")]), [false, false, false, true]);
        assert_eq!(conflicts(&[(0, "a"), (1, "b"), (2, "c"), (3, "a"), (4, "b"), (5, "c")])[4..], [true]);
    }

    #[test]
    fn restarts_and_a_straggler_are_none() {
        let restarts: Vec<String> = (0..50).map(|i| format!("boot {i}")).collect();
        let words: Vec<(i64, &str)> = restarts.iter().enumerate().map(|(i, b)| (i as i64, b.as_str())).collect();
        assert!(!conflicts(&words).contains(&true));
        assert!(!conflicts(&[(0, "a"), (1, "b"), (2, "a"), (3, "b")]).contains(&true), "one late word of the old one");
    }

    #[test]
    fn returns_count_for_ten_minutes() {
        let every = |s: i64| {
            let words: Vec<(i64, &str)> = (0..20).map(|i| (i * s, if i % 2 == 0 { "a" } else { "b" })).collect();
            conflicts(&words).contains(&true)
        };
        assert!(every(299) && !every(300));
    }
}
