//! `/api-keys`

use super::{is_change, own_org, show};
use crate::call::Call;
use crate::page::{listed, listing, page};
use crate::problem::{Outcome, Refusal};
use crate::reply;
use actors::command::{Caller, Grant};
use actors::commands::access::NewApiKey;
use api::access::ApiKeyRequest;
use domain::access::ApiKey;
use domain::project::check_name;
use domain::{ApiKeyId, OrgId, Scope};
use http::StatusCode;
use warp::reply::Response;

/// What the caller's keys are looked for in: its project when it is bound to one.
fn scope(caller: &Caller, org: OrgId) -> Scope {
    match &caller.grant {
        Grant::Key { project: Some(project), .. } => Scope::Project(*project),
        Grant::Key { project: None, .. } | Grant::Roles(_) => Scope::Org(org),
    }
}

fn bound(caller: &Caller) -> Option<domain::ProjectId> {
    match &caller.grant {
        Grant::Key { project, .. } => *project,
        Grant::Roles(_) => None,
    }
}

pub async fn list(call: Call) -> Outcome<Response> {
    let caller = call.caller()?;
    let org = match call.query.parsed::<OrgId>("org", "the id of an organisation")? {
        Some(org) => org,
        None => own_org(caller)?,
    };
    call.check(org, bound(caller), "organisation")?;
    let asked = page(&call.query)?;
    let found = listing(asked.cursor.is_some(), call.app.plane.store().api_keys(scope(caller, org), asked).await)?;
    Ok(reply::ok(&listed(found, show::api_key).under("api_keys")))
}

pub async fn create(call: Call) -> Outcome<Response> {
    let said: ApiKeyRequest = call.json()?;
    check_name(&said.name).map_err(|why| Refusal::invalid("name", why))?;
    if said.expires_at.is_some_and(|at| at <= call.app.plane.now()) {
        return Err(Refusal::invalid("expires_at", "must be in the future"));
    }
    let (org, project) = match &said.project_id {
        Some(name) => {
            let project = call.project_named(name).await.map_err(|r| match r.problem.status {
                404 => Refusal::invalid("project_id", "there is no such project"),
                _ => r,
            })?;
            (project.org, Some(project.id))
        }
        None => {
            let org = match said.org_id {
                Some(org) => org,
                None => own_org(call.caller()?)?,
            };
            call.check(org, None, "organisation")?;
            (org, None)
        }
    };
    let caller = call.commander()?;
    let new = NewApiKey { name: said.name, scopes: said.scopes, project, expires_at: said.expires_at };
    let (key, text) = call.app.plane.create_api_key(&caller, org, new).await?;
    Ok(reply::json(StatusCode::CREATED, &serde_json::json!({"api_key": show::api_key(key), "key": text})))
}

/// The key of the path, where the caller may see it.
async fn named(call: &Call) -> Outcome<ApiKey> {
    let id: ApiKeyId = call.id("id", "API key")?;
    let found = call.app.plane.store().api_key(Scope::System("who may see it is checked next"), id).await;
    let key = match found {
        Ok(key) => key,
        Err(store::Error::NotFound) => return Err(Refusal::not_found("API key not found")),
        Err(e) => return Err(e.into()),
    };
    call.check(key.org, key.project, "API key not found")?;
    Ok(key)
}

pub async fn show(call: Call) -> Outcome<Response> {
    let key = named(&call).await?;
    Ok(reply::one(StatusCode::OK, "api_key", &show::api_key(key)))
}

pub async fn revoke(call: Call) -> Outcome<Response> {
    let id = named(&call).await?.id;
    let caller = call.commander()?;
    let done = call.app.plane.revoke_api_key(&caller, id).await?;
    Ok(reply::changed("api_key", &show::api_key(named(&call).await?), is_change(done)))
}

pub async fn delete(call: Call) -> Outcome<Response> {
    let id: ApiKeyId = call.id("id", "API key")?;
    let caller = call.commander()?;
    // The command finds it, with the caller's rights, unless this very request deleted it before.
    call.app.plane.delete_api_key(&caller, id).await?;
    Ok(reply::no_content())
}
