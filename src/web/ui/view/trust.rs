//! Whom the nodes of an organisation believe: the keys of each role, where their private halves are, and release statements.

use super::parts::*;
use super::resources::refusal;
use super::{Frame, Tab, document};
use actors::commands::trust::KeyInfo;
use bundle::keys::Role;
use domain::{BundleId, Timestamp};
use maud::{Markup, html};

#[derive(Clone, Debug)]
pub struct TrustView {
    pub slug: String,
    pub org: String,
    pub version: u64,
    pub expires_at: Timestamp,
    pub roles: Vec<RoleView>,
    pub origins: Vec<String>,
    pub releases_required: bool,
    pub releases: Vec<ReleaseLine>,
    /// Of the organisation, not merely of this project.
    pub may_admin: bool,
    /// Shown once, right after it was asked for.
    pub exported: Option<Exported>,
    pub error: Option<String>,
    pub errors: Vec<(String, Vec<String>)>,
}

#[derive(Clone, Debug)]
pub struct RoleView {
    pub role: Role,
    pub threshold: u32,
    /// Those that count and those that do not.
    pub keys: Vec<KeyInfo>,
}

#[derive(Clone, Debug)]
pub struct Exported {
    pub key_id: String,
    /// base64
    pub private_key: String,
}

#[derive(Clone, Debug)]
pub struct ReleaseLine {
    pub bundle: BundleId,
    pub content: String,
    pub sequence: u64,
    pub floor: u64,
    pub revoked: usize,
    pub expires_at: Timestamp,
}

fn signs(role: Role) -> &'static str {
    match role {
        Role::Root => "the trust document",
        Role::Bundle => "bundles and release statements",
        Role::Metadata => "assignments",
    }
}

pub fn page(frame: &Frame, view: &TrustView) -> Markup {
    let base = format!("/projects/{}", query(&view.slug));
    let body = html! {
        h1 { "Trust" }
        p .muted {
            "Nodes of the organisation believe what is signed by the keys that count here. Version " b .num { (view.version) } " of the trust document, valid until "
            time datetime=(view.expires_at.to_rfc3339()) { (exact(view.expires_at)) } "."
        }
        (refusal(view.error.as_deref(), &view.errors))
        @if let Some(e) = &view.exported {
            div .alert.ok role="status" {
                p { "The private half of key " (hash(&e.key_id)) ", shown this once. It was noted in the audit log that you saw it." }
                p { code .secret { (e.private_key) } }
            }
        }
        @if view.releases_required { p .muted { "Nodes take no bundle that a release statement below does not release." } }
        (keys(frame, view, &base))
        @if view.may_admin { (new_key(frame, &base)) }
        (releases(frame, view, &base))
    };
    document(&Frame { tab: Tab::Trust, ..frame.clone() }, "Trust", &body)
}

/// One table for all roles. Its boxes belong to the form below it, because rows have forms of their own.
fn keys(frame: &Frame, view: &TrustView, base: &str) -> Markup {
    let rows = html! {
        @for role in &view.roles {
            @for k in &role.keys { (key(frame, view, k, base)) }
        }
    };
    let thresholds = html! {
        @for role in &view.roles {
            @let id = format!("threshold_{}", role.role.as_str());
            div {
                label for=(id) { (sentence(role.role.as_str())) " keys needed" }
                input id=(id) name=(id) inputmode="numeric" value=(role.threshold) required autocomplete="off" aria-describedby={ (id) "-hint" };
                p .hint id={ (id) "-hint" } { "for " (signs(role.role)) }
            }
        }
    };
    html! {
        (table("Signing keys", &["Role", "Key", "Counts", "Private half", "Created", "Action"], &rows))
        @if view.may_admin {
            section .card aria-labelledby="h-next" {
                h2 #h-next { "Next version" }
                form #trust-next .stack method="post" action={ (base) "/trust" } {
                    (csrf(frame))
                    p { "Keys that are ticked above count from then on, no others. Nodes follow by themselves; what only the others have signed is refused by them at once." }
                    div .fields { (thresholds) }
                    button .primary type="submit" { "Sign and publish" }
                }
                p .hint {
                    "Where the root is not on the server: " code { "POST /orgs/" (view.org) "/trust/draft" } ", " code { "sentinel-cp trust sign" }
                    " where it is, and " code { "POST /orgs/" (view.org) "/trust" } "."
                }
            }
        } @else {
            dl .card { @for role in &view.roles { dt { (sentence(role.role.as_str())) } dd { (role.threshold) " needed, for " (signs(role.role)) } } }
        }
        @if !view.origins.is_empty() { p .muted.below { "Archives may also come from " @for o in &view.origins { code .label { (o) } " " } } }
    }
}

fn key(frame: &Frame, view: &TrustView, k: &KeyInfo, base: &str) -> Markup {
    let offer = |action: &str, label: &str| {
        html! {
            form method="post" action={ (base) "/trust/keys/" (query(&k.key_id)) "/" (action) } {
                (csrf(frame))
                button type="submit" aria-label={ (label) " " (k.role.as_str()) " key " (k.key_id.chars().take(12).collect::<String>()) } { (label) }
            }
        }
    };
    html! {
        tr {
            td { (badge(Tone::Quiet, k.role.as_str())) }
            td { (hash(&k.key_id)) }
            td {
                @if view.may_admin {
                    @let id = format!("counts-{}-{}", k.role.as_str(), k.id);
                    p .check {
                        input id=(id) type="checkbox" form="trust-next" name={ "key[" (k.key_id) "]" } value="1" checked[k.listed]
                            aria-label={ "The " (k.role.as_str()) " key " (k.key_id.chars().take(12).collect::<String>()) " counts" };
                        label for=(id) { "counts" }
                    }
                } @else if k.listed { "yes" } @else { "no" }
            }
            td {
                @if k.on_server { "on the server" @if let Some(t) = k.exported_at { span .muted { ", exported " (when(t, frame.now)) } } }
                @else { (badge(Tone::Ok, "kept elsewhere")) }
            }
            td { (when(k.inserted_at, frame.now)) }
            td {
                @if view.may_admin && k.on_server && k.role != Role::Metadata {
                    div .inline-form {
                        (offer("export", "Export"))
                        @if k.exported_at.is_some() { (offer("remove", "Remove from server")) }
                    }
                }
            }
        }
    }
}

fn new_key(frame: &Frame, base: &str) -> Markup {
    html! {
        section .card aria-labelledby="h-key" {
            h2 #h-key { "New key" }
            form #cmd-key .stack method="post" action={ (base) "/trust/keys" } {
                (csrf(frame))
                label for="key-role" { "Role" }
                select #key-role name="role" { @for r in [Role::Bundle, Role::Metadata, Role::Root] { (choice(r.as_str(), r.as_str(), "bundle")) } }
                label for="key-public" { "Public half " span .muted { "(empty: a pair is made here)" } }
                input #key-public name="public_key" autocomplete="off" spellcheck="false" aria-describedby="key-hint";
                p #key-hint .hint { code { "sentinel-cp trust new-key" } " makes a pair whose private half never comes here. Nothing counts before it is ticked above." }
                button type="submit" { "Make it known" }
            }
        }
    }
}

fn releases(frame: &Frame, view: &TrustView, base: &str) -> Markup {
    let rows = html! {
        @for r in &view.releases {
            tr {
                td .num { (r.sequence) }
                td { a href={ (base) "/bundles/" (r.bundle) } { (hash(&r.content)) } }
                td .num { (r.floor) }
                td .num { (r.revoked) }
                td { @if r.expires_at <= frame.now { (badge(Tone::Bad, "expired")) } @else { (when(r.expires_at, frame.now)) } }
            }
        }
    };
    html! {
        section aria-labelledby="h-releases" {
            h2 #h-releases { "Release statements of this project" }
            @if view.releases.is_empty() { (empty("There is none: nodes take any bundle that the bundle keys have signed.")) }
            @else { (table("Release statements", &["Sequence", "Bundle", "Floor", "Revoked", "Expires"], &rows)) }
        }
    }
}
