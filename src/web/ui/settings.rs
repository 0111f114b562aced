//! `/projects/:project/settings`

use super::ask::{Ask, is_about_the_form};
use super::view::settings::{SettingsView, page};
use super::view::{Flash, parts};
use crate::problem::{Outcome, Refusal};
use actors::commands::projects::ProjectPatch;
use domain::access::KeyScope;
use domain::project::Project;
use serde_json::json;
use warp::reply::Response;

fn of(project: &Project) -> SettingsView {
    SettingsView {
        slug: project.slug.clone(),
        name: project.name.clone(),
        description: project.description.clone(),
        open_registration: project.settings.open_registration,
        strict_config: project.settings.strict_config,
        drift_remediation: project.settings.drift_remediation,
        ..SettingsView::default()
    }
}

pub async fn show(ask: &Ask, project: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::ProjectsRead).await?;
    ask.ok(page(&frame, &of(&project)))
}

pub async fn save(ask: &Ask, project: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::ProjectsWrite).await?;
    let mut view = of(&project);
    view.name = ask.field("name").unwrap_or_default().to_string();
    view.description = ask.field("description").unwrap_or_default().to_string();
    view.open_registration = ask.field("open_registration").is_some();
    view.strict_config = ask.field("strict_config").is_some();
    view.drift_remediation = ask.field("drift_remediation").is_some();
    let settings = json!({
        "open_registration": view.open_registration, "strict_config": view.strict_config,
        "drift_remediation": view.drift_remediation,
    });
    let patch = ProjectPatch {
        name: Some(view.name.clone()),
        description: Some(view.description.clone()),
        settings: settings.as_object().cloned(),
    };
    match ask.plane().update_project(ask.caller(), project.id, patch).await {
        Ok(now) => {
            let flash = if now == project { Flash::Unchanged } else { Flash::ProjectSaved };
            ask.redirect(&format!("/projects/{}/settings", parts::query(&now.slug)), Some(flash))
        }
        Err(e) if is_about_the_form(&e) => {
            let refusal = Refusal::from(e);
            view.errors = refusal.problem.errors.iter().map(|(f, m)| (f.clone(), m.clone())).collect();
            view.error = view.errors.is_empty().then(|| refusal.problem.detail.clone());
            Ok(ask.html(refusal.status(), page(&frame, &view)))
        }
        Err(e) => Err(e.into()),
    }
}

pub async fn delete(ask: &Ask, project: &str) -> Outcome<Response> {
    let (project, _) = ask.project(project, KeyScope::ProjectsWrite).await?;
    if ask.field("confirm") != Some(project.slug.as_str()) {
        return Err(Refusal::invalid("confirm", "must be the name in the address of the project, as shown"));
    }
    ask.plane().delete_project(ask.caller(), project.id).await?;
    ask.redirect("/", Some(Flash::ProjectDeleted))
}
