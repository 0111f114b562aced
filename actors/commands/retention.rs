//! Retention: bundles that nobody needs are collected, row and archive.
//!
//! The order never leaves a promise that cannot be kept: in one transaction the row goes, if nobody needs it, and a note is left
//! that its archive is to go; while the note is there nobody can claim the content; then the archive goes, then the note. After a
//! crash in between, a later sweep goes on from the notes. One at a time removes an archive: who is late would remove what was
//! compiled anew meanwhile. The rows of revoked bundles stay, and so does the refusal of their content.

use crate::command::*;
use crate::plane::ControlPlane;
use artifacts::Key;
use domain::audit::NewEntry;
use domain::bundle::Bundle;
use domain::project::Project;
use domain::*;
use serde_json::json;
use store::{ChangeKind, NewChange, Write};

/// Archives removed by one sweep.
const BATCH: u32 = 1_000;
/// By itself nothing is collected that is younger: why a compile failed can be read for a day, and what was compiled last night
/// can be rolled out in the morning.
const BUNDLE_AGE: Span = Span::secs(24 * 3600);
/// Who took up the removal of an archive has so long; longer than [`REMOVAL`], so that two never are at it.
const REMOVAL_LEASE: Span = Span::secs(600);
/// The removal of one archive is given up after this.
const REMOVAL: std::time::Duration = std::time::Duration::from_secs(120);
/// Contents of resources that lie at no path are kept so long: a compile may be about to be asked for.
const RESOURCE_AGE: Span = Span::secs(24 * 3600);

/// What a collection did, or would do.
#[derive(Clone, Debug)]
pub struct Collected {
    /// The newest compiled bundles that are kept whether they are needed or not.
    pub keep: u32,
    pub bundles: Vec<Bundle>,
}

impl ControlPlane {
    /// Collects what the project's retention allows, of any age: somebody asks for it. `dry_run` changes nothing and answers the same.
    pub async fn collect_bundles(
        &self,
        caller: &Caller,
        project: ProjectId,
        dry_run: bool,
    ) -> CommandResult<Collected> {
        let project = self.project_by_id(project).await?;
        self.collect(&caller.ctx, &project, self.now(), dry_run).await
    }

    /// Of what has not changed since `before`.
    async fn collect(
        &self,
        ctx: &Ctx,
        project: &Project,
        before: Timestamp,
        dry_run: bool,
    ) -> CommandResult<Collected> {
        let keep = project.settings.retention_keep;
        let free = self.inner.store.collectable_bundles(project.id, keep, before).await?;
        if dry_run {
            return Ok(Collected { keep, bundles: free });
        }
        let mut bundles = Vec::new();
        for bundle in free {
            let now = self.now();
            let entry = NewEntry {
                actor: ctx.actor,
                action: "bundle.collected",
                resource_type: ChangeKind::Bundle.as_str(),
                resource_id: Some(bundle.id.0),
                project: Some(project.id),
                changes: json!({"bundle_id": bundle.content_id, "version": bundle.version, "status": bundle.status, "keep": keep}),
                request_id: ctx.request_id,
                ip: ctx.address.map(|a| a.to_string()),
            };
            let change =
                NewChange { kind: ChangeKind::Bundle, id: bundle.id.0, project: Some(project.id), version: now.0 };
            let write = Write::at(now).audit(self.fresh().id(now), entry).change(change);
            match self.inner.store.collect_bundle(bundle.id, write).await {
                Ok(()) => bundles.push(bundle),
                // Somebody needs it since we looked, or another instance was faster.
                Err(store::Error::Conflict("state") | store::Error::NotFound) => {}
                Err(e) => return Err(e.into()),
            }
        }
        self.remove_collected().await?;
        Ok(Collected { keep, bundles })
    }

    /// The archives of collected rows, also of those that a crash left behind.
    async fn remove_collected(&self) -> CommandResult<()> {
        let away = |e: artifacts::Error| CommandError::Unavailable(e.to_string());
        for (project, content) in self.inner.store.collected(BATCH).await? {
            let now = self.now();
            if !self.inner.store.lease_collected(project, content, now, now - REMOVAL_LEASE).await? {
                continue;
            }
            let removal = async {
                for key in [Key::bundle(project, content), Key::unsigned(project, content)] {
                    self.inner.artifacts.delete(&key).await?;
                }
                Ok::<(), artifacts::Error>(())
            };
            let slow = || CommandError::Unavailable("the artifact store is slow to remove archives".into());
            tokio::time::timeout(REMOVAL, removal).await.map_err(|_| slow())?.map_err(away)?;
            self.inner.store.collected_done(project, content, now).await?;
        }
        Ok(())
    }

    /// Every project, every now and then.
    pub(crate) async fn sweep_retention(&self) -> CommandResult<u64> {
        let mut collected = 0;
        for project in self.inner.store.all_projects().await? {
            let before = self.now() - BUNDLE_AGE;
            collected += self.collect(&Ctx::system(), &project, before, false).await?.bundles.len() as u64;
        }
        self.remove_collected().await?;
        self.inner.store.prune_resources(self.now() - RESOURCE_AGE).await?;
        Ok(collected)
    }
}
