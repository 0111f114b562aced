//! From URLs to handlers: warp filters for the groups, the hot node calls first, and a tree made of the one table behind them.
//!
//! Why a tree: 80 boxed routes in one `or` chain cost 7-10 microseconds a request and, unboxed, do not compile; the tree costs
//! a comparison per segment, and a route that is not in the table cannot exist.

use crate::app::App;
use crate::auth::{self, NODE_KEY_HEADERS, NodeCredential, NodeKey, NodeToken};
use crate::body;
use crate::call::{Call, has_body};
use crate::limit::Left;
use crate::node;
use crate::problem::{Outcome, Refusal, of_rejection};
use crate::query::{Query, decode};
use crate::reply::Meta;
use crate::routes::{Auth, Route, table};
use crate::ui;
use bytes::{Buf, Bytes};
use domain::access::{Actor, Ctx};
use domain::{NodeId, RequestId};
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use http::{HeaderMap, Method};
use std::convert::Infallible;
use warp::filters::BoxedFilter;
use warp::reply::Response;
use warp::{Filter, Rejection};

/// The routes as a tree of path segments.
pub struct Tree {
    routes: &'static [Route],
    root: Branch,
}

#[derive(Default)]
struct Branch {
    fixed: Vec<(&'static str, Branch)>,
    param: Option<Box<Branch>>,
    /// Places in the table.
    ends: Vec<usize>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    Route {
        place: usize,
        params: Vec<(&'static str, String)>,
    },
    /// The path exists for these methods.
    Methods(Vec<Method>),
    Nothing,
}

impl Tree {
    pub fn new(routes: &'static [Route]) -> Tree {
        let mut root = Branch::default();
        for (place, route) in routes.iter().enumerate() {
            let mut branch = &mut root;
            for segment in segments(route.path) {
                branch = if segment.starts_with(':') {
                    branch.param.get_or_insert_default()
                } else {
                    let at = match branch.fixed.iter().position(|(s, _)| *s == segment) {
                        Some(at) => at,
                        None => {
                            branch.fixed.push((segment, Branch::default()));
                            branch.fixed.len() - 1
                        }
                    };
                    &mut branch.fixed[at].1
                };
            }
            branch.ends.push(place);
        }
        Tree { routes, root }
    }

    /// A fixed segment is preferred to a parameter, as long as it leads to the method. HEAD is GET without its body.
    pub fn find(&self, method: &Method, path: &str) -> Found {
        let method = if *method == Method::HEAD { Method::GET } else { method.clone() };
        let path = path.strip_suffix('/').unwrap_or(path);
        let mut values = Vec::new();
        let mut methods = Vec::new();
        match self.walk(&self.root, path.strip_prefix('/').unwrap_or(path), &method, &mut values, &mut methods) {
            Some(place) => {
                let names = segments(self.routes[place].path).filter_map(|s| s.strip_prefix(':'));
                Found::Route { place, params: names.zip(values).collect() }
            }
            None if methods.is_empty() => Found::Nothing,
            None => Found::Methods(methods),
        }
    }

    fn walk(
        &self,
        branch: &Branch,
        rest: &str,
        method: &Method,
        values: &mut Vec<String>,
        methods: &mut Vec<Method>,
    ) -> Option<usize> {
        if rest.is_empty() {
            let found = branch.ends.iter().find(|e| self.routes[**e].method.http() == *method);
            if found.is_none() {
                for end in &branch.ends {
                    let m = self.routes[*end].method.http();
                    if !methods.contains(&m) {
                        methods.push(m);
                    }
                }
            }
            return found.copied();
        }
        let (segment, rest) = rest.split_once('/').unwrap_or((rest, ""));
        let fixed = branch.fixed.iter().find(|(s, _)| *s == segment);
        if let Some(place) = fixed.and_then(|(_, b)| self.walk(b, rest, method, values, methods)) {
            return Some(place);
        }
        let param = branch.param.as_deref()?;
        if segment.is_empty() {
            return None;
        }
        // A plus is a plus in a path.
        let value = if segment.contains('%') { decode(&segment.replace('+', "%2B"))? } else { segment.to_string() };
        if value.contains('\0') {
            return None;
        }
        values.push(value);
        let named = methods.len();
        let found = self.walk(param, rest, method, values, methods);
        if found.is_none() {
            values.pop();
            if named > 0 {
                // What a refusal names is what the more literal path takes.
                methods.truncate(named);
            }
        }
        found
    }
}

fn segments(path: &'static str) -> impl Iterator<Item = &'static str> {
    path.split('/').filter(|s| !s.is_empty())
}

/// Everything that is served.
pub fn routes(app: App) -> BoxedFilter<(Response,)> {
    let recover = |r: Rejection| async move { Ok::<_, Infallible>(of_rejection(&r).into_response(RequestId::NIL)) };
    hot(app.clone()).or(rest(app.clone())).unify().or(ui::routes(app)).unify().recover(recover).unify().boxed()
}

/// Heartbeats and polls: nearly all requests there are. They are in the table as well, which serves what is unusual.
fn hot(app: App) -> BoxedFilter<(Response,)> {
    let node = warp::path("api").and(warp::path("v1")).and(warp::path("nodes")).and(warp::path::param::<NodeId>());
    let key = warp::header::optional::<NodeKey>(NODE_KEY_HEADERS[0])
        .and(warp::header::optional::<NodeKey>(NODE_KEY_HEADERS[1]))
        .and(warp::header::optional::<NodeToken>("authorization"))
        .map(|a: Option<NodeKey>, b: Option<NodeKey>, token: Option<NodeToken>| auth::either(a.or(b), token));
    let with_app = warp::any().map(move || app.clone());
    let heartbeat = node
        .and(warp::path("heartbeat"))
        .and(warp::path::end())
        .and(warp::post())
        .and(with_app.clone())
        .and(warp::ext::get::<Meta>())
        .and(key)
        // Of another kind: the table refuses it.
        .and(warp::header::optional::<body::Json>("content-type"))
        .and(warp::body::stream())
        .then(
            |node: NodeId, app: App, meta: Meta, key: Option<NodeCredential>, _: Option<body::Json>, body| async move {
                node::heartbeat::hot(&app, meta, node, key, body).await
            },
        );
    let poll = node
        .and(warp::path("bundles"))
        .and(warp::path("latest"))
        .and(warp::path::end())
        .and(warp::get())
        .and(with_app)
        .and(warp::ext::get::<Meta>())
        .and(key)
        .and(raw_query())
        .then(|node: NodeId, app: App, meta: Meta, key: Option<NodeCredential>, query: String| async move {
            node::poll::hot(app, meta, node, key, query).await
        });
    heartbeat.or(poll).unify().boxed()
}

fn raw_query() -> impl Filter<Extract = (String,), Error = Infallible> + Clone {
    warp::query::raw().or(warp::any().map(String::new)).unify()
}

/// The table, behind the prefixes that are ours. Other paths are left to the pages.
fn rest(app: App) -> BoxedFilter<(Response,)> {
    let ours = warp::path("api")
        .or(warp::path("artifacts"))
        .unify()
        .or(warp::path("health"))
        .unify()
        .or(warp::path("ready"))
        .unify()
        .or(warp::path("metrics"))
        .unify();
    let tree = std::sync::Arc::new(Tree::new(table()));
    ours.and(warp::ext::get::<Meta>())
        .and(warp::method())
        .and(warp::path::full())
        .and(raw_query())
        .and(warp::header::headers_cloned())
        .and(warp::body::stream())
        .then(move |meta: Meta, method: Method, path: warp::path::FullPath, query: String, headers: HeaderMap, body| {
            let (app, tree) = (app.clone(), tree.clone());
            async move {
                let asked = Asked { meta, method, path, query, headers };
                dispatch(app, &tree, asked, pieces(body)).await
            }
        })
        .boxed()
}

fn pieces<B: Buf + 'static>(
    body: impl futures_util::Stream<Item = Result<B, warp::Error>> + Send + 'static,
) -> BoxStream<'static, Result<Bytes, warp::Error>> {
    body.map_ok(|mut b| b.copy_to_bytes(b.remaining())).boxed()
}

struct Asked {
    meta: Meta,
    method: Method,
    path: warp::path::FullPath,
    query: String,
    headers: HeaderMap,
}

async fn dispatch(
    app: App,
    tree: &Tree,
    asked: Asked,
    body: BoxStream<'static, Result<Bytes, warp::Error>>,
) -> Response {
    let meta = asked.meta;
    let (place, outcome, left) = match tree.find(&asked.method, asked.path.as_str()) {
        Found::Route { place, params } => {
            let mut left = None;
            let outcome = serve(&app, &table()[place], params, asked, body, &mut left).await;
            (Some(place), outcome, left)
        }
        Found::Methods(allowed) => (None, Err(Refusal::method_not_allowed(&allowed)), None),
        Found::Nothing => (None, Err(Refusal::not_found("there is nothing at this path")), None),
    };
    let mut response = outcome.unwrap_or_else(|refusal| refusal.into_response(meta.request_id));
    if let Some(left) = left.filter(|l| l.limit > 0) {
        let headers = response.headers_mut();
        headers.insert("x-ratelimit-limit", left.limit.into());
        headers.insert("x-ratelimit-remaining", left.remaining.into());
        headers.insert("x-ratelimit-reset", left.reset_s.into());
    }
    app.metrics.observe(place, response.status(), meta.started.elapsed());
    response
}

/// Who, how often, what was sent: then the handler.
async fn serve(
    app: &App,
    route: &'static Route,
    params: Vec<(&'static str, String)>,
    asked: Asked,
    body: BoxStream<'static, Result<Bytes, warp::Error>>,
    left: &mut Option<Left>,
) -> Outcome<Response> {
    let Asked { meta, method, path, query, headers } = asked;
    let address = meta.address;
    let (mut identity, mut node) = (None, None);
    match route.auth {
        Auth::Open => {}
        Auth::Node | Auth::NodeKey => {
            let credential = auth::node_credential(&headers);
            if route.auth == Auth::NodeKey && matches!(credential, Some(NodeCredential::Token(_))) {
                return Err(Refusal::forbidden("a token does not do here: send the node key"));
            }
            let found = auth::node(app, meta, credential).await?;
            let named = params.iter().find(|(n, _)| *n == "node_id").and_then(|(_, v)| v.parse().ok());
            auth::same_node(app, meta, &found, named.unwrap_or(NodeId::NIL), route).await?;
            node = Some(found);
        }
        Auth::Caller | Auth::Key(_) => {
            let found = auth::identify(app, &method, &headers, meta.request_id, address).await;
            let found = found.map_err(|r| auth::count_stranger(app, address, r))?;
            match app.limits.take(found.counted_as, app.plane.now()) {
                Ok(l) => *left = Some(l),
                Err(wait) => {
                    let limit = app.settings.rate_limit_per_key;
                    *left = Some(Left { limit, remaining: 0, reset_s: wait.0 });
                    return Err(Refusal::too_many("too many requests with this credential", wait.0));
                }
            }
            identity = Some(found);
        }
    }
    let most = match route.auth {
        Auth::Open => app.settings.max_body_bytes.min(body::MAX_OPEN),
        Auth::Node | Auth::NodeKey | Auth::Caller | Auth::Key(_) => app.settings.max_body_bytes,
    };
    let body = if has_body(&method) { body::read(body, most).await? } else { Bytes::new() };
    if !body.is_empty() && !body::is_json(headers.get(http::header::CONTENT_TYPE)) {
        return Err(Refusal::unsupported_media_type());
    }
    let query = Query::parse(&query)?;
    let path = path.as_str().to_string();
    let app = app.clone();
    let ctx = match (&identity, &node) {
        (Some(identity), _) => Some(identity.caller.ctx.clone()),
        (None, Some(node)) => {
            Some(Ctx { actor: Actor::Node(node.node), request_id: Some(meta.request_id), address: Some(address) })
        }
        (None, None) => None,
    };
    let plane = app.plane.clone();
    let outcome =
        (route.handler)(Call { app, route, params, path, query, headers, body, meta, address, identity, node }).await;
    if let (Err(refusal), Some(ctx)) = (&outcome, ctx)
        && refusal.problem.status == 403
    {
        plane.note_refusal(&ctx, route.method.name(), route.path).await;
    }
    outcome
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A path that matches the template.
    fn example(template: &str) -> String {
        let part = |s: &str| {
            if s.starts_with(':') { "0190b5a0-6bfa-7cc0-9d4c-1b2f3a4d5e6f".to_string() } else { s.to_string() }
        };
        template.split('/').map(part).collect::<Vec<_>>().join("/")
    }

    #[test]
    fn every_entry_of_the_table_is_reached_and_no_two_are_the_same() {
        let tree = Tree::new(table());
        for (at, route) in table().iter().enumerate() {
            match tree.find(&route.method.http(), &example(route.path)) {
                Found::Route { place, params } => {
                    assert_eq!(
                        place,
                        at,
                        "{} {} is hidden by {}",
                        route.method.name(),
                        route.path,
                        table()[place].path
                    );
                    let names: Vec<String> = params.iter().map(|(n, _)| format!(":{n}")).collect();
                    let expect: Vec<&str> = route.path.split('/').filter(|s| s.starts_with(':')).collect();
                    assert_eq!(names, expect);
                }
                other => panic!("{} {}: {other:?}", route.method.name(), route.path),
            }
        }
    }

    #[test]
    fn every_entry_is_behind_a_prefix_that_the_filters_let_through() {
        for route in table() {
            let first = segments(route.path).next().unwrap();
            assert!(["api", "artifacts", "health", "ready", "metrics"].contains(&first), "{}", route.path);
        }
    }

    #[test]
    fn unknown_paths_and_methods_are_told_apart() {
        let tree = Tree::new(table());
        assert_eq!(tree.find(&Method::GET, "/api/v1/nothing"), Found::Nothing);
        assert_eq!(tree.find(&Method::GET, "/api/v1/projects//nodes"), Found::Nothing);
        assert_eq!(tree.find(&Method::GET, "/api/v1/projects/a%00b"), Found::Nothing);
        let Found::Methods(allowed) = tree.find(&Method::PUT, "/api/v1/projects") else { panic!() };
        assert_eq!(allowed, [Method::GET, Method::POST]);
        let stats = "/api/v1/projects/p/nodes/stats";
        assert_eq!(tree.find(&Method::OPTIONS, stats), Found::Methods(vec![Method::GET]));
        // `plan` is only for POST; GET takes it for the id of a rollout and does not find that.
        assert!(matches!(tree.find(&Method::GET, "/api/v1/projects/p/rollouts/plan"), Found::Route { .. }));
    }

    #[test]
    fn head_is_served_like_get_and_a_last_slash_does_not_matter() {
        let tree = Tree::new(table());
        assert!(matches!(tree.find(&Method::HEAD, "/api/v1/projects/"), Found::Route { .. }));
    }

    #[test]
    fn parameters_are_decoded() {
        let tree = Tree::new(table());
        let Found::Route { params, .. } = tree.find(&Method::GET, "/api/v1/projects/a%2Bb+c") else { panic!() };
        assert_eq!(params, [("project", "a+b+c".to_string())]);
    }
}
