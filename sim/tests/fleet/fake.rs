//! A control plane of a hundred lines, for the fleet to talk to: one desired bundle per node, no database, no rules.

use api::node::{HeartbeatAnswer, HeartbeatRequest, PollAnswer, RegisterAnswer, ReportAnswer};
use bytes::Bytes;
use domain::{Digest, NodeId, Timestamp};
use sim::transport::{Request, Response};
use sim::wire::{CallError, Report};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// A bundle that can be handed out.
#[derive(Clone)]
pub struct Ware {
    pub content: Digest,
    pub version: String,
    pub archive: Bytes,
}

#[derive(Clone, Default)]
pub struct Seen {
    pub name: String,
    pub heartbeats: Vec<HeartbeatRequest>,
    pub reports: Vec<(Option<Digest>, Report)>,
    pub polls: usize,
    active: Option<Digest>,
    desired: Option<(Ware, u64)>,
    failed: u64,
}

/// Makes the signed assignment of an update; `None` without verification.
pub type Signer = Box<dyn Fn(NodeId, &Ware, u64) -> serde_json::Value + Send + Sync>;

#[derive(Default)]
struct State {
    nodes: HashMap<NodeId, Seen>,
    wares: BTreeMap<String, Ware>,
    downloads: usize,
    /// The next calls of this kind are answered with this status.
    refuse: Option<(&'static str, usize, u16)>,
}

pub struct Fake {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    pub trust: serde_json::Value,
    pub signer: Option<Signer>,
    /// In front of artifact paths.
    pub origin: String,
}

impl Fake {
    pub fn new() -> Fake {
        Fake {
            state: Mutex::default(),
            changed: watch::channel(0).0,
            trust: serde_json::Value::Null,
            signer: None,
            origin: String::new(),
        }
    }

    /// Every node (or those of the names) shall run `ware`.
    pub fn roll_out(&self, ware: &Ware, names: Option<&[&str]>) {
        let mut s = self.state.lock().unwrap();
        s.wares.insert(ware.content.to_string(), ware.clone());
        for n in s.nodes.values_mut().filter(|n| names.is_none_or(|l| l.contains(&n.name.as_str()))) {
            let generation = n.desired.as_ref().map_or(0, |d| d.1) + 1;
            n.desired = Some((ware.clone(), generation));
        }
        drop(s);
        self.changed.send_modify(|v| *v += 1);
    }

    pub fn refuse_next(&self, kind: &'static str, times: usize, code: u16) {
        self.state.lock().unwrap().refuse = Some((kind, times, code));
    }

    pub fn downloads(&self) -> usize {
        self.state.lock().unwrap().downloads
    }

    pub fn seen(&self, name: &str) -> Seen {
        self.state.lock().unwrap().nodes.values().find(|n| n.name == name).cloned().unwrap_or_default()
    }

    pub fn registered(&self) -> usize {
        self.state.lock().unwrap().nodes.len()
    }

    fn refusal(&self, kind: &'static str) -> Option<CallError> {
        let mut s = self.state.lock().unwrap();
        match &mut s.refuse {
            Some((k, times, code)) if *k == kind && *times > 0 => {
                *times -= 1;
                Some(CallError::status(*code, "as the test wants it"))
            }
            _ => None,
        }
    }

    pub async fn handle(self: Arc<Fake>, request: Request) -> Result<Response, CallError> {
        match request {
            Request::Register { body, token, .. } => {
                if let Some(e) = self.refusal("register") {
                    return Err(e);
                }
                if token.as_deref() == Some("wrong") {
                    return Err(CallError::status(401, "unknown enrolment token"));
                }
                let mut s = self.state.lock().unwrap();
                let node = NodeId::from(uuid_of(&body.name));
                s.nodes.insert(node, Seen { name: body.name.clone(), ..Seen::default() });
                Ok(Response::Registered(Box::new(RegisterAnswer {
                    project_id: Some(domain::ProjectId::NIL),
                    node_id: node,
                    node_token: format!("key of {}", body.name),
                    node_key: format!("key of {}", body.name),
                    poll_interval_s: 5,
                    heartbeat_interval_s: 5,
                    trust: self.trust.clone(),
                    trust_chain: Vec::new(),
                })))
            }
            Request::Heartbeat { node, body } => {
                if let Some(e) = self.refusal("heartbeat") {
                    return Err(e);
                }
                let mut s = self.state.lock().unwrap();
                let n = s.nodes.get_mut(&node.node).ok_or_else(|| CallError::status(401, "no such node"))?;
                assert_eq!(&*node.key, format!("key of {}", n.name));
                if let Some(Some(active)) = &body.active_bundle_id {
                    n.active = Digest::parse(active);
                }
                n.heartbeats.push(*body);
                Ok(Response::Heartbeat(HeartbeatAnswer {
                    status: "ok".into(),
                    node_id: node.node,
                    last_seen_at: Timestamp::ZERO,
                    heartbeat_after_s: 5,
                    poll_now: false,
                }))
            }
            Request::Poll { node, wait_s } => {
                let mut changed = self.changed.subscribe();
                let end = tokio::time::sleep(Duration::from_secs(u64::from(wait_s)));
                tokio::pin!(end);
                self.count_poll(node.node)?;
                loop {
                    if let Some(update) = self.update(node.node) {
                        return Ok(Response::Poll(Box::new(update)));
                    }
                    tokio::select! {
                        _ = changed.changed() => {}
                        () = &mut end => {
                            let answer = PollAnswer { no_update: true, poll_after_s: 1, ..PollAnswer::default() };
                            return Ok(Response::Poll(Box::new(answer)));
                        }
                    }
                }
            }
            Request::Report { node, bundle, report, .. } => {
                if let Some(e) = self.refusal("report") {
                    return Err(e);
                }
                let mut s = self.state.lock().unwrap();
                let n = s.nodes.get_mut(&node.node).ok_or_else(|| CallError::status(401, "no such node"))?;
                n.reports.push((bundle, report));
                match report {
                    Report::Activated => n.active = bundle,
                    Report::Failed => n.failed = n.desired.as_ref().map_or(0, |d| d.1),
                    Report::Downloaded | Report::Staged | Report::Verified => {}
                }
                Ok(Response::Report(ReportAnswer {
                    state: report.path().into(),
                    proceed: true,
                    heartbeat_now: false,
                    stale: false,
                }))
            }
            Request::Download { url, max_bytes } => {
                let mut s = self.state.lock().unwrap();
                s.downloads += 1;
                let id = url.rsplit('/').next().unwrap_or_default();
                let ware = s.wares.get(id).ok_or_else(|| CallError::status(404, "no such archive"))?;
                assert!(ware.archive.len() as u64 <= max_bytes);
                Ok(Response::Archive(ware.archive.clone()))
            }
        }
    }

    fn count_poll(&self, node: NodeId) -> Result<(), CallError> {
        let mut s = self.state.lock().unwrap();
        s.nodes.get_mut(&node).map(|n| n.polls += 1).ok_or_else(|| CallError::status(401, "no such node"))
    }

    fn update(&self, node: NodeId) -> Option<PollAnswer> {
        let s = self.state.lock().unwrap();
        let n = s.nodes.get(&node)?;
        let (ware, generation) = n.desired.as_ref()?;
        if n.active == Some(ware.content) || n.failed == *generation {
            return None;
        }
        let hash = Digest::of(&ware.archive);
        Some(PollAnswer {
            bundle_id: Some(Some(ware.content.to_string())),
            version: Some(ware.version.clone()),
            generation: Some(*generation),
            artifact_url: Some(format!("{}/artifacts/{}", self.origin, ware.content)),
            artifact_hash: Some(hash.prefixed()),
            size_bytes: Some(ware.archive.len() as u64),
            assignment: self.signer.as_ref().map(|sign| sign(node, ware, *generation)),
            traffic_weight: Some(100),
            poll_after_s: 1,
            ..PollAnswer::default()
        })
    }
}

/// A stable id of a name.
fn uuid_of(name: &str) -> uuid::Uuid {
    let d = Digest::of(name.as_bytes());
    uuid::Uuid::from_bytes(d.0[..16].try_into().unwrap())
}
