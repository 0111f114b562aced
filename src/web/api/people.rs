//! `/users`, passwords, and invitations being accepted.

use super::{is_change, session, show};
use crate::app::App;
use crate::auth::Identity;
use crate::call::Call;
use crate::page::{listed, listing, page};
use crate::problem::{Outcome, Refusal};
use crate::reply;
use actors::command::{CommandError, Done};
use actors::commands::people::NewUser;
use api::people::{AcceptRequest, PasswordRequest, UserAnswer, UserRequest};
use domain::access::{Invitation, User};
use domain::{RequestId, UserId};
use http::StatusCode;
use std::net::IpAddr;
use warp::reply::Response;

/// Longest token that is looked at: ours have 47 characters.
const MAX_TOKEN: usize = 200;

pub(super) fn instance_admin(call: &Call) -> Outcome<()> {
    match call.caller()?.instance_admin {
        true => Ok(()),
        false => Err(Refusal::forbidden("this needs the instance administrator")),
    }
}

/// With its link, and the token of it; both are gone when the request was repeated.
pub fn invited(app: &App, invitation: Invitation, token: String) -> (api::people::Invitation, Option<String>) {
    let token = Some(token).filter(|t| !t.is_empty());
    let link = token.as_ref().map(|t| app.plane.invitation_link(t));
    (api::people::Invitation { link, ..show::invitation(invitation) }, token)
}

fn answer(app: &App, new: NewUser) -> UserAnswer {
    let (invitation, token) = match new.link {
        Some((invitation, token)) => {
            let (invitation, token) = invited(app, invitation, token);
            (Some(invitation), token)
        }
        None => (None, None),
    };
    UserAnswer { user: show::user(new.user), invitation, token }
}

pub async fn list(call: Call) -> Outcome<Response> {
    instance_admin(&call)?;
    let asked = page(&call.query)?;
    let found = listing(asked.cursor.is_some(), call.app.plane.store().users(asked).await)?;
    Ok(reply::ok(&listed(found, show::user).under("users")))
}

pub async fn create(call: Call) -> Outcome<Response> {
    instance_admin(&call)?;
    let said: UserRequest = call.json()?;
    let caller = call.commander()?;
    let made = call.app.plane.create_user(&caller, &said.email, said.password.as_deref()).await?;
    Ok(reply::json(StatusCode::CREATED, &answer(&call.app, made)))
}

async fn named(call: &Call) -> Outcome<User> {
    instance_admin(call)?;
    let id: UserId = call.id("id", "user")?;
    call.app.plane.store().user(id).await.map_err(|e| match e {
        store::Error::NotFound => Refusal::not_found("user"),
        other => other.into(),
    })
}

pub async fn disable(call: Call) -> Outcome<Response> {
    let (user, caller) = (named(&call).await?, call.commander()?);
    let done = call.app.plane.disable_user(&caller, user.id).await?;
    changed(&call, done).await
}

pub async fn enable(call: Call) -> Outcome<Response> {
    let (user, caller) = (named(&call).await?, call.commander()?);
    let done = call.app.plane.enable_user(&caller, user.id).await?;
    changed(&call, done).await
}

async fn changed(call: &Call, done: Done) -> Outcome<Response> {
    Ok(reply::changed("user", &show::user(named(call).await?), is_change(done)))
}

pub async fn reset_password(call: Call) -> Outcome<Response> {
    let (user, caller) = (named(&call).await?, call.commander()?);
    let reset = call.app.plane.reset_password(&caller, user.id).await?;
    Ok(reply::ok(&answer(&call.app, reset)))
}

pub async fn change_password(call: Call) -> Outcome<Response> {
    let said: PasswordRequest = call.json()?;
    let passwords = (said.current_password.as_str(), said.new_password.as_str());
    password_changed(&call.app, call.identity()?, passwords, call.address, call.meta.request_id).await?;
    Ok(reply::no_content())
}

/// The present and the next password of whoever is signed in; also behind the page `/account`. Tries are counted with those to
/// sign in: a stolen session does not open the account. Errors: 403 for a key or a wrong password, 422, 429.
pub async fn password_changed(
    app: &App,
    identity: &Identity,
    (present, next): (&str, &str),
    address: IpAddr,
    request: RequestId,
) -> Outcome<()> {
    let (Some(user), Some(token)) = (&identity.user, &identity.session_token) else {
        return Err(Refusal::forbidden("a key has no password: sign in"));
    };
    let attempt = session::begin(app, &user.email, address, request)?;
    app.plane.change_password(&identity.caller, token, present, next).await?;
    app.sign_ins.succeeded(attempt);
    Ok(())
}

pub async fn accept(call: Call) -> Outcome<Response> {
    let said: AcceptRequest = call.json()?;
    let user = accepted(&call.app, &said.token, &said.password, call.address, call.meta.request_id).await?;
    Ok(reply::one(StatusCode::OK, "user", &show::user(user)))
}

/// What the token opens; also behind the page `/invitation`. Errors: 404.
pub async fn opened(app: &App, token: &str) -> Outcome<Invitation> {
    if token.is_empty() || token.len() > MAX_TOKEN {
        return Err(Refusal::not_found("invitation"));
    }
    Ok(app.plane.open_invitation(token).await?)
}

/// One try to accept, counted like one to sign in: a link to an address with an account asks for that account's password.
/// Errors: 401 wrong password, 404 not a link that is good, 422, 429.
pub async fn accepted(app: &App, token: &str, password: &str, address: IpAddr, request: RequestId) -> Outcome<User> {
    let invitation = opened(app, token).await.map_err(|r| crate::auth::count_miss(app, address, r))?;
    let attempt = session::begin(app, &invitation.email, address, request)?;
    match app.plane.accept_invitation(token, password, request, Some(address)).await {
        Ok(user) => {
            app.sign_ins.succeeded(attempt);
            Ok(user)
        }
        Err(CommandError::Forbidden(why)) => Err(Refusal::unauthorized(why)),
        Err(e) => Err(e.into()),
    }
}
