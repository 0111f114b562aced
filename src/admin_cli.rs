//! `user`, `api-key` and `audit`: administration working on the database directly.
//!
//! With SQLite the server must be stopped, which the lock on its data directory sees to; with PostgreSQL it may run on.

use crate::boot::{self, Failure};
use crate::config::{Config, Written};
use actors::admin::{Admin, KeyWish};
use actors::clock::Clock;
use actors::command::CommandError;
use actors::fresh::Fresh;
use clap::{Args, Subcommand};
use domain::audit::{Verdict, Witness};
use domain::{KeyScope, Role, Span};
use serde_json::{Value, json};
use std::path::PathBuf;

/// The variable by which a password is given: an argument would be seen in the list of processes.
pub const PASSWORD_VARIABLE: &str = "SENTINEL_CP_NEW_PASSWORD";

#[derive(Args)]
pub struct On<C: Subcommand> {
    #[command(flatten)]
    pub settings: Written,
    #[command(subcommand)]
    pub command: C,
}

#[derive(Subcommand)]
pub enum UserCommand {
    /// List users
    List,
    /// Make a user. The password is read from SENTINEL_CP_NEW_PASSWORD, else made and printed once
    Create {
        email: String,
        /// May do everything on this instance
        #[arg(long)]
        instance_admin: bool,
        /// Slug of an organisation that the user becomes a member of
        #[arg(long)]
        org: Option<String>,
        /// admin, operator or reader
        #[arg(long, default_value = "reader", requires = "org", value_parser = parse_role)]
        role: Role,
    },
    /// Set a password, read from SENTINEL_CP_NEW_PASSWORD, else made and printed once; ends the user's sessions
    ResetPassword { email: String },
    /// Shut a user out
    Disable { email: String },
    /// Let a user in again
    Enable { email: String },
}

#[derive(Subcommand)]
pub enum ApiKeyCommand {
    /// List API keys
    List,
    /// Make an API key and print it once
    Create {
        name: String,
        /// Slug of the organisation; needed when there is more than one
        #[arg(long)]
        org: Option<String>,
        /// Slug or id of a project that the key is bound to
        #[arg(long)]
        project: Option<String>,
        /// For example nodes:read,rollouts:write, or all
        #[arg(long, value_delimiter = ',', required = true)]
        scopes: Vec<String>,
        /// Days until it expires
        #[arg(long)]
        days: Option<u32>,
    },
    /// Revoke a key by its id or prefix
    Revoke { key: String },
}

#[derive(Subcommand)]
pub enum AuditCommand {
    /// Follow every hash chain; with a witness also check that the chains still hold what it saw
    Verify {
        /// Lines of JSON with chain, seq and hash: what `audit heads` printed, the server's log in JSON, or assignments
        #[arg(long)]
        witness: Option<PathBuf>,
    },
    /// Print the heads of all chains as lines of JSON, to be kept elsewhere
    Heads,
    /// Print all entries as lines of JSON
    Export,
}

fn parse_role(text: &str) -> Result<Role, String> {
    Role::parse(text).ok_or_else(|| "must be admin, operator or reader".into())
}

fn parse_scopes(texts: &[String]) -> Result<Vec<KeyScope>, Failure> {
    if texts == ["all"] {
        return Ok(KeyScope::ALL.to_vec());
    }
    let parse = |t: &String| KeyScope::parse(t.trim()).ok_or_else(|| format!("{t:?} is no scope").into());
    texts.iter().map(parse).collect()
}

async fn open(config: &Config) -> Result<Admin, Failure> {
    let store = boot::open_store(config, &prometheus::Registry::new()).await?;
    store.ready().await.map_err(|e| format!("{e}: has `sentinel-cp migrate` been run?"))?;
    Ok(Admin { store, clock: Clock::system(), fresh: Fresh::system() })
}

fn failed(e: CommandError) -> Failure {
    match e {
        CommandError::NotFound(what) => format!("{what} not found").into(),
        CommandError::Invalid(fields) => {
            fields.iter().map(|(f, why)| format!("{f} {why}")).collect::<Vec<_>>().join("; ").into()
        }
        CommandError::Conflict { detail, .. } => detail.into(),
        CommandError::Forbidden(why) | CommandError::Unavailable(why) | CommandError::Unknown(why) => why.into(),
    }
}

fn given_password() -> Option<String> {
    std::env::var(PASSWORD_VARIABLE).ok().filter(|p| !p.is_empty())
}

pub async fn user(config: Config, command: UserCommand) -> Result<(), Failure> {
    let admin = open(&config).await?;
    let password = given_password();
    match command {
        UserCommand::List => {
            for u in admin.users().await.map_err(failed)? {
                let state = if u.disabled_at.is_some() { "disabled" } else { "enabled" };
                println!("{} {} {state}{}", u.id, u.email, if u.instance_admin { " instance-admin" } else { "" });
            }
        }
        UserCommand::Create { email, instance_admin, org, role } => {
            let member = org.as_deref().map(|org| (org, role));
            let made = admin.create_user(&email, password.as_deref(), instance_admin, member).await.map_err(failed)?;
            println!("{} {}", made.0.id, made.0.email);
            show_password(made.1);
        }
        UserCommand::ResetPassword { email } => {
            show_password(admin.set_password(&email, password.as_deref()).await.map_err(failed)?);
        }
        UserCommand::Disable { email } => said(admin.set_disabled(&email, true).await.map_err(failed)?),
        UserCommand::Enable { email } => said(admin.set_disabled(&email, false).await.map_err(failed)?),
    }
    admin.store.close().await;
    Ok(())
}

fn show_password(made: Option<String>) {
    if let Some(password) = made {
        println!("password {password} (shown only now)");
    }
}

fn said(changed: bool) {
    println!("{}", if changed { "done" } else { "nothing to do" });
}

pub async fn api_key(config: Config, command: ApiKeyCommand) -> Result<(), Failure> {
    let admin = open(&config).await?;
    match command {
        ApiKeyCommand::List => {
            for k in admin.api_keys().await.map_err(failed)? {
                let scopes: Vec<&str> = k.scopes.iter().map(KeyScope::as_str).collect();
                let state = if k.revoked_at.is_some() { " revoked" } else { "" };
                println!("{} {} {:?} {}{state}", k.id, k.prefix, k.name, scopes.join(","));
            }
        }
        ApiKeyCommand::Create { name, org, project, scopes, days } => {
            let expires_at = days.map(|d| admin.clock.now() + Span::secs(i64::from(d) * 86_400));
            let wish = KeyWish { name, org, project, scopes: parse_scopes(&scopes)?, expires_at };
            let (key, text) = admin.create_api_key(wish).await.map_err(failed)?;
            println!("{}\n{text} (shown only now)", key.id);
        }
        ApiKeyCommand::Revoke { key } => said(admin.revoke_api_key(&key).await.map_err(failed)?),
    }
    admin.store.close().await;
    Ok(())
}

pub async fn audit(config: Config, command: AuditCommand) -> Result<(), Failure> {
    let admin = open(&config).await?;
    let done = match command {
        AuditCommand::Verify { witness } => verify(&admin, witness).await,
        AuditCommand::Heads => heads(&admin).await,
        AuditCommand::Export => export(&admin).await,
    };
    admin.store.close().await;
    done
}

async fn heads(admin: &Admin) -> Result<(), Failure> {
    for (chain, head) in admin.store.audit_chains().await? {
        println!("{}", json!({"chain": chain, "seq": head.seq, "hash": head.hash, "at": admin.clock.now()}));
    }
    Ok(())
}

/// Entries read at once.
const PAGE: u32 = 1_000;

async fn export(admin: &Admin) -> Result<(), Failure> {
    for (chain, _) in admin.store.audit_chains().await? {
        let mut seq = 0;
        loop {
            let entries = admin.store.audit_after(chain, seq, PAGE).await?;
            let Some(last) = entries.last() else { break };
            seq = last.seq;
            for entry in entries {
                println!("{}", serde_json::to_string(&entry)?);
            }
        }
    }
    Ok(())
}

/// What a signed document says, also one in a poll's answer; anything else is itself. The signature is not looked at: who keeps
/// a witness answers for where it was kept.
fn said_by(mut value: Value) -> Value {
    let signed = match value.get_mut("assignment") {
        Some(assignment) => assignment.take(),
        None => value,
    };
    let payload = serde_json::from_value::<bundle::trust::Envelope>(signed.clone()).ok();
    payload.and_then(|e| e.decode().ok()).unwrap_or(signed)
}

async fn verify(admin: &Admin, witness: Option<PathBuf>) -> Result<(), Failure> {
    let witnesses = match &witness {
        None => Vec::new(),
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
            let seen: Vec<Witness> = text
                .lines()
                .filter_map(|l| serde_json::from_str::<Value>(l).ok())
                .filter_map(|v| Witness::read(&said_by(v)))
                .collect();
            if seen.is_empty() {
                return Err(format!("{}: no line has a chain's seq and hash", path.display()).into());
            }
            seen
        }
    };
    let mut bad = 0;
    let mut chains = admin.store.audit_chain_names().await?;
    // A chain that is gone altogether is only known from the witness.
    chains.extend(witnesses.iter().map(|w| w.chain));
    chains.sort_unstable();
    chains.dedup();
    for chain in chains {
        let of_chain: Vec<Witness> = witnesses.iter().filter(|w| w.chain == chain).copied().collect();
        let verdict: Verdict = admin.store.audit_verify_against(chain, of_chain).await?;
        bad += usize::from(!verdict.valid);
        println!("{}", json!({"chain": chain, "verdict": verdict}));
    }
    match bad {
        0 => Ok(()),
        n => Err(format!("{n} audit chains do not hold").into()),
    }
}
