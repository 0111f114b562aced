//! `POST /projects/:project/nodes/register`: with an enrolment token, or openly where the project allows it.

use super::convert;
use crate::auth;
use crate::call::Call;
use crate::limit::network_of;
use crate::problem::{Outcome, Refusal};
use crate::reply;
use actors::command::CommandError;
use actors::node_api::Registration;
use api::node::{RegisterAnswer, RegisterRequest};
use domain::Scope;
use domain::access::{Actor, Ctx};
use domain::node::{check_labels, check_node_name};
use http::StatusCode;
use warp::reply::Response;

/// Most capabilities, and the longest.
const MAX_CAPABILITIES: usize = 64;
const MAX_CAPABILITY: usize = 100;

pub async fn register(call: Call) -> Outcome<Response> {
    auth::certified(&call.app, call.meta)?;
    let token = auth::bearer(&call.headers)?;
    if token.is_none() {
        let now = call.app.plane.now();
        if let Err(wait) = call.app.anonymous.take(network_of(call.address), now) {
            return Err(Refusal::too_many("too many registrations without a token from this address", wait.0));
        }
    }
    let registration = check(call.json()?)?;
    let store = call.app.plane.store();
    let project = match store.project(Scope::System("registration names a project"), call.param("project")).await {
        Ok(project) => project,
        // With a token of no matter what there is no telling which projects exist.
        Err(store::Error::NotFound | store::Error::Invalid(_)) if token.is_some() => {
            let refusal = Refusal::unauthorized("the enrolment token is not valid here");
            return Err(auth::count_stranger(&call.app, call.address, refusal));
        }
        Err(store::Error::NotFound | store::Error::Invalid(_)) => return Err(Refusal::not_found("project")),
        Err(e) => return Err(e.into()),
    };
    let ctx = Ctx { actor: Actor::System, request_id: Some(call.meta.request_id), address: Some(call.address) };
    let done = call.app.plane.register_node(project.id, token, registration, &ctx).await;
    let done = done.map_err(|e| match e {
        // There is no other credential than the token, so a wrong or missing one is not a matter of what it may do.
        CommandError::Forbidden(why) => auth::count_stranger(&call.app, call.address, Refusal::unauthorized(why)),
        other => other.into(),
    })?;
    let status = if done.replaced { StatusCode::OK } else { StatusCode::CREATED };
    Ok(reply::json(
        status,
        &RegisterAnswer {
            node_id: done.node,
            project_id: Some(project.id),
            node_token: done.key.clone(),
            node_key: done.key,
            poll_interval_s: done.poll_interval_s,
            heartbeat_interval_s: done.heartbeat_interval_s,
            trust: done.trust,
            trust_chain: if done.trust_chain.len() > 1 { done.trust_chain } else { Vec::new() },
        },
    ))
}

fn check(said: RegisterRequest) -> Outcome<Registration> {
    check_node_name(&said.name).map_err(|why| Refusal::invalid("name", why))?;
    let labels = said.labels.unwrap_or_default();
    check_labels(&labels).map_err(|why| Refusal::invalid("labels", why))?;
    let capabilities = said.capabilities.unwrap_or_default();
    if capabilities.len() > MAX_CAPABILITIES || capabilities.iter().any(|c| c.chars().count() > MAX_CAPABILITY) {
        let most = format!("at most {MAX_CAPABILITIES} of up to {MAX_CAPABILITY} characters");
        return Err(Refusal::invalid("capabilities", most));
    }
    Ok(Registration {
        name: said.name,
        labels,
        capabilities,
        version: convert::text("version", said.version)?,
        ip: convert::text("ip", said.ip)?,
        hostname: convert::text("hostname", said.hostname)?,
        metadata: convert::metadata(said.metadata)?.unwrap_or_else(|| serde_json::json!({})),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn field(body: serde_json::Value) -> String {
        let said = crate::body::json(body.to_string().as_bytes());
        let refusal = said.and_then(check).unwrap_err();
        assert_eq!(refusal.problem.status, 422);
        refusal.problem.errors.keys().next().unwrap().clone()
    }

    #[test]
    fn what_is_wrong_with_a_registration_is_named() {
        assert_eq!(field(serde_json::json!({})), "name");
        assert_eq!(field(serde_json::json!({"name": "-a"})), "name");
        assert_eq!(field(serde_json::json!({"name": 7})), "name");
        assert_eq!(field(serde_json::json!({"name": "a", "labels": {"b c": "d"}})), "labels");
        assert_eq!(field(serde_json::json!({"name": "a", "capabilities": vec!["x"; 65]})), "capabilities");
        assert_eq!(field(serde_json::json!({"name": "a", "version": "v".repeat(256)})), "version");
    }

    #[test]
    fn fields_that_are_not_known_yet_are_ignored() {
        let said = crate::body::json(br#"{"name":"edge-1","invented_later":true}"#).unwrap();
        assert_eq!(check(said).unwrap().name, "edge-1");
    }
}
