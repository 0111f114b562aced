//! `/orgs` and `/users`, to look at.

use crate::call::Call;
use crate::page::{listed, listing, page, slice};
use crate::problem::{Outcome, Refusal};
use crate::reply;
use actors::command::Grant;
use domain::{OrgId, Role};
use http::StatusCode;
use store::Page;
use warp::reply::Response;

pub async fn list(call: Call) -> Outcome<Response> {
    let asked = page(&call.query)?;
    let store = call.app.plane.store();
    let caller = call.caller()?;
    let everything = caller.instance_admin && matches!(caller.grant, Grant::Key { every_org: true, .. });
    if everything {
        let found = listing(asked.cursor.is_some(), store.orgs(None, asked).await)?;
        return Ok(reply::ok(&listed(found, |o| super::show::org(o, None)).under("orgs")));
    }
    let mut rows: Vec<(domain::access::Org, Option<Role>)> = match &caller.grant {
        Grant::Key { org, .. } => vec![(store.org(*org).await?, None)],
        Grant::Roles(roles) => {
            let mut rows = Vec::new();
            for (org, role) in roles {
                rows.push((store.org(*org).await?, Some(*role)));
            }
            rows
        }
    };
    rows.sort_by(|a, b| a.0.slug.cmp(&b.0.slug));
    let found = slice(rows, &asked, |(org, _)| org.id.to_string())?;
    Ok(reply::ok(&listed(found, |(o, role)| super::show::org(o, role)).under("orgs")))
}

pub async fn show(call: Call) -> Outcome<Response> {
    let id: OrgId = call.id("id", "organisation")?;
    call.check(id, None, "organisation")?;
    let org = call.app.plane.store().org(id).await.map_err(|e| match e {
        store::Error::NotFound => Refusal::not_found("organisation"),
        other => other.into(),
    })?;
    let role = match &call.caller()?.grant {
        Grant::Roles(roles) => roles.iter().find(|(o, _)| *o == id).map(|(_, r)| *r),
        Grant::Key { .. } => None,
    };
    Ok(reply::one(StatusCode::OK, "org", &super::show::org(org, role)))
}

pub async fn users(call: Call) -> Outcome<Response> {
    if !call.caller()?.instance_admin {
        return Err(Refusal::forbidden("this needs the instance administrator"));
    }
    let asked: Page = page(&call.query)?;
    let found = listing(asked.cursor.is_some(), call.app.plane.store().users(asked).await)?;
    Ok(reply::ok(&listed(found, super::show::user).under("users")))
}
