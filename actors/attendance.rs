//! Since when this process has heard whoever spoke, and since when what anybody heard could be stored, both without a gap.
//!
//! A suspended process, or a wall clock that is set forward, has heard nobody for a while and learns of it only afterwards.
//! Owns: when somebody last looked at the clock. Invariant: whoever judges a silence or a deadline looks here first, so that a
//! gap is noticed before anything is concluded from it.

use domain::{Span, Timestamp};
use std::sync::{Mutex, PoisonError};

/// A machine that is merely busy looks at the clock at least this often.
const LEAST_GAP: Span = Span::secs(1);

pub(crate) struct Attendance {
    /// Longer than this between two looks, and nobody was listening. A quarter of the stale time: nodes speak at least every
    /// third of it, so a shorter gap makes nobody stale.
    gap: Span,
    state: Mutex<State>,
}

struct State {
    looked: Timestamp,
    since: Timestamp,
    lost: Span,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attended {
    /// Without a gap since then.
    pub since: Timestamp,
    /// All gaps of this process together.
    pub lost: Span,
}

impl Attendance {
    pub(crate) fn new(now: Timestamp, stale_after: Span) -> Attendance {
        let gap = Span(stale_after.0 / 4).max(LEAST_GAP);
        Attendance { gap, state: Mutex::new(State { looked: now, since: now, lost: Span::ZERO }) }
    }

    /// How often somebody must look for a gap to be one.
    pub(crate) fn look_every(&self) -> Span {
        Span(self.gap.0 / 4)
    }

    pub(crate) fn look(&self, now: Timestamp) -> Attended {
        let mut s = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let away = now.since(s.looked);
        if away > self.gap {
            s.since = now;
            s.lost += away;
        }
        s.looked = now;
        Attended { since: s.since, lost: s.lost }
    }
}

/// Whether the database takes what instances have heard. While it is away all last-seen times grow old, whatever nodes say; when it
/// is back somebody may look before whoever heard them has written.
pub(crate) struct Storing {
    /// An outage up to this makes nobody stale: a node speaks every third of the stale time and is written every quarter of it, which
    /// with this is less than the stale time and the quarter that a sweep adds.
    gap: Span,
    state: Mutex<Taken>,
}

struct Taken {
    last: Timestamp,
    /// What was tried after that was not taken.
    refused: bool,
    since: Timestamp,
}

impl Storing {
    pub(crate) fn new(now: Timestamp, stale_after: Span) -> Storing {
        let gap = Span(stale_after.0 / 4).max(LEAST_GAP);
        Storing { gap, state: Mutex::new(Taken { last: now, refused: false, since: now }) }
    }

    /// What became of a small write that is tried all the time.
    pub(crate) fn tried(&self, now: Timestamp, was_taken: bool) {
        let mut s = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !was_taken {
            s.refused = true;
            return;
        }
        if s.refused && now.since(s.last) > self.gap {
            s.since = now;
        }
        (s.last, s.refused) = (now, false);
    }

    /// Since when last-seen times say who was heard; `now` while the database is away.
    pub(crate) fn since(&self, now: Timestamp) -> Timestamp {
        let s = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match s.refused && now.since(s.last) > self.gap {
            true => now,
            false => s.since,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_counts_until_something_is_taken_again_and_only_a_long_one() {
        let at = |s: i64| Timestamp(s * 1_000_000);
        let storing = Storing::new(at(0), Span::secs(120));
        storing.tried(at(500), true);
        assert_eq!(storing.since(at(500)), at(0), "nobody tried meanwhile: no outage");
        storing.tried(at(501), false);
        assert_eq!(storing.since(at(530)), at(0), "a quarter of the stale time");
        storing.tried(at(530), true);
        assert_eq!(storing.since(at(900)), at(0));
        storing.tried(at(901), false);
        assert_eq!(storing.since(at(950)), at(950), "it is not over");
        storing.tried(at(1_000), false);
        storing.tried(at(1_001), true);
        assert_eq!(storing.since(at(1_100)), at(1_001));
    }

    #[test]
    fn only_time_without_a_gap_counts() {
        let at = |s: i64| Timestamp(s * 1_000_000);
        let a = Attendance::new(at(0), Span::secs(120));
        let attended = |since: i64, lost: i64| Attended { since: at(since), lost: Span::secs(lost) };
        assert_eq!(a.look(at(30)), attended(0, 0), "a quarter of the stale time is no gap");
        assert_eq!(a.look(at(3_600)), attended(3_600, 3_570));
        assert_eq!(a.look(at(3_610)), attended(3_600, 3_570));
        assert_eq!(a.look(at(3_600)), attended(3_600, 3_570), "a clock that is set back loses nothing");
        assert_eq!(a.look(at(3_641)), attended(3_641, 3_611));
    }
}
