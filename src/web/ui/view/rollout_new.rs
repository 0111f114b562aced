//! Making a rollout: a form, and what it would do.

use super::parts::*;
use super::{Frame, Tab, document};
use domain::rollout::{OnFailure, StrategyKind};
use maud::{Markup, html};

/// What was typed, as typed.
#[derive(Clone, Debug)]
pub struct Form {
    pub bundle: String,
    /// `key=value, key=value`; empty: all nodes.
    pub labels: String,
    pub strategy: String,
    pub batch_size: String,
    pub max_unavailable: String,
    pub failure_threshold: String,
    pub on_failure: String,
    pub min_healthy: String,
    pub deadline: String,
    pub max_error_rate: String,
    pub scheduled_at: String,
    pub start: bool,
    pub allow_failed: bool,
}

impl Default for Form {
    fn default() -> Form {
        Form {
            bundle: String::new(),
            labels: String::new(),
            strategy: StrategyKind::Rolling.as_str().into(),
            batch_size: "1".into(),
            max_unavailable: String::new(),
            failure_threshold: "0".into(),
            on_failure: OnFailure::Pause.as_str().into(),
            min_healthy: "0".into(),
            deadline: "600".into(),
            max_error_rate: String::new(),
            scheduled_at: String::new(),
            start: true,
            allow_failed: false,
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct NewRolloutView {
    pub slug: String,
    pub form: Form,
    /// Row id and name of bundles that can be rolled out, newest first.
    pub bundles: Vec<(String, String)>,
    pub errors: Vec<(String, Vec<String>)>,
    pub error: Option<String>,
    pub plan: Option<PlanView>,
}

#[derive(Clone, Debug, Default)]
pub struct PlanView {
    pub steps: Vec<PlanStep>,
    /// Steps beyond those that are shown.
    pub more_steps: usize,
    pub targets: usize,
    pub online: u32,
    pub offline: u32,
    pub already: u32,
    pub excluded: Vec<(String, String)>,
    pub more_excluded: usize,
    /// Seconds.
    pub takes: i64,
    pub basis: String,
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub struct PlanStep {
    pub size: usize,
    /// Names of the first few.
    pub nodes: Vec<String>,
}

pub fn page(frame: &Frame, view: &NewRolloutView) -> Markup {
    let base = format!("/projects/{}/rollouts", query(&view.slug));
    let body = html! {
        nav .crumbs aria-label="Breadcrumb" { a href=(base) { "Rollouts" } }
        h1 { "New rollout" }
        @if view.error.is_some() || !view.errors.is_empty() {
            div .alert.bad role="alert" {
                p { b { (view.error.as_deref().unwrap_or("Some fields are not right.")) } }
                @if !view.errors.is_empty() { (super::entry::field_errors(&view.errors)) }
            }
        }
        @if view.bundles.is_empty() {
            p .alert.warn { "There is no compiled bundle yet. " a href={ "/projects/" (query(&view.slug)) "/bundles/new" } { "Make one first." } }
        }
        @if let Some(plan) = &view.plan { (preview(plan)) }
        (form(frame, view, &base))
    };
    document(&Frame { tab: Tab::Rollouts, ..frame.clone() }, "New rollout", &body)
}

fn form(frame: &Frame, view: &NewRolloutView, base: &str) -> Markup {
    let f = &view.form;
    let field = |name: &str, label: &str, hint: &str, value: &str| {
        html! {
            div {
                label for=(name) { (label) }
                input id=(name) name=(name) value=(value) autocomplete="off" spellcheck="false" aria-describedby={ (name) "-hint" };
                p .hint id={ (name) "-hint" } { (hint) }
            }
        }
    };
    html! {
        form .card method="post" action={ (base) "/new" } {
            (csrf(frame))
            div .fields {
                div {
                    label for="bundle" { "Bundle" }
                    select #bundle name="bundle" required {
                        @for (id, name) in &view.bundles { (choice(id, name, &f.bundle)) }
                    }
                }
                (field("labels", "Targets", "Labels as key=value, separated by commas. Empty: all nodes.", &f.labels))
                div {
                    label for="strategy" { "Strategy" }
                    select #strategy name="strategy" {
                        @for s in StrategyKind::ALL {
                            (choice(s.as_str(), &words(s.as_str()), &f.strategy))
                        }
                    }
                }
                (field("batch_size", "Batch size", "Nodes of one step: a number or a percentage.", &f.batch_size))
                (field("max_unavailable", "Max. unavailable", "A number or a percentage. Empty: the batch is the limit.", &f.max_unavailable))
                (field("failure_threshold", "Failures tolerated", "A number or a percentage.", &f.failure_threshold))
                div {
                    label for="on_failure" { "Then" }
                    select #on_failure name="on_failure" {
                        @for o in OnFailure::ALL { (choice(o.as_str(), o.as_str(), &f.on_failure)) }
                    }
                }
                (field("min_healthy", "Healthy for", "Seconds that every check must hold on a node.", &f.min_healthy))
                (field("max_error_rate", "Max. error rate", "Percent. Empty: not judged.", &f.max_error_rate))
                (field("deadline", "Deadline", "Seconds a node may go without progress.", &f.deadline))
                (field("scheduled_at", "Start at", "RFC 3339, e.g. 2026-12-01T06:00:00Z. Empty: as soon as allowed.", &f.scheduled_at))
            }
            p .check {
                input #start type="checkbox" name="start" value="1" checked[f.start];
                label for="start" { "Start by itself (otherwise it waits for Start)" }
            }
            p .check {
                input #allow_failed type="checkbox" name="allow_failed" value="1" checked[f.allow_failed];
                label for="allow_failed" { "Even where this bundle failed or was rolled back before" }
            }
            div .commands {
                button type="submit" name="do" value="plan" { "Preview plan" }
                button .primary type="submit" name="do" value="create" { "Create rollout" }
            }
        }
    }
}

fn preview(plan: &PlanView) -> Markup {
    let rows = html! {
        @for (i, s) in plan.steps.iter().enumerate() {
            tr {
                td .num { (i + 1) }
                td .num { (s.size) }
                td .wrap { (s.nodes.join(", ")) @if s.size > s.nodes.len() { span .muted { " and " (s.size - s.nodes.len()) " more" } } }
            }
        }
    };
    html! {
        section .card #plan aria-labelledby="h-plan" {
            h2 #h-plan { "Plan" }
            p .stats {
                span { b { (plan.targets) } (noun(plan.targets as i64, " target")) }
                span { b { (plan.online) } " online" }
                span { b { (plan.offline) } " offline" }
                span { b { (plan.already) } " run it already" }
                span { b { (plan.steps.len() + plan.more_steps) } (noun((plan.steps.len() + plan.more_steps) as i64, " step")) }
            }
            p .muted { "Takes about " b .num { (plan.takes) " s" } ": " (plan.basis) "." }
            @for w in &plan.warnings { p .alert.warn { (w) } }
            @if !plan.steps.is_empty() { (table("Steps of the plan", &["Step", "Nodes", "Which"], &rows)) }
            @if plan.more_steps > 0 { p .muted { "and " (plan.more_steps) " more steps" } }
            @if !plan.excluded.is_empty() {
                h3 { "Left out" }
                ul .errors {
                    @for (node, why) in &plan.excluded { li { (node) ": " (words(why)) } }
                    @if plan.more_excluded > 0 { li .muted { "and " (plan.more_excluded) " more" } }
                }
            }
        }
    }
}
