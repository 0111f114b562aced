//! Keeps the proxy running, and notices a release that it cannot stay up with.

use crate::node::Node;
use api::node::EventKind;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// One file of `/proc` is read as often, and the length of a log: 20 microseconds.
const EVERY: Duration = Duration::from_millis(500);
/// So many ends or vain starts within the time mean that the release does not run.
const DEATHS: usize = 3;
const WITHIN: Duration = Duration::from_secs(60);
const MOST_BACK_OFF: Duration = Duration::from_secs(10);

impl Node {
    /// Never ends. Does nothing while an activation has the proxy in hand.
    pub async fn watch(&self) {
        let mut deaths: VecDeque<Instant> = VecDeque::new();
        let mut not_before = Instant::now();
        let mut ran = false;
        loop {
            if let Ok(mut proxy) = self.proxy.try_lock() {
                let alive = proxy.alive();
                if let Err(e) = proxy.bound_log() {
                    tracing::debug!("proxy.log: {e}");
                }
                *self.seen.borrow_mut() = alive.clone();
                let wanted = proxy.is_supervised() && self.about(self.active()).is_some_and(|a| a.has_config);
                if wanted && alive.is_none() {
                    if std::mem::take(&mut ran) {
                        tracing::error!("the proxy has ended by itself");
                        self.journal.note(EventKind::Error, "the proxy has ended by itself and is started again", &[]);
                        deaths.push_back(Instant::now());
                        self.beat_now.notify_one();
                    }
                    if Instant::now() >= not_before {
                        match proxy.start(&self.layout).await {
                            Ok(()) => ran = true,
                            Err(e) => {
                                tracing::error!("the proxy cannot be started: {e}");
                                deaths.push_back(Instant::now());
                            }
                        }
                        *self.seen.borrow_mut() = proxy.alive();
                    }
                    while deaths.front().is_some_and(|d| d.elapsed() > WITHIN) {
                        deaths.pop_front();
                    }
                    let back_off = Duration::from_millis(100 << deaths.len().min(7)).min(MOST_BACK_OFF);
                    not_before = Instant::now() + back_off;
                    if deaths.len() >= DEATHS && self.state.borrow().previous.is_some() {
                        deaths.clear();
                        *self.leave.borrow_mut() = Some(format!("the proxy has ended {DEATHS} times within a minute"));
                        self.work_now.notify_waiters();
                        self.work_now.notify_one();
                    }
                } else {
                    ran = alive.is_some();
                }
            }
            tokio::time::sleep(EVERY).await;
        }
    }
}
