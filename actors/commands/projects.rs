//! Projects and enrolment tokens.

use super::write::*;
use crate::command::*;
use crate::plane::ControlPlane;
use domain::node::{Labels, check_labels};
use domain::project::{Amount, Project, Settings, check_slug, slug_of};
use domain::rollout::Phase;
use domain::*;
use serde_json::{Map, Value, json};
use store::{ChangeKind, Page, RolloutFilter};

/// Votes that a project may ask for; more people than that do not look at a rollout.
const MAX_APPROVALS: u32 = 20;
/// Bundles that retention may be told to keep, beside those in use.
const MAX_RETENTION: u32 = 10_000;
/// Names of secrets in one project, and the length of one.
const MAX_SECRETS: usize = 200;
const MAX_SECRET_NAME: usize = 100;
/// Uses of one enrolment token: more nodes than a fleet has.
const MAX_TOKEN_USES: u32 = 1_000_000;
/// Keys that a token may allow.
const MAX_ALLOWED_KEYS: usize = 64;
/// Enrolment tokens listed; who has more of them should delete some.
const MAX_LISTED: usize = 5_000;

#[derive(Clone, Debug, Default)]
pub struct NewProject {
    pub name: String,
    pub slug: Option<String>,
    pub description: String,
    pub settings: Settings,
    /// `None`: the caller's only (or first) organisation.
    pub org: Option<OrgId>,
}

#[derive(Clone, Debug, Default)]
pub struct ProjectPatch {
    pub name: Option<String>,
    pub description: Option<String>,
    /// Merged over the present settings; checked field by field.
    pub settings: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Clone, Debug, Default)]
pub struct NewEnrolmentToken {
    pub name: String,
    pub max_uses: Option<u32>,
    pub expires_at: Option<Timestamp>,
    pub labels: Labels,
    /// Default `["*"]`: any.
    pub allowed_label_keys: Option<Vec<String>>,
    pub allow_replace: bool,
}

#[derive(Clone, Debug)]
pub struct EnrolmentToken {
    pub id: EnrolmentTokenId,
    pub project: ProjectId,
    pub name: String,
    pub max_uses: Option<u32>,
    pub uses: u32,
    pub expires_at: Option<Timestamp>,
    pub labels: Labels,
    pub allowed_label_keys: Vec<String>,
    pub allow_replace: bool,
    pub inserted_at: Timestamp,
}

impl ControlPlane {
    pub async fn create_project(&self, caller: &Caller, new: NewProject) -> CommandResult<Project> {
        let first = Box::pin(self.create_project_first(caller, new));
        self.once(caller, |id| self.project_by_id(ProjectId(id)), first).await
    }

    async fn create_project_first(&self, caller: &Caller, new: NewProject) -> CommandResult<Project> {
        let org = new.org.or_else(|| first_org(caller)).ok_or(CommandError::NotFound("organisation"))?;
        must(caller, KeyScope::ProjectsWrite, org, None, "organisation")?;
        self.inner.store.org(org).await.map_err(missing("organisation"))?;
        let slug = new.slug.unwrap_or_else(|| slug_of(&new.name));
        let mut faults = Faults::default();
        faults.name("name", &new.name);
        faults.text("description", &new.description, MAX_TEXT);
        faults.check("slug", check_slug(&slug));
        check_settings(&new.settings, &mut faults);
        faults.done()?;
        let now = self.now();
        let project = Project {
            id: self.fresh().id(now),
            org,
            name: new.name,
            slug,
            description: new.description,
            settings: new.settings,
            inserted_at: now,
            updated_at: now,
        };
        let changes = json!({"name": project.name, "slug": project.slug, "settings": project.settings});
        let said = said("project.created", project.id, changes);
        let idem = idem(caller, now, 201, ChangeKind::Project, project.id.0);
        self.inner.store.insert_project(project.clone(), self.write_at(now, &caller.ctx, said).idem(idem)).await?;
        Ok(project)
    }

    pub async fn update_project(&self, caller: &Caller, id: ProjectId, patch: ProjectPatch) -> CommandResult<Project> {
        let first = Box::pin(self.update_project_first(caller, id, patch));
        self.once(caller, |id| self.project_by_id(ProjectId(id)), first).await
    }

    async fn update_project_first(
        &self,
        caller: &Caller,
        id: ProjectId,
        patch: ProjectPatch,
    ) -> CommandResult<Project> {
        let old = self.project_by_id(id).await?;
        let mut new = old.clone();
        let mut faults = Faults::default();
        if let Some(name) = patch.name {
            faults.name("name", &name);
            new.name = name;
        }
        if let Some(description) = patch.description {
            faults.text("description", &description, MAX_TEXT);
            new.description = description;
        }
        if let Some(settings) = patch.settings {
            new.settings = merged(&old.settings, settings, &mut faults);
            check_settings(&new.settings, &mut faults);
        }
        faults.done()?;
        if new == old {
            return Ok(old);
        }
        self.loosening_needs_two(caller, id, &old.settings, &new.settings).await?;
        let now = self.now();
        new.updated_at = now;
        let mut changes = Map::new();
        for (field, was, is) in [
            ("name", json!(old.name), json!(new.name)),
            ("description", json!(old.description), json!(new.description)),
            ("settings", json!(old.settings), json!(new.settings)),
        ] {
            if was != is {
                changes.insert(field.into(), json!({"from": was, "to": is}));
            }
        }
        let said = said("project.updated", id, Value::Object(changes));
        let idem = idem(caller, now, 200, ChangeKind::Project, id.0);
        let write = self.write_at(now, &caller.ctx, said).idem(idem);
        self.inner.store.update_project(Scope::Project(id), new.clone(), write).await.map_err(missing("project"))?;
        Ok(new)
    }

    /// Soft: refused (409 `project_in_use`) while a rollout is active.
    pub async fn delete_project(&self, caller: &Caller, id: ProjectId) -> CommandResult<()> {
        let first = Box::pin(self.delete_project_first(caller, id));
        self.once(caller, |_| std::future::ready(Ok(())), first).await
    }

    async fn delete_project_first(&self, caller: &Caller, id: ProjectId) -> CommandResult<()> {
        let project = self.project_by_id(id).await?;
        let in_use = |what: String| CommandError::Conflict { code: "project_in_use", detail: what };
        let active = RolloutFilter {
            phases: vec![Phase::Pending, Phase::Running, Phase::Paused, Phase::RollingBack],
            ..RolloutFilter::default()
        };
        let active = self.inner.store.rollouts(Scope::Project(id), active, Page::first(1)).await?.total;
        if active > 0 {
            return Err(in_use(format!("{active} rollouts of the project are active: cancel them first")));
        }
        let now = self.now();
        let said = said("project.deleted", id, json!({"name": project.name, "slug": project.slug}));
        let idem = idem(caller, now, 204, ChangeKind::Project, id.0);
        let write = self.write_at(now, &caller.ctx, said).idem(idem);
        match self.inner.store.delete_project(Scope::Project(id), id, write).await {
            // A rollout became active since we looked.
            Err(store::Error::Conflict("state")) => Err(in_use("a rollout of the project is active".into())),
            done => done.map_err(missing("project")),
        }?;
        // Its nodes are nobody's from now on.
        self.inner.sessions.forget_project(id);
        Ok(())
    }

    /// The token's text is answered once; empty when the request was repeated.
    pub async fn create_enrolment_token(
        &self,
        caller: &Caller,
        project: ProjectId,
        new: NewEnrolmentToken,
    ) -> CommandResult<(EnrolmentToken, String)> {
        let first = Box::pin(self.create_enrolment_token_first(caller, project, new));
        self.once(caller, |id| self.token_again(project, EnrolmentTokenId(id)), first).await
    }

    async fn create_enrolment_token_first(
        &self,
        caller: &Caller,
        project: ProjectId,
        new: NewEnrolmentToken,
    ) -> CommandResult<(EnrolmentToken, String)> {
        self.project_by_id(project).await?;
        let now = self.now();
        let allowed = new.allowed_label_keys.unwrap_or_else(|| vec!["*".into()]);
        let mut faults = Faults::default();
        faults.name("name", &new.name);
        faults.check("labels", check_labels(&new.labels));
        faults.future("expires_at", new.expires_at, now);
        if new.max_uses.is_some_and(|n| n == 0 || n > MAX_TOKEN_USES) {
            faults.add("max_uses", format!("must be 1 to {MAX_TOKEN_USES}"));
        }
        if allowed.len() > MAX_ALLOWED_KEYS {
            faults.add("allowed_label_keys", format!("at most {MAX_ALLOWED_KEYS} keys"));
        }
        for key in allowed.iter().filter(|k| *k != "*") {
            faults.check("allowed_label_keys", check_labels(&Labels::from([(key.clone(), String::new())])));
        }
        faults.done()?;
        let text = secret_text(self.fresh(), "set_");
        let token = store::EnrolmentToken {
            id: self.fresh().id(now),
            project,
            name: new.name,
            token_hash: secret_hash(&text),
            max_uses: new.max_uses,
            uses: 0,
            labels: new.labels,
            allowed_label_keys: allowed,
            allow_replace: new.allow_replace,
            expires_at: new.expires_at,
            revoked_at: None,
            created_by: caller.ctx.actor.id(),
            inserted_at: now,
        };
        let changes = json!({
            "name": token.name, "max_uses": token.max_uses, "expires_at": token.expires_at, "labels": token.labels,
            "allowed_label_keys": token.allowed_label_keys, "allow_replace": token.allow_replace,
        });
        let said = Said {
            action: "enrolment_token.created",
            kind: ChangeKind::EnrolmentToken,
            id: token.id.0,
            project: Some(project),
            changes,
        };
        let idem = idem(caller, now, 201, ChangeKind::EnrolmentToken, token.id.0);
        let write = self.write_at(now, &caller.ctx, said).idem(idem);
        self.inner.store.insert_enrolment_token(token.clone(), write).await?;
        Ok((shown(token), text))
    }

    pub async fn list_enrolment_tokens(&self, project: ProjectId) -> CommandResult<Vec<EnrolmentToken>> {
        let (mut all, mut page) = (Vec::new(), Page::first(500));
        loop {
            let listing = self.inner.store.enrolment_tokens(project, page.clone()).await?;
            all.extend(listing.rows.into_iter().map(shown));
            match listing.next_cursor {
                Some(cursor) if all.len() < MAX_LISTED => page.cursor = Some(cursor),
                _ => return Ok(all),
            }
        }
    }

    pub async fn delete_enrolment_token(
        &self,
        caller: &Caller,
        project: ProjectId,
        id: EnrolmentTokenId,
    ) -> CommandResult<()> {
        let first = Box::pin(self.delete_enrolment_token_first(caller, project, id));
        self.once(caller, |_| std::future::ready(Ok(())), first).await
    }

    async fn delete_enrolment_token_first(
        &self,
        caller: &Caller,
        project: ProjectId,
        id: EnrolmentTokenId,
    ) -> CommandResult<()> {
        let now = self.now();
        let said = Said {
            action: "enrolment_token.deleted",
            kind: ChangeKind::EnrolmentToken,
            id: id.0,
            project: Some(project),
            changes: json!({}),
        };
        let idem = idem(caller, now, 204, ChangeKind::EnrolmentToken, id.0);
        let write = self.write_at(now, &caller.ctx, said).idem(idem);
        self.inner.store.delete_enrolment_token(project, id, write).await.map_err(missing("enrolment token"))
    }

    async fn token_again(&self, project: ProjectId, id: EnrolmentTokenId) -> CommandResult<(EnrolmentToken, String)> {
        let token = self.list_enrolment_tokens(project).await?.into_iter().find(|t| t.id == id);
        Ok((token.ok_or(CommandError::NotFound("enrolment token"))?, String::new()))
    }

    /// A living project. The caller's right to it was checked at the front door, where the path was resolved.
    pub(crate) async fn project_by_id(&self, id: ProjectId) -> CommandResult<Project> {
        self.inner.store.project(Scope::Project(id), &id.to_string()).await.map_err(missing("project"))
    }
}

fn said(action: &'static str, project: ProjectId, changes: Value) -> Said {
    Said { action, kind: ChangeKind::Project, id: project.0, project: Some(project), changes }
}

fn first_org(caller: &Caller) -> Option<OrgId> {
    match &caller.grant {
        // Where the caller may do it, before where the answer would be 403.
        Grant::Roles(roles) => {
            let able = roles.iter().find(|(_, role)| *role >= KeyScope::ProjectsWrite.least_role());
            able.or(roles.first()).map(|(org, _)| *org)
        }
        Grant::Key { org, .. } => Some(*org),
    }
}

fn shown(t: store::EnrolmentToken) -> EnrolmentToken {
    EnrolmentToken {
        id: t.id,
        project: t.project,
        name: t.name,
        max_uses: t.max_uses,
        uses: t.uses,
        expires_at: t.expires_at,
        labels: t.labels,
        allowed_label_keys: t.allowed_label_keys,
        allow_replace: t.allow_replace,
        inserted_at: t.inserted_at,
    }
}

/// The ranges that types do not say.
fn check_settings(s: &Settings, faults: &mut Faults) {
    if s.approvals_needed == 0 || s.approvals_needed > MAX_APPROVALS {
        faults.add("settings.approvals_needed", format!("must be 1 to {MAX_APPROVALS}"));
    }
    if s.retention_keep > MAX_RETENTION {
        faults.add("settings.retention_keep", format!("must be at most {MAX_RETENTION}"));
    }
    if matches!(s.max_updating, Some(Amount::Count(0) | Amount::Percent(0))) {
        faults.add("settings.max_updating", "must be at least 1: nothing could ever be updated");
    }
    for (field, problem) in s.rules.problems() {
        faults.add(&format!("settings.rules.{field}"), problem);
    }
    if s.secrets.len() > MAX_SECRETS {
        faults.add("settings.secrets", format!("at most {MAX_SECRETS} names"));
    }
    for name in &s.secrets {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if name.is_empty() || name.len() > MAX_SECRET_NAME || name.starts_with('.') || !name.bytes().all(plain) {
            faults.add("settings.secrets", format!("{name:.80?} is not a name of letters, digits, '.', '_' and '-'"));
        }
    }
}

/// `patch` over `old`, one field at a time so that each fault has its field. `null` is only for what may be unset.
fn merged(old: &Settings, patch: Map<String, Value>, faults: &mut Faults) -> Settings {
    let mut now = old.clone();
    for (key, value) in patch {
        let field = format!("settings.{key}");
        let Ok(Value::Object(mut all)) = serde_json::to_value(&now) else { continue };
        if !all.contains_key(&key) {
            faults.add(&field, "is not a setting of a project");
            continue;
        }
        all.insert(key, value);
        match serde_json::from_value(Value::Object(all)) {
            Ok(merged) => now = merged,
            Err(why) => faults.add(&field, why.to_string()),
        }
    }
    now
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn settings_are_merged_field_by_field_and_every_fault_is_named() {
        let patch = json!({"max_updating": "25%", "strict_config": true, "approvals_needed": "two", "colour": 1});
        let mut faults = Faults::default();
        let new = merged(&Settings::default(), patch.as_object().unwrap().clone(), &mut faults);
        assert_eq!((new.max_updating, new.strict_config), (Some(Amount::Percent(25)), true));
        let Err(CommandError::Invalid(fields)) = faults.done() else { panic!("two fields are wrong") };
        let fields: Vec<&str> = fields.iter().map(|f| f.0.as_str()).collect();
        assert_eq!(fields, ["settings.approvals_needed", "settings.colour"]);
        let unset = json!({"max_updating": null});
        let again = merged(&new, unset.as_object().unwrap().clone(), &mut Faults::default());
        assert_eq!(again.max_updating, None);
    }
}
