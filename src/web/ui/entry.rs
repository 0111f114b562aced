//! Signing in and out, and refusals as pages.

use super::ask::{Ask, append_cookie, html, see_other};
use super::assets;
use super::view::entry::{ErrorView, SignInView, error, sign_in};
use super::view::parts::query;
use super::view::{Flash, Frame};
use crate::api::session;
use crate::app::App;
use crate::auth::{SESSION_COOKIE, cookie};
use crate::problem::{Outcome, Refusal};
use crate::query::Query;
use crate::reply::Meta;
use domain::RequestId;
use http::{HeaderMap, Method, StatusCode};
use std::net::IpAddr;
use warp::reply::Response;

/// Longest path that is gone to after signing in.
const MAX_NEXT: usize = 1_000;

/// A path of ours, never another site: `//host` and `/\host` are understood as hosts by browsers.
pub fn safe_next(next: &str) -> &str {
    let odd = |c: char| c.is_control() || c == '\\' || !c.is_ascii();
    let ours = next.starts_with('/') && !next.starts_with("//") && next.len() <= MAX_NEXT && !next.contains(odd);
    if ours && !next.starts_with("/login") { next } else { "/" }
}

pub fn to_login(path: &str, asked: &str) -> Outcome<Response> {
    let back = if asked.is_empty() { path.to_string() } else { format!("{path}?{asked}") };
    match safe_next(&back) {
        "/" => see_other("/login", None),
        next => see_other(&format!("/login?next={}", query(next)), None),
    }
}

fn stranger(app: &App, headers: &HeaderMap) -> Frame {
    let flash = cookie(headers, "sentinel_flash").and_then(Flash::parse);
    Frame { now: app.plane.now(), flash, assets: assets::version(), ..Frame::default() }
}

pub async fn login(
    app: &App,
    meta: Meta,
    address: IpAddr,
    reads: bool,
    headers: &HeaderMap,
    asked: &Query,
    form: &Query,
) -> Outcome<Response> {
    let source = if reads { asked } else { form };
    let next = safe_next(source.text("next").unwrap_or("/")).to_string();
    if reads {
        // Who is signed in already has nothing to do here.
        if let Some(token) = cookie(headers, SESSION_COOKIE)
            && app.plane.session(token).await?.is_some()
        {
            return see_other(&next, None);
        }
        let view = SignInView { next, ..SignInView::default() };
        return Ok(html(StatusCode::OK, sign_in(&stranger(app, headers), &view)));
    }
    let email = form.text("email").unwrap_or_default();
    let password = form.text("password").unwrap_or_default();
    let refusal = match session::attempt(app, email, password, address, meta.request_id).await {
        Ok(done) => {
            let mut response = see_other(&next, None)?;
            let value = session::cookie(app, &done.session_token, done.expires_at)?;
            response.headers_mut().append(http::header::SET_COOKIE, value);
            return Ok(response);
        }
        Err(refusal) => refusal,
    };
    let said = match refusal.problem.status {
        401 => "The address or the password is wrong.",
        429 => "There were too many attempts. Wait a minute.",
        _ => return Err(refusal),
    };
    let view = SignInView { next, error: Some(said.into()), email: email.chars().take(254).collect() };
    let mut response = html(refusal.status(), sign_in(&stranger(app, headers), &view));
    for (name, value) in refusal.headers {
        // The browser must not ask by itself.
        if name != http::header::WWW_AUTHENTICATE {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(response)
}

pub async fn logout(ask: &Ask) -> Outcome<Response> {
    if let Some(token) = &ask.identity.session_token {
        ask.plane().sign_out(token, Some(ask.meta.request_id), Some(ask.address)).await?;
    }
    let mut response = see_other("/login", Some(Flash::SignedOut))?;
    if let Ok(value) = session::no_cookie(&ask.app)?.to_str() {
        append_cookie(&mut response, value);
    }
    Ok(response)
}

/// A refusal for somebody who is not signed in, or whose request could not be read.
pub fn refused(refusal: Refusal, request: RequestId, method: &Method, path: &str) -> Response {
    let frame = Frame { assets: assets::version(), ..Frame::default() };
    shown(&frame, refusal, request, (*method == Method::POST).then(|| back(path)))
}

pub fn refused_to(ask: &Ask, refusal: Refusal, reads: bool) -> Response {
    shown(&ask.frame(), refusal, ask.meta.request_id, (!reads).then(|| back(&ask.path)))
}

/// The page that the form of this path is on.
fn back(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let keep = match parts.as_slice() {
        ["projects", _, "nodes" | "bundles" | "rollouts", ..] => parts.len().min(4),
        ["projects", _, _, ..] => 3,
        ["users" | "account", ..] => 1,
        ["orgs", ..] => return "/people".into(),
        _ => 0,
    };
    let path = format!("/{}", parts[..keep].join("/"));
    safe_next(&path).to_string()
}

fn shown(frame: &Frame, refusal: Refusal, request: RequestId, back: Option<String>) -> Response {
    let status = refusal.status();
    if let Some(why) = &refusal.internal {
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(request_id = %request, why, "a page failed");
        } else {
            tracing::warn!(request_id = %request, why, "a page could not be served");
        }
    }
    let view = ErrorView {
        status: status.as_u16(),
        title: title(status).into(),
        detail: sentence(&refusal.problem.detail),
        errors: refusal.problem.errors.iter().map(|(f, m)| (f.clone(), m.clone())).collect(),
        request_id: status.is_server_error().then(|| request.to_string()),
        back,
    };
    let mut response = html(status, error(frame, &view));
    for (name, value) in refusal.headers {
        if name != http::header::WWW_AUTHENTICATE {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn title(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "Sign in first",
        403 => "Not allowed",
        404 => "Not found",
        405 => "Not possible here",
        409 => "Not possible now",
        413 => "Too large",
        422 => "Something is not right",
        429 => "Too many requests",
        503 => "Not available at the moment",
        500..=599 => "Something went wrong",
        _ => "This did not work",
    }
}

/// With a capital letter and a full stop.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let mut out: String = chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default();
    if !out.is_empty() && !out.ends_with(['.', '!', '?']) {
        out.push('.');
    }
    out
}
