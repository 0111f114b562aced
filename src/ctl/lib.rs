//! THE OPERATOR'S CLIENT: `sentinel-cp ctl`, the REST API on a command line.
//!
//! Owns: what a command asks for ([`ask`], pure), how an answer looks ([`view`], pure), and the one connection ([`client`]).
//! Architecture invariant: nothing of the server is linked in; what `ctl` can do, any script can do with `curl`.

mod args;
mod ask;
mod client;
mod policy;
mod view;
mod watch;

pub use args::CtlArgs;
use args::{Command, Rollouts};
use ask::Ask;
use client::Client;
use std::io::Write;

/// Why a command ended badly. The text is for the person at the terminal.
#[derive(Debug)]
pub enum Failure {
    /// Found before anything was sent.
    Usage(String),
    /// No answer, or not one that was understood.
    Connection(String),
    /// The control plane said no; `problem` is its `application/problem+json`.
    Refused {
        status: u16,
        problem: serde_json::Value,
    },
    /// What was watched ended in this state, which is not what it was started for.
    Ended(String),
    Output(std::io::Error),
}

impl std::error::Error for Failure {}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Usage(text) | Failure::Connection(text) | Failure::Ended(text) => f.write_str(text),
            Failure::Output(e) => write!(f, "writing the answer: {e}"),
            Failure::Refused { status, problem } => {
                write!(f, "{status}: {}", problem["detail"].as_str().unwrap_or("refused"))?;
                // One line a field, where there is more than the detail says already.
                let fields = problem["errors"].as_object().into_iter().flatten();
                for (field, messages) in fields.filter(|_| *status == 422) {
                    for message in messages.as_array().into_iter().flatten() {
                        write!(f, "\n  {field}: {}", message.as_str().unwrap_or_default())?;
                    }
                }
                match problem["request_id"].as_str() {
                    Some(id) => write!(f, "\n  request {id}"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Failure {
        Failure::Output(e)
    }
}

/// Runs one command and writes its answer to `out`: a table, or with `--json` what the server sent.
pub async fn run(args: CtlArgs, out: &mut (dyn Write + Send)) -> Result<(), Failure> {
    let client = Client::new(&args.url, args.key.as_deref())?;
    if let Command::Rollouts(Rollouts::Watch { id, timeout }) = &args.command {
        return watch::rollout(&client, id, *timeout, args.json, out).await;
    }
    let follow = matches!(&args.command, Command::Rollouts(Rollouts::Create { watch: true, .. }));
    let Ask { method, path, query, body, show } = ask::ask(&args.command)?;
    let answer = client.send(method, &path, &query, body).await?;
    if follow {
        let id = answer.json()?["id"].as_str().unwrap_or_default().to_string();
        return watch::rollout(&client, &id, None, args.json, out).await;
    }
    match show {
        view::Show::Bytes => out.write_all(&answer.bytes)?,
        _ if args.json && answer.bytes.is_empty() => {}
        _ if args.json => writeln!(out, "{:#}", answer.json()?)?,
        // 204: done, and nothing to say of it.
        show if answer.bytes.is_empty() => write!(out, "{}", view::text(&show, &serde_json::Value::Null))?,
        show => write!(out, "{}", view::text(&show, &answer.json()?))?,
    }
    Ok(())
}
