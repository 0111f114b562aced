//! `/orgs`, with members and invitations.

use super::{gone, show};
use crate::call::Call;
use crate::page::{listed, listing, page, slice};
use crate::problem::{Outcome, Refusal};
use crate::reply;
use actors::command::{Caller, Grant};
use actors::commands::orgs::{Added, Member};
use api::people::{MemberAnswer, MemberPatch, MemberRequest, OrgPatch, OrgRequest};
use domain::access::Org;
use domain::{InvitationId, OrgId, Role, UserId};
use http::StatusCode;
use warp::reply::Response;

pub async fn list(call: Call) -> Outcome<Response> {
    let asked = page(&call.query)?;
    let store = call.app.plane.store();
    let caller = call.caller()?;
    let everything = caller.instance_admin && matches!(caller.grant, Grant::Key { every_org: true, .. });
    if everything {
        let found = listing(asked.cursor.is_some(), store.orgs(None, asked).await)?;
        return Ok(reply::ok(&listed(found, |o| show::org(o, None)).under("orgs")));
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
    Ok(reply::ok(&listed(found, |(o, role)| show::org(o, role)).under("orgs")))
}

/// The organisation of the path, where the caller may do what the route demands. Errors: 404, 403.
pub(super) async fn named(call: &Call) -> Outcome<Org> {
    let id: OrgId = call.id("id", "organisation")?;
    call.check(id, None, "organisation")?;
    call.app.plane.store().org(id).await.map_err(|e| match e {
        store::Error::NotFound => Refusal::not_found("organisation"),
        other => other.into(),
    })
}

fn role_in(caller: &Caller, org: OrgId) -> Option<Role> {
    match &caller.grant {
        Grant::Roles(roles) => roles.iter().find(|(o, _)| *o == org).map(|(_, r)| *r),
        Grant::Key { .. } => None,
    }
}

pub async fn show(call: Call) -> Outcome<Response> {
    let org = named(&call).await?;
    let role = role_in(call.caller()?, org.id);
    Ok(reply::one(StatusCode::OK, "org", &show::org(org, role)))
}

pub async fn create(call: Call) -> Outcome<Response> {
    let said: OrgRequest = call.json()?;
    let caller = call.commander()?;
    let org = call.app.plane.create_org(&caller, said.name, said.slug).await?;
    Ok(reply::one(StatusCode::CREATED, "org", &show::org(org, None)))
}

pub async fn update(call: Call) -> Outcome<Response> {
    let org = named(&call).await?;
    let said: OrgPatch = call.json()?;
    let caller = call.commander()?;
    let patch = actors::commands::orgs::OrgPatch { name: said.name, slug: said.slug };
    let org = call.app.plane.update_org(&caller, org.id, patch).await?;
    let role = role_in(&caller, org.id);
    Ok(reply::one(StatusCode::OK, "org", &show::org(org, role)))
}

pub async fn delete(call: Call) -> Outcome<Response> {
    let caller = call.commander()?;
    let org = match named(&call).await {
        Ok(org) => org,
        Err(refusal) => return gone(&call, &caller, refusal).await,
    };
    call.app.plane.delete_org(&caller, org.id).await?;
    Ok(reply::no_content())
}

fn member(m: Member) -> api::people::Member {
    api::people::Member {
        user_id: m.user.id,
        email: m.user.email,
        role: m.role,
        since: m.since,
        disabled_at: m.user.disabled_at,
    }
}

pub async fn members(call: Call) -> Outcome<Response> {
    let org = named(&call).await?;
    let asked = page(&call.query)?;
    let found = slice(call.app.plane.members(org.id).await?, &asked, |m| m.user.id.to_string())?;
    Ok(reply::ok(&listed(found, member).under("members")))
}

/// 201 with the invitation; 200 when the address was a member with this role already.
pub async fn add_member(call: Call) -> Outcome<Response> {
    let org = named(&call).await?;
    let said: MemberRequest = call.json()?;
    let caller = call.commander()?;
    let (status, answer) = match call.app.plane.add_member(&caller, org.id, &said.email, said.role).await? {
        Added::Already(m) => {
            (StatusCode::OK, MemberAnswer { member: Some(member(m)), changed: Some(false), ..MemberAnswer::default() })
        }
        Added::Invited(invitation, token) => {
            let (invitation, token) = super::people::invited(&call.app, invitation, token);
            (StatusCode::CREATED, MemberAnswer { invitation: Some(invitation), token, ..MemberAnswer::default() })
        }
    };
    Ok(reply::json(status, &answer))
}

pub async fn change_member(call: Call) -> Outcome<Response> {
    let org = named(&call).await?;
    let user: UserId = call.id("user_id", "member")?;
    let said: MemberPatch = call.json()?;
    let caller = call.commander()?;
    let changed = call.app.plane.change_member(&caller, org.id, user, said.role).await?;
    Ok(reply::one(StatusCode::OK, "member", &member(changed)))
}

pub async fn remove_member(call: Call) -> Outcome<Response> {
    let org = named(&call).await?;
    let user: UserId = call.id("user_id", "member")?;
    let caller = call.commander()?;
    call.app.plane.remove_member(&caller, org.id, user).await?;
    Ok(reply::no_content())
}

/// Those that are still to be accepted.
pub async fn invitations(call: Call) -> Outcome<Response> {
    let org = named(&call).await?;
    let asked = page(&call.query)?;
    let now = call.app.plane.now();
    let mut open = call.app.plane.store().invitations(org.id).await?;
    open.retain(|i| i.is_open(now));
    let found = slice(open, &asked, |i| i.id.to_string())?;
    Ok(reply::ok(&listed(found, show::invitation).under("invitations")))
}

pub async fn delete_invitation(call: Call) -> Outcome<Response> {
    let org = named(&call).await?;
    let id: InvitationId = call.id("invitation_id", "invitation")?;
    let caller = call.commander()?;
    call.app.plane.delete_invitation(&caller, org.id, id).await?;
    Ok(reply::no_content())
}
