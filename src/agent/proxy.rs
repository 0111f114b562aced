//! The proxy's process: started and watched as a child, or driven by signals where something else runs it.
//!
//! Invariant: a process is only ever signalled by its identity (number and start time), so never a stranger that got its number.

use crate::layout::Layout;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use std::fs::OpenOptions;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// 0.6.45 dies of a SIGHUP within 15 ms of exec: its handler is not there yet.
const SETTLE: Duration = Duration::from_secs(1);
/// How long requests may drain after SIGTERM before the process is killed.
const DRAIN: Duration = Duration::from_secs(10);
/// Stack of the proxy's threads: its KDL parser recurses. 32 MiB, of which only what is used becomes memory.
const MIN_STACK: &str = "33554432";
/// The proxy's log is emptied beyond this; it is opened for appending, so that loses nothing to come.
const MAX_LOG_BYTES: u64 = 16 << 20;
/// Longest tail that goes with a failed report (INTERFACE section 3: 64 KiB are kept).
const MAX_TAIL: u64 = 32 << 10;
/// What the proxy says when a reload did not take place, or only by half.
const FAILURE_LINES: [&str; 5] = [
    "Configuration reload failed",
    "Continuing with previous configuration",
    "Failed to compile route matcher",
    "Failed to reload scoped routes",
    "Failed to create upstream pool",
];

/// Which process, so that another with the same number is not mistaken for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ident {
    pub pid: i32,
    /// Clock ticks after boot.
    pub started: u64,
    /// Numbers start anew with each.
    pub boot: String,
}

impl Ident {
    /// `None`: no such process, or it has ended and only waits to be collected.
    pub fn of(pid: i32) -> Option<Ident> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
        if matches!(fields.next()?, "Z" | "X") {
            return None;
        }
        let started = fields.nth(18)?.parse().ok()?;
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Some(Ident { pid, started, boot: boot.trim().to_string() })
    }

    /// Of a number that was read from a file. `None` as well when it has become the number of another program: `comm` holds the
    /// first 15 bytes of a program's name.
    fn of_program(pid: i32, program: &Path) -> Option<Ident> {
        let comm = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
        let name = program.file_name()?.as_encoded_bytes();
        let same = comm.strip_suffix(b"\n").unwrap_or(&comm) == &name[..name.len().min(15)];
        if same { Ident::of(pid) } else { None }
    }

    pub fn is_alive(&self) -> bool {
        Ident::of(self.pid).as_ref() == Some(self)
    }

    /// Changes when the process does: what counters are counted from.
    pub fn epoch(&self) -> u64 {
        self.started
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        if !self.is_alive() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the proxy's process is gone"));
        }
        let pid = Pid::from_raw(self.pid).ok_or_else(|| io::Error::other("no process number"))?;
        kill_process(pid, signal).map_err(io::Error::from)
    }
}

/// Who runs the proxy.
#[derive(Clone, Debug)]
pub enum Mode {
    /// We do. The process outlives us: a killed agent finds it again by `proxy.json`.
    Supervise,
    /// A service manager does; it restarts the proxy when told by this command (run by `sh -c`).
    PidFile { path: PathBuf, restart: Option<String> },
}

pub struct Proxy {
    mode: Mode,
    bin: PathBuf,
    /// The log to look for failures in; ours when we supervise.
    log: Option<PathBuf>,
    child: Option<Child>,
    ident: Option<Ident>,
    /// When it was started or first seen.
    since: Option<Instant>,
}

impl Proxy {
    /// Finds a proxy that an earlier agent has left running.
    pub fn new(layout: &Layout, mode: Mode, bin: PathBuf, log: Option<PathBuf>) -> Proxy {
        let found = match &mode {
            Mode::Supervise => layout.read::<Ident>(&layout.process_file()).ok().flatten().filter(Ident::is_alive),
            Mode::PidFile { .. } => None,
        };
        let log = match &mode {
            Mode::Supervise => Some(layout.proxy_log()),
            Mode::PidFile { .. } => log,
        };
        if let Some(f) = &found {
            tracing::info!(pid = f.pid, "took over the running proxy");
        }
        Proxy { mode, bin, log, child: None, ident: found, since: None }
    }

    pub fn is_supervised(&self) -> bool {
        matches!(self.mode, Mode::Supervise)
    }

    /// The process that runs now. Collects one that has ended.
    pub fn alive(&mut self) -> Option<Ident> {
        if let Some(child) = &mut self.child
            && !matches!(child.try_wait(), Ok(None))
        {
            self.child = None;
        }
        if let Mode::PidFile { path, .. } = &self.mode {
            let pid = std::fs::read_to_string(path).ok().and_then(|t| t.trim().parse().ok());
            let seen = pid.and_then(|pid| Ident::of_program(pid, &self.bin));
            if seen != self.ident {
                self.since = Some(Instant::now());
                self.ident = seen;
            }
        } else if self.ident.as_ref().is_some_and(|i| !i.is_alive()) {
            self.ident = None;
        }
        self.ident.clone()
    }

    /// Starts it, or says why it cannot.
    pub async fn start(&mut self, layout: &Layout) -> Result<(), String> {
        match &self.mode {
            Mode::PidFile { restart: Some(command), .. } => {
                let command = command.clone();
                self.run_restart(&command).await
            }
            Mode::PidFile { .. } => Err("the proxy must be restarted, and no --restart-command says how".into()),
            Mode::Supervise => self.spawn(layout).map_err(|e| format!("{}: {e}", self.bin.display())),
        }
    }

    fn program(&self) -> Command {
        let mut c = plain_command(&self.bin);
        c.env("RUST_MIN_STACK", MIN_STACK);
        c
    }

    fn spawn(&mut self, layout: &Layout) -> io::Result<()> {
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(layout.proxy_log())?;
        let mut child = self
            .program()
            .arg("run")
            .arg("-c")
            .arg(layout.proxy_config())
            .current_dir(layout.root())
            // Not a pipe: it would break with us and take the proxy along.
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Its own group: Ctrl-C in the agent's terminal is for the agent.
            .process_group(0)
            .spawn()?;
        let pid = child.id().and_then(|p| i32::try_from(p).ok()).ok_or_else(|| io::Error::other("it ended at once"))?;
        let Some(ident) = Ident::of(pid) else {
            let _ = child.try_wait();
            return Err(io::Error::other("it ended at once"));
        };
        // Should we die before this is written, the next agent finds the ports taken: it then says so and goes on trying.
        let bytes = serde_json::to_vec(&ident).map_err(io::Error::other)?;
        if let Err(e) = layout.write(&layout.process_file(), &bytes) {
            tracing::warn!("proxy.json: {e}");
        }
        tracing::info!(pid, "the proxy was started");
        self.child = Some(child);
        self.ident = Some(ident);
        self.since = Some(Instant::now());
        Ok(())
    }

    async fn run_restart(&mut self, command: &str) -> Result<(), String> {
        let run = plain_command("sh").args(["-c", command]).stdin(Stdio::null()).kill_on_drop(true).output();
        match tokio::time::timeout(Duration::from_secs(60), run).await {
            Err(_) => Err(format!("`{command}` did not end within a minute")),
            Ok(Err(e)) => Err(format!("`{command}`: {e}")),
            Ok(Ok(o)) if o.status.success() => Ok(()),
            Ok(Ok(o)) => Err(format!("`{command}`: {}: {}", o.status, String::from_utf8_lossy(&o.stderr).trim())),
        }
    }

    /// SIGTERM, then SIGKILL when it does not go. Returns when it is gone.
    pub async fn stop(&mut self) {
        let Some(ident) = self.alive() else { return };
        let _ = ident.signal(Signal::TERM);
        let begun = Instant::now();
        let mut killed = false;
        while self.alive().as_ref() == Some(&ident) {
            if !killed && begun.elapsed() > DRAIN {
                tracing::warn!(pid = ident.pid, "the proxy did not end in time and is killed");
                let _ = ident.signal(Signal::KILL);
                killed = true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn restart(&mut self, layout: &Layout) -> Result<(), String> {
        if self.is_supervised() {
            self.stop().await;
        }
        self.start(layout).await
    }

    /// Makes it read its configuration again; starts it when it does not run.
    pub async fn reload(&mut self, layout: &Layout) -> Result<(), String> {
        let Some(ident) = self.alive() else { return self.start(layout).await };
        if let Some(since) = self.since {
            tokio::time::sleep_until(since + SETTLE).await;
        }
        ident.signal(Signal::HUP).map_err(|e| format!("SIGHUP: {e}"))
    }

    /// Where the log ends now. 0 when there is none.
    pub fn log_position(&self) -> u64 {
        let path = self.log.as_deref();
        path.and_then(|p| std::fs::metadata(p).ok()).map_or(0, |m| m.len())
    }

    /// A line behind `from` that says the configuration was not taken up.
    pub fn failure_since(&self, from: u64) -> Option<String> {
        let text = read_from(self.log.as_deref()?, from, MAX_TAIL).ok()?;
        text.lines().find(|l| FAILURE_LINES.iter().any(|f| l.contains(f))).map(|l| shorten(&plain(l), 500))
    }

    /// Empties the log of a supervised proxy when it has grown too long, also while the proxy runs. Another's log is not ours to empty.
    pub fn bound_log(&self) -> io::Result<()> {
        let Some(path) = self.log.as_deref().filter(|_| self.is_supervised()) else { return Ok(()) };
        match std::fs::metadata(path) {
            Ok(log) if log.len() > MAX_LOG_BYTES => OpenOptions::new().write(true).open(path)?.set_len(0),
            Ok(_) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// The end of what it logged behind `from`.
    pub fn tail_since(&self, from: u64) -> Option<String> {
        let path = self.log.as_deref()?;
        let end = self.log_position();
        read_from(path, from.max(end.saturating_sub(MAX_TAIL)), MAX_TAIL)
            .ok()
            .map(|t| plain(&t))
            .filter(|t| !t.is_empty())
    }

    /// Its answer to `zentinel test` on a file: `Err` with the reason.
    pub async fn test(&self, config: &Path) -> Result<(), String> {
        let run = self.program().arg("test").arg("-c").arg(config).stdin(Stdio::null()).kill_on_drop(true).output();
        let said = match tokio::time::timeout(Duration::from_secs(30), run).await {
            Err(_) => return Err("`zentinel test` did not end within 30 s".into()),
            Ok(Err(e)) => return Err(format!("{}: {e}", self.bin.display())),
            Ok(Ok(o)) if o.status.success() => return Ok(()),
            Ok(Ok(o)) => o,
        };
        let text = format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        Err(format!("`zentinel test`: {}: {}", said.status, shorten(plain(&text).trim(), 2_000)))
    }

    /// The second word of `zentinel --version`.
    pub async fn version(&self) -> Option<String> {
        let run = self.program().arg("--version").stdin(Stdio::null()).kill_on_drop(true).output();
        let out = tokio::time::timeout(Duration::from_secs(5), run).await.ok()?.ok()?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        text.split_whitespace().nth(1).map(|v| shorten(v, 50))
    }
}

/// Without the settings that are meant for our own heap.
fn plain_command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut c = Command::new(program);
    for (name, _) in crate::SMALL_HEAP {
        c.env_remove(name);
    }
    c
}

fn read_from(path: &Path, from: u64, most: u64) -> io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    // Shorter than it was: it was emptied in between.
    let from = if file.metadata()?.len() < from { 0 } else { from };
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Without the colours that the proxy logs with.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\u{1b}') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        rest = rest.find(|c: char| c.is_ascii_alphabetic()).map_or("", |end| &rest[end + 1..]);
    }
    out + rest
}

pub fn shorten(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_identity_is_of_one_process_only() {
        let me = Ident::of(std::process::id() as i32).unwrap();
        assert!(me.is_alive());
        let other = Ident { started: me.started + 1, ..me.clone() };
        assert!(!other.is_alive() && other.signal(Signal::TERM).is_err());
        assert!(Ident::of(i32::MAX).is_none());
    }

    #[test]
    fn the_log_of_a_supervised_proxy_is_emptied_when_it_is_too_long_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path(), crate::owner::Sharing::default()).unwrap();
        let log = layout.proxy_log();
        let ours = Proxy::new(&layout, Mode::Supervise, "/bin/false".into(), None);
        let mode = Mode::PidFile { path: dir.path().join("pid"), restart: None };
        let other = Proxy::new(&layout, mode, "/bin/false".into(), Some(log.clone()));
        let len = || std::fs::metadata(&log).unwrap().len();
        ours.bound_log().unwrap();
        std::fs::File::create(&log).unwrap().set_len(MAX_LOG_BYTES).unwrap();
        ours.bound_log().unwrap();
        assert_eq!(len(), MAX_LOG_BYTES);
        OpenOptions::new().write(true).open(&log).unwrap().set_len(MAX_LOG_BYTES + 1).unwrap();
        other.bound_log().unwrap();
        assert_eq!(len(), MAX_LOG_BYTES + 1, "a service manager's");
        ours.bound_log().unwrap();
        assert_eq!(len(), 0);
    }

    #[test]
    fn a_refused_reload_is_read_from_the_log_behind_the_mark() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path(), crate::owner::Sharing::default()).unwrap();
        let log = layout.proxy_log();
        std::fs::write(&log, "Configuration reload failed: old story\n").unwrap();
        let p = Proxy::new(&layout, Mode::Supervise, "/bin/false".into(), None);
        let mark = p.log_position();
        assert_eq!(p.failure_since(mark), None);
        std::fs::write(&log, "x\n\u{1b}[31mERROR\u{1b}[0m Failed to compile route matcher: y\n".repeat(3)).unwrap();
        assert_eq!(p.failure_since(mark).as_deref(), Some("ERROR Failed to compile route matcher: y"));
    }
}
