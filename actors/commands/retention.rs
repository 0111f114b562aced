//! Retention: bundles that nobody needs are collected, row and archive.
//!
//! The order never leaves a promise that cannot be kept: in one transaction the row goes, if nobody needs it, and a note is left
//! that its archive is to go; while the note is there nobody can claim the content; then the archive goes, then the note. After a
//! crash in between, the next sweep goes on from the notes.

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
    /// Collects what the project's retention allows. `dry_run` changes nothing and answers the same.
    pub async fn collect_bundles(
        &self,
        caller: &Caller,
        project: ProjectId,
        dry_run: bool,
    ) -> CommandResult<Collected> {
        let project = self.project_by_id(project).await?;
        self.collect(&caller.ctx, &project, dry_run).await
    }

    async fn collect(&self, ctx: &Ctx, project: &Project, dry_run: bool) -> CommandResult<Collected> {
        let keep = project.settings.retention_keep;
        let free = self.inner.store.collectable_bundles(project.id, keep).await?;
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
            for key in [Key::bundle(project, content), Key::unsigned(project, content)] {
                self.inner.artifacts.delete(&key).await.map_err(away)?;
            }
            self.inner.store.collected_done(project, content).await?;
        }
        Ok(())
    }

    /// Every project, every now and then.
    pub(crate) async fn sweep_retention(&self) -> CommandResult<u64> {
        let mut collected = 0;
        for project in self.inner.store.all_projects().await? {
            collected += self.collect(&Ctx::system(), &project, false).await?.bundles.len() as u64;
        }
        self.remove_collected().await?;
        self.inner.store.prune_resources(self.now() - RESOURCE_AGE).await?;
        Ok(collected)
    }
}
