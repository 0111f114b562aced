//! The actor that drives simulated nodes: one each, or a few dozen in fleets where an actor per node would cost gigabytes.
//!
//! Owns: the agents, their calls in flight, one timer. All decisions are [`Agent`]'s; this is plumbing.

use crate::agent::{Action, Agent, Answer, Ask, Call, Control, Input, Lane, NodeStatus};
use crate::clock::Clock;
use crate::library::{DOWNLOAD_DEADLINE, LibraryMsg, Wanted};
use crate::recorder::{RecorderMsg, Sample};
use crate::task;
use crate::transport::{Response, Transport, request};
use crate::wire::CallError;
use domain::Timestamp;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

/// No answer to a short call for this long is no answer.
const CALL_DEADLINE: Duration = Duration::from_secs(30);
/// A held poll is answered at its end; this much later at the latest.
const POLL_GRACE: Duration = Duration::from_secs(15);

/// What every node of a fleet calls through.
pub(crate) struct Surroundings {
    pub clock: Clock,
    pub transport: Transport,
    pub project: Arc<str>,
    pub token: Option<Arc<str>>,
    pub recorder: ActorRef<RecorderMsg>,
    pub library: ActorRef<LibraryMsg>,
}

pub(crate) enum NodeMsg {
    /// The timer: something may be due.
    Wake,
    Answer {
        slot: u32,
        line: u32,
        answer: Answer,
    },
    Control {
        slot: u32,
        control: Control,
    },
}

pub(crate) struct NodeArgs {
    pub around: Arc<Surroundings>,
    /// Number of the first agent in the fleet; the others follow.
    pub first: u32,
    pub agents: Vec<Agent>,
}

pub(crate) struct NodeActor;

pub(crate) struct Cohort {
    around: Arc<Surroundings>,
    first: u32,
    seats: Vec<Seat>,
    /// When seats want to be woken; entries that no longer hold are skipped.
    due: BinaryHeap<Reverse<(Timestamp, u32)>>,
    timer: Option<(Timestamp, AbortHandle)>,
    actions: Vec<Action>,
}

struct Seat {
    agent: Agent,
    told: Option<NodeStatus>,
    wake: Option<Timestamp>,
    calls: [Option<AbortHandle>; Lane::COUNT],
}

impl Actor for NodeActor {
    type Msg = NodeMsg;
    type State = Cohort;
    type Arguments = NodeArgs;

    async fn pre_start(&self, myself: ActorRef<NodeMsg>, args: NodeArgs) -> Result<Cohort, ActorProcessingErr> {
        let seats: Vec<Seat> = args
            .agents
            .into_iter()
            .map(|agent| Seat { agent, told: None, wake: None, calls: Default::default() })
            .collect();
        let mut cohort = Cohort {
            around: args.around,
            first: args.first,
            due: BinaryHeap::with_capacity(seats.len()),
            seats,
            timer: None,
            actions: Vec::new(),
        };
        for slot in 0..cohort.seats.len() {
            cohort.step(&myself, slot, Input::Wake);
        }
        cohort.arm(&myself);
        Ok(cohort)
    }

    async fn handle(
        &self,
        myself: ActorRef<NodeMsg>,
        msg: NodeMsg,
        cohort: &mut Cohort,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            NodeMsg::Wake => cohort.wake(&myself),
            NodeMsg::Answer { slot, line, answer } => {
                cohort.step(&myself, slot as usize, Input::Answer { line, answer })
            }
            NodeMsg::Control { slot, control } => cohort.step(&myself, slot as usize, Input::Control(control)),
        }
        cohort.arm(&myself);
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<NodeMsg>, cohort: &mut Cohort) -> Result<(), ActorProcessingErr> {
        for seat in &mut cohort.seats {
            seat.hang_up();
        }
        if let Some((_, timer)) = cohort.timer.take() {
            timer.abort();
        }
        Ok(())
    }
}

impl Seat {
    fn hang_up(&mut self) {
        for call in &mut self.calls {
            if let Some(c) = call.take() {
                c.abort();
            }
        }
    }
}

impl Cohort {
    fn wake(&mut self, myself: &ActorRef<NodeMsg>) {
        self.timer = None;
        let now = self.around.clock.now();
        while let Some(&Reverse((at, slot))) = self.due.peek() {
            if at > now {
                break;
            }
            self.due.pop();
            let seat = &mut self.seats[slot as usize];
            if seat.wake == Some(at) {
                seat.wake = None;
                self.step(myself, slot as usize, Input::Wake);
            }
        }
    }

    fn step(&mut self, myself: &ActorRef<NodeMsg>, slot: usize, input: Input) {
        let now = self.around.clock.now();
        let mut actions = std::mem::take(&mut self.actions);
        let Some(seat) = self.seats.get_mut(slot) else { return };
        seat.agent.step(now, input, &mut actions);
        for action in actions.drain(..) {
            match action {
                Action::Call(call) => {
                    let lane = call.ask.lane();
                    let handle = place(&self.around, myself, slot as u32, now, *call);
                    seat.calls[lane as usize] = Some(handle);
                }
                Action::HangUp => seat.hang_up(),
                Action::Note(note) => tell(&self.around, Sample::Note { at: now, note }),
            }
        }
        self.actions = actions;
        let status = seat.agent.status();
        if seat.told != Some(status) {
            seat.told = Some(status);
            // Only a fleet that is being stopped has no recorder.
            let _ = self.around.recorder.cast(RecorderMsg::Node { index: self.first + slot as u32, status });
        }
        let wake = seat.agent.next_wake();
        if wake != seat.wake {
            seat.wake = wake;
            if let Some(at) = wake {
                self.due.push(Reverse((at, slot as u32)));
            }
        }
    }

    /// One timer for the earliest wish. A timer that fires for nothing is harmless.
    fn arm(&mut self, myself: &ActorRef<NodeMsg>) {
        while let Some(&Reverse((at, slot))) = self.due.peek() {
            if self.seats[slot as usize].wake == Some(at) {
                break;
            }
            self.due.pop();
        }
        let Some(&Reverse((at, _))) = self.due.peek() else { return };
        match &self.timer {
            Some((set, _)) if *set <= at => return,
            Some((_, later)) => later.abort(),
            None => {}
        }
        let myself = myself.clone();
        let instant = self.around.clock.instant(at);
        let handle = task::start(async move {
            tokio::time::sleep_until(instant).await;
            let _ = myself.cast(NodeMsg::Wake);
        });
        self.timer = Some((at, handle));
    }
}

fn tell(around: &Surroundings, sample: Sample) {
    let _ = around.recorder.cast(RecorderMsg::Sample(sample));
}

/// Answers exactly once, whatever happens to the task that makes the call.
struct Promise {
    myself: ActorRef<NodeMsg>,
    slot: u32,
    line: u32,
    lane: Lane,
    kept: bool,
}

impl Promise {
    fn keep(mut self, answer: Answer) {
        self.kept = true;
        let _ = self.myself.cast(NodeMsg::Answer { slot: self.slot, line: self.line, answer });
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if !self.kept {
            // Hung up (then the line has changed and this counts for nothing), or the transport panicked.
            let answer = self.lane.failed(CallError::Connection("the call was broken off".into()));
            let _ = self.myself.cast(NodeMsg::Answer { slot: self.slot, line: self.line, answer });
        }
    }
}

fn place(around: &Arc<Surroundings>, myself: &ActorRef<NodeMsg>, slot: u32, now: Timestamp, call: Call) -> AbortHandle {
    let lane = call.ask.lane();
    let promise = Promise { myself: myself.clone(), slot, line: call.line, lane, kept: false };
    let due = call.due;
    let held = matches!(call.ask, Ask::Poll { wait_s } if wait_s > 0);
    let around = around.clone();
    let lag = now.since(due);
    match call.ask {
        Ask::Fetch { order, evidence } => task::start(async move {
            let (reply, outcome) = oneshot::channel();
            let _ = around.library.cast(LibraryMsg::Get(Wanted { order, evidence, reply }));
            // The library has its own deadline and tells; this one is for a library that has ended.
            let outcome = match tokio::time::timeout(DOWNLOAD_DEADLINE * 2, outcome).await {
                Ok(Ok(outcome)) => Answer::Fetch(outcome),
                Ok(Err(_)) | Err(_) => lane.failed(CallError::Timeout),
            };
            if let Some(e) = outcome.error() {
                tell(&around, Sample::Error { lane, label: e.label() });
            }
            promise.keep(outcome);
        }),
        _ => {
            let deadline = match call.ask {
                Ask::Poll { wait_s } if wait_s > 0 => Duration::from_secs(u64::from(wait_s)) + POLL_GRACE,
                _ => CALL_DEADLINE,
            };
            let Some(request) = request(call, &around.project, &around.token) else {
                return task::start(async move { drop(promise) });
            };
            // Made here, so that the task holds one small future and not the request as well.
            let sent = around.transport.send(request);
            task::start(async move {
                let result = tokio::time::timeout(deadline, sent).await.unwrap_or(Err(CallError::Timeout));
                let answer = answer(lane, result);
                match answer.error() {
                    None => {
                        let took = around.clock.now().since(due);
                        tell(&around, Sample::Answered { lane, took, lag, held });
                    }
                    Some(e) => tell(&around, Sample::Error { lane, label: e.label() }),
                }
                promise.keep(answer);
            })
        }
    }
}

fn answer(lane: Lane, result: Result<Response, CallError>) -> Answer {
    match (lane, result) {
        (_, Err(e)) => lane.failed(e),
        (Lane::Register, Ok(Response::Registered(a))) => Answer::Register(Ok(a)),
        (Lane::Heartbeat, Ok(Response::Heartbeat(a))) => Answer::Heartbeat(Ok(a)),
        (Lane::Poll, Ok(Response::Poll(a))) => Answer::Poll(Ok(a)),
        (Lane::Report, Ok(Response::Report(a))) => Answer::Report(Ok(a)),
        (lane, Ok(_)) => {
            lane.failed(CallError::Malformed(format!("the transport answered {} with something else", lane.name())))
        }
    }
}
