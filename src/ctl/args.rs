//! What can be typed.

use crate::policy::{Drift, Environments, Freezes, Templates};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Talk to a control plane.
#[derive(Args, Clone, Debug)]
pub struct CtlArgs {
    /// Where it is
    #[arg(long, env = "SENTINEL_CP_URL", default_value = "http://127.0.0.1:4000", global = true)]
    pub url: String,
    /// API key
    #[arg(long, env = "SENTINEL_CP_API_KEY", hide_env_values = true, global = true)]
    pub key: Option<String>,
    /// Print the server's JSON
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    #[command(subcommand)]
    Projects(Projects),
    #[command(subcommand)]
    Nodes(Nodes),
    /// Enrolment tokens
    #[command(subcommand)]
    Tokens(Tokens),
    #[command(subcommand)]
    Bundles(Bundles),
    #[command(subcommand)]
    Rollouts(Rollouts),
    /// Freeze windows: when nothing moves
    #[command(subcommand)]
    Freezes(Freezes),
    /// Environments: nodes with approvals and freezes of their own
    #[command(subcommand)]
    Environments(Environments),
    /// Rollout templates
    #[command(subcommand)]
    Templates(Templates),
    #[command(subcommand)]
    Drift(Drift),
    /// API keys
    #[command(subcommand)]
    Keys(Keys),
    #[command(subcommand)]
    Audit(Audit),
    /// Any other call: `call GET /projects/shop/groups`, `call POST /projects -d '{"name": "Shop"}'`
    Call {
        #[arg(value_parser = ["GET", "POST", "PUT", "PATCH", "DELETE"], ignore_case = true)]
        method: String,
        /// Below /api/v1
        path: String,
        /// The body, or @FILE
        #[arg(short, long)]
        data: Option<String>,
    },
}

/// The project that most commands are about.
#[derive(Args, Clone, Debug)]
pub struct In {
    /// Slug or id
    #[arg(short, long, env = "SENTINEL_CP_PROJECT")]
    pub project: String,
}

// What only says which one it is about: of these two, a comment for rustdoc would become the help of every such command.
#[derive(Args, Clone, Debug)]
pub struct One {
    #[command(flatten)]
    pub project: In,
    pub id: String,
}

#[derive(Args, Clone, Debug)]
pub struct Listing {
    #[command(flatten)]
    pub project: In,
    #[command(flatten)]
    pub page: Paged,
}

#[derive(Args, Clone, Debug)]
pub struct Paged {
    /// At most this many, up to 500
    #[arg(long, default_value_t = 50)]
    pub limit: u32,
    /// Where the last page ended
    #[arg(long)]
    pub cursor: Option<String>,
}

#[derive(Subcommand, Clone, Debug)]
pub enum Projects {
    List {
        #[command(flatten)]
        page: Paged,
    },
    Show {
        project: String,
    },
    Create {
        name: String,
        #[arg(long)]
        slug: Option<String>,
        #[arg(long)]
        description: Option<String>,
        /// SETTING=VALUE, as in `max_updating=10%`; may be given again
        #[arg(long = "set", value_parser = pair)]
        settings: Vec<(String, String)>,
    },
    Update {
        project: String,
        #[arg(long)]
        name: Option<String>,
        #[arg(long)]
        description: Option<String>,
        #[arg(long = "set", value_parser = pair)]
        settings: Vec<(String, String)>,
    },
    Delete {
        project: String,
    },
}

#[derive(Subcommand, Clone, Debug)]
pub enum Nodes {
    List {
        #[command(flatten)]
        project: In,
        /// online, offline or unknown
        #[arg(long)]
        status: Option<String>,
        /// KEY=VALUE; may be given again
        #[arg(long = "label", value_parser = pair)]
        labels: Vec<(String, String)>,
        /// Those that run it
        #[arg(long)]
        bundle: Option<String>,
        /// Part of the name
        #[arg(short)]
        q: Option<String>,
        #[command(flatten)]
        page: Paged,
    },
    Show(One),
    /// Why it runs what it runs
    Explain(One),
    /// How many are online, and on what
    Stats {
        #[command(flatten)]
        project: In,
    },
    /// KEY=VALUE sets, KEY- removes
    Label {
        #[command(flatten)]
        project: In,
        id: String,
        #[arg(required = true)]
        changes: Vec<String>,
    },
    /// Hold it on a bundle
    Pin {
        #[command(flatten)]
        project: In,
        id: String,
        bundle: String,
    },
    Unpin(One),
    /// Let a quarantined node in
    Adopt(One),
    /// Shut it out
    Revoke(One),
    RotateKey(One),
    Delete(One),
}

#[derive(Subcommand, Clone, Debug)]
pub enum Tokens {
    List(Listing),
    /// The token is shown once
    Create {
        #[command(flatten)]
        project: In,
        name: String,
        #[arg(long)]
        max_uses: Option<u32>,
        /// Seconds
        #[arg(long, default_value_t = 86_400)]
        expires_in: u32,
        #[arg(long = "label", value_parser = pair)]
        labels: Vec<(String, String)>,
        #[arg(long)]
        allow_replace: bool,
    },
    Delete(One),
}

#[derive(Subcommand, Clone, Debug)]
pub enum Bundles {
    List {
        #[command(flatten)]
        project: In,
        #[arg(long)]
        status: Option<String>,
        #[command(flatten)]
        page: Paged,
    },
    Show(One),
    /// Compile a file, or a directory with config.kdl and what it includes
    Create {
        #[command(flatten)]
        project: In,
        source: PathBuf,
        #[arg(long)]
        version: Option<String>,
        /// Seconds to wait for the result
        #[arg(long, default_value_t = 30)]
        wait: u32,
    },
    /// What changes from `against` to `id`
    Diff {
        #[command(flatten)]
        project: In,
        id: String,
        #[arg(long)]
        against: String,
    },
    /// The archive, to standard output
    Download(One),
    Verify(One),
    /// Stop its distribution at once
    Revoke {
        #[command(flatten)]
        project: In,
        id: String,
        #[arg(long)]
        reason: Option<String>,
    },
    Deprecate(One),
}

/// What a rollout is asked to be. Everything else: `--set FIELD=VALUE`.
#[derive(Args, Clone, Debug, Default)]
pub struct Wanted {
    /// KEY=VALUE: only nodes with this label; may be given again
    #[arg(long = "label", value_parser = pair)]
    pub labels: Vec<(String, String)>,
    /// rolling, canary, blue_green or all_at_once
    #[arg(long)]
    pub strategy: Option<String>,
    /// Count, or percent as in `10%`
    #[arg(long)]
    pub batch_size: Option<String>,
    #[arg(long)]
    pub max_unavailable: Option<String>,
    #[arg(long)]
    pub failure_threshold: Option<String>,
    /// Seconds of soak
    #[arg(long)]
    pub min_healthy: Option<u32>,
    /// pause, rollback or fail
    #[arg(long)]
    pub on_failure: Option<String>,
    /// Any field of the API, its value as JSON or text: `--set 'health_gates={"max_error_rate": 2}'`
    #[arg(long = "set", value_parser = pair)]
    pub fields: Vec<(String, String)>,
}

#[derive(Subcommand, Clone, Debug)]
pub enum Rollouts {
    List {
        #[command(flatten)]
        project: In,
        #[arg(long)]
        state: Option<String>,
        #[command(flatten)]
        page: Paged,
    },
    Show {
        id: String,
    },
    /// What it would do; changes nothing
    Plan {
        #[command(flatten)]
        project: In,
        bundle: String,
        #[command(flatten)]
        wanted: Box<Wanted>,
    },
    Create {
        #[command(flatten)]
        project: In,
        bundle: String,
        #[command(flatten)]
        wanted: Box<Wanted>,
        /// Follow it to its end
        #[arg(long)]
        watch: bool,
    },
    /// Follow it until it ends; fails unless it completes
    Watch {
        id: String,
        /// Give up after this many seconds
        #[arg(long)]
        timeout: Option<u64>,
    },
    /// Why it stands where it stands
    Explain {
        id: String,
    },
    Events {
        id: String,
        #[command(flatten)]
        page: Paged,
    },
    Nodes {
        id: String,
        #[arg(long)]
        state: Option<String>,
        #[arg(long)]
        step: Option<u32>,
        #[command(flatten)]
        page: Paged,
    },
    Start {
        id: String,
    },
    Approve {
        id: String,
        #[arg(long)]
        reason: Option<String>,
    },
    Reject {
        id: String,
        #[arg(long)]
        reason: String,
    },
    Pause {
        id: String,
        #[arg(long)]
        reason: Option<String>,
    },
    Resume {
        id: String,
        /// Failed nodes get a new attempt
        #[arg(long)]
        retry: bool,
        /// Go on without the failed ones
        #[arg(long, conflicts_with = "retry")]
        accept_failed: bool,
    },
    Cancel {
        id: String,
        #[arg(long)]
        reason: Option<String>,
    },
    Rollback {
        id: String,
        #[arg(long)]
        reason: Option<String>,
    },
    Retry {
        id: String,
        /// Only these; all that failed otherwise
        nodes: Vec<String>,
    },
    SwapSlot {
        id: String,
    },
    AdvanceTraffic {
        id: String,
    },
}

#[derive(Subcommand, Clone, Debug)]
pub enum Keys {
    List {
        #[command(flatten)]
        page: Paged,
    },
    /// The key is shown once
    Create {
        name: String,
        #[arg(long = "scope", required = true)]
        scopes: Vec<String>,
        /// Bind it to this project
        #[arg(long)]
        project: Option<String>,
        /// RFC 3339
        #[arg(long)]
        expires_at: Option<String>,
    },
    Revoke {
        id: String,
    },
    Delete {
        id: String,
    },
}

#[derive(Subcommand, Clone, Debug)]
pub enum Audit {
    List {
        #[command(flatten)]
        project: In,
        #[arg(long)]
        action: Option<String>,
        #[arg(long)]
        actor: Option<String>,
        #[arg(long)]
        resource: Option<String>,
        /// RFC 3339
        #[arg(long)]
        since: Option<String>,
        #[arg(long)]
        until: Option<String>,
        #[command(flatten)]
        page: Paged,
    },
    /// Follow the hash chain
    Verify {
        /// The system's chain otherwise
        #[arg(short, long)]
        project: Option<String>,
    },
}

pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_string(), value.to_string())),
        _ => Err("expected NAME=VALUE".into()),
    }
}
