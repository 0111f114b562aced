//! Objects in a bucket, of AWS or anything that speaks S3.
//!
//! Invariant: one try per call here, without the SDK's own retries; `lib.rs` decides about trying again.
//! Asks of the server only plain S3 and, for races, `If-None-Match: *`. A server that ignores it (garage) still never
//! overwrites in practice, because every put looks first.

use crate::url::check_ttl;
use crate::{Entry, Error, Head, Key, Object, Put, Result};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Builder, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig, retry::RetryConfig,
};
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_smithy_http_client::tls;
use base64::Engine;
use bytes::Bytes;
use domain::{Digest, Span, Timestamp};
use futures_util::StreamExt;
use futures_util::stream;
use std::fmt;
use std::ops::Range;
use std::time::{Duration, UNIX_EPOCH};

/// A server that is gone must be found out quickly: three tries of this and half a second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Where the bucket is and who we are there.
#[derive(Clone)]
pub struct S3Config {
    /// `None`: AWS, by region.
    pub endpoint: Option<String>,
    pub region: String,
    pub access_key: String,
    pub secret_key: String,
    /// `http://host/bucket/key` instead of `http://bucket.host/key`; most servers that are not AWS want it.
    pub force_path_style: bool,
    pub bucket: String,
    /// Put before every key, without slashes at its ends; may be empty.
    pub prefix: String,
    /// Plain http to another machine shows every object to the network between. On loopback it needs no permission.
    pub allow_plain_http: bool,
}

/// A bucket.
#[derive(Clone)]
pub struct S3Store {
    client: Client,
    bucket: String,
    /// Empty, or ends with a slash.
    prefix: String,
}

impl S3Store {
    /// Makes the client; asks nothing of the server. Errors: `Invalid`.
    pub fn new(config: S3Config) -> Result<S3Store> {
        if config.bucket.is_empty() || config.access_key.is_empty() || config.secret_key.is_empty() {
            return Err(Error::Invalid("S3 needs a bucket, an access key and a secret key".into()));
        }
        if let Some(endpoint) = &config.endpoint {
            check_endpoint(endpoint, config.allow_plain_http)?;
        }
        let prefix = match config.prefix.trim_matches('/') {
            "" => String::new(),
            prefix => format!("{}/", Key::parse(prefix)?),
        };
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
            .build_https();
        let mut builder = Builder::new()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http)
            .region(Region::new(config.region))
            .credentials_provider(Credentials::new(config.access_key, config.secret_key, None, None, "settings"))
            .force_path_style(config.force_path_style)
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build())
            // `STALL_TIMEOUT` does this for both stores.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            // The SDK's newer checksums trip older servers, and put a signed header into presigned URLs that a plain
            // GET does not send. Puts carry a SHA-256 of their own, gets are checked against the bundle's hash.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        if let Some(endpoint) = config.endpoint {
            builder = builder.endpoint_url(endpoint);
        }
        Ok(S3Store { client: Client::from_conf(builder.build()), bucket: config.bucket, prefix })
    }

    fn name(&self, key: &Key) -> String {
        format!("{}{key}", self.prefix)
    }

    pub(crate) async fn put(&self, key: &Key, bytes: Bytes, digest: Digest) -> Result<Put> {
        if self.head(key).await?.is_some() {
            return Ok(Put::Existed);
        }
        let put = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(self.name(key))
            .if_none_match("*")
            .content_type("application/zstd")
            .checksum_sha256(base64::engine::general_purpose::STANDARD.encode(digest.0))
            .body(ByteStream::from(bytes))
            .send()
            .await;
        match put {
            Ok(_) => Ok(Put::Created),
            // 412: it is there. 409: another put (or a delete) of this key is under way; look who won.
            Err(e) if matches!(status(&e), Some(412 | 409)) => match self.head(key).await? {
                Some(_) => Ok(Put::Existed),
                None => Err(Error::unavailable("put", "another put of the same key failed")),
            },
            Err(e) => Err(fault("put", &e)),
        }
    }

    pub(crate) async fn head(&self, key: &Key) -> Result<Option<Head>> {
        match self.client.head_object().bucket(&self.bucket).key(self.name(key)).send().await {
            Ok(out) => Ok(Some(Head {
                size: size(out.content_length())?,
                etag: out.e_tag().unwrap_or_default().to_owned(),
                modified: time(out.last_modified()),
            })),
            Err(e) if status(&e) == Some(404) => Ok(None),
            Err(e) => Err(fault("head", &e)),
        }
    }

    pub(crate) async fn open(&self, key: &Key, range: Option<Range<u64>>) -> Result<Object> {
        let mut get = self.client.get_object().bucket(&self.bucket).key(self.name(key));
        if let Some(range) = &range {
            get = get.range(format!("bytes={}-{}", range.start, range.end - 1));
        }
        let out = match get.send().await {
            Ok(out) => out,
            Err(e) if status(&e) == Some(416) => {
                return Err(Error::Invalid(format!("range {range:?} is outside of {key}")));
            }
            Err(e) if status(&e) == Some(404) && e.code() != Some("NoSuchBucket") => {
                return Err(Error::NotFound);
            }
            Err(e) => return Err(fault("get", &e)),
        };
        let length = size(out.content_length())?;
        let total = match (&range, out.content_range().and_then(|r| r.rsplit_once('/'))) {
            (None, _) => length,
            (Some(_), Some((_, total))) => {
                total.parse().map_err(|_| Error::unavailable("get", "a Content-Range without a size"))?
            }
            // A server may answer 200 with everything; then the range is not ours to cut out.
            (Some(_), None) => {
                return Err(Error::unavailable("get", "the server ignored the range"));
            }
        };
        let range = range.unwrap_or(0..total);
        if range.end > total || length != range.end - range.start {
            return Err(Error::Invalid(format!("range {range:?} of an object of {total} bytes")));
        }
        let head =
            Head { size: total, etag: out.e_tag().unwrap_or_default().to_owned(), modified: time(out.last_modified()) };
        let body = stream::unfold(out.body, |mut body| async {
            let piece = body.next().await?;
            Some((piece.map_err(|e| Error::unavailable("read", DisplayErrorContext(&e))), body))
        });
        Ok(Object { head, range, body: body.boxed() })
    }

    pub(crate) async fn delete(&self, key: &Key) -> Result<()> {
        match self.client.delete_object().bucket(&self.bucket).key(self.name(key)).send().await {
            Ok(_) => Ok(()),
            Err(e) if status(&e) == Some(404) && e.code() != Some("NoSuchBucket") => Ok(()),
            Err(e) => Err(fault("delete", &e)),
        }
    }

    pub(crate) async fn list(&self, prefix: &str, after: Option<&Key>, max: usize) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut after = after.map(|key| self.name(key));
        loop {
            let page = self
                .client
                .list_objects_v2()
                .bucket(&self.bucket)
                .prefix(format!("{}{prefix}", self.prefix))
                .set_start_after(after)
                .max_keys((max - entries.len()) as i32)
                .send()
                .await
                .map_err(|e| fault("list", &e))?;
            entries.extend(page.contents().iter().filter_map(|object| self.entry(object)));
            // A page can be short of entries because of foreign names: only the server knows whether it was the last.
            after = page.contents().last().and_then(|object| object.key()).map(str::to_owned);
            if entries.len() >= max || page.is_truncated() != Some(true) || after.is_none() {
                return Ok(entries);
            }
        }
    }

    fn entry(&self, object: &aws_sdk_s3::types::Object) -> Option<Entry> {
        let key = Key::parse(object.key()?.strip_prefix(&self.prefix)?).ok()?;
        Some(Entry { key, size: size(object.size()).ok()?, modified: time(object.last_modified()) })
    }

    pub(crate) async fn ready(&self) -> Result<()> {
        match self.client.head_bucket().bucket(&self.bucket).send().await {
            Ok(_) => Ok(()),
            Err(e) => Err(fault("ready", &e)),
        }
    }

    pub(crate) async fn presign_get(&self, key: &Key, now: Timestamp, ttl: Span) -> Result<String> {
        check_ttl(ttl)?;
        // S3 counts whole seconds.
        let ttl = Duration::from_secs((ttl.0 as u64).div_ceil(1_000_000));
        let config = PresigningConfig::builder()
            .start_time(UNIX_EPOCH + Duration::from_micros(now.0.max(0) as u64))
            .expires_in(ttl)
            .build()
            .map_err(|e| Error::Invalid(e.to_string()))?;
        let get = self.client.get_object().bucket(&self.bucket).key(self.name(key));
        let url = get.presigned(config).await.map_err(|e| fault("presign", &e))?;
        Ok(url.uri().to_owned())
    }
}

/// Errors: `Invalid` unless https, or http to this machine, or http by permission.
fn check_endpoint(endpoint: &str, allow_plain_http: bool) -> Result<()> {
    if endpoint.starts_with("https://") {
        return Ok(());
    }
    let Some(rest) = endpoint.strip_prefix("http://") else {
        return Err(Error::Invalid("the S3 endpoint must begin with https:// or http://".into()));
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // Like `http://localhost@elsewhere`: what stands before the @ is not the host.
    if authority.contains('@') {
        return Err(Error::Invalid("the S3 endpoint must not have a user name".into()));
    }
    let host = match authority.strip_prefix('[').and_then(|a| a.split_once(']')) {
        Some((v6, _)) => v6,
        None => authority.split(':').next().unwrap_or_default(),
    };
    let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if loopback || allow_plain_http {
        return Ok(());
    }
    Err(Error::Invalid(format!("the S3 endpoint {host} is plain http and not on this machine")))
}

fn status<E>(e: &SdkError<E>) -> Option<u16> {
    e.raw_response().map(|r| r.status().as_u16())
}

fn fault<E>(op: &str, e: &SdkError<E>) -> Error
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    match (status(e), e.code()) {
        (Some(status), code) => Error::unavailable(op, format_args!("{status} {}", code.unwrap_or("without a code"))),
        (None, _) => Error::unavailable(op, DisplayErrorContext(e)),
    }
}

fn size(length: Option<i64>) -> Result<u64> {
    length.and_then(|n| u64::try_from(n).ok()).ok_or_else(|| Error::unavailable("read", "no length in the answer"))
}

fn time(at: Option<&DateTime>) -> Timestamp {
    Timestamp(at.map_or(0, |t| (t.as_nanos() / 1_000) as i64))
}

impl fmt::Debug for S3Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Config")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}
impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Store").field("bucket", &self.bucket).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn plain_http_needs_loopback_or_permission() {
        let check = |endpoint: &str, allowed: bool, ok: bool| {
            assert_eq!(check_endpoint(endpoint, allowed).is_ok(), ok, "{endpoint} {allowed}");
        };
        check("https://s3.example.com", false, true);
        check("http://127.0.0.1:9000", false, true);
        check("http://[::1]:9000/x", false, true);
        check("http://localhost", false, true);
        check("http://minio:9000", false, false);
        check("http://minio:9000", true, true);
        check("http://localhost.evil.example", false, false);
        check("http://localhost@evil.example", true, false);
        check("ftp://localhost", true, false);
    }

    #[test]
    fn keys_do_not_show_in_debug_output() {
        let config = S3Config {
            endpoint: None,
            region: "us-east-1".into(),
            access_key: "AKIDX".into(),
            secret_key: "SECRETX".into(),
            force_path_style: false,
            bucket: "b".into(),
            prefix: "/p/".into(),
            allow_plain_http: false,
        };
        let shown = format!("{config:?} {:?}", S3Store::new(config.clone()).unwrap());
        assert!(!shown.contains("AKIDX") && !shown.contains("SECRETX"));
    }
}
