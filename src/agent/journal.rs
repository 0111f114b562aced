//! What the agent tells the control plane of itself beside reports: the node's own log (`POST /nodes/:id/events`).
//!
//! Kept in memory only: a report is owed until it is taken, a line of a log is not. The oldest are dropped when nobody listens.

use crate::node::{Node, now};
use crate::proxy::shorten;
use crate::state::Identity;
use api::node::{EventKind, NodeEvent};
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::collections::VecDeque;

/// Lines that wait: as many as one call may carry.
const MAX_LINES: usize = 100;
const MAX_MESSAGE: usize = 2_000;

#[derive(Default)]
pub struct Journal(RefCell<VecDeque<NodeEvent>>);

impl Journal {
    pub fn note(&self, kind: EventKind, message: impl Into<String>, facts: &[(&str, Value)]) {
        let metadata: Map<String, Value> = facts.iter().map(|(k, v)| ((*k).to_string(), v.clone())).collect();
        let event = NodeEvent {
            event_type: kind,
            severity: None,
            message: Some(shorten(&message.into(), MAX_MESSAGE)),
            at: Some(now()),
            metadata: Some(metadata).filter(|m| !m.is_empty()),
        };
        let mut lines = self.0.borrow_mut();
        if lines.len() >= MAX_LINES {
            lines.pop_front();
        }
        lines.push_back(event);
    }

    fn take(&self) -> Vec<NodeEvent> {
        self.0.borrow_mut().drain(..).collect()
    }

    /// Back in front of what came meanwhile, as far as there is room.
    fn put_back(&self, old: Vec<NodeEvent>) {
        let mut lines = self.0.borrow_mut();
        let room = MAX_LINES - lines.len().min(MAX_LINES);
        for event in old.into_iter().rev().take(room) {
            lines.push_front(event);
        }
    }
}

impl Node {
    /// Sends what waits. Kept when the control plane is away, dropped when it does not want it.
    pub async fn send_journal(&self, who: &Identity) {
        let lines = self.journal.take();
        if lines.is_empty() {
            return;
        }
        match self.client.events(who, &lines).await {
            Ok(()) => {}
            Err(e) if e.is_final() => tracing::debug!("the log was not taken: {e}"),
            Err(_) => self.journal.put_back(lines),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(j: &Journal) -> Vec<String> {
        j.take().into_iter().filter_map(|e| e.message).collect()
    }

    #[test]
    fn the_newest_lines_are_kept_and_in_order() {
        let j = Journal::default();
        for n in 0..MAX_LINES + 5 {
            j.note(EventKind::Info, n.to_string(), &[]);
        }
        let old = j.take();
        assert_eq!((old.len(), old[0].message.as_deref()), (MAX_LINES, Some("5")));
        j.note(EventKind::Error, "new", &[("k", 1.into())]);
        j.put_back(old);
        let all = texts(&j);
        assert_eq!((all.len(), all[0].as_str(), all[MAX_LINES - 1].as_str()), (MAX_LINES, "6", "new"));
    }
}
