//! The nodes of a project.

use super::parts::*;
use super::{Frame, Tab, document};
use domain::node::{Labels, Node, Presence, Standing};
use maud::{Markup, html};

/// Labels shown of each node in a list.
const LABELS_SHOWN: usize = 3;

#[derive(Clone, Debug, Default)]
pub struct NodesView {
    pub slug: String,
    pub nodes: Vec<Node>,
    pub names: BundleNames,
    pub total: i64,
    /// Of the whole project.
    pub all: i64,
    pub online: i64,
    pub offline: i64,
    pub quarantined: i64,
    pub next: Option<String>,
    pub first: Option<String>,
    pub src: String,
    pub filter: Filter,
    /// Why the filter was not understood.
    pub error: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub status: String,
    pub standing: String,
    /// `key=value`
    pub label: String,
    pub q: String,
}

impl Filter {
    pub fn is_set(&self) -> bool {
        [&self.status, &self.standing, &self.label, &self.q].iter().any(|s| !s.is_empty())
    }
}

pub fn page(frame: &Frame, view: &NodesView) -> Markup {
    let base = format!("/projects/{}/nodes", query(&view.slug));
    let f = &view.filter;
    let body = html! {
        div .head {
            h1 { "Nodes" }
            a .button href={ "/projects/" (query(&view.slug)) "/tokens" } { "Enrol nodes" }
        }
        form .filter method="get" action=(base) role="search" {
            div {
                label for="f-status" { "Status" }
                select #f-status name="status" {
                    (choice("", "any", &f.status))
                    @for p in Presence::ALL { (choice(p.as_str(), p.as_str(), &f.status)) }
                }
            }
            div {
                label for="f-standing" { "Standing" }
                select #f-standing name="standing" {
                    (choice("", "any", &f.standing))
                    @for s in Standing::ALL { (choice(s.as_str(), s.as_str(), &f.standing)) }
                }
            }
            div {
                label for="f-label" { "Label" }
                input #f-label name="label" value=(f.label) placeholder="key=value" autocomplete="off" spellcheck="false";
            }
            div {
                label for="f-q" { "Name" }
                input #f-q type="search" name="q" value=(f.q) autocomplete="off" spellcheck="false";
            }
            button type="submit" { "Filter" }
            @if f.is_set() { a .clear href=(base) { "Clear" } }
        }
        @if let Some(error) = &view.error { p .alert.bad role="alert" { (error) } }
        (region(frame, view))
    };
    document(&Frame { tab: Tab::Nodes, ..frame.clone() }, "Nodes", &body)
}

pub fn region(frame: &Frame, view: &NodesView) -> Markup {
    let l = Live { name: "nodes", kinds: "node", id: None, version: 0, src: &view.src, every_ms: LIVE_LIST_MS };
    let rows = html! {
        @for n in &view.nodes {
            tr id={ "n-" (n.id) } {
                td { a href={ "/projects/" (query(&view.slug)) "/nodes/" (n.id) } { (n.name) } }
                td {
                    (presence(n.presence))
                    @if n.standing != Standing::Adopted { " " (standing(n.standing)) }
                }
                td { (health(n.health.as_str())) }
                td {
                    (view.names.link(&view.slug, n.active_bundle))
                    @if n.generation > 0 && n.desired_bundle != n.active_bundle {
                        span .muted { " → " } (view.names.link(&view.slug, n.desired_bundle))
                    }
                    @if n.pinned_bundle.is_some() { " " (badge(Tone::Quiet, "pinned")) }
                }
                td .wrap { (labels(&n.labels, LABELS_SHOWN)) }
                td { (n.version.as_deref().unwrap_or("")) }
                td { (when_or(n.last_seen, frame.now, "never")) }
            }
        }
    };
    live(
        &l,
        &html! {
            p .stats {
                span { b { (view.all) } (noun(view.all, " node")) }
                span { b .ok-text { (view.online) } " online" }
                span { b .bad-text[view.offline > 0] { (view.offline) } " offline" }
                @if view.quarantined > 0 { span { b .warn-text { (view.quarantined) } " to adopt" } }
            }
            @if view.nodes.is_empty() {
                @if view.filter.is_set() { (empty("No node matches.")) }
                @else {
                    (empty_then("No node has enrolled yet. A token lets nodes in.", frame.may.nodes_write,
                        &format!("/projects/{}/tokens", query(&view.slug)), "Make an enrolment token"))
                }
            } @else {
                (table("Nodes", &["Name", "Status", "Health", "Bundle", "Labels", "Version", "Last seen"], &rows))
            }
            (pager(view.nodes.len(), view.total, "node", view.next.as_deref(), view.first.as_deref()))
        },
    )
}

pub fn labels(labels: &Labels, most: usize) -> Markup {
    let all = labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>();
    html! {
        @for l in all.iter().take(most) { span .label title=(l) { (l) } " " }
        @if all.len() > most { span .muted title=(all[most..].join(", ")) { "+" (all.len() - most) } }
    }
}
