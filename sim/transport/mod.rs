//! How a node's calls travel: over HTTP, or in process to whatever the caller supplies.

pub mod http;

use crate::agent::{Ask, Call, Identity};
use crate::wire::{CallError, Report};
use api::node::{
    HeartbeatAnswer, HeartbeatRequest, PollAnswer, RegisterAnswer, RegisterRequest, ReportAnswer, ReportRequest,
};
use bytes::Bytes;
use domain::ContentId;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

pub use http::{Http, HttpOptions};

/// One call of one node.
#[derive(Clone, Debug)]
pub enum Request {
    Register {
        project: Arc<str>,
        token: Option<Arc<str>>,
        body: Box<RegisterRequest>,
    },
    Heartbeat {
        node: Arc<Identity>,
        body: Box<HeartbeatRequest>,
    },
    /// `wait_s` 0: answer at once.
    Poll {
        node: Arc<Identity>,
        wait_s: u32,
    },
    /// `bundle: None` is the baseline.
    Report {
        node: Arc<Identity>,
        bundle: Option<ContentId>,
        report: Report,
        body: Box<ReportRequest>,
    },
    /// The whole archive, at most `max_bytes`. Carries no credential: the address is signed.
    Download {
        url: String,
        max_bytes: u64,
    },
}

/// The answer to the [`Request`] of the same name.
#[derive(Clone, Debug)]
pub enum Response {
    Registered(Box<RegisterAnswer>),
    Heartbeat(HeartbeatAnswer),
    Poll(Box<PollAnswer>),
    Report(ReportAnswer),
    Archive(Bytes),
}

pub type Reply = Pin<Box<dyn Future<Output = Result<Response, CallError>> + Send>>;
/// A control plane in this process: tests and benchmarks call it directly.
pub type InProcess = Arc<dyn Fn(Request) -> Reply + Send + Sync>;

/// Cheap to clone; all clones share connections and limits.
#[derive(Clone)]
pub enum Transport {
    Http(Http),
    InProcess(InProcess),
}

impl Transport {
    /// A transport that calls `f`.
    pub fn in_process<F, R>(f: F) -> Transport
    where
        F: Fn(Request) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Response, CallError>> + Send + 'static,
    {
        Transport::InProcess(Arc::new(move |request| Box::pin(f(request))))
    }

    /// Sends one request. Its deadline is the caller's; dropping the future breaks the call.
    pub fn send(&self, request: Request) -> Reply {
        match self {
            Transport::Http(http) => http.send(request),
            Transport::InProcess(f) => f(request),
        }
    }
}

/// The request of a call; `None` for a download, which the fleet's library makes.
pub(crate) fn request(call: Call, project: &Arc<str>, token: &Option<Arc<str>>) -> Option<Request> {
    let node = call.identity;
    match call.ask {
        Ask::Register(body) => Some(Request::Register { project: project.clone(), token: token.clone(), body }),
        Ask::Heartbeat(body) => Some(Request::Heartbeat { node: node?, body }),
        Ask::Poll { wait_s } => Some(Request::Poll { node: node?, wait_s }),
        Ask::Report { bundle, report, body } => Some(Request::Report { node: node?, bundle, report, body }),
        Ask::Fetch { .. } => None,
    }
}
