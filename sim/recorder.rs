//! What the fleet measured and where its nodes are, in one actor; nodes send it facts and never wait for it.
//!
//! Owns: histograms, counts, the last status of every node, and who waits for the fleet to reach something.

use crate::agent::{Lane, NodeStatus, Note};
use crate::report::{BundleLine, FleetReport, Latency};
use crate::wire::bundle_name;
use domain::{ContentId, RolloutId, Span, Timestamp};
use hdrhistogram::Histogram;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::collections::{BTreeMap, HashMap};
use tokio::sync::oneshot;

/// Different reasons kept; texts come from servers and could be endless.
const MAX_REASONS: usize = 100;
/// An hour in microseconds: nothing a run measures is longer, and what is counts as this.
const MAX_MICROS: u64 = 3_600_000_000;

/// One thing that happened.
#[derive(Debug)]
pub enum Sample {
    /// `took` from when it was due, `lag` of it before it was sent. `held`: a long poll, whose length says nothing.
    Answered {
        lane: Lane,
        took: Span,
        lag: Span,
        held: bool,
    },
    Error {
        lane: Lane,
        label: String,
    },
    /// A download over the wire (shared ones count once).
    Fetched {
        took: Span,
        bytes: u64,
    },
    Note {
        at: Timestamp,
        note: Note,
    },
    /// An actor of the fleet broke: a fault of the simulator.
    Crashed,
}

pub type Predicate = Box<dyn Fn(&NodeStatus) -> bool + Send>;

pub enum RecorderMsg {
    Sample(Sample),
    Node {
        index: u32,
        status: NodeStatus,
    },
    /// Wake-ups count from here on, instead of from the first node that is told.
    Mark(Timestamp),
    /// Answers once every node satisfies the predicate.
    UntilAll {
        holds: Predicate,
        reply: oneshot::Sender<()>,
    },
    /// Answers with the bundle of this version label, once some node was told to run it.
    Version {
        version: String,
        reply: oneshot::Sender<Option<ContentId>>,
    },
    Board(oneshot::Sender<Vec<Option<NodeStatus>>>),
    Report {
        now: Timestamp,
        reply: oneshot::Sender<FleetReport>,
    },
}

pub(crate) struct Recorder;

struct Waiter {
    holds: Predicate,
    missing: usize,
    reply: oneshot::Sender<()>,
}

pub(crate) struct Book {
    started: Timestamp,
    board: Vec<Option<NodeStatus>>,
    waiters: Vec<Waiter>,
    named: Vec<(String, oneshot::Sender<Option<ContentId>>)>,
    lanes: [Option<Histogram<u64>>; Lane::COUNT],
    heartbeat_lag: Option<Histogram<u64>>,
    wake_up: Option<Histogram<u64>>,
    activate: Option<Histogram<u64>>,
    counts: BTreeMap<&'static str, u64>,
    errors: BTreeMap<&'static str, BTreeMap<String, u64>>,
    reasons: BTreeMap<String, u64>,
    mark: Option<Timestamp>,
    first_told: HashMap<(Option<RolloutId>, Option<ContentId>), Timestamp>,
    bundles: BTreeMap<Option<ContentId>, BundleLine>,
}

impl Actor for Recorder {
    type Msg = RecorderMsg;
    type State = Book;
    type Arguments = (u32, Timestamp);

    async fn pre_start(
        &self,
        _: ActorRef<RecorderMsg>,
        (nodes, started): (u32, Timestamp),
    ) -> Result<Book, ActorProcessingErr> {
        Ok(Book::new(nodes, started))
    }

    async fn handle(
        &self,
        _: ActorRef<RecorderMsg>,
        msg: RecorderMsg,
        book: &mut Book,
    ) -> Result<(), ActorProcessingErr> {
        // Whoever asked may have gone: an answer nobody takes is no fault.
        match msg {
            RecorderMsg::Sample(s) => book.sample(s),
            RecorderMsg::Node { index, status } => book.node(index, status),
            RecorderMsg::Mark(at) => book.mark = Some(at),
            RecorderMsg::UntilAll { holds, reply } => book.wait(holds, reply),
            RecorderMsg::Version { version, reply } => {
                book.named.push((version, reply));
                book.tell_versions();
            }
            RecorderMsg::Board(reply) => drop(reply.send(book.board.clone())),
            RecorderMsg::Report { now, reply } => drop(reply.send(book.report(now))),
        }
        Ok(())
    }
}

fn record(slot: &mut Option<Histogram<u64>>, span: Span) {
    if slot.is_none() {
        *slot = Histogram::new_with_bounds(1, MAX_MICROS, 3).ok();
    }
    if let Some(h) = slot {
        h.saturating_record((span.0.max(1) as u64).min(MAX_MICROS));
    }
}

impl Book {
    fn new(nodes: u32, started: Timestamp) -> Book {
        Book {
            started,
            board: vec![None; nodes as usize],
            waiters: Vec::new(),
            named: Vec::new(),
            lanes: Default::default(),
            heartbeat_lag: None,
            wake_up: None,
            activate: None,
            counts: BTreeMap::new(),
            errors: BTreeMap::new(),
            reasons: BTreeMap::new(),
            mark: None,
            first_told: HashMap::new(),
            bundles: BTreeMap::new(),
        }
    }

    fn count(&mut self, what: &'static str, n: u64) {
        *self.counts.entry(what).or_default() += n;
    }

    fn reason(&mut self, text: String) {
        if self.reasons.len() < MAX_REASONS || self.reasons.contains_key(&text) {
            *self.reasons.entry(text).or_default() += 1;
        }
    }

    fn sample(&mut self, sample: Sample) {
        match sample {
            Sample::Answered { lane, took, lag, held } => {
                if !held {
                    record(&mut self.lanes[lane as usize], took);
                }
                if lane == Lane::Heartbeat {
                    record(&mut self.heartbeat_lag, lag);
                }
                self.count(
                    match lane {
                        Lane::Register => "registrations_answered",
                        Lane::Heartbeat => "heartbeats_answered",
                        Lane::Poll => "polls_answered",
                        Lane::Report => "reports_answered",
                        Lane::Fetch => "bundles_fetched",
                    },
                    1,
                );
            }
            Sample::Error { lane, label } => {
                *self.errors.entry(lane.name()).or_default().entry(label).or_default() += 1;
            }
            Sample::Fetched { took, bytes } => {
                record(&mut self.lanes[Lane::Fetch as usize], took);
                self.count("downloads", 1);
                self.count("bytes_downloaded", bytes);
            }
            Sample::Crashed => self.count("simulator_faults", 1),
            Sample::Note { at, note } => self.note(at, note),
        }
    }

    fn note(&mut self, at: Timestamp, note: Note) {
        let what = match note {
            Note::Registered => "registered",
            Note::Dismissed(why) => {
                self.reason(format!("dismissed: {why}"));
                "dismissed"
            }
            Note::Ordered { bundle, version, rollout, generation: _ } => {
                let first = *self.first_told.entry((rollout, bundle)).or_insert(at);
                record(&mut self.wake_up, at.since(self.mark.unwrap_or(first)));
                let line = self.bundles.entry(bundle).or_default();
                line.ordered += 1;
                line.version = version.or(line.version.take());
                line.first_ordered_at.get_or_insert(at);
                self.tell_versions();
                "ordered"
            }
            Note::Activated { bundle, after, generation: _ } => {
                record(&mut self.activate, after);
                let line = self.bundles.entry(bundle).or_default();
                line.activated += 1;
                line.last_activated_at = Some(at);
                "activated"
            }
            Note::Refused(why) => {
                self.reason(format!("refused: {why}"));
                "refused"
            }
            Note::Failed(why) => {
                self.reason(format!("failed: {why}"));
                "failed"
            }
            Note::Misread(why) => {
                self.reason(format!("misread: {why}"));
                "misread"
            }
            Note::Repeated => "repeated_orders",
            Note::Verified => "verified",
            Note::FellBack => "fell_back",
            Note::Withdrawn => "withdrawn",
            Note::WeightChanged(_) => "weight_changes",
            Note::Stale => "stale_reports",
            Note::Died => "died",
            Note::WentOffline => "went_offline",
            Note::CameBack => "came_back",
            Note::Missed(n) => return self.count("heartbeats_missed", n),
        };
        self.count(what, 1);
    }

    fn tell_versions(&mut self) {
        for (version, reply) in std::mem::take(&mut self.named) {
            match self.bundles.iter().find(|(_, line)| line.version.as_deref() == Some(&version)) {
                Some((bundle, _)) => drop(reply.send(*bundle)),
                None => self.named.push((version, reply)),
            }
        }
    }

    fn node(&mut self, index: u32, status: NodeStatus) {
        let Some(slot) = self.board.get_mut(index as usize) else { return };
        let before = slot.replace(status);
        let mut i = 0;
        while i < self.waiters.len() {
            let w = &mut self.waiters[i];
            let held = before.as_ref().is_some_and(|s| (w.holds)(s));
            let holds = (w.holds)(&status);
            w.missing = (w.missing + usize::from(held)).saturating_sub(usize::from(holds));
            if w.missing == 0 {
                let done = self.waiters.swap_remove(i);
                let _ = done.reply.send(());
            } else {
                i += 1;
            }
        }
    }

    fn wait(&mut self, holds: Predicate, reply: oneshot::Sender<()>) {
        let missing = self.board.iter().filter(|s| !s.as_ref().is_some_and(&holds)).count();
        if missing == 0 {
            let _ = reply.send(());
        } else {
            self.waiters.retain(|w| !w.reply.is_closed());
            self.waiters.push(Waiter { holds, missing, reply });
        }
    }

    fn report(&self, now: Timestamp) -> FleetReport {
        let mut states = BTreeMap::new();
        let mut active: BTreeMap<String, u64> = BTreeMap::new();
        for s in self.board.iter().flatten() {
            *states.entry(s.state).or_default() += 1;
            *active.entry(bundle_name(s.active)).or_default() += 1;
        }
        let mut latencies = BTreeMap::new();
        for lane in [Lane::Register, Lane::Heartbeat, Lane::Poll, Lane::Report, Lane::Fetch] {
            if let Some(h) = &self.lanes[lane as usize] {
                latencies.insert(lane.name(), Latency::of(h));
            }
        }
        for (name, h) in [
            ("heartbeat_send_lag", &self.heartbeat_lag),
            ("wake_up", &self.wake_up),
            ("time_to_activate", &self.activate),
        ] {
            if let Some(h) = h {
                latencies.insert(name, Latency::of(h));
            }
        }
        let named =
            |(id, line): (&Option<ContentId>, &BundleLine)| BundleLine { bundle: bundle_name(*id), ..line.clone() };
        FleetReport {
            nodes: self.board.len() as u64,
            started_at: self.started,
            elapsed_s: now.since(self.started).as_secs_f64(),
            goal_reached: None,
            states,
            active,
            latencies,
            counts: self.counts.clone(),
            errors: self.errors.clone(),
            reasons: self.reasons.clone(),
            bundles: self.bundles.iter().map(named).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::agent::NodeState;

    fn status(state: NodeState) -> NodeStatus {
        NodeStatus { id: None, state, active: None, generation: 0, last_failed: None, traffic_weight: 100 }
    }

    #[test]
    fn a_node_that_leaves_what_was_waited_for_is_waited_for_again() {
        let mut book = Book::new(2, Timestamp::ZERO);
        book.node(0, status(NodeState::Idle));
        let (reply, mut done) = oneshot::channel();
        book.wait(Box::new(|s| s.state == NodeState::Idle), reply);
        book.node(0, status(NodeState::Offline));
        book.node(1, status(NodeState::Idle));
        assert!(done.try_recv().is_err(), "node 0 is not idle any more");
        book.node(1, status(NodeState::Idle));
        assert!(done.try_recv().is_err(), "node 1 was counted already");
        book.node(0, status(NodeState::Idle));
        done.try_recv().unwrap();
    }

    #[test]
    fn wake_ups_count_from_the_mark_or_from_the_first_node_told() {
        let told = |generation| Note::Ordered { bundle: None, version: None, rollout: None, generation };
        let mut book = Book::new(2, Timestamp::ZERO);
        book.note(Timestamp(1_000_000), told(1));
        book.note(Timestamp(3_000_000), told(1));
        let l = Latency::of(book.wake_up.as_ref().unwrap());
        assert!((1_999.0..2_003.0).contains(&l.max_ms), "{l:?}");
        book.mark = Some(Timestamp(2_000_000));
        book.note(Timestamp(9_000_000), told(2));
        let l = Latency::of(book.wake_up.as_ref().unwrap());
        assert!((6_990.0..7_010.0).contains(&l.max_ms), "{l:?}");
    }

    #[test]
    fn reasons_of_hostile_servers_are_capped() {
        let mut book = Book::new(1, Timestamp::ZERO);
        for i in 0..1_000 {
            book.note(Timestamp::ZERO, Note::Failed(format!("reason {i}")));
        }
        assert_eq!((book.reasons.len(), book.counts["failed"]), (MAX_REASONS, 1_000));
    }
}
