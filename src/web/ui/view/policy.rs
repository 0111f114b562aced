//! What stands around rollouts: freeze windows and the red button, environments, templates.

use super::parts::*;
use super::{Frame, Tab, document};
use domain::Timestamp;
use maud::{Markup, html};

#[derive(Clone, Debug, Default)]
pub struct PolicyView {
    pub slug: String,
    pub freezes: Vec<FreezeLine>,
    pub environments: Vec<EnvironmentLine>,
    pub templates: Vec<TemplateLine>,
    pub errors: Vec<(String, Vec<String>)>,
    /// Why the last attempt was refused as a whole.
    pub error: Option<String>,
}

#[derive(Clone, Debug)]
pub struct FreezeLine {
    pub id: String,
    pub name: String,
    pub reason: String,
    /// The environment it binds; `None`: all of the project.
    pub environment: Option<String>,
    pub starts_at: Timestamp,
    pub ends_at: Option<Timestamp>,
    pub holds: bool,
    /// Of this project, so that it can be ended here.
    pub own: bool,
}

#[derive(Clone, Debug)]
pub struct EnvironmentLine {
    pub id: String,
    pub name: String,
    pub slug: String,
    pub selector: String,
    /// People who must agree; 0: nobody.
    pub people: u32,
}

#[derive(Clone, Debug)]
pub struct TemplateLine {
    pub id: String,
    pub name: String,
    pub settings: serde_json::Value,
}

pub fn page(frame: &Frame, view: &PolicyView) -> Markup {
    let base = format!("/projects/{}/policy", query(&view.slug));
    let held = view.freezes.iter().any(|f| f.holds && f.environment.is_none());
    let body = html! {
        h1 { "Policy" }
        p .muted { "What stands around rollouts. A rollout is never held up by anything that is not said here, on its own page, or in the project's settings." }
        @if view.error.is_some() || !view.errors.is_empty() {
            div .alert.bad role="alert" {
                p { b { (view.error.as_deref().unwrap_or("Some fields are not right.")) } }
                @if !view.errors.is_empty() { (super::entry::field_errors(&view.errors)) }
            }
        }
        @if held { p .alert.warn role="status" { "Held: nothing is assigned in this project until the freeze ends. Rollbacks go on." } }
        @else if frame.may.rollouts_write { (hold(frame, &base)) }
        (freezes(frame, view, &base))
        (environments(frame, view, &base))
        (templates(frame, view, &base))
    };
    document(&Frame { tab: Tab::Policy, ..frame.clone() }, "Policy", &body)
}

/// The red button.
fn hold(frame: &Frame, base: &str) -> Markup {
    html! {
        details .menu #menu-hold {
            summary .button.danger { "Hold everything…" }
            form #cmd-hold .stack method="post" action={ (base) "/freezes" } {
                (csrf(frame))
                input type="hidden" name="name" value="hold";
                p { "From now on nothing is assigned in this project, until somebody ends it here. Rollbacks go on." }
                label for="hold-reason" { "Reason" }
                input #hold-reason name="reason" required maxlength="500" autocomplete="off";
                button .danger type="submit" { "Hold everything" }
            }
        }
    }
}

fn remove(frame: &Frame, base: &str, kind: &str, id: &str, name: &str, label: &str) -> Markup {
    html! {
        @if frame.may.rollouts_write {
            form method="post" action={ (base) "/" (kind) "/" (id) "/delete" } {
                (csrf(frame))
                button type="submit" aria-label={ (label) " " (name) } { (label) }
            }
        }
    }
}

fn freezes(frame: &Frame, view: &PolicyView, base: &str) -> Markup {
    let rows = html! {
        @for f in &view.freezes {
            tr {
                td { (f.name) }
                td .wrap { (f.reason) }
                td { @if let Some(e) = &f.environment { (e) } @else { span .muted { "the project" } } }
                td { @if f.holds { (badge(Tone::Warn, "holds")) } @else if f.starts_at > frame.now { (badge(Tone::Quiet, "ahead")) } @else { (badge(Tone::Quiet, "over")) } }
                td { (when(f.starts_at, frame.now)) }
                td { (when_or(f.ends_at, frame.now, "until somebody ends it")) }
                td { @if f.own { (remove(frame, base, "freezes", &f.id, &f.name, if f.holds { "End" } else { "Delete" })) } @else { span .muted { "of the organisation" } } }
            }
        }
    };
    html! {
        section aria-labelledby="h-freezes" {
            h2 #h-freezes { "Freeze windows" }
            @if view.freezes.is_empty() { (empty("There is no freeze window: rollouts may go on at any time.")) }
            @else { (table("Freeze windows", &["Name", "Reason", "Binds", "State", "Begins", "Ends", "Action"], &rows)) }
            @if frame.may.rollouts_write {
                details .card {
                    summary { "New freeze window" }
                    form #cmd-freeze .stack method="post" action={ (base) "/freezes" } {
                        (csrf(frame))
                        label for="freeze-name" { "Name" }
                        input #freeze-name name="name" required maxlength="100" autocomplete="off";
                        label for="freeze-reason" { "Reason" }
                        input #freeze-reason name="reason" required maxlength="500" autocomplete="off";
                        label for="freeze-from" { "From " span .muted { "(RFC 3339, e.g. 2026-12-24T12:00:00Z; empty: now)" } }
                        input #freeze-from name="starts_at" autocomplete="off" spellcheck="false";
                        label for="freeze-until" { "Until " span .muted { "(empty: until somebody ends it)" } }
                        input #freeze-until name="ends_at" autocomplete="off" spellcheck="false";
                        label for="freeze-environment" { "Binds" }
                        select #freeze-environment name="environment" {
                            option value="" { "every rollout of the project" }
                            @for e in &view.environments { option value=(e.id) { "rollouts that reach into " (e.name) } }
                        }
                        button .primary type="submit" { "Make freeze window" }
                    }
                }
            }
        }
    }
}

fn environments(frame: &Frame, view: &PolicyView, base: &str) -> Markup {
    let rows = html! {
        @for e in &view.environments {
            tr {
                td { (e.name) }
                td { code { (e.slug) } }
                td .wrap { (e.selector) }
                td .num { @if e.people == 0 { span .muted { "nobody" } } @else { (count(i64::from(e.people), "person")) } }
                td { (remove(frame, base, "environments", &e.id, &e.name, "Delete")) }
            }
        }
    };
    html! {
        section aria-labelledby="h-environments" {
            h2 #h-environments { "Environments" }
            @if view.environments.is_empty() { (empty("There is no environment. One owns a part of the fleet, and its rules bind every rollout with a target in it.")) }
            @else { (table("Environments", &["Name", "Short", "Nodes", "Must agree", "Action"], &rows)) }
            @if frame.may.rollouts_write {
                details .card {
                    summary { "New environment" }
                    form #cmd-environment .stack method="post" action={ (base) "/environments" } {
                        (csrf(frame))
                        label for="environment-name" { "Name" }
                        input #environment-name name="name" required maxlength="100" autocomplete="off";
                        label for="environment-labels" { "Nodes " span .muted { "(labels as key=value, separated by commas; empty: all)" } }
                        input #environment-labels name="labels" autocomplete="off" spellcheck="false";
                        label for="environment-people" { "People who must agree to a rollout " span .muted { "(0: nobody)" } }
                        input #environment-people name="people" inputmode="numeric" value="0" autocomplete="off";
                        button .primary type="submit" { "Make environment" }
                    }
                }
            }
        }
    }
}

fn templates(frame: &Frame, view: &PolicyView, base: &str) -> Markup {
    let rows = html! {
        @for t in &view.templates {
            tr {
                td { (t.name) }
                td .wrap { (super::audit::unfolding(&format!("Settings of {}", t.name), &t.settings)) }
                td { code .label { "\"template_id\": \"" (t.id) "\"" } }
                td { (remove(frame, base, "templates", &t.id, &t.name, "Delete")) }
            }
        }
    };
    html! {
        section aria-labelledby="h-templates" {
            h2 #h-templates { "Rollout templates" }
            @if view.templates.is_empty() { (empty("There is no template. One keeps the settings of a rollout under a name.")) }
            @else { (table("Rollout templates", &["Name", "Settings", "In a request", "Action"], &rows)) }
            @if frame.may.rollouts_write {
                details .card {
                    summary { "New template" }
                    form #cmd-template .stack method="post" action={ (base) "/templates" } {
                        (csrf(frame))
                        label for="template-name" { "Name" }
                        input #template-name name="name" required maxlength="100" autocomplete="off";
                        label for="template-settings" { "Settings, as the API takes them" }
                        textarea #template-settings name="settings" rows="8" required spellcheck="false" { "{\"strategy\": \"rolling\", \"batch_size\": \"10%\"}" }
                        button .primary type="submit" { "Keep template" }
                    }
                }
            }
        }
    }
}
