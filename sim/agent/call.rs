//! What a node asks of the world, what it is answered, and what it lets be known.

use crate::scenario::Behaviour;
use crate::verify::{Evidence, Proof};
use crate::wire::{CallError, Order, Report};
use api::node::{
    HeartbeatAnswer, HeartbeatRequest, PollAnswer, RegisterAnswer, RegisterRequest, ReportAnswer, ReportRequest,
};
use domain::{ContentId, NodeId, RolloutId, Span, Timestamp};
use std::sync::Arc;

/// Who a node is once it has registered.
#[derive(Debug, PartialEq, Eq)]
pub struct Identity {
    pub node: NodeId,
    pub key: Box<str>,
}

/// A request to be made now. `line` comes back with the answer: one from before a break counts for nothing.
#[derive(Clone, Debug)]
pub struct Call {
    pub line: u32,
    /// When it was meant to be sent: latencies count from here, so that a slow server cannot hide its queue.
    pub due: Timestamp,
    /// `None` before registration only.
    pub identity: Option<Arc<Identity>>,
    pub ask: Ask,
}

#[derive(Clone, Debug)]
pub enum Ask {
    Register(Box<RegisterRequest>),
    Heartbeat(Box<HeartbeatRequest>),
    /// `wait_s` 0: answer at once.
    Poll {
        wait_s: u32,
    },
    Report {
        bundle: Option<ContentId>,
        report: Report,
        body: Box<ReportRequest>,
    },
    /// Download, and check when there is evidence to check against.
    Fetch {
        order: Box<Order>,
        evidence: Option<Box<Evidence>>,
    },
}

impl Ask {
    /// At most one call of each lane is in flight.
    pub fn lane(&self) -> Lane {
        match self {
            Ask::Register(_) => Lane::Register,
            Ask::Heartbeat(_) => Lane::Heartbeat,
            Ask::Poll { .. } => Lane::Poll,
            Ask::Report { .. } => Lane::Report,
            Ask::Fetch { .. } => Lane::Fetch,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    Register = 0,
    Heartbeat = 1,
    Poll = 2,
    Report = 3,
    Fetch = 4,
}

impl Lane {
    pub const COUNT: usize = 5;

    pub fn name(self) -> &'static str {
        match self {
            Lane::Register => "register",
            Lane::Heartbeat => "heartbeat",
            Lane::Poll => "poll",
            Lane::Report => "report",
            Lane::Fetch => "download",
        }
    }

    /// The answer of a call on this lane that brought nothing.
    pub fn failed(self, e: CallError) -> Answer {
        match self {
            Lane::Register => Answer::Register(Err(e)),
            Lane::Heartbeat => Answer::Heartbeat(Err(e)),
            Lane::Poll => Answer::Poll(Err(e)),
            Lane::Report => Answer::Report(Err(e)),
            Lane::Fetch => Answer::Fetch(Err(FetchError::Call(e))),
        }
    }
}

/// Why a download did not lead to a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchError {
    Call(CallError),
    /// It came, and it is not what was assigned.
    Refused(String),
}

#[derive(Clone, Debug)]
pub enum Answer {
    Register(Result<Box<RegisterAnswer>, CallError>),
    Heartbeat(Result<HeartbeatAnswer, CallError>),
    Poll(Result<Box<PollAnswer>, CallError>),
    Report(Result<ReportAnswer, CallError>),
    Fetch(Result<Proof, FetchError>),
}

impl Answer {
    pub fn lane(&self) -> Lane {
        match self {
            Answer::Register(_) => Lane::Register,
            Answer::Heartbeat(_) => Lane::Heartbeat,
            Answer::Poll(_) => Lane::Poll,
            Answer::Report(_) => Lane::Report,
            Answer::Fetch(_) => Lane::Fetch,
        }
    }

    pub fn error(&self) -> Option<&CallError> {
        match self {
            Answer::Register(r) => r.as_ref().err(),
            Answer::Heartbeat(r) => r.as_ref().err(),
            Answer::Poll(r) => r.as_ref().err(),
            Answer::Report(r) => r.as_ref().err(),
            Answer::Fetch(Err(FetchError::Call(e))) => Some(e),
            Answer::Fetch(_) => None,
        }
    }
}

/// What tests and the demo do to a node from outside.
#[derive(Clone, Debug)]
pub enum Control {
    /// The net is gone: calls in flight break, local work goes on.
    GoOffline,
    ComeBack,
    /// The process ends and starts again: work in hand is lost, what was accepted is not.
    Restart,
    Behave(Arc<Behaviour>),
}

#[derive(Clone, Debug)]
pub enum Input {
    /// The time that [`super::Agent::next_wake`] named has come (or any other: early is harmless).
    Wake,
    Answer {
        line: u32,
        answer: Answer,
    },
    Control(Control),
}

/// What the shell has to do. Order matters.
#[derive(Clone, Debug)]
pub enum Action {
    Call(Box<Call>),
    /// Break every call in flight; their answers would count for nothing.
    HangUp,
    Note(Note),
}

/// Something worth counting. Times are lengths since the order was received.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    Registered,
    Dismissed(String),
    /// A poll answer named something new.
    Ordered {
        bundle: Option<ContentId>,
        version: Option<String>,
        rollout: Option<RolloutId>,
        generation: u64,
    },
    /// Ordered again what is in hand or done already.
    Repeated,
    /// Not followed: signature, generation, contents. The text begins with a stable code.
    Refused(String),
    Activated {
        bundle: Option<ContentId>,
        generation: u64,
        after: Span,
    },
    Verified,
    Failed(String),
    FellBack,
    Withdrawn,
    WeightChanged(u8),
    /// The control plane called a report stale.
    Stale,
    Died,
    WentOffline,
    CameBack,
    /// An answer that the contract does not allow.
    Misread(String),
    /// Heartbeats that were due while an earlier one was still unanswered.
    Missed(u64),
}
