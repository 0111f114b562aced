//! What supervision counts, and the admission that bounds what mailboxes do not.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Restarts and mailbox depth by family of actors. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    restarts: IntCounterVec,
    depth: IntGaugeVec,
}

impl Metrics {
    /// Errors: when the registry has metrics of these names already.
    pub fn register(registry: &Registry) -> Result<Metrics, prometheus::Error> {
        let restarts = Opts::new("sentinel_cp_actor_restarts_total", "Actors started again by their supervisor.");
        let depth = Opts::new("sentinel_cp_actor_mailbox_depth", "Admitted messages that are not dealt with yet.");
        let restarts = IntCounterVec::new(restarts, &["actor"])?;
        let depth = IntGaugeVec::new(depth, &["actor"])?;
        registry.register(Box::new(restarts.clone()))?;
        registry.register(Box::new(depth.clone()))?;
        Ok(Metrics { restarts, depth })
    }

    /// The counter shows from now on, with zero.
    pub(super) fn restarts(&self, actor: &str) -> IntCounter {
        self.restarts.with_label_values(&[actor])
    }
}

/// Bounds the messages under way to one family of actors: mailboxes themselves have no bound. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Admission {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    actor: &'static str,
    limit: usize,
    under_way: AtomicUsize,
    depth: IntGauge,
}

/// One admitted message. Travels inside it and is dropped when it is dealt with, or when its mailbox is.
#[derive(Debug)]
pub struct Ticket {
    inner: Arc<Inner>,
}

/// Refused: answer 503 and let the client come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many messages under way to {actor} (limit {limit})")]
pub struct Overloaded {
    pub actor: &'static str,
    pub limit: usize,
}

impl Admission {
    /// `limit`: messages under way to all actors of the family together; 60 bytes each, and the time to work them off.
    pub fn new(actor: &'static str, limit: usize, metrics: &Metrics) -> Admission {
        let depth = metrics.depth.with_label_values(&[actor]);
        Admission { inner: Arc::new(Inner { actor, limit, under_way: AtomicUsize::new(0), depth }) }
    }

    /// A place for one more message, or not.
    pub fn admit(&self) -> Result<Ticket, Overloaded> {
        let before = self.inner.under_way.fetch_add(1, Ordering::Relaxed);
        if before >= self.inner.limit {
            self.inner.under_way.fetch_sub(1, Ordering::Relaxed);
            return Err(Overloaded { actor: self.inner.actor, limit: self.inner.limit });
        }
        self.inner.depth.inc();
        Ok(Ticket { inner: self.inner.clone() })
    }

    pub fn under_way(&self) -> usize {
        self.inner.under_way.load(Ordering::Relaxed)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.inner.under_way.fetch_sub(1, Ordering::Relaxed);
        self.inner.depth.dec();
    }
}
