//! `sentinel-cp bundle ...`: bundles without a server. The same library, so the same bytes.

use crate::boot::{Failure, VALIDATE_CHILD};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bundle::archive::{CONFIG_JSON, MANIFEST, SIGNATURE};
use bundle::child::ChildValidator;
use bundle::manifest::SourceRef;
use bundle::trust::{DetachedSignature, RoleKeys, sign_manifest};
use bundle::{BuildInputs, KeyPair, Manifest, PublicKey, Role, SignatureFile, Sources, assemble, render};
use clap::{Args, Subcommand};
use domain::{Digest, ProjectId, Timestamp};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where the original files of a configuration with includes lie inside a bundle.
const ORIGINALS: &str = "conf.d/";
/// What every zstd frame begins with.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

#[derive(Subcommand)]
pub enum BundleCommand {
    /// Compile a configuration into a bundle, with the same bytes as the server's
    Build(BuildArgs),
    /// Check signature, hashes, ids and the list of files
    Verify(VerifyArgs),
    /// Show what is inside, without trusting any of it
    Inspect { file: PathBuf },
    /// What changed between two bundles, by meaning, and how risky that is
    Diff {
        from: PathBuf,
        to: PathBuf,
        /// Lines for people instead of JSON
        #[arg(long)]
        text: bool,
    },
    /// Check an unsigned archive and sign its manifest with a bundle key kept offline; prints signature.sig
    Sign(SignArgs),
}

#[derive(Args)]
pub struct SignArgs {
    /// The archive: every file in it is checked before it is signed. Or manifest.json, whose files you have checked
    file: PathBuf,
    /// File with the 32-byte Ed25519 secret, base64; several where more than one has to sign
    #[arg(long, required = true)]
    key_file: Vec<PathBuf>,
    /// Sign only for this project
    #[arg(long)]
    project: Option<ProjectId>,
    /// Compile the sources inside again first and compare every byte
    #[arg(long)]
    rebuild: bool,
    /// Write the archive with its signature here
    #[arg(long)]
    attach: Option<PathBuf>,
}

#[derive(Args)]
pub struct BuildArgs {
    /// config.kdl, or a directory with config.kdl and what it includes
    source: PathBuf,
    #[arg(long)]
    project: ProjectId,
    /// As recorded at the first compilation, RFC 3339
    #[arg(long, value_parser = timestamp)]
    created_at: Timestamp,
    #[arg(long, default_value = "api")]
    source_type: String,
    #[arg(long)]
    source_ref: Option<String>,
    /// Directory with the project's resources: certs/, trust/ and plugins/
    #[arg(long)]
    resources: Option<PathBuf>,
    /// Sign with this key (file with the 32-byte Ed25519 secret, base64)
    #[arg(long)]
    key_file: Option<PathBuf>,
    /// Where the archive is written
    #[arg(short, long)]
    output: PathBuf,
}

#[derive(Args)]
pub struct VerifyArgs {
    file: PathBuf,
    #[arg(long)]
    project: ProjectId,
    /// The bundle key, base64 of 32 bytes (the trust document has it)
    #[arg(long, value_parser = public_key)]
    key: Vec<PublicKey>,
    /// How many of the keys must have signed
    #[arg(long, default_value_t = 1)]
    threshold: u32,
    /// Accept an archive whose files are right but that was packed in another way, by a release with another compressor
    #[arg(long)]
    any_packing: bool,
    /// Compile the sources inside again and compare every byte
    #[arg(long)]
    rebuild: bool,
}

pub fn timestamp(s: &str) -> Result<Timestamp, String> {
    Timestamp::parse_rfc3339(s).ok_or_else(|| "not an RFC 3339 time".into())
}

fn public_key(s: &str) -> Result<PublicKey, String> {
    PublicKey::parse_base64(s).ok_or_else(|| "not base64 of 32 bytes".into())
}

pub fn run(command: BundleCommand) -> Result<(), Failure> {
    let shown = match command {
        BundleCommand::Build(args) => build(&args)?,
        BundleCommand::Verify(args) => verify(&args)?,
        BundleCommand::Inspect { file } => inspect(&file)?,
        BundleCommand::Diff { from, to, text } => {
            let (old, new) = (config_of(&from)?, config_of(&to)?);
            let (changes, cut) = bundle::diff::changes(&old, &new);
            let risk = bundle::risk::assess(Some(&old), &new, 0);
            if text {
                print!("{}", bundle::diff::text(&changes));
                println!("risk: {}", risk.level);
                risk.reasons.iter().for_each(|why| println!("    {why}"));
                risk.restart_reasons.iter().for_each(|why| println!("    needs a restart of the proxy: {why}"));
                return Ok(());
            }
            let mut said = serde_json::to_value(bundle::risk::diff(&old, &new))?;
            said["changes"] = serde_json::to_value(changes)?;
            said["truncated"] = json!(cut);
            said["risk"] = serde_json::to_value(risk)?;
            said
        }
        BundleCommand::Sign(args) => {
            let signature = sign(&args)?;
            if let Some(out) = &args.attach {
                let packed = bundle::archive::pack(&archive(&args.file)?, Some(&signature))?;
                std::fs::write(out, packed.bytes).map_err(|e| format!("{}: {e}", out.display()))?;
            }
            serde_json::to_value(signature)?
        }
    };
    println!("{shown:#}");
    Ok(())
}

pub fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()).into())
}

fn archive(path: &Path) -> Result<BTreeMap<String, Vec<u8>>, Failure> {
    bundle::read_archive(&read(path)?).map_err(|e| format!("{}: {e}", path.display()).into())
}

fn config_of(path: &Path) -> Result<Value, Failure> {
    let files = archive(path)?;
    let bytes = files.get(CONFIG_JSON).ok_or_else(|| format!("{}: no {CONFIG_JSON}", path.display()))?;
    Ok(serde_json::from_slice(bytes)?)
}

fn key(path: &Path) -> Result<KeyPair, Failure> {
    key_of(path, Role::Bundle)
}

/// The pair whose secret lies in a file, base64 of 32 bytes.
pub fn key_of(path: &Path, role: Role) -> Result<KeyPair, Failure> {
    let text = String::from_utf8(read(path)?).map_err(|_| "the key file is not text")?;
    let bytes = BASE64.decode(text.trim()).map_err(|e| format!("{}: not base64: {e}", path.display()))?;
    let secret: [u8; 32] = bytes.try_into().map_err(|_| format!("{}: not 32 bytes", path.display()))?;
    Ok(KeyPair::from_secret(role, &secret))
}

fn validator() -> Result<ChildValidator, Failure> {
    Ok(ChildValidator::new(std::env::current_exe()?, [VALIDATE_CHILD]))
}

/// The archive of `sources`, and what it is called.
fn make(
    sources: &Sources,
    extra: &BTreeMap<String, Vec<u8>>,
    project: ProjectId,
    created_at: Timestamp,
    source: &SourceRef,
    signature: impl FnOnce(&[u8]) -> Option<SignatureFile>,
) -> Result<(bundle::Rendered, bundle::Archive), Failure> {
    let verdict = validator()?.validate(sources)?;
    if !verdict.ok {
        let lines: Vec<String> = verdict.errors.iter().map(|m| m.to_string()).collect();
        return Err(format!("the configuration is not valid:\n{}", lines.join("\n")).into());
    }
    let rendered = render(BuildInputs { project, created_at, source, sources, verdict: &verdict, extra })?;
    let archive = assemble(&rendered, signature(&rendered.manifest_bytes).as_ref())?;
    Ok((rendered, archive))
}

fn build(args: &BuildArgs) -> Result<Value, Failure> {
    let sources = if args.source.is_dir() {
        Sources::from_files(text_files(&args.source)?)
    } else {
        Sources::single(String::from_utf8(read(&args.source)?).map_err(|_| "the configuration is not UTF-8")?)
    };
    let extra = match &args.resources {
        Some(dir) => files_below(dir)?.into_iter().collect(),
        None => BTreeMap::new(),
    };
    let source = SourceRef { kind: args.source_type.clone(), reference: args.source_ref.clone() };
    let pair = args.key_file.as_deref().map(key).transpose()?;
    let sign = |manifest: &[u8]| pair.as_ref().map(|k| sign_manifest(manifest, k));
    let (rendered, made) = make(&sources, &extra, args.project, args.created_at, &source, sign)?;
    std::fs::write(&args.output, &made.bytes).map_err(|e| format!("{}: {e}", args.output.display()))?;
    Ok(json!({
        "bundle_id": rendered.content_id,
        "artifact_hash": made.artifact_hash.prefixed(),
        "size_bytes": made.size,
        "signed_by": pair.map(|k| k.key_id()),
        "file": args.output,
    }))
}

fn text_files(dir: &Path) -> Result<Vec<(String, String)>, Failure> {
    let text = |(name, bytes): (String, Vec<u8>)| match String::from_utf8(bytes) {
        Ok(text) => Ok((name, text)),
        Err(_) => Err(Failure::from(format!("{name}: not UTF-8"))),
    };
    files_below(dir)?.into_iter().map(text).collect()
}

/// Every file below `dir`, by its path in it. Links are not followed.
fn files_below(dir: &Path) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let mut out = Vec::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(at) = open.pop() {
        for entry in std::fs::read_dir(&at).map_err(|e| format!("{}: {e}", at.display()))? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                let path = entry.path();
                let name = path.strip_prefix(dir)?.to_string_lossy().into_owned();
                out.push((name, read(&path)?));
            }
        }
    }
    Ok(out)
}

fn verify(args: &VerifyArgs) -> Result<Value, Failure> {
    if args.key.is_empty() {
        return Err("--key is needed: without a key nothing is proved".into());
    }
    let bytes = read(&args.file)?;
    let keys = RoleKeys { keys: args.key.clone(), threshold: args.threshold };
    let check = if args.any_packing { bundle::verify::verify_offline } else { bundle::verify::verify_whole };
    let checked = check(&bytes, args.project, &keys).map_err(|r| format!("{}: {r}", r.code()))?;
    let mut said = json!({
        "valid": true,
        "bundle_id": checked.manifest.bundle_id,
        "artifact_hash": Digest::of(&bytes).prefixed(),
        "files": checked.files.len(),
    });
    if args.rebuild {
        let again = rebuild(&checked.manifest, &checked.files)?;
        if again != bytes {
            return Err("rebuilt from its own sources the archive has other bytes".into());
        }
        said["rebuilt"] = json!(true);
    }
    Ok(said)
}

/// The archive once more, from the sources inside it.
fn rebuild(manifest: &Manifest, files: &BTreeMap<String, Vec<u8>>) -> Result<Vec<u8>, Failure> {
    let text = |b: &Vec<u8>| String::from_utf8(b.clone()).map_err(|_| Failure::from("a source file is not UTF-8"));
    // A file `x.kdl` and one `conf.d/x.kdl` lie at the same place inside; whichever is not included is left out again.
    let mut originals: Vec<(String, String)> = Vec::new();
    for (path, bytes) in files {
        let Some(name) = path.strip_prefix(ORIGINALS) else { continue };
        originals.push((name.to_string(), text(bytes)?));
        if name != bundle::archive::CONFIG {
            originals.push((path.clone(), text(bytes)?));
        }
    }
    let sources = if originals.is_empty() {
        Sources::single(text(files.get(bundle::archive::CONFIG).ok_or("no config.kdl")?)?)
    } else {
        Sources::from_files(originals)
    };
    let extra: BTreeMap<String, Vec<u8>> = files
        .iter()
        .filter(|(p, _)| bundle::guard::SHIPPED.iter().any(|dir| p.starts_with(dir)))
        .map(|(p, b)| (p.clone(), b.clone()))
        .collect();
    let signature: Option<SignatureFile> = files.get(SIGNATURE).map(|b| serde_json::from_slice(b)).transpose()?;
    let (_, made) = make(&sources, &extra, manifest.project_id, manifest.created_at, &manifest.source, |_| signature)?;
    Ok(made.bytes)
}

fn inspect(file: &Path) -> Result<Value, Failure> {
    let files = archive(file)?;
    let parsed = |name: &str| files.get(name).and_then(|b| serde_json::from_slice::<Value>(b).ok());
    let listed: BTreeMap<&String, Value> =
        files.iter().map(|(p, b)| (p, json!({"bytes": b.len(), "sha256": Digest::of(b)}))).collect();
    Ok(json!({
        "artifact_hash": Digest::of(&read(file)?).prefixed(),
        "manifest": parsed(MANIFEST),
        "signature": parsed(SIGNATURE),
        "files": listed,
        "verified": false,
    }))
}

/// What is signed was looked at first: the archive whole, every file by the manifest; then what `--rebuild` and `--project` ask for.
fn sign(args: &SignArgs) -> Result<SignatureFile, Failure> {
    let bytes = read(&args.file)?;
    // An archive begins with this; a manifest with a brace.
    let manifest = match bytes.starts_with(&ZSTD_MAGIC) {
        true => {
            let told = |r: bundle::Refusal| format!("{}: not signed: {}: {r}", args.file.display(), r.code());
            let checked = bundle::verify::verify_unsigned(&bytes, args.project).map_err(told)?;
            if args.rebuild && rebuild(&checked.manifest, &checked.files)? != bytes {
                return Err("not signed: rebuilt from its own sources the archive has other bytes".into());
            }
            checked.manifest
        }
        false if args.rebuild || args.attach.is_some() => return Err("--rebuild and --attach need the archive".into()),
        false => bare_manifest(&bytes, args.project)?,
    };
    // However it was printed meanwhile: what is signed is the canonical form, which the archive has.
    let manifest = bundle::canon::to_vec(&manifest)?;
    let signatures = args.key_file.iter().map(|path| {
        let pair = key(path)?;
        Ok(DetachedSignature { key_id: pair.key_id(), signature: pair.sign_base64(&manifest) })
    });
    let signatures: Vec<DetachedSignature> = signatures.collect::<Result<_, Failure>>()?;
    SignatureFile::of(signatures).ok_or_else(|| "--key-file is needed".into())
}

/// A manifest by itself must at least be one and name its own content; whoever signs it has looked at the files elsewhere.
fn bare_manifest(bytes: &[u8], project: Option<ProjectId>) -> Result<Manifest, Failure> {
    let value: Value = serde_json::from_slice(bytes).map_err(|e| format!("not a manifest: {e}"))?;
    let parsed: Manifest = serde_json::from_value(value.clone()).map_err(|e| format!("not a manifest: {e}"))?;
    if bundle::manifest::content_id_of(value)? != parsed.bundle_id {
        return Err("the manifest's bundle_id does not name its content".into());
    }
    if project.is_some_and(|p| p != parsed.project_id) {
        return Err(format!("not signed: the manifest is of the project {}", parsed.project_id).into());
    }
    eprintln!("only the manifest was looked at: give the archive to have its files checked as well");
    Ok(parsed)
}
