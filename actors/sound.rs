//! Whether an archive is what its row says, before any node is told to fetch it.
//!
//! Owns: what was found lately, by bundle. Rebuilt from: the artifact store. Invariant: a node is never sent to an object that this
//! instance has not read whole and hashed within [`GOOD_FOR`].

use crate::plane::ControlPlane;
use dashmap::DashMap;
use domain::*;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a good archive needs no other look. Objects are never overwritten, so only a failing disk changes one.
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
    trouble: Option<String>,
}

/// Cheap: everything is shared.
#[derive(Default)]
pub(crate) struct Soundness {
    known: DashMap<BundleId, Known>,
    /// One look at each archive, however many nodes ask.
    looking: Mutex<HashMap<BundleId, Arc<tokio::sync::Mutex<()>>>>,
}

impl Soundness {
    fn recent(&self, id: BundleId, now: Timestamp) -> Option<Option<String>> {
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

    pub(crate) fn forget(&self, id: BundleId) {
        self.known.remove(&id);
    }
}

impl ControlPlane {
    /// `None`: the archive is there and whole. Otherwise why no node can be sent to it: for the rollout that waits to say so.
    /// From memory when it was looked at lately; never longer than some seconds.
    pub(crate) async fn artifact_trouble(&self, id: BundleId) -> Option<String> {
        if let Some(known) = self.inner.sound.recent(id, self.now()) {
            return known;
        }
        let plane = self.clone();
        let (tell, told) = tokio::sync::oneshot::channel();
        crate::supervision::spawn_task("artifact check", async move {
            // Whoever asked may have gone; what was found is remembered all the same.
            let _ = tell.send(plane.look(id).await);
        })
        .detach();
        match tokio::time::timeout(PATIENCE, told).await {
            Ok(Ok(trouble)) => trouble,
            Ok(Err(_)) => Some("the look at the archive ended without an answer".into()),
            Err(_) => Some("the artifact store is slow to answer".into()),
        }
    }

    async fn look(&self, id: BundleId) -> Option<String> {
        let sound = &self.inner.sound;
        let turn = sound.looking.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default().clone();
        let _turn = turn.lock().await;
        if let Some(known) = sound.recent(id, self.now()) {
            return known;
        }
        let trouble = self.read_whole(id).await;
        if sound.known.len() >= MAX_KNOWN {
            sound.known.clear();
        }
        if let Some(why) = &trouble {
            tracing::warn!(bundle = %id, why, "no node is sent to this archive");
        }
        let was_broken = sound.is_broken(id);
        sound.known.insert(id, Known { at: self.now(), trouble: trouble.clone() });
        sound.looking.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        if was_broken != trouble.is_some() {
            // Its rollout waits and says so, or goes on.
            for (_, actor) in self.inner.rollouts.family.directory().snapshot() {
                let _ = actor.cast(crate::rollout::RolloutMsg::Wake);
            }
        }
        trouble
    }

    /// Archives that were broken, once more: what was put right is found without anybody asking for it.
    pub(crate) async fn look_again(&self) {
        for id in self.inner.sound.broken() {
            let _ = self.artifact_trouble(id).await;
        }
    }

    async fn read_whole(&self, id: BundleId) -> Option<String> {
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
            Ok(_) => None,
            Err(artifacts::Error::NotFound) => Some(format!("the archive {key} is missing in the artifact store")),
            Err(why) => Some(why.to_string()),
        }
    }

    /// The bundle's row changed: its archive may be another one.
    pub(crate) fn archive_changed(&self, id: BundleId) {
        self.inner.sound.forget(id);
    }
}
