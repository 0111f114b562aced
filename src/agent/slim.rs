//! Code that was needed once is given back: the start of the program and the verification of a bundle touch three times the pages
//! that a quiet agent uses, and all of them count as its memory.
//!
//! The one place with `unsafe` here: `madvise` has no safe form, in std or in any crate we have.
#![allow(unsafe_code)]

/// A stretch of this process's memory.
#[derive(Debug, PartialEq, Eq)]
struct Stretch {
    from: usize,
    to: usize,
}

/// Gives back the pages of this program's file that nobody wrote to. What is needed again is read again, from the page cache.
#[cfg(target_os = "linux")]
pub fn give_back_code() {
    let Ok(program) = std::fs::read_link("/proc/self/exe") else { return };
    let Ok(maps) = std::fs::read_to_string("/proc/self/smaps") else { return };
    for s in unwritten(&maps, &program.to_string_lossy()) {
        // SAFETY: the stretch is mapped from the program's own file, may not be written, and has no page that differs from the
        // file, so that dropping its pages changes nothing that can be read there; nobody unmaps the program.
        let refused = unsafe { libc::madvise(s.from as *mut libc::c_void, s.to - s.from, libc::MADV_DONTNEED) };
        if refused != 0 {
            tracing::debug!("madvise: {}", std::io::Error::last_os_error());
        }
    }
}

#[cfg(not(target_os = "linux"))]
pub fn give_back_code() {}

/// Mapped from `program`, not writable, and without a page of its own: code and constants, but not what the loader has relocated.
fn unwritten(smaps: &str, program: &str) -> Vec<Stretch> {
    let mut out = Vec::new();
    let mut current: Option<Stretch> = None;
    for line in smaps.lines() {
        if let Some((range, rest)) = line.split_once(' ').filter(|(r, _)| !r.ends_with(':')) {
            let is_ours =
                rest.get(..4).is_some_and(|p| p.starts_with("r-") && p.ends_with('p')) && rest.ends_with(program);
            let hex = |s: &str| usize::from_str_radix(s, 16).ok();
            current = range.split_once('-').filter(|_| is_ours).and_then(|(from, to)| {
                let (from, to) = (hex(from)?, hex(to)?);
                Some(Stretch { from, to })
            });
        } else if let Some(n) = line.strip_prefix("Anonymous:")
            && let Some(s) = current.take()
            && n.trim() == "0 kB"
        {
            out.push(s);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55d0-55e0 r--p 00000000 fe:01 1234                       /usr/bin/agent
Rss:                3528 kB
Anonymous:             0 kB
VmFlags: rd mr mw me
55e0-55f0 r-xp 009cb000 fe:01 1234                       /usr/bin/agent
Anonymous:             0 kB
55f0-5600 r--p 02ead000 fe:01 1234                       /usr/bin/agent
Anonymous:           952 kB
5600-5610 rw-p 02f9d000 fe:01 1234                       /usr/bin/agent
Anonymous:             0 kB
7f00-7f10 r-xp 00000000 fe:01 99                         /usr/lib/libc.so.6
Anonymous:             0 kB
7f20-7f30 rw-p 00000000 00:00 0 
Anonymous:             0 kB
";

    #[test]
    fn code_and_constants_are_found_and_nothing_that_was_or_may_be_written() {
        let found = unwritten(SMAPS, "/usr/bin/agent");
        assert_eq!(found, [Stretch { from: 0x55d0, to: 0x55e0 }, Stretch { from: 0x55e0, to: 0x55f0 }]);
    }

    #[test]
    fn this_very_program_works_on() {
        let before = std::fs::read_to_string("/proc/self/smaps").map(|s| s.len()).unwrap_or(0);
        give_back_code();
        assert!(std::fs::read_to_string("/proc/self/smaps").map(|s| s.len()).unwrap_or(0) > before / 2);
    }
}
