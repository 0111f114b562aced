//! Signatures that come from outside: over manifests that wait for them, and release statements.
//!
//! Invariants: nothing is taken that a node would refuse; a statement is passed on as it was signed, never made here.

use super::write::*;
use crate::command::*;
use crate::compile_job::job::put_or_replace;
use crate::kept::Kept;
use crate::plane::ControlPlane;
use ::bundle::archive::{self, MANIFEST, MAX_ARCHIVE_BYTES};
use ::bundle::trust::{Envelope, Release, valid_signers};
use ::bundle::verify::{check_manifest, check_release};
use ::bundle::{BuildError, SignatureFile};
use artifacts::Key;
use domain::bundle::{Bundle, BundleStatus};
use domain::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use store::{ChangeKind, ReleaseRow, Signed};

/// Projects whose statements are remembered.
pub(crate) const MAX_RELEASES_OF: usize = 10_000;

/// The newest release statement about each bundle, by project: what goes along with poll answers.
pub(crate) type ReleaseIndex = Kept<ProjectId, Arc<HashMap<ContentId, Value>>>;

impl ControlPlane {
    /// What the bundle key last said about this content. `None` for most: statements are for keys that are kept offline.
    pub(crate) async fn release_of(&self, project: ProjectId, content: ContentId) -> CommandResult<Option<Value>> {
        Ok(self.releases_of(project).await?.get(&content).cloned())
    }

    pub(crate) async fn has_releases(&self, project: ProjectId) -> CommandResult<bool> {
        Ok(!self.releases_of(project).await?.is_empty())
    }

    async fn releases_of(&self, project: ProjectId) -> CommandResult<Arc<HashMap<ContentId, Value>>> {
        let read = async {
            let mut known = HashMap::new();
            for row in self.inner.store.newest_releases(project).await? {
                let said: Result<Envelope, _> = serde_json::from_value(row.body.clone());
                match said.ok().and_then(|e| e.decode::<Release>().ok()) {
                    Some(release) => known.insert(release.bundle_id, row.body),
                    None => return Err(CommandError::Unavailable("a release statement cannot be read".into())),
                };
            }
            Ok(Arc::new(known))
        };
        self.inner.releases.or_read(project, read).await
    }

    /// Adds signatures to a bundle that waits for them; bundle keys that are here sign as well. A bundle whose signatures the
    /// newest trust document no longer accepts can be signed anew while no rollout is at it and no node is assigned it. Interrupted
    /// between the row and the archive, the same again ends it.
    ///
    /// Errors: `Invalid("signature")` when they are not valid or too few, `Conflict("bundle_state")`.
    pub async fn sign_bundle(
        &self,
        caller: &Caller,
        project: ProjectId,
        id: BundleId,
        signature: Option<SignatureFile>,
    ) -> CommandResult<(Done, Bundle)> {
        let found = self.inner.store.bundle_by_id(Scope::Project(project), id).await.map_err(missing("bundle"))?;
        let (Some(content), Some(manifest)) = (found.content_id, &found.manifest) else {
            return Err(not_signable(&found, "there is nothing to sign yet"));
        };
        let org = self.project_by_id(project).await?.org;
        self.inner.keys.at_least(org, crate::keys::NEWEST).await?;
        let bytes = ::bundle::canon::to_vec(manifest).map_err(|e| CommandError::Unavailable(e.to_string()))?;
        let keys = self.inner.keys.trust_doc(org).await?.roles.bundle;
        let again = match found.status {
            BundleStatus::AwaitingSignature => false,
            BundleStatus::Compiled | BundleStatus::Deprecated => true,
            BundleStatus::Compiling | BundleStatus::Failed | BundleStatus::Revoked => {
                return Err(not_signable(&found, "it takes no signature"));
            }
        };
        let stored = if again { self.archive(&Key::bundle(project, content)).await? } else { None };
        if let Some((hash, files)) = &stored {
            let accepted = signature_in(files).is_some_and(|s| check_manifest(&keys, &bytes, &s).is_ok());
            if accepted && found.artifact_hash == Some(*hash) {
                return Ok((Done::Already, found));
            }
        }
        let mut all = self.inner.keys.bundle_signatures(org, &bytes).await?;
        all.extend(signature.map(|s| s.signatures()).unwrap_or_default());
        let valid = valid_signers(&bytes, &all, &keys.keys);
        all.retain(|s| valid.contains(&s.key_id));
        let file = SignatureFile::of(all).ok_or_else(|| {
            CommandError::invalid("signature", "has no valid signature by a bundle key of the newest trust document")
        })?;
        check_manifest(&keys, &bytes, &file).map_err(|e| CommandError::invalid("signature", e.to_string()))?;
        let from = match stored {
            Some(stored) => Some(stored),
            None => self.archive(&Key::unsigned(project, content)).await?,
        };
        let files = from.map(|f| f.1).filter(|files| files.get(MANIFEST) == Some(&bytes)).ok_or_else(|| {
            CommandError::Unavailable(format!("the archive of {content} in the store is not the compiled one"))
        })?;
        let packed = pack(files, file.clone()).await?;
        // What the row promises and a crash kept from the store is put there, whoever was told of it since.
        let promised = again && found.artifact_hash == Some(packed.artifact_hash);
        let bundle = if promised { found } else { self.signed(caller, found, content, &file, &packed, again).await? };
        put_or_replace(&self.inner.artifacts, &Key::bundle(project, content), packed)
            .await
            .map_err(|e| CommandError::Unavailable(e.to_string()))?;
        self.archive_changed(bundle.id);
        // Left lying it does no harm: retention takes it with the bundle.
        if let Err(why) = self.inner.artifacts.delete(&Key::unsigned(project, content)).await {
            tracing::warn!(%content, %why, "the unsigned archive was not removed");
        }
        Ok((Done::Changed, bundle))
    }

    /// Writes the row: what it says from then on names an archive that is put next, and that only this signer puts.
    async fn signed(
        &self,
        caller: &Caller,
        found: Bundle,
        content: ContentId,
        file: &SignatureFile,
        packed: &archive::Archive,
        again: bool,
    ) -> CommandResult<Bundle> {
        let (store, project) = (&self.inner.store, found.project);
        if again {
            let used = store.bundle_use(found.id).await?;
            if used.active_rollouts > 0 || used.desired_on > 0 {
                let why = "a rollout is at it or nodes are assigned it: what they were told names the archive before, for \
                           good; roll out a bundle that was compiled since";
                return Err(not_signable(&found, why));
            }
        }
        let signed = Signed {
            signature: file.signature.clone(),
            key_id: file.key_id.clone(),
            artifact_hash: packed.artifact_hash,
            size_bytes: packed.size,
        };
        let changes = json!({
            "bundle_id": content, "version": found.version, "artifact_hash": signed.artifact_hash.prefixed(), "again": again,
            "key_ids": file.signatures().into_iter().map(|s| s.key_id).collect::<Vec<_>>(),
        });
        let said =
            Said { action: "bundle.signed", kind: ChangeKind::Bundle, id: found.id.0, project: Some(project), changes };
        let (write, scope) = (self.write(&caller.ctx, said), Scope::Project(project));
        let done = match again {
            true => store.replace_signature(scope, found.id, signed, write).await,
            false => store.set_signature(scope, found.id, signed, write).await,
        };
        let bundle = done.map_err(|e| match e {
            store::Error::Conflict("state") => not_signable(&found, "somebody was faster"),
            other => other.into(),
        })?;
        if !again {
            self.inner.compiles.count(BundleStatus::Compiled);
        }
        Ok(bundle)
    }

    /// Publishes a statement that was signed by the bundle keys elsewhere.
    ///
    /// Errors: `Invalid("release")`, `Conflict("sequence_taken")`.
    pub async fn publish_release(
        &self,
        caller: &Caller,
        project: ProjectId,
        envelope: Envelope,
    ) -> CommandResult<ReleaseRow> {
        let org = self.project_by_id(project).await?.org;
        self.inner.keys.at_least(org, crate::keys::NEWEST).await?;
        let keys = self.inner.keys.trust_doc(org).await?.roles.bundle;
        let release = check_release(&keys, &envelope).map_err(|e| CommandError::invalid("release", e.to_string()))?;
        let mut faults = Faults::default();
        if release.project != project {
            faults.add("release", "is for another project");
        }
        if release.floor > release.sequence {
            faults.add("release", "its floor is above its own sequence: no node could run the bundle");
        }
        if release.revoked.contains(&release.bundle_id) {
            faults.add("release", "revokes the bundle that it releases");
        }
        faults.future("release", Some(release.expires_at), self.now());
        faults.done()?;
        let named = store::BundleRef::Content(release.bundle_id);
        let bundle = self.inner.store.bundle(Scope::Project(project), project, named).await.map_err(|e| match e {
            store::Error::NotFound => CommandError::invalid("release", "names no bundle of this project"),
            other => other.into(),
        })?;
        let now = self.now();
        let body = serde_json::to_value(&envelope).map_err(|e| CommandError::invalid("release", e.to_string()))?;
        let id = self.fresh().uuid(now);
        let row = ReleaseRow { id, project, bundle: bundle.id, sequence: release.sequence, body, inserted_at: now };
        let changes = json!({
            "bundle_id": release.bundle_id, "sequence": release.sequence, "floor": release.floor,
            "revoked": release.revoked, "expires_at": release.expires_at,
        });
        let said = Said {
            action: "release.published",
            kind: ChangeKind::Bundle,
            id: bundle.id.0,
            project: Some(project),
            changes,
        };
        let write = self.write_at(now, &caller.ctx, said);
        self.inner.store.insert_release(row.clone(), write).await.map_err(|e| match e {
            store::Error::Conflict("sequence") => CommandError::Conflict {
                code: "sequence_taken",
                detail: "a release with this sequence or a higher one was published for another bundle".into(),
            },
            other => other.into(),
        })?;
        self.inner.releases.forget(project);
        self.archive_changed(bundle.id);
        Ok(row)
    }

    /// The files of a stored archive. `None`: it is not there.
    async fn archive(&self, key: &Key) -> CommandResult<Option<(Digest, BTreeMap<String, Vec<u8>>)>> {
        let away = |why: String| CommandError::Unavailable(format!("{key}: {why}"));
        let bytes = match self.inner.artifacts.get(key, MAX_ARCHIVE_BYTES).await {
            Ok(bytes) => bytes,
            Err(artifacts::Error::NotFound) => return Ok(None),
            Err(e) => return Err(away(e.to_string())),
        };
        let opened = tokio::task::spawn_blocking(move || (Digest::of(&bytes), ::bundle::read_archive(&bytes))).await;
        let (hash, files) = opened.map_err(|e| away(e.to_string()))?;
        Ok(Some((hash, files.map_err(|e| away(e.to_string()))?)))
    }
}

async fn pack(files: BTreeMap<String, Vec<u8>>, signature: SignatureFile) -> CommandResult<archive::Archive> {
    let packed = tokio::task::spawn_blocking(move || archive::pack(&files, Some(&signature))).await;
    let packed = packed.map_err(|e| CommandError::Unavailable(e.to_string()))?;
    packed.map_err(|e: BuildError| CommandError::Unavailable(e.to_string()))
}

fn signature_in(files: &BTreeMap<String, Vec<u8>>) -> Option<SignatureFile> {
    serde_json::from_slice(files.get(archive::SIGNATURE)?).ok()
}

fn not_signable(bundle: &Bundle, why: &str) -> CommandError {
    CommandError::Conflict { code: "bundle_state", detail: format!("the bundle is {}: {why}", bundle.status) }
}
