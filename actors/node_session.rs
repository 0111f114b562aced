//! One actor per node that talks to this instance: presence, last observation, current assignment, parked polls.
//!
//! Owns: nothing that is decided. Rebuilt from: the node's row and its member row; the next heartbeat.
//! Invariants: an unchanged heartbeat is answered from memory and writes nothing; whatever changes something is
//! committed before it is answered; an answer that names an artifact re-reads what it promises ([`crate::loader`]).

mod actor;
mod arrivals;
mod beat;
mod identity;
mod poll;
mod shed;
#[cfg(test)]
mod tests;

pub use actor::{Assigned, SessionMsg};

use crate::command::{CommandError, CommandResult};
use crate::kept::Forgotten;
use crate::loader::Loader;
use crate::node_api::*;
use crate::plane::{ControlPlane, Inner};
use crate::supervision::{Admission, Env, Family, FamilySpec, Restart, call_with_deadline};
use crate::writer::Writer;
use actor::{PollStep, SessionActor};
use arrivals::Arrivals;
use dashmap::DashMap;
use domain::*;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts};
use shed::Doors;
use std::collections::HashSet;
use std::sync::Weak;
use std::time::Duration;
use tokio::sync::oneshot;

/// A poll whose news are withheld (a pause on another instance, say) looks again after this.
const LOOK_AGAIN: Span = Span::secs(2);
/// A question to a session is answered within this, or the node is told to come again.
const SESSION_DEADLINE: Duration = Duration::from_secs(10);
/// Longest long poll (INTERFACE section 3).
pub const MAX_WAIT: Duration = Duration::from_secs(60);
/// The version of the trust document that every node was given at its enrolment.
const FIRST_TRUST: u64 = 1;
/// Tries to answer one poll while keys are being rotated.
const MOST_ROTATIONS: usize = 5;
/// Messages under way to all sessions: at 20 us each these are worked off in four seconds on one core.
const SESSION_ADMISSION: usize = 200_000;

/// Credentials of one node that are remembered beside its first: a rotated key, and tokens.
const MORE_CREDENTIALS: usize = 3;
/// Of a credential that does not expire.
pub(crate) const NEVER: Timestamp = Timestamp(i64::MAX);

#[derive(Clone, Copy)]
struct Remembered {
    auth: NodeAuth,
    until: Timestamp,
}

/// All sessions of this instance, and what they share.
pub struct NodeSessions {
    pub(crate) family: Family<NodeId, SessionMsg>,
    /// Hash of a key or token to its node, for those that were checked lately; dropped when the node changes.
    credentials: DashMap<Digest, Remembered>,
    /// The other way: nearly every node has one credential, and few have more.
    hashes: DashMap<NodeId, Digest>,
    more_hashes: DashMap<NodeId, Vec<Digest>>,
    /// What was read from the database before a node was forgotten is not remembered after it.
    forgotten: Forgotten<NodeId>,
    pub(crate) loader: Loader,
    pub(crate) writer: Writer,
    arrivals: Arrivals,
    doors: Doors,
    pub(crate) metrics: SessionMetrics,
}

pub(crate) struct SessionMetrics {
    pub heartbeats: IntCounter,
    pub sessions: IntGauge,
    pub polls: IntCounterVec,
}

impl SessionMetrics {
    fn register(registry: &prometheus::Registry) -> Result<SessionMetrics, prometheus::Error> {
        let m = SessionMetrics {
            heartbeats: IntCounter::new("sentinel_cp_heartbeats_total", "Heartbeats answered.")?,
            sessions: IntGauge::new("sentinel_cp_node_sessions", "Node sessions that live here.")?,
            polls: IntCounterVec::new(Opts::new("sentinel_cp_polls_total", "Polls answered, by result."), &["result"])?,
        };
        registry.register(Box::new(m.heartbeats.clone()))?;
        registry.register(Box::new(m.sessions.clone()))?;
        registry.register(Box::new(m.polls.clone()))?;
        Ok(m)
    }
}

impl NodeSessions {
    pub(crate) fn new(
        plane: Weak<Inner>,
        store: &store::Store,
        env: &Env,
        registry: &prometheus::Registry,
        flush_every: Span,
    ) -> Result<NodeSessions, prometheus::Error> {
        let spec = FamilySpec::new(
            "node_session",
            Restart::Temporary,
            move |node: &NodeId| (SessionActor, (plane.clone(), *node)),
            |_, _| async {},
        );
        Ok(NodeSessions {
            family: Family::new(spec, env),
            credentials: DashMap::new(),
            hashes: DashMap::new(),
            more_hashes: DashMap::new(),
            forgotten: Forgotten::default(),
            loader: Loader::start(store.clone()),
            writer: Writer::start(store.clone(), flush_every),
            arrivals: Arrivals::default(),
            doors: Doors::new(Admission::new("node_session", SESSION_ADMISSION, &env.metrics)),
            metrics: SessionMetrics::register(registry)?,
        })
    }

    /// The next use of the node's key is checked against the database again.
    pub fn forget_credentials(&self, node: NodeId) {
        self.forgotten.note(node);
        self.drop_credentials(node);
    }

    fn drop_credentials(&self, node: NodeId) {
        let first = self.hashes.remove(&node).map(|(_, hash)| hash);
        let more = self.more_hashes.remove(&node).map(|(_, hashes)| hashes).unwrap_or_default();
        for hash in first.into_iter().chain(more) {
            self.credentials.remove(&hash);
        }
    }

    /// To be asked before a credential is read from the database.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten.now()
    }

    /// Whose credential it is, if it was checked lately and is still good. The time is only asked for when it matters.
    pub(crate) fn recall(&self, hash: &Digest, now: impl FnOnce() -> Timestamp) -> Option<NodeAuth> {
        let found = *self.credentials.get(hash)?;
        (found.until == NEVER || now() < found.until).then_some(found.auth)
    }

    /// `seen` is what [`NodeSessions::forgotten`] said before the database was read.
    pub(crate) fn remember(&self, hash: Digest, auth: NodeAuth, until: Timestamp, seen: u64) {
        self.credentials.insert(hash, Remembered { auth, until });
        let first = *self.hashes.entry(auth.node).or_insert(hash);
        if first != hash {
            let mut more = self.more_hashes.entry(auth.node).or_default();
            if !more.contains(&hash) {
                more.push(hash);
            }
            if more.len() > MORE_CREDENTIALS {
                self.credentials.remove(&more.remove(0));
            }
        }
        // Looked at after it was put: who forgets notes it first, and takes away what is there.
        if self.forgotten.is_newer(auth.node, seen) {
            self.drop_credentials(auth.node);
        }
    }

    /// A project was changed, and perhaps deleted with its nodes.
    pub fn forget_project(&self, project: ProjectId) {
        // Also those that are being read just now.
        self.forgotten.note_all();
        let of_project = self.credentials.iter().filter(|c| c.auth.project == project);
        let nodes: HashSet<NodeId> = of_project.map(|c| c.auth.node).collect();
        nodes.into_iter().for_each(|node| self.drop_credentials(node));
    }

    /// After the change feed may have been missed: nothing remembered is trusted.
    pub fn forget_all_credentials(&self) {
        self.forgotten.note_all();
        self.credentials.clear();
        self.hashes.clear();
        self.more_hashes.clear();
    }

    /// Tell a session, if it lives here. One that is being started reads its node again before it answers anybody.
    pub fn tell(&self, node: NodeId, message: SessionMsg) {
        self.arrivals.note(&node);
        if let Some(actor) = self.family.lookup(&node) {
            // Lost with a session that is ending: the next one reads its node anew.
            let _ = actor.cast(message);
        }
    }

    /// How many live here. By the gauge: the directory counts by locking each of its shards, too much for every answer.
    pub fn count(&self) -> usize {
        self.metrics.sessions.get().max(0) as usize
    }
}

impl ControlPlane {
    /// By the SHA-256 of the node key. `None`: unknown, revoked, or rotated away. From memory when known.
    pub async fn node_auth(&self, key_hash: &Digest) -> CommandResult<Option<NodeAuth>> {
        let sessions = &self.inner.sessions;
        if let Some(auth) = sessions.recall(key_hash, || self.now()) {
            return Ok(Some(auth));
        }
        let seen = sessions.forgotten();
        let found = match self.inner.store.node_credential(*key_hash).await {
            Ok(c) => c,
            Err(store::Error::NotFound) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        if found.standing == domain::node::Standing::Revoked {
            return Ok(None);
        }
        let auth = |key| NodeAuth { node: found.node, project: found.project, org: found.org, epoch: found.epoch, key };
        let (auth, until) = match found.previous {
            None => (auth(KeyAge::Present), NEVER),
            Some(old) if old.hash == *key_hash => {
                (auth(KeyAge::Previous { until: old.until, own: old.own }), old.until)
            }
            Some(_) => return Ok(Some(self.end_previous_key(auth(KeyAge::Present)).await)),
        };
        if until != NEVER && self.now() >= until {
            return Ok(None);
        }
        sessions.remember(*key_hash, auth, until, seen);
        Ok(Some(auth))
    }

    async fn node_session(&self, node: NodeId) -> CommandResult<ractor::ActorRef<SessionMsg>> {
        let family = &self.inner.sessions.family;
        match family.lookup(&node) {
            Some(actor) => Ok(actor),
            // The rare path: not part of every call's future.
            None => Box::pin(family.start_child(node)).await.map_err(|e| CommandError::Unavailable(e.to_string())),
        }
    }

    async fn ask_session<R: Send + 'static>(
        &self,
        node: NodeId,
        question: impl FnOnce(ractor::RpcReplyPort<CommandResult<R>>) -> SessionMsg,
    ) -> CommandResult<R> {
        let doors = &self.inner.sessions.doors;
        let _ticket = doors.admit(node, || self.now()).map_err(|e| CommandError::Unavailable(e.to_string()))?;
        let actor = self.node_session(node).await?;
        match call_with_deadline(&actor, SESSION_DEADLINE, question).await {
            Ok(answer) => answer,
            Err(e) if e.certainly_not_done() => Err(CommandError::Unavailable(e.to_string())),
            Err(e) => Err(CommandError::Unknown(e.to_string())),
        }
    }

    pub async fn heartbeat(&self, auth: NodeAuth, beat: Heartbeat) -> CommandResult<HeartbeatAnswer> {
        self.inner.sessions.metrics.heartbeats.inc();
        self.ask_session(auth.node, |reply| SessionMsg::Beat { auth, beat: Box::new(beat), reply }).await
    }

    /// `wait`: how long to hold the poll when there is nothing new (at most 60 s). `have`: the version of the trust document
    /// that the node says it has; who says none is told of newer ones only with an update.
    pub async fn poll(&self, auth: NodeAuth, wait: Duration, have: Option<u64>) -> CommandResult<Polled> {
        let keys = &self.inner.keys;
        let Some(have) = have else {
            let answer = self.poll_held(auth, wait, None).await?;
            let trust = match &answer {
                PollAnswer::Update(_) => Box::pin(keys.trust_after(auth.org, FIRST_TRUST)).await?,
                PollAnswer::NoUpdate { .. } => Vec::new(),
            };
            let release = match &answer {
                PollAnswer::Update(_) => Box::pin(self.release_for(auth.project, &answer)).await?,
                PollAnswer::NoUpdate { .. } => None,
            };
            return Ok(Polled { answer, trust, release });
        };
        let mut wait = wait;
        for _ in 0..MOST_ROTATIONS {
            let news = keys.news();
            if Box::pin(keys.at_least(auth.org, have)).await? > have {
                wait = Duration::ZERO;
            }
            let answer = self.poll_held(auth, wait, Some((news, have))).await?;
            // Signed before the keys changed and told with the new document, the node would refuse it: asked again.
            let trust = Box::pin(keys.trust_after(auth.org, have)).await?;
            if Box::pin(self.signed_now(auth.org, &answer)).await? {
                let release = Box::pin(self.release_for(auth.project, &answer)).await?;
                return Ok(Polled { answer, trust, release });
            }
            wait = Duration::ZERO;
        }
        Err(CommandError::Unavailable("the keys of the organisation change too fast".into()))
    }

    /// Whether the keys in use now have signed the answer's assignment.
    async fn signed_now(&self, org: OrgId, answer: &PollAnswer) -> CommandResult<bool> {
        let assignment = match answer {
            PollAnswer::NoUpdate { assignment, .. } => assignment.as_ref(),
            PollAnswer::Update(update) => Some(&update.assignment),
        };
        let Some(signer) = assignment.and_then(|a| a.get("key_id")).and_then(|k| k.as_str()) else { return Ok(true) };
        let doc = self.inner.keys.trust_doc(org).await?;
        Ok(doc.roles.metadata.keys.iter().any(|k| k.key_id() == signer))
    }

    /// The release statement about the bundle that the answer names.
    async fn release_for(&self, project: ProjectId, answer: &PollAnswer) -> CommandResult<Option<serde_json::Value>> {
        match answer {
            PollAnswer::Update(update) => match &update.bundle {
                Some(bundle) => self.release_of(project, bundle.content_id).await,
                None => Ok(None),
            },
            // What it runs may have been revoked, or its floor raised.
            PollAnswer::NoUpdate { assignment: Some(signed), .. } if self.has_releases(project).await? => {
                let said = serde_json::from_value::<::bundle::trust::Envelope>(signed.clone());
                let named = said.ok().and_then(|e| e.decode::<::bundle::trust::Assignment>().ok()?.bundle_id);
                match named {
                    Some(content) => self.release_of(project, content).await,
                    None => Ok(None),
                }
            }
            PollAnswer::NoUpdate { .. } => Ok(None),
        }
    }

    async fn poll_held(
        &self,
        auth: NodeAuth,
        wait: Duration,
        mut news: Option<(tokio::sync::watch::Receiver<u64>, u64)>,
    ) -> CommandResult<PollAnswer> {
        let clock = self.clock().clone();
        let mut until = clock.now() + Span::millis(wait.min(MAX_WAIT).as_millis() as i64);
        loop {
            let left = until.since(clock.now());
            let (waiter, woken) = match left > Span::ZERO {
                true => {
                    let (tx, rx) = oneshot::channel();
                    (Some(tx), Some(rx))
                }
                false => (None, None),
            };
            let asked = self.ask_session(auth.node, |reply| SessionMsg::Poll { auth, waiter, reply });
            match Box::pin(asked).await? {
                PollStep::Answer(mut answer) => {
                    if let PollAnswer::NoUpdate { poll_after_s, .. } = answer.as_mut()
                        && wait > Duration::ZERO
                    {
                        // A held poll is repeated at once, or news would find nobody waiting.
                        *poll_after_s = 1;
                    }
                    let result = match *answer {
                        PollAnswer::NoUpdate { .. } => "no_update",
                        PollAnswer::Update(_) => {
                            self.inner.sessions.doors.works(auth.node, clock.now());
                            "update"
                        }
                    };
                    self.inner.sessions.metrics.polls.with_label_values(&[result]).inc();
                    return Ok(*answer);
                }
                PollStep::Parked { withheld } => {
                    let next = if withheld { until.min(clock.now() + LOOK_AGAIN) } else { until };
                    let mut ended = false;
                    if let Some(woken) = woken {
                        tokio::select! {
                            _ = woken => {}
                            () = clock.sleep_until(next) => {}
                            () = changed(&mut news) => ended = true,
                        }
                    }
                    if let (true, Some((_, have))) = (ended, &news)
                        && Box::pin(self.inner.keys.at_least(auth.org, *have)).await? > *have
                    {
                        until = clock.now();
                    }
                }
            }
        }
    }

    pub async fn report(
        &self,
        auth: NodeAuth,
        bundle: BundleRef,
        kind: ReportKind,
        body: ReportBody,
    ) -> CommandResult<ReportAnswer> {
        self.inner.sessions.doors.works(auth.node, self.now());
        self.ask_session(auth.node, |reply| SessionMsg::Report {
            auth,
            bundle,
            kind: Box::new(kind),
            body: Box::new(body),
            reply,
        })
        .await
    }
}

/// Until keys or trust of some organisation changed; for ever where nobody asked.
async fn changed(news: &mut Option<(tokio::sync::watch::Receiver<u64>, u64)>) {
    match news {
        Some((news, _)) => {
            // The keyring lives as long as the plane: an error is the end of the process.
            let _ = news.changed().await;
        }
        None => std::future::pending().await,
    }
}
