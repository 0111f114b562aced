//! The report of a rollout in Markdown: what it was, what happened when, what was read, who failed and why.

use super::event::Fact;
use super::explain::explain;
use super::failures::Group;
use super::replay::Replayed;
use crate::time::{Span, Timestamp};
use std::fmt::Write;

/// Nodes of a group that are named.
const MAX_NAMED: usize = 10;

/// What the report says beside what the log tells.
pub struct About<'a> {
    /// The bundle as people know it.
    pub bundle: &'a str,
    pub project: &'a str,
    pub groups: &'a [Group],
    /// The name of a node, if it is known.
    pub name: &'a dyn Fn(crate::id::NodeId) -> String,
}

pub fn report(r: &Replayed, about: &About<'_>) -> String {
    let mut out = String::new();
    // Writing to a text cannot fail.
    let _ = write(&mut out, r, about);
    out
}

fn write(out: &mut String, done: &Replayed, about: &About<'_>) -> std::fmt::Result {
    let r = &done.rollout;
    let (s, h, c) = (&r.spec, &r.head, &r.head.counts);
    let reason = explain(r);
    writeln!(out, "# Rollout of {} in {}\n", cell(about.bundle), cell(about.project))?;
    writeln!(out, "`{}`: **{}**. {}\n", r.id, h.phase, cell(&reason.text))?;
    writeln!(out, "| | |\n|---|---|")?;
    writeln!(out, "| strategy | {} in {} steps |", s.strategy, r.steps.len())?;
    writeln!(out, "| targets | {} planned, {} in all |", h.planned, c.total)?;
    let ended = [
        ("verified", c.verified),
        ("failed", c.failed),
        ("owed", c.owed),
        ("skipped", c.skipped),
        ("pending", c.pending),
        ("on their way", c.assigned),
        ("rolling back", c.rolling_back),
        ("rolled back", c.rolled_back),
        ("not restored", c.rollback_failed),
    ];
    let ended: Vec<String> = ended.iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{n} {what}")).collect();
    writeln!(out, "| nodes | {} |", if ended.is_empty() { "none".to_string() } else { ended.join(", ") })?;
    if let Some(started) = h.started_at {
        writeln!(out, "| started | {started} |")?;
        if let Some(end) = h.ended_at {
            writeln!(out, "| ended | {end}, after {} |", length(end.since(started)))?;
        }
    }
    writeln!(out, "| on failure | {}, {} tolerated |", s.on_failure, s.failure_threshold.down(h.planned, 0))?;
    writeln!(out, "| decisions | {} |\n", done.decisions)?;
    writeln!(out, "## Timeline\n\n| when | after | what | event |\n|---|---|---|---|")?;
    let first = done.timeline.first().map_or(Timestamp::ZERO, |m| m.at);
    for m in &done.timeline {
        writeln!(
            out,
            "| {} | {} | {} | {} ({}) |",
            m.at,
            length(m.at.since(first)),
            cell(&words(&m.fact)),
            m.seq,
            m.event
        )?;
    }
    writeln!(out, "\n## Readings\n")?;
    let looks: Vec<String> = done
        .timeline
        .iter()
        .filter_map(|m| match &m.fact {
            Fact::Analysed { look } => Some(format!("- step {}, {}", look.step + 1, look.describe())),
            _ => None,
        })
        .collect();
    writeln!(out, "{}", if looks.is_empty() { "No cohorts were compared.".to_string() } else { looks.join("\n") })?;
    writeln!(out, "\n## Failures\n")?;
    if about.groups.is_empty() {
        writeln!(out, "None.")?;
    }
    for g in about.groups {
        let mut names: Vec<String> = g.nodes.iter().map(|n| (about.name)(*n)).collect();
        names.sort();
        names.truncate(MAX_NAMED);
        if g.nodes.len() > MAX_NAMED {
            names.push(format!("and {} more", g.nodes.len() - MAX_NAMED));
        }
        writeln!(out, "- **{}** ({}): {}: {}", g.nodes.len(), g.reason, cell(&g.error), cell(&names.join(", ")))?;
        let versions: Vec<String> = g.versions.iter().map(|(v, n)| format!("{v} ({n})")).collect();
        writeln!(out, "  - versions: {}", cell(&versions.join(", ")))?;
    }
    Ok(())
}

/// In a table or a list, on one line, and never markup.
fn cell(text: &str) -> String {
    let one_line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    one_line.replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;").replace('`', "'")
}

fn length(span: Span) -> String {
    let s = span.as_secs();
    match (s / 3_600, s / 60 % 60, s % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

fn words(f: &Fact) -> String {
    let noted = |what: String, note: &Option<String>| match note {
        Some(n) => format!("{what}: {n}"),
        None => what,
    };
    match f {
        Fact::Started { targets, steps } => format!("started: {targets} targets in {steps} steps"),
        Fact::StepStarted { step, nodes } => format!("step {} started: {nodes} nodes", step + 1),
        Fact::StepCompleted { step } => format!("step {} completed", step + 1),
        Fact::StepFailed { step, error } => format!("step {} failed: {error}", step + 1),
        Fact::TrafficShifted { weight } => format!("standby half told to serve {weight} %"),
        Fact::Analysed { look } => format!("compared: {}", look.outcome),
        Fact::Paused { cause, note } => noted(format!("paused ({cause})"), note),
        Fact::Resumed => "resumed".to_string(),
        Fact::CauseCleared { cause } => format!("{cause} is over"),
        Fact::RollbackBegan { automatic: true, note } => noted("rollback, by itself".to_string(), note),
        Fact::RollbackBegan { automatic: false, note } => noted("rollback".to_string(), note),
        Fact::Retried { nodes } => format!("{nodes} nodes tried again"),
        Fact::Completed { owed: 0 } => "completed".to_string(),
        Fact::Completed { owed } => format!("completed; {owed} nodes are owed the bundle"),
        Fact::Failed { note } => format!("failed: {note}"),
        Fact::Cancelled => "cancelled".to_string(),
        Fact::RolledBack { unrestored: 0 } => "rolled back".to_string(),
        Fact::RolledBack { unrestored } => format!("rolled back; {unrestored} nodes were not restored"),
        Fact::LaneHalted => "the catch-up lane was halted by its failures".to_string(),
        Fact::NodeMoved { node, from, to, .. } => format!("{node}: {from} to {to}"),
    }
}
