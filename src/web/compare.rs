//! One comparison of two bundles by meaning, for scripts and for people.

use crate::app::App;
use crate::problem::{Outcome, Refusal};
use ::bundle::diff::{self, Change};
use ::bundle::risk::{self, Risk};
use actors::command::CommandResult;
use domain::ProjectId;
use domain::bundle::Bundle;
use serde_json::Value;

pub struct Compared {
    pub changes: Vec<Change>,
    /// There are more fields than are named.
    pub truncated: bool,
    /// Of going from the one to the other.
    pub risk: Risk,
    /// All of it as lines for people.
    pub text: String,
}

/// What a bundle is compared with when no other one is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Against {
    /// What most nodes run.
    Fleet,
    /// The compiled bundle before it.
    Parent,
}

impl Against {
    pub fn parse(s: &str) -> Option<Against> {
        match s {
            "fleet" => Some(Against::Fleet),
            "parent" => Some(Against::Parent),
            _ => None,
        }
    }

    /// Errors: `Conflict("nothing_to_compare")`.
    pub async fn bundle(self, app: &App, project: ProjectId, of: &Bundle) -> CommandResult<Bundle> {
        match self {
            Against::Fleet => app.plane.fleet_bundle(project).await,
            Against::Parent => app.plane.parent_bundle(project, of).await,
        }
    }
}

/// The normalised configuration. Errors: 409 before it is compiled.
fn config(b: &Bundle) -> Outcome<&Value> {
    b.config.as_ref().ok_or_else(|| Refusal::conflict("not_compiled", format!("bundle {} is {}", b.id, b.status)))
}

/// Errors: 409 when one of them was never compiled.
pub async fn compare(from: &Bundle, to: &Bundle) -> Outcome<Compared> {
    let (old, new) = (config(from)?.clone(), config(to)?.clone());
    let unknown = u32::try_from(to.warnings.len()).unwrap_or(u32::MAX);
    // 1,000 routes take tens of milliseconds.
    let compared = tokio::task::spawn_blocking(move || {
        let (changes, truncated) = diff::changes(&old, &new);
        (changes, truncated, risk::assess(Some(&old), &new, unknown))
    });
    let (changes, truncated, risk) = compared.await.map_err(|e| Refusal::internal(format!("diff: {e}")))?;
    let mut text = diff::text(&changes);
    text.push_str(&format!("risk: {}\n", risk.level));
    risk.reasons.iter().for_each(|why| text.push_str(&format!("    {why}\n")));
    risk.restart_reasons.iter().for_each(|why| text.push_str(&format!("    needs a restart of the proxy: {why}\n")));
    Ok(Compared { changes, truncated, risk, text })
}
