//! The whole agent as a process, beside a fake proxy and a control plane of the test's own: so that all three can be killed,
//! refuse and lie. No harness: this program is also the agent and the proxy that it starts.
#![allow(clippy::unwrap_used)] // a test may die of what it did not expect
#![allow(clippy::disallowed_methods)] // it kills, waits and looks at the clock

#[path = "beside/fake_proxy.rs"]
mod fake_proxy;
#[path = "beside/plane.rs"]
mod plane;
#[path = "beside/tests.rs"]
mod tests;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("agent") => agent_main(),
        Some("run" | "test" | "--version") if std::env::var_os("BESIDE_FAKE").is_some() => fake_proxy::main(&args),
        // cargo nextest asks for the list of tests first.
        _ => tests::main(&args),
    }
}

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    agent: agent::AgentArgs,
}

fn agent_main() -> ExitCode {
    use clap::Parser;
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    match agent::run(Cli::parse_from(std::env::args().skip(1)).agent) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("agent: {e}");
            ExitCode::FAILURE
        }
    }
}
