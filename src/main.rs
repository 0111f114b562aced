//! `sentinel-cp`: one binary for the control plane, its demo, the simulated fleet and administration.

mod admin_cli;
mod backup_cli;
mod boot;
mod bundle_cli;
mod config;
mod demo;
mod rollout_cli;
mod trust_cli;

use boot::Failure;
use clap::{Parser, Subcommand};
use config::{Config, Written};
use std::io::Write as _;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Control plane for fleets of Sentinel / Zentinel proxies.
#[derive(Parser)]
#[command(name = "sentinel-cp", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
#[allow(clippy::large_enum_variant)] // parsed once
enum Command {
    /// Run the control plane. Needs no configuration
    Serve {
        #[command(flatten)]
        settings: Written,
        /// Show the settings as used, secrets hidden, and exit
        #[arg(long)]
        print_config: bool,
    },
    /// Run the control plane with a demo project, a simulated fleet and two rollouts
    Demo {
        #[command(flatten)]
        settings: Written,
        #[command(flatten)]
        demo: demo::DemoArgs,
    },
    /// Run a simulated fleet against any control plane, over HTTP
    Sim(sim::SimArgs),
    /// Run beside one Zentinel proxy and make it a node of the fleet
    Agent(agent::AgentArgs),
    /// Build, check, compare and sign bundles, without a server
    #[command(subcommand)]
    Bundle(bundle_cli::BundleCommand),
    /// Talk to a control plane: projects, nodes, bundles, rollouts, keys, audit
    Ctl(ctl::CtlArgs),
    /// Work on a rollout's exported log, without a server
    #[command(subcommand)]
    Rollout(rollout_cli::RolloutCommand),
    /// Keys kept offline: make them, sign trust documents and releases, rotate the master key
    #[command(subcommand)]
    Trust(trust_cli::TrustCommand),
    /// Bring the database to this version's schema
    Migrate {
        #[command(flatten)]
        settings: Written,
    },
    /// Copy the database and the archives into a directory, beside a running server
    Backup {
        #[command(flatten)]
        settings: Written,
        #[command(flatten)]
        args: backup_cli::BackupArgs,
    },
    /// Put a backup back, check everything, and leave nodes that know more in peace
    Restore {
        #[command(flatten)]
        settings: Written,
        #[command(flatten)]
        args: backup_cli::RestoreArgs,
    },
    /// Users, in the database
    User(admin_cli::On<admin_cli::UserCommand>),
    /// API keys, in the database
    ApiKey(admin_cli::On<admin_cli::ApiKeyCommand>),
    /// The audit log, in the database
    Audit(admin_cli::On<admin_cli::AuditCommand>),
    /// Print the OpenAPI 3.1 document
    Openapi,
    /// Validate a configuration from standard input (used by the control plane itself)
    #[command(name = boot::VALIDATE_CHILD, hide = true)]
    ValidateChild,
}

/// Huge pages make memory resident that nobody has touched. What this process keeps is thousands of buffers that are touched at
/// their beginnings: with them a parked poll is 31 kB, without 19 (`bench --only memory`), and heartbeats are no slower.
fn keep_to_small_pages() {
    // Where the system has no such thing, there is nothing to turn off.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    keep_to_small_pages();
    let outcome = match cli.command {
        Command::ValidateChild => {
            return ExitCode::from(
                bundle::child::run_child_main(std::io::stdin(), std::io::stdout()).clamp(0, 255) as u8
            );
        }
        Command::Openapi => {
            println!("{:#}", web::openapi());
            Ok(())
        }
        Command::Serve { settings, print_config } => resolve(settings).and_then(|config| {
            if print_config {
                print!("{}", config.printed());
                return Ok(());
            }
            log_as(&config);
            block_on(serve(config))
        }),
        Command::Demo { settings, demo } => resolve(demo.settings(settings)).and_then(|config| {
            log_as(&config);
            block_on(demo::run(config, demo))
        }),
        Command::Migrate { settings } => resolve(settings).and_then(|config| {
            log_as(&config);
            block_on(migrate(config))
        }),
        Command::Backup { settings, args } => resolve(settings).and_then(|config| backup_cli::backup(&config, &args)),
        Command::Restore { settings, args } => resolve(settings).and_then(|config| {
            log_as(&config);
            block_on(async { backup_cli::restore(&config, &args).await })
        }),
        Command::User(on) => resolve(on.settings).and_then(|c| block_on(admin_cli::user(c, on.command))),
        Command::ApiKey(on) => resolve(on.settings).and_then(|c| block_on(admin_cli::api_key(c, on.command))),
        Command::Audit(on) => resolve(on.settings).and_then(|c| block_on(admin_cli::audit(c, on.command))),
        Command::Bundle(command) => bundle_cli::run(command),
        Command::Ctl(args) => block_on(async { ctl::run(args, &mut std::io::stdout()).await.map_err(Failure::from) }),
        Command::Rollout(command) => rollout_cli::run(command),
        Command::Trust(command) => trust_cli::run(command),
        Command::Sim(args) => block_on(simulate(args)),
        Command::Agent(args) => {
            if args.command.is_none() {
                start_again_with_a_small_heap();
            }
            use tracing_subscriber::EnvFilter;
            let filter = EnvFilter::try_from_env("SENTINEL_CP_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
            agent::run(args).map_err(Failure::from)
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("sentinel-cp: {e}");
            ExitCode::FAILURE
        }
    }
}

/// The allocator reads its settings before `main`, and what serves a server well (memory committed ahead, in huge pages) makes an
/// agent three times as large: 8 MB of heap for 1 MB in use. So the same process starts once more, with other settings. Where that
/// fails the agent is larger, and works.
fn start_again_with_a_small_heap() {
    use std::os::unix::process::CommandExt;
    if agent::SMALL_HEAP.iter().any(|(name, _)| std::env::var_os(name).is_some()) {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let mut args = std::env::args_os();
    let mut again = std::process::Command::new(program);
    if let Some(name) = args.next() {
        again.arg0(name);
    }
    let error = again.args(args).envs(agent::SMALL_HEAP).exec();
    eprintln!("sentinel-cp: the agent will use more memory than it needs: {error}");
}

pub(crate) fn resolve(settings: Written) -> Result<Config, Failure> {
    settings.resolve(&std::env::vars().collect()).map_err(|e| e.to_string().into())
}

pub(crate) fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}

fn log_as(config: &Config) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_new(&config.log).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if config.log_json { builder.json().init() } else { builder.init() }
}

/// To whoever started us. That they listen no more is no reason to stop serving: `println` would panic.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

async fn serve(config: Config) -> Result<(), Failure> {
    let instance = boot::start(&config).await?;
    say(&format!("sentinel-cp listens on {}", instance.public_url));
    if let Some(password) = &instance.printed_password {
        say(&format!("first start: sign in as {} with password {password} (shown only now)", config.admin_email));
    }
    instance.run().await
}

async fn migrate(config: Config) -> Result<(), Failure> {
    boot::make_private_dir(&config.data_dir)?;
    let store = boot::open_store(&config, &prometheus::Registry::new()).await?;
    let applied = store.migrate().await?;
    match applied.as_slice() {
        [] => println!("the schema is current"),
        names => println!("applied: {}", names.join(", ")),
    }
    store.close().await;
    Ok(())
}

async fn simulate(args: sim::SimArgs) -> Result<(), Failure> {
    let json = args.json;
    let stop = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    let report = sim::run(args, stop).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?)
    } else {
        println!("{report}")
    }
    Ok(())
}
