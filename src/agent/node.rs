//! What the agent's loops share. One thread: a borrow never crosses an await, the proxy's lock may.

use crate::client::Client;
use crate::journal::Journal;
use crate::layout::{Layout, Release};
use crate::metrics::{Page, Usage, cpu_seconds, memory_percent};
use crate::overlay::Overlay;
use crate::proxy::{Ident, Proxy};
use crate::stage::About;
use crate::state::{Identity, State};
use domain::Timestamp;
use std::cell::{Cell, OnceCell, RefCell};
use std::time::Duration;
use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;

/// The metrics page of 1,000 routes has 3 MB.
const MAX_PAGE: usize = 8 << 20;

/// The one clock.
#[allow(clippy::disallowed_methods)] // of the agent
pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// Settings of the run, beyond what the modules keep for themselves.
pub struct Settings {
    pub soak: Duration,
    pub smoke: Vec<String>,
    pub metrics_url: Option<String>,
    /// Seconds that a poll is held.
    pub wait: u32,
}

pub struct Node {
    pub layout: Layout,
    pub settings: Settings,
    pub overlay: Overlay,
    pub client: Client,
    pub identity: OnceCell<Identity>,
    pub state: RefCell<State>,
    /// Locked for as long as an activation has the proxy in hand.
    pub proxy: Mutex<Proxy>,
    /// As last seen, for heartbeats.
    pub seen: RefCell<Option<Ident>>,
    pub readings: RefCell<Readings>,
    /// The proxy's version, asked once.
    pub version: RefCell<Option<String>>,
    /// Why the active release must be left, found by the watch.
    pub leave: RefCell<Option<String>>,
    /// When something else than waiting was done last, if its code is still in memory.
    pub worked: Cell<Option<Instant>>,
    pub journal: Journal,
    pub beat_now: Notify,
    pub work_now: Notify,
}

/// The last measurement, and what it is compared with.
#[derive(Default)]
pub struct Readings {
    /// (epoch, page) at the last heartbeat that was delivered.
    pub sent: Option<(u64, Page)>,
    /// (epoch, processor seconds, when)
    pub cpu: Option<(u64, f64, Instant)>,
    /// Half of the requests failed in the last interval.
    pub failing: bool,
    /// It was said that the last assignment has expired.
    pub alarmed: bool,
}

/// What was measured of the proxy at one moment.
pub struct Measured {
    pub alive: bool,
    pub epoch: u64,
    /// `None`: no metrics endpoint, or it does not answer.
    pub page: Option<Page>,
    /// Metrics are configured and did not come.
    pub silent: bool,
    pub usage: Usage,
    pub at: Timestamp,
}

impl Node {
    pub fn about(&self, r: Release) -> Option<About> {
        About::read(&self.layout, r)
    }

    /// Saves the state as `change` leaves it. On an error memory is as before.
    pub fn update(&self, change: impl FnOnce(&mut State)) -> std::io::Result<()> {
        let mut new = self.state.borrow().clone();
        change(&mut new);
        new.save(&self.layout)?;
        *self.state.borrow_mut() = new;
        Ok(())
    }

    pub fn active(&self) -> Release {
        self.state.borrow().active
    }

    pub async fn page(&self, release: Release) -> Option<Result<Page, String>> {
        let own = self.settings.metrics_url.clone();
        let url = own.or_else(|| self.about(release)?.metrics_url)?;
        let answer = self.client.get(&url, Duration::from_secs(2), MAX_PAGE).await;
        Some(answer.and_then(|(status, body)| {
            if status.is_success() {
                Ok(Page::parse(&String::from_utf8_lossy(&body)))
            } else {
                Err(format!("HTTP {status}"))
            }
        }))
    }

    pub async fn measure(&self) -> Measured {
        let ident = self.seen.borrow().clone().filter(Ident::is_alive);
        let Some(ident) = ident else {
            return Measured { alive: false, epoch: 0, page: None, silent: false, usage: Usage::default(), at: now() };
        };
        let page = self.page(self.active()).await;
        let silent = matches!(page, Some(Err(_)));
        let page = page.and_then(Result::ok);
        let usage = self.usage(&ident);
        Measured { alive: true, epoch: ident.epoch(), page, silent, usage, at: now() }
    }

    fn usage(&self, ident: &Ident) -> Usage {
        let read = |file: String| std::fs::read_to_string(file).unwrap_or_default();
        let status = read(format!("/proc/{}/status", ident.pid));
        let memory = memory_percent(&status, &read("/proc/meminfo".into()));
        let used = cpu_seconds(&read(format!("/proc/{}/stat", ident.pid)));
        let at = Instant::now();
        let mut readings = self.readings.borrow_mut();
        let before = readings.cpu.take().filter(|(epoch, ..)| *epoch == ident.epoch());
        readings.cpu = used.map(|u| (ident.epoch(), u, at));
        let cpu = used.zip(before).and_then(|(u, (_, was, when))| {
            let past = at.duration_since(when).as_secs_f64();
            (past > 0.0).then(|| (100.0 * (u - was) / past).max(0.0))
        });
        Usage { cpu_percent: cpu, memory_percent: memory }
    }
}
