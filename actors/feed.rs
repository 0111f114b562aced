//! Follows the change feed: what other instances (and this one) committed wakes sessions, rollouts, caches and pages here.
//!
//! Owns: the place in the feed. Rebuilt from: the feed's present head; whatever came before is read fresh by whoever needs it.

use crate::bus::Notice;
use crate::node_session::SessionMsg;
use crate::plane::ControlPlane;
use crate::rollout::RolloutMsg;
use domain::*;
use std::time::Duration;
use store::ChangeKind;

/// A lost wake-up costs at most this.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Changes read in one go.
const BATCH: u32 = 1_000;
/// The database does not answer: how long until the next look.
const AFTER_ERROR: Duration = Duration::from_secs(1);

pub(crate) async fn run(plane: ControlPlane) {
    let mut listener = plane.store().listen();
    let mut cursor = loop {
        match plane.store().changes_head().await {
            Ok(head) => break head,
            Err(e) => {
                tracing::warn!(error = %e, "the change feed cannot be read yet");
                tokio::time::sleep(AFTER_ERROR).await;
            }
        }
    };
    loop {
        match plane.store().changes_after(cursor, BATCH).await {
            Ok(rows) => {
                let full = rows.len() as u32 == BATCH;
                for row in rows {
                    cursor = row.cursor;
                    apply(&plane, &row);
                }
                if full {
                    continue;
                }
            }
            Err(e) => {
                // What was remembered may be wrong now; nothing of it is an authority, but keys are checked again.
                plane.inner.sessions.forget_all_credentials();
                tracing::warn!(error = %e, "the change feed could not be read");
                tokio::time::sleep(AFTER_ERROR).await;
            }
        }
        listener.wait(LOOK_EVERY).await;
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
        ChangeKind::Inbox => {
            if let Some(actor) = plane.inner.rollouts.family.lookup(&RolloutId(row.id)) {
                let _ = actor.cast(RolloutMsg::Wake);
            }
        }
        ChangeKind::Freeze => plane.inner.freezes.forget(),
        ChangeKind::Bundle => {
            plane.forget_bundle(BundleId(row.id));
            plane.archive_changed(BundleId(row.id));
            if let Some(project) = row.project {
                plane.inner.releases.forget(project);
            }
        }
        ChangeKind::Project => plane.inner.sessions.forget_project(ProjectId(row.id)),
        ChangeKind::Key => {
            plane.inner.keys.forget(OrgId(row.id));
            plane.trust_changed();
        }
        ChangeKind::Org
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
        | ChangeKind::Instance
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
