//! What lets machines in: enrolment tokens of nodes, and API keys.

use super::parts::*;
use super::{Frame, Tab, document};
use domain::access::{ApiKey, KeyScope};
use domain::node::Labels;
use domain::{Timestamp, project};
use maud::{Markup, html};

#[derive(Clone, Debug, Default)]
pub struct TokensView {
    pub slug: String,
    pub tokens: Vec<TokenLine>,
    /// Its text, shown once, right after it was made.
    pub made: Option<Made>,
    /// What nodes reach us by.
    pub public_url: String,
}

#[derive(Clone, Debug)]
pub struct TokenLine {
    pub id: String,
    pub name: String,
    pub uses: u32,
    pub max_uses: Option<u32>,
    pub labels: Labels,
    pub allow_replace: bool,
    pub expires_at: Option<Timestamp>,
    pub inserted_at: Timestamp,
}

#[derive(Clone, Debug)]
pub struct Made {
    pub name: String,
    pub text: String,
}

fn once(made: &Made, what: &str) -> Markup {
    html! {
        div .alert.ok role="status" {
            p { (what) " " b { (made.name) } ". It is shown this once; only its hash is kept." }
            p { code .secret { (made.text) } }
        }
    }
}

pub fn tokens(frame: &Frame, view: &TokensView) -> Markup {
    let base = format!("/projects/{}/tokens", query(&view.slug));
    let rows = html! {
        @for t in &view.tokens {
            tr {
                td { (t.name) }
                td .num { (t.uses) @if let Some(most) = t.max_uses { " of " (most) } }
                td .wrap { (super::nodes::labels(&t.labels, 5)) }
                td { @if t.allow_replace { "yes" } @else { "no" } }
                td { (when_or(t.expires_at, frame.now, "never")) }
                td { (when(t.inserted_at, frame.now)) }
                td {
                    @if frame.may.nodes_write {
                        form method="post" action={ (base) "/" (t.id) "/delete" } {
                            (csrf(frame))
                            button type="submit" aria-label={ "Delete " (t.name) } { "Delete" }
                        }
                    }
                }
            }
        }
    };
    let body = html! {
        h1 { "Enrolment" }
        p .muted { "A node enrols with a token and gets a key of its own. Then it polls " code { (view.public_url) } "." }
        @if let Some(made) = &view.made { (once(made, "Token")) (agent(view, made)) }
        @if view.tokens.is_empty() { (empty("There is no enrolment token. Make one below; each says how many nodes it lets in, and for how long.")) }
        @else { (table("Enrolment tokens", &["Name", "Uses", "Labels", "Replaces", "Expires", "Created", "Action"], &rows)) }
        @if frame.may.nodes_write {
            section .card aria-labelledby="h-new" {
                h2 #h-new { "New token" }
                form .stack method="post" action=(base) {
                    (csrf(frame))
                    label for="token-name" { "Name" }
                    input #token-name name="name" required maxlength="100" autocomplete="off";
                    label for="token-uses" { "Uses " span .muted { "(empty: unlimited)" } }
                    input #token-uses name="max_uses" inputmode="numeric" autocomplete="off";
                    label for="token-hours" { "Valid for hours " span .muted { "(empty: for ever)" } }
                    input #token-hours name="hours" inputmode="numeric" value="24" autocomplete="off";
                    label for="token-labels" { "Labels " span .muted { "(key=value, separated by commas)" } }
                    input #token-labels name="labels" autocomplete="off" spellcheck="false";
                    p .check {
                        input #token-replace type="checkbox" name="allow_replace" value="1";
                        label for="token-replace" { "May take the place of an offline node of the same name" }
                    }
                    button .primary type="submit" { "Make token" }
                }
            }
        }
    };
    document(&Frame { tab: Tab::Tokens, ..frame.clone() }, "Enrolment", &body)
}

/// What to do with a token: the command for the host of a proxy.
fn agent(view: &TokensView, made: &Made) -> Markup {
    html! {
        section .card aria-labelledby="h-agent" {
            h2 #h-agent { "On the host of a proxy" }
            pre .code tabindex="0" role="group" aria-label="Command for the host of a proxy" {
                "sentinel-cp agent --url " (view.public_url) " --project " (view.slug) " --token " (made.text) " --proxy-bin /usr/local/bin/zentinel --state-dir /var/lib/sentinel-agent"
            }
            p .muted { "The node then appears under " a href={ "/projects/" (query(&view.slug)) "/nodes" } { "Nodes" } ". " code { "sentinel-cp agent --help" } " has the rest." }
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct KeysView {
    pub slug: String,
    pub keys: Vec<ApiKey>,
    pub made: Option<Made>,
}

pub fn keys(frame: &Frame, view: &KeysView) -> Markup {
    let base = format!("/projects/{}/keys", query(&view.slug));
    let rows = html! {
        @for k in &view.keys {
            tr {
                td { (k.name) }
                td { code { (k.prefix) "…" } }
                td .wrap { @for s in &k.scopes { code .label { (s) } " " } @if k.scopes.is_empty() { span .muted { "none" } } }
                td { @if k.project.is_some() { "this project" } @else { "organisation" } }
                td { (when_or(k.last_used_at, frame.now, "never")) }
                td {
                    @if k.revoked_at.is_some() { (badge(Tone::Bad, "revoked")) }
                    @else if k.expires_at.is_some_and(|t| t <= frame.now) { (badge(Tone::Quiet, "expired")) }
                    @else { (when_or(k.expires_at, frame.now, "never")) }
                }
                td {
                    @if frame.may.keys_admin && k.revoked_at.is_none() {
                        form method="post" action={ (base) "/" (k.id) "/revoke" } {
                            (csrf(frame))
                            button type="submit" aria-label={ "Revoke " (k.name) } { "Revoke" }
                        }
                    }
                }
            }
        }
    };
    let body = html! {
        h1 { "API keys" }
        p .muted { "For scripts and pipelines, as " code { "Authorization: Bearer" } "." }
        @if let Some(made) = &view.made { (once(made, "Key")) }
        @if view.keys.is_empty() { (empty("There is no API key. Make one below for what a script needs, and no more.")) }
        @else { (table("API keys", &["Name", "Begins", "Scopes", "For", "Last used", "Expires", "Action"], &rows)) }
        @if frame.may.keys_admin {
            section .card aria-labelledby="h-new" {
                h2 #h-new { "New key for this project" }
                form .stack method="post" action=(base) {
                    (csrf(frame))
                    label for="key-name" { "Name" }
                    input #key-name name="name" required maxlength="100" autocomplete="off";
                    label for="key-days" { "Valid for days " span .muted { "(empty: for ever)" } }
                    input #key-days name="days" inputmode="numeric" value="90" autocomplete="off";
                    fieldset {
                        legend { "Scopes" }
                        div .checks {
                            @for s in KeyScope::ALL {
                                p .check {
                                    input id={ "scope-" (s) } type="checkbox" name={ "scope[" (s) "]" } value="1";
                                    label for={ "scope-" (s) } { code { (s) } }
                                }
                            }
                        }
                    }
                    button .primary type="submit" { "Make key" }
                }
            }
        }
    };
    document(&Frame { tab: Tab::Keys, ..frame.clone() }, "API keys", &body)
}

/// `a=b, c=d`. Errors: what is wrong, for people.
pub fn parse_labels(text: &str) -> Result<Labels, String> {
    let mut out = Labels::new();
    for pair in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(|| format!("{pair:?} is not key=value"))?;
        out.insert(key.trim().to_string(), value.trim().to_string());
    }
    domain::node::check_labels(&out)?;
    Ok(out)
}

/// `5` or `25%`. Errors: for people.
pub fn parse_amount(text: &str) -> Result<project::Amount, String> {
    project::Amount::parse(text.trim()).ok_or_else(|| "must be a number or a percentage up to 100%".to_string())
}
