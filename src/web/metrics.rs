//! `sentinel_cp_http_request_duration_seconds{method,route,status}`, with the handle of each pair of route and status looked
//! up once: an observation is then two atomic additions.

use crate::routes::Route;
use http::StatusCode;
use prometheus::{Histogram, HistogramOpts, HistogramVec, Registry};
use std::sync::OnceLock;
use std::time::Duration;

/// From half a millisecond to a long poll that was held for its whole minute.
const BUCKETS: &[f64] =
    &[0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// The statuses we answer with; any other is counted by its class' last entry, 500.
const STATUSES: &[u16] = &[
    200, 201, 202, 204, 206, 303, 304, 400, 401, 403, 404, 405, 409, 410, 411, 412, 413, 415, 416, 422, 428, 429, 500,
    503,
];

/// Of requests that match no route, and of pages.
pub const OTHER: &str = "other";

struct Handles {
    method: &'static str,
    route: &'static str,
    by_status: [OnceLock<Histogram>; STATUSES.len()],
}

pub struct HttpMetrics {
    durations: HistogramVec,
    routes: Vec<Handles>,
    other: Handles,
}

impl HttpMetrics {
    /// Errors: the name is registered already.
    pub fn new(registry: &Registry, table: &'static [Route]) -> prometheus::Result<HttpMetrics> {
        let opts = HistogramOpts::new(
            "sentinel_cp_http_request_duration_seconds",
            "Time from the head of a request to the head of its answer.",
        )
        .buckets(BUCKETS.to_vec());
        let durations = HistogramVec::new(opts, &["method", "route", "status"])?;
        registry.register(Box::new(durations.clone()))?;
        let handles = |method, route| Handles { method, route, by_status: [const { OnceLock::new() }; STATUSES.len()] };
        Ok(HttpMetrics {
            durations,
            routes: table.iter().map(|r| handles(r.method.name(), r.path)).collect(),
            other: handles("any", OTHER),
        })
    }

    /// `route`: its place in the table.
    pub fn observe(&self, route: Option<usize>, status: StatusCode, took: Duration) {
        let handles = route.and_then(|r| self.routes.get(r)).unwrap_or(&self.other);
        let place = STATUSES.binary_search(&status.as_u16()).unwrap_or(STATUSES.len() - 2);
        let histogram = handles.by_status[place].get_or_init(|| {
            self.durations.with_label_values(&[handles.method, handles.route, &STATUSES[place].to_string()])
        });
        histogram.observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use prometheus::{Encoder, TextEncoder};

    #[test]
    fn requests_are_counted_by_route_and_status() {
        let registry = Registry::new();
        let metrics = HttpMetrics::new(&registry, crate::routes::table()).unwrap();
        metrics.observe(Some(0), StatusCode::OK, Duration::from_millis(3));
        metrics.observe(Some(0), StatusCode::OK, Duration::from_millis(3));
        metrics.observe(None, StatusCode::IM_A_TEAPOT, Duration::from_millis(3));
        let mut text = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let first = crate::routes::table()[0].path;
        let line = format!(
            "sentinel_cp_http_request_duration_seconds_count{{method=\"POST\",route=\"{first}\",status=\"200\"}} 2"
        );
        assert!(text.contains(&line), "{text}");
        assert!(text.contains("route=\"other\",status=\"500\"} 1"), "{text}");
    }

    #[test]
    fn statuses_are_in_order_for_the_search() {
        assert!(STATUSES.is_sorted());
        assert_eq!(STATUSES[STATUSES.len() - 2], 500);
    }
}
