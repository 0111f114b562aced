//! One instance of the control plane in this process, on a real port, and what this process uses.

use crate::Failure;
use crate::wire::{Wire, request};
use actors::clock::Clock;
use actors::commands::access::FirstStart;
use actors::fresh::Fresh;
use actors::{Parts, PlaneConfig, Tree};
use artifacts::{ArtifactStore, DirStore, UrlSigner};
use bundle::child::ChildValidator;
use bundle::keys::MasterKey;
use domain::node::{HealthClass, Labels, Node, Presence, Standing};
use domain::project::Project;
use domain::{Digest, NodeId, Scope, Span, Timestamp};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use store::{Store, StoreConfig, Write};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, watch};

/// The API key that every instance here is first started with.
pub const KEY: &str = "scp_bench_bootstrap_key_0123456789abcdefghijklmnop";
pub const PROJECT: &str = "bench";

/// A directory in memory where there is one: for benches that are not about the disk.
pub fn memory_dir() -> Result<tempfile::TempDir, Failure> {
    let shm = Path::new("/dev/shm");
    Ok(if shm.is_dir() { tempfile::tempdir_in(shm)? } else { tempfile::tempdir()? })
}

pub async fn sqlite(dir: &Path) -> Result<Store, Failure> {
    let store = Store::open(StoreConfig::sqlite(dir.join("sentinel.db")), &prometheus::Registry::new()).await?;
    store.migrate().await?;
    Ok(store)
}

pub struct Host {
    pub tree: Tree,
    pub address: SocketAddr,
    stop: watch::Sender<bool>,
    web: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Host {
    /// On a migrated store; `dir` takes the artifacts. With the project [`PROJECT`], open to every node.
    pub async fn start(store: Store, dir: &Path) -> Result<Host, Failure> {
        Host::start_behind(store, dir, Vec::new()).await
    }

    /// The same, believing what these proxies say of where a request comes from.
    pub async fn start_behind(store: Store, dir: &Path, trusted_proxies: Vec<web::Network>) -> Result<Host, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let url = format!("http://{address}");
        let master = [7u8; 32];
        let secret = actors::keys::derive(&MasterKey::new(master), "artifact-urls");
        let artifacts = ArtifactStore::dir(DirStore::open(dir.join("artifacts"), UrlSigner::new(secret, &url))?);
        let parts = Parts {
            config: PlaneConfig {
                stale_after: Span::secs(120),
                lease: Span::secs(5),
                listen: address.to_string(),
                public_url: url,
                master_key: MasterKey::new(master),
                validator: ChildValidator::new(std::env::current_exe()?, [crate::VALIDATE_CHILD]),
                compile_concurrency: 2,
                audit_keep: None,
                egress: Default::default(),
            },
            store,
            artifacts,
            clock: Clock::system(),
            fresh: Fresh::system(),
            registry: prometheus::Registry::new(),
        };
        let tree = Tree::start(parts).await?;
        let first = FirstStart {
            admin_email: "admin@example.org".into(),
            admin_password: Some("correct horse battery staple".into()),
            bootstrap_api_key: Some(KEY.into()),
        };
        tree.plane.first_start(first).await.map_err(|e| format!("first start: {e:?}"))?;
        let config = web::WebConfig {
            listener,
            https: false,
            max_body_bytes: 4 * 1024 * 1024,
            // Benches ask more often than people do.
            rate_limit_per_key: 0,
            rate_limit_per_node: 0,
            rate_limit_per_address: 0,
            tls: None,
            metrics_here: true,
            metrics_token: None,
            trusted_proxies,
            linger: std::time::Duration::ZERO,
        };
        let (stop, mut stopping) = watch::channel(false);
        let plane = tree.plane.clone();
        let web = tokio::spawn(async move {
            let stop = async move {
                let _ = stopping.wait_for(|s| *s).await;
            };
            web::serve(config, plane, stop).await
        });
        let host = Host { tree, address, stop, web };
        let settings = json!({"open_registration": true, "adopt_on_registration": true});
        let project = json!({"name": PROJECT, "slug": PROJECT, "settings": settings});
        host.operator("POST", "/api/v1/projects", Some(project)).await?;
        Ok(host)
    }

    pub async fn operator(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value, Failure> {
        operator(self.address, method, path, body).await
    }

    /// A token that any number of nodes may register with: without one, registrations are held off by address.
    pub async fn enrolment_token(&self) -> Result<String, Failure> {
        let path = format!("/api/v1/projects/{PROJECT}/enrolment-tokens");
        let made = self.operator("POST", &path, Some(json!({"name": "bench"}))).await?;
        Ok(made["token"].as_str().ok_or("no token")?.to_string())
    }

    pub async fn compile(&self, version: &str, kdl: &str) -> Result<String, Failure> {
        compile(self.address, version, kdl).await
    }

    pub async fn seed_nodes(&self, n: usize) -> Result<Vec<NodeId>, Failure> {
        seed_nodes(self.tree.plane.store(), n).await
    }

    pub async fn stop(self) -> Result<(), Failure> {
        let _ = self.stop.send(true);
        self.web.await??;
        self.tree.stop().await?;
        Ok(())
    }
}

/// One call of an operator over a connection of its own; any 2xx is well.
pub async fn operator(at: SocketAddr, method: &str, path: &str, body: Option<Value>) -> Result<Value, Failure> {
    let mut wire = Wire::open(at).await?;
    let body = body.map(|b| b.to_string()).unwrap_or_default();
    let bytes = request(method, path, &format!("authorization: Bearer {KEY}"), &body);
    let answer = wire.call(&bytes).await?;
    if !(200..300).contains(&answer.status) {
        return Err(format!("{method} {path}: {}: {}", answer.status, String::from_utf8_lossy(answer.body)).into());
    }
    answer.json(answer.status)
}

/// Compiles `kdl` as `version`; answers its content id.
pub async fn compile(at: SocketAddr, version: &str, kdl: &str) -> Result<String, Failure> {
    let body = json!({"version": version, "config_source": kdl});
    let made = operator(at, "POST", &format!("/api/v1/projects/{PROJECT}/bundles?wait=60"), Some(body)).await?;
    let bundle = &made["bundle"];
    match (bundle["status"].as_str(), bundle["bundle_id"].as_str()) {
        (Some("compiled"), Some(id)) => Ok(id.to_string()),
        _ => Err(format!("the bundle was not compiled: {bundle:#}").into()),
    }
}

/// Registers `n` adopted, online nodes straight in the store; the key of node `i` is [`key`]`(i)`.
pub async fn seed_nodes(store: &Store, n: usize) -> Result<Vec<NodeId>, Failure> {
    let project: Project = store.project(Scope::System("seeding"), PROJECT).await?;
    // In portions: SQLite has one writer, but PostgreSQL likes company.
    let lanes = 8.min(n.max(1));
    let mut tasks = Vec::with_capacity(lanes);
    for lane in 0..lanes {
        let (store, project) = (store.clone(), project.clone());
        tasks.push(tokio::spawn(async move {
            let (clock, fresh) = (Clock::system(), Fresh::system());
            let mut made = Vec::with_capacity(n / lanes + 1);
            for i in (lane..n).step_by(lanes) {
                let now = clock.now();
                let node = node(&project, i, fresh.id(now), now);
                made.push((i, node.id));
                store.register_node(None, node, Write::at(now)).await?;
            }
            Ok::<_, store::Error>(made)
        }));
    }
    let mut all = vec![NodeId::NIL; n];
    for task in tasks {
        for (i, id) in task.await?? {
            all[i] = id;
        }
    }
    Ok(all)
}

/// Adopted, online, healthy, without a configuration of ours.
fn node(project: &Project, i: usize, id: NodeId, now: Timestamp) -> Node {
    Node {
        id,
        org: project.org,
        project: project.id,
        name: format!("node-{i:06}"),
        standing: Standing::Adopted,
        key_hash: Digest::of(key(i).as_bytes()),
        credential_epoch: 1,
        labels: Labels::from([("env".to_string(), "prod".to_string())]),
        capabilities: vec!["reload".into()],
        version: Some("26.4.1".into()),
        ip: None,
        hostname: None,
        metadata: json!({"zone": "a"}),
        presence: Presence::Online,
        health: HealthClass::Healthy,
        last_seen: Some(now),
        instance: None,
        generation: 0,
        handed_over: 0,
        desired_bundle: None,
        desired_rollout: None,
        traffic_weight: 100,
        busy: None,
        clock_skew: None,
        active_bundle: None,
        staged_bundle: None,
        verified_bundle: None,
        pinned_bundle: None,
        last_error: None,
        inserted_at: now,
        updated_at: now,
    }
}

/// What comes on standard input, line by line; ends with it. Read on a thread of its own: it blocks.
pub fn commands() -> mpsc::UnboundedReceiver<String> {
    let (tx, rx) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if tx.send(line).is_err() {
                break;
            }
        }
    });
    rx
}

pub fn key(i: usize) -> String {
    format!("snk_bench_{i:054}")
}

/// Processor time of this process so far, all threads, user and system, microseconds.
#[allow(unsafe_code)]
pub fn cpu_us() -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a value of ours that lives through the call.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut t) };
    assert_eq!(failed, 0, "this clock exists on every Linux");
    t.tv_sec as f64 * 1e6 + t.tv_nsec as f64 / 1e3
}

/// Bytes of memory of this process that are its own (mapped files, as of SQLite, aside).
pub fn anonymous_rss() -> f64 {
    status_bytes("self", "RssAnon:")
}

/// A line of `/proc/PID/status` that counts kB.
pub fn status_bytes(pid: &str, name: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or("");
    line.split_whitespace().next().and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0) * 1_024.0
}

/// A part of a bench that runs in a process of its own: this program again, spoken to by lines.
pub struct Helper {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Helper {
    pub fn start(args: &[String]) -> Result<Helper, Failure> {
        let exe: PathBuf = std::env::current_exe()?;
        let mut child =
            Command::new(exe).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let stdin = child.stdin.take().ok_or("no stdin")?;
        let stdout = child.stdout.take().ok_or("no stdout")?;
        Ok(Helper { child, stdin: Some(stdin), stdout: BufReader::new(stdout).lines() })
    }

    pub async fn ask(&mut self, line: &str) -> Result<Value, Failure> {
        self.tell(line).await?;
        self.hear().await
    }

    /// Its answer is heard later.
    pub async fn tell(&mut self, line: &str) -> Result<(), Failure> {
        let stdin = self.stdin.as_mut().ok_or("the helper process was told to end")?;
        Ok(stdin.write_all(format!("{line}\n").as_bytes()).await?)
    }

    /// The next line, which is JSON.
    pub async fn hear(&mut self) -> Result<Value, Failure> {
        let line = self.stdout.next_line().await?.ok_or("the helper process ended early")?;
        Ok(serde_json::from_str(&line)?)
    }

    /// Closes its standard input, which ends it.
    pub async fn finish(self) -> Result<(), Failure> {
        let Helper { mut child, stdin, .. } = self;
        drop(stdin);
        let ended = child.wait().await?;
        if ended.success() { Ok(()) } else { Err(format!("the helper process failed: {ended}").into()) }
    }
}
