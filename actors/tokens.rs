//! Tokens of nodes: JSON Web Tokens (RFC 7519) in their narrowest form, read and written here and nowhere else.
//!
//! Exactly one algorithm is known, EdDSA (RFC 8037), so there is no choice for an attacker to make. A token names its key by
//! `kid`; each key belongs to one organisation and signs for no other. What a token says is believed only after its signature,
//! issuer, audience, times and organisation were checked, and whoever asks still compares its key version with the node's.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use bundle::keys::PublicKey;
use domain::{NodeId, OrgId, Span, Timestamp};
use ed25519_dalek::{Signer, SigningKey};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub const ISSUER: &str = "sentinel-cp";
/// Only for calls of nodes: no other part of the product takes a token.
pub const AUDIENCE: &str = "sentinel-cp/node";
/// A token is good for half a day: a node comes for the next long before, with its key.
pub const LIFE: Span = Span::secs(12 * 3600);
/// How far clocks of two instances may be apart.
pub const LEEWAY: Span = Span::secs(60);
/// Longest token that is looked at; ours have 560 characters.
pub const MAX_CHARS: usize = 1_024;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub iss: String,
    pub aud: String,
    pub sub: NodeId,
    pub org: OrgId,
    /// The node's credential epoch when the token was made: a rotation or revocation moves on from it.
    pub kv: u32,
    /// Seconds since 1970, as are the others.
    pub iat: i64,
    pub nbf: i64,
    pub exp: i64,
}

impl Claims {
    pub fn new(node: NodeId, org: OrgId, epoch: u32, now: Timestamp) -> Claims {
        let (iat, exp) = (seconds(now), seconds(now + LIFE));
        Claims { iss: ISSUER.into(), aud: AUDIENCE.into(), sub: node, org, kv: epoch, iat, nbf: iat, exp }
    }

    /// The same, over at `until` at the latest.
    pub fn ending_by(self, until: Timestamp) -> Claims {
        Claims { exp: self.exp.min(seconds(until)), ..self }
    }

    pub fn issued_at(&self) -> Timestamp {
        Timestamp(self.iat.saturating_mul(1_000_000))
    }

    pub fn expires_at(&self) -> Timestamp {
        Timestamp(self.exp.saturating_mul(1_000_000))
    }
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    typ: Option<String>,
    kid: String,
    /// Extensions that must be understood; we understand none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crit: Option<Vec<String>>,
}

/// Why a token is not believed; for the log, a client is told no more than 401.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    #[error("not a token of ours")]
    Malformed,
    #[error("signed with an algorithm other than EdDSA")]
    Algorithm,
    #[error("the signature does not hold")]
    Signature,
    #[error("another issuer")]
    Issuer,
    #[error("made for another audience")]
    Audience,
    #[error("the key belongs to another organisation")]
    Organisation,
    #[error("expired")]
    Expired,
    #[error("not valid yet")]
    NotYet,
}

pub fn sign(key: &SigningKey, kid: &str, claims: &Claims) -> String {
    let header = Header { alg: "EdDSA".into(), typ: Some("JWT".into()), kid: kid.into(), crit: None };
    let mut token = format!("{}.{}", part(&header), part(claims));
    let signature = key.sign(token.as_bytes()).to_bytes();
    token.push('.');
    token.push_str(&BASE64.encode(signature));
    token
}

fn part<T: Serialize>(t: &T) -> String {
    // Flat structs of texts and numbers.
    BASE64.encode(serde_json::to_vec(t).unwrap_or_default())
}

/// A token that was taken apart and not believed yet.
pub struct Unverified<'a> {
    pub kid: String,
    signed: &'a str,
    claims: Vec<u8>,
    signature: Vec<u8>,
}

impl<'a> Unverified<'a> {
    pub fn parse(token: &'a str) -> Result<Unverified<'a>, TokenError> {
        let bad = TokenError::Malformed;
        if token.len() > MAX_CHARS {
            return Err(bad);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(bad)?;
        let (header, claims) = signed.split_once('.').ok_or(bad)?;
        let decode = |s: &str| BASE64.decode(s).map_err(|_| bad);
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| bad)?;
        if header.alg != "EdDSA" {
            return Err(TokenError::Algorithm);
        }
        if header.crit.is_some() || header.typ.is_some_and(|t| !t.eq_ignore_ascii_case("JWT")) {
            return Err(bad);
        }
        Ok(Unverified { kid: header.kid, signed, claims: decode(claims)?, signature: decode(signature)? })
    }

    /// `public` is the key that `kid` names, of the organisation `org`.
    pub fn verify(&self, public: &PublicKey, org: OrgId, now: Timestamp) -> Result<Claims, TokenError> {
        if !public.verify(self.signed.as_bytes(), &self.signature) {
            return Err(TokenError::Signature);
        }
        let claims: Claims = serde_json::from_slice(&self.claims).map_err(|_| TokenError::Malformed)?;
        if claims.iss != ISSUER {
            return Err(TokenError::Issuer);
        }
        if claims.aud != AUDIENCE {
            return Err(TokenError::Audience);
        }
        if claims.org != org {
            return Err(TokenError::Organisation);
        }
        let (now, leeway) = (seconds(now), LEEWAY.as_secs());
        if claims.exp.saturating_add(leeway) <= now {
            return Err(TokenError::Expired);
        }
        if claims.nbf.max(claims.iat).saturating_sub(leeway) > now {
            return Err(TokenError::NotYet);
        }
        // A token that claims more life than we give was not made by this code.
        if claims.exp.saturating_sub(claims.iat) > LIFE.as_secs() {
            return Err(TokenError::Malformed);
        }
        Ok(claims)
    }
}

fn seconds(t: Timestamp) -> i64 {
    t.0.div_euclid(1_000_000)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    const NOW: Timestamp = Timestamp(1_795_296_900_000_000);

    fn key(seed: u8) -> (SigningKey, PublicKey) {
        let key = SigningKey::from_bytes(&[seed; 32]);
        let public = PublicKey(key.verifying_key().to_bytes());
        (key, public)
    }

    fn org(n: u128) -> OrgId {
        OrgId(uuid::Uuid::from_u128(n))
    }

    fn claims() -> Claims {
        Claims::new(NodeId(uuid::Uuid::from_u128(5)), org(1), 3, NOW)
    }

    fn check(token: &str, at: Timestamp) -> Result<Claims, TokenError> {
        Unverified::parse(token)?.verify(&key(1).1, org(1), at)
    }

    fn later(s: i64) -> Timestamp {
        NOW + Span::secs(s)
    }

    #[test]
    fn a_token_of_ours_is_believed_until_it_expires_with_some_leeway() {
        let token = sign(&key(1).0, "k", &claims());
        assert!(token.len() < MAX_CHARS && token.len() < 600, "{}", token.len());
        assert_eq!(Unverified::parse(&token).unwrap().kid, "k");
        assert_eq!(check(&token, NOW), Ok(claims()));
        assert_eq!(check(&token, later(LIFE.as_secs() + 59)), Ok(claims()));
        assert_eq!(check(&token, later(LIFE.as_secs() + 60)), Err(TokenError::Expired));
        assert_eq!(check(&token, later(-60)), Ok(claims()));
        assert_eq!(check(&token, later(-61)), Err(TokenError::NotYet));
    }

    #[test]
    fn no_other_algorithm_is_known() {
        let token = sign(&key(1).0, "k", &claims());
        let rest = token.split_once('.').unwrap().1;
        for alg in ["none", "None", "HS256", "RS256", "ES256", "eddsa", ""] {
            let header = BASE64.encode(json!({"alg": alg, "typ": "JWT", "kid": "k"}).to_string());
            assert_eq!(check(&format!("{header}.{rest}"), NOW), Err(TokenError::Algorithm), "{alg}");
            let unsigned = format!("{header}.{}.", rest.split_once('.').unwrap().0);
            assert!(check(&unsigned, NOW).is_err(), "{alg}");
        }
        // The public key as the secret of an HMAC, the classic confusion.
        assert_eq!(check(&token, NOW), Ok(claims()), "the token itself is fine");
    }

    #[test]
    fn another_key_and_any_changed_byte_break_the_signature() {
        let (good, other) = (sign(&key(1).0, "k", &claims()), sign(&key(2).0, "k", &claims()));
        assert_eq!(check(&other, NOW), Err(TokenError::Signature));
        let (head, tail) = good.rsplit_once('.').unwrap();
        let changed = Claims { kv: 4, ..claims() };
        let forged = format!("{}.{}.{tail}", head.split_once('.').unwrap().0, part(&changed));
        assert_eq!(check(&forged, NOW), Err(TokenError::Signature));
        for at in 0..good.len() {
            let mut bytes = good.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let token = String::from_utf8(bytes).unwrap();
            assert!(check(&token, NOW).is_err(), "byte {at}");
        }
    }

    #[test]
    fn issuer_audience_and_organisation_must_be_right() {
        let with = |change: fn(&mut Claims)| {
            let mut c = claims();
            change(&mut c);
            check(&sign(&key(1).0, "k", &c), NOW)
        };
        assert_eq!(with(|c| c.iss = "somebody".into()), Err(TokenError::Issuer));
        assert_eq!(with(|c| c.aud = "sentinel-cp".into()), Err(TokenError::Audience));
        assert_eq!(with(|c| c.org = org(2)), Err(TokenError::Organisation));
        assert_eq!(with(|c| c.exp += 1), Err(TokenError::Malformed), "longer than we give");
    }

    #[test]
    fn extensions_and_nonsense_are_refused() {
        let token = sign(&key(1).0, "k", &claims());
        let rest = token.split_once('.').unwrap().1;
        for header in [
            json!({"alg": "EdDSA", "kid": "k", "crit": ["b64"], "b64": false}),
            json!({"alg": "EdDSA", "kid": "k", "typ": "JWE"}),
            json!({"alg": "EdDSA"}),
            json!(["EdDSA"]),
        ] {
            let token = format!("{}.{rest}", BASE64.encode(header.to_string()));
            assert_eq!(check(&token, NOW), Err(TokenError::Malformed), "{header}");
        }
        for token in
            ["", ".", "..", "a.b", "a.b.c", &"a".repeat(MAX_CHARS + 1), &format!("{token}.x"), &format!(" {token}")]
        {
            assert!(check(token, NOW).is_err(), "{token:.30}");
        }
    }
}
