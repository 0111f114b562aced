//! `agent status`: what runs, since when, why. Reads the state directory beside a running agent, and asks nobody.

use crate::layout::Layout;
use crate::proxy::Ident;
use crate::stage::About;
use crate::state::{Identity, State};
use serde_json::{Value, json};
use std::path::Path;

/// Errors: no state there, or it cannot be read.
pub fn print(dir: &Path, as_json: bool) -> Result<(), String> {
    let facts = facts(dir)?;
    if as_json {
        println!("{facts:#}");
        return Ok(());
    }
    for key in [
        "node",
        "project",
        "active",
        "version",
        "since",
        "why",
        "generation",
        "proxy",
        "previous",
        "in_progress",
        "failed",
        "owed",
        "busy_until",
        "assignment_expires",
    ] {
        let text = match &facts[key] {
            Value::Null => continue,
            Value::String(s) => s.clone(),
            other => other.to_string(),
        };
        println!("{:<20}{text}", format!("{}:", key.replace('_', " ")));
    }
    Ok(())
}

fn facts(dir: &Path) -> Result<Value, String> {
    let layout = Layout::look(dir);
    let at = |e: std::io::Error| format!("{}: {e}", dir.display());
    if !dir.is_dir() {
        return Err(format!("{}: no agent has run here", dir.display()));
    }
    let state = State::load(&layout).map_err(at)?;
    let identity: Option<Identity> = layout.read(&layout.identity_file()).map_err(at)?;
    let process: Option<Ident> = layout.read(&layout.process_file()).map_err(at)?;
    let about = About::read(&layout, state.active);
    let proxy = match process {
        Some(p) if p.is_alive() => format!("running, process {}", p.pid),
        Some(_) => "not running".to_string(),
        None => "not run by this agent".to_string(),
    };
    let last = state.trust.as_ref().and_then(|t| t.last.as_ref());
    Ok(json!({
        "node": identity.as_ref().map(|i| format!("{} ({})", i.name, i.node_id)),
        "project": identity.map(|i| i.project),
        "active": state.active,
        "version": about.and_then(|a| a.version),
        "since": state.since,
        "why": state.why,
        "generation": state.generation,
        "previous": state.previous,
        "in_progress": state.intent.map(|i| format!("to {} since {}", i.target, i.began)),
        "failed": state.failed.map(|f| format!("generation {}, {}: {}", f.generation, f.release, f.why)),
        "owed": state.owed.map(|o| format!("the report on generation {} is not delivered yet", o.generation)),
        "assignment_expires": last.map(|a| a.expires_at),
        "busy_until": crate::busy::until(&layout, crate::node::now()),
        "proxy": proxy,
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_status_of_a_fresh_directory_says_so_and_of_none_fails() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path(), crate::owner::Sharing::default()).unwrap();
        State::default().save(&layout).unwrap();
        let f = facts(dir.path()).unwrap();
        assert_eq!((f["active"].as_str(), f["why"].as_str()), (Some("baseline"), Some("nothing was assigned yet")));
        assert!(facts(&dir.path().join("nowhere")).unwrap_err().contains("no agent"));
    }
}
