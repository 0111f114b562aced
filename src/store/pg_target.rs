//! PostgreSQL: where it is and how the connection is protected, from `database_url`.
//!
//! `sslmode` and `sslrootcert` mean what they mean to libpq. Invariant: with `require` and above not a byte of the session goes in
//! clear, and with `verify-full` not a byte goes to whoever cannot prove to be the host of the URL.

use crate::error::{Error, Result};
use crate::pg::{FRESH_SESSION, driven};
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection as _};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Socket;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};

/// How much a server must prove. What libpq calls `allow` is not here: it asks for no more than `prefer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    /// In clear.
    Disable,
    /// TLS when the server has it, by whomever: against listeners only. What libpq does when nothing is said.
    Prefer,
    /// TLS, by whomever; with a root certificate the same as `VerifyCa`, as in libpq.
    Require,
    /// TLS, and somebody with a certificate of the authority.
    VerifyCa,
    /// TLS, and the host of the URL.
    VerifyFull,
}

impl Proof {
    fn parse(text: &str) -> Option<Proof> {
        Some(match text {
            "disable" => Proof::Disable,
            "prefer" => Proof::Prefer,
            "require" => Proof::Require,
            "verify-ca" => Proof::VerifyCa,
            "verify-full" => Proof::VerifyFull,
            _ => return None,
        })
    }
}

/// What a `database_url` says, before any file is read.
struct Wish {
    /// The URL without what only this module understands.
    url: String,
    proof: Proof,
    /// `None`: the authorities of this host (`system`).
    roots: Option<PathBuf>,
}

fn wish(url: &str) -> Result<Wish> {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let (mut proof, mut roots, mut rest) = (Proof::Prefer, None, Vec::new());
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        match pair.split_once('=').unwrap_or((pair, "")) {
            ("sslmode", mode) => {
                proof = Proof::parse(mode).ok_or_else(|| {
                    Error::Invalid("sslmode is disable, prefer, require, verify-ca or verify-full".into())
                })?;
            }
            ("sslrootcert", path) => roots = Some(unescaped(path)?),
            (name @ ("sslcert" | "sslkey" | "sslcrl" | "sslpassword"), _) => {
                return Err(Error::Invalid(format!("{name} is not supported: this side shows no certificate")));
            }
            _ => rest.push(pair),
        }
    }
    if proof == Proof::Require && roots.is_some() {
        proof = Proof::VerifyCa;
    }
    let url = if rest.is_empty() { base.to_string() } else { format!("{base}?{}", rest.join("&")) };
    Ok(Wish { url, proof, roots: roots.filter(|p| p != "system").map(PathBuf::from) })
}

/// `%2F` and the like.
fn unescaped(text: &str) -> Result<String> {
    let bad = || Error::Invalid("sslrootcert: a % is followed by two hexadecimal digits".into());
    let mut parts = text.split('%');
    let mut out = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.split_at_checked(2).ok_or_else(bad)?;
        out.push(u8::from_str_radix(code, 16).map_err(|_| bad())?);
        out.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(out).map_err(|_| bad())
}

/// Where to connect to, and how.
#[derive(Clone)]
pub(crate) struct Target {
    config: tokio_postgres::Config,
    tls: Connector,
}

pub(crate) type Link = tokio_postgres::Connection<Socket, Secured>;

impl Target {
    /// Is the URL one that can be used? Reads no file and opens no connection.
    pub(crate) fn check(url: &str) -> Result<()> {
        parsed(&wish(url)?).map(drop)
    }

    /// Errors: `Invalid` for a URL or a file with certificates that cannot be used.
    pub(crate) fn read(url: &str) -> Result<Target> {
        let wish = wish(url)?;
        Ok(Target { config: parsed(&wish)?, tls: Connector(Arc::new(client_config(&wish)?)) })
    }

    pub(crate) async fn connect(&self) -> std::result::Result<(tokio_postgres::Client, Link), tokio_postgres::Error> {
        self.config.connect(self.tls.clone()).await
    }

    /// The same for diesel, which prepares statements at once: behind a pooler within one transaction, whose session nobody else
    /// has meanwhile. What is set there is undone with it; none of it is needed, for times are numbers here and text is always UTF-8.
    pub(crate) async fn establish(&self, pooler: bool) -> diesel::ConnectionResult<AsyncPgConnection> {
        let bad = diesel::ConnectionError::BadConnection;
        let (client, mut link) = self.connect().await.map_err(|e| bad(with_causes(&e)))?;
        if !pooler {
            return AsyncPgConnection::try_from_client_and_connection(client, link).await;
        }
        let begin = format!("BEGIN; {FRESH_SESSION}");
        driven(&mut link, client.batch_execute(&begin)).await.map_err(bad)?;
        let mut c = AsyncPgConnection::try_from_client_and_connection(client, link).await?;
        c.batch_execute("ROLLBACK").await.map_err(diesel::ConnectionError::CouldntSetupConfiguration)?;
        Ok(c)
    }
}

fn parsed(wish: &Wish) -> Result<tokio_postgres::Config> {
    // Not the error's own text: it may quote the URL, and with it the password.
    let mut config: tokio_postgres::Config = wish.url.parse().map_err(|e: tokio_postgres::Error| {
        let why = std::error::Error::source(&e).map_or_else(String::new, |s| format!(": {s}"));
        Error::Invalid(format!("not the URL of a PostgreSQL database{why}"))
    })?;
    let local = config.get_hosts().iter().all(|h| matches!(h, tokio_postgres::config::Host::Unix(_)));
    config.ssl_mode(match wish.proof {
        // A socket file is not a network, and PostgreSQL has no TLS there.
        _ if local => SslMode::Disable,
        Proof::Disable => SslMode::Disable,
        Proof::Prefer => SslMode::Prefer,
        Proof::Require | Proof::VerifyCa | Proof::VerifyFull => SslMode::Require,
    });
    Ok(config)
}

/// The error and what it was caused by, down to the reason a certificate was refused for.
fn with_causes(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(why) = cause {
        let said = why.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = why.source();
    }
    text
}

fn client_config(wish: &Wish) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::Invalid(format!("TLS: {e}")))?;
    let inner = match wish.proof {
        Proof::Disable | Proof::Prefer | Proof::Require => None,
        Proof::VerifyCa | Proof::VerifyFull => {
            let roots = Arc::new(roots(wish.roots.as_deref())?);
            let built = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build();
            Some(built.map_err(|e| Error::Invalid(format!("sslrootcert: {e}")))?)
        }
    };
    let verifier = Arc::new(Verifier { inner, name: wish.proof == Proof::VerifyFull, provider });
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

fn roots(file: Option<&Path>) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    let Some(path) = file else {
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(store);
    };
    let at = |e: &dyn std::fmt::Display| Error::Invalid(format!("sslrootcert {}: {e}", path.display()));
    for cert in CertificateDer::pem_file_iter(path).map_err(|e| at(&e))? {
        store.add(cert.map_err(|e| at(&e))?).map_err(|e| at(&e))?;
    }
    if store.is_empty() {
        return Err(at(&"no certificate in PEM"));
    }
    Ok(store)
}

/// Asks of a certificate what the mode asks, and of every handshake that its key signed it.
#[derive(Debug)]
struct Verifier {
    /// `None`: whoever it is.
    inner: Option<Arc<WebPkiServerVerifier>>,
    /// It must be the certificate of the host.
    name: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let Some(inner) = &self.inner else { return Ok(ServerCertVerified::assertion()) };
        match inner.verify_server_cert(end, between, name, ocsp, now) {
            // The name is the last thing that is looked at: everything else was good.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.name => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[derive(Clone)]
struct Connector(Arc<ClientConfig>);

/// For one connection. The name is asked for only when there is a handshake: a socket file has none.
struct Handshake(Arc<ClientConfig>, String);

impl MakeTlsConnect<Socket> for Connector {
    type Stream = Secured;
    type TlsConnect = Handshake;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<Handshake> {
        Ok(Handshake(self.0.clone(), host.to_string()))
    }
}

impl TlsConnect<Socket> for Handshake {
    type Stream = Secured;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Secured>>;

    fn connect(self, socket: Socket) -> Self::Future {
        async move {
            let name = ServerName::try_from(self.1).map_err(io::Error::other)?;
            let stream = tokio_rustls::TlsConnector::from(self.0).connect(name, socket).await?;
            Ok(Secured(Box::new(stream)))
        }
        .boxed()
    }
}

/// A session inside TLS.
pub(crate) struct Secured(Box<tokio_rustls::client::TlsStream<Socket>>);

impl TlsStream for Secured {
    /// None: `channel_binding=require` is refused by name, the default goes without.
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Secured {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_a_url_asks_of_the_server_is_what_libpq_would() {
        let of = |query: &str| wish(&format!("postgres://u:p@h/d{query}")).map(|w| (w.proof, w.roots, w.url)).unwrap();
        assert_eq!(of("").0, Proof::Prefer);
        assert_eq!(of("?sslmode=disable").0, Proof::Disable);
        assert_eq!(of("?sslmode=require").0, Proof::Require);
        let (proof, roots, url) = of("?connect_timeout=3&sslrootcert=%2Fetc%2Fca.pem&sslmode=require");
        assert_eq!((proof, roots), (Proof::VerifyCa, Some("/etc/ca.pem".into())), "as libpq has it");
        assert_eq!(url, "postgres://u:p@h/d?connect_timeout=3");
        assert_eq!(of("?sslmode=verify-full&sslrootcert=system").1, None);
    }

    #[test]
    fn what_cannot_be_used_is_named_and_the_password_is_not() {
        for (query, named) in [
            ("sslmode=on", "sslmode"),
            ("sslcert=a.pem", "sslcert"),
            ("sslrootcert=%2", "sslrootcert"),
            ("nonsense=1", "nonsense"),
        ] {
            let why = Target::check(&format!("postgres://u:geheim@h/d?{query}")).unwrap_err().to_string();
            assert!(why.contains(named) && !why.contains("geheim"), "{why}");
        }
        let gone = "postgres://h/d?sslmode=verify-full&sslrootcert=/nowhere/ca.pem";
        assert!(Target::check(gone).is_ok(), "a file is looked for when it is needed");
        assert!(Target::read(gone).err().unwrap().to_string().contains("/nowhere/ca.pem"));
    }
}
