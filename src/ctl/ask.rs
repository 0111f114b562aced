//! What a command asks of the API. Pure, but for the files it names.

use crate::Failure;
use crate::args::{Audit, Bundles, Command, In, Keys, Listing, Nodes, One, Paged, Projects, Rollouts, Tokens, Wanted};
use crate::policy;
use crate::view::Show;
use http::Method;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// The largest source that is read, per file: the server's own default limit for a body.
const MAX_SOURCE: u64 = 4 << 20;

#[derive(Debug, PartialEq)]
pub enum Body {
    None,
    Json(Value),
}

/// One call and how its answer is shown.
#[derive(Debug)]
pub struct Ask {
    pub method: Method,
    /// Below `/api/v1`, escaped.
    pub path: String,
    pub query: Vec<(String, String)>,
    pub body: Body,
    pub show: Show,
}

pub fn get(path: String, show: Show) -> Ask {
    Ask { method: Method::GET, path, query: vec![], body: Body::None, show }
}

pub fn post(path: String, body: Value, show: Show) -> Ask {
    Ask { method: Method::POST, path, query: vec![], body: Body::Json(body), show }
}

pub fn delete(path: String) -> Ask {
    Ask { method: Method::DELETE, path, query: vec![], body: Body::None, show: Show::Done("deleted") }
}

impl Ask {
    pub fn with(mut self, name: &str, value: Option<impl ToString>) -> Ask {
        self.query.extend(value.map(|v| (name.to_string(), v.to_string())));
        self
    }

    pub fn page(self, page: &Paged) -> Ask {
        self.with("limit", Some(page.limit)).with("cursor", page.cursor.clone())
    }
}

/// One segment of a path, percent-encoded.
pub fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

pub fn within(project: &In, rest: &str) -> String {
    format!("/projects/{}{rest}", segment(&project.project))
}

pub fn below(project: &In, noun: &str, id: &str, rest: &str) -> String {
    within(project, &format!("/{noun}/{}{rest}", segment(id)))
}

/// A value as typed: JSON where it is JSON, text otherwise. So `10`, `true`, `{"a": 1}` and `10%` all mean what they look like.
fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_string()))
}

fn object(pairs: &[(String, String)]) -> Value {
    Value::Object(pairs.iter().map(|(k, v)| (k.clone(), value(v))).collect())
}

pub fn texts(pairs: &[(String, String)]) -> Value {
    Value::Object(pairs.iter().map(|(k, v)| (k.clone(), json!(v))).collect())
}

/// Without the fields that were not given.
pub fn given(body: Value) -> Value {
    match body {
        Value::Object(fields) => Value::Object(fields.into_iter().filter(|(_, v)| !v.is_null()).collect()),
        other => other,
    }
}

/// Errors: a file that cannot be read, a value that no call could carry.
pub fn ask(command: &Command) -> Result<Ask, Failure> {
    Ok(match command {
        Command::Projects(c) => projects(c),
        Command::Nodes(c) => nodes(c)?,
        Command::Tokens(c) => tokens(c),
        Command::Bundles(c) => bundles(c)?,
        Command::Rollouts(c) => rollouts(c),
        Command::Freezes(c) => policy::freezes(c),
        Command::Environments(c) => policy::environments(c),
        Command::Templates(c) => policy::templates(c),
        Command::Drift(c) => policy::drift(c),
        Command::Keys(c) => keys(c),
        Command::Audit(c) => audit(c),
        Command::Call { method, path, data } => call(method, path, data.as_deref())?,
    })
}

fn projects(command: &Projects) -> Ask {
    let one = |project: &str| format!("/projects/{}", segment(project));
    let settings = |s: &[(String, String)]| if s.is_empty() { Value::Null } else { object(s) };
    match command {
        Projects::List { page } => get("/projects".into(), Show::Projects).page(page),
        Projects::Show { project } => get(one(project), Show::One("project")),
        Projects::Create { name, slug, description, settings: s } => {
            let body = json!({"name": name, "slug": slug, "description": description, "settings": settings(s)});
            post("/projects".into(), given(body), Show::One("project"))
        }
        Projects::Update { project, name, description, settings: s } => {
            let body = json!({"name": name, "description": description, "settings": settings(s)});
            Ask { method: Method::PATCH, ..post(one(project), given(body), Show::One("project")) }
        }
        Projects::Delete { project } => delete(one(project)),
    }
}

fn nodes(command: &Nodes) -> Result<Ask, Failure> {
    let patch = |path: String, body: Value| Ask { method: Method::PATCH, ..post(path, body, Show::One("node")) };
    Ok(match command {
        Nodes::List { project, status, labels, bundle, q, page } => {
            let mut ask = get(within(project, "/nodes"), Show::Nodes)
                .with("status", status.clone())
                .with("bundle", bundle.clone())
                .with("q", q.clone())
                .page(page);
            ask.query.extend(labels.iter().map(|(k, v)| (format!("labels[{k}]"), v.clone())));
            ask
        }
        Nodes::Show(One { project, id }) => get(below(project, "nodes", id, ""), Show::One("node")),
        Nodes::Explain(One { project, id }) => get(below(project, "nodes", id, "/explain"), Show::Explanation),
        Nodes::Stats { project } => get(within(project, "/nodes/stats"), Show::One("stats")),
        Nodes::Label { project, id, changes } => {
            let mut labels = Map::new();
            for change in changes {
                match (change.split_once('='), change.strip_suffix('-')) {
                    (Some((key, text)), _) if !key.is_empty() => labels.insert(key.to_string(), json!(text)),
                    (None, Some(key)) if !key.is_empty() => labels.insert(key.to_string(), Value::Null),
                    _ => return Err(Failure::Usage(format!("{change:?}: expected KEY=VALUE or KEY-"))),
                };
            }
            patch(below(project, "nodes", id, ""), json!({"labels": labels}))
        }
        Nodes::Pin { project, id, bundle } => {
            patch(below(project, "nodes", id, ""), json!({"pinned_bundle_id": bundle}))
        }
        Nodes::Unpin(One { project, id }) => patch(below(project, "nodes", id, ""), json!({"pinned_bundle_id": null})),
        Nodes::Adopt(One { project, id }) => post(below(project, "nodes", id, "/adopt"), json!({}), Show::One("node")),
        Nodes::Revoke(One { project, id }) => {
            post(below(project, "nodes", id, "/revoke"), json!({}), Show::One("node"))
        }
        Nodes::RotateKey(One { project, id }) => {
            post(below(project, "nodes", id, "/rotate-key"), json!({}), Show::Secret("node_key"))
        }
        Nodes::Delete(One { project, id }) => delete(below(project, "nodes", id, "")),
    })
}

fn tokens(command: &Tokens) -> Ask {
    match command {
        Tokens::List(Listing { project, page }) => get(within(project, "/enrolment-tokens"), Show::Tokens).page(page),
        Tokens::Create { project, name, max_uses, expires_in, labels, allow_replace } => {
            let labels = if labels.is_empty() { Value::Null } else { texts(labels) };
            let body = json!({"name": name, "max_uses": max_uses, "expires_in_seconds": expires_in, "labels": labels,
                "allow_replace": allow_replace.then_some(true)});
            post(within(project, "/enrolment-tokens"), given(body), Show::Secret("token"))
        }
        Tokens::Delete(One { project, id }) => delete(below(project, "enrolment-tokens", id, "")),
    }
}

fn bundles(command: &Bundles) -> Result<Ask, Failure> {
    Ok(match command {
        Bundles::List { project, status, page } => {
            get(within(project, "/bundles"), Show::Bundles).with("status", status.clone()).page(page)
        }
        Bundles::Show(One { project, id }) => get(below(project, "bundles", id, ""), Show::One("bundle")),
        Bundles::Create { project, source, version, wait } => {
            let files = sources(source)?;
            let body = match files.len() {
                1 => json!({"version": version, "config_source": files.values().next()}),
                _ => json!({"version": version, "files": files}),
            };
            post(within(project, "/bundles"), given(body), Show::One("bundle")).with("wait", Some(wait))
        }
        Bundles::Diff { project, id, against } => {
            get(below(project, "bundles", id, "/diff"), Show::Json).with("against", Some(against))
        }
        Bundles::Download(One { project, id }) => get(below(project, "bundles", id, "/download"), Show::Bytes),
        Bundles::Verify(One { project, id }) => get(below(project, "bundles", id, "/verify"), Show::Checks),
        Bundles::Revoke { project, id, reason } => {
            post(below(project, "bundles", id, "/revoke"), given(json!({"reason": reason})), Show::One("bundle"))
        }
        Bundles::Deprecate(One { project, id }) => {
            post(below(project, "bundles", id, "/deprecate"), json!({}), Show::One("bundle"))
        }
    })
}

/// `config.kdl` alone, or every `.kdl` file of a directory by its path inside.
fn sources(source: &Path) -> Result<BTreeMap<String, String>, Failure> {
    let mut files = BTreeMap::new();
    if source.is_dir() {
        collect(source, source, &mut files)?;
        if !files.contains_key("config.kdl") {
            return Err(Failure::Usage(format!("{}: there is no config.kdl in it", source.display())));
        }
    } else {
        files.insert("config.kdl".into(), read(source)?);
    }
    Ok(files)
}

fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<String, String>) -> Result<(), Failure> {
    let trouble = |e: std::io::Error| Failure::Usage(format!("{}: {e}", folder.display()));
    for entry in std::fs::read_dir(folder).map_err(trouble)? {
        let entry = entry.map_err(trouble)?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(trouble)?);
        if kind.is_dir() {
            collect(root, &path, files)?;
        } else if kind.is_file() && path.extension().is_some_and(|e| e == "kdl") {
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().replace('\\', "/");
            files.insert(name, read(&path)?);
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, Failure> {
    let trouble = |e: std::io::Error| Failure::Usage(format!("{}: {e}", path.display()));
    let size = std::fs::metadata(path).map_err(trouble)?.len();
    if size > MAX_SOURCE {
        return Err(Failure::Usage(format!("{}: {size} bytes, at most {MAX_SOURCE}", path.display())));
    }
    std::fs::read_to_string(path).map_err(trouble)
}

/// The body of `POST rollouts` and of `plan`; without a bundle, of a template.
pub fn wanted(bundle: Option<&str>, w: &Wanted) -> Value {
    let amount = |a: &Option<String>| a.as_deref().map(value);
    let selector = (!w.labels.is_empty()).then(|| json!({"type": "labels", "labels": texts(&w.labels)}));
    let mut body = given(json!({
        "bundle_id": bundle, "target_selector": selector, "strategy": w.strategy, "batch_size": amount(&w.batch_size),
        "max_unavailable": amount(&w.max_unavailable), "failure_threshold": amount(&w.failure_threshold),
        "min_healthy_seconds": w.min_healthy, "on_failure": w.on_failure,
    }));
    for (field, text) in &w.fields {
        body[field] = value(text);
    }
    body
}

fn rollouts(command: &Rollouts) -> Ask {
    let one = |id: &str, rest: &str| format!("/rollouts/{}{rest}", segment(id));
    let say = |id: &str, verb: &str, body: Value| post(one(id, verb), given(body), Show::Rollout);
    match command {
        Rollouts::List { project, state, page } => {
            get(within(project, "/rollouts"), Show::Rollouts).with("state", state.clone()).page(page)
        }
        Rollouts::Show { id } | Rollouts::Watch { id, .. } => get(one(id, ""), Show::Rollout),
        Rollouts::Plan { project, bundle, wanted: w } => {
            post(within(project, "/rollouts/plan"), wanted(Some(bundle), w), Show::Plan)
        }
        Rollouts::Create { project, bundle, wanted: w, .. } => {
            post(within(project, "/rollouts"), wanted(Some(bundle), w), Show::Rollout)
        }
        Rollouts::Explain { id } => get(one(id, "/explain"), Show::Explanation),
        Rollouts::Events { id, page } => get(one(id, "/events"), Show::Events).page(page),
        Rollouts::Nodes { id, state, step, page } => {
            get(one(id, "/nodes"), Show::RolloutNodes).with("state", state.clone()).with("step", *step).page(page)
        }
        Rollouts::Start { id } => say(id, "/start", json!({})),
        Rollouts::Approve { id, reason } => say(id, "/approve", json!({"reason": reason})),
        Rollouts::Reject { id, reason } => say(id, "/reject", json!({"reason": reason})),
        Rollouts::Pause { id, reason } => say(id, "/pause", json!({"reason": reason})),
        Rollouts::Resume { id, retry, accept_failed } => {
            say(id, "/resume", json!({"retry": retry.then_some(true), "accept_failed": accept_failed.then_some(true)}))
        }
        Rollouts::Cancel { id, reason } => say(id, "/cancel", json!({"reason": reason})),
        Rollouts::Rollback { id, reason } => say(id, "/rollback", json!({"reason": reason})),
        Rollouts::Retry { id, nodes } => say(id, "/retry", json!({"node_ids": (!nodes.is_empty()).then_some(nodes)})),
        Rollouts::SwapSlot { id } => say(id, "/swap-slot", json!({})),
        Rollouts::AdvanceTraffic { id } => say(id, "/advance-traffic", json!({})),
    }
}

fn keys(command: &Keys) -> Ask {
    match command {
        Keys::List { page } => get("/api-keys".into(), Show::Keys).page(page),
        Keys::Create { name, scopes, project, expires_at } => {
            let body = json!({"name": name, "scopes": scopes, "project_id": project, "expires_at": expires_at});
            post("/api-keys".into(), given(body), Show::Secret("key"))
        }
        Keys::Revoke { id } => post(format!("/api-keys/{}/revoke", segment(id)), json!({}), Show::One("api_key")),
        Keys::Delete { id } => delete(format!("/api-keys/{}", segment(id))),
    }
}

fn audit(command: &Audit) -> Ask {
    match command {
        Audit::List { project, action, actor, resource, since, until, page } => {
            get(within(project, "/audit_logs"), Show::Audit)
                .with("action", action.clone())
                .with("actor", actor.clone())
                .with("resource", resource.clone())
                .with("since", since.clone())
                .with("until", until.clone())
                .page(page)
        }
        Audit::Verify { project } => get("/audit/verify".into(), Show::Verdict).with("project", project.clone()),
    }
}

fn call(method: &str, path: &str, data: Option<&str>) -> Result<Ask, Failure> {
    let method: Method =
        method.to_ascii_uppercase().parse().map_err(|_| Failure::Usage(format!("{method:?} is not a method")))?;
    let text = match data.map(|d| (d, d.strip_prefix('@'))) {
        Some((_, Some(file))) => Some(read(Path::new(file))?),
        Some((text, None)) => Some(text.to_string()),
        None => None,
    };
    let body = match text {
        Some(text) => Body::Json(serde_json::from_str(&text).map_err(|e| Failure::Usage(format!("--data: {e}")))?),
        None => Body::None,
    };
    let path = path.strip_prefix("/api/v1").unwrap_or(path);
    let path = if path.starts_with('/') { path.to_string() } else { format!("/{path}") };
    Ok(Ask { method, path, query: vec![], body, show: Show::Json })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::args::CtlArgs;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: CtlArgs,
    }

    fn typed(line: &str) -> Ask {
        let words = std::iter::once("ctl").chain(line.split(' '));
        ask(&Line::try_parse_from(words).unwrap().args.command).unwrap()
    }

    fn body(ask: &Ask) -> &Value {
        match &ask.body {
            Body::Json(v) => v,
            Body::None => panic!("no body"),
        }
    }

    #[test]
    fn amounts_are_numbers_or_percent_and_any_field_can_be_set() {
        let a = typed(
            "rollouts create -p shop abc --batch-size 10% --failure-threshold 2 --label site=ams --set ramp=1.5 --set start=false",
        );
        assert_eq!((a.method.clone(), a.path.as_str()), (Method::POST, "/projects/shop/rollouts"));
        assert_eq!(
            body(&a),
            &json!({"bundle_id": "abc", "batch_size": "10%", "failure_threshold": 2, "ramp": 1.5, "start": false,
                "target_selector": {"type": "labels", "labels": {"site": "ams"}}})
        );
    }

    #[test]
    fn what_was_not_given_is_not_sent() {
        assert_eq!(body(&typed("rollouts pause 7")), &json!({}));
        assert_eq!(body(&typed("projects create Shop")), &json!({"name": "Shop"}));
    }

    #[test]
    fn labels_are_texts_whatever_they_look_like_and_a_dash_removes_one() {
        let a = typed("nodes label -p shop n1 rack=7 site-");
        assert_eq!(a.method, Method::PATCH);
        assert_eq!(body(&a), &json!({"labels": {"rack": "7", "site": null}}));
    }

    #[test]
    fn freezes_environments_templates_and_drift_have_words_of_their_own() {
        let a = typed("freezes create -p shop sale --reason peak --ends-at 2026-12-01T00:00:00Z");
        assert_eq!(a.path, "/projects/shop/freeze-windows");
        assert_eq!(body(&a), &json!({"name": "sale", "reason": "peak", "ends_at": "2026-12-01T00:00:00Z"}));
        let a = typed("environments create -p shop production --label env=prod --approvals 2");
        assert_eq!(
            body(&a),
            &json!({"name": "production", "selector": {"type": "labels", "labels": {"env": "prod"}},
                "settings": {"approval_required": true, "approvals_needed": 2}})
        );
        assert_eq!(
            body(&typed("environments create -p shop all")),
            &json!({"name": "all", "selector": {"type": "all"}})
        );
        let a = typed("templates create -p shop slow --batch-size 1 --set ramp=2");
        assert_eq!(body(&a), &json!({"name": "slow", "settings": {"batch_size": 1, "ramp": 2}}));
        let a = typed("drift resolve -p shop 7 --remediate");
        assert_eq!((a.path.as_str(), body(&a)), ("/projects/shop/drift/7/resolve", &json!({"remediate": true})));
        assert_eq!(typed("drift list -p shop --status open").query[0], ("status".into(), "open".into()));
    }

    #[test]
    fn a_name_cannot_leave_its_place_in_the_path() {
        assert_eq!(typed("nodes show -p a/b ../x?y").path, "/projects/a%2Fb/nodes/..%2Fx%3Fy");
    }

    #[test]
    fn filters_go_into_the_query() {
        let a = typed("nodes list -p shop --status online --label site=ams --limit 5");
        let query: Vec<_> = a.query.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(query, ["status=online", "limit=5", "labels[site]=ams"]);
    }

    #[test]
    fn any_call_can_be_made() {
        let a = typed("call post /api/v1/projects/shop/holds");
        assert_eq!((a.method.clone(), a.path.as_str(), &a.body), (Method::POST, "/projects/shop/holds", &Body::None));
    }

    #[test]
    fn a_directory_is_sent_with_what_it_includes() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("routes")).unwrap();
        std::fs::write(dir.path().join("config.kdl"), "a").unwrap();
        std::fs::write(dir.path().join("routes/b.kdl"), "b").unwrap();
        std::fs::write(dir.path().join("notes.txt"), "no").unwrap();
        let found = sources(dir.path()).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["config.kdl", "routes/b.kdl"]);
        std::fs::remove_file(dir.path().join("config.kdl")).unwrap();
        assert!(matches!(sources(dir.path()), Err(Failure::Usage(why)) if why.contains("no config.kdl")));
    }
}
