//! THE URL TABLE. The router, the OpenAPI document and the metrics are made from it; nothing is served under `/api` that is not here.

use crate::api::{
    audit, bundles, compile, drift, explain, groups, history, instances, keys, nodes, orgs, people, plans, projects,
    resources, rollouts, session, tokens, trust,
};
use crate::call::Call;
use crate::node::{credentials, events as node_events, heartbeat, poll, register, report, telemetry};
use crate::problem::Outcome;
use crate::{artifact, live, system};
use domain::access::KeyScope::{self, *};
use std::pin::Pin;
use std::sync::LazyLock;
use warp::reply::Response;

/// A handler: everything it may need is in the call.
pub type Handler = fn(Call) -> Pin<Box<dyn Future<Output = Outcome<Response>> + Send>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    pub const fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Patch => "PATCH",
            Method::Delete => "DELETE",
        }
    }
    pub const fn http(self) -> http::Method {
        match self {
            Method::Get => http::Method::GET,
            Method::Post => http::Method::POST,
            Method::Put => http::Method::PUT,
            Method::Patch => http::Method::PATCH,
            Method::Delete => http::Method::DELETE,
        }
    }
}

/// Who may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Anyone, or the handler looks itself.
    Open,
    /// The node that the path names, by key or token.
    Node,
    /// The same by its key only: a token makes no token and changes no key.
    NodeKey,
    /// Any operator.
    Caller,
    /// An operator with this scope on the tenant that the path leads to, which the handler checks with `Call::project` or
    /// `Call::check`.
    Key(KeyScope),
}

/// The body of the usual answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Nothing,
    /// The schema alone.
    Bare(&'static str),
    /// The schema under a noun.
    One(&'static str, &'static str),
    /// As `One`, with `changed` beside it.
    Changed(&'static str, &'static str),
    /// A page of the schema under a plural noun.
    List(&'static str, &'static str),
    /// A JSON object without a schema of its own.
    Object,
    /// Another content type, or several with commas between.
    Bytes(&'static str),
}

pub struct Route {
    pub method: Method,
    /// With `:names` for parameters.
    pub path: &'static str,
    pub auth: Auth,
    /// The status when all is well.
    pub status: u16,
    pub summary: &'static str,
    /// Parameters of the query besides those of lists.
    pub query: &'static [&'static str],
    /// The schema of the body.
    pub request: Option<&'static str>,
    pub answer: Answer,
    pub handler: Handler,
}

const fn get(path: &'static str, auth: Auth, summary: &'static str, answer: Answer, handler: Handler) -> Route {
    Route { method: Method::Get, path, auth, status: 200, summary, query: &[], request: None, answer, handler }
}

const fn post(
    path: &'static str,
    auth: Auth,
    summary: &'static str,
    request: Option<&'static str>,
    answer: Answer,
    handler: Handler,
) -> Route {
    Route { method: Method::Post, path, auth, status: 200, summary, query: &[], request, answer, handler }
}

const fn patch(
    path: &'static str,
    auth: Auth,
    summary: &'static str,
    request: &'static str,
    answer: Answer,
    handler: Handler,
) -> Route {
    Route { method: Method::Patch, ..post(path, auth, summary, Some(request), answer, handler) }
}

const fn put(
    path: &'static str,
    auth: Auth,
    summary: &'static str,
    request: &'static str,
    answer: Answer,
    handler: Handler,
) -> Route {
    Route { method: Method::Put, ..patch(path, auth, summary, request, answer, handler) }
}

const fn delete(path: &'static str, auth: Auth, summary: &'static str, handler: Handler) -> Route {
    Route {
        method: Method::Delete,
        path,
        auth,
        status: 204,
        summary,
        query: &[],
        request: None,
        answer: Answer::Nothing,
        handler,
    }
}

impl Route {
    const fn status(mut self, status: u16) -> Route {
        self.status = status;
        self
    }
    const fn query(mut self, query: &'static [&'static str]) -> Route {
        self.query = query;
        self
    }
}

/// Places of the two hot calls, which have filters of their own.
pub const HEARTBEAT: usize = 0;
pub const POLL: usize = 1;

use Answer::{Bare, Bytes, Changed, List, Nothing, Object, One};
use Auth::{Caller, Key, Node, NodeKey, Open};

#[rustfmt::skip]
static TABLE: &[Route] = &[
    // Nodes. The first two places are HEARTBEAT and POLL.
    post("/api/v1/nodes/:node_id/heartbeat", Node, "A node says how it is", Some("HeartbeatRequest"), Bare("HeartbeatAnswer"), |c| Box::pin(heartbeat::call(c))),
    get("/api/v1/nodes/:node_id/bundles/latest", Node, "What the node is to run; held up to `wait` seconds", Bare("PollAnswer"), |c| Box::pin(poll::call(c))).query(&["wait", "trust"]),
    post("/api/v1/nodes/:node_id/bundles/:bundle_id/downloaded", Node, "The archive is on the node", Some("ReportRequest"), Bare("ReportAnswer"), |c| Box::pin(report::downloaded(c))),
    post("/api/v1/nodes/:node_id/bundles/:bundle_id/staged", Node, "Verified and unpacked; `proceed` says whether to switch", Some("ReportRequest"), Bare("ReportAnswer"), |c| Box::pin(report::staged(c))),
    post("/api/v1/nodes/:node_id/bundles/:bundle_id/activated", Node, "The proxy runs it", Some("ReportRequest"), Bare("ReportAnswer"), |c| Box::pin(report::activated(c))),
    post("/api/v1/nodes/:node_id/bundles/:bundle_id/verified", Node, "The node's own checks passed", Some("ReportRequest"), Bare("ReportAnswer"), |c| Box::pin(report::verified(c))),
    post("/api/v1/nodes/:node_id/bundles/:bundle_id/failed", Node, "It did not work", Some("ReportRequest"), Bare("ReportAnswer"), |c| Box::pin(report::failed(c))),
    post("/api/v1/nodes/:node_id/token", NodeKey, "A token for the node's calls, good for 12 hours or until its key changes", None, Bare("NodeTokenAnswer"), |c| Box::pin(credentials::token(c))),
    post("/api/v1/nodes/:node_id/rotate-key", NodeKey, "The node changes its own key; the old one works until the new one is used", None, Bare("NodeKeyAnswer"), |c| Box::pin(credentials::rotate(c))),
    post("/api/v1/nodes/:node_id/events", Node, "Lines of the node's own log: one, or up to 100", Some("NodeEventsRequest"), Bare("NodeEventsAnswer"), |c| Box::pin(node_events::events(c))).status(201),
    post("/api/v1/nodes/:node_id/config", Node, "The configuration that the node runs", Some("ConfigPush"), Bare("ConfigAnswer"), |c| Box::pin(telemetry::config(c))),
    post("/api/v1/nodes/:node_id/metrics", Node, "Counts by period, and single requests", Some("MetricsPush"), Bare("MetricsAnswer"), |c| Box::pin(telemetry::metrics(c))),
    post("/api/v1/nodes/:node_id/waf-events", Node, "What the node's firewall saw", Some("WafEventsPush"), Bare("WafEventsAnswer"), |c| Box::pin(telemetry::waf_events(c))),
    post("/api/v1/projects/:project/nodes/register", Open, "Enrol a node, by enrolment token as bearer", Some("RegisterRequest"), Bare("RegisterAnswer"), |c| Box::pin(register::register(c))).status(201),

    // Signing in.
    post("/api/v1/session", Open, "Sign in", Some("SignInRequest"), Bare("SignInAnswer"), |c| Box::pin(session::sign_in(c))),
    get("/api/v1/session", Caller, "Who am I", Object, |c| Box::pin(session::show(c))),
    delete("/api/v1/session", Caller, "Sign out", |c| Box::pin(session::sign_out(c))),
    post("/api/v1/session/password", Caller, "Change one's own password; other sessions end", Some("PasswordRequest"), Nothing, |c| Box::pin(people::change_password(c))).status(204),
    post("/api/v1/invitations/accept", Open, "Join, or set a password, by the token of a link", Some("AcceptRequest"), One("user", "User"), |c| Box::pin(people::accept(c))),
    get("/api/v1/users", Caller, "List users (instance administrator)", List("users", "User"), |c| Box::pin(people::list(c))),
    post("/api/v1/users", Caller, "Make a user (instance administrator); without a password the answer has a link to set it", Some("UserRequest"), Bare("UserAnswer"), |c| Box::pin(people::create(c))).status(201),
    post("/api/v1/users/:id/disable", Caller, "Shut a user out (instance administrator)", None, Changed("user", "User"), |c| Box::pin(people::disable(c))),
    post("/api/v1/users/:id/enable", Caller, "Let a user in again (instance administrator)", None, Changed("user", "User"), |c| Box::pin(people::enable(c))),
    post("/api/v1/users/:id/reset-password", Caller, "Void a password and make a link to set the next (instance administrator)", None, Bare("UserAnswer"), |c| Box::pin(people::reset_password(c))),
    get("/api/v1/orgs", Caller, "List organisations", List("orgs", "Org"), |c| Box::pin(orgs::list(c))),
    post("/api/v1/orgs", Caller, "Make an organisation (instance administrator)", Some("OrgRequest"), One("org", "Org"), |c| Box::pin(orgs::create(c))).status(201),
    get("/api/v1/orgs/:id", Key(ProjectsRead), "Show an organisation", One("org", "Org"), |c| Box::pin(orgs::show(c))),
    patch("/api/v1/orgs/:id", Key(ProjectsWrite), "Change an organisation", "OrgPatch", One("org", "Org"), |c| Box::pin(orgs::update(c))),
    delete("/api/v1/orgs/:id", Key(ProjectsWrite), "Delete an organisation without projects", |c| Box::pin(orgs::delete(c))),
    get("/api/v1/orgs/:id/members", Key(ProjectsRead), "List members", List("members", "Member"), |c| Box::pin(orgs::members(c))),
    post("/api/v1/orgs/:id/members", Key(ProjectsWrite), "Invite somebody to become a member", Some("MemberRequest"), Bare("MemberAnswer"), |c| Box::pin(orgs::add_member(c))).status(201),
    patch("/api/v1/orgs/:id/members/:user_id", Key(ProjectsWrite), "Change a member's role", "MemberPatch", One("member", "Member"), |c| Box::pin(orgs::change_member(c))),
    delete("/api/v1/orgs/:id/members/:user_id", Key(ProjectsWrite), "Remove a member", |c| Box::pin(orgs::remove_member(c))),
    get("/api/v1/orgs/:id/invitations", Key(ProjectsWrite), "List open invitations", List("invitations", "Invitation"), |c| Box::pin(orgs::invitations(c))),
    delete("/api/v1/orgs/:id/invitations/:invitation_id", Key(ProjectsWrite), "Withdraw an invitation", |c| Box::pin(orgs::delete_invitation(c))),
    get("/api/v1/orgs/:id/trust", Key(ProjectsRead), "The newest trust document: whom nodes believe", One("trust", "Trust"), |c| Box::pin(trust::show(c))),
    get("/api/v1/orgs/:id/trust/versions", Key(ProjectsRead), "The signed versions, oldest first", Object, |c| Box::pin(trust::versions(c))).query(&["after"]),
    post("/api/v1/orgs/:id/trust", Key(ApiKeysAdmin), "Make the next version from changes, or publish one that was signed elsewhere", Some("TrustRequest"), One("trust", "Trust"), |c| Box::pin(trust::update(c))).status(201),
    post("/api/v1/orgs/:id/trust/draft", Key(ApiKeysAdmin), "The next version, unsigned, for roots kept elsewhere; writes nothing", Some("TrustRequest"), Object, |c| Box::pin(trust::draft(c))),
    get("/api/v1/orgs/:id/keys", Key(ProjectsRead), "List signing keys", List("keys", "TrustKey"), |c| Box::pin(trust::keys(c))),
    post("/api/v1/orgs/:id/keys", Key(ApiKeysAdmin), "Make a signing key, or make a public one known", Some("TrustKeyRequest"), One("key", "TrustKey"), |c| Box::pin(trust::create_key(c))).status(201),
    post("/api/v1/orgs/:id/keys/:key_id/export", Key(ApiKeysAdmin), "Show the private half, as `private_key`", None, One("key", "TrustKey"), |c| Box::pin(trust::export_key(c))),
    post("/api/v1/orgs/:id/keys/:key_id/remove", Key(ApiKeysAdmin), "Forget the private half of an exported key", None, Changed("key", "TrustKey"), |c| Box::pin(trust::remove_key(c))),
    get("/api/v1/api-keys", Key(ApiKeysRead), "List API keys", List("api_keys", "ApiKey"), |c| Box::pin(keys::list(c))).query(&["org"]),
    post("/api/v1/api-keys", Key(ApiKeysAdmin), "Make an API key; its text is shown once, as `key`", Some("ApiKeyRequest"), One("api_key", "ApiKey"), |c| Box::pin(keys::create(c))).status(201),
    get("/api/v1/api-keys/:id", Key(ApiKeysRead), "Show an API key", One("api_key", "ApiKey"), |c| Box::pin(keys::show(c))),
    post("/api/v1/api-keys/:id/revoke", Key(ApiKeysAdmin), "Revoke an API key", None, Changed("api_key", "ApiKey"), |c| Box::pin(keys::revoke(c))),
    delete("/api/v1/api-keys/:id", Key(ApiKeysAdmin), "Delete an API key", |c| Box::pin(keys::delete(c))),

    // Projects.
    get("/api/v1/projects", Caller, "List projects", List("projects", "Project"), |c| Box::pin(projects::list(c))).query(&["org", "q"]),
    post("/api/v1/projects", Key(ProjectsWrite), "Make a project", Some("ProjectRequest"), One("project", "Project"), |c| Box::pin(projects::create(c))).status(201),
    get("/api/v1/projects/:project", Key(ProjectsRead), "Show a project", One("project", "Project"), |c| Box::pin(projects::show(c))),
    patch("/api/v1/projects/:project", Key(ProjectsWrite), "Change a project", "ProjectPatch", One("project", "Project"), |c| Box::pin(projects::update(c))),
    delete("/api/v1/projects/:project", Key(ProjectsWrite), "Delete a project", |c| Box::pin(projects::delete(c))),
    get("/api/v1/projects/:project/enrolment-tokens", Key(NodesRead), "List enrolment tokens", List("enrolment_tokens", "EnrolmentToken"), |c| Box::pin(tokens::list(c))),
    post("/api/v1/projects/:project/enrolment-tokens", Key(NodesWrite), "Make an enrolment token; its text is shown once, as `token`", Some("EnrolmentTokenRequest"), One("enrolment_token", "EnrolmentToken"), |c| Box::pin(tokens::create(c))).status(201),
    delete("/api/v1/projects/:project/enrolment-tokens/:id", Key(NodesWrite), "Delete an enrolment token", |c| Box::pin(tokens::delete(c))),

    // The fleet.
    get("/api/v1/projects/:project/nodes", Key(NodesRead), "List nodes", List("nodes", "Node"), |c| Box::pin(nodes::list(c))).query(&["status", "standing", "labels[key]", "bundle", "q"]),
    get("/api/v1/projects/:project/nodes/stats", Key(NodesRead), "Count nodes", One("stats", "NodeStats"), |c| Box::pin(nodes::stats(c))),
    get("/api/v1/projects/:project/nodes/:id", Key(NodesRead), "Show a node", One("node", "Node"), |c| Box::pin(nodes::show(c))),
    get("/api/v1/projects/:project/nodes/:id/explain", Key(NodesRead), "Why this node runs what it runs", Bare("Explanation"), |c| Box::pin(explain::node(c))),
    get("/api/v1/projects/:project/nodes/:id/events", Key(NodesRead), "What was seen of a node, and what it said of itself; newest first", List("events", "NodeLogLine"), |c| Box::pin(nodes::events(c))),
    get("/api/v1/projects/:project/nodes/:id/config", Key(NodesRead), "The configuration that a node says it runs", One("config", "RunningConfig"), |c| Box::pin(nodes::config(c))),
    get("/api/v1/projects/:project/nodes/:id/metrics", Key(NodesRead), "What a node counted, by period; newest first", List("metrics", "NodeSample"), |c| Box::pin(nodes::metrics(c))),
    get("/api/v1/projects/:project/nodes/:id/request-logs", Key(NodesRead), "Requests that a node told of; newest first", List("request_logs", "NodeSample"), |c| Box::pin(nodes::request_logs(c))),
    get("/api/v1/projects/:project/nodes/:id/waf-events", Key(NodesRead), "What a node's firewall saw; newest first", List("waf_events", "NodeSample"), |c| Box::pin(nodes::waf_events(c))),
    patch("/api/v1/projects/:project/nodes/:id", Key(NodesWrite), "Change labels, pin", "NodePatch", One("node", "Node"), |c| Box::pin(nodes::update(c))),
    delete("/api/v1/projects/:project/nodes/:id", Key(NodesWrite), "Delete a node", |c| Box::pin(nodes::delete(c))),
    post("/api/v1/projects/:project/nodes/:id/rotate-key", Key(NodesWrite), "A new node key, shown once; the old one is void, at once or after a grace", Some("RotateKeyRequest"), One("node", "Node"), |c| Box::pin(nodes::rotate_key(c))),
    post("/api/v1/projects/:project/nodes/:id/revoke", Key(NodesWrite), "Shut a node out", None, Changed("node", "Node"), |c| Box::pin(nodes::revoke(c))),
    post("/api/v1/projects/:project/nodes/:id/adopt", Key(NodesWrite), "Let a quarantined node in", None, Changed("node", "Node"), |c| Box::pin(nodes::adopt(c))),

    get("/api/v1/projects/:project/node-groups", Key(NodesRead), "List groups of nodes", List("node_groups", "NodeGroup"), |c| Box::pin(groups::list(c))),
    post("/api/v1/projects/:project/node-groups", Key(NodesWrite), "Make a group, by a selector or a list", Some("NodeGroupRequest"), One("node_group", "NodeGroup"), |c| Box::pin(groups::create(c))).status(201),
    get("/api/v1/projects/:project/node-groups/:id", Key(NodesRead), "Show a group", One("node_group", "NodeGroup"), |c| Box::pin(groups::show(c))),
    put("/api/v1/projects/:project/node-groups/:id", Key(NodesWrite), "Replace a group", "NodeGroupRequest", One("node_group", "NodeGroup"), |c| Box::pin(groups::update(c))),
    delete("/api/v1/projects/:project/node-groups/:id", Key(NodesWrite), "Delete a group", |c| Box::pin(groups::delete(c))),

    // Configurations and bundles.
    post("/api/v1/projects/:project/desired_config", Key(BundlesWrite), "Submit a configuration", Some("DesiredConfigRequest"), Object, |c| Box::pin(compile::submit(c))).status(201),
    post("/api/v1/projects/:project/compile", Key(BundlesWrite), "Compile a configuration; `wait` answers with the result", Some("CompileRequest"), One("bundle", "Bundle"), |c| Box::pin(compile::compile(c))).status(202).query(&["wait"]),
    get("/api/v1/projects/:project/bundles", Key(BundlesRead), "List bundles", List("bundles", "Bundle"), |c| Box::pin(bundles::list(c))).query(&["status"]),
    post("/api/v1/projects/:project/bundles", Key(BundlesWrite), "Submit and compile in one call", Some("BundleRequest"), One("bundle", "Bundle"), |c| Box::pin(compile::both(c))).status(201).query(&["wait"]),
    get("/api/v1/projects/:project/bundles/:id", Key(BundlesRead), "Show a bundle", One("bundle", "Bundle"), |c| Box::pin(bundles::show(c))),
    get("/api/v1/projects/:project/bundles/:id/download", Key(BundlesRead), "The archive", Bytes("application/zstd"), |c| Box::pin(bundles::download(c))),
    get("/api/v1/projects/:project/bundles/:id/manifest", Key(BundlesRead), "manifest.json", Object, |c| Box::pin(bundles::manifest(c))),
    get("/api/v1/projects/:project/bundles/:id/sbom", Key(BundlesRead), "SBOM.json (CycloneDX)", Object, |c| Box::pin(bundles::sbom(c))),
    get("/api/v1/projects/:project/bundles/:id/verify", Key(BundlesRead), "Check hash, signature and every file of the stored archive", Bare("Verification"), |c| Box::pin(bundles::verify(c))),
    post("/api/v1/projects/:project/bundles/:id/assign", Key(RolloutsWrite), "Give nodes this bundle: a rollout of kind `assign`", Some("AssignRequest"), One("rollout", "Rollout"), |c| Box::pin(bundles::assign(c))).status(201),
    get("/api/v1/projects/:project/bundles/:id/diff", Key(BundlesRead), "What differs by meaning, and how risky it is: `against` a bundle, `fleet` or `parent`; `format` json or text", Bare("BundleDiff"), |c| Box::pin(resources::diff(c))).query(&["against", "format"]),
    post("/api/v1/projects/:project/bundles/:id/cancel", Key(BundlesWrite), "Stop a compile", None, Changed("bundle", "Bundle"), |c| Box::pin(resources::cancel(c))),
    get("/api/v1/projects/:project/resources", Key(BundlesRead), "List files that are shipped in bundles", List("resources", "Resource"), |c| Box::pin(resources::list(c))),
    post("/api/v1/projects/:project/resources", Key(BundlesWrite), "Put a certificate, a trust store or a plugin at its path", Some("ResourceRequest"), Changed("resource", "Resource"), |c| Box::pin(resources::put(c))).status(201),
    get("/api/v1/projects/:project/resources/:id", Key(BundlesRead), "Show a resource", One("resource", "Resource"), |c| Box::pin(resources::get(c))),
    get("/api/v1/projects/:project/resources/:id/content", Key(BundlesRead), "Its bytes", Bytes("application/octet-stream"), |c| Box::pin(resources::content(c))),
    delete("/api/v1/projects/:project/resources/:id", Key(BundlesWrite), "Delete a resource; bundles keep what they have", |c| Box::pin(resources::delete(c))),
    post("/api/v1/projects/:project/retention", Key(BundlesWrite), "Collect bundles that nobody needs; `dry_run` only says which", Some("RetentionRequest"), One("retention", "Retention"), |c| Box::pin(resources::retention(c))),
    post("/api/v1/projects/:project/bundles/:id/signature", Key(BundlesWrite), "Add the signature of a key kept elsewhere", Some("SignatureRequest"), Changed("bundle", "Bundle"), |c| Box::pin(trust::sign(c))),
    get("/api/v1/projects/:project/releases", Key(BundlesRead), "List release statements, newest first", List("releases", "Release"), |c| Box::pin(trust::releases(c))),
    post("/api/v1/projects/:project/releases", Key(BundlesWrite), "Publish a release statement signed by the bundle keys", Some("ReleaseRequest"), One("release", "Release"), |c| Box::pin(trust::publish_release(c))).status(201),
    post("/api/v1/projects/:project/bundles/:id/revoke", Key(BundlesWrite), "Stop distribution at once; answers `running_on`", Some("RevokeRequest"), Changed("bundle", "Bundle"), |c| Box::pin(bundles::revoke(c))),
    post("/api/v1/projects/:project/bundles/:id/deprecate", Key(BundlesWrite), "Advise against a bundle", None, Changed("bundle", "Bundle"), |c| Box::pin(bundles::deprecate(c))),

    // Rollouts. Those under /rollouts/:id exist under /projects/:project/rollouts/:id as well.
    get("/api/v1/projects/:project/rollouts", Key(RolloutsRead), "List rollouts", List("rollouts", "Rollout"), |c| Box::pin(rollouts::list(c))).query(&["state", "bundle"]),
    post("/api/v1/projects/:project/rollouts", Key(RolloutsWrite), "Make a rollout", Some("RolloutRequest"), Object, |c| Box::pin(rollouts::create(c))).status(201).query(&["include"]),
    post("/api/v1/projects/:project/rollouts/plan", Key(RolloutsRead), "What a rollout would do; writes nothing", Some("RolloutRequest"), Bare("Plan"), |c| Box::pin(rollouts::plan(c))).query(&["include"]),
    get("/api/v1/rollouts/:id", Key(RolloutsRead), "Show a rollout; `until=settled` waits for an end, a pause or a wait", One("rollout", "Rollout"), |c| Box::pin(rollouts::show(c))).query(&["until", "wait", "include"]),
    get("/api/v1/rollouts/:id/explain", Key(RolloutsRead), "Why it stands where it stands", Bare("Explanation"), |c| Box::pin(explain::rollout(c))),
    get("/api/v1/rollouts/:id/events", Key(RolloutsRead), "Stored events, oldest first", List("events", "RolloutEvent"), |c| Box::pin(rollouts::events(c))),
    get("/api/v1/rollouts/:id/nodes", Key(RolloutsRead), "Its nodes", List("nodes", "RolloutNode"), |c| Box::pin(rollouts::nodes(c))).query(&["state", "step"]),
    post("/api/v1/rollouts/:id/approve", Key(RolloutsWrite), "Agree to what would start; by people only", Some("NoteRequest"), Changed("rollout", "Rollout"), |c| Box::pin(rollouts::approve(c))),
    post("/api/v1/rollouts/:id/reject", Key(RolloutsWrite), "Disagree, with a comment", Some("NoteRequest"), Changed("rollout", "Rollout"), |c| Box::pin(rollouts::reject(c))),
    get("/api/v1/rollouts/:id/approvals", Key(RolloutsRead), "Who agreed to what, and who is still needed", One("approvals", "Approvals"), |c| Box::pin(rollouts::approvals(c))),
    post("/api/v1/rollouts/:id/start", Key(RolloutsWrite), "Start", Some("StartRequest"), Changed("rollout", "Rollout"), |c| Box::pin(rollouts::start(c))),
    post("/api/v1/rollouts/:id/pause", Key(RolloutsWrite), "Pause", Some("NoteRequest"), Changed("rollout", "Rollout"), |c| Box::pin(rollouts::pause(c))),
    post("/api/v1/rollouts/:id/resume", Key(RolloutsWrite), "Resume", Some("ResumeRequest"), Changed("rollout", "Rollout"), |c| Box::pin(rollouts::resume(c))),
    post("/api/v1/rollouts/:id/cancel", Key(RolloutsWrite), "Cancel", Some("NoteRequest"), Changed("rollout", "Rollout"), |c| Box::pin(rollouts::cancel(c))),
    post("/api/v1/rollouts/:id/rollback", Key(RolloutsWrite), "Roll back", Some("RollbackRequest"), Changed("rollout", "Rollout"), |c| Box::pin(rollouts::rollback(c))),
    post("/api/v1/rollouts/:id/retry", Key(RolloutsWrite), "Give failed nodes a new attempt", Some("RetryRequest"), Changed("rollout", "Rollout"), |c| Box::pin(rollouts::retry(c))),
    post("/api/v1/rollouts/:id/advance-traffic", Key(RolloutsWrite), "Blue-green: the next weight", Some("NoteRequest"), Changed("rollout", "Rollout"), |c| Box::pin(rollouts::advance_traffic(c))),
    post("/api/v1/rollouts/:id/swap-slot", Key(RolloutsWrite), "Blue-green: all traffic to the standby half, now", Some("NoteRequest"), Changed("rollout", "Rollout"), |c| Box::pin(rollouts::swap_slot(c))),

    // Drift.
    get("/api/v1/projects/:project/drift", Key(NodesRead), "Nodes that run something else than they shall, newest first", List("drift", "DriftItem"), |c| Box::pin(drift::list(c))).query(&["status", "node"]),
    get("/api/v1/projects/:project/drift/stats", Key(NodesRead), "Open drift by severity", Object, |c| Box::pin(drift::stats(c))),
    get("/api/v1/projects/:project/drift/export", Key(NodesRead), "As CSV", Bytes("text/csv"), |c| Box::pin(drift::export(c))).query(&["status", "node"]),
    post("/api/v1/projects/:project/drift/resolve-all", Key(NodesWrite), "Resolve all that is open; with `remediate` by a rollout for each bundle", Some("ResolveRequest"), Object, |c| Box::pin(drift::resolve_all(c))),
    get("/api/v1/projects/:project/drift/:id", Key(NodesRead), "One drift", One("drift", "DriftItem"), |c| Box::pin(drift::one(c))),
    post("/api/v1/projects/:project/drift/:id/resolve", Key(NodesWrite), "Seen; with `remediate` what was expected is rolled out to the node", Some("ResolveRequest"), Changed("drift", "DriftItem"), |c| Box::pin(drift::resolve(c))),

    // Looking back.
    get("/api/v1/rollouts/:id/export", Key(RolloutsRead), "Its log, one JSON a line, for `rollout replay`", Bytes("application/x-ndjson"), |c| Box::pin(history::export(c))),
    get("/api/v1/rollouts/:id/report", Key(RolloutsRead), "Its report in Markdown", Bytes("text/markdown"), |c| Box::pin(history::markdown(c))),
    get("/api/v1/rollouts/:id/failures", Key(RolloutsRead), "Its failures, by what they have in common", List("failures", "FailureGroup"), |c| Box::pin(history::failures(c))),
    get("/api/v1/projects/:project/what-changed", Key(RolloutsRead), "Rollouts and actions since a time", Bare("WhatChanged"), |c| Box::pin(history::what_changed(c))).query(&["since"]),

    // What stands around rollouts.
    get("/api/v1/projects/:project/freeze-windows", Key(RolloutsRead), "List freeze windows", List("freeze_windows", "FreezeWindow"), |c| Box::pin(plans::freezes(c))),
    post("/api/v1/projects/:project/freeze-windows", Key(RolloutsWrite), "Make a freeze window", Some("FreezeRequest"), One("freeze_window", "FreezeWindow"), |c| Box::pin(plans::create_freeze(c))).status(201),
    get("/api/v1/projects/:project/freeze-windows/:id", Key(RolloutsRead), "Show a freeze window", One("freeze_window", "FreezeWindow"), |c| Box::pin(plans::show_one_freeze(c))),
    put("/api/v1/projects/:project/freeze-windows/:id", Key(RolloutsWrite), "Replace a freeze window", "FreezeRequest", One("freeze_window", "FreezeWindow"), |c| Box::pin(plans::update_freeze(c))),
    delete("/api/v1/projects/:project/freeze-windows/:id", Key(RolloutsWrite), "Delete a freeze window", |c| Box::pin(plans::delete_freeze(c))),
    get("/api/v1/projects/:project/environments", Key(RolloutsRead), "List environments", List("environments", "Environment"), |c| Box::pin(plans::environments(c))),
    post("/api/v1/projects/:project/environments", Key(RolloutsWrite), "Make an environment", Some("EnvironmentRequest"), One("environment", "Environment"), |c| Box::pin(plans::create_environment(c))).status(201),
    get("/api/v1/projects/:project/environments/:id", Key(RolloutsRead), "Show an environment", One("environment", "Environment"), |c| Box::pin(plans::show_one_environment(c))),
    put("/api/v1/projects/:project/environments/:id", Key(RolloutsWrite), "Replace an environment", "EnvironmentRequest", One("environment", "Environment"), |c| Box::pin(plans::update_environment(c))),
    delete("/api/v1/projects/:project/environments/:id", Key(RolloutsWrite), "Delete an environment", |c| Box::pin(plans::delete_environment(c))),
    get("/api/v1/projects/:project/rollout-templates", Key(RolloutsRead), "List rollout templates", List("rollout_templates", "RolloutTemplate"), |c| Box::pin(plans::templates(c))),
    post("/api/v1/projects/:project/rollout-templates", Key(RolloutsWrite), "Make a rollout template", Some("TemplateRequest"), One("rollout_template", "RolloutTemplate"), |c| Box::pin(plans::create_template(c))).status(201),
    get("/api/v1/projects/:project/rollout-templates/:id", Key(RolloutsRead), "Show a rollout template", One("rollout_template", "RolloutTemplate"), |c| Box::pin(plans::show_one_template(c))),
    put("/api/v1/projects/:project/rollout-templates/:id", Key(RolloutsWrite), "Replace a rollout template", "TemplateRequest", One("rollout_template", "RolloutTemplate"), |c| Box::pin(plans::update_template(c))),
    delete("/api/v1/projects/:project/rollout-templates/:id", Key(RolloutsWrite), "Delete a rollout template", |c| Box::pin(plans::delete_template(c))),

    // Looking on.
    get("/api/v1/projects/:project/audit_logs", Key(AuditRead), "List audit entries, newest first", List("audit_logs", "AuditEntry"), |c| Box::pin(audit::list(c))).query(&["action", "actor", "resource", "since", "until"]),
    get("/api/v1/projects/:project/audit_logs/export", Key(AuditRead), "All audit entries that the filters leave, as JSON or CSV", Bytes("application/json,text/csv"), |c| Box::pin(audit::export(c))).query(&["format", "action", "actor", "resource", "since", "until"]),
    get("/api/v1/orgs/:id/audit_logs", Key(AuditRead), "List audit entries of an organisation's projects, and for its administrators (keys: audit:write) of the organisation itself, newest first", List("audit_logs", "AuditEntry"), |c| Box::pin(audit::list_org(c))).query(&["action", "actor", "resource", "since", "until"]),
    get("/api/v1/orgs/:id/audit_logs/export", Key(AuditRead), "All of these that the filters leave, as JSON or CSV", Bytes("application/json,text/csv"), |c| Box::pin(audit::export_org(c))).query(&["format", "action", "actor", "resource", "since", "until"]),
    get("/api/v1/audit_logs", Caller, "List audit entries of all chains, newest first (instance administrator)", List("audit_logs", "AuditEntry"), |c| Box::pin(audit::list_all(c))).query(&["action", "actor", "resource", "since", "until"]),
    get("/api/v1/audit_logs/export", Caller, "All audit entries of all chains that the filters leave, as JSON or CSV (instance administrator)", Bytes("application/json,text/csv"), |c| Box::pin(audit::export_all(c))).query(&["format", "action", "actor", "resource", "since", "until"]),
    get("/api/v1/audit/verify", Key(AuditRead), "Follow the hash chains", Bare("AuditVerdict"), |c| Box::pin(audit::verify(c))).query(&["project"]),
    get("/api/v1/events/stream", Caller, "What changes, as server-sent events", Bytes("text/event-stream"), |c| Box::pin(live::stream(c))).query(&["project"]),

    // The instance.
    get("/api/v1/instances", Caller, "List the processes on this database and the rollouts that each owns (instance administrator)", List("instances", "Instance"), |c| Box::pin(instances::list(c))),
    get("/artifacts/:project/:file", Open, "A bundle's archive, by signed URL", Bytes("application/zstd"), |c| Box::pin(artifact::signed(c))).query(&["node", "exp", "sig"]),
    get("/health", Open, "Alive", Object, |c| Box::pin(system::health(c))),
    get("/ready", Open, "Ready for requests: database, storage, schema", Object, |c| Box::pin(system::ready(c))),
    get("/metrics", Open, "Prometheus text; with METRICS_TOKEN as bearer where one is set", Bytes("text/plain"), |c| Box::pin(system::metrics(c))),
    get("/api/openapi.json", Open, "This document", Object, |c| Box::pin(system::openapi(c))),
    get("/api/docs", Open, "This document for people", Bytes("text/html"), |c| Box::pin(system::docs(c))),
];

/// [`TABLE`] with the second spelling of rollouts.
pub fn table() -> &'static [Route] {
    static ALL: LazyLock<Vec<Route>> = LazyLock::new(|| {
        let (short, long) = ("/api/v1/rollouts/:id", "/api/v1/projects/:project/rollouts/:id");
        let again = TABLE.iter().filter_map(|r| {
            let rest = r.path.strip_prefix(short)?;
            // Once in the life of the process.
            let path: &'static str = Box::leak(format!("{long}{rest}").into_boxed_str());
            Some(Route { path, ..copy(r) })
        });
        TABLE.iter().map(copy).chain(again).collect()
    });
    &ALL
}

const fn copy(r: &Route) -> Route {
    Route {
        method: r.method,
        path: r.path,
        auth: r.auth,
        status: r.status,
        summary: r.summary,
        query: r.query,
        request: r.request,
        answer: r.answer,
        handler: r.handler,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hot_calls_are_where_their_filters_think() {
        assert!(table()[HEARTBEAT].path.ends_with("/heartbeat") && table()[HEARTBEAT].method == Method::Post);
        assert!(table()[POLL].path.ends_with("/bundles/latest") && table()[POLL].method == Method::Get);
    }

    #[test]
    fn rollouts_have_both_spellings() {
        let has = |path: &str| table().iter().any(|r| r.path == path && r.method == Method::Post);
        for command in ["start", "pause", "resume", "cancel", "rollback", "retry", "advance-traffic", "swap-slot"] {
            assert!(has(&format!("/api/v1/rollouts/:id/{command}")), "{command}");
            assert!(has(&format!("/api/v1/projects/:project/rollouts/:id/{command}")), "{command}");
        }
    }

    #[test]
    fn writes_of_operators_need_a_writing_scope() {
        for r in table().iter().filter(|r| r.method != Method::Get) {
            match r.auth {
                Auth::Key(scope) => {
                    let reads = scope.as_str().ends_with(":read");
                    assert_eq!(reads, r.path.ends_with("/plan"), "{} {}", r.method.name(), r.path);
                }
                Auth::Open | Auth::Node | Auth::NodeKey | Auth::Caller => {}
            }
        }
    }
}
