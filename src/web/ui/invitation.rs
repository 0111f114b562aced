//! The page behind a link that somebody was sent: choose a password, or prove the account that is there.

use super::ask::{html, see_other};
use super::assets;
use super::view::invitation::{InvitationView, invitation};
use super::view::{Flash, Frame};
use crate::api::people;
use crate::app::App;
use crate::problem::{Outcome, Refusal};
use crate::query::Query;
use crate::reply::Meta;
use domain::access::Purpose;
use http::StatusCode;
use std::net::IpAddr;
use warp::reply::Response;

pub async fn page(
    app: &App,
    meta: Meta,
    address: IpAddr,
    reads: bool,
    asked: &Query,
    form: &Query,
) -> Outcome<Response> {
    let token = if reads { asked } else { form }.text("token").unwrap_or_default();
    let found = people::opened(app, token).await.map_err(|r| match r.problem.status {
        404 => crate::auth::count_miss(
            app,
            address,
            Refusal::not_found("This link was used, has expired, or is not whole."),
        ),
        _ => r,
    })?;
    let mut view = InvitationView {
        token: token.to_string(),
        email: found.email.clone(),
        joins: matches!(found.purpose, Purpose::Join { .. }),
        error: None,
    };
    let frame = Frame { now: app.plane.now(), assets: assets::version(), ..Frame::default() };
    if reads {
        return Ok(html(StatusCode::OK, invitation(&frame, &view)));
    }
    let password = form.text("password").unwrap_or_default();
    let refusal = match people::accepted(app, token, password, address, meta.request_id).await {
        Ok(_) => return see_other("/login", Some(Flash::PasswordSet)),
        Err(refusal) => refusal,
    };
    if !matches!(refusal.problem.status, 401 | 422 | 429) {
        return Err(refusal);
    }
    view.error = Some(refusal.problem.detail.clone());
    Ok(html(refusal.status(), invitation(&frame, &view)))
}
