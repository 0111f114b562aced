//! What the end-to-end tests stand on: whole instances in this process or as real processes, a JSON client, a simulated fleet.
//!
//! Everything goes through HTTP. Conditions are waited for (`eventually`), never slept for; ports are chosen by the system.

#![allow(dead_code)] // each test uses its part

use actors::clock::Clock;
use actors::commands::access::FirstStart;
use actors::fresh::Fresh;
use actors::{Parts, PlaneConfig, Tree};
use artifacts::{ArtifactStore, DirStore, UrlSigner};
use bundle::child::ChildValidator;
use bundle::keys::MasterKey;
use bytes::Bytes;
use domain::Span;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as Hyper;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use sim::transport::{Http, HttpOptions};
use sim::{Behaviour, Fleet, FleetConfig, Scenario, Transport};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use store::testing::{Backend, Opened, open};
use tokio::net::TcpListener;
use tokio::sync::watch;

pub const KEY: &str = "scp_test_bootstrap_key_0123456789abcdefghijklmnop";
/// How long a condition may take to become true. Generous: the machine is shared, and only failures wait for it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `look` gives a value.
pub async fn eventually<T, F: AsyncFnMut() -> Option<T>>(what: &str, mut look: F) -> T {
    let begun = tokio::time::Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "did not happen within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Where a control plane is reached: one address, or those of all its instances, one request after the other.
///
/// Clones share the turn, so it is the requests of a test that alternate, not each client's: a word about a rollout arrives
/// at an instance that does not own it about half of the time.
#[derive(Clone, Debug)]
pub struct Addresses {
    urls: Arc<[String]>,
    turn: Arc<AtomicUsize>,
}

impl Addresses {
    pub fn of(urls: impl IntoIterator<Item = String>) -> Addresses {
        Addresses { urls: urls.into_iter().collect(), turn: Arc::default() }
    }
    pub fn all(&self) -> &[String] {
        &self.urls
    }
    fn next(&self) -> &str {
        &self.urls[self.turn.fetch_add(1, Ordering::Relaxed) % self.urls.len()]
    }
}

impl From<&Addresses> for Addresses {
    fn from(a: &Addresses) -> Addresses {
        a.clone()
    }
}
impl From<&str> for Addresses {
    fn from(url: &str) -> Addresses {
        Addresses::of([url.to_string()])
    }
}
impl From<&String> for Addresses {
    fn from(url: &String) -> Addresses {
        Addresses::from(url.as_str())
    }
}

/// A JSON client with one credential.
#[derive(Clone)]
pub struct Client {
    pub at: Addresses,
    bearer: Option<String>,
    node_key: Option<String>,
    http: Hyper<HttpConnector, Full<Bytes>>,
}

pub struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Value,
    pub bytes: Bytes,
}

impl Answer {
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{:#}", self.body);
        self.body
    }
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }
}

/// A stream that does not end by itself.
pub struct Events {
    body: hyper::body::Incoming,
    read: String,
}

impl Events {
    /// The data of the next event; patience is the caller's.
    pub async fn next(&mut self) -> Value {
        loop {
            if let Some((event, rest)) = self.read.split_once("\n\n") {
                let data =
                    event.lines().find_map(|l| l.strip_prefix("data: ")).map(|d| serde_json::from_str(d).unwrap());
                self.read = rest.to_string();
                if let Some(data) = data {
                    return data;
                }
                continue;
            }
            let frame = self.body.frame().await.expect("the stream ended").unwrap();
            self.read.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
        }
    }

    /// What comes until the server ends the stream.
    pub async fn rest(mut self) -> String {
        while let Some(frame) = self.body.frame().await {
            self.read.push_str(std::str::from_utf8(frame.unwrap().data_ref().unwrap()).unwrap());
        }
        self.read
    }
}

impl Client {
    pub fn new(at: impl Into<Addresses>, bearer: Option<&str>) -> Client {
        let http = Hyper::builder(TokioExecutor::new()).build_http();
        Client { at: at.into(), bearer: bearer.map(str::to_string), node_key: None, http }
    }
    pub fn operator(at: impl Into<Addresses>) -> Client {
        Client::new(at, Some(KEY))
    }
    pub fn node(at: impl Into<Addresses>, key: &str) -> Client {
        Client { node_key: Some(key.to_string()), ..Client::new(at, None) }
    }

    pub async fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Bytes) -> Answer {
        self.try_raw(method, path, headers, body).await.unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    }

    /// `Err` when there was no answer at all: refused, reset, cut off.
    pub async fn try_raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer, String> {
        let uri = if path.starts_with("http") { path.to_string() } else { format!("{}{path}", self.at.next()) };
        let mut request = http::Request::builder().method(method).uri(uri);
        if let Some(key) = &self.bearer {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        if let Some(key) = &self.node_key {
            request = request.header("x-sentinel-node-key", key);
        }
        for (k, v) in headers {
            request = request.header(*k, *v);
        }
        let request = request.body(Full::new(body)).map_err(|e| e.to_string())?;
        let sent = tokio::time::timeout(PATIENCE, self.http.request(request)).await.map_err(|e| e.to_string())?;
        let answer = sent.map_err(|e| e.to_string())?;
        let (parts, body) = answer.into_parts();
        let bytes = body.collect().await.map_err(|e| e.to_string())?.to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body, bytes })
    }

    /// Status and head of an answer, and its body unless that is a stream.
    pub async fn first(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Bytes) -> Answer {
        // HEAD is served as GET without its body, so that an endless one is not waited for.
        let method = if path.starts_with("/api/v1/events/stream") { "HEAD" } else { method };
        self.raw(method, path, headers, body).await
    }

    /// Server-sent events, from now on.
    pub async fn events(&self, path: &str) -> Events {
        self.events_after(path, None).await
    }

    /// The same as a client that comes back to where it was.
    pub async fn events_after(&self, path: &str, last: Option<&str>) -> Events {
        let key = self.bearer.as_deref().unwrap_or_default();
        let mut request = http::Request::builder().uri(format!("{}{path}", self.at.next()));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let request = request.header("authorization", format!("Bearer {key}")).body(Full::default()).unwrap();
        let answer = self.http.request(request).await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        Events { body: answer.into_body(), read: String::new() }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.raw("GET", path, &[], Bytes::new()).await
    }
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, body).await
    }
    pub async fn send(&self, method: &str, path: &str, body: Value) -> Answer {
        self.raw(method, path, &[("content-type", "application/json")], Bytes::from(body.to_string())).await
    }
}

#[derive(Clone)]
pub struct Options {
    /// Seconds.
    pub stale_after: i64,
    pub lease: i64,
    pub rate_limit_per_key: u32,
    /// Of calls without a good credential; a table of refusals makes many.
    pub rate_limit_per_address: u32,
    pub max_body_bytes: usize,
    /// 0: no limit.
    pub rate_limit_per_node: u32,
    pub tls: Option<web::TlsFiles>,
    /// May probes reach this machine? (Never this instance.)
    pub probe_loopback: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            stale_after: 120,
            lease: 5,
            rate_limit_per_key: 1_000_000,
            rate_limit_per_address: 1_000_000,
            max_body_bytes: 4 * 1024 * 1024,
            rate_limit_per_node: 0,
            tls: None,
            probe_loopback: false,
        }
    }
}

/// One instance in this process, on a real port.
pub struct Instance {
    pub tree: Tree,
    pub url: String,
    stop: watch::Sender<bool>,
    web: tokio::task::JoinHandle<()>,
}

impl Instance {
    /// `store` is migrated; `dir` holds the artifacts and is shared by all instances of one control plane.
    pub async fn start(store: store::Store, dir: &Path, options: Options) -> Instance {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap();
        let url = format!("http://{own}");
        let registry = prometheus::Registry::new();
        let master = [7u8; 32];
        let secret = actors::keys::derive(&MasterKey::new(master), "artifact-urls");
        let artifacts =
            ArtifactStore::dir(DirStore::open(dir.join("artifacts"), UrlSigner::new(secret, &url)).unwrap());
        let tree = Tree::start(Parts {
            config: PlaneConfig {
                stale_after: Span::secs(options.stale_after),
                lease: Span::secs(options.lease),
                listen: url.clone(),
                public_url: url.clone(),
                master_key: MasterKey::new(master),
                validator: ChildValidator::new(env!("CARGO_BIN_EXE_sentinel-cp"), ["validate-child"]),
                compile_concurrency: 2,
                audit_keep: None,
                egress: egress::Policy {
                    allow: options.probe_loopback.then(|| "127.0.0.0/8".parse().unwrap()).into_iter().collect(),
                    own: vec![own],
                },
            },
            store,
            artifacts,
            clock: Clock::system(),
            fresh: Fresh::system(),
            registry,
        })
        .await
        .unwrap();
        let first = FirstStart {
            admin_email: "admin@example.org".into(),
            admin_password: Some("correct horse battery staple".into()),
            bootstrap_api_key: Some(KEY.into()),
        };
        tree.plane.first_start(first).await.unwrap();
        let (stop, mut stopping) = watch::channel(false);
        let config = web::WebConfig {
            listener,
            https: false,
            max_body_bytes: options.max_body_bytes,
            rate_limit_per_key: options.rate_limit_per_key,
            rate_limit_per_node: options.rate_limit_per_node,
            rate_limit_per_address: options.rate_limit_per_address,
            tls: options.tls,
            metrics_here: true,
            metrics_token: None,
            trusted_proxies: Vec::new(),
            linger: Duration::ZERO,
        };
        let plane = tree.plane.clone();
        let web = tokio::spawn(async move {
            let stop = async move {
                let _ = stopping.wait_for(|s| *s).await;
            };
            web::serve(config, plane, stop).await.unwrap();
        });
        Instance { tree, url, stop, web }
    }

    pub fn operator(&self) -> Client {
        Client::operator(&self.url)
    }

    pub async fn stop(self) {
        let _ = self.stop.send(true);
        self.web.await.unwrap();
        self.tree.stop().await.unwrap();
    }
}

/// What a test runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    Sqlite,
    Postgres,
    /// Two trees in this process, on one PostgreSQL database and one directory of artifacts: every request goes to the other
    /// one than the request before.
    TwoInstances,
}

/// One test's whole world: a database, a directory, one or two instances on them, an open project `p`.
pub struct World {
    pub db: Opened,
    pub dir: tempfile::TempDir,
    pub one: Instance,
    two: Option<Instance>,
    /// Of all instances.
    pub at: Addresses,
    pub op: Client,
}

impl World {
    pub async fn on(ground: Ground, options: Options) -> World {
        let w = World::empty(ground, options).await;
        open_project(&w.op, "p").await;
        w
    }

    /// Without a project.
    pub async fn empty(ground: Ground, options: Options) -> World {
        let db = open(if ground == Ground::Sqlite { Backend::Sqlite } else { Backend::Postgres }).await;
        let dir = tempfile::tempdir().unwrap();
        let one = Instance::start(db.store.clone(), dir.path(), options.clone()).await;
        let two = match ground {
            Ground::TwoInstances => Some(Instance::start(db.again().await.unwrap(), dir.path(), options).await),
            Ground::Sqlite | Ground::Postgres => None,
        };
        let at = Addresses::of([&one].into_iter().chain(&two).map(|i| i.url.clone()));
        World { db, dir, one, two, op: Client::operator(&at), at }
    }

    /// `n-1` ... on the project, as the script says.
    pub async fn fleet(&self, nodes: u32, scenario: &str) -> Fleet {
        let f = fleet(&self.at, "p", nodes, Behaviour::default(), scenario).await;
        online(&self.op, "p", u64::from(nodes)).await;
        f
    }

    /// A bundle whose content is its own: the demo's configuration and the version as a comment.
    pub async fn bundle(&self, version: &str) -> Value {
        bundle_of(&self.op, "p", version).await
    }

    pub async fn roll_out(&self, body: Value) -> String {
        roll_out(&self.op, "p", body).await
    }

    /// Every chain holds, then everything stops in order.
    pub async fn end(self) {
        chains_hold(&self.op).await;
        self.stop().await;
    }

    pub async fn stop(self) {
        self.one.stop().await;
        if let Some(two) = self.two {
            two.stop().await;
        }
    }
}

pub async fn bundle_of(op: &Client, project: &str, version: &str) -> Value {
    compile(op, project, version, &format!("{}\n// {version}\n", bundle::samples::DEMO_V1)).await
}

/// Is this answer the problem document of the contract, with this status? A 422 names `field`.
pub fn problem(answer: &Answer, status: u16, field: Option<&str>) -> Result<(), String> {
    let b = &answer.body;
    let wrong = |what: &str| Err(format!("{what}: {} {:.300}", answer.status, b.to_string()));
    if answer.status != status {
        return wrong(&format!("expected {status}"));
    }
    if answer.header("content-type") != "application/problem+json" {
        return wrong(answer.header("content-type"));
    }
    for name in ["type", "title", "detail", "error"] {
        if !b[name].is_string() {
            return wrong(name);
        }
    }
    if b["status"] != status || b["error"] != b["detail"] {
        return wrong("status or error");
    }
    let listed = b["errors"].as_object();
    let in_order =
        |messages: &Value| messages.as_array().is_some_and(|m| !m.is_empty() && m.iter().all(Value::is_string));
    if status == 422 && !listed.is_some_and(|e| !e.is_empty() && e.values().all(in_order)) {
        return wrong("errors");
    }
    match field {
        Some(field) if b["errors"].get(field).is_none() => wrong(&format!("does not name {field}")),
        _ => Ok(()),
    }
}

pub fn is_problem(answer: &Answer, status: u16, field: Option<&str>) {
    if let Err(why) = problem(answer, status, field) {
        panic!("{why}");
    }
}

/// All audit chains verify.
pub async fn chains_hold(op: &Client) {
    let verdict = op.get("/api/v1/audit/verify").await.expect(200);
    assert_eq!(verdict["valid"], true, "{verdict:#}");
    assert!(verdict["entries"].as_u64() > Some(0), "{verdict:#}");
}

/// Actions of the entries of all chains that carry the id of the request that was answered.
pub async fn entries_of(store: &store::Store, answer: &Answer) -> Vec<String> {
    let request: domain::RequestId = answer.header("x-request-id").parse().unwrap();
    let mut found = Vec::new();
    for (chain, _) in store.audit_chains().await.unwrap() {
        let mut seq = 0;
        loop {
            let page = store.audit_after(chain, seq, 500).await.unwrap();
            let Some(last) = page.last() else { break };
            seq = last.seq;
            found.extend(page.into_iter().filter(|e| e.request_id == Some(request)).map(|e| e.action));
        }
    }
    found
}

/// The tests of a module on both databases, with one instance: for what is said to hold as soon as that instance has answered.
#[macro_export]
macro_rules! both {
    ($($name:ident),+ $(,)?) => {
        mod sqlite { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name($crate::harness::Ground::Sqlite).await; })+ }
        mod postgresql { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name($crate::harness::Ground::Postgres).await; })+ }
    };
}

/// The tests of a module on both databases, and on two instances: `everywhere!(a_sentence, another_sentence)`.
#[macro_export]
macro_rules! everywhere {
    ($($name:ident),+ $(,)?) => {
        mod sqlite { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name($crate::harness::Ground::Sqlite).await; })+ }
        mod postgresql { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name($crate::harness::Ground::Postgres).await; })+ }
        mod two_instances { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name($crate::harness::Ground::TwoInstances).await; })+ }
    };
}

/// The same on both databases only: for what another instance learns of a moment later (a revoked key within a second).
#[macro_export]
macro_rules! on_both_databases {
    ($($name:ident),+ $(,)?) => {
        mod sqlite { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name($crate::harness::Ground::Sqlite).await; })+ }
        mod postgresql { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name($crate::harness::Ground::Postgres).await; })+ }
    };
}

/// A node driven by hand, call by call.
pub struct Hand {
    pub id: String,
    pub key: String,
    pub http: Client,
}

impl Hand {
    pub async fn register(at: impl Into<Addresses>, project: &str, name: &str) -> Hand {
        let (at, path) = (at.into(), format!("/api/v1/projects/{project}/nodes/register"));
        let answer = Client::new(&at, None).post(&path, json!({"name": name})).await.expect(201);
        Hand::of(at, answer)
    }

    pub fn of(at: impl Into<Addresses>, answer: Value) -> Hand {
        let key = answer["node_key"].as_str().unwrap().to_string();
        assert!(answer["project_id"].is_string(), "whose assignments it accepts: {answer}");
        Hand { id: answer["node_id"].as_str().unwrap().to_string(), http: Client::node(at, &key), key }
    }

    pub async fn beat(&self, body: Value) -> Value {
        self.http.post(&format!("/api/v1/nodes/{}/heartbeat", self.id), body).await.expect(200)
    }

    pub async fn poll(&self, wait: u32) -> Value {
        self.http.get(&format!("/api/v1/nodes/{}/bundles/latest?wait={wait}", self.id)).await.expect(200)
    }

    /// Polls until there is an update.
    pub async fn told(&self) -> Value {
        eventually(&format!("node {} is told what to run", self.id), async || {
            let answer = self.poll(5).await;
            answer.get("no_update").is_none().then_some(answer)
        })
        .await
    }

    pub fn report_path(&self, bundle: &str, what: &str) -> String {
        format!("/api/v1/nodes/{}/bundles/{bundle}/{what}", self.id)
    }

    pub async fn report(&self, bundle: &str, what: &str, body: Value) -> Value {
        self.http.post(&self.report_path(bundle, what), body).await.expect(200)
    }

    /// The calls of a good node after `update`, up to its own verdict.
    pub async fn run(&self, update: &Value) {
        let bundle = update["bundle_id"].as_str().unwrap();
        let body = json!({"generation": update["generation"], "rollout_id": update["rollout_id"]});
        for what in ["downloaded", "staged", "activated", "verified"] {
            let answer = self.report(bundle, what, body.clone()).await;
            assert_eq!(answer["proceed"], true, "{what}: {answer}");
        }
    }
}

/// All nodes of a project, by name.
pub async fn nodes(op: &Client, project: &str) -> BTreeMap<String, Value> {
    let all = op.get(&format!("/api/v1/projects/{project}/nodes?limit=500")).await.expect(200);
    let rows = all["nodes"].as_array().unwrap().iter();
    rows.map(|n| (n["name"].as_str().unwrap().to_string(), n.clone())).collect()
}

/// The nodes of a rollout, by name.
pub async fn members(op: &Client, rollout: &str) -> BTreeMap<String, Value> {
    let all = op.get(&format!("/api/v1/rollouts/{rollout}/nodes?limit=500")).await.expect(200);
    let rows = all["nodes"].as_array().unwrap().iter();
    rows.map(|n| (n["name"].as_str().unwrap().to_string(), n.clone())).collect()
}

/// Waits until every named node says that it runs the bundle.
pub async fn all_run(op: &Client, project: &str, names: &[&str], bundle: &Value) {
    eventually(&format!("{names:?} run {bundle}"), async || {
        let now = nodes(op, project).await;
        names.iter().all(|n| now[*n]["active_bundle_id"] == *bundle).then_some(())
    })
    .await;
}

/// A project with open registration, as the demo has one.
pub async fn open_project(op: &Client, slug: &str) {
    let settings = json!({"open_registration": true, "adopt_on_registration": true});
    op.post("/api/v1/projects", json!({"name": slug, "slug": slug, "settings": settings})).await.expect(201);
}

/// Compile `kdl` as `version`; answers the bundle object.
pub async fn compile(op: &Client, project: &str, version: &str, kdl: &str) -> Value {
    let path = format!("/api/v1/projects/{project}/bundles?wait=30");
    let answer = op.post(&path, json!({"version": version, "config_source": kdl})).await;
    assert!(matches!(answer.status, 200 | 201), "{} {:#}", answer.status, answer.body);
    let b = answer.body["bundle"].clone();
    assert_eq!(b["status"], "compiled", "{b:#}");
    b
}

pub async fn roll_out(op: &Client, project: &str, body: Value) -> String {
    let made = op.post(&format!("/api/v1/projects/{project}/rollouts"), body).await.expect(201);
    made["rollout"]["id"].as_str().unwrap().to_string()
}

/// Also checks that the total is the sum of the buckets, as it always is.
pub async fn rollout(op: &Client, id: &str) -> Value {
    let r = op.get(&format!("/api/v1/rollouts/{id}")).await.expect(200)["rollout"].clone();
    check_sum(&r);
    r
}

pub fn check_sum(r: &Value) {
    let parts = r["progress"].as_object().unwrap().iter().filter(|(k, _)| *k != "total");
    let sum: u64 = parts.map(|(_, v)| v.as_u64().unwrap()).sum();
    assert_eq!(r["progress"]["total"].as_u64(), Some(sum), "{r:#}");
}

/// Waits until the rollout is in `state`.
pub async fn reaches(op: &Client, id: &str, state: &str) -> Value {
    let begun = tokio::time::Instant::now();
    loop {
        let r = rollout(op, id).await;
        if r["state"] == state {
            return r;
        }
        let other = matches!(r["state"].as_str(), Some("completed" | "failed" | "cancelled" | "rolled_back"));
        let on_its_way = state == "rolled_back" || state == "rolling_back";
        assert!(!other || on_its_way, "rollout {id} shall be {state}, and ended: {r:#}");
        if begun.elapsed() >= PATIENCE {
            let who = members(op, id).await;
            panic!("rollout {id} is not {state} within {PATIENCE:?}: {r:#}\n{who:#?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Calls of simulated nodes, each to the next address.
pub fn transport(at: impl Into<Addresses>, options: HttpOptions) -> Transport {
    let at = at.into();
    let each: Vec<Transport> = at.all().iter().map(|url| Transport::Http(Http::new(url, options).unwrap())).collect();
    Transport::in_process(move |request| each[at.turn.fetch_add(1, Ordering::Relaxed) % each.len()].send(request))
}

pub async fn fleet(at: impl Into<Addresses>, project: &str, nodes: u32, behaviour: Behaviour, scenario: &str) -> Fleet {
    fleet_from(at, project, 1, nodes, behaviour, scenario).await
}

/// Nodes `n-{first}` and on.
pub async fn fleet_from(
    at: impl Into<Addresses>,
    project: &str,
    first: u32,
    nodes: u32,
    behaviour: Behaviour,
    scenario: &str,
) -> Fleet {
    let calls = transport(at, HttpOptions { max_connections: 4_000, http2: false });
    let config = FleetConfig {
        project: project.into(),
        nodes,
        first_number: first,
        name_prefix: "n-".into(),
        behaviour,
        scenario: Scenario::parse(scenario).unwrap(),
        ..FleetConfig::default()
    };
    Fleet::start(config, calls).await.unwrap()
}

/// Waits until so many nodes are online.
pub async fn online(op: &Client, project: &str, n: u64) {
    eventually(&format!("{n} nodes are online"), async || {
        let s = op.get(&format!("/api/v1/projects/{project}/nodes/stats")).await.expect(200);
        (s["stats"]["online"].as_u64().or(s["online"].as_u64()) >= Some(n)).then_some(())
    })
    .await;
}
