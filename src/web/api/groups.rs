//! `/projects/:project/node-groups`

use super::show;
use crate::call::Call;
use crate::page::{listed, page, slice};
use crate::problem::{Outcome, Refusal};
use crate::reply;
use actors::commands::groups::NewGroup;
use api::group::NodeGroupRequest;
use domain::project::Project;
use http::StatusCode;
use store::NodeGroup;
use uuid::Uuid;
use warp::reply::Response;

async fn named(call: &Call, project: &Project) -> Outcome<NodeGroup> {
    let id: Uuid = call.id("id", "node group")?;
    call.app.plane.store().group(project.id, id).await.map_err(|e| match e {
        store::Error::NotFound => Refusal::not_found("node group"),
        other => other.into(),
    })
}

fn read(call: &Call) -> Outcome<NewGroup> {
    let said: NodeGroupRequest = call.json()?;
    Ok(NewGroup { name: said.name, selector: said.selector, node_ids: said.node_ids })
}

pub async fn list(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let asked = page(&call.query)?;
    let rows = call.app.plane.store().groups(project.id).await?;
    let found = slice(rows, &asked, |g| g.id.to_string())?;
    Ok(reply::ok(&listed(found, show::node_group).under("node_groups")))
}

pub async fn show(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    Ok(reply::one(StatusCode::OK, "node_group", &show::node_group(named(&call, &project).await?)))
}

pub async fn create(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let (new, caller) = (read(&call)?, call.commander()?);
    let group = call.app.plane.create_group(&caller, project.id, new).await?;
    Ok(reply::one(StatusCode::CREATED, "node_group", &show::node_group(group)))
}

pub async fn update(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let group = named(&call, &project).await?;
    let (new, caller) = (read(&call)?, call.commander()?);
    let group = call.app.plane.update_group(&caller, project.id, group.id, new).await?;
    Ok(reply::one(StatusCode::OK, "node_group", &show::node_group(group)))
}

pub async fn delete(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let id: Uuid = call.id("id", "node group")?;
    let caller = call.commander()?;
    call.app.plane.delete_group(&caller, project.id, id).await?;
    Ok(reply::no_content())
}
