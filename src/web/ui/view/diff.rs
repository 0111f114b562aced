//! Two bundles side by side or as text: which things of the configuration differ in which fields, how risky the step is, and
//! the lines.

use super::bundles::name;
use super::parts::*;
use super::{Frame, Tab, document};
use crate::compare::Compared;
use bundle::diff::{Change, Kind};
use domain::bundle::Bundle;
use maud::{Markup, html};
use serde_json::Value;

/// Rows of the table; the text has the rest.
const MAX_ROWS: usize = 500;
/// Characters of a value in the table.
const MAX_SHOWN: usize = 300;

pub struct DiffView {
    pub slug: String,
    pub to: Bundle,
    /// `None`: there is nothing to compare with.
    pub from: Option<Bundle>,
    /// `fleet`, `parent` or the row of a bundle.
    pub against: String,
    /// Row id and name of bundles to compare with, newest first.
    pub others: Vec<(String, String)>,
    /// `None`: one of the two has no configuration (it was never compiled).
    pub compared: Option<Compared>,
    pub as_text: bool,
    pub files: Vec<FileDiff>,
}

#[derive(Clone, Debug)]
pub struct FileDiff {
    pub path: String,
    /// `None`: too different to be shown line by line.
    pub lines: Option<Vec<Line>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    Same(String),
    Added(String),
    Removed(String),
    /// So many lines that are the same, left out.
    Skipped(usize),
}

pub fn page(frame: &Frame, view: &DiffView) -> Markup {
    let base = format!("/projects/{}/bundles", query(&view.slug));
    let here = format!("{base}/{}", view.to.id);
    let title = name(&view.to);
    let body = html! {
        nav .crumbs aria-label="Breadcrumb" { a href=(base) { "Bundles" } " / " a href=(here) { (title) } }
        h1 { "Changes in " (title) }
        form .filter method="get" action={ (here) "/diff" } {
            div {
                label for="f-against" { "Compared with" }
                select #f-against name="against" {
                    (choice("fleet", "what the fleet runs", &view.against))
                    (choice("parent", "the bundle before", &view.against))
                    @for (id, name) in &view.others { (choice(id, name, &view.against)) }
                }
            }
            div {
                label for="f-view" { "Shown" }
                @let shown = if view.as_text { "text" } else { "sides" };
                select #f-view name="view" { (choice("sides", "side by side", shown)) (choice("text", "as text", shown)) }
            }
            button type="submit" { "Compare" }
        }
        @match &view.from {
            None if view.against == "fleet" => (empty("No node runs a bundle yet, and there is none before this one.")),
            None => (empty("There is no bundle before this one.")),
            Some(from) => (compared(view, from)),
        }
    };
    document(&Frame { tab: Tab::Bundles, ..frame.clone() }, &format!("Changes in {title}"), &body)
}

fn compared(view: &DiffView, from: &Bundle) -> Markup {
    html! {
        section .card aria-labelledby="h-things" {
            h2 #h-things { "From " (name(from)) " to " (name(&view.to)) }
            @match &view.compared {
                None => p .muted { "One of the two has no configuration to compare." },
                Some(c) => {
                    p .line { (risk(c.risk.level)) span .muted { "of this step" } }
                    ul .errors {
                        @for r in &c.risk.reasons { li { (r) } }
                        @for r in &c.risk.restart_reasons { li { "needs a restart of the proxy: " (r) } }
                    }
                    @if c.changes.is_empty() { p { "They configure the same things in the same way." } }
                }
            }
        }
        @if let Some(c) = &view.compared {
            @if view.as_text { (as_text(c)) } @else if !c.changes.is_empty() { (side_by_side(c, &name(from), &name(&view.to))) }
            @if c.truncated { p .hint { "There are more fields than are named here." } }
        }
        @for f in &view.files {
            section aria-label=(f.path) {
                h2 { code { (f.path) } }
                @match &f.lines {
                    None => (empty("Too different to be shown line by line.")),
                    Some(lines) => (listing(&f.path, lines)),
                }
            }
        }
    }
}

fn as_text(c: &Compared) -> Markup {
    html! { pre .code tabindex="0" role="group" aria-label="Changes as text" { code { (c.text) } } }
}

/// One group of rows for each thing that differs, one row for each of its fields.
fn side_by_side(c: &Compared, from: &str, to: &str) -> Markup {
    let mut room = MAX_ROWS;
    let mut shown: Vec<&Change> = Vec::new();
    for change in &c.changes {
        if room == 0 {
            break;
        }
        room = room.saturating_sub(change.fields.len() + 1);
        shown.push(change);
    }
    html! {
        div .scroll.below tabindex="0" role="group" aria-label="Changes side by side" {
            table .sides {
                thead { tr { th scope="col" { "Field" } th scope="col" { (from) } th scope="col" { (to) } } }
                @for change in &shown { (group(change)) }
            }
        }
        @if shown.len() < c.changes.len() {
            p .hint { (c.changes.len() - shown.len()) " more things differ; the text names them." }
        }
    }
}

fn group(change: &Change) -> Markup {
    let (tone, word) = match change.change {
        Kind::Added => (Tone::Ok, "added"),
        Kind::Removed => (Tone::Bad, "removed"),
        Kind::Changed => (Tone::Warn, "changed"),
    };
    html! {
        tbody {
            tr { th colspan="3" scope="rowgroup" { (badge(tone, word)) " " (change.thing) " " code { (change.name) } } }
            @for field in &change.fields {
                tr {
                    th scope="row" { code { (field.path) } }
                    td .wrap.was { (value(field.from.as_ref())) }
                    td .wrap.is { (value(field.to.as_ref())) }
                }
            }
        }
    }
}

fn value(v: Option<&Value>) -> Markup {
    let Some(v) = v else { return html! { span .muted { "(none)" } } };
    let text = v.to_string();
    let cut: String = text.chars().take(MAX_SHOWN).collect();
    html! { code { (cut) @if cut.len() < text.len() { "…" } } }
}

fn listing(path: &str, lines: &[Line]) -> Markup {
    html! {
        pre .code.diff tabindex="0" role="group" aria-label={ "Changed lines of " (path) } {
            @for line in lines {
                @match line {
                    Line::Same(t) => { "  " (t) "\n" }
                    Line::Added(t) => { ins { "+ " (t) "\n" } }
                    Line::Removed(t) => { del { "- " (t) "\n" } }
                    Line::Skipped(n) => { span .muted { "  … " (count(*n as i64, "line")) " as before\n" } }
                }
            }
        }
    }
}
