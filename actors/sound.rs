//! Whether an archive is what its row says, and signed by keys that count, before any node is told to fetch it.
//!
//! Owns: what was found lately, by bundle. Rebuilt from: the artifact store. Invariant: a node is never sent to an object that this
//! instance has not read whole and hashed within [`GOOD_FOR`].

use crate::command::{CommandError, CommandResult};
use crate::plane::ControlPlane;
use ::bundle::SignatureFile;
use ::bundle::archive::{MANIFEST, SIGNATURE};
use ::bundle::trust::Envelope;
use ::bundle::verify::{check_manifest, check_release};
use bytes::Bytes;
use dashmap::DashMap;
use domain::*;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How long a good archive needs no other look. An object is replaced only with its row, which is
/// told here, and while no node is assigned it: beside that only a failing disk changes one.
const GOOD_FOR: Span = Span::secs(600);
/// How long a bad answer is believed before the store is asked again.
const BAD_FOR: Span = Span::secs(5);
/// The longest a poll waits for a look; a slower store is looked at on, and the node is told to come again.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bundles remembered: 100 bytes each.
const MAX_KNOWN: usize = 10_000;

#[derive(Clone, Debug)]
struct Known {
    at: Timestamp,
    trouble: Verdict,
}

#[derive(Default)]
pub(crate) struct Soundness {
    known: DashMap<BundleId, Known>,
    /// One look at each archive, however many nodes ask: what it finds, once it has.
    looking: Mutex<HashMap<BundleId, watch::Receiver<Option<Verdict>>>>,
}

/// `None`: whole.
type Verdict = Option<String>;

/// A look that goes on. It is over however it ends.
struct Look(ControlPlane, BundleId);

impl Drop for Look {
    fn drop(&mut self) {
        let mut looking = self.0.inner.sound.looking.lock().unwrap_or_else(PoisonError::into_inner);
        looking.remove(&self.1);
    }
}

impl Soundness {
    fn recent(&self, id: BundleId, now: Timestamp) -> Option<Verdict> {
        let known = self.known.get(&id)?;
        let good_for = if known.trouble.is_none() { GOOD_FOR } else { BAD_FOR };
        (now.since(known.at) < good_for).then(|| known.trouble.clone())
    }

    /// As far as is known: when it was last looked at its archive could not be fetched.
    pub(crate) fn is_broken(&self, id: BundleId) -> bool {
        self.known.get(&id).is_some_and(|k| k.trouble.is_some())
    }

    fn broken(&self) -> Vec<BundleId> {
        self.known.iter().filter(|k| k.trouble.is_some()).map(|k| *k.key()).collect()
    }

    /// To be looked at again before it is believed.
    fn doubt(&self, id: BundleId) {
        if let Some(mut known) = self.known.get_mut(&id) {
            known.at = Timestamp::ZERO;
        }
    }

    fn doubt_all(&self) {
        self.known.iter_mut().for_each(|mut known| known.at = Timestamp::ZERO);
    }

    pub(crate) fn forget_all(&self) {
        self.known.clear();
    }
}

impl ControlPlane {
    /// `None`: the archive is there and whole. Otherwise why no node can be sent to it: for the rollout that waits to say so.
    /// From memory when it was looked at lately; never longer than some seconds.
    pub(crate) async fn artifact_trouble(&self, id: BundleId) -> Verdict {
        if let Some(known) = self.inner.sound.recent(id, self.now()) {
            return known;
        }
        let mut told = self.look(id);
        match tokio::time::timeout(PATIENCE, told.wait_for(Option::is_some)).await {
            Ok(Ok(verdict)) => verdict.clone().flatten(),
            Ok(Err(_)) => Some("the look at the archive ended without an answer".into()),
            Err(_) => {
                let slow = Some("the artifact store is slow to answer".to_string());
                self.found(id, slow.clone());
                slow
            }
        }
    }

    /// What the look that goes on finds; without one, one is begun. It goes on when nobody waits any more.
    fn look(&self, id: BundleId) -> watch::Receiver<Option<Verdict>> {
        let mut looking = self.inner.sound.looking.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(told) = looking.get(&id) {
            return told.clone();
        }
        let (tell, told) = watch::channel(None);
        looking.insert(id, told.clone());
        let look = Look(self.clone(), id);
        crate::supervision::spawn_task("artifact check", async move {
            let verdict = look.0.read_whole(id).await;
            look.0.found(id, verdict.clone());
            drop(look);
            tell.send_replace(Some(verdict));
        })
        .detach();
        told
    }

    fn found(&self, id: BundleId, trouble: Verdict) {
        let sound = &self.inner.sound;
        if sound.known.len() >= MAX_KNOWN {
            sound.known.clear();
        }
        if let Some(why) = &trouble {
            tracing::warn!(bundle = %id, why, "no node is sent to this archive");
        }
        let was_broken = sound.is_broken(id);
        let is_broken = trouble.is_some();
        sound.known.insert(id, Known { at: self.now(), trouble });
        if was_broken != is_broken {
            // Its rollout waits and says so, or goes on.
            for (_, actor) in self.inner.rollouts.family.directory().snapshot() {
                let _ = actor.cast(crate::rollout::RolloutMsg::Wake);
            }
        }
    }

    /// Archives that were broken, once more: what was put right is found without anybody asking for it.
    pub(crate) async fn look_again(&self) {
        for id in self.inner.sound.broken() {
            let _ = self.artifact_trouble(id).await;
        }
    }

    async fn read_whole(&self, id: BundleId) -> Verdict {
        let facts = match self.inner.store.bundle_facts(vec![id]).await {
            Ok(rows) => rows.into_iter().next(),
            Err(why) => return Some(format!("the database did not answer: {why}")),
        };
        let Some((facts, project)) = facts else { return Some("the bundle is gone".into()) };
        // Not compiled: what may be named is decided elsewhere, and nothing would be fetched.
        let (content, hash) = (facts.content_id?, facts.artifact_hash?);
        let key = artifacts::Key::bundle(project, content);
        let read = self.inner.artifacts.get_verified(&key, facts.size_bytes, hash).await;
        match read {
            Ok(archive) => match self.distrusted(project, content, archive).await {
                Ok(verdict) => verdict,
                Err(why) => Some(format!("the keys that count cannot be read: {why:?}")),
            },
            Err(artifacts::Error::NotFound) => Some(format!("the archive {key} is missing in the artifact store")),
            Err(why) => Some(why.to_string()),
        }
    }

    /// Why nodes would refuse what is whole: since it was signed or released other keys may count, or it was for a time only.
    /// Sent to it they would fail, one after the other, and their failures would count.
    async fn distrusted(&self, project: ProjectId, content: ContentId, archive: Bytes) -> CommandResult<Verdict> {
        let doc = self.inner.keys.trust_doc(self.project_by_id(project).await?.org).await?;
        let files = tokio::task::spawn_blocking(move || ::bundle::read_archive(&archive)).await;
        let files = match files.map_err(|e| CommandError::Unavailable(e.to_string()))? {
            Ok(files) => files,
            Err(why) => return Ok(Some(why.to_string())),
        };
        let signature = files.get(SIGNATURE).and_then(|s| serde_json::from_slice::<SignatureFile>(s).ok());
        let accepted = match (files.get(MANIFEST), signature) {
            (Some(manifest), Some(signature)) => check_manifest(&doc.roles.bundle, manifest, &signature),
            _ => return Ok(Some("the archive has no manifest or no signature".into())),
        };
        if let Err(why) = accepted {
            return Ok(Some(format!("nodes would refuse the bundle: {why}; sign it anew or compile it again")));
        }
        Ok(match self.release_of(project, content).await? {
            None if doc.releases_required => {
                Some("nodes need a release statement about the bundle, and there is none".into())
            }
            None => None,
            Some(said) => {
                match serde_json::from_value::<Envelope>(said).map(|e| check_release(&doc.roles.bundle, &e)) {
                    Ok(Ok(release)) if release.expires_at > self.now() => None,
                    Ok(Ok(release)) => {
                        Some(format!("the release statement about the bundle expired at {}", release.expires_at))
                    }
                    Ok(Err(why)) => Some(format!("nodes would refuse the release statement about the bundle: {why}")),
                    Err(why) => Some(why.to_string()),
                }
            }
        })
    }

    /// The bundle's row changed, or what is said about it: its archive may be another one.
    pub(crate) fn archive_changed(&self, id: BundleId) {
        self.inner.sound.doubt(id);
    }

    /// Other keys count now.
    pub(crate) fn trust_changed(&self) {
        self.inner.sound.doubt_all();
    }
}
