//! What the control plane costs: one command, one table, ratios measured in one run.
//!
//! `cargo run --release -p benches` prints the short form (about a minute and a half), `--long` measures longer and more. Servers run in
//! this process, load in processes of their own, so that processor time and memory are the server's.

// The benches are a shell of their own: nothing here is supervised, and time is what they measure.
#![allow(clippy::disallowed_methods)]

mod compile;
mod concurrent;
mod decision;
mod fleet;
mod heartbeat;
mod host;
mod load;
mod memory;
mod operations;
mod order;
mod plan;
mod process;
mod rollout;
mod scale;
#[cfg(feature = "postgres")]
mod several;
mod sign;
mod sign_in;
mod table;
mod wire;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use table::{Bar, Table};

/// As the product has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub type Failure = Box<dyn std::error::Error + Send + Sync>;

pub const VALIDATE_CHILD: &str = "validate-child";

#[derive(Parser)]
#[command(name = "bench", about = "Measures the control plane; prints one table")]
struct Cli {
    /// Longer rounds, larger fleets (about five minutes)
    #[arg(long)]
    long: bool,
    /// The rollouts on PostgreSQL too, and several processes on one database
    #[arg(long)]
    postgres: bool,
    /// The table as JSON, into a file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Only these: heartbeat, memory, rollout, scale, concurrent, compile, sign, plan, process, restart, several, decision, sign_in;
    /// rollout-pg and concurrent-pg are the PostgreSQL half of theirs
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// The product's binary [default: sentinel-cp beside this program]
    #[arg(long)]
    product: Option<PathBuf>,
    #[command(subcommand)]
    helper: Option<Part>,
}

/// Parts that run in a process of their own; started by the benches, not by people.
#[derive(Subcommand)]
enum Part {
    #[command(name = VALIDATE_CHILD, hide = true)]
    ValidateChild,
    #[command(hide = true)]
    Load(load::LoadArgs),
    #[command(hide = true)]
    Memory {
        #[arg(long)]
        nodes: usize,
    },
    #[command(hide = true)]
    TimedFleet(fleet::FleetArgs),
    #[command(hide = true)]
    SimFleet {
        #[arg(long)]
        url: String,
        #[arg(long)]
        nodes: u32,
        #[arg(long)]
        token: String,
        /// Of the nodes' names: fleets of one project differ in it.
        #[arg(long, default_value = "sim-node-")]
        prefix: String,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // As the product does.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let outcome = match cli.helper {
        Some(Part::ValidateChild) => {
            let code = bundle::child::run_child_main(std::io::stdin(), std::io::stdout());
            return ExitCode::from(code.clamp(0, 255) as u8);
        }
        Some(Part::Load(args)) => on_one_thread(load::run(args)),
        Some(Part::TimedFleet(args)) => on_one_thread(fleet::run(args)),
        Some(Part::Memory { nodes }) => on_many_threads(memory::child(nodes)),
        Some(Part::SimFleet { url, nodes, token, prefix }) => {
            on_many_threads(rollout::sim_fleet(url, nodes, token, prefix))
        }
        None => {
            // What the server warns of explains a figure, or why there is none.
            tracing_subscriber::fmt()
                .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
                .with_writer(std::io::stderr)
                .init();
            on_many_threads(all(cli))
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench: {e}");
            ExitCode::FAILURE
        }
    }
}

/// A load generator should take little from the machine that it shares with the server.
fn on_one_thread(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

fn on_many_threads(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}

async fn all(cli: Cli) -> Result<(), Failure> {
    let mut table = Table { machine: machine(), ..Table::default() };
    #[cfg(feature = "postgres")]
    store::testing::keep_statistics();
    let wanted = |name: &str| cli.only.is_empty() || cli.only.iter().any(|o| o == name);
    if wanted("heartbeat") {
        let (rounds, ms) = if cli.long { (11, 4_000) } else { (5, 2_000) };
        heartbeat::run(&mut table, rounds, ms).await?;
    }
    if wanted("sign_in") {
        let (rounds, ms) = if cli.long { (9, 4_000) } else { (5, 3_000) };
        sign_in::run(&mut table, rounds, ms).await?;
    }
    if wanted("memory") {
        memory::run(&mut table, if cli.long { memory::FLEET } else { 20_000 }).await?;
    }
    if wanted("rollout") {
        rollout::sqlite(&mut table).await?;
    }
    if cli.postgres && (wanted("rollout") || wanted("rollout-pg")) {
        rollout::postgres(&mut table).await?;
    }
    if wanted("scale") {
        scale::run(&mut table, if cli.long { scale::LONG } else { scale::SHORT }).await?;
    }
    let size = if cli.long { concurrent::LONG } else { concurrent::SHORT };
    if wanted("concurrent") {
        concurrent::sqlite(&mut table, size).await?;
    }
    if cli.postgres && (wanted("concurrent") || wanted("concurrent-pg")) {
        concurrent::postgres(&mut table, size).await?;
    }
    if wanted("compile") {
        compile::run(&mut table, cli.long).await?;
    }
    if wanted("sign") {
        sign::run(&mut table).await?;
    }
    if wanted("plan") {
        plan::run(&mut table, 10_000, Bar::AtMost { floor: 500.0, aim: 100.0 }).await?;
        if cli.long {
            plan::run(&mut table, 100_000, Bar::AtMost { floor: 500.0, aim: 100.0 }).await?;
        }
    }
    if wanted("process") || wanted("restart") {
        match cli.product.clone().or_else(process::product) {
            Some(product) => {
                if wanted("process") {
                    process::run(&mut table, &product).await?;
                }
                if wanted("restart") {
                    process::restart(&mut table, &product, if cli.long { 100_000 } else { 10_000 }).await?;
                }
            }
            None => table.note("process, restart: not measured, there is no sentinel-cp beside this program"),
        }
    }
    if wanted("several") && cli.postgres {
        several_processes(&mut table, &cli).await?;
    }
    if wanted("decision") {
        decision::run(&mut table)?;
    }
    explain(&mut table);
    println!("{table}");
    if let Some(path) = cli.json {
        std::fs::write(path, serde_json::to_vec_pretty(&table)?)?;
    }
    match table.short() {
        0 => Ok(()),
        n => Err(format!("{n} figures fall short of their floor").into()),
    }
}

#[cfg(feature = "postgres")]
async fn several_processes(table: &mut Table, cli: &Cli) -> Result<(), Failure> {
    match cli.product.clone().or_else(process::product) {
        Some(product) => several::run(table, &product, cli.long).await,
        None => {
            table.note("several: not measured, there is no sentinel-cp beside this program");
            Ok(())
        }
    }
}

#[cfg(not(feature = "postgres"))]
async fn several_processes(_: &mut Table, _: &Cli) -> Result<(), Failure> {
    Err("--postgres needs: cargo run --release -p benches --features postgres".into())
}

fn explain(table: &mut Table) {
    for note in [
        "heartbeat: 1,000 registered nodes, 64 keep-alive connections, closed loop, one load process of one thread; both servers in one \
         process and one runtime, in turns of equal length; rates and ratios are medians of the rounds. Database in memory (it is not \
         asked).",
        "memory: growth of RssAnon, each state awaited until it stands still for a second.",
        "rollout: 'told' is when a node has read the poll answer that names the bundle; 'sent' is when the last node of the batch before \
         began to send the report that completed it. Both clocks are this machine's wall clock, so queueing on both sides is in it. \
         Database on disk, synchronous=FULL.",
        "concurrent: for the second half the nodes of all rollouts keep what they are told to themselves until every rollout is under \
         way, then all go at once, on a machine that is then as busy as it can be; a decision is one stored event with what follows \
         from it. Looking for the ends is among the statements. SQLite in memory.",
        "floor and aim are those of FIELD.md section 4 and of issue 2; of rollouts the floor of issue 2 (10 s).",
    ] {
        table.note(note);
    }
}

fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|l| l.strip_prefix("model name")).map_or("?", |l| l.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?").to_string();
    let profile = if cfg!(debug_assertions) { "DEBUG BUILD: figures mean nothing" } else { "release build" };
    format!("{model}, {cores} cores, load average at start {load}, {profile}")
}
