//! `/session`: signing in and out.

use crate::app::App;
use crate::auth::SESSION_COOKIE;
use crate::call::Call;
use crate::limit::Attempt;
use crate::problem::{Outcome, Refusal};
use crate::reply;
use actors::command::CommandError;
use actors::commands::access::SignedIn;
use api::access::{SignInAnswer, SignInRequest};
use domain::RequestId;
use domain::Timestamp;
use http::header::{self, HeaderValue};
use std::net::IpAddr;
use warp::reply::Response;

/// Longest address and password that are looked at: hashing more is work for nothing.
const MAX_EMAIL: usize = 254;
const MAX_PASSWORD: usize = 1024;

pub async fn sign_in(call: Call) -> Outcome<Response> {
    let said: SignInRequest = call.json()?;
    let done = attempt(&call.app, &said.email, &said.password, call.address, call.meta.request_id).await?;
    let mut response = reply::ok(&SignInAnswer {
        csrf_token: done.csrf_token,
        expires_at: done.expires_at,
        user: super::show::user(done.user),
    });
    let value = cookie(&call.app, &done.session_token, done.expires_at)?;
    response.headers_mut().insert(header::SET_COOKIE, value);
    Ok(response)
}

/// One attempt to sign in, counted; also behind the page `/login`. Errors: 401, 429.
pub async fn attempt(app: &App, email: &str, password: &str, address: IpAddr, request: RequestId) -> Outcome<SignedIn> {
    let wrong = || Refusal::unauthorized("the address or the password is wrong");
    if email.len() > MAX_EMAIL || password.len() > MAX_PASSWORD || email.is_empty() || password.is_empty() {
        return Err(wrong());
    }
    let attempt = begin(app, email, address, request)?;
    match app.plane.sign_in(email, password, Some(request), Some(address)).await {
        Ok(done) => {
            app.sign_ins.succeeded(attempt);
            Ok(done)
        }
        Err(CommandError::Forbidden(_) | CommandError::NotFound(_)) => Err(wrong()),
        Err(e) => Err(e.into()),
    }
}

/// Takes one attempt at this account from this address. Errors: 429.
pub fn begin(app: &App, email: &str, address: IpAddr, request: RequestId) -> Outcome<Attempt> {
    app.sign_ins.begin(email, address, app.plane.now()).map_err(|wait| {
        tracing::warn!(request_id = %request, %address, "sign-in attempts are limited");
        Refusal::too_many("too many attempts to sign in", wait.0)
    })
}

/// The session cookie: not for scripts, not for other sites.
pub fn cookie(app: &App, token: &str, expires_at: Timestamp) -> Outcome<HeaderValue> {
    let seconds = expires_at.since(app.plane.now()).as_secs();
    text(token, seconds, app.settings.https)
}

/// The cookie that ends a session.
pub fn no_cookie(app: &App) -> Outcome<HeaderValue> {
    text("", 0, app.settings.https)
}

fn text(token: &str, max_age: i64, https: bool) -> Outcome<HeaderValue> {
    let secure = if https { "; Secure" } else { "" };
    let text = format!("{SESSION_COOKIE}={token}; Path=/; HttpOnly; SameSite=Lax; Max-Age={max_age}{secure}");
    HeaderValue::from_str(&text).map_err(|e| Refusal::internal(format!("session cookie: {e}")))
}

pub async fn show(call: Call) -> Outcome<Response> {
    let identity = call.identity()?;
    let csrf = identity.session_token.as_ref().map(|t| call.app.plane.csrf_token(t));
    Ok(reply::ok(&serde_json::json!({
        "session": {
            "credential": identity.credential,
            "user": identity.user.clone().map(super::show::user),
            "instance_admin": identity.caller.instance_admin,
        },
        "csrf_token": csrf,
    })))
}

pub async fn sign_out(call: Call) -> Outcome<Response> {
    let Some(token) = &call.identity()?.session_token else {
        return Err(Refusal::bad_request("there is no session: this call was made with an API key"));
    };
    call.app.plane.sign_out(token, Some(call.meta.request_id), Some(call.address)).await?;
    let mut response = reply::no_content();
    response.headers_mut().insert(header::SET_COOKIE, no_cookie(&call.app)?);
    Ok(response)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_cookie_is_not_for_scripts_nor_for_other_sites() {
        let value = text("tok", 60, true).unwrap();
        assert_eq!(value, "sentinel_session=tok; Path=/; HttpOnly; SameSite=Lax; Max-Age=60; Secure");
        assert!(!text("tok", 60, false).unwrap().to_str().unwrap().contains("Secure"));
        assert!(text("a\nb", 60, false).is_err());
    }
}
