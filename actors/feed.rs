//! Follows the change feed: what other instances (and this one) committed wakes sessions, rollouts, caches and pages here.
//!
//! Owns: the place in the feed. Rebuilt from: the feed's present head; whatever came before is read fresh by whoever needs it.

use crate::bus::Notice;
use crate::node_session::SessionMsg;
use crate::periodic::KEEP_CHANGES;
use crate::plane::ControlPlane;
use crate::rollout::RolloutMsg;
use crate::supervision::spawn_task;
use domain::*;
use std::collections::BTreeSet;
use std::time::Duration;
use store::ChangeKind;
use tokio::time::Instant;

/// A lost wake-up costs at most this.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Changes read in one go.
const BATCH: u32 = 1_000;
/// The database does not answer: how long until the next look.
const AFTER_ERROR: Duration = Duration::from_secs(1);

pub(crate) async fn run(plane: ControlPlane) {
    let mut listener = plane.store().listen();
    let mut cursor = head(&plane).await;
    // Read before that by whoever started earlier, or under a reader that failed: nobody would say when it changes.
    start_over(&plane);
    let mut read_at = Instant::now();
    // Half the time for which rows are kept: a reader that was away for longer may have missed some.
    let longest_gap = KEEP_CHANGES.to_std() / 2;
    loop {
        match plane.store().changes_after(cursor, BATCH).await {
            Ok(_) if read_at.elapsed() > longest_gap => {
                tracing::warn!("the change feed was not read for too long; everything is read again");
                cursor = head(&plane).await;
                start_over(&plane);
                read_at = Instant::now();
                continue;
            }
            Ok(rows) => {
                read_at = Instant::now();
                let full = rows.len() as u32 == BATCH;
                let mut mailed = BTreeSet::new();
                for row in rows {
                    cursor = row.cursor;
                    if row.kind == ChangeKind::Inbox {
                        mailed.insert(RolloutId(row.id));
                    }
                    apply(&plane, &row);
                }
                wake(&plane, mailed);
                if full {
                    continue;
                }
            }
            // What is remembered stays good for what is answered from memory alone: that names nothing, and whatever does is read
            // from the database, which is away. The place in the feed is kept, so nothing will have been missed.
            Err(e) => {
                tracing::warn!(error = %e, "the change feed could not be read");
                tokio::time::sleep(AFTER_ERROR).await;
            }
        }
        listener.wait(LOOK_EVERY).await;
    }
}

async fn head(plane: &ControlPlane) -> store::ChangeCursor {
    loop {
        match plane.store().changes_head().await {
            Ok(head) => return head,
            Err(e) => {
                tracing::warn!(error = %e, "the change feed cannot be read yet");
                tokio::time::sleep(AFTER_ERROR).await;
            }
        }
    }
}

/// Rows before this place in the feed may never be read: nothing that the feed keeps current is trusted any more.
fn start_over(plane: &ControlPlane) {
    plane.inner.sessions.forget_all_credentials();
    plane.inner.freezes.forget();
    plane.forget_bundles();
    plane.inner.keys.forget_all();
    for (_, session) in plane.inner.sessions.family.directory().snapshot() {
        let _ = session.cast(SessionMsg::Reload);
    }
    for (_, rollout) in plane.inner.rollouts.family.directory().snapshot() {
        let _ = rollout.cast(RolloutMsg::Reconcile);
    }
}

/// Once for all the mail that was told of: one look reads it.
fn wake(plane: &ControlPlane, mailed: BTreeSet<RolloutId>) {
    for id in mailed {
        if let Some(actor) = plane.inner.rollouts.family.lookup(&id) {
            let _ = actor.cast(RolloutMsg::Wake);
        }
    }
}

fn apply(plane: &ControlPlane, row: &store::ChangeRow) {
    match row.kind {
        ChangeKind::Assignment => {
            plane.inner.sessions.tell(NodeId(row.id), SessionMsg::Newer(row.version.max(0) as u64));
        }
        ChangeKind::Node => {
            plane.inner.sessions.forget_credentials(NodeId(row.id));
            plane.inner.sessions.tell(NodeId(row.id), SessionMsg::Changed(row.version));
        }
        // Said to another instance: what we remember of the node is older.
        ChangeKind::NodeState => plane.inner.sessions.tell(NodeId(row.id), SessionMsg::Changed(row.version)),
        ChangeKind::Rollout => {
            if let Some(actor) = plane.inner.rollouts.family.lookup(&RolloutId(row.id)) {
                let _ = actor.cast(RolloutMsg::Newer(row.version.max(0) as u64));
            }
        }
        // Another one handed its rollouts over: the sweep would find them a little later.
        ChangeKind::Instance => {
            let plane = plane.clone();
            spawn_task("take over", async move {
                if let Err(e) = plane.acquire_rollouts().await {
                    tracing::warn!(error = ?e, "what was handed over was not taken yet");
                }
            })
            .detach();
        }
        ChangeKind::Freeze => plane.inner.freezes.forget(),
        ChangeKind::Bundle => {
            plane.archive_changed(BundleId(row.id));
            // Every change of a bundle names its project.
            if let Some(project) = row.project {
                plane.forget_bundle(project, BundleId(row.id));
                plane.inner.releases.forget(project);
            }
        }
        ChangeKind::Project => plane.inner.sessions.forget_project(ProjectId(row.id)),
        ChangeKind::Key => {
            plane.inner.keys.forget(OrgId(row.id));
            plane.trust_changed();
        }
        // Told to its rollout once, after all rows that came with it.
        ChangeKind::Inbox
        | ChangeKind::Org
        | ChangeKind::ApiKey
        | ChangeKind::User
        | ChangeKind::Member
        | ChangeKind::EnrolmentToken
        | ChangeKind::Group
        | ChangeKind::Debt
        | ChangeKind::Session
        | ChangeKind::Environment
        | ChangeKind::Template
        | ChangeKind::Drift
        | ChangeKind::Setting
        | ChangeKind::Audit => {}
    }
    plane.inner.bus.publish(Notice {
        seq: row.cursor.seq,
        kind: row.kind.as_str(),
        id: row.id,
        version: row.version.max(0) as u64,
        project: row.project,
    });
}
