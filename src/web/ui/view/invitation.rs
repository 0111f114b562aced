//! Setting the password that an invitation or a reset asks for.

use super::{Frame, document};
use maud::{Markup, html};

#[derive(Clone, Debug, Default)]
pub struct InvitationView {
    pub token: String,
    pub email: String,
    /// It leads into an organisation; else it only sets a password.
    pub joins: bool,
    /// Said above the form.
    pub error: Option<String>,
}

pub fn invitation(frame: &Frame, view: &InvitationView) -> Markup {
    let title = if view.joins { "Accept the invitation" } else { "Choose a new password" };
    let body = html! {
        div .narrow {
            h1 { (title) }
            @if let Some(error) = &view.error { p .alert.bad role="alert" { (error) } }
            form .stack.card method="post" action="/invitation" {
                input type="hidden" name="token" value=(view.token);
                label for="email" { "Email" }
                input #email type="email" value=(view.email) autocomplete="username" readonly;
                label for="password" { "Password" }
                input #password type="password" name="password" autocomplete="new-password" minlength="8" required autofocus;
                button .primary type="submit" { (title) }
            }
            @if view.joins {
                p .muted { "Who has an account with this address already gives its password here." }
            }
        }
    };
    document(frame, title, &body)
}
