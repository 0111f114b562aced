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
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Socket;
use tokio_postgres::config::{Host, LoadBalanceHosts, SslMode};
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

/// Until a session at one host is there, unless the URL has a `connect_timeout`: then the next host is tried. It counts for all that
/// comes before the first statement, as in libpq: a host whose disk hangs takes connections and says nothing.
const ATTEMPT: Duration = Duration::from_secs(10);
/// What was sent and not even received for so long was sent to a host that is gone: it goes without a word when it loses its power.
const UNHEARD: Duration = Duration::from_secs(5);
/// A connection on which nothing is said asks after this whether the other side is there, and again after each `ASK_AGAIN`;
/// unanswered `ASKED` times it is over: noticed after 5 + 2 * 2 = 9 s.
const IDLE: Duration = Duration::from_secs(5);
const ASK_AGAIN: Duration = Duration::from_secs(2);
const ASKED: u32 = 2;
/// What `tokio_postgres` has for `keepalives_idle` when the URL says nothing.
const UNSAID_IDLE: Duration = Duration::from_secs(2 * 60 * 60);

/// Where to connect to, and how.
#[derive(Clone)]
pub(crate) struct Target {
    /// One for each host of the URL, in its order; never empty.
    hosts: Vec<tokio_postgres::Config>,
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
        Ok(Target { hosts: each_host(parsed(&wish)?), tls: Connector(Arc::new(client_config(&wish)?)) })
    }

    /// To the first host that answers in time and is what the URL asks for. Errors: what was wrong with the last one.
    pub(crate) async fn connect(&self) -> std::result::Result<(tokio_postgres::Client, Link), String> {
        let mut why = String::new();
        for host in &self.hosts {
            let limit = host.get_connect_timeout().copied().unwrap_or(ATTEMPT);
            match tokio::time::timeout(limit, host.connect(self.tls.clone())).await {
                Ok(Ok(made)) => return Ok(made),
                Ok(Err(e)) => why = with_causes(&e),
                Err(_) => why = format!("no answer within {} s: timed out", limit.as_secs()),
            }
        }
        Err(why)
    }

    /// The same for diesel, which prepares statements at once: behind a pooler within one transaction, whose session nobody else
    /// has meanwhile. What is set there is undone with it; none of it is needed, for times are numbers here and text is always UTF-8.
    pub(crate) async fn establish(&self, pooler: bool) -> diesel::ConnectionResult<AsyncPgConnection> {
        let bad = diesel::ConnectionError::BadConnection;
        let (client, mut link) = self.connect().await.map_err(bad)?;
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
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(UNHEARD);
    }
    if config.get_keepalives_idle() == UNSAID_IDLE {
        config.keepalives_idle(IDLE);
    }
    if config.get_keepalives_interval().is_none() {
        config.keepalives_interval(ASK_AGAIN);
    }
    if config.get_keepalives_retries().is_none() {
        config.keepalives_retries(ASKED);
    }
    Ok(config)
}

/// The same for each of its hosts, so that a silent one costs its own time only. What is not one host after the other (an order by
/// chance, numbers that do not fit together) is left as it is, to be tried or refused as a whole.
fn each_host(all: tokio_postgres::Config) -> Vec<tokio_postgres::Config> {
    let (hosts, addresses, ports) = (all.get_hosts(), all.get_hostaddrs(), all.get_ports());
    let count = hosts.len().max(addresses.len());
    let fits = |n: usize| n == 0 || n == count;
    let whole = all.get_load_balance_hosts() == LoadBalanceHosts::Random;
    if count < 2 || whole || !fits(hosts.len()) || !fits(addresses.len()) || !(fits(ports.len()) || ports.len() == 1) {
        return vec![all];
    }
    let one = |i: usize| {
        let mut config = without_host(&all);
        match hosts.get(i) {
            Some(Host::Tcp(name)) => {
                config.host(name.as_str());
            }
            Some(Host::Unix(path)) => {
                config.host_path(path);
            }
            None => {}
        }
        if let Some(address) = addresses.get(i) {
            config.hostaddr(*address);
        }
        if let Some(port) = ports.get(i).or(ports.first()) {
            config.port(*port);
        }
        config
    };
    (0..count).map(one).collect()
}

fn without_host(all: &tokio_postgres::Config) -> tokio_postgres::Config {
    let mut c = tokio_postgres::Config::new();
    c.ssl_mode(all.get_ssl_mode())
        .ssl_negotiation(all.get_ssl_negotiation())
        .keepalives(all.get_keepalives())
        .keepalives_idle(all.get_keepalives_idle())
        .target_session_attrs(all.get_target_session_attrs())
        .channel_binding(all.get_channel_binding());
    if let Some(user) = all.get_user() {
        c.user(user);
    }
    if let Some(password) = all.get_password() {
        c.password(password);
    }
    if let Some(name) = all.get_dbname() {
        c.dbname(name);
    }
    if let Some(options) = all.get_options() {
        c.options(options);
    }
    if let Some(name) = all.get_application_name() {
        c.application_name(name);
    }
    if let Some(limit) = all.get_connect_timeout() {
        c.connect_timeout(*limit);
    }
    if let Some(limit) = all.get_tcp_user_timeout() {
        c.tcp_user_timeout(*limit);
    }
    if let Some(every) = all.get_keepalives_interval() {
        c.keepalives_interval(every);
    }
    if let Some(times) = all.get_keepalives_retries() {
        c.keepalives_retries(times);
    }
    c
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
    fn a_host_that_is_gone_is_noticed_and_what_the_url_says_of_it_counts() {
        let of = |query: &str| parsed(&wish(&format!("postgres://u@h/d{query}")).unwrap()).unwrap();
        let unsaid = of("");
        assert_eq!(unsaid.get_tcp_user_timeout(), Some(&UNHEARD));
        assert_eq!((unsaid.get_keepalives(), unsaid.get_keepalives_idle()), (true, IDLE));
        assert_eq!(unsaid.get_keepalives_interval(), Some(ASK_AGAIN));
        assert_eq!(unsaid.get_keepalives_retries(), Some(ASKED));
        let said = of("?tcp_user_timeout=7&keepalives_idle=8&keepalives_interval=9&keepalives_retries=10");
        assert_eq!(said.get_tcp_user_timeout(), Some(&Duration::from_secs(7)));
        assert_eq!(said.get_keepalives_idle(), Duration::from_secs(8));
        assert_eq!(said.get_keepalives_interval(), Some(Duration::from_secs(9)));
        assert_eq!(said.get_keepalives_retries(), Some(10));
        assert!(!of("?keepalives=0").get_keepalives());
    }

    #[test]
    fn each_host_of_a_url_is_one_that_differs_in_nothing_else() {
        let query = "application_name=x&options=-cgeqo%3Doff&connect_timeout=2&target_session_attrs=read-write";
        let of =
            |hosts: &str, query: &str| parsed(&wish(&format!("postgres://u:p@{hosts}/d?{query}")).unwrap()).unwrap();
        let split = each_host(of("a:1,%2Frun%2Fpg:2", query));
        // Both are asked for TLS as if the other were there too.
        let alone = [of("a:1", query), of("%2Frun%2Fpg:2", query)].map(|mut c| c.ssl_mode(SslMode::Prefer).clone());
        assert_eq!(split, alone);
        assert_eq!(each_host(of("a:1", query)).len(), 1);
        assert_eq!(each_host(of("a,b", "load_balance_hosts=random")).len(), 1);
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
