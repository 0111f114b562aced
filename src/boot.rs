//! The composition root: settings become a running instance, and a signal ends it in order.

use crate::config::{Config, Storage};
use actors::clock::Clock;
use actors::commands::access::FirstStart;
use actors::fresh::Fresh;
use actors::{Parts, PlaneConfig, Tree};
use artifacts::{ArtifactStore, DirStore, S3Config, S3Store, UrlSigner};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bundle::child::ChildValidator;
use bundle::keys::MasterKey;
use domain::Span;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use store::{Store, StoreConfig};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Where the master key lies in the data directory, and where its successor does while keys are sealed anew.
pub const MASTER_KEY: &str = "master.key";
pub const NEXT_MASTER_KEY: &str = "master.key.next";
/// The hidden command in which configurations are validated.
pub const VALIDATE_CHILD: &str = "validate-child";
/// Draining ends within this, whatever still hangs; of the 10 s that INTERFACE section 1 promises, half a second is for the rest.
const DRAIN: std::time::Duration = std::time::Duration::from_millis(9_500);
/// Readiness is 503 for so long before connections are refused: what asks once a second or more often sees it.
const LINGER: std::time::Duration = std::time::Duration::from_millis(1_200);
const _: () = assert!(
    LINGER.as_millis()
        + web::DRAIN_TIMEOUT.as_millis()
        + actors::tree::STOP.as_millis()
        + actors::tree::LAST_WRITES.as_millis()
        <= DRAIN.as_millis(),
    "each part of the drain has its time within the whole"
);

pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Why a process goes that nobody told to go.
pub const ENDED: &str = "a part that must not end has ended; exiting so that the service manager starts a new process";

/// A running instance.
pub struct Instance {
    pub tree: Tree,
    pub address: SocketAddr,
    pub public_url: String,
    /// The administrator's password, when it was made just now.
    pub printed_password: Option<String>,
    stop: watch::Sender<bool>,
    /// `None` once it ended by itself.
    web: Option<tokio::task::JoinHandle<()>>,
}

/// Start everything that `config` describes, on a migrated database.
pub async fn start(config: &Config) -> Result<Instance, Failure> {
    make_private_dir(&config.data_dir)?;
    let registry = prometheus::Registry::new();
    let store = open_store(config, &registry).await?;
    let applied = store.migrate().await?;
    if !applied.is_empty() {
        tracing::info!(migrations = applied.len(), "database migrated");
    }
    let listener = TcpListener::bind(config.listen).await.map_err(|e| format!("listen: {}: {e}", config.listen))?;
    let address = listener.local_addr()?;
    let public_url = config
        .public_url
        .clone()
        .unwrap_or_else(|| format!("{}://{address}", if config.tls.is_some() { "https" } else { "http" }));
    if config.data_dir.join(NEXT_MASTER_KEY).exists() {
        return Err(
            "a rotation of the master key was interrupted: run `sentinel-cp trust rotate-master-key` again".into()
        );
    }
    let master = MasterKey::new(master_key(config)?);
    let url_secret = actors::keys::derive(&master, "artifact-urls");
    let artifacts = artifact_store(config, &public_url, url_secret)?;
    let exe = std::env::current_exe()?;
    let tree = Tree::start(Parts {
        config: PlaneConfig {
            stale_after: Span::secs(config.stale_after.into()),
            lease: Span::secs(config.lease_seconds.into()),
            listen: address.to_string(),
            public_url: public_url.clone(),
            master_key: master,
            validator: ChildValidator::new(exe, [VALIDATE_CHILD]),
            compile_concurrency: config.compile_concurrency,
            audit_keep: config.audit_keep_days.map(|d| Span::secs(i64::from(d) * 86_400)),
            egress: egress_policy(config, address)?,
        },
        store,
        artifacts,
        clock: Clock::system(),
        fresh: Fresh::system(),
        registry,
    })
    .await?;
    // Whatever can be refused is refused before the first start makes a password that is shown only once.
    let trusted_proxies: Vec<web::Network> = config
        .trusted_proxies
        .iter()
        .map(|t| t.parse())
        .collect::<Result<_, _>>()
        .map_err(|e| format!("trusted_proxies: {e}"))?;
    let metrics = match config.metrics_listen {
        Some(at) => Some(TcpListener::bind(at).await.map_err(|e| format!("metrics_listen: {at}: {e}"))?),
        None => None,
    };
    let first = FirstStart {
        admin_email: config.admin_email.clone(),
        admin_password: config.admin_password.clone(),
        bootstrap_api_key: config.bootstrap_api_key.clone(),
    };
    let done = tree.plane.first_start(first).await.map_err(|e| format!("first start: {e:?}"))?;
    let (stop, stopping) = watch::channel(false);
    let web_config = web::WebConfig {
        listener,
        https: public_url.starts_with("https://"),
        max_body_bytes: config.max_body_bytes,
        rate_limit_per_key: config.rate_limit_per_key,
        rate_limit_per_node: config.rate_limit_per_node,
        rate_limit_per_address: config.rate_limit_per_address,
        tls: config.tls.clone().map(|(cert, key)| web::TlsFiles { cert, key, client_ca: config.client_ca.clone() }),
        metrics_here: config.metrics_listen.is_none(),
        metrics_token: config.metrics_token.clone(),
        trusted_proxies,
        linger: LINGER,
    };
    let plane = tree.plane.clone();
    let metrics_token = config.metrics_token.clone();
    let mut web_stop = stopping.clone();
    let mut metrics_stop = stopping;
    #[allow(clippy::disallowed_methods)] // the accept loop: boot starts it last, stops it first, and waits for it
    let web = tokio::spawn(async move {
        let stop = async move {
            let _ = web_stop.wait_for(|s| *s).await;
        };
        let served = web::serve(web_config, plane.clone(), stop);
        match metrics {
            None => finish("the web server", served.await),
            Some(listener) => {
                let stop = async move {
                    let _ = metrics_stop.wait_for(|s| *s).await;
                };
                let (a, b) = tokio::join!(served, web::serve_metrics(listener, plane, metrics_token, stop));
                finish("the web server", a);
                finish("the metrics server", b);
            }
        }
    });
    Ok(Instance {
        tree,
        address,
        public_url,
        printed_password: done.and_then(|d| d.printed_password),
        stop,
        web: Some(web),
    })
}

/// What probes and webhooks may reach: never where we listen ourselves.
fn egress_policy(config: &Config, listen: SocketAddr) -> Result<egress::Policy, Failure> {
    let allow = config.probe_allow.iter().map(|n| n.parse()).collect::<Result<_, _>>();
    let mut own: Vec<SocketAddr> = [Some(listen), config.metrics_listen].into_iter().flatten().collect();
    let unspecified: Vec<u16> = own.iter().filter(|a| a.ip().is_unspecified()).map(|a| a.port()).collect();
    own.extend(unspecified.into_iter().flat_map(egress::everywhere));
    Ok(egress::Policy { allow: allow.map_err(|e| format!("probe_allow: {e}"))?, own })
}

fn finish<E: std::fmt::Display>(what: &str, outcome: Result<(), E>) {
    if let Err(e) = outcome {
        tracing::error!(error = %e, "{what} failed");
    }
}

impl Instance {
    /// Waits until a signal asks to stop (its name), or a part that must not end has ended by itself (`None`).
    pub async fn until_told(&mut self) -> std::io::Result<Option<&'static str>> {
        let mut web = self.web.take();
        let served = async {
            match web.as_mut() {
                Some(w) => w.await,
                None => std::future::pending().await,
            }
        };
        let signal = tokio::select! {
            name = stop_signal() => Some(name?),
            ended = served => {
                tracing::error!(reason = ?ended, "the web server ended");
                web = None;
                None
            }
            ended = self.tree.ended() => {
                tracing::error!(reason = ?ended, "the supervision tree ended");
                None
            }
        };
        self.web = web;
        if let Some(name) = signal {
            tracing::info!(signal = name, "draining");
        }
        Ok(signal)
    }

    /// Runs until a signal asks to stop, or the tree ends by itself.
    pub async fn run(mut self) -> Result<(), Failure> {
        let signal = self.until_told().await?;
        let by_itself = signal.is_none();
        let drained = self.shut_down().await;
        if by_itself {
            return Err(ENDED.into());
        }
        if let Err(e) = drained {
            // We were asked to go and we go: nothing that was acknowledged is lost by it.
            tracing::error!(error = %e, "what did not end in time was cut");
        }
        Ok(())
    }

    /// Readiness turns 503, long polls are answered, rollouts are handed over, writes are flushed.
    pub async fn shut_down(self) -> Result<(), Failure> {
        let Instance { tree, stop, web, .. } = self;
        let _ = stop.send(true);
        let drained = async {
            let answered = async {
                if let Some(web) = web {
                    let _ = web.await;
                }
            };
            tokio::join!(answered, tree.hand_over());
            tree.stop().await
        };
        match tokio::time::timeout(DRAIN, drained).await {
            Ok(outcome) => outcome.map_err(Into::into),
            Err(_) => Err("draining took too long".into()),
        }
    }
}

async fn stop_signal() -> std::io::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
    })
}

pub async fn open_store(config: &Config, registry: &prometheus::Registry) -> Result<Store, Failure> {
    Ok(Store::open(store_config(config)?, registry).await?)
}

pub fn store_config(config: &Config) -> Result<StoreConfig, Failure> {
    let mut store = StoreConfig::from_url(&config.database_url)?;
    store.pool_size = config.database_pool_size;
    store.op_timeout = std::time::Duration::from_secs(config.database_timeout_seconds.into());
    store.statement_cache = !config.database_pooler;
    Ok(store)
}

/// The artifact store alone, for who serves nothing.
pub fn artifacts(config: &Config) -> Result<ArtifactStore, Failure> {
    artifact_store(config, "http://localhost", [0; 32])
}

/// Does the master key open what the database keeps sealed? Changes nothing.
pub async fn unseal(config: &Config, store: &Store) -> Result<usize, String> {
    let master = MasterKey::new(master_key(config).map_err(|e| e.to_string())?);
    actors::keys::unsealable(store, &master).await
}

/// Base64, as it is kept.
pub fn master_key_text(config: &Config) -> Result<String, Failure> {
    Ok(format!("{}\n", BASE64.encode(master_key(config)?)))
}

pub fn has_master_key(config: &Config) -> bool {
    config.master_key.is_some() || config.data_dir.join("master.key").is_file()
}

fn artifact_store(config: &Config, public_url: &str, secret: [u8; 32]) -> Result<ArtifactStore, Failure> {
    Ok(match &config.storage {
        Storage::Dir(dir) => ArtifactStore::dir(DirStore::open(dir.clone(), UrlSigner::new(secret, public_url))?),
        Storage::S3 { bucket, prefix } => {
            let need =
                |name: &str, v: &Option<String>| v.clone().ok_or_else(|| format!("{name}: needed for s3:// storage"));
            ArtifactStore::s3(S3Store::new(S3Config {
                endpoint: config.s3_endpoint.clone(),
                region: config.s3_region.clone(),
                access_key: need("s3_access_key_id", &config.s3_access_key_id)?,
                secret_key: need("s3_secret_access_key", &config.s3_secret_access_key)?,
                force_path_style: config.s3_force_path_style,
                bucket: bucket.clone(),
                prefix: prefix.clone(),
                allow_plain_http: config.s3_endpoint.as_deref().is_some_and(|e| e.starts_with("http://")),
            })?)
        }
    })
}

pub fn make_private_dir(dir: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| format!("data_dir: {}: {e}", dir.display()).into())
}

/// From the settings, or from the data directory, where it is made on first use, readable by the owner only.
pub fn master_key(config: &Config) -> Result<[u8; 32], Failure> {
    if let Some(text) = &config.master_key {
        return decode_key(text, "master_key");
    }
    let path = config.data_dir.join(MASTER_KEY);
    match std::fs::read_to_string(&path) {
        Ok(text) => decode_key(&text, &path.display().to_string()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let key: [u8; 32] = Fresh::system().bytes();
            let temporary = config.data_dir.join("master.key.new");
            let _ = std::fs::remove_file(&temporary);
            write_secret(&temporary, &key)?;
            move_secret(&temporary, &path)?;
            Ok(key)
        }
        Err(e) => Err(format!("{}: {e}", path.display()).into()),
    }
}

pub fn decode_key(text: &str, from: &str) -> Result<[u8; 32], Failure> {
    let bytes = BASE64.decode(text.trim()).map_err(|e| format!("{from}: not base64: {e}"))?;
    bytes.try_into().map_err(|b: Vec<u8>| format!("{from}: {} bytes instead of 32", b.len()).into())
}

/// 32 secret bytes as base64 into a new file for the owner only, flushed.
pub fn write_secret(path: &Path, secret: &[u8; 32]) -> Result<(), Failure> {
    let told = |e: std::io::Error| format!("{}: {e}", path.display());
    let mut f = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(told)?;
    writeln!(f, "{}", BASE64.encode(secret)).and_then(|()| f.sync_all()).map_err(|e| told(e).into())
}

/// Renames within a folder, flushed: after a crash it is one or the other.
pub fn move_secret(from: &Path, to: &Path) -> Result<(), Failure> {
    std::fs::rename(from, to)?;
    let folder = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(std::fs::File::open(folder)?.sync_all()?)
}
