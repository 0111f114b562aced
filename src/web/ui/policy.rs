//! `/projects/:project/policy`: freeze windows, environments, rollout templates.

use super::ask::{Ask, is_about_the_form};
use super::view::access::parse_labels;
use super::view::policy::{EnvironmentLine, FreezeLine, PolicyView, TemplateLine, page};
use super::view::rollout::selector;
use super::view::{Flash, Frame, parts};
use crate::api::plans::template_body;
use crate::problem::{Outcome, Refusal};
use actors::command::CommandResult;
use actors::commands::plans::{EnvironmentWish, FreezeWish, environment};
use api::rollout::RolloutRequest;
use domain::access::KeyScope;
use domain::environment::EnvironmentSettings;
use domain::node::Selector;
use domain::project::{Project, slug_of};
use domain::{FreezeId, Timestamp};
use store::Documents;
use uuid::Uuid;
use warp::reply::Response;

async fn view(ask: &Ask, project: &Project) -> Outcome<PolicyView> {
    let (store, now) = (ask.store(), ask.plane().now());
    let documents = store.documents(Documents::Environments, project.id).await?;
    let environments: Vec<_> = documents.into_iter().map(environment).collect();
    let name = |id: Uuid| environments.iter().find(|e| e.id == id).map_or_else(|| id.to_string(), |e| e.name.clone());
    let freezes = store.freezes(project.id).await?;
    let templates = store.documents(Documents::Templates, project.id).await?;
    Ok(PolicyView {
        slug: project.slug.clone(),
        freezes: freezes
            .into_iter()
            .map(|f| FreezeLine {
                holds: f.holds(now),
                own: f.project == Some(project.id),
                environment: f.environment.map(name),
                id: f.id.to_string(),
                name: f.name,
                reason: f.reason,
                starts_at: f.starts_at,
                ends_at: f.ends_at,
            })
            .collect(),
        environments: environments
            .iter()
            .map(|e| EnvironmentLine {
                id: e.id.to_string(),
                name: e.name.clone(),
                slug: e.slug.clone(),
                selector: selector(&e.selector),
                people: e.settings.policy().people(),
            })
            .collect(),
        templates: templates
            .into_iter()
            .map(|t| TemplateLine { id: t.id.to_string(), name: t.name, settings: t.body })
            .collect(),
        ..PolicyView::default()
    })
}

pub async fn show(ask: &Ask, project: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::RolloutsRead).await?;
    ask.ok(page(&frame, &view(ask, &project).await?))
}

/// Back to the page, or the page with what was wrong.
async fn answered<T>(
    ask: &Ask,
    project: &Project,
    frame: &Frame,
    done: Outcome<CommandResult<T>>,
    flash: Flash,
) -> Outcome<Response> {
    let refusal = match done {
        Ok(Ok(_)) => {
            return ask.redirect(&format!("/projects/{}/policy", parts::query(&project.slug)), Some(flash));
        }
        Ok(Err(e)) if is_about_the_form(&e) => Refusal::from(e),
        Ok(Err(e)) => return Err(e.into()),
        Err(refusal) if refusal.problem.status == 422 => refusal,
        Err(refusal) => return Err(refusal),
    };
    let mut view = view(ask, project).await?;
    view.errors = refusal.problem.errors.iter().map(|(f, m)| (f.clone(), m.clone())).collect();
    view.error = view.errors.is_empty().then(|| refusal.problem.detail.clone());
    Ok(ask.html(refusal.status(), page(frame, &view)))
}

fn time(ask: &Ask, field: &str) -> Outcome<Option<Timestamp>> {
    let Some(text) = ask.field(field) else { return Ok(None) };
    let wrong = || Refusal::invalid(field, "must be a time such as 2026-12-01T06:00:00Z");
    Timestamp::parse_rfc3339(text).map(Some).ok_or_else(wrong)
}

fn words(ask: &Ask, field: &str) -> String {
    ask.field(field).unwrap_or_default().to_string()
}

fn freeze_wish(ask: &Ask) -> Outcome<FreezeWish> {
    let environment = ask.field("environment").map(str::parse).transpose();
    Ok(FreezeWish {
        name: words(ask, "name"),
        reason: words(ask, "reason"),
        starts_at: time(ask, "starts_at")?,
        ends_at: time(ask, "ends_at")?,
        environment: environment.map_err(|_| Refusal::invalid("environment", "must be chosen"))?,
    })
}

pub async fn make_freeze(ask: &Ask, project: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::RolloutsWrite).await?;
    let done = match freeze_wish(ask) {
        Ok(wish) => Ok(ask.plane().create_freeze(ask.caller(), project.id, wish).await),
        Err(refusal) => Err(refusal),
    };
    answered(ask, &project, &frame, done, Flash::FreezeMade).await
}

pub async fn end_freeze(ask: &Ask, project: &str, id: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::RolloutsWrite).await?;
    let id: FreezeId = id.parse().map_err(|_| Refusal::not_found("There is no such freeze window."))?;
    let done = Ok(ask.plane().delete_freeze(ask.caller(), project.id, id).await);
    answered(ask, &project, &frame, done, Flash::FreezeEnded).await
}

fn environment_wish(ask: &Ask) -> Outcome<EnvironmentWish> {
    let labels = parse_labels(&words(ask, "labels")).map_err(|why| Refusal::invalid("labels", why))?;
    let people = words(ask, "people");
    let people: u32 = match people.as_str() {
        "" => 0,
        text => text.parse().map_err(|_| Refusal::invalid("people", "must be a number"))?,
    };
    let name = words(ask, "name");
    Ok(EnvironmentWish {
        slug: slug_of(&name),
        name,
        ordinal: 0,
        selector: if labels.is_empty() { Selector::All } else { Selector::Labels { labels } },
        settings: EnvironmentSettings { approval_required: people > 0, approvals_needed: people },
    })
}

pub async fn make_environment(ask: &Ask, project: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::RolloutsWrite).await?;
    let done = match environment_wish(ask) {
        Ok(wish) => Ok(ask.plane().create_environment(ask.caller(), project.id, wish).await),
        Err(refusal) => Err(refusal),
    };
    answered(ask, &project, &frame, done, Flash::EnvironmentMade).await
}

fn template(ask: &Ask) -> Outcome<serde_json::Value> {
    let said: RolloutRequest =
        serde_json::from_str(&words(ask, "settings")).map_err(|e| Refusal::invalid("settings", e.to_string()))?;
    template_body(ask.plane(), &said)
}

pub async fn make_template(ask: &Ask, project: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::RolloutsWrite).await?;
    let done = match template(ask) {
        Ok(body) => Ok(ask.plane().create_template(ask.caller(), project.id, &words(ask, "name"), body).await),
        Err(refusal) => Err(refusal),
    };
    answered(ask, &project, &frame, done, Flash::TemplateMade).await
}

async fn delete(ask: &Ask, project: &str, kind: Documents, id: &str, flash: Flash) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::RolloutsWrite).await?;
    let id: Uuid = id.parse().map_err(|_| Refusal::not_found("There is no such thing."))?;
    let done = Ok(ask.plane().delete_document(ask.caller(), kind, project.id, id).await);
    answered(ask, &project, &frame, done, flash).await
}

pub async fn delete_environment(ask: &Ask, project: &str, id: &str) -> Outcome<Response> {
    delete(ask, project, Documents::Environments, id, Flash::EnvironmentDeleted).await
}

pub async fn delete_template(ask: &Ask, project: &str, id: &str) -> Outcome<Response> {
    delete(ask, project, Documents::Templates, id, Flash::TemplateDeleted).await
}
