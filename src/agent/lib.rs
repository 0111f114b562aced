//! BESIDE THE PROXY: the program that makes one Zentinel proxy a node of the fleet. Enrols, polls, downloads, verifies, stages,
//! switches, proves, reports, and goes back by itself.
//!
//! Owns: its state directory and, unless a service manager does, the proxy's process. No server code is linked into it.
//! Rebuilt from: `identity.json`, `state.json`, `releases/`, the `current` link, the running process.
//!
//! Invariants: nothing unsigned is believed and nothing unverified is loaded; the proxy serves on whatever becomes of the agent
//! or the control plane; what serves is known by asking it, not by what was done to it.

mod activate;
mod activation;
mod beat;
mod busy;
mod client;
mod connect;
mod journal;
mod judge;
mod layout;
mod metrics;
mod node;
mod overlay;
mod owner;
mod proxy;
mod secrets;
mod slim;
mod stage;
mod state;
mod status;
mod update;
mod watch;

use api::node::{EventKind, RegisterRequest};
use client::{CallError, Client};
use domain::Digest;
use http::Uri;
use journal::Journal;
use layout::{Layout, Release};
use node::{Node, Settings, now};
use overlay::Overlay;
use owner::Sharing;
use proxy::{Mode, Proxy};
use secrets::Secrets;
use state::{Identity, State};
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, Notify};

/// Settings of the allocator for a process that has little to keep: commit what is used, give back what is not. Not for the proxy.
pub const SMALL_HEAP: [(&str, &str); 2] = [("MIMALLOC_ARENA_EAGER_COMMIT", "0"), ("MIMALLOC_PURGE_DELAY", "0")];
/// Seconds that a poll is held by default: the contract's most is 60.
const WAIT: u32 = 30;
const ENROL_PAUSE: Duration = Duration::from_secs(5);
/// How long the last lines of the log may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// Run beside one Zentinel proxy and make it a node of the fleet.
#[derive(Clone, Debug, clap::Args)]
#[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = false)]
pub struct AgentArgs {
    #[command(subcommand)]
    pub command: Option<AgentCommand>,
    /// The agent's own directory: key, state, releases
    #[arg(long, env = "SENTINEL_AGENT_STATE_DIR", default_value = "/var/lib/sentinel-agent", global = true)]
    pub state_dir: PathBuf,
    #[command(flatten)]
    pub run: RunArgs,
}

#[derive(Clone, Debug, clap::Subcommand)]
pub enum AgentCommand {
    /// What runs here, since when, and why
    Status {
        #[arg(long)]
        json: bool,
    },
    /// "Not now": from its next heartbeat on the node is given nothing new, for as long as the control plane grants it
    Busy {
        /// For so long, counted from now
        #[arg(required_unless_present = "off")]
        minutes: Option<u32>,
        /// It is free again
        #[arg(long, conflicts_with = "minutes")]
        off: bool,
    },
}

#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// The control plane; plain http only on this host
    #[arg(long, env = "SENTINEL_CP_URL", required = true)]
    pub url: Option<String>,
    /// Slug or id; needed to enrol
    #[arg(long, env = "SENTINEL_CP_PROJECT")]
    pub project: Option<String>,
    /// Enrolment token; not needed under open registration, nor once enrolled
    #[arg(long, env = "SENTINEL_CP_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Key id of the root to trust, sha256:HEX, from the enrolment command. May be left out only on loopback
    #[arg(long, env = "SENTINEL_CP_ROOT")]
    pub root: Option<String>,
    /// The node's name [default: the host's]
    #[arg(long, env = "SENTINEL_AGENT_NAME")]
    pub name: Option<String>,
    /// KEY=VALUE, repeated or separated by commas
    #[arg(long, value_delimiter = ',')]
    pub labels: Vec<String>,
    /// The proxy's program
    #[arg(long, env = "ZENTINEL_BIN", default_value = "zentinel")]
    pub proxy_bin: PathBuf,
    /// What the proxy runs before anything is assigned, and goes back to as `baseline`
    #[arg(long)]
    pub proxy_config: Option<PathBuf>,
    /// An own loopback listener, added to every configuration, to prove through. Without it the configuration's first
    /// plain-http listener is asked
    #[arg(long)]
    pub probe_listen: Option<SocketAddr>,
    /// FROM=TO: replaces a quoted address in every configuration, for hosts whose addresses differ from the bundle's
    #[arg(long)]
    pub rebind: Vec<String>,
    /// NAME=file:PATH or NAME=env:VARIABLE: what a configuration refers to as secrets/NAME; repeated
    #[arg(long)]
    pub secret: Vec<String>,
    /// The proxy's metrics page [default: from the configuration]
    #[arg(long)]
    pub metrics_url: Option<String>,
    /// The proxy is run by somebody else (systemd): its process number is in this file, its configuration must be
    /// STATE_DIR/current/proxy.kdl
    #[arg(long)]
    pub pid_file: Option<PathBuf>,
    /// With --pid-file: how the proxy is restarted for changes that a signal does not bring
    #[arg(long, requires = "pid_file")]
    pub restart_command: Option<String>,
    /// With --pid-file: where the proxy logs, to see a refused reload at once
    #[arg(long, requires = "pid_file")]
    pub proxy_log: Option<PathBuf>,
    /// The proxy runs as another user: this group, a name or a number, may read what it needs
    #[arg(long)]
    pub proxy_group: Option<String>,
    /// A path that must not answer 5xx after a switch; repeated
    #[arg(long)]
    pub smoke: Vec<String>,
    /// How long a new configuration is watched before it is called active, seconds
    #[arg(long, default_value_t = 2.0)]
    pub soak: f64,
    /// Seconds that a poll is held, 60 at most
    #[arg(long, default_value_t = WAIT)]
    pub wait: u32,
    /// Seconds in which a download must bring 1 KiB each
    #[arg(long, default_value_t = 15, hide = true, value_parser = clap::value_parser!(u64).range(1..))]
    pub download_window: u64,
    /// Leave the proxy running when the agent is told to end
    #[arg(long)]
    pub keep_proxy: bool,
    /// One heartbeat, one poll and what follows from it, then end; the proxy is left running
    #[arg(long)]
    pub once: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    State(String),
    #[error("enrolment: {0}")]
    Enrolment(String),
    #[error("{0}")]
    Call(String),
}

/// Runs until SIGTERM or Ctrl-C. Has its own runtime, on this thread.
pub fn run(args: AgentArgs) -> Result<(), AgentError> {
    match args.command {
        Some(AgentCommand::Status { json }) => return status::print(&args.state_dir, json).map_err(AgentError::State),
        Some(AgentCommand::Busy { minutes, .. }) => {
            return busy::say(&args.state_dir, minutes, now()).map_err(AgentError::State);
        }
        None => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Only verification runs there, now and then.
        .max_blocking_threads(2)
        .thread_keep_alive(Duration::from_secs(1))
        .build()
        .map_err(|e| AgentError::State(e.to_string()))?;
    runtime.block_on(start(args))
}

async fn start(args: AgentArgs) -> Result<(), AgentError> {
    let run = &args.run;
    let url = run.url.as_deref().ok_or_else(|| AgentError::Usage("--url is missing".into()))?;
    let mut client = Client::new(url).map_err(AgentError::Usage)?;
    client.window = Duration::from_secs(run.download_window);
    let state_error = |e: std::io::Error| AgentError::State(format!("{}: {e}", args.state_dir.display()));
    let sharing = run.proxy_group.as_deref().map(Sharing::with).transpose();
    let sharing = sharing.map_err(|e| AgentError::Usage(format!("--proxy-group: {e}")))?.unwrap_or_default();
    let layout = Layout::open(&args.state_dir, sharing).map_err(state_error)?;
    let secrets = Secrets::new(layout.root(), &pairs("--secret", &run.secret)?, |v| std::env::var(v).ok());
    let overlay = Overlay {
        probe_listen: run.probe_listen,
        rebind: pairs("--rebind", &run.rebind)?,
        secrets: secrets.map_err(AgentError::Usage)?,
    };
    let state = State::load(&layout).map_err(state_error)?;
    let identity: Option<Identity> = layout.read(&layout.identity_file()).map_err(state_error)?;
    if !layout.has(Release::Baseline) {
        stage::baseline(&layout, &overlay, run.proxy_config.as_deref(), now()).map_err(AgentError::Usage)?;
    }
    let mode = match &run.pid_file {
        None => Mode::Supervise,
        Some(path) => Mode::PidFile { path: path.clone(), restart: run.restart_command.clone() },
    };
    let proxy = Proxy::new(&layout, mode, run.proxy_bin.clone(), run.proxy_log.clone());
    let version = proxy.version().await;
    if version.is_none() {
        tracing::warn!("{} does not say its version: is it there?", run.proxy_bin.display());
    }
    let cell = OnceCell::new();
    if let Some(id) = identity {
        let _ = cell.set(id);
    }
    let node = Node {
        settings: Settings {
            soak: Duration::try_from_secs_f64(run.soak).map_err(|e| AgentError::Usage(format!("--soak: {e}")))?,
            smoke: run.smoke.clone(),
            metrics_url: run.metrics_url.clone(),
            wait: run.wait.min(60),
        },
        overlay,
        client,
        identity: cell,
        state: RefCell::new(state),
        proxy: Mutex::new(proxy),
        seen: RefCell::default(),
        readings: RefCell::default(),
        version: RefCell::new(version),
        leave: RefCell::default(),
        worked: Cell::new(Some(tokio::time::Instant::now())),
        journal: Journal::default(),
        beat_now: Notify::new(),
        work_now: Notify::new(),
        layout,
    };
    node.refit().await;
    // First of all, and without the control plane: what an earlier agent has left half done.
    node.recover().await;
    let proxy = node.version.borrow().clone();
    node.journal.note(
        EventKind::Startup,
        format!("the agent starts; {} is active", node.active()),
        &[("agent", env!("CARGO_PKG_VERSION").into()), ("proxy", proxy.into())],
    );
    if run.once {
        return once(&node, run).await;
    }
    let mut term = signal(SignalKind::terminate()).map_err(|e| AgentError::State(e.to_string()))?;
    let mut int = signal(SignalKind::interrupt()).map_err(|e| AgentError::State(e.to_string()))?;
    let fleet = async {
        let who = enrolled(&node, run).await?;
        tokio::join!(node.work(&who), node.beats(&who));
        Ok(())
    };
    let ended = tokio::select! {
        () = node.watch() => Ok(()),
        r = fleet => r,
        _ = term.recv() => Ok(()),
        _ = int.recv() => Ok(()),
    };
    node.journal.note(EventKind::Shutdown, "the agent ends", &[("keep_proxy", run.keep_proxy.into())]);
    if let Some(who) = node.identity.get() {
        // A control plane that is away does not hold up the end.
        let _ = tokio::time::timeout(FAREWELL, node.send_journal(who)).await;
    }
    if ended.is_ok() && !run.keep_proxy {
        let mut proxy = node.proxy.lock().await;
        if proxy.is_supervised() {
            proxy.stop().await;
        }
    }
    ended
}

async fn once(node: &Node, run: &RunArgs) -> Result<(), AgentError> {
    let who = enrol(node, run).await.map_err(|e| AgentError::Enrolment(e.to_string()))?;
    node.beat(&who, &beat::instance(), 1).await;
    let round = node.round(&who, 0).await;
    node.beat(&who, &beat::instance(), 1).await;
    node.journal.note(EventKind::Shutdown, "the agent ends, as it was started with --once", &[]);
    node.send_journal(&who).await;
    match round {
        update::Round::Idle(_) => println!("nothing new; {} is active", node.active()),
        update::Round::Did(what) => println!("{what}"),
        update::Round::Refused(why) => return Err(AgentError::Call(format!("refused: {why}"))),
        update::Round::Failed(e) => return Err(AgentError::Call(e.to_string())),
    }
    Ok(())
}

/// Enrols until it has worked. Only what no repetition changes ends the agent.
async fn enrolled(node: &Node, run: &RunArgs) -> Result<Identity, AgentError> {
    loop {
        match enrol(node, run).await {
            Ok(who) => return Ok(who),
            Err(Enrol::Call(e)) if !e.is_final() => {
                tracing::warn!("enrolment: {e}");
                tokio::time::sleep(e.retry_after().unwrap_or(ENROL_PAUSE)).await;
            }
            Err(e) => return Err(AgentError::Enrolment(e.to_string())),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Enrol {
    #[error("{0}")]
    Call(#[from] CallError),
    #[error("{0}")]
    Never(String),
}

async fn enrol(node: &Node, run: &RunArgs) -> Result<Identity, Enrol> {
    if let Some(who) = node.identity.get() {
        return Ok(who.clone());
    }
    let never = Enrol::Never;
    let url: Uri = run.url.as_deref().unwrap_or_default().parse().map_err(|e| never(format!("--url: {e}")))?;
    let project = run.project.clone().ok_or_else(|| never("--project is missing".into()))?;
    let pinned = match &run.root {
        Some(r) => Some(Digest::parse(r).ok_or_else(|| never(format!("--root {r:?} is not sha256:HEX")))?),
        None if client::is_loopback(&url) => None,
        None => return Err(never("--root is missing: without it anybody could pose as the control plane".into())),
    };
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").map(|h| h.trim().to_string()).ok();
    let name = run.name.clone().or_else(|| host.clone()).ok_or_else(|| never("--name is missing".into()))?;
    let labels: BTreeMap<String, String> =
        pairs("--labels", &run.labels).map_err(|e| never(e.to_string()))?.into_iter().collect();
    let body = RegisterRequest {
        name: name.clone(),
        labels: Some(labels).filter(|l| !l.is_empty()),
        version: node.version.borrow().clone(),
        hostname: host,
        ..RegisterRequest::default()
    };
    let answer = node.client.register(&project, run.token.as_deref(), &body).await?;
    let shown = match answer.trust_chain.as_slice() {
        [] => answer.trust.clone(),
        all => serde_json::Value::Array(all.to_vec()),
    };
    let chain = judge::envelopes(&shown).map_err(|e| never(format!("the trust document: {e}")))?;
    let shown = || -> Option<Digest> {
        let doc: bundle::trust::TrustDoc = chain.last()?.decode().ok()?;
        Digest::parse(&doc.roles.root.keys.first()?.key_id())
    };
    let root = pinned.or_else(shown).ok_or_else(|| never("the trust document lists no root".into()))?;
    judge::pin(root, &chain, answer.node_id, now()).map_err(|e| never(format!("{}: {e}", e.code())))?;
    let who =
        Identity { node_id: answer.node_id, node_key: answer.node_key, name, project, root, chain, enrolled_at: now() };
    let bytes = serde_json::to_vec_pretty(&who).map_err(|e| never(e.to_string()))?;
    let saved = node.layout.write(&node.layout.identity_file(), &bytes);
    saved.map_err(|e| never(format!("identity.json: {e}: the key would be lost, so this node is not enrolled")))?;
    tracing::info!(node = %who.node_id, "enrolled");
    let _ = node.identity.set(who.clone());
    Ok(who)
}

fn pairs(flag: &str, given: &[String]) -> Result<Vec<(String, String)>, AgentError> {
    let pair = |s: &String| s.split_once('=').map(|(k, v)| (k.trim().to_string(), v.trim().to_string()));
    let bad = |s: &String| AgentError::Usage(format!("{flag} {s:?}: expected NAME=VALUE"));
    given.iter().map(|s| pair(s).filter(|(k, _)| !k.is_empty()).ok_or_else(|| bad(s))).collect()
}
