//! What a proxy reads only at its start, by its version: a table, so that a later release gets its own.

/// Something whose change a SIGHUP does not bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cold {
    /// Any change of these things: `listeners`, `filters`, `agents`.
    Things(&'static str),
    /// A top-level block, by its name in config.json and in the language.
    Block(&'static str, &'static str),
    /// A part of routes, by its pointer.
    OfRoutes(&'static str, &'static str),
    /// A part of upstreams.
    OfUpstreams(&'static str, &'static str),
}

use Cold::{Block, OfRoutes, OfUpstreams, Things};

/// 0.6.45, found out by trying (DATAPLANE section 3).
const V0_6_45: &[Cold] = &[
    Things("listeners"),
    Things("filters"),
    Things("agents"),
    // `server` is the block `system`.
    Block("server", "system"),
    Block("observability", "observability"),
    Block("cache", "cache"),
    Block("rate_limits", "rate-limits"),
    OfUpstreams("/health_check", "active health checks"),
    OfRoutes("/static_files", "static files"),
    OfRoutes("/error_pages", "error pages"),
    OfRoutes("/policies/rate_limit", "route rate limits"),
    OfRoutes("/policies/cache", "route caches"),
];

/// The first version each table is for, oldest first. A version before the first is judged by the first.
const TABLES: &[([u32; 3], &[Cold])] = &[([0, 6, 45], V0_6_45)];

/// The table for a proxy's version. One that is newer than all we know counts as the newest we know: asking for a restart too many
/// is safe.
pub fn table(version: &str) -> &'static [Cold] {
    let mut parts = version.split(['.', '-', '+']).map(|p| p.parse::<u32>().unwrap_or(0));
    let version = [0; 3].map(|zero: u32| parts.next().unwrap_or(zero));
    let fitting = TABLES.iter().rev().find(|(since, _)| *since <= version);
    fitting.or(TABLES.first()).map_or(&[], |(_, table)| table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_has_a_table() {
        for version in ["0.6.45", "0.6.54", "1.0.0-rc.1", "0.1.0", "nonsense"] {
            assert_eq!(table(version), V0_6_45, "{version}");
        }
        assert!(TABLES.is_sorted_by_key(|t| t.0));
    }
}
