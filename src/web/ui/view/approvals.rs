//! Whose agreement a rollout needs, who gave it, and the forms to give or refuse it.

use super::Frame;
use super::parts::*;
use domain::Timestamp;
use maud::{Markup, html};

#[derive(Clone, Debug, Default)]
pub struct ApprovalsView {
    pub needed: u32,
    /// How it stands, in words.
    pub standing: String,
    pub votes: Vec<VoteLine>,
    /// Why this person's word does not count; `None`: it does.
    pub refused: Option<String>,
}

#[derive(Clone, Debug)]
pub struct VoteLine {
    pub who: String,
    pub approves: bool,
    pub comment: String,
    pub at: Timestamp,
    /// Given for what has changed since.
    pub stale: bool,
}

/// `path`: of the rollout.
pub fn section(frame: &Frame, path: &str, view: &ApprovalsView) -> Markup {
    let rows = html! {
        @for v in &view.votes {
            tr {
                td { (v.who) }
                td { @if v.approves { (badge(Tone::Ok, "approved")) } @else { (badge(Tone::Bad, "rejected")) } @if v.stale { " " (badge(Tone::Quiet, "of an earlier plan")) } }
                td .wrap { (v.comment) }
                td { (when(v.at, frame.now)) }
            }
        }
    };
    html! {
        section #approvals .card aria-labelledby="h-approvals" {
            h2 #h-approvals { "Approval" }
            p { (view.standing) }
            @if !view.votes.is_empty() { (table("Votes", &["Who", "Said", "Comment", "When"], &rows)) }
            @if let Some(why) = &view.refused { p .muted { "You cannot vote on it: " (why) "." } }
            @else if frame.may.rollouts_write {
                div .commands {
                    form #cmd-approve method="post" action={ (path) "/approve" } {
                        (csrf(frame))
                        button .primary type="submit" { "Approve" }
                    }
                    details .menu {
                        summary .button { "Reject…" }
                        form #cmd-reject .stack method="post" action={ (path) "/reject" } {
                            (csrf(frame))
                            label for="note-reject" { "Reason" }
                            input #note-reject name="note" required maxlength="500" autocomplete="off";
                            button .danger type="submit" { "Reject" }
                        }
                    }
                }
            }
        }
    }
}
