//! TLS: certificates from files, taken anew when they change, and client certificates of nodes.
//!
//! Owns: the configuration that new connections are accepted with. Rebuilt from: the files.
//! Invariants: files that do not fit together change nothing (they are replaced one after the other); connections that are open
//! keep what they were accepted with.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// How often the files are looked at; a `SIGHUP` has them looked at now.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Both, by ALPN; a client that names none gets HTTP/1.1.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Where the certificates are, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, the server's own first.
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Calls of nodes need a certificate that one of these signed.
    pub client_ca: Option<PathBuf>,
}

/// What is in the files, by its hash.
type Seen = [u8; 32];

pub struct Tls {
    files: TlsFiles,
    now: RwLock<(Seen, Arc<ServerConfig>)>,
}

impl Tls {
    /// Errors: a text that names the file.
    pub fn load(files: TlsFiles) -> Result<Tls, String> {
        let now = read(&files)?;
        Ok(Tls { files, now: RwLock::new(now) })
    }

    /// For the next connection.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    pub fn asks_for_client_certificates(&self) -> bool {
        self.files.client_ca.is_some()
    }

    /// Reads the files again. `true`: they had changed. Errors: they cannot be used; what was read before goes on.
    pub fn reload(&self) -> Result<bool, String> {
        let next = read(&self.files)?;
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        let changed = now.0 != next.0;
        if changed {
            *now = next;
        }
        Ok(changed)
    }

    /// Never ends: looks at the files now and then, and when told to.
    pub async fn watch(&self) -> std::io::Result<std::convert::Infallible> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut hangup = signal(SignalKind::hangup())?;
        let mut failed = None;
        loop {
            let told = tokio::select! {
                _ = hangup.recv() => true,
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            match self.reload() {
                Ok(true) => tracing::info!("TLS certificates were taken anew; open connections keep the old ones"),
                Ok(false) if told => tracing::info!("TLS certificates have not changed"),
                Ok(false) => {}
                // Said once, not every ten seconds.
                Err(why) if failed.as_ref() == Some(&why) && !told => {}
                Err(why) => {
                    tracing::warn!(%why, "TLS certificates cannot be taken anew; the old ones go on");
                    failed = Some(why);
                    continue;
                }
            }
            failed = None;
        }
    }
}

fn read(files: &TlsFiles) -> Result<(Seen, Arc<ServerConfig>), String> {
    let mut hash = Sha256::new();
    let mut bytes = |path: &Path| {
        let read = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
        hash.update((read.len() as u64).to_be_bytes());
        hash.update(&read);
        Ok::<_, String>(read)
    };
    let chain = certificates(&files.cert, &bytes(&files.cert)?)?;
    let key = PrivateKeyDer::from_pem_slice(&bytes(&files.key)?).map_err(|e| at(&files.key, e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = match &files.client_ca {
        None => None,
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for root in certificates(path, &bytes(path)?)? {
                roots.add(root).map_err(|e| at(path, e))?;
            }
            // People come without one; that nodes bring one is checked where they are recognised.
            let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
            Some(builder.allow_unauthenticated().build().map_err(|e| at(path, e))?)
        }
    };
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS: {e}"))?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    // Checks that the key is the certificate's.
    let mut config = builder.with_single_cert(chain, key).map_err(|e| at(&files.cert, e))?;
    config.alpn_protocols = PROTOCOLS.iter().map(|p| p.to_vec()).collect();
    Ok((hash.finalize().into(), Arc::new(config)))
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(at(path, "has no certificate")),
        Err(e) => Err(at(path, e)),
    }
}

fn at(path: &Path, why: impl std::fmt::Display) -> String {
    format!("{}: {why}", path.display())
}

#[cfg(test)]
pub mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    /// A certificate authority, and what it signs, in PEM.
    pub struct Authority(CertifiedIssuer<'static, KeyPair>);

    impl Authority {
        pub fn new() -> Authority {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
        }
        pub fn pem(&self) -> String {
            self.0.pem()
        }
        /// Certificate and key.
        pub fn sign(&self, name: &str) -> (String, String) {
            let key = KeyPair::generate().unwrap();
            let cert = CertificateParams::new(vec![name.to_string()]).unwrap().signed_by(&key, &self.0).unwrap();
            (cert.pem(), key.serialize_pem())
        }
    }

    pub fn files(dir: &Path, (cert, key): &(String, String)) -> TlsFiles {
        let files = TlsFiles { cert: dir.join("cert.pem"), key: dir.join("key.pem"), client_ca: None };
        std::fs::write(&files.cert, cert).unwrap();
        std::fs::write(&files.key, key).unwrap();
        files
    }

    #[test]
    fn files_that_do_not_fit_together_change_nothing() {
        let (dir, ca) = (tempfile::tempdir().unwrap(), Authority::new());
        let (one, two) = (ca.sign("one.example"), ca.sign("two.example"));
        let tls = Tls::load(files(dir.path(), &one)).unwrap();
        assert_eq!(tls.reload(), Ok(false));
        let before = tls.config();
        // The certificate first, the key a moment later: in between nothing is taken.
        std::fs::write(dir.path().join("cert.pem"), &two.0).unwrap();
        assert!(tls.reload().unwrap_err().contains("cert.pem"));
        assert!(Arc::ptr_eq(&before, &tls.config()));
        std::fs::write(dir.path().join("key.pem"), &two.1).unwrap();
        assert_eq!(tls.reload(), Ok(true));
        assert!(!Arc::ptr_eq(&before, &tls.config()));
        std::fs::remove_file(dir.path().join("key.pem")).unwrap();
        assert!(tls.reload().unwrap_err().contains("key.pem"));
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named() {
        let (dir, ca) = (tempfile::tempdir().unwrap(), Authority::new());
        let good = files(dir.path(), &ca.sign("one.example"));
        let with = |change: &dyn Fn(&mut TlsFiles)| {
            let mut files = good.clone();
            change(&mut files);
            Tls::load(files).map(drop).unwrap_err()
        };
        std::fs::write(dir.path().join("empty"), "").unwrap();
        assert!(with(&|f| f.cert = dir.path().join("empty")).contains("empty"));
        assert!(with(&|f| f.key = dir.path().join("none.pem")).contains("none.pem"));
        assert!(with(&|f| f.client_ca = Some(dir.path().join("empty"))).contains("empty"));
    }
}
