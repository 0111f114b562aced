//! `/projects/:project/retention`: which bundles nobody needs, before and after they are collected.

use super::ask::{Ask, is_about_the_form};
use super::resources::{at, said};
use super::view::Flash;
use super::view::retention::{RetentionView, page};
use crate::problem::{Outcome, Refusal};
use actors::commands::projects::ProjectPatch;
use domain::access::KeyScope;
use domain::project::Project;
use serde_json::json;
use warp::reply::Response;

async fn view(ask: &Ask, project: &Project) -> Outcome<RetentionView> {
    let would = ask.plane().collect_bundles(ask.caller(), project.id, true).await?;
    let view = RetentionView { slug: project.slug.clone(), keep: would.keep.to_string(), bundles: would.bundles };
    Ok(view)
}

pub async fn show(ask: &Ask, project: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::BundlesRead).await?;
    ask.ok(page(&frame, &view(ask, &project).await?, None, &[]))
}

pub async fn collect(ask: &Ask, project: &str) -> Outcome<Response> {
    let (project, _) = ask.project(project, KeyScope::BundlesWrite).await?;
    let done = ask.plane().collect_bundles(ask.caller(), project.id, false).await?;
    let flash = if done.bundles.is_empty() { Flash::Unchanged } else { Flash::Collected };
    ask.redirect(&at(&project, "retention"), Some(flash))
}

pub async fn keep(ask: &Ask, project: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::ProjectsWrite).await?;
    let typed = ask.field("keep").unwrap_or_default().to_string();
    let refused = match typed.parse::<u32>() {
        Err(_) => Refusal::invalid("retention_keep", "must be a whole number"),
        Ok(keep) => {
            let settings = json!({"retention_keep": keep}).as_object().cloned();
            let patch = ProjectPatch { settings, ..ProjectPatch::default() };
            match ask.plane().update_project(ask.caller(), project.id, patch).await {
                Ok(now) => {
                    let flash = if now == project { Flash::Unchanged } else { Flash::ProjectSaved };
                    return ask.redirect(&at(&project, "retention"), Some(flash));
                }
                Err(e) if is_about_the_form(&e) => Refusal::from(e),
                Err(e) => return Err(e.into()),
            }
        }
    };
    let view = RetentionView { keep: typed, ..view(ask, &project).await? };
    let (error, errors) = said(&refused);
    Ok(ask.html(refused.status(), page(&frame, &view, error.as_deref(), &errors)))
}
