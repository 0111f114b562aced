//! One request for a page: who asks, for what; and how answers are put together.

use super::assets;
use super::view::parts::{BundleName, BundleNames, query_string};
use super::view::{Flash, Frame, May, ProjectName, Tab};
use crate::app::App;
use crate::auth::{Identity, cookie};
use crate::call::{Call, allowed};
use crate::problem::{Outcome, Refusal};
use crate::query::Query;
use crate::reply::Meta;
use crate::routes::table;
use actors::ControlPlane;
use actors::command::{Caller, CommandError};
use bytes::Bytes;
use domain::access::KeyScope;
use domain::project::Project;
use domain::{BundleId, OrgId, ProjectId, Scope};
use http::header::{self, HeaderValue};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use maud::Markup;
use serde::de::DeserializeOwned;
use std::net::IpAddr;
use store::{Page, Store};
use warp::reply::Response;

/// Rows of a list on a page.
pub const ROWS: u32 = 50;
/// Longest cursor that is looked at.
const MAX_CURSOR: usize = 512;
const FLASH_COOKIE: &str = "sentinel_flash";
/// From a form to the page after it, in seconds.
const FLASH_SECONDS: u32 = 20;

pub struct Ask {
    pub app: App,
    pub meta: Meta,
    pub address: IpAddr,
    pub path: String,
    pub query: Query,
    pub form: Query,
    pub headers: HeaderMap,
    pub identity: Identity,
}

impl Ask {
    pub fn plane(&self) -> &ControlPlane {
        &self.app.plane
    }
    pub fn store(&self) -> &Store {
        self.app.plane.store()
    }
    pub fn caller(&self) -> &Caller {
        &self.identity.caller
    }

    /// The region of the page that is asked for; `None`: the whole page.
    pub fn fragment(&self) -> Option<&str> {
        self.query.text("fragment")
    }

    /// A value of the query, empty when it is not given.
    pub fn given(&self, name: &str) -> String {
        self.query.text(name).unwrap_or_default().to_string()
    }

    /// A field of the form without blanks at its ends; `None` when it is empty.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.form.text(name).map(str::trim).filter(|v| !v.is_empty())
    }

    /// The frame of a page that belongs to no project.
    pub fn frame(&self) -> Frame {
        let csrf = self.identity.session_token.as_ref().map(|t| self.plane().csrf_token(t));
        Frame {
            now: self.plane().now(),
            user: self.identity.user.as_ref().map(|u| u.email.clone()),
            csrf: csrf.unwrap_or_default(),
            project: None,
            tab: Tab::None,
            flash: cookie(&self.headers, FLASH_COOKIE).and_then(Flash::parse),
            may: May { instances: self.caller().instance_admin, ..May::default() },
            assets: assets::version(),
        }
    }

    fn may(&self, org: OrgId, project: Option<ProjectId>) -> May {
        let may = |scope| self.caller().may(scope, org, project);
        May {
            nodes_write: may(KeyScope::NodesWrite),
            bundles_write: may(KeyScope::BundlesWrite),
            rollouts_write: may(KeyScope::RolloutsWrite),
            projects_write: may(KeyScope::ProjectsWrite),
            audit_read: may(KeyScope::AuditRead),
            keys_read: may(KeyScope::ApiKeysRead),
            keys_admin: may(KeyScope::ApiKeysAdmin),
            instances: self.caller().instance_admin,
        }
    }

    /// The project of the path. Errors: 404 for what the caller cannot see, 403 without the right that the page needs.
    pub async fn project(&self, name: &str, needs: KeyScope) -> Outcome<(Project, Frame)> {
        let missing = || Refusal::not_found("There is no such project.");
        let found = self.store().project(Scope::System("who may see it is checked next"), name).await;
        let project = match found {
            Ok(project) => project,
            Err(store::Error::NotFound | store::Error::Invalid(_)) => return Err(missing()),
            Err(e) => return Err(e.into()),
        };
        if !self.caller().sees(project.org, Some(project.id)) {
            return Err(missing());
        }
        allowed(self.caller(), needs, project.org, Some(project.id))?;
        let mut frame = self.frame();
        frame.project = Some(ProjectName { slug: project.slug.clone(), name: project.name.clone() });
        frame.may = self.may(project.org, Some(project.id));
        Ok((project, frame))
    }

    /// The page of a list that is asked for. Errors: 422 for a cursor that is too long.
    pub fn page(&self, limit: u32) -> Outcome<Page> {
        let cursor = self.query.text("cursor").map(str::to_string);
        if cursor.as_ref().is_some_and(|c| c.len() > MAX_CURSOR) {
            return Err(Refusal::invalid("cursor", "is not a cursor of this list"));
        }
        Ok(Page { limit, cursor })
    }

    /// Where the list goes on, where it begins, and where it is now.
    pub fn links(&self, filter: &[(&str, Option<&str>)], next: Option<&str>) -> Links {
        let cursor = self.query.text("cursor");
        let with = |cursor: Option<&str>| {
            let mut pairs = filter.to_vec();
            pairs.push(("cursor", cursor));
            format!("{}{}", self.path, query_string(&pairs))
        };
        Links { next: next.map(|n| with(Some(n))), first: cursor.map(|_| with(None)), here: with(cursor) }
    }

    pub fn html(&self, status: StatusCode, markup: Markup) -> Response {
        let mut response = html(status, markup);
        // Said once. A fragment is not where it is read.
        if self.fragment().is_none() && cookie(&self.headers, FLASH_COOKIE).is_some() {
            let gone = format!("{FLASH_COOKIE}=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0");
            append_cookie(&mut response, &gone);
        }
        response
    }

    pub fn ok(&self, markup: Markup) -> Outcome<Response> {
        Ok(self.html(StatusCode::OK, markup))
    }

    /// After a form: another page, with a word about what was done.
    pub fn redirect(&self, to: &str, flash: Option<Flash>) -> Outcome<Response> {
        see_other(to, flash)
    }

    /// What the API answers to the same person, in-process: one truth for scripts and for people.
    pub async fn api<T: DeserializeOwned>(
        &self,
        path: &'static str,
        params: &[(&'static str, &str)],
        query: &str,
    ) -> Outcome<T> {
        let route = table().iter().find(|r| r.path == path && r.method == crate::routes::Method::Get);
        let route = route.ok_or_else(|| Refusal::internal(format!("no route {path}")))?;
        let call = Call {
            app: self.app.clone(),
            route,
            params: params.iter().map(|(n, v)| (*n, (*v).to_string())).collect(),
            path: path.to_string(),
            query: Query::parse(query)?,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            meta: self.meta,
            address: self.address,
            identity: Some(self.identity.clone()),
            node: None,
        };
        let response = (route.handler)(call).await?;
        let body = response.into_body().collect().await.map_err(|e| Refusal::internal(e.to_string()))?.to_bytes();
        serde_json::from_slice(&body).map_err(|e| Refusal::internal(format!("{path}: {e}")))
    }

    /// What some bundles are called.
    pub async fn names(&self, ids: impl IntoIterator<Item = BundleId>) -> Outcome<BundleNames> {
        let mut ids: Vec<BundleId> = ids.into_iter().collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.is_empty() {
            return Ok(BundleNames::default());
        }
        let facts = self.store().bundle_facts(ids).await?;
        let named = facts
            .into_iter()
            .map(|(f, _)| (f.id, BundleName { version: f.version, content: f.content_id.map(|c| c.to_string()) }));
        Ok(BundleNames(named.collect()))
    }
}

pub struct Links {
    pub next: Option<String>,
    pub first: Option<String>,
    pub here: String,
}

pub fn html(status: StatusCode, markup: Markup) -> Response {
    let mut response = Response::new(markup.into_string().into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    response
}

pub fn append_cookie(response: &mut Response, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        response.headers_mut().append(header::SET_COOKIE, value);
    }
}

pub fn see_other(to: &str, flash: Option<Flash>) -> Outcome<Response> {
    let mut response = Response::new("".into());
    *response.status_mut() = StatusCode::SEE_OTHER;
    let to = HeaderValue::from_str(to).map_err(|e| Refusal::internal(format!("Location: {e}")))?;
    response.headers_mut().insert(header::LOCATION, to);
    if let Some(flash) = flash {
        let text = format!("{FLASH_COOKIE}={}; Path=/; HttpOnly; SameSite=Lax; Max-Age={FLASH_SECONDS}", flash.code());
        append_cookie(&mut response, &text);
    }
    Ok(response)
}

/// A refusal of the kind that belongs on the form itself: what was typed can be changed. Others are pages of their own.
pub fn is_about_the_form(e: &CommandError) -> bool {
    matches!(e, CommandError::Invalid(_) | CommandError::Conflict { .. })
}
