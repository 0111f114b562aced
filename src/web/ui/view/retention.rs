//! Bundles that nobody needs: what collecting would take, and how many of the newest stay whatever happens.

use super::bundles::{name, size};
use super::parts::*;
use super::resources::refusal;
use super::{Frame, Tab, document};
use domain::bundle::Bundle;
use maud::{Markup, html};

#[derive(Clone, Debug, Default)]
pub struct RetentionView {
    pub slug: String,
    /// As set, or as typed where it was refused.
    pub keep: String,
    /// What would be collected now, oldest first.
    pub bundles: Vec<Bundle>,
}

pub fn page(frame: &Frame, view: &RetentionView, error: Option<&str>, errors: &[(String, Vec<String>)]) -> Markup {
    let base = format!("/projects/{}", query(&view.slug));
    let rows = html! {
        @for b in &view.bundles {
            tr {
                td .wrap { a href={ (base) "/bundles/" (b.id) } { (name(b)) } }
                td { (bundle_status(b.status)) }
                td .num { (b.size_bytes.map(size).unwrap_or_default()) }
                td { (when(b.created_at, frame.now)) }
            }
        }
    };
    let bytes: u64 = view.bundles.iter().filter_map(|b| b.size_bytes).sum();
    let body = html! {
        nav .crumbs aria-label="Breadcrumb" { a href={ (base) "/bundles" } { "Bundles" } }
        h1 { "Retention" }
        p .muted { "What a node runs or may go back to, what a rollout or a debt needs, and the newest compiled ones are kept. The rest is collected every now and then, row and archive." }
        (refusal(error, errors))
        section .card aria-labelledby="h-would" {
            h2 #h-would { "Nobody needs " (count(view.bundles.len() as i64, "bundle")) }
            @if view.bundles.is_empty() { p { "Collecting now would remove nothing." } }
            @else {
                p { "Collecting now would free " (size(bytes)) "." }
                (table("Would be collected", &["Bundle", "Status", "Size", "Created"], &rows))
                @if frame.may.bundles_write {
                    form #cmd-collect .commands method="post" action={ (base) "/retention" } {
                        (csrf(frame))
                        button .danger type="submit" { "Collect now" }
                    }
                }
            }
        }
        section .card aria-labelledby="h-keep" {
            h2 #h-keep { "Kept in any case" }
            @if frame.may.projects_write {
                form #cmd-keep .stack method="post" action={ (base) "/retention/keep" } {
                    (csrf(frame))
                    label for="keep" { "Newest compiled bundles" }
                    input #keep name="keep" inputmode="numeric" value=(view.keep) required autocomplete="off";
                    button type="submit" { "Save" }
                }
            } @else { p { "The newest " (view.keep) " compiled bundles." } }
        }
    };
    document(&Frame { tab: Tab::Bundles, ..frame.clone() }, "Retention", &body)
}
