//! What a node measured lately: of its last half to whole minute, in the memory of its session. Raw material of the question whether
//! untouched nodes fail the gates too.

use super::Metrics;
use crate::time::{Span, Timestamp};

/// What is remembered reaches back at least this long, and at most twice as long: the freshness that gates have unless told otherwise.
const PART: Span = Span::secs(30);

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Part {
    /// Requests and errors.
    counts: Option<(u64, u64)>,
    error_rate: Option<f64>,
    p99_ms: Option<f64>,
}

/// Two parts of time, the newer one growing. Cumulative counters win over counts since the last heartbeat, as in the gates; of bare
/// rates and of p99 the worst is kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recent {
    /// When the newer part began.
    begun: Timestamp,
    older: Part,
    newer: Part,
    /// (epoch, requests, errors) of the last reading of its counters.
    base: Option<(u64, u64, u64)>,
    cpu_percent: Option<f64>,
    memory_percent: Option<f64>,
}

impl Recent {
    pub fn observe(&mut self, m: &Metrics, now: Timestamp) {
        let age = now.since(self.begun);
        if age >= PART {
            self.older = std::mem::take(&mut self.newer);
            self.begun = now;
        }
        if age >= PART + PART {
            // Nothing of it is recent, nor is what was served since.
            (self.older, self.base) = (Part::default(), None);
        }
        if let Some((requests, errors)) = self.count(m) {
            let (before, errors_before) = self.newer.counts.unwrap_or_default();
            self.newer.counts = Some((before.saturating_add(requests), errors_before.saturating_add(errors)));
        }
        self.newer.error_rate = worse(self.newer.error_rate, m.error_rate);
        self.newer.p99_ms = worse(self.newer.p99_ms, m.latency_p99_ms);
        (self.cpu_percent, self.memory_percent) = (m.cpu_percent, m.memory_percent);
    }

    /// All of it, as if one heartbeat had said it.
    pub fn metrics(&self) -> Metrics {
        let parts = [self.older, self.newer];
        let counts =
            parts.iter().filter_map(|p| p.counts).reduce(|a, b| (a.0.saturating_add(b.0), a.1.saturating_add(b.1)));
        Metrics {
            request_count: counts.map(|c| c.0),
            error_count: counts.map(|c| c.1),
            error_rate: worse(self.older.error_rate, self.newer.error_rate),
            latency_p99_ms: worse(self.older.p99_ms, self.newer.p99_ms),
            cpu_percent: self.cpu_percent,
            memory_percent: self.memory_percent,
            ..Metrics::default()
        }
    }

    /// Served since the last heartbeat; `None`: not said, or not known yet.
    fn count(&mut self, m: &Metrics) -> Option<(u64, u64)> {
        let (Some(total), Some(errors)) = (m.requests_total, m.errors_total) else {
            return m.request_count.map(|n| (n, m.error_count.unwrap_or(0)));
        };
        let epoch = m.counter_epoch.unwrap_or(0);
        match self.base.replace((epoch, total, errors)) {
            Some((e, base, base_errors)) if e == epoch && total >= base && errors >= base_errors => {
                Some((total - base, errors - base_errors))
            }
            // The counters began anew: all of it was served since.
            Some(_) => Some((total, errors)),
            None => None,
        }
    }
}

/// The larger of what was said. What is no number says nothing.
fn worse(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    [a, b].into_iter().flatten().filter(|v| v.is_finite()).reduce(f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp(1_000_000_000) + Span::secs(seconds)
    }
    fn said(requests: u64, errors: u64) -> Metrics {
        Metrics { request_count: Some(requests), error_count: Some(errors), ..Metrics::default() }
    }
    fn counts(r: &Recent) -> (Option<u64>, Option<u64>) {
        (r.metrics().request_count, r.metrics().error_count)
    }

    #[test]
    fn an_outage_of_half_a_minute_ago_is_remembered_and_one_of_before_the_last_minute_is_not() {
        let mut r = Recent::default();
        r.observe(&said(100, 60), at(0));
        r.observe(&said(100, 0), at(29));
        r.observe(&said(100, 0), at(35));
        assert_eq!(counts(&r), (Some(300), Some(60)));
        r.observe(&said(100, 0), at(65));
        assert_eq!(counts(&r), (Some(200), Some(0)));
        r.observe(&said(7, 1), at(300));
        assert_eq!(counts(&r), (Some(7), Some(1)), "a long silence leaves nothing");
    }

    #[test]
    fn counters_are_counted_from_the_first_reading_and_win_over_counts() {
        let totals = |epoch, requests, errors| Metrics {
            requests_total: Some(requests),
            errors_total: Some(errors),
            counter_epoch: Some(epoch),
            ..said(9, 9)
        };
        let mut r = Recent::default();
        r.observe(&totals(1, 1_000, 10), at(0));
        assert_eq!(counts(&r), (None, None), "served before anybody counted");
        r.observe(&totals(1, 1_100, 12), at(10));
        r.observe(&totals(2, 40, 1), at(20));
        assert_eq!(counts(&r), (Some(140), Some(3)));
        r.observe(&totals(2, 5_000, 900), at(200));
        assert_eq!(counts(&r), (None, None), "served over more than the last minute");
    }

    #[test]
    fn of_rates_and_latencies_the_worst_is_kept_and_of_load_the_last() {
        let mut r = Recent::default();
        let m = |v: f64| Metrics {
            error_rate: Some(v),
            latency_p99_ms: Some(v),
            cpu_percent: Some(v),
            memory_percent: Some(v),
            ..Metrics::default()
        };
        r.observe(&m(40.0), at(0));
        r.observe(&m(f64::NAN), at(30));
        r.observe(&m(2.0), at(31));
        let now = r.metrics();
        assert_eq!((now.error_rate, now.latency_p99_ms), (Some(40.0), Some(40.0)));
        assert_eq!((now.cpu_percent, now.memory_percent), (Some(2.0), Some(2.0)));
        r.observe(&m(1.0), at(61));
        assert_eq!(r.metrics().error_rate, Some(2.0));
    }
}
