//! Coalesces last-seen times, and what nodes served and measured while that is asked for, into one batched write a second.
//!
//! Owns: at most one second of them; they are at risk by design, nothing that was acknowledged as decided is.

use crate::supervision::{TaskGuard, spawn_task};
use domain::{NodeId, Span, Timestamp};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use store::{Seen, Served};

/// Nodes remembered while the database does not answer: 40 bytes each. Beyond it the oldest information is simply not renewed.
const MAX_PENDING: usize = 2_000_000;

#[derive(Default)]
struct Pending {
    /// When each was heard, and how far its clock is ahead of ours.
    seen: HashMap<NodeId, (Timestamp, Option<Span>)>,
    readings: HashMap<NodeId, (Served, Timestamp)>,
}

pub struct Writer {
    pending: Arc<Mutex<Pending>>,
    store: store::Store,
    _task: TaskGuard,
}

impl Writer {
    pub fn start(store: store::Store, every: Span) -> Writer {
        let pending: Arc<Mutex<Pending>> = Arc::default();
        let (mine, s) = (pending.clone(), store.clone());
        let task = spawn_task("last-seen writer", async move {
            loop {
                tokio::time::sleep(every.to_std()).await;
                flush(&s, &mine).await;
            }
        });
        Writer { pending, store, _task: task }
    }

    /// The node was heard at `at`; its clock is so far ahead of ours.
    pub fn seen(&self, node: NodeId, at: Timestamp, clock_skew: Option<Span>) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = &mut pending.seen;
        if seen.len() < MAX_PENDING || seen.contains_key(&node) {
            seen.insert(node, (at, clock_skew));
        }
    }

    /// What the node served and measured, as of `at`.
    pub fn served(&self, served: Served, at: Timestamp) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.readings.len() < MAX_PENDING {
            pending.readings.insert(served.reading.node, (served, at));
        }
    }

    /// Everything that waits, now: at shutdown.
    pub async fn flush(&self) {
        flush(&self.store, &self.pending).await;
    }
}

async fn flush(store: &store::Store, pending: &Mutex<Pending>) {
    let all = std::mem::take(&mut *pending.lock().unwrap_or_else(PoisonError::into_inner));
    if let Some(at) = all.readings.values().map(|(_, at)| *at).max() {
        let served = all.readings.into_values().map(|(s, _)| s).collect();
        // Lost ones are only counts that come again, larger.
        if let Err(e) = store.put_readings(served, at).await {
            tracing::debug!(error = %e, "what nodes served was not written this time");
        }
    }
    let batch: Vec<Seen> = all.seen.into_iter().map(|(node, (at, clock_skew))| Seen { node, at, clock_skew }).collect();
    if batch.is_empty() {
        return;
    }
    if let Err(e) = store.flush_last_seen(batch.clone()).await {
        tracing::warn!(error = %e, nodes = batch.len(), "last-seen times could not be written, trying again");
        let mut p = pending.lock().unwrap_or_else(PoisonError::into_inner);
        for s in batch {
            // Heard again meanwhile: that is newer.
            p.seen.entry(s.node).or_insert((s.at, s.clock_skew));
        }
    }
}
