//! Desired configurations, compilation, and the life of a bundle.

use super::write::*;
use crate::command::*;
use crate::compile_job::{diagnostic_text, input_hash, queued_row};
use crate::plane::ControlPlane;
use ::bundle::Sources;
use ::bundle::guard::{has_private_key, line_column};
use ::bundle::source::SourceError;
use domain::audit::NewEntry;
use domain::bundle::{Bundle, BundleStatus, DesiredConfig, Source};
use domain::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use store::{ChangeKind, IdemRecord, NewChange, Write};

/// Characters of a source's reference: a commit, a branch, a URL.
const MAX_REFERENCE: usize = 500;
/// The longest a request waits for its compile.
pub const MAX_COMPILE_WAIT: Duration = Duration::from_secs(60);

/// Whether a compile made something or found it.
#[derive(Clone, Debug)]
pub struct Compiled {
    pub bundle: Bundle,
    /// `false`: the same content existed before.
    pub created: bool,
}

impl ControlPlane {
    /// Stores the files as they are; whether they are a valid config is for the compiler to say. What may not even be
    /// stored is refused here: bad names, too much, a literal private key.
    pub async fn submit_config(
        &self,
        caller: &Caller,
        project: ProjectId,
        files: BTreeMap<String, String>,
        source: Source,
    ) -> CommandResult<DesiredConfig> {
        let first = Box::pin(self.submit_config_first(caller, project, files, source));
        self.once(caller, |id| self.config_again(project, DesiredConfigId(id)), first).await
    }

    async fn submit_config_first(
        &self,
        caller: &Caller,
        project: ProjectId,
        files: BTreeMap<String, String>,
        source: Source,
    ) -> CommandResult<DesiredConfig> {
        self.project_by_id(project).await?;
        let sources = Sources(files);
        let mut faults = Faults::default();
        for error in sources.check().err().unwrap_or_default() {
            let field = match error {
                SourceError::Path(..) | SourceError::SameName(..) | SourceError::TooManyFiles(_) => "files",
                SourceError::NoEntry | SourceError::TooLarge(_) => "config",
            };
            faults.add(field, error.to_string());
        }
        for (path, text) in &sources.0 {
            if let Some(at) = has_private_key(text) {
                let (line, column) = line_column(text, at);
                faults.add(
                    "config",
                    format!("{path}:{line}:{column}: holds a private key; secrets are only referred to"),
                );
            }
        }
        faults.name("source.type", &source.kind);
        faults.text("source.ref", source.reference.as_deref().unwrap_or_default(), MAX_REFERENCE);
        faults.done()?;
        let now = self.now();
        let config = DesiredConfig {
            id: self.fresh().id(now),
            project,
            input_hash: sources.digest(),
            source,
            files: sources.0,
            inserted_at: now,
        };
        let changes = json!({
            "files": config.files.keys().collect::<Vec<_>>(), "bytes": config.files.values().map(String::len).sum::<usize>(),
            "input_hash": config.input_hash, "source": config.source,
        });
        let write = Write::at(now)
            .audit(self.fresh().id(now), config_entry(caller, "desired_config.created", &config, changes))
            .idem(config_idem(caller, now, &config));
        self.inner.store.insert_desired_config(config.clone(), write).await?;
        Ok(config)
    }

    /// `desired`: `None` is the project's newest. Waits for the result up to `wait`; else answers `compiling`.
    ///
    /// Errors: `Invalid("config")` with the validator's messages when there was time to wait for them; `Conflict`
    /// `bundle_revoked` and `version_taken`.
    pub async fn compile(
        &self,
        caller: &Caller,
        project: ProjectId,
        desired: Option<DesiredConfigId>,
        version: Option<String>,
        wait: Duration,
    ) -> CommandResult<Compiled> {
        if let Some(before) = self.answered(caller).await? {
            return self.compiled_again(caller, project, &before, wait).await;
        }
        match self.compile_first(caller, project, desired, version, wait).await {
            // The same request at once: one of the two stored its answer first.
            Err(why @ CommandError::Invalid(_)) if is_idempotency(&why) => match self.answered(caller).await? {
                Some(before) => self.compiled_again(caller, project, &before, wait).await,
                None => Err(why),
            },
            done => done,
        }
    }

    /// The row that the first request made; where it had found one, the same input finds it again.
    async fn compiled_again(
        &self,
        caller: &Caller,
        project: ProjectId,
        before: &Value,
        wait: Duration,
    ) -> CommandResult<Compiled> {
        let id = |key: &str| before.get(key).and_then(Value::as_str).and_then(|id| id.parse::<uuid::Uuid>().ok());
        if let Some(row) = id("id") {
            match self.inner.store.bundle_by_id(Scope::Project(project), BundleId(row)).await {
                Ok(bundle) => {
                    let created = bundle.id.0 == row;
                    return self.compiled(bundle, created, wait).await;
                }
                Err(store::Error::NotFound) => {}
                Err(e) => return Err(e.into()),
            }
        }
        let caller = Caller { idempotency: None, ..caller.clone() };
        let version = before.get("version").and_then(Value::as_str).map(String::from);
        let desired = id("desired_config_id").map(DesiredConfigId);
        self.compile_first(&caller, project, desired, version, wait).await
    }

    async fn compile_first(
        &self,
        caller: &Caller,
        project: ProjectId,
        desired: Option<DesiredConfigId>,
        version: Option<String>,
        wait: Duration,
    ) -> CommandResult<Compiled> {
        let store = &self.inner.store;
        let settings = self.project_by_id(project).await?.settings;
        if let Some(version) = &version {
            let mut faults = Faults::default();
            faults.name("version", version);
            if Digest::parse(version).is_some() || version.parse::<BundleId>().is_ok() {
                faults.add("version", "must not look like the id of a bundle");
            }
            faults.done()?;
        }
        let config = match desired {
            Some(id) => store.desired_config(project, id).await,
            None => store.newest_desired_config(project).await,
        };
        let config = config.map_err(|e| match e {
            store::Error::NotFound => {
                CommandError::invalid("desired_config_id", "there is no such configuration in this project")
            }
            other => other.into(),
        })?;
        let now = self.now();
        let resources = store.resource_set(project).await?;
        let input = input_hash(config.input_hash, &settings, &resources);
        let mut row = queued_row(self.fresh().id(now), &config, version.clone(), resources, now);
        row.created_by = caller.user;
        let changes = json!({"version": version, "bundle_row_id": row.id, "input_hash": config.input_hash});
        let write = Write::at(now)
            .audit(self.fresh().id(now), config_entry(caller, "bundle.compile_requested", &config, changes))
            .change(NewChange { kind: ChangeKind::Bundle, id: row.id.0, project: Some(project), version: now.0 })
            .idem(compile_idem(caller, now, row.id, &config, version.as_deref()));
        let queued = store.enqueue_compile(row, input, write).await.map_err(|e| match e {
            store::Error::Conflict("version") => CommandError::Conflict {
                code: "version_taken",
                detail: format!("the version {:?} names other content", version.unwrap_or_default()),
            },
            store::Error::NotFound => CommandError::NotFound("project"),
            other => other.into(),
        })?;
        self.compiled(queued.bundle, queued.created, wait).await
    }

    /// The answer about a row that was found or made, once it is settled or the time is over.
    async fn compiled(&self, mut bundle: Bundle, created: bool, wait: Duration) -> CommandResult<Compiled> {
        let id = bundle.id;
        if bundle.status == BundleStatus::Compiling {
            self.inner.compiles.start(id).await;
            if !wait.is_zero() {
                bundle = self.inner.compiles.wait_for(&self.inner.store, id, wait.min(MAX_COMPILE_WAIT)).await?;
            }
        }
        match bundle.status {
            BundleStatus::Revoked => Err(CommandError::Conflict {
                code: "bundle_revoked",
                detail: format!("this content is the revoked bundle {}", bundle.content_id.unwrap_or(Digest::ZERO)),
            }),
            BundleStatus::Failed => Err(CommandError::Invalid(
                bundle.errors.iter().map(|d| ("config".into(), diagnostic_text(d))).collect(),
            )),
            BundleStatus::Compiling
            | BundleStatus::AwaitingSignature
            | BundleStatus::Compiled
            | BundleStatus::Deprecated => Ok(Compiled { created: created && bundle.id == id, bundle }),
        }
    }

    /// What most of the fleet runs, to compare a bundle with. Errors: `Conflict("nothing_to_compare")`.
    pub async fn fleet_bundle(&self, project: ProjectId) -> CommandResult<Bundle> {
        let store = &self.inner.store;
        let running = crate::compile_job::job::running_bundle(store, project).await?;
        let id = running.ok_or_else(|| nothing("no node runs a bundle, and no rollout has completed"))?;
        store.bundle_by_id(Scope::Project(project), id).await.map_err(missing("bundle"))
    }

    /// The compiled bundle before this one. Errors: `Conflict("nothing_to_compare")`.
    pub async fn parent_bundle(&self, project: ProjectId, of: &Bundle) -> CommandResult<Bundle> {
        let before = self.inner.store.bundle_before(project, of.id).await?;
        before.ok_or_else(|| nothing("it is the first bundle of the project"))
    }

    /// Stops a compile that has not ended. Errors: `Conflict("bundle_state")` when it has.
    pub async fn cancel_compile(&self, caller: &Caller, project: ProjectId, id: BundleId) -> CommandResult<Bundle> {
        let store = &self.inner.store;
        let bundle = self.bundle_to_change(project, id).await?;
        let who = match caller.ctx.actor {
            Actor::User(_) => "by a person",
            Actor::ApiKey(_) => "by an API key",
            Actor::Node(_) | Actor::System => "by the control plane",
        };
        let text = format!("cancelled {who}");
        let changes = json!({"version": bundle.version, "errors": [&text]});
        let write = self.bundle_write(caller, "bundle.cancelled", &bundle, changes);
        let why = vec![domain::bundle::Diagnostic { text, file: None, line: None, column: None }];
        match store.set_failed(bundle.id, why, write).await {
            Ok(()) => self.inner.compiles.stop(bundle.id).await,
            Err(store::Error::Conflict("state")) => {
                return Err(CommandError::Conflict {
                    code: "bundle_state",
                    detail: format!("the bundle is {}: only a compile that goes on can be cancelled", bundle.status),
                });
            }
            Err(e) => return Err(e.into()),
        }
        self.inner.compiles.count(BundleStatus::Failed);
        store.bundle_by_id(Scope::Project(project), bundle.id).await.map_err(missing("bundle"))
    }

    /// Distribution stops at once. Answers how many nodes run it.
    pub async fn revoke_bundle(
        &self,
        caller: &Caller,
        project: ProjectId,
        id: BundleId,
        reason: Option<String>,
    ) -> CommandResult<(Done, u64)> {
        let first = Box::pin(self.revoke_bundle_first(caller, project, id, reason));
        self.once(caller, |id| self.revoked_again(BundleId(id)), first).await
    }

    async fn revoke_bundle_first(
        &self,
        caller: &Caller,
        project: ProjectId,
        id: BundleId,
        reason: Option<String>,
    ) -> CommandResult<(Done, u64)> {
        let mut faults = Faults::default();
        faults.text("reason", reason.as_deref().unwrap_or_default(), MAX_TEXT);
        faults.done()?;
        let store = &self.inner.store;
        let bundle = self.bundle_to_change(project, id).await?;
        let suspended = store.pinned_to(bundle.id).await?;
        let changes = json!({
            "bundle_id": bundle.content_id, "version": bundle.version, "reason": reason, "suspended_pins": suspended,
            "status": {"from": bundle.status, "to": BundleStatus::Revoked},
        });
        let write = self.bundle_write(caller, "bundle.revoked", &bundle, changes);
        let done = store.revoke_bundle(Scope::Project(project), bundle.id, reason, write).await;
        let done = done.map_err(|e| wrong_state(e, &bundle))?;
        if done.changed {
            self.inner.compiles.count(BundleStatus::Revoked);
        }
        // Also when it was revoked already: the command before may have ended in between.
        Box::pin(self.bundle_revoked(project, bundle.id)).await;
        let running_on = store.running_on(bundle.id).await?;
        Ok((if done.changed { Done::Changed } else { Done::Already }, running_on.max(0) as u64))
    }

    pub async fn deprecate_bundle(&self, caller: &Caller, project: ProjectId, id: BundleId) -> CommandResult<Done> {
        let first = Box::pin(self.deprecate_bundle_first(caller, project, id));
        self.once(caller, |_| std::future::ready(Ok(Done::Changed)), first).await
    }

    async fn deprecate_bundle_first(&self, caller: &Caller, project: ProjectId, id: BundleId) -> CommandResult<Done> {
        let bundle = self.bundle_to_change(project, id).await?;
        let changes = json!({
            "bundle_id": bundle.content_id, "version": bundle.version,
            "status": {"from": bundle.status, "to": BundleStatus::Deprecated},
        });
        let write = self.bundle_write(caller, "bundle.deprecated", &bundle, changes);
        let done = self.inner.store.deprecate_bundle(Scope::Project(project), bundle.id, write).await;
        let done = done.map_err(|e| wrong_state(e, &bundle))?;
        if done.changed {
            self.inner.compiles.count(BundleStatus::Deprecated);
        }
        Ok(if done.changed { Done::Changed } else { Done::Already })
    }

    async fn config_again(&self, project: ProjectId, id: DesiredConfigId) -> CommandResult<DesiredConfig> {
        self.inner.store.desired_config(project, id).await.map_err(missing("configuration"))
    }

    async fn revoked_again(&self, id: BundleId) -> CommandResult<(Done, u64)> {
        Ok((Done::Changed, self.inner.store.running_on(id).await?.max(0) as u64))
    }

    /// The row itself, also when `id` is an alias of it.
    async fn bundle_to_change(&self, project: ProjectId, id: BundleId) -> CommandResult<Bundle> {
        self.inner.store.bundle_by_id(Scope::Project(project), id).await.map_err(missing("bundle"))
    }

    fn bundle_write(&self, caller: &Caller, action: &'static str, bundle: &Bundle, changes: Value) -> Write {
        let (kind, project, now) = (ChangeKind::Bundle, Some(bundle.project), self.now());
        let idem = idem(caller, now, 200, kind, bundle.id.0);
        self.write_at(now, &caller.ctx, Said { action, kind, id: bundle.id.0, project, changes }).idem(idem)
    }
}

fn nothing(why: &str) -> CommandError {
    CommandError::Conflict { code: "nothing_to_compare", detail: why.into() }
}

fn wrong_state(e: store::Error, bundle: &Bundle) -> CommandError {
    match e {
        store::Error::Conflict("state") => CommandError::Conflict {
            code: "bundle_state",
            detail: format!("the bundle is {}: this is for compiled bundles", bundle.status),
        },
        store::Error::NotFound => CommandError::NotFound("bundle"),
        other => other.into(),
    }
}

/// About the files, not about a row: the same files again may find a row that is there.
fn config_entry(caller: &Caller, action: &'static str, config: &DesiredConfig, changes: Value) -> NewEntry {
    NewEntry {
        actor: caller.ctx.actor,
        action,
        resource_type: "desired_config",
        resource_id: Some(config.id.0),
        project: Some(config.project),
        changes,
        request_id: caller.ctx.request_id,
        ip: caller.ctx.address.map(|a| a.to_string()),
    }
}

fn config_idem(caller: &Caller, at: Timestamp, config: &DesiredConfig) -> Option<IdemRecord> {
    let record = idem(caller, at, 201, ChangeKind::Bundle, config.id.0)?;
    Some(IdemRecord { response: json!({"kind": "desired_config", "id": config.id}), ..record })
}

/// `{"kind": "compile", "id": <the row, if one was made>, "desired_config_id", "version"}`: whether a row was made is only
/// known once this is stored.
fn compile_idem(
    caller: &Caller,
    at: Timestamp,
    row: BundleId,
    config: &DesiredConfig,
    version: Option<&str>,
) -> Option<IdemRecord> {
    let record = idem(caller, at, 202, ChangeKind::Bundle, row.0)?;
    let response = json!({"kind": "compile", "id": row, "desired_config_id": config.id, "version": version});
    Some(IdemRecord { response, ..record })
}

/// The store's answer to a second request with a key that is being used.
fn is_idempotency(why: &CommandError) -> bool {
    matches!(why, CommandError::Invalid(fields) if fields.iter().any(|(field, _)| field == "Idempotency-Key"))
}
