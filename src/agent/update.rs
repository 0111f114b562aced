//! The main loop: tell what is owed, ask what is wanted, carry it out.

use crate::activation::{Activation, Outcome};
use crate::client::{CallError, FetchError, read_archive};
use crate::judge::{Order, judge, reminded_weight};
use crate::layout::{PROXY_CONFIG, Release};
use crate::node::{Node, now};
use crate::proxy::shorten;
use crate::stage::Staging;
use crate::state::{Failed, Identity, Owed};
use api::node::{EventKind, Health, ReportAnswer, ReportRequest};
use domain::{RolloutId, Span};
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;

/// Between tries when the control plane does not answer: doubled from the least to the most.
const LEAST_PAUSE: Duration = Duration::from_millis(500);
const MOST_PAUSE: Duration = Duration::from_secs(30);
/// After the key was refused: nothing changes before somebody does something.
const DISMISSED_PAUSE: Duration = Duration::from_secs(60);
/// Between polls at least, whatever the server says.
const LEAST_GAP: Duration = Duration::from_millis(200);
/// A poll that was answered this much before its time was held to its end all the same.
const HELD_LEEWAY: Duration = Duration::from_millis(500);
/// After an answer was refused: its next copy will be as bad.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);
/// Times one generation is fetched before it counts as failed.
const MAX_FETCHES: u32 = 3;
/// Trust is saved when only its time moved, at most this often: a reminder needs no write every half minute.
const SAVE_TIME_EVERY: Span = Span::secs(3600);

/// What one round has come to.
pub enum Round {
    /// Nothing new; ask again after this.
    Idle(Duration),
    Did(String),
    /// The answer is not to be believed; this was reported.
    Refused(String),
    Failed(CallError),
}

impl Node {
    /// Never ends.
    pub async fn work(&self, who: &Identity) {
        let mut pause = LEAST_PAUSE;
        let held = Duration::from_secs(u64::from(self.settings.wait));
        loop {
            let begun = Instant::now();
            let leave = self.leave.borrow_mut().take();
            if let Some(why) = leave {
                self.fall_back(why).await;
                self.beat_now.notify_one();
            }
            let round = tokio::select! {
                r = self.round(who, self.settings.wait) => r,
                () = self.wanted() => continue,
            };
            let rest = match round {
                Round::Did(what) => {
                    tracing::info!("{what}");
                    self.worked.set(Some(Instant::now()));
                    self.beat_now.notify_one();
                    pause = LEAST_PAUSE;
                    LEAST_GAP
                }
                // A poll that was held to its end is repeated at once.
                Round::Idle(_) if self.settings.wait > 0 && begun.elapsed() + HELD_LEEWAY >= held => {
                    pause = LEAST_PAUSE;
                    LEAST_GAP
                }
                Round::Idle(after) => {
                    pause = LEAST_PAUSE;
                    after.max(LEAST_GAP)
                }
                Round::Refused(_) => REFUSED_PAUSE,
                Round::Failed(e) => {
                    tracing::warn!("control plane: {e}");
                    let rest = if e.is_dismissal() { DISMISSED_PAUSE } else { e.retry_after().unwrap_or(pause) };
                    pause = (pause * 2).min(MOST_PAUSE);
                    rest + jitter(rest)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                () = self.work_now.notified() => {}
            }
        }
    }

    /// Until the watch wants the active release left. Only a round that has not begun to activate is dropped for it: the
    /// watch cannot see a proxy that an activation has in hand.
    async fn wanted(&self) {
        loop {
            self.work_now.notified().await;
            if self.leave.borrow().is_some() && self.proxy.try_lock().is_ok() {
                return;
            }
        }
    }

    /// One poll and what follows from it.
    pub async fn round(&self, who: &Identity, wait: u32) -> Round {
        if let Err(e) = self.pay(who).await {
            return Round::Failed(e);
        }
        let known = self.state.borrow().trust.clone();
        let polled = match self.client.poll(who, wait, known.as_ref().map(|t| t.trust.version)).await {
            Ok(p) => p,
            Err(e) => return Round::Failed(e),
        };
        let after = Duration::from_secs(u64::from(polled.answer.poll_after_s));
        let (order, trust) = match judge(known.as_ref(), who, &polled, now()) {
            Ok(judged) => judged,
            Err(refused) => {
                let release = match &polled.answer.bundle_id {
                    Some(Some(id)) => Release::try_from(id.clone()).unwrap_or(Release::Baseline),
                    Some(None) | None => Release::Baseline,
                };
                let (generation, rollout) = (polled.answer.generation.unwrap_or(0), polled.answer.rollout_id);
                let why = refused.0.clone();
                let told = self.tell_failed(who, release, generation, rollout, why, None).await;
                return told.map_or_else(Round::Failed, |()| Round::Refused(refused.0));
            }
        };
        let weight = reminded_weight(&polled.answer, &trust, self.active());
        // On disk before anything is staged. The time alone is saved now and then.
        let moved = known.as_ref().is_none_or(|k| {
            let timeless =
                |t: &bundle::NodeTrust| bundle::NodeTrust { highest_seen: domain::Timestamp::ZERO, ..t.clone() };
            let same = |a: &bundle::NodeTrust, b: &bundle::NodeTrust| match (&a.last, &b.last) {
                (Some(x), Some(y)) => x.same_core(y),
                (x, y) => x.is_none() == y.is_none(),
            };
            let strip = |t: &bundle::NodeTrust| bundle::NodeTrust { last: None, ..timeless(t) };
            strip(k) != strip(&trust) || !same(k, &trust) || trust.highest_seen.since(k.highest_seen) > SAVE_TIME_EVERY
        });
        if !moved {
            self.state.borrow_mut().trust = Some(trust);
        } else if (known.is_some() || order.is_some())
            && let Err(e) = self.update(|s| s.trust = Some(trust))
        {
            tracing::error!("state.json: {e}: nothing is staged before it can be written");
            let Some(o) = order else { return Round::Idle(MOST_PAUSE) };
            let why = format!("disk: state.json: {e}");
            let told = self.tell_failed(who, o.release, o.generation, o.rollout, why.clone(), None).await;
            return told.map_or_else(Round::Failed, |()| Round::Did(format!("{} failed: {why}", o.release)));
        }
        match order {
            None => {
                // A heartbeat says it, and whoever waits for that goes on.
                if weight.is_some_and(|w| self.state.borrow().weight != Some(w))
                    && let Err(e) = self.update(|s| s.weight = weight)
                {
                    tracing::error!("state.json: {e}");
                }
                Round::Idle(after)
            }
            Some(order) => self.follow(who, order).await,
        }
    }

    async fn follow(&self, who: &Identity, order: Order) -> Round {
        let (active, failed) = {
            let s = self.state.borrow();
            (s.active, s.failed.clone().filter(|f| f.generation == order.generation))
        };
        if let Some(f) = failed {
            // It asks again because it does not know.
            let told = self.tell_failed(who, order.release, order.generation, order.rollout, f.why, None).await;
            return told.map_or_else(Round::Failed, |()| Round::Idle(MOST_PAUSE));
        }
        if order.release == active {
            let weight = order.assignment.traffic_weight;
            let repeated = self.state.borrow().generation == order.generation;
            let saved = self.update(|s| {
                s.generation = order.generation;
                s.weight = Some(weight);
                s.owed = Some(Owed {
                    release: order.release,
                    generation: order.generation,
                    rollout: order.rollout,
                    failed: None,
                    logs: None,
                });
            });
            if let Err(e) = saved {
                tracing::error!("state.json: {e}");
                return Round::Idle(MOST_PAUSE);
            }
            return match self.pay(who).await {
                Err(e) => Round::Failed(e),
                // It has been told before, and asks for more than we can say of ourselves: heartbeats tell the rest.
                Ok(()) if repeated => Round::Idle(REFUSED_PAUSE),
                Ok(()) => Round::Did(format!("generation {} of what already runs", order.generation)),
            };
        }
        match self.prepare(who, &order).await {
            Ok(true) => {}
            Ok(false) => return Round::Did(format!("{} was withdrawn", order.release)),
            Err(Trouble::Call(e)) => return Round::Failed(e),
            Err(Trouble::Bundle(why)) => {
                let told =
                    self.tell_failed(who, order.release, order.generation, order.rollout, why.clone(), None).await;
                return told.map_or_else(Round::Failed, |()| Round::Did(format!("{} failed: {why}", order.release)));
            }
        }
        let outcome = self.activate(Activation::new(self.intend(order.release, order.generation, order.rollout))).await;
        let did = match &outcome {
            Outcome::Activated => {
                let weight = order.assignment.traffic_weight;
                self.state.borrow_mut().weight = Some(weight);
                format!("{} is active", order.release)
            }
            Outcome::NotBegun(why) => {
                let told =
                    self.tell_failed(who, order.release, order.generation, order.rollout, why.clone(), None).await;
                return told
                    .map_or_else(Round::Failed, |()| Round::Did(format!("{} was not begun: {why}", order.release)));
            }
            Outcome::FellBack { why, proved, .. } => format!("back on {} (proved: {proved}): {why}", self.active()),
        };
        self.tidy();
        if let Err(e) = self.pay(who).await {
            tracing::warn!("control plane: {e}; it will be told later");
        }
        Round::Did(did)
    }

    /// Everything before the switch. `false`: the control plane has changed its mind.
    async fn prepare(&self, who: &Identity, order: &Order) -> Result<bool, Trouble> {
        let r = order.release;
        let there = self.about(r).is_some_and(|a| a.overlay == self.overlay.fingerprint() || r == Release::Baseline);
        if !there {
            self.tidy();
            self.fetch_and_stage(order).await?;
        }
        if self.about(r).is_none() {
            return Err(Trouble::Bundle("it is not on this host".into()));
        }
        self.say(who, order, "downloaded").await?;
        if self.about(r).is_some_and(|a| a.has_config) {
            let file = self.layout.release(r).join(PROXY_CONFIG);
            let tested = self.proxy.lock().await.test(&file).await;
            tested.map_err(|e| Trouble::Bundle(format!("validation: {e}")))?;
        }
        let answer = self.say(who, order, "staged").await?;
        Ok(answer.proceed)
    }

    async fn fetch_and_stage(&self, order: &Order) -> Result<(), Trouble> {
        let (Some(artifact), Some(url)) = (order.artifact, order.url.as_deref()) else {
            return Err(Trouble::Bundle("malformed: an update without an address to fetch it from".into()));
        };
        let Some(trust) = self.state.borrow().trust.clone() else {
            return Err(Trouble::Bundle("no trust".into()));
        };
        let size = order.assignment.size_bytes;
        if size == 0 || size > bundle::archive::MAX_ARCHIVE_BYTES {
            return Err(Trouble::Bundle(format!("too_large: {size} bytes")));
        }
        let uri = self
            .client
            .artifact_uri(url, &trust.trust.artifact_origins)
            .map_err(|e| Trouble::Bundle(format!("origin: {e}")))?;
        let path = self.layout.download(artifact);
        let mut tries = 0;
        let bytes = loop {
            tries += 1;
            let got = match self.client.download(&uri, &path, size).await {
                Ok(()) => read_archive(&path, artifact),
                Err(e) => Err(e),
            };
            match got {
                Ok(bytes) => break bytes,
                // The address may have run out: the next poll brings a new one.
                Err(FetchError::Call(e)) if tries >= MAX_FETCHES || e.is_final() => return Err(Trouble::Call(e)),
                Err(FetchError::Refused(why)) if tries >= MAX_FETCHES => return Err(Trouble::Bundle(why)),
                Err(e @ FetchError::Slow) if tries >= MAX_FETCHES => return Err(Trouble::Bundle(e.to_string())),
                Err(FetchError::Disk(why)) => return Err(Trouble::Bundle(format!("disk: {why}"))),
                Err(e) => {
                    tracing::warn!("download: {e}");
                    tokio::time::sleep(LEAST_PAUSE).await;
                }
            }
        };
        let dir = self.layout.staging(order.release).map_err(|e| Trouble::Bundle(format!("disk: {e}")))?;
        let staging = Staging {
            dir: dir.clone(),
            home: self.layout.release(order.release),
            sharing: self.layout.sharing(),
            assignment: order.assignment.clone(),
            trust,
            overlay: self.overlay.clone(),
            version: order.version.clone(),
            proxy: self.version.borrow().clone(),
            now: now(),
        };
        let prepared = tokio::task::spawn_blocking(move || staging.prepare(&bytes)).await;
        prepared.map_err(|e| Trouble::Bundle(format!("staging: {e}")))?.map_err(Trouble::Bundle)?;
        self.layout.adopt(&dir, order.release).map_err(|e| Trouble::Bundle(format!("disk: {e}")))?;
        // The archive has served; a full disk is worse than a second download.
        let _ = std::fs::remove_file(&path);
        Ok(())
    }

    async fn say(&self, who: &Identity, order: &Order, what: &str) -> Result<ReportAnswer, Trouble> {
        let body = report(order.generation, order.rollout);
        Ok(self.client.report(who, &order.release.to_string(), what, &body).await?)
    }

    /// Local only: the active release does not stay up. The control plane is told afterwards.
    pub async fn fall_back(&self, why: String) {
        let (active, previous, generation) = {
            let s = self.state.borrow();
            (s.active, s.previous, s.generation)
        };
        let Some(previous) = previous.map(|p| self.allowed(p)).filter(|p| *p != active) else { return };
        tracing::error!(from = %active, to = %previous, "falling back: {why}");
        let rollout = self.state.borrow().trust.as_ref().and_then(|t| t.last.as_ref()).and_then(|a| a.rollout_id);
        let mut intent = self.intend(previous, generation, None);
        // Nothing to go back to from here but what is being left: it stays the last resort.
        intent.restart = true;
        let failed = Failed { generation, release: active, why: why.clone(), at: now() };
        if let Err(e) = self.update(|s| {
            s.failed = Some(failed);
            s.owed = Some(Owed { release: active, generation, rollout, failed: Some(why), logs: None });
        }) {
            tracing::error!("state.json: {e}");
        }
        let outcome = self.activate(Activation::new(intent)).await;
        tracing::warn!(?outcome, "fell back");
        let note = self.update(|s| {
            if outcome == Outcome::Activated {
                s.why = format!("fell back from {active}: {}", s.failed.as_ref().map_or("", |f| f.why.as_str()));
                s.previous = None;
            }
        });
        if let Err(e) = note {
            tracing::error!("state.json: {e}");
        }
    }

    /// Reports what an activation has come to, until the control plane has taken it.
    async fn pay(&self, who: &Identity) -> Result<(), CallError> {
        let Some(o) = self.state.borrow().owed.clone() else { return Ok(()) };
        let name = o.release.to_string();
        let mut body = report(o.generation, o.rollout);
        let told = match &o.failed {
            Some(why) => {
                body.error = Some(Value::String(why.clone()));
                body.logs = o.logs.clone().map(Value::String);
                self.client.report(who, &name, "failed", &body).await.map(|_| ())
            }
            None => {
                let measured = self.measure().await;
                body.health = Some(Health { status: self.health(&measured).into() });
                body.measured_at = Some(measured.at);
                body.sent_at = Some(now());
                match self.client.report(who, &name, "activated", &body).await {
                    Ok(_) if self.health(&measured) == "healthy" => {
                        self.client.report(who, &name, "verified", &body).await.map(|_| ())
                    }
                    other => other.map(|_| ()),
                }
            }
        };
        match told {
            Err(e) if !e.is_final() || e.is_dismissal() => Err(e),
            other => {
                if let Err(e) = other {
                    tracing::warn!("the report was not taken: {e}");
                }
                if let Err(e) = self.update(|s| s.owed = None) {
                    tracing::warn!("state.json: {e}");
                    self.state.borrow_mut().owed = None;
                }
                self.beat_now.notify_one();
                Ok(())
            }
        }
    }

    /// Remembers a failure, then reports it.
    async fn tell_failed(
        &self,
        who: &Identity,
        release: Release,
        generation: u64,
        rollout: Option<RolloutId>,
        why: String,
        logs: Option<String>,
    ) -> Result<(), CallError> {
        let why = shorten(&why, 2_000);
        tracing::warn!(%release, generation, "{why}");
        self.journal.note(EventKind::Error, format!("generation {generation}, {release}: {why}"), &[]);
        // What failed for want of disk cannot be written either; it is told all the same.
        let mut s = self.state.borrow().clone();
        s.owed = Some(Owed { release, generation, rollout, failed: Some(why.clone()), logs });
        let accepted = s.trust.as_ref().and_then(|t| t.last.as_ref()).is_some_and(|a| a.generation == generation);
        if accepted {
            s.failed = Some(Failed { generation, release, why, at: now() });
        }
        if let Err(e) = s.save(&self.layout) {
            tracing::error!("state.json: {e}");
        }
        *self.state.borrow_mut() = s;
        self.pay(who).await
    }

    /// Removes what nobody needs any more.
    fn tidy(&self) {
        let (keep, artifact) = {
            let s = self.state.borrow();
            let last = s.trust.as_ref().and_then(|t| t.last.as_ref());
            let mut keep = s.pinned();
            keep.extend(last.map(|a| Release::of(a.bundle_id)));
            (keep, last.and_then(|a| a.artifact_hash))
        };
        if let Err(e) = self.layout.collect(&keep, artifact) {
            tracing::warn!("tidying up: {e}");
        }
    }
}

enum Trouble {
    Call(CallError),
    /// Reported; this generation is not tried again.
    Bundle(String),
}

impl From<CallError> for Trouble {
    fn from(e: CallError) -> Trouble {
        Trouble::Call(e)
    }
}

fn report(generation: u64, rollout: Option<RolloutId>) -> ReportRequest {
    ReportRequest {
        generation: Some(generation),
        rollout_id: rollout,
        sent_at: Some(now()),
        ..ReportRequest::default()
    }
}

/// Up to a quarter more, so that a fleet does not come back in step.
fn jitter(of: Duration) -> Duration {
    let mut byte = [0u8; 1];
    let chance = getrandom::fill(&mut byte).map_or(0, |()| u32::from(byte[0]));
    of * chance / 1024
}
