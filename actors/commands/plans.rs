//! Freeze windows, environments and rollout templates.

use super::write::*;
use crate::command::*;
use crate::plane::ControlPlane;
use crate::rollout::permit::environment_of;
use domain::approval::Policy;
use domain::environment::{Environment, EnvironmentSettings};
use domain::freeze::Freeze;
use domain::node::Selector;
use domain::project::check_slug;
use domain::*;
use serde_json::{Value, json};
use store::{ChangeKind, Document, Documents, Write};
use uuid::Uuid;

/// Environments and templates of one project, each.
const MAX_DOCUMENTS: usize = 200;
/// The first person's wish to loosen a rule waits this long for a second.
const SECOND_PERSON_WITHIN: Span = Span::secs(24 * 3600);

#[derive(Clone, Debug)]
pub struct FreezeWish {
    pub name: String,
    pub reason: String,
    /// `None`: now.
    pub starts_at: Option<Timestamp>,
    /// `None`: until somebody ends it.
    pub ends_at: Option<Timestamp>,
    pub environment: Option<Uuid>,
}

#[derive(Clone, Debug)]
pub struct EnvironmentWish {
    pub name: String,
    pub slug: String,
    pub ordinal: i64,
    pub selector: Selector,
    pub settings: EnvironmentSettings,
}

fn words(wish: &FreezeWish, now: Timestamp) -> CommandResult<()> {
    let mut faults = Faults::default();
    faults.name("name", &wish.name);
    faults.text("reason", &wish.reason, MAX_TEXT);
    if wish.reason.trim().is_empty() {
        faults.add("reason", "is required");
    }
    if wish.ends_at.is_some_and(|end| end <= wish.starts_at.unwrap_or(now)) {
        faults.add("ends_at", "must be after starts_at");
    }
    faults.done()
}

impl ControlPlane {
    pub async fn create_freeze(&self, caller: &Caller, project: ProjectId, wish: FreezeWish) -> CommandResult<Freeze> {
        let again = |id| async move { self.freeze(project, FreezeId(id)).await };
        self.once(caller, again, Box::pin(self.create_freeze_once(caller, project, wish))).await
    }

    async fn create_freeze_once(&self, caller: &Caller, project: ProjectId, wish: FreezeWish) -> CommandResult<Freeze> {
        let now = self.now();
        words(&wish, now)?;
        self.known_environment(project, wish.environment).await?;
        let row = self.project_by_id(project).await?;
        let freeze = Freeze {
            id: self.fresh().id(now),
            org: row.org,
            project: Some(project),
            environment: wish.environment,
            name: wish.name,
            reason: wish.reason,
            starts_at: wish.starts_at.unwrap_or(now),
            ends_at: wish.ends_at,
            created_by: caller.user.map(|u| u.0),
            inserted_at: now,
        };
        let write = self.freeze_write(caller, "freeze.created", &freeze, 201, now);
        self.inner.store.insert_freeze(freeze.clone(), write).await?;
        self.freezes_changed();
        Ok(freeze)
    }

    /// The whole window anew; `ends_at` now ends it.
    pub async fn update_freeze(
        &self,
        caller: &Caller,
        project: ProjectId,
        id: FreezeId,
        wish: FreezeWish,
    ) -> CommandResult<Freeze> {
        let again = |id| async move { self.freeze(project, FreezeId(id)).await };
        let first = async {
            let (now, old) = (self.now(), self.freeze(project, id).await?);
            let wish = FreezeWish { starts_at: Some(wish.starts_at.unwrap_or(old.starts_at)), ..wish };
            words(&wish, now)?;
            self.known_environment(project, wish.environment).await?;
            let new = Freeze {
                name: wish.name,
                reason: wish.reason,
                starts_at: wish.starts_at.unwrap_or(old.starts_at),
                ends_at: wish.ends_at,
                environment: wish.environment,
                ..old
            };
            let write = self.freeze_write(caller, "freeze.updated", &new, 200, now);
            self.inner.store.update_freeze(new.clone(), write).await.map_err(missing("freeze window"))?;
            self.freezes_changed();
            Ok(new)
        };
        self.once(caller, again, Box::pin(first)).await
    }

    pub async fn delete_freeze(&self, caller: &Caller, project: ProjectId, id: FreezeId) -> CommandResult<()> {
        let first = async {
            let old = self.freeze(project, id).await?;
            let write = self.freeze_write(caller, "freeze.deleted", &old, 204, self.now());
            self.inner.store.delete_freeze(project, id, write).await.map_err(missing("freeze window"))?;
            self.freezes_changed();
            Ok(())
        };
        self.once(caller, |_| std::future::ready(Ok(())), Box::pin(first)).await
    }

    /// A window of this project; those of the whole organisation are not changed from inside one.
    pub async fn freeze(&self, project: ProjectId, id: FreezeId) -> CommandResult<Freeze> {
        let all = self.inner.store.freezes(project).await?;
        let found = all.into_iter().find(|f| f.id == id && f.project == Some(project));
        found.ok_or(CommandError::NotFound("freeze window"))
    }

    fn freezes_changed(&self) {
        self.inner.freezes.forget();
        self.wake_rollouts();
    }

    fn freeze_write(&self, caller: &Caller, action: &'static str, f: &Freeze, status: u16, now: Timestamp) -> Write {
        let changes = json!({"name": f.name, "reason": f.reason, "starts_at": f.starts_at, "ends_at": f.ends_at,
            "environment_id": f.environment});
        let said = Said { action, kind: ChangeKind::Freeze, id: f.id.0, project: f.project, changes };
        self.write_at(now, &caller.ctx, said).idem(idem(caller, now, status, ChangeKind::Freeze, f.id.0))
    }

    async fn known_environment(&self, project: ProjectId, id: Option<Uuid>) -> CommandResult<()> {
        let Some(id) = id else { return Ok(()) };
        let found = self.inner.store.document(Documents::Environments, project, id).await;
        found.map(drop).map_err(|e| match e {
            store::Error::NotFound => CommandError::invalid("environment_id", "is no environment of this project"),
            other => other.into(),
        })
    }
}

impl ControlPlane {
    pub async fn create_environment(
        &self,
        caller: &Caller,
        project: ProjectId,
        wish: EnvironmentWish,
    ) -> CommandResult<Document> {
        let again = |id| async move { self.document(Documents::Environments, project, id).await };
        let first = async {
            self.check_environment(project, None, &wish).await?;
            self.insert(caller, Documents::Environments, project, &wish.name, wish.ordinal, body_of(&wish)).await
        };
        self.once(caller, again, Box::pin(first)).await
    }

    pub async fn update_environment(
        &self,
        caller: &Caller,
        project: ProjectId,
        id: Uuid,
        wish: EnvironmentWish,
    ) -> CommandResult<Document> {
        let again = |id| async move { self.document(Documents::Environments, project, id).await };
        let first = async {
            let old = self.document(Documents::Environments, project, id).await?;
            self.check_environment(project, Some(id), &wish).await?;
            let was = environment_of(old.clone());
            let moved = was.selector != wish.selector && was.settings.policy().people() > 0;
            if moved || was.settings.policy().is_loosened_by(&wish.settings.policy()) {
                self.needs_second_person(caller, &format!("environment/{id}"), &body_of(&wish)).await?;
            }
            let new = Document { name: wish.name.clone(), ordinal: wish.ordinal, body: body_of(&wish), ..old };
            self.update(caller, Documents::Environments, new).await
        };
        self.once(caller, again, Box::pin(first)).await
    }

    async fn check_environment(
        &self,
        project: ProjectId,
        id: Option<Uuid>,
        wish: &EnvironmentWish,
    ) -> CommandResult<()> {
        let mut faults = Faults::default();
        faults.name("name", &wish.name);
        faults.check("slug", check_slug(&wish.slug));
        faults.done()?;
        let others = self.environments(project).await?;
        if others.iter().any(|e| e.slug == wish.slug && Some(e.id) != id) {
            return Err(CommandError::Conflict { code: "slug_taken", detail: "the slug is taken".into() });
        }
        Ok(())
    }

    pub async fn create_template(
        &self,
        caller: &Caller,
        project: ProjectId,
        name: &str,
        settings: Value,
    ) -> CommandResult<Document> {
        let again = |id| async move { self.document(Documents::Templates, project, id).await };
        let first = self.insert(caller, Documents::Templates, project, name, 0, settings);
        self.once(caller, again, Box::pin(first)).await
    }

    pub async fn update_template(
        &self,
        caller: &Caller,
        project: ProjectId,
        id: Uuid,
        name: &str,
        settings: Value,
    ) -> CommandResult<Document> {
        let again = |id| async move { self.document(Documents::Templates, project, id).await };
        let first = async {
            let old = self.document(Documents::Templates, project, id).await?;
            self.update(caller, Documents::Templates, Document { name: name.to_string(), body: settings, ..old }).await
        };
        self.once(caller, again, Box::pin(first)).await
    }

    /// An environment that asks for approvals goes only when a second person wants it too.
    pub async fn delete_document(
        &self,
        caller: &Caller,
        kind: Documents,
        project: ProjectId,
        id: Uuid,
    ) -> CommandResult<()> {
        let first = async {
            let old = self.document(kind, project, id).await?;
            if kind == Documents::Environments && environment_of(old.clone()).settings.policy().people() > 0 {
                self.needs_second_person(caller, &format!("environment/{id}"), &json!("delete")).await?;
            }
            let write = self.document_write(caller, kind, "deleted", &old, 204);
            self.inner.store.delete_document(kind, project, id, write).await.map_err(missing(noun(kind)))
        };
        self.once(caller, |_| std::future::ready(Ok(())), Box::pin(first)).await
    }

    pub async fn document(&self, kind: Documents, project: ProjectId, id: Uuid) -> CommandResult<Document> {
        self.inner.store.document(kind, project, id).await.map_err(missing(noun(kind)))
    }

    async fn insert(
        &self,
        caller: &Caller,
        kind: Documents,
        project: ProjectId,
        name: &str,
        ordinal: i64,
        body: Value,
    ) -> CommandResult<Document> {
        let mut faults = Faults::default();
        faults.name("name", name);
        faults.done()?;
        if self.inner.store.documents(kind, project).await?.len() >= MAX_DOCUMENTS {
            let detail = format!("a project has at most {MAX_DOCUMENTS}");
            return Err(CommandError::Conflict { code: "too_many", detail });
        }
        let now = self.now();
        let document = Document {
            id: self.fresh().uuid(now),
            project,
            name: name.to_string(),
            ordinal,
            body,
            inserted_at: now,
            updated_at: now,
        };
        let write = self.document_write(caller, kind, "created", &document, 201);
        self.inner.store.insert_document(kind, document.clone(), write).await?;
        Ok(document)
    }

    async fn update(&self, caller: &Caller, kind: Documents, new: Document) -> CommandResult<Document> {
        let mut faults = Faults::default();
        faults.name("name", &new.name);
        faults.done()?;
        let write = self.document_write(caller, kind, "updated", &new, 200);
        let new = Document { updated_at: write.at, ..new };
        self.inner.store.update_document(kind, new.clone(), write).await.map_err(missing(noun(kind)))?;
        Ok(new)
    }

    fn document_write(&self, caller: &Caller, kind: Documents, verb: &str, d: &Document, status: u16) -> Write {
        let (change, action) = match (kind, verb) {
            (Documents::Environments, "created") => (ChangeKind::Environment, "environment.created"),
            (Documents::Environments, "updated") => (ChangeKind::Environment, "environment.updated"),
            (Documents::Environments, _) => (ChangeKind::Environment, "environment.deleted"),
            (Documents::Templates, "created") => (ChangeKind::Template, "rollout_template.created"),
            (Documents::Templates, "updated") => (ChangeKind::Template, "rollout_template.updated"),
            (Documents::Templates, _) => (ChangeKind::Template, "rollout_template.deleted"),
        };
        let now = self.now();
        let changes = json!({"name": d.name, "ordinal": d.ordinal, "body": d.body});
        let said = Said { action, kind: change, id: d.id, project: Some(d.project), changes };
        self.write_at(now, &caller.ctx, said).idem(idem(caller, now, status, change, d.id))
    }
}

impl ControlPlane {
    /// The settings of a project that asks for approvals are loosened only by two people who want the same.
    pub(crate) async fn loosening_needs_two(
        &self,
        caller: &Caller,
        project: ProjectId,
        old: &domain::project::Settings,
        new: &domain::project::Settings,
    ) -> CommandResult<()> {
        let policy =
            |s: &domain::project::Settings| Policy { required: s.approval_required, needed: s.approvals_needed };
        if !policy(old).is_loosened_by(&policy(new)) {
            return Ok(());
        }
        let wish = json!({"approval_required": new.approval_required, "approvals_needed": new.approvals_needed});
        self.needs_second_person(caller, &format!("project/{project}"), &wish).await
    }

    /// The first one's wish is kept and answered with 409; the same wish of another person within a day is granted.
    async fn needs_second_person(&self, caller: &Caller, what: &str, wish: &Value) -> CommandResult<()> {
        let Some(me) = caller.user else {
            return Err(CommandError::Forbidden("loosening a rule of approval needs a person".into()));
        };
        let (key, now) = (format!("loosen/{what}"), self.now());
        let before = self.inner.store.setting(&key).await?;
        let same = before.filter(|b| b["wish"] == *wish).is_some_and(|b| {
            let at = Timestamp(b["at"].as_i64().unwrap_or_default());
            b["by"] != json!(me) && now.since(at) < SECOND_PERSON_WITHIN
        });
        if same {
            return Ok(());
        }
        let asked = json!({"by": me, "wish": wish, "at": now.0});
        self.inner.store.put_setting(&key, asked, Write::at(now)).await?;
        Err(CommandError::Conflict {
            code: "second_person_needed",
            detail: "this loosens a rule of approval: another person must ask for the same within a day".into(),
        })
    }
}

fn body_of(wish: &EnvironmentWish) -> Value {
    json!({"slug": wish.slug, "selector": wish.selector, "settings": wish.settings})
}

fn noun(kind: Documents) -> &'static str {
    match kind {
        Documents::Environments => "environment",
        Documents::Templates => "rollout template",
    }
}

/// For whoever shows it.
pub fn environment(document: Document) -> Environment {
    environment_of(document)
}
