//! The signed documents a node acts on: trust, assignment, release.
//!
//! Invariant: a signature is over the decoded payload's bytes, never over a re-serialisation; signers
//! write canonical JSON.

use crate::canon;
use crate::keys::{KeyId, KeyPair, PublicKey, Role};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use domain::{ContentId, Digest, NodeId, ProjectId, RolloutId, Span, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use thiserror::Error;

pub const TRUST_TYPE: &str = "trust/v1";
pub const ASSIGNMENT_TYPE: &str = "assignment/v1";
pub const RELEASE_TYPE: &str = "release/v1";

/// How long an assignment is valid. The session signs a new one well before.
pub const ASSIGNMENT_VALIDITY: Span = Span::secs(24 * 3600);
/// Bytes of a decoded payload: a trust document with 100 keys has 10 kB, an assignment 700 bytes.
pub const MAX_PAYLOAD_BYTES: usize = 256 * 1024;
/// Keys of one role.
pub const MAX_KEYS: usize = 32;

/// A signature by one key over bytes that are named elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetachedSignature {
    pub key_id: KeyId,
    /// base64, 64 bytes.
    pub signature: String,
}

/// A signed document as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// base64 of canonical JSON.
    pub payload: String,
    pub key_id: KeyId,
    pub signature: String,
    /// Further signatures: a threshold above one, or the roots of two versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more: Vec<DetachedSignature>,
}

#[derive(Debug, Error)]
pub enum TrustError {
    #[error("the payload is not base64 of a document")]
    Payload,
    #[error("a document is signed by at least one key")]
    NoKey,
    #[error("JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl Envelope {
    /// Signs `document` with every one of `keys`.
    pub fn sign<T: Serialize>(document: &T, keys: &[&KeyPair]) -> Result<Envelope, TrustError> {
        let bytes = canon::to_vec(document)?;
        let (first, rest) = keys.split_first().ok_or(TrustError::NoKey)?;
        let detached = |k: &KeyPair| DetachedSignature { key_id: k.key_id(), signature: k.sign_base64(&bytes) };
        let DetachedSignature { key_id, signature } = detached(first);
        Ok(Envelope {
            payload: BASE64.encode(&bytes),
            key_id,
            signature,
            more: rest.iter().map(|k| detached(k)).collect(),
        })
    }

    /// A draft: nobody has signed it yet, and nobody accepts it.
    pub fn unsigned(payload: &[u8]) -> Envelope {
        Envelope { payload: BASE64.encode(payload), key_id: String::new(), signature: String::new(), more: Vec::new() }
    }

    /// One more signature over the same bytes; a key that has signed already adds nothing.
    pub fn also_signed_by(mut self, key: &KeyPair) -> Result<Envelope, TrustError> {
        let id = key.key_id();
        if self.signatures().iter().any(|s| s.key_id == id) {
            return Ok(self);
        }
        let signature = key.sign_base64(&self.payload_bytes()?);
        if self.key_id.is_empty() {
            (self.key_id, self.signature) = (id, signature);
        } else {
            self.more.push(DetachedSignature { key_id: id, signature });
        }
        Ok(self)
    }

    /// The signed bytes.
    pub fn payload_bytes(&self) -> Result<Vec<u8>, TrustError> {
        if self.payload.len() > MAX_PAYLOAD_BYTES.div_ceil(3) * 4 {
            return Err(TrustError::Payload);
        }
        BASE64.decode(&self.payload).map_err(|_| TrustError::Payload)
    }

    /// The document, NOT verified. For display, and after [`valid_signers`].
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, TrustError> {
        Ok(serde_json::from_slice(&self.payload_bytes()?)?)
    }

    /// All signatures.
    pub fn signatures(&self) -> Vec<DetachedSignature> {
        let mut all = vec![DetachedSignature { key_id: self.key_id.clone(), signature: self.signature.clone() }];
        all.extend(self.more.iter().cloned());
        all
    }
}

/// Which of `keys` really signed `message`. Each counts once, whatever it is called.
pub fn valid_signers(message: &[u8], signatures: &[DetachedSignature], keys: &[PublicKey]) -> BTreeSet<KeyId> {
    let mut valid = BTreeSet::new();
    // Bounded work for hostile envelopes: nobody needs more signatures than keys.
    for s in signatures.iter().take(2 * MAX_KEYS) {
        let key = keys.iter().find(|k| k.key_id() == s.key_id);
        if key.is_some_and(|k| k.verify_base64(message, &s.signature)) {
            valid.insert(s.key_id.clone());
        }
    }
    valid
}

/// Signs bytes that are not in an envelope, such as a manifest.
pub fn sign_manifest(manifest_bytes: &[u8], key: &KeyPair) -> crate::archive::SignatureFile {
    crate::archive::SignatureFile {
        key_id: key.key_id(),
        algorithm: "ed25519".into(),
        signature: key.sign_base64(manifest_bytes),
        more: Vec::new(),
    }
}

/// The keys of one role. A key that is not listed is revoked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleKeys {
    pub keys: Vec<PublicKey>,
    /// How many of them must sign, at least 1.
    pub threshold: u32,
}

impl RoleKeys {
    pub fn one(key: PublicKey) -> RoleKeys {
        RoleKeys { keys: vec![key], threshold: 1 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roles {
    /// Who signs the next version.
    pub root: RoleKeys,
    pub bundle: RoleKeys,
    pub metadata: RoleKeys,
}

/// Whom a node believes what. Version n+1 is signed by the roots of n and of n+1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustDoc {
    #[serde(rename = "_type")]
    pub kind: String,
    pub version: u64,
    pub expires_at: Timestamp,
    pub roles: Roles,
    /// Origins (`https://host[:port]`) that archives may be fetched from, besides the control plane's own.
    pub artifact_origins: Vec<String>,
    /// No bundle is taken without a statement of the bundle keys that releases it, by a node that never saw one either.
    #[serde(default, skip_serializing_if = "is_not")]
    pub releases_required: bool,
}

fn is_not(said: &bool) -> bool {
    !said
}

impl TrustDoc {
    pub fn new(version: u64, expires_at: Timestamp, roles: Roles, artifact_origins: Vec<String>) -> TrustDoc {
        TrustDoc { kind: TRUST_TYPE.into(), version, expires_at, roles, artifact_origins, releases_required: false }
    }

    pub fn role(&self, role: Role) -> &RoleKeys {
        match role {
            Role::Root => &self.roles.root,
            Role::Bundle => &self.roles.bundle,
            Role::Metadata => &self.roles.metadata,
        }
    }

    /// What is wrong with the document itself, signatures aside.
    pub fn problem(&self) -> Option<String> {
        if self.kind != TRUST_TYPE {
            return Some(format!("the type is {:?}, not {TRUST_TYPE:?}", self.kind));
        }
        if self.version == 0 {
            return Some("version 0".into());
        }
        let mut seen = BTreeSet::new();
        for role in Role::ALL {
            let r = self.role(role);
            let name = role.as_str();
            if r.threshold == 0 || r.threshold as usize > r.keys.len() || r.keys.len() > MAX_KEYS {
                return Some(format!("role {name}: a threshold of {} with {} keys", r.threshold, r.keys.len()));
            }
            for key in &r.keys {
                if !seen.insert(key.key_id()) {
                    return Some(format!("the key {} is listed twice: a key has one role", key.key_id()));
                }
            }
        }
        None
    }
}

/// The head of the audit chain when an assignment was signed: a witness against rewriting history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditHead {
    pub seq: u64,
    pub hash: String,
}

/// What one node shall run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    #[serde(rename = "_type")]
    pub kind: String,
    pub node_id: NodeId,
    pub project_id: ProjectId,
    /// `None`: what the node had at enrolment.
    pub bundle_id: Option<ContentId>,
    #[serde(with = "prefixed")]
    pub artifact_hash: Option<Digest>,
    pub size_bytes: u64,
    pub rollout_id: Option<RolloutId>,
    /// Never goes down.
    pub generation: u64,
    /// Percent.
    pub traffic_weight: u8,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
    pub audit_head: Option<AuditHead>,
}

impl Assignment {
    /// Whether everything that a generation stands for is equal.
    pub fn same_core(&self, other: &Assignment) -> bool {
        let core = |a: &Assignment| Assignment {
            issued_at: Timestamp::ZERO,
            expires_at: Timestamp::ZERO,
            audit_head: None,
            ..a.clone()
        };
        core(self) == core(other)
    }

    pub fn sign(&self, key: &KeyPair) -> Result<Envelope, TrustError> {
        Envelope::sign(self, &[key])
    }
}

/// A statement by the bundle key itself, so that a taken-over server cannot ship even an old genuine bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    #[serde(rename = "_type")]
    pub kind: String,
    pub project: ProjectId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    pub bundle_id: ContentId,
    /// Position of the bundle among the releases.
    pub sequence: u64,
    /// Nothing with a lower sequence may run any more.
    pub floor: u64,
    #[serde(default)]
    pub revoked: Vec<ContentId>,
    pub expires_at: Timestamp,
}

/// `sha256:<hex>` or null.
mod prefixed {
    use domain::Digest;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(d: &Option<Digest>, s: S) -> Result<S::Ok, S::Error> {
        match d {
            Some(d) => s.serialize_str(&d.prefixed()),
            None => s.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Digest>, D::Error> {
        match Option::<String>::deserialize(d)? {
            None => Ok(None),
            Some(s) => {
                Digest::parse(&s).map(Some).ok_or_else(|| serde::de::Error::custom("not a SHA-256, sha256:<hex>"))
            }
        }
    }
}
