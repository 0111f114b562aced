//! What goes into every bundle beside the configuration, and the rules that every configuration keeps to.

use super::bundles::size;
use super::parts::*;
use super::{Frame, Tab, document};
use maud::{Markup, html};
use store::Resource;

#[derive(Clone, Debug, Default)]
pub struct ResourcesView {
    pub slug: String,
    pub resources: Vec<Resource>,
    /// As typed, where it was refused.
    pub path: String,
    pub text: String,
    pub errors: Vec<(String, Vec<String>)>,
    pub error: Option<String>,
}

pub fn refusal(error: Option<&str>, errors: &[(String, Vec<String>)]) -> Markup {
    html! {
        @if error.is_some() || !errors.is_empty() {
            div .alert.bad role="alert" {
                p { b { (error.unwrap_or("Some fields are not right.")) } }
                @if !errors.is_empty() { (super::entry::field_errors(errors)) }
            }
        }
    }
}

pub fn resources(frame: &Frame, view: &ResourcesView) -> Markup {
    let base = format!("/projects/{}", query(&view.slug));
    let rows = html! {
        @for r in &view.resources {
            tr {
                td .wrap { code { (r.path) } }
                td .num { (size(r.size_bytes)) }
                td { (hash(r.hash)) }
                td { (when(r.updated_at, frame.now)) }
                td {
                    div .inline-form {
                        a .button href={ "/api/v1" (base) "/resources/" (r.id) "/content" } download { "Download" }
                        @if frame.may.bundles_write {
                            form method="post" action={ (base) "/resources/" (r.id) "/delete" } {
                                (csrf(frame))
                                button type="submit" aria-label={ "Delete " (r.path) } { "Delete" }
                            }
                        }
                    }
                }
            }
        }
    };
    let body = html! {
        div .head {
            h1 { "Resources" }
            div .commands { a .button href={ (base) "/rules" } { "Rules and secrets" } }
        }
        p .muted { "Certificates, trust stores and plugins that go into every bundle compiled from now on. Private keys never do: a configuration names them as " code { "secrets/NAME" } ", and each node has its own." }
        (refusal(view.error.as_deref(), &view.errors))
        @if view.resources.is_empty() { (empty("There is no resource. Put one below, and name it in the configuration by its path.")) }
        @else { (table("Resources", &["Path", "Size", "Hash", "Changed", "Action"], &rows)) }
        @if frame.may.bundles_write {
            section .card aria-labelledby="h-new" {
                h2 #h-new { "Put a file" }
                form #cmd-resource .stack method="post" action={ (base) "/resources" } {
                    (csrf(frame))
                    label for="resource-path" { "Path " span .muted { "(certs/…, trust/… or plugins/…)" } }
                    input #resource-path name="path" value=(view.path) required maxlength="200" autocomplete="off" spellcheck="false";
                    label for="resource-text" { "Content" }
                    textarea #resource-text .code name="text" rows="8" required spellcheck="false" aria-describedby="resource-hint" { (view.text) }
                    p #resource-hint .hint { "What is at the path is replaced. Bundles that exist keep what they have. Files that are no text are put with the API or " code { "ctl" } "." }
                    button .primary type="submit" { "Put" }
                }
            }
        }
    };
    document(&Frame { tab: Tab::Resources, ..frame.clone() }, "Resources", &body)
}

/// Lists have one entry on each line.
#[derive(Clone, Debug, Default)]
pub struct RulesView {
    pub slug: String,
    pub required: String,
    pub forbidden: String,
    pub schema: String,
    pub secrets: String,
    pub strict: bool,
    pub errors: Vec<(String, Vec<String>)>,
    pub error: Option<String>,
}

pub fn rules(frame: &Frame, view: &RulesView) -> Markup {
    let base = format!("/projects/{}", query(&view.slug));
    let may = frame.may.projects_write;
    let field = |id: &str, label: &str, hint: &str, rows: u32, text: &str| {
        html! {
            label for=(id) { (label) }
            textarea .code id=(id) name=(id) rows=(rows) spellcheck="false" readonly[!may] aria-describedby={ (id) "-hint" } { (text) }
            p .hint id={ (id) "-hint" } { (hint) }
        }
    };
    let fields = html! {
        (field("required", "Required", "One path of the normalised configuration on each line, like /listeners/*/tls: it must be there under every parent.", 4, &view.required))
        (field("forbidden", "Forbidden", "One path on each line: it must not be there.", 4, &view.forbidden))
        (field("schema", "JSON schema", "Of the normalised configuration. Keywords that would need a reference are refused when it is saved.", 10, &view.schema))
        (field("secrets", "Names of secrets", "One on each line. A configuration may refer to secrets/NAME; every node has the file or variable.", 4, &view.secrets))
    };
    let body = html! {
        nav .crumbs aria-label="Breadcrumb" { a href={ (base) "/resources" } { "Resources" } }
        h1 { "Rules and secrets" }
        p .muted {
            "Judged at every compile, beside what the proxy itself says. Unknown keys are "
            @if view.strict { "errors" } @else { "warnings" }
            " here (" a href={ (base) "/settings" } { "settings" } ")."
        }
        (refusal(view.error.as_deref(), &view.errors))
        @if may {
            form #cmd-rules .stack.card method="post" action={ (base) "/rules" } {
                (csrf(frame))
                (fields)
                button .primary type="submit" { "Save" }
            }
        } @else { div .stack.card { (fields) } }
    };
    document(&Frame { tab: Tab::Resources, ..frame.clone() }, "Rules and secrets", &body)
}
