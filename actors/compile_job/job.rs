//! The stages of one job, each of which may be repeated: judge, render, claim the content, sign, pack, put, commit.

use super::{BUILDER, SYSTEM, Works, diagnostic_text};
use crate::plane::Inner;
use ::bundle::child::{ChildValidator, ValidatorError};
use ::bundle::guard::References;
use ::bundle::{BuildError, Rendered, SignatureFile, Sources, Verdict, archive, risk};
use domain::BundleId;
use domain::audit::NewEntry;
use domain::bundle::{Bundle, BundleStatus, Diagnostic};
use domain::project::Settings;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use store::{ChangeKind, ContentClaim, NewChange, Write};

/// Messages of a failed compile that its audit entry repeats.
const AUDITED_ERRORS: usize = 5;

/// Why a try did not end the job.
pub(super) enum Trouble {
    /// Somebody is away: the same try again, later.
    Away(String),
    /// Something is wrong with us: die, and be started again a few times.
    Broken(String),
}

impl From<store::Error> for Trouble {
    fn from(e: store::Error) -> Trouble {
        match e {
            // The outcome of `Unknown` shows when the row is read again, which every try begins with.
            store::Error::Unavailable(why) | store::Error::Unknown(why) => Trouble::Away(why),
            other => Trouble::Broken(other.to_string()),
        }
    }
}

impl From<artifacts::Error> for Trouble {
    fn from(e: artifacts::Error) -> Trouble {
        match e {
            artifacts::Error::Unavailable(why) => Trouble::Away(why),
            other => Trouble::Broken(other.to_string()),
        }
    }
}

impl From<crate::command::CommandError> for Trouble {
    fn from(e: crate::command::CommandError) -> Trouble {
        use crate::command::CommandError as E;
        match e {
            E::Unavailable(why) | E::Unknown(why) => Trouble::Away(why),
            E::NotFound(what) => Trouble::Broken(format!("{what} is missing")),
            E::Forbidden(why) => Trouble::Broken(why),
            E::Conflict { detail, .. } => Trouble::Broken(detail),
            E::Invalid(fields) => Trouble::Broken(format!("{fields:?}")),
        }
    }
}

/// A judged and rendered config, or why it is none.
enum Made {
    Rendered(Box<(Verdict, Rendered)>),
    Refused(Vec<Diagnostic>),
}

/// One job with what it works with.
pub(super) struct Job<'a> {
    pub works: &'a Works,
    pub plane: &'a Inner,
    pub id: BundleId,
}

impl Job<'_> {
    pub async fn attempt(&self, cancel: &Arc<AtomicBool>) -> Result<(), Trouble> {
        let (store, id) = (&self.plane.store, self.id);
        let row = match store.bundle_by_id(SYSTEM, id).await {
            Ok(row) if row.id == id && row.status == BundleStatus::Compiling => row,
            Ok(_) | Err(store::Error::NotFound) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let project = match store.project(SYSTEM, &row.project.to_string()).await {
            Ok(project) => project,
            Err(store::Error::NotFound) => return self.fail(&row, vec![plain("the project was deleted")]).await,
            Err(e) => return Err(e.into()),
        };
        let config = match row.desired_config {
            Some(config) => store.desired_config(row.project, config).await,
            None => Err(store::Error::NotFound),
        };
        let sources = match config {
            Ok(config) => Sources(config.files),
            Err(store::Error::NotFound) => return self.fail(&row, vec![plain("the submitted files are gone")]).await,
            Err(e) => return Err(e.into()),
        };
        let mut extra = BTreeMap::new();
        for (path, hash) in &row.resources {
            match store.resource_content(row.project, *hash).await {
                Ok(content) => extra.insert(path.clone(), content),
                Err(store::Error::NotFound) => {
                    return self.fail(&row, vec![plain(&format!("the resource {path} is gone"))]).await;
                }
                Err(e) => return Err(e.into()),
            };
        }
        let (verdict, rendered) = match self.make(&row, sources, extra, project.settings, cancel).await? {
            Made::Rendered(made) => *made,
            Made::Refused(why) => return self.fail(&row, why).await,
        };
        // Told on the event stream: the config is valid, and its content has a name.
        let now = self.plane.clock.now();
        let stage = NewChange { kind: ChangeKind::Bundle, id: id.0, project: Some(row.project), version: now.0 };
        match store.claim_content(id, rendered.content_id, Write::at(now).change(stage)).await {
            Ok(ContentClaim::Mine(_)) => {}
            // Its own row, perhaps its own job, does the rest; ours is an alias now.
            Ok(ContentClaim::Existing(_)) | Err(store::Error::NotFound) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
        let signature = self.plane.keys.sign_manifest(project.org, &rendered.manifest_bytes).await?;
        self.finish(&row, verdict, rendered, signature).await
    }

    /// Validates in the child and renders, on a thread that may block.
    async fn make(
        &self,
        row: &Bundle,
        sources: Sources,
        extra: BTreeMap<String, Vec<u8>>,
        settings: Settings,
        cancel: &Arc<AtomicBool>,
    ) -> Result<Made, Trouble> {
        let validator = ChildValidator { cancel: Some(cancel.clone()), ..self.plane.config.validator.clone() };
        let (project, created_at, source) = (row.project, row.created_at, row.source.clone());
        let made = tokio::task::spawn_blocking(move || {
            let verdict = validator.validate(&sources).map_err(no_verdict)?;
            let verdict = if settings.strict_config { verdict.into_strict() } else { verdict };
            if !verdict.ok {
                return Ok(Made::Refused(verdict.errors.iter().map(|m| m.diagnostic()).collect()));
            }
            let against = by_the_project(&settings, &extra, verdict.config_json.as_ref().unwrap_or(&Value::Null));
            if !against.is_empty() {
                return Ok(Made::Refused(against.iter().map(|text| plain(text)).collect()));
            }
            let inputs = archive::BuildInputs {
                project,
                created_at,
                source: &source,
                sources: &sources,
                verdict: &verdict,
                extra: &extra,
            };
            match archive::render(inputs) {
                Ok(rendered) => Ok(Made::Rendered(Box::new((verdict, rendered)))),
                Err(why @ (BuildError::Json(_) | BuildError::Pack(_))) => Err(Trouble::Broken(why.to_string())),
                Err(
                    why @ (BuildError::Invalid
                    | BuildError::Mismatch(_)
                    | BuildError::Path(..)
                    | BuildError::PrivateKey(_)
                    | BuildError::TooLarge(..)),
                ) => Ok(Made::Refused(vec![plain(&why.to_string())])),
            }
        });
        made.await.map_err(|e| Trouble::Broken(e.to_string()))?
    }

    /// Packs, stores, and commits. Without a signature the archive is packed later, once, when the signature comes.
    async fn finish(
        &self,
        row: &Bundle,
        verdict: Verdict,
        rendered: Rendered,
        signature: Option<SignatureFile>,
    ) -> Result<(), Trouble> {
        let store = &self.plane.store;
        let config = verdict.config_json.unwrap_or(Value::Null);
        let old = self.running_config(row).await?;
        let risk = risk::assess(old.as_ref(), &config, verdict.facts.unknown_keys);
        let manifest = serde_json::to_value(&rendered.manifest).map_err(|e| Trouble::Broken(e.to_string()))?;
        let content_id = rendered.content_id;
        let mut stored = None;
        if let Some(signature) = signature.clone() {
            let packed = tokio::task::spawn_blocking(move || archive::assemble(&rendered, Some(&signature)));
            let packed = packed.await.map_err(|e| Trouble::Broken(e.to_string()))?;
            let packed = match packed {
                Ok(packed) => packed,
                Err(why @ BuildError::TooLarge(..)) => return self.fail(row, vec![plain(&why.to_string())]).await,
                Err(why) => return Err(Trouble::Broken(why.to_string())),
            };
            stored = Some((packed.artifact_hash, packed.size));
            self.put(&artifacts::Key::bundle(row.project, content_id), packed).await?;
        } else {
            // The key is kept elsewhere: what it is to sign lies ready, and nobody is told of it before.
            let packed = tokio::task::spawn_blocking(move || archive::assemble(&rendered, None)).await;
            let packed = packed.map_err(|e| Trouble::Broken(e.to_string()))?;
            let packed = packed.map_err(|e| Trouble::Broken(e.to_string()))?;
            self.put(&artifacts::Key::unsigned(row.project, content_id), packed).await?;
        }
        let reasons = risk.restart_reasons.iter().map(|why| format!("needs a restart of the proxy: {why}"));
        let done = store::Compiled {
            id: row.id,
            content_id,
            artifact_hash: stored.map(|s| s.0),
            size_bytes: stored.map(|s| s.1),
            manifest,
            config,
            key_id: signature.as_ref().map(|s| s.key_id.clone()),
            signature: signature.map(|s| s.signature),
            builder: BUILDER.into(),
            risk: risk.level,
            risk_reasons: risk.reasons.into_iter().chain(reasons).collect(),
            warnings: verdict.warnings.iter().map(|m| m.diagnostic()).collect(),
            status: if stored.is_some() { BundleStatus::Compiled } else { BundleStatus::AwaitingSignature },
        };
        let changes = json!({
            "version": row.version, "bundle_id": content_id, "artifact_hash": done.artifact_hash.map(|h| h.prefixed()),
            "size_bytes": done.size_bytes, "risk": done.risk, "warnings": done.warnings.len(), "status": done.status,
            "caused_by": row.created_by,
        });
        let (status, write) = (done.status, self.write(row, "bundle.compiled", changes));
        if store.set_compiled(done, write).await?.changed {
            self.works.count(status);
        }
        Ok(())
    }

    async fn put(&self, key: &artifacts::Key, packed: archive::Archive) -> Result<(), Trouble> {
        Ok(put_or_replace(&self.plane.artifacts, key, packed).await?)
    }

    async fn running_config(&self, row: &Bundle) -> Result<Option<Value>, Trouble> {
        let store = &self.plane.store;
        let Some(bundle) = running_bundle(store, row.project).await? else { return Ok(None) };
        match store.bundle_by_id(SYSTEM, bundle).await {
            Ok(bundle) => Ok(bundle.config),
            Err(store::Error::NotFound) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    pub async fn fail(&self, row: &Bundle, errors: Vec<Diagnostic>) -> Result<(), Trouble> {
        let texts: Vec<String> = errors.iter().take(AUDITED_ERRORS).map(diagnostic_text).collect();
        let changes = json!({
            "version": row.version, "errors": texts, "error_count": errors.len(), "caused_by": row.created_by,
        });
        match self.plane.store.set_failed(row.id, errors, self.write(row, "bundle.failed", changes)).await {
            Ok(()) => {
                self.works.count(BundleStatus::Failed);
                Ok(())
            }
            // Another instance was faster.
            Err(store::Error::Conflict("state")) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn write(&self, row: &Bundle, action: &'static str, changes: Value) -> Write {
        let at = self.plane.clock.now();
        let entry = NewEntry {
            actor: domain::Actor::System,
            action,
            resource_type: ChangeKind::Bundle.as_str(),
            resource_id: Some(row.id.0),
            project: Some(row.project),
            changes,
            request_id: None,
            ip: None,
        };
        let change = NewChange { kind: ChangeKind::Bundle, id: row.id.0, project: Some(row.project), version: at.0 };
        Write::at(at).audit(self.plane.fresh.id(at), entry).change(change)
    }
}

/// What most nodes of the project run; while none runs anything, what its newest completed rollout brought.
pub(crate) async fn running_bundle(
    store: &store::Store,
    project: domain::ProjectId,
) -> store::Result<Option<BundleId>> {
    let stats = store.node_stats(project).await?;
    let most = stats.by_bundle.iter().filter_map(|(bundle, nodes)| bundle.map(|b| (*nodes, b))).max();
    match most {
        Some((_, bundle)) => Ok(Some(bundle)),
        None => Ok(store.newest_completed_for(project).await?.first().map(|done| done.bundle)),
    }
}

/// What a config that is valid by itself offends against in this project: its rules, and what it refers to and is not there.
fn by_the_project(settings: &Settings, extra: &BTreeMap<String, Vec<u8>>, config: &Value) -> Vec<String> {
    let shipped = extra.keys().map(String::as_str).collect();
    let secrets = settings.secrets.iter().map(String::as_str).collect();
    let mut faults = References::of(config).faults(&shipped, &secrets);
    faults.extend(settings.rules.judge(config));
    faults
}

/// Stores an archive that no node was told of yet, or whose row is written already. What lies there otherwise was left over: by a row that was
/// collected, with another `created_at`, or by a signature that was never committed.
pub(crate) async fn put_or_replace(
    artifacts: &artifacts::ArtifactStore,
    key: &artifacts::Key,
    packed: archive::Archive,
) -> artifacts::Result<()> {
    let (hash, bytes) = (packed.artifact_hash, packed.bytes);
    match artifacts.put_if_absent(key, bytes.clone().into(), Some(hash)).await {
        Err(artifacts::Error::Corrupt(why)) => {
            tracing::warn!(%key, why, "replacing an object that no bundle refers to");
            artifacts.delete(key).await?;
            artifacts.put_if_absent(key, bytes.into(), Some(hash)).await?;
        }
        put => {
            put?;
        }
    }
    Ok(())
}

/// The config may be fine: it is the validator that could not be asked.
pub(super) fn no_verdict(why: ValidatorError) -> Trouble {
    match why {
        ValidatorError::Cancelled => Trouble::Away(why.to_string()),
        ValidatorError::Start(_) | ValidatorError::Io(_) | ValidatorError::Answer(_) => {
            Trouble::Broken(why.to_string())
        }
    }
}

pub(super) fn plain(text: &str) -> Diagnostic {
    Diagnostic { text: text.into(), file: None, line: None, column: None }
}
