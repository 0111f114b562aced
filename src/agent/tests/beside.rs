//! The whole agent as a process, beside a fake proxy and a control plane of the test's own: so that all three can be killed,
//! refuse and lie. No harness: this program is also the agent and the proxy that it starts.
#![allow(clippy::unwrap_used)] // a test may die of what it did not expect
#![allow(clippy::disallowed_methods)] // it kills, waits and looks at the clock

#[path = "beside/fake_proxy.rs"]
mod fake_proxy;
#[path = "beside/host.rs"]
mod host;
#[path = "beside/hostile.rs"]
mod hostile;
#[path = "beside/plane.rs"]
mod plane;
#[path = "beside/tests.rs"]
mod tests;
#[path = "beside/world.rs"]
mod world;

use std::process::ExitCode;
use std::time::Instant;

macro_rules! sentences {
    ($($file:ident: $($name:ident),+);+ $(;)?) => {
        const NAMES: &[&str] = &[$($(concat!(stringify!($file), "::", stringify!($name))),+),+];
        async fn run(name: &str) {
            match name { $($(concat!(stringify!($file), "::", stringify!($name)) => $file::$name().await,)+)+ _ => unreachable!() }
        }
    };
}

sentences! {
    tests:
        a_good_bundle_is_proved_and_the_next_one_needs_no_new_process,
        the_agent_keeps_a_log_at_the_control_plane,
        a_bundle_that_the_proxy_refuses_or_dies_of_is_taken_back,
        a_bundle_whose_requests_fail_is_taken_back,
        what_is_not_valid_or_too_deep_never_reaches_the_proxy,
        a_broken_download_goes_on_where_it_stopped,
        an_agent_killed_at_any_moment_ends_on_what_serves,
        a_host_that_dies_at_any_moment_comes_back_on_what_was_begun_or_before,
        a_killed_proxy_is_started_again_and_found_by_the_next_agent,
        without_the_control_plane_the_last_configuration_serves,
        a_new_generation_of_what_runs_is_confirmed_without_a_switch,
        a_withdrawn_assignment_is_not_switched_to,
        a_release_that_does_not_stay_up_is_left_without_the_control_plane,
        an_agent_started_with_other_addresses_moves_the_proxy;
    hostile:
        an_arbitrary_bundle_is_refused,
        a_rollback_to_an_older_generation_is_refused,
        a_frozen_node_raises_an_alarm_and_serves_on,
        a_replayed_answer_changes_nothing,
        an_equal_generation_with_other_content_is_refused,
        a_mix_of_files_is_refused,
        an_extra_file_is_refused,
        a_key_of_another_role_signs_nothing,
        an_expired_assignment_is_refused_and_clocks_that_jump_are_told_apart,
        endless_data_is_cut_off,
        slow_retrieval_is_given_up_in_bounded_time,
        a_stolen_key_is_worth_nothing_once_it_was_rotated,
        a_server_that_was_taken_over_cannot_ship_an_old_genuine_bundle,
        a_fresh_node_takes_nothing_unreleased_where_the_root_requires_statements,
        another_root_is_not_enrolled_with;
    host:
        a_proxy_that_a_service_manager_runs_is_driven_by_signal_and_pid_file,
        a_stale_pid_file_never_makes_a_stranger_suffer,
        nothing_outside_its_directory_is_written,
        a_full_disk_fails_the_bundle_and_not_the_proxy,
        the_control_plane_is_reached_through_the_proxy_of_the_environment,
        once_does_one_round_and_status_says_what_runs_since_when_and_why,
        a_proxy_of_another_user_may_read_what_it_needs_and_no_more;
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("agent") => agent_main(),
        Some("run" | "test" | "--version") if std::env::var_os("BESIDE_FAKE").is_some() => fake_proxy::main(&args),
        // cargo nextest asks for the list of tests first.
        _ => harness(&args),
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

fn harness(args: &[String]) -> ExitCode {
    if args.iter().any(|a| a == "--list") {
        // What `cargo nextest` asks.
        if !args.iter().any(|a| a == "--ignored") {
            NAMES.iter().for_each(|n| println!("{n}: test"));
        }
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<&String> = args.iter().skip(1).filter(|a| !a.starts_with('-')).collect();
    let chosen: Vec<_> =
        NAMES.iter().filter(|n| wanted.is_empty() || wanted.iter().any(|w| n.contains(w.as_str()))).collect();
    let mut failed = 0;
    for name in &chosen {
        let begun = Instant::now();
        let one = || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(run(name));
        };
        let word = if std::panic::catch_unwind(one).is_ok() { "ok" } else { "FAILED" };
        failed += usize::from(word != "ok");
        println!("test {name} ... {word} ({:.1} s)", begun.elapsed().as_secs_f64());
    }
    let (word, code) = if failed == 0 { ("ok", ExitCode::SUCCESS) } else { ("FAILED", ExitCode::FAILURE) };
    println!(
        "test result: {word}. {} passed; {failed} failed; 0 ignored; 0 measured; {} filtered out",
        chosen.len() - failed,
        NAMES.len() - chosen.len()
    );
    code
}
