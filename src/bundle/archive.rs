//! From a verdict to the bytes of a bundle: a pure function, the same on any machine.
//!
//! Two steps, because the row is written between them: [`render`] fixes the content and its id,
//! [`assemble`] adds the signature and packs. Determinism: fixed entry order, owner, mode and time of
//! zero, one zstd level in one thread, canonical JSON.

use crate::canon;
use crate::guard::{SHIPPED, has_private_key};
use crate::manifest::{Manifest, SourceRef};
use crate::sbom;
use crate::source::{Sources, relative_path_problem, shipped_path};
use crate::verdict::{SENTINEL_MIN_VERSION, Verdict};
use domain::{ContentId, Digest, ProjectId, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use thiserror::Error;

pub const MANIFEST: &str = "manifest.json";
pub const CONFIG: &str = "config.kdl";
pub const CONFIG_JSON: &str = "config.json";
pub const CHECKSUMS: &str = "checksums.txt";
pub const SBOM: &str = "SBOM.json";
pub const SIGNATURE: &str = "signature.sig";
/// The entries that are not payload and so not in `payload_hashes`.
pub const METADATA: [&str; 4] = [MANIFEST, CHECKSUMS, SBOM, SIGNATURE];

/// Bytes of a path inside an archive: what a plain tar header holds.
pub const MAX_ENTRY_PATH_BYTES: usize = 100;
/// Entries of an archive: 200 config files, their originals and as many others.
pub const MAX_ENTRIES: usize = 1_000;
/// Bytes of an archive, packed: a config is a few kB; the rest is for plugins and certificates.
pub const MAX_ARCHIVE_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes of everything unpacked. Held in memory while it is verified.
pub const MAX_UNPACKED_BYTES: u64 = 128 * 1024 * 1024;

/// Small configs do not gain beyond it, and 400 kB take 10 ms.
const ZSTD_LEVEL: i32 = 9;

/// Everything a bundle depends on, besides the signing key.
#[derive(Clone, Copy, Debug)]
pub struct BuildInputs<'a> {
    pub project: ProjectId,
    /// As recorded at first compilation.
    pub created_at: Timestamp,
    pub source: &'a SourceRef,
    pub sources: &'a Sources,
    /// The verdict on exactly these sources.
    pub verdict: &'a Verdict,
    /// Files for `certs/`, `trust/` and `plugins/`, with their full paths.
    pub extra: &'a BTreeMap<String, Vec<u8>>,
}

#[derive(Debug, Error)]
pub enum BuildError {
    #[error("an invalid config does not become a bundle")]
    Invalid,
    #[error("the verdict is not about these files: {0:?} is missing")]
    Mismatch(String),
    #[error("the path {0:?} of an extra file is not allowed: {1}")]
    Path(String, &'static str),
    #[error("{0:?} holds a private key; secrets are only referred to")]
    PrivateKey(String),
    #[error("the bundle is too large: {0} bytes, {1} files")]
    TooLarge(u64, usize),
    #[error("JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("packing: {0}")]
    Pack(#[from] std::io::Error),
}

/// A bundle before its signature.
#[derive(Clone, Debug)]
pub struct Rendered {
    pub manifest: Manifest,
    /// What is signed.
    pub manifest_bytes: Vec<u8>,
    pub content_id: ContentId,
    /// Every file but the signature, by path.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// `signature.sig`: over the bytes of `manifest.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignatureFile {
    pub key_id: String,
    pub algorithm: String,
    /// base64, 64 bytes.
    pub signature: String,
    /// Further ones, where the trust document asks for more than one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more: Vec<crate::trust::DetachedSignature>,
}

impl SignatureFile {
    /// All signatures.
    pub fn signatures(&self) -> Vec<crate::trust::DetachedSignature> {
        let first = crate::trust::DetachedSignature { key_id: self.key_id.clone(), signature: self.signature.clone() };
        std::iter::once(first).chain(self.more.iter().cloned()).collect()
    }

    /// Out of signatures over one manifest; `None` without any. In the order of the key ids, so that the same signers make
    /// the same archive.
    pub fn of(mut signatures: Vec<crate::trust::DetachedSignature>) -> Option<SignatureFile> {
        signatures.sort_by(|a, b| a.key_id.cmp(&b.key_id));
        signatures.dedup_by(|a, b| a.key_id == b.key_id);
        let mut all = signatures.into_iter();
        let first = all.next()?;
        Some(SignatureFile {
            key_id: first.key_id,
            algorithm: "ed25519".into(),
            signature: first.signature,
            more: all.collect(),
        })
    }
}

/// The finished file.
#[derive(Clone, Debug)]
pub struct Archive {
    pub bytes: Vec<u8>,
    /// SHA-256 of `bytes`.
    pub artifact_hash: Digest,
    pub size: u64,
}

/// Fixes content and id. Same inputs, same outputs.
pub fn render(inputs: BuildInputs<'_>) -> Result<Rendered, BuildError> {
    let verdict = inputs.verdict;
    let (Some(config), Some(merged), true) = (&verdict.config_json, &verdict.merged, verdict.ok) else {
        return Err(BuildError::Invalid);
    };
    let mut payload: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    payload.insert(CONFIG.into(), merged.text.clone().into_bytes());
    payload.insert(CONFIG_JSON.into(), canon::to_vec(config)?);
    if merged.files.len() > 1 {
        // For people, and to compile again: the proxy loads only the merged file.
        for file in &merged.files {
            let text = inputs.sources.get(file).ok_or_else(|| BuildError::Mismatch(file.clone()))?;
            payload.insert(shipped_path(file), text.as_bytes().to_vec());
        }
    }
    for (path, bytes) in inputs.extra {
        resource_path_problem(path).map_err(|why| BuildError::Path(path.clone(), why))?;
        if has_private_key(&String::from_utf8_lossy(bytes)).is_some() {
            return Err(BuildError::PrivateKey(path.clone()));
        }
        payload.insert(path.clone(), bytes.clone());
    }
    let hashes = payload.iter().map(|(p, b)| (p.clone(), Digest::of(b).prefixed())).collect();
    let manifest = Manifest::new(
        inputs.project,
        inputs.created_at,
        inputs.source.clone(),
        hashes,
        verdict.validator.clone(),
        SENTINEL_MIN_VERSION.into(),
    )?;
    let manifest_bytes = manifest.to_bytes()?;
    let mut files = payload;
    files.insert(SBOM.into(), sbom::render(&manifest, config)?);
    files.insert(MANIFEST.into(), manifest_bytes.clone());
    let sums: String = files.iter().map(|(path, bytes)| format!("{}  {path}\n", Digest::of(bytes))).collect();
    files.insert(CHECKSUMS.into(), sums.into_bytes());
    let total: u64 = files.values().map(|b| b.len() as u64).sum();
    // Two entries of room: the signature, and headers are counted when unpacking.
    if total > MAX_UNPACKED_BYTES / 2 || files.len() + 2 > MAX_ENTRIES {
        return Err(BuildError::TooLarge(total, files.len()));
    }
    Ok(Rendered { content_id: manifest.bundle_id, manifest, manifest_bytes, files })
}

/// Whether a file may be shipped beside the configuration under this path.
pub fn resource_path_problem(path: &str) -> Result<(), &'static str> {
    relative_path_problem(path, MAX_ENTRY_PATH_BYTES)?;
    match SHIPPED.iter().any(|dir| path.starts_with(dir)) {
        true => Ok(()),
        false => Err("it is not in certs/, trust/ or plugins/"),
    }
}

/// Packs, with the signature if there is one already.
pub fn assemble(rendered: &Rendered, signature: Option<&SignatureFile>) -> Result<Archive, BuildError> {
    pack(&rendered.files, signature)
}

/// The same from the files of an archive, to which a signature comes later. One that is there already is replaced.
pub fn pack(files: &BTreeMap<String, Vec<u8>>, signature: Option<&SignatureFile>) -> Result<Archive, BuildError> {
    let count = files.len();
    let mut files: Vec<(&str, &[u8])> =
        files.iter().filter(|(p, _)| *p != SIGNATURE).map(|(p, b)| (p.as_str(), b.as_slice())).collect();
    let signature = signature.map(canon::to_vec).transpose()?;
    if let Some(bytes) = &signature {
        files.push((SIGNATURE, bytes));
    }
    let tar = tar_of(files)?;
    let bytes = compressed(&tar)?;
    if bytes.len() as u64 > MAX_ARCHIVE_BYTES {
        return Err(BuildError::TooLarge(bytes.len() as u64, count));
    }
    Ok(Archive { artifact_hash: Digest::of(&bytes), size: bytes.len() as u64, bytes })
}

/// Packs these files and nothing else, whatever they are: for tests of those who read them.
pub fn pack_as_is(files: &BTreeMap<String, Vec<u8>>) -> std::io::Result<Vec<u8>> {
    compressed(&tar_of(files.iter().map(|(p, b)| (p.as_str(), b.as_slice())).collect())?)
}

/// The manifest and the signature first (a reader can stop there), then by path.
fn tar_of(mut files: Vec<(&str, &[u8])>) -> std::io::Result<Vec<u8>> {
    let rank = |path: &str| match path {
        MANIFEST => 0,
        SIGNATURE => 1,
        _ => 2,
    };
    files.sort_by(|(a, _), (b, _)| (rank(a), a).cmp(&(rank(b), b)));
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_path(path)?;
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        tar.append(&header, bytes)?;
    }
    tar.into_inner()
}

/// One frame, always the same for the same bytes.
pub fn compressed(tar: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut z = zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
    z.include_checksum(true)?;
    z.include_contentsize(true)?;
    z.include_dictid(false)?;
    z.set_pledged_src_size(Some(tar.len() as u64))?;
    z.write_all(tar)?;
    z.finish()
}
