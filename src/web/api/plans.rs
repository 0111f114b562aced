//! `/projects/:project/{freeze-windows,environments,rollout-templates}`

use super::rollout_spec;
use crate::call::Call;
use crate::page::{listed, page, slice};
use crate::problem::{Outcome, Refusal};
use crate::reply;
use actors::ControlPlane;
use actors::commands::plans::{EnvironmentWish, FreezeWish, environment};
use api::plans::{Environment, EnvironmentRequest, FreezeRequest, FreezeWindow, RolloutTemplate, TemplateRequest};
use api::rollout::RolloutRequest;
use domain::freeze::Freeze;
use domain::project::slug_of;
use domain::{BundleId, FreezeId, ProjectId, Timestamp};
use http::StatusCode;
use serde_json::Value;
use std::cmp::Reverse;
use store::{Document, Documents};
use uuid::Uuid;
use warp::reply::Response;

fn show_freeze(f: Freeze, now: Timestamp) -> FreezeWindow {
    FreezeWindow {
        active: f.holds(now),
        id: f.id,
        project_id: f.project,
        environment_id: f.environment,
        name: f.name,
        reason: f.reason,
        starts_at: f.starts_at,
        ends_at: f.ends_at,
        created_by_id: f.created_by,
        inserted_at: f.inserted_at,
    }
}

fn freeze_wish(call: &Call) -> Outcome<FreezeWish> {
    let said: FreezeRequest = call.json()?;
    Ok(FreezeWish {
        name: said.name,
        reason: said.reason,
        starts_at: said.starts_at,
        ends_at: said.ends_at,
        environment: said.environment_id,
    })
}

pub async fn freezes(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let asked = page(&call.query)?;
    let rows = call.app.plane.store().freezes(project.id).await?;
    let found = slice(rows, &asked, |f| (Reverse(f.starts_at.0), Reverse(f.id)))?;
    let now = call.app.plane.now();
    Ok(reply::ok(&listed(found, |f| show_freeze(f, now)).under("freeze_windows")))
}

pub async fn create_freeze(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let wish = freeze_wish(&call)?;
    let caller = call.commander()?;
    let freeze = call.app.plane.create_freeze(&caller, project.id, wish).await?;
    Ok(reply::one(StatusCode::CREATED, "freeze_window", &show_freeze(freeze, call.app.plane.now())))
}

pub async fn show_one_freeze(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let freeze = call.app.plane.freeze(project.id, call.id::<FreezeId>("id", "freeze window")?).await?;
    Ok(reply::one(StatusCode::OK, "freeze_window", &show_freeze(freeze, call.app.plane.now())))
}

pub async fn update_freeze(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let id = call.id::<FreezeId>("id", "freeze window")?;
    let wish = freeze_wish(&call)?;
    let caller = call.commander()?;
    let freeze = call.app.plane.update_freeze(&caller, project.id, id, wish).await?;
    Ok(reply::one(StatusCode::OK, "freeze_window", &show_freeze(freeze, call.app.plane.now())))
}

pub async fn delete_freeze(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let id = call.id::<FreezeId>("id", "freeze window")?;
    let caller = call.commander()?;
    call.app.plane.delete_freeze(&caller, project.id, id).await?;
    Ok(reply::no_content())
}

fn show_environment(d: Document) -> Environment {
    let (project_id, ordinal, inserted_at, updated_at) = (d.project, d.ordinal, d.inserted_at, d.updated_at);
    let e = environment(d);
    Environment {
        id: e.id,
        project_id,
        name: e.name,
        slug: e.slug,
        ordinal,
        selector: e.selector,
        settings: e.settings,
        inserted_at,
        updated_at,
    }
}

fn environment_wish(call: &Call) -> Outcome<EnvironmentWish> {
    let said: EnvironmentRequest = call.json()?;
    Ok(EnvironmentWish {
        slug: said.slug.unwrap_or_else(|| slug_of(&said.name)),
        name: said.name,
        ordinal: said.ordinal.unwrap_or(0),
        selector: said.selector,
        settings: said.settings.unwrap_or_default(),
    })
}

async fn documents(call: &Call, kind: Documents) -> Outcome<Vec<Document>> {
    let project = call.project().await?;
    Ok(call.app.plane.store().documents(kind, project.id).await?)
}

pub async fn environments(call: Call) -> Outcome<Response> {
    let asked = page(&call.query)?;
    let found = slice(documents(&call, Documents::Environments).await?, &asked, |d| (d.ordinal, d.id))?;
    Ok(reply::ok(&listed(found, show_environment).under("environments")))
}

pub async fn create_environment(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let wish = environment_wish(&call)?;
    let caller = call.commander()?;
    let made = call.app.plane.create_environment(&caller, project.id, wish).await?;
    Ok(reply::one(StatusCode::CREATED, "environment", &show_environment(made)))
}

pub async fn show_one_environment(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let id = call.id::<Uuid>("id", "environment")?;
    let found = call.app.plane.document(Documents::Environments, project.id, id).await?;
    Ok(reply::one(StatusCode::OK, "environment", &show_environment(found)))
}

pub async fn update_environment(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let id = call.id::<Uuid>("id", "environment")?;
    let wish = environment_wish(&call)?;
    let caller = call.commander()?;
    let made = call.app.plane.update_environment(&caller, project.id, id, wish).await?;
    Ok(reply::one(StatusCode::OK, "environment", &show_environment(made)))
}

pub async fn delete_environment(call: Call) -> Outcome<Response> {
    delete(call, Documents::Environments, "environment").await
}

async fn delete(call: Call, kind: Documents, noun: &'static str) -> Outcome<Response> {
    let project = call.project().await?;
    let id = call.id::<Uuid>("id", noun)?;
    let caller = call.commander()?;
    call.app.plane.delete_document(&caller, kind, project.id, id).await?;
    Ok(reply::no_content())
}

fn show_template(d: Document) -> RolloutTemplate {
    RolloutTemplate {
        id: d.id,
        project_id: d.project,
        name: d.name,
        settings: d.body,
        inserted_at: d.inserted_at,
        updated_at: d.updated_at,
    }
}

/// A template is checked like the rollout it will make, so that it cannot fail only when it is used.
fn template_wish(call: &Call) -> Outcome<(String, Value)> {
    let said: TemplateRequest = call.json()?;
    let body = template_body(&call.app.plane, &said.settings)?;
    Ok((said.name, body))
}

/// The settings as they are kept. Errors: 422 with the field.
pub fn template_body(plane: &ControlPlane, s: &RolloutRequest) -> Outcome<Value> {
    for (field, given) in [
        ("settings.bundle_id", s.bundle_id.is_some()),
        ("settings.template_id", s.template_id.is_some()),
        ("settings.scheduled_at", s.scheduled_at.is_some()),
        ("settings.override_freeze", s.override_freeze.is_some()),
    ] {
        if given {
            return Err(Refusal::invalid(field, "is said with each rollout, not in a template"));
        }
    }
    let without_names = RolloutRequest { environment_id: None, ..s.clone() };
    rollout_spec::spec(&without_names, BundleId::NIL, plane.config().stale_after, plane.now())?;
    serde_json::to_value(s).map_err(|e| Refusal::internal(e.to_string()))
}

pub async fn templates(call: Call) -> Outcome<Response> {
    let asked = page(&call.query)?;
    let found = slice(documents(&call, Documents::Templates).await?, &asked, |d| (d.ordinal, d.id))?;
    Ok(reply::ok(&listed(found, show_template).under("rollout_templates")))
}

pub async fn create_template(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let (name, body) = template_wish(&call)?;
    let caller = call.commander()?;
    let made = call.app.plane.create_template(&caller, project.id, &name, body).await?;
    Ok(reply::one(StatusCode::CREATED, "rollout_template", &show_template(made)))
}

pub async fn show_one_template(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let id = call.id::<Uuid>("id", "rollout template")?;
    let found = call.app.plane.document(Documents::Templates, project.id, id).await?;
    Ok(reply::one(StatusCode::OK, "rollout_template", &show_template(found)))
}

pub async fn update_template(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let id = call.id::<Uuid>("id", "rollout template")?;
    let (name, body) = template_wish(&call)?;
    let caller = call.commander()?;
    let made = call.app.plane.update_template(&caller, project.id, id, &name, body).await?;
    Ok(reply::one(StatusCode::OK, "rollout_template", &show_template(made)))
}

pub async fn delete_template(call: Call) -> Outcome<Response> {
    delete(call, Documents::Templates, "rollout template").await
}

/// The request with what its template says where it is silent, and the selector of its environment. Errors: 422.
pub async fn complete(call: &Call, project: ProjectId, said: RolloutRequest) -> Outcome<RolloutRequest> {
    let said = match said.template_id.clone() {
        None | Some(Value::Null) => said,
        Some(named) => {
            let template = document_field(call, project, Documents::Templates, "template_id", &named).await?;
            over(template.body, &RolloutRequest { template_id: None, ..said })?
        }
    };
    match said.environment_id.clone() {
        None | Some(Value::Null) => Ok(said),
        Some(_) if said.target_selector.is_some() => {
            Err(Refusal::invalid("environment_id", "give this or target_selector, not both"))
        }
        Some(named) => {
            let found = document_field(call, project, Documents::Environments, "environment_id", &named).await?;
            let selector = environment(found).selector;
            Ok(RolloutRequest { environment_id: None, target_selector: Some(selector), ..said })
        }
    }
}

/// Fields that are given win over those of the template.
fn over(template: Value, said: &RolloutRequest) -> Outcome<RolloutRequest> {
    let mut fields = match template {
        Value::Object(fields) => fields,
        _ => Default::default(),
    };
    if let Ok(Value::Object(given)) = serde_json::to_value(said) {
        fields.extend(given);
    }
    serde_json::from_value(Value::Object(fields)).map_err(|e| Refusal::invalid("template_id", e.to_string()))
}

async fn document_field(
    call: &Call,
    project: ProjectId,
    kind: Documents,
    field: &str,
    named: &Value,
) -> Outcome<Document> {
    let id = named.as_str().and_then(|s| s.parse::<Uuid>().ok());
    let id = id.ok_or_else(|| Refusal::invalid(field, "must be an id"))?;
    match call.app.plane.store().document(kind, project, id).await {
        Ok(found) => Ok(found),
        Err(store::Error::NotFound) => Err(Refusal::invalid(field, "there is none such in this project")),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_request_says_wins_over_its_template() {
        let template = json!({"batch_size": 5, "min_healthy_seconds": 30});
        let said: RolloutRequest = serde_json::from_value(json!({"bundle_id": "v1", "batch_size": 2})).unwrap();
        let whole = over(template, &said).unwrap();
        assert_eq!(whole.bundle_id.as_deref(), Some("v1"));
        assert_eq!(whole.batch_size, Some(domain::project::Amount::Count(2)));
        assert_eq!(whole.min_healthy_seconds, Some(30));
    }
}
