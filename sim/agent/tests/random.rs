//! Random lives: whatever the control plane answers and whatever is done to the node, the invariants hold.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
enum Op {
    Pass(u32),
    /// Early wake-ups are harmless.
    Wake,
    /// Answer one open call of the lane, if there is one.
    Poll(Option<(Option<u8>, u64, u8)>),
    Fetch(Result<bool, bool>),
    Report(Result<bool, u16>),
    Beat(bool),
    Fail(u8, u16),
    /// An answer on a line that was cut, or that nobody asked for.
    Ghost(u8, u64),
    Control(u8),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        3 => (0u32..20_000).prop_map(Op::Pass),
        1 => Just(Op::Wake),
        4 => proptest::option::weighted(0.9, (proptest::option::weighted(0.85, 1u8..5), 0u64..12, prop_oneof![Just(100u8), Just(10)]))
            .prop_map(Op::Poll),
        4 => prop_oneof![4 => Just(Ok(true)), 1 => Just(Ok(false)), 1 => any::<bool>().prop_map(Err)].prop_map(Op::Fetch),
        6 => prop_oneof![5 => Just(Ok(true)), 1 => Just(Ok(false)), 1 => Just(Err(503u16)), 1 => Just(Err(404))].prop_map(Op::Report),
        2 => any::<bool>().prop_map(Op::Beat),
        1 => (0u8..4, prop_oneof![Just(500u16), Just(429), Just(409)]).prop_map(|(l, c)| Op::Fail(l, c)),
        1 => (1u8..5, 0u64..12).prop_map(|(b, g)| Op::Ghost(b, g)),
        1 => (0u8..4).prop_map(Op::Control),
    ];
    proptest::collection::vec(op, 0..120)
}

fn behaviours() -> impl Strategy<Value = Behaviour> {
    let reports = prop_oneof![2 => Just(Reports::All), 1 => Just(Reports::Brief), 1 => Just(Reports::None)];
    (reports, 0u32..3_000, 0u32..3_000, prop_oneof![Just(0.0), Just(0.3)], any::<[bool; 5]>()).prop_map(
        |(reports, apply, check, failure_rate, [dup, late, fall, die, offline])| Behaviour {
            reports,
            apply_delay: Span::millis(i64::from(apply)),
            check_delay: Span::millis(i64::from(check)),
            failure_rate,
            duplicate_reports: dup,
            late_reports: if late { Span::secs(2) } else { Span::ZERO },
            fall_back_on: if fall { Patterns::one("v2") } else { Patterns::default() },
            fail_on: Patterns::one("v4"),
            dies: die.then(|| Death {
                at: if late { Moment::Handover } else { Moment::Activation },
                silent_for: Some(Span::secs(5)),
                when: Patterns::one("v3"),
            }),
            offline: if offline { vec![Window { from: Span::secs(20), until: Some(Span::secs(30)) }] } else { vec![] },
            ..Behaviour::default()
        },
    )
}

/// What was seen so far, to hold the next step against.
#[derive(Default)]
struct Witness {
    proved: BTreeSet<(u64, Option<ContentId>)>,
    activated: BTreeMap<u64, Option<ContentId>>,
    named: BTreeMap<u64, Option<ContentId>>,
    generation: u64,
    notes: usize,
}

impl Witness {
    fn look(&mut self, b: &Bench, before: Option<ContentId>) {
        let s = b.agent.status();
        assert!(s.generation >= self.generation, "the accepted generation went down");
        self.generation = s.generation;
        let mut active = before;
        for note in &b.notes[self.notes..] {
            match note {
                Note::Ordered { bundle, generation, .. } => {
                    // The same generation may be taken up again (after a death), never for something else.
                    assert_eq!(self.named.entry(*generation).or_insert(*bundle), bundle);
                    if bundle.is_none() {
                        self.proved.insert((*generation, None));
                    }
                }
                Note::Activated { bundle, generation, .. } => {
                    assert!(self.proved.contains(&(*generation, *bundle)), "activated without proof: {note:?}");
                    assert_eq!(self.named.get(generation), Some(bundle), "activated what was not ordered");
                    assert!(self.activated.insert(*generation, *bundle).is_none(), "activated twice: {note:?}");
                    let newest = self.activated.keys().next_back();
                    assert_eq!(newest, Some(generation), "an older generation was activated after a newer one");
                    active = *bundle;
                }
                Note::FellBack => active = s.active,
                _ => {}
            }
        }
        self.notes = b.notes.len();
        assert_eq!(s.active, active, "the active bundle changed in silence");
        let mut lanes = BTreeSet::new();
        for c in &b.open {
            assert!(lanes.insert(c.ask.lane()), "two calls of one lane: {:?}", c.ask);
        }
        if s.is_away() {
            assert!(b.open.is_empty(), "{s:?} calls");
        }
    }
}

fn play(b: &mut Bench, w: &mut Witness, op: Op) {
    let has = |b: &Bench, lane| b.open_on(lane).is_some();
    match op {
        Op::Pass(ms) => b.pass(Span::millis(i64::from(ms))),
        Op::Wake => b.step(Input::Wake),
        Op::Poll(what) if has(b, Lane::Poll) => b.answer(Answer::Poll(Ok(Box::new(match what {
            None => no_update(),
            Some((bundle, generation, weight)) => {
                PollAnswer { traffic_weight: Some(weight), ..update(bundle, generation) }
            }
        })))),
        Op::Fetch(how) => {
            let Some(Ask::Fetch { order, .. }) = b.open_on(Lane::Fetch) else { return };
            let (generation, bundle) = (order.generation, order.bundle.unwrap());
            b.answer(Answer::Fetch(match how {
                Ok(true) => {
                    w.proved.insert((generation, Some(bundle)));
                    Ok(Proof::unchecked(bundle))
                }
                Ok(false) => Ok(Proof::unchecked(content(99))),
                Err(true) => Err(FetchError::Refused("artifact_hash".into())),
                Err(false) => Err(FetchError::Call(CallError::Timeout)),
            }));
        }
        Op::Report(how) if has(b, Lane::Report) => b.answer(Answer::Report(match how {
            Ok(proceed) => Ok(ReportAnswer { proceed, ..ok_report() }),
            Err(code) => Err(CallError::status(code, "no")),
        })),
        Op::Beat(poll_now) if has(b, Lane::Heartbeat) => {
            b.answer(Answer::Heartbeat(Ok(HeartbeatAnswer { poll_now, ..ok_beat() })));
        }
        Op::Fail(lane, code) => {
            let lane = [Lane::Heartbeat, Lane::Poll, Lane::Report, Lane::Fetch][lane as usize];
            if has(b, lane) {
                b.answer(lane.failed(CallError::status(code, "no")));
            }
        }
        Op::Ghost(bundle, generation) => {
            let line = b.agent.line.wrapping_sub(1);
            b.step(Input::Answer { line, answer: Answer::Poll(Ok(Box::new(update(Some(bundle), generation)))) });
            b.step(Input::Answer { line, answer: Answer::Fetch(Ok(Proof::unchecked(content(bundle)))) });
        }
        Op::Control(c) => b.step(Input::Control(match c {
            0 => Control::GoOffline,
            1 | 2 => Control::ComeBack,
            _ => Control::Restart,
        })),
        Op::Poll(_) | Op::Report(_) | Op::Beat(_) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_unproved_is_activated_one_bundle_at_a_time_and_generations_only_grow(
        behaviour in behaviours(), ops in ops()
    ) {
        let mut b = Bench::member(behaviour);
        let mut w = Witness::default();
        for op in ops {
            let before = b.active();
            play(&mut b, &mut w, op);
            w.look(&b, before);
        }
    }

    /// The same inputs with every answer of the control plane given twice end in the same place.
    #[test]
    fn doubled_answers_change_nothing(behaviour in behaviours(), ops in ops()) {
        let (mut once, mut twice) = (Bench::member(behaviour.clone()), Bench::member(behaviour));
        let (mut w1, mut w2) = (Witness::default(), Witness::default());
        for op in ops {
            // What was already answered is answered again: the call is closed, so nothing is open for it.
            let again = match (&op, twice.open_on(Lane::Poll)) {
                (Op::Poll(Some((bundle, generation, _))), Some(_)) => Some((*bundle, *generation)),
                _ => None,
            };
            let line = twice.agent.line;
            play(&mut once, &mut w1, op.clone());
            play(&mut twice, &mut w2, op);
            if let Some((bundle, generation)) = again && twice.open_on(Lane::Poll).is_none() {
                twice.step(Input::Answer { line, answer: Answer::Poll(Ok(Box::new(update(bundle, generation)))) });
            }
            let (a, b) = (once.agent.status(), twice.agent.status());
            prop_assert_eq!((a.active, a.generation), (b.active, b.generation));
        }
    }
}
