//! Heartbeats and reports: what changed is committed (with the rollout's decision, if one holds the node), then remembered.

use super::actor::{Session, SlowFacts, flush_every};
use crate::command::{CommandError, CommandResult};
use crate::node_api::*;
use crate::rollout::{Delivered, Delivery};
use domain::node::{Busy, Fold, GateWindow, Generation, HealthClass, Observation, Presence, Recent, Traffic};
use domain::rollout::analysis::Reading;
use domain::rollout::{NodeStateKind, PresenceChange, Report, Said};
use domain::*;
use std::hash::{BuildHasher, Hash, Hasher};
use store::Served;

/// Heartbeats an instance aims to answer in a second; intervals grow with the fleet so that this holds.
const BEATS_PER_SECOND: usize = 5_000;
/// Seconds between heartbeats of a small, quiet fleet.
const QUIET_BEAT_S: u32 = 10;
/// Seconds between heartbeats of a node that is on its way or being judged.
const ENGAGED_BEAT_S: u32 = 2;
/// A node on its way is looked up again after this, whatever we were told.
const VIEW_AGE: Span = Span::secs(10);
/// Longer than any client waits for an answer: no heartbeat is older than this when it is read.
const LONGEST_UNDER_WAY: Span = Span::secs(60);
/// A bundle that a node named and we did not know is looked for again after this: it may have been compiled since.
const UNKNOWN_KEPT: Span = Span::secs(60);
/// Logs of a failure are kept up to this (INTERFACE section 3).
const MAX_LOG_BYTES: usize = 64 * 1024;
/// Error texts of nodes in the node's row.
const MAX_ERROR_CHARS: usize = 2_000;

pub(super) async fn heartbeat(s: &mut Session, beat: &Heartbeat) -> CommandResult<HeartbeatAnswer> {
    let now = s.plane.now();
    note_clock(s, beat.sent_at, now);
    if is_repeat(s, beat) || was_overtaken(beat.sent_at, s.reported, now) {
        heard(s, now);
        return Ok(answer(s, now));
    }
    if s.is_engaged() && now.since(s.viewed) > VIEW_AGE {
        // The rollout may live on another instance, which does not tell us when it has ended.
        look_again(s, now).await;
        if let Some(fold) = s.fold.as_mut() {
            // Not verified yet: what was said of its gates may have reached the owner too old to count. Said again.
            fold.retell();
        }
    }
    count_traffic(s, beat, now);
    let print = fingerprint(beat);
    let nothing_awaited = s.fold.is_none() && s.assigned.weighed && !busy_moves(s, busy_after(s, beat, now), now);
    let steady = print == s.beat_print && nothing_awaited && s.presence == Presence::Online;
    if !steady {
        let done = Box::pin(change(s, beat, now)).await?;
        s.beat_print = if done { print } else { 0 };
    }
    heard(s, now);
    if beat.seq.is_some() {
        s.seq = beat.seq;
    }
    Ok(answer(s, now))
}

/// A heartbeat waits no longer for what is only looked up for good measure: without it, it is answered from memory.
pub(super) const LOOK_WAIT: std::time::Duration = std::time::Duration::from_secs(1);

async fn look_again(s: &mut Session, now: Timestamp) {
    let view = Box::pin(s.plane.inner.store.session_view(s.node));
    match tokio::time::timeout(LOOK_WAIT, view).await {
        Ok(Ok(view)) => s.take_view(view),
        // The database is away or slow; a node that was deleted meanwhile is told by the feed.
        Ok(Err(_)) | Err(_) => s.viewed = now,
    }
}

/// How often what a node served is written, at most.
const COUNT_EVERY: Span = Span::secs(2);

/// What was measured longer before it was sent is not what the node is like now.
const STALE_METRICS: Span = Span::secs(30);

/// What is remembered of a node's traffic.
pub(super) struct Counted {
    traffic: Traffic,
    recent: Recent,
    /// Somebody compares, or asks: it is written.
    wanted: bool,
    written: Timestamp,
}

impl Counted {
    fn under(generation: Generation) -> Counted {
        let (traffic, recent) = (Traffic::under(generation), Recent::default());
        Counted { traffic, recent, wanted: false, written: Timestamp::ZERO }
    }
    fn served(&self, node: NodeId) -> Served {
        let t = &self.traffic;
        let reading =
            Reading { node, generation: t.generation, requests: t.requests, errors: t.errors, p99_us: t.p99_us };
        Served { reading, recent: self.recent.metrics() }
    }
}

/// What the node serves is counted while rollouts of its project are under way, and only then; and written while somebody wants it.
fn count_traffic(s: &mut Session, beat: &Heartbeat, now: Timestamp) {
    let Some(wanted) = s.plane.inner.measured.of(s.project) else {
        s.traffic = None;
        return;
    };
    let Some(metrics) = beat.metrics.as_ref().filter(|_| s.active == s.assigned.bundle) else { return };
    let generation = s.assigned.generation;
    let kept = s.traffic.take().filter(|c| c.traffic.generation == generation);
    let mut kept = kept.unwrap_or_else(|| Box::new(Counted::under(generation)));
    kept.traffic.observe(metrics);
    let age = beat.sent_at.zip(beat.measured_at).map_or(Span::ZERO, |(sent, measured)| sent.since(measured));
    if age <= STALE_METRICS {
        kept.recent.observe(metrics, now);
    }
    kept.wanted = wanted;
    s.traffic = Some(kept);
    if wanted {
        write_counts(s, now);
    }
}

/// What is remembered, unless it was written just now.
pub(super) fn write_counts(s: &mut Session, now: Timestamp) {
    let Some(counted) = s.traffic.as_mut().filter(|c| now.since(c.written) >= COUNT_EVERY) else { return };
    counted.written = now;
    s.plane.inner.sessions.writer.served(counted.served(s.node), now);
}

/// How far the end of "not now" may move and still be the same one: its time on the way is part of what we know of it.
const SAME_WISH: Span = Span::secs(5);

/// Clocks of nodes are never compared with ours: what counts is how much longer by its own. Without `sent_at` there is only ours.
fn busy_after(s: &Session, beat: &Heartbeat, now: Timestamp) -> Option<Busy> {
    let left = beat.busy_until.map(|until| until.since(beat.sent_at.unwrap_or(now)));
    Busy::after(s.busy, left, now)
}

fn holds(busy: Option<Busy>, now: Timestamp) -> bool {
    busy.is_some_and(|b| b.holds(now))
}

/// Is `busy` news, to the node's row or to the rollout that holds it?
fn busy_moves(s: &Session, busy: Option<Busy>, now: Timestamp) -> bool {
    let differs = match (s.busy, busy) {
        (None, None) => false,
        (Some(a), Some(b)) => a.since != b.since || a.until.since(b.until).max(b.until.since(a.until)) > SAME_WISH,
        (Some(_), None) | (None, Some(_)) => true,
    };
    differs || s.put_off != holds(busy, now)
}

/// The one place where the two clocks meet: for people to see, written with the last-seen time.
fn note_clock(s: &mut Session, sent_at: Option<Timestamp>, now: Timestamp) {
    if let Some(sent) = sent_at {
        s.skew.hear(sent, now);
    }
}

/// An equal or lower number of the same instance changes nothing.
fn is_repeat(s: &Session, beat: &Heartbeat) -> bool {
    match (beat.seq, s.seq) {
        (Some(new), Some(old)) => new <= old && beat.instance.is_some() && beat.instance == s.slow.instance,
        (Some(_) | None, _) => false,
    }
}

/// Sent before a report that came first: heartbeats and reports travel on connections of their own. Taken at its word, it
/// would say that the node fell back. Both times are the node's own clock; for a clock that was set back it ends by itself.
/// `reported`: when the last report said what runs, by the node's clock and by ours.
fn was_overtaken(sent_at: Option<Timestamp>, reported: Option<(Timestamp, Timestamp)>, now: Timestamp) -> bool {
    match (sent_at, reported) {
        (Some(sent), Some((reported, received))) => sent < reported && now.since(received) < LONGEST_UNDER_WAY,
        (Some(_) | None, _) => false,
    }
}

pub(super) fn heard(s: &mut Session, now: Timestamp) {
    s.heard = now;
    if now.since(s.flushed) >= flush_every(s.plane.config().stale_after) {
        s.flushed = now;
        let skew = s.skew.settle();
        s.plane.inner.sessions.writer.seen(s.node, now, skew);
    }
}

/// What a heartbeat says besides its numbers. A collision hides one change until the next heartbeat that differs: 2^-64.
fn fingerprint(b: &Heartbeat) -> u64 {
    // Fixed keys: only compared within one process.
    let mut h = std::hash::BuildHasherDefault::<std::hash::DefaultHasher>::default().build_hasher();
    (&b.active, &b.staged, b.health.map(|x| x as u8), b.generation).hash(&mut h);
    (&b.instance, &b.version, &b.ip, &b.hostname).hash(&mut h);
    if let Some(m) = &b.metadata {
        m.to_string().hash(&mut h);
    }
    h.finish() | 1
}

/// Resolve what a node named. `None`: we do not know it.
async fn resolve(s: &mut Session, r: BundleRef, now: Timestamp) -> CommandResult<Option<Option<BundleId>>> {
    match r {
        BundleRef::Baseline => return Ok(Some(None)),
        BundleRef::Row(id) if Some(id) == s.assigned.bundle || Some(id) == s.active => return Ok(Some(Some(id))),
        BundleRef::Content(c) if s.assigned.bundle.is_some() && s.assigned.content == Some(c) => {
            return Ok(Some(s.assigned.bundle));
        }
        BundleRef::Content(c) if s.active.is_some() && s.active_content == Some(c) => return Ok(Some(s.active)),
        BundleRef::Content(_) | BundleRef::Row(_) => {}
    }
    if s.unknown.is_some_and(|(known, at)| known == r && now.since(at) < UNKNOWN_KEPT) {
        return Ok(None);
    }
    match s.plane.bundle_named(s.project, r).await? {
        Some((id, content)) => {
            if Some(id) == s.active {
                s.active_content = content;
            }
            Ok(Some(Some(id)))
        }
        None => {
            s.unknown = Some((r, now));
            Ok(None)
        }
    }
}

/// Answers whether what was said is dealt with; if not, the same words count when they are said again.
async fn change(s: &mut Session, beat: &Heartbeat, now: Timestamp) -> CommandResult<bool> {
    let mut change = store::NodeChange::of(s.node, s.project);
    let mut reports = Vec::new();
    let mut worth = false;

    let mut active = match beat.active {
        Some(r) => {
            let heard = s.unknown.is_some_and(|(known, _)| known == r);
            let found = resolve(s, r, now).await?;
            if found.is_none() && !heard {
                // Assigned by a control plane that knew more than this one, before a restore; or by hand.
                change.events.push(runs_unknown(s, r, now));
                worth = true;
            }
            found
        }
        None => None,
    };
    // It runs something that this project does not know. Whatever it measures is then no evidence for what it was sent.
    let foreign = beat.active.is_some() && active.is_none();
    // What it runs was reported elsewhere, perhaps after this was sent: otherwise is believed when it is said once more.
    let doubted = active.is_some_and(|a| a != s.active) && s.hearsay;
    s.hearsay &= active.is_none();
    if doubted {
        active = None;
    }
    let news = active == Some(s.assigned.bundle) && s.told < s.assigned.generation;
    if news && s.fold.is_none() && s.plane.store().is_postgres() {
        // Perhaps reported to another instance: then it is judged from that time on, by this already.
        let view = Box::pin(s.plane.inner.store.session_view(s.node)).await?;
        s.take_view(view);
    }
    if let Some(active) = active {
        let moved = active != s.active;
        if moved {
            change.active_bundle = Some(active);
            worth = true;
        }
        // A new generation of the bundle it already runs is reported too; that it still runs another one is no news, and
        // may have been said before a switch that was reported to another instance.
        // One that comes back says so too: it may have been given up as lost meanwhile.
        let arrives = active == s.assigned.bundle && s.told < s.assigned.generation;
        if moved || arrives || s.presence != Presence::Online {
            reports.push(Report { node: s.node, generation: None, said: Said::Active { bundle: active } });
        }
    }
    let weight = beat.metrics.and_then(|m| m.traffic_weight).filter(|w| *w == s.assigned.weight);
    if let Some(weight) = weight.filter(|_| !s.assigned.weighed) {
        let generation = Some(s.assigned.generation);
        reports.push(Report { node: s.node, generation, said: Said::Weight { weight } });
    }
    if let Some(r) = beat.staged
        && let Some(staged) = resolve(s, r, now).await?
        && staged != s.staged
    {
        change.staged_bundle = Some(staged);
        worth = true;
    }
    let health = beat.health.unwrap_or(s.health);
    if health != s.health {
        change.health = Some(health);
        reports.push(Report { node: s.node, generation: None, said: Said::Health { class: health } });
        worth = true;
    }
    for (said, known, slot) in [
        (&beat.version, &s.slow.version, &mut change.version),
        (&beat.ip, &s.slow.ip, &mut change.ip),
        (&beat.hostname, &s.slow.hostname, &mut change.hostname),
        (&beat.instance, &s.slow.instance, &mut change.instance),
    ] {
        if said.is_some() && said != known {
            *slot = Some(said.clone());
            worth = true;
        }
    }
    if beat.metadata.as_ref().is_some_and(|m| *m != s.slow.metadata) {
        change.metadata = beat.metadata.clone();
        worth = true;
    }
    if s.presence != Presence::Online {
        change.presence = Some(Presence::Online);
        change.last_seen = Some(now);
        worth = true;
    }
    let busy = busy_after(s, beat, now);
    let busy_moved = busy_moves(s, busy, now);
    if busy_moved {
        change.busy = Some(busy);
        worth = true;
    }

    if s.is_instance(beat.instance.as_ref(), now) {
        Box::pin(s.conflicts()).await?;
    }

    // Fold the numbers first on a copy: memory changes only after the commit.
    let mut fold = s.fold.clone();
    let generation = s.assigned.generation;
    let arrived = generation > s.settled && active == Some(s.assigned.bundle) && s.told < generation;
    let mut windows: Vec<GateWindow> = Vec::new();
    let runs = !doubted && !foreign && active.unwrap_or(s.active) == s.assigned.bundle;
    if let (Some(judge), Some(f), true) = (&s.assigned.judge, fold.as_mut(), runs) {
        let observation = Observation {
            received: now,
            sent_at: beat.sent_at,
            measured_at: beat.measured_at,
            active,
            health: beat.health,
            metrics: beat.metrics,
            verified_report: false,
            probed: s.plane.probed(judge),
        };
        windows.extend(f.observe(&observation, judge));
    }

    let is_busy = holds(busy, now);
    let presence = match change.presence.is_some() || busy_moved {
        true => Some(here(s, is_busy).await?),
        false => None,
    };
    if worth || !reports.is_empty() || !windows.is_empty() {
        let delivery = Delivery { change, reports, windows, presence };
        let slow = slow_after(s, beat);
        let done = s.deliver(delivery).await?;
        *s.slow = slow;
        if generation == s.assigned.generation {
            s.assigned.weighed |= weight.is_some();
        }
        s.take_delivered(done, generation);
        if s.settled == generation {
            fold = None;
        }
    }
    if arrived && s.settled < generation && s.assigned.judge.is_some() {
        // Judged from here on: the activation is stored, and what was measured before it proves nothing.
        fold = Some(Box::new(Fold::new(s.node, generation, s.plane.now(), true, s.ever_health)));
    }
    if let Some(active) = active {
        if active != s.active {
            s.active_content = if active == s.assigned.bundle { s.assigned.content } else { None };
        }
        s.active = active;
        if active == s.assigned.bundle {
            // Not before: a word between the assignment and the switch is not the one that it is judged from.
            s.told = s.assigned.generation;
        }
        s.unknown = None;
    }
    s.health = health;
    s.ever_health |= beat.health.is_some();
    s.presence = Presence::Online;
    if busy_moved {
        (s.busy, s.put_off) = (busy, is_busy);
    }
    s.fold = fold;
    Ok(!doubted)
}

fn runs_unknown(s: &Session, named: BundleRef, now: Timestamp) -> store::NodeEvent {
    let bundle = match named {
        BundleRef::Content(c) => c.to_string(),
        BundleRef::Row(id) => id.to_string(),
        BundleRef::Baseline => "baseline".into(),
    };
    let detail = serde_json::json!({"bundle": bundle, "message": "the node runs a bundle that is not known here"});
    store::NodeEvent { node: s.node, project: s.project, at: now, kind: "unknown_bundle".into(), detail, rollout: None }
}

/// The word that the node is there. Whether it was named its assignment matters only to one that says "not now".
async fn here(s: &Session, busy: bool) -> CommandResult<PresenceChange> {
    let handed_over = match busy {
        true => Box::pin(s.plane.inner.store.session_view(s.node)).await?.node.handed_over,
        false => 0,
    };
    Ok(PresenceChange { node: s.node, online: true, handed_over, busy })
}

fn slow_after(s: &Session, beat: &Heartbeat) -> SlowFacts {
    let newer = |said: &Option<String>, known: &Option<String>| said.clone().or_else(|| known.clone());
    SlowFacts {
        version: newer(&beat.version, &s.slow.version),
        ip: newer(&beat.ip, &s.slow.ip),
        hostname: newer(&beat.hostname, &s.slow.hostname),
        instance: newer(&beat.instance, &s.slow.instance),
        metadata: beat.metadata.clone().unwrap_or_else(|| s.slow.metadata.clone()),
    }
}

impl Session {
    /// What the rollout said of the node after its commit.
    fn take_delivered(&mut self, done: Delivered, generation: Generation) {
        if generation != self.assigned.generation {
            return;
        }
        if done.unengaged {
            self.settle(generation);
        }
        if done.state == Some(NodeStateKind::Verified) {
            self.verified = generation;
        }
    }
}

/// A node that polls is there: stored, and told to whoever holds it, before anything is named to it.
pub(super) async fn came_back(s: &mut Session, now: Timestamp) -> CommandResult<()> {
    let mut change = store::NodeChange::of(s.node, s.project);
    change.presence = Some(Presence::Online);
    change.last_seen = Some(now);
    let generation = s.assigned.generation;
    let is_busy = holds(s.busy, now);
    let presence = Some(here(s, is_busy).await?);
    let done = s.deliver(Delivery { change, reports: Vec::new(), windows: Vec::new(), presence }).await?;
    s.take_delivered(done, generation);
    s.presence = Presence::Online;
    s.put_off = is_busy;
    heard(s, now);
    Ok(())
}

fn answer(s: &Session, now: Timestamp) -> HeartbeatAnswer {
    // Said until a poll has named it: a node that was told and does not switch must not be kept asking.
    let poll_now = s.has_update() && s.shown < s.assigned.generation;
    HeartbeatAnswer { last_seen: now, heartbeat_after_s: beat_after(s), poll_now }
}

/// Seconds until the next heartbeat: spread evenly with jitter over what the instance can take, at most a third of the stale
/// time; short for nodes of an active step, at most a third of the freshness they are judged by.
pub(super) fn beat_after(s: &Session) -> u32 {
    let most = ((s.plane.config().stale_after.as_secs() / 3).max(1)) as u32;
    if s.is_engaged() {
        let third = s.assigned.judge.as_ref().map_or(most, |j| (j.freshness.as_secs() / 3).max(1) as u32);
        return ENGAGED_BEAT_S.min(third).min(most);
    }
    // Counted for a comparison: often, but no more often than the instance can take from all of them.
    let least = if s.traffic.as_ref().is_some_and(|c| c.wanted) { ENGAGED_BEAT_S } else { QUIET_BEAT_S };
    spread(s, least, most)
}

/// Differs by node and by moment; a draw from the system's generator would be a system call for every answer.
fn spice(s: &Session) -> u64 {
    let seed = s.node.as_uuid().as_u128() as u64 ^ (s.heard.0 as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 31)
}

/// At least `least` and at most `most` seconds, by the size of the fleet, with 10 % of jitter downwards.
pub(super) fn spread(s: &Session, least: u32, most: u32) -> u32 {
    let by_load = (s.plane.inner.sessions.count() / BEATS_PER_SECOND) as u32;
    let base = by_load.max(least).min(most);
    let jitter = (spice(s) % u64::from(base / 10 + 1)) as u32;
    (base - jitter).max(1)
}

pub(super) async fn report(
    s: &mut Session,
    named: BundleRef,
    kind: ReportKind,
    body: ReportBody,
) -> CommandResult<ReportAnswer> {
    let now = s.plane.now();
    note_clock(s, body.sent_at, now);
    let newer = match body.generation {
        Some(g) => g > s.assigned.generation,
        None => body.rollout.is_some_and(|r| Some(r) != s.assigned.rollout),
    };
    if newer {
        // Told by another instance, and the feed is on its way to us: what is newer than our memory is not called stale unread.
        let view = Box::pin(s.plane.inner.store.session_view(s.node)).await?;
        s.take_view(view);
    }
    let Some(bundle) = resolve(s, named, now).await? else {
        heard(s, now);
        return Err(CommandError::NotFound("bundle"));
    };
    let current = bundle == s.assigned.bundle
        && s.assigned.generation > 0
        && body.generation.is_none_or(|g| g == s.assigned.generation)
        && body.rollout.is_none_or(|r| Some(r) == s.assigned.rollout);
    let mut change = store::NodeChange::of(s.node, s.project);
    change.last_seen = Some(now);
    let came_online = s.presence != Presence::Online;
    if came_online {
        change.presence = Some(Presence::Online);
    }
    let generation = s.assigned.generation;
    let arrived = current
        && matches!(kind, ReportKind::Activated | ReportKind::Verified)
        && generation > s.settled
        && s.fold.as_ref().is_none_or(|f| f.generation() != generation);
    let mut fold = s.fold.clone();
    if arrived && kind == ReportKind::Verified && s.assigned.judge.is_some() {
        // The activation was reported to another instance, or not at all: it came before the node's verdict on it.
        fold = Some(Box::new(Fold::new(s.node, generation, now - Span(1), false, s.ever_health)));
    }
    let mut windows = Vec::new();
    let mut active = s.active;
    let mut staged = s.staged;
    let mut failed = s.failed;
    let said = match &kind {
        ReportKind::Downloaded => Said::Downloaded { bundle },
        ReportKind::Staged => {
            staged = bundle;
            Said::Staged { bundle }
        }
        ReportKind::Activated => {
            active = bundle;
            Said::Activated { bundle }
        }
        ReportKind::Verified => {
            active = bundle;
            if current {
                change.last_error = Some(None);
            }
            Said::Verified { bundle }
        }
        ReportKind::Failed { error, logs } => {
            if current {
                failed = s.assigned.generation;
                let first: String = error.lines().next().unwrap_or_default().chars().take(MAX_ERROR_CHARS).collect();
                change.last_error = Some(Some(first));
            }
            let logs = logs.as_deref().map(|l| tail(l, MAX_LOG_BYTES));
            // The same failure reported again keeps its first account.
            let first_account = current && s.failed != s.assigned.generation;
            if first_account {
                change.events.push(store::NodeEvent {
                node: s.node,
                project: s.project,
                at: now,
                kind: "bundle_failed".into(),
                detail: serde_json::json!({"bundle": bundle, "generation": body.generation, "error": error, "logs": logs}),
                rollout: s.assigned.rollout,
              });
            }
            Said::Failed { bundle, error: error.clone() }
        }
    };
    if current {
        if staged != s.staged {
            change.staged_bundle = Some(staged);
        }
        if active != s.active {
            change.active_bundle = Some(active);
        }
        if let (ReportKind::Verified, Some(judge), Some(f)) = (&kind, &s.assigned.judge, fold.as_mut()) {
            let observation = Observation {
                received: now,
                sent_at: body.sent_at,
                measured_at: body.measured_at,
                active: None,
                health: body.health,
                metrics: None,
                verified_report: true,
                probed: s.plane.probed(judge),
            };
            windows.extend(f.observe(&observation, judge));
        }
    }
    let report = Report { node: s.node, generation: body.generation, said };
    let reports = if current { vec![report] } else { Vec::new() };
    let stale = !current;
    let delivered = if stale && !came_online && change.events.is_empty() {
        Delivered { state: None, unengaged: false }
    } else {
        let presence = match came_online {
            true => Some(here(s, holds(s.busy, now)).await?),
            false => None,
        };
        s.deliver(Delivery { change, reports, windows, presence }).await?
    };
    heard(s, now);
    s.presence = Presence::Online;
    if current {
        s.take_delivered(delivered, generation);
        if arrived && kind == ReportKind::Activated && s.settled < generation && s.assigned.judge.is_some() {
            fold = Some(Box::new(Fold::new(s.node, generation, s.plane.now(), false, s.ever_health)));
        }
        s.fold = if s.settled < generation { fold } else { None };
        if active != s.active {
            s.active_content = s.assigned.content;
        }
        s.active = active;
        s.hearsay = false;
        s.staged = staged;
        s.failed = failed;
        if matches!(kind, ReportKind::Activated | ReportKind::Verified) {
            s.told = s.assigned.generation;
            s.reported = body.sent_at.map(|sent| (sent, now));
        }
        if let Some(h) = body.health {
            s.ever_health |= h != HealthClass::Absent;
        }
    }
    let proceed = match kind {
        // The last moment to call it off: the database is asked, not our memory.
        ReportKind::Staged => current && super::poll::still_wanted(s).await?,
        ReportKind::Downloaded | ReportKind::Activated | ReportKind::Verified => current,
        ReportKind::Failed { .. } => false,
    };
    let state = delivered.state.map_or_else(|| kind_name(&kind).to_string(), |k| k.as_str().to_string());
    Ok(ReportAnswer { state, proceed, heartbeat_now: current && s.is_engaged(), stale })
}

fn kind_name(kind: &ReportKind) -> &'static str {
    match kind {
        ReportKind::Downloaded => "downloaded",
        ReportKind::Staged => "staged",
        ReportKind::Activated => "activated",
        ReportKind::Verified => "verified",
        ReportKind::Failed { .. } => "failed",
    }
}

/// The last `most` bytes of `text`, cut at a character.
fn tail(text: &str, most: usize) -> String {
    let mut from = text.len().saturating_sub(most);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text[from..].to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_is_overtaken_only_by_a_report_that_was_sent_after_it_and_came_first() {
        let at = |s: i64| Timestamp(s * 1_000_000);
        // The node's clock is an hour behind ours: the two are never compared.
        let reported = Some((at(100), at(3_700)));
        assert!(was_overtaken(Some(at(99)), reported, at(3_701)));
        assert!(!was_overtaken(Some(at(100)), reported, at(3_701)), "sent with the report");
        assert!(!was_overtaken(Some(at(101)), reported, at(3_701)), "sent after it");
        assert!(!was_overtaken(None, reported, at(3_701)), "without a time there is no order");
        assert!(!was_overtaken(Some(at(99)), None, at(3_701)), "nothing was reported");
        assert!(
            !was_overtaken(Some(at(99)), reported, at(3_760)),
            "nothing is under way for a minute: its clock was set back"
        );
    }
}
