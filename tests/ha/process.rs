//! One `sentinel-cp` process among several: started, killed, frozen, cut off, asked to go.

use super::proxy::Proxy;
use crate::harness::{Client, KEY, eventually};
use crate::kill9::free_port;
use bytes::Bytes;
use sim::dice::Dice;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::time::Instant;

/// 32 bytes, base64: all instances on one database share it.
const MASTER_KEY: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

/// Seconds, as it is without the setting.
pub const DEFAULT_LEASE: u32 = 3;

pub fn signal(pid: u32, signal: i32) {
    #[allow(unsafe_code)] // a signal to a process that we started
    let sent = unsafe { libc::kill(pid as i32, signal) };
    assert_eq!(sent, 0, "signal {signal} to {pid}");
}

/// What all processes of one control plane have in common.
#[derive(Clone)]
pub struct Plan {
    /// How PostgreSQL is reached; `{host}` is filled in by whatever lies between.
    pub database_port: u16,
    pub storage: String,
    pub dir: PathBuf,
    /// Seconds.
    pub lease: u32,
    pub stale_after: u32,
    pub more: Vec<String>,
    pub secrets: Vec<(&'static str, String)>,
}

impl Plan {
    pub fn new(database_port: u16, dir: &Path) -> Plan {
        let storage = format!("file://{}", dir.join("artifacts").display());
        Plan {
            database_port,
            storage,
            dir: dir.into(),
            lease: DEFAULT_LEASE,
            stale_after: 120,
            more: Vec::new(),
            secrets: Vec::new(),
        }
    }
}

/// What is between a process and everybody else.
pub enum Wire {
    /// Nothing.
    Direct,
    /// A network of its own (iproute2 and root): a cut cuts nodes and database alike.
    Namespace(Namespace),
    /// A proxy before the database; nodes reach it all the same.
    Proxy(Proxy),
}

pub struct Process {
    child: Option<Child>,
    pub name: String,
    pub url: String,
    port: u16,
    plan: Plan,
    wire: Wire,
    database: Option<String>,
}

impl Process {
    /// Returns when it is ready. It listens on a port that stays its own over restarts.
    pub async fn start(name: &str, plan: &Plan, wire: Wire, dice: &mut Dice) -> Process {
        let mut p = Process::not_started(name, plan, wire, None, dice);
        p.up().await;
        p
    }

    /// On another database URL than the wire's own.
    pub async fn start_on(name: &str, plan: &Plan, database: &str, dice: &mut Dice) -> Process {
        let mut p = Process::not_started(name, plan, Wire::Direct, Some(database.to_string()), dice);
        p.up().await;
        p
    }

    fn not_started(name: &str, plan: &Plan, wire: Wire, database: Option<String>, dice: &mut Dice) -> Process {
        let port = free_port(dice);
        let host = match &wire {
            Wire::Direct | Wire::Proxy(_) => "127.0.0.1".to_string(),
            Wire::Namespace(n) => n.inside.clone(),
        };
        let url = format!("http://{host}:{port}");
        Process { child: None, name: name.into(), url, port, plan: plan.clone(), wire, database }
    }

    fn database_url(&self) -> String {
        let (host, port) = match &self.wire {
            Wire::Direct => ("127.0.0.1", self.plan.database_port),
            Wire::Namespace(n) => (n.outside.as_str(), self.plan.database_port),
            Wire::Proxy(p) => ("127.0.0.1", p.port),
        };
        self.database.clone().unwrap_or_else(|| format!("postgres://postgres@{host}:{port}/postgres"))
    }

    /// Where the nodes of another one look for it, which ends.
    pub fn take_address_of(&mut self, other: Process) {
        (self.url, self.port) = (other.url.clone(), other.port);
    }

    /// The program with its settings; not waited for.
    pub fn command(&self) -> Command {
        let program = env!("CARGO_BIN_EXE_sentinel-cp");
        let mut c = match &self.wire {
            Wire::Direct | Wire::Proxy(_) => Command::new(program),
            Wire::Namespace(n) => {
                let mut c = Command::new("ip");
                c.args(["netns", "exec", &n.name, program]);
                c
            }
        };
        let host = self.url.strip_prefix("http://").unwrap().rsplit_once(':').unwrap().0;
        c.args(["serve", "--rate-limit-per-key", "1000000", "--log", "info", "--log-format", "text"])
            .args(["--listen", &format!("{host}:{}", self.port)])
            .args(["--lease-seconds", &self.plan.lease.to_string()])
            .args(["--stale-after", &self.plan.stale_after.to_string()])
            .args(["--storage", &self.plan.storage])
            .arg("--data-dir")
            .arg(self.plan.dir.join(&self.name))
            .args(&self.plan.more)
            .envs(self.plan.secrets.iter().cloned())
            .env("SENTINEL_CP_DATABASE_URL", self.database_url())
            .env("SENTINEL_CP_MASTER_KEY", MASTER_KEY)
            .env("SENTINEL_CP_BOOTSTRAP_API_KEY", KEY)
            .env("SENTINEL_CP_ADMIN_PASSWORD", "correct horse battery staple")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        c
    }

    fn log_path(&self) -> PathBuf {
        self.plan.dir.join(format!("{}.log", self.name))
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub fn spawn(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_path()).unwrap();
        self.child = Some(self.command().stderr(log).spawn().unwrap());
    }

    pub async fn up(&mut self) {
        self.spawn();
        self.ready().await;
    }

    pub async fn ready(&mut self) {
        let http = Client::new(&self.url, None);
        let name = self.name.clone();
        eventually(&format!("{name} is ready"), async || {
            let ended = self.child.as_mut().and_then(|c| c.try_wait().unwrap());
            assert!(ended.is_none(), "{name} ended instead: {ended:?}\n{}", tail(&self.log()));
            let answer = http.try_raw("GET", "/ready", &[], Bytes::new()).await;
            answer.is_ok_and(|a| a.status == 200).then_some(())
        })
        .await;
    }

    /// Of the process itself: with `ip netns exec`, which becomes it.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|c| c.try_wait().unwrap().is_none())
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub fn freeze(&self) {
        signal(self.pid(), libc::SIGSTOP);
    }
    pub fn thaw(&self) {
        signal(self.pid(), libc::SIGCONT);
    }

    pub fn cut(&self) {
        match &self.wire {
            Wire::Namespace(n) => n.cut(),
            Wire::Proxy(p) => p.cut(),
            Wire::Direct => panic!("{} cannot be cut off", self.name),
        }
    }
    pub fn mend(&self) {
        match &self.wire {
            Wire::Namespace(n) => n.mend(),
            Wire::Proxy(p) => p.mend(),
            Wire::Direct => {}
        }
    }

    /// SIGTERM; its exit, and how long that took in seconds.
    pub async fn terminate(&mut self) -> (ExitStatus, f64) {
        signal(self.pid(), libc::SIGTERM);
        self.ended().await
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) -> (ExitStatus, f64) {
        let begun = Instant::now();
        let status =
            eventually("the process has ended", async || self.child.as_mut().and_then(|c| c.try_wait().unwrap())).await;
        self.child = None;
        (status, begun.elapsed().as_secs_f64())
    }
}

pub fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            println!("the end of the log of {}:\n{}", self.name, tail(&self.log()));
        }
    }
}

/// A network namespace and the pair of interfaces between it and us.
pub struct Namespace {
    name: String,
    device: String,
    /// Our address, and the address in it.
    outside: String,
    inside: String,
}

/// A hardware address that no interface has.
const NOBODYS: &str = "02:00:00:00:00:01";

static NETWORKS: AtomicU32 = AtomicU32::new(0);

fn ip(args: &str) -> Result<(), String> {
    let out = Command::new("ip").args(args.split(' ')).output().map_err(|e| format!("ip: {e}"))?;
    match out.status.success() {
        true => Ok(()),
        false => Err(format!("ip {args}: {}", String::from_utf8_lossy(&out.stderr).trim())),
    }
}

impl Namespace {
    /// Errors: iproute2 is not installed, or we are not root.
    pub fn new() -> Result<Namespace, String> {
        // Numbers by our process, so that two runs at once do not meet: 16,384 networks of four addresses in 10.77/16.
        let n = (std::process::id().wrapping_mul(7) + NETWORKS.fetch_add(1, Ordering::Relaxed)) % 16_384;
        let (name, device) = (format!("scp{n}"), format!("scp{n}o"));
        let at = |host: u32| format!("10.77.{}.{}", n * 4 / 256, n * 4 % 256 + host);
        let made = Namespace { outside: at(1), inside: at(2), name, device };
        let Namespace { name, device, outside, inside } = &made;
        ip(&format!("netns add {name}"))?;
        ip(&format!("link add {device} type veth peer name {device}i netns {name}"))?;
        ip(&format!("addr add {outside}/30 dev {device}"))?;
        ip(&format!("link set {device} up"))?;
        ip(&format!("-n {name} addr add {inside}/30 dev {device}i"))?;
        ip(&format!("-n {name} link set {device}i up"))?;
        ip(&format!("-n {name} link set lo up"))?;
        Ok(made)
    }

    /// What is sent to the other end goes to nobody, silently, both ways. The link stays up: without it our packets would leave by the
    /// default route, and somebody else might answer.
    fn cut(&self) {
        let Namespace { name, device, outside, inside } = self;
        ip(&format!("neigh replace {inside} lladdr {NOBODYS} dev {device} nud permanent")).unwrap();
        ip(&format!("-n {name} neigh replace {outside} lladdr {NOBODYS} dev {device}i nud permanent")).unwrap();
    }

    /// The other end is asked for its address again.
    fn mend(&self) {
        let Namespace { name, device, outside, inside } = self;
        ip(&format!("neigh del {inside} dev {device}")).unwrap();
        ip(&format!("-n {name} neigh del {outside} dev {device}i")).unwrap();
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = ip(&format!("link del {}", self.device));
        let _ = ip(&format!("netns del {}", self.name));
    }
}
