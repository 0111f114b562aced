//! What the database was asked in a window of time, by name of the operation, and what of it heartbeats must answer for.
//!
//! Invariant: an operation is excused only if it is named here, and only as often as its own clock allows. Whatever else
//! happens counts against the bar.

use crate::table::{Bar, Table};
use std::collections::BTreeMap;
use std::time::Instant;
use store::Store;

/// Work by the clock of an instance, whatever nodes say: how often each may happen, as (times, in so many seconds).
/// The intervals are those of `actors/periodic.rs` and `actors/feed.rs`, with the settings of [`crate::host::Host`]: a lease of
/// 5 s, a stale time of 120 s, one project.
const PERIODIC: &[(&str, f64, f64)] = &[
    // The change feed is looked at twice a second.
    ("change.after", 1.0, 0.5),
    // The lease, at a quarter of its time: renewed, and a sign of life left.
    ("instance.renew", 1.0, 1.25),
    ("setting.put", 1.0, 1.25),
    // Takeover, as often: dead instances, rollouts without an owner, our own.
    ("instance.expire", 1.0, 1.25),
    ("rollout.acquire", 1.0, 1.25),
    ("rollout.owned", 1.0, 1.25),
    // Rollouts that are due, and mail.
    ("rollout.due", 1.0, 2.0),
    ("rollout.with_inbox", 1.0, 2.0),
    // Bundles that wait to be compiled.
    ("bundle.queue", 1.0, 10.0),
    // Nodes without a first bundle.
    ("node.newcomers", 1.0, 10.0),
    // The gauges of `/metrics`: all projects, the nodes of each, the rollouts of each of 8 states, the audit chains.
    ("project.all", 1.0, 10.0),
    ("node.stats", 1.0, 10.0),
    ("rollout.list", 8.0, 10.0),
    ("audit.chains", 1.0, 10.0),
    // Freeze windows that begin or end; projects whose nodes are counted for their rollouts, with the rollouts that are due.
    ("freeze.around", 1.0, 1.0),
    ("rollout.measured", 1.0, 2.0),
    // Drift that began, drift that ended.
    ("drift.find", 1.0, 15.0),
    ("drift.ended", 1.0, 15.0),
    // Pins that no rollout was made for.
    ("node.unfollowed_pins", 1.0, 15.0),
    // Nodes that went silent, found by the scan.
    ("node.stale", 1.0, 30.0),
];
/// The write-behind: at most once a second, however many nodes speak.
const LAST_SEEN: (&str, f64, f64) = ("node.last_seen", 1.0, 1.0);

/// Counts by operation at one moment.
pub struct Operations {
    at: Instant,
    counts: BTreeMap<String, u64>,
}

impl Operations {
    pub fn now(store: &Store) -> Operations {
        Operations { at: Instant::now(), counts: store.operations() }
    }
}

/// What happened in several windows together.
#[derive(Default)]
pub struct Seen {
    counts: BTreeMap<String, u64>,
    /// How often the clock of each operation may have rung.
    allowed: BTreeMap<&'static str, f64>,
    seconds: f64,
}

impl Seen {
    pub fn add(&mut self, from: &Operations, to: &Operations) {
        let seconds = (to.at - from.at).as_secs_f64();
        self.seconds += seconds;
        for (op, n) in &to.counts {
            *self.counts.entry(op.clone()).or_default() += n - from.counts.get(op).copied().unwrap_or(0);
        }
        for (op, times, every) in PERIODIC.iter().chain([&LAST_SEEN]) {
            // A window of any length may hold one tick more than its length says.
            *self.allowed.entry(op).or_default() += ((seconds / every).floor() + 1.0) * times;
        }
    }

    /// Operations that no clock explains: names that are not in the list, and more of one than its clock allows.
    fn unexplained(&self) -> BTreeMap<&str, u64> {
        let over = self.counts.iter().map(|(op, n)| {
            let allowed = self.allowed.get(op.as_str()).map_or(0, |a| *a as u64);
            (op.as_str(), n.saturating_sub(allowed))
        });
        over.filter(|(_, n)| *n > 0).collect()
    }

    pub fn print(&self, table: &mut Table, bench: &'static str, beats: u64) {
        let of = |op: &str| self.counts.get(op).copied().unwrap_or(0);
        let batched = of(LAST_SEEN.0);
        let periodic: u64 = PERIODIC.iter().map(|(op, ..)| of(op)).sum();
        let unexplained = self.unexplained();
        let against: u64 = unexplained.values().sum();
        let all: u64 = self.counts.values().sum();
        table.add(
            bench,
            "statements a steady heartbeat (all but the last-seen batch and the clock's)",
            against as f64 / beats.max(1) as f64,
            "",
            Bar::AtMost { floor: 0.0, aim: 0.0 },
        );
        let window = format!("{beats} heartbeats in {:.0} s", self.seconds);
        table.add(bench, format!("statements in all of {window}"), all as f64, "", Bar::None);
        table.add(bench, "  of them the batched last-seen", batched as f64, "", Bar::None);
        table.add(bench, "  of them by the clock, with or without nodes", periodic as f64, "", Bar::None);
        let mut lines: Vec<String> = Vec::new();
        for (op, n) in self.counts.iter().filter(|(_, n)| **n > 0) {
            let class = match self.allowed.get(op.as_str()) {
                _ if op == LAST_SEEN.0 => "the batched last-seen".to_string(),
                Some(most) => format!("by the clock, at most {most}"),
                None => "COUNTS".to_string(),
            };
            let over = unexplained.get(op.as_str()).map(|o| format!("; {o} COUNT AGAINST THE BAR")).unwrap_or_default();
            lines.push(format!("  {op:<24} {n:>6}  {class}{over}"));
        }
        table.note(format!("heartbeat: statements by operation in the windows of {window}:\n{}", lines.join("\n")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn moment(at: Instant, counts: &[(&str, u64)]) -> Operations {
        Operations { at, counts: counts.iter().map(|(op, n)| (op.to_string(), *n)).collect() }
    }

    #[test]
    fn what_no_clock_explains_counts_and_so_does_too_much_of_what_one_does() {
        let begun = Instant::now();
        let mut seen = Seen::default();
        let from = moment(begun, &[("instance.renew", 7), ("node.observe", 3)]);
        let to = [("instance.renew", 9), ("node.observe", 4), ("node.last_seen", 3), ("rollout.due", 5)];
        seen.add(&from, &moment(begun + Duration::from_secs(2), &to));
        let unexplained = seen.unexplained();
        let expect = BTreeMap::from([("node.observe", 1), ("rollout.due", 3)]);
        assert_eq!(unexplained, expect, "two in two seconds are what the clock of the due rollouts allows");
    }
}
