//! Polls: answered from memory when there is nothing new; an answer that names an artifact re-reads what it promises.

use super::actor::{PollStep, Session};
use super::beat::{LOOK_WAIT, came_back, spread};
use crate::command::{CommandError, CommandResult};
use crate::loader::Answer;
use crate::node_api::*;
use ::bundle::trust::{ASSIGNMENT_TYPE, ASSIGNMENT_VALIDITY, Assignment};
use domain::node::{Generation, Presence};
use domain::rollout::Told;
use domain::*;
use tokio::sync::oneshot;

/// Parked polls of one node; more than one is a node that lost count, the oldest are answered.
const MAX_WAITERS: usize = 4;
/// A quiet node polls this often when it does not hold a long poll, seconds.
const QUIET_POLL_S: u32 = 10;
const MOST_POLL_S: u32 = 30;

/// The signed assignment of one generation, signed anew when half its validity is over.
pub(in super::super) struct CachedEnvelope {
    generation: Generation,
    /// By the keys of this version of the trust document.
    trust: u64,
    signed_at: Timestamp,
    value: serde_json::Value,
}

pub(super) async fn poll(s: &mut Session, waiter: Option<oneshot::Sender<()>>) -> CommandResult<PollStep> {
    let now = s.plane.now();
    if !s.adopted {
        // Adopted perhaps on another instance: a quarantined node polls rarely, so it is looked up each time.
        let view = s.plane.inner.store.session_view(s.node).await?;
        s.take_view(view);
    }
    if s.presence != Presence::Online {
        came_back(s, now).await?;
    }
    if s.may_have_missed(now) {
        // Another instance may have heard by now that it serves the weight.
        let view = s.plane.inner.store.session_view(s.node).await?;
        s.take_view(view);
    }
    let mut withheld = false;
    if (s.has_update() || s.has_unshown(now)) && unsound(s).await {
        // Not handed over, so that nothing runs against the node: the rollout waits.
        withheld = true;
    } else if s.has_update() || s.has_unshown(now) {
        let answer = load(s).await?;
        withheld = answer.withheld;
        if let Some(update) = named(s, &answer, now).await? {
            return Ok(PollStep::Answer(Box::new(PollAnswer::Update(Box::new(update)))));
        }
    }
    if let Some(w) = waiter {
        s.waiters.retain(|w| !w.is_closed());
        if s.waiters.len() >= MAX_WAITERS {
            let _ = s.waiters.remove(0).send(());
        }
        s.waiters.push(w);
        return Ok(PollStep::Parked { withheld });
    }
    // "No update" needs nothing from outside: a signature that cannot be had now comes with a later answer.
    let envelope = tokio::time::timeout(LOOK_WAIT, current_envelope(s, now)).await;
    let assignment = envelope.ok().and_then(Result::ok).flatten();
    let poll_after_s = spread(s, QUIET_POLL_S, MOST_POLL_S);
    Ok(PollStep::Answer(Box::new(PollAnswer::NoUpdate { assignment, poll_after_s })))
}

/// Whether the archive that the node would be sent to is missing, damaged or out of reach.
async fn unsound(s: &Session) -> bool {
    match s.assigned.bundle.filter(|b| Some(*b) != s.active) {
        Some(bundle) => s.plane.artifact_trouble(bundle).await.is_some() && !needs_no_archive(s, bundle).await,
        None => false,
    }
}

/// A way back is never held; and what the node has on its disk it does not fetch.
async fn needs_no_archive(s: &Session, bundle: BundleId) -> bool {
    let Ok(view) = s.plane.inner.store.session_view(s.node).await else { return false };
    let member = view.rollout.and_then(|r| r.member);
    let back = member.is_some_and(|m| m.generation == view.node.generation && matches!(m.told, Told::Back(_)));
    back || [view.node.staged_bundle, view.node.verified_bundle].contains(&Some(bundle))
}

/// Is the assignment the node has staged still the one it shall run?
pub(super) async fn still_wanted(s: &mut Session) -> CommandResult<bool> {
    let generation = s.assigned.generation;
    let answer = look(s).await?;
    Ok(answer.generation == generation && !answer.withheld)
}

/// What the answer to this poll may name; that it does is stored.
async fn load(s: &mut Session) -> CommandResult<store::AssignmentAnswer> {
    let answer = s.plane.inner.sessions.loader.load(s.node, s.epoch).await;
    take(s, answer).await
}

/// The same, when nothing will be named.
async fn look(s: &mut Session) -> CommandResult<store::AssignmentAnswer> {
    let answer = s.plane.inner.sessions.loader.look(s.node, s.epoch).await;
    take(s, answer).await
}

async fn take(s: &mut Session, answer: Answer) -> CommandResult<store::AssignmentAnswer> {
    let answer = match answer {
        Answer::Row(row) => *row,
        Answer::Gone => return Err(CommandError::Forbidden("the node was deleted".into())),
        Answer::Failed(e) => return Err(e),
    };
    if !answer.epoch_ok {
        return Err(CommandError::Forbidden("the node key was replaced or revoked".into()));
    }
    if answer.generation != s.assigned.generation {
        // Our memory is older than the database: read everything that belongs to the new generation.
        let view = s.plane.inner.store.session_view(s.node).await?;
        s.take_view(view);
    }
    Ok(answer)
}

/// The update that `row` promises, if it may be named and the node does not run it.
async fn named(s: &mut Session, row: &store::AssignmentAnswer, now: Timestamp) -> CommandResult<Option<Update>> {
    if row.withheld || row.generation == 0 || s.failed == row.generation {
        return Ok(None);
    }
    let wanted = row.bundle.as_ref().map(|b| b.id);
    if wanted == s.active && !s.has_unshown(now) {
        return Ok(None);
    }
    let bundle = match &row.bundle {
        None => None,
        Some(b) => {
            let (Some(content_id), Some(artifact_hash)) = (b.content_id, b.artifact_hash) else { return Ok(None) };
            let (Some(signature), Some(key_id)) = (b.signature.clone(), b.key_id.clone()) else { return Ok(None) };
            let artifact_url = s.plane.download_url(s.project, content_id, s.node, now).await?;
            Some(UpdateBundle {
                content_id,
                version: b.version.clone(),
                artifact_url,
                artifact_hash,
                size_bytes: b.size_bytes,
                signature,
                key_id,
            })
        }
    };
    let assignment = sign(s, row, now).await?;
    // Not before the answer is whole: what could not be said was not shown.
    (s.shown, s.shown_at) = (row.generation, now);
    Ok(Some(Update {
        bundle,
        rollout: row.rollout,
        generation: row.generation,
        traffic_weight: row.weight,
        assignment,
        poll_after_s: 2,
    }))
}

async fn current_envelope(s: &mut Session, now: Timestamp) -> CommandResult<Option<serde_json::Value>> {
    let generation = s.assigned.generation;
    if generation == 0 {
        return Ok(None);
    }
    if let Some(value) = cached(s, generation, now) {
        return Ok(Some(value));
    }
    // Named only when the node already knows it: what it runs, or what failed on it. A newer one is for an answer of its own.
    let mut answer = look(s).await?;
    if answer.handed_over < generation && answer.generation == generation && !answer.withheld {
        // It runs this without having been told by us: now it is told.
        answer = load(s).await?;
    }
    if answer.withheld || answer.generation != generation {
        return Ok(None);
    }
    sign(s, &answer, now).await.map(Some)
}

fn cached(s: &Session, generation: Generation, now: Timestamp) -> Option<serde_json::Value> {
    let half = Span(ASSIGNMENT_VALIDITY.0 / 2);
    let kept = s.envelope.as_ref().filter(|e| e.generation == generation && now.since(e.signed_at) < half)?;
    // Other keys count since: the node would refuse it.
    (s.plane.inner.keys.version_in_use(s.org) == Some(kept.trust)).then(|| kept.value.clone())
}

async fn sign(s: &mut Session, row: &store::AssignmentAnswer, now: Timestamp) -> CommandResult<serde_json::Value> {
    if let Some(value) = cached(s, row.generation, now) {
        return Ok(value);
    }
    let head = s.plane.audit_head(s.project).await?;
    let bundle = row.bundle.as_ref();
    let assignment = Assignment {
        kind: ASSIGNMENT_TYPE.to_string(),
        node_id: s.node,
        project_id: s.project,
        bundle_id: bundle.and_then(|b| b.content_id),
        artifact_hash: bundle.and_then(|b| b.artifact_hash),
        size_bytes: bundle.map_or(0, |b| b.size_bytes),
        rollout_id: row.rollout,
        generation: row.generation,
        traffic_weight: row.weight,
        issued_at: now,
        expires_at: now + ASSIGNMENT_VALIDITY,
        audit_head: Some(head),
    };
    let (trust, value) = s.plane.sign_assignment(s.org, &assignment).await?;
    s.envelope =
        Some(Box::new(CachedEnvelope { generation: row.generation, trust, signed_at: now, value: value.clone() }));
    Ok(value)
}
