//! `/projects/:project/resources`, `/bundles/:id/diff`, `/bundles/:id/cancel` and `/retention`.

use super::{bundle, is_change, show};
use crate::call::Call;
use crate::compare::{self, Against};
use crate::page::{listed, listing, page};
use crate::problem::{Outcome, Refusal};
use crate::reply;
use api::bundle::BundleBrief;
use api::resource::{BundleDiff, ResourceRequest, Retention, RetentionRequest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use domain::bundle::Bundle;
use domain::project::Project;
use http::StatusCode;
use http::header::{self, HeaderValue};
use serde_json::json;
use store::Resource;
use warp::reply::Response;

pub async fn list(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let asked = page(&call.query)?;
    let store = call.app.plane.store();
    let found = listing(asked.cursor.is_some(), store.resources(project.id, asked).await)?;
    Ok(reply::ok(&listed(found, shown).under("resources")))
}

pub async fn put(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let said: ResourceRequest = call.json()?;
    let content = match (said.text, said.content) {
        (Some(text), None) => text.into_bytes(),
        (None, Some(base64)) => BASE64.decode(base64).map_err(|_| Refusal::invalid("content", "must be base64"))?,
        (None, None) => return Err(Refusal::invalid("content", "is required (or `text`)")),
        (Some(_), Some(_)) => return Err(Refusal::invalid("text", "comes without `content`")),
    };
    let caller = call.commander()?;
    let (done, row) = call.app.plane.put_resource(&caller, project.id, said.path, content).await?;
    let status = if is_change(done) { StatusCode::CREATED } else { StatusCode::OK };
    Ok(reply::json(status, &json!({"resource": shown(row), "changed": is_change(done)})))
}

async fn named(call: &Call, project: &Project) -> Outcome<Resource> {
    let id: uuid::Uuid = call.id("id", "resource")?;
    match call.app.plane.store().resource(project.id, &id.to_string()).await {
        Ok(row) => Ok(row),
        Err(store::Error::NotFound) => Err(Refusal::not_found("resource")),
        Err(e) => Err(e.into()),
    }
}

pub async fn get(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    Ok(reply::one(StatusCode::OK, "resource", &shown(named(&call, &project).await?)))
}

pub async fn content(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let row = named(&call, &project).await?;
    let bytes = call.app.plane.store().resource_content(project.id, row.hash).await?;
    let mut response = Response::new(bytes.into());
    let kind = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

pub async fn delete(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let id: uuid::Uuid = call.id("id", "resource")?;
    let caller = call.commander()?;
    call.app.plane.delete_resource(&caller, project.id, id).await?;
    Ok(reply::no_content())
}

fn shown(r: Resource) -> api::resource::Resource {
    api::resource::Resource {
        id: r.id,
        project_id: r.project,
        path: r.path,
        hash: r.hash.prefixed(),
        size_bytes: r.size_bytes,
        inserted_at: r.inserted_at,
        updated_at: r.updated_at,
    }
}

fn brief(b: &Bundle) -> BundleBrief {
    BundleBrief {
        id: b.id,
        bundle_id: b.content_id.map(|c| c.to_string()),
        version: b.version.clone(),
        status: b.status,
    }
}

/// `?against=`: `fleet` (what most nodes run, the default), `parent` (the bundle before), or a bundle. `?format=text` for lines.
pub async fn diff(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let found = bundle(&call, &project, call.param("id")).await?;
    let name = call.query.text("against").unwrap_or("fleet");
    let against = match Against::parse(name) {
        Some(which) => which.bundle(&call.app, project.id, &found).await?,
        None => bundle(&call, &project, name).await?,
    };
    let formats = |s: &str| ["json", "text"].into_iter().find(|f| *f == s);
    let format = call.query.read("format", "json or text", formats)?.unwrap_or("json");
    let compared = compare::compare(&against, &found).await?;
    if format == "text" {
        let mut response = Response::new(compared.text.into());
        let kind = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        return Ok(response);
    }
    Ok(reply::ok(&BundleDiff {
        bundle: brief(&found),
        against: brief(&against),
        changes: json!(compared.changes),
        truncated: compared.truncated,
        risk: json!(compared.risk),
        text: compared.text,
    }))
}

pub async fn cancel(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let found = bundle(&call, &project, call.param("id")).await?;
    let caller = call.commander()?;
    let now = call.app.plane.cancel_compile(&caller, project.id, found.id).await?;
    Ok(reply::changed("bundle", &show::bundle(now, false), true))
}

pub async fn retention(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let said: RetentionRequest = call.json_or_empty()?;
    let caller = call.commander()?;
    let done = call.app.plane.collect_bundles(&caller, project.id, said.dry_run).await?;
    let collected = done.bundles.iter().map(brief).collect();
    Ok(reply::one(StatusCode::OK, "retention", &Retention { dry_run: said.dry_run, keep: done.keep, collected }))
}
