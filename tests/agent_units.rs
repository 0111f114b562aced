//! The examples in `docker/`: the systemd units are what systemd takes, and every flag in them is one that the agent has.

use std::path::Path;
use std::process::Command;

const UNITS: [&str; 3] = ["agent.service", "agent-pidfile.service", "zentinel.service"];

#[test]
fn the_units_are_what_systemd_takes() {
    let dir = tempfile::tempdir().unwrap();
    for unit in UNITS {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker").join(unit);
        // The programs are installed on the host, not here.
        let text = std::fs::read_to_string(from).unwrap();
        let text =
            text.replace("/usr/local/bin/sentinel-cp", "/bin/true").replace("/usr/local/bin/zentinel", "/bin/true");
        let file = dir.path().join(unit);
        std::fs::write(&file, text).unwrap();
        match Command::new("systemd-analyze").arg("verify").arg(&file).output() {
            Ok(out) => {
                let said = String::from_utf8_lossy(&out.stderr).into_owned();
                assert!(out.status.success() && said.is_empty(), "{unit}: {said}");
            }
            Err(_) => eprintln!("SKIPPED {unit}: no systemd-analyze on this machine"),
        }
    }
}

#[test]
fn every_flag_in_the_examples_is_one_that_the_agent_has() {
    let help = Command::new(env!("CARGO_BIN_EXE_sentinel-cp")).args(["agent", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let docker = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker");
    let mut seen = 0;
    for file in ["agent.service", "agent-pidfile.service", "agent.env.example", "Dockerfile.agent"] {
        let text = std::fs::read_to_string(docker.join(file)).unwrap();
        let command =
            text.lines().filter(|l| l.contains("sentinel-cp agent") || l.trim_start().starts_with("--restart"));
        for flag in command.flat_map(|l| l.split_whitespace()).filter(|w| w.starts_with("--")) {
            assert!(help.contains(flag), "{file}: {flag}");
            seen += 1;
        }
        // Variables of the environment file are those of flags.
        for name in text.lines().filter(|_| file == "agent.env.example").filter_map(|l| l.split_once('=')).map(|p| p.0)
        {
            let name = name.trim_start_matches(['#', ' ']);
            assert!(help.contains(name), "{file}: {name}");
            seen += 1;
        }
    }
    assert!(seen >= 8, "{seen}");
}
