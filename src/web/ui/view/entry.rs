//! Signing in, and pages that say what went wrong.

use super::{Frame, Tab, document};
use maud::{Markup, html};

#[derive(Clone, Debug, Default)]
pub struct SignInView {
    /// Where to go afterwards: a path of ours.
    pub next: String,
    /// Said above the form.
    pub error: Option<String>,
    /// What was typed before.
    pub email: String,
}

pub fn sign_in(frame: &Frame, view: &SignInView) -> Markup {
    let body = html! {
        div .narrow {
            h1 { "Sign in" }
            @if let Some(error) = &view.error { p .alert.bad role="alert" { (error) } }
            form .stack.card method="post" action="/login" {
                input type="hidden" name="next" value=(view.next);
                label for="email" { "Email" }
                input #email type="email" name="email" value=(view.email) autocomplete="username" required autofocus;
                label for="password" { "Password" }
                input #password type="password" name="password" autocomplete="current-password" required;
                button .primary type="submit" { "Sign in" }
            }
            p .muted { "The first administrator’s address and password were printed when the control plane was first started." }
        }
    };
    document(frame, "Sign in", &body)
}

#[derive(Clone, Debug, Default)]
pub struct ErrorView {
    pub status: u16,
    pub title: String,
    pub detail: String,
    /// Fields and what is wrong with them.
    pub errors: Vec<(String, Vec<String>)>,
    /// For finding the log line of a server error.
    pub request_id: Option<String>,
    /// Where the form was.
    pub back: Option<String>,
}

pub fn error(frame: &Frame, view: &ErrorView) -> Markup {
    let frame = Frame { tab: Tab::None, ..frame.clone() };
    let body = html! {
        div .narrow {
            p .muted.num { (view.status) }
            h1 { (view.title) }
            p .wrap { (super::parts::text(&view.detail)) }
            @if view.errors.len() > 1 || view.errors.iter().any(|(_, m)| m.len() > 1) { (field_errors(&view.errors)) }
            @if let Some(id) = &view.request_id { p .muted { "Request " code { (id) } } }
            p {
                @if let Some(back) = &view.back { a href=(back) { "Back" } " · " }
                a href="/" { "Projects" }
            }
        }
    };
    document(&frame, &view.title, &body)
}

pub fn field_errors(errors: &[(String, Vec<String>)]) -> Markup {
    html! {
        ul .errors {
            @for (field, messages) in errors {
                li { code { (field) } ": " (messages.join(", ")) }
            }
        }
    }
}
