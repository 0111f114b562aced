//! Two bundles side by side: which things of the configuration differ, how risky the step is, and the lines.

use super::bundles::name;
use super::parts::*;
use super::{Frame, Tab, document};
use bundle::risk::{Changes, Diff};
use domain::bundle::{Bundle, RiskLevel};
use maud::{Markup, html};

#[derive(Clone, Debug)]
pub struct DiffView {
    pub slug: String,
    pub to: Bundle,
    /// `None`: there is nothing to compare with.
    pub from: Option<Bundle>,
    /// Row id and name of bundles to compare with, newest first.
    pub others: Vec<(String, String)>,
    /// `None`: one of the two has no configuration (it was never compiled).
    pub difference: Option<Diff>,
    pub risk: Option<(RiskLevel, Vec<String>)>,
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
    let against = view.from.as_ref().map(|b| b.id.to_string()).unwrap_or_default();
    let body = html! {
        nav .crumbs aria-label="Breadcrumb" { a href=(base) { "Bundles" } " / " a href=(here) { (title) } }
        h1 { "Changes in " (title) }
        form .filter method="get" action={ (here) "/diff" } {
            div {
                label for="f-against" { "Compared with" }
                select #f-against name="against" { @for (id, name) in &view.others { (choice(id, name, &against)) } }
            }
            button type="submit" { "Compare" }
        }
        @match &view.from {
            None => (empty("There is no other bundle to compare with yet.")),
            Some(from) => (compared(view, from)),
        }
    };
    document(&Frame { tab: Tab::Bundles, ..frame.clone() }, &format!("Changes in {title}"), &body)
}

fn compared(view: &DiffView, from: &Bundle) -> Markup {
    let groups = |d: &Diff| {
        [
            ("Routes", d.routes.clone()),
            ("Upstreams", d.upstreams.clone()),
            ("Listeners", d.listeners.clone()),
            ("Filters", d.filters.clone()),
            ("Agents", d.agents.clone()),
        ]
    };
    html! {
        section .card aria-labelledby="h-things" {
            h2 #h-things { "From " (name(from)) " to " (name(&view.to)) }
            @match &view.difference {
                None => p .muted { "One of the two has no configuration to compare." },
                Some(d) if d.is_empty() => p { "They configure the same things in the same way." },
                Some(d) => {
                    dl {
                        @for (noun, changes) in groups(d) { @if !changes.is_empty() { dt { (noun) } dd { (things(&changes)) } } }
                        @if !d.settings.is_empty() { dt { "Settings" } dd { @for s in &d.settings { span .badge.warn { "changed" } " " code { (s) } " " } } }
                    }
                }
            }
            @if let Some((level, reasons)) = &view.risk {
                p .line { (risk(*level)) span .muted { "of this step, compared with " (name(from)) } }
                ul .errors { @for r in reasons { li { (r) } } }
            }
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

fn things(c: &Changes) -> Markup {
    let some = |class: &str, word: &str, names: &[String]| {
        html! { @for n in names { p .change { span class={ "badge " (class) } { (word) } " " code { (n) } } } }
    };
    html! { (some("ok", "added", &c.added)) (some("bad", "removed", &c.removed)) (some("warn", "changed", &c.changed)) }
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
