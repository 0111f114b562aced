//! One simulated node, pure: inputs in (answers, the time), actions out (calls, notes). No IO, no clock; chance comes from its seed.
//!
//! Owns: what a node keeps on disk (identity, accepted generation, active bundle) and what its process has in hand.
//! Invariant: one bundle is active and at most one other is in hand; nothing becomes active without a [`Proof`] of its
//! content; the accepted generation never goes down.

mod call;
mod orders;
mod vitals;

pub use call::{Action, Answer, Ask, Call, Control, FetchError, Identity, Input, Lane, Note};

use crate::dice::Dice;
use crate::scenario::{Behaviour, Reports};
use crate::verify::{Evidence, Keeper, Proof};
use crate::wire::{CallError, Order, Report};
use api::node::{RegisterAnswer, RegisterRequest};
use domain::node::Labels;
use domain::{ContentId, Digest, NodeId, RolloutId, Span, Timestamp};
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::Arc;

/// Two polls are at least this far apart: no answer can make a node spin.
pub const MIN_POLL_GAP: Span = Span::secs(1);
/// A long poll may be answered this much before its time and still counts as held to the end.
pub const HELD_LEEWAY: Span = Span::millis(1_500);
/// Calls that failed are repeated after 1 s, 2 s, 4 s ... up to this, each shortened by up to half.
pub const MAX_BACKOFF: Span = Span::secs(30);
/// A download is tried this often before the node puts it down, and polls for a new address.
pub const MAX_FETCHES: u32 = 5;
/// A report is tried this often (about 2 minutes of back-off) before it is given up; the heartbeat says the same later.
pub const MAX_REPORT_TRIES: u32 = 8;

/// What all nodes of a fleet have in common.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Seconds a poll asks to be held, 0 to 60; 0 is a plain poll.
    pub long_poll_s: u32,
    /// Until the control plane says something else.
    pub heartbeat_every: Span,
    pub poll_every: Span,
    /// Intervals vary by up to this share, 0.0-1.0.
    pub jitter: f64,
    /// A node that comes back spreads its first calls over this.
    pub reconnect_spread: Span,
    pub verify: bool,
    /// The root that nodes believe; `None`: the first they are shown.
    pub root: Option<Digest>,
    pub version: String,
    pub capabilities: Vec<String>,
}

impl Default for Profile {
    fn default() -> Self {
        Profile {
            long_poll_s: 30,
            heartbeat_every: Span::secs(10),
            poll_every: Span::secs(10),
            jitter: 0.1,
            reconnect_spread: Span::secs(1),
            verify: true,
            root: None,
            version: concat!("sim/", env!("CARGO_PKG_VERSION")).into(),
            capabilities: vec!["config_reload".into(), "long_poll".into()],
        }
    }
}

/// Where a node is, for status and reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    Registering,
    Idle,
    Downloading,
    Staged,
    Applying,
    Checking,
    Offline,
    Dead,
    /// Refused at registration, revoked or deleted: it makes no more calls.
    Dismissed,
}

/// What can be seen of a node from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct NodeStatus {
    pub id: Option<NodeId>,
    pub state: NodeState,
    /// `None`: the baseline.
    pub active: Option<ContentId>,
    pub generation: u64,
    /// The bundle whose activation failed last, until another becomes active.
    pub last_failed: Option<ContentId>,
    pub traffic_weight: u8,
}

impl NodeStatus {
    /// It runs the bundle, failed on it, or cannot be reached.
    pub fn is_settled_on(&self, bundle: Option<ContentId>) -> bool {
        self.active == bundle || (self.last_failed.is_some() && self.last_failed == bundle) || self.is_away()
    }

    /// No call of it can be expected: offline, dead or dismissed.
    pub fn is_away(&self) -> bool {
        match self.state {
            NodeState::Offline | NodeState::Dead | NodeState::Dismissed => true,
            NodeState::Registering
            | NodeState::Idle
            | NodeState::Downloading
            | NodeState::Staged
            | NodeState::Applying
            | NodeState::Checking => false,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Life {
    Alive,
    /// Revives at the time, or never.
    Dead(Option<Timestamp>),
    Dismissed,
}

/// The one bundle in hand.
#[derive(Clone, Debug)]
struct Work {
    order: Box<Order>,
    evidence: Option<Box<Evidence>>,
    received: Timestamp,
    at: At,
}

#[derive(Clone, Debug)]
enum At {
    Wanted {
        not_before: Timestamp,
        tries: u32,
    },
    Fetched {
        proof: Proof,
        until: Timestamp,
    },
    /// `staged` is reported: may it switch?
    Asking {
        proof: Proof,
    },
    Applying {
        proof: Proof,
        until: Timestamp,
    },
    /// It is active; `back` is where a failed check returns to.
    Checking {
        until: Timestamp,
        back: Back,
    },
}

#[derive(Clone, Debug)]
struct Back {
    bundle: Option<ContentId>,
    version: Option<Box<str>>,
}

/// A report that waits to be sent.
#[derive(Clone, Debug)]
struct Outgoing {
    bundle: Option<ContentId>,
    report: Report,
    generation: u64,
    rollout: Option<RolloutId>,
    error: Option<Box<str>>,
    due: Timestamp,
    tries: u32,
}

/// One node.
#[derive(Clone, Debug)]
pub struct Agent {
    profile: Arc<Profile>,
    behaviour: Arc<Behaviour>,
    name: Box<str>,
    labels: Labels,
    dice: Dice,
    born: Timestamp,
    // On disk: survives the process.
    identity: Option<Arc<Identity>>,
    keeper: Keeper,
    accepted: u64,
    /// Bundle and weight of the accepted generation.
    desired: (Option<ContentId>, Option<u8>),
    failed_generation: u64,
    died_for: u64,
    active: Option<ContentId>,
    active_version: Option<Box<str>>,
    last_failed: Option<ContentId>,
    weight: u8,
    boot: u32,
    // In the process.
    /// Time of the last step.
    seen: Timestamp,
    seq: u64,
    traffic: vitals::Traffic,
    work: Option<Box<Work>>,
    outbox: VecDeque<Outgoing>,
    /// The report in flight.
    sending: Option<Outgoing>,
    /// Generation of the download in flight.
    fetching: u64,
    // On the line.
    life: Life,
    unplugged: bool,
    away: bool,
    line: u32,
    lanes: u8,
    tries: [u8; Lane::COUNT],
    next_register: Timestamp,
    next_beat: Timestamp,
    beat_every: Span,
    beat_now: bool,
    /// A switch that only a heartbeat will tell; no poll before it was told.
    untold: bool,
    next_poll: Timestamp,
    poll_sent: Timestamp,
    poll_every: Span,
}

impl Agent {
    /// A node that first registers at `start`. Equal arguments behave equally.
    pub fn new(
        profile: Arc<Profile>,
        behaviour: Arc<Behaviour>,
        name: &str,
        labels: Labels,
        start: Timestamp,
        dice: Dice,
    ) -> Agent {
        Agent {
            beat_every: profile.heartbeat_every,
            poll_every: profile.poll_every,
            profile,
            behaviour,
            name: name.into(),
            labels,
            dice,
            born: start,
            identity: None,
            keeper: Keeper::Credulous,
            accepted: 0,
            desired: (None, None),
            failed_generation: 0,
            died_for: 0,
            active: None,
            active_version: None,
            last_failed: None,
            weight: 100,
            boot: 0,
            seen: start,
            seq: 0,
            traffic: vitals::Traffic::starting(start),
            work: None,
            outbox: VecDeque::new(),
            sending: None,
            fetching: 0,
            life: Life::Alive,
            unplugged: false,
            away: false,
            line: 0,
            lanes: 0,
            tries: [0; Lane::COUNT],
            next_register: start,
            next_beat: start,
            beat_now: false,
            untold: false,
            next_poll: start,
            poll_sent: Timestamp::ZERO,
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn status(&self) -> NodeStatus {
        let state = match (&self.life, &self.work) {
            (Life::Dismissed, _) => NodeState::Dismissed,
            (Life::Dead(_), _) => NodeState::Dead,
            (Life::Alive, _) if self.away => NodeState::Offline,
            (Life::Alive, _) if self.identity.is_none() => NodeState::Registering,
            (Life::Alive, None) => NodeState::Idle,
            (Life::Alive, Some(w)) => match w.at {
                At::Wanted { .. } | At::Fetched { .. } => NodeState::Downloading,
                At::Asking { .. } => NodeState::Staged,
                At::Applying { .. } => NodeState::Applying,
                At::Checking { .. } => NodeState::Checking,
            },
        };
        NodeStatus {
            id: self.identity.as_ref().map(|i| i.node),
            state,
            active: self.active,
            generation: self.accepted,
            last_failed: self.last_failed,
            traffic_weight: self.weight,
        }
    }

    /// Takes one input in and does everything that is due at `now`; appends what the shell has to do.
    pub fn step(&mut self, now: Timestamp, input: Input, out: &mut Vec<Action>) {
        self.seen = self.seen.max(now);
        match input {
            Input::Wake => {}
            Input::Control(c) => self.control(now, c, out),
            // From before a break, or to nothing that was asked.
            Input::Answer { line, answer } if line != self.line || self.free(answer.lane()) => {}
            Input::Answer { answer, .. } => {
                self.lanes &= !(1 << answer.lane() as u8);
                self.answered(now, answer, out);
            }
        }
        self.presence(now, out);
        match self.life {
            Life::Dead(_) | Life::Dismissed => {}
            Life::Alive => {
                self.progress(now, out);
                self.send(now, out);
            }
        }
    }

    /// When something is due next; `None`: only an answer or a control can move this node.
    pub fn next_wake(&self) -> Option<Timestamp> {
        let edge = self.behaviour.next_edge(self.seen.since(self.born)).map(|e| self.born + e);
        match self.life {
            Life::Dismissed => return None,
            Life::Dead(until) => return until,
            Life::Alive => {}
        }
        let work = self.work.as_ref().and_then(|w| match &w.at {
            At::Wanted { not_before, .. } => (!self.away && self.free(Lane::Fetch)).then_some(*not_before),
            At::Fetched { until, .. } | At::Applying { until, .. } | At::Checking { until, .. } => Some(*until),
            At::Asking { .. } => None,
        });
        let mut next = [edge, work, None, None, None];
        if !self.away {
            if self.identity.is_none() {
                next[2] = self.free(Lane::Register).then_some(self.next_register);
            } else {
                next[2] = self.free(Lane::Heartbeat).then_some(self.next_beat);
                next[3] = self.outbox.front().filter(|_| self.free(Lane::Report)).map(|o| o.due);
                next[4] = self.may_poll().then_some(self.next_poll);
            }
        }
        next.into_iter().flatten().min()
    }

    fn free(&self, lane: Lane) -> bool {
        self.lanes & (1 << lane as u8) == 0
    }

    fn may_poll(&self) -> bool {
        // Reports that will not go through hold it up only for the first tries.
        let told = self.outbox.front().or(self.sending.as_ref()).is_none_or(|o| o.tries > 2);
        told && !self.untold && self.free(Lane::Poll)
    }

    fn control(&mut self, now: Timestamp, control: Control, out: &mut Vec<Action>) {
        match control {
            Control::GoOffline => self.unplugged = true,
            Control::ComeBack => {
                self.unplugged = false;
                if matches!(self.life, Life::Dead(_)) {
                    self.life = Life::Dead(Some(now));
                }
            }
            Control::Restart => {
                if self.life != Life::Dismissed {
                    self.die(Some(now), out);
                }
            }
            Control::Behave(b) => {
                self.serve_until(now);
                self.behaviour = b;
            }
        }
    }

    /// Off the net or on it, dead or revived: by script and by control.
    fn presence(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        if let Life::Dead(Some(until)) = self.life
            && until <= now
        {
            self.life = Life::Alive;
            self.boot += 1;
            self.seq = 0;
            self.traffic = vitals::Traffic::starting(now);
            self.reconnect(now);
            out.push(Action::Note(Note::CameBack));
        }
        let away = self.unplugged || self.behaviour.away(now.since(self.born));
        if away == self.away {
            return;
        }
        self.away = away;
        if away {
            self.hang_up(out);
            out.push(Action::Note(Note::WentOffline));
        } else {
            self.reconnect(now);
            out.push(Action::Note(Note::CameBack));
        }
    }

    fn hang_up(&mut self, out: &mut Vec<Action>) {
        self.line = self.line.wrapping_add(1);
        self.lanes = 0;
        self.tries = [0; Lane::COUNT];
        if let Some(o) = self.sending.take() {
            self.outbox.push_front(o);
        }
        out.push(Action::HangUp);
    }

    /// First calls after an absence, spread so that a fleet does not come back in one instant.
    fn reconnect(&mut self, now: Timestamp) {
        let spread = self.profile.reconnect_spread;
        let at = now + self.dice.upto(spread);
        self.next_register = at;
        self.next_beat = at;
        self.next_poll = at;
        for o in &mut self.outbox {
            o.due = o.due.max(at);
        }
    }

    /// The process ends: everything in hand is lost, what is on disk stays.
    fn die(&mut self, until: Option<Timestamp>, out: &mut Vec<Action>) {
        self.hang_up(out);
        self.work = None;
        self.outbox.clear();
        self.beat_now = false;
        self.untold = false;
        self.life = Life::Dead(until);
        out.push(Action::Note(Note::Died));
    }

    fn dismiss(&mut self, why: String, out: &mut Vec<Action>) {
        self.hang_up(out);
        self.work = None;
        self.outbox.clear();
        self.life = Life::Dismissed;
        out.push(Action::Note(Note::Dismissed(why)));
    }

    fn answered(&mut self, now: Timestamp, answer: Answer, out: &mut Vec<Action>) {
        let lane = answer.lane();
        match answer.error() {
            None => self.tries[lane as usize] = 0,
            Some(e) => {
                let gone =
                    matches!(e, CallError::Status { code: 404, .. }) && matches!(lane, Lane::Heartbeat | Lane::Poll);
                let hopeless = lane == Lane::Register && e.is_final();
                let dismissed = e.is_dismissal() && lane != Lane::Fetch;
                if dismissed || gone || hopeless {
                    return self.dismiss(format!("{}: {e}", lane.name()), out);
                }
            }
        }
        match answer {
            Answer::Register(Ok(a)) => self.on_registered(now, *a, out),
            Answer::Register(Err(e)) => self.next_register = self.retry_at(now, Lane::Register, &e),
            Answer::Heartbeat(Ok(a)) => {
                self.untold &= self.beat_now;
                let every = Span::secs(i64::from(a.heartbeat_after_s.max(1)));
                if every != self.beat_every {
                    self.beat_every = every;
                    self.next_beat = now + self.jittered(every);
                }
                if a.poll_now {
                    self.next_poll = now.max(self.poll_sent + MIN_POLL_GAP);
                }
            }
            Answer::Heartbeat(Err(e)) => {
                self.untold &= self.beat_now;
                self.next_beat = self.next_beat.max(self.retry_at(now, Lane::Heartbeat, &e));
            }
            Answer::Poll(Ok(a)) => self.on_poll(now, *a, out),
            Answer::Poll(Err(e)) => self.next_poll = self.retry_at(now, Lane::Poll, &e),
            Answer::Report(r) => self.on_reported(now, r, out),
            Answer::Fetch(r) => self.on_fetched(now, r, out),
        }
    }

    fn on_registered(&mut self, now: Timestamp, a: RegisterAnswer, out: &mut Vec<Action>) {
        if self.profile.verify {
            match Keeper::enrol(self.profile.root, &a.trust) {
                Ok(k) => self.keeper = k,
                Err(why) => return self.dismiss(why, out),
            }
        }
        self.identity = Some(Arc::new(Identity { node: a.node_id, key: a.node_key.into() }));
        self.beat_every = Span::secs(i64::from(a.heartbeat_interval_s.max(1)));
        self.poll_every = Span::secs(i64::from(a.poll_interval_s));
        // The registration counts as having been heard: the first heartbeat is spread over a whole interval.
        self.next_beat = now + self.dice.upto(self.beat_every);
        let spread = if self.profile.long_poll_s > 0 { Span::ZERO } else { self.poll_every };
        self.next_poll = now + self.dice.upto(spread);
        out.push(Action::Note(Note::Registered));
    }

    /// When to repeat a call that failed: back-off, and never before `Retry-After`.
    fn retry_at(&mut self, now: Timestamp, lane: Lane, e: &CallError) -> Timestamp {
        let tries = &mut self.tries[lane as usize];
        let full = Span(Span::secs(1).0 << (*tries).min(5)).min(MAX_BACKOFF);
        *tries = tries.saturating_add(1);
        let back_off = Span(full.0 / 2) + self.dice.upto(Span(full.0 / 2));
        let asked = e.retry_after().map_or(Span::ZERO, |s| s + self.dice.upto(Span(s.0 / 4)));
        now + back_off.max(asked)
    }

    fn jittered(&mut self, every: Span) -> Span {
        let j = self.profile.jitter.clamp(0.0, 1.0);
        // Early rather than late: the grant is a longest interval.
        Span((every.0 as f64 * (1.0 - j * self.dice.unit())) as i64)
    }

    /// Makes the calls that are due. At most one per lane is in flight.
    fn send(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        if self.away || self.life != Life::Alive {
            return;
        }
        if self.identity.is_none() {
            if self.free(Lane::Register) && self.next_register <= now {
                let body = RegisterRequest {
                    name: self.name.to_string(),
                    labels: Some(self.labels.clone()),
                    capabilities: Some(self.profile.capabilities.clone()),
                    version: Some(self.profile.version.clone()),
                    hostname: Some(self.name.to_string()),
                    ..RegisterRequest::default()
                };
                self.call(self.next_register, Ask::Register(Box::new(body)), out);
            }
            return;
        }
        if let Some(w) = &self.work
            && let At::Wanted { not_before, .. } = w.at
            && not_before <= now
            && self.free(Lane::Fetch)
        {
            self.fetching = w.order.generation;
            let ask = Ask::Fetch { order: w.order.clone(), evidence: w.evidence.clone() };
            self.call(not_before, ask, out);
        }
        if self.free(Lane::Report)
            && let Some(o) = self.outbox.pop_front_if(|o| o.due <= now)
        {
            let body = Box::new(self.report_body(now, &o));
            self.call(o.due, Ask::Report { bundle: o.bundle, report: o.report, body }, out);
            self.sending = Some(o);
        }
        if self.free(Lane::Heartbeat) && (self.beat_now || self.next_beat <= now) {
            self.send_heartbeat(now, out);
        }
        if self.may_poll() && self.next_poll <= now {
            self.poll_sent = now;
            let wait_s = self.profile.long_poll_s;
            self.call(self.next_poll, Ask::Poll { wait_s }, out);
        }
    }

    fn send_heartbeat(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        let due = if self.beat_now { now } else { self.next_beat };
        let step = self.jittered(self.beat_every);
        // Open loop: the schedule goes on from when this one was due, however late it is sent.
        self.next_beat = if self.beat_now { now + step } else { due + step };
        if self.next_beat <= now {
            let missed = now.since(due).0 / self.beat_every.0.max(1);
            self.next_beat = now + step;
            out.push(Action::Note(Note::Missed(missed as u64)));
        }
        self.beat_now = false;
        let body = self.heartbeat(now);
        self.call(due, Ask::Heartbeat(Box::new(body)), out);
    }

    fn call(&mut self, due: Timestamp, ask: Ask, out: &mut Vec<Action>) {
        self.lanes |= 1 << ask.lane() as u8;
        out.push(Action::Call(Box::new(Call { line: self.line, due, identity: self.identity.clone(), ask })));
    }
}

#[cfg(test)]
mod tests;
