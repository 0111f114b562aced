//! `/projects/:project/resources` and `/rules`: what is shipped with every bundle, and what every configuration must keep to.

use super::ask::{Ask, is_about_the_form};
use super::view::resources::{ResourcesView, RulesView, resources as resources_page, rules as rules_page};
use super::view::{Flash, parts};
use crate::problem::{Outcome, Refusal};
use actors::command::{CommandError, Done};
use actors::commands::projects::ProjectPatch;
use domain::access::KeyScope;
use domain::project::Project;
use serde_json::{Value, json};
use store::Page;
use warp::reply::Response;

/// All that a project may have.
const ALL: u32 = 200;

async fn view(ask: &Ask, project: &Project) -> Outcome<ResourcesView> {
    Ok(ResourcesView {
        slug: project.slug.clone(),
        resources: ask.store().resources(project.id, Page::first(ALL)).await?.rows,
        ..ResourcesView::default()
    })
}

pub async fn list(ask: &Ask, project: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::BundlesRead).await?;
    ask.ok(resources_page(&frame, &view(ask, &project).await?))
}

pub async fn put(ask: &Ask, project: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::BundlesWrite).await?;
    let path = ask.field("path").unwrap_or_default().to_string();
    // Forms send line ends as networks do; the same text by the API must be the same content.
    let text = ask.form.text("text").unwrap_or_default().replace("\r\n", "\n");
    match ask.plane().put_resource(ask.caller(), project.id, path.clone(), text.clone().into_bytes()).await {
        Ok((done, _)) => {
            let flash = if done == Done::Changed { Flash::ResourcePut } else { Flash::Unchanged };
            ask.redirect(&at(&project, "resources"), Some(flash))
        }
        Err(e) if is_about_the_form(&e) => {
            let mut view = view(ask, &project).await?;
            let refusal = Refusal::from(e);
            (view.path, view.text) = (path, text);
            (view.error, view.errors) = said(&refusal);
            Ok(ask.html(refusal.status(), resources_page(&frame, &view)))
        }
        Err(e) => Err(e.into()),
    }
}

pub async fn delete(ask: &Ask, project: &str, id: &str) -> Outcome<Response> {
    let (project, _) = ask.project(project, KeyScope::BundlesWrite).await?;
    let id = id.parse().map_err(|_| Refusal::not_found("There is no such resource."))?;
    let flash = match ask.plane().delete_resource(ask.caller(), project.id, id).await {
        Ok(()) => Flash::ResourceDeleted,
        Err(CommandError::NotFound(_)) => Flash::Unchanged,
        Err(e) => return Err(e.into()),
    };
    ask.redirect(&at(&project, "resources"), Some(flash))
}

pub async fn rules(ask: &Ask, project: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::ProjectsRead).await?;
    ask.ok(rules_page(&frame, &rules_of(&project)))
}

fn rules_of(project: &Project) -> RulesView {
    let (rules, lines) = (&project.settings.rules, |all: &[String]| all.join("\n"));
    RulesView {
        slug: project.slug.clone(),
        required: lines(&rules.required),
        forbidden: lines(&rules.forbidden),
        schema: rules.schema.as_ref().map(|s| serde_json::to_string_pretty(s).unwrap_or_default()).unwrap_or_default(),
        secrets: lines(&project.settings.secrets),
        strict: project.settings.strict_config,
        ..RulesView::default()
    }
}

pub async fn save_rules(ask: &Ask, project: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::ProjectsWrite).await?;
    let typed = |name: &str| ask.form.text(name).unwrap_or_default().replace("\r\n", "\n");
    let mut view = RulesView {
        slug: project.slug.clone(),
        required: typed("required"),
        forbidden: typed("forbidden"),
        schema: typed("schema"),
        secrets: typed("secrets"),
        strict: project.settings.strict_config,
        ..RulesView::default()
    };
    let lines =
        |text: &str| text.lines().map(str::trim).filter(|l| !l.is_empty()).map(String::from).collect::<Vec<_>>();
    let mut rules = json!({"required": lines(&view.required), "forbidden": lines(&view.forbidden)});
    if !view.schema.trim().is_empty() {
        match serde_json::from_str::<Value>(&view.schema) {
            Ok(schema) => rules["schema"] = schema,
            Err(e) => {
                (view.error, view.errors) =
                    said(&Refusal::invalid("settings.rules.schema", format!("is not JSON: {e}")));
                return Ok(ask.html(http::StatusCode::UNPROCESSABLE_ENTITY, rules_page(&frame, &view)));
            }
        }
    }
    let settings = json!({"rules": rules, "secrets": lines(&view.secrets)});
    let patch = ProjectPatch { settings: settings.as_object().cloned(), ..ProjectPatch::default() };
    match ask.plane().update_project(ask.caller(), project.id, patch).await {
        Ok(now) => {
            let flash = if now == project { Flash::Unchanged } else { Flash::RulesSaved };
            ask.redirect(&at(&project, "rules"), Some(flash))
        }
        Err(e) if is_about_the_form(&e) => {
            let refusal = Refusal::from(e);
            (view.error, view.errors) = said(&refusal);
            Ok(ask.html(refusal.status(), rules_page(&frame, &view)))
        }
        Err(e) => Err(e.into()),
    }
}

/// What a form shows of its refusal: a sentence, or the fields.
pub fn said(refusal: &Refusal) -> (Option<String>, Vec<(String, Vec<String>)>) {
    let errors: Vec<_> = refusal.problem.errors.iter().map(|(f, m)| (f.clone(), m.clone())).collect();
    (errors.is_empty().then(|| refusal.problem.detail.clone()), errors)
}

pub fn at(project: &Project, page: &str) -> String {
    format!("/projects/{}/{page}", parts::query(&project.slug))
}
