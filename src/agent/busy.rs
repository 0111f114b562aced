//! "Not now": a file of the operator's, read for every heartbeat. Written by `agent busy`, or by hand.

use crate::layout::Layout;
use domain::{Span, Timestamp};
use std::io;
use std::path::Path;

/// Until when the node asks to be left alone, if that is still to come. What cannot be read asks for nothing.
pub fn until(layout: &Layout, now: Timestamp) -> Option<Timestamp> {
    let text = std::fs::read_to_string(layout.busy_file()).ok()?;
    Timestamp::parse_rfc3339(text.trim()).filter(|t| *t > now)
}

/// For `minutes` from now; `None`: free again. Works beside a running agent.
/// Errors: no agent has run in `dir`, or the file cannot be written.
pub fn say(dir: &Path, minutes: Option<u32>, now: Timestamp) -> Result<(), String> {
    if !dir.is_dir() {
        return Err(format!("{}: no agent has run here", dir.display()));
    }
    let file = Layout::look(dir).busy_file();
    let done = match minutes {
        None => match std::fs::remove_file(&file) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            Ok(()) | Err(_) => Ok("free".to_string()),
        },
        Some(m) => {
            let until = (now + Span::secs(60 * i64::from(m))).to_rfc3339();
            // Whole at once: a heartbeat may read it meanwhile.
            let new = dir.join(".busy_until.new");
            let written = std::fs::write(&new, &until).and_then(|()| std::fs::rename(&new, &file));
            written.map(|()| {
                format!("busy until {until}, from the next heartbeat on, if the control plane grants that much")
            })
        }
    };
    println!("{}", done.map_err(|e| format!("{}: {e}", file.display()))?);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn it_is_said_for_a_while_and_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let (layout, now) = (Layout::look(dir.path()), Timestamp(1_800_000_000_000_000));
        assert_eq!(until(&layout, now), None);
        say(dir.path(), Some(5), now).unwrap();
        assert_eq!(until(&layout, now), Some(now + Span::secs(300)));
        assert_eq!(until(&layout, now + Span::secs(300)), None, "it is over");
        std::fs::write(layout.busy_file(), "tomorrow").unwrap();
        assert_eq!(until(&layout, now), None);
        say(dir.path(), None, now).unwrap();
        say(dir.path(), None, now).unwrap();
        assert!(!layout.busy_file().exists());
        assert!(say(&dir.path().join("nowhere"), None, now).unwrap_err().contains("no agent"));
    }
}
