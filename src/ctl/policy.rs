//! What stands around rollouts: freeze windows, environments, templates; and drift, what nodes run besides them.

use crate::args::{In, Listing, One, Paged, Wanted, pair};
use crate::ask::{Ask, below, delete, get, given, post, texts, wanted, within};
use crate::view::Show;
use clap::Subcommand;
use serde_json::json;

#[derive(Subcommand, Clone, Debug)]
pub enum Freezes {
    List(Listing),
    Show(One),
    /// From now on without an end, unless told otherwise: the red button
    Create {
        #[command(flatten)]
        project: In,
        name: String,
        #[arg(long)]
        reason: String,
        /// RFC 3339; now otherwise
        #[arg(long)]
        starts_at: Option<String>,
        /// RFC 3339
        #[arg(long)]
        ends_at: Option<String>,
        /// Only rollouts with a target in this environment
        #[arg(long)]
        environment: Option<String>,
    },
    /// Ends it, if it holds
    Delete(One),
}

#[derive(Subcommand, Clone, Debug)]
pub enum Environments {
    List(Listing),
    Show(One),
    Create {
        #[command(flatten)]
        project: In,
        name: String,
        #[arg(long)]
        slug: Option<String>,
        /// Their order, lowest first
        #[arg(long)]
        ordinal: Option<i64>,
        /// KEY=VALUE: the nodes with this label; may be given again, and without any it is all of them
        #[arg(long = "label", value_parser = pair)]
        labels: Vec<(String, String)>,
        /// How many people must approve what touches it
        #[arg(long)]
        approvals: Option<u32>,
    },
    Delete(One),
}

#[derive(Subcommand, Clone, Debug)]
pub enum Templates {
    List(Listing),
    Show(One),
    /// Everything a rollout may say but its bundle; used by `rollouts create --set template_id=ID`
    Create {
        #[command(flatten)]
        project: In,
        name: String,
        #[command(flatten)]
        wanted: Box<Wanted>,
    },
    Delete(One),
}

#[derive(Subcommand, Clone, Debug)]
pub enum Drift {
    /// Nodes that run something else than they shall, newest first
    List {
        #[command(flatten)]
        project: In,
        /// open or resolved
        #[arg(long)]
        status: Option<String>,
        /// Id of a node
        #[arg(long)]
        node: Option<String>,
        #[command(flatten)]
        page: Paged,
    },
    Show(One),
    /// How much of it is open, by severity
    Stats {
        #[command(flatten)]
        project: In,
    },
    /// Seen
    Resolve {
        #[command(flatten)]
        project: In,
        id: String,
        /// Roll out what was expected, to this node
        #[arg(long)]
        remediate: bool,
    },
    /// The same for all that is open
    ResolveAll {
        #[command(flatten)]
        project: In,
        #[arg(long)]
        remediate: bool,
    },
}

pub fn freezes(command: &Freezes) -> Ask {
    let noun = "freeze-windows";
    match command {
        Freezes::List(Listing { project, page }) => get(within(project, "/freeze-windows"), Show::Freezes).page(page),
        Freezes::Show(One { project, id }) => get(below(project, noun, id, ""), Show::One("freeze_window")),
        Freezes::Create { project, name, reason, starts_at, ends_at, environment } => {
            let body = json!({"name": name, "reason": reason, "starts_at": starts_at, "ends_at": ends_at,
                "environment_id": environment});
            post(within(project, "/freeze-windows"), given(body), Show::One("freeze_window"))
        }
        Freezes::Delete(One { project, id }) => delete(below(project, noun, id, "")),
    }
}

pub fn environments(command: &Environments) -> Ask {
    let noun = "environments";
    match command {
        Environments::List(Listing { project, page }) => {
            get(within(project, "/environments"), Show::Environments).page(page)
        }
        Environments::Show(One { project, id }) => get(below(project, noun, id, ""), Show::One("environment")),
        Environments::Create { project, name, slug, ordinal, labels, approvals } => {
            let selector = match labels.is_empty() {
                true => json!({"type": "all"}),
                false => json!({"type": "labels", "labels": texts(labels)}),
            };
            let settings = approvals.map(|n| json!({"approval_required": n > 0, "approvals_needed": n}));
            let body =
                json!({"name": name, "slug": slug, "ordinal": ordinal, "selector": selector, "settings": settings});
            post(within(project, "/environments"), given(body), Show::One("environment"))
        }
        Environments::Delete(One { project, id }) => delete(below(project, noun, id, "")),
    }
}

pub fn templates(command: &Templates) -> Ask {
    let noun = "rollout-templates";
    match command {
        Templates::List(Listing { project, page }) => {
            get(within(project, "/rollout-templates"), Show::Templates).page(page)
        }
        Templates::Show(One { project, id }) => get(below(project, noun, id, ""), Show::One("rollout_template")),
        Templates::Create { project, name, wanted: w } => {
            let body = json!({"name": name, "settings": wanted(None, w)});
            post(within(project, "/rollout-templates"), body, Show::One("rollout_template"))
        }
        Templates::Delete(One { project, id }) => delete(below(project, noun, id, "")),
    }
}

pub fn drift(command: &Drift) -> Ask {
    match command {
        Drift::List { project, status, node, page } => get(within(project, "/drift"), Show::Drift)
            .with("status", status.clone())
            .with("node", node.clone())
            .page(page),
        Drift::Show(One { project, id }) => get(below(project, "drift", id, ""), Show::One("drift")),
        Drift::Stats { project } => get(within(project, "/drift/stats"), Show::One("stats")),
        Drift::Resolve { project, id, remediate } => {
            post(below(project, "drift", id, "/resolve"), json!({"remediate": remediate}), Show::One("drift"))
        }
        Drift::ResolveAll { project, remediate } => {
            post(within(project, "/drift/resolve-all"), json!({"remediate": remediate}), Show::Resolved)
        }
    }
}
