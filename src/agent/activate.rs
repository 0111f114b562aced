//! Carries out what [`crate::activation`] says: links, signals, markers, smoke requests.

use crate::activation::{Activation, Do, How, Intent, Outcome};
use crate::layout::Release;
use crate::node::{Node, now};
use crate::overlay::marker_path;
use crate::proxy::{Ident, Proxy, shorten};
use crate::state::{Failed, Owed};
use api::node::EventKind;
use bundle::risk;
use http::StatusCode;
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;

/// How long a marker may take: 1.6 s for 5,000 routes on a quiet core, 10 s for the proxy's own wait for name servers.
const PROVE: Duration = Duration::from_secs(15);
const PROVE_EVERY: Duration = Duration::from_millis(20);
const SOAK_EVERY: Duration = Duration::from_millis(250);
/// The marker's answer has 250 bytes.
const MAX_MARKER: usize = 16 << 10;
/// Activations of one generation that may be cut off by crashes before it counts as failed: it may be what kills the host.
const MAX_INTERRUPTED: u32 = 2;
const MAX_WHY: usize = 2_000;

/// What the proxy was like when the last switch was applied.
struct Applied {
    process: Option<Ident>,
    /// Of the process before, when it was to stay the same.
    instance: Option<String>,
    log: u64,
    watched: bool,
}

impl Node {
    /// From what runs to `target`. What is needed lies staged.
    pub fn intend(&self, target: Release, generation: u64, rollout: Option<domain::RolloutId>) -> Intent {
        let previous = self.allowed(self.active());
        let restart = self.needs_restart(previous, target);
        Intent { target, previous, generation, rollout, restart, began: now(), back: None }
    }

    /// What may no longer run is no fall-back either; the last resort is what the node had at enrolment.
    pub fn allowed(&self, r: Release) -> Release {
        let s = self.state.borrow();
        match (r, s.trust.as_ref().and_then(|t| t.release.as_ref())) {
            (Release::Bundle(id), Some(floor)) if floor.allows(&id).is_err() => Release::Baseline,
            (Release::Baseline | Release::Bundle(_), _) => r,
        }
    }

    fn needs_restart(&self, from: Release, to: Release) -> bool {
        let (Some(a), Some(b)) = (self.about(from), self.about(to)) else { return true };
        if a.overlay != b.overlay || a.has_config != b.has_config || a.probe != b.probe {
            return true;
        }
        let json = |r| crate::stage::config_json(&self.layout, r);
        match (json(from), json(to)) {
            (Some(old), Some(new)) => risk::assess(Some(&old), &new, 0).restart_class,
            // A baseline was never parsed: nobody knows what differs.
            _ => from != to,
        }
    }

    /// Runs it to its end. Works without the control plane.
    pub async fn activate(&self, mut a: Activation) -> Outcome {
        let mut proxy = self.proxy.lock().await;
        // Said of what is being left anyway.
        self.leave.borrow_mut().take();
        let mut applied = Applied { process: proxy.alive(), instance: None, log: proxy.log_position(), watched: false };
        let mark = applied.log;
        loop {
            if a.is_retry() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            let step = a.next();
            tracing::debug!(?step, "activation");
            let result = match step {
                Do::Record(intent) => {
                    self.update(|s| s.intent = Some(intent)).map_err(|e| format!("disk: state.json: {e}"))
                }
                Do::Switch(r) => self.layout.switch(r).map_err(|e| format!("disk: current: {e}")),
                Do::Apply(r, how) => {
                    let done = self.apply(&mut proxy, r, how).await;
                    *self.seen.borrow_mut() = proxy.alive();
                    done.map(|now| applied = now)
                }
                Do::Prove(r) => self.prove(&mut proxy, r, &applied).await,
                Do::Soak(r) => self.soak(&mut proxy, r, &applied).await,
                Do::Commit(r) => {
                    let logs = a.intent().back.as_ref().and_then(|_| proxy.tail_since(mark));
                    self.commit(&a, r, logs).map_err(|e| format!("disk: state.json: {e}"))
                }
                Do::End(outcome) => {
                    *self.seen.borrow_mut() = proxy.alive();
                    self.note_outcome(&a, &outcome);
                    return outcome;
                }
            };
            if let Err(why) = &result {
                tracing::warn!(step = ?a.next(), "{why}");
            }
            a.done(result);
        }
    }

    fn note_outcome(&self, a: &Activation, outcome: &Outcome) {
        let i = a.intent();
        let facts = [
            ("from", i.previous.to_string().into()),
            ("to", i.target.to_string().into()),
            ("generation", i.generation.into()),
            ("restart", i.restart.into()),
        ];
        match outcome {
            Outcome::Activated => self.journal.note(EventKind::BundleSwitch, format!("{} is active", i.target), &facts),
            Outcome::NotBegun(why) => self.journal.note(EventKind::Error, format!("not begun: {why}"), &facts),
            Outcome::FellBack { why, proved, .. } => {
                let text = format!("back on {} (proved: {proved}): {why}", i.previous);
                self.journal.note(EventKind::Error, text, &facts);
            }
        }
    }

    async fn apply(&self, proxy: &mut Proxy, r: Release, how: How) -> Result<Applied, String> {
        let log = proxy.log_position();
        if !self.about(r).is_some_and(|a| a.has_config) {
            // Back to a host without a proxy.
            if proxy.is_supervised() {
                proxy.stop().await;
            }
            return Ok(Applied { process: None, instance: None, log, watched: false });
        }
        let before = proxy.alive();
        let supervised = proxy.is_supervised();
        let instance = match how {
            // Asked of whatever serves now: by its own marker, which only the old configuration has.
            How::Reload => self.instance_now().await,
            How::Restart => None,
        };
        match how {
            How::Reload => proxy.reload(&self.layout).await?,
            How::Restart => proxy.restart(&self.layout).await?,
        }
        let word = if how == How::Reload { "was told to reload" } else { "was restarted" };
        self.journal.note(EventKind::ConfigReload, format!("the proxy {word} for {r}"), &[]);
        let process = match how {
            How::Reload if before.is_some() => before,
            // A service manager may still be at it; the marker tells when it is done.
            How::Restart | How::Reload => proxy.alive().filter(|_| supervised),
        };
        let watched = process.is_some();
        Ok(Applied { process, instance, log, watched })
    }

    /// The proxy's own name for its process, by the marker of what is active.
    async fn instance_now(&self) -> Option<String> {
        self.marker(self.active(), Duration::from_millis(500)).await.ok()
    }

    /// Whether the release serves right now: its marker answers, with the proxy's `instance_id`.
    pub async fn marker(&self, r: Release, limit: Duration) -> Result<String, String> {
        let probe = self.about(r).and_then(|a| a.probe).ok_or("no address to prove through")?;
        let url = format!("http://{probe}{}", marker_path(r));
        let (status, body) = self.client.get(&url, limit, MAX_MARKER).await?;
        if status != StatusCode::OK {
            return Err(format!("the marker answered {status}"));
        }
        let body: Value =
            serde_json::from_slice(&body).map_err(|_| "something else than the proxy answered for the marker")?;
        match (body["status"].as_str(), body["instance_id"].as_str()) {
            (Some("ok"), Some(instance)) if !instance.is_empty() => Ok(instance.to_string()),
            _ => Err("something else than the proxy answered for the marker".into()),
        }
    }

    async fn prove(&self, proxy: &mut Proxy, r: Release, applied: &Applied) -> Result<(), String> {
        if !self.about(r).is_some_and(|a| a.has_config) {
            return Ok(());
        }
        let until = Instant::now() + PROVE;
        loop {
            self.unharmed(proxy, applied)?;
            let last = match self.marker(r, Duration::from_secs(2)).await {
                Ok(instance) if applied.instance.as_ref().is_none_or(|i| *i == instance) => {
                    return self.unharmed(proxy, applied);
                }
                Ok(_) => "another process answers for the marker".to_string(),
                Err(e) => e,
            };
            if Instant::now() >= until {
                return Err(format!("not proved to serve within {} s: {last}", PROVE.as_secs()));
            }
            tokio::time::sleep(PROVE_EVERY).await;
        }
    }

    /// The process is the one it was, and has not complained.
    fn unharmed(&self, proxy: &mut Proxy, applied: &Applied) -> Result<(), String> {
        if applied.watched && proxy.alive() != applied.process {
            let said = proxy.tail_since(applied.log).unwrap_or_default();
            let last = said.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or_default().to_string();
            return Err(format!("the proxy died: {}", shorten(&last, 500)));
        }
        proxy.failure_since(applied.log).map_or(Ok(()), |line| Err(format!("the proxy refused it: {line}")))
    }

    async fn soak(&self, proxy: &mut Proxy, r: Release, applied: &Applied) -> Result<(), String> {
        let Some(about) = self.about(r).filter(|a| a.has_config) else { return Ok(()) };
        // What failed before does not become better by going back.
        let failed_before = self.readings.borrow().failing;
        let first = self.page(r).await.and_then(Result::ok);
        let until = Instant::now() + self.settings.soak;
        while Instant::now() < until {
            self.unharmed(proxy, applied)?;
            tokio::time::sleep(SOAK_EVERY.min(self.settings.soak)).await;
        }
        self.unharmed(proxy, applied)?;
        for path in &self.settings.smoke {
            let url = format!("http://{}{path}", about.probe.map(|p| p.to_string()).unwrap_or_default());
            let mut last = String::new();
            let mut good = false;
            for _ in 0..2 {
                match self.client.get(&url, Duration::from_secs(5), 1 << 20).await {
                    Ok((status, _)) if !status.is_server_error() => good = true,
                    Ok((status, _)) => last = format!("HTTP {status}"),
                    Err(e) => last = e,
                }
                if good {
                    break;
                }
            }
            if !good {
                return Err(format!("smoke request {path}: {last}"));
            }
        }
        if let (Some(first), false) = (first, failed_before)
            && let Some(Ok(last)) = self.page(r).await
        {
            let delta = last.since(&first);
            if delta.is_failing() {
                return Err(format!("{} of {} requests failed after the switch", delta.errors, delta.requests));
            }
        }
        Ok(())
    }

    fn commit(&self, a: &Activation, r: Release, logs: Option<String>) -> std::io::Result<()> {
        let i = a.intent().clone();
        let interrupted = a.is_interrupted();
        self.readings.borrow_mut().failing = false;
        self.update(|s| {
            s.intent = None;
            s.active = r;
            s.since = Some(now());
            match i.back {
                None => {
                    s.previous = Some(i.previous).filter(|p| *p != r);
                    s.generation = i.generation;
                    s.why = format!("assigned as generation {}", i.generation);
                    s.interrupted = (0, 0);
                    if s.failed.as_ref().is_none_or(|f| f.generation != i.generation) {
                        s.owed = Some(owed(r, i.generation, i.rollout, None, None));
                    }
                }
                Some(why) => {
                    let why = shorten(&why, MAX_WHY);
                    s.why = format!("went back from {}: {why}", i.target);
                    let times = if s.interrupted.0 == i.generation { s.interrupted.1 + 1 } else { 1 };
                    if interrupted && times < MAX_INTERRUPTED {
                        // The agent was stopped, which says nothing about the release: the next poll names it again.
                        s.interrupted = (i.generation, times);
                    } else {
                        s.failed =
                            Some(Failed { generation: i.generation, release: i.target, why: why.clone(), at: now() });
                        s.owed = Some(owed(i.target, i.generation, i.rollout, Some(why), logs));
                    }
                }
            }
        })
    }

    /// At our start: the flags that say how this host differs from the bundles may be others than last time.
    pub async fn refit(&self) {
        let pinned = self.state.borrow().pinned();
        for r in pinned {
            match crate::stage::refit(&self.layout, &self.overlay, r) {
                Ok(false) => {}
                Ok(true) if r == self.active() => {
                    let mut proxy = self.proxy.lock().await;
                    if proxy.is_supervised() {
                        // Started again at once, by the watch.
                        proxy.stop().await;
                    } else {
                        tracing::warn!("the addresses of this host were changed: restart the proxy");
                    }
                }
                Ok(true) => {}
                Err(e) => tracing::error!(release = %r, "with the new flags: {e}"),
            }
        }
    }

    /// At our start: an activation that was cut off is ended, forward only when its marker answers.
    pub async fn recover(&self) {
        let found = self.proxy.lock().await.alive();
        *self.seen.borrow_mut() = found;
        let left = self.state.borrow().intent.clone();
        let Some(intent) = left else {
            let active = self.active();
            if self.layout.current().ok().flatten() != Some(active)
                && let Err(e) = self.layout.switch(active)
            {
                tracing::error!("current: {e}");
            }
            return;
        };
        let selected = self.layout.current().ok().flatten() == Some(intent.target);
        let marker = selected && self.marker(intent.target, Duration::from_secs(2)).await.is_ok();
        tracing::warn!(target = %intent.target, marker, "an activation was cut off");
        let outcome = self.activate(Activation::recover(intent, marker)).await;
        tracing::warn!(?outcome, "recovered");
    }
}

fn owed(
    release: Release,
    generation: u64,
    rollout: Option<domain::RolloutId>,
    failed: Option<String>,
    logs: Option<String>,
) -> Owed {
    Owed { release, generation, rollout, failed, logs }
}
