//! The audit log: who did what, and whether anybody changed it afterwards.

use super::parts::*;
use super::{Frame, Tab, document};
use domain::audit::{Entry, Verdict};
use maud::{Markup, html};
use serde_json::Value;
use std::collections::BTreeMap;

#[derive(Clone, Debug, Default)]
pub struct AuditView {
    /// The path of this page.
    pub path: String,
    pub entries: Vec<Entry>,
    pub total: i64,
    pub filter: AuditFilter,
    pub error: Option<String>,
    pub next: Option<String>,
    pub first: Option<String>,
    /// Asked for: what following the chain found.
    pub verdict: Option<Verdict>,
    /// Names of people and keys.
    pub actors: BTreeMap<String, String>,
    /// Slugs of the projects that entries are about.
    pub projects: BTreeMap<String, String>,
    /// What the filters leave, as files: what each is called, and where it is. None for several chains at once.
    pub exports: Vec<(&'static str, String)>,
}

/// As typed.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    pub action: String,
    pub actor: String,
    pub since: String,
    pub until: String,
    pub resource: String,
}

impl AuditFilter {
    pub fn is_set(&self) -> bool {
        [&self.action, &self.actor, &self.since, &self.until, &self.resource].iter().any(|s| !s.is_empty())
    }
    /// As a query, with what comes behind it.
    pub fn query(&self, more: &[(&str, Option<&str>)]) -> String {
        let mut pairs: Vec<(&str, Option<&str>)> = vec![
            ("action", Some(&self.action)),
            ("actor", Some(&self.actor)),
            ("since", Some(&self.since)),
            ("until", Some(&self.until)),
            ("resource", Some(&self.resource)),
        ];
        pairs.extend_from_slice(more);
        query_string(&pairs)
    }
}

pub fn page(frame: &Frame, view: &AuditView) -> Markup {
    let f = &view.filter;
    let field = |name: &str, label: &str, value: &str, hint: &str| {
        html! {
            div {
                label for={ "f-" (name) } { (label) }
                input id={ "f-" (name) } name=(name) value=(value) placeholder=(hint) autocomplete="off" spellcheck="false";
            }
        }
    };
    let body = html! {
        div .head {
            h1 { "Audit log" }
            a .button href={ (view.path) (f.query(&[("verify", Some("1"))])) } { "Verify chain" }
        }
        @if let Some(v) = &view.verdict { (verdict(v)) }
        form .filter method="get" action=(view.path) role="search" {
            (field("action", "Action", &f.action, "rollout.paused"))
            (field("actor", "Actor", &f.actor, "id, email, node"))
            (field("since", "Since", &f.since, "2026-11-21"))
            (field("until", "Until", &f.until, "2026-11-22"))
            @if !f.resource.is_empty() { (field("resource", "Resource", &f.resource, "id")) }
            button type="submit" { "Filter" }
            @if f.is_set() { a .clear href=(view.path) { "Clear" } }
        }
        @if let Some(error) = &view.error { p .alert.bad role="alert" { (error) } }
        @if view.entries.is_empty() { (empty("No entry matches.")) } @else { (entries(frame, view)) }
        (pager(view.entries.len(), view.total, "entry", view.next.as_deref(), view.first.as_deref()))
        @if !view.exports.is_empty() {
            p .muted {
                "All that match, as a file:"
                @for (name, href) in &view.exports { " " a href=(href) download { (name) } }
            }
        }
    };
    document(&Frame { tab: Tab::Audit, ..frame.clone() }, "Audit log", &body)
}

fn verdict(v: &Verdict) -> Markup {
    html! {
        @if v.valid {
            p .alert.ok role="status" { "The chain holds: " b .num { (count(v.entries, "entry")) } " without a gap or a change." }
        } @else {
            p .alert.bad role="alert" {
                "The chain is broken"
                @if let Some(seq) = v.first_bad_seq { " at entry " b .num { (seq) } }
                @if let Some(reason) = &v.reason { ": " (reason) }
                ". Entries before it hold: " b .num { (v.entries) } "."
            }
        }
    }
}

fn entries(frame: &Frame, view: &AuditView) -> Markup {
    // Numbers count within a project, so where there are several it must be said which.
    let apart = frame.project.is_none();
    let rows = html! {
        @for e in &view.entries {
            tr {
                @if apart { td { (project(view, e)) } }
                td .num { (e.seq) }
                td { (when(e.at, frame.now)) }
                td { a href={ (view.path) (query_string(&[("action", Some(&e.action))])) } { code { (e.action) } } }
                td { (actor(view, e)) }
                td { (resource(view, e)) }
                td .wrap { (unfolding("Changes", &e.changes)) }
                td { (e.ip.as_deref().unwrap_or("")) }
            }
        }
    };
    let head = ["Project", "No.", "When", "Action", "Actor", "Resource", "Changes", "From"];
    table("Audit entries", if apart { &head } else { &head[1..] }, &rows)
}

fn project(view: &AuditView, e: &Entry) -> Markup {
    let slug = e.project_id.and_then(|p| view.projects.get(&p.to_string()));
    match (slug, e.project_id) {
        (Some(slug), _) => html! { a href={ "/projects/" (query(slug)) "/audit" } { (slug) } },
        (None, Some(p)) => id(p),
        (None, None) => html! { span .muted { "system" } },
    }
}

fn actor(view: &AuditView, e: &Entry) -> Markup {
    let Some(id) = e.actor_id.map(|a| a.to_string()) else { return html! { (words(&e.actor_type)) } };
    let known = view.actors.get(&id);
    html! {
        a href={ (view.path) (query_string(&[("actor", Some(&id))])) } title=(id) {
            @match known { Some(name) => (name), None => { (words(&e.actor_type)) " " (self::id(&id)) } }
        }
    }
}

fn resource(view: &AuditView, e: &Entry) -> Markup {
    let Some(id) = e.resource_id.map(|r| r.to_string()) else { return html! { (words(&e.resource_type)) } };
    let slug = e.project_id.and_then(|p| view.projects.get(&p.to_string()));
    let place = match e.resource_type.as_str() {
        "rollout" => Some("rollouts"),
        "node" => Some("nodes"),
        "bundle" => Some("bundles"),
        _ => None,
    };
    html! {
        (words(&e.resource_type)) " "
        @match (slug, place) {
            (Some(slug), Some(place)) => a href={ "/projects/" (query(slug)) "/" (place) "/" (id) } { (self::id(&id)) },
            _ => (self::id(&id)),
        }
    }
}

/// Changes of more characters are cut, and unfold to the whole.
const CHANGES_INLINE: usize = 100;

/// A JSON object in words, and whole where they were cut.
pub fn unfolding(label: &str, value: &Value) -> Markup {
    let said = in_words(value);
    let cut: String = said.chars().take(CHANGES_INLINE).collect();
    html! {
        @if cut.len() < said.len() {
            details { summary { (cut) "…" } (json(label, value)) }
        } @else { (text(&said)) }
    }
}

/// The values of a JSON object in one line.
pub fn in_words(value: &Value) -> String {
    let plain = |v: &Value| match v {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    };
    match value {
        Value::Null => String::new(),
        // `fact` repeats the action.
        Value::Object(m) => {
            let said = m.iter().filter(|(k, v)| !v.is_null() && *k != "fact");
            said.map(|(k, v)| format!("{}: {}", words(k), plain(v))).collect::<Vec<_>>().join(", ")
        }
        other => plain(other),
    }
}
