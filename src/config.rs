//! Settings: flags, then `SENTINEL_CP_*`, then a TOML file, then defaults. As written ([`Written`]) and as used ([`Config`]).

use clap::Args;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub const PREFIX: &str = "SENTINEL_CP_";

/// Names that belong to other commands of the same binary (`ctl`, `agent`, tests) and are not settings of `serve`.
const OTHERS: [&str; 8] = [
    "SENTINEL_CP_NEW_PASSWORD",
    "SENTINEL_CP_URL",
    "SENTINEL_CP_API_KEY",
    "SENTINEL_CP_CONFIG",
    "SENTINEL_CP_PROJECT",
    "SENTINEL_CP_TOKEN",
    "SENTINEL_CP_ROOT",
    "SENTINEL_CP_ENROLMENT_TOKEN",
];

/// Names that INTERFACE.md has and this version does not: refused as what they are, not as misspelt.
const NOT_YET: [&str; 2] = ["SENTINEL_CP_OTLP_ENDPOINT", "SENTINEL_CP_VALIDATOR"];

/// As written: nothing is filled in yet.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Written {
    /// TOML file with the same names in lower case
    #[arg(long, env = "SENTINEL_CP_CONFIG")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Address to listen on [default: 127.0.0.1:4000]
    #[arg(long, env = "SENTINEL_CP_LISTEN")]
    pub listen: Option<String>,
    /// Where the embedded database, the artifacts and the master key are kept [default: ./data]
    #[arg(long, env = "SENTINEL_CP_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// sqlite://PATH or postgres://... [default: SQLite in the data directory]
    #[arg(long, env = "SENTINEL_CP_DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// Connections to PostgreSQL at most; their sum over all instances stays below its max_connections [default: 16]
    #[arg(long, env = "SENTINEL_CP_DATABASE_POOL_SIZE")]
    pub database_pool_size: Option<u32>,
    /// Seconds an operation on the database may take; a lock is waited for a third of it [default: 10]
    #[arg(long, env = "SENTINEL_CP_DATABASE_TIMEOUT_SECONDS")]
    pub database_timeout_seconds: Option<u32>,
    /// A pooler that gives each transaction another session (pgbouncer in transaction mode) stands before PostgreSQL
    #[arg(long, env = "SENTINEL_CP_DATABASE_POOLER")]
    pub database_pooler: Option<bool>,
    /// file://DIR or s3://BUCKET/PREFIX [default: artifacts in the data directory]
    #[arg(long, env = "SENTINEL_CP_STORAGE")]
    pub storage: Option<String>,
    #[arg(long, env = "SENTINEL_CP_S3_ENDPOINT")]
    pub s3_endpoint: Option<String>,
    #[arg(long, env = "SENTINEL_CP_S3_REGION")]
    pub s3_region: Option<String>,
    #[arg(long, env = "SENTINEL_CP_S3_ACCESS_KEY_ID", hide_env_values = true)]
    pub s3_access_key_id: Option<String>,
    #[arg(long, env = "SENTINEL_CP_S3_SECRET_ACCESS_KEY", hide_env_values = true)]
    pub s3_secret_access_key: Option<String>,
    #[arg(long, env = "SENTINEL_CP_S3_FORCE_PATH_STYLE")]
    pub s3_force_path_style: Option<bool>,
    /// What nodes and browsers reach this instance by [default: http://LISTEN]
    #[arg(long, env = "SENTINEL_CP_PUBLIC_URL")]
    pub public_url: Option<String>,
    /// 32 bytes, base64; made and kept in the data directory when unset
    #[arg(long, env = "SENTINEL_CP_MASTER_KEY", hide_env_values = true)]
    pub master_key: Option<String>,
    /// First start only
    #[arg(long, env = "SENTINEL_CP_ADMIN_EMAIL")]
    pub admin_email: Option<String>,
    /// First start only; when unset a random one is printed once
    #[arg(long, env = "SENTINEL_CP_ADMIN_PASSWORD", hide_env_values = true)]
    pub admin_password: Option<String>,
    /// First start only: an API key with every scope
    #[arg(long, env = "SENTINEL_CP_BOOTSTRAP_API_KEY", hide_env_values = true)]
    pub bootstrap_api_key: Option<String>,
    /// Log filter, e.g. info,store=debug [default: info]
    #[arg(long, env = "SENTINEL_CP_LOG")]
    pub log: Option<String>,
    /// text or json [default: text on a terminal, else json]
    #[arg(long, env = "SENTINEL_CP_LOG_FORMAT")]
    pub log_format: Option<String>,
    /// Comma-separated address ranges whose X-Forwarded-For is believed
    #[arg(long, env = "SENTINEL_CP_TRUSTED_PROXIES")]
    pub trusted_proxies: Option<String>,
    /// Seconds of silence after which a node is offline [default: 120]
    #[arg(long, env = "SENTINEL_CP_STALE_AFTER")]
    pub stale_after: Option<u32>,
    /// Seconds: the longest takeover of a rollout whose owner died [default: 5]
    #[arg(long, env = "SENTINEL_CP_LEASE_SECONDS")]
    pub lease_seconds: Option<u32>,
    /// Largest request body [default: 4194304]
    #[arg(long, env = "SENTINEL_CP_MAX_BODY_BYTES")]
    pub max_body_bytes: Option<usize>,
    /// Requests a minute of one operator credential [default: 600]
    #[arg(long, env = "SENTINEL_CP_RATE_LIMIT_PER_KEY")]
    pub rate_limit_per_key: Option<u32>,
    /// Requests a minute of one node [default: 1200]
    #[arg(long, env = "SENTINEL_CP_RATE_LIMIT_PER_NODE")]
    pub rate_limit_per_node: Option<u32>,
    /// Requests a minute of one address without a good credential [default: 600]
    #[arg(long, env = "SENTINEL_CP_RATE_LIMIT_PER_ADDRESS")]
    pub rate_limit_per_address: Option<u32>,
    /// Certificate chain, PEM: serve HTTPS; taken anew when the file changes or on SIGHUP
    #[arg(long, env = "SENTINEL_CP_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// The key of tls_cert, PEM
    #[arg(long, env = "SENTINEL_CP_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    /// Nodes must come with a certificate that one of these signed, PEM
    #[arg(long, env = "SENTINEL_CP_CLIENT_CA")]
    pub client_ca: Option<PathBuf>,
    /// Comma-separated address ranges that probes and webhooks may reach besides the public internet
    #[arg(long, env = "SENTINEL_CP_PROBE_ALLOW")]
    pub probe_allow: Option<String>,
    /// Days that audit entries are kept [default: for ever]
    #[arg(long, env = "SENTINEL_CP_AUDIT_KEEP_DAYS")]
    pub audit_keep_days: Option<u32>,
    /// Serve /metrics on this address only
    #[arg(long, env = "SENTINEL_CP_METRICS_LISTEN")]
    pub metrics_listen: Option<String>,
    /// Bearer token that /metrics asks for
    #[arg(long, env = "SENTINEL_CP_METRICS_TOKEN", hide_env_values = true)]
    pub metrics_token: Option<String>,
    /// Compile jobs at a time [default: 2]
    #[arg(long, env = "SENTINEL_CP_COMPILE_CONCURRENCY")]
    pub compile_concurrency: Option<usize>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Storage {
    Dir(PathBuf),
    S3 { bucket: String, prefix: String },
}

/// As used.
#[derive(Clone)]
pub struct Config {
    pub listen: SocketAddr,
    pub data_dir: PathBuf,
    pub database_url: String,
    pub database_pool_size: u32,
    pub database_timeout_seconds: u32,
    pub database_pooler: bool,
    pub storage: Storage,
    pub s3_endpoint: Option<String>,
    pub s3_region: String,
    pub s3_access_key_id: Option<String>,
    pub s3_secret_access_key: Option<String>,
    pub s3_force_path_style: bool,
    pub public_url: Option<String>,
    pub master_key: Option<String>,
    pub admin_email: String,
    pub admin_password: Option<String>,
    pub bootstrap_api_key: Option<String>,
    pub log: String,
    pub log_json: bool,
    pub trusted_proxies: Vec<String>,
    pub stale_after: u32,
    pub lease_seconds: u32,
    pub max_body_bytes: usize,
    pub rate_limit_per_key: u32,
    pub rate_limit_per_node: u32,
    pub rate_limit_per_address: u32,
    /// Certificate and key: both or neither.
    pub tls: Option<(PathBuf, PathBuf)>,
    pub client_ca: Option<PathBuf>,
    pub probe_allow: Vec<String>,
    pub audit_keep_days: Option<u32>,
    pub metrics_listen: Option<SocketAddr>,
    pub metrics_token: Option<String>,
    pub compile_concurrency: usize,
}

/// A setting that cannot be used: its name, and why.
#[derive(Debug, PartialEq)]
pub struct Bad(pub String);

impl std::fmt::Display for Bad {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

fn bad(name: &str, why: impl std::fmt::Display) -> Bad {
    Bad(format!("{name}: {why}"))
}

macro_rules! lay_over {
    ($top:ident over $below:ident: $($field:ident),+ $(,)?) => {
        Written { config: $top.config, $($field: $top.$field.or($below.$field)),+ }
    };
}

impl Written {
    /// What `self` leaves open is taken from `below`.
    fn over(self, below: Written) -> Written {
        lay_over!(self over below: listen, data_dir, database_url, database_pool_size, database_timeout_seconds,
            database_pooler, storage, s3_endpoint, s3_region, s3_access_key_id,
            s3_secret_access_key, s3_force_path_style, public_url, master_key, admin_email, admin_password,
            bootstrap_api_key, log, log_format, trusted_proxies, stale_after, lease_seconds, max_body_bytes,
            rate_limit_per_key, rate_limit_per_node, rate_limit_per_address, tls_cert, tls_key, client_ca, probe_allow, audit_keep_days, metrics_listen, metrics_token, compile_concurrency)
    }

    /// Flags and environment are in `self` already (clap); the file and the defaults are added.
    pub fn resolve(self, environment: &BTreeMap<String, String>) -> Result<Config, Bad> {
        refuse_unknown(environment)?;
        let file = match &self.config {
            None => Written::default(),
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).map_err(|e| bad("config", format!("{}: {e}", path.display())))?;
                toml::from_str(&text).map_err(|e| bad(&path.display().to_string(), e.to_string().trim_end()))?
            }
        };
        let w = self.over(file);
        let data_dir = w.data_dir.unwrap_or_else(|| PathBuf::from("./data"));
        let address =
            |name: &str, text: &str| text.parse::<SocketAddr>().map_err(|e| bad(name, format!("{text:?}: {e}")));
        let in_range = |name: &str, value: u32, from: u32, to: u32| {
            if (from..=to).contains(&value) {
                Ok(value)
            } else {
                Err(bad(name, format!("{value} is not between {from} and {to}")))
            }
        };
        let log_json = match w.log_format.as_deref() {
            Some("json") => true,
            Some("text") => false,
            Some(other) => return Err(bad("log_format", format!("{other:?} is neither text nor json"))),
            None => !std::io::IsTerminal::is_terminal(&std::io::stdout()),
        };
        let database_url =
            w.database_url.unwrap_or_else(|| format!("sqlite://{}", data_dir.join("sentinel.db").display()));
        if let Err(why) = store::StoreConfig::from_url(&database_url) {
            return Err(bad("database_url", why.to_string()));
        }
        let database_pooler = w.database_pooler.unwrap_or(false);
        if database_pooler && database_url.starts_with("sqlite://") {
            return Err(bad("database_pooler", "there is no pooler before SQLite"));
        }
        Ok(Config {
            // Two at least: the lease is renewed while another operation waits. 500 is five times PostgreSQL's own default for all.
            database_pool_size: in_range("database_pool_size", w.database_pool_size.unwrap_or(16), 2, 500)?,
            database_timeout_seconds: in_range(
                "database_timeout_seconds",
                w.database_timeout_seconds.unwrap_or(10),
                1,
                120,
            )?,
            database_pooler,
            listen: address("listen", w.listen.as_deref().unwrap_or("127.0.0.1:4000"))?,
            storage: storage(w.storage.as_deref(), &data_dir)?,
            s3_endpoint: w.s3_endpoint,
            s3_region: w.s3_region.unwrap_or_else(|| "us-east-1".into()),
            s3_access_key_id: w.s3_access_key_id,
            s3_secret_access_key: w.s3_secret_access_key,
            s3_force_path_style: w.s3_force_path_style.unwrap_or(false),
            public_url: match w.public_url {
                Some(u) if u.starts_with("http://") || u.starts_with("https://") => {
                    Some(u.trim_end_matches('/').to_string())
                }
                Some(u) => return Err(bad("public_url", format!("{u:?} must start with http:// or https://"))),
                None => None,
            },
            master_key: w.master_key,
            admin_email: w.admin_email.unwrap_or_else(|| "admin@localhost".into()),
            admin_password: w.admin_password,
            bootstrap_api_key: w.bootstrap_api_key,
            log: log_filter(w.log)?,
            log_json,
            trusted_proxies: listed(w.trusted_proxies),
            stale_after: in_range("stale_after", w.stale_after.unwrap_or(120), 1, 86_400)?,
            lease_seconds: in_range("lease_seconds", w.lease_seconds.unwrap_or(3), 1, 600)?,
            max_body_bytes: w.max_body_bytes.unwrap_or(4 * 1024 * 1024),
            rate_limit_per_key: in_range("rate_limit_per_key", w.rate_limit_per_key.unwrap_or(600), 1, 10_000_000)?,
            rate_limit_per_node: in_range(
                "rate_limit_per_node",
                w.rate_limit_per_node.unwrap_or(1_200),
                1,
                10_000_000,
            )?,
            rate_limit_per_address: in_range(
                "rate_limit_per_address",
                w.rate_limit_per_address.unwrap_or(600),
                1,
                10_000_000,
            )?,
            client_ca: match (w.client_ca, w.tls_cert.is_some()) {
                (Some(_), false) => return Err(bad("client_ca", "needs tls_cert and tls_key")),
                (path, _) => path,
            },
            tls: match (w.tls_cert, w.tls_key) {
                (Some(cert), Some(key)) => Some((cert, key)),
                (None, None) => None,
                (Some(_), None) => return Err(bad("tls_key", "is needed with tls_cert")),
                (None, Some(_)) => return Err(bad("tls_cert", "is needed with tls_key")),
            },
            probe_allow: listed(w.probe_allow),
            audit_keep_days: w.audit_keep_days.map(|d| in_range("audit_keep_days", d, 1, 36_500)).transpose()?,
            metrics_listen: w.metrics_listen.as_deref().map(|t| address("metrics_listen", t)).transpose()?,
            metrics_token: w.metrics_token,
            compile_concurrency: in_range("compile_concurrency", w.compile_concurrency.unwrap_or(2) as u32, 1, 64)?
                as usize,
            database_url,
            data_dir,
        })
    }
}

fn log_filter(written: Option<String>) -> Result<String, Bad> {
    let filter = written.unwrap_or_else(|| "info".into());
    match tracing_subscriber::EnvFilter::try_new(&filter) {
        Ok(_) => Ok(filter),
        Err(e) => Err(bad("log", format!("{filter:?}: {e}"))),
    }
}

/// What is written with commas between.
fn listed(written: Option<String>) -> Vec<String> {
    written.unwrap_or_default().split(',').map(|s| s.trim().to_string()).filter(|s| !s.is_empty()).collect()
}

fn storage(written: Option<&str>, data_dir: &Path) -> Result<Storage, Bad> {
    let Some(text) = written else { return Ok(Storage::Dir(data_dir.join("artifacts"))) };
    if let Some(dir) = text.strip_prefix("file://").filter(|d| !d.is_empty()) {
        return Ok(Storage::Dir(PathBuf::from(dir)));
    }
    if let Some(rest) = text.strip_prefix("s3://") {
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if !bucket.is_empty() {
            return Ok(Storage::S3 { bucket: bucket.into(), prefix: prefix.trim_matches('/').into() });
        }
    }
    Err(bad("storage", format!("{text:?} is neither file://DIR nor s3://BUCKET/PREFIX")))
}

/// A misspelt variable must not be ignored silently.
fn refuse_unknown(environment: &BTreeMap<String, String>) -> Result<(), Bad> {
    use clap::CommandFactory;
    #[derive(clap::Parser)]
    struct Only {
        #[command(flatten)]
        _all: Written,
    }
    let known: Vec<String> = Only::command()
        .get_arguments()
        .filter_map(|a| a.get_env().and_then(|e| e.to_str()).map(str::to_string))
        .collect();
    if let Some(name) = NOT_YET.iter().find(|n| environment.contains_key(**n)) {
        return Err(bad(name, "is not supported yet"));
    }
    for name in environment.keys().filter(|n| n.starts_with(PREFIX)) {
        if !known.iter().any(|k| k == name) && !OTHERS.contains(&name.as_str()) {
            return Err(bad(name, "unknown setting"));
        }
    }
    Ok(())
}

impl Config {
    /// As TOML with secrets hidden: what `--print-config` shows.
    pub fn printed(&self) -> String {
        let secret = |s: &Option<String>| s.as_ref().map(|_| "***".to_string());
        let storage = match &self.storage {
            Storage::Dir(d) => format!("file://{}", d.display()),
            Storage::S3 { bucket, prefix } => format!("s3://{bucket}/{prefix}"),
        };
        let mut out = String::new();
        let mut put = |name: &str, value: Option<toml::Value>| match value {
            Some(v) => out.push_str(&format!("{name} = {v}\n")),
            None => out.push_str(&format!("# {name} is not set\n")),
        };
        let text = |s: &str| Some(toml::Value::String(s.to_string()));
        let number = |n: i64| Some(toml::Value::Integer(n));
        put("listen", text(&self.listen.to_string()));
        put("data_dir", text(&self.data_dir.display().to_string()));
        put("database_url", text(&hide_password(&self.database_url)));
        put("database_pool_size", number(self.database_pool_size.into()));
        put("database_timeout_seconds", number(self.database_timeout_seconds.into()));
        put("database_pooler", Some(toml::Value::Boolean(self.database_pooler)));
        put("storage", text(&storage));
        put("s3_endpoint", self.s3_endpoint.as_deref().and_then(text));
        put("s3_region", text(&self.s3_region));
        put("s3_access_key_id", secret(&self.s3_access_key_id).as_deref().and_then(text));
        put("s3_secret_access_key", secret(&self.s3_secret_access_key).as_deref().and_then(text));
        put("s3_force_path_style", Some(toml::Value::Boolean(self.s3_force_path_style)));
        put("public_url", self.public_url.as_deref().and_then(text));
        put("master_key", secret(&self.master_key).as_deref().and_then(text));
        put("admin_email", text(&self.admin_email));
        put("admin_password", secret(&self.admin_password).as_deref().and_then(text));
        put("bootstrap_api_key", secret(&self.bootstrap_api_key).as_deref().and_then(text));
        put("log", text(&self.log));
        put("log_format", text(if self.log_json { "json" } else { "text" }));
        put("trusted_proxies", text(&self.trusted_proxies.join(",")));
        put("stale_after", number(self.stale_after.into()));
        put("lease_seconds", number(self.lease_seconds.into()));
        put("max_body_bytes", number(self.max_body_bytes as i64));
        put("rate_limit_per_key", number(self.rate_limit_per_key.into()));
        put("rate_limit_per_node", number(self.rate_limit_per_node.into()));
        put("rate_limit_per_address", number(self.rate_limit_per_address.into()));
        let path = |p: &Path| p.display().to_string();
        put("tls_cert", self.tls.as_ref().and_then(|t| text(&path(&t.0))));
        put("tls_key", self.tls.as_ref().and_then(|t| text(&path(&t.1))));
        put("client_ca", self.client_ca.as_deref().and_then(|p| text(&path(p))));
        put("probe_allow", text(&self.probe_allow.join(",")));
        put("audit_keep_days", self.audit_keep_days.and_then(|d| number(d.into())));
        put("metrics_listen", self.metrics_listen.map(|a| a.to_string()).as_deref().and_then(text));
        put("metrics_token", secret(&self.metrics_token).as_deref().and_then(text));
        put("compile_concurrency", number(self.compile_concurrency as i64));
        out
    }
}

/// `postgres://user:***@host/db`.
fn hide_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_string() };
    match rest.rsplit_once('@') {
        Some((who, host)) => match who.split_once(':') {
            Some((user, _)) => format!("{scheme}://{user}:***@{host}"),
            None => url.to_string(),
        },
        None => url.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    #[test]
    fn defaults_need_no_configuration() {
        let c = Written::default().resolve(&env(&[])).unwrap();
        assert_eq!(c.listen.to_string(), "127.0.0.1:4000");
        assert_eq!(c.database_url, "sqlite://./data/sentinel.db");
        assert_eq!(c.storage, Storage::Dir(PathBuf::from("./data/artifacts")));
    }

    #[test]
    fn a_file_gives_what_flags_leave_open_and_flags_win() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, "listen = \"127.0.0.1:1\"\nstale_after = 7\n").unwrap();
        let w = Written { config: Some(path), listen: Some("127.0.0.1:2".into()), ..Written::default() };
        let c = w.resolve(&env(&[])).unwrap();
        assert_eq!((c.listen.port(), c.stale_after), (2, 7));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let named = |w: Written, e: &[(&str, &str)]| w.resolve(&env(e)).err().unwrap().0;
        assert!(named(Written::default(), &[("SENTINEL_CP_LISTN", "x")]).contains("SENTINEL_CP_LISTN"));
        assert!(named(Written { listen: Some("x".into()), ..Default::default() }, &[]).contains("listen"));
        assert!(named(Written { storage: Some("ftp://x".into()), ..Default::default() }, &[]).contains("storage"));
        assert!(named(Written { tls_cert: Some("c.pem".into()), ..Default::default() }, &[]).contains("tls_key"));
        assert!(named(Written { client_ca: Some("c.pem".into()), ..Default::default() }, &[]).contains("client_ca"));
        assert!(named(Written { stale_after: Some(0), ..Default::default() }, &[]).contains("stale_after"));
        let pool = Written { database_pool_size: Some(1), ..Default::default() };
        assert!(named(pool, &[]).contains("database_pool_size"));
        let timeout = Written { database_timeout_seconds: Some(0), ..Default::default() };
        assert!(named(timeout, &[]).contains("database_timeout_seconds"));
        let pooler = Written { database_pooler: Some(true), ..Default::default() };
        assert!(named(pooler, &[]).contains("database_pooler"));
        let late = named(Written::default(), &[("SENTINEL_CP_VALIDATOR", "/usr/bin/zentinel")]);
        assert!(late.contains("SENTINEL_CP_VALIDATOR") && late.contains("not supported"), "{late}");
        let mode = "postgres://u:geheim@h/db?sslmode=verify".to_string();
        let mode = named(Written { database_url: Some(mode), ..Default::default() }, &[]);
        assert!(mode.contains("database_url") && mode.contains("sslmode") && !mode.contains("geheim"), "{mode}");
        let log = named(Written { log: Some("store=loud".into()), ..Default::default() }, &[]);
        assert!(log.starts_with("log: "), "{log}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        for (text, name) in [("lisen = 1\n", "lisen"), ("stale_after = \"x\"\n", "stale_after")] {
            std::fs::write(&path, text).unwrap();
            let why = named(Written { config: Some(path.clone()), ..Default::default() }, &[]);
            assert!(why.contains(name), "{why}");
        }
    }

    #[test]
    fn printing_hides_secrets() {
        let w = Written {
            admin_password: Some("hunter2".into()),
            master_key: Some("k".repeat(44)),
            database_url: Some("postgres://u:geheim@h/db".into()),
            ..Default::default()
        };
        let text = w.resolve(&env(&[])).unwrap().printed();
        assert!(!text.contains("hunter2") && !text.contains("kkk") && !text.contains("geheim"), "{text}");
        assert!(toml::from_str::<toml::Table>(&text).is_ok(), "{text}");
    }
}
