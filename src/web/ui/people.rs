//! `/people`, `/users` and `/account`

use super::ask::Ask;
use super::view::Flash;
use super::view::people::{
    InvitationLine, Link, MemberLine, OrgView, PeopleView, UserLine, UsersView, account as account_page, people,
    users as users_page,
};
use crate::api::people as api;
use crate::call::allowed;
use crate::problem::{Outcome, Refusal};
use actors::command::{CommandError, Done, Grant};
use actors::commands::orgs::Added;
use actors::commands::people::NewUser;
use domain::access::{KeyScope, Org, Purpose, Role};
use domain::{InvitationId, OrgId, UserId};
use warp::reply::Response;

/// Organisations on the page; a person is in few.
const MAX_ORGS: usize = 50;
/// Users on a page.
const USERS: u32 = 100;

async fn organisation(ask: &Ask, id: OrgId) -> Outcome<OrgView> {
    let org = ask.store().org(id).await?;
    let may = ask.caller().may(KeyScope::ProjectsWrite, id, None);
    let members = ask.plane().members(id).await?.into_iter().map(|m| MemberLine {
        id: m.user.id.to_string(),
        email: m.user.email,
        role: m.role,
        disabled: m.user.disabled_at.is_some(),
        since: m.since,
    });
    let mut invitations = Vec::new();
    if may {
        let open = ask.store().invitations(id).await?.into_iter().filter(|i| i.is_open(ask.plane().now()));
        invitations.extend(open.filter_map(|i| match i.purpose {
            Purpose::Join { role, .. } => {
                Some(InvitationLine { id: i.id.to_string(), email: i.email, role, expires_at: i.expires_at })
            }
            Purpose::Password { .. } => None,
        }));
    }
    Ok(OrgView { id: org.id.to_string(), name: org.name, may, members: members.collect(), invitations })
}

async fn view(ask: &Ask, made: Option<Link>) -> Outcome<PeopleView> {
    let mut orgs = Vec::new();
    if let Grant::Roles(roles) = &ask.caller().grant {
        for (org, _) in roles.iter().take(MAX_ORGS) {
            orgs.push(organisation(ask, *org).await?);
        }
    }
    orgs.sort_by(|a, b| a.name.cmp(&b.name).then(a.id.cmp(&b.id)));
    Ok(PeopleView { orgs, made })
}

pub async fn show(ask: &Ask) -> Outcome<Response> {
    ask.ok(people(&ask.frame(), &view(ask, None).await?))
}

/// The organisation of a form. Errors: 404 for one that the caller is not in, 403 without the right.
async fn named(ask: &Ask, id: &str) -> Outcome<Org> {
    let missing = || Refusal::not_found("There is no such organisation.");
    let id: OrgId = id.parse().map_err(|_| missing())?;
    if !ask.caller().sees(id, None) {
        return Err(missing());
    }
    allowed(ask.caller(), KeyScope::ProjectsWrite, id, None)?;
    match ask.store().org(id).await {
        Ok(org) => Ok(org),
        Err(store::Error::NotFound) => Err(missing()),
        Err(e) => Err(e.into()),
    }
}

fn role(ask: &Ask) -> Outcome<Role> {
    let role = ask.field("role").and_then(Role::parse);
    role.ok_or_else(|| Refusal::invalid("role", "must be reader, operator or admin"))
}

/// The link's text is on the answer itself and nowhere else.
pub async fn add(ask: &Ask, org: &str) -> Outcome<Response> {
    let org = named(ask, org).await?;
    let email = ask.field("email").unwrap_or_default();
    match ask.plane().add_member(ask.caller(), org.id, email, role(ask)?).await? {
        Added::Already(_) => ask.redirect("/people", Some(Flash::Unchanged)),
        Added::Invited(invitation, token) => {
            let made = Link { email: invitation.email, url: ask.plane().invitation_link(&token) };
            ask.ok(people(&ask.frame(), &view(ask, Some(made)).await?))
        }
    }
}

fn member(id: &str) -> Outcome<UserId> {
    id.parse().map_err(|_| Refusal::not_found("There is no such member."))
}

pub async fn change(ask: &Ask, org: &str, user: &str) -> Outcome<Response> {
    let (org, user) = (named(ask, org).await?, member(user)?);
    ask.plane().change_member(ask.caller(), org.id, user, role(ask)?).await?;
    ask.redirect("/people", Some(Flash::MemberChanged))
}

pub async fn remove(ask: &Ask, org: &str, user: &str) -> Outcome<Response> {
    let (org, user) = (named(ask, org).await?, member(user)?);
    ask.plane().remove_member(ask.caller(), org.id, user).await?;
    ask.redirect("/people", Some(Flash::MemberRemoved))
}

pub async fn withdraw(ask: &Ask, org: &str, invitation: &str) -> Outcome<Response> {
    let org = named(ask, org).await?;
    let id: InvitationId = invitation.parse().map_err(|_| Refusal::not_found("There is no such invitation."))?;
    let flash = match ask.plane().delete_invitation(ask.caller(), org.id, id).await {
        Ok(()) => Flash::InvitationWithdrawn,
        Err(CommandError::NotFound(_)) => Flash::Unchanged,
        Err(e) => return Err(e.into()),
    };
    ask.redirect("/people", Some(flash))
}

fn must_administer(ask: &Ask) -> Outcome<()> {
    match ask.caller().instance_admin {
        true => Ok(()),
        false => Err(Refusal::forbidden("Users are for administrators of the installation.")),
    }
}

async fn users_view(ask: &Ask, made: Option<Link>) -> Outcome<UsersView> {
    let found = ask.store().users(ask.page(USERS)?).await?;
    let links = ask.links(&[], found.next_cursor.as_deref());
    let line = |u: domain::access::User| UserLine {
        id: u.id.to_string(),
        email: u.email,
        instance_admin: u.instance_admin,
        disabled: u.disabled_at.is_some(),
        inserted_at: u.inserted_at,
    };
    let users = found.rows.into_iter().map(line).collect();
    Ok(UsersView { users, total: found.total, next: links.next, first: links.first, made })
}

pub async fn users(ask: &Ask) -> Outcome<Response> {
    must_administer(ask)?;
    ask.ok(users_page(&ask.frame(), &users_view(ask, None).await?))
}

async fn with_link(ask: &Ask, new: NewUser) -> Outcome<Response> {
    let made = new.link.map(|(i, token)| Link { email: i.email, url: ask.plane().invitation_link(&token) });
    ask.ok(users_page(&ask.frame(), &users_view(ask, made).await?))
}

pub async fn make_user(ask: &Ask) -> Outcome<Response> {
    must_administer(ask)?;
    let new = ask.plane().create_user(ask.caller(), ask.field("email").unwrap_or_default(), None).await?;
    with_link(ask, new).await
}

fn user(id: &str) -> Outcome<UserId> {
    id.parse().map_err(|_| Refusal::not_found("There is no such user."))
}

pub async fn set_disabled(ask: &Ask, id: &str, disabled: bool) -> Outcome<Response> {
    must_administer(ask)?;
    let (id, plane) = (user(id)?, ask.plane());
    let (done, flash) = match disabled {
        true => (plane.disable_user(ask.caller(), id).await?, Flash::UserDisabled),
        false => (plane.enable_user(ask.caller(), id).await?, Flash::UserEnabled),
    };
    ask.redirect("/users", Some(if done == Done::Changed { flash } else { Flash::Unchanged }))
}

pub async fn reset_password(ask: &Ask, id: &str) -> Outcome<Response> {
    must_administer(ask)?;
    let reset = ask.plane().reset_password(ask.caller(), user(id)?).await?;
    with_link(ask, reset).await
}

pub async fn account(ask: &Ask) -> Outcome<Response> {
    ask.ok(account_page(&ask.frame(), None))
}

pub async fn change_password(ask: &Ask) -> Outcome<Response> {
    let text = |name| ask.form.text(name).unwrap_or_default();
    let change = api::password_changed(
        &ask.app,
        &ask.identity,
        (text("current_password"), text("new_password")),
        ask.address,
        ask.meta.request_id,
    );
    let refusal = match change.await {
        Ok(()) => return ask.redirect("/account", Some(Flash::PasswordChanged)),
        Err(refusal) => refusal,
    };
    if !matches!(refusal.problem.status, 403 | 422 | 429) {
        return Err(refusal);
    }
    Ok(ask.html(refusal.status(), account_page(&ask.frame(), Some(&refusal.problem.detail))))
}
