//! The demo: the real control plane, a small simulated fleet over real HTTP, a good rollout and one that goes back by itself.

use crate::boot::{self, Failure};
use crate::config::{Config, Written};
use actors::ControlPlane;
use actors::command::{Caller, CommandError, Grant};
use actors::commands::projects::NewProject;
use actors::commands::rollouts::RolloutView;
use clap::Args;
use domain::access::KeyScope;
use domain::bundle::Source;
use domain::project::{Amount, Project, Settings};
use domain::rollout::{OnFailure, Phase, Spec};
use domain::{Ctx, Scope, Span};
use sim::transport::{Http, HttpOptions};
use sim::{Behaviour, Fleet, FleetConfig, Scenario, Transport};
use std::net::SocketAddr;
use std::time::Duration;

const NODES: u32 = 20;
/// In the second batch of the order by name.
const BAD_NODE: &str = "15";
const PROJECT: &str = "demo";
/// Everything must have happened within this.
const PATIENCE: Duration = Duration::from_secs(55);

#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// Exit when both rollouts have ended, with failure unless they ended as they should
    #[arg(long)]
    once: bool,
}

impl DemoArgs {
    /// The demo keeps its data apart from a real installation's.
    pub fn settings(&self, mut written: Written) -> Written {
        if written.data_dir.is_none() {
            written.data_dir = Some("./data/demo".into());
        }
        written
    }
}

pub async fn run(config: Config, args: DemoArgs) -> Result<(), Failure> {
    let mut instance = boot::start(&config).await?;
    println!("\n  Sentinel Control Plane demo: {}", instance.public_url);
    match &instance.printed_password {
        Some(p) => println!("  sign in as {} with password {p}\n", config.admin_email),
        None => println!("  sign in as {} with the password printed at the first start\n", config.admin_email),
    }
    let stage = Stage {
        plane: instance.tree.plane.clone(),
        address: instance.address,
        public_url: instance.public_url.clone(),
    };
    let show = async {
        let fleet = play(&stage).await?;
        if !args.once {
            println!("\n  Everything goes on running; look at the pages above. Ctrl-C ends it.");
            std::future::pending::<()>().await;
        }
        Ok::<Fleet, Failure>(fleet)
    };
    let mut failed = None;
    tokio::select! {
        signal = instance.until_told() => {
            if signal?.is_none() {
                failed = Some(boot::ENDED.into());
            }
        }
        outcome = show => match outcome {
            Ok(fleet) => {
                fleet.stop().await?;
            }
            Err(e) => failed = Some(e),
        },
    }
    instance.shut_down().await?;
    failed.map_or(Ok(()), Err)
}

/// Where the demo is played.
struct Stage {
    plane: ControlPlane,
    address: SocketAddr,
    public_url: String,
}

async fn play(stage: &Stage) -> Result<Fleet, Failure> {
    let plane = &stage.plane;
    let caller = caller(plane).await?;
    let project = project(plane, &caller).await?;
    let page = |rest: &str| format!("{}/projects/{PROJECT}/{rest}", stage.public_url);

    let http = Http::new(&format!("http://{}", stage.address), HttpOptions { max_connections: 100, http2: false })?;
    // What was there before decides the names of this run: the demo can be started again on the same data.
    let run = plane.store().bundles(Scope::Project(project.id), Default::default(), store::Page::first(1)).await?.total
        / 2
        + 1;
    let prefix = if run == 1 { "edge-".to_string() } else { format!("edge{run}-") };
    let bad_node = format!("{prefix}{BAD_NODE}");
    let (good, bad) = (format!("v{run}.0"), format!("v{run}.1"));
    let scenario = format!("[[rule]]\nname = \"{bad_node}\"\nfail_on_version = \"{bad}\"\n");
    let fleet = Fleet::start(
        FleetConfig {
            project: PROJECT.into(),
            nodes: NODES,
            // Nodes of an earlier run on the same data stay behind as offline ones.
            name_prefix: prefix.clone(),
            labels: [("rack".to_string(), "r{i%4}".to_string())].into(),
            behaviour: Behaviour { apply_delay: Span::millis(400), ..Behaviour::default() },
            scenario: Scenario::parse(&scenario)?,
            ramp: Span::millis(500),
            ..FleetConfig::default()
        },
        Transport::Http(http),
    )
    .await?;
    println!("  {NODES} simulated nodes register ...   {}", page("nodes"));
    until(|| async { Ok(plane.online_nodes(project.id).await.map_err(text)? >= NODES as usize) }).await?;

    let first = compile(plane, &caller, &project, &good, bundle::samples::DEMO_V1, run).await?;
    println!("  bundle {good}: {first}");
    let base = Spec { batch_size: Amount::Count(5), ..Spec::new(first) };
    let one = roll_out(plane, &caller, &project, base.clone(), &page).await?;
    expect(&one, Phase::Completed)?;

    let second = compile(plane, &caller, &project, &bad, bundle::samples::DEMO_V2, run).await?;
    println!("  bundle {bad}: {second}; {bad_node} will fail to activate it");
    let spec = Spec { bundle: second, on_failure: OnFailure::Rollback, ..base };
    let two = roll_out(plane, &caller, &project, spec, &page).await?;
    expect(&two, Phase::RolledBack)?;
    println!("  the second rollout stopped and went back by itself: every node runs {good} again");
    Ok(fleet)
}

/// Start a rollout, show what happens, return it when it has ended.
async fn roll_out(
    plane: &ControlPlane,
    caller: &Caller,
    project: &Project,
    spec: Spec,
    page: &impl Fn(&str) -> String,
) -> Result<RolloutView, Failure> {
    let created = plane.create_rollout(caller, project.id, spec).await.map_err(text)?;
    println!("  rollout {}   {}", created.id, page(&format!("rollouts/{}", created.id)));
    let id = created.id;
    let mut shown = String::new();
    let mut last = created;
    let deadline = plane.now() + Span::millis(PATIENCE.as_millis() as i64);
    while !last.head.phase.is_end() {
        if plane.now() > deadline {
            return Err(format!("the rollout did not end in time: {}", last.primary.text).into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        last = plane.rollout_view(id).await.map_err(text)?;
        let line = line(&last);
        if line != shown {
            println!("    {line}");
            shown = line;
        }
    }
    Ok(last)
}

fn line(r: &RolloutView) -> String {
    let c = r.head.counts;
    format!(
        "{:<12} {:>2} verified {:>2} under way {:>2} failed {:>2} going back {:>2} back   {}",
        r.head.phase.as_str(),
        c.verified,
        c.assigned,
        c.failed,
        c.rolling_back,
        c.rolled_back,
        r.primary.text
    )
}

fn expect(r: &RolloutView, phase: Phase) -> Result<(), Failure> {
    if r.head.phase == phase {
        Ok(())
    } else {
        Err(format!("the rollout ended as {}, not {phase}", r.head.phase).into())
    }
}

async fn compile(
    plane: &ControlPlane,
    caller: &Caller,
    project: &Project,
    version: &str,
    kdl: &str,
    run: i64,
) -> Result<domain::BundleId, Failure> {
    let files = [("config.kdl".to_string(), format!("// demo run {run}\n{kdl}"))].into();
    let desired = plane.submit_config(caller, project.id, files, Source::default()).await.map_err(text)?;
    let done =
        plane.compile(caller, project.id, Some(desired.id), Some(version.to_string()), PATIENCE).await.map_err(text)?;
    Ok(done.bundle.id)
}

/// The demo acts with every right, as the bootstrap key would.
async fn caller(plane: &ControlPlane) -> Result<Caller, Failure> {
    let orgs = plane.store().orgs(None, store::Page::first(1)).await?;
    let org = orgs.rows.into_iter().next().ok_or("no organisation")?;
    Ok(Caller {
        ctx: Ctx::system(),
        user: None,
        instance_admin: true,
        grant: Grant::Key {
            org: org.id,
            project: None,
            scopes: KeyScope::ALL.to_vec(),
            every_org: true,
            expires_at: None,
        },
        idempotency: None,
    })
}

async fn project(plane: &ControlPlane, caller: &Caller) -> Result<Project, Failure> {
    match plane.store().project(Scope::System("the demo's own project"), PROJECT).await {
        Ok(p) => Ok(p),
        Err(store::Error::NotFound) => {
            let settings = Settings { open_registration: true, adopt_on_registration: true, ..Settings::default() };
            let new = NewProject { name: "Demo".into(), slug: Some(PROJECT.into()), settings, ..NewProject::default() };
            plane.create_project(caller, new).await.map_err(text)
        }
        Err(e) => Err(e.into()),
    }
}

async fn until<F, Fut>(holds: F) -> Result<(), Failure>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<bool, Failure>>,
{
    let looking = async {
        while !holds().await? {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, looking).await.map_err(|_| Failure::from("the fleet did not come up in time"))?
}

fn text(e: CommandError) -> Failure {
    format!("{e:?}").into()
}
