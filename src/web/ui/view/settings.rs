//! What a project is called, whom it lets in, and its end.

use super::parts::*;
use super::{Frame, Tab, document};
use maud::{Markup, html};

#[derive(Clone, Debug, Default)]
pub struct SettingsView {
    pub slug: String,
    pub name: String,
    pub description: String,
    pub open_registration: bool,
    pub strict_config: bool,
    pub drift_remediation: bool,
    pub errors: Vec<(String, Vec<String>)>,
    /// Why the last attempt was refused as a whole.
    pub error: Option<String>,
}

pub fn page(frame: &Frame, view: &SettingsView) -> Markup {
    let base = format!("/projects/{}/settings", query(&view.slug));
    let body = html! {
        h1 { "Settings" }
        @if view.error.is_some() || !view.errors.is_empty() {
            div .alert.bad role="alert" {
                p { b { (view.error.as_deref().unwrap_or("Some fields are not right.")) } }
                @if !view.errors.is_empty() { (super::entry::field_errors(&view.errors)) }
            }
        }
        @if frame.may.projects_write { (form(frame, view, &base)) (end(frame, view, &base)) } @else { (facts(view)) }
    };
    document(&Frame { tab: Tab::Settings, ..frame.clone() }, "Settings", &body)
}

fn form(frame: &Frame, view: &SettingsView, base: &str) -> Markup {
    html! {
        form #cmd-settings .stack.card method="post" action=(base) {
            (csrf(frame))
            label for="settings-name" { "Name" }
            input #settings-name name="name" value=(view.name) required maxlength="100" autocomplete="off";
            label for="settings-description" { "Description" }
            input #settings-description name="description" value=(view.description) maxlength="1000" autocomplete="off";
            p .check {
                input #settings-open type="checkbox" name="open_registration" value="1" checked[view.open_registration] aria-describedby="open-hint";
                label for="settings-open" { "Open registration" }
            }
            p #open-hint .hint { "Nodes may enrol without a token. They get no bundle until somebody adopts them." }
            p .check {
                input #settings-strict type="checkbox" name="strict_config" value="1" checked[view.strict_config] aria-describedby="strict-hint";
                label for="settings-strict" { "Strict configurations" }
            }
            p #strict-hint .hint { "Keys that the proxy does not know are errors, not warnings: nothing with a typing mistake is compiled." }
            p .check {
                input #settings-drift type="checkbox" name="drift_remediation" value="1" checked[view.drift_remediation] aria-describedby="drift-hint";
                label for="settings-drift" { "Repair drift" }
            }
            p #drift-hint .hint { "A node that runs something else than it was told gets its bundle again by a rollout, once; after that somebody decides." }
            button .primary type="submit" { "Save" }
        }
    }
}

fn end(frame: &Frame, view: &SettingsView, base: &str) -> Markup {
    html! {
        section .card aria-labelledby="h-end" {
            h2 #h-end { "Delete this project" }
            p { "Its nodes are shut out at once and keep what they run. Rollouts must have ended. This cannot be undone." }
            form #cmd-delete .stack method="post" action={ (base) "/delete" } {
                (csrf(frame))
                label for="delete-confirm" { "To confirm, type " code { (view.slug) } }
                input #delete-confirm name="confirm" required autocomplete="off" spellcheck="false";
                button .danger type="submit" { "Delete project" }
            }
        }
    }
}

fn facts(view: &SettingsView) -> Markup {
    let yes = |b: bool| if b { "yes" } else { "no" };
    html! {
        dl .card {
            dt { "Name" } dd { (view.name) }
            dt { "Description" } dd .wrap { (view.description) }
            dt { "Open registration" } dd { (yes(view.open_registration)) }
            dt { "Strict configurations" } dd { (yes(view.strict_config)) }
            dt { "Repair drift" } dd { (yes(view.drift_remediation)) }
        }
    }
}
