//! Who works here: members of organisations, users of the installation, and one's own password.

use super::parts::*;
use super::{Frame, Tab, document};
use domain::Timestamp;
use domain::access::Role;
use maud::{Markup, html};

/// A link for somebody, shown once, right after it was made.
#[derive(Clone, Debug)]
pub struct Link {
    pub email: String,
    pub url: String,
}

#[derive(Clone, Debug, Default)]
pub struct PeopleView {
    pub orgs: Vec<OrgView>,
    pub made: Option<Link>,
}

#[derive(Clone, Debug)]
pub struct OrgView {
    pub id: String,
    pub name: String,
    /// Whoever looks may change who is in it.
    pub may: bool,
    pub members: Vec<MemberLine>,
    pub invitations: Vec<InvitationLine>,
}

#[derive(Clone, Debug)]
pub struct MemberLine {
    pub id: String,
    pub email: String,
    pub role: Role,
    pub disabled: bool,
    pub since: Timestamp,
}

#[derive(Clone, Debug)]
pub struct InvitationLine {
    pub id: String,
    pub email: String,
    pub role: Role,
    pub expires_at: Timestamp,
}

fn link(made: &Link) -> Markup {
    html! {
        div .alert.ok role="status" {
            p { "A link for " b { (made.email) } ". It is shown this once, and good once, for seven days. Send it yourself: nothing is mailed." }
            p { code .secret { (made.url) } }
        }
    }
}

/// A button that posts nothing but where it leads.
fn press(frame: &Frame, action: &str, label: &str, who: &str) -> Markup {
    html! {
        form method="post" action=(action) {
            (csrf(frame))
            button type="submit" aria-label={ (label) " " (who) } { (label) }
        }
    }
}

pub fn people(frame: &Frame, view: &PeopleView) -> Markup {
    let body = html! {
        div .head {
            h1 { "People" }
            @if frame.may.instances { p { a href="/users" { "All users" } } }
        }
        @if let Some(made) = &view.made { (link(made)) }
        @if view.orgs.is_empty() { (empty("You are a member of no organisation.")) }
        @for org in &view.orgs { (organisation(frame, org)) }
    };
    document(&Frame { tab: Tab::People, ..frame.clone() }, "People", &body)
}

fn organisation(frame: &Frame, org: &OrgView) -> Markup {
    let base = format!("/orgs/{}", query(&org.id));
    let members = html! {
        @for m in &org.members {
            tr {
                td .wrap { (m.email) @if m.disabled { " " (badge(Tone::Bad, "disabled")) } }
                td { (m.role) }
                td { (when(m.since, frame.now)) }
                td { @if org.may { (member_commands(frame, &base, m)) } }
            }
        }
    };
    let invited = html! {
        @for i in &org.invitations {
            tr {
                td .wrap { (i.email) }
                td { (i.role) }
                td { (when(i.expires_at, frame.now)) }
                td { @if org.may { (press(frame, &format!("{base}/invitations/{}/delete", query(&i.id)), "Withdraw", &i.email)) } }
            }
        }
    };
    html! {
        section aria-labelledby={ "h-" (org.id) } {
            h2 id={ "h-" (org.id) } { (org.name) }
            (table(&format!("Members of {}", org.name), &["Email", "Role", "Since", "Action"], &members))
            @if !org.invitations.is_empty() {
                h3 { "Invited" }
                (table(&format!("Invitations to {}", org.name), &["Email", "As", "Expires", "Action"], &invited))
            }
            @if org.may { (invite(frame, org, &base)) }
        }
    }
}

fn member_commands(frame: &Frame, base: &str, m: &MemberLine) -> Markup {
    let at = format!("{base}/members/{}", query(&m.id));
    html! {
        div .inline-form {
            form .inline-form method="post" action={ (at) "/role" } {
                (csrf(frame))
                @for role in Role::ALL.iter().filter(|r| **r != m.role) {
                    button type="submit" name="role" value=(role) aria-label={ "Make " (role) ": " (m.email) } { "Make " (role) }
                }
            }
            (press(frame, &format!("{at}/remove"), "Remove", &m.email))
        }
    }
}

fn invite(frame: &Frame, org: &OrgView, base: &str) -> Markup {
    let field = |name: &str| format!("{name}-{}", org.id);
    html! {
        form .stack.card method="post" action={ (base) "/members" } {
            (csrf(frame))
            h3 { "Add somebody" }
            label for=(field("email")) { "Email " span .muted { "(who has no account yet gets a link)" } }
            input id=(field("email")) type="email" name="email" required autocomplete="off";
            label for=(field("role")) { "Role" }
            select id=(field("role")) name="role" {
                (choice("reader", "reader: looks", "reader"))
                (choice("operator", "operator: nodes, bundles, rollouts", "reader"))
                (choice("admin", "admin: everything in the organisation", "reader"))
            }
            button .primary type="submit" { "Add" }
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct UsersView {
    pub users: Vec<UserLine>,
    pub total: i64,
    pub next: Option<String>,
    pub first: Option<String>,
    pub made: Option<Link>,
}

#[derive(Clone, Debug)]
pub struct UserLine {
    pub id: String,
    pub email: String,
    pub instance_admin: bool,
    pub disabled: bool,
    pub inserted_at: Timestamp,
}

pub fn users(frame: &Frame, view: &UsersView) -> Markup {
    let rows = html! {
        @for u in &view.users {
            @let at = format!("/users/{}", query(&u.id));
            tr {
                td .wrap { (u.email) }
                td {
                    @if u.disabled { (badge(Tone::Bad, "disabled")) } @else { (badge(Tone::Ok, "enabled")) }
                    @if u.instance_admin { " " (badge(Tone::Quiet, "administrator of the installation")) }
                }
                td { (when(u.inserted_at, frame.now)) }
                td {
                    div .inline-form {
                        @if u.disabled { (press(frame, &format!("{at}/enable"), "Enable", &u.email)) }
                        @else { (press(frame, &format!("{at}/disable"), "Disable", &u.email)) }
                        (press(frame, &format!("{at}/reset-password"), "Void password", &u.email))
                    }
                }
            }
        }
    };
    let body = html! {
        h1 { "Users" }
        p .muted { "Everybody with an account here. What they may do is said by their roles under " a href="/people" { "People" } "." }
        @if let Some(made) = &view.made { (link(made)) }
        (table("Users", &["Email", "State", "Since", "Action"], &rows))
        (pager(view.users.len(), view.total, "user", view.next.as_deref(), view.first.as_deref()))
        form .stack.card method="post" action="/users" {
            (csrf(frame))
            h2 { "New user" }
            label for="user-email" { "Email " span .muted { "(a link to choose a password is shown)" } }
            input #user-email type="email" name="email" required autocomplete="off";
            button .primary type="submit" { "Make user" }
        }
    };
    document(&Frame { tab: Tab::People, ..frame.clone() }, "Users", &body)
}

/// One's own account. `error`: why the password was not changed.
pub fn account(frame: &Frame, error: Option<&str>) -> Markup {
    let body = html! {
        div .narrow {
            h1 { "Your password" }
            @if let Some(error) = error { p .alert.bad role="alert" { (error) } }
            form .stack.card method="post" action="/account" {
                (csrf(frame))
                label for="account-email" { "Email" }
                input #account-email type="email" value=[frame.user.as_deref()] autocomplete="username" readonly;
                label for="account-present" { "Present password" }
                input #account-present type="password" name="current_password" autocomplete="current-password" required;
                label for="account-next" { "New password" }
                input #account-next type="password" name="new_password" autocomplete="new-password" minlength="8" required;
                button .primary type="submit" { "Change password" }
            }
            p .muted { "Your other sessions end. API keys stay." }
        }
    };
    document(frame, "Your password", &body)
}
