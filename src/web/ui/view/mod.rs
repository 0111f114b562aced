//! Pages as pure functions: what is known goes in, markup comes out. No store, no clock, no request.
//!
//! Invariant: no inline script and no inline style, so that the policy of [`super::assets`] can forbid both; every text is
//! escaped by `maud`, nothing is marked as escaped by hand.

pub mod access;
pub mod approvals;
pub mod audit;
pub mod bundle;
pub mod bundles;
pub mod diff;
pub mod drift;
pub mod entry;
pub mod events;
pub mod instances;
pub mod invitation;
pub mod node;
pub mod nodes;
pub mod outcome;
pub mod overview;
pub mod parts;
pub mod people;
pub mod policy;
pub mod resources;
pub mod retention;
pub mod rollout;
pub mod rollout_new;
pub mod rollouts;
#[cfg(test)]
mod samples;
pub mod settings;
#[cfg(test)]
mod tests;
pub mod trust;

use domain::Timestamp;
use maud::{DOCTYPE, Markup, html};
use parts::query;

/// What every page knows: who looks, at which project, and what they may do there.
#[derive(Clone, Debug, Default)]
pub struct Frame {
    pub now: Timestamp,
    /// The address of who is signed in.
    pub user: Option<String>,
    pub csrf: String,
    pub project: Option<ProjectName>,
    pub tab: Tab,
    pub flash: Option<Flash>,
    pub may: May,
    /// Changes with the content of the static files, so that browsers may keep them.
    pub assets: &'static str,
}

#[derive(Clone, Debug, Default)]
pub struct ProjectName {
    pub slug: String,
    pub name: String,
}

/// What the caller may do in the project of the page; what is not allowed is not offered.
#[derive(Clone, Copy, Debug, Default)]
pub struct May {
    pub nodes_write: bool,
    pub bundles_write: bool,
    pub rollouts_write: bool,
    pub projects_write: bool,
    pub audit_read: bool,
    pub keys_read: bool,
    pub keys_admin: bool,
    /// Not of a project: of the installation.
    pub instances: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tab {
    #[default]
    None,
    Projects,
    Nodes,
    Bundles,
    Resources,
    Rollouts,
    Policy,
    Drift,
    Audit,
    Tokens,
    Keys,
    Trust,
    Settings,
    Instances,
    People,
}

macro_rules! flashes {
    ($($name:ident = $code:literal, $text:literal;)+) => {
        /// What the page after a form says. Only the code travels, in a cookie; the text is ours.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Flash { $($name),+ }
        impl Flash {
            pub fn code(self) -> &'static str { match self { $(Flash::$name => $code),+ } }
            pub fn text(self) -> &'static str { match self { $(Flash::$name => $text),+ } }
            pub fn parse(code: &str) -> Option<Flash> { match code { $($code => Some(Flash::$name),)+ _ => None } }
        }
    };
}
flashes! {
    SignedOut = "signed_out", "You are signed out.";
    PasswordSet = "password_set", "The password is set. Sign in with it.";
    ProjectSaved = "project_saved", "The settings are saved.";
    ProjectDeleted = "project_deleted", "The project was deleted.";
    ProjectCreated = "project_created", "The project was created.";
    RolloutCreated = "rollout_created", "The rollout was created.";
    RolloutStarted = "rollout_started", "The rollout was started.";
    RolloutPaused = "rollout_paused", "The rollout is paused. Nothing new is assigned.";
    RolloutResumed = "rollout_resumed", "The rollout goes on.";
    RolloutCancelled = "rollout_cancelled", "The rollout was cancelled.";
    RolloutBack = "rollout_back", "The rollout is being rolled back.";
    RolloutApproved = "rollout_approved", "You approved the rollout.";
    RolloutRejected = "rollout_rejected", "You rejected the rollout.";
    TrafficShifted = "traffic_shifted", "Traffic is being shifted to the standby half.";
    FreezeMade = "freeze_made", "The freeze window was made.";
    FreezeEnded = "freeze_ended", "The freeze window is gone. What it held goes on.";
    EnvironmentMade = "environment_made", "The environment was made.";
    EnvironmentDeleted = "environment_deleted", "The environment was deleted.";
    TemplateMade = "template_made", "The template is kept.";
    TemplateDeleted = "template_deleted", "The template was deleted.";
    DriftRepaired = "drift_repaired", "What was expected is rolled out again.";
    DriftAccepted = "drift_accepted", "The drift is accepted as it is.";
    RolloutRetried = "rollout_retried", "Failed nodes get a new attempt.";
    Unchanged = "unchanged", "That was so already; nothing changed.";
    BundleCompiled = "bundle_compiled", "The bundle was compiled.";
    BundleExisted = "bundle_existed", "This content had been compiled before; here is that bundle.";
    BundleCompiling = "bundle_compiling", "The bundle is being compiled.";
    BundleRevoked = "bundle_revoked", "The bundle is revoked. It is not distributed any more.";
    BundleDeprecated = "bundle_deprecated", "The bundle is deprecated.";
    NodeAdopted = "node_adopted", "The node is adopted and can get bundles.";
    NodeRevoked = "node_revoked", "The node is revoked. Its key is void.";
    TokenDeleted = "token_deleted", "The enrolment token was deleted.";
    MemberChanged = "member_changed", "The role was changed.";
    MemberRemoved = "member_removed", "The member was removed. Keys that they made stay.";
    InvitationWithdrawn = "invitation_withdrawn", "The invitation is void.";
    UserDisabled = "user_disabled", "The user is disabled. Keys that they made stay.";
    UserEnabled = "user_enabled", "The user can sign in again.";
    PasswordChanged = "password_changed", "The password is changed. Your other sessions have ended.";
    KeyRevoked = "key_revoked", "The API key is revoked.";
    ResourcePut = "resource_put", "The file is in every bundle that is compiled from now on.";
    ResourceDeleted = "resource_deleted", "The resource was deleted. Bundles that have it keep it.";
    RulesSaved = "rules_saved", "The rules are saved. They hold from the next compile on.";
    Collected = "collected", "The bundles that nobody needs were collected.";
    TrustChanged = "trust_changed", "The next version of the trust document is published. Nodes follow by themselves.";
    SigningKeyMade = "signing_key_made", "The key is known. It counts once it is listed in the trust document.";
    PrivateKeyRemoved = "private_key_removed", "The private half is gone from the server.";
}

/// The whole page.
pub fn document(frame: &Frame, title: &str, body: &Markup) -> Markup {
    let stream = match &frame.project {
        Some(p) => format!("/api/v1/events/stream?project={}", query(&p.slug)),
        None => "/api/v1/events/stream".to_string(),
    };
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · Sentinel" }
                link rel="stylesheet" href={ "/static/app.css?v=" (frame.assets) };
                link rel="icon" type="image/svg+xml" href={ "/static/icon.svg?v=" (frame.assets) };
                script src={ "/static/app.js?v=" (frame.assets) } defer {}
            }
            body data-stream=[frame.user.as_ref().map(|_| stream)] {
                a .skip href="#main" { "Skip to content" }
                (header(frame))
                main #main tabindex="-1" {
                    @if let Some(flash) = frame.flash {
                        p .flash role="status" { (flash.text()) }
                    }
                    (body)
                }
            }
        }
    }
}

fn header(frame: &Frame) -> Markup {
    let tab = |tab: Tab, path: String, label: &str| {
        html! { a href=(path) aria-current=[(tab == frame.tab).then_some("page")] { (label) } }
    };
    html! {
        header .top {
            div .bar-in {
                a .brand href="/" { span .mark aria-hidden="true" {} "Sentinel" }
                @if let Some(p) = &frame.project {
                    span .sep aria-hidden="true" { "/" }
                    span .where { (p.name) }
                }
                @if let Some(user) = &frame.user {
                    div .who {
                        span #live-status .live-status role="status" hidden {}
                        a .email href="/account" title="Your password" { (user) }
                        form method="post" action="/logout" {
                            (parts::csrf(frame))
                            button .plain type="submit" { "Sign out" }
                        }
                    }
                }
            }
            @if frame.user.is_some() {
                nav .tabs aria-label="Main" {
                    @match &frame.project {
                        Some(p) => {
                            @let base = format!("/projects/{}", query(&p.slug));
                            (tab(Tab::Projects, "/".into(), "Projects"))
                            (tab(Tab::Nodes, format!("{base}/nodes"), "Nodes"))
                            (tab(Tab::Bundles, format!("{base}/bundles"), "Bundles"))
                            (tab(Tab::Resources, format!("{base}/resources"), "Resources"))
                            (tab(Tab::Rollouts, format!("{base}/rollouts"), "Rollouts"))
                            (tab(Tab::Policy, format!("{base}/policy"), "Policy"))
                            (tab(Tab::Drift, format!("{base}/drift"), "Drift"))
                            @if frame.may.audit_read { (tab(Tab::Audit, format!("{base}/audit"), "Audit")) }
                            (tab(Tab::Tokens, format!("{base}/tokens"), "Enrolment"))
                            @if frame.may.keys_read { (tab(Tab::Keys, format!("{base}/keys"), "API keys")) }
                            (tab(Tab::Trust, format!("{base}/trust"), "Trust"))
                            (tab(Tab::Settings, format!("{base}/settings"), "Settings"))
                        }
                        None => {
                            (tab(Tab::Projects, "/".into(), "Projects"))
                            (tab(Tab::Audit, "/audit".into(), "Audit"))
                            (tab(Tab::People, "/people".into(), "People"))
                            @if frame.may.instances { (tab(Tab::Instances, "/instances".into(), "Instances")) }
                            a href="/api/docs" { "API" }
                        }
                    }
                }
            }
        }
    }
}
