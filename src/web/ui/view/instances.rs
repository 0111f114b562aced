//! The processes that share the work, as they say of themselves.

use super::parts::*;
use super::{Frame, Tab, document};
use domain::Timestamp;
use maud::{Markup, html};

#[derive(Clone, Debug)]
pub struct InstanceLine {
    pub id: String,
    pub listen: String,
    pub epoch: i64,
    pub started_at: Timestamp,
    pub expires_at: Timestamp,
    pub draining: bool,
    /// It answered this very request.
    pub this: bool,
    /// Active rollouts that it decides for.
    pub rollouts: usize,
    /// The first of them.
    pub shown: Vec<OwnedRollout>,
}

#[derive(Clone, Debug)]
pub struct OwnedRollout {
    /// Of its project.
    pub slug: String,
    pub id: String,
}

fn owned(i: &InstanceLine) -> Markup {
    html! {
        (i.rollouts)
        @for r in &i.shown { " " a href={ "/projects/" (query(&r.slug)) "/rollouts/" (r.id) } { (id(&r.id)) } }
        @if i.rollouts > i.shown.len() && !i.shown.is_empty() { " and " (i.rollouts - i.shown.len()) " more" }
    }
}

pub fn page(frame: &Frame, all: &[InstanceLine]) -> Markup {
    let rows = html! {
        @for i in all {
            tr {
                td { code { (i.listen) } @if i.this { " " (badge(Tone::Quiet, "this one")) } }
                td { @if i.draining { (badge(Tone::Warn, "draining")) } @else { (badge(Tone::Ok, "alive")) } }
                td { (owned(i)) }
                td { (when(i.started_at, frame.now)) }
                td { (when(i.expires_at, frame.now)) }
                td .num { (i.epoch) }
                td { (id(&i.id)) }
            }
        }
    };
    let body = html! {
        h1 { "Instances" }
        p .muted {
            "Every process on this database holds a lease. When one dies, the others take its rollouts over as soon as the lease has run out; "
            "one that is draining answers what is under way and ends."
        }
        (table("Instances", &["Listens on", "State", "Rollouts", "Started", "Lease ends", "Start no.", "Id"], &rows))
    };
    document(&Frame { tab: Tab::Instances, ..frame.clone() }, "Instances", &body)
}
