//! Downloads of the whole fleet: the same archive is fetched and checked once per process when sharing is on.
//!
//! Owns: which archives are being fetched, who waits, what was proved. Bytes are dropped once checked.
//! A failure is not kept: every waiter is told, and the next who asks tries again.

use crate::agent::FetchError;
use crate::clock::Clock;
use crate::recorder::{RecorderMsg, Sample};
use crate::task;
use crate::transport::{Request, Response, Transport};
use crate::verify::{Evidence, Proof};
use crate::wire::{CallError, Order};
use domain::{ContentId, Digest};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::oneshot;

/// A bundle of 64 MiB at 1 MiB/s with a good margin.
pub(crate) const DOWNLOAD_DEADLINE: Duration = Duration::from_secs(120);
/// Different archives remembered; a run sees a handful, and 32 bytes each are no reason to forget.
const MAX_PROVED: usize = 10_000;
/// A server that names no size gets this much, the product's own cap for an archive and more.
const MAX_BYTES: u64 = 256 << 20;

type Outcome = Result<Proof, FetchError>;

pub(crate) struct Wanted {
    pub order: Box<Order>,
    pub evidence: Option<Box<Evidence>>,
    pub reply: oneshot::Sender<Outcome>,
}

pub(crate) enum LibraryMsg {
    Get(Wanted),
    Done { key: (ContentId, Option<Digest>), outcome: Outcome },
}

pub(crate) struct Library;

pub(crate) struct Shelf {
    share: bool,
    transport: Transport,
    recorder: ActorRef<RecorderMsg>,
    clock: Clock,
    waiting: HashMap<(ContentId, Option<Digest>), Vec<oneshot::Sender<Outcome>>>,
    proved: HashMap<(ContentId, Option<Digest>), Proof>,
}

pub(crate) struct LibraryArgs {
    pub share: bool,
    pub transport: Transport,
    pub recorder: ActorRef<RecorderMsg>,
    pub clock: Clock,
}

impl Actor for Library {
    type Msg = LibraryMsg;
    type State = Shelf;
    type Arguments = LibraryArgs;

    async fn pre_start(&self, _: ActorRef<LibraryMsg>, a: LibraryArgs) -> Result<Shelf, ActorProcessingErr> {
        Ok(Shelf {
            share: a.share,
            transport: a.transport,
            recorder: a.recorder,
            clock: a.clock,
            waiting: HashMap::new(),
            proved: HashMap::new(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<LibraryMsg>,
        msg: LibraryMsg,
        shelf: &mut Shelf,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            LibraryMsg::Get(wanted) => shelf.get(myself, wanted),
            LibraryMsg::Done { key, outcome } => {
                if let Ok(proof) = &outcome
                    && shelf.proved.len() < MAX_PROVED
                {
                    shelf.proved.insert(key, *proof);
                }
                for reply in shelf.waiting.remove(&key).into_iter().flatten() {
                    // A node that hung up meanwhile does not wait any more.
                    let _ = reply.send(outcome.clone());
                }
            }
        }
        Ok(())
    }
}

impl Shelf {
    fn get(&mut self, myself: ActorRef<LibraryMsg>, wanted: Wanted) {
        let Wanted { order, evidence, reply } = wanted;
        let Some(content) = order.bundle else {
            let _ = reply.send(Ok(Proof::BASELINE));
            return;
        };
        let key = (content, order.artifact_hash);
        if self.share {
            if let Some(proof) = self.proved.get(&key) {
                let _ = reply.send(Ok(*proof));
                return;
            }
            let waiters = self.waiting.entry(key).or_default();
            waiters.push(reply);
            if waiters.len() > 1 {
                return;
            }
            let work = fetch(self.transport.clone(), self.recorder.clone(), self.clock, content, order, evidence);
            // Lost only when the library itself has ended, and then nobody waits.
            task::start(async move {
                let _ = myself.cast(LibraryMsg::Done { key, outcome: work.await });
            });
        } else {
            let work = fetch(self.transport.clone(), self.recorder.clone(), self.clock, content, order, evidence);
            task::start(async move {
                let _ = reply.send(work.await);
            });
        }
    }
}

async fn fetch(
    transport: Transport,
    recorder: ActorRef<RecorderMsg>,
    clock: Clock,
    content: ContentId,
    order: Box<Order>,
    evidence: Option<Box<Evidence>>,
) -> Outcome {
    let Some(url) = order.artifact_url.clone() else {
        return Err(FetchError::Refused("malformed: the update has no artifact_url".into()));
    };
    let begun = clock.now();
    let max_bytes = if order.size_bytes == 0 { MAX_BYTES } else { order.size_bytes.min(MAX_BYTES) };
    let sent = transport.send(Request::Download { url, max_bytes });
    let archive = match tokio::time::timeout(DOWNLOAD_DEADLINE, sent).await {
        Err(_) => Err(CallError::Timeout),
        Ok(Ok(Response::Archive(bytes))) => Ok(bytes),
        Ok(Ok(other)) => Err(CallError::Malformed(format!("a download was answered with {other:?}"))),
        Ok(Err(e)) => Err(e),
    };
    let archive = archive.map_err(FetchError::Call)?;
    let took = clock.now().since(begun);
    let _ = recorder.cast(RecorderMsg::Sample(Sample::Fetched { took, bytes: archive.len() as u64 }));
    let Some(evidence) = evidence else { return Ok(Proof::unchecked(content)) };
    let checked = tokio::task::spawn_blocking(move || evidence.prove(&archive)).await;
    match checked {
        Ok(outcome) => outcome.map_err(FetchError::Refused),
        Err(e) => Err(FetchError::Refused(format!("malformed: the check itself failed: {e}"))),
    }
}
