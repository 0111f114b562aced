//! `sentinel-cp trust ...`: what is done where the offline keys are, and the rotation of the master key.

use crate::boot::{self, Failure, MASTER_KEY, NEXT_MASTER_KEY};
use crate::bundle_cli::{key_of, read, timestamp};
use crate::config::{Config, Written};
use actors::fresh::Fresh;
use bundle::keys::{MasterKey, Role};
use bundle::trust::{Envelope, RELEASE_TYPE, Release, TrustDoc, valid_signers};
use clap::{Args, Subcommand};
use domain::{ContentId, ProjectId, Timestamp};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use store::Store;

#[derive(Subcommand)]
#[allow(clippy::large_enum_variant)] // parsed once
pub enum TrustCommand {
    /// Make a key pair; the secret goes into a file, the public half is printed for `POST /orgs/:id/keys`
    NewKey {
        #[arg(long, value_parser = role)]
        role: Role,
        /// A new file, readable by the owner only
        #[arg(short, long)]
        output: PathBuf,
    },
    /// Show what a trust document or its draft says, and which of its roots have signed it
    Show { file: PathBuf },
    /// Sign a draft of a trust document; prints it for `POST /orgs/:id/trust` as `document`
    Sign {
        /// The `draft` of `POST /orgs/:id/trust/draft`, or one that others have signed already
        file: PathBuf,
        /// File with the 32-byte Ed25519 secret of a root key, base64
        #[arg(long, required = true)]
        key_file: Vec<PathBuf>,
    },
    /// Sign a release statement; prints it for `POST /projects/:project/releases`
    Release(ReleaseArgs),
    /// Seal the keys in the database under another master key. Every instance must be stopped
    RotateMasterKey {
        #[command(flatten)]
        settings: Written,
        /// File with the new key, base64 of 32 bytes; needed where MASTER_KEY is a setting, else one is made
        #[arg(long)]
        new_key_file: Option<PathBuf>,
    },
}

#[derive(Args)]
pub struct ReleaseArgs {
    #[arg(long)]
    project: ProjectId,
    /// The content id
    #[arg(long, value_parser = content)]
    bundle: ContentId,
    /// Its place among the releases of the project
    #[arg(long)]
    sequence: u64,
    /// Nothing with a lower sequence may run any more
    #[arg(long, default_value_t = 0)]
    floor: u64,
    /// Content ids that may not run any more
    #[arg(long, value_parser = content)]
    revoke: Vec<ContentId>,
    /// RFC 3339
    #[arg(long, value_parser = timestamp)]
    expires_at: Timestamp,
    /// File with the 32-byte Ed25519 secret of a bundle key, base64
    #[arg(long, required = true)]
    key_file: Vec<PathBuf>,
}

fn role(s: &str) -> Result<Role, String> {
    Role::parse(s).ok_or_else(|| "root, bundle or metadata".into())
}

fn content(s: &str) -> Result<ContentId, String> {
    ContentId::parse(s).ok_or_else(|| "not a content id of 64 hex digits".into())
}

pub fn run(command: TrustCommand) -> Result<(), Failure> {
    let shown = match command {
        TrustCommand::NewKey { role, output } => new_key(role, &output)?,
        TrustCommand::Show { file } => show(&document(&file)?)?,
        TrustCommand::Sign { file, key_file } => sign(document(&file)?, &key_file)?,
        TrustCommand::Release(args) => release(args)?,
        TrustCommand::RotateMasterKey { settings, new_key_file } => {
            let config = crate::resolve(settings)?;
            return crate::block_on(rotate_master_key(config, new_key_file));
        }
    };
    println!("{shown:#}");
    Ok(())
}

fn new_key(role: Role, output: &Path) -> Result<Value, Failure> {
    let secret: [u8; 32] = Fresh::system().bytes();
    boot::write_secret(output, &secret)?;
    let pair = bundle::KeyPair::from_secret(role, &secret);
    Ok(json!({"role": role, "public_key": pair.public().to_base64(), "key_id": pair.key_id()}))
}

/// The envelope in a file, also inside the answers that carry it.
fn document(file: &Path) -> Result<Envelope, Failure> {
    let told = |e: serde_json::Error| format!("{}: {e}", file.display());
    let value: Value = serde_json::from_slice(&read(file)?).map_err(told)?;
    let inner = ["/draft", "/document", "/trust/document"].iter().find_map(|p| value.pointer(p));
    Ok(serde_json::from_value(inner.unwrap_or(&value).clone()).map_err(told)?)
}

fn show(envelope: &Envelope) -> Result<Value, Failure> {
    let doc: TrustDoc = envelope.decode()?;
    let signed = valid_signers(&envelope.payload_bytes()?, &envelope.signatures(), &doc.roles.root.keys);
    let role = |r: &bundle::trust::RoleKeys| json!({"threshold": r.threshold, "keys": r.keys.iter().map(|k| k.key_id()).collect::<Vec<_>>()});
    Ok(json!({
        "version": doc.version,
        "expires_at": doc.expires_at,
        "root": role(&doc.roles.root),
        "bundle": role(&doc.roles.bundle),
        "metadata": role(&doc.roles.metadata),
        "artifact_origins": doc.artifact_origins,
        "signed_by_its_roots": signed,
        "problem": doc.problem(),
    }))
}

fn sign(mut envelope: Envelope, key_files: &[PathBuf]) -> Result<Value, Failure> {
    let doc: TrustDoc = envelope.decode()?;
    if let Some(problem) = doc.problem() {
        return Err(format!("no node would take this document: {problem}").into());
    }
    if bundle::canon::to_vec(&doc)? != envelope.payload_bytes()? {
        return Err("the draft says more than this program understands: it is not signed".into());
    }
    for path in key_files {
        envelope = envelope.also_signed_by(&key_of(path, Role::Root)?)?;
    }
    Ok(serde_json::to_value(envelope)?)
}

fn release(args: ReleaseArgs) -> Result<Value, Failure> {
    let said = Release {
        kind: RELEASE_TYPE.into(),
        project: args.project,
        environment: None,
        bundle_id: args.bundle,
        sequence: args.sequence,
        floor: args.floor,
        revoked: args.revoke,
        expires_at: args.expires_at,
    };
    let pairs = args.key_file.iter().map(|p| key_of(p, Role::Bundle)).collect::<Result<Vec<_>, _>>()?;
    Ok(serde_json::to_value(Envelope::sign(&said, &pairs.iter().collect::<Vec<_>>())?)?)
}

/// The new key is on disk before anything is sealed under it and takes the old one's place after everything is, so that a crash
/// in between is mended by running it again. What is refused has written nothing.
async fn rotate_master_key(config: crate::config::Config, new_key_file: Option<PathBuf>) -> Result<(), Failure> {
    let store = boot::open_store(&config, &prometheus::Registry::new()).await?;
    let done = reseal(&store, &config, new_key_file.as_deref()).await;
    store.close().await;
    let done = done?;
    if config.master_key.is_none() {
        println!("{done} keys are sealed under the new master key, which lies in {}", config.data_dir.display());
    } else {
        println!("{done} keys are sealed under the new master key: set MASTER_KEY to it before the next start");
    }
    Ok(())
}

async fn reseal(store: &Store, config: &Config, new_key_file: Option<&Path>) -> Result<usize, Failure> {
    let (fresh, next) = (Fresh::system(), config.data_dir.join(NEXT_MASTER_KEY));
    let in_data_dir = config.master_key.is_none();
    let begun = in_data_dir && next.exists();
    let read_key = |path: &Path| -> Result<[u8; 32], Failure> {
        let text = String::from_utf8(read(path)?).map_err(|_| format!("{}: not text", path.display()))?;
        boot::decode_key(&text, &path.display().to_string())
    };
    let new = match (new_key_file, begun) {
        (Some(file), true) if read_key(file)? != read_key(&next)? => {
            let text = "a rotation to another key was interrupted: end it first, without --new-key-file";
            return Err(text.into());
        }
        (Some(file), _) => read_key(file)?,
        (None, true) => read_key(&next)?,
        (None, false) if in_data_dir => fresh.bytes(),
        (None, false) => return Err("MASTER_KEY is a setting: give the new one with --new-key-file".into()),
    };
    let old = MasterKey::new(boot::master_key(config)?);
    let resealing = actors::keys::reseal(store, &old, &MasterKey::new(new), &fresh).await?;
    if in_data_dir && !begun {
        // Whole or not at all: an empty one would stand in the way of every start.
        let temporary = next.with_extension("next.new");
        let _ = std::fs::remove_file(&temporary);
        boot::write_secret(&temporary, &new)?;
        boot::move_secret(&temporary, &next)?;
    }
    let done = resealing.commit(store, &fresh, actors::clock::Clock::system().now()).await?;
    if in_data_dir {
        boot::move_secret(&next, &config.data_dir.join(MASTER_KEY))?;
    }
    Ok(done)
}
