//! Heartbeats: measured facts only, at the pace the control plane asks for.

use crate::metrics::Page;
use crate::node::{Measured, Node, now};
use crate::state::Identity;
use api::node::{EventKind, Health, HeartbeatRequest};
use std::time::Duration;

/// Between heartbeats when the control plane is away.
const ALONE: Duration = Duration::from_secs(10);
/// So long after the start and after each switch, code that only those needed is given back.
const CALM: Duration = Duration::from_secs(2);
const LEAST: Duration = Duration::from_millis(500);
const MOST: Duration = Duration::from_secs(300);

impl Node {
    /// Never ends.
    pub async fn beats(&self, who: &Identity) {
        let instance = instance();
        let mut seq = 0;
        loop {
            seq += 1;
            let after = self.beat(who, &instance, seq).await;
            self.send_journal(who).await;
            if self.worked.get().is_some_and(|at| at.elapsed() > CALM) {
                self.worked.set(None);
                crate::slim::give_back_code();
            }
            tokio::time::sleep(LEAST).await;
            tokio::select! {
                () = tokio::time::sleep(after.saturating_sub(LEAST)) => {}
                () = self.beat_now.notified() => {}
            }
        }
    }

    /// One heartbeat; answers when the next is due.
    pub async fn beat(&self, who: &Identity, instance: &str, seq: u64) -> Duration {
        let measured = self.measure().await;
        let before = self.readings.borrow().sent.clone();
        let page = measured.page.clone();
        let delta = page.as_ref().map(|p| match &before {
            Some((epoch, old)) if *epoch == measured.epoch => p.since(old),
            Some(_) => p.clone(),
            // Our first look at counters that may be days old: what the next ones are counted from.
            None => Page::default(),
        });
        if let Some(d) = &delta {
            // Without new requests nothing new is known.
            if d.requests > 0 {
                self.readings.borrow_mut().failing = d.is_failing();
            }
        }
        let body = {
            let s = self.state.borrow();
            let metrics =
                page.as_ref().zip(delta.as_ref()).map(|(p, d)| p.wire(d, measured.epoch, measured.usage, s.weight));
            let expired = s.trust.as_ref().and_then(|t| t.last.as_ref()).is_some_and(|a| now() > a.expires_at);
            let mut metadata = serde_json::Map::new();
            metadata.insert("agent".into(), env!("CARGO_PKG_VERSION").into());
            metadata.insert("proxy_alive".into(), measured.alive.into());
            let first = !std::mem::replace(&mut self.readings.borrow_mut().alarmed, expired);
            if expired && first {
                tracing::error!("the last assignment has expired: this node gets no news");
                self.journal.note(EventKind::Warning, "the last assignment has expired: this node gets no news", &[]);
            }
            if expired {
                metadata.insert("alarm".into(), "the last assignment has expired: this node gets no news".into());
            }
            HeartbeatRequest {
                active_bundle_id: Some(s.active.wire()),
                health: Some(Health { status: self.health(&measured).into() }),
                metrics,
                measured_at: Some(measured.at),
                sent_at: Some(now()),
                seq: Some(seq),
                instance: Some(instance.into()),
                generation: Some(s.generation).filter(|g| *g > 0),
                busy_until: crate::busy::until(&self.layout, now()),
                version: self.version.borrow().clone(),
                metadata: Some(metadata),
                ..HeartbeatRequest::default()
            }
        };
        match self.client.heartbeat(who, &body).await {
            Ok(answer) => {
                if let Some(p) = page {
                    self.readings.borrow_mut().sent = Some((measured.epoch, p));
                }
                if answer.poll_now {
                    self.work_now.notify_one();
                }
                Duration::from_secs(u64::from(answer.heartbeat_after_s)).clamp(LEAST, MOST)
            }
            Err(e) => {
                tracing::debug!("heartbeat: {e}");
                e.retry_after().unwrap_or(ALONE)
            }
        }
    }

    /// `healthy` only with a proxy that runs, answers for its metrics where it has some, and serves most requests.
    pub fn health(&self, m: &Measured) -> &'static str {
        let configured = self.about(self.active()).is_some_and(|a| a.has_config);
        match (configured, m.alive) {
            // Nothing to run yet: it serves nobody, and nothing is broken.
            (false, _) => "degraded",
            (true, false) => "unhealthy",
            (true, true) if m.silent || self.readings.borrow().failing => "degraded",
            (true, true) => "healthy",
        }
    }
}

/// Names this run of the agent: sequence numbers count within it.
pub fn instance() -> String {
    let mut bytes = [0u8; 8];
    // Without randomness the time does: two runs never begin in the same microsecond.
    if getrandom::fill(&mut bytes).is_err() {
        bytes = now().0.to_be_bytes();
    }
    hex::encode(bytes)
}
