//! Every route, with everyone who might call it: what each is answered, and how many audit entries a call leaves.
//!
//! The table below is compared with the OpenAPI document, which is made from the route table: a route that is not listed here
//! fails the test.

use crate::harness::*;
use crate::people::{self, Person};
use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};

on_both_databases!(every_route_answers_everyone_as_listed, every_mutation_leaves_the_audit_entries_that_are_listed);

/// Who calls, in the order of the letters of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Anonymous,
    Reader,
    Operator,
    Admin,
    KeyWithoutScope,
    KeyOfAnotherProject,
    Node,
    OtherNode,
    RevokedKey,
    /// A key of the project with every scope.
    Key,
}

const EVERYONE: [Who; 10] = [
    Who::Anonymous,
    Who::Reader,
    Who::Operator,
    Who::Admin,
    Who::KeyWithoutScope,
    Who::KeyOfAnotherProject,
    Who::Node,
    Who::OtherNode,
    Who::RevokedKey,
    Who::Key,
];

/// A route. `answers` has a letter for each of [`EVERYONE`]: `U` 401, `F` 403, `N` 404, `+` none of these (let through, whatever
/// comes then). `audit` is how many entries one good call leaves.
struct Row {
    method: &'static str,
    path: &'static str,
    answers: &'static str,
    audit: usize,
}

const fn row(method: &'static str, path: &'static str, answers: &'static str, audit: usize) -> Row {
    Row { method, path, answers, audit }
}

/// The entry of a call that needs more of a story than this file has is looked for in `drift`, `strategies` and `trust`.
const ELSEWHERE: usize = usize::MAX;

#[rustfmt::skip]
const TABLE: &[Row] = &[
    // Anonymous, reader, operator, admin, key without scope, key of another project, node, other node, revoked key, key.
    row("POST", "/api/v1/nodes/:node_id/heartbeat", "UUUUUU+FUU", 0),
    row("GET", "/api/v1/nodes/:node_id/bundles/latest", "UUUUUU+FUU", 0),
    row("POST", "/api/v1/nodes/:node_id/bundles/:bundle_id/downloaded", "UUUUUU+FUU", 0),
    row("POST", "/api/v1/nodes/:node_id/bundles/:bundle_id/staged", "UUUUUU+FUU", 0),
    row("POST", "/api/v1/nodes/:node_id/bundles/:bundle_id/activated", "UUUUUU+FUU", 0),
    row("POST", "/api/v1/nodes/:node_id/bundles/:bundle_id/verified", "UUUUUU+FUU", 0),
    row("POST", "/api/v1/nodes/:node_id/bundles/:bundle_id/failed", "UUUUUU+FUU", 0),
    row("POST", "/api/v1/nodes/:node_id/events", "UUUUUU+FUU", 0),
    row("POST", "/api/v1/nodes/:node_id/config", "UUUUUU+FUU", 0),
    row("POST", "/api/v1/nodes/:node_id/metrics", "UUUUUU+FUU", 0),
    row("POST", "/api/v1/nodes/:node_id/waf-events", "UUUUUU+FUU", 0),
    row("POST", "/api/v1/nodes/:node_id/token", "UUUUFF+FFF", 0),
    row("POST", "/api/v1/nodes/:node_id/rotate-key", "UUUUFF+FFF", 1),
    row("POST", "/api/v1/projects/:project/nodes/register", "++++UU++UU", 1),

    row("POST", "/api/v1/session", "++++++++++", 1),
    row("GET", "/api/v1/session", "U+++++UUU+", 0),
    row("DELETE", "/api/v1/session", "U+++++UUU+", 1),
    row("POST", "/api/v1/session/password", "U+++FFUUUF", 1),
    row("POST", "/api/v1/invitations/accept", "++++++++++", 1),
    row("GET", "/api/v1/users", "UFFFFFUUUF", 0),
    row("POST", "/api/v1/users", "UFFFFFUUUF", 1),
    row("POST", "/api/v1/users/:id/disable", "UFFFFFUUUF", 1),
    row("POST", "/api/v1/users/:id/enable", "UFFFFFUUUF", 1),
    row("POST", "/api/v1/users/:id/reset-password", "UFFFFFUUUF", 1),
    row("GET", "/api/v1/instances", "UFFFFFUUUF", 0),
    row("GET", "/api/v1/orgs", "U+++++UUU+", 0),
    row("POST", "/api/v1/orgs", "UFFFFFUUUF", 1),
    row("GET", "/api/v1/orgs/:id", "U+++FFUUUF", 0),
    row("PATCH", "/api/v1/orgs/:id", "UFF+FFUUUF", 1),
    row("DELETE", "/api/v1/orgs/:id", "UNNNNNUUUN", 1),
    row("GET", "/api/v1/orgs/:id/members", "U+++FFUUUF", 0),
    row("POST", "/api/v1/orgs/:id/members", "UFF+FFUUUF", 1),
    row("PATCH", "/api/v1/orgs/:id/members/:user_id", "UFF+FFUUUF", 1),
    row("DELETE", "/api/v1/orgs/:id/members/:user_id", "UFF+FFUUUF", 1),
    row("GET", "/api/v1/orgs/:id/invitations", "UFF+FFUUUF", 0),
    row("DELETE", "/api/v1/orgs/:id/invitations/:invitation_id", "UFF+FFUUUF", 1),
    row("GET", "/api/v1/orgs/:id/trust", "U+++FFUUUF", 0),
    row("GET", "/api/v1/orgs/:id/trust/versions", "U+++FFUUUF", 0),
    row("POST", "/api/v1/orgs/:id/trust", "UFF+FFUUUF", 1),
    row("POST", "/api/v1/orgs/:id/trust/draft", "UFF+FFUUUF", 0),
    row("GET", "/api/v1/orgs/:id/keys", "U+++FFUUUF", 0),
    row("POST", "/api/v1/orgs/:id/keys", "UFF+FFUUUF", 1),
    row("POST", "/api/v1/orgs/:id/keys/:key_id/export", "UFF+FFUUUF", 1),
    row("POST", "/api/v1/orgs/:id/keys/:key_id/remove", "UFF+FFUUUF", 1),
    row("GET", "/api/v1/api-keys", "UFF+F+UUU+", 0),
    row("POST", "/api/v1/api-keys", "UFF+FFUUUF", 1),
    row("GET", "/api/v1/api-keys/:id", "UFF+FNUUU+", 0),
    row("POST", "/api/v1/api-keys/:id/revoke", "UFF+FNUUU+", 1),
    row("DELETE", "/api/v1/api-keys/:id", "UFF+FNUUU+", 1),

    row("GET", "/api/v1/projects", "U+++F+UUU+", 0),
    row("POST", "/api/v1/projects", "UFF+FFUUUF", 1),
    row("GET", "/api/v1/projects/:project", "U+++FNUUU+", 0),
    row("PATCH", "/api/v1/projects/:project", "UFF+FNUUU+", 1),
    row("DELETE", "/api/v1/projects/:project", "UFF+NNUUUN", 1),
    row("GET", "/api/v1/projects/:project/enrolment-tokens", "U+++FNUUU+", 0),
    row("POST", "/api/v1/projects/:project/enrolment-tokens", "UF++FNUUU+", 1),
    row("DELETE", "/api/v1/projects/:project/enrolment-tokens/:id", "UF++FNUUU+", 1),

    row("GET", "/api/v1/projects/:project/nodes", "U+++FNUUU+", 0),
    row("GET", "/api/v1/projects/:project/nodes/stats", "U+++FNUUU+", 0),
    row("GET", "/api/v1/projects/:project/nodes/:id", "U+++FNUUU+", 0),
    row("GET", "/api/v1/projects/:project/nodes/:id/explain", "U+++FNUUU+", 0),
    row("GET", "/api/v1/projects/:project/nodes/:id/events", "U+++FNUUU+", 0),
    row("GET", "/api/v1/projects/:project/nodes/:id/config", "U+++FNUUU+", 0),
    row("GET", "/api/v1/projects/:project/nodes/:id/metrics", "U+++FNUUU+", 0),
    row("GET", "/api/v1/projects/:project/nodes/:id/request-logs", "U+++FNUUU+", 0),
    row("GET", "/api/v1/projects/:project/nodes/:id/waf-events", "U+++FNUUU+", 0),
    row("PATCH", "/api/v1/projects/:project/nodes/:id", "UF++FNUUU+", 1),
    row("DELETE", "/api/v1/projects/:project/nodes/:id", "UF++FNUUU+", 1),
    row("POST", "/api/v1/projects/:project/nodes/:id/rotate-key", "UF++FNUUU+", 1),
    row("POST", "/api/v1/projects/:project/nodes/:id/revoke", "UF++FNUUU+", 1),
    row("POST", "/api/v1/projects/:project/nodes/:id/adopt", "UF++FNUUU+", 1),
    row("GET", "/api/v1/projects/:project/node-groups", "U+++FNUUU+", 0),
    row("POST", "/api/v1/projects/:project/node-groups", "UF++FNUUU+", 1),
    row("GET", "/api/v1/projects/:project/node-groups/:id", "U+++FNUUU+", 0),
    row("PUT", "/api/v1/projects/:project/node-groups/:id", "UF++FNUUU+", 1),
    row("DELETE", "/api/v1/projects/:project/node-groups/:id", "UF++FNUUU+", 1),

    row("POST", "/api/v1/projects/:project/desired_config", "UF++FNUUU+", 1),
    row("POST", "/api/v1/projects/:project/compile", "UF++FNUUU+", 1),
    row("GET", "/api/v1/projects/:project/bundles", "U+++FNUUU+", 0),
    row("POST", "/api/v1/projects/:project/bundles", "UF++FNUUU+", 2),
    row("GET", "/api/v1/projects/:project/bundles/:id", "U+++FNUUU+", 0),
    row("GET", "/api/v1/projects/:project/bundles/:id/download", "U+++FNUUU+", 0),
    row("GET", "/api/v1/projects/:project/bundles/:id/manifest", "U+++FNUUU+", 0),
    row("GET", "/api/v1/projects/:project/bundles/:id/sbom", "U+++FNUUU+", 0),
    row("GET", "/api/v1/projects/:project/bundles/:id/verify", "U+++FNUUU+", 0),
    row("POST", "/api/v1/projects/:project/bundles/:id/deprecate", "UF++FNUUU+", 1),
    row("POST", "/api/v1/projects/:project/bundles/:id/revoke", "UF++FNUUU+", 1),
    row("POST", "/api/v1/projects/:project/bundles/:id/assign", "UF++FNUUU+", 1),
    row("GET", "/api/v1/projects/:project/bundles/:id/diff", "U+++FNUUU+", 0),
    row("POST", "/api/v1/projects/:project/bundles/:id/cancel", "UF++FNUUU+", 1),
    row("POST", "/api/v1/projects/:project/bundles/:id/signature", "UF++FNUUU+", 1),
    row("GET", "/api/v1/projects/:project/releases", "U+++FNUUU+", 0),
    row("POST", "/api/v1/projects/:project/releases", "UF++FNUUU+", ELSEWHERE),
    row("GET", "/api/v1/projects/:project/resources", "U+++FNUUU+", 0),
    row("POST", "/api/v1/projects/:project/resources", "UF++FNUUU+", 1),
    row("GET", "/api/v1/projects/:project/resources/:id", "U+++FNUUU+", 0),
    row("GET", "/api/v1/projects/:project/resources/:id/content", "U+++FNUUU+", 0),
    row("DELETE", "/api/v1/projects/:project/resources/:id", "UF++FNUUU+", 1),
    // One for each bundle that it collects.
    row("POST", "/api/v1/projects/:project/retention", "UF++FNUUU+", 1),

    row("GET", "/api/v1/projects/:project/rollouts", "U+++FNUUU+", 0),
    row("POST", "/api/v1/projects/:project/rollouts", "UF++FNUUU+", 1),
    row("POST", "/api/v1/projects/:project/rollouts/plan", "U+++FNUUU+", 0),
    row("GET", "/api/v1/rollouts/:id", "U+++FNUUU+", 0),
    row("GET", "/api/v1/rollouts/:id/explain", "U+++FNUUU+", 0),
    row("GET", "/api/v1/rollouts/:id/events", "U+++FNUUU+", 0),
    row("GET", "/api/v1/rollouts/:id/nodes", "U+++FNUUU+", 0),
    // What becomes of the step at the same moment is an entry of its own.
    row("POST", "/api/v1/rollouts/:id/start", "UF++FNUUU+", 2),
    row("POST", "/api/v1/rollouts/:id/pause", "UF++FNUUU+", 1),
    row("POST", "/api/v1/rollouts/:id/resume", "UF++FNUUU+", 1),
    row("POST", "/api/v1/rollouts/:id/cancel", "UF++FNUUU+", 2),
    row("POST", "/api/v1/rollouts/:id/rollback", "UF++FNUUU+", 2),
    // And here that the cause of the pause is gone.
    row("POST", "/api/v1/rollouts/:id/retry", "UF++FNUUU+", 2),

    row("POST", "/api/v1/rollouts/:id/advance-traffic", "UF++FNUUU+", ELSEWHERE),
    row("POST", "/api/v1/rollouts/:id/swap-slot", "UF++FNUUU+", ELSEWHERE),
    row("GET", "/api/v1/rollouts/:id/export", "U+++FNUUU+", 0),
    row("GET", "/api/v1/rollouts/:id/report", "U+++FNUUU+", 0),
    row("GET", "/api/v1/rollouts/:id/failures", "U+++FNUUU+", 0),
    row("GET", "/api/v1/rollouts/:id/approvals", "U+++FNUUU+", 0),
    row("POST", "/api/v1/rollouts/:id/approve", "UF++FNUUUF", 1),
    row("POST", "/api/v1/rollouts/:id/reject", "UF++FNUUUF", 1),

    row("GET", "/api/v1/projects/:project/freeze-windows", "U+++FNUUU+", 0),
    row("POST", "/api/v1/projects/:project/freeze-windows", "UF++FNUUU+", 1),
    row("GET", "/api/v1/projects/:project/freeze-windows/:id", "U+++FNUUU+", 0),
    row("PUT", "/api/v1/projects/:project/freeze-windows/:id", "UF++FNUUU+", 1),
    row("DELETE", "/api/v1/projects/:project/freeze-windows/:id", "UF++FNUUU+", 1),
    row("GET", "/api/v1/projects/:project/environments", "U+++FNUUU+", 0),
    row("POST", "/api/v1/projects/:project/environments", "UF++FNUUU+", 1),
    row("GET", "/api/v1/projects/:project/environments/:id", "U+++FNUUU+", 0),
    row("PUT", "/api/v1/projects/:project/environments/:id", "UF++FNUUU+", 1),
    row("DELETE", "/api/v1/projects/:project/environments/:id", "UF++FNUUU+", 1),
    row("GET", "/api/v1/projects/:project/rollout-templates", "U+++FNUUU+", 0),
    row("POST", "/api/v1/projects/:project/rollout-templates", "UF++FNUUU+", 1),
    row("GET", "/api/v1/projects/:project/rollout-templates/:id", "U+++FNUUU+", 0),
    row("PUT", "/api/v1/projects/:project/rollout-templates/:id", "UF++FNUUU+", 1),
    row("DELETE", "/api/v1/projects/:project/rollout-templates/:id", "UF++FNUUU+", 1),

    // There is no drift here: who may look finds nothing.
    row("GET", "/api/v1/projects/:project/drift", "U+++FNUUU+", 0),
    row("GET", "/api/v1/projects/:project/drift/stats", "U+++FNUUU+", 0),
    row("GET", "/api/v1/projects/:project/drift/export", "U+++FNUUU+", 0),
    row("GET", "/api/v1/projects/:project/drift/:id", "UNNNFNUUUN", 0),
    row("POST", "/api/v1/projects/:project/drift/:id/resolve", "UFNNFNUUUN", ELSEWHERE),
    row("POST", "/api/v1/projects/:project/drift/resolve-all", "UF++FNUUU+", ELSEWHERE),
    row("GET", "/api/v1/projects/:project/what-changed", "U+++FNUUU+", 0),

    row("GET", "/api/v1/projects/:project/audit_logs", "U+++FNUUU+", 0),
    row("GET", "/api/v1/projects/:project/audit_logs/export", "U+++FNUUU+", 0),
    row("GET", "/api/v1/orgs/:id/audit_logs", "U+++FFUUUF", 0),
    row("GET", "/api/v1/orgs/:id/audit_logs/export", "U+++FFUUUF", 0),
    row("GET", "/api/v1/audit_logs", "UFFFFFUUUF", 0),
    row("GET", "/api/v1/audit_logs/export", "UFFFFFUUUF", 0),
    row("GET", "/api/v1/audit/verify", "U+++F+UUU+", 0),
    row("GET", "/api/v1/events/stream", "U+++++UUU+", 0),

    // The signed URL is its own credential: without one nobody gets anything.
    row("GET", "/artifacts/:project/:file", "FFFFFFFFFF", 0),
    row("GET", "/health", "++++++++++", 0),
    row("GET", "/ready", "++++++++++", 0),
    row("GET", "/metrics", "++++++++++", 0),
    row("GET", "/api/openapi.json", "++++++++++", 0),
    row("GET", "/api/docs", "++++++++++", 0),
];

/// The longer spelling of a rollout's path, which is served by the same entry of the route table.
const SHORT: &str = "/api/v1/rollouts/:id";
const LONG: &str = "/api/v1/projects/:project/rollouts/:id";

/// Rows with both spellings.
fn rows() -> Vec<(String, &'static Row)> {
    let long = |r: &Row| r.path.strip_prefix(SHORT).map(|rest| format!("{LONG}{rest}"));
    TABLE.iter().flat_map(|r| [Some(r.path.to_string()), long(r)].into_iter().flatten().map(move |p| (p, r))).collect()
}

/// The operations of the document, with `:name` for parameters.
fn served() -> BTreeSet<(String, String)> {
    let document = web::openapi();
    let mut out = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        let path = path.replace('{', ":").replace('}', "");
        out.extend(methods.as_object().unwrap().keys().map(|m| (m.to_uppercase(), path.clone())));
    }
    out
}

#[test]
fn every_route_is_listed_once_and_nothing_else_is() {
    let mut listed = BTreeSet::new();
    for (path, r) in rows() {
        assert_eq!(r.answers.len(), EVERYONE.len(), "{} {path}", r.method);
        assert!(listed.insert((r.method.to_string(), path.clone())), "{} {path} is listed twice", r.method);
    }
    let served = served();
    let (missing, gone): (Vec<_>, Vec<_>) =
        (served.difference(&listed).collect(), listed.difference(&served).collect());
    assert!(missing.is_empty() && gone.is_empty(), "to be listed in TABLE: {missing:#?}\nno longer served: {gone:#?}");
}

/// More bundles than are compiled at once, by far.
const BUSY: usize = 12;

/// A world with someone for each of [`EVERYONE`], and with an example of everything that a path can name.
struct Scene {
    w: World,
    org: String,
    node: Hand,
    other: Hand,
    bundle: String,
    rollout: String,
    people: Vec<(Who, Person)>,
    keys: Vec<(Who, String)>,
    count: AtomicU32,
}

const PASSWORD: &str = "a password of some length";

impl Scene {
    async fn set(ground: Ground) -> Scene {
        let w = World::on(ground, Options::default()).await;
        open_project(&w.op, "q").await;
        let orgs = w.op.get("/api/v1/orgs").await.expect(200);
        let org = orgs["orgs"][0]["id"].as_str().unwrap().to_string();
        let mut people = Vec::new();
        for (who, role) in [(Who::Reader, "reader"), (Who::Operator, "operator"), (Who::Admin, "admin")] {
            people.push((who, people::member(&w.op, &org, &format!("the-{role}@example.org"), role).await));
        }
        let mut all: Vec<String> = ["projects", "nodes", "bundles", "rollouts", "services", "audit", "api_keys"]
            .iter()
            .flat_map(|noun| ["read", "write"].map(|verb| format!("{noun}:{verb}")))
            .collect();
        all.push("api_keys:admin".into());
        let mut keys = Vec::new();
        for (who, project, scopes) in [
            (Who::KeyWithoutScope, "p", Vec::new()),
            (Who::KeyOfAnotherProject, "q", all.clone()),
            (Who::RevokedKey, "p", all.clone()),
            (Who::Key, "p", all),
        ] {
            let body = json!({"name": format!("{who:?}"), "scopes": scopes, "project_id": project});
            let made = w.op.post("/api/v1/api-keys", body).await.expect(201);
            if who == Who::RevokedKey {
                let id = made["api_key"]["id"].as_str().unwrap();
                w.op.post(&format!("/api/v1/api-keys/{id}/revoke"), json!({})).await.expect(200);
            }
            keys.push((who, made["key"].as_str().unwrap().to_string()));
        }
        let bundle = w.bundle("v1").await["bundle_id"].as_str().unwrap().to_string();
        let node = Hand::register(&w.one.url, "p", "a").await;
        let other = Hand::register(&w.one.url, "p", "b").await;
        let body = json!({"bundle_id": bundle, "start": false, "target_selector": {"type": "node_ids", "node_ids": [other.id]}});
        let rollout = w.roll_out(body).await;
        Scene { w, org, node, other, bundle, rollout, people, keys, count: AtomicU32::new(0) }
    }

    fn fresh(&self, what: &str) -> String {
        format!("{what}-{}", self.count.fetch_add(1, Ordering::Relaxed))
    }

    async fn id(&self, path: &str, body: Value, noun: &str) -> String {
        let made = self.w.op.post(path, body).await;
        assert!(matches!(made.status, 200 | 201), "{path}: {} {:#}", made.status, made.body);
        made.body[noun]["id"].as_str().unwrap().to_string()
    }

    async fn spare_node(&self) -> String {
        Hand::register(&self.w.one.url, "p", &self.fresh("n")).await.id
    }

    async fn spare_user(&self) -> String {
        let email = format!("{}@example.org", self.fresh("u"));
        self.id("/api/v1/users", json!({"email": email}), "user").await
    }

    /// A bundle key that nothing counts on.
    async fn spare_key(&self) -> String {
        let made = self.w.op.post(&format!("/api/v1/orgs/{}/keys", self.org), json!({"role": "bundle"})).await;
        made.expect(201)["key"]["key_id"].as_str().unwrap().to_string()
    }

    /// The path of a call that changes something only once something else has happened, where that is so.
    async fn ready(&self, path: &str, filled: String) -> String {
        let one = |slug: &str, version: String| {
            let kdl = format!("{}\n// {version}\n", bundle::samples::DEMO_V1);
            (format!("/api/v1/projects/{slug}/bundles"), json!({"version": version, "config_source": kdl}))
        };
        match path.rsplit('/').next().unwrap_or_default() {
            "cancel" if path.contains("/bundles/") => {
                // Those before it keep the compilers busy, and it is large itself.
                for _ in 1..BUSY {
                    let (at, body) = one("p", self.fresh("c"));
                    self.id(&at, body, "bundle").await;
                }
                let large = json!({"version": self.fresh("c"), "config_source": bundle::samples::generate(1_000)});
                let last = self.id("/api/v1/projects/p/bundles", large, "bundle").await;
                format!("/api/v1/projects/p/bundles/{last}/cancel")
            }
            "retry" => {
                let node = Hand::register(&self.w.one.url, "p", &self.fresh("n")).await;
                let only = json!({"type": "node_ids", "node_ids": [node.id]});
                // Signed by the key that counts now: no node is sent to what it would refuse.
                let bundle = self.w.bundle(&self.fresh("now")).await["bundle_id"].clone();
                let id = self.w.roll_out(json!({"bundle_id": bundle, "target_selector": only})).await;
                let told = node.told().await;
                let said = json!({"generation": told["generation"], "rollout_id": id, "error": "x"});
                node.report(told["bundle_id"].as_str().unwrap(), "failed", said).await;
                reaches(&self.w.op, &id, "paused").await;
                format!("/api/v1/rollouts/{id}/retry")
            }
            "signature" => {
                // A bundle of before is signed again by a key of now.
                let keys = json!({"bundle": {"keys": [self.spare_key().await]}});
                self.w.op.post(&format!("/api/v1/orgs/{}/trust", self.org), keys).await.expect(201);
                filled
            }
            "retention" => {
                let slug = self.fresh("old");
                open_project(&self.w.op, &slug).await;
                let keep = json!({"settings": {"retention_keep": 1}});
                self.w.op.send("PATCH", &format!("/api/v1/projects/{slug}"), keep).await.expect(200);
                for _ in 0..2 {
                    bundle_of(&self.w.op, &slug, &self.fresh("r")).await;
                }
                format!("/api/v1/projects/{slug}/retention")
            }
            _ => filled,
        }
    }

    /// A rollout in the state that the command needs.
    async fn spare_rollout(&self, command: &str) -> String {
        let approval = matches!(command, "approve" | "reject");
        let settings = json!({"settings": {"approval_required": approval}});
        self.w.op.send("PATCH", "/api/v1/projects/p", settings).await.expect(200);
        let body = json!({
            "bundle_id": self.bundle, "start": command != "start",
            "target_selector": {"type": "node_ids", "node_ids": [self.spare_node().await]},
        });
        let id = self.w.roll_out(body).await;
        if command == "resume" {
            self.w.op.post(&format!("/api/v1/rollouts/{id}/pause"), json!({})).await.expect(200);
        }
        id
    }

    /// The path of a row with ids in it. What a call would use up is made anew for it.
    async fn path(&self, template: &str, method: &str) -> String {
        // The body of one is the path of another.
        Box::pin(self.path_of(template, method)).await
    }

    async fn path_of(&self, template: &str, method: &str) -> String {
        let p = "/api/v1/projects/p";
        let id = match template.strip_prefix("/api/v1/").unwrap_or(template) {
            "orgs/:id" if method == "DELETE" => people::org(&self.w.op, &self.fresh("org")).await,
            t if t.starts_with("orgs/") => self.org.clone(),
            t if t.starts_with("users/") => {
                let user = self.spare_user().await;
                if t.ends_with("/enable") {
                    self.w.op.post(&format!("/api/v1/users/{user}/disable"), json!({})).await.expect(200);
                }
                user
            }
            t if t.starts_with("api-keys/") => {
                let body = json!({"name": self.fresh("k"), "scopes": [], "project_id": "p"});
                self.id("/api/v1/api-keys", body, "api_key").await
            }
            t if t.contains("/enrolment-tokens/") => {
                self.id(&format!("{p}/enrolment-tokens"), json!({"name": self.fresh("t")}), "enrolment_token").await
            }
            t if t.contains("/node-groups/") => {
                self.id(&format!("{p}/node-groups"), json!({"name": self.fresh("g"), "node_ids": []}), "node_group")
                    .await
            }
            t if t.contains("/freeze-windows/") => {
                let body = self.body("/freeze-windows", "POST").await;
                self.id(&format!("{p}/freeze-windows"), body, "freeze_window").await
            }
            t if t.contains("/resources/") => {
                let body = self.body("/resources", "POST").await;
                self.id(&format!("{p}/resources"), body, "resource").await
            }
            t if t.contains("/environments/") => {
                let body = self.body("/environments", "POST").await;
                self.id(&format!("{p}/environments"), body, "environment").await
            }
            t if t.contains("/rollout-templates/") => {
                let body = self.body("/rollout-templates", "POST").await;
                self.id(&format!("{p}/rollout-templates"), body, "rollout_template").await
            }
            t if t.contains("/nodes/:id") && method == "GET" => self.node.id.clone(),
            t if t.contains("/nodes/:id/adopt") => {
                // Only a quarantined one can be adopted.
                let settings = |adopt: bool| json!({"settings": {"adopt_on_registration": adopt}});
                self.w.op.send("PATCH", p, settings(false)).await.expect(200);
                let node = self.spare_node().await;
                self.w.op.send("PATCH", p, settings(true)).await.expect(200);
                node
            }
            t if t.contains("/nodes/:id") => self.spare_node().await,
            t if t.contains("/bundles/:id") && method == "POST" => {
                let version = self.fresh("v");
                self.w.bundle(&version).await["bundle_id"].as_str().unwrap().to_string()
            }
            t if t.contains("/bundles/:id") => self.bundle.clone(),
            t if t.contains("rollouts/:id/") && method == "POST" => {
                self.spare_rollout(t.rsplit('/').next().unwrap_or_default()).await
            }
            t if t.contains("rollouts/:id") => self.rollout.clone(),
            t if t.contains("/drift/:id") => domain::BundleId::NIL.to_string(),
            _ => String::new(),
        };
        let project = match (method, template) {
            ("DELETE", "/api/v1/projects/:project") => {
                let slug = self.fresh("p");
                self.w.op.post("/api/v1/projects", json!({"name": slug})).await.expect(201);
                slug
            }
            _ => "p".into(),
        };
        let mut path = template.replace(":project", &project).replace(":node_id", &self.node.id);
        if path.contains(":user_id") {
            let user = self.spare_user().await;
            people::join(&self.w, &user, &self.org, domain::Role::Reader).await;
            path = path.replace(":user_id", &user);
        }
        if path.contains(":invitation_id") {
            let body = json!({"email": format!("{}@example.org", self.fresh("i")), "role": "reader"});
            let members = format!("/api/v1/orgs/{}/members", self.org);
            path = path.replace(":invitation_id", &self.id(&members, body, "invitation").await);
        }
        if path.contains(":key_id") {
            let key = self.spare_key().await;
            if path.ends_with("/remove") {
                let export = format!("/api/v1/orgs/{}/keys/{key}/export", self.org);
                self.w.op.post(&export, json!({})).await.expect(200);
            }
            path = path.replace(":key_id", &key);
        }
        path.replace(":bundle_id", "baseline")
            .replace(":id", &id)
            .replace(":file", &format!("{}.tar.zst", "0".repeat(64)))
    }

    /// A good body for the row.
    async fn body(&self, template: &str, method: &str) -> Value {
        let email = || format!("{}@example.org", self.fresh("x"));
        let kdl = || format!("{}\n// {}\n", bundle::samples::DEMO_V1, self.fresh("c"));
        match template.strip_prefix("/api/v1/").unwrap_or(template) {
            "session" if method == "POST" => json!({"email": people::ADMIN.0, "password": people::ADMIN.1}),
            "session/password" => json!({"current_password": PASSWORD, "new_password": PASSWORD}),
            "invitations/accept" => {
                let members = format!("/api/v1/orgs/{}/members", self.org);
                let made = self.w.op.post(&members, json!({"email": email(), "role": "reader"})).await.expect(201);
                json!({"token": made["token"], "password": PASSWORD})
            }
            "users" => json!({"email": email()}),
            "orgs" | "orgs/:id" => json!({"name": self.fresh("Org")}),
            "orgs/:id/members" => json!({"email": email(), "role": "reader"}),
            "orgs/:id/members/:user_id" => json!({"role": "operator"}),
            "api-keys" => json!({"name": self.fresh("key"), "scopes": []}),
            "projects" => json!({"name": self.fresh("project")}),
            "projects/:project" => json!({"description": self.fresh("d")}),
            t if t.ends_with("/enrolment-tokens") => json!({"name": self.fresh("t")}),
            t if t.ends_with("/nodes/register") => json!({"name": self.fresh("r")}),
            t if t.ends_with("/node-groups") => json!({"name": self.fresh("g"), "node_ids": []}),
            t if t.ends_with("/node-groups/:id") => json!({"name": self.fresh("g"), "selector": {"type": "all"}}),
            t if t.ends_with("/nodes/:id") => json!({"labels": {"env": self.fresh("e")}}),
            t if t.ends_with("/desired_config") => json!({"config": kdl()}),
            t if t.ends_with("/compile") => json!({"version": self.fresh("c")}),
            t if t.ends_with("/bundles") => json!({"version": self.fresh("b"), "config_source": kdl()}),
            t if t.ends_with("/assign") => json!({"node_ids": [self.spare_node().await]}),
            t if t.ends_with("/rollouts") || t.ends_with("/rollouts/plan") => json!({
                "bundle_id": self.bundle, "start": false,
                "target_selector": {"type": "node_ids", "node_ids": [self.spare_node().await]},
            }),
            t if t.ends_with("/approve") || t.ends_with("/reject") => json!({"comment": "seen"}),
            t if t.contains("/freeze-windows") => json!({
                "name": self.fresh("f"), "reason": "holidays", "starts_at": "2099-01-01T00:00:00Z", "ends_at": "2099-01-02T00:00:00Z",
            }),
            t if t.contains("/environments") => {
                json!({"name": self.fresh("env"), "selector": {"labels": {"env": "x"}}})
            }
            t if t.contains("/rollout-templates") => json!({"name": self.fresh("t"), "settings": {"batch_size": 2}}),
            "orgs/:id/trust" | "orgs/:id/trust/draft" => {
                json!({"artifact_origins": [format!("https://{}.example.org", self.fresh("o"))]})
            }
            "orgs/:id/keys" => json!({"role": "bundle"}),
            t if t.ends_with("/resources") => {
                json!({"path": format!("certs/{}.pem", self.fresh("r")), "text": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"})
            }
            t if t.ends_with("/releases") => json!({"payload": "", "key_id": "", "signature": ""}),
            t if t.ends_with("nodes/:node_id/config") => json!({"config_kdl": "// what it runs"}),
            t if t.ends_with("nodes/:node_id/waf-events") => json!({"events": [{"rule_id": "942100"}]}),
            t if t.ends_with("nodes/:node_id/events") => json!({"events": [{"event_type": "info", "message": "up"}]}),
            t if t.ends_with("/failed") => json!({"error": "x"}),
            _ => json!({}),
        }
    }

    async fn call(&self, who: Who, method: &str, path: &str, body: &Value) -> Answer {
        let bytes = if method == "GET" { Bytes::new() } else { Bytes::from(body.to_string()) };
        let kind = ("content-type", "application/json");
        let anyone = Client::new(&self.w.one.url, None);
        if let Some((_, person)) = self.people.iter().find(|(w, _)| *w == who) {
            return person.first(method, path, body).await;
        }
        if let Some((_, key)) = self.keys.iter().find(|(w, _)| *w == who) {
            let bearer = format!("Bearer {key}");
            return anyone.first(method, path, &[kind, ("authorization", &bearer)], bytes).await;
        }
        let key = match who {
            Who::Node => self.node.key.as_str(),
            Who::OtherNode => self.other.key.as_str(),
            _ => return anyone.first(method, path, &[kind], bytes).await,
        };
        anyone.first(method, path, &[kind, ("x-sentinel-node-key", key)], bytes).await
    }
}

fn letter(status: u16) -> char {
    match status {
        401 => 'U',
        403 => 'F',
        404 => 'N',
        _ => '+',
    }
}

async fn every_route_answers_everyone_as_listed(ground: Ground) {
    let scene = Scene::set(ground).await;
    let mut wrong = BTreeMap::new();
    for (path, r) in rows() {
        // These end what the next calls come with.
        let ends_session = (r.method, r.path) == ("DELETE", "/api/v1/session");
        let mut got = String::new();
        for who in EVERYONE {
            let is_person = matches!(who, Who::Reader | Who::Operator | Who::Admin);
            if ends_session && is_person {
                got.push('+');
                continue;
            }
            let (path, body) = (scene.path(&path, r.method).await, scene.body(r.path, r.method).await);
            let answer = scene.call(who, r.method, &path, &body).await;
            assert!(answer.status < 500, "{who:?} {} {path}: {} {:#}", r.method, answer.status, answer.body);
            got.push(letter(answer.status));
        }
        if got != r.answers {
            wrong.insert(format!("{} {path}", r.method), format!("listed {} got {got}", r.answers));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    scene.w.end().await;
}

async fn every_mutation_leaves_the_audit_entries_that_are_listed(ground: Ground) {
    let scene = Scene::set(ground).await;
    let store = scene.w.one.tree.plane.store().clone();
    let mut wrong = BTreeMap::new();
    for (path, r) in rows().into_iter().filter(|(_, r)| r.method != "GET" && r.audit != ELSEWHERE) {
        let filled = scene.ready(&path, scene.path(&path, r.method).await).await;
        let body = scene.body(r.path, r.method).await;
        let answer = match r.path {
            "/api/v1/session" if r.method == "DELETE" => {
                let person = Person::sign_in(&scene.w.one.url, people::ADMIN.0, people::ADMIN.1).await;
                person.first(r.method, &filled, &body).await
            }
            // Approvals are given by people.
            p if p.ends_with("/approve") || p.ends_with("/reject") => {
                scene.call(Who::Admin, r.method, &filled, &body).await
            }
            "/api/v1/session/password" => scene.call(Who::Admin, r.method, &filled, &body).await,
            p if p.starts_with("/api/v1/nodes/") => scene.call(Who::Node, r.method, &filled, &body).await,
            p if p.ends_with("/register") || p == "/api/v1/session" || p.ends_with("/accept") => {
                scene.call(Who::Anonymous, r.method, &filled, &body).await
            }
            _ => scene.w.op.send(r.method, &filled, body).await,
        };
        let entries = entries_of(&store, &answer).await;
        if entries.len() != r.audit || answer.status >= 300 {
            let said = format!(
                "listed {}, status {}, entries {entries:?} {:.300}",
                r.audit,
                answer.status,
                answer.body.to_string()
            );
            wrong.insert(format!("{} {path}", r.method), said);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    scene.w.end().await;
}
