//! One request on its way to a handler: what was matched, who asks, what was sent.

use crate::app::App;
use crate::auth::Identity;
use crate::body;
use crate::problem::{Outcome, Refusal};
use crate::query::Query;
use crate::reply::Meta;
use crate::routes::{Auth, Route};
use actors::command::{Caller, Idempotency};
use actors::node_api::NodeAuth;
use bytes::Bytes;
use domain::access::KeyScope;
use domain::project::Project;
use domain::{OrgId, ProjectId, Scope};
use http::{HeaderMap, Method};
use serde::de::DeserializeOwned;
use std::net::IpAddr;
use std::str::FromStr;

/// Longest `Idempotency-Key`.
const MAX_IDEMPOTENCY_KEY: usize = 255;

pub struct Call {
    pub app: App,
    pub route: &'static Route,
    pub params: Vec<(&'static str, String)>,
    pub path: String,
    pub query: Query,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub meta: Meta,
    pub address: IpAddr,
    pub identity: Option<Identity>,
    pub node: Option<NodeAuth>,
}

impl Call {
    pub fn param(&self, name: &str) -> &str {
        self.params.iter().find(|(n, _)| *n == name).map_or("", |(_, v)| v.as_str())
    }

    /// An id of the path. What is no id names nothing: 404.
    pub fn id<T: FromStr>(&self, name: &str, what: &str) -> Outcome<T> {
        self.param(name).parse().map_err(|_| Refusal::not_found(what))
    }

    pub fn json<T: DeserializeOwned>(&self) -> Outcome<T> {
        body::json(&self.body)
    }

    pub fn json_or_empty<T: DeserializeOwned>(&self) -> Outcome<T> {
        body::json_or_empty(&self.body)
    }

    pub fn identity(&self) -> Outcome<&Identity> {
        self.identity.as_ref().ok_or_else(|| Refusal::unauthorized("sign in first"))
    }

    pub fn caller(&self) -> Outcome<&Caller> {
        Ok(&self.identity()?.caller)
    }

    pub fn node(&self) -> Outcome<NodeAuth> {
        self.node.ok_or_else(|| Refusal::unauthorized("a node key is needed"))
    }

    /// 404 when the caller cannot see this tenant, 403 when it can but may not do this.
    pub fn check(&self, org: OrgId, project: Option<ProjectId>, what: &str) -> Outcome<()> {
        let caller = self.caller()?;
        if !caller.sees(org, project) {
            return Err(Refusal::not_found(what));
        }
        match self.route.auth {
            Auth::Key(scope) => allowed(caller, scope, org, project),
            Auth::Open | Auth::Node | Auth::NodeKey | Auth::Caller => Ok(()),
        }
    }

    /// The project of the path, by slug or id, with the route's scope checked.
    pub async fn project(&self) -> Outcome<Project> {
        self.project_named(self.param("project")).await
    }

    pub async fn project_named(&self, name: &str) -> Outcome<Project> {
        let found = self.app.plane.store().project(Scope::System("who may see it is checked next"), name).await;
        let project = match found {
            Ok(project) => project,
            Err(store::Error::NotFound | store::Error::Invalid(_)) => return Err(Refusal::not_found("project")),
            Err(e) => return Err(e.into()),
        };
        self.check(project.org, Some(project.id), "project")?;
        Ok(project)
    }

    /// The caller with its idempotency key, for a command: the command itself finds out whether it was carried out before.
    pub fn commander(&self) -> Outcome<Caller> {
        let identity = self.identity()?;
        let mut caller = identity.caller.clone();
        let Some(value) = self.headers.get("idempotency-key") else { return Ok(caller) };
        let key = value.to_str().ok().filter(|k| !k.is_empty() && k.len() <= MAX_IDEMPOTENCY_KEY).ok_or_else(|| {
            Refusal::invalid(
                "Idempotency-Key",
                format!("must have 1 to {MAX_IDEMPOTENCY_KEY} visible ASCII characters"),
            )
        })?;
        let idempotency = Idempotency {
            credential: identity.credential.clone(),
            route: format!("{} {}", self.route.method.name(), self.path),
            key: key.to_string(),
            body_hash: self.app.plane.request_hash(&self.body),
        };
        caller.idempotency = Some(idempotency);
        Ok(caller)
    }
}

/// 403 that names the scope.
pub fn allowed(caller: &Caller, scope: KeyScope, org: OrgId, project: Option<ProjectId>) -> Outcome<()> {
    if caller.may(scope, org, project) {
        return Ok(());
    }
    Err(Refusal::forbidden(format!("this needs the scope {scope} (or the role {})", scope.least_role())))
}

/// Bodies are read for these.
pub fn has_body(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE)
}
