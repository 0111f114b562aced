//! Typed identifiers. The shell makes them (UUIDv7); the domain only compares and prints them.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            pub const NIL: $name = $name(Uuid::nil());
            pub fn as_uuid(&self) -> Uuid { self.0 }
        }
        impl From<Uuid> for $name { fn from(u: Uuid) -> Self { $name(u) } }
        impl From<$name> for Uuid { fn from(id: $name) -> Uuid { id.0 } }
        impl fmt::Display for $name { fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { self.0.fmt(f) } }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{}({})", stringify!($name), self.0) }
        }
        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(s: &str) -> Result<Self, Self::Err> { Uuid::parse_str(s).map($name) }
        }
    )+};
}

ids! {
    OrgId, ProjectId, NodeId, RolloutId, UserId, ApiKeyId, EnrolmentTokenId, DesiredConfigId,
    /// The row of a bundle. What names its content is [`ContentId`].
    BundleId,
    /// A sign-in of a person, never the node session.
    SessionId,
    /// One running process of the control plane.
    InstanceId,
    CompileJobId, RequestId, AuditId, DebtId, FreezeId, SigningKeyId, InvitationId,
}

/// A SHA-256, 32 raw bytes, shown as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

/// What names a bundle's content: SHA-256 of the canonical manifest without `bundle_id, created_at, source`.
pub type ContentId = Digest;

impl Digest {
    pub const ZERO: Digest = Digest([0; 32]);

    /// SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Digest {
        use sha2::Digest as _;
        Digest(sha2::Sha256::digest(bytes).into())
    }

    /// `sha256:<hex>`, the spelling of `artifact_hash` and `payload_hashes`.
    pub fn prefixed(&self) -> String {
        format!("sha256:{self}")
    }

    /// Accepts bare hex and `sha256:<hex>`.
    pub fn parse(s: &str) -> Option<Digest> {
        let s = s.strip_prefix("sha256:").unwrap_or(s);
        let mut out = [0u8; 32];
        if s.len() != 64 || s.bytes().any(|b| b.is_ascii_uppercase()) {
            return None;
        }
        hex::decode_to_slice(s, &mut out).ok().map(|()| Digest(out))
    }
}
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}
impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.to_string())
    }
}
impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let s = String::deserialize(d)?;
        Digest::parse(&s).ok_or_else(|| serde::de::Error::custom("not a SHA-256 in hex"))
    }
}
