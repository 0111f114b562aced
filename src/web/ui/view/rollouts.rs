//! The rollouts of a project.

use super::parts::*;
use super::{Frame, Tab, document};
use domain::Timestamp;
use domain::rollout::{Counts, Phase};
use maud::{Markup, html};

#[derive(Clone, Debug)]
pub struct RolloutRow {
    pub id: String,
    pub phase: Phase,
    pub counts: Counts,
    pub bundle: String,
    pub strategy: &'static str,
    /// What happens next, or what is awaited.
    pub reason: String,
    pub inserted_at: Timestamp,
}

#[derive(Clone, Debug, Default)]
pub struct RolloutsView {
    pub slug: String,
    pub rollouts: Vec<RolloutRow>,
    pub total: i64,
    pub state: String,
    pub next: Option<String>,
    pub first: Option<String>,
    pub src: String,
}

pub fn page(frame: &Frame, view: &RolloutsView) -> Markup {
    let base = format!("/projects/{}/rollouts", query(&view.slug));
    let body = html! {
        div .head {
            h1 { "Rollouts" }
            @if frame.may.rollouts_write { a .button.primary href={ (base) "/new" } { "New rollout" } }
        }
        form .filter method="get" action=(base) role="search" {
            div {
                label for="f-state" { "State" }
                select #f-state name="state" {
                    (choice("", "any", &view.state))
                    (choice("active", "active", &view.state))
                    @for p in Phase::ALL { (choice(p.as_str(), &words(p.as_str()), &view.state)) }
                }
            }
            button type="submit" { "Filter" }
            @if !view.state.is_empty() { a .clear href=(base) { "Clear" } }
        }
        (region(frame, view))
    };
    document(&Frame { tab: Tab::Rollouts, ..frame.clone() }, "Rollouts", &body)
}

pub fn region(frame: &Frame, view: &RolloutsView) -> Markup {
    let l = Live { name: "rollouts", kinds: "rollout", id: None, version: 0, src: &view.src, every_ms: LIVE_LIST_MS };
    live(
        &l,
        &html! {
            @if view.rollouts.is_empty() {
                @if !view.state.is_empty() { (empty("No rollout matches.")) }
                @else {
                    (empty_then("Nothing was rolled out yet. A rollout carries a bundle to the nodes, step by step.", frame.may.rollouts_write,
                        &format!("/projects/{}/rollouts/new", query(&view.slug)), "Plan the first rollout"))
                }
            } @else {
                (rows(frame, &view.slug, &view.rollouts))
            }
            (pager(view.rollouts.len(), view.total, "rollout", view.next.as_deref(), view.first.as_deref()))
        },
    )
}

pub fn rows(frame: &Frame, slug: &str, rollouts: &[RolloutRow]) -> Markup {
    let rows = html! {
        @for r in rollouts {
            tr id={ "r-" (r.id) } {
                td { a href={ "/projects/" (query(slug)) "/rollouts/" (r.id) } { (id(&r.id)) } }
                td { (phase(r.phase)) }
                td { (r.bundle) }
                td .progress-cell {
                    div .line { span .num { (percent_done(&r.counts)) " %" } span .muted.num.right { (r.counts.verified) "/" (r.counts.total) } }
                    (progress_bar(&r.counts))
                }
                td .wrap { (text(&r.reason)) }
                td { (words(r.strategy)) }
                td { (when(r.inserted_at, frame.now)) }
            }
        }
    };
    table("Rollouts", &["Rollout", "State", "Bundle", "Progress", "Reason", "Strategy", "Created"], &rows)
}
