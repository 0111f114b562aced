//! Everything that a rollout was told, in order: what its decisions were made of.

use super::audit::unfolding;
use super::parts::*;
use super::{Frame, Tab, document};
use domain::Timestamp;
use maud::{Markup, html};
use serde_json::Value;

#[derive(Clone, Debug, Default)]
pub struct EventsView {
    pub slug: String,
    /// The path of the rollout.
    pub rollout: String,
    pub bundle: String,
    pub rows: Vec<EventRow>,
    pub total: i64,
    pub next: Option<String>,
    pub first: Option<String>,
}

#[derive(Clone, Debug)]
pub struct EventRow {
    pub seq: u64,
    pub at: Timestamp,
    pub name: String,
    pub event: Value,
}

pub fn page(frame: &Frame, view: &EventsView) -> Markup {
    let rows = html! {
        @for e in &view.rows {
            tr {
                td .num { (e.seq) }
                td { (when(e.at, frame.now)) }
                td { (words(&e.name)) }
                td .wrap { (unfolding(&format!("Event {}", e.seq), &e.event)) }
            }
        }
    };
    let base = format!("/projects/{}/rollouts", query(&view.slug));
    let body = html! {
        nav .crumbs aria-label="Breadcrumb" { a href=(base) { "Rollouts" } " / " a href=(view.rollout) { "Rollout of " (view.bundle) } }
        h1 { "Events" }
        p .muted { "What the rollout was told, oldest first. Its decisions follow from these alone, and can be derived from them again." }
        @if view.rows.is_empty() { (empty("It was told nothing yet: it has not begun.")) }
        @else { (table("Events", &["No.", "When", "Event", "Detail"], &rows)) }
        (pager(view.rows.len(), view.total, "event", view.next.as_deref(), view.first.as_deref()))
    };
    document(&Frame { tab: Tab::Rollouts, ..frame.clone() }, "Events", &body)
}
