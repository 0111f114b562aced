//! `sentinel-cp rollout`: what can be done with a rollout's log without a server.

use crate::boot::Failure;
use clap::Subcommand;
use domain::rollout::explain;
use domain::rollout::replay::{FORMAT, Opening};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

#[derive(Subcommand)]
pub enum RolloutCommand {
    /// Decide every event of an exported log again, and compare each decision byte for byte
    Replay {
        /// As `GET /rollouts/:id/export` answers it; `-` reads standard input
        file: PathBuf,
        /// Also print what happened, line by line
        #[arg(long)]
        timeline: bool,
    },
}

pub fn run(command: RolloutCommand) -> Result<(), Failure> {
    let RolloutCommand::Replay { file, timeline } = command;
    let input: Box<dyn Read> = match file.as_path() == Path::new("-") {
        true => Box::new(std::io::stdin()),
        false => Box::new(std::fs::File::open(&file).map_err(|e| format!("{}: {e}", file.display()))?),
    };
    let mut lines = BufReader::new(input).lines();
    let first = lines.next().ok_or("the file is empty")??;
    let opening: Opening = serde_json::from_str(&first).map_err(|e| format!("line 1 is not a rollout's log: {e}"))?;
    if opening.format != FORMAT {
        return Err(format!("the log's format is {}, not {FORMAT}", opening.format).into());
    }
    let mut events = Vec::new();
    for (i, line) in lines.enumerate() {
        let event = serde_json::from_str(&line?).map_err(|e| format!("line {}: {e}", i + 2))?;
        events.push(event);
    }
    let id = opening.origin.id;
    let done = domain::rollout::replay(opening.origin, events)?;
    if timeline {
        for m in &done.timeline {
            println!("{} {:>6} {:<16} {}", m.at, m.seq, m.event, m.fact.action().unwrap_or_default());
        }
    }
    let (head, reason) = (&done.rollout.head, explain(&done.rollout));
    println!("rollout {id}: {} decisions, each the same, byte for byte", done.decisions);
    println!("{}: {} ({})", head.phase, reason.text, reason.code);
    Ok(())
}
