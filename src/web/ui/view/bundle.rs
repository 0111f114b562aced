//! One bundle: what is in it, how risky it is, who runs it.

use super::bundles::{diagnostics, listing, name, size, source};
use super::parts::*;
use super::rollouts::{RolloutRow, rows};
use super::{Frame, Tab, document};
use domain::bundle::{Bundle, BundleStatus};
use maud::{Markup, html};

#[derive(Clone, Debug)]
pub struct BundleView {
    pub slug: String,
    pub bundle: Bundle,
    /// Path to text, as submitted.
    pub files: Vec<(String, String)>,
    pub running_on: i64,
    pub desired_on: i64,
    pub rollouts: Vec<RolloutRow>,
    pub src: String,
}

pub fn page(frame: &Frame, view: &BundleView) -> Markup {
    let b = &view.bundle;
    let base = format!("/projects/{}", query(&view.slug));
    let title = name(b);
    let usable = matches!(b.status, BundleStatus::Compiled | BundleStatus::Deprecated);
    let body = html! {
        nav .crumbs aria-label="Breadcrumb" { a href={ (base) "/bundles" } { "Bundles" } }
        div .head {
            h1 { (title) }
            div .commands {
                @if frame.may.rollouts_write && b.status == BundleStatus::Compiled {
                    a .button.primary href={ (base) "/rollouts/new?bundle=" (b.id) } { "Roll out" }
                }
                @if usable { a .button href={ (base) "/bundles/" (b.id) "/diff" } { "Changes" } }
                @if usable { a .button href={ "/api/v1" (base) "/bundles/" (b.id) "/download" } { "Download" } }
                @if frame.may.bundles_write && b.status == BundleStatus::Compiled {
                    form #cmd-deprecate method="post" action={ (base) "/bundles/" (b.id) "/deprecate" } {
                        (csrf(frame))
                        button type="submit" { "Deprecate" }
                    }
                }
                @if frame.may.bundles_write && usable { (revoke(frame, view, &base)) }
            }
        }
        (region(frame, view))
        (contents(view))
    };
    document(&Frame { tab: Tab::Bundles, ..frame.clone() }, &title, &body)
}

fn revoke(frame: &Frame, view: &BundleView, base: &str) -> Markup {
    html! {
        details .menu {
            summary .button { "Revoke…" }
            form #cmd-revoke .stack method="post" action={ (base) "/bundles/" (view.bundle.id) "/revoke" } {
                (csrf(frame))
                p { "Distribution stops at once and cannot be resumed. Nodes that run it keep it: " b .num { (view.running_on) } "." }
                label for="revoke-reason" { "Reason" }
                input #revoke-reason name="reason" maxlength="500" autocomplete="off";
                button .danger type="submit" { "Revoke this bundle" }
            }
        }
    }
}

pub fn region(frame: &Frame, view: &BundleView) -> Markup {
    let b = &view.bundle;
    let l = Live {
        name: "bundle",
        kinds: "bundle",
        id: Some(b.id.to_string()),
        version: 0,
        src: &view.src,
        every_ms: LIVE_ONE_MS,
    };
    live(
        &l,
        &html! {
            p .badges { (bundle_status(b.status)) " " (risk(b.risk)) }
            @if b.status == BundleStatus::Revoked {
                p .alert.bad { "Revoked" @if let Some(r) = &b.revoked_reason { ": " (r) } @else { "." } }
            }
            @if !b.errors.is_empty() {
                div .alert.bad { p { b { "Not compiled" } } (diagnostics(&b.errors)) }
            }
            @if !b.warnings.is_empty() {
                div .alert.warn { p { b { (count(b.warnings.len() as i64, "warning")) } } (diagnostics(&b.warnings)) }
            }
            div .columns {
                section .card aria-labelledby="h-bundle" {
                    h2 #h-bundle { "Bundle" }
                    dl {
                        dt { "Content id" } dd { @match &b.content_id { Some(c) => code .full { (c) }, None => "–" } }
                        dt { "Archive" } dd { @match &b.artifact_hash { Some(h) => (hash(h.prefixed())), None => "–" } @if let Some(n) = b.size_bytes { " " span .num { (size(n)) } } }
                        dt { "Signed by" } dd { @match &b.key_id { Some(k) => (hash(k)), None => "–" } }
                        dt { "Source" } dd .wrap { (source(b)) }
                        dt { "Created" } dd { (when(b.created_at, frame.now)) }
                        dt { "Built by" } dd { (b.builder) }
                        dt { "Row" } dd { code .full { (b.id) } }
                    }
                }
                section .card aria-labelledby="h-risk" {
                    h2 #h-risk { "Use and risk" }
                    dl {
                        dt { "Running on" } dd .num { a href={ "/projects/" (query(&view.slug)) "/nodes?bundle=" (b.id) } { (count(view.running_on, "node")) } }
                        dt { "Wanted on" } dd .num { (count(view.desired_on, "node")) }
                    }
                    h3 { "Risk compared with what the fleet ran" }
                    @if b.risk_reasons.is_empty() { p .muted { "No reason for concern was found." } }
                    ul .errors { @for r in &b.risk_reasons { li { (r) } } }
                }
            }
            @if !view.rollouts.is_empty() {
                section aria-labelledby="h-rollouts" {
                    h2 #h-rollouts { "Rollouts" }
                    (rows(frame, &view.slug, &view.rollouts))
                }
            }
        },
    )
}

fn contents(view: &BundleView) -> Markup {
    let b = &view.bundle;
    html! {
        @if !view.files.is_empty() {
            h2 { "Configuration" }
            @for (path, text) in &view.files {
                details open[view.files.len() == 1] {
                    summary { code { (path) } }
                    (listing(path, text, &b.warnings))
                }
            }
        }
        @if let Some(manifest) = &b.manifest {
            details {
                summary { h2 .inline { "Manifest" } }
                (json("Manifest", manifest))
            }
        }
        @if let Some(config) = &b.config {
            details {
                summary { h2 .inline { "Normalised configuration" } }
                (json("Normalised configuration", config))
            }
        }
    }
}
