//! The bundles of a project, and making a new one.

use super::parts::*;
use super::{Frame, Tab, document};
use domain::bundle::{Bundle, BundleStatus, Diagnostic};
use maud::{Markup, html};

#[derive(Clone, Debug, Default)]
pub struct BundlesView {
    pub slug: String,
    pub bundles: Vec<Bundle>,
    pub total: i64,
    pub status: String,
    pub next: Option<String>,
    pub first: Option<String>,
    pub src: String,
}

pub fn page(frame: &Frame, view: &BundlesView) -> Markup {
    let base = format!("/projects/{}/bundles", query(&view.slug));
    let body = html! {
        div .head {
            h1 { "Bundles" }
            div .commands {
                a .button href={ "/projects/" (query(&view.slug)) "/retention" } { "Retention" }
                @if frame.may.bundles_write { a .button.primary href={ (base) "/new" } { "New bundle" } }
            }
        }
        form .filter method="get" action=(base) role="search" {
            div {
                label for="f-status" { "Status" }
                select #f-status name="status" {
                    (choice("", "any", &view.status))
                    @for s in BundleStatus::ALL { (choice(s.as_str(), &words(s.as_str()), &view.status)) }
                }
            }
            button type="submit" { "Filter" }
            @if !view.status.is_empty() { a .clear href=(base) { "Clear" } }
        }
        (region(frame, view))
    };
    document(&Frame { tab: Tab::Bundles, ..frame.clone() }, "Bundles", &body)
}

/// What a bundle is called: its version, else the beginning of its content id, else the end of its row's id.
pub fn name(b: &Bundle) -> String {
    match (&b.version, &b.content_id) {
        (Some(v), _) => v.clone(),
        (None, Some(c)) => c.to_string().chars().take(12).collect(),
        (None, None) => short(&b.id),
    }
}

pub fn source(b: &Bundle) -> String {
    match &b.source.reference {
        Some(r) => format!("{}: {r}", b.source.kind),
        None => b.source.kind.clone(),
    }
}

pub fn size(bytes: u64) -> String {
    match bytes {
        0..=1_023 => format!("{bytes} B"),
        1_024..=1_048_575 => format!("{:.1} KiB", bytes as f64 / 1_024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

pub fn region(frame: &Frame, view: &BundlesView) -> Markup {
    let l = Live { name: "bundles", kinds: "bundle", id: None, version: 0, src: &view.src, every_ms: LIVE_LIST_MS };
    let rows = html! {
        @for b in &view.bundles {
            tr id={ "b-" (b.id) } {
                td { a href={ "/projects/" (query(&view.slug)) "/bundles/" (b.id) } { (name(b)) } }
                td { (bundle_status(b.status)) }
                td { (risk(b.risk)) @if !b.warnings.is_empty() { " " span .muted { (count(b.warnings.len() as i64, "warning")) } } }
                td { @if let Some(c) = &b.content_id { (hash(c)) } }
                td .wrap { (source(b)) }
                td .num { @if let Some(n) = b.size_bytes { (size(n)) } }
                td { (when(b.created_at, frame.now)) }
            }
        }
    };
    live(
        &l,
        &html! {
            @if view.bundles.is_empty() {
                @if !view.status.is_empty() { (empty("No bundle matches.")) }
                @else {
                    (empty_then("No bundle yet. A configuration that the proxy accepts becomes one.", frame.may.bundles_write,
                        &format!("/projects/{}/bundles/new", query(&view.slug)), "Make the first bundle"))
                }
            } @else {
                (table("Bundles", &["Version", "Status", "Risk", "Content id", "Source", "Size", "Created"], &rows))
            }
            (pager(view.bundles.len(), view.total, "bundle", view.next.as_deref(), view.first.as_deref()))
        },
    )
}

#[derive(Clone, Debug, Default)]
pub struct NewBundleView {
    pub slug: String,
    pub version: String,
    pub config: String,
    pub error: Option<String>,
    pub messages: Vec<Diagnostic>,
    /// Longest configuration that is taken, bytes.
    pub max_bytes: usize,
}

pub fn new_page(frame: &Frame, view: &NewBundleView) -> Markup {
    let base = format!("/projects/{}/bundles", query(&view.slug));
    let body = html! {
        nav .crumbs aria-label="Breadcrumb" { a href=(base) { "Bundles" } }
        h1 { "New bundle" }
        @if view.error.is_some() || !view.messages.is_empty() {
            div .alert.bad role="alert" {
                p { b { (view.error.as_deref().unwrap_or("The configuration was refused.")) } }
                (diagnostics(&view.messages))
            }
        }
        form .stack.card method="post" action={ (base) "/new" } {
            (csrf(frame))
            label for="version" { "Version " span .muted { "(a label, unique in the project; optional)" } }
            input #version name="version" value=(view.version) maxlength="100" autocomplete="off" spellcheck="false";
            label for="config" { "Configuration " span .muted { "(KDL, as the proxy loads it)" } }
            textarea #config .code name="config" rows="24" required spellcheck="false" autocapitalize="off"
                autocomplete="off" aria-describedby="config-hint" { "\n" (view.config) }
            p #config-hint .muted {
                "Checked by the proxy’s own rules. At most " (size(view.max_bytes as u64)) " here; configurations of several files go through the API."
            }
            button .primary type="submit" { "Compile" }
        }
        @if !view.messages.is_empty() {
            h2 { "What was checked" }
            (listing("config.kdl", &view.config, &view.messages))
        }
    };
    document(&Frame { tab: Tab::Bundles, ..frame.clone() }, "New bundle", &body)
}

pub fn diagnostics(all: &[Diagnostic]) -> Markup {
    html! {
        @if !all.is_empty() {
            ul .errors {
                @for d in all {
                    li .message { @if let Some(place) = place(d) { code { (place) } " " } (d.text) }
                }
            }
        }
    }
}

fn place(d: &Diagnostic) -> Option<String> {
    let mut out = d.file.clone().unwrap_or_default();
    if let Some(line) = d.line {
        out.push_str(&format!("{}{line}", if out.is_empty() { "line " } else { ":" }));
        if let Some(column) = d.column {
            out.push_str(&format!(":{column}"));
        }
    }
    (!out.is_empty()).then_some(out)
}

/// Lines of a file that are shown.
const MAX_LINES: usize = 3_000;

/// A file with line numbers; lines that messages are about are marked.
pub fn listing(file: &str, text: &str, messages: &[Diagnostic]) -> Markup {
    let marked = |line: usize| {
        messages
            .iter()
            .any(|d| d.file.as_deref().is_none_or(|f| f == file) && d.line.is_some_and(|l| l as usize == line))
    };
    let lines = text.lines().count();
    html! {
        div .listing tabindex="0" role="group" aria-label=(file) {
            ol {
                @for (i, line) in text.lines().take(MAX_LINES).enumerate() {
                    li .marked[marked(i + 1)] { code { (line) } }
                }
            }
            @if lines > MAX_LINES { p .muted { (lines - MAX_LINES) " more lines" } }
        }
    }
}
