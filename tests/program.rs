//! The real program as a process of its own: what tests of settings, logs and the command line stand on.

use crate::harness::*;
use bytes::Bytes;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// `sentinel-cp serve` on a data directory; killed when dropped.
pub struct Program {
    child: Child,
    pub url: String,
}

pub fn command(args: &[&str], data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sentinel-cp"));
    command.args(args).arg("--data-dir").arg(data).stdin(Stdio::null());
    command
}

/// Runs to its end.
pub fn run(args: &[&str], data: &Path, then: &[&str]) -> Output {
    command(args, data).args(then).output().unwrap()
}

impl Program {
    /// Everything is logged, as JSON, to `<data>/log`.
    pub async fn serve(data: &Path, settings: &[(&str, &str)]) -> Program {
        let log = data.join("log");
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let mut child = command(&["serve", "--listen", "127.0.0.1:0", "--log", "trace", "--log-format", "json"], data)
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().rsplit(' ').next().unwrap_or_default().to_string();
        assert!(url.starts_with("http"), "{line:?} {}", std::fs::read_to_string(&log).unwrap_or_default());
        let program = Program { child, url };
        let http = Client::new(&program.url, None);
        eventually("the program is ready", async || {
            let answer = http.try_raw("GET", "/ready", &[], Bytes::new()).await;
            answer.is_ok_and(|a| a.status == 200).then_some(())
        })
        .await;
        program
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to go, by SIGTERM.
    pub fn terminate(&self) {
        assert!(Command::new("kill").arg(self.child.id().to_string()).status().unwrap().success());
    }

    /// In order, by SIGTERM.
    pub fn stop(mut self) {
        self.terminate();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
