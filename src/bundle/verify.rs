//! What a node accepts: trust documents, assignments, archives. Pure functions over [`NodeTrust`].
//!
//! Invariant: whatever is refused changes nothing, and every refusal has a stable code. Expiry forbids
//! *accepting*; it never stops a node from serving what it runs.

use crate::archive::{MANIFEST, MAX_ARCHIVE_BYTES, METADATA, SIGNATURE, SignatureFile};
use crate::canon;
use crate::keys::{PublicKey, Role};
use crate::manifest::{Manifest, SCHEMA_VERSION, content_id_of};
use crate::trust::{
    ASSIGNMENT_TYPE, Assignment, DetachedSignature, Envelope, RELEASE_TYPE, Release, RoleKeys, TrustDoc, TrustError,
    valid_signers,
};
use crate::unpack;
use domain::{ContentId, Digest, NodeId, ProjectId, Span, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use thiserror::Error;

/// How far clocks may be apart.
pub const LEEWAY: Span = Span::secs(10 * 60);

/// Why something was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("the document cannot be read: {0}")]
    Malformed(String),
    #[error("{have} of {need} needed signatures by {role} keys are valid")]
    Signature { role: &'static str, have: usize, need: u32 },
    #[error("the root is not the pinned one")]
    Root,
    #[error("the trust document has version {got}, expected {want}")]
    TrustVersion { got: u64, want: u64 },
    #[error("the trust document is unusable: {0}")]
    Trust(String),
    #[error("the trust document expired at {0}")]
    TrustExpired(Timestamp),
    #[error("it is for another node")]
    WrongNode,
    #[error("it is for another project")]
    WrongProject,
    #[error("it expired at {0}")]
    Expired(Timestamp),
    #[error("it was issued at {issued_at}, and the clock here says {now}")]
    ClockSkew { issued_at: Timestamp, now: Timestamp },
    #[error("generation {got} is older than {have}, which was accepted before")]
    StaleGeneration { got: u64, have: u64 },
    #[error("generation {0} was accepted before with other contents")]
    GenerationReused(u64),
    #[error("the assignment names no bundle")]
    NoBundle,
    #[error("too large: {0}")]
    TooLarge(&'static str),
    #[error("the archive's hash is not the assigned one")]
    ArtifactHash,
    #[error("the archive is damaged: {0}")]
    Archive(String),
    #[error("the entry {0:?} is not a plain file")]
    EntryType(String),
    #[error("the entry name {0:?} is not allowed: {1}")]
    Path(String, &'static str),
    #[error("the entry {0:?} is there twice")]
    Duplicate(String),
    #[error("the entry {0:?} is missing")]
    Missing(String),
    #[error("the entry {0:?} is not listed in the manifest")]
    NotListed(String),
    #[error("the entry {0:?} is not what the manifest says")]
    PayloadHash(String),
    #[error("the manifest is unusable: {0}")]
    Manifest(String),
    #[error("the bundle id is not the one of this content")]
    BundleId,
    #[error("release {sequence} is below the floor of {floor}")]
    BelowFloor { sequence: u64, floor: u64 },
    #[error("the bundle is revoked")]
    Revoked,
    #[error("no statement of the bundle key releases this bundle")]
    ReleaseMissing,
}

impl Refusal {
    /// Stable, for reports, metrics and tests.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::Malformed(_) => "malformed",
            Refusal::Signature { .. } => "bad_signature",
            Refusal::Root => "wrong_root",
            Refusal::TrustVersion { .. } => "trust_version",
            Refusal::Trust(_) => "trust_unusable",
            Refusal::TrustExpired(_) => "trust_expired",
            Refusal::WrongNode => "wrong_node",
            Refusal::WrongProject => "wrong_project",
            Refusal::Expired(_) => "expired",
            Refusal::ClockSkew { .. } => "clock_skew",
            Refusal::StaleGeneration { .. } => "stale_generation",
            Refusal::GenerationReused(_) => "generation_reused",
            Refusal::NoBundle => "no_bundle",
            Refusal::TooLarge(_) => "too_large",
            Refusal::ArtifactHash => "artifact_hash",
            Refusal::Archive(_) => "archive_damaged",
            Refusal::EntryType(_) => "entry_type",
            Refusal::Path(..) => "entry_path",
            Refusal::Duplicate(_) => "entry_duplicate",
            Refusal::Missing(_) => "entry_missing",
            Refusal::NotListed(_) => "entry_not_listed",
            Refusal::PayloadHash(_) => "payload_hash",
            Refusal::Manifest(_) => "manifest",
            Refusal::BundleId => "bundle_id",
            Refusal::BelowFloor { .. } => "below_floor",
            Refusal::Revoked => "revoked",
            Refusal::ReleaseMissing => "release_missing",
        }
    }
}

impl From<TrustError> for Refusal {
    fn from(e: TrustError) -> Refusal {
        Refusal::Malformed(e.to_string())
    }
}

/// What release statements have said so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseState {
    /// The highest seen; never goes down.
    pub floor: u64,
    pub revoked: BTreeSet<ContentId>,
    /// Of every bundle that was released while this node watched.
    pub sequences: BTreeMap<ContentId, u64>,
}

/// Everything a node remembers in order to judge. The agent keeps it on disk, flushed before it acts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeTrust {
    /// Key id of the root given at enrolment.
    pub root: Digest,
    pub trust: TrustDoc,
    pub node_id: NodeId,
    pub project_id: ProjectId,
    /// The last accepted assignment.
    pub last: Option<Assignment>,
    /// The highest time that a signature has vouched for: a clock set back does not revive old documents.
    pub highest_seen: Timestamp,
    /// Present once a release statement was accepted; from then on every bundle needs one.
    #[serde(default)]
    pub release: Option<ReleaseState>,
}

/// An assignment that may be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub assignment: Assignment,
    /// It says the same as the last one (signed anew).
    pub repeated: bool,
    pub highest_seen: Timestamp,
}

fn check_signatures(
    message: &[u8],
    signatures: &[DetachedSignature],
    keys: &RoleKeys,
    role: Role,
) -> Result<(), Refusal> {
    let have = valid_signers(message, signatures, &keys.keys).len();
    if have as u64 >= u64::from(keys.threshold.max(1)) {
        Ok(())
    } else {
        Err(Refusal::Signature { role: role.as_str(), have, need: keys.threshold.max(1) })
    }
}

/// A trust document with sound contents whose own roots have signed it.
fn self_signed(envelope: &Envelope) -> Result<(TrustDoc, Vec<u8>), Refusal> {
    let bytes = envelope.payload_bytes()?;
    let doc: TrustDoc = serde_json::from_slice(&bytes).map_err(|e| Refusal::Malformed(e.to_string()))?;
    if let Some(problem) = doc.problem() {
        return Err(Refusal::Trust(problem));
    }
    check_signatures(&bytes, &envelope.signatures(), &doc.roles.root, Role::Root)?;
    Ok((doc, bytes))
}

/// Whether the key named `root` is listed as a root in this document and has signed it.
fn vouched_for(envelope: &Envelope, root: Digest) -> bool {
    let (Ok(doc), Ok(bytes)) = (envelope.decode::<TrustDoc>(), envelope.payload_bytes()) else { return false };
    let id = root.to_string();
    let pinned: Vec<PublicKey> = doc.roles.root.keys.iter().copied().filter(|k| k.key_id() == id).collect();
    !valid_signers(&bytes, &envelope.signatures(), &pinned).is_empty()
}

/// The document that may follow `current`: one version higher, signed by the roots of both. The server asks the same question
/// before it publishes one that every node will ask.
pub fn check_successor(current: &TrustDoc, envelope: &Envelope) -> Result<TrustDoc, Refusal> {
    let (doc, bytes) = self_signed(envelope)?;
    let want = current.version.saturating_add(1);
    if doc.version != want {
        return Err(Refusal::TrustVersion { got: doc.version, want });
    }
    check_signatures(&bytes, &envelope.signatures(), &current.roles.root, Role::Root)?;
    Ok(doc)
}

/// A release statement signed by enough bundle keys.
pub fn check_release(keys: &RoleKeys, envelope: &Envelope) -> Result<Release, Refusal> {
    let bytes = envelope.payload_bytes()?;
    check_signatures(&bytes, &envelope.signatures(), keys, Role::Bundle)?;
    let release: Release = serde_json::from_slice(&bytes).map_err(|e| Refusal::Malformed(e.to_string()))?;
    if release.kind != RELEASE_TYPE {
        return Err(Refusal::Malformed(format!("the type is {:?}", release.kind)));
    }
    if let Some(name) = &release.environment {
        // Nodes do not know their environment: taken, it would release for staging what is then run in production.
        return Err(Refusal::Malformed(format!(
            "it is only for the environment {name:?}, which nobody here can judge"
        )));
    }
    Ok(release)
}

/// Whether enough bundle keys have signed a manifest.
pub fn check_manifest(keys: &RoleKeys, manifest: &[u8], signature: &SignatureFile) -> Result<(), Refusal> {
    if signature.algorithm != "ed25519" {
        return Err(Refusal::Malformed(format!("{SIGNATURE}: algorithm {:?}", signature.algorithm)));
    }
    check_signatures(manifest, &signature.signatures(), keys, Role::Bundle)
}

impl NodeTrust {
    /// At enrolment: `root` is the pinned key id, `chain` the trust documents up to the newest, in order. Those before the
    /// first one that the pinned root signed are passed over: they say nothing to a node that was told of a later root.
    pub fn pin(
        root: Digest,
        chain: &[Envelope],
        node_id: NodeId,
        project_id: ProjectId,
        now: Timestamp,
    ) -> Result<NodeTrust, Refusal> {
        let start = chain.iter().position(|e| vouched_for(e, root)).unwrap_or(0);
        let (first, rest) =
            chain[start..].split_first().ok_or_else(|| Refusal::Malformed("no trust document".into()))?;
        let (trust, _) = self_signed(first)?;
        if !vouched_for(first, root) {
            return Err(Refusal::Root);
        }
        let mut node =
            NodeTrust { root, trust, node_id, project_id, last: None, highest_seen: Timestamp::ZERO, release: None };
        for next in rest {
            node.trust = node.rotate(next)?;
        }
        node.check_trust_time(now)?;
        Ok(node)
    }

    /// The next version of the trust document. Expired ones on the way are fine; the last is judged when
    /// something is accepted under it.
    pub fn rotate(&self, envelope: &Envelope) -> Result<TrustDoc, Refusal> {
        check_successor(&self.trust, envelope)
    }

    fn time(&self, now: Timestamp) -> Timestamp {
        now.max(self.highest_seen)
    }

    fn check_trust_time(&self, now: Timestamp) -> Result<(), Refusal> {
        if self.time(now) > self.trust.expires_at + LEEWAY {
            return Err(Refusal::TrustExpired(self.trust.expires_at));
        }
        Ok(())
    }

    /// Judges an assignment. Changes nothing: call [`NodeTrust::commit`] and flush it before staging.
    pub fn accept_assignment(&self, envelope: &Envelope, now: Timestamp) -> Result<Accepted, Refusal> {
        let bytes = envelope.payload_bytes()?;
        check_signatures(&bytes, &envelope.signatures(), &self.trust.roles.metadata, Role::Metadata)?;
        let a: Assignment = serde_json::from_slice(&bytes).map_err(|e| Refusal::Malformed(e.to_string()))?;
        if a.kind != ASSIGNMENT_TYPE {
            return Err(Refusal::Malformed(format!("the type is {:?}", a.kind)));
        }
        if a.bundle_id.is_some() != a.artifact_hash.is_some() {
            return Err(Refusal::Malformed("a bundle goes with the hash of its archive".into()));
        }
        if a.node_id != self.node_id {
            return Err(Refusal::WrongNode);
        }
        if a.project_id != self.project_id {
            return Err(Refusal::WrongProject);
        }
        if a.issued_at > now + LEEWAY {
            return Err(Refusal::ClockSkew { issued_at: a.issued_at, now });
        }
        self.check_trust_time(now)?;
        if self.time(now) > a.expires_at + LEEWAY {
            return Err(Refusal::Expired(a.expires_at));
        }
        let repeated = match &self.last {
            Some(last) if a.generation < last.generation => {
                return Err(Refusal::StaleGeneration { got: a.generation, have: last.generation });
            }
            Some(last) if a.generation == last.generation => {
                if !a.same_core(last) {
                    return Err(Refusal::GenerationReused(a.generation));
                }
                true
            }
            _ => false,
        };
        if let (Some(release), Some(bundle)) = (&self.release, &a.bundle_id)
            && release.revoked.contains(bundle)
        {
            return Err(Refusal::Revoked);
        }
        let highest_seen = self.highest_seen.max(a.issued_at);
        Ok(Accepted { assignment: a, repeated, highest_seen })
    }

    /// Remembers what was accepted.
    pub fn commit(&mut self, accepted: &Accepted) {
        self.last = Some(accepted.assignment.clone());
        self.highest_seen = self.highest_seen.max(accepted.highest_seen);
    }

    /// Judges an assignment that no release statement goes with: where releases are stated, what was never stated is not one,
    /// whoever signed the bundle once. Where the trust document requires statements one goes with every change of the bundle, so
    /// that one that has expired is not got round by leaving it out.
    pub fn released(&self, assignment: &Assignment) -> Result<(), Refusal> {
        let Some(bundle) = &assignment.bundle_id else { return Ok(()) };
        let runs = self.last.as_ref().and_then(|l| l.bundle_id.as_ref()) == Some(bundle);
        let Some(state) = &self.release else {
            return if self.trust.releases_required && !runs { Err(Refusal::ReleaseMissing) } else { Ok(()) };
        };
        state.allows(bundle)?;
        match state.sequences.contains_key(bundle) && (runs || !self.trust.releases_required) {
            true => Ok(()),
            false => Err(Refusal::ReleaseMissing),
        }
    }

    /// Judges the release statement that goes with `assignment`. The answer replaces [`NodeTrust::release`].
    pub fn accept_release(
        &self,
        envelope: &Envelope,
        assignment: &Assignment,
        now: Timestamp,
    ) -> Result<ReleaseState, Refusal> {
        let r = check_release(&self.trust.roles.bundle, envelope)?;
        if r.project != self.project_id {
            return Err(Refusal::WrongProject);
        }
        if assignment.bundle_id != Some(r.bundle_id) {
            return Err(Refusal::BundleId);
        }
        if self.time(now) > r.expires_at + LEEWAY {
            return Err(Refusal::Expired(r.expires_at));
        }
        let mut state = self.release.clone().unwrap_or_default();
        state.floor = state.floor.max(r.floor);
        state.revoked.extend(r.revoked.iter().copied());
        state.sequences.insert(r.bundle_id, r.sequence);
        state.allows(&r.bundle_id)?;
        Ok(state)
    }
}

impl ReleaseState {
    /// Whether a bundle may run, also as a local fall-back.
    pub fn allows(&self, bundle: &ContentId) -> Result<(), Refusal> {
        if self.revoked.contains(bundle) {
            return Err(Refusal::Revoked);
        }
        let sequence = self.sequences.get(bundle).copied().unwrap_or(0);
        if sequence < self.floor {
            return Err(Refusal::BelowFloor { sequence, floor: self.floor });
        }
        Ok(())
    }
}

/// A bundle whose every byte has been accounted for.
#[derive(Clone, Debug)]
pub struct VerifiedBundle {
    pub manifest: Manifest,
    /// By path; names are relative and harmless.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl VerifiedBundle {
    /// Writes all files into `dir`, an empty directory, and flushes them.
    pub fn unpack_to(&self, dir: &Path) -> std::io::Result<()> {
        unpack::write_files(dir, &self.files)
    }

    pub fn file(&self, path: &str) -> Option<&[u8]> {
        self.files.get(path).map(Vec::as_slice)
    }
}

/// Checks a downloaded archive against an accepted assignment. Memory: what it unpacks to, capped.
pub fn verify_archive(bytes: &[u8], assignment: &Assignment, trust: &NodeTrust) -> Result<VerifiedBundle, Refusal> {
    let (Some(bundle_id), Some(artifact_hash)) = (assignment.bundle_id, assignment.artifact_hash) else {
        return Err(Refusal::NoBundle);
    };
    if bytes.len() as u64 > assignment.size_bytes {
        return Err(Refusal::TooLarge("the archive has more bytes than assigned"));
    }
    if bytes.len() as u64 > MAX_ARCHIVE_BYTES {
        return Err(Refusal::TooLarge("no archive may have so many bytes"));
    }
    if Digest::of(bytes) != artifact_hash {
        return Err(Refusal::ArtifactHash);
    }
    let files = unpack::unpack(bytes)?;
    let manifest = verify_files(&files, trust.project_id, &trust.trust.roles.bundle)?;
    if manifest.bundle_id != bundle_id {
        return Err(Refusal::BundleId);
    }
    if assignment.project_id != trust.project_id {
        return Err(Refusal::WrongProject);
    }
    if let Some(release) = &trust.release {
        release.allows(&bundle_id)?;
    }
    Ok(VerifiedBundle { manifest, files })
}

/// Checks an archive without an assignment, as an operator does offline (`verify`).
pub fn verify_offline(bytes: &[u8], project: ProjectId, bundle_keys: &RoleKeys) -> Result<VerifiedBundle, Refusal> {
    if bytes.len() as u64 > MAX_ARCHIVE_BYTES {
        return Err(Refusal::TooLarge("no archive may have so many bytes"));
    }
    let files = unpack::unpack(bytes)?;
    let manifest = verify_files(&files, project, bundle_keys)?;
    Ok(VerifiedBundle { manifest, files })
}

/// The same, and nothing in the archive may differ from what packing these files anew gives: not a bit of a header that no reader
/// looks at. An archive packed by a release with another compressor fails this and is sound all the same.
pub fn verify_whole(bytes: &[u8], project: ProjectId, bundle_keys: &RoleKeys) -> Result<VerifiedBundle, Refusal> {
    let verified = verify_offline(bytes, project, bundle_keys)?;
    let signature = verified.file(SIGNATURE).map(serde_json::from_slice::<SignatureFile>).transpose();
    let signature = signature.map_err(|e| Refusal::Malformed(format!("{SIGNATURE}: {e}")))?;
    let again = crate::archive::pack(&verified.files, signature.as_ref());
    if again.is_ok_and(|a| a.bytes == bytes) {
        return Ok(verified);
    }
    Err(Refusal::Archive("packed anew from its own files it has other bytes".into()))
}

/// Checks an archive that nobody has signed yet, as whoever is to sign it does: everything but the signature. With `project`
/// also that it is for that one.
pub fn verify_unsigned(bytes: &[u8], project: Option<ProjectId>) -> Result<VerifiedBundle, Refusal> {
    if bytes.len() as u64 > MAX_ARCHIVE_BYTES {
        return Err(Refusal::TooLarge("no archive may have so many bytes"));
    }
    let files = unpack::unpack(bytes)?;
    let manifest = verify_contents(&files, project)?;
    Ok(VerifiedBundle { manifest, files })
}

/// Signature, id, project and every file.
fn verify_files(files: &BTreeMap<String, Vec<u8>>, project: ProjectId, keys: &RoleKeys) -> Result<Manifest, Refusal> {
    let get = |name: &str| files.get(name).ok_or_else(|| Refusal::Missing(name.to_string()));
    let signature: SignatureFile =
        serde_json::from_slice(get(SIGNATURE)?).map_err(|e| Refusal::Malformed(format!("{SIGNATURE}: {e}")))?;
    // Before anything in the manifest is believed.
    check_manifest(keys, get(MANIFEST)?, &signature)?;
    verify_contents(files, Some(project))
}

/// That the files are those of the manifest, all of them and no others, and that its id names it.
fn verify_contents(files: &BTreeMap<String, Vec<u8>>, project: Option<ProjectId>) -> Result<Manifest, Refusal> {
    let get = |name: &str| files.get(name).ok_or_else(|| Refusal::Missing(name.to_string()));
    let bytes = get(MANIFEST)?;
    let unusable = |e: serde_json::Error| Refusal::Manifest(e.to_string());
    let value: Value = serde_json::from_slice(bytes).map_err(unusable)?;
    // Only one spelling: no doubled keys that two readers would understand differently.
    if canon::to_vec(&value).map_err(unusable)? != *bytes {
        return Err(Refusal::Manifest("it is not canonical JSON".into()));
    }
    let manifest: Manifest = serde_json::from_value(value.clone()).map_err(unusable)?;
    if manifest.schema_version != SCHEMA_VERSION {
        return Err(Refusal::Manifest(format!("schema_version {:?} is not known here", manifest.schema_version)));
    }
    if content_id_of(value).map_err(unusable)? != manifest.bundle_id {
        return Err(Refusal::BundleId);
    }
    if project.is_some_and(|p| p != manifest.project_id) {
        return Err(Refusal::WrongProject);
    }
    for (path, content) in files {
        match manifest.payload_hashes.get(path) {
            Some(hash) if *hash == Digest::of(content).prefixed() => {}
            Some(_) => return Err(Refusal::PayloadHash(path.clone())),
            None if METADATA.contains(&path.as_str()) => {}
            None => return Err(Refusal::NotListed(path.clone())),
        }
    }
    for path in manifest.payload_hashes.keys().map(String::as_str).chain([crate::archive::CONFIG]) {
        get(path)?;
    }
    Ok(manifest)
}

#[cfg(all(test, feature = "validator"))]
mod tests;
