//! One node: what it runs, what it should run and why, what happened to it.

use super::nodes::labels;
use super::parts::*;
use super::{Frame, Tab, document};
use domain::Timestamp;
use domain::node::{HistoryEntry, HistoryOutcome, Node, Standing, skew};
use maud::{Markup, html};
use serde_json::Value;

/// Entries of a node's metadata on its page.
const METADATA_SHOWN: usize = 20;

#[derive(Clone, Debug)]
pub struct NodeView {
    pub slug: String,
    pub node: Node,
    pub names: BundleNames,
    /// Newest first.
    pub history: Vec<HistoryEntry>,
    pub events: Vec<EventLine>,
    /// Why it runs what it runs, the cause that counts first.
    pub explain: Vec<String>,
    pub src: String,
}

#[derive(Clone, Debug)]
pub struct EventLine {
    pub at: Timestamp,
    pub kind: String,
    pub text: String,
    /// What the node sent along with a failure.
    pub logs: Option<String>,
    pub rollout: Option<String>,
}

pub fn page(frame: &Frame, view: &NodeView) -> Markup {
    let n = &view.node;
    let base = format!("/projects/{}/nodes", query(&view.slug));
    let body = html! {
        nav .crumbs aria-label="Breadcrumb" { a href=(base) { "Nodes" } }
        div .head {
            h1 { (n.name) }
            @if frame.may.nodes_write { (commands(frame, &base, n)) }
        }
        (region(frame, view))
    };
    document(&Frame { tab: Tab::Nodes, ..frame.clone() }, &n.name, &body)
}

fn commands(frame: &Frame, base: &str, n: &Node) -> Markup {
    html! {
        div .commands {
            @if matches!(n.standing, Standing::Quarantined | Standing::Conflicted) {
                form #cmd-adopt method="post" action={ (base) "/" (n.id) "/adopt" } {
                    (csrf(frame))
                    button .primary type="submit" { "Adopt" }
                }
            }
            @if n.standing != Standing::Revoked {
                details .menu {
                    summary .button { "Revoke…" }
                    form #cmd-revoke .stack method="post" action={ (base) "/" (n.id) "/revoke" } {
                        (csrf(frame))
                        p { "The node’s key is void at once. It has to enrol again." }
                        button .danger type="submit" { "Revoke this node" }
                    }
                }
            }
        }
    }
}

pub fn region(frame: &Frame, view: &NodeView) -> Markup {
    let n = &view.node;
    let l = Live {
        name: "node",
        kinds: "node",
        id: Some(n.id.to_string()),
        version: 0,
        src: &view.src,
        every_ms: LIVE_LIST_MS,
    };
    let current = n.generation == 0 || n.desired_bundle == n.active_bundle;
    live(
        &l,
        &html! {
            p .badges {
                (presence(n.presence)) " " (health(n.health.as_str())) " " (standing(n.standing))
                @if n.pinned_bundle.is_some() { " " (badge(Tone::Warn, "pinned")) }
            }
            (reasons(view, current))
            div .columns {
                section .card aria-labelledby="h-bundle" {
                    h2 #h-bundle { "Bundle" }
                    dl {
                        dt { "Runs" } dd { (view.names.link(&view.slug, n.active_bundle)) }
                        dt { "Should run" }
                        dd {
                            @if n.generation == 0 { span .muted { "nothing assigned yet" } }
                            @else {
                                (view.names.link(&view.slug, n.desired_bundle)) " "
                                @if current { (badge(Tone::Ok, "current")) } @else { (badge(Tone::Busy, "not yet")) }
                            }
                        }
                        @if n.staged_bundle.is_some() { dt { "Staged" } dd { (view.names.link(&view.slug, n.staged_bundle)) } }
                        @if n.verified_bundle.is_some() { dt { "Last verified" } dd { (view.names.link(&view.slug, n.verified_bundle)) } }
                        @if n.pinned_bundle.is_some() { dt { "Pinned to" } dd { (view.names.link(&view.slug, n.pinned_bundle)) } }
                        @if let Some(r) = n.desired_rollout {
                            dt { "By rollout" }
                            dd { a href={ "/projects/" (query(&view.slug)) "/rollouts/" (r) } { (id(r)) } }
                        }
                        dt { "Generation" }
                        dd .num { (n.generation) @if n.handed_over < n.generation { span .muted { " (" (n.handed_over) " handed over)" } } }
                        dt { "Traffic weight" } dd .num { (n.traffic_weight) " %" }
                    }
                }
                section .card aria-labelledby="h-facts" {
                    h2 #h-facts { "Facts" }
                    dl {
                        dt { "Last seen" } dd { (when_or(n.last_seen, frame.now, "never")) }
                        @if let Some(skew) = n.clock_skew {
                            dt { "Its clock" }
                            dd {
                                @if skew::is_worth_a_warning(skew) { (badge(Tone::Warn, skew::in_words(skew))) }
                                @else { "right within " (skew::WORTH_A_WARNING.as_secs()) " s" }
                            }
                        }
                        dt { "Host" } dd { (n.hostname.as_deref().unwrap_or("–")) }
                        dt { "Address" } dd { (n.ip.as_deref().unwrap_or("–")) }
                        dt { "Proxy version" } dd { (n.version.as_deref().unwrap_or("–")) }
                        dt { "Labels" } dd .wrap { @if n.labels.is_empty() { "–" } @else { (labels(&n.labels, n.labels.len())) } }
                        dt { "Capabilities" } dd .wrap { @if n.capabilities.is_empty() { "–" } @else { (n.capabilities.join(", ")) } }
                        @for (key, value) in metadata(n) { dt .wrap { (key) } dd .wrap { (value) } }
                        dt { "Enrolled" } dd { (when(n.inserted_at, frame.now)) }
                        dt { "Id" } dd { code .full { (n.id) } }
                    }
                }
            }
            section aria-labelledby="h-history" {
                h2 #h-history { "History" }
                @if view.history.is_empty() { (empty("Nothing was rolled out to this node yet.")) }
                @else { (history(frame, view)) }
            }
            section aria-labelledby="h-events" {
                h2 #h-events { "Events" }
                @if view.events.is_empty() { (empty("No events yet.")) }
                ol .timeline {
                    @for e in &view.events {
                        li {
                            span .at { (when(e.at, frame.now)) }
                            span .what {
                                b { (words(&e.kind).replace('.', " ")) }
                                @if !e.text.is_empty() { " " span .muted { (text(&e.text)) } }
                                @if let Some(r) = &e.rollout { " " a href={ "/projects/" (query(&view.slug)) "/rollouts/" (r) } { "rollout " (short(r)) } }
                                @if let Some(logs) = &e.logs {
                                    details { summary { "Logs of the node" } pre .code tabindex="0" role="group" aria-label="Logs of the node" { (logs) } }
                                }
                            }
                        }
                    }
                }
            }
        },
    )
}

/// Why it runs what it runs, the cause that counts first, and what it last complained of.
fn reasons(view: &NodeView, current: bool) -> Markup {
    let n = &view.node;
    let tone = match (&n.last_error, current) {
        (Some(_), _) => "reason-box bad",
        (None, true) => "reason-box ok",
        (None, false) => "reason-box",
    };
    html! {
        section class=(tone) aria-label="Why this node runs what it runs" {
            @if let Some(first) = view.explain.first() { p .big { (text(&sentence(first))) } }
            @if view.explain.len() > 1 { ul .why { @for cause in &view.explain[1..] { li { (text(&sentence(cause))) } } } }
            @if let Some(error) = &n.last_error { p .message.wrap { b .bad-text { "Last error: " } (text(error)) } }
        }
    }
}

/// What the node says of itself in words of its own.
fn metadata(n: &Node) -> Vec<(&str, String)> {
    let plain = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_string);
    n.metadata.as_object().into_iter().flatten().take(METADATA_SHOWN).map(|(k, v)| (k.as_str(), plain(v))).collect()
}

fn history(frame: &Frame, view: &NodeView) -> Markup {
    let rows = html! {
        @for h in &view.history {
            tr {
                td { (when(h.at, frame.now)) }
                td { (view.names.link(&view.slug, h.bundle)) }
                td { (badge(outcome_tone(h.outcome), h.outcome)) }
                td .num { (h.generation) }
                td { @if let Some(r) = h.rollout { a href={ "/projects/" (query(&view.slug)) "/rollouts/" (r) } { (id(r)) } } }
                td .wrap { (text(h.detail.as_deref().unwrap_or(""))) }
            }
        }
    };
    table("History of bundles", &["When", "Bundle", "Outcome", "Generation", "Rollout", "Detail"], &rows)
}

fn outcome_tone(o: HistoryOutcome) -> Tone {
    match o {
        HistoryOutcome::Verified => Tone::Ok,
        HistoryOutcome::Failed => Tone::Bad,
        HistoryOutcome::RolledBack | HistoryOutcome::FellBack => Tone::Warn,
    }
}
