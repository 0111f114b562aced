//! Validation in a child process: hostile input can overflow a stack or eat memory, and neither unwinds.
//!
//! The parent ([`ChildValidator`]) never parses KDL. The child is this same program, started with a
//! hidden subcommand whose body is `run_child_main`. Both are blocking: call from a blocking thread.

use crate::limits;
use crate::source::Sources;
use crate::verdict::{Message, MessageKind, Verdict};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use thiserror::Error;

/// What the parent allows for a whole validation. 1,000 routes take 1 s in release, 4 s in debug.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of answer: the merged text (1 MiB, at worst six-fold as JSON), the config as JSON (about five
/// times the text) and messages.
pub const MAX_ANSWER_BYTES: u64 = 32 * 1024 * 1024;
/// Bytes of a child's stderr that are kept.
const MAX_STDERR_BYTES: u64 = 4 * 1024;
/// How often the parent looks for the end, the time-out and cancellation.
const POLL: Duration = Duration::from_millis(2);

/// Why there is no verdict. The config may be fine; try again or tell the operator of the server.
#[derive(Debug, Error)]
pub enum ValidatorError {
    #[error("the validator could not be started: {0}")]
    Start(std::io::Error),
    #[error("talking to the validator failed: {0}")]
    Io(std::io::Error),
    #[error("the validator gave an answer that is not one: {0}")]
    Answer(String),
    #[error("validation was cancelled")]
    Cancelled,
}

/// Starts a child per validation.
#[derive(Clone, Debug)]
pub struct ChildValidator {
    /// Usually `std::env::current_exe()`.
    pub exe: PathBuf,
    /// The hidden subcommand.
    pub args: Vec<String>,
    /// The child's whole environment: it inherits none, so that no secret of ours is within reach of a
    /// parser that reads foreign text.
    pub env: Vec<(String, String)>,
    pub timeout: Duration,
    /// Set from elsewhere to give up: the child is killed within milliseconds.
    pub cancel: Option<Arc<AtomicBool>>,
}

impl ChildValidator {
    pub fn new(exe: impl Into<PathBuf>, args: impl IntoIterator<Item = impl Into<String>>) -> ChildValidator {
        ChildValidator {
            exe: exe.into(),
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            timeout: DEFAULT_TIMEOUT,
            cancel: None,
        }
    }

    /// Blocks until there is a verdict, at most a little longer than `timeout`. A child that crashes or
    /// is stopped is a verdict too: the config is refused.
    pub fn validate(&self, sources: &Sources) -> Result<Verdict, ValidatorError> {
        // Cheap, and keeps what is too large out of the pipe.
        if let Err(errors) = sources.check() {
            let say = |e: &crate::source::SourceError| Message::new(MessageKind::Source, e.to_string());
            return Ok(Verdict::refused(errors.iter().map(say).collect()));
        }
        let input = serde_json::to_vec(sources).map_err(|e| ValidatorError::Answer(e.to_string()))?;
        let mut child = Command::new(&self.exe)
            .args(&self.args)
            .env_clear()
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(ValidatorError::Start)?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        // Writing and reading at once: neither pipe may fill up while we sit on the other.
        std::thread::scope(|scope| {
            let writer = scope.spawn(move || {
                if let Some(mut stdin) = stdin {
                    // A child that dies before it has read everything says so by its exit status.
                    let _ = stdin.write_all(&input);
                }
            });
            let out = scope.spawn(move || read_capped(stdout, MAX_ANSWER_BYTES));
            let err = scope.spawn(move || read_capped(stderr, MAX_STDERR_BYTES));
            let end = self.wait(&mut child);
            let _ = writer.join();
            let out = out.join().unwrap_or_else(|_| Ok((Vec::new(), false)));
            let err = err.join().unwrap_or_else(|_| Ok((Vec::new(), false)));
            let (answer, too_much) = out.map_err(ValidatorError::Io)?;
            let stderr = err.map(|(b, _)| String::from_utf8_lossy(&b).trim().to_string()).unwrap_or_default();
            match end? {
                End::TimedOut => Ok(stopped(&format!("it took longer than {} ms", self.timeout.as_millis()), &stderr)),
                _ if too_much => Ok(stopped("its answer was too long", &stderr)),
                End::Exited(status) => verdict_of(status, &answer, &stderr),
            }
        })
    }

    /// The child has ended, by itself or by us, when this returns.
    #[allow(clippy::disallowed_methods)] // runs on a blocking thread: a deadline on a real process, outside of any runtime
    fn wait(&self, child: &mut Child) -> Result<End, ValidatorError> {
        let started = Instant::now();
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return Ok(End::Exited(status)),
                Ok(None) => {}
                Err(e) => {
                    reap(child);
                    return Err(ValidatorError::Io(e));
                }
            }
            if self.cancel.as_ref().is_some_and(|c| c.load(Ordering::Relaxed)) {
                reap(child);
                return Err(ValidatorError::Cancelled);
            }
            if started.elapsed() >= self.timeout {
                reap(child);
                return Ok(End::TimedOut);
            }
            std::thread::sleep(POLL);
        }
    }
}

enum End {
    Exited(ExitStatus),
    TimedOut,
}

fn reap(child: &mut Child) {
    // It may have ended meanwhile; then there is nothing to kill, only to reap.
    let _ = child.kill();
    let _ = child.wait();
}

/// Reads up to `cap` bytes and then closes the pipe, which ends a child that goes on writing.
fn read_capped(pipe: Option<impl Read>, cap: u64) -> std::io::Result<(Vec<u8>, bool)> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(cap + 1).read_to_end(&mut bytes)?;
    }
    let too_much = bytes.len() as u64 > cap;
    Ok((bytes, too_much))
}

fn verdict_of(status: ExitStatus, answer: &[u8], stderr: &str) -> Result<Verdict, ValidatorError> {
    if let Some(signal) = status.signal() {
        return Ok(stopped(&limits::explain_signal(signal), stderr));
    }
    if !status.success() {
        return Ok(stopped(&format!("it ended with status {}", status.code().unwrap_or(-1)), stderr));
    }
    serde_json::from_slice(answer).map_err(|e| ValidatorError::Answer(e.to_string()))
}

fn stopped(why: &str, stderr: &str) -> Verdict {
    let mut text = format!("the validator was stopped: {why}");
    // The runtime says here what overflowed. One line is enough for a message.
    if let Some(line) = stderr.lines().find(|l| !l.trim().is_empty()) {
        text.push_str(&format!(" ({})", line.trim().chars().take(200).collect::<String>()));
    }
    Verdict::refused(vec![Message::new(MessageKind::Validator, text)])
}

/// Stack of the validating thread: 64 levels need well under 2 MB, even in debug builds; the rest is for
/// what the scan before parsing may have missed.
const STACK_BYTES: usize = 64 * 1024 * 1024;

/// The child's whole life: limits, sources from `stdin`, verdict to `stdout`. Returns the exit code.
/// Call it before anything else starts (threads, runtimes, logging to stdout).
pub fn run_child_main(stdin: impl Read, mut stdout: impl Write) -> i32 {
    if let Err(e) = limits::apply() {
        eprintln!("the limits could not be set: {e}");
        return 3;
    }
    // JSON may spell every byte as \u00XX: six times the text, and the names.
    let cap = 6 * (crate::source::MAX_CONFIG_BYTES as u64) + 1024 * 1024;
    let sources: Sources = match read_capped(Some(stdin), cap) {
        Ok((_, true)) => {
            eprintln!("the input is too long");
            return 2;
        }
        Ok((bytes, false)) => match serde_json::from_slice(&bytes) {
            Ok(sources) => sources,
            Err(e) => {
                eprintln!("the input is not a set of files: {e}");
                return 2;
            }
        },
        Err(e) => {
            eprintln!("the input cannot be read: {e}");
            return 2;
        }
    };
    let run = std::thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(move || serde_json::to_vec(&crate::validate::validate_in_process(&sources)));
    let answer = match run.map(|thread| thread.join()) {
        Ok(Ok(Ok(answer))) => answer,
        Ok(Ok(Err(e))) => {
            eprintln!("the verdict cannot be written: {e}");
            return 4;
        }
        // The panic message is on stderr already.
        Ok(Err(_)) => return 101,
        Err(e) => {
            eprintln!("no thread: {e}");
            return 4;
        }
    };
    match stdout.write_all(&answer).and_then(|()| stdout.flush()) {
        Ok(()) => 0,
        Err(_) => 5,
    }
}
