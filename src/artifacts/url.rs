//! Signed, expiring download URLs of the embedded store.
//!
//! The signature is HMAC-SHA256 over node, project, bundle and expiry, so a URL is good for one node, one object and a
//! short time. It is no credential for anything else. The query is a secret while it lasts: never log it.

use crate::{Error, Result};
use domain::{ContentId, NodeId, ProjectId, Span, Timestamp};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;

/// Longest life of a download URL: what S3 allows a presigned URL (seven days).
pub const MAX_URL_TTL: Span = Span::secs(7 * 24 * 3600);

/// Keeps this use of the secret apart from any other.
const CONTEXT: &str = "sentinel-artifact-url/v1";

/// Makes and checks `/artifacts/{project}/{bundle}.tar.zst?node=..&exp=..&sig=..`.
#[derive(Clone)]
pub struct UrlSigner {
    secret: [u8; 32],
    public_url: String,
}

/// What a download URL allows, once verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub node: NodeId,
    pub project: ProjectId,
    pub bundle: ContentId,
    pub expires_at: Timestamp,
}

/// The untrusted pieces of a request for an artifact.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct UrlParts<'a> {
    /// The path segment after `/artifacts/`.
    pub project: &'a str,
    /// The last path segment, `{bundle_id}.tar.zst`.
    pub file: &'a str,
    pub node: &'a str,
    pub exp: &'a str,
    pub sig: &'a str,
}

/// Why a download URL is refused. A client is told no more than 403 (or 410 for [`UrlError::Expired`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("malformed artifact URL")]
    Malformed,
    #[error("the artifact URL's signature is wrong")]
    BadSignature,
    #[error("the artifact URL has expired")]
    Expired,
}

impl UrlSigner {
    /// `public_url` is the origin that nodes reach, with or without a path, e.g. `https://cp.example.com`.
    pub fn new(secret: [u8; 32], public_url: &str) -> UrlSigner {
        UrlSigner { secret, public_url: public_url.trim_end_matches('/').to_owned() }
    }

    /// A URL for `node` to fetch the bundle until `now + ttl`, rounded up to a second.
    /// Errors: [`Error::Invalid`] when `ttl` is not positive or above [`MAX_URL_TTL`].
    pub fn sign(
        &self,
        node: NodeId,
        project: ProjectId,
        bundle: ContentId,
        now: Timestamp,
        ttl: Span,
    ) -> Result<String> {
        check_ttl(ttl)?;
        let exp = ((now + ttl).0 as u64).div_ceil(1_000_000);
        let sig = hex::encode(self.mac(node, project, bundle, exp).finalize().into_bytes());
        Ok(format!("{}/artifacts/{project}/{bundle}.tar.zst?node={node}&exp={exp}&sig={sig}", self.public_url))
    }

    /// Checks a request. The signature is compared in constant time, and before the expiry is looked at.
    pub fn verify(&self, parts: &UrlParts<'_>, now: Timestamp) -> Result<Grant, UrlError> {
        let bad = UrlError::Malformed;
        let project: ProjectId = parts.project.parse().map_err(|_| bad)?;
        let node: NodeId = parts.node.parse().map_err(|_| bad)?;
        let bundle = parts.file.strip_suffix(".tar.zst").and_then(ContentId::parse).ok_or(bad)?;
        let exp: u64 = parts.exp.parse().map_err(|_| bad)?;
        let mut sig = [0u8; 32];
        hex::decode_to_slice(parts.sig, &mut sig).map_err(|_| bad)?;
        self.mac(node, project, bundle, exp).verify_slice(&sig).map_err(|_| UrlError::BadSignature)?;
        let expires_at = Timestamp(i64::try_from(exp).unwrap_or(i64::MAX).saturating_mul(1_000_000));
        if now >= expires_at {
            return Err(UrlError::Expired);
        }
        Ok(Grant { node, project, bundle, expires_at })
    }

    /// Over parsed values, not over text: another spelling of the same ids means, and allows, the same.
    fn mac(&self, node: NodeId, project: ProjectId, bundle: ContentId, exp: u64) -> Hmac<Sha256> {
        // HMAC pads a short key with zeros to its block of 64 bytes; done here, there is no length to fail on.
        let mut key = [0u8; 64];
        key[..32].copy_from_slice(&self.secret);
        let mut mac = <Hmac<Sha256> as KeyInit>::new(&key.into());
        mac.update(format!("{CONTEXT}\n{node}\n{project}\n{bundle}\n{exp}").as_bytes());
        mac
    }
}

impl<'a> UrlParts<'a> {
    /// Takes `/artifacts/{project}/{file}?node=..&exp=..&sig=..` apart, in any order of the query.
    /// A parameter given twice, or an unknown one, is refused.
    pub fn from_path_and_query(s: &'a str) -> Result<UrlParts<'a>, UrlError> {
        let bad = UrlError::Malformed;
        let (path, query) = s.split_once('?').ok_or(bad)?;
        let (project, file) = path.strip_prefix("/artifacts/").and_then(|p| p.split_once('/')).ok_or(bad)?;
        let (mut node, mut exp, mut sig) = (None, None, None);
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').ok_or(bad)?;
            let slot = match name {
                "node" => &mut node,
                "exp" => &mut exp,
                "sig" => &mut sig,
                _ => return Err(bad),
            };
            if slot.replace(value).is_some() {
                return Err(bad);
            }
        }
        Ok(UrlParts { project, file, node: node.ok_or(bad)?, exp: exp.ok_or(bad)?, sig: sig.ok_or(bad)? })
    }
}

pub(crate) fn check_ttl(ttl: Span) -> Result<()> {
    if ttl <= Span::ZERO || ttl > MAX_URL_TTL {
        return Err(Error::Invalid(format!("a download URL cannot live {} s", ttl.as_secs_f64())));
    }
    Ok(())
}

impl fmt::Debug for UrlSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UrlSigner").field("public_url", &self.public_url).finish_non_exhaustive()
    }
}
impl fmt::Debug for UrlParts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UrlParts").field("project", &self.project).field("file", &self.file).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NOW: Timestamp = Timestamp(1_795_296_900_500_000);

    fn signed() -> (UrlSigner, String) {
        let signer = UrlSigner::new([7; 32], "https://cp.example.com/");
        let url = signer.sign(NodeId::NIL, ProjectId::NIL, ContentId::of(b"b"), NOW, Span::secs(60)).unwrap();
        (signer, url)
    }

    fn path(url: &str) -> &str {
        url.strip_prefix("https://cp.example.com").unwrap()
    }

    #[test]
    fn a_signed_url_grants_its_node_its_bundle_until_it_expires() {
        let (signer, url) = signed();
        let parts = UrlParts::from_path_and_query(path(&url)).unwrap();
        let grant = signer.verify(&parts, NOW).unwrap();
        assert_eq!((grant.node, grant.project, grant.bundle), (NodeId::NIL, ProjectId::NIL, ContentId::of(b"b")));
        assert_eq!(grant.expires_at, Timestamp(1_795_296_961_000_000), "rounded up to a whole second");
        assert!(signer.verify(&parts, grant.expires_at - Span(1)).is_ok());
        assert_eq!(signer.verify(&parts, grant.expires_at), Err(UrlError::Expired));
    }

    #[test]
    fn any_changed_part_or_another_secret_is_refused() {
        let (signer, url) = signed();
        let parts = UrlParts::from_path_and_query(path(&url)).unwrap();
        let other = "00000000-0000-0000-0000-000000000001";
        let file = format!("{}.tar.zst", ContentId::of(b"c"));
        let sig = "0".repeat(64);
        for tampered in [
            UrlParts { node: other, ..parts },
            UrlParts { project: other, ..parts },
            UrlParts { file: &file, ..parts },
            UrlParts { exp: "1795296962", ..parts },
            UrlParts { sig: &sig, ..parts },
        ] {
            assert_eq!(signer.verify(&tampered, NOW), Err(UrlError::BadSignature), "{tampered:?}");
        }
        let stranger = UrlSigner::new([8; 32], "https://cp.example.com");
        assert_eq!(stranger.verify(&parts, NOW), Err(UrlError::BadSignature));
    }

    #[test]
    fn malformed_requests_are_refused_before_any_signature_is_computed() {
        let (signer, url) = signed();
        let parts = UrlParts::from_path_and_query(path(&url)).unwrap();
        for bad in [
            UrlParts { node: "x", ..parts },
            UrlParts { project: "x", ..parts },
            UrlParts { file: "x.tar.zst", ..parts },
            UrlParts { file: "x", ..parts },
            UrlParts { exp: "-1", ..parts },
            UrlParts { sig: "00", ..parts },
        ] {
            assert_eq!(signer.verify(&bad, NOW), Err(UrlError::Malformed), "{bad:?}");
        }
        for bad in [
            "/artifacts/a/b",
            "/other/a/b?node=1&exp=1&sig=1",
            "/artifacts/a/b?node=1&exp=1",
            "/artifacts/a/b?node=1&node=1&exp=1&sig=1",
            "/artifacts/a/b?node=1&exp=1&sig=1&x=1",
        ] {
            assert_eq!(UrlParts::from_path_and_query(bad), Err(UrlError::Malformed), "{bad}");
        }
    }

    #[test]
    fn a_url_cannot_live_for_ever_nor_be_born_dead() {
        let (signer, _) = signed();
        for ttl in [Span::ZERO, Span(-1), MAX_URL_TTL + Span(1)] {
            let url = signer.sign(NodeId::NIL, ProjectId::NIL, ContentId::ZERO, NOW, ttl);
            assert!(matches!(url, Err(Error::Invalid(_))), "{ttl:?}");
        }
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        let (signer, url) = signed();
        let parts = UrlParts::from_path_and_query(path(&url)).unwrap();
        assert!(!format!("{signer:?}").contains('7') && !format!("{parts:?}").contains(parts.sig));
    }
}
