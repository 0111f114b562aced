//! `sentinel-cp sim`: flags, and one run from start to report.

use crate::SimError;
use crate::agent::Profile;
use crate::fleet::{Fleet, FleetConfig};
use crate::report::FleetReport;
use crate::scenario::{Behaviour, Reports, Scenario, parse_span};
use crate::transport::http::MAX_CONNECTIONS;
use crate::transport::{Http, HttpOptions, Transport};
use crate::wire::bundle_name;
use domain::node::Labels;
use domain::{Digest, Span};
use std::future::Future;
use std::path::PathBuf;

/// A simulated fleet over real HTTP: thousands of nodes, a failure script, a report.
#[derive(Clone, Debug, clap::Args)]
pub struct SimArgs {
    /// The control plane
    #[arg(long, env = "SENTINEL_CP_URL", default_value = "http://127.0.0.1:4000")]
    pub url: String,
    /// Slug or id
    #[arg(long, default_value = "demo")]
    pub project: String,
    #[arg(long, short = 'n', default_value_t = 100)]
    pub nodes: u32,
    /// Enrolment token; not needed where registration is open
    #[arg(long, env = "SENTINEL_CP_ENROLMENT_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Nodes are called PREFIX1, PREFIX2, ...
    #[arg(long, default_value = "sim-node-")]
    pub name_prefix: String,
    /// The number of the first node
    #[arg(long, default_value_t = 1)]
    pub first_number: u32,
    /// k=v, several with commas or repeated; {i} is the node's number, {i%3} its rest
    #[arg(long, value_delimiter = ',', value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// From staged to active (e.g. 200ms, 5s)
    #[arg(long, default_value = "0s", value_parser = parse_span)]
    pub apply_delay: Span,
    /// Share of activations that fail, 0.0 to 1.0
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    pub failure_rate: f64,
    /// Nodes only send heartbeats, never the report calls
    #[arg(long)]
    pub heartbeat_only: bool,
    /// A failure script, TOML or JSON
    #[arg(long)]
    pub scenario: Option<PathBuf>,
    /// Stop after this long; without it (and without a goal) until interrupted
    #[arg(long, value_parser = parse_span)]
    pub duration: Option<Span>,
    /// Stop once every node that can be reached runs this bundle or failed on it (content id)
    #[arg(long, value_parser = digest)]
    pub until_bundle: Option<Digest>,
    /// The same by the bundle's version label
    #[arg(long, conflicts_with = "until_bundle")]
    pub until_version: Option<String>,
    /// Equal seeds behave equally
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// The report as JSON
    #[arg(long)]
    pub json: bool,
    /// Seconds that polls ask to be held; 0 polls plainly
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(0..=60))]
    pub long_poll: u32,
    /// Check signatures, hashes and contents as a real node does (the default)
    #[arg(long, overrides_with = "no_verify")]
    pub verify: bool,
    /// Believe everything: pure load
    #[arg(long)]
    pub no_verify: bool,
    /// The root key that nodes believe (sha256:...); else the first they are shown
    #[arg(long, value_parser = digest)]
    pub root: Option<Digest>,
    /// Every node downloads for itself (default up to 100 nodes)
    #[arg(long)]
    pub no_share_downloads: bool,
    /// Spread the first calls of all nodes over this
    #[arg(long, default_value = "0s", value_parser = parse_span)]
    pub ramp: Span,
    /// Sockets at most; polls beyond are not held
    #[arg(long, default_value_t = MAX_CONNECTIONS)]
    pub max_connections: usize,
    /// 200 nodes on a connection
    #[arg(long)]
    pub http2: bool,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (k, v) = text.split_once('=').ok_or_else(|| format!("{text:?} is not KEY=VALUE"))?;
    Ok((k.to_owned(), v.to_owned()))
}

fn digest(text: &str) -> Result<Digest, String> {
    Digest::parse(text).ok_or_else(|| format!("{text:?} is not 64 hex digits, with or without sha256:"))
}

fn share(text: &str) -> Result<f64, String> {
    let f: f64 = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
    if (0.0..=1.0).contains(&f) { Ok(f) } else { Err("must be 0.0 to 1.0".into()) }
}

impl SimArgs {
    fn config(&self) -> Result<FleetConfig, SimError> {
        let scenario = match &self.scenario {
            None => Scenario::default(),
            Some(path) => {
                let shown = path.display().to_string();
                let text =
                    std::fs::read_to_string(path).map_err(|source| SimError::File { path: shown.clone(), source })?;
                Scenario::parse(&text).map_err(|e| SimError::Bad(format!("{shown}: {e}")))?
            }
        };
        let labels: Labels = self.labels.iter().cloned().collect();
        domain::node::check_labels(&labels).map_err(SimError::Bad)?;
        Ok(FleetConfig {
            project: self.project.clone(),
            token: self.token.clone(),
            nodes: self.nodes,
            name_prefix: self.name_prefix.clone(),
            first_number: self.first_number,
            labels,
            behaviour: Behaviour {
                apply_delay: self.apply_delay,
                failure_rate: self.failure_rate,
                reports: if self.heartbeat_only { Reports::None } else { Reports::All },
                ..Behaviour::default()
            },
            scenario,
            profile: Profile {
                long_poll_s: self.long_poll,
                verify: !self.no_verify,
                root: self.root,
                ..Profile::default()
            },
            seed: self.seed,
            ramp: self.ramp,
            share_downloads: self.no_share_downloads.then_some(false),
            ..FleetConfig::default()
        })
    }
}

/// Runs the fleet over HTTP until its goal, its duration or `shutdown`, whichever is first.
///
/// Errors: a flag or the scenario is bad. Nodes that cannot reach the control plane are in the report, not an error.
pub async fn run(args: SimArgs, shutdown: impl Future<Output = ()>) -> Result<FleetReport, SimError> {
    let options = HttpOptions { max_connections: args.max_connections, http2: args.http2 };
    let transport = Transport::Http(Http::new(&args.url, options)?);
    run_with(args, transport, shutdown).await
}

/// The same over any transport.
pub async fn run_with(
    args: SimArgs,
    transport: Transport,
    shutdown: impl Future<Output = ()>,
) -> Result<FleetReport, SimError> {
    let fleet = Fleet::start(args.config()?, transport).await?;
    let has_goal = args.until_bundle.is_some() || args.until_version.is_some();
    let goal = async {
        match (args.until_bundle, &args.until_version) {
            (Some(bundle), _) => fleet.until_all(move |n| n.is_settled_on(Some(bundle))).await.map(|()| Some(bundle)),
            (None, Some(version)) => fleet.until_version(version).await,
            (None, None) => std::future::pending().await,
        }
    };
    let time = async {
        match args.duration {
            Some(d) => tokio::time::sleep(d.to_std()).await,
            None => std::future::pending().await,
        }
    };
    let reached = tokio::select! {
        r = goal => Some(r?),
        () = time => None,
        () = shutdown => None,
    };
    let mut report = fleet.stop().await?;
    // A fleet that was dismissed to the last node has reached nothing.
    let runs = |bundle| report.active.get(&bundle_name(bundle)).is_some_and(|&n| n > 0);
    report.goal_reached = has_goal.then(|| reached.is_some_and(runs));
    Ok(report)
}
