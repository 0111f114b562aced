//! What one node served since its session began to count, under one assignment: the raw material of a canary's comparison.

use super::{Generation, Metrics};

/// Counts of one node on one generation. Cumulative counters win over counts since the last heartbeat, as in the gates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub generation: Generation,
    pub requests: u64,
    pub errors: u64,
    /// The latest 99th percentile, microseconds.
    pub p99_us: Option<u64>,
    /// (epoch, requests, errors) of the last reading of its counters.
    base: Option<(u64, u64, u64)>,
    /// The last heartbeat was counted under this generation, so what was counted since is too.
    clean: bool,
}

impl Traffic {
    pub fn under(generation: Generation) -> Traffic {
        Traffic { generation, ..Traffic::default() }
    }

    pub fn observe(&mut self, m: &Metrics) {
        let clean = std::mem::replace(&mut self.clean, true);
        let (requests, errors) = match (m.requests_total, m.errors_total) {
            (Some(total), Some(errors)) => {
                let epoch = m.counter_epoch.unwrap_or(0);
                match self.base.replace((epoch, total, errors)) {
                    Some((e, base, base_errors)) if e == epoch && total >= base && errors >= base_errors => {
                        (total - base, errors - base_errors)
                    }
                    // The counters began anew: all of it was served since.
                    Some(_) => (total, errors),
                    None => (0, 0),
                }
            }
            _ if clean => (m.request_count.unwrap_or(0), m.error_count.unwrap_or(0)),
            _ => (0, 0),
        };
        self.requests = self.requests.saturating_add(requests);
        self.errors = self.errors.saturating_add(errors);
        if let Some(p99) = m.latency_p99_ms.filter(|p| p.is_finite() && *p >= 0.0) {
            // Beyond 18 years it is as slow as can be said.
            self.p99_us = Some((p99 * 1_000.0).min(i64::MAX as f64) as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(epoch: u64, requests: u64, errors: u64) -> Metrics {
        Metrics {
            requests_total: Some(requests),
            errors_total: Some(errors),
            counter_epoch: Some(epoch),
            ..Metrics::default()
        }
    }

    #[test]
    fn counters_are_counted_from_the_first_reading_and_across_restarts() {
        let mut t = Traffic::under(3);
        t.observe(&totals(1, 1_000, 10));
        assert_eq!((t.requests, t.errors), (0, 0), "served before anybody counted");
        t.observe(&totals(1, 1_100, 12));
        t.observe(&totals(2, 40, 1));
        assert_eq!((t.requests, t.errors), (140, 3));
    }

    #[test]
    fn counts_since_the_last_heartbeat_count_from_the_second_one() {
        let mut t = Traffic::under(3);
        let m =
            Metrics { request_count: Some(50), error_count: Some(5), latency_p99_ms: Some(1.5), ..Metrics::default() };
        t.observe(&m);
        assert_eq!((t.requests, t.p99_us), (0, Some(1_500)));
        t.observe(&m);
        assert_eq!((t.requests, t.errors), (50, 5));
        t.observe(&Metrics { latency_p99_ms: Some(f64::NAN), ..Metrics::default() });
        assert_eq!((t.requests, t.p99_us), (50, Some(1_500)));
    }
}
