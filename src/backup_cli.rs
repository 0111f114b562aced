//! `sentinel-cp backup` and `restore`: copies beside a running server, put back and checked before one starts.
//!
//! A backup is a directory: `manifest.json` with the hash of everything, `sentinel.db`, `artifacts/`, and the master key only if asked
//! for. Order matters: the database first, then the objects, so that every object which the copy names is there.

use crate::boot::{self, Failure};
use crate::config::{Config, Storage};
use clap::Args;
use domain::bundle::BundleStatus;
use domain::{Digest, Scope};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::io::{Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use store::Store;

const FORMAT: u32 = 1;
const DATABASE: &str = "sentinel.db";
const OBJECTS: &str = "artifacts";
const MASTER_KEY: &str = "master.key";
const MANIFEST: &str = "manifest.json";
/// The largest archive that is read to be checked; the product's own limit is below.
const MAX_OBJECT: u64 = 256 << 20;

#[derive(Args)]
pub struct BackupArgs {
    /// A new or empty directory
    #[arg(long)]
    to: PathBuf,
    /// Put the master key in too: whoever has the backup can then sign for your fleet
    #[arg(long)]
    with_master_key: bool,
}

#[derive(Args)]
pub struct RestoreArgs {
    /// What `backup` made; with PostgreSQL its artifacts only, and the database by pg_restore before
    #[arg(long)]
    from: Option<PathBuf>,
    /// Only look: schema, master key, audit chains, logs of rollouts, every archive
    #[arg(long, conflicts_with = "from")]
    check: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: u32,
    sentinel_cp: String,
    /// None: of PostgreSQL, made by its own tools.
    database: Option<Part>,
    objects: Vec<Part>,
    /// Objects that are kept elsewhere, and are not in here.
    objects_at: Option<String>,
    master_key: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    name: String,
    bytes: u64,
    sha256: String,
}

pub fn backup(config: &Config, args: &BackupArgs) -> Result<(), Failure> {
    fs::create_dir_all(&args.to)?;
    if fs::read_dir(&args.to)?.next().is_some() {
        return Err(format!("{}: not empty", args.to.display()).into());
    }
    let database = match boot::store_config(config)? {
        c if matches!(c.database, store::Database::Postgres { .. }) => {
            println!(
                "the database is PostgreSQL's to copy, BEFORE this: pg_dump -Fc \"$SENTINEL_CP_DATABASE_URL\" >sentinel.dump"
            );
            println!(
                "(or pg_basebackup with archived WAL); put back with pg_restore, then run `sentinel-cp restore --from`"
            );
            None
        }
        c => {
            let to = args.to.join(DATABASE);
            store::backup::copy_sqlite(&c, &to)?;
            Some(part(DATABASE.into(), &to)?)
        }
    };
    let (mut objects, mut objects_at) = (Vec::new(), None);
    match &config.storage {
        Storage::Dir(dir) => {
            for name in files_below(dir)? {
                let to = args.to.join(OBJECTS).join(&name);
                fs::create_dir_all(to.parent().unwrap_or(&args.to))?;
                fs::copy(dir.join(&name), &to)?;
                objects.push(part(name, &to)?);
            }
        }
        Storage::S3 { bucket, prefix } => {
            let at = format!("s3://{bucket}/{prefix}");
            println!(
                "archives stay in {at}: keep them by versioning or replicating the bucket; nothing is ever overwritten in it"
            );
            objects_at = Some(at);
        }
    }
    if args.with_master_key {
        write_private(&args.to.join(MASTER_KEY), &boot::master_key_text(config)?)?;
    }
    let count = objects.len();
    let master_key = args.with_master_key;
    let sentinel_cp = env!("CARGO_PKG_VERSION").to_string();
    let manifest = Manifest { format: FORMAT, sentinel_cp, database, objects, objects_at, master_key };
    write_private(&args.to.join(MANIFEST), &serde_json::to_string_pretty(&manifest)?)?;
    File::open(&args.to)?.sync_all()?;
    let key = if master_key { "with the master key" } else { "without the master key: keep it elsewhere" };
    let database = if manifest.database.is_some() { "the database and " } else { "" };
    println!("backup in {}: {database}{count} archives, {key}", args.to.display());
    Ok(())
}

/// Names relative to `dir`, in order; what begins with a dot is unfinished.
fn files_below(dir: &Path) -> Result<Vec<String>, Failure> {
    let (mut found, mut open) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(below) = open.pop() {
        let at = dir.join(&below);
        if !at.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&at)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let name = below.join(entry.file_name());
            match entry.file_type()?.is_dir() {
                true => open.push(name),
                false => found.push(name.to_string_lossy().into_owned()),
            }
        }
    }
    found.sort();
    Ok(found)
}

fn part(name: String, path: &Path) -> Result<Part, Failure> {
    let mut file = File::open(path)?;
    file.sync_all()?;
    let (mut hash, mut buffer, mut bytes) = (Sha256::new(), vec![0u8; 1 << 20], 0);
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(Part { name, bytes, sha256: Digest(hash.finalize().into()).to_string() });
        }
        hash.update(&buffer[..n]);
        bytes += n as u64;
    }
}

fn write_private(path: &Path, text: &str) -> Result<(), Failure> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(file.sync_all()?)
}

/// Nothing is put back before everything was found whole.
fn whole(from: &Path) -> Result<Manifest, Failure> {
    let text =
        fs::read_to_string(from.join(MANIFEST)).map_err(|e| format!("{}: {e}", from.join(MANIFEST).display()))?;
    let manifest: Manifest = serde_json::from_str(&text).map_err(|e| format!("{MANIFEST}: {e}"))?;
    if manifest.format != FORMAT {
        return Err(format!("the backup's format is {}, not {FORMAT}", manifest.format).into());
    }
    let objects = manifest.objects.iter().map(|p| (p, from.join(OBJECTS).join(&p.name)));
    let all = manifest.database.iter().map(|p| (p, from.join(&p.name))).chain(objects);
    for (said, path) in all {
        if Path::new(&said.name).components().any(|c| !matches!(c, std::path::Component::Normal(_))) {
            return Err(format!("{MANIFEST}: {:?} is no name of a file in it", said.name).into());
        }
        let found = part(said.name.clone(), &path).map_err(|e| format!("{}: {e}", path.display()))?;
        if (found.bytes, &found.sha256) != (said.bytes, &said.sha256) {
            return Err(format!("{}: not what was backed up", path.display()).into());
        }
    }
    Ok(manifest)
}

pub async fn restore(config: &Config, args: &RestoreArgs) -> Result<(), Failure> {
    if let Some(from) = &args.from {
        put_back(config, from)?;
    }
    if !boot::has_master_key(config) {
        return Err("the master key is missing: set it, or put master.key into the data directory".into());
    }
    let store = boot::open_store(config, &prometheus::Registry::new()).await?;
    if !args.check {
        store.migrate().await?;
    }
    store.ready().await?;
    let faults = check(config, &store).await?;
    for fault in &faults {
        println!("FAULT: {fault}");
    }
    if faults.is_empty() && !args.check {
        let clock = actors::clock::Clock::system();
        let nodes = store.mark_restored(store::Write::at(clock.now())).await?;
        println!(
            "restored: {nodes} nodes are lifted above every generation they can have accepted; what they run is left alone until you \
             start a rollout. At the next start everything that was under way ends. Sessions, keys and nodes that were revoked since \
             the backup count again: revoke them again"
        );
    }
    store.close().await;
    match faults.len() {
        0 => Ok(()),
        n => Err(format!("{n} faults").into()),
    }
}

fn put_back(config: &Config, from: &Path) -> Result<(), Failure> {
    let manifest = whole(from)?;
    boot::make_private_dir(&config.data_dir)?;
    if let Some(database) = &manifest.database {
        let store::Database::Sqlite { path } = boot::store_config(config)?.database else {
            return Err("this is a backup of SQLite, and database_url names PostgreSQL".into());
        };
        if path.exists() {
            return Err(
                format!("{}: there is a database already; restore into an empty directory", path.display()).into()
            );
        }
        fs::copy(from.join(&database.name), &path)?;
        File::open(&path)?.sync_all()?;
    }
    if let Storage::Dir(dir) = &config.storage {
        for object in &manifest.objects {
            let to = dir.join(&object.name);
            fs::create_dir_all(to.parent().unwrap_or(dir))?;
            // Named by their content: one that is there already is the same.
            if !to.exists() {
                fs::copy(from.join(OBJECTS).join(&object.name), &to)?;
                File::open(&to)?.sync_all()?;
            }
        }
    }
    if manifest.master_key && !boot::has_master_key(config) {
        write_private(&config.data_dir.join(MASTER_KEY), &fs::read_to_string(from.join(MASTER_KEY))?)?;
    }
    Ok(())
}

/// What is wrong, in words; nothing is changed. Prints what it looked at.
async fn check(config: &Config, store: &Store) -> Result<Vec<String>, Failure> {
    let mut faults = Vec::new();
    let keys = boot::unseal(config, store).await.unwrap_or_else(|fault| {
        faults.push(fault);
        0
    });
    let mut entries = 0;
    let chains = store.audit_chains().await?;
    for (chain, _) in &chains {
        let verdict = store.audit_verify(*chain).await?;
        entries += verdict.entries;
        if !verdict.valid {
            faults
                .push(format!("the audit chain of {} is broken", chain.map_or("the system".into(), |p| p.to_string())));
        }
    }
    faults.extend(store.broken_logs().await?.iter().map(|r| format!("the log of rollout {r} has a gap")));
    let artifacts = boot::artifacts(config)?;
    let scope = Scope::System("every archive is looked at after a restore");
    let (mut archives, mut page) = (0, store::Page::first(500));
    loop {
        let rows = store.bundles(scope, store::BundleFilter { status: None }, page.clone()).await?;
        for b in rows.rows {
            let (Some(content), Some(hash)) = (b.content_id, b.artifact_hash) else { continue };
            if !matches!(b.status, BundleStatus::Compiled | BundleStatus::Deprecated) {
                continue;
            }
            archives += 1;
            let key = artifacts::Key::bundle(b.project, content);
            if let Err(e) = artifacts.get_verified(&key, MAX_OBJECT, hash).await {
                faults.push(format!("archive {}: {e}", key.as_str()));
            }
        }
        match rows.next_cursor {
            Some(cursor) => page.cursor = Some(cursor),
            None => break,
        }
    }
    println!(
        "looked at: the schema, {keys} sealed keys, {entries} entries of {} audit chains, the logs of all rollouts, {archives} archives",
        chains.len()
    );
    Ok(faults)
}
