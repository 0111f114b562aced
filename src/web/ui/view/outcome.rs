//! What comes next for a rollout, and what went wrong on its way, in words for the person who must decide.

use super::parts::*;
use domain::node::HistoryEntry;
use domain::project::Amount;
use domain::rollout::{Head, OnFailure, PauseCause, Phase, Spec};
use domain::{NodeId, Timestamp};
use maud::{Markup, html};

/// A node that the bundle failed on.
#[derive(Clone, Debug)]
pub struct Failure {
    pub node: NodeId,
    pub name: String,
    pub at: Timestamp,
    pub why: String,
}

impl Failure {
    pub fn of(name: String, h: HistoryEntry) -> Failure {
        Failure { node: h.node, name, at: h.at, why: h.detail.unwrap_or_default() }
    }
}

/// What happens by itself from here, or what a person can do. `None`: it is over, and nothing is open.
pub fn next(spec: &Spec, h: &Head, steps: u32) -> Option<String> {
    Some(match h.phase {
        Phase::Pending if spec.start => "Its steps are planned when it begins, with the nodes that match then.".into(),
        Phase::Pending => "Start begins it; its steps are planned then, with the nodes that match.".into(),
        Phase::Running if !h.waits.is_empty() => "It goes on by itself when that is over.".into(),
        Phase::Running if h.step >= steps => "When they have verified, the rollout is complete.".into(),
        Phase::Running => {
            let then = match h.step + 1 < steps {
                true => format!("step {} begins", h.step + 2),
                false => "the rollout is complete".to_string(),
            };
            format!("When all nodes of this step have verified, {then}. {}", on_failure(spec))
        }
        Phase::Paused if h.failures > 0 || h.causes.contains(&PauseCause::Gate) => {
            "Nothing new is assigned; nodes that have the bundle keep it. Retry gives the failed nodes another attempt, going on \
             without them leaves them as they are, rolling back takes every touched node to what it ran before."
                .into()
        }
        Phase::Paused => {
            "Nothing new is assigned; nodes that have the bundle keep it. Resume goes on where it stands, rolling back takes \
             every touched node to what it ran before."
                .into()
        }
        Phase::RollingBack => {
            "Each touched node goes back to its own last verified bundle; those that are away do when they return.".into()
        }
        Phase::Failed => "Nodes that have the bundle keep it until they are rolled back or given a new attempt.".into(),
        Phase::Cancelled if h.counts.verified > 0 => "Nodes that have the bundle keep it.".into(),
        Phase::Completed if h.counts.owed > 0 => {
            "Nodes that were away get the bundle when they return, under the same gates.".into()
        }
        Phase::RolledBack if h.auto_rollback => {
            "This bundle is not rolled out again unless a new rollout says so. Mend the configuration, compile it, and roll that out."
                .into()
        }
        Phase::Completed | Phase::Cancelled | Phase::RolledBack => return None,
    })
}

fn on_failure(spec: &Spec) -> String {
    let then = match spec.on_failure {
        OnFailure::Pause => "it pauses",
        OnFailure::Fail => "it fails",
        OnFailure::Rollback => "it rolls back",
    };
    match spec.failure_threshold {
        Amount::Count(0) => format!("If one fails, {then}."),
        Amount::Count(n) => format!("If more than {n} fail, {then}."),
        Amount::Percent(p) => format!("If more than {p} % of all targets fail, {then}."),
    }
}

/// Which nodes it failed on, and what they said. Nothing without a failure.
pub fn failures(now: Timestamp, slug: &str, all: &[Failure]) -> Markup {
    html! {
        @if !all.is_empty() {
            section #failures .alert.bad aria-labelledby="h-failures" {
                h2 #h-failures { "What failed" }
                ul .lines {
                    @for f in all {
                        li {
                            a href={ "/projects/" (query(slug)) "/nodes/" (f.node) } { b { (f.name) } }
                            " " span .muted { (when(f.at, now)) }
                            p .message.wrap { @if f.why.is_empty() { "It gave no reason." } @else { (text(&f.why)) } }
                        }
                    }
                }
            }
        }
    }
}
