//! Nodes that run something else than they shall.

use super::parts::*;
use super::{Frame, Tab, document};
use domain::node::drift::Severity;
use domain::{BundleId, NodeId, Timestamp};
use maud::{Markup, html};

#[derive(Clone, Debug, Default)]
pub struct DriftView {
    pub slug: String,
    pub rows: Vec<DriftLine>,
    pub total: i64,
    /// `open` or `resolved`.
    pub status: String,
    pub names: BundleNames,
    /// What is expected is rolled out again, once, without anybody asking.
    pub by_itself: bool,
    pub next: Option<String>,
    pub first: Option<String>,
    /// Path and query of this page.
    pub src: String,
}

#[derive(Clone, Debug)]
pub struct DriftLine {
    pub id: String,
    pub node: NodeId,
    pub name: String,
    pub expected: Option<BundleId>,
    pub found: Option<BundleId>,
    pub severity: Severity,
    pub detected_at: Timestamp,
    /// How and when it ended.
    pub ended: Option<(String, Timestamp)>,
}

fn severity(s: Severity) -> Markup {
    let tone = match s {
        Severity::Low => Tone::Quiet,
        Severity::Medium => Tone::Warn,
        Severity::High => Tone::Bad,
    };
    badge(tone, s)
}

pub fn page(frame: &Frame, view: &DriftView) -> Markup {
    let base = format!("/projects/{}/drift", query(&view.slug));
    let body = html! {
        h1 { "Drift" }
        p .muted {
            "Nodes that run something else than they were told, with nothing under way that explains it. "
            @if view.by_itself { "Each gets its bundle again by a rollout, once for each bundle; after that somebody decides." }
            @else { "Nothing is repaired before somebody asks for it." }
        }
        form .filter method="get" action=(base) {
            div {
                label for="f-status" { "State" }
                select #f-status name="status" { (choice("open", "open", &view.status)) (choice("resolved", "resolved", &view.status)) }
            }
            button type="submit" { "Filter" }
        }
        (region(frame, view))
    };
    document(&Frame { tab: Tab::Drift, ..frame.clone() }, "Drift", &body)
}

pub fn region(frame: &Frame, view: &DriftView) -> Markup {
    let base = format!("/projects/{}/drift", query(&view.slug));
    let rows = html! {
        @for d in &view.rows {
            tr {
                td { a href={ "/projects/" (query(&view.slug)) "/nodes/" (d.node) } { (d.name) } }
                td { (severity(d.severity)) }
                td { (view.names.link(&view.slug, d.expected)) }
                td { (view.names.link(&view.slug, d.found)) }
                td { (when(d.detected_at, frame.now)) }
                td { @match &d.ended { Some((how, at)) => { (words(how)) " " (when(*at, frame.now)) }, None => span .muted { "–" } } }
                td {
                    @if d.ended.is_none() && frame.may.nodes_write {
                        form .inline-form method="post" action={ (base) "/" (d.id) "/resolve" } {
                            (csrf(frame))
                            @if d.expected.is_some() && frame.may.rollouts_write {
                                button .primary type="submit" name="mode" value="repair" aria-label={ "Repair " (d.name) } { "Repair" }
                            }
                            button type="submit" name="mode" value="seen" aria-label={ "Accept " (d.name) " as it is" } { "Accept" }
                        }
                    }
                }
            }
        }
    };
    let l = Live { name: "drift", kinds: "drift", id: None, version: 0, src: &view.src, every_ms: LIVE_LIST_MS };
    let open = view.rows.iter().any(|d| d.ended.is_none());
    live(
        &l,
        &html! {
            @if view.rows.is_empty() { (empty(if view.status == "open" { "Every node runs what it was told." } else { "Nothing has been resolved yet." })) }
            @else { (table("Drift", &["Node", "Severity", "Expected", "Runs", "Found", "Ended", "Action"], &rows)) }
            @if open && frame.may.nodes_write && frame.may.rollouts_write {
                form #cmd-repair-all .inline-form method="post" action={ (base) "/resolve-all" } {
                    (csrf(frame))
                    button type="submit" name="mode" value="repair" { "Repair all" }
                    button type="submit" name="mode" value="seen" { "Accept all" }
                }
            }
            (pager(view.rows.len(), view.total, "drift", view.next.as_deref(), view.first.as_deref()))
        },
    )
}
