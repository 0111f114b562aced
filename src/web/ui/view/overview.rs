//! All projects at a glance: who is there, what is going on, what is new.

use super::parts::*;
use super::{Frame, Tab, document};
use domain::Timestamp;
use domain::bundle::{BundleStatus, RiskLevel};
use domain::rollout::{Counts, Phase};
use maud::{Markup, html};

#[derive(Clone, Debug, Default)]
pub struct OverviewView {
    pub projects: Vec<ProjectCard>,
    pub total: i64,
    pub next: Option<String>,
    pub first: Option<String>,
    /// Path and query of this page.
    pub src: String,
}

#[derive(Clone, Debug, Default)]
pub struct ProjectCard {
    pub name: String,
    pub slug: String,
    pub description: String,
    pub nodes: i64,
    pub online: i64,
    pub offline: i64,
    pub quarantined: i64,
    pub rollouts: Vec<RolloutLine>,
    /// Active ones that are not listed.
    pub more_rollouts: i64,
    pub bundles: Vec<BundleLine>,
}

#[derive(Clone, Debug)]
pub struct RolloutLine {
    pub id: String,
    pub phase: Phase,
    pub counts: Counts,
    pub bundle: String,
    pub reason: String,
}

#[derive(Clone, Debug)]
pub struct BundleLine {
    pub id: String,
    pub name: String,
    pub status: BundleStatus,
    pub risk: RiskLevel,
    pub created_at: Timestamp,
}

pub fn page(frame: &Frame, view: &OverviewView) -> Markup {
    let body = html! {
        div .head { h1 { "Projects" } }
        (region(frame, view))
        @if frame.may.projects_write { (new_project(frame)) }
    };
    document(&Frame { tab: Tab::Projects, ..frame.clone() }, "Projects", &body)
}

pub fn region(frame: &Frame, view: &OverviewView) -> Markup {
    let l = Live {
        name: "overview",
        kinds: "rollout node bundle project",
        id: None,
        version: 0,
        src: &view.src,
        every_ms: LIVE_LIST_MS,
    };
    live(
        &l,
        &html! {
            @if view.projects.is_empty() { (empty("There is no project yet. Make one below: it holds nodes, their bundles and rollouts.")) }
            div .cards { @for p in &view.projects { (card(frame, p)) } }
            @if view.next.is_some() || view.first.is_some() {
                (pager(view.projects.len(), view.total, "project", view.next.as_deref(), view.first.as_deref()))
            }
        },
    )
}

fn card(frame: &Frame, p: &ProjectCard) -> Markup {
    let base = format!("/projects/{}", query(&p.slug));
    html! {
        section .card id={ "project-" (p.slug) } aria-labelledby={ "name-" (p.slug) } {
            h2 id={ "name-" (p.slug) } { a href={ (base) "/rollouts" } { (p.name) } }
            @if !p.description.is_empty() { p .muted { (p.description) } }
            p .stats {
                a href={ (base) "/nodes" } { b { (p.nodes) } (noun(p.nodes, " node")) }
                a href={ (base) "/nodes?status=online" } { b .ok-text { (p.online) } " online" }
                a href={ (base) "/nodes?status=offline" } { b .bad-text[p.offline > 0] { (p.offline) } " offline" }
                @if p.quarantined > 0 {
                    a href={ (base) "/nodes?standing=quarantined" } { b .warn-text { (p.quarantined) } " to adopt" }
                }
            }
            h3 { "Active rollouts" }
            @if p.rollouts.is_empty() { p .muted { "None." } }
            ul .lines {
                @for r in &p.rollouts {
                    li id={ "r-" (r.id) } {
                        div .line {
                            (phase(r.phase))
                            a href={ (base) "/rollouts/" (r.id) } { (r.bundle) }
                            span .num.right { (percent_done(&r.counts)) " %" }
                        }
                        (progress_bar(&r.counts))
                        p .reason { (text(&r.reason)) }
                    }
                }
            }
            @if p.more_rollouts > 0 { p { a href={ (base) "/rollouts" } { "and " (p.more_rollouts) " more" } } }
            h3 { "Newest bundles" }
            @if p.bundles.is_empty() { p .muted { "None." } }
            ul .lines {
                @for b in &p.bundles {
                    li id={ "b-" (b.id) } {
                        div .line {
                            a href={ (base) "/bundles/" (b.id) } { (b.name) }
                            @if b.status != BundleStatus::Compiled { (bundle_status(b.status)) }
                            @if b.risk != RiskLevel::Low { (risk(b.risk)) }
                            span .muted.right { (when(b.created_at, frame.now)) }
                        }
                    }
                }
            }
        }
    }
}

fn new_project(frame: &Frame) -> Markup {
    html! {
        details .card.below {
            summary { "New project" }
            form .stack method="post" action="/projects" {
                (csrf(frame))
                label for="project-new-name" { "Name" }
                input #project-new-name name="name" required maxlength="100" autocomplete="off";
                label for="project-new-description" { "Description " span .muted { "(optional)" } }
                input #project-new-description name="description" maxlength="1000" autocomplete="off";
                button .primary type="submit" { "Create project" }
            }
        }
    }
}
