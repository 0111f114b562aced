//! `/projects`

use super::{gone, own_org, show};
use crate::call::Call;
use crate::page::{listed, page, slice};
use crate::problem::{Outcome, Refusal};
use crate::reply;
use actors::commands::projects::{NewProject, ProjectPatch as Patch};
use api::project::{ProjectPatch, ProjectRequest};
use domain::OrgId;
use domain::access::KeyScope;
use domain::project::{Project, check_name, check_slug};
use http::StatusCode;
use warp::reply::Response;

/// Longest description.
const MAX_DESCRIPTION: usize = 2_000;

/// Those the caller may read, by name. An installation has few projects, so they are filtered and paged in memory.
pub async fn list(call: Call) -> Outcome<Response> {
    let asked = page(&call.query)?;
    let org = call.query.parsed::<OrgId>("org", "the id of an organisation")?;
    let words = call.query.text("q").map(str::to_lowercase);
    let caller = call.caller()?;
    let wanted = |p: &Project| {
        caller.sees(p.org, Some(p.id))
            && caller.may(KeyScope::ProjectsRead, p.org, Some(p.id))
            && org.is_none_or(|o| o == p.org)
            && words.as_ref().is_none_or(|w| p.slug.contains(w.as_str()) || p.name.to_lowercase().contains(w.as_str()))
    };
    let mut rows = call.app.plane.store().all_projects().await?;
    if rows.iter().all(|p| !caller.may(KeyScope::ProjectsRead, p.org, Some(p.id))) {
        // Not even one: say why instead of showing an empty list, unless there is nothing to be seen anyway.
        let own = own_org(caller)?;
        let seen = rows.iter().find(|p| caller.sees(p.org, Some(p.id)));
        let project = seen.map(|p| p.id);
        if !caller.may(KeyScope::ProjectsRead, seen.map_or(own, |p| p.org), project) {
            crate::call::allowed(caller, KeyScope::ProjectsRead, own, project)?;
        }
    }
    rows.retain(wanted);
    rows.sort_by(|a, b| a.name.cmp(&b.name).then_with(|| a.id.cmp(&b.id)));
    let found = slice(rows, &asked, |p| p.id.to_string())?;
    Ok(reply::ok(&listed(found, show::project).under("projects")))
}

pub async fn create(call: Call) -> Outcome<Response> {
    let said: ProjectRequest = call.json()?;
    check_name(&said.name).map_err(|why| Refusal::invalid("name", why))?;
    if let Some(slug) = &said.slug {
        check_slug(slug).map_err(|why| Refusal::invalid("slug", why))?;
    }
    let description = said.description.unwrap_or_default();
    check_description(&description)?;
    let org = match said.org_id {
        Some(org) => org,
        None => own_org(call.caller()?)?,
    };
    call.check(org, None, "organisation")?;
    let caller = call.commander()?;
    let new = NewProject {
        name: said.name,
        slug: said.slug,
        description,
        settings: said.settings.unwrap_or_default(),
        org: Some(org),
    };
    let project = call.app.plane.create_project(&caller, new).await?;
    Ok(reply::one(StatusCode::CREATED, "project", &show::project(project)))
}

fn check_description(text: &str) -> Outcome<()> {
    if text.chars().count() > MAX_DESCRIPTION {
        return Err(Refusal::invalid("description", format!("has more than {MAX_DESCRIPTION} characters")));
    }
    Ok(())
}

pub async fn show(call: Call) -> Outcome<Response> {
    Ok(reply::one(StatusCode::OK, "project", &show::project(call.project().await?)))
}

pub async fn update(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let said: ProjectPatch = call.json()?;
    if let Some(name) = &said.name {
        check_name(name).map_err(|why| Refusal::invalid("name", why))?;
    }
    if let Some(text) = &said.description {
        check_description(text)?;
    }
    let caller = call.commander()?;
    let patch = Patch { name: said.name, description: said.description, settings: said.settings };
    let project = call.app.plane.update_project(&caller, project.id, patch).await?;
    Ok(reply::one(StatusCode::OK, "project", &show::project(project)))
}

pub async fn delete(call: Call) -> Outcome<Response> {
    let caller = call.commander()?;
    let project = match call.project().await {
        Ok(project) => project,
        Err(refusal) => return gone(&call, &caller, refusal).await,
    };
    call.app.plane.delete_project(&caller, project.id).await?;
    Ok(reply::no_content())
}
