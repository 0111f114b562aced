//! Coalesces last-seen times into one batched write a second.
//!
//! Owns: at most one second of last-seen times; they are at risk by design, nothing that was acknowledged as decided is.

use crate::supervision::{TaskGuard, spawn_task};
use domain::{NodeId, Span, Timestamp};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Nodes remembered while the database does not answer: 24 bytes each. Beyond it the oldest information is simply not renewed.
const MAX_PENDING: usize = 2_000_000;

pub struct Writer {
    pending: Arc<Mutex<HashMap<NodeId, Timestamp>>>,
    store: store::Store,
    _task: TaskGuard,
}

impl Writer {
    pub fn start(store: store::Store, every: Span) -> Writer {
        let pending: Arc<Mutex<HashMap<NodeId, Timestamp>>> = Arc::default();
        let (mine, s) = (pending.clone(), store.clone());
        let task = spawn_task("last-seen writer", async move {
            loop {
                tokio::time::sleep(every.to_std()).await;
                flush(&s, &mine).await;
            }
        });
        Writer { pending, store, _task: task }
    }

    /// The node was heard at `at`.
    pub fn seen(&self, node: NodeId, at: Timestamp) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.len() < MAX_PENDING || pending.contains_key(&node) {
            pending.insert(node, at);
        }
    }

    /// Everything that waits, now: at shutdown.
    pub async fn flush(&self) {
        flush(&self.store, &self.pending).await;
    }
}

async fn flush(store: &store::Store, pending: &Mutex<HashMap<NodeId, Timestamp>>) {
    let batch: Vec<(NodeId, Timestamp)> = {
        let mut p = pending.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *p).into_iter().collect()
    };
    if batch.is_empty() {
        return;
    }
    if let Err(e) = store.flush_last_seen(batch.clone()).await {
        tracing::warn!(error = %e, nodes = batch.len(), "last-seen times could not be written, trying again");
        let mut p = pending.lock().unwrap_or_else(PoisonError::into_inner);
        for (node, at) in batch {
            p.entry(node).and_modify(|t| *t = (*t).max(at)).or_insert(at);
        }
    }
}
