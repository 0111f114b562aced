//! One rollout, live: how far it is, why it stands where it stands, and what can be done about it.

use super::approvals::{self, ApprovalsView};
use super::outcome::{Failure, failures, next};
use super::parts::*;
use super::{Frame, Tab, document};
use domain::node::Selector;
use domain::project::Amount;
use domain::rollout::{Head, NodeStateKind, OnFailure, PauseCause, Phase, Spec, Step, StepState, allowed_commands};
use domain::{NodeId, RolloutId, Timestamp};
use maud::{Markup, html};

/// Steps shown around the present one; a rollout can have thousands.
const STEPS_SHOWN: usize = 8;
/// Steps shown when all are asked for.
const STEPS_ALL: usize = 1_000;

#[derive(Clone, Debug)]
pub struct RolloutView {
    pub slug: String,
    pub id: RolloutId,
    pub spec: Spec,
    pub head: Head,
    pub steps: Vec<Step>,
    pub reason_code: String,
    pub reason: String,
    pub names: BundleNames,
    pub created_by: String,
    pub inserted_at: Timestamp,
    /// The path of this page, without its query.
    pub path: String,
    pub all_steps: bool,
    /// Newest first, a few of them.
    pub failures: Vec<Failure>,
    /// Where people have a say.
    pub approvals: Option<ApprovalsView>,
}

#[derive(Clone, Debug, Default)]
pub struct MembersView {
    pub slug: String,
    pub rows: Vec<MemberRow>,
    pub total: i64,
    pub state: String,
    pub step: String,
    pub next: Option<String>,
    pub first: Option<String>,
    /// Path and query of this page.
    pub src: String,
    pub path: String,
    pub id: String,
    pub version: u64,
}

#[derive(Clone, Debug)]
pub struct MemberRow {
    pub node: NodeId,
    pub name: String,
    pub step: Option<u32>,
    pub state: NodeStateKind,
    pub detail: String,
    pub attempt: u32,
    pub online: bool,
    pub health: &'static str,
    pub updated_at: Timestamp,
}

#[derive(Clone, Debug, Default)]
pub struct TimelineView {
    pub slug: String,
    pub lines: Vec<TimelineLine>,
    /// What has no place here.
    pub more: i64,
    pub path: String,
    pub id: String,
    pub version: u64,
}

#[derive(Clone, Debug)]
pub struct TimelineLine {
    pub at: Timestamp,
    pub action: String,
    pub actor: String,
    pub detail: String,
}

pub fn page(frame: &Frame, view: &RolloutView, members: &MembersView, timeline: &TimelineView) -> Markup {
    let base = format!("/projects/{}/rollouts", query(&view.slug));
    let body = html! {
        nav .crumbs aria-label="Breadcrumb" { a href=(base) { "Rollouts" } }
        h1 { "Rollout of " a .quiet href={ "/projects/" (query(&view.slug)) "/bundles/" (view.spec.bundle) } { (view.names.text(view.spec.bundle)) } }
        (progress(frame, view))
        @if let Some(a) = &view.approvals { (approvals::section(frame, &view.path, a)) }
        div .columns.wide {
            (nodes(frame, members))
            div {
                (history(frame, timeline))
                (settings(frame, view))
            }
        }
    };
    document(&Frame { tab: Tab::Rollouts, ..frame.clone() }, "Rollout", &body)
}

/// The region that people look at: state, reason, bar, commands, steps.
pub fn progress(frame: &Frame, view: &RolloutView) -> Markup {
    let h = &view.head;
    let l = Live {
        name: "progress",
        kinds: "rollout",
        id: Some(view.id.to_string()),
        version: h.version,
        src: &if view.all_steps { format!("{}?steps=all", view.path) } else { view.path.clone() },
        every_ms: LIVE_ONE_MS,
    };
    let tone = match h.phase {
        Phase::Failed => "reason-box bad",
        Phase::Paused | Phase::RollingBack => "reason-box warn",
        Phase::Completed => "reason-box ok",
        Phase::Pending | Phase::Running | Phase::Cancelled | Phase::RolledBack => "reason-box",
    };
    live(
        &l,
        &html! {
            div class=(tone) {
                div .line { (phase(h.phase)) @for w in &h.waits { (badge(Tone::Warn, w)) } @for c in &h.causes { (badge(Tone::Warn, c)) }
                    code .muted.right title="The reason, as the API calls it" { (view.reason_code) }
                }
                p #reason .big aria-live="polite" { (text(&sentence(&view.reason))) }
                @if let Some(next) = next(&view.spec, h, view.steps.len() as u32) { p #next { (next) } }
            }
            (failures(frame.now, &view.slug, &view.failures))
            div .card {
                div .line {
                    p .big.num { (percent_done(&h.counts)) " %" }
                    p #progress-text .muted.num aria-live="polite" { (progress_text(&h.counts)) }
                    @if let Some(started) = h.started_at {
                        p .muted.right { (length(h.ended_at.unwrap_or(frame.now).since(started))) }
                    }
                }
                (progress_bar(&h.counts))
                (legend(&h.counts))
                @if h.failures > 0 { p .muted.num { (count(i64::from(h.failures), "failure")) ", " (amount(view.spec.failure_threshold)) " tolerated" } }
            }
            @if frame.may.rollouts_write { (commands(frame, view)) }
            (steps(frame, view))
        },
    )
}

/// Would this command do anything? Nothing to retry without a failure, nothing to hold that a person holds already.
fn has_a_point(command: &str, h: &Head) -> bool {
    match (command, h.phase) {
        ("retry", Phase::RolledBack) => h.counts.rollback_failed > 0,
        ("retry", _) => h.counts.failed > 0,
        ("advance_traffic" | "swap_slot", _) => h.shift.is_some_and(|s| s.weight < domain::rollout::FULL_WEIGHT),
        ("pause", Phase::Paused) => !h.causes.contains(&PauseCause::Person),
        _ => true,
    }
}

/// One form for every command that the state allows and that has a point, and no other.
pub fn commands(frame: &Frame, view: &RolloutView) -> Markup {
    let mut allowed = allowed_commands(view.head.phase);
    allowed.retain(|c| has_a_point(c, &view.head));
    html! {
        @if !allowed.is_empty() {
            div .commands role="group" aria-label="Commands" {
                @for command in allowed { (command_form(frame, view, command)) }
            }
        }
    }
}

fn command_form(frame: &Frame, view: &RolloutView, command: &str) -> Markup {
    let action = format!("{}/{command}", view.path);
    let plain = |label: &str, primary: bool| {
        html! {
            form id={ "cmd-" (command) } method="post" action=(action) {
                (csrf(frame))
                button .primary[primary] type="submit" { (label) }
            }
        }
    };
    let asks = |label: &str, says: &str, button: &str| {
        html! {
            details .menu id={ "menu-" (command) } {
                summary .button { (label) "…" }
                form .stack id={ "cmd-" (command) } method="post" action=(action) {
                    (csrf(frame))
                    p { (says) }
                    label for={ "note-" (command) } { "Reason " span .muted { "(kept in the audit log)" } }
                    input id={ "note-" (command) } name="note" maxlength="500" autocomplete="off";
                    button .danger type="submit" { (button) }
                }
            }
        }
    };
    match command {
        "start" => plain("Start", true),
        "pause" if view.head.phase == Phase::Paused => plain("Hold", false),
        "pause" => plain("Pause", false),
        "resume" => resume(frame, view, &action),
        "retry" if view.head.phase == Phase::RolledBack => plain("Retry what did not go back", false),
        "retry" => plain("Retry failed nodes", false),
        "cancel" => {
            asks("Cancel", "Nothing more is assigned. Nodes that have the bundle keep it.", "Cancel this rollout")
        }
        "rollback" => asks("Roll back", "Every node that got this bundle goes back to the one before.", "Roll back"),
        "advance_traffic" => plain("Shift more traffic", true),
        "swap_slot" => plain("All traffic to the standby half", false),
        other => plain(other, false),
    }
}

/// After failures, going on means one of two things, and a person must say which.
fn resume(frame: &Frame, view: &RolloutView, action: &str) -> Markup {
    let failed = view.head.causes.contains(&PauseCause::Gate) || view.head.failures > 0;
    html! {
        form #cmd-resume .inline-form method="post" action=(action) {
            (csrf(frame))
            @if failed {
                button .primary type="submit" name="mode" value="retry" { "Resume and retry failed" }
                button type="submit" name="mode" value="accept" { "Resume without failed" }
            } @else {
                button .primary type="submit" name="mode" value="plain" { "Resume" }
            }
        }
    }
}

fn steps(frame: &Frame, view: &RolloutView) -> Markup {
    let all = &view.steps;
    let current = view.head.step as usize;
    let most = if view.all_steps { STEPS_ALL } else { STEPS_SHOWN };
    let from = if all.len() <= most { 0 } else { current.saturating_sub(most / 2).min(all.len() - most) };
    let shown = &all[from..(from + most).min(all.len())];
    let rows = html! {
        @for s in shown {
            tr id={ "s-" (s.index) } .current[s.index as usize == current && view.head.phase.is_active()] {
                td .num { a href={ (view.path) "?step=" (s.index) "#live-nodes" } { (s.index + 1) } }
                @let begun = s.state != StepState::Pending || view.head.phase.is_active();
                td { @if begun { (step_state(s.state)) } @else { (badge(Tone::Quiet, "not begun")) } }
                td .num { @if begun { (s.size.saturating_sub(s.open)) "/" (s.size) } @else { span .muted { "–" } } }
                td { (when_or(s.started_at, frame.now, "–")) }
                td {
                    @match (s.started_at, s.completed_at) {
                        (Some(a), Some(b)) => (length(b.since(a))),
                        (Some(a), None) if s.state.as_str() == "running" => (length(frame.now.since(a))),
                        _ => span .muted { "–" },
                    }
                }
                td .wrap { (s.error.as_deref().unwrap_or("")) }
            }
        }
    };
    html! {
        section aria-labelledby="h-steps" {
            h2 #h-steps { "Steps" }
            @if all.is_empty() { (empty("No step is planned: no node matches yet.")) }
            @else {
                @if shown.len() < all.len() {
                    p .muted.num { "Steps " (from + 1) " to " (from + shown.len()) " of " (all.len())
                        @if !view.all_steps { " · " a href={ (view.path) "?steps=all" } { "All steps" } }
                    }
                }
                (table("Steps", &["Step", "State", "Settled", "Started", "Took", "Error"], &rows))
            }
        }
    }
}

pub fn nodes(frame: &Frame, view: &MembersView) -> Markup {
    let l = Live {
        name: "nodes",
        kinds: "rollout",
        id: Some(view.id.clone()),
        version: view.version,
        src: &view.src,
        every_ms: LIVE_ONE_MS,
    };
    let rows = html! {
        @for m in &view.rows {
            tr id={ "m-" (m.node) } {
                td { a href={ "/projects/" (query(&view.slug)) "/nodes/" (m.node) } { (m.name) } }
                td .num { @match m.step { Some(s) => (s + 1), None => span .muted { "lane" } } }
                td { (node_state(m.state)) @if m.attempt > 1 { " " span .muted.num { "attempt " (m.attempt) } } }
                td { @if m.online { (health(m.health)) } @else { (badge(Tone::Bad, "offline")) } }
                td .wrap { (text(&m.detail)) }
                td { (when(m.updated_at, frame.now)) }
            }
        }
    };
    live(
        &l,
        &html! {
            section aria-labelledby="h-nodes" {
                h2 #h-nodes { "Nodes" }
                form .filter #nodes-filter method="get" action=(view.path) {
                    div {
                        label for="f-state" { "State" }
                        select #f-state name="state" {
                            (choice("", "any", &view.state))
                            @for k in NodeStateKind::ALL { (choice(k.as_str(), &words(k.as_str()), &view.state)) }
                        }
                    }
                    @if !view.step.is_empty() { input type="hidden" name="step" value=(view.step); }
                    button type="submit" { "Filter" }
                    @if !view.state.is_empty() || !view.step.is_empty() { a .clear href={ (view.path) "#live-nodes" } { "All nodes" } }
                }
                @if view.rows.is_empty() { (empty("No node here.")) }
                @else { (table("Nodes of the rollout", &["Node", "Step", "State", "Health", "Detail", "Changed"], &rows)) }
                (pager(view.rows.len(), view.total, "node", view.next.as_deref(), view.first.as_deref()))
            }
        },
    )
}

pub fn history(frame: &Frame, view: &TimelineView) -> Markup {
    let l = Live {
        name: "timeline",
        kinds: "rollout",
        id: Some(view.id.clone()),
        version: view.version,
        src: &view.path,
        every_ms: LIVE_LIST_MS,
    };
    live(
        &l,
        &html! {
            section aria-labelledby="h-timeline" {
                h2 #h-timeline { "Timeline" }
                @if view.lines.is_empty() { (empty("Nothing happened yet.")) }
                ol .timeline {
                    @for line in &view.lines {
                        li {
                            span .at { (when(line.at, frame.now)) }
                            span .what {
                                b { (line.action) }
                                @if !line.detail.is_empty() { " " (text(&line.detail)) }
                                @if !line.actor.is_empty() { span .muted { " · " (line.actor) } }
                            }
                        }
                    }
                }
                p { a href={ (view.path) "/events" } { "Everything it was told" } }
                @if view.more > 0 && frame.may.audit_read {
                    p { a href={ "/projects/" (query(&view.slug)) "/audit?resource=" (view.id) } { (view.more) " more in the audit log" } }
                }
            }
        },
    )
}

fn settings(frame: &Frame, view: &RolloutView) -> Markup {
    let s = &view.spec;
    html! {
        section .card aria-labelledby="h-settings" {
            h2 #h-settings { "Settings" }
            dl {
                dt { "Bundle" } dd { (view.names.link(&view.slug, Some(s.bundle))) }
                dt { "Targets" } dd .wrap { (selector(&s.selector)) }
                dt { "Strategy" } dd { (words(s.strategy.as_str())) ", batches of " (amount(s.batch_size)) }
                dt { "Unavailable" } dd { @match s.max_unavailable { Some(a) => { "at most " (amount(a)) }, None => "the batch is the limit" } }
                dt { "Tolerates" } dd { (amount(s.failure_threshold)) " failed, then " (on_failure(s.on_failure)) }
                dt { "Healthy for" } dd { (length(s.judge.soak)) }
                dt { "Deadline" } dd { (length(s.progress_deadline)) " without progress" }
                @if let Some(t) = s.scheduled_at { dt { "Scheduled" } dd { (exact(t)) } }
                dt { "Created" } dd { (when(view.inserted_at, frame.now)) @if !view.created_by.is_empty() { " by " (view.created_by) } }
                dt { "Id" } dd { code .full { (view.id) } }
            }
            p { a href={ "/api/v1/rollouts/" (view.id) "/explain" } { "Explain as JSON" } }
        }
    }
}

fn on_failure(o: OnFailure) -> &'static str {
    match o {
        OnFailure::Pause => "pauses",
        OnFailure::Fail => "fails",
        OnFailure::Rollback => "rolls back",
    }
}

pub fn amount(a: Amount) -> String {
    match a {
        Amount::Count(n) => n.to_string(),
        Amount::Percent(p) => format!("{p} %"),
    }
}

pub fn selector(s: &Selector) -> String {
    match s {
        Selector::All => "all nodes".into(),
        Selector::Labels { labels } => labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(", "),
        Selector::Expr { all_of } => all_of
            .iter()
            .map(|m| {
                let values = m.values.iter().cloned().collect::<Vec<_>>().join(", ");
                format!("{} {} {values}", m.key, words(m.op.as_str())).trim_end().to_string()
            })
            .collect::<Vec<_>>()
            .join(" and "),
        Selector::Groups { groups } => format!("groups {}", groups.iter().cloned().collect::<Vec<_>>().join(", ")),
        Selector::NodeIds { node_ids } => format!("{} named nodes", node_ids.len()),
    }
}
