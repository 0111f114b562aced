//! Resource limits of the validator child, and what a signal says.
//!
//! The one place with `unsafe`: `setrlimit` has no safe form in std, and no crate we have wraps it.
#![allow(unsafe_code)]

/// Address space beyond what the process has mapped at its start: 1 MiB of input needs about 100 MB
/// three times over, and the thread's stack.
pub const MEMORY_BYTES: u64 = 1024 * 1024 * 1024;
/// CPU seconds: 1 MiB takes about 3 s in a debug build.
pub const CPU_SECONDS: u64 = 20;
/// Open files: the three pipes and some slack. Nothing is opened.
const OPEN_FILES: u64 = 16;

/// Applies the limits to this process. A limit that cannot be set is an error: better no validator
/// than an unbounded one.
pub fn apply() -> std::io::Result<()> {
    set(libc::RLIMIT_CORE, 0)?;
    set(libc::RLIMIT_FSIZE, 0)?;
    set(libc::RLIMIT_NOFILE, OPEN_FILES)?;
    set(libc::RLIMIT_CPU, CPU_SECONDS)?;
    set(libc::RLIMIT_AS, mapped_bytes().saturating_add(MEMORY_BYTES))
}

/// What this process has mapped already: an allocator may have reserved a gigabyte without using it.
fn mapped_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|s| s.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()))
        .unwrap_or(0);
    // Page size of every platform the proxy runs on but 16k/64k ARM kernels, where this is only stricter.
    pages.saturating_mul(4096)
}

#[cfg(target_os = "linux")]
type Resource = libc::__rlimit_resource_t;
#[cfg(not(target_os = "linux"))]
type Resource = libc::c_int;

fn set(resource: Resource, value: u64) -> std::io::Result<()> {
    let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `now` is a valid, writable rlimit for the whole call.
    if unsafe { libc::getrlimit(resource, &mut now) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // Never above what we were started with: raising needs privileges.
    let value = value.min(now.rlim_max);
    let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: `limit` is a valid rlimit for the whole call; the kernel only reads it.
    if unsafe { libc::setrlimit(resource, &limit) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

/// Why a child that died of `signal` probably died.
pub fn explain_signal(signal: i32) -> String {
    match signal {
        libc::SIGXCPU => format!("it used more than {CPU_SECONDS} seconds of CPU time"),
        libc::SIGABRT => "it aborted, which is what a stack overflow or lack of memory looks like".to_string(),
        libc::SIGSEGV | libc::SIGBUS => "it crashed with a memory fault".to_string(),
        libc::SIGKILL => "it was killed, possibly for lack of memory".to_string(),
        libc::SIGXFSZ => "it tried to write a file".to_string(),
        other => format!("signal {other}"),
    }
}
