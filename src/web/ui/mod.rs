//! Pages for people. Everything that is not under `/api`, `/artifacts`, `/health`, `/ready` and `/metrics` comes here.
//!
//! A page asks the store, shows it through [`view`], and is kept fresh by the stream of the API. Forms post, do one command,
//! and redirect: [`pages`] is the table. Invariant: nothing here writes but through a command of `actors`, and no form is heard without the CSRF token
//! of its session.

mod access;
mod ask;
mod assets;
mod audit;
mod bundles;
mod diff;
mod drift;
mod entry;
mod instances;
mod invitation;
mod lines;
mod live;
mod nodes;
mod overview;
mod pages;
mod people;
mod policy;
mod resources;
mod retention;
mod rollout_new;
mod rollouts;
mod settings;
#[cfg(test)]
mod tests;
mod trust;
pub mod view;

use crate::app::App;
use crate::auth::{CSRF_HEADER, identify};
use crate::body;
use crate::limit::Buckets;
use crate::problem::{Outcome, Refusal};
use crate::query::{Query, decode};
use crate::reply::Meta;
use ask::Ask;
use bytes::Buf;
use futures_util::Stream;
use http::header::{self, HeaderValue};
use http::uri::Authority;
use http::{HeaderMap, Method};
use std::net::IpAddr;
use std::sync::Arc;
use uuid::Uuid;
use warp::filters::BoxedFilter;
use warp::path::FullPath;
use warp::reply::Response;
use warp::{Filter, Rejection};

/// Fragments that one person's open pages may fetch in a minute: ten tabs with one busy region each, 10 x 120. Counted apart
/// from pages, so that a busy rollout never locks anybody out.
const FRAGMENTS_PER_MINUTE: u32 = 1_200;
/// The field of a form with the CSRF token.
const CSRF_FIELD: &str = "_csrf";
/// What most forms send is far below this; a configuration has the limit of the API.
const MAX_SMALL_FORM: usize = 64 * 1024;

struct Pages {
    app: App,
    fragments: Buckets<Uuid>,
}

/// Serves every path: what is unknown is a 404 page.
pub fn routes(app: App) -> BoxedFilter<(Response,)> {
    let pages = Arc::new(Pages { app, fragments: Buckets::new(FRAGMENTS_PER_MINUTE) });
    warp::ext::get::<Meta>()
        .and(warp::method())
        .and(warp::path::full())
        .and(warp::query::raw().or(warp::any().map(String::new)).unify())
        .and(warp::header::headers_cloned())
        .and(warp::host::optional().or(warp::any().map(|| None::<Authority>)).unify())
        .and(warp::body::stream())
        .and_then(
            move |meta: Meta,
                  method: Method,
                  path: FullPath,
                  query: String,
                  headers: HeaderMap,
                  host: Option<Authority>,
                  body| {
                let pages = pages.clone();
                async move {
                    let asked = Asked { meta, method, path: path.as_str().to_string(), query, headers, host };
                    Ok::<_, Rejection>(answer(&pages, asked, body).await)
                }
            },
        )
        .boxed()
}

/// Addresses of all pages, with `:names` for parameters.
pub fn addresses() -> impl Iterator<Item = &'static str> {
    std::iter::once("/login").chain(pages::PAGES.iter().map(|p| p.path))
}

/// Addresses that take a form, the same way.
pub fn forms() -> impl Iterator<Item = &'static str> {
    pages::FORMS.iter().map(|p| p.path)
}

/// A request before it is known who makes it.
struct Asked {
    meta: Meta,
    method: Method,
    path: String,
    query: String,
    headers: HeaderMap,
    /// The name that was asked for.
    host: Option<Authority>,
}

impl Asked {
    /// The parts of the path, decoded. `None`: no path of ours.
    fn segments(&self) -> Option<Vec<String>> {
        let parts = self.path.split('/').filter(|s| !s.is_empty());
        let decoded = parts.map(|s| decode(&s.replace('+', "%2B")).filter(|d| !d.contains('\0')));
        decoded.collect()
    }
}

async fn answer<B: Buf>(pages: &Pages, asked: Asked, body: impl Stream<Item = Result<B, warp::Error>>) -> Response {
    let (app, meta) = (pages.app.clone(), asked.meta);
    let address = meta.address;
    let method = asked.method.clone();
    let path = asked.path.clone();
    let response = match page(pages, asked, address, body).await {
        Ok(response) => response,
        Err(refusal) => entry::refused(refusal, meta.request_id, &method, &path),
    };
    let mut response = response;
    let headers = response.headers_mut();
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(assets::POLICY));
    // Other sites learn nothing; to ourselves browsers name the origin of a form, which `no-referrer` would make `null`.
    headers.entry(header::REFERRER_POLICY).or_insert(HeaderValue::from_static("same-origin"));
    app.metrics.observe(None, response.status(), meta.started.elapsed());
    response
}

async fn page<B: Buf>(
    pages: &Pages,
    asked: Asked,
    address: IpAddr,
    body: impl Stream<Item = Result<B, warp::Error>>,
) -> Outcome<Response> {
    let app = &pages.app;
    let not_found = || Refusal::not_found("There is nothing at this address.");
    let segments = asked.segments().ok_or_else(not_found)?;
    let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
    let reads = matches!(asked.method, Method::GET | Method::HEAD);
    if !reads && asked.method != Method::POST {
        return Err(Refusal::method_not_allowed(&[Method::GET, Method::HEAD, Method::POST]));
    }
    if let ["static", name] = parts.as_slice() {
        return if reads { assets::file(name, &asked.query, &asked.headers) } else { Err(not_found()) };
    }
    let query = Query::parse(&asked.query)?;
    if !reads {
        same_site(&asked.headers, asked.host.as_ref().map(Authority::as_str), &app.plane.config().public_url)?;
        if !is_form(&asked.headers) {
            return Err(Refusal::bad_request("This address takes forms only."));
        }
    }
    if let ["login" | "invitation"] = parts.as_slice() {
        let form = if reads { Query::default() } else { read_form(app, body, body::MAX_OPEN).await? };
        return match parts[0] {
            "login" => entry::login(app, asked.meta, address, reads, &asked.headers, &query, &form).await,
            _ => invitation::page(app, asked.meta, address, reads, &query, &form).await,
        };
    }
    if !pages::known(&parts) {
        return Err(not_found());
    }

    // Pages are for people: a key in the header is not looked at.
    let mut headers = asked.headers;
    headers.remove(header::AUTHORIZATION);
    let request = asked.meta.request_id;
    // Who it is comes first, and what they send after it: nobody else's form is read.
    let identity = match identify(app, &Method::GET, &headers, request, address).await {
        Ok(identity) => identity,
        Err(refusal) if refusal.problem.status == 401 && query.text("fragment").is_none() => {
            return entry::to_login(if reads { &asked.path } else { "/" }, if reads { &asked.query } else { "" });
        }
        Err(refusal) => return Err(refusal),
    };
    let mut form = Query::default();
    let mut identity = identity;
    if !reads {
        let limit = if parts.last() == Some(&"new") { app.settings.max_body_bytes } else { MAX_SMALL_FORM };
        form = read_form(app, body, limit).await?;
        // A form cannot set a header, so its field stands for the header that scripts send.
        if let Some(token) = form.text(CSRF_FIELD).and_then(|t| HeaderValue::from_str(t).ok()) {
            headers.insert(CSRF_HEADER, token);
        }
        let known = identity.caller.ctx.clone();
        identity = match identify(app, &asked.method, &headers, request, address).await {
            Err(refusal) if refusal.problem.status == 403 => {
                app.plane.note_refusal(&known, "POST", "a form without its token").await;
                return Err(refusal);
            }
            found => found?,
        };
    }
    let now = app.plane.now();
    let counted = match query.text("fragment") {
        Some(_) => pages.fragments.take(identity.counted_as, now),
        None => app.limits.take(identity.counted_as, now),
    };
    counted.map_err(|wait| Refusal::too_many("Too many requests; wait a moment.", wait.0))?;
    let ask = Ask { app: app.clone(), meta: asked.meta, address, path: asked.path, query, form, headers, identity };
    match pages::answer(&ask, &parts, reads).await {
        Ok(Some(response)) => Ok(response),
        Ok(None) if reads => Err(not_found()),
        Ok(None) => Err(Refusal::method_not_allowed(&[Method::GET, Method::HEAD])),
        // Who is signed in sees the refusal within the page they know.
        Err(refusal) => {
            if refusal.problem.status == 403 {
                let (method, route) = (if reads { "GET" } else { "POST" }, pages::template(&parts, reads));
                app.plane.note_refusal(&ask.caller().ctx, method, route).await;
            }
            Ok(entry::refused_to(&ask, refusal, reads))
        }
    }
}

async fn read_form<B: Buf>(
    app: &App,
    body: impl Stream<Item = Result<B, warp::Error>>,
    limit: usize,
) -> Outcome<Query> {
    let bytes = body::read(body, limit.min(app.settings.max_body_bytes)).await?;
    Query::parse(std::str::from_utf8(&bytes).map_err(|_| Refusal::bad_request("The form is not UTF-8."))?)
}

/// Browsers say where a form was sent from; another site's is not heard, not even to sign in. Older ones, and all over plain http,
/// say only its origin: that is to be the host that was asked for, or ours by its public name. What says neither is no browser.
fn same_site(headers: &HeaderMap, host: Option<&str>, public_url: &str) -> Outcome<()> {
    let ours = match headers.get("sec-fetch-site").map(|v| v.as_bytes()) {
        Some(site) => matches!(site, b"same-origin" | b"none"),
        None => headers.get(header::ORIGIN).is_none_or(|origin| {
            let from = origin.to_str().ok().and_then(authority);
            let mut names = host.into_iter().chain(authority(public_url));
            from.is_some_and(|from| names.any(|name| name.eq_ignore_ascii_case(from)))
        }),
    };
    match ours {
        true => Ok(()),
        false => Err(Refusal::forbidden(
            "This form was sent from another site. If it was not, SENTINEL_CP_PUBLIC_URL is not the address of this one.",
        )),
    }
}

/// `host[:port]` of a URL or an origin. `None`: of none that could be named, as `null`.
fn authority(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    rest.split(['/', '?', '#']).next()
}

fn is_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/x-www-form-urlencoded")
}
