//! Ed25519 keys: their ids, their one role each, signing, and how they lie encrypted in the database.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use domain::Digest;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What a key may sign. Every key has exactly one role; keys for JWTs are others altogether.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Trust documents. Can be exported and removed from the server.
    Root,
    /// Manifests and release statements.
    Bundle,
    /// Assignments.
    Metadata,
}

impl Role {
    pub const ALL: [Role; 3] = [Role::Root, Role::Bundle, Role::Metadata];

    pub fn as_str(self) -> &'static str {
        match self {
            Role::Root => "root",
            Role::Bundle => "bundle",
            Role::Metadata => "metadata",
        }
    }

    pub fn parse(s: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|r| r.as_str() == s)
    }
}

/// SHA-256 of the raw 32-byte public key, as 64 hex digits.
pub type KeyId = String;

/// A public key, in JSON base64 of its 32 raw bytes. Not every such value is a point: checked when used.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    pub fn key_id(&self) -> KeyId {
        Digest::of(&self.0).to_string()
    }

    pub fn to_base64(&self) -> String {
        BASE64.encode(self.0)
    }

    pub fn parse_base64(s: &str) -> Option<PublicKey> {
        BASE64.decode(s).ok()?.try_into().ok().map(PublicKey)
    }

    /// Whether it can verify anything at all: a point, and not one of small order.
    pub fn is_usable(&self) -> bool {
        VerifyingKey::from_bytes(&self.0).is_ok_and(|k| !k.is_weak())
    }

    /// Strict: refuses malleable signatures and keys of small order.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let (Ok(key), Ok(signature)) = (VerifyingKey::from_bytes(&self.0), Signature::from_slice(signature)) else {
            return false;
        };
        key.verify_strict(message, &signature).is_ok()
    }

    /// The same with the signature in base64.
    pub fn verify_base64(&self, message: &[u8], signature: &str) -> bool {
        BASE64.decode(signature).is_ok_and(|s| self.verify(message, &s))
    }
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PublicKey({})", self.key_id())
    }
}
impl Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.to_base64())
    }
}
impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let s = String::deserialize(d)?;
        PublicKey::parse_base64(&s).ok_or_else(|| serde::de::Error::custom("not 32 bytes in base64"))
    }
}

/// A key pair with its role. The secret is wiped when dropped and never printed.
pub struct KeyPair {
    pub role: Role,
    key: SigningKey,
}

impl KeyPair {
    /// From 32 bytes of randomness, which are the secret itself.
    pub fn from_secret(role: Role, secret: &[u8; 32]) -> KeyPair {
        KeyPair { role, key: SigningKey::from_bytes(secret) }
    }

    pub fn public(&self) -> PublicKey {
        PublicKey(self.key.verifying_key().to_bytes())
    }

    pub fn key_id(&self) -> KeyId {
        self.public().key_id()
    }

    /// Deterministic (RFC 8032): 64 bytes.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }

    pub fn sign_base64(&self, message: &[u8]) -> String {
        BASE64.encode(self.sign(message))
    }

    /// For export and for sealing only.
    pub fn secret(&self) -> [u8; 32] {
        self.key.to_bytes()
    }

    /// Encrypts for the database. `nonce` must be fresh randomness.
    pub fn seal(&self, master: &MasterKey, nonce: [u8; 24]) -> Result<Vec<u8>, SealError> {
        master.seal(self.key.as_bytes(), self.aad().as_bytes(), nonce)
    }

    /// The reverse. The role and the public key recorded beside it must be the ones it was sealed with.
    pub fn unseal(master: &MasterKey, role: Role, public: &PublicKey, sealed: &[u8]) -> Result<KeyPair, SealError> {
        let secret = master.open(sealed, aad(role, public).as_bytes())?;
        let secret: [u8; 32] = secret.try_into().map_err(|_| SealError::Corrupt)?;
        let pair = KeyPair::from_secret(role, &secret);
        if pair.public() == *public { Ok(pair) } else { Err(SealError::Corrupt) }
    }

    fn aad(&self) -> String {
        aad(self.role, &self.public())
    }
}

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyPair({}, {})", self.role.as_str(), self.key_id())
    }
}

/// Binds a sealed key to its row: one cannot pass for another.
fn aad(role: Role, public: &PublicKey) -> String {
    format!("sentinel signing key {} {}", role.as_str(), public.key_id())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SealError {
    #[error("sealed with another master key")]
    OtherMasterKey,
    #[error("the sealed value is damaged or does not belong here")]
    Corrupt,
}

/// What the signing keys are encrypted with at rest (XChaCha20-Poly1305).
///
/// Sealed form: `scp1` | 8 bytes naming the master key | 24 bytes nonce | ciphertext and tag.
pub struct MasterKey([u8; 32]);

const SEAL_MAGIC: &[u8; 4] = b"scp1";
const SEAL_HEADER: usize = 4 + 8 + 24;

impl MasterKey {
    pub fn new(bytes: [u8; 32]) -> MasterKey {
        MasterKey(bytes)
    }

    /// Names the key without revealing it, to tell a wrong key from damage.
    pub fn id(&self) -> [u8; 8] {
        let mut tagged = b"sentinel master key id ".to_vec();
        tagged.extend_from_slice(&self.0);
        let digest = Digest::of(&tagged).0;
        let mut id = [0; 8];
        id.copy_from_slice(&digest[..8]);
        id
    }

    /// Encrypts `plain` and binds it to `aad`. `nonce` must be fresh randomness.
    pub fn seal(&self, plain: &[u8], aad: &[u8], nonce: [u8; 24]) -> Result<Vec<u8>, SealError> {
        let mut out = SEAL_MAGIC.to_vec();
        out.extend_from_slice(&self.id());
        out.extend_from_slice(&nonce);
        let cipher = XChaCha20Poly1305::new(&Key::from(self.0));
        // The cipher refuses only messages of 256 GB.
        let sealed =
            cipher.encrypt(&XNonce::from(nonce), Payload { msg: plain, aad }).map_err(|_| SealError::Corrupt)?;
        out.extend_from_slice(&sealed);
        Ok(out)
    }

    pub fn open(&self, sealed: &[u8], aad: &[u8]) -> Result<Vec<u8>, SealError> {
        if sealed.len() < SEAL_HEADER || &sealed[..4] != SEAL_MAGIC {
            return Err(SealError::Corrupt);
        }
        if sealed[4..12] != self.id() {
            return Err(SealError::OtherMasterKey);
        }
        let mut nonce = [0; 24];
        nonce.copy_from_slice(&sealed[12..SEAL_HEADER]);
        let cipher = XChaCha20Poly1305::new(&Key::from(self.0));
        cipher
            .decrypt(&XNonce::from(nonce), Payload { msg: &sealed[SEAL_HEADER..], aad })
            .map_err(|_| SealError::Corrupt)
    }
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MasterKey({})", hex::encode(self.id()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_key_id_is_the_hash_of_the_raw_public_key_and_signatures_verify() {
        // RFC 8032, test 1.
        let secret: [u8; 32] = hex::decode("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
            .unwrap()
            .try_into()
            .unwrap();
        let pair = KeyPair::from_secret(Role::Bundle, &secret);
        assert_eq!(hex::encode(pair.public().0), "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        assert_eq!(pair.key_id(), Digest::of(&pair.public().0).to_string());
        assert!(hex::encode(pair.sign(b"")).starts_with("e5564300c360ac729086e2cc806e828a"));
        let s = pair.sign(b"m");
        assert!(pair.public().verify(b"m", &s));
        assert!(!pair.public().verify(b"n", &s));
        assert!(!pair.public().verify(b"m", &s[..63]));
        assert!(pair.public().verify_base64(b"m", &pair.sign_base64(b"m")));
        assert!(!PublicKey([0; 32]).verify(b"m", &s));
    }

    #[test]
    fn a_sealed_key_opens_only_with_its_master_key_role_and_row() {
        let (master, other) = (MasterKey::new([1; 32]), MasterKey::new([2; 32]));
        let pair = KeyPair::from_secret(Role::Root, &[7; 32]);
        let sealed = pair.seal(&master, [9; 24]).unwrap();
        assert!(!sealed.windows(32).any(|w| w == [7; 32]));
        let back = KeyPair::unseal(&master, Role::Root, &pair.public(), &sealed).unwrap();
        assert_eq!(back.secret(), [7; 32]);
        let err = |m: &MasterKey, role, public: PublicKey, s: &[u8]| KeyPair::unseal(m, role, &public, s).unwrap_err();
        assert_eq!(err(&other, Role::Root, pair.public(), &sealed), SealError::OtherMasterKey);
        assert_eq!(err(&master, Role::Bundle, pair.public(), &sealed), SealError::Corrupt);
        let else_key = KeyPair::from_secret(Role::Root, &[8; 32]).public();
        assert_eq!(err(&master, Role::Root, else_key, &sealed), SealError::Corrupt);
        for i in (0..sealed.len()).filter(|i| !(4..12).contains(i)) {
            let mut bad = sealed.clone();
            bad[i] ^= 1;
            assert_eq!(err(&master, Role::Root, pair.public(), &bad), SealError::Corrupt, "byte {i}");
        }
        assert!(!format!("{pair:?}{master:?}").contains("7, 7"));
    }
}
