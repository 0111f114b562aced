//! Canonical JSON (RFC 8785): the only spelling in which anything is hashed or signed.

use serde::Serialize;

/// The canonical bytes of `value`. Fails only on what JSON cannot hold (NaN, infinities).
pub fn to_vec<T: Serialize>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    serde_json_canonicalizer::to_vec(value)
}
