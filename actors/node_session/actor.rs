//! The actor itself: what it remembers, and how its messages are dealt with.

use super::beat;
use super::poll;
use crate::command::{CommandError, CommandResult, start_failed};
use crate::node_api::*;
use crate::plane::{ControlPlane, Inner};
use crate::rollout::Delivery;
use crate::supervision::{TaskGuard, spawn_task};
use domain::node::{Busy, Fold, Generation, HealthClass, Instances, Presence, SkewEstimate};
use domain::rollout::{FULL_WEIGHT, GateSpec, NodeState, Told};
use domain::*;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use std::sync::{Arc, Weak};
use tokio::sync::oneshot;

/// Timers that are due at once (a failed store, a clock that jumped) do not spin.
const LEAST_NAP: Span = Span::millis(200);
/// A weight that a node was named and has not confirmed is named again after this: two of its heartbeats.
const SHOWN_AGAIN: Span = Span::secs(10);

/// More than a node has writes under way between two reads of the feed; a forgotten one costs a read.
const STAMPS: usize = 4;

pub enum SessionMsg {
    Beat {
        auth: NodeAuth,
        beat: Box<Heartbeat>,
        reply: RpcReplyPort<CommandResult<HeartbeatAnswer>>,
    },
    Poll {
        auth: NodeAuth,
        waiter: Option<oneshot::Sender<()>>,
        reply: RpcReplyPort<CommandResult<PollStep>>,
    },
    Report {
        auth: NodeAuth,
        bundle: BundleRef,
        kind: Box<ReportKind>,
        body: Box<ReportBody>,
        reply: RpcReplyPort<CommandResult<ReportAnswer>>,
    },
    /// A rollout committed a new assignment; a hint that saves a read, never an authority.
    Assigned(Box<Assigned>),
    /// The node's row changed elsewhere: read it again.
    Reload,
    /// The feed names this generation: read again if it is news.
    Newer(Generation),
    /// The feed names a change of the node's row: read again unless it is our own.
    Changed(i64),
    /// The rollout of this generation has ended: nothing more is judged.
    Settled(Generation),
    /// A rollout asks what the node measured lately.
    Recall,
    /// Time to look whether the node went silent.
    CheckSilence,
}

impl SessionMsg {
    /// Asked by somebody who found the session; its own timer need not find it.
    fn is_question(&self) -> bool {
        matches!(self, SessionMsg::Beat { .. } | SessionMsg::Poll { .. } | SessionMsg::Report { .. })
    }
}

/// What a session keeps of an assignment.
#[derive(Clone, Debug)]
pub struct Assigned {
    pub generation: Generation,
    pub bundle: Option<BundleId>,
    pub content: Option<ContentId>,
    pub rollout: Option<RolloutId>,
    pub judge: Option<Arc<GateSpec>>,
    /// The share of traffic, percent.
    pub weight: u8,
    /// The node said that it serves this share, or nobody waits for that.
    pub weighed: bool,
}

pub enum PollStep {
    Answer(Box<PollAnswer>),
    /// `withheld`: something may not be named yet, and who ends that may be on another instance.
    Parked {
        withheld: bool,
    },
}

pub(super) struct SessionActor;

/// Facts of a node that change rarely, as last stored.
#[derive(Default)]
pub(super) struct SlowFacts {
    pub version: Option<String>,
    pub ip: Option<String>,
    pub hostname: Option<String>,
    pub instance: Option<String>,
    pub metadata: serde_json::Value,
}

/// Everything remembered of one node: about 600 bytes, plus the mailbox.
pub(super) struct Session {
    pub plane: ControlPlane,
    pub node: NodeId,
    pub project: ProjectId,
    pub org: OrgId,
    pub epoch: u32,
    pub adopted: bool,
    pub presence: Presence,
    /// What it is granted of the "not now" that it says.
    pub busy: Option<Busy>,
    /// Whoever holds it was told that it is busy.
    pub put_off: bool,
    pub health: HealthClass,
    pub heard: Timestamp,
    pub flushed: Timestamp,
    /// How far the node's clock is from ours.
    pub skew: SkewEstimate,
    /// Fingerprint of the last heartbeat's slowly changing parts.
    pub beat_print: u64,
    /// When our picture of the node was last read from the database.
    pub viewed: Timestamp,
    pub seq: Option<u64>,
    /// Others that said they were this node; `None`: it has been one process all the time.
    pub instances: Option<Box<Instances>>,
    pub assigned: Assigned,
    pub active: Option<BundleId>,
    pub active_content: Option<ContentId>,
    /// `active` was read, not heard here: the node may have said before it switched what arrives only now.
    pub hearsay: bool,
    pub staged: Option<BundleId>,
    /// The generation whose activation was reported to its rollout.
    pub told: Generation,
    /// The newest generation a poll has named here, and when it last did.
    pub shown: Generation,
    pub shown_at: Timestamp,
    /// The newest generation whose rollout waits for nothing more of this node.
    pub settled: Generation,
    /// It is verified: judged on, at the pace of a quiet node.
    pub verified: Generation,
    /// What it last said of itself, so that saying it again changes nothing.
    pub slow: Box<SlowFacts>,
    /// The generation that failed on the node: not offered again.
    pub failed: Generation,
    pub fold: Option<Box<Fold>>,
    /// What it served and measured, while rollouts of its project are under way.
    pub traffic: Option<Box<beat::Counted>>,
    pub ever_health: bool,
    /// When the node last said in a report what it runs: by its clock, and by ours.
    pub reported: Option<(Timestamp, Timestamp)>,
    /// A bundle it named that we do not know: not looked up again each time.
    pub unknown: Option<(BundleRef, Timestamp)>,
    /// Our own last writes, as the feed names them.
    stamps: [i64; STAMPS],
    pub waiters: Vec<oneshot::Sender<()>>,
    pub envelope: Option<Box<poll::CachedEnvelope>>,
    /// Somebody has asked it: it can be found since.
    found: bool,
    timer: Option<TaskGuard>,
}

impl Actor for SessionActor {
    type Msg = SessionMsg;
    type State = Session;
    type Arguments = (Weak<Inner>, NodeId);

    async fn pre_start(
        &self,
        myself: ActorRef<SessionMsg>,
        (plane, node): Self::Arguments,
    ) -> Result<Session, ActorProcessingErr> {
        let plane = ControlPlane { inner: plane.upgrade().ok_or("the control plane has ended")? };
        plane.inner.sessions.arrivals.begin(node);
        let view = match plane.inner.store.session_view(node).await {
            Ok(view) => view,
            Err(e) => {
                plane.inner.sessions.arrivals.end(&node);
                return Err(start_failed(e));
            }
        };
        let now = plane.now();
        let mut session = Session {
            node,
            project: view.node.project,
            org: view.node.org,
            epoch: view.node.credential_epoch,
            adopted: false,
            presence: view.node.presence,
            busy: None,
            put_off: false,
            health: view.node.health,
            heard: now,
            flushed: view.node.last_seen.unwrap_or(Timestamp::ZERO),
            skew: SkewEstimate::resumed(view.node.clock_skew),
            beat_print: 0,
            viewed: now,
            seq: None,
            instances: None,
            assigned: Assigned {
                generation: 0,
                bundle: None,
                content: None,
                rollout: None,
                judge: None,
                weight: FULL_WEIGHT,
                weighed: true,
            },
            active: None,
            active_content: None,
            hearsay: false,
            staged: view.node.staged_bundle,
            told: 0,
            shown: 0,
            shown_at: Timestamp::ZERO,
            settled: 0,
            verified: 0,
            slow: Box::default(),
            failed: 0,
            fold: None,
            traffic: None,
            ever_health: view.node.health != HealthClass::Absent,
            reported: None,
            unknown: None,
            stamps: [0; STAMPS],
            waiters: Vec::new(),
            envelope: None,
            found: false,
            timer: None,
            plane,
        };
        session.take_view(view);
        session.plane.inner.sessions.metrics.sessions.inc();
        session.arm(&myself);
        Ok(session)
    }

    async fn handle(
        &self,
        myself: ActorRef<SessionMsg>,
        message: SessionMsg,
        s: &mut Session,
    ) -> Result<(), ActorProcessingErr> {
        if !s.found && message.is_question() {
            s.found = true;
            if s.plane.inner.sessions.arrivals.end(&s.node) {
                Box::pin(s.reload(&myself)).await;
            }
        }
        // The rare paths are boxed: an idle session keeps room for the largest future that is part of this one.
        match message {
            SessionMsg::Beat { auth, beat, reply } => {
                let answer = if s.may(&auth) { beat::heartbeat(s, &beat).await } else { Err(gone()) };
                let _ = reply.send(answer);
            }
            SessionMsg::Poll { auth, waiter, reply } => {
                let answer = if s.may(&auth) { Box::pin(poll::poll(s, waiter)).await } else { Err(gone()) };
                let _ = reply.send(answer);
            }
            SessionMsg::Report { auth, bundle, kind, body, reply } => {
                let answer =
                    if s.may(&auth) { Box::pin(beat::report(s, bundle, *kind, *body)).await } else { Err(gone()) };
                let _ = reply.send(answer);
            }
            SessionMsg::Assigned(new) => s.take_assignment(*new),
            SessionMsg::Settled(generation) => s.settle(generation),
            SessionMsg::Reload => Box::pin(s.reload(&myself)).await,
            SessionMsg::Newer(generation) => {
                if generation > s.assigned.generation {
                    Box::pin(s.reload(&myself)).await;
                }
            }
            SessionMsg::Changed(stamp) => {
                if !s.stamps.contains(&stamp) {
                    Box::pin(s.reload(&myself)).await;
                }
            }
            SessionMsg::Recall => {
                let now = s.plane.now();
                beat::write_counts(s, now);
            }
            SessionMsg::CheckSilence => {
                if Box::pin(s.check_silence()).await {
                    myself.stop(None);
                } else {
                    s.arm(&myself);
                }
            }
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<SessionMsg>, s: &mut Session) -> Result<(), ActorProcessingErr> {
        s.plane.inner.sessions.metrics.sessions.dec();
        s.plane.inner.sessions.arrivals.end(&s.node);
        s.wake();
        Ok(())
    }
}

/// How far the stored last-seen time of a node may be behind: it is written every quarter of the stale time, at most a
/// minute, and then waits up to a second for company.
pub(super) fn seen_lag(stale: Span) -> Span {
    flush_every(stale) + Span::secs(1)
}

pub(super) fn flush_every(stale: Span) -> Span {
    Span((stale.0 / 4).min(Span::secs(60).0))
}

fn gone() -> CommandError {
    CommandError::Forbidden("the node key was replaced or revoked".into())
}

impl Session {
    fn may(&mut self, auth: &NodeAuth) -> bool {
        // A newer epoch than ours: our row is old, and `Reload` is on its way; an older one was revoked.
        self.epoch = self.epoch.max(auth.epoch);
        auth.epoch == self.epoch
    }

    async fn reload(&mut self, myself: &ActorRef<SessionMsg>) {
        match self.plane.inner.store.session_view(self.node).await {
            Ok(view) => {
                self.take_view(view);
                // What it says again may be news to what is stored now.
                self.beat_print = 0;
                self.wake();
            }
            // Deleted, or the database is away: the session is only a memory, the next start reads again.
            Err(_) => myself.stop(None),
        }
    }

    /// What the database says of the node replaces what we remember; observations that are only ours stay.
    pub fn take_view(&mut self, view: store::SessionView) {
        let n = &view.node;
        self.viewed = self.plane.now();
        self.epoch = n.credential_epoch;
        self.adopted = n.standing == domain::node::Standing::Adopted;
        self.presence = n.presence;
        self.busy = n.busy;
        // If that is over by now, nobody may have said so.
        self.put_off = n.busy.is_some();
        self.health = n.health;
        self.hearsay |= self.active != n.active_bundle;
        self.active = n.active_bundle;
        self.active_content = None;
        // Heard elsewhere as another one: counted as if it were heard here. What follows from it is decided at its next word.
        let _ = self.is_instance(n.instance.as_ref(), self.viewed);
        *self.slow = SlowFacts {
            version: n.version.clone(),
            ip: n.ip.clone(),
            hostname: n.hostname.clone(),
            instance: n.instance.clone(),
            metadata: n.metadata.clone(),
        };
        let (judge, member, active) = match view.rollout {
            Some(r) => (Some(Arc::new(r.spec.judge)), r.member, r.phase.is_active()),
            None => (None, None, false),
        };
        self.take_assignment(Assigned {
            generation: n.generation,
            bundle: n.desired_bundle,
            content: view.bundle.as_ref().and_then(|b| b.content_id),
            rollout: n.desired_rollout,
            judge,
            weight: n.traffic_weight,
            weighed: member.as_ref().is_none_or(|m| m.generation != n.generation || m.weighed),
        });
        if self.active.is_some() && self.active == self.assigned.bundle {
            self.active_content = self.assigned.content;
        }
        let member = member.filter(|m| m.generation == self.assigned.generation);
        let waited_for = member
            .as_ref()
            .is_some_and(|m| active || m.state.in_flight() || matches!(m.state, NodeState::RollingBack { .. }));
        let Some(m) = member.filter(|_| waited_for) else {
            self.settle(self.assigned.generation);
            return;
        };
        let activated = match (&m.state, m.told) {
            (NodeState::Failed { .. }, Told::Target) => {
                self.failed = m.generation;
                None
            }
            (NodeState::Verified { at, .. }, _) => {
                self.verified = m.generation;
                Some(*at)
            }
            (NodeState::Activated { at, .. }, _) => Some(*at),
            (NodeState::RollingBack { activated, .. }, _) => *activated,
            _ => None,
        };
        if let Some(at) = activated {
            self.told = m.generation;
            if self.fold.is_none() {
                self.fold = Some(Box::new(Fold::new(self.node, m.generation, at, false, self.ever_health)));
            }
        }
    }

    /// The rollout of `generation` waits for nothing more of this node.
    pub fn settle(&mut self, generation: Generation) {
        if generation == self.assigned.generation {
            self.settled = generation;
            self.told = generation;
            self.fold = None;
        }
    }

    pub fn take_assignment(&mut self, new: Assigned) {
        if new.generation < self.assigned.generation {
            return;
        }
        if new.generation > self.assigned.generation {
            self.fold = None;
            self.envelope = None;
            // The next heartbeat must be looked at, even if it says what the last one said.
            self.beat_print = 0;
        }
        self.assigned = new;
        self.wake();
    }

    pub fn wake(&mut self) {
        for w in self.waiters.drain(..) {
            let _ = w.send(());
        }
    }

    /// Something the node has not been told, or has not done yet.
    pub fn has_update(&self) -> bool {
        let a = &self.assigned;
        self.adopted && a.generation > 0 && a.bundle != self.active && self.failed != a.generation
    }

    /// A new generation names what the node runs already, and nobody has told it so: named once, so that it can say at once
    /// that it runs it, instead of at its next heartbeat.
    pub fn has_unshown(&self, now: Timestamp) -> bool {
        let g = self.assigned.generation;
        let unheard = self.told < g || !self.assigned.weighed;
        let unshown = self.shown < g || self.may_have_missed(now);
        self.adopted && self.assigned.bundle == self.active && unheard && unshown && self.failed != g
    }

    /// A poll named its weight a while ago, and it has not said that it serves it: the answer may have been lost, and a heartbeat
    /// tells nobody a weight.
    pub fn may_have_missed(&self, now: Timestamp) -> bool {
        let was_shown = self.shown == self.assigned.generation;
        !self.assigned.weighed && was_shown && now.since(self.shown_at) >= SHOWN_AGAIN
    }

    /// The node is on its way with an assignment, or is being judged.
    pub fn is_engaged(&self) -> bool {
        let g = self.assigned.generation;
        self.has_update()
            || (self.told < g && self.failed != g)
            || !self.assigned.weighed
            || (self.fold.is_some() && self.verified < g)
    }

    fn arm(&mut self, myself: &ActorRef<SessionMsg>) {
        let clock = self.plane.clock().clone();
        let stale = self.plane.config().stale_after;
        // Online: when it would be offline. Offline: when the session itself is dropped.
        let at = match self.presence {
            Presence::Online => self.heard.max(self.plane.heeded_since()) + stale,
            Presence::Offline | Presence::Unknown => self.heard + stale + stale,
        };
        let at = at.max(clock.now() + LEAST_NAP);
        let me = myself.clone();
        self.timer = Some(spawn_task("session timer", async move {
            clock.sleep_until(at).await;
            let _ = me.cast(SessionMsg::CheckSilence);
        }));
    }

    fn remember(&mut self, stamp: i64) {
        self.stamps.rotate_right(1);
        self.stamps[0] = stamp;
    }

    /// Silent for the stale time: stored as offline, its rollout hears of it. Answers whether the session should end.
    async fn check_silence(&mut self) -> bool {
        let now = self.plane.now();
        let stale = self.plane.config().stale_after;
        if self.presence != Presence::Online {
            return now.since(self.heard) >= stale + stale;
        }
        // Time in which we could not have heard it is no silence; nor that in which another instance could not store that it did.
        if now.since(self.heard.max(self.plane.heeded_since())) < stale {
            return false;
        }
        self.remember(now.0);
        // Nobody heard it after us, as far as is stored; whoever did, on another instance, stores it this much later.
        let not_heard_since = self.heard.max(now - stale - seen_lag(stale));
        let write = store::Write::at(now);
        match self.plane.inner.store.set_presence_offline(vec![self.node], not_heard_since, write).await {
            Ok(moved) => {
                for m in moved {
                    self.presence = Presence::Offline;
                    self.plane.presence_changed(m.node, m.project, m.desired_rollout, false, m.handed_over).await;
                }
                // Not moved: it was heard elsewhere, where its session now lives.
                self.presence != Presence::Offline
            }
            Err(e) => {
                tracing::warn!(node = %self.node, error = %e, "could not store that the node is offline");
                false
            }
        }
    }

    pub async fn deliver(&mut self, mut delivery: Delivery) -> CommandResult<crate::rollout::Delivered> {
        let stamp = (self.plane.fresh().chance() >> 1) as i64;
        delivery.change.stamp = Some(stamp);
        self.remember(stamp);
        self.plane.deliver(self.node, self.project, self.assigned.rollout, delivery).await
    }
}
