//! From the proxy's metrics page and `/proc` to the numbers of a heartbeat.

use crate::overlay::MARKER_ROUTE;
use domain::node::Metrics;
use std::collections::BTreeMap;

/// Requests below which a share of errors says nothing about health.
const FEW: u64 = 5;

/// One reading of the page. The agent's own marker requests are left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    pub requests: u64,
    /// Answers with a status of 500 and more.
    pub errors: u64,
    /// Observations at most as slow as the bound, in microseconds; cumulative over all routes.
    pub buckets: BTreeMap<u64, u64>,
    /// All observations.
    pub observed: u64,
}

impl Page {
    /// Unknown lines are skipped: other releases have other metrics.
    pub fn parse(text: &str) -> Page {
        let mut page = Page::default();
        for line in text.lines() {
            let Some((series, value)) = line.trim().rsplit_once(' ') else { continue };
            let Some((name, labels)) = series.split_once('{') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let value = if value.is_finite() && value >= 0.0 { value as u64 } else { continue };
            if label(labels, "route") == Some(MARKER_ROUTE) {
                continue;
            }
            match name {
                "zentinel_requests_total" => {
                    page.requests += value;
                    if label(labels, "status").is_some_and(|s| s.starts_with('5')) {
                        page.errors += value;
                    }
                }
                // 0.6.45 counts what it could not pass on (a dead upstream) here, and not among the requests.
                "zentinel_blocked_requests_total"
                    if label(labels, "reason").is_some_and(|r| r.starts_with("proxy_error_5")) =>
                {
                    page.requests += value;
                    page.errors += value;
                }
                "zentinel_request_duration_seconds_bucket" => {
                    let Some(bound) = label(labels, "le").and_then(|l| l.parse::<f64>().ok()) else { continue };
                    if bound.is_finite() {
                        *page.buckets.entry((bound * 1e6) as u64).or_default() += value;
                    }
                }
                "zentinel_request_duration_seconds_count" => page.observed += value,
                _ => {}
            }
        }
        page
    }

    /// What happened between `earlier` and this page. A proxy that was restarted counts from zero again.
    pub fn since(&self, earlier: &Page) -> Page {
        if self.requests < earlier.requests || self.observed < earlier.observed {
            return self.clone();
        }
        let before = |k: &u64| earlier.buckets.get(k).copied().unwrap_or(0);
        Page {
            requests: self.requests - earlier.requests,
            errors: self.errors.saturating_sub(earlier.errors),
            buckets: self.buckets.iter().map(|(k, v)| (*k, v.saturating_sub(before(k)))).collect(),
            observed: self.observed - earlier.observed,
        }
    }

    /// The 99th percentile in milliseconds, by linear interpolation in its bucket as Prometheus does; beyond the last bound,
    /// the bound. `None`: nothing was observed.
    pub fn p99_ms(&self) -> Option<f64> {
        if self.observed == 0 || self.buckets.is_empty() {
            return None;
        }
        let rank = self.observed as f64 * 0.99;
        let (mut low, mut below) = (0.0, 0.0);
        for (bound, n) in &self.buckets {
            let (bound, n) = (*bound as f64 / 1e3, *n as f64);
            if n >= rank {
                let inside = if n > below { (rank - below) / (n - below) } else { 1.0 };
                return Some(low + (bound - low) * inside);
            }
            (low, below) = (bound, n);
        }
        Some(low)
    }

    /// Errors among the requests, in percent; `None` when there were none.
    pub fn error_rate(&self) -> Option<f64> {
        (self.requests > 0).then(|| 100.0 * self.errors as f64 / self.requests as f64)
    }

    /// Half of the requests or more fail, and there were enough to say so.
    pub fn is_failing(&self) -> bool {
        self.requests >= FEW && self.errors * 2 >= self.requests
    }

    /// The wire form: `self` are the totals, `delta` what came since the previous heartbeat.
    pub fn wire(&self, delta: &Page, epoch: u64, usage: Usage, weight: Option<u8>) -> Metrics {
        Metrics {
            error_rate: delta.error_rate(),
            latency_p99_ms: delta.p99_ms(),
            cpu_percent: usage.cpu_percent,
            memory_percent: usage.memory_percent,
            request_count: Some(delta.requests),
            error_count: Some(delta.errors),
            requests_total: Some(self.requests),
            errors_total: Some(self.errors),
            counter_epoch: Some(epoch),
            traffic_weight: weight,
        }
    }
}

fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let at = labels.match_indices(name).find(|(i, _)| {
        let free = *i == 0 || matches!(labels.as_bytes()[i - 1], b',' | b'{' | b' ');
        free && labels[i + name.len()..].starts_with("=\"")
    })?;
    let rest = &labels[at.0 + name.len() + 2..];
    Some(&rest[..rest.find('"')?])
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    pub cpu_percent: Option<f64>,
    pub memory_percent: Option<f64>,
}

/// Linux counts processor time for user space in hundredths of a second, whatever the kernel's own tick is.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time of a process in seconds, from `/proc/PID/stat`.
pub fn cpu_seconds(stat: &str) -> Option<f64> {
    // The name in brackets may hold anything; fields are counted behind it. utime and stime are the 14th and 15th of all.
    let rest = stat.get(stat.rfind(')')? + 1..)?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let (user, system) = (fields.next()?.parse::<f64>().ok()?, fields.next()?.parse::<f64>().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

/// Resident memory as percent of the machine's, from `/proc/PID/status` and `/proc/meminfo`.
pub fn memory_percent(status: &str, meminfo: &str) -> Option<f64> {
    let kib = |text: &str, key: &str| -> Option<f64> {
        text.lines().find_map(|l| l.strip_prefix(key))?.split_ascii_whitespace().next()?.parse().ok()
    };
    let total = kib(meminfo, "MemTotal:").filter(|t| *t > 0.0)?;
    Some(100.0 * kib(status, "VmRSS:")? / total)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TEXT: &str = r#"
# HELP zentinel_requests_total Total HTTP requests handled by the proxy
zentinel_requests_total{method="GET",route="web",status="200"} 90
zentinel_requests_total{method="GET",route="web",status="502"} 10
zentinel_requests_total{method="GET",route="sentinel-agent-marker",status="200"} 4000
zentinel_upstream_requests_total{upstream="a",status="500"} 7
zentinel_blocked_requests_total{reason="builtin"} 4000
zentinel_blocked_requests_total{reason="proxy_error_503"} 5
zentinel_request_duration_seconds_bucket{method="GET",route="web",le="0.001"} 50
zentinel_request_duration_seconds_bucket{method="GET",route="web",le="0.01"} 98
zentinel_request_duration_seconds_bucket{method="GET",route="web",le="0.1"} 100
zentinel_request_duration_seconds_bucket{method="GET",route="web",le="+Inf"} 100
zentinel_request_duration_seconds_count{method="GET",route="web"} 100
zentinel_request_duration_seconds_sum{method="GET",route="web"} 0.9
zentinel_up 1
nonsense{ 3
"#;

    #[test]
    fn a_page_is_summed_over_routes_without_the_agents_own_requests() {
        let page = Page::parse(TEXT);
        assert_eq!((page.requests, page.errors, page.observed), (105, 15, 100));
        assert_eq!(page.error_rate(), Some(100.0 * 15.0 / 105.0));
        let p99 = page.p99_ms().unwrap();
        assert!((p99 - 55.0).abs() < 1e-6, "halfway from 10 to 100 ms: {p99}");
        assert!(!page.is_failing());
    }

    #[test]
    fn differences_survive_a_restart_of_the_proxy() {
        let page = Page::parse(TEXT);
        let mut later = page.clone();
        later.requests += 6;
        later.errors += 4;
        let delta = later.since(&page);
        assert_eq!((delta.requests, delta.errors, delta.p99_ms()), (6, 4, None));
        assert!(delta.is_failing());
        let restarted = Page { requests: 3, ..Page::default() };
        assert_eq!(restarted.since(&later).requests, 3);
    }

    #[test]
    fn a_process_is_measured_from_proc() {
        let stat = "42 (a ) b) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 777 1 2";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("42"), None);
        assert_eq!(memory_percent("Name: x\nVmRSS:\t 200 kB\n", "MemTotal: 1000 kB\n"), Some(20.0));
        assert_eq!(memory_percent("", "MemTotal: 0 kB\n"), None);
    }
}
