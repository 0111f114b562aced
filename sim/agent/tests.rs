#![allow(clippy::unwrap_used)]
//! The pure node alone: a bench that plays the control plane, answer by answer.

mod random;

use super::*;
use crate::scenario::{Behaviour, Death, Moment, Patterns, Window};
use api::node::{HeartbeatAnswer, PollAnswer, ReportAnswer};

const T0: Timestamp = Timestamp(1_000_000_000_000);

pub(super) fn content(n: u8) -> ContentId {
    Digest([n; 32])
}

pub(super) fn no_update() -> PollAnswer {
    PollAnswer { no_update: true, poll_after_s: 5, ..PollAnswer::default() }
}

pub(super) fn update(bundle: Option<u8>, generation: u64) -> PollAnswer {
    PollAnswer {
        bundle_id: Some(bundle.map(|n| content(n).to_string())),
        version: bundle.map(|n| format!("v{n}")),
        generation: Some(generation),
        artifact_url: bundle.map(|n| format!("http://cp/{n}")),
        artifact_hash: bundle.map(|n| content(n).prefixed()),
        traffic_weight: Some(100),
        poll_after_s: 5,
        ..PollAnswer::default()
    }
}

pub(super) fn ok_report() -> ReportAnswer {
    ReportAnswer { state: "x".into(), proceed: true, heartbeat_now: false, stale: false }
}

pub(super) fn ok_beat() -> HeartbeatAnswer {
    HeartbeatAnswer {
        status: "ok".into(),
        node_id: NodeId::NIL,
        last_seen_at: T0,
        heartbeat_after_s: 10,
        poll_now: false,
    }
}

pub(super) fn registered() -> RegisterAnswer {
    RegisterAnswer {
        project_id: None,
        node_id: NodeId::NIL,
        node_token: "k".into(),
        node_key: "k".into(),
        poll_interval_s: 10,
        heartbeat_interval_s: 10,
        trust: serde_json::Value::Null,
        trust_chain: Vec::new(),
    }
}

pub(super) fn quiet() -> Arc<Profile> {
    Arc::new(Profile { verify: false, jitter: 0.0, reconnect_spread: Span::ZERO, ..Profile::default() })
}

/// One node, its clock, and the calls it has open.
struct Bench {
    agent: Agent,
    now: Timestamp,
    open: Vec<Call>,
    notes: Vec<Note>,
    hung_up: usize,
}

impl Bench {
    fn new(behaviour: Behaviour) -> Bench {
        let agent = Agent::new(quiet(), Arc::new(behaviour), "n", Labels::new(), T0, Dice::new(1, 1));
        let mut b = Bench { agent, now: T0, open: Vec::new(), notes: Vec::new(), hung_up: 0 };
        b.step(Input::Wake);
        b
    }

    /// Registered, and its poll is open.
    fn member(behaviour: Behaviour) -> Bench {
        let mut b = Bench::new(behaviour);
        b.answer(Answer::Register(Ok(Box::new(registered()))));
        b
    }

    fn step(&mut self, input: Input) {
        let mut out = Vec::new();
        self.agent.step(self.now, input, &mut out);
        for a in out {
            match a {
                Action::Call(c) => self.open.push(*c),
                Action::HangUp => {
                    self.open.clear();
                    self.hung_up += 1;
                }
                Action::Note(n) => self.notes.push(n),
            }
        }
    }

    fn answer(&mut self, answer: Answer) {
        let at = self.open.iter().position(|c| c.ask.lane() == answer.lane());
        let call = self.open.remove(at.unwrap_or_else(|| panic!("no open call for {answer:?}")));
        self.step(Input::Answer { line: call.line, answer });
    }

    /// Goes to the next wake until `span` has passed.
    fn pass(&mut self, span: Span) {
        let end = self.now + span;
        while let Some(at) = self.agent.next_wake().filter(|&at| at <= end) {
            assert!(at >= self.now || self.agent.next_wake().is_some());
            self.now = self.now.max(at);
            self.step(Input::Wake);
        }
        self.now = end;
    }

    fn open_on(&self, lane: Lane) -> Option<&Ask> {
        self.open.iter().map(|c| &c.ask).find(|a| a.lane() == lane)
    }

    fn report(&self) -> Option<Report> {
        match self.open_on(Lane::Report)? {
            Ask::Report { report, .. } => Some(*report),
            _ => None,
        }
    }

    fn poll(&mut self, answer: PollAnswer) {
        if self.open_on(Lane::Poll).is_none() {
            self.pass(Span::secs(6));
        }
        self.answer(Answer::Poll(Ok(Box::new(answer))));
    }

    fn fetched(&mut self, n: u8) {
        self.answer(Answer::Fetch(Ok(Proof::unchecked(content(n)))));
    }

    /// Answers every report with `ok` and says which they were.
    fn reports(&mut self) -> Vec<Report> {
        let mut seen = Vec::new();
        while let Some(r) = self.report() {
            seen.push(r);
            self.answer(Answer::Report(Ok(ok_report())));
        }
        seen
    }

    fn beat(&self) -> &api::node::HeartbeatRequest {
        match self.open_on(Lane::Heartbeat).expect("a heartbeat is open") {
            Ask::Heartbeat(h) => h,
            _ => unreachable!(),
        }
    }

    fn active(&self) -> Option<ContentId> {
        self.agent.status().active
    }
}

use Report::{Activated, Downloaded, Failed, Staged, Verified};

#[test]
fn an_update_goes_through_every_report_in_order() {
    let mut b = Bench::member(Behaviour::default());
    b.poll(update(Some(1), 1));
    b.fetched(1);
    assert_eq!(b.reports(), [Downloaded, Staged, Activated, Verified]);
    assert_eq!((b.active(), b.agent.status().state), (Some(content(1)), NodeState::Idle));
    assert!(b.open_on(Lane::Poll).is_some(), "it asks at once what is next");
}

#[test]
fn nothing_is_switched_before_proceed_and_a_withdrawn_one_never() {
    let mut b = Bench::member(Behaviour::default());
    b.poll(update(Some(1), 1));
    b.fetched(1);
    b.answer(Answer::Report(Ok(ok_report())));
    b.pass(Span::secs(3));
    assert_eq!((b.report(), b.active()), (Some(Staged), None));
    b.answer(Answer::Report(Ok(ReportAnswer { proceed: false, ..ok_report() })));
    assert_eq!(b.notes.last(), Some(&Note::Withdrawn));
    b.pass(Span::secs(3));
    assert_eq!((b.active(), b.agent.status().state), (None, NodeState::Idle));
}

#[test]
fn a_failed_activation_leaves_the_bundle_before_in_service() {
    let mut b = Bench::member(Behaviour { fail_on: Patterns::one("v2"), ..Behaviour::default() });
    b.poll(update(Some(1), 1));
    b.fetched(1);
    b.reports();
    b.poll(update(Some(2), 2));
    b.fetched(2);
    assert_eq!(b.reports(), [Downloaded, Staged, Failed]);
    let s = b.agent.status();
    assert_eq!((s.active, s.last_failed, s.generation), (Some(content(1)), Some(content(2)), 2));
    // The same order again is not tried again.
    b.poll(update(Some(2), 2));
    assert!(b.open_on(Lane::Fetch).is_none());
    assert_eq!(b.beat().active_bundle_id, Some(Some(content(1).to_string())));
}

#[test]
fn a_node_that_only_sends_heartbeats_tells_by_them_before_it_polls() {
    let mut b = Bench::member(Behaviour { reports: Reports::None, ..Behaviour::default() });
    b.poll(update(Some(1), 1));
    b.fetched(1);
    assert_eq!(b.active(), Some(content(1)));
    assert!(b.open_on(Lane::Report).is_none());
    assert!(b.open_on(Lane::Poll).is_none());
    assert_eq!(b.beat().active_bundle_id, Some(Some(content(1).to_string())));
    b.answer(Answer::Heartbeat(Ok(ok_beat())));
    assert!(b.open_on(Lane::Poll).is_some());
}

#[test]
fn null_is_the_baseline_and_needs_no_download() {
    let mut b = Bench::member(Behaviour::default());
    b.poll(update(Some(1), 1));
    b.fetched(1);
    b.reports();
    b.poll(update(None, 2));
    assert!(b.open_on(Lane::Fetch).is_none());
    assert_eq!(b.reports(), [Downloaded, Staged, Activated, Verified]);
    assert_eq!(b.active(), None);
    b.pass(Span::secs(20));
    assert_eq!(b.beat().active_bundle_id, Some(Some("baseline".into())));
}

#[test]
fn a_changed_weight_is_answered_by_a_heartbeat_without_a_download() {
    let mut b = Bench::member(Behaviour::default());
    b.poll(update(Some(1), 1));
    b.fetched(1);
    b.reports();
    if b.open_on(Lane::Heartbeat).is_some() {
        b.answer(Answer::Heartbeat(Ok(ok_beat())));
    }
    b.poll(PollAnswer { traffic_weight: Some(10), ..update(Some(1), 2) });
    assert!(b.open_on(Lane::Fetch).is_none());
    assert_eq!(b.beat().metrics.unwrap().traffic_weight, Some(10));
    assert_eq!(b.beat().generation, Some(2));
}

#[test]
fn an_older_generation_and_a_reused_one_are_refused() {
    let mut b = Bench::member(Behaviour::default());
    b.poll(update(Some(1), 5));
    b.fetched(1);
    b.reports();
    for (answer, code) in [(update(Some(2), 4), "stale_generation"), (update(Some(2), 5), "generation_reused")] {
        b.poll(answer);
        assert!(matches!(b.notes.last(), Some(Note::Refused(why)) if why.starts_with(code)), "{:?}", b.notes.last());
        assert_eq!(b.reports(), [Failed]);
        assert_eq!((b.active(), b.agent.status().generation), (Some(content(1)), 5));
    }
}

#[test]
fn a_newer_order_replaces_the_one_in_hand_and_late_answers_of_the_old_one_count_for_nothing() {
    let mut b = Bench::member(Behaviour::default());
    b.poll(update(Some(1), 1));
    b.poll(update(Some(2), 2));
    // The download of the first comes, and so does a refusal of its contents.
    b.fetched(1);
    b.fetched(2);
    assert_eq!(b.reports(), [Downloaded, Staged, Activated, Verified]);
    assert_eq!(b.active(), Some(content(2)));
    assert!(!b.notes.iter().any(|n| matches!(n, Note::Activated { bundle, .. } if *bundle == Some(content(1)))));
}

#[test]
fn a_node_offline_by_script_hangs_up_and_comes_back() {
    let window = Window { from: Span::secs(10), until: Some(Span::secs(40)) };
    let mut b = Bench::member(Behaviour { offline: vec![window], ..Behaviour::default() });
    b.pass(Span::secs(11));
    assert_eq!((b.agent.status().state, b.hung_up), (NodeState::Offline, 1));
    assert!(b.open.is_empty());
    b.pass(Span::secs(28));
    assert!(b.open.is_empty());
    b.pass(Span::secs(2));
    assert!(b.open_on(Lane::Poll).is_some() && b.open_on(Lane::Heartbeat).is_some());
}

#[test]
fn a_node_that_dies_after_hand_over_does_its_work_after_it_revives() {
    let death = Death { at: Moment::Handover, silent_for: Some(Span::secs(30)), when: Patterns::default() };
    let mut b = Bench::member(Behaviour { dies: Some(death), ..Behaviour::default() });
    b.poll(update(Some(1), 1));
    assert_eq!(b.agent.status().state, NodeState::Dead);
    b.pass(Span::secs(29));
    assert!(b.open.is_empty());
    b.pass(Span::secs(2));
    b.poll(update(Some(1), 1));
    b.fetched(1);
    assert_eq!(b.reports(), [Downloaded, Staged, Activated, Verified]);
}

#[test]
fn a_node_that_dies_for_ever_makes_no_more_calls() {
    let death = Death { at: Moment::Activation, silent_for: None, when: Patterns::one("v1") };
    let mut b = Bench::member(Behaviour { dies: Some(death), ..Behaviour::default() });
    b.poll(update(Some(1), 1));
    b.fetched(1);
    assert_eq!(b.reports(), [Downloaded, Staged]);
    assert_eq!((b.agent.status().state, b.agent.next_wake()), (NodeState::Dead, None));
    assert_eq!(b.active(), None);
}

#[test]
fn a_node_that_fails_its_own_check_goes_back_by_itself() {
    let mut b = Bench::member(Behaviour {
        fall_back_on: Patterns::one("v2"),
        check_delay: Span::secs(3),
        ..Behaviour::default()
    });
    b.poll(update(Some(1), 1));
    b.fetched(1);
    b.reports();
    b.pass(Span::secs(3));
    assert_eq!(b.reports(), [Verified]);
    b.poll(update(Some(2), 2));
    b.fetched(2);
    assert_eq!(b.reports(), [Downloaded, Staged, Activated]);
    assert_eq!(b.active(), Some(content(2)));
    b.pass(Span::secs(3));
    assert_eq!(b.reports(), [Failed]);
    assert_eq!(b.active(), Some(content(1)));
}

#[test]
fn an_unhealthy_bundle_is_not_reported_verified_and_the_heartbeat_says_so() {
    let mut b = Bench::member(
        Scenario::parse("[default]\nwith_bundle=[{version=\"v1\", health=\"unhealthy\", error_rate=50.0}]")
            .unwrap()
            .behaviour(&Behaviour::default(), 1, "n", &Labels::new()),
    );
    b.poll(update(Some(1), 1));
    b.fetched(1);
    assert_eq!(b.reports(), [Downloaded, Staged, Activated]);
    if b.open_on(Lane::Heartbeat).is_some() {
        b.answer(Answer::Heartbeat(Ok(ok_beat())));
    }
    b.pass(Span::secs(10));
    assert_eq!(b.beat().health.as_ref().unwrap().status, "unhealthy");
    let m = b.beat().metrics.unwrap();
    assert_eq!(m.error_rate, Some(50.0));
    assert!(m.request_count.unwrap() > 0 && m.error_count.unwrap() > 0);
}

use crate::scenario::Scenario;

#[test]
fn reports_are_repeated_until_they_arrive_and_doubled_when_scripted() {
    let mut b = Bench::member(Behaviour { duplicate_reports: true, ..Behaviour::default() });
    b.poll(update(Some(1), 1));
    b.fetched(1);
    b.answer(Answer::Report(Err(CallError::Timeout)));
    assert_eq!(b.report(), None);
    b.pass(Span::secs(2));
    assert_eq!(b.reports(), [Downloaded, Downloaded, Staged, Staged, Activated, Activated, Verified, Verified]);
}

#[test]
fn retry_after_is_honoured() {
    let mut b = Bench::member(Behaviour::default());
    let busy = CallError::Status { code: 503, retry_after: Some(Span::secs(20)), error: "busy".into() };
    b.answer(Answer::Poll(Err(busy)));
    b.pass(Span::secs(19));
    assert!(b.open_on(Lane::Poll).is_none());
    b.pass(Span::secs(7));
    assert!(b.open_on(Lane::Poll).is_some());
}

#[test]
fn a_download_that_cannot_be_had_is_no_fault_of_the_bundle_and_is_taken_up_when_it_is_named_again() {
    let mut b = Bench::member(Behaviour::default());
    b.poll(update(Some(1), 1));
    for _ in 0..MAX_FETCHES {
        if b.open_on(Lane::Fetch).is_none() {
            b.pass(MAX_BACKOFF);
        }
        b.answer(Answer::Fetch(Err(FetchError::Call(CallError::Timeout))));
    }
    assert_eq!(b.reports(), [], "it has not failed");
    b.pass(MAX_BACKOFF);
    b.poll(update(Some(1), 1));
    if b.open_on(Lane::Fetch).is_none() {
        b.pass(MAX_BACKOFF);
    }
    b.fetched(1);
    assert_eq!(b.reports().first(), Some(&Downloaded));
}

#[test]
fn poll_now_and_heartbeat_now_are_followed_at_once() {
    let mut b = Bench::member(Behaviour::default());
    b.poll(no_update());
    b.pass(Span::secs(4));
    assert!(b.open_on(Lane::Poll).is_none());
    if b.open_on(Lane::Heartbeat).is_none() {
        b.pass(Span::secs(10));
    }
    b.open.retain(|c| c.ask.lane() == Lane::Heartbeat);
    b.agent.lanes = 1 << Lane::Heartbeat as u8;
    b.agent.next_poll = b.now + Span::secs(100);
    b.answer(Answer::Heartbeat(Ok(HeartbeatAnswer { poll_now: true, ..ok_beat() })));
    b.poll(update(Some(1), 1));
    b.fetched(1);
    b.answer(Answer::Report(Ok(ReportAnswer { heartbeat_now: true, ..ok_report() })));
    assert!(b.open_on(Lane::Heartbeat).is_some());
}

#[test]
fn a_poll_held_to_its_end_is_repeated_at_once_and_one_answered_early_when_it_was_told() {
    let mut b = Bench::member(Behaviour::default());
    b.pass(Span::secs(30));
    b.answer(Answer::Poll(Ok(Box::new(no_update()))));
    assert!(b.open_on(Lane::Poll).is_some());
    b.pass(Span::secs(2));
    b.answer(Answer::Poll(Ok(Box::new(no_update()))));
    b.pass(Span::millis(4_900));
    assert!(b.open_on(Lane::Poll).is_none());
    b.pass(Span::millis(200));
    assert!(b.open_on(Lane::Poll).is_some());
}

#[test]
fn a_revoked_node_stops_calling_and_a_refused_name_never_starts() {
    let mut b = Bench::member(Behaviour::default());
    b.answer(Answer::Poll(Err(CallError::status(401, "revoked"))));
    assert_eq!((b.agent.status().state, b.agent.next_wake()), (NodeState::Dismissed, None));
    let mut b = Bench::new(Behaviour::default());
    b.answer(Answer::Register(Err(CallError::status(409, "name_taken"))));
    assert_eq!(b.agent.status().state, NodeState::Dismissed);
    let mut b = Bench::new(Behaviour::default());
    b.answer(Answer::Register(Err(CallError::status(503, "starting"))));
    b.pass(Span::secs(2));
    assert!(b.open_on(Lane::Register).is_some());
}

#[test]
fn a_slow_server_does_not_shift_the_heartbeat_schedule() {
    let mut b = Bench::member(Behaviour::default());
    b.pass(Span::secs(10));
    let first = b.open.iter().find(|c| c.ask.lane() == Lane::Heartbeat).unwrap().due;
    b.pass(Span::secs(7));
    b.answer(Answer::Heartbeat(Ok(ok_beat())));
    b.pass(Span::secs(10));
    let second = b.open.iter().find(|c| c.ask.lane() == Lane::Heartbeat).unwrap().due;
    assert_eq!(second.since(first), Span::secs(10));
}

#[test]
fn a_restart_is_a_new_instance_that_counts_from_one() {
    let mut b = Bench::member(Behaviour::default());
    b.pass(Span::secs(10));
    let (instance, epoch) = (b.beat().instance.clone(), b.beat().metrics.unwrap().counter_epoch);
    b.step(Input::Control(Control::Restart));
    b.pass(Span::secs(10));
    assert_ne!(b.beat().instance, instance);
    assert_ne!(b.beat().metrics.unwrap().counter_epoch, epoch);
    assert_eq!(b.beat().seq, Some(1));
}
